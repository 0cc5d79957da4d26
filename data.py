"""Problems with a difficulty level from 1 to 5: the built-in world and .jsonl files (MATH, MATH500, GSM8K).

All other files see `Problem` records only, so the built-in world and MATH (Sec. 4-5 of the paper) run through the same
code. What a file may hold is in plumbing/problem_files.py.

The built-in world: products modulo 61
    Compute 11 * 27 * 34 * 6 * 28 modulo 61.     solution:   6
                                                             * 27 = 40
                                                             * 11 = 13 ...
A solution has one multiplication per line, in any order. The base model learns from a textbook of such solutions. If
the textbook were right, the model's most likely answer would be right, too, and voting could add nothing. A real LLaMA
is not like that: it is wrong more often on harder problems, and different routes to the answer go wrong differently.
The textbook therefore has *holes*. A fixed fifth of the products of two large numbers (31 to 60) is misprinted, each
time as one of three wrong numbers that belong to this product. A route that meets a hole ends at a wrong answer of its
own; another order of the same factors meets other products, and may be right. Level 1 has no large factors and so no
holes; higher levels have more of both. Voting pays where routes go wrong differently. Solutions that serve as golden
ones come from an answer key without misprints.

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
from itertools import islice
from pathlib import Path
from reprlib import repr as short
from typing import TYPE_CHECKING

from experiments import kinds
from plumbing.problem_files import LEVELS, DataError, Problem, line_of, read_jsonl

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

WORLDS = ("builtin", "kinds")  # problems of our own; the second is experiments/kinds.py
SPLITS = ("train", "validation", "test")


# ---------------------------------------------------------------------------------------------------------------------
# The built-in world

MODULUS = 61  # a prime: no product of factors is ever 0, so no mistake is forgiven by a later step
LARGE = 31  # factors 2..30 are small, 31..60 are large
HOLES = 0.19  # the share of products of two large numbers that the textbook misprints
MISPRINTS = 3  # how many wrong products each hole has: fixed, so that they are learned as firmly as right ones
MIX = {1: (4, 0), 2: (4, 1), 3: (3, 3), 4: (2, 5), 5: (0, 8)}  # level -> how many (small, large) factors, all distinct


def _make_holes(rng: random.Random) -> dict[tuple[int, int], list[int]]:
    """The misprinted products: (smaller factor, larger factor) -> their wrong values."""
    pairs = [(a, b) for a in range(LARGE, MODULUS) for b in range(a, MODULUS)]
    holes = {}
    for a, b in rng.sample(pairs, round(HOLES * len(pairs))):
        wrong = [value for value in range(1, MODULUS) if value != a * b % MODULUS]
        holes[a, b] = rng.sample(wrong, MISPRINTS)
    return holes


_holes = _make_holes(random.Random(61))


def is_hole(a: int, b: int) -> bool:
    """Whether the textbook misprints the product a * b."""
    return (min(a, b), max(a, b)) in _holes


def split_of(factors: list[int]) -> str:
    """train (80 %), validation or test (10 % each). It depends on the set of factors, not on their order."""
    first_byte = hashlib.sha256(repr(sorted(factors)).encode()).digest()[0]
    if first_byte < 205:
        return "train"
    return "validation" if first_byte < 230 else "test"


def textbook_route(factors: list[int], rng: random.Random, misprints: bool = True) -> tuple[str, int]:
    """One solution as the textbook prints it, and the answer it arrives at: a random order, one step per line.

    misprints=False: as in the answer key.
    """
    first, *others = rng.sample(factors, len(factors))
    result = first
    lines = [str(result)]
    for factor in others:
        product = result * factor % MODULUS
        if misprints and is_hole(result, factor):
            product = rng.choice(_holes[min(result, factor), max(result, factor)])  # and maybe another next time
        result = product
        lines.append(f"* {factor} = {result}")
    lines.append(f"\\boxed{{{result}}}")
    return "\n".join(lines), result


def draw_factors(split: str, level: int, rng: random.Random) -> list[int]:
    """The factors of a random problem of this level and split, in random order."""
    small, large = MIX[level]
    while True:
        factors = rng.sample(range(2, LARGE), small) + rng.sample(range(LARGE, MODULUS), large)
        if split_of(factors) == split:
            return rng.sample(factors, len(factors))


def question_of(factors: list[int]) -> str:
    """The problem in words."""
    return f"Compute {' * '.join(map(str, factors))} modulo {MODULUS}."


WHAT_TO_ASK = f'Compute a * b * ... modulo {MODULUS}. with four to eight different factors from 2 to {MODULUS - 1}'


def factors_of(question: str) -> list[int] | None:
    """The factors of a question of the built-in world; None if it is none."""
    found = re.fullmatch(rf"Compute (\d+(?: \* \d+)*) modulo {MODULUS}\.", question)
    return [int(factor) for factor in found[1].split(" * ")] if found else None


def level_of(factors: list[int]) -> int | None:
    """The level of a problem with these factors; None if no level has so many small and large ones."""
    large = sum(factor >= LARGE for factor in factors)
    mix = len(factors) - large, large
    return next((level for level, of in MIX.items() if of == mix), None)


def generate(split: str, seed: int = 0, levels: tuple[int, ...] = LEVELS) -> Iterator[Problem]:
    """An endless stream of different problems, the levels in turn, each with a right solution from the answer key.

    DataError: a level of this split is used up.
    """
    rng = random.Random(f"{split} {seed}")
    seen = set()
    while True:
        for level in levels:
            for _ in range(1000):
                factors = draw_factors(split, level, rng)
                if frozenset(factors) not in seen:
                    break
            else:
                raise DataError(f"the {split} split has no more different problems of level {level}; ask for fewer")
            seen.add(frozenset(factors))
            text, answer = textbook_route(factors, rng, misprints=False)
            yield Problem(question_of(factors), str(answer), level, text)


def count_problems(level: int) -> int:
    """How many different problems a level has, up to the order of the factors."""
    small, large = MIX[level]
    return math.comb(LARGE - 2, small) * math.comb(MODULUS - LARGE, large)


class Textbook:
    """What the base model of the built-in world learns from (kinds.Textbook: that of the other world)."""

    repeats, single = 0.0, 0.3  # of the pages of chapter two: products again; of the others: one route alone
    counting = 0.7  # of the pages of chapter three: exercises in counting

    def table_entry(self, progress: float, rng: random.Random) -> list[int]:
        """Two factors for the times table, which is read from small numbers (progress 0) to large ones (1)."""
        limit = min(MODULUS - 1, 4 + round(1.2 * MODULUS * progress))
        return [rng.randint(1, limit), rng.randint(1, limit)]

    def problem(self, level: int, rng: random.Random) -> list[int]:
        """The factors of a random training problem of a level."""
        return draw_factors("train", level, rng)

    def route(self, factors: list[int], rng: random.Random) -> tuple[str, int]:
        """A solution as the textbook prints it, and the answer it arrives at."""
        return textbook_route(factors, rng)

    def modulus_of(self, factors: list[int]) -> int:
        return MODULUS

    def question_of(self, factors: list[int]) -> str:
        return question_of(factors)

    def pieces(self) -> list[str]:
        return world_pieces()


def world_pieces() -> list[str]:
    """The pieces of text that problems and solutions consist of. Each becomes one token; so does each number."""
    numbers = [str(i) for i in range(MODULUS)]
    return numbers + ["Compute ", " * ", f" modulo {MODULUS}.", "\n* ", " = ", "\n\\boxed{", "}"]


def build_tokenizer(pieces: list[str]) -> "PreTrainedTokenizerFast":
    """A Hugging Face tokenizer whose tokens are these pieces of text, with a chat template.

    The template puts one message after the other. An instruction that is itself a piece is one token.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    special = ["<|begin|>", "<|end|>", "<|pad|>", "<|unknown|>", "<|problem|>", "<|answer|>"]
    vocabulary = {piece: i for i, piece in enumerate(special + pieces)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unknown|>"))
    longest_first = sorted(set(pieces), key=len, reverse=True)
    # \d+ first: "612" is one unknown number, not a 61 and a 2
    pattern = "|".join([r"\d+"] + [re.escape(piece) for piece in longest_first if not piece.isdigit()])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=special[0], eos_token=special[1], pad_token=special[2],
        unk_token=special[3], clean_up_tokenization_spaces=False,
        chat_template="{{ bos_token }}{% for message in messages %}"
                      "{% if message['role'] == 'user' %}<|problem|>{% endif %}{{ message['content'] }}"
                      "{% endfor %}{% if add_generation_prompt %}<|answer|>{% endif %}")


# ---------------------------------------------------------------------------------------------------------------------
# Loading


def place_of(problem: Problem, source: str | Path) -> str:
    """Where a problem that load(source, ...) returned comes from, for messages: "FILE, line N"."""
    line = None if source in WORLDS else line_of(problem, source)
    return f"{source}, {short(problem.question)}" if line is None else f"{source}, line {line}"


def load(source: str | Path, split: str, count: int | None = None, seed: int = 0) -> list[Problem]:
    """`count` problems of a split: from the built-in world ("builtin"), or from a .jsonl file.

    A file is one split (train and validation files are named separately); its problems are shuffled by `seed`, so
    that a smaller count is a random sample. count None: the whole file.
    """
    if split not in SPLITS:
        raise DataError(f"split is {split!r}; expected one of {', '.join(SPLITS)}")
    if source in WORLDS:
        if count is None:
            raise DataError("a built-in world is endless: say how many problems")
        if source == "builtin":
            return list(islice(generate(split, seed), count))
        try:
            return [Problem(*row) for row in islice(kinds.generate(split, seed), count)]
        except ValueError as error:
            raise DataError(str(error)) from None
    problems = read_jsonl(source)
    random.Random(seed).shuffle(problems)
    return problems[:count]


def main() -> None:
    parser = argparse.ArgumentParser(description="Show problems of the built-in world, or what a .jsonl file holds.")
    parser.add_argument("file", nargs="?", default="builtin", help="builtin (the default), kinds, or a .jsonl file")
    parser.add_argument("--show", type=int, default=2, metavar="N", help="problems to show per level (default 2)")
    args = parser.parse_args()
    if args.show < 0:
        sys.exit("error: --show must be 0 or more")
    builtin = args.file in WORLDS
    try:
        problems = load(args.file, "train", count=len(LEVELS) * args.show if builtin else None)
    except DataError as error:
        sys.exit(f"error: {error}")
    count = Counter(problem.level for problem in problems)
    counts = {"builtin": count_problems, "kinds": kinds.count_problems}
    for level in LEVELS:
        total = counts.get(args.file, count.__getitem__)(level)
        print(f"level {level}: {total:,} problems")
        shown = [problem for problem in problems if problem.level == level][: args.show]
        for problem in shown:
            print(f"    {problem.question}\n    answer {problem.answer}")


if __name__ == "__main__":
    main()
