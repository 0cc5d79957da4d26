"""Sharding: N processes train one model, and each keeps 1/N of its weights, gradient and moments.

    torchrun --nproc-per-node 8 -- train.py 80gb --shard --model DIR --data FILE ...

Without --shard each process keeps all of them (plumbing/distributed.py), and the result is the same. This is FSDP2,
torch.distributed.fsdp.fully_shard, as ZeRO-3 (Rajbhandari et al. 2020, arXiv 1910.02054): each weight is cut by rows.
In learning the weights of a block are gathered when it is their turn, and dropped after it; its gradient is summed and
cut at once. All processes therefore go through the blocks equally often (`in_lockstep`). A sampler needs every weight
for every token: it gets a plain copy (`gathered`), made in every step and dropped before learning.

Bytes per process for P parameters of b bytes: 4 b P / N in all; beside them, while sampling, b P and the cache of keys
and values; while learning, embedding and output layer with their gradient, two blocks, activations. When a stage begins
and ends each process holds a whole copy, too. The reference model of --kl-max is whole on each process all the time.

A saved state is N files, one by each process: no process has to wait for another, which may have been killed. Any
number of processes, sharded or not, continues from it. On several machines --out has to be a directory that all see.

    pytest tests/test_sharding.py
"""

import re
from collections import defaultdict
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

import llama
from plumbing import distributed

T = TypeVar("T")


def shard(model: llama.Llama) -> llama.Llama:
    """Keep this process's rows of each weight, and drop the others; returns the model, with the same names."""
    from torch.distributed.device_mesh import init_device_mesh  # here: importing them takes seconds
    from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(model.lm_head.weight.device.type, (distributed.size,))
    for block in model.model.layers:
        fully_shard(block, mesh=mesh)
    # What is left, embedding, last norm and output layer, is one group, gathered by hidden_states and used until the
    # backward pass ends: log_probabilities calls the output layer after it.
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    register_fsdp_forward_method(model, "hidden_states")
    for part in model.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)  # a sum, not a mean
            part.set_force_sum_reduction_for_comms(True)  # in the way that gloo has, too
    return model


def is_sharded(model: llama.Llama) -> bool:
    return hasattr(model.lm_head.weight, "to_local")


def in_lockstep(model: llama.Llama, groups: list[T], nothing: T) -> list[T]:
    """What this process is to put through the model: its groups, and `nothing` while others still have some."""
    if not is_sharded(model):
        return groups
    return groups + [nothing] * (max(distributed.gather(len(groups))) - len(groups))


# ---------------------------------------------------------------------------------------------------------------------
# A tensor, whole or in parts. Of a plain tensor, the part is the whole.


def local(tensor: Tensor) -> Tensor:
    """This process's rows."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def whole(tensor: Tensor) -> Tensor:
    """All rows, or the sum of what the processes have; all of them must ask for it."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def first_row(tensor: Tensor) -> int:
    """Where this process's rows begin. The first processes have ceil(rows / N) each."""
    if not hasattr(tensor, "to_local"):
        return 0
    return min(distributed.rank * -(-len(tensor) // distributed.size), len(tensor))


def first_number(tensor: Tensor) -> int:
    """How many numbers of the tensor come before this process's."""
    return first_row(tensor) * tensor.stride(0)


@torch.no_grad()
def fill(target: Tensor, pieces: list[Tensor]) -> None:
    """Copy this process's rows out of a tensor that was saved in pieces, each by a process, the first rows first."""
    mine, first = local(target), first_row(target)
    mine.copy_(torch.cat(pieces)[first : first + len(mine)])


@torch.no_grad()
def gathered(model: llama.Llama, dtype: torch.dtype | None = None) -> llama.Llama:
    """A plain copy of a sharded model, on every process; all must ask for it."""
    with torch.device("meta"):
        copy = llama.Llama(model.config)
    with distributed.connection():
        weights = {name: whole(weight).to(dtype or weight.dtype) for name, weight in model.named_parameters()}
    tied = {"lm_head.weight": weights["model.embed_tokens.weight"]} if model.config.tie_word_embeddings else {}
    copy.load_state_dict({**weights, **tied}, assign=True)
    if tied:
        copy.lm_head.weight = copy.model.embed_tokens.weight
    return copy.eval()


# ---------------------------------------------------------------------------------------------------------------------
# Saved states: state.pt, or state-STEPS-PROCESS-of-PROCESSES.pt of a sharded model


def state_files(directory: Path, steps: int, sharded: bool) -> list[Path]:
    """The files of the state after so many steps, one of each process if it is sharded."""
    n = distributed.size
    return [directory / f"state-{steps}-{i}-of-{n}.pt" for i in range(n)] if sharded else [directory / "state.pt"]


def newest_state(directory: Path) -> list[Path]:
    """The files of the newest state that is complete, process 0's first; [] if there is none."""
    found = defaultdict(list)  # (steps, processes) -> [(process, path)]
    for path in directory.glob("state-*.pt"):
        if match := re.fullmatch(r"state-(\d+)-(\d+)-of-(\d+)\.pt", path.name):
            steps, process, processes = map(int, match.groups())
            found[steps, processes].append((process, path))
    complete = [key for key, parts in found.items() if len(parts) == key[1]]
    if complete:
        return [path for _, path in sorted(found[max(complete)])]
    return [path for path in [directory / "state.pt"] if path.exists()]


def remove_states(directory: Path, but: list[Path] = ()) -> None:
    for path in {*directory.glob("state-*.pt"), directory / "state.pt"} - {*but}:
        path.unlink(missing_ok=True)
