"""The whole method end to end on the committed base model, tiny: train.py, interrupted twice, sample.py and eval.py.

A run that is killed in one stage and interrupted in the next must end with the very weights of an undisturbed run.
"""

import contextlib
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import data
import eval as evaluation
import llama
import sample
import train
import voting
from plumbing import plots

ROOT = Path(__file__).resolve().parent.parent
SMALL = ["smoke", "--sft-problems", "40", "--sft-votes", "24", "--sft-regular", "16", "--sft-steps", "20",
         "--sft-batch", "8", "--steps", "4", "--prompts", "6", "--eval-problems", "10", "--eval-samples", "2",
         "--valid-problems", "3", "--max-new-tokens", "150"]
PROGRAMS = {"train.py": train, "eval.py": evaluation, "sample.py": sample}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def start(*arguments) -> subprocess.Popen:
    # started in the background (`make test &`), we ignore SIGINT, and so would our children
    return subprocess.Popen([sys.executable, *map(str, arguments)], cwd=ROOT, env=ENVIRONMENT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


def run(name: str, *arguments) -> str:
    """A program in this process, which has torch already; returns what it prints."""
    printed = io.StringIO()
    torch.set_num_threads(1)  # as in ENVIRONMENT: another number rounds otherwise
    with contextlib.chdir(ROOT), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [name, *map(str, arguments)])
            PROGRAMS[name].main()
    return printed.getvalue()


def stop(process, log: Path, how: signal.Signals) -> str:
    """Send a signal once the log has a line; returns the output."""
    deadline = time.monotonic() + 120
    while not (log.exists() and log.read_text()) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()[0]
    process.send_signal(how)
    return process.communicate(timeout=60)[0]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path, str]:
    """An undisturbed run, another, disturbed, of what leads to IBPO, and what the first printed."""
    if not (ROOT / "checkpoints/base").exists():
        pytest.skip("checkpoints/base is not here: rebuild it with python train.py --stage base")
    whole, broken = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("broken")
    printed = run("train.py", *SMALL, "--out", whole)
    disturbed = ["train.py", *SMALL, "--stage", "ibpo", "--processes", "1", "--out", broken]  # compared bit by bit
    stop(start(*disturbed), broken / "asv-sft/log.jsonl", signal.SIGKILL)
    said = stop(start(*disturbed), broken / "ibpo-50/log.jsonl", signal.SIGINT)
    assert "the same command continues from here" in said and "Traceback" not in said
    run(*disturbed)
    return whole, broken, printed


def test_kill_and_continue_changes_nothing(runs):
    whole, broken, _ = runs
    for stage in ("asv-sft", "ibpo-50"):
        a, b = (llama.load(directory / stage).state_dict() for directory in (whole, broken))
        assert all(torch.equal(a[name], b[name]) for name in a), stage
        lines = [[json.loads(line) for line in (directory / stage / "log.jsonl").read_text().splitlines()]
                 for directory in (whole, broken)]
        assert [line["step"] for line in lines[1]] == list(range(len(lines[0])))
        assert [line["grad_norm"] for line in lines[0]] == [line["grad_norm"] for line in lines[1]]
        assert not (broken / stage / "state.pt").exists()


def test_cap_holds_in_every_step(runs):
    log = [json.loads(line) for line in (runs[0] / "ibpo-50/log.jsonl").read_text().splitlines()]
    assert len(log) == 4 and all(line["accepted_vote_share"] <= 0.5 for line in log)
    assert sum(line["accepted"] for line in log) > 0
    moved = [llama.load(runs[0] / stage).lm_head.weight for stage in ("asv-sft", "ibpo-50")]
    assert not torch.equal(*moved)


def test_checkpoints_are_hugging_face_directories(runs):
    ids = torch.randint(6, 60, (2, 20), generator=torch.Generator().manual_seed(0))
    theirs = AutoModelForCausalLM.from_pretrained(runs[0] / "ibpo-50", dtype=torch.float32)
    ours = llama.load(runs[0] / "ibpo-50", torch.float32)
    with torch.no_grad():
        assert (ours(ids) - theirs(ids).logits).abs().max() < 1e-4


def test_evaluation_is_complete_and_redraws(runs, monkeypatch, tmp_path):
    whole, _, printed = runs
    out = whole / "eval"
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary["models"]) == {"base", "base-greedy", "sv-sft", "asv-sft", "ibpo-50"}
    rows = summary["comparisons"]["ibpo-50"]
    enough = summary["models"]["ibpo-50"]["trials"][0] <= len(summary["self_consistency"])  # base samples
    assert "trials" in rows["boundary"] and ("trials" in rows["self_consistency"]) == enough
    for plot in ("accuracy_vs_budget.png", "by_level.png", "groups.png", "training.png"):
        assert (out / plot).stat().st_size > 10_000
    again = run("eval.py", "--redraw", out)
    assert "efficiency boundary" in again and "efficiency boundary" in printed
    assert json.loads((out / "summary.json").read_text()) == summary
    monkeypatch.setattr(plots.plt.Figure, "savefig", lambda *_, **__: None)  # but for plots, which would be the same
    kept = tmp_path / "kept"
    evaluation.main(["--redraw", str(out), "--keep", str(kept)])
    assert json.loads((kept / "summary.json").read_text()) == summary
    (kept / "summary.json").unlink()
    evaluation.main(["--redraw", str(kept)])
    assert json.loads((kept / "summary.json").read_text()) == summary
    finished = run("train.py", *SMALL, "--out", whole)  # everything is there: nothing is done again
    assert "step/s" not in finished


def written(model, tokenizer, questions: list[str], condition: str, samples: int, **_) -> list[list[sample.Response]]:
    """In place of sample.ask: of four responses two are short votes and one a long one, all right; the fourth has one
    trial, and is right for every other problem."""
    rows = []
    for i, question in enumerate(questions):
        factors, modulus = data.read_question(question)
        right, wrong = (str((math.prod(factors) + error) % modulus) for error in (0, 1))
        good, bad = (f"{factors[0]}\n\\boxed{{{answer}}}" for answer in (right, wrong))
        short = voting.render_extended([good] * 2, [right] * 2, voting.SHORT)
        four = (short, voting.render_extended([good] * 3, [right] * 3), short,
                voting.render_regular(good if i % 2 else bad))
        prompt, rows = voting.encode_prompt(tokenizer, question, condition), [*rows, []]
        for text in (four[(i + j) % 4] for j in range(samples)):
            ids = [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
            rows[-1].append(sample.Response(ids, -1.0, True, text, prompt))
    return rows


def test_three_groups(runs, tmp_path, monkeypatch):
    """Short votes from --sft-short to the stacked plot, each kind under its cap; the stages of two groups beside it
    would be refused. So short a training leaves a model that hardly votes, so its votes are given."""
    shutil.copy(runs[0] / "samples.jsonl", tmp_path)
    three = [*SMALL, "--sft-short", "20", "--sft-regular", "40", "--budget", "short=0.3,vote=0.2", "--out", tmp_path]
    with monkeypatch.context() as patch:
        patch.setattr(sample, "ask", written)
        run("train.py", *three, "--stage", "ibpo")
        printed = run("eval.py", tmp_path / "asv-sft", tmp_path / "ibpo-20-short-30", "--problems", "20", "--out",
                      tmp_path / "eval")
    stage = tmp_path / "ibpo-20-short-30"
    log = [json.loads(line) for line in (stage / "log.jsonl").read_text().splitlines()]
    for name, most, sampled in (("short", 0.3, 0.5), ("vote", 0.2, 0.25)):
        assert all(0 < line[f"accepted_{name}_share"] <= most for line in log)
        assert all(line[f"{name}_share"] == pytest.approx(sampled, abs=0.1) for line in log)
    assert all(line["dropped_over_cap"] for line in log)
    notes = json.loads((stage / "ibpo.json").read_text())
    assert notes["condition"] == "modes" and notes["settings"]["sft_short"] == 20
    theirs = AutoModelForCausalLM.from_pretrained(stage, dtype=torch.float32)
    base = llama.load(ROOT / "checkpoints/base")
    assert theirs.config.vocab_size == base.config.vocab_size + 3  # new words
    ids = torch.randint(6, theirs.config.vocab_size, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (llama.load(stage, torch.float32)(ids) - theirs(ids).logits).abs().max() < 1e-4
    assert "asv-sft" in printed and (tmp_path / "eval/groups.png").stat().st_size > 10_000
    assert run("sample.py", stage, "Compute 3 * 8 * 20 * 11 modulo 47.").count("-> ") == 1
    with pytest.raises(SystemExit, match="sft_short"):
        run("train.py", *SMALL, "--sft-regular", "40", "--out", tmp_path, "--stage", "ibpo")


def test_sample_answers_one_problem(runs):
    printed = run("sample.py", runs[0] / "ibpo-50", "Compute 3 * 8 * 20 * 11 modulo 47.", "--samples", "2")
    assert printed.count("-> ") == 2 and "a problem of level 2 of 5; its kind: easy" in printed


@pytest.mark.parametrize("command, says", [
    (["train.py", "--budget", "vote=1.5"], "--budget"),
    (["train.py", "--budget", "tokens"], "--budget"),
    (["train.py", "--budget", "tokens=0"], "--budget"),
    (["train.py", "--budget", "vote=0.5,vote=0.4"], "--budget"),
    (["train.py", "--budget", "short=0.3,vote=0.3"], "--sft-short"),
    (["train.py", "--budget", "tokens=90", "--method", "random"], "--method"),
    (["train.py", "--method", "ppo"], "--method"),
    (["train.py", "--model", "/nowhere"], "/nowhere"),
    (["train.py", "--lr", "fast"], "--lr"),
    (["train.py", "--data", "nowhere.jsonl"], "--valid-data"),
    (["eval.py", "/nowhere"], "/nowhere"),
    (["eval.py", "--redraw", "/nowhere"], "/nowhere"),
    (["eval.py", "--temperature", "0"], "--temperature"),
    (["eval.py", "--max-new-tokens", "0"], "max_new_tokens"),
    (["sample.py", "checkpoints/base", "What is 2 + 2?"], "tokenizer"),
    (["sample.py", "checkpoints/base", "Compute 3 * 612 modulo 61."], "tokenizer"),
])
def test_bad_input_is_one_clear_line(command, says, tmp_path, monkeypatch, capsys):
    name, *arguments = command
    if name == "train.py":
        arguments += ["--out", str(tmp_path)]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with pytest.raises(SystemExit) as stop:
        PROGRAMS[name].main()
    message = stop.value.code if isinstance(stop.value.code, str) else capsys.readouterr().err  # there after the usage
    assert stop.value.code and says in message and len(message.strip().splitlines()[-1]) < 300


@pytest.mark.parametrize("command", [["train.py", "--budget", "3"], ["eval.py", "/nowhere"],
                                     ["sample.py", "/nowhere", "1"]])
@pytest.mark.slow
def test_bad_input_ends_a_program_with_an_error(command):
    process = start(*command)
    output, _ = process.communicate(timeout=60)
    assert process.returncode and "error: " in output and len(output.splitlines()) == 1
