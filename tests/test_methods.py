"""methods.py against oracles: scipy's milp for the listing, exact gradients of a small policy, counting by hand.

    pytest tests/test_methods.py

The oracles write each rule out again, response by response, and know nothing of the solvers.
"""

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from made_up import EXTENDED, SHORT, judged, made_up_rollout, random_batch, three_groups
from scipy.optimize import LinearConstraint, milp
from scipy.stats import chisquare

import ibpo
import methods
import train
from methods import METHODS
from plumbing.records import describe
from plumbing.settings import Settings, parse_args

E, R = 1, 0  # extended, regular


def run(method, responses, cap=0.5, feasible=None, rng=0, **settings):
    """The Selection of a method. feasible: a further mask, as the KL bound is; correct and valid always apply."""
    may = responses.correct & responses.valid
    may = may if feasible is None else may & np.array(feasible, bool)
    settings = Settings(method=method, budget=f"vote={cap}", **settings)
    return METHODS[method].select(responses, may, settings, np.random.default_rng(rng))


def listing(correct, extended, cap, valid=None, feasible=None, rng=0):
    return run("listing", judged(correct, extended, valid), cap, feasible, rng).weights


def grpo(correct, valid=None):
    return run("grpo", judged(correct, valid=valid)).weights


def length_penalty(correct, tokens, price, unit, valid=None):
    return run("length-penalty", judged(correct, valid=valid, tokens=tokens), length_price=price,
               length_unit=unit).weights


# ---- The listing ----

def listing_value(correct, extended, valid):
    """float[n, m]: what each response adds to the listing's objective (D1, D4), response by response."""
    n, m = correct.shape
    value = np.zeros((n, m))
    for i in range(n):
        rate = [sum(int(correct[i, j] and valid[i, j] and extended[i, j] == g) for j in range(m)) / m for g in (R, E)]
        for j in range(m):
            value[i, j] = rate[extended[i, j]] - rate[1 - extended[i, j]]
    return value


def solve_listing(correct, extended, limit, valid, feasible):
    """The program of the listing, by scipy: (objective, accepted[n, m])."""
    n, m = correct.shape
    value = listing_value(correct, extended.astype(int), valid).ravel()                 # [n * m]
    at_most_one = LinearConstraint(np.kron(np.eye(n), np.ones(m)), ub=1)                # D2
    limited = LinearConstraint(extended.ravel()[None].astype(float), ub=limit)          # D3
    result = milp(-value, integrality=np.ones(n * m), options={"mip_rel_gap": 0},
                  bounds=(0, (correct & valid & feasible).ravel()), constraints=[at_most_one, limited])
    return result.x.round() @ value, result.x.round().reshape(n, m)


@pytest.mark.slow
def test_listing_is_the_optimum_by_milp():
    rng, seen = np.random.default_rng(0), Counter()
    for _ in range(800):
        n, m = rng.integers(1, 13), rng.integers(1, 9)
        correct, extended, valid, feasible = random_batch(rng, n, m)
        cap = float(rng.choice([0, 0.02, 0.05, 0.1, 0.15, 0.5, 1]))
        limit = round(cap * n * m)
        weights = listing(correct, extended, cap, valid, feasible, rng)
        assert set(np.unique(weights)) <= {0, 1} and not weights[~(correct & valid & feasible)].any()
        assert (weights.sum(axis=1) <= 1).all() and (weights * extended).sum() <= limit
        value = listing_value(correct, extended.astype(int), valid)
        best, chosen = solve_listing(correct, extended, limit, valid, feasible)
        assert (weights * value).sum() == pytest.approx(best, abs=1e-9)
        assert (weights * value)[weights > 0].all()             # nothing is accepted that adds 0 ...
        assert weights.sum() == chosen[value != 0].sum()        # ... and everything else that the solver accepts
        gains = (correct & valid & feasible & extended & (value > 0)).any(axis=1).sum()
        facts = {"limit binds": gains > limit, "limit 0": limit == 0, "regular": (weights * ~extended).any(),
                 "votes": (weights * extended).any(), "margin 0": (correct.any(axis=1) & ~value.any(axis=1)).any(),
                 "nothing correct": not correct.any(axis=1).all(), "nothing at all": not correct.any(),
                 "malformed": not valid.all(), "masked": not feasible.all(), "m = 1": m == 1, "n = 1": n == 1}
        seen.update({fact: int(holds) for fact, holds in facts.items()})
    assert min(seen.values()) >= 15, f"the random batches are too tame: {seen}"


@pytest.mark.parametrize("correct, extended, cap, expected", [
    ([[1, 1, 1, 0]], [[E, R, R, R]], 1, [0, 1]),                        # D1: joint margin -1/4, though Δ = +1/3
    ([[1, 1, 1, 1]], [[R, R, E, E]], 1, [0, 0]),                        # D2: Δ = 0, the easy prompt gets nothing
    ([[1, 0, 1, 1]] * 4, [[R, R, E, E]] * 4, 1 / 4, [4, 0]),            # D3: 4 of 16 samples, so all 4 prompts vote
    ([[1, 0, 1, 1]] * 4, [[R, R, E, E]] * 4, 1 / 8, [2, 0]),            # D2: the other two get no regular response
    ([[1, 1, 1, 1]], [[E, E, E, E]], 1, [1, 0]),                        # D4: no regular sample counts as pass rate 0
    ([[0, 0, 0, 0], [1, 0, 0, 0]], [[R, R, E, E]] * 2, 1, [0, 1]),      # D5: dropped; Δ < 0 stays regular
    ([[0, 1]], [[R, E]], 1 / 4, [0, 0]),                                # D3: round(0.5) is 0
    ([[0, 1]] * 3, [[R, E]] * 3, 1 / 4, [2, 0]),                        # D3: round(1.5) is 2
])
def test_listing_departs_where_the_specification_says(correct, extended, cap, expected):
    weights = listing(correct, extended, cap, rng=0)
    assert [(weights * extended).sum(), (weights * (1 - np.array(extended))).sum()] == expected


def test_listing_counts_malformed_responses_as_samples():
    correct, extended, valid = [[1, 0, 1, 1]], [[R, R, E, E]], [[1, 1, 1, 0]]
    assert not listing(correct, extended, 1, valid).any()             # 1 of 4 against 1 of 4: Δ = 0
    assert listing(correct, extended, 1, rng=0)[0, 2:].sum() == 1     # all valid: Δ = 1/4


def test_listing_needs_a_feasible_response_of_the_better_group():
    correct, extended = [[1, 0, 1, 1], [1, 1, 1, 0]], [[R, R, E, E]] * 2        # Δ = +1/4 and -1/4
    weights = listing(correct, extended, 1, feasible=[[1, 0, 0, 0], [0, 0, 1, 0]], rng=0)
    assert not weights.any()                                                    # a loss is worse than nothing


def test_listing_ties_are_uniform():
    correct, extended = np.tile([1, 0, 1, 1], (6, 1)), np.tile([R, R, E, E], (6, 1))
    rng, counts = np.random.default_rng(1), np.zeros((6, 4))
    for _ in range(3000):
        weights = listing(correct, extended, 2 / 24, rng=rng)
        assert weights.sum() == 2
        counts += weights
    assert not counts[:, :2].any() and chisquare(counts[:, 2:].ravel()).pvalue > 1e-3
    correct = [[0, 1, 1, 1, 1, 0]] * 3000
    counts = listing(correct, [[R, R, R, R, E, E]] * 3000, 1, rng=2).sum(axis=0)
    assert counts.sum() == 3000 and chisquare(counts[1:4]).pvalue > 1e-3        # between the regular ones
    correct, extended, *_ = random_batch(np.random.default_rng(3), 100, 8)

    def draw(seed):
        return listing(correct, extended, 0.02, rng=seed).tolist()

    assert draw(4) == draw(4) != draw(5)


# ---- Policy gradients ----

def test_grpo_by_loops():
    rng = np.random.default_rng(6)
    for _ in range(200):
        n, m = rng.integers(1, 6), rng.integers(1, 9)
        correct, _, valid, _ = random_batch(rng, n, m)
        weights = grpo(correct, valid)
        for i in range(n):
            reward = [float(c and v) for c, v in zip(correct[i], valid[i])]
            mean = sum(reward) / m
            std = (sum((r - mean) ** 2 for r in reward) / m) ** 0.5
            expected = [(r - mean) / std / m if std else 0 for r in reward]
            assert weights[i] == pytest.approx(expected, abs=1e-12)
            assert abs(weights[i]).sum() == pytest.approx(2 * (mean * (1 - mean)) ** 0.5)
    assert not grpo([[1, 1, 1], [0, 0, 0]]).any()
    assert grpo([[1, 1]], valid=[[1, 0]]).tolist() == [[0.5, -0.5]]


PRICED = dict(price=0.25, unit=20.0)


def test_length_penalty_by_loops():
    rng = np.random.default_rng(7)
    for _ in range(200):
        n, m = rng.integers(1, 6), rng.integers(2, 9)
        correct, _, valid, _ = random_batch(rng, n, m)
        tokens = rng.integers(0, 200, (n, m))
        weights = length_penalty(correct, tokens, **PRICED, valid=valid)
        for i in range(n):
            reward = [float(c and v) - 0.25 * t / 20 for c, v, t in zip(correct[i], valid[i], tokens[i])]
            for j in range(m):
                baseline = sum(reward[:j] + reward[j + 1:]) / (m - 1)
                assert weights[i, j] == pytest.approx((reward[j] - baseline) / m, abs=1e-12)
    assert length_penalty([[1, 0]], [[9, 9]], 0, 1).tolist() == [[0.5, -0.5]]


def expected_gradient(method, probabilities, m):
    """The exact mean of Σ_j weights_j ∇ log π(y_j) over all ways to draw m responses from a softmax policy."""
    k, total = len(probabilities), np.zeros(len(probabilities))
    for draw in product(range(k), repeat=m):
        score = np.eye(k)[list(draw)] - probabilities                           # [m, k], ∇ log π, by the logits
        total += np.prod(probabilities[list(draw)]) * (method(np.array(draw)) @ score)
    return total


@pytest.mark.parametrize("m", [2, 3, 5])
def test_length_penalty_is_unbiased(m):
    """Its mean is the gradient of E[correct] - price E[tokens] / unit: not a multiple of it."""
    probabilities = np.array([0.2, 0.5, 0.3])
    right, tokens = np.array([1, 0, 1]), np.array([100.0, 15, 20])              # a vote, a wrong trial, a right one

    def method(draw):
        return length_penalty(right[draw][None], tokens[draw][None], **PRICED)[0]

    reward = right - 0.25 * tokens / 20
    gradient = probabilities * (reward - probabilities @ reward)                # of Σ_y π(y) reward(y)
    assert expected_gradient(method, probabilities, m) == pytest.approx(gradient, abs=1e-12)


def test_grpo_ascends_and_knows_no_length():
    probabilities, right = np.array([0.2, 0.5, 0.3]), np.array([1, 0, 1])
    gradient = expected_gradient(lambda draw: grpo(right[draw][None])[0], probabilities, 4)
    assert gradient[0] > 0 > gradient[1] and gradient[2] > 0
    assert gradient[0] / gradient[2] == pytest.approx(0.2 / 0.3)                # both right: alike, whatever they cost


# ---- Table 1 and the controls ----

def test_table_1():
    batch = judged([[1, 0, 1], [0, 0, 0]], [[R, R, E], [R, R, E]])
    s = {name: run(name, batch) for name in ("sft", "rft", "raft", "cgpo", "ibpo")}
    assert s["sft"].weights.tolist() == [[1, 1, 1], [1, 1, 1]]
    assert s["rft"].weights.tolist() == [[1, 0, 1], [0, 0, 0]]
    assert s["rft"][1:] == (2, 1, 1, 0)
    assert s["raft"].weights[0] @ [1, 0, 1] == 1 and s["raft"].weights[1].sum() == 1
    assert s["cgpo"].weights[0] @ [1, 0, 1] == 1 and s["cgpo"].weights[1].sum() == 0


def test_all_wrong():
    batch = judged(np.zeros((5, 4)), [[R, R, E, E]] * 5)
    for name in METHODS:
        s = run(name, batch)
        if name == "sft":  # right and wrong alike
            assert s.accepted == 20 and s.dropped_no_correct == 0
        elif name == "raft":  # the best of a bad row is still accepted
            assert s.accepted == 5 and s.dropped_no_correct == 0
        elif name == "length-penalty":  # all cost the same
            assert s.accepted == 0 and np.allclose(s.weights, 0) and s.dropped_no_correct == 5
        else:
            assert s[1:] == (0, 0, 5, 0) and not s.weights.any()  # D5


@pytest.mark.parametrize("name", METHODS)
def test_every_method_counts_what_it_accepts(name):
    rng = np.random.default_rng(11)
    for _ in range(20):
        correct, extended, valid, feasible = random_batch(rng, 50, 8)
        batch = judged(correct, extended, valid, rng.integers(5, 90, (50, 8)))
        s = run(name, batch, feasible=feasible, rng=rng)
        may = correct & valid & feasible
        positive = s.weights > 0
        assert s.weights.shape == (50, 8)
        assert s.accepted == positive.sum() and s.extended == (positive & extended).sum()
        assert all(type(count) is int for count in s[1:])  # plain ints, fit for a json log
        if METHODS[name].policy_gradient:
            assert (s.weights < 0).any()
            continue
        assert set(np.unique(s.weights)) <= {0, 1} and not s.weights[~valid].any()
        if not METHODS[name].accepts_infeasible:
            assert not s.weights[~may].any() and s.dropped_no_correct == (~may.any(axis=1)).sum()
        if name not in ("sft", "rft"):
            assert (s.weights.sum(axis=1) <= 1).all()
        if name in ("cgpo", "raft", "rft"):  # nobody who could be served is left out
            served = may if name != "raft" else valid
            assert (positive.any(axis=1) == served.any(axis=1)).all()


def test_ties_are_drawn_by_cgpo_and_raft():
    batch = judged([[1, 0, 1, 1]] * 3000, [[R, R, E, E]] * 3000)
    for name in ("cgpo", "raft"):
        counts = run(name, batch).weights.sum(axis=0)
        assert counts[1] == 0 and chisquare(counts[[0, 2, 3]]).pvalue > 1e-3


def test_margin_control_has_no_cap():
    assert run("margin", judged([[1, 0, 1, 1]] * 4, [[R, R, E, E]] * 4), cap=0.25).extended == 4


def test_random_control_is_fair():
    """As many prompts as IBPO, never fewer votes, never more margin, and blind to who needs the vote."""
    rng, strictly = np.random.default_rng(12), 0

    def value_of(selection, batch):
        margin = ibpo.reward_margin(batch.correct, batch.extended, batch.valid)[:, None]
        return (selection.weights * np.where(batch.extended, margin, -margin)).sum()

    for _ in range(300):
        correct, extended, valid, feasible = random_batch(rng, 30, 8)
        batch, cap = judged(correct, extended, valid), float(rng.integers(0, 101)) / 100
        ours, control = (run(name, batch, cap, feasible, rng) for name in ("ibpo", "random"))
        assert control.accepted == ours.accepted and control.extended >= ours.extended
        assert control.dropped_over_cap == ours.dropped_over_cap and control.extended <= cap * control.accepted + 1e-9
        gap = value_of(ours, batch) - value_of(control, batch)
        assert gap > -1e-9
        strictly += gap > 1e-9
    assert strictly > 100
    batch = judged([[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 1, 1], [1, 0, 0, 1]], [[R, R, E, E]] * 4)
    assert ibpo.reward_margin(batch.correct, batch.extended).tolist() == [-0.5, 0, 0.5, 0]
    assert run("random", batch, 1.0).extended == 4  # room for all: all vote
    counts = sum(run("random", batch, 0.25, rng=rng).weights @ [R, R, E, E] for _ in range(1000))
    assert counts.sum() == 1000 and chisquare(counts).pvalue > 1e-3


# ---- IBPO with any caps ----

def total_margin(weights, rollout) -> float:
    margin = ibpo.reward_margin(rollout.correct, rollout.extended, rollout.valid)
    return float((weights * np.where(rollout.extended, margin[:, None], 0)).sum())


def test_general_program_equals_closed_form_for_votes():
    rng = np.random.default_rng(0)
    for _ in range(100):
        rollout, cap = made_up_rollout(rng, rng.integers(1, 40)), float(rng.integers(0, 11)) / 10
        feasible, settings = rollout.correct & rollout.valid, Settings(budget=f"vote={cap}")
        closed = methods.select_under_budget(rollout, feasible, settings, rng)
        general = methods.select_by_caps(rollout, feasible, settings, rng)
        assert general[1:] == closed[1:]
        assert total_margin(general.weights, rollout) == pytest.approx(total_margin(closed.weights, rollout))


@pytest.mark.parametrize("budget", ["tokens=60", "tokens=25", "vote=0.3,tokens=60", "vote=0.6,tokens=1000"])
def test_caps_are_kept(budget):
    settings = replace(Settings(), budget=budget)
    rng = np.random.default_rng(1)
    for seed in range(50):
        rollout = made_up_rollout(rng, 64)
        selection, weights = train.select(rollout, None, settings, seed)
        assert set(np.unique(weights)) <= {0, 1} and (weights.sum(axis=1) <= 1).all() and weights.any()
        assert not weights[~(rollout.correct & rollout.valid)].any()
        assert selection.accepted == weights.sum() and selection.extended == weights[rollout.extended].sum()
        assert selection.accepted + selection.dropped_no_correct + selection.dropped_over_cap == 64
        average = {"vote": selection.extended / selection.accepted,
                   "tokens": (weights * rollout.tokens).sum() / selection.accepted}
        assert all(average[name] <= cap + 1e-9 for name, cap in settings.caps.items())
        record = describe(rollout, selection)
        assert record["accepted_tokens"] == pytest.approx(average["tokens"])
        assert record["accepted_vote_share"] == average["vote"]


@pytest.mark.parametrize("budget", ["short=0.3,vote=0.3", "vote=0.2,short=0.1", "vote=0.3", "vote=0,short=1",
                                    "short=0.3,vote=0.3,tokens=40", "tokens=30"])
@pytest.mark.parametrize("share_ties", [True, False])
@pytest.mark.slow
def test_three_groups_keep_every_cap(budget, share_ties):
    settings, _ = parse_args(["--sft-short", "9", "--budget", budget, "--share-ties" if share_ties else
                              "--no-share-ties"])
    rng, shares = np.random.default_rng(4), []
    for seed in range(30):
        rollout = three_groups(rng, 64)
        selection, weights = train.select(rollout, None, settings, seed)
        chosen = selection.weights > 0
        assert (chosen.sum(axis=1) <= 1).all() and not chosen[~(rollout.correct & rollout.valid)].any()
        assert selection.accepted + selection.dropped_no_correct + selection.dropped_over_cap == 64
        average = {"vote": (rollout.group[chosen] == EXTENDED).mean(), "short": (rollout.group[chosen] == SHORT).mean(),
                   "tokens": rollout.tokens[chosen].mean()}
        assert all(average[name] <= cap + 1e-9 for name, cap in settings.caps.items())
        record = describe(rollout, selection)
        assert record["accepted_short_share"] == pytest.approx(average["short"])
        assert record["accepted_vote_share"] == pytest.approx(average["vote"])
        shares.append([average["short"], average["vote"]])
        # the weight of a prompt stays in the group that was accepted, on all its responses or on one
        for i in np.flatnonzero(chosen.any(axis=1)):
            same = rollout.correct[i] & rollout.valid[i] & (rollout.group[i] == rollout.group[i, chosen[i]])
            shared = share_ties and "tokens" not in budget
            assert np.allclose(weights[i], same / same.sum() if shared else chosen[i])
        assert not weights[~chosen.any(axis=1)].any()
    if budget == "short=0.3,vote=0.3":  # the caps bind: margins are there to be had, for both kinds of vote
        assert np.mean(shares, axis=0) == pytest.approx([0.3, 0.3], abs=0.02)


def test_hard_prompts_take_the_long_votes():
    settings, rng = replace(Settings(), sft_short=9, budget="short=0.3,vote=0.3"), np.random.default_rng(5)
    accepted = np.zeros((3, 6))  # by group and level
    for seed in range(20):
        rollout = three_groups(rng, 128, 48)
        chosen = train.select(rollout, None, settings, seed)[0].weights > 0
        prompts, _ = chosen.nonzero()
        np.add.at(accepted, (rollout.group[chosen], rollout.levels[prompts]), 1)
    regular, short, extended = accepted[:, 1:] / accepted[:, 1:].sum(axis=0)
    assert list(regular) == sorted(regular, reverse=True) and list(extended) == sorted(extended)
    assert short[0] < 0.15 and short[4] < max(short) > 0.35  # in the middle


@pytest.mark.parametrize("method", ["cgpo", "rft", "grpo"])
def test_other_methods_with_three_groups(method):
    settings, _ = parse_args(["--sft-short", "9", "--method", method, "--rl-top-p", "1"])
    rollout = three_groups(np.random.default_rng(6), 40)
    selection, weights = train.select(rollout, None, settings, 0)
    for i in range(40) if method == "cgpo" else []:
        accepted = rollout.group[i, selection.weights[i] > 0]
        assert len(accepted) <= 1 and set(rollout.group[i, weights[i] > 0]) == set(accepted)
    assert selection.accepted > 0 and weights.any()


def test_cap_on_expected_tokens_counts_the_group_not_the_draw():
    """The accepted cost what their group costs on their prompt, on average; in a group nothing prefers the short."""
    rng, settings = np.random.default_rng(7), parse_args(["--budget", "expected-tokens=60"])[0]
    own, expected, possible = [], [], []
    for seed in range(100):
        rollout = made_up_rollout(rng, 48)
        selection, weights = train.select(rollout, None, settings, seed)
        costs = []
        for i, j in zip(*selection.weights.nonzero()):
            same = rollout.valid[i] & (rollout.group[i] == rollout.group[i, j])  # bool[m]
            costs.append(rollout.tokens[i, same].mean())
            right = same & rollout.correct[i]
            assert weights[i] == pytest.approx(right / right.sum())  # they tie and share the weight
            possible.append(rollout.tokens[i, right].mean())
            own.append(rollout.tokens[i, j])
        assert np.mean(costs) <= 60 + 1e-9
        expected.append(np.mean(costs))
    assert np.mean(expected) > 58 and np.mean(own) == pytest.approx(np.mean(possible), rel=0.02)
    assert settings.name("ibpo") == "ibpo-expected-tokens-60"


@pytest.mark.parametrize("caps", ["vote=0.5", "tokens=90", "expected-tokens=90", "vote=0.5,tokens=90"])
def test_without_a_margin_the_single_trial_stays_whatever_is_capped(caps):
    """D7. Of 20 prompts six have a margin: only these vote, though every cap has room for more."""
    extended = np.tile([False] * 4 + [True] * 4, (20, 1))
    correct = np.ones((20, 8), bool)
    correct[:6, :2] = False  # two of four single trials are right
    batch = judged(correct, extended, tokens=np.where(extended, 100, 20))
    settings = Settings(budget=caps)
    weights = METHODS["ibpo"].select(batch, batch.correct, settings, np.random.default_rng(0)).weights
    assert ((weights * extended).sum(axis=1) > 0).tolist() == [True] * 6 + [False] * 14 and weights.sum() == 20


@pytest.mark.parametrize("cap", ["short", "vote"])
def test_without_a_margin_no_group_votes(cap):
    """D7, three groups: a cap on one kind of vote leaves no room for the other."""
    rollout = three_groups(np.random.default_rng(8), 30)
    rollout.correct[:], rollout.valid[:] = True, True
    rollout.group[:, 0] = 0
    settings = replace(Settings(), sft_short=9, budget=f"{cap}=0.3")
    selection, _ = train.select(rollout, None, settings, 0)
    assert selection.accepted == 30 and rollout.group[selection.weights > 0].tolist() == [0] * 30


def test_slack_cap_on_tokens_does_not_shorten():
    """Where tokens are no constraint, the responses accepted are as long as those that might have been."""
    rng, accepted, possible = np.random.default_rng(2), [], []
    for seed in range(200):
        rollout = made_up_rollout(rng, 16)
        _, weights = train.select(rollout, None, replace(Settings(), budget="tokens=500"), seed)
        _, drawn = train.select(rollout, None, replace(Settings(), budget="vote=1", share_ties=False), seed)
        accepted.append((weights * rollout.tokens).sum() / weights.sum())
        possible.append((drawn * rollout.tokens).sum() / drawn.sum())
    assert np.mean(accepted) > 0.95 * np.mean(possible)


# ---- Sharing ties, and the KL bound ----

def test_shared_ties_reach_the_gradient_weights():
    rollout = made_up_rollout(np.random.default_rng(3), 64)
    selection, weights = train.select(rollout, None, Settings(), 0)
    assert selection.accepted == selection.weights.sum() and np.allclose(weights.sum(1), selection.weights.sum(1))
    assert np.count_nonzero(weights) > 2 * selection.accepted
    _, drawn = train.select(rollout, None, replace(Settings(), share_ties=False), 0)
    assert (drawn == selection.weights).all()


def test_listing_shares_ties_like_ibpo():
    batch = judged([[1, 0, 1, 1], [1, 1, 0, 0]], [[R, R, E, E]] * 2)
    weights = ibpo.share_ties(run("listing", batch, 1).weights, batch.correct, batch.group)
    assert weights.tolist() == [[0, 0, .5, .5], [.5, .5, 0, 0]]


@pytest.mark.parametrize("options", [
    dict(method="ibpo"), dict(method="cgpo"), dict(method="rft"), dict(method="margin"), dict(method="listing"),
    dict(method="random"), dict(budget="vote=0.5,expected-tokens=20"), dict(budget="vote=0.3,short=0.3", sft_short=9)])
def test_kl_bound_filters_and_changes_no_method(options, monkeypatch):
    """Eq. (7): what is too far is not accepted. A bound that nothing exceeds changes nothing."""
    rng, settings, far = np.random.default_rng(0), Settings(share_ties=False, **options), 0
    for seed in range(20):
        rollout = made_up_rollout(rng, 12)
        distance = rng.choice([0.5, 2.0], rollout.correct.shape, p=[0.7, 0.3])
        monkeypatch.setattr(train, "kl_estimate", lambda *_, distance=distance: distance)
        free, wide, tight = (train.select(rollout, reference, replace(settings, kl_max=kl_max), seed)[0]
                             for reference, kl_max in ((None, None), ("a reference", 2.0), ("a reference", 1.0)))
        assert (free.weights == wide.weights).all()
        assert tight.accepted and not tight.weights[distance > 1].any()
        far += free.weights[distance > 1].sum()
        masked = METHODS[settings.method].select(
            rollout, rollout.correct & rollout.valid & (distance <= 1), settings, np.random.default_rng(seed))
        assert (masked.weights == tight.weights).all()
    assert far > 10


def test_ties_are_shared_among_what_the_kl_bound_allows(monkeypatch):
    rng = np.random.default_rng(8)
    rollout, distance = made_up_rollout(rng, 40), rng.uniform(0, 2, (40, 8))
    monkeypatch.setattr(train, "kl_estimate", lambda *arguments: distance)
    _, weights = train.select(rollout, "a reference", replace(Settings(), kl_max=1.0), 0)
    assert ((weights > 0) & (weights < 1)).any() and not weights[distance > 1].any()


@pytest.mark.parametrize("name", METHODS)
def test_empty_batch(name):
    s = run(name, judged(np.zeros((0, 4)), np.zeros((0, 4))))
    assert s.weights.shape == (0, 4) and s[1:] == (0, 0, 0, 0)


def test_needs_no_torch():
    code = "import sys, methods; assert 'torch' not in sys.modules and 'scipy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=Path(methods.__file__).parent, check=True)


def test_a_margin_of_zero_votes_if_the_settings_say_so():
    batch = judged(np.ones((4, 4)), [[R, R, E, E]] * 4)
    assert [run("ibpo", batch, 0.5, zero_margin=z).extended for z in ("regular", "vote")] == [0, 2]
