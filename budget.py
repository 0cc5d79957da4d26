"""The budgeted program in general: any groups, any costs, any number of budgets.

Eq. (1) of "Think Smarter not Harder" (Yu et al., ICML 2025, arXiv 2501.17974), Sec. 2, allows groups G_1..G_K with a
cap each. Eq. (8) is the case of two groups and one cap, which ibpo.py solves by one sort and one loop. This file
solves the general case. Of n prompts with m sampled responses each, accept at most one response per prompt:

    as many prompts as possible, and among all ways to do that the largest    Σ_ij x_ij value_ij
    subject to, for each budget k,    Σ_ij x_ij cost_kij <= cap_k · Σ_ij x_ij  (or <= cap_k, a total),   x_ij ∈ {0, 1}

A cost is 1 for the responses of a group and 0 for the others, as in Eq. (1), or a number of trials or tokens. Under a
cap on the average, a response that costs less than the cap leaves room for one that costs more. Only numpy is needed.

    python budget.py      prints an example: six prompts, three groups, a budget of tokens and one of long votes

1. Coverage. First try to serve every prompt. If the caps forbid it, count how many can be served, and then maximise
   the value for that number (D2, D6). A prompt without a feasible response is dropped beforehand, and counted (D5).
2. Prices. A unit of budget k has a price λ_k >= 0, and each prompt takes the response with the largest
   value - λ · cost. As a price rises, prompts turn to cheaper responses: those first that lose least value per unit
   saved. relax() walks to the prices at which the budgets are just kept, the lowest point of the convex function
       L(λ) = λ · limit + Σ_i max_j (value_ij - λ · cost_ij)                                             (the dual)
   For every λ, L(λ) is at least the value of any choice within the budgets. At its lowest point it equals the value of
   the best choice with fractions, where at most K prompts are split between two responses.
3. Rounding. round_off() gives each split prompt one response, within the caps. With one budget the number of prompts
   served is exact; with more it is in 99% of the small random programs of tests/test_budget.py. The value lost there
   is at most that of one prompt per budget.
4. Ties are random. Of a prompt's responses with the same value and costs one is drawn. To break the remaining ties, a
   random number below 1e-9 of the largest value is added to each value. Reported values, prices and bounds are those
   without it.
"""

import math
from collections.abc import Sequence
from itertools import islice, product
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

ZERO = 1e-9  # weights, and sums of costs in units of the cap, are compared up to this
TIE = 1e-9  # size of the random numbers that break ties; values are counted in units of the largest
THRIFT = 1e-7  # what the largest cost of a thrifty budget counts for between equal values


class Allocation(NamedTuple):
    """What was accepted, and what proves that it is good. Printing it gives a one-line report."""
    weights: np.ndarray  # float[n, m]: 1 = accepted, 0 = not
    accepted: int  # prompts with an accepted response
    dropped_no_feasible: int  # prompts without a single response that may be accepted (D5)
    dropped_over_cap: int  # prompts that the caps had no room for (D6)
    spent: np.ndarray  # float[K]: sum of the accepted costs, in the units of the costs
    prices: np.ndarray  # float[K]: λ, the value of one more unit of each budget
    value: float  # sum of the accepted values
    relaxed: np.ndarray  # float[n, m]: the best weights with fractions, of at most K prompts, or K + 1 (D6)
    lp_value: float  # their value: no whole choice is worth more if it serves as many prompts (rounded down)
    duality_gap: float  # L(λ) - lp_value: 0 up to rounding errors, which proves that lp_value is the optimum
    rounding_gap: float  # lp_value - value: what making the split prompts whole has cost

    def __str__(self) -> str:
        return (f"accepted {self.accepted}, value {self.value:.4g} (at most {self.lp_value:.4g}); dropped prompts: "
                f"{self.dropped_no_feasible} nothing feasible, {self.dropped_over_cap} over the cap; "
                f"prices {np.array2string(self.prices, precision=3, separator=', ')}")


class Program(NamedTuple):
    """Exactly one option per prompt, the largest sum of values, and Σ x cost <= limit for every budget."""
    value: np.ndarray  # float[n, w], at most 1 in size; -inf: the prompt has no such option
    cost: np.ndarray  # float[K, n, w], in units of the cap; may be negative
    limit: np.ndarray  # float[K]
    ties: np.ndarray  # float[n, w], small changes of the value that break ties

    def bound(self, prices: np.ndarray) -> float:
        """L(λ), the dual."""
        net = self.value - np.tensordot(prices, self.cost, 1)  # float[n, w]
        return float(prices @ self.limit + net.max(axis=1, initial=-np.inf).sum())

    def merit(self, choice: np.ndarray) -> tuple[int, float]:
        """How many prompts a choice int[n] serves (the last option does not), and their value."""
        n, w = self.value.shape
        return np.count_nonzero(choice < w - 1), self.value[np.arange(n), choice].sum()


def residual(gap: float) -> str:
    """A gap that is 0 but for rounding errors, as text. Its digits differ between processors."""
    return "below 1e-9" if abs(gap) < 1e-9 else f"{abs(gap):.0e}"


# ---------------------------------------------------------------------------------------------------------------------
# What a response is worth, and what is accepted under the budgets

def group_margin(correct: ArrayLike, group: ArrayLike, valid: ArrayLike | None = None) -> np.ndarray:
    """Eq. (6) for any number of groups: how much more often a response's group is right than the cheapest group.

    correct: bool[n, m] or 0/1.  group: int[n, m] from 0, cheapest first.  valid: bool[n, m]; None: all are valid.
    Returns float[n, m]: the pass rate of the response's group among the prompt's valid responses, less that of the
    first group that was sampled. It is 0 if no other group was sampled (D4), and for invalid responses.
    With two groups: ibpo.reward_margin for votes, 0 for the others. Eq. (8) counts -Δ there, which has the same
    solutions under one cap on votes, and wherever every prompt is served.
    ValueError: shapes that differ; groups that are not whole numbers from 0.
    """
    correct, group = np.asarray(correct), np.asarray(group)
    valid = np.ones(correct.shape) if valid is None else np.asarray(valid)
    if correct.ndim != 2 or not correct.shape == group.shape == valid.shape:
        raise ValueError(f"correct, group and valid must have one shape [prompts, responses], not {correct.shape}, "
                         f"{group.shape}, {valid.shape}")
    if group.size and (group.dtype.kind not in "iub" or group.min() < 0):
        raise ValueError("group must hold whole numbers from 0")
    group = group.astype(int)
    member = (group[:, :, None] == np.arange(group.max(initial=0) + 1)) & (valid[:, :, None] != 0)  # bool[n, m, G]
    seen = member.sum(axis=1)  # int[n, G]
    right = (member & (correct[:, :, None] != 0)).sum(axis=1)  # int[n, G]
    cheapest = (seen > 0).argmax(axis=1)[:, None]  # int[n, 1], of those sampled
    seen_cheapest = np.take_along_axis(seen, cheapest, 1)  # int[n, 1]
    right_cheapest = np.take_along_axis(right, cheapest, 1)  # int[n, 1]
    # right / seen - right_cheapest / seen_cheapest as one division of whole numbers: equal margins are equal floats.
    margin = (right * seen_cheapest - right_cheapest * seen) / np.maximum(seen * seen_cheapest, 1)  # float[n, G]
    return np.where(valid != 0, np.take_along_axis(margin, group, 1), 0.0)


def select(value: ArrayLike, costs: Sequence[ArrayLike], caps: ArrayLike, feasible: ArrayLike | None = None,
           total: bool | ArrayLike = False, thrifty: bool | ArrayLike = False,
           rng: np.random.Generator | int | None = None) -> Allocation:
    """At most one response per prompt: as many prompts as possible, then the largest value, within every budget.

    value: float[n, m], any unit; exact up to 1e-9 of the largest (with `thrifty` 1e-7).
    costs: K arrays float[n, m], >= 0, each in a unit of its own.
    caps: float[K], >= 0: the largest average cost of the accepted responses, or where `total` (bool or bool[K]) is
        true, the largest sum. Kept up to 1e-9 of the cap, whatever the sizes of the costs.
    feasible: bool[n, m], what may be accepted (Ξ of Eq. (7)); None: everything.
    thrifty: bool or bool[K]. Between equal values, True takes the cheaper one, as ibpo.py never votes without a
        margin. False leaves the choice to chance as long as the budget is not used up: short is not better.
    rng: a numpy Generator, or a seed, for ties. None: another draw each time.
    Returns an Allocation.  ValueError: shapes that differ; NaN or infinity; negative costs or caps.

    >>> select(value=[[0, 3], [0, 2]], costs=[[[0, 1], [0, 1]]], caps=[0.5]).weights  # one vote for two prompts
    array([[0., 1.],
           [1., 0.]])
    """
    value, costs, caps, feasible, total, thrifty = _checked(value, costs, caps, feasible, total, thrifty)
    rng, prompts = np.random.default_rng(rng), np.flatnonzero(feasible.any(axis=1))  # int[n]; D5 drops the others
    # What costs more than all prompts together may spend is never accepted. Without it, costs are at most n caps.
    most = caps * np.where(total, 1, len(prompts)) * (1 + 1e-12)  # float[K]
    affordable = feasible & (costs <= most[:, None, None]).all(axis=0)  # bool[all, m]
    column, exists = _one_of_each_kind(value[prompts], costs[:, prompts], affordable[prompts], rng)  # [n, w], w <= m
    worth = np.where(exists, np.take_along_axis(value[prompts], column, 1), -np.inf)  # float[n, w]
    spend = np.where(exists, np.take_along_axis(costs[:, prompts], column[None], 2), 0)  # float[K, n, w]

    # Every budget as Σ x cost <= limit in units of its cap. An average becomes Σ x (cost - cap) <= 0.
    unit = np.where(caps > 0, caps, 1)  # float[K]
    cost = (spend - exists * np.where(total, 0, caps)[:, None, None]) / unit[:, None, None]
    limit = np.where(total, caps, 0) / unit
    size = np.abs(worth[exists]).max(initial=0) or 1.0
    largest = spend.max(axis=(1, 2), initial=0)  # float[K]
    thrift = THRIFT * np.tensordot(thrifty / np.where(largest > 0, largest, 1), spend, 1)  # float[n, w]
    # One more option, the last: to drop the prompt. Value 0, cost 0.
    program = Program(_widen(worth / size, 0), _widen(cost, 0), limit, _widen(-thrift, 0))
    program, fractions, prices, bound = _solve(program, rng)
    choice = max((round_off(program, start) for start in _whole_choices(fractions)), key=program.merit)  # int[n]

    accepted = choice < column.shape[1]  # bool[n]
    weights, relaxed = np.zeros((2, *value.shape))  # float[n, m] each
    weights[prompts[accepted], column[accepted, choice[accepted]]] = 1
    relaxed[prompts[:, None], column] = fractions[:, :-1]
    reached, lp_value = float((weights * value).sum()), float((relaxed * value).sum())
    return Allocation(weights, int(accepted.sum()), len(value) - len(prompts), int((~accepted).sum()),
                      (costs * weights).sum(axis=(1, 2)), size * prices[:-1] / unit, reached, relaxed, lp_value,
                      size * bound - lp_value, lp_value - reached)


def _solve(program: Program, rng: np.random.Generator) -> tuple[Program, np.ndarray, np.ndarray, float]:
    """The program with random ties; its best weights float[n, w] with fractions; prices float[K + 1]; their bound L(λ).

    If rounding errors spoil a walk, other ties lead another way. If none does, the weights are those of a whole choice
    at prices of 0, and the bound says how much better the optimum may be.
    """
    n, w = program.value.shape
    for _ in range(20):
        ties = program.ties.copy()
        ties[:, :-1] += TIE * rng.random((n, w - 1))
        perturbed = program._replace(ties=ties)
        try:
            return perturbed, *_coverage_first(perturbed)
        except (ArithmeticError, np.linalg.LinAlgError):
            pass
    choice, free = round_off(perturbed, np.full(n, w - 1)), np.zeros(len(program.limit) + 1)
    return perturbed, np.eye(w)[choice], free, program.bound(free[:-1])


def _coverage_first(program: Program) -> tuple[np.ndarray, np.ndarray, float]:
    """As many prompts as possible, then the largest value, with fractions. ArithmeticError: rounding errors."""
    n, w = program.value.shape
    dropping = _widen(np.zeros((1, n, w - 1)), 1)  # budget K + 1: to drop a prompt costs 1
    serving = program._replace(cost=np.concatenate([program.cost, dropping]), limit=np.append(program.limit, 0))
    try:
        weights, prices = relax(serving)  # all prompts
    except ArithmeticError:  # the limits have no room for all
        count = _widen(np.where(np.isfinite(program.value[:, :-1]), 1.0, -np.inf), 0)  # a prompt served counts 1
        most, _ = relax(program._replace(value=count))
        dropped = n - math.floor(most[:, :-1].sum() + ZERO)
        serving = serving._replace(limit=np.append(program.limit, dropped))
        weights, prices = relax(serving)
    return weights, prices, serving.bound(prices)


def _widen(array: np.ndarray, last: float) -> np.ndarray:
    """array with one more column, filled with `last`."""
    return np.concatenate([array, np.full((*array.shape[:-1], 1), last)], axis=-1)


# ---------------------------------------------------------------------------------------------------------------------
# The linear program: walk along the edges of the dual

def relax(program: Program) -> tuple[np.ndarray, np.ndarray]:
    """The best choice with fractions: weights float[n, w] and prices float[K].

    ArithmeticError: no choice keeps the limits. Rarely, as LinAlgError: rounding errors have led the walk astray.

    To be skipped on a first reading: this is a dual simplex method with generalized upper bounds. The state is an
    option for each prompt and K equations for the K prices, the basis: (-1, k) says "price k is 0", (i, j) says "prompt
    i is indifferent between its option and j". Each equation has an unknown: what is left of budget k, or the part of
    prompt i that takes j. If no unknown is negative, this is the optimum. If one is, give up its equation, and move the
    prices along the edge of L on which the others hold, to its lowest point; prompts turn to other options on the way.
    With one budget: it is overspent at price 0, the price rises, prompts turn to cheaper options, and the one that
    turns when the budget is no longer overspent is split.
    """
    cost, limit = program.cost, program.limit
    K, n, w = cost.shape
    everyone = np.arange(n)
    value = program.value + program.ties
    option = value.argmax(axis=1)  # int[n], the best one at price 0
    basis = [(-1, k) for k in range(K)]

    def equations(value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """columns[K, K], how the costs change with each unknown, and gains[K], how the value does."""
        columns = [np.eye(K)[j] if i < 0 else cost[:, i, j] - cost[:, i, option[i]] for i, j in basis]
        gains = [0.0 if i < 0 else value[i, j] - value[i, option[i]] for i, j in basis]
        return np.array(columns).reshape(K, K).T, np.array(gains)

    for _ in range(10 * (n + K + 1)):  # a handful of rounds are enough
        columns, gains = equations(value)
        prices = np.linalg.solve(columns.T, gains)  # float[K]
        net = value - np.tensordot(prices, cost, 1)  # float[n, w]
        if prices @ limit + net[everyone, option].sum() < -n - 1:  # L is below all values there can be
            raise ArithmeticError("no choice keeps the limits")
        left = np.linalg.solve(columns, limit - cost[:, everyone, option].sum(axis=1))  # float[K]
        own = {i: 1 - sum(left[t] for t in range(K) if basis[t][0] == i) for i, _ in basis if i >= 0}
        owner = min(own, key=own.get, default=-1)  # whose own option has the smallest part
        smallest_own, smallest_left = own.get(owner, 0.0), min(left, default=0.0)
        if min(smallest_own, smallest_left) >= -ZERO:
            break
        if smallest_own < smallest_left:  # its two options change roles
            t = [i for i, _ in basis].index(owner)
            option[owner], basis[t] = basis[t][1], (owner, option[owner])
            continue

        t = int(left.argmin())  # the equation to give up
        basis[t] = (-1, -1)
        direction = np.linalg.solve(columns.T, np.eye(K)[t])  # float[K]
        speed = -np.tensordot(direction, cost, 1)  # float[n, w]
        when, prompt, into, bend = _turning_points(net, speed, option)
        # The edge ends where a prompt that is split would turn away, or where a price would fall below 0.
        bend[np.isin(prompt, [i for i, _ in basis if i >= 0])] = np.inf
        falls = [k for k in range(K) if (-1, k) not in basis and direction[k] < -ZERO]
        when = np.append(when, np.maximum(prices[falls], 0) / -direction[falls])
        prompt, into = np.append(prompt, [-1] * len(falls)).astype(int), np.append(into, falls).astype(int)
        bend = np.append(bend, [np.inf] * len(falls))

        order = when.argsort(kind="stable")
        slope = left[t] + bend[order].cumsum()  # of L after each point; it rises
        if not (slope >= -ZERO).any():
            raise ArithmeticError("no choice keeps the limits")  # L falls for ever
        lowest = int((slope >= -ZERO).argmax())
        option[prompt[order[:lowest]]] = into[order[:lowest]]  # those before it have turned
        basis[t] = int(prompt[order[lowest]]), int(into[order[lowest]])
    else:
        raise ArithmeticError("rounding errors: the walk along the prices did not end")

    weights = np.zeros((n, w))
    weights[everyone, option] = 1
    for (i, j), part in zip(basis, left, strict=True):
        if i >= 0:
            weights[i, [j, option[i]]] += [part, -part]
    weights[np.abs(weights) < ZERO] = 0
    weights[np.abs(weights - 1) < ZERO] = 1
    columns, gains = equations(program.value)  # the prices without the ties
    return weights, np.maximum(np.linalg.solve(columns.T, gains), 0)


def _turning_points(worth: np.ndarray, speed: np.ndarray, option: np.ndarray) -> list[np.ndarray]:
    """Where prompts turn to another option along an edge, at whose point τ option j is worth worth_ij + τ speed_ij.

    worth, speed: float[n, w]; option: int[n], the best ones at τ = 0. Returns arrays of equal length: τ, the prompt,
    its new option, the change of the slope of L. A prompt that turns several times is listed in order.
    """
    found = []
    prompt, option = np.arange(len(worth)), option.copy()
    while len(prompt):
        row = np.arange(len(prompt))
        worths, speeds = worth[prompt], speed[prompt]  # float[p, w]
        faster = speeds - speeds[row, option][:, None]  # float[p, w]
        behind = np.maximum(worths[row, option][:, None] - worths, 0)  # float[p, w]
        when = np.divide(behind, faster, out=np.full_like(behind, np.inf), where=faster > 1e-11)  # float[p, w]
        into = when.argmin(axis=1)  # int[p]
        turns = np.isfinite(when[row, into])  # bool[p]
        row, prompt, option = row[turns], prompt[turns], into[turns]
        found.append((when[row, option], prompt, option, faster[row, option]))
    return [np.concatenate(column) for column in zip(*found, strict=True)] if found else [np.zeros(0)] * 4


# ---------------------------------------------------------------------------------------------------------------------
# From fractions to whole responses

def _whole_choices(weights: np.ndarray, most: int = 16) -> list[np.ndarray]:
    """Each split prompt given to one of its options, in every combination, the largest shares first: int[n] each."""
    split = np.flatnonzero(np.count_nonzero(weights, axis=1) > 1)
    options = [sorted(np.flatnonzero(row), key=lambda j: -row[j]) for row in weights[split]]
    choices = []
    for picked in islice(product(*options), most):
        choices.append(weights.argmax(axis=1))
        choices[-1][split] = picked
    return choices


def round_off(program: Program, choice: np.ndarray) -> np.ndarray:
    """A whole choice within the limits, int[n], by single changes of the given one, each the best at the moment.

    The last option of every prompt drops it, at value 0 and cost 0.
    While a limit is broken: the change that loses least per unit of excess it removes. If none removes any, begin with
    nobody served, which keeps every limit. Then the changes within the limits that gain most, until none gains.
    """
    cost, limit = program.cost, program.limit
    K, n, w = cost.shape
    everyone = np.arange(n)
    choice = choice.copy()
    worth = program.value + program.ties  # float[n, w]
    worth[:, :-1] += 1 + 2 * n  # coverage first
    for _ in range(10 * (n + K + 1) * (n > 0)):  # some n changes are enough
        spent = cost[:, everyone, choice]  # float[K, n]
        left = limit - spent.sum(axis=1)  # float[K]
        excess = np.maximum(cost - (spent + left[:, None])[:, :, None], 0)  # float[K, n, w], after each change
        gain = worth - worth[everyone, choice][:, None]  # float[n, w]
        if (left < -ZERO).any():
            removed = np.maximum(-left, 0).sum() - excess.sum(axis=0)  # float[n, w]
            score = np.where(removed > ZERO, gain / np.maximum(removed, ZERO), -np.inf)
            if np.isneginf(score).all():
                choice[:] = w - 1
                continue
        else:
            fits = (excess <= ZERO).all(axis=0)  # bool[n, w]
            score = np.where(fits & (gain > 2 * THRIFT), gain, -np.inf)
            if np.isneginf(score).all():
                return choice
        i, j = np.unravel_index(score.argmax(), score.shape)
        choice[i] = j
    return np.full(n, w - 1)  # no end, by rounding errors: drop all


def _one_of_each_kind(value: np.ndarray, costs: np.ndarray, feasible: np.ndarray, rng: np.random.Generator
                      ) -> tuple[np.ndarray, np.ndarray]:
    """Of a prompt's feasible responses with the same value and costs, a random one.

    Returns column int[n, w] and exists bool[n, w], False where a prompt has fewer different responses than others.
    """
    order = np.lexsort((rng.random(value.shape), *costs, value, ~feasible), axis=1)  # int[n, m], kinds together
    kinds = np.take_along_axis(np.stack([value, *costs]), order[None], 2)  # float[1 + K, n, m]
    first = np.take_along_axis(feasible, order, 1)  # bool[n, m]
    first[:, 1:] &= (kinds[:, :, 1:] != kinds[:, :, :-1]).any(axis=0)  # the first of its kind
    front = np.argsort(~first, axis=1, kind="stable")[:, :first.sum(axis=1).max(initial=1)]  # int[n, w]
    return np.take_along_axis(order, front, 1), np.take_along_axis(first, front, 1)


def _checked(value: ArrayLike, costs: Sequence[ArrayLike], caps: ArrayLike, feasible: ArrayLike | None,
             total: bool | ArrayLike, thrifty: bool | ArrayLike) -> tuple[np.ndarray, ...]:
    """The arguments of select as arrays, or a ValueError."""
    def need(condition: bool, complaint: str) -> None:
        if not condition:
            raise ValueError(complaint)

    value, caps = np.asarray(value, float), np.asarray(caps, float)
    costs = [np.asarray(cost, float) for cost in costs]
    need(value.ndim == 2 and value.shape[1], f"value must be an array [prompts, responses], not of shape {value.shape}")
    for k, cost in enumerate(costs):
        need(cost.shape == value.shape, f"cost {k} has the shape {cost.shape}, but value has {value.shape}")
    costs = np.array(costs).reshape(len(costs), *value.shape)
    need(caps.shape == (len(costs),), f"caps must be one number per budget, {len(costs)}, not of shape {caps.shape}")
    feasible = np.ones(value.shape, bool) if feasible is None else np.asarray(feasible)
    need(feasible.shape == value.shape and ((feasible == 0) | (feasible == 1)).all(),
         f"feasible must hold True and False in the shape {value.shape} of value")
    feasible = feasible.astype(bool)
    for name, array in (("value", value[feasible]), ("costs", costs[:, feasible]), ("caps", caps)):
        need(np.isfinite(array).all(), f"{name} must be finite numbers")
        need(name == "value" or (array >= 0).all(), f"{name} must not be negative")
    need({np.shape(total), np.shape(thrifty)} <= {(), (1,), caps.shape},
         f"total and thrifty must be True, False, or one of these per budget, {len(caps)}")
    total, thrifty = (np.broadcast_to(np.asarray(flag, bool), caps.shape) for flag in (total, thrifty))
    # What may not be accepted may hold anything, NaN too; it must not spread.
    return np.where(feasible, value, 0), np.where(feasible, costs, 0), caps, feasible, total, thrifty


def main() -> None:
    """Six prompts; a regular response, a short and a long vote each. Value: what the group adds to the pass rate."""
    groups = np.array(["regular", "short vote", "long vote"])
    gain = np.array([[0, 0, 0], [0, .12, .15], [0, .3, .4], [0, .2, .65], [0, .5, .55], [0, 0, .75]])
    right = np.array([[1, 1, 1]] * 5 + [[0, 0, 1]])  # prompt 6 takes a long vote, or nothing
    tokens, long = np.tile([100, 220, 400], (6, 1)), np.tile([0, 0, 1], (6, 1))
    for costs, caps, title in (([tokens], [200], "On average at most 200 tokens."),
                               ([tokens, long], [200, 1 / 6], "The same, and at most one in six a long vote.")):
        result = select(gain, costs, caps, right, rng=1)
        net = gain - sum(price * (cost - cap) for price, cost, cap in zip(result.prices, costs, caps, strict=True))
        print(f"{title} Value less price of regular, short and long, and what the prompt takes:")
        for i, row in enumerate(result.relaxed):
            prices = " ".join(f"{net[i, j]:+.2f}" if right[i, j] else "  -  " for j in range(3))
            split = " and ".join(f"{row[j]:.2f} {groups[j]}" for j in np.flatnonzero(row))
            print(f"  prompt {i + 1}: {prices}  {groups[result.weights[i].argmax()]}"
                  + (f", made whole from {split}" if row.max() < 1 else ""))
        print(f"  {result}\n  spent {', '.join(f'{cost:.0f}' for cost in result.spent)}; duality gap "
              f"{residual(result.duality_gap)}; lost by rounding {result.rounding_gap:.2f}\n")


if __name__ == "__main__":
    main()
