"""results/README.md: the results as a chapter. Its prose is chapter.md, where [[NAME]] stands for a table made here.

A section none of whose tables has a row is left out. So is a paragraph, or a list item, that begins with
[[if MODEL ...]], unless there are results of all these models.

    python experiments/reproduce.py --report
"""

import re
from pathlib import Path

from experiments import score_report, tables
from experiments.tables import BUDGETED, LEARN_WHEN, NAMES, against_single, boundary, each, table, trials_per_vote
from experiments.tables import points as interval
from plumbing.statistics import number

FIRST_RUNGS = ("asv-sft", "ibpo-50", "ibpo-50-give-up", "adaptive-sc")
MAIN = ("base", "asv-sft", "ibpo-10", "ibpo-25", "ibpo-25-give-up", "ibpo-50", "ibpo-50-give-up", "sv-sft")


def present(result: dict, names: tuple | list, key: str = "models") -> list[str]:
    return [name for name in names if result[key].get(name)]


def called(result: dict, name: str) -> str:
    """The name of a model in a table, and of how many seeds it is, if not of all."""
    seeds, all_seeds = result["models"][name]["seeds"], len(result["seeds"])
    return NAMES[name] + f" ({seeds} of {all_seeds} seeds)" * (seeds < all_seeds)


def world(result: dict) -> str:
    base, sv = (result["models"][name]["kinds"] for name in ("base", "sv-sft"))
    problems = sum(row["problems"] for row in base.values())
    rows = [[kind, f"{100 * row['problems'] / problems:.0f}", *(f"{100 * row[key][0]:.1f}" for key in (
                "accuracy", "plurality")), f"{100 * sv[kind]['accuracy'][0]:.1f} at {sv[kind]['trials'][0]:.1f}",
             tables.worth(row, sv[kind])] for kind, row in base.items()]
    return table(["kind", "problems, %", "base, %", "plurality of 8, %", "vote, % at trials", "points per trial"], rows)


def consistency(result: dict) -> str:
    values = [f"{100 * value:.1f}" for value, *_ in result["self_consistency"]]
    return table(["samples", " / ".join(str(k) for k in range(1, len(values) + 1))], [["right, %", " / ".join(values)]])


def main(result: dict) -> str:
    rows = []
    for name in present(result, MAIN):
        row = result["models"][name]
        rows.append([called(result, name), interval(row["accuracy"]), interval(row.get("gain")),
                     number(row["trials"], 2), number(row["tokens"], 1), f"{100 * row['vote_share']:.1f}"])
    return table(["model", "accuracy, %", "gain", "trials", "tokens", "votes, %"], rows)


def paper(result: dict) -> str:
    rows = [[called(result, name), interval(result["models"][name].get("gain")), tables.PAPER[name][1],
             number(result["models"][name]["trials"], 2), tables.PAPER[name][2]]
            for name in present(result, MAIN) if name in tables.PAPER]
    return table(["model", "gain", "paper: gain", "trials", "paper: trials"], rows)


def multiples(result: dict) -> str:
    rows = [[called(result, name), *tables.multiples(result, name)] for name in present(result, LEARN_WHEN)]
    return table(["model", "boundary, trials", "by voting", "self-consistency, trials", "boundary, tokens",
                  "self-consistency, tokens"], rows)


def equal(result: dict) -> str:
    rows = [[called(result, name), boundary(result, name),
             interval(against_single(result, name, "trials").get("minus")), interval(result["minus_start"].get(name)),
             interval(result["minus_random_at_equal_trials"].get(name)), interval(result["minus_cgpo"].get(name))]
            for name in present(result, BUDGETED)]
    columns = ["model", "− boundary", "− self-consistency", "− ASV-SFT", "− random groups", "− CGPO"]
    shown = [i for i in range(6) if i < 4 or any(row[i] for row in rows)]  # the last ones need models not there yet
    return table([columns[i] for i in shown], [[row[i] for i in shown] for row in rows])


def adaptive(result: dict) -> str:
    rows = [[called(result, name), *map(interval, result["models"][name]["minus_adaptive"].values())]
            for name in present(result, LEARN_WHEN)]
    return table(["model", "equal trials", "equal tokens"], rows)


def agreement(result: dict) -> str:
    rows = [[row["samples"], interval(row["agree"]), interval(row["wrong"])] for row in result["adaptive"]["agreement"]]
    return table(["samples", "all agree, %", "of these wrong, %"], rows)


def kinds(result: dict, names: tuple = (*LEARN_WHEN, "random-50")) -> str:
    names = present(result, names)
    rows = [list(result["models"]["base"]["kinds"])] + [
        [f"{100 * row['vote_share'][0]:.1f}" for row in result["models"][name]["kinds"].values()] for name in names]
    head, *rows = [[*row[:-2], " / ".join(row[-2:])] for row in rows]  # six columns: the last two kinds share one
    return table(["votes, %", *head], [[called(result, name), *row] for name, row in zip(names, rows)])


def heights(result: dict) -> str:
    rows = []
    for name in present(result, tables.HEIGHTS, "height_parts"):
        parts = result["height_parts"][name]
        rows.append([called(result, name), *map(interval, parts["trials"].values()), interval(parts["best"])])
    return table(["model", "− boundary", "levels", "kinds", "rest", "best allocation"], rows)


def sees(result: dict) -> str:
    rows = []
    for name in present(result, LEARN_WHEN):
        row = result["models"][name]
        shown = [row["kinds"].get(kind, {}) for kind in ("medium", "hard")]  # {}: a tiny run without such problems
        votes = [each([kind.get(f"votes_after_{first}") for first in ("right", "wrong")], 100) for kind in shown]
        rows.append([called(result, name), *votes, *(interval(row["sees"][key]) for key in ("kind", "level"))])
    return table(["model", "votes on medium, %", "on hard, %", "wrong − right", "within levels alone"], rows)


def giving_up(result: dict) -> str:
    rows = []
    for name in present(result, [name for up in tables.GIVE_UP for name in (up.removesuffix("-give-up"), up)]):
        row = result["models"][name]
        hopeless, right = (row["kinds"]["hopeless"][key] for key in ("vote_share", "accuracy"))
        rows.append([called(result, name), interval(hopeless), interval(right), number(row["trials"], 2),
                     boundary(result, name), interval(result["minus_paper_rule"].get(name))])
    if not present(result, tables.GIVE_UP):
        return ""
    return table(["model", "votes on hopeless ones, %", "right on them, %", "trials", "− boundary", "− paper's rule"],
                 rows)


def cost(result: dict) -> str:
    rows = []
    for name in present(result, ["base", *LEARN_WHEN]):
        row = result["models"][name]
        shown = [row["kinds"].get(kind) for kind in ("medium", "hard", "trap")]  # None: as in `sees`
        right = [f"{100 * kind['first_trial'][0]:.1f}" if kind else "" for kind in shown]
        rows.append([called(result, name), *right, interval(row.get("first_minus_base")),
                     f"{100 * row['malformed']:.1f}"])
    return table(["model", "medium", "hard", "trap", "all − base, points", "malformed, %"], rows)


def levels(result: dict) -> str:
    rows = []
    for name in present(result, MAIN):
        row = result["models"][name]
        shares = [each([level[key][0] for level in row["levels"].values()], 100)
                  for key in ("vote_share", "first_trial", "accuracy")]
        rows.append([called(result, name), *shares, trials_per_vote(row)])
    return table(["model", "votes, %", "first trial right, %", "accuracy, %", "trials per vote"], rows)


def ladder(result: dict) -> str:
    if not {name for name, *_ in tables.LADDER} & {*result["models"]} - {*FIRST_RUNGS}:
        return ""  # nothing to compare them with
    rows = []
    for name, what in [(name, what) for name, _, what in tables.LADDER if name in result["models"]]:
        row = result["models"][name]
        share = "" if name == "adaptive-sc" else f"{100 * row['vote_share']:.1f}"
        rows.append([called(result, name), what, interval(row["accuracy"]), f"{row['trials'][0]:.2f}", share,
                     boundary(result, name)])
    return table(["method", "what it does", "accuracy, %", "trials", "votes, %", "− boundary"], rows)


def oracles(result: dict) -> str:
    rows = [[called(result, name), f"{row['trials']:.2f}", interval(row["height"]),
             *(interval(row[kind]["height"]) for kind in ("group", "blind", "seeing"))]
            for name, row in result["oracles"].items()]
    return table(["model", "trials", "height", "knows level and kind", "and pass rates", "and the first trial"], rows)


def with_other(result: dict, name: str) -> list[tuple[str, dict]]:
    """(textbook, numbers) of both textbooks; none if one of them does not have the model."""
    both = [("first", result), ("second", result["others"].get("textbook-1", {"models": {}}))]
    return both if all(name in numbers["models"] for _, numbers in both) else []


def textbooks(result: dict) -> str:
    rows = []
    for name in MAIN[1:]:
        for textbook, numbers in with_other(result, name):
            row = numbers["models"][name]
            times = over = ""
            if name in LEARN_WHEN:
                times = number(row["times_boundary"]["trials"], 2)
                over = " / ".join(interval(row["minus_adaptive"][unit]) for unit in ("trials", "tokens"))
            rows.append([f"{called(numbers, name)}, {textbook}", interval(row["gain"]), number(row["trials"], 2), times,
                         over, f"{100 * row['malformed']:.1f}"])
    return table(["model, textbook", "gain", "trials", "times the boundary", "− adaptive SC, trials / tokens",
                  "malformed, %"], rows)


def textbook_kinds(result: dict) -> str:
    rows = []
    for what, name, key in (("base: right", "base", "accuracy"), ("IuB-25 %: votes", "ibpo-25", "vote_share"),
                            ("IuB-50 %: votes", "ibpo-50", "vote_share")):
        for textbook, numbers in with_other(result, name):
            shares = [f"{100 * row[key][0]:.1f}" for row in numbers["models"][name]["kinds"].values()]
            rows.append([f"{what}, {textbook}", *shares[:-2], " / ".join(shares[-2:])])
    kinds = list(result["models"]["base"]["kinds"])
    return table(["%", *kinds[:-2], " / ".join(kinds[-2:])], rows)


UNINFORMED = ("asv-sft", "random-25", "cgpo", "ibpo-10", "ibpo-25", "ibpo-25-give-up", "ibpo-50")


def uninformed(result: dict) -> str:
    rows, numbers = [], result["others"].get("uninformed-start", {"models": {}})
    for name in present(numbers, UNINFORMED):
        row = numbers["models"][name]
        rows.append([called(numbers, name), interval(row["gain"]), number(row["trials"], 2),
                     interval(numbers["minus_start"].get(name)), interval(row["first_minus_base"]),
                     number(row["times_boundary"]["voting"], 2)])
    return table(["model", "gain", "trials", "− ASV-SFT", "first trials − base", "by voting"], rows)


def uninformed_kinds(result: dict) -> str:
    numbers = result["others"].get("uninformed-start")
    return kinds(numbers, UNINFORMED) if numbers else ""


def score(result: dict) -> str:
    return score_report.trials(result["score"]["models"], cost=False) if result["score"] else ""


def score_costs(result: dict) -> str:
    shown = ["own_first", "consistency_trials", "adaptive_trials", "ibpo-25", "ibpo-50"]
    return score_report.costs(result["score"]["models"], shown) if result["score"] else ""


def score_kinds(result: dict) -> str:
    shown = ["easy", "medium", "hard", "trap", "hopeless"]  # misread ones are never right
    return score_report.by_kind(result["score"]["models"], shown) if result["score"] else ""


TABLES = {f.__name__: f for f in (world, consistency, main, paper, multiples, equal, adaptive, agreement, kinds,
                                  heights, sees, giving_up, cost, levels, ladder, oracles, textbooks,
                                  textbook_kinds, uninformed, uninformed_kinds, score, score_costs,
                                  score_kinds)}
TABLE = re.compile(r"\[\[(\w+)\]\]")
IF = re.compile(r"^(\* )?\[\[if ([^\]]+)\]\] (.*\n(?:(?!\* |\n).*\n)*)", re.MULTILINE)  # up to a blank line or an item


def chapter(result: dict, prose: str = None, others: dict = None) -> str:
    """chapter.md with its tables. prose: another text than that; others: the results of report.OTHERS, by name."""
    result = {**result, "others": others or {}}
    prose = Path(__file__).with_suffix(".md").read_text() if prose is None else prose
    kept, there = [], {*result["models"]}
    prose = IF.sub(lambda found: (found[1] or "") + found[3] if {*found[2].split()} <= there else "", prose)
    for section in re.split(r"^(?=## )", prose, flags=re.MULTILINE):
        made = {name: TABLES[name](result).strip() for name in TABLE.findall(section)}
        if any(made.values()) or not made:
            kept.append(TABLE.sub(lambda found, made=made: made[found[1]], section))
    return re.sub(r"\n{3,}", "\n\n", "".join(kept))
