"""plumbing/settings.py: the command line, what is refused, and which stages a setting decides.

    pytest tests/test_settings.py
"""

import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest

from methods import METHODS
from plumbing.settings import ALL, BASE, PRESETS, REAL, Settings, parse_args


def deciding(settings: Settings, stage: str) -> dict:
    return settings.deciding(stage)


def test_caps_from_the_command_line():
    settings, _ = parse_args(["--budget", "tokens=90,vote=0.25"])
    assert settings.caps == {"tokens": 90, "vote": 0.25} and settings.cap == 0.25
    assert settings.name("ibpo") == "ibpo-25-tokens-90"
    assert parse_args(["--budget", "tokens=90"])[0].name("ibpo") == "ibpo-tokens-90"
    settings, _ = parse_args(["--sft-short", "1700", "--budget", "short=0.25,vote=0.3,tokens=60"])
    assert settings.caps == {"short": 0.25, "vote": 0.3, "tokens": 60}
    assert settings.name("ibpo") == "ibpo-30-tokens-60-short-25"
    assert [settings.condition(stage) for stage in ("base", "sv-sft", "asv-sft", "ibpo")] == [
        "scot", "sv", "modes", "modes"]
    assert [Settings().condition(stage) for stage in ("base", "sv-sft", "asv-sft", "ibpo")] == [
        "scot", "sv", "asv", "asv"]
    assert Settings().name("ibpo") == "ibpo-50"
    assert replace(Settings(), give_up=True).name("ibpo") == "ibpo-50-give-up"
    assert replace(Settings(), method="random").name("ibpo") == "random-50"
    assert replace(Settings(), method="cgpo").name("ibpo") == "cgpo"
    assert replace(Settings(), method="listing").name("ibpo") == "listing-50"
    assert replace(Settings(), method="grpo").name("ibpo") == "grpo"
    assert replace(Settings(), method="length-penalty").name("ibpo") == "length-penalty-0.05"


@pytest.mark.parametrize("arguments, says", [
    ("--method grpo", "needs --rl-top-p 1"), ("--method length-penalty", "needs --rl-top-p 1"),
    ("--method length-penalty --rl-top-p 1 --temperature 0.8", "--temperature 1"),
    ("--method grpo --rl-top-p 1 --kl-max 10", "no --kl-max"),
    ("--method listing --budget tokens=90", "--budget vote=..."),
    ("--method listing --budget vote=0.5,tokens=90", "--budget vote=..."),
    ("--method length-penalty --length-price -0.1", "--length-price"),
    ("--method length-penalty --length-price nan", "--length-price"),
    ("--method length-penalty --length-unit 0", "--length-unit"),
    ("--method length-penalty --rl-top-p 1 --samples 1", "--samples"),
    ("--method grpo --rl-top-p 1 --samples 1", "--samples"), ("--samples 1", "--samples"),
    ("--method length-penalty --rl-top-p 1 --data a.jsonl --valid-data b.jsonl --test-data c.jsonl", "--length-unit"),
    *((f"--method {name} --samples 2", "at least 3") for name in ("ibpo", "margin", "listing")),
    ("--method reinforce", "length-penalty"),
    ("--method cgpo --budget vote=0.3", "no budget"),
    ("--method ipbo --budget vote=0.3", "--method is 'ipbo'"),
    ("--sft-samples 7", "--sft-samples"),
    ("--steps 0", "--steps must be at least 1"), ("--slots -3", "--slots must"), ("--lr 0", "--lr must be above 0"),
    ("80gb", "--model DIR and --data FILE"), ("--step 3", "did you mean --steps?"),
    ("--sft-step=3", "did you mean --sft-steps?"), ("--zzz 3", "--help lists"),
    ("--cap 0.25", "--budget vote=0.25"), ("--q 0.25", "--budget vote=0.25"),
    ("--method sft --kl-max 10", "--kl-max would have no effect"),
    ("--method raft --kl-max 10", "--kl-max would have no effect"),
    ("--data a.jsonl --valid-data b.jsonl", "--test-data"), ("--lora-alpha 0", "--lora-alpha"),
    ("--sft-alpha -1", "--sft-alpha"), ("--valid-every -1", "--valid-every"),
    ("--kl-max 10 --rl-top-p 0.9", "--rl-top-p 1"),
    ("--kl-max -1", "--kl-max"), ("--temperature 0", "--temperature"),
    *((f"--{name} {value}", f"--{name}") for name in ("top-p", "rl-top-p") for value in ("0", "1.1")),
    ("--start DIR --stage asv-sft", "--start"),
    ("--smoke", "there is no --smoke"),
    ("nonsense", "one of builtin, smoke, 80gb, 24gb"),
    *((f"{preset} --data a.jsonl", f"the preset {preset} needs --model DIR and --data FILE") for preset in REAL),
    ("--sampling-dtype fp16", "auto, fp32, bf16"),
    ("--sampling-dtype bf16 --kl-max 10", "--dtype of training"),
    ("--sampling-dtype bf16 --method grpo --rl-top-p 1", "--dtype of training"),
    ("--cache-gib 0", "--cache-gib"),
    ("--budget expected-tokens=0", "--budget"),
    ("--method random --budget expected-tokens=90", "--budget vote=..."),
    ("--budget short=0.3", "--sft-short"),
    ("--budget short=0.3,vote=0.3", "--sft-short"),
    ("--sft-short 9 --budget short=1.3", "--budget"),
    ("--sft-short 9 --budget short=0.3,short=0.3", "--budget"),
    ("--sft-short -1", "--sft-short"),
    ("--zero-margin never", "--zero-margin"), ("--zero-margin vote --method margin", "--zero-margin vote goes with"),
    ("--zero-margin vote --budget tokens=90", "--zero-margin vote goes with"),
    ("--max-grad-norm -1", "--max-grad-norm"),
    ("--max-grad-norm 0", "--max-grad-norm"),
    ("--beta2 1", "--beta2"),
    ("--weight-decay -0.1", "--weight-decay"),
    *((f"--{name} {value}", f"--{name} must be a finite number") for value in ("nan", "inf") for name in (
        "lr", "beta2", "weight-decay", "max-grad-norm", "temperature", "lora-alpha", "cache-gib", "kl-max", "top-p")),
    ("--stage base --lora-rank 4", "--lora-rank"), ("--stage base --plan", "--plan"),
    ("--shard --lora-rank 4", "--shard"),
    ("--sft-short 9 --method random", "two groups"),
    ("--sft-short 9 --method listing", "two groups"),
    ("--sft-short 9 --method margin", "two groups"),
    *((f"--give-up {option}", "--give-up goes with --method ibpo") for option in (
        "--method cgpo", "--method random", "--kl-max 3", "--sft-short 10")),
    ("--base-start DIR --stage base", "--base-start"), ("--base-textbook -1 --stage base", "--base-textbook"),
    ("--sft-distinct 0", "--sft-distinct must be at least 1"),
])
def test_wrong_settings_are_one_clear_line(arguments, says, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_args(arguments.split())
    message = capsys.readouterr().err
    assert stop.value.code == 2 and says in message and len(message.splitlines()) <= 2


def test_alpha_decides_what_it_changes():
    for stage, same in (("base", True), ("sv-sft", True), ("asv-sft", False), ("ibpo", False)):
        assert (deciding(Settings(), stage) == deciding(Settings(sft_alpha=2.0), stage)) == same


def test_the_textbook_and_the_variety_of_votes_decide_what_learns_from_them():
    settings = Settings()
    for change, stages in (dict(base_textbook=1), ("base",)), (dict(sft_distinct=1), ("asv-sft", "ibpo")):
        for stage in ALL:
            assert (deciding(settings, stage) != deciding(replace(settings, **change), stage)) == (stage in stages)


def test_short_votes_decide_the_stages_that_have_them_only():
    """A finished stage of two groups does not depend on a setting that came later, nor SV-SFT on the third group."""
    two, three = Settings(), Settings(sft_short=9)
    for stage in ("base", "sv-sft"):
        assert deciding(two, stage) == deciding(three, stage)
    for stage in ("asv-sft", "ibpo"):
        assert "sft_short" not in deciding(two, stage)
        assert deciding(three, stage) == {**deciding(two, stage), "sft_short": 9}


def test_price_and_unit_decide_the_result_of_a_length_penalty_only():
    for method, decides in (("length-penalty", True), ("ibpo", False)):
        one = replace(Settings(), method=method)
        for other in (replace(one, length_price=0.1), replace(one, length_unit=20.0)):
            assert (deciding(one, "ibpo") != deciding(other, "ibpo")) == decides


def test_settings_of_a_stage_are_those_that_decide_its_result():
    """The settings of what comes later, and those of speed, do not count; those of what comes before do."""
    base, asv, rl = (set(Settings().deciding(stage)) for stage in ("base", "asv-sft", "ibpo"))
    assert "base_steps" in base and not base & {"model", "sft_steps", "steps", "budget"}
    assert {"model", "data", "sft_votes", "temperature"} <= asv < rl and "lr" not in asv
    assert {"budget", "method", "kl_max", "rl_top_p", "prompts", "accumulate"} <= rl
    assert not (base | asv | rl) & {"out", "device", "slots", "micro_tokens", "checkpointing", "test_data"}


def test_every_setting_says_whose_result_it_decides():
    """A setting that decides nothing is one of speed, of where to write, or of what is measured afterwards."""
    decides_nothing = {f.name for f in fields(Settings) if not f.metadata["decides"]}
    assert decides_nothing == {
        "out", "plan", "device", "valid_data", "test_data", "valid_every", "valid_problems", "slots", "cache_gib",
        "processes", "shard", "micro_tokens", "checkpointing", "eval_problems", "eval_samples"}
    for f in fields(Settings):
        assert set(f.metadata["decides"]) <= {"samples", *ALL}


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_in_range(preset):
    needs = ["--model", "DIR", "--data", "a.jsonl", "--valid-data", "b.jsonl", "--test-data", "c.jsonl"]
    settings, stage = parse_args([preset, "--plan"] + needs * (preset in REAL))  # --plan: also without a GPU
    assert stage == "all" and all(getattr(settings, name) == value for name, value in PRESETS[preset].items()
                                  if name not in ("model", "data"))


@pytest.mark.parametrize("preset", REAL)
def test_presets_of_real_models_write_out_every_setting(preset):
    """None is silently that of the 1 MB model; what a user has to name, or what is off (None), is left out."""
    named = {"model", "data", "valid_data", "test_data", "plan"}
    expected = {f.name for f in fields(Settings) if f.metadata["section"] != BASE and f.default is not None
                and f.metadata["when"] is None} - named
    optional = {"budget", "sft_short", "zero_margin", "give_up", "lora_rank", "lora_alpha"}
    assert expected <= set(PRESETS[preset]) <= expected | optional


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_asked_for(name):
    settings, _ = parse_args(["--method", name] + ["--rl-top-p", "1"] * METHODS[name].policy_gradient)
    assert settings.method == name and settings.name("ibpo").startswith(name)


def test_help_shows_every_setting_with_its_default(capsys):
    with pytest.raises(SystemExit):
        parse_args(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for f in fields(Settings):
        assert re.search(f"--{f.name.replace('_', '-')}\\b", text), f.name
    assert text.index("--budget") < text.index("--micro-tokens") < text.index("--lora-alpha")
    assert "--cap" not in text


def test_needs_no_torch():
    code = "import sys, plumbing.settings; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).resolve().parent.parent, check=True)
