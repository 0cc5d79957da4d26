"""
budget.py against oracles: the solution of ibpo.py on two groups, scipy's linprog and milp and brute force elsewhere.

    pytest tests/test_budget.py

Most costs are whole numbers and the caps are fractions, so whether a cap is kept is decided exactly. The oracles know
nothing of prices: linprog gets every single response as an unknown, with the largest coverage first and the largest
value next.
"""

import itertools
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from made_up import random_batch
from scipy.optimize import LinearConstraint, linprog, milp
from scipy.sparse import block_diag, csr_array, kron, vstack
from scipy.stats import chisquare

import budget
import ibpo

INSTANCES = 100  # of each kind


# ---- Random instances ----

class Instance(NamedTuple):
    value: np.ndarray  # float[n, m]
    costs: np.ndarray  # int[K, n, m]
    caps: list[Fraction]  # K of them
    feasible: np.ndarray  # bool[n, m]
    total: list[bool]  # K of them

    def net(self) -> tuple[np.ndarray, np.ndarray]:
        """float[K, n, m] and float[K]: the budgets as sum of x net <= limit."""
        shares = np.array([[[0.0 if total else float(cap)]] for cap, total in zip(self.caps, self.total, strict=True)])
        limit = [float(cap) if total else 0.0 for cap, total in zip(self.caps, self.total, strict=True)]
        return self.costs - shares, np.array(limit)

    def affordable(self) -> np.ndarray:
        """bool[n, m]: feasible, and not dearer than all prompts together may be. No whole choice has anything else."""
        n = int(self.feasible.any(axis=1).sum())
        most = [cap * (1 if total else n) for cap, total in zip(self.caps, self.total, strict=True)]
        within = [[[cost <= cap for cost in row] for row in costs.tolist()]
                  for costs, cap in zip(self.costs, most, strict=True)]
        return self.feasible & np.array(within, bool).reshape(self.costs.shape).all(axis=0)

    def solve(self, rng: int | np.random.Generator | None = 0, **more) -> budget.Allocation:
        caps = [float(cap) for cap in self.caps]
        return budget.select(self.value, self.costs, caps, self.feasible, self.total, rng=rng, **more)


def fraction(rng: np.random.Generator, low: float, high: float) -> Fraction:
    return Fraction(int(rng.integers(round(1000 * low), round(1000 * high) + 1)), 1000)


def groups(rng: np.random.Generator, n: int, m: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """value float[n, m] by group_margin, group int[n, m], feasible bool[n, m]: easy, hard and hopeless prompts."""
    group = rng.integers(count, size=(n, m))
    right = rng.choice([0, 0.2, 0.5, 0.8, 1], (n, 1)) + rng.choice([0, 0.1, 0.3], (n, 1)) * group
    correct, valid = rng.random((n, m)) < right, rng.random((n, m)) < 0.95
    return budget.group_margin(correct, group, valid), group, correct & valid


def tokens_of(rng: np.random.Generator, group: np.ndarray) -> np.ndarray:
    """int[n, m]: some 60 tokens for each step of the group, give or take."""
    return rng.integers(30, 90, group.shape) * (1 + group)


def two_groups(rng: np.random.Generator, n: int, m: int) -> Instance:
    value, group, feasible = groups(rng, n, m, 2)
    return Instance(value, (group == 1)[None] * 1, [fraction(rng, 0, 1)], feasible, [False])


def three_groups(rng: np.random.Generator, n: int, m: int) -> Instance:
    value, group, feasible = groups(rng, n, m, 3)
    caps = [fraction(rng, 0.05, 0.6), fraction(rng, 0.05, 0.6)]
    return Instance(value, np.array([group == 1, group == 2]) * 1, caps, feasible, [False, False])


def tokens(rng: np.random.Generator, n: int, m: int) -> Instance:
    value, group, feasible = groups(rng, n, m, 3)
    value = rng.choice([value, rng.normal(size=(n, m))])
    if rng.random() < 0.5:
        return Instance(value, tokens_of(rng, group)[None], [fraction(rng, 50, 150)], feasible, [False])
    return Instance(value, tokens_of(rng, group)[None], [n * fraction(rng, 50, 150)], feasible, [True])


def groups_and_tokens(rng: np.random.Generator, n: int, m: int) -> Instance:
    value, group, feasible = groups(rng, n, m, 3)
    costs = np.array([tokens_of(rng, group), group == 1, group == 2])
    caps = [fraction(rng, 60, 140), fraction(rng, 0.1, 0.6), fraction(rng, 0.1, 0.6)]
    kept = [0, 2] if rng.random() < 0.5 else [0, 1, 2]
    return Instance(value, costs[kept], [caps[k] for k in kept], feasible, [False] * len(kept))


def infeasible(rng: np.random.Generator, n: int, m: int) -> Instance:
    """Rarely can every prompt be served, some cannot be at any price, and at times none can."""
    instance = [tokens, groups_and_tokens][rng.integers(2)](rng, n, m)
    lean = [cap * int(rng.integers(3, 8)) / 10 if k == 0 else cap / 2 for k, cap in enumerate(instance.caps)]
    feasible = instance.feasible & (rng.random((n, 1)) < 0.8)
    return instance._replace(caps=[Fraction(cap) for cap in lean], feasible=feasible)


def degenerate(rng: np.random.Generator, n: int, m: int) -> Instance:
    """Ties everywhere: values, costs and caps of a few small whole numbers, copied rows, useless budgets."""
    K = rng.integers(1, 4)
    value, costs = rng.integers(-1, 3, (n, m)) / 2, rng.integers(0, rng.integers(2, 4), (K, n, m))
    copied = rng.integers(n, size=n // 2)
    value[:len(copied)], costs[:, :len(copied)] = value[copied], costs[:, copied]
    caps = [Fraction(int(rng.integers(0, 5)), 2) for _ in range(K)]
    total = [bool(flag) for flag in rng.random(K) < 0.3]
    if K > 1 and rng.random() < 0.3:
        costs[1], caps[1], total[1] = costs[0], caps[0], total[0]  # the same budget twice
    caps = [cap * n if flag else cap for cap, flag in zip(caps, total, strict=True)]
    return Instance(value, costs, caps, rng.random((n, m)) < 0.8, total)


KINDS = {"two groups": two_groups, "three groups": three_groups, "tokens": tokens,
         "groups and tokens": groups_and_tokens, "infeasible": infeasible, "degenerate": degenerate}


def instances(kind: str, count: int = INSTANCES) -> list[Instance]:
    rng = np.random.default_rng(list(KINDS).index(kind))
    return [KINDS[kind](rng, int(rng.integers(1, 11)), int(rng.integers(1, 6))) for _ in range(count)]


@cache
def solved(kind: str) -> tuple[list[Instance], list[budget.Allocation]]:
    """The instances of a kind and their allocations."""
    cases = instances(kind)
    return cases, [case.solve(rng=i) for i, case in enumerate(cases)]


# ---- Oracles ----

def linear_programs(instances: list[Instance], objectives: list[np.ndarray], at_least: np.ndarray | None = None
                    ) -> np.ndarray:
    """float[instances]: the optima of many relaxations, as blocks of one linprog call. One at a time takes minutes."""
    blocks, limits = [], []
    for i, case in enumerate(instances):
        n, m = case.value.shape
        net, limit = case.net()
        rows = [kron(np.eye(n), np.ones((1, m))), csr_array(net.reshape(len(net), n * m))]
        right = [np.ones(n), limit]
        if at_least is not None:
            rows, right = rows + [csr_array(-np.ones((1, n * m)))], right + [[-at_least[i]]]
        blocks.append(vstack(rows))
        limits.append(np.concatenate(right))
    flat = [np.ravel(objective) for objective in objectives]
    upper = np.concatenate([case.affordable().ravel() for case in instances]).astype(float)
    result = linprog(-np.concatenate(flat), block_diag(blocks, "csr"), np.concatenate(limits),
                     bounds=np.stack([0 * upper, upper], axis=1), method="highs-ds",
                     options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10})
    assert result.status == 0, result.message
    parts = np.split(result.x, np.cumsum([len(part) for part in flat])[:-1])
    return np.array([part @ objective for part, objective in zip(parts, flat, strict=True)])


def whole_program(case: Instance, accepted: int | None = None) -> tuple[int, float]:
    """(accepted, value) by milp; accepted=None: one more prompt outweighs all values, else exactly so many."""
    n, m = case.value.shape
    net, limit = case.net()
    rows = [LinearConstraint(np.kron(np.eye(n), np.ones(m)), ub=1),
            LinearConstraint(net.reshape(len(net), n * m), ub=limit + 1e-9)]
    if accepted is not None:
        rows.append(LinearConstraint(np.ones((1, n * m)), accepted, accepted))
    more = 0 if accepted is not None else 1 + 2 * n * np.abs(case.value).max()
    result = milp(-(case.value.ravel() + more), integrality=np.ones(n * m), bounds=(0, case.affordable().ravel()),
                  constraints=rows, options={"mip_rel_gap": 0})
    assert result.status == 0, result.message
    x = result.x.round()
    return int(x.sum()), x @ case.value.ravel()


def check_record(case: Instance, a: budget.Allocation) -> None:
    """What must hold for every allocation, whatever the input. Caps exactly, in fractions."""
    n, m = case.value.shape
    assert a.weights.shape == a.relaxed.shape == (n, m) and set(np.unique(a.weights)) <= {0, 1}
    assert not a.weights[~case.feasible].any() and not a.relaxed[~case.feasible].any()
    assert (a.weights.sum(axis=1) <= 1).all() and a.accepted == a.weights.sum()
    assert a.dropped_no_feasible == (~case.feasible.any(axis=1)).sum()
    assert a.accepted + a.dropped_no_feasible + a.dropped_over_cap == n
    for cost, cap, total, spent in zip(case.costs, case.caps, case.total, a.spent, strict=True):
        used = int((cost * a.weights).sum())
        assert used == spent and used <= cap * (1 if total else a.accepted)
    assert a.value == pytest.approx((a.weights * case.value).sum(), abs=1e-12)
    # The relaxation: within the limits, few fractions, and proved optimal by the prices.
    net, limit = case.net()
    assert ((a.relaxed * net).sum(axis=(1, 2)) <= limit + 1e-6).all()
    assert (a.relaxed >= 0).all() and (a.relaxed.sum(axis=1) <= 1 + 1e-9).all() and (a.prices >= 0).all()
    fractional = np.count_nonzero(((a.relaxed > 1e-7) & (a.relaxed < 1 - 1e-7)).any(axis=1))
    assert fractional <= len(case.caps) + (a.dropped_over_cap > 0)
    assert a.lp_value == pytest.approx((a.relaxed * case.value).sum(), abs=1e-9)
    assert abs(a.duality_gap) < 1e-9 * max(1, abs(a.lp_value))
    assert a.rounding_gap == pytest.approx(a.lp_value - a.value, abs=1e-12)


# ---- The optimum ----

@pytest.mark.parametrize("kind", KINDS)
def test_against_linprog(kind: str):
    """The optimum with fractions: the same for all instances, with as many prompts as possible first."""
    cases, allocations = solved(kind)
    coverage = linear_programs(cases, [np.ones(case.value.shape) for case in cases])
    most = np.floor(coverage + 1e-9)
    values = linear_programs(cases, [case.value for case in cases], at_least=most - 1e-12)
    for case, a, value, prompts in zip(cases, allocations, values, most, strict=True):
        check_record(case, a)
        assert a.lp_value == pytest.approx(value, rel=1e-9, abs=1e-9)
        assert a.accepted <= prompts


@cache
def compared(kind: str) -> Counter:
    """The instances of a kind against milp: how many are as good, and how varied they are."""
    seen = Counter()
    for case, a in zip(*solved(kind), strict=True):
        K = len(case.caps)
        accepted, best = whole_program(case)
        seen.update({"as many prompts": a.accepted == accepted, "priced": bool(a.prices.any()),
                     "dropped": a.dropped_over_cap > 0, "some": a.accepted > 0})
        assert accepted - K <= a.accepted <= accepted
        if K == 1:
            assert a.accepted == accepted  # one budget: exact
        if a.accepted < accepted:
            _, best = whole_program(case, a.accepted)
        worth = np.where(case.feasible, case.value, 0)
        one_prompt = (worth.max(axis=1, initial=0) - worth.min(axis=1, initial=0)).max()  # dropping it is worth 0
        budgets = K + (a.dropped_over_cap > 0)  # coverage is one more budget, when it is short
        assert best - budgets * one_prompt - 1e-9 <= a.value <= best + 1e-9
        seen["as much value"] += int(a.value > best - 1e-9)
        if kind == "two groups":
            assert a.value == pytest.approx(best, abs=1e-9)  # one cap and costs of 0 and 1: exact
    return seen


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_against_milp(kind: str):
    """Whole choices: as many prompts, up to one per budget, and as much value, up to one prompt's per budget."""
    seen = compared(kind)
    assert min(seen["priced"], seen["dropped"], seen["some"]) >= INSTANCES / 20, f"the instances are too tame: {seen}"


def test_rounding_nearly_always_finds_the_best_whole_choice():
    seen = sum((compared(kind) for kind in KINDS), Counter())
    assert seen["as many prompts"] >= 0.99 * INSTANCES * len(KINDS)
    assert seen["as much value"] >= 0.98 * INSTANCES * len(KINDS)


def test_equal_to_the_closed_form():
    """Two groups and a cap on votes: as many prompts and votes as ibpo.select_ibpo, and the same margin of Eq. (8)."""
    rng = np.random.default_rng(10)
    for _ in range(200):
        correct, extended, valid, feasible = random_batch(rng, int(rng.integers(1, 17)), int(rng.integers(1, 9)))
        cap = Fraction(int(rng.choice([0, 10, 25, 29, 33, 50, 58, 75, 90, 100, rng.integers(101)])), 100)
        exact = ibpo.select_ibpo(correct, extended, float(cap), valid, feasible, rng)
        value = budget.group_margin(correct, extended * 1, valid)
        ours = budget.select(value, [extended], [float(cap)], correct & valid & feasible, thrifty=True, rng=rng)
        assert (ours.accepted, ours.spent[0]) == (exact.accepted, exact.extended)
        assert (ours.dropped_no_feasible, ours.dropped_over_cap) == (exact.dropped_no_correct, exact.dropped_over_cap)
        assert ours.spent[0] <= cap * ours.accepted
        margin = ibpo.reward_margin(correct, extended, valid)[:, None]  # float[n, 1]
        objective = np.where(extended, margin, -margin)  # float[n, m], Eq. (8)
        assert (ours.weights * objective).sum() == pytest.approx((exact.weights * objective).sum())


def test_cap_is_used_up_to_the_last_response():
    """0.29 of 100 votes are 29, though 0.29 * 100 is 28.999999999999996."""
    for percent in range(101):
        value = np.tile([0.0, 1.0], (100, 1))
        assert budget.select(value, [value], [percent / 100], rng=0).spent == [percent]


def test_a_cost_equal_to_the_cap():
    """0.1 + 0.2 is more than 0.3 in floating point; that must not count as 100% of the largest excess."""
    a = budget.select(np.ones((3, 1)), [np.full((3, 1), 0.1 + 0.2)], [0.3])
    assert a.accepted == 3 and a.prices == [0]


def test_large_batch():
    """1,024 prompts, two budgets: the bound is met up to the value of one prompt per budget."""
    rng = np.random.default_rng(11)
    case = groups_and_tokens(rng, 1024, 8)
    case = case._replace(costs=case.costs[[0, -1]], caps=[Fraction(75), Fraction(1, 10)], total=[False, False])
    a = case.solve()
    check_record(case, a)
    assert a.dropped_over_cap == 0 and a.prices.all() and -1e-9 < a.rounding_gap < 2
    assert a.rounding_gap / a.value < 0.01


# ---- What a price is ----

def test_worked_example():
    """The gains per token, sorted, are 5, 4, 3, 2, 1 thousandths; 200 tokens beyond the cheapest buy two of them."""
    value = np.array([[0, 0.1 * i] for i in range(1, 6)])
    tokens = np.tile([100, 200], (5, 1))
    a = budget.select(value, [tokens], [140])
    assert a.weights[:, 1].tolist() == [0, 0, 0, 1, 1] and a.value == pytest.approx(0.9) and a.rounding_gap == 0
    a = budget.select(value, [tokens], [150])  # half of the third; its gain is the price
    assert a.relaxed[:, 1].tolist() == [0, 0, 0.5, 1, 1] and a.prices == [pytest.approx(0.003)]
    assert a.weights[:, 1].tolist() == [0, 0, 0, 1, 1] and a.rounding_gap == pytest.approx(0.15)
    assert budget.select(value, [tokens], [750], total=True).prices == [pytest.approx(0.003)]  # the same as a total
    assert budget.select(value, [tokens], [200]).prices == [0]  # not short: free


def test_price_is_the_slope_of_the_value():
    """One more unit of a total is worth its price, in the program with fractions."""
    rng, checked = np.random.default_rng(12), 0
    for _ in range(100):
        case = tokens(rng, 8, 4)
        if case.total[0]:
            here, there = (case._replace(caps=[case.caps[0] + more]).solve() for more in (0, Fraction(1, 100)))
            if here.dropped_over_cap == 0 and (here.relaxed % 1).any():
                assert there.lp_value - here.lp_value == pytest.approx(here.prices[0] / 100, abs=1e-9)
                checked += here.prices[0] > 0
    assert checked >= 10


def test_cheap_prompts_pay_for_expensive_ones():
    tokens = [[100], [100], [100], [400]]  # 700 tokens, one response each
    value = np.zeros((4, 1))
    assert budget.select(value, [tokens], [175]).accepted == 4
    assert budget.select(value, [tokens], [174]).accepted == 3
    # Coverage first: the cheap ones are accepted even where they are worth less than nothing.
    assert budget.select(value - 9, [tokens], [175]).accepted == 4
    # And which are dropped is a matter of value.
    a = budget.select([[1.0], [3.0], [2.0]], [[[5], [5], [5]]], [10], total=True)
    assert a.weights.ravel().tolist() == [0, 1, 1] and a.dropped_over_cap == 1


# ---- Corner cases ----

def test_nothing_to_choose():
    empty = budget.select(np.zeros((0, 3)), [np.zeros((0, 3))], [1.0])
    assert empty.weights.shape == (0, 3) and empty.accepted == 0 and empty.value == 0
    none = budget.select(np.ones((2, 3)), [np.ones((2, 3))], [1.0], feasible=np.zeros((2, 3)))
    assert not none.weights.any() and (none.accepted, none.dropped_no_feasible, none.dropped_over_cap) == (0, 2, 0)
    broke = budget.select(np.ones((2, 3)), [np.ones((2, 3))], [0.5])
    assert not broke.weights.any() and (broke.accepted, broke.dropped_no_feasible, broke.dropped_over_cap) == (0, 0, 2)
    free = budget.select([[1.0, 3.0, 2.0]], [], [])  # no budget at all
    assert free.weights.tolist() == [[0, 1, 0]] and free.prices.shape == (0,)


def test_what_may_not_be_accepted_may_hold_anything():
    value, tokens = [[np.nan, 1.0], [2.0, np.inf]], [[-1, 3], [3, np.nan]]
    a = budget.select(value, [tokens], [3], feasible=[[0, 1], [1, 0]])
    assert a.weights.tolist() == [[0, 1], [1, 0]] and a.value == 3 and a.spent == [6]


def test_units_do_not_matter():
    for case in instances("groups and tokens", 60):
        a = case.solve(rng=1)
        large = case._replace(value=case.value * 1e6, costs=case.costs * 1000, caps=[cap * 1000 for cap in case.caps])
        b = large.solve(rng=1)
        assert a.accepted == b.accepted and b.value == pytest.approx(1e6 * a.value)
        assert b.prices == pytest.approx(1000 * a.prices, abs=1e-6)


# ---- Chance ----

def uniform(counts: np.ndarray) -> bool:
    return chisquare(counts).pvalue > 1e-3


def test_choice_among_equal_responses_is_uniform():
    n = 3000
    value, votes = np.zeros((n, 6)), np.tile([0, 0, 0, 1, 1, 1], (n, 1))
    feasible = np.tile([1, 0, 1, 1, 1, 1], (n, 1))
    thrifty = budget.select(value, [votes], [0.5], feasible, thrifty=True, rng=1).weights.sum(axis=0)
    assert uniform(thrifty[[0, 2]]) and thrifty[3:].sum() == 0  # no value: no vote
    tokens = np.tile([50, 60, 70, 80, 90, 99], (n, 1))
    free = budget.select(value, [tokens], [100.0], feasible, rng=2).weights.sum(axis=0)
    assert uniform(free[[0, 2, 3, 4, 5]])  # budget enough: the shortest is not favoured


@pytest.mark.parametrize("row", [[1, 0, 1, 1], [0, 0, 1, 1]], ids=["upgrade", "forced"])
def test_ties_between_prompts_are_random(row):
    # The last prompt has one vote to choose, the others two: no reason to be drawn less often.
    feasible = np.array([[1, 1, 0, 0]] + [row] * 5 + [[row[0], 0, 1, 0]])
    votes, value = np.tile([0, 0, 1, 1], (7, 1)), np.tile([0, 0, 0.5, 0.5], (7, 1))
    cap, rng, counts = 0.15 if row[0] else 0.5, np.random.default_rng(7), np.zeros(7)
    for _ in range(200):
        counts += budget.select(value, [votes], [cap], feasible, rng=rng).weights[:, 2:].sum(axis=1)
    assert counts.sum() == 200 and counts[0] == 0 and uniform(counts[1:])


def test_seeds_repeat_and_none_does_not():
    case = three_groups(np.random.default_rng(8), 200, 8)
    def draw(rng):
        return case.solve(rng=rng).weights.tolist()
    assert draw(9) == draw(np.random.default_rng(9)) != draw(10)
    assert draw(None) != draw(None)


# ---- Eq. (6) for any number of groups ----

def test_group_margin_of_two_groups():
    rng = np.random.default_rng(13)
    for _ in range(200):
        correct, extended, valid, _ = random_batch(rng, 6, int(rng.integers(1, 9)))
        margin = ibpo.reward_margin(correct, extended, valid)[:, None]
        expected = np.where(extended & valid, margin, 0)
        assert budget.group_margin(correct, extended * 1, valid).tolist() == expected.tolist()


def test_group_margin_of_three_groups():
    group = [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [1, 1, 2, 2, 2], [2, 2, 2, 2, 2]]
    correct = [[1, 0, 1, 1, 0], [0, 0, 1, 0, 1], [0, 1, 1, 1, 0], [1, 0, 1, 0, 1]]
    expected = [[0, 0, 0.5, 0.5, -0.5],  # long was right less often than one trial
                [0, 0, 0.5, 0.5, 1],
                [0, 0, 1 / 6, 1 / 6, 1 / 6],  # no regular response: against the short vote
                [0, 0, 0, 0, 0]]  # one group only: no evidence (D4)
    assert budget.group_margin(correct, group) == pytest.approx(np.array(expected))
    valid = [[1, 0, 1, 1, 0]] * 4  # no long one, of the regular the first
    assert budget.group_margin(correct[:2], group[:2], valid[:2]).tolist() == [[0] * 5, [0, 0, 0.5, 0.5, 0]]


# ---- Bad input, and the script ----

GOOD = dict(value=np.ones((2, 3)), costs=[np.ones((2, 3))], caps=[1.0])


@pytest.mark.parametrize("bad, message", [
    (dict(value=np.ones(3)), "value must be an array"), (dict(value=np.ones((2, 0))), "value must be an array"),
    (dict(costs=[np.ones((3, 2))]), "cost 0 has the shape"), (dict(caps=[1.0, 2.0]), "one number per budget"),
    (dict(caps=1.0), "one number per budget"), (dict(caps=[np.nan]), "caps must be finite"),
    (dict(caps=[-1.0]), "caps must not be negative"), (dict(costs=[-np.ones((2, 3))]), "costs must not be negative"),
    (dict(costs=[np.full((2, 3), np.inf)]), "costs must be"), (dict(value=np.full((2, 3), np.nan)), "value must be"),
    (dict(feasible=np.ones((3, 2))), "feasible must hold"), (dict(feasible=np.full((2, 3), 2)), "feasible must hold"),
    (dict(total=[True, False]), "total and thrifty"), (dict(thrifty=[True, False]), "total and thrifty"),
])
def test_bad_input_is_refused_in_one_line(bad, message):
    budget.select(**GOOD)
    with pytest.raises(ValueError, match=message) as error:
        budget.select(**{**GOOD, **bad})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bad, message", [
    (dict(group=np.zeros((3, 2), int)), "one shape"), (dict(group=np.full((2, 3), 0.5)), "whole numbers"),
    (dict(group=np.full((2, 3), -1)), "whole numbers"), (dict(valid=np.ones((2, 2))), "one shape"),
])
def test_bad_groups_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        budget.group_margin(**{**dict(correct=np.ones((2, 3)), group=np.zeros((2, 3), int)), **bad})


def test_report_and_script():
    report = str(budget.select([[0, 3.0], [0, 2.0]], [[[0, 5], [0, 5]]], [4]))
    assert report == ("accepted 2, value 3 (at most 4.2); dropped prompts: 0 nothing feasible, 0 over the cap; "
                      "prices [0.4]")
    run = subprocess.run([sys.executable, budget.__file__], capture_output=True, text=True, check=True)
    assert "made whole from 0.80 regular and 0.20 long vote" in run.stdout and run.stdout.count("accepted 6") == 2


def test_needs_no_torch():
    code = "import sys, budget; assert not {'torch', 'scipy', 'ibpo'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=Path(budget.__file__).parent, check=True)


# ---- Costs of very different sizes, and rounding errors ----

def wide_program(rng: np.random.Generator, K: int, n: int, m: int) -> tuple[np.ndarray, ...]:
    """value, costs, caps, feasible, total: costs and caps over twelve orders of magnitude, in every budget."""
    costs = 10.0 ** rng.uniform(-6, 6, (K, n, m))
    caps = 10.0 ** rng.uniform(-4, 6, K)
    return rng.normal(size=(n, m)), costs, caps, rng.random((n, m)) < 0.8, rng.random(K) < 0.5


def check_caps(a: budget.Allocation, caps: np.ndarray, total: np.ndarray) -> None:
    assert (a.spent <= caps * np.where(total, 1, a.accepted) * (1 + 2e-9)).all()


def best_by_enumeration(value: np.ndarray, costs: np.ndarray, caps: np.ndarray, feasible: np.ndarray, total: np.ndarray
                        ) -> tuple[int, float]:
    """(accepted, value) of the best of all whole choices."""
    n, m = value.shape
    options = np.array(list(itertools.product(range(m + 1), repeat=n)))  # int[choices, n]; m: drop
    value, feasible = np.pad(value, ((0, 0), (0, 1))), np.pad(feasible, ((0, 0), (0, 1)), constant_values=True)
    costs, row = np.pad(costs, ((0, 0), (0, 0), (0, 1))), np.arange(n)
    accepted = (options < m).sum(axis=1)  # int[choices]
    spent = costs[:, row, options].sum(axis=2)  # float[K, choices]
    limit = caps[:, None] * np.where(total[:, None], 1, accepted) * (1 + 1e-9)
    possible = feasible[row, options].all(axis=1) & (spent <= limit).all(axis=0)
    worth = value[row, options].sum(axis=1)
    most = accepted[possible].max()
    return int(most), float(worth[possible & (accepted == most)].max())


@pytest.mark.parametrize("K", [1, 2, 3])
def test_twelve_orders_of_magnitude_against_enumeration(K: int):
    rng, count, exact, short = np.random.default_rng(20 + K), 100, 0, 0
    for seed in range(count):
        value, costs, caps, feasible, total = wide_program(rng, K, int(rng.integers(1, 6)), 3)
        a = budget.select(value, costs, caps, feasible, total, rng=seed)
        accepted, best = best_by_enumeration(value, costs, caps, feasible, total)
        check_caps(a, caps, total)
        assert abs(a.duality_gap) < 1e-6  # the walk came to its end
        assert accepted - K <= a.accepted <= accepted and (K > 1 or a.accepted == accepted)
        exact += (a.accepted, a.value) == (accepted, pytest.approx(best))
        short += 0 < a.accepted and a.dropped_over_cap > 0
    assert exact >= 0.97 * count and short >= 0.2 * count


def test_twelve_orders_of_magnitude_against_milp():
    """Larger ones. milp gets every budget in units of its cap, and only what the cap can pay for."""
    rng = np.random.default_rng(24)
    for seed in range(40):
        value, costs, caps, feasible, total = wide_program(rng, 1, 20, 4)
        n = feasible.any(axis=1).sum()
        possible = feasible & (costs <= (caps * np.where(total, 1, n))[:, None, None]).all(axis=0)
        costs = np.where(possible, costs, 0)
        case = Instance(value, costs / caps[:, None, None], [1] * len(caps), possible, total.tolist())
        accepted, best = whole_program(case)
        a = budget.select(value, costs, caps, feasible & possible, total, rng=seed)
        check_caps(a, caps, total)
        one_prompt = np.abs(np.where(feasible, value, 0)).max()
        assert a.accepted == accepted and best - 4 * one_prompt <= a.value <= best + 1e-6


def test_caps_without_room_for_all_are_noticed_before_prices_lose_their_digits():
    """Nothing keeps the limits, so prices would rise for ever; past 1e7 the walk was lost with every choice of ties."""
    value, costs, caps, feasible, total = wide_program(np.random.default_rng(507), 2, 40, 4)
    a = budget.select(value, costs, caps, feasible, total, rng=0)
    check_caps(a, caps, total)
    assert a.dropped_over_cap > 0 and abs(a.duality_gap) < 1e-9


def test_one_enormous_cost_does_not_loosen_the_cap():
    """1e-9 of a cost of 1e9 is 1: as a tolerance it would let these two spend 200.9 where 200 is the limit."""
    a = budget.select([[0.0, 1.0], [0.0, 1.0]], [[[100.0, 100.9], [100.0, 1e9]]], [100], rng=0)
    assert a.weights.tolist() == [[1, 0], [1, 0]] and a.spent == [200]
    a = budget.select([[0.0, 1.0], [0.0, 1.0]], [[[1e-6, 1.0001e-6]] * 2], [1e-6], rng=0)  # nor is the unit 1
    assert a.weights.tolist() == [[1, 0], [1, 0]]


def test_thrift_does_not_outweigh_a_value():
    for unit in (1e-7, 1.0, 1e7):
        assert budget.select([[0.0, 1.0]], [[[0.0, unit]]], [unit], thrifty=True, rng=0).value == 1


def test_kinds_are_told_apart_at_any_scale():
    """A value of 1 is no rounding error beside a cost of 1e20."""
    for seed in range(20):
        assert budget.select([[1.0, 2.0, 1.0]], [[[1e20] * 3]], [1e20], rng=seed).value == 2


@pytest.mark.parametrize("error", [ArithmeticError, np.linalg.LinAlgError])
def test_it_ends_even_if_no_walk_does(monkeypatch, error: type[Exception]):
    """Then the choice keeps the caps, and the duality gap is an honest bound on what is missing."""
    case = groups_and_tokens(np.random.default_rng(25), 30, 6)
    proved = case.solve()

    def fail(program):
        raise error

    monkeypatch.setattr(budget, "relax", fail)
    a = case.solve()
    for cost, cap in zip(case.costs, case.caps, strict=True):
        assert int((cost * a.weights).sum()) <= cap * a.accepted
    assert a.accepted > 0.8 * proved.accepted and not a.prices.any() and a.rounding_gap == 0
    assert a.value + a.duality_gap >= proved.lp_value and a.duality_gap > 0


def test_nobody_can_be_served():
    """No prompt has a response free of both groups, and their caps leave no room for a mix."""
    first, second = [[1, 0], [0, 1], [1, 1], [0, 1]], [[0, 0], [1, 0], [0, 0], [1, 0]]
    feasible = np.array([[1, 0], [1, 1], [0, 1], [1, 0]], bool)
    value = [[1, 0], [0, 0], [0, 0], [1, 0]]
    for seed in range(30):
        found = budget.select(value, [first, second], [0.461, 0.52], feasible, rng=seed)
        assert found.accepted == 0 and found.dropped_over_cap == 4
