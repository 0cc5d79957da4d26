r"""Tokens of LaTeX as shapes: a tuple, a set, a matrix .. of expressions, each its values at random points.

    >>> read(r"\frac{1}{2}, 3").shape
    ('list', (Fraction(1, 2),), (Fraction(3, 1),))

Values are fractions while those last, floats otherwise. Nothing is evaluated by Python or a computer algebra system:
a parser of limited depth adds and multiplies numbers of limited size. So no text takes long, much memory, or raises.
"""
import cmath
import math
import operator
import random
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple, NoReturn

from plumbing.latex import FUNCTIONS, GREEK, tokenize

LONGEST = 1000                                              # characters of an answer; longer ones are not read
DEEPEST = 50                                                # nested brackets and operators
BITS = 10_000                                               # of a fraction that is still computed with exactly


# ---------------------------------------------------------------------------------------------------------------------
# Arithmetic
class Values(tuple):
    """The values of an expression at the random points, one if it is constant; None where it is undefined."""


Shape = tuple                                               # Values, or a kind and its parts: see Parser


def kind(shape: Shape) -> str:
    """number, list, set, tuple, union, matrix, row, relation or clock."""
    return "number" if isinstance(shape, Values) else shape[0]


def compute(function: Callable, *expressions: Shape) -> Shape:
    """A function of expressions, point by point: of fractions if all are, else of complex floats."""
    if not all(isinstance(values, Values) for values in expressions):
        return entrywise(function, *expressions)
    points = max(map(len, expressions))
    columns = [values * (points // len(values)) for values in expressions]                      # a constant everywhere
    results = []
    for numbers in zip(*columns, strict=True):
        try:
            results.append(function(*numbers) if exact(*numbers) else function(*map(inexact, numbers)))
        except (ArithmeticError, ValueError, TypeError):                                        # 1/0, too large, None
            results.append(None)
    return Values(results)


def entrywise(function: Callable, *expressions: Shape) -> Shape:
    """A matrix times or over a number: the function of each entry."""
    matrix = next((shape for shape in expressions if shape[:1] == ("matrix",)), ())
    rest = [shape for shape in expressions if shape is not matrix]
    known = function in (operator.neg, operator.mul) or function is operator.truediv and matrix is expressions[0]
    if not matrix or not known or not all(isinstance(shape, Values) for shape in rest):
        raise SyntaxError("not a number")

    def of_entry(entry: Shape) -> Shape:
        return compute(function, *(entry if shape is matrix else shape for shape in expressions))
    return ("matrix", *(("row", *map(of_entry, row[1:])) for row in matrix[1:]))


def exact(*numbers: object, times: float = 1) -> bool:
    """Whether all are fractions, and short enough to be multiplied so many times."""
    return all(type(x) is Fraction and (x.numerator * x.denominator).bit_length() * times < BITS for x in numbers)


def inexact(x: Fraction | complex) -> complex:
    r"""A float; not of a long fraction, which may be an approximation: `\sqrt{2}` != `1.4142135623730951`."""
    if type(x) is Fraction and (x.denominator > 1e5 or abs(x.numerator) > (1e15 if x == int(x) else 1e10)):
        raise ArithmeticError
    return complex(x)


def plus(x: Fraction | complex, y: Fraction | complex) -> Fraction | complex:
    """Floats may not vanish beside each other: `1 + 10^{-30}` != `1`, `e^{-40} + 1` != `1`."""
    if not exact(x, y):
        vanishes = x and y and not 1e-10 < abs(x / y) < 1e10
        if vanishes or 0 < abs(x + y) < 1e-10 * abs(x):
            raise ArithmeticError
    return x + y


def power(x: Fraction | complex, y: Fraction | complex) -> Fraction | complex:
    r"""`\sqrt[3]{-8}` = `-2`, `\sqrt{12}` = `2\sqrt{3}`, `e^{-1000}` != `0`; 9^{9^{9^9}} is not attempted."""
    if exact(x, y) and y.denominator == 1 and exact(x, times=abs(y)):
        return x ** y.numerator
    if exact(x, y) and x < 0 and y.denominator % 2:
        return (-1) ** (y.numerator % 2) * power(-x, y)
    result = inexact(x) ** inexact(y)
    if not result and x:
        raise ArithmeticError
    return result


def factorial(n: Fraction | complex) -> Fraction:
    """Of an integer from 0 to 800."""
    if not exact(n) or n.denominator != 1 or not 0 <= n <= 800:
        raise ArithmeticError
    return Fraction(math.factorial(n.numerator))


def close(x: Fraction | complex, y: Fraction | complex) -> bool:
    return x == y if exact(x, y) else cmath.isclose(x, y, rel_tol=1e-12)


def numbers(gold: Values, answer: Values) -> bool:
    r"""`\sqrt{8}/2` = `\sqrt{2}`, `(x+1)^2` = `x^2+2x+1`, `\tan^2 y + 1` = `\sec^2 y`, `|x|` != `x`."""
    def close_where_real(x: Fraction | complex, y: Fraction | complex) -> bool | None:
        return close(x, y) if abs(x.imag) <= 1e-9 * abs(x) else None
    real = {*compute(close_where_real, gold, answer)} - {None}                                  # of \sqrt{x}: x > 0
    return (real or {*compute(close, gold, answer)} - {None}) == {True}


def draw(name: str) -> Values:
    r"""20 random numbers, 4 above 0: `\ln x+\ln y` = `\ln(xy)`; 3 not whole: `\cos 2\pi t` != `\cos\pi t`."""
    chance = random.Random(name.encode("utf-8", "surrogatepass"))
    kinds = [(1, 1)] * 3 + [(1, 7)] + [(-1, 1)] * 14 + [(-1, 7)] * 2
    return Values(Fraction(chance.randint(2, 59) * chance.choice((1, sign)), part) for sign, part in kinds)


variable = lru_cache(1000)(draw)


def spell(shape: object) -> str:
    """A text for a shape, another for every other shape: the argument of f in the name f(2x)."""
    if isinstance(shape, Fraction):
        return f"{shape.numerator:x}/{shape.denominator:x}"     # str() refuses integers of over 4,300 digits
    return f"({','.join(map(spell, shape))})" if isinstance(shape, tuple) else repr(shape)


CONSTANTS = {r"\pi": Values([cmath.pi + 0j]), "e": Values([cmath.e + 0j]), "i": Values([1j])}
NAME = re.compile(rf"(\\((var)?({GREEK.replace(' ', '|')})|infty|ell|triangle|angle|cap)|[A-Za-z]\w*'*)(_\w+)?"
                  r"|‹.*›|«.*»|\d+_\d+", re.IGNORECASE)
FUNCTION_NAME = re.compile(r"[fghpqA-Z]'*(_\w+)?|\\?(var)?(phi|sigma|tau)|‹.*›|«.*»")
ONE, MINUS, TWO, DEGREE = (Values([x]) for x in (Fraction(1), Fraction(-1), Fraction(2), cmath.pi / 180 + 0j))

# ---------------------------------------------------------------------------------------------------------------------
# Parser: tokens to a shape of expressions
RELATIONS, SIGNS = ("=", "<", ">", "<=", ">=", "!="), ("+", "-", r"\pm", r"\mp")
HALVES = ("‹am›", "‹pm›")
LEVELS = (), (",",), RELATIONS, (":", r"\cup", r"\over", *HALVES), SIGNS, ("*", "/"), ("^",), ("!", "°")
BINDING = {token: level for level, tokens in enumerate(LEVELS) for token in tokens}
OPERATORS = dict.fromkeys(SIGNS, plus) | dict.fromkeys(("/", r"\over", r"\frac"), operator.truediv) | {
    "^": power, r"\binom": lambda n, k: factorial(n) / factorial(k) / factorial(n - k),
    r"\sqrt": lambda n, x: power(x, 1 / n)}
HEADS = {",": ("list",), r"\cup": ("union",), ":": ("tuple", ":")}
CLOSERS = {"(": ")]", "[": ")]", "{": "}", r"\{": (r"\}",), "|": ("|.",), r"\begin": (r"\end",)}
ENDS = {"", ")", "]", "}", r"\}", "|.", r"\end", r"\\", "_"}


def link(relation: str, left: tuple[Shape, bool], right: tuple[Shape, bool]) -> tuple:
    """One sign of a chain, the smaller side first: ("<", 5, x, False, True) for x > 5, where x is only a name."""
    (low, low_named), (high, high_named) = (right, left) if ">" in relation else (left, right)
    return relation.replace(">", "<"), low, high, low_named, high_named


class Parser:
    """Precedence climbing: `atom` reads what stands between operators, `expression` joins it, tightest first.

    A shape is Values, ("list" | "set" | "union" | "matrix" | "row", *shapes), ("tuple", brackets, *shapes),
    ("clock", "‹am›" | "‹pm›", shape) or ("relation", *links); a < b >= c is two links.
    """

    def __init__(self, tokens: Sequence[str], lower: bool = False) -> None:
        """lower: read the lower signs of \\pm and \\mp."""
        self.tokens = [*tokens, ""]
        self.at = 0
        self.depth = 0
        self.angle = False                                  # in the argument of a function, where ° counts
        self.names = {"(", ")", "[", "]", "{", "}", ",", ":"}
        self.minus = ("-", r"\pm" if lower else r"\mp")

    @property
    def next(self) -> str:
        return self.tokens[self.at]

    def fail(self) -> NoReturn:
        raise SyntaxError(f"unexpected {self.next or 'end'!r}")

    def eat(self, *options: str) -> str:
        """The next token if it is one of these, else ""."""
        if self.next not in options:
            return ""
        self.at += 1
        return self.tokens[self.at - 1]

    def parse(self) -> Shape:
        shape = self.expression()
        return shape if not self.next else self.fail()

    def expression(self, level: int = 0) -> Shape:
        """Atoms and the operators between them that bind tighter than this level."""
        self.depth += 1
        start = self.at
        minus = signs = 0
        while self.next in SIGNS or level == 0 and self.next == "=":
            minus += self.next in self.minus
            signs += bool(self.eat(self.next))
        left = self.expression(max(level, 4)) if signs else self.atom()
        left = compute(operator.neg, left) if minus % 2 else left
        side = None                                         # of a relation: its shape, and whether it is a name
        while self.next not in ENDS and BINDING.get(self.next, 5) > level:
            if self.unit():
                continue
            end = self.at
            joint = self.eat(*BINDING)
            if joint == "!":
                left = compute(factorial, left)
            elif joint == "°":
                left = compute(operator.mul, left, DEGREE if self.angle else ONE)
            elif joint in HALVES:
                left = ("clock", joint, left)
            elif not joint and self.tokens[end - 1][-1:].isdigit() and self.next[:1].isdigit():
                self.fail()                                 # "1 2"
            elif joint in RELATIONS:
                right = self.expression(BINDING[joint])
                side = side or (left, self.named(start, end, right))
                other = (right, self.named(end + 1, self.at, left))
                left = (*(left if left[0] == "relation" else ("relation",)), link(joint, side, other))
                side = other
            else:
                right = self.expression(BINDING.get(joint, 5) - (joint == "^"))
                right = compute(operator.neg, right) if joint in self.minus else right
                head = HEADS.get(joint)
                if not head:
                    left = compute(OPERATORS.get(joint, operator.mul), left, right)
                else:
                    left = (*left, right) if left[:len(head)] == head else (*head, left, right)
        self.depth -= 1
        return left

    def unit(self) -> bool:
        """Skip a unit after a number: ‹cm›^2, ‹km›/‹h›, ‹km›/h; it may not stand before a factor, as in 5 ‹ft› 6."""
        if not self.next.startswith("‹") or self.next in HALVES or self.tokens[self.at - 1][0] in "‹«":
            return False
        while self.next.startswith("‹"):
            self.at += 1
            if self.eat("^"):
                self.atom(True)
            if self.next in ("/", "*") and re.match("‹|[mgshL]$", self.tokens[self.at + 1]):
                self.at += 1
                self.tokens[self.at] = "‹per›"
        return self.next in ENDS or self.next in BINDING or self.fail()

    def named(self, start: int, end: int, other: Shape) -> bool:
        r"""Whether these tokens name the other side: x, AB, |AB|, (x,y), [ABC], m\angle A, f(3), P(A), \cos A."""
        side = self.tokens[start:end]
        if kind(other) == "matrix" and r"\begin" not in side and not side[0].isdigit():          # A^{-1}, u+v
            return True
        if side[1:2] == ["("] and (FUNCTION_NAME.fullmatch(side[0]) or side[0] in self.names and "," in side):
            return self.closing(start + 1) == end - 1
        if side[0] == "|":
            return all(token.isupper() for token in side[1:-1])
        return self.names.issuperset(side[1:] if side[0] in FUNCTIONS else side) and side[-1] not in FUNCTIONS

    def atom(self, digit: bool = False) -> Shape:
        r"""What stands between operators. A command takes one digit of it: `\frac43` = `\frac{4}{3}`."""
        if digit and self.next.isdecimal():
            self.tokens[self.at:self.at + 1] = self.next
        self.depth += 1
        token = self.next
        if self.depth > DEEPEST or token in ENDS or token in BINDING:
            self.fail()
        self.at += 1
        if token in CLOSERS:
            value = self.bracket(token)
        elif token == r"\sqrt":
            index = self.bracket("[")[-1] if self.eat("[") else TWO
            value = compute(OPERATORS[token], index, self.atom(True))
        elif token in OPERATORS:
            value = compute(OPERATORS[token], self.atom(True), self.atom(True))
        elif token in FUNCTIONS:
            value = self.call(token)
        elif re.fullmatch(r"\d+\.?\d*|\.\d+", token):
            value = Values([Fraction(token.rstrip("."))])
        elif token in CONSTANTS:
            value = CONSTANTS[token]
        elif not NAME.fullmatch(token):
            self.fail()
        else:
            value = self.applied(token)
        self.depth -= 1
        return value

    def applied(self, token: str) -> Values:
        """A name, or a function by name of what follows in parentheses: f(2x) is not 2 f(x), but a(2x) is 2 a x."""
        if not token[0].isdigit():
            self.names.add(token)
        name = token.strip("‹›«»")
        if self.next != "(":
            return variable(name)
        if name.strip("'") in ("f", "g") or name != token:
            return draw(name + spell(self.atom()))
        inside = self.tokens[self.at + 1:self.closing(self.at)]
        if not {",", "|", *RELATIONS}.intersection(inside):
            return variable(name)
        self.at += len(inside) + 2                          # C(5,2) or P(X = 1): the value of no product
        return draw(" ".join((name, *inside)))

    def closing(self, start: int) -> int:
        """Where the parenthesis that opens there closes."""
        depth = 0
        for at in range(start, len(self.tokens)):
            depth += (self.tokens[at] == "(") - (self.tokens[at] == ")")
            if not depth:
                return at
        self.fail()

    def bracket(self, opener: str) -> Shape:
        """What stands in a bracket: a tuple, a set, a matrix, an absolute value, or a plain expression."""
        rows = []
        while not rows or opener == r"\begin" and self.eat(r"\\"):
            shape = self.expression() if self.next not in ENDS else ("list",)
            rows.append(shape[1:] if shape[0] == "list" else (shape,))
        pair = opener + (self.eat(*CLOSERS[opener]) or self.fail())
        row = rows[0]
        kind = row[0][0] if len(row) == 1 else "list"
        if opener == r"\begin":
            return ("matrix", *(("row", *row) for row in rows if row))
        if opener == r"\{" or opener == "{" and len(row) > 1:
            return ("set", *row)
        if opener == "|" and kind != "list":
            return compute(abs, *row)
        if kind == "matrix" or pair in ("()", "{}") and kind not in ("list", "relation"):
            return row[0]
        return ("tuple", pair, *row) if row else self.fail()

    def call(self, name: str) -> Shape:
        r"""A function of a bracket, or of the factors that follow: `2\sin 5x\cos x` = `2\cos(x)\sin(5x)`."""
        base = self.atom() if name == r"\log" and self.eat("_") else None
        if base and self.next in ENDS | BINDING.keys() - {"^"}:                                 # \log_25 is \log_2 5
            self.at -= 1
            base = self.atom(True)
        exponent = self.expression(5) if self.eat("^") else ONE
        angle, self.angle = self.angle, True
        if self.next in CLOSERS:
            argument = self.atom()
        else:
            argument = self.expression(5)
            while self.next not in {*ENDS, *BINDING, *CLOSERS, *FUNCTIONS} and not self.next.startswith("‹"):
                argument = compute(operator.mul, argument, self.expression(5))
        self.angle = angle
        inverse = exponent == MINUS                                                             # \sin^{-1} is \arcsin
        function = FUNCTIONS.get("\\arc" + name[1:] if inverse else name) or self.fail()
        value = compute(function, argument)
        if base:
            value = compute(lambda y, b: y / cmath.log10(b), value, base)
        return value if inverse else compute(power, value, exponent)


class Reading(NamedTuple):
    tokens: tuple[str, ...]
    shape: Shape                                            # () if it does not parse
    kind: str                                               # in words
    exact: bool                                             # no float in it


def read(text: str, listed: bool = False) -> Reading:
    r"""The tokens and the shape of a text. With \pm two answers: `1 \pm i` = `1-i, 1+i`."""
    return recent(text, listed) if len(text) <= 100 else read_anew(text, listed)    # a long one may be a megabyte


def read_anew(text: str, listed: bool) -> Reading:
    tokens = tokenize(text, listed) if len(text) <= LONGEST else ()
    try:
        shape = Parser(tokens).parse()
        if r"\pm" in tokens or r"\mp" in tokens:
            upper, lower = (shape[1:] if shape[0] in ("list", "set") else (shape,)
                            for shape in (shape, Parser(tokens, lower=True).parse()))
            shape = ("list", *upper, *(b for a, b in zip(upper, lower, strict=True) if a != b))
    except SyntaxError:
        shape = ()
    if all(token[0] in "‹«," for token in tokens):
        described = "words"
    elif isinstance(shape, Values) and len(shape) > 1:
        described = "an expression"
    else:
        described = f"a {kind(shape)}" if shape else "nothing"
    return Reading(tokens, shape, described, is_exact(shape))


recent = lru_cache(4096)(read_anew)


def is_exact(shape: object) -> bool:
    return all(map(is_exact, shape)) if isinstance(shape, tuple) else not isinstance(shape, complex)
