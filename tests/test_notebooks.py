"""Every notebook runs from top to bottom, in the state in which it is committed: with its outputs.

    pytest tests/test_notebooks.py
"""

from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_runs(path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(path, as_version=4)
    kept = [printed(cell) for cell in notebook.cells if cell.cell_type == "code"]
    assert any(kept), "it is committed without its outputs"
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(path.parent)}}).execute()
    assert notebook.cells[-1].cell_type == "markdown"
    again = [printed(cell) for cell in notebook.cells if cell.cell_type == "code"]
    assert [bool(text) for text in again] == [bool(text) for text in kept]


def printed(cell) -> str:
    return "".join(output.get("text", "") for output in cell.outputs if output.get("name") == "stdout")
