"""Open a checkpoint directory: model, tokenizer, and what train.py noted about it.

The directory may come from anywhere. Whatever is wrong with it is one CheckpointError of one line.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

import data
import llama
import voting
from plumbing import templates

if TYPE_CHECKING:  # importing it takes seconds
    from transformers import PreTrainedTokenizerBase as Tokenizer

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PROBE = "Compute 7 * 12 modulo 47."  # a question that every tokenizer can spell, that of the built-in models, too


def open_checkpoint(directory: str | Path, dtype: torch.dtype | None = None,
                    device: str | None = None) -> tuple[llama.Llama, "Tokenizer", dict]:
    """Model, tokenizer and notes of a checkpoint directory, written by train.py or in the Hugging Face format.

    dtype, device: as in llama.load. No code that comes with a checkpoint is run, except for the chat template, in its
    sandbox. Raises llama.CheckpointError, in one line, if the directory cannot be used.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise llama.CheckpointError("--device cuda: torch sees no CUDA device")
    notes, tokenizer = notes_of(directory), open_tokenizer(directory)
    model = llama.load(directory, dtype, device).eval()
    stop_ids = stop_ids_of(directory, tokenizer)
    if len(stop_ids) > 1:  # some may be in generation_config.json alone, which `save` does not write
        model.config.eos_token_id = list(stop_ids)
    return model, tokenizer, notes


def open_tokenizer(directory: str | Path) -> "Tokenizer":
    """The tokenizer of a checkpoint directory, with a token that ends a response and a chat template that works."""
    config = llama.read_config(directory)
    for path in Path(directory).iterdir():
        llama.require(path.is_file() or path.is_dir() or not path.exists(), path, "not a regular file")
    try:
        tokenizer = tokenizer_class(directory, config.model_type).from_pretrained(
            directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises nothing more special
        raise llama.CheckpointError(f"{directory}: the tokenizer cannot be read ({first_line(error)})") from None
    stop_ids = stop_ids_of(directory, tokenizer)
    llama.require(stop_ids, directory, "neither the tokenizer nor config.json names a token that ends a response (EOS)")
    if tokenizer.eos_token_id is None:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(stop_ids[0])
    check_prompts(directory, tokenizer, config.vocab_size)
    return tokenizer


def tokenizer_class(directory: str | Path, model_type: str) -> type:
    """AutoTokenizer; or the class that it would choose, where that is plain: importing it takes a third of the time."""
    path = Path(directory) / "tokenizer_config.json"
    named = path.exists() and llama.read_json(path).get("tokenizer_class")
    if model_type == "llama" and named == "PreTrainedTokenizerFast":  # the built-in models, Llama 3
        from transformers import PreTrainedTokenizerFast
        return PreTrainedTokenizerFast
    from transformers import AutoTokenizer
    return AutoTokenizer


def check_prompts(directory: str | Path, tokenizer: "Tokenizer", vocab_size: int) -> None:
    """Refuse a chat template that is missing, does not end, fails, or hides the condition from the model.

    The template comes with the checkpoint. It may never end, so it first runs in a process of its own. Where it writes
    no system turn, voting.encode_prompt puts the instruction into the user's. If it hides that, too, scot, sv and asv
    would be one and the same prompt.
    """
    try:
        template = tokenizer.get_chat_template()
    except ValueError:
        raise llama.CheckpointError(f"{directory}: the tokenizer has no chat template; use an instruct model") from None
    conversations = [voting.messages(PROBE, condition) for condition in voting.PROMPTS]
    conversations += [[{"role": "user", "content": "\n\n".join(turn["content"] for turn in conversation)}]
                      for conversation in conversations]  # also with the instruction in the user turn
    if template != data.CHAT_TEMPLATE:  # ours ends, and the trial run takes a second
        complaint = templates.complaint(template, conversations, dict(tokenizer.special_tokens_map))
        llama.require(not complaint, directory, f"the chat template cannot be used: {complaint}")
    seen = {}  # ids -> condition
    for condition in voting.PROMPTS:
        try:
            ids = tuple(voting.encode_prompt(tokenizer, PROBE, condition))
        except voting.PromptError:  # a condition or a question that this model has no tokens for
            continue
        except Exception as error:  # a template may raise anything
            raise llama.CheckpointError(f"{directory}: the chat template fails ({first_line(error)})") from None
        llama.require(max(ids, default=0) < vocab_size, directory,
                      f"the tokenizer writes the id {max(ids, default=0)}, and the model knows {vocab_size} tokens")
        llama.require(ids not in seen, directory, f"the chat template drops the instruction: the prompts for "
                                                  f"{seen.get(ids)} and {condition} are the same")
        seen[ids] = condition


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def stop_ids_of(directory: str | Path, tokenizer: "Tokenizer") -> tuple[int, ...]:
    """Every id that ends a response: of the tokenizer, config.json and generation_config.json (Llama 3.1 has three)."""
    found = {tokenizer.eos_token_id}
    for name in ("config.json", "generation_config.json"):
        path = Path(directory) / name
        if path.exists():
            eos = llama.read_json(path).get("eos_token_id")
            listed = eos if isinstance(eos, list) else [eos]
            llama.require(all(id is None or type(id) is int for id in listed), path, f"eos_token_id is {eos!r}")
            found.update(listed)
    return tuple(sorted(found - {None}))


def stop_ids_in(model: llama.Llama, tokenizer: "Tokenizer") -> tuple[int, ...]:
    """Every id that ends a response of an open model: `open_checkpoint` puts all of them in its config."""
    eos = model.config.eos_token_id
    found = {tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos])}
    return tuple(sorted(found - {None}))


def notes_of(directory: str | Path) -> dict:
    """What train.py noted in ibpo.json: stage, prompt condition, settings. {} for a checkpoint from elsewhere."""
    path = Path(directory) / "ibpo.json"
    notes = llama.read_json(path) if path.exists() else {}
    condition, settings = notes.get("condition", "scot"), notes.get("settings", {})
    llama.require(condition in list(voting.PROMPTS), path, f"condition is {condition!r}")
    llama.require(isinstance(settings, dict), path, f"settings is {settings!r}, not a JSON object")
    limit = settings.get("max_new_tokens", 300)
    llama.require(type(limit) is int and limit > 0, path, f"max_new_tokens is {limit!r}")
    return notes


def usual_length(directories: list[str | Path]) -> int:
    """max_new_tokens for these checkpoints: the largest that one of them was trained with; 300 if it is not known."""
    return max([notes_of(directory).get("settings", {}).get("max_new_tokens", 300) for directory in directories])


def has_bf16() -> bool:
    """Whether this CPU has instructions for products in bf16."""
    has = torch.cpu.get_capabilities()  # names these two on x86 only
    return bool(has.get("amx_bf16") or has.get("avx512_bf16"))


def resolve_dtype(wanted: str, otherwise: str, config: llama.Config, device: str) -> str:
    """The type to sample in, fp32 or bf16. auto: bf16 where that is much faster, `otherwise` elsewhere.

    It is much faster on a CPU that multiplies matrices in bf16, for a model so wide that these products are most of the
    work. At width 96 it gains 6 %, and a run is no longer the same whatever the number of slots: rounding decides
    near-ties.
    """
    if wanted != "auto":
        return wanted
    return "bf16" if device == "cpu" and config.hidden_size >= 512 and has_bf16() else otherwise


def usual_dtype(directory: str | Path, wanted: str, device: str) -> str:
    """fp32 or bf16, for a checkpoint that only answers. auto: bf16 on a GPU, on a CPU as `resolve_dtype` decides."""
    return resolve_dtype(wanted, "fp32" if device == "cpu" else "bf16", llama.read_config(directory), device)
