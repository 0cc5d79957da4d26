"""The plots: accuracy against budget (Fig. 2a/b), where the budget goes (Fig. 2e/f), and training (Fig. 2c).

Everything is drawn from numbers on disk: eval.py's summary, which comes from saved responses, and a stage's log.jsonl.

    python eval.py --redraw runs/builtin/eval
"""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files only: no window, no display needed
import matplotlib.patheffects  # noqa: E402
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.transforms import Bbox  # noqa: E402
from numpy.typing import ArrayLike  # noqa: E402

# Okabe and Ito's colours, and one blue from light to dark for the caps: they can be told apart with colour-blind eyes
# and in grey. Nothing is told by colour alone: markers, dashes and labels say the same.
CAPS = {10: ("#6fb7e9", "o"), 25: ("#1f78b4", "s"), 50: ("#0b3c6f", "D")}  # q+, %: colour, marker
IUB = [f"ibpo-{cap}" for cap in CAPS]
GIVE_UP = [f"{name}-give-up" for name in IUB[1:]]
ORANGE, GREEN, GREY, PINK, YELLOW = "#d55e00", "#009e73", "0.45", "#cc79a7", "#e69f00"
LOOKS = {"base": dict(color="black", marker="o", ls=":"), "sv-sft": dict(color=ORANGE, marker="^", ls="--"),
         "asv-sft": dict(color=ORANGE, marker="v", ls=":"), "adaptive-sc": dict(color=GREEN, marker="P", ls=":"),
         **{name: dict(color=colour, marker=marker, lw=2) for name, (colour, marker) in zip(IUB, CAPS.values())}}
LOOKS["ibpo"] = LOOKS["ibpo-50"]  # the committed checkpoint
LOOKS |= {name: dict(color=PINK, marker=marker, ls="--") for name, (_, marker) in zip(GIVE_UP, [*CAPS.values()][1:])}
LOOKS |= {f"random-{cap}": dict(color=GREY, marker=marker, mfc="white") for cap, (_, marker) in CAPS.items()}
OTHERS = [dict(color=colour, marker=marker, ls="-.") for colour, marker in (
    (GREEN, "X"), (PINK, "P"), (YELLOW, "<"), (GREY, ">"), ("#f0e442", "p"), (PINK, "h"), (GREEN, "8"))]
STYLE = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
         "axes.axisbelow": True, "legend.frameon": False, "savefig.dpi": 200, "figure.constrained_layout.use": True}


HALO = [matplotlib.patheffects.withStroke(linewidth=2.5, foreground="white")]  # of text that may cross a line


def reach(value: ArrayLike, low: ArrayLike, high: ArrayLike) -> np.ndarray:
    """Lengths of an error bar, [2, n]; a resampled mean may miss an exact one by a rounding error."""
    return np.maximum(np.atleast_2d(np.array([value - low, high - value])).reshape(2, -1), 0)


def looks(models: dict) -> dict[str, dict]:
    """Label, colour, marker and line of each model, the same in all plots of a summary; greedy ones are left out."""
    names = [name for name in models if not name.endswith("-greedy")]
    other = iter(OTHERS * len(names))
    return {name: {"label": models[name].get("label", name), **(LOOKS[name] if name in LOOKS else next(other))}
            for name in names}


def keep_apart(figure: plt.Figure) -> None:
    """Move the labels of points down where they would cover a point or another label."""
    figure.draw_without_rendering()  # now it is known where they are
    for axis in figure.axes:
        placed = [Bbox.from_extents(x - 5, y - 5, x + 5, y + 5)
                  for x, y in axis.transData.transform(np.reshape([label.xy for label in axis.texts], (-1, 2)))]
        for label in sorted(axis.texts, key=lambda label: -label.xy[1]):  # the highest stays highest
            while any(label.get_window_extent().overlaps(other) for other in placed):
                x, y = label.get_position()
                label.set_position((x, y - 2))
            placed.append(label.get_window_extent())


def save(figure: plt.Figure, path: Path, axis: plt.Axes, columns: int) -> None:
    """With one legend for all panels, that of this axis, where it covers no data."""
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper center", ncols=columns)
    figure.savefig(path)
    plt.close(figure)


def plot_budget(summary: dict, path: Path) -> None:
    """Accuracy against trials and against tokens (Fig. 2a/b). summary: of eval.summarise.

    Error bars in accuracy are those of the gain over the base, which are shorter: the problems are the same.
    """
    models, base, sv = summary["models"], summary["base"], summary["sv"]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True)
        for axis, unit in zip(axes, ("trials", "tokens")):
            if base and summary["self_consistency"]:
                value = [100 * row[0] for row in summary["self_consistency"]]  # [k]
                x = np.arange(1, len(value) + 1) * models[base][unit][0]
                axis.plot(x, value, color=GREY, marker=".", ls="")
                axis.plot(x, 100 * np.array(summary["mixed_self_consistency"]), color=GREY, lw=1,
                          label=f"self-consistency: 1 to {len(value)} samples (dots), best mixture")
            if base and sv:
                ends = models[base], models[sv]
                axis.plot([row[unit][0] for row in ends], [100 * row["accuracy"][0] for row in ends], lw=1, ls="--",
                          color="black", label="efficiency boundary")
            if corners := summary.get("adaptive", {}).get("corners", {}).get(unit):
                x, y = [row[unit] for row in corners], [100 * row["accuracy"] for row in corners]
                last = {row["consensus"]: i for i, row in enumerate(corners) if i > 0}  # of rules that are alike
                axis.plot(x, y, color=GREEN, ls=":", marker=".", markevery=list(last.values()),
                          label="adaptive SC: until so many agree, best mixture")
                for consensus, i in last.items():
                    axis.annotate(f"{consensus} agree", (x[i], y[i]), (7, -9), textcoords="offset points",
                                  fontsize=8, color=GREEN, path_effects=HALO)
            for name, style in looks(models).items():
                (x, x_low, x_high), y = models[name][unit], 100 * models[name]["accuracy"][0]
                gain, low, high = (100 * value for value in models[name].get("gain") or (0, 0, 0))
                label = style.pop("label")
                axis.errorbar(x, y, xerr=reach(x, x_low, x_high), yerr=reach(gain, low, high), elinewidth=1.2, ms=8,
                              zorder=3, **{**style, "ls": ""})
                axis.annotate(label, (x, y), (8, -3), textcoords="offset points", fontsize=9, color=style["color"],
                              path_effects=HALO, zorder=4)
            axis.set_xlabel(f"{unit} per response")
        axes[0].set_ylabel("accuracy, %")
        keep_apart(figure)
        save(figure, path, axes[1], columns=4)


def plot_levels(summary: dict, path: Path, by: str = "levels", title: str = "level of difficulty") -> None:
    """Voting share, trials and accuracy by level (Fig. 2e/f): where the budget goes. The last panel alone if nobody
    votes.

    by: what the rows of the models are divided by; title: what that is called. Where it is known, the gain over the
    base is shown instead of the accuracy: the models differ by much less than the levels do.
    """
    models = summary["models"]
    levels = list(dict.fromkeys(level for row in models.values() for level in row[by]))
    voting = {name for name, row in models.items() if row["vote_share"]}
    gaining = {name for name, row in models.items() if all("gain" in row[by][level] for level in levels)}
    panels = [("vote_share", 100, "voting share, %", voting), ("trials", 1, "trials per response", voting)]
    panels = panels if voting else []
    panels += [("gain", 100, "accuracy minus the base's, points", gaining) if gaining else
               ("accuracy", 100, "accuracy, %", set(models))]
    unordered = by != "levels"  # points side by side, without lines
    with plt.rc_context(STYLE):
        figure, (axes,) = plt.subplots(1, len(panels), figsize=(4 * len(panels), 4), squeeze=False)
        for axis, (key, scale, quantity, names) in zip(axes, panels):
            shown = {name: style for name, style in looks(models).items() if name in names}
            for i, (name, style) in enumerate(shown.items()):
                rows = np.array([models[name][by][level][key] for level in levels])  # [levels] or [levels, 3]
                value, low, high = scale * rows.T if rows.ndim == 2 else [rows] * 3
                x = np.arange(len(levels)) + (i - (len(shown) - 1) / 2) * (0.75 if unordered else 0.3) / len(shown)
                axis.errorbar(x, value, yerr=reach(value, low, high), ms=7, mec="white", mew=0.8, elinewidth=1.2,
                              **(style | {"ls": ""} if unordered else style))
            axis.set_title(quantity)
            axis.set_xlabel(title)
            axis.set_xticks(np.arange(len(levels)), levels, rotation=30 if unordered else 0)
            if key == "gain":
                axis.axhline(0, color="black", lw=1, ls=":")
            elif scale == 100:
                axis.set_ylim(-3, 103)
        save(figure, path, max(axes, key=lambda axis: len(axis.containers)), columns=5)  # one that shows all models


GROUPS = {  # of voting.py, the cheapest at the bottom
    "regular": ("one trial", "#d9e2ec"), "short": ("short vote", "#7fb3d5"), "extended": ("long vote", "#1f4e79"),
    "malformed": ("malformed", "#c0392b")}


def plot_groups(summary: dict, path: Path) -> None:
    """The share of each group by level, stacked: a panel for each model that votes. No file if none does."""
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
        for group, (label, colour) in GROUPS.items():
            share = np.array([100 * row["levels"][level]["shares"][group] for level in levels])
            axis.bar(levels, share, bottom=below, width=0.86, color=colour, label=label)
            for level, value, bottom in zip(levels, share, below):
                if value >= 7:  # below that there is no room for the number
                    axis.text(level, bottom + value / 2, f"{value:.0f}", ha="center", va="center", fontsize=9,
                              color="white" if group in ("extended", "malformed") else "0.15")
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
    axes[0].plot(steps, [100 * row["vote_share"] for row in rows], color="C0", label="all responses")
    axes[0].plot(steps, [100 * row["accepted_vote_share"] for row in rows], color="C3", label="accepted responses")
    valid = [row for row in rows if "valid_vote_share" in row]
    axes[0].plot([row["step"] for row in valid], [100 * row["valid_vote_share"] for row in valid], "o", color="C0",
                 mfc="white", label="validation split")
    axes[0].set_ylabel("voting share, %")
    axes[0].set_title("all levels together")
    colours = plt.get_cmap("viridis")(np.linspace(0.9, 0.1, 5))
    for level in sorted({int(k) for row in rows for k in row["vote_share_by_level"]}):
        values = [100 * row["vote_share_by_level"].get(str(level), np.nan) for row in rows]
        axes[1].plot(steps, values, color=colours[level - 1], label=f"level {level}")
    axes[1].set_title("all responses, level by level")
    for axis in axes:
        axis.set_xlabel("IBPO step")
        axis.set_ylim(-3, 103)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
        axis.legend(frameon=False)
    figure.suptitle("Learning when to vote")
    figure.savefig(path, dpi=150)
    plt.close(figure)
