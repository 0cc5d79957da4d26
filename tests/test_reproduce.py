"""experiments/reproduce.py: a tiny real run, in which order jobs are started, and what README.md quotes.

    pytest tests/test_reproduce.py
"""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

import eval as evaluation
from experiments import report, reproduce, tables
from plumbing import plots, records, settings, stage, statistics
from plumbing.signals import Stopped

ROOT = Path(__file__).resolve().parent.parent


def test_the_most_important_jobs_come_first(monkeypatch, tmp_path):
    """And each of all seeds, before the next one; all others start from ASV-SFT."""
    done = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reproduce, "run_job", lambda name, settings, kept: done.append((settings.seed, name)))
    chapters = []
    monkeypatch.setattr(report, "report", lambda *_, prose: chapters.append(prose))
    reproduce.main(["--seeds", "2", "--jobs", "1"])
    assert done == [(seed, name) for name in reproduce.JOBS for seed in (0, 1)]
    assert list(reproduce.JOBS)[:10] == ["asv-sft", "sv-sft", "base", "ibpo-25", "ibpo-50", "ibpo-10",
                                         "random-25", "ibpo-25-give-up", "cgpo", "margin"]
    reproduce.main(["--report", "--results", "elsewhere"])
    assert chapters == [True, False]  # it is about the committed base
    assert reproduce.JOBS["ibpo-50-give-up"]["give_up"] and reproduce.JOBS["asv-sft-2"]["sft_alpha"] == 2


def test_a_variant(monkeypatch, tmp_path):
    """Other settings for all models, in a folder of their own; what a method knows nothing of stays as it was."""
    monkeypatch.chdir(tmp_path)
    jobs, trained = [], []
    monkeypatch.setattr(reproduce, "run_job", lambda name, *rest: jobs.append(rest))
    monkeypatch.setattr(reproduce, "train_sft", lambda settings, stage: trained.append((settings, stage)))
    monkeypatch.setattr(reproduce, "train_ibpo", lambda settings, start: trained.append((settings, "ibpo")))
    reproduce.main(["--only", "ibpo-25", "--seed", "1", "--variant", "uninformed-start"])
    (chosen, kept), = jobs
    assert kept == Path("results/uninformed-start/records/seed-1")
    assert Path(chosen.out) == Path("runs/reproduce-uninformed-start/seed-1")
    for name in "ibpo-25", "random-25":
        reproduce.train_model(name, chosen)
    assert [name for _, name in trained] == ["asv-sft", "ibpo"] * 2
    assert {run.sft_distinct for run, _ in trained} == {1} and {run.lr for run, _ in trained} == {1e-4}
    assert [run.zero_margin for run, name in trained if name == "ibpo"] == ["vote", "regular"]
    assert settings.Settings().sft_distinct != 1


def test_names_agree():
    """The models that are trained, those in the tables, and those in the figures."""
    assert {name for name, *_ in tables.LADDER} - {"adaptive-sc"} <= set(reproduce.MODELS)
    assert {*tables.PAPER, *tables.TABLE_3, *tables.ORACLE_MODELS} <= set(reproduce.MODELS)
    assert set(tables.NAMES) == {*reproduce.MODELS, "adaptive-sc"}
    assert len(set(tables.NAMES.values())) == len(tables.NAMES)
    assert len(set(reproduce.MODELS)) == len(reproduce.MODELS) == 20
    assert [name for name, *_ in tables.LADDER if name.startswith("length")] == [
        name for name in reproduce.MODELS if name.startswith("length")]


@pytest.mark.slow
def test_tiny_real_run(tmp_path, monkeypatch, capsys):
    """Some of the jobs, stopped on the way; the second call does only what is left, the third nothing."""
    if not (ROOT / "checkpoints/base").exists():
        pytest.skip("checkpoints/base is not here: rebuild it with python train.py --stage base")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(settings.PRESETS, "smoke", dict(
        model=str(ROOT / "checkpoints/base"), sft_problems=20, sft_votes=2, sft_regular=16, sft_distinct=1,
        sft_steps=16, sft_batch=8, sft_lr=1e-3, prompts=6, accumulate=1, samples=8, steps=2, valid_every=1,
        valid_problems=5, eval_problems=10, max_new_tokens=64))  # cuts most votes off: fast
    some = ["asv-sft", "sv-sft", "base", "ibpo-50", "asv-sft-2", "length-penalty-0.05", "score"]
    monkeypatch.setattr(reproduce, "JOBS", {name: reproduce.JOBS[name] for name in some})
    monkeypatch.setattr(reproduce, "MODELS", ["base", "base-greedy", "sv-sft", "asv-sft", *some[3:-1]])
    command = ["--smoke", "--seeds", "1", "--jobs", "1"]

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "respond", interrupted)
        with pytest.raises(SystemExit, match="the same command continues"):
            reproduce.main(command)
    enter, trained = stage.Stage.__enter__, []

    def noted(self):
        trained.append(self.name)
        return enter(self)

    monkeypatch.setattr(stage.Stage, "__enter__", noted)
    monkeypatch.setattr(statistics, "RESAMPLES", 300)
    savefig = plots.plt.Figure.savefig
    monkeypatch.setattr(plots.plt.Figure, "savefig", lambda _, path, **__: path.touch())  # at last, they are drawn
    reproduce.main(command)
    assert trained == ["sv-sft", "ibpo-50", "asv-sft-2", "length-penalty-0.05", *trained[4:]]  # asv-sft was there
    assert trained[4:] == ["score-sft", "score-1", "score-2", "score-2-no-stage-1", "score-2-no-bonus"]
    results, run = tmp_path / "runs/reproduce-smoke/results", tmp_path / "runs/reproduce-smoke/seed-0"
    monkeypatch.setattr(stage.Stage, "__enter__", interrupted)
    monkeypatch.setattr(evaluation, "make_record", interrupted)
    reproduce.main(command)
    shutil.rmtree(run)
    monkeypatch.setattr(plots.plt.Figure, "savefig", savefig)
    reproduce.main(command)  # all is kept: no checkpoint is needed any more
    assert {path.stem for path in results.glob("records/seed-0/eval/*")} == {
        *some[:-1], "base-greedy", *tables.SCORE}
    assert {path.stem for path in results.glob("records/seed-0/oracle/*")} == {
        "base", "base-greedy", "sv-sft", "ibpo-50"}
    assert records.read_kept(results / "records/seed-0/oracle/sv-sft.npz").correct.shape == (10, 16)
    result, markdown = json.loads((results / "results.json").read_text()), (results / "results.md").read_text()
    assert result["missing"] == []
    assert [*result["score"]["models"]] == ["base", *tables.SCORE] and "| after stage II |" in markdown
    assert result["problems"] == 10
    assert "results.md" in capsys.readouterr().out
    kept = results / "records/seed-0"
    (kept / "eval/ibpo-50.npz").unlink()
    of_seed = settings.Settings(out=str(run))
    assert reproduce.unfinished(of_seed, kept) == ["asv-sft", "ibpo-50"]  # its checkpoint is gone, and needed
    (kept / "eval/ibpo-50.npz").touch()
    (kept / "oracle/base.npz").unlink()
    assert reproduce.unfinished(of_seed, kept) == ["base"]  # nothing starts from ASV-SFT


class Process:
    """A job that ends after a few looks, with this return code."""

    def __init__(self, command, looks: int, code: int, **_):
        self.name, self.looks, self.code = command[command.index("--only") + 1], looks, code

    def poll(self):
        self.looks -= 1
        self.returncode = self.code
        return None if self.looks > 0 else self.code


def test_jobs_wait_for_what_they_start_from(tmp_path, monkeypatch):
    started = []

    def start(command, **options):
        process = Process(command, looks=2, code=int("bad" in command))
        started.append((command[command.index("--seed") + 1], process.name))
        assert options["env"]["OMP_NUM_THREADS"] == str(max(1, os.cpu_count() // 2))
        return process

    monkeypatch.setattr(reproduce.subprocess, "Popen", start)
    monkeypatch.setattr(reproduce.time, "sleep", lambda seconds: None)
    jobs = [(0, "asv-sft"), (0, "base"), (0, "cgpo"), (1, "asv-sft"), (1, "cgpo")]
    reproduce.run_all(jobs, 2, tmp_path, [])
    assert started == [("0", "asv-sft"), ("1", "asv-sft"), ("0", "base"), ("0", "cgpo"), ("1", "cgpo")]

    started.clear()
    assert reproduce.run_all([(0, "asv-sft"), (0, "cgpo")], 2, tmp_path, ["bad"]) == 1
    assert started == [("0", "asv-sft")]  # nothing starts from what has failed


@pytest.mark.parametrize("stop, told", [(KeyboardInterrupt(), 0), (Stopped(signal.SIGTERM), 2)])
def test_jobs_end_with_the_program(stop, told, tmp_path, monkeypatch):
    """Ctrl-C reaches them by itself, SIGTERM does not; it waits for both."""
    done = []

    class Job(Process):
        def terminate(self):
            done.append("terminate")

        def wait(self):
            done.append("wait")

    def interrupt(seconds):
        raise stop

    monkeypatch.setattr(reproduce.subprocess, "Popen", lambda command, **_: Job(command, looks=99, code=0))
    monkeypatch.setattr(reproduce.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        reproduce.run_all([(0, "asv-sft"), (1, "asv-sft")], 2, tmp_path, [])
    assert done[:told + 2] == ["terminate"] * told + ["wait"] * 2


@pytest.mark.parametrize("arguments", ["--seeds 0", "--seed 5", "--only base --report",
                                       "--smoke --variant uninformed-start"])
def test_wrong_arguments_are_one_clear_line(arguments, monkeypatch):
    monkeypatch.setattr(reproduce, "run_all", None)
    monkeypatch.setattr(reproduce, "run_job", None)
    with pytest.raises(SystemExit, match="--") as stop:
        reproduce.main(arguments.split())
    assert "\n" not in str(stop.value)


def test_a_model_that_is_not_there_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="^error: .*nowhere") as stop:
        reproduce.main(["--only", "asv-sft", "--model", "nowhere", "--results", str(tmp_path / "results")])
    assert "\n" not in str(stop.value)


def test_each_seed_answers_problems_of_its_own(monkeypatch, tmp_path):
    seeds = []
    monkeypatch.setattr(reproduce, "train_models", lambda name, _: {name: tmp_path})
    monkeypatch.setattr(reproduce, "keep_log", lambda *_: None)
    monkeypatch.setattr(evaluation, "respond", lambda *_, **options: seeds.append(options["seed"]) or [])
    for seed in (0, 7):
        reproduce.run_job("cgpo", settings.Settings(seed=seed, out=str(tmp_path)), tmp_path / "kept")
    assert seeds == [0, 7]


def test_another_base_has_results_of_its_own(monkeypatch):
    monkeypatch.setattr(reproduce, "run_job", None)
    for more in ([], ["--variant", "uninformed-start"]):
        with pytest.raises(SystemExit, match="--model goes with --results DIR"):
            reproduce.main(["--model", "elsewhere", *more])
