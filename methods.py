"""The rules for which responses of a step to learn from, and how much: IBPO, and what it is compared with.

Every method has one signature and is listed in one table, METHODS at the end of this file; `--method NAME` picks one:

    method(judged, feasible, settings, rng) -> Selection, with weights[n, m]
        judged      voting.Judged: n prompts with m judged responses each
        feasible    bool[n, m], Ξ of Eq. (7): correct, valid, and within the KL bound if there is one
        settings    the run's; what a method reads of them is in its docstring
        rng         numpy Generator, for ties

The step that follows is always that of Eq. (5): on -Σ_ij weights_ij log π(y_ij | x_i) / n. The rows of Table 1 of the
paper (Yu et al., ICML 2025, arXiv 2501.17974) differ in their weights alone:

    SFT     1 for every response that is given           RAFT    1 for one response with the prompt's best reward
    RFT     1 if it is correct                           IBPO    the solution of the budgeted program, Eq. (8)

To add a method, write a function with this signature and give it a line in METHODS.

    pytest tests/test_methods.py
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import budget
import ibpo
from ibpo import Selection, maximise_margin, one_per_prompt, reward_margin, selection_of
from voting import GROUPS, Judged

# ---------------------------------------------------------------------------------------------------------------------
# Eq. (8), for the caps of --budget


def select_under_budget(judged: Judged, feasible: np.ndarray, settings, rng) -> Selection:
    """IBPO, Eq. (8). One cap on votes, the paper's case, is solved in ibpo.py; the rest in budget.py.

    Reads settings.caps, cap, sft_short and zero_margin.
    """
    if set(settings.caps) == {"vote"} and not settings.sft_short:
        margin = reward_margin(judged.correct, judged.extended, judged.valid)  # float[n], Eq. (6)
        return maximise_margin(margin, feasible, judged.extended, settings.cap, rng,
                               zero_margin_votes=settings.zero_margin == "vote")  # Eq. (8)
    return select_by_caps(judged, feasible, settings, rng)


def expected_tokens(judged: Judged) -> np.ndarray:
    """The mean length of the prompt's valid responses of the same group: float[n, m].

    A response's own length is partly chance: of 32 votes on a prompt some agree early. A cap on it would accept those,
    and the policy, which cannot make a vote agree early, would end above the cap. The cost of a vote is therefore a
    mean over the prompt's samples, as its value is, Eq. (6).
    """
    same = (judged.group[:, :, None] == judged.group[:, None]) & judged.valid[:, None]  # bool[n, m, m]
    return (same * judged.tokens[:, None]).sum(axis=2) / np.maximum(same.sum(axis=2), 1)


# What a cap of --budget may limit, on average over the accepted responses: name -> cost[n, m] of each response.
COSTS = {
    "vote": lambda judged: judged.extended,
    "short": lambda judged: judged.in_group("short"),
    "tokens": lambda judged: judged.tokens,
    "expected-tokens": expected_tokens,
}


def select_by_caps(judged: Judged, feasible: np.ndarray, settings, rng) -> Selection:
    """Eq. (8) for any caps of COSTS and any groups (settings.caps): the value of a response is its group's margin."""
    value = budget.group_margin(judged.correct, judged.group, judged.valid)  # float[n, m], Eq. (6)
    costs = [COSTS[name](judged) for name in settings.caps]  # K of [n, m]
    # Between equal values the cheaper group stays, whatever is capped (D7): a cost more, whose cap never binds. Within
    # a group ties are broken at random: a cap on tokens that is not used up does not prefer the shorter response.
    best = budget.select(value, [judged.group, *costs], [len(GROUPS), *settings.caps.values()], feasible,
                         thrifty=[True] + [False] * len(costs), rng=rng)
    return selection_of(best.weights, judged.extended, feasible, best.dropped_over_cap)


# ---------------------------------------------------------------------------------------------------------------------
# The other rows of Table 1, and CGPO: no budget


def select_sft(judged: Judged, feasible: np.ndarray, settings, rng) -> Selection:
    """Every valid response, right or wrong: RFT without its filter, as a control.

    (Table 1's SFT, on given responses, is learn.add_supervised_gradient.)
    """
    return selection_of(judged.valid, judged.extended, judged.valid)


def select_rft(judged: Judged, feasible: np.ndarray, settings, rng) -> Selection:
    """RFT, Table 1: every feasible response. Easy prompts have more of them, so they weigh more."""
    return selection_of(feasible, judged.extended, feasible)


def select_raft(judged: Judged, feasible: np.ndarray, settings, rng) -> Selection:
    """RAFT (best of m), Table 1: one response with the prompt's best reward, ties at random.

    With a 0/1 reward this is CGPO, except that a wrong response is accepted where no response is right.
    """
    best = np.where(feasible.any(axis=1, keepdims=True), feasible, judged.valid)  # bool[n, m]
    return selection_of(one_per_prompt(best, rng), judged.extended, judged.valid)


def select_cgpo(judged: Judged, feasible: np.ndarray, settings, rng) -> Selection:
    """CGPO: one random response of Ξ per prompt; the paper's baseline without a budget."""
    return ibpo.select_cgpo(judged.correct, judged.extended, judged.valid, feasible, rng)


# ---------------------------------------------------------------------------------------------------------------------
# IBPO with a part missing or replaced


def select_margin(judged: Judged, feasible: np.ndarray, settings, rng) -> Selection:
    """IBPO without a cap: the group with the larger pass rate on each prompt."""
    margin = reward_margin(judged.correct, judged.extended, judged.valid)  # float[n], Eq. (6)
    return maximise_margin(margin, feasible, judged.extended, 1.0, rng)


def select_random(judged: Judged, feasible: np.ndarray, settings, rng) -> Selection:
    """Control: IBPO with random margins. Does it matter *who* votes, or only how many do?

    It spends the whole cap on random prompts. It accepts as many prompts as IBPO; but which forced prompts it keeps,
    and which ones with both kinds of feasible response it upgrades, is random, whatever the sign of Δ. IBPO stops where
    no Δ > 0 is left, so the control never has fewer votes than IBPO. Reads settings.cap.
    """
    margin = 1.0 + rng.permutation(len(feasible))  # float[n]: above 0, no ties
    return maximise_margin(margin, feasible, judged.extended, settings.cap, rng)


def select_listing(judged: Judged, feasible: np.ndarray, settings, rng) -> Selection:
    """The SciPy listing of the paper's App. H as it behaves: at most one response per prompt, at most round(q₊ n m)
    extended ones. D1-D6: see ibpo.py. Reads settings.cap.

    D1, D4: the pass rate of a group is the number of its correct responses over all m; 0 if it was not sampled.
    D2: "at most one". D3: the limit counts samples, not accepted responses; from q₊ = 1/m on it never binds.
    D5: a prompt with nothing correct is dropped.

    Exact without a solver. With Δ = pass rate of votes - pass rate of the others, a prompt can add 0 (nothing
    accepted), -Δ (a regular response, at no cost) or +Δ (a vote, one unit of the limit). So, as far as feasible:
        Δ < 0   a regular response: it is the prompt's best option, and free.
        Δ > 0   a vote or nothing. Of v votes, those with the v largest Δ add most, and one more never hurts: the
                largest Δ, up to the limit. The others get nothing, although they may have a regular response.
        Δ = 0   all add 0. Nothing is accepted, as by scipy's solver (HiGHS); another solver might accept any response.
    Ties are drawn at random, uniformly: between equal Δ at the limit, and between the responses of a group. (HiGHS
    draws nothing: it returns some optimum that depends on the order of the responses.)
    """
    right = judged.correct & judged.valid  # bool[n, m]
    votes_right, regular_right = right & judged.extended, right & ~judged.extended  # bool[n, m]
    margin = votes_right.sum(axis=1) - regular_right.sum(axis=1)  # int[n]: m Δ (D1)
    limit = round(settings.cap * right.size)  # D3; halves go to the even number
    gains = (margin > 0) & (feasible & judged.extended).any(axis=1)  # bool[n]
    order = rng.permutation(len(margin))  # int[n]: ties at random
    order = order[np.argsort(-margin[order], kind="stable")]  # int[n]: largest Δ first
    votes = np.zeros(len(margin), bool)  # bool[n]
    votes[order[gains[order]][:limit]] = True
    stays = margin < 0  # bool[n]
    choices = feasible & np.where(judged.extended, votes[:, None], stays[:, None])  # bool[n, m]
    return selection_of(one_per_prompt(choices, rng), judged.extended, feasible)  # D2: nothing where all are False


# ---------------------------------------------------------------------------------------------------------------------
# Policy gradients: every response has a weight, some are negative. The gradient is unbiased only for samples from π
# itself: temperature 1, top-p 1.


def weigh_grpo(judged: Judged, feasible: np.ndarray, settings, rng) -> Selection:
    """GRPO (Shao et al. 2024, arXiv 2402.03300): (reward - mean) / std over the m responses of a prompt, divided by m.

    The reward is 1 if the response is correct and valid, else 0. std is that of these m rewards (not the estimate with
    m - 1); where all rewards are equal, all weights are 0. At a pass rate p a correct response weighs √((1-p)/p) / m, a
    wrong one -√(p/(1-p)) / m. The absolute weights of a prompt sum to 2 √(p(1-p)) <= 1, the weight of one accepted
    response in IBPO.

    On fresh samples GRPO's ratio is 1 and its clipping idle. We also leave out its KL term and its division by the
    length of a response: as in Eq. (5) here, log π is summed over tokens (as in "Dr. GRPO", Liu et al. 2025,
    arXiv 2503.20783). Nothing in it knows of a budget.
    """
    reward = (judged.correct & judged.valid).astype(float)  # float[n, m]
    std = reward.std(axis=1, keepdims=True)  # float[n, 1]; exactly 0 if all are equal
    weights = (reward - reward.mean(axis=1, keepdims=True)) / np.where(std > 0, std, 1) / reward.shape[1]  # float[n, m]
    return selection_of(weights, judged.extended, feasible)


def weigh_length_penalty(judged: Judged, feasible: np.ndarray, settings, rng) -> Selection:
    """Policy gradient with a price on tokens (compare Arora and Zanette 2025, arXiv 2502.04463, who price correct
    responses only): reward = correct - length_price · tokens / length_unit; weights = (reward - baseline) / m.

    length_price is the price of one unit of length, in pass rate: at 0.05, a vote four units longer than one trial pays
    where it adds more than 20 points. The expected gradient is that of pass rate - length_price · mean length, the
    Lagrangian of a budget of tokens: the price is fixed, and the length that it leads to is found by trying. IBPO fixes
    the budget instead. length_unit: tokens, meant is the mean length of a one-trial response, measured once before
    training. A malformed response counts as wrong, and pays for its tokens.

    The baseline of a response is the mean reward of the other m - 1 (leave-one-out; Kool et al. 2019; Ahmadian et al.
    2024, arXiv 2402.14740). It does not depend on the response, so the gradient is unbiased. With the mean of all m, a
    response would be part of its own baseline, and the gradient scaled by (m-1)/m. Each row of weights sums to 0.
    """
    right = judged.correct & judged.valid  # bool[n, m]
    reward = right - settings.length_price * judged.tokens / settings.length_unit  # float[n, m]
    m = reward.shape[1]
    others = (reward.sum(axis=1, keepdims=True) - reward) / (m - 1)  # float[n, m], the leave-one-out baseline
    return selection_of((reward - others) / m, judged.extended, feasible)


# ---------------------------------------------------------------------------------------------------------------------
# All methods by name


class Method(NamedTuple):
    """A rule for the weights of a step, and what goes with it. The flags decide which settings are refused."""

    select: Callable[[Judged, np.ndarray, object, np.random.Generator], Selection]
    caps: tuple[str, ...] = ()  # what --budget may limit, names of COSTS; none: it has no budget
    policy_gradient: bool = False  # needs samples from π itself
    fewest_samples: int = 1  # per prompt: 2 for a baseline, 3 for margins (of two, Δ > 0 says: the trial is wrong)
    two_groups: bool = False  # knows regular and extended responses only: no short votes
    accepts_infeasible: bool = False  # ignores Ξ: a KL bound, Eq. (7), would have no effect


METHODS = {
    "ibpo": Method(select_under_budget, caps=tuple(COSTS), fewest_samples=3),
    "cgpo": Method(select_cgpo),
    "sft": Method(select_sft, accepts_infeasible=True),
    "rft": Method(select_rft),
    "raft": Method(select_raft, accepts_infeasible=True),
    "margin": Method(select_margin, fewest_samples=3, two_groups=True),
    "random": Method(select_random, caps=("vote",), two_groups=True),
    "listing": Method(select_listing, caps=("vote",), fewest_samples=3, two_groups=True),
    "grpo": Method(weigh_grpo, policy_gradient=True, fewest_samples=2),
    "length-penalty": Method(weigh_length_penalty, policy_gradient=True, fewest_samples=2),
}


if __name__ == "__main__":
    print(__doc__)
