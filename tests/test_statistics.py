"""plumbing/statistics.py: intervals against theory and against counting.

    pytest tests/test_statistics.py
"""

import numpy as np
import pytest

from plumbing.statistics import Bootstrap, Estimate


def interval(statistic, *columns, runs=1) -> Estimate:
    """The interval of a statistic of the columns' means."""
    bootstrap = Bootstrap(len(columns[0]), runs)
    return bootstrap.interval(statistic(*bootstrap.means(np.stack(columns, axis=1))))


def test_bootstrap_agrees_with_the_normal_interval():
    rng = np.random.default_rng(0)
    x = (rng.random(2000) < 0.3).astype(float)
    value, low, high = interval(lambda a: a, x)
    half = 1.96 * (x.mean() * (1 - x.mean()) / 2000) ** 0.5
    assert value == pytest.approx(x.mean())
    assert low == pytest.approx(x.mean() - half, abs=0.15 * half)
    assert high == pytest.approx(x.mean() + half, abs=0.15 * half)


def test_differences_are_paired():
    """Two models that nearly always agree differ by much less than their own intervals would suggest."""
    rng = np.random.default_rng(0)
    x = (rng.random(1000) < 0.5).astype(float)
    y = x.copy()
    y[:20] = 1 - y[:20]
    _, low, high = interval(lambda a, b: a - b, x, y)
    _, own_low, own_high = interval(lambda a: a, x)
    assert high - low < 0.35 * (own_high - own_low)


def test_interval_over_seeds_and_problems():
    """Against the normal interval of a mean of seeds, each the mean of problems: between seeds, and within."""
    rng, runs, size = np.random.default_rng(0), 20, 200
    chance = rng.uniform(0.3, 0.7, runs)
    column = (rng.random((runs, size)) < chance[:, None]).astype(float)  # [runs, size]
    value, low, high = interval(lambda a: a, column.ravel(), runs=runs)
    between = column.mean(axis=1).var() / runs
    within = (column.mean(axis=1) * (1 - column.mean(axis=1))).mean() / size / runs
    assert value == pytest.approx(column.mean())
    assert high - low == pytest.approx(2 * 1.96 * (between + within) ** 0.5, rel=0.08)
    _, low, high = interval(lambda a: a, column.ravel())  # one run: problems alone
    assert high - low == pytest.approx(2 * 1.96 * (column.var() / column.size) ** 0.5, rel=0.08)
