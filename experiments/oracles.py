"""The most that any allocation of votes could attain: clairvoyants with the same budget as IBPO.

IBPO (Yu et al., ICML 2025, arXiv 2501.17974) learns from a prompt who should vote. Its cap is on the share of votes;
what a model spends is measured in trials per response (Table 3), and a clairvoyant gets as many. It knows
    group     the level and the kind of a problem, and what one trial and a vote are worth and cost in this group
    blind     each problem's pass rate and trials, with one trial and with a vote. Nothing of the response at hand.
    seeing    that, and whether the first trial of the response at hand is right, before it decides to go on. (An ASV
              model can try to judge that, too: its vote begins with the trial that it may stop after.)

Nobody knows the pass rates. They are estimated on some samples, the choice is made by them, and *other* samples say
what it is worth: on its own samples a choice looks better than it is. The rate of eight samples is so noisy that
choosing by it may be worse than choosing by the group alone. So rates are predicted from the samples and the group
together (`predict`). With true rates the choice would be better still: what can be computed is, on average, less than
what could be attained.

    known, unseen = blind(*some_samples, groups=groups), blind(*other_samples)
    accuracy, trials = score(allocate(known, budget=2.16), unseen)

    pytest tests/test_oracles.py
"""

import math
from numbers import Real
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ibpo import as_mask


class Choices(NamedTuple):
    """What the two ways to answer a problem are worth and cost."""

    stop: np.ndarray  # float[n], pass rate after one trial
    stop_trials: np.ndarray  # float[n]
    go_on: np.ndarray  # float[n], pass rate of the vote
    go_on_trials: np.ndarray  # float[n], trials of the vote, at least stop_trials


def blind(first_right: ArrayLike, vote_right: ArrayLike, vote_trials: ArrayLike, groups: np.ndarray = None) -> Choices:
    """Oracle (i): one trial, or a vote whatever its first trial was.

    first_right: bool[n, k], single trials; vote_right: bool[n, l]; vote_trials: int[n, l], at least 1 each. The votes
    may be other samples than the single trials, or begin with them. groups: int[n], to predict the rates from samples
    and group; None: the means over the samples.
    ValueError: shapes that differ, no samples, entries other than 0/1, NaN, fewer than 1 trial.
    """
    first_right, vote_right = as_mask("first_right", first_right), as_mask("vote_right", vote_right)
    vote_trials = _trials(vote_trials, vote_right)  # float[n, l]
    if len(first_right) != len(vote_right) or 0 in first_right.shape + vote_right.shape:
        raise ValueError(f"single trials {first_right.shape} and votes {vote_right.shape} must be of the same "
                         "problems, at least one sample each")
    return _choices([first_right[:, :, None], np.stack([vote_right, vote_trials], axis=2)], groups)


def seeing(first_right: ArrayLike, vote_right: ArrayLike, vote_trials: ArrayLike, groups: np.ndarray = None) -> Choices:
    """Oracle (ii): one trial, or on to the vote if and only if the first trial is wrong.

    Column j is one and the same response: a vote, and whether its own first trial is right. So with the means over j
        pass rate   P(first right or vote right),    trials   E[1 if first right, else trials of the vote]
    or, for going on instead of stopping, the gain P(first wrong and vote right) and the cost E[(trials - 1) · wrong].

    Why not go on after a right trial? It is already right: a vote can only lose there, and costs trials. So the best
    of all rules that depend on the problem and on this one bit goes on after wrong trials or not at all.
    first_right, vote_right: bool[n, k]; vote_trials: int[n, k], at least 1. groups, ValueError: as in blind.
    """
    right = as_mask("first_right", first_right)  # bool[n, k]
    vote_right = as_mask("vote_right", vote_right)  # bool[n, k]
    if vote_right.shape != right.shape:
        raise ValueError(f"vote_right has the shape {vote_right.shape}, but first_right has {right.shape}")
    trials = _trials(vote_trials, right)  # float[n, k]
    if 0 in right.shape:
        raise ValueError(f"single trials {right.shape} must be at least one sample of a problem")
    return _choices([np.stack([right, right | vote_right, np.where(right, 1, trials)], axis=2)], groups)


def by_group(known: Choices, groups: np.ndarray, of: np.ndarray) -> Choices:
    """What is known by the group alone: the means of groups int[n], for problems of the groups `of`, int[any].

    Of a group without a known problem it is the mean of all.
    """
    columns = []
    for column in known:
        mean, means = column.mean(), {group: column[groups == group].mean() for group in np.unique(groups).tolist()}
        columns.append(np.array([means.get(group, mean) for group in of.tolist()]))  # float[any]
    return Choices(*columns)


def predict(samples: list[np.ndarray], groups: np.ndarray) -> np.ndarray:
    """Predict each problem's means from its samples and its group: float[n, d], d quantities in all.

    The best linear prediction within a group (empirical Bayes; James and Stein's in several dimensions). With the
    group's mean μ, the covariance T of the samples' means over its problems, and the part N of it that is noise of
    sampling, a problem with the means x is predicted to have  μ + (T - N) T⁻¹ (x - μ). N is estimated from how the
    samples of a problem differ from each other.
    samples: float[n, k, ...] each, quantities that are sampled together; k may differ, at least 2.
    """
    means = np.concatenate([x.mean(axis=1) for x in samples], axis=1)  # float[n, d]
    predicted = np.empty_like(means)
    for group in np.unique(groups):
        at = groups == group  # bool[n]
        noise, place = np.zeros((means.shape[1],) * 2), 0  # float[d, d]
        for x in samples:
            apart, (_, k, d) = x[at] - x[at].mean(axis=1, keepdims=True), x.shape  # float[n_group, k, d]
            covariance = np.einsum("ikd,ike->de", apart, apart) / (len(apart) * (k - 1))  # float[d, d]: of one sample
            noise[place : place + d, place : place + d] = covariance / k
            place += d
        centre = means[at].mean(axis=0)  # float[d]
        apart = means[at] - centre  # float[n_group, d]
        values, vectors = np.linalg.eigh(apart.T @ apart / max(len(apart) - 1, 1) - noise)
        signal = (vectors * np.maximum(values, 0)) @ vectors.T  # float[d, d]: no negative variance
        predicted[at] = centre + apart @ np.linalg.pinv(signal + noise, rcond=1e-9, hermitian=True) @ signal
    return predicted


def allocate(known: Choices, budget: float, rng: np.random.Generator | int = None) -> np.ndarray:
    """Who goes on: share[n] in [0, 1] with the largest pass rate, the mean number of trials at most the budget.

    Maximises Σ_i share_i gain_i subject to Σ_i share_i extra_i <= n · (budget - mean stop_trials): a knapsack that may
    cut an item. Going down from the largest gain per additional trial until the budget is used up is optimal: moving
    a trial from a problem to one with a smaller ratio cannot gain (Dantzig 1957). At most one share is a fraction: that
    problem goes on at random, with this probability. A problem that gains nothing never goes on.

    budget: trials per response, on average.  rng: Generator or seed, who comes first between equal ratios (with few
    samples many are equal); None: another draw each time.  Returns float[n].
    ValueError: a budget that is no number, or below the mean of stop_trials; a vote that costs less than stopping.
    """
    stop, stop_trials, go_on, go_on_trials = (np.asarray(column, float) for column in known)  # float[n] each
    gain, extra = go_on - stop, go_on_trials - stop_trials  # float[n] each
    if not (np.isfinite(gain) & (extra >= 0)).all():
        raise ValueError("known must be finite, and going on must not cost fewer trials than stopping")
    if not (isinstance(budget, Real) and math.isfinite(budget)):
        raise ValueError(f"budget must be a number, not {budget!r}")
    left = budget * len(gain) - stop_trials.sum()  # additional trials
    if left < -1e-9 * len(gain):
        raise ValueError(f"a budget of {budget} trials is below the {stop_trials.mean():.3g} that stopping costs")
    ratio = gain / np.where(extra > 0, extra, 1)  # float[n]; what costs nothing always finds room
    order = np.random.default_rng(rng).permutation(len(gain))  # int[n]: ties at random
    order = order[np.argsort(-ratio[order], kind="stable")]  # int[n]: the best ratio first
    order = order[gain[order] > 0]
    cost = extra[order]  # float[...]
    before = np.cumsum(cost) - cost  # float[...]: spent on better ones
    room = np.maximum(left - before, 0)  # float[...]
    share = np.zeros(len(gain))  # float[n]
    share[order] = np.where(cost <= room, 1, room / np.where(cost > 0, cost, 1))
    return share


def outcome(share: ArrayLike, unseen: Choices) -> np.ndarray:
    """Pass rate and trials of each problem, float[n, 2], by an allocation share[n] and the Choices of other samples."""
    stop, stop_trials, go_on, go_on_trials = (np.asarray(column, float) for column in unseen)  # float[n] each
    share = np.asarray(share, float)  # float[n]
    if share.shape != stop.shape or not ((share >= 0) & (share <= 1)).all():
        raise ValueError(f"share must hold {len(stop)} numbers from 0 to 1")
    return np.stack([stop + share * (go_on - stop), stop_trials + share * (go_on_trials - stop_trials)], axis=1)


def score(share: ArrayLike, unseen: Choices) -> tuple[float, float]:
    """(accuracy, trials per response) of an allocation: the means of its outcome."""
    accuracy, trials = outcome(share, unseen).mean(axis=0)
    return float(accuracy), float(trials)


def _choices(samples: list[np.ndarray], groups: np.ndarray | None) -> Choices:
    """From samples of (stop, go_on, go_on_trials): their means, or what is predicted from them and the groups."""
    samples = [x.astype(float) for x in samples]  # float[n, k, ...] each
    if groups is None:
        means = np.concatenate([x.mean(axis=1) for x in samples], axis=1)  # float[n, 3]
    else:
        means = predict(samples, groups)
    stop, go_on, trials = means.T
    return Choices(stop.clip(0, 1), np.ones(len(stop)), go_on.clip(0, 1), np.maximum(trials, 1))


def _trials(vote_trials: ArrayLike, like: np.ndarray) -> np.ndarray:
    """vote_trials as float[n, k], or a ValueError."""
    trials = np.asarray(vote_trials, dtype=float)  # float[n, k]
    if trials.shape != like.shape:
        raise ValueError(f"vote_trials has the shape {trials.shape}, but the votes have {like.shape}")
    if not (np.isfinite(trials) & (trials >= 1)).all():
        raise ValueError("a vote takes at least 1 trial")
    return trials
