r"""LaTeX, or plain text like it, as tokens in one spelling: the normal form that grade.py compares first.

    >>> tokenize(r"\left( \dfrac12, 3 \text{ cm} \right]")
    ('(', '\\frac', '12', ',', '3', '‹cm›', ']')

Characters become LaTeX, notations are rewritten one after another (NOTATION), and what is left is cut into tokens.
A phrase becomes a ‹unit›, or a «name» if it cannot be a unit.
"""
import cmath
import re
import unicodedata
from fractions import Fraction

FUNCTIONS = {"\\" + name: getattr(cmath, name.replace("arc", "a"))
             for name in "sin cos tan arcsin arccos arctan sinh cosh tanh exp".split()}
FUNCTIONS |= {r"\ln": cmath.log, r"\log": cmath.log10, r"\sec": lambda z: 1 / cmath.cos(z),
              r"\csc": lambda z: 1 / cmath.sin(z), r"\cot": lambda z: 1 / cmath.tan(z)}
GREEK = "alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi rho sigma tau phi chi psi omega"
ALIASES = {alias: token for token, aliases in {
    "": r"\( \) \[ \] \% % € £ ¥ ¢", "^": "**", r"\frac": r"\dfrac \tfrac \cfrac", r"\binom": r"\dbinom \tbinom",
    "*": r"\cdot \times", "/": r"\div", ",": r"; \lor &", "|": r"\lvert \rvert \vert \mid", "!=": r"\ne \neq",
    "<=": r"\le \leq \leqslant", ">=": r"\ge \geq \geqslant", "<": r"\lt", ">": r"\gt", "=": r"\approx \equiv \in",
    r"\{": r"\lbrace", r"\}": r"\rbrace", "(": r"\langle", ")": r"\rangle", r"\pi": "pi", r"\sqrt": "sqrt",
    r"\angle": r"\measuredangle", r"\infty": "infty infinity inf oo", **{name: name[1:] for name in FUNCTIONS},
    **{"\\" + letter: letter for letter in GREEK.split()},
}.items() for alias in aliases.split()}


def character_table() -> dict[int, str]:
    """Characters that LaTeX spells otherwise: − is -, ½ is \\frac{1}{2}, full-width and bold digits are digits."""
    table = {ord(character): new for characters, new in {
        "−–—‐‑‒―﹣": "-", "·×⋅∙∗": "*", "÷⁄∕": "/", "∶": ":", "∣": "|", "、": ",", "。": ".", "‘’′": "'", "“”„": '"',
        "‹›«»": " ", "\u200b\u200c\u200d\u2060\u2061\u2062\u2063\ufeff": "", "∘": r"\circ ", "º℃℉": "°",
        "±": r"\pm ", "∓": r"\mp ", "∪": r"\cup ", "≤≦⩽": "<=", "≥≧⩾": ">=", "≠": "!=", "≈∈≡": "=", "π": " pi ",
        "∞": r"\infty ", "∅": r"\emptyset ", "ℝ": r"\R ", "⟨": "(", "⟩": ")", "∠": r"\angle ", "△": r"\triangle ",
    }.items() for character in characters}
    for name in GREEK.split():
        table[ord(unicodedata.lookup("GREEK SMALL LETTER " + name.replace("lambda", "lamda")))] = f" {name} "
    for code in (*range(0xFF01, 0xFF5F), *range(0x1D400, 0x1D800)):
        table[code] = unicodedata.normalize("NFKC", chr(code)).translate(table)
    for code in (*range(0xBC, 0xBF), *range(0x2150, 0x215F)):
        value = Fraction(unicodedata.numeric(chr(code))).limit_denominator(10)
        table[code] = rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
    return table


CHARACTERS = character_table()
SCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻₀₁₂₃₄₅₆₇₈₉", "0123456789-0123456789")

# ---------------------------------------------------------------------------------------------------------------------
# Words
CARDINALS = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
             "seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety").split()
# A phrase with one of these in it is no unit: 3 dozen eggs are not 3. "two-digit numbers" are a unit.
NOT_UNITS = re.compile(
    rf"\b(?:(?:{'|'.join(CARDINALS)}|hundred|thousand|\w+illion|dozen|lakh|crore)s?(?!-digit)|half|halves"
    r"|(?:third|quarter|(?:four|fif|six|seven|eigh|nin|ten|eleven|twelf|\w+teen|\w+tie|hundred|thousand|\w+illion)th)s?"
    r"|not|twice|thrice|repeating|recurring|january|february|march|april|may|june|july|august|september|october"
    r"|november|december|(?:sun|mon|tues|wednes|thurs|fri|satur)days?)\b", re.IGNORECASE)
# Nor is a phrase that begins with one of these: 3 pairs are not 3, though 3 ordered pairs are.
NOT_FIRST = re.compile(r"(?:squared|cubed|factorial|pairs?|couples?|score|gross|grand|mil|bn|doubled?|tripled?"
                       r"|halved|ths|rds|nds|thous|permille|root|fold)\b", re.IGNORECASE)
ONE_LETTER_UNITS = "mgshlLNJKVWCF"


def quote(match: re.Match) -> str:
    r"""A phrase as ‹unit› or «name», so that it is not read as a product of letters.

    `\text{east}` != `\text{seat}`, `5\text{ cm}` = `5`, `5\text{x}` = `5x`, `5\text{ dozen}` != `5`.
    """
    if re.search("[‹«]", match[1]):
        return match[1]
    follows = match.string[match.end():match.end() + 2]
    may_be_function = match[0].startswith((r"\mathrm", r"\operatorname")) and re.match(r" ?[\w\\({^]", follows)

    def word(phrase: re.Match) -> str:
        name = re.sub("[^A-Za-z]", "", phrase[0])
        if name in ("e", "i") or name in ALIASES and (name != "sec" or may_be_function):
            return phrase[0]
        if len(name) == 1:
            unit = name in ONE_LETTER_UNITS
        else:
            name = name.lower()
            unit = not NOT_UNITS.search(phrase[0]) and not NOT_FIRST.match(phrase[0])
        return f"‹{name}›" if unit else f"«{name}»"
    return re.sub(r"[A-Za-z](?:[A-Za-z]|[. ']+(?=[A-Za-z])|(?<=[a-z]{2})-(?=[a-z]))*\.?", word, match[1].strip())


TEXT = r"\\(?:text[a-z]*|mbox|hbox|mathrm|operatorname) ?\{([^{}]*)\}"
SHORT_UNIT = (r"(?:cm|mm|km|kg|ft|lbs?|hrs?|mph|mins?|sq\.?|oz|USD|per|m/s|m/h|men|day|cup|egg|ton|off|o'clock"
              r"|sec(?! ?[\w\\({^]))(?![A-Za-z])")
SMALL_WORD = r"(?:of|the|an?|in|to|by|at|for|on|all|no|is|are|any|per)(?![A-Za-z])"
SYMBOL = rf"(?:{'|'.join(filter(str.isalpha, ALIASES))})(?![A-Za-z])"
PLAIN_WORD = rf"(?!{SYMBOL})(?:[A-Z][a-z]{{2,}}|[a-z]{{4,}})(?![A-Za-z])"
PHRASE = rf"{SHORT_UNIT}|(?<!\d)(?:{SMALL_WORD} )*{PLAIN_WORD}(?: (?:{SMALL_WORD}|{PLAIN_WORD}))*"


# ---------------------------------------------------------------------------------------------------------------------
# Notations
def opaque(text: str) -> str:
    """A part of a name: letters and digits stay, any other sign is its code."""
    return re.sub(r"\W", lambda sign: f"{ord(sign[0]):x}", re.sub("[‹›«» {}]", "", text))


def subscript(match: re.Match) -> str:
    r"""a_{n+1} as one name, «a_n2b1»."""
    return f"«{match[1]}_{opaque(match[2])}»"


def base(match: re.Match) -> str:
    """The subscript for the base eight, be it written so or 8."""
    found = next(filter(None, match.groups()[1:]))
    return f"_{CARDINALS.index(found) if found in CARDINALS else found} "


def repeating(match: re.Match) -> str:
    r"""0.1\overline{6} as (16-1)/90: `0.1\overline{6}` = `\frac16`."""
    whole, fixed, period = match.groups()
    return f"(({whole}{fixed}{period}-{whole}{fixed})/{'9' * len(period)}{'0' * len(fixed)})"


SIZES = (r"left|right|middle|(?:bigg?|Bigg?)[lrm]?|displaystyle|textstyle|scriptstyle|limits|tiny|scriptsize"
         r"|footnotesize|small|normalsize|large|Large|LARGE|huge|Huge|bm|pmb|boldsymbol|math(?:bf|bb)(?! ?\{? ?R\b)"
         r"|mathit|mathsf|mathtt|mathcal|mathscr|mathnormal|emph|underline|uline|bf|rm|it|sf|tt|vec|overrightarrow"
         r"|overleftrightarrow|overarc|wideparen|ensuremath|hfill|noindent|strut")
REALS = (r"\\(?:mathbb|mathbf|Bbb) ?(?:\{ ?R ?\}|R)(?! ?[=_^])|\\R(?![A-Za-z])|(?<![\d)}])(?<![\d)}] )[‹«](?:the)?"
         r"(?:setof)?(?:reals|realnumbers?|(?:all|any|every)(?:the)?real(?:s|numbers?|values?)?)(?:of)?[›»]"
         r"(?: ?[a-z](?![A-Za-z]))?")
ORDINAL, LETTER, NUMERAL = "[‹«]?(?:st|nd|rd|th)[›»]?", r"(?<![A-Za-z\\])([A-Za-z]'*)", f"({'|'.join(CARDINALS)})"
ACCENTED = r"(?:\{ ?(\\?[A-Za-z]\w*'?) ?\}|([A-Za-z]|\\[a-z]+))(?![A-Za-z])"

NOTATION = [(re.compile(pattern), new) for pattern, new in (
    # characters, fonts, sizes and spaces: what goes leaves a space, so that no digits are joined
    ("^ ?(?:[*][*]|[\"'`]{1,2}) ?(.*?) ?(?:[*][*]|[\"'`]{1,2})[ .]*$", r"\1"),                      # '42', **42**
    ("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda match: f"^{{{match[0].translate(SCRIPTS)}}}"),                        # x², 10⁻³
    ("[₀₁₂₃₄₅₆₇₈₉]+", lambda match: f"_{{{match[0].translate(SCRIPTS)}}}"),
    (r"(?:√|(?<![\\A-Za-z])sqrt) ?(\d+)", r"\\sqrt{\1}"),                                           # √12
    ("√", r"\\sqrt "),
    (r"(?<=\d)(?<!_\d)(?<!_\d\d)(?:\{,\}|, ?\\! ?|\\[,;: ]|~| )(?=\d{3}(?!\d))", ""),               # 1{,}000, 1\,000
    (r"\\!|(?<=:)\}|\{(?=:\})|(?<!\\)\\$|(?:\\\\ ?)+$|\\(?:left|right) ?\.", ""),
    (r"\\[hv]?phantom ?(?:\{[^{}]*\}|.)", " "),
    (r"\\(?:(?:text)?color(?:box)? ?\{[^{}]*\}|[hv]space\*? ?\{[^{}]*\}|(?:overset|stackrel) ?\{ ?\\frown ?\})", " "),
    (rf"\\(?:{SIZES})(?![A-Za-z])", " "),
    (r"(?: |(?<!\\)\\[,;:>$ ]|[~$]|\\q?quad(?![a-z]))+", " "),
    # matrices
    (r"\\(begin|end) ?\{ ?(?:small|[pbB]|[pb]small)?(?:matrix\*?|array) ?\}", r"\\\1"),
    (r"\\begin ?(?:\{[lcr| ]*\}|\[ ?[lcr] ?\])", r"\\begin"),
    (r"\\cr(?![a-z])", r"\\\\"),
    (r"\\\\\*? ?\[ ?-?[\d.]+ ?[a-z]{2} ?\]", r"\\\\"),                                              # \\[1ex]
    # words
    (r"(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])", ","),
    (TEXT, quote),
    (TEXT, quote),                                                                                  # \textbf{\textit{}}
    (rf"(?<![‹«A-Za-z\\{{])({PHRASE})", quote),
    (REALS, r"(-\\infty,\\infty)"),
    (r"(?<=\d)(?::00)* ?[‹«]?([APap])(?:\. ?)?[Mm](?:[›»]|\.|(?![A-Za-z]))", lambda match: f"‹{match[1].lower()}m›"),
    (rf"(?<=\d) ?\^? ?(?:\{{ ?{ORDINAL} ?\}}|{ORDINAL})(?![A-Za-z])", " "),                          # 12^{th}
    (r"(?<=[\d%}]) ?\( ?(‹[^‹›]*›) ?\)", r"\1"),                                                    # 20% (increase)
    # bases
    (r"[({] ?(\d+) ?[)}](?= ?_)", r"\1"),                                                           # (43)_5
    (rf"(?<=\d) ?_ ?(\{{ ?)?[‹«]?(?:base)?[›»]? ?(?:{NUMERAL}|(\d+))[›»]?(?(1) ?\}})", base),       # 43_{five}
    (rf"(?<=\d) ?(\( ?)?[‹«](?:in)?base(?:[›»] ?(\d+)|{NUMERAL}[›»])(?(1) ?\))", base),             # 43 (base 5)
    (r"(?<=\d) ?_ ?(?:\{ ?10 ?\}|10(?!\d))", ""),
    # names
    (r"\\(gcd|lcm|det|max|min|deg|dim|Pr)(?![A-Za-z])", r"«\1»"),
    (rf"\\(?:overline|bar) ?{ACCENTED}", r"«bar \1\2»"),
    (rf"\\(?:wide)?(hat|tilde|dot|ddot) ?{ACCENTED}", r"«\1 \2\3»"),
    (r"\( ?([fgh]) ?\\circ ?([fgh]) ?\)(?= ?\()", r"«\1 after \2»"),
    (r"\{ ?\{ ?([^{}]*?) ?\} ?\}", r"{\1}"),
    (r"\{ ?([A-EH-Za-eh-z]) ?\}(?= ?[_\[(])", r" \1"),                                              # \mathbf{v}_1
    (rf"{LETTER} ?\^ ?\{{ ?-1 ?\}}(?= ?\()", r"«inverse \1»"),                                      # f^{-1}(4)
    (rf"{LETTER} ?_ ?\{{ ?(?!\d+ ?\}}|[a-z] ?\}})([^{{}}]+?) ?\}}", subscript),                     # a_{n+1}
    (r"[‹«](\w+)[›»] ?_ ?(\{[^{}]+\}|\w)", subscript),
    (r"(?:\\\||\\[lr]?Vert) ?(.{1,30}?) ?(?:\\\||\\[lr]?Vert)", lambda match: f"«norm {opaque(match[1])}»"),
    (r"(?<![A-Za-z\\])([EP]) ?\[([^\[\]]*)\]", r"\1(\2)"),                                          # E[X]
    (r" ?_ ?\{ ?(\w+) ?\}", r"_\1 "),
    # numbers and sets
    (r"(?:(?:\^|(?<=\d)) ?(?:\\circ(?![a-z])|\{ ?\\circ ?\})|\\degree|°)(?: ?[CF]\b)?", "°"),
    (r"(?<![\w.^\\])(\d+) ?\\[dt]?frac ?(?:(\d)|\{(\d+)\}) ?(?:(\d)|\{(\d+)\})", r"(\1+\2\3/\4\5)"),  # 1\frac23
    (r"(?<![\w.^\\])(\d+) (\d+)/(\d+)(?!\d)", r"(\1+\2/\3)"),                                       # 1 2/3
    (r"(?<!\d)(\d+)\.(\d*)\\(?:overline|bar) ?\{(\d+)\}", repeating),
    (r"\\(?:emptyset|varnothing)(?![a-z])", r"\\{\\}"))]
TOKEN = re.compile(
    r"‹[^‹›]*›|«[^«»]*»|\\(?:begin|end)\{\w+\}|\\\\|\\(?!log)[A-Za-z]+_\w|\\[A-Za-z]+|\\.|\*\*|[<>!]="
    r"|\d+_\d+|[A-Za-z]'*_(?:\d+|[A-Za-z])|[A-Za-z]'+|[A-Za-z]+"
    r"|(?<![\d,.])\d{1,3}(?:,\d{3})+(?!,?\d)(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+|\S", re.ASCII)


def tokenize(text: str, listed: bool = False) -> tuple[str, ...]:
    r"""The normal form: one spelling for each notation. `\left( \dfrac 12, 2 \right]` = `(\frac{1}{2},2]`.

    Spaces, \left, \$ and \% go. Words of four letters or three capitals stay whole, other letters are variables.
    A comma in a number counts only outside brackets, or if listed: `12,345` = `12345`, `(12,345)` != `(12345)`.
    A fraction right after an integer is added to it: `-1\frac45` = `-\frac95`.
    """
    if re.fullmatch(r"-?\d+(?:\.\d+)?", text, re.ASCII):     # only for speed: most answers are plain numbers
        return ("-", text[1:]) if text[0] == "-" else (text,)
    text = " ".join(text.translate(CHARACTERS).split())
    for pattern, new in NOTATION:
        text = pattern.sub(new, text)
    tokens = []
    depth = int(listed)
    for token in TOKEN.findall(text.rstrip(" .,;:")):
        token = ALIASES.get(token, token)
        depth += (token in ("(", "[", r"\{")) - (token in (")", "]", r"\}"))
        if re.match(r"\d+,", token):
            tokens += re.split("(,)", token) if depth else [token.replace(",", "")]
        elif token.isalpha() and not re.fullmatch("[A-Z]{3,}|[A-Za-z]{4,}", token):
            tokens += token
        elif token == "|":
            tokens.append("|" if tokens.count("|") == tokens.count("|.") else "|.")
        elif token and (token != "," or tokens[-1:] not in ([], [","])):
            tokens.append(token)
    return tuple(tokens)
