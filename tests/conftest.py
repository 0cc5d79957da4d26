"""The longest files come first, so that the two workers of `make test` end at about the same time."""

import signal

import pytest

LONGEST_FIRST = ["test_distributed.py", "test_notebooks.py", "test_sample.py", "test_pipeline.py", "test_memory.py"]


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
