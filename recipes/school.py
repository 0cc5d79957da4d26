"""The base model of the word problems: a chat model learns to solve them in one way, to calculate, and to count.

    python recipes/school.py --model runs/smollm2 --data runs/words/train.jsonl --out runs/words/school --steps 60
    bash recipes/word_problems.sh     # all lessons, in order, and what follows

Supervised learning in the prompts of voting.py, as the built-in base model learns from its textbook (sft.py), of

* worked solutions (recipes/word_problems.py), under the base's prompt;
* --sheets: sheets of sums. SmolLM2 learns what to calculate within 3,000 solutions, but not how to: its mistakes are
  then in arithmetic. A sheet has four times as many sums as a solution;
* --counting: votes to count, under the prompt of SV-SFT. After ASV-SFT on 162 votes SmolLM2 wrote "once", "twice",
  "three times" in this order, whatever the answers were, and 80 of 240 responses were malformed. As in the third
  chapter of the built-in world, the answers are not learned, only the counting; and, since [TRIAL] is no token of this
  model's, what marks a trial: without that, SV-SFT of 16 steps wrote [CODE], [/\\*] or nothing in its place.
"""

import argparse
import json
import random
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from word_problems import calculate, numbers_of  # noqa: E402

if TYPE_CHECKING:  # torch and transformers take seconds to import, which --help need not wait for
    from transformers import PreTrainedTokenizerFast

    from llama import Llama


def sheet(rng: random.Random, lines: int = 12) -> str:
    """A sheet of sums with numbers such as solutions have, one per line, all four operations about equally often."""
    written = []
    while len(written) < lines:
        operation = rng.choice("+-*/")
        if operation == "*" and rng.random() < 0.5:  # as many packs of so many
            a, numbers = rng.randint(2, 9), (rng.randint(2, 25),)
        else:
            a = rng.randint(2, 400)
            numbers = numbers_of(operation, a, rng)
        if numbers is not None:
            written.append(f"{a} {operation} {numbers[0]} = {calculate(a, operation, numbers[0])}")
    return "\n".join(written)


def vote_to_count(solution: str, rng: random.Random) -> str:
    """A vote with answers of our own making, right and wrong ones; most show only the last lines of trials.

    >>> vote_to_count("With the gift: 7 + 5 = 12 marbles.\\n\\\\boxed{12}", random.Random(1)).splitlines()[1:4]
    ['With the gift: 7 + 5 = 12 marbles.', '\\\\boxed{12}', 'Seen once.']
    """
    from voting import render_extended, trials_needed

    *working, last, _ = solution.split("\n")
    if rng.random() < 0.75:  # shorter pages, more of them
        working = []
    right = int(re.search(r"= (\d+)", last)[1])
    wrong = [right + by for by in (-30, -20, -10, -3, -2, -1, 1, 2, 3, 10, 20, 30) if right + by > 0]
    rng.shuffle(wrong)
    chance, trials, answers = rng.uniform(0.2, 1), [], []
    while trials_needed(answers) is None:
        answer = right if rng.random() > chance else rng.choice(wrong[:2] if rng.random() < 0.5 else wrong)
        trials.append("\n".join([*working, re.sub(r"= \d+", f"= {answer}", last), f"\\boxed{{{answer}}}"]))
        answers.append(str(answer))
    return render_extended(trials, answers)


RESULTS = r" \d+$"  # of a sheet: not the numbers drawn
COUNTS = r"\[TRIAL\]|Seen [^\n]*\n\[/TRIAL\]\n[^\n]*"  # of a vote: how often an answer came up, what follows, the frame


def give_tokens(model: "Llama", tokenizer: "PreTrainedTokenizerFast", texts: list[str]) -> None:
    """Make each of these texts a token of its own, whose embedding starts as the mean of those of the tokens before."""
    import torch

    from sft import resize_embeddings

    spelled = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    tokenizer.add_tokens(texts)
    resize_embeddings(model, max(len(tokenizer) - model.config.vocab_size, 0))
    with torch.no_grad():
        for text, ids in zip(texts, spelled, strict=True):
            for weight in model.model.embed_tokens.weight, model.lm_head.weight:  # [V, C]; the same if tied
                weight[tokenizer.convert_tokens_to_ids(text)] = weight[ids].mean(dim=0)  # [C]


def solutions_of(file: Path) -> list[tuple[str, str]]:
    """The questions and solutions of recipes/word_problems.py. Raises data.DataError where a line has none."""
    from data import DataError

    try:
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        solved = [(row["question"], row["solution"]) for row in rows]
        if not solved or not all(re.search(r"= \d+[^\n]*\n\\boxed[^\n]*\Z", solution) for _, solution in solved):
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{file}: expected problems with solutions, as recipes/word_problems.py writes them") from None
    return solved


def train(args: argparse.Namespace) -> Path:
    """SFT of a chat model on solutions, sheets and votes to count; returns the directory of the base, OUT/base.

    Each instruction of voting.py becomes one token, as in the built-in world: training teaches the model what it means,
    and no prompt has to spell out its up to 215 tokens. What the model writes keeps its ordinary tokens: new ones start
    as means, too much alike to be told apart within some dozens of steps.
    """
    import voting
    from learn import add_supervised_gradient, encode
    from plumbing.files import fingerprint, shuffled
    from plumbing.settings import Settings
    from plumbing.stage import Stage, is_finished, open_start, scheduled

    settings = Settings(model=args.model, out=args.out, device=args.device, dtype=args.dtype, base_steps=args.steps,
                        base_batch=args.batch, base_lr=args.lr, micro_tokens=16384 if args.device == "cuda" else 1024)
    sources = {"model": fingerprint(Path(args.model)), "data": fingerprint(args.data), "sheets": str(args.sheets),
               "counting": str(args.counting)}
    if is_finished(settings, "base", sources):
        return settings.directory("base")
    solved = solutions_of(args.data)
    network, tokenizer = open_start(settings, args.model)
    give_tokens(network, tokenizer, [voting.PROMPTS[name] for name in ("scot", "sv", "asv")])
    examples = [encode(tokenizer, question, "scot", solution) for question, solution in solved]
    rng = random.Random(sources["model"])  # other pages in each lesson
    examples += [encode(tokenizer, "Calculate.", "scot", sheet(rng), learned=RESULTS)
                 for _ in range(round(len(solved) * args.sheets))]
    examples += [encode(tokenizer, question, "sv", vote_to_count(solution, rng), learned=COUNTS)
                 for question, solution in rng.choices(solved, k=round(len(solved) * args.counting))]
    with Stage(settings, "base", network, tokenizer, args.steps, sources) as stage:
        for step in stage:
            chosen = [examples[i] for i in shuffled(len(examples), step, args.batch, 0)]
            record = add_supervised_gradient(network, chosen, settings)
            stage.update(scheduled(settings, args.lr, step, args.steps), record,
                         f"nll/token {record['nll_per_token']:.3f}")
    return stage.directory


def parse_args(argv: list[str] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="DIR", help="what to start from: a chat model, or a base")
    parser.add_argument("--data", required=True, type=Path, metavar="FILE", help="problems with solutions, .jsonl")
    parser.add_argument("--out", required=True, metavar="DIR", help="the model is written to DIR/base")
    parser.add_argument("--steps", type=int, default=60, help="gradient steps (default 60)")
    parser.add_argument("--batch", type=int, default=48, help="examples per step (default 48)")
    parser.add_argument("--lr", type=float, default=3e-4, help="learning rate before warm-up and decay (default 3e-4)")
    parser.add_argument("--sheets", type=float, default=0, help="sheets of sums per solution (default 0)")
    parser.add_argument("--counting", type=float, default=0, help="votes to count per solution (default 0)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where to compute (default cpu)")
    parser.add_argument("--dtype", default="bf16", choices=["fp32", "bf16"], help="of the weights (default bf16; on a "
                        "CPU without bf16 instructions fp32 is faster)")
    args = parser.parse_args(argv)
    if min(args.steps, args.batch) < 1 or min(args.sheets, args.counting) < 0 or not args.lr > 0:
        sys.exit("error: --steps and --batch must be at least 1, --sheets and --counting at least 0, --lr above 0")
    if not args.data.exists():
        sys.exit(f"error: there is no {args.data}: python recipes/word_problems.py writes it")
    return args


def main(argv: list[str] = None) -> None:
    args = parse_args(argv)
    from plumbing.settings import UserError
    from plumbing.signals import exit_code, stop_on_signals

    try:
        with stop_on_signals():
            print(train(args))
    except (OSError, ValueError, UserError) as error:  # DataError and CheckpointError are ValueErrors
        sys.exit(f"error: {error}")
    except KeyboardInterrupt as interrupt:
        print(str(interrupt) or "stopped; the same command continues from there", file=sys.stderr)
        sys.exit(exit_code(interrupt))


if __name__ == "__main__":
    asked = parse_args()
    from plumbing import distributed

    distributed.run(main, distributed.usual_processes(asked.device, [asked.model]), asked.device)
