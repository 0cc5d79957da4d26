"""Every setting of a run: its meaning, default, range, and whose results it decides. See `python train.py --help`.

The preset `builtin` is the default (two CPU cores, minutes), `smoke` runs the same path in half a minute. `24gb` and
`80gb` hold the paper's hyper-parameters (Table 8) for a real model on one GPU with so much memory.
"""

import argparse
import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from data import BUILTIN
from methods import COSTS, METHODS
from voting import CONSENSUS, MAX_TRIALS, SHORT_CONSENSUS

CONDITION = {"base": "scot", "sv-sft": "sv", "asv-sft": "asv", "ibpo": "asv"}  # the prompt of each stage, two groups
ALL = ("base", "sv-sft", "asv-sft", "ibpo")
LATER = ("sv-sft", "asv-sft", "ibpo")  # all stages but the base
ASV = ("asv-sft", "ibpo")
SAMPLED = ("samples", *LATER)  # "samples" stands for samples.jsonl: what the base model wrote for the SFT stages
CAPPED = [name for name, method in METHODS.items() if method.caps]  # those that --budget applies to


class UserError(Exception):
    """Something the user can mend; printed as one line."""


def setting(default, text: str, section: str, decides: tuple[str, ...] = (), when: Callable = None, least: float = None,
            above: float = None, most: float = None, below: float = None, choices: tuple = None):
    """A field of Settings.

    text: for --help. section: where --help shows it. decides: the stages whose result depends on it (the others are
    not trained again when it changes); when(settings): only if this holds. The rest is its range.
    """
    return field(default=default, metadata=dict(text=text, section=section, decides=decides, when=when, least=least,
                                                above=above, most=most, below=below, choices=choices))


FIRST, DATA, SFT, RL, SPEED, OPTIMISER, EVALUATION, BASE, LORA = (
    "the settings to start with", "problems", "SV-SFT and ASV-SFT: fine-tuning on the base model's own solutions",
    "IBPO: Algorithms 1 and 2", "sampling, memory and speed", "optimiser", "evaluation",
    "the base model of the built-in world (--stage base)", "low-rank adaptation, for small cards (plumbing/lora.py)")


@dataclass(frozen=True)
class Settings:
    model: str = setting("checkpoints/base", "base model: a Hugging Face LLaMA directory with a chat template", FIRST,
                         SAMPLED)
    method: str = setting("ibpo", "which responses are accepted (methods.py says what each name means)", FIRST,
                          ("ibpo",), choices=tuple(METHODS))
    budget: str = setting(
        "vote=0.5", "caps on the accepted responses: vote=q+ (the share of extended responses; short votes do not "
        "count), tokens=N (their average length), expected-tokens=N (that of their group on the prompt), short=q "
        "(with --sft-short: the share of short votes), or several: vote=0.5,tokens=90",
        FIRST, ("ibpo",), when=lambda s: s.method in CAPPED)
    steps: int = setting(50, "IBPO: gradient steps", FIRST, ("ibpo",), least=1)
    prompts: int = setting(32, "IBPO: prompts per sampled batch; a step has n = --prompts times --accumulate of them",
                           FIRST, ("ibpo",), least=1)
    accumulate: int = setting(4, "IBPO: k_b, sampled batches per gradient step", FIRST, ("ibpo",), least=1)
    samples: int = setting(16, "IBPO: m, responses per prompt; margins are estimated on these", FIRST, ("ibpo",),
                           least=1)
    lr: float = setting(4.5e-5, "IBPO: learning rate (--warmup and --decay lower it)", FIRST, ("ibpo",), above=0)
    out: str = setting("runs/builtin", "directory of this run; one sub-directory per stage", FIRST)
    seed: int = setting(0, "makes the whole run repeatable (on a CPU)", FIRST, ("samples", *ALL), least=0, most=2**32)
    plan: bool = setting(False, "print the memory, the disk and the hours that the run needs, and end", FIRST)
    device: str = setting("cpu", "where to compute", FIRST, choices=("cpu", "cuda"))
    dtype: str = setting("fp32", "bf16: weights and moments in bf16, rounded stochastically", FIRST, ("samples", *ALL),
                         choices=("fp32", "bf16"))

    data: str = setting(BUILTIN, "training problems: builtin, or a .jsonl file (MATH, GSM8K)", DATA,
                        SAMPLED)
    valid_data: str = setting(BUILTIN, "validation problems: builtin, or a .jsonl file; never learned from",
                              DATA)
    test_data: str = setting(BUILTIN, "test problems for the evaluation at the end: builtin, or a .jsonl file",
                             DATA)

    sft_problems: int = setting(5000, "problems the base model answers to make training data", SFT, SAMPLED, least=1)
    sft_samples: int = setting(12, "solutions per problem; at least eight, the longest vote", SFT, SAMPLED,
                               least=MAX_TRIALS)
    sft_votes: int = setting(3300, "voting examples, D_SV or D_ASV1, evenly from all levels", SFT, LATER, least=1)
    sft_regular: int = setting(1700, "one-trial examples (D_ASV2), evenly from all levels", SFT,
                               LATER, least=1)
    sft_distinct: int = setting(4, "D_ASV1: votes only on problems whose solutions have at least so many different "
                                   "answers; the paper's have 4 to 8, of 32", SFT, ASV, least=1)
    sft_alpha: float = setting(1.0, "ASV-SFT: multiplies --sft-regular (the paper's alpha)", SFT,
                               ASV, least=0)
    sft_short: int = setting(0, "ASV-SFT: short votes, evenly from all levels; above 0: three groups, IBPO too", SFT,
                             ASV, when=lambda s: s.sft_short, least=0)
    sft_steps: int = setting(300, "gradient steps", SFT, LATER, least=1)
    sft_batch: int = setting(64, "examples per step", SFT, LATER, least=1)
    sft_lr: float = setting(2e-4, "learning rate (--warmup and --decay lower it)", SFT, LATER, above=0)

    start: str = setting(None, "start from this checkpoint directory instead of the ASV-SFT stage", RL, ("ibpo",))
    share_ties: bool = setting(True, "give a prompt's weight to all tied responses in equal parts, not to one", RL,
                               ("ibpo",))
    zero_margin: str = setting("regular", "method ibpo: what a prompt gets whose margin is exactly 0; the paper's "
                                          "program is indifferent (D7)", RL, ("ibpo",),
                               when=lambda s: s.zero_margin != "regular", choices=("regular", "vote"))
    give_up: bool = setting(False, "method ibpo: where no response to a prompt is right, accept a regular one, and "
                                   "learn its decision to stop (D8); the paper's rule drops the prompt (D5)", RL,
                            ("ibpo",), when=lambda s: s.give_up)
    rl_top_p: float = setting(0.9, "nucleus sampling of the responses to learn from: where the model stops after "
                                   "one trial with this probability or more, no vote is sampled, and votes can die "
                                   "out; must be 1 with --kl-max and with policy gradients", RL,
                              ("ibpo",), above=0, most=1)
    kl_max: float = setting(None, "Eq. (7): accept only responses whose log-probability is at most this many nats "
                                  "above what the ASV-SFT model gives them; that model is then in memory, too (8B on "
                                  "one 80 GB card: only with --lora-rank)", RL, ("ibpo",), least=0)
    length_price: float = setting(0.05, "method length-penalty: cost of a --length-unit of response; a right answer "
                                        "earns 1", RL, ("ibpo",), when=lambda s: s.method == "length-penalty", least=0)
    length_unit: float = setting(25.0, "method length-penalty: tokens that cost one --length-price; a one-trial "
                                       "response of the built-in world; measure it for other data", RL, ("ibpo",),
                                 when=lambda s: s.method == "length-penalty", above=0)
    valid_every: int = setting(10, "steps between looks at the validation problems; 0: never", RL, least=0)
    valid_problems: int = setting(250, "validation problems per look", RL, least=1)

    max_new_tokens: int = setting(300, "longest response; a longer one, or one that reaches the end of the model's "
                                       "context, is cut off and malformed", SPEED, SAMPLED, least=1)
    temperature: float = setting(1.0, "sampling temperature; what is learned is always the policy at 1", SPEED, SAMPLED,
                                 least=1e-6)
    top_p: float = setting(0.9, "nucleus sampling of SFT data and in the evaluation", SPEED, SAMPLED, above=0, most=1)
    sampling_dtype: str = setting("auto", "dtype of the copy of the model that samples; auto: bf16 on a CPU that has "
                                          "it (AMX, AVX512-BF16) for models of width 512 or more, else --dtype, as "
                                          "always with --kl-max and policy gradients", SPEED, SAMPLED,
                                  choices=("auto", "fp32", "bf16"))
    processes: int = setting(None, "processes of one thread each that share the work, each with a copy of the model; "
                                   "1: one, with torch's threads (default: the physical cores, at most 8, if memory "
                                   "has room; with --device cuda 1, or what torchrun starts)", SPEED, least=1)
    shard: bool = setting(False, "each of N processes keeps 1/N of weights, gradient and moments, not all of them: for "
                                 "a model of which a GPU cannot hold four copies and the cache (8B in bf16: 64 GB and "
                                 "24); sampling still needs one whole copy on each (plumbing/sharding.py)", SPEED)
    slots: int = setting(512, "responses generated at once, at most; fewer if they need more than --cache-gib", SPEED,
                         least=1)
    cache_gib: float = setting(8.0, "GiB for their keys and values", SPEED, above=0)
    micro_tokens: int = setting(1024, "tokens per micro-batch; changes speed and memory, never the gradient", SPEED,
                                least=1)
    checkpointing: bool = setting(False, "recompute activations in the backward pass instead of keeping them", SPEED)

    weight_decay: float = setting(0.01, "AdamW weight decay", OPTIMISER, ALL, least=0)
    beta2: float = setting(0.98, "AdamW second-moment decay", OPTIMISER, ALL, least=0, below=1)
    max_grad_norm: float = setting(20.0, "longer gradients are scaled down to this norm", OPTIMISER, ALL, above=0)
    warmup: int = setting(10, "steps of learning-rate warm-up (base: ten times as many)", OPTIMISER, ALL, least=1)
    decay: bool = setting(True, "SFT, IBPO: linearly down to 0, from the first step on; off: constant, as in the paper",
                          OPTIMISER, LATER)

    eval_problems: int = setting(8000, "test problems", EVALUATION, least=1)
    eval_samples: int = setting(8, "base samples per problem, for self-consistency", EVALUATION, least=1)

    base_textbook: int = setting(0, "which textbook: the seed of its misprints", BASE, ("base",), least=0)
    base_steps: int = setting(7500, "gradient steps", BASE, ("base",), least=1)
    base_chapter_2: int = setting(1200, "step at which chapter one, the times tables, ends", BASE, ("base",), least=0)
    base_chapter_3: int = setting(3000, "step from which there are exercises in counting votes, too", BASE, ("base",),
                                  least=0)
    base_batch: int = setting(128, "textbook pages per step", BASE, ("base",), least=1)
    base_lr: float = setting(1.5e-3, "learning rate; 0.97 of it after the warm-up, 0.4 at chapter three, 0 at the end",
                             BASE, ("base",), above=0)

    lora_rank: int = setting(0, "rank of the corrections that are learned instead of weights; 0: train weights", LORA,
                             LATER, when=lambda s: s.lora_rank, least=0)
    lora_alpha: float = setting(16.0, "corrections count alpha / rank times", LORA, LATER, when=lambda s: s.lora_rank,
                                above=0)

    @property
    def sampling(self) -> dict:
        """Options of sample.generate that are the same in every stage."""
        return {name: getattr(self, name) for name in ("max_new_tokens", "temperature", "slots", "cache_gib")}

    @property
    def compares_logprobs(self) -> bool:
        """Whether the log-probabilities of the sampler meet those of training: then both need the same dtype."""
        return self.kl_max is not None or METHODS[self.method].policy_gradient

    @property
    def caps(self) -> dict[str, float]:
        """The caps of Eq. (1) by what they limit: {"vote": q+, "short": q, "tokens": N, ...}, or some of these."""
        return {name: float(number) for name, number in (cap.split("=") for cap in self.budget.split(","))}

    @property
    def cap(self) -> float | None:
        """q+ of Eq. (1); None without a cap on votes."""
        return self.caps.get("vote")

    @property
    def ties_are_equal(self) -> bool:
        """Whether responses of a group that tie in value also cost the same: not under a cap on their own tokens."""
        return not (METHODS[self.method].caps and "tokens" in self.caps)

    def for_ibpo(self) -> "Settings":
        """These settings, but where log-probabilities are compared, IBPO samples in the dtype of training."""
        return replace(self, sampling_dtype=self.dtype) if self.compares_logprobs else self

    def condition(self, stage: str) -> str:
        """The prompt (voting.PROMPTS) that a stage trains for."""
        return "modes" if self.sft_short and CONDITION[stage] == "asv" else CONDITION[stage]

    def name(self, stage: str) -> str:
        """A stage's directory in `out`. For ibpo: ibpo-50 at 50 %, ibpo-50-give-up; cgpo, which knows no cap."""
        if stage == "asv-sft" and self.sft_alpha != 1:
            return f"asv-sft-{self.sft_alpha:g}"
        if stage != "ibpo":
            return stage
        if self.method == "length-penalty":
            return f"length-penalty-{self.length_price:g}"
        if not METHODS[self.method].caps:
            return self.method
        parts = [self.method]
        for name, cap in sorted(self.caps.items(), reverse=True):
            prefix = "" if name == "vote" else f"{name}-"
            parts.append(f"{prefix}{cap if 'tokens' in name else 100 * cap:g}")
        return "-".join(parts + ["give-up"] * self.give_up)

    def directory(self, stage: str) -> Path:
        """Where a stage's checkpoint and log are."""
        return Path(self.out) / self.name(stage)

    def deciding(self, stage: str) -> dict:
        """The settings that decide what a stage's result is (not how fast it comes, nor what comes after it)."""
        return {f.name: getattr(self, f.name) for f in fields(self) if stage in f.metadata["decides"]
                and (f.metadata["when"] is None or f.metadata["when"](self))}


PRESETS = {
    "builtin": {},
    "smoke": dict(out="runs/smoke", sft_problems=100, sft_samples=12, sft_votes=60, sft_regular=40, sft_distinct=1,
                  sft_steps=20, sft_batch=16, sft_lr=1e-3, prompts=10, accumulate=2, samples=8, steps=3, valid_every=2,
                  valid_problems=20, eval_problems=100,
                  base_steps=60, base_chapter_2=20, base_chapter_3=40, base_batch=16, warmup=3),
}

# Models from elsewhere. Every setting is written out: none is left to the default, which is that of a 1 MB model.
# Table 8; batch sizes are the totals over the paper's nodes, accumulation included. Not the paper's: single trials of
# the model's own, not golden ones; 8 samples per problem for SFT data, not 32, at temperature 1, not 1.2; SV-SFT takes
# as many steps and examples as ASV-SFT (the paper: 1024 of 32); IBPO's prompts are all of --data, not the 10,795 of
# D_ASV2; 10 steps of warm-up; no maximum length but that of the response. Where Table 8 says nothing (weight decay,
# clipping, beta2), we decide.
TABLE_8 = dict(
    method="ibpo", budget="vote=0.5", device="cuda", dtype="bf16", sampling_dtype="auto", seed=0,
    sft_problems=12000, sft_samples=8, sft_votes=500, sft_regular=10795, sft_distinct=4, sft_alpha=1.0,
    sft_short=0, sft_steps=2048, sft_batch=64, sft_lr=1e-6,
    prompts=32, accumulate=4, samples=8, steps=240, lr=5e-7, rl_top_p=0.9, share_ties=False, zero_margin="regular",
    valid_every=20, valid_problems=250, temperature=1.0, top_p=0.9,
    weight_decay=0.0, beta2=0.98, max_grad_norm=1e9, warmup=10, decay=False,
    eval_problems=500, eval_samples=8)
# What the card decides; `python train.py 80gb --model DIR ... --plan` says what it adds up to.
PRESETS |= {
    # LLaMA-3.1-8B: weights, gradients and moments are 60 GiB; while sampling, the cache takes the gradients' place
    "80gb": dict(TABLE_8, out="runs/80gb", max_new_tokens=4096, slots=512, cache_gib=24.0, micro_tokens=4096,
                 checkpointing=True, shard=False, lora_rank=0, lora_alpha=16.0),
    # Qwen2.5-1.5B-Instruct: 11.5 GiB, and 28 KiB of cache per token (8B: 128 KiB). Its votes are shorter than 8B's.
    "24gb": dict(TABLE_8, out="runs/24gb", max_new_tokens=2048, slots=512, cache_gib=10.0, micro_tokens=8192,
                 checkpointing=True, shard=False, lora_rank=0, lora_alpha=16.0),
}
REAL = ("80gb", "24gb")  # the presets that need a model from elsewhere


# ---------------------------------------------------------------------------------------------------------------------
# The command line


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def out_of_range(f, value) -> str | None:
    """What is wrong with a value of a field, as the end of a sentence; None if nothing is."""
    if value is None:
        return None
    if f.type is float and not math.isfinite(value):
        return "must be a finite number"
    if f.metadata["choices"] and value not in f.metadata["choices"]:
        return f"is {value!r}; expected one of {', '.join(f.metadata['choices'])}"
    least, above, most, below = (f.metadata[bound] for bound in ("least", "above", "most", "below"))
    bounds = [(least, "at least", lambda bound: value >= bound), (above, "above", lambda bound: value > bound),
              (most, "at most", lambda bound: value <= bound), (below, "below", lambda bound: value < bound)]
    given = [(word, bound, holds(bound)) for bound, word, holds in bounds if bound is not None]
    if all(holds for *_, holds in given):
        return None
    return "must be " + " and ".join(f"{word} {bound}" for word, bound, _ in given)


def budget_problem(settings: Settings) -> str | None:
    """What is wrong with --budget; None if nothing is."""
    try:
        caps = settings.caps
    except ValueError:
        caps = {}
    known = set(caps) <= set(COSTS) and len(caps) == settings.budget.count("=") > 0
    if not known or not all(0 < cap < math.inf if "tokens" in name else 0 <= cap <= 1 for name, cap in caps.items()):
        return (f"--budget is {settings.budget!r}; expected vote=q or short=q with q from 0 to 1, tokens=N or "
                "expected-tokens=N with N above 0, or several, such as vote=0.5 or vote=0.5,tokens=90")
    refused = [name for name in caps if name not in METHODS[settings.method].caps]
    if METHODS[settings.method].caps and refused:
        return (f"--method {settings.method} has no cap on {', '.join(refused)}: use --budget "
                f"{'=..., '.join(METHODS[settings.method].caps)}=...")
    return None


# Rules about several settings: what must hold of (settings, stage, the names given on the command line), and what to
# say otherwise.
RULES = [
    (lambda s, stage, given: "short" not in s.caps or s.sft_short > 0,
     "--budget short=q needs --sft-short N: without it nobody learns short votes"),
    (lambda s, stage, given: not s.sft_short or SHORT_CONSENSUS < CONSENSUS,
     "--sft-short: voting.py gives short votes the closing words of others; lower SHORT_CONSENSUS, or raise CONSENSUS"),
    (lambda s, stage, given: not s.sft_short or not METHODS[s.method].two_groups,
     "--method {s.method} knows two groups only: no --sft-short"),
    (lambda s, stage, given: METHODS[s.method].caps or "budget" not in given,
     f"--method {{s.method}} has no budget: leave --budget out; {', '.join(CAPPED)} have one"),
    (lambda s, stage, given: s.zero_margin == "regular" or (s.method == "ibpo" and set(s.caps) == {"vote"}
                                                            and not s.sft_short),
     "--zero-margin vote goes with --method ibpo and one cap, on votes"),
    (lambda s, stage, given: not s.give_up or (s.method == "ibpo" and s.kl_max is None and not s.sft_short),
     "--give-up goes with --method ibpo, two groups, and no --kl-max"),
    (lambda s, stage, given: s.start is None or stage in ("all", "ibpo"),
     "--start is where the stage ibpo starts; --stage {stage} does not get that far"),
    (lambda s, stage, given: not METHODS[s.method].policy_gradient
     or (s.rl_top_p == s.temperature == 1 and s.kl_max is None),
     "--method {s.method} is a policy gradient: it needs --rl-top-p 1, --temperature 1 and no --kl-max"),
    (lambda s, stage, given: s.kl_max is None or not METHODS[s.method].accepts_infeasible,
     "--method {s.method} accepts responses outside the feasible set: --kl-max would have no effect"),
    (lambda s, stage, given: s.method != "length-penalty" or s.data == BUILTIN or "length_unit" in given,
     "--data is a file: give --length-unit, too (tokens of a one-trial response)"),
    (lambda s, stage, given: s.samples >= METHODS[s.method].fewest_samples,
     "--method {s.method} compares the responses to a prompt: --samples must be at least {method.fewest_samples}"),
    (lambda s, stage, given: s.sampling_dtype in ("auto", s.dtype) or not s.compares_logprobs,
     "--sampling-dtype {s.sampling_dtype}: --kl-max and policy gradients sample in the --dtype of training"),
    (lambda s, stage, given: s.device == "cpu" or s.plan or cuda_is_available(),
     "--device cuda: torch sees no CUDA device"),
    (lambda s, stage, given: not s.plan or stage != "base", "--plan is for the stages after --stage base"),
    (lambda s, stage, given: s.kl_max is None or s.rl_top_p == 1,
     "--kl-max needs --rl-top-p 1: it compares log-probabilities"),
    (lambda s, stage, given: stage != "base" or 10 * s.warmup < s.base_chapter_3 < s.base_steps,
     "the learning rate of the base has ten times --warmup, --base-chapter-3 and --base-steps in this order"),
    (lambda s, stage, given: not s.lora_rank or stage != "base",
     "--lora-rank corrects a trained model: not --stage base"),
    (lambda s, stage, given: not s.shard or not s.lora_rank,
     "--lora-rank leaves little to shard: not with --shard"),
    (lambda s, stage, given: s.data == BUILTIN or stage not in ("all", "ibpo") or s.valid_data != BUILTIN
     or not s.valid_every, "--data is a file: give --valid-data, too (problems not in it), or --valid-every 0"),
    (lambda s, stage, given: s.data == BUILTIN or s.test_data != BUILTIN or stage != "all",
     "--data is a file: give --test-data, too, or one --stage at a time"),
]


def cuda_is_available() -> bool:
    import torch  # here: methods and settings need only numpy

    return torch.cuda.is_available()


class _WriteBudget(argparse.Action):
    """--cap and --q, which many try first."""

    def __call__(self, parser, namespace, values, option_string=None):
        parser.error(f"there is no {option_string}; the cap q+ is written --budget vote={values}")


def parse_args(argv: list[str] = None, description: str = __doc__) -> tuple[Settings, str]:
    """Settings and the stage to run from the command line; a wrong value ends the program with one clear line."""
    parser = argparse.ArgumentParser(
        prog="train.py", description=description, formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="python train.py [preset] [--stage STAGE] [--setting VALUE ...]; --help", allow_abbrev=False,
        epilog="Defaults are those of the preset builtin; what the others set instead is in PRESETS of "
               "plumbing/settings.py.")
    sections = {name: parser.add_argument_group(name) for name in dict.fromkeys(
        f.metadata["section"] for f in fields(Settings))}
    sections[FIRST].add_argument("preset", nargs="?", default="builtin",
                                 help=f"a set of defaults: {', '.join(PRESETS)}")
    sections[FIRST].add_argument("--stage", default="all", choices=["all", *ALL],
                                 help="run this stage and those it needs (default: all but base, then the evaluation)")
    for f in fields(Settings):
        choices = f"; one of {', '.join(f.metadata['choices'])}" if f.metadata["choices"] else ""
        text = f"{f.metadata['text']}{choices} (default {f.default})".replace("%", "%%")
        options = {"help": text, "default": None}
        if f.type is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options |= {"type": f.type, "metavar": f.type.__name__.upper()}
        sections[f.metadata["section"]].add_argument(flag(f.name), **options)
    parser.add_argument("--cap", "--q", action=_WriteBudget, help=argparse.SUPPRESS)
    known, unknown = parser.parse_known_args(argv)
    args = vars(known)

    def need(condition: bool, message: str) -> None:
        if not condition:
            parser.exit(2, f"train.py: error: {message}\n")

    if unknown:
        similar = difflib.get_close_matches(unknown[0].split("=")[0], parser._option_string_actions, n=1)
        hint = f"; did you mean {similar[0]}?" if similar else "; --help lists all settings"
        parser.exit(2, f"train.py: error: there is no {unknown[0]}{hint}\n")
    preset, stage = args["preset"], args["stage"]
    need(preset in PRESETS, f"there is no preset {preset!r}; one of {', '.join(PRESETS)}")
    given = {f.name: args[f.name] for f in fields(Settings) if args[f.name] is not None}
    settings = Settings(**{**PRESETS[preset], **given})
    for f in fields(Settings):
        wrong = out_of_range(f, getattr(settings, f.name))
        need(wrong is None, f"{flag(f.name)} {wrong}")
    wrong = budget_problem(settings)
    need(wrong is None, wrong)
    need(preset not in REAL or ("model" in given and settings.data != BUILTIN),
         f"the preset {preset} needs --model DIR and --data FILE")
    for holds, message in RULES:
        need(holds(settings, stage, given), message.format(s=settings, stage=stage, method=METHODS[settings.method]))
    return settings, stage
