r"""grade.py against tables of pairs, random spellings, real problems, Math-Verify, and hostile strings.

    python -m pytest tests/test_grade.py
    IBPO_DATA=DIR python -m pytest tests/test_grade.py  # where grading_pairs.jsonl, math500.jsonl, .. lie

The files are looked for in ../shared/data if IBPO_DATA is not set; without them their tests are skipped.
The full comparison with Math-Verify is a script: bench/grade.py.
"""
import importlib.util
import itertools
import json
import random
import re
import string
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import pytest

import grade
from plumbing import formulas, latex

BENCH = Path(grade.__file__).parent / "bench" / "grade.py"
specification = importlib.util.spec_from_file_location("bench_grade", BENCH)
bench_grade = importlib.util.module_from_spec(specification)
specification.loader.exec_module(bench_grade)


def load(name: str) -> list[dict]:
    if not (bench_grade.DATA / name).exists():
        pytest.skip(f"{bench_grade.DATA / name} is not there: set IBPO_DATA to the directory that holds it")
    return [json.loads(line) for line in (bench_grade.DATA / name).read_text(encoding="utf-8").splitlines()]


def read_classes() -> dict[str, list[tuple[str, bool, str]]]:
    """Class -> (gold, right or wrong, prediction), ..: the pairs of answers.txt."""
    text = Path(__file__).with_name("answers.txt").read_text(encoding="utf-8")
    classes = {}
    for part in re.split(r"^# ", text, flags=re.MULTILINE)[1:]:
        name, *lines = part.split("\n")
        pairs = [re.split(" (==|!=) ", line) for line in lines if line]
        classes[name] = [(gold, sign == "==", prediction) for gold, sign, prediction in pairs]
    return classes


CLASSES = read_classes()
GOLDS = list(dict.fromkeys(gold for pairs in CLASSES.values() for gold, _, _ in pairs))
EXTRACT = [                                                                 # text, what is extracted
    (r"\(\boxed{3}\), \(\boxed{4}\)", "3, 4"),
    (r"\(x=\boxed{3}\) or \(x=\boxed{4}\)", "3, 4"),
    (r"\[\boxed{3}\] and \[\boxed{4}\]", "3, 4"),
    (r"$a_1=\boxed{3}$ and $a_2=\boxed{4}$", "3, 4"),
    (r"$x_{1} = \boxed{3}$, $x_{2} = \boxed{4}$.", "3, 4"),
    (r"$\boxed{3} \text{ and } \boxed{4}$", "3, 4"),
    (r"$\boxed{3},\ \boxed{4},\ \text{and } \boxed{5}$", "3, 4, 5"),
    (r"$\boxed{3} \quad \text{or} \quad \boxed{4}$", "3, 4"),
    (r"$\boxed{3}; \boxed{4}$", "3, 4"),
    (r"First $\boxed{3}$. But this is wrong: $\boxed{4}$", "4"),
    (r"$\boxed{3}$, which gives $\boxed{4}$", "4"),
    (r"\boxed{\begin{bmatrix}1\\{3}\end{bmatrix}}", r"\begin{bmatrix}1\\{3}\end{bmatrix}"),
    (r"\boxed{\begin{pmatrix}{1}\\\frac{1}{2}\end{pmatrix}}", r"\begin{pmatrix}{1}\\\frac{1}{2}\end{pmatrix}"),
    (r"\boxed{\left\{1,2\right\}}", r"\left\{1,2\right\}"),
    (r"$\boxed\frac{3}{4}$", r"\frac{3}{4}"), (r"$\boxed\frac34$.", r"\frac34"),
    (r"\(\boxed\sqrt{3}\)", r"\sqrt{3}"), (r"$\boxed \frac{\sqrt{3}}{2}$", r"\frac{\sqrt{3}}{2}"),
    (r"$\boxed\pi$", r"\pi"), (r"so $\boxed 7.$", "7"), (r"\boxed\text{no}", r"\text{no}"),
    (r"$$\boxed-3$$", "-3"), (r"{\boxed 7}", "7"), (r"$\boxed\frac{3}{4", None),
    ("**Answer**: 9", "9"), ("**Answer:** 9", "9"), ("**Answer**\n9", "9"), ("**Final Answer:** 9", "9"),
    ("**Final Answer**: $9$", "9"), ("**Final answer**\n\n\\(9\\)", "9"), ("### Answer\n\n9", "9"),
    ("### Final Answer\n$$9$$", "9"), ("## Answer: 9", "9"), ("Answer: $9$", "9"), ("Answer = 9", "9"),
    ("*Answer*: 9", "9"), ("__Answer__: 9", "9"), ("**The answer is 9.**", "9"), ("The answer is **9**.", "9"),
    ("The answer is:\n\n9", "9"), ("The answer is\n\\[\n9\n\\]", "9"), ("The final answer is:\n$$9$$\nDone.", "9"),
    ("The answer is: \\[9\\]", "9"), ("Answer:\n$$\n\\frac{1}{2}\n$$", r"\frac{1}{2}"),
    ("The answer is 9.\n\n#### Check\nIt is right.", "9"), ("The answer is 9.\n\n#### 1. Check\nFine.", "9"),
    ("The answer is 9.\n\n#### Step 2: check", "9"),
    ("The answer is 8.\n#### 9.\nDone.", "9"), ("so 4 + 5 = 9\n#### 9", "9"), ("#### -9", "-9"),
    ("#### $9", "9"), ("#### 1,009", "1,009"), ("#### \\frac12", r"\frac12"), ("#### x = 9", "x = 9"),
    ("#### no", "no"), ("The answer is 4.\n#### 9", "9"),
    ("I have no answer", None), ("The answer", None), ("Answer:", None), ("**Answer**", None), ("####", None),
    ("The answer to this is unclear", None),
]
RIGHT = [                                                                   # gold, a response that gives it
    ("72", "The answer is 72, so she earned $72."), ("72", "The answer is 72, which is even."),
    ("72", "The answer is 72, because 70 + 2 = 72."), ("72", "The answer is 72 because 70 + 2 = 72."),
    ("72", "The answer is 72 since 70 + 2 = 72."), ("72", "The answer is $72$, as required."),
    ("72", "The answer is 72 dollars, so she can pay."), ("72", "The answer is 72 dollars per week."),
    ("72", "Answer: **72** apples"), ("72", "**Answer: 72** apples"), ("72", "Answer: **\\$72**"),
    ("72", "The final answer is **72 apples**."), ("72", "#### 72 apples"), ("72", "#### **72**"),
    ("72", "The answer is $72$ cm."), ("72", "The answer is \\(72\\) cm."), ("72", "The answer is \\(72\\), as above"),
    ("72", "The answer is x = 72, where x is the number of cows."), ("72", "**Final Answer**\n\n72 residents"),
    ("2, 3", "The answer is 2, 3."), ("2, 3", "The answer is 2 and 3."), ("2, 3, 4", "The answer is 2, 3, and 4."),
    (r"\text{blue}", "The answer is blue."), (r"\text{Ann}", "**Answer**: Ann"), ("2^3", "The answer is 2**3"),
    (r"\frac12", "The answer is $\\frac{1}{2}$, or 0.5."), (r"1, \sqrt{2}", "The answer is 1, sqrt(2)."),
    (r"\frac{1}{2}", r"Hence $\boxed\frac12$."), ("1, 2", r"\(\boxed{1}\) and \(\boxed{2}\)"),
]
WRONG = [                                                                   # gold, a response that does not
    ("3", "The answer is $3$ dozen."), ("3", "The answer is 3, 4."), ("3", "The answer is **3** million."),
    ("3", "#### 3 hundred"), ("1", "The answer is 1, sqrt(2)."), ("72", "The answer is 71, so 72 is wrong."),
    ("4", "The answer is 9.\n\n#### Step 4"), ("2", r"\(\boxed{1}\) and \(\boxed{2}\)"), ("3", "The answer is not 3."),
]


@pytest.mark.parametrize("name", CLASSES)
def test_classes_of_answers(name):
    assert [(gold, prediction) for gold, truth, prediction in CLASSES[name]
            if grade.equal(gold, prediction) != truth] == []


def test_reported_faults():
    """Cases found by reading, extraction and grading; the classes above are of their kinds."""
    wrong = []
    for case in load("answer_faults.jsonl"):
        answer = grade.extract(case["input"]) if "input" in case else case["prediction"]
        got = answer if case["area"] == "grade.extract" else grade.equal(case["gold"], answer)
        if got != case["expected"]:
            wrong.append(case)
    assert wrong == []


def test_names_are_independent():
    """Of two names: signs and parities differ somewhere, and both are above 0 often enough for \\ln and \\binom."""
    names = [*string.ascii_lowercase, *"ANPX", r"\alpha", r"\theta", "x_1", "x_2"]
    for a, b in random.Random(3).sample(list(itertools.combinations(names, 2)), 200):
        for gold, wrong in (rf"(-1)^{{{a}+{b}}}", "1"), (rf"(-1)^{{{a}+{b}}}", "-1"), (rf"|{a} {b}|", rf"{a} {b}"):
            assert not grade.equal(gold, wrong), (gold, wrong)
        if "i" not in a + b and "e" not in a + b:
            for gold, same in (rf"\ln {a}+\ln {b}", rf"\ln({a} {b})"), (rf"\binom{{{a}}}{{1}} {b}!", rf"{a}\cdot {b}!"):
                assert grade.equal(gold, same), (gold, same)


def test_every_worked_example_in_the_source():
    r"""`gold` = `prediction` and `gold` != `prediction`, in the policy table and the docstrings."""
    sources = [Path(module.__file__).read_text(encoding="utf-8") for module in (grade, formulas, latex)]
    examples = re.findall(r"`([^`\n]+)` (=|!=) `([^`\n]+)`", "\n".join(sources))
    examples = [example for example in examples if example[0] != "gold"]
    assert len(examples) > 70
    assert [(a, sign, b) for a, sign, b in examples if grade.equal(a, b) != (sign == "=")] == []


def test_sourced_pairs():
    pairs = load("grading_pairs.jsonl")
    assert [pair for pair in pairs if grade.equal(pair["gold"], pair["prediction"]) != pair["equal"]] == []


def test_nothing_equals_an_empty_or_missing_answer():
    for prediction in ("", " ", "$", r"\%", ".", r"\boxed{}", None):
        assert not grade.equal("5", prediction) and not grade.equal("", prediction)


# ---- spellings made at random, against fractions.Fraction --------------------------------------------------
def spellings(q, chance):
    n, d, k = q.numerator, q.denominator, chance.randint(2, 9)
    yield from (f"{n}/{d}", rf"\frac{{{n}}}{{{d}}}", rf"\dfrac{{{n * k}}}{{{d * k}}}",
    rf"\left( \frac{{{n}}}{{{d}}} \right)")
    yield from (rf"\frac{{{n + d}}}{{{d}}} - 1", rf"{n} \cdot {d}^{{-1}}", rf"x = {n}/{d}",
    rf"${n}/{d}$ \text{{ units}}")
    sign, whole = "-" if q < 0 else "", abs(n) // d
    if whole and abs(n) % d:
        yield rf"{sign}{whole}\frac{{{abs(n) % d}}}{{{d}}}"
    if 10 ** 9 % d == 0:
        yield f"{sign}{abs(n) * 10 ** 9 // d // 10 ** 9}.{abs(n) * 10 ** 9 // d % 10 ** 9:09d}"


def test_a_fraction_equals_its_spellings_and_no_other_fraction():
    chance = random.Random(0)
    for _ in range(300):
        q = Fraction(chance.randint(-60, 60), chance.choice([1, 2, 3, 4, 5, 7, 8, 9, 25]))
        other = q + Fraction(chance.choice([-1, 1]), chance.choice([1, 2, 10 ** 6, 10 ** 20]))
        for text in spellings(q, chance):
            assert grade.equal(f"{q}", text) and grade.equal(text, f"{q}"), (q, text)
            assert not grade.equal(f"{other}", text) and not grade.equal(text, f"{other}"), (other, text)


def test_a_polynomial_equals_its_rearrangement_and_no_other():
    chance = random.Random(1)
    for _ in range(100):
        roots = [chance.randint(-9, 9) for _ in range(chance.randint(1, 4))]
        coefficients = [1]
        for root in roots:
            coefficients = [a - root * b for a, b in zip([*coefficients, 0], [0, *coefficients], strict=True)]
        terms = [f"{c:+}x^{{{len(roots) - k}}}" for k, c in enumerate(coefficients)]
        expanded = "".join(chance.sample(terms, len(terms)))
        factored = "".join(f"(x{-root:+})" for root in roots)
        assert grade.equal(expanded, factored) and grade.equal(factored, expanded), (expanded, factored)
        assert not grade.equal(expanded, factored + "+1") and not grade.equal(expanded, "-" + factored)
        assert not grade.equal(expanded, expanded.replace("x", "y"))


def test_equality_is_symmetric_but_for_inequalities_lists_and_chains():
    golds = [gold for gold in GOLDS if not re.search(r"[<>]|\\l?e|boxed|approx|%|,\d{3}|\\frac\{31", gold)]
    for a, b in itertools.combinations(random.Random(2).sample(golds, 100), 2):
        assert grade.equal(a, b) == grade.equal(b, a), (a, b)


# ---- extraction --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("text, answer", [
    (r"so \boxed{\frac{1}{2}}.", r"\frac{1}{2}"), (r"\boxed{1} then \boxed{2}", "2"), (r"\fbox{3}", "3"),
    (r"\boxed {a_{b{c}}} d", "a_{b{c}}"), ("\\boxed\n{3}", "3"), (r"\boxed 5", "5"), (r"$\boxed 12$.", "12"),
    (r"\boxed{\boxed{5}}", "5"), (r"\boxed{\{1,2\}}", r"\{1,2\}"), (r"\boxed{a\}b}", r"a\}b"),
    (r"\boxed{ 7 }", "7"),
    (r"\boxed{5", None), (r"\boxed{}", None), (r"\boxed{ }", None), (r"\boxed", None),
    (r"\boxed{1}, so \boxed{2", None),
    (r"The answer is \boxed{", None), (r"\boxed{1} and \boxed{2}", "1, 2"),
    (r"$\boxed{1}$, $\boxed{2}$", "1, 2"),
    (r"$x=\boxed{1}$ or $x=\boxed{2}$", "1, 2"), ("The final answer is $5$. I hope it is correct.", "5"),
    ("Final Answer: The final answer is $\\frac12$. I hope it is correct.", r"\frac12"),
    ("3*6=18\n#### 18", "18"),
    ("**Answer: 42**", "42"), ("First the answer is 1.\nNo, the answer is 2.", "2"),
    ("The answer is 2.5.", "2.5"),
    ("I get 5", None), ("", None), ("I answer questions about 5", None), (r"\boxedness{5}", None)])
def test_extract(text, answer):
    assert grade.extract(text) == answer


@pytest.mark.parametrize("text, answer", EXTRACT)
def test_extract_in_other_dress(text, answer):
    assert grade.extract(text) == answer


@pytest.mark.parametrize("truth, cases", [(True, RIGHT), (False, WRONG)])
def test_extract_and_grade(truth, cases):
    assert [case for case in cases if grade.equal(case[0], grade.extract(case[1])) != truth] == []


def test_extract_the_stated_answer_of_gsm8k():
    for problem in load("gsm8k_test.jsonl"):
        assert grade.equal(problem["answer"], grade.extract(problem["solution"]))


# ---- the real test set -------------------------------------------------------------------------------------
# Golds that differ as strings and are the same answer. Each pair was looked at.
SAME_ANSWER = {
    ("5", "x=5"), (r"120^\circ", "120"), (r"30^\circ", "30"), (r"90^\circ", "90"), ("36", r"36^\circ"), ("36", r"\$36"),
    (r"36^\circ", r"\$36"), (r"10,\!080", "10080"), (r"\frac{1}{4}", r"\frac14"), (r"2 \sqrt{5}", r"2\sqrt{5}"),
    ("1,-2", "-2,1"), ("15", r"15\mbox{ cm}^2")}


def test_math500_against_itself():
    problems = load("math500.jsonl")
    assert len(problems) == 500
    for problem in problems:
        gold = problem["answer"]
        assert grade.equal(gold, gold) and grade.equal(gold, rf"\boxed{{{gold}}}"), gold
        assert grade.parses(gold), gold
        assert grade.equal(gold, grade.extract(problem["solution"])), gold  # 500 of 500: no exception


@pytest.mark.slow
def test_math500_gold_against_every_other_gold():
    golds = list(dict.fromkeys(problem["answer"] for problem in load("math500.jsonl")))
    found = {(a, b) for a, b in itertools.combinations(golds, 2) if grade.equal(a, b) or grade.equal(b, a)}
    assert found == SAME_ANSWER


def test_a_constant_answer_earns_only_the_problems_whose_answer_it_is():
    golds = [problem["answer"] for problem in load("math500.jsonl")]
    for constant, spelled in (("2", {"2"}), ("0", {"0"}), ("x", set()), ("y = x", set()),
    (r"\text{yes}", set()),
                              ("(0,0)", set()), ("1000000007", set()), (r"\{1,2\}", set())):
        assert sum(grade.equal(gold, constant) for gold in golds) == sum(gold in spelled for gold in golds)


def test_few_golds_of_the_training_set_do_not_parse():
    golds = [problem["answer"] for problem in load("math_train.jsonl")]
    assert sum(not grade.parses(gold) for gold in golds) == 4                # 2 null, 2 empty


# ---- against Math-Verify -----------------------------------------------------------------------------------
def test_every_labelled_pair_is_graded_as_labelled():
    load("math500.jsonl"), load("math_train.jsonl")
    pairs = bench_grade.make_pairs()
    assert len(pairs) > 2500
    assert [pair for pair in pairs if pair[3] is not None and grade.equal(*pair[:2]) != pair[3]] == []


# Where the two disagree, by how the prediction was made; bench/grade.py prints the whole table.
DISAGREE = {"fraction rounded to 16 places", "final period", "tuple as a set", "pi in plain text", "percent sign added",
            "list as a tuple", "base dropped", "another base", "root rounded", "no spaces"}


@pytest.mark.slow
def test_disagreements_with_math_verify_are_of_known_classes():
    pytest.importorskip("math_verify")
    load("math500.jsonl"), load("math_train.jsonl")
    pairs = bench_grade.make_pairs()[:40]
    seen = {how for gold, prediction, how, _ in pairs
            if grade.equal(gold, prediction) != bench_grade.math_verify(gold, prediction)}
    assert set() < seen <= DISAGREE


# ---- hostile input -----------------------------------------------------------------------------------------
@pytest.mark.slow
def test_fuzzed_pairs():
    """Nothing raises, nothing takes long, and a text is equal to itself. bench/grade.py --fuzz tries 100,000."""
    for gold, prediction in bench_grade.fuzz(2000, GOLDS):
        start = time.thread_time()
        grade.equal(gold, prediction)
        grade.equal(prediction, gold)
        assert time.thread_time() - start < 1, (gold, prediction)
        grade.parses(prediction)
        if "box" not in prediction:
            assert grade.equal(prediction, f" {prediction} ") == bool(prediction.strip())
        answer = grade.extract(f"The answer is {prediction}")
        assert answer is None or answer.strip() == answer != ""


@pytest.mark.parametrize("text", [
    "9^{9^{9^9}}", "(10^{10})!", "{" * 10 ** 6, "(" * 10 ** 6, "-" * 999, r"\frac" * 150, "^2" * 450,
    "1" + "^1" * 450,
    r"\boxed{" * 10 ** 5, r"\boxed{" + "{" * 10 ** 6, r"\boxed{1}," * 10 ** 5, "9" * 10 ** 6, " " * 10 ** 6,
    "1+" * 499,
    "2^{4950}+" * 100 + "1", r"(1+\sqrt2)^{30}" * 60, "x!" * 450, r"1\pm" * 190 + "1", "800!" * 200,
    "answer is " * 10 ** 5,
    r"\{\pm" * 19 + "1" + r"\}" * 19, r"\text{" * 150, "1,000" * 190, "1 " * 499, "a" * 999, "$" * 10 ** 6,
    "|" * 999,
    "1," * 499, r"x=\{1," * 100, r"\sqrt[" * 150, r"\log_" * 190, r"\begin{pmatrix}" * 60,
    "((((x=1)=2)=3)=4)=5",
    "1e999999999", "10^{10^{10}}", r"3^{4900}\cdot 3^{4900}", "f(3^{4900}3^{4900})", "P(" * 300,
    "X(1," * 200 + ")" * 200,
    "1=" * 499 + "1", "x=" * 300 + "2", r"\begin{pmatrix}2" * 24 + r"\end{pmatrix}" * 24, "½" * 900,
    "x_{" * 300,
    r"\text{a" + " a" * 400 + "}", "the answer is " + "5, " * 10 ** 5, "#### " + "(" * 10 ** 5,
    "answer" + "*" * 10 ** 6,
    r"\boxed a" + "{" * 10 ** 5, r"\boxed5" * 10 ** 5, "3 " + "of " * 300 + "apples", "|P(" * 160,
    '**"' * 333, "a~" * 500])
def test_work_is_bounded(text):
    done = []

    def work():                                                              # off the main thread: no SIGALRM
        verdicts = [grade.equal("5x+1", text), "box" not in text and grade.equal(text, text + "7")]
        grade.extract(text), grade.parses(text)
        done.append(verdicts)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    worker.join(timeout=10)
    assert done == [[False, False]]


def test_long_answers_are_not_remembered():
    """Each may be megabytes of values; a thousand short ones are not."""
    formulas.recent.cache_clear()
    for k in range(5):
        grade.equal("5", ",".join(f"{name}^{{{880 + k}}}" for name in string.ascii_lowercase))
    assert formulas.recent.cache_info().currsize == 1


# ---- the command -------------------------------------------------------------------------------------------
def command(*arguments):
    return subprocess.run([sys.executable, grade.__file__, *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("gold, prediction, verdict", [
    (r"\frac{1}{2}", "0.5", "equal (compared as a number, exactly)"),
    ("-5", r"-\sqrt{24}", "not equal (compared as a number, in floating point)"),
    ("x", "(x)", "equal (compared as an expression, exactly)"),
    ("x", "hello world", "not equal (compared an expression with words, exactly)"),
    ("hello world", "hello world", "equal (the same string)"),
    ("hello world", r"\text{hello world}", "equal (the same normal form)"),
    ("hello world", "hallo world", "not equal (compared as words, exactly)"),
    ("(1,2)", "1,2", "not equal (compared a tuple with a list, exactly)"),
    ("5", "x = 5", "equal (compared a number with a relation, exactly)"),
    (r"60^\circ, 120^\circ", "60,120", "equal (compared as a list, exactly)"),
    ("5", "(5", "not equal (the prediction does not parse)"), ("(5", "5", "not equal (the gold does not parse)"),
    (r"\text{yes}", "yes", "equal (the same words)"), ("5", r"\boxed{5}", "equal (the same string)")])
def test_the_reason_is_the_rule_that_decided(gold, prediction, verdict, capsys):
    grade.main([gold, prediction])
    assert capsys.readouterr().out == verdict + "\n"


def test_command_line():
    assert command(r"\frac{1}{2}", "0.5").stdout == "equal (compared as a number, exactly)\n"
    assert command("-5", r"-\sqrt{24}").stdout == "not equal (compared as a number, in floating point)\n"
    assert "percent sign" in command("--help").stdout
    wrong = command("5")
    assert wrong.returncode != 0 and wrong.stderr.count("\n") == 1 and "prediction" in wrong.stderr


def test_the_files_are_short_and_evaluate_nothing():
    for module in (grade, formulas, latex):
        source = Path(module.__file__).read_text(encoding="utf-8")
        assert len(source.splitlines()) <= 420 and max(map(len, source.splitlines())) <= 120
        assert not re.search(r"\b(?:eval|exec|sympify|signal|import_module)\(|import (?:sympy|torch|numpy)", source)
