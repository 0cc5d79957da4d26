"""What a model has learned in the built-in world: who votes, kind by kind, and what that is worth.

    python train.py --seed 0 --out runs/builtin-0                                  # once for each seed
    python experiments/kinds_report.py runs/builtin-0/eval runs/builtin-1/eval ...

Several directories are several seeds: they hold records of the same names, and the intervals allow for the seeds.
"""

import argparse
import io
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import data  # noqa: E402
from eval import Evaluation, at_trials, on_boundary  # noqa: E402
from experiments.references import AdaptiveHull  # noqa: E402
from experiments.report import Kept  # noqa: E402
from plumbing.records import Record, joined, read_record  # noqa: E402
from plumbing.statistics import Estimate, number, percent  # noqa: E402


def read(folders: list[Path]) -> dict[str, Record]:
    """Each model's records of all seeds as one."""
    names = [path.stem for path in sorted((folders[0] / "records").glob("*.jsonl"))]
    if not names:
        raise data.DataError(f"{folders[0]}/records: holds no records")
    found = {}
    for name in names:
        found[name] = joined([read_record(folder / "records" / f"{name}.jsonl") for folder in folders])
        if found[name].questions != found[names[0]].questions:
            raise data.DataError(f"{name} answered other problems than {names[0]}")
    return found


def kept(folder: Path, seeds: int) -> tuple[dict[str, Record], int]:
    """The records that reproduce.py keeps, and of how many seeds: of all models that have the seeds of the base."""
    names = sorted({path.stem for path in (folder / "records").glob("seed-*/eval/*.npz")})
    everything = Kept(folder / "records", names)
    shared = tuple(seed for seed in everything.having("eval", ["base"]) if seed < seeds)
    if not shared:
        raise data.DataError(f"{folder}/records: holds no records of a base model")
    names = [name for name in names if {*shared} <= {*everything.having("eval", [name])}]
    return everything.records("eval", shared, names), len(shared)


def write(folder: Path, seeds: int) -> None:
    """The report of the kept records, also into folder/report.txt."""
    text = io.StringIO()
    with redirect_stdout(text):
        print_report(*kept(folder, seeds))
    (folder / "report.txt").write_text(text.getvalue())
    print(text.getvalue(), end="")


def votes_after(record: Record, groups: np.ndarray) -> np.ndarray:
    """Columns for the difference in votes after a wrong and after a right first trial within groups of problems.

    groups: int[n], the group of each problem. A right first trial weighs as much in each group as wrong ones do.
    Returns float[n, 4 G]: of each group, votes after wrong, wrong, votes after right, right.
    """
    wrong, right = record.valid & ~record.first, record.valid & record.first  # bool[n, m]
    columns = []
    for group in np.unique(groups):
        here = (groups == group)[:, None]  # bool[n, 1]
        columns += [(record.extended & wrong & here).mean(axis=1), (wrong & here).mean(axis=1),
                    (record.extended & right & here).mean(axis=1), (right & here).mean(axis=1)]
    return np.stack(columns, axis=1)


def follows_first_trial(evaluation: Evaluation, record: Record, groups: np.ndarray) -> Estimate | None:
    """How much more often the model votes after a wrong first trial than after a right one of the same group."""
    means = evaluation.bootstrap.means(votes_after(record, groups)).reshape(len(np.unique(groups)), 4, -1)
    voted_wrong, wrong, voted_right, right = means.swapaxes(0, 1)  # float[G, draws] each
    weight = wrong * right / np.maximum(wrong + right, 1e-12)  # least variance; 0 where one of the two is missing
    gap = voted_wrong / np.maximum(wrong, 1e-12) - voted_right / np.maximum(right, 1e-12)  # float[G, draws]
    return evaluation.bootstrap.difference((weight * gap).sum(axis=0) / np.maximum(weight.sum(axis=0), 1e-12))


def print_report(records: dict[str, Record], runs: int) -> None:
    evaluation = Evaluation(list(records.values()), runs)
    means, bootstrap = evaluation.means, evaluation.bootstrap
    base, sv = evaluation.find("scot"), evaluation.find("sv")
    of = np.array(data.places(records[base].questions))  # int[n]
    levels = records[base].levels  # int[n]
    print(f"{bootstrap.n:,} problems, {runs} seed(s)\n\nkind        problems  base  {'plurality of 8':>14}")
    for i, kind in enumerate(data.KINDS):
        r = records[base].at(of == i)
        print(f"{kind:10} {len(r.levels):9,} {r.correct.mean():5.1%} {r.consistent[:, -1].mean():14.1%}")
    curve = means[base].consistent[:, 0]
    print("self-consistency with 1 to 8 samples: " + " ".join(f"{100 * a:.1f}" for a in curve))
    print("pass rates of the base's samples (0, 1/8, ..., 1), % of problems: "
          + " ".join(f"{100 * s:.0f}" for s in np.bincount(records[base].correct.sum(axis=1), minlength=9) / len(of)))
    if sv is None:
        return
    print(f"always voting ({sv}): {means[sv].correct[0]:.1%} at {means[sv].trials[0]:.2f} trials, "
          f"{means[sv].tokens[0]:.1f} tokens; base: {means[base].correct[0]:.1%}, {means[base].tokens[0]:.1f} tokens\n")
    hull = AdaptiveHull(evaluation, base)
    for name, r in records.items():
        if r.condition != "asv":
            continue
        mean, single = means[name], means[base].correct
        gain = mean.correct - single  # float[draws]
        line = on_boundary(mean.trials, single, means[sv].correct, means[sv].trials)  # float[draws]
        sampled = at_trials(means[base].consistent, mean.trials)  # float[draws]
        print(f"--- {name}: {mean.correct[0]:.1%} at {mean.trials[0]:.2f} trials and {mean.tokens[0]:.1f} tokens; "
              f"malformed {r.malformed.mean():.1%}; first trials "
              f"{percent(bootstrap.difference(mean.first - single), 1)} points over base samples")
        print(f"gain {percent(bootstrap.difference(gain), 1)} points: "
              f"{number(bootstrap.ratio(gain, line - single), 2)} times the boundary's, "
              f"{number(bootstrap.ratio(gain, sampled - single), 2)} times self-consistency's")
        print(f"minus the hull of adaptive self-consistency: {percent(hull.minus(mean, 'trials'), 1)} in trials, "
              f"{percent(hull.minus(mean, 'tokens'), 1)} in tokens")
        print(f"votes after a wrong first trial minus after a right one: "
              f"{percent(follows_first_trial(evaluation, r, levels), 1)} within a level, "
              f"{percent(follows_first_trial(evaluation, r, 10 * levels + of), 1)} within a level and kind")
        print("votes, %    all   level 1   2   3   4   5     accuracy  first trials   trials")
        for i, kind in enumerate(data.KINDS):
            part = r.at(of == i)
            shares = [part.extended[part.levels == level] for level in range(1, 6)]
            row = "".join(f"{100 * share.mean():4.0f}" if share.size else "   -" for share in shares)
            print(f"  {kind:9} {100 * part.extended.mean():4.0f}      {row} {part.correct.mean():12.1%} "
                  f"{part.first.mean():12.1%} {part.trials.mean():10.2f}")
        print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="evaluations, one per seed")
    args = parser.parse_args()
    try:
        print_report(read(args.folders), len(args.folders))
    except (data.DataError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
