"""The files of a Hugging Face checkpoint directory: JSON, config.json in the terms of llama.Config, tensors.

Several model families are LLaMA but for a detail. What config.json leaves out, each family fills in with defaults of
its own, and the rotary settings have three spellings. The rules here are those of transformers 5; what would need code
that llama.py does not have is refused.
"""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

ARCHITECTURES = {  # model_type -> the class of transformers
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",  # LLaMA, if its sliding window is never reached
    "qwen2": "Qwen2ForCausalLM",  # biases on queries, keys and values, and none on the output
    "qwen3": "Qwen3ForCausalLM",  # RMSNorm on each head of queries and keys
}
ROPE_FIELDS = {  # rope_type -> the settings that it needs
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}


class CheckpointError(ValueError):
    """A checkpoint that cannot be read; the message is one line that names the file and field."""


def require(condition: object, where: str | Path, complaint: str) -> None:
    """Raise CheckpointError unless `condition` holds."""
    if not condition:
        raise CheckpointError(f"{where}: {complaint}")


def read_json(path: Path) -> dict:
    """The JSON object in this file."""
    require(path.is_file() or not path.exists(), path, "not a regular file")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; expected a checkpoint directory") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a readable JSON object ({error})") from None
    require(isinstance(content, dict), path, "not a JSON object")
    return content


def is_positive(value: object) -> bool:
    """Whether this is a number that one can compute with: positive, finite, and no bool."""
    return type(value) in (int, float) and 0 < value < 1e18  # NaN is not


def read_fields(path: Path) -> dict:
    """config.json as a dict, with rope_theta and rope_scaling in one spelling. Types of sizes are not checked here."""
    raw = {"hidden_act": "silu", "quantization_config": None, **read_json(path)}
    family = raw.get("model_type")
    known = ", ".join(ARCHITECTURES)
    require(family in list(ARCHITECTURES), path, f"model_type is {family!r}; implemented are {known}")
    for field, only in ("hidden_act", "silu"), ("quantization_config", None):
        require(raw[field] == only, path, f"{field} is {raw[field]!r}; only {only!r} is implemented")
    if family != "llama":
        for field in ("num_key_value_heads", "max_position_embeddings") + ("head_dim",) * (family == "qwen3"):
            require(field in raw, path, f"{field} is missing")  # the default is not that of LLaMA
        for field in ("mlp_bias",) + ("attention_bias",) * (family != "qwen3"):
            require(not raw.get(field), path, f"{field} is {raw.get(field)!r}; {family} has none")
    return {**raw, **read_rope(path, raw)}


def read_rope(path: Path, raw: dict) -> dict:
    """rope_theta, and rope_scaling with its rope_type or None.

    transformers 5 keeps all rotary settings in rope_parameters, 4 in rope_theta and rope_scaling. Where a file has
    both, rope_scaling counts and rope_parameters does not, not even for rope_theta.
    """
    for field in "rope_parameters", "rope_scaling":
        require(isinstance(raw.get(field) or {}, dict), path, f"{field} is {raw.get(field)!r}, not a JSON object")
    rope = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))  # "type": the oldest spelling
    require(kind in list(ROPE_FIELDS), path, f"rope_type is {kind!r}; implemented are {', '.join(ROPE_FIELDS)}")
    part = rope.get("partial_rotary_factor", raw.get("partial_rotary_factor"))
    require(part in (None, 1), path, f"partial_rotary_factor is {part!r}; only 1 is implemented")
    if raw.get("original_max_position_embeddings") is not None:  # beside rope_scaling, it wins over the one within
        rope = {**rope, "original_max_position_embeddings": raw["original_max_position_embeddings"]}
    scaling = {field: rope.get(field) for field in ROPE_FIELDS[kind]}
    for field, value in scaling.items():
        require(is_positive(value), path, f"{field} of {kind!r} is {value!r}")
    if kind == "llama3":
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        require(low < high, path, f"low_freq_factor = {low} is not less than high_freq_factor = {high}")
    return {"rope_theta": rope.get("rope_theta", raw.get("rope_theta")),
            "rope_scaling": {"rope_type": kind, **scaling} if scaling else None}


def sliding_window(path: Path, raw: dict) -> int | None:
    """How many tokens back attention reaches; None: to the first. The default of Mistral and Qwen is 4,096."""
    layers = raw.get("layer_types")
    full = layers is None or isinstance(layers, list) and all(layer == "full_attention" for layer in layers)
    require(full, path, "layer_types has other layers than full_attention")
    on = {"llama": False, "mistral": True}.get(raw["model_type"], raw.get("use_sliding_window"))
    window = raw.get("sliding_window", 4096) if on else None
    require(window is None or is_positive(window), path, f"sliding_window is {window!r}")
    return window


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a checkpoint: one, or those that its index names, all in this directory."""
    files, index = [directory / "model.safetensors"], directory / "model.safetensors.index.json"
    if index.exists() and not files[0].exists():
        table = read_json(index).get("weight_map")
        require(isinstance(table, dict) and table, index, "weight_map is not a JSON object of file names")
        for name in table.values():
            beside = type(name) is str and Path(name).name == name
            require(beside, index, f"weight_map names {name!r}, which is not a file of this directory")
        files = sorted({directory / name for name in table.values()})
    for file in files:
        require(file.is_file(), file, "not a regular file" if file.exists() else "no such file")
    return files


def read_shapes(file: Path) -> dict[str, list[int]]:
    """Name and shape of every tensor in a file, from its header alone."""
    try:
        with safe_open(file, framework="pt") as stored:
            return {name: stored.get_slice(name).get_shape() for name in stored.keys()}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error})") from None


def read_tensor(file: Path, name: str) -> Tensor:
    """One stored tensor, which may be of any floating-point type of two bytes or more."""
    # What was read of a mapped file counts as memory in use until it is closed. Opened for one tensor at a time, it
    # adds one tensor to the peak, not a second copy of the model.
    try:
        tensor = safe_open(file, framework="pt").get_tensor(name)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: {name} cannot be read ({error})") from None
    require(tensor.dtype.is_floating_point and tensor.dtype.itemsize > 1, file, f"{name} is quantised ({tensor.dtype})")
    return tensor
