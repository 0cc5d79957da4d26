"""README.md says what is: the names it points to exist, its numbers are those of results/results.json.

    pytest tests/test_readme.py
"""

import ast
import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest

from experiments.chapter import TABLES, chapter
from experiments.report import others_in
from plumbing.records import joined, read_kept
from plumbing.statistics import Bootstrap

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
RESULTS = json.loads((ROOT / "results/results.json").read_text())
ROWS = {"base": "base", "ASV-SFT": "asv-sft", "IuB-10 %": "ibpo-10", "IuB-25 %": "ibpo-25", "IuB-50 %": "ibpo-50",
        "SV-SFT": "sv-sft"}


def names_in(path: Path) -> set[str]:
    """What a file defines at its top level."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


def test_every_file_and_name_of_the_table_exists():
    rows = re.findall(r"^\| `(\w+\.py)` \|.*\| ([^|]*) \|$", README, re.MULTILINE)
    assert len(rows) == 12 and {name for name, _ in rows} == {path.name for path in ROOT.glob("*.py")}
    for file, where in rows:
        names = re.findall(r"`(\w+)`", where)
        assert names and set(names) <= names_in(ROOT / file), file


def test_links_and_pictures_exist():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target


@pytest.mark.parametrize("label", ROWS)
def test_results_are_those_of_the_records(label):
    row = RESULTS["models"][ROWS[label]]
    value, low, high = (100 * x for x in row["accuracy"])
    expected = (f"| {label} | {value:.1f} [{low:.1f}, {high:.1f}] | {row['trials'][0]:.2f} | "
                f"{row['tokens'][0]:.1f} | {100 * row['vote_share']:.1f} |")
    assert expected in README
    paths = sorted((ROOT / "results/records").glob(f"seed-*/eval/{ROWS[label]}.npz"))
    record = joined([read_kept(path) for path in paths])
    for key, values in (("accuracy", record.correct), ("trials", record.trials), ("tokens", record.tokens)):
        assert row[key][0] == pytest.approx(values.mean())
    assert row["vote_share"] == pytest.approx(record.extended.mean())
    bootstrap = Bootstrap(len(record.levels), len(paths))
    found = bootstrap.share(bootstrap.means(record.correct.mean(axis=1)[:, None])[0])
    assert found == pytest.approx(row["accuracy"])


def test_the_sentence_about_the_result():
    base, sv, iub = (RESULTS["models"][name] for name in ("base", "sv-sft", "ibpo-50"))
    gain = (iub["accuracy"][0] - base["accuracy"][0]) / (sv["accuracy"][0] - base["accuracy"][0])
    extra = (iub["trials"][0] - 1) / (sv["trials"][0] - 1)
    assert f"IuB-50 gets {gain:.0%} of what always voting gains for {extra:.0%}".replace("%", " %") in README


def test_the_heights_over_the_boundary():
    for unit in ("trials", "tokens"):
        value, low, high = (100 * x for x in RESULTS["comparisons"]["ibpo-50"]["boundary"][unit])
        points = " points" if unit == "trials" else ""
        assert f"{value:.1f}{points} [{low:.1f}, {high:.1f}]" in README


def test_what_is_said_without_a_number():
    """CGPO is indistinguishable, the choice does not measurably follow the first trial, a cap of 50 % never binds."""
    for _, low, high in RESULTS["minus_cgpo"]["ibpo-50"], RESULTS["models"]["ibpo-50"]["sees"]["kind"]:
        assert low < 0 < high
    for path in (ROOT / "results/records").glob("seed-*/logs/ibpo-50.jsonl.gz"):
        steps = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
        assert all(step["accepted_vote_share"] < 0.48 and not step["dropped_over_cap"] for step in steps)


def test_what_ibpo_adds_to_its_start():
    value, low, high = (100 * x for x in RESULTS["minus_start"]["ibpo-50"])
    said = f"At equal trials IBPO adds {value:.1f} points [{low:.1f}, {high:.1f}] to ASV-SFT"
    assert said in " ".join(README.split())
    value, low, high = (100 * x for x in RESULTS["minus_random_at_equal_trials"]["ibpo-50"])
    assert f"ends {value:.1f} points [{low:.1f}, {high:.1f}] lower at equal trials" in " ".join(README.split())


def test_the_second_base():
    second = json.loads((ROOT / "results/textbook-1/results.json").read_text())
    value, low, high = (100 * x for x in second["comparisons"]["ibpo-50"]["boundary"]["trials"])
    assert f"IuB-50 is {value:.1f} points [{low:.1f}, {high:.1f}] above the boundary" in " ".join(README.split())


def test_the_uninformed_start():
    models = others_in(ROOT / "results")["uninformed-start"]["models"]
    easy, medium, hopeless = ([f"{100 * models[name]['kinds'][kind]['vote_share'][0]:.0f}"
                               for name in ("asv-sft", "ibpo-25", "random-25")]
                              for kind in ("easy", "medium", "hopeless"))
    said = (f"takes votes off easy problems ({easy[0]} to {easy[1]} %; random groups: {easy[2]} %) and keeps more of "
            f"them on medium ones ({medium[0]} to {medium[1]} %; {medium[2]} %), but hopeless ones get more, too "
            f"({hopeless[0]} to {hopeless[1]} %)")
    assert said in " ".join(README.split())


def test_score():
    row = RESULTS["score"]["models"]["score-2"]
    said = f"gets {100 * row['final'][0]:.1f} %, but {100 * row['first'][0]:.1f} % in first trials alone"
    assert said in " ".join(README.split())
    assert row["corrected"][1] < row["fresh"][2]  # no more than fresh ones: the intervals overlap


def test_the_real_llama():
    folder = ROOT / "results/smollm2"
    text = (folder / "README.md").read_text()
    shares = {"ASV-SFT": "asv-sft", "trained at 0.9, 24 steps": "ibpo-50-24", "trained at 1": "ibpo-50-top-p-1"}
    labels = {"base": "base", "base, greedy": "base-greedy", "SV-SFT": "sv-sft", "ASV-SFT": "asv-sft",
              "IuB-50 %, trained at 0.9, 24 steps": "ibpo-50-24", "IuB-50 %, trained at 0.9": "ibpo-50",
              "IuB-50 %, trained at 1": "ibpo-50-top-p-1"}
    for where, top_p, part in zip(("", "top-p-1"), ("0.9", "1"), text.split("Sampled at top-p 1,"), strict=True):
        models = json.loads((folder / where / "summary.json").read_text())["models"]
        for label, name in labels.items():
            row = models[name]
            value, low, high = (100 * x for x in row["accuracy"])
            assert (f"| {label} | {value:.1f} [{low:.1f}, {high:.1f}] | {row['trials'][0]:.2f} | "
                    f"{row['tokens'][0]:.1f} | {100 * row['vote_share']:.1f} | {100 * row['malformed']:.1f} |") in part
        for label, name in shares.items():
            votes = [f"{100 * row['vote_share'][0]:.0f}" for row in models[name]["levels"].values()]
            assert f"| {label} | votes, evaluated at {top_p} | {' | '.join(votes)} |" in text
    after, before = (read_kept(folder / f"records/{name}.npz") for name in ("ibpo-50-top-p-1", "asv-sft"))
    for levels, way in ((1, 2), -1), ((4, 5), 1):
        here = np.isin(before.levels, levels)
        more = Bootstrap(here.sum())
        moved = way * (after.extended[here].mean(axis=1) - 1.0 * before.extended[here].mean(axis=1))  # float[n]
        value, low, high = (100 * x for x in more.difference(more.means(moved[:, None])[0]))
        assert f"by {value:.1f} [{low:.1f}, {high:.1f}]" in text
    margins = []
    for name in ("ibpo-50-top-p-1", "ibpo-50"):
        steps = [json.loads(line) for line in (folder / f"{name}.log.jsonl").read_text().splitlines()]
        for first in range(0, 36, 6):
            means = [np.mean([step[key][level] for step in steps[first : first + 6] if level in step[key]])
                     for key in ("vote_share_by_level", "accepted_vote_share_by_level") for level in "12345"]
            assert f"| {first + 1} to {first + 6} | {' | '.join(f'{100 * mean:.0f}' for mean in means)} |" in text
        margins.append(np.array([100 * np.mean(list(step["margin_by_level"].values())) for step in steps[:12]]))
    larger = margins[0] - margins[1]
    assert (f"was {larger.mean():.1f} points (± {1.96 * larger.std(ddof=1) / 12**0.5:.1f}) larger at top-p 1 "
            f"({margins[0].mean():.1f} and {margins[1].mean():.1f} points") in " ".join(text.split())


def test_it_is_read_in_ten_minutes():
    assert len(README.split()) <= 1800


def test_the_results_chapter_is_that_of_the_results():
    text = (ROOT / "results/README.md").read_text()
    assert text == chapter(RESULTS, others=others_in(ROOT / "results"))
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert (ROOT / "results" / target).exists(), target
    for line in text.splitlines():
        assert not line.startswith("|") or line.count("|") <= 7  # six columns at a time


def test_the_results_notebook_shows_these_results():
    """Its tables and figures have been drawn since the last report."""
    cells = json.loads((ROOT / "notebooks/6_results.ipynb").read_text())["cells"]
    shown = "".join("".join(output.get("data", {}).get("text/markdown", ""))
                    for cell in cells for output in cell.get("outputs", []))
    for name in ("base", "sv-sft", "asv-sft", "ibpo-10", "ibpo-25", "ibpo-25-give-up", "ibpo-50", "random-50"):
        row = RESULTS["models"][name]
        value, low, high = (100 * x for x in row["accuracy"])
        assert f"| {row['label']} | {value:.1f} [{low:.1f}, {high:.1f}] | {row['trials'][0]:.2f} [" in shown, name


@pytest.mark.parametrize("name", TABLES)
def test_the_chapter_uses_every_table(name):
    assert f"[[{name}]]" in (ROOT / "experiments/chapter.md").read_text()


def test_the_house_stays_readable():
    """The root shows twelve concepts; a file is at most 420 lines long, and Algorithm 1 is on one screen."""
    root = sorted(ROOT.glob("*.py"))
    assert len(root) <= 13
    for path in [*root, *(path for room in ("plumbing", "experiments", "bench", "recipes") for path in
                          sorted((ROOT / room).rglob("*.py")))]:
        assert len(path.read_text().splitlines()) <= 420, path.name
    train = (ROOT / "train.py").read_text()
    loop = train[train.index("    with Stage("):train.index("    return stage.directory")]
    assert len(train.splitlines()) <= 260 and len(loop.splitlines()) <= 40
