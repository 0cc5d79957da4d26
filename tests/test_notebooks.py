"""Every notebook runs from top to bottom, in the state in which it is committed: with its outputs.

    pytest tests/test_notebooks.py
"""

import re
from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))
NUMBER, TIME = re.compile(r"-?\d+(?:\.\d+)?"), re.compile(r"\d+ ms")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_runs(path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(path, as_version=4)
    kept = [printed(cell) for cell in notebook.cells if cell.cell_type == "code"]
    assert any(kept), "it is committed without its outputs"
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(path.parent)}}).execute()
    assert notebook.cells[-1].cell_type == "markdown"
    again = [printed(cell) for cell in notebook.cells if cell.cell_type == "code"]
    for now, before in zip(again, kept, strict=True):  # the same words; the same numbers, but for times and rounding
        assert NUMBER.sub("", now).split() == NUMBER.sub("", before).split()
        assert numbers(now) == pytest.approx(numbers(before), rel=0.02, abs=0.01)


def numbers(text: str) -> list[float]:
    return [float(number) for number in NUMBER.findall(TIME.sub("", text))]


def printed(cell) -> str:
    return "".join(output.get("text", "") for output in cell.outputs if output.get("name") == "stdout")
