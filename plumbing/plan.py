"""What a run needs, before it starts: memory and hours of each stage, disk; and whether this machine has it.

    python train.py 80gb --model DIR --data FILE --valid-data FILE --test-data FILE --plan

Memory is counted in plumbing/memory.py. On a GPU, PyTorch's own context and fragments come on top: leave a few GiB.

Hours are tokens over tokens per second. A rate is a share of what the card allows: of its memory bandwidth in sampling,
of its bf16 matrix products in learning. `python bench/gpu.py` measures both shares and writes them to results/gpu/; for
a card without such a file they are assumed, and the plan says so.
"""

import json
import os
import re
import shutil
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path

import torch

import data
import llama
import sample
from plumbing import distributed
from plumbing.checkpoints import open_tokenizer
from plumbing.checks import prompt_tokens
from plumbing.memory import (
    bytes_of,
    cache_per_token,
    count_multiplied,
    count_parameters,
    dtype_of_sampling,
    learning_memory,
    sampling_memory,
    state_memory,
)
from plumbing.settings import Settings

GIB = 2**30
MEASURED = Path(__file__).resolve().parent.parent / "results" / "gpu"  # CARD.json, written by bench/gpu.py
# Bytes per second, and bf16 operations per second without sparsity: data sheets of NVIDIA.
CARDS = {"H200": (4.8e12, 989e12), "H100": (3.35e12, 989e12), "A100": (2.04e12, 312e12), "4090": (1.01e12, 165e12),
         "3090": (0.94e12, 71e12), "A10": (0.6e12, 125e12), "L4": (0.3e12, 121e12)}
ASSUMED = {"sampling": 0.2, "learning": 0.5}  # shares of these, until bench/gpu.py has run on the card (H200: .21, .59)
TRIAL_TOKENS = 300  # assumed length of a trial
VOTE_TRIALS = 5.74  # of ASV-SFT-1, with which IBPO starts; it ends with 2 to 4 (Table 3)
FILLED = 0.8  # share of the cache that holds tokens while prompts wait (bench/memory.py)
ENOUGH_TO_PLAN = 10**7  # parameters; a smaller model needs no plan

# ---------------------------------------------------------------------------------------------------------------------
# Rates


@dataclass(frozen=True)
class Rates:
    """What a card does per second, and how well this program uses it."""

    bandwidth: float  # bytes per second
    products: float  # operations per second, bf16
    sampling: float  # share of the bandwidth
    learning: float  # share of the products
    source: str


def rates_of(card: str, parameters: int, checkpointing: bool = True) -> Rates | None:
    """The rates of a card: measured by bench/gpu.py, on the model nearest in size; else from CARDS; None if unknown.

    checkpointing: in learning.
    """
    path = MEASURED / f"{file_name(card)}.json"
    if path.exists():
        found = json.loads(path.read_text())
        shares, assumed = {}, ""
        for part in ("sampling", "learning"):
            rows = [row for row in found.get(part, []) if row.get("share")
                    and row.get("checkpointing", checkpointing) == checkpointing]
            assumed += f"; {part}: assumed" * (not rows)
            nearest = min(rows, key=lambda row: abs(row["parameters"] - parameters), default={"share": ASSUMED[part]})
            shares[part] = nearest["share"]
        return Rates(found["bandwidth"], found["products"], **shares,
                     source=f"measured on this card on {found['date']} ({path.name}){assumed}")
    for name, (bandwidth, products) in CARDS.items():
        if re.search(rf"(?<!\w){name}(?!\d)", card):
            return Rates(bandwidth, products, **ASSUMED,
                         source="estimated from the data sheet, not measured: python bench/gpu.py measures")
    return None


def file_name(card: str) -> str:
    """The name of a card as the name of a file: NVIDIA-H100-80GB-HBM3."""
    return re.sub(r"[^A-Za-z0-9]+", "-", card).strip("-")


# ---------------------------------------------------------------------------------------------------------------------
# The plan of a run


@dataclass
class Part:
    """One thing that a run does for a while: sampling or learning of a stage."""

    name: str
    memory: dict[str, int]  # bytes at its worst moment
    sampled: float = 0  # tokens written
    learned: float = 0  # tokens read and learned from


def parts_of(settings: Settings, stage: str, config: llama.Config, prompt: int) -> list[Part]:
    """What a run does, in order. prompt: tokens of the longest prompt."""
    s, limit = settings, settings.max_new_tokens
    longest = min(prompt + limit, config.context)
    trial = min(TRIAL_TOKENS, limit)
    vote = min(VOTE_TRIALS * trial, limit)
    base = sampling_memory(config, s, longest, prompt, s.sft_samples, False)
    learning = learning_memory(config, s, longest)
    parts = []
    if not (stage == "ibpo" and s.start):
        parts.append(Part("samples of the base", base, sampled=s.sft_problems * s.sft_samples * trial))
    adaptive = ["asv-sft"] * (not s.start)  # IBPO starts from it, or from --start
    for name in {"all": ["sv-sft", *adaptive], "ibpo": adaptive}.get(stage, [stage]):
        regular = s.sft_regular * (s.sft_alpha if name == "asv-sft" else 1)
        mean = prompt + (s.sft_votes * vote + regular * trial) / (s.sft_votes + regular)
        parts.append(Part(name, learning, learned=s.sft_steps * s.sft_batch * mean))
    if stage in ("all", "ibpo"):
        n = s.steps * s.prompts * s.accumulate
        looks = s.valid_problems * -(-s.steps // s.valid_every) if s.valid_every else 0
        accepted = s.samples / 2 if s.share_ties else 1  # of a prompt's responses
        reference = {"reference": bytes_of(s) * count_parameters(config) * (s.kl_max is not None)}
        rolling = sampling_memory(config, s, longest, prompt, s.samples, True)
        parts.append(Part("ibpo, sampling", rolling | reference, sampled=(n * s.samples + looks) * vote))
        parts.append(Part("ibpo, learning", learning | reference, learned=n * accepted * (prompt + vote)))
    if stage == "all":
        alone = sampling_memory(config, replace(s, lora_rank=0), longest, prompt, 1, False)
        parts.append(Part("evaluation", alone, sampled=s.eval_problems * ((s.eval_samples + 1) * trial + 3 * vote)))
    return parts


def hours_of(part: Part, settings: Settings, config: llama.Config, prompt: int, rates: Rates) -> float:
    """Tokens over tokens per second, shared by all processes."""
    seconds = (part.sampled / sampling_bound(config, settings, prompt, rates) / rates.sampling
               + part.learned * learning_cost(config, settings.checkpointing) / rates.products / rates.learning)
    return seconds / 3600 / distributed.size


def sampling_bound(config: llama.Config, settings: Settings, prompt: int, rates: Rates) -> float:
    """Tokens per second if reading the weights and the keys and values were all there is to do."""
    dtype = dtype_of_sampling(config, settings)
    longest = min(prompt + settings.max_new_tokens, config.context)
    mean = prompt + min(VOTE_TRIALS * TRIAL_TOKENS, settings.max_new_tokens) / 2  # tokens that a row holds
    tokens = FILLED * sample.tokens_for(config, longest, dtype, settings.cache_gib)
    rows = min(settings.slots, tokens / mean)
    return rows * rates.bandwidth / read_per_step(config, dtype, rows * mean)


def read_per_step(config: llama.Config, dtype: torch.dtype, tokens: float) -> float:
    """Bytes that writing one token in every row has to read: the weights once, and keys and values of all tokens."""
    return dtype.itemsize * count_multiplied(config) + cache_per_token(config, dtype.itemsize) * tokens


def learning_cost(config: llama.Config, checkpointing: bool) -> float:
    """Operations per token of a gradient: two per weight forwards, four backwards, two more with checkpointing.

    Attention comes on top: a few percent at these lengths.
    """
    return (8 if checkpointing else 6) * count_multiplied(config)


class Plan:
    """What a run needs, beside what this machine has."""

    def __init__(self, settings: Settings, stage: str):
        self.settings, self.stage, self.config = settings, stage, llama.read_config(settings.model)
        self.parameters = count_parameters(self.config)
        self.prompt = longest_prompt(settings)
        self.parts = parts_of(settings, stage, self.config, self.prompt)
        self.peak = max(self.parts, key=lambda part: sum(part.memory.values()))
        self.card, self.free = card_and_free(settings, sum(self.peak.memory.values()))  # name, bytes
        self.rates = rates_of(self.card, self.parameters, settings.checkpointing)
        self.hours = None  # of each part; None if the card is unknown
        if self.rates is not None:
            self.hours = [hours_of(part, settings, self.config, self.prompt, self.rates) for part in self.parts]
        self.disk_free = shutil.disk_usage(nearest(Path(settings.out))).free

    @property
    def state(self) -> int:
        """Bytes of the state of a stage, which is there twice while it is written."""
        memory = state_memory(self.config, self.settings)
        return 2 * (memory["gradients"] + memory["moments"])  # trained weights are as large as their gradients

    @property
    def disk(self) -> int:
        """Bytes: a checkpoint per stage, and a state."""
        checkpoints = sum(part.name in ("sv-sft", "asv-sft", "ibpo, learning") for part in self.parts)
        return checkpoints * self.parameters * bytes_of(self.settings) + self.state

    def complaints(self) -> list[str]:
        """What is not enough, and which setting changes that."""
        found, need = [], sum(self.peak.memory.values())
        if need > self.free:
            found.append(f"memory is not enough: {self.peak.name} needs {need / GIB:.1f} GiB, {self.free / GIB:.1f} "
                         f"are free on {self.card}; {self.advice()}")
        if self.disk > self.disk_free:
            found.append(f"the disk is not large enough: {self.disk / GIB:.0f} GiB are needed, "
                         f"{self.disk_free / GIB:.0f} are free where --out {self.settings.out} is")
        return found

    def advice(self) -> str:
        """The smallest change of settings that fits."""
        s = self.settings
        small = dict(cache_gib=s.cache_gib / 4, checkpointing=True, micro_tokens=max(s.micro_tokens // 8, 1))
        changes = [dict(cache_gib=s.cache_gib * part) for part in (0.75, 0.5, 0.25)]
        changes += [dict(checkpointing=True)] * (not s.checkpointing)
        changes += [dict(checkpointing=True, micro_tokens=max(s.micro_tokens // part, 1)) for part in (2, 4, 8)]
        changes += [small] + [dict(lora_rank=16), dict(small, lora_rank=16)] * (not s.shard)
        for change in changes:
            try:
                parts = parts_of(replace(s, **change), self.stage, self.config, self.prompt)
            except sample.LengthError:  # no row fits into so small a cache
                continue
            if max(sum(part.memory.values()) for part in parts) <= self.free:
                flags = [f"--{name.replace('_', '-')}" + ("" if value is True else f" {value:g}")
                         for name, value in change.items() if value != getattr(s, name)]
                return f"{' '.join(flags)} would fit"
        return "no setting makes it fit: take a smaller --model, or a larger card"

    def short(self) -> str:
        """A line, and a line for each complaint."""
        need = sum(self.peak.memory.values())
        hours = "unknown hours" if self.hours is None else f"about {sum(self.hours):.3g} hours"
        lines = [f"plan: at most {need / GIB:.1f} of {self.free / GIB:.1f} GiB ({self.peak.name}), "
                 f"{self.disk / GIB:.1f} GiB of disk, {hours} on {self.card} ("
                 + (self.rates.source if self.rates else "rates unknown") + "); more with --plan"]
        return "\n".join(lines + [f"warning: {complaint}" for complaint in self.complaints()])

    def __str__(self) -> str:
        """The whole plan, as --plan prints it."""
        columns = ["weights", "gradients", "moments", "cache", "activations", "logits", "reference"]
        columns = [name for name in columns if any(part.memory.get(name) for part in self.parts)]
        hours = self.hours or [None] * len(self.parts)
        s = self.settings
        lines = [f"{s.model}: {self.parameters / 1e9:.2f} billion weights in {s.dtype}, on {self.card} "
                 f"({self.free / GIB:.1f} GiB free)", "",
                 f"{'GiB':22}" + "".join(f"{name:>12}" for name in columns) + f"{'peak':>9}{'hours':>9}"]
        for part, spent in zip(self.parts, hours):
            cells = "".join(f"{part.memory.get(name, 0) / GIB:12.2f}" for name in columns)
            lines.append(f"{part.name:22}{cells}{sum(part.memory.values()) / GIB:9.2f}"
                         + (f"{'?':>9}" if spent is None else f"{spent:9.2f}"))
        lines += ["", f"disk: {self.disk / GIB:.1f} GiB in {s.out}, {self.state / GIB:.1f} of them for the state while "
                  f"it is written; {self.disk_free / GIB:.1f} are free"]
        if s.shard:
            lines.append("memory: as without --shard; plumbing/sharding.py says what each process then keeps")
        if self.rates is None:
            lines.append(f"hours: unknown; there are no rates for {self.card}")
        else:
            lines.append(f"hours: {sum(hours):.3g} in all; {self.rates.source}. Sampling reaches "
                         f"{self.rates.sampling:.0%} of the memory bandwidth, learning {self.rates.learning:.0%} of "
                         f"the matrix products. Assumed: trials of {TRIAL_TOKENS} tokens, votes of {VOTE_TRIALS} "
                         f"trials, and, as the most it can be, that every response in IBPO is a vote")
        lines += self.complaints() or ["memory and disk are enough"]
        return "\n".join(textwrap.fill(line, 118) if len(line) > 118 and "  " not in line else line for line in lines)


def longest_prompt(settings: Settings) -> int:
    """Tokens of the longest prompt among the problems to train on (of a file: of the longest question)."""
    tokenizer = open_tokenizer(settings.model)
    problems = data.load(settings.data, "train", 100 if settings.data == data.BUILTIN else None)
    question = max((problem.question for problem in problems), key=len)
    return prompt_tokens(tokenizer, question, [settings.condition(stage) for stage in ("base", "sv-sft", "asv-sft")])


def card_and_free(settings: Settings, need: int) -> tuple[str, int]:
    """Where the run computes, and the bytes that are free there. Without a GPU here: a card that it is meant for."""
    if settings.device == "cpu":
        return "this CPU", free_memory() // distributed.size  # each process has a copy of the model
    if torch.cuda.is_available():
        return torch.cuda.get_device_name(), torch.cuda.mem_get_info()[0]
    name, size = ("RTX 4090", 23.5) if need < 22 * GIB else ("H100 80GB", 79.1)
    return f"an {name}, as there is no GPU here", int(size * GIB)


def free_memory() -> int:
    """Bytes that programs can still get, caches of files included."""
    lines = Path("/proc/meminfo")
    if lines.exists():
        return 1024 * int(re.search(r"MemAvailable:\s+(\d+)", lines.read_text())[1])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # all there is: no better answer elsewhere


def nearest(path: Path) -> Path:
    """The path, or the first directory above it that exists."""
    path = path.resolve()
    return path if path.exists() else nearest(path.parent)


def announce(settings: Settings, stage: str) -> bool:
    """Print the plan: all of it with --plan, a line before a run of a real model. Returns whether the run goes on."""
    if settings.plan:
        print(Plan(settings, stage))
    elif count_parameters(llama.read_config(settings.model)) >= ENOUGH_TO_PLAN:
        print(Plan(settings, stage).short())
    return not settings.plan
