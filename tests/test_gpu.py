"""bench/gpu.py: its checks hold on this machine's processors, and it runs through on a CPU with tiny models.

    pytest tests/test_gpu.py
"""

import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "bench"))
import device_checks  # noqa: E402
import gpu  # noqa: E402

import sample  # noqa: E402
from plumbing import plan  # noqa: E402

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("name", device_checks.CHECKS)
@pytest.mark.slow
def test_device(name, device):
    device_checks.CHECKS[name](device)


@pytest.mark.slow
def test_it_runs_through(tmp_path, capsys, monkeypatch):
    """Each part, beside both ways of transformers; what it writes is what the plan reads."""
    monkeypatch.setattr(device_checks, "CHECKS", dict([*device_checks.CHECKS.items()][:2]))  # above are all of them
    found = gpu.main(["--device", "cpu", "--tiny", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert [*found["checks"].values()] == ["passed"] * 2 and "FAILED" not in printed
    (row,) = found["sampling"]
    assert row["tokens_per_second"] > 0 and row["generate"] > 0 and row["generate_batch"] > 0
    assert 1 <= row["rows"] <= gpu.FEW.slots and 0 < row["share"] < 1
    assert [row["checkpointing"] for row in found["learning"]] == [True, False]
    assert all(row["tokens_per_second"] > 0 and 0 < row["share"] < 1 for row in found["learning"])
    assert all(found["step"][part]["seconds"] > 0 for part in ("sampling", "judging", "learning", "updating"))
    assert json.loads((tmp_path / "CPU.json").read_text()) == found
    kept = gpu.main(["--device", "cpu", "--tiny", "--out", str(tmp_path), "--only", "learning"])
    assert kept["step"] == found["step"]
    written = json.loads((tmp_path / "CPU.json").read_text())
    del written["sampling"]  # as after --only learning in an empty folder
    (tmp_path / "CPU.json").write_text(json.dumps(written))
    monkeypatch.setattr(plan, "MEASURED", tmp_path)
    rates = plan.rates_of("CPU", 10**6)
    assert rates.learning == written["learning"][0]["share"] and rates.products == written["products"]
    assert rates.sampling == plan.ASSUMED["sampling"] and "measured" in rates.source


def test_responses_end_where_they_should():
    """Whatever the model would write: the given id at the given place, and not before."""
    model = device_checks.tiny_model("cpu")
    lengths = [1, 9, 4, 4, 20, 2]
    plain = sample.generate(model, [[5, 6]] * 6, 20, seed=3)
    with gpu.given_lengths(lengths, stop=7):
        made = sample.generate(model, [[5, 6]] * 6, 21, stop_ids=(7,), seed=3, slots=4)
    assert [len(r.ids) for r in made] == lengths and all(r.ids.index(7) == len(r.ids) - 1 for r in made)
    for one, other in zip(made, plain):
        before = other.ids[: other.ids.index(7)] if 7 in other.ids else other.ids  # equal up to the first 7
        shared = min(len(before), len(one.ids) - 1)
        assert one.ids[:shared] == before[:shared]


@pytest.mark.parametrize("arguments", [["--device", "cpu"], *[[]] * (not torch.cuda.is_available())])
def test_without_a_gpu_it_says_what_to_do(arguments):
    with pytest.raises(SystemExit) as stop:
        gpu.main(arguments)
    assert "--tiny" in stop.value.code and "\n" not in stop.value.code
