"""results.md: a function for each of its sections, from report.py's numbers, with the paper's beside ours; what the
models are called in tables and figures, and the rungs of the ladder.

    python experiments/reproduce.py --report
"""

from plumbing import plots
from plumbing.settings import Settings
from plumbing.statistics import Estimate, number, percent

CAPS = tuple(plots.CAPS)  # q+, %
IUB = plots.IUB  # the models of these caps
GIVE_UP = plots.GIVE_UP  # the same, giving up where nothing is right (D8)
RANDOM = ["random-25", "random-50"]
BUDGETED = [*IUB, *GIVE_UP]
ALPHAS = (2,)  # ASV-SFT-alpha, beside 1
PRICES = (0.02, 0.05)  # of length, in reward per one-trial response
ORACLE_PROBLEMS, ORACLE_SAMPLES = 400, 16
ORACLE_MODELS = ["base", "sv-sft", "ibpo-50"]  # all the oracles need, and who votes how often (notebooks)
HEIGHTS = ["asv-sft", *BUDGETED, "random-50"]  # whose height over the efficiency boundary is split
LEARN_WHEN = ["asv-sft", *BUDGETED]  # the start, and what has learned when to vote


def cap_of(name: str) -> int:
    """q+ of a model that is trained under a cap, %."""
    return int(name.split("-")[1])


RANDOM_OF = {name: f"random-{cap_of(name)}" for name in BUDGETED if f"random-{cap_of(name)}" in RANDOM}
AT_EQUAL_TRIALS = {  # with what a model is compared so: name -> the other
    "minus_start": dict.fromkeys([*BUDGETED, *RANDOM, "cgpo"], "asv-sft"), "minus_random_at_equal_trials": RANDOM_OF,
    "minus_cgpo": dict.fromkeys(BUDGETED, "cgpo"),
    "minus_next_cap": dict(zip(IUB, IUB[1:])),
    "minus_paper_rule": {name: name.removesuffix("-give-up") for name in GIVE_UP}}

TABLE_3 = {"base": "base", "base-greedy": "base, greedy", "sv-sft": "SV-SFT", "asv-sft": "ASV-SFT",
           **{f"asv-sft-{alpha:g}": f"ASV-SFT-{alpha:g}" for alpha in ALPHAS},
           **{name: f"IuB-{cap_of(name)} %" for name in IUB},
           **{name: f"IuB-{cap_of(name)} %, giving up" for name in GIVE_UP}}
NAMES = {**TABLE_3, "sft": "SFT", "rft": "RFT", "cgpo": "CGPO", "margin": "margin, no cap",
         "listing-50": "SciPy listing", "grpo": "GRPO",
         **{name: f"random groups, {cap_of(name)} %" for name in RANDOM},
         **{f"length-penalty-{price}": f"length penalty {price}" for price in PRICES}, "adaptive-sc": "adaptive SC"}
PAPER = {  # Table 3 but for its 75 %: pass@1, gain, trials per response; the first one is derived from the others
    "base": ("51.26", "", "1"), "sv-sft": ("56.8", "5.54", "5.67"), "asv-sft": ("55.6", "4.34", "5.74"),
    "ibpo-25": ("54.2", "2.94", "2.24"), "ibpo-50": ("55.4", "4.14", "2.16")}
LADDER = [  # name, the rung it is compared with, what is different from that
    ("asv-sft", None, "where all of them start"),
    ("sft", "asv-sft", "learns from all responses, right or wrong"),
    ("rft", "sft", "learns from all correct responses"),
    ("cgpo", "asv-sft", "learns from one correct response per prompt"),
    ("margin", "cgpo", "from the group with the larger pass rate; no cap"),
    ("ibpo-50", "cgpo", "at most half of the accepted responses vote, where that gains most"),
    ("random-50", "ibpo-50", "the same cap, but random prompts vote"),
    ("ibpo-50-give-up", "ibpo-50", "learns to stop where nothing is right (D8)"),
    ("listing-50", "ibpo-50", "the paper's SciPy listing as it behaves (D1-D5)"),
    *((f"length-penalty-{price}", "ibpo-50", f"policy gradient; {Settings.length_unit:g} tokens cost {price}")
      for price in PRICES),
    ("grpo", "ibpo-50", "policy gradient, group-normalised; length is free"),
    ("adaptive-sc", "ibpo-50", "no training: separate base samples until three agree, at most eight")]

SCORE = {"score-sft": "warm start", "score-1": "after stage I", "score-2": "after stage II",
         "score-2-no-stage-1": "without stage I", "score-2-no-bonus": "without the bonus"}  # of SCoRe

FIGURES = {
    "accuracy_vs_budget": "Accuracy against budget (Fig. 2a/b)", "training": "Voting share over training (Fig. 2c/d)",
    "by_level": "Where the budget goes (Fig. 2e/f)", "by_kind": "Where the budget goes, by kind of problem",
    "pass_rates": "How many problems the base solves so often",
    "ladder_training": "The rungs of the ladder over training, means of five steps, of those that have all seeds",
    "voting": "Sequential and majority voting, per response and per token (Fig. 5)",
    "time": "Where the time of a step goes, on one core while the next one trains another model (Fig. 10)"}


def table(head: list[str], rows: list[list]) -> str:
    """"" without rows."""
    lines = [f"| {' | '.join(map(str, row))} |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines) + "\n" if rows else ""


def points(estimate: Estimate | None) -> str:
    return percent(estimate, digits=1)


def label(name: str) -> str:
    """What a model is called; evaluations of one's own may hold others."""
    return NAMES.get(name, name)


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
per seed, with the last checkpoints. A row is the mean over those of the seeds ({seeds} here) that have its model
(column "seeds"), a difference over those that have both. In brackets are 95 % intervals, the wider of two: a bootstrap
that draws seeds, and for every draw problems of that seed (of one seed: problems alone); and a t interval over the
seeds, which with three seeds is 2.5 standard deviations of a seed either way. Differences are paired. How, and what
they leave out: `report.py`. By the logs, the steps of training alone took {result['training_hours']:.1f} hours of one
process.
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


def caps(result: dict) -> str:
    models = result["models"]
    rows = [[NAMES[name], models[name]["seeds"], *votes(name, models[name]),
             boundary(result, name), boundary(result, name, "tokens"),
             points(against_single(result, name, "trials").get("minus")),
             *(points(result[key].get(name)) for key in AT_EQUAL_TRIALS)]
            for name in BUDGETED if name in models]
    return f"""## Each cap against its references

Differences are in accuracy, points. Votes accepted: the share among the accepted responses of the last ten steps.
Self-consistency: the best mixture of k = 1 to 8. The others are models, at equal trials: votes of the one that spends
more are cut back at random to their first trial. ASV-SFT: where training starts. Random groups: the same training under
the same cap, but random prompts vote. CGPO: without a cap, and without margins. Next cap: the IuB model with the next
larger cap. Paper's rule: giving up minus not giving up, under the same cap.

{table(["model", "seeds", "votes accepted, %", "votes on test, %", "− boundary in trials", "− boundary in tokens",
        "− self-consistency", "− ASV-SFT", "− random groups", "− CGPO", "− next cap", "− paper's rule"], rows)}"""


def against_single(result: dict, name: str, unit: str) -> dict:
    """A model beside the best mixture of 1 to 8 samples at equal cost: minus, gain, gain_ratio; {} if it costs more."""
    return result["comparisons"][name]["self_consistency"].get(unit, {})


def multiples(result: dict, name: str) -> list[str]:
    """A gain as a multiple of the references': boundary, by voting and self-consistency in trials, both in tokens."""
    times = result["models"][name]["times_boundary"]
    single = {unit: against_single(result, name, unit).get("gain_ratio") for unit in ("trials", "tokens")}
    return [number(cell, 2) for cell in (times.get("trials"), times.get("voting"), single["trials"],
                                         times.get("tokens"), single["tokens"])]


def gains(result: dict) -> str:
    rows = [[label(name), points(row["gain"]), *multiples(result, name)]
            for name, row in result["models"].items() if "times_boundary" in row]
    return f"""## How many times the gain of the references?

The paper's abstract says that IBPO gains about twice as much over the base as self-consistency does with the same
budget; by its Table 3, IuB-50 gains three times what the efficiency boundary does at 2.16 trials. Here: the gain in
points, and as a multiple of what the boundary gains, and of what the best mixture of k = 1 to 8 samples gains, a
majority for each k. By voting: what a model's votes add to its own first trials, as a multiple of what the boundary
gains; the rest of its gain is that first trials are right more often. No number: the reference may gain nothing.

{table(["model", "gain", "× boundary, equal trials", "of that by voting", "× self-consistency, equal trials",
        "× boundary, equal tokens", "× self-consistency, equal tokens"], rows)}"""


def heights(result: dict) -> str:
    rows = []
    for name in HEIGHTS:
        if parts := result["height_parts"].get(name):
            trials, tokens = ([points(parts[unit][key]) for key in ("height", "levels", "kinds", "rest")]
                              for unit in ("trials", "tokens"))
            rows.append([NAMES[name], *trials, *(points(parts[key]) for key in ("best", "share")), *tokens])
    return f"""## What the height over the boundary is made of

Levels: what a model would gain if at each level it were on the line from the base to SV-SFT of that level, at what it
spends there. That is the gain of spending more on some levels than on others. Kinds: what it would gain beyond that on
the lines of each level and kind. Rest: how far it is above these lines, by choosing within a kind or by answering
better. Best: the height of the best allocation that knows level and kind and nothing else, with as many trials (learned
from half of the problems, scored on the others), and the model's height as a share of that. In points:

{table(["model", "− boundary in trials", "levels", "kinds", "rest", "best by level and kind", "share of it, %",
        "− boundary in tokens", "levels", "kinds", "rest"], rows)}"""


def adaptive(result: dict) -> str:
    rows = [[label(name), row["seeds"], *(points(row["minus_adaptive"][unit]) for unit in ("trials", "tokens"))]
            for name, row in result["models"].items() if "minus_adaptive" in row and name != "adaptive-sc"]
    rules = [[corner["consensus"], corner["max_trials"], f"{100 * corner['accuracy']:.1f}", f"{corner['trials']:.2f}",
              f"{corner['tokens']:.1f}"] for corner in result["adaptive"]["corners"]["trials"]]
    agreement = [[row["samples"], points(row["agree"]), percent(row["wrong"]), each(row["wrong_by_level"], 100, 2)]
                 for row in result["adaptive"]["agreement"]]
    return f"""## Adaptive self-consistency

It needs no training: separate samples of the base until some of them agree, up to a limit. Done on some problems, at
random, with a single sample on the others, it spends any budget. The reference is the best mixture of all rules that
wait for two to four equal answers and take at most two to eight samples. Tokens are those that are generated: separate
samples also read the prompt again. Differences in accuracy, points:

{table(["model", "seeds", "− best rules, equal trials", "− best rules, equal tokens"], rows)}
The best rules, mixed for a budget in between (over trials; over tokens they are
{"the same" if same_rules(result) else "others: see results.json"}):

{table(["until so many agree", "at most", "accuracy, %", "trials", "tokens"], rules)}
How often so many base samples agree, and how often such an answer is wrong, from level 1 to 5:

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
    kinds = "group", "blind", "seeing"
    rows = [[NAMES[name], row["seeds"], f"{row['trials']:.2f}", points(row["height"]),
             *(cell for kind in kinds for cell in (
                 f"{row[kind]['trials']:.2f}", points(row[kind]["height"]), points(row[kind]["share"])))]
            for name, row in result["oracles"].items()]
    return f"""## Oracles

How much of what an allocation of votes could gain over the efficiency boundary is gained. An oracle is given as many
trials as the IuB model, and takes single trials of the base and votes of SV-SFT. It knows (0) the level and the kind of
a problem, as the best above, on fewer problems; (i) the pass rates and trials of each problem; (ii) also whether the
first trial is right. It learns that from half of the samples and is scored on the others, and the other way round
({ORACLE_PROBLEMS} problems per seed at most, {ORACLE_SAMPLES} responses of each model to each). For (i) and (ii), rates
are predicted from eight samples and from level and kind together; who knew them exactly would choose better still.
Heights are in points over the boundary at the model's trials (at the oracle's own, where it turns out to spend more).

{table(["model", "seeds", "trials", "height", "(0) trials", "(0) height", "share of (0), %", "(i) trials", "(i) height",
        "share of (i), %", "(ii) trials", "(ii) height", "share of (ii), %"], rows)}"""


def trials_per_vote(row: dict) -> str:
    """Of each level, side by side; "" where a model does not vote."""
    trials = [level["trials_per_vote"] or None for level in row["levels"].values()]  # 0: no votes on this level
    return each(trials, digits=2) if any(trials) else ""


def by_level(result: dict) -> str:
    rows = []
    for name, row in result["models"].items():
        levels = row["levels"].values()
        shares = [each([level[key][0] for level in levels], 100) if has(name, key) else ""
                  for key in ("vote_share", "first_trial", "accuracy")]
        rows.append([NAMES[name], *shares, trials_per_vote(row)])
    return f"""## Level by level

From level 1 to level 5.

{table(["model", "votes, %", "first trial right, %", "accuracy, %", "trials per vote"], rows)}"""


def of_kinds(row: dict, key: str, scale: float = 100, digits: int = 1) -> str:
    """A quantity of a model, of each kind, side by side."""
    values = [kind[key] for kind in row["kinds"].values()]
    return each([value[0] if isinstance(value, (list, tuple)) else value for value in values], scale, digits)


def world(result: dict) -> str:
    base, sv = result["models"][result["base"]]["kinds"], result["models"].get(result["sv"], {}).get("kinds")
    problems = sum(row["problems"] for row in base.values())
    rows = [[kind, f"{100 * row['problems'] / problems:.1f}", points(row["accuracy"]), points(row["plurality"]),
             *([points(sv[kind]["accuracy"]), number(sv[kind]["trials"], 2), worth(row, sv[kind])] if sv else [""] * 3)]
            for kind, row in base.items()]
    curve = each([value for value, *_ in result["self_consistency"]], 100)
    rates = [[kind, *(f"{100 * share:.1f}" for share in shares)] for kind, shares in result["pass_rates"].items()]
    total = [f"{100 * sum(shares):.1f}" for shares in zip(*result["pass_rates"].values())]
    return f"""## What voting is worth, kind by kind

Kinds are those of `data.py`. A single base sample; the plurality of eight; the vote of SV-SFT, its trials, and what
each trial beyond the first one adds, in points:

{table(["kind", "of the problems, %", "base, %", "plurality of 8, %", "SV-SFT, %", "trials", "points per trial"], rows)}
Self-consistency with 1 to {len(result["self_consistency"])} samples, %: {curve}

How often the base is right among its {len(total) - 1} samples, % of all problems:

{table(["right ones", *range(len(total))], [["all", *total], *rates])}"""


def worth(base: dict, sv: dict) -> str:
    """What a trial beyond the first adds to the problems of a kind, in points."""
    gain, trials = 100 * (sv["accuracy"][0] - base["accuracy"][0]), sv["trials"][0] - 1
    return f"{round(gain / trials, 1) + 0.0:.1f}" if trials else ""  # + 0.0: never "-0.0"


def by_kind(result: dict) -> str:
    rows = [[label(name), of_kinds(row, "vote_share"), of_kinds(row, "accuracy"), of_kinds(row, "first_trial"),
             of_kinds(row, "trials", 1, 2)] for name, row in result["models"].items() if name != "adaptive-sc"]
    kinds = list(result["models"][result["base"]]["kinds"])
    by_level = [[label(name), *(each(list(row["kinds"][kind]["votes_by_level"].values()), 100, 0) for kind in kinds)]
                for name, row in result["models"].items() if "sees" in row and row["vote_share"]]
    return f"""## Kind by kind

{", ".join(kinds)}:

{table(["model", "votes, %", "accuracy, %", "first trial right, %", "trials"], rows)}
Votes by level within a kind, %, from the lowest level that has the kind to level 5:

{table(["model", *kinds], by_level)}"""


def sees(result: dict) -> str:
    rows = [[label(name), *(of_kinds(row, key) for key in ("votes_after_right", "votes_after_wrong")),
             *(points(row["sees"][key]) for key in ("kind", "level", "harder"))]
            for name, row in result["models"].items() if "sees" in row and row["vote_share"]]
    return f"""## What does it see?

The choice to vote is written after the first trial. The share of votes among well-formed responses, kind by kind, where
the first trial is right and where it is wrong; and the second minus the first in points, within a level and kind, and
within a level alone. (The last one mixes kinds: first trials on easy problems are right and get no votes, which raises
it; those on misread and hopeless ones are wrong and get few, which lowers it.) Harder: votes on problems that the base
fails on more often than on the mean of their level and kind, less those on the others, in points.

{table(["model", "votes after a right first trial, %", "votes after a wrong one, %",
        "wrong − right, within level and kind", "within level", "harder problems of a level and kind"], rows)}"""


def cost(result: dict) -> str:
    rows = [[label(name), points(row["first_minus_base"]), f"{100 * row['malformed']:.2f}",
             "" if row["rule_kept"] is None else f"{100 * row['rule_kept']:.1f}"]
            for name, row in result["models"].items() if "sees" in row and name != "adaptive-sc"]
    return f"""## What it costs

How much more often first trials are right than base samples, in points; malformed responses, which count as wrong; and
how many of the responses of several trials are well-formed: they stop where the rule says, and state its answer.

{table(["model", "first trials − base", "malformed, %", "rule kept, %"], rows)}"""


def by_seed(result: dict) -> str:
    columns = ("accuracy", 100, 1), ("trials", 1, 2), ("vote_share", 100, 1)
    rows = [[NAMES[name], *(each(row["by_seed"][key], scale, digits) if has(name, key) else ""
                            for key, scale, digits in columns)] for name, row in result["models"].items()]
    return f"""## Seed by seed

{table(["model", "accuracy, %", "trials", "votes on test, %"], rows)}"""


SECTIONS = (head, table_3, world, gains, caps, adaptive, by_kind, sees, heights, cost, ladder, clairvoyants, by_level,
            by_seed)


def text(result: dict) -> str:
    """results.md, without its figures."""
    return "\n".join(section(result) for section in SECTIONS)
