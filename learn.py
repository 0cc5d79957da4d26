"""The learning step: the gradient of Eq. (5), and AdamW.

`add_gradient` adds the gradient of -sum_ij weight_ij log pi(y_ij | x_i), Eq. (5), and `AdamW` takes the step.
plumbing/stage.py repeats both, logs a line per step, and continues after an interruption.

    pytest tests/test_learn.py

Departure from the paper: the loss is a sum over tokens, divided by the number of prompts in the step: one constant,
never a length. A vote is k times as long as a single trial, and any division by length would make it count less.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint as recompute

import llama
import voting
from plumbing import distributed
from plumbing.settings import Settings

# ---------------------------------------------------------------------------------------------------------------------
# Eq. (5)


@dataclass
class Example:
    """A response to learn from, and how much."""

    prompt: list[int]
    response: list[int]  # with the stop id
    weight: float = 1.0
    loss_mask: list[float] = None  # how much each response token counts in the loss, 0 or False: not; None: all 1

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)

    @property
    def tokens_in_loss(self) -> int:
        return len(self.response) if self.loss_mask is None else sum(map(bool, self.loss_mask))


def micro_batches(examples: list[Example], micro_tokens: int) -> Iterator[list[Example]]:
    """The examples, longest first, in groups of at most micro_tokens tokens after padding (or of one example)."""
    group = []
    for example in sorted(examples, key=len, reverse=True):
        if group and len(group[0]) * (len(group) + 1) > micro_tokens:
            yield group
            group = []
        group.append(example)
    if group:
        yield group


LOGITS_AT_ONCE = 512  # tokens whose logits are in memory at once, with checkpointing


def log_probabilities(model: llama.Llama, group: list[Example], checkpoint: bool = False,
                      temperature: float = 1.0) -> torch.Tensor:
    """log pi(response | prompt) of each example, summed over the tokens in its loss, stop id included: [B], fp32."""
    B, T = len(group), max(map(len, group))
    device = model.lm_head.weight.device
    # Padded on the right. Masks come from lengths, not from pad ids: the stop id may be the pad id, too.
    ids = torch.zeros(B, T, dtype=torch.long)  # [B, T]
    counts = torch.zeros(B, T)  # [B, T], at each place how much its *next* token counts in the loss
    for row, example in enumerate(group):
        ids[row, : len(example)] = torch.tensor(example.prompt + example.response)
        counts[row, len(example.prompt) - 1 : len(example) - 1] = torch.tensor(example.loss_mask or 1.0).float()
    ids, counts = ids.to(device), counts.to(device)
    predicts = counts != 0  # [B, T]
    target = ids.roll(-1, dims=1)[predicts]  # [N]
    hidden = model.hidden_states(ids, where=predicts, checkpoint=checkpoint)  # [N, C]

    def score(hidden: torch.Tensor, target: torch.Tensor) -> torch.Tensor:  # [N, C], [N] -> [N], fp32
        return -F.cross_entropy(model.lm_head(hidden).float() / temperature, target, reduction="none")

    if checkpoint:  # LLaMA-3.1 has 128,256 logits: of 4,096 tokens they and their gradients would take 6 GiB
        parts = zip(hidden.split(LOGITS_AT_ONCE), target.split(LOGITS_AT_ONCE))
        logp = torch.cat([recompute(score, *part, use_reentrant=False) for part in parts])  # [N]
    else:
        logp = score(hidden, target)  # [N]
    row = predicts.nonzero()[:, 0]  # [N]
    return torch.zeros(B, device=device).index_add(0, row, logp * counts[predicts])


def add_gradient(model: llama.Llama, examples: list[Example], denominator: float, settings: Settings) -> float:
    """Add the gradient of Eq. (5), -sum weight * log pi / denominator, micro-batch by micro-batch; returns the loss.

    The denominator is one constant for the whole step, so the gradient does not depend on micro_tokens. Each process
    adds that of a part of the examples; Stage.update sums them. The loss is that of all.
    """
    total = 0.0
    for group in micro_batches(distributed.share(examples, [len(e) for e in examples]), settings.micro_tokens):
        weight = torch.tensor([example.weight for example in group], device=model.lm_head.weight.device)  # [B]
        loss = -(weight * log_probabilities(model, group, settings.checkpointing)).sum() / denominator  # Eq. (5)
        loss.backward()
        total += loss.item()
    return distributed.total(total)


def store_rounded(target: torch.Tensor, value: torch.Tensor, generator: torch.Generator) -> None:
    """Copy fp32 values into a tensor; if that is bf16, rounded stochastically: right on average."""
    if target.dtype == torch.bfloat16:  # the upper half of fp32: add random lower bits, then cut
        bits = value.view(torch.int32)
        noise = torch.randint(1 << 16, bits.shape, generator=generator, dtype=bits.dtype, device=bits.device)
        value = ((bits + noise) & -65536).view(torch.float32)
    target.copy_(value)


class AdamW:
    """AdamW (Loshchilov & Hutter 2019). In fp32 it is torch.optim.AdamW.

    In bf16 the weights and both moments stay in bf16 (8 bytes per parameter with the gradient, so that an 8B model
    fits on one 80 GB card) and are rounded stochastically. Otherwise a change smaller than half a bf16 step, typical at
    a learning rate of 5e-7, would always be rounded to nothing. The random bits of a step depend on its
    number alone, so a resumed run is bit-identical.
    """

    ELEMENTS_AT_ONCE = 1 << 24  # numbers that are updated at once

    def __init__(self, model: torch.nn.Module, beta1: float, beta2: float, weight_decay: float, eps: float = 1e-8):
        self.weights = [w for w in model.parameters() if w.requires_grad]
        self.beta1, self.beta2, self.weight_decay, self.eps = beta1, beta2, weight_decay, eps
        self.m = [torch.zeros_like(w) for w in self.weights]
        self.v = [torch.zeros_like(w) for w in self.weights]
        self.t = 0
        self.generator = torch.Generator(self.weights[0].device)

    @torch.no_grad()
    def step(self, lr: float) -> None:
        self.t += 1
        self.generator.manual_seed(self.t)
        for weight, *moments in zip(self.weights, self.m, self.v):
            # A few rows at a time: the fp32 intermediates of LLaMA-3.1's embedding would take 16 GiB.
            rows = max(1, self.ELEMENTS_AT_ONCE // weight[0].numel())
            for w, m, v, g in zip(*(x.split(rows) for x in (weight, *moments, weight.grad))):
                g = g.float()
                m32 = m.float().lerp(g, 1 - self.beta1)
                v32 = v.float() * self.beta2 + (1 - self.beta2) * g * g
                step = m32 / (1 - self.beta1**self.t) / ((v32 / (1 - self.beta2**self.t)).sqrt() + self.eps)
                store_rounded(m, m32, self.generator)
                store_rounded(v, v32, self.generator)
                store_rounded(w, w.float() * (1 - lr * self.weight_decay) - lr * step, self.generator)
            weight.grad = None

    def state(self) -> dict:
        return {"t": self.t, "m": self.m, "v": self.v}

    def restore(self, state: dict) -> None:
        self.t = state["t"]
        for mine, saved in zip(self.m + self.v, state["m"] + state["v"]):
            mine.copy_(saved)


# ---------------------------------------------------------------------------------------------------------------------
# Supervised fine-tuning: the same gradient, on given texts


def encode(tokenizer, question: str, condition: str, response: str, given: str = "") -> Example:
    """A training example from texts. given: a part of the response that is read, but not in the loss."""
    coded = tokenizer(response, add_special_tokens=False, return_offsets_mapping=True)
    first = response.index(given)
    loss_mask = [not (first <= a < first + len(given)) for a, _ in coded.offset_mapping] + [True]
    return Example(voting.encode_prompt(tokenizer, question, condition), coded.input_ids + [tokenizer.eos_token_id],
                   loss_mask=loss_mask if given else None)


def add_supervised_gradient(model: llama.Llama, examples: list[Example], settings: Settings) -> dict:
    """Maximum likelihood, Table 1's SFT: add the gradient of the mean over examples; returns what log.jsonl says."""
    begin = time.monotonic()
    loss = add_gradient(model, examples, len(examples), settings)
    weighted_tokens = sum(example.weight * example.tokens_in_loss for example in examples)
    return {"nll_per_token": loss * len(examples) / weighted_tokens,
            "tokens": sum(example.tokens_in_loss for example in examples), "seconds": time.monotonic() - begin}


if __name__ == "__main__":
    print(__doc__)
