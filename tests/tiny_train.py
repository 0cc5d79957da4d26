"""train.py with a stage of forty short steps in place of the real ones, which needs no checkpoint and no tokenizer.

For tests of what ends several processes: starting, main, signals, exit codes, saved states and logs are train.py's own.

    python tests/tiny_train.py --processes 2 --out DIR
"""

import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tiny import build

import train
from plumbing import distributed
from plumbing.settings import Settings, parse_args
from plumbing.stage import Stage

STEPS = 40
PAUSE = 0.1  # seconds of a step, for whoever wants to send a signal in the middle of the stage


def run(settings: Settings, _: str) -> dict[str, float]:
    """In place of train.run: every step is shared by the processes, as sampling is, and gradients are summed."""
    model = build()  # Stage shards it
    with Stage(settings, "ibpo", model, None, STEPS) as stage:
        for step in stage:
            time.sleep(PAUSE)
            shared = distributed.spread(list, [1.0] * 7)
            for weight in model.parameters() if settings.shard or distributed.rank == 0 else ():  # in all, once
                weight.grad = torch.full_like(weight, 1.0 + step)
            stage.update(0.01, {"shared": shared}, "")
    return {"ibpo": 0.0}


if __name__ == "__main__":
    train.run = run
    distributed.run(train.main, parse_args(None, __doc__)[0].processes, "cpu")
