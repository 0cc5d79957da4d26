"""
Which sampled responses to learn from, under an inference budget.

The heart of "Think Smarter not Harder: Adaptive Reasoning with Inference Aware Optimization" (Yu et al., ICML
2025, arXiv 2501.17974): Sections 2-3, Eq. (6)-(8), Table 1. For n prompts with m sampled responses each,
    correct[n, m]    the final answer matches the ground truth (r_match)
    extended[n, m]   the response votes over several trials (group G₊); the others are one trial (group G∘)
    cap              q₊: at most this share of the accepted responses may be extended
become weights[n, m], and train.py takes one gradient step on -Σ_ij weights_ij log π(y_ij | x_i) / n, Eq. (5). The
budget acts nowhere else. Only numpy is needed.

    python ibpo.py      prints the paper's worked example (Table 2)

Read reward_margin, Eq. (6), feasible_set, Eq. (7), and select_ibpo, Eq. (8), in this order, then the other rows of
Table 1, CGPO, and two controls: random groups, and the margin without a cap.

Where the paper's SciPy listing (App. H) contradicts its equations, the equations win. Where they are silent,
we decide. Each is a test in tests/test_ibpo.py:
  D1  The pass rate of a group is a mean over the samples of *that group*, Eq. (6). The listing divides by all
      m samples, which can turn the sign of the margin.
  D2  Each prompt gets exactly one accepted response wherever possible. The listing says at most one, so that
      prompts beyond the cap are lost instead of getting a regular response.
  D3  The cap is a share of the *accepted* responses (Table 2). The listing allows round(q₊ n m) extended
      ones: this never binds for q₊ >= 1/m, since at most n are accepted.
  D4  If one of the groups was not sampled, the margin is 0: no evidence, no budget. The listing gives an
      unseen group the pass rate 0, which rewards voting on easy prompts.
  D5  A prompt with nothing feasible is dropped, and counted. "Exactly one" would have no solution.
  D6  If more prompts *need* an extended response than the cap allows, as many prompts as possible come first,
      then the largest margin. Those with the smallest margins are dropped, and counted.
A malformed response (valid = False) belongs to neither group: it is never accepted and enters no pass rate.
"""

import math
from numbers import Real
from typing import NamedTuple

import numpy as np

ROUNDING = 1e-9     # responses; 0.29 * 100 is 28.999999999999996 and means 29


class Selection(NamedTuple):
    """What a method accepted. Printing it gives a one-line report."""
    weights: np.ndarray         # float[n, m]: 1 = learn from this response, 0 = do not (baselines.py: any numbers)
    accepted: int               # number of responses with weight 1 (any above 0)
    extended: int               # number of extended ones among them
    dropped_no_correct: int     # prompts without a single response that may be accepted (D5)
    dropped_over_cap: int       # prompts that only an extended response could serve, beyond the cap (D6)

    def __str__(self):
        share = self.extended / max(self.accepted, 1)
        return (f"accepted {self.accepted}, extended {self.extended} of them ({share:.1%}); dropped prompts: "
                f"{self.dropped_no_correct} nothing correct, {self.dropped_over_cap} over the cap")


# ---- Eq. (6) and (7): what a vote is worth, and what may be accepted at all ----

def reward_margin(correct, extended, valid=None):
    """Δ = r̄(x, G₊) - r̄(x, G∘), Eq. (6): what voting adds to a prompt's pass rate; float[n] in [-1, 1].

    The margin of every extended response of the prompt is Δ, that of every regular one -Δ, right or wrong.
    Large: the prompt is worth the budget. Near 0: easy, or hopeless, either way. Exactly 0 if a group has no
    valid sample (D4).

    correct, extended, valid: bool[n, m] or 0/1; valid=None: all are valid.
    ValueError: shapes that differ, entries other than 0/1, NaN.
    """
    correct = _mask("correct", correct)                                             # bool[n, m]
    extended = _mask("extended", extended, correct.shape)                           # bool[n, m]
    valid = _mask("valid", valid, correct.shape, missing=True)                      # bool[n, m]
    vote, regular = extended & valid, ~extended & valid                             # bool[n, m]: G₊ and G∘
    n_vote, n_regular, right_vote, right_regular = _count(np.concatenate(
        (vote, regular, vote & correct, regular & correct))).reshape(4, -1)         # float[n] each
    # Eq. (6), D1:  right_vote / n_vote - right_regular / n_regular.  Over the common denominator this is one
    # division of whole numbers, so equal margins are equal floats (1 - 2/3 and 1/3 - 0 are not).
    gain = right_vote * n_regular - right_regular * n_vote                          # float[n]
    return gain / np.maximum(n_vote * n_regular, 1)                                 # D4: 0/1 if one is empty


def feasible_set(correct, valid=None, kl=None, kl_max=None):
    """Ξ, Eq. (7): which responses may be accepted. bool[n, m]: correct, valid, and near the reference policy.

    kl: float[n, m], log π(y|x) - log π_ref(y|x) of whole responses, in nats; kl_max: the largest one allowed.
    ValueError: as in reward_margin, and if only one of kl and kl_max is given.
    """
    correct = _mask("correct", correct)                                             # bool[n, m]
    valid = _mask("valid", valid, correct.shape, missing=True)                      # bool[n, m]
    if kl is None and kl_max is None:
        return correct & valid                                                      # Eq. (7) without the KL bound
    if kl is None or kl_max is None:
        raise ValueError("kl and kl_max belong together: give both or neither")
    kl = np.asarray(kl, dtype=float)                                                # float[n, m]
    if kl.shape != correct.shape:
        raise ValueError(f"kl has the shape {kl.shape}, but correct has {correct.shape}")
    if np.isnan(kl).any() or np.isnan(kl_max):
        raise ValueError("kl and kl_max must not be NaN")
    return correct & valid & (kl <= kl_max)                                         # Eq. (7)


# ---- Eq. (8): inference under a budget ----

def select_ibpo(correct, extended, cap, valid=None, feasible=None, rng=None):
    """OPT_IuB, Eq. (8): one response per prompt, the largest total margin, at most a share cap extended.

    correct, extended, valid: bool[n, m] or 0/1, as in reward_margin.  cap: q₊, a number from 0 to 1.
    feasible: bool[n, m], a further filter on what may be accepted (the KL of Eq. (7)); it leaves the margins alone.
    rng: a numpy Generator, or a seed, for ties and for the choice within a group. None is numpy's default,
    another draw each time: pass a Generator where a run must repeat.
    Returns a Selection.  ValueError: shapes that differ, entries other than 0/1, NaN, cap outside [0, 1].
    """
    margin = reward_margin(correct, extended, valid)                                # float[n], Eq. (6)
    return _maximise(margin, correct, extended, cap, valid, feasible, rng)


def _maximise(margin, correct, extended, cap, valid, feasible, rng):
    """Solve Eq. (8) exactly, by counting and one sort. No solver is needed.

    An accepted response counts +Δ if extended and -Δ if regular, so all there is to decide is who votes. Let
        U = the prompts with a feasible regular response: all accepted, since staying regular costs no budget,
        F = the prompts whose only feasible responses are extended: forced to vote or be dropped.
    With f of F accepted and u of U upgraded to a vote, the cap reads  f + u <= q₊ (|U| + f).
    Make f as large as that allows, then u; each time the largest Δ first, and no upgrade without Δ > 0.
    """
    if not (isinstance(cap, Real) and 0 <= cap <= 1):                               # false for NaN, too
        raise ValueError(f"cap must be a number from 0 to 1, not {cap!r}")
    cap, rng = float(cap), np.random.default_rng(rng)
    allowed, extended = _allowed(correct, extended, valid, feasible)                # bool[n, m]: Ξ and G₊
    regular, vote = allowed & ~extended, allowed & extended                         # bool[n, m]
    can_stay, can_vote = regular.any(axis=1), vote.any(axis=1)                      # bool[n], U; bool[n]
    forced = can_vote & ~can_stay                                                   # bool[n], F
    upgradable = can_vote & can_stay & (margin > 0)                                 # bool[n]
    n_stay, n_forced = int(np.count_nonzero(can_stay)), int(np.count_nonzero(forced))   # |U|, |F|

    # Eq. (8), the cap, as in D3:  f + u <= cap (|U| + f).  First the largest f (D6), then the largest u.
    f = n_forced if cap == 1 else min(n_forced, math.floor(cap * n_stay / (1 - cap) + ROUNDING))
    u = max(math.floor(cap * (n_stay + f) + ROUNDING) - f, 0)                       # -1 by rounding, rarely
    order = np.lexsort((rng.random(len(margin)), -margin))                          # largest Δ first, ties at random
    votes = np.zeros(len(margin), bool)                                             # bool[n]
    votes[order[forced[order]][:f]] = True
    votes[order[upgradable[order]][:u]] = True                                      # Eq. (8), the maximum
    # D2: who does not vote gets a regular response. A forced prompt beyond the cap has none: dropped (D6).
    accepted = _one_per_prompt(np.where(votes[:, None], vote, regular), rng)        # bool[n, m]
    return _selection(accepted, extended, can_stay | can_vote, dropped_over_cap=n_forced - f)


def _one_per_prompt(choices, rng):
    """bool[n, m]: one random marked response of each prompt that has any."""
    ticket = choices - rng.random(choices.shape)                        # float[n, m], above 0 if it is marked
    drawn = ticket.argmax(axis=1, keepdims=True)                        # int[n, 1]
    return choices & (drawn == np.arange(choices.shape[1]))             # bool[n, m]; none where none was marked


def share_ties(weights, correct, extended, valid=None, feasible=None):
    """The weight of each accepted response, spread evenly over all that its prompt could have given instead.

    Within a group all feasible responses tie in Eq. (8), and the paper draws one. The mean over all draws has the
    same expected gradient with less noise, and costs no further sample.
    weights: float[n, m] of a Selection; the other arguments as in select_ibpo. A prompt of which several responses
    were accepted (SFT, RFT), or one that is not feasible (RAFT), keeps its weights. Returns float[n, m].
    """
    allowed, extended = _allowed(correct, extended, valid, feasible)                # bool[n, m]: Ξ and G₊
    weights = np.asarray(weights, float)                                            # float[n, m]
    votes = (weights * extended).any(axis=1, keepdims=True)                         # bool[n, 1]: accepted a vote
    ties = allowed & (extended == votes)                                            # bool[n, m]
    spread = (np.count_nonzero(weights, axis=1) == 1) & ties.any(axis=1)            # bool[n]
    share = ties / np.maximum(_count(ties), 1)[:, None]                             # float[n, m]
    return np.where(spread[:, None], weights.sum(axis=1, keepdims=True) * share, weights)


# ---- The other rows of Table 1, and CGPO: no budget ----

def select_cgpo(correct, extended=None, valid=None, feasible=None, rng=None):
    """CGPO (Xu et al. 2024, arXiv 2409.20370): one random member of Ξ, Eq. (7), per prompt; no budget.

    Arguments, errors and Selection as in select_ibpo. extended is for the count only; None: all are regular.
    """
    allowed, extended = _allowed(correct, extended, valid, feasible)
    return _selection(_one_per_prompt(allowed, np.random.default_rng(rng)), extended, allowed.any(axis=1))


def select_sft(correct, extended=None, valid=None, feasible=None, rng=None):
    """SFT, Table 1: every valid response, right or wrong; for rows of dataset responses. As select_cgpo."""
    given, extended = _allowed(np.ones_like(correct), extended, valid, feasible)
    return _selection(given, extended, given.any(axis=1))


def select_rft(correct, extended=None, valid=None, feasible=None, rng=None):
    """RFT, Table 1: all of Ξ, so that an easy prompt weighs more than a hard one. As select_cgpo."""
    allowed, extended = _allowed(correct, extended, valid, feasible)
    return _selection(allowed, extended, allowed.any(axis=1))


def select_raft(correct, extended=None, valid=None, feasible=None, rng=None):
    """RAFT (best of m), Table 1: one response with the prompt's best reward, ties at random. As select_cgpo.

    With a 0/1 reward this is CGPO, except that the best of an all-wrong row is wrong, and accepted.
    """
    right, extended = _allowed(correct, extended, valid, feasible)
    given, _ = _allowed(np.ones_like(correct), extended, valid, feasible)
    best = np.where(right.any(axis=1, keepdims=True), right, given)                 # bool[n, m]
    return _selection(_one_per_prompt(best, np.random.default_rng(rng)), extended, given.any(axis=1))


# ---- Controls, and all methods by name ----

def select_random(correct, extended, cap, valid=None, feasible=None, rng=None):
    """Control: select_ibpo with random margins. Does it matter *who* votes, or only how many do?

    It accepts as many prompts as IBPO. But which forced prompts it keeps, and which ones with both kinds of
    feasible response it upgrades, is random, whatever the sign of Δ. It spends the cap even where IBPO stops
    because no Δ > 0 is left: the control never has fewer votes than IBPO. As select_ibpo otherwise.
    """
    rng = np.random.default_rng(rng)
    margin = 1.0 + rng.permutation(len(_mask("extended", extended)))                # float[n]: > 0, no ties
    return _maximise(margin, correct, extended, cap, valid, feasible, rng)


# name -> function(correct, extended, cap, valid=, feasible=, rng=). Only the last two heed the cap; "margin"
# is IBPO without one.
METHODS = {
    "sft": lambda correct, extended, cap, **rest: select_sft(correct, extended, **rest),
    "rft": lambda correct, extended, cap, **rest: select_rft(correct, extended, **rest),
    "raft": lambda correct, extended, cap, **rest: select_raft(correct, extended, **rest),
    "cgpo": lambda correct, extended, cap, **rest: select_cgpo(correct, extended, **rest),
    "margin": lambda correct, extended, cap, **rest: select_ibpo(correct, extended, 1.0, **rest),
    "random": select_random,
    "ibpo": select_ibpo,
}


# ---- Helpers ----

def _mask(name, values, shape=None, missing=None):
    """values as bool[n, m] of the given shape, or `missing` for all where they are None; else a ValueError."""
    if values is None and missing is not None:
        return np.full(shape, missing)
    values = np.asarray(values)
    if values.ndim != 2:
        raise ValueError(f"{name} must be an array [prompts, responses], not of shape {values.shape}")
    if shape is not None and values.shape != shape:
        raise ValueError(f"{name} has the shape {values.shape}, but correct has {shape}")
    if values.dtype != bool and not ((values == 0) | (values == 1)).all():
        raise ValueError(f"{name} must hold only True and False, or 1 and 0")
    return values.astype(bool, copy=False)


def _allowed(correct, extended, valid, feasible):
    """bool[n, m] twice: which responses may be accepted, and which are extended."""
    allowed = feasible_set(correct, valid)
    extended = _mask("extended", extended, allowed.shape, missing=False)
    return (allowed if feasible is None else allowed & _mask("feasible", feasible, allowed.shape)), extended


def _selection(accepted, extended, can_serve, dropped_over_cap=0):
    """The record of these accepted responses, bool[n, m]. can_serve: bool[n], prompts with any that may be."""
    counts = [np.count_nonzero(accepted), np.count_nonzero(accepted & extended),
              len(can_serve) - np.count_nonzero(can_serve), dropped_over_cap]
    return Selection(accepted.astype(float), *map(int, counts))


def _count(mask):
    """float[n]: the marked ones of each row. On thousands of rows five times faster than mask.sum(axis=1)."""
    return mask.dot(np.ones(mask.shape[1]))


if __name__ == "__main__":
    # Table 2: two prompts, columns 1-2 regular, 3-4 extended. The first is easy, the second gains by voting.
    correct = np.array([[1, 1, 1, 1], [1, 0, 1, 1]])
    extended = np.array([[0, 0, 1, 1], [0, 0, 1, 1]])
    margin = reward_margin(correct, extended)
    print("Table 2. Each row: two regular responses, then two extended ones. Shares are of 1,000 draws.\n")
    rngs = range(1000)
    taken = {"IBPO, cap 50%": np.mean([select_ibpo(correct, extended, 0.5, rng=rng).weights for rng in rngs], axis=0),
             "CGPO, no cap": np.mean([select_cgpo(correct, extended, rng=rng).weights for rng in rngs], axis=0)}
    for i in range(2):
        print(f"prompt {i + 1}:  correct {correct[i]}, margin of voting {margin[i]:+.1f}")
        for method, weights in taken.items():
            print(f"    {method:14} takes {' '.join(f'{share:4.0%}' for share in weights[i])}"
                  f"   a vote in {weights[i, 2:].sum():4.0%}")
    print(f"\nOne draw of IBPO:  {select_ibpo(correct, extended, cap=0.5, rng=1)}")
