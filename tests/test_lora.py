r"""plumbing/lora.py: adapters that start as nothing, are all that learns, and end as part of the weights.

    python -m pytest tests/test_lora.py
"""

import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

import data
import llama
import sample
from learn import AdamW, Example, add_gradient
from plumbing import lora
from plumbing.settings import Settings, UserError
from plumbing.signals import Stopped
from plumbing.stage import Stage, is_finished

V, RANK, ALPHA = 32, 4, 8.0
SETTINGS = Settings(micro_tokens=64)


def build(vocab_size=V, dtype=torch.float32, **changes) -> llama.Llama:
    model = llama.Llama(llama.Config(**{**dict(
        vocab_size=vocab_size, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True), **changes}))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(weight.dim() == 1, 0.2, generator=generator)  # the weights of norms are near 1
    return model.to(dtype).eval()


def examples(step: int) -> list[Example]:
    ids = torch.randint(V, (6, 20), generator=torch.Generator().manual_seed(step)).tolist()
    return [Example(row[:5], row[5:], weight=1.0 + i) for i, row in enumerate(ids)]


def learn(model, steps=4, lr=1e-2) -> list[float]:
    """A few steps on the same examples; returns the losses."""
    optimizer, losses = AdamW(model, 0.9, 0.98, 0.01), []
    for _ in range(steps):
        losses.append(add_gradient(model, examples(0), 6, SETTINGS))
        optimizer.step(lr)
    return losses


@torch.no_grad()
def logits(model) -> torch.Tensor:  # [3, 25, V], fp32
    return model(torch.randint(V, (3, 25), generator=torch.Generator().manual_seed(9))).float()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_added_adapters_change_nothing(dtype):
    model = build(dtype=dtype, attention_bias=True, mlp_bias=True)
    before = logits(model)
    lora.add(model, RANK, ALPHA)
    assert torch.equal(logits(model), before)
    assert sum(isinstance(layer, lora.Adapter) for layer in model.modules()) == 2 * 7


def test_the_correction_is_alpha_over_rank_times_b_a():
    linear, x = torch.nn.Linear(6, 5), torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(1))
    adapter = lora.Adapter(linear, 2, 8.0, torch.Generator().manual_seed(2))
    torch.nn.init.normal_(adapter.b, generator=torch.Generator().manual_seed(3))
    expected = x @ (linear.weight + 4.0 * adapter.b @ adapter.a).T + linear.bias
    torch.testing.assert_close(adapter(x), expected)
    torch.testing.assert_close(adapter.merged(torch.Generator())(x), expected)


def test_only_adapters_have_gradients_and_move():
    model = lora.add(build(), RANK, ALPHA)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    add_gradient(model, examples(0), 6, SETTINGS)
    for name, weight in model.named_parameters():
        adapter = name.endswith((".a", ".b"))
        assert weight.requires_grad == adapter and (weight.grad is not None) == adapter, name
        assert not name.endswith(".b") or weight.grad.abs().max() > 0, name
    model.zero_grad()
    learn(model)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name]) != name.endswith((".a", ".b")), name


def test_gradient_is_that_of_the_merged_weights():
    """By the chain rule: dL/dB = (alpha / rank) dL/dW A^T, dL/dA = (alpha / rank) B^T dL/dW."""
    adapted = lora.add(build(), RANK, ALPHA)
    learn(adapted)  # B is no longer 0
    add_gradient(adapted, examples(1), 6, SETTINGS)
    found = {name: layer for name, layer in adapted.named_modules() if isinstance(layer, lora.Adapter)}
    merged = lora.merge(lora.add(build(), RANK, ALPHA))
    for name, layer in found.items():
        merged.get_submodule(name).weight.data += ALPHA / RANK * (layer.b @ layer.a).detach()
    add_gradient(merged, examples(1), 6, SETTINGS)
    for name, layer in found.items():
        dW = merged.get_submodule(name).weight.grad
        torch.testing.assert_close(layer.b.grad, ALPHA / RANK * dW @ layer.a.T, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(layer.a.grad, ALPHA / RANK * layer.b.T @ dW, rtol=1e-3, atol=1e-4)


def test_merged_is_adapted(tmp_path):
    """The same logits after learning, here, from a saved directory, and in transformers."""
    model = build()
    before, names = logits(model), list(model.state_dict())
    losses = learn(lora.add(model, RANK, ALPHA))
    assert losses[-1] < losses[0]
    adapted = logits(model)
    assert (adapted - before).abs().max() > 0.1
    lora.merge(model)
    torch.testing.assert_close(logits(model), adapted, rtol=0, atol=5e-5)
    assert list(model.state_dict()) == names and all(weight.requires_grad for weight in model.parameters())
    llama.save(model, tmp_path)
    assert torch.equal(logits(llama.load(tmp_path).eval()), logits(model))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    with torch.no_grad():
        ids = torch.randint(V, (3, 25), generator=torch.Generator().manual_seed(9))
        torch.testing.assert_close(theirs(ids).logits, adapted, rtol=0, atol=1e-4)


def test_bf16_weights_with_fp32_adapters():
    model = lora.add(build(dtype=torch.bfloat16), RANK, ALPHA)
    types = {name.rsplit(".", 1)[1]: weight.dtype for name, weight in model.named_parameters() if "proj" in name}
    assert types == {"weight": torch.bfloat16, "a": torch.float32, "b": torch.float32}
    layer = model.model.layers[0].mlp.gate_proj
    before = layer.b.clone()
    learn(model, steps=1, lr=1e-6)  # below half a unit in the last place of bf16 weights: here nothing is lost
    assert 0.9e-6 < (layer.b - before).abs().median() < 1.1e-6
    losses = learn(model, steps=8)
    assert losses[-1] < losses[0] and logits(model).isfinite().all()
    adapted, plain = logits(model), logits(build(dtype=torch.bfloat16))
    merged = logits(lora.merge(model))
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert (merged - adapted).abs().mean() < 0.1 * (adapted - plain).abs().mean()  # rounded to bf16


def test_merging_keeps_small_corrections_on_average():
    """Far below half a unit in the last place of bf16 weights: rounded to the nearest, all of it would be lost."""
    model = lora.add(build(dtype=torch.bfloat16, hidden_size=64, intermediate_size=4096), RANK, ALPHA)
    layer = model.model.layers[0].mlp.gate_proj
    before = layer.linear.weight.detach().float()
    torch.nn.init.constant_(layer.a, 1.0)
    torch.nn.init.constant_(layer.b, 2e-6 / ALPHA)  # everywhere a correction of 2e-6
    wanted = (ALPHA / RANK * layer.b @ layer.a).detach()
    found = lora.merge(model).model.layers[0].mlp.gate_proj.weight.detach().float() - before
    last_place = 2.0 ** (before.abs().log2().floor() - 7)
    near = (last_place > 100 * wanted) & (before > 2**-7)  # most of them
    assert near.float().mean() > 0.3 and (found[near] == 0).float().mean() > 0.9
    error = (wanted * last_place)[near].sum().sqrt()  # standard error of the sum: p (1 - p) last_place^2, p small
    assert abs(found[near].sum() - wanted[near].sum()) < 4 * error < wanted[near].sum() / 2


def test_sampling_uses_the_adapters():
    """Log-probabilities of sampled responses are those of the adapted model, and not of the bare one."""
    model = build()
    learn(lora.add(model, RANK, ALPHA))
    responses = sample.generate(model, [[1, 2, 3]] * 4, 12, seed=1)
    merged = lora.merge(model)
    bare = build()

    def score(model, ids):
        with torch.no_grad():
            logp = torch.log_softmax(model(torch.tensor([[1, 2, 3] + ids]))[0, 2:-1], -1)  # [T, V]
        return logp.gather(-1, torch.tensor(ids)[:, None]).sum().item()

    for response in responses:
        assert response.logprob == pytest.approx(score(merged, response.ids), abs=1e-4)
        assert abs(response.logprob - score(bare, response.ids)) > 1e-2


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_stage_with_adapters_continues_bitwise_the_same(tmp_path, dtype):
    """Interrupted in the middle of a step: its state holds the adapters alone; what it saves is plain and merged."""
    tokenizer = data.build_tokenizer(data.world_pieces())
    settings = Settings(micro_tokens=40, lora_rank=RANK, lora_alpha=ALPHA, dtype=dtype)
    start = build(len(tokenizer), torch.bfloat16 if dtype == "bf16" else torch.float32)

    def run(name, stop=None):
        model = build(len(tokenizer), torch.bfloat16 if dtype == "bf16" else torch.float32)
        with Stage(replace(settings, out=str(tmp_path / name)), "ibpo", model, tokenizer, 5) as stage:
            for step in stage:
                loss = add_gradient(model, examples(step), 6, settings)
                if step == stop:
                    raise KeyboardInterrupt
                stage.update(1e-2, {"loss": loss}, "")
        return stage.directory

    whole = run("whole")
    with pytest.raises(Stopped):
        run("half", stop=3)
    state = torch.load(tmp_path / "half" / "ibpo-50" / "state.pt")
    assert state["model"] and all(name.endswith((".a", ".b")) for name in state["model"])
    half = run("half")
    assert (half / "log.jsonl").read_text() == (whole / "log.jsonl").read_text()
    saved = llama.load(whole).state_dict()
    assert all(torch.equal(weight, saved[name]) for name, weight in llama.load(half).state_dict().items())
    moved = {name for name, weight in start.state_dict().items() if not torch.equal(weight, saved[name])}
    assert moved == {name for name in saved if "proj" in name}
    assert json.loads((whole / "ibpo.json").read_text())["settings"]["lora_rank"] == RANK
    for other in RANK + 1, 0:
        with pytest.raises(UserError, match="lora_rank"):
            is_finished(replace(settings, out=str(tmp_path / "whole"), lora_rank=other), "ibpo")
    assert not any("lora" in key for key in settings.deciding("base"))
