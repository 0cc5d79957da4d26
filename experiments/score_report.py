"""What SCoRe's models do in their two trials, and what separate samples of the base are worth at the same cost.

    python experiments/score.py --seed 0 --out runs/score-0                       # once for each seed
    python experiments/score_report.py runs/score-0/eval runs/score-1/eval ...    # the table

Several directories are several seeds: they hold records of the same names, and the intervals allow for the seeds.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import voting
from data import DataError
from eval import Evaluation, at_trials
from experiments.kinds_report import read
from experiments.references import AdaptiveHull
from plumbing.statistics import percent


def describe(judged: voting.Judged) -> dict[str, float]:
    """Means over all responses: right first trials, right second ones, wrong -> right, right -> wrong, ..."""
    first, second = judged.first, judged.correct  # bool[n, m]
    columns = {"first": first, "second": second, "corrected": ~first & second, "spoiled": first & ~second,
               "malformed": judged.malformed, "tokens": judged.tokens}
    return {name: float(values.mean()) for name, values in columns.items()}


def report(folders: list[Path]) -> None:
    """A table of all records in these evaluations, with 95 % intervals, and each model beside samples of the base.

    The two trials of a model that writes one are two samples: what separate samples change is there to compare with.
    """
    records = {name: record for name, record in read(folders).items() if not record.greedy}
    evaluation = Evaluation(list(records.values()), len(folders))
    bootstrap, base = evaluation.bootstrap, evaluation.find("scot")
    single, hull = evaluation.means[base], AdaptiveHull(evaluation, base)
    print(f"{bootstrap.n:,} problems, {len(folders)} seed(s); in percent, with 95 % intervals\n")
    print(row("", ["first trial", "final answer", "wrong -> right", "right -> wrong"]) + "   trials  tokens  malformed")
    for name, r in records.items():
        mean, first = evaluation.means[name], np.roll(r.correct, 1, axis=1) if r.condition == "scot" else r.first
        moved = np.stack([(~first & r.correct).mean(axis=1), (first & ~r.correct).mean(axis=1)], axis=1)  # float[n, 2]
        shares = [bootstrap.share(values) for values in (mean.first, mean.correct, *bootstrap.means(moved))]
        print(row(name, [percent(share, 1) for share in shares])
              + f"{mean.trials[0]:9.2f}{mean.tokens[0]:8.1f}{100 * r.malformed.mean():11.1f}")
    print("\nfinal answer minus self-consistency, and minus its adaptive rules, at equal cost, in points\n")
    print(row("", ["in trials", "adaptive, in trials", "in tokens", "adaptive, in tokens"]))
    for name, mean in evaluation.means.items():
        if records[name].condition == "scot":
            continue
        found = []
        for unit in ("trials", "tokens"):
            budget = getattr(mean, unit) / getattr(single, unit)  # float[draws], in base samples
            found += [bootstrap.difference(mean.correct - at_trials(single.consistent, budget)), hull.minus(mean, unit)]
        print(row(name, [percent(estimate, 1) for estimate in found]))


def row(name: str, cells: list[str]) -> str:
    return f"{name:25}" + "".join(f"{cell:>22}" for cell in cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="evaluations, one per seed")
    args = parser.parse_args()
    try:
        report(args.folders)
    except (DataError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
