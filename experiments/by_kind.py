"""What models do with each kind of problem in the built-in world (data.KINDS), and how well they choose when to vote.

    python experiments/reproduce.py --report     # of all models that are kept in results/records
    python experiments/kinds_report.py DIR ...   # of evaluations of your own
"""

import numpy as np

import data
from eval import ADAPTIVE, Evaluation, over_line, votes_among
from experiments.references import AdaptiveHull
from plumbing.records import Record
from plumbing.statistics import Estimate
from voting import MAX_TRIALS


def kinds_of(record: Record) -> np.ndarray:
    """The kind of each problem as its place in data.KINDS, int[n]."""
    return np.array(data.kind_indices(record.questions))


def groups_of(record: Record) -> np.ndarray:
    """The level and the kind of each problem in one number, int[n]: all that can be told from what a question says."""
    return 10 * record.levels + kinds_of(record)


def describe(evaluation: Evaluation, hull: AdaptiveHull) -> dict[str, dict]:
    """Of each model what it does with each kind ("kinds"); of one that chooses when to vote, also what that is worth.

    first_minus_base: how much more often its first trials are right than base samples.
    times_boundary: its gain over the base as a multiple of what the efficiency boundary gains, at equal trials and at
        equal tokens; None where the boundary may gain nothing. "voting": of that in trials what its votes add to its
        own first trials; the rest is that it answers better.
    minus_adaptive: its accuracy minus that of the best rules of adaptive self-consistency, at equal cost.
    sees: how much more often it votes after a wrong first trial than after a right one, within a level ("level") and
        within a level and kind ("kind"); and on the harder problems of a level and kind ("harder").
    """
    records, means, bootstrap = evaluation.records, evaluation.means, evaluation.bootstrap
    base, sv = means[hull.base.name], means.get(evaluation.find("sv"))
    rows = {name: {"kinds": kinds} for name, kinds in by_kind(evaluation, kinds_of(hull.base)).items()}
    groups = groups_of(hull.base)  # int[n]
    for name, record in records.items():
        if record.condition not in ADAPTIVE:
            continue
        mean, gain, times = means[name], means[name].correct - base.correct, {}  # gain: float[draws]
        if sv is not None:
            line = {unit: gain - over_line(mean, base, sv, unit) for unit in ("trials", "tokens")}  # what it gains
            times = {unit: bootstrap.ratio(gain, line[unit]) for unit in line}
            times["voting"] = bootstrap.ratio(mean.correct - mean.first, line["trials"])
        rows[name] |= {
            "first_minus_base": bootstrap.difference(mean.first - base.correct), "times_boundary": times,
            "minus_adaptive": {unit: hull.minus(mean, unit) for unit in ("trials", "tokens")},
            "sees": {"level": follows_first_trial(evaluation, record, record.levels),
                     "kind": follows_first_trial(evaluation, record, groups),
                     "harder": votes_on_harder(evaluation, record, hull.base, groups)}}
    return rows


def by_kind(evaluation: Evaluation, kinds: np.ndarray) -> dict[str, dict[str, dict]]:
    """Of each model and kind: shares and trials with intervals, and votes level by level and by the first trial.

    kinds: int[n], as of kinds_of. Shares are of the problems of the kind; "plurality" is that of all its samples.
    """
    records, bootstrap = evaluation.records, evaluation.bootstrap
    present = np.unique(kinds)  # int[K]
    here = kinds[:, None] == present  # bool[n, K]
    quantities = {"accuracy": "correct", "first_trial": "first", "vote_share": "extended", "trials": "trials"}
    columns = [values[:, None] * here for record in records.values() for values in (
        *(getattr(record, key).mean(axis=1) for key in quantities.values()), record.consistent[:, -1])]
    found = bootstrap.means(np.concatenate([*columns, here], axis=1)).reshape(len(columns) + 1, len(present), -1)
    with np.errstate(invalid="ignore"):
        found = found[:-1] / found[-1]  # float[models * 5, K, draws]; NaN where no problem of the kind is drawn

    def estimate(values: np.ndarray, n: int, limits: tuple[int, int] = (0, 1)) -> Estimate:
        return bootstrap.interval(values, limits, n) or Estimate(float(values[0]), *limits)

    rows = {}
    for record, of_model in zip(records.values(), found.reshape(len(records), 5, len(present), -1)):
        rows[record.name] = {}
        for i, kind in enumerate(present):
            accuracy, first, votes, trials, plurality = of_model[:, i]  # float[draws] each
            part = record.at(kinds == kind)
            n = len(part.levels)
            rows[record.name][list(data.KINDS)[kind]] = {
                "problems": n, "accuracy": estimate(accuracy, n), "first_trial": estimate(first, n),
                "vote_share": estimate(votes, n), "trials": estimate(trials, n, (1, MAX_TRIALS)),
                "plurality": estimate(plurality, n),
                "votes_by_level": {int(level): float(part.extended[part.levels == level].mean())
                                   for level in np.unique(part.levels)},
                "votes_after_right": votes_among(part, part.valid & part.first),
                "votes_after_wrong": votes_among(part, part.valid & ~part.first)}
    return rows


def pass_rates(base: Record) -> dict[str, list[float]]:
    """Of each kind, how many problems 0, 1, ..., m of the m samples solve, as shares of all problems: m + 1 numbers."""
    kinds, right, m = kinds_of(base), base.correct.sum(axis=1), base.correct.shape[1]
    return {list(data.KINDS)[kind]: (np.bincount(right[kinds == kind], minlength=m + 1) / len(kinds)).tolist()
            for kind in np.unique(kinds)}


def follows_first_trial(evaluation: Evaluation, record: Record, groups: np.ndarray) -> Estimate | None:
    """How much more often a model votes after a wrong first trial than after a right one of the same group.

    groups: int[n], the group of each problem. The differences of all groups are averaged, each weighed by the inverse
    of its variance; a group where all first trials are right, or all wrong, says nothing. Malformed responses are left
    out.
    """
    wrong, right = record.valid & ~record.first, record.valid & record.first  # bool[n, m]
    columns = []
    for group in np.unique(groups):
        here = (groups == group)[:, None]  # bool[n, 1]
        columns += [(of & here).mean(axis=1) for of in (record.extended & wrong, wrong, record.extended & right, right)]
    means = evaluation.bootstrap.means(np.stack(columns, axis=1)).reshape(len(columns) // 4, 4, -1)
    voted_wrong, wrong, voted_right, right = means.swapaxes(0, 1)  # float[G, draws] each
    weight = wrong * right / np.maximum(wrong + right, 1e-12)  # 0 where one of the two is missing
    gap = voted_wrong / np.maximum(wrong, 1e-12) - voted_right / np.maximum(right, 1e-12)  # float[G, draws]
    return evaluation.bootstrap.difference((weight * gap).sum(axis=0) / np.maximum(weight.sum(axis=0), 1e-12))


def votes_on_harder(evaluation: Evaluation, record: Record, base: Record, groups: np.ndarray) -> Estimate | None:
    """How much more often a model votes on problems that the base fails on more often than on the others of the group.

    A problem is one of the former if its share of right base samples is below its group's mean. From each vote the
    share of its group is subtracted; malformed responses are left out. groups: int[n].
    """
    rate, formed = base.correct.mean(axis=1), record.valid[:, 0]  # float[n], bool[n]
    vote, harder = record.extended[:, 0].astype(float), np.zeros_like(formed)  # float[n], bool[n]
    for group in np.unique(groups):
        at = groups == group  # bool[n]
        harder[at] = rate[at] < rate[at].mean()
        vote[at] -= vote[at & formed].sum() / max((at & formed).sum(), 1)
    columns = [column for at in (formed & harder, formed & ~harder) for column in (vote * at, at)]  # float[n] each
    on_hard, hard, on_easy, easy = evaluation.bootstrap.means(np.stack(columns, axis=1))  # float[draws] each
    return evaluation.bootstrap.difference(on_hard / np.maximum(hard, 1e-9) - on_easy / np.maximum(easy, 1e-9))
