"""recipes/word_problems.py: answers by a second reader of the questions, splits, levels and seeds.

    pytest tests/test_word_problems.py
"""

import json
import re
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

import data
import grade
import voting

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "recipes"))
import word_problems  # noqa: E402

PROBLEMS = {split: list(islice(word_problems.generate(split, 5), 600)) for split in data.SPLITS}
ALL = [problem for problems in PROBLEMS.values() for problem in problems]

# What English verbs do to a number; a sentence that none of these fits adds to it.
LESS = (r"loses|to each of|cook takes|customers buy|spends|books for|get off|throws out|hotel|storm|picks|washes|cans|"
        r"stay at home|fox|sells \d+ boxes|given back|masons|bricks break")
SHARED = r"sorts|nets|shares|stand on|packs all|stand in|used up|walk in groups|packed into|carried off|covers"
TIMES = r"cents per apple|has paid|in a year|seeds|pays|lines|exactly this|costs"

BY_HAND = {  # read and solved by a person, one problem of each story
    "To warm up Femi runs 71 metres. Femi adds a sprint of 4 metres. To cool down Femi jogs 88 metres. Femi does "
    "exactly this on 4 days. How many metres is that altogether?": 652,
    "A bus leaves the station with 104 passengers. At a stop 25 people get on. At a stop 17 people get off. Each "
    "passenger then on the bus has paid 4 dollars. How many dollars have these passengers paid?": 448,
    "Hana has a jar with 47 marbles. Ivo gives Hana 51 marbles. Hana loses 90 marbles in the grass. Hana sorts "
    "all the marbles into 4 bags, the same number in each. How many marbles are in one bag?": 2,
    "Femi has saved 25 dollars. Femi walks dogs for 8 hours and gets 9 dollars per hour. For a birthday Femi gets "
    "69 dollars. How many dollars does Femi have in the end?": 166,
    "For a class trip 45 people have signed up. Then 50 parents sign up, too. Because of a cold 30 people stay at "
    "home. Everyone who goes pays 2 dollars. How many dollars is that in all?": 130,
    "A market stall opens with 55 apples. The farmer brings 20 more apples. A cart brings 9 crates with 2 apples "
    "in each. How many apples are left at the stall?": 93,
    "By noon a cinema has sold 29 tickets for the evening. At the door it sells 75 more. Then 87 tickets are "
    "given back. At the door it sells 83 more. How many tickets are sold in the end?": 100,
    "A rain tank holds 74 litres. A pump runs for 8 minutes and adds 19 litres per minute. Dev washes the car "
    "with 3 litres. How many litres are in the tank then?": 223,
    "At a building site 89 bricks are piled up. Falling down, 6 bricks break. Wen finds 89 good bricks behind the "
    "shed. They are carried off in 4 equal loads. How many bricks are in a load?": 43,
    "A village library owns 51 books. A reader donates 53 books. The library throws out 39 damaged books. All its "
    "books stand on 5 shelves, equally many on each. How many books are on a shelf?": 13,
    "Omar has read 96 pages of a long novel. While waiting for Pia, Omar reads another 53 pages. On the train "
    "Omar reads 37 pages. While waiting for Pia, Omar reads another 75 pages. How many pages has Omar read by "
    "now?": 261,
    "A baker has 28 rolls on the counter. An apprentice brings 36 rolls from the back. Next, 6 customers buy 6 "
    "rolls each. How many rolls are on the counter now?": 28,
    "On a farm 64 eggs lie in the store. During the week 9 hens lay 16 eggs each. They are packed into cartons of "
    "2. How many cartons are there?": 104,
    "In spring Ivo counts 145 tulips in the garden. Another 32 tulips come up. A storm breaks 34 tulips. Yara "
    "sees that they stand in 11 beds, equally many in each. How many tulips are in a bed?": 13,
    "Quinn drives 145 kilometres before breakfast. After that Quinn drives for 9 hours at 8 kilometres per hour. "
    "Quinn makes this same journey 5 times in a year. How many kilometres is that in the year?": 1085,
}


def read(question: str) -> tuple[int, int]:
    """The answer to a question, and the number of steps, from its text alone."""
    first, *sentences = re.split(r"(?<=[.?]) ", question)
    (value,), steps = map(int, re.findall(r"\d+", first)), 0
    for sentence in sentences:
        numbers = [int(number) for number in re.findall(r"\d+", sentence)]
        if not numbers:  # the question
            continue
        steps += len(numbers)
        if re.search(SHARED, sentence):
            assert len(numbers) == 1 and value % numbers[0] == 0
            value //= numbers[0]
        elif re.search(TIMES, sentence):
            value *= numbers[0]
        else:
            change = numbers[0] * (numbers[1] if len(numbers) == 2 else 1)
            value += -change if re.search(LESS, sentence) else change
    return value, steps


def test_a_second_reader_finds_the_same_answer_and_as_many_steps():
    for problem in ALL:
        assert read(problem.question) == (problem.answer, problem.steps), problem.question


def test_solutions_are_right_line_by_line():
    """Each number comes from the question or from an earlier line, and every number of the question is used."""
    for problem in ALL:
        *lines, last = problem.solution.split("\n")
        assert len(lines) == problem.steps and last == f"\\boxed{{{problem.answer}}}"
        known, used = Counter(map(int, re.findall(r"\d+", problem.question))), Counter()
        results = []
        for line in lines:
            a, operation, b, result = re.search(r": (\d+) ([-+*/]) (\d+) = (\d+)", line).groups()
            a, b, result = int(a), int(b), int(result)
            if operation == "/":
                assert b * result == a
            else:
                assert {"+": a + b, "-": a - b, "*": a * b}[operation] == result > 0
            for number in (a, b):
                if number in results:
                    results.remove(number)
                else:
                    used[number] += 1
            results.append(result)
        assert used == known and results == [problem.answer]
        assert grade.extract(problem.solution) == str(problem.answer)


def test_the_second_reader_reads_as_a_person_does():
    assert len(BY_HAND) == len(word_problems.STORIES)
    for question, answer in BY_HAND.items():
        assert read(question)[0] == answer, question


def test_splits_are_disjoint_and_problems_different():
    keys = {split: {problem.key for problem in problems} for split, problems in PROBLEMS.items()}
    assert all(len(keys[split]) == 600 == len({p.question for p in PROBLEMS[split]}) for split in keys)
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not keys[one] & keys[other]

    def without_names(split: str) -> set[str]:
        return {re.sub("|".join(word_problems.NAMES), "X", problem.question) for problem in PROBLEMS[split]}

    assert not without_names("train") & (without_names("test") | without_names("validation"))


def test_levels_and_stories_come_evenly():
    levels = Counter(problem.steps for problem in PROBLEMS["train"])
    assert set(levels.values()) == {120} and set(levels) == set(data.LEVELS)
    assert len(word_problems.STORIES) >= 12
    seen = Counter(problem.key.split("'")[1] for problem in ALL)
    assert set(seen) == set(word_problems.STORIES) and max(seen.values()) < 3 * min(seen.values())
    for story in word_problems.STORIES.values():
        assert all(move.kind in ("*", "/") for move in story.ends)
        assert all(move.kind in ("+", "-", "+*", "-*") for move in story.moves)


def test_the_seed_decides():
    again = list(islice(word_problems.generate("test", 5), 50))
    assert again == PROBLEMS["test"][:50]
    assert [p.question for p in islice(word_problems.generate("test", 6), 50)] != [p.question for p in again]


def test_files_that_data_reads(tmp_path, capsys):
    word_problems.main(["--out", str(tmp_path), "--train", "40", "--validation", "10", "--test", "20"])
    for split, count in (("train", 40), ("validation", 10), ("test", 20)):
        problems = data.read_jsonl(tmp_path / f"{split}.jsonl")
        made = list(islice(word_problems.generate(split, 0), count))
        assert [(p.question, p.answer, p.level) for p in problems] == [
            (p.question, str(p.answer), p.steps) for p in made]
    with pytest.raises(SystemExit):
        word_problems.main(["--train", "0"])
    with pytest.raises(SystemExit) as stop:
        word_problems.main(["--out", str(tmp_path / "test.jsonl")])
    assert "File exists" in stop.value.code


def test_where_there_are_no_more_problems_this_is_said(monkeypatch):
    one = next(p for p in PROBLEMS["train"] if p.steps == 1)
    monkeypatch.setattr(word_problems, "compose", lambda steps, rng: one)
    problems = word_problems.generate("train")
    assert next(problems) == one
    with pytest.raises(data.DataError, match="no more problems of level 2 for train"):
        next(problems)


def test_mistakes_are_wrong_sums_or_wrong_plans(tmp_path, capsys):
    texts = ["5 + 5 = 10.\n\\boxed{10}", "5 + 5 = 11.\n\\boxed{11}", "5 - 5 = 0.\n\\boxed{0}",
             "[TRIAL]5 + 5 = 11. \\boxed{11}[/TRIAL]7 / 2 = 3", "5 + 5 = 10."]
    header = {"condition": "scot", "temperature": 1.0, "problems": 1}
    row = {"question": "5 + 5?", "answer": "10", "level": 2,
           "responses": [{"text": text, "finished": True, "tokens": 9} for text in texts]}
    record = tmp_path / "model.jsonl"
    record.write_text(json.dumps(header) + "\n" + json.dumps(row) + "\n")
    word_problems.main(["--mistakes", str(record)])
    _, level, trials = capsys.readouterr().out.splitlines()
    assert level == ("level 2:  20.0 % right,  40.0 % miscalculated,  20.0 % wrong in another way,  20.0 % malformed")
    # pairs with two answers: 10 and 11, 11 and 0, 0 and 11
    assert trials.endswith("two trials; first trials: 33.3 %, second: 0.0 %; a wrong answer comes again at once: 0.0 %")
    votes = [["10", "11", "10", "10"], ["11", "11", "10", "11"], ["12", "10", "10", "10"]]
    row["responses"] = [{"text": voting.render_extended([f"\\boxed{{{answer}}}" for answer in answers], answers),
                         "finished": True, "tokens": 9} for answers in votes]
    record.write_text(json.dumps(header | {"condition": "sv"}) + "\n" + json.dumps(row) + "\n")
    word_problems.main(["--mistakes", str(record)])
    assert capsys.readouterr().out.splitlines()[2] == ("votes: 66.7 % are right; first trials: 33.3 %, second: 33.3 %; "
                                                       "a wrong answer comes again at once: 50.0 %")
    record.write_text("{}")
    with pytest.raises(SystemExit) as stop:
        word_problems.main(["--mistakes", str(record)])
    assert "not a record of responses" in stop.value.code
