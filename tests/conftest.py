"""The longest files come first, so that the two workers of `make test` end at about the same time."""

import logging
import signal
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

LONGEST_FIRST = ["test_distributed.py", "test_notebooks.py", "test_pipeline.py", "test_sample.py", "test_sharding.py"]


def pytest_collection_modifyitems(items: list) -> None:
    order = {name: i for i, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))
    for item in items:
        if item.path.name == "test_pipeline.py" and "runs" in item.fixturenames:  # they wait for three trainings
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def signals_as_at_a_terminal():
    """Under nohup and in the background some signals are ignored, and programs that we test would ignore them, too."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    previous = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in previous.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    """Wherever pytest was started; and with as many threads as before."""
    monkeypatch.chdir(ROOT)
    threads = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None
    yield
    if threads:
        sys.modules["torch"].set_num_threads(threads)


@pytest.fixture
def launch(monkeypatch, capfd):
    """launch(2, "program.py", ...): what `python program.py ...` does in two processes; its exit status and output.

    This process is the launcher. It has torch already, and importing it takes two seconds in each that is started.
    """
    from plumbing import distributed

    def hangs(*_) -> None:
        raise TimeoutError("the processes have not ended after two minutes")

    def launched(processes: int, *command) -> tuple[int, str]:
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
            patch.chdir(ROOT)
            patch.setattr(sys, "argv", [*map(str, command)])
            for name, value in {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}.items():
                patch.setenv(name, value)
            capfd.readouterr()
            signal.signal(signal.SIGALRM, hangs)
            signal.alarm(120)
            try:
                distributed.run(None, processes, "cpu")
            finally:
                signal.alarm(0)
        logging.disable(logging.NOTSET)
        return stop.value.code, "".join(capfd.readouterr())

    return launched
