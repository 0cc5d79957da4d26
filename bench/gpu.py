"""An 8B run on one GPU, in parts: does everything hold there, how fast does it sample and learn, what memory does it
take, and where does the time of an IBPO step go?

    python bench/gpu.py                          # about six minutes on a card of 80 GB; writes results/gpu/CARD.json
    python bench/gpu.py --only learning          # one part; the other parts of the file stay
    python bench/gpu.py --device cpu --tiny      # seconds, to see that it runs; writes nothing without --out

The weights are random, in the shapes of LLaMA-3.2-1B and LLaMA-3.1-8B; settings are those of the preset 80gb. Lengths
are those of real responses, a sixth of them votes: of IuB-50 in results/records, stretched to 1,024 tokens at most.
Every response ends where its length says, on all sides. transformers gets the same weights (the very same memory),
prompts, dtype and lengths: `generate` one batch of as many rows as the cache holds at full length, `generate_batch` all
prompts.

rows: sequences at once, on average. share: of what the card allows. In sampling that is reading the weights and all
keys and values once per token, at the measured speed of a copy; in learning 8 operations per weight and token (6
without checkpointing), at the measured speed of a bf16 product. plumbing/plan.py reads these shares.

What was expected of a card, and what was measured: results/gpu/README.md.
"""

import argparse
import datetime
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import transformers

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
sys.path.insert(1, str(ROOT / "bench"))
from device_checks import check_device  # noqa: E402

import ibpo  # noqa: E402
import llama  # noqa: E402
import sample  # noqa: E402
import voting  # noqa: E402
from learn import AdamW, Example, add_gradient  # noqa: E402
from plumbing import memory, plan  # noqa: E402
from plumbing.files import atomic_write  # noqa: E402
from plumbing.settings import PRESETS, Settings  # noqa: E402

GIB = 2**30
LLAMA3 = dict(vocab_size=128256, rope_theta=500000.0, rms_norm_eps=1e-5, max_position_embeddings=131072)
SCALING = dict(rope_type="llama3", low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)
SHAPES = {
    "1B": llama.Config(hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
                       num_key_value_heads=8, tie_word_embeddings=True, rope_scaling={**SCALING, "factor": 32.0},
                       **LLAMA3),
    "8B": llama.Config(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
                       num_key_value_heads=8, rope_scaling={**SCALING, "factor": 8.0}, **LLAMA3)}
TINY = {"tiny": llama.Config(vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                             num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256)}
PRESET = Settings(**PRESETS["80gb"])
FEW = replace(PRESET, device="cpu", sampling_dtype="bf16", slots=8, micro_tokens=128, prompts=2, samples=2)


class Bench:
    """The device, and how large everything is."""

    def __init__(self, device: str, tiny: bool):
        self.device, self.shapes, self.settings = device, TINY if tiny else SHAPES, FEW if tiny else PRESET
        self.prompt, self.longest = (12, 24) if tiny else (300, 1024)  # tokens
        self.card = torch.cuda.get_device_name() if device == "cuda" else "CPU"
        made = np.load(ROOT / "results/records/seed-0/eval/ibpo-50.npz")["tokens"][:, 0]  # int[8000]
        self.lengths = np.maximum(made * self.longest // made.max(), 1)  # int[8000]
        self.products, self.bandwidth = self.speeds(*(256, 2**20) if tiny else (8192, 2**32))
        self.clean()

    def speeds(self, size: int, length: int) -> tuple[float, float]:
        """Operations per second of a square bf16 product, and bytes per second that a copy reads and writes."""
        a = torch.randn(2, size, size, device=self.device, dtype=torch.bfloat16)
        b = torch.zeros(2, length, device=self.device, dtype=torch.uint8)
        product = min(self.measure(lambda: [torch.matmul(a[0], a[0], out=a[1]) for _ in range(10)])[0] for _ in "123")
        copy = min(self.measure(lambda: [b[1].copy_(b[0]) for _ in range(10)])[0] for _ in "123")
        return 10 * 2 * size**3 / product, 10 * 2 * length / copy

    def clean(self) -> None:
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def measure(self, function: Callable) -> tuple[float, float | None, object]:
        """Seconds; the peak of memory in GiB, all that is there included (None on a CPU); what the function returns."""
        self.clean()
        begin = time.perf_counter()
        result = function()
        if self.device == "cuda":
            torch.cuda.synchronize()
        spent = time.perf_counter() - begin
        return spent, torch.cuda.max_memory_allocated() / GIB if self.device == "cuda" else None, result

    def model(self, config: llama.Config) -> llama.Llama:
        """Random weights, in bf16, made where they are used.

        The logits have a standard deviation of 8: like those of a real model they make few tokens likely.
        """
        with torch.device("meta"):
            model = llama.Llama(config).to(torch.bfloat16)
        model.to_empty(device=self.device)
        if config.tie_word_embeddings:
            model.lm_head.weight = model.model.embed_tokens.weight
        generator = torch.Generator(self.device).manual_seed(0)
        with torch.no_grad():
            for weight in model.parameters():
                weight.normal_(0, 0.02, generator=generator) if weight.dim() == 2 else weight.fill_(1)
            model.lm_head.weight.normal_(0, 8 * config.hidden_size**-0.5, generator=generator)
        return model.eval()

    def prompts(self, count: int, each: int, vocabulary: int) -> list[list[int]]:
        """`each` copies of `count` random prompts, all of one length: no side has to pad them."""
        rng = np.random.default_rng(0)
        texts = rng.integers(0, vocabulary - 1, (count, self.prompt)).tolist()
        return [text for text in texts for _ in range(each)]


# ---------------------------------------------------------------------------------------------------------------------
# Sampling


@contextmanager
def given_lengths(lengths: list[int], stop: int) -> Iterator[None]:
    """Let sample.generate end response i with the id `stop` after lengths[i] tokens, and never before.

    The random numbers say when: those in [0, 1) are as ever, a 2 is the end.
    """
    noise_stream, sample_token = sample.noise_stream, sample.sample_token

    def until_the_end(seed: int, index: int) -> Iterator[float]:
        noise = noise_stream(seed, index)
        for _ in range(lengths[index] - 1):
            yield next(noise)
        yield 2.0

    def tokens(logits, noise, *options):
        ends = noise > 1  # bool[N]
        ids, logp = sample_token(logits, torch.where(ends, 0.5, noise), *options)  # [N] each
        return torch.where(ends, stop, torch.where(ids == stop, 0, ids)), logp

    sample.noise_stream, sample.sample_token = until_the_end, tokens
    try:
        yield
    finally:
        sample.noise_stream, sample.sample_token = noise_stream, sample_token


def ours(bench: Bench, model: llama.Llama, prompts: list[list[int]], lengths: list[int]) -> tuple[float, list]:
    """Rows at once on average, and the responses."""
    seen = []
    hook = model.register_forward_pre_hook(
        lambda model, args, kwargs: seen.append(args[0].shape[0]) if args[0].shape[1] == 1 else None, with_kwargs=True)
    stop = model.config.vocab_size - 1
    with given_lengths(lengths, stop):
        made = sample.generate(model, prompts, max(lengths) + 1, top_p=0.9, stop_ids=(stop,),
                               slots=bench.settings.slots, cache_gib=bench.settings.cache_gib)
    hook.remove()
    assert [len(r.ids) for r in made] == list(lengths) and all(r.finished for r in made)
    return float(np.mean(seen)) if seen else float(len(prompts)), made


def as_transformers(model: llama.Llama, device: str):
    """The same weights, in the same memory, as a model of transformers."""
    from transformers.models.llama.modeling_llama import LlamaForCausalLM, LlamaRotaryEmbedding

    c = model.config
    rope = {"rope_theta": c.rope_theta, **(c.rope_scaling or {"rope_type": "default"})}
    config = transformers.LlamaConfig(
        **{name: getattr(c, name) for name in (
            "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "rms_norm_eps", "max_position_embeddings", "tie_word_embeddings")},
        rope_parameters=rope, attn_implementation="sdpa")
    with torch.device("meta"):
        theirs = LlamaForCausalLM(config)
    theirs.load_state_dict(model.state_dict(), assign=True)
    theirs.tie_weights()
    with torch.device(device):
        theirs.model.rotary_emb = LlamaRotaryEmbedding(config)  # its table is not part of a checkpoint
    return theirs.eval()


def options_of_transformers(limit: int) -> transformers.GenerationConfig:
    return transformers.GenerationConfig(do_sample=True, temperature=1.0, top_k=0, top_p=0.9, max_new_tokens=limit,
                                         eos_token_id=-1, pad_token_id=0)


class AtGivenLengths(transformers.StoppingCriteria):
    """Row i has ended after lengths[i] tokens."""

    def __init__(self, prompt: int, lengths: list[int], device: str):
        self.prompt, self.lengths = prompt, torch.tensor(lengths, device=device)  # [B]

    def __call__(self, ids, scores, **options):
        return ids.shape[1] - self.prompt >= self.lengths


@torch.no_grad()
def by_generate(bench: Bench, theirs, prompts: list[list[int]], lengths: list[int]) -> None:
    ids = torch.tensor(prompts, device=bench.device)  # [B, T]
    theirs.generate(ids, attention_mask=torch.ones_like(ids), generation_config=options_of_transformers(max(lengths)),
                    stopping_criteria=transformers.StoppingCriteriaList(
                        [AtGivenLengths(bench.prompt, lengths, bench.device)]))


@torch.no_grad()
def by_generate_batch(bench: Bench, theirs, prompts: list[list[int]], lengths: list[int]) -> None:
    """What `generate_batch` does, with a limit for each request."""
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    memory = ContinuousBatchingConfig(num_blocks=4, max_batch_tokens=64) if bench.device == "cpu" else None  # or usual
    with theirs.continuous_batching_context_manager(options_of_transformers(max(lengths)), block=True, timeout=5,
                                                    continuous_batching_config=memory) as manager:
        for i, (prompt, length) in enumerate(zip(prompts, lengths)):
            manager.add_request(prompt, request_id=f"r{i}", max_new_tokens=length, eos_token_id=-1)
        missing, begin = len(prompts), time.monotonic()
        while missing:
            result = manager.get_result(timeout=1)
            if missing == len(prompts) and time.monotonic() - begin > 60:
                raise RuntimeError("no response after a minute")
            if result is not None and result.is_finished():
                missing -= 1
                if result.error is not None:
                    raise RuntimeError(result.error)
            elif result is None and not manager.is_running():
                raise RuntimeError("its thread has ended")


def time_sampling(bench: Bench) -> Iterator[dict]:
    print(f"\nsampling: prompts of {bench.prompt} tokens, 8 samples each, responses of {bench.lengths.min()} to "
          f"{bench.lengths.max()} tokens, {bench.lengths.mean():.0f} on average, bf16")
    print(f"{'':8}{'side':16}{'responses':>10}{'rows':>7}{'tokens/s':>11}{'share':>8}{'ours is':>12}")
    for name, config in reversed(bench.shapes.items()):  # the largest first: that is the one that matters
        yield time_sampling_of(bench, name, config)


def time_sampling_of(bench: Bench, name: str, config: llama.Config) -> dict:
    model = bench.model(config)
    slots = memory.rows_at_once(config, bench.settings, bench.prompt + bench.longest + 1)
    prompts = bench.prompts(-(-2 * slots // 8), 8, config.vocab_size)
    lengths = np.random.default_rng(1).choice(bench.lengths, len(prompts)).tolist()
    ours(bench, model, prompts[:4], [2] * 4)  # warm up
    spent, peak, (at_once, _) = bench.measure(lambda: ours(bench, model, prompts, lengths))
    rate = sum(lengths) / spent
    reads = plan.read_per_step(config, torch.bfloat16, at_once * (bench.prompt + bench.lengths.mean() / 2))
    row = dict(shape=name, parameters=memory.count_parameters(config), responses=len(prompts), rows=at_once,
               tokens_per_second=rate, share=rate * reads / at_once / bench.bandwidth, peak_gib=peak)
    print(f"{name:8}{'ours':16}{len(prompts):10}{at_once:7.0f}{rate:11,.0f}{row['share']:8.2f}", flush=True)
    theirs = as_transformers(model, bench.device)
    for side, run, count in (("generate", by_generate, slots), ("generate_batch", by_generate_batch, len(prompts))):
        try:
            run(bench, theirs, prompts[:4], [2] * 4)  # warm up
            spent, *_ = bench.measure(lambda: run(bench, theirs, prompts[:count], lengths[:count]))  # noqa: B023
            row[side] = sum(lengths[:count]) / spent
            print(f"{name:8}{side:16}{count:10}{'':7}{row[side]:11,.0f}{'':8}{rate / row[side]:6.2f} times", flush=True)
        except Exception as error:  # whatever it cannot do here is a result, too
            row[side], row[f"{side}_error"] = None, f"{type(error).__name__}: {error}"[:200]
            print(f"{name:8}{side:16}{row[f'{side}_error']}", flush=True)
    return row


# ---------------------------------------------------------------------------------------------------------------------
# Learning


def time_learning(bench: Bench) -> Iterator[dict]:
    print(f"\nlearning: the gradient, micro-batches of {bench.settings.micro_tokens} tokens, bf16; GiB of weights, "
          f"gradients and the rest, no moments")
    print(f"{'':8}{'checkpointing':16}{'tokens/s':>10}{'share':>8}{'peak GiB':>10}{'planned':>9}")
    for name, config in reversed(bench.shapes.items()):
        yield from time_learning_of(bench, name, config)


def time_learning_of(bench: Bench, name: str, config: llama.Config) -> Iterator[dict]:
    model = bench.model(config).train()
    count = int(8 * bench.settings.micro_tokens / (bench.prompt + bench.lengths.mean()))
    rng = np.random.default_rng(2)
    examples = [Example(prompt, rng.integers(0, config.vocab_size, length).tolist()) for prompt, length in zip(
        bench.prompts(count, 1, config.vocab_size), rng.choice(bench.lengths, count))]
    for checkpointing in (True, False):
        settings = replace(bench.settings, checkpointing=checkpointing)
        needs = memory.learning_memory(config, settings, max(map(len, examples)))
        row = dict(shape=name, parameters=memory.count_parameters(config), checkpointing=checkpointing, share=None,
                   tokens_per_second=None, peak_gib=None, planned_gib=(sum(needs.values()) - needs["moments"]) / GIB)
        label = f"{name:8}{'on' if checkpointing else 'off':16}"
        try:
            add_gradient(model, examples[:2], 2, settings)  # warm up; afterwards the gradients are there
            spent, peak, _ = bench.measure(lambda: add_gradient(model, examples, count, settings))  # noqa: B023
        except torch.OutOfMemoryError:
            print(f"{label}out of memory; planned are {row['planned_gib']:.2f} GiB", flush=True)
            yield row
            continue
        rate = sum(map(len, examples)) / spent
        row |= dict(tokens_per_second=rate, peak_gib=peak,
                    share=rate * plan.learning_cost(config, checkpointing) / bench.products)
        print(f"{label}{rate:10,.0f}{row['share']:8.2f}" + (f"{peak:10.2f}" if peak else f"{'-':>10}")
              + f"{row['planned_gib']:9.2f}", flush=True)
        model.zero_grad()
        yield row


# ---------------------------------------------------------------------------------------------------------------------
# One step of IBPO


def made_up_texts(count: int) -> list[tuple[str, bool, int]]:
    """Votes and single trials with numbers as answers, to judge: (text, finished, tokens)."""
    trial, rows = "First we add 12 and 30.\n" * 8 + "\\boxed{%d}", []
    for i in range(count):
        answers = [i % 3, 5, i % 2, i % 3, i % 3, 5, i % 2, 1]
        votes = [str(answer) for answer in answers[: voting.trials_needed([str(a) for a in answers])]]
        vote = voting.render_extended([trial % int(answer) for answer in votes], votes)
        rows.append((vote if i % 2 else voting.render_regular(trial % (i % 3)), True, 300))
    return rows


def time_step(bench: Bench) -> dict:
    """A part of a step of the preset, as train.train_ibpo takes it, with the largest shape."""
    name, config = list(bench.shapes.items())[-1]
    s = bench.settings
    n, whole = s.prompts, s.prompts * s.accumulate
    print(f"\none IBPO step, {name}: {n} prompts with {s.samples} responses each, a part of the {whole} of the preset")
    model = bench.model(config)
    optimizer = AdamW(model, 0.9, s.beta2, s.weight_decay)
    prompts = bench.prompts(n, s.samples, config.vocab_size)
    lengths = np.random.default_rng(3).choice(bench.lengths, len(prompts)).tolist()
    ours(bench, model, prompts[:4], [2] * 4)  # warm up
    sampling, sampling_peak, (_, made) = bench.measure(lambda: ours(bench, model, prompts, lengths))
    texts = made_up_texts(len(prompts))
    rows = [texts[i : i + s.samples] for i in range(0, len(texts), s.samples)]
    judging, _, (judged, _) = bench.measure(lambda: voting.judge_rows(["1"] * n, rows, "asv"))
    solving, _, selection = bench.measure(lambda: ibpo.select_ibpo(judged.correct, judged.extended, 0.5, judged.valid))
    chosen = [i * s.samples + int(selection.weights[i].argmax()) for i in range(n)]  # one of each prompt
    accepted = [Example(prompts[i], made[i].ids) for i in chosen]
    model.train()
    add_gradient(model, accepted[:1], 1, s)
    learning, learning_peak, _ = bench.measure(lambda: add_gradient(model, accepted, n, s))
    updating, updating_peak, _ = bench.measure(lambda: optimizer.step(s.lr))
    longest = bench.prompt + max(lengths) + 1
    planned = [memory.sampling_memory(config, s, longest, bench.prompt, s.samples, True),
               memory.learning_memory(config, s, max(map(len, accepted)))]
    parts = {"sampling": (sampling, sampling_peak, whole / n, sum(planned[0].values()) / GIB),
             "judging": (judging, None, whole / n, None), "solving": (solving, None, 1, None),
             "learning": (learning, learning_peak, whole / n, sum(planned[1].values()) / GIB),
             "updating": (updating, updating_peak, 1, None)}
    total = sum(spent * times for spent, _, times, _ in parts.values())
    print(f"{'':12}{'seconds':>9}{'whole step':>12}{'':8}{'peak GiB':>10}{'planned':>9}")
    found = {"shape": name, "prompts": n, "seconds_of_a_whole_step": total}
    for part, (spent, peak, times, needs) in parts.items():
        found[part] = {"seconds": spent, "peak_gib": peak, "planned_gib": needs}
        cells = [f"{'-':>{width}}" if value is None else f"{value:{width}.2f}"
                 for value, width in ((peak, 10), (needs, 9))]
        print(f"{part:12}{spent:9.3f}{spent * times:12.2f}{spent * times / total:8.1%}{''.join(cells)}")
    tokens = sum(lengths) * whole / n
    print(f"{'':12}{'':9}{total:12.2f} s for {tokens:,.0f} tokens; {s.steps} steps: {s.steps * total / 3600:.1f} hours")
    return found


# Each returns its result, or makes it row by row.
PARTS = {"checks": lambda bench: check_device(bench.device), "learning": time_learning, "step": time_step,
         "sampling": time_sampling}


def main(argv: list[str] = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, help="one part")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="(default cuda)")
    parser.add_argument("--tiny", action="store_true", help="tiny models: seconds on a CPU")
    parser.add_argument("--out", help="directory for CARD.json (default results/gpu; with --tiny none)")
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("error: torch sees no CUDA device; --device cpu --tiny shows that it runs")
    if args.device == "cpu" and not args.tiny:
        sys.exit("error: --device cpu needs --tiny: 8B takes days there")
    transformers.logging.set_verbosity_error()
    bench = Bench(args.device, args.tiny)
    found = {"card": bench.card, "date": datetime.date.today().isoformat(), "torch": torch.__version__,
             "transformers": transformers.__version__, "bandwidth": bench.bandwidth, "products": bench.products}
    print(f"{bench.card}, torch {torch.__version__}, transformers {transformers.__version__}: a copy moves "
          f"{bench.bandwidth / 1e12:.3g} TB/s, a bf16 product does {bench.products / 1e12:.3g} TFLOP/s")
    out = Path(args.out) if args.out else None if args.tiny else plan.MEASURED
    path = out / f"{plan.file_name(bench.card)}.json" if out else None
    if path and path.exists():
        found = {**json.loads(path.read_text()), **found}

    def keep() -> None:  # after each row: the machine may be taken away
        if path:
            with atomic_write(path) as temporary:
                temporary.write_text(json.dumps(found, indent=1) + "\n")

    for name in [args.only] if args.only else PARTS:
        result = PARTS[name](bench)
        if isinstance(result, dict):
            found[name] = result
        else:
            found[name] = []
            for row in result:
                found[name].append(row)
                keep()
        keep()
        bench.clean()
    if path:
        print(f"\n{path}")
    return found


if __name__ == "__main__":
    main()
