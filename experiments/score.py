"""SCoRe: self-correction by reinforcement learning (Kumar et al. 2024, arXiv 2409.12917), measured beside IBPO.

    python experiments/score.py                                    # the built-in world, from checkpoints/base
    python experiments/score.py --no-stage-1                       # an ablation; stages that are there are reused
    python experiments/score_report.py runs/score-0/eval runs/score-1/eval        # the table; a directory per seed

A response is a pair of trials (condition "score" of voting.py). The second one may keep the answer or change it, and
counts. With x1 the prompt, y1 the first trial, x2 = x1 y1, y2 the second trial, r = 1 if a trial's answer is right and
else 0, KL_t = KL(pi(.|x_t) || pi_ref(.|x_t)):

    warm start   SFT on pairs of the base's own samples, whatever they answer: the format alone. It is pi_ref.
    stage I      max E[ r(y2) - beta_1 KL_2 - beta_2 KL_1 ], Eq. (3)
    stage II     max E[ r(y1) - beta_1 KL_1 + r(y2) + alpha (r(y2) - r(y1)) - beta_1 KL_2 ], Eq. (4) and (5)

Both are plain policy gradients on fresh samples. As in App. A.2 (no discounted returns) the tokens of a turn learn from
the reward of that turn alone: those of y1, in stage I, from the KL term only. -beta (log pi(y_t|x_t) - log pi_ref(y_t|
x_t)) is part of a turn's reward, and its policy gradient is that of -beta KL_t. The baseline of a response is the mean
reward of the other m - 1 to its prompt. A malformed response counts as a wrong second trial.

With this credit r(y1) is a constant to the tokens of y2. So all that the bonus does to the expected gradient is to
multiply that of r(y2) by 1 + alpha: the second trial weighs more than the first, and than the KL terms.
Departure: the paper's model follows instructions and has no warm start; ours knows only what it has read.
"""

import argparse
import random
import sys
from bisect import bisect_left
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import eval as evaluation
import llama
import voting
from data import load
from experiments.score_report import describe, report
from learn import Example, add_gradient, encode
from plumbing import distributed
from plumbing.files import derive_seed, digest, fingerprint, shuffled
from plumbing.settings import OPTIMISER, RL, Settings, UserError, flag, out_of_range, setting
from plumbing.signals import exit_code, stop_on_signals
from plumbing.stage import Stage, is_finished, open_start, scheduled
from sft import train_sft
from train import Rollout, logprobs_of, roll_out

WARM, STAGE_1, STAGE_2 = "score-sft", "score-1", "score-2"
BOTH = (STAGE_1, STAGE_2)


@dataclass(frozen=True)
class ScoreSettings(Settings):
    """Those of train.py, some with other defaults, and those of SCoRe. The coefficients are the paper's for MATH."""

    out: str = setting("runs/score", "directory of this run; with that of train.py, its base samples are reused", RL)
    steps: int = setting(100, "gradient steps of each stage; both sample as much as IBPO does", RL, BOTH, least=1)
    prompts: int = setting(32, "n, prompts per step", RL, BOTH, least=1)
    samples: int = setting(16, "m, responses per prompt; each is compared with the others", RL, BOTH, least=2)
    lr: float = setting(2e-4, "learning rate of the two stages before warm-up and decay", RL, BOTH, above=0)
    kl: float = setting(0.01, "beta_1: weight of the KL terms", RL, BOTH, least=0)
    kl_first: float = setting(0.1, "beta_2: that of the first trial in stage I", RL, (STAGE_1,), least=0)
    alpha: float = setting(10.0, "stage II: bonus for a correction, price of a spoiled answer", RL, (STAGE_2,), least=0)
    stage_1: bool = setting(True, "stage I; without it stage II starts from the warm start", RL, (STAGE_2,))
    bonus: bool = setting(True, "the bonus; without it alpha is 0", RL, (STAGE_2,))
    sft_steps: int = setting(500, "warm start: steps; fewer leave first trials below the base", RL, (WARM,), least=1)
    sft_lr: float = setting(2e-4, "warm start: learning rate", RL, (WARM,), above=0)
    split: str = setting("test", "test to report, validation to choose by", RL, choices=("test", "validation"))
    eval_samples: int = setting(8, "base samples per problem", RL, least=voting.MAX_TRIALS)

    def condition(self, stage: str) -> str:
        return "score"

    def name(self, stage: str) -> str:
        left_out = "-no-stage-1" * (not self.stage_1) + "-no-bonus" * (not self.bonus)
        return stage + left_out * (stage == STAGE_2)

    def deciding(self, stage: str) -> dict:
        """As there; ours depend on their own settings, those of the samples, and the optimiser's."""
        return {f.name: getattr(self, f.name) for f in fields(self) if {stage, "samples"} & {*f.metadata["decides"]}
                or f.metadata["section"] == OPTIMISER and stage != "samples"}


OPTIONS = ("model out seed steps prompts samples lr kl kl_first alpha stage_1 bonus sft_problems sft_samples "
           "sft_steps sft_lr split eval_problems eval_samples max_new_tokens processes device").split()


def pairs(settings: ScoreSettings, stage: str, tokenizer, rows: list[dict]) -> list[Example]:
    """A pair of its samples for each problem, from the rows of sft.sampled_solutions, whatever they answer."""
    rng, examples = random.Random(f"{stage} {settings.seed}"), []
    for row in rows:
        chosen = rng.sample(row["samples"], min(2, len(row["samples"])))  # cut-off samples are not in it
        text = "".join(voting.OPEN + solution + voting.CLOSE for solution in chosen)
        if voting.parse_pair(text).group != "malformed":
            examples.append(encode(tokenizer, row["question"], "score", text))
    if not examples:
        raise UserError("no pairs could be made: the base finished too few of its samples")
    return examples


def split_turns(rollout: Rollout, tokenizer) -> tuple[list[Example], list[Example]]:
    """The turns (x1, y1) and (x2, y2) of the n m responses, row by row. Where no trial ends, y1 is all, y2 empty."""
    first, second = [], []
    for prompt, ids in ((prompt, r.ids) for prompt, row in zip(rollout.prompts, rollout.responses) for r in row):
        end = bisect_left(range(len(ids)), True, key=lambda i, ids=ids: "[/TRIAL]" in tokenizer.decode(ids[:i]))
        first.append(Example(prompt, ids[:end]))
        second.append(Example(prompt + ids[:end], ids[end:]))
    return first, second


def rewards(stage: str, first: np.ndarray, second: np.ndarray, kl: np.ndarray, settings: ScoreSettings) -> tuple:
    """Rewards of both turns, float[n, m] each. first, second: bool[n, m], is the trial right?  kl: float[2, n, m]."""
    if stage == STAGE_1:
        return -settings.kl_first * kl[0], second - settings.kl * kl[1]  # Eq. (3)
    bonus = settings.alpha * settings.bonus * (second.astype(float) - first)  # Eq. (5) of SCoRe
    return first - settings.kl * kl[0], second + bonus - settings.kl * kl[1]  # Eq. (4)


def weigh(turns: list[Example], reward: np.ndarray) -> list[Example]:
    """The turns with weights (reward - baseline) / m; the baseline is the mean of the other m - 1 of reward[n, m]."""
    weights = (reward - reward.mean(axis=1, keepdims=True)) / (reward.shape[1] - 1)  # float[n, m]; rows sum to 0
    return [replace(turn, weight=float(w)) for turn, w in zip(turns, weights.flat) if w and turn.response]


def train_stage(settings: ScoreSettings, name: str, start: Path, warm: Path) -> Path:
    """Stage I or II from the checkpoint `start`; pi_ref is that in `warm`. Returns the directory of the checkpoint."""
    count = 2 * settings.steps * settings.prompts  # each is seen once, in stage I or in stage II
    problems = load(settings.data, "train", count, derive_seed(settings.seed, "rl"))
    sources = {"start": fingerprint(start), "reference": fingerprint(warm), "data": digest(problems)}
    if is_finished(settings, name, sources):
        return settings.directory(name)
    (model, tokenizer), (reference, _) = open_start(settings, start), open_start(settings, warm)
    with Stage(settings, name, model, tokenizer, settings.steps, sources) as stage:
        for step in stage:
            batch = shuffled(len(problems), step + settings.steps * (name == STAGE_2), settings.prompts,
                             derive_seed(settings.seed, "order"))
            with stage.timed("sampling"):
                rollout = roll_out(model, tokenizer, [problems[i] for i in batch], settings.samples, 1.0,
                                   derive_seed(settings.seed, name, step), settings)
            with stage.timed("learning"):
                turns = split_turns(rollout, tokenizer)
                kl = np.array([logprobs_of(model, turn, settings) - logprobs_of(reference, turn, settings)
                               for turn in turns]).reshape(2, *rollout.correct.shape)  # float[2, n, m], nats
                reward = rewards(name, rollout.first, rollout.correct, kl, settings)  # float[n, m] twice
                examples = [example for turn, r in zip(turns, reward) for example in weigh(turn, r)]
                loss = add_gradient(model, examples, settings.prompts, settings)
            record = {"loss": loss, **describe(rollout), "kl": kl.mean(axis=(1, 2)).tolist(), **stage.seconds}
            stage.update(scheduled(settings, settings.lr, step, settings.steps), record,
                         "right {first:.3f} -> {second:.3f}, KL {kl[0]:.2f} {kl[1]:.2f}".format(**record))
    return stage.directory


def train(settings: ScoreSettings) -> list[Path]:
    """Warm start, stage I if there is one, stage II: their checkpoints. What is finished is not trained again."""
    models = [train_sft(settings, WARM, pairs)]
    if settings.stage_1:
        models.append(train_stage(settings, STAGE_1, models[-1], models[0]))
    return [*models, train_stage(settings, STAGE_2, models[-1], models[0])]


def run(settings: ScoreSettings, beside: list[str]) -> None:
    """Train all stages, and evaluate them beside the base."""
    for directory in beside:
        llama.read_config(directory)  # before hours of training
    names = [WARM, STAGE_1, STAGE_2] if settings.stage_1 else [WARM, STAGE_2]
    evaluation.different_names([settings.model, *(settings.directory(stage) for stage in names), *beside])
    out = Path(settings.out) / ("eval" if settings.split == "test" else "eval-validation")
    evaluation.respond([settings.model, *train(settings), *beside], settings.data, settings.eval_problems,
                       {**dict.fromkeys(voting.PROMPTS, 2), "scot": settings.eval_samples}, out, settings.seed,
                       settings.split, settings.device, top_p=settings.top_p, **settings.sampling)
    distributed.on_main(lambda: report([out]))


def arguments(argv: list[str] = None) -> tuple[ScoreSettings, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    known = {f.name: f for f in fields(ScoreSettings)}
    for f in map(known.get, OPTIONS):
        how = {"action": argparse.BooleanOptionalAction} if f.type is bool else {"type": f.type, "metavar": "X"}
        parser.add_argument(flag(f.name), default=f.default, help=f"{f.metadata['text']} (default {f.default})", **how)
    parser.add_argument("--beside", nargs="+", default=[], metavar="DIR", help="checkpoints to evaluate, too: IBPO's")
    args = parser.parse_args(argv)
    settings = ScoreSettings(**{name: getattr(args, name) for name in OPTIONS})
    for name in OPTIONS:
        if wrong := out_of_range(known[name], getattr(settings, name)):
            parser.error(f"{flag(name)} {wrong}")
    return settings, args.beside


def main(argv: list[str] = None) -> None:
    settings, beside = arguments(argv)
    try:
        with stop_on_signals():
            run(settings, beside)
    except (OSError, ValueError, UserError) as error:  # DataError and CheckpointError are ValueErrors
        sys.exit(f"error: {error}")
    except KeyboardInterrupt as interrupt:
        print(f"\n{str(interrupt) or 'stopped; the same command continues'}", file=sys.stderr)
        sys.exit(exit_code(interrupt))


if __name__ == "__main__":
    asked, _ = arguments()
    distributed.run(main, asked.processes or distributed.usual_processes(asked.device, [asked.model]), asked.device)
