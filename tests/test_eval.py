"""Evaluation: intervals against theory, reference curves against brute force, records read back as written."""

import gc
import json
import weakref
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import linprog
from test_records import write_record

import data
import eval as evaluation
import sample
import voting
from plumbing import records, statistics

ROOT = Path(__file__).resolve().parent.parent


def means(**values) -> evaluation.Means:
    """A model with these means, as if they were exact."""
    rows = {key: np.full(1 + 1 + statistics.RESAMPLES, value) for key, value in values.items()}
    return evaluation.Means(**{**dict.fromkeys(evaluation.Means._fields), **rows})


def test_best_mixture_is_the_optimum():
    """Against a linear program over all mixtures of k = 1..8, and of ways that cost anything."""
    rng = np.random.default_rng(0)

    def optimum(costs, accuracies, budget) -> float:
        return -linprog(-accuracies, A_ub=[costs], b_ub=[budget], A_eq=[np.ones(len(costs))], b_eq=[1]).fun

    for curve in (np.array([0.5, 0.5, 0.61, 0.66, 0.7, 0.72, 0.73, 0.735]), rng.random(8), rng.random(3)):
        for trials in (1, 1.5, 2, 2.25, len(curve) - 0.1, len(curve), len(curve) + 1):
            assert evaluation.at_trials(curve, trials) == pytest.approx(
                optimum(np.arange(1, len(curve) + 1), curve, trials))
    many = np.stack([curve, curve + 0.1], axis=1)  # [k, draws], each with its own trials
    got = evaluation.at_trials(many, np.array([1.5, 2.0]))
    assert got == pytest.approx([evaluation.at_trials(curve, 1.5), evaluation.at_trials(curve + 0.1, 2.0)])
    costs, accuracies = 1 + 7 * rng.random((20, 30)), rng.random((20, 30))  # [ways, draws]
    budget = costs.min(axis=0) + 3 * rng.random(30)
    assert evaluation.best_mixture(costs, accuracies, budget) == pytest.approx(
        [optimum(*columns) for columns in zip(costs.T, accuracies.T, budget)])


def test_boundary_goes_through_both_models():
    assert evaluation.on_boundary(1.0, 0.5, 0.8, 5.0) == 0.5
    assert evaluation.on_boundary(5.0, 0.5, 0.8, 5.0) == pytest.approx(0.8)
    assert evaluation.on_boundary(2.0, 0.5, 0.8, 5.0) == pytest.approx(0.575)


def test_over_line_measures_cost_in_samples_of_the_base():
    """In trials one base sample costs 1; in tokens it costs what it costs, and the line begins there."""
    base, sv, model = (means(correct=right, tokens=tokens, trials=trials) for right, tokens, trials in (
        (0.5, 20, 1), (0.9, 100, 5), (0.8, 60, 2)))
    assert evaluation.over_line(model, base, sv, "tokens") == pytest.approx(0.8 - 0.7)  # 60: half-way from 20 to 100
    assert evaluation.over_line(model, base, sv, "trials") == pytest.approx(0.8 - 0.6)


def test_thinned_against_simulation():
    """Cutting votes back to their first trial at random: the formula against doing it."""
    rng = np.random.default_rng(0)
    n = 20000
    votes = rng.random(n) < 0.7
    trials = np.where(votes, rng.integers(3, 9, n), 1)
    first = rng.random(n) < 0.5
    right = np.where(votes, rng.random(n) < 0.8, first)
    target = 2.0
    keep_share = (target - 1) / (trials.mean() - 1)
    simulated = np.mean([np.where(rng.random(n) < keep_share, right, first).mean() for _ in range(50)])
    formula = evaluation.thinned(target, right.mean(), first.mean(), trials.mean())
    assert formula == pytest.approx(simulated, abs=0.002)
    assert evaluation.thinned(9.0, 0.8, 0.5, 4.0) == 0.8  # nothing to cut
    assert evaluation.thinned(1.0, 0.5, 0.6, 1.0) == 0.5  # nor from one that never votes


def test_a_curve_goes_on_flat_beyond_its_ends():
    assert evaluation.at_trials([0.5, 0.5, 0.6], 0.9) == 0.5 and evaluation.at_trials([0.5, 0.5, 0.6], 3.2) == 0.6


def test_what_a_record_is_made_with(tmp_path, monkeypatch):
    calls = []

    def ask(model, tokenizer, questions, condition, samples, **options):
        calls.append((condition, samples, options["temperature"], options["seed"], questions, options["top_p"]))
        return [[sample.Response([1, 2], 0.0, i % 2 == 0, "x", []) for i in range(samples)] for _ in questions]

    monkeypatch.setattr(sample, "ask", ask)
    evaluation.evaluate([ROOT / "checkpoints/base", ROOT / "checkpoints/ibpo"], "builtin", 4, 3, tmp_path, seed=5,
                        device="cpu", dtype="fp32", temperature=0.9, top_p=0.8, max_new_tokens=2, slots=8)
    problems = data.load("builtin", "test", 4, 5)
    asked = [problem.question for problem in problems]
    assert calls == [("scot", 3, 0.9, 5, asked, 0.8), ("scot", 1, 0.0, 5, asked, 0.8), ("asv", 1, 0.9, 5, asked, 0.8)]
    row = json.loads((tmp_path / "records/base.jsonl").read_text().splitlines()[1])
    assert row["responses"] == [{"text": "x", "tokens": 2, "finished": finished} for finished in (True, False, True)]
    path = tmp_path / "records/ibpo.jsonl"
    header = json.loads(path.read_text().splitlines()[0])
    assert records.is_record_of(path, header, problems)
    assert not any(records.is_record_of(path, {**header, key: "another"}, problems) for key in {*header} - {"model"})


def test_two_models_at_equal_trials():
    """Whichever of the two spends more is cut back to the other; the difference changes its sign with the order."""
    cheap, dear = (means(correct=right, first=first, trials=trials) for right, first, trials in (
        (0.7, 0.6, 2.0), (0.9, 0.5, 5.0)))
    assert evaluation.over_model(cheap, dear) == pytest.approx(-0.2)
    cut = 0.5 + 0.25 * 0.4  # a quarter of the votes is left
    assert evaluation.over_model(cheap, dear, equal_trials=True) == pytest.approx(0.7 - cut)
    assert evaluation.over_model(dear, cheap, equal_trials=True) == pytest.approx(cut - 0.7)


def test_summary_is_counted_right():
    """Random records against loops over their responses."""
    rng, n = np.random.default_rng(0), 60
    levels = rng.integers(1, 4, n)

    def made_up(name, condition, m, greedy=False):
        valid = rng.random((n, m)) > 0.1
        extended = (rng.random((n, m)) < 0.5) & valid & (condition in ("sv", "asv"))
        trials = np.where(extended, rng.integers(3, 9, (n, m)), 1 + (rng.random((n, m)) < 0.2))
        return records.Record(
            name=name, condition=condition, greedy=greedy, questions=[str(i) for i in range(n)], levels=levels,
            correct=rng.random((n, m)) < 0.6, group=extended * voting.GROUPS.index("extended"), valid=valid,
            trials=trials, tokens=trials * 20 + rng.integers(0, 9, (n, m)), first=rng.random((n, m)) < 0.4,
            answers=rng.integers(0, 3, (n, m)), consistent=rng.random((n, m)))

    models = [made_up("base", "scot", 4), made_up("base-greedy", "scot", 1, greedy=True), made_up("sv", "sv", 1),
              made_up("asv", "asv", 1), made_up("asv-2", "asv", 1)]
    summary = evaluation.summarise(evaluation.Evaluation(models))
    base, greedy = models[:2]
    for r in models:
        row, cells = summary["models"][r.name], [(i, j) for i in range(n) for j in range(r.correct.shape[1])]

        def mean(values, of=cells):
            return pytest.approx(np.mean([values[cell] for cell in of]))

        assert row["accuracy"][0] == mean(r.correct) and row["trials"][0] == mean(r.trials)
        assert row["tokens"][0] == mean(r.tokens) and row["vote_share"] == mean(r.extended)
        assert row["malformed"] == mean(r.malformed) and ("gain" in row) == (r is not base)
        assert row["rule_kept"] == mean(~r.malformed, [cell for cell in cells if r.trials[cell] > 1])
        if r is not base:
            assert row["gain"][0] == pytest.approx(r.correct.mean() - base.correct.mean())
        for level, found in row["levels"].items():
            here = [cell for cell in cells if levels[cell[0]] == level]
            votes = [cell for cell in here if r.extended[cell]]
            assert found["problems"] == (levels == level).sum() and found["accuracy"][0] == mean(r.correct, here)
            assert found["vote_share"][0] == mean(r.extended, here) and found["first_trial"][0] == mean(r.first, here)
            assert found["trials"] == mean(r.trials, here) and found["tokens"] == mean(r.tokens, here)
            for right, key in ((True, "votes_after_right"), (False, "votes_after_wrong")):
                after = [cell for cell in here if r.first[cell] == right and not r.malformed[cell]]
                assert found[key] == mean(r.extended, after)
            if r is not base:
                at_level = levels == level
                assert found["gain"][0] == pytest.approx(r.correct[at_level].mean() - base.correct[at_level].mean())
            if votes:
                assert found["trials_per_vote"] == mean(r.trials, votes)
    rows = summary["majority"]
    majority = base.consistent[:, 3].mean()
    assert rows["samples"] == 4 and rows["minus_greedy"].value == pytest.approx(majority - greedy.correct.mean())
    assert rows["minus_single"].value == pytest.approx(majority - base.correct.mean())
    for level, row in rows["minus_single_by_level"].items():
        here = levels == level
        assert row.value == pytest.approx(base.consistent[here, 3].mean() - base.correct[here].mean())
    sv, mine, other = models[2:]
    curve = base.consistent.mean(axis=0)
    assert summary["mixed_self_consistency"] == pytest.approx([evaluation.at_trials(curve, k) for k in (1, 2, 3, 4)])
    for unit in ("trials", "tokens"):
        cost, end = (getattr(r, unit).mean() / getattr(base, unit).mean() for r in (mine, sv))
        line = base.correct.mean() + (cost - 1) / (end - 1) * (sv.correct.mean() - base.correct.mean())
        found, best = summary["comparisons"]["asv"], evaluation.at_trials(curve, cost)
        assert found["boundary"][unit].value == pytest.approx(mine.correct.mean() - line)
        assert found["self_consistency"][unit]["minus"].value == pytest.approx(mine.correct.mean() - best)
        assert found["self_consistency"][unit]["gain"].value == pytest.approx(best - curve[0])
    assert found["models"]["asv-2"]["minus"].value == pytest.approx(mine.correct.mean() - other.correct.mean())
    cheap, dear = sorted((mine, other), key=lambda r: r.trials.mean())
    keep = (cheap.trials.mean() - 1) / (dear.trials.mean() - 1)
    minus, none = [summary["comparisons"][a.name]["models"][b.name]["minus_at_equal_trials"]
                   for a, b in ((cheap, dear), (dear, cheap))]
    assert none is None and minus.value == pytest.approx(
        cheap.correct.mean() - keep * dear.correct.mean() - (1 - keep) * dear.first.mean())
    assert statistics.RESAMPLES >= 1000  # fewer, and the ends of the intervals are noise


@pytest.mark.parametrize("condition", ["asv", "modes"])
@pytest.mark.slow
def test_short_votes_in_a_record(condition, tmp_path, capsys):
    """Of three groups they are one, with a column and a place in the plot; of two they are malformed."""
    solution = "7\n\\boxed{%s}"
    texts = [voting.render_regular(solution % "2"),
             voting.render_extended([solution % "2"] * 2, ["2"] * 2, voting.SHORT),
             voting.render_extended([solution % "2"] * 3, ["2"] * 3), "[TRIAL]"]
    (tmp_path / "records").mkdir()
    rows = [{"question": f"q{i}{j}", "answer": "2", "level": 1 + i, "responses": [
                {"text": texts[kind], "tokens": 10, "finished": True}]}
            for i, kinds in enumerate([(0, 0, 1, 2), (1, 1, 1, 2), (0, 2, 2, 3)]) for j, kind in enumerate(kinds)]
    write_record(tmp_path / "records" / "m.jsonl", rows, condition=condition)
    record = records.read_record(tmp_path / "records" / "m.jsonl")
    three = condition == "modes"
    assert record.in_group("short").sum() == (4 if three else 0) and record.malformed.sum() == (1 if three else 5)
    assert record.rule_kept == pytest.approx(1 if three else 4 / 8)
    summary = evaluation.report(tmp_path)
    row = summary["models"]["m"]
    assert row["shares"] == pytest.approx({"regular": 3 / 12, "short": 4 / 12 * three, "extended": 4 / 12,
                                           "malformed": (1 if three else 5) / 12})
    level = row["levels"][2]["shares"]
    assert level == pytest.approx({"regular": 0, "short": 0.75 * three, "extended": 0.25,
                                   "malformed": 0.75 * (not three)})
    printed = capsys.readouterr().out
    assert ("share of each group % by level" in printed) == (" short " in printed) == three
    if three:
        (line,) = [line.split() for line in printed.splitlines() if line.split()[:2] == ["m", "short"]]
        assert line[2:] == ["25.0", "75.0", "0.0"]
    assert (tmp_path / "groups.png").stat().st_size > 10_000


def test_a_base_model_alone(tmp_path, capsys):
    """Nobody votes: accuracy is still printed and drawn."""
    (tmp_path / "records").mkdir()
    rows = [{"question": f"q{level}", "answer": "2", "level": level,
             "responses": [{"text": "\\boxed{2}", "tokens": 3, "finished": True}] * 2} for level in (1, 2, 4)]
    write_record(tmp_path / "records" / "base.jsonl", rows, condition="scot")
    assert evaluation.report(tmp_path)["models"]["base"]["vote_share"] == 0
    assert "100.00" in capsys.readouterr().out and (tmp_path / "by_level.png").stat().st_size > 10_000


def test_no_reference_without_a_vote(tmp_path, capsys):
    """Where nobody spends more than one trial there is no line to be above, and nothing to be a multiple of."""
    (tmp_path / "records").mkdir()
    one = [voting.render_regular("\\boxed{%d}" % answer) for answer in (2, 3)]
    plain = ["\\boxed{2}", "\\boxed{3}"]
    for name, condition, texts in (("base", "scot", plain), ("sv", "sv", one), ("asv", "asv", one)):
        rows = [{"question": f"q{i}", "answer": "2", "level": 1, "responses": [
            {"text": texts[(i + j) % 2], "tokens": 3, "finished": True} for j in range(4 if name == "base" else 1)]}
            for i in range(20)]
        write_record(tmp_path / "records" / f"{name}.jsonl", rows, condition=condition)
    rows = evaluation.report(tmp_path)["comparisons"]["asv"]
    assert rows["boundary"] == {"trials": None, "tokens": None}
    assert not any(row["gain_ratio"] for row in rows["self_consistency"].values())
    assert list(rows["self_consistency"]) == ["trials", "tokens"]
    assert "nan" not in capsys.readouterr().out and "NaN" not in (tmp_path / "summary.json").read_text()


def test_usual_length(tmp_path):
    """As long as the model that was trained with the longest responses may write."""
    for name, notes in (("a", {"settings": {"max_new_tokens": 4096}}), ("b", {"settings": {}}), ("c", {})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "ibpo.json").write_text(json.dumps(notes))
    assert sample.usual_length([tmp_path / name for name in "abc"]) == 4096
    assert sample.usual_length([tmp_path / "b", tmp_path / "nowhere"]) == 300


@pytest.mark.slow
def test_a_model_is_opened_only_to_answer(tmp_path, monkeypatch, capsys):
    """What is on disk is not made again; one model at a time is in memory."""
    opened, options = [], dict(problems=3, samples=dict.fromkeys(("scot", "sv", "asv"), 1), out=tmp_path, top_p=0.9,
                               temperature=1.0, max_new_tokens=2, slots=8)
    really, alive = sample.open_checkpoint, []

    def noted(directory, *rest):
        gc.collect()
        opened.append((directory.name, sum(model() is not None for model in alive)))
        found = really(directory, *rest)
        alive.append(weakref.ref(found[0]))
        return found

    monkeypatch.setattr(sample, "open_checkpoint", noted)
    directories = [ROOT / "checkpoints/base", ROOT / "checkpoints/ibpo"]
    assert evaluation.respond(directories, "builtin", **options) == ["base", "base-greedy", "ibpo"]
    assert opened == [("base", 0), ("ibpo", 0)]
    assert evaluation.respond(directories, "builtin", **options) == ["base", "base-greedy", "ibpo"]
    assert len(opened) == 2
    headers = [json.loads((tmp_path / f"records/{name}.jsonl").open().readline()) for name in ("base-greedy", "ibpo")]
    assert [(header["temperature"], header["seed"], header["problems"]) for header in headers] == [(0, 0, 3), (1, 0, 3)]
    record = tmp_path / "records" / "ibpo.jsonl"
    record.unlink()
    evaluation.respond(directories, "builtin", **options)
    assert opened[2:] == [("ibpo", 0)]
    evaluation.respond(directories, "builtin", **{**options, "slots": 2, "cache_gib": 1.0})  # decide nothing
    assert len(opened) == 3
    header, first, *rest = record.read_text().splitlines()  # as if by an old answer key
    record.write_text("\n".join([header, json.dumps({**json.loads(first), "answer": "0"}), *rest]))
    evaluation.respond(directories, "builtin", **options)
    assert opened[3:] == [("ibpo", 0)] and record.read_text().splitlines()[1] == first
    record.write_text(header[:30])
    evaluation.respond(directories, "builtin", **options)
    assert opened[4:] == [("ibpo", 0)] and record.read_text().splitlines()[1] == first
    assert "100% of the responses of ibpo were cut off" in capsys.readouterr().out  # max_new_tokens is 2


def test_the_validation_split_is_for_choices(tmp_path, monkeypatch, capsys):
    """Other problems than those of the test split, and none of them is mistaken for one of the test."""
    monkeypatch.setattr(sample, "ask", lambda model, tokenizer, questions, *_, **options: [
        [sample.Response([1], 0.0, True, "1", [])] for _ in questions])
    options = ["--problems", "30", "--samples", "1", "--out", str(tmp_path)]
    asked = {}
    for split in ("test", "validation"):
        evaluation.main([str(ROOT / "checkpoints/ibpo"), *options, "--split", split])
        header, *rows = map(json.loads, (tmp_path / "records/ibpo.jsonl").read_text().splitlines())
        asked[split] = {row["question"] for row in rows}
        assert header["split"] == split
        assert asked[split] == {problem.question for problem in data.load("builtin", split, 30, 0)}
    assert not asked["test"] & asked["validation"]
    with pytest.raises(SystemExit, match="^error: --split .*--data"):
        evaluation.main([str(ROOT / "checkpoints/ibpo"), *options, "--split", "validation", "--data", "some.jsonl"])


def test_abbreviated_options_are_refused(capsys):
    with pytest.raises(SystemExit):
        evaluation.main(["--problem", "3"])
    assert "unrecognized arguments: --problem" in capsys.readouterr().err


def test_one_problem_tells_nothing(tmp_path, capsys):
    """Nor do five that are all right: the interval is Wilson's, and nothing is above or below."""
    (tmp_path / "records").mkdir()
    for name, condition, text in (("base", "scot", "\\boxed{3}"), ("m", "asv", voting.render_regular("\\boxed{2}")),
                                  ("n", "asv", voting.render_regular("\\boxed{3}"))):
        rows = [{"question": "q", "answer": "2", "level": 1,
                 "responses": [{"text": text, "tokens": 3, "finished": True}] * (2 if name == "base" else 1)}]
        write_record(tmp_path / "records" / f"{name}.jsonl", rows, condition=condition)
    summary = evaluation.report(tmp_path)
    value, low, high = summary["models"]["m"]["accuracy"]
    assert value == high == 1 and low == pytest.approx(0.2065, abs=1e-3)  # Wilson, 1 of 1
    assert summary["models"]["m"]["gain"].low < 0 < summary["models"]["m"]["gain"].value
    printed = capsys.readouterr().out
    assert "too few problems" in printed and "  above" not in printed and "  below" not in printed


def test_one_vote_in_twenty(tmp_path, capsys):
    """Some resamples have no vote, and then there is no line: the comparison is left out."""
    (tmp_path / "records").mkdir()
    vote, one = voting.render_extended(["\\boxed{2}"] * 3, ["2"] * 3), voting.render_regular("\\boxed{3}")
    plain = ["\\boxed{2}", "\\boxed{3}"]
    for name, condition, texts in (("base", "scot", plain * 10), ("sv", "sv", [vote] + [one] * 19),
                                   ("m", "asv", [vote] * 5 + [one] * 15)):
        rows = [{"question": f"q{i}", "answer": "2", "level": 1,
                 "responses": [{"text": text, "tokens": 3, "finished": True}]} for i, text in enumerate(texts)]
        write_record(tmp_path / "records" / f"{name}.jsonl", rows, condition=condition)
    assert evaluation.report(tmp_path)["comparisons"]["m"]["boundary"] == {"trials": None, "tokens": None}
    assert "nan" not in capsys.readouterr().out and "NaN" not in (tmp_path / "summary.json").read_text()


@pytest.mark.parametrize("arguments, says", [
    (["checkpoints/ibpo", "other/ibpo"], "two models are called ibpo"),
    (["checkpoints/base", "base-greedy"], "two models are called base-greedy"),
    (["--show", "-1"], "--show"), (["--slots", "0"], "--slots"), (["--cache-gib", "nan"], "--cache-gib"),
    (["checkpoints/ibpo", "--redraw", "somewhere"], "--redraw"),
    (["checkpoints/ibpo", "--problems", "1", "--out", "file"], "file"),
])
def test_bad_input_is_one_clear_line_before_anything_is_answered(arguments, says, tmp_path, monkeypatch):
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
    (tmp_path / "other").symlink_to(ROOT / "checkpoints")
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(records.sample, "ask", lambda *_, **options: [[sample.Response([1], 0.0, True, "1", [])]])
    with pytest.raises(SystemExit) as stop:
        evaluation.main(arguments)
    assert str(stop.value).startswith("error: ") and says in str(stop.value) and "\n" not in str(stop.value)


def test_rule_kept_by_nobody_is_shown(tmp_path, capsys):
    (tmp_path / "records").mkdir()
    early = voting.render_extended(["7\n\\boxed{2}"] * 2, ["2"] * 2)  # a vote that stops after two trials
    rows = [{"question": f"q{i}", "answer": "2", "level": 1,
             "responses": [{"text": early, "tokens": 10, "finished": True}]} for i in range(3)]
    write_record(tmp_path / "records" / "m.jsonl", rows)
    evaluation.report(tmp_path)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("m  ") and "±" in line]
    assert line.split()[-2:] == ["100.00%", "0.0%"]


def test_report_refuses_models_with_different_problems(tmp_path):
    (tmp_path / "records").mkdir()
    for name, question in (("a", "q1"), ("b", "q2")):
        row = {"question": question, "answer": "2", "level": 1,
               "responses": [{"text": "\\boxed{2}", "tokens": 3, "finished": True}]}
        write_record(tmp_path / "records" / f"{name}.jsonl", [row], condition="scot")
    with pytest.raises(data.DataError, match="other problems than a; evaluate both with the same .* delete .*b.jsonl"):
        evaluation.report(tmp_path)


def test_the_share_of_the_gain_is_printed(tmp_path, capsys):
    (tmp_path / "records").mkdir()
    vote = voting.render_extended(["\\boxed{2}"] * 3, ["2"] * 3)
    right, wrong = (voting.render_regular("\\boxed{%d}" % answer) for answer in (2, 3))
    for name, condition, texts in (("base", "scot", ["\\boxed{2}", "\\boxed{3}"] * 20), ("sv", "sv", [vote] * 40),
                                   ("m", "asv", [right, vote, right, wrong] * 10)):
        rows = [{"question": f"q{i}", "answer": "2", "level": 1,
                 "responses": [{"text": text, "tokens": 3, "finished": True}]} for i, text in enumerate(texts)]
        write_record(tmp_path / "records" / f"{name}.jsonl", rows, condition=condition)
    evaluation.report(tmp_path)
    assert "50% of the gain of sv for 25% of its additional trials" in capsys.readouterr().out
