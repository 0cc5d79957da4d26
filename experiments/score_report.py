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
from data import KINDS, DataError
from eval import ADAPTIVE, Evaluation, at_trials, over_model
from experiments.by_kind import kinds_of
from experiments.kinds_report import read
from experiments.references import AdaptiveHull
from experiments.tables import SCORE, each, label, points, table

SHARES = "first", "final", "corrected", "spoiled", "fresh"
REFERENCES = {"own_first": "− own first trials", "consistency_trials": "− self-consistency, trials",
              "adaptive_trials": "− adaptive, trials", "consistency_tokens": "− self-consistency, tokens",
              "adaptive_tokens": "− adaptive, tokens"}


def describe(judged: voting.Judged) -> dict[str, float]:
    """Means over all responses: right first trials, right second ones, wrong -> right, right -> wrong, ..."""
    first, second = judged.first, judged.correct  # bool[n, m]
    columns = {"first": first, "second": second, "corrected": ~first & second, "spoiled": first & ~second,
               "malformed": judged.malformed, "tokens": judged.tokens}
    return {name: float(values.mean()) for name, values in columns.items()}


def numbers(evaluation: Evaluation, base: str, beside: list[str] = ()) -> dict[str, dict]:
    """Of the base and of each model that writes pairs: shares and cost, and its accuracy minus that of references.

    first, final: right first trials and final answers. corrected, spoiled: wrong -> right, right -> wrong. fresh:
    either of these, from a first trial to that of the next response to the problem: what separate trials do, which know
    nothing of each other. (Both ways are equally likely.) Of the base, samples are such trials.
    minus: final answers minus own first trials, self-consistency and its adaptive rules, at equal cost, and minus the
    models of `beside` at equal trials, with the second trials of the one that spends more cut off at random.
    kinds: of each kind of problem how many first trials are right; and after a wrong one, second and fresh ones.
    """
    bootstrap, single = evaluation.bootstrap, evaluation.means[base]
    hull, found, kinds = AdaptiveHull(evaluation, base), {}, kinds_of(evaluation.records[base])
    for name, r in evaluation.records.items():
        if name != base and r.condition != "score":
            continue
        mean, first, fresh = evaluation.means[name], r.first, np.roll(r.first, 1, axis=1)  # bool[n, m]
        second = fresh if name == base else r.correct  # bool[n, m]
        moved = np.stack([x.mean(axis=1) for x in (~first & second, first & ~second, ~first & fresh)], axis=1)
        shares = mean.first, mean.correct, *bootstrap.means(moved)  # float[draws] each
        found[name] = {key: bootstrap.share(share) for key, share in zip(SHARES, shares)}
        found[name] |= {"trials": float(mean.trials[0]), "tokens": float(mean.tokens[0]),
                        "malformed": float(r.malformed.mean()), "minus": {}, "kinds": {}}
        for kind in np.unique(kinds):
            one, two, other = (x[kinds == kind] for x in (first, second, fresh))  # bool[n_k, m]
            found[name]["kinds"][list(KINDS)[kind]] = [
                float(of.mean()) if of.size else None for of in (one, two[~one], other[~one])]
        if name == base:
            continue
        found[name]["minus"]["own_first"] = bootstrap.difference(mean.correct - mean.first)
        for unit in ("trials", "tokens"):
            budget = getattr(mean, unit) / getattr(single, unit)  # float[draws], in base samples
            found[name]["minus"] |= {
                f"consistency_{unit}": bootstrap.difference(mean.correct - at_trials(single.consistent, budget)),
                f"adaptive_{unit}": hull.minus(mean, unit)}
        found[name]["minus"] |= {other: bootstrap.difference(over_model(mean, evaluation.means[other], True))
                                 for other in beside}
    return found


def trials(models: dict[str, dict], cost: bool = True) -> str:
    """A table of both trials. cost: with tokens and malformed responses."""
    rows = [[called(name, models), *(points(of[key]) for key in SHARES), f"{of['tokens']:.1f}",
             f"{100 * of['malformed']:.1f}"] for name, of in models.items()]
    head = ["model", "first trial right, %", "final answer right, %", "wrong → right, %", "right → wrong, %",
            "fresh trial: wrong → right, %", "tokens", "malformed, %"]
    shown = len(head) if cost else 6
    return table(head[:shown], [row[:shown] for row in rows])


def costs(models: dict[str, dict], keys: list[str] = None) -> str:
    """A table of final answers beside these references; None: beside all."""
    rows = {name: of["minus"] for name, of in models.items() if of["minus"]}
    keys = [key for key in next(iter(rows.values())) if not keys or key in keys]
    return table(["model", *(REFERENCES.get(key) or f"− {label(key)}" for key in keys)],
                 [[called(name, models), *(points(minus[key]) for key in keys)] for name, minus in rows.items()])


def by_kind(models: dict[str, dict], kinds: list[str] = tuple(KINDS)) -> str:
    """A table of second and of fresh trials after wrong ones, kind by kind."""
    shown = [name for name in models if name not in ("score-1", "score-2-no-stage-1", "score-2-no-bonus")]
    kinds = [kind for kind in kinds if kind in models[shown[0]]["kinds"]]
    rows = [[called(name, models), *(each(models[name]["kinds"][kind], 100) for kind in kinds)] for name in shown]
    return table(["model", *kinds], rows)


def called(name: str, models: dict) -> str:
    return SCORE.get(name, name + ", two samples" * (not models[name]["minus"]))  # the base


def text(models: dict[str, dict], seeds: int) -> str:
    """The section of results.md."""
    return f"""## SCoRe

Pairs of trials, of which the second one counts (`score.py`); seeds: {seeds}. *Fresh trial*: how often a separate first
trial of the same model is right where this one is wrong, and as often the other way round. Of the base, samples are
compared.

{trials(models)}
Final answers minus the model's own first trials; at equal cost minus self-consistency (the best mixture of k = 1 to 8)
and the best rules of adaptive self-consistency; and at equal trials minus IuB models: the second trials, or votes, of
the one that spends more are cut off at random. In points:

{costs(models)}
Kind by kind, %: first trials that are right / second ones after a wrong first one / fresh ones after a wrong one.

{by_kind(models)}"""


def report(folders: list[Path]) -> None:
    """The tables of all records in these evaluations."""
    records = {name: record for name, record in read(folders).items() if not record.greedy}
    evaluation = Evaluation(list(records.values()), len(folders))
    base, pairs = evaluation.find("scot"), [name for name, record in records.items() if record.condition == "score"]
    if base is None or not pairs:
        raise DataError(f"{folders[0]}: needs answers of a base and of a model of experiments/score.py")
    choosing = [name for name, record in records.items() if record.condition in ADAPTIVE]
    print(f"{evaluation.bootstrap.n:,} problems\n")
    print(text(numbers(evaluation, base, choosing), len(folders)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="evaluations, one per seed")
    args = parser.parse_args()
    try:
        report(args.folders)
    except ValueError as error:  # DataError is one
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
