"""The figures of several seeds' logs and samples: Fig. 2c/d, 5 and 10 of the paper, the ladder, and pass rates.

Fig. 2a/b and 2e/f are those of plumbing/plots.py.

    python experiments/reproduce.py --report
"""

from pathlib import Path

import numpy as np

from experiments.tables import cap_of
from plumbing.plots import CAPS, GREEN, GREY, ORANGE, PINK, STYLE, YELLOW, plt, reach, save


def mean_and_range(axis: plt.Axes, steps: list[int], runs: list[list[float]], **style) -> None:
    """The mean over seeds as a line, and from the lowest to the highest seed as a band."""
    values = 100 * np.array(runs)  # [seeds, steps]
    axis.fill_between(steps, values.min(axis=0), values.max(axis=0), color=style["color"], alpha=0.2, lw=0)
    axis.plot(steps, values.mean(axis=0), **style)


def plot_training(logs: dict, result: dict, path: Path) -> None:
    """Voting share over training against q+, and where it ends on the test split (Fig. 2c/d).

    logs: of models that are trained under a cap, by name: the steps of each seed.
    """
    if not logs:
        return
    columns = min(len(logs), 2 if len(logs) == 4 else 3)
    rows = -(-len(logs) // columns)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(rows, columns, figsize=(4.6 * columns, 0.6 + 3 * rows), sharex=True, sharey=True,
                                    squeeze=False)
        for axis in axes.flat[len(logs) :]:
            axis.set_visible(False)
        for axis, (name, runs) in zip(axes.flat, logs.items()):
            steps = [row["step"] for row in runs[0]]
            axis.axhline(cap_of(name), color="#a5cfe3", lw=5, label="q₊")  # wide: the accepted may lie on it
            mean_and_range(axis, steps, [[row["vote_share"] for row in run] for run in runs], color="black", lw=2,
                           label="all responses (band: lowest to highest seed)")
            mean_and_range(axis, steps, [[row["accepted_vote_share"] for row in run] for run in runs], color=ORANGE,
                           lw=1.4, ls=(0, (4, 1)), label="accepted responses")
            shares = result["models"][name]["by_seed"]["vote_share"]  # [seeds]
            test = [100 * share for share in shares if share is not None]
            axis.plot([steps[-1] + 0.04 * len(steps)] * len(test), test, ls="", marker="o", ms=7,
                      mfc="white", color="black", label="test split, each seed", clip_on=False)
            axis.set_title(result["models"][name]["label"])
        axes[0, 0].set_ylim(bottom=0)  # of all: after they are drawn
        for axis in axes[:, 0]:
            axis.set_ylabel("voting share, %")
        for axis in axes[-1]:
            axis.set_xlabel("IBPO step")
        save(figure, path, axes[0, 0], columns=min(4, 2 * columns))


KINDS = {"easy": "#cfd8dc", "medium": "#6fb7e9", "hard": "#1f78b4", "trap": YELLOW, "misread": ORANGE,
         "hopeless": "0.25"}


def plot_pass_rates(pass_rates: dict[str, list[float]], path: Path) -> None:
    """How many problems the base solves with 0, 1, ..., m of its m samples; a colour for each kind."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(6.5, 3.8))
        below = np.zeros(len(next(iter(pass_rates.values()))))  # float[m + 1]
        for kind, shares in pass_rates.items():
            height = 100 * np.array(shares)  # float[m + 1]
            axis.bar(np.arange(len(height)), height, bottom=below, width=0.86, color=KINDS[kind], label=kind)
            below += height
        axis.set_xticks(range(len(below)))
        axis.set_xlabel(f"right ones among {len(below) - 1} base samples")
        axis.set_ylabel("of all problems, %")
        axis.grid(axis="x", visible=False)
        save(figure, path, axis, columns=6)


RUNGS = {"sft": "#b0b0ff", "rft": "#f0e442", "cgpo": GREEN, "margin": ORANGE, "ibpo-50": CAPS[50][0], "random-50": GREY,
         "ibpo-50-give-up": PINK, "listing-50": "black", "grpo": "#56e0c0", "length-penalty-0.02": YELLOW}


def plot_ladder(logs: dict, result: dict, path: Path) -> None:
    """The rungs of the ladder: accuracy and trials of sampled responses; where they end on the test split.

    logs: of rungs that have all seeds; from other models and problems they would start elsewhere. Sampled with top-p
    0.9, for policy gradients with 1. Error bars are those of the gain over the base, as in plots.plot_budget.
    CGPO, the paper's Fig. 7, starts from ASV-SFT here like the others, and may vote; in the paper it has one trial.
    """
    logs = {name: logs[name] for name in RUNGS if logs.get(name) and "trials" in logs[name][0][0]}
    if len(logs) < 2:  # nothing to compare
        return
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 3, figsize=(13, 4))
        (x, y), *test = [[scale * np.mean(result["models"][name]["by_seed"][key])
                          for key, scale in (("trials", 1), ("accuracy", 100))] for name in ("base", "sv-sft", *logs)]
        axes[2].axline((x, y), test[0], color="black", ls="--", lw=1)
        axes[2].annotate("efficiency boundary", ((3 * x + test[0][0]) / 4, (3 * y + test[0][1]) / 4), (6, -6), va="top",
                         textcoords="offset points", fontsize=9)
        for i, (name, runs) in enumerate(logs.items()):
            look = dict(color=RUNGS[name], marker="o^sDvX*Phd"[i], label=result["models"][name]["label"])
            gain = 100 * np.array(result["models"][name]["gain"])  # [3]: with its interval
            axes[2].errorbar(*test[1 + i], yerr=reach(*gain), ls="", ms=8, elinewidth=1.2, **look)
            for axis, key, scale in zip(axes, ("accuracy", "trials"), (100, 1)):
                values = scale * np.mean([[row[key] for row in run] for run in runs], axis=0)  # [steps]
                smooth = [values[max(0, t - 4) : t + 1].mean() for t in range(len(values))]
                axis.plot([row["step"] for row in runs[0]], smooth, lw=1.8, markevery=(i, 10), ms=5, **look)
                axis.set_xlabel("step")
        axes[0].set_title("accuracy of sampled responses, %")
        axes[1].set_title("trials per sampled response")
        axes[2].set_title("test split: accuracy, %")
        axes[2].set_xlabel("trials per response")
        seeds = ", ".join(map(str, result["seeds"]))
        axes[0].set_xlabel(f"step (all panels: seed{'s' * (len(result['seeds']) > 1)} {seeds})")
        save(figure, path, axes[0], columns=5)


def plot_voting(voting: dict | None, path: Path) -> None:
    """The plurality of k responses, of the base and of SV-SFT, per response and per token (Fig. 5)."""
    if voting is None:
        return
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
        for name, label, colour, marker in (("base", "majority voting: k base samples", GREY, "o"),
                                            ("sv-sft", "sequential voting: k SV-SFT responses", ORANGE, "^")):
            value, low, high = 100 * np.array(voting[name]["accuracy"]).T  # [k] each
            k = np.arange(1, len(value) + 1)
            for axis, x in zip(axes, (k, k * voting[name]["tokens"])):
                axis.fill_between(x, low, high, color=colour, alpha=0.2, lw=0)
                axis.plot(x, value, marker=marker, ms=4, color=colour, label=label)
        axes[0].set_xlabel("responses per problem")
        axes[1].set_xlabel("tokens per problem")
        axes[1].set_xscale("log", base=2)
        axes[1].xaxis.set_major_formatter("{x:g}")
        axes[0].set_ylabel("accuracy of the plurality, %")
        save(figure, path, axes[0], columns=2)


def plot_time(runs: list | None, path: Path) -> None:
    """Where the time of a training step goes (Fig. 10: solving is negligible)."""
    if not runs or "seconds_solving" not in runs[0][0]:
        return
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(6, 3.6))
        for part, colour in (("sampling", GREY), ("learning", ORANGE), ("solving", CAPS[50][0])):
            # the median over seeds: on a shared machine a run may stand still for a while
            seconds = np.median([[row[f"seconds_{part}"] for row in run] for run in runs], axis=0)  # [steps]
            axis.plot([row["step"] for row in runs[0]], seconds, color=colour, lw=1.8,
                      label=f"{part}: {seconds.mean():.2g} s")
        axis.set_yscale("log")
        axis.set_xlabel("IBPO step, q₊ = 50 %")
        axis.set_ylabel("seconds per step")
        save(figure, path, axis, columns=3)
