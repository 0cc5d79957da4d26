"""Several processes that train one model, each with a copy or a part of it: torch.distributed, in a few functions.

    python train.py --processes 4                       # one process per core, one thread each
    torchrun --nproc-per-node 4 -- train.py --device cuda  # the same from PyTorch's own launcher: one per GPU

Work is handed out (`spread`, `share`), and what comes of it is gathered, so that all processes know the same and decide
the same: the budgeted program of a step is one program, whatever their number. Gradients are summed. Files are written,
and lines printed, by process 0. In one process each function is the identity.

Every process must call these functions in the same order. Whoever waits for one that has ended gets `Disconnected`. A
model of which a GPU cannot hold all is cut into parts, with --shard: plumbing/sharding.py.

    pytest tests/test_distributed.py

Beyond one machine. By calculation, not measured (`python bench/scale.py`: LLaMA-3.1-8B on H100s that reach 40 % of
their data sheet), a step of Table 8, 1,024 responses of 1,722 tokens, takes

    GPUs   GB of each, sampling and learning   tokens/s of each   sampling   learning   what limits it
       1               80        70                  5,316           332 s       38 s   room for 141 responses at once
       8               51        20                  5,097            46 s        5 s   one response of 4,096 tokens
      64               26        13                  1,236            46 s        1 s   the same

A token reads all weights (2 bytes each) and the keys and values before it (128 KiB per token); a gradient takes 8
operations per weight and token learned; collectives add about 1 s. More than eight GPUs gain hardly anything while the
longest response is written token by token. What to replace first is therefore the sampler, by vLLM or SGLang on a
checkpoint saved in each step: they start fewer, larger kernels (results/gpu), and eight GPUs that share a model read an
eighth of the weights each. IBPO needs the ids alone; --kl-max and policy gradients need log-probabilities, too, which
would have to be those of learn.py. Next would come a mesh that shards within a machine and copies across (fully_shard
takes one), and larger batches.
"""

import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")
rank, size = 0, 1  # this process, and how many there are; `run` sets them
MOST = 8  # processes by default: the parts of a step that each does for itself limit what more would gain


class Disconnected(KeyboardInterrupt):
    """Another process has ended: for this one the same as Ctrl-C."""


@contextmanager
def connection():
    """Within it, an error of gloo or NCCL is Disconnected. Others pass."""
    try:
        yield
    except RuntimeError as error:  # "[.../gloo/.../pair.cc:553] Connection closed by peer [127.0.0.1]:17833. This ..."
        if "gloo" not in str(error) and not type(error).__name__.startswith("Dist"):
            raise
        reason = re.sub(r"^\[.*?\] ", "", str(error)).partition(". ")[0].splitlines()[0]
        raise Disconnected(f"lost the other processes: {reason}") from None


# ---------------------------------------------------------------------------------------------------------------------
# Work handed out, results gathered


def split(costs: list[float], parts: int) -> list[list[int]]:
    """The indices of `costs` in lists of about equal cost, the dearest first: each goes to the list that is cheapest.

    One list keeps the order.  split([3, 1, 1, 2], 2) == [[0, 2], [3, 1]]
    """
    if parts == 1:
        return [list(range(len(costs)))]
    lists, sums = [[] for _ in range(parts)], [0.0] * parts
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        cheapest = sums.index(min(sums))
        lists[cheapest].append(i)
        sums[cheapest] += costs[i]
    return lists


def gather(value: T) -> list[T]:
    """The value of each process, on all of them. None goes on before all are here."""
    if size == 1:
        return [value]
    values = [None] * size
    with connection():
        torch.distributed.all_gather_object(values, value)
    return values


def share(items: list[T], costs: list[float]) -> list[T]:
    """The items that fall to this process."""
    return [items[i] for i in split(costs, size)[rank]]


def spread(work: Callable[[list[int]], list[T]], costs: list[float]) -> list[T]:
    """What work([0, 1, ..., n - 1]) returns, an item per index, but each process does a part; n = len(costs).

    An exception in one process ends all; process 0 raises it.
    """
    parts = split(costs, size)
    if size == 1:
        return work(parts[0])
    try:
        mine = work(parts[rank])
    except Exception as error:
        error.add_note(f"in process {rank} of {size}:\n{traceback.format_exc()}")
        mine = error
    found = gather(mine)
    for result in found:
        if isinstance(result, Exception):
            if rank > 0:
                sys.exit(1)
            raise result
    items = {i: item for part, result in zip(parts, found) for i, item in zip(part, result, strict=True)}
    return [items[i] for i in range(len(costs))]


def as_of_all(progress: Callable[[int], None], mine: int, all: int) -> Callable[[int], None]:
    """A progress bar of `all` items that moves as if the others were as far as this process is with its `mine`."""
    done = 0

    def report(count: int) -> None:
        nonlocal done
        before, done = done, done + count
        progress(done * all // mine - before * all // mine)

    return report


def on_main(work: Callable[[], T]) -> T:
    """work() by process 0 alone; all wait for it and get what it returns."""
    return gather(work() if rank == 0 else None)[0]


def total(number: float) -> float:
    """The sum over the processes."""
    return number if size == 1 else sum(gather(number))


def sum_gradients(weights: Iterable[torch.nn.Parameter]) -> None:
    """Each gradient becomes the sum over the processes; None stands for zeros, and stays where it is None in all."""
    weights = list(weights)
    if size == 1 or not any(gather(any(weight.grad is not None for weight in weights))):
        return
    for weight in weights:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        with connection():
            torch.distributed.all_reduce(weight.grad)


# ---------------------------------------------------------------------------------------------------------------------
# Starting and ending them


def physical_cores() -> int:
    """Cores that this process may use; the threads of one core count once."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    threads = {i: Path(f"/sys/devices/system/cpu/cpu{i}/topology/thread_siblings_list") for i in usable}
    return len({path.read_text() if path.exists() else i for i, path in threads.items()})


def usual_processes(device: str, models: list[str | Path]) -> int:
    """One on a GPU; else one per physical core, at most MOST, if half of the memory holds as many copies of the model.

    A copy in training: weights, gradient and two moments in fp32, up to eight times the size of a checkpoint in bf16.
    """
    if device != "cpu":
        return 1
    copy = 8 * max(sum(file.stat().st_size for file in Path(model).glob("*.safetensors")) for model in models)  # bytes
    if not copy:  # no model: main() will say so
        return 1
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 2**33  # bytes
    return max(1, min(physical_cores(), MOST, memory // 2 // copy))


def run(main: Callable[[], None], processes: int, device: str) -> None:
    """Run main() in so many processes at once, or, in one that torchrun has started, as a part of them.

    The program that calls this is started anew with the same arguments, once per process.
    """
    started = "TORCHELASTIC_RUN_ID" in os.environ
    here = int(os.environ["LOCAL_WORLD_SIZE"]) if started else processes
    if device == "cuda" and here > max(torch.cuda.device_count(), 1):  # without any, main() says so
        sys.exit(f"error: {here} processes, each on a GPU of its own: there are {torch.cuda.device_count()}")
    if started:
        take_part(main, device)
    elif processes <= 1:
        main()
    else:
        sys.exit(launch(processes, device))


def take_part(main: Callable[[], None], device: str) -> None:
    """main() as one of the processes that torchrun started. All but process 0 are silent, unless they crash."""
    global rank, size
    number, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.multiprocessing._prctl_pr_set_pdeathsig(signal.SIGTERM)  # the launcher may be killed, too
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if processes == 1:
        main()
        return
    if device == "cpu":
        torch.set_num_threads(1)
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo")
    rank, size = number, processes
    status = 1
    try:
        if rank == 0:
            main()
        else:
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
                main()
        with suppress(Disconnected):  # nobody leaves before all are done
            gather(None)
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if rank == 0 and isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException as error:
        if rank == 0 or isinstance(error, Exception):  # of an interruption process 0 says enough
            traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # without waiting for gloo's threads: they may abort a process that ends in the usual way


SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")


def launch(processes: int, device: str) -> int:
    """Start this program in so many processes, as torchrun does, and wait for them; returns the exit status."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher import LaunchConfig, elastic_launch

    if device == "cpu" and os.environ.setdefault("OMP_NUM_THREADS", "1") != "1":
        print(f"note: {processes} processes take one thread each, not {os.environ['OMP_NUM_THREADS']} as "
              "OMP_NUM_THREADS has it; --processes 1 takes as many")
        os.environ["OMP_NUM_THREADS"] = "1"
    logging.disable()  # process 0 says what there is to say
    heeded = [name for name in SIGNALS if hasattr(signal, name)
              and signal.getsignal(getattr(signal, name)) is not signal.SIG_IGN]  # nohup ignores one
    config = LaunchConfig(1, 1, processes, run_id=str(os.getpid()), rdzv_backend="c10d", rdzv_endpoint="localhost:0",
                          max_restarts=0, signals_to_handle=",".join(heeded))
    config.shutdown_timeout = 600  # seconds for saving a state; older versions of torch know no such field, and wait 30
    try:
        elastic_launch(config, sys.executable)(*sys.argv)
    except SignalException as stop:
        return 128 + stop.sigval
    except ChildFailedError as error:
        codes = {number: failure.exitcode for number, failure in sorted(error.failures.items())}
        for number, code in codes.items():
            if code < 0 and code != -signal.SIGTERM:
                why = " (out of memory, perhaps)" if code == -signal.SIGKILL else ""
                print(f"error: process {number} of {processes} was killed by signal {-code}{why}; the same command "
                      "continues where its state was saved", file=sys.stderr)
                return 128 - code
        stopped = (-signal.SIGTERM, 128 + signal.SIGTERM)  # the others, by the launcher
        return next((code for code in codes.values() if code not in stopped), 128 + signal.SIGTERM)
    return 0
