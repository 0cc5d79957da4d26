"""Which sampled responses to learn from, under an inference budget.

The heart of "Think Smarter not Harder: Adaptive Reasoning with Inference Aware Optimization" (Yu et al., ICML
2025, arXiv 2501.17974): Sections 2-3, Eq. (6)-(8). For n prompts with m sampled responses each,
    correct[n, m]    the final answer matches the ground truth (r_match)
    extended[n, m]   the response votes over several trials (group G₊); the others are one trial (group G∘)
    cap              q₊: at most this share of the accepted responses may be extended
become weights[n, m], and learn.py takes one gradient step on -Σ_ij weights_ij log π(y_ij | x_i) / n, Eq. (5). The
budget acts nowhere else. Only numpy is needed.

    python ibpo.py      prints the paper's worked example (Table 2)

Read reward_margin, Eq. (6); feasible_set, Eq. (7); maximise_margin, Eq. (8). select_ibpo is all three in one call, for
examples and tests. In training train.select calls feasible_set, and methods.select_under_budget reward_margin and
maximise_margin. share_ties then spreads the weight of an accepted response over those that could have been drawn in its
place. Then read select_cgpo, the paper's baseline without a budget. Other rules for what to accept are in methods.py;
budget.py solves the same program for any number of groups and budgets.
"""

from numbers import Real
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

ROUNDING = 1e-9  # tolerance of the cap: 0.29 * 100 is 28.999999999999996 and means 29


class Selection(NamedTuple):
    """What a method accepted. Printing it gives a one-line report."""

    weights: np.ndarray  # float[n, m]: 1 = learn from this response, 0 = do not (policy gradients: any number)
    accepted: int  # how many responses have a weight above 0
    extended: int  # how many of these are extended
    dropped_no_correct: int  # prompts without a feasible response, most often because none is correct (D5)
    dropped_over_cap: int  # prompts that have feasible votes only, beyond the cap (D6)

    def __str__(self) -> str:
        share = self.extended / max(self.accepted, 1)
        return (f"accepted {self.accepted}, extended {self.extended} of them ({share:.1%}); dropped prompts: "
                f"{self.dropped_no_correct} nothing correct, {self.dropped_over_cap} over the cap")


# ---------------------------------------------------------------------------------------------------------------------
# Eq. (6) and (7): what a vote is worth, and what may be accepted at all


def reward_margin(correct: ArrayLike, extended: ArrayLike, valid: ArrayLike = None) -> np.ndarray:
    """Δ = r̄(x, G₊) - r̄(x, G∘), Eq. (6): what voting adds to a prompt's pass rate; float[n] in [-1, 1].

    In Eq. (8) an extended response of the prompt counts Δ, a regular one -Δ: a value of the group, not of the response.
    Large: the prompt is worth the budget. Near 0: voting changes little, as on problems that are nearly always solved,
    or hardly ever.

        >>> reward_margin(correct=[[1, 0, 1, 1]], extended=[[0, 0, 1, 1]])  # single trials: 1 of 2, votes: 2 of 2
        array([0.5])

    correct, extended, valid: bool[n, m] or 0/1. valid=False: malformed, in neither group; None: all are valid.
    ValueError: shapes that differ, entries other than 0/1, NaN. D1 and D4: see above select_ibpo.
    """
    correct = as_mask("correct", correct)  # bool[n, m]
    extended = as_mask("extended", extended, correct.shape)  # bool[n, m]
    valid = as_mask("valid", valid, correct.shape, missing=True)  # bool[n, m]
    votes, regular = valid & extended, valid & ~extended  # bool[n, m]: G₊ and G∘
    n_votes, n_regular = votes.sum(axis=1), regular.sum(axis=1)  # int[n]
    right_votes, right_regular = (correct & votes).sum(axis=1), (correct & regular).sum(axis=1)  # int[n]
    # Eq. (6): right_votes / n_votes - right_regular / n_regular, each a mean over its own group (D1). Over one common
    # denominator, equal margins are equal floats (1 - 2/3 and 1/3 - 0 are not). A group that was not sampled is right
    # in 0 of 0, so both products are 0, and so is the margin (D4).
    return (right_votes * n_regular - right_regular * n_votes) / np.maximum(n_votes * n_regular, 1)


def feasible_set(correct: ArrayLike, valid: ArrayLike = None, kl: ArrayLike = None,
                 kl_max: float = None) -> np.ndarray:
    """Ξ, Eq. (7): which responses may be accepted. bool[n, m]: correct, valid, and near the reference policy.

    kl: float[n, m], log π(y|x) - log π_ref(y|x) of whole responses, in nats; kl_max: the largest one allowed.
    ValueError: as in reward_margin, and if only one of kl and kl_max is given.
    """
    correct = as_mask("correct", correct)  # bool[n, m]
    valid = as_mask("valid", valid, correct.shape, missing=True)  # bool[n, m]
    if kl is None and kl_max is None:
        return correct & valid  # Eq. (7) without the KL bound
    if kl is None or kl_max is None:
        raise ValueError("kl and kl_max belong together: give both or neither")
    kl = np.asarray(kl, dtype=float)  # float[n, m]
    if kl.shape != correct.shape:
        raise ValueError(f"kl has the shape {kl.shape}, but correct has {correct.shape}")
    if np.isnan(kl).any() or np.isnan(kl_max):
        raise ValueError("kl and kl_max must not be NaN")
    return correct & valid & (kl <= kl_max)  # Eq. (7)


# ---------------------------------------------------------------------------------------------------------------------
# Eq. (8): inference under a budget
#
# Where the paper's SciPy listing (App. H) contradicts its equations, the equations win. Where they are silent, we
# decide. Each departure is a test in tests/test_ibpo.py:
#   D1  The pass rate of a group is a mean over the samples of *that group*, Eq. (6). The listing divides by all m
#       samples, which can turn the sign of the margin.
#   D2  Each prompt gets exactly one accepted response wherever possible. The listing says at most one, so that prompts
#       beyond the cap are lost instead of getting a regular response.
#   D3  The cap is a share of the *accepted* responses (Table 2). The listing allows round(q₊ n m) extended ones: this
#       never binds for q₊ >= 1/m, since at most n are accepted.
#   D4  If one of the groups was not sampled, the margin is 0: there is no evidence that a vote pays. The listing gives
#       an unseen group the pass rate 0, which rewards voting on easy prompts.
#   D5  A prompt with nothing feasible is dropped, and counted. "Exactly one" would have no solution.
#   D6  If more prompts *need* an extended response than the cap allows, as many prompts as possible come first, then
#       the largest margin. Those with the smallest margins are dropped, and counted.
#   D7  Where the margin is exactly 0, Eq. (8) is indifferent between regular and extended. Ours stays regular, which
#       costs no budget; zero_margin_votes=True lets these prompts vote, last, as far as the cap has room.
#   D8  (an option, off by default) Giving up: where nothing is feasible, a regular response is accepted, but only its
#       decision to stop is learned. See with_giving_up.


def select_ibpo(correct: ArrayLike, extended: ArrayLike, cap: float, valid: ArrayLike = None,
                feasible: ArrayLike = None, rng=None) -> Selection:
    """OPT_IuB, Eq. (8): one response per prompt, the largest total margin, at most a share `cap` extended.

        >>> correct, extended = [[1, 1, 1, 1], [1, 0, 1, 1]], [[0, 0, 1, 1], [0, 0, 1, 1]]  # Table 2: margins 0, 0.5
        >>> print(select_ibpo(correct, extended, cap=0.5))  # a regular response for prompt 1, a vote for prompt 2
        accepted 2, extended 1 of them (50.0%); dropped prompts: 0 nothing correct, 0 over the cap

    correct, extended, valid: bool[n, m] or 0/1, as in reward_margin. cap: q₊, a number from 0 to 1.
    feasible: bool[n, m], a further filter on what may be accepted (the KL of Eq. (7)); it leaves the margins alone.
    rng: a numpy Generator, or a seed, for ties and for the choice within a group. None is numpy's default, another
    draw each time: pass a Generator where a run must repeat.
    Returns a Selection. ValueError: shapes that differ, entries other than 0/1, NaN, cap outside [0, 1].
    """
    margin = reward_margin(correct, extended, valid)  # float[n], Eq. (6)
    near = as_mask("feasible", feasible, np.shape(correct), missing=True)  # bool[n, m]
    return maximise_margin(margin, feasible_set(correct, valid) & near, extended, cap, rng)  # Eq. (7) and (8)


def maximise_margin(margin: np.ndarray, feasible: np.ndarray, extended: ArrayLike, cap: float, rng=None,
                    zero_margin_votes: bool = False) -> Selection:
    """Eq. (8) for as many prompts as possible (D2, D6), solved exactly by one sort and one loop.

    margin: float[n], Δ of each prompt. feasible: bool[n, m], Ξ of Eq. (7). The rest as in select_ibpo.
    The cap leaves room for votes: cap * accepted - votes, which must not fall below 0. At first each prompt with a
    feasible regular response gets one, worth -Δ. A vote in its place adds 2Δ and takes 1 of the room. A prompt with
    feasible votes only (forced) is accepted when it votes; that takes 1 - cap. Serving many prompts comes before the
    margin, so forced prompts are tried first, then those with Δ > 0 (D7). Within each of the two, every vote takes the
    same room, so the largest Δ comes first. The room never grows, so the first vote without room ends the loop.
    Compared with brute force in tests/test_ibpo.py.
    """
    if not (isinstance(cap, Real) and 0 <= cap <= 1):  # false for NaN, too
        raise ValueError(f"cap must be a number from 0 to 1, not {cap!r}")
    cap, rng = float(cap), np.random.default_rng(rng)
    extended = as_mask("extended", extended, feasible.shape)  # bool[n, m], G₊
    regular, votes = feasible & ~extended, feasible & extended  # bool[n, m]: what may be accepted of G∘ and G₊
    has_regular, has_vote = regular.any(axis=1), votes.any(axis=1)  # bool[n]
    forced = has_vote & ~has_regular  # bool[n]: vote, or be dropped
    gains = margin >= 0 if zero_margin_votes else margin > 0  # bool[n], D7
    may_vote = forced | (has_vote & gains)  # bool[n]
    order = np.lexsort((rng.random(len(margin)), -margin, ~forced))  # int[n]: forced first, then largest Δ, then random

    who_votes = np.zeros(len(margin), bool)  # bool[n]
    n_accepted, n_votes = int(has_regular.sum()), 0  # a forced prompt is accepted only when it votes
    for i in order[may_vote[order]]:  # Eq. (8), the maximum
        if n_votes + 1 > cap * (n_accepted + forced[i]) + ROUNDING:  # Eq. (8), the cap: a share of the accepted, D3
            break
        who_votes[i] = True
        n_votes, n_accepted = n_votes + 1, n_accepted + int(forced[i])
    # All others get a regular response (D2). A forced prompt beyond the cap has none: it is dropped (D6).
    accepted = one_per_prompt(np.where(who_votes[:, None], votes, regular), rng)  # bool[n, m]
    return selection_of(accepted, extended, feasible, dropped_over_cap=int((forced & ~who_votes).sum()))


def select_cgpo(correct: ArrayLike, extended: ArrayLike = None, valid: ArrayLike = None, feasible: ArrayLike = None,
                rng=None) -> Selection:
    """CGPO (Xu et al. 2024, arXiv 2409.20370): one random member of Ξ, Eq. (7), per prompt; no budget.

    Arguments, errors and Selection as in select_ibpo. extended is for the count only; None: all are regular.
    """
    near = as_mask("feasible", feasible, np.shape(correct), missing=True)  # bool[n, m]
    feasible = feasible_set(correct, valid) & near  # bool[n, m], Eq. (7)
    extended = as_mask("extended", extended, feasible.shape, missing=False)  # bool[n, m]
    return selection_of(one_per_prompt(feasible, np.random.default_rng(rng)), extended, feasible)


def share_ties(weights: np.ndarray, feasible: np.ndarray, group: np.ndarray) -> np.ndarray:
    """The weight of each accepted response, spread evenly over all feasible responses of its prompt and group.

    They tie in Eq. (8), and the paper draws one of them. This is the mean over all draws: the same expected gradient
    with less noise, from the same samples.
    weights: float[n, m] of a Selection. feasible: bool[n, m], Ξ. group: [n, m], equal for responses of one group.
    Prompts with several weighted responses, or whose weighted response is not feasible, are left as they are. Returns
    float[n, m].
    """
    shared = weights.copy()
    for i, row in enumerate(weights):  # float[m]
        accepted = row.nonzero()[0]
        if len(accepted) == 1 and feasible[i, accepted[0]]:
            ties = feasible[i] & (group[i] == group[i, accepted[0]])  # bool[m]
            shared[i] = row[accepted[0]] * ties / ties.sum()
    return shared


def with_giving_up(feasible: np.ndarray, valid: np.ndarray, extended: np.ndarray) -> np.ndarray:
    """Ξ with, for each prompt where it is empty, the regular responses, although they are wrong (D8): bool[n, m].

    Eq. (1) caps the expected share of votes over all prompts, also those that nobody solves. A policy that learns
    nothing from them (D5) goes on to vote on them as often as it did, outside the program. With giving up they are
    accepted as regular, and count under the cap like any other. train.py learns of such a response only its decision
    to stop, never its wrong solution.
    """
    nothing_feasible = ~feasible.any(axis=1, keepdims=True)  # bool[n, 1]
    return feasible | (nothing_feasible & valid & ~extended)


# ---------------------------------------------------------------------------------------------------------------------
# What these and methods.py share


def as_mask(name: str, values: ArrayLike | None, shape: tuple = None, missing: bool = None) -> np.ndarray:
    """values as bool[n, m] of the given shape, or `missing` for all where they are None; else a ValueError."""
    if values is None and missing is not None:
        return np.full(shape, missing)
    values = np.asarray(values)
    if values.ndim != 2:
        raise ValueError(f"{name} must be an array [prompts, responses], not of shape {values.shape}")
    if shape is not None and values.shape != shape:
        raise ValueError(f"{name} has the shape {values.shape}, but {shape} is expected")
    if values.dtype != bool and not ((values == 0) | (values == 1)).all():
        raise ValueError(f"{name} must hold only True and False, or 1 and 0")
    return values.astype(bool, copy=False)


def one_per_prompt(choices: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """bool[n, m]: one random True entry of each row that has any. choices: bool[n, m]."""
    key = choices - rng.random(choices.shape)  # float[n, m], above 0 where True
    drawn = key.argmax(axis=1, keepdims=True)  # int[n, 1]
    return choices & (drawn == np.arange(choices.shape[1]))  # bool[n, m]; a row without True stays empty


def selection_of(weights: np.ndarray, extended: np.ndarray, feasible: np.ndarray,
                 dropped_over_cap: int = 0) -> Selection:
    """Weights [n, m], or a mask of accepted responses, with their counts. Prompts with nothing feasible are dropped."""
    positive = weights > 0  # bool[n, m]
    nothing_feasible = ~feasible.any(axis=1)  # bool[n]
    return Selection(weights.astype(float), int(positive.sum()), int((positive & extended).sum()),
                     int(nothing_feasible.sum()), dropped_over_cap)


def main() -> None:
    # Table 2: two prompts, columns 1-2 regular, 3-4 extended. The first is easy, the second gains by voting.
    correct = np.array([[1, 1, 1, 1], [1, 0, 1, 1]])
    extended = np.array([[0, 0, 1, 1], [0, 0, 1, 1]])
    margin = reward_margin(correct, extended)
    print("Table 2. Columns: two regular responses, then two extended ones; how often each is taken in 1,000 draws.\n")
    draws = range(1000)
    share_taken = {
        "IBPO, cap 50%": np.mean([select_ibpo(correct, extended, 0.5, rng=seed).weights for seed in draws], axis=0),
        "CGPO, no cap": np.mean([select_cgpo(correct, extended, rng=seed).weights for seed in draws], axis=0)}
    for i in range(2):
        print(f"prompt {i + 1}:  correct {correct[i]}, margin of voting {margin[i]:+.1f}")
        for method, shares in share_taken.items():
            print(f"    {method:14} takes {' '.join(f'{share:4.0%}' for share in shares[i])}"
                  f"   a vote in {shares[i, 2:].sum():4.0%}")
    print(f"\nOne draw of IBPO:  {select_ibpo(correct, extended, cap=0.5, rng=1)}")


if __name__ == "__main__":
    main()
