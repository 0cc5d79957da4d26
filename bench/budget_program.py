"""budget.py against scipy's milp (HiGHS) in processor time: 1,024 prompts with 8 responses each.

    OMP_NUM_THREADS=1 python bench/budget_program.py              # about ten seconds
    OMP_NUM_THREADS=1 python bench/budget_program.py --full       # with three budgets, where milp takes a minute

Both solve the same batches. "milp" is the same program: as many prompts as possible first. "told" is an easier one for
milp: it is told that all prompts with a right response can be served. Both stop at milp's default gap of 1e-4; in
"milp", where a prompt outweighs all values, that is loose, and in its favour.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.optimize import LinearConstraint, milp
from scipy.sparse import csr_array, eye_array, kron

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import budget  # noqa: E402

PROMPTS, RESPONSES, BATCHES = 1024, 8, 3
SHORT, LONG = 1, 2  # groups; 0 is a regular response
PROGRAMS = {  # name -> (costs of the responses, caps)
    "votes": (lambda group, tokens: [group > 0], [0.3]),
    "tokens": (lambda group, tokens: [tokens], [100.0]),
    "votes, tokens": (lambda group, tokens: [group > 0, tokens], [0.3, 100.0]),
    "short, long votes": (lambda group, tokens: [group == SHORT, group == LONG], [0.2, 0.1]),
    "short, long, tokens": (lambda group, tokens: [group == SHORT, group == LONG, tokens], [0.2, 0.1, 95.0]),
}


def batch(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """value, correct, group, tokens, each [n, m]: regular, short and long votes on easy and hard prompts."""
    hard = rng.random((PROMPTS, 1))
    group = rng.choice(3, (PROMPTS, RESPONSES), p=[0.5, 0.25, 0.25])
    correct = rng.random((PROMPTS, RESPONSES)) < 1 - 0.9 * hard + 0.25 * hard * group
    tokens = np.round(np.array([60, 150, 280])[group] * rng.uniform(0.7, 1.4, group.shape))
    return budget.group_margin(correct, group), correct, group, tokens


def by_milp(value: np.ndarray, costs: list[np.ndarray], caps: list[float], correct: np.ndarray, told: bool) -> float:
    """The value of the best choice. told: exactly one right response for each prompt that has any."""
    solvable = correct.any(axis=1)
    n, m = value[solvable].shape
    net = (np.array(costs, float) - np.array(caps)[:, None, None])[:, solvable].reshape(len(costs), n * m)
    value = value[solvable].ravel()
    coverage_first = 0 if told else 2 * n + 1  # one prompt outweighs all values
    one_each = LinearConstraint(kron(eye_array(n), np.ones((1, m)), "csr"), 1 if told else 0, 1)
    within = LinearConstraint(csr_array(net), ub=0)
    result = milp(-(value + coverage_first), integrality=np.ones(n * m), bounds=(0, correct[solvable].ravel()),
                  constraints=[one_each, within], options={"time_limit": 60})
    return result.x.round() @ value


def timed(function: Callable, *arguments) -> tuple[float, object]:
    """Milliseconds of processor time, and the result."""
    begin = time.process_time()
    result = function(*arguments)
    return 1000 * (time.process_time() - begin), result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="three budgets, too")
    full = parser.parse_args().full
    print(f"{PROMPTS} prompts, {RESPONSES} responses, {BATCHES} batches; milliseconds of processor time, the mean\n")
    print(f"{'':20}{'ours':>7}{'milp':>8}{'ratio':>7}{'told':>8}{'ratio':>7}"
          f"   value:{'ours':>9}{'told':>9}{'bound':>9}")
    for name, (costs_of, caps) in PROGRAMS.items():
        if len(caps) > 2 and not full:
            continue
        rows = []
        for seed in range(BATCHES):
            value, correct, group, tokens = batch(np.random.default_rng(seed))
            costs = costs_of(group, tokens)
            budget.select(value, costs, caps, correct, rng=0)  # warm up
            ours, allocation = timed(budget.select, value, costs, caps, correct, False, False, 0)
            theirs, _ = timed(by_milp, value, costs, caps, correct, False)
            told, best = timed(by_milp, value, costs, caps, correct, True)
            assert allocation.dropped_over_cap == 0, "the two programs are not the same"
            rows.append((ours, theirs, told, allocation.value, best, allocation.lp_value))
        ours, theirs, told, *values = np.mean(rows, axis=0)
        print(f"{name:20}{ours:7.1f}{theirs:8.0f}{theirs / ours:6.0f}x{told:8.0f}{told / ours:6.0f}x         "
              + "".join(f"{x:9.3f}" for x in values), flush=True)


if __name__ == "__main__":
    main()
