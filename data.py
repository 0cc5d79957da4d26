"""Problems with a difficulty level 1-5: the built-in world and .jsonl files (MATH, MATH500, GSM8K).

Everything downstream sees `Problem` records only, so the built-in world and MATH run through the same code.

The built-in world: products on a clock of 61 hours
    Compute 11 * 27 * 34 * 6 * 28 modulo 61.     solution:   6
                                                             * 27 = 40
                                                             * 11 = 13 ...
One multiplication per line, in any order. A language model that has read a textbook of such solutions could be right
every time, and voting would be pointless: its most likely answer would simply be the right one. A real LLaMA is not
like that: harder problems go wrong more often, and different routes to the answer go wrong differently. The textbook
therefore has *holes*: a fixed fifth of the products of two large numbers (31 to 60) is misprinted, each time as one
of three wrong numbers of its own. A route that meets a hole goes astray in its own way; another order of the same
factors meets other products and may get through. Level 1 has no large factors and no hole to fall into; the harder
the level, the more of both. That is the whole difficulty, and the reason why voting pays where it pays. The answer
key, where golden solutions come from, has no misprints.

    python data.py                               # a few problems of each level and how many there are
    python data.py path/to/math500.jsonl         # what a file holds: problems per level
"""

import argparse
import hashlib
import json
import math
import random
import sys
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from pathlib import Path

import grade

LEVELS = (1, 2, 3, 4, 5)
SPLITS = ("train", "validation", "test")


class DataError(ValueError):
    """A problem file that cannot be used; the message is one line that names the file and line."""


@dataclass(frozen=True)
class Problem:
    question: str
    answer: str  # what goes into \boxed{}
    level: int  # 1 (easy) to 5 (hard)
    solution: str = None  # a right worked solution ending in \boxed{answer}; built-in world only


# ---------------------------------------------------------------------------------------------------------------------
# The built-in world

MODULUS = 61  # a prime: no product of factors is ever 0, so no mistake is forgiven by a later step
LARGE = 31  # factors 2..30 are small, 31..60 are large
HOLES = 0.19  # the share of products of two large numbers that the textbook misprints
MISPRINTS = 3  # how many wrong products each hole has: fixed, so that they are learned as firmly as right ones
MIX = {1: (4, 0), 2: (4, 1), 3: (3, 3), 4: (2, 5), 5: (0, 8)}  # level -> how many (small, large) factors, all distinct


def _make_holes(rng: random.Random) -> dict[tuple[int, int], list[int]]:
    """The misprinted products, (smaller factor, larger factor) -> their wrong values."""
    pairs = [(a, b) for a in range(LARGE, MODULUS) for b in range(a, MODULUS)]
    return {(a, b): rng.sample([value for value in range(1, MODULUS) if value != a * b % MODULUS], MISPRINTS)
            for a, b in rng.sample(pairs, round(HOLES * len(pairs)))}


_holes = _make_holes(random.Random(61))


def is_hole(a: int, b: int) -> bool:
    """Whether the textbook misprints the product a * b."""
    return (min(a, b), max(a, b)) in _holes


def split_of(factors: list[int]) -> str:
    """train (80 %), validation or test (10 % each): a property of the *set* of factors, whatever their order."""
    digest = hashlib.sha256(repr(sorted(factors)).encode()).digest()
    return "train" if digest[0] < 205 else "validation" if digest[0] < 230 else "test"


def textbook_route(factors: list[int], rng: random.Random, misprints: bool = True) -> tuple[str, int]:
    """One solution as the textbook prints it: a random order of the factors, one step per line.

    misprints=False: as in the answer key. Returns the text and the answer it arrives at.
    """
    order = rng.sample(factors, len(factors))
    result = order[0]
    lines = [str(result)]
    for factor in order[1:]:
        product = result * factor % MODULUS
        if misprints and is_hole(result, factor):
            product = rng.choice(_holes[min(result, factor), max(result, factor)])  # and maybe another next time
        result = product
        lines.append(f"* {factor} = {result}")
    return "\n".join(lines) + f"\n\\boxed{{{result}}}", result


def draw_factors(split: str, level: int, rng: random.Random) -> list[int]:
    """The factors of a random problem of this level and split, in random order."""
    small, large = MIX[level]
    while True:
        factors = rng.sample(range(2, LARGE), small) + rng.sample(range(LARGE, MODULUS), large)
        if split_of(factors) == split:
            return rng.sample(factors, len(factors))


def question_of(factors: list[int]) -> str:
    return f"Compute {' * '.join(map(str, factors))} modulo {MODULUS}."


def generate(split: str, seed: int = 0, levels: tuple = LEVELS):
    """An endless stream of different problems, the levels in turn, each with a right solution from the answer key."""
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


def world_pieces() -> list[str]:
    """Every piece of text the built-in world is written with: each becomes one token, so that a number is one token."""
    numbers = [str(i) for i in range(MODULUS)]
    return numbers + ["Compute ", " * ", f" modulo {MODULUS}.", "\n* ", " = ", "\n\\boxed{", "}"]


def build_tokenizer(pieces: list[str]):
    """A Hugging Face tokenizer whose tokens are exactly these pieces of text, with a chat template.

    The template puts one message after the other. An instruction that is itself a piece is one token.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    import re

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
# Files


def _record(row: dict) -> Problem | None:
    """One line of MATH / MATH500 ("problem", "answer", "level") or GSM8K ("question", "answer", "n_steps").

    None: its answer is null or empty, or its level 0 or "Level ?". The published MATH has a few of these.
    """
    if not isinstance(row, dict):
        raise ValueError("expected a JSON object")
    question, answer = row.get("problem", row.get("question")), row.get("answer", False)
    if type(question) is not str or not question.strip() or type(answer) not in (str, int, Decimal, type(None)):
        raise ValueError('needs "problem" (or "question") and "answer"')
    answer = "" if answer is None else answer if type(answer) is str else f"{Decimal(answer):f}"  # 1e-05 has an e
    (question + answer).encode()  # half a surrogate pair, which no tokenizer takes, is a ValueError
    level, steps = row.get("level"), row.get("n_steps")
    if "####" in answer:  # GSM8K as published: the worked solution, then #### and the answer
        working, _, answer = answer.rpartition("####")
        steps = working.count("<<") if steps is None else steps
    elif "question" in row and steps is None and isinstance(row.get("solution"), str):
        steps = row["solution"].count("<<")
    if level is None and isinstance(steps, int):  # GSM8K: the number of calculation steps, capped at 5
        level = min(max(steps, 1), 5)
    known = str(level).removeprefix("Level ").strip()  # "Level 3", as MATH was published
    if not answer.strip() or known in ("0", "?"):
        return None
    if known not in map(str, LEVELS):
        raise ValueError(f'level is {level!r}; expected 1 to 5 ("level", or "n_steps" for GSM8K)')
    return Problem(question, answer.strip(), int(known))


def read_jsonl(path) -> list[Problem]:
    """All usable problems of a .jsonl file. Raises DataError, in one line, that names the file, line and field."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")  # splitlines() would cut at U+2028 as well
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    problems = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                problems.append(_record(json.loads(line, parse_float=Decimal)))
            except json.JSONDecodeError:
                raise DataError(f"{path}, line {number}: is not JSON") from None
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}, line {number}: {error}") from None
    usable = [problem for problem in problems if problem is not None]
    if not usable:
        raise DataError(f"{path}: holds no problems")
    if len(usable) < len(problems):
        print(f"note: {path}: left out {len(problems) - len(usable)} of {len(problems)} problems, "
              "which have no answer or no level", file=sys.stderr)
    unread = sum(not grade.parses(problem.answer) for problem in usable)
    if unread:
        print(f"note: {path}: {unread} of {len(usable)} answers are no formula to grade.py, and are compared as text",
              file=sys.stderr)
    return usable


def load(source: str, split: str, count: int = None, seed: int = 0) -> list[Problem]:
    """`count` problems of a split: from the built-in world ("builtin"), or from a .jsonl file.

    A file is one split (train and validation files are named separately); its problems are shuffled by `seed`, so
    that a smaller count is a random sample. count None: the whole file.
    """
    if split not in SPLITS:
        raise DataError(f"split is {split!r}; expected one of {', '.join(SPLITS)}")
    if source == "builtin":
        if count is None:
            raise DataError("the built-in world is endless: say how many problems")
        return list(islice(generate(split, seed), count))
    problems = read_jsonl(source)
    random.Random(seed).shuffle(problems)
    return problems[:count]


def main() -> None:
    parser = argparse.ArgumentParser(description="Show problems of the built-in world, or what a .jsonl file holds.")
    parser.add_argument("file", nargs="?", default="builtin", help="a .jsonl file (default: the built-in world)")
    parser.add_argument("--show", type=int, default=2, metavar="N", help="problems to show per level (default 2)")
    args = parser.parse_args()
    try:
        problems = load(args.file, "train", count=200 if args.file == "builtin" else None)
    except DataError as error:
        sys.exit(f"error: {error}")
    count = Counter(problem.level for problem in problems)
    for level in LEVELS:
        total = count_problems(level) if args.file == "builtin" else count[level]
        print(f"level {level}: {total:,} problems")
        for problem in [problem for problem in problems if problem.level == level][: args.show]:
            print(f"    {problem.question}\n    answer {problem.answer}")


if __name__ == "__main__":
    main()
