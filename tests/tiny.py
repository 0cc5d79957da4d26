"""A tiny LLaMA and examples to learn from, for tests of the gradient and of stages."""

import random

import torch

import llama
from learn import Example

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

    def ids(low: int, high: int) -> list[int]:
        return [rng.randrange(V) for _ in range(rng.randint(low, high))]

    return [Example(ids(1, 7), ids(0, 9) + [EOS], rng.choice([1.0, 0.5, 2.0])) for _ in range(count)]
