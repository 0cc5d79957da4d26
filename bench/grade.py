r"""The grader against Math-Verify on real answers: who is right where they disagree, and how fast each is.

    OMP_NUM_THREADS=1 python bench/grade.py             # 3,000 pairs, about two minutes
    OMP_NUM_THREADS=1 python bench/grade.py --fuzz      # 100,000 damaged and random strings

It puts the root of the repository on sys.path itself, before bench/, so that `import grade` is grade.py there.
Needs math500.jsonl and math_train.jsonl in ../shared/data (or in the directory IBPO_DATA). The truth of a
pair is known from how it is made: a gold answer respelled is the same answer, one damaged is another answer.
Answers of two different problems have no such label; there a disagreement is printed in full.
"""
import argparse
import json
import logging
import os
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import grade  # noqa: E402
from plumbing import formulas  # noqa: E402

DATA = Path(os.environ.get("IBPO_DATA", ROOT.parent / "shared" / "data"))
Rewriting = Callable[[str], str | None]                                      # of a gold; None or itself: not this one


def answers(name: str) -> list[str]:
    with open(DATA / name, encoding="utf-8") as lines:
        found = [json.loads(line)["answer"] for line in lines]
    return [answer for answer in found if answer]


def swap(pattern: str, new: str) -> Rewriting:
    """A rewriting of the gold answer by a regular expression; nothing if that changes nothing."""
    return lambda gold: re.sub(pattern, new, gold, count=1)


def fraction(write: Callable[[Fraction], str | None]) -> Rewriting:
    def rewrite(gold: str) -> str | None:
        found = re.fullmatch(r"(-?)\\d?frac\{(\d+)\}\{(\d+)\}", gold)
        return write(Fraction(int(found[2]), int(found[3])) * (-1 if found[1] else 1)) if found else gold
    return rewrite


def integer(write: Callable[[int], str]) -> Rewriting:
    return lambda gold: write(int(gold)) if re.fullmatch(r"-?\d{1,9}", gold) else gold


def finite(q: Fraction) -> bool:
    return Fraction(str(float(q))) == q


def items(write: Callable[[list[str], str, str], str | None]) -> Rewriting:
    """For a list or a tuple of simple entries."""
    def rewrite(gold: str) -> str:
        found = re.fullmatch(r"(\\left)?([(\[])?([^()\[\]{}]*,[^()\[\]{}]*?)(?:\\right)?([)\]])?",
                             gold.replace(r",\!", ""))
        parts = re.split(r",\s*", found[3]) if found else []
        if not parts or re.search(r"\d,\d{3}(?!\d)", gold):
            return gold
        return write([part.strip() for part in parts], found[2] or "", found[4] or "") or gold
    return rewrite


SAME = {                                                                    # the same answer, respelled
    "dfrac": swap(r"\\frac", r"\\dfrac"),
    "fraction with a slash": swap(r"^(-?)\\frac\{(\d+)\}\{(\d+)\}$", r"\1\2/\3"),
    "fraction not reduced": fraction(lambda q: rf"\frac{{{3 * q.numerator}}}{{{3 * q.denominator}}}"),
    "fraction as its exact decimal": fraction(lambda q: f"{float(q)}" if finite(q) else None),
    "integer as a fraction": integer(lambda n: rf"\frac{{{2 * n}}}{{2}}"),
    "integer with a decimal point": integer(lambda n: f"{n}.0"),
    "thousands separated": integer(lambda n: f"{n:,}"),
    "thousands separated in LaTeX": integer(lambda n: f"{n:,}".replace(",", "{,}")),
    "a sum of two integers": integer(lambda n: f"{n - 7} + 7"),
    "final period": lambda gold: gold + ".",
    "dollar signs": lambda gold: f"${gold}$",
    "boxed": lambda gold: rf"\boxed{{{gold}}}",
    "no spaces": lambda gold: gold if re.search(r"\\text|[a-z] [a-z]", gold) else gold.replace(" ", ""),
    "unit added": integer(lambda n: rf"{n}\text{{ cm}}"),
    "unit added, squared": integer(lambda n: rf"{n} \text{{ cm}}^2"),
    "unit added, a plain word": integer(lambda n: f"{n} apples"),
    "currency added": integer(lambda n: rf"\${n}"),
    "percent sign added": integer(lambda n: rf"{n}\%"),
    "degree sign dropped": swap(r"\^\\circ$", ""),
    "degree sign as a word": swap(r"\^\\circ$", r"\\text{ degrees}"),
    "unit dropped": swap(r"^([\d.]+) ?\\(?:text|mbox) ?\{[a-z ]+\}(?:\^2)?$", r"\1"),
    "name added": lambda gold: gold if re.search(r"[=<>,]|\\(?:in|text|pm|le|ge)", gold) else "x = " + gold,
    "name dropped": swap(r"^[a-z] ?(?:=|\\in) ?", ""),
    "text unwrapped": swap(r"^\\text\{(\w+)\}$", r"\1"),
    "text in bold": swap(r"^\\text\{", r"\\textbf{"),
    "choice without brackets": swap(r"^\\text\{\((\w)\)\}$", r"\1"),
    "root in plain text": swap(r"^\\sqrt\{(\d+)\}$", r"sqrt(\1)"),
    "pi in plain text": swap(r"^(\d+) ?\\pi$", r"\1*pi"),
    "root without braces": swap(r"\\sqrt\{(\d)\}", r"\\sqrt\1"),
    "root under a fraction bar": swap(r"^\\frac\{\\sqrt\{(\d+)\}\}\{(\d+)\}$", r"\\frac{\1}{\2\\sqrt{\1}}"),
    "base in braces": swap(r"^(\d+)_(\d)$", r"\1_{\2}"),
    "real and imaginary part exchanged": swap(r"^(-?\d+) ?([+-]) ?(\d+)i$", r"\g<2>\g<3>i + \1"),
    "list in another order": items(lambda parts, a, b: ", ".join(parts[::-1]) if not a + b else None),
    "list as a set": items(lambda parts, a, b: r"\{" + ", ".join(parts) + r"\}" if not a + b else None),
    "list joined by and": items(lambda parts, a, b: r" \text{ and } ".join(parts)
        if not a + b and len(parts) == 2 else None),
    "brackets that stretch": items(lambda parts, a, b: rf"\left{a}{','.join(parts)}\right{b}"
        if a and b else None),
    "pmatrix as bmatrix": lambda gold: gold.replace("pmatrix", "bmatrix"),
    "plus or minus written out": swap(r"^([^{},\\]+?) ?\\pm ?(.+)$", r"\1 + \2, \1 - \2"),
}
OTHER = {                                                                   # another answer
    "sign changed": lambda gold: f"-({gold})"
        if re.fullmatch(r"[^,=<>a-z]*[1-9][^,=<>a-z]*|\\d?frac.*", gold) else gold,
    "one more": integer(lambda n: str(n + 1)),
    "ten times": integer(lambda n: str(10 * n + (n == 0))),
    "a digit changed": lambda gold: re.sub(r"\d", lambda digit: str((int(digit[0]) + 1) % 10 or 2),
        gold, count=1),
    "first bracket changed": items(lambda parts, a, b: f"{'[' if a == '(' else '('}{', '.join(parts)}{b}"
        if a else None),
    "tuple in another order": items(lambda parts, a, b: a + ", ".join(parts[::-1]) + b
        if a and parts != parts[::-1] else None),
    "tuple as a set": items(lambda parts, a, b: r"\{" + ", ".join(parts) + r"\}" if a else None),
    "list as a tuple": items(lambda parts, a, b: "(" + ", ".join(parts) + ")" if not a + b else None),
    "item dropped": items(lambda parts, a, b: a + ", ".join(parts[1:]) + b),
    "base dropped": swap(r"^(\d+)_\{?(?!10\}?$)\d+\}?$", r"\1"),
    "another base": swap(r"^(\d+)_\{?(\d+)\}?$", r"\g<1>_{1\2}"),
    "fraction rounded to 4 places": fraction(lambda q: f"{float(q):.4f}" if not finite(q) else None),
    "fraction rounded to 16 places": fraction(lambda q: f"{float(q)}" if not finite(q) else None),
    "percent as a decimal": swap(r"^(\d\d)$", r"0.\1"),
    "pi rounded to 9 digits": swap(r"(?<![\d\\])\\pi", "(3.14159265)"),
    "root rounded": lambda gold: f"{int(gold[6:-1]) ** 0.5:.10f}"
        if re.fullmatch(r"\\sqrt\{\d+\}", gold) else gold,
    "imaginary unit dropped": swap(r"^(-?\d+ ?[+-] ?\d+)i$", r"\1"),
    "pi dropped": swap(r"^(\d+) ?\\pi$", r"\1"),
    "a variable added": integer(lambda n: f"{n}x" if n else None),
    "numerator and denominator exchanged": swap(r"^\\frac\{(\d+)\}\{(\d+)\}$", r"\\frac{\2}{\1}"),
    "one sign instead of two": swap(r"\\pm", "+"),
    "exponent changed": swap(r"(?<=[a-z])\^(\d)(?!\d)", r"^{1\1}"),
}
CROSS = "the answer of another problem"


def make_pairs(seed: int = 0, labelled: int = 2400, crossed: int = 600) -> list[tuple[str, str, str, bool | None]]:
    """(gold, prediction, how the prediction was made, truth or None),
    in an order that depends on the seed."""
    chance, golds, train = random.Random(seed), answers("math500.jsonl"), answers("math_train.jsonl")
    found = {}
    for gold in golds + train[::5]:
        for truth, rewritings in ((True, SAME), (False, OTHER)):
            for how, rewrite in rewritings.items():
                prediction = rewrite(gold)
                if prediction and prediction != gold:
                    found.setdefault(how, {})[gold, prediction] = truth
    for pairs in found.values():  # no rewriting may crowd out the others
        for pair in list(pairs)[120:]:
            del pairs[pair]
    pool = [(*pair, how, truth) for how, pairs in found.items() for pair, truth in pairs.items()]
    plain = re.compile(r"-?\d+|\\d?frac\{\d+\}\{\d+\}")
    golds, train = ([answer for answer in all_ if not plain.fullmatch(answer)] for all_ in (golds, train))
    cross = [(chance.choice(golds), chance.choice(golds + train), CROSS, None) for _ in range(crossed)]
    pool = chance.sample(pool, min(labelled, len(pool))) + [pair for pair in cross if pair[0] != pair[1]]
    chance.shuffle(pool)
    return pool


def math_verify(gold: str, prediction: str) -> bool:
    from math_verify import parse, verify
    logging.disable(logging.CRITICAL)
    gold, prediction = (text if text.startswith(("$", "\\boxed")) else f"${text}$" for text in (gold, prediction))
    return bool(verify(parse(gold), parse(prediction)))


def compare() -> None:
    pairs, mine, theirs, rows = make_pairs(), 0.0, 0.0, Counter()
    errors = Counter()
    for gold, prediction, how, truth in pairs:
        start = time.perf_counter()
        ours = grade.equal(gold, prediction)
        middle = time.perf_counter()
        other = math_verify(gold, prediction)
        mine, theirs = mine + middle - start, theirs + time.perf_counter() - middle
        errors["grade.py"] += truth is not None and ours != truth
        errors["Math-Verify"] += truth is not None and other != truth
        if ours != other:
            right = "nobody labelled it" if truth is None else "grade.py" if ours == truth else "Math-Verify"
            rows[how, {True: "the same", False: "another answer", None: "not known"}[truth], right] += 1
            if truth is None or right != "grade.py":
                print(f"  {how}: {gold}  |  {prediction}  (grade.py {ours}, Math-Verify {other})")
    counts = Counter(how for _, _, how, _ in pairs)
    print(f"\n{len(pairs)} pairs, {sum(rows.values())} disagreements\n")
    print(f"{'how the prediction was made':<38}{'truth':<17}{'right':<20}disagreements of pairs")
    for (how, truth, right), count in sorted(rows.items(), key=lambda row: (row[0][2], -row[1])):
        print(f"{how:<38}{truth:<17}{right:<20}{count} of {counts[how]}")
    print(f"\nwrong on labelled pairs: grade.py {errors['grade.py']}, Math-Verify {errors['Math-Verify']}")
    golds, speed = answers("math500.jsonl"), []
    formulas.recent.cache_clear()
    for judge in (grade.equal, math_verify):
        start = time.perf_counter()
        for gold, other in zip(golds, golds[1:] + golds[:1], strict=True):
            judge(gold, f"${gold}$"), judge(gold, other)
        speed.append(time.perf_counter() - start)
    print(f"the pairs above: {mine:.2f} s and {theirs:.1f} s, {theirs / mine:.0f} times faster")
    print(f"MATH500, each gold against itself in $ $ and against the next: {speed[0]:.2f} s "
          f"and {speed[1]:.1f} s, {speed[1] / speed[0]:.0f} times faster")


PIECES = (r"\frac \sqrt { } ( ) [ ] \{ \} \text{ \pm ^ _ | ! ° , = < \le 9 99 10^{10} x \ \\ & "
          r"\begin{pmatrix} \end{pmatrix} $ % . - + * / \cup \infty e i \pi \sin \log ‹ › é \boxed{ "
          r"\overline{ cm and dozen th p.m. _ _{ base \bar{ \mathbf{ \begin{smallmatrix} \\[1ex] ² ½ √ « » f( P( "
          r"\vec \color{ \R = == ``").split() + [" ", "\x00", "\n", "\ud800"]


def fuzz(count: int, golds: Sequence[str], seed: int = 0) -> Iterator[tuple[str, str]]:
    """Pairs of a gold answer (at times damaged) and a damaged one, pieces of LaTeX,
    random bytes or nesting."""
    chance = random.Random(seed)

    def damage(text: str) -> str:
        letters = list(text)
        for _ in range(chance.randint(1, 4)):
            at, dice = chance.randrange(len(letters) + 1), chance.random()
            if dice < 0.3:
                del letters[at:at + 1]
            elif dice < 0.7:
                letters.insert(at, chance.choice(PIECES))
            else:
                letters[at:at] = letters[:at][-chance.randint(1, 6):]
        return "".join(letters)

    for _ in range(count):
        gold, dice = chance.choice(golds), chance.random()
        if dice < 0.55:
            yield gold if dice < 0.45 else damage(gold), damage(gold)
        elif dice < 0.75:
            yield gold, "".join(chance.choices(PIECES, k=chance.randint(1, 60)))
        elif dice < 0.9:
            yield gold, chance.randbytes(chance.randint(1, 200)).decode("latin-1")
        else:
            opener = chance.choice(["{", "(", "[", r"\{", "|", r"\frac{", r"\sqrt", "-", "^{", r"\sin ",
                "9^{", "!", "1+"])
            yield gold, opener * chance.randint(1, 150) + gold


def time_fuzz(count: int, golds: Sequence[str], seed: int = 0) -> list[float]:
    """Seconds of processor time for each pair, sorted."""
    seconds = []
    for gold, prediction in fuzz(count, golds, seed):
        for _ in range(3):
            start = time.thread_time()
            grade.equal(gold, prediction)
            taken = time.thread_time() - start
            if taken < 0.005:
                break
            formulas.recent.cache_clear()        # again, and in full: a garbage collection may have fallen into it
        seconds.append(taken)
    return sorted(seconds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fuzz", action="store_true", help="damaged and random strings instead")
    if parser.parse_args().fuzz:
        times = time_fuzz(100_000, answers("math500.jsonl"))
        median, longest = 1e3 * times[len(times) // 2], 1e3 * times[-1]
        print(f"{len(times)} pairs: median {median:.3f} ms, maximum {longest:.1f} ms of processor time")
    else:
        compare()
