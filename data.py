"""Problems with a difficulty level from 1 to 5: the built-in world and .jsonl files (MATH, MATH500, GSM8K).

All other files see `Problem` records only, so the built-in world and MATH (Sec. 4-5 of the paper) run through the same
code. What a file may hold is in plumbing/problem_files.py.

The built-in world: products modulo a prime
    Compute 11 * 27 * 34 * 6 modulo 43.          solution:   6
                                                             * 27 = 33
                                                             * 11 = 19 ...
A solution has one multiplication per line, in any order. The base model learns from a textbook of such solutions. If
the textbook were right, the model's most likely answer would be right, too, and voting could add nothing. MATH is not
like that. A model of 8B parameters answers most of its problems nearly always or hardly ever, some get worse by voting
because the popular answer is wrong, and a hopeless problem costs a whole vote of eight trials. Here the modulus is one
of six, and the textbook has *misprints*, more for some moduli than for others:
    modulo  kind       steps misprinted   printed instead                  so that a single trial, and a vote
    47      easy       none                                                is right            is right
    43      medium     12 %               twice, three or five times it    is right in 6 of 10 is right in 8 of 10
    41      hard       22 %               often twice, else three or five  is right in 4 of 10 is right in 5 of 10
    37      trap       36 %               mostly twice it, else three times is right in 1 of 8 is worse
    29      misread    all                mostly twice the product         is wrong, mostly in the same way
    61      hopeless   all                any number                       is wrong, each time differently
A step is misprinted where the result so far is one of the *weak* numbers of the modulus and the next factor is one of
its *awkward* ones. The steps after it are right, so that all routes with one doubled product end at the same wrong
answer, twice the right one: that is how wrong answers coincide. Another order of the factors meets other results, hence
other misprints or none. A wrong trial can therefore be recognised: a weak number met an awkward factor in it
(experiments/probe.py measures how well a model can tell). The right product is never printed there (of *hopeless*: only
by chance); otherwise training on right answers would teach it, and voting would no longer be what is learned. For the
same reason no kind always prints the same multiple, and where only some steps are misprinted, not all products of a
weak number are. Of two multiples, nucleus sampling offers the model these two and nothing else; of one, it would try
other numbers as well, and hit on the right product. Levels differ in length, three to seven factors, and in how common
each kind is. The modulus stands at the end of the question, and whoever computes has to read it; so a model can tell
the kinds apart. Solutions that serve as golden ones come from an answer key without misprints.

    python data.py                               # a few problems of each level and how many there are
    python data.py path/to/math500.jsonl         # what a file holds: problems per level
"""

import argparse
import hashlib
import math
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from reprlib import repr as short
from typing import TYPE_CHECKING

from plumbing.problem_files import LEVELS, DataError, Problem, line_of, read_jsonl

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BUILTIN = "builtin"  # the name of the built-in world, where others have the path of a file
SPLITS = ("train", "validation", "test")


# ---------------------------------------------------------------------------------------------------------------------
# The built-in world


@dataclass(frozen=True)
class Kind:
    """One modulus: how many steps are misprinted, how, and how common it is."""

    modulus: int  # a prime
    misprinted: float  # the share of steps that the textbook misprints
    multiples: dict[int, float]  # what is printed instead: so many times the product, so often. {}: any number
    shares: tuple[int, ...]  # of the problems of levels 1 to 5, in percent


KINDS = {
    "easy": Kind(47, 0.0, {}, (70, 50, 35, 20, 10)),
    "medium": Kind(43, 0.12, {2: 0.3, 3: 0.35, 5: 0.35}, (20, 15, 14, 12, 10)),
    "hard": Kind(41, 0.22, {2: 0.5, 3: 0.25, 5: 0.25}, (10, 10, 10, 11, 11)),
    "trap": Kind(37, 0.36, {2: 0.8, 3: 0.2}, (0, 8, 12, 15, 15)),
    "misread": Kind(29, 1.0, {2: 0.9, 3: 0.1}, (0, 7, 13, 18, 20)),
    "hopeless": Kind(61, 1.0, {}, (0, 10, 16, 24, 34)),
}
KIND_OF = {kind.modulus: name for name, kind in KINDS.items()}  # modulus -> name
AWKWARD = 0.6  # the share of awkward numbers of a modulus
FACTORS = {1: 3, 2: 4, 3: 5, 4: 6, 5: 7}  # level -> how many factors, all distinct

Product = tuple[list[int], int]  # factors and modulus


class Textbook:
    """What the base model learns from. Its seed draws the weak and the awkward numbers."""

    repeats = 0.3  # chapter two: the share of pages that repeat the times tables
    single = 0.6  # of its other pages: the share with one solution; the rest vote
    counting = 0.5  # chapter three: the share of pages that are exercises in counting

    def __init__(self, seed: int = 0):
        self.weak, self.awkward = {}, {}  # modulus -> numbers
        for name, kind in KINDS.items():
            numbers, rng = range(1, kind.modulus), random.Random(f"{seed} {name}")
            share = AWKWARD if kind.misprinted < 1 else 1.0  # of awkward numbers
            self.weak[kind.modulus] = frozenset(rng.sample(numbers, round(kind.misprinted / share * len(numbers))))
            self.awkward[kind.modulus] = frozenset(rng.sample(numbers, round(share * len(numbers))))

    def prints(self, a: int, b: int, modulus: int, rng: random.Random) -> int:
        """The product of a and b modulo `modulus` as it is printed this time."""
        product = a * b % modulus
        if a not in self.weak[modulus] or b not in self.awkward[modulus]:
            return product
        multiples = KINDS[KIND_OF[modulus]].multiples
        if not multiples:
            return rng.randrange(1, modulus)
        multiple, = rng.choices(list(multiples), multiples.values())
        return multiple * product % modulus

    def table_entry(self, progress: float, rng: random.Random) -> Product:
        """Two factors for the times table, which is read from small numbers (progress 0) to large ones (1)."""
        modulus = rng.choice([kind.modulus for name, kind in KINDS.items() if name != "hopeless"])  # nothing to learn
        limit = min(modulus - 1, 4 + round(1.2 * modulus * progress))
        return [rng.randint(1, limit), rng.randint(1, limit)], modulus

    def route(self, product: Product, rng: random.Random) -> tuple[str, int]:
        """A solution as this textbook prints it, and the answer it arrives at."""
        return solve(product, rng, self)


def solve(product: Product, rng: random.Random, textbook: Textbook = None) -> tuple[str, int]:
    """One solution, and the answer it arrives at: a random order, one step per line.

    With the misprints of a textbook, or, without one, right, as in the answer key.
    """
    factors, modulus = product
    result, *others = rng.sample(factors, len(factors))
    lines = [str(result)]
    for factor in others:
        result = textbook.prints(result, factor, modulus, rng) if textbook else result * factor % modulus
        lines.append(f"* {factor} = {result}")
    lines.append(f"\\boxed{{{result}}}")
    return "\n".join(lines), result


def split_of(product: Product) -> str:
    """The split of a problem. It depends on the set of factors, not on their order."""
    factors, modulus = product
    return split_of_key(f"{sorted(factors)} {modulus}")


def split_of_key(key: str) -> str:
    """train (80 %), validation or test (10 % each), as a hash of the key decides."""
    first_byte = hashlib.sha256(key.encode()).digest()[0]
    if first_byte < 205:
        return "train"
    return "validation" if first_byte < 230 else "test"


def draw_modulus(level: int, rng: random.Random) -> int:
    """The modulus of a random problem of this level."""
    kind, = rng.choices(list(KINDS.values()), [kind.shares[level - 1] for kind in KINDS.values()])
    return kind.modulus


def draw(split: str, level: int, rng: random.Random, modulus: int = None) -> Product:
    """A random problem of this level and split, its factors in random order. modulus: None: any that the level has."""
    modulus = modulus or draw_modulus(level, rng)
    while True:
        product = rng.sample(range(2, modulus), FACTORS[level]), modulus
        if split_of(product) == split:
            return product


def question_of(product: Product) -> str:
    """The problem in words."""
    factors, modulus = product
    return f"Compute {' * '.join(map(str, factors))} modulo {modulus}."


WHAT_TO_ASK = ('"Compute a * b * ... modulo p." with different factors from 2 to p - 1: three to seven of them if p is '
               "47, 43 or 41, four to seven if it is 37, 29 or 61")


def read_question(question: str) -> Product | None:
    """The factors and the modulus of a question like those of the built-in world; None if it is none."""
    found = re.fullmatch(r"Compute (\d{1,9}(?: \* \d{1,9})*) modulo (\d{1,9})\.", question)
    if not found or int(found[2]) not in KIND_OF:
        return None
    return [int(factor) for factor in found[1].split(" * ")], int(found[2])


def kind_of(question: str) -> str:
    """The name of a question's kind. ValueError: it is none of this world."""
    product = read_question(question)
    if product is None:
        raise ValueError(f"{question!r} is not a problem of this world")
    return KIND_OF[product[1]]


def level_of(product: Product) -> int | None:
    """The level of a problem; None if the world has none like it: with these factors, or with so many for its kind."""
    factors, modulus = product
    if len(set(factors)) < len(factors) or not all(2 <= factor < modulus for factor in factors):
        return None
    level = next((level for level, count in FACTORS.items() if count == len(factors)), None)
    return level if level and KINDS[KIND_OF[modulus]].shares[level - 1] else None


def kind_indices(questions: list[str]) -> list[int]:
    """The kind of each question as its index in KINDS. ValueError as in kind_of."""
    return [list(KINDS).index(kind_of(question)) for question in questions]


def generate(split: str, seed: int = 0) -> Iterator[Problem]:
    """An endless stream of different problems, the levels in turn, each with a right solution from the answer key.

    DataError: a level of this split is used up.
    """
    rng, seen = random.Random(f"{split} {seed}"), set()
    while True:
        for level in LEVELS:
            modulus = draw_modulus(level, rng)  # before what is used up: no kind becomes rarer for that
            for _ in range(1000):
                factors, _ = product = draw(split, level, rng, modulus)
                if (frozenset(factors), modulus) not in seen:
                    break
            else:
                raise DataError(f"the {split} split has no more different problems of level {level}; ask for fewer")
            seen.add((frozenset(factors), modulus))
            solution, answer = solve(product, rng)
            yield Problem(question_of(product), str(answer), level, solution)


def count_problems(level: int) -> int:
    """How many different problems a level has, up to the order of the factors."""
    return sum(math.comb(kind.modulus - 2, FACTORS[level]) for kind in KINDS.values() if kind.shares[level - 1])


def world_pieces() -> list[str]:
    """The pieces of text that problems and solutions consist of. Each becomes one token; so does each number."""
    numbers = [str(i) for i in range(max(KIND_OF))]
    return [*numbers, "Compute ", " * ", *[f" modulo {modulus}." for modulus in KIND_OF], "\n* ", " = ", "\n\\boxed{",
            "}"]


CHAT_TEMPLATE = ("{{ bos_token }}{% for message in messages %}"
                 "{% if message['role'] == 'user' %}<|problem|>{% endif %}{{ message['content'] }}"
                 "{% endfor %}{% if add_generation_prompt %}<|answer|>{% endif %}")


def build_tokenizer(pieces: list[str]) -> "PreTrainedTokenizerFast":
    """A Hugging Face tokenizer whose tokens are these pieces of text, with a chat template.

    The template puts one message after the other. An instruction that is itself a piece is one token.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    special = ["<|begin|>", "<|end|>", "<|pad|>", "<|unknown|>", "<|problem|>", "<|answer|>"]
    vocabulary = {piece: i for i, piece in enumerate(special + pieces)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unknown|>"))
    longest_first = sorted(set(pieces), key=lambda piece: (-len(piece), piece))
    # \d+ first: "612" is one unknown number, not a 61 and a 2
    pattern = "|".join([r"\d+"] + [re.escape(piece) for piece in longest_first if not piece.isdigit()])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=special[0], eos_token=special[1], pad_token=special[2],
        unk_token=special[3], clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE)


# ---------------------------------------------------------------------------------------------------------------------
# Loading


def place_of(problem: Problem, source: str | Path) -> str:
    """Where a problem that load(source, ...) returned comes from, for messages: "FILE, line N"."""
    line = None if source == BUILTIN else line_of(problem, source)
    return f"{source}, {short(problem.question)}" if line is None else f"{source}, line {line}"


def load(source: str | Path, split: str, count: int | None = None, seed: int = 0) -> list[Problem]:
    """`count` problems of a split: from the built-in world ("builtin"), or from a .jsonl file.

    A file is one split (train and validation files are named separately); its problems are shuffled by `seed`, so
    that a smaller count is a random sample. count None: the whole file.
    """
    if split not in SPLITS:
        raise DataError(f"split is {split!r}; expected one of {', '.join(SPLITS)}")
    if source == BUILTIN:
        if count is None:
            raise DataError("the built-in world is endless: say how many problems")
        return list(islice(generate(split, seed), count))
    problems = read_jsonl(source)
    random.Random(seed).shuffle(problems)
    return problems[:count]


def main() -> None:
    parser = argparse.ArgumentParser(description="Show problems of the built-in world, or what a .jsonl file holds.")
    parser.add_argument("file", nargs="?", default=BUILTIN, help="a .jsonl file (default: the built-in world)")
    parser.add_argument("--show", type=int, default=2, metavar="N", help="problems to show per level (default 2)")
    args = parser.parse_args()
    if args.show < 0:
        sys.exit("error: --show must be 0 or more")
    builtin = args.file == BUILTIN
    try:
        problems = load(args.file, "train", count=len(LEVELS) * args.show if builtin else None)
    except DataError as error:
        sys.exit(f"error: {error}")
    count = Counter(problem.level for problem in problems)
    for level in LEVELS:
        print(f"level {level}: {count_problems(level) if builtin else count[level]:,} problems")
        shown = [problem for problem in problems if problem.level == level][: args.show]
        for problem in shown:
            print(f"    {problem.question}\n    answer {problem.answer}")


if __name__ == "__main__":
    main()
