"""How fast are the slow parts, beside what one would use instead: sampling beside transformers' generate, selection
beside scipy's milp alone; where the time of one IBPO step goes, and how far that is from what this machine's matrix
products allow; and what gradient checkpointing costs and saves.

    python bench/speed.py --quick               # about three minutes: fewer prompts, two batch sizes
    python bench/speed.py                       # built-in model; more with --smollm2 DIR --gsm8k gsm8k_test.jsonl
    python bench/speed.py --before COMMIT       # another question: how fast was sampling at a commit before this one?
    python bench/speed.py --pass-at-1 2000      # another one: does sampling in bf16 cost accuracy?

Both sides get the same weights, prompts, dtype and sampling (temperature 1, top-p 0.9), and stop at the same ids. Their
random numbers differ, so their responses do; what is compared are tokens per second, counted up to the stop id. With
one thread, the default, a second is one of processor time (other programs do not count); with more, of wall time.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import LinearConstraint, milp
from scipy.sparse import csr_array, eye_array, kron
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import data
import ibpo
import llama
import sample
import train
import voting
from learn import AdamW, Example, add_gradient
from methods import METHODS
from plumbing.checkpoints import stop_ids_of
from plumbing.settings import Settings
from plumbing.statistics import Bootstrap, percent

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = 8


def seconds(function: Callable, *arguments) -> tuple[float, object]:
    """How long it takes, and what it returns."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    begin = clock()
    result = function(*arguments)
    return clock() - begin, result


def fastest(function: Callable, *arguments) -> tuple[float, object]:
    """The shortest of three times, and what the function returns: for short ones, which a busy machine disturbs."""
    return min((seconds(function, *arguments) for _ in range(3)), key=lambda pair: pair[0])


# ---------------------------------------------------------------------------------------------------------------------
# Sampling beside transformers' generate


class Count:
    """Rows computed in one-token forward passes of a model of either side; the rest is reading prompts."""

    def __init__(self, model: torch.nn.Module):
        self.rows = 0
        model.register_forward_pre_hook(self.add, with_kwargs=True)

    def add(self, model, args, kwargs) -> None:
        ids = args[0] if args else kwargs["input_ids"]  # [B, T]
        self.rows += ids.shape[0] * (ids.shape[1] == 1)


def ours(model, prompts: list[list[int]], batch: int, limit: int, stop_ids) -> list[int]:
    """Lengths of the responses."""
    return [len(r.ids) for r in sample.generate(model, prompts, limit, top_p=0.9, stop_ids=stop_ids, slots=batch)]


@torch.no_grad()
def theirs(model, prompts: list[list[int]], batch: int, limit: int, stop_ids) -> list[int]:
    """Lengths of the responses of `generate`, `batch` prompts at a time, padded on the left."""
    lengths = []
    for first in range(0, len(prompts), batch):
        part = prompts[first : first + batch]
        width = max(map(len, part))
        ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in part])  # [B, T]
        real = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in part])  # [B, T]
        made = model.generate(ids, attention_mask=real, max_new_tokens=limit, do_sample=True, temperature=1.0, top_k=0,
                              top_p=0.9, eos_token_id=list(stop_ids), pad_token_id=stop_ids[0])[:, width:]  # [B, new]
        stopped = torch.isin(made, torch.tensor(stop_ids))
        lengths += torch.where(stopped.any(1), stopped.int().argmax(1) + 1, made.shape[1]).tolist()
    return lengths


def continuous(model, prompts: list[list[int]], batch: int, limit: int, stop_ids) -> list[int]:
    """Lengths of the responses of `generate_batch`, transformers' continuous batching with pages, `batch` at once."""
    pages = -(-(max(map(len, prompts)) + limit) // 32)  # of a response
    memory = ContinuousBatchingConfig(page_size=32, num_blocks=batch * pages, max_batch_tokens=max(batch, 64),
                                      max_requests_per_batch=batch)
    chosen = GenerationConfig(max_new_tokens=limit, do_sample=True, temperature=1.0, top_k=0, top_p=0.9,
                              eos_token_id=list(stop_ids), pad_token_id=stop_ids[0])
    return [len(made.generated_tokens) for made in model.generate_batch(prompts, chosen, memory, warmup=False).values()]


def compare_continuous(directory, problems: list, condition: str, limit: int, batch: int, count: int) -> None:
    """Few responses: on a CPU `generate_batch` masks the tokens of all sequences instead of separating them."""
    tokenizer = sample.open_checkpoint(directory)[1]
    stop_ids = stop_ids_of(directory, tokenizer)
    prompts = [voting.encode_prompt(tokenizer, problem.question, condition) for problem in problems[:count]]
    print(f"\nthe same beside continuous batching: {count} prompts, batch {batch}, tokens/s\n"
          f"{'':6}{'ours':>10}{'generate':>10}{'generate_batch':>16}")
    for dtype, torch_dtype in sample.DTYPES.items():
        model = llama.load(directory, torch_dtype).eval()
        theirs_model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch_dtype).eval()
        rates = []
        for side, weights in (ours, model), (theirs, theirs_model), (continuous, theirs_model):
            side(weights, prompts[:2], batch, 2, stop_ids)  # warm up
            spent, lengths = seconds(side, weights, prompts, batch, limit, stop_ids)
            rates.append(sum(lengths) / spent)
        print(f"{dtype:6}{rates[0]:10,.0f}{rates[1]:10,.0f}{rates[2]:16,.0f}", flush=True)


def compare_sampling(name: str, directory, problems: list, condition: str, limit: int, batches, responses: tuple,
                     longest: float) -> None:
    """With responses = (least, share) a batch of b makes share * b responses, or `least` if these are more.

    A larger batch takes no longer per response. A cell that would take more than `longest` seconds, judged by the
    smaller batch of the same side, is left out: '-'. best: of what was measured.
    """
    tokenizer = sample.open_checkpoint(directory)[1]
    stop_ids = stop_ids_of(directory, tokenizer)
    prompts = [voting.encode_prompt(tokenizer, problem.question, condition)
               for problem in problems for _ in range(SAMPLES)]
    least, share = responses
    print(f"\nsampling, {name}: prompts of {min(map(len, prompts))} to {max(map(len, prompts))} tokens, "
          f"{SAMPLES} samples each, {limit} new tokens at most")
    print(f"{'':23}{'ours':>30}{'generate':>30}\n{'':6}{'batch':>6}{'responses':>11}"
          + f"{'tokens/s':>16}{'useful':>8}{'s':>6}" * 2 + f"{'ratio':>7}")
    for dtype, torch_dtype in sample.DTYPES.items():
        sides = {ours: llama.load(directory, torch_dtype).eval(),
                 theirs: AutoModelForCausalLM.from_pretrained(directory, dtype=torch_dtype).eval()}
        counts = {side: Count(model) for side, model in sides.items()}
        best, each = dict.fromkeys(sides, 0.0), dict.fromkeys(sides, 0.0)  # tokens per second; seconds per response
        for batch in batches:
            part, rates, cells = prompts[: max(least, share * batch)], [], ""
            for side, model in sides.items():
                if each[side] * len(part) > longest:
                    cells += f"{'-':>16}{'-':>8}{'-':>6}"
                    continue
                side(model, part[:2], batch, 2, stop_ids)  # warm up
                counts[side].rows = 0
                spent, lengths = seconds(side, model, part, batch, limit, stop_ids)
                each[side] = spent / len(part)
                rates.append(sum(lengths) / spent)
                best[side] = max(best[side], rates[-1])
                # The first token of a response comes from reading its prompt
                useful = (sum(lengths) - len(lengths)) / max(counts[side].rows, 1)
                cells += f"{rates[-1]:16,.0f}{useful:8.0%}{spent:6.0f}"
            ratio = f"{rates[0] / rates[1]:7.1f}" if len(rates) == 2 else f"{'-':>7}"
            print(f"{dtype:6}{batch:6}{len(part):11}{cells}{ratio}", flush=True)
        print(f"{dtype:6}{'best':>6}{'':11}{best[ours]:16,.0f}{'':14}{best[theirs]:16,.0f}{'':14}"
              f"{best[ours] / best[theirs]:7.1f}", flush=True)


# Runs in the directory of any commit: what it uses of sample.py has been the same since there are several processes.
TIME_SAMPLING = """
import json, sys, time, torch
import llama, sample
directory, threads, prompts, stop_ids = json.loads(sys.stdin.read())
torch.set_num_threads(threads)
model = llama.load(directory, torch.float32).eval()
options = dict(max_new_tokens=300, top_p=0.9, stop_ids=tuple(stop_ids), seed=2)
sample.generate(model, prompts[:64], **options)  # warm up
begin = time.process_time()
tokens = sum(len(written.ids) for written in sample.generate(model, prompts, **options))
print(tokens / (time.process_time() - begin))
"""


def compare_with(commit: str, directory, problems: list) -> None:
    """Tokens per second of processor time, fp32, of this directory and of a commit, one after the other, five times."""
    directory = Path(directory).resolve()
    tokenizer = sample.open_checkpoint(directory)[1]
    prompts = [voting.encode_prompt(tokenizer, problem.question, "asv") for problem in problems for _ in range(SAMPLES)]
    task = json.dumps([str(directory), torch.get_num_threads(), prompts, stop_ids_of(directory, tokenizer)])
    with tempfile.TemporaryDirectory() as before:
        archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True)
        if archive.returncode:
            sys.exit(f"error: no commit {commit!r} here: {archive.stderr.decode().strip()}")
        subprocess.run(["tar", "-x", "-C", before], input=archive.stdout, check=True)
        rates = []
        for _ in range(5):
            rates.append([float(subprocess.run([sys.executable, "-c", TIME_SAMPLING], cwd=root, input=task, text=True,
                                               stdout=subprocess.PIPE, check=True).stdout) for root in (before, ROOT)])
            print(f"{len(rates)} of 5: {rates[-1][0]:,.0f} and {rates[-1][1]:,.0f} tokens/s", file=sys.stderr)
    then, now = np.median(rates, axis=0)
    print(f"sampling {len(prompts):,} responses, tokens/s of processor time: {commit} {then:,.0f}, here {now:,.0f}, "
          f"ratio {np.median([b / a for a, b in rates]):.2f} (medians of 5)")


def compare_pass_at_1(directory, count: int) -> None:
    """Does sampling in bf16 cost accuracy? The same problems and random numbers in both dtypes."""
    problems, right = data.load("builtin", "test", count, seed=0), {}
    for dtype, torch_dtype in sample.DTYPES.items():
        model, tokenizer, notes = sample.open_checkpoint(directory, torch_dtype)
        rows = sample.ask(model, tokenizer, [problem.question for problem in problems], notes["condition"], 1,
                          max_new_tokens=300, top_p=0.9)
        right[dtype] = np.array([voting.judge(problem.answer, r.text, r.finished)[1]
                                 for problem, (r,) in zip(problems, rows, strict=True)], float)  # [count]
    bootstrap = Bootstrap(count)
    draws = bootstrap.means(np.stack(list(right.values()), axis=1))  # float[draws] for each dtype
    means = dict(zip(right, draws, strict=True))
    single = {dtype: bootstrap.interval(mean) for dtype, mean in means.items()}
    difference = bootstrap.interval(means["bf16"] - means["fp32"])
    half = (single["fp32"][2] - single["fp32"][1]) / 2
    print(f"\npass@1 of {directory} on {count:,} problems, %, with 95 % intervals")
    for name, estimate in {**single, "bf16 - fp32, paired": difference}.items():
        print(f"  {name:20}{percent(estimate)}")
    print(f"  the difference is {'smaller' if abs(difference[0]) < half else 'LARGER'} than half the interval of fp32, "
          f"{100 * half:.2f}, and its own interval {'holds' if difference[1] <= 0 <= difference[2] else 'EXCLUDES'} 0")


# ---------------------------------------------------------------------------------------------------------------------
# Selection beside scipy's milp


def milp_of(margin, correct, extended, cap):
    """Solves Eq. (8) when called: the largest total margin. One more prompt outweighs all margins together (D6)."""
    n, m = correct.shape
    value = np.where(extended, margin[:, None], -margin[:, None]).ravel()  # [n * m]
    one_per_prompt = LinearConstraint(kron(eye_array(n), np.ones((1, m)), format="csr"), ub=1)
    under_cap = LinearConstraint(csr_array(extended.ravel()[None] - cap), ub=0)
    return lambda: float(milp(-(value + 2 * n + 1), integrality=np.ones(n * m), bounds=(0, correct.ravel()),
                              constraints=[one_per_prompt, under_cap], options={"mip_rel_gap": 0}).x.round() @ value)


def select_often(correct, extended, rng) -> list[ibpo.Selection]:
    return [ibpo.select_ibpo(correct, extended, 0.5, rng=rng) for _ in range(100)]


def compare_selection(sizes) -> None:
    print(f"\nselection, {SAMPLES} responses per prompt, cap 50 %: all of ibpo.select_ibpo against milp alone")
    print(f"{'prompts':>8}{'batches':>9}{'ours: ms':>10}{'milp: ms':>10}{'ratio':>8}   same optimum")
    rng = np.random.default_rng(0)
    for n in sizes:
        batches = min(20, max(sizes[-1] // n, 1))  # milp takes three times as long on some as on others
        mine, highs, same = 0.0, 0.0, True
        for _ in range(batches):
            correct = rng.random((n, SAMPLES)) < rng.random((n, 1))  # easy and hard prompts
            extended = rng.random((n, SAMPLES)) < 0.5
            spent, chosen = fastest(select_often, correct, extended, rng)
            mine += spent / 100
            margin = ibpo.reward_margin(correct, extended)
            spent, optimum = fastest(milp_of(margin, correct, extended, 0.5))
            highs += spent
            value = np.where(extended, margin[:, None], -margin[:, None])  # float[n, SAMPLES]
            same &= all(abs((selection.weights * value).sum() - optimum) < 1e-6 for selection in chosen)
        print(f"{n:8}{batches:9}{1e3 * mine / batches:10.3f}{1e3 * highs / batches:10.1f}{highs / mine:8.0f}   {same}")


# ---------------------------------------------------------------------------------------------------------------------
# One IBPO step


def matrix_rate() -> float:
    """Floating-point operations per second of a large fp32 matrix product."""
    a = torch.randn(1024, 1024)
    return 20 * 2 * 1024**3 / fastest(lambda: [a @ a for _ in range(20)])[0]


def time_step(directory, n: int) -> None:
    rate = matrix_rate()
    print(f"\none IBPO step, {n} prompts with {SAMPLES} responses each, fp32; floor: its matrix products alone, "
          f"at {rate / 1e9:.0f} GFLOP/s")
    settings = Settings()
    model, tokenizer, _ = sample.open_checkpoint(directory, torch.float32)
    problems = data.load("builtin", "train", n, seed=1)
    optimizer = AdamW(model, 0.9, settings.beta2, settings.weight_decay)
    rolling, rollout = seconds(train.roll_out, model, tokenizer, problems, SAMPLES, settings.rl_top_p, 1, settings)
    texts = [[(r.text, r.finished, len(r.ids)) for r in row] for row in rollout.responses]
    grading, _ = seconds(voting.judge_rows, [problem.answer for problem in problems], texts, "asv")
    feasible = ibpo.feasible_set(rollout.correct, rollout.valid)  # bool[n, SAMPLES]
    solving, selection = seconds(METHODS["ibpo"].select, rollout, feasible, settings, np.random.default_rng(1))
    weights = ibpo.share_ties(selection.weights, feasible, rollout.group)  # float[n, SAMPLES]
    accepted = train.weighted_examples(rollout, weights, tokenizer, settings)

    def learn() -> None:
        model.train()
        add_gradient(model, accepted, n, settings)
        optimizer.step(settings.lr)

    learning, _ = seconds(learn)
    total = rolling + solving + learning
    weights_used = sum(w.numel() for w in model.parameters() if w.dim() == 2)  # the tied head counts once, as it works
    learned = sum(map(len, accepted))
    for name, spent, passes, what in (  # a pass: one multiplication and one addition per weight and token
            ("sampling", rolling - grading, rollout.tokens.sum(), f"{rollout.tokens.sum():,} tokens"),
            ("grading", grading, 0, f"{rollout.tokens.size:,} responses"),
            ("solving", solving, 0, f"{n:,} prompts, {selection.accepted:,} accepted, {len(accepted):,} share it"),
            ("learning", learning, 3 * learned, f"{learned:,} tokens, forwards and backwards")):
        floor = f"{2 * weights_used * passes / rate:8.2f} s" if passes else f"{'':10}"
        print(f"  {name:10}{spent:9.3f} s{spent / total:7.1%}   floor {floor}   {what}")


# ---------------------------------------------------------------------------------------------------------------------
# Gradient checkpointing


def peak_memory() -> float:
    """The most memory that this process has held, in MiB. Linux's getrusage would count its parent's, too."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS counts bytes


def gradient_step(directory, responses: int, checkpointing: bool) -> None:
    """Print the seconds of a gradient on some responses of 640 tokens at once, and the process's peak memory, MiB."""
    settings = Settings(checkpointing=checkpointing, micro_tokens=1 << 30)
    model = llama.load(directory, torch.float32).train()
    generator = torch.Generator().manual_seed(0)
    examples = [Example([5], torch.randint(6, 60, (640,), generator=generator).tolist())
                for _ in range(responses)]
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    spent, _ = seconds(lambda: add_gradient(model, examples, len(examples), settings))
    print(spent, peak_memory())


def compare_checkpointing(name: str, directory, responses: int, threads: int) -> None:
    """Each side in a process of its own, so that its peak of memory is its own."""
    print(f"\ngradient checkpointing, {name}: a gradient on {responses} responses of 640 tokens at once, fp32")
    for state in ("off", "on"):
        printed = subprocess.run([sys.executable, __file__, "--model", str(directory), "--threads", str(threads),
                                  "--gradient", str(responses), *["--recompute"] * (state == "on")],
                                 capture_output=True, text=True, check=True).stdout
        spent, memory = map(float, printed.split())
        print(f"  {state:4}{spent:8.2f} s   peak memory of the process {memory:8.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer prompts; batches of 16 and 256")
    parser.add_argument("--model", default="checkpoints/ibpo", help="a checkpoint of the built-in world that votes "
                        "(default checkpoints/ibpo); its ASV responses differ more than tenfold in length")
    parser.add_argument("--smollm2", metavar="DIR", help="a real model, e.g. SmolLM2-135M-Instruct; needs --gsm8k")
    parser.add_argument("--gsm8k", metavar="FILE", help=".jsonl file whose questions the real model gets")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
    parser.add_argument("--only", choices=["sampling", "selection", "step", "checkpointing"], help="one part of them")
    parser.add_argument("--longest", type=float, default=300.0, metavar="SECONDS",
                        help="leave out a cell that would take longer, judged by the smaller batch (default 300)")
    parser.add_argument("--pass-at-1", type=int, metavar="N",
                        help="nothing but this: --model on N built-in problems in fp32 and in bf16")
    parser.add_argument("--before", metavar="COMMIT", help="nothing but this: sampling here and at this commit")
    parser.add_argument("--gradient", type=int, help=argparse.SUPPRESS)  # these two: what compare_checkpointing runs
    parser.add_argument("--recompute", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if bool(args.smollm2) != bool(args.gsm8k):
        parser.error("--smollm2 and --gsm8k belong together")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.gradient:
        return gradient_step(args.model, args.gradient, args.recompute)
    if args.before:
        return compare_with(args.before, args.model, data.load("builtin", "test", 256, seed=0))
    if args.pass_at_1:
        return compare_pass_at_1(args.model, args.pass_at_1)
    print(f"torch {torch.__version__}, {args.threads} thread(s); bf16 products "
          + ("in hardware" if sample.has_bf16() else "in software: this CPU has no instructions for them"))
    batches = [16, 256] if args.quick else [1, 16, 64, 256, 512]
    if args.only in (None, "sampling"):
        problems = data.load("builtin", "test", 256, seed=0)
        compare_sampling("built-in model", args.model, problems, "asv", 300, batches, (16, 1 if args.quick else 4),
                         args.longest)
        compare_continuous(args.model, problems, "asv", 300, 16, 32)
        if args.smollm2:
            problems = data.load(args.gsm8k, "test", 32, seed=0)
            compare_sampling("SmolLM2-135M", args.smollm2, problems, "scot", 64, batches[:4], (8, 1), args.longest)
    if args.only in (None, "selection"):
        compare_selection([16, 256] if args.quick else [16, 64, 256, 1024, 4096])
    if args.only in (None, "step"):
        time_step(args.model, 32 if args.quick else 256)
    if args.only in (None, "checkpointing"):
        compare_checkpointing("built-in model", args.model, 16, args.threads)
        if args.smollm2:
            compare_checkpointing("SmolLM2-135M", args.smollm2, 4, args.threads)


if __name__ == "__main__":
    main()
