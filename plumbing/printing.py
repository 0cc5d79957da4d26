"""What eval.py prints of its summary: the table, the models level by level, and the comparisons.

    python eval.py --redraw runs/builtin/eval
"""

from collections.abc import Iterator

from plumbing.statistics import Estimate, number, percent, verdict


def comparison_lines(rows: dict) -> Iterator[tuple[str, Estimate | None]]:
    """What `compare` found, a label and an estimate for each."""
    yield "efficiency boundary", rows["boundary"].get("trials")
    yield "efficiency boundary in tokens", rows["boundary"].get("tokens")
    for unit, row in rows["self_consistency"].items():
        yield f"self-consistency at equal {unit}", row["minus"]
    for other, row in rows["models"].items():
        yield f"{other} ({row['trials']:.2f} trials)", row["minus"]
        yield f"{other}, fewer votes, equal trials", row["minus_at_equal_trials"]


def print_differences(title: str, lines: list[tuple[str, Estimate | None, int]]) -> None:
    """lines: label, difference (None: none) and over how many problems."""
    lines = [line for line in lines if line[1] is not None]
    if lines:
        print(f"\n{title} minus ... (points, paired)")
    for label, estimate, problems in lines:
        print(f"    {label:36s} {percent(estimate):>24s}  {verdict(estimate, problems)}")


def plus_minus(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} ±{(estimate.high - estimate.low) / 2:.2f}"


def print_table(models: dict[str, dict]) -> None:
    three_groups = any(row["shares"]["short"] for row in models.values())
    short = f"{'short':>6s} " if three_groups else ""
    print(f"{'model':14s} {'pass@1 %':>22s} {'gain':>22s} {'trials':>11s} {'tokens':>13s} {short}{'votes':>6s} "
          f"{'malformed':>9s} {'rule kept':>9s}")
    for name, row in models.items():
        short = f"{row['shares']['short']:6.1%} " if three_groups else ""
        rule_kept = "-" if row["rule_kept"] is None else f"{row['rule_kept']:.1%}"
        print(f"{name:14s} {percent(row['accuracy']):>22s} {percent(row.get('gain')):>22s} "
              f"{plus_minus(row['trials']):>11s} {plus_minus(row['tokens']):>13s} {short}{row['vote_share']:6.1%} "
              f"{row['malformed']:9.2%} {rule_kept:>9s}")


def print_levels(models: dict[str, dict]) -> None:
    levels = sorted({level for row in models.values() for level in row["levels"]})
    head = "".join(f"{level:8d}" for level in levels)
    for key, title in (("accuracy", "accuracy %"), ("first_trial", "first trial right %"),
                       ("vote_share", "voting share %"), ("trials", "trials"), ("tokens", "tokens")):
        print(f"\n{title + ' by level':28s}{head}")
        for name, row in models.items():
            values = [row["levels"][level][key] for level in levels]
            shown = [f"{v:8.2f}" if isinstance(v, float) else f"{100 * v.value:8.1f}" for v in values]
            print(f"{name:28s}" + "".join(shown))
    if any(row["shares"]["short"] for row in models.values()):
        print(f"\n{'share of each group % by level':30s}{head[2:]}")
        for name, row in models.items():
            for group in row["shares"]:
                values = [100 * row["levels"][level]["shares"][group] for level in levels]
                if any(values):
                    print(f"{name:18s}{group:10s}" + "".join(f"{value:8.1f}" for value in values))


def print_summary(summary: dict) -> None:
    n, models, sv = summary["problems"], summary["models"], summary["models"].get(summary["sv"])
    print(f"\n{n} problem{'s' * (n != 1)}; 95 % intervals\n")
    print_table(models)
    print("gain: pass@1 minus that of the base. ±: half of the interval. rule kept: of the responses with several "
          "trials,\nthose that are well-formed.")
    if summary["self_consistency"]:
        values = "  ".join(f"{k}: {100 * row.value:.1f}" for k, row in enumerate(summary["self_consistency"], 1))
        print(f"\nself-consistency, % by samples   {values}")
    print_levels(models)
    if rows := summary["majority"]:
        at_level = models[summary["base"]]["levels"]
        print_differences(f"plurality of {rows['samples']} {summary['base']} samples", [
            ("single samples", rows["minus_single"], n),
            *((f"single samples, level {level}", estimate, at_level[level]["problems"])
              for level, estimate in rows["minus_single_by_level"].items()),
            ("greedy decoding", rows["minus_greedy"], n)])
    for name, rows in summary["comparisons"].items():
        print_differences(name, [(*line, n) for line in comparison_lines(rows)])
        for unit, row in rows["self_consistency"].items():
            if row["gain_ratio"] and row["gain"].low > 0:
                print(f"    its gain over the base is {number(row['gain_ratio'], 2)} times that of self-consistency at "
                      f"equal {unit}")
        if sv and sv.get("gain") and sv["gain"].low > 0 and rows["boundary"]["trials"]:
            gain = models[name]["gain"].value / sv["gain"].value
            extra = (models[name]["trials"].value - 1) / (sv["trials"].value - 1)
            print(f"    {gain:.0%} of the gain of {summary['sv']} for {extra:.0%} of its additional trials")
    if not sv:
        print("\nNo efficiency boundary: it needs a model that always votes (python train.py --stage sv-sft).")
