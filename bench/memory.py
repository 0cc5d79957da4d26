"""How many responses run at once in a given memory for keys and values: sample.Engine with a model that computes
nothing, and with given lengths of responses. Memory is counted in tokens; 24 GiB hold 196,608 of LLaMA-3.1-8B in bf16.

    python bench/memory.py                  # a minute

    fixed      would run at once if each response had memory for the longest there can be
    at once    run at once on average, as long as prompts wait; and how many times as many that is
    twice      share of all sampled tokens that were lost, because their response was put back
    in use     share of the memory that holds a token of a response that goes on

MATH: lognormal lengths with a mean of 800 tokens, cut off at 4,096. Built-in world: the lengths of the SV-SFT model's
votes in results/records, each after a prompt of 11 to 19 tokens; its memory is made as small as that of the 8B model is
beside its responses.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import llama
import sample
from plumbing.records import read_kept

TINY = llama.Config(vocab_size=2, hidden_size=2, intermediate_size=2, num_hidden_layers=1, num_attention_heads=1,
                    max_position_embeddings=8192)
EIGHT_B = llama.Config(vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
                       num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=131072)


class Idle(llama.Llama):
    """Takes tokens, and computes nothing."""

    def forward(self, ids, positions=None, caches=(), where=None):
        for cache in caches:
            cache.extend(ids.shape[1])
        return torch.zeros(ids.shape + (2,) if where is None else (len(ids), 2))


class Simulation(sample.Engine):
    """Response i ends after lengths[i] tokens."""

    def __init__(self, prompts: list[list[int]], lengths: list[int], memory: int, slots: int = 4096):
        super().__init__(Idle(TINY), prompts, max(lengths) + 1, 0, 1.0, (1,), 0, slots, memory)
        self.lengths, self.rows, self.in_use, self.lost = lengths, [], [], 0

    def decode(self) -> int:
        if self.waiting:
            self.rows.append(len(self.running()))
            tokens = sum(len(sequence.prompt) + len(sequence.ids) - 1 for sequence in self.running())
            self.in_use.append(tokens / self.memory)
        return super().decode()

    def put_back(self, tokens: int) -> None:
        before = sum(len(sequence.ids) for sequence in self.running())
        super().put_back(tokens)
        self.lost += before - sum(len(sequence.ids) for sequence in self.running())

    def advance(self, cohorts, logits) -> int:
        ends = torch.tensor([len(sequence.ids) + 1 == self.lengths[sequence.index]
                             for cohort in cohorts for sequence in cohort.sequences])  # bool[n]
        return super().advance(cohorts, torch.stack((~ends, ends), 1).float())

    def run(self) -> None:
        while self.waiting or self.cohorts:
            count = self.admissible()
            self.admit(count) if count else self.decode()


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    record = read_kept(Path(__file__).resolve().parent.parent / "results/records/seed-0/eval/sv-sft.npz")
    votes = record.tokens[record.extended][:1500].tolist()
    math = np.clip(rng.lognormal(np.log(800) - 0.8**2 / 2, 0.8, 800).round(), 2, 4096).astype(int).tolist()
    eight_b = sample.tokens_for(EIGHT_B, 4096, torch.bfloat16, 24.0)
    print(f"{'':16}{'responses':>10}{'mean':>7}{'limit':>7}{'memory':>9}{'fixed':>7}{'at once':>9}{'times':>7}"
          f"{'twice':>8}{'in use':>8}")
    for name, lengths, prompt, limit, memory in (
            ("MATH, 8B, 24 GiB", math, rng.integers(200, 400, len(math)), 4096, eight_b),
            ("built-in votes", votes, rng.integers(11, 20, len(votes)), 300, 44 * 319)):
        fixed = memory // (int(prompt.max()) + limit)
        engine = Simulation([[0] * length for length in prompt], lengths, memory)
        engine.run()
        at_once = np.mean(engine.rows)
        assert [len(c.ids) for c in engine.completions] == lengths
        print(f"{name:16}{len(lengths):10,}{np.mean(lengths):7.0f}{limit:7,}{memory:9,}{fixed:7}{at_once:9.0f}"
              f"{at_once / fixed:7.1f}{engine.lost / (engine.lost + sum(lengths)):8.1%}{np.mean(engine.in_use):8.0%}",
              flush=True)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
