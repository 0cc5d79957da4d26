"""experiments/zero_margins.py: the signs of margins, counted by hand.

    pytest tests/test_zero_margins.py
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import zero_margins

ROOT = Path(__file__).resolve().parent.parent


def test_signs_and_what_they_decide():
    """Two regular responses, two votes, then others that m = 4 does not see."""
    votes = np.tile([0, 0, 1, 1, 1, 1], (5, 1)).astype(bool)
    correct = np.array([[1, 1, 1, 1, 0, 0],  # Δ = 0
                        [1, 0, 1, 1, 0, 0],  # Δ > 0
                        [1, 1, 1, 0, 0, 0],  # Δ < 0
                        [1, 1, 1, 1, 0, 0],  # Δ = 0
                        [0, 0, 0, 0, 1, 1]]).astype(bool)  # nothing right among the first four
    rollout = SimpleNamespace(correct=correct, extended=votes, valid=np.ones_like(votes))
    assert zero_margins.signs(rollout, 4) == [0.25, 0.5, 0.25, 0.25, 0.75]
    assert zero_margins.signs(rollout, 6)[:3] == [0.2, 0.2, 0.6]  # row 2 has two of four votes right now


def command(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["zero_margins.py", *arguments])
    zero_margins.main()


@pytest.mark.slow
def test_the_command(monkeypatch, capsys):
    command(monkeypatch, str(ROOT / "checkpoints/ibpo"), "--prompts", "10")
    assert len(capsys.readouterr().out.splitlines()) == 4


@pytest.mark.parametrize("directory, says", [("nowhere", "nowhere"), ("base", "does not decide for itself")])
def test_what_it_cannot_measure_is_one_clear_line(directory, says, monkeypatch):
    with pytest.raises(SystemExit, match=says) as stop:
        command(monkeypatch, str(ROOT / "checkpoints" / directory))
    assert str(stop.value).startswith("error: ") and "\n" not in str(stop.value)
