"""
budget.py against scipy's milp (HiGHS) in processor time: 1,024 prompts with 8 responses each.

    OMP_NUM_THREADS=1 python tests/bench_budget.py              # about ten seconds
    OMP_NUM_THREADS=1 python tests/bench_budget.py --full       # with three budgets, where milp takes a minute

Both solve the same batches. "milp" is the same program: as many prompts as possible first. "told" is milp with an
easier one: it is told that all prompts with a right response can be served. Both may stop at milp's default gap of 1e-4.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from scipy.optimize import LinearConstraint, milp
from scipy.sparse import csr_array, eye_array, kron

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import budget  # noqa: E402

PROMPTS, RESPONSES, BATCHES = 1024, 8, 3


def batch(rng):
    """value, correct, mode, tokens, each [n, m]: regular, short and long votes on easy and hard prompts."""
    hard = rng.random((PROMPTS, 1))
    mode = rng.choice(3, (PROMPTS, RESPONSES), p=[0.5, 0.25, 0.25])
    correct = rng.random((PROMPTS, RESPONSES)) < 1 - 0.9 * hard + 0.25 * hard * mode
    tokens = np.round(np.array([60, 150, 280])[mode] * rng.uniform(0.7, 1.4, mode.shape))
    return budget.mode_margin(correct, mode), correct, mode, tokens


def by_milp(value, costs, caps, correct, told):
    """float: the value of the best choice. told: exactly one right response for each prompt that has any."""
    solvable = correct.any(axis=1)
    n, m = value[solvable].shape
    net = (np.array(costs, float) - np.array(caps)[:, None, None])[:, solvable].reshape(len(costs), n * m)
    value = value[solvable].ravel()
    coverage_first = 0 if told else 2 * n + 1                                   # one prompt outweighs all values
    result = milp(-(value + coverage_first), integrality=np.ones(n * m), bounds=(0, correct[solvable].ravel()),
                  constraints=[LinearConstraint(kron(eye_array(n), np.ones((1, m)), "csr"), 1 if told else 0, 1),
                               LinearConstraint(csr_array(net), ub=0)], options={"time_limit": 60})
    return result.x.round() @ value


def timed(function, *arguments):
    begin = time.process_time()
    result = function(*arguments)
    return time.process_time() - begin, result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="three budgets, too")
    full = parser.parse_args().full
    programs = {
        "votes": (lambda mode, tokens: [mode > 0], [0.3]),
        "tokens": (lambda mode, tokens: [tokens], [100.0]),
        "votes, tokens": (lambda mode, tokens: [mode > 0, tokens], [0.3, 100.0]),
        "short, long votes": (lambda mode, tokens: [mode == 1, mode == 2], [0.2, 0.1]),
        "short, long, tokens": (lambda mode, tokens: [mode == 1, mode == 2, tokens], [0.2, 0.1, 95.0])}
    print(f"{PROMPTS} prompts, {RESPONSES} responses, {BATCHES} batches; milliseconds of processor time, the mean\n")
    print(f"{'':20}{'ours':>7}{'milp':>8}{'ratio':>7}{'told':>8}{'ratio':>7}"
          f"   value:{'ours':>9}{'milp':>9}{'bound':>9}")
    for name, (costs_of, caps) in programs.items():
        if len(caps) > 2 and not full:
            continue
        rows = []
        for seed in range(BATCHES):
            value, correct, mode, tokens = batch(np.random.default_rng(seed))
            costs = costs_of(mode, tokens)
            budget.select(value, costs, caps, correct, rng=0)                   # warm up
            ours, allocation = timed(budget.select, value, costs, caps, correct, False, False, 0)
            theirs, _ = timed(by_milp, value, costs, caps, correct, False)
            told, best = timed(by_milp, value, costs, caps, correct, True)
            assert allocation.dropped_over_cap == 0                             # else the programs are not the same
            rows.append((1000 * ours, 1000 * theirs, 1000 * told, allocation.value, best, allocation.lp_value))
        ours, theirs, told, *values = np.mean(rows, axis=0)
        print(f"{name:20}{ours:7.1f}{theirs:8.0f}{theirs / ours:6.0f}x{told:8.0f}{told / ours:6.0f}x         "
              + "".join(f"{x:9.3f}" for x in values), flush=True)


if __name__ == "__main__":
    main()
