"""A sharp choice in place of a soft one: vote wherever the model's own probability of a vote is above a threshold.

IBPO raises the likelihood of the accepted responses, so the policy's probability of a vote approaches the share of
accepted votes among problems that look alike to it: where half of them vote, it votes on half of them, at random. Here
the same model chooses by a threshold: it votes on the problems on which it was most likely to, after its first trial,
and elsewhere it stops. The threshold also turns one trained model into one for every budget.

    python experiments/thresholds.py checkpoints/ibpo                     # on 4,000 validation problems
    python experiments/thresholds.py runs/reproduce/seed-*/ibpo-50        # models of several seeds: intervals over them

Each problem gets one first trial and, after it, one vote, whatever the model chose; a policy is a probability of the
vote, and its accuracy the mean over that. So all rows are about the same responses. The line from "never" to "always"
is this model's own efficiency boundary: a vote for a random part of the problems. Beware: a model may write bad votes
where it would not have voted, and its own boundary is then lower than that of SV-SFT. Of several models each has a
threshold of its own.
"""

import argparse
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import data  # noqa: E402
import llama  # noqa: E402
import sample  # noqa: E402
import voting  # noqa: E402
from experiments.probe import first_trials, is_right, states_after, vote_probability  # noqa: E402
from plumbing.checkpoints import open_checkpoint  # noqa: E402
from plumbing.statistics import Bootstrap, percent  # noqa: E402

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75)  # of the problems that may vote
TOP_P = 0.9


@dataclass
class Outcomes:
    """What stopping and voting lead to on n problems, after the same first trial."""

    likely: np.ndarray  # float[n], the policy's probability of a vote
    single: np.ndarray  # bool[n], the first trial is right
    vote: np.ndarray  # bool[n], the vote is right
    trials: np.ndarray  # int[n], of the vote
    malformed: np.ndarray  # bool[n], the vote is


def outcomes(model: llama.Llama, tokenizer, problems: list[data.Problem], seed: int) -> Outcomes:
    """A first trial and, after it, a vote on each problem."""
    problems, trials = first_trials(model, tokenizer, problems, seed)
    likely = vote_probability(model, tokenizer, states_after(model, trials))
    again = tokenizer.convert_tokens_to_ids(voting.OPEN)
    begun = [trial.response + [again] for trial in trials]
    ends = sample.generate(model, [trial.prompt + ids for trial, ids in zip(trials, begun)], 300, top_p=TOP_P,
                           stop_ids=sample.stop_ids_in(model, tokenizer), seed=seed + 1)
    judged = [voting.judge(problem.answer, tokenizer.decode(ids + (end.ids[:-1] if end.finished else end.ids)),
                           end.finished) for problem, ids, end in zip(problems, begun, ends)]
    return Outcomes(likely, np.array([is_right(*pair, tokenizer) for pair in zip(problems, trials)]),
                    np.array([right for _, right in judged]), np.array([parsed.trials for parsed, _ in judged]),
                    np.array([parsed.group == "malformed" for parsed, _ in judged]))


def nucleus(likely: np.ndarray) -> np.ndarray:
    """The probability of a vote under nucleus sampling: what is less likely than 1 - top-p is never drawn."""
    return np.where(likely >= TOP_P, 1.0, np.where(likely <= 1 - TOP_P, 0.0, likely))


def sharp(likely: np.ndarray, cost: np.ndarray, budget: float) -> np.ndarray:
    """Vote on the likeliest problems until their mean cost is `budget`; of the last one a part. float[n], 0 to 1.

        >>> sharp(np.array([0.1, 0.9, 0.5, 0.7]), np.array([2, 2, 2, 2]), 0.75)
        array([0. , 1. , 0. , 0.5])
    """
    order = np.argsort(-likely, kind="stable")
    spent = np.cumsum(cost[order])
    share = np.empty(len(likely))
    share[order] = np.clip(1 - (spent - budget * len(likely)) / cost[order], 0, 1)
    return share


def print_report(seen: Outcomes, runs: int) -> None:
    """seen: the problems of `runs` models, equally many, one model after the other."""
    cost = seen.trials - 1  # int[n], what a vote adds to the first trial
    bootstrap = Bootstrap(len(cost), runs)
    models = [(likely, own) for likely, own in zip(np.split(seen.likely, runs), np.split(cost, runs))]
    never, always = np.zeros(len(cost)), np.ones(len(cost))
    sampled = {"sampled, top-p 1": lambda likely: likely, "sampled, top-p 0.9": nucleus}
    rows = {"never": never, **{name: policy(seen.likely) for name, policy in sampled.items()}}
    for name, policy in sampled.items():
        rows[f"as many trials as {name}, sharp"] = np.concatenate(
            [sharp(likely, own, (policy(likely) * own).mean()) for likely, own in models])
    rows |= {"likelier than not": (seen.likely > 0.5).astype(float)}
    rows |= {f"sharp, {share:.0%}": np.concatenate(
        [sharp(likely, np.ones(len(own)), share) for likely, own in models]) for share in SHARES}
    rows |= {"always": always}
    columns = [column for policy in rows.values()
               for column in ((1 - policy) * seen.single + policy * seen.vote, policy * cost)]
    means = bootstrap.means(np.stack(columns, axis=1)).reshape(len(rows), 2, -1)  # float[rows, 2, draws]
    (low, _), (high, most) = means[0], means[-1]
    over = {name: accuracy - low - extra / most * (high - low)  # float[draws]
            for name, (accuracy, extra) in zip(rows, means)}
    print(f"{len(cost):,} problems, {runs} model(s)\n\n{'the vote is chosen':42} {'accuracy, %':>11} {'trials':>7} "
          f"{'votes, %':>9}   over voting at random, points")
    for (name, policy), (accuracy, extra) in zip(rows.items(), means):
        text = percent(bootstrap.difference(over[name]), 1) if 0 < policy.mean() < 1 else ""
        print(f"{name:42} {accuracy[0]:11.1%} {1 + extra[0]:7.2f} {policy.mean():9.1%}   {text}")
    print(f"\nof the votes {seen.malformed.mean():.1%} are malformed; of those on the likeliest 20 % of the problems "
          f"{seen.malformed[rows['sharp, 20%'] > 0].mean():.1%}")
    for name in sampled:
        gap = over[f"as many trials as {name}, sharp"] - over[name]
        print(f"sharp minus {name}, at equal trials: {percent(bootstrap.difference(gap), 1)} points")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="DIR", help="ASV-SFT or IBPO models, one per seed")
    parser.add_argument("--problems", type=int, default=4000, help="for each model (default 4000)")
    parser.add_argument("--split", choices=["validation", "test"], default="validation")
    args = parser.parse_args()
    if args.problems < 100:
        parser.error("--problems must be at least 100")
    try:
        parts = []
        for place, path in enumerate(args.checkpoints):
            model, tokenizer, notes = open_checkpoint(path)
            seed = notes.get("settings", {}).get("seed", place)
            if notes.get("condition") != "asv":
                raise data.DataError(f"{path} does not decide for itself; give ASV-SFT or IBPO checkpoints")
            problems = data.load(data.BUILTIN, args.split, args.problems, seed)
            parts.append(outcomes(model.float(), tokenizer, problems, seed))
        size = min(len(part.single) for part in parts)  # the few where no trial ends are left out: equal parts again
        print_report(Outcomes(*(np.concatenate([getattr(part, f.name)[:size] for part in parts])
                                for f in fields(Outcomes))), len(parts))
    except (OSError, data.DataError, llama.CheckpointError, voting.PromptError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
