"""Every notebook runs from top to bottom, and prints what is committed with it.

    pytest tests/test_notebooks.py

Processors differ in the last bits of a float. So a printed decimal may differ by two units in its last place, and
times are not compared. Words, whole numbers and the number of figures must be the same.
"""

import re
from itertools import zip_longest
from pathlib import Path

import nbclient
import nbformat
import pytest
from jupyter_client import AsyncKernelManager
from jupyter_core.utils import run_sync

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))
NUMBER = re.compile(r"[+-]?\d+(?:\.(\d*))?(?:e([+-]?\d+))?")  # the groups: decimals, exponent
LINK = re.compile(r"\]\((?!https?:)([^()\s]+)\)")  # [text](target), of files
SOLUTION = re.compile(r"```python\n(.*?)```", re.DOTALL)
TIME = re.compile(r"\d+(?:\.\d+)? m?s\b")


# What a notebook leaves behind, and the next one must not find: names, its path, this repository's modules, settings.
LIKE_NEW = """
%reset -f
import sys
sys.path[:] = [entry for entry in sys.path if entry != ROOT]
for name, module in [*sys.modules.items()]:
    file = getattr(module, "__file__", None) or ""
    if file.startswith(ROOT) and "site-packages" not in file:
        del sys.modules[name]
if "torch" in sys.modules:
    sys.modules["torch"].set_grad_enabled(True)
if "matplotlib" in sys.modules:
    sys.modules["matplotlib"].rcdefaults()
%reset -f
"""


@pytest.fixture(scope="module")
def kernel():
    """One for all notebooks: starting it and importing torch takes seconds."""
    manager = AsyncKernelManager()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.delenv("MPLBACKEND", raising=False)  # the kernel's own, which shows figures
        yield manager
    if manager.has_kernel:
        run_sync(manager.shutdown_kernel)(now=True)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_runs(path: Path, kernel):
    notebook = nbformat.read(path, as_version=4)
    committed = outputs(notebook)
    assert any(text for text, _ in committed), "it is committed without its outputs"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(LIKE_NEW.replace("ROOT", repr(str(path.parent.parent)))))
    client = nbclient.NotebookClient(notebook, kernel, timeout=900, resources={"metadata": {"path": str(path.parent)}})
    client.execute()
    client.kc.stop_channels()
    for (now, figures_now), (before, figures_before) in zip(outputs(notebook)[1:], committed, strict=True):
        assert not difference(now, before)
        assert figures_now == figures_before


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_is_part_of_the_road(path: Path):
    first, *_, last = nbformat.read(path, as_version=4).cells
    assert "**What you will learn.**" in first.source and "**What to have read.**" in first.source
    assert last.source.count("<details>") == last.source.count("</details>") == 3
    assert "**Where to go next:**" in last.source
    for solution in SOLUTION.findall(last.source):
        compile(solution, path.name, "exec")
    assert path.name in (path.parent / "README.md").read_text()


@pytest.mark.parametrize("path", [*NOTEBOOKS, NOTEBOOKS[0].parent / "README.md"], ids=lambda path: path.name)
def test_links_lead_to_files(path: Path):
    text = path.read_text()
    for link in LINK.findall(text):
        assert (path.parent / link).exists(), link


def outputs(notebook) -> list[tuple[str, int]]:
    """What each code cell printed, and how many figures it showed."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            text = "".join(output.text for output in cell.outputs if output.get("name") == "stdout")
            figures = sum("image/png" in output.get("data", {}) for output in cell.outputs)
            found.append((text, figures))
    return found


def difference(now: str, before: str) -> str:
    """The first difference that no processor explains, in words; empty if there is none."""
    now, before = TIME.sub("TIME", now), TIME.sub("TIME", before)
    words, expected_words = (NUMBER.sub(" # ", text).split() for text in (now, before))
    for word, expected in zip_longest(words, expected_words, fillvalue="nothing"):
        if word != expected:
            return f"{word!r}, but committed is {expected!r}"
    for number, expected in zip(NUMBER.finditer(now), NUMBER.finditer(before), strict=True):
        last_place = max(last_place_of(number), last_place_of(expected))
        if abs(float(number[0]) - float(expected[0])) > 2.001 * last_place:
            return f"{number[0]}, but committed is {expected[0]}"
    return ""


def last_place_of(number: re.Match) -> float:
    """0.01 for 3.25, 0.1 for 1.5e0; 0 for a whole number, which must be the same on every machine."""
    decimals, exponent = number.groups()
    if not decimals and not exponent:
        return 0.0
    return 10.0 ** (int(exponent or 0) - len(decimals or ""))


COMMITTED = "gap 0.25  price 87.365 of 1,024 prompts, below 1e-9, 32 ms\n[0.1 0. ]"


@pytest.mark.parametrize("now", [
    COMMITTED,
    COMMITTED.replace("0.25", "0.26"),  # rounding at .5
    COMMITTED.replace("87.365", "87.363"),
    COMMITTED.replace("32 ms", "1480 ms"),
    COMMITTED.replace("  ", "      "),
    COMMITTED.replace("0.1", "-0.0"),
])
def test_what_processors_explain_is_no_difference(now: str):
    assert difference(now, COMMITTED) == ""


@pytest.mark.parametrize("now, found", [
    (COMMITTED.replace("0.25", "0.28"), "0.28"),
    (COMMITTED.replace("87.365", "87.361"), "87.361"),
    (COMMITTED.replace("1,024", "1,023"), "023"),  # a whole number
    (COMMITTED.replace("gap", "gain"), "gain"),
    (COMMITTED.replace("below 1e-9", "6e-14"), "#"),
    (COMMITTED.replace("87.365", "nan"), "nan"),
    (COMMITTED.replace("87.365", "-87.365"), "-87.365"),
    (COMMITTED + " 3", "nothing"),
    (COMMITTED.removesuffix("[0.1 0. ]"), "nothing"),
    ("", "nothing"),
])
def test_everything_else_is_a_difference(now: str, found: str):
    assert found in difference(now, COMMITTED)
