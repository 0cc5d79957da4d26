"""What a trained model is compared with beyond eval.py: every rule of adaptive self-consistency, and level by level.

Adaptive self-consistency takes separate samples of the base until `consensus` of them agree, `max_trials` at most
(after Aggarwal et al. 2023, arXiv 2305.11860). Its rules, mixed at random between problems, span an upper hull over the
budget. None of them needs training.

    python experiments/reproduce.py --report
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from eval import Evaluation, Means, best_mixture, on_boundary, over_line
from experiments import oracles
from plumbing.records import Record
from plumbing.statistics import Estimate

RULES = [(1, 1), *((consensus, most) for consensus in (2, 3, 4) for most in range(consensus, 9))]  # (1, 1): one sample


class Rule(NamedTuple):
    """A rule's outcome on each problem: means over all rotations of its samples."""

    consensus: int
    max_trials: int
    correct: np.ndarray  # float[n]
    trials: np.ndarray  # float[n]
    tokens: np.ndarray  # float[n]


def rotations(base: Record) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The base's m samples, taken from left to right, each of them first once (as in Record.consistent): m times

    seen     int[n, m], how often a sample's answer has come up, itself included; 0 if it has none
    right    bool[n, m], whether the plurality of the samples so far is right: the first seen on ties
    tokens   int[n, m], of the samples so far
    """
    n, m = base.answers.shape
    for start in range(m):
        answers, correct, tokens = (np.roll(x, -start, axis=1) for x in (base.answers, base.correct, base.tokens))
        same = (answers[:, :, None] == answers[:, None, :]) & (answers >= 0)[:, :, None]  # bool[n, m, m]
        plurality = [same[:, :t, :t].sum(axis=2).argmax(axis=1) for t in range(1, m + 1)]  # int[n] each
        right = np.stack([correct[np.arange(n), first] for first in plurality], axis=1)  # bool[n, m]
        yield np.tril(same).sum(axis=2), right, tokens.cumsum(axis=1)


def last_taken(seen: np.ndarray, consensus: int, max_trials: int) -> np.ndarray:
    """The place of the last sample that a rule takes, int[n]: until an answer has come up `consensus` times."""
    agreed = seen[:, :max_trials] >= consensus  # bool[n, T]
    return np.where(agreed.any(axis=1), agreed.argmax(axis=1), max_trials - 1)


def adaptive_rules(base: Record) -> list[Rule]:
    """All RULES with the base's eight samples."""
    n, m = base.answers.shape
    found = [Rule(*rule, *np.zeros((3, n))) for rule in RULES]
    for seen, right, tokens in rotations(base):
        for rule in found:
            last = last_taken(seen, rule.consensus, rule.max_trials)  # int[n]
            for total, values in ((rule.correct, right), (rule.tokens, tokens)):
                total += values[np.arange(n), last] / m
            rule.trials[:] += (last + 1) / m
    return found


def agreement(base: Record, count: int) -> np.ndarray:
    """Of `count` consecutive samples: whether all have the same answer, and whether that is wrong: float[n, 2]."""
    m = base.answers.shape[1]
    windows = (np.arange(m)[:, None] + np.arange(count)) % m  # int[m, count]
    answers = base.answers[:, windows]  # int[n, m, count]
    equal = (answers == answers[:, :, :1]).all(axis=2) & (answers[:, :, 0] >= 0)  # bool[n, m]
    return np.stack([equal.mean(axis=1), (equal & ~base.correct[:, windows[:, 0]]).mean(axis=1)], axis=1)


class AdaptiveHull:
    """The upper hull of all rules over an evaluation's budget, in trials and in tokens."""

    def __init__(self, evaluation: Evaluation, base: str = "base"):
        self.bootstrap, self.base = evaluation.bootstrap, evaluation.records[base]
        self.rules = adaptive_rules(self.base)
        columns = np.column_stack([column for rule in self.rules for column in rule[2:]])  # float[n, rules * 3]
        means = self.bootstrap.means(columns).reshape(len(self.rules), 3, -1)
        self.correct, self.trials, self.tokens = means.swapaxes(0, 1)  # float[rules, draws] each

    def minus(self, model: Means, unit: str) -> Estimate:
        """Accuracy of a model minus that of the hull at equal cost. The best rules are chosen anew in each draw."""
        return self.bootstrap.difference(
            model.correct - best_mixture(getattr(self, unit), self.correct, getattr(model, unit)))

    def corners(self, unit: str) -> list[dict]:
        """The rules on the hull, the cheapest first."""
        cost, accuracy = getattr(self, unit)[:, 0], self.correct[:, 0]  # float[rules] each
        on = [i for i in range(len(cost)) if accuracy[i] >= best_mixture(cost, accuracy, cost[i]) - 1e-12]
        return [{"consensus": self.rules[i].consensus, "max_trials": self.rules[i].max_trials,
                 "accuracy": float(accuracy[i]), "trials": float(self.trials[i, 0]),
                 "tokens": float(self.tokens[i, 0])} for i in sorted(on, key=cost.__getitem__)]

    def describe(self) -> dict:
        """What results.json says of it."""
        return {"corners": {unit: self.corners(unit) for unit in ("trials", "tokens")}, "agreement": self.agreement()}

    def agreement(self) -> list[dict]:
        """How often 1 to 4 samples agree, and how often such an answer is wrong, over all and by level."""
        found, columns = [], [agreement(self.base, count) for count in (1, 2, 3, 4)]  # float[n, 2] each
        means = self.bootstrap.means(np.concatenate(columns, axis=1)).reshape(4, 2, -1)
        for column, (equal, wrong) in zip(columns, means):  # float[draws] each
            levels = [column[self.base.levels == level].mean(axis=0) for level in np.unique(self.base.levels)]
            found.append({"samples": len(found) + 1, "agree": self.bootstrap.share(equal),
                          "wrong": self.bootstrap.share(wrong / np.maximum(equal, 1e-9)),
                          "wrong_by_level": [float(b / a) if a else None for a, b in levels]})
        return found


def group_oracle(base: Record, sv: Record, groups: np.ndarray, budget: float) -> np.ndarray:
    """What the best allocation by group alone attains with base samples and SV-SFT's votes: right, trials float[n, 2].

    groups: int[n], what is known of each problem. What base samples and votes are worth in a group is learned from half
    of the problems, and the choice scored on the others.
    """
    every, half = oracles.blind(base.correct, sv.correct, sv.trials), np.arange(len(groups)) % 2  # int[n]
    found = np.empty((len(half), 2))
    for i in (0, 1):
        known, unseen = (oracles.Choices(*(column[at] for column in every)) for at in (half != i, half == i))
        known = oracles.by_group(known, groups[half != i], of=groups[half == i])
        found[half == i] = oracles.outcome(oracles.allocate(known, budget, rng=0), unseen)
    return found


def on_own_lines(evaluation: Evaluation, names: list[str], groups: np.ndarray, base: str, end: str) -> dict:
    """What models would gain if in each group they were on the line from the base to SV-SFT *of that group*, at the
    cost that they have there: (name, unit) -> accuracy, float[draws]. groups: int[n].
    """
    bootstrap, records = evaluation.bootstrap, evaluation.records
    at = [groups == group for group in np.unique(groups)]  # bool[n] each
    keys = [(each, unit) for each in (base, end, *names) for unit in ("correct", "trials", "tokens")]
    columns = [getattr(records[each], unit).mean(axis=1) * here for each, unit in keys for here in at]  # float[n] each
    *sums, weights = bootstrap.means(np.column_stack([*columns, *at])).reshape(len(keys) + 1, len(at), -1)
    with np.errstate(invalid="ignore"):
        of_group = {key: values / weights for key, values in zip(keys, sums)}  # float[groups, draws] each
    found = {}
    for name in names:
        for unit in ("trials", "tokens"):
            cost, end_cost = (of_group[each, unit] / of_group[base, unit] for each in (name, end))
            lines = on_boundary(cost, of_group[base, "correct"], of_group[end, "correct"], end_cost)
            found[name, unit] = np.where(weights > 0, weights * lines, 0).sum(axis=0)  # not drawn: nothing of it
    return found


def height_parts(evaluation: Evaluation, names: list[str], groups: np.ndarray, base: str = "base",
                 end: str = "sv-sft") -> dict[str, dict]:
    """Models' heights over the efficiency boundary in trials and in tokens, split into where they vote and the rest.

    groups: int[n], the level and the kind of each problem (by_kind.groups_of).
    levels: what a model would gain if at each level it were on the line from the base to SV-SFT *of that level*, at the
        cost that it has there: the gain of spending more on some levels than on others.
    kinds: what it would gain beyond that on the lines of each level and kind: spending more on some kinds of a level.
    rest: its height over these lines: it chooses within a kind, or answers better than the base and SV-SFT do.
    best: the height of group_oracle with as many trials; share: the model's height as a share of it.
    """
    bootstrap, means, records = evaluation.bootstrap, evaluation.means, evaluation.records
    by_level, by_group = (on_own_lines(evaluation, names, of, base, end) for of in (records[base].levels, groups))
    parts = {}
    for name in names:
        mean, parts[name] = means[name], {}
        height = {unit: over_line(mean, means[base], means[end], unit) for unit in ("trials", "tokens")}
        for unit in height:  # float[draws] each
            parts[name][unit] = {
                "height": bootstrap.difference(height[unit]),
                "levels": bootstrap.difference(height[unit] - mean.correct + by_level[name, unit]),
                "kinds": bootstrap.difference(by_group[name, unit] - by_level[name, unit]),
                "rest": bootstrap.difference(mean.correct - by_group[name, unit])}
        right, trials = bootstrap.means(group_oracle(records[base], records[end], groups, float(mean.trials[0])))
        oracle = mean._replace(correct=right, trials=np.maximum(trials, mean.trials))
        possible = over_line(oracle, means[base], means[end], "trials")  # float[draws]
        parts[name] |= {"best": bootstrap.difference(possible), "share": bootstrap.ratio(height["trials"], possible)}
    return parts
