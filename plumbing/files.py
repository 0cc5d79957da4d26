"""Files that are whole or absent, also after a power cut; what tells whether a file is the same; seeds."""

import hashlib
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def flush(path: Path) -> None:
    """Return when the file is on the disk: a power cut soon after writing would else leave it empty."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Write to the temporary path that this yields; afterwards it replaces `path`, all of it or nothing.

        with atomic_write(path) as temporary:
            temporary.write_text(text)
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # two processes may write the same
    try:
        yield temporary
        flush(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


WHOLE = 1 << 26  # bytes; of larger files a fingerprint reads pieces


def fingerprint(path: Path) -> str:
    """What tells whether a file or a checkpoint directory is the same: a digest of its bytes, whatever its name or age.

    Of a file over 64 MiB: of its size, its first and last MiB, and 62 more at equal distances. Of a directory: of the
    files that decide what a model answers.
    """
    path, digest = Path(path), hashlib.sha256()
    if path.is_dir():
        for file in sorted(path.iterdir()):
            if file.suffix in (".safetensors", ".jinja") or file.name in (
                    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
                digest.update(f"{file.name} {fingerprint(file)}\n".encode())
        return digest.hexdigest()[:16]
    size, piece = path.stat().st_size, 1 << 20
    digest.update(str(size).encode())
    with path.open("rb") as file:
        starts = range(0, size, piece) if size <= WHOLE else [i * (size - piece) // 63 for i in range(64)]
        for start in starts:
            file.seek(start)
            digest.update(file.read(piece))
    return digest.hexdigest()[:16]


def digest(value) -> str:
    """A short digest of a value, by its repr."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def derive_seed(*names) -> int:
    """A seed made of names: every stage, step and purpose has its own, so a resumed run is bit-identical."""
    return int.from_bytes(hashlib.sha256(repr(names).encode()).digest()[:4])


def shuffled(size: int, step: int, batch: int, seed: int) -> list[int]:
    """Which of `size` items make up a step's batch: all of them once per epoch, in a new order each time."""
    first = step * batch
    orders = {}
    for epoch in range(first // size, (first + batch - 1) // size + 1):
        orders[epoch] = random.Random(f"{seed} {epoch}").sample(range(size), size)
    return [orders[i // size][i % size] for i in range(first, first + batch)]
