"""How often is a margin exactly 0, and what does departure D7 decide then? For several numbers m of samples per prompt.

Where Δ is 0, Eq. (8) is indifferent between a vote and a single trial. Ours stays with the single trial (D7), or lets
such prompts vote as far as the cap has room (`--zero-margin vote`). With few samples many margins are 0, so D7 decides
how many votes can be accepted at all: a larger cap than that does not bind. The paper takes m = 8.

    python experiments/zero_margins.py checkpoints/ibpo      # a rollout of 32 samples to each of 256 training problems
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import data  # noqa: E402
import ibpo  # noqa: E402
import llama  # noqa: E402
import sample  # noqa: E402
import train  # noqa: E402
from plumbing.settings import Settings  # noqa: E402

SAMPLES = (8, 16, 32)
PROMPTS = 256


def signs(rollout: train.Rollout, m: int) -> list[float]:
    """Of the prompts with something feasible among the first m responses, the shares with Δ > 0, = 0 and < 0; and the
    share of votes among the accepted responses without a cap, if prompts with Δ = 0 stay regular, and if they vote."""
    correct, extended, valid = (x[:, :m] for x in (rollout.correct, rollout.extended, rollout.valid))  # bool[n, m]
    margin, feasible = ibpo.reward_margin(correct, extended, valid), ibpo.feasible_set(correct, valid)
    served = margin[feasible.any(axis=1)]
    accepted = [ibpo.maximise_margin(margin, feasible, extended, 1.0, 0, zero_margin_votes=votes)
                for votes in (False, True)]
    return [*(sign(served, 0).mean() for sign in (np.greater, np.equal, np.less)),
            *(selection.extended / max(selection.accepted, 1) for selection in accepted)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a model that chooses when to vote, e.g. checkpoints/ibpo")
    parser.add_argument("--prompts", type=int, default=PROMPTS, help=f"how many problems (default {PROMPTS})")
    args, settings = parser.parse_args(), Settings()
    if args.prompts < 10:
        parser.error("--prompts must be at least 10")
    try:
        policy, tokenizer, notes = sample.open_checkpoint(args.checkpoint, sample.DTYPES["fp32"])
        if notes.get("condition") != "asv":
            raise data.DataError(f"{args.checkpoint} does not decide for itself; give an ASV-SFT or IBPO checkpoint")
        problems = data.load(data.BUILTIN, "train", args.prompts, seed=5)
        rollout = train.roll_out(policy, tokenizer, problems, max(SAMPLES), settings.rl_top_p, 0, settings)
    except (llama.CheckpointError, data.DataError) as error:
        sys.exit(f"error: {error}")
    print("  m    Δ > 0    Δ = 0    Δ < 0    votes accepted at cap 1: D7    --zero-margin vote")
    for m in SAMPLES:
        above, zero, below, regular, votes = signs(rollout, m)
        print(f"{m:3} {above:8.1%} {zero:8.1%} {below:8.1%} {regular:29.1%} {votes:21.1%}")


if __name__ == "__main__":
    main()
