"""
The most that any allocation of votes could attain: two clairvoyants with the same budget as IBPO.

IBPO (Yu et al., ICML 2025, arXiv 2501.17974) learns from a prompt who should vote. Its cap is on the share of votes;
what a model spends is measured in trials per response (Table 3), and a clairvoyant gets as many. It knows more than any
prompt tells:
    blind     each problem's pass rate and trials, with one trial and with a vote. Nothing of the response at hand.
    seeing    that, and whether the first trial of the response at hand is right, before it decides to go on. (An ASV
              model can try to judge that, too: its vote begins with the trial that it may stop after.)
The share of a clairvoyant's gain that a model gets says how much of the attainable it attains.

Nobody knows the pass rates. They are estimated on some samples, the choice is made by them, and *other* samples say
what it is worth. On its own samples a choice looks better than it is: it picks problems whose votes were lucky. On
others its cost may differ from the budget, too: score tells, and a model is to be compared at that cost. With true
rates the choice would be better still, so what we can compute is, on average, less than what could be attained. With
few samples it is much less (a problem whose votes gained nothing in four samples never votes), and flatters the model.

    known, unseen = blind(*some_samples), blind(*other_samples)
    accuracy, trials = score(allocate(known, budget=2.16), unseen)

    pytest tests/test_oracles.py
"""

import math
from numbers import Real
from typing import NamedTuple

import numpy as np

from ibpo import as_mask


class Choices(NamedTuple):
    """What the two ways to answer a problem are worth and cost: means over its samples."""
    stop: np.ndarray            # float[n], pass rate after one trial
    stop_trials: np.ndarray     # float[n]
    go_on: np.ndarray           # float[n], pass rate of the vote
    go_on_trials: np.ndarray    # float[n], trials of the vote, at least stop_trials


def blind(first_right, vote_right, vote_trials):
    """Oracle (i): one trial, or a vote whatever its first trial was. Returns Choices.

    first_right: bool[n, k], single trials; vote_right: bool[n, l]; vote_trials: int[n, l], at least 1 each. The votes
    may be other samples than the single trials, or begin with them.
    ValueError: shapes that differ, no samples, entries other than 0/1, NaN, fewer than 1 trial.
    """
    first_right, vote_right = as_mask("first_right", first_right), as_mask("vote_right", vote_right)
    vote_trials = _trials(vote_trials, vote_right)                                  # float[n, l]
    if len(first_right) != len(vote_right) or 0 in first_right.shape + vote_right.shape:
        raise ValueError(f"single trials {first_right.shape} and votes {vote_right.shape} must be of the same "
                         "problems, at least one sample each")
    return Choices(stop=first_right.mean(axis=1), stop_trials=np.ones(len(first_right)),
                   go_on=vote_right.mean(axis=1), go_on_trials=vote_trials.mean(axis=1))


def seeing(first_right, vote_right, vote_trials):
    """Oracle (ii): one trial, or on to the vote if and only if the first trial is wrong. Returns Choices.

    Column j is one and the same response: a vote, and whether its own first trial is right. So with the means over j
        pass rate   P(first right or vote right),    trials   E[1 if first right, else trials of the vote]
    or, for going on instead of stopping, the gain P(first wrong and vote right) and the cost E[(trials - 1) · wrong].

    Why not go on after a right trial? It is already right: a vote can only lose there, and costs trials. So the best
    of all rules that depend on the problem and on this one bit goes on after wrong trials or not at all.
    first_right, vote_right: bool[n, k]; vote_trials: int[n, k], at least 1.  ValueError: as in blind.
    """
    right = as_mask("first_right", first_right)                                       # bool[n, k]
    vote_right = as_mask("vote_right", vote_right)                                    # bool[n, k]
    if vote_right.shape != right.shape:
        raise ValueError(f"vote_right has the shape {vote_right.shape}, but first_right has {right.shape}")
    trials = _trials(vote_trials, right)                                            # float[n, k]
    return blind(right, right | vote_right, np.where(right, 1, trials))


def allocate(known, budget, rng=None):
    """Who goes on: share[n] in [0, 1] with the largest pass rate, the mean number of trials at most the budget.

    Maximises Σ_i share_i gain_i subject to Σ_i share_i extra_i <= n · (budget - mean stop_trials): a knapsack that may
    cut an item. Going down from the largest gain per additional trial until the budget is used up is optimal: moving
    a trial from a problem to one with a smaller ratio cannot gain (Dantzig 1957). At most one share is a fraction: that
    problem goes on at random, with this probability. A problem that gains nothing never goes on.

    known: Choices.  budget: trials per response, on average.  rng: Generator or seed, who comes first between equal
    ratios (with few samples many are equal); None: another draw each time.  Returns float[n].
    ValueError: a budget that is no number, or below the mean of stop_trials; a vote that costs less than stopping.
    """
    stop, stop_trials, go_on, go_on_trials = (np.asarray(column, float) for column in known)    # float[n] each
    gain, extra = go_on - stop, go_on_trials - stop_trials                          # float[n]
    if not (np.isfinite(gain) & (extra >= 0)).all():
        raise ValueError("known must be finite, and going on must not cost fewer trials than stopping")
    if not (isinstance(budget, Real) and math.isfinite(budget)):
        raise ValueError(f"budget must be a number, not {budget!r}")
    left = budget * len(gain) - stop_trials.sum()                                   # additional trials
    if left < -1e-9 * len(gain):
        raise ValueError(f"a budget of {budget} trials is below the {stop_trials.mean():.3g} that stopping costs")
    ratio = gain / np.where(extra > 0, extra, 1)                # float[n]; what costs nothing always finds room
    order = np.random.default_rng(rng).permutation(len(gain))                       # int[n]: ties at random
    order = order[np.argsort(-ratio[order], kind="stable")]                         # int[n]: the best ratio first
    order = order[gain[order] > 0]
    cost = extra[order]                                                             # float[...]
    before = np.cumsum(cost) - cost                                                 # float[...]: spent on better ones
    room = np.maximum(left - before, 0)                                             # float[...]
    share = np.zeros(len(gain))                                                     # float[n]
    share[order] = np.where(cost <= room, 1, room / np.where(cost > 0, cost, 1))
    return share


def score(share, unseen):
    """(accuracy, trials per response) of an allocation, share[n], on the Choices of other samples of the problems."""
    stop, stop_trials, go_on, go_on_trials = (np.asarray(column, float) for column in unseen)   # float[n] each
    share = np.asarray(share, float)                                                # float[n]
    if share.shape != stop.shape or not ((share >= 0) & (share <= 1)).all():
        raise ValueError(f"share must hold {len(stop)} numbers from 0 to 1")
    return (float(np.mean(stop + share * (go_on - stop))),
            float(np.mean(stop_trials + share * (go_on_trials - stop_trials))))


def _trials(vote_trials, like):
    """vote_trials as float[n, k], or a ValueError."""
    trials = np.asarray(vote_trials, dtype=float)                                   # float[n, k]
    if trials.shape != like.shape:
        raise ValueError(f"vote_trials has the shape {trials.shape}, but the votes have {like.shape}")
    if not (np.isfinite(trials) & (trials >= 1)).all():
        raise ValueError("a vote takes at least 1 trial")
    return trials
