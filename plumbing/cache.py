"""Keys and values of the tokens so far: with them a new token costs a forward pass of that token alone.

    pytest tests/test_llama.py tests/test_sample.py

Shapes as in llama.py: T new tokens, H query heads, K key/value heads, D head size.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from llama import Config


class Cache:
    """Keys and values of n sequences that go on together: the newest tokens of all are in the same column.

    Sequence i begins at column start[i]; what is left of it is padding. Memory is held for `columns` of them, of which
    `end` are in use. `extend` takes more, `drop` forgets sequences, `pack` makes a cache with more memory, or less.
    """

    BLOCK = 32  # memory is for a multiple of so many columns

    def __init__(self, config: "Config", start: Tensor, columns: int, dtype: torch.dtype, end: int = 0,
                 layers: int = None):
        """start: int[n]. columns: the memory for them, rounded up to whole blocks. layers: for so many, or for all."""
        self.start, self.end, self.columns = start, end, self.whole_blocks(columns)
        self.memory = len(start) * self.columns  # tokens
        self.padded = bool(start.any())
        self.config, self.k, self.v = config, [], []  # one per layer: [n, K, columns, D]
        for _ in range(config.num_hidden_layers if layers is None else layers):
            self.add_layer(dtype)
        # Query heads that share keys are passed as several queries of one head. Keys are then read once for all of them
        # and, on a GPU, by a fast kernel: none takes both shared keys and a mask. On a CPU this makes attention to a
        # cache 1.3 times as fast in fp32, and 2 to 4 times in bf16 (Zen 4, torch 2.13).
        self.G = config.num_attention_heads // config.num_key_value_heads

    def add_layer(self, dtype: torch.dtype) -> None:
        """Memory for the keys and values of one more layer."""
        shape = len(self.start), self.config.num_key_value_heads, self.columns, self.config.head_dim
        for half in (self.k, self.v):
            half.append(torch.empty(shape, dtype=dtype, device=self.start.device))

    @classmethod
    def whole_blocks(cls, columns: int) -> int:
        return -(-columns // cls.BLOCK) * cls.BLOCK

    def extend(self, T: int) -> None:
        """Before a forward pass: T new tokens for each sequence. What may each of them see?"""
        self.end, self.mask = self.end + T, None
        if T > 1 or self.padded:
            column = torch.arange(self.end, device=self.start.device)
            hidden = (column < self.start[:, None, None]) | (column > column[-T:, None])  # bool[n, T, end]
            # Added to the scores. Not -inf: padding sees nothing, and would become NaN.
            mask = torch.where(hidden, torch.finfo(self.k[0].dtype).min, 0.0).to(self.k[0].dtype)
            self.mask = mask[:, None].repeat(1, 1, self.G, 1)  # [n, 1, G * T, end]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store the new k, v [n, T, K, D]; attention of q [n, H, T, D] to all there is: [n, H, T, D]."""
        T, keys, values = q.shape[2], self.k[layer][:, :, : self.end], self.v[layer][:, :, : self.end]
        keys[:, :, -T:] = k.transpose(1, 2)
        values[:, :, -T:] = v.transpose(1, 2)
        queries = q.reshape(len(q), k.shape[2], -1, q.shape[3])  # [n, K, G * T, D]
        y = F.scaled_dot_product_attention(queries, keys, values, attn_mask=self.mask)
        return y.reshape(q.shape)

    def drop(self, rows: set[int]) -> list[int]:
        """Forget these rows. The last rows move to their places; returns which of the old rows is now in each row.

        Their memory is free after the next `pack`.
        """
        n = len(self.start) - len(rows)
        last = [row for row in range(n, len(self.start)) if row not in rows]
        order = [last.pop() if row in rows else row for row in range(n)]
        moved = [(new, old) for new, old in enumerate(order) if new != old]
        if moved:
            new, old = torch.tensor(moved, device=self.start.device).T
            for half in (*self.k, *self.v, self.start):
                half[new] = half[old]
        self.k, self.v, self.start = [k[:n] for k in self.k], [v[:n] for v in self.v], self.start[:n]
        return order

    @classmethod
    def pack(cls, parts: list[tuple["Cache", Tensor | slice]], columns: int = 0) -> "Cache":
        """One cache with some rows of others, aligned at the end: parts are pairs of a cache and its rows.

        columns: the memory to hold for them, if that is more than what is in use. The others are used up: each of
        their layers is let go as soon as it is copied, so that there is never more than one of them twice.
        """
        starts = [cache.start[rows] - cache.end for cache, rows in parts]  # int[n] each, minus the length of each row
        end = -int(min(start.min() for start in starts))  # the length of the longest
        first = parts[0][0]
        packed = cls(first.config, torch.cat(starts) + end, max(columns, end), first.k[0].dtype, end, layers=0)
        for layer in range(first.config.num_hidden_layers):
            packed.add_layer(first.k[layer].dtype)
            row = 0
            for (cache, rows), start in zip(parts, starts, strict=True):
                to, used = slice(row, row + len(start)), min(end, cache.end)  # the columns to copy
                for new, old in (packed.k, cache.k), (packed.v, cache.v):
                    new[layer][to, :, : end - used] = 0
                    new[layer][to, :, end - used : end] = old[layer][rows, :, cache.end - used : cache.end]
                row = to.stop
            for cache, _ in parts:
                cache.k[layer] = cache.v[layer] = None
        return packed


@dataclass
class Sequence:
    """A prompt and what has been sampled after it so far."""

    index: int  # of the prompt
    prompt: list[int]
    noise: Iterator[float]  # a random number for each token to come
    ids: list[int] = field(default_factory=list)
    logprob: float = 0.0
    ended: bool = False


@dataclass
class Cohort:
    """Sequences that go on together, and their cache: row i of it belongs to sequences[i]. It lacks the newest token.

    They were started together, or have grown to about the same length.
    """

    sequences: list[Sequence]
    cache: Cache

    @property
    def age(self) -> int:
        """Tokens sampled by the oldest of its sequences."""
        return max(len(sequence.ids) for sequence in self.sequences)

    def drop(self, rows: set[int]) -> None:
        if rows:
            self.sequences = [self.sequences[row] for row in self.cache.drop(rows)]

    def pack(self, columns: int) -> None:
        self.cache = Cache.pack([(self.cache, slice(None))], columns)


def join(cohorts: list[Cohort], memory: int) -> list[Cohort]:
    """Cohorts of similar lengths become one, as long as less than a quarter of its cache is padding: fewer steps.

    memory: tokens that all caches together may hold.
    """
    joined = []
    held = sum(cohort.cache.memory for cohort in cohorts)
    for cohort in sorted(cohorts, key=lambda cohort: -cohort.cache.end):  # the longest first
        longer = joined[-1] if joined else cohort
        sequences = longer.sequences + cohort.sequences
        tokens = sum(len(sequence.prompt) + len(sequence.ids) - 1 for sequence in sequences)
        more = len(sequences) * longer.cache.columns - longer.cache.memory - cohort.cache.memory
        if joined and tokens > 0.75 * len(sequences) * longer.cache.end and held + more <= memory:
            parts = [(longer.cache, slice(None)), (cohort.cache, slice(None))]
            joined[-1] = Cohort(sequences, Cache.pack(parts, longer.cache.columns))
            held += more
        else:
            joined.append(cohort)
    return joined
