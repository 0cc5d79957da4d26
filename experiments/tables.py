"""results.md: a function for each of its sections, from report.py's numbers, with the paper's beside ours; what the
models are called in tables and figures, and the rungs of the ladder.

    python experiments/reproduce.py --report
"""

from plumbing import plots
from plumbing.statistics import Estimate, number, percent

CAPS = tuple(plots.CAPS)  # q+, %
IUB = plots.IUB  # the models of these caps
ALPHAS = (0.25, 0.5, 2)  # ASV-SFT-alpha, beside 1
PRICES = (0.02, 0.05, 0.07, 0.1)  # of length, in reward per 27 tokens (a one-trial response takes 29)
ORACLE_MODELS, ORACLE_PROBLEMS, ORACLE_SAMPLES = ["base", "sv-sft", *IUB], 400, 16
HEIGHTS = [*IUB, "random-50"]  # whose height over the efficiency boundary is split
LEARN_WHEN = ["asv-sft", *IUB]  # the start, and what has learned when to vote

TABLE_3 = {"base": "base", "base-greedy": "base, greedy", "sv-sft": "SV-SFT", "asv-sft": "ASV-SFT",
           **{f"asv-sft-{alpha:g}": f"ASV-SFT-{alpha:g}" for alpha in ALPHAS},
           **{f"ibpo-{cap}": f"IuB-{cap} %" for cap in CAPS}}
NAMES = {**TABLE_3, "rft": "RFT", "cgpo": "CGPO", "margin": "margin, no cap", "listing-50": "SciPy listing",
         **{f"random-{cap}": f"random groups, {cap} %" for cap in CAPS}, "grpo": "GRPO",
         **{f"length-penalty-{price}": f"length penalty {price}" for price in PRICES}, "adaptive-sc": "adaptive SC"}
PAPER = {  # Table 3: pass@1, gain, trials per response; the first one is derived from the others
    "base": ("51.26", "", "1"), "sv-sft": ("56.8", "5.54", "5.67"), "asv-sft": ("55.6", "4.34", "5.74"),
    "ibpo-25": ("54.2", "2.94", "2.24"), "ibpo-50": ("55.4", "4.14", "2.16"), "ibpo-75": ("57.0", "5.74", "4.32")}
LADDER = [  # name, the rung it is compared with, what is different from that
    ("asv-sft", None, "where all of them start"),
    ("rft", "asv-sft", "learns from all correct responses"),
    ("cgpo", "rft", "from one correct response per prompt"),
    ("margin", "cgpo", "from the group with the larger pass rate; no cap"),
    ("ibpo-50", "margin", "at most half of the accepted responses vote"),
    ("random-50", "ibpo-50", "the same cap, but random prompts vote"),
    ("listing-50", "ibpo-50", "the paper's SciPy listing as it behaves (D1-D5)"),
    *((f"length-penalty-{price}", "ibpo-50", f"policy gradient; 27 tokens cost {price}") for price in PRICES),
    ("grpo", "ibpo-50", "policy gradient, group-normalised; length is free"),
    ("adaptive-sc", "ibpo-50", "no training: separate base samples until three agree, at most eight")]

FIGURES = {
    "accuracy_vs_budget": "Accuracy against budget (Fig. 2a/b)", "training": "Voting share over training (Fig. 2c/d)",
    "by_level": "Where the budget goes (Fig. 2e/f)",
    "ladder_training": "The rungs of the ladder over training, means of five steps, on the seeds that all of them have",
    "voting": "Sequential and majority voting, per response and per token (Fig. 5)",
    "time": "Where the time of a step goes, on one core while the next one trains another model (Fig. 10)"}


def table(head: list[str], rows: list[list]) -> str:
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in [head, ["---"] * len(head), *rows]) + "\n"


def points(estimate: Estimate | None) -> str:
    return percent(estimate, digits=1)


def has(name: str, key: str) -> bool:
    """Whether a model has this quantity: separate samples are no votes."""
    return (name, key) != ("adaptive-sc", "vote_share")


def measured(row: dict) -> list[str]:
    """Seeds, accuracy, trials and tokens of a model."""
    return [row["seeds"], points(row["accuracy"]), number(row["trials"], 2), number(row["tokens"], 1)]


def votes(name: str, row: dict) -> list[str]:
    """The share of votes among the accepted responses and on the test split."""
    return [f"{100 * row['accepted_vote_share']:.1f}" if "accepted_vote_share" in row else "",
            f"{100 * row['vote_share']:.1f}" if has(name, "vote_share") else ""]


def near(name: str, row: dict, cap: float) -> str:
    """Whether the share of votes on the test split is within 10 points of the cap."""
    if not has(name, "vote_share"):
        return ""
    return "yes" if abs(100 * row["vote_share"] - cap) <= 10 else "no"


def boundary(result: dict, name: str, unit: str = "trials") -> str:
    return points((result["comparisons"][name] or {"boundary": {}})["boundary"].get(unit))


def each(values: list[float | None], scale: float = 1, digits: int = 1) -> str:
    """Numbers side by side, of levels or seeds; a dash for one that is missing."""
    return " / ".join("–" if value is None else f"{scale * value:.{digits}f}" for value in values)


def head(result: dict) -> str:
    seeds, missing = len(result["seeds"]), result["missing"]
    lines = "".join(["\n**Missing**\n\n"] * bool(missing) + [f"* {line}\n" for line in missing])
    return f"""# Results

Made by `python experiments/reproduce.py --report` from `records/`, on {result['problems'] // seeds:,} test problems
per seed, with the last checkpoints. A row is the mean over those of the {seeds} seeds that have its model (column
"seeds"), a difference over those that have both. In brackets are 95 % intervals, the wider of two: a bootstrap that
draws seeds, and for every draw problems of that seed (of one seed: problems alone); and a t interval over the seeds,
which with three seeds is 2.5 standard deviations of a seed either way. Differences are paired. How, and what they leave
out: `report.py`. By the logs, the steps of training alone took {result['training_hours']:.1f} hours of one process.
{lines}"""


def table_3(result: dict) -> str:
    models = result["models"]
    rows = [[NAMES[name], *measured(models[name]), points(models[name].get("gain")), *PAPER.get(name, ("", "", ""))]
            for name in TABLE_3 if name in models]
    return f"""## Table 3

ASV-SFT-α has α times as many one-trial examples; the IuB models start from α = 1. On the right are the paper's numbers,
for LLaMA-3.1-8B-Instruct on MATH500: **another model and other data**. Compare the order of the rows, not the numbers.

{table(["model", "seeds", "pass@1, %", "trials", "tokens", "gain, points", "paper: pass@1", "paper: gain",
        "paper: trials"], rows)}"""


def against_random(result: dict, name: str) -> str:
    models, other, estimate = result["models"], name.replace("ibpo", "random"), result["minus_random"][name]
    if not estimate:
        return ""
    pairs = zip(models[other]["by_seed"]["accuracy"], models[name]["by_seed"]["accuracy"])
    return f"{points(estimate)} ({models[other]['trials'][0]:.2f}, {sum(None not in pair for pair in pairs)})"


def caps(result: dict) -> str:
    models = result["models"]
    rows = [[NAMES[name], models[name]["seeds"], *votes(name, models[name]),
             boundary(result, name), boundary(result, name, "tokens"),
             points(against_single(result, name, "trials").get("minus")), against_random(result, name),
             points(result["minus_random_at_equal_trials"][name]), points(result["minus_next_cap"][name])]
            for name in IUB if name in models]
    return f"""## Each cap against its references

Differences are in accuracy, points. Votes accepted: the share among the accepted responses of the last ten steps.
Self-consistency: the best mixture of k = 1 to 8. Random groups: the same training under the same cap, but random
prompts vote. Next cap: the IuB model with the next larger cap. Equal trials: after votes of the one that spends more
are cut back at random to their first trial.

{table(["model", "seeds", "votes accepted, %", "votes on test, %", "− boundary in trials", "− boundary in tokens",
        "− self-consistency, equal trials", "− random groups (their trials, seeds)", "− random groups, equal trials",
        "− next cap, equal trials"], rows)}"""


def against_single(result: dict, name: str, unit: str) -> dict:
    """A model beside the best mixture of 1 to 8 samples at equal cost: minus, gain, gain_ratio; {} if it costs more."""
    return result["comparisons"][name]["self_consistency"].get(unit, {})


def gains(result: dict) -> str:
    rows = []
    for name in IUB:
        if name in result["models"]:
            found = [against_single(result, name, unit) for unit in ("trials", "tokens")]
            rows.append([NAMES[name], points(result["models"][name]["gain"]), *(cell for row in found for cell in (
                points(row.get("gain")), number(row.get("gain_ratio"), 2)))])
    return f"""## Twice the gain of self-consistency?

The paper's abstract says that IBPO gains about twice as much over the base as self-consistency does with the same
budget. Here, with the best mixture of k = 1 to 8 samples, a majority for each k; gains in points:

{table(["model", "gain", "self-consistency, equal trials", "ratio", "self-consistency, equal tokens", "ratio"],
       rows)}"""


def heights(result: dict) -> str:
    rows = []
    for name in HEIGHTS:
        if parts := result["height_parts"].get(name):
            trials, tokens = ([points(parts[unit][key]) for key in ("height", "levels", "rest")]
                              for unit in ("trials", "tokens"))
            rows.append([NAMES[name], *trials, *(points(parts[key]) for key in ("first", "best", "share")), *tokens])
    return f"""## What the height over the boundary is made of

Levels: what a model would gain if at each level it were on the line from the base to SV-SFT of that level, at what it
spends there. That is the gain of spending more on some levels than on others. Rest: how far it is above these lines, by
choosing within a level or by answering better. First trials: how much more often they are right than base samples,
which is part of the rest. Best by level: the height of the best allocation that knows only the level, with as many
trials (learned from half of the problems, scored on the others), and the model's height as a share of that. In points:

{table(["model", "− boundary in trials", "levels", "rest", "first trials", "best by level", "share of it, %",
        "− boundary in tokens", "levels", "rest"], rows)}"""


def adaptive(result: dict) -> str:
    rows = [[NAMES[name], result["models"][name]["seeds"], *(
                points(row[unit][key]) for key in ("one_rule", "best_rules") for unit in ("trials", "tokens"))]
            for name, row in sorted(result["minus_adaptive"].items())]
    rules = [[corner["consensus"], corner["max_trials"], f"{100 * corner['accuracy']:.1f}", f"{corner['trials']:.2f}",
              f"{corner['tokens']:.1f}"] for corner in result["adaptive"]["corners"]["trials"]]
    agreement = [[row["samples"], points(row["agree"]), percent(row["wrong"]), each(row["wrong_by_level"], 100, 2)]
                 for row in result["adaptive"]["agreement"]]
    return f"""## Adaptive self-consistency

It needs no training: separate samples of the base until some of them agree, up to a limit. Done on some problems, at
random, with a single sample on the others, it spends any budget. One rule: until three agree, at most eight, as a vote
does. Best rules: the best mixture of all rules that wait for two to four and take at most two to eight. Tokens are
those that are generated: separate samples also read the prompt again. Differences in accuracy, points:

{table(["model", "seeds", "− one rule, equal trials", "− one rule, equal tokens", "− best rules, equal trials",
        "− best rules, equal tokens"], rows)}
The best rules, mixed for a budget in between (over trials; over tokens they are
{"the same" if same_rules(result) else "others: see results.json"}):

{table(["until so many agree", "at most", "accuracy, %", "trials", "tokens"], rules)}
Why two are enough: how often so many base samples agree, and how often such an answer is wrong, from level 1 to 5.

{table(["samples", "all agree, %", "and are wrong, %", "by level, %"], agreement)}"""


def same_rules(result: dict) -> bool:
    return result["adaptive"]["corners"]["trials"] == result["adaptive"]["corners"]["tokens"]


def ladder(result: dict) -> str:
    models = result["models"]
    rows = [[NAMES[name], what, *measured(models[name]), *votes(name, models[name]), near(name, models[name], 50),
             boundary(result, name),
             f"{points(result['ladder'][name])} ({NAMES[other]})" if result["ladder"].get(name) else ""]
            for name, other, what in LADDER if name in models]
    return f"""## The ladder

The same prompts, samples and steps, q₊ = 50 % where a cap is heeded. Votes accepted: the share among responses with a
positive weight, last ten steps. The last column is what a rung adds in accuracy to the one in brackets; look at the
trials, too, or at the height above the efficiency boundary.

{table(["rung", "what it does", "seeds", "accuracy, %", "trials", "tokens", "votes accepted, %", "votes on test, %",
        "within 10 points of 50 %", "− boundary in trials", "− the rung in brackets"], rows)}"""


def clairvoyants(result: dict) -> str:
    kinds = "level", "blind", "seeing"
    rows = [[NAMES[name], row["seeds"], f"{row['trials']:.2f}", points(row["height"]),
             *(cell for kind in kinds for cell in (
                 f"{row[kind]['trials']:.2f}", points(row[kind]["height"]), points(row[kind]["share"])))]
            for name, row in result["oracles"].items()]
    return f"""## Oracles

How much of what an allocation of votes could gain over the efficiency boundary is gained. An oracle is given as many
trials as the IuB model, and takes single trials of the base and votes of SV-SFT. It knows (0) the level of a problem,
as the best by level above, on fewer problems; (i) the pass rates and trials of each problem; (ii) also whether the
first trial is right. It learns that from half of the samples and is scored on the others, and the other way round
({ORACLE_PROBLEMS} problems per seed at most, {ORACLE_SAMPLES} responses of each model to each). For (i) and (ii), rates
are predicted from eight samples and the level together; who knew them exactly would choose better still. Heights are in
points over the boundary at the model's trials (at the oracle's own, where it turns out to spend more).

{table(["model", "seeds", "trials", "height", "(0) trials", "(0) height", "share of (0), %", "(i) trials", "(i) height",
        "share of (i), %", "(ii) trials", "(ii) height", "share of (ii), %"], rows)}"""


def by_level(result: dict) -> str:
    rows = []
    for name, row in result["models"].items():
        levels = row["levels"].values()
        shares = [each([level[key][0] for level in levels], 100) if has(name, key) else ""
                  for key in ("vote_share", "first_trial", "accuracy")]
        per_vote = each([level["trials_per_vote"] for level in levels], digits=2) if row["vote_share"] else ""
        rows.append([NAMES[name], *shares, per_vote])
    return f"""## Level by level

From level 1 to level 5.

{table(["model", "votes, %", "first trial right, %", "accuracy, %", "trials per vote"], rows)}"""


def after_first(result: dict) -> str:
    models = result["models"]
    rows = [[NAMES[name], *(each([level[key] for level in models[name]["levels"].values()], 100)
                            for key in ("votes_after_right", "votes_after_wrong")),
             points(result["within_levels"][name])] for name in LEARN_WHEN if name in models]
    return f"""## What does it see?

The choice to vote is written after the first trial. The share of votes among well-formed responses, from level 1 to 5,
where the first trial is right and where it is wrong. And what is left within a level: votes on problems that the base
fails on more often than on the mean of their level, less those on the others, in points:

{table(["model", "votes after a right first trial, %", "votes after a wrong one, %", "harder problems of a level"],
       rows)}"""


def by_seed(result: dict) -> str:
    columns = ("accuracy", 100, 1), ("trials", 1, 2), ("vote_share", 100, 1)
    rows = [[NAMES[name], *(each(row["by_seed"][key], scale, digits) if has(name, key) else ""
                            for key, scale, digits in columns)] for name, row in result["models"].items()]
    return f"""## Seed by seed

{table(["model", "accuracy, %", "trials", "votes on test, %"], rows)}"""


SECTIONS = (head, table_3, caps, gains, heights, adaptive, ladder, clairvoyants, by_level, after_first, by_seed)


def text(result: dict) -> str:
    """results.md, without its figures."""
    return "\n".join(section(result) for section in SECTIONS)
