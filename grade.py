r"""r_match (Sec. 3): does the final answer of a response match the ground truth?  Every reward rests on it.

    python grade.py '\frac{1}{2}' 0.5           equal or not, and the rule that decided

Text becomes tokens in one spelling, the normal form. A bounded parser reads them into a shape (tuple, set ..)
of expressions. An expression is its values at random points: fractions while those last, floats otherwise.

Policy where graders differ (`gold` = `prediction` is accepted, != refused; the tests run every such example):
  percent sign     dropped, never converted       `6\%` = `6`, `6\%` != `0.06`
  units, currency  dropped                        `15\text{ cm}` = `15`, `\$5` = `5`, `5` != `5\text{ dozen}`
  fractions        need not be reduced            `\frac{3}{4}` = `\frac{6}{8}`, `617` = `1,234/2`
  decimals         only if exactly equal          `\frac{1}{8}` = `0.125`, `\frac{1}{3}` != `0.3333333333`
  base suffix      must match                     `52_8` = `52_{8}`, `52_8` != `52`, `52_8` != `42`
  plain text       is read like LaTeX             `\frac{\pi}{2}` = `pi/2`, `14 - i` = `14.0 + -1.0i`
  brackets         are part of the answer         `(0,9)` != `[0,9)`, `(0,9)` != `\{0,9\}`, `(0,9)` != `0,9`
  order            of tuples, not of sets, lists  `(1,2)` != `(2,1)`, `\{1,2\}` = `2, 1`, `1,1,2` != `1,2,2`
  thousands        where written as such          `1000` = `1{,}000`, `(1,000)` != `1000`, `1,000` != `1, 000`
  naming           the answer is optional         `x = 5` = `5`, `5` = `x = 5`, `x = 5` != `y = 5`
  interval         for an inequality, not v.v.    `x > 5` = `(5, \infty)`, `(5, \infty)` != `x > 5`
  column vector    is not a tuple                 `\begin{pmatrix} 1 \\ 2 \end{pmatrix}` != `(1,2)`
"""
import argparse, cmath, math, operator, random, re, sys
from fractions import Fraction
from functools import lru_cache

LONGEST, DEEPEST, WIDEST, BITS = 1000, 50, 50, 10_000    # characters, nesting, items, integers: what we read

# ---- Extraction --------------------------------------------------------------------------------------------
BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*(?:\{|([^\s$}]*))")
BRACE, BETWEEN = re.compile(r"(?<!\\)[{}]"), re.compile(r"(?:\\text|\band\b|\bor\b|\b\w *=|[\s$,;{}])*")
STATED = re.compile(r"(?:####|\banswer(?: is\b| ?:))[\s:*]*", re.IGNORECASE)

def extract(text):
    r"""The last \boxed{} or \fbox{}; with no box, what follows "####", "answer is" or "answer:" on the line.
    "so \boxed{\frac{1}{2}}." gives \frac{1}{2}, "\boxed 5" gives 5; None if the last box is open or empty.
    Boxes with only "and", "or" or a comma in between are one answer: "\boxed{1} or \boxed{2}" gives "1, 2".
    """
    answers, start, boxes = [], len(text), list(BOX.finditer(text))
    for box in reversed(boxes[-WIDEST:]):
        depth, content, end = 1, (box[1] or "").rstrip(".,;:"), box.end()
        for brace in BRACE.finditer(text, end, min(start, end + LONGEST) if box[1] is None else end):
            depth += 1 if brace[0] == "{" else -1
            if depth == 0:
                content, end = text[end:brace.start()].strip(), brace.end()
                break
        if not content or answers and not BETWEEN.fullmatch(text, end, start): break
        answers, start = [content, *answers], box.start()
    if boxes: return ", ".join(answers) or None
    _, *stated = STATED.split(text)
    return stated[-1].split("\n")[0].split(". ")[0].strip(" \r.*$") or None if stated else None

# ---- Normal form: text to tokens ---------------------------------------------------------------------------
FUNCTIONS = {"\\" + f: getattr(cmath, f.replace("arc", "a")) for f in
             "sin cos tan arcsin arccos arctan sinh cosh tanh exp".split()} | {
    r"\ln": cmath.log, r"\log": cmath.log10, r"\sec": lambda z: 1 / cmath.cos(z),
    r"\csc": lambda z: 1 / cmath.sin(z), r"\cot": lambda z: 1 / cmath.tan(z)}
GREEK = "alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi rho sigma tau phi chi psi omega"
ALIASES = {alias: token for token, aliases in {
    "": r"\left \right \big \Big \bigl \bigr \Bigl \Bigr \text \mathbf \boldsymbol \( \) \[ \] "
        r"\! % \% € £", "^": "**", r"\frac": r"\dfrac \tfrac \cfrac", r"\binom": r"\dbinom \tbinom",
    "*": r"\cdot \times · ×", "/": r"\div ÷", "-": "− –", r"\pm": "±", r"\cup": "∪", ",": r"; \lor &",
    "<=": r"\le \leq \leqslant ≤", ">=": r"\ge \geq \geqslant ≥", "<": r"\lt", ">": r"\gt", "!=": r"\ne \neq",
    "=": r"\approx ≈ \equiv \in ∈", "|": r"\lvert \rvert \vert \mid", r"\{": r"\lbrace", r"\}": r"\rbrace",
    "(": r"\langle", ")": r"\rangle", **{"\\" + letter: letter for letter in GREEK.split()},
    r"\pi": "pi π", r"\sqrt": "sqrt √", r"\infty": "infty infinity inf oo ∞", **{f: f[1:] for f in FUNCTIONS},
    r"\begin": r"\begin{matrix} \begin{pmatrix} \begin{bmatrix} \begin{array}",
    r"\end": r"\end{matrix} \end{pmatrix} \end{bmatrix} \end{array}"}.items() for alias in aliases.split()}

def quote(match):
    r"""Words go into ‹›, so that they are not read as products of letters: `\text{east}` != `\text{seat}`."""
    def word(letters):
        name = re.sub("[ .]", "", letters[0])
        return letters[0] if name in (*ALIASES, "e", "i") else f"‹{name.lower() if name[1:] else name}›"
    return re.sub(r"[A-Za-z][A-Za-z. ]*", word, match[1].strip())

WORD = (r"‹(?!(?:dozen|hundred|thousand|(?:m|b|tr)illion|hal[fv]e?|third|tenth|squared|cubed)s?›)[^‹›]*›"
        r"(?: ?\^ ?(?:\d|\{-?\d+\}))?")                 # a unit: ‹cm›^2, but not the ‹dozen› of 5 ‹dozen›
NOTATION = [(re.compile(pattern), new) for pattern, new in (
    (r"(?<=\d)(?<!_\d)(?<!_\d\d)(?:\{,\}|, ?\\! ?|\\[,;: ]|~| )(?=\d{3}(?!\d))", ""),   # 1{,}000  1\,000
    (r"(?: |(?<!\\)\\[,;:>$ ]|[~$]|\\q?quad(?![a-z]))+", " "), ("[‹›]", ""), ("²", "^2 "), ("³", "^3 "),
    (r"\\[hv]?phantom ?(?:\{[^{}]*\}|.)|\\displaystyle", ""), (r"(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])", ","),
    (r"\\(?:text[a-z]*|mbox|mathrm|operatorname) ?\{([^{}]*)\}", quote), (r"\b([fg])\^\{-1\}(?=\()", r"\1''"),
    (r"(?<![‹A-Za-z\\{])(cm|mm|km|kg|ft|lb|hr|mph|sec|min|per|sq|(?<!\d)[a-z]{4,})(?![A-Za-z])", quote),
    (r"(?i)(?<![\\A-Za-z])‹?([ap])\.?m\.?›?(?![A-Za-z])", r":‹\1m›"),        # 8:34 a.m. is not 8:34 p.m.
    (r"(?:(?:\^|(?<=\d)) ?(?:\\circ(?![a-z])|\{ ?\\circ ?\})|\\degree|°)(?: ?[CF]\b)?", "°"),
    (rf"(?<=[\w)}}\]°]) ?{WORD}(?: ?[/*.]? ?{WORD}|/[a-z]\b)*", " "),        # a unit, as in 5 ‹km›/h
    (r"(?<![\w.^\\])(\d+) ?\\[dt]?frac ?(?:(\d)|\{(\d+)\}) ?(?:(\d)|\{(\d+)\})", r"(\1+\2\3/\4\5)"),
    (r"(?<![\w.^\\])(\d+) (\d+)/(\d+)(?!\d)", r"(\1+\2/\3)"), (r"\\mathbb ?\{?R\}?", r"(-\\infty,\\infty)"),
    (r"\\(?:emptyset|varnothing)(?![a-z])", r"\\{\\}"), (r"(?<!\d)(\d+)\.(\d*)\\(?:overline|bar) ?\{(\d+)\}",
     lambda m: f"(({m[1]}{m[2]}{m[3]}-{m[1]}{m[2]})/{'9' * len(m[3])}{'0' * len(m[2])})"),  # (16-1)/90
    (r"(\\begin ?\{array\}) ?\{[^{}]*\}|\((\d+)\)(?= ?_)", r"\1\2"), (r" ?_ ?\{ ?(\w+) ?\}", r"_\1 "))]
TOKEN = re.compile(r"‹[^‹›]*›|\\(?:begin|end)\{\w+\}|\\\\|\\(?!log)[A-Za-z]+_\w|\\[A-Za-z]+|\\.|\*\*|[<>!]="
                   r"|\d+_\d+|[A-Za-z]'*_(?:\d+|[a-z])|[A-Za-z]'+|[A-Za-z]+"
                   r"|(?<![\d,.])\d{1,3}(?:,\d{3})+(?!,?\d)(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+|\S", re.ASCII)

def tokenize(text):
    r"""The normal form: one spelling for each notation. `\left( \dfrac 12, 2 \right]` = `(\frac{1}{2},2]`.

    Spaces, \left, \$, \% and units go. Words of four letters or three capitals stay whole, other letters are
    variables. A comma in a number counts only outside brackets: `12,345` = `12345`, `(12,345)` != `(12345)`.
    A fraction right after an integer is added to it: `-1\frac45` = `-\frac95`, `0.1\overline{6}` = `1/6`.
    """
    text, tokens, depth = " ".join(text.split()), [], 0
    for pattern, new in NOTATION: text = pattern.sub(new, text)
    for token in TOKEN.findall(text.rstrip(" .,;:")):
        token = ALIASES.get(token, token)
        depth += (token in ("(", "[", r"\{")) - (token in (")", "]", r"\}"))
        if re.match(r"\d+,", token): tokens += re.split("(,)", token) if depth else [token.replace(",", "")]
        elif token.isalpha() and not re.fullmatch("[A-Z]{3,}|[A-Za-z]{4,}", token): tokens += token
        elif token == "|": tokens.append("|" if tokens.count("|") == tokens.count("|.") else "|.")
        elif token and (token != "," or tokens[-1:] not in ([], [","])): tokens.append(token.strip("‹›"))
    return tuple(tokens)

# ---- Arithmetic: an expression is its values at random points ----------------------------------------------
class Values(tuple): "The values of an expression at the random points, of a constant one; None: undefined."

def compute(function, *expressions):
    """A function of expressions, point by point: of fractions if all are, else of complex floats."""
    if not all(isinstance(values, Values) for values in expressions): raise SyntaxError("not a number")
    results, points = [], max(map(len, expressions))
    for numbers in zip(*(values * (points // len(values)) for values in expressions)):
        try: results.append(function(*(numbers if exact(*numbers) else map(inexact, numbers))))
        except (ArithmeticError, ValueError, TypeError): results.append(None)   # 1/0, too large, None already
    return Values(results)

def exact(*xs, n=1):
    """Whether all are fractions, and short enough to be multiplied n times."""
    return all(isinstance(x, Fraction) and (x.numerator * x.denominator).bit_length() * n < BITS for x in xs)

def inexact(x):
    r"""A float; not of a long fraction, which may be an approximation: `\sqrt{2}` != `1.4142135623730951`."""
    long = type(x) is Fraction and (x.denominator > 1e5 or abs(x.numerator) > (1e15 if x == int(x) else 1e10))
    return 1 / 0 if long else complex(x)

def plus(x, y):
    """Floats may not vanish beside each other: `1 + 10^{-30}` != `1`, `e^{-40} + 1` != `1`."""
    lost = not exact(x, y) and (x and y and not 1e-10 < abs(x / y) < 1e10 or 0 < abs(x + y) < 1e-10 * abs(x))
    return 1 / 0 if lost else x + y

def power(x, y):
    r"""`\sqrt[3]{-8}` = `-2`, `\sqrt{12}` = `2\sqrt{3}`, `e^{-1000}` != `0`; 9^{9^{9^9}} is not attempted."""
    if exact(x, y) and y.denominator == 1 and exact(x, n=abs(y)): return x ** y.numerator
    if exact(x, y) and x < 0 and y.denominator % 2: return (-1) ** (y.numerator % 2) * power(-x, y)
    result = inexact(x) ** inexact(y)
    return result if result or not x else 1 / 0

def factorial(n):
    return Fraction(math.factorial(int(n))) if exact(n) and n.denominator == 1 and 0 <= n <= 800 else 1 / 0

@lru_cache(10_000)
def variable(name):
    r"""20 random numbers, 4 above 0: `\ln x+\ln y` = `\ln(xy)`; 3 not whole: `\cos 2\pi t` != `\cos\pi t`."""
    chance, kinds = random.Random(name), [(1, 1)] * 3 + [(1, 7)] + [(-1, 1)] * 14 + [(-1, 7)] * 2
    return Values(Fraction(chance.randint(2, 59) * chance.choice((1, sign)), part) for sign, part in kinds)

CONSTANTS = {r"\pi": Values([cmath.pi + 0j]), "e": Values([cmath.e + 0j]), "i": Values([1j])}
NAME = re.compile(rf"(\\((var)?({GREEK.replace(' ', '|')})|infty|ell|triangle|angle|cap)|\w+'*)(_\w+)?", re.I)
ONE, MINUS, TWO, DEGREE = (Values([x]) for x in (Fraction(1), Fraction(-1), Fraction(2), cmath.pi / 180 + 0j))

# ---- Parser: tokens to a shape of expressions --------------------------------------------------------------
RELATIONS, SIGNS = ("=", "<", ">", "<=", ">=", "!="), ("+", "-", r"\pm", r"\mp")
LEVELS = (), (",",), RELATIONS, (":", r"\cup", r"\over"), SIGNS, ("*", "/"), ("^",), ("!", "°")
BINDING = {token: level for level, tokens in enumerate(LEVELS) for token in tokens}
OPERATORS = dict.fromkeys(SIGNS, plus) | dict.fromkeys(("/", r"\over", r"\frac"), operator.truediv) | {
    "^": power, r"\binom": lambda n, k: factorial(n) / factorial(k) / factorial(n - k),
    r"\sqrt": lambda n, x: power(x, 1 / n)}
HEADS = {",": ("list",), r"\cup": ("union",), ":": ("tuple", ":")} | dict.fromkeys(RELATIONS, ("relation",))
CLOSERS = {"(": ")]", "[": ")]", "{": "}", r"\{": (r"\}",), "|": ("|.",), r"\begin": (r"\end",)}
ENDS = {"", ")", "]", "}", r"\}", "|.", r"\end", r"\\", "_"}

class Parser:
    """Precedence climbing: `atom` reads what stands between operators, `expression` joins it, tightest first.

    A shape is Values, ("list" | "set" | "union" | "matrix" | "row", *shapes), ("tuple", brackets, *shapes) or
    ("relation", *links): a < b >= c is two links (operator, low, high, is low only a name?, is high?).
    """
    next = property(lambda self: self.tokens[self.at])
    def fail(self): raise SyntaxError(f"unexpected {self.next or 'end'!r}")
    def __init__(self, tokens, lower=False):
        self.tokens, self.at, self.depth, self.angle = [*tokens, ""], 0, 0, False
        self.names, self.minus = {"(", ")", ","}, ("-", r"\pm" if lower else r"\mp")

    def eat(self, *options):
        self.at += (found := self.next in options)
        return self.tokens[self.at - 1] if found else ""

    def expression(self, level=0):
        self.depth, start, signs, middle = self.depth + 1, self.at, [], ()
        while sign := self.eat(*SIGNS, *["="] * (level == 0)): signs.append(sign in self.minus)
        left = self.expression(max(level, 4)) if signs else self.atom()
        left = compute(operator.neg, left) if sum(signs) % 2 else left
        while self.next not in ENDS and BINDING.get(self.next, 5) > level:
            end, joint = self.at, self.eat(*BINDING)
            if joint == "!": left = compute(factorial, left)
            elif joint == "°": left = compute(operator.mul, left, DEGREE if self.angle else ONE)
            elif not joint and (self.next[:1] + self.tokens[end - 1][-1:]).isdigit(): self.fail()  # "1 2"
            else:
                right, head = self.expression(BINDING.get(joint, 5) - (joint == "^")), HEADS.get(joint)
                right = compute(operator.neg, right) if joint in self.minus else right
                if joint in RELATIONS:
                    chain = left[0] == "relation"
                    sides = (middle if chain else left, start, end), (right, end + 1, self.at)
                    sides = [(side, self.names.issuperset(self.tokens[a:b])) for side, a, b in sides]
                    (low, low_named), (high, high_named) = sides[::-1] if ">" in joint else sides
                    left, middle, start = left if chain else head, right, end + 1
                    right = (joint.replace(">", "<"), low, high, low_named, high_named)
                if head: left = (*left, right) if left[:len(head)] == head else (*head, left, right)
                else: left = compute(OPERATORS.get(joint, operator.mul), left, right)
        self.depth -= 1
        return left if self.depth or not self.next else self.fail()

    def atom(self, digit=False):
        r"""What stands between operators. A command takes one digit of it: `\frac43` = `\frac{4}{3}`."""
        if digit and self.next.isdecimal(): self.tokens[self.at:self.at + 1] = self.next
        self.depth, token = self.depth + 1, self.next
        if self.depth > DEEPEST or token in ENDS or token in BINDING: self.fail()
        self.at += 1
        if token in CLOSERS: value = self.bracket(token)
        elif token in OPERATORS:
            first = self.atom(True) if token != r"\sqrt" else self.bracket("[")[-1] if self.eat("[") else TWO
            value = compute(OPERATORS[token], first, self.atom(True))
        elif token in FUNCTIONS: value = self.call(token)
        elif re.fullmatch(r"\d+\.?\d*|\.\d+", token): value = Values([Fraction(token.rstrip("."))])
        elif not (value := CONSTANTS.get(token)):
            self.names.add(token if NAME.fullmatch(token) else self.fail())
            applied = self.next == "(" and token.strip("'") in ("f", "g")                 # f(2x) is not 2f(x)
            value = variable(f"{token}{self.atom()}" if applied else token)
        self.depth -= 1
        return value

    def bracket(self, opener):
        rows = []
        while not rows or opener == r"\begin" and self.eat(r"\\"):
            shape = self.expression() if self.next not in ENDS else ("list",)
            rows.append(shape[1:] if shape[0] == "list" else (shape,))
        pair, row = opener + (self.eat(*CLOSERS[opener]) or self.fail()), rows[0]
        if opener == r"\begin": return ("matrix", *(("row", *row) for row in rows if row))
        if opener == r"\{" or opener == "{" and len(row) > 1: return ("set", *row)
        kind = row[0][0] if len(row) == 1 else "list"
        if opener == "|" and kind != "list": return compute(abs, *row)
        if kind == "matrix" or pair in ("()", "{}") and kind not in ("list", "relation"): return row[0]
        return ("tuple", pair, *row) if row else self.fail()

    def call(self, name):
        r"""A function of a bracket, or of the factors that follow: `2\sin 5x\cos x` = `2\cos(x)\sin(5x)`."""
        base = self.atom() if name == r"\log" and self.eat("_") else None
        if base and self.next in ENDS | BINDING.keys() - {"^"}: self.at -= 1; base = self.atom(True) # \log_25
        exponent = self.expression(5) if self.eat("^") else ONE
        bracketed, angle, self.angle = self.next in CLOSERS, self.angle, True
        argument = self.atom() if bracketed else self.expression(5)
        while not bracketed and self.next not in {*ENDS, *BINDING, *CLOSERS, *FUNCTIONS}:
            argument = compute(operator.mul, argument, self.expression(5))
        self.angle, inverse = angle, exponent == MINUS                          # \sin^{-1} x is \arcsin x
        value = compute(FUNCTIONS.get("\\arc" + name[1:] if inverse else name) or self.fail(), argument)
        value = compute(lambda y, b: y / cmath.log10(b), value, base) if base else value
        return value if inverse else compute(power, value, exponent)

@lru_cache(10_000)
def read(text):
    r"""The tokens and the shape of a text, () if unreadable. With \pm two answers: `1 \pm i` = `1-i, 1+i`."""
    tokens = tokenize(text) if len(text) <= LONGEST else ()
    try:
        shape = Parser(tokens).expression()
        if {r"\pm", r"\mp"} & {*tokens}:
            upper, lower = (shape[1:] if shape[0] in ("list", "set") else (shape,)
                            for shape in (shape, Parser(tokens, lower=True).expression()))
            shape = ("list", *upper, *(b for a, b in zip(upper, lower) if a != b))
        return tokens, shape
    except SyntaxError: return tokens, ()

# ---- Equality: shape by shape ------------------------------------------------------------------------------
def same(gold, answer):
    """Tuples, intervals and matrices in order; sets, lists and unions in any order."""
    kinds = ["number" if isinstance(shape, Values) else shape[0] for shape in (gold, answer)]
    if "relation" in kinds: return relations(gold, answer)
    if kinds == ["number", "number"]: return len(gold) >= len(answer) and numbers(gold, answer) # 2^{9}, x^{9}
    if kinds == ["number", "list"]: return all(same(gold, x) for x in answer[1:])       # "15/2, or 7.5"
    if {*kinds} <= {"list", "set"} or kinds == ["union", "union"]: return matching(gold[1:], answer[1:], same)
    return kinds[0] == kinds[1] and len(gold) == len(answer) and all(
        a == b if isinstance(a, str) else same(a, b) for a, b in zip(gold[1:], answer[1:]))

def matching(golds, answers, alike):
    """Whether the two can be paired off."""
    if len(golds) != len(answers) or len(golds) > WIDEST: return False
    rest = list(answers)
    return all(any(alike(gold, x) and [rest.pop(k)] for k, x in enumerate(rest)) for gold in golds)

def numbers(gold, answer):
    r"""`\sqrt{8}/2` = `\sqrt{2}`, `(x+1)^2` = `x^2+2x+1`, `\tan^2 y + 1` = `\sec^2 y`, `|x|` != `x`."""
    close = lambda x, y: x == y if exact(x, y) else cmath.isclose(x, y, rel_tol=1e-12)
    real = compute(lambda x, y: close(x, y) if abs(x.imag) <= 1e-9 * abs(x) else None, gold, answer)
    return ({*real} - {None} or {*compute(close, gold, answer)} - {None}) == {True}   # \sqrt{x} where real

def relations(gold, answer):
    r"""`y = 2x + 3` = `4x - 2y = -6`, `x < 5` = `5 > x`, `x < 5` = `x\in(-\infty,5)`, `x < 5` != `x\le 5`."""
    bare = [x if x[0] != "relation" else x[-1][2] if x[1][3] and all(                # 5 for x = 2 + 3 = 5
        link[0] == "=" and same(link[2], x[-1][2]) for link in x[1:]) else () for x in (gold, answer)]
    if gold[0] == "relation" and "<" in gold[1][0] and bare[1]: return same(interval(gold[1:]), bare[1])
    if gold[0] == answer[0]: return matching(gold[1:], answer[1:], proportional)
    return all(bare) and same(*bare)

def proportional(gold, answer):
    """Equations may differ by a factor, inequalities by a positive one."""
    (relation, a, b, *_), (other, c, d, *_) = gold, answer
    if relation != other or same(a, c) and same(b, d): return relation == other
    if not all(isinstance(side, Values) for side in (a, b, c, d)): return False
    ratios = compute(lambda a, b, c, d: (a - b) / (c - d), a, b, c, d)
    first = Values([next((ratio for ratio in ratios if ratio), None)])
    return len(ratios) > 1 and numbers(first, ratios) and ("<" not in relation or first[0].real > 0)

def interval(links):
    """-2 <= x < 7 as [-2, 7)."""
    low, high, pair = compute(operator.neg, variable(r"\infty")), variable(r"\infty"), ["(", ")"]
    for sign, a, b, _, named in links:
        low, high = (a, high) if named else (low, b)
        pair[not named] = "([)]"[2 * (not named) + ("=" in sign)]
    return ("tuple", "".join(pair), low, high)

def decide(gold, prediction):
    """Whether the prediction is the gold answer, and the rule that decided."""
    if not isinstance(gold, str) or not isinstance(prediction, str): return False, "no answer"
    if BOX.search(prediction): prediction = extract(prediction) or ""
    if gold.strip() == prediction.strip(): return gold.strip() != "", "the same string"
    if max(len(gold), len(prediction)) > LONGEST: return False, "too long to be read"
    (tokens, shape), (other_tokens, other) = read(gold), read(prediction)
    if tokens == other_tokens and tokens: return True, "the same normal form"
    word, heard = (re.sub(r"\\(text[a-z]*|mbox|mathrm)|[{}\s.]", "", x).lower() for x in (gold, prediction))
    if word == heard and word.isalpha() and (word[3:] or "\\" in gold + prediction): return True, "same words"
    if not shape or not other: return False, f"the {'prediction' if shape else 'gold'} does not parse"
    how = "in floating point" if "j" in repr((shape, other)) else "exactly"
    return same(shape, other), f"compared as a {'number' if isinstance(shape, Values) else shape[0]}, {how}"

def equal(gold, prediction):
    """Whether the prediction is the gold answer, in whatever notation."""
    plain = type(gold) is type(prediction) is str and gold.isdecimal() and prediction.isdecimal()
    return gold.lstrip("0") == prediction.lstrip("0") if plain else decide(gold, prediction)[0]

def parses(gold):
    """Whether anything but its own spelling can match this gold."""
    return isinstance(gold, str) and bool(shape := read(gold)[1]) and same(shape, shape)

def main(arguments):
    parser = argparse.ArgumentParser("grade.py", None, __doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("gold", help="the ground truth, in LaTeX")
    parser.add_argument("prediction", help="the answer to grade, or a whole response with its \\boxed{}")
    parser.error = lambda message: sys.exit(f"grade.py: {message}; see grade.py --help")
    options = parser.parse_args(arguments if {"-h", "--help"} & {*arguments} else ["--", *arguments])
    verdict, reason = decide(options.gold, options.prediction)
    print(f"{'equal' if verdict else 'not equal'} ({reason})")
if __name__ == "__main__": main(sys.argv[1:])
