r"""learn.py, with settings.shuffled and the data of sft.py: the gradient against a naive one, AdamW against torch's,
rounding against its expectation, and stages that were stopped against stages that were not.

    python -m pytest tests/test_learn.py
"""

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import data
import learn
import llama
import lora
import sample
import sft
import voting
from learn import AdamW, Example, add_gradient, log_probabilities, micro_batches, run_stage
from settings import Settings, UserError, derive, shuffled
from settings import whole as written_whole

ROOT = Path(__file__).resolve().parent.parent

V, EOS = 12, 0  # the end of a response has the id that batches are padded with


def build(vocab_size=V, seed=0, dtype=torch.float32, **changes) -> llama.Llama:
    model = llama.Llama(llama.Config(**{**dict(
        vocab_size=vocab_size, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64), **changes}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.normal_(0, 0.3, generator=generator)
    return model.to(dtype)


def random_examples(count=12, seed=0) -> list[Example]:
    rng = random.Random(seed)
    ids = lambda low, high: [rng.randrange(V) for _ in range(rng.randint(low, high))]
    return [Example(ids(1, 7), ids(0, 9) + [EOS], rng.choice([1.0, 0.5, 2.0])) for _ in range(count)]


EXAMPLES = random_examples()
SETTINGS = Settings(micro_tokens=40)


def naive_logp(model, example: Example, temperature=1.0) -> torch.Tensor:
    """Token by token from the whole sequence on its own: no padding, no masks."""
    ids = example.prompt + example.response
    logp = torch.log_softmax(model(torch.tensor([ids]))[0].float() / temperature, -1)  # [T, V]
    return sum(logp[t - 1, ids[t]] for t in range(len(example.prompt), len(ids)))


def gradients(model) -> list[torch.Tensor]:
    found = [w.grad.clone() for w in model.parameters()]
    model.zero_grad()
    return found


def naive_gradient(model, examples, denominator) -> tuple[float, list[torch.Tensor]]:
    loss = -sum(example.weight * naive_logp(model, example) for example in examples) / denominator
    loss.backward()
    return loss.item(), gradients(model)


def assert_same(found, expected, tolerance=1e-5):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * b.abs().max().item() + 1e-12)


# ---------------------------------------------------------------------------------------------------------------------
# The gradient of Eq. (5)


@pytest.mark.parametrize("micro_tokens", [1, 10, 17, 33, 64, 100, 10_000])
@pytest.mark.parametrize("tied", [False, True])
def test_gradient_is_the_same_for_every_micro_batch_size(micro_tokens, tied):
    model = build(tie_word_embeddings=tied)
    expected_loss, expected = naive_gradient(model, EXAMPLES, 7)
    loss = add_gradient(model, EXAMPLES, 7, replace(SETTINGS, micro_tokens=micro_tokens))
    assert loss == pytest.approx(expected_loss, rel=1e-5)  # of the whole step, not of the last micro-batch
    assert_same(gradients(model), expected)


def test_gradient_does_not_depend_on_the_order():
    model = build()
    add_gradient(model, EXAMPLES, 7, SETTINGS)
    expected = gradients(model)
    add_gradient(model, EXAMPLES[::-1], 7, SETTINGS)
    assert_same(gradients(model), expected)


def test_gradient_adds_up_and_is_linear_in_the_weights():
    model = build()
    _, expected = naive_gradient(model, EXAMPLES, 5)
    for half in (EXAMPLES[:4], EXAMPLES[4:]):
        add_gradient(model, half, 5, SETTINGS)
    assert_same(gradients(model), expected)
    add_gradient(model, [replace(e, weight=3 * e.weight) for e in EXAMPLES], 15, SETTINGS)
    assert_same(gradients(model), expected)
    add_gradient(model, EXAMPLES + [replace(e, weight=0.0) for e in random_examples(5, seed=1)], 5, SETTINGS)
    assert_same(gradients(model), expected)


def test_denominator_is_a_constant_not_a_length():
    """A response's own gradient is the same in any company: neither tokens nor responses are divided by."""
    model, long = build(), Example([1, 2], [3] * 20 + [EOS])
    add_gradient(model, [long], 4, SETTINGS)
    alone = gradients(model)
    add_gradient(model, [long] + EXAMPLES, 4, SETTINGS)
    together = gradients(model)
    add_gradient(model, EXAMPLES, 4, SETTINGS)
    assert_same([a - b for a, b in zip(together, gradients(model))], alone, 1e-4)
    logp = naive_logp(model, long).item()
    assert add_gradient(model, [long], 4, SETTINGS) == pytest.approx(-logp / 4, rel=1e-5)  # a sum over 21 tokens


def test_no_examples():
    model = build()
    assert add_gradient(model, [], 4, SETTINGS) == 0
    assert all(w.grad is None for w in model.parameters())


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probabilities(temperature):
    """Right for each row of a padded batch, whatever else is in it."""
    model = build()
    with torch.no_grad():
        expected = torch.stack([naive_logp(model, example, temperature) for example in EXAMPLES])
        found = log_probabilities(model, EXAMPLES, temperature=temperature)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        assert found.dtype == log_probabilities(build(dtype=torch.bfloat16), EXAMPLES).dtype == torch.float32


def test_what_is_in_the_loss():
    """Every token of the response with the end; not the prompt, not the padding, though it has the id of the end."""
    model, long = build(), Example([3] * 9, [4] * 20 + [EOS])
    example = Example([1, 2, 3], [4, 5, EOS])
    def loss(*examples):
        with torch.no_grad():
            return -log_probabilities(model, [*examples])[0].item()
    logp = torch.log_softmax(model(torch.tensor([[1, 2, 3, 4, 5, EOS]]))[0], -1)  # [T, V]
    terms = [-logp[t, id].item() for t, id in ((2, 4), (3, 5), (4, EOS))]
    assert loss(example) == pytest.approx(sum(terms), rel=1e-5)
    assert loss(example, long) == pytest.approx(sum(terms), rel=1e-5)  # padded by 24
    assert loss(Example([1, 2, 3], [4, 5])) == pytest.approx(sum(terms[:2]), rel=1e-5)  # cut off: no end to learn
    assert loss(Example([1, 2, 3, 4], [5, EOS])) == pytest.approx(sum(terms[1:]), rel=1e-5)
    for ends in (Example([EOS, EOS], [4, EOS]), Example([1], [EOS, EOS, 5, EOS])):
        assert loss(ends) == pytest.approx(-naive_logp(model, ends).item(), rel=1e-5)


def test_only_some_tokens_are_learned():
    model, example = build(), Example([1, 2, 3], [4, 5, 6, EOS])
    logp = torch.log_softmax(model(torch.tensor([[1, 2, 3, 4, 5, 6, EOS]]))[0], -1)  # [T, V]
    terms = [logp[t, id].item() for t, id in ((2, 4), (3, 5), (4, 6), (5, EOS))]
    for learned in ([True] * 4, [False, True, False, True], [True, False, False, False], [False] * 4):
        group = [replace(example, learned=learned), *EXAMPLES]
        with torch.no_grad():
            found = log_probabilities(model, group)
            torch.testing.assert_close(found[1:], log_probabilities(model, EXAMPLES), rtol=1e-5, atol=1e-5)
        assert found[0].item() == pytest.approx(sum(t for t, on in zip(terms, learned) if on), rel=1e-5)


@pytest.mark.parametrize("at_once", [1, 7, 512])
def test_checkpointing_gives_the_same_gradient(at_once, monkeypatch):
    monkeypatch.setattr(learn, "SLICE", at_once)
    model, computed = build(), []
    model.lm_head.register_forward_hook(lambda layer, given, logits: computed.append(logits.shape[0]))
    loss = add_gradient(model, EXAMPLES, 7, SETTINGS)
    plain = gradients(model)
    computed.clear()
    assert add_gradient(model, EXAMPLES, 7, replace(SETTINGS, checkpointing=True)) == pytest.approx(loss, rel=1e-5)
    assert_same(gradients(model), plain)
    assert max(computed) <= at_once and sum(computed) == 2 * sum(len(e.response) for e in EXAMPLES)


def test_checkpointing_is_used():
    model, calls = build(), Counter()
    model.model.layers[0].register_forward_pre_hook(lambda *_: calls.update("."))
    for checkpointing, expected in (False, 1), (True, 2):
        calls.clear()
        add_gradient(model, EXAMPLES, 7, replace(SETTINGS, checkpointing=checkpointing, micro_tokens=10_000))
        assert calls["."] == expected  # once more in the backward pass


@pytest.mark.parametrize("micro_tokens", [1, 10, 17, 40, 100, 10_000])
def test_micro_batches(micro_tokens):
    examples = random_examples(60, seed=2)
    groups = list(micro_batches(examples, micro_tokens))
    assert sorted(id(e) for group in groups for e in group) == sorted(map(id, examples))  # each once
    lengths = [len(e) for group in groups for e in group]
    assert lengths == sorted(lengths, reverse=True)
    for group in groups:
        assert len(group) == 1 or max(map(len, group)) * len(group) <= micro_tokens
    for group, after in zip(groups, groups[1:]):  # none could have taken one more
        assert len(group[0]) * (len(group) + 1) > micro_tokens
    assert list(micro_batches([], micro_tokens)) == []


def test_supervised_loss_is_per_example_and_logged_per_token():
    model, pages = build(), [replace(e, weight=1.0) for e in EXAMPLES]
    expected_loss, expected = naive_gradient(model, pages, len(pages))
    record = learn.supervised(SETTINGS, lambda step: pages)(model, 0)
    assert_same(gradients(model), expected)
    tokens = sum(len(e.response) for e in pages)
    assert record["tokens"] == tokens and record["nll_per_token"] == pytest.approx(expected_loss * len(pages) / tokens)


def test_encode():
    tokenizer = data.build_tokenizer(data.world_pieces() + voting.pieces())
    text = voting.render_regular("7\n* 12 = 23\n\\boxed{23}")
    example = learn.encode(tokenizer, "Compute 7 * 12 modulo 61.", "asv", text)
    assert example.prompt == voting.encode_prompt(tokenizer, "Compute 7 * 12 modulo 61.", "asv")
    assert example.response[-1] == tokenizer.eos_token_id and example.response.count(tokenizer.eos_token_id) == 1
    assert tokenizer.bos_token_id not in example.response and example.weight == 1
    assert tokenizer.decode(example.response[:-1]) == text


# ---------------------------------------------------------------------------------------------------------------------
# AdamW


@pytest.mark.parametrize("beta2, weight_decay, part", [(0.98, 0.01, 1 << 24), (0.999, 0.0, 100), (0.95, 0.3, 1)])
def test_adamw_equals_torch(beta2, weight_decay, part, monkeypatch):
    monkeypatch.setattr(AdamW, "PART", part)  # numbers at once: all, some rows, one row
    mine, other = build(tie_word_embeddings=True), build(tie_word_embeddings=True)
    start = [w.detach().clone() for w in mine.parameters()]
    adamw = AdamW(mine, 0.9, beta2, weight_decay)
    oracle = torch.optim.AdamW(other.parameters(), lr=0, betas=(0.9, beta2), eps=1e-8, weight_decay=weight_decay)
    for step in range(20):
        lr = 1e-2 * (step + 1) / 20
        examples = random_examples(4, seed=step)
        add_gradient(mine, examples, 4, SETTINGS)
        add_gradient(other, examples, 4, SETTINGS)
        adamw.step(lr)
        assert all(w.grad is None for w in mine.parameters())
        oracle.param_groups[0]["lr"] = lr
        oracle.step()
        oracle.zero_grad()
    moved = max((w - s).abs().max().item() for w, s in zip(mine.parameters(), start))
    assert moved > 0.05
    for a, b in zip(mine.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


class Vector(torch.nn.Module):
    def __init__(self, values, dtype):
        super().__init__()
        self.w = torch.nn.Parameter(torch.as_tensor(values, dtype=dtype))


def test_rounding_is_unbiased():
    """bf16 keeps one of the two neighbours, the nearer one more often: right on average, in either sign."""
    draws = 40_000
    generator = torch.Generator().manual_seed(0)
    for value in (1.0 + 2**-7 / 4, 1.0 + 2**-9, -(1.0 + 2**-7 * 0.9), 3.3e-5, -1e-30, 777.7):
        target = torch.empty(draws, dtype=torch.bfloat16)
        lora.store(target, torch.full((draws,), value), generator)
        found = target.double()
        gap = (found.max() - found.min()).item()
        exact = torch.tensor(value, dtype=torch.float32).double().item()
        assert len(target.unique()) == 2 and found.min() <= exact <= found.max()
        assert gap <= 2**-7 * abs(value)  # neighbours
        assert abs(found.mean().item() - exact) < 4 * gap / 2 / draws**0.5  # four standard errors
    exact = torch.tensor([0.0, 1.0, -2.5, 2.0**-20, 96.0]).repeat(100)
    target = torch.empty(500, dtype=torch.bfloat16)
    lora.store(target, exact, generator)
    assert torch.equal(target.float(), exact)  # what bf16 holds stays


def test_tiny_updates_survive_on_average():
    """A learning rate of 5e-7 on weights near 1, whose last place is 0.0078: rounding to nearest would lose it all."""
    size, steps, lr = 100_000, 40, 5e-7
    model = Vector(torch.ones(size), torch.bfloat16)
    adamw = AdamW(model, 0.9, 0.98, 0.0)
    for _ in range(steps):
        model.w.grad = torch.ones(size, dtype=torch.bfloat16)
        adamw.step(lr)
    change = (model.w.double() - 1).mean().item()  # every step is -lr
    error = (steps * lr * 2**-8 / size) ** 0.5
    assert abs(change + steps * lr) < 4 * error and error < steps * lr / 10
    assert model.w.dtype == adamw.m[0].dtype == adamw.v[0].dtype == torch.bfloat16


def test_bf16_learns_like_fp32_on_average():
    """Moments rounded as well: after many steps the mean of many weights is that of fp32."""
    ends = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = Vector(torch.ones(20_000), dtype)
        adamw = AdamW(model, 0.9, 0.98, 0.01)
        for step in range(60):
            model.w.grad = torch.full((20_000,), 1.0 if step % 3 else -1.5, dtype=dtype)
            adamw.step(1e-3)
        ends[dtype] = model.w.double().mean().item() - 1
    assert ends[torch.bfloat16] == pytest.approx(ends[torch.float32], rel=0.02) and ends[torch.float32] < -0.005


def test_optimizer_continues_from_its_state():
    """Bitwise, in fp32 and bf16, whatever happened to torch's own random numbers."""
    for dtype in (torch.float32, torch.bfloat16):
        whole, parts = (Vector(torch.linspace(-1, 1, 999), dtype) for _ in range(2))
        optimizers = AdamW(whole, 0.9, 0.98, 0.01), AdamW(parts, 0.9, 0.98, 0.01)
        for step in range(6):
            if step == 3:
                state = optimizers[1].state()
                optimizers = optimizers[0], AdamW(parts, 0.9, 0.98, 0.01)
                optimizers[1].restore(state)
                torch.manual_seed(99)
            for model, adamw in zip((whole, parts), optimizers):
                model.w.grad = torch.sin(torch.arange(999) * (step + 1.0)).to(dtype)
                adamw.step(1e-3)
        assert torch.equal(whole.w, parts.w)


# ---------------------------------------------------------------------------------------------------------------------
# Order and seeds


@pytest.mark.parametrize("size, batch", [(10, 3), (10, 5), (7, 7), (5, 12), (1, 4), (64, 64), (13, 1)])
def test_shuffled_visits_every_item_once_per_epoch(size, batch):
    epochs = 4
    items = [i for step in range(max(-(-epochs * size // batch), 3)) for i in shuffled(size, step, batch, seed=3)]
    orders = [tuple(items[e * size : (e + 1) * size]) for e in range(epochs)]
    assert all(sorted(order) == list(range(size)) for order in orders)
    assert size < 7 or len(set(orders)) == epochs  # in a new order each time
    assert shuffled(size, 2, batch, seed=3) == items[2 * batch : 3 * batch]  # a step knows its place
    assert size < 7 or items[:size] != [i for step in range(size) for i in shuffled(size, step, 1, seed=4)]


def test_shuffled_is_uniform():
    first = Counter(shuffled(8, 0, 1, seed)[0] for seed in range(4000))
    assert len(first) == 8 and all(400 < n < 600 for n in first.values())


def test_derive():
    names = [(seed, name, step) for seed in range(20) for name in ("r", "v", "select") for step in range(50)]
    assert len({derive(*n) for n in names}) == len(names)
    assert derive(0, "sft") == derive(0, "sft") and all(0 <= derive(*n) < 2**32 for n in names)


# ---------------------------------------------------------------------------------------------------------------------
# Stages that survive interruption

STEPS = 7


@pytest.fixture(scope="module")
def tokenizer():
    return data.build_tokenizer(data.world_pieces())


class PowerCut(Exception):
    """Nothing in learn.py catches this: what is not on disk is lost."""


@pytest.fixture
def stage(tmp_path, tokenizer, monkeypatch):
    """stage(name, stop={step: exception}) runs a stage of STEPS steps; returns its (weights, log lines).

    clock: seconds that a step takes. slow: seconds that writing its state takes. at_end: of run_stage.
    """
    save = torch.save

    def run(name, stop={}, dtype=torch.float32, steps=STEPS, clock=0.0, slow=0.0, at_end=None, **changes):
        name_of = {torch.float32: "fp32", torch.bfloat16: "bf16"}
        settings = Settings(out=str(tmp_path), micro_tokens=40, dtype=name_of[dtype], **changes)
        now = [0.0]
        monkeypatch.setattr(learn.time, "monotonic", lambda: now[0])

        def write(*arguments):
            now[0] += slow
            save(*arguments)

        monkeypatch.setattr(learn.torch, "save", write)
        torch.manual_seed(random.randrange(2**32))  # a new process: nothing may hang on this
        model = build(len(tokenizer), dtype=dtype, tie_word_embeddings=True)
        seen = []

        def add_step(model, step):
            seen.append(step)
            now[0] += clock
            assert all(w.grad is None for w in model.parameters()) or step == seen[0]
            loss = add_gradient(model, random_examples(4, seed=step), 4, settings)
            if step in stop:
                raise stop[step]
            return {"loss": loss, "bar": ""}

        directory = run_stage(settings, "base", name, model, tokenizer, steps, lambda step: 1e-2 / (step + 1), add_step,
                              at_end)
        log = [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]
        assert [line["step"] for line in log] == list(range(steps))
        assert not (directory / "state.pt").exists()
        weights = llama.load(directory).state_dict()
        assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
        return weights, log

    return run


def assert_same_stage(a, b):
    assert a[1] == b[1]  # the log, numbers bitwise
    assert a[0].keys() == b[0].keys() and all(torch.equal(a[0][name], b[0][name]) for name in a[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_stopped_and_continued_is_bitwise_the_same(stage, tmp_path, dtype):
    """Ctrl-C in the middle of any step, with half a gradient made."""
    whole = stage("whole", dtype=dtype)
    assert len({line["loss"] for line in whole[1]}) == STEPS and all(line["grad_norm"] > 0 for line in whole[1])
    for step in range(STEPS):
        with pytest.raises(SystemExit) as stop:
            stage(f"at {step}", {step: KeyboardInterrupt()}, dtype)
        assert f"stopped after step {step} of {STEPS}" in str(stop.value)  # so many are done
        assert not (tmp_path / f"at {step}" / "ibpo.json").exists()
        assert_same_stage(stage(f"at {step}", dtype=dtype), whole)


def test_stopped_again_and_again(stage):
    whole = stage("whole")
    for step in (0, 1, 1, 4, 5):
        with pytest.raises(SystemExit):
            stage("often", {step: KeyboardInterrupt()})
    assert_same_stage(stage("often"), whole)


def test_ctrl_c_again_while_the_state_is_saved(stage, tmp_path, monkeypatch):
    """At 8B that takes minutes, and is when an impatient user presses it a second time."""
    whole, save = stage("whole"), learn.whole

    @contextmanager
    def slow(path):
        with save(path) as temporary:
            os.kill(os.getpid(), signal.SIGINT)
            yield temporary

    monkeypatch.setattr(learn, "whole", slow)
    with pytest.raises(SystemExit, match="stopped after step 3"):
        stage("twice", {3: KeyboardInterrupt()})
    monkeypatch.setattr(learn, "whole", save)
    assert torch.load(tmp_path / "twice" / "state.pt")["done"] == 3
    assert_same_stage(stage("twice"), whole)


def test_a_damaged_state_is_one_clear_line(stage, tmp_path):
    with pytest.raises(SystemExit):
        stage("damaged", {3: KeyboardInterrupt()})
    state = tmp_path / "damaged" / "state.pt"
    for content in (b"", b"nonsense", state.read_bytes()[:1000]):
        state.write_bytes(content)
        with pytest.raises(UserError, match="state.pt is damaged") as error:
            stage("damaged")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("clock, slow, kept", [(3.0, 0.0, 0), (9.0, 0.0, 3), (30.0, 0.0, 5), (30.0, 3.0, 4)])
def test_power_cut(stage, tmp_path, clock, slow, kept):
    """The state is saved every 20 seconds, or more rarely if that takes long; what is lost is done again, logged once."""
    whole = stage("whole")
    with pytest.raises(PowerCut):
        stage("cut", {5: PowerCut()}, clock=clock, slow=slow)
    assert len((tmp_path / "cut" / "log.jsonl").read_text().splitlines()) == 5
    saved = tmp_path / "cut" / "state.pt"
    done = torch.load(saved)["done"] if saved.exists() else 0
    assert done == kept
    with (tmp_path / "cut" / "log.jsonl").open("a") as log:
        log.write('{"step": 5, "lo')  # half a line
    (tmp_path / "cut" / "state.pt.1.tmp").write_bytes(b"half a state")
    assert_same_stage(stage("cut"), whole)
    assert not (tmp_path / "cut" / "state.pt.1.tmp").exists()


@pytest.mark.parametrize("failure, error", [(KeyboardInterrupt(), SystemExit), (PowerCut(), PowerCut)])
def test_stopped_after_the_last_step(stage, tmp_path, failure, error):
    """Ctrl-C while the finished model is looked at loses no step, though none was saved before."""
    whole, looks = stage("whole"), []

    def at_end(model):
        looks.append(model)
        if len(looks) == 1:
            raise failure

    with pytest.raises(error):
        stage("end", at_end=at_end)
    assert (tmp_path / "end" / "state.pt").exists() == (error is SystemExit)
    assert not (tmp_path / "end" / "ibpo.json").exists()
    # After Ctrl-C all steps are done, and there is nothing left to stop in; after a power cut all are done again.
    assert_same_stage(stage("end", dict.fromkeys(range(STEPS), PowerCut()) if error is SystemExit else {},
                            at_end=at_end), whole)
    assert len(looks) == 2


def test_two_processes_do_not_train_the_same_stage(stage, tmp_path):
    whole, refused = stage("whole"), []

    def at_end(model):
        with pytest.raises(UserError, match="another process is training .*twice") as error:
            stage("twice")
        refused.append(str(error.value))

    assert_same_stage(stage("twice", at_end=at_end), whole)
    assert len(refused) == 1 and "\n" not in refused[0]


def test_a_checkpoint_is_not_valid_while_it_is_written_over(tmp_path, tokenizer, monkeypatch):
    directory = tmp_path / "best"
    learn.save_checkpoint(Settings(), "ibpo", build(len(tokenizer)), tokenizer, directory)

    def cut(*arguments, **options):
        raise PowerCut

    monkeypatch.setattr(llama, "save_file", cut)
    with pytest.raises(PowerCut):
        learn.save_checkpoint(Settings(), "ibpo", build(len(tokenizer)), tokenizer, directory)
    assert not (directory / "ibpo.json").exists()


def test_two_writers_of_one_file(tmp_path):
    """The file is what either of them wrote, whole; nothing else is left, nor after a failure."""
    path = tmp_path / "file.json"
    with written_whole(path) as mine:
        mine.write_text("mine")
        assert not path.exists()
    with pytest.raises(PowerCut), written_whole(path) as mine:
        mine.write_text("half")
        raise PowerCut
    assert path.read_text() == "mine" and list(tmp_path.iterdir()) == [path]
    other = f"import os, sys; os.getpid = lambda: 1; sys.path.insert(0, {str(ROOT)!r}); from settings import whole\n" \
            f"with whole(__import__('pathlib').Path({str(path)!r})) as theirs: theirs.write_text('theirs')"
    with written_whole(path) as mine:
        mine.write_text("mine again")
        subprocess.run([sys.executable, "-c", other], check=True)
        assert path.read_text() == "theirs"
    assert path.read_text() == "mine again" and list(tmp_path.iterdir()) == [path]


def test_without_its_state_a_stage_starts_anew(stage, tmp_path):
    whole = stage("whole")
    with pytest.raises(SystemExit):
        stage("lost", {4: KeyboardInterrupt()})
    (tmp_path / "lost" / "state.pt").unlink()
    assert_same_stage(stage("lost"), whole)


def test_ctrl_c_inside_the_update_waits_for_its_end(tmp_path, tokenizer):
    """A real signal between clipping and logging: the step is finished, logged and counted, then the stage stops."""
    settings = Settings(out=str(tmp_path), micro_tokens=40)

    def run(name, at):
        def learning_rate(step):
            if step == at:
                signal.raise_signal(signal.SIGINT)
            return 1e-2

        def add_step(model, step):
            return {"loss": add_gradient(model, random_examples(4, seed=step), 4, settings), "bar": ""}

        return run_stage(settings, "base", name, build(len(tokenizer)), tokenizer, 4, learning_rate, add_step)

    handler, whole = signal.getsignal(signal.SIGINT), run("whole", None)
    with pytest.raises(SystemExit, match="stopped after step 3 of 4"):
        run("stopped", 2)
    assert len((tmp_path / "stopped" / "log.jsonl").read_text().splitlines()) == 3
    again = run("stopped", None)
    assert (again / "log.jsonl").read_text() == (whole / "log.jsonl").read_text()
    assert (again / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert signal.getsignal(signal.SIGINT) is handler


def test_gradient_is_clipped_and_its_norm_logged(stage):
    free, clipped = stage("free"), stage("clipped", max_grad_norm=1e-3)
    # Adam does not mind the length of its gradients, only how they compare: the first steps are alike
    assert clipped[1][0]["grad_norm"] == free[1][0]["grad_norm"] > 1e-3  # before clipping
    assert any(not torch.equal(free[0][name], clipped[0][name]) for name in free[0])


def test_a_step_without_a_gradient_changes_nothing(tmp_path, tokenizer):
    """Nothing accepted: no decay, no momentum, one line in the log."""
    model = build(len(tokenizer))
    before = {name: w.clone() for name, w in model.state_dict().items()}
    directory = run_stage(Settings(out=str(tmp_path)), "base", "idle", model, tokenizer, 3, lambda step: 1e-2,
                          lambda model, step: {"bar": ""})
    assert all(torch.equal(w, before[name]) for name, w in llama.load(directory).state_dict().items())
    assert [json.loads(line) for line in (directory / "log.jsonl").open()] == [
        {"step": step, "grad_norm": 0.0} for step in range(3)]


def test_a_gradient_that_is_not_finite_stops_in_one_line(tmp_path, tokenizer):
    def add_step(model, step):
        add_gradient(model, EXAMPLES, 4, SETTINGS)
        model.lm_head.weight.grad[0, 0] = float("nan") if step == 2 else 1.0
        return {"bar": ""}

    model = build(len(tokenizer))
    with pytest.raises(UserError) as error:
        run_stage(Settings(out=str(tmp_path)), "base", "nan", model, tokenizer, 4, lambda step: 1e-2, add_step)
    assert "step 2" in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "nan" / "ibpo.json").exists()


def test_finished_stage(stage, tmp_path):
    """Is skipped with the same settings, refused in one line with others; so is an unfinished one with others."""
    settings = Settings(out=str(tmp_path))
    made_with = learn.settings_of(settings, "base")
    assert not learn.finished(tmp_path / "base", made_with)
    stage("base")
    assert learn.finished(tmp_path / "base", made_with)
    same = replace(settings, micro_tokens=7, slots=3, lr=1.0)  # speed, and what comes later
    assert learn.finished(tmp_path / "base", learn.settings_of(same, "base"))
    for other in (replace(settings, seed=1), replace(settings, base_lr=0.5), replace(settings, beta2=0.9)):
        with pytest.raises(UserError) as error:
            learn.finished(tmp_path / "base", learn.settings_of(other, "base"))
        assert "\n" not in str(error.value) and str(tmp_path / "base") in str(error.value)
    notes = json.loads((tmp_path / "base" / "ibpo.json").read_text())
    assert notes == {"stage": "base", "condition": "scot", "settings": made_with}

    (tmp_path / "base" / "ibpo.json").write_text("{")
    with pytest.raises(llama.CheckpointError, match="ibpo.json"):
        learn.finished(tmp_path / "base", made_with)

    with pytest.raises(SystemExit):
        stage("half", {3: KeyboardInterrupt()})
    log = (tmp_path / "half" / "log.jsonl").read_text()
    with pytest.raises(UserError) as error:
        stage("half", seed=1)
    assert "\n" not in str(error.value) and (tmp_path / "half" / "log.jsonl").read_text() == log  # nothing is lost
    assert "seed = 0, not 1" in str(error.value)


def test_schedule():
    settings = Settings(warmup=4, decay=True)
    rate = learn.schedule(settings, 2.0, 10)
    expected = [2 * warm * (10 - step) / 10 for step, warm in enumerate([.25, .5, .75] + 7 * [1])]
    assert [rate(step) for step in range(10)] == pytest.approx(expected)
    constant = learn.schedule(replace(settings, decay=False), 2.0, 10)
    assert [constant(step) for step in range(10)] == [.5, 1, 1.5] + 7 * [2]


def test_settings_of_a_stage_are_those_that_decide_its_result():
    """The settings of what comes later, and those of speed, do not count; those of what comes before do."""
    base, asv, rl = (set(learn.settings_of(Settings(), stage)) for stage in ("base", "asv-sft", "ibpo"))
    assert "base_steps" in base and not base & {"model", "sft_steps", "steps", "budget"}
    assert {"model", "data", "sft_votes", "temperature"} <= asv < rl and "lr" not in asv
    assert {"budget", "method", "kl_max", "rl_top_p", "prompts", "accumulate"} <= rl
    assert not (base | asv | rl) & {"out", "device", "slots", "micro_tokens", "checkpointing", "test_data"}


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
    assert learn.for_sampling(model, Settings()) is model  # auto: it is narrow
    policy = learn.for_sampling(model, Settings(sampling_dtype="bf16"))
    assert {weight.dtype for weight in policy.parameters()} == {torch.bfloat16} and not policy.training
    assert torch.allclose(policy(ids).float(), logits, atol=0.2 * logits.std().item())
    assert names.keys() == dict(model.named_parameters()).keys()
    assert all(torch.equal(weight, names[name]) for name, weight in model.named_parameters())


# ---------------------------------------------------------------------------------------------------------------------
# sft.py: the built-in base, and the base model's own solutions


def test_base_is_built_in_the_type_that_is_asked_for(tmp_path, monkeypatch):
    models = []
    monkeypatch.setattr(sft, "run_stage", lambda settings, stage, name, model, *rest: models.append(model))
    sft.train_base(Settings(out=str(tmp_path), dtype="bf16"))
    assert {weight.dtype for weight in models[0].parameters()} == {torch.bfloat16}


@pytest.fixture
def sampling(tmp_path, monkeypatch):
    """Settings without a base model, and a sampler that answers without one, three problems at a time."""
    asked = []

    def ask(model, tokenizer, questions, condition, samples, seed, progress, stop=None, **options):
        assert condition == "scot"
        asked.append((tuple(questions), seed))
        progress(len(questions) * samples)
        return [[learn.sample.Response([1], 0.0, i > 0, f"{question} {seed} {i}") for i in range(samples)]
                for question in questions]

    monkeypatch.setattr(sft, "open_start", lambda *_: (None, None))
    monkeypatch.setattr(sft, "for_sampling", lambda *_: None)
    monkeypatch.setattr(sft.sample, "stop_ids_of", lambda *_: ())
    monkeypatch.setattr(sft.sample, "ask", ask)
    monkeypatch.setattr(sft, "CHUNK", 3)
    return Settings(out=str(tmp_path), model=str(tmp_path), sft_problems=8, sft_samples=4), asked


def test_sampled_solutions_continue_where_they_stopped(sampling, monkeypatch, tmp_path):
    settings, asked = sampling
    whole = sft.sampled_solutions(replace(settings, out=str(tmp_path / "whole")))
    problems = data.load("builtin", "train", 8, derive(0, "sft"))
    assert [row["question"] for row in whole] == [p.question for p in problems]
    assert all(len(row["samples"]) == 3 for row in whole)  # the one that was cut off is left out
    assert [len(questions) for questions, _ in asked] == [3, 3, 2] and len({seed for _, seed in asked}) == 3

    good, asked[:] = sft.sample.ask, []
    def interrupted(*arguments, **options):
        if len(asked) == 2:
            raise KeyboardInterrupt
        return good(*arguments, **options)
    monkeypatch.setattr(sft.sample, "ask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sft.sampled_solutions(settings)
    monkeypatch.setattr(sft.sample, "ask", good)
    assert sft.sampled_solutions(settings) == whole and len(asked) == 3  # only the last part was left to do
    assert sft.sampled_solutions(settings) == whole and len(asked) == 3  # now nothing is
    assert (tmp_path / "samples.jsonl").read_text() == (tmp_path / "whole" / "samples.jsonl").read_text()


@pytest.mark.parametrize("change", [dict(seed=1), dict(temperature=0.5), dict(sft_samples=5), dict(sft_problems=9),
                                    dict(max_new_tokens=9), dict(model="other"), dict(top_p=0.5),
                                    dict(sampling_dtype="bf16")])
def test_solutions_sampled_with_other_settings_are_refused(sampling, change):
    settings, _ = sampling
    sft.sampled_solutions(settings)
    sft.sampled_solutions(replace(settings, slots=5, sft_votes=3, sft_lr=1.0))  # these do not matter
    with pytest.raises(UserError) as error:
        sft.sampled_solutions(replace(settings, **change))
    assert "samples.jsonl" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("field, value", [("answer", "0"), ("level", 9), ("solution", "none")])
def test_solutions_to_problems_that_have_changed_are_refused(sampling, tmp_path, field, value):
    """A corrected answer in the problem file must not be graded by the old one."""
    settings, _ = sampling
    sft.sampled_solutions(settings)
    path = tmp_path / "samples.jsonl"
    header, first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([header, json.dumps({**json.loads(first), field: value}), *rest]) + "\n")
    with pytest.raises(UserError, match="samples.jsonl was made with other settings or problems"):
        sft.sampled_solutions(settings)
    path.write_text(header[:20])
    with pytest.raises(UserError, match="samples.jsonl is damaged"):
        sft.sampled_solutions(settings)


def test_evenly():
    levels = {1: list("abcde"), 2: list("fg"), 3: [], 5: list("hijkl")}
    assert sft.evenly(levels, 6, "letters") == list("abfghi")
    assert sft.evenly(levels, 9, "letters") == list("abcdfghij")  # level 2 has no more
    assert sft.evenly(levels, 12, "letters") == sft.evenly(levels, 99, "letters") == list("abcdefghijkl")
    assert sft.evenly(levels, 0, "letters") == []
    with pytest.raises(UserError, match="no letters"):
        sft.evenly({1: [], 2: []}, 4, "letters")


@pytest.mark.parametrize("stage", ["sv-sft", "asv-sft"])
@pytest.mark.parametrize("golden", [True, False])
def test_sft_examples(stage, golden):
    """Right votes that keep the rule, right single solutions, under the prompts of their stage; the same amounts."""
    tokenizer, rng, rows = data.build_tokenizer(data.world_pieces() + voting.pieces()), random.Random(0), []
    for problem in data.load("builtin", "train", 200):
        factors = [int(f) for f in problem.question[8:-11].split(" * ")]
        samples = [data.textbook_route(factors, rng)[0] for _ in range(12)]
        samples += [voting.render_extended(samples[:1] * 3, [problem.answer] * 3), voting.render_regular(samples[0])]
        rows.append({"question": problem.question, "answer": problem.answer, "level": problem.level,
                     "solution": problem.solution if golden else None, "samples": samples})
    examples = sft.sft_examples(Settings(sft_votes=15, sft_regular=50, sft_alpha=0.6), stage, tokenizer, rows)
    answers = {row["question"]: row["answer"] for row in rows}
    solutions = {row["question"]: [row["solution"]] if golden else row["samples"][:12] for row in rows}
    kinds, votes = Counter(), Counter()
    for example in examples:
        instruction, question = tokenizer.decode(example.prompt[1:-1]).split("<|problem|>")
        (condition,) = [name for name, prompt in voting.PROMPTS.items() if prompt == instruction]
        text = tokenizer.decode(example.response[:-1])
        parsed, right = voting.judge(answers[question], text, condition=condition)
        assert right and example.response[-1] == tokenizer.eos_token_id
        kinds[condition, parsed.group, "[TRIAL]" in text] += 1
        if parsed.group == "regular" and golden:  # the solution is read, and only what stands around it is learned
            learned = "".join(tokenizer.decode([i]) for i, m in zip(example.response, example.learned) if m)
            assert learned == text.replace(next(r for r in solutions[question] if r in text), "") + "<|end|>"
        else:  # the model's own
            assert example.learned is None
        votes[next(r["level"] for r in rows if r["question"] == question)] += parsed.group == "extended"
    one_trial = ("scot", "regular", False) if stage == "sv-sft" else ("asv", "regular", True)
    assert kinds == {(stage.removesuffix("-sft"), "extended", True): 15, one_trial: 50 if stage == "sv-sft" else 30}
    assert votes == dict.fromkeys(data.LEVELS, 3)  # evenly: voting does not know difficulty yet


def test_three_modes_in_the_examples_of_asv_sft():
    """The same amounts of each mode at every level, all of them right, under the prompt that offers them."""
    tokenizer, rng, rows = data.build_tokenizer(data.world_pieces() + voting.pieces("modes")), random.Random(0), []
    for problem in data.load("builtin", "train", 200):
        factors = [int(f) for f in problem.question[8:-11].split(" * ")]
        rows.append({"question": problem.question, "answer": problem.answer, "level": problem.level,
                     "solution": problem.solution, "samples": [data.textbook_route(factors, rng)[0] for _ in range(12)]})
    settings = Settings(sft_votes=15, sft_short=25, sft_regular=50)
    examples = sft.sft_examples(settings, "asv-sft", tokenizer, rows)
    known, kinds = {row["question"]: row for row in rows}, Counter()
    for example in examples:
        instruction, question = tokenizer.decode(example.prompt[1:-1]).split("<|problem|>")
        parsed, right = voting.judge(known[question]["answer"], tokenizer.decode(example.response[:-1]),
                                     condition="modes")
        assert right and instruction == voting.PROMPTS["modes"]
        assert (example.learned is None) == (parsed.group != "regular")
        kinds[parsed.group, known[question]["level"]] += 1
    amounts = {"extended": 3, "short": 5, "regular": 10}
    assert kinds == {(group, level): amount for group, amount in amounts.items() for level in data.LEVELS}
    two = [vars(example) for example in sft.sft_examples(replace(settings, sft_short=0), "sv-sft", tokenizer, rows)]
    assert two == [vars(example) for example in sft.sft_examples(settings, "sv-sft", tokenizer, rows)]


def test_what_train_sft_learns(tmp_path, monkeypatch):
    """All examples once per epoch, in an order of each stage's own, at the learning rate of SFT."""
    batches = {}

    def run_stage(settings, stage, name, model, tokenizer, steps, learning_rate, make_batch):
        assert steps == 8 and learning_rate(0) == pytest.approx(settings.sft_lr / settings.warmup)
        batches[name] = [make_batch(step) for step in range(8)]
        return tmp_path / name

    monkeypatch.setattr(sft, "sampled_solutions", lambda settings: [])
    monkeypatch.setattr(sft, "open_start", lambda *_: (None, None))
    monkeypatch.setattr(sft, "teach_to_spell", lambda *_: 0)
    monkeypatch.setattr(sft, "sft_examples", lambda *_: list(range(32)))
    monkeypatch.setattr(sft, "supervised", lambda settings, make_batch: make_batch)
    monkeypatch.setattr(sft, "run_stage", run_stage)
    settings = Settings(out=str(tmp_path), sft_steps=8, sft_batch=8)
    for stage in ("sv-sft", "asv-sft"):
        sft.train_sft(settings, stage)
        for epoch in (batches[stage][:4], batches[stage][4:]):
            assert sorted(sum(epoch, [])) == list(range(32))
    assert batches["sv-sft"] != batches["asv-sft"]
    monkeypatch.setattr(sft, "teach_to_spell", lambda *_: 3)
    with pytest.raises(UserError, match="--lora-rank"):
        sft.train_sft(replace(settings, sft_short=9, lora_rank=2), "asv-sft")


@pytest.mark.parametrize("answers", ["565", "55a5", "12345678", "11223348"])
def test_counting_pages_teach_counting_alone(answers):
    """Learned are the tallies, what follows a trial, and all that follows the last; most where nobody agrees."""
    tokenizer = data.build_tokenizer(data.world_pieces() + voting.pieces())
    answers = [None if a == "a" else a for a in answers] if len(answers) == 8 or "a" in answers else [*answers, "5"]
    solutions = [f"7\n* 12 = 23\n\\boxed{{{a}}}" if a else "7" for a in answers]
    example = learn.encode(tokenizer, "Compute 7 * 12 modulo 61.", "sv", voting.render_extended(solutions, answers))
    close, *tallies = (tokenizer.convert_tokens_to_ids(piece) for piece in (voting.CLOSE, *list(voting.TALLY.values())[1:]))
    page = sft.count_only(example, close, set(tallies))
    texts = [tokenizer.decode([i]) for i in page.response]
    learned = [text for text, wanted in zip(texts, page.learned) if wanted]
    last = len(texts) - texts[::-1].index(voting.CLOSE)
    expected = []
    for i, answer in enumerate(answers):
        expected += [voting.TALLY[voting.times_seen(answers[: i + 1])]] * (answer is not None)
        expected += [voting.OPEN] * (i + 1 < len(answers))
    assert learned == expected + texts[last:] and texts[-1] == "<|end|>"
    assert page.weight == (10 if len(answers) == 8 else 1)


def test_counting_pages_quarrel_at_every_level():
    """Solutions from the textbook never quarrel about an easy problem: one could learn to stop after three trials."""
    rng, trials = random.Random(0), {level: [] for level in data.LEVELS}
    large = {large: level for level, (_, large) in data.MIX.items()}
    for _ in range(600):
        question, condition, text = sft.counting_page(rng)
        parsed = voting.parse(text)
        assert condition == "sv" and parsed.group == "extended"
        for body, answer in zip(text.split(voting.OPEN)[1:], parsed.answers):
            assert f" = {answer}\n\\boxed{{{answer}}}" in body  # the last step makes the answer
        factors = [int(f) for f in question[8:-11].split(" * ")]
        trials[large[sum(f >= data.LARGE for f in factors)]].append(parsed.trials)
    for level, counts in trials.items():
        assert len(counts) > 60 and {3, 8} <= set(counts) and sum(counts) / len(counts) > 6.2, level  # of eight


def test_words_that_the_tokenizer_lacks_are_added(tmp_path):
    """The base learns to spell three modes, once; what it said and knew before is untouched."""
    base = Path(__file__).parent.parent / "checkpoints/base"
    model, tokenizer, _ = sample.open_checkpoint(base, torch.float32)
    size = len(tokenizer)
    assert sft.teach_to_spell(model, tokenizer, voting.pieces()) == 0 and model.config.vocab_size == size
    text = voting.render_extended(["7\n* 12 = 23\n\\boxed{23}"] * 3, ["23"] * 3)
    prompt = voting.encode_prompt(tokenizer, "Compute 7 * 12 modulo 61.", "sv")
    ids = torch.tensor([prompt + tokenizer(text, add_special_tokens=False).input_ids])  # [1, T]
    with torch.no_grad():
        before = model(ids)
        assert sft.teach_to_spell(model, tokenizer, voting.pieces("modes")) == 3 == len(tokenizer) - size
        assert sft.teach_to_spell(model, tokenizer, voting.pieces("modes")) == 0
        after = model(ids)  # [1, T, V + 3]
    assert torch.equal(after[..., :size], before)
    assert after.softmax(-1)[..., size:].max() < 1e-3
    llama.save(model, tmp_path, tokenizer)
    again, its_tokenizer, _ = sample.open_checkpoint(tmp_path)
    assert torch.equal(again(ids), after)
    for answers in (["23", "23"], ["1", "2", "3"]):
        text = voting.render_extended([f"7\n\\boxed{{{a}}}" for a in answers], answers, voting.SHORT)
        coded = its_tokenizer(text, add_special_tokens=False).input_ids
        assert its_tokenizer.unk_token_id not in coded and its_tokenizer.decode(coded) == text
        assert tokenizer(text, add_special_tokens=False).input_ids == coded and max(coded) >= size
    for condition in voting.PROMPTS:
        assert len(voting.encode_prompt(its_tokenizer, "Compute 7 * 12 modulo 61.", condition)) == 9
