"""The paper's results with error bars, and the ablations it does not have: everything in results/.

    python reproduce.py                  # three seeds, hours on two CPU cores; the same command continues
    python reproduce.py --seeds 5        # two more of them; what is finished stays
    python reproduce.py --report         # tables and figures again, from the records in results/
    python reproduce.py --smoke          # the same path in minutes, in runs/reproduce-smoke; its numbers mean nothing

For each seed, in runs/reproduce/seed-N: SV-SFT and ASV-SFT; from ASV-SFT all of RUNS, on the same prompts, with as many
samples and steps (one by one: `python train.py --stage ibpo --method ... --seed N --out runs/reproduce/seed-N`); then
the responses of all models to the test problems of that seed (eval/) and, for the oracles, 16 responses of five
models to each of the first 400 of them (oracle/).

results/records keeps of that what the report needs: per model the judged responses (records.Record, without the texts)
and the log of its training. What is computed from it, and how, is in report.py.
"""

import argparse
import gzip
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

import data
import eval as evaluation
import llama
import report
from records import read_record
from report import CAPS, ORACLE_MODELS, ORACLE_PROBLEMS, ORACLE_SAMPLES, PRICES
from settings import PRESETS, Settings, UserError
from sft import train_sft
from train import stage_name, train_rl

RUNS = [*(dict(method=method, budget=f"vote={cap / 100}") for method in ("ibpo", "random") for cap in CAPS),
        *(dict(method=method) for method in ("rft", "cgpo", "margin", "listing", "grpo")),
        *(dict(method="length-penalty", length_price=price) for price in PRICES)]
MODELS = ["base", "sv-sft", "asv-sft", *(stage_name(replace(Settings(), **run)) for run in RUNS)]


def run_seed(settings: Settings) -> None:
    """All stages and all responses of one seed. What is finished is skipped; an interrupted stage continues."""
    out, problems = Path(settings.out), settings.eval_problems
    sv, asv = train_sft(settings, "sv-sft"), train_sft(settings, "asv-sft")
    directories = [Path(settings.model), sv, asv] + [train_rl(replace(settings, **run), asv) for run in RUNS]
    options = {name: getattr(settings, name) for name in
               ("seed", "device", "dtype", "slots", "max_new_tokens", "temperature", "top_p")}
    evaluation.respond(directories, settings.test_data, problems,
                       {"scot": settings.eval_samples, "sv": 1, "asv": 1}, out / "eval", **options)
    evaluation.respond([directory for directory in directories if directory.name in ORACLE_MODELS], settings.test_data,
                       min(ORACLE_PROBLEMS, problems), dict.fromkeys(("scot", "sv", "asv"), ORACLE_SAMPLES),
                       out / "oracle", **options)


def keep(run: Path, kept: Path) -> None:
    """Judge the responses of a seed in `run`, and write to `kept` what the report needs; nothing is there: nothing."""
    for path in sorted(run.glob("*/records/*.jsonl")):
        target = kept / path.parts[-3] / f"{path.stem}.npz"  # eval/NAME.npz, oracle/NAME.npz
        if target.exists() and target.stat().st_mtime >= path.stat().st_mtime:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target.with_suffix(".tmp"), "wb") as file:
            np.savez_compressed(file, **vars(read_record(path)))
        os.replace(target.with_suffix(".tmp"), target)  # whole, or not at all
    for path in sorted(run.glob("*/log.jsonl")):
        if (path.parent / "ibpo.json").exists():  # a finished stage
            (kept / "logs").mkdir(parents=True, exist_ok=True)
            (kept / "logs" / f"{path.parent.name}.jsonl.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="how many: 0, 1, ... (default 3)")
    parser.add_argument("--report", action="store_true", help="do not train: only the tables and figures")
    parser.add_argument("--smoke", action="store_true", help="see that everything works")
    args = parser.parse_args(argv)
    settings = Settings(**PRESETS["smoke" if args.smoke else "builtin"])
    runs = Path("runs/reproduce-smoke" if args.smoke else "runs/reproduce")
    results = runs / "results" if args.smoke else Path("results")
    try:
        if args.seeds < 1:
            raise UserError("--seeds must be at least 1")
        for seed in range(args.seeds):
            folder = runs / f"seed-{seed}"
            if not args.report:
                run_seed(replace(settings, seed=seed, out=str(folder)))
            keep(folder, results / "records" / f"seed-{seed}")
        report.report(results, MODELS, args.seeds)
    except (UserError, data.DataError, llama.CheckpointError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\nstopped; what is finished is kept, and the same command continues from there")


if __name__ == "__main__":
    main()
