"""What log.jsonl says of a step (plumbing/records.py), against loops over prompts and responses.

    pytest tests/test_log.py
"""

from dataclasses import replace

import numpy as np
import pytest
from made_up import made_up_rollout, three_groups

import ibpo
import train
import voting
from plumbing.records import describe, notes_on
from plumbing.settings import Settings


def test_what_the_log_says_is_counted_right():
    """Against loops over prompts and responses."""
    rng = np.random.default_rng(7)
    rollout = three_groups(rng, 40)
    rollout.correct &= rollout.valid
    weights = rng.random((40, 12)) * (rng.random((40, 12)) < 0.1) * rollout.valid
    weights[rollout.levels == 2] = 0  # nothing accepted there: no share
    chosen = weights > 0
    selection = ibpo.Selection(weights, int(chosen.sum()), int((chosen & rollout.extended).sum()), 3, 2)
    record = describe(rollout, selection)
    cells = [(i, j) for i in range(40) for j in range(12)]
    names = dict(enumerate(voting.GROUPS))

    def share(those: list, of: list) -> float:
        return pytest.approx(len(set(those) & set(of)) / len(of))

    malformed = [cell for cell in cells if not rollout.valid[cell]]
    votes = [cell for cell in cells if rollout.group[cell] == 2 and rollout.valid[cell]]
    accepted = [cell for cell in cells if chosen[cell]]
    several = [cell for cell in cells if rollout.trials[cell] > 1]
    right = [cell for cell in cells if rollout.correct[cell]]
    assert record["accuracy"] == share(right, cells) and record["tokens"] == pytest.approx(rollout.tokens.mean())
    assert record["malformed"] == share(malformed, cells) and record["vote_share"] == share(votes, cells)
    assert record["rule_kept"] == share([cell for cell in several if cell not in malformed], several)
    assert record["trials_per_vote"] == pytest.approx(np.mean([rollout.trials[cell] for cell in votes]))
    assert record["accepted_tokens"] == pytest.approx(np.mean([rollout.tokens[cell] for cell in accepted]))
    assert (record["accepted"], record["dropped_no_correct"], record["dropped_over_cap"]) == (len(accepted), 3, 2)
    short = [cell for cell in cells if rollout.group[cell] == 1]
    assert record["short_share"] == share(short, cells) and record["accepted_short_share"] == share(short, accepted)
    assert 2 not in record["accepted_vote_share_by_level"]
    for level, found in record["accepted_vote_share_by_level"].items():
        here = [cell for cell in accepted if rollout.levels[cell[0]] == level]
        assert found == share(votes, here)
    for level in range(1, 6):
        here = [cell for cell in cells if rollout.levels[cell[0]] == level]
        assert record["accuracy_by_level"][level] == share(right, here)
        assert record["vote_share_by_level"][level] == share(votes, here)
        assert record["short_share_by_level"][level] == share(short, here)
        margins = []
        for i in np.flatnonzero(rollout.levels == level):
            rates = [[rollout.correct[i, j] for j in range(12)
                      if rollout.valid[i, j] and names[rollout.group[i, j]] == name]
                     for name in ("extended", "regular")]
            margins.append(np.mean(rates[0]) - np.mean(rates[1]) if all(rates) else 0)
        assert record["margin_by_level"][level] == pytest.approx(np.mean(margins))


def test_rule_kept_is_nothing_where_nobody_votes():
    rollout = made_up_rollout(np.random.default_rng(0), 6)
    rollout.trials[:] = 1
    selection = ibpo.select_ibpo(rollout.correct, rollout.extended, 0.5, rollout.valid)
    assert describe(rollout, selection)["rule_kept"] is None


@pytest.mark.parametrize("method", ["grpo", "length-penalty", "listing"])
def test_record_counts_positive_weights_as_accepted(method):
    rng = np.random.default_rng(6)
    settings = replace(Settings(), method=method)
    for seed in range(20):
        rollout = made_up_rollout(rng, 30)
        rollout.correct[0] = False
        selection, weights = train.select(rollout, None, settings, seed)
        record = describe(rollout, selection)
        chosen = selection.weights > 0
        assert record["accepted"] == chosen.sum() > 0
        assert record["accepted_vote_share"] == pytest.approx(rollout.extended[chosen].mean())
        assert record["accepted_tokens"] == pytest.approx(rollout.tokens[chosen].mean())
        right = rollout.correct & rollout.valid
        assert record["dropped_no_correct"] == (~right.any(axis=1)).sum() >= 1
        if method == "listing":
            assert chosen.sum(axis=1).max() == 1 and right[chosen].all()
            assert np.count_nonzero(weights) > 2 * record["accepted"]  # ties are shared
            assert weights.sum() == pytest.approx(record["accepted"])
        else:
            assert (weights == selection.weights).all() and (weights < 0).any()


def test_a_start_that_cannot_vote_is_noticed():
    for share, warned in (0.6, True), (0.2, False):
        rollout = made_up_rollout(np.random.default_rng(1), 30)
        rollout.valid = np.random.default_rng(2).random(rollout.correct.shape) >= share
        rollout.correct &= rollout.valid
        selection, _ = train.select(rollout, None, Settings(), 0)
        record = describe(rollout, selection)
        assert record["accepted"]
        assert ("malformed" in notes_on(record, rollout, Settings())) == warned


def test_a_policy_that_has_lost_its_votes_is_noticed():
    rollout = made_up_rollout(np.random.default_rng(1), 30)
    for votes in (True, False):
        if not votes:
            rollout.group[:] = 0
        record = describe(rollout, train.select(rollout, None, Settings(), 0)[0])
        assert ("lower --lr" in notes_on(record, rollout, Settings())) == (not votes)
    assert not notes_on(record, rollout, Settings(method="rft"))


def test_short_votes_are_votes_too():
    """With three groups a policy whose votes are all short has not lost its votes."""
    rollout = three_groups(np.random.default_rng(7), 40)
    rollout.group[rollout.group == 2] = 1
    record = describe(rollout, ibpo.Selection(1.0 * rollout.valid, int(rollout.valid.sum()), 0, 0, 0))
    assert record["vote_share"] == 0 < record["short_share"]
    assert "no response is a vote" not in notes_on(record, rollout, Settings(sft_short=10))


def test_what_a_step_without_use_says():
    """Nothing accepted; or few samples, of which most margins say nothing."""
    rollout = made_up_rollout(np.random.default_rng(1), 30)
    for right, samples, said in ((False, 16, "30 of 30 prompts had no correct one"),
                                 (True, 7, "is 0 on 100% of the prompts"), (True, 8, "")):
        rollout.valid[:], rollout.correct[:] = True, right
        record = describe(rollout, train.select(rollout, None, Settings(), 0)[0])
        note = notes_on(record, rollout, Settings(samples=samples))
        assert said in note and bool(note) == bool(said)
