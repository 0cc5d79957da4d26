"""What a trained model is compared with beyond eval.py: every rule of adaptive self-consistency, and level by level.

Adaptive self-consistency takes separate samples of the base until `consensus` of them agree, `max_trials` at most
(after Aggarwal et al. 2023, arXiv 2305.11860). Its rules, mixed at random between problems, span an upper hull over the
budget. None of them needs training.

    python experiments/reproduce.py --report
"""

from typing import NamedTuple

import numpy as np

from eval import Evaluation, Means, best_mixture, on_boundary, over_line
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
        found = []
        for count in (1, 2, 3, 4):
            column = agreement(self.base, count)  # float[n, 2]
            equal, wrong = self.bootstrap.means(column)  # float[draws] each
            levels = [column[self.base.levels == level].mean(axis=0) for level in np.unique(self.base.levels)]
            found.append({"samples": count, "agree": self.bootstrap.share(equal),
                          "wrong": self.bootstrap.share(wrong / np.maximum(equal, 1e-9)),
                          "wrong_by_level": [float(b / a) if a else None for a, b in levels]})
        return found


def height_parts(evaluation: Evaluation, name: str, unit: str, base: str = "base",
                 end: str = "sv-sft") -> dict[str, Estimate]:
    """A model's height over the efficiency boundary, split into where it votes and the rest.

    levels: what it would gain if at each level it were on the line from the base to SV-SFT *of that level*, at the cost
        that it has there: the gain of spending more on some levels than on others.
    rest: its height over these lines: it chooses within a level, or answers better than the base and SV-SFT do.
    first: how much more often its first trials are right than base samples; a part of the rest.
    """
    bootstrap, means, records = evaluation.bootstrap, evaluation.means, evaluation.records
    levels = records[base].levels
    at = [levels == level for level in np.unique(levels)]  # bool[n] each
    parts = (records[base].correct, getattr(records[base], unit), records[end].correct, getattr(records[end], unit),
             getattr(records[name], unit))  # [n, m] each
    columns = [values.mean(axis=1) * here for values in parts for here in at] + at  # [n] each
    *sums, weights = bootstrap.means(np.stack(columns, axis=1)).reshape(6, len(at), -1)  # float[levels, draws] each
    right, cost, sv_right, sv_cost, own_cost = (values / weights for values in sums)
    lines = on_boundary(own_cost / cost, right, sv_right, sv_cost / cost)  # float[levels, draws]
    by_level = (weights * lines).sum(axis=0)  # float[draws]
    height = over_line(means[name], means[base], means[end], unit)  # float[draws]
    parts = {"height": height, "levels": height - means[name].correct + by_level,
             "rest": means[name].correct - by_level, "first": means[name].first - means[base].correct}
    return {key: bootstrap.difference(values) for key, values in parts.items()}
