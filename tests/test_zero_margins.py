"""experiments/zero_margins.py: the signs of margins, counted by hand.

    pytest tests/test_zero_margins.py
"""

import subprocess
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


@pytest.mark.slow
def test_the_command():
    run = [sys.executable, "experiments/zero_margins.py"]
    done = subprocess.run([*run, "checkpoints/ibpo", "--prompts", "50"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 4, done.stderr
    for directory, says in (("nowhere", "nowhere"), ("checkpoints/base", "does not decide for itself")):
        wrong = subprocess.run([*run, directory], cwd=ROOT, capture_output=True, text=True)
        assert wrong.returncode and wrong.stderr.startswith("error: ") and wrong.stderr.count("\n") == 1
        assert says in wrong.stderr
