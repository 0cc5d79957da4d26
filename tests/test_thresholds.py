"""experiments/thresholds.py: a choice by threshold, at a given cost.

    pytest tests/test_thresholds.py
"""

import re

import numpy as np
import pytest
import torch

import data
import llama
import sample
import voting
from experiments import thresholds


def test_sharp_spends_the_budget_on_the_likeliest():
    rng = np.random.default_rng(0)
    for _ in range(100):
        n = rng.integers(1, 30)
        likely, cost = rng.integers(0, 6, n) / 5, rng.integers(1, 8, n)
        budget = rng.uniform(0, cost.mean())
        share = thresholds.sharp(likely, cost, budget)
        assert (share * cost).mean() == pytest.approx(budget) and ((share >= 0) & (share <= 1)).all()
        assert ((share > 0) & (share < 1)).sum() <= 1
        assert not (share < 1).any() or likely[share > 0].min(initial=1) >= likely[share < 1].max()
    assert thresholds.sharp(likely, cost, cost.mean()).tolist() == pytest.approx([1] * n)


def test_nucleus_is_that_of_the_sampler():
    """Of a choice between two tokens: how often each is drawn."""
    noise = (torch.arange(1000) + 0.5) / 1000  # [N]
    for likely in (0.02, 0.09, 0.11, 0.5, 0.89, 0.91, 0.99):
        logits = torch.tensor([[likely, 1 - likely]]).log().expand(1000, 2)  # [N, 2]
        drawn, _ = sample.sample_token(logits, noise, 1.0, thresholds.TOP_P)
        share = float(thresholds.nucleus(np.array([likely]))[0])
        assert share == pytest.approx((drawn == 0).float().mean().item(), abs=0.02)


def test_report_of_a_known_truth(capsys):
    """Voting mends half of the problems, and the policy knows which: 3 of 4 votes against 1 of 4."""
    n = 4000
    mended = np.arange(n) % 2 == 0
    seen = thresholds.Outcomes(np.where(mended, 0.75, 0.25), np.zeros(n, bool), mended, np.full(n, 5), ~mended)
    thresholds.print_report(seen, 2)
    printed = capsys.readouterr().out
    lines = [re.split(r" {2,}", line) for line in printed.splitlines()]
    rows = {name: [float(number) for number in re.findall(r"-?\d+\.\d+", " ".join(rest))] for name, *rest in lines}
    assert "of the votes 50.0% are malformed; of those on the likeliest 20 % of the problems 0.0%" in printed
    assert "sharp minus sampled, top-p 1, at equal trials: 12.5 " in printed
    assert rows["never"][:3] == [0, 1, 0] and rows["always"][:3] == [50, 5, 100]
    assert rows["sampled, top-p 1"][:4] == [37.5, 3, 50, 12.5]  # half of all at random: 25 %
    assert rows["sampled, top-p 0.9"] == rows["sampled, top-p 1"]
    assert rows["likelier than not"][:4] == [50, 3, 50, 25]
    assert rows["as many trials as sampled, top-p 1, sharp"][:4] == [50, 3, 50, 25]


def test_each_model_has_a_threshold_of_its_own(capsys):
    """Two models that know which half of their problems votes mend, but one hardly ever votes: a common threshold
    would give all votes to the other."""
    n = 2000
    mended = np.arange(2 * n) % 2 == 0
    scale = np.repeat([0.1, 1], n)
    seen = thresholds.Outcomes(scale * np.where(mended, 0.75, 0.25), np.zeros(2 * n, bool), mended, np.full(2 * n, 5),
                               np.zeros(2 * n, bool))
    thresholds.print_report(seen, 2)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("sharp, 50%")]
    assert line.split()[2:5] == ["50.0%", "3.00", "50.0%"]


def test_outcomes_of_a_model():
    """An untrained model ends no trial by itself; one that is made to ends all."""
    tokenizer = data.build_tokenizer(data.world_pieces() + voting.pieces())
    model = llama.initialise(llama.Llama(llama.Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=512, tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id)), 0)
    with torch.no_grad():  # all tokens are equally likely, but for the two that matter
        model.lm_head.weight.zero_()
    problems = data.load(data.BUILTIN, "validation", 40)
    seen = thresholds.outcomes(model, tokenizer, problems, 0)
    assert 0 < len(seen.single) <= 40 and np.allclose(seen.likely, 1 / len(tokenizer))
    assert not seen.single.any() and not seen.vote.any() and len(seen.trials) == len(seen.single)


def test_wrong_arguments(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["thresholds.py", "checkpoints/base", "--problems", "3"])
    with pytest.raises(SystemExit):
        thresholds.main()
    assert "at least 100" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["thresholds.py", "checkpoints/base"])
    with pytest.raises(SystemExit, match="does not decide for itself"):
        thresholds.main()
