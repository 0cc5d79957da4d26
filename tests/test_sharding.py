"""plumbing/sharding.py: a model cut into parts learns what a whole one learns, and goes on in any number of parts.

    pytest tests/test_sharding.py
"""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from sharded import run_stage
from tiny import build

import llama
from plumbing import distributed, sharding

ROOT = Path(__file__).resolve().parent.parent


def weights_of(directory) -> torch.Tensor:
    return torch.cat([weight.flatten() for weight in llama.load(directory / "base").state_dict().values()])


@pytest.mark.slow
def test_shards_are_a_model(tmp_path, launch):
    """2 and 3 processes: gradients, random bits, whole stages, and one stage by 2, by 3, then by 1 process.

    At last one of 3 fails in a step: all end.
    """
    run_stage(tmp_path / "one")
    for processes in (2, 3):
        status, printed = launch(processes, "tests/sharded.py", tmp_path, processes)
        assert status == (processes == 3) and printed.count("all is well") == 1, printed
    assert "continues at step 2 of 6" in printed and printed.count("Traceback") == 1, printed
    assert "ZeroDivisionError" in printed and "process 0: base: stopped after step 2" in printed, printed
    assert not sharding.newest_state(tmp_path / "fails/base")  # the part of process 1 is lost
    assert [path.name for path in sorted((tmp_path / "fails/base").glob("state*"))] == [
        "state-2-0-of-3.pt", "state-2-2-of-3.pt"]
    run_stage(tmp_path / "travels")
    run_stage(tmp_path / "bf16", dtype="bf16")
    files = sorted(path.name for path in (tmp_path / "one/base").iterdir())
    expected, first = weights_of(tmp_path / "one"), build()
    moved = (expected - torch.cat([weight.flatten() for weight in first.state_dict().values()])).abs().mean()
    for name in ("whole 2", "whole 3", "travels"):
        assert sorted(path.name for path in (tmp_path / name / "base").iterdir()) == files  # no state is left
        assert (weights_of(tmp_path / name) - expected).abs().mean() < 0.01 * moved
        logs = [[json.loads(line) for line in (tmp_path / each / "base/log.jsonl").read_text().splitlines()]
                for each in ("one", name)]
        for one, other in zip(*logs, strict=True):
            assert other == pytest.approx(one, rel=1e-4)
    again, whole = tmp_path / "again/base", tmp_path / "whole 2/base"
    assert (again / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_a_state_counts_when_all_its_parts_are_there(tmp_path):
    def newest(*names):
        sharding.remove_states(tmp_path)
        for name in names:
            (tmp_path / name).write_text("")
        return [path.name for path in sharding.newest_state(tmp_path)]

    assert newest() == []
    assert newest("state.pt") == ["state.pt"]
    assert newest("state-9-0-of-2.pt", "state-9-1-of-2.pt", "state-12-0-of-2.pt") == [
        "state-9-0-of-2.pt", "state-9-1-of-2.pt"]
    assert newest("state.pt", "state-12-1-of-2.pt", "state-12-0-of-3.pt", "state-12-2-of-3.pt") == ["state.pt"]
    assert newest("state-9-0-of-1.pt", "state-12-1-of-2.pt", "state-12-0-of-2.pt") == [
        "state-12-0-of-2.pt", "state-12-1-of-2.pt"]
    assert newest(*(f"state-1-{i}-of-11.pt" for i in range(11)))[-1] == "state-1-10-of-11.pt"
    assert newest("state-1-0-of-2.pt", "state-1-1-of-2.pt.7.tmp", "state-x-1-of-2.pt") == []


def test_what_a_step_takes_at_scale():
    """By hand, and as the plan in plumbing/distributed.py has it."""
    specification = importlib.util.spec_from_file_location("scale", ROOT / "bench" / "scale.py")
    scale = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(scale)
    one, eight, many = map(scale.step_on, (1, 8, 64))
    assert scale.time_of_token(0) == pytest.approx(2 * 7.505e9 / 1.34e12)  # all weights, at 40 % of 3.35 TB/s
    assert one.state == 64.24e9 and eight.state == one.state / 8 and one.learning == pytest.approx(64 * many.learning)
    assert one.learning == pytest.approx(128 * 1972 * 8 * 7.505e9 / 395.6e12)
    assert one.sampling == pytest.approx(1024 * 1722 / one.rate) and many.sampling == many.longest == eight.sampling
    assert one.rows == 0.8 * (80e9 - 6e9 - 6 * 8.03e9) // (1111 * 131_072)  # 250 tokens and half a response
    lines = distributed.__doc__.splitlines()
    for step in (one, eight, many):
        words = next(line for line in lines if line.split()[:1] == [str(step.gpus)]).split()
        numbers = [step.sampling_memory / 1e9, step.learning_memory / 1e9, step.rate, step.sampling, step.learning]
        assert [words[i] for i in (1, 2, 3, 4, 6)] == [f"{number:,.0f}" for number in numbers]
    assert f"room for {one.rows} responses" in distributed.__doc__ and eight.rows == 128  # all of them
