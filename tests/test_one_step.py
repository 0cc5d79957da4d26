"""experiments/one_step.py: four prompts of each kind, and who votes as the cap rises, against Eq. (8) by brute force.

    pytest tests/test_one_step.py
"""

from itertools import product

import numpy as np
from made_up import made_up_rollout

import data
import ibpo
import train
from experiments import one_step

SERVED = 100  # worth more than all margins


def test_as_many_of_each_kind_easy_ones_first():
    problems = one_step.of_each_kind(4, seed=4)
    kinds = [data.kind_of(problem.question) for problem in problems]
    assert kinds == [kind for kind in data.KINDS for _ in range(4)]
    assert len({problem.question for problem in problems}) == len(problems)
    assert all(data.split_of(data.read_question(problem.question)) == "train" for problem in problems)


def best(rollout: train.Rollout, cap: float) -> float:
    """Eq. (8) by trying all ways to give each prompt a vote (True), a single trial (False) or nothing (None).

    As many prompts as possible are served: nothing is for those that nothing or only votes got right (D5, D6).
    """
    margin = ibpo.reward_margin(rollout.correct, rollout.extended, rollout.valid)  # float[n]
    right = rollout.correct & rollout.valid  # bool[n, m]
    votes, singles = ((right & mask).any(axis=1).tolist() for mask in (rollout.extended, ~rollout.extended))
    options = [[True] * vote + [False if single else None] for vote, single in zip(votes, singles, strict=True)]
    values = []
    for choice in product(*options):
        served = [i for i, vote in enumerate(choice) if vote is not None]
        if choice.count(True) <= cap * len(served) + 1e-9:
            values.append(SERVED * len(served) + sum(margin[i] if choice[i] else -margin[i] for i in served))
    return max(values)


def test_who_votes():
    rng = np.random.default_rng(1)
    for _ in range(20):
        rollout = made_up_rollout(rng, 7, m=4)
        margin = ibpo.reward_margin(rollout.correct, rollout.extended, rollout.valid)
        caps = np.array([0, 0.2, 0.5, 1])
        for column, cap in zip(one_step.who_votes(rollout, caps).T, caps, strict=True):
            votes, singles = column == 1, column == 0  # bool[n] each
            value = SERVED * (votes.sum() + singles.sum()) + margin[votes].sum() - margin[singles].sum()
            assert votes.sum() <= cap * (votes.sum() + singles.sum()) + 1e-9
            assert np.isclose(value, best(rollout, cap))


def test_picture(tmp_path):
    rollout = made_up_rollout(np.random.default_rng(0), one_step.PER_KIND * len(data.KINDS))
    one_step.draw(rollout, tmp_path / "one_step.png")
    assert (tmp_path / "one_step.png").read_bytes().startswith(b"\x89PNG")
