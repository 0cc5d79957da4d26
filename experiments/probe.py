"""What a model could see at the moment of choice, and what it uses, in the built-in world.

After the first [/TRIAL] an ASV model stops or goes on. A linear probe, fitted to the hidden state there on half of the
problems, says on the other half how well two things can be told from it: the kind of the problem, and whether the
trial just written is right. AUC is the chance that of two problems, one of each sort, the right one gets the higher
score: 0.5 is a guess, 1 is perfect. The policy's own probability of going on is measured in the same way, on all
problems. All pairs are of one level: longer problems are harder, and whoever knows the length alone would seem to know
more.

    python experiments/probe.py runs/builtin/asv-sft --problems 6000
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import data  # noqa: E402
import llama  # noqa: E402
import sample  # noqa: E402
import voting  # noqa: E402
from learn import Example, micro_batches  # noqa: E402
from plumbing.checkpoints import open_checkpoint  # noqa: E402

RIDGE = 1.0  # keeps the weights of the probe small
NAMES = list(data.KINDS)


@dataclass
class Choices:
    """The moment of choice on n problems."""

    hidden: np.ndarray  # float[n, C], what the language model head reads there
    goes_on: np.ndarray  # float[n], the policy's probability of another trial
    kind: np.ndarray  # int[n], place in KINDS
    level: np.ndarray  # int[n]
    right: np.ndarray  # bool[n], the first trial


def first_trials(model: llama.Llama, tokenizer, problems: list[data.Problem],
                 seed: int) -> tuple[list[data.Problem], list[Example]]:
    """One response to each problem, up to the end of its first trial; problems where none ends are left out."""
    if not {voting.OPEN, voting.CLOSE} <= tokenizer.get_vocab().keys():
        raise data.DataError("[TRIAL] is no token of this model: only models of the built-in world are probed")
    close = tokenizer.convert_tokens_to_ids(voting.CLOSE)
    rows = sample.ask(model, tokenizer, [problem.question for problem in problems], "asv", 1, top_p=0.9, seed=seed,
                      stop_ids=[close], max_new_tokens=64)  # a trial takes up to 32
    ended = [(problem, Example(response.prompt, response.ids[: response.ids.index(close) + 1]))
             for problem, (response,) in zip(problems, rows) if close in response.ids]
    return [problem for problem, _ in ended], [trial for _, trial in ended]


@torch.no_grad()
def states_after(model: llama.Llama, trials: list[Example]) -> torch.Tensor:
    """The hidden state from which the next token is predicted, float[n, C]."""
    hidden = {}
    for batch in micro_batches(trials, 4096):
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(e.prompt + e.response) for e in batch], True)  # [B, T]
        last = torch.tensor([len(example) - 1 for example in batch])  # [B]
        where = torch.arange(ids.shape[1]) == last[:, None]  # bool[B, T]
        hidden |= zip(map(id, batch), model.hidden_states(ids, where=where).float())  # [B, C]
    return torch.stack([hidden[id(trial)] for trial in trials])


@torch.no_grad()
def vote_probability(model: llama.Llama, tokenizer, states: torch.Tensor) -> np.ndarray:
    """The policy's probability of another trial, float[n]."""
    return model.lm_head(states).softmax(-1)[:, tokenizer.convert_tokens_to_ids(voting.OPEN)].numpy()


def is_right(problem: data.Problem, trial: Example, tokenizer) -> bool:
    return voting.parse(tokenizer.decode(trial.response)).answers[:1] == (problem.answer,)


def choices(model: llama.Llama, tokenizer, problems: list[data.Problem], seed: int) -> Choices:
    """What there is to see at the end of a first trial of each problem."""
    problems, trials = first_trials(model, tokenizer, problems, seed)
    states = states_after(model, trials)
    right = [is_right(problem, trial, tokenizer) for problem, trial in zip(problems, trials)]
    kind = np.array(data.kind_indices([problem.question for problem in problems]))  # int[n]
    return Choices(states.numpy(), vote_probability(model, tokenizer, states), kind,
                   np.array([p.level for p in problems]), np.array(right))


def auc(score: np.ndarray, positive: np.ndarray, level: np.ndarray) -> float:
    """The chance that a positive one of score[n] is above one that is not, of the same level; ties count half.

        >>> auc(np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, False, True, True]), np.ones(4))
        0.875

    nan: no level has both sorts.
    """
    above = pairs = 0.0
    for each in np.unique(level):
        high, low = score[(level == each) & positive], np.sort(score[(level == each) & ~positive])
        above += (np.searchsorted(low, high, "left") + np.searchsorted(low, high, "right")).sum() / 2
        pairs += len(high) * len(low)
    return float(above / pairs) if pairs else float("nan")


def probe(hidden: np.ndarray, positive: np.ndarray, level: np.ndarray) -> float:
    """AUC of ridge regression on hidden[n, C]: fitted to every other row, measured on the rest."""
    x = np.concatenate([hidden, np.ones((len(hidden), 1))], axis=1).astype(float)  # float[n, C + 1]
    x, y, held_out = x[::2], positive[::2], x[1::2]
    weights = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ (y - y.mean()))  # float[C + 1]
    return auc(held_out @ weights, positive[1::2], level[1::2])


def print_report(seen: Choices) -> None:
    print("kind        problems   goes on")
    for i, name in enumerate(NAMES):
        print(f"{name:10} {(seen.kind == i).sum():9,} {seen.goes_on[seen.kind == i].mean():9.1%}")
    print(f"\n{'can be told apart within a level, AUC':55} {'probe':>8} {'policy':>8}")
    helped = np.isin(seen.kind, [NAMES.index("medium"), NAMES.index("hard")])  # bool[n]
    rows = [(f"voting helps (medium, hard) from {other}", helped | (seen.kind == NAMES.index(other)), helped)
            for other in ("easy", "hopeless")]
    rows += [(f"a wrong first trial from a right one, {name} problems", seen.kind == NAMES.index(name), ~seen.right)
             for name in ("medium", "hard")]
    for text, here, positive in rows:
        print(f"{text:55} {probe(seen.hidden[here], positive[here], seen.level[here]):8.2f} "
              f"{auc(seen.goes_on[here], positive[here], seen.level[here]):8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="a model that decides for itself: ASV-SFT or IBPO")
    parser.add_argument("--problems", type=int, default=6000, help="validation problems (default 6000)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.problems < 100:
        parser.error("--problems must be at least 100")
    try:
        model, tokenizer, notes = open_checkpoint(args.checkpoint)
        if notes.get("condition") != "asv":
            raise data.DataError(f"{args.checkpoint} does not decide for itself; give an ASV-SFT or IBPO checkpoint")
        problems = data.load(data.BUILTIN, "validation", args.problems, args.seed)
        print_report(choices(model.float(), tokenizer, problems, args.seed))
    except (OSError, data.DataError, llama.CheckpointError, voting.PromptError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
