"""experiments/score.py: the gradient of both stages against autograd and enumeration, turns, pairs, and a whole run.

    pytest tests/test_score.py
"""

import json
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up import judged, rollout_of
from tiny import build, letters

import data
import learn
import llama
import sample
import train
import voting
from experiments import score, score_report, tables
from experiments.score import STAGE_1, STAGE_2, WARM, ScoreSettings
from plumbing.records import write_record
from plumbing.settings import Settings, UserError

ROOT = Path(__file__).resolve().parent.parent


def pair(*answers, tail: str = "") -> str:
    return "".join(voting.OPEN + f"7\n\\boxed{{{answer}}}" + voting.CLOSE for answer in answers) + tail


@pytest.fixture(scope="module")
def tokenizer():
    return data.build_tokenizer(data.world_pieces() + voting.pieces("score"))


# ---------------------------------------------------------------------------------------------------------------------
# What a turn learns from


def test_rewards_by_hand():
    first, second = np.array([[0, 0, 1, 1]], bool), np.array([[0, 1, 0, 1]], bool)
    kl = np.array([[[1.0, 0.0, -2.0, 3.0]], [[0.5, 1.0, 0.0, -1.0]]])
    settings = ScoreSettings(kl=0.1, kl_first=0.5, alpha=10.0)
    one, two = score.rewards(STAGE_1, first, second, kl, settings)
    assert one == pytest.approx(np.array([[-0.5, 0, 1.0, -1.5]]))  # the KL term alone
    assert two == pytest.approx(np.array([[-0.05, 0.9, 0, 1.1]]))
    one, two = score.rewards(STAGE_2, first, second, kl, settings)
    assert one == pytest.approx(np.array([[-0.1, 0, 1.2, 0.7]]))
    assert two == pytest.approx(np.array([[-0.05, 11 - 0.1, -10, 1.1]]))  # corrected: 1 + 10; spoiled: -10
    one, two = score.rewards(STAGE_2, first, second, kl, ScoreSettings(kl=0.1, bonus=False))
    assert one == pytest.approx(np.array([[-0.1, 0, 1.2, 0.7]]))
    assert two == pytest.approx(np.array([[-0.05, 0.9, 0, 1.1]]))


def test_the_baseline_is_the_mean_of_the_others():
    reward = np.random.default_rng(0).normal(size=(3, 5))
    turns = [learn.Example([1], [j]) for j in range(15)]
    found = score.weigh(turns, reward)
    assert [example.response for example in found] == [[j] for j in range(15)]
    for k, example in enumerate(found):
        i, j = divmod(k, 5)
        others = [reward[i, other] for other in range(5) if other != j]
        assert example.weight == pytest.approx((reward[i, j] - sum(others) / 4) / 5)
    assert [example.weight for example in score.weigh(turns[:4], np.array([[1.0, 1.0], [0.0, 1.0]]))] == [-0.5, 0.5]
    assert not score.weigh([learn.Example([1], []), turns[0]], np.array([[0.0, 1.0]]))[1:]  # an empty turn: nothing


@pytest.mark.parametrize("stage, bonus", [(STAGE_1, True), (STAGE_2, True), (STAGE_2, False)])
def test_the_expected_gradient_is_that_of_the_objective(stage, bonus):
    """Each turn one token of five: all 25 responses, weighted by their probability, against autograd of Eq. (3)-(5).

    KL terms are computed from whole distributions. The bonus is 1 + alpha times r(y2): y1 is a constant to turn 2.
    """
    model, reference = (build(vocab_size=5, seed=seed, dtype=torch.float64) for seed in (0, 1))
    settings, prompt = ScoreSettings(kl=0.3, kl_first=0.7, alpha=4.0, bonus=bonus), [1, 2]
    right = np.array([[0, 1, 0, 1, 0], [1, 0, 0, 1, 1]], float)  # r of the tokens of y1, of y2
    responses = list(product(range(5), repeat=2))

    def tables(of: llama.Llama) -> tuple[torch.Tensor, torch.Tensor]:
        """log pi(y1 | x1) and log pi(y2 | x1 y1): [5] and [5, 5]."""
        one = torch.log_softmax(of(torch.tensor([prompt]))[0, -1], -1)
        return one, torch.log_softmax(of(torch.tensor([[*prompt, y] for y in range(5)]))[:, -1], -1)

    one, two = tables(model)
    with torch.no_grad():
        one_ref, two_ref = tables(reference)
    kl_one = (one.exp() * (one - one_ref)).sum()
    kl_two = one.exp().detach() @ (two.exp() * (two - two_ref)).sum(-1)  # y1 as it is sampled, not learned from
    right_one, right_two = one.exp() @ torch.tensor(right[0]), one.exp().detach() @ (two.exp() @ torch.tensor(right[1]))
    if stage == STAGE_1:
        objective = right_two - 0.3 * kl_two - 0.7 * kl_one
    else:
        objective = right_one - 0.3 * kl_one + (1 + 4.0 * bonus) * right_two - 0.3 * kl_two
    expected = torch.autograd.grad(objective, list(model.parameters()))

    first = np.array([[right[0, y1] for y1, _ in responses]], bool)
    second = np.array([[right[1, y2] for _, y2 in responses]], bool)
    turns = [[learn.Example(prompt, [y1]) for y1, _ in responses],
             [learn.Example([*prompt, y1], [y2]) for y1, y2 in responses]]
    kl = np.array([train.logprobs_of(model, turn, settings) - train.logprobs_of(reference, turn, settings)
                   for turn in turns])
    chance = np.array([(one[y1] + two[y1, y2]).exp().item() for y1, y2 in responses])
    assert chance @ kl.T == pytest.approx([kl_one.item(), kl_two.item()], abs=1e-5)  # the estimate is unbiased
    examples = [learn.Example(e.prompt, e.response, float(weight))
                for turn, reward in zip(turns, score.rewards(stage, first, second, kl[:, None], settings))
                for e, weight in zip(turn, chance * reward[0])]
    learn.add_gradient(model, examples, 1, settings)
    for weight, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(weight.grad, -gradient, rtol=1e-4, atol=1e-6)
    assert max(gradient.abs().max() for gradient in expected) > 1e-3


@pytest.mark.parametrize("stage", [STAGE_1, STAGE_2])
def test_gradient_of_a_step(stage, tokenizer, tmp_path, monkeypatch):
    """A whole step on given responses, malformed ones too, against autograd over whole sequences, one by one."""
    texts = [[pair(5, 5), pair(6, 5), pair(5, 6), pair(6, 7)], [pair(6, 5), pair(5), pair(6, 6, 5), "7\n\\boxed{5}"],
             [pair(5, 5), pair(5, 5), pair(5, 6), pair(6, 6, tail=voting.OPEN)]]
    gold, m = "5", 4
    ids = [[[*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id] for text in row]
           for row in texts]
    prompts = [[3, 4], [5], [6, 7, 8]]
    responses, _ = voting.judge_rows([gold] * 3, [[(text, True, 9) for text in row] for row in texts], "score")
    rollout = rollout_of(responses, np.array([1, 2, 3]), prompts,
                         [[sample.Completion(each, 0.0, True) for each in row] for row in ids])
    model, reference = (build(vocab_size=len(tokenizer), seed=seed, max_position_embeddings=128) for seed in (2, 3))
    start, warm = tmp_path / "start", tmp_path / "warm"
    for directory in (start, warm):
        directory.mkdir()
    settings = ScoreSettings(out=str(tmp_path), steps=1, prompts=3, samples=m, kl=0.02, kl_first=0.3, alpha=6.0,
                             max_grad_norm=1e9, micro_tokens=100)
    found = []
    monkeypatch.setattr(score, "open_start", lambda _, path: (model if path == start else reference, tokenizer))
    monkeypatch.setattr(score, "roll_out", lambda *arguments: rollout)
    monkeypatch.setattr(learn.AdamW, "step", lambda adamw, lr: found.extend(w.grad.clone() for w in adamw.weights))
    directory = score.train_stage(settings, stage, start, warm)
    (record,) = [json.loads(line) for line in (directory / "log.jsonl").open()]

    close = tokenizer.convert_tokens_to_ids(voting.CLOSE)
    logp, kl, reward = {}, np.zeros((2, 3, m)), np.zeros((2, 3, m))
    for i, j in np.ndindex(3, m):
        whole, before = torch.tensor([prompts[i] + ids[i][j]]), len(prompts[i])
        steps = [torch.log_softmax(each(whole)[0], -1)[before - 1 : -1].gather(1, whole[0, before:, None])[:, 0]
                 for each in (model, reference)]
        end = ids[i][j].index(close) + 1 if close in ids[i][j] else len(ids[i][j])
        for t, part in enumerate((slice(end), slice(end, None))):
            logp[t, i, j] = steps[0][part].sum()
            kl[t, i, j] = (steps[0][part].sum() - steps[1][part].sum()).item()
        boxes = [text.partition("}")[0] for text in texts[i][j].split("\\boxed{")[1:]]
        is_pair = len(boxes) == 2 and texts[i][j].endswith(voting.CLOSE)
        r1, r2 = boxes[0] == gold and close in ids[i][j], is_pair and boxes[1] == gold
        reward[:, i, j] = (-0.3 * kl[0, i, j], r2 - 0.02 * kl[1, i, j]) if stage == STAGE_1 else (
            r1 - 0.02 * kl[0, i, j], r2 + 6.0 * (r2 - r1) - 0.02 * kl[1, i, j])
    loss = 0
    for t, i, j in np.ndindex(2, 3, m):
        others = np.delete(reward[t, i], j).mean()
        loss = loss - (reward[t, i, j] - others) / m * logp[t, i, j] / 3
    model.zero_grad()
    loss.backward()
    assert record["loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert record["kl"] == pytest.approx(kl.mean(axis=(1, 2)), rel=1e-4) and abs(kl).min(axis=(1, 2))[0] > 1e-3
    assert record["first"] == pytest.approx(6 / 12) and record["second"] == pytest.approx(5 / 12)
    assert record["corrected"] == pytest.approx(2 / 12) and record["spoiled"] == pytest.approx(3 / 12)
    for mine, weight in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(mine, weight.grad, rtol=1e-3, atol=1e-5)


def test_each_problem_and_each_seed_is_met_once(tokenizer, tmp_path, monkeypatch):
    """Over both stages; and stage II meets the same ones with and without stage I."""
    ids = [[*tokenizer(pair(5, k), add_special_tokens=False).input_ids, tokenizer.eos_token_id] for k in (5, 6)]
    responses = judged([[1, 0]] * 3)
    rollout = rollout_of(responses, None, [[3]] * 3, [[sample.Completion(each, 0.0, True) for each in ids]] * 3)
    problems, seeds = {}, {}

    def roll_out(policy, tokenizer, batch, m, top_p, seed, settings):
        assert (m, top_p, len(batch)) == (2, 1.0, 3)
        problems[now].extend(problem.question for problem in batch)
        seeds[now].append(seed)
        return rollout

    monkeypatch.setattr(score, "open_start", lambda *_: (build(vocab_size=len(tokenizer)), tokenizer))
    monkeypatch.setattr(score, "roll_out", roll_out)
    for now, stage, stage_1 in (("1", STAGE_1, True), ("2", STAGE_2, True), ("alone", STAGE_2, False)):
        problems[now], seeds[now] = [], []
        settings = ScoreSettings(out=str(tmp_path / "out"), steps=4, prompts=3, samples=2, stage_1=stage_1, kl=0.01)
        (tmp_path / "start").mkdir(exist_ok=True)
        score.train_stage(settings, stage, tmp_path / "start", tmp_path / "start")
    assert problems["2"] == problems["alone"] and seeds["2"] == seeds["alone"]
    assert len(set(problems["1"] + problems["2"])) == 24 and len(set(seeds["1"] + seeds["2"])) == 8


# ---------------------------------------------------------------------------------------------------------------------
# Turns, pairs, settings


@pytest.mark.parametrize("spelled", [True, False])
def test_turns_part_where_the_first_trial_ends(spelled, tokenizer):
    """Also where "[/TRIAL]" is eight tokens."""
    tokenizer = letters() if spelled else tokenizer
    texts = [pair(5, 6), pair(5), pair(5, 6, 7), voting.OPEN + "7\n\\boxed{5}", ""]
    ids = [[*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id] for text in texts]
    responses = [[sample.Completion(each, 0.0, True) for each in ids]]
    rollout = rollout_of(judged(np.ones((1, 5))), None, [[1, 2]], responses)
    first, second = score.split_turns(rollout, tokenizer)
    for text, whole, one, two in zip(texts, ids, first, second, strict=True):
        assert one.prompt == [1, 2] and two.prompt == [1, 2, *one.response] and one.response + two.response == whole
        assert one.loss_mask is two.loss_mask is None
        written = tokenizer.decode(one.response)
        if "[/TRIAL]" in text:
            assert written.rstrip() == text[: text.index("[/TRIAL]") + len("[/TRIAL]")]
            assert "[/TRIAL]" not in tokenizer.decode(one.response[:-1])
        else:
            assert not two.response


def test_pairs_are_of_the_base_s_own_samples(tokenizer):
    def solutions(*answers) -> list[str]:
        return [f"{k + 2}\n\\boxed{{{answer}}}" for k, answer in enumerate(answers)]

    question = "Compute 7 * 12 modulo 61."
    rows = [{"question": question, "answer": "23", "samples": samples} for samples in (
        solutions(23, 5, 6), solutions(5, 6), solutions(23, 23), solutions(23), [], ["7", "8"])]
    examples = score.pairs(ScoreSettings(), WARM, tokenizer, rows * 20)
    assert len(examples) == 60 and len({tuple(example.response) for example in examples}) > 6
    for row, example in zip(rows[:3] * 20, examples):
        assert example.prompt == voting.encode_prompt(tokenizer, question, "score") and example.loss_mask is None
        assert example.response[-1] == tokenizer.eos_token_id and tokenizer.unk_token_id not in example.response
        trials = tokenizer.decode(example.response[:-1]).replace(voting.OPEN, "").split(voting.CLOSE)
        assert trials[2:] == [""] and trials[0] != trials[1] and set(trials[:2]) <= set(row["samples"])
    with pytest.raises(UserError, match="no pairs"):
        score.pairs(ScoreSettings(), WARM, tokenizer, rows[3:])


def test_what_decides_a_stage():
    settings, plain = ScoreSettings(), Settings()
    assert settings.deciding("samples") == plain.deciding("samples")  # train.py's samples.jsonl serves here, too
    everywhere = {*plain.deciding("samples"), "weight_decay", "beta2", "max_grad_norm", "warmup", "decay"}
    rl = {*everywhere, "steps", "prompts", "samples", "lr", "kl"}
    assert settings.deciding(WARM).keys() == {*everywhere, "sft_steps", "sft_lr"}
    assert settings.deciding(STAGE_1).keys() == {*rl, "kl_first"}
    assert settings.deciding(STAGE_2).keys() == {*rl, "alpha", "stage_1", "bonus"}
    names = {ScoreSettings(stage_1=one, bonus=two).name(STAGE_2) for one, two in product((True, False), repeat=2)}
    assert len(names) == 4 and ScoreSettings(stage_1=False, bonus=False).name(STAGE_1) == STAGE_1
    assert set(score.OPTIONS) <= set(vars(settings))


@pytest.mark.parametrize("wrong, said", [
    (["--samples", "1"], "--samples must be at least 2"),
    (["--data", "math.jsonl"], "unrecognized arguments: --data math.jsonl"),
    (["--alpha", "nan"], "--alpha must be a finite number"), (["--eval-samples", "7"], "--eval-samples must be"),
    (["--stage-2"], "unrecognized arguments: --stage-2"), (["--split", "train"], "--split is 'train'")])
def test_wrong_options_are_refused_in_one_line(wrong, said, capsys):
    with pytest.raises(SystemExit):
        score.main(wrong)
    assert said in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("beside, said", [("nowhere", "nowhere"), (ROOT / "checkpoints/base", "two models are called")])
def test_what_to_evaluate_beside_is_looked_at_before_training(beside, said, tmp_path, monkeypatch):
    monkeypatch.setattr(score, "train", lambda settings: pytest.fail("it trains"))
    with pytest.raises(SystemExit, match=said) as stop:
        score.main(["--out", str(tmp_path), "--beside", str(beside)])
    assert str(stop.value).startswith("error: ") and "\n" not in str(stop.value)


def test_a_base_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(SystemExit) as stop:
        score.main(["--model", str(tmp_path / "nowhere"), "--out", str(tmp_path)])
    assert str(stop.value).startswith("error: ") and "\n" not in str(stop.value)


# ---------------------------------------------------------------------------------------------------------------------
# The table, and a whole run


def test_the_table_by_hand(tmp_path, capsys):
    """60 problems; the base is right in 4 of 8, the model as its four kinds of pair say, two of them per problem."""
    problems = data.load("builtin", "test", 60)
    header = {"temperature": 1.0, "problems": 60}

    def answer(problem: data.Problem, right: bool) -> str:
        return problem.answer if right else str((int(problem.answer) + 1) % 61)

    base = [[{"text": f"\\boxed{{{answer(p, k % 2 == 0)}}}", "tokens": 10, "finished": True} for k in range(8)]
            for p in problems]
    kinds = [(1, 1), (1, 0), (0, 1), (0, 1), (0, 0), (0, 1)]
    chosen = [[kinds[i % 6], kinds[(i + 1) % 6]] for i in range(60)]
    pairs = [[{"text": pair(*(answer(p, right) for right in of)), "tokens": 30, "finished": True} for of in both]
             for p, both in zip(problems, chosen)]
    write_record(tmp_path / "records/base.jsonl", problems, {**header, "condition": "scot"}, base)
    write_record(tmp_path / "records/score-2.jsonl", problems, {**header, "condition": "score"}, pairs)
    with pytest.raises(data.DataError, match="needs answers of a base and of a model of experiments/score.py"):
        (tmp_path / "records/score-2.jsonl").rename(tmp_path / "aside")
        score_report.report([tmp_path])
    (tmp_path / "aside").rename(tmp_path / "records/score-2.jsonl")
    score_report.report([tmp_path])
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    (base_row, base_kinds), (row, costs, kinds_row) = (
        [line[1:] for line in lines if line[:1] == [name]] for name in ("base, two samples", "after stage II"))
    assert [cell.split()[0] for cell in base_row[:4]] == ["50.0"] * 4  # of neighbouring samples one is right
    assert [cell.split()[0] for cell in row[:4]] == ["33.3", "66.7", "50.0", "16.7"]
    assert base_row[4].startswith("50.0") and row[5:] == ["30.0", "0.0"]
    assert row[4].startswith("16.7")  # (0, .) beside (1, .): in two of six problems, in one of two responses
    assert costs[0].startswith("33.3")  # final answers minus own first trials
    assert [costs[k].split()[0] for k in (1, 3)] == ["16.7"] * 2  # of alternating samples any number is right in half
    at = data.kind_of(problems[0].question)
    (head,) = (line for line in lines if at in line)
    some = [both for both, problem in zip(chosen, problems) if data.kind_of(problem.question) == at]
    turns = [(one[0], one[1], other[0]) for a, b in some for one, other in ((a, b), (b, a))]  # first, second, fresh
    wrong = [turn for turn in turns if not turn[0]]
    expected = [sum(turn[0] for turn in turns) / len(turns), *(sum(t[k] for t in wrong) / len(wrong) for k in (1, 2))]
    assert kinds_row[head.index(at) - 1] == " / ".join(f"{100 * value:.1f}" for value in expected)
    assert base_kinds[head.index(at) - 1] == "50.0 / 100.0 / 100.0"


def small(out: Path, *more) -> list[str]:
    return ["--out", str(out), "--steps", "2", "--prompts", "4", "--samples", "4", "--sft-problems", "32",
            "--sft-samples", "8", "--sft-steps", "12", "--sft-lr", "3e-3", "--eval-problems", "10",
            "--max-new-tokens", "90", *more]


@pytest.mark.slow
def test_a_run_that_is_interrupted_ends_with_the_same_weights(tmp_path, monkeypatch, capsys):
    """Both stages on the committed base, interrupted in the second; then the ablations, which reuse what is there."""
    if not (ROOT / "checkpoints/base").exists():
        pytest.skip("checkpoints/base is not here: rebuild it with python train.py --stage base")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(data, "draw_modulus", lambda level, rng: rng.choice([47, 43]))  # that are solved now and then
    torch.set_num_threads(1)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    score.main(small(whole))
    first_cells = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert {"base, two samples", *(tables.SCORE[name] for name in (WARM, STAGE_1, STAGE_2))} <= {*first_cells}
    for stage in (STAGE_1, STAGE_2):
        log = [json.loads(line) for line in (whole / stage / "log.jsonl").open()]
        assert len(log) == 2 and all(record["tokens"] > 10 for record in log)
        assert (log[0]["kl"] == [0.0, 0.0]) == (stage == STAGE_1)  # pi_ref is the warm start in stage II, too
    notes = json.loads((whole / STAGE_2 / "ibpo.json").read_text())
    assert notes["condition"] == "score" and notes["settings"]["alpha"] == 10

    broken.mkdir()
    for there in (WARM, STAGE_1, "samples.jsonl"):
        (shutil.copytree if (whole / there).is_dir() else shutil.copy)(whole / there, broken / there)
    calls, learned = [], score.add_gradient

    def interrupted(*arguments) -> float:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return learned(*arguments)

    monkeypatch.setattr(score, "add_gradient", interrupted)
    monkeypatch.setattr(score.evaluation, "respond", lambda *_, **__: None)  # once is enough
    monkeypatch.setattr(score, "report", lambda _: None)
    with pytest.raises(SystemExit):
        score.main(small(broken))
    assert "stopped after step 1 of 2" in capsys.readouterr().err and not (broken / STAGE_2 / "ibpo.json").exists()
    score.main(small(broken))
    a, b = (llama.load(out / STAGE_2).state_dict() for out in (whole, broken))
    start = llama.load(whole / STAGE_1).state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], start[name]) for name in a)

    before = [path.stat().st_mtime_ns for path in (whole / WARM / "ibpo.json", whole / STAGE_1 / "ibpo.json")]
    score.main(small(whole, "--no-stage-1", "--no-bonus"))
    assert (whole / "score-2-no-stage-1-no-bonus/ibpo.json").exists()
    assert before == [path.stat().st_mtime_ns for path in (whole / WARM / "ibpo.json", whole / STAGE_1 / "ibpo.json")]
    with pytest.raises(SystemExit) as stop:
        score.main(small(whole, "--alpha", "2"))
    assert "was made with alpha = 10.0, not 2.0" in str(stop.value)
