"""
The budget program in general: any groups, any costs, any number of budgets.

Eq. (1) of "Think Smarter not Harder" (Yu et al., ICML 2025, arXiv 2501.17974) speaks of groups G_1..G_K with a cap
each. The paper then solves Eq. (8) for two groups and one cap; for these, ibpo.py counts and sorts. Here is the rest:
for n prompts with m sampled responses each, accept at most one response per prompt,

    as many prompts as possible, and among all ways to do that the largest    Σ_ij x_ij value_ij
    subject to, for each budget k,    Σ_ij x_ij cost_kij <= cap_k · Σ_ij x_ij      (or <= a total)        x_ij ∈ {0, 1}

A cost is 1 for the responses of a group and 0 for the others (the density of Eq. (1)), or trials, or tokens. A cap on
the average is a limit of 0 on Σ x (cost - cap): a response cheaper than the cap *adds* to the budget. Only numpy is
needed.

    python budget.py      prints an example: six prompts, three modes, a budget of tokens and one of votes

Prices. Give every unit of budget k a price λ_k >= 0, and let each prompt take for itself the response with the largest
value - λ · cost. At price 0 all take the best one and overspend. With one budget, raise the price: a prompt steps down
to a cheaper response when the price reaches the value lost per unit saved, the cheapest sacrifice first; stop at the
step that meets the cap. For every λ the sum

    L(λ) = λ · limit + Σ_i max_j (value_ij - λ · cost_ij)                                                    (the dual)

is an upper bound on the value, with fractions or without: whatever keeps the caps is worth no more than its own price.
L is convex, with flat facets and edges; its slope is the budget left over. relax() walks along edges down to the lowest
corner, where by linear programming duality L(λ) is the value of the best x with fractions.

At most K prompts are fractional. At a corner K equations hold for the K prices. Each is either "budget k is not used
up, so its price is 0" or "prompt i is indifferent between two of its responses", and only such a prompt may be split.
(Textbooks: the simplex method with generalized upper bounds.) round_off() makes the few split prompts whole, never at
the expense of a cap. In tests/test_budget.py that never costs more than the value of one prompt per budget; it is no
theorem: where a cap is on an average, giving a response up can break another cap.

Coverage first (D2, D6; D5: a prompt with nothing allowed is dropped and counted). First try to serve everyone. If the
caps forbid it, a first program counts how many can be served; a second maximises the value under one more budget: to
drop a prompt costs 1, and the total is what must be dropped. So a cheap response is accepted, and pays for an expensive
one, whatever either is worth. For one budget the number served is exact. For more, rounding finds it in 99% of the
small random programs of the tests.

Ties are random. Of identical responses of a prompt (same value and costs) one is drawn to stand for all. Every value
then gets a random change of 1e-9 of the largest, which breaks all other ties and keeps the walk from going in circles.
Values, prices and bounds are reported without it.
"""

import math
from itertools import islice, product
from typing import NamedTuple

import numpy as np

ZERO = 1e-9         # weights and budgets this near to 0 are 0; budgets are counted in units of their largest cost
TIE = 1e-9          # the size of the random change; values are counted in units of the largest
THRIFT = 1e-7       # what the largest cost of a thrifty budget counts for, between equal values


class Allocation(NamedTuple):
    """What was accepted, and what proves that it is good. Printing it gives a one-line report."""
    weights: np.ndarray         # float[n, m]: 1 = accepted, 0 = not
    accepted: int               # prompts with an accepted response
    dropped_not_allowed: int    # prompts without a single response that may be accepted (D5)
    dropped_over_cap: int       # prompts that the caps had no room for (D6)
    spent: np.ndarray           # float[K]: sum of the accepted costs, in the units of the costs
    prices: np.ndarray          # float[K]: λ, the value of one more unit of each budget
    value: float                # sum of the accepted values
    relaxed: np.ndarray         # float[n, m]: the best weights if fractions were allowed; at most K prompts have any,
    #                             one more if the caps had no room for all
    lp_value: float             # their value: no whole choice is worth more if it serves as many prompts (rounded down)
    duality_gap: float          # L(λ) - lp_value: 0 up to rounding errors, which proves that lp_value is the optimum
    rounding_gap: float         # lp_value - value: what making the split prompts whole has cost

    def __str__(self):
        return (f"accepted {self.accepted}, value {self.value:.4g} (at most {self.lp_value:.4g}); dropped prompts: "
                f"{self.dropped_not_allowed} nothing allowed, {self.dropped_over_cap} over the cap; "
                f"prices {np.array2string(self.prices, precision=3, separator=', ')}")


def residual(gap: float) -> str:
    """A gap that is 0 but for rounding errors, as text. Its last bits differ between processors."""
    return "below 1e-9" if abs(gap) < 1e-9 else f"{abs(gap):.0e}"


# ---- What a response is worth, and what may be accepted under the budgets ----

def mode_margin(correct, mode, valid=None):
    """Eq. (6) for any number of modes: how much better a response's mode does on its prompt than the cheapest one.

    correct: bool[n, m] or 0/1.  mode: int[n, m] from 0, cheapest first.  valid: bool[n, m]; None: all are valid.
    Returns float[n, m]: the pass rate of the response's mode among the prompt's valid samples less that of the first
    mode that was sampled; 0 if it is the only one (no evidence, no budget: D4), and for invalid responses.
    With two modes: reward_margin for votes, 0 for the others. ValueError: other shapes, or no whole numbers from 0.
    """
    correct, mode = np.asarray(correct), np.asarray(mode)
    valid = np.ones(correct.shape) if valid is None else np.asarray(valid)
    if correct.ndim != 2 or not correct.shape == mode.shape == valid.shape:
        raise ValueError(f"correct, mode and valid must have one shape [prompts, responses], not {correct.shape}, "
                         f"{mode.shape}, {valid.shape}")
    if mode.size and (mode.dtype.kind not in "iub" or mode.min() < 0):
        raise ValueError("mode must hold whole numbers from 0")
    member = (mode[:, :, None] == np.arange(mode.max(initial=0) + 1)) & (valid[:, :, None] != 0)        # bool[n, m, G]
    seen = member.sum(axis=1)                                                                           # int[n, G]
    right = (member & (correct[:, :, None] != 0)).sum(axis=1)                                           # int[n, G]
    first = (seen > 0).argmax(axis=1)[:, None]                                  # int[n, 1], the cheapest mode seen
    n_first, right_first = np.take_along_axis(seen, first, 1), np.take_along_axis(right, first, 1)      # int[n, 1]
    # One division of whole numbers, as in reward_margin: equal margins are equal floats.
    margin = (right * n_first - right_first * seen) / np.maximum(seen * n_first, 1)                     # float[n, G]
    return np.where(valid != 0, np.take_along_axis(margin, mode.astype(int), 1), 0.0)


def select(value, costs, caps, allowed=None, total=False, thrifty=False, rng=None):
    """At most one response per prompt: as many prompts as possible, then the largest value, within every budget.

    value: float[n, m], any unit.  costs: float[K, n, m] or a list of K arrays [n, m], >= 0, each in a unit of its own.
    caps: float[K], >= 0: the largest average cost of the accepted responses, or where `total` (bool or bool[K]) is
    true, the largest sum.  allowed: bool[n, m], what may be accepted (Ξ of Eq. (7)); None: everything.
    thrifty: bool or bool[K]. Between equal values, False leaves the choice to chance as long as the budget is not used
    up. True takes the cheaper one even then, as ibpo.py never votes without a margin. (For tokens this would be a
    pressure to be short that nobody asked for.)  rng: a numpy Generator, or a seed, for ties. None: another each time.
    Returns an Allocation.  ValueError: shapes that differ; NaN or infinity; negative costs or caps.
    """
    value, costs, caps, allowed, total, thrifty = _checked(value, costs, caps, allowed, total, thrifty)
    rng = np.random.default_rng(rng)
    prompts = np.flatnonzero(allowed.any(axis=1))                               # int[n], the others are dropped: D5
    column, exists = _one_of_each_kind(value[prompts], costs[:, prompts], allowed[prompts], rng)    # [n, w], w <= m
    worth = np.where(exists, np.take_along_axis(value[prompts], column, 1), -np.inf)                # float[n, w]
    spend = np.where(exists, np.take_along_axis(costs[:, prompts], column[None], 2), 0)             # float[K, n, w]
    n, w = worth.shape

    # All budgets as Σ x cost <= limit, each in units of its largest cost.
    cost = spend - exists * np.where(total, 0, caps)[:, None, None]                                 # float[K, n, w]
    cost[np.abs(cost) < 1e-12 * (spend + caps[:, None, None])] = 0              # 0.1 + 0.2 does not exceed 0.3
    unit = np.abs(cost).max(axis=(1, 2), initial=0)                                                 # float[K]
    unit[unit == 0] = 1
    cost, limit = cost / unit[:, None, None], np.where(total, caps, 0) / unit
    size = np.abs(value).max(initial=0) or 1.0                                  # and the value in units of the largest
    worth = worth / size
    thrift = THRIFT * np.tensordot(thrifty / unit, spend, 1)                                        # float[n, w]

    # One more option, the last: to drop the prompt. Value 0, cost 0.
    worth, cost = _widen(worth, 0), _widen(cost, 0)                             # [n, w + 1], [K, n, w + 1]
    for last_try in [False] * 20 + [True]:
        ties = _widen(TIE * rng.random((n, w)) - thrift, 0)                                         # float[n, w + 1]
        try:
            relaxed, prices, bound, starts = _coverage_first(worth, cost, limit, ties)
            break
        except (ArithmeticError, np.linalg.LinAlgError):    # one small program in thousands goes in circles; other ties
            if last_try:
                raise

    def merit(option):                                                          # (prompts served, their value)
        return np.count_nonzero(option < w), worth[np.arange(n), option].sum()

    best = max((round_off(start, worth, cost, limit, ties) for start in starts), key=merit)
    if merit(best)[0] < np.floor(relaxed[:, :w].sum() + 1e-6):                  # fewer prompts than hoped for: again
        best = max(best, *(round_off(start, worth, cost, limit, ties, hasty=True) for start in starts), key=merit)
    weights, fractions = np.zeros((2, *value.shape))
    weights[prompts[best < w], column[best < w, best[best < w]]] = 1
    fractions[prompts[:, None], column] = relaxed[:, :w]
    accepted, reached, lp_value = int(weights.sum()), float((weights * value).sum()), float((fractions * value).sum())
    return Allocation(weights, accepted, len(value) - n, n - accepted, (costs * weights).sum(axis=(1, 2)),
                      size * prices[:len(caps)] / unit, reached, fractions, lp_value, size * bound - lp_value,
                      lp_value - reached)


def _coverage_first(value, cost, limit, ties):
    """As many prompts as possible, then the largest value, with fractions. Arguments as in round_off.

    Returns weights float[n, w + 1], prices, the bound L(λ), and whole choices int[n] to start rounding from.
    """
    served = value[:, :-1], cost[:, :, :-1], limit                              # nobody may be dropped
    found = relax(*served, ties[:, :-1])
    if found is not None:
        weights, prices = _widen(found[0], 0), found[1]
        return weights, prices, _bound(*served, prices), _whole_choices(weights)
    n, options = value.shape
    ones = _widen(np.where(value[:, :-1] > -np.inf, 1.0, -np.inf), 0)           # [n, w + 1], each prompt counts 1
    counted = relax(ones, cost, limit, ties)
    if counted is None:                                                         # rounding errors: to drop all is free
        raise ArithmeticError("the costs of a budget are of too different sizes")
    most, _ = counted
    cost = np.concatenate([cost, _widen(np.zeros((1, n, options - 1)), 1)])     # budget K + 1: what has to be dropped
    target, found = math.floor(most[:, :-1].sum() + ZERO), None
    while found is None:                                                        # once, but for rounding errors
        served = value, cost, np.append(limit, n - target)
        found, target = relax(*served, ties), target - 1
    return *found, _bound(*served, found[1]), _whole_choices(found[0]) + _whole_choices(most)


def _bound(value, cost, limit, prices):
    """L(λ), the dual: float."""
    return float(prices @ limit + _net(value, cost, prices).max(axis=1, initial=-np.inf).sum())


def _net(value, cost, prices):
    """value - λ · cost: float[n, m]."""
    return value - np.tensordot(prices, cost, 1)


def _widen(array, last):
    """array with one more column, filled with `last`."""
    return np.concatenate([array, np.full((*array.shape[:-1], 1), last)], axis=-1)


# ---- The linear program: walk along the edges of the dual ----

def relax(value, cost, limit, ties=0.0):
    """Exactly one option per prompt, fractions allowed, the largest value with Σ x cost <= limit.

    value: float[n, m], -inf where an option does not exist; at least one exists per prompt.  cost: float[K, n, m].
    limit: float[K].  ties: float[n, m], tiny changes of the value that make it unlikely that two options tie.
    Returns (weights float[n, m], prices float[K]), or None if nothing keeps the limits.

    The basis is a list of K equations for the K prices: (-1, k) says "price k is 0", (i, j) says "prompt i is
    indifferent between its option and j". Each has an unknown, what is left of budget k or the part of prompt i that
    takes j, and a column, the change of the K costs when it grows. If no unknown is negative we are done. If one is, we
    give its equation up, and move along the edge on which the others hold, so that k gets dearer or j worse. With one
    budget: at price 0 it is overspent; the price rises, past the points at which prompts turn to something cheaper, up
    to the one at which it is no longer overspent; the prompt that turns there is the split one.
    """
    (K, n, m), everyone = cost.shape, np.arange(value.shape[0])
    ordered = value + ties
    option = ordered.argmax(axis=1)                                             # int[n], the best one at price 0
    basis = [(-1, k) for k in range(K)]

    def equations(of):                                                          # matrix[K, K], right side[K]
        columns = [np.eye(K)[j] if i < 0 else cost[:, i, j] - cost[:, i, option[i]] for i, j in basis]
        gains = [0.0 if i < 0 else of[i, j] - of[i, option[i]] for i, j in basis]
        return np.array(columns).reshape(K, K).T, np.array(gains)

    for _ in range(100 * (n + K + 1)):                                          # a handful of rounds are enough
        columns, gains = equations(ordered)
        prices = np.linalg.solve(columns.T, gains)                                                      # [K]
        left = np.linalg.solve(columns, limit - cost[:, everyone, option].sum(axis=1))                  # [K], unknowns
        split = {i: 1 - sum(left[t] for t in range(K) if basis[t][0] == i) for i, _ in basis if i >= 0}
        worst, owner = min(left, default=0.0), min(split, key=split.get, default=-1)
        if min(worst, split.get(owner, 0.0)) >= -ZERO:
            break
        if split.get(owner, 0.0) < worst:           # a prompt's own option is the negative one: let them change roles
            t = [i for i, _ in basis].index(owner)
            option[owner], basis[t] = basis[t][1], (owner, option[owner])
            continue

        t = int(left.argmin())
        direction = np.linalg.solve(columns.T, np.eye(K)[t])                                            # [K]
        basis[t] = (-1, -1)                                                     # given up
        when, prompt, into, bend = _breakpoints(_net(ordered, cost, prices), -np.tensordot(direction, cost, 1), option)
        # A prompt that is still split must not turn away, nor a price go below 0: the edge ends there.
        bend[np.isin(prompt, [i for i, _ in basis if i >= 0])] = np.inf
        falls = [k for k in range(K) if (-1, k) not in basis and direction[k] < -ZERO]
        when = np.append(when, np.maximum(prices[falls], 0) / -direction[falls])
        prompt, into = np.append(prompt, [-1] * len(falls)).astype(int), np.append(into, falls).astype(int)
        bend = np.append(bend, [np.inf] * len(falls))
        order = when.argsort(kind="stable")
        slope = left[t] + bend[order].cumsum()                                  # of L, after each break: convex
        if not (slope >= -ZERO).any():
            return None                                                         # L falls for ever: no x at all
        lowest = int((slope >= -ZERO).argmax())                                 # the lowest point of this edge
        option[prompt[order[:lowest]]] = into[order[:lowest]]                   # those before it have changed over
        basis[t] = int(prompt[order[lowest]]), int(into[order[lowest]])
    else:
        raise ArithmeticError("the walk along the prices did not end; are the costs of very different sizes?")

    weights = np.zeros((n, m))
    weights[everyone, option] = 1
    for (i, j), part in zip(basis, left):
        if i >= 0:
            weights[i, [j, option[i]]] += [part, -part]
    weights[np.abs(weights) < ZERO] = 0
    weights[np.abs(weights - 1) < ZERO] = 1
    columns, gains = equations(value)                                           # the prices without the random changes
    return weights, np.maximum(np.linalg.solve(columns.T, gains), 0)


def _breakpoints(worth, speed, option):
    """The prompts that turn to another option on the way: along the edge, option j is worth worth_ij + τ speed_ij.

    worth, speed: float[n, m]; option: int[n], the best ones at τ = 0. Returns arrays of equal length: τ, prompt, the
    new option, the change of the slope. A prompt that turns several times (its upper envelope) is listed in order.
    """
    found = []
    prompt, option = np.arange(len(worth)), option.copy()
    while len(prompt):
        w, s, at = worth[prompt], speed[prompt], (np.arange(len(prompt)), option)                       # [p, m]
        faster = s - s[at][:, None]                                                                     # [p, m]
        behind = np.maximum(w[at][:, None] - w, 0)                                                      # [p, m]
        when = np.divide(behind, faster, out=np.full_like(behind, np.inf), where=faster > 1e-11)        # [p, m]
        into = when.argmin(axis=1)
        turns = np.isfinite(when[at[0], into])
        at, prompt, option = (at[0][turns], into[turns]), prompt[turns], into[turns]
        found.append((when[at], prompt, option, faster[at]))
    return [np.concatenate(column) for column in zip(*found)] if found else [np.zeros(0)] * 4


# ---- From fractions to whole responses ----

def _whole_choices(weights, most=16):
    """Each split prompt given to one of its options, in every combination, the largest shares first: list of int[n]."""
    split = np.flatnonzero(np.count_nonzero(weights, axis=1) > 1)
    shares = [sorted(np.flatnonzero(row), key=lambda j: -row[j]) for row in weights[split]]
    choices = []
    for picked in islice(product(*shares), most):
        choices.append(weights.argmax(axis=1))
        choices[-1][split] = picked
    return choices


def round_off(option, value, cost, limit, ties=0.0, hasty=False):
    """Make whole choices keep the limits, then use up what is left, by single changes, each the best at the moment.

    option: int[n], the choices to start from.  The other arguments as in relax, but values from -1 to 1, and the last
    of the m options drops the prompt: value and cost 0. Returns int[n].
    While a limit is broken: the change that loses least per unit it brings us nearer (hasty: one that mends all, if
    there is any). If none does, start from nothing, which keeps every limit. Then the changes that gain most.
    """
    (_, n, m), everyone, option = cost.shape, np.arange(len(option)), option.copy()
    worth = value + ties                                                                            # float[n, m]
    worth[:, :-1] += 1 + 2 * n                                                  # coverage first
    for _ in range(100 * (n + len(limit) + 1) * (n > 0)):                       # some n changes are enough
        spent = cost[:, everyone, option]                                                           # float[K, n]
        left = limit - spent.sum(axis=1)                                                            # float[K]
        over = np.maximum(cost - (spent + left[:, None])[:, :, None], 0)        # float[K, n, m], after each change
        fits = (over <= ZERO).all(axis=0)                                                           # bool[n, m]
        gain = worth - worth[everyone, option][:, None]                                             # float[n, m]
        if (left < -ZERO).any():
            nearer = np.maximum(-left, 0).sum() - over.sum(axis=0)                                  # float[n, m]
            score = np.where(nearer > ZERO, gain / np.maximum(nearer, ZERO), -np.inf)
            if hasty and fits.any():
                score = np.where(fits, gain, -np.inf)
            if np.isneginf(score).all():
                option[:] = m - 1
                continue
        else:
            score = np.where(fits & (gain > 2 * THRIFT), gain, -np.inf)
            if np.isneginf(score).all():
                break
        i, j = np.unravel_index(score.argmax(), score.shape)
        option[i] = j
    else:                                                                       # rounding errors: round and round
        option[:] = m - 1
    return option


# ---- Helpers ----

def _one_of_each_kind(value, costs, allowed, rng):
    """Of a prompt's allowed responses with the same value and costs, a random one: column int[n, w], exists bool[n, w].

    w is the largest number of different responses that a prompt has; where it has fewer, exists is False.
    """
    key = sum(rng.random() * quantity for quantity in (value, *costs))          # float[n, m], one number for each kind
    key = np.where(allowed, key, np.inf)
    order = np.lexsort((rng.random(key.shape), key), axis=1)                    # int[n, m], kinds together, shuffled
    key = np.take_along_axis(key, order, 1)
    kept = key < np.inf                                                                             # bool[n, m]
    kept[:, 1:] &= key[:, 1:] != key[:, :-1]                                    # the first of its kind in this order
    front = np.argsort(~kept, axis=1, kind="stable")[:, :kept.sum(axis=1).max(initial=1)]           # int[n, w]
    return np.take_along_axis(order, front, 1), np.take_along_axis(kept, front, 1)


def _checked(value, costs, caps, allowed, total, thrifty):
    """The arguments of select as arrays, or a ValueError."""
    def need(condition, complaint):
        if not condition:
            raise ValueError(complaint)

    value, caps = np.asarray(value, float), np.asarray(caps, float)
    costs = [np.asarray(cost, float) for cost in costs]
    need(value.ndim == 2 and value.shape[1], f"value must be an array [prompts, responses], not of shape {value.shape}")
    for k, cost in enumerate(costs):
        need(cost.shape == value.shape, f"cost {k} has the shape {cost.shape}, but value has {value.shape}")
    costs = np.array(costs).reshape(len(costs), *value.shape)
    need(caps.shape == (len(costs),), f"caps must be one number per budget, {len(costs)}, not of shape {caps.shape}")
    allowed = np.ones(value.shape, bool) if allowed is None else np.asarray(allowed)
    need(allowed.shape == value.shape and ((allowed == 0) | (allowed == 1)).all(),
         f"allowed must hold True and False in the shape {value.shape} of value")
    allowed = allowed.astype(bool)
    for name, array in (("value", value[allowed]), ("costs", costs[:, allowed]), ("caps", caps)):
        need(np.isfinite(array).all(), f"{name} must be finite numbers")
        need(name == "value" or (array >= 0).all(), f"{name} must not be negative")
    total, thrifty = np.asarray(total, bool), np.asarray(thrifty, bool)
    need({total.shape, thrifty.shape} <= {(), (1,), caps.shape},
         f"total and thrifty must be True, False, or one of these per budget, {len(caps)}")
    total, thrifty = (np.broadcast_to(flag, caps.shape) for flag in (total, thrifty))
    # What may not be accepted may hold anything, NaN too; it must not spread.
    return np.where(allowed, value, 0), np.where(allowed, costs, 0), caps, allowed, total, thrifty


if __name__ == "__main__":
    # Six prompts; a regular response, a short vote and a long vote each. Value: what the mode adds to the pass rate.
    gain = np.array([[0, 0, 0], [0, .12, .15], [0, .3, .4], [0, .2, .65], [0, .5, .55], [0, 0, .75]])
    right = np.array([[1, 1, 1]] * 5 + [[0, 0, 1]])                             # prompt 6 takes a long vote, or nothing
    tokens, long = np.tile([100.0, 220.0, 400.0], (6, 1)), np.tile([0, 0, 1], (6, 1))
    modes = np.array(["regular", "short vote", "long vote"])
    for costs, caps, title in (([tokens], [200], "On average at most 200 tokens."),
                               ([tokens, long], [200, 1 / 6], "The same, and at most one in six a long vote.")):
        result = select(gain, costs, caps, right, rng=1)
        print(f"{title} Value less price of regular, short and long, and what the prompt takes:")
        net = _net(gain, np.array(costs) - np.array(caps)[:, None, None], result.prices)                # [6, 3]
        for i, row in enumerate(result.relaxed):
            split = " and ".join(f"{part:.2f} {mode}" for part, mode in zip(row, modes) if part)
            takes = modes[result.weights[i].argmax()] + (f", made whole from {split}" if row.max() < 1 - ZERO else "")
            print(f"  prompt {i + 1}:", *(f"{x:+.2f}" if ok else "  -  " for x, ok in zip(net[i], right[i])), "", takes)
        print(f"  {result}\n  spent {result.spent.round()}, duality gap {residual(result.duality_gap)}, "
              f"lost by rounding {result.rounding_gap:.2f}\n")
