"""Accuracy against measured budget: Table 3 and Fig. 2 of the paper, with confidence intervals.

    python eval.py                                         # the committed checkpoints on the built-in test split
    python eval.py DIR DIR ... --data math500.jsonl --max-new-tokens 4096      # other models, other problems
    python eval.py --server URL --model NAME NAME=asv ...  # models behind a server of the OpenAI protocol
    python eval.py --redraw runs/builtin/eval              # table and plots again, from the saved records

Choose between models, checkpoints or settings by `--split validation`, and report the choice on the test split. Every
model answers the same problems. A voting model answers once. A single-trial model answers --samples times (its row is
their mean), for self-consistency, the plurality of k = 1..K separate samples, and once more greedily. The raw responses
are saved, one record per model; all numbers and plots are computed from the records.

Budget is measured, in trials and in tokens per response. References at equal budget:
    efficiency boundary   the straight line from the base model (1 trial) to SV-SFT, which always votes (Fig. 2a)
    self-consistency      the plurality of k separate base samples, k trials; k may differ between problems, at random
    thinned controls      another model, with random votes replaced by their first trial until both use equal trials
Intervals are 95 %, by a bootstrap over problems (plumbing/statistics.py); differences are paired.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

import data
import sample
import voting
from plumbing import distributed, printing, records, server
from plumbing.files import fingerprint
from plumbing.records import Record, is_record_of, keep_all, make_record, print_examples, read_kept, read_record
from plumbing.signals import exit_code, stop_on_signals
from plumbing.statistics import Bootstrap

DIRECTORIES = ["checkpoints/base", "checkpoints/sv-sft", "checkpoints/ibpo"]  # what is evaluated by default
ADAPTIVE = ("asv", "modes")  # the prompts that let a model decide how much to spend

# ---------------------------------------------------------------------------------------------------------------------
# Models on the same problems, and their references. A "mean" is an array of statistics.Bootstrap.means: float[draws].


class Means(NamedTuple):
    """Means of a record over its problems."""

    correct: np.ndarray  # float[draws]
    first: np.ndarray  # float[draws]
    trials: np.ndarray  # float[draws]
    tokens: np.ndarray  # float[draws]
    extended: np.ndarray  # float[draws]
    consistent: np.ndarray  # float[m, draws]


class Evaluation:
    """Records of several models on the same problems, and their resampled means. runs: as in Bootstrap."""

    def __init__(self, records: list[Record], runs: int = 1):
        self.records = {r.name: r for r in records}
        self.bootstrap = Bootstrap(len(records[0].levels), runs)
        columns = [np.column_stack([getattr(r, key).mean(axis=1) for key in Means._fields[:-1]] + [r.consistent])
                   for r in records]  # float[n, 5 + m] each
        ends = np.cumsum([column.shape[1] for column in columns])[:-1]
        means = np.split(self.bootstrap.means(np.concatenate(columns, axis=1)), ends)  # float[5 + m, draws] each
        self.means = {r.name: Means(*rows[:5], consistent=rows[5:]) for r, rows in zip(records, means)}

    def find(self, condition: str, greedy: bool = False) -> str | None:
        """The name of the first model that answers under this prompt."""
        return next((r.name for r in self.records.values() if (r.condition, r.greedy) == (condition, greedy)), None)

    def by_level(self) -> dict[int, "Evaluation"]:
        """The evaluation of each level's problems."""
        records = list(self.records.values())
        levels = records[0].levels  # int[n]
        return {level: Evaluation([r.at(levels == level) for r in records], self.bootstrap.runs)
                for level in sorted(set(levels.tolist()))}


def on_boundary(trials: ArrayLike, base: ArrayLike, sv: ArrayLike, sv_trials: ArrayLike) -> np.ndarray:
    """Accuracy of the efficiency boundary at a number of trials: the line through (1, base) and (sv_trials, sv)."""
    with np.errstate(divide="ignore", invalid="ignore"):  # without a vote there is no line: no finite number
        return base + (trials - 1) / (sv_trials - 1) * (sv - base)


def over_line(model: Means, base: Means, end: Means, unit: str) -> np.ndarray:
    """Accuracy of a model minus that of the straight line from base to `end` at equal cost, in "trials" or "tokens".

    The line is what base and `end` attain, each on a random part of the problems. A base sample is the unit of cost.
    """
    cost, end_cost = getattr(model, unit) / getattr(base, unit), getattr(end, unit) / getattr(base, unit)
    return model.correct - on_boundary(cost, base.correct, end.correct, end_cost)


def best_mixture(costs: ArrayLike, accuracies: ArrayLike, budget: ArrayLike) -> np.ndarray:
    """The best accuracy of a random mixture of ways to answer at a given mean cost: the upper hull of their points.

    What is left of the budget is not spent.
    costs, accuracies: float[ways] or [ways, draws]. budget: a number or float[draws]; at least the lowest cost.
    """
    costs, accuracies = np.asarray(costs, float), np.asarray(accuracies, float)
    budget = np.maximum(budget, costs.min(axis=0))
    best = np.where(costs <= budget, accuracies, -np.inf).max(axis=0)
    for i in range(len(costs)):
        for j in range(len(costs)):
            between = (costs[i] < budget) & (budget < costs[j])
            part = np.where(between, (budget - costs[i]) / np.where(between, costs[j] - costs[i], 1), 0)
            best = np.maximum(best, np.where(between, accuracies[i] + part * (accuracies[j] - accuracies[i]), -np.inf))
    return best


def at_trials(curve: ArrayLike, trials: ArrayLike) -> np.ndarray:
    """The most that self-consistency attains with a mean number of trials: curve[k-1] is the accuracy of k samples.

    k may differ between problems, at random. (k = 2 alone gains nothing: of two different answers the first counts.)
    """
    k = np.arange(1, len(curve) + 1).reshape(-1, *[1] * (np.ndim(curve) - 1))  # [K] or [K, 1]
    return best_mixture(np.broadcast_to(k, np.shape(curve)), curve, trials)


def thinned(trials: ArrayLike, right: ArrayLike, first: ArrayLike, own_trials: ArrayLike) -> np.ndarray:
    """Accuracy of a model whose votes are cut back to their first trial at random until `trials` are left."""
    keep = np.where(own_trials > trials, (trials - 1) / np.maximum(own_trials - 1, 1e-9), 1)
    return keep * right + (1 - keep) * first


def over_model(model: Means, other: Means, equal_trials: bool = False) -> np.ndarray:
    """Accuracy of a model minus that of another.

    equal_trials: after votes of the one that spends more are cut back, as in `thinned`.
    """
    if not equal_trials:
        return model.correct - other.correct
    trials = np.minimum(model.trials, other.trials)
    left, right = (thinned(trials, each.correct, each.first, each.trials) for each in (model, other))
    return left - right


# ---------------------------------------------------------------------------------------------------------------------
# Table and comparisons


def summarise(evaluation: Evaluation) -> dict:
    """Every number of the table and the comparisons. JSON can hold it: an Estimate is a list [value, low, high]."""
    records, levels, base = evaluation.records, evaluation.by_level(), evaluation.find("scot")
    summary = {"problems": evaluation.bootstrap.n, "base": base, "sv": evaluation.find("sv"),
               "models": {name: row_of(evaluation, levels, name) for name in records},
               "self_consistency": None, "majority": None,
               "comparisons": {name: compare(evaluation, name) for name, r in records.items()
                               if r.condition in ADAPTIVE}}
    if base is not None and records[base].correct.shape[1] > 1:
        curve = evaluation.means[base].consistent  # float[K, draws]
        summary["self_consistency"] = [evaluation.bootstrap.share(accuracy) for accuracy in curve]
        summary["mixed_self_consistency"] = [float(at_trials(curve[:, 0], k + 1)) for k in range(len(curve))]
        summary["majority"] = compare_majority(evaluation, levels)
    return summary


def votes_among(r: Record, chosen: np.ndarray) -> float | None:
    """The share of votes among the chosen responses, bool[n, m]; None if there are none."""
    return float(r.extended[chosen].mean()) if chosen.any() else None


def trials_per_vote(r: Record) -> float:
    return float(r.trials[r.extended].mean()) if r.extended.any() else 0.0


def row_of(evaluation: Evaluation, levels: dict[int, Evaluation], name: str) -> dict:
    """A model's row of the table, and what it does at each level."""
    base, r, mean = evaluation.find("scot"), evaluation.records[name], evaluation.means[name]
    bootstrap = evaluation.bootstrap
    row = {"accuracy": bootstrap.share(mean.correct), "trials": bootstrap.interval(mean.trials),
           "tokens": bootstrap.interval(mean.tokens),
           "vote_share": float(r.extended.mean()), "trials_per_vote": trials_per_vote(r),
           "malformed": float(r.malformed.mean()), "rule_kept": r.rule_kept, "shares": r.shares(), "levels": {}}
    if base not in (None, name):
        row["gain"] = bootstrap.difference(mean.correct - evaluation.means[base].correct)
    for level, part in levels.items():
        r, mean, share = part.records[name], part.means[name], part.bootstrap.share
        row["levels"][level] = {
            "problems": len(r.levels), "accuracy": share(mean.correct), "vote_share": share(mean.extended),
            "first_trial": share(mean.first), "trials": float(r.trials.mean()),
            "trials_per_vote": trials_per_vote(r), "tokens": float(r.tokens.mean()), "shares": r.shares(),
            "votes_after_right": votes_among(r, r.valid & r.first),
            "votes_after_wrong": votes_among(r, r.valid & ~r.first)}
        if "gain" in row:
            row["levels"][level]["gain"] = part.bootstrap.difference(mean.correct - part.means[base].correct)
    return row


def compare_majority(evaluation: Evaluation, levels: dict[int, Evaluation]) -> dict:
    """What the plurality of all K base samples adds to single samples, and to greedy decoding."""
    base, greedy = evaluation.find("scot"), evaluation.find("scot", greedy=True)
    mean, difference = evaluation.means[base], evaluation.bootstrap.difference
    return {"samples": len(mean.consistent), "minus_single": difference(mean.consistent[-1] - mean.correct),
            "minus_single_by_level": {
                level: part.bootstrap.difference(part.means[base].consistent[-1] - part.means[base].correct)
                for level, part in levels.items()},
            "minus_greedy": difference(mean.consistent[-1] - evaluation.means[greedy].correct) if greedy else None}


def compare(evaluation: Evaluation, name: str) -> dict:
    """A model that decides how much to spend beside its references. What cannot be compared is None, or left out."""
    means, difference = evaluation.means, evaluation.bootstrap.difference
    base, sv, mean = means.get(evaluation.find("scot")), means.get(evaluation.find("sv")), means[name]
    rows = {"boundary": {}, "self_consistency": {}, "models": {}}
    for unit in ("trials", "tokens"):
        if base is not None and sv is not None:
            rows["boundary"][unit] = difference(over_line(mean, base, sv, unit))
        if base is None or len(base.consistent) < 2:
            continue
        samples = getattr(mean, unit) / getattr(base, unit)  # float[draws]: a base sample is the unit
        if samples[0] <= len(base.consistent):
            reference = at_trials(base.consistent, samples)  # float[draws]
            gain = reference - base.consistent[0]
            rows["self_consistency"][unit] = {
                "minus": difference(mean.correct - reference), "gain": difference(gain),
                "gain_ratio": evaluation.bootstrap.ratio(mean.correct - base.correct, gain)}
    for other, r in evaluation.records.items():
        if r.condition in ADAPTIVE and other != name:
            costs_more = means[other].trials[0] > mean.trials[0]
            rows["models"][other] = {
                "trials": float(means[other].trials[0]), "minus": difference(over_model(mean, means[other])),
                "minus_at_equal_trials": difference(over_model(mean, means[other], True)) if costs_more else None}
    return rows


# ---------------------------------------------------------------------------------------------------------------------
# Command line


def report(out: Path, names: list[str] = None) -> dict:
    """Table, summary.json and plots of the records in out/records (names: only these, in this order)."""
    from plumbing import plots  # matplotlib: half a second that processes without a plot need not wait

    folder = out / "records"
    if names is None:
        paths = sorted(folder.glob("*.jsonl")) or sorted(folder.glob("*.npz"))
    else:
        paths = [folder / f"{name}.jsonl" for name in names]
    if not paths:
        raise data.DataError(f"{out}/records: holds no records")
    records = [read_kept(path) if path.suffix == ".npz" else read_record(path) for path in paths]
    order = list(voting.PROMPTS).index
    if names is None:
        records.sort(key=lambda r: (order(r.condition), r.greedy, r.name.startswith("ibpo"), r.name))
    different = [r.name for r in records if r.questions != records[0].questions]
    if different:
        raise data.DataError(f"{folder}: {different[0]} answered other problems than {records[0].name}; evaluate both "
                             f"with the same --data, --problems and --seed, or delete {folder / different[0]}.jsonl")
    summary = summarise(Evaluation(records))
    printing.print_summary(summary)
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    plots.plot_budget(summary, out / "accuracy_vs_budget.png")
    plots.plot_levels(summary, out / "by_level.png")
    plots.plot_groups(summary, out / "groups.png")
    return summary


def different_names(directories: list) -> list[str]:
    """What the models are called: the names of their directories. DataError if two would have the same record."""
    names = [Path(directory).resolve().name for directory in directories]
    records.require_distinct(names)
    return names


def respond(models: list, source: str, problems: int, samples: dict[str, int], out: Path, seed: int = 0,
            split: str = "test", device: str = "cpu", dtype: str = "auto", show: int = 0, called: str = None,
            slots: int = 512, cache_gib: float = 8.0, **options) -> list[str]:
    """Write the records of checkpoints, models, on the same problems to out/records; returns their names.

    A record that was made with the same settings before is not made again. samples: responses per problem, by the
    prompt condition a model was trained for. split: of the built-in problems. dtype: of the weights, as in
    sample.usual_dtype. called: the name of a single checkpoint (None: that of its directory). slots, cache_gib,
    options: of sample.generate.
    """
    (out / "records").mkdir(parents=True, exist_ok=True)  # before hours of work
    chosen = data.load(source, split, problems, seed)
    names = []
    for directory, own in zip(models, [called] if called else different_names(models)):
        model = None  # the one before makes room
        resolved = sample.usual_dtype(directory, dtype, device)
        condition, weights = sample.notes_of(directory).get("condition", "scot"), fingerprint(directory)
        kinds = [("", samples[condition], options["temperature"])]
        if condition == "scot":
            kinds.append(("-greedy", 1, 0.0))
        for suffix, m, temperature in kinds:
            name = own + suffix
            names.append(name)
            header = {"model": str(directory), "condition": condition, "data": source, "split": split,
                      "problems": len(chosen), "samples": m, "seed": seed, "dtype": resolved, **options,
                      "temperature": temperature, "weights": weights}
            path = out / "records" / f"{name}.jsonl"
            if not is_record_of(path, header, chosen):
                if model is None:
                    model, tokenizer, _ = sample.open_checkpoint(directory, sample.DTYPES[resolved], device)
                generate = {**options, "temperature": temperature, "slots": slots, "cache_gib": cache_gib}
                make_record(path, chosen, header, m, model, tokenizer, seed=seed, **generate)
            if show:
                print_examples(path, show)
    return names


def evaluate(models: list, source: str, problems: int, samples: int, out: Path, training_log: Path = None,
             cap: float = None, **options) -> dict:
    """Evaluate models on the same problems; returns the summary that is also written to out/summary.json.

    samples: of a single-trial model, per problem. options: of respond; with `server`, of plumbing.server.respond.
    """
    per_problem = {**dict.fromkeys(voting.PROMPTS, 1), "scot": samples}
    ask = server.respond if "server" in options else respond
    names = ask(models=models, source=source, problems=problems, samples=per_problem, out=out, **options)

    def draw() -> dict:
        summary = report(out, names)
        if training_log is not None and training_log.exists():
            from plumbing import plots
            plots.plot_training(training_log, cap, out / "training.png")
        print(f"\nrecords, summary.json and plots are in {out}")
        return summary

    return distributed.on_main(draw)


def arguments(argv: list[str] = None) -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directories", nargs="*",
                        help="checkpoint directories (default: base, sv-sft and ibpo of checkpoints/)")
    parser.add_argument("--server", metavar="URL", help="ask a server (vLLM, llama.cpp, transformers serve) instead of "
                        "checkpoint directories: plumbing/server.py")
    parser.add_argument("--model", nargs="+", metavar="NAME", help="with --server: models by the names it knows, each "
                        "with its prompt if that is not scot: ibpo=asv")
    parser.add_argument("--in-flight", type=int, default=64, help="with --server: requests at once (default 64)")
    parser.add_argument("--data", default="builtin", help="test problems: builtin, or a .jsonl file (default builtin)")
    parser.add_argument("--split", choices=["validation", "test"], default="test",
                        help="of the built-in problems: validation to choose by, test to report (default test)")
    parser.add_argument("--problems", type=int, default=1000, help="how many of them (default 1000)")
    parser.add_argument("--samples", type=int, default=8,
                        help="responses per problem of a single-trial model (default 8)")
    parser.add_argument("--show", type=int, default=0, metavar="N",
                        help="print each model's first response to each of the first N problems")
    parser.add_argument("--out", default="runs/eval", help="where records, summary and plots go (default runs/eval)")
    parser.add_argument("--redraw", metavar="DIR", help="do not generate: table and plots from all records in DIR")
    parser.add_argument("--keep", metavar="DIR", help="with --redraw: draw in DIR, and keep the records there as arrays"
                        " without texts, which --redraw reads, too")
    parser.add_argument("--temperature", type=float, default=1.0, help="sampling temperature (default 1)")
    parser.add_argument("--top-p", type=float, default=0.9,
                        help="nucleus sampling; the paper does not say how it decodes; 1: off (default 0.9)")
    parser.add_argument("--max-new-tokens", type=int,
                        help="cut a response off here (default: where training did, the largest if models differ, and "
                             "300 for a model that train.py did not make: too few for MATH; with --server 4096)")
    parser.add_argument("--processes", type=int,
                        help="processes of one thread each that share the problems (default: the physical cores, at "
                             "most 8, if memory has room; with --device cuda 1, or what torchrun starts)")
    parser.add_argument("--slots", type=int, default=512, help="responses generated at once, at most (default 512)")
    parser.add_argument("--cache-gib", type=float, default=8.0,
                        help="GiB for their keys and values; limits how many run at once (default 8)")
    parser.add_argument("--seed", type=int, default=0, help="of problems and responses (default 0)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where to compute (default cpu)")
    parser.add_argument("--dtype", default="auto", choices=["auto", "fp32", "bf16"],
                        help="of the weights; auto: bf16 on a GPU, and on a CPU that has it for wide models; else fp32")
    args = parser.parse_args(argv)
    if not args.redraw and not args.server:
        args.directories = args.directories or DIRECTORIES
    return args


def main(argv: list[str] = None) -> None:
    args = arguments(argv)
    try:
        if args.redraw:
            if args.directories:
                raise data.DataError("--redraw takes all records there are: no checkpoint directories with it")
            report(keep_all(Path(args.redraw), Path(args.keep)) if args.keep else Path(args.redraw))
            return
        if args.keep:
            raise data.DataError("--keep goes with --redraw")
        if bool(args.server) != bool(args.model) or (args.server and (args.directories or args.processes)):
            raise data.DataError("--server URL and --model NAME belong together, without directories and --processes")
        if args.in_flight < 1:
            raise data.DataError("--in-flight must be at least 1")
        if min(args.problems, args.samples, args.slots, 1 if args.processes is None else args.processes) < 1:
            raise data.DataError("--problems, --samples, --slots and --processes must be at least 1")
        if args.show < 0 or not args.cache_gib > 0:
            raise data.DataError("--show must be 0 or more, and --cache-gib above 0")
        if args.split != "test" and args.data != data.BUILTIN:
            raise data.DataError("--split is of the built-in problems; a file is one split: name another with --data")
        if args.temperature <= 0:
            raise data.DataError("--temperature must be above 0: separate samples are compared; greedy has its own row")
        limit = args.max_new_tokens
        if limit is None:
            limit = 4096 if args.server else sample.usual_length(args.directories)
        if args.server:
            where = dict(models=args.model, server=args.server, in_flight=args.in_flight)
        else:
            where = dict(models=args.directories, device=args.device, dtype=args.dtype, slots=args.slots,
                         cache_gib=args.cache_gib)
        with stop_on_signals():
            evaluate(source=args.data, problems=args.problems, samples=args.samples, out=Path(args.out),
                     seed=args.seed, split=args.split, show=args.show, max_new_tokens=limit,
                     temperature=args.temperature, top_p=args.top_p, **where)
    except (OSError, ValueError) as error:  # DataError and CheckpointError are
        sys.exit(f"error: {error}")
    except KeyboardInterrupt as interrupt:
        print("\nstopped; models that have answered all are kept, and the same command continues with the others",
              file=sys.stderr)
        sys.exit(exit_code(interrupt))


if __name__ == "__main__":
    asked = arguments()
    usual = 1 if asked.redraw or asked.server else distributed.usual_processes(asked.device, asked.directories)
    distributed.run(main, asked.processes or usual, asked.device)
