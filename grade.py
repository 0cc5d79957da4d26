r"""r_match (Sec. 3): does the final answer of a response match the ground truth?  Every reward rests on it.

    python grade.py '\frac{1}{2}' 0.5           equal or not, and the rule that decided

Text becomes tokens in one spelling, the normal form (plumbing/latex.py). A bounded parser reads them into a shape
(tuple, set ..) of expressions, each its values at random points: fractions while those last, floats otherwise
(plumbing/formulas.py). Two shapes are compared here. No input takes long, much memory, or raises.

Policy where graders differ (`gold` = `prediction` is accepted, != refused; the tests run every such example):
  percent sign     dropped, never converted       `6\%` = `6`, `6\%` != `0.06`, `6` = `6 percent`
  units, currency  dropped                        `15\text{ cm}` = `15`, `\$5` = `5`, `20` = `20\%\text{ more}`
  number words     are neither units nor numbers  `5` != `5\text{ dozen eggs}`, `3` != `3 fourths`, `5` != `five`
  counted things   are units, but for "5 pairs"   `5` = `5\text{ ordered pairs}`, `5` != `5\text{ pairs}`
  months, weekdays are not units                  `\text{30 October}` != `30`, `\text{May 5}` = `May 5`
  ordinals         are their number               `12` = `12^{\text{th}}`, `3` = `3rd`
  a.m., p.m.       may be left out, not mistaken  `9` = `9:00 AM`, `9\text{ a.m.}` != `9\text{ p.m.}`
  fractions        need not be reduced            `\frac{3}{4}` = `\frac{6}{8}`, `617` = `1,234/2`
  decimals         only if exactly equal          `\frac{1}{8}` = `0.125`, `\frac{1}{3}` != `0.3333333333`
  base suffix      must match, unless it is ten   `52_8` = `52_{\text{eight}}`, `52_8` != `42`, `42` = `42_{10}`
  plain text       is read like LaTeX             `\frac{\pi}{2}` = `pi/2`, `14 - i` = `14.0 + -1.0i`
  brackets         are part of the answer         `(0,9)` != `[0,9)`, `(0,9)` != `\{0,9\}`, `(0,9)` != `0,9`
  order            of tuples, not of sets, lists  `(1,2)` != `(2,1)`, `\{1,2\}` = `2, 1`, `1,1,2` != `1,2,2`
  boxed twice      is one answer                  `(1,2)` = `\boxed{(1,2)} and \boxed{(1,2)}`
  thousands        where written as such          `1000` = `1{,}000`, `(1,000)` != `1000`, `1,000` != `1, 000`
                   or a list, if the gold is one  `60^\circ, 120^\circ` = `60,120`, `60, 120` != `60120`
  naming           the answer is optional         `5` = `x = 5`, `5` = `f(3) = 5`, `x = 5` != `y = 5`
  chain            all its values must agree      `5` = `x = 2 + 3 = 5`, `5` != `x = 5 = 6`, `5` != `2x = 10`
                   of a gold, one is enough       `0.56 = 56\%` = `56\%`, `0.56` != `0.56 = 56\%`
  interval         for an inequality, not v.v.    `x > 5` = `(5, \infty)`, `(5, \infty)` != `x > 5`
                   unless the gold names it       `x \in (5, \infty)` = `x > 5`, `x \in (5, \infty)` != `y > 5`
  column vector    is not a tuple                 `\begin{pmatrix} 1 \\ 2 \end{pmatrix}` != `(1,2)`
"""
import argparse
import operator
import re
import sys
from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache

from plumbing.formulas import LONGEST, Shape, Values, compute, kind, numbers, read, variable

WIDEST = 50                                                 # items of a list; boxes of one answer

# ---------------------------------------------------------------------------------------------------------------------
# Extraction
BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*(\{)?")
PIECE = re.compile(r"\\.|[{}$\s]", re.DOTALL)               # what may end a box; after a backslash, a brace does not
BETWEEN = re.compile(r"(?:\\(?:text|mbox|q?quad)(?![a-z])|\\[()\[\],;! ]|\b(?:and|or)\b|[\s$,;{}&]"
                     r"|\b[A-Za-z](?:_\{?\w+\}?)?'? *=)*")
STATED = re.compile(r"(?<![a-z])answer[ *_]*(?:(?<![a-z])is\b|[:=])"                 # answer is, **Answer**:
                    r"|^[#*_ ]*(?:final )?answer[#*_ ]*$"                             # a heading, ### Final Answer
                    r"|####(?=[ $*(\[]*(?:[a-z] ?= ?)?[-+\\.\d])(?! *\d+\.[ \t]+[A-Za-z*])",        # not #### 1. Check
                    re.IGNORECASE | re.MULTILINE)
LEAD = re.compile(r"(?:[\s:*_$]|\\[\[(])*")
AFTER = re.compile(r"\.\s|,?\s(?:because|since|which|so|where|as)\b|,\s(?!and\b|or\b)[a-z]+\s[a-z]{2}")
TAIL = re.compile(r"(?:[\s.,;:*$]|\\[\])])*$")


def extract(text: str) -> str | None:
    r"""The last \boxed{} or \fbox{}; with no box, what follows "####", "answer is" or "answer:".

    "so \boxed{\frac{1}{2}}." gives \frac{1}{2}, "\boxed 5" gives 5; None if the last box is open or empty.
    Boxes with only "and", "or", a comma or "x =" in between are one answer: "\boxed{1} or \boxed{2}" gives "1, 2".
    """
    boxes = deque(BOX.finditer(text), maxlen=WIDEST)
    if not boxes:
        return stated(text)
    answers, end = [], len(text)
    for box in reversed(boxes):
        content, after = box_content(text, box.end(), end, braced=bool(box[1]))
        if not content or answers and not BETWEEN.fullmatch(text, after, end):
            break
        answers.insert(0, content)
        end = box.start()
    return ", ".join(answers if len({*answers}) > 1 else answers[:1]) or None                  # one answer, boxed twice


def box_content(text: str, start: int, end: int, braced: bool) -> tuple[str, int]:
    """What is in the box that begins at start, and where it ends; "" if it does not end."""
    end = min(end, start + LONGEST)
    depth = 0
    for piece in PIECE.finditer(text, start, end):
        if piece[0] == "{":
            depth += 1
        elif piece[0] == "}" and depth:
            depth -= 1
        elif not depth and (piece[0] == "}" or not braced and (piece[0] in (r"\)", r"\]", "$") or piece[0].isspace())):
            content = text[start:piece.start()].strip()
            return (content, piece.end()) if braced else (content.rstrip(".,;:"), piece.start())
    return ("", end) if braced or depth else (text[start:end].rstrip(".,;:"), end)


def stated(text: str) -> str | None:
    """The answer after the last "answer is" or the like, up to the end of the line, the sentence or the number."""
    found = deque(STATED.finditer(text), maxlen=1) or deque(re.finditer("####", text), maxlen=1)
    if not found:
        return None
    rest = text[found[0].end():]
    rest = rest[LEAD.match(rest).end():][:LONGEST]
    line = re.sub(r"\*\*(?=\W|$)|(?<!\S)\*\*", "", rest.split("\n")[0])                       # bold: **73** residents
    line = AFTER.split(line)[0]
    return line[:TAIL.search(line).start()] or None


# ---------------------------------------------------------------------------------------------------------------------
# Equality: shape by shape
def same(gold: Shape, answer: Shape) -> bool:
    """Tuples, intervals and matrices in order; sets, lists and unions in any order."""
    kinds = kind(gold), kind(answer)
    if "relation" in kinds:
        return relations(gold, answer)
    if "clock" in kinds:
        return clocks(gold, answer)
    if kinds == ("number", "number"):
        return len(gold) >= len(answer) and numbers(gold, answer)                               # 2^{9} is not x^{9}
    if kinds == ("number", "list"):
        return all(same(gold, x) for x in answer[1:])                                           # "15/2, or 7.5"
    if {*kinds} <= {"list", "set"} or kinds == ("union", "union"):
        return matching(gold[1:], answer[1:], same)
    return kinds[0] == kinds[1] and len(gold) == len(answer) and all(
        a == b if isinstance(a, str) else same(a, b) for a, b in zip(gold[1:], answer[1:], strict=True))


def matching(golds: Sequence, answers: Sequence, alike: Callable) -> bool:
    """Whether the two can be paired off."""
    if len(golds) != len(answers) or len(golds) > WIDEST:
        return False
    rest = list(answers)
    for gold in golds:
        found = next((k for k, answer in enumerate(rest) if alike(gold, answer)), None)
        if found is None:
            return False
        rest.pop(found)
    return True


def clocks(gold: Shape, answer: Shape) -> bool:
    """9 a.m. is 9:00 a.m. or 9, not 9 p.m."""
    halves = {shape[1] for shape in (gold, answer) if kind(shape) == "clock"}
    return len(halves) == 1 and same(*(shape[2] if kind(shape) == "clock" else shape for shape in (gold, answer)))


def relations(gold: Shape, answer: Shape) -> bool:
    r"""`y = 2x + 3` = `4x - 2y = -6`, `x < 5` = `5 > x` = `x\in(-\infty,5)`, `x < 5` != `x\le 5`."""
    both = kind(gold) == kind(answer)
    if both and matching(gold[1:], answer[1:], proportional):
        return True
    offered, golds = results(answer), results(gold)
    if kind(gold) == "relation" and bounds(gold[1:]):
        golds = [interval(gold[1:])]
    elif both and bounds(answer[1:]):
        offered = [interval(answer[1:])]
    names = [named(shape) for shape in (gold, answer)] if both else []
    if both and None not in names and not same(*names):                                         # x = 5, y = 5
        return False
    return 0 < len(offered) <= WIDEST and all(any(same(value, x) for value in golds) for x in offered)


def named(relation: Shape) -> Shape | None:
    """The name in x = 5, or in 1 < x < 5; None if there is none."""
    names = [side for _, a, b, *flags in relation[1:] for side, is_name in zip((a, b), flags) if is_name]
    return names[0] if names else None


def results(shape: Shape) -> list[Shape]:
    r"""What a chain of equations gives besides names: 5 and 5 for x = 2 + 3 = 5; nothing for 2x = 10."""
    if kind(shape) != "relation":
        return [shape]
    links = shape[1:]
    if any(link[0] != "=" for link in links):
        return []
    sides = [(links[0][1], links[0][3]), *((link[2], link[4]) for link in links)]
    values = [side for side, named in sides if not named]
    if len(values) == len(sides) and not all(isinstance(side, Values) and len(side) == 1 for side in values):
        return []
    return values or [sides[-1][0]]


def proportional(gold: tuple, answer: tuple) -> bool:
    """Equations may differ by a factor, inequalities by a positive one."""
    (relation, a, b, *_), (other, c, d, *_) = gold, answer
    if relation != other:
        return False
    if same(a, c) and same(b, d):
        return True
    if not all(isinstance(side, Values) for side in (a, b, c, d)):
        return False
    ratios = compute(lambda a, b, c, d: (a - b) / (c - d), a, b, c, d)
    first = Values([next((ratio for ratio in ratios if ratio), None)])
    return len(ratios) > 1 and numbers(first, ratios) and ("<" not in relation or first[0].real > 0)


def bounds(links: Sequence[tuple]) -> bool:
    """Whether these are bounds of a name, as in -2 <= x < 7, not of 2x."""
    return all("<" in sign and left != right for sign, _, _, left, right in links)


def interval(links: Sequence[tuple]) -> Shape:
    """-2 <= x < 7 as [-2, 7)."""
    low, high = compute(operator.neg, variable(r"\infty")), variable(r"\infty")
    pair = ["(", ")"]
    for sign, a, b, _, named in links:
        if named:
            low = a
            pair[0] = "[" if "=" in sign else "("
        else:
            high = b
            pair[1] = "]" if "=" in sign else ")"
    return ("tuple", "".join(pair), low, high)


def unbox(text: str) -> str:
    return (extract(text) or "") if "box" in text and BOX.search(text) else text


@lru_cache(4096)
def letters(text: str) -> str:
    r"""The letters of `\text{Two circles}` without spaces; "" if there is anything else."""
    word = re.sub(r"\\(?:text[a-z]*|mbox|mathrm)|[{}\s.]", "", text).lower()
    return word if word.isalpha() else ""


def decide(gold: object, prediction: object) -> tuple[bool, str]:
    """Whether the prediction is the gold answer, and the rule that decided."""
    if not isinstance(gold, str) or not isinstance(prediction, str):
        return False, "no answer"
    gold, prediction = unbox(gold).strip(), unbox(prediction).strip()
    if gold == prediction:
        return gold != "", "the same string"
    if max(len(gold), len(prediction)) > LONGEST:
        return False, "too long to be read"
    expected, given = read(gold), read(prediction)
    if expected.tokens == given.tokens != ():
        return True, "the same normal form"
    word = letters(gold)
    if word and word == letters(prediction) and (len(word) > 3 or word in ("yes", "no") or "\\" in gold + prediction):
        return True, "the same words"
    if not expected.shape or not given.shape:
        return False, f"the {'prediction' if expected.shape else 'gold'} does not parse"
    verdict = same(expected.shape, given.shape)
    if not verdict and expected.shape[0] in ("list", "set") and re.search(r"\d,[1-9]\d\d", prediction):
        given = read(prediction, listed=True)                                                   # 60,120 is not 60120
        verdict = same(expected.shape, given.shape or ("list",))
    what = f"as {expected.kind}" if expected.kind == given.kind else f"{expected.kind} with {given.kind}"
    return verdict, f"compared {what}, {'exactly' if expected.exact and given.exact else 'in floating point'}"


def equal(gold: object, prediction: object) -> bool:
    """Whether the prediction is the gold answer, in whatever notation; of anything but two strings it is not."""
    try:
        if gold.isdecimal() and prediction.isdecimal() and (gold + prediction).isascii():       # the most, and fast
            return gold.lstrip("0") == prediction.lstrip("0")
    except AttributeError:                                                                      # no string: None
        return False
    return decide(gold, prediction)[0]


def parses(gold: object) -> bool:
    """Whether anything but its own spelling can match this gold."""
    if not isinstance(gold, str):
        return False
    shape = read(unbox(gold)).shape
    return bool(shape) and same(shape, shape)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser("grade.py", None, __doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("gold", help="the ground truth, in LaTeX")
    parser.add_argument("prediction", help="the answer to grade, or a whole response with its \\boxed{}")
    parser.error = lambda message: sys.exit(f"grade.py: {message}; see grade.py --help")
    options = parser.parse_args(arguments if {"-h", "--help"} & {*arguments} else ["--", *arguments])
    verdict, reason = decide(options.gold, options.prediction)
    print(f"{'equal' if verdict else 'not equal'} ({reason})")


if __name__ == "__main__":
    main(sys.argv[1:])
