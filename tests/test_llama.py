"""llama.py against transformers: the same checkpoint in both, the same logits out.

    python -m pytest tests/test_llama.py
    IBPO_SMOLLM2=DIR python -m pytest tests/test_llama.py    # with the real weights of recipes/smollm2.py

Small models with large random weights stand in for every kind of LLaMA checkpoint, so that a wrong detail
moves the logits by far more than the tolerance. Published configurations are checked by their number of
parameters. The real weights are looked for in runs/smollm2 if IBPO_SMOLLM2 is not set.
"""

import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.utils import logging

import llama
import sft
from plumbing.cache import Cache

logging.disable_progress_bar()
logging.set_verbosity_error()

CLOSE = dict(rtol=0, atol=1e-4)
V = 101  # vocabulary of the small models
LINEAR = {"rope_type": "linear", "factor": 4.0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}
VARIANTS = {
    "plain": {},
    "all heads own keys": {"num_key_value_heads": 4},
    "one key head": {"num_key_value_heads": 1},
    "tied head": {"tie_word_embeddings": True},
    "head_dim": {"head_dim": 32},
    "attention_bias": {"attention_bias": True},
    "mlp_bias": {"mlp_bias": True},
    "rms_norm_eps": {"rms_norm_eps": 0.1},
    "linear": {"rope_parameters": {**LINEAR, "rope_theta": 10000.0}},
    "llama 3.1": {"rope_parameters": {**LLAMA3, "rope_theta": 500000.0}},
    "llama 3.2": {"rope_parameters": {**LLAMA3, "factor": 32.0, "rope_theta": 500000.0},
                  "tie_word_embeddings": True},
}


def checkpoint(directory, dtype=torch.float32, **settings) -> Path:
    """A random small LLaMA, written by transformers."""
    small = dict(vocab_size=V, hidden_size=64, intermediate_size=96, num_hidden_layers=3,
                 num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=131072,
                 bos_token_id=1, eos_token_id=[2, 3], pad_token_id=0)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{**small, **settings}))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.2)
    model.to(dtype).save_pretrained(directory)
    return Path(directory)


def oracle(directory, **options) -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(directory, **{"dtype": torch.float32, **options}).eval()


def oracle_logits(directory, ids, positions=None):  # [B, T, V]
    # without the mask of ones, transformers takes a jump in the positions for the start of another sequence
    with torch.no_grad():
        return oracle(directory)(ids, position_ids=positions, attention_mask=torch.ones_like(ids)).logits


def edit(directory, **changes) -> None:
    """Change fields of config.json; None removes one."""
    file = directory / "config.json"
    config = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


def random_ids(*shape, seed=0) -> torch.Tensor:
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> llama.Llama:
    return llama.load(checkpoint(tmp_path_factory.mktemp("small")))


# ------------------------------------------------------------------------------------------------------------
# Loading: the logits of transformers


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits(tmp_path, variant):
    checkpoint(tmp_path, **VARIANTS[variant])
    ids = random_ids(2, 40)
    with torch.no_grad():
        logits = llama.load(tmp_path)(ids)
    assert logits.std() > 1  # the tolerance means something
    torch.testing.assert_close(logits, oracle_logits(tmp_path, ids), **CLOSE)


SPELLINGS = {  # how config.json holds rope_theta = 500000 and a scaling of some kind
    "transformers 5": lambda kind, numbers: {
        "rope_parameters": {"rope_theta": 500000.0, "rope_type": kind, **numbers}},
    "transformers 4": lambda kind, numbers: {
        "rope_parameters": None, "rope_theta": 500000.0, "rope_scaling": {"rope_type": kind, **numbers}},
    "oldest": lambda kind, numbers: {
        "rope_parameters": None, "rope_theta": 500000.0, "rope_scaling": {"type": kind, **numbers}},
}
FAR = torch.tensor([[0, 1, 70, 4000, 8191, 8192, 8193, 20000, 131071]])


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("scaling", [{"rope_type": "default"}, LINEAR, LLAMA3], ids=lambda s: s["rope_type"])
def test_rotary_spellings_at_far_positions(tmp_path, scaling, spelling):
    checkpoint(tmp_path)
    ids = random_ids(1, 9)
    plain = oracle_logits(tmp_path, ids, FAR)
    numbers = {field: value for field, value in scaling.items() if field != "rope_type"}
    edit(tmp_path, **SPELLINGS[spelling](scaling["rope_type"], numbers))
    expected = oracle_logits(tmp_path, ids, FAR)
    assert (expected - plain).abs().max() > 0.1  # the settings matter
    with torch.no_grad():
        torch.testing.assert_close(llama.load(tmp_path)(ids, FAR), expected, **CLOSE)


ROPES = [{"rope_type": "default"}, LINEAR, {"type": "linear", "factor": 2.0}, LLAMA3,
         {"rope_type": "llama3", **LINEAR, **LLAMA3, "original_max_position_embeddings": 4096},
         {"rope_type": "linear", "type": "llama3", "factor": 8.0}, {"rope_type": "yarn", "factor": 4.0},
         {"type": "yarn", "factor": 4.0}, {"rope_type": "dynamic", "factor": 4.0}, {"type": "su"}]
ROPES += [{**settings, "rope_theta": 200000.0} for settings in ROPES]
ROPES += [None, {}, "linear", {"rope_type": None, "factor": 2.0}, {"partial_rotary_factor": 0.5}]


@pytest.mark.parametrize("top", [{}, {"rope_theta": 500000.0}, {"original_max_position_embeddings": 2048},
                                 {"rope_theta": 500000.0, "partial_rotary_factor": 0.5}], ids=str)
@pytest.mark.slow
def test_both_rotary_spellings_at_once(tmp_path, top):
    """Every combination of rope_parameters and rope_scaling: the frequencies of transformers, or a refusal."""
    fields = dict(model_type="llama", vocab_size=V, hidden_size=64, intermediate_size=96, num_hidden_layers=1,
                  num_attention_heads=2, max_position_embeddings=131072)
    outcomes = Counter()
    for old in ROPES:
        for new in ROPES:
            (tmp_path / "config.json").write_text(json.dumps(
                {**fields, **top, "rope_scaling": old, "rope_parameters": new}))
            try:
                found = llama.inverse_frequencies(llama.read_config(tmp_path))
            except llama.CheckpointError:
                outcomes["refused"] += 1
                continue
            theirs = AutoConfig.from_pretrained(tmp_path)
            assert torch.equal(found, LlamaRotaryEmbedding(theirs).inv_freq), (old, new)
            outcomes[theirs.rope_parameters["rope_type"]] += 1
    if "partial_rotary_factor" not in top:
        assert min(outcomes[kind] for kind in ("default", "linear", "llama3", "refused")) > 30
    assert sum(outcomes.values()) == len(ROPES) ** 2


def test_absent_settings_have_their_defaults(tmp_path):
    checkpoint(tmp_path, num_key_value_heads=4)
    sizes = "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({field: config[field] for field in ("model_type", *sizes)}))
    ids = random_ids(1, 40)
    with torch.no_grad():
        torch.testing.assert_close(llama.load(tmp_path)(ids), oracle_logits(tmp_path, ids), **CLOSE)


def test_a_long_sequence(tmp_path):
    """Past 8,192 tokens, with the scaling of Llama 3.1."""
    checkpoint(tmp_path, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, head_dim=16,
               rope_parameters={**LLAMA3, "rope_theta": 500000.0})
    ids = random_ids(1, 8300)
    at = torch.arange(8300)[None] >= 8150
    with torch.no_grad():
        logits = llama.load(tmp_path)(ids, where=at)
    torch.testing.assert_close(logits, oracle_logits(tmp_path, ids)[at], **CLOSE)


REAL = {  # config.json of published models: the fields that matter, and the number of parameters
    "Llama-2-7b": (6738415616, dict(
        vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=32, rms_norm_eps=1e-5, max_position_embeddings=4096,
        rope_scaling=None, tie_word_embeddings=False, pretraining_tp=1, torch_dtype="float16")),
    "Meta-Llama-3-8B": (8030261248, dict(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=8, rms_norm_eps=1e-5, max_position_embeddings=8192,
        rope_scaling=None, rope_theta=500000.0, tie_word_embeddings=False, attention_bias=False)),
    "Llama-3.1-8B-Instruct": (8030261248, dict(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=8, rms_norm_eps=1e-5, max_position_embeddings=131072,
        rope_scaling=LLAMA3, rope_theta=500000.0, mlp_bias=False, eos_token_id=[128001, 128008, 128009])),
    "Llama-3.2-1B": (1235814400, dict(
        vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, head_dim=64,
        num_attention_heads=32, num_key_value_heads=8, rms_norm_eps=1e-5, max_position_embeddings=131072,
        rope_scaling={**LLAMA3, "factor": 32.0}, rope_theta=500000.0, tie_word_embeddings=True)),
    "Llama-3.2-3B": (3212749824, dict(
        vocab_size=128256, hidden_size=3072, intermediate_size=8192, num_hidden_layers=28, head_dim=128,
        num_attention_heads=24, num_key_value_heads=8, rms_norm_eps=1e-5, max_position_embeddings=131072,
        rope_scaling={**LLAMA3, "factor": 32.0}, rope_theta=500000.0, tie_word_embeddings=True)),
    "TinyLlama-1.1B": (1100048384, dict(
        vocab_size=32000, hidden_size=2048, intermediate_size=5632, num_hidden_layers=22,
        num_attention_heads=32, num_key_value_heads=4, rms_norm_eps=1e-5, max_position_embeddings=2048,
        rope_scaling=None, tie_word_embeddings=False, torch_dtype="float32")),
    "SmolLM2-135M": (134515008, dict(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, rms_norm_eps=1e-5, max_position_embeddings=8192,
        rope_scaling=None, rope_theta=100000, rope_interleaved=False, tie_word_embeddings=True)),
}


@pytest.mark.parametrize("name", REAL)
def test_published_configurations(tmp_path, name):
    parameters, config = REAL[name]
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_act": "silu", **config}))
    read = llama.read_config(tmp_path)
    with torch.device("meta"):
        assert sum(weight.numel() for weight in llama.Llama(read).parameters()) == parameters
    rotary = LlamaRotaryEmbedding(AutoConfig.from_pretrained(tmp_path))
    assert torch.equal(llama.inverse_frequencies(read), rotary.inv_freq)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_stored_types_and_shards(tmp_path, dtype):
    ids = random_ids(2, 40)
    model = oracle(checkpoint(tmp_path / "one", dtype), dtype=dtype)
    model.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    for directory in tmp_path / "one", tmp_path / "shards":
        stored = llama.load(directory)
        assert {weight.dtype for weight in stored.parameters()} == {dtype}
        ours = stored.state_dict()
        assert all(torch.equal(weight, ours[name]) for name, weight in model.state_dict().items())
        with torch.no_grad():
            wide = llama.load(directory, dtype=torch.float32)(ids)
        torch.testing.assert_close(wide, oracle_logits(directory, ids), **CLOSE)


def test_what_old_checkpoints_store_besides_is_ignored(tmp_path):
    """The table of frequencies in every layer, and the tied head a second time."""
    checkpoint(tmp_path, tie_word_embeddings=True)
    expected = llama.load(tmp_path).state_dict()
    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    save_file(weights, tmp_path / "model.safetensors")
    model = llama.load(tmp_path)
    assert all(torch.equal(weight, expected[name]) for name, weight in model.state_dict().items())
    assert model.lm_head.weight is model.model.embed_tokens.weight


MEASURE = """
import sys, llama
def memory(field):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(field))
llama.load(sys.argv[1])
before = memory("VmRSS")
model = llama.load(sys.argv[2])
print(memory("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.slow
def test_peak_memory_is_the_model_and_one_tensor(tmp_path):
    checkpoint(tmp_path / "warm")  # what the first load of a process needs once is not counted
    config = llama.Config(vocab_size=4096, hidden_size=1024, intermediate_size=4096, num_hidden_layers=8,
                          num_attention_heads=8)
    llama.save(llama.Llama(config).bfloat16(), tmp_path / "big")
    with safe_open(tmp_path / "big" / "model.safetensors", framework="pt") as file:
        sizes = [2 * math.prod(file.get_slice(name).get_shape()) for name in file.keys()]
    command = [sys.executable, "-c", MEASURE, tmp_path / "warm", tmp_path / "big"]
    peak = int(subprocess.check_output(command, cwd=Path(llama.__file__).parent))
    assert sum(sizes) > 250e6 and max(sizes) < 10e6
    assert sum(sizes) < peak < sum(sizes) + max(sizes) + 16e6


# ------------------------------------------------------------------------------------------------------------
# Loading: what is refused, in one line that names the field


def tensors(change):
    """A damage to the table of weights."""
    def damage(directory):
        weights = load_file(directory / "model.safetensors")
        change(weights)
        save_file(weights, directory / "model.safetensors")
    return damage


def config(**changes):
    return lambda directory: edit(directory, **changes)


def replace(name, content):
    return lambda directory: (directory / name).write_bytes(content)


def fifo(name):
    """A pipe that nobody writes to in place of a file."""
    def damage(directory):
        (directory / name).unlink()
        os.mkfifo(directory / name)
    return damage


def shard(index):
    def damage(directory):
        (directory / "model.safetensors").unlink()
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return damage


Q = "model.layers.1.self_attn.q_proj.weight"
REFUSED = [  # damage, what the line must name
    (config(model_type="gemma"), "model_type is 'gemma'"),
    (config(model_type=["llama"]), "model_type is ['llama']"),
    (config(model_type=None), "model_type"),
    (config(hidden_act="gelu"), "hidden_act is 'gelu'"),
    (config(quantization_config={"quant_method": "gptq"}), "quantization_config"),
    (config(rope_parameters={"rope_type": "yarn", "factor": 4.0}), "rope_type is 'yarn'"),
    (config(rope_parameters={"rope_type": ["linear"]}), "rope_type"),
    (config(rope_parameters={"rope_type": "linear"}), "factor"),
    (config(rope_parameters={**LLAMA3, "low_freq_factor": "1"}), "low_freq_factor of 'llama3' is '1'"),
    (config(rope_parameters={"rope_type": "default", "rope_theta": "10000"}), "rope_theta = '10000'"),
    (config(rope_parameters="linear"), "rope_parameters"),
    (config(rope_parameters={"rope_type": "default"}, rope_scaling={"rope_type": "yarn", "factor": 4.0}), "'yarn'"),
    (config(rope_parameters={**LLAMA3, "low_freq_factor": 4.0}), "low_freq_factor = 4.0"),
    (config(rope_parameters={**LINEAR, "factor": math.nan}), "factor of 'linear' is nan"),
    (config(rope_parameters={**LINEAR, "factor": math.inf}), "factor of 'linear' is inf"),
    (config(rope_parameters={**LINEAR, "partial_rotary_factor": 0.5}), "partial_rotary_factor is 0.5"),
    (config(rope_parameters={"rope_theta": math.nan}), "rope_theta = nan"),
    (config(rope_parameters={"rope_theta": 10**400}), "rope_theta = 1000"),
    (config(rope_parameters={"rope_theta": 10**30}), "rope_theta = 1000"),
    (config(rms_norm_eps=math.nan), "rms_norm_eps = nan"),
    (config(rms_norm_eps=math.inf), "rms_norm_eps = inf"),
    (config(hidden_size=10**30), "hidden_size = 10000"),
    (config(max_position_embeddings=10**30), "max_position_embeddings = 10000"),
    (config(vocab_size=10**9), "vocab_size = 1000000000, but no stored tensor is wider than 101"),
    (config(intermediate_size=10**9), "intermediate_size = 1000000000, but"),
    (config(head_dim=10**12), "head_dim = 1000000000000"),
    (config(head_dim=10**9), "head_dim = 1000000000, but"),
    (config(num_hidden_layers=10**9), "num_hidden_layers = 1000000000, but 30 tensors are stored"),
    (config(num_attention_heads=10**9), "num_attention_heads = 1000000000"),
    (config(eos_token_id=[2, "</s>"]), "eos_token_id = [2, '</s>']"),
    (config(eos_token_id=[[2]]), "eos_token_id = [[2]]"),
    (config(hidden_size="64"), "hidden_size = '64'"),
    (config(hidden_size=64.0), "hidden_size = 64.0"),
    (config(hidden_size=None), "hidden_size"),
    (config(vocab_size=True), "vocab_size = True"),
    (config(num_hidden_layers=-1), "num_hidden_layers = -1"),
    (config(num_attention_heads=0), "num_attention_heads = 0"),
    (config(num_attention_heads=6), "num_attention_heads = 6"),
    (config(num_key_value_heads=3), "num_key_value_heads = 3"),
    (config(num_key_value_heads=0), "num_key_value_heads = 0"),
    (config(head_dim=15), "head_dim = 15"),
    (config(attention_bias=1), "attention_bias = 1"),
    (config(eos_token_id="</s>"), "eos_token_id = '</s>'"),
    (config(num_hidden_layers=2), "surplus tensor model.layers.2."),
    (config(num_hidden_layers=4), "missing tensor model.layers.3."),
    (config(intermediate_size=100), "_proj.weight has shape"),
    (config(attention_bias=True), "missing tensor model.layers.0.self_attn.k_proj.bias (12 in all)"),
    (tensors(lambda w: w.pop(Q)), f"missing tensor {Q} (1 in all)"),
    (tensors(lambda w: w.pop("lm_head.weight")), "missing tensor lm_head.weight"),
    (config(tie_word_embeddings=True), "lm_head.weight is not the embedding"),
    (tensors(lambda w: w.update(extra=torch.ones(1))), "surplus tensor extra"),
    (tensors(lambda w: w.update({Q: w[Q][:, :32].contiguous()})), f"{Q} has shape [64, 32]"),
    (tensors(lambda w: w.update({Q: w[Q].flatten()})), f"{Q} has shape [4096]"),
    (tensors(lambda w: w.update({Q: w[Q].to(torch.int32)})), f"{Q} is quantised (torch.int32)"),
    (tensors(lambda w: w.update({Q: w[Q].to(torch.float8_e4m3fn)})), f"{Q} is quantised (torch.float8"),
    (replace("config.json", b"{"), "config.json"),
    (replace("config.json", b"[1]"), "config.json"),
    (replace("config.json", b"\xff\xfe"), "config.json"),
    (replace("config.json", b"[]"), "config.json"),
    (replace("config.json", b'{"a":' * 100_000), "config.json"),
    (lambda directory: (directory / "config.json").unlink(), "config.json"),
    (replace("model.safetensors", b""), "model.safetensors"),
    (replace("model.safetensors", b"\x08" + bytes(7) + b"not json"), "model.safetensors"),
    (lambda directory: os.truncate(directory / "model.safetensors", 10000), "model.safetensors"),
    (lambda directory: (directory / "model.safetensors").unlink(), "model.safetensors"),
    (shard({"weight_map": {Q: "model-00001-of-00002.safetensors"}}), "model-00001-of-00002.safetensors"),
    (shard({"weight_map": [Q]}), "weight_map"),
    (shard({"weight_map": {Q: 1}}), "1"),
    (shard({}), "weight_map"),
    (shard({"weight_map": {}}), "weight_map"),
    (shard({"weight_map": {Q: ["model.safetensors"]}}), "weight_map"),
    (shard({"weight_map": {Q: "../model.safetensors"}}), "'../model.safetensors', which is not a file of this"),
    (shard({"weight_map": {Q: "/etc/passwd"}}), "'/etc/passwd', which is not a file of this"),
    (shard({"weight_map": {Q: ".."}}), "not a regular file"),
    (shard([Q]), "index.json"),
    (fifo("model.safetensors"), "model.safetensors: not a regular file"),
    (fifo("config.json"), "config.json: not a regular file"),
]


@pytest.mark.parametrize("damage, named", REFUSED, ids=[named for _, named in REFUSED])
def test_refused_in_one_line(tmp_path, damage, named):
    llama.load(checkpoint(tmp_path))
    damage(tmp_path)
    with pytest.raises(llama.CheckpointError) as refusal:
        llama.load(tmp_path)
    line = str(refusal.value)
    assert named in line and str(tmp_path) in line and "\n" not in line


@pytest.mark.parametrize("size", ["num_hidden_layers", "vocab_size", "hidden_size", "head_dim", "intermediate_size"])
def test_nothing_is_built_that_is_not_stored(tmp_path, monkeypatch, size):
    """Sizes are compared with the headers of the files first: 2**30 layers would take days."""
    checkpoint(tmp_path)
    edit(tmp_path, **{size: 2**30})
    monkeypatch.setattr(llama, "Llama", lambda config: pytest.fail("a model was built"))
    monkeypatch.setattr(llama, "read_tensor", lambda file, name: pytest.fail("a tensor was read"))
    with pytest.raises(llama.CheckpointError, match=f"{size} = 1073741824, but"):
        llama.load(tmp_path)


def test_command_line(tmp_path, monkeypatch, capsys):
    checkpoint(tmp_path)
    monkeypatch.setattr(sys, "argv", ["llama.py", str(tmp_path)])
    llama.main()
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert shown["hidden_size"] == "64"
    assert shown["parameters"] == f"{oracle(tmp_path).num_parameters():,} (torch.float32)"
    edit(tmp_path, hidden_size="64")
    with pytest.raises(SystemExit, match="error: .*hidden_size"):
        llama.main()


# ------------------------------------------------------------------------------------------------------------
# Saving


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.slow
def test_saved_for_transformers(tmp_path, variant):
    """transformers loads what `save` wrote, whichever of the two rotary spellings it reads."""
    model = llama.load(checkpoint(tmp_path / "theirs", **VARIANTS[variant]))
    llama.save(model, tmp_path / "ours")
    with safe_open(tmp_path / "ours" / "model.safetensors", framework="pt") as file:
        assert ("lm_head.weight" in file.keys()) != model.config.tie_word_embeddings  # stored once
    ids = random_ids(1, 9)
    expected = oracle_logits(tmp_path / "theirs", ids, FAR)
    assert torch.equal(oracle_logits(tmp_path / "ours", ids, FAR), expected)
    assert oracle(tmp_path / "ours").generation_config.eos_token_id == [2, 3]
    for unread in {"rope_parameters": None}, {"rope_theta": None, "rope_scaling": None}:
        llama.save(model, tmp_path / "ours")
        edit(tmp_path / "ours", **unread)
        assert torch.equal(oracle_logits(tmp_path / "ours", ids, FAR), expected)


@pytest.mark.skipif(os.name != "posix", reason="no umask")
@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_saved_files_honour_the_umask(tmp_path, small, umask, mode):
    before = os.umask(umask)
    try:
        llama.save(small, tmp_path)
    finally:
        os.umask(before)
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "config.json": mode, "model.safetensors": mode}


FAMILIES = {  # name -> classes of transformers, and settings that matter
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": None}),
    "mistral, window never reached": (MistralConfig, MistralForCausalLM, {"sliding_window": 512}),
    "mistral nemo": (MistralConfig, MistralForCausalLM, {"sliding_window": None, "head_dim": 32}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {"rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}}),
    "qwen2, window not used": (Qwen2Config, Qwen2ForCausalLM, {"sliding_window": 5, "use_sliding_window": False}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 32}),
    "qwen3, biases": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 16, "attention_bias": True}),
}


def related(directory, family, **settings) -> Path:
    """A random small model of a family that is LLaMA but for a detail, written by transformers."""
    its_config, its_class, special = FAMILIES[family]
    small = dict(vocab_size=V, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
                 num_key_value_heads=2, max_position_embeddings=512, bos_token_id=1, eos_token_id=[2, 3])
    torch.manual_seed(0)
    model = its_class(its_config(**{**small, **special, **settings}))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.2)
    model.save_pretrained(directory, max_shard_size="60KB")
    assert len(list(directory.glob("*.safetensors"))) > 2
    return directory


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_related_families(tmp_path, family, tied):
    """The logits of transformers, also with a cache; what is saved is a model of the same family."""
    related(tmp_path / "theirs", family, tie_word_embeddings=tied)
    ids = random_ids(2, 40)
    expected = oracle_logits(tmp_path / "theirs", ids)
    model = llama.load(tmp_path / "theirs")
    assert expected.std() > 1
    torch.testing.assert_close(model(ids), expected, **CLOSE)
    cache = Cache(model.config, torch.zeros(2, dtype=torch.long), columns=40, dtype=torch.float32)
    first = model(ids[:, :30], caches=[cache])
    rest = model(ids[:, 30:], torch.arange(30, 40).expand(2, 10), [cache])
    torch.testing.assert_close(torch.cat((first, rest), 1), expected, **CLOSE)
    llama.save(model, tmp_path / "ours")
    saved = oracle(tmp_path / "ours")
    assert type(saved) is FAMILIES[family][1] and saved.config.sliding_window is None
    assert torch.equal(oracle_logits(tmp_path / "ours", ids), expected)
    assert torch.equal(llama.load(tmp_path / "ours")(ids), model(ids))


@pytest.mark.parametrize("family, changes, named", [
    ("mistral", {"sliding_window": 511}, "sliding_window is 511, less than the context of 512"),
    ("mistral", {"sliding_window": "512"}, "sliding_window is '512'"),
    ("mistral", {"sliding_window": None, "max_position_embeddings": 4097}, "sliding_window is 4096"),  # None: absent
    ("mistral", {"num_key_value_heads": None}, "num_key_value_heads is missing"),
    ("mistral", {"attention_bias": True}, "attention_bias is True; mistral has none"),
    ("mistral", {"layer_types": ["sliding_attention"] * 3}, "layer_types"),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 100}, "sliding_window is 100"),
    ("qwen2", {"layer_types": ["full_attention", "sliding_attention", "full_attention"]}, "layer_types"),
    ("qwen2", {"max_position_embeddings": None}, "max_position_embeddings is missing"),
    ("qwen2", {"mlp_bias": True}, "mlp_bias is True; qwen2 has none"),
    ("qwen2", {"model_type": "qwen3"}, "head_dim is missing"),
    ("qwen2", {"model_type": "llama", "layer_types": None}, "surplus tensor model.layers.0.self_attn.k_proj.bias"),
    ("qwen3", {"model_type": "llama", "layer_types": None}, "surplus tensor model.layers.0.self_attn.k_norm.weight"),
    ("qwen3", {"model_type": "qwen3_moe"}, "model_type is 'qwen3_moe'"),
    ("qwen3", {"head_dim": None}, "head_dim is missing"),
])
def test_related_families_that_are_refused(tmp_path, family, changes, named):
    llama.load(related(tmp_path, family))
    edit(tmp_path, **changes)
    with pytest.raises(llama.CheckpointError) as refusal:
        llama.load(tmp_path)
    assert named in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("variant", ["plain", "llama 3.2"])
def test_load_save_load_is_the_identity(tmp_path, variant, dtype):
    first = llama.load(checkpoint(tmp_path / "0", dtype, **VARIANTS[variant]))
    llama.save(first, tmp_path / "1")
    second = llama.load(tmp_path / "1")
    llama.save(second, tmp_path / "2")
    assert first.config == second.config and oracle(tmp_path / "1", dtype="auto").dtype == dtype
    assert first.state_dict().keys() == second.state_dict().keys()
    for name, weight in first.state_dict().items():
        assert weight.dtype == dtype and torch.equal(weight, second.state_dict()[name])
    for file in "config.json", "model.safetensors":
        assert (tmp_path / "1" / file).read_bytes() == (tmp_path / "2" / file).read_bytes()


def test_saving_over_what_was_loaded(tmp_path):
    """The weights in memory do not depend on the file, and shards left there are not read again."""
    oracle(checkpoint(tmp_path / "one")).save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    for directory in tmp_path / "one", tmp_path / "shards":
        model = llama.load(directory)
        with torch.no_grad():
            model.model.norm.weight.zero_()
        llama.save(model, directory)
        assert not llama.load(directory).model.norm.weight.any()
        assert torch.equal(llama.load(directory).lm_head.weight, model.lm_head.weight)


def test_initial_weights():
    """Normal with 0.02, but what the blocks add to the residual stream is scaled down by their number (as in GPT-2)."""
    config = llama.Config(vocab_size=300, hidden_size=64, intermediate_size=128, num_hidden_layers=8,
                          num_attention_heads=4, tie_word_embeddings=True)
    weights, again, other = (llama.initialise(llama.Llama(config), seed).state_dict() for seed in (1, 1, 2))
    for name, weight in weights.items():
        assert torch.equal(weight, again[name])
        if weight.dim() == 1:  # of a norm
            assert (weight == 1).all()
            continue
        assert not torch.equal(weight, other[name])
        added = name.endswith(("o_proj.weight", "down_proj.weight"))
        assert weight.std().item() == pytest.approx(0.02 / 4 if added else 0.02, rel=0.1)
        assert abs(weight.mean().item()) < 0.002


@pytest.mark.parametrize("variant", ["plain", "tied head"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@torch.no_grad()
def test_grown_vocabulary(tmp_path, variant, dtype):
    """Old tokens keep their logits, transformers loads what was saved, and new tokens are in no way likely."""
    model = llama.load(checkpoint(tmp_path / "old", **VARIANTS[variant]), dtype)
    ids = random_ids(2, 9)
    before = model(ids)  # [B, T, V]
    sft.resize_embeddings(model, 3)
    after = model(ids)  # [B, T, V + 3]
    assert after.shape[-1] == V + 3 and torch.equal(after[..., :V], before)
    torch.testing.assert_close(after[..., V:], before.float().mean(-1, keepdim=True).expand(2, 9, 3).to(dtype),
                               rtol=0, atol=1e-4 if dtype == torch.float32 else 0.3)
    assert (after[..., V:] < before.amax(-1, keepdim=True)).all()
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == (variant == "tied head")
    assert len(list(model.parameters())) == len(list(llama.Llama(model.config).parameters()))
    ids[:, 3] = V + 1  # a new token can be read, and all weights are learned
    with torch.enable_grad():
        model(ids).float().sum().backward()
    assert all(w.grad is not None for w in model.parameters())
    llama.save(model, tmp_path / "new")
    again = llama.load(tmp_path / "new")
    assert again.config == model.config and again.config.vocab_size == V + 3
    assert torch.equal(again(ids), model(ids))
    if dtype == torch.float32:
        torch.testing.assert_close(model(ids), oracle_logits(tmp_path / "new", ids), **CLOSE)
    sft.resize_embeddings(model, 0)
    assert torch.equal(again(ids), model(ids))


def test_saved_tokenizer(tmp_path):
    words = Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="a"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>",
                                        chat_template="{{ messages[0]['content'] }}</s>")
    llama.save(llama.load(checkpoint(tmp_path)), tmp_path, tokenizer)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.apply_chat_template([{"role": "user", "content": "a"}])["input_ids"] == [0, 1]
    assert again.eos_token_id == 1
    stored = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert stored["tokenizer_class"] == "PreTrainedTokenizerFast"  # a name that transformers 4 knows as well


# ------------------------------------------------------------------------------------------------------------
# The forward pass: its options change nothing but cost


def test_right_padding_changes_nothing(small):
    lengths, ids = torch.tensor([5, 17, 30]), random_ids(3, 30)
    real = torch.arange(30) < lengths[:, None]  # [3, 30]
    with torch.no_grad():
        for padded in small(ids), small(torch.where(real, ids, 7)):  # [3, 30, V]
            for row, length in enumerate(lengths):
                alone = small(ids[row:row + 1, :length])[0]  # [length, V]
                torch.testing.assert_close(padded[row, :length], alone, **CLOSE)


@torch.no_grad()
def test_cached_equals_uncached_at_different_positions(small):
    """Prompts of 20, 3 and 11 tokens in two caches; then tokens by one and by two; rows move, caches are joined."""
    lengths, ids = torch.tensor([20, 3, 11]), random_ids(3, 36)
    expected = small(ids)  # [3, 36, V]

    def start(rows: list[int]) -> Cache:
        """A cache with the prompts of these rows, padded on the left."""
        T = int(lengths[rows].max())
        padding = T - lengths[rows]  # [n]
        cache = Cache(small.config, padding, T, torch.float32)
        assert cache.G > 1  # heads share keys
        positions = torch.arange(T) - padding[:, None]  # [n, T]
        logits = small(torch.where(positions >= 0, ids[rows].gather(1, positions.clamp(min=0)), 7),
                       positions.clamp(min=0), [cache])  # [n, T, V]
        for i, row in enumerate(rows):
            torch.testing.assert_close(logits[i, padding[i]:], expected[row, : lengths[row]], **CLOSE)
        return cache

    def go_on(caches: list[Cache], rows: list[int], width: int) -> None:
        """`width` more tokens for these rows, which are in these caches."""
        positions = lengths[rows, None] + torch.arange(width)  # [n, width]
        at = torch.tensor(rows)[:, None]
        torch.testing.assert_close(small(ids[at, positions], positions, caches), expected[at, positions], **CLOSE)
        lengths[rows] += width

    caches = [start([0]), start([1, 2])]
    caches = [Cache.pack([(cache, slice(None))], 64) for cache in caches]
    for width in 1, 2, 1:
        go_on(caches, [0, 1, 2], width)
    assert caches[1].drop(set()) == [0, 1]
    cache = Cache.pack([(caches[0], slice(None)), (caches[1], torch.tensor([1, 0]))], 64)
    assert cache.end == 24 and cache.start.tolist() == [0, 9, 17]
    for width in 1, 2:
        go_on([cache], [0, 2, 1], width)
    assert cache.drop({0}) == [2, 1]
    for width in 2, 1:
        go_on([cache], [1, 2], width)
    cache = Cache.pack([(cache, torch.tensor([1]))], 64)  # what was padding for all is gone
    assert cache.end == lengths[2] and cache.start.tolist() == [0]
    go_on([cache], [2], 3)


def test_gradient_checkpointing_gives_the_same_gradients(small):
    ids, gradients = random_ids(2, 16), []
    for checkpointing in False, True:
        small.zero_grad()
        logits = small(ids, checkpoint=checkpointing)  # [B, T, V]
        F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
        gradients.append({name: weight.grad.clone() for name, weight in small.named_parameters()})
    small.zero_grad()
    assert all(gradient.abs().max() > 0 for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=0, atol=0)


def test_gradients_of_transformers(tmp_path):
    ids = random_ids(2, 16)
    ours, theirs = llama.load(checkpoint(tmp_path, tie_word_embeddings=True)), oracle(tmp_path)
    for model in ours, theirs:
        logits = model(ids) if model is ours else model(ids).logits  # [B, T, V]
        F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    expected = {name: weight.grad for name, weight in theirs.named_parameters()}
    found = {name: weight.grad for name, weight in ours.named_parameters()}
    assert found.keys() == expected.keys()  # the tied weight is one parameter
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_where_selects_the_same_logits(small):
    ids = random_ids(3, 20)
    at = torch.rand(3, 20, generator=torch.Generator().manual_seed(1)) < 0.3
    with torch.no_grad():
        logits = small(ids, where=at)  # [N, V]
        assert logits.shape == (at.sum(), V) and at.any() and not at.all()
        torch.testing.assert_close(logits, small(ids)[at], **CLOSE)


# ------------------------------------------------------------------------------------------------------------
# Real weights


TEXT = ("The Eiffel Tower is located in Paris, the capital of France. It was built in 1889 and is one of the "
        "most visited monuments in the world. The tower is named after the engineer Gustave Eiffel, whose "
        "company designed and built it.")


def test_smollm2(tmp_path):
    directory = Path(os.environ.get("IBPO_SMOLLM2", Path(llama.__file__).parent / "runs" / "smollm2"))
    if not (directory / "config.json").exists():
        pytest.skip(f"no SmolLM2 in {directory}: run recipes/smollm2.py, or set IBPO_SMOLLM2")
    tokenizer, model = AutoTokenizer.from_pretrained(directory), llama.load(directory, dtype=torch.float32)
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "What is 12 + 30?"}], tokenize=False,
                                         add_generation_prompt=True)
    for text in TEXT, chat:
        ids = tokenizer(text, return_tensors="pt").input_ids  # [1, T]
        with torch.no_grad():
            logits = model(ids)  # [1, T, V]
        torch.testing.assert_close(logits, oracle_logits(directory, ids), **CLOSE)
        assert tokenizer.decode(ids[0]) == text
        if text == TEXT:  # 1.7 nats per token; with query and key rows in the order of GGUF it is 3.1
            assert F.cross_entropy(logits[0, :-1], ids[0, 1:]) < 2
    assert tokenizer.decode(logits[0, -1].argmax()) == "1"  # it goes on with "12 + 30 = ..."
    llama.save(model, tmp_path, tokenizer)
    torch.testing.assert_close(oracle_logits(tmp_path, ids), logits, **CLOSE)
    assert AutoTokenizer.from_pretrained(tmp_path)(chat).input_ids == ids[0].tolist()
