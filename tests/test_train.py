"""train.py: the program of a step, for caps on votes, on tokens, and on both.

    pytest tests/test_train.py
"""

import dataclasses

import numpy as np
import pytest

import ibpo
import train
from settings import Settings, parse_args


def made_up_rollout(rng, n: int, m: int = 8) -> train.Rollout:
    """Votes are longer and more often right; some responses are malformed."""
    extended = rng.random((n, m)) < 0.5
    correct = rng.random((n, m)) < np.where(extended, 0.8, rng.random((n, 1)))
    tokens = rng.integers(10, 30, (n, m)) * np.where(extended, rng.integers(3, 9, (n, m)), 1)
    return train.Rollout(rng.integers(1, 6, n), [], [], correct, extended, rng.random((n, m)) < 0.95,
                         np.where(extended, 4, 1), tokens)


def total_margin(weights, rollout) -> float:
    margin = ibpo.reward_margin(rollout.correct, rollout.extended, rollout.valid)
    return float((weights * np.where(rollout.extended, margin[:, None], 0)).sum())


def test_general_program_equals_closed_form_for_votes():
    rng = np.random.default_rng(0)
    for _ in range(100):
        rollout, cap = made_up_rollout(rng, rng.integers(1, 40)), float(rng.integers(0, 11)) / 10
        closed = ibpo.select_ibpo(rollout.correct, rollout.extended, cap, rollout.valid, rng=rng)
        general = train.select_by_caps(rollout, None, {"vote": cap}, rng)
        assert general[1:] == closed[1:]
        assert total_margin(general.weights, rollout) == pytest.approx(total_margin(closed.weights, rollout))


@pytest.mark.parametrize("budget", ["tokens=60", "tokens=25", "vote=0.3,tokens=60", "vote=0.6,tokens=1000"])
def test_caps_are_kept(budget):
    settings = dataclasses.replace(Settings(), budget=budget)
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
        record = train.describe(rollout, selection)
        assert record["accepted_tokens"] == pytest.approx(average["tokens"])
        assert record["accepted_vote_share"] == average["vote"]


def test_slack_cap_on_tokens_does_not_shorten():
    """Where tokens are no constraint, the responses accepted are as long as those that might have been."""
    rng, accepted, possible = np.random.default_rng(2), [], []
    for seed in range(200):
        rollout = made_up_rollout(rng, 16)
        _, weights = train.select(rollout, None, dataclasses.replace(Settings(), budget="tokens=500"), seed)
        _, drawn = train.select(rollout, None, dataclasses.replace(Settings(), budget="vote=1", share_ties=False), seed)
        accepted.append((weights * rollout.tokens).sum() / weights.sum())
        possible.append((drawn * rollout.tokens).sum() / drawn.sum())
    assert np.mean(accepted) > 0.95 * np.mean(possible)


def test_shared_ties_reach_the_gradient_weights():
    rollout = made_up_rollout(np.random.default_rng(3), 64)
    selection, weights = train.select(rollout, None, Settings(), 0)
    assert selection.accepted == selection.weights.sum() and np.allclose(weights.sum(1), selection.weights.sum(1))
    assert np.count_nonzero(weights) > 2 * selection.accepted
    _, drawn = train.select(rollout, None, dataclasses.replace(Settings(), share_ties=False), 0)
    assert (drawn == selection.weights).all()


def test_caps_from_the_command_line():
    settings, _ = parse_args(["--budget", "tokens=90,vote=0.25"])
    assert settings.caps == {"tokens": 90, "vote": 0.25} and settings.cap == 0.25
    assert train.stage_name(settings) == "ibpo-25-tokens-90"
    assert train.stage_name(parse_args(["--budget", "tokens=90"])[0]) == "ibpo-tokens-90"
    assert train.stage_name(Settings()) == "ibpo-50"
    assert train.stage_name(dataclasses.replace(Settings(), method="random")) == "random-50"
    assert train.stage_name(dataclasses.replace(Settings(), method="cgpo")) == "cgpo"
