"""plumbing/memory.py against measured peaks of small models, on the CPU and on a GPU where there is one.

On the CPU the profiler notes every allocation and every release of PyTorch's allocator; their largest running sum is
the peak, the same number each time.

    pytest tests/test_memory.py
"""

import os
from collections.abc import Callable

import pytest
import torch
from tiny import build
from torch.profiler import ProfilerActivity, profile

import sample
from learn import AdamW, Example, add_gradient
from plumbing import lora, memory
from plumbing.settings import Settings

# Told to do without AVX-512 where the processor has it, torch 2.13 fails: "pack_vnni2 is only supported when avx512 is"
BF16 = pytest.mark.skipif(os.environ.get("ATEN_CPU_CAPABILITY") in ("default", "avx2"),
                          reason="torch's attention in bf16 does not obey ATEN_CPU_CAPABILITY")
CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))


def peak_of(function: Callable, device: str = "cpu") -> int:
    """The most bytes that it holds at once, beside what there was before."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        function()
    now = most = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


def test_the_peak_is_that_of_what_is_held():
    def work() -> None:
        a = torch.zeros(1000)  # 4,000 bytes
        b = torch.ones(3000)  # 12,000 bytes
        del a
        torch.zeros(2000)
        del b

    assert abs(peak_of(work) - 20_000) < 500 and peak_of(work) == peak_of(work)


SHAPES = {
    "deep": dict(hidden_size=64, intermediate_size=160, num_hidden_layers=6, vocab_size=64),
    "wide feed-forward": dict(hidden_size=64, intermediate_size=640, num_hidden_layers=3, vocab_size=64),
    "large vocabulary": dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, vocab_size=4096),
    "large vocabulary, tied": dict(hidden_size=64, intermediate_size=64, num_hidden_layers=2, vocab_size=4096,
                                   tie_word_embeddings=True),
    "Qwen2": dict(hidden_size=64, intermediate_size=192, num_hidden_layers=4, vocab_size=128, model_type="qwen2"),
    "Qwen3": dict(hidden_size=64, intermediate_size=128, num_hidden_layers=4, vocab_size=128, model_type="qwen3",
                  head_dim=32),
}


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("rank, checkpointing, dtype", [  # with each shape, any two of them in all four ways
    (0, False, "fp32"), (4, True, "fp32"), pytest.param(0, True, "bf16", marks=BF16),
    pytest.param(4, False, "bf16", marks=BF16)])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.slow
def test_learning(shape, rank, checkpointing, dtype, device):
    """The gradient of two micro-batches: gradients are there from the first one on, as in all but a step's start."""
    settings = Settings(dtype=dtype, checkpointing=checkpointing, micro_tokens=1600, lora_rank=rank)
    model = build(max_position_embeddings=400, dtype=sample.DTYPES[dtype], **SHAPES[shape]).to(device)
    if rank:
        lora.add(model, rank, 16.0)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in trained:
        weight.grad = torch.zeros_like(weight)
    examples = [Example([1], [2] * 399) for _ in range(8)]  # 4 of 400 tokens in a micro-batch
    measured = peak_of(lambda: add_gradient(model, examples, 8, settings), device)
    counted = memory.learning_memory(model.config, settings, 400)
    state = memory.state_memory(model.config, settings)
    assert measured == pytest.approx(sum(counted.values()) - sum(state.values()), rel=0.1)
    optimizer = AdamW(model, 0.9, 0.98, 0.0)
    held = [sum(w.nbytes for w in weights) for weights in (
        [*model.parameters()], [w.grad for w in trained], optimizer.m + optimizer.v)]
    assert held == [state[name] for name in ("weights", "gradients", "moments")]


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("shape, dtype", [("deep", "fp32"), ("large vocabulary", "fp32"),
                                          pytest.param("large vocabulary", "bf16", marks=BF16),
                                          pytest.param("Qwen3", "bf16", marks=BF16)])
@pytest.mark.slow
def test_sampling(shape, dtype, device):
    settings = Settings(dtype=dtype, sampling_dtype=dtype, slots=32, max_new_tokens=40)
    model = build(max_position_embeddings=400, dtype=sample.DTYPES[dtype], **SHAPES[shape]).to(device)
    prompts = [[1 + i] * 100 for i in range(8) for _ in range(8)]
    measured = peak_of(lambda: sample.generate(model, prompts, 40, slots=settings.slots), device)
    counted = memory.sampling_memory(model.config, settings, 140, 100, 8, trains=False)
    assert counted["weights"] == sum(w.nbytes for w in model.parameters())
    assert measured == pytest.approx(sum(counted.values()) - counted["weights"], rel=0.1)
