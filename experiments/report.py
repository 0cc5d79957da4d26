"""Tables and figures of `python experiments/reproduce.py`, from what it keeps in results/records.

Models are the last checkpoints: nothing is selected. A number is the mean over all seeds and test problems. Every seed
has training, samples and problems of its own (but two seeds share two thirds of those of level 1, up to the order of
factors). An interval is the wider of two (plumbing/statistics.py): the 95 % percentile interval of 2,000 resamples, of
as many seeds as there are, drawn with replacement, and for every draw of as many of its problems; and Student's t
interval over the seeds, of which three look more alike than seeds are. All models share the draws, so differences are
paired. The base model is the same in all seeds, so an interval says nothing of other bases.

A row is made of the seeds that have its model, and compared with others on these seeds alone; its column "seeds" says
how many. results.md says what is missing.

    python experiments/reproduce.py --report
"""

import functools
import gzip
import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

import data
import voting
from eval import Evaluation, over_line, over_model, summarise
from experiments import by_kind, oracles, score_report, tables
from experiments import figures as seed_figures
from experiments.chapter import chapter
from experiments.references import AdaptiveHull, height_parts, last_taken, rotations
from experiments.tables import BUDGETED, FIGURES, HEIGHTS, IUB, LADDER, NAMES, ORACLE_MODELS, SCORE, text
from plumbing import plots
from plumbing.records import Record, joined, read_kept
from plumbing.statistics import Estimate

# ---------------------------------------------------------------------------------------------------------------------
# Records of all seeds


class Kept:
    """results/records: seed-N/eval/MODEL.npz, seed-N/oracle/MODEL.npz, seed-N/logs/MODEL.jsonl.gz."""

    def __init__(self, folder: Path, models: list[str]):
        self.folder = folder
        found = {int(path.name[5:]): path for path in folder.glob("seed-*") if path.name[5:].isdecimal()}
        self.seeds = {seed: found[seed] for seed in sorted(found)}  # number -> folder
        self.models = models
        self.load = functools.cache(read_kept)
        self.evaluation = functools.cache(self.evaluation)  # models are compared in many ways, with the same draws
        self.analysis = functools.cache(self.analysis)

    def having(self, kind: str, names: list[str]) -> tuple[int, ...]:
        """The seeds that have all of these models."""
        return tuple(seed for seed, folder in self.seeds.items()
                     if all((folder / kind / f"{name}.npz").exists() for name in names))

    def records(self, kind: str, seeds: tuple[int, ...], names: list[str]) -> dict[str, Record]:
        """Each model's records as one: the problems of one seed after those of the other."""
        found = {}
        for name in names:
            parts = [self.load(self.seeds[seed] / kind / f"{name}.npz") for seed in seeds]
            found[name] = joined(parts)
            if found[name].questions != found[names[0]].questions:
                raise data.DataError(f"{self.seeds[seeds[0]] / kind}: {name} answered other problems than {names[0]}")
        return found

    def evaluation(self, kind: str, seeds: tuple[int, ...]) -> Evaluation:
        """All models that have these seeds, and in "eval" adaptive self-consistency."""
        records = self.records(kind, seeds, [name for name in self.models if {*seeds} <= {*self.having(kind, [name])}])
        if kind == "eval":
            records["adaptive-sc"] = adaptive(records["base"])
        return Evaluation(list(records.values()), len(seeds))

    def analysis(self, seeds: tuple[int, ...]) -> "Analysis":
        """All that is computed from these models' answers to the test problems."""
        evaluation = self.evaluation("eval", seeds)
        hull, split = AdaptiveHull(evaluation), [name for name in HEIGHTS if name in evaluation.records]
        return Analysis(evaluation, summarise(evaluation), hull, by_kind.describe(evaluation, hull),
                        height_parts(evaluation, split, by_kind.groups_of(hull.base)))

    def logs(self, seeds: tuple[int, ...], name: str) -> list[list[dict]]:
        """The steps of its training, for each seed; empty if one of them is missing."""
        files = [self.seeds[seed] / "logs" / f"{name}.jsonl.gz" for seed in seeds]
        return [read_log(file) for file in files] if all(file.exists() for file in files) else []


class Analysis(NamedTuple):
    """The numbers of the models that share some seeds."""

    evaluation: Evaluation
    summary: dict
    hull: AdaptiveHull
    described: dict[str, dict]
    height_parts: dict[str, dict]


def adaptive(base: Record) -> Record:
    """Adaptive self-consistency with the base's eight samples, as a record: response j starts with sample j."""
    every, columns = np.arange(len(base.answers)), []
    for seen, right, tokens in rotations(base):
        last = last_taken(seen, voting.CONSENSUS, voting.MAX_TRIALS)  # int[n]
        columns.append((right[every, last], last + 1, tokens[every, last]))
    right, trials, tokens = (np.stack(column, axis=1) for column in zip(*columns))  # [n, m] each
    # "asv": it adapts, so eval.summarise compares it with the boundary and with the other models that do
    return replace(base, name="adaptive-sc", condition="asv", correct=right, trials=trials, tokens=tokens,
                   group=np.zeros_like(trials), valid=np.ones_like(right), consistent=right.astype(float))


def read_log(path: Path) -> list[dict]:
    """The steps of a training run."""
    try:
        lines = gzip.decompress(path.read_bytes()).splitlines()
        if not lines:
            raise ValueError("no steps")
        return [json.loads(line) for line in lines]
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise data.DataError(f"{path}: not a log ({type(error).__name__}); delete it") from None


# ---------------------------------------------------------------------------------------------------------------------
# Numbers


def attained(test: Evaluation, samples: Evaluation, name: str) -> dict:
    """The height of a model trained under a cap over the efficiency boundary, beside the oracles' with as many trials.

    test: everybody's answers to the test problems, for the model's height; samples: 16 responses of base and SV-SFT to
    each of fewer problems, for the oracles'. An oracle chooses by the even samples and is scored on the odd ones, then
    the other way round; both count half. Its height is over the boundary at the model's trials, or at its own where it
    turns out to spend more. The intervals take its choices as given.
    """
    bootstrap, mean, sv_mean = samples.bootstrap, samples.means["base"], samples.means["sv-sft"]
    base, sv = samples.records["base"], samples.records["sv-sft"]
    groups = by_kind.groups_of(base)  # int[n]
    halves = slice(0, None, 2), slice(1, None, 2)
    trials = test.means[name].trials  # float[draws]
    height = over_line(test.means[name], test.means["base"], test.means["sv-sft"], "trials")  # float[draws]
    row = {"trials": float(trials[0]), "height": bootstrap.difference(height)}
    for kind, oracle, first in (("group", oracles.blind, base.correct), ("blind", oracles.blind, base.correct),
                                ("seeing", oracles.seeing, sv.first)):
        outcome = np.zeros((len(groups), 2))  # float[n, 2]: right, trials
        for known, unseen in (halves, halves[::-1]):
            known, unseen = ((first[:, half], sv.correct[:, half], sv.trials[:, half]) for half in (known, unseen))
            rates = oracle(*known, groups=groups)
            if kind == "group":
                rates = oracles.by_group(oracle(*known), groups, of=groups)
            outcome += oracles.outcome(oracles.allocate(rates, row["trials"], rng=0), oracle(*unseen)) / 2
        right, spent = bootstrap.means(outcome)  # float[draws] each
        best = over_line(mean._replace(correct=right, trials=np.maximum(spent, trials)), mean, sv_mean, "trials")
        row[kind] = {"trials": float(spent[0]), "height": bootstrap.difference(best),
                     "share": bootstrap.ratio(height, best)}
    return row


def voting_curves(evaluation: Evaluation) -> dict:
    """Fig. 5: accuracy of the plurality of k = 1..16 responses, of the base and of SV-SFT, and tokens per response."""
    return {name: {"tokens": float(evaluation.means[name].tokens[0]),
                   "accuracy": [evaluation.bootstrap.share(curve) for curve in evaluation.means[name].consistent]}
            for name in ("base", "sv-sft")}


def what_is_missing(kept: Kept, models: list[str], seeds: int) -> list[str]:
    """Of the seeds that there are or should be, the models without a record: a line for seeds that lack the same."""
    lacking = {}  # what is missing -> seeds
    for seed in sorted({*kept.seeds, *range(seeds)}):
        names = [name for name in models if seed not in kept.having("eval", [name])]
        samples = [name for name in ORACLE_MODELS if name not in names and seed not in kept.having("oracle", [name])]
        lacks = names + [f"the oracles' samples of {name}" for name in samples]
        if lacks:
            lacking.setdefault("everything" if names == models else ", ".join(lacks), []).append(str(seed))
    return [f"seed{'s' * (len(of) > 1)} {', '.join(of)}: {lacks}" for lacks, of in lacking.items()]


def numbers(kept: Kept, models: list[str], seeds: int) -> tuple[dict, dict]:
    """Everything in results.json; and the logs of training by model, one per seed."""
    references = ["base", "sv-sft", "asv-sft"]  # a seed counts if it has them: with them every row is compared
    seeds_of = {name: kept.having("eval", [*references, name]) for name in models}
    used = seeds_of["base"]
    if not used:
        raise data.DataError(f"{kept.folder} holds no seed with {', '.join(references)}")
    seeds_of["adaptive-sc"] = used
    result = {"seeds": used, "missing": what_is_missing(kept, models, seeds), "models": {}, "comparisons": {},
              "height_parts": {}, "oracles": {}}
    logs = {name: kept.logs(of, name) for name, of in seeds_of.items() if of}
    logs |= {name: kept.logs(of, name) for name in SCORE if (of := kept.having("eval", [name]))}
    result["training_hours"] = sum(
        value for runs in logs.values() for log in runs for step in log
        for key, value in step.items() if key.startswith("seconds")) / 3600

    for name, of in seeds_of.items():
        if not of:
            continue
        found = kept.analysis(of)
        result["models"][name] = {"label": NAMES[name], **found.summary["models"][name], **found.described[name],
                                  **seed_by_seed(found.evaluation.records[name], logs[name], of, used)}
        result["comparisons"][name] = found.summary["comparisons"].get(name)
        if name in found.height_parts:
            result["height_parts"][name] = found.height_parts[name]
    found = kept.analysis(used)
    result |= {key: found.summary[key] for key in (
        "problems", "base", "sv", "self_consistency", "mixed_self_consistency")}
    result |= {"adaptive": found.hull.describe(), "pass_rates": by_kind.pass_rates(found.hull.base)}

    for key, others in tables.AT_EQUAL_TRIALS.items():
        result[key] = {name: difference(kept, seeds_of, name, other, equal_trials=True)
                       for name, other in others.items()}
    result["ladder"] = {name: difference(kept, seeds_of, name, other) for name, other, _ in LADDER if other}

    result["score"] = beside_score(kept, tuple(seed for seed in kept.having("eval", [*SCORE]) if seed in used))
    sampled = kept.having("oracle", ["base", "sv-sft"])
    if of := tuple(seed for seed in sampled if seed in used):
        result["voting"] = voting_curves(kept.evaluation("oracle", of))
    for name in BUDGETED:
        if of := tuple(seed for seed in sampled if seed in seeds_of.get(name, ())):
            result["oracles"][name] = {
                "seeds": len(of), **attained(kept.evaluation("eval", of), kept.evaluation("oracle", of), name)}
    return result, logs


def beside_score(kept: Kept, of: tuple[int, ...]) -> dict:
    """SCoRe's models on these seeds: numbers of score_report.py; {} without seeds."""
    beside = [name for name in IUB if {*of} <= {*kept.having("eval", [name])}]
    if not of:
        return {}
    evaluation = Evaluation(list(kept.records("eval", of, ["base", *SCORE, *beside]).values()), len(of))
    return {"seeds": len(of), "models": score_report.numbers(evaluation, "base", beside)}


def difference(kept: Kept, seeds_of: dict, name: str, other: str, equal_trials: bool = False) -> Estimate | None:
    """Accuracy of a model minus that of another, on the seeds that have both; None if there is none."""
    of = tuple(seed for seed in seeds_of.get(name, ()) if seed in seeds_of.get(other, ()))
    if not of:
        return None
    evaluated = kept.evaluation("eval", of)
    return evaluated.bootstrap.difference(
        over_model(evaluated.means[name], evaluated.means[other], equal_trials))


def seed_by_seed(record: Record, logs: list[list[dict]], of: tuple[int, ...], used: tuple[int, ...]) -> dict:
    """The number of seeds that have the model, its means on each, and votes among the responses it learned from."""
    row = {"seeds": len(of), "by_seed": {}}
    for key, column in ("accuracy", record.correct), ("trials", record.trials), ("vote_share", record.extended):
        means = dict(zip(of, column.reshape(len(of), -1).mean(axis=1).tolist()))
        row["by_seed"][key] = [means.get(seed) for seed in used]
    if logs and "accepted_vote_share" in logs[0][0]:  # not an SFT log
        row["accepted_vote_share"] = float(np.mean([step["accepted_vote_share"] for log in logs for step in log[-10:]]))
    return row


OTHERS = "textbook-1", "uninformed-start"  # folders in results/: a base with another textbook, another start of IBPO


def others_in(results: Path) -> dict[str, dict]:
    """The numbers of OTHERS, as far as they are there."""
    files = {name: results / name / "results.json" for name in OTHERS}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}


def report(results: Path, models: list[str], seeds: int, prose: bool = True) -> None:
    """results.json, results.md, the figures and, with its prose, the chapter, which is about the committed base.

    models, seeds: what there should be, to say what is missing.
    """
    result, logs = numbers(Kept(results / "records", models), models, seeds)
    for name in FIGURES:  # one that is no longer drawn would be of other records
        (results / f"{name}.png").unlink(missing_ok=True)
    (results / "results.json").write_text(json.dumps(result, indent=1) + "\n")

    def only(names: list[str]) -> dict:
        return {**result, "models": {name: result["models"][name] for name in names if name in result["models"]}}

    full = [name for name, row in result["models"].items() if row["seeds"] == result["models"]["base"]["seeds"]]
    plots.plot_budget(only([name for name in full if name in ("base", "sv-sft", "asv-sft", *IUB)]),
                      results / "accuracy_vs_budget.png")  # of fewer seeds, accuracies would not be comparable
    shown = only(["base", "sv-sft", "asv-sft", *BUDGETED])
    plots.plot_levels(shown, results / "by_level.png")
    plots.plot_levels(shown, results / "by_kind.png", "kinds", "kind of problem")
    seed_figures.plot_pass_rates(result["pass_rates"], results / "pass_rates.png")
    seed_figures.plot_training({name: logs[name] for name in BUDGETED if logs.get(name)}, result,
                               results / "training.png")
    seed_figures.plot_ladder({name: logs[name] for name, *_ in LADDER if name in full and logs.get(name)}, result,
                             results / "ladder_training.png")
    seed_figures.plot_voting(result.get("voting"), results / "voting.png")
    seed_figures.plot_time(logs.get("ibpo-50"), results / "time.png")
    figures = [f"{title}:\n\n![{title}]({name}.png)\n" for name, title in FIGURES.items()
               if (results / f"{name}.png").exists()]
    pairs = [score_report.text(result["score"]["models"], result["score"]["seeds"])] if result["score"] else []
    (results / "results.md").write_text("\n".join([text(result), *pairs, "## Figures\n", *figures]))
    if prose:
        (results / "README.md").write_text(chapter(result, others=others_in(results)))
    print(f"{results}/results.md: seeds {', '.join(map(str, result['seeds']))}"
          + "".join(f"\n    missing: {line}" for line in result["missing"]))
