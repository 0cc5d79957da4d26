"""The learning step, and stages that survive interruption.

The gradient of Eq. (5), that of -sum_ij weight_ij log pi(y_ij | x_i), is `add_gradient`: the same for every micro-batch
size. `AdamW` takes the step. `run_stage` repeats the two, logs a line per step, and goes on where it stopped.

    pytest tests/test_learn.py

Departure from the paper: the loss is a sum over tokens, divided by the number of prompts in the step: one constant,
never a length. A vote is k times as long as a single trial, so any division by length would re-price the budget.
"""

import copy
import json
import math
import signal
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from filelock import FileLock, Timeout
from torch.utils.checkpoint import checkpoint as recompute
from tqdm import tqdm

import llama
import lora
import sample
import voting
from settings import CAPPED, Settings, UserError, flush, whole

# ---------------------------------------------------------------------------------------------------------------------
# The gradient of -sum_ij weight_ij log pi(y_ij | x_i), Eq. (5)


@dataclass
class Example:
    prompt: list[int]
    response: list[int]  # with the stop id
    weight: float = 1.0
    learned: list[bool] = None  # which response tokens are in the loss; None: all

    def __len__(self):
        return len(self.prompt) + len(self.response)


def micro_batches(examples: list[Example], micro_tokens: int):
    """The examples, longest first, in groups of at most micro_tokens tokens after padding (or of one example)."""
    group = []
    for example in sorted(examples, key=len, reverse=True):
        if group and len(group[0]) * (len(group) + 1) > micro_tokens:
            yield group
            group = []
        group.append(example)
    if group:
        yield group


SLICE = 512  # tokens whose logits are in memory at once, with checkpointing


def log_probabilities(model: llama.Llama, group: list[Example], checkpoint: bool = False,
                      temperature: float = 1.0) -> torch.Tensor:
    """log pi(response | prompt) of each example, summed over the tokens it learns, stop id included: [B], fp32."""
    B, T = len(group), max(map(len, group))
    ids = torch.zeros(B, T, dtype=torch.long)  # [B, T], padded on the right; masks come from lengths, not from pad ids
    at = torch.zeros(B, T, dtype=torch.bool)  # [B, T], the places whose *next* token is part of the response
    for row, example in enumerate(group):
        ids[row, : len(example)] = torch.tensor(example.prompt + example.response)
        at[row, len(example.prompt) - 1 : len(example) - 1] = torch.tensor(example.learned or True)
    ids, at = ids.to(model.lm_head.weight.device), at.to(model.lm_head.weight.device)
    target = ids.roll(-1, dims=1)[at]  # [N]
    states = model.states(ids, at=at, checkpoint=checkpoint)  # [N, C]

    def score(states: torch.Tensor, target: torch.Tensor) -> torch.Tensor:  # [N, C], [N] -> [N], fp32
        return -F.cross_entropy(model.lm_head(states).float() / temperature, target, reduction="none")

    if checkpoint:  # LLaMA-3.1 has 128,256 logits: of 4,096 tokens they and their gradients would take 6 GiB
        parts = zip(states.split(SLICE), target.split(SLICE))
        logp = torch.cat([recompute(score, *part, use_reentrant=False) for part in parts])  # [N]
    else:
        logp = score(states, target)  # [N]
    row = at.nonzero()[:, 0]  # [N]
    return torch.zeros(B, device=logp.device).index_add(0, row, logp)


def add_gradient(model: llama.Llama, examples: list[Example], denominator: float, settings: Settings) -> float:
    """Add the gradient of Eq. (5), -sum weight * log pi / denominator, micro-batch by micro-batch; returns the loss.

    The denominator is one constant for the whole step, so the gradient does not depend on micro_tokens.
    """
    total = 0.0
    for group in micro_batches(examples, settings.micro_tokens):
        weight = torch.tensor([example.weight for example in group], device=model.lm_head.weight.device)  # [B]
        loss = -(weight * log_probabilities(model, group, settings.checkpointing)).sum() / denominator
        loss.backward()
        total += loss.item()
    return total


class AdamW:
    """AdamW (Loshchilov & Hutter 2019). In fp32 it is torch.optim.AdamW.

    In bf16 the weights and both moments stay in bf16 (8 bytes per parameter with the gradient, so that an 8B model
    fits on one 80 GB card) and are rounded stochastically (lora.store): a change below half a unit in the last place,
    which is what a learning rate of 5e-7 makes, would otherwise be rounded away every time. The random bits of a step
    depend on its number alone, so that a run that continues repeats itself.
    """

    PART = 1 << 24  # numbers that are updated at once

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
            rows = max(1, self.PART // weight[0].numel())
            for w, m, v, g in zip(*(x.split(rows) for x in (weight, *moments, weight.grad))):
                g = g.float()
                m32 = m.float().lerp(g, 1 - self.beta1)
                v32 = v.float() * self.beta2 + (1 - self.beta2) * g * g
                step = m32 / (1 - self.beta1**self.t) / ((v32 / (1 - self.beta2**self.t)).sqrt() + self.eps)
                lora.store(m, m32, self.generator)
                lora.store(v, v32, self.generator)
                lora.store(w, w.float() * (1 - lr * self.weight_decay) - lr * step, self.generator)
            weight.grad = None

    def state(self) -> dict:
        return {"t": self.t, "m": self.m, "v": self.v}

    def restore(self, state: dict) -> None:
        self.t = state["t"]
        for mine, saved in zip(self.m + self.v, state["m"] + state["v"]):
            mine.copy_(saved)


# ---------------------------------------------------------------------------------------------------------------------
# A stage: gradient steps that survive interruption


@contextmanager
def uninterrupted():
    """Hold Ctrl-C back until the block is done."""
    pending = []
    previous = signal.signal(signal.SIGINT, lambda *args: pending.append(args))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
    if pending:
        raise KeyboardInterrupt


def finished(directory: Path, made_with: dict) -> bool:
    """Whether the stage is done. Raises UserError if it was done with other settings."""
    notes = directory / "ibpo.json"
    if notes.exists():
        require_same(directory, llama.read_json(notes).get("settings", {}), made_with)
    return notes.exists()


def require_same(directory: Path, before: dict, now: dict) -> None:
    """Raises UserError, which names a setting that differs, if the stage in this directory was made with others."""
    for key in {**now, **before}:
        if before.get(key) != now.get(key):
            raise UserError(f"{directory} was made with {key} = {before.get(key)!r}, not {now.get(key)!r}; "
                            f"choose another --out, or delete that directory")


def settings_of(settings: Settings, stage: str) -> dict:
    """The settings that decide what a stage's result is (not how fast, nor what comes after it)."""
    names = ["seed", "dtype", "weight_decay", "beta2", "max_grad_norm", "warmup"]
    if stage == "base":
        names += ["base_steps", "base_chapter_2", "base_chapter_3", "base_batch", "base_lr"]
    else:
        names += ["model", "data", "max_new_tokens", "temperature", "top_p", "decay", "sampling_dtype"]
        names += [f.name for f in fields(Settings) if f.name.startswith("sft_") and f.name != "sft_short"
                  and (f.name, stage) != ("sft_alpha", "sv-sft")]
    if settings.sft_short and stage in ("asv-sft", "ibpo"):
        names += ["sft_short"]
    if stage != "base" and settings.lora_rank:
        names += ["lora_rank", "lora_alpha"]
    if stage == "ibpo":
        names += ["start", "method", "prompts", "accumulate", "samples", "steps", "lr", "rl_top_p", "share_ties",
                  "kl_max"] + ["budget"] * (settings.method in CAPPED)
        if settings.method == "length-penalty":
            names += ["length_price", "length_unit"]
    return {name: getattr(settings, name) for name in names}


def save_checkpoint(settings: Settings, stage: str, model, tokenizer, directory: Path, **notes) -> None:
    """A Hugging Face checkpoint, with notes for the next reader. ibpo.json comes last: it says that all is there."""
    (directory / "ibpo.json").unlink(missing_ok=True)
    llama.save(model, directory, tokenizer)
    for file in filter(Path.is_file, directory.iterdir()):
        flush(file)
    notes = {"stage": stage, "condition": settings.condition(stage), "settings": settings_of(settings, stage), **notes}
    with whole(directory / "ibpo.json") as temporary:
        temporary.write_text(json.dumps(notes, indent=2) + "\n")


@contextmanager
def only_process(directory: Path):
    """Refuse to train a stage that another process is training: both would write one log and one state."""
    lock = FileLock(directory / ".lock")
    try:
        with lock.acquire(timeout=0):
            yield
    except Timeout:
        raise UserError(f"another process is training {directory}; wait for it, or choose another --out") from None


def run_stage(settings: Settings, stage: str, name: str, model, tokenizer, steps: int, learning_rate, add_step,
              at_end=None) -> Path:
    """Run a stage's gradient steps and write its checkpoint to out/name.

    add_step(model, step) adds the step's gradient to the model and returns what is to be logged, the few items for
    the progress bar under "bar". learning_rate(step) -> float. at_end(model): called before the model is saved.
    """
    directory = Path(settings.out) / name
    directory.mkdir(parents=True, exist_ok=True)
    made_with = settings_of(settings, stage)
    if "lora_rank" in made_with:
        lora.add(model, settings.lora_rank, settings.lora_alpha, settings.seed)
    learned = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    state_file, log_file = directory / "state.pt", directory / "log.jsonl"
    optimizer = AdamW(model, 0.9, settings.beta2, settings.weight_decay)
    done = 0

    def save_state() -> None:
        flush(log_file)
        with whole(state_file) as temporary:
            torch.save({"done": done, "model": learned, "optimizer": optimizer.state(),
                        "settings": json.dumps(made_with)}, temporary)

    with only_process(directory):
        for left_over in directory.glob("*.tmp"):  # of a process that was killed while it wrote
            left_over.unlink()
        lines = []
        if state_file.exists():
            # Mapped, not read, and copied tensor by tensor: an 8B model has no room for its state a second time.
            try:
                state = torch.load(state_file, map_location="cpu", mmap=True, weights_only=True)
            except RuntimeError:
                raise UserError(f"{state_file} is damaged; delete {directory} to start this stage anew") from None
            require_same(directory, json.loads(state["settings"]), made_with)
            model.load_state_dict(state["model"], strict=False)  # with LoRA: the adapters, the rest is as it was
            optimizer.restore(state["optimizer"])
            done = state["done"]
            del state
            lines = log_file.read_text().splitlines(keepends=True)[:done]
            print(f"{name}: continues at step {done} of {steps}")
        log_file.write_text("".join(lines))  # a step after the last saved state is done again

        saved, pause = time.monotonic(), 20.0
        bar = tqdm(total=steps, initial=done, desc=name, unit="step", dynamic_ncols=True, mininterval=0.5)
        try:
            while done < steps:
                model.train()
                record = add_step(model, done)
                with uninterrupted():
                    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm).item()
                    if not math.isfinite(norm):
                        raise UserError(f"{name}: the gradient of step {done} is not finite; lower the learning rate")
                    if norm > 0:  # else nothing was accepted: no gradient, no step
                        optimizer.step(learning_rate(done))
                    shown = record.pop("bar")
                    with log_file.open("a") as log:
                        log.write(json.dumps({"step": done, **record, "grad_norm": norm}) + "\n")
                    done += 1
                    if (begin := time.monotonic()) - saved > pause:
                        save_state()
                        saved = time.monotonic()
                        pause = max(20.0, 20 * (saved - begin))  # 48 GB at 8B: a twentieth of the time at most
                bar.set_postfix_str(shown, refresh=False)
                bar.update()
            bar.close()
            if at_end is not None:
                at_end(model)
        except KeyboardInterrupt:
            bar.close()
            print(f"{name}: saving step {done}", flush=True)  # at 8B this takes minutes
            with suppress(KeyboardInterrupt), uninterrupted():  # a second Ctrl-C has to wait, too
                save_state()
            raise SystemExit(f"\n{name}: stopped after step {done} of {steps}; the same command continues from here")
        with uninterrupted():
            save_checkpoint(settings, stage, lora.merge(model), tokenizer, directory)
            state_file.unlink(missing_ok=True)
    return directory


def schedule(settings: Settings, highest: float, steps: int):
    """learning_rate(step) of SFT and IBPO: a linear warm-up, then constant, or with --decay linearly down to 0.

    A small model's finer skills, such as stating the most frequent of eight answers, drown in the noise of the last
    steps otherwise.
    """
    def learning_rate(step: int) -> float:
        return highest * min(1, (step + 1) / settings.warmup) * (1 - step / steps if settings.decay else 1)

    return learning_rate


def open_start(settings: Settings, directory):
    """The model a stage starts from, and its tokenizer."""
    torch.cuda.empty_cache()  # the sampler's cache of the stage before lies in pieces in which no new one has room
    model, tokenizer, _ = sample.open_checkpoint(directory, sample.DTYPES[settings.dtype], settings.device)
    return model, tokenizer


def for_sampling(model: llama.Llama, settings: Settings) -> llama.Llama:
    """The model, or a copy of it in another dtype if that samples faster (sample.resolve_dtype)."""
    dtype = sample.resolve_dtype(settings.sampling_dtype, settings.dtype, model.config, settings.device)
    return model if dtype == settings.dtype else lora.merge(copy.deepcopy(model)).to(sample.DTYPES[dtype])


def encode(tokenizer, question: str, condition: str, response: str, given: str = "") -> Example:
    """A training example from texts. given: a part of the response that is only read, not learned."""
    coded = tokenizer(response, add_special_tokens=False, return_offsets_mapping=True)
    first = response.index(given)
    learned = [not (first <= a < first + len(given)) for a, _ in coded.offset_mapping] + [True]
    return Example(voting.encode_prompt(tokenizer, question, condition), coded.input_ids + [tokenizer.eos_token_id],
                   learned=learned if given else None)


def supervised(settings: Settings, make_batch):
    """add_step for maximum likelihood on make_batch(step): Table 1's SFT, with each example's weight."""

    def add_step(model, step: int) -> dict:
        begin = time.monotonic()
        examples = make_batch(step)
        loss = add_gradient(model, examples, len(examples), settings)
        learned = [sum(example.learned or [True] * len(example.response)) for example in examples]  # tokens of each
        weight = sum(example.weight * count for example, count in zip(examples, learned))
        per_token = loss * len(examples) / weight
        return {"nll_per_token": per_token, "tokens": sum(learned), "seconds": time.monotonic() - begin,
                "bar": f"nll/token {per_token:.3f}"}

    return add_step
