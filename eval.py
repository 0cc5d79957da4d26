"""Accuracy against measured budget: Table 3 and Fig. 2 of the paper, with confidence intervals.

    python eval.py                                         # the committed checkpoints on the built-in test split
    python eval.py DIR DIR ... --data math500.jsonl --max-new-tokens 4096      # other models, other problems
    python eval.py --redraw runs/builtin/eval              # table and plots again, from the saved records

Every model answers the same problems, once, but a single-trial model --samples times (its row is their mean), so that
majority voting over k = 1..K separate samples (self-consistency) can be compared at equal trials, and once more
greedily. The raw responses are saved, one record per model; all numbers and plots are computed from the records.

Budget is measured, in trials and in tokens per response. References at equal budget:
    efficiency boundary   the straight line from the base model (1 trial) to SV-SFT, which always votes (Fig. 2a)
    self-consistency      the plurality of k separate base samples, k trials; k may differ between problems, at random
    thinned controls      another model whose votes are cut back at random to their first trial, to the same trials
Intervals are 95 %, by a bootstrap over problems; all models share the resampled problems, so differences are paired.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

import data
import ibpo
import sample
import voting
from plumbing import plots
from plumbing.records import Record, is_record_of, make_record, read_record

RESAMPLES = 2000
ADAPTIVE = ("asv", "modes")  # the prompts that let a model decide how much to spend

# ---------------------------------------------------------------------------------------------------------------------
# Intervals


class Bootstrap:
    """Paired bootstrap over n problems: `estimate` and 95 % interval of any function of per-problem means.

    runs: how often the training was repeated. The columns then hold one run's problems after the other's, n / runs
    each; runs are resampled first, then the problems of every run that was drawn (each time it was).
    """

    def __init__(self, n: int, seed: int = 0, runs: int = 1):
        rng, size = np.random.default_rng(seed), n // runs
        times = rng.multinomial(runs, np.full(runs, 1 / runs), size=RESAMPLES)  # int[R, runs]
        drawn = [rng.multinomial(size * t, np.full(size, 1 / size)) for t in times.T]  # runs × int[R, n / runs]
        self.weights = np.concatenate(drawn, axis=1) / n  # [R, n]

    def __call__(self, statistic, *columns: np.ndarray) -> tuple[float, float, float]:
        """statistic takes the mean of each column (float[n] or float[n, c]); returns (estimate, low, high)."""
        estimate = statistic(*[column.mean(axis=0) for column in columns])
        # resampled means have the resamples last, so that statistics index columns, not resamples
        means = [(self.weights @ column).T for column in columns]  # [R] or [c, R]
        low, high = np.percentile(statistic(*means), [2.5, 97.5])
        return float(estimate), float(low), float(high)


def on_boundary(trials, base, sv, sv_trials):
    """Accuracy of the efficiency boundary at a number of trials: the line through (1, base) and (sv_trials, sv)."""
    return base + (trials - 1) / (sv_trials - 1) * (sv - base)


def over_line(bootstrap: Bootstrap, r: Record, base: Record, end: Record, unit: str) -> tuple[float, float, float]:
    """Accuracy of r minus that of the straight line from base to `end` at equal cost, in "trials" or "tokens".

    The line is what base and `end` attain, each on a random part of the problems. A base sample is the unit of cost.
    """
    accuracy, cost = ([getattr(each, name).mean(axis=1) for each in (r, base, end)] for name in ("correct", unit))
    return bootstrap(lambda a, b, e, a_cost, b_cost, e_cost: a - on_boundary(a_cost / b_cost, b, e, e_cost / b_cost),
                     *accuracy, *cost)


def at_trials(curve, trials):
    """The most that self-consistency attains with a mean number of trials: curve[k-1] is the accuracy of k samples.

    Any k for some problems and another for the rest, at random: the highest chord of the curve. (k = 2 alone gains
    nothing: of two different answers the first one counts.)
    """
    curve, t = np.asarray(curve), np.clip(trials, 1, len(curve))  # [K] or [K, R]; scalar or [R]
    chords = [np.where((i <= t) & (t <= j), curve[i - 1] + (t - i) / max(j - i, 1) * (curve[j - 1] - curve[i - 1]), 0)
              for i in range(1, len(curve) + 1) for j in range(i, len(curve) + 1)]
    return np.max(chords, axis=0)


def thinned(trials, right, first, own_trials):
    """Accuracy of a model whose votes are cut back to their first trial at random until `trials` are left."""
    keep = np.clip((trials - 1) / np.maximum(own_trials - 1, 1e-9), 0, 1)
    return keep * right + (1 - keep) * first


def over_model(bootstrap: Bootstrap, r: Record, other: Record, equal_trials: bool = False):
    """Accuracy of r minus that of another model, with its interval.

    equal_trials: after votes of the one that spends more are cut back, as in `thinned`.
    """
    def minus(a, a_first, a_trials, b, b_first, b_trials):
        trials = np.minimum(a_trials, b_trials)
        return thinned(trials, a, a_first, a_trials) - thinned(trials, b, b_first, b_trials) if equal_trials else a - b

    return bootstrap(minus, *(getattr(each, key).mean(axis=1)  # float[n]
                              for each in (r, other) for key in ("correct", "first", "trials")))


def adaptive_self_consistency(answers: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Majority voting over separate samples that stops as a sequential vote does. Returns right bool[n], trials int[n].

    After Aggarwal et al. 2023, arXiv 2305.11860; it needs no training. Samples are taken from left to right until an answer has occurred three times, at most eight. The answer is the
    plurality of those taken, the first seen on ties: voting.trials_needed and voting.plurality, in arrays.
    answers: int[n, 8], the same number for the same answer, -1 for none (it costs a trial and never counts).
    correct: bool[n, 8] or 0/1, whether that answer is right; of equal answers the first one is asked.
    right: False also where no sample has an answer.  trials: samples taken, 3 to 8.
    ValueError: another shape, numbers that are not whole or below -1, a correct sample without an answer.
    """
    answers = np.asarray(answers)
    if answers.ndim != 2 or answers.shape[1] != voting.MAX_TRIALS:
        raise ValueError(f"answers must be an array [problems, {voting.MAX_TRIALS}], not of shape {answers.shape}")
    if not np.issubdtype(answers.dtype, np.integer) or (answers < -1).any():
        raise ValueError("answers must be whole numbers, -1 for no answer")
    correct, given = ibpo.as_mask("correct", correct), answers >= 0  # bool[n, 8]
    if correct.shape != answers.shape:
        raise ValueError(f"correct has the shape {correct.shape}, but answers has {answers.shape}")
    if (correct & ~given).any():
        raise ValueError("a sample without an answer cannot be correct")
    same = (answers[:, :, None] == answers[:, None, :]) & given[:, :, None]  # bool[n, 8, 8]
    seen = np.tril(same).sum(axis=2)  # int[n, 8]: counts itself
    agreed = seen == voting.CONSENSUS  # bool[n, 8]
    trials = np.where(agreed.any(axis=1), agreed.argmax(axis=1) + 1, voting.MAX_TRIALS)  # int[n]
    taken = np.arange(voting.MAX_TRIALS) < trials[:, None]  # bool[n, 8]
    votes = (same & taken[:, None, :]).sum(axis=2)  # int[n, 8]: of each sample's answer
    first = votes.argmax(axis=1)  # int[n]: the first of the largest
    return correct[np.arange(len(answers)), first], trials


# ---------------------------------------------------------------------------------------------------------------------
# Table and comparisons


def percent(estimate) -> str:
    value, low, high = (100 * x for x in estimate)
    return f"{value:6.2f} [{low:.2f}, {high:.2f}]"


def number(estimate) -> str:
    value, low, high = estimate
    return f"{value:.2f} ±{(high - low) / 2:.2f}"


def summarise(records: list[Record], runs: int = 1) -> dict:
    """Every number of the table and the comparisons, from records on the same problems. runs: as in Bootstrap."""
    bootstrap = Bootstrap(len(records[0].questions), runs=runs)
    levels = {level: records[0].levels == level for level in sorted(set(records[0].levels.tolist()))}  # bool[n] each
    within = {level: Bootstrap(int(at.sum()), runs=runs) for level, at in levels.items()}
    base = next((r for r in records if r.condition == "scot" and not r.greedy), None)
    greedy = next((r for r in records if r.greedy), None)
    sv = next((r for r in records if r.condition == "sv"), None)
    summary = {"problems": len(records[0].questions), "models": {}, "self_consistency": None, "comparisons": {}}

    def mean(values: np.ndarray) -> np.ndarray:
        return values.mean(axis=1)  # float[n], over the samples of a problem

    def per_vote(r: Record, at=slice(None)) -> float:
        return float(r.trials[at][r.extended[at]].mean()) if r.extended[at].any() else 0.0

    for r in records:
        row = {"accuracy": bootstrap(lambda a: a, mean(r.correct)), "trials": bootstrap(lambda t: t, mean(r.trials)),
               "tokens": bootstrap(lambda t: t, mean(r.tokens)), "vote_share": float(r.extended.mean()),
               "trials_per_vote": per_vote(r),
               "malformed": float(r.malformed.mean()), "rule_kept": r.rule_kept, "shares": r.shares(), "levels": {}}
        if base is not None and r is not base:
            row["gain"] = bootstrap(lambda a, b: a - b, mean(r.correct), mean(base.correct))
        for level, at in levels.items():
            interval = within[level]
            after_right, after_wrong = (r.extended[at][~r.malformed[at] & (r.first[at] == right)]
                                        for right in (True, False))
            row["levels"][level] = {
                "problems": int(at.sum()), "accuracy": interval(lambda a: a, mean(r.correct[at])),
                "vote_share": interval(lambda v: v, mean(r.extended[at])),
                "first_trial": interval(lambda f: f, mean(r.first[at])), "trials": float(r.trials[at].mean()),
                "trials_per_vote": per_vote(r, at), "tokens": float(r.tokens[at].mean()), "shares": r.shares(at),
                "votes_after_right": float(after_right.mean()) if after_right.size else None,
                "votes_after_wrong": float(after_wrong.mean()) if after_wrong.size else None}
        summary["models"][r.name] = row

    if base is not None and base.consistent.shape[1] > 1:
        K = base.consistent.shape[1]
        majority, single = base.consistent[:, K - 1], mean(base.correct)  # float[n]
        summary["self_consistency"] = [bootstrap(lambda c: c, base.consistent[:, k]) for k in range(K)]
        summary["mixed_self_consistency"] = [float(at_trials(base.consistent.mean(axis=0), k + 1)) for k in range(K)]
        rows = {"single samples": bootstrap(lambda a, b: a - b, majority, single)}
        for level, at in levels.items():
            rows[f"single samples, level {level}"] = within[level](lambda a, b: a - b, majority[at], single[at])
        if greedy is not None:
            rows["greedy decoding"] = bootstrap(lambda a, b: a - b, majority, mean(greedy.correct))
        summary["comparisons"][f"majority of {K} {base.name} samples"] = rows
    for r in records:
        if r.condition not in ADAPTIVE:
            continue
        rows = {}
        if base is not None and sv is not None and sv.trials.mean() > 1:
            rows["efficiency boundary"] = over_line(bootstrap, r, base, sv, "trials")
            rows["efficiency boundary in tokens"] = over_line(bootstrap, r, base, sv, "tokens")
        if summary["self_consistency"] is not None:
            for unit in ("trials", "tokens"):  # a base sample is the unit
                spent, each = mean(getattr(r, unit)), mean(getattr(base, unit))
                if spent.mean() / each.mean() <= base.consistent.shape[1]:
                    rows[f"self-consistency at equal {unit}"] = bootstrap(
                        lambda a, t, c, u: a - at_trials(c, t / u), mean(r.correct), spent, base.consistent, each)
                    gain = bootstrap(lambda t, c, u: at_trials(c, t / u) - c[0], spent, base.consistent, each)
                    if gain[1] > 0:  # times nothing means nothing
                        rows[f"factor at equal {unit}"] = bootstrap(
                            lambda a, t, c, u, b: (a - b) / np.maximum(at_trials(c, t / u) - c[0], 1e-9),
                            mean(r.correct), spent, base.consistent, each, mean(base.correct))
        for other in records:
            if other.condition in ADAPTIVE and other is not r:
                rows[f"{other.name} ({other.trials.mean():.2f} trials)"] = over_model(bootstrap, r, other)
                if other.trials.mean() > r.trials.mean():
                    rows[f"{other.name}, thinned to equal trials"] = over_model(bootstrap, r, other, equal_trials=True)
        summary["comparisons"][r.name] = rows
    return summary


def print_summary(summary: dict) -> None:
    three_modes = any(row["shares"]["short"] for row in summary["models"].values())
    print(f"\n{summary['problems']} test problems; 95 % intervals\n")
    print(f"{'model':14s} {'pass@1 %':>22s} {'gain':>22s} {'trials':>11s} {'tokens':>13s} "
          + (f"{'short':>6s} " if three_modes else "")
          + f"{'votes':>6s} {'malformed':>9s} {'rule kept':>9s}")
    for name, row in summary["models"].items():
        gain = percent(row["gain"]) if "gain" in row else ""
        print(f"{name:14s} {percent(row['accuracy']):>22s} {gain:>22s} {number(row['trials']):>11s} "
              f"{number(row['tokens']):>13s} " + (f"{row['shares']['short']:6.1%} " if three_modes else "")
              + f"{row['vote_share']:6.1%} {row['malformed']:9.2%} "
              + (f"{'-':>9s}" if row["rule_kept"] is None else f"{row['rule_kept']:9.1%}"))
    if summary["self_consistency"]:
        values = "  ".join(f"{k}: {100 * row[0]:.1f}" for k, row in enumerate(summary["self_consistency"], 1))
        print(f"\nself-consistency, % by samples   {values}")
    levels = sorted({level for row in summary["models"].values() for level in row["levels"]})
    for key, title in (("accuracy", "accuracy %"), ("first_trial", "first trial right %"),
                       ("vote_share", "voting share %"), ("trials", "trials"), ("tokens", "tokens")):
        print(f"\n{title + ' by level':28s}" + "".join(f"{level:8d}" for level in levels))
        for name, row in summary["models"].items():
            values = [row["levels"][level][key] for level in levels if level in row["levels"]]
            shown = [f"{v:8.2f}" if key in ("trials", "tokens") else f"{100 * v[0]:8.1f}" for v in values]
            print(f"{name:28s}" + "".join(shown))
    if three_modes:
        print(f"\n{'share of each mode % by level':28s}" + "".join(f"{level:8d}" for level in levels)[1:])
        for name, row in summary["models"].items():
            for mode in row["shares"]:
                values = [100 * row["levels"][level]["shares"][mode] for level in levels if level in row["levels"]]
                if any(values):
                    print(f"{name:18s}{mode:10s}" + "".join(f"{value:8.1f}" for value in values))
    for name, rows in summary["comparisons"].items():
        if not rows:  # nothing to compare with
            continue
        print(f"\n{name} minus ... (points, paired)")
        for other, estimate in rows.items():
            if other.startswith("factor"):
                print("      its gain over the base is {:.2f} [{:.2f}, {:.2f}] times as large".format(*estimate))
            else:
                verdict = "above" if estimate[1] > 0 else "below" if estimate[2] < 0 else "not told apart"
                print(f"    {other:36s} {percent(estimate):>24s}  {verdict}")


# ---------------------------------------------------------------------------------------------------------------------


def report(out: Path, names: list[str] = None) -> dict:
    """Table, summary.json and plots of the records in out/records (names: only these, in this order)."""
    folder = out / "records"
    paths = sorted(folder.glob("*.jsonl")) if names is None else [folder / f"{name}.jsonl" for name in names]
    if not paths:
        raise data.DataError(f"{out}/records: holds no records")
    records = [read_record(path) for path in paths]
    order = {"scot": 0, "sv": 1, "asv": 2, "modes": 3}
    if names is None:
        records.sort(key=lambda r: (order[r.condition], r.greedy, r.name.startswith("ibpo"), r.name))
    different = [r.name for r in records if r.questions != records[0].questions]
    if different:
        raise data.DataError(f"{out}/records: {different[0]} answered other problems than {records[0].name}")
    summary = summarise(records)
    summary["base"] = next((r.name for r in records if r.condition == "scot" and not r.greedy), None)
    summary["sv"] = next((r.name for r in records if r.condition == "sv"), None)
    print_summary(summary)
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    plots.plot_budget(summary, out / "accuracy_vs_budget.png")
    plots.plot_levels(summary, out / "by_level.png")
    plots.plot_modes(summary, out / "modes.png")
    return summary


def different_names(directories: list) -> list[str]:
    """What the models are called: the names of their directories. DataError if two would have the same record."""
    names = [Path(directory).resolve().name for directory in directories]
    taken = [*names, *(f"{name}-greedy" for name in names)]
    for name in names:
        if taken.count(name) > 1:
            raise data.DataError(f"two models are called {name}, and would have one record; rename a directory")
    return names


def respond(directories: list, source: str, problems: int, samples: dict[str, int], out: Path, seed: int = 0,
            device: str = "cpu", dtype: str = "auto", show: int = 0, called: str = None, cache_gib: float = 8.0,
            **options) -> list[str]:
    """Write the records of checkpoints on the same problems to out/records; returns their names.

    A record that was made with the same settings before is not made again. samples: responses per problem, by the
    prompt condition a model was trained for. dtype: of the weights, as in sample.usual_dtype. called: the name of a
    single checkpoint (None: that of its directory). cache_gib, options: of sample.generate.
    """
    chosen = data.load(source, "test", problems, seed)
    names = []
    for directory, own in zip(directories, [called] if called else different_names(directories)):
        model = None  # the one before makes room
        resolved = sample.usual_dtype(directory, dtype, device)
        condition = sample.notes_of(directory).get("condition", "scot")
        kinds = [("", samples[condition], options["temperature"])]
        if condition == "scot":
            kinds.append(("-greedy", 1, 0.0))
        for suffix, m, temperature in kinds:
            name = own + suffix
            names.append(name)
            weights = Path(directory) / "model.safetensors"
            header = {"model": str(directory), "condition": condition, "data": source, "problems": len(chosen),
                      "samples": m, "seed": seed, "dtype": resolved, **options, "temperature": temperature,
                      "modified": weights.stat().st_mtime if weights.exists() else None}
            path = out / "records" / f"{name}.jsonl"
            if not is_record_of(path, header, chosen):
                if model is None:
                    model, tokenizer, _ = sample.open_checkpoint(directory, sample.DTYPES[resolved], device)
                generate = {**options, "temperature": temperature, "cache_gib": cache_gib}
                make_record(path, chosen, header, m, model, tokenizer, seed=seed, **generate)
            if show:
                print_examples(path, show)
    return names


def evaluate(directories: list, source: str, problems: int, samples: int, out: Path, training_log: Path = None,
             cap: float = None, **options) -> dict:
    """Evaluate checkpoints on the same problems; returns the summary that is also written to out/summary.json.

    samples: of a single-trial model, per problem. options: of respond.
    """
    names = respond(directories, source, problems, {"scot": samples, "sv": 1, "asv": 1, "modes": 1}, out, **options)
    summary = report(out, names)
    if training_log is not None and training_log.exists():
        plots.plot_training(training_log, cap, out / "training.png")
    print(f"\nrecords, summary.json and plots are in {out}")
    return summary


def print_examples(path: Path, count: int) -> None:
    header, *rows = [json.loads(line) for line in path.read_text().splitlines()[: count + 1]]
    for row in rows:
        response = row["responses"][0]
        parsed, right = voting.judge(row["answer"], response["text"], response["finished"], header["condition"])
        print(f"--- {path.stem}, level {row['level']}: {row['question']}\n{response['text']}\n"
              f"=> {parsed.group} {parsed.reason}, {'right' if right else 'wrong'} (gold {row['answer']})\n")


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directories", nargs="*",
                        help="checkpoint directories (default: checkpoints/base checkpoints/ibpo)")
    parser.add_argument("--data", default="builtin", help="test problems: builtin, or a .jsonl file (default builtin)")
    parser.add_argument("--problems", type=int, default=1000, help="how many of them (default 1000)")
    parser.add_argument("--samples", type=int, default=8,
                        help="responses per problem of a single-trial model (default 8)")
    parser.add_argument("--show", type=int, default=0, metavar="N", help="print the first N responses of each model")
    parser.add_argument("--out", default="runs/eval", help="where records, summary and plots go (default runs/eval)")
    parser.add_argument("--redraw", metavar="DIR", help="do not generate: table and plots from all records in DIR")
    parser.add_argument("--temperature", type=float, default=1.0, help="sampling temperature (default 1)")
    parser.add_argument("--top-p", type=float, default=0.9,
                        help="nucleus sampling, as in Table 8; 1: off (default 0.9)")
    parser.add_argument("--max-new-tokens", type=int,
                        help="cut a response off here (default: where training did, the largest if models differ, and "
                             "300 for a model that train.py did not make: too few for MATH)")
    parser.add_argument("--slots", type=int, default=512, help="responses generated at once, at most (default 512)")
    parser.add_argument("--cache-gib", type=float, default=8.0,
                        help="GiB for their keys and values; limits how many run at once (default 8)")
    parser.add_argument("--seed", type=int, default=0, help="of problems and responses (default 0)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where to compute (default cpu)")
    parser.add_argument("--dtype", default="auto", choices=["auto", "fp32", "bf16"],
                        help="of the weights; auto: bf16 on a GPU, and on a CPU that has it for wide models; else fp32")
    args = parser.parse_args(argv)
    try:
        if args.redraw:
            if args.directories:
                raise data.DataError("--redraw takes all records there are: no checkpoint directories with it")
            report(Path(args.redraw))
            return
        if args.problems < 1 or args.samples < 1 or args.slots < 1:
            raise data.DataError("--problems, --samples and --slots must be at least 1")
        if args.show < 0 or not args.cache_gib > 0:
            raise data.DataError("--show must be 0 or more, and --cache-gib above 0")
        if args.temperature <= 0:
            raise data.DataError("--temperature must be above 0: separate samples are compared; greedy has its own row")
        directories = args.directories or ["checkpoints/base", "checkpoints/ibpo"]
        limit = sample.usual_length(directories) if args.max_new_tokens is None else args.max_new_tokens
        evaluate(directories, args.data, args.problems, args.samples, Path(args.out), seed=args.seed,
                 device=args.device, dtype=args.dtype, show=args.show, slots=args.slots, cache_gib=args.cache_gib,
                 max_new_tokens=limit, temperature=args.temperature, top_p=args.top_p)
    except (OSError, ValueError) as error:  # DataError and CheckpointError are
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\nstopped; models that have answered all are kept, and the same command goes on with the others")


if __name__ == "__main__":
    main()
