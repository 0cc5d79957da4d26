r"""data.py: the built-in world by independent arithmetic and brute enumeration.

    python -m pytest tests/test_data.py
"""

import math
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


def factors_of(question: str) -> list[int]:
    found = re.fullmatch(r"Compute (\d+(?: \* \d+)*) modulo 61\.", question)
    return [int(factor) for factor in found[1].split(" * ")]


def product(factors) -> int:
    """The product on a clock of 61 hours, by repeated addition."""
    hour = 1
    for factor in factors:
        hour = sum([hour] * factor) % 61
    return hour


@pytest.fixture(scope="module")
def streams() -> dict:
    return {split: list(islice(data.generate(split, seed=0), 1500)) for split in data.SPLITS}


# ---------------------------------------------------------------------------------------------------------------------
# Problems


def test_answers_by_repeated_addition(streams):
    for problem in sum(streams.values(), []):
        assert problem.answer == str(product(factors_of(problem.question)))


def test_levels_are_as_documented(streams):
    assert data.MIX == {1: (4, 0), 2: (4, 1), 3: (3, 3), 4: (2, 5), 5: (0, 8)}
    for problems in streams.values():
        for i, problem in enumerate(problems):
            factors = factors_of(problem.question)
            assert problem.level == i % 5 + 1  # in turn
            assert (sum(2 <= f <= 30 for f in factors), sum(31 <= f <= 60 for f in factors)) == data.MIX[problem.level]
            assert len(set(factors)) == len(factors) == sum(data.MIX[problem.level])


def test_factors_stand_in_random_order(streams):
    easy = [factors_of(p.question) for p in streams["train"] if p.level == 1]
    rising = [factors == sorted(factors) for factors in easy]
    assert 0.01 < sum(rising) / len(rising) < 0.09  # one order in 24
    first = [factors_of(p.question)[0] > 30 for p in streams["train"] if p.level == 2]
    assert 0.12 < sum(first) / len(first) < 0.28  # the large factor of five


def test_no_problem_occurs_twice(streams):
    """In a split, and across the splits, up to the order of the factors."""
    sets = {split: [frozenset(factors_of(p.question)) for p in problems] for split, problems in streams.items()}
    sets["train, another seed"] = [frozenset(factors_of(p.question)) for p in islice(data.generate("train", 1), 1500)]
    for factors in sets.values():
        assert len(set(factors)) == len(factors)
    for a, b in combinations(sets, 2):
        assert not set(sets[a]) & set(sets[b]) or {a, b} == {"train", "train, another seed"}


def test_split_knows_no_order():
    rng = random.Random(0)
    for _ in range(300):
        factors = rng.sample(range(2, 61), rng.randint(2, 8))
        assert {data.split_of(rng.sample(factors, len(factors))) for _ in range(5)} == {data.split_of(factors)}
        assert data.split_of(tuple(factors)) == data.split_of(factors)


def test_size_of_levels_by_enumeration():
    """Level 1 in full, with its splits; the others by the product of two enumerations. At least 20,000 each."""
    every = list(combinations(range(2, 31), 4))
    assert data.count_problems(1) == len(every) >= 20_000
    share = Counter(data.split_of(list(factors)) for factors in every)
    for split, expected in ("train", 0.8), ("validation", 0.1), ("test", 0.1):
        assert abs(share[split] / len(every) - expected) < 0.01
    for level in data.LEVELS[1:]:
        small, large = data.MIX[level]
        sizes = [sum(1 for _ in combinations(numbers, count))
                 for numbers, count in ((range(2, 31), small), (range(31, 61), min(large, 4)))]
        if large <= 4:
            assert data.count_problems(level) == sizes[0] * sizes[1]
        assert data.count_problems(level) >= max(20_000, sizes[0] * sizes[1])


def test_generate_repeats_with_its_seed():
    for split in data.SPLITS:
        a, b, c = (list(islice(data.generate(split, seed), 60)) for seed in (7, 7, 8))
        assert a == b and not {p.question for p in a} & {p.question for p in c}
    assert data.load("builtin", "test", 60, 7) == list(islice(data.generate("test", 7), 60))
    assert data.load("builtin", "test", 20, 7) == data.load("builtin", "test", 60, 7)[:20]
    only = list(islice(data.generate("test", 7, levels=(5,)), 10))
    assert {p.level for p in only} == {5}


def test_same_problems_in_every_process():
    """No hash seed, no global random state."""
    code = "import data; print(data.load('builtin', 'train', 8, 3), data.split_of([3, 5]), sorted(data._holes)[:20])"
    runs = {subprocess.run([sys.executable, "-c", f"import random; random.seed({seed}); {code}"], cwd=ROOT, text=True,
                           env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True).stdout
            for seed in "12"}
    assert len(runs) == 1 and "modulo 61" in runs.pop()


def test_a_used_up_split_ends_in_one_clear_error():
    everything = {factors for factors in combinations(range(2, 31), 4) if data.split_of(list(factors)) == "test"}
    seen = []
    with pytest.raises(data.DataError) as error:
        for problem in data.generate("test", 0, levels=(1,)):
            seen.append(tuple(sorted(factors_of(problem.question))))
    assert "\n" not in str(error.value) and "test" in str(error.value) and "level 1" in str(error.value)
    assert len(seen) == len(set(seen)) and set(seen) <= everything
    assert len(seen) > len(everything) - 40  # nearly all were found before it gave up


@pytest.mark.parametrize("wrong", [dict(split="dev", count=3), dict(split="train", count=None)])
def test_wrong_arguments(wrong):
    with pytest.raises(data.DataError) as error:
        data.load("builtin", **wrong)
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------------------------------------------------------------
# The textbook and its holes


def test_holes():
    """A fixed share of the pairs of two large numbers, the same whatever the order, and no others."""
    pairs = [(a, b) for a in range(1, 61) for b in range(1, 61)]
    assert all(data.is_hole(a, b) == data.is_hole(b, a) for a, b in pairs)
    holes = {(a, b) for a, b in pairs if a <= b and data.is_hole(a, b)}
    large = {(a, b) for a in range(31, 61) for b in range(a, 61)}
    assert holes <= large and len(holes) == round(data.HOLES * len(large))
    # every large number has some holes, and some products that are right
    assert all(0 < sum(data.is_hole(a, b) for b in range(31, 61)) < 20 for a in range(31, 61))


def steps_of(text: str) -> tuple[list[int], list[int], int]:
    """(factors in the order used, results after each, boxed answer) of a textbook route."""
    first, *rest = text.split("\n")
    *lines, box = rest
    steps = [re.fullmatch(r"\* (\d+) = (\d+)", line) for line in lines]
    boxed = re.fullmatch(r"\\boxed\{(\d+)\}", box)
    return [int(first), *(int(s[1]) for s in steps)], [int(first), *(int(s[2]) for s in steps)], int(boxed[1])


def test_a_route_is_right_except_in_holes():
    rng, seen = random.Random(1), Counter()
    for _ in range(3000):
        level = rng.choice(data.LEVELS)
        factors = data.draw_factors("train", level, rng)
        text, result = data.textbook_route(factors, rng)
        order, results, boxed = steps_of(text)
        assert sorted(order) == sorted(factors) and boxed == result == results[-1]
        fell = False
        for before, factor, after in zip(results[:-1], order[1:], results[1:], strict=True):
            assert 1 <= after <= 60
            if data.is_hole(before, factor):
                fell = True
            else:
                assert after == product([before, factor])
        if not fell:
            assert result == product(factors)
        seen[level, "fell" if fell else "clean"] += 1
        seen[level, "right"] += result == product(factors)
    assert seen[1, "fell"] == 0  # a small factor never meets a hole
    right = [seen[level, "right"] / (seen[level, "fell"] + seen[level, "clean"]) for level in data.LEVELS]
    assert right == sorted(right, reverse=True) and right[1] > 0.85 and right[4] < 0.5


def test_orders_of_a_route_are_uniform():
    rng = random.Random(2)
    count = Counter(tuple(steps_of(data.textbook_route([2, 3, 4, 5], rng)[0])[0]) for _ in range(4800))
    assert len(count) == 24 and all(130 < n < 280 for n in count.values())


def test_each_hole_has_three_misprints_of_its_own_and_none_is_right():
    misprints = {}
    holes = [pair for pair in combinations(range(31, 61), 2) if data.is_hole(*pair)]
    for a, b in holes:
        count = Counter(data.textbook_route([a, b], random.Random(i))[1] for i in range(200))
        assert len(count) == 3 and a * b % 61 not in count and min(count.values()) > 35
        misprints[a, b] = frozenset(count)
    values = Counter(value for three in misprints.values() for value in three)
    assert len(set(misprints.values())) > 0.95 * len(misprints) and len(values) > 55  # no number gives a hole away


def test_solution_of_a_problem_is_right_and_parses(streams):
    """Golden: each step right, holes or not, in any order, and the problem's answer."""
    for problem in sum(streams.values(), []):
        order, results, boxed = steps_of(problem.solution)
        assert results[1:] == [product(step) for step in zip(results[:-1], order[1:], strict=True)]
        assert sorted(order) == sorted(factors_of(problem.question)) and str(boxed) == problem.answer
        for text in (problem.solution, voting.render_regular(problem.solution)):
            parsed, right = voting.judge(problem.answer, text, condition="scot")
            assert parsed.group == "regular" and parsed.final == problem.answer and right
    assert any(factors_of(p.question) != steps_of(p.solution)[0] for p in streams["train"])


# ---------------------------------------------------------------------------------------------------------------------
# The tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return data.build_tokenizer(data.world_pieces() + voting.pieces())


def encode(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids


def test_text_to_ids_and_back(tokenizer, streams):
    rng = random.Random(3)
    for problem in streams["train"][:100]:
        routes = [data.textbook_route(factors_of(problem.question), rng)[0] for _ in range(8)]
        answers = [str(steps_of(route)[2]) for route in routes]
        texts = [problem.question, *routes, voting.render_regular(routes[0]), voting.render_extended(routes, answers)]
        for text in texts:
            ids = encode(tokenizer, text)
            assert tokenizer.unk_token_id not in ids and tokenizer.bos_token_id not in ids
            assert tokenizer.decode(ids) == text
        # a number is a token: factors and results, "\n* " and " = " for each step, box and bracket
        assert len(encode(tokenizer, routes[0])) == 1 + 4 * (len(factors_of(problem.question)) - 1) + 3


def test_a_number_is_one_token(tokenizer):
    ids = [encode(tokenizer, str(i)) for i in range(61)]
    assert all(len(i) == 1 for i in ids) and len({i[0] for i in ids}) == 61
    for i in (0, 7, 60):
        assert encode(tokenizer, f"\n* {i} = {i}")[1::2] == [ids[i][0]] * 2
    unknown = [tokenizer.unk_token_id]
    for text in ("61", "612", "07", "000", "1234567"):
        assert encode(tokenizer, text) == unknown  # not a 61 and a 2


def test_special_tokens(tokenizer):
    special = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id]
    assert len(set(special)) == 4 and None not in special
    assert len(tokenizer) == 6 + len(set(data.world_pieces() + voting.pieces()))


def test_tokenizer_survives_saving(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for condition in ("scot", "sv", "asv"):
        question = "Compute 40 * 7 * 33 * 12 modulo 61."
        assert voting.encode_prompt(again, question, condition) == voting.encode_prompt(tokenizer, question, condition)
    text = voting.render_regular("7\n* 33 = 48\n\\boxed{48}")
    assert encode(again, text) == encode(tokenizer, text) and again.decode(encode(again, text)) == text


# ---------------------------------------------------------------------------------------------------------------------
# Command line


def test_command_line():
    def run(*arguments):
        return subprocess.run([sys.executable, "data.py", *arguments], cwd=ROOT, text=True, capture_output=True)

    shown = run("--show", "60").stdout
    assert "level 1: 23,751 problems" in shown and shown.count("modulo 61.") == 300
    failed = run("--show", "-1")
    assert failed.returncode and failed.stderr.startswith("error: ") and failed.stderr.count("\n") == 1


def test_questions_are_read_back():
    """The right answer and the level of what somebody types; nothing of other questions."""
    for problem in data.load("builtin", "test", 50):
        factors = data.factors_of(problem.question)
        assert math.prod(factors) % data.MODULUS == int(problem.answer) and data.level_of(factors) == problem.level
    for other in ("What is 2 + 2?", "Compute 3 * 8 modulo 60.", "Compute 3 * 8 modulo 61", "compute 3 modulo 61."):
        assert data.factors_of(other) is None
    assert data.level_of([3, 8]) is None
