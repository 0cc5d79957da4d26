"""
baselines.py against oracles: scipy's milp for the listing, exact gradients of a small policy, voting.py for the vote.

    pytest tests/test_baselines.py

The oracles write each rule out again, response by response, and know nothing of the closed forms.
"""

import subprocess
import sys
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import LinearConstraint, milp
from scipy.stats import chisquare

import baselines
import ibpo
import voting

E, R = 1, 0     # extended, regular


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


def random_batch(rng, n, m):
    """correct, extended, valid, feasible: bool[n, m]; easy, hard, one-sided, empty and broken rows, mixed."""
    correct = rng.random((n, m)) < rng.choice([0, 0.2, 0.5, 0.8, 1], (n, 1))
    extended = rng.random((n, m)) < rng.choice([0, 0.2, 0.5, 0.8, 1], (n, 1))
    correct &= extended | (rng.random((n, 1)) < 0.7)            # some prompts only votes can solve
    valid = rng.random((n, m)) < rng.choice([0.7, 1])
    feasible = rng.random((n, m)) < rng.choice([0.5, 1])
    return correct, extended, valid, feasible


def test_listing_is_the_optimum_by_milp():
    rng, seen = np.random.default_rng(0), Counter()
    for _ in range(1200):
        n, m = rng.integers(1, 13), rng.integers(1, 9)
        correct, extended, valid, feasible = random_batch(rng, n, m)
        cap = float(rng.choice([0, 0.02, 0.05, 0.1, 0.15, 0.5, 1]))
        limit = round(cap * n * m)
        weights = baselines.listing(correct, extended, cap, valid, feasible, rng)
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
    assert min(seen.values()) >= 25, f"the random batches are too tame: {seen}"


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
    weights = baselines.listing(correct, extended, cap, rng=0)
    assert [(weights * extended).sum(), (weights * (1 - np.array(extended))).sum()] == expected


def test_listing_counts_malformed_responses_as_samples():
    correct, extended, valid = [[1, 0, 1, 1]], [[R, R, E, E]], [[1, 1, 1, 0]]
    assert not baselines.listing(correct, extended, 1, valid).any()             # 1 of 4 against 1 of 4: Δ = 0
    assert baselines.listing(correct, extended, 1, rng=0)[0, 2:].sum() == 1     # all valid: Δ = 1/4


def test_listing_needs_a_feasible_response_of_the_better_group():
    correct, extended = [[1, 0, 1, 1], [1, 1, 1, 0]], [[R, R, E, E]] * 2        # Δ = +1/4 and -1/4
    weights = baselines.listing(correct, extended, 1, feasible=[[1, 0, 0, 0], [0, 0, 1, 0]], rng=0)
    assert not weights.any()                                                    # a loss is worse than nothing


def test_listing_ties_are_uniform():
    correct, extended = np.tile([1, 0, 1, 1], (6, 1)), np.tile([R, R, E, E], (6, 1))
    rng, counts = np.random.default_rng(1), np.zeros((6, 4))
    for _ in range(3000):
        weights = baselines.listing(correct, extended, 2 / 24, rng=rng)
        assert weights.sum() == 2
        counts += weights
    assert not counts[:, :2].any() and chisquare(counts[:, 2:].ravel()).pvalue > 1e-3
    correct = [[0, 1, 1, 1, 1, 0]] * 3000
    counts = baselines.listing(correct, [[R, R, R, R, E, E]] * 3000, 1, rng=2).sum(axis=0)
    assert counts.sum() == 3000 and chisquare(counts[1:4]).pvalue > 1e-3        # between the regular ones
    correct, extended, *_ = random_batch(np.random.default_rng(3), 100, 8)
    def draw(rng):
        return baselines.listing(correct, extended, 0.02, rng=rng).tolist()
    assert draw(4) == draw(np.random.default_rng(4)) != draw(5)


# ---- Policy gradients ----

def test_grpo_by_loops():
    rng = np.random.default_rng(6)
    for _ in range(200):
        n, m = rng.integers(1, 6), rng.integers(1, 9)
        correct, _, valid, _ = random_batch(rng, n, m)
        weights = baselines.grpo(correct, valid)
        for i in range(n):
            reward = [float(c and v) for c, v in zip(correct[i], valid[i])]
            mean = sum(reward) / m
            std = (sum((r - mean) ** 2 for r in reward) / m) ** 0.5
            expected = [(r - mean) / std / m if std else 0 for r in reward]
            assert weights[i] == pytest.approx(expected, abs=1e-12)
            assert abs(weights[i]).sum() == pytest.approx(2 * (mean * (1 - mean)) ** 0.5)
    assert not baselines.grpo([[1, 1, 1], [0, 0, 0]]).any()
    assert baselines.grpo([[1, 1]], valid=[[1, 0]]).tolist() == [[0.5, -0.5]]


PRICED = dict(coefficient=0.25, unit=20.0)


def test_length_penalty_by_loops():
    rng = np.random.default_rng(7)
    for _ in range(200):
        n, m = rng.integers(1, 6), rng.integers(2, 9)
        correct, _, valid, _ = random_batch(rng, n, m)
        tokens = rng.integers(0, 200, (n, m))
        weights = baselines.length_penalty(correct, tokens, **PRICED, valid=valid)
        for i in range(n):
            reward = [float(c and v) - 0.25 * t / 20 for c, v, t in zip(correct[i], valid[i], tokens[i])]
            for j in range(m):
                baseline = sum(reward[:j] + reward[j + 1:]) / (m - 1)
                assert weights[i, j] == pytest.approx((reward[j] - baseline) / m, abs=1e-12)
    assert baselines.length_penalty([[1, 0]], [[9, 9]], 0, 1).tolist() == [[0.5, -0.5]]


def expected_gradient(method, probabilities, m):
    """The exact mean of Σ_j weights_j ∇ log π(y_j) over all ways to draw m responses from a softmax policy."""
    k, total = len(probabilities), np.zeros(len(probabilities))
    for draw in product(range(k), repeat=m):
        score = np.eye(k)[list(draw)] - probabilities                           # [m, k], ∇ log π, by the logits
        total += np.prod(probabilities[list(draw)]) * (method(np.array(draw)) @ score)
    return total


@pytest.mark.parametrize("m", [2, 3, 5])
def test_length_penalty_is_unbiased(m):
    """Its mean is the gradient of E[correct] - coefficient E[tokens] / unit: not a multiple of it."""
    probabilities = np.array([0.2, 0.5, 0.3])
    right, tokens = np.array([1, 0, 1]), np.array([100.0, 15, 20])              # a vote, a wrong trial, a right one
    def method(draw):
        return baselines.length_penalty(right[draw][None], tokens[draw][None], **PRICED)[0]
    reward = right - 0.25 * tokens / 20
    gradient = probabilities * (reward - probabilities @ reward)                # of Σ_y π(y) reward(y)
    assert expected_gradient(method, probabilities, m) == pytest.approx(gradient, abs=1e-12)


def test_grpo_ascends_and_knows_no_length():
    probabilities, right = np.array([0.2, 0.5, 0.3]), np.array([1, 0, 1])
    gradient = expected_gradient(lambda draw: baselines.grpo(right[draw][None])[0], probabilities, 4)
    assert gradient[0] > 0 > gradient[1] and gradient[2] > 0
    assert gradient[0] / gradient[2] == pytest.approx(0.2 / 0.3)                # both right: alike, whatever they cost


# ---- Adaptive self-consistency ----

def test_adaptive_self_consistency_is_the_rule_of_voting():
    rng, seen = np.random.default_rng(8), Counter()
    for kinds in (1, 2, 4, 6, 9):
        answers = rng.integers(-1, kinds, (400, 8))
        gold = rng.integers(0, kinds, 400)
        right, trials = baselines.adaptive_self_consistency(answers, answers == gold[:, None])
        for i in range(400):
            texts = [None if a < 0 else str(a) for a in answers[i]]
            needed = voting.trials_needed(texts)
            final, count = voting.plurality(texts[:needed])
            assert trials[i] == needed and right[i] == (final == str(gold[i]))
            counts = sorted(Counter(filter(None, texts[:needed])).values())
            seen.update({"three": needed == 3, "early": 3 < needed < 8, "no consensus": count < 3,
                         "consensus at eight": needed == 8 and count == 3, "tie": counts[-2:-1] == counts[-1:] != [],
                         "no answer": None in texts})
    assert min(seen.values()) >= 50, f"the random answers are too tame: {seen}"


def test_adaptive_self_consistency_by_hand():
    answers = [[4, 4, 4, 7, 7, 7, 7, 7], [7, 4, 4, 7, -1, 5, 6, 8], [-1] * 8]
    right, trials = baselines.adaptive_self_consistency(answers, np.equal(answers, 7))
    assert right.tolist() == [False, True, False]       # what comes after consensus; the first of a tie; no answer
    assert trials.tolist() == [3, 8, 8]
    right, trials = baselines.adaptive_self_consistency(np.zeros((0, 8), int), np.zeros((0, 8)))
    assert right.shape == trials.shape == (0,)


# ---- Input ----

def test_empty_batch():
    nothing = np.zeros((0, 4))
    for weights in (baselines.listing(nothing, nothing, 0.5), baselines.grpo(nothing),
                    baselines.length_penalty(nothing, nothing, 0.1, 1)):
        assert weights.shape == (0, 4)


ROW, ANSWERS = [[1, 0, 1]], np.zeros((2, 8), int)
GOOD = {baselines.listing: dict(correct=ROW, extended=ROW, cap=0.5), baselines.grpo: dict(correct=ROW),
        baselines.length_penalty: dict(correct=ROW, tokens=ROW, coefficient=0.1, unit=5),
        baselines.adaptive_self_consistency: dict(answers=ANSWERS, correct=np.ones((2, 8)))}
NAN = float("nan")


@pytest.mark.parametrize("method, bad, message", [
    *[(method, dict(correct=[[1, 0.5, 1]]), "correct must hold only") for method in list(GOOD)[:3]],
    *[(method, dict(valid=[[1, 0]]), "valid has the shape") for method in list(GOOD)[:3]],
    *[(baselines.listing, dict(cap=cap), "cap must be a number") for cap in (-0.1, 1.1, NAN, None, "half")],
    (baselines.listing, dict(extended=None), "extended must be an array"),
    (baselines.listing, dict(feasible=[[1]]), "feasible has the shape"),
    (baselines.grpo, dict(correct=np.ones((2, 0))), "at least 1"),
    (baselines.length_penalty, dict(tokens=[1, 2, 3]), "tokens has the shape"),
    (baselines.length_penalty, dict(tokens=[[1, 2, NAN]]), "tokens must be finite"),
    (baselines.length_penalty, dict(tokens=[[1, 2, -3]]), "tokens must be finite"),
    (baselines.length_penalty, dict(correct=[[1]], tokens=[[1]]), "at least 2"),
    *[(baselines.length_penalty, dict(coefficient=c), "coefficient must be") for c in (-1, NAN, np.inf, None)],
    *[(baselines.length_penalty, dict(unit=unit), "unit must be") for unit in (0, -1, NAN, None)],
    (baselines.adaptive_self_consistency, dict(answers=ANSWERS[:, :5]), "answers must be an array"),
    (baselines.adaptive_self_consistency, dict(answers=ANSWERS - 2), "-1 for no answer"),
    (baselines.adaptive_self_consistency, dict(answers=ANSWERS + 0.5), "whole numbers"),
    (baselines.adaptive_self_consistency, dict(answers=ANSWERS - 1), "cannot be correct"),
    (baselines.adaptive_self_consistency, dict(correct=np.ones((3, 8))), "correct has the shape"),
])
def test_bad_input_is_refused_in_one_line(method, bad, message):
    method(**GOOD[method])
    with pytest.raises(ValueError, match=message) as error:
        method(**{**GOOD[method], **bad})
    assert "\n" not in str(error.value)


def test_listing_shares_ties_like_ibpo():
    """train.py spreads the weight of an accepted response over those that tie; the listing's ties are the same."""
    correct, extended = [[1, 0, 1, 1], [1, 1, 0, 0]], [[R, R, E, E]] * 2
    weights = ibpo.share_ties(baselines.listing(correct, extended, 1, rng=0), correct, extended)
    assert weights.tolist() == [[0, 0, .5, .5], [.5, .5, 0, 0]]


def test_needs_no_torch():
    code = "import sys, baselines; assert 'torch' not in sys.modules and 'scipy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=Path(baselines.__file__).parent, check=True)
