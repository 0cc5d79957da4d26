"""A stage of a run: gradient steps that survive interruption. The loop is the caller's:

    with Stage(settings, "ibpo", model, tokenizer, steps) as stage:
        for step in stage:                          # from the first step, or where an earlier process stopped
            ...                                     # add the step's gradient to the model
            stage.update(learning_rate, record, "")     # clip it, take the AdamW step, write a line to log.jsonl
    stage.directory                                 # a finished checkpoint

From time to time `update` saves the state. After Ctrl-C, SIGTERM, kill -9 or a power cut the same command continues
from it, and ends with the same weights, bit by bit. Nothing of the paper is in here.

    pytest tests/test_stage.py
"""

import copy
import gc
import json
import math
import re
import signal
import time
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

import llama
import sample
from learn import AdamW
from plumbing import distributed, lora, sharding
from plumbing.files import atomic_write, flush
from plumbing.settings import Settings, UserError
from plumbing.signals import Stopped, uninterrupted


class Stage:
    """The steps of one stage; see the module's docstring. Only one run at a time may be in a stage's directory.

    Of several processes (plumbing/distributed.py) all take the same steps, and process 0 writes the files, but for the
    state of a sharded model (plumbing/sharding.py).

    sources: what the stage learns from, name -> fingerprint. A run that continues must find the same.
    """

    SHORTEST_PAUSE = 20.0  # seconds between two saved states, at least
    PAUSE_PER_SAVING = 20  # and at least this many times as long as a save takes (48 GB at 8B)
    IDLE_STEPS = 10  # so many steps in a row without anything to learn from end the stage

    def __init__(self, settings: Settings, stage: str, model: llama.Llama, tokenizer, steps: int,
                 sources: dict[str, str] = None):
        self.settings, self.stage, self.model, self.tokenizer, self.steps = settings, stage, model, tokenizer, steps
        self.name, self.directory = settings.name(stage), settings.directory(stage)
        self.sources = sources or {}
        self.made_with = settings.deciding(stage)
        self.log_file = self.directory / "log.jsonl"
        self.done, self.kept = 0, 0  # steps taken; steps in the saved state
        self.idle = 0  # steps in a row without a gradient
        self.seconds, self.said, self.finished_elsewhere = {}, set(), False
        if "lora_rank" in self.made_with:
            lora.add(model, settings.lora_rank, settings.lora_alpha, settings.seed)
        if settings.shard:
            sharding.shard(model)
        self.sharded = sharding.is_sharded(model)
        self.trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.optimizer = AdamW(model, 0.9, settings.beta2, settings.weight_decay)

    def __enter__(self) -> "Stage":
        with ExitStack() as stack:
            stack.enter_context(only_process(self.directory))
            if is_finished(self.settings, self.stage, self.sources):  # by another process meanwhile
                self.done, self.finished_elsewhere = self.steps, True
            else:
                self._restore()
            self.lock = stack.pop_all()  # kept until __exit__
        self.saved_at, self.pause = time.monotonic(), self.SHORTEST_PAUSE
        self.bar = tqdm(total=self.steps, initial=self.done, desc=self.name, unit="step", dynamic_ncols=True,
                        mininterval=0.5)
        return self

    def __iter__(self) -> Iterator[int]:
        """The steps that are left to do."""
        while self.done < self.steps:
            step = self.done
            yield step
            if self.done == step:
                raise RuntimeError("a step ended without stage.update")

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Measure a part of the step, for the log: seconds["seconds_PART"]."""
        begin = time.monotonic()
        yield
        self.seconds[f"seconds_{part}"] = time.monotonic() - begin

    def update(self, learning_rate: float, record: dict, shown: str, note: str = "") -> None:
        """Take the step for which gradients have been added.

        record: for log.jsonl. shown: in the progress bar. note: printed, once in a run.
        """
        with uninterrupted():
            if not self.sharded:  # else the backward pass has done it
                distributed.sum_gradients(self.trained.values())
            norm = self._clip()
            if not math.isfinite(norm):
                raise UserError(f"{self.name}: the gradient of step {self.done} is not finite; lower the learning rate")
            if norm > 0:
                self.optimizer.step(learning_rate)
            if distributed.rank == 0:
                self._log({"step": self.done, **record, "grad_norm": norm})
            self.done += 1
            self._save_now_and_then()
        self.idle = 0 if norm > 0 else self.idle + 1
        if self.idle == 1 and not note:
            note = f"note: {self.name}: step {self.done - 1} had nothing to learn from ({shown})"
        self._say_once(note, re.sub(r"[\d,.]", "", note))  # its numbers differ from step to step
        if self.idle == min(self.IDLE_STEPS, self.steps):
            raise UserError(f"{self.name}: nothing to learn from in {self.idle} steps in a row ({shown}); "
                            f"{self.log_file} has the details of each step")
        self.bar.set_postfix_str(shown, refresh=False)
        self.bar.update()

    def __exit__(self, kind: type | None, interrupt: BaseException | None, trace) -> None:
        """Write the checkpoint, or after an interruption the state."""
        with self.lock:
            if kind is not None and issubclass(kind, KeyboardInterrupt) and not self.finished_elsewhere:
                raise Stopped(getattr(interrupt, "number", signal.SIGINT), self._stop(str(interrupt))) from None
            self.bar.close()
            if kind is None and not self.finished_elsewhere:
                with uninterrupted():
                    model = sharding.gathered(self.model) if self.sharded else self.model
                    distributed.on_main(lambda: self._finish(model))

    def _stop(self, why: str) -> str:
        """Save the state, also if more signals come meanwhile; returns what to tell the user."""
        lost, complete, tried = "", self.kept, False
        while not tried:  # again, if a signal came before the block could hold it back
            with suppress(KeyboardInterrupt), uninterrupted():
                tried = True
                self.bar.close()
                if distributed.rank == 0 or self.sharded:  # nobody waits for the others here: they may be gone
                    print(f"{self.name}: saving step {self.done}", flush=True)  # at 8B this takes minutes
                    try:
                        self._save_state()
                    except OSError as error:
                        lost = f" ({self.done - self.kept} steps are lost: the state cannot be saved, {error})"
        why = f" ({why})" if why else ""
        other = f" (or from step {complete}, if a process could not save its part)" if self.sharded else ""
        return (f"{self.name}: stopped after step {self.kept} of {self.steps}{lost}{why}; the same command continues "
                f"from here{other}")

    def _finish(self, model: llama.Llama) -> None:
        try:
            save_checkpoint(self.settings, self.stage, lora.merge(model), self.tokenizer, self.directory, self.sources)
        except OSError as error:
            (self.directory / "model.safetensors").unlink(missing_ok=True)  # half of it, perhaps: make room
            raise UserError(f"{self.name}: the checkpoint cannot be written ({error}); make room, and the same "
                            f"command continues after step {self.kept} of {self.steps}, the last one saved") from None
        sharding.remove_states(self.directory)

    def _clip(self) -> float:
        """Scale the gradient down to the norm max_grad_norm, if it is longer; returns the norm before that."""
        weights = self.trained.values()
        with distributed.connection():
            norm = torch.nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
            norm = sharding.whole(norm)
        torch.nn.utils.clip_grads_with_norm_(weights, self.settings.max_grad_norm, norm)
        return norm.item()

    def _log(self, record: dict) -> None:
        with self.log_file.open("a") as log:
            log.write(json.dumps(record) + "\n")

    def _say_once(self, text: str, kind: str = None) -> None:
        """kind: what counts as the same (None: the same text)."""
        kind = text if kind is None else kind
        if text and kind not in self.said:
            self.said.add(kind)
            self.bar.write(text)

    def _save_state(self) -> None:
        """Of a sharded model, this process's part: the state before this one is kept until all parts are there."""
        flush(self.log_file)
        files = sharding.state_files(self.directory, self.done, self.sharded)
        with atomic_write(files[distributed.rank if self.sharded else 0]) as temporary:
            model = {name: sharding.local(weight) for name, weight in self.trained.items()}
            torch.save({"done": self.done, "model": model, "optimizer": self.optimizer.state(),
                        "settings": json.dumps(self.made_with), "sources": json.dumps(self.sources)}, temporary)
        self.kept = self.done
        if not self.sharded:
            sharding.remove_states(self.directory, but=files)

    def _save_now_and_then(self) -> None:
        """If that fails training goes on; the next try may find room."""
        begin, before = time.monotonic(), self.kept
        due = begin - self.saved_at > self.pause
        if not (distributed.on_main(lambda: due) if self.sharded else due and distributed.rank == 0):
            return
        problem = None
        try:
            self._save_state()
        except OSError as error:
            problem = str(error)
        if self.sharded:
            problem = next(filter(None, distributed.gather(problem)), None)  # all have tried
            self.kept = before if problem else self.done
            if distributed.rank == 0:
                sharding.remove_states(self.directory, but=sharding.newest_state(self.directory))
        if problem:
            self._say_once(f"{self.name}: the state cannot be saved ({problem}); make room, or a crash loses all steps "
                           f"after step {self.kept}")
        self.saved_at = time.monotonic()
        self.pause = max(self.SHORTEST_PAUSE, self.PAUSE_PER_SAVING * (self.saved_at - begin))

    def _restore(self) -> None:
        """Continue from the saved state, if there is one. Steps logged after that state are repeated."""
        files = distributed.on_main(lambda: sharding.newest_state(self.directory))
        if files:
            state, *_ = parts = [read_state(file) for file in files]
            require_same(self.directory, json.loads(state["settings"]), self.made_with)
            require_same_sources(self.directory, json.loads(state.get("sources", "{}")), self.sources)
            for name, weight in self.trained.items():
                sharding.fill(weight, [part["model"][name] for part in parts])
            self.optimizer.restore(*(part["optimizer"] for part in parts))
            self.done = self.kept = state["done"]
        distributed.on_main(lambda: self._clean(files))
        if self.done:
            print(f"{self.name}: continues at step {self.done} of {self.steps}")

    def _clean(self, state: list[Path]) -> None:
        """Remove what was written after the state was saved, which is in these files."""
        sharding.remove_states(self.directory, but=state)
        for left_over in self.directory.glob("*.tmp"):  # of a process that was killed while it wrote
            left_over.unlink()
        lines = self.log_file.read_text().splitlines(keepends=True)[: self.done] if self.done else []
        if len(lines) < self.done or not all(line.endswith("\n") for line in lines):
            raise UserError(f"{self.log_file} is damaged: it ends before step {self.done}, where the state is; "
                            f"delete {self.directory} to start this stage anew")
        self.log_file.write_text("".join(lines))


def read_state(path: Path) -> dict:
    """A saved state, checked. It is memory-mapped: an 8B state does not fit twice."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                raise ValueError("a checksum is wrong")
        return torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (RuntimeError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged ({error}); delete {path.parent} to start this stage anew") from None


@contextmanager
def only_process(directory: Path, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a directory. If another run has it, both would write the same files: wait, or UserError."""
    directory.mkdir(parents=True, exist_ok=True)
    lock, waited = FileLock(directory / ".lock"), 0

    def take() -> bool:
        try:
            lock.acquire(timeout=10 if waited else 0)
        except Timeout:
            if not wait:
                raise UserError(f"another process is training in {directory}; wait for it, or choose another --out"
                                ) from None
            if not waited:
                print(f"note: another process is at work in {directory}; waiting for it", flush=True)
            return False
        return True

    while not distributed.on_main(take):  # the other processes must hear of it within minutes
        waited += 1
    try:
        yield
    finally:
        lock.release()


# ---------------------------------------------------------------------------------------------------------------------
# Before and after a stage


def is_finished(settings: Settings, stage: str, sources: dict[str, str] = None) -> bool:
    """Whether the stage is done. Raises UserError if it was done with other settings or from other sources."""
    directory = settings.directory(stage)
    path = directory / "ibpo.json"
    finished = distributed.on_main(path.exists)  # one answer for all: process 0 may soon write it
    if finished:
        notes = llama.read_json(path)
        require_same(directory, notes.get("settings", {}), settings.deciding(stage))
        require_same_sources(directory, notes.get("sources", {}), sources or {})
    return finished


def require_same(directory: Path, before: dict, now: dict) -> None:
    """Raises UserError, which names a setting that differs, if the stage in this directory was made with others."""
    for key in {**now, **before}:
        if before.get(key) != now.get(key):
            raise UserError(f"{directory} was made with {key} = {before.get(key)!r}, not {now.get(key)!r}; "
                            f"choose another --out, or delete that directory")


def require_same_sources(directory: Path, before: dict, now: dict) -> None:
    """Raises UserError if the stage in this directory learned from something that has changed since."""
    for name in before.keys() & now.keys():  # stages made before sources were noted have none
        if before[name] != now[name]:
            raise UserError(f"{directory} was made from another {name}, which has changed since; choose another --out, "
                            "or delete that directory")


def save_checkpoint(settings: Settings, stage: str, model: llama.Llama, tokenizer, directory: Path,
                    sources: dict[str, str] = None) -> None:
    """A Hugging Face checkpoint, with notes for the next reader. ibpo.json comes last: it says that all is there."""
    (directory / "ibpo.json").unlink(missing_ok=True)
    llama.save(model, directory, tokenizer)
    for file in filter(Path.is_file, directory.iterdir()):
        flush(file)
    notes = {"stage": stage, "condition": settings.condition(stage), "settings": settings.deciding(stage)}
    if sources:
        notes["sources"] = sources
    with atomic_write(directory / "ibpo.json") as temporary:
        temporary.write_text(json.dumps(notes, indent=2) + "\n")


def open_start(settings: Settings, directory) -> tuple[llama.Llama, object]:
    """The model a stage starts from, and its tokenizer."""
    gc.collect()  # the sharded model of a previous stage holds itself in memory
    torch.cuda.empty_cache()  # fragments that the previous stage left would leave no room for the sampler's cache
    model, tokenizer, _ = sample.open_checkpoint(directory, sample.DTYPES[settings.dtype], settings.device)
    return model, tokenizer


def for_sampling(model: llama.Llama, settings: Settings) -> llama.Llama:
    """The model, or a copy of it: if it is sharded, or samples faster in another dtype (sample.resolve_dtype)."""
    dtype = sample.resolve_dtype(settings.sampling_dtype, settings.dtype, model.config, settings.device)
    if sharding.is_sharded(model):
        return sharding.gathered(model, sample.DTYPES[dtype])
    return model if dtype == settings.dtype else lora.merge(copy.deepcopy(model)).to(sample.DTYPES[dtype])


def scheduled(settings: Settings, rate: float, step: int, steps: int) -> float:
    """The learning rate of a step of SFT and IBPO: `rate`, lowered by a linear warm-up, and with --decay by a line from
    1 at the first step to 0. With both it peaks below `rate`, at the end of the warm-up.

    Without the decay the noise of the last steps drowns a small model's finer skills, such as stating the most frequent
    of eight answers.
    """
    warm_up = min(1, (step + 1) / settings.warmup)
    decay = 1 - step / steps if settings.decay else 1
    return rate * warm_up * decay
