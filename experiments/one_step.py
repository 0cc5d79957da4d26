"""The picture of the README: the responses of one step, what a vote is worth on each prompt, and who votes under a cap.

    python experiments/one_step.py               # writes results/one_step.png: checkpoints/ibpo on 24 training problems

Left, a row per prompt and a square per response; four prompts of each kind, easy ones on top. Middle, the margin of
each prompt, Eq. (6). Right, who votes as the cap rises from 0 to 100 %, Eq. (8). notebooks/5_one_step.ipynb takes the
same step apart.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import data
import ibpo
import sample
import train
from plumbing.plots import STYLE, plt
from plumbing.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
RIGHT, WRONG, VOTE, VOTE_WRONG, MALFORMED, NOTHING = "#f0b429", "#fbe3ad", "#1f78b4", "#b5d3ea", "0.45", "0.88"
OUTCOMES = ["single trial, right", "single trial, wrong", "vote, right", "vote, wrong", "malformed"]
PER_KIND = 4


def of_each_kind(count: int, seed: int) -> list[data.Problem]:
    """`count` training problems of each kind, easy ones first."""
    problems = data.load(data.BUILTIN, "train", 50 * count, seed)  # five times as many as are needed of the rarest kind
    return [problem for kind in data.KINDS
            for problem in [p for p in problems if data.kind_of(p.question) == kind][:count]]


def squares(axis, values: np.ndarray, colours: list[str]) -> None:
    """values[n, columns] as coloured squares, row 0 on top, with a line between kinds."""
    n = len(values)
    axis.pcolormesh(values[::-1], cmap=plt.matplotlib.colors.ListedColormap(colours), vmin=-0.5,
                    vmax=len(colours) - 0.5, edgecolors="white", lw=0.8)
    for kind in range(1, len(data.KINDS)):
        axis.axhline(n - PER_KIND * kind, color="black", lw=1)
    axis.set_yticks(n - PER_KIND * np.arange(len(data.KINDS)) - PER_KIND / 2, list(data.KINDS))
    axis.tick_params(length=0)
    axis.grid(False)
    axis.spines[:].set_visible(False)


def who_votes(rollout: train.Rollout, caps: np.ndarray) -> np.ndarray:
    """int[n, caps]: 0 a single trial is accepted, 1 a vote, 2 nothing."""
    columns = []
    for cap in caps:
        selection = ibpo.select_ibpo(rollout.correct, rollout.extended, cap, rollout.valid, rng=0)  # Eq. (8)
        votes = (selection.weights * rollout.extended).any(axis=1)  # bool[n]
        columns.append(np.select([votes, selection.weights.any(axis=1)], [1, 0], 2))
    return np.stack(columns, axis=1)


def draw(rollout: train.Rollout, path: Path) -> None:
    correct, extended, valid = rollout.correct, rollout.extended, rollout.valid  # bool[n, m]
    outcome = np.select([~valid, ~extended & correct, ~extended, correct], [4, 0, 1, 2], 3)  # int[n, m], of OUTCOMES
    margin = ibpo.reward_margin(correct, extended, valid)  # float[n], Eq. (6)
    n, m = outcome.shape
    with plt.rc_context(STYLE):
        figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 5.2), width_ratios=[3, 1, 2.2], sharey=True)
        squares(left, np.sort(outcome, axis=1), [RIGHT, WRONG, VOTE, VOTE_WRONG, MALFORMED])
        left.set(title=f"{m} responses to each of {n} prompts", xticks=[])
        middle.barh(n - np.arange(n) - 0.5, margin, height=0.8, color=np.where(margin > 0, VOTE, RIGHT))
        middle.axvline(0, color="black", lw=1)
        middle.set(title="margin Δ, Eq. (6)", xlim=(-1, 1), xticks=[-1, 0, 1])
        squares(right, who_votes(rollout, np.linspace(0, 1, 41)), [RIGHT, VOTE, NOTHING])
        right.set(title="accepted under a cap, Eq. (8)", xlabel="cap $q_+$", xticks=np.arange(0, 41, 10) + 0.5,
                  xticklabels=["0", "25 %", "50 %", "75 %", "100 %"])
        colours = [RIGHT, WRONG, VOTE, VOTE_WRONG, MALFORMED, NOTHING]
        names = [*OUTCOMES, "nothing accepted"]
        figure.legend([plt.Rectangle((0, 0), 1, 1, color=colour) for colour in colours], names,
                      loc="outside lower center", ncols=len(names))
        figure.savefig(path)
        plt.close(figure)


def main() -> None:
    policy, tokenizer, _ = sample.open_checkpoint(ROOT / "checkpoints/ibpo", sample.DTYPES["fp32"])
    settings = Settings()
    rollout = train.roll_out(policy, tokenizer, of_each_kind(PER_KIND, seed=4), 32, settings.rl_top_p, 0, settings)
    path = ROOT / "results" / "one_step.png"
    draw(rollout, path)
    print(f"{path.relative_to(ROOT)}: {rollout.extended.mean():.0%} of {rollout.correct.size} responses vote, "
          f"{rollout.correct.mean():.0%} are right")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
