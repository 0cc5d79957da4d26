"""How often does a model come to a step that its textbook misprints, and how often does it get that right?

    python experiments/arithmetic.py runs/builtin/eval/records/*.jsonl      # records of eval.py, of any models

In the built-in world, models err at the steps that their textbook misprints (data.Textbook); other steps are nearly
always right. The base has never read a right product at the former. A better model may arrange the factors so that it
meets fewer of them, or know the products. For each kind of problems that has both sorts of steps, the table shows the
share of misprinted steps, and how often a model gets these and the others right. It counts first trials: later ones are
written where a model votes, mostly on harder problems.
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import data  # noqa: E402
from experiments.tables import table  # noqa: E402
from plumbing.records import first_trials, read_record  # noqa: E402

SHOWN = [name for name, kind in data.KINDS.items() if 0 < kind.misprinted < 1]
STEP = re.compile(r"\* (\d+) = (\d+)")


def steps(trial: str) -> Iterator[tuple[int, int, int]]:
    """The steps (a, b, c) of a trial: it says that a * b is c. It stops at the first line that is not a step.

    >>> list(steps("33\\n* 19 = 12\\n* 9 = 26\\n\\\\boxed{26}"))
    [(33, 19, 12), (12, 9, 26)]
    """
    first, *lines = trial.strip().splitlines() or [""]
    if not first.isdecimal():
        return
    a = int(first)
    for line in lines:
        if not (found := STEP.fullmatch(line)):
            return
        b, c = map(int, found.groups())
        yield a, b, c
        a = c


def count(path: Path, book: data.Textbook) -> Counter:
    """Of the first trials in a record: (kind, is the step misprinted, is it right) -> steps."""
    questions = read_record(path).questions  # raises DataError where it is none
    found = Counter()
    for question, trials in zip(questions, first_trials(path), strict=True):
        kind = data.kind_of(question)
        modulus = data.KINDS[kind].modulus
        for trial in trials:
            for a, b, c in steps(trial):
                misprinted = a in book.weak[modulus] and b in book.awkward[modulus]
                found[kind, misprinted, c == a * b % modulus] += 1
    return found


def cell(counts: Counter, kind: str) -> str:
    """Misprinted steps, how many of them are right, and how many of the others, %."""
    (bad, good), (wrong, right) = ([counts[kind, misprinted, ok] for ok in (False, True)] for misprinted in (1, 0))
    parts = (bad + good, bad + good + wrong + right), (good, bad + good), (right, wrong + right)
    return " / ".join(f"{100 * part / whole:.1f}" if whole else "–" for part, whole in parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="+", type=Path, metavar="FILE", help="records of responses, .jsonl")
    parser.add_argument("--textbook", type=int, default=0, help="seed of the base's textbook (default 0, as committed)")
    args = parser.parse_args()
    try:
        found = {path: count(path, data.Textbook(args.textbook)) for path in args.records}
    except (OSError, ValueError) as error:  # DataError is a ValueError
        sys.exit(f"error: {error}")
    print("misprinted steps, % / right at these, % / right at others, %\n")
    print(table(["record", *SHOWN], [[path, *(cell(of, kind) for kind in SHOWN)] for path, of in found.items()]))


if __name__ == "__main__":
    main()
