"""plumbing/stage.py: whatever interrupts a stage, it ends with the same weights and log, bit by bit.

    pytest tests/test_stage.py
"""

import json
import os
import random
import signal
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from tiny import V, build, random_examples

import data
import learn
import llama
import plumbing.stage
from learn import add_gradient
from plumbing import lora
from plumbing.settings import Settings, UserError
from plumbing.signals import SIGNALS, Stopped, exit_code, stop_on_signals, uninterrupted
from plumbing.stage import Stage, for_sampling, is_finished, save_checkpoint, scheduled

STEPS = 7


@pytest.fixture(scope="module")
def tokenizer():
    return data.build_tokenizer(data.world_pieces())


class PowerCut(Exception):
    """Nothing in stage.py catches this: what is not on disk is lost."""


@pytest.fixture
def stage(tmp_path, tokenizer, monkeypatch):
    """stage(name, stop={step: exception}) runs a stage of STEPS steps in tmp_path/name; returns (weights, log lines).

    clock: seconds that a step takes. slow: seconds that writing its state takes. inside: called before each step.
    """
    save = torch.save

    def run(name, stop=None, dtype=torch.float32, clock=0.0, slow=0.0, inside=None, **changes):
        name_of = {torch.float32: "fp32", torch.bfloat16: "bf16"}
        settings = Settings(out=str(tmp_path / name), micro_tokens=40, dtype=name_of[dtype], **changes)
        now = [0.0]
        monkeypatch.setattr(plumbing.stage.time, "monotonic", lambda: now[0])

        def write(*arguments):
            now[0] += slow
            save(*arguments)

        monkeypatch.setattr(plumbing.stage.torch, "save", write)
        torch.manual_seed(random.randrange(2**32))  # a new process: nothing may hang on this
        model = build(len(tokenizer), dtype=dtype, tie_word_embeddings=True)
        with Stage(settings, "base", model, tokenizer, STEPS) as running:
            for step in running:
                if inside is not None:
                    inside()
                now[0] += clock
                loss = add_gradient(model, random_examples(4, seed=step), 4, settings)
                if step in (stop or {}):
                    raise stop[step]
                running.update(1e-2 / (step + 1), {"loss": loss}, "")
        log = [json.loads(line) for line in (running.directory / "log.jsonl").read_text().splitlines()]
        assert [line["step"] for line in log] == list(range(STEPS))
        assert not (running.directory / "state.pt").exists()
        weights = llama.load(running.directory).state_dict()
        assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
        return weights, log

    return run


def assert_same_stage(a, b):
    assert a[1] == b[1]  # the log, numbers bitwise
    assert a[0].keys() == b[0].keys() and all(torch.equal(a[0][name], b[0][name]) for name in a[0])


@pytest.mark.parametrize("dtype, steps", [(torch.float32, range(STEPS)), (torch.bfloat16, [3])])
def test_stopped_and_continued_is_bitwise_the_same(stage, tmp_path, dtype, steps):
    """Ctrl-C in the middle of any step, with half a gradient made."""
    whole = stage("whole", dtype=dtype)
    assert len({line["loss"] for line in whole[1]}) == STEPS and all(line["grad_norm"] > 0 for line in whole[1])
    for step in steps:
        with pytest.raises(Stopped) as stop:
            stage(f"at {step}", {step: KeyboardInterrupt()}, dtype)
        assert f"stopped after step {step} of {STEPS}" in str(stop.value)  # so many are done
        assert not (tmp_path / f"at {step}" / "base" / "ibpo.json").exists()
        assert_same_stage(stage(f"at {step}", dtype=dtype), whole)


def test_stopped_again_and_again(stage):
    whole = stage("whole")
    for step in (0, 1, 1, 4, 5):
        with pytest.raises(Stopped):
            stage("often", {step: KeyboardInterrupt()})
    assert_same_stage(stage("often"), whole)


def test_ctrl_c_again_while_the_state_is_saved(stage, tmp_path, monkeypatch):
    """At 8B that takes minutes, and is when an impatient user presses it a second time."""
    whole, save = stage("whole"), plumbing.stage.atomic_write

    @contextmanager
    def slow(path):
        with save(path) as temporary:
            os.kill(os.getpid(), signal.SIGINT)
            yield temporary

    monkeypatch.setattr(plumbing.stage, "atomic_write", slow)
    with pytest.raises(Stopped, match="stopped after step 3"):
        stage("twice", {3: KeyboardInterrupt()})
    monkeypatch.setattr(plumbing.stage, "atomic_write", save)
    assert torch.load(tmp_path / "twice" / "base" / "state.pt")["done"] == 3
    assert_same_stage(stage("twice"), whole)


def test_ctrl_c_again_just_before_it_can_be_held_back(stage, tmp_path, monkeypatch):
    """Seen where the launcher's SIGTERM followed a lost connection: the state has to be saved all the same."""
    whole, calls, hold_back = stage("whole"), [], plumbing.stage.uninterrupted

    def late():
        calls.append(None)
        if len(calls) == 4:  # three updates, then the end
            os.kill(os.getpid(), signal.SIGINT)
        return hold_back()

    monkeypatch.setattr(plumbing.stage, "uninterrupted", late)
    with pytest.raises(Stopped, match="stopped after step 3"):
        stage("twice", {3: KeyboardInterrupt()})
    assert len(calls) == 5 and torch.load(tmp_path / "twice" / "base" / "state.pt")["done"] == 3
    assert_same_stage(stage("twice"), whole)


def test_a_signal_while_the_others_are_being_held_back(monkeypatch):
    """The handlers are as before afterwards."""
    before, install = [signal.getsignal(number) for number in (signal.SIGINT, *SIGNALS)], signal.signal
    calls = []

    def interrupted(number, handler):
        calls.append(number)
        if len(calls) == 2:
            raise Stopped(signal.SIGTERM)
        return install(number, handler)

    monkeypatch.setattr(signal, "signal", interrupted)
    with pytest.raises(Stopped), uninterrupted():
        raise AssertionError("not reached")
    assert [signal.getsignal(number) for number in (signal.SIGINT, *SIGNALS)] == before


def test_a_damaged_state_is_one_clear_line(stage, tmp_path):
    with pytest.raises(Stopped):
        stage("damaged", {3: KeyboardInterrupt()})
    state = tmp_path / "damaged" / "base" / "state.pt"
    for content in (b"", b"nonsense", state.read_bytes()[:1000]):
        state.write_bytes(content)
        with pytest.raises(UserError, match="state.pt is damaged") as error:
            stage("damaged")
        assert "\n" not in str(error.value)


def flip(path, where: float, count: int = 4096) -> None:
    """Zeros in the middle of a file, as a bad disk leaves them."""
    content = bytearray(path.read_bytes())
    at = int(where * len(content))
    content[at : at + count] = bytes(len(content[at : at + count]))
    path.write_bytes(content)


@pytest.mark.parametrize("where", [0.2, 0.5, 0.8])
def test_zeros_in_a_state_are_noticed(stage, tmp_path, where):
    with pytest.raises(Stopped):
        stage("damaged", {3: KeyboardInterrupt()})
    flip(tmp_path / "damaged" / "base" / "state.pt", where)
    with pytest.raises(UserError, match="state.pt is damaged"):
        stage("damaged")


@pytest.mark.parametrize("cut", [1, 40, 400])
def test_a_log_shorter_than_its_state_is_noticed(stage, tmp_path, cut):
    with pytest.raises(Stopped):
        stage("short", {5: KeyboardInterrupt()})
    log = tmp_path / "short" / "base" / "log.jsonl"
    log.write_text(log.read_text()[:-cut])
    with pytest.raises(UserError, match="log.jsonl is damaged"):
        stage("short")


class Full:
    """A disk on which torch.save, or llama.save, finds no room."""

    def __init__(self, monkeypatch, module, name):
        self.full, function = True, getattr(module, name)

        def write(*arguments, **options):
            if self.full:
                raise OSError(28, "No space left on device")
            return function(*arguments, **options)

        monkeypatch.setattr(module, name, write)


def test_disk_full_at_ctrl_c(stage, tmp_path, monkeypatch):
    """What was saved before stays usable, and the message says what is lost."""
    whole = stage("whole")
    with pytest.raises(Stopped):
        stage("full", {2: KeyboardInterrupt()})
    disk = Full(monkeypatch, plumbing.stage, "flush")
    with pytest.raises(Stopped, match=r"stopped after step 2 of 7 \(3 steps are lost: .*No space left") as stop:
        stage("full", {5: KeyboardInterrupt()})
    assert "\n" not in str(stop.value)
    disk.full = False
    assert_same_stage(stage("full"), whole)


def test_disk_full_while_the_state_is_saved_now_and_then(stage, monkeypatch, capsys):
    """Training goes on."""
    whole = stage("whole")
    Full(monkeypatch, Stage, "_save_state")
    monkeypatch.setattr(Stage, "SHORTEST_PAUSE", -1.0)
    assert_same_stage(stage("full"), whole)
    said = capsys.readouterr()
    assert (said.out + said.err).count("the state cannot be saved") == 1


def test_disk_full_at_the_end(stage, tmp_path, monkeypatch):
    whole = stage("whole")
    with pytest.raises(Stopped):
        stage("full", {6: KeyboardInterrupt()})
    disk = Full(monkeypatch, plumbing.stage.llama, "save")
    with pytest.raises(UserError, match="No space left.* after step 6 of 7") as error:
        stage("full")
    assert "\n" not in str(error.value) and not (tmp_path / "full" / "base" / "ibpo.json").exists()
    disk.full = False
    assert_same_stage(stage("full"), whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_are_like_ctrl_c(stage, tmp_path, number):
    whole, steps = stage("whole"), []
    handler = signal.getsignal(number)

    def inside():
        steps.append(0)
        if len(steps) == 4:
            signal.raise_signal(number)

    with pytest.raises(Stopped, match="stopped after step 3 of 7") as stop, stop_on_signals():
        stage("signal", inside=inside)
    assert exit_code(stop.value) == 128 + number and signal.getsignal(number) is handler
    assert_same_stage(stage("signal"), whole)


def test_a_stage_that_another_process_finished_meanwhile_is_not_trained_again(tmp_path, tokenizer):
    settings = Settings(out=str(tmp_path), micro_tokens=40)
    late = Stage(settings, "base", build(len(tokenizer)), tokenizer, 3)  # made ready, not yet entered
    with Stage(settings, "base", build(len(tokenizer)), tokenizer, 3) as first:
        for step in first:
            add_gradient(first.model, random_examples(4, seed=step), 4, settings)
            first.update(1e-2, {}, "")
    files = {path.name: path.read_bytes() for path in first.directory.iterdir() if path.is_file()}
    with late:
        assert list(late) == []
    assert {path.name: path.read_bytes() for path in first.directory.iterdir() if path.is_file()} == files


def test_a_stage_from_other_sources_is_refused(tmp_path, tokenizer):
    """Another model put at the same path, or another problem file under the same name."""
    settings = Settings(out=str(tmp_path), micro_tokens=40)

    def run(sources, stop=None):
        with Stage(settings, "base", build(len(tokenizer)), tokenizer, 3, sources) as running:
            for step in running:
                if step == stop:
                    raise KeyboardInterrupt
                add_gradient(running.model, random_examples(4, seed=step), 4, settings)
                running.update(1e-2, {}, "")

    with pytest.raises(Stopped):
        run({"start": "a", "data": "b"}, stop=2)
    with pytest.raises(UserError, match="made from another start, which has changed"):
        run({"start": "c", "data": "b"})
    run({"start": "a", "data": "b"})
    assert is_finished(settings, "base", {"start": "a"}) and is_finished(settings, "base")
    with pytest.raises(UserError, match="made from another data"):
        is_finished(settings, "base", {"data": "c"})


@pytest.mark.parametrize("clock, slow, kept", [(3.0, 0.0, 0), (9.0, 0.0, 3), (30.0, 0.0, 5), (30.0, 3.0, 4)])
def test_power_cut(stage, tmp_path, clock, slow, kept):
    """The state is saved every 20 seconds, more rarely if that takes long; what is lost is done again, logged once."""
    whole = stage("whole")
    with pytest.raises(PowerCut):
        stage("cut", {5: PowerCut()}, clock=clock, slow=slow)
    assert len((tmp_path / "cut" / "base" / "log.jsonl").read_text().splitlines()) == 5
    saved = tmp_path / "cut" / "base" / "state.pt"
    done = torch.load(saved)["done"] if saved.exists() else 0
    assert done == kept
    with (tmp_path / "cut" / "base" / "log.jsonl").open("a") as log:
        log.write('{"step": 5, "lo')  # half a line
    (tmp_path / "cut" / "base" / "state.pt.1.tmp").write_bytes(b"half a state")
    assert_same_stage(stage("cut"), whole)
    assert not (tmp_path / "cut" / "base" / "state.pt.1.tmp").exists()


def test_two_processes_do_not_train_the_same_stage(stage, tmp_path):
    whole, refused = stage("whole"), []

    def inside():
        if not refused:
            with pytest.raises(UserError, match="another process is training .*twice") as error:
                stage("twice")
            refused.append(str(error.value))

    assert_same_stage(stage("twice", inside=inside), whole)
    assert len(refused) == 1 and "\n" not in refused[0]


def test_the_lock_is_free_again_after_an_error(stage):
    for stop in (KeyboardInterrupt(), PowerCut()):
        with pytest.raises((Stopped, PowerCut)):
            stage("again", {2: stop})
    stage("again")


def test_a_step_without_update_is_an_error(tmp_path, tokenizer):
    """Else the loop would never end."""
    with pytest.raises(RuntimeError, match="update"):
        with Stage(Settings(out=str(tmp_path)), "base", build(len(tokenizer)), tokenizer, 3) as running:
            for _ in running:
                pass


def test_a_checkpoint_is_not_valid_while_it_is_written_over(tmp_path, tokenizer, monkeypatch):
    directory = tmp_path / "best"
    save_checkpoint(Settings(), "ibpo", build(len(tokenizer)), tokenizer, directory)

    def cut(*arguments, **options):
        raise PowerCut

    monkeypatch.setattr(llama, "save_file", cut)
    with pytest.raises(PowerCut):
        save_checkpoint(Settings(), "ibpo", build(len(tokenizer)), tokenizer, directory)
    assert not (directory / "ibpo.json").exists()


def test_without_its_state_a_stage_starts_anew(stage, tmp_path):
    whole = stage("whole")
    with pytest.raises(Stopped):
        stage("lost", {4: KeyboardInterrupt()})
    (tmp_path / "lost" / "base" / "state.pt").unlink()
    assert_same_stage(stage("lost"), whole)


def test_ctrl_c_inside_the_update_waits_for_its_end(tmp_path, tokenizer, monkeypatch):
    """A real signal between clipping and logging: the step is finished, logged and counted, then the stage stops."""
    take_step = learn.AdamW.step

    def run(name, at):
        settings = Settings(out=str(tmp_path / name), micro_tokens=40)

        def interrupted(adamw, learning_rate):
            if running.done == at:
                signal.raise_signal(signal.SIGINT)
            take_step(adamw, learning_rate)

        monkeypatch.setattr(learn.AdamW, "step", interrupted)
        model = build(len(tokenizer))
        with Stage(settings, "base", model, tokenizer, 4) as running:
            for step in running:
                loss = add_gradient(model, random_examples(4, seed=step), 4, settings)
                running.update(1e-2, {"loss": loss}, "")
        return running.directory

    handler, whole = signal.getsignal(signal.SIGINT), run("whole", None)
    with pytest.raises(Stopped, match="stopped after step 3 of 4"):
        run("stopped", 2)
    assert len((tmp_path / "stopped" / "base" / "log.jsonl").read_text().splitlines()) == 3
    again = run("stopped", None)
    assert (again / "log.jsonl").read_text() == (whole / "log.jsonl").read_text()
    assert (again / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert signal.getsignal(signal.SIGINT) is handler


def test_gradient_is_clipped_and_its_norm_logged(stage):
    free, clipped = stage("free"), stage("clipped", max_grad_norm=1e-3)
    # Adam does not mind the length of its gradients, only how they compare: the first steps are alike
    assert clipped[1][0]["grad_norm"] == free[1][0]["grad_norm"] > 1e-3  # before clipping
    assert any(not torch.equal(free[0][name], clipped[0][name]) for name in free[0])


def test_steps_are_those_of_torch(tmp_path, tokenizer):
    """The gradient of all weights together is clipped, and the settings reach AdamW. The norm before is logged."""
    settings = Settings(out=str(tmp_path), micro_tokens=40, max_grad_norm=0.5, beta2=0.9, weight_decay=0.1)
    model, twin = build(len(tokenizer)), build(len(tokenizer))
    adamw = torch.optim.AdamW(twin.parameters(), betas=(0.9, 0.9), weight_decay=0.1)
    norms = []
    with Stage(settings, "base", model, tokenizer, 4) as running:
        for step in running:
            for each in model, twin:
                add_gradient(each, random_examples(4, seed=step), 4, settings)
            norms.append(torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5).item())
            adamw.param_groups[0]["lr"] = rate = 1e-2 / (step + 1)
            adamw.step()
            adamw.zero_grad()
            running.update(rate, {}, "")
    log = [json.loads(line) for line in (running.directory / "log.jsonl").read_text().splitlines()]
    assert min(norms) > 1 and [line["grad_norm"] for line in log] == pytest.approx(norms, rel=1e-5)
    for mine, expected in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(mine, expected, rtol=1e-4, atol=1e-6)


def test_a_step_without_a_gradient_changes_nothing(tmp_path, tokenizer, capsys):
    """Nothing accepted: no decay, no momentum, one line in the log, and it is said once."""
    model, settings = build(len(tokenizer)), Settings(out=str(tmp_path), micro_tokens=40)
    before = None
    with Stage(settings, "base", model, tokenizer, 4) as running:
        for step in running:
            if step == 0:
                add_gradient(model, random_examples(), 4, settings)
            running.update(1e-2, {}, "accuracy 0", note=f"note {step}" * (step in (0, 3)))
            before = before or {name: w.clone() for name, w in model.state_dict().items()}
    assert all(torch.equal(w, before[name]) for name, w in llama.load(running.directory).state_dict().items())
    norms = [json.loads(line)["grad_norm"] for line in (running.directory / "log.jsonl").open()]
    assert norms[0] > 0 and norms[1:] == [0.0] * 3
    said = capsys.readouterr()
    said = said.out + said.err
    assert said.count("nothing to learn from (accuracy 0)") == said.count("note 0") == 1 and "note 3" not in said


@pytest.mark.parametrize("steps, learns, ends_at", [(3, set(), 3), (40, set(), 10), (40, {0, 1, 2}, 13)])
def test_a_stage_that_has_nothing_to_learn_from_ends_with_an_explanation(tmp_path, tokenizer, steps, learns, ends_at):
    """It must not end as if it had been trained."""
    model, settings = build(len(tokenizer)), Settings(out=str(tmp_path), micro_tokens=40)
    with pytest.raises(UserError, match=r"steps in a row \(malformed 100 %\)") as error:
        with Stage(settings, "base", model, tokenizer, steps) as running:
            for step in running:
                if step in learns:
                    add_gradient(model, random_examples(), 4, settings)
                running.update(1e-2, {}, "malformed 100 %")
    assert "\n" not in str(error.value) and running.done == ends_at
    assert not (running.directory / "ibpo.json").exists()


def test_a_gradient_that_is_not_finite_stops_in_one_line(tmp_path, tokenizer):
    model, settings = build(len(tokenizer)), Settings(out=str(tmp_path), micro_tokens=40)
    with pytest.raises(UserError) as error:
        with Stage(settings, "base", model, tokenizer, 4) as running:
            for step in running:
                add_gradient(model, random_examples(), 4, settings)
                model.lm_head.weight.grad[0, 0] = float("nan") if step == 2 else 1.0
                running.update(1e-2, {}, "")
    assert "step 2" in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "base" / "ibpo.json").exists()


def test_finished_stage(stage, tmp_path):
    """Is skipped with the same settings, refused in one line with others; so is an unfinished one with others."""
    settings = Settings(out=str(tmp_path / "done"))
    directory = tmp_path / "done" / "base"
    assert not is_finished(settings, "base")
    stage("done")
    assert is_finished(settings, "base")
    assert is_finished(replace(settings, micro_tokens=7, slots=3, lr=1.0), "base")  # speed, and what comes later
    for other in (replace(settings, seed=1), replace(settings, base_lr=0.5), replace(settings, beta2=0.9)):
        with pytest.raises(UserError) as error:
            is_finished(other, "base")
        assert "\n" not in str(error.value) and str(directory) in str(error.value)
    notes = json.loads((directory / "ibpo.json").read_text())
    assert notes == {"stage": "base", "condition": "scot", "settings": settings.deciding("base")}

    (directory / "ibpo.json").write_text("{")
    with pytest.raises(llama.CheckpointError, match="ibpo.json"):
        is_finished(settings, "base")

    with pytest.raises(Stopped):
        stage("half", {3: KeyboardInterrupt()})
    log = (tmp_path / "half" / "base" / "log.jsonl").read_text()
    with pytest.raises(UserError) as error:
        stage("half", seed=1)
    assert "\n" not in str(error.value)
    assert (tmp_path / "half" / "base" / "log.jsonl").read_text() == log  # nothing is lost
    assert "seed = 0, not 1" in str(error.value)


def test_schedule():
    settings = Settings(warmup=4, decay=True)
    expected = [2 * warm * (10 - step) / 10 for step, warm in enumerate([.25, .5, .75] + 7 * [1])]
    assert [scheduled(settings, 2.0, step, 10) for step in range(10)] == pytest.approx(expected)
    constant = replace(settings, decay=False)
    assert [scheduled(constant, 2.0, step, 10) for step in range(10)] == [.5, 1, 1.5] + 7 * [2]


@pytest.mark.parametrize("rank", [0, 2])
def test_copy_for_sampling(rank):
    """In another dtype a merged copy, which leaves the model alone; in the same dtype the model itself."""
    model = build().eval()
    if rank:
        lora.add(model, rank, 8.0)
        torch.nn.init.normal_(model.model.layers[0].mlp.up_proj.b, 0, 0.3, generator=torch.Generator().manual_seed(0))
    names = {name: weight.clone() for name, weight in model.named_parameters()}
    ids = torch.arange(V)[None]
    logits = model(ids)
    assert for_sampling(model, Settings()) is model  # auto: it is narrow
    policy = for_sampling(model, Settings(sampling_dtype="bf16"))
    assert {weight.dtype for weight in policy.parameters()} == {torch.bfloat16} and not policy.training
    assert torch.allclose(policy(ids).float(), logits, atol=0.2 * logits.std().item())
    assert names.keys() == dict(model.named_parameters()).keys()
    assert all(torch.equal(weight, names[name]) for name, weight in model.named_parameters())
