"""results/README.md: the results as a chapter. Its prose is chapter.md; [[names]] there are tables made here.

    python experiments/reproduce.py --report
"""

import re
from pathlib import Path

from experiments.tables import HEIGHTS, IUB, LADDER, LEARN_WHEN, NAMES, PAPER, against_single, boundary, each, table
from experiments.tables import points as interval
from plumbing.statistics import number

MAIN = ("base", "asv-sft", *IUB, "sv-sft")
PRICED_AGAINST = "length-penalty-0.1"  # answers everything with one trial in the format of votes


def present(result: dict, names: tuple | list, key: str = "models") -> list[str]:
    return [name for name in names if result[key].get(name)]


def main(result: dict) -> str:
    rows = []
    for name in present(result, MAIN):
        row = result["models"][name]
        rows.append([NAMES[name], interval(row["accuracy"]), interval(row.get("gain")), number(row["trials"], 2),
                     number(row["tokens"], 1), f"{100 * row['vote_share']:.1f}"])
    return table(["model", "accuracy, %", "gain", "trials", "tokens", "votes, %"], rows)


def paper(result: dict) -> str:
    rows = [[NAMES[name], interval(result["models"][name].get("gain")), PAPER[name][1],
             number(result["models"][name]["trials"], 2), PAPER[name][2]] for name in present(result, MAIN)]
    return table(["model", "gain", "paper: gain", "trials", "paper: trials"], rows)


def equal(result: dict) -> str:
    rows = [[NAMES[name], boundary(result, name), boundary(result, name, "tokens"),
             interval(against_single(result, name, "trials").get("minus")),
             interval(result["minus_random_at_equal_trials"][name])] for name in present(result, IUB)]
    return table(["model", "− boundary in trials", "− boundary in tokens", "− self-consistency", "− random groups"],
                 rows)


def ratio(result: dict) -> str:
    rows = [[NAMES[name], *(number(against_single(result, name, unit).get("gain_ratio"), 2)
                            for unit in ("trials", "tokens"))] for name in present(result, IUB)]
    return table(["model", "at equal trials", "at equal tokens"], rows)


def adaptive(result: dict) -> str:
    rows = []
    for name in present(result, IUB, "minus_adaptive"):
        row = result["minus_adaptive"][name]
        rows.append([NAMES[name], *(interval(row[unit][key]) for key in ("one_rule", "best_rules")
                                    for unit in ("trials", "tokens"))])
    return table(["model", "− three of eight, trials", "− three of eight, tokens", "− best rules, trials",
                  "− best rules, tokens"], rows)


def agreement(result: dict) -> str:
    rows = [[row["samples"], interval(row["agree"]), interval(row["wrong"])] for row in result["adaptive"]["agreement"]]
    return table(["samples", "all agree, %", "and are wrong, %"], rows)


def heights(result: dict) -> str:
    rows = []
    for name in present(result, HEIGHTS, "height_parts"):
        parts = result["height_parts"][name]
        rows.append([NAMES[name], *(interval(parts["trials"][key]) for key in ("height", "levels", "rest")),
                     interval(parts["best"])])
    return table(["model", "− boundary in trials", "levels", "rest", "best by level"], rows)


def sees(result: dict) -> str:
    rows = []
    for name in present(result, LEARN_WHEN):
        levels = result["models"][name]["levels"].values()
        rows.append([NAMES[name], *(each([level[key] for level in levels], 100)
                                    for key in ("votes_after_right", "votes_after_wrong")),
                     interval(result["within_levels"][name])])
    return table(["model", "votes after a right first trial, %", "after a wrong one, %", "harder problems"], rows)


def levels(result: dict) -> str:
    rows = []
    for name in present(result, MAIN):
        row = result["models"][name]
        of = row["levels"].values()
        per_vote = each([level["trials_per_vote"] for level in of], digits=2) if row["vote_share"] else ""
        rows.append([NAMES[name], *(each([level[key][0] for level in of], 100)
                                    for key in ("vote_share", "first_trial", "accuracy")), per_vote])
    return table(["model", "votes, %", "first trial right, %", "accuracy, %", "trials per vote"], rows)


def ladder(result: dict) -> str:
    rows = []
    for name, what in [(name, what) for name, _, what in LADDER if name in result["models"]]:
        row = result["models"][name]
        share = "" if name == "adaptive-sc" else f"{100 * row['vote_share']:.1f}"
        rows.append([NAMES[name], what, interval(row["accuracy"]), f"{row['trials'][0]:.2f}", share,
                     boundary(result, name)])
    return table(["rung", "what it does", "accuracy, %", "trials", "votes, %", "− boundary"], rows)


def prices(result: dict) -> str:
    """What 27 tokens may cost at each level before a vote no longer pays."""
    if not present(result, [PRICED_AGAINST]):
        return ""
    single, vote = (result["models"][name]["levels"] for name in (PRICED_AGAINST, "sv-sft"))
    cells = []
    for level in single:
        gain = vote[level]["accuracy"][0] - single[level]["accuracy"][0]
        cells.append(f"{27 * gain / (vote[level]['tokens'] - single[level]['tokens']):.3f}")
    return table([f"level {level}" for level in single], [cells])


def oracles(result: dict) -> str:
    rows = [[NAMES[name], f"{row['trials']:.2f}", interval(row["height"]),
             *(interval(row[kind]["height"]) for kind in ("level", "blind", "seeing"))]
            for name, row in result["oracles"].items()]
    return table(["model", "trials", "height", "knows the level", "and pass rates", "and the first trial"], rows)


TABLES = {f.__name__: f for f in (main, paper, equal, ratio, adaptive, agreement, heights, sees, levels, ladder, prices,
                                  oracles)}


def chapter(result: dict) -> str:
    """chapter.md with its tables."""
    prose = Path(__file__).with_suffix(".md").read_text()
    return re.sub(r"\[\[(\w+)\]\]", lambda found: TABLES[found[1]](result).strip(), prose)
