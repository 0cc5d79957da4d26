"""Every setting of a run, its meaning, its default (of the preset builtin), and the presets: `python train.py --help`.

The preset `builtin` is the default (two CPU cores, minutes), `smoke` runs the same path in under a minute, `llama`
holds the paper's hyper-parameters (Table 8) for a real LLaMA on one GPU.
"""

import argparse
import hashlib
import math
import os
import random
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch

import ibpo
import voting

POLICY_GRADIENTS = ("grpo", "length-penalty")  # baselines.py: every response has a weight, of either sign
METHODS = (*ibpo.METHODS, "listing", *POLICY_GRADIENTS)
CAPPED = ("ibpo", "random", "listing")  # those that heed --budget


def setting(default, text: str):
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Settings:
    model: str = setting("checkpoints/base", "base model: a Hugging Face LLaMA directory with a chat template")
    data: str = setting("builtin", "training problems: builtin, or a .jsonl file (MATH, GSM8K)")
    valid_data: str = setting("builtin", "validation problems: builtin, or a .jsonl file; never used for training")
    test_data: str = setting("builtin", "test problems for the evaluation at the end: builtin, or a .jsonl file")
    out: str = setting("runs/builtin", "directory of this run; one sub-directory per stage")
    seed: int = setting(0, "makes the whole run repeatable (on a CPU)")
    device: str = setting("cpu", "cpu or cuda")
    dtype: str = setting("fp32", "fp32, or bf16 (weights and moments in bf16, rounded stochastically)")
    sampling_dtype: str = setting("auto", "dtype of the copy of the model that samples: fp32, bf16, or auto: bf16 on a "
                                          "CPU that has it (AMX, AVX512-BF16) for models of width 512 or more, else "
                                          "--dtype, as always with --kl-max and policy gradients")
    slots: int = setting(512, "responses generated at once, at most; fewer if they need more than --cache-gib")
    cache_gib: float = setting(8.0, "GiB for their keys and values. Weights and moments of 8B in bf16 take 45 of the "
                                    "79 GiB of an 80 GB card, and sampling needs no gradient: there 24")
    micro_tokens: int = setting(1024, "tokens per micro-batch; changes speed and memory, never the gradient")
    checkpointing: bool = setting(False, "recompute activations in the backward pass instead of keeping them")
    max_new_tokens: int = setting(300, "longest response; a longer one, or one that reaches the end of the model's "
                                        "context, is cut off and malformed")
    temperature: float = setting(1.0, "sampling temperature; what is learned is always the policy at 1")
    top_p: float = setting(0.9, "nucleus sampling of SFT data and in the evaluation")
    # the base model of the built-in world
    base_steps: int = setting(7500, "base: gradient steps")
    base_chapter_2: int = setting(600, "base: step at which chapter one, the times table, ends")
    base_chapter_3: int = setting(2500, "base: step from which there are exercises in counting votes, too")
    base_batch: int = setting(128, "base: textbook pages per step")
    base_lr: float = setting(1.5e-3, "base: learning rate; 0.97 of it after the warm-up, 0.4 at chapter three, 0 at "
                                     "the end")
    # supervised fine-tuning on the base model's own solutions
    sft_problems: int = setting(5000, "SFT: problems the base model answers to make training data")
    sft_samples: int = setting(12, "SFT: answers to each")
    sft_votes: int = setting(3300, "SFT: voting examples, D_SV or D_ASV1, evenly from all levels")
    sft_regular: int = setting(1700, "SFT: one-trial examples, golden solutions or D_ASV2, evenly from all levels")
    sft_alpha: float = setting(1.0, "ASV-SFT: alpha, how many times as many one-trial examples; sft_regular at 1")
    sft_short: int = setting(0, "ASV-SFT: short votes, evenly from all levels; above 0: three modes, IBPO too")
    sft_steps: int = setting(500, "SFT: gradient steps")
    sft_batch: int = setting(64, "SFT: examples per step")
    sft_lr: float = setting(2e-4, "SFT: highest learning rate")
    # Algorithm 1 and 2
    start: str = setting(None, "IBPO: start from this checkpoint directory instead of the ASV-SFT stage")
    method: str = setting("ibpo", f"who is accepted: {', '.join(METHODS)}")
    budget: str = setting("vote=0.5", "caps on the accepted responses: vote=q+ (the share that may vote), tokens=N "
                                      "(their average length), expected-tokens=N (that of their mode on the prompt), "
                                      "short=q (with --sft-short: the share of short votes), or several: "
                                      "vote=0.5,tokens=90")
    length_price: float = setting(0.05, "length-penalty: cost of a --length-unit of response; a right answer earns 1")
    length_unit: float = setting(27.0, "length-penalty: tokens that cost one --length-price; about a one-trial "
                                       "response (29 in the built-in world); measure it for other data")
    prompts: int = setting(16, "IBPO: n, prompts per sampled batch")
    accumulate: int = setting(4, "IBPO: k_b, sampled batches per gradient step")
    samples: int = setting(32, "IBPO: m, responses per prompt; margins are estimated on these")
    share_ties: bool = setting(True, "IBPO: spread a prompt's weight over all responses that tie, not on one")
    rl_top_p: float = setting(1.0, "IBPO: nucleus sampling of the responses to learn from; must be 1 with --kl-max")
    steps: int = setting(50, "IBPO: gradient steps")
    lr: float = setting(4.5e-5, "IBPO: highest learning rate")
    kl_max: float = setting(None, "Eq. (7): accept only responses whose log-probability is at most this many nats "
                                     "above what the ASV-SFT model gives them; that model is then in memory, too "
                                     "(8B on one 80 GB card: only with --lora-rank)")
    valid_every: int = setting(10, "IBPO: steps between looks at the validation problems; 0: never")
    valid_problems: int = setting(250, "IBPO: validation problems per look")
    keep_best: bool = setting(False, "IBPO: keep the best checkpoint, too, in best/ of the run: the highest "
                                     "validation accuracy among those that vote at most 5 points more than the cap. "
                                     "The evaluation still takes the last one")
    eval_problems: int = setting(8000, "evaluation: test problems")
    eval_samples: int = setting(8, "evaluation: base samples per problem, for self-consistency")
    # optimiser
    weight_decay: float = setting(0.01, "AdamW weight decay")
    beta2: float = setting(0.98, "AdamW second-moment decay")
    max_grad_norm: float = setting(20.0, "longer gradients are scaled down to this norm")
    lora_rank: int = setting(0, "learn corrections of this rank to frozen weights, not the weights; 0: off (lora.py)")
    lora_alpha: float = setting(16.0, "LoRA: corrections count alpha / rank times")
    warmup: int = setting(10, "steps of learning-rate warm-up (base: ten times as many)")
    decay: bool = setting(True, "SFT, IBPO: after the warm-up linearly down to 0; off: constant, as in the paper")

    @property
    def sampling(self) -> dict:
        """Options of sample.generate that are the same in every stage."""
        return {name: getattr(self, name) for name in ("max_new_tokens", "temperature", "slots", "cache_gib")}

    @property
    def compares_logprobs(self) -> bool:
        """Whether the log-probabilities of the sampler meet those of training: then both need the same dtype."""
        return self.kl_max is not None or self.method in POLICY_GRADIENTS

    @property
    def caps(self) -> dict[str, float]:
        """The caps of Eq. (1) by what they limit: {"vote": q+, "short": q, "tokens": N, ...}, or some of these."""
        return {name: float(number) for name, number in (cap.split("=") for cap in self.budget.split(","))}

    @property
    def cap(self) -> float | None:
        """q+ of Eq. (1); None without a cap on votes."""
        return self.caps.get("vote")

    def condition(self, stage: str) -> str:
        """The prompt (voting.PROMPTS) that a stage trains for."""
        return "modes" if self.sft_short and CONDITION[stage] == "asv" else CONDITION[stage]

    def name(self, stage: str) -> str:
        """A stage's directory in `out`. For ibpo: ibpo-50 at 50 %, ibpo-tokens-90; cgpo, which knows no cap."""
        if stage == "asv-sft" and self.sft_alpha != 1:
            return f"asv-sft-{self.sft_alpha:g}"
        if stage != "ibpo":
            return stage
        if self.method == "length-penalty":
            return f"length-penalty-{self.length_price:g}"
        if self.method not in CAPPED:
            return self.method
        caps = [("" if name == "vote" else f"{name}-") + f"{cap if 'tokens' in name else 100 * cap:g}"
                for name, cap in sorted(self.caps.items(), reverse=True)]
        return "-".join([self.method, *caps])


PRESETS = {
    "builtin": {},
    "smoke": dict(out="runs/smoke", sft_problems=100, sft_samples=12, sft_votes=60, sft_regular=40, sft_steps=20,
                  sft_batch=16, sft_lr=1e-3, prompts=10, accumulate=2, samples=8, steps=3, valid_every=2,
                  valid_problems=20, eval_problems=100,
                  base_steps=60, base_chapter_2=20, base_chapter_3=40, base_batch=16, warmup=3),
    # Table 8; batch sizes are the totals over the paper's nodes, accumulation included. Not the paper's: 8 samples per
    # problem for SFT data, not 32, at temperature 1, not 1.2; SV-SFT takes as many steps and examples as ASV-SFT (the
    # paper: 1024 of 32); IBPO's prompts are all of --data, not the 10,795 of D_ASV2; 10 steps of warm-up; no maximum
    # length but that of the response. Where Table 8 says nothing (weight decay, clipping, beta2), we decide.
    "llama": dict(out="runs/llama", dtype="bf16", checkpointing=True, cache_gib=24.0, micro_tokens=4096,
                  max_new_tokens=4096, sft_problems=12000, sft_samples=8, sft_votes=500, sft_regular=10795,
                  sft_steps=2048, sft_batch=64, sft_lr=1e-6, prompts=32, accumulate=4, samples=8, steps=240, lr=5e-7,
                  rl_top_p=0.9, share_ties=False, decay=False, valid_every=20, weight_decay=0.0, max_grad_norm=1e9,
                  eval_problems=500),
}
CONDITION = {"base": "scot", "sv-sft": "sv", "asv-sft": "asv", "ibpo": "asv"}  # the prompt of each stage, two modes


class UserError(Exception):
    """Something the user can mend; printed as one line."""


def parse_args(argv=None, description: str = __doc__) -> tuple[Settings, str]:
    """Settings and the stage to run from the command line; a wrong value gives one clear line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="Defaults are those of the preset builtin; what smoke and llama set "
                                            "instead is in PRESETS of settings.py.",
                                     usage="python train.py [preset] [--stage STAGE] [--setting VALUE ...]; --help")
    parser.add_argument("preset", nargs="?", default="builtin", help=f"a set of defaults: {', '.join(PRESETS)}")
    parser.add_argument("--smoke", action="store_true", help="the same as the preset smoke")
    parser.add_argument("--stage", default="all", choices=["all", *CONDITION],
                        help="run this stage and those it needs (default: all but base, then the evaluation)")
    for f in fields(Settings):
        flag = "--" + f.name.replace("_", "-")
        text = f"{f.metadata['help']} (default {f.default})".replace("%", "%%")
        if f.type is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            parser.add_argument(flag, type=f.type, help=text, metavar=f.type.__name__.upper())
    args = vars(parser.parse_args(argv))

    def need(condition: bool, message: str) -> None:
        if not condition:
            parser.exit(2, f"train.py: error: {message}\n")

    need(args["preset"] in PRESETS, f"there is no preset {args['preset']!r}; one of {', '.join(PRESETS)}")
    need(not args["smoke"] or args["preset"] in ("builtin", "smoke"),
         "--smoke is a preset itself; no other one with it")
    preset = "smoke" if args.pop("smoke") else args["preset"]
    given = {f.name: args[f.name] for f in fields(Settings) if args[f.name] is not None}
    settings = Settings(**{**PRESETS[preset], **given})
    try:
        caps = settings.caps
        caps_are_right = (set(caps) <= {"vote", "short", "tokens", "expected-tokens"}
                          and len(caps) == settings.budget.count("=")
                          and all(0 < cap < math.inf if "tokens" in name else 0 <= cap <= 1
                                  for name, cap in caps.items()))
    except ValueError:
        caps_are_right = False
    need(caps_are_right, f"--budget is {settings.budget!r}; expected vote=q or short=q with q from 0 to 1, tokens=N or "
                         "expected-tokens=N with N above 0, or several, such as vote=0.5 or vote=0.5,tokens=90")
    need(settings.method in METHODS, f"--method is {settings.method!r}; one of {', '.join(METHODS)}")
    need(settings.sft_short >= 0, "--sft-short must be at least 0")
    need(settings.sft_samples >= voting.MAX_TRIALS,
         f"--sft-samples must be at least {voting.MAX_TRIALS}: a vote without consensus is made of so many")
    need("short" not in caps or settings.sft_short > 0,
         "--budget short=q needs --sft-short N: without it nobody learns short votes")
    need(not settings.sft_short or settings.method not in ("margin", "random", "listing"),
         f"--method {settings.method} knows two modes only: no --sft-short")
    need(settings.method not in ("random", "listing") or list(settings.caps) == ["vote"],
         f"--method {settings.method} heeds a cap on votes alone: --budget vote=q")
    need(settings.method in CAPPED or args["budget"] is None,
         f"--method {settings.method} heeds no budget: leave --budget out; {', '.join(CAPPED)} do")
    need(settings.start is None or args["stage"] in ("all", "ibpo"),
         f"--start is where the stage ibpo starts; --stage {args['stage']} does not get that far")
    need(settings.method not in POLICY_GRADIENTS
         or settings.rl_top_p == settings.temperature == 1 and settings.kl_max is None,
         f"--method {settings.method} is a policy gradient: it needs --rl-top-p 1, --temperature 1 and no --kl-max")
    need(settings.length_price >= 0, "--length-price must be 0 or more")
    need(settings.length_unit > 0, "--length-unit must be above 0")
    need(settings.method != "length-penalty" or settings.data == "builtin" or args["length_unit"] is not None,
         "--data is a file: give --length-unit, too (tokens of a one-trial response)")
    need(settings.method not in (*POLICY_GRADIENTS, "ibpo", "margin", "listing") or settings.samples > 1,
         f"--method {settings.method} compares the responses to a prompt: --samples must be at least 2")
    need(settings.dtype in ("fp32", "bf16"), f"--dtype is {settings.dtype!r}; expected fp32 or bf16")
    need(settings.sampling_dtype in ("auto", "fp32", "bf16"),
         f"--sampling-dtype is {settings.sampling_dtype!r}; expected auto, fp32 or bf16")
    need(settings.sampling_dtype in ("auto", settings.dtype) or not settings.compares_logprobs,
         f"--sampling-dtype {settings.sampling_dtype}: --kl-max and policy gradients sample in the --dtype of training")
    need(settings.device in ("cpu", "cuda"), f"--device is {settings.device!r}; expected cpu or cuda")
    need(settings.device == "cpu" or torch.cuda.is_available(), "--device cuda: torch sees no CUDA device")
    need(settings.kl_max is None or settings.rl_top_p == 1,
         "--kl-max needs --rl-top-p 1: it compares log-probabilities")
    for f in fields(Settings):
        value, flag = getattr(settings, f.name), f"--{f.name.replace('_', '-')}"
        need(f.type is not float or value is None or math.isfinite(value), f"{flag} must be a finite number")
        if f.type is int and f.name not in ("seed", "valid_every", "lora_rank", "base_chapter_2", "base_chapter_3",
                                            "sft_short"):
            need(value >= 1, f"{flag} must be at least 1")
        if f.name.endswith("lr"):
            need(value > 0, f"{flag} must be above 0")
    need(args["stage"] != "base" or 10 * settings.warmup < settings.base_chapter_3 < settings.base_steps,
         "the learning rate of the base has ten times --warmup, --base-chapter-3 and --base-steps in this order")
    need(settings.sft_alpha >= 0, "--sft-alpha must be 0 or more")
    need(settings.weight_decay >= 0, "--weight-decay must be 0 or more")
    need(0 <= settings.beta2 < 1, "--beta2 must be from 0 to below 1")
    need(settings.max_grad_norm > 0, "--max-grad-norm must be above 0")
    need(settings.kl_max is None or settings.kl_max >= 0, "--kl-max must be a number of nats, 0 or more")
    need(settings.lora_rank >= 0, "--lora-rank must be at least 0")
    need(not settings.lora_rank or args["stage"] != "base", "--lora-rank corrects a trained model: not --stage base")
    need(settings.lora_alpha > 0, "--lora-alpha must be above 0")
    need(settings.valid_every >= 0, "--valid-every must be at least 0")
    need(not settings.keep_best or settings.valid_every, "--keep-best needs looks at the validation problems")
    need(not settings.keep_best or settings.method not in CAPPED or list(caps) == ["vote"],
         "--keep-best looks at votes and accuracy alone: it goes with --budget vote=q")
    need(not settings.keep_best or not settings.lora_rank, "--keep-best does not go with --lora-rank")
    if settings.data != "builtin" and args["stage"] in ("all", "ibpo"):
        need(settings.valid_data != "builtin" or not settings.valid_every,
             "--data is a file: give --valid-data, too (problems not in it), or --valid-every 0")
    need(settings.data == "builtin" or settings.test_data != "builtin" or args["stage"] != "all",
         "--data is a file: give --test-data, too, or one --stage at a time")
    need(preset != "llama" or args["model"] is not None and settings.data != "builtin",
         "the preset llama needs --model DIR and --data FILE")
    need(settings.cache_gib > 0, "--cache-gib must be above 0")
    need(settings.temperature > 0, "--temperature must be above 0: training needs different samples")
    need(0 < settings.top_p <= 1, "--top-p must be above 0 and at most 1")
    need(0 < settings.rl_top_p <= 1, "--rl-top-p must be above 0 and at most 1")
    return settings, args["stage"]


def shuffled(size: int, step: int, batch: int, seed: int) -> list[int]:
    """Which of `size` items make up a step's batch: all of them once per epoch, in a new order each time."""
    first, orders = step * batch, {}
    for epoch in range(first // size, (first + batch - 1) // size + 1):
        orders[epoch] = random.Random(f"{seed} {epoch}").sample(range(size), size)
    return [orders[i // size][i % size] for i in range(first, first + batch)]


def flush(path: Path) -> None:
    """Return when the file is on the disk: a power cut soon after writing would else leave it empty."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def whole(path: Path):
    """Where to write a file that is then there whole, or as it was before; never half of it, nor after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # two processes may write the same
    try:
        yield temporary
        flush(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def derive(*names) -> int:
    """A seed made of names: every stage, step and purpose has its own, so a run that continues repeats itself."""
    return int.from_bytes(hashlib.sha256(repr(names).encode()).digest()[:4])
