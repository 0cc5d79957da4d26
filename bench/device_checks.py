"""What must hold on every device: the model, the cache, the sampler, the gradient, the optimizer, a resumed stage.

    python bench/gpu.py --only checks            # on the GPU
    pytest tests/test_gpu.py                     # the same on the CPU, and on a GPU where there is one

Each check compares with something that is written independently: transformers, a forward pass without a cache, the
same gradient on the CPU, torch.optim.AdamW. An AssertionError says what is wrong.
"""

import io
import math
import random
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import llama
import sample
from learn import AdamW, Example, add_gradient, random_bits, store_rounded
from plumbing.settings import Settings
from plumbing.stage import Stage

SHAPE = dict(vocab_size=120, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=256, rope_theta=10000.0)


def tiny_model(device: str, dtype: torch.dtype = torch.float32) -> llama.Llama:
    """Random weights, the same on every device; large ones, so that no two tokens are about equally likely."""
    model = llama.Llama(llama.Config(**SHAPE))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.normal_(0, 0.2, generator=generator)
    return model.to(device, dtype).eval()


def random_ids(rows: int, length: int, device: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(SHAPE["vocab_size"], (rows, length), generator=generator).to(device)


@torch.no_grad()
def check_logits(device: str) -> None:
    """Those of transformers in fp32; in bf16 as near to them as theirs are."""
    ids, model = random_ids(3, 50, device), tiny_model(device)
    theirs = LlamaForCausalLM(LlamaConfig(**SHAPE, rms_norm_eps=model.config.rms_norm_eps)).to(device).eval()
    theirs.load_state_dict(model.state_dict())
    exact = theirs(ids).logits
    torch.testing.assert_close(model(ids), exact, rtol=1e-3, atol=1e-3)
    mine, reference = (m.bfloat16()(ids) for m in (model, theirs))
    errors = [(logits.float() - exact).abs().mean().item() for logits in (mine, reference.logits)]
    assert errors[0] < 1.5 * errors[1] + 1e-3, f"bf16 logits are off by {errors[0]:.3g}, those of transformers " \
                                               f"by {errors[1]:.3g}"


def check_cache(device: str) -> None:
    """Greedy responses with cache and batches, to prompts of many lengths: those of whole forward passes."""
    model, rng = tiny_model(device), random.Random(2)
    prompts = [[rng.randrange(4, 120) for _ in range(rng.randint(1, 40))] for _ in range(70)]
    options = dict(max_new_tokens=12, temperature=0.0, stop_ids=(3, 7))
    mine, plain = sample.generate(model, prompts, **options), sample.generate_simply(model, prompts, **options)
    assert [r.ids for r in mine] == [r.ids for r in plain], "responses differ from those without a cache"
    for one, other in zip(mine, plain):
        assert math.isclose(one.logprob, other.logprob, rel_tol=1e-3, abs_tol=1e-3), "log-probabilities differ"


def check_sampler(device: str) -> None:
    """Any number of rows at once gives the same responses; tokens are as frequent as their probabilities say."""
    model = tiny_model(device)
    prompts = [[5, 9, 11]] * 30 + [[8]] * 30
    options = dict(max_new_tokens=16, stop_ids=(3,), seed=4)
    found = [[r.ids for r in sample.generate(model, prompts, slots=slots, **options)] for slots in (60, 7)]
    assert found[0] == found[1], "responses depend on the number of rows"
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -3.0], device=device)
    for top_p in (1.0, 0.8):
        count = 20_000
        noise = (torch.arange(count, device=device) + 0.5) / count
        ids, logp = sample.sample_token(logits.expand(count, -1), noise, 1.0, top_p)
        p = logits.softmax(0)
        kept = torch.where(p.cumsum(0) - p < top_p, p, 0)  # sorted as they are: down to where the sum reaches top_p
        share = torch.bincount(ids, minlength=5) / count
        torch.testing.assert_close(share, kept / kept.sum(), atol=1e-3, rtol=0)
        torch.testing.assert_close(logp, p.log()[ids])


def check_gradient(device: str) -> None:
    """That of the CPU, in micro-batches of any size, with and without checkpointing."""
    rng = random.Random(3)

    def ids(count: int) -> list[int]:
        return [rng.randrange(120) for _ in range(count)]

    examples = [Example(ids(rng.randint(1, 20)), ids(rng.randint(1, 60)), rng.choice([1.0, 0.5, -0.3]))
                for _ in range(9)]

    def gradient(where: str, micro_tokens: int, checkpointing: bool) -> list[torch.Tensor]:
        model = tiny_model(where).train()
        add_gradient(model, examples, 9, Settings(micro_tokens=micro_tokens, checkpointing=checkpointing))
        return [weight.grad.cpu() for weight in model.parameters()]

    expected = gradient("cpu", 10**6, False)
    for micro_tokens, checkpointing in ((10**6, False), (200, False), (200, True)):
        for mine, right in zip(gradient(device, micro_tokens, checkpointing), expected, strict=True):
            torch.testing.assert_close(mine, right, rtol=1e-3, atol=1e-3 * right.abs().max().item())


def check_adamw(device: str) -> None:
    """In fp32 that of torch; in bf16 right on average, where rounding to nearest would change nothing."""
    models = [tiny_model(device) for _ in range(2)]
    mine = AdamW(models[0], 0.9, 0.98, 0.1)
    theirs = torch.optim.AdamW(models[1].parameters(), lr=1e-2, betas=(0.9, 0.98), weight_decay=0.1)
    for step in range(3):
        for model in models:
            made_up_gradient(model, step)
        mine.step(1e-2)
        theirs.step()
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)

    target = torch.zeros(1 << 16, dtype=torch.bfloat16, device=device)
    value = torch.full((1 << 16,), 1 + 1 / 1024, device=device)  # bf16 has 1 and 1 + 1/128
    store_rounded(target, value.clone(), random_bits(1, 0, len(target), device))
    mean = target.double().mean().item()
    assert abs(mean - (1 + 1 / 1024)) < 5 * (1 / 128) * 0.35 / 256, f"stochastic rounding has the mean {mean}"
    assert set(target.tolist()) == {1.0, 1 + 1 / 128}


def made_up_gradient(model: llama.Llama, step: int) -> None:
    """A gradient that depends on the step alone: attention on a GPU adds up in any order."""
    generator = torch.Generator().manual_seed(100 + step)
    for weight in model.parameters():
        weight.grad = torch.randn(weight.shape, generator=generator).to(weight.device, weight.dtype)


def check_resume(device: str) -> None:
    """A stage that was stopped twice ends with the same bits as one that was not, in bf16."""
    with tempfile.TemporaryDirectory() as folder:
        weights = []
        for name, stops in (("whole", ()), ("stopped", (2, 5))):
            settings = Settings(out=f"{folder}/{name}", device=device, dtype="bf16")
            for stop in (*stops, None):
                run_stage(settings, device, stop)
            weights.append(llama.load(settings.directory("ibpo")).state_dict())
        assert not Path(f"{folder}/stopped/ibpo-50/state.pt").exists()
    for name, whole in weights[0].items():
        assert torch.equal(whole, weights[1][name]), f"{name} differs after two interruptions"


def run_stage(settings: Settings, device: str, stop: int | None) -> None:
    """Eight steps, or until Ctrl-C in the step `stop`."""
    model = tiny_model(device, torch.bfloat16)
    quiet = io.StringIO()
    try:
        with redirect_stdout(quiet), redirect_stderr(quiet), Stage(settings, "ibpo", model, None, 8) as stage:
            for step in stage:
                if step == stop:
                    raise KeyboardInterrupt
                made_up_gradient(model, step)
                stage.update(1e-3, {"loss": 0.0}, "")
    except KeyboardInterrupt:
        if stop is None:
            raise


CHECKS = {"logits": check_logits, "cache": check_cache, "sampler": check_sampler, "gradient": check_gradient,
          "AdamW": check_adamw, "resume": check_resume}


def check_device(device: str) -> dict[str, str]:
    """All checks: name -> "passed", or what failed."""
    print("\nchecks (bench/device_checks.py)")
    found = {}
    for name, check in CHECKS.items():
        try:
            check(device)
            found[name] = "passed"
        except Exception as error:  # a failed check is a result; the others go on
            found[name] = f"FAILED: {type(error).__name__}: {error}"
        print(f"  {name:12}{found[name]}", flush=True)
    return found
