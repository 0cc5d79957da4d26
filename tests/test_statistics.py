"""plumbing/statistics.py: intervals against theory and against counting.

    pytest tests/test_statistics.py
"""

import tracemalloc

import numpy as np
import pytest
from scipy import stats

from plumbing import statistics
from plumbing.statistics import Bootstrap, Estimate, verdict


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
    """Against Student's interval of a mean of seeds, each the mean of problems; it holds what is between and within."""
    rng, runs, size = np.random.default_rng(0), 10, 200
    chance = rng.uniform(0.3, 0.7, runs)
    column = (rng.random((runs, size)) < chance[:, None]).astype(float)  # [runs, size]
    value, low, high = interval(lambda a: a, column.ravel(), runs=runs)
    of_runs = column.mean(axis=1)
    assert value == pytest.approx(column.mean())
    assert (low, high) == pytest.approx(stats.t.interval(0.95, runs - 1, value, stats.sem(of_runs)), abs=1e-4)
    between, within = of_runs.var() / runs, (of_runs * (1 - of_runs)).mean() / size / runs
    values = Bootstrap(runs * size, runs).means(column.reshape(-1, 1))[0]
    assert values[1 + runs :].std() == pytest.approx((between + within) ** 0.5, rel=0.08)
    assert values[1 : 1 + runs] == pytest.approx(of_runs)
    _, low, high = interval(lambda a: a, column.ravel())  # one run: problems alone
    assert high - low == pytest.approx(2 * 1.96 * (column.var() / column.size) ** 0.5, rel=0.08)


def test_seeds_that_agree_by_chance_do_not_make_it_narrow():
    """Where the seeds' means are equal, the resampled problems still say how much a mean of problems varies."""
    column = np.tile([0.0, 1.0], 300)
    _, low, high = interval(lambda a: a, column, runs=3)
    assert high - low == pytest.approx(2 * 1.96 * (0.25 / 600) ** 0.5, rel=0.08)


@pytest.mark.parametrize("right, n", [(0, 1), (1, 1), (5, 5), (0, 5), (40, 40)])
def test_all_alike_is_wilson(right, n):
    column = np.ones((n, 1)) * (right > 0)
    bootstrap = Bootstrap(n)
    found = bootstrap.share(bootstrap.means(column)[0])
    wilson = stats.binomtest(right, n).proportion_ci(method="wilson")
    assert found == pytest.approx((right / n, wilson.low, wilson.high), abs=1e-4)
    within = Bootstrap(10 * n)  # a part of more problems
    assert within.interval(within.means(np.ones((10 * n, 1)) * (right > 0))[0], (0, 1), n) == pytest.approx(found)
    value, low, high = bootstrap.difference(bootstrap.means(column)[0])  # wider: the unseen ones may be -1
    assert value == right / n and low < found.low and high >= found.high
    assert verdict(found, n) == ("too few problems" if n < 20 else "above")


@pytest.mark.slow
def test_intervals_hold_the_truth(monkeypatch):
    """Of many made-up trainings with three seeds, 95 % and a bit more hold it; few seeds by resampling alone do not."""
    monkeypatch.setattr(statistics, "RESAMPLES", 200)
    rng, held = np.random.default_rng(1), 0
    for _ in range(200):
        chance = np.clip(rng.normal(0.6, 0.05, 3), 0, 1)
        column = (rng.random((3, 200)) < chance[:, None]).astype(float)
        _, low, high = interval(lambda a: a, column.ravel(), runs=3)
        held += low <= 0.6 <= high
    assert 0.92 < held / 200 <= 1


def test_memory_is_bounded():
    """All draws of 20,000 problems at once would be 320 MB."""
    tracemalloc.start()
    Bootstrap(20_000).means(np.ones((20_000, 3)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.2e8


def test_what_is_not_finite_is_absent():
    bootstrap = Bootstrap(4)
    values = bootstrap.means(np.array([[0.0], [0], [0], [1]]))[0]
    with np.errstate(divide="ignore"):
        assert bootstrap.interval(1 / values) is None and bootstrap.ratio(values, 1 / values) is None
    assert bootstrap.ratio(values, values) is None  # may be 0
    assert bootstrap.ratio(values, 2 * values + 1).value == pytest.approx(0.25 / 1.5)


def test_draws_repeat_and_chunks_do_not_matter(monkeypatch):
    columns = np.random.default_rng(0).random((300, 2))
    before = Bootstrap(300, 3).means(columns)
    monkeypatch.setattr(statistics, "CHUNK", 1000)
    assert Bootstrap(300, 3).means(columns) == pytest.approx(before)
    assert Bootstrap(300, 3).means(columns[:, :1])[0] == pytest.approx(before[0])


@pytest.mark.parametrize("low, high, n, said", [
    (0.01, 0.1, 20, "above"), (-0.1, -0.01, 20, "below"), (-0.01, 0.1, 20, "0 is in the interval"),
    (0.0, 0.1, 20, "0 is in the interval"), (0.01, 0.1, 19, "too few problems")])
def test_verdict(low, high, n, said):
    assert verdict(Estimate((low + high) / 2, low, high), n) == said


def test_student_s_quantiles():
    assert statistics.T == pytest.approx(stats.t.ppf(0.975, range(1, len(statistics.T) + 1)), abs=6e-4)


def test_a_share_stays_below_1():
    """Of two seeds, whose interval of the mean would reach far beyond."""
    bootstrap = Bootstrap(100, 2)
    found = bootstrap.share(bootstrap.means(np.repeat([0.9, 1.0], 50)[:, None])[0])
    assert found.high == 1 and found.low == pytest.approx(0.3147, abs=1e-4)
