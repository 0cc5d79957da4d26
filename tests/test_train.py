"""train.py: what a step sees, who is learned from, and a whole run of a tiny model.

    pytest tests/test_train.py
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up import EXTENDED, SHORT, judged, made_up_rollout, rollout_of

import data
import learn
import llama
import sample
import train
import voting
from plumbing.files import derive_seed
from plumbing.settings import Settings

ROOT = Path(__file__).resolve().parent.parent


class FakePolicy:
    """No model, but what roll_out asks of one: the ids that end a response."""

    config = llama.Config(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
                          eos_token_id=[1, 7])


# ---------------------------------------------------------------------------------------------------------------------
# The parts of a step


@pytest.mark.parametrize("condition", ["asv", "modes"])
def test_rollout_holds_what_was_sampled(condition, monkeypatch):
    """Scripted responses: one trial, a vote, one that was cut off, and a short vote, which only three groups have."""
    tokenizer = data.build_tokenizer(data.world_pieces() + voting.pieces("modes"))
    settings = Settings(sft_short=9 * (condition == "modes"), temperature=0.7, max_new_tokens=99, slots=5)
    problems, asked = data.load("builtin", "train", 3, seed=1), {}

    def generate(model, prompts, **options):
        asked.update(options, prompts=prompts)
        responses = []
        for problem in problems:
            right, other = (f"7\n\\boxed{{{answer}}}" for answer in (problem.answer, (int(problem.answer) + 1) % 61))
            vote = voting.render_extended([right, other, right, right], [problem.answer, "x", *[problem.answer] * 2])
            for text, finished in ((voting.render_regular(other), True), (vote, True), (vote, False), (
                    voting.render_extended([right] * 2, [problem.answer] * 2, voting.SHORT), True)):
                ids = tokenizer(text, add_special_tokens=False).input_ids + [tokenizer.eos_token_id] * finished
                responses.append(sample.Completion(ids, -1.0, finished))
        return responses

    monkeypatch.setattr(sample, "generate", generate)
    rollout = train.roll_out(FakePolicy, tokenizer, problems, 4, 0.4, 8, settings)
    three = condition == "modes"
    assert rollout.levels.tolist() == [problem.level for problem in problems]
    assert rollout.correct.tolist() == [[False, True, False, three]] * 3
    assert rollout.group.tolist() == [[0, EXTENDED, 0, SHORT * three]] * 3
    assert rollout.valid.tolist() == [[True, True, False, three]] * 3
    assert rollout.trials.tolist() == [[1, 4, 4, 2]] * 3
    assert rollout.first.tolist() == [[False, True, True, True]] * 3
    assert rollout.tokens.tolist() == [[len(r.ids) for r in row] for row in rollout.responses]
    assert rollout.prompts == [voting.encode_prompt(tokenizer, problem.question, condition) for problem in problems]
    assert asked == {"prompts": [prompt for prompt in rollout.prompts for _ in range(4)], "top_p": 0.4, "seed": 8,
                     "stop_ids": (1, 7), "temperature": 0.7, "max_new_tokens": 99, "slots": 5, "cache_gib": 8.0,
                     "indices": list(range(12))}


def test_kl_estimate_is_policy_less_reference():
    """Against log-softmax over whole sequences, one by one, at the temperature of sampling."""
    config = llama.Config(vocab_size=12, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                          num_attention_heads=2, max_position_embeddings=64)
    policy, reference = (llama.initialise(llama.Llama(config), seed).eval() for seed in (0, 1))
    with torch.no_grad():
        for model in (policy, reference):
            model.lm_head.weight.mul_(30)
    prompts = [[3, 4, 5], [6], [7, 8]]
    responses = sample.generate(policy, [prompt for prompt in prompts for _ in range(4)], 9, 0.7, stop_ids=[2])
    rollout = rollout_of(judged(np.ones((3, 4))), None, prompts, [responses[i : i + 4] for i in (0, 4, 8)])
    found = train.kl_estimate(rollout, reference, Settings(temperature=0.7, micro_tokens=25))  # float[3, 4], nats

    def logprob(model, prompt: list[int], ids: list[int]) -> float:
        with torch.no_grad():
            logp = torch.log_softmax(model(torch.tensor([prompt + ids]))[0] / 0.7, -1)  # [T, V]
        return sum(logp[t - 1, token].item() for t, token in enumerate(ids, len(prompt)))

    expected = [[logprob(policy, prompt, r.ids) - logprob(reference, prompt, r.ids) for r in row]
                for prompt, row in zip(prompts, rollout.responses)]
    assert np.mean(expected) > 1 and np.std(expected) > 0.5  # what the policy samples, it finds likelier
    assert found == pytest.approx(np.array(expected), abs=1e-3)


@pytest.mark.parametrize("method", ["grpo", "length-penalty", "listing", "ibpo"])
def test_gradient_of_a_step_is_the_weighted_sum_over_responses(method, tmp_path, monkeypatch):
    """A whole step of train_ibpo, negative weights too, against one backward pass over whole sequences, one by one."""
    settings = Settings(out=str(tmp_path), method=method, prompts=6, accumulate=1, samples=4, steps=1, valid_every=0,
                        length_price=0.1, micro_tokens=40, max_grad_norm=1e9)
    rng = np.random.default_rng(5)
    tokenizer = data.build_tokenizer(data.world_pieces())
    model = llama.Llama(llama.Config(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24,
                                     num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                                     max_position_embeddings=64))
    llama.initialise(model, seed=0)
    rollout = made_up_rollout(rng, 6, 4)
    rollout.tokens = rng.integers(1, 9, (6, 4))
    rollout.prompts = [rng.integers(1, 30, rng.integers(2, 6)).tolist() for _ in range(6)]
    rollout.responses = [[sample.Completion(rng.integers(1, 30, n).tolist(), 0.0, True) for n in row]
                         for row in rollout.tokens]
    before = [w.detach().clone() for w in model.parameters()]
    found = []
    monkeypatch.setattr(train, "open_start", lambda *arguments: (model, tokenizer))
    monkeypatch.setattr(train, "roll_out", lambda *arguments: rollout)
    monkeypatch.setattr(learn.AdamW, "step", lambda adamw, lr: found.extend(w.grad.clone() for w in adamw.weights))
    directory = train.train_ibpo(settings, tmp_path)
    (record,) = [json.loads(line) for line in (directory / "log.jsonl").open()]
    assert all(torch.equal(w, b) for w, b in zip(model.parameters(), before))  # AdamW did nothing

    _, weights = train.select(rollout, None, settings, derive_seed(0, "select", 0))  # float[6, 4]
    if method in ("grpo", "length-penalty"):
        assert (weights < -0.01).any() and (weights > 0.01).any()
    model.zero_grad()
    loss = 0
    for i, j in np.ndindex(6, 4):
        prompt, response = rollout.prompts[i], rollout.responses[i][j].ids
        logp = torch.log_softmax(model(torch.tensor([prompt + response]))[0], -1)  # [T, V]
        for t, token in enumerate(response, len(prompt)):
            loss = loss - weights[i, j] * logp[t - 1, token] / 6
    loss.backward()
    assert record["loss"] == pytest.approx(loss.item(), rel=1e-5)
    for mine, w in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(mine, w.grad, rtol=1e-4, atol=1e-6)
    assert sum(w.abs().sum() for w in found) > 0


def test_where_it_gave_up_only_the_end_is_learned():
    """D8: the decision to stop and the closing line, not the wrong solution."""
    tokenizer = data.build_tokenizer(data.world_pieces() + voting.pieces())
    text = voting.render_regular("3\n* 4 = 12\n\\boxed{12}")
    ids = [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    mask = learn.closing_mask(tokenizer, ids)
    assert [tokenizer.decode([i]) for i, learned in zip(ids, mask) if learned] == [voting.EASY, tokenizer.eos_token]
    vote = voting.render_extended(["3\n\\boxed{3}"] * 3, ["3"] * 3)
    ids = tokenizer(vote, add_special_tokens=False).input_ids
    learned = [i for i, inside in zip(ids, learn.closing_mask(tokenizer, ids)) if inside]
    assert tokenizer.decode(learned) == "Three trials agree. The final answer is \\boxed{3}."
    written = [[sample.Completion(ids, 0.0, True)] * 2]
    rollout = rollout_of(judged([[1, 0]]), None, [[3, 4]], written)
    for give_up in (False, True):  # a right response is learned whole, one that gave up in part
        right, wrong = train.weighted_examples(rollout, np.array([[0.5, 2.0]]), tokenizer, Settings(give_up=give_up))
        assert (right.response, right.weight, right.loss_mask) == (ids, 0.5, None)
        assert (wrong.prompt, wrong.weight) == ([3, 4], 2.0)
        assert wrong.loss_mask == (learn.closing_mask(tokenizer, ids) if give_up else None)


def test_giving_up_reaches_the_step():
    responses = judged([[1, 0, 1, 1], [0] * 4], [[0, 0, 1, 1]] * 2, valid=[[1] * 4, [1, 0, 1, 1]])
    rollout = rollout_of(responses, np.array([1, 5]))
    for give_up, second in ((False, [0, 0, 0, 0]), (True, [1, 0, 0, 0])):
        selection, weights = train.select(rollout, None, Settings(give_up=give_up), 0)
        assert weights[1].tolist() == second
        assert (selection.accepted, selection.dropped_no_correct) == (1 + give_up, 1 - give_up)


# ---------------------------------------------------------------------------------------------------------------------
# Whole runs: a tiny model, everything real but the responses


class Run:
    """Trains a tiny model on made-up responses; notes what was asked for."""

    def __init__(self, monkeypatch, tmp_path):
        self.rollouts, self.selected, self.policies, self.opened = [], [], [], []
        self.tmp_path, self.tokenizer = tmp_path, data.build_tokenizer(data.world_pieces())
        self.select = train.select
        monkeypatch.setattr(train, "open_start", self.open_start)
        monkeypatch.setattr(train, "roll_out", self.roll_out)
        monkeypatch.setattr(train, "select", self.note_selection)

    def open_start(self, settings, directory):
        config = llama.Config(vocab_size=len(self.tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                              num_attention_heads=2, max_position_embeddings=64)
        self.opened.append((directory, llama.initialise(llama.Llama(config), 0)))
        return self.opened[-1][1], self.tokenizer

    def roll_out(self, policy, tokenizer, problems, m, top_p, seed, settings):
        rng = np.random.default_rng(seed)
        rollout = made_up_rollout(rng, len(problems), m)
        rollout.prompts = [rng.integers(3, 30, 3).tolist() for _ in problems]
        rollout.tokens[:] = 4
        rollout.responses = [[sample.Response(rng.integers(3, 30, 4).tolist(), -5.0, True, "", []) for _ in range(m)]
                             for _ in problems]
        self.rollouts.append(dict(problems=problems, m=m, seed=seed, top_p=top_p, rollout=rollout,
                                  weight=policy.lm_head.weight.detach().clone()))
        return rollout

    def note_selection(self, rollout, reference, settings, seed):
        self.selected.append((reference, seed, len(rollout.correct)))
        return self.select(rollout, reference, settings, seed)

    def __call__(self, **changes) -> list[dict]:
        self.directory = train.train_ibpo(Settings(out=str(self.tmp_path / "run"), **changes), self.tmp_path)
        return [json.loads(line) for line in (self.directory / "log.jsonl").open()]


@pytest.fixture
def run(monkeypatch, tmp_path):
    return Run(monkeypatch, tmp_path)


def test_a_run_takes_new_prompts_and_samples_each_step(run):
    log = run(prompts=3, accumulate=2, samples=4, steps=4, valid_every=2, valid_problems=10, lr=1e-2, warmup=1,
              rl_top_p=0.8)
    steps, validations = ([each for each in run.rollouts if each["m"] == m] for m in (4, 1))
    problems = data.load("builtin", "train", 24, derive_seed(0, "rl"))
    assert sorted(p.question for each in steps for p in each["problems"]) == sorted(p.question for p in problems)
    assert [n for *_, n in run.selected] == [6] * 4  # Algorithm 2: two batches of three make one program
    assert {each["top_p"] for each in steps} == {0.8} and {each["top_p"] for each in validations} == {0.9}
    assert len({each["seed"] for each in run.rollouts}) == 6 and len({seed for _, seed, _ in run.selected}) == 4
    validation = data.load("builtin", "validation", 10, derive_seed(0, "valid"))
    assert [each["problems"] for each in validations] == [validation] * 2
    for line, each in zip(log, (validations[0], None, validations[1], None), strict=True):
        expected = [each["rollout"].correct.mean(), each["rollout"].extended.mean()] if each else [None, None]
        assert [line.get("valid_accuracy"), line.get("valid_vote_share")] == pytest.approx(expected)
    assert all(line["accepted_vote_share"] <= 0.5 and line["accepted"] for line in log)
    assert all(line["seconds_sampling"] >= 0 and line["seconds_learning"] > 0 for line in log)
    for earlier, later in zip(steps, steps[1:]):  # on-policy: each step samples from what the last one has learned
        assert not torch.equal(earlier["weight"], later["weight"])


def test_seeds_share_nothing(run, monkeypatch):
    """Each seed of a run has problems, samples and ties of its own: else seeds would vary less than they should."""
    drawn, orders, shuffled = [], [], train.shuffled
    monkeypatch.setattr(train, "shuffled", lambda *arguments: orders.append(arguments[-1]) or shuffled(*arguments))
    for seed in range(2):
        run.rollouts, run.selected, run.tmp_path = [], [], run.tmp_path / "next"
        run.tmp_path.mkdir()
        run(seed=seed, prompts=2, accumulate=1, samples=4, steps=3, valid_every=2, valid_problems=2)
        drawn.append([{each["seed"] for each in run.rollouts}, {of_ties for _, of_ties, _ in run.selected},
                      {p.question for each in run.rollouts for p in each["problems"]}])
    for of_one, of_other in zip(*drawn, strict=True):
        assert of_one and of_one.isdisjoint(of_other)
    assert len(set(orders)) == 2  # of the problems of a file


def test_the_learning_rate_is_that_of_ibpo(run, monkeypatch):
    rates, update = [], train.Stage.update
    monkeypatch.setattr(train.Stage, "update",
                        lambda stage, rate, *arguments: rates.append(rate) or update(stage, rate, *arguments))
    run(prompts=2, accumulate=1, samples=4, steps=4, valid_every=0, lr=0.8, sft_lr=0.1, warmup=2)
    assert rates == pytest.approx([0.4, 0.8 * 3 / 4, 0.8 * 2 / 4, 0.8 / 4])


def test_a_run_learns_from_what_is_accepted(run, monkeypatch):
    """The examples of a step are the responses with a weight, and the loss is divided by the number of prompts."""
    learned, add_gradient = [], train.add_gradient

    def note(model, examples, denominator, settings):
        learned.append((examples, denominator))
        return add_gradient(model, examples, denominator, settings)

    monkeypatch.setattr(train, "add_gradient", note)
    run(prompts=4, accumulate=2, samples=8, steps=2, valid_every=0)
    for (examples, denominator), each, (_, seed, _) in zip(learned, run.rollouts, run.selected, strict=True):
        assert denominator == 8
        rollout = each["rollout"]
        _, weights = run.select(rollout, None, Settings(), seed)
        cells = zip(*weights.nonzero())
        expected = [(rollout.prompts[i], rollout.responses[i][j].ids, weights[i, j]) for i, j in cells]
        assert [(e.prompt, e.response, e.weight) for e in examples] == expected and len(expected) > 4


def test_the_reference_is_the_start_and_stays(run):
    run(prompts=2, accumulate=1, samples=4, steps=2, valid_every=0, kl_max=1e6)
    (start, policy), (again, reference) = run.opened
    assert start == again == run.tmp_path and policy is not reference
    assert all(each is reference for each, *_ in run.selected) and len(run.selected) == 2
    assert torch.equal(reference.lm_head.weight, run.rollouts[0]["weight"])
    assert not torch.equal(policy.lm_head.weight, reference.lm_head.weight)


@pytest.mark.parametrize("options", [dict(method="grpo"), dict(method="length-penalty"), dict(kl_max=1e6), {}])
def test_a_finished_run_is_known_again(options, run):
    """What the notes say it was made with is what the next call looks for."""
    small = dict(prompts=4, accumulate=1, samples=8, steps=1, valid_every=0, **options)
    log = run(**small)
    opened = len(run.opened)
    assert run(**small) == log and len(run.opened) == opened


@pytest.mark.parametrize("kl_max, dtype", [(None, torch.bfloat16), (1e6, torch.float32)])
def test_dtype_of_the_sampling_policy(kl_max, dtype, run, monkeypatch):
    """bf16 where that is fast, but not if its log-probabilities are compared with those of training."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    wide = llama.Config(vocab_size=len(run.tokenizer), hidden_size=512, intermediate_size=8, num_hidden_layers=1,
                        num_attention_heads=4, max_position_embeddings=64)
    monkeypatch.setattr(train, "open_start", lambda *_: (llama.initialise(llama.Llama(wide), 0), run.tokenizer))
    run(prompts=4, accumulate=1, samples=8, steps=1, valid_every=0, kl_max=kl_max)
    assert {each["weight"].dtype for each in run.rollouts} == {dtype}


@pytest.mark.parametrize("method, cap", [("ibpo", 0.5), ("cgpo", None)])
def test_what_train_evaluates(method, cap, tmp_path, monkeypatch):
    got = {}
    settings = Settings(out=str(tmp_path), seed=3, method=method, rl_top_p=1.0, top_p=0.7, temperature=0.8,
                        eval_problems=11, eval_samples=2, max_new_tokens=44)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(train, "parse_args", lambda *_: (settings, "all"))
    monkeypatch.setattr(train, "train_sft", lambda settings, stage: tmp_path / stage)
    monkeypatch.setattr(train, "train_ibpo", lambda settings, start: tmp_path / "ibpo-50")
    monkeypatch.setattr(train.evaluation, "evaluate", lambda *arguments, **options: got.update(options, of=arguments))
    train.main()
    models, source, problems, samples, out = got.pop("of")
    assert [model.name for model in models] == ["base", "sv-sft", "asv-sft", "ibpo-50"]
    assert (source, problems, samples, out) == ("builtin", 11, 2, tmp_path / "eval")
    assert got == dict(seed=3, device="cpu", dtype="fp32", training_log=tmp_path / "ibpo-50/log.jsonl", cap=cap,
                       top_p=0.7, temperature=0.8, max_new_tokens=44, slots=settings.slots, cache_gib=8.0)


@pytest.mark.parametrize("change, stage, says", [
    (dict(model="nowhere"), "sv-sft", "nowhere"),
    (dict(start="nowhere"), "ibpo", "nowhere"),
    (dict(data="nowhere.jsonl"), "sv-sft", "nowhere.jsonl"),
    (dict(valid_data="nowhere.jsonl"), "ibpo", "nowhere.jsonl"),
    (dict(test_data="nowhere.jsonl"), "all", "nowhere.jsonl"),
    (dict(start="checkpoints/ibpo", sft_short=9), "ibpo", "'asv', and this run is for 'modes'; --sft-short"),
    (dict(start="checkpoints/base"), "ibpo", "'scot', and this run is for 'asv'"),
    (dict(start="runs/ibpo-50"), "all", "two models are called ibpo-50"),
    (dict(model="runs/sv-sft"), "all", "two models are called sv-sft"),
])
def test_what_would_fail_after_hours_fails_at_once(change, stage, says, tmp_path, monkeypatch, capsys):
    """Nothing is trained."""
    for name in ("ibpo-50", "sv-sft"):
        shutil.copytree(ROOT / "checkpoints/ibpo", tmp_path / "runs" / name)
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "parse_args", lambda *_: (replace(Settings(), **change), stage))
    for function in ("train_sft", "train_ibpo"):
        monkeypatch.setattr(train, function, None)
    with pytest.raises(SystemExit) as stop:
        train.main()
    assert str(stop.value).startswith("error: ") and says in str(stop.value) and "\n" not in str(stop.value)


@pytest.mark.parametrize("change, stage", [
    ({}, "all"), (dict(start="checkpoints/ibpo"), "all"), (dict(start="SOMEONE'S"), "ibpo"),
    (dict(test_data="nowhere.jsonl"), "ibpo"),
    (dict(valid_data="nowhere.jsonl", valid_every=0), "ibpo"), (dict(valid_data="nowhere.jsonl"), "asv-sft")])
def test_what_a_run_does_not_need_is_not_asked_for(change, stage, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    if change.get("start") == "SOMEONE'S":  # a checkpoint of other origin says nothing of its prompt
        change = dict(start=str(tmp_path))
        shutil.copy("checkpoints/base/config.json", tmp_path)
    train.check(replace(Settings(), **change), stage)


def test_a_problem_longer_than_the_context_is_named_before_anything_is_sampled(tmp_path, monkeypatch, capsys):
    """In any of the files, with file and line."""
    shutil.copytree(ROOT / "checkpoints/base", tmp_path / "base")
    questions = [f"Compute {' * '.join(['7'] * n)} modulo 61." for n in (3, 600, 4)]
    lines = [json.dumps({"problem": question, "answer": "1", "level": 1}) for question in questions]
    (tmp_path / "long.jsonl").write_text("\n".join(lines))
    (tmp_path / "short.jsonl").write_text("\n".join(lines[::2]))
    monkeypatch.setattr(train, "train_sft", None)
    for long in ("data", "valid-data", "test-data"):
        files = {name: tmp_path / ("long.jsonl" if name == long else "short.jsonl")
                 for name in ("data", "valid-data", "test-data")}
        arguments = [str(word) for name, path in files.items() for word in (f"--{name}", path)]
        with pytest.raises(SystemExit) as stop:
            train.main(["--model", str(tmp_path / "base"), "--out", str(tmp_path / "run"), *arguments])
        assert str(stop.value).startswith(f"error: {tmp_path}/long.jsonl, line 2: the prompt has 1,2")
        assert "\n" not in str(stop.value)


def test_a_prompt_that_is_yet_to_be_learned_is_no_reason_to_stop(tmp_path):
    """The built-in base gets the prompt of three groups in ASV-SFT."""
    line = json.dumps({"problem": "Compute 3 * 4 * 5 modulo 61.", "answer": "60", "level": 1})
    (tmp_path / "test.jsonl").write_text(line)
    train.check(Settings(test_data=str(tmp_path / "test.jsonl"), sft_short=10), "all")
