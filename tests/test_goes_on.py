"""recipes/goes_on.py: the probability of another trial, beside how often the sampler goes on."""

import numpy as np
import pytest
import torch

import data
import sample
import voting
from recipes import goes_on


def test_under_top_p_is_what_the_sampler_draws():
    generator = torch.Generator().manual_seed(0)
    for top_p in (0.3, 0.7, 0.9, 1.0):
        p = torch.randn(12, generator=generator).mul(1.5).softmax(-1)  # [V]
        noise = torch.rand(20_000, generator=generator)
        drawn, _ = sample.sample_token(p.log().expand(len(noise), -1), noise, 1.0, top_p)
        shares = torch.bincount(drawn, minlength=12) / len(noise)
        for token in range(12):
            expected = goes_on.under_top_p(p, token, top_p)
            assert (expected == 0) == (shares[token] == 0)
            assert shares[token].item() == pytest.approx(expected, abs=0.015)


@pytest.mark.parametrize("top_p", [0.8, 1.0])
def test_it_is_how_often_the_model_goes_on(top_p):
    """Of other responses to the same problems: their share of votes, level by level together, within 4 deviations."""
    model, tokenizer, _ = sample.open_checkpoint("checkpoints/ibpo")
    problems = data.load(data.BUILTIN, "validation", 200, 0)
    level, before, after = goes_on.goes_on(model, tokenizer, problems, top_p, 300, 0)
    rows = sample.ask(model, tokenizer, [problem.question for problem in problems], "asv", 4, top_p=top_p, seed=9,
                      max_new_tokens=300)
    votes = np.mean([[response.text.count(voting.OPEN.strip()) > 1 for response in row] for row in rows])
    assert set(level) == {1, 2, 3, 4, 5} and len(level) > 190
    assert abs(after.mean() - votes) < 4 * after.std() / len(after) ** 0.5
    assert np.allclose(before, after, atol=1e-5) == (top_p == 1)


def test_a_line_for_each_model_and_one_line_for_an_error(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["goes_on.py", "checkpoints/ibpo", "--problems", "40"])
    goes_on.main()
    title, line = capsys.readouterr().out.splitlines()
    assert "%" in title and line.startswith("ibpo ") and "level 5:" in line
    for asked, error in ((["checkpoints/base"], "^error: checkpoints/base does not decide for itself"),
                         (["checkpoints/ibpo", "--max-new-tokens", "2"], "^error: no first trial ended"),
                         (["checkpoints/ibpo", "--problems", "0"], "2")):
        monkeypatch.setattr("sys.argv", ["goes_on.py", *asked])
        with pytest.raises(SystemExit, match=error):
            goes_on.main()
