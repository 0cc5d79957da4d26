"""LLaMA, written out: RMSNorm -> rotary positions -> grouped-query attention -> SwiGLU -> block -> model.

This is the policy pi_theta of the paper (Sec. 2). Nothing here knows about voting or budgets. Module names are those of
Hugging Face: a state dict *is* a checkpoint. `load` reads a directory (config.json and model.safetensors, one file or
sharded), `save` writes one that transformers loads with the same logits. Mistral, Qwen2 and Qwen3 models, which are
LLaMA but for a detail (see Config.model_type), are read and written as well.

    python llama.py checkpoints/base            # what is in a checkpoint: sizes, rotary settings, parameters

Shapes: B sequences, T new tokens, H query heads, K key/value heads, D head size, C model width,
V vocabulary. Sequences are padded on the right: causal attention never looks at padding. Those in a cache are padded on
the left, and masked (plumbing/cache.py).
"""

import argparse
import json
import math
import shutil
import sys
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from plumbing.checkpoint_files import (
    ARCHITECTURES,
    CheckpointError,
    read_fields,
    read_json,  # noqa: F401  (for those who import llama)
    read_shapes,
    read_tensor,
    require,
    sliding_window,
    weight_files,
)

if TYPE_CHECKING:  # importing transformers takes seconds, and the cache reads Config
    from transformers import PreTrainedTokenizerBase as Tokenizer

    from plumbing.cache import Cache

# On recent GPUs cuDNN would take over attention, and build a plan for each new length: in sampling, for every token.
torch.backends.cuda.enable_cudnn_sdp(False)


@dataclass
class Config:
    """The fields of a LLaMA config.json that change the computation, under their Hugging Face names."""

    vocab_size: int
    hidden_size: int  # C
    intermediate_size: int  # width of the feed-forward layer
    num_hidden_layers: int
    num_attention_heads: int  # H
    num_key_value_heads: int | None = None  # K; None: as many as query heads
    head_dim: int | None = None  # D; None: C / H
    rms_norm_eps: float | int = 1e-6
    rope_theta: float | int = 10000.0
    rope_scaling: dict | None = None  # None, {"rope_type": "linear", ...} or {"rope_type": "llama3", ...}
    max_position_embeddings: int = 2048
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | list | None = None
    pad_token_id: int | None = None
    model_type: str = "llama"  # or mistral (the same), qwen2 (see qkv_bias), qwen3 (see qk_norm)

    def __post_init__(self):
        for field in fields(self):
            value, kinds = getattr(self, field.name), get_args(field.type) or (field.type,)
            usable = type(value) in kinds
            if field.name.endswith("token_id"):
                usable = usable and all(type(id) is int for id in value) if type(value) is list else usable
            elif type(value) in (int, float):
                usable = usable and 0 < value < (1e18 if float in kinds else 2**31)  # NaN is not
            if not usable:
                raise ValueError(f"{field.name} = {value!r} is not a usable {kinds[0].__name__}")
        C, H, K = self.hidden_size, self.num_attention_heads, self.num_key_value_heads
        self.num_key_value_heads = K = K or H
        self.head_dim = self.head_dim or C // H
        if C % H or H % K or self.head_dim % 2:
            raise ValueError(f"hidden_size = {C}, num_attention_heads = {H}, num_key_value_heads = {K}: each "
                             f"has to be a multiple of the next, and head_dim = {self.head_dim} even")

    @property
    def qkv_bias(self) -> bool:
        """Qwen2 has a bias on queries, keys and values whatever attention_bias, which is for these and the output."""
        return self.attention_bias or self.model_type == "qwen2"

    @property
    def qk_norm(self) -> bool:
        """Qwen3 normalises each head of queries and keys."""
        return self.model_type == "qwen3"

    @property
    def context(self) -> int:
        """Tokens that the model can read. As in transformers, `linear` scaling stretches what the file says."""
        linear = self.rope_scaling is not None and self.rope_scaling["rope_type"] == "linear"
        return int(self.max_position_embeddings * (self.rope_scaling["factor"] if linear else 1))


# ---------------------------------------------------------------------------------------------------------------------
# The model, in reading order


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:  # [..., size] -> [..., size]
        h = x.float()  # in fp32, whatever the weights are
        h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * h.to(x.dtype)


def inverse_frequencies(config: Config) -> Tensor:
    """Angle per position of each rotary pair, fp32 [D/2], after `linear` or `llama3` context scaling."""
    D = config.head_dim
    # Rounded as transformers does it: one bit here is 1e-4 in the logits of a real model.
    freq = 1.0 / config.rope_theta ** (torch.arange(0, D, 2, dtype=torch.float32, device="cpu") / D)  # [D/2]
    scaling = config.rope_scaling
    if scaling is None:
        return freq
    if scaling["rope_type"] == "linear":
        return freq / scaling["factor"]
    # llama3: slow pairs (wavelength beyond the original context) are slowed down by `factor`, fast ones are
    # left alone, and those in between are blended.
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_max_position_embeddings"] / (2 * math.pi / freq)  # within the old context
    blend = ((turns - low) / (high - low)).clamp(0, 1)
    return blend * freq + (1 - blend) * freq / scaling["factor"]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x_i, x_{i + D/2}): the half-split layout of Hugging Face. x: [B, T, heads, D]."""
    a, b = x.chunk(2, dim=-1)  # each [B, T, heads, D/2]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Attention(nn.Module):
    """Grouped-query attention: H query heads share K key/value heads."""

    def __init__(self, config: Config, layer: int):
        super().__init__()
        C, D = config.hidden_size, config.head_dim
        H, K = config.num_attention_heads, config.num_key_value_heads
        self.layer, self.D = layer, D
        self.q_proj = nn.Linear(C, H * D, bias=config.qkv_bias)
        self.k_proj = nn.Linear(C, K * D, bias=config.qkv_bias)
        self.v_proj = nn.Linear(C, K * D, bias=config.qkv_bias)
        self.o_proj = nn.Linear(H * D, C, bias=config.attention_bias)
        self.q_norm = RMSNorm(D, config.rms_norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(D, config.rms_norm_eps) if config.qk_norm else nn.Identity()

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, caches: "list[Cache] | None") -> Tensor:
        B, T, _ = x.shape
        q = self.q_norm(self.q_proj(x).view(B, T, -1, self.D))  # [B, T, H, D]
        k = self.k_norm(self.k_proj(x).view(B, T, -1, self.D))  # [B, T, K, D]
        q = rotate(q, cos, sin).transpose(1, 2)  # [B, H, T, D]
        k = rotate(k, cos, sin)  # [B, T, K, D]
        v = self.v_proj(x).view(B, T, -1, self.D)  # [B, T, K, D]
        if caches is not None:
            sizes = [len(cache.start) for cache in caches]
            parts = zip(caches, q.split(sizes), k.split(sizes), v.split(sizes), strict=True)
            y = torch.cat([cache.attend(self.layer, *part) for cache, *part in parts])  # [B, H, T, D]
        else:
            y = F.scaled_dot_product_attention(q, k.transpose(1, 2), v.transpose(1, 2), is_causal=True, enable_gqa=True)
        return self.o_proj(y.transpose(1, 2).reshape(B, T, -1))  # [B, T, C]


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: Config):
        super().__init__()
        C, wide = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(C, wide, bias=config.mlp_bias)
        self.up_proj = nn.Linear(C, wide, bias=config.mlp_bias)
        self.down_proj = nn.Linear(wide, C, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:  # [B, T, C] -> [B, T, C]
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, config: Config, layer: int):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = FeedForward(config)

    def forward(self, x: Tensor, *context) -> Tensor:  # [B, T, C] -> [B, T, C]
        x = x + self.self_attn(self.input_layernorm(x), *context)
        return x + self.mlp(self.post_attention_layernorm(x))


class Backbone(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        zeros = torch.zeros(config.vocab_size, config.hidden_size)  # random ones on "meta" import a second of torch
        self.embed_tokens = nn.Embedding.from_pretrained(zeros, freeze=False)
        self.layers = nn.ModuleList(Block(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Llama(nn.Module):
    """The language model: `model(ids[B, T]) -> logits[B, T, V]`."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.model = Backbone(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        self.inverse_frequencies = inverse_frequencies(config)  # [D/2], fp32: not part of the checkpoint

    def forward(self, ids: Tensor, positions: Tensor | None = None, caches: "list[Cache] | None" = None,
                where: Tensor | None = None, checkpoint: bool = False) -> Tensor:
        """Logits of the next token: [B, T, V], or [N, V] at the N positions that `where` selects."""
        return self.lm_head(self.hidden_states(ids, positions, caches, where, checkpoint))

    def hidden_states(self, ids: Tensor, positions: Tensor | None = None, caches: "list[Cache] | None" = None,
                      where: Tensor | None = None, checkpoint: bool = False) -> Tensor:
        """What `lm_head` turns into logits: [B, T, C], or [N, C] at the N positions that `where` selects.

        ids: int[B, T]. positions: int[B, T], of each token in its row (None: 0..T-1). caches: keys and values of the
        tokens before; they take the new ones. The first rows belong to the first of them. where: bool[B, T], the
        positions whose logits are wanted, in row order (None: all; the layer of the logits is by far the widest).
        checkpoint: recompute the blocks in the backward pass instead of keeping their activations.
        """
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)  # [B, T]
        x = self.model.embed_tokens(ids)  # [B, T, C]
        self.inverse_frequencies = self.inverse_frequencies.to(ids.device)
        angle = positions[:, :, None, None].float() * self.inverse_frequencies  # [B, T, 1, D/2], fp32
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        for cache in caches or ():
            cache.extend(ids.shape[1])
        for block in self.model.layers:
            context = (cos, sin, caches)
            x = recompute(block, x, *context, use_reentrant=False) if checkpoint else block(x, *context)
        x = x if where is None else x[where]  # [B, T, C] or [N, C]
        return self.model.norm(x)  # [B, T, C] or [N, C]


def initialise(model: Llama, seed: int) -> Llama:
    """Random weights for training from nothing: normal, 0.02, output layers of each block scaled by depth."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if weight.dim() == 2:
            depth = 2 * model.config.num_hidden_layers if "o_proj" in name or "down_proj" in name else 1
            nn.init.normal_(weight, 0, 0.02 * depth ** -0.5, generator=generator)
    return model


# ---------------------------------------------------------------------------------------------------------------------
# Checkpoint directories


def read_config(directory: str | Path) -> Config:
    """The Config of a checkpoint directory. Raises CheckpointError for what this file does not implement."""
    path = Path(directory) / "config.json"
    raw = read_fields(path)
    given = [f.name for f in fields(Config) if f.default is MISSING or raw.get(f.name) is not None]
    try:
        config = Config(**{name: raw.get(name) for name in given})
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    window = sliding_window(path, raw)
    require(window is None or window >= config.context, path,
            f"sliding_window is {window}, less than the context of {config.context}: not implemented")
    return config


def load(directory: str | Path, dtype: torch.dtype | None = None, device: str | None = None) -> Llama:
    """Read a Hugging Face checkpoint directory: LLaMA, or a family of ARCHITECTURES.

    dtype: of the weights in memory (None: as stored). device: where they go (None: CPU). Whatever is missing,
    surplus, of another shape or not implemented raises CheckpointError, in one line.
    """
    directory, config = Path(directory), read_config(directory)
    contents = {file: read_shapes(file) for file in weight_files(directory)}
    stored = {name: shape for shapes in contents.values() for name, shape in shapes.items()}
    # A size or a number of layers far beyond what is stored would take long to build, or not fit into memory.
    width = max((size for shape in stored.values() for size in shape), default=0)
    for field in "vocab_size", "hidden_size", "intermediate_size", "head_dim":
        size = getattr(config, field)
        require(size <= width, directory, f"{field} = {size}, but no stored tensor is wider than {width}")
    layers = config.num_hidden_layers
    require(layers <= len(stored), directory, f"num_hidden_layers = {layers}, but {len(stored)} tensors are stored")
    with torch.device("meta"):  # shapes only, no memory
        model = Llama(config)
    shapes = {name: list(weight.shape) for name, weight in model.state_dict().items()}
    for name, shape in stored.items():
        if not name.endswith("rotary_emb.inv_freq"):  # old checkpoints store this table in every layer
            require(name in shapes, directory, f"surplus tensor {name}")
            require(shape == shapes[name], directory, f"{name} has shape {shape}; config.json implies {shapes[name]}")
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()  # need not be stored
    missing = sorted(shapes.keys() - stored.keys() - tied)
    require(not missing, directory, f"missing tensor {', '.join(missing[:1])} ({len(missing)} in all)")
    weights = {}
    for file, names in contents.items():
        for name in shapes.keys() & names.keys():
            tensor = read_tensor(file, name)
            weights[name] = tensor.to(device or "cpu", dtype or tensor.dtype, copy=True)
    if tied:
        embedding = weights["model.embed_tokens.weight"]
        same = torch.equal(weights.setdefault("lm_head.weight", embedding), embedding)
        require(same, directory, "lm_head.weight is not the embedding, but tie_word_embeddings is true")
    model.load_state_dict(weights, assign=True)
    if tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    return model


def save(model: Llama, directory: str | Path, tokenizer: "Tokenizer | None" = None) -> None:
    """Write a checkpoint directory that transformers 4 and 5 load, in the weights' own dtype."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tied = ["lm_head.weight"] * model.config.tie_word_embeddings  # stored once, as the embedding
    weights = {name: weight.cpu().contiguous()
               for name, weight in model.state_dict().items() if name not in tied}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    stored = str(next(iter(weights.values())).dtype).removeprefix("torch.")
    rope = {"rope_theta": model.config.rope_theta, **(model.config.rope_scaling or {"rope_type": "default"})}
    family = model.config.model_type
    config = {"architectures": [ARCHITECTURES[family]], "model_type": family, "hidden_act": "silu",
              "dtype": stored, "torch_dtype": stored, "rope_parameters": rope, **asdict(model.config)}
    if family == "mistral":
        config["sliding_window"] = None  # else it would be 4,096
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    shutil.copymode(directory / "config.json", directory / "model.safetensors")  # save_file lets only the owner read it
    if tokenizer is not None:
        tokenizer.save_pretrained(directory)
        file = directory / "tokenizer_config.json"  # transformers 4 does not know the name that 5 writes
        file.write_text(file.read_text().replace('"TokenizersBackend"', '"PreTrainedTokenizerFast"'))


def main() -> None:
    parser = argparse.ArgumentParser(description="Show what is in a LLaMA checkpoint directory.")
    parser.add_argument("directory", help="a Hugging Face checkpoint directory, e.g. checkpoints/base")
    try:
        model = load(parser.parse_args().directory)
    except CheckpointError as error:
        sys.exit(f"error: {error}")
    for name, value in asdict(model.config).items():
        print(f"{name:26s} {value}")
    print(f"{'parameters':26s} {sum(weight.numel() for weight in model.parameters()):,} "
          f"({model.model.embed_tokens.weight.dtype})")


if __name__ == "__main__":
    main()
