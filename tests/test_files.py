"""Files that are whole or absent, and seeds.

    pytest tests/test_files.py
"""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from plumbing.files import WHOLE, atomic_write, derive_seed, fingerprint, shuffled

ROOT = Path(__file__).resolve().parent.parent


class PowerCut(Exception):
    """Nothing catches this."""


def test_two_writers_of_one_file(tmp_path):
    """The file is what either of them wrote, whole; nothing else is left, nor after a failure."""
    path = tmp_path / "file.json"
    with atomic_write(path) as mine:
        mine.write_text("mine")
        assert not path.exists()
    with pytest.raises(PowerCut), atomic_write(path) as mine:
        mine.write_text("half")
        raise PowerCut
    assert path.read_text() == "mine" and list(tmp_path.iterdir()) == [path]
    other = f"import os, sys; os.getpid = lambda: 1; sys.path.insert(0, {str(ROOT)!r})\n" \
            f"from plumbing.files import atomic_write\n" \
            f"with atomic_write(__import__('pathlib').Path({str(path)!r})) as theirs: theirs.write_text('theirs')"
    with atomic_write(path) as mine:
        mine.write_text("mine again")
        subprocess.run([sys.executable, "-c", other], check=True)
        assert path.read_text() == "theirs"
    assert path.read_text() == "mine again" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("size, batch", [(10, 3), (10, 5), (7, 7), (5, 12), (1, 4), (64, 64), (13, 1)])
def test_shuffled_visits_every_item_once_per_epoch(size, batch):
    epochs = 4
    items = [i for step in range(max(-(-epochs * size // batch), 3)) for i in shuffled(size, step, batch, seed=3)]
    orders = [tuple(items[e * size : (e + 1) * size]) for e in range(epochs)]
    assert all(sorted(order) == list(range(size)) for order in orders)
    assert size < 7 or len(set(orders)) == epochs  # in a new order each time
    assert shuffled(size, 2, batch, seed=3) == items[2 * batch : 3 * batch]  # a step knows its place
    assert size < 7 or items[:size] != [i for step in range(size) for i in shuffled(size, step, 1, seed=4)]


def test_shuffled_is_uniform():
    first = Counter(shuffled(8, 0, 1, seed)[0] for seed in range(4000))
    assert len(first) == 8 and all(400 < n < 600 for n in first.values())


def test_derive_seed_seed():
    names = [(seed, name, step) for seed in range(20) for name in ("r", "v", "select") for step in range(50)]
    assert len({derive_seed(*n) for n in names}) == len(names)
    assert derive_seed(0, "sft") == derive_seed(0, "sft") and all(0 <= derive_seed(*n) < 2**32 for n in names)


def test_fingerprint_follows_the_content(tmp_path):
    """Not the name or the time; of a directory, the files that decide what a model answers."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(bytes(range(256)) * 9000)
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "b" / "log.jsonl").write_text("of no account")
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")
    content = bytearray((tmp_path / "b" / "model.safetensors").read_bytes())
    content[1_500_000] ^= 1
    (tmp_path / "b" / "model.safetensors").write_bytes(content)
    assert fingerprint(tmp_path / "a") != fingerprint(tmp_path / "b")
    large = tmp_path / "large"
    with large.open("wb") as file:  # sparse
        file.truncate(WHOLE + 5)
    before = fingerprint(large)
    with large.open("r+b") as file:
        file.seek(WHOLE)
        file.write(b"x")
    assert fingerprint(large) != before
