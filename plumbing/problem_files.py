r"""Problem files: .jsonl with one problem per line, such as MATH, MATH500 and GSM8K (Sec. 4-5 of the paper: MATH).

    {"problem": "What is $1 + 1$?", "answer": "2", "level": 1}

    problem     the question. GSM8K calls it "question"
    answer      what goes into \boxed{}: a text or a number. GSM8K as published has a worked solution here that ends in
                "#### 4"; what follows the #### is the answer
    level       1 (easy) to 5 (hard). "Level 3", "3" and 3.0 are 3
    n_steps     GSM8K has no levels; the number of calculation steps takes their place, with 0 as level 1 and all above
                5 as level 5. Where it is absent, the calculations of the worked solution are counted (<<2+2=4>>)

Other fields are ignored. Problems whose answer is null or empty, or whose level is 0 or "?", are left out, and a note
says how many. Anything else that is wrong raises DataError: one line with the file, the line number and what was
expected.

    python data.py path/to/math500.jsonl         # what a file holds: problems per level
"""

import json
import random
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from reprlib import repr as short

import grade

LEVELS = (1, 2, 3, 4, 5)
CHECKED = 1000  # at most so many answers of a file are tried with grade.py
EXAMPLE = '{"problem": "What is $1 + 1$?", "answer": "2", "level": 1}'


class DataError(ValueError):
    """A problem file that cannot be used; the message is one line that names the file and line."""


@dataclass(frozen=True)
class Problem:
    """A question with its right answer."""

    question: str
    answer: str  # what goes into \boxed{}
    level: int  # 1 (easy) to 5 (hard)
    solution: str | None = None  # a right worked solution ending in \boxed{answer}; built-in world only


class _Number(str):
    """A JSON number as it is written: 2.50 keeps its 0, and 1e999999999 stays eleven characters."""


def _written_out(number: _Number) -> str:
    """1e-5 -> 0.00001: an answer of 1e-5 would read as something with Euler's number."""
    try:
        value = Decimal(number)
    except ArithmeticError:  # an exponent beyond all bounds
        value = Decimal("Infinity")
    if not value.is_finite() or abs(value.adjusted()) > 100:
        raise ValueError(f"answer is {short(str(number))}; write a number as large or small as this in quotes")
    return f"{value:f}"


def _whole(value) -> int | None:
    """3, "3", and 3.0 as pandas writes it, are 3; what is no whole number is None."""
    found = re.fullmatch(r"(\d{1,9})(\.0*)?", str(value).strip(), re.ASCII)
    return int(found[1]) if found else None


def _problem(row) -> Problem | None:
    """One line of MATH / MATH500 ("problem", "answer", "level") or GSM8K ("question", "answer", "n_steps").

    None: its answer is null or empty, or its level 0 or "Level ?". The published MATH has a few of these.
    ValueError: it cannot be used, and why.
    """
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, such as {EXAMPLE}, not {short(row)}")
    if "answer" not in row:
        hint = "; it may be in the \\boxed{} of the solution: add it as a field" if "solution" in row else ""
        raise ValueError(f'needs an "answer"; the fields are {short(list(row))}{hint}')
    row = {name: value for name, value in row.items() if value is not None}
    question = row.get("problem", row.get("question"))
    if type(question) is not str or not question.strip():
        raise ValueError(f'needs a text as "problem" (or "question"); the fields are {short(list(row))}')
    answer = row.get("answer", "")
    if isinstance(answer, _Number):
        answer = _written_out(answer)
    if type(answer) is not str:
        raise ValueError(f'"answer" is {short(answer)}; expected a text or a number')
    if "\0" in question + answer:
        raise ValueError("the problem or answer holds a NUL character; remove it")
    try:
        (question + answer).encode()
    except UnicodeEncodeError:  # no tokenizer takes it
        raise ValueError("the problem or answer holds half a surrogate pair (\\ud800 to \\udfff); remove it") from None

    steps = row.get("n_steps")
    if "####" in answer:  # GSM8K as published: the worked solution, then #### and the answer
        working, _, answer = answer.rpartition("####")
        steps = working.count("<<") if steps is None else steps
    elif "question" in row and steps is None and isinstance(row.get("solution"), str):
        steps = row["solution"].count("<<")
    level = row.get("level")
    if level is None and steps is not None:  # GSM8K: the number of calculation steps, from 1 to 5
        count = _whole(steps)
        if count is None:
            raise ValueError(f'"n_steps" is {short(steps)}; expected a whole number')
        level = min(max(count, 1), 5)
    known = str(level).removeprefix("Level ").strip()  # "Level 3", as MATH was published
    number = _whole(known)
    if not answer.strip() or known == "?" or number == 0:
        return None
    if number not in LEVELS:
        what = "missing" if level is None else short(level)
        raise ValueError(f'"level" is {what}; expected 1 to 5 (or "n_steps", for GSM8K)')
    return Problem(question, answer.strip(), number)


def _numbered(path: Path) -> Iterator[tuple[int, Problem | None]]:
    """Line number and problem of every line that is not blank. DataError as in read_jsonl."""
    try:
        if not path.exists():
            raise DataError(f"{path}: no such file; give a .jsonl file, or builtin for the built-in problems")
        if not path.is_file():  # a pipe would wait for ever
            raise DataError(f"{path}: not a file; give a .jsonl file, one problem per line")
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        lines = content.decode("utf-8-sig").split("\n")  # splitlines() would cut at U+2028 as well
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {number}: is not UTF-8 text; convert the file") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_int=_Number, parse_float=_Number, parse_constant=_Number)
            problem = _problem(row)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number}: is not JSON ({error.msg}, column {error.colno}); expected one "
                            f"object per line, such as {EXAMPLE}") from None
        except RecursionError:
            raise DataError(f"{path}, line {number}: is nested too deeply") from None
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}") from None
        yield number, problem


def read_jsonl(path: str | Path) -> list[Problem]:
    """All usable problems of a .jsonl file, in order. DataError, in one line: the file and line, and what is wrong."""
    problems = [problem for _, problem in _numbered(Path(path))]
    usable = [problem for problem in problems if problem is not None]
    if not usable:
        raise DataError(f"{path}: holds no problems; expected one per line, such as {EXAMPLE}")
    if len(usable) < len(problems):
        print(f"note: {path}: left out {len(problems) - len(usable)} of {len(problems)} problems, "
              "which have no answer or no level", file=sys.stderr)
    tried = usable if len(usable) <= CHECKED else random.Random(0).sample(usable, CHECKED)
    unread = sum(not grade.parses(problem.answer) for problem in tried)
    if unread:
        drawn = "" if len(tried) == len(usable) else " drawn from it"
        print(f"note: {path}: {unread} of {len(tried)} answers{drawn} are no formula to grade.py, and are compared as "
              "text", file=sys.stderr)
    return usable


def line_of(problem: Problem, path: str | Path) -> int | None:
    """The line of a file that holds this problem; None if there is none.

    It reads the file again, so that problems need not carry where they come from.
    """
    return next((number for number, found in _numbered(Path(path)) if found == problem), None)
