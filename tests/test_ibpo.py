"""
ibpo.py against oracles: every choice on tiny batches, scipy's milp on larger ones, fractions for the cap.

    pytest tests/test_ibpo.py

The oracles know nothing of the solution: margins are written out again with fractions, and Eq. (8) is
solved over single responses, with as many prompts as possible first and the largest margin next (D6).
"""

import subprocess
import sys
from collections import Counter
from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from made_up import random_batch
from scipy.optimize import LinearConstraint, milp
from scipy.stats import chisquare

import ibpo

E, R = 1, 0     # extended, regular: one letter per column keeps the examples short


# ---- Oracles and random batches ----

def exact_margin(correct, extended, valid):
    """Eq. (6) with D1 and D4, response by response, in fractions."""
    margins = []
    for c, e, v in zip(correct, extended, valid):
        groups = [[int(c[j]) for j in range(len(c)) if v[j] and e[j] == g] for g in (R, E)]
        rates = [Fraction(sum(group), len(group)) if group else None for group in groups]
        margins.append(Fraction(0) if None in rates else rates[1] - rates[0])
    return margins


def brute_force(correct, extended, cap, valid, feasible):
    """(accepted, margin) of the best of all ways to accept at most one feasible response per prompt."""
    margin = exact_margin(correct, extended, valid)
    options = [[None] + [j for j in range(len(row)) if row[j]] for row in correct & valid & feasible]
    best = (0, Fraction(0))
    for choice in product(*options):
        taken = [(i, j) for i, j in enumerate(choice) if j is not None]
        if sum(extended[i, j] for i, j in taken) <= cap * len(taken):
            best = max(best, (len(taken), sum(margin[i] if extended[i, j] else -margin[i] for i, j in taken)))
    return best


def solve_milp(correct, extended, cap, valid, feasible):
    """(accepted, margin) by scipy: Eq. (8) over π[n * m]; one more prompt outweighs all margins together."""
    n, m = correct.shape
    margin = np.array(exact_margin(correct, extended, valid), float)
    value = np.where(extended, margin[:, None], -margin[:, None]).ravel()               # [n * m]
    one_per_prompt = LinearConstraint(np.kron(np.eye(n), np.ones(m)), ub=1)
    under_cap = LinearConstraint(extended.ravel()[None] - float(cap), ub=0)
    result = milp(-(value + 2 * n + 1), integrality=np.ones(n * m), options={"mip_rel_gap": 0},
                  bounds=(0, (correct & valid & feasible).ravel()), constraints=[one_per_prompt, under_cap])
    pi = result.x.round()
    return int(pi.sum()), pi @ value


def random_cap(rng):
    return Fraction(int(rng.choice([0, 10, 25, 29, 33, 50, 58, 75, 90, 100, rng.integers(101)])), 100)


def value_of(selection, correct, extended, valid):
    margin = np.array(exact_margin(correct, extended, valid), float)
    return (selection.weights * np.where(extended, margin[:, None], -margin[:, None])).sum()


def check_record(s, correct, extended, cap, valid, feasible):
    """What must hold for every budgeted selection, whatever the input."""
    allowed = correct & valid & feasible
    assert set(np.unique(s.weights)) <= {0, 1}
    assert not s.weights[~allowed].any()                        # Eq. (7)
    per_prompt = s.weights.sum(axis=1)
    assert (per_prompt <= 1).all()
    assert (per_prompt[(allowed & ~extended).any(axis=1)] == 1).all()       # D2: regular ones cost nothing
    assert all(type(count) is int for count in s[1:])           # plain ints, fit for a json log
    assert s.accepted == per_prompt.sum()
    assert s.extended == s.weights[extended].sum()
    assert s.extended <= cap * s.accepted                       # Eq. (8); exact: cap is a fraction
    assert s.dropped_no_correct == (~allowed.any(axis=1)).sum()             # D5
    assert s.accepted + s.dropped_no_correct + s.dropped_over_cap == len(correct)


# ---- The worked example ----

TABLE_2 = np.array([[1, 1, 1, 1], [1, 0, 1, 1]]), np.array([[R, R, E, E], [R, R, E, E]])


def test_table_2():
    correct, extended = TABLE_2
    np.testing.assert_array_equal(ibpo.reward_margin(correct, extended), [0, 0.5])
    for seed in range(20):
        s = ibpo.select_ibpo(correct, extended, cap=0.5, rng=seed)
        assert s.weights[0, :2].sum() == 1 and s.weights[0, 2:].sum() == 0      # the easy prompt: regular
        assert s.weights[1, 2:].sum() == 1 and s.weights[1, :2].sum() == 0      # the hard one: a vote
        assert s[1:] == (2, 1, 0, 0)
    votes = [ibpo.select_cgpo(correct, extended, rng=seed).weights @ [R, R, E, E] for seed in range(50)]
    assert set(map(tuple, votes)) == {(R, R), (R, E), (E, R), (E, E)}           # CGPO knows no budget


def test_the_script_prints_it():
    run = subprocess.run([sys.executable, ibpo.__file__], capture_output=True, text=True, check=True)
    assert "margin of voting +0.5" in run.stdout and "accepted 2, extended 1 of them (50.0%)" in run.stdout


def test_report_is_one_line():
    s = ibpo.Selection(np.zeros((8, 4)), accepted=4, extended=1, dropped_no_correct=3, dropped_over_cap=1)
    report = "accepted 4, extended 1 of them (25.0%); dropped prompts: 3 nothing correct, 1 over the cap"
    assert str(s) == report
    assert "(0.0%)" in str(s._replace(accepted=0, extended=0))


# ---- The optimum ----

def test_margin_equals_fractions():
    rng = np.random.default_rng(0)
    for _ in range(300):
        correct, extended, valid, _ = random_batch(rng, 6, rng.integers(1, 9))
        exact = exact_margin(correct, extended, valid)
        # Exactly, not approximately: equal margins must be equal floats, or ties would not be ties.
        assert ibpo.reward_margin(correct, extended, valid).tolist() == [float(x) for x in exact]


def test_optimum_by_brute_force():
    rng = np.random.default_rng(1)
    for _ in range(600):
        correct, extended, valid, feasible = random_batch(rng, rng.integers(1, 6), rng.integers(1, 4))
        cap = random_cap(rng)
        s = ibpo.select_ibpo(correct, extended, float(cap), valid, feasible, rng)
        check_record(s, correct, extended, cap, valid, feasible)
        accepted, margin = brute_force(correct, extended, cap, valid, feasible)
        assert s.accepted == accepted
        assert value_of(s, correct, extended, valid) == pytest.approx(float(margin), abs=1e-9)


@pytest.mark.slow
def test_optimum_by_milp():
    rng, seen = np.random.default_rng(2), Counter()
    for _ in range(800):
        correct, extended, valid, feasible = random_batch(rng, rng.integers(1, 17), rng.integers(1, 9))
        cap = random_cap(rng)
        s = ibpo.select_ibpo(correct, extended, float(cap), valid, feasible, rng)
        check_record(s, correct, extended, cap, valid, feasible)
        accepted, margin = solve_milp(correct, extended, cap, valid, feasible)
        assert s.accepted == accepted
        assert value_of(s, correct, extended, valid) == pytest.approx(margin, abs=1e-9)
        free = ibpo.select_ibpo(correct, extended, 1.0, valid, feasible)
        seen.update({"cap binds": s.extended < free.extended, "over the cap": s.dropped_over_cap > 0,
                     "nothing correct": s.dropped_no_correct > 0, "malformed": not valid.all(),
                     "masked": not feasible.all(), "cap 0": cap == 0, "cap 1": cap == 1})
    assert min(seen.values()) >= 30, f"the random batches are too tame: {seen}"


def test_cap_is_never_exceeded():
    rng = np.random.default_rng(3)
    for _ in range(1500):
        correct, extended, valid, feasible = random_batch(rng, rng.integers(0, 60), rng.integers(1, 9))
        cap = random_cap(rng) if rng.random() < 0.5 else Fraction(rng.random())
        s = ibpo.select_ibpo(correct, extended, float(cap), valid=valid, feasible=feasible, rng=rng)
        check_record(s, correct, extended, cap, valid, feasible)


def test_floors_are_exact():
    """The cap is used up to the last response for every whole percentage: 0.29 of 100 is 29, not 28."""
    upgradable, forced = [1, 0, 1], [0, 0, 1]                   # columns R R E: margins +1/2 and +1
    for percent, n in product(range(101), [1, 2, 3, 7, 25, 100, 300]):
        s = ibpo.select_ibpo([upgradable] * n, [[R, R, E]] * n, percent / 100)
        assert s.extended == percent * n // 100
        # n regular prompts pay for f forced ones: f <= p (n + f)
        s = ibpo.select_ibpo([[1, 1, 0]] * n + [forced] * 200, [[R, R, E]] * (n + 200), percent / 100)
        affordable = 200 if percent == 100 else min(200, percent * n // (100 - percent))
        assert (s.accepted, s.extended, s.dropped_over_cap) == (n + affordable, affordable, 200 - affordable)


# ---- Corner cases ----

def test_all_correct_stays_regular():
    s = ibpo.select_ibpo(np.ones((5, 4)), [[R, R, E, E]] * 5, cap=1)
    assert s[1:] == (5, 0, 0, 0)                                # margin 0: no reason to spend


def test_cap_zero_and_one():
    correct, extended = [[0, 1, 1], [0, 0, 1]], [[R, R, E]] * 2
    assert ibpo.select_ibpo(correct, extended, 0)[1:] == (1, 0, 0, 1)
    assert ibpo.select_ibpo(correct, extended, 1)[1:] == (2, 2, 0, 0)


def test_only_votes_and_a_cap_below_one():
    s = ibpo.select_ibpo(np.ones((4, 3)), np.ones((4, 3)), cap=0.75)
    assert s[1:] == (0, 0, 0, 4)        # f <= 3/4 f has only the solution 0; so be it, and counted


def test_malformed_belongs_to_no_group():
    correct, extended, valid = [[1, 0, 0, 1]], [[R, R, E, E]], [[1, 1, 1, 0]]
    assert ibpo.reward_margin(correct, extended, valid) == [-0.5]       # 0 of 1 valid vote against 1 of 2
    assert ibpo.reward_margin(correct, extended) == [0]
    for seed in range(20):                                              # never accepted, though correct
        assert ibpo.select_ibpo(correct, extended, 1.0, valid=valid, rng=seed).weights[0, 3] == 0
        assert ibpo.select_cgpo(correct, extended, valid=valid, rng=seed).weights[0, 3] == 0


def test_feasible_leaves_margins_alone():
    correct, extended = [[1, 0, 1, 1]], [[R, R, E, E]]
    s = ibpo.select_ibpo(correct, extended, 1, feasible=[[0, 0, 1, 1]])         # Δ = +1/2, now forced
    assert s.extended == 1
    s = ibpo.select_ibpo(correct, extended, 1, feasible=[[1, 1, 0, 0]])
    assert s.extended == 0 and s.accepted == 1


def test_feasible_set():
    correct, valid = [[1, 1, 1, 0]], [[1, 1, 0, 1]]
    kl = [[0.5, 2.0, 0.0, 0.0]]
    assert ibpo.feasible_set(correct).tolist() == [[True, True, True, False]]
    assert ibpo.feasible_set(correct, valid).tolist() == [[True, True, False, False]]
    assert ibpo.feasible_set(correct, valid, kl, kl_max=1).tolist() == [[True, False, False, False]]
    assert ibpo.feasible_set(correct, valid, kl, kl_max=2).tolist() == [[True, True, False, False]]
    below = [[-5.0, 5.0, 0.0, 0.0]]     # the estimate of a response is negative where the reference likes it better
    assert ibpo.feasible_set(correct, valid, below, kl_max=1).tolist() == [[True, False, False, False]]


# ---- Departures from the paper's listing, each on a batch where the listing does otherwise ----

def listing_margin(correct, extended):
    """The margin as the listing has it: means over all m samples (D1), so an empty group counts as 0 (D4)."""
    correct, extended = np.array(correct), np.array(extended)
    return (correct * extended).mean(axis=1) - (correct * (1 - extended)).mean(axis=1)


def listing_program(correct, extended, cap):
    """(accepted, extended) of the listing's program: at most one each (D2), round(cap n m) votes (D3)."""
    correct, extended = np.array(correct), np.array(extended)
    margin, limit = listing_margin(correct, extended), round(cap * correct.size)
    best = (0, 0, 0)                                            # value first; on ties, the fewest accepted
    for choice in product(*[[None, *np.flatnonzero(row)] for row in correct]):
        taken = [(i, j) for i, j in enumerate(choice) if j is not None]
        votes = sum(extended[i, j] for i, j in taken)
        if votes <= limit:
            value = sum(margin[i] if extended[i, j] else -margin[i] for i, j in taken)
            best = max(best, (value, -len(taken), votes))
    return -best[1], best[2]


def test_d1_pass_rates_are_per_group():
    correct, extended = [[1, 1, 1, 0]], [[E, R, R, R]]
    assert ibpo.reward_margin(correct, extended) == [pytest.approx(1 / 3)]
    assert listing_margin(correct, extended) == [-0.25]         # the vote is better, but was sampled less
    assert ibpo.select_ibpo(correct, extended, 1).extended == 1


def test_d2_exactly_one():
    correct, extended = [[1, 1, 1, 1], [1, 0, 1, 1]], [[R, R, E, E]] * 2
    assert ibpo.select_ibpo(correct, extended, 0)[1:] == (2, 0, 0, 0)
    assert listing_program(correct, extended, 0) == (0, 0)      # nothing for the easy prompt or the hard one


def test_d3_cap_counts_accepted():
    correct, extended = [[1, 0, 1, 1]] * 4, [[R, R, E, E]] * 4
    assert ibpo.select_ibpo(correct, extended, 0.5)[1:] == (4, 2, 0, 0)
    assert listing_program(correct, extended, 0.5) == (4, 4)    # 8 votes allowed, only 4 prompts: never binds


def test_d4_unseen_group_is_no_evidence():
    easy, only_votes, hard = [1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 1, 0]
    correct = [easy, only_votes, hard]
    extended = [[R, R, R, R], [E, E, E, E], [R, R, E, E]]
    assert ibpo.reward_margin(correct, extended).tolist() == [0, 0, 0.5]
    assert listing_margin(correct, extended).tolist() == [-1, 1, 0.25]          # prefers the untested prompt
    s = ibpo.select_ibpo(correct, extended, 0.5)        # the easy prompt pays for one vote: the hard one's
    assert s.weights[1].sum() == 0 and s.weights[2].tolist() == [0, 0, 1, 0] and s.dropped_over_cap == 1


def test_d5_nothing_correct_is_counted():
    assert ibpo.select_ibpo([[0, 0], [1, 0]], [[R, E]] * 2, 0.5)[1:] == (1, 0, 1, 0)


def test_d6_prompts_before_margins():
    # Row 1 could be upgraded for 2 Δ = 1; row 2 can only vote, for Δ = 1/2. The cap has room for one of them.
    correct, extended = [[1, 0, 1, 1], [0, 0, 1, 0]], [[R, R, E, E]] * 2
    s = ibpo.select_ibpo(correct, extended, 0.5)
    assert s[1:] == (2, 1, 0, 0) and s.weights[1, 2] == 1
    # Of several forced prompts the one with the smallest margin is dropped.
    correct = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    s = ibpo.select_ibpo(correct, [[R, R, E, E]] * 5, 0.5)
    assert s[1:] == (4, 2, 0, 1) and s.weights[2].sum() == 0


def test_d7_a_margin_of_0_stays_regular_or_votes_last():
    correct = np.array([[1, 1, 1, 1]] * 4 + [[1, 0, 1, 1]] * 2 + [[1, 1, 1, 0]], bool)
    extended = np.array([[R, R, E, E]] * 7)
    margin = ibpo.reward_margin(correct, extended)                      # four times 0, twice 1/2, once -1/2
    for cap, stays, votes in ((1, 2, 6), (0.5, 2, 3), (0.2, 1, 1)):
        assert ibpo.select_ibpo(correct, extended, cap).extended == stays
        s = ibpo.maximise_margin(margin, correct, extended, cap, rng=0, zero_margin_votes=True)
        assert s.extended == votes and s.accepted == 7
        voting = (s.weights * extended).any(axis=1)
        assert voting[4:6].sum() == min(votes, 2) and not voting[6]     # the positive margins first, never -1/2


def test_cap_on_the_edge_of_rounding():
    # 4 forced prompts of 14 are just a share of 4/14. A cap that is lower by a few roundings admits them or not, but
    # never more: the number of upgrades was once -1, and [:-1] is nearly all.
    correct = [[1, 0, 1, 1]] * 10 + [[0, 0, 1, 1]] * 4
    for cap in ((4 - 1e-9) / 14, 4 / 14, 0.2857142856428571):
        s = ibpo.select_ibpo(correct, [[R, R, E, E]] * 14, cap)
        assert s.extended <= cap * s.accepted + 1e-8 and s.accepted - s.extended == 10


# ---- Chance ----

def uniform(counts):
    return chisquare(counts).pvalue > 1e-3


def test_choice_within_a_group_is_uniform():
    n = 6000
    correct = np.tile([1, 0, 1, 1, 0, 1, 1, 1], (n, 1))
    extended = np.tile([R, R, R, R, E, E, E, E], (n, 1))        # Δ = 0: all stay regular
    weights = ibpo.select_ibpo(correct, extended, 0.5, rng=4).weights
    assert uniform(weights.sum(axis=0)[[0, 2, 3]])
    weights = ibpo.select_ibpo(correct, extended, 1, feasible=extended, rng=5).weights      # all must vote
    assert uniform(weights.sum(axis=0)[[5, 6, 7]])
    weights = ibpo.select_cgpo(correct, extended, rng=6).weights                # over both groups
    assert uniform(weights.sum(axis=0)[[0, 2, 3, 5, 6, 7]])


@pytest.mark.parametrize("row", [[1, 0, 1], [0, 0, 1]], ids=["upgrade", "forced"])
def test_ties_are_random(row):
    correct, extended = [[1, 1, 1]] + [row] * 6, [[R, R, E]] * 7
    cap = 0.15 if row[0] else 0.5                               # room for exactly one vote
    rng, counts = np.random.default_rng(7), np.zeros(7)
    for _ in range(1200):
        counts += ibpo.select_ibpo(correct, extended, cap, rng=rng).weights[:, 2]
    assert counts.sum() == 1200 and counts[0] == 0 and uniform(counts[1:])


def test_equal_margins_tie_whatever_their_fractions():
    assert 1 - 2 / 3 != 1 / 3 - 0
    margins = ibpo.reward_margin([[1, 1, 0, 1, 1, 1], [0, 0, 0, 1, 0, 0]], [[R, R, R, E, E, E]] * 2)
    assert margins[0] == margins[1]


def test_seeds_repeat_and_none_does_not():
    correct, extended, valid, feasible = random_batch(np.random.default_rng(8), 200, 8)
    def draw(rng):
        return ibpo.select_ibpo(correct, extended, 0.5, rng=rng).weights.tolist()
    assert draw(9) == draw(np.random.default_rng(9)) != draw(10)
    assert draw(None) != draw(None)


# ---- Sharing ties ----

@pytest.mark.parametrize("method", ["ibpo", "random", "cgpo"])
def test_shared_ties_are_the_mean_of_the_draws(method):
    correct, extended, valid, feasible = random_batch(np.random.default_rng(13), 30, 6)
    allowed = correct & valid & feasible
    rng, margin = np.random.default_rng(14), ibpo.reward_margin(correct, extended, valid)
    unequal = margin + 1e-3 * np.arange(30) if method == "ibpo" else margin          # else who votes is a draw, too
    drawn, shared = np.zeros((2, 30, 6))
    for _ in range(4000):
        if method == "ibpo":
            weights = ibpo.maximise_margin(unequal, allowed, extended, 0.5, rng).weights
        elif method == "random":
            weights = ibpo.maximise_margin(1.0 + rng.permutation(30), allowed, extended, 0.5, rng).weights
        else:
            weights = ibpo.select_cgpo(correct, extended, valid, feasible, rng).weights
        drawn += weights / 4000
        shared += ibpo.share_ties(weights, allowed, extended) / 4000
    assert np.abs(drawn - shared).max() < 0.04 and np.allclose(drawn.sum(axis=1), shared.sum(axis=1))


def test_shared_ties_stay_feasible_and_in_the_group():
    rng = np.random.default_rng(15)
    for _ in range(300):
        correct, extended, valid, feasible = random_batch(rng, 20, 8)
        s = ibpo.select_ibpo(correct, extended, float(random_cap(rng)), valid, feasible, rng)
        allowed = correct & valid & feasible
        weights = ibpo.share_ties(s.weights, allowed, extended)
        assert not weights[~allowed].any() and np.allclose(weights.sum(axis=1), s.weights.sum(axis=1))
        assert np.allclose((weights * extended).sum(axis=1), (s.weights * extended).sum(axis=1))
        for row, group, may in zip(weights, extended, allowed):
            if row.any():                                               # all of one group, all the same
                members = may & (group == group[row.argmax()])
                assert np.allclose(row[members], 1 / members.sum()) and not row[~members].any()


def test_shared_ties_leave_several_and_wrong_ones_alone():
    correct, extended = np.array([[1, 1, 0, 1], [0, 0, 0, 0]], bool), np.array([[R, R, R, E], [R, E, R, E]])
    for weights in (np.ones((2, 4)), correct.astype(float), np.array([[0, 0, 0, 0], [0, 1.0, 0, 0]])):
        assert (ibpo.share_ties(weights, correct, extended) == weights).all()       # several; wrong
    one = np.array([[0, 1.0, 0, 0], [0, 0, 0, 0]])
    assert ibpo.share_ties(one, correct, extended).tolist() == [[.5, .5, 0, 0], [0] * 4]


# ---- CGPO ----

def test_cgpo_without_groups():
    s = ibpo.select_cgpo([[1, 0], [0, 0]])
    assert s[1:] == (1, 0, 1, 0) and s.weights.tolist() == [[1, 0], [0, 0]]


# ---- Giving up (D8) ----

def test_who_may_give_up():
    """Where nothing is feasible: valid regular responses."""
    correct = np.array([[1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]], bool)
    extended = np.array([[0, 0, 1, 1], [0, 1, 0, 1], [1, 1, 1, 1]], bool)
    valid = np.array([[1, 1, 1, 1], [1, 1, 0, 1], [1, 1, 1, 1]], bool)
    feasible = ibpo.feasible_set(correct, valid)
    found = ibpo.with_giving_up(feasible, valid, extended)
    assert found.tolist() == [[True, False, True, False], [True, False, False, False], [False] * 4]


@pytest.mark.parametrize("seed", range(20))
def test_giving_up_only_adds_prompts(seed):
    """Who was accepted before is accepted as before, but the cap, a share of the accepted, may leave room for more."""
    rng = np.random.default_rng(seed)
    n, m, cap = 30, 6, float(rng.choice([0.1, 0.3, 0.5]))
    extended, valid = rng.random((n, m)) < 0.5, rng.random((n, m)) < 0.9
    correct = (rng.random((n, m)) < rng.choice([0, 0.4, 0.9], size=(n, 1))) & valid
    margin, feasible = ibpo.reward_margin(correct, extended, valid), ibpo.feasible_set(correct, valid)
    more = ibpo.with_giving_up(feasible, valid, extended)
    before = ibpo.maximise_margin(margin, feasible, extended, cap, seed)
    after = ibpo.maximise_margin(margin, more, extended, cap, seed)
    gave_up = (after.weights > 0) & ~correct
    assert not (gave_up & extended).any() and gave_up.sum() == (more.any(axis=1) & ~feasible.any(axis=1)).sum()
    assert after.accepted >= before.accepted and after.extended <= cap * after.accepted + 1e-9
    assert after.extended >= before.extended  # more regular responses, more room under the cap
    assert after.dropped_no_correct == before.dropped_no_correct - gave_up.sum()


# ---- Bad input ----

GOOD = dict(correct=np.ones((2, 3)), extended=np.zeros((2, 3)), cap=0.5)


@pytest.mark.parametrize("bad, message", [
    (dict(extended=np.zeros((3, 2))), "extended has the shape"),
    (dict(extended=None), "extended must be an array"),
    (dict(correct=np.ones(3), extended=np.zeros(3)), "must be an array"),
    (dict(correct=np.full((2, 3), np.nan)), "correct must hold only"),
    (dict(correct=np.full((2, 3), 0.5)), "correct must hold only"),
    (dict(valid=np.ones((2, 2))), "valid has the shape"),
    (dict(valid=np.full((2, 3), 2)), "valid must hold only"),
    (dict(feasible=np.ones((1, 3))), "feasible has the shape"),
    *[(dict(cap=cap), "cap must be a number") for cap in (-0.1, 1.1, 50, float("nan"), None, "half")],
])
def test_bad_input_is_refused_in_one_line(bad, message):
    method = ibpo.select_ibpo
    method(**GOOD)
    with pytest.raises(ValueError, match=message) as error:
        method(**{**GOOD, **bad})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bad, message", [
    (dict(kl=np.zeros((2, 3))), "belong together"), (dict(kl_max=1.0), "belong together"),
    (dict(kl=np.zeros((3, 2)), kl_max=1.0), "kl has the shape"),
    (dict(kl=np.full((2, 3), np.nan), kl_max=1.0), "NaN"),
    (dict(kl=np.zeros((2, 3)), kl_max=float("nan")), "NaN"),
])
def test_bad_kl_is_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        ibpo.feasible_set(np.ones((2, 3)), **bad)


def test_needs_no_torch():
    code = "import sys, ibpo; assert 'torch' not in sys.modules and 'scipy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=Path(ibpo.__file__).parent, check=True)
