r"""plumbing/problem_files.py: .jsonl files as they are published, odd ones, and broken ones.

    python -m pytest tests/test_problem_files.py
    IBPO_DATA=DIR python -m pytest tests/test_problem_files.py    # where math500.jsonl, gsm8k_test.jsonl, .. lie

The published files are looked for in ../shared/data if IBPO_DATA is not set; their tests are skipped without them.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import data
import grade
from plumbing.problem_files import CHECKED, LEVELS, DataError, Problem, line_of, read_jsonl

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("IBPO_DATA", ROOT.parent / "shared" / "data"))

MATH = {"problem": "What is $1 + 1$?", "solution": "It is $\\boxed{2}.$", "answer": "2", "subject": "Algebra",
        "level": 3, "unique_id": "test/algebra/1.json"}
GSM8K = {"question": "Two and two?", "solution": "2 + 2 = <<2+2=4>>4\n#### 4", "answer": "4", "n_steps": 2}


def write(path, *rows) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def read_one(tmp_path, row) -> Problem:
    (problem,) = data.load(write(tmp_path / "one.jsonl", row), "test")
    return problem


def test_math(tmp_path):
    assert read_one(tmp_path, MATH) == Problem("What is $1 + 1$?", "2", 3)  # no solution: the model's own stand in
    assert read_one(tmp_path, {**MATH, "level": "Level 5"}).level == 5
    assert read_one(tmp_path, {"problem": "x", "answer": 7, "level": "1"}) == Problem("x", "7", 1)


@pytest.mark.parametrize("steps, level", [(0, 1), (1, 1), (2, 2), (5, 5), (6, 5), (9, 5)])
def test_gsm8k_level_is_the_number_of_steps(tmp_path, steps, level):
    assert read_one(tmp_path, {**GSM8K, "n_steps": steps}) == Problem("Two and two?", "4", level)
    working = "<<2+2=4>>4 " * steps
    published = {"question": "Two and two?", "answer": working + "\n#### 4"}
    assert read_one(tmp_path, published) == Problem("Two and two?", "4", level)
    counted = {key: value for key, value in {**GSM8K, "solution": working}.items() if key != "n_steps"}
    assert read_one(tmp_path, counted).level == level


def test_text_is_read_as_it_is(tmp_path):
    r"""Unicode, LaTeX, blank lines, and U+2028, which str.splitlines() takes for the end of a line."""
    odd = "Janet’s é \u2028 \u0085 \\frac{1}{2}\nnext"
    path = write(tmp_path / "odd.jsonl", {**MATH, "problem": odd}, "", "  ", MATH)
    assert Counter(p.question for p in data.load(path, "train")) == {odd: 1, MATH["problem"]: 1}
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert len(read_jsonl(path)) == 2


def test_numbers_are_read_as_they_are_written(tmp_path):
    """As 1e-05 the answer would be something with Euler's number; a byte order mark is no part of line 1."""
    rows = [f'{{"problem": "{i}", "answer": {answer}, "level": 1}}'
            for i, answer in enumerate(("0.00001", "1e-5", "1e22", "2.50", "3.0", "-7"))]
    path = write(tmp_path / "numbers.jsonl", *rows)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    answers = [problem.answer for problem in read_jsonl(path)]
    assert answers == ["0.00001", "0.00001", "1" + 22 * "0", "2.50", "3.0", "-7"]


@pytest.mark.parametrize("level", [3, 3.0, "3", "3.0", "Level 3", "Level 3.0"])
def test_level_is_a_whole_number_however_it_is_written(tmp_path, level):
    """pandas writes a column with an empty cell as 3.0."""
    assert read_one(tmp_path, {**MATH, "level": level}).level == 3


@pytest.mark.parametrize("steps", [4, 4.0, "4", "4.0"])
def test_steps_are_a_whole_number_however_they_are_written(tmp_path, steps):
    assert read_one(tmp_path, {**GSM8K, "n_steps": steps}).level == 4


def test_rows_of_a_joined_table(tmp_path):
    """MATH and GSM8K in one table: the fields that a row does not have are null."""
    rows = [{**dict.fromkeys(GSM8K), **MATH, "level": 2.0}, {**dict.fromkeys(MATH), **GSM8K, "n_steps": 4.0}]
    problems = read_jsonl(write(tmp_path / "joined.jsonl", *rows))
    assert problems == [Problem("What is $1 + 1$?", "2", 2), Problem("Two and two?", "4", 4)]


def test_a_large_file_is_not_graded_answer_by_answer(tmp_path, capsys, monkeypatch):
    """Whether grade.py reads the answers is tried on a sample, and the note says so."""
    tried = []
    monkeypatch.setattr(grade, "parses", lambda answer: tried.append(answer) or answer.endswith("7"))
    path = write(tmp_path / "large.jsonl", *({**MATH, "answer": str(i)} for i in range(CHECKED + 1)))
    assert len(read_jsonl(path)) == CHECKED + 1 and len(set(tried)) == CHECKED
    unread = sum(not answer.endswith("7") for answer in tried)
    assert f"{unread} of {CHECKED} answers drawn from it are no formula" in capsys.readouterr().err
    tried.clear()
    path = write(tmp_path / "small.jsonl", *({**MATH, "answer": str(i)} for i in range(20)))
    read_jsonl(path)
    assert len(tried) == 20 and "18 of 20 answers are no formula" in capsys.readouterr().err


def test_place_of_a_problem(tmp_path):
    path = write(tmp_path / "some.jsonl", "", MATH, {**MATH, "answer": None}, {**MATH, "problem": "y"}, MATH)
    for problem in data.load(path, "train"):
        line = {"y": 4}.get(problem.question, 2)  # of equal problems the first
        assert data.place_of(problem, path) == f"{path}, line {line}"
    assert line_of(Problem("y", "2", 4), path) is None  # another level
    (problem,) = data.load("builtin", "train", 1)
    assert data.place_of(problem, "builtin").startswith("builtin, 'Compute ")


def test_order_is_seeded_and_a_count_is_a_sample(tmp_path):
    path = write(tmp_path / "many.jsonl", *({**MATH, "problem": str(i)} for i in range(200)))
    whole = [p.question for p in data.load(path, "train", seed=1)]
    assert sorted(whole, key=int) == [str(i) for i in range(200)] and whole != sorted(whole, key=int)
    assert [p.question for p in data.load(path, "train", 50, seed=1)] == whole[:50]
    assert [p.question for p in data.load(path, "train", seed=2)] != whole
    assert len(data.load(path, "train", 999)) == 200


UNUSABLE = [{**MATH, "answer": None}, {**MATH, "answer": " "}, {**MATH, "level": 0}, {**MATH, "level": "Level ?"}]


@pytest.mark.parametrize("row", UNUSABLE)
def test_unknown_answer_or_level_is_left_out_and_said(tmp_path, capsys, row):
    path = write(tmp_path / "some.jsonl", row, MATH, MATH)
    assert len(data.load(path, "train")) == 2
    assert "left out 1 of 3" in capsys.readouterr().err
    with pytest.raises(DataError, match="no problems"):
        data.load(write(path, row), "train")


BROKEN = {
    "not JSON": ('{"problem": "x", ', "line 2: is not JSON (Expecting property name"),
    "a line of CSV": ("problem,answer,level", "line 2: is not JSON"),
    "the end of a list of objects": ("]", "line 2: is not JSON"),
    "a NUL byte": ('{"problem": "\0", "answer": "2", "level": 1}', "line 2: is not JSON (Invalid control character"),
    "an escaped NUL": ({**MATH, "problem": "\0"}, "line 2: the problem or answer holds a NUL"),
    "a list": ("[1, 2]", "line 2: expected a JSON object"),
    "a number": ("7", "line 2: expected a JSON object"),
    "too deep": ("[" * 100_000, "line 2: is nested too deeply"),
    "too deep, closed": ('{"a": ' * 100_000 + "1" + "}" * 100_000, "line 2: is nested too deeply"),
    "no problem": ({"answer": "1", "level": 2}, "line 2: needs a text as \"problem\" (or"),
    "empty problem": ({**MATH, "problem": " "}, 'line 2: needs a text as "problem"'),
    "problem is a number": ({**MATH, "problem": 7}, 'line 2: needs a text as "problem"'),
    "no answer": ({"problem": "x", "level": 2}, "line 2: needs an \"answer\"; the fields are ['problem', 'level']"),
    "answer in the solution only": ({"problem": "x", "solution": "\\boxed{2}", "level": 2}, "boxed{} of the solution"),
    "answer is a list": ({**MATH, "answer": ["2"]}, "\"answer\" is ['2']; expected a text or a number"),
    "answer is a truth value": ({**MATH, "answer": True}, '"answer" is True'),
    "answer is no number": ('{"problem": "x", "answer": NaN, "level": 1}', "line 2: answer is 'NaN'"),
    "answer is enormous": ('{"problem": "x", "answer": 1e999999999, "level": 1}', "line 2: answer is '1e999999999'"),
    "answer is tiny": ('{"problem": "x", "answer": -1e-999999999, "level": 1}', "line 2: answer is '-1e-999999999'"),
    "exponent is enormous": (f'{{"problem": "x", "answer": 1e{"9" * 50}, "level": 1}}', "line 2: answer is '1e999"),
    "10,000 digits": (f'{{"problem": "x", "answer": {"9" * 10_000}, "level": 1}}', "line 2: answer is '9999"),
    "no level": ({"problem": "x", "answer": "2"}, 'line 2: "level" is missing; expected 1 to 5'),
    "level 6": ({**MATH, "level": 6}, "line 2: \"level\" is '6'; expected 1 to 5"),
    "level -1": ({**MATH, "level": -1}, "line 2: \"level\" is '-1'"),
    "level 2.5": ({**MATH, "level": 2.5}, "line 2: \"level\" is '2.5'"),
    "level is a word": ({**MATH, "level": "hard"}, "line 2: \"level\" is 'hard'"),
    "level is infinite": ('{"problem": "x", "answer": "2", "level": Infinity}', "line 2: \"level\" is 'Infinity'"),
    "level is enormous": ('{"problem": "x", "answer": "2", "level": 1e999999999}', "line 2: \"level\" is '1e999"),
    "steps are a word": ({**GSM8K, "n_steps": "two"}, "line 2: \"n_steps\" is 'two'"),
    "half a surrogate pair": ('{"problem": "x \\ud800", "answer": "2", "level": 1}', "holds half a surrogate pair"),
    "long nonsense": ({"x" * 100_000: 1, "answer": "2"}, "line 2: needs a text"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_line_is_named(tmp_path, kind):
    row, message = BROKEN[kind]
    path = write(tmp_path / "broken.jsonl", MATH, row, MATH)
    with pytest.raises(DataError) as error:
        data.load(path, "train")
    text = str(error.value)
    assert text.startswith(str(path)) and message in text and "\n" not in text
    assert len(text) < len(str(path)) + 300 and text.isprintable()


LATIN1 = b'{"problem": "caf\xe9", "answer": "1", "level": 1}\n'
MATH_LINE = json.dumps(MATH).encode() + b"\n"


@pytest.mark.parametrize("content, message", [
    (b"", "holds no problems; expected one per line"), (b"\n \n", "holds no problems"),
    (MATH_LINE + LATIN1, "line 2: is not UTF-8"), (b"\x1f\x8b\x08\x00", "line 1: is not UTF-8"),
    (b"\0" * 100, "line 1: is not JSON"), (MATH_LINE.decode().encode("utf-16"), "line 1: is not UTF-8"),
    (b"[\n" + MATH_LINE + b"]\n", "line 1: is not JSON"),
])
def test_broken_file_is_named(tmp_path, content: bytes, message: str):
    path = tmp_path / "broken.jsonl"
    path.write_bytes(content)
    check_refused(path, message)


def test_what_is_no_file_is_named(tmp_path):
    """And nothing is waited for: a pipe without a writer would be read for ever."""
    check_refused(tmp_path / "none.jsonl", "no such file")
    check_refused(tmp_path, "not a file")
    check_refused(tmp_path / ("x" * 5000), "cannot be read")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        check_refused(tmp_path / "pipe", "not a file")


def check_refused(path: Path, message: str) -> None:
    with pytest.raises(DataError) as error:
        data.load(path, "train")
    text = str(error.value)
    assert text.startswith(str(path)) and message in text and "\n" not in text


PUBLISHED = {"math500": 500, "math_train": 7468, "gsm8k_train": 7473, "gsm8k_test": 1319}  # usable problems


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_file(name):
    path = DATA / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not there; set IBPO_DATA to the folder that holds it")
    problems = data.load(path, "train")
    assert len(problems) == PUBLISHED[name]
    assert {p.level for p in problems} == set(LEVELS)
    assert all(p.answer and p.answer == p.answer.strip() and "####" not in p.answer for p in problems)
    assert all(p.solution is None for p in problems)
    if name in ("math500", "gsm8k_test"):  # the answer is the one that the published solution ends with
        rows = {row.get("problem", row.get("question")): row for row in map(json.loads, path.open(encoding="utf-8"))}
        assert all(grade.equal(p.answer, grade.extract(rows[p.question]["solution"])) for p in problems)


def test_command_line(tmp_path):
    def run(path):
        return subprocess.run([sys.executable, "data.py", path], cwd=ROOT, text=True, capture_output=True)

    shown = run(write(tmp_path / "two.jsonl", MATH, MATH)).stdout
    assert "level 3: 2 problems" in shown and shown.count(MATH["problem"]) == 2
    for missing in (tmp_path / "none.jsonl", "What is 2 + 2?"):
        failed = run(missing)
        assert failed.returncode and failed.stderr.startswith("error: ") and failed.stderr.count("\n") == 1
