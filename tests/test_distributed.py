"""plumbing/distributed.py: whatever the number of processes, the result is that of one, and all of them end together.

    pytest tests/test_distributed.py
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_train
import torch

import llama
import train
from plumbing import distributed, plots, sharding

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}


def start(*arguments, stdout) -> subprocess.Popen:
    # started in the background (`make test &`), we ignore SIGINT, and so would our children
    return subprocess.Popen([sys.executable, *map(str, arguments)], cwd=ROOT, env=ENVIRONMENT, text=True,
                            stdout=stdout, stderr=subprocess.STDOUT,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


# ---------------------------------------------------------------------------------------------------------------------
# Shares


def test_split_is_balanced():
    rng = random.Random(0)
    for parts in range(1, 9):
        costs = [rng.expovariate(1) for _ in range(50)]
        lists = distributed.split(costs, parts)
        assert sorted(i for each in lists for i in each) == list(range(50))
        sums = [sum(costs[i] for i in each) for each in lists]
        assert max(sums) - min(sums) <= max(costs)  # of any order; the dearest first does better
        assert parts == 1 or all(each == sorted(each, key=lambda i: -costs[i]) for each in lists)
    assert distributed.split([1.0], 3) == [[0], [], []]  # more processes than work
    assert distributed.split([5, 1, 7], 1) == [[0, 1, 2]]  # one process keeps the order


def test_one_process_does_all_itself():
    weight = torch.nn.Parameter(torch.ones(2))
    distributed.sum_gradients([weight])
    assert weight.grad is None and distributed.total(0.1) == 0.1 and distributed.share([4, 2], [1, 9]) == [4, 2]
    assert distributed.spread(lambda chosen: [10 * i for i in chosen], [3, 1, 2]) == [0, 10, 20]
    assert distributed.on_main(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        distributed.spread(lambda chosen: [1 // i for i in chosen], [3, 1, 2])


PROGRAM = """
import sys, torch
from plumbing import distributed
def main():
    n, rank = distributed.size, distributed.rank
    assert torch.get_num_threads() == 1
    assert distributed.spread(lambda chosen: [(i, rank) for i in chosen], [5, 1, 1, 1, 9]) == [
        (0, 1 % n), (1, n - 1), (2, n - 1), (3, n - 1), (4, 0)][:5], "spread"
    assert distributed.on_main(lambda: rank) == 0
    assert distributed.total(rank + 1) == n * (n + 1) / 2
    weights = [torch.nn.Parameter(torch.zeros(3)) for _ in range(3)]
    distributed.sum_gradients(weights)
    assert all(weight.grad is None for weight in weights)  # nobody has learned
    weights[0].grad = torch.full((3,), float(rank))
    if rank == n - 1:
        weights[1].grad = torch.ones(3)
    distributed.sum_gradients(weights)
    assert [weight.grad.tolist() for weight in weights] == [[n * (n - 1) / 2] * 3, [1.0] * 3, [0.0] * 3]
    print("said once")
    print("on stderr", file=sys.stderr)
    if sys.argv[1:] == ["fails"]:
        distributed.spread(lambda chosen: [1 // (rank != 1) for i in chosen], [1] * 9)
    if sys.argv[1:] == ["exits"] and rank == 0:
        sys.exit("error: one line")
    if sys.argv[1:] == ["all exit"]:
        sys.exit("error: one line")
    try:
        distributed.gather(None)
    except KeyboardInterrupt as lost:
        sys.exit(f"stopped: {lost}")
    print("the end")
if __name__ == "__main__":
    distributed.run(main, PROCESSES, "cpu")
"""


@pytest.mark.slow
@pytest.mark.parametrize("processes, argument, status, says", [
    (2, "", 0, ["said once", "on stderr", "the end"]),
    (3, "fails", 1, ["said once", "on stderr", "in process 1 of 3", "ZeroDivisionError"]),
    (2, "exits", 1, ["said once", "on stderr", "error: one line"]),
    (2, "all exit", 1, ["said once", "on stderr", "error: one line"])])
def test_several_processes(processes, argument, status, says, tmp_path, launch):
    """What is said is said once; an error in one, or in all, ends all."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.replace("PROCESSES", str(processes)))
    found, printed = launch(processes, program, argument)
    assert found == status, printed
    for text in says:
        assert text in printed, printed
    assert printed.count("said once") == printed.count("on stderr") == 1
    assert printed.count("error: one line") <= 1 and printed.count("Traceback") == 2 * (argument == "fails"), printed


# ---------------------------------------------------------------------------------------------------------------------
# Training


SMALL = ["train.py", "smoke", "--stage", "ibpo", "--prompts", "4", "--samples", "6"]


def lines_of(log: Path) -> list[dict]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def left_over(directory: Path) -> list[str]:
    """Processes that work in this directory."""
    listed = subprocess.run(["ps", "-A", "-ww", "-o", "pid=,args="], stdout=subprocess.PIPE, text=True).stdout
    return [line for line in listed.splitlines() if str(directory) in line]


def moved(weights: dict, start: dict) -> torch.Tensor:
    return torch.cat([(weights[name] - start[name]).flatten() for name in start])


@pytest.mark.slow
def test_the_number_of_processes_decides_nothing(tmp_path, monkeypatch, launch):
    """SFT, IBPO and evaluation with 1, 2, and 2 with a sharded model: the same responses, the same accepted; weights
    within rounding."""
    small = [*SMALL, "--stage", "all", "--start", "checkpoints/ibpo", "--sft-problems", "20", "--sft-votes", "10",
             "--sft-regular", "10", "--sft-steps", "3", "--sft-batch", "5", "--sft-lr", "1e-4", "--steps", "2",
             "--valid-problems", "3", "--eval-problems", "5", "--eval-samples", "2", "--max-new-tokens", "150"]
    alone = tmp_path / "alone"
    with monkeypatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(plots.plt.Figure, "savefig", lambda *_, **__: None)  # the plots do not matter here
        torch.set_num_threads(1)  # as each of the others
        train.main([*small[1:], "--out", str(alone)])
    for way, options in ("shared", []), ("sharded", ["--shard"]):
        shared = tmp_path / way
        status, printed = launch(2, *small, "--out", shared, "--processes", 2, *options)
        assert status == 0 and printed.count("time: ") == printed.count("summary.json and plots") == 1, printed
        records = [f"eval/records/{name}.jsonl" for name in ("base", "base-greedy", "ibpo")]
        for name in ("samples.jsonl", *records):
            assert (shared / name).read_bytes() == (alone / name).read_bytes(), name
        for stage, before in (("sv-sft", "checkpoints/base"), ("ibpo-50", "checkpoints/ibpo")):
            for one, other in zip(*(lines_of(out / stage / "log.jsonl") for out in (alone, shared)), strict=True):
                assert one.keys() == other.keys()
                for key in one:
                    if key in ("loss", "grad_norm", "nll_per_token"):
                        assert other[key] == pytest.approx(one[key], rel=1e-3), (stage, key)
                    elif not key.startswith("seconds"):
                        assert other[key] == one[key], (stage, key)
            first = llama.load(ROOT / before, torch.float32).state_dict()
            one, other = (moved(llama.load(out / stage).state_dict(), first) for out in (alone, shared))
            assert 0 < one.abs().mean() and (one - other).abs().mean() < 0.01 * one.abs().mean(), stage
            notes = [json.loads((out / stage / "ibpo.json").read_text()) for out in (alone, shared)]
            assert notes[0]["settings"] == notes[1]["settings"]  # it is not made again with another number
    assert sum(line["accepted"] for line in lines_of(alone / "ibpo-50/log.jsonl")) > 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere processes outlive a launcher that was killed")
def test_whatever_ends_one_ends_all_and_others_continue(tmp_path, monkeypatch):
    """One run: SIGTERM, kill -9 of a process, kill -9 of the launcher; 2 and 3 processes, sharded and not."""
    small = [TESTS / "tiny_train.py", "--stage", "ibpo", "--out", tmp_path / "broken"]
    log = tmp_path / "broken/ibpo-50/log.jsonl"
    said, done, shard = tmp_path / "said.txt", 0, "--shard"
    for processes, sharded, who, how, status in [
            (2, [shard], "launcher", signal.SIGTERM, 143), (3, [], "last", signal.SIGKILL, 137),
            (2, [shard], "last", signal.SIGKILL, 137), (2, [], "launcher", signal.SIGKILL, -9)]:
        with said.open("w") as file:
            process = start(*small, "--processes", processes, *sharded, stdout=file)
        deadline = time.monotonic() + 120
        while len(lines_of(log)) <= done or done and "continues at step" not in said.read_text():
            assert process.poll() is None and time.monotonic() < deadline, said.read_text()
            time.sleep(0.02)
        children = subprocess.run(["pgrep", "-P", str(process.pid)], stdout=subprocess.PIPE, text=True).stdout.split()
        assert len(children) == processes
        os.kill(process.pid if who == "launcher" else int(children[-1]), how)
        assert process.wait(timeout=60) == status, said.read_text()
        while left_over(tmp_path):
            assert time.monotonic() < deadline + 60, left_over(tmp_path)
            time.sleep(0.1)
        text = said.read_text()
        assert "Traceback" not in text and "terminate" not in text, text
        assert text.count("was killed by signal 9") == (who == "last"), text
        assert text.count("the same command continues from here") == 1, text
        before, done = done, torch.load(sharding.newest_state(log.parent)[0])["done"]
        lost = bool(sharded) and how == signal.SIGKILL  # the steps since all saved the state together
        assert done == before if lost else before < done < tiny_train.STEPS
    monkeypatch.setattr(train, "run", tiny_train.run)
    monkeypatch.setattr(tiny_train, "PAUSE", 0)
    for out in ("broken", "whole"):
        train.main(["--stage", "ibpo", "--out", str(tmp_path / out)])
    assert [line["step"] for line in lines_of(log)] == list(range(tiny_train.STEPS))
    assert not sharding.newest_state(log.parent)
    broken, whole = (llama.load(tmp_path / out / "ibpo-50").state_dict() for out in ("broken", "whole"))
    assert all(torch.equal(broken[name], whole[name]) for name in whole)
