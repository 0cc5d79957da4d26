"""Train a language model to spend its inference budget where it pays: Algorithms 1 and 2 of the IBPO paper.

    python train.py                              # built-in world, 2 CPU cores: SV-SFT, ASV-SFT, IBPO at q+ = 0.5, eval
    python train.py smoke                        # the same path in half a minute, to see that everything works
    python train.py --budget vote=0.25           # another cap (the stages before it are reused)
    python train.py --budget expected-tokens=46  # a cap on tokens instead (see methods.py)
    python train.py --sft-short 2500 --sft-votes 2500 --sft-regular 2500 --budget short=0.3,vote=0.3 --out runs/modes
                                                 # three groups, a cap on each kind of vote
    python train.py --stage ibpo --method random # a control: same cap, random prompts vote (or cgpo, rft, margin)
    python train.py --stage base                 # rebuild the built-in base model from nothing
    torchrun --nproc-per-node 4 -- train.py ...  # four processes, as --processes 4; with --device cuda on as many GPUs
    python train.py 80gb --model DIR --data math_train.jsonl --valid-data FILE --test-data math500.jsonl
                                                 # a real LLaMA on a card of 80 GB (24gb: on a smaller one); first with
                                                 # --plan: the memory, the disk and the hours that it needs

Stages: base -> SV-SFT (always votes; it marks the efficiency boundary)
        base -> ASV-SFT (votes or not, as in its examples) -> IBPO (learns when, under the cap)
Each writes a checkpoint directory under --out. A finished stage is skipped; an interrupted one (Ctrl-C, power cut)
continues where it stopped when the same command is given again. log.jsonl has one line per step.

Read `train_ibpo`: it is Algorithm 1. Eq. (6)-(8) are in ibpo.py, Eq. (5) is in learn.py, the stages before IBPO are in
sft.py.
"""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import data
import eval as evaluation
import ibpo
import llama
import sample
import voting
from learn import Example, add_gradient, closing_mask, log_probabilities, micro_batches
from methods import METHODS
from plumbing import distributed, plan
from plumbing.checks import check
from plumbing.files import derive_seed, digest, fingerprint, shuffled
from plumbing.records import describe, notes_on
from plumbing.settings import Settings, UserError, parse_args
from plumbing.signals import exit_code, stop_on_signals
from plumbing.stage import Stage, for_sampling, is_finished, open_start, scheduled
from sft import train_base, train_sft


def train_ibpo(settings: Settings, start: Path) -> Path:
    """Algorithm 1, from the ASV-SFT model in `start`; returns the directory of the trained checkpoint."""
    settings = settings.for_ibpo()  # with --kl-max and policy gradients, sampling in the dtype of training
    # Algorithm 2 accumulates k_b sampled batches per update. The policy does not change in between, so the prompts of
    # all k_b batches are sampled at once, and one program is solved for all: n prompts, as in ibpo.py and learn.py.
    n = settings.accumulate * settings.prompts
    problems, validation = load_problems(settings, n)
    sources = {"start": fingerprint(start), "data": digest([(p.question, p.answer, p.level) for p in problems])}
    if is_finished(settings, "ibpo", sources):
        return settings.directory("ibpo")
    model, tokenizer = open_start(settings, start)
    reference = open_start(settings, start)[0] if settings.kl_max is not None else None  # pi_ref of Eq. (7)

    with Stage(settings, "ibpo", model, tokenizer, settings.steps, sources) as stage:
        for step in stage:
            policy = for_sampling(model, settings)  # the current model itself, or a copy of it in a faster dtype
            validated = validate(policy, tokenizer, validation, step, settings)  # for the curves; {} in most steps
            batch = [problems[i] for i in shuffled(len(problems), step, n, derive_seed(settings.seed, "order"))]
            with stage.timed("sampling"):  # m responses to each of n prompts
                rollout = roll_out(policy, tokenizer, batch, settings.samples, settings.rl_top_p,
                                   derive_seed(settings.seed, "rollout", step), settings)
            del policy  # if it is a copy, learning needs its memory
            with stage.timed("solving"):  # which responses are accepted, Eq. (6)-(8)
                selection, weights = select(rollout, reference, settings, derive_seed(settings.seed, "select", step))
            with stage.timed("learning"):  # Eq. (5)
                examples = weighted_examples(rollout, weights, tokenizer, settings)
                loss = add_gradient(model, examples, n, settings)

            record = {"loss": loss, **describe(rollout, selection), **stage.seconds, **validated}
            learning_rate = scheduled(settings, settings.lr, step, settings.steps)
            stage.update(learning_rate, record, progress_text(record), notes_on(record, rollout, settings))  # AdamW
    return stage.directory


# ---------------------------------------------------------------------------------------------------------------------
# The steps of Algorithm 1


@dataclass
class Rollout(voting.Judged):
    """n prompts with m judged responses each."""

    levels: np.ndarray  # int[n]
    prompts: list[list[int]]  # [n] token ids
    responses: list[list[sample.Response]]  # [n][m]


def roll_out(policy: llama.Llama, tokenizer, problems: list[data.Problem], m: int, top_p: float, seed: int,
             settings: Settings) -> Rollout:
    """Sample m responses to each problem under the ASV prompt (with --sft-short: three groups), and judge them."""
    condition = settings.condition("ibpo")
    rows = sample.ask(policy, tokenizer, [problem.question for problem in problems], condition, m, top_p=top_p,
                      seed=seed, **settings.sampling)
    judged, _ = voting.judge_rows([problem.answer for problem in problems],
                                  [[(r.text, r.finished, len(r.ids)) for r in row] for row in rows], condition)
    return Rollout(**vars(judged), levels=np.array([problem.level for problem in problems]),
                   prompts=[row[0].prompt for row in rows], responses=rows)


@torch.no_grad()
def logprobs_of(model: llama.Llama, examples: list[Example], settings: Settings) -> np.ndarray:
    """log pi(response | prompt) of each of k examples at the temperature of sampling: float[k], nats."""

    def score(chosen: list[int]) -> list[float]:
        found = {}
        for micro_batch in micro_batches([examples[i] for i in chosen], settings.micro_tokens):
            logp = log_probabilities(model, micro_batch, settings.checkpointing, settings.temperature)  # [B]
            found |= zip(map(id, micro_batch), logp.tolist())  # by identity: micro_batches reorders
        return [found[id(examples[i])] for i in chosen]

    return np.array(distributed.spread(score, [len(example) for example in examples]))


def kl_estimate(rollout: Rollout, reference: llama.Llama, settings: Settings) -> np.ndarray:
    """log pi(y|x) - log pi_ref(y|x) of whole responses, the estimate of Eq. (7): float[n, m], nats."""
    examples = [Example(prompt, r.ids) for prompt, row in zip(rollout.prompts, rollout.responses) for r in row]
    under_policy = np.array([[r.logprob for r in row] for row in rollout.responses])  # float[n, m]
    return under_policy - logprobs_of(reference, examples, settings).reshape(under_policy.shape)


def select(rollout: Rollout, reference: llama.Llama | None, settings: Settings,
           seed: int) -> tuple[ibpo.Selection, np.ndarray]:
    """What the method accepts, for the log, and the weights[n, m] to learn with: its own, or spread over ties.

    Policy gradients give every response a weight, some negative.
    """
    kl = kl_estimate(rollout, reference, settings) if reference is not None else None  # float[n, m], nats
    feasible = ibpo.feasible_set(rollout.correct, rollout.valid, kl, settings.kl_max)  # bool[n, m], Eq. (7)
    if settings.give_up:
        feasible = ibpo.with_giving_up(feasible, rollout.valid, rollout.extended)  # bool[n, m], D8
    method = METHODS[settings.method].select  # of ibpo: methods.select_under_budget, Eq. (6) and (8)
    selection = method(rollout, feasible, settings, np.random.default_rng(seed))
    weights = selection.weights  # float[n, m]
    if settings.share_ties and settings.ties_are_equal:
        weights = ibpo.share_ties(weights, feasible, rollout.group)
    return selection, weights


def weighted_examples(rollout: Rollout, weights: np.ndarray, tokenizer, settings: Settings) -> list[Example]:
    """The responses with a weight[n, m] other than 0, to learn from. With --give-up (D8), of a wrong
    response only the closing tokens are learned."""
    examples = []
    for i, j in zip(*weights.nonzero()):
        ids = rollout.responses[i][j].ids
        gave_up = settings.give_up and not rollout.correct[i, j]
        loss_mask = closing_mask(tokenizer, ids) if gave_up else None
        examples.append(Example(rollout.prompts[i], ids, float(weights[i, j]), loss_mask))
    return examples


def load_problems(settings: Settings, n: int) -> tuple[list[data.Problem], list[data.Problem]]:
    """Problems to learn from, n per step, and those of the validation curves."""
    count = settings.steps * n if settings.data == data.BUILTIN else None  # a file is used whole
    problems = data.load(settings.data, "train", count, derive_seed(settings.seed, "rl"))
    validation = []
    if settings.valid_every:
        validation = data.load(settings.valid_data, "validation", settings.valid_problems,
                               derive_seed(settings.seed, "valid"))
    return problems, validation


def validate(policy: llama.Llama, tokenizer, problems: list[data.Problem], step: int, settings: Settings) -> dict:
    """Accuracy and votes on the validation problems before this step, for the curves; {} if it is not their turn."""
    if not settings.valid_every or step % settings.valid_every:
        return {}
    rollout = roll_out(policy, tokenizer, problems, 1, settings.top_p, derive_seed(settings.seed, "v", step), settings)
    return {"valid_accuracy": float(rollout.correct.mean()), "valid_vote_share": float(rollout.extended.mean())}


def progress_text(record: dict) -> str:
    return (f"accuracy {record['accuracy']:.3f}, votes {record['vote_share']:.2f} "
            f"(accepted {record['accepted_vote_share']:.2f}), trials {record['trials']:.2f}")


# ---------------------------------------------------------------------------------------------------------------------
# The command line


def evaluate(settings: Settings, models: list[Path]) -> None:
    """All models of the run on the test problems: table, plots and records in out/eval."""
    if settings.steps < 10:
        print(f"\nnote: after {settings.steps} steps of IBPO the numbers below mean nothing; such a run shows the path")
    dtype = sample.resolve_dtype(settings.sampling_dtype, settings.dtype, llama.read_config(settings.model),
                                 settings.device)
    evaluation.evaluate(
        models, settings.test_data, settings.eval_problems, settings.eval_samples, Path(settings.out) / "eval",
        seed=settings.seed, device=settings.device, dtype=dtype, training_log=models[-1] / "log.jsonl",
        cap=settings.cap if METHODS[settings.method].caps else None, top_p=settings.top_p, **settings.sampling)


def run(settings: Settings, stage: str) -> dict[str, float]:
    """Run a stage and those it needs; returns the seconds that each took."""
    spent = {}

    def timed(name: str, function: Callable, *arguments):
        begin = time.monotonic()
        result = function(settings, *arguments)
        spent[name] = time.monotonic() - begin
        return result

    if stage == "base":
        directory = timed("base", train_base)
        print(f"the base model is in {directory}; train from it with --model {directory}")
        return spent
    check(settings, stage)
    if not plan.announce(settings, stage):
        return spent
    models = [Path(settings.model)]
    if stage in ("all", "sv-sft"):
        models.append(timed("SV-SFT", train_sft, "sv-sft"))
    if settings.start is not None:
        models.append(Path(settings.start))
    elif stage in ("all", "asv-sft", "ibpo"):
        models.append(timed("ASV-SFT", train_sft, "asv-sft"))
    if stage in ("all", "ibpo"):
        models.append(timed(settings.name("ibpo"), train_ibpo, models[-1]))
    if stage == "all":
        timed("evaluation", evaluate, models)
    return spent


def main(argv: list[str] = None) -> None:
    settings, stage = parse_args(argv, __doc__)
    if settings.shard and distributed.size == 1:
        sys.exit("error: --shard needs several processes: --processes N, or torchrun")
    if torch.get_num_threads() > 1 and os.getloadavg()[0] > 0.5 * (os.cpu_count() or 1):
        print("note: other programs keep the cores busy, and torch's threads wait for each other; OMP_NUM_THREADS=1 "
              "may be many times as fast")
    try:
        with stop_on_signals():
            spent = run(settings, stage)
    except (OSError, UserError, data.DataError, llama.CheckpointError, sample.LengthError,
            sample.LogitsError, voting.PromptError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt as interrupt:
        text = str(interrupt) or "stopped; what is finished is kept, and the same command continues from there"
        print(f"\n{text}", file=sys.stderr)
        sys.exit(exit_code(interrupt))
    if spent:
        print("time: " + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in spent.items())
              + f"; {sum(spent.values()) / 60:.1f} minutes in all")


if __name__ == "__main__":
    asked, _ = parse_args(None, __doc__)
    distributed.run(main, asked.processes or distributed.usual_processes(asked.device, [asked.model]), asked.device)
