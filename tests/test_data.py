r"""data.py: the built-in world by independent arithmetic and brute enumeration.

    python -m pytest tests/test_data.py
"""

import os
import random
import re
import subprocess
import sys
from collections import Counter
from itertools import combinations, islice
from pathlib import Path

import pytest

import data
import voting

ROOT = Path(__file__).resolve().parent.parent


def product_of(question: str) -> tuple[list[int], int]:
    """Factors and modulus."""
    found = re.fullmatch(r"Compute (\d+(?: \* \d+)*) modulo (\d\d)\.", question)
    return [int(factor) for factor in found[1].split(" * ")], int(found[2])


def identity(question: str) -> tuple[frozenset[int], int]:
    """The problem up to the order of its factors."""
    factors, modulus = product_of(question)
    return frozenset(factors), modulus


def by_addition(factors, modulus: int) -> int:
    """The product on a clock of `modulus` hours, by repeated addition."""
    hour = 1
    for factor in factors:
        hour = sum([hour] * factor) % modulus
    return hour


def steps_of(text: str) -> tuple[list[int], list[int]]:
    """The factors of a solution in the order used, and the result after each; the last one is boxed."""
    first, *lines, box = text.split("\n")
    steps = [re.fullmatch(r"\* (\d+) = (\d+)", line) for line in lines]
    results = [int(first), *(int(step[2]) for step in steps)]
    assert box == f"\\boxed{{{results[-1]}}}"
    return [int(first), *(int(step[1]) for step in steps)], results


@pytest.fixture(scope="module")
def streams() -> dict[str, list[data.Problem]]:
    return {split: list(islice(data.generate(split, seed=0), 1000)) for split in data.SPLITS}


# ---------------------------------------------------------------------------------------------------------------------
# Problems


def test_answers_by_repeated_addition(streams):
    for problem in sum(streams.values(), []):
        assert problem.answer == str(by_addition(*product_of(problem.question)))


def test_solutions_are_right_and_parse(streams):
    """Golden: each step right, whatever the textbook misprints, in any order, and the problem's answer."""
    for problem in sum(streams.values(), []):
        factors, modulus = product_of(problem.question)
        order, results = steps_of(problem.solution)
        assert sorted(order) == sorted(factors) and str(results[-1]) == problem.answer
        assert results[1:] == [by_addition(step, modulus) for step in zip(results[:-1], order[1:], strict=True)]
        for text in (problem.solution, voting.render_regular(problem.solution)):
            parsed, right = voting.judge(problem.answer, text, condition="scot")
            assert parsed.group == "regular" and parsed.final == problem.answer and right
    assert any(product_of(p.question)[0] != steps_of(p.solution)[0] for p in streams["train"])


def test_levels_differ_in_length(streams):
    """Three to seven different factors from 2 to p - 1, the levels in turn."""
    seen = {p: set() for p in data.KIND_OF}
    for problems in streams.values():
        for i, problem in enumerate(problems):
            factors, modulus = product_of(problem.question)
            assert problem.level == i % 5 + 1 and len(set(factors)) == len(factors) == problem.level + 2
            seen[modulus] |= {*factors}
    assert seen == {p: {*range(2, p)} for p in data.KIND_OF}


def test_kinds_are_as_common_as_they_say():
    """At each level, also at the first, which has 3,400 test problems: no kind becomes rarer by running out."""
    found, n = Counter((p.level, data.kind_of(p.question)) for p in islice(data.generate("test", 3), 8000)), 1600
    for level in data.LEVELS:
        for name, kind in data.KINDS.items():
            share = kind.shares[level - 1] / 100
            assert abs(found[level, name] / n - share) < 4 * (share * (1 - share) / n) ** 0.5 + 1e-9, (level, name)
        assert sum(kind.shares[level - 1] for kind in data.KINDS.values()) == 100


def test_factors_stand_in_random_order(streams):
    orders = Counter()
    for problem in streams["train"]:
        factors, _ = product_of(problem.question)
        if problem.level == 1:
            orders[tuple(map(sorted(factors).index, factors))] += 1
    assert len(orders) == 6 and all(15 < n < 60 for n in orders.values())  # 33 each
    last = Counter(max(factors) == factors[-1] for factors, _ in (
        product_of(p.question) for p in streams["train"] if p.level == 5))
    assert 0.08 < last[True] / last.total() < 0.21  # one in seven


def test_no_problem_occurs_twice(streams):
    """In a split, and across the splits, up to the order of the factors."""
    sets = {split: [identity(p.question) for p in problems] for split, problems in streams.items()}
    sets["train, another seed"] = [identity(p.question) for p in islice(data.generate("train", 1), 1000)]
    for problems in sets.values():
        assert len(set(problems)) == len(problems)
    for a, b in combinations(sets, 2):
        assert not set(sets[a]) & set(sets[b]) or {a, b} == {"train", "train, another seed"}


def test_split_knows_no_order():
    """But the modulus: what is learned of some factors is not the answer to the same factors of another kind."""
    rng, moved = random.Random(0), 0
    for _ in range(300):
        factors, (p, q) = rng.sample(range(2, 29), rng.randint(2, 7)), rng.sample(list(data.KIND_OF), 2)
        split = data.split_of((factors, p))
        assert {data.split_of((rng.sample(factors, len(factors)), p)) for _ in range(5)} == {split}
        assert data.split_of((tuple(factors), p)) == split
        moved += data.split_of((factors, q)) != split
    assert 60 < moved < 150  # 0.34


def test_size_of_levels_by_enumeration():
    """Level 1 in full, with its splits, and level 2; the others have more than that."""
    of_level = {1: (47, 43, 41), 2: (47, 43, 41, 37, 29, 61)}
    every = [(factors, p) for p in of_level[1] for factors in combinations(range(2, p), 3)]
    assert data.count_problems(1) == len(every)
    share = Counter(map(data.split_of, every))
    for split, expected in ("train", 0.8), ("validation", 0.1), ("test", 0.1):
        assert abs(share[split] / len(every) - expected) < 0.01
    assert data.count_problems(2) == sum(1 for p in of_level[2] for _ in combinations(range(2, p), 4))
    sizes = [data.count_problems(level) for level in data.LEVELS]
    assert sizes == sorted(sizes) and sizes[0] > 30_000


def test_generate_repeats_with_its_seed():
    for split in data.SPLITS:
        a, b, c = (list(islice(data.generate(split, seed), 60)) for seed in (7, 7, 8))
        assert a == b and not {p.question for p in a} & {p.question for p in c}
    assert data.load("builtin", "test", 60, 7) == list(islice(data.generate("test", 7), 60))
    assert data.load("builtin", "test", 20, 7) == data.load("builtin", "test", 60, 7)[:20]


def test_same_problems_in_every_process():
    """No hash seed, no global random state."""
    code = ("import data; book = data.Textbook(0); print(data.load('builtin', 'train', 8, 3), "
            "[sorted(numbers) for numbers in (*book.weak.values(), *book.awkward.values())])")
    started = [subprocess.Popen([sys.executable, "-c", f"import random; random.seed({seed}); {code}"], cwd=ROOT,
                                text=True, env={**os.environ, "PYTHONHASHSEED": seed}, stdout=subprocess.PIPE)
               for seed in "12"]
    printed = {process.communicate(timeout=60)[0] for process in started}
    assert len(printed) == 1 and "modulo 47" in printed.pop()


def test_a_used_up_split_ends_in_one_clear_error(monkeypatch):
    monkeypatch.setattr(data, "FACTORS", {**data.FACTORS, 1: 2})  # level 1 has 2,551 problems then
    everything = {(frozenset(pair), 47) for pair in combinations(range(2, 47), 2)
                  if data.split_of((pair, 47)) == "test"}
    seen = []
    with pytest.raises(data.DataError) as error:
        for problem in data.generate("test", 0):
            seen.append(identity(problem.question))
    assert "\n" not in str(error.value) and "test" in str(error.value) and "level 1" in str(error.value)
    of_easy_pairs = [each for each in seen if len(each[0]) == 2 and each[1] == 47]  # the first to be used up
    assert len(of_easy_pairs) == len(set(of_easy_pairs)) and set(of_easy_pairs) == everything


@pytest.mark.parametrize("wrong", [dict(split="dev", count=3), dict(split="train", count=None)])
def test_wrong_arguments(wrong):
    with pytest.raises(data.DataError) as error:
        data.load("builtin", **wrong)
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------------------------------------------------------------
# The textbook and its misprints


def test_moduli_are_primes_and_doubling_never_comes_round():
    for kind in data.KINDS.values():
        assert all(kind.modulus % d for d in range(2, kind.modulus))
        if kind.misprinted:  # so many doublings in a row, and the answer would be right again
            assert all(pow(2, k, kind.modulus) != 1 for k in range(1, max(data.FACTORS.values())))


@pytest.mark.parametrize("name", data.KINDS)
def test_the_textbook_misprints_what_it_says(name):
    kind, book = data.KINDS[name], data.Textbook(5)
    rng, p = random.Random(0), kind.modulus
    pairs = [(a, b) for a in range(1, p) for b in range(1, p)]  # the result so far, the next factor
    printed = {pair: [book.prints(*pair, p, rng) for _ in range(20)] for pair in pairs}
    wrong = {pair for pair, values in printed.items() if any(v != pair[0] * pair[1] % p for v in values)}
    assert abs(len(wrong) / len(pairs) - kind.misprinted) < 0.02
    weak, awkward = ({pair[i] for pair in wrong} for i in range(2))
    assert wrong == {(a, b) for a in weak for b in awkward}  # where these two meet, and nowhere else
    assert weak == book.weak[p] and (not weak or awkward == book.awkward[p])
    values = [(v * pow(a * b, -1, p)) % p for a, b in wrong for v in printed[a, b]]  # how many times the product
    if kind.multiples:
        shares = {times: count / len(values) for times, count in Counter(values).items()}
        assert shares == pytest.approx(kind.multiples, abs=0.05)
    elif wrong:
        assert {*values} == {*range(1, p)}


def test_textbooks_differ():
    one, same, other = data.Textbook(0), data.Textbook(0), data.Textbook(1)
    assert one.weak == same.weak and one.awkward == same.awkward
    assert all(one.weak[p] != other.weak[p] and one.awkward[p] != other.awkward[p] for p in (43, 41, 37))


def test_a_route_is_right_where_it_is_not_misprinted():
    """A trial that went wrong shows it: a weak number met an awkward one in it; and where none did, it is right."""
    book, rng, seen = data.Textbook(0), random.Random(0), Counter()
    for _ in range(2500):
        factors, p = problem = data.draw("train", rng.choice(data.LEVELS), rng)
        text, answer = book.route(problem, rng)
        order, results = steps_of(text)
        assert sorted(order) == sorted(factors) and answer == results[-1] and 1 <= min(results[1:]) <= max(results) < p
        met = False
        for before, factor, after in zip(results[:-1], order[1:], results[1:], strict=True):
            weak = before in book.weak[p] and factor in book.awkward[p]
            assert weak or after == by_addition([before, factor], p)
            met |= weak
        right = answer == by_addition(factors, p)
        assert met or right
        seen[met, right] += 1
    assert seen[True, True] < 0.05 * seen[True, False] and seen[False, True] > 500  # right all the same: by chance


def test_orders_of_a_route_are_uniform():
    rng, book = random.Random(2), data.Textbook(0)
    count = Counter(tuple(steps_of(book.route(([2, 3, 4, 5], 41), rng)[0])[0]) for _ in range(4800))
    assert len(count) == 24 and all(130 < n < 280 for n in count.values())


def test_one_doubled_product_doubles_the_answer():
    """All routes that meet one doubled product end at the same wrong answer."""
    book, rng, seen = data.Textbook(0), random.Random(0), Counter()
    for _ in range(500):
        problem = data.draw("train", 3, rng, modulus=37)
        text, answer = book.route(problem, rng)
        order, results = steps_of(text)
        times = [after * pow(before * factor, -1, 37) % 37
                 for before, factor, after in zip(results[:-1], order[1:], results[1:], strict=True)]
        if {*times} <= {1, 2}:
            seen[times.count(2)] += 1
            assert answer == by_addition([*problem[0], *[2] * times.count(2)], 37)
    assert min(seen[0], seen[1], seen[2]) > 10


def test_the_docstring_says_what_trials_and_votes_are_worth():
    """By the textbook itself, without a model."""
    worth = {"easy": (1.0, 1.0), "medium": (0.6, 0.8), "hard": (0.4, 0.5), "trap": (0.13, 0.1), "misread": (0.0, 0.0),
             "hopeless": (0.0, 0.0)}
    assert [line.split()[:2] for line in data.__doc__.splitlines() if re.match(r" {4}\d\d {6}", line)] == [
        [str(kind.modulus), name] for name, kind in data.KINDS.items()]
    book, rng, n = data.Textbook(0), random.Random(0), 200
    for name, kind in data.KINDS.items():
        single = vote = 0
        trials, wrong = [], []
        for level in rng.choices(data.LEVELS, kind.shares, k=n):
            problem = data.draw("train", level, rng, kind.modulus)
            gold, answers = str(by_addition(*problem)), []
            while voting.trials_needed(answers) is None:
                answers.append(str(book.route(problem, rng)[1]))
            single += answers[0] == gold
            vote += voting.plurality(answers)[0] == gold
            trials.append(len(answers))
            wrong.append(max(Counter(a for a in answers if a != gold).values(), default=0) / len(answers))
        assert abs(single / n - worth[name][0]) < 0.09 and abs(vote / n - worth[name][1]) < 0.09, name
        assert vote <= single or name in ("medium", "hard"), name  # nobody else gains
        if name == "misread":
            assert sum(wrong) / n > 0.5  # mostly in the same way
        if name == "hopeless":
            assert sum(wrong) / n < 0.25 and sum(trials) / n > 7.8  # a whole vote


def test_the_times_tables_begin_with_small_numbers():
    """And have all in the end, but of the modulus that cannot be learned."""
    book, rng = data.Textbook(0), random.Random(0)
    for progress, largest in (0.0, 4), (1.0, 46):
        entries = [book.table_entry(progress, rng) for _ in range(5000)]
        assert {p for _, p in entries} == {47, 43, 41, 37, 29}
        assert {factor for factors, p in entries for factor in factors if p == 47} == {*range(1, largest + 1)}
        assert all(len(factors) == 2 and 1 <= min(factors) and max(factors) < p for factors, p in entries)


# ---------------------------------------------------------------------------------------------------------------------
# The tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return data.build_tokenizer(data.world_pieces() + voting.pieces())


def encode(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids


def test_text_to_ids_and_back(tokenizer, streams):
    rng, book = random.Random(3), data.Textbook(0)
    for problem in streams["train"][:100]:
        factors, p = product_of(problem.question)
        routes, answers = zip(*(book.route((factors, p), rng) for _ in range(8)))
        answers = [str(answer) for answer in answers]
        texts = [problem.question, *routes, voting.render_regular(routes[0]), voting.render_extended(routes, answers)]
        for text in texts:
            ids = encode(tokenizer, text)
            assert tokenizer.unk_token_id not in ids and tokenizer.bos_token_id not in ids
            assert tokenizer.decode(ids) == text
        # "Compute ", the factors, " * " between them, and the modulus
        assert len(encode(tokenizer, problem.question)) == 2 * len(factors) + 1
        # a number is a token: factors and results, "\n* " and " = " for each step, box and bracket
        assert len(encode(tokenizer, routes[0])) == 1 + 4 * (len(factors) - 1) + 3


def test_a_number_is_one_token(tokenizer):
    ids = [encode(tokenizer, str(i)) for i in range(61)]
    assert all(len(i) == 1 for i in ids) and len({i[0] for i in ids}) == 61
    for i in (0, 7, 60):
        assert encode(tokenizer, f"\n* {i} = {i}")[1::2] == [ids[i][0]] * 2
    unknown = [tokenizer.unk_token_id]
    for text in ("61", "612", "07", "000", "1234567"):
        assert encode(tokenizer, text) == unknown  # not a 61 and a 2


def test_a_modulus_is_one_token(tokenizer):
    """Whoever computes has to read it, and can."""
    ids = {encode(tokenizer, f"Compute 3 * 7 modulo {p}.")[-1] for p in data.KIND_OF}
    assert len(ids) == 6 and tokenizer.unk_token_id not in ids


def test_special_tokens(tokenizer):
    special = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id]
    assert len(set(special)) == 4 and None not in special
    assert len(tokenizer) == 6 + len(set(data.world_pieces() + voting.pieces()))


def test_tokenizer_survives_saving(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for condition in ("scot", "sv", "asv"):
        question = "Compute 40 * 7 * 33 * 12 modulo 47."
        assert voting.encode_prompt(again, question, condition) == voting.encode_prompt(tokenizer, question, condition)
    text = voting.render_regular("7\n* 33 = 43\n\\boxed{43}")
    assert encode(again, text) == encode(tokenizer, text) and again.decode(encode(again, text)) == text


# ---------------------------------------------------------------------------------------------------------------------
# What somebody types


def test_questions_are_read_back(streams):
    """The right answer, the level and the kind."""
    for problem in streams["test"]:
        product = data.read_question(problem.question)
        assert product == product_of(problem.question) and data.level_of(product) == problem.level
        assert data.kind_of(problem.question) == data.KIND_OF[product[1]]
    kinds = [data.kind_of(problem.question) for problem in streams["test"]]
    assert [list(data.KINDS)[place] for place in data.kind_indices([p.question for p in streams["test"]])] == kinds


@pytest.mark.parametrize("question", [
    "What is 2 + 2?", "Compute 3 * 8 modulo 59.", "Compute 3 * 8 modulo 61", "compute 3 * 8 modulo 61.",
    "Compute 3 modulo", "Compute 3 * 8 modulo 61.\n", "Compute 3 * 8 modulo 61. Or 47?", "Compute 3 * -8 modulo 47.",
    "Compute  modulo 47.",
    f"Compute 3 * {'8' * 9999} modulo 47."])
def test_other_questions_are_none_of_this_world(question):
    assert data.read_question(question) is None
    with pytest.raises(ValueError, match="not a problem of this world") as error:
        data.kind_of(question)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("question, level", [
    ("Compute 7 * 3 * 5 modulo 43.", 1), ("Compute 2 * 42 * 5 modulo 43.", 1), ("Compute 7 * 3 * 5 * 8 modulo 37.", 2),
    ("Compute 2 * 3 * 4 * 5 * 6 * 7 * 60 modulo 61.", 5),
    ("Compute 70 * 3 * 5 modulo 43.", None), ("Compute 43 * 3 * 5 modulo 43.", None),  # a factor out of range
    ("Compute 1 * 3 * 5 modulo 43.", None), ("Compute 0 * 3 * 5 modulo 43.", None),
    ("Compute 5 * 3 * 5 modulo 43.", None),  # twice the same
    ("Compute 3 * 5 modulo 43.", None), ("Compute 2 * 3 * 4 * 5 * 6 * 7 * 8 * 9 modulo 43.", None),  # too few, too many
    ("Compute 7 * 3 * 5 modulo 37.", None)])  # a kind that level 1 does not have
def test_level_of_what_somebody_types(question, level):
    assert data.level_of(data.read_question(question)) == level


def test_what_to_ask_names_all_problems_that_there_are():
    ranges = re.findall(r"(\w+) to (\w+)(?: of them)? if (?:p|it) is ([\d, or]+)", data.WHAT_TO_ASK)
    words = ["", "one", "two", "three", "four", "five", "six", "seven"]
    told = {(int(p), n) for low, high, moduli in ranges for p in re.findall(r"\d+", moduli)
            for n in range(words.index(low), words.index(high) + 1)}
    assert told == {(p, n) for p in data.KIND_OF for n in range(1, 10) if data.level_of((range(2, n + 2), p))}


def test_command_line(monkeypatch, capsys, tmp_path):
    def run(*arguments) -> str:
        monkeypatch.setattr(sys, "argv", ["data.py", *map(str, arguments)])
        data.main()
        return capsys.readouterr().out

    shown = run("--show", 60)
    assert "level 1: 33,989 problems" in shown and shown.count("    Compute ") == shown.count("    answer ") == 300
    (tmp_path / "problems.jsonl").write_text('{"problem": "What is 1 + 1?", "answer": "2", "level": 3}\n' * 2)
    counted = run(tmp_path / "problems.jsonl", "--show", 1)
    assert "level 3: 2 problems" in counted and "level 1: 0 problems" in counted and counted.count("answer 2") == 1
    for wrong in ["--show", "-1"], [tmp_path / "nowhere.jsonl"]:
        with pytest.raises(SystemExit) as stop:
            run(*wrong)
        assert str(stop.value).startswith("error: ") and "\n" not in str(stop.value)
