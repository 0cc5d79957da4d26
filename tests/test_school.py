"""recipes/school.py: sheets are right, votes to count are valid, only what is meant is learned; and a first training.

    pytest tests/test_school.py
"""

import json
import random
import re
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import tiny
import torch

import data
import learn
import llama
import sample
import voting
from plumbing.checkpoints import notes_of

sys.path.append(str(Path(__file__).resolve().parent.parent / "recipes"))
import school  # noqa: E402
import word_problems  # noqa: E402


def test_a_sheet_is_right_and_only_its_results_are_learned():
    for seed in range(50):
        text = school.sheet(random.Random(seed))
        sums = [re.fullmatch(r"(\d+) ([-+*/]) (\d+) = (\d+)", line).groups() for line in text.split("\n")]
        assert len(sums) == 12
        for a, operation, b, result in ((int(a), operation, int(b), int(c)) for a, operation, b, c in sums):
            a, result = (result, a) if operation == "/" else (a, result)
            assert {"+": a + b, "-": a - b}.get(operation, a * b) == result > 0
    tokenizer = tiny.letters()
    example = learn.encode(tokenizer, "Calculate.", "scot", text, learned=school.RESULTS)
    learned = [id for id, in_loss in zip(example.response, example.loss_mask, strict=True) if in_loss]
    assert tokenizer.decode(learned) == "".join(" " + c for *_, c in sums) + tokenizer.eos_token
    assert tokenizer.decode(example.response) == text + tokenizer.eos_token


def test_a_vote_to_count_is_right_and_only_its_counting_is_learned():
    tokenizer, seen = tiny.letters(), Counter()
    for seed, problem in enumerate(islice(word_problems.generate("train", 5), 200)):
        text = school.vote_to_count(problem.solution, random.Random(seed))
        parsed = voting.parse(text)  # which checks the stop rule
        assert parsed.group == "extended" and parsed.final == voting.plurality(list(parsed.answers))[0]
        seen[parsed.trials, parsed.final == str(problem.answer)] += 1
    assert {trials for trials, _ in seen} == set(range(3, 9)) and min(seen[3, True], seen[8, False]) > 5
    example = learn.encode(tokenizer, "How many?", "sv", text, learned=school.COUNTS)
    learned = tokenizer.decode([id for id, in_loss in zip(example.response, example.loss_mask, strict=True) if in_loss])
    tallies = [f"Seen {('once', 'twice', 'three times')[min(parsed.answers[: i + 1].count(a), 3) - 1]}.\n[/TRIAL]\n"
               for i, a in enumerate(parsed.answers)]
    verdict = text.rpartition("\n")[2] + tokenizer.eos_token
    assert learned == "[TRIAL]" + "[TRIAL]".join(tallies) + verdict and parsed.final in verdict


def test_a_text_becomes_a_token_that_starts_as_the_mean_of_those_before():
    tokenizer = tiny.letters()
    model = tiny.build(len(tokenizer))
    texts, before = ["abc", "abcd", "xyz"], model.model.embed_tokens.weight.detach().clone()  # [V, C]
    spelled = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    school.give_tokens(model, tokenizer, texts)
    assert tokenizer("abcdabcd", add_special_tokens=False).input_ids == [len(before) + 1] * 2
    assert tokenizer.decode(tokenizer("xabcx", add_special_tokens=False).input_ids) == "xabcx"
    after = model.model.embed_tokens.weight  # [V + 3, C]
    assert len(after) == model.config.vocab_size == len(before) + 3 and torch.equal(after[: len(before)], before)
    for row, ids in zip(after[len(before):], spelled, strict=True):
        torch.testing.assert_close(row, before[ids].mean(dim=0))


@pytest.mark.slow
def test_sft_on_the_solutions(tmp_path):
    """Three steps of a tiny model: a checkpoint for the base's prompt, whose loss has fallen; not trained again."""
    tokenizer = tiny.letters()
    model = tiny.build(len(tokenizer), max_position_embeddings=2048, eos_token_id=tokenizer.eos_token_id)
    llama.save(model, tmp_path / "start", tokenizer)
    word_problems.main(["--out", str(tmp_path), "--train", "8", "--validation", "1", "--test", "1"])
    options = ["--out", str(tmp_path), "--model", str(tmp_path / "start"), "--data", str(tmp_path / "train.jsonl"),
               "--steps", "12", "--batch", "4",
               "--lr", "0.01", "--sheets", "0.25", "--counting", "0.25"]
    school.main(options)
    base = tmp_path / "base"
    again = voting.encode_prompt(sample.open_checkpoint(base)[1], "1 + 1?", "asv")
    assert len(again) < len(voting.PROMPTS["asv"]) < len(voting.encode_prompt(tokenizer, "1 + 1?", "asv"))
    losses = [json.loads(line)["nll_per_token"] for line in (base / "log.jsonl").read_text().splitlines()]
    assert len(losses) == 12 and losses[-1] < losses[0] and notes_of(base)["condition"] == "scot"
    written = (base / "model.safetensors").stat().st_mtime_ns
    school.main(options)
    assert (base / "model.safetensors").stat().st_mtime_ns == written
    with pytest.raises(SystemExit) as stop:
        school.main([*options, "--steps", "13"])
    assert "made with base_steps = 12, not 13" in stop.value.code


def test_what_is_wrong_is_said_in_one_line(tmp_path):
    for more, said in ((["--steps", "0"], "at least 1"), (["--sheets", "-1"], "at least 0"), ([], "word_problems.py"),
                       (["--lr", "nan"], "above 0")):
        with pytest.raises(SystemExit) as stop:
            school.main(["--model", "M", "--data", str(tmp_path / "none.jsonl"), "--out", str(tmp_path), *more])
        assert said in stop.value.code and "\n" not in stop.value.code


@pytest.mark.parametrize("line", ["", '{"question": "1 + 1?", "answer": "2"}', "[]", "not JSON",
                                  '{"question": "1 + 1?", "solution": "Two.\\n\\\\boxed{2}"}',
                                  '{"question": "1 + 1?", "solution": "1 + 1 = 2\\n\\\\boxed{2}\\nSo two."}'])
def test_files_without_solutions_are_refused(tmp_path, line):
    (tmp_path / "some.jsonl").write_text(line)
    with pytest.raises(data.DataError, match="expected problems with solutions"):
        school.solutions_of(tmp_path / "some.jsonl")
