"""Processes or threads: how fast an IBPO step samples and learns, and how evenly its prompts can be dealt out.

    python bench/processes.py                    # about five minutes on two cores; --rounds 1 for less

Every round runs each way once, one after the other, so that a busy machine slows all alike; ratios are medians over
rounds. sampling: tokens per second of wall time on ASV prompts, the gathering of the responses included. learning:
seconds for a gradient over 64 of the responses, the sum over processes included. uneven: time that the slowest process
samples, over the mean. "sharded" (plumbing/sharding.py): sampling includes the gathering of the weights. "busy": beside
a program that computes on one core all the time; on two cores, two processes then get two thirds of the time.

The second table deals the same prompts out to more processes than this machine may have, and counts the tokens that
each then samples: the most over the mean, in 200 orders of the prompts. "by length": the longest prompt first, each to
whoever has least, as sample.ask does. "known": the same if the tokens were known beforehand.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import data
import sample
from learn import Example, add_gradient
from plumbing import distributed, sharding
from plumbing.settings import Settings

MODEL, PROMPTS, SAMPLES = "checkpoints/ibpo", 64, 32
WAYS = [(1, 1, ""), (1, 2, ""), (2, 1, ""), (2, 1, "sharded"), (1, 2, "busy"), (2, 1, "busy")]  # processes, threads


def measure(sharded: bool) -> None:
    """What one of the processes does; process 0 prints a line of JSON."""
    model, tokenizer, _ = sample.open_checkpoint(MODEL)
    if sharded:
        sharding.shard(model)
    problems = data.load("builtin", "train", PROMPTS, 5)
    questions, generate, busy = [problem.question for problem in problems], sample.generate, []

    def timed(*arguments, **options) -> list:
        begin = time.perf_counter()
        completions = generate(*arguments, **options)
        busy.append(time.perf_counter() - begin)
        return completions

    sample.generate = timed
    for_warmth = sharding.gathered(model) if sharded else model
    sample.ask(for_warmth, tokenizer, questions[:8], "asv", 4, max_new_tokens=20, seed=1)
    distributed.gather(None)
    begin = time.perf_counter()
    policy = sharding.gathered(model) if sharded else model
    rows = sample.ask(policy, tokenizer, questions, "asv", SAMPLES, max_new_tokens=300, seed=2)
    sampling = time.perf_counter() - begin
    examples = [Example(row[0].prompt, row[0].ids) for row in rows]
    for _ in range(2):  # the first warms up
        model.zero_grad()
        begin = time.perf_counter()
        add_gradient(model, examples, len(examples), Settings())
        if not sharded:
            distributed.sum_gradients(model.parameters())
        learning = time.perf_counter() - begin
    seconds = distributed.gather(busy[-1])
    tokens = [sum(len(response.ids) for response in row) for row in rows]
    if distributed.rank == 0:
        print(json.dumps({"rate": sum(tokens) / sampling, "learning": learning, "tokens": tokens,
                          "uneven": max(seconds) / np.mean(seconds), "lengths": [len(row[0].prompt) for row in rows]}))


def run_way(processes: int, threads: int, how: str) -> dict:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, __file__, "--processes", str(processes), *["--shard"] * (how == "sharded")]
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if how == "busy" else None
    try:
        return json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout)
    finally:
        if other is not None:
            other.kill()
            other.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="default 5")
    parser.add_argument("--processes", type=int, help=argparse.SUPPRESS)  # measure one way
    parser.add_argument("--shard", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.processes:
        distributed.run(lambda: measure(args.shard), args.processes, "cpu")
        return
    found = {way: [] for way in WAYS}
    for i in range(args.rounds):
        for way in WAYS:
            found[way].append(run_way(*way))
            name = "{} x {} {}".format(*way)
            print(f"round {i + 1} of {args.rounds}, {name}: {found[way][-1]['rate']:.0f} tokens/s", file=sys.stderr)
    print(f"{PROMPTS} prompts, {SAMPLES} responses each; ratios to one process of one thread\n")
    print(f"{'processes':>9}{'threads':>9}{'tokens/s':>10}{'ratio':>8}{'learning s':>12}{'ratio':>8}{'uneven':>8}")
    one = found[WAYS[0]]
    for (processes, threads, how), rounds in found.items():
        rate, learning, uneven = (np.median([each[key] for each in rounds]) for key in ("rate", "learning", "uneven"))
        faster = np.median([each["rate"] / other["rate"] for each, other in zip(rounds, one)])
        learned = np.median([other["learning"] / each["learning"] for each, other in zip(rounds, one)])
        print(f"{processes:9}{threads:9}{rate:10.0f}{faster:8.2f}{learning:12.2f}{learned:8.2f}{uneven:8.2f}  "
              f"{how}")
    tokens, lengths = (np.array(one[0][key]) for key in ("tokens", "lengths"))
    print(f"\n{'processes':>9}{'in order':>10}{'by length':>11}{'known':>8}")
    rng = np.random.default_rng(0)
    for n in (2, 4, 8):
        rows = []
        for _ in range(200):
            order = rng.permutation(PROMPTS)
            cost, length = tokens[order], lengths[order]
            ways = ([range(k, PROMPTS, n) for k in range(n)], distributed.split(length, n), distributed.split(cost, n))
            rows.append([max(cost[part].sum() for part in parts) * n / cost.sum() for parts in ways])
        uneven = np.mean(rows, axis=0)
        print(f"{n:9}{uneven[0]:10.2f}{uneven[1]:11.2f}{uneven[2]:8.2f}")


if __name__ == "__main__":
    main()
