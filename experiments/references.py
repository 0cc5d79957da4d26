"""What a trained model is compared with beyond eval.py: every rule of adaptive self-consistency, and level by level.

Adaptive self-consistency takes separate samples of the base until `consensus` of them agree, `max_trials` at most
(after Aggarwal et al. 2023, arXiv 2305.11860). Its rules, mixed at random between problems, span an upper hull over the
budget. None of them needs training.

    python experiments/reproduce.py --report
"""

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


def adaptive_rules(base: Record) -> list[Rule]:
    """All RULES with the base's eight samples; every sample comes first once (as in Record.consistent)."""
    n, m = base.answers.shape
    every = np.arange(n)
    found = [Rule(*rule, *np.zeros((3, n))) for rule in RULES]
    for start in range(m):
        answers, correct, tokens = (np.roll(x, -start, axis=1) for x in (base.answers, base.correct, base.tokens))
        same = (answers[:, :, None] == answers[:, None, :]) & (answers >= 0)[:, :, None]  # bool[n, m, m]
        seen = np.tril(same).sum(axis=2)  # int[n, m]: how often each answer has come up, itself included
        plurality = [same[:, :t, :t].sum(axis=2).argmax(axis=1) for t in range(1, m + 1)]  # int[n] each
        right = np.stack([correct[every, first] for first in plurality], axis=1)  # bool[n, m]: stopping after t
        spent = tokens.cumsum(axis=1)  # int[n, m]
        for rule in found:
            agreed = seen[:, : rule.max_trials] >= rule.consensus  # bool[n, T]
            last = np.where(agreed.any(axis=1), agreed.argmax(axis=1), rule.max_trials - 1)  # int[n]
            for total, values in ((rule.correct, right), (rule.tokens, spent)):
                total += values[every, last] / m
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


def level_oracle(base: Record, sv: Record, budget: float) -> np.ndarray:
    """What the best allocation by level alone attains with base samples and SV-SFT's votes: right, trials float[n, 2].

    What they are worth at a level is learned from half of the problems, and the choice scored on the others.
    """
    every, half = oracles.blind(base.correct, sv.correct, sv.trials), np.arange(len(base.levels)) % 2  # int[n]
    found = np.empty((len(half), 2))
    for i in (0, 1):
        known, unseen = (oracles.Choices(*(column[at] for column in every)) for at in (half != i, half == i))
        known = oracles.by_level(known, base.levels[half != i], of=base.levels[half == i])
        found[half == i] = oracles.outcome(oracles.allocate(known, budget, rng=0), unseen)
    return found


def height_parts(evaluation: Evaluation, names: list[str], base: str = "base", end: str = "sv-sft") -> dict[str, dict]:
    """Models' heights over the efficiency boundary in trials and in tokens, split into where they vote and the rest.

    levels: what a model would gain if at each level it were on the line from the base to SV-SFT *of that level*, at the
        cost that it has there: the gain of spending more on some levels than on others.
    rest: its height over these lines: it chooses within a level, or answers better than the base and SV-SFT do.
    first: how much more often its first trials are right than base samples; a part of the rest.
    best: the height of level_oracle with as many trials; share: the model's height as a share of it.
    """
    bootstrap, means, records = evaluation.bootstrap, evaluation.means, evaluation.records
    at = [records[base].levels == level for level in np.unique(records[base].levels)]  # bool[n] each
    keys = [(each, unit) for each in (base, end, *names) for unit in ("correct", "trials", "tokens")]
    columns = [getattr(records[each], unit).mean(axis=1) * here for each, unit in keys for here in at]  # float[n] each
    best = [level_oracle(records[base], records[end], float(means[name].trials[0])) for name in names]
    found = bootstrap.means(np.column_stack([*columns, *at, *best]))  # float[c, draws]
    within, best = np.split(found, [len(columns) + len(at)])
    *sums, weights = within.reshape(len(keys) + 1, len(at), -1)  # float[levels, draws] each
    with np.errstate(invalid="ignore"):  # of a level that no problem is drawn of nothing is known
        of_level = {key: values / weights for key, values in zip(keys, sums)}  # float[levels, draws] each
    parts = {}
    for i, name in enumerate(names):
        parts[name] = {"first": bootstrap.difference(means[name].first - means[base].correct)}
        for unit in ("trials", "tokens"):
            cost, end_cost = (of_level[each, unit] / of_level[base, unit] for each in (name, end))
            lines = on_boundary(cost, of_level[base, "correct"], of_level[end, "correct"], end_cost)
            by_level = (weights * lines).sum(axis=0)  # float[draws]
            height = over_line(means[name], means[base], means[end], unit)  # float[draws]
            parts[name][unit] = {"height": bootstrap.difference(height),
                                 "levels": bootstrap.difference(height - means[name].correct + by_level),
                                 "rest": bootstrap.difference(means[name].correct - by_level)}
        oracle = means[name]._replace(correct=best[2 * i], trials=np.maximum(best[2 * i + 1], means[name].trials))
        possible = over_line(oracle, means[base], means[end], "trials")
        height = over_line(means[name], means[base], means[end], "trials")
        parts[name] |= {"best": bootstrap.difference(possible), "share": bootstrap.ratio(height, possible)}
    return parts
