"""Tables and figures of `python reproduce.py`, from what it keeps in results/records.

Models are the last checkpoints: nothing is selected. (A "best" one, chosen by accuracy on validation problems, stands
beside the last of each cap.) A number is the mean over all seeds and test problems; every seed
has problems, training and samples of its own. An interval is the 95 % percentile interval of 2,000 resamples
(eval.Bootstrap): as many seeds as there are, drawn with replacement, and for every draw as many of its problems. All
models share the draws, so differences are paired. Two things that such an interval does not know: the base model is
the same in all seeds, so it says nothing of other bases; and few seeds look more alike than seeds are (three show two
thirds of the variance between seeds), so the table "Seed by seed" belongs to it.

A seed of which a model is missing is left out as long as there is a complete one; results.md says what is missing.

    python reproduce.py --report
"""

import gzip
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np

import baselines
import data
import eval as evaluation
import oracles
import report_plots
from records import Record

CAPS = (25, 50, 75)  # q+, %
ALPHAS = (0.25, 0.5, 2)  # ASV-SFT-alpha, beside 1
PRICES = (0.02, 0.05, 0.1)  # of length, in reward per one-trial response
ORACLE_MODELS, ORACLE_PROBLEMS, ORACLE_SAMPLES = ["base", "sv-sft", *(f"ibpo-{cap}" for cap in CAPS)], 400, 16

NAMES = {  # the rows of Table 3
    "base": "base", "sv-sft": "SV-SFT", "asv-sft": "ASV-SFT-1", **{f"asv-sft-{a:g}": f"ASV-SFT-{a:g}" for a in ALPHAS},
    **{f"ibpo-{cap}{best}": f"IuB-{cap} %{', best' * bool(best)}" for cap in CAPS for best in ("", "-best")}}
PAPER = {  # Table 3: pass@1, gain, trials per response; the first one is derived from the others
    "base": ("51.26", "", "1"), "sv-sft": ("56.8", "5.54", "5.67"), "asv-sft": ("55.6", "4.34", "5.74"),
    "ibpo-25": ("54.2", "2.94", "2.24"), "ibpo-50": ("55.4", "4.14", "2.16"), "ibpo-75": ("57.0", "5.74", "4.32")}
LADDER = [  # name, the rung it is compared with, what is different from that
    ("asv-sft", None, "ASV-SFT, where all of them start"),
    ("rft", "asv-sft", "RFT: learns from all correct responses"),
    ("cgpo", "rft", "CGPO: from one correct response per prompt"),
    ("margin", "cgpo", "from the kind with the larger pass rate; no cap"),
    ("ibpo-50", "margin", "IBPO: at most half of the accepted responses vote"),
    ("random-50", "ibpo-50", "the same cap, but random prompts vote"),
    ("listing-50", "ibpo-50", "the paper's SciPy listing as it behaves (D1-D5)"),
    *((f"length-penalty-{price}", "ibpo-50", f"policy gradient; length costs {price} per trial") for price in PRICES),
    ("grpo", "ibpo-50", "policy gradient, group-normalised; length is free"),
    ("adaptive-sc", "ibpo-50", "no training: separate base samples until three agree, at most eight")]

# ---------------------------------------------------------------------------------------------------------------------
# Records of all seeds


def load(path: Path) -> Record:
    """A record as reproduce.keep wrote it."""
    try:
        with np.load(path) as file:
            fields = {name: file[name].item() if file[name].ndim == 0 else file[name] for name in file.files}
        return Record(**{**fields, "questions": fields["questions"].tolist()})
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise data.DataError(f"{path}: not a kept record ({type(error).__name__}); delete it") from None


def pooled(folders: list[Path], names: list[str]) -> dict[str, Record]:
    """Each model's records as one: the problems of one seed after those of the other."""
    found = {}
    for name in names:
        parts = [load(folder / f"{name}.npz") for folder in folders]
        arrays = {key: np.concatenate([getattr(part, key) for part in parts])  # [seeds * n, ...]
                  for key, value in vars(parts[0]).items() if isinstance(value, np.ndarray)}
        found[name] = replace(parts[0], questions=[q for part in parts for q in part.questions], **arrays)
        levels = {tuple(np.bincount(part.levels)) for part in parts}
        if len(levels) > 1 or found[name].questions != found[names[0]].questions:
            raise data.DataError(f"{folders[0]}: {name} answered other problems than {names[0]}, or not as many of "
                                 "each level with every seed")
    return found


def adaptive(base: Record) -> Record:
    """Adaptive self-consistency with the base's eight samples, as a record of one response per problem."""
    right, trials = baselines.adaptive_self_consistency(base.answers, base.correct)  # bool[n], int[n]
    taken = np.arange(base.tokens.shape[1]) < trials[:, None]  # bool[n, 8]
    never = np.zeros_like(right)
    columns = dict(correct=right, trials=trials, tokens=(base.tokens * taken).sum(axis=1), extended=never,
                   malformed=never, first=base.first[:, 0], answers=base.answers[:, 0], consistent=right)  # [n] each
    # "asv": it adapts, so eval.summarise compares it with the boundary and with the other models that do
    return replace(base, name="adaptive-sc", condition="asv", **{key: v[:, None] for key, v in columns.items()})


def read_log(path: Path) -> list[dict]:
    """The steps of a training run."""
    try:
        return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    except (OSError, EOFError, ValueError) as error:
        raise data.DataError(f"{path}: not a log ({type(error).__name__}); delete it") from None


# ---------------------------------------------------------------------------------------------------------------------
# Numbers


def attained(records: dict[str, Record], seeds: int) -> dict:
    """What each IuB model gains over the base, what the oracles gain with as many trials, and the share of that.

    An oracle chooses by the even samples and is scored on the odd ones, then the other way round; both count half.
    The intervals take its choices as given.
    """
    base, sv, rows = records["base"], records["sv-sft"], {}
    bootstrap = evaluation.Bootstrap(len(base.levels), runs=seeds)
    even, odd = slice(0, None, 2), slice(1, None, 2)
    single = base.correct.mean(axis=1)  # float[n]
    for name in [name for name in records if name not in ("base", "sv-sft")]:
        own, budget = records[name].correct.mean(axis=1), float(records[name].trials.mean())
        rows[name] = {"trials": budget, "gain": bootstrap(lambda a, b: a - b, own, single)}
        for kind, oracle, first in (("blind", oracles.blind, base.correct), ("seeing", oracles.seeing, sv.first)):
            right, trials = 0, 0
            for known, unseen in ((even, odd), (odd, even)):
                known, unseen = (oracle(first[:, half], sv.correct[:, half], sv.trials[:, half])
                                 for half in (known, unseen))
                share = oracles.allocate(known, budget, rng=0)  # float[n]
                trials += oracles.score(share, unseen)[1] / 2
                right += (unseen.stop + share * (unseen.go_on - unseen.stop)) / 2  # float[n]; its mean is the score's
            gain = bootstrap(lambda o, b: o - b, right, single)
            part = None if gain[1] <= 0 else bootstrap(  # a share of nothing means nothing
                lambda a, o, b: (a - b) / np.maximum(o - b, 1e-9), own, right, single)
            rows[name][kind] = {"trials": trials, "gain": gain, "share": part}
    return rows


def voting_curves(records: dict[str, Record], seeds: int) -> dict:
    """Fig. 5: accuracy of the plurality of k = 1..16 responses, of the base and of SV-SFT, and tokens per response."""
    bootstrap = evaluation.Bootstrap(len(records["base"].levels), runs=seeds)
    return {name: {"tokens": float(records[name].tokens.mean()),
                   "accuracy": [bootstrap(lambda a: a, column) for column in records[name].consistent.T]}
            for name in ("base", "sv-sft")}


def numbers(kept: Path, models: list[str], seeds: int) -> tuple[dict, dict]:
    """Everything in results.json, from the records in `kept`; and the logs of training by model, one per seed."""
    found = {int(path.name[5:]): path for path in kept.glob("seed-*") if (path / "eval").is_dir()}
    lacking = {seed: [m for m in models if seed not in found or not (found[seed] / "eval" / f"{m}.npz").exists()]
               for seed in sorted({*found, *range(seeds)})}
    used = [seed for seed in lacking if not lacking[seed]] or sorted(found)[:1]
    if not used or {"base", "sv-sft", "asv-sft"} & set(lacking[used[0]]):
        raise data.DataError(f"{kept}: holds no seed with records of base, sv-sft and asv-sft")
    folders = [found[seed] for seed in used]
    missing = [f"seed {seed}: {', '.join(lacking[seed]) if seed in found else 'everything'}"
               for seed in lacking if lacking[seed]]

    records = pooled([folder / "eval" for folder in folders], [m for m in models if m not in lacking[used[0]]])
    records["adaptive-sc"] = adaptive(records["base"])
    bootstrap = evaluation.Bootstrap(len(records["base"].levels), runs=len(used))
    result = {"seeds": used, "missing": missing, **evaluation.summarise(list(records.values()), len(used))}

    def difference(a: str, b: str):
        """Accuracy of a minus that of b, paired; None if one of them is missing."""
        if a in records and b in records:
            return bootstrap(lambda x, y: x - y, *(records[name].correct.mean(axis=1) for name in (a, b)))

    logs = {name: [read_log(folder / "logs" / f"{name}.jsonl.gz") for folder in folders] for name in records
            if all((folder / "logs" / f"{name}.jsonl.gz").exists() for folder in folders)}
    for name, record in records.items():
        row = result["models"][name]
        row["by_seed"] = {key: column.reshape(len(used), -1).mean(axis=1).tolist() for key, column in (
            ("accuracy", record.correct), ("trials", record.trials), ("vote_share", record.extended))}
        if name in logs and "accepted_vote_share" in logs[name][0][0]:  # not an SFT log
            row["accepted_vote_share"] = float(np.mean(
                [step["accepted_vote_share"] for log in logs[name] for step in log[-10:]]))
    result["minus_random"] = {f"ibpo-{cap}": difference(f"ibpo-{cap}", f"random-{cap}") for cap in CAPS}
    result["ladder"] = {name: difference(name, other) for name, other, _ in LADDER if other}
    sampled = [name for name in ORACLE_MODELS if all((folder / "oracle" / f"{name}.npz").exists() for folder in folders)]
    if {"base", "sv-sft"} <= set(sampled):
        samples = pooled([folder / "oracle" for folder in folders], sampled)
        result["oracles"] = attained(samples, len(used))
        result["voting"] = voting_curves(samples, len(used))
    if sampled != ORACLE_MODELS:
        missing.append(f"the oracles' samples of {', '.join(n for n in ORACLE_MODELS if n not in sampled)}")
    return result, logs


# ---------------------------------------------------------------------------------------------------------------------
# Text


def table(head: list[str], rows: list[list]) -> str:
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in [head, ["---"] * len(head), *rows]) + "\n"


def percent(estimate) -> str:
    return "" if estimate is None else "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * x for x in estimate))


def number(estimate, digits: int) -> str:
    return "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*estimate, d=digits)


def text(result: dict) -> str:
    """results.md."""
    models, versus, seeds = result["models"], result["comparisons"], len(result["seeds"])

    def measured(name: str) -> list[str]:
        row = models[name]
        return [percent(row["accuracy"]), number(row["trials"], 2), number(row["tokens"], 1)]

    def votes(name: str) -> list[str]:  # among the accepted and on the test split
        row = models[name]
        return [f"{100 * row['accepted_vote_share']:.1f}" if "accepted_vote_share" in row else "",
                f"{100 * row['vote_share']:.1f}" if name != "adaptive-sc" else ""]

    def near(name: str, cap: float) -> str:
        return "" if name == "adaptive-sc" else "yes" if abs(100 * models[name]["vote_share"] - cap) <= 10 else "no"

    def against_random(name: str) -> str:
        other = name.replace("ibpo", "random")
        return f"{percent(result['minus_random'][name])} ({models[other]['trials'][0]:.2f})" if other in models else ""

    boundary = {name: percent(versus[name]["efficiency boundary"]) for name in versus if name in models}
    paper = [[NAMES[name], *measured(name), percent(models[name].get("gain")), *PAPER.get(name, ("", "", ""))]
             for name in NAMES if name in models]
    caps = [[NAMES[name], *votes(name), near(name, cap), f"{models[name]['trials_per_vote']:.2f}", boundary[name],
             percent(versus[name].get("self-consistency at equal trials")), against_random(name)]
            for cap in CAPS if (name := f"ibpo-{cap}") in models]
    ladder = [[name, what, *measured(name), *votes(name), near(name, 50), boundary[name],
               f"{percent(result['ladder'][name])} ({other})" if result["ladder"].get(name) else ""]
              for name, other, what in LADDER if name in models]
    attained = [[NAMES[name], f"{row['trials']:.2f}", percent(row["gain"]),
                 *(cell for kind in ("blind", "seeing") for cell in (
                     f"{row[kind]['trials']:.2f}", percent(row[kind]["gain"]), percent(row[kind]["share"])))]
                for name, row in result.get("oracles", {}).items()]
    single = [[name, *(" / ".join(f"{scale * value:.{digits}f}" for value in row["by_seed"][key])
                       for key, scale, digits in (("accuracy", 100, 1), ("trials", 1, 2), ("vote_share", 100, 1)))]
              for name, row in models.items()]
    missing = f"\n**Missing:** {'; '.join(result['missing'])}.\n" if result["missing"] else ""
    return f"""# Results

Made by `python reproduce.py --report` from `records/`: {seeds} seed{'s' * (seeds > 1)}, {result['problems'] // seeds:,}
test problems each, the last checkpoints. In brackets are 95 % intervals over seeds and problems: a bootstrap that draws
seeds, and for every draw problems of that seed; differences are paired. How, and what they leave out: `report.py`.
{missing}
## Table 3

ASV-SFT-α has α times as many one-trial examples; the IuB models start from α = 1. "Best": not the last checkpoint but
the one with the highest accuracy on 1,000 validation problems, of those at every tenth step that vote at most 5 points
more than q₊ there. On the right are the paper's numbers, for LLaMA-3.1-8B-Instruct on MATH500:
**another model and other data**. Compare the order of the rows, not the numbers.

{table(["model", "pass@1, %", "trials", "tokens", "gain, points", "paper: pass@1", "paper: gain", "paper: trials"],
       paper)}
## Each cap against its references

Differences are in accuracy, points. Random groups: the same training under the same cap, but random prompts vote.

{table(["model", "votes accepted, %", "votes on test, %", "within 10 points of q₊", "trials per vote",
        "minus efficiency boundary", "minus self-consistency at equal trials", "minus random groups (their trials)"],
       caps)}
## The ladder

The same prompts, samples and steps, q₊ = 50 % where a cap is heeded. Votes accepted: the share among responses with a
positive weight, last ten steps. The last column is what a rung adds in accuracy to the one in brackets; look at the
trials, too, or at the height above the efficiency boundary.

{table(["rung", "what it does", "accuracy, %", "trials", "tokens", "votes accepted, %", "votes on test, %",
        "within 10 points of 50 %", "minus efficiency boundary", "minus"], ladder)}
## Oracles

The share of the attainable that is attained. A clairvoyant has as many trials as the IuB model, single trials of the
base and votes of SV-SFT, and knows (i) each problem's pass rates and trials, (ii) also whether the first trial is
right. It learns that from half of the samples and is scored on the others, and the other way round ({ORACLE_PROBLEMS}
problems per seed at most, {ORACLE_SAMPLES} responses of each model to each). Scored trials may differ a little from the budget,
and are fewer where more would not help. More than 100 % means that the model's trials are better than the base's, not
only better allocated.

{table(["model", "trials", "gain", "(i) trials", "(i) gain", "share of (i), %", "(ii) trials", "(ii) gain",
        "share of (ii), %"], attained)}
## Seed by seed

{table(["model", "accuracy, %", "trials", "votes on test, %"], single)}"""


def report(results: Path, models: list[str], seeds: int) -> None:
    """results.json, results.md and the figures. models, seeds: what there should be, to say what is missing."""
    result, logs = numbers(results / "records", models, seeds)
    (results / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    (results / "results.md").write_text(text(result))
    report_plots.plot_budget(result, results / "accuracy_vs_budget.png")
    report_plots.plot_training({cap: logs.get(f"ibpo-{cap}") for cap in CAPS}, result, results / "training.png")
    report_plots.plot_levels(result, results / "by_level.png")
    report_plots.plot_ladder({name: logs[name] for name, *_ in LADDER if name in logs}, results / "ladder_training.png")
    report_plots.plot_voting(result.get("voting"), results / "voting.png")
    report_plots.plot_time(logs.get("ibpo-50"), results / "time.png")
    print(f"{results}/results.md: seeds {', '.join(map(str, result['seeds']))}"
          + "".join(f"\n    missing: {line}" for line in result["missing"]))
