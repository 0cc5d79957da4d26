"""The learning step: the gradient of Eq. (5), and AdamW.

`add_gradient` adds the gradient of -sum_ij weight_ij log pi(y_ij | x_i) / n, Eq. (5), and `AdamW` takes the step.
train.py calls the first. `Stage` (plumbing/stage.py) calls the second, logs a line per step, and continues after an
interruption.

    pytest tests/test_learn.py

Departure from the paper: the loss is a sum over tokens, divided by the number of prompts in the step: one constant,
never a length. A vote is several times as long as a single trial, and any division by length would make it count less.
"""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint as recompute

import llama
import voting
from plumbing import distributed, sharding
from plumbing.settings import Settings

# ---------------------------------------------------------------------------------------------------------------------
# Eq. (5)


@dataclass
class Example:
    """A response to learn from, and how much."""

    prompt: list[int]
    response: list[int]  # with the stop id
    weight: float = 1.0
    loss_mask: list[bool] = None  # which response tokens are in the loss; None: all

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)

    @property
    def tokens_in_loss(self) -> int:
        return len(self.response) if self.loss_mask is None else sum(self.loss_mask)


def add_gradient(model: llama.Llama, examples: list[Example], n: int, settings: Settings) -> float:
    """Add the gradient of Eq. (5), -sum weight * log pi / n, micro-batch by micro-batch; returns the loss.

    n is the number of prompts in the step (of examples, in SFT): one constant, so that the gradient does not depend on
    micro_tokens. Each process adds the gradient of a part of the examples; Stage.update sums them (for a sharded model
    the backward pass does). The loss is that of all examples.
    """
    total = 0.0
    for micro_batch in part_of_this_process(model, examples, settings.micro_tokens):
        weight = torch.tensor([example.weight for example in micro_batch], device=model.lm_head.weight.device)  # [B]
        with distributed.connection():  # if another process is lost, a clear error
            loss = -(weight * log_probabilities(model, micro_batch, settings.checkpointing)).sum() / n  # Eq. (5)
            loss.backward()
        total += loss.item()
    return distributed.total(total)


LOGITS_AT_ONCE = 512  # tokens whose logits are in memory at once, with checkpointing


def log_probabilities(model: llama.Llama, micro_batch: list[Example], checkpoint: bool = False,
                      temperature: float = 1.0) -> torch.Tensor:
    """log pi(response | prompt) of each example, summed over the tokens in its loss, stop id included: [B], fp32."""
    B, T = len(micro_batch), max(map(len, micro_batch))
    device = model.lm_head.weight.device
    # Padded on the right. Masks come from lengths, not from pad ids: the stop id may be the pad id, too.
    ids = torch.zeros(B, T, dtype=torch.long)  # [B, T]
    predicts = torch.zeros(B, T, dtype=torch.bool)  # [B, T], N places whose *next* token is in the loss
    for row, example in enumerate(micro_batch):
        ids[row, : len(example)] = torch.tensor(example.prompt + example.response)
        in_loss = True if example.loss_mask is None else torch.tensor(example.loss_mask)
        predicts[row, len(example.prompt) - 1 : len(example) - 1] = in_loss
    ids, predicts = ids.to(device), predicts.to(device)
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
    return torch.zeros(B, device=device).index_add(0, row, logp)


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


def part_of_this_process(model: llama.Llama, examples: list[Example], micro_tokens: int) -> list[list[Example]]:
    """The micro-batches of this process. Of a sharded model all processes need equally many: some are then empty."""
    mine = distributed.share(examples, [len(example) for example in examples])
    return sharding.in_lockstep(model, list(micro_batches(mine, micro_tokens)), nothing=[Example([0], [0], weight=0.0)])


# ---------------------------------------------------------------------------------------------------------------------
# AdamW


def random_bits(step: int, first: int, count: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """64 random bits for each of the numbers first, first + 1, ... of a model in a step: int64[count].

    SplitMix64 (Steele, Lea & Flood 2014), whose n-th output is a function of n. So whoever updates a number, alone or
    as one of many processes, draws the same bits for it. Steps are 2^40 outputs apart.
    """
    n = (step << 40) + first + 1
    z = torch.arange(n, n + count, device=device) * (0x9E3779B97F4A7C15 - 2**64)  # int64: as modulo 2^64, but signed
    z = (z ^ z >> 30 & (1 << 34) - 1) * (0xBF58476D1CE4E5B9 - 2**64)  # the mask takes out copies of the sign
    z = (z ^ z >> 27 & (1 << 37) - 1) * (0x94D049BB133111EB - 2**64)
    return z ^ z >> 31 & (1 << 33) - 1


def store_rounded(target: torch.Tensor, value: torch.Tensor, bits: torch.Tensor | None, skip: int = 0) -> None:
    """Copy fp32 values into a tensor; if that is bf16, rounded stochastically: right on average.

    bits: for bf16, a random integer for each value; 16 of its bits are used, after the last `skip`.
    """
    if target.dtype == torch.bfloat16:  # the upper half of fp32: add random lower bits, then cut
        noise = (bits >> skip & 0xFFFF).to(torch.int32)
        value = ((value.view(torch.int32) + noise) & -65536).view(torch.float32)
    target.copy_(value)


class AdamW:
    """AdamW (Loshchilov & Hutter 2019). In fp32 it is torch.optim.AdamW.

    In bf16 the weights and both moments stay in bf16 (8 bytes per parameter with the gradient, so that an 8B model
    fits on one 80 GB card) and are rounded stochastically. Otherwise a change smaller than half a bf16 step, typical at
    a learning rate of 5e-7, would always be rounded to nothing. The random bits of a number depend on the step and on
    its place in the model alone, so a resumed run is bit-identical, and so is one of several processes that are given
    the same gradient. Of a sharded model (plumbing/sharding.py) each process updates its own rows.
    """

    # Numbers that are updated at once. A GPU wants many, but the fp32 intermediates of the whole embedding of LLaMA-3.1
    # would take 20 GiB. A CPU is fastest with what fits its cache.
    ELEMENTS_AT_ONCE, ELEMENTS_ON_CPU = 1 << 24, 1 << 14

    def __init__(self, model: torch.nn.Module, beta1: float, beta2: float, weight_decay: float, eps: float = 1e-8):
        self.weights = [w for w in model.parameters() if w.requires_grad]
        self.beta1, self.beta2, self.weight_decay, self.eps = beta1, beta2, weight_decay, eps
        self.m = [torch.zeros_like(w, requires_grad=False) for w in self.weights]
        self.v = [torch.zeros_like(w, requires_grad=False) for w in self.weights]
        self.t = 0
        self.at_once = self.ELEMENTS_ON_CPU if self.weights[0].device.type == "cpu" else self.ELEMENTS_AT_ONCE

    @torch.no_grad()
    def step(self, lr: float) -> None:
        self.t += 1
        before = 0  # numbers in the weights before this one
        for weight, *moments in zip(self.weights, self.m, self.v):
            first = before + sharding.first_number(weight)
            before += weight.numel()
            mine = [sharding.local(x).view(-1) for x in (weight, *moments)]
            gradient = sharding.local(weight.grad).reshape(-1)
            for w, m, v, g in zip(*(x.split(self.at_once) for x in (*mine, gradient))):
                g = g.float()
                m32 = m.float().lerp(g, 1 - self.beta1)
                v32 = v.float() * self.beta2 + (1 - self.beta2) * g * g
                step = m32 / (1 - self.beta1**self.t) / ((v32 / (1 - self.beta2**self.t)).sqrt() + self.eps)
                bits = random_bits(self.t, first, len(w), w.device) if w.dtype == torch.bfloat16 else None
                store_rounded(m, m32, bits)
                store_rounded(v, v32, bits, skip=16)
                store_rounded(w, w.float() * (1 - lr * self.weight_decay) - lr * step, bits, skip=32)
                first += len(w)
            weight.grad = None

    def state(self) -> dict:
        """What this process has of it."""
        return {"t": self.t, "m": [sharding.local(m) for m in self.m], "v": [sharding.local(v) for v in self.v]}

    def restore(self, *parts: dict) -> None:
        """parts: a state, or those of all processes that saved it, whatever their number."""
        self.t = parts[0]["t"]
        for name, moments in ("m", self.m), ("v", self.v):
            for mine, *pieces in zip(moments, *(part[name] for part in parts), strict=True):
                sharding.fill(mine, pieces)


# ---------------------------------------------------------------------------------------------------------------------
# Which tokens of a response are learned; supervised fine-tuning: the same gradient, on given texts


def closing_mask(tokenizer, ids: list[int]) -> list[bool]:
    """True for the tokens of a response after its last [/TRIAL]: the decision to stop, and the closing line.

    The response has a [/TRIAL]. It is found by decoding, since a tokenizer may spell it with several tokens, or with
    parts of others.
    """
    last_close = len(ids)
    while "[/TRIAL]" not in tokenizer.decode(ids[last_close:]):
        last_close -= 1
    after = next(i for i in range(last_close, len(ids) + 1) if "[/TRIAL]" in tokenizer.decode(ids[last_close:i]))
    return [i >= after for i in range(len(ids))]


def encode(tokenizer, question: str, condition: str, response: str, given: str = "", learned: str = None) -> Example:
    """A training example from texts.

    given: a part of the response that is masked out of the loss. learned, instead: a regular expression (^ and $ match
    at line breaks); only tokens that begin inside a match, and the stop id, are in the loss.
    """
    coded = tokenizer(response, add_special_tokens=False, return_offsets_mapping=True)
    starts, mask = [start for start, _ in coded.offset_mapping], None
    if given:
        first = response.index(given)
        mask = [not first <= start < first + len(given) for start in starts] + [True]
    elif learned is not None:
        spans = [match.span() for match in re.finditer(learned, response, re.MULTILINE)]
        mask = [any(a <= start < b for a, b in spans) for start in starts] + [True]
    return Example(voting.encode_prompt(tokenizer, question, condition), coded.input_ids + [tokenizer.eos_token_id],
                   loss_mask=mask)


def add_supervised_gradient(model: llama.Llama, examples: list[Example], settings: Settings) -> dict:
    """Maximum likelihood, Table 1's SFT: add the gradient of the mean over examples; returns what log.jsonl says."""
    begin = time.monotonic()
    loss = add_gradient(model, examples, len(examples), settings)
    weighted_tokens = sum(example.weight * example.tokens_in_loss for example in examples)
    return {"nll_per_token": loss * len(examples) / weighted_tokens,
            "tokens": sum(example.tokens_in_loss for example in examples), "seconds": time.monotonic() - begin}


if __name__ == "__main__":
    print(__doc__)
