"""A tiny LLaMA and examples to learn from, for tests of the gradient and of stages; large models without weights."""

import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch

import llama
from learn import Example

if TYPE_CHECKING:  # importing it takes long, and most processes that the tests start need no tokenizer
    from transformers import PreTrainedTokenizerFast

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


CHAT = ("{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


def letters() -> "PreTrainedTokenizerFast":
    """A tokenizer that spells everything, a token per byte, with a chat template."""
    from tokenizers import Tokenizer, decoders, models
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE({letter: id for id, letter in enumerate(sorted(ByteLevel.alphabet()))}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", chat_template=CHAT,
                                   additional_special_tokens=["<|im_start|>"])


LLAMA_8B = llama.Config(
    vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
    num_key_value_heads=8, max_position_embeddings=131072, eos_token_id=128009)
QWEN_1_5B = llama.Config(
    vocab_size=151936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12,
    num_key_value_heads=2, max_position_embeddings=32768, tie_word_embeddings=True, model_type="qwen2",
    eos_token_id=151645)


def describe(config: llama.Config, directory: Path) -> Path:
    """Write what a checkpoint directory says of a model, but not its weights."""
    directory.mkdir(exist_ok=True)
    letters().save_pretrained(directory)
    (directory / "config.json").write_text(json.dumps({"hidden_act": "silu", **asdict(config)}))
    return directory
