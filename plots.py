"""The plots: accuracy against budget (Fig. 2a/b), where the budget goes (Fig. 2e/f), and training (Fig. 2c).

Everything is drawn from numbers on disk: eval.py's summary, which comes from saved responses, and a stage's log.jsonl.

    python eval.py --redraw runs/builtin/eval
"""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files only: no window, no display needed
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402


def reach(value, low, high) -> np.ndarray:
    """Lengths of an error bar, [2, n]; a resampled mean may miss an exact one by a rounding error."""
    return np.maximum(np.atleast_2d(np.array([value - low, high - value])).reshape(2, -1), 0)


def look(i: int) -> dict:
    """Colour and marker of the i-th model, the same in all plots of a summary."""
    return dict(color=f"C{i}", marker="o^sPvXD<>p"[i % 10])


def plot_budget(summary: dict, path: Path) -> None:
    """Accuracy against trials and against tokens (Fig. 2a/b)."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), sharey=True, layout="constrained")
    models = summary["models"]
    base, sv = summary.get("base"), summary.get("sv")
    for axis, unit in zip(axes, ("trials", "tokens")):
        if base and summary["self_consistency"]:
            per_sample = models[base][unit][0]
            k = np.arange(1, len(summary["self_consistency"]) + 1)
            values, low, high = 100 * np.array(summary["self_consistency"]).T
            axis.plot(k * per_sample, values, "-o", color="0.6", ms=3.5, lw=1.2, label="self-consistency (base)")
            axis.fill_between(k * per_sample, low, high, color="0.6", alpha=0.2, lw=0)
        if base and sv:
            ends = [base, sv]
            axis.plot([models[n][unit][0] for n in ends], [100 * models[n]["accuracy"][0] for n in ends], "--",
                      color="0.3", lw=1, label="efficiency boundary")
        for i, (name, row) in enumerate(models.items()):
            if name.endswith("-greedy"):
                continue
            x, xl, xh = row[unit]
            y, yl, yh = (100 * v for v in row["accuracy"])
            axis.errorbar(x, y, xerr=reach(x, xl, xh), yerr=reach(y, yl, yh), ls="", ms=7, capsize=2, zorder=3,
                          label=name, **look(i))
        axis.set_xlabel(f"{unit} per response, measured")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("accuracy on the test split, %")
    axes[0].legend(frameon=False, loc="lower right")
    figure.suptitle("Accuracy against inference budget")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def plot_levels(summary: dict, path: Path) -> None:
    """Voting share, trials and accuracy by level (Fig. 2e/2f)."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for i, (name, row) in enumerate(summary["models"].items()):
        levels = list(row["levels"])
        style = dict(ms=5, label=name, **look(i))
        if name.endswith("-greedy"):
            continue
        for axis, key, scale in zip(axes, ("vote_share", "trials", "accuracy"), (100, 1, 100)):
            if key != "accuracy" and row["vote_share"] == 0:
                continue
            values = [row["levels"][level][key] for level in levels]
            if key == "trials":
                axis.plot(levels, values, **style)
            else:
                value, low, high = scale * np.array(values).T
                axis.errorbar(levels, value, yerr=reach(value, low, high), capsize=2, **style)
    for axis, title in zip(axes, ("voting share, %", "trials per response", "accuracy, %")):
        axis.set_title(title)
        axis.set_xlabel("level (difficulty)")
        axis.set_xticks(levels)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    axes[0].set_ylim(-3, 103)
    axes[2].legend(frameon=False)  # the base model never votes: it is in this panel only
    figure.savefig(path, dpi=150)
    plt.close(figure)


MODES = {  # of voting.py, the cheapest at the bottom
    "regular": ("one trial", "#d9e2ec"), "short": ("short vote", "#7fb3d5"), "extended": ("long vote", "#1f4e79"),
    "malformed": ("malformed", "#c0392b")}


def plot_modes(summary: dict, path: Path) -> None:
    """The share of each mode by level, stacked: a panel for each model that votes. No file if none does."""
    models = {name: row for name, row in summary["models"].items() if row["shares"]["regular"] + row["malformed"] < 1}
    if not models:
        return
    columns = min(len(models), 4)
    rows = -(-len(models) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1 + 3.3 * columns, 0.6 + 3.2 * rows), sharey=True,
                                squeeze=False, layout="constrained")
    for axis in axes.flat[len(models) :]:
        axis.set_visible(False)
    for axis, (name, row) in zip(axes.flat, models.items()):
        levels, below = list(row["levels"]), np.zeros(len(row["levels"]))
        for mode, (label, colour) in MODES.items():
            share = np.array([100 * row["levels"][level]["shares"][mode] for level in levels])
            axis.bar(levels, share, bottom=below, width=0.86, color=colour, label=label)
            for level, value, bottom in zip(levels, share, below):
                if value >= 7:  # below that there is no room for the number
                    axis.text(level, bottom + value / 2, f"{value:.0f}", ha="center", va="center", fontsize=9,
                              color="white" if mode in ("extended", "malformed") else "0.15")
            below += share
        axis.set_title(f"{name}\n{row['trials'][0]:.2f} trials, {100 * row['accuracy'][0]:.1f} % right", fontsize=10)
        axis.set_xlabel("level (difficulty)")
        axis.set_xticks(levels)
        axis.set_ylim(0, 100)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(length=0)
    for axis in axes[:, 0]:
        axis.set_ylabel("share of responses, %")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], frameon=False, loc="outside right center")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def plot_training(log: Path, cap: float | None, path: Path) -> None:
    """Voting share over training against q+ (Fig. 2c), and by level. cap: q+, None without one."""
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [row["step"] for row in rows]
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True, layout="constrained")
    if cap is not None:
        axes[0].axhline(100 * cap, color="0.3", ls="--", lw=1, label=f"cap q₊ = {100 * cap:g} %")
    axes[0].plot(steps, [100 * row["vote_share"] for row in rows], color="C0", label="all rollouts")
    axes[0].plot(steps, [100 * row["accepted_vote_share"] for row in rows], color="C3", label="accepted rollouts")
    valid = [row for row in rows if "valid_vote_share" in row]
    axes[0].plot([row["step"] for row in valid], [100 * row["valid_vote_share"] for row in valid], "o", color="C0",
                 mfc="white", label="validation split")
    axes[0].set_ylabel("voting share, %")
    axes[0].set_title("all levels together")
    colours = plt.get_cmap("viridis")(np.linspace(0.9, 0.1, 5))
    for level in sorted({int(k) for row in rows for k in row["vote_share_by_level"]}):
        values = [100 * row["vote_share_by_level"].get(str(level), np.nan) for row in rows]
        axes[1].plot(steps, values, color=colours[level - 1], label=f"level {level}")
    axes[1].set_title("all rollouts, level by level")
    for axis in axes:
        axis.set_xlabel("IBPO step")
        axis.set_ylim(-3, 103)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
        axis.legend(frameon=False)
    figure.suptitle("Learning when to vote")
    figure.savefig(path, dpi=150)
    plt.close(figure)
