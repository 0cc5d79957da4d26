"""
What else one could do with the same responses: rungs of the ablation ladder that ibpo.py lacks.

For n prompts with m judged responses each, three ways to choose weights[n, m]. As in Eq. (5) of the paper (Yu et
al., ICML 2025, arXiv 2501.17974), the gradient step is on -Σ_ij weights_ij log π(y_ij | x_i) / n; log π is a sum over
tokens.
    listing          the SciPy listing (App. H) as it behaves, not as Eq. (6)-(8) say: departures D1-D5 of ibpo.py
    grpo             group-normalised advantages (Shao et al. 2024, arXiv 2402.03300): no budget, no length term
    length_penalty   tokens have a price in the reward, and a policy gradient does the rest (compare Arora and Zanette
                     2025, arXiv 2502.04463: their price is on correct responses only)
The weights of the last two may be negative: wrong responses are pushed away, not only left out. They are policy
gradients of what is sampled only if that is sampled from π itself, with temperature 1 and top-p 1.

And one without training, to be compared at equal trials (after Aggarwal et al. 2023, arXiv 2305.11860):
    adaptive_self_consistency    separate samples, as many as the stop rule of sequential voting asks for (Sec. 4)

    pytest tests/test_baselines.py
"""

import math
from numbers import Real

import numpy as np

import ibpo
from voting import CONSENSUS, MAX_TRIALS


# ---- Weights for one gradient step ----

def listing(correct, extended, cap, valid=None, feasible=None, rng=None):
    """The program of the paper's listing: at most one response per prompt, at most round(q₊ n m) extended ones.

    D1, D4: the pass rate of a group is the number of its correct responses over all m; 0 if it was not sampled.
    D2: "at most one". D3: the limit counts samples, not accepted responses; from q₊ = 1/m on it never binds.
    D5: a prompt with nothing correct is dropped.

    Exact without a solver. With Δ = pass rate of votes - pass rate of the others, a prompt can add 0 (nothing
    accepted), -Δ (a regular response, at no cost) or +Δ (a vote, one unit of the limit). So, as far as feasible:
        Δ < 0   a regular response: it is the prompt's best option, and free.
        Δ > 0   a vote or nothing. Of v votes, those with the v largest Δ add most, and one more never hurts:
                the largest Δ, up to the limit. The others get nothing, although they may have a regular response.
        Δ = 0   all add 0. Nothing is accepted: the easy prompt and the undecided one are lost, as they are with
                scipy's solver (HiGHS); another solver might accept any response here.
    Ties are drawn at random, uniformly: between equal Δ at the limit, and between the responses of a group. (HiGHS
    draws nothing: it returns some optimum that depends on the order of the responses.)

    correct, extended, valid, feasible: bool[n, m] or 0/1; cap: q₊; rng: all as in ibpo.select_ibpo, also the errors.
    Returns float[n, m], 0 or 1.
    """
    cap, rng = _number("cap", cap, 0, 1), np.random.default_rng(rng)
    right = ibpo.feasible_set(correct, valid)                                       # bool[n, m]
    extended = ibpo._mask("extended", extended, right.shape)                        # bool[n, m]
    allowed = right & ibpo._mask("feasible", feasible, right.shape, missing=True)   # bool[n, m]
    margin = ibpo._count(right & extended) - ibpo._count(right & ~extended)         # float[n], m Δ: whole numbers (D1)
    limit = round(cap * right.size)                                                 # D3; halves to the even number
    gains = (margin > 0) & (allowed & extended).any(axis=1)                         # bool[n]
    order = rng.permutation(len(margin))                                            # int[n]: ties at random
    order = order[np.argsort(-margin[order], kind="stable")]                        # int[n]: largest Δ first
    votes = np.zeros(len(margin), bool)                                             # bool[n]
    votes[order[gains[order]][:limit]] = True
    stays = margin < 0                                                              # bool[n]
    choices = allowed & np.where(extended, votes[:, None], stays[:, None])          # bool[n, m]
    return ibpo._one_per_prompt(choices, rng).astype(float)                         # D2: nothing where all are False


def grpo(correct, valid=None):
    """(reward - mean) / std over the m responses of a prompt, divided by m; 0 where all rewards are equal.

    The reward is 1 if the response is correct, else 0; a malformed one has 0. std is that of these m rewards (not the
    estimate with m - 1). At a pass rate p a correct response weighs √((1-p)/p) / m, a wrong one -√(p/(1-p)) / m.
    The absolute weights of a prompt sum to 2 √(p(1-p)) <= 1: no more than one response accepted by IBPO weighs.

    On fresh samples GRPO's ratio is 1 and its clipping idle. We also leave out its KL term, and its division by the
    length of a response: as in Eq. (5) here, log π is summed over tokens (as in "Dr. GRPO", Liu et al. 2025,
    arXiv 2503.20783). Nothing in it knows of a budget.
    correct, valid: bool[n, m] or 0/1; valid=None: all are valid.  Returns float[n, m].
    ValueError: shapes that differ, entries other than 0/1, NaN.
    """
    reward = ibpo.feasible_set(correct, valid).astype(float)                        # float[n, m]
    _need_responses("grpo", reward, 1)
    std = reward.std(axis=1, keepdims=True)                                         # float[n, 1]; exactly 0 if equal
    return (reward - reward.mean(axis=1, keepdims=True)) / np.where(std > 0, std, 1) / reward.shape[1]


def length_penalty(correct, tokens, coefficient, unit, valid=None):
    """Policy gradient with reward = correct - coefficient · tokens / unit; weights = (reward - baseline) / m.

    coefficient is the price of one unit of length, in pass rate: at 0.05, a vote four units longer than one trial
    pays where it adds more than 20 points. Its expected gradient is that of pass rate - coefficient · mean length, the
    Lagrangian of a budget of tokens: the price is fixed, and the length that it leads to is found by trying. IBPO
    fixes the budget instead.

    The baseline of a response is the mean reward of the other m - 1 (leave-one-out; Kool et al. 2019; Ahmadian et al.
    2024, arXiv 2402.14740). It does not depend on the response, so the gradient is unbiased. With the mean of all m,
    a response would be part of its own baseline, and the gradient too short by (m-1)/m.
    correct, valid: bool[n, m] or 0/1. A malformed response counts as wrong, and pays for its tokens.
    tokens: float[n, m] >= 0, length of each response.  coefficient: a number >= 0.
    unit: tokens, > 0; meant is the mean length of a one-trial response, measured once before training. A unit taken
    from each batch would change the reward as the policy changes, and be undefined where all responses vote.
    Returns float[n, m]; each row sums to 0.
    ValueError: as in grpo; tokens that are negative, NaN or of another shape; coefficient or unit out of range; m < 2.
    """
    right = ibpo.feasible_set(correct, valid)                                       # bool[n, m]
    tokens = np.asarray(tokens, dtype=float)                                        # float[n, m]
    if tokens.shape != right.shape:
        raise ValueError(f"tokens has the shape {tokens.shape}, but correct has {right.shape}")
    if not (np.isfinite(tokens) & (tokens >= 0)).all():
        raise ValueError("tokens must be finite and not negative")
    if _number("unit", unit, 0) == 0:
        raise ValueError("unit must be above 0")
    _need_responses("the leave-one-out baseline", right, 2)
    reward = right - _number("coefficient", coefficient, 0) * tokens / unit         # float[n, m]
    m = reward.shape[1]
    others = (reward.sum(axis=1, keepdims=True) - reward) / (m - 1)                 # float[n, m]
    return (reward - others) / m


# ---- Without training ----

def adaptive_self_consistency(answers, correct):
    """Majority voting over separate samples that stops as a sequential vote does. Returns right bool[n], trials int[n].

    Samples are taken from left to right until an answer has occurred three times, at most eight. The answer is the
    plurality of those taken, the first seen on ties: voting.trials_needed and voting.plurality, in arrays.
    answers: int[n, 8], the same number for the same answer, -1 for none (it costs a trial and never counts).
    correct: bool[n, 8] or 0/1, whether that answer is right; of equal answers the first one is asked.
    right: False also where no sample has an answer.  trials: samples taken, 3 to 8.
    ValueError: another shape, numbers that are not whole or below -1, a correct sample without an answer.
    """
    answers = np.asarray(answers)
    if answers.ndim != 2 or answers.shape[1] != MAX_TRIALS:
        raise ValueError(f"answers must be an array [problems, {MAX_TRIALS}], not of shape {answers.shape}")
    if not np.issubdtype(answers.dtype, np.integer) or (answers < -1).any():
        raise ValueError("answers must be whole numbers, -1 for no answer")
    correct, given = ibpo._mask("correct", correct), answers >= 0                   # bool[n, 8]
    if correct.shape != answers.shape:
        raise ValueError(f"correct has the shape {correct.shape}, but answers has {answers.shape}")
    if (correct & ~given).any():
        raise ValueError("a sample without an answer cannot be correct")
    same = (answers[:, :, None] == answers[:, None, :]) & given[:, :, None]         # bool[n, 8, 8]
    seen = np.tril(same).sum(axis=2)                                                # int[n, 8]: counts itself
    agreed = seen == CONSENSUS                                                      # bool[n, 8]
    trials = np.where(agreed.any(axis=1), agreed.argmax(axis=1) + 1, MAX_TRIALS)    # int[n]
    taken = np.arange(MAX_TRIALS) < trials[:, None]                                 # bool[n, 8]
    votes = (same & taken[:, None, :]).sum(axis=2)                                  # int[n, 8]: of each sample's answer
    first = votes.argmax(axis=1)                                                    # int[n]: the first of the largest
    return correct[np.arange(len(answers)), first], trials


# ---- Helpers ----

def _number(name, value, low, high=np.inf):
    """value as a finite float from low to high, or a ValueError."""
    if not (isinstance(value, Real) and math.isfinite(value) and low <= value <= high):
        bounds = f"from {low} to {high}" if high < np.inf else f"of at least {low}"
        raise ValueError(f"{name} must be a number {bounds}, not {value!r}")
    return float(value)


def _need_responses(who, array, least):
    """A ValueError unless array[n, m] has m >= least."""
    if array.shape[1] < least:
        raise ValueError(f"{who} needs at least {least} responses per prompt, not {array.shape[1]}")
