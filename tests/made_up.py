"""Judged responses made up at random, for tests of what is done with them."""

import numpy as np

import train
import voting

EXTENDED, SHORT = voting.GROUPS.index("extended"), voting.GROUPS.index("short")


def judged(correct, extended=None, valid=None, tokens=None, trials=None) -> voting.Judged:
    """Judged responses of two groups; what is not given is regular, valid, 10 tokens and one trial."""
    correct = np.array(correct, dtype=bool)  # bool[n, m]
    extended = np.zeros(correct.shape, bool) if extended is None else np.array(extended, dtype=bool)
    valid = np.ones(correct.shape, bool) if valid is None else np.array(valid, dtype=bool)
    tokens = np.full(correct.shape, 10) if tokens is None else np.array(tokens)
    trials = np.ones(correct.shape, int) if trials is None else np.array(trials)
    return voting.Judged(correct, EXTENDED * extended, valid, trials, tokens, first=correct)


def random_batch(rng: np.random.Generator, n: int, m: int) -> tuple[np.ndarray, ...]:
    """correct, extended, valid, feasible: bool[n, m]; easy, hard, one-sided and broken rows, mixed."""
    correct = rng.random((n, m)) < rng.choice([0, 0.2, 0.5, 0.8, 1], (n, 1))
    extended = rng.random((n, m)) < rng.choice([0, 0.2, 0.5, 0.8, 1], (n, 1), p=[0.1, 0.25, 0.3, 0.25, 0.1])
    correct &= extended | (rng.random((n, 1)) < 0.7)  # some prompts only votes can solve: forced
    valid = rng.random((n, m)) < rng.choice([0.7, 1])
    feasible = rng.random((n, m)) < rng.choice([0.7, 1])
    return correct, extended, valid, feasible


def rollout_of(responses: voting.Judged, levels, prompts=(), texts=()) -> train.Rollout:
    return train.Rollout(**vars(responses), levels=levels, prompts=list(prompts), responses=list(texts))


def made_up_rollout(rng, n: int, m: int = 8) -> train.Rollout:
    """Votes are longer and more often right; some responses are malformed."""
    extended = rng.random((n, m)) < 0.5
    correct = rng.random((n, m)) < np.where(extended, 0.8, rng.random((n, 1)))
    tokens = rng.integers(10, 30, (n, m)) * np.where(extended, rng.integers(3, 9, (n, m)), 1)
    levels = rng.integers(1, 6, n)
    valid = rng.random((n, m)) < 0.95
    return rollout_of(judged(correct, extended, valid, tokens, np.where(extended, 4, 1)), levels)


def three_groups(rng, n: int, m: int = 12) -> train.Rollout:
    """Responses of more trials are more often right; the harder the prompt, the more so."""
    group, hard = rng.integers(0, 3, (n, m)), rng.random((n, 1))
    correct = rng.random((n, m)) < 1 - hard * np.array([0.8, 0.4, 0.2])[group]
    valid = rng.random((n, m)) < 0.95
    trials = np.array([1, 2, 4])[group]
    tokens = 20 * trials + rng.integers(0, 9, (n, m))
    responses = voting.Judged(correct, np.where(valid, group, 0), valid, trials, tokens, first=correct)
    return rollout_of(responses, 1 + (5 * hard[:, 0]).astype(int))
