"""The paper's results with error bars, and the ablations it does not have: everything in results/.

    python experiments/reproduce.py                  # three seeds, hours; the same command continues where it stopped
    python experiments/reproduce.py --seeds 5        # two more of them; what is finished stays
    python experiments/reproduce.py --report         # tables and figures again, from the records in results/
    python experiments/reproduce.py --smoke          # the same path in minutes, in runs/reproduce-smoke; no results
    python experiments/reproduce.py --model DIR --results results/textbook-1     # from another base, kept elsewhere
    python experiments/reproduce.py --variant uninformed-start    # with other settings (VARIANTS), kept elsewhere

For each seed: SV-SFT and ASV-SFT; from ASV-SFT all caps and methods, on the same prompts, with as many samples and
steps; ASV-SFT with another share of one-trial examples; and SCoRe (score.py). Each model answers the test problems of
its seed (eval/) and, for the oracles and Fig. 5, some answer the first 400 of them 16 times (oracle/).

A job is one model ("score": all of SCoRe's): train it, let it answer, keep what the report needs. The most important
ones come first, of all seeds; the report leaves out what is missing. --jobs of them run side by side, each in a process
of its own with its share of the cores, what it prints in runs/reproduce/seed-N/NAME.txt. By hand it is

    python experiments/reproduce.py --only ibpo-50 --seed 1

results/records keeps of a model its judged responses (records.Record, without the texts) and the log of its training.
A model that is kept there is finished, whether or not its checkpoint is still in runs/: with a clone that holds
results/ the work goes on from there. What is computed from the records, and how, is in report.py.
"""

import argparse
import gzip
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import eval as evaluation
from experiments import report, score
from experiments.tables import ALPHAS, ORACLE_MODELS, ORACLE_PROBLEMS, ORACLE_SAMPLES, PRICES, SCORE
from plumbing.files import atomic_write
from plumbing.records import keep_record
from plumbing.settings import PRESETS, Settings, UserError
from plumbing.signals import Stopped, stop_on_signals
from sft import train_sft
from train import train_ibpo

RUNS = [*(dict(method="ibpo", budget=f"vote={cap / 100:g}") for cap in (25, 50, 10)),  # the most important first
        dict(method="random", budget="vote=0.25"), dict(method="ibpo", budget="vote=0.25", give_up=True),
        dict(method="cgpo"), dict(method="margin"), dict(method="random", budget="vote=0.5"),
        dict(method="rft"), dict(method="sft"),
        *(dict(method="length-penalty", length_price=price, rl_top_p=1.0) for price in PRICES),
        dict(method="listing"), dict(method="grpo", rl_top_p=1.0), dict(method="ibpo", budget="vote=0.5", give_up=True),
        *(dict(sft_alpha=alpha) for alpha in ALPHAS)]
# name -> settings; all others start from the first one
JOBS = {"asv-sft": {}, "sv-sft": {}, "base": {}, **{
    replace(Settings(), **run).name("asv-sft" if "sft_alpha" in run else "ibpo"): {"valid_every": 0, **run}
    for run in RUNS}, "score": {}}
# Other settings for all models of a run: an ASV-SFT whose examples of votes are of any problems, not of those on which
# the base's samples disagree; then all that is known of where to vote has to come from IBPO.
VARIANTS = {"uninformed-start": dict(sft_distinct=1, zero_margin="vote", lr=1e-4, steps=100)}
FIRST = ["base", "base-greedy", "sv-sft", "asv-sft"]
MODELS = [*FIRST, *(name for name in JOBS if name not in (*FIRST, "score"))]
MADE_BY = {"base": ["base", "base-greedy"], "score": SCORE}  # jobs that leave several models


def is_kept(name: str, kept: Path) -> bool:
    """Whether all that a finished job leaves is in results/records/seed-N."""
    made = MADE_BY.get(name, [name])
    files = ([kept / "eval" / f"{each}.npz" for each in made]
             + [kept / "oracle" / f"{name}.npz"] * (name in ORACLE_MODELS)
             + [kept / "logs" / f"{each}.jsonl.gz" for each in made if name != "base"])
    return all(path.exists() for path in files)


def unfinished(settings: Settings, kept: Path) -> list[str]:
    """The jobs of a seed that are left to do; ASV-SFT first, if one of them starts from it and it is not there."""
    names = [name for name in JOBS if not is_kept(name, kept)]
    starts_there = any("method" in JOBS[name] for name in names)
    missing = "asv-sft" not in names and not (Path(settings.out) / "asv-sft" / "ibpo.json").exists()
    return ["asv-sft"] * (starts_there and missing) + names


def train_models(name: str, settings: Settings) -> dict[str, Path]:
    """The checkpoint directory of each model of this job, trained if it is not there."""
    if name != "score":
        return {name: train_model(name, settings)}
    changed = dict(vars(settings).items() - vars(Settings()).items())  # SCoRe has other defaults
    runs = [score.ScoreSettings(**{**changed, **left_out}) for left_out in ({}, {"stage_1": False}, {"bonus": False})]
    return {path.name: path for run in runs for path in score.train(run)}


def train_model(name: str, settings: Settings) -> Path:
    if name == "base":
        return Path(settings.model)
    changes = JOBS[name]
    if changes.get("method") != "ibpo":
        settings = replace(settings, zero_margin="regular")  # a choice of that method alone
    if name.endswith("-sft") or "sft_alpha" in changes:
        return train_sft(replace(settings, **changes), "sv-sft" if name == "sv-sft" else "asv-sft")
    return train_ibpo(replace(settings, **changes), train_sft(settings, "asv-sft"))


def run_job(name: str, settings: Settings, kept: Path) -> None:
    """Train a job's models, let them answer, and keep what the report needs."""
    if is_kept(name, kept) and name != "asv-sft":
        return
    models = train_models(name, settings)
    if is_kept(name, kept):  # only the checkpoint of ASV-SFT was missing, from which others start
        return
    options = {option: getattr(settings, option) for option in
               ("seed", "device", "dtype", "slots", "max_new_tokens", "temperature", "top_p")}
    samples = {"scot": settings.eval_samples, "sv": 1, "asv": 1, "score": 2}
    for each, directory in models.items():
        keep(each, directory, settings, settings.eval_problems, samples, Path(settings.out) / "eval", kept, options)
        if each in ORACLE_MODELS:
            keep(each, directory, settings, min(ORACLE_PROBLEMS, settings.eval_problems),
                 dict.fromkeys(samples, ORACLE_SAMPLES), Path(settings.out) / "oracle", kept, options)
        if each != "base":
            keep_log(directory / "log.jsonl", kept / "logs" / f"{each}.jsonl.gz")


def keep(name: str, checkpoint: Path, settings: Settings, problems: int, samples: dict, out: Path, kept: Path,
         options: dict) -> None:
    """Let a model answer, judge the responses, and write them to kept/eval/NAME.npz or kept/oracle/NAME.npz."""
    for each in evaluation.respond([checkpoint], settings.test_data, problems, samples, out, called=name, **options):
        keep_record(out / "records" / f"{each}.jsonl", kept / out.name / f"{each}.npz")


def keep_log(raw: Path, kept: Path) -> None:
    with atomic_write(kept) as temporary:
        temporary.write_bytes(gzip.compress(raw.read_bytes(), mtime=0))


def run_all(todo: list[tuple[int, str]], jobs: int, runs: Path, options: list[str]) -> int:
    """Run jobs (seed, name) in processes of their own, `jobs` at a time, in this order where they can be started.

    The others of a seed wait for its ASV-SFT: they start from it, or share the solutions it was made of. Returns how
    many failed.
    """
    waiting, running, failed = list(todo), {}, []
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))}
    bar = tqdm(total=len(todo), unit="model", dynamic_ncols=True)
    try:
        while waiting or running:
            ready = [(seed, name) for seed, name in waiting if name == "asv-sft"
                     or (seed, "asv-sft") not in [*waiting, *running, *failed]]
            if ready and len(running) < jobs:
                seed, name = ready[0]
                waiting.remove(ready[0])
                text = runs / f"seed-{seed}" / f"{name}.txt"
                text.parent.mkdir(parents=True, exist_ok=True)
                with text.open("w") as output:
                    running[seed, name] = subprocess.Popen(
                        [sys.executable, __file__, "--only", name, "--seed", str(seed), *options], env=environment,
                        stdout=output, stderr=subprocess.STDOUT)
            elif not running:  # nothing can start any more: an ASV-SFT has failed
                break
            else:
                time.sleep(0.5)
            bar.set_postfix_str(", ".join(f"seed {seed} {name}" for seed, name in running))
            for job in [job for job, process in running.items() if process.poll() is not None]:
                if running.pop(job).returncode:
                    failed.append(job)
                    text = runs / f"seed-{job[0]}" / f"{job[1]}.txt"
                    last = text.read_text(errors="replace").replace("\r", "\n").strip().splitlines()[-1:]
                    bar.write(f"seed {job[0]} {job[1]} failed; {text} ends with: {' '.join(last)}")
                else:
                    bar.update()
    except KeyboardInterrupt as stop:
        for process in running.values():
            if isinstance(stop, Stopped):  # Ctrl-C has reached them, too; a signal to this process has not
                process.terminate()
        for process in running.values():
            process.wait()  # they save their state
        raise
    finally:
        for process in running.values():  # none, but for an error of our own: nobody would wait for them
            process.terminate()
        bar.close()
    return len(failed)


@stop_on_signals()
def main(argv: list[str] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="how many (default 3: seeds 0, 1 and 2)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1,
                        help="models at a time (default: one per core, fastest); 1: in this process, on all cores")
    parser.add_argument("--model", help=f"the base model (default {Settings.model})")
    parser.add_argument("--results", type=Path, help="where to keep the records (default: results)")
    parser.add_argument("--variant", choices=list(VARIANTS),
                        help="other settings for all models; results/NAME keeps the records")
    parser.add_argument("--only", choices=list(JOBS), metavar="NAME",
                        help=f"this model and no report: {', '.join(JOBS)}; see --seed")
    parser.add_argument("--seed", type=int, help="with --only: of this seed (default 0)")
    parser.add_argument("--report", action="store_true", help="do not train: only the tables and figures")
    parser.add_argument("--smoke", action="store_true", help="see that everything works")
    args = parser.parse_args(argv)
    if args.model and not (args.results or args.smoke):
        sys.exit("error: --model goes with --results DIR: results/ and its variants are of the committed base")
    settings = Settings(**PRESETS["smoke"] if args.smoke else {})
    if args.model:
        settings = replace(settings, model=args.model)
    if args.variant:
        settings = replace(settings, **VARIANTS[args.variant])
        args.results = args.results or Path("results") / args.variant
    runs = Path("runs/reproduce" + "-smoke" * args.smoke)
    results = args.results or (runs / "results" if args.smoke else Path("results"))
    if args.results and not args.smoke:
        runs = Path("runs") / f"reproduce-{args.results.name}"

    def of(seed: int) -> tuple[Settings, Path]:
        return replace(settings, seed=seed, out=str(runs / f"seed-{seed}")), results / "records" / f"seed-{seed}"

    try:
        if args.seeds < 1 or args.jobs < 1:
            raise UserError("--seeds and --jobs must be at least 1")
        if args.seed is not None and not args.only:
            raise UserError("--seed goes with --only NAME; how many seeds is --seeds")
        if args.smoke and args.variant:
            raise UserError("--smoke has settings of its own: not with --variant")
        if args.report and args.only:
            raise UserError("--only trains a model and makes no report: not with --report")
        if args.only:
            return run_job(args.only, *of(args.seed or 0))
        todo = [] if args.report else [(seed, name) for seed in range(args.seeds) for name in unfinished(*of(seed))
                                       if not (args.variant and name == "score")]  # SCoRe has settings of its own
        todo.sort(key=lambda job: list(JOBS).index(job[1]))  # the first job of all seeds, then the next one
        failed = 0
        if args.jobs == 1:
            for seed, name in todo:
                run_job(name, *of(seed))
        elif todo:
            options = (["--smoke"] * args.smoke + ["--model", args.model] * bool(args.model)
                       + ["--results", str(args.results)] * bool(args.results)
                       + ["--variant", args.variant] * bool(args.variant))
            failed = run_all(todo, args.jobs, runs, options)
        report.report(results, MODELS, args.seeds, prose=not args.results)
        if failed:
            raise UserError(f"{failed} of {len(todo)} jobs failed (see above); the same command tries again")
    except (OSError, ValueError, UserError) as error:  # DataError, CheckpointError, LengthError ... are ValueErrors
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\nstopped; what is finished is kept, and the same command continues from there")


if __name__ == "__main__":
    main()
