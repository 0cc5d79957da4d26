"""experiments/report.py: made-up responses of two seeds, and every table against direct counting.

    pytest tests/test_report.py
"""

import gzip
import json
import random
import re
import shutil
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import linprog

import data
import voting
from experiments import oracles, reproduce, tables
from experiments.chapter import chapter
from plumbing import plots, records, statistics
from plumbing.statistics import number

ROOT = Path(__file__).resolve().parent.parent
PROBLEMS, ORACLE_PROBLEMS, SEEDS = 100, 40, 2
KINDS = {47: "easy", 43: "medium", 41: "hard", 37: "trap", 29: "misread", 61: "hopeless"}  # by modulus
RIGHT = {"easy": 0.95, "medium": 0.7, "hard": 0.6, "trap": 0.4, "misread": 0.1, "hopeless": 0.05}  # a trial's chance
TRAINED = [name for name in reproduce.MODELS
           if not name.startswith(("base", "sv-sft", "asv-sft"))]  # by Algorithm 1
VOTES = {"ibpo-25": 0.25, "ibpo-50": 0.5, "ibpo-10": 0.1, "ibpo-25-give-up": 0.25, "ibpo-50-give-up": 0.5}


def problems_of(seed: int, n: int) -> list[tuple[str, int, str]]:
    """Question, level and kind of a seed's problems; the kind is read off the end of the question."""
    found = data.load("builtin", "test", n, seed=seed)
    return [(p.question, p.level, KINDS[int(p.question.split("modulo ")[1].rstrip("."))]) for p in found]


def respond(name: str, kind: str, rng: random.Random) -> tuple[str, list[str]]:
    """A response as this model might give it, and the answers of its trials. The right answer is 7."""
    def trial() -> str:
        chance = RIGHT[kind] + (0.04 if name.startswith("ibpo") else 0)
        return "7" if rng.random() < chance else rng.choice(["1", "2", "2", "3"])

    if name.startswith("base"):
        answer = trial()
        return f"\\boxed{{{answer}}}", [answer]
    share = 1 if name == "sv-sft" else VOTES.get(name, 0.5) + 0.3 * (kind in ("medium", "hard"))
    share *= 0.1 if "give-up" in name and kind == "hopeless" else 1
    answers = [trial()]
    if rng.random() >= share:
        return voting.render_regular(f"\\boxed{{{answers[0]}}}"), answers
    while voting.trials_needed(answers) is None:
        answers.append(trial())
    if rng.random() < 0.02:  # goes on after its consensus: malformed
        answers.append(trial())
    return voting.render_extended([f"\\boxed{{{answer}}}" for answer in answers], answers), answers


def write_runs(runs: Path, problems=PROBLEMS, oracle_problems=ORACLE_PROBLEMS, seeds=SEEDS) -> dict:
    """Records and logs of all models and seeds; returns the answers: {(kind, seed, model): [n][m] lists}."""
    truth = {}
    for seed in range(seeds):
        for kind, models, n in (("eval", reproduce.MODELS, problems),
                                ("oracle", tables.ORACLE_MODELS, oracle_problems)):
            for name in models:
                rng = random.Random(f"{kind} {seed} {name}")
                condition = {"base": "scot", "base-greedy": "scot", "sv-sft": "sv"}.get(name, "asv")
                m = 16 if kind == "oracle" else 8 if name == "base" else 1
                lines, answers = [{"condition": condition, "temperature": float(name != "base-greedy")}], []
                for question, level, of in problems_of(seed, n):
                    made = [respond(name, of, rng) for _ in range(m)]
                    answers.append([given for _, given in made])
                    lines.append({"question": question, "answer": "7", "level": level, "responses": [
                        {"text": text, "tokens": 20 * len(given) + rng.randrange(9), "finished": True}
                        for text, given in made]})
                path = runs / f"seed-{seed}" / kind / "records" / f"{name}.jsonl"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("\n".join(map(json.dumps, lines)) + "\n")
                truth[kind, seed, name] = answers
        for name in TRAINED:
            rng = random.Random(f"log {seed} {name}")
            goal = VOTES.get(name, 0.5)
            log = [{"step": step, "vote_share": 0.7 + (goal - 0.7) * min(step / 20, 1) + rng.uniform(-0.05, 0.05),
                    "accepted_vote_share": goal * (1 if step > 30 else 0.8) - rng.random() * 0.02,
                    "accuracy": 0.7 + rng.random() / 10, "trials": 3 - goal, "seconds_sampling": 7 + rng.random(),
                    "seconds_learning": 1 + rng.random(), "seconds_solving": 0.001} for step in range(50)]
            folder = runs / f"seed-{seed}" / name
            folder.mkdir()
            (folder / "log.jsonl").write_text("\n".join(map(json.dumps, log)) + "\n")
    return truth


def keep_runs(runs: Path, kept: Path) -> None:
    """All that write_runs wrote, as reproduce.py keeps it."""
    for path in runs.glob("seed-*/*/records/*.jsonl"):
        records.keep_record(path, kept / path.parts[-4] / path.parts[-3] / f"{path.stem}.npz")
    for path in runs.glob("seed-*/*/log.jsonl"):
        reproduce.keep_log(path, kept / path.parts[-3] / "logs" / f"{path.parts[-2]}.jsonl.gz")


def outcome(answers: list[str]) -> tuple[bool, int, bool]:
    """(right, trials, votes) of one response, from the rule alone."""
    needed = voting.trials_needed(answers)
    if len(answers) == 1:
        return answers == ["7"], 1, False
    return len(answers) == needed and voting.plurality(answers)[0] == "7", len(answers), len(answers) == needed


pytestmark = pytest.mark.slow  # all of them share a report that takes a while to make


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def made(runs, tmp_path_factory):
    """The folder of a report, the answers behind it, and results.json. It is made from the kept records alone."""
    folder, truth = tmp_path_factory.mktemp("made"), write_runs(runs)
    keep_runs(runs, folder / "results/records")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # where no runs/ is, as for someone who clones results/
        patch.setattr(statistics, "RESAMPLES", 300)
        reproduce.main(["--report", "--seeds", str(SEEDS)])
    return folder, truth, json.loads((folder / "results/results.json").read_text())


@pytest.fixture
def copy(made, tmp_path, monkeypatch):
    """A copy of the kept records."""
    shutil.copytree(made[0] / "results/records", tmp_path / "results/records")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(statistics, "RESAMPLES", 300)
    monkeypatch.setattr(plots.plt.Figure, "savefig", lambda _, path: path.write_text("a figure"))  # `made` draws them
    return tmp_path


def counted(truth, name: str) -> np.ndarray:
    """(right, trials, votes) of a model's test responses, a seed after the other: float[seeds * n, 3]."""
    return np.array([np.mean([outcome(given) for given in row], axis=0)
                     for seed in range(SEEDS) for row in truth["eval", seed, name]])


def at_equal_trials(truth, name: str, other: str, seeds=range(SEEDS)) -> float:
    """Accuracy minus the other's, after votes of the one that spends more are cut back to their first trial."""
    rows = {each: [given for seed in seeds for (given,) in truth["eval", seed, each]] for each in (name, other)}
    mean = {each: np.mean([outcome(given) for given in rows[each]], axis=0) for each in rows}
    trials, found = min(mean[name][1], mean[other][1]), []
    for each in rows:
        keep = (trials - 1) / (mean[each][1] - 1)
        found.append(keep * mean[each][0] + (1 - keep) * np.mean([given[0] == "7" for given in rows[each]]))
    return found[0] - found[1]


def tables_of(markdown: str, title: str) -> list[list[list[str]]]:
    """The cells of all tables under a heading, without their heads."""
    parts = markdown.split(f"## {title}\n")[1].split("\n## ")[0].split("\n\n")
    found = [[[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines()[2:]
              if line.startswith("|")] for part in parts if part.startswith("|")]
    assert all(len({len(row) for row in rows}) == 1 for rows in found)
    return found


def rows_of(markdown: str, title: str) -> dict[str, list[str]]:
    """The cells of the table under a heading, by the first cell."""
    lines = markdown.split(f"## {title}\n")[1].split("\n## ")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert len({len(row) for row in cells}) == 1
    return {row[0]: row[1:] for row in cells[2:]}


def test_every_model_is_counted_right(made):
    (_, truth, result), (_, levels) = made, kinds_and_levels()
    assert result["seeds"] == [0, 1] and result["missing"] == [] and result["problems"] == SEEDS * PROBLEMS
    assert set(result["models"]) == {*reproduce.MODELS, "adaptive-sc"}
    for name in reproduce.MODELS:
        row, direct = result["models"][name], counted(truth, name)
        for column, key in enumerate(("accuracy", "trials")):
            value, low, high = row[key]
            assert value == pytest.approx(direct[:, column].mean()) and low - 1e-9 <= value <= high + 1e-9
        assert row["vote_share"] == pytest.approx(direct[:, 2].mean())
        for seed in range(SEEDS):
            part = direct[seed * PROBLEMS : (seed + 1) * PROBLEMS].mean(axis=0)
            assert [row["by_seed"][key][seed] for key in ("accuracy", "trials", "vote_share")] == pytest.approx(part)
        parts = [(row["accuracy"], direct[:, 0])] + [
            (found["accuracy"], direct[levels == int(level), 0]) for level, found in row["levels"].items()]
        for (value, low, high), column in parts:  # at least Student's interval of two seeds
            a, b = column.reshape(SEEDS, -1).mean(axis=1)
            half = statistics.T[0] * abs(a - b) / 2
            assert high - low >= min(value + half, 1) - max(value - half, 0) - 1e-9


def test_differences_are_counted_right(made):
    _, truth, result = made
    mean = {name: counted(truth, name).mean(axis=0) for name in reproduce.MODELS}
    for name, other, _ in tables.LADDER[1:-1]:
        assert result["ladder"][name][0] == pytest.approx(mean[name][0] - mean[other][0])

    (base, *_), (sv, sv_trials, _) = mean["base"], mean["sv-sft"]
    for cap in tables.CAPS:
        right, trials, _ = mean[f"ibpo-{cap}"]
        line = np.interp(trials, [1, sv_trials], [base, sv])
        assert result["comparisons"][f"ibpo-{cap}"]["boundary"]["trials"][0] == pytest.approx(right - line)
        assert result["minus_start"][f"ibpo-{cap}"][0] == pytest.approx(
            at_equal_trials(truth, f"ibpo-{cap}", "asv-sft"))
    for name in ("ibpo-25", "ibpo-50", "ibpo-25-give-up", "ibpo-50-give-up"):
        other = f"random-{name.split('-')[1]}"
        assert result["minus_random_at_equal_trials"][name][0] == pytest.approx(
            at_equal_trials(truth, name, other))
    assert result["minus_next_cap"]["ibpo-25"][0] == pytest.approx(at_equal_trials(truth, "ibpo-25", "ibpo-50"))
    assert result["minus_paper_rule"]["ibpo-50-give-up"][0] == pytest.approx(
        at_equal_trials(truth, "ibpo-50-give-up", "ibpo-50"))


def kinds_and_levels() -> tuple[np.ndarray, np.ndarray]:
    """Of all test problems, a seed after the other."""
    rows = [row for seed in range(SEEDS) for row in problems_of(seed, PROBLEMS)]
    return np.array([kind for *_, kind in rows]), np.array([level for _, level, _ in rows])


def test_kinds_are_counted_right(made):
    folder, truth, result = made
    kinds, levels = kinds_and_levels()
    for name in ("base", "sv-sft", "asv-sft", "ibpo-50", "ibpo-25-give-up", "cgpo"):
        right, trials, votes = counted(truth, name).T
        rows = [row for seed in range(SEEDS) for row in truth["eval", seed, name]]
        first = np.array([np.mean([given[0] == "7" for given in row]) for row in rows])
        found = result["models"][name]["kinds"]
        assert list(found) == list(KINDS.values())
        for kind, row in found.items():
            at = kinds == kind
            assert row["problems"] == at.sum()
            for key, column in (("accuracy", right), ("trials", trials), ("vote_share", votes), ("first_trial", first)):
                value, low, high = row[key]
                assert value == pytest.approx(column[at].mean()) and low - 1e-9 <= value <= high + 1e-9
            assert row["votes_by_level"] == {str(level): pytest.approx(votes[at & (levels == level)].mean())
                                             for level in range(1, 6) if (at & (levels == level)).any()}
    samples = [[given for (given,) in row] for seed in range(SEEDS) for row in truth["eval", seed, "base"]]
    rotations = np.array([[voting.plurality(row[i:] + row[:i])[0] == "7" for i in range(8)] for row in samples])
    counts = np.array([row.count("7") for row in samples])
    for kind in KINDS.values():
        assert result["models"]["base"]["kinds"][kind]["plurality"][0] == pytest.approx(rotations[kinds == kind].mean())
        assert result["pass_rates"][kind] == pytest.approx([((counts == k) & (kinds == kind)).mean() for k in range(9)])
    world, rates = tables_of((folder / "results/results.md").read_text(), "What voting is worth, kind by kind")
    base, sv = (counted(truth, name)[kinds == "hard"].mean(axis=0) for name in ("base", "sv-sft"))
    row = {row[0]: row[1:] for row in world}["hard"]
    assert row[0] == f"{100 * (kinds == 'hard').mean():.1f}" and row[1].startswith(f"{100 * base[0]:.1f} [")
    assert row[-1] == f"{100 * (sv[0] - base[0]) / (sv[1] - 1):.1f}"
    assert rates[0] == ["all", *(f"{100 * (counts == k).mean():.1f}" for k in range(9))]


def test_what_a_model_sees_is_counted_right(made):
    """Votes after wrong minus after right first trials, group by group, weighed by hand."""
    _, truth, result = made
    kinds, levels = kinds_and_levels()
    for name in ("ibpo-50", "ibpo-50-give-up"):
        given = [row[0] for seed in range(SEEDS) for row in truth["eval", seed, name]]
        votes, first = np.array([outcome(row)[2] for row in given]), np.array([row[0] == "7" for row in given])
        formed = np.array([len(row) == 1 or outcome(row)[2] for row in given])
        for key, groups in ("level", levels), ("kind", [f"{kind} {level}" for kind, level in zip(kinds, levels)]):
            gaps, weights = [], []
            for group in np.unique(groups):
                at = (np.array(groups) == group) & formed
                wrong, right = votes[at & ~first], votes[at & first]
                if len(wrong) and len(right):
                    gaps.append(wrong.mean() - right.mean())
                    weights.append(1 / (1 / len(wrong) + 1 / len(right)))
            assert result["models"][name]["sees"][key][0] == pytest.approx(np.average(gaps, weights=weights))
        for kind in KINDS.values():
            for key, of in ("votes_after_right", first), ("votes_after_wrong", ~first):
                chosen = votes[(kinds == kind) & of & formed]
                assert result["models"][name]["kinds"][kind][key] == (
                    pytest.approx(chosen.mean()) if len(chosen) else None)
        rate, halves = counted(truth, "base")[:, 0], {True: [], False: []}
        for group in np.unique(groups):
            at = np.array(groups) == group
            for i in np.flatnonzero(at & formed):
                halves[bool(rate[i] < rate[at].mean())].append(votes[i] - votes[at & formed].mean())
        harder = np.mean(halves[True]) - np.mean(halves[False])
        assert result["models"][name]["sees"]["harder"][0] == pytest.approx(harder)
        assert result["models"][name]["first_minus_base"][0] == pytest.approx(first.mean() - rate.mean())


def test_accepted_votes_are_those_of_the_last_ten_steps(made, runs):
    _, _, result = made
    for name in TRAINED:
        logs = [(runs / f"seed-{seed}/{name}/log.jsonl").read_text() for seed in range(SEEDS)]
        last = [json.loads(line)["accepted_vote_share"] for log in logs for line in log.splitlines()[40:]]
        assert result["models"][name]["accepted_vote_share"] == pytest.approx(np.mean(last))


def adaptive_outcomes(truth, consensus: int, most: int) -> tuple[float, float]:
    """Accuracy and trials of a rule with the base's samples, each of which comes first once."""
    found = []
    for seed in range(SEEDS):
        for row in truth["eval", seed, "base"]:
            for start in range(8):
                answers = [given for (given,) in row[start:] + row[:start]]
                needed = voting.trials_needed(answers, voting.Rule(consensus, most))
                found.append((voting.plurality(answers[:needed])[0] == "7", needed))
    return tuple(np.mean(found, axis=0))


def test_adaptive_self_consistency_is_counted_right(made):
    _, truth, result = made
    right, trials = adaptive_outcomes(truth, 3, 8)
    row = result["models"]["adaptive-sc"]
    assert (row["accuracy"][0], row["trials"][0]) == pytest.approx((right, trials))
    assert row["tokens"][0] == pytest.approx(24 * trials, abs=1.5)  # 20 to 28 each
    single = counted(truth, "base")[:, 0].mean()
    rules = [(1, single), *((cost, accuracy) for consensus in (2, 3, 4) for most in range(consensus, 9)
                            for accuracy, cost in [adaptive_outcomes(truth, consensus, most)])]
    costs, accuracies = np.array(rules).T
    for cap in tables.CAPS:
        own, own_trials, _ = counted(truth, f"ibpo-{cap}").mean(axis=0)
        found = result["models"][f"ibpo-{cap}"]["minus_adaptive"]["trials"]
        best = -linprog(-accuracies, A_ub=[costs], b_ub=[own_trials], A_eq=[np.ones(len(costs))], b_eq=[1]).fun
        assert found[0] == pytest.approx(own - best)
    for corner in result["adaptive"]["corners"]["trials"][1:]:
        outcome = adaptive_outcomes(truth, corner["consensus"], corner["max_trials"])
        assert (corner["accuracy"], corner["trials"]) == pytest.approx(outcome)
    assert result["ladder"]["adaptive-sc"][0] == pytest.approx(right - counted(truth, "ibpo-50")[:, 0].mean())
    pairs = [(row[j][0], row[(j + 1) % 8][0]) for seed in range(SEEDS) for row in truth["eval", seed, "base"]
             for j in range(8)]
    equal = [a for a, b in pairs if a == b]
    row = result["adaptive"]["agreement"][1]
    assert row["agree"][0] == pytest.approx(len(equal) / len(pairs))
    assert row["wrong"][0] == pytest.approx(np.mean([answer != "7" for answer in equal]))


@pytest.mark.parametrize("kind", ["group", "blind", "seeing"])
def test_oracles_are_counted_right(made, kind):
    """One problem after the other, the best ratio of gain to trials first; only problems of a group tie."""
    _, truth, result = made
    samples = {name: np.array([[outcome(given) for given in row] for seed in range(SEEDS)
                               for row in truth["oracle", seed, name]], float) for name in ("base", "sv-sft")}
    first = np.array([[given[0] == "7" for given in row] for seed in range(SEEDS)
                      for row in truth["oracle", seed, "sv-sft" if kind == "seeing" else "base"]])
    groups = [10 * level + list(KINDS.values()).index(of) for seed in range(SEEDS)
              for _, level, of in problems_of(seed, ORACLE_PROBLEMS)]
    groups = np.array(groups)
    vote, trials = samples["sv-sft"][:, :, 0] > 0, samples["sv-sft"][:, :, 1]
    base, sv = samples["base"][:, :, 0].mean(), samples["sv-sft"].mean(axis=(0, 1))

    def choices(half, **options):
        oracle = oracles.seeing if kind == "seeing" else oracles.blind
        return oracle(first[:, half::2], vote[:, half::2], trials[:, half::2], **options)

    for name in tables.BUDGETED:
        budget, found, n = counted(truth, name)[:, 1].mean(), np.zeros(2), len(groups)
        drawn = np.zeros(2)  # of problems that tie where the budget ends some are drawn: what that may change
        for mine, other in ((0, 1), (1, 0)):
            known, unseen = choices(mine, groups=None if kind == "group" else groups), choices(other)
            gain, extra = known.go_on - known.stop, known.go_on_trials - 1  # float[n] each
            if kind == "group":
                gain, extra = (np.array([x[groups == group].mean() for group in groups]) for x in (gain, extra))
            left, share = (budget - 1) * n, np.zeros(n)
            for ratio in sorted({-g / max(e, 1e-12) for g, e in zip(gain, extra) if g > 0}):
                tied = np.isclose(-gain / np.maximum(extra, 1e-12), ratio) & (share == 0) & (gain > 0)
                share[tied] = min(1, left / max(extra[tied].sum(), 1e-12))
                left -= (share * extra)[tied].sum()
            cut = (share > 0) & (share < 1)
            for column, (stop, go_on) in enumerate((unseen[::2], unseen[1::2])):
                found[column] += (stop + share * (go_on - stop)).mean() / 2
                if cut.any():
                    drawn[column] += abs(go_on - stop - (go_on - stop)[cut].mean())[cut].sum() / n / 2
        row = result["oracles"][name]
        right, spent, _ = counted(truth, name).mean(axis=0)
        (mine, *_), (theirs, cost, _) = counted(truth, "base").mean(axis=0), counted(truth, "sv-sft").mean(axis=0)
        height = right - mine - (spent - 1) / (cost - 1) * (theirs - mine)
        assert row["trials"] == pytest.approx(budget) and row["height"][0] == pytest.approx(height)
        assert row[kind]["trials"] == pytest.approx(found[1], abs=drawn[1] + 1e-9)
        best = found[0] - base - (max(found[1], budget) - 1) / (sv[1] - 1) * (sv[0] - base)
        slope = (sv[0] - base) / (sv[1] - 1)
        assert row[kind]["height"][0] == pytest.approx(best, abs=drawn[0] + drawn[1] * abs(slope) + 1e-9)
        if row[kind]["share"]:
            assert row[kind]["share"][0] == pytest.approx(row["height"][0] / row[kind]["height"][0])


def test_heights_are_counted_right(made):
    """Group by group, from the answers: on which levels and kinds it votes, and the rest; all add up to the height."""
    _, truth, result = made
    kinds, levels = kinds_and_levels()
    direct = {name: counted(truth, name) for name in ("base", "sv-sft", *tables.HEIGHTS)}
    for name in tables.HEIGHTS:
        parts, on_lines = result["height_parts"][name]["trials"], {}
        for by, groups in ("level", levels), ("kind", np.array([f"{kind} {of}" for kind, of in zip(kinds, levels)])):
            on_lines[by] = 0
            for group in np.unique(groups):
                (base, *_), (sv, sv_trials, _), (_, trials, _) = (
                    direct[each][groups == group].mean(axis=0) for each in ("base", "sv-sft", name))
                line = base + (trials - 1) / (sv_trials - 1) * (sv - base)
                on_lines[by] += line * (groups == group).mean()
        assert parts["rest"][0] == pytest.approx(direct[name][:, 0].mean() - on_lines["kind"])
        assert parts["kinds"][0] == pytest.approx(on_lines["kind"] - on_lines["level"])
        assert sum(parts[part][0] for part in ("levels", "kinds", "rest")) == pytest.approx(parts["height"][0])
        assert parts["height"] == result["comparisons"][name]["boundary"]["trials"]


def test_tables_say_what_the_numbers_are(made):
    folder, truth, result = made
    markdown = (folder / "results/results.md").read_text()
    table_3 = rows_of(markdown, "Table 3")
    assert list(table_3) == ["base", "base, greedy", "SV-SFT", "ASV-SFT", "ASV-SFT-2", "IuB-10 %", "IuB-25 %",
                             "IuB-50 %", "IuB-25 %, giving up", "IuB-50 %, giving up"]
    assert table_3["IuB-25 %"][-3:] == ["54.2", "2.94", "2.24"] and "another model and other data" in markdown
    for name, row in table_3.items():
        right, trials, _ = counted(truth, {text: key for key, text in tables.NAMES.items()}[name]).mean(axis=0)
        assert row[0] == "2" and row[1].startswith(f"{100 * right:.1f} [") and row[2].startswith(f"{trials:.2f} [")
    caps = rows_of(markdown, "Each cap against its references")
    for cap in tables.CAPS:
        votes = 100 * counted(truth, f"ibpo-{cap}")[:, 2].mean()
        row = caps[f"IuB-{cap} %"]
        assert row[2] == f"{votes:.1f}" and cap - 2 <= float(row[1]) <= cap
    assert caps["IuB-50 %"][-2:] == ["", ""] and caps["IuB-25 %"][-2].endswith("]")
    assert caps["IuB-50 %, giving up"][-2] == "" and caps["IuB-50 %, giving up"][-1].endswith("]")
    ladder = rows_of(markdown, "The ladder")
    assert list(ladder) == [tables.NAMES[name] for name, *_ in tables.LADDER]
    assert ladder["margin, no cap"][-1].endswith("(CGPO)") and ladder["ASV-SFT"][-1] == ""
    budgeted = [tables.NAMES[name] for name in tables.BUDGETED]
    gains = rows_of(markdown, "How many times the gain of the references?")
    assert {*budgeted, "ASV-SFT", "CGPO"} <= {*gains}
    mine, base = (counted(truth, name)[:, 0].mean() for name in ("ibpo-50", "base"))
    assert gains["IuB-50 %"][0].startswith(f"{100 * (mine - base):.1f} [")
    assert list(rows_of(markdown, "What the height over the boundary is made of")) == [
        "ASV-SFT", *budgeted, "random groups, 50 %"]
    first, rules, agreement = tables_of(markdown, "Adaptive self-consistency")
    assert {*budgeted, "ASV-SFT", "CGPO"} <= {row[0] for row in first}
    assert rules[0][:3:2] == ["1", f"{100 * counted(truth, 'base')[:, 0].mean():.1f}"]
    assert [row[0] for row in agreement] == ["1", "2", "3", "4"]
    assert list(rows_of(markdown, "Oracles")) == budgeted
    assert list(rows_of(markdown, "Seed by seed")) == [tables.NAMES[n] for n in (*reproduce.MODELS, "adaptive-sc")]
    levels = np.tile(1 + np.arange(PROBLEMS) % 5, SEEDS)
    right, trials, votes = counted(truth, "ibpo-50").T
    cells = [" / ".join(f"{100 * column[levels == level].mean():.1f}" for level in range(1, 6))
             for column in (votes, right)]
    assert rows_of(markdown, "Level by level")["IuB-50 %"][:3:2] == cells
    kinds, _ = kinds_and_levels()
    cells = [" / ".join(f"{scale * column[kinds == kind].mean():.{digits}f}" for kind in KINDS.values())
             for column, scale, digits in ((votes, 100, 1), (right, 100, 1), (trials, 1, 2))]
    of_kinds, by_level = tables_of(markdown, "Kind by kind")
    row = {row[0]: row[1:] for row in of_kinds}["IuB-50 %"]
    assert row[:2] + row[3:] == cells and row[2].count(" / ") == 5
    assert {row[0]: row[1:] for row in by_level}["IuB-50 %"][0] == " / ".join(
        f"{100 * votes[(kinds == 'easy') & (levels == level)].mean():.0f}" for level in range(1, 6))
    sees, values = rows_of(markdown, "What does it see?")["IuB-50 %"], result["models"]["ibpo-50"]
    assert sees[2].startswith(f"{100 * values['sees']['kind'][0]:.1f} [")
    assert sees[3].startswith(f"{100 * values['sees']['level'][0]:.1f} [")
    assert sees[0] == " / ".join(f"{100 * row['votes_after_right']:.1f}" for row in values["kinds"].values())
    cost = rows_of(markdown, "What it costs")["IuB-50 %"]
    assert cost[0].startswith(f"{100 * values['first_minus_base'][0]:.1f} [")
    malformed = np.mean([len(given) > 1 and not outcome(given)[2] for seed in range(SEEDS)
                         for (given,) in truth["eval", seed, "ibpo-50"]])
    assert cost[1] == f"{100 * malformed:.2f}"
    per_vote = [trials[(levels == level) & (votes > 0)] for level in range(1, 6)]
    assert rows_of(markdown, "Level by level")["IuB-50 %"][3] == " / ".join(
        f"{column.mean() if len(column) else 0:.2f}" for column in per_vote)
    assert "**Missing**" not in markdown
    for figure in tables.FIGURES:
        assert (folder / f"results/{figure}.png").stat().st_size > 20_000
    size = sum(path.stat().st_size for path in (folder / "results").rglob("*.*") if path.suffix in (".npz", ".gz"))
    assert size < 2e6


def results_in(folder: Path) -> tuple[dict, str]:
    return json.loads((folder / "results/results.json").read_text()), (folder / "results/results.md").read_text()


def test_a_row_is_made_of_the_seeds_that_have_it(made, copy):
    records, truth = copy / "results/records", made[1]
    (records / "seed-1/eval/grpo.npz").unlink()
    (records / "seed-0/eval/random-25.npz").unlink()
    reproduce.main(["--report"])  # of three seeds
    result, markdown = results_in(copy)
    assert result["seeds"] == [0, 1]
    assert result["missing"] == ["seed 0: random-25", "seed 1: grpo", "seed 2: everything"]
    assert "**Missing**\n\n* seed 0: random-25\n* seed 1: grpo\n* seed 2: everything\n" in markdown
    assert list(result["models"]) == [*reproduce.MODELS, "adaptive-sc"]
    untouched = [name for name in reproduce.MODELS if name not in ("grpo", "random-25")]
    assert all(result["models"][name] == made[2]["models"][name] for name in untouched)
    first = slice(0, PROBLEMS)
    grpo, ibpo, base, sv = (counted(truth, name)[first].mean(axis=0) for name in ("grpo", "ibpo-50", "base", "sv-sft"))
    row = result["models"]["grpo"]
    assert row["seeds"] == 1 and row["accuracy"][0] == pytest.approx(grpo[0])
    assert row["by_seed"]["accuracy"] == [pytest.approx(grpo[0]), None]
    assert result["ladder"]["grpo"][0] == pytest.approx(grpo[0] - ibpo[0])  # of the same seed
    line = np.interp(grpo[1], [1, sv[1]], [base[0], sv[0]])
    assert result["comparisons"]["grpo"]["boundary"]["trials"][0] == pytest.approx(grpo[0] - line)
    assert result["minus_random_at_equal_trials"]["ibpo-25"][0] == pytest.approx(
        at_equal_trials(truth, "ibpo-25", "random-25", [1]))
    ladder, page = rows_of(markdown, "The ladder"), (copy / "results/README.md").read_text()
    assert ladder["GRPO"][1] == "1" and ladder["CGPO"][1] == "2"
    assert "| GRPO (1 of 2 seeds) |" in page and "| CGPO |" in page
    assert rows_of(markdown, "Seed by seed")["GRPO"][0].endswith("/ –")


def test_what_is_missing_is_said_and_left_out(made, copy):
    records = copy / "results/records"
    for name in ("eval/ibpo-50.npz", "eval/random-25.npz", "oracle/ibpo-50.npz", "logs/ibpo-10.jsonl.gz"):
        (records / "seed-0" / name).unlink()
    (records / "seed-1/eval/asv-sft.npz").unlink()
    reproduce.main(["--report", "--seeds", "2"])  # a seed without ASV-SFT does not count
    result, markdown = results_in(copy)
    assert result["seeds"] == [0] and result["problems"] == PROBLEMS
    assert result["missing"] == ["seed 0: ibpo-50, random-25", "seed 1: asv-sft"]
    there = ["IuB-10 %", "IuB-25 %", "IuB-25 %, giving up", "IuB-50 %, giving up"]
    assert list(rows_of(markdown, "Oracles")) == there
    caps = rows_of(markdown, "Each cap against its references")
    assert list(caps) == there and caps["IuB-25 %"][7] == caps["IuB-25 %"][9] == ""
    assert caps["IuB-10 %"][1] == ""  # no log
    ladder = rows_of(markdown, "The ladder")
    assert "IuB-50 %" not in ladder and ladder["GRPO"][-1] == "" and ladder["CGPO"][-1].endswith("(ASV-SFT)")


def test_the_first_jobs_alone_make_a_report_and_a_chapter(copy, made):
    """What nobody has trained yet is left out: no empty table, no section without its table, no text about it."""
    first = ["base", "base-greedy", *list(reproduce.JOBS)[:10]]
    assert {"asv-sft", "sv-sft", "ibpo-25", "ibpo-25-give-up", "random-25", "cgpo"} <= {*first}
    for path in (copy / "results/records").glob("seed-*/*/*"):
        if path.name.split(".npz")[0].split(".jsonl")[0] not in first:
            path.unlink()
    (copy / "results/ladder_training.png").write_text("of an earlier report")
    (copy / "results/textbook-1").mkdir()
    shutil.copy(made[0] / "results/results.json", copy / "results/textbook-1")
    reproduce.main(["--report", "--seeds", str(SEEDS)])
    result, markdown = results_in(copy)
    missing = [name for name in reproduce.MODELS if name not in first]
    assert result["missing"] == [f"seeds 0, 1: {', '.join(missing)}"]
    page = (copy / "results/README.md").read_text()
    for text in (markdown, page):
        assert "[[" not in text and "|\n\n|" not in text and "\n\n\n" not in text
        for section in text.split("\n## "):
            lines = [*section.splitlines(), ""]
            assert all(below.startswith("|") for line, below in zip(lines, lines[1:]) if line.startswith("| ---"))
    assert "**CGPO**" in page and "**GRPO**" not in page and "## With another textbook" in page
    assert (copy / "results/ladder_training.png").read_text() == "a figure"
    for target in re.findall(r"\]\(([\w.]+\.png)\)", markdown + page):
        assert (copy / "results" / target).exists(), target


def test_another_textbook(made):
    """The main rows of both, side by side; without the second there is no such section."""
    *_, first = made
    title = "With another textbook it holds, with smaller gains"
    assert title not in chapter(first)
    second = deepcopy(first)
    del second["models"]["sv-sft"]
    second["models"]["ibpo-50"] |= {"seeds": 1, "trials": [1.234, 1.2, 1.3], "malformed": 0.0432}
    second["models"]["ibpo-25"]["kinds"]["medium"]["vote_share"] = [0.987, 0.9, 1.0]
    main, by_kind = tables_of(chapter(first, others={"textbook-1": second}), title)
    rows = {row[0]: row[1:] for row in main}
    assert rows["IuB-25 %, first"][1] == number(first["models"]["ibpo-25"]["trials"], 2)
    assert rows["IuB-50 % (1 of 2 seeds), second"][1::3] == ["1.23 [1.20, 1.30]", "4.3"]
    assert not {"SV-SFT, first", "SV-SFT, second"} & {*rows}  # only what both have
    assert len(by_kind) == 6 and by_kind[3][0] == "IuB-25 %: votes, second" and by_kind[3][2] == "98.7"


def test_sections_of_the_chapter():
    """A section without a row is left out, and so is a paragraph or an item about a model that is not there."""
    result = {"models": {"rft": {}}, "oracles": {}}
    prose = ("# T\n\n[[if cgpo]] Not\nhere.\n\n[[if rft]] Here.\n\n## Empty\n\n[[oracles]]\n\nWords.\n\n## Last\n\n"
             "* [[if rft]] one\n  more\n* [[if rft grpo]] two\n  more\n* three\n")
    assert chapter(result, prose) == "# T\n\nHere.\n\n## Last\n\n* one\n  more\n* three\n"


@pytest.mark.parametrize("damage, says", [
    (lambda kept: shutil.rmtree(kept), "holds no seed"),
    (lambda kept: [path.unlink() for path in kept.glob("*/eval/sv-sft.npz")], "holds no seed"),
    (lambda kept: (kept / "seed-0/eval/cgpo.npz").write_bytes(b"PK half a file"), "cgpo.npz"),
    (lambda kept: shutil.copy(kept / "seed-1/eval/cgpo.npz", kept / "seed-0/eval/cgpo.npz"), "other problems"),
    (lambda kept: (kept / "seed-0/logs/ibpo-50.jsonl.gz").write_bytes(b"half"), "ibpo-50.jsonl.gz"),
    (lambda kept: (kept / "seed-0/logs/ibpo-50.jsonl.gz").write_bytes(gzip.compress(b"half {")), "ibpo-50.jsonl.gz"),
])
def test_damage_is_one_clear_line(copy, damage, says):
    damage(copy / "results/records")
    with pytest.raises(SystemExit) as stop:
        reproduce.main(["--report", "--seeds", str(SEEDS)])
    assert says in str(stop.value) and "\n" not in str(stop.value)
