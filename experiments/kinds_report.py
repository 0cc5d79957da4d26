"""What models do in the built-in world, kind by kind: the tables of results.md for evaluations of your own.

    python train.py --seed 0 --out runs/builtin-0                                  # once for each seed
    python experiments/kinds_report.py runs/builtin-0/eval runs/builtin-1/eval ...

Several directories are several seeds: they hold records of the same names, and the intervals allow for the seeds.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import data  # noqa: E402
from eval import Evaluation, summarise  # noqa: E402
from experiments import by_kind, tables  # noqa: E402
from experiments.references import AdaptiveHull  # noqa: E402
from plumbing.records import Record, joined, read_record  # noqa: E402
from voting import MAX_TRIALS  # noqa: E402

SECTIONS = (tables.world, tables.gains, tables.adaptive, tables.by_kind, tables.sees, tables.cost)


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


def report(records: dict[str, Record], runs: int) -> str:
    """The sections of results.md that need no more than records. ValueError: problems of another world."""
    evaluation = Evaluation(list(records.values()), runs)
    base = evaluation.find("scot")
    if base is None or records[base].correct.shape[1] != MAX_TRIALS:
        raise data.DataError(f"a base model has to be among them, with {MAX_TRIALS} samples of each problem "
                             f"(eval.py --samples {MAX_TRIALS})")
    result, hull = summarise(evaluation), AdaptiveHull(evaluation, base)
    result |= {"adaptive": hull.describe(), "pass_rates": by_kind.pass_rates(records[base])}
    for name, row in by_kind.describe(evaluation, hull).items():
        result["models"][name] |= {"seeds": runs, **row}
    return "\n".join(section(result) for section in SECTIONS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="evaluations, one per seed")
    args = parser.parse_args()
    try:
        print(report(read(args.folders), len(args.folders)))
    except ValueError as error:  # DataError is one
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
