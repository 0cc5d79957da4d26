"""train.py: the program of a step, for caps on votes, on tokens, and on both; and the other methods' weights.

    pytest tests/test_train.py
"""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import baselines
import data
import ibpo
import learn
import llama
import sample
import sft
import train
import voting
from settings import Settings, UserError, derive, parse_args

ROOT = Path(__file__).resolve().parent.parent


def made_up_rollout(rng, n: int, m: int = 8) -> train.Rollout:
    """Votes are longer and more often right; some responses are malformed."""
    extended = rng.random((n, m)) < 0.5
    correct = rng.random((n, m)) < np.where(extended, 0.8, rng.random((n, 1)))
    tokens = rng.integers(10, 30, (n, m)) * np.where(extended, rng.integers(3, 9, (n, m)), 1)
    return train.Rollout(rng.integers(1, 6, n), [], [], correct, np.where(extended, train.EXTENDED, 0),
                         rng.random((n, m)) < 0.95, np.where(extended, 4, 1), tokens)


def total_margin(weights, rollout) -> float:
    margin = ibpo.reward_margin(rollout.correct, rollout.extended, rollout.valid)
    return float((weights * np.where(rollout.extended, margin[:, None], 0)).sum())


def test_general_program_equals_closed_form_for_votes():
    rng = np.random.default_rng(0)
    for _ in range(100):
        rollout, cap = made_up_rollout(rng, rng.integers(1, 40)), float(rng.integers(0, 11)) / 10
        closed = ibpo.select_ibpo(rollout.correct, rollout.extended, cap, rollout.valid, rng=rng)
        general = train.select_by_caps(rollout, rollout.correct & rollout.valid, {"vote": cap}, rng)
        assert general[1:] == closed[1:]
        assert total_margin(general.weights, rollout) == pytest.approx(total_margin(closed.weights, rollout))


@pytest.mark.parametrize("budget", ["tokens=60", "tokens=25", "vote=0.3,tokens=60", "vote=0.6,tokens=1000"])
def test_caps_are_kept(budget):
    settings = dataclasses.replace(Settings(), budget=budget)
    rng = np.random.default_rng(1)
    for seed in range(50):
        rollout = made_up_rollout(rng, 64)
        selection, weights = train.select(rollout, None, settings, seed)
        assert set(np.unique(weights)) <= {0, 1} and (weights.sum(axis=1) <= 1).all() and weights.any()
        assert not weights[~(rollout.correct & rollout.valid)].any()
        assert selection.accepted == weights.sum() and selection.extended == weights[rollout.extended].sum()
        assert selection.accepted + selection.dropped_no_correct + selection.dropped_over_cap == 64
        average = {"vote": selection.extended / selection.accepted,
                   "tokens": (weights * rollout.tokens).sum() / selection.accepted}
        assert all(average[name] <= cap + 1e-9 for name, cap in settings.caps.items())
        record = train.describe(rollout, selection)
        assert record["accepted_tokens"] == pytest.approx(average["tokens"])
        assert record["accepted_vote_share"] == average["vote"]


# ---------------------------------------------------------------------------------------------------------------------
# What a step sees: responses judged, their distance to the reference, and what the log says of them


@pytest.mark.parametrize("condition", ["asv", "modes"])
def test_rollout_holds_what_was_sampled(condition, monkeypatch):
    """Scripted responses: one trial, a vote, one that was cut off, and a short vote, which only three modes have."""
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
                responses.append(sample.Response(ids, -1.0, finished))
        return responses

    monkeypatch.setattr(sample, "generate", generate)
    rollout = train.roll_out(None, tokenizer, problems, 4, settings, (1,), seed=8, top_p=0.4)
    three = condition == "modes"
    assert rollout.levels.tolist() == [problem.level for problem in problems]
    assert rollout.correct.tolist() == [[False, True, False, three]] * 3
    assert rollout.mode.tolist() == [[0, train.EXTENDED, 0, train.SHORT * three]] * 3
    assert rollout.valid.tolist() == [[True, True, False, three]] * 3
    assert rollout.trials.tolist() == [[1, 4, 4, 2]] * 3
    assert rollout.tokens.tolist() == [[len(r.ids) for r in row] for row in rollout.responses]
    assert rollout.prompts == [voting.encode_prompt(tokenizer, problem.question, condition) for problem in problems]
    assert asked == {"prompts": [prompt for prompt in rollout.prompts for _ in range(4)], "top_p": 0.4, "seed": 8,
                     "stop_ids": (1,), "temperature": 0.7, "max_new_tokens": 99, "slots": 5, "cache_gib": 8.0}


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
    rollout = train.Rollout(None, prompts, [responses[i : i + 4] for i in (0, 4, 8)], *[None] * 5)
    found = train.kl_estimate(rollout, reference, Settings(temperature=0.7, micro_tokens=25))  # float[3, 4], nats

    def logprob(model, prompt: list[int], ids: list[int]) -> float:
        with torch.no_grad():
            logp = torch.log_softmax(model(torch.tensor([prompt + ids]))[0] / 0.7, -1)  # [T, V]
        return sum(logp[t - 1, token].item() for t, token in enumerate(ids, len(prompt)))

    expected = [[logprob(policy, prompt, r.ids) - logprob(reference, prompt, r.ids) for r in row]
                for prompt, row in zip(prompts, rollout.responses)]
    assert np.mean(expected) > 1 and np.std(expected) > 0.5  # what the policy samples, it finds likelier
    assert found == pytest.approx(np.array(expected), abs=1e-3)


def test_what_the_log_says_is_counted_right():
    """Against loops over prompts and responses."""
    rng = np.random.default_rng(7)
    rollout = three_modes(rng, 40)
    rollout.correct &= rollout.valid
    weights = rng.random((40, 12)) * (rng.random((40, 12)) < 0.1) * rollout.valid
    weights[rollout.levels == 2] = 0  # nothing accepted there: no share
    chosen = weights > 0
    selection = ibpo.Selection(weights, int(chosen.sum()), int((chosen & rollout.extended).sum()), 3, 2)
    record = train.describe(rollout, selection)
    cells = [(i, j) for i in range(40) for j in range(12)]
    names = dict(enumerate(voting.MODES))

    def share(those: list, of: list) -> float:
        return pytest.approx(len(set(those) & set(of)) / len(of))

    malformed = [cell for cell in cells if not rollout.valid[cell]]
    votes = [cell for cell in cells if rollout.mode[cell] == 2 and rollout.valid[cell]]
    accepted = [cell for cell in cells if chosen[cell]]
    several = [cell for cell in cells if rollout.trials[cell] > 1]
    right = [cell for cell in cells if rollout.correct[cell]]
    assert record["accuracy"] == share(right, cells) and record["tokens"] == pytest.approx(rollout.tokens.mean())
    assert record["malformed"] == share(malformed, cells) and record["vote_share"] == share(votes, cells)
    assert record["rule_kept"] == share([cell for cell in several if cell not in malformed], several)
    assert record["trials_per_vote"] == pytest.approx(np.mean([rollout.trials[cell] for cell in votes]))
    assert record["accepted_tokens"] == pytest.approx(np.mean([rollout.tokens[cell] for cell in accepted]))
    assert (record["accepted"], record["dropped_no_correct"], record["dropped_over_cap"]) == (len(accepted), 3, 2)
    assert 2 not in record["accepted_vote_share_by_level"]
    for level, found in record["accepted_vote_share_by_level"].items():
        here = [cell for cell in accepted if rollout.levels[cell[0]] == level]
        assert found == share(votes, here)
    for level in range(1, 6):
        here = [cell for cell in cells if rollout.levels[cell[0]] == level]
        assert record["accuracy_by_level"][level] == share(right, here)
        assert record["vote_share_by_level"][level] == share(votes, here)
        margins = []
        for i in np.flatnonzero(rollout.levels == level):
            rates = [[rollout.correct[i, j] for j in range(12) if rollout.valid[i, j] and names[rollout.mode[i, j]] == mode]
                     for mode in ("extended", "regular")]
            margins.append(np.mean(rates[0]) - np.mean(rates[1]) if all(rates) else 0)
        assert record["margin_by_level"][level] == pytest.approx(np.mean(margins))


@pytest.fixture
def run_rl(tmp_path, monkeypatch):
    """run_rl(settings) is train_rl with everything around it noted instead of done. Validation: see LOOKS."""
    seen = dict(rollouts=[], opened=[], selected=[], divided_by=[], saved=[], records=[])

    def open_start(settings, directory):
        model = llama.Llama(llama.Config(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                                         num_attention_heads=2))
        seen["opened"].append((directory, model))
        return model, None

    def roll_out(model, tokenizer, problems, samples, settings, stop_ids, seed, top_p):
        assert not model.training
        looks = sum(earlier["samples"] == 1 for earlier in seen["rollouts"])
        seen["rollouts"].append(dict(problems=problems, samples=samples, seed=seed, top_p=top_p))
        rollout = made_up_rollout(np.random.default_rng(seed), len(problems), samples)
        if samples == 1:
            rollout.correct[:], rollout.mode[:] = False, 0
            rollout.correct[: LOOKS[looks][0]], rollout.mode[: LOOKS[looks][1]] = True, train.EXTENDED
        return rollout

    def select(rollout, reference, settings, seed):
        seen["selected"].append((reference, seed))
        return train_select(rollout, None, dataclasses.replace(settings, kl_max=None), seed)

    def save_checkpoint(settings, stage, model, tokenizer, directory, **notes):
        seen["saved"].append((directory.relative_to(tmp_path), notes["steps"]))
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "ibpo.json").write_text(json.dumps(notes))

    def run_stage(settings, stage, name, model, tokenizer, steps, learning_rate, add_step, at_end):
        assert learning_rate(0) == pytest.approx(settings.lr / settings.warmup)
        seen["records"] = [add_step(model, step) for step in range(steps)]
        if at_end is not None:
            at_end(model)

    train_select = train.select
    for function in (open_start, roll_out, select, save_checkpoint, run_stage):
        monkeypatch.setattr(train, function.__name__, function)
    monkeypatch.setattr(train.sample, "stop_ids_of", lambda *arguments: (0,))
    monkeypatch.setattr(train, "weighted_examples", lambda rollout, weights: [])
    monkeypatch.setattr(train, "add_gradient", lambda model, examples, n, settings: seen["divided_by"].append(n) or 0.0)
    return lambda **changes: train.train_rl(Settings(out=str(tmp_path), **changes), "start") or seen


LOOKS = [(9, 10), (5, 5), (4, 2)]  # of ten validation problems: right, and votes


def test_a_run_takes_new_prompts_and_samples_each_step_and_keeps_the_best(run_rl):
    seen = run_rl(prompts=3, accumulate=2, samples=4, steps=4, valid_every=2, valid_problems=10, keep_best=True)
    steps, looks = ([each for each in seen["rollouts"] if each["samples"] == m] for m in (4, 1))
    problems = data.load("builtin", "train", 24, derive(0, "rl"))
    assert sorted(p.question for each in steps for p in each["problems"]) == sorted(p.question for p in problems)
    assert [len(each["problems"]) for each in steps] == seen["divided_by"] == [6] * 4  # one program, one denominator
    assert {each["top_p"] for each in steps} == {1.0} and {each["top_p"] for each in looks} == {0.9}
    assert len({each["seed"] for each in seen["rollouts"]}) == 7 and len({seed for _, seed in seen["selected"]}) == 4
    validation = data.load("builtin", "validation", 10, derive(0, "valid"))
    assert [each["problems"] for each in looks] == [validation] * 3
    assert [(record.get("valid_accuracy"), record.get("valid_vote_share")) for record in seen["records"]] == [
        (0.9, 1.0), (None, None), (0.5, 0.5), (None, None)]
    # The first votes far above the cap; of those that keep it the second, not the last, is more often right
    assert [steps for directory, steps in seen["saved"] if directory == Path("ibpo-50/best")] == [0, 2]
    assert len(seen["saved"]) == 2 and len(seen["opened"]) == 1


def test_what_train_evaluates(tmp_path, monkeypatch):
    got = {}
    settings = Settings(out=str(tmp_path), seed=3, rl_top_p=1.0, top_p=0.7, temperature=0.8, eval_problems=11,
                        eval_samples=2, max_new_tokens=44)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(train, "parse_args", lambda *_: (settings, "all"))
    monkeypatch.setattr(train, "train_sft", lambda settings, stage: tmp_path / stage)
    monkeypatch.setattr(train, "train_rl", lambda settings, start: tmp_path / "ibpo-50")
    monkeypatch.setattr(train.evaluation, "evaluate", lambda *arguments, **options: got.update(options, of=arguments))
    train.main()
    models, source, problems, samples, out = got.pop("of")
    assert [model.name for model in models] == ["base", "sv-sft", "asv-sft", "ibpo-50"]
    assert (source, problems, samples, out) == ("builtin", 11, 2, tmp_path / "eval")
    assert got == dict(seed=3, device="cpu", dtype="fp32", training_log=tmp_path / "ibpo-50/log.jsonl", cap=0.5, top_p=0.7,
                       temperature=0.8, max_new_tokens=44, slots=settings.slots, cache_gib=8.0)


def test_the_reference_is_the_start_and_stays(run_rl):
    seen = run_rl(prompts=2, accumulate=1, samples=4, steps=2, valid_every=0, kl_max=1.0)
    (start, policy), (again, reference) = seen["opened"]
    assert start == again == "start" and policy is not reference
    assert all(each is reference for each, _ in seen["selected"]) and len(seen["selected"]) == 2
    assert all(each["samples"] == 4 for each in seen["rollouts"]) and not seen["saved"]


def test_ties_are_shared_among_what_the_kl_bound_allows(monkeypatch):
    rng = np.random.default_rng(8)
    rollout, distance = made_up_rollout(rng, 40), rng.uniform(0, 2, (40, 8))
    monkeypatch.setattr(train, "kl_estimate", lambda *arguments: distance)
    _, weights = train.select(rollout, "a reference", dataclasses.replace(Settings(), kl_max=1.0), 0)
    assert ((weights > 0) & (weights < 1)).any() and not weights[distance > 1].any()


def three_modes(rng, n: int, m: int = 12) -> train.Rollout:
    """Longer modes are more often right; the harder the prompt, the more so."""
    mode, hard = rng.integers(0, 3, (n, m)), rng.random((n, 1))
    correct = rng.random((n, m)) < 1 - hard * np.array([0.8, 0.4, 0.2])[mode]
    valid = rng.random((n, m)) < 0.95
    trials = np.array([1, 2, 4])[mode]
    return train.Rollout(1 + (5 * hard[:, 0]).astype(int), [], [], correct, np.where(valid, mode, 0), valid, trials,
                         20 * trials + rng.integers(0, 9, (n, m)))


@pytest.mark.parametrize("budget", ["short=0.3,vote=0.3", "vote=0.2,short=0.1", "vote=0.3", "vote=0,short=1",
                                    "short=0.3,vote=0.3,tokens=40", "tokens=30"])
@pytest.mark.parametrize("share_ties", [True, False])
def test_three_modes_keep_every_cap(budget, share_ties):
    settings, _ = parse_args(["--sft-short", "9", "--budget", budget, "--share-ties" if share_ties else
                              "--no-share-ties"])
    rng, shares = np.random.default_rng(4), []
    for seed in range(30):
        rollout = three_modes(rng, 64)
        selection, weights = train.select(rollout, None, settings, seed)
        chosen = selection.weights > 0
        assert (chosen.sum(axis=1) <= 1).all() and not chosen[~(rollout.correct & rollout.valid)].any()
        assert selection.accepted + selection.dropped_no_correct + selection.dropped_over_cap == 64
        average = {"vote": (rollout.mode[chosen] == 2).mean(), "short": (rollout.mode[chosen] == 1).mean(),
                   "tokens": rollout.tokens[chosen].mean()}
        assert all(average[name] <= cap + 1e-9 for name, cap in settings.caps.items())
        record = train.describe(rollout, selection)
        assert record["accepted_mode_share"]["short"] == pytest.approx(average["short"])
        assert record["accepted_mode_share"]["extended"] == record["accepted_vote_share"]
        shares.append([average["short"], average["vote"]])
        # the weight of a prompt stays in the mode that was accepted, on all its responses or on one
        for i in np.flatnonzero(chosen.any(axis=1)):
            same = rollout.correct[i] & rollout.valid[i] & (rollout.mode[i] == rollout.mode[i, chosen[i]])
            shared = share_ties and "tokens" not in budget
            assert np.allclose(weights[i], same / same.sum() if shared else chosen[i])
        assert not weights[~chosen.any(axis=1)].any()
    if budget == "short=0.3,vote=0.3":  # the caps bind: margins are there to be had, for both kinds of vote
        assert np.mean(shares, axis=0) == pytest.approx([0.3, 0.3], abs=0.02)


def test_hard_prompts_take_the_long_votes():
    settings, rng = dataclasses.replace(Settings(), sft_short=9, budget="short=0.3,vote=0.3"), np.random.default_rng(5)
    records = []
    for seed in range(20):
        rollout = three_modes(rng, 128, 48)
        records.append(train.describe(rollout, train.select(rollout, None, settings, seed)[0]))
    share = {mode: [np.mean([r["accepted_mode_share_by_level"][mode][level] for r in records]) for level in range(1, 6)]
             for mode in ("regular", "short", "extended")}
    assert share["regular"] == sorted(share["regular"], reverse=True) and share["extended"] == sorted(share["extended"])
    assert share["short"][0] < 0.15 and share["short"][4] < max(share["short"]) > 0.35  # in the middle
    for mode in share:
        seen = [r["mode_share_by_level"][mode][1] for r in records]
        assert np.mean(seen) == pytest.approx(0.95 / 3, abs=0.03)
    assert records[0]["short_margin_by_level"][5] > 0.1 and records[0]["margin_by_level"][5] > 0.3


@pytest.mark.parametrize("method", ["cgpo", "rft", "grpo"])
def test_other_methods_with_three_modes(method):
    settings, _ = parse_args(["--sft-short", "9", "--method", method])
    rollout = three_modes(np.random.default_rng(6), 40)
    selection, weights = train.select(rollout, None, settings, 0)
    for i in range(40) if method == "cgpo" else []:
        accepted = rollout.mode[i, selection.weights[i] > 0]
        assert len(accepted) <= 1 and set(rollout.mode[i, weights[i] > 0]) == set(accepted)
    assert train.describe(rollout, selection)["accepted"] > 0 and weights.any()


def test_cap_on_expected_tokens_counts_the_mode_not_the_draw():
    """The accepted cost what their mode costs on their prompt, on average; within a mode nothing prefers the short."""
    rng, settings = np.random.default_rng(7), parse_args(["--budget", "expected-tokens=60"])[0]
    own, expected, possible = [], [], []
    for seed in range(100):
        rollout = made_up_rollout(rng, 48)
        selection, weights = train.select(rollout, None, settings, seed)
        costs = []
        for i, j in zip(*selection.weights.nonzero()):
            same = rollout.valid[i] & (rollout.mode[i] == rollout.mode[i, j])  # bool[m]
            costs.append(rollout.tokens[i, same].mean())
            right = same & rollout.correct[i]
            assert weights[i] == pytest.approx(right / right.sum())  # they tie and share the weight
            possible.append(rollout.tokens[i, right].mean())
            own.append(rollout.tokens[i, j])
        assert np.mean(costs) <= 60 + 1e-9
        expected.append(np.mean(costs))
    assert np.mean(expected) > 58 and np.mean(own) == pytest.approx(np.mean(possible), rel=0.02)
    assert settings.name("ibpo") == "ibpo-expected-tokens-60"


def test_slack_cap_on_tokens_does_not_shorten():
    """Where tokens are no constraint, the responses accepted are as long as those that might have been."""
    rng, accepted, possible = np.random.default_rng(2), [], []
    for seed in range(200):
        rollout = made_up_rollout(rng, 16)
        _, weights = train.select(rollout, None, dataclasses.replace(Settings(), budget="tokens=500"), seed)
        _, drawn = train.select(rollout, None, dataclasses.replace(Settings(), budget="vote=1", share_ties=False), seed)
        accepted.append((weights * rollout.tokens).sum() / weights.sum())
        possible.append((drawn * rollout.tokens).sum() / drawn.sum())
    assert np.mean(accepted) > 0.95 * np.mean(possible)


def test_shared_ties_reach_the_gradient_weights():
    rollout = made_up_rollout(np.random.default_rng(3), 64)
    selection, weights = train.select(rollout, None, Settings(), 0)
    assert selection.accepted == selection.weights.sum() and np.allclose(weights.sum(1), selection.weights.sum(1))
    assert np.count_nonzero(weights) > 2 * selection.accepted
    _, drawn = train.select(rollout, None, dataclasses.replace(Settings(), share_ties=False), 0)
    assert (drawn == selection.weights).all()


@pytest.mark.parametrize("method", ["sft", "rft", "raft", "cgpo", "ibpo"])
def test_kl_bound_filters_and_changes_no_method(method, monkeypatch):
    """Eq. (7): what is too far is not accepted, and else all is as without the bound. SFT learns from wrong ones, too."""
    rng = np.random.default_rng(0)
    settings = dataclasses.replace(Settings(), method=method, kl_max=1.0, share_ties=False)
    for _ in range(20):
        rollout = made_up_rollout(rng, 12)
        far = rng.random(rollout.correct.shape) < 0.3
        for distance, near in (np.zeros(far.shape), np.ones_like(far)), (np.where(far, 2.0, 0.5), ~far):
            monkeypatch.setattr(train, "kl_estimate", lambda *arguments: distance)
            selection, _ = train.select(rollout, "a reference", settings, seed=1)
            expected = ibpo.METHODS[method](rollout.correct, rollout.extended, 0.5, valid=rollout.valid, feasible=near,
                                            rng=np.random.default_rng(1))
            assert (selection.weights == expected.weights).all() and not selection.weights[~near].any()
        if method == "sft":
            assert (selection.weights * ~rollout.correct).any()


@pytest.mark.parametrize("options", [dict(method="listing"), dict(budget="vote=0.5,expected-tokens=20"),
                                     dict(budget="vote=0.3,short=0.3", sft_short=9)])
def test_kl_bound_with_the_listing_and_with_other_caps(options, monkeypatch):
    rng = np.random.default_rng(0)
    settings = Settings(share_ties=False, **options)
    for seed in range(20):
        rollout = made_up_rollout(rng, 12)
        distance = rng.choice([0.5, 2.0], rollout.correct.shape, p=[0.7, 0.3])
        monkeypatch.setattr(train, "kl_estimate", lambda *arguments: distance)
        free, wide, tight = (train.select(rollout, reference, dataclasses.replace(settings, kl_max=kl_max), seed)[0]
                             for reference, kl_max in ((None, None), ("a reference", 2.0), ("a reference", 1.0)))
        assert (free.weights == wide.weights).all()
        assert tight.accepted and not tight.weights[distance > 1].any() and free.weights[distance > 1].any()


def test_rule_kept_is_nothing_where_nobody_votes():
    rollout = made_up_rollout(np.random.default_rng(0), 6)
    rollout.trials[:] = 1
    selection = ibpo.select_ibpo(rollout.correct, rollout.extended, 0.5, rollout.valid)
    assert train.describe(rollout, selection)["rule_kept"] is None


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
    assert dataclasses.replace(Settings(), method="random").name("ibpo") == "random-50"
    assert dataclasses.replace(Settings(), method="cgpo").name("ibpo") == "cgpo"
    assert dataclasses.replace(Settings(), method="listing").name("ibpo") == "listing-50"
    assert dataclasses.replace(Settings(), method="grpo").name("ibpo") == "grpo"
    assert dataclasses.replace(Settings(), method="length-penalty").name("ibpo") == "length-penalty-0.05"


# ---------------------------------------------------------------------------------------------------------------------
# The methods of baselines.py


@pytest.mark.parametrize("method", ["grpo", "length-penalty", "listing", "ibpo"])
def test_gradient_of_a_step_is_the_weighted_sum_over_responses(method, tmp_path, monkeypatch):
    """A whole step of train_rl, negative weights too, against one backward pass over whole sequences, one by one."""
    settings = Settings(out=str(tmp_path), method=method, prompts=6, accumulate=1, samples=4, valid_every=0,
                        length_price=0.1, micro_tokens=40)
    rng = np.random.default_rng(5)
    tokenizer = data.build_tokenizer(data.world_pieces())
    model = llama.Llama(llama.Config(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24,
                                     num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                                     max_position_embeddings=64))
    llama.initialise(model, seed=0)
    rollout = made_up_rollout(rng, 6, 4)
    rollout.tokens = rng.integers(1, 9, (6, 4))
    rollout.prompts = [rng.integers(1, 30, rng.integers(2, 6)).tolist() for _ in range(6)]
    rollout.responses = [[sample.Response(rng.integers(1, 30, n).tolist(), 0.0, True) for n in row]
                         for row in rollout.tokens]
    steps = []
    monkeypatch.setattr(train, "open_start", lambda *arguments: (model, tokenizer))
    monkeypatch.setattr(train.sample, "stop_ids_of", lambda *arguments: (0,))
    monkeypatch.setattr(train, "roll_out", lambda *arguments: rollout)
    monkeypatch.setattr(train, "run_stage", lambda *arguments, at_end: steps.append(arguments[-1](model, 0)))
    train.train_rl(settings, tmp_path)
    found = [w.grad.clone() for w in model.parameters()]

    _, weights = train.select(rollout, None, settings, derive(0, "select", 0))  # float[6, 4]
    direct = {"grpo": lambda: baselines.grpo(rollout.correct, rollout.valid),
              "length-penalty": lambda: baselines.length_penalty(rollout.correct, rollout.tokens, 0.1, 27,
                                                                 rollout.valid)}
    if method in direct:
        assert (weights == direct[method]()).all() and (weights < -0.01).any() and (weights > 0.01).any()
    model.zero_grad()
    loss = 0
    for i, j in np.ndindex(6, 4):
        prompt, response = rollout.prompts[i], rollout.responses[i][j].ids
        logp = torch.log_softmax(model(torch.tensor([prompt + response]))[0], -1)  # [T, V]
        for t, token in enumerate(response, len(prompt)):
            loss = loss - weights[i, j] * logp[t - 1, token] / 6
    loss.backward()
    assert steps[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)
    for mine, w in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(mine, w.grad, rtol=1e-4, atol=1e-6)
    assert sum(w.abs().sum() for w in found) > 0


@pytest.mark.parametrize("method", ["grpo", "length-penalty", "listing"])
def test_record_counts_positive_weights_as_accepted(method):
    rng = np.random.default_rng(6)
    settings = dataclasses.replace(Settings(), method=method)
    for seed in range(20):
        rollout = made_up_rollout(rng, 30)
        rollout.correct[0] = False
        selection, weights = train.select(rollout, None, settings, seed)
        record = train.describe(rollout, selection)
        chosen = selection.weights > 0
        assert record["accepted"] == chosen.sum() > 0
        assert record["accepted_vote_share"] == pytest.approx(rollout.extended[chosen].mean())
        assert record["accepted_tokens"] == pytest.approx(rollout.tokens[chosen].mean())
        right = rollout.correct & rollout.valid
        assert record["dropped_no_correct"] == (~right.any(axis=1)).sum() >= 1
        if method == "listing":
            assert chosen.sum(axis=1).max() == 1 and right[chosen].all()
            assert np.count_nonzero(weights) > 2 * record["accepted"]  # ties are shared
            assert weights.sum() == pytest.approx(record["accepted"])
        else:
            assert (weights == selection.weights).all() and (weights < 0).any()


@pytest.mark.parametrize("arguments, says", [
    ("--method grpo --rl-top-p 0.9", "--rl-top-p 1"),
    ("--method length-penalty --temperature 0.8", "--temperature 1"),
    ("--method grpo --kl-max 10", "no --kl-max"),
    ("--method listing --budget tokens=90", "votes alone"),
    ("--method listing --budget vote=0.5,tokens=90", "votes alone"),
    ("--method length-penalty --length-price -0.1", "--length-price"),
    ("--method length-penalty --length-price nan", "--length-price"),
    ("--method length-penalty --length-unit 0", "--length-unit"),
    ("--method length-penalty --samples 1", "--samples"),
    ("--method grpo --samples 1", "--samples"), ("--samples 1", "--samples"),
    ("--method length-penalty --data a.jsonl --valid-data b.jsonl --test-data c.jsonl", "--length-unit"),
    ("--method reinforce", "length-penalty"),
    ("--method cgpo --budget vote=0.3", "no budget"),
    ("--method ipbo --budget vote=0.3", "--method is 'ipbo'"),
    ("--sft-samples 7", "--sft-samples"),
    ("--steps 0", "--steps must be at least 1"), ("--slots -3", "--slots must"), ("--lr 0", "--lr must be above 0"),
    ("--keep-best --valid-every 0", "--keep-best needs looks"), ("--keep-best --lora-rank 4", "not go with --lora-rank"),
    ("--keep-best --budget tokens=90", "--budget vote=q"), ("llama", "--model DIR and --data FILE"),
    ("--data a.jsonl --valid-data b.jsonl", "--test-data"), ("--lora-alpha 0", "--lora-alpha"),
    ("--sft-alpha -1", "--sft-alpha"), ("--valid-every -1", "--valid-every"),
    ("--kl-max 10 --rl-top-p 0.9", "--rl-top-p 1"),
    ("--kl-max -1", "--kl-max"), ("--temperature 0", "--temperature"),
    *((f"--{name} {value}", f"--{name}") for name in ("top-p", "rl-top-p") for value in ("0", "1.1")),
    ("--start DIR --stage asv-sft", "--start"),
    ("llama --smoke", "--smoke"),
    ("nonsense", "builtin, smoke, llama"),
    ("--sampling-dtype fp16", "auto, fp32 or bf16"),
    ("--sampling-dtype bf16 --kl-max 10", "--dtype of training"),
    ("--sampling-dtype bf16 --method grpo", "--dtype of training"),
    ("--cache-gib 0", "--cache-gib"),
    ("--budget expected-tokens=0", "--budget"),
    ("--method random --budget expected-tokens=90", "votes alone"),
    ("--budget short=0.3", "--sft-short"),
    ("--budget short=0.3,vote=0.3", "--sft-short"),
    ("--sft-short 9 --budget short=1.3", "--budget"),
    ("--sft-short 9 --budget short=0.3,short=0.3", "--budget"),
    ("--sft-short -1", "--sft-short"),
    ("--max-grad-norm -1", "--max-grad-norm"),
    ("--max-grad-norm 0", "--max-grad-norm"),
    ("--beta2 1", "--beta2"),
    ("--weight-decay -0.1", "--weight-decay"),
    *((f"--{name} {value}", f"--{name} must be a finite number") for value in ("nan", "inf") for name in (
        "lr", "beta2", "weight-decay", "max-grad-norm", "temperature", "lora-alpha", "cache-gib", "kl-max", "top-p")),
    ("--stage base --lora-rank 4", "--lora-rank"),
    ("--sft-short 9 --method random", "two modes"),
    ("--sft-short 9 --method listing", "two modes"),
    ("--sft-short 9 --method margin", "two modes"),
])
def test_wrong_settings_are_one_clear_line(arguments, says, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_args(arguments.split())
    message = capsys.readouterr().err
    assert stop.value.code == 2 and says in message and message.count("\n") == 1


@pytest.mark.parametrize("kl_max, dtype", [(None, torch.bfloat16), (10.0, torch.float32)])
def test_dtype_of_the_sampling_policy(kl_max, dtype, tmp_path, monkeypatch):
    """bf16 where that is fast, but not if its log-probabilities are compared with those of training."""
    class Asked(Exception):
        pass

    def roll_out(policy, *_):
        assert policy.lm_head.weight.dtype == dtype and not policy.training
        raise Asked

    model = llama.Llama(llama.Config(vocab_size=8, hidden_size=512, intermediate_size=8, num_hidden_layers=1,
                                     num_attention_heads=4))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setattr(train, "open_start", lambda *arguments: (model, None))
    monkeypatch.setattr(train.sample, "stop_ids_of", lambda *arguments: (0,))
    monkeypatch.setattr(train, "roll_out", roll_out)
    monkeypatch.setattr(train, "run_stage", lambda *arguments, at_end: arguments[-1](model, 0))
    with pytest.raises(Asked):
        train.train_rl(Settings(out=str(tmp_path), kl_max=kl_max), tmp_path)


def test_a_finished_run_has_no_best_checkpoint_to_keep(tmp_path):
    settings = Settings(out=str(tmp_path))
    directory = tmp_path / "ibpo-50"
    directory.mkdir()
    (directory / "ibpo.json").write_text(json.dumps({"settings": learn.settings_of(settings, "ibpo")}))
    assert train.train_rl(settings, tmp_path) == directory
    with pytest.raises(UserError, match="without --keep-best"):
        train.train_rl(dataclasses.replace(settings, keep_best=True), tmp_path)


@pytest.mark.parametrize("options", [dict(method="grpo"), dict(method="length-penalty"), dict(kl_max=10.0), {}])
def test_a_finished_run_is_known_again(options, tmp_path, monkeypatch):
    """What the notes say it was made with is what the next call looks for."""
    settings = Settings(out=str(tmp_path), valid_every=0, **options)
    monkeypatch.setattr(train, "open_start", lambda *arguments: (None, None))
    monkeypatch.setattr(train.sample, "stop_ids_of", lambda *arguments: (0,))
    monkeypatch.setattr(learn.llama, "save", lambda model, directory, tokenizer: directory.mkdir())

    def run_stage(settings, stage, name, *arguments, at_end):
        learn.save_checkpoint(settings, stage, None, None, tmp_path / name)
        return tmp_path / name

    monkeypatch.setattr(train, "run_stage", run_stage)
    made = train.train_rl(settings, tmp_path)
    monkeypatch.setattr(train, "run_stage", None)
    assert train.train_rl(settings, tmp_path) == made


def test_alpha_decides_what_it_changes():
    for stage, same in (("base", True), ("sv-sft", True), ("asv-sft", False), ("ibpo", False)):
        assert (learn.settings_of(Settings(), stage) == learn.settings_of(Settings(sft_alpha=2.0), stage)) == same


def test_short_votes_decide_the_stages_that_have_them_only():
    """A finished two-mode stage does not depend on a setting that came later, nor SV-SFT on the third mode."""
    two, three = Settings(), Settings(sft_short=9)
    for stage in ("base", "sv-sft"):
        assert learn.settings_of(two, stage) == learn.settings_of(three, stage)
    for stage in ("asv-sft", "ibpo"):
        assert "sft_short" not in learn.settings_of(two, stage)
        assert learn.settings_of(three, stage) == {**learn.settings_of(two, stage), "sft_short": 9}


def test_price_and_unit_decide_the_result_of_a_length_penalty_only():
    for method, decides in (("length-penalty", True), ("ibpo", False)):
        one = dataclasses.replace(Settings(), method=method)
        for other in (dataclasses.replace(one, length_price=0.1), dataclasses.replace(one, length_unit=20.0)):
            assert (learn.settings_of(one, "ibpo") != learn.settings_of(other, "ibpo")) == decides


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
    monkeypatch.setattr(train, "parse_args", lambda *_: (dataclasses.replace(Settings(), **change), stage))
    for function in ("train_sft", "train_rl"):
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
    train.check(dataclasses.replace(Settings(), **change), stage)


def test_sft_samples_before_it_loads_the_model_to_train(tmp_path, monkeypatch):
    """A small card has no room for the base twice."""
    held = []
    monkeypatch.setattr(sft, "open_start", lambda settings, directory: held.append(directory))

    def sampled(settings):
        assert not held
        raise UserError("sampled")

    monkeypatch.setattr(sft, "sampled_solutions", sampled)
    with pytest.raises(UserError, match="sampled"):
        sft.train_sft(Settings(out=str(tmp_path)), "sv-sft")
