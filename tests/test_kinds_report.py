"""experiments/by_kind.py and kinds_report.py: who votes, kind by kind, of records that are made so.

    pytest tests/test_kinds_report.py
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import data
import voting
from eval import Evaluation
from experiments import by_kind, kinds_report
from experiments.references import AdaptiveHull
from plumbing.records import Record

ROOT = Path(__file__).resolve().parent.parent
KINDS = ["easy", "medium", "hard", "trap", "misread", "hopeless"]
N = 1000


def record_of(name: str, condition: str, problems: list[data.Problem], correct: np.ndarray, votes: np.ndarray,
              first: np.ndarray) -> Record:
    """A record with these judgements, bool[n, m] each; wrong answers never meet, a vote takes four trials."""
    n, m = correct.shape
    trials = np.where(votes, 4, 1)
    return Record(
        name=name, condition=condition, greedy=False, questions=[p.question for p in problems],
        levels=np.array([p.level for p in problems]), correct=correct, first=first,
        group=np.where(votes, voting.GROUPS.index("extended"), 0), valid=np.ones((n, m), bool), trials=trials,
        tokens=20 * trials, answers=np.where(correct, 0, 1 + np.arange(m)),
        consistent=np.repeat(correct.mean(axis=1, keepdims=True), m, axis=1))


@pytest.fixture(scope="module")
def world() -> tuple[np.ndarray, dict[str, Record]]:
    """The kind of each problem, int[n], and records. The model votes 10 % after a right and 50 % after a wrong trial.

    On medium problems it always votes, on hopeless ones never. A vote is right 20 points more often on medium problems.
    """
    rng, problems = np.random.default_rng(0), data.load("builtin", "test", N, seed=1)
    moduli = [int(p.question.split("modulo ")[1].rstrip(".")) for p in problems]
    kinds = np.array([[47, 43, 41, 37, 29, 61].index(modulus) for modulus in moduli])
    rate = np.array([0.97, 0.6, 0.4, 0.2, 0.02, 0.02])[kinds][:, None]
    with_vote, shape = rate + np.where(kinds == 1, 0.2, 0)[:, None], (N, 8)
    first = rng.random(shape) < rate
    votes = rng.random(shape) < np.where(first, 0.1, 0.5)
    votes[kinds == 1], votes[kinds == 5] = True, False
    right = np.where(votes, rng.random(shape) < with_vote, first)
    always = rng.random(shape) < with_vote
    made = [record_of("base", "scot", problems, rng.random(shape) < rate, np.zeros(shape, bool), first),
            record_of("sv-sft", "sv", problems, always, np.ones(shape, bool), first),
            record_of("ibpo", "asv", problems, right, votes, first)]
    return kinds, {record.name: record for record in made}


@pytest.fixture(scope="module")
def described(world) -> tuple[Evaluation, dict[str, dict]]:
    evaluation = Evaluation(list(world[1].values()))
    return evaluation, by_kind.describe(evaluation, AdaptiveHull(evaluation))


def test_a_kind_is_counted_right(world, described):
    kinds, records = world
    for name, record in records.items():
        rows = described[1][name]["kinds"]
        assert list(rows) == KINDS
        for i, row in enumerate(rows.values()):
            at = kinds == i
            assert row["problems"] == at.sum()
            for key, values in (("accuracy", record.correct), ("first_trial", record.first), ("trials", record.trials),
                                ("vote_share", record.extended), ("plurality", record.consistent[:, -1:])):
                value, low, high = row[key]
                assert value == pytest.approx(values[at].mean()) and low <= value <= high
                assert low < high < low + 0.5  # of some hundred problems nothing is certain
    assert described[1]["ibpo"]["kinds"]["medium"]["vote_share"] == (1, pytest.approx(1, abs=0.05), 1)
    assert described[1]["ibpo"]["kinds"]["hopeless"]["votes_by_level"] == dict.fromkeys((2, 3, 4, 5), 0)


def test_gains_are_multiples_of_the_boundary(world, described):
    """It votes where that helps, and after wrong first trials: it gains more than always voting, at fewer trials."""
    kinds, records = world
    row = described[1]["ibpo"]
    base, sv, mine = (records[name].correct.mean() for name in ("base", "sv-sft", "ibpo"))
    line = (records["ibpo"].trials.mean() - 1) / 3 * (sv - base)
    found = row["times_boundary"]["trials"]
    assert found.value == pytest.approx((mine - base) / line) and found == row["times_boundary"]["tokens"]
    assert 3 < found.low < found.high < 8
    voting = row["times_boundary"]["voting"]
    assert voting.value == pytest.approx((mine - records["ibpo"].first.mean()) / line)
    assert row["first_minus_base"].value == pytest.approx(records["ibpo"].first.mean() - base)
    assert row["minus_adaptive"]["trials"].low > -0.05
    assert "sees" not in described[1]["base"] and "sees" not in described[1]["sv-sft"]


def test_votes_follow_a_wrong_first_trial_by_40_points(world, described):
    """Within a level and kind; a kind that always votes, or never, says nothing else. A level alone misleads."""
    kinds, records = world
    evaluation, record, sees = described[0], records["ibpo"], described[1]["ibpo"]["sees"]
    free = (kinds != 1) & (kinds != 5)
    part = [r.at(free) for r in records.values()]
    groups = 10 * record.levels + kinds
    gap = by_kind.follows_first_trial(Evaluation(part), part[-1], groups[free])
    assert gap.low < 0.4 < gap.high and gap.high - gap.low < 0.15
    gaps, weights = [], []
    for group in np.unique(groups):
        wrong, right = (record.extended[groups == group][which] for which in (
            ~record.first[groups == group], record.first[groups == group]))
        if wrong.size and right.size:
            gaps.append(wrong.mean() - right.mean())
            weights.append(1 / (1 / wrong.size + 1 / right.size))
    assert sees["kind"].value == pytest.approx(np.average(gaps, weights=weights))
    assert sees["level"] == by_kind.follows_first_trial(evaluation, record, record.levels)
    assert sees["level"].high < sees["kind"].low + 0.1 and sees["kind"].value != sees["level"].value


def test_votes_on_harder_problems(world):
    """By the definition, the group means subtracted by hand (so less than 40 points); 0 where votes are random."""
    kinds, records = world
    rng, base = np.random.default_rng(1), records["base"]
    groups, rate = 10 * base.levels + kinds, base.correct.mean(axis=1)
    harder = np.array([rate[i] < rate[groups == groups[i]].mean() for i in range(N)])
    for votes, low, high in ((rng.random(N) < 0.5, -0.1, 0.1), (rng.random(N) < 0.3 + 0.4 * harder, 0.2, 0.4)):
        columns = np.repeat(votes[:, None], 8, axis=1)
        record = record_of("m", "asv", [data.Problem(q, "7", level) for q, level in zip(base.questions, base.levels)],
                           base.correct, columns, base.correct)
        found = by_kind.votes_on_harder(Evaluation([base, record]), record, base, groups)
        centred = votes - np.array([votes[groups == group].mean() for group in groups])
        assert found.value == pytest.approx(centred[harder].mean() - centred[~harder].mean())
        assert low < found.value < high


def test_pass_rates(world):
    kinds, records = world
    right = records["base"].correct.sum(axis=1)
    found = by_kind.pass_rates(records["base"])
    assert list(found) == KINDS and sum(map(sum, found.values())) == pytest.approx(1)
    assert found["hard"][3] == ((kinds == 2) & (right == 3)).sum() / N


def test_a_kind_that_a_seed_lacks_has_the_widest_interval():
    """Two seeds of three problems: one has the only hopeless problem."""
    questions = ["Compute 2 * 3 * 4 modulo 47."] * 5 + ["Compute 2 * 3 * 4 * 5 modulo 61."]
    problems = [data.Problem(question, "7", 1 + i % 2) for i, question in enumerate(questions)]
    ones = np.ones((6, 2), bool)
    evaluation = Evaluation([record_of("base", "scot", problems, ones, ~ones, ones)], runs=2)
    rows = by_kind.by_kind(evaluation, by_kind.kinds_of(evaluation.records["base"]))["base"]
    assert rows["hopeless"]["accuracy"] == (1, 0, 1) and rows["hopeless"]["trials"] == (1, 1, 8)
    assert rows["easy"]["accuracy"].low > 0.2


def write_record(path: Path, record: Record) -> None:
    """As raw responses with these judgements. 7 is right."""
    lines = [{"condition": record.condition, "temperature": 1.0}]
    for i, question in enumerate(record.questions):
        responses = []
        for right, first, vote in zip(record.correct[i], record.first[i], record.extended[i]):
            answers = ["7" if first else "1", *("777" if right else "222")] if vote else ["7" if right else "1"]
            answers = answers[: voting.trials_needed(answers)] if vote else answers
            solutions = [f"\\boxed{{{answer}}}" for answer in answers]
            text = solutions[0] if record.condition == "scot" else (
                voting.render_extended(solutions, answers) if vote else voting.render_regular(solutions[0]))
            responses.append({"text": text, "tokens": 20 * len(answers), "finished": True})
        lines.append({"question": question, "answer": "7", "level": int(record.levels[i]), "responses": responses})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")


@pytest.mark.slow
def test_the_command(world, tmp_path):
    """Its tables, from raw records of two seeds, by the command line."""
    few = np.arange(N) < 400
    kinds, records = world[0][few], {name: record.at(few) for name, record in world[1].items()}
    for seed in range(2):
        for name, record in records.items():
            write_record(tmp_path / f"{seed}/records/{name}.jsonl", record.at(np.arange(400) // 200 == seed))
    done = subprocess.run([sys.executable, str(ROOT / "experiments/kinds_report.py"), "0", "1"], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = {}
    for line in done.stdout.split("## Kind by kind")[1].splitlines():
        if line.startswith("| "):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            rows.setdefault(cells[0], cells[1:])
    expected = [" / ".join(f"{100 * values[kinds == i].mean():.1f}" for i in range(6))
                for values in (records["ibpo"].extended, records["ibpo"].correct)]
    assert rows["ibpo"][:2] == expected and rows["SV-SFT"][0] == " / ".join(["100.0"] * 6)
    for heading in ("What voting is worth, kind by kind", "How many times the gain", "Adaptive self-consistency",
                    "What does it see?", "What it costs"):
        assert f"## {heading}" in done.stdout


def test_seeds_of_different_size_are_refused(world, tmp_path):
    record = world[1]["base"]
    for seed, size in enumerate((300, 100)):
        write_record(tmp_path / f"{seed}/records/base.jsonl", record.at(np.arange(N) < size))
    with pytest.raises(data.DataError, match="base: not as many problems of each level with every seed"):
        kinds_report.read([tmp_path / "0", tmp_path / "1"])


@pytest.mark.parametrize("lines, says", [
    (None, "holds no records"),
    ([{"condition": "sv", "temperature": 1.0}, {"question": "Compute 2 * 3 * 4 modulo 47.", "answer": "24", "level": 1,
      "responses": [{"text": "x", "tokens": 1, "finished": True}]}], "a base model has to be among them"),
    ([{"condition": "scot", "temperature": 1.0}, {"question": "Compute 2 * 3 * 4 modulo 47.", "answer": "24",
      "level": 1, "responses": [{"text": "\\boxed{24}", "tokens": 1, "finished": True}] * 7}], "--samples 8"),
    ([{"condition": "scot", "temperature": 1.0}, {"question": "1 + 1?", "answer": "2", "level": 1, "responses": [
        {"text": "\\boxed{2}", "tokens": 1, "finished": True}] * 8}], "not a problem of this world"),
])
def test_what_it_cannot_report_is_one_clear_line(lines, says, tmp_path, monkeypatch):
    if lines:
        (tmp_path / "records").mkdir()
        (tmp_path / "records/base.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    monkeypatch.setattr(sys, "argv", ["kinds_report.py", str(tmp_path)])
    with pytest.raises(SystemExit, match=says) as stop:
        kinds_report.main()
    assert "\n" not in str(stop.value)
