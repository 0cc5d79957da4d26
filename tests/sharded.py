"""What the processes of tests/test_sharding.py do: `python tests/sharded.py DIRECTORY PROCESSES`."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from tiny import build, random_examples

from learn import AdamW, Example, add_gradient, log_probabilities, micro_batches
from plumbing import distributed, sharding
from plumbing.settings import Settings
from plumbing.signals import Stopped, stop_on_signals
from plumbing.stage import Stage

STEPS = 6


def run_stage(out, stop: int | None = None, dtype: str = "fp32", how: type = KeyboardInterrupt, **changes) -> None:
    """A stage of STEPS steps on a tiny model; stop: the step in which Ctrl-C is pressed, or `how` is raised."""
    model = build(dtype={"fp32": torch.float32, "bf16": torch.bfloat16}[dtype])
    settings = Settings(out=str(out), micro_tokens=40, dtype=dtype, max_grad_norm=5.0, **changes)
    with Stage(settings, "base", model, None, STEPS) as stage:
        for step in stage:
            examples = random_examples(2 if step == 1 else 9, seed=step)  # of two, a third process has none
            loss = add_gradient(model, examples, 4, settings)
            if step == stop:
                raise how
            stage.update(1e-3, {"loss": loss}, "")


def check_gradient(tied: bool, checkpointing: bool) -> None:
    whole, model = (build(tie_word_embeddings=tied) for _ in range(2))
    sharding.shard(model)
    names = [name for name, _ in whole.named_parameters()]
    assert names == [name for name, _ in model.named_parameters()]
    examples, expected = random_examples(20) + [Example([1] * 30, [2] * 20)], 0.0
    for group in micro_batches(examples, 40):  # by one process
        loss = -(torch.tensor([e.weight for e in group]) * log_probabilities(whole, group)).sum() / 7
        loss.backward()
        expected += loss.item()
    found = add_gradient(model, examples, 7, Settings(micro_tokens=40, checkpointing=checkpointing))
    assert abs(found - expected) < 1e-4 * expected
    for weight, mine in zip(whole.parameters(), model.parameters(), strict=True):
        rows = sharding.local(mine)
        first = sharding.first_row(mine)
        assert torch.equal(rows, weight[first : first + len(rows)])
        torch.testing.assert_close(sharding.whole(mine.grad), weight.grad, rtol=1e-4, atol=1e-5)
        assert rows.numel() < weight.numel() or len(weight) == 1


def check_same_bits() -> None:
    """Given the same gradient: in bf16 the same weights, bit by bit, as in one process."""
    whole, model = (build(dtype=torch.bfloat16) for _ in range(2))
    sharding.shard(model)
    optimizers = [AdamW(each, 0.9, 0.98, 0.01) for each in (whole, model)]
    for step in range(4):
        for i, (weight, mine) in enumerate(zip(whole.parameters(), model.parameters())):
            gradient = torch.sin(torch.arange(weight.numel()) * (i + step + 1.0)).view_as(weight).bfloat16()
            weight.grad, mine.grad = gradient, torch.zeros_like(mine)
            sharding.fill(mine.grad, [gradient])
        for optimizer in optimizers:
            optimizer.step(1e-3)
    start, plain = build(dtype=torch.bfloat16), sharding.gathered(model)
    for name, weight in whole.state_dict().items():
        assert torch.equal(plain.state_dict()[name], weight), name
    assert any(not torch.equal(a, b) for a, b in zip(start.parameters(), plain.parameters()))
    wide = sharding.gathered(model, torch.float32)
    assert torch.equal(wide.lm_head.weight, whole.lm_head.weight.float())


def stopped(run: Callable) -> None:
    try:
        run()
    except Stopped as stop:
        assert "stopped after step" in str(stop), stop
        return
    raise AssertionError("not stopped")


def main(directory: Path) -> None:
    processes = distributed.size
    check_gradient(False, True)
    check_gradient(True, False)
    check_same_bits()
    run_stage(directory / f"whole {processes}", shard=True)
    if processes == 2:
        stopped(partial(run_stage, directory / "again", 3, shard=True))
        distributed.gather(None)  # both have saved their parts
        run_stage(directory / "again", shard=True)
        stopped(partial(run_stage, directory / "travels", 2, shard=True))
        stopped(partial(run_stage, directory / "bf16", 3, "bf16", shard=True))
    else:
        stopped(partial(run_stage, directory / "travels", 4, shard=True))
        distributed.gather(None)
    print("all is well")
    if processes == 3:  # and then something goes wrong in one of them
        try:
            run_stage(directory / "fails", 2 if distributed.rank == 1 else None, how=ZeroDivisionError, shard=True)
        except Stopped as stop:
            print(f"process {distributed.rank}: {stop}", flush=True)
            sys.exit(1)


def stoppable(directory: Path) -> None:
    """As in train.py: the launcher's SIGTERM, should it come while a state is written, waits."""
    with stop_on_signals():
        main(directory)


if __name__ == "__main__":
    distributed.run(lambda: stoppable(Path(sys.argv[1])), int(sys.argv[2]), "cpu")
