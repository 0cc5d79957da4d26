"""experiments/kinds_report.py: who votes, kind by kind, of records that are made up.

    pytest tests/test_kinds_report.py
"""

import numpy as np
import pytest

import data
import voting
from eval import Evaluation
from experiments.kinds_report import follows_first_trial, print_report, write
from plumbing.records import Record


def record_of(name: str, condition: str, questions: list[str], levels: np.ndarray, correct: np.ndarray,
              votes: np.ndarray, first: np.ndarray) -> Record:
    """A record with these judgements, bool[n, m] each; wrong answers never meet, a vote takes four trials."""
    n, m = correct.shape
    trials = np.where(votes, 4, 1)
    return Record(
        name=name, condition=condition, greedy=False, questions=questions, levels=levels, correct=correct, first=first,
        group=np.where(votes, voting.GROUPS.index("extended"), 0), valid=np.ones((n, m), bool), trials=trials,
        tokens=20 * trials, answers=np.where(correct, 0, 1 + np.arange(m)),
        consistent=np.repeat(correct.mean(axis=1, keepdims=True), m, axis=1))


def test_report_by_kind(capsys, tmp_path):
    """Votes that follow a wrong first trial by 40 points; a kind that always votes hides nothing of it."""
    rng, problems = np.random.default_rng(0), data.load("builtin", "test", 1000, seed=1)
    questions, levels = [p.question for p in problems], np.array([p.level for p in problems])
    of = np.array(data.places(questions))
    rate = np.array([0.97, 0.6, 0.4, 0.2, 0.02, 0.02])[of][:, None]
    first = rng.random((1000, 8)) < rate
    votes = rng.random((1000, 8)) < np.where(first, 0.1, 0.5)
    votes[of == 1] = True
    right = np.where(votes, rng.random((1000, 8)) < rate + 0.02, first)
    records = {r.name: r for r in [
        record_of("base", "scot", questions, levels, rng.random((1000, 8)) < rate, np.zeros((1000, 8), bool), first),
        record_of("sv-sft", "sv", questions, levels, rng.random((1000, 8)) < rate + 0.02, np.ones((1000, 8), bool),
                  first),
        record_of("ibpo", "asv", questions, levels, right, votes, first)]}
    evaluation = Evaluation(list(records.values()))
    others = {name: r.at(of != 1) for name, r in records.items()}
    gap = follows_first_trial(Evaluation(list(others.values())), others["ibpo"], levels[of != 1])
    assert gap.low < 0.4 < gap.high and gap.high - gap.low < 0.15
    groups = 10 * levels + of
    gaps, weights = [], []
    for group in np.unique(groups):
        wrong, rights = (votes[groups == group][which] for which in (~first[groups == group], first[groups == group]))
        if wrong.size and rights.size:
            gaps.append(wrong.mean() - rights.mean())
            weights.append(1 / (1 / wrong.size + 1 / rights.size))
    expected = np.average(gaps, weights=weights)
    assert follows_first_trial(evaluation, records["ibpo"], groups).value == pytest.approx(expected)
    print_report(records, 1)
    printed = capsys.readouterr().out
    line = next(line.split() for line in printed.split("--- ibpo")[1].splitlines() if line.strip().startswith("medium"))
    assert line[1] == "100" and f"{records['base'].correct.mean():.1%}" in printed
    assert f"{right.mean():.1%} at {records['ibpo'].trials.mean():.2f} trials" in printed

    with pytest.raises(data.DataError, match="no records of a base model"):
        write(tmp_path, 3)
    for seed in range(2):  # as reproduce.py keeps them
        folder = tmp_path / f"records/seed-{seed}/eval"
        folder.mkdir(parents=True)
        for name, record in records.items():
            np.savez_compressed(folder / f"{name}.npz", **vars(record))
    write(tmp_path, 1)
    assert (tmp_path / "report.txt").read_text() == printed == capsys.readouterr().out
    (tmp_path / "records/seed-1/eval/ibpo.npz").unlink()  # the second seed is not finished
    write(tmp_path, 3)
    found = capsys.readouterr().out
    assert found.startswith("2,000 problems, 2 seed(s)") and "always voting" in found and "--- ibpo" not in found
