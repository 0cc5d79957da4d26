"""learn.py against whole-batch gradients and torch's AdamW.

    pytest tests/test_learn.py
"""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from tiny import EOS, build, random_examples

import data
import learn
import voting
from learn import AdamW, Example, add_gradient, log_probabilities, micro_batches, random_bits, store_rounded
from plumbing.settings import Settings

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
        group = [replace(example, loss_mask=learned), *EXAMPLES]
        with torch.no_grad():
            found = log_probabilities(model, group)
            torch.testing.assert_close(found[1:], log_probabilities(model, EXAMPLES), rtol=1e-5, atol=1e-5)
        assert found[0].item() == pytest.approx(sum(t for t, on in zip(terms, learned) if on), rel=1e-5)


@pytest.mark.parametrize("at_once", [1, 7, 512])
def test_checkpointing_gives_the_same_gradient(at_once, monkeypatch):
    monkeypatch.setattr(learn, "LOGITS_AT_ONCE", at_once)
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
    for group, _ in zip(groups, groups[1:]):  # none could have taken one more
        assert len(group[0]) * (len(group) + 1) > micro_tokens
    assert list(micro_batches([], micro_tokens)) == []


def test_supervised_loss_is_per_example_and_logged_per_token():
    model, pages = build(), [replace(e, weight=1.0) for e in EXAMPLES]
    expected_loss, expected = naive_gradient(model, pages, len(pages))
    record = learn.add_supervised_gradient(model, pages, SETTINGS)
    assert_same(gradients(model), expected)
    tokens = sum(len(e.response) for e in pages)
    assert record["tokens"] == tokens and record["nll_per_token"] == pytest.approx(expected_loss * len(pages) / tokens)
    pages = [replace(e, loss_mask=[i % 2 == 0 for i in range(len(e.response))]) for e in EXAMPLES]
    record = learn.add_supervised_gradient(model, pages, SETTINGS)
    loss = add_gradient(model, pages, len(pages), SETTINGS)
    assert record["tokens"] == sum(sum(e.loss_mask) for e in pages)
    assert record["nll_per_token"] == pytest.approx(
        loss * len(pages) / sum(e.weight * sum(e.loss_mask) for e in pages))


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


@pytest.mark.parametrize("beta2, weight_decay, at_once", [(0.98, 0.01, 1 << 24), (0.999, 0.0, 100), (0.95, 0.3, 7)])
@pytest.mark.slow
def test_adamw_equals_torch(beta2, weight_decay, at_once):
    mine, other = build(tie_word_embeddings=True), build(tie_word_embeddings=True)
    start = [w.detach().clone() for w in mine.parameters()]
    adamw = AdamW(mine, 0.9, beta2, weight_decay)
    adamw.at_once = at_once
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


def splitmix64(count: int) -> list[int]:
    """The first outputs of the generator with seed 0, in Python's integers, as Steele et al. have it."""
    state, found, modulus = 0, [], 2**64
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) % modulus
        z = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % modulus
        z = (z ^ z >> 27) * 0x94D049BB133111EB % modulus
        found.append(z ^ z >> 31)
    return found


def test_random_bits_are_those_of_splitmix64():
    expected = splitmix64(100)
    assert expected[:2] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]  # its published first outputs
    assert [bits % 2**64 for bits in random_bits(0, 0, 100).tolist()] == expected
    whole = random_bits(3, 0, 1000)
    for first, count in ((0, 10), (7, 500), (999, 1), (1000, 0)):  # of a number, whoever else is updated with it
        assert torch.equal(random_bits(3, first, count), whole[first : first + count])
    later = random_bits(4, 0, 1000)
    assert len({*whole.tolist(), *later.tolist()}) == 2000


def test_rounding_is_unbiased():
    """bf16 keeps one of the two neighbours, the nearer one more often: right on average, in either sign."""
    draws = 40_000
    for step, value in enumerate((1.0 + 2**-7 / 4, 1.0 + 2**-9, -(1.0 + 2**-7 * 0.9), 3.3e-5, -1e-30, 777.7)):
        target = torch.empty(draws, dtype=torch.bfloat16)
        store_rounded(target, torch.full((draws,), value), random_bits(step, 0, draws), 16 * (step % 3))
        found = target.double()
        gap = (found.max() - found.min()).item()
        exact = torch.tensor(value, dtype=torch.float32).double().item()
        assert len(target.unique()) == 2 and found.min() <= exact <= found.max()
        assert gap <= 2**-7 * abs(value)  # neighbours
        assert abs(found.mean().item() - exact) < 4 * gap / 2 / draws**0.5  # four standard errors
    exact = torch.tensor([0.0, 1.0, -2.5, 2.0**-20, 96.0]).repeat(100)
    target = torch.empty(500, dtype=torch.bfloat16)
    store_rounded(target, exact, random_bits(9, 0, 500))
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


def test_bits_follow_the_place_in_the_model():
    """Not the number of weights, nor how many of their numbers are updated at once."""
    ends = []
    for parts, at_once in ((1, 1 << 14), (1, 7), (3, 1 << 14)):
        pieces = torch.linspace(-1, 1, 999).bfloat16().split(999 // parts)
        model = torch.nn.ParameterList([torch.nn.Parameter(piece.clone()) for piece in pieces])
        adamw = AdamW(model, 0.9, 0.98, 0.01)
        adamw.at_once = at_once
        for step in range(3):
            gradient = torch.sin(torch.arange(999) * (step + 1.0)).bfloat16()
            for w, g in zip(model, gradient.split(999 // parts)):
                w.grad = g.clone()
            adamw.step(1e-3)
        ends.append(torch.cat([w.detach() for w in model]))
    assert torch.equal(ends[0], ends[1]) and torch.equal(ends[0], ends[2])


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
