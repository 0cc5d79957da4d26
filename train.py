"""Train a language model to spend its inference budget where it pays: Algorithm 1 and 2 of the IBPO paper.

    python train.py                              # built-in world, 2 CPU cores: SV-SFT, ASV-SFT, IBPO at q+ = 0.5, eval
    python train.py smoke                        # the same path in under a minute, to see that everything works
    python train.py --budget vote=0.25           # another cap (the stages before it are reused)
    python train.py --budget expected-tokens=93  # a cap on the accepted responses' tokens instead (tokens=N leaks)
    python train.py --sft-short 2500 --sft-votes 2500 --sft-regular 2500 --budget short=0.3,vote=0.3 --out runs/modes
                                                 # three modes, a cap on each kind of vote
    python train.py --stage ibpo --method random # a control: same cap, random prompts vote (or cgpo, rft, grpo, ...)
    python train.py --stage base                 # rebuild the built-in base model from nothing
    python train.py llama --model DIR --data math_train.jsonl --valid-data FILE --test-data math500.jsonl --device cuda

Stages: base -> SV-SFT (always votes; it marks the efficiency boundary)
        base -> ASV-SFT (votes or not, not knowing when) -> IBPO (learns when, under the cap)
Each writes a checkpoint directory under --out. A finished stage is skipped; an interrupted one (Ctrl-C, power cut)
goes on where it stopped when the same command is given again. log.jsonl has one line per step.

This file is Algorithm 1. One step of it: `roll_out` samples m responses to each of n prompts from the current policy
and judges them; `select` solves one budgeted program on all of them (Eq. (6)-(8), ibpo.py); learn.add_gradient adds the
gradient of Eq. (5) on the accepted ones. Settings are in settings.py, the stages before IBPO in sft.py.
"""

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

import baselines
import budget
import data
import eval as evaluation
import ibpo
import llama
import sample
import voting
from learn import (Example, add_gradient, finished, for_sampling, log_probabilities, micro_batches, open_start,
                   run_stage, save_checkpoint, schedule, settings_of)
from settings import CAPPED, POLICY_GRADIENTS, Settings, UserError, derive, parse_args, shuffled
from sft import train_base, train_sft

SHORT, EXTENDED = voting.MODES.index("short"), voting.MODES.index("extended")


@dataclass
class Rollout:
    """n prompts with m judged responses each."""

    levels: np.ndarray  # int[n]
    prompts: list[list[int]]  # token ids
    responses: list[list[sample.Response]]
    correct: np.ndarray  # bool[n, m], r_match: the final answer is right
    mode: np.ndarray  # int[n, m], the group: its place in voting.MODES; 0 if malformed
    valid: np.ndarray  # bool[n, m], False: malformed
    trials: np.ndarray  # int[n, m]
    tokens: np.ndarray  # int[n, m]

    @property
    def extended(self) -> np.ndarray:  # bool[n, m], G+
        return self.mode == EXTENDED


def roll_out(model, tokenizer, problems: list, samples: int, settings: Settings, stop_ids, seed: int,
             top_p: float) -> Rollout:
    """Sample responses from the current policy under the ASV prompt (or that of three modes), and judge them."""
    condition = settings.condition("ibpo")
    rows = sample.ask(model, tokenizer, [problem.question for problem in problems], condition, samples,
                      top_p=top_p, stop_ids=stop_ids, seed=seed, **settings.sampling)
    judged = [[voting.judge(problem.answer, r.text, r.finished, condition) for r in row]
              for problem, row in zip(problems, rows)]
    numbers = {**{mode: i for i, mode in enumerate(voting.MODES)}, "malformed": 0}

    def array(value) -> np.ndarray:  # [n, m]
        return np.array([[value(parsed, right) for parsed, right in row] for row in judged])

    return Rollout(np.array([problem.level for problem in problems]),
                   [row[0].prompt for row in rows], rows,
                   correct=array(lambda parsed, right: right),
                   mode=array(lambda parsed, right: numbers[parsed.group]),
                   valid=array(lambda parsed, right: parsed.group != "malformed"),
                   trials=array(lambda parsed, right: parsed.trials),
                   tokens=np.array([[len(r.ids) for r in row] for row in rows]))


@torch.no_grad()
def kl_estimate(rollout: Rollout, reference: llama.Llama, settings: Settings) -> np.ndarray:
    """log pi(y|x) - log pi_ref(y|x) of whole responses, the estimate of Eq. (7): float[n, m], nats."""
    examples = [Example(prompt, r.ids) for prompt, row in zip(rollout.prompts, rollout.responses) for r in row]
    index = {id(example): i for i, example in enumerate(examples)}
    under_reference = np.zeros(len(examples))
    for group in micro_batches(examples, settings.micro_tokens):
        logp = log_probabilities(reference, group, settings.checkpointing, settings.temperature)  # [B]
        under_reference[[index[id(example)] for example in group]] = logp.double().cpu().numpy()
    under_policy = np.array([[r.logprob for r in row] for row in rollout.responses])  # float[n, m]
    return under_policy - under_reference.reshape(under_policy.shape)


def select(rollout: Rollout, reference: llama.Llama | None, settings: Settings,
           seed: int) -> tuple[ibpo.Selection, np.ndarray]:
    """The responses accepted in a step, by one program, Eq. (8) for the method ibpo; and weights[n, m] to learn with.

    The policy gradients of baselines.py select nobody: they weigh all responses, some negatively.
    """
    kl = None if reference is None else kl_estimate(rollout, reference, settings)  # float[n, m], nats
    allowed = ibpo.feasible_set(rollout.correct, rollout.valid, kl, settings.kl_max)  # bool[n, m], Eq. (7)
    rng = np.random.default_rng(seed)
    masks = dict(valid=rollout.valid, feasible=None if kl is None else kl <= settings.kl_max)
    if settings.method == "ibpo" and (settings.sft_short or any("tokens" in name for name in settings.caps)):
        selection = select_by_caps(rollout, allowed, settings.caps, rng)
    elif settings.method in ibpo.METHODS:
        selection = ibpo.METHODS[settings.method](rollout.correct, rollout.extended, settings.cap, **masks, rng=rng)
    elif settings.method == "listing":
        selection = counted(rollout, allowed, baselines.listing(
            rollout.correct, rollout.extended, settings.cap, **masks, rng=rng))
    elif settings.method == "length-penalty":
        selection = counted(rollout, allowed, baselines.length_penalty(
            rollout.correct, rollout.tokens, settings.length_price, settings.length_unit, rollout.valid))
    else:
        selection = counted(rollout, allowed, baselines.grpo(rollout.correct, rollout.valid))

    no_ties = settings.method == "ibpo" and "tokens" in settings.caps  # responses differ in what they cost
    if not settings.share_ties or no_ties or settings.method in POLICY_GRADIENTS:
        return selection, selection.weights
    accepted = np.max(rollout.mode * (selection.weights > 0), axis=1, keepdims=True)  # int[n, 1], the mode accepted
    return selection, ibpo.share_ties(selection.weights, rollout.correct, rollout.mode == accepted, **masks)


def counted(rollout: Rollout, allowed: np.ndarray, weights: np.ndarray) -> ibpo.Selection:
    """What log.jsonl counts for the methods of baselines.py: accepted is what has a positive weight.

    With a price on length that may be a wrong response, if it is short. Dropped are prompts with nothing correct; those
    that the listing leaves out beside them (D2) are what is left of n.
    """
    positive = weights > 0  # bool[n, m]
    return ibpo.Selection(weights, int(positive.sum()), int((positive & rollout.extended).sum()),
                          int((~allowed.any(axis=1)).sum()), dropped_over_cap=0)


def select_by_caps(rollout: Rollout, allowed: np.ndarray, caps: dict[str, float], rng) -> ibpo.Selection:
    """Eq. (8) with any caps (budget.py): the value of a response is its margin; it costs a vote, and tokens.

    Its own tokens are partly luck: of 32 votes on a prompt some agree early. A cap on the tokens of the accepted picks
    those, and the policy, which cannot agree earlier at will, goes on to spend more than the cap. Expected tokens are
    the mean over the prompt's samples of the same mode, as margins are: what the choice of this mode costs.
    """
    value = budget.mode_margin(rollout.correct, rollout.mode, rollout.valid)  # float[n, m], Eq. (6)
    same = (rollout.mode[:, :, None] == rollout.mode[:, None]) & rollout.valid[:, None]  # bool[n, m, m]
    expected = (same * rollout.tokens[:, None]).sum(axis=2) / np.maximum(same.sum(axis=2), 1)  # float[n, m]
    costs = {"vote": rollout.extended, "short": rollout.mode == SHORT, "tokens": rollout.tokens,
             "expected-tokens": expected}
    # A cap on tokens that is not used up must not make responses shorter: between equals, chance decides.
    best = budget.select(value, [costs[name] for name in caps], list(caps.values()), allowed,
                         thrifty=["tokens" not in name for name in caps], rng=rng)
    return ibpo.Selection(best.weights, best.accepted, int((best.weights * rollout.extended).sum()),
                          best.dropped_not_allowed, best.dropped_over_cap)


def weighted_examples(rollout: Rollout, weights: np.ndarray) -> list[Example]:
    """The responses with a weight[n, m] other than 0, to learn from."""
    return [Example(rollout.prompts[i], rollout.responses[i][j].ids, float(weights[i, j]))
            for i, j in zip(*weights.nonzero())]


def by_level(levels: np.ndarray, values: np.ndarray) -> dict[int, float]:
    """Mean of values[n, ...] over the prompts of each level, NaN left out."""
    chosen = {level: values[levels == level] for level in sorted(set(levels.tolist()))}
    return {level: float(np.nanmean(v)) for level, v in chosen.items() if not np.isnan(v).all()}


def describe(rollout: Rollout, selection: ibpo.Selection) -> dict:
    """What log.jsonl says of a step's responses."""
    accepted = selection.weights > 0  # bool[n, m]
    accepted_votes = np.where(accepted, rollout.extended, np.nan)  # float[n, m], NaN: not accepted
    votes, several = rollout.extended, rollout.trials > 1  # bool[n, m]
    modes = {name: rollout.valid & (rollout.mode == i) for i, name in enumerate(voting.MODES)}  # bool[n, m] each

    def margin(mode: str) -> dict[int, float]:  # Eq. (6), of this mode over single trials
        two = modes[mode] | modes["regular"]  # bool[n, m]
        return by_level(rollout.levels, ibpo.reward_margin(rollout.correct, modes[mode], two))

    return {
        "accuracy": float(rollout.correct.mean()), "accuracy_by_level": by_level(rollout.levels, rollout.correct),
        "vote_share": float(votes.mean()), "vote_share_by_level": by_level(rollout.levels, votes),
        "accepted": selection.accepted, "accepted_vote_share": selection.extended / max(selection.accepted, 1),
        "accepted_tokens": float(rollout.tokens[accepted].sum() / max(selection.accepted, 1)),
        "accepted_vote_share_by_level": by_level(rollout.levels, accepted_votes),
        "margin_by_level": margin("extended"), "short_margin_by_level": margin("short"),
        "mode_share": {name: float(mode.mean()) for name, mode in modes.items()},
        "mode_share_by_level": {name: by_level(rollout.levels, mode) for name, mode in modes.items()},
        "accepted_mode_share": {name: float((accepted & mode).sum() / max(accepted.sum(), 1))
                                for name, mode in modes.items()},
        "accepted_mode_share_by_level": {name: by_level(rollout.levels, np.where(accepted, mode, np.nan))
                                         for name, mode in modes.items()},
        "trials": float(rollout.trials.mean()),
        "trials_per_vote": float(rollout.trials[votes].mean()) if votes.any() else None,
        "tokens": float(rollout.tokens.mean()), "malformed": float(1 - rollout.valid.mean()),
        "rule_kept": float(rollout.valid[several].mean()) if several.any() else None,
        "dropped_no_correct": selection.dropped_no_correct, "dropped_over_cap": selection.dropped_over_cap}


def train_rl(settings: Settings, start: Path) -> Path:
    """Algorithm 1 from the ASV-SFT model; returns the checkpoint directory."""
    name = settings.name("ibpo")
    if settings.compares_logprobs:
        settings = replace(settings, sampling_dtype=settings.dtype)
    made_with = settings_of(settings, "ibpo")
    directory = Path(settings.out) / name
    if finished(directory, made_with):
        if settings.keep_best and not (directory / "best" / "ibpo.json").exists():
            raise UserError(f"{directory} was finished without --keep-best; leave that out, or delete the directory")
        return directory
    model, tokenizer = open_start(settings, start)
    reference = open_start(settings, start)[0] if settings.kl_max is not None else None
    stop_ids = sample.stop_ids_of(start, tokenizer)
    n = settings.prompts * settings.accumulate  # Algorithm 2: k_b batches of the same policy make one program
    problems = data.load(settings.data, "train", settings.steps * n if settings.data == "builtin" else None,
                         derive(settings.seed, "rl"))
    validation = data.load(settings.valid_data, "validation", settings.valid_problems, derive(settings.seed, "valid"))

    def look(model: llama.Llama, policy: llama.Llama, step: int) -> dict:
        """Validation before this step, for the curves. With --keep-best the best model so far is kept in best/.

        Best is the highest accuracy among those that vote at most 5 points more than the cap: the first model, which
        votes as it likes, would else be hard to beat. If none does, the one that is nearest.
        """
        seen = roll_out(policy, tokenizer, validation, 1, settings, stop_ids, derive(settings.seed, "v", step),
                        settings.top_p)
        found = {"valid_accuracy": float(seen.correct.mean()), "valid_vote_share": float(seen.extended.mean()),
                 "valid_short_share": float((seen.mode == SHORT).mean())}

        def worth(look: dict) -> tuple[float, float]:
            cap = settings.cap if settings.method in CAPPED and settings.cap is not None else 1
            return min(cap + 0.05 - look["valid_vote_share"], 0), look["valid_accuracy"]

        if settings.keep_best:
            best = sample.notes_of(directory / "best") if step else {}
            if not best or worth(found) > worth(best):
                save_checkpoint(settings, "ibpo", model, tokenizer, directory / "best", steps=step, **found)
        return found

    def last_look(model: llama.Llama) -> None:
        look(model, for_sampling(model.eval(), settings), settings.steps)

    def add_step(model: llama.Llama, step: int) -> dict:
        policy = for_sampling(model.eval(), settings)
        record = look(model, policy, step) if settings.valid_every and step % settings.valid_every == 0 else {}
        clock = [time.monotonic()]
        batch = [problems[i] for i in shuffled(len(problems), step, n, derive(settings.seed, "order"))]
        seed = derive(settings.seed, "rollout", step)
        rollout = roll_out(policy, tokenizer, batch, settings.samples, settings, stop_ids, seed, settings.rl_top_p)
        clock.append(time.monotonic())
        selection, weights = select(rollout, reference, settings, derive(settings.seed, "select", step))
        clock.append(time.monotonic())
        examples = weighted_examples(rollout, weights)
        model.train()
        # Eq. (5), over n prompts. With negative weights the loss is no likelihood: only its gradient means something
        loss = add_gradient(model, examples, n, settings)
        clock.append(time.monotonic())
        seconds = dict(zip(("seconds_sampling", "seconds_solving", "seconds_learning"), np.diff(clock).tolist()))
        record = {"loss": loss, **describe(rollout, selection), **seconds, **record}
        record["bar"] = (f"accuracy {record['accuracy']:.3f}, votes {record['vote_share']:.2f} "
                         f"(accepted {record['accepted_vote_share']:.2f}), trials {record['trials']:.2f}")
        return record

    return run_stage(settings, "ibpo", name, model, tokenizer, settings.steps,
                     schedule(settings, settings.lr, settings.steps), add_step,
                     at_end=last_look if settings.keep_best else None)


def check(settings: Settings, stage: str) -> None:
    """What else would end a run only after hours: raises UserError, DataError or CheckpointError."""
    llama.read_config(settings.model)
    if settings.start is not None:
        llama.read_config(settings.start)
        trained, wanted = sample.notes_of(settings.start).get("condition"), settings.condition("ibpo")
        if trained not in (None, wanted):
            raise UserError(f"{settings.start} was trained for the prompt {trained!r}, and this run is for {wanted!r}"
                            + "; --sft-short N makes the difference" * ({trained, wanted} == {"asv", "modes"}))
    files = {settings.data: "train"}
    if stage in ("all", "ibpo") and settings.valid_every:
        files[settings.valid_data] = "validation"
    if stage == "all":
        files[settings.test_data] = "test"
        start = settings.start or settings.name("asv-sft")
        evaluation.different_names([settings.model, "sv-sft", start, settings.name("ibpo")])
    for path, split in files.items():
        if path != "builtin":
            data.load(path, split)


def main(argv=None) -> None:
    settings, stage = parse_args(argv, __doc__)
    spent = {}

    def timed(name: str, function, *arguments):
        begin = time.monotonic()
        result = function(settings, *arguments)
        spent[name] = time.monotonic() - begin
        return result

    def evaluate(settings: Settings) -> None:
        dtype = sample.resolve_dtype(settings.sampling_dtype, settings.dtype, llama.read_config(settings.model),
                                     settings.device)
        evaluation.evaluate(
            models, settings.test_data, settings.eval_problems, settings.eval_samples, Path(settings.out) / "eval",
            seed=settings.seed, device=settings.device, dtype=dtype, training_log=models[-1] / "log.jsonl",
            cap=settings.cap if settings.method in CAPPED else None, top_p=settings.top_p, **settings.sampling)

    try:
        if stage == "base":
            directory = timed("base", train_base)
            print(f"the base model is in {directory}; train from it with --model {directory}")
        else:
            check(settings, stage)
            models = [Path(settings.model)]
            if stage in ("all", "sv-sft"):
                models.append(timed("SV-SFT", train_sft, "sv-sft"))
            if settings.start is not None:
                models.append(Path(settings.start))
            elif stage in ("all", "asv-sft", "ibpo"):
                models.append(timed("ASV-SFT", train_sft, "asv-sft"))
            if stage in ("all", "ibpo"):
                models.append(timed(settings.name("ibpo"), train_rl, models[-1]))
            if stage == "all":
                timed("evaluation", evaluate)
    except (OSError, UserError, data.DataError, llama.CheckpointError, sample.LengthError, voting.PromptError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\nstopped; what is finished is kept, and the same command continues from there")
    print("time: " + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in spent.items())
          + f"; {sum(spent.values()) / 60:.1f} minutes in all")


if __name__ == "__main__":
    main()
