"""The longest file comes first, so that the two workers of `make test` end at about the same time."""

import pytest

LONGEST_FIRST = ["test_pipeline.py", "test_distributed.py", "test_notebooks.py"]


def pytest_collection_modifyitems(items: list) -> None:
    order = {name: i for i, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))
    for item in items:
        if item.path.name == "test_pipeline.py" and "runs" in item.fixturenames:  # they wait for three trainings
            item.add_marker(pytest.mark.slow)
