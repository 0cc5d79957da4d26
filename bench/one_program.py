"""What one budgeted program for all processes is worth beside a program for each: a simulation.

    python bench/one_program.py                  # ten seconds

The paper trains on 8 nodes with 4 batches of 4 prompts each, 128 prompts to a step (Table 8). If each node solves
Eq. (8) for itself, two things are lost. A node of 16 prompts may accept floor(q+ * accepted) votes, and what is cut off
stays unspent on every node. And it can only compare its own prompts: one that is hard on a node of hard prompts gets no
vote, though it would among all. Here both ways choose from the same responses.

    used       share of votes among the accepted responses; q+ is the most there may be
    gained     what these votes add to the chance of a right answer, per prompt of the step, in points
    accepted   of 128 prompts
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import ibpo

PROMPTS, RESPONSES, STEPS = 128, 8, 300


def step(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """correct, extended [n, m] of a step, and what a vote adds to the chance of a right answer on each prompt [n]."""
    right = rng.random(PROMPTS)  # chance of a right trial
    with_vote = right + right**2 * (1 - right)  # of a plurality of three: no two wrong answers agree, ties to the first
    extended = rng.random((PROMPTS, RESPONSES)) < 0.5
    return rng.random((PROMPTS, RESPONSES)) < np.where(extended, with_vote[:, None], right[:, None]), extended, (
        with_vote - right)


def main() -> None:
    print(f"{PROMPTS} prompts, {RESPONSES} responses; mean of {STEPS} steps, all from the same responses\n")
    print(f"{'q+':>5}  {'programs':14}{'used':>8}{'gained':>9}{'accepted':>10}")
    for cap in (0.25, 0.5, 0.75):
        for programs in (1, 2, 4, 8, 32):
            rows = []
            for seed in range(STEPS):
                rng = np.random.default_rng(seed)
                correct, extended, gain = step(rng)
                parts = np.split(np.arange(PROMPTS), programs)
                found = [ibpo.select_ibpo(correct[part], extended[part], cap, rng=rng) for part in parts]
                weights = np.concatenate([selection.weights for selection in found])  # float[n, m]
                votes = (weights * extended).any(axis=1)  # bool[n]
                accepted = sum(selection.accepted for selection in found)
                rows.append((votes.sum() / accepted, 100 * (gain * votes).mean(), accepted))
            used, gained, accepted = np.mean(rows, axis=0)
            print(f"{cap:5.2f}  {f'{programs} of {PROMPTS // programs}':14}{used:8.3f}{gained:9.2f}{accepted:10.1f}",
                  flush=True)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
