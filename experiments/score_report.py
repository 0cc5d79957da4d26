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
    """Shares of all responses: right first trials, right second ones, wrong -> right, right -> wrong; and tokens."""
    first, second = judged.first, judged.correct
    shares = {"first": first, "second": second, "corrected": ~first & second, "spoiled": first & ~second,
              "malformed": judged.malformed, "tokens": judged.tokens}
    return {name: float(values.mean()) for name, values in shares.items()}


def report(folders: list[Path]) -> None:
    """The table of all records in these evaluations, several seeds' if there are several, with 95 % intervals."""
    records = read(folders)
    seen = Evaluation(list(records.values()), len(folders))
    base, bootstrap = seen.find("scot"), seen.bootstrap
    hull, single = AdaptiveHull(seen, base), seen.means[base]
    print(f"{bootstrap.n:,} problems, {len(folders)} seed(s); %, and points at equal cost\n")
    for name, r in records.items():
        mean, found = seen.means[name], describe(r)
        moved = bootstrap.means(np.stack([(~r.first & r.correct).mean(axis=1), (r.first & ~r.correct).mean(axis=1)], 1))
        print(f"--- {name}: first trial {percent(bootstrap.share(mean.first), 1)}, final answer "
              f"{percent(bootstrap.share(mean.correct), 1)}; wrong -> right {percent(bootstrap.share(moved[0]), 1)}, "
              f"right -> wrong {percent(bootstrap.share(moved[1]), 1)}; {mean.trials[0]:.2f} trials, "
              f"{mean.tokens[0]:.1f} tokens, malformed {found['malformed']:.1%}")
        for unit in ("trials", "tokens") if r.condition != "scot" else ():
            budget = getattr(mean, unit) / getattr(single, unit)  # float[draws], in base samples
            sampled = mean.correct - at_trials(single.consistent, budget)  # float[draws]
            print(f"    in {unit}: minus self-consistency {percent(bootstrap.difference(sampled), 1)}, minus adaptive "
                  f"self-consistency {percent(hull.minus(mean, unit), 1)}")


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
