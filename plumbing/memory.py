"""Memory, counted: what a model takes at the worst moment of learning and of sampling.

Nothing is measured or guessed here: the functions add up what autograd and the cache hold, tensor by tensor, under the
settings of a run. tests/test_memory.py compares the sums with the measured peaks of small models. On a GPU, PyTorch's
own context (about half a GiB) and fragments come on top.

    pytest tests/test_memory.py

All sizes are bytes. C width, I width of the feed-forward layer, H and K heads of D, V vocabulary, s bytes of a number,
N tokens of a micro-batch.
"""

from dataclasses import replace

import torch

import llama
import sample
from learn import LOGITS_AT_ONCE, AdamW
from plumbing.cache import Cache
from plumbing.settings import Settings


def one_block(config: llama.Config) -> llama.Llama:
    """The model with a single block, and without memory: all blocks have the same shapes."""
    with torch.device("meta"):
        return llama.Llama(replace(config, num_hidden_layers=1))


def count_parameters(config: llama.Config) -> int:
    """Weights of the model; tied ones count once."""
    model = one_block(config)
    with_one, block = ([w.numel() for w in part.parameters()] for part in (model, model.model.layers))
    return sum(with_one) + (config.num_hidden_layers - 1) * sum(block)


def count_multiplied(config: llama.Config) -> int:
    """Weights that a token is multiplied with: all but an embedding of its own, of which a token reads one row."""
    return count_parameters(config) - config.vocab_size * config.hidden_size * (not config.tie_word_embeddings)


def cache_per_token(config: llama.Config, s: int) -> int:
    """Keys and values of a token in all layers."""
    return 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * s


def bytes_of(settings: Settings) -> int:
    """Bytes of a weight in training."""
    return sample.DTYPES[settings.dtype].itemsize


def dtype_of_sampling(config: llama.Config, settings: Settings) -> torch.dtype:
    """In which type the model samples."""
    return sample.DTYPES[sample.resolve_dtype(settings.sampling_dtype, settings.dtype, config, settings.device)]


def state_memory(config: llama.Config, settings: Settings) -> dict[str, int]:
    """Weights, gradients, and AdamW's two moments."""
    weights = trained = bytes_of(settings) * count_parameters(config)
    if settings.lora_rank:  # A and B of each linear layer, fp32
        shapes = [w.shape for w in one_block(config).model.layers.parameters() if w.dim() == 2]
        trained = 4 * settings.lora_rank * config.num_hidden_layers * sum(map(sum, shapes))
        weights += trained
    return {"weights": weights, "gradients": trained, "moments": 2 * trained}


# ---------------------------------------------------------------------------------------------------------------------
# Learning


def kept_by_block(config: llama.Config, s: int, lora_rank: int) -> int:
    """What one block keeps per token for its backward pass.

    RMSNorm keeps its input in fp32 and the normalised input; a linear layer its input; attention queries, keys, values
    and output; SwiGLU gate, silu(gate) and up. Frozen layers (LoRA) keep no input, but their adapters do, in fp32.
    """
    C, I, HD, KD = sizes(config)
    trains = not lora_rank
    inputs = s if trains or s == 4 else 0  # in fp32 an adapter keeps the very input of its layer
    norm = 4 + s * trains + inputs
    kept = 2 * C * norm + s * (2 * HD + 2 * KD + 3 * I) + inputs * I + 4 * config.num_attention_heads
    if config.qk_norm:
        kept += (HD + KD) * (4 + s * trains)
    if lora_rank:  # seven layers: three read C, one HD, two C, one I
        kept += 4 * 7 * lora_rank + (4 * (5 * C + HD + I) if s == 2 else 0)
    return kept


def sizes(config: llama.Config) -> tuple[int, int, int, int]:
    """C, I, and the widths of queries and of keys."""
    D = config.head_dim
    return (config.hidden_size, config.intermediate_size, D * config.num_attention_heads,
            D * config.num_key_value_heads)


def learning_memory(config: llama.Config, settings: Settings, longest: int) -> dict[str, int]:
    """What a gradient step takes at its worst moment, by what it is for; the sum is the peak.

    longest: tokens of the longest example; a micro-batch holds that, or settings.micro_tokens if these are more.
    """
    s, trains, V = bytes_of(settings), not settings.lora_rank, config.vocab_size
    C, I, HD, KD = sizes(config)
    N, layers = max(longest, settings.micro_tokens), config.num_hidden_layers
    block = kept_by_block(config, s, settings.lora_rank)
    back = (2 * I + C) * s  # gradients of silu(gate) and up, and of what goes past the feed-forward layer
    if s == 2 and not trains:  # that of the last adapter's input, in fp32
        back += 2 * I
    small = N * (config.head_dim * s + 26)  # rotary angles, ids, masks
    if settings.checkpointing:  # the inputs of all blocks, and what one keeps, which in fp32 includes its input
        kept, inside = N * layers * C * s, N * (block - C * s * (s == 4))
    else:
        kept, inside = N * (layers - 1) * block, N * block

    # While the logits are there: n at once, divided by the temperature, their log-softmax, and its gradient, in fp32;
    # a little later that of the output layer's weights, beside the sum of those of earlier logits.
    n = min(N, LOGITS_AT_ONCE) if settings.checkpointing else N
    head = V * C * s * trains
    logits = head * (n < N) + max(12 * n * V, (4 + s) * n * V + head)
    at_logits = kept + N * C * (4 + s * trains + s) + inside * (not settings.checkpointing) + logits
    at_block = kept + inside + N * back + head * config.tie_word_embeddings
    if at_logits > at_block:
        work = {"activations": at_logits - logits + small, "logits": logits}
    else:
        work = {"activations": at_block + small, "logits": 0}
    update = 40 * min(max(V, I) * C, AdamW.ELEMENTS_AT_ONCE)  # AdamW: ten fp32 numbers for each that it does at once
    if trains and update > sum(work.values()):
        work = {"activations": update, "logits": 0}
    return state_memory(config, settings) | work


# ---------------------------------------------------------------------------------------------------------------------
# Sampling


def rows_at_once(config: llama.Config, settings: Settings, longest: int) -> int:
    """How many sequences of `longest` tokens run at once: slots, or what cache_gib holds. LengthError: none."""
    tokens = sample.tokens_for(config, longest, dtype_of_sampling(config, settings), settings.cache_gib)
    return min(settings.slots, tokens // Cache.whole_blocks(longest))


def sampling_memory(config: llama.Config, settings: Settings, longest: int, prompt: int, samples: int,
                    trains: bool) -> dict[str, int]:
    """What sampling takes at its worst moment, by what it is for; the sum is the peak.

    longest: tokens of a row of the cache, `prompt` of them the prompt. samples: responses per prompt. trains: whether
    the model is in training, and its moments wait. Gradients are there only while learning.
    """
    dtype = dtype_of_sampling(config, settings)
    s, (C, I, HD, _) = dtype.itemsize, sizes(config)
    state = state_memory(config, settings)
    copy = s * count_parameters(config) if dtype.itemsize != bytes_of(settings) else 0
    rows = rows_at_once(config, settings, longest)
    token, cache = cache_per_token(config, s), rows * Cache.whole_blocks(longest) * cache_per_token(config, s)
    prompts = -(-rows // samples)  # different ones that start together
    at_once = min(prompts, max(1, sample.PREFILL_TOKENS // prompt))  # and that are read in one pass
    logits = rows * config.vocab_size * (s + 12)
    widest = max(3 * I, 5 * HD) + 2 * C  # gate, up and their product; or queries and what turning them takes
    of_prompts = prompts * Cache.whole_blocks(prompt) * token
    reading = {"activations": of_prompts + at_once * prompt * widest * s, "logits": 0}
    starting = {"activations": 0, "logits": logits}
    moving = {"activations": cache // config.num_hidden_layers, "logits": 0}  # into a larger cache, layer by layer
    work = max(reading, starting, moving, key=lambda needs: sum(needs.values()))
    return {"weights": state["weights"] + copy, "moments": state["moments"] * trains, "cache": cache} | work
