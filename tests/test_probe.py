"""experiments/probe.py: what could be seen at the moment of choice.

    pytest tests/test_probe.py
"""

import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import build

import data
import sample
import voting
from experiments import probe


def test_auc_against_all_pairs():
    rng = np.random.default_rng(0)
    for _ in range(20):
        score, positive, level = rng.integers(0, 6, 40) / 5, rng.random(40) < 0.4, rng.integers(1, 4, 40)
        pairs = [(score[i] > score[j]) + (score[i] == score[j]) / 2 for i in range(40) for j in range(40)
                 if positive[i] and not positive[j] and level[i] == level[j]]
        assert probe.auc(score, positive, level) == pytest.approx(np.mean(pairs))
    assert np.isnan(probe.auc(score, np.ones(40, bool), level))


def test_probe_finds_a_direction_and_nothing_in_noise():
    rng = np.random.default_rng(0)
    hidden, noise = rng.normal(size=(4000, 12)), rng.normal(size=4000)
    level = rng.integers(1, 6, 4000)
    assert probe.probe(hidden, hidden[:, 3] - hidden[:, 7] + noise > 1, level) > 0.85
    assert abs(probe.probe(hidden, noise > 1, level) - 0.5) < 0.05
    hidden[:, 0] = level  # knowing the level alone is no merit
    assert abs(probe.probe(hidden, noise + level > 4, level) - 0.5) < 0.05


def test_state_at_the_end_of_the_first_trial(monkeypatch):
    """What is read is the last [/TRIAL] of the first trial, whatever was written after it, padded or not."""
    tokenizer = data.build_tokenizer(data.world_pieces() + voting.pieces())
    model = build(len(tokenizer), max_position_embeddings=512)
    problems, rng = data.load(data.BUILTIN, "validation", 30), random.Random(0)
    texts = [voting.OPEN + (problem.solution if i % 2 else "5\n\\boxed{5}") + voting.CLOSE + voting.EASY
             for i, problem in enumerate(problems)]
    texts[4] = texts[4].replace(voting.CLOSE, "")  # never ends its trial
    texts[5] = texts[5].replace(voting.EASY, texts[7])  # goes on

    def written(model, tokenizer, questions, condition, samples, **options):
        return [[sample.Response(
            ids=tokenizer(text, add_special_tokens=False).input_ids, logprob=0.0, finished=True,
            prompt=voting.encode_prompt(tokenizer, question, condition), text=text)]
            for question, text in zip(questions, texts)]

    monkeypatch.setattr(sample, "ask", written)
    seen = probe.choices(model, tokenizer, problems, seed=0)
    kept = [i for i in range(30) if i != 4]
    assert seen.kind.tolist() == [probe.NAMES.index(data.kind_of(problems[i].question)) for i in kept]
    assert seen.level.tolist() == [problems[i].level for i in kept]
    assert seen.right.tolist() == [i % 2 == 1 or problems[i].answer == "5" for i in kept]
    for row in rng.sample(range(len(kept)), 5):
        i = kept[row]
        prompt = voting.encode_prompt(tokenizer, problems[i].question, "asv")
        begun = texts[i][: texts[i].index(voting.CLOSE) + len(voting.CLOSE)]
        ids = torch.tensor([prompt + tokenizer(begun, add_special_tokens=False).input_ids])
        with torch.no_grad():
            chance = model(ids)[0, -1].softmax(-1)[tokenizer.convert_tokens_to_ids(voting.OPEN)]
        assert seen.goes_on[row] == pytest.approx(chance.item(), abs=1e-5)


def test_report(capsys):
    rng, n = np.random.default_rng(0), 3000
    kind, right = rng.integers(0, 6, n), rng.random(n) < 0.5
    hidden = rng.normal(size=(n, 8))
    hidden[:, 0] += 3 * np.isin(kind, [1, 2])
    hidden[:, 1] += 3 * right
    probe.print_report(probe.Choices(hidden, np.where(kind == 1, 0.625, 0.125), kind, rng.integers(1, 6, n), right))
    printed = capsys.readouterr().out
    assert "62.5%" in next(line for line in printed.splitlines() if line.startswith("medium"))
    for line in printed.split("AUC")[1].splitlines()[1:]:
        assert float(line.split()[-2]) > 0.9, line
        if "from a right one" in line:
            assert float(line.split()[-1]) == 0.5  # the policy makes no difference


def test_a_model_whose_tags_are_no_tokens_is_refused():
    tokenizer = SimpleNamespace(get_vocab=lambda: {"[": 0, "TRIAL": 1, "]": 2})
    with pytest.raises(data.DataError, match="no token of this model"):
        probe.first_trials(None, tokenizer, [], 0)


def test_other_checkpoints_are_one_clear_line(monkeypatch):
    base = Path(__file__).resolve().parent.parent / "checkpoints/base"
    monkeypatch.setattr("sys.argv", ["probe.py", str(base)])
    with pytest.raises(SystemExit, match="^error: .*does not decide for itself; give an ASV-SFT or IBPO checkpoint$"):
        probe.main()
