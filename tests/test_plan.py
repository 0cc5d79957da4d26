"""plumbing/plan.py: what it adds up, which setting it names, and that it starts nothing.

    pytest tests/test_plan.py
"""

import json
from dataclasses import replace

import pytest
import tiny
import torch

import llama
import sample
import train
from plumbing import memory, plan
from plumbing.settings import Settings, parse_args

GIB = 2**30
H100 = plan.Rates(3.35e12, 989e12, 0.3, 0.35, "")


def settings_of(folder, *arguments: str, config: llama.Config = tiny.LLAMA_8B):
    """The settings of a command line, with a model without weights and a few problems."""
    tiny.describe(config, folder / "model")
    problems = folder / "problems.jsonl"
    problems.write_text("\n".join(json.dumps({"problem": f"What is {i} + 1?", "answer": str(i + 1), "level": 1})
                                  for i in range(20)))
    names = "--data", "--valid-data", "--test-data"
    files = [text for name in names for text in (name, str(problems))]
    return parse_args([*arguments, "--model", str(folder / "model"), "--out", str(folder / "out"), *files])


def plan_on(monkeypatch, settings, stage: str, gib: float, disk: float = 1000.0) -> plan.Plan:
    monkeypatch.setattr(plan, "card_and_free", lambda settings, need: ("NVIDIA H100", int(gib * GIB)))
    monkeypatch.setattr(plan.shutil, "disk_usage", lambda path: type("", (), {"free": int(disk * GIB)}))
    return plan.Plan(settings, stage)


@pytest.mark.slow
def test_presets_fit_the_cards_that_they_are_made_for(tmp_path, monkeypatch):
    """With room for PyTorch's context and for fragments: 79.1 and 22 GiB are what such cards have (H100; A10, L4)."""
    for preset, config, gib in (("80gb", tiny.LLAMA_8B, 79.1), ("24gb", tiny.QWEN_1_5B, 22)):
        made = plan_on(monkeypatch, *settings_of(tmp_path, preset, "--plan", config=config), gib=gib)
        assert not made.complaints()
        assert 0.7 * gib < sum(made.peak.memory.values()) / GIB < 0.92 * gib


def test_8b_on_24_gib_needs_lora(tmp_path, monkeypatch):
    made = plan_on(monkeypatch, *settings_of(tmp_path, "80gb", "--plan"), gib=23.5)
    (complaint,) = made.complaints()
    assert "memory" in complaint and "--lora-rank 16" in complaint and "\n" not in complaint


@pytest.mark.parametrize("arguments, gib, flag", [
    ("80gb --plan", 66.0, "--cache-gib"), ("80gb --plan --no-checkpointing --micro-tokens 2048", 79.1,
                                           "--checkpointing"),
    ("80gb --plan --micro-tokens 65536", 79.1, "--micro-tokens"), ("80gb --plan --kl-max 10 --rl-top-p 1", 40.0,
                                                                    "--lora-rank")])
def test_what_it_advises_is_enough(arguments, gib, flag, tmp_path, monkeypatch):
    settings, stage = settings_of(tmp_path, *arguments.split())
    before = plan_on(monkeypatch, settings, stage, gib)
    (complaint,) = before.complaints()
    assert flag in complaint
    advised = complaint.rpartition("; ")[2].removesuffix(" would fit").split()
    after = settings_of(tmp_path, *arguments.replace("--no-checkpointing", "").split(), *advised)
    assert not plan_on(monkeypatch, *after, gib=gib).complaints()


def test_a_cache_without_room_for_a_response_is_one_line(tmp_path):
    settings, stage = settings_of(tmp_path, "80gb", "--plan", "--cache-gib", "0.1")
    with pytest.raises(sample.LengthError, match="cache_gib is 0.1") as error:
        plan.Plan(settings, stage)
    assert "\n" not in str(error.value)


def test_nothing_helps(tmp_path, monkeypatch):
    made = plan_on(monkeypatch, *settings_of(tmp_path, "80gb", "--plan"), gib=8, disk=100)
    memory_, disk = made.complaints()
    assert "no setting makes it fit" in memory_ and "--out" in disk and "100 are free" in disk


def test_what_a_step_of_sampling_reads_is_what_is_there():
    config = tiny.LLAMA_8B
    with torch.device("meta"):
        model = llama.Llama(config).to(torch.bfloat16)
        cache = torch.empty(2, 32, 44, 8, 1000, 128, dtype=torch.bfloat16)  # keys and values [layers, rows, K, S, D]
    read = sum(w.nbytes for name, w in model.named_parameters() if "embed_tokens" not in name)
    assert plan.read_per_step(config, torch.bfloat16, 44 * 1000) == read + cache.nbytes
    with torch.device("meta"):
        small = llama.Llama(tiny.QWEN_1_5B)
    assert memory.count_multiplied(tiny.QWEN_1_5B) == sum(w.numel() for w in small.parameters())  # tied: once


def test_hours_are_tokens_over_tokens_per_second(tmp_path, monkeypatch):
    settings, stage = settings_of(tmp_path, "80gb", "--plan", "--sft-problems", "1000", "--steps", "10")
    config = llama.read_config(settings.model)
    parts = {part.name: part for part in plan.parts_of(settings, stage, config, 400)}
    assert parts["samples of the base"].sampled == 1000 * 8 * plan.TRIAL_TOKENS
    assert parts["ibpo, learning"].learned == pytest.approx(10 * 128 * (400 + plan.VOTE_TRIALS * plan.TRIAL_TOKENS))
    spent = plan.hours_of(parts["samples of the base"], settings, config, 400, H100)
    rate = plan.sampling_bound(config, settings, 400, H100) * H100.sampling
    assert spent * 3600 * rate == pytest.approx(1000 * 8 * plan.TRIAL_TOKENS)
    twice = replace(H100, sampling=0.6, learning=0.7)
    for part in parts.values():
        assert plan.hours_of(part, settings, config, 400, twice) == pytest.approx(
            plan.hours_of(part, settings, config, 400, H100) / 2)
    monkeypatch.setattr(plan.distributed, "size", 4)
    assert plan.hours_of(part, settings, config, 400, H100) == pytest.approx(
        4 * plan.hours_of(part, settings, config, 400, replace(twice, sampling=1.2, learning=1.4)))


@pytest.mark.parametrize("stage, start, names", [
    ("all", "", "sv-sft asv-sft ibpo"), ("all", "--start DIR", "sv-sft ibpo"), ("ibpo", "", "asv-sft ibpo"),
    ("ibpo", "--start DIR", "ibpo"), ("sv-sft", "", "sv-sft"), ("asv-sft", "", "asv-sft")])
def test_only_stages_that_run_are_planned(tmp_path, stage, start, names):
    settings, _ = settings_of(tmp_path, "80gb", "--plan", "--stage", stage, *start.split())
    parts = plan.parts_of(settings, stage, llama.read_config(settings.model), 400)
    assert [part.name.removesuffix(", learning") for part in parts if part.learned] == names.split()


def test_the_longest_prompt_is_of_any_stage(tmp_path):
    """The instruction for three groups is the longest; the built-in model has a token for it only after ASV-SFT."""
    settings, _ = settings_of(tmp_path, "80gb", "--plan")
    shorter = plan.longest_prompt(settings)
    assert plan.longest_prompt(replace(settings, sft_short=10)) > shorter + 20
    assert plan.longest_prompt(Settings(sft_short=10)) == plan.longest_prompt(Settings()) < 40


@pytest.mark.parametrize("card, name", [
    ("NVIDIA H100 80GB HBM3", "H100"), ("NVIDIA A100-SXM4-80GB", "A100"), ("NVIDIA A10G", "A10"), ("NVIDIA L4", "L4"),
    ("NVIDIA GeForce RTX 4090", "4090"), ("NVIDIA L40S", None), ("NVIDIA GH200", None), ("this CPU", None)])
def test_cards_are_recognised(card, name):
    rates = plan.rates_of(card, 8 * 10**9)
    if name is None:
        assert rates is None
    else:
        assert (rates.bandwidth, rates.products) == plan.CARDS[name] and "estimated" in rates.source


def test_measured_rates_come_first(tmp_path, monkeypatch):
    """Of the model nearest in size; what was not measured stays assumed."""
    monkeypatch.setattr(plan, "MEASURED", tmp_path)
    rows = [{"parameters": count, "share": share} for count, share in ((1.2e9, 0.2), (8e9, 0.5), (1.5e9, None))]
    (tmp_path / "NVIDIA-H100-80GB-HBM3.json").write_text(json.dumps(
        {"date": "2026-11-26", "bandwidth": 3e12, "products": 7e14, "sampling": rows}))
    small, large = (plan.rates_of("NVIDIA H100 80GB HBM3", count) for count in (1.5 * 10**9, 7 * 10**9))
    assert (small.sampling, large.sampling, large.bandwidth) == (0.2, 0.5, 3e12)
    assert large.learning == plan.ASSUMED["learning"] and "measured" in large.source
    assert large.source.endswith("; learning: assumed")


def test_rates_of_learning_are_those_with_or_without_checkpointing(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "MEASURED", tmp_path)
    rows = [{"parameters": 1e9, "share": share, "checkpointing": on} for on, share in ((True, 0.3), (False, 0.4))]
    (tmp_path / "X.json").write_text(json.dumps(
        {"date": "", "bandwidth": 1, "products": 1, "learning": rows}))
    assert [plan.rates_of("X", 10**9, on).learning for on in (True, False)] == [0.3, 0.4]


def test_plan_prints_and_starts_nothing(tmp_path, capsys):
    settings, stage = settings_of(tmp_path, "80gb", "--plan")
    assert train.run(settings, stage) == {}
    printed = capsys.readouterr().out
    for word in ("8.03 billion", "samples of the base", "sv-sft", "ibpo, learning", "evaluation", "disk:", "hours:"):
        assert word in printed
    assert not (tmp_path / "out").exists()


def test_a_line_before_a_run_of_a_real_model(tmp_path, capsys):
    settings, stage = settings_of(tmp_path, "80gb", "--device", "cpu")
    assert plan.announce(settings, stage)
    line, *others = capsys.readouterr().out.splitlines()
    assert line.startswith("plan: at most ") and "--plan" in line
    assert all(text.startswith("warning: ") for text in others)
    small, stage = parse_args(["smoke"])
    assert plan.announce(small, stage) and not capsys.readouterr().out
