"""
oracles.py against brute force, linear programs over all rules, and a simulation response by response.

    pytest tests/test_oracles.py
"""

import subprocess
import sys
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.stats import chisquare

from experiments import oracles
from experiments.oracles import Choices


def random_responses(rng, n, k):
    """first_right, vote_right bool[n, k], vote_trials int[n, k]: easy, hard, hopeless and harmful votes, mixed."""
    easy, after = rng.random((2, n, 1)) ** rng.choice([0.3, 1, 3])
    first_right = rng.random((n, k)) < easy
    vote_right = rng.random((n, k)) < np.where(first_right, rng.choice([0.7, 1]), after * (rng.random((n, 1)) < 0.8))
    return first_right, vote_right, rng.integers(1, 9, (n, k))


def brute_force(known, budget):
    """The largest pass rate of all allocations with at most one fractional share."""
    n, best = len(known.stop), -np.inf
    gain, extra = known.go_on - known.stop, known.go_on_trials - known.stop_trials
    left = budget * n - known.stop_trials.sum()
    for whole in product([0, 1], repeat=n):
        room = left - np.dot(whole, extra)
        if room >= -1e-9:
            best = max(best, np.dot(whole, gain))
            for i in range(n):                          # one more, or a part of it
                if not whole[i] and extra[i] > 0:
                    best = max(best, np.dot(whole, gain) + min(room / extra[i], 1) * gain[i])
    return (known.stop.sum() + best) / n


def test_allocation_by_brute_force():
    rng, seen = np.random.default_rng(0), Counter()
    for _ in range(300):
        n, k = rng.integers(1, 7), rng.integers(1, 5)
        responses = random_responses(rng, n, k)
        known = (oracles.blind if rng.random() < 0.5 else oracles.seeing)(*responses)
        budget = 1 + rng.choice([0, 0.3, 1, 2, 7]) * rng.random()
        share = oracles.allocate(known, budget, rng)
        accuracy, trials = oracles.score(share, known)
        assert ((share >= 0) & (share <= 1)).all() and trials <= budget + 1e-9
        assert accuracy == pytest.approx(brute_force(known, budget), abs=1e-9)
        fractions = ((share > 1e-9) & (share < 1 - 1e-9)).sum()
        assert fractions <= 1 and not share[known.go_on <= known.stop].any()
        if fractions:
            assert trials == pytest.approx(budget)      # or else more of it would be better
        facts = {"fraction": fractions == 1, "budget left": trials < budget - 1e-9, "no budget": budget == 1,
                 "harmful": (known.go_on < known.stop).any(), "costs nothing": (known.go_on_trials == 1).any()}
        seen.update({fact: int(holds) for fact, holds in facts.items()})
    assert min(seen.values()) >= 20, f"the random problems are too tame: {seen}"


def test_seeing_is_the_best_of_all_rules_that_see_the_first_trial():
    """A linear program over every rule: how often each problem goes on, after a right trial and after a wrong one."""
    rng = np.random.default_rng(1)
    for _ in range(200):
        n, k = rng.integers(1, 13), rng.integers(1, 7)
        first, vote, trials = random_responses(rng, n, k)
        budget = 1 + 3 * rng.random()
        gain = np.concatenate([((vote.astype(int) - first) * when).mean(axis=1) for when in (first, ~first)])   # [2n]
        extra = np.concatenate([((trials - 1) * when).mean(axis=1) for when in (first, ~first)])                # [2n]
        best = linprog(-gain, A_ub=extra[None], b_ub=[(budget - 1) * n], bounds=(0, 1))
        known = oracles.seeing(first, vote, trials)
        accuracy, cost = oracles.score(oracles.allocate(known, budget, rng), known)
        assert accuracy == pytest.approx(first.mean() - best.fun / n, abs=1e-7) and cost <= budget + 1e-9
        known = oracles.blind(first, vote, trials)      # the same program, without the bit: go on after both or neither
        tied = linprog(-gain.reshape(2, n).sum(axis=0), A_ub=extra.reshape(2, n).sum(axis=0)[None],
                       b_ub=[(budget - 1) * n], bounds=(0, 1))
        blind_accuracy, _ = oracles.score(oracles.allocate(known, budget, rng), known)
        assert blind_accuracy == pytest.approx(first.mean() - tied.fun / n, abs=1e-7)
        assert accuracy >= blind_accuracy - 1e-9


def test_by_hand():
    first = [[1, 0, 0, 0], [1, 1, 1, 0]]
    vote = [[0, 1, 1, 0], [1, 1, 1, 1]]
    trials = [[3, 4, 5, 8], [3, 3, 3, 7]]
    known = oracles.blind(first, vote, trials)
    assert [column.tolist() for column in known] == [[.25, .75], [1, 1], [.5, 1], [5, 4]]
    known = oracles.seeing(first, vote, trials)         # a right first trial stays right, and ends the response
    assert [column.tolist() for column in known] == [[.25, .75], [1, 1], [.75, 1], [4.5, 2.5]]
    assert oracles.allocate(known, 1.75).tolist() == [0, 1]     # 1/4 for 1.5 trials before 1/2 for 3.5
    assert oracles.allocate(known, 2.45) == pytest.approx([.4, 1])
    assert oracles.allocate(known, 1).tolist() == [0, 0]
    assert oracles.score([0.5, 1], known) == pytest.approx(((.5 + 1) / 2, (2.75 + 2.5) / 2))
    known = Choices([0, .5, .25], [2, 2, 2], [.5, 1, .75], [2, 5, 8])           # other costs; the first gains for free
    assert oracles.allocate(known, 2).tolist() == [1, 0, 0]
    assert oracles.allocate(known, 4).tolist() == [1, 1, .5]
    assert oracles.score([1, 1, .5], known) == pytest.approx((2 / 3, 4))


def test_score_by_simulation():
    """Each response of problem i goes on with probability share_i, and only after a wrong trial where that is seen."""
    rng = np.random.default_rng(2)
    first, vote, trials = random_responses(rng, 40, 5)
    share = np.where(rng.random(40) < 0.5, rng.random(40), rng.integers(0, 2, 40))
    right, cost = np.zeros((2, 2))
    for _ in range(2000):
        goes = rng.random((40, 5)) < share[:, None]
        for i, goes_on in enumerate([goes, goes & ~first]):
            right[i] += np.where(goes_on, vote, first).mean() / 2000
            cost[i] += np.where(goes_on, trials, 1).mean() / 2000
    for i, oracle in enumerate([oracles.blind, oracles.seeing]):
        accuracy, spent = oracles.score(share, oracle(first, vote, trials))
        assert accuracy == pytest.approx(right[i], abs=3e-3) and spent == pytest.approx(cost[i], abs=2e-2)


def test_a_choice_flatters_its_own_samples():
    """Where all problems are the same there is nothing to choose; only the samples used for choosing say otherwise."""
    rng = np.random.default_rng(3)
    first, vote = rng.random((2, 4000, 8)) < np.array([0.5, 0.7])[:, None, None]
    trials = np.full((4000, 8), 5)
    known, unseen = (oracles.blind(first[:, half], vote[:, half], trials[:, half]) for half in (slice(4), slice(4, 8)))
    share = oracles.allocate(known, 3, rng)             # half of them vote
    own, others = oracles.score(share, known), oracles.score(share, unseen)
    assert own[1] == others[1] == pytest.approx(3)
    assert others[0] == pytest.approx(0.6, abs=0.012) and own[0] > 0.7          # standard error 0.003


def test_single_trials_may_be_other_samples_than_votes():
    known = oracles.blind([[1, 0, 0], [1, 1, 1]], [[1], [0]], [[3], [4]])
    assert known.stop == pytest.approx([1 / 3, 1]) and known.go_on.tolist() == [1, 0]
    assert oracles.allocate(known, 9).tolist() == [1, 0]


def test_ties_are_uniform_and_seeds_repeat():
    known = Choices(np.zeros(6), np.ones(6), np.array([0, .5, .5, .5, .5, 0]), np.full(6, 4.0))
    rng = np.random.default_rng(4)
    counts = sum(oracles.allocate(known, 1.5, rng) for _ in range(1000))        # room for one of four
    assert counts.sum() == 1000 and not counts[[0, 5]].any() and chisquare(counts[1:5]).pvalue > 1e-3
    draws = [oracles.allocate(known, 1.5, seed).argmax() for seed in range(20)]
    assert draws == [oracles.allocate(known, 1.5, np.random.default_rng(seed)).argmax() for seed in range(20)]


def test_all_of_the_budget_and_more():
    known = oracles.seeing(*random_responses(np.random.default_rng(5), 30, 4))
    share = oracles.allocate(known, 8.0)
    assert (share == (known.go_on > known.stop)).all()


# ---- Rates that are predicted ----

def a_world(rng, n, k, spread):
    """Levels int[n], and k samples each of problems that differ within their level by `spread`: first, vote, trials.

    Also the true Choices. A vote helps most where a single trial is right half of the time.
    """
    levels = rng.integers(1, 6, n)
    rate = np.clip(1.05 - 0.15 * levels + spread * rng.standard_normal(n), 0.02, 0.98)
    after = np.clip(rate + 1.2 * rate * (1 - rate), 0, 1)
    mean_trials = 3 + 5 * (1 - rate)
    first, vote = rng.random((n, k)) < rate[:, None], rng.random((n, k)) < after[:, None]
    trials = np.clip(rng.poisson(mean_trials[:, None], (n, k)), 1, 8)
    return levels, first, vote, trials, Choices(rate, np.ones(n), after, mean_trials)


def test_prediction_is_the_regression_on_other_samples():
    """Within a level: the least-squares line from a problem's means over some samples to those over others."""
    rng = np.random.default_rng(6)
    levels, first, vote, trials, _ = a_world(rng, 40_000, 8, 0.15)
    x, y = (np.stack([first[:, half], vote[:, half], trials[:, half]], axis=2).mean(axis=1)
            for half in (slice(4), slice(4, 8)))  # float[n, 3] each
    found = oracles.predict([first[:, :4, None].astype(float), np.stack([vote, trials], axis=2)[:, :4].astype(float)],
                            levels)
    for level in range(1, 6):
        at = levels == level
        design = np.column_stack([np.ones(at.sum()), x[at]])
        line = design @ np.linalg.lstsq(design, y[at], rcond=None)[0]
        assert (abs(found[at] - line).mean(axis=0) < [0.01, 0.01, 0.06]).all()  # a few standard errors


def test_prediction_without_differences_is_the_level():
    rng = np.random.default_rng(7)
    levels, first, vote, trials, truth = a_world(rng, 40_000, 8, 0)
    found = oracles.blind(first, vote, trials, groups=levels)
    assert abs(found.stop - truth.stop).max() < 0.1  # the means of eight samples are up to 0.8 away
    assert abs(found.stop - truth.stop).mean() < 0.01


@pytest.mark.parametrize("spread", [0, 0.05, 0.15, 0.3])
def test_who_predicts_chooses_at_least_as_well(spread):
    """By the true rates: not worse than by samples or by groups alone, and not better than who knows the rates."""
    rng = np.random.default_rng(8)
    levels, first, vote, trials, truth = a_world(rng, 6000, 8, spread)
    samples = oracles.blind(first, vote, trials)
    known = {"truth": truth, "samples": samples, "group": oracles.by_group(samples, levels, levels),
             "predicted": oracles.blind(first, vote, trials, groups=levels)}
    found = {}
    for name, choices in known.items():
        accuracy, cost = oracles.score(oracles.allocate(choices, 2.5, rng=0), truth)
        found[name] = accuracy - 0.06 * (cost - 2.5)  # 0.06 is about what another trial is worth
    assert found["truth"] + 1e-3 > found["predicted"] > max(found["samples"], found["group"]) - 1e-3
    assert (found["samples"] < found["group"]) == (spread < 0.2)  # eight samples are noisy


def test_groups_by_hand():
    known = Choices(*np.array([[0, 1, .5], [1, 1, 1], [1, 1, .5], [3, 5, 7]]))
    found = oracles.by_group(known, np.array([1, 1, 2]), of=np.array([2, 1, 2, 1, 3]))  # nothing is known of 3
    assert [column.tolist() for column in found] == [
        [.5] * 5, [1] * 5, [.5, 1, .5, 1, pytest.approx(2.5 / 3)], [7, 4, 7, 4, 5]]


# ---- Bad input ----

GOOD = dict(first_right=np.ones((2, 3)), vote_right=np.ones((2, 3)), vote_trials=np.full((2, 3), 4))
NAN = float("nan")


@pytest.mark.parametrize("oracle", [oracles.blind, oracles.seeing])
@pytest.mark.parametrize("bad, message", [
    (dict(first_right=np.full((2, 3), 0.5)), "first_right must hold only"),
    (dict(vote_right=np.full((2, 3), NAN)), "vote_right must hold only"),
    (dict(first_right=np.ones(3)), "first_right must be an array"),
    (dict(vote_trials=np.full((2, 2), 4)), "vote_trials has the shape"),
    (dict(vote_trials=np.zeros((2, 3))), "at least 1 trial"),
    (dict(vote_trials=np.full((2, 3), NAN)), "at least 1 trial"),
    (dict(first_right=np.ones((3, 3))), "shape|same problems"),
    (dict(first_right=np.ones((2, 0)), vote_right=np.ones((2, 0)), vote_trials=np.ones((2, 0))), "at least one sample"),
])
def test_bad_responses_are_refused(oracle, bad, message):
    oracle(**GOOD)
    with pytest.raises(ValueError, match=message) as error:
        oracle(**{**GOOD, **bad})
    assert "\n" not in str(error.value)


def test_seeing_needs_the_first_trial_of_each_vote():
    with pytest.raises(ValueError, match="vote_right has the shape"):
        oracles.seeing(np.ones((2, 4)), np.ones((2, 3)), np.ones((2, 3)))


KNOWN = oracles.blind(**GOOD)


@pytest.mark.parametrize("call, message", [
    *[(lambda budget=budget: oracles.allocate(KNOWN, budget), "budget must be a number")
      for budget in (NAN, np.inf, None, "2")],
    (lambda: oracles.allocate(KNOWN, 0.9), "below the 1 that stopping costs"),
    (lambda: oracles.allocate(KNOWN._replace(go_on_trials=np.array([4, 0.5])), 2), "fewer trials"),
    (lambda: oracles.allocate(KNOWN._replace(stop=np.array([NAN, 1])), 2), "must be finite"),
    (lambda: oracles.score([1, 1, 1], KNOWN), "share must hold 2"),
    (lambda: oracles.score([1, 1.1], KNOWN), "share must hold 2"),
    (lambda: oracles.score([1, NAN], KNOWN), "share must hold 2"),
])
def test_bad_choices_are_refused(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_needs_no_torch():
    code = "import sys; from experiments import oracles; assert not {'torch', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=Path(oracles.__file__).parent.parent, check=True)
