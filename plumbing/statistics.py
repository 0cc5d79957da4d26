"""Estimates with 95 % intervals: a bootstrap over problems, and over training seeds where there are several.

    bootstrap = Bootstrap(n)
    a, b = bootstrap.means(np.stack([right_of_a, right_of_b], axis=1))  # from float[n, 2]
    bootstrap.difference(a - b)                                         # Estimate(value, low, high)

A mean is an array: the mean itself first, then that of each seed, then the resampled ones. Statistics are arithmetic on
such arrays. All means of a Bootstrap share the resampled problems, so differences are paired.
"""

from typing import NamedTuple

import numpy as np

RESAMPLES = 2000
CHUNK = 1 << 22  # numbers drawn at once: bounds the memory
Z = 1.96  # the 97.5 % quantile of the normal distribution
T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)  # of Student's t, by degrees of freedom
FEWEST = 20  # problems; of fewer nothing is said to be above or below


class Estimate(NamedTuple):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


def percent(estimate: Estimate | None, digits: int = 2) -> str:
    """"74.7 [74.3, 75.0]" of a share; "" where there is none."""
    return number(estimate and Estimate(*(100 * x for x in estimate)), digits)


def number(estimate: Estimate | None, digits: int) -> str:
    """"2.97 [2.93, 3.02]"; "" where there is none."""
    return "" if estimate is None else "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*estimate, d=digits)


def verdict(difference: Estimate, problems: int) -> str:
    """Whether a difference over so many problems can be told from 0."""
    if problems < FEWEST:
        return "too few problems"
    return "above" if difference.low > 0 else "below" if difference.high < 0 else "0 is in the interval"


class Bootstrap:
    """Resampled means over n problems.

    runs: how often the training was repeated, with another seed. Columns then hold the problems of one seed after those
    of the other, n / runs each. Seeds are resampled first, then the problems of every seed that was drawn (each time it
    was).
    """

    def __init__(self, n: int, runs: int = 1):
        self.n, self.runs = n, runs

    def means(self, columns: np.ndarray) -> np.ndarray:
        """The means of columns float[n, c]: float[c, 1 + runs + RESAMPLES]. The draws are the same at every call."""
        size = self.n // self.runs
        parts = np.asarray(columns, float).reshape(self.runs, size, -1)  # [runs, n / runs, c]
        rng = np.random.default_rng(0)
        times = rng.multinomial(self.runs, np.full(self.runs, 1 / self.runs), size=RESAMPLES)  # int[R, runs]
        sums = np.zeros((RESAMPLES, parts.shape[2]))  # [R, c]
        rows = max(CHUNK // size, 1)
        for part, drawn in zip(parts, times.T):
            for i in range(0, RESAMPLES, rows):
                counts = [np.bincount(rng.integers(size, size=size * t), minlength=size) for t in drawn[i : i + rows]]
                sums[i : i + rows] += np.array(counts, float) @ part
        once = np.concatenate([parts.mean(axis=(0, 1))[None], parts.mean(axis=1)])  # [1 + runs, c]
        return np.concatenate([once, sums / self.n]).T

    def interval(self, values: np.ndarray, limits: tuple[float, float] = (-np.inf, np.inf),
                 n: int = None) -> Estimate | None:
        """The interval of a statistic of means, float[1 + runs + RESAMPLES]; None unless all are finite.

        The percentiles of the resampled values. With several seeds, the wider of these and a t interval over the seeds:
        resampling three seeds shows two thirds of the variance between them. Where all resampled values are equal, as
        of five problems that are all right, the bootstrap knows nothing, and the interval allows for what n problems
        cannot show: that a share z² / (n + z²) of all problems is anywhere within the limits. Of a share of right
        answers this is Wilson's interval.
        limits: the least and the largest value possible. n: problems that the values are of (None: all of them).
        """
        if not np.isfinite(values).all():
            return None
        value, of_runs, resampled = values[0], values[1 : 1 + self.runs], values[1 + self.runs :]
        low, high = np.percentile(resampled, [2.5, 97.5])
        if np.ptp(resampled) < 1e-9 and np.isfinite(limits).all():
            unseen = Z**2 / ((n or self.n) + Z**2)
            low, high = value - unseen * (value - limits[0]), value + unseen * (limits[1] - value)
        if self.runs > 1:
            half = T[min(self.runs - 1, len(T)) - 1] * of_runs.std(ddof=1) / self.runs**0.5
            if 2 * half > high - low:
                low, high = of_runs.mean() - half, of_runs.mean() + half
        low, high = min(max(low, limits[0]), value), max(min(high, limits[1]), value)
        return Estimate(float(value), float(low), float(high))

    def share(self, values: np.ndarray) -> Estimate | None:
        """The interval of a share, from 0 to 1."""
        return self.interval(values, (0, 1))

    def ratio(self, values: np.ndarray, reference: np.ndarray) -> Estimate | None:
        """The interval of values / reference; None if the reference may be 0 or less: a share of nothing is nothing."""
        found = self.interval(reference)
        if found is None or found.low <= 0:
            return None
        return self.interval(values / np.maximum(reference, 1e-9))

    def difference(self, values: np.ndarray) -> Estimate | None:
        """The interval of a difference of shares, from -1 to 1."""
        return self.interval(values, (-1, 1))
