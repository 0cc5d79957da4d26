"""LoRA (Hu et al. 2021, arXiv 2106.09685): learn a small correction of each linear layer, and leave the layer alone.

    W x  becomes  W x + (alpha / rank) B A x        A: [rank, in], B: [out, rank], both fp32; W: frozen, of any type

This is no part of the paper: it is how Algorithm 1 fits a smaller card. Only A and B have gradients and AdamW moments;
for an 8B model in bf16 at rank 16 that is 16 GB of weights and 0.7 GB of the rest instead of four times 16 GB. B starts
at 0: at first the adapted model is the model. `merge` puts the corrections into the weights, so that what is saved is
a plain checkpoint. In bf16 they are rounded stochastically: most are less than half a unit in the last place.

    # 8B on a card of 24 GB, by calculation (with --plan: the figures); leave out the second line on one of 80 GB
    python train.py 80gb --lora-rank 16 --lora-alpha 32 --lr 1e-5 --sft-lr 2e-5 --model DIR ... \
        --cache-gib 4 --micro-tokens 2048 --max-new-tokens 2048
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import llama
from learn import store_rounded


class Adapter(nn.Module):
    """A linear layer with its correction."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: float, generator: torch.Generator):
        super().__init__()
        self.linear, self.scale = linear, alpha / rank
        a = torch.randn(rank, linear.in_features, generator=generator) * linear.in_features ** -0.5
        self.a = nn.Parameter(a.to(linear.weight.device))  # [rank, in], fp32
        self.b = nn.Parameter(torch.zeros(linear.out_features, rank, device=linear.weight.device))  # [out, rank]

    def forward(self, x: Tensor) -> Tensor:  # [..., in] -> [..., out]
        correction = self.scale * F.linear(F.linear(x.float(), self.a), self.b)  # [..., out], fp32
        return self.linear(x) + correction.to(x.dtype)

    @torch.no_grad()
    def merged(self, generator: torch.Generator) -> nn.Linear:
        """The linear layer with the correction in its weight, in the weight's own type."""
        weight = self.linear.weight
        bits = torch.randint(1 << 16, weight.shape, generator=generator, device=weight.device)
        store_rounded(weight, weight.float() + self.scale * self.b @ self.a, bits)
        return self.linear


def replace_layers(model: llama.Llama, kind: type, new: Callable[[nn.Module], nn.Module]) -> None:
    """Put new(layer) in the place of every layer of this kind in the blocks of the model."""
    for parent in list(model.model.layers.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, kind):
                setattr(parent, name, new(layer))


def add(model: llama.Llama, rank: int, alpha: float, seed: int = 0) -> llama.Llama:
    """Freeze the model and give an adapter to each linear layer of attention and feed-forward; returns the model."""
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    replace_layers(model, nn.Linear, lambda linear: Adapter(linear, rank, alpha, generator))
    return model


def merge(model: llama.Llama) -> llama.Llama:
    """Undo `add`, keeping what was learned: plain layers again, with gradients; returns the model."""
    generator = torch.Generator(model.model.embed_tokens.weight.device).manual_seed(0)
    replace_layers(model, Adapter, lambda adapter: adapter.merged(generator))
    return model.requires_grad_(True)
