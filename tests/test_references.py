"""experiments/references.py: rules of stopping against voting.py, heights against worlds that are made so.

    pytest tests/test_references.py
"""

from collections import Counter

import numpy as np
import pytest

import voting
from eval import Evaluation
from experiments import oracles, references
from plumbing import statistics
from plumbing.records import Record


def record(name: str, levels: np.ndarray, correct: np.ndarray, trials: np.ndarray, first: np.ndarray = None) -> Record:
    """levels int[n]; the others [n, m]."""
    answers = np.where(correct, 0, 1)
    return Record(name=name, condition="asv", greedy=False, questions=[str(i) for i in range(len(levels))],
                  levels=levels, correct=correct, group=2 * (trials > 1), valid=np.ones_like(correct), trials=trials,
                  tokens=20 * trials, first=correct if first is None else first, answers=answers,
                  consistent=correct.astype(float))


def outcome(answers: np.ndarray, correct: np.ndarray, consensus: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Of one rule, the samples taken in their order: right bool[n], trials int[n]."""
    n, m = answers.shape
    base = record("base", np.ones(n, int), correct, np.ones((n, m), int))
    base.answers = answers
    seen, right, _ = next(references.rotations(base))
    last = references.last_taken(seen, consensus, most)
    return right[np.arange(n), last], last + 1


def test_adaptive_self_consistency_is_the_rule_of_voting():
    rng, seen = np.random.default_rng(8), Counter()
    for kinds, *rule in ((1, 3, 8), (2, 3, 8), (4, 3, 8), (6, 3, 8), (9, 3, 8), (3, 2, 4), (4, 4, 7), (5, 2, 8)):
        answers = rng.integers(-1, kinds, (400, 8))
        gold = rng.integers(0, kinds, 400)
        right, trials = outcome(answers, answers == gold[:, None], *rule)
        for i in range(400):
            texts = [None if a < 0 else str(a) for a in answers[i]]
            needed = voting.trials_needed(texts, voting.Rule(*rule))
            final, count = voting.plurality(texts[:needed])
            assert trials[i] == needed and right[i] == (final == str(gold[i]))
            counts = sorted(Counter(filter(None, texts[:needed])).values())
            seen.update({"three": needed == 3, "early": 3 < needed < 8, "no consensus": count < 3,
                         "consensus at eight": needed == 8 and count == 3, "tie": counts[-2:-1] == counts[-1:] != [],
                         "no answer": None in texts})
    assert min(seen.values()) >= 50, f"the random answers are too tame: {seen}"


def test_adaptive_self_consistency_by_hand():
    answers = [[4, 4, 4, 7, 7, 7, 7, 7], [7, 4, 4, 7, -1, 5, 6, 8], [-1] * 8]
    right, trials = outcome(np.array(answers), np.equal(answers, 7), 3, 8)
    assert right.tolist() == [False, True, False]       # what comes after consensus; the first of a tie; no answer
    assert trials.tolist() == [3, 8, 8]


def test_every_rule_with_every_sample_first():
    rng = np.random.default_rng(0)
    answers, gold, tokens = rng.integers(-1, 4, (200, 8)), rng.integers(0, 4, (200, 1)), rng.integers(5, 50, (200, 8))
    base = record("base", np.ones(200, int), answers == gold, np.ones((200, 8), int))
    base.answers, base.tokens = answers, tokens
    rules = references.adaptive_rules(base)
    assert len(rules) == 1 + 7 + 6 + 5
    for rule in rules:
        right, trials, spent = np.zeros((3, 200))
        for start in range(8):
            turned = [np.roll(x, -start, axis=1) for x in (answers, base.correct, tokens)]
            found, needed = outcome(*turned[:2], rule.consensus, rule.max_trials)
            right += found / 8
            trials += needed / 8
            spent += [row[:t].sum() / 8 for row, t in zip(turned[2], needed)]
        assert rule.correct == pytest.approx(right) and rule.trials == pytest.approx(trials)
        assert rule.tokens == pytest.approx(spent)


def test_agreement_by_loops():
    rng = np.random.default_rng(1)
    answers = rng.integers(-1, 3, (30, 8))
    base = record("base", np.ones(30, int), answers == 0, np.ones((30, 8), int))
    base.answers = answers
    for count in (1, 2, 3):
        for i, (equal, wrong) in enumerate(references.agreement(base, count)):
            windows = [{int(answers[i, (j + k) % 8]) for k in range(count)} for j in range(8)]
            assert equal == sum(len(w) == 1 and w != {-1} for w in windows) / 8
            assert wrong == sum(w in ({1}, {2}) for w in windows) / 8


@pytest.fixture(scope="module")
def world():
    """Base, SV-SFT and the chances of each problem: a vote repairs half of what a single trial gets wrong.

    Each level has two kinds of problems, easier and harder ones, and each kind two sorts that nobody names.
    """
    rng, n = np.random.default_rng(2), 40_000
    levels, harder, sort = 1 + np.arange(n) % 5, rng.random(n) < 0.5, rng.choice([-1, 1], n)
    chance = np.clip(0.95 - 0.1 * levels - 0.2 * harder + 0.15 * sort, 0, 1)
    base = record("base", levels, rng.random((n, 8)) < chance[:, None], np.ones((n, 8), int))
    voted = rng.random((n, 1)) < (0.5 + 0.5 * chance)[:, None]
    return rng, levels, harder, sort, chance, base, record("sv-sft", levels, voted, np.full((n, 1), 4))


@pytest.mark.parametrize("kind", ["random", "levels", "kinds", "within kinds", "better"])
@pytest.mark.slow
def test_parts_of_a_height(world, kind, monkeypatch):
    """Who votes decides which part the height has: by level, by kind, by problem within a kind, or answering better."""
    monkeypatch.setattr(statistics, "RESAMPLES", 200)
    rng, levels, harder, sort, chance, base, sv = world
    n, share = len(levels), {"random": 0.5, "levels": (levels >= 4), "kinds": harder, "within kinds": sort < 0,
                             "better": 0.5}[kind]
    votes = rng.random(n) < share
    bonus = 0.05 * (kind == "better")
    right = rng.random(n) < np.where(votes, 0.5 + 0.5 * chance, chance) + bonus
    first = (rng.random(n) < chance + bonus)[:, None]
    model = record("m", levels, right[:, None], np.where(votes, 4, 1)[:, None], first)
    parts = references.height_parts(Evaluation([base, sv, model]), ["m"], 10 * levels + harder)["m"]
    for unit in ("trials", "tokens"):
        assert sum(parts[unit][part].value for part in ("levels", "kinds", "rest")) == pytest.approx(
            parts[unit]["height"].value)
    above = {part: parts["trials"][part].low > 0.005 for part in ("levels", "kinds", "rest")}
    assert above == {"levels": kind == "levels", "kinds": kind == "kinds", "rest": kind in ("within kinds", "better")}
    if kind == "kinds":  # votes on the harder half of every level: half of what they gain more than the mean
        gain = np.array([0.5 * (1 - chance[harder == half]).mean() for half in (False, True)])
        assert parts["trials"]["kinds"].value == pytest.approx(0.5 * (gain[1] - gain.mean()), abs=0.01)
        assert 0.5 < parts["share"].value < 1  # the best chooses by level, too
    if kind == "levels":  # votes at levels 4 and 5 alone: the mean gain of these levels instead of all
        gain = np.array([0.5 * (1 - chance[levels == level]).mean() for level in range(1, 6)])
        assert parts["trials"]["levels"].value == pytest.approx(0.4 * (gain[3:].mean() - gain.mean()), abs=0.01)


def test_group_oracle_is_the_best_of_all_shares_by_group(world):
    """Against many allocations by level at the same cost."""
    rng, levels, _, _, chance, base, sv = world
    accuracy, trials = references.group_oracle(base, sv, levels, 2.2).mean(axis=0)
    assert trials == pytest.approx(2.2, abs=0.01)
    gain = np.array([0.5 * (1 - chance[levels == level]).mean() for level in range(1, 6)])  # of a vote, 3 trials more
    for _ in range(200):
        shares = rng.dirichlet(np.ones(5)) * 5 * 0.4
        if shares.max() <= 1:
            assert accuracy > chance.mean() + (shares * gain).mean() - 0.01
    assert accuracy == pytest.approx(chance.mean() + (gain[3] + gain[4]) / 5, abs=0.01)  # all of levels 4 and 5
    share = oracles.allocate(oracles.by_group(oracles.blind(base.correct, sv.correct, sv.trials), levels, levels), 2.2)
    assert share[levels == 5].all() and not share[levels <= 3].any()
