"""Where Eq. (8) comes to rest: how often each kind of problem is voted on, in the built-in world, without a model.

IBPO raises the likelihood of what it accepts. A model that tells the kinds apart, and nothing else, therefore rests
where it votes on a kind as often as what is accepted for that kind are votes. Margins are estimates from m responses,
so this is not "always" where voting helps and "never" where it does not: some of the m are lucky. What this file finds:

* The cap sorts kinds only where it binds. Where it does not, a problem votes as often as its estimated margin happens
  to be positive, and with many samples that happens on easy problems, too, where a vote is hardly ever better.
* The paper's rule drops a prompt without a right response (D5). Of hopeless problems it accepts lucky guesses only,
  of which votes are about as common as among all responses. So nothing takes these votes of eight trials away, and
  chance may spread them. Giving up (D8) removes them.

    python train.py && python experiments/rest.py runs/builtin/eval     # from the base's and SV-SFT's answers
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import data  # noqa: E402
import ibpo  # noqa: E402
from experiments.kinds_report import read  # noqa: E402

CAPS, SAMPLES = (0.15, 0.25, 0.5), (8, 16, 32)
PROMPTS, BATCHES = 64, 12  # of a step: what is accepted is counted over all batches
STEPS, PACE = 60, 0.3  # how often the policy follows what was accepted, and how far


@dataclass
class Kinds:
    """The kinds of problems as a model meets them, float[K] each."""

    share: np.ndarray  # of all problems
    single: np.ndarray  # how often a single trial is right, mean over problems
    spread: np.ndarray  # standard deviation of that between problems
    vote: np.ndarray  # how often a vote is right
    trials: np.ndarray  # per vote

    def draw(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """n problems: their kinds, int[n], how often a single trial is right, and how often a vote, float[n] each."""
        of = rng.choice(len(self.share), n, p=self.share)
        mean, variance = self.single[of], np.maximum(self.spread[of], 1e-3) ** 2
        size = np.maximum(mean * (1 - mean) / variance - 1, 0.1)  # a + b of the beta distribution with this variance
        single = rng.beta(np.maximum(mean * size, 1e-3), np.maximum((1 - mean) * size, 1e-3))
        return of, single, np.clip(single + (self.vote - self.single)[of], 0, 1)

    def value(self, policy: np.ndarray) -> tuple[float, float, float]:
        """Accuracy and trials of a policy[K], and its gain over single trials in units of the efficiency boundary's."""
        accuracy = self.share @ (self.single + policy * (self.vote - self.single))
        trials = self.share @ (1 + policy * (self.trials - 1))
        rate = self.share @ (self.vote - self.single) / (self.share @ self.trials - 1)  # of the boundary, per trial
        return accuracy, trials, (accuracy - self.share @ self.single) / (rate * (trials - 1))


def measure(base, sv, of: np.ndarray) -> Kinds:
    """Kinds from the base's record (several samples), SV-SFT's, and the kind of each problem, int[n]."""
    columns = []
    for kind in range(len(data.KINDS)):
        here, vote = base.at(of == kind), sv.at(of == kind)
        m, rate = here.correct.shape[1], here.correct.mean(axis=1)  # float[n']
        noise = (rate * (1 - rate)).mean() / max(m - 1, 1)  # the part of the variance that m samples add
        columns.append((np.mean(of == kind), rate.mean(), np.sqrt(max(rate.var() - noise, 0)), vote.correct.mean(),
                        vote.trials.mean()))
    return Kinds(*np.array(columns).T)


def accepted_votes(world: Kinds, policy: np.ndarray, cap: float, m: int, give_up: bool,
                   rng: np.random.Generator) -> np.ndarray:
    """Of what steps accept for each kind, the share of votes: float[K]; the policy's own where nothing is accepted."""
    votes, accepted = np.zeros((2, len(policy)))
    for _ in range(BATCHES):
        of, single, vote = world.draw(PROMPTS, rng)
        extended = rng.random((PROMPTS, m)) < policy[of, None]  # bool[n, m]
        correct = rng.random((PROMPTS, m)) < np.where(extended, vote[:, None], single[:, None])  # bool[n, m]
        feasible = ibpo.feasible_set(correct)  # Eq. (7)
        if give_up:
            feasible = ibpo.with_giving_up(feasible, np.ones_like(correct), extended)  # D8
        margin = ibpo.reward_margin(correct, extended)  # Eq. (6)
        weights = ibpo.maximise_margin(margin, feasible, extended, cap, rng).weights  # Eq. (8)
        np.add.at(votes, of, (weights * extended).sum(axis=1))
        np.add.at(accepted, of, weights.sum(axis=1))
    return np.where(accepted > 0, votes / np.maximum(accepted, 1), policy)


def at_rest(world: Kinds, start: np.ndarray, cap: float, m: int, give_up: bool, seed: int = 0) -> np.ndarray:
    """The policy, float[K], that learning from accepted responses ends at; the mean of the last third of its way."""
    rng, policy, last = np.random.default_rng(seed), np.array(start, float), []
    for step in range(STEPS):
        policy = policy + PACE * (accepted_votes(world, policy, cap, m, give_up, rng) - policy)
        policy = np.clip(policy, 0.003, 0.997)
        last += [policy] * (step >= 2 * STEPS // 3)
    return np.mean(last, axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="evaluations, one per seed")
    args = parser.parse_args()
    try:
        records = read(args.folders)
        of_prompt = {record.condition: record for record in records.values() if not record.greedy}
        if not {"scot", "sv"} <= of_prompt.keys():
            raise data.DataError(f"{args.folders[0]}: needs answers of the base and of SV-SFT")
        base, sv = of_prompt["scot"], of_prompt["sv"]
        of = np.array(data.kind_indices(base.questions))  # int[n]
    except ValueError as error:  # DataError is one
        sys.exit(f"error: {error}")
    world = measure(base, sv, of)
    starts = {"half of all": np.full(len(data.KINDS), 0.5)}
    if "asv-sft" in records:
        votes = records["asv-sft"].extended
        starts["as ASV-SFT"] = np.array([votes[of == kind].mean() for kind in range(len(data.KINDS))])
    print(f"votes, %{'':34}" + "".join(f"{name:>9}" for name in data.KINDS)
          + f"{'accuracy':>11} {'trials':>7} times the boundary's gain")
    for name, start in starts.items():
        rows = [(f"start: {name}", start)]
        for cap in CAPS:
            for m in SAMPLES:
                for give_up in (False, True):
                    rule = f"  q+ {cap:.2f}, m {m:2}, {'giving up' if give_up else 'paper'}"
                    rows.append((rule, at_rest(world, start, cap, m, give_up)))
        for rule, policy in rows:
            accuracy, trials, times = world.value(policy)
            print(f"{rule:42}" + "".join(f"{100 * share:9.0f}" for share in policy)
                  + f"{accuracy:11.1%} {trials:7.2f} {times:8.1f}")


if __name__ == "__main__":
    main()
