"""By calculation: memory, seconds and bottleneck of an IBPO step of LLaMA-3.1-8B on 1, 8 and 64 H100 GPUs.

    python bench/scale.py

Nothing here is measured. Rates are those of NVIDIA's data sheet, of which 40 % are reached; across machines (eight GPUs
each) 400 Gbit/s per GPU. A step is that of Table 8: 128 prompts, 8 responses each, one accepted; all vote, as ASV-SFT-1
nearly does, in 5.74 trials of 300 tokens. Every GPU has a process (plumbing/distributed.py); several are sharded.
"""

import argparse
from dataclasses import dataclass

GPU_MEMORY, BANDWIDTH, PRODUCTS, REACHED = 80e9, 3.35e12, 989e12, 0.4  # bytes, bytes/s, bf16 operations/s, share
NVLINK, NETWORK = 450e9, 50e9  # bytes/s that a GPU receives, within a machine of eight GPUs and across
PARAMETERS, EMBEDDING, BLOCK = 8.03e9, 0.525e9, 0.218e9  # of 8B; the output layer is as large as the embedding
TOKEN = 131_072  # bytes: its keys and values
PROMPT, RESPONSE, LONGEST = 250, 5.74 * 300, 4096  # tokens
PROMPTS, SAMPLES, MICRO_TOKENS = 128, 8, 4096
WORK = 6e9  # bytes for activations and logits; what else torch takes
FILLED = 0.8  # share of the cache that holds tokens; the rest is padding and room to grow (bench/memory.py)


@dataclass
class Step:
    """bytes per GPU, and seconds."""

    gpus: int
    state: float  # weights, gradient, moments
    sampling_memory: float
    learning_memory: float
    rows: int  # responses that a GPU writes at once
    rate: float  # tokens per second and GPU while all rows are full
    sampling: float
    longest: float  # of it, what the longest response takes alone: no number of GPUs makes it shorter
    learning: float
    traffic: float  # what the collectives of learning and of gathering for sampling take, unless they are hidden


def time_of_token(rows: float) -> float:
    """Seconds for one more token in every row: all weights are read, and keys and values half-way through."""
    tokens = rows * (PROMPT + RESPONSE / 2)
    return (2 * (PARAMETERS - EMBEDDING) + tokens * TOKEN) / (REACHED * BANDWIDTH)


def step_on(gpus: int) -> Step:
    state = 8 * PARAMETERS / gpus
    waiting = 6 * PARAMETERS / gpus  # weights and moments, while sampling
    copy = 2 * PARAMETERS * (gpus > 1)  # the plain one that samples
    gathered = (8 * EMBEDDING + 6 * BLOCK) * (gpus > 1)  # weights and gradient of both, of a block; the next block
    row = (PROMPT + RESPONSE / 2) * TOKEN / FILLED  # on average: rows grow with their responses
    responses = PROMPTS * SAMPLES / gpus
    rows = int(min(responses, (GPU_MEMORY - WORK - waiting - copy) // row))
    rate = rows / time_of_token(rows)
    longest = LONGEST * time_of_token(1)
    learned = PROMPTS * (PROMPT + RESPONSE) / gpus  # tokens
    passes = 3 * -(-learned // MICRO_TOKENS) + 1  # weights gathered twice and gradients cut, per micro-batch
    link = NVLINK if gpus <= 8 else NETWORK
    return Step(
        gpus=gpus, state=state, sampling_memory=waiting + copy + rows * row + WORK,
        learning_memory=state + gathered + WORK, rows=rows, rate=rate,
        sampling=max(responses * RESPONSE / rate, longest), longest=longest,
        learning=learned * 8 * (PARAMETERS - EMBEDDING) / (REACHED * PRODUCTS),  # 2 forwards, 4 back, 2 recomputed
        traffic=passes * 2 * PARAMETERS / link * (gpus > 1))


def main() -> None:
    print(f"{'GPUs':>4}{'GB per GPU: state':>19}{'sampling':>10}{'learning':>10}{'rows':>6}{'tokens/s, GPU':>15}"
          f"{'s: sampling':>13}{'(longest)':>11}{'learning':>10}{'traffic':>9}")
    for step in map(step_on, (1, 8, 64)):
        state, sampling, learning = (n / 1e9 for n in (step.state, step.sampling_memory, step.learning_memory))
        print(f"{step.gpus:4}{state:19.1f}{sampling:10.1f}{learning:10.1f}{step.rows:6}{step.rate:15,.0f}"
              f"{step.sampling:13.0f}{step.longest:11.0f}{step.learning:10.1f}{step.traffic:9.1f}")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
