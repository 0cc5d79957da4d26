"""Interruptions: Ctrl-C, SIGTERM and SIGHUP are treated alike, and held back where a step must not be cut in two."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Stopped(KeyboardInterrupt):
    """Ctrl-C, SIGTERM or SIGHUP (Slurm, docker stop, a lost connection), all treated alike. The message is one line."""

    def __init__(self, number: int, text: str = ""):
        super().__init__(text)
        self.number = number


SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Within the block SIGTERM and SIGHUP raise Stopped."""
    def stop(number, frame):
        raise Stopped(number)

    heeded = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup ignores one
    previous = {number: signal.signal(number, stop) for number in heeded}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """128 + the number of the signal, as shells have it."""
    return 128 + getattr(interrupt, "number", signal.SIGINT)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C, SIGTERM and SIGHUP back until the block is done."""
    pending = []
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, *SIGNALS)}
    try:
        for number in previous:  # one may still raise here
            signal.signal(number, lambda number, frame: pending.append(number))
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if pending:
        signal.raise_signal(pending[0])
