"""Estimates with 95 % intervals: a bootstrap over problems, and over training seeds where there are several.

    bootstrap = Bootstrap(n)
    a, b = bootstrap.means(np.stack([right_of_a, right_of_b], axis=1))  # from float[n, 2]
    bootstrap.interval(a - b)                                           # Estimate(value, low, high)

A mean is an array: the mean itself first, then those of each seed, then the resampled ones. Statistics are arithmetic
on such arrays. All means of a Bootstrap share the resampled problems, so differences are paired.
"""

from typing import NamedTuple

import numpy as np

RESAMPLES = 2000
CHUNK = 1 << 22  # numbers drawn at once: bounds the memory


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


class Bootstrap:
    """Resampled means over n problems.

    runs: how often the training was repeated. Columns then hold the problems of one seed after those of the other,
    n / runs each. Seeds are resampled first, then the problems of every seed that was drawn (each time it was).
    """

    def __init__(self, n: int, runs: int = 1, seed: int = 0):
        self.n, self.runs, self.seed = n, runs, seed

    def means(self, columns: np.ndarray) -> np.ndarray:
        """The means of columns float[n, c]: float[c, 1 + runs + RESAMPLES]. The draws are the same at every call."""
        size = self.n // self.runs
        parts = np.asarray(columns, float).reshape(self.runs, size, -1)  # [runs, n / runs, c]
        rng = np.random.default_rng(self.seed)
        times = rng.multinomial(self.runs, np.full(self.runs, 1 / self.runs), size=RESAMPLES)  # int[R, runs]
        sums = np.zeros((RESAMPLES, parts.shape[2]))  # [R, c]
        rows = max(CHUNK // size, 1)
        for part, drawn in zip(parts, times.T):
            for i in range(0, RESAMPLES, rows):
                counts = rng.multinomial(size * drawn[i : i + rows], np.full(size, 1 / size))  # int[rows, n / runs]
                sums[i : i + rows] += counts.astype(float) @ part
        once = np.concatenate([parts.mean(axis=(0, 1))[None], parts.mean(axis=1)])  # [1 + runs, c]
        return np.concatenate([once, sums / self.n]).T

    def interval(self, values: np.ndarray) -> Estimate | None:
        """The percentile interval of a statistic of means: float[1 + runs + RESAMPLES]; None unless all are finite."""
        if not np.isfinite(values).all():
            return None
        low, high = np.percentile(values[1 + self.runs :], [2.5, 97.5])
        return Estimate(float(values[0]), float(low), float(high))
