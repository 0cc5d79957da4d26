"""experiments/rest.py: where Eq. (8) comes to rest.

    pytest tests/test_rest.py
"""

from types import SimpleNamespace

import numpy as np
import pytest

import data
from experiments import rest


class Answers(SimpleNamespace):
    """As much of a record as rest.measure reads."""

    def at(self, which):
        return Answers(correct=self.correct[which], trials=self.trials[which])


@pytest.fixture
def world() -> rest.Kinds:
    """Easy, medium, and hopeless; all problems of a kind alike."""
    return rest.Kinds(share=np.array([0.5, 0.3, 0.2]), single=np.array([0.98, 0.5, 0.01]), spread=np.zeros(3),
                      vote=np.array([1.0, 1.0, 0.01]), trials=np.array([3.0, 5.0, 8.0]))


def test_measured_kinds():
    """Means of each kind, and the spread of its problems without the noise of the samples."""
    rng, n, m = np.random.default_rng(0), 12_000, 8
    of = np.arange(n) % len(data.KINDS)
    chance = np.where(of == 1, rng.choice([0.4, 0.8], n), 0.3)  # only kind 1 has problems of two sorts
    base = Answers(correct=rng.random((n, m)) < chance[:, None], trials=np.ones((n, m)))
    sv = Answers(correct=rng.random((n, 1)) < 0.9, trials=np.full((n, 1), 4.0) + (of == 2)[:, None])
    world = rest.measure(base, sv, of)
    assert np.allclose(world.share, 1 / len(data.KINDS)) and world.trials.tolist() == [4, 4, 5, 4, 4, 4]
    assert np.abs(world.single - np.where(np.arange(6) == 1, 0.6, 0.3)).max() < 0.02
    assert abs(world.spread[1] - 0.2) < 0.02 and np.delete(world.spread, 1).max() < 0.06
    assert np.abs(world.vote - 0.9).max() < 0.03


def test_drawn_problems_have_these_moments(world):
    world.spread = np.array([0.02, 0.2, 0.01])
    of, single, vote = world.draw(30_000, np.random.default_rng(0))
    for kind in range(3):
        assert abs((of == kind).mean() - world.share[kind]) < 0.01
        assert abs(single[of == kind].mean() - world.single[kind]) < 0.01
        assert abs(single[of == kind].std() - world.spread[kind]) < 0.01
    assert vote.min() >= 0 and vote.max() <= 1


def test_value_in_units_of_the_boundary(world):
    """Always voting and voting at random are on the boundary; voting where it helps is above it."""
    for share in (1.0, 0.3):
        accuracy, trials, times = world.value(np.full(3, share))
        assert times == pytest.approx(1)
    assert world.value(np.ones(3))[:2] == pytest.approx((0.5 + 0.3 + 0.002, 1.5 + 1.5 + 1.6))
    assert world.value(np.array([0, 1.0, 0]))[2] > 2


def test_what_rests_where(world, monkeypatch):
    """Voting helps on the second kind; on the third nothing is ever right but by luck."""
    monkeypatch.setattr(rest, "STEPS", 24)
    start = np.full(3, 0.5)
    binding = rest.at_rest(world, start, 0.25, 16, give_up=True)
    assert binding[1] > 0.55 and binding[0] < 0.15
    loose = {give_up: rest.at_rest(world, start, 0.9, 16, give_up) for give_up in (False, True)}
    assert loose[True][2] < 0.02 and loose[False][2] > 0.2  # D8 takes hopeless problems away from votes, D5 does not
    assert loose[True][1] > 0.7 and 0.1 < loose[True][0] < 0.6  # the cap never binds: luck decides on easy problems
    tight = rest.at_rest(world, start, 0.1, 16, give_up=True)
    assert world.share @ tight < 0.12  # of all prompts, each of which is accepted


def test_the_mean_is_that_of_the_last_third(world, monkeypatch):
    monkeypatch.setattr(rest, "STEPS", 6)
    monkeypatch.setattr(rest, "accepted_votes", lambda world, policy, *_: np.full(3, 0.9))
    gaps = [0.4 * (1 - rest.PACE) ** step for step in (5, 6)]  # to 0.9, after these steps
    assert rest.at_rest(world, np.full(3, 0.5), 0.5, 8, False) == pytest.approx(0.9 - np.mean(gaps))


def test_a_kind_without_feasible_responses_keeps_its_policy():
    world = rest.Kinds(share=np.array([0.5, 0.5]), single=np.array([0.9, 0.0]), spread=np.zeros(2),
                       vote=np.array([0.9, 0.0]), trials=np.array([3.0, 8.0]))
    world.draw = lambda n, rng: (np.arange(n) % 2, np.tile([1.0, 0.0], n // 2), np.tile([1.0, 0.0], n // 2))
    policy = np.array([0.4, 0.37])
    assert rest.accepted_votes(world, policy, 0.5, 8, False, np.random.default_rng(0))[1] == 0.37


def test_an_evaluation_without_sv_sft_is_one_clear_line(monkeypatch):
    record = SimpleNamespace(condition="scot", greedy=False)
    monkeypatch.setattr(rest, "read", lambda folders: {"base": record})
    monkeypatch.setattr("sys.argv", ["rest.py", "somewhere"])
    with pytest.raises(SystemExit, match="^error: somewhere: needs answers of the base and of SV-SFT$"):
        rest.main()
