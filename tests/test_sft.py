"""sft.py: the built-in base, and the base model's own solutions.

    pytest tests/test_sft.py
"""

import json
import random
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import build

import data
import llama
import sample
import sft
import voting
from learn import AdamW, Example
from plumbing.files import derive_seed, fingerprint
from plumbing.settings import Settings, UserError
from plumbing.stage import Stage, only_process


def test_base_is_built_in_the_type_that_is_asked_for():
    tokenizer = data.build_tokenizer(data.world_pieces() + voting.pieces())
    model = sft.new_model(Settings(dtype="bf16"), tokenizer)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


@pytest.fixture
def sampling(tmp_path, monkeypatch):
    """Settings without a base model, and a sampler that answers without one, three problems at a time."""
    asked = []

    def ask(model, tokenizer, questions, condition, samples, seed, progress, stop=None, **options):
        assert condition == "scot"
        asked.append((tuple(questions), seed))
        progress(len(questions) * samples)
        return [[sft.sample.Response([1], 0.0, i > 0, f"{question} {seed} {i}", []) for i in range(samples)]
                for question in questions]

    monkeypatch.setattr(sft, "open_start", lambda *_: (None, None))
    monkeypatch.setattr(sft, "for_sampling", lambda *_: None)
    monkeypatch.setattr(sft.sample, "stop_ids_in", lambda *_: ())
    monkeypatch.setattr(sft.sample, "ask", ask)
    monkeypatch.setattr(sft, "PROBLEMS_AT_ONCE", 3)
    return Settings(out=str(tmp_path), model=str(tmp_path), sft_problems=8, sft_samples=4), asked


def test_seeds_share_no_samples(sampling, tmp_path):
    settings, asked = sampling
    drawn = []
    for seed in range(2):
        asked.clear()
        sft.sampled_solutions(replace(settings, seed=seed, out=str(tmp_path / str(seed))))
        drawn.append(({question for questions, _ in asked for question in questions}, {used for _, used in asked}))
    assert all(mine and mine.isdisjoint(others) for mine, others in zip(*drawn))


def test_sampled_solutions_continue_where_they_stopped(sampling, monkeypatch, tmp_path):
    settings, asked = sampling
    whole = sft.sampled_solutions(replace(settings, out=str(tmp_path / "whole")))
    problems = data.load("builtin", "train", 8, derive_seed(0, "sft"))
    assert [row["question"] for row in whole] == [p.question for p in problems]
    assert all(len(row["samples"]) == 3 for row in whole)  # the one that was cut off is left out
    assert [len(questions) for questions, _ in asked] == [3, 3, 2] and len({seed for _, seed in asked}) == 3

    good, asked[:] = sft.sample.ask, []

    def interrupted(*arguments, **options):
        if len(asked) == 2:
            raise KeyboardInterrupt
        return good(*arguments, **options)

    monkeypatch.setattr(sft.sample, "ask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sft.sampled_solutions(settings)
    monkeypatch.setattr(sft.sample, "ask", good)
    assert sft.sampled_solutions(settings) == whole and len(asked) == 3  # only the last part was left to do
    assert sft.sampled_solutions(settings) == whole and len(asked) == 3  # now nothing is
    assert (tmp_path / "samples.jsonl").read_text() == (tmp_path / "whole" / "samples.jsonl").read_text()


@pytest.mark.parametrize("change", [dict(seed=1), dict(temperature=0.5), dict(sft_samples=5), dict(sft_problems=9),
                                    dict(max_new_tokens=9), dict(model="tests"), dict(top_p=0.5),
                                    dict(sampling_dtype="bf16")])
def test_solutions_sampled_with_other_settings_are_refused(sampling, change, monkeypatch):
    settings, _ = sampling
    monkeypatch.chdir(Path(__file__).resolve().parent.parent)
    sft.sampled_solutions(settings)
    sft.sampled_solutions(replace(settings, slots=5, sft_votes=3, sft_lr=1.0))  # these do not matter
    with pytest.raises(UserError) as error:
        sft.sampled_solutions(replace(settings, **change))
    assert "samples.jsonl" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("field, value", [("answer", "0"), ("level", 9), ("solution", "none")])
def test_solutions_to_problems_that_have_changed_are_sampled_again(sampling, tmp_path, capsys, field, value):
    """A corrected answer in the problem file must not be graded by the old one. The other samples are kept."""
    settings, asked = sampling
    rows = sft.sampled_solutions(settings)
    path = tmp_path / "samples.jsonl"
    header, first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([header, json.dumps({**json.loads(first), field: value}), *rest]) + "\n")
    asked.clear()
    again = sft.sampled_solutions(settings)
    assert [questions for questions, _ in asked] == [(rows[0]["question"],)]
    assert again[1:] == rows[1:] and again[0][field] == rows[0][field]
    assert "7 of 8 are still there" in capsys.readouterr().out


@pytest.mark.parametrize("lines", [2, 3, 5, 8])
def test_samples_cut_between_chunks_end_the_same(sampling, tmp_path, lines):
    settings, asked = sampling
    rows = sft.sampled_solutions(settings)
    path = tmp_path / "samples.jsonl"
    whole = path.read_text()
    path.write_text("".join(whole.splitlines(keepends=True)[:lines]))
    assert sft.sampled_solutions(settings) == rows and path.read_text() == whole


@pytest.mark.parametrize("damage", [lambda text: text[:20], lambda text: text[:-30], lambda text: "{}\n3\n",
                                    lambda text: ""])
def test_damaged_samples_are_one_clear_line(sampling, tmp_path, damage):
    settings, _ = sampling
    sft.sampled_solutions(settings)
    path = tmp_path / "samples.jsonl"
    path.write_text(damage(path.read_text()))
    with pytest.raises(UserError, match="samples.jsonl is damaged") as error:
        sft.sampled_solutions(settings)
    assert "\n" not in str(error.value)


def test_two_runs_do_not_sample_at_once(sampling, tmp_path):
    """The second one waits, and takes what the first has sampled."""
    settings, asked = sampling
    expected = sft.sampled_solutions(settings)
    kept = (tmp_path / "samples.jsonl").rename(tmp_path / "aside")
    asked.clear()
    found = []
    with only_process(tmp_path):
        second = threading.Thread(target=lambda: found.append(sft.sampled_solutions(settings)))
        second.start()
        second.join(timeout=0.3)
        assert second.is_alive()
        kept.rename(tmp_path / "samples.jsonl")
    second.join(timeout=60)
    assert found == [expected] and not asked


def test_balanced_sample():
    levels = {1: list("abcde"), 2: list("fg"), 3: [], 5: list("hijkl")}
    assert sft.balanced_sample(levels, 6, "letters") == list("abfghi")
    assert sft.balanced_sample(levels, 9, "letters") == list("abcdfghij")  # level 2 has no more
    for count in (12, 99):
        assert sft.balanced_sample(levels, count, "letters") == list("abcdefghijkl")
    assert sft.balanced_sample(levels, 0, "letters") == []
    with pytest.raises(UserError, match="no letters"):
        sft.balanced_sample({1: [], 2: []}, 4, "letters")


def answered(count: int) -> list[dict]:
    """Rows of problems with twelve routes of the textbook each, as if a base model had written them."""
    book, rng = data.Textbook(0), random.Random(0)
    return [{**vars(problem), "samples": [book.route(data.read_question(problem.question), rng)[0] for _ in range(12)]}
            for problem in data.load("builtin", "train", count)]


def finals(row: dict) -> list[str]:
    return [voting.parse(voting.render_regular(text)).final for text in row["samples"][:12]]


@pytest.mark.parametrize("stage, distinct", [("sv-sft", 4), ("asv-sft", 4), ("asv-sft", 1)])
@pytest.mark.parametrize("golden", [True, False])
def test_sft_examples(stage, distinct, golden):
    """Right votes that keep the rule, right single solutions, under the prompts of their stage; the same amounts.

    An unsolved problem has no vote, and its single solution is golden, if there is one.
    """
    tokenizer, rows = data.build_tokenizer(data.world_pieces() + voting.pieces()), answered(300)
    for i, row in enumerate(rows):
        row["solution"] = row["solution"] if golden else None
        if i % 4 == 0 and row["answer"] in finals(row):  # texts that are not solutions: none is learned
            row["samples"] += [voting.render_extended(row["samples"][:1] * 3, [row["answer"]] * 3),
                               voting.render_regular(row["samples"][0])]
    settings = Settings(sft_votes=15, sft_regular=50, sft_alpha=0.6, sft_distinct=distinct)
    examples = sft.sft_examples(settings, stage, tokenizer, rows)
    of = {row["question"]: row for row in rows}
    kinds, votes, variety = Counter(), Counter(), []
    for example in examples:
        instruction, question = tokenizer.decode(example.prompt[1:-1]).split("<|problem|>")
        (condition,) = [name for name, prompt in voting.PROMPTS.items() if prompt == instruction]
        text, row = tokenizer.decode(example.response[:-1]), of[question]
        parsed, right = voting.judge(row["answer"], text, condition=condition)
        assert right and example.response[-1] == tokenizer.eos_token_id
        unsolved = row["answer"] not in finals(row)
        kinds[condition, parsed.group, "[TRIAL]" in text, unsolved] += 1
        if unsolved:  # the solution is read, and only what stands around it is learned
            learned = "".join(tokenizer.decode([i]) for i, m in zip(example.response, example.loss_mask) if m)
            assert learned == text.replace(row["solution"], "") + "<|end|>"
        else:  # the model's own
            assert example.loss_mask is None
            assert parsed.group == "extended" or any(sample in text for sample in row["samples"][:12])
        if parsed.group == "extended":
            votes[row["level"]] += 1
            variety.append(len(set(finals(row))))
    one_trial, count = ("scot", "regular", False), 50
    if stage == "asv-sft":
        one_trial, count = ("asv", "regular", True), 30
    golden_ones = kinds.pop((*one_trial, True), 0)
    vote = (stage.removesuffix("-sft"), "extended", True)
    assert kinds == {(*vote, False): 15, (*one_trial, False): count - golden_ones}
    assert 0.2 * count < golden_ones < 0.8 * count if golden else golden_ones == 0
    assert votes == dict.fromkeys(data.LEVELS, 3)  # evenly: no level is known to be voted on
    assert (min(variety) >= 4) == (stage == "asv-sft" and distinct == 4)  # D_ASV1 alone, as in the paper


def test_three_groups_in_the_examples_of_asv_sft():
    """The same amounts of each group at every level, all of them right, under the prompt that offers them."""
    tokenizer = data.build_tokenizer(data.world_pieces() + voting.pieces("modes"))
    rows = [row for row in answered(300) if row["answer"] in finals(row)]
    settings = Settings(sft_votes=15, sft_short=25, sft_regular=50)
    examples = sft.sft_examples(settings, "asv-sft", tokenizer, rows)
    known, kinds = {row["question"]: row for row in rows}, Counter()
    for example in examples:
        instruction, question = tokenizer.decode(example.prompt[1:-1]).split("<|problem|>")
        parsed, right = voting.judge(known[question]["answer"], tokenizer.decode(example.response[:-1]),
                                     condition="modes")
        assert right and instruction == voting.PROMPTS["modes"]
        assert example.loss_mask is None  # all are the model's own
        kinds[parsed.group, known[question]["level"]] += 1
    amounts = {"extended": 3, "short": 5, "regular": 10}
    assert kinds == {(group, level): amount for group, amount in amounts.items() for level in data.LEVELS}
    two = [vars(example) for example in sft.sft_examples(replace(settings, sft_short=0), "sv-sft", tokenizer, rows)]
    assert two == [vars(example) for example in sft.sft_examples(settings, "sv-sft", tokenizer, rows)]


def test_what_train_sft_learns(tmp_path, monkeypatch):
    """All examples once per epoch, in an order of each stage's own, at the learning rate of SFT: a real, tiny stage."""
    tokenizer = data.build_tokenizer(data.world_pieces() + voting.pieces())
    examples = [Example([3, 4], [5 + i, tokenizer.eos_token_id]) for i in range(32)]
    seen, rates = {}, []
    gradient, step = sft.add_supervised_gradient, AdamW.step

    def add_supervised_gradient(model, batch, settings):
        seen.setdefault(stage, []).append([example.response[0] - 5 for example in batch])
        return gradient(model, batch, settings)

    monkeypatch.setattr(sft, "sampled_solutions", lambda settings: [])
    monkeypatch.setattr(sft, "open_start", lambda *_: (build(len(tokenizer)), tokenizer))
    monkeypatch.setattr(sft, "add_supervised_gradient", add_supervised_gradient)
    monkeypatch.setattr(AdamW, "step", lambda adamw, lr: rates.append(lr) or step(adamw, lr))
    settings = Settings(out=str(tmp_path), sft_steps=8, sft_batch=8)
    for stage in ("sv-sft", "asv-sft"):
        assert (sft.train_sft(settings, stage, lambda *_: examples) / "model.safetensors").exists()
        for epoch in (seen[stage][:4], seen[stage][4:]):
            assert sorted(sum(epoch, [])) == list(range(32))
    assert seen["sv-sft"] != seen["asv-sft"]
    assert rates == pytest.approx(2 * [settings.sft_lr * (step + 1) / 10 * (1 - step / 8) for step in range(8)])
    sft.train_sft(settings, "sv-sft")  # finished: nothing is learned again
    assert len(seen["sv-sft"]) == 8
    with pytest.raises(UserError, match="--lora-rank"):
        sft.train_sft(replace(settings, out=str(tmp_path / "lora"), sft_short=9, lora_rank=2), "asv-sft")
    stage = "another seed"
    sft.train_sft(replace(settings, seed=1, out=str(tmp_path / "1")), "sv-sft", lambda *_: examples)
    assert seen[stage] != seen["sv-sft"]


def test_a_base_of_a_few_steps(tmp_path, monkeypatch):
    """All three chapters of the textbook that is asked for; the checkpoint opens."""
    books, batch = [], sft.textbook_batch
    monkeypatch.setattr(sft, "textbook_batch", lambda *arguments: books.append(arguments[-1]) or batch(*arguments))
    settings = Settings(out=str(tmp_path), base_steps=9, base_chapter_2=3, base_chapter_3=6, base_batch=2, warmup=1,
                        base_textbook=2)
    directory = sft.train_base(settings)
    log = [json.loads(line) for line in (directory / "log.jsonl").open()]
    assert [line["step"] for line in log] == list(range(9)) and all(line["tokens"] > 0 for line in log)
    assert len(books) == 9 and all(book.weak == data.Textbook(2).weak for book in books)
    _, tokenizer, notes = sample.open_checkpoint(directory)
    assert notes["condition"] == "scot" and notes["settings"]["base_textbook"] == 2
    assert tokenizer.get_vocab() == data.build_tokenizer(data.world_pieces() + voting.pieces()).get_vocab()


@pytest.mark.parametrize("answers", ["565", "55a5", "12345678", "11223348"])
def test_counting_pages_teach_counting_alone(answers):
    """Learned are the tallies, what follows a trial, and all that follows the last; most where nobody agrees."""
    tokenizer = data.build_tokenizer(data.world_pieces() + voting.pieces())
    answers = [None if a == "a" else a for a in answers] if len(answers) == 8 or "a" in answers else [*answers, "5"]
    solutions = [f"7\n* 12 = 23\n\\boxed{{{a}}}" if a else "7" for a in answers]
    page = sft.count_only(tokenizer, "Compute 7 * 12 modulo 61.", "sv", voting.render_extended(solutions, answers))
    texts = [tokenizer.decode([i]) for i in page.response]
    learned = [text for text, wanted in zip(texts, page.loss_mask) if wanted]
    last = len(texts) - texts[::-1].index(voting.CLOSE)
    expected = []
    for i, answer in enumerate(answers):
        expected += [voting.TALLY[voting.times_seen(answers[: i + 1])]] * (answer is not None)
        expected += [voting.OPEN] * (i + 1 < len(answers))
    assert learned == expected + texts[last:] and texts[-1] == "<|end|>"
    assert page.weight == (10 if len(answers) == 8 else 1)


def test_counting_pages_disagree_at_every_level():
    """Solutions from the textbook never disagree about an easy problem: one could learn to stop after three trials."""
    rng, trials, book = random.Random(0), Counter(), data.Textbook(0)
    for _ in range(600):
        question, condition, text = sft.counting_page(book, rng)
        parsed = voting.parse(text)
        assert condition == "sv" and parsed.group == "extended"
        for body, answer in zip(text.split(voting.OPEN)[1:], parsed.answers):
            assert f" = {answer}\n\\boxed{{{answer}}}" in body  # the last step makes the answer
        product = data.read_question(question)
        trials[data.level_of(product), parsed.trials] += 1
        trials[data.kind_of(question), parsed.trials] += 1
    for group in (*data.LEVELS, "easy"):
        counts = {n: trials[group, n] for n in range(3, 9)}
        assert sum(counts.values()) > 60 and counts[8] < 0.9 * sum(counts.values()), group
        assert sum(n * count for n, count in counts.items()) / sum(counts.values()) > 6.2, group  # of eight


def test_pages_are_spelled_without_unknown_tokens():
    """And none is of a problem of another split."""
    book, rng = data.Textbook(0), random.Random(0)
    tokenizer = data.build_tokenizer(data.world_pieces() + voting.pieces())
    for _ in range(50):
        for page in (sft.times_table(3, 10, book, rng), sft.textbook_page(book, rng), sft.counting_page(book, rng)):
            ids = tokenizer(page[0] + page[2], add_special_tokens=False).input_ids
            assert tokenizer.unk_token_id not in ids and tokenizer.decode(ids) == page[0] + page[2]
            product = data.read_question(page[0])
            assert data.split_of(product) == "train" or len(product[0]) == 2  # the times tables have no splits


def test_chapters_of_the_textbook():
    """The times tables, then solutions and votes, then half of them exercises in counting."""
    tokenizer, book = data.build_tokenizer(data.world_pieces() + voting.pieces()), data.Textbook(0)
    settings = Settings(base_batch=60, base_chapter_2=10, base_chapter_3=20, base_steps=30)
    found = []
    for step in (9, 10, 29):
        pages = sft.textbook_batch(step, settings, tokenizer, book)
        questions = [data.read_question(tokenizer.decode(page.prompt).split("<|problem|>")[1].split("<|answer|>")[0])
                     for page in pages]
        found.append((len(pages), sum(len(factors) > 2 for factors, _ in questions) / len(pages),
                      sum(page.loss_mask is not None for page in pages) / len(pages)))
    (many, solutions, counting), *later = found
    assert (many, solutions, counting) == (120, 0, 0)
    for (pages, solutions, counting), exercises in zip(later, (0, 0.5)):
        assert pages == 60 and abs(counting - exercises) < 0.2
        assert abs(solutions - (exercises + (1 - exercises) * 0.7)) < 0.2


def test_pages_are_new_in_every_step_and_for_every_seed():
    tokenizer, book = data.build_tokenizer(data.world_pieces() + voting.pieces()), data.Textbook(0)

    def pages(seed: int, step: int) -> list[list[int]]:
        settings = Settings(seed=seed, base_batch=2, base_chapter_2=10, base_chapter_3=20, base_steps=30)
        return [page.prompt + page.response for page in sft.textbook_batch(step, settings, tokenizer, book)]

    places = [(seed, step) for seed in (0, 1) for step in (8, 9, 10, 11, 28, 29)]
    found = [pages(*place) for place in places]
    assert all(found[i] != found[j] for i in range(len(found)) for j in range(i))
    assert [pages(*place) for place in places] == found


def test_learning_rate_of_the_base(tmp_path, monkeypatch):
    """It rises for ten times the warm-up, falls to 0.4 by chapter three, and would be 0 one step after the last."""
    rates = []

    def update(stage: Stage, learning_rate: float, *_) -> None:
        rates.append(learning_rate)
        stage.done += 1

    monkeypatch.setattr(Stage, "update", update)
    monkeypatch.setattr(sft, "textbook_batch", lambda *_: [])
    monkeypatch.setattr(sft, "add_supervised_gradient", lambda *_: {"nll_per_token": 0.0})
    sft.train_base(Settings(out=str(tmp_path), base_steps=30, base_chapter_2=5, base_chapter_3=20, warmup=1, base_lr=2))
    assert rates == pytest.approx([0.194 * t for t in range(1, 11)] + [1.94 - 0.114 * t for t in range(1, 11)]
                                  + [0.8 * (1 - t / 11) for t in range(1, 11)])


def test_words_that_the_tokenizer_lacks_are_added(tmp_path):
    """The base gets tokens for three groups, once; what it said and knew before is untouched."""
    base = Path(__file__).parent.parent / "checkpoints/base"
    model, tokenizer, _ = sample.open_checkpoint(base, torch.float32)
    size = len(tokenizer)
    assert sft.add_missing_tokens(model, tokenizer, voting.pieces()) == 0 and model.config.vocab_size == size
    text = voting.render_extended(["7\n* 12 = 37\n\\boxed{37}"] * 3, ["37"] * 3)
    prompt = voting.encode_prompt(tokenizer, "Compute 7 * 12 modulo 47.", "sv")
    ids = torch.tensor([prompt + tokenizer(text, add_special_tokens=False).input_ids])  # [1, T]
    with torch.no_grad():
        before = model(ids)
        assert sft.add_missing_tokens(model, tokenizer, voting.pieces("modes")) == 3 == len(tokenizer) - size
        assert sft.add_missing_tokens(model, tokenizer, voting.pieces("modes")) == 0
        after = model(ids)  # [1, T, V + 3]
    assert torch.equal(after[..., :size], before)
    assert (after[..., size:] - before.mean(dim=-1, keepdim=True)).abs().max() < 1e-3
    assert after.softmax(-1)[..., size:].max() < 5e-3  # hardly ever sampled before they are learned
    llama.save(model, tmp_path, tokenizer)
    again, its_tokenizer, _ = sample.open_checkpoint(tmp_path)
    assert torch.equal(again(ids), after)
    for answers in (["23", "23"], ["1", "2", "3"]):
        text = voting.render_extended([f"7\n\\boxed{{{a}}}" for a in answers], answers, voting.SHORT)
        coded = its_tokenizer(text, add_special_tokens=False).input_ids
        assert its_tokenizer.unk_token_id not in coded and its_tokenizer.decode(coded) == text
        assert tokenizer(text, add_special_tokens=False).input_ids == coded and max(coded) >= size
    assert sft.add_missing_tokens(again, its_tokenizer, voting.pieces("score")) == 1  # one more, for pairs
    for condition in voting.PROMPTS:
        assert len(voting.encode_prompt(its_tokenizer, "Compute 7 * 12 modulo 47.", condition)) == 9


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


@pytest.mark.parametrize("name", ["base", "sv-sft", "ibpo"])
def test_committed_checkpoints_are_of_the_defaults(name):
    """`python train.py --stage base` and `python train.py` make them again."""
    root = Path(__file__).resolve().parent.parent / "checkpoints"
    notes = json.loads((root / name / "ibpo.json").read_text())
    assert notes["settings"] == Settings().deciding(name)
    if name == "sv-sft":
        assert notes["sources"]["model"] == fingerprint(root / "base")
    if name == "base":
        tokenizer = data.build_tokenizer(data.world_pieces() + voting.pieces())
        built, kept = sft.new_model(Settings(), tokenizer).state_dict(), llama.load(root / "base").state_dict()
        assert {key: w.shape for key, w in built.items()} == {key: w.shape for key, w in kept.items()}
