"""experiments/arithmetic.py: steps counted by hand, in a record of the base and in one of votes.

    pytest tests/test_arithmetic.py
"""

import sys

import pytest

import data
import voting
from experiments import arithmetic
from plumbing.records import write_record


def solution(first: int, *steps: tuple[int, int]) -> str:
    lines = [str(first), *(f"* {factor} = {result}" for factor, result in steps)]
    return "\n".join([*lines, f"\\boxed{{{steps[-1][1]}}}"])


def write(path, condition: str, question: str, texts: list[str]) -> None:
    problem = data.Problem(question, "1", 1)
    write_record(path, [problem], {"condition": condition, "temperature": 1.0},
                 [[{"text": text, "tokens": 9, "finished": True} for text in texts]])


def test_steps_by_hand(tmp_path, monkeypatch, capsys):
    modulus = data.KINDS["medium"].modulus
    book = data.Textbook(0)
    weak, awkward = min(book.weak[modulus]), min(book.awkward[modulus])
    plain = min({*range(2, modulus)} - book.weak[modulus])
    product, other = weak * awkward % modulus, plain * 3 % modulus
    question = f"Compute {weak} * {awkward} * {plain} modulo {modulus}."
    right, wrong = solution(weak, (awkward, product)), solution(weak, (awkward, product % (modulus - 1) + 1))
    write(tmp_path / "base.jsonl", "scot", question, [right, wrong, wrong, solution(plain, (3, other)), "no steps"])
    trials = [right, right, solution(plain, (3, other % (modulus - 1) + 1))]
    write(tmp_path / "vote.jsonl", "sv", question, [voting.render_extended(trials, ["1", "1", "2"])])
    monkeypatch.setattr(sys, "argv", ["arithmetic.py", *map(str, sorted(tmp_path.iterdir()))])
    arithmetic.main()
    base, vote = [line for line in capsys.readouterr().out.splitlines() if ".jsonl" in line]
    assert "| 75.0 / 33.3 / 100.0 | – / – / – |" in base  # three of four steps are misprinted, one of these is right
    assert "| 100.0 / 100.0 / – |" in vote  # its first trial


def test_what_is_no_record_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "x.jsonl").write_text("{}\n")
    for path, question in (("x.jsonl", None), ("y.jsonl", "What is 2 + 2?"), ("nowhere.jsonl", None)):
        if question:
            write(tmp_path / path, "scot", question, ["4"])
        monkeypatch.setattr(sys, "argv", ["arithmetic.py", str(tmp_path / path)])
        with pytest.raises(SystemExit) as stop:
            arithmetic.main()
        assert str(stop.value).startswith("error: ") and "\n" not in str(stop.value)
