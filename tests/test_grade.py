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


def load(name):
    if not (bench_grade.DATA / name).exists():
        pytest.skip(f"{bench_grade.DATA / name} is not there: set IBPO_DATA to the directory that holds it")
    return [json.loads(line) for line in (bench_grade.DATA / name).read_text(encoding="utf-8").splitlines()]


# gold | prediction, one pair a line, class by class.
EQUAL = r"""
\frac{2}{7} | \dfrac{2}{7}
\frac{2}{7} | \tfrac27
\frac 27 | 2/7
\frac{2}{7} | {2 \over 7}
\frac{12}5 | $\frac{12}{5}$
-\frac{2}{7} | \frac{-2}{7}
-\frac{2}{7} | \frac{2}{-7}
\frac{2}{5} | .4
2.50 | 2.5
0.00031 | 3.1 \times 10^{-4}
3\frac{2}{5} | 3.4
-3 \frac25 | -3.4
3 2/5 | 17/5
0.\overline{27} | \frac{3}{11}
0.25 | {0.5\over{2}}
21 | 18 + 3
21 | 21.
21 | \left(21\right)
21 | |-21|
81 | 3^4
512 | 2^{3^2}
5! | 120
\binom{9}{2} | 36
2^{40} - 1 | 1099511627775
6\sqrt{7} | \sqrt{252}
6\sqrt7 | 6*sqrt(7)
\frac{\sqrt{7}}{7} | \frac{1}{\sqrt{7}}
\frac{1}{\sqrt{5}-1} | \frac{\sqrt5+1}{4}
\sqrt{7+4\sqrt{3}} | 2 + \sqrt{3}
\sqrt[3]{16} | 2 \cdot 2^{1/3}
\frac{3\pi}{4} | 3\pi/4
\frac{3\pi}{4} | 0.75π
5\pi | 5 * pi
e^{7} + 2 | 2 + e^7
\log_3 81 | 4
\tan 60^\circ | \sqrt{3}
\sin 30^\circ | \frac{1}{2}
7 - 3i | -3i + 7
\frac{1}{5} - \frac{3}{5}i | \frac{1 - 3i}{5}
3 \pm \sqrt{6} | 3 - \sqrt{6}, 3 + \sqrt{6}
3 \pm \sqrt{6} | 3 \mp \sqrt{6}
\{2 \pm \sqrt{3}, 4\} | 4, 2+\sqrt3, 2-\sqrt3
i\sqrt{5}, -i\sqrt{5} | \pm i\sqrt{5}
4, -9 | -9, 4
4, -9 | x = 4 \text{ or } x = -9
4, 6, \text{ and } 9 | 9, 4 and 6
4, 6, 9 | \{9, 6, 4\}
n = 4, 6, 9 | 4, 6, 9
x = 8 | 8
8 | x = 8
x \in [3,8) | [3,8)
(3,8) | (x, y) = (3,8)
(3,8] | \left( 3, 8 \right]
(3,\infty) | (3, +\infty)
(-\infty,1) \cup (4,\infty) | (4, \infty) \cup (-\infty, 1)
(-\infty,\infty) | \mathbb{R}
\begin{pmatrix} 1/2 \\ -3 \end{pmatrix} | \begin{bmatrix} \frac12 \\ -3 \end{bmatrix}
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} | \left(\begin{array}{cc} 1 & 2 \\ 3 & 4 \end{array}\right)
12,\!345 | 12345
12{,}345 | 12345
12,345 | 12345
12345 | 12\,345
\$12,\!345 | 12345
\$7.40 | 7.4
\$7.40 | 7.40 \text{ dollars}
63^\circ | 63
63^\circ | 63^{\circ} \text{C}
63^\circ | 63 degrees
12 | 12 \text{ cm}^3
12 | 12\ \text{km}/\text{h}
12 | 12 km/h
12 | 12 apples
12 | 12\%
12\% | 12 percent
324_6 | 324_{6}
-25_7 | -25_{7}
(1101)_2 | 1101_{2}
\log_{10} 2 | \log_{10}2
\log_2 3 | \log_{2}3
\log_{2}5 | \log_25
34 | 34 sq. units
\text{B} | \displaystyle\text{B}
(0,\log_{2}5) | \left(0,\log_25\right)
2\log_{2}5 | \log_25 \times 2
\{\log_{2}5\} | \{\log_25\}
\log_{2}5 | log_25
2 | \log_10 100
7 | log_2 128
\log_{10}|x| | \log_10|x|
\log_{10}^2 x | \log_10^2 x
\binom{N}{k} | \frac{N!}{k!(N-k)!}
\binom{m}{j}\binom{n}{k} | \binom{n}{k}\binom{m}{j}
\frac{x!}{y!z!} | \frac{x!}{z!y!}
|x||y| | |xy|
\text{Alice} | Alice
\text{Alice} | \textbf{alice}
\text{two circles} | two circles
\text{(D)} | D
\text{(D)} | (D)
\text{D} | \mathrm{D}
\text{A, C} | \text{C, A}
x^3 - 4x + 1 | 1 - 4x + x^3
(a-3)(b+7) | ab + 7a - 3b - 21
\frac{3-4y}{10} | 0.3 - 0.4y
15p\sqrt{p} | 15p^{3/2}
3^{n-1} | \frac{3^n}{3}
\sec x | \frac{1}{\cos x}
2\sin x\cos x | \sin 2x
y = 3x - 5 | 3x - y = 5
y = 3x - 5 | 6x - 2y - 10 = 0
y = 3x - 5 | 3x - 5
f(x) = x^2 | x^2
x < 9 | 9 > x
x < 9 | (-\infty, 9)
1 \le t < 6 | [1, 6)
x \le -2 | -2x \ge 4
PQ = 8, RS = 3 | RS = 3, PQ = 8
2:9 | 2 : 9
7\!:\!45 \text{ p.m.} | 7:45 pm
\approx 6.1 \text{ mph} | 6.1
21 | so the answer is \boxed{21}
\frac{31}{2} | $\boxed{15\frac12}$, or $\boxed{15.5}$
4, -9 | $x = \boxed{4}$ or $x = \boxed{-9}$
3\theta | 3 theta
x < 5 | 10^{-400}x < 5\cdot 10^{-400}
x < 5 | 10^{400}x < 5\cdot10^{400}
-80\leq g(x)\leq 82 | g(x) \in [-80,82]
-80\leq g(x)\leq 82 | [-80,82]
-2 \le x \le 7 | x \in [-2,7]
\frac1x | f^{-1}(x) = \frac1x
2\sqrt{3} | 2√3
\frac13 | 0.\bar{3}
(1,2) | \langle 1,2\rangle
Evelyn | evelyn
f(4-x) | f(-x+4)
5 | AB = \frac{10}{2} = 5
5 | x = 5 = 5
63 | m\angle ABC = 63^\circ
\frac13 | P(A \cap B) = \frac13
12 | total area = 12
12 | 12 miles
12 | 12\text{miles}
x^2 | x²
12 | 12 cm²
\alpha+1 | 1 + \alpha
n! | n(n-1)!
\frac{n(n-1)}{2} | \binom n2
\frac12 h(a+b) | h\frac{a+b}{2}
(-1)^{n+1} | -(-1)^n
\sin(2x) | 2\sin x\cos x
5 | x_1 = 5
\log_2 x | \frac{\ln x}{\ln 2}
x^{1/3} | \sqrt[3]{x}
"""
OTHER = r"""
\frac{1}{7} | 0.142857
\frac{1}{7} | 0.142857142857142857142857142857
\frac{1}{7} | \frac{7}{1}
\sqrt{3} | 1.7320508
\sqrt{3} | 1.7320508075688772935274463415058723669428
\pi | 3.141592653589793
\pi | \frac{355}{113}
\pi | \frac{245850922}{78256779}
\sin 20^\circ | 0.3420201433256687
\frac{1}{3} + \frac{2}{3}i | 0.333333333333333 + 0.666666666666667i
2^{80} | 2^{80} + 1
\frac{1}{2^{80}} | 0
10^{-40} | 0
e^{-900} | 0
x + 10^{-25} | x
\sin x + 10^{-25} | \sin x
\sqrt{10^{24}+1} | 10^{12}
12\% | 0.12
6 | -6
6 | 6i
6 | 6x
6 | 6ab
6 | 6\sqrt{2}
6 | 6 \pi
6 | 60
17 | 1 7
17 | 1,7
17,358 | 17, 358
(17,358) | 17358
7.25 | 7.2500001
x - y | y - x
x^2 | x^3
4R^2 | 4r^2
x_1 | x_2
f'(x) | f(x)
|x| | x
\sqrt{x^2} | x
\cot x | \tan x
\sin 30^\circ | \sin 30
\log 50 | \ln 50
(2,5) | (5,2)
(2,5) | [2,5]
(2,5) | 2,5
(2,5) | \{2,5\}
(2,5) | (2,5,5)
2,5 | 2
2 | 2,5
2,2,5 | 2,5,5
3 \pm \sqrt{6} | 3 + \sqrt{6}
\pm 7 | 7
7 | \pm 7
\log_{2}3x | \log_{23}x
(-1)^x | 1
(-1)^x | -1
(-1)^x | (-1)^y
October 30 | November 30
30 October | 30 November
6 | 2Sqrt(3)
(-1)^{x+y} | 1
(-1)^{a+b+c} | 1
|x||y| | xy
|xy| | xy
\log_{25}x | \log_2 5x
324_6 | 324
324_6 | 124
324_6 | 324_5
324 | 324_6
x = 8 | x = -8
x = 8 | z = 8
x^2 = 9 | 9
5 | 2x = 10
9 | 4 + 4 = 9
y = 3x - 5 | y = 3x + 5
y = 3x - 5 | 3x - 5 = 0
x > 9 | x \ge 9
x > 9 | x < 9
x > 9 | [9, \infty)
(9, \infty) | x > 9
[1,6) | 1 \le t < 6
(1,3) \cup (3,6) | (1,6)
(1,3) \cup (3,6) | (1,3), (3,6)
\begin{pmatrix} 2 \\ 5 \end{pmatrix} | \begin{pmatrix} 5 \\ 2 \end{pmatrix}
\begin{pmatrix} 2 \\ 5 \end{pmatrix} | \begin{pmatrix} 2 & 5 \end{pmatrix}
\begin{pmatrix} 2 \\ 5 \end{pmatrix} | (2,5)
\text{north} | \text{south}
\text{east} | seat
QRST | QTRS
\text{(D)} | \text{(E)}
\text{A,B} | AB
7:45 \text{ p.m.} | 7:45 \text{ a.m.}
2:9 | \frac{2}{9}
\triangle ABC | \triangle DEF
5 | five
5 | \text{ }
5 | 5 +
5 | (5
\frac{1}{0} | \frac{2}{0}
0 | \frac{0}{0}
9^{9^{9^9}} | 9^{9^{9^8}}
(10^{10})! | 1
4 | so the answer is \boxed{3}, not 4
4 | \boxed{4
56 | 5\text{ ft}6\text{ in}
130 | 1\text{h}30\text{min}
230 | 2\text{ hours}30\text{ minutes}
0.088 | 0.0abcd88
5 | 5 million
3 | 3 hundred
5 | 5 dozen
5 | 5 halves
5 | 5 squared
24abcd | 24
2 | 2abcd
3 | 3theta
3 | 3 millions
5 | AB = \frac{10}{2} = 4
\frac34 | x = \frac68 = \frac23
5 | x = 5 = 6
5 | x = 5 < 7
5 | x = 5 \ne 5
x \equiv 3 \pmod{7} | x \equiv 7 \pmod 3
3 \bmod 7 | 7 \bmod 3
2\lfloor x\rfloor | \lfloor 2x\rfloor
\lfloor\frac n2\rfloor | \frac12\lfloor n\rfloor
{10 \choose 3} | {3 \choose 10}
z\overline{w} | \overline{z}w
f\circ g | g\circ f
5 | x \not= 5
[3,8) | x \not\in [3,8)
f(4 - x) | f(4) - f(x)
f(4 - x) | 4f - fx
f(2x) | 2f(x)
f(x+1) | f(x)+f(1)
\cos(2\pi t) | \cos(4\pi t)
3\sin(2\pi t+\frac\pi6) | 3\sin(4\pi t+\frac\pi6)
3\sin(2\pi t+\frac\pi6) | \frac32
1 | \cos(2\pi x)
x | x\cos(2\pi x)
2^{4181} | x^{4181}
2^{4181} | r^{4181}
2^{4181} | D^{4181}
3^{4000} | x^{4000}
10^7\sqrt{2} | 14142135.62373
e^{20} | 485165195.40979
x < 5 | x \in (-\infty,5]
x \in [3,8) | x \in [3,8]
x < 5 | 10^{-400}x < 6\cdot10^{-400}
x < 5 | -10^{-400}x < -5\cdot10^{-400}
"""

# One class of answers after the other: gold == prediction is right, gold != prediction is wrong.
CLASSES = r"""
# number words with more words after them
4 != 4\text{ dozen roses}
4 != 4 dozen roses
4 != 4\text{ hundred}
4 != 4\text{ hundred dollars}
4 != 4\text{ hundreds of people}
4 != 4 hundred people
4 != 4\text{ thousand years}
4 != 4\,\text{thousand}
4 != 4\textbf{ million cells}
4 != 4\mbox{ billion years}
4 != 4\text{ trillion}
4 != \$4 \text{ billion}
4 != 4\%\text{ of one million}
4 != 4\mathrm{\ thousand}
4 != 4\text{ squared}
4 != 4\text{ cubed}
4 != 4\text{ factorial}
4 != 4 factorial
4 != 4\text{ score}
4 != 4\text{ gross}
4 != 4\text{ pairs}
4 != 4\text{ pairs of shoes}
4 != 4\text{ couples}
4 != 4\text{ groups of ten}
4 != 4\text{ boxes of twelve eggs}
4 != 4\text{ tens}
4 != 4\text{ and a half}
4 != 4\text{ lakh}
0.3 != 0.3\text{ repeating}
4x != 4\text{ plus }x
4x != 4 plus x
4 != 4\text{ times twenty}
4 != (4)\text{ dozen}
4 != x = 4\text{ dozen}
12 != 1\text{ dozen}
4 == 4\text{ ordered pairs}
4 == 4\text{ two-digit numbers}
4 == 4\text{ square feet}
4\text{ million} == 4 million
4\text{ dozen} == 4\text{ dozen}
# fraction words
4 != 4\text{ thirds}
4 != 4 thirds
4 != 4\text{ fifths}
4 != 4\text{ sixths}
4 != 4\text{ sevenths}
4 != 4\text{ eighths of an inch}
4 != 4 ninths
4 != 4\text{ tenths}
4 != 4\text{ twelfths}
4 != 4\text{ sixteenths}
4 != 4\text{ twentieths}
4 != 4\text{ thousandths}
4 != 4\text{ millionths}
4 != 4\text{ halves}
4 != 4\text{ half}
4 != 4\text{ quarter hours}
4 != 4\text{ quarters of a cup}
4 != 4\mathrm{\,fourths}
4 != 4\textit{ fifths of the class}
1 != 1\text{ half}
1 != 1\text{ third of the pie}
# months and weekdays
\text{30 October} != \text{30 November}
\text{4 May} != \text{4 June}
\text{4 May} != 4
4 != 4 January
\text{Monday 4} != \text{Tuesday 4}
\text{4 May} == 4 May
\text{March 17} == March 17
\text{March 17} != March 18
# letters in \text are not all units
5 != 5\text{x}
5 != 5\mathrm{n}
5x == 5\mathrm{x}
5 == 5\text{ m}
5 == 5\text{ L}
5 != 5\text{K dollars and a half}
# bold names
(3,4) == \mathbf{u} = (3,4)
(3,4) == \boldsymbol{u}=(3,4)
(3,4) == \bm{u} = (3,4)
(3,4) == \vec{u} = (3,4)
\vec{u} = (3,4) == u = (3,4)
\vec{u} = (3,4) != \vec{w} = (3,4)
\begin{pmatrix} 3 \\ 4 \end{pmatrix} == \mathbf{v} = \begin{pmatrix} 3 \\ 4 \end{pmatrix}
\begin{pmatrix} 3 \\ 4 \end{pmatrix} == \overrightarrow{AB} = \begin{pmatrix} 3 \\ 4 \end{pmatrix}
\begin{pmatrix} 3 \\ 4 \end{pmatrix} != \mathbf{v} = \begin{pmatrix} 4 \\ 3 \end{pmatrix}
\begin{pmatrix} 3 & 0 \\ 0 & 3 \end{pmatrix} == A = \begin{bmatrix} 3 & 0 \\ 0 & 3 \end{bmatrix}
# accents and other names
7 == \overline{PQ} = 7
7 == \overline{PQ}=7\text{ cm}
7 == \bar{x} = 7
7 == \hat{p} = 7
7 == \tilde{x}=7
7 == \widehat{PQR} = 7
7 == {n} = 7
7 == \text{Area} = 7
7 == \text{Area of } \triangle PQR = 7
7 == [PQR] = 7
7 == [PQRS]=7
7 == a_{10} = 7
7 == S_{n+1} = 7
7 == x_{\text{max}} = 7
7 == x_{min} = 7
7 == V_{\text{cone}} = 7
7 == m\angle PQR = 7^\circ
7 == \angle A = 7^\circ
7 == 7 = x
2:3 == a:b = 2:3
7 != \overline{PQ} = 8
7 != \bar{x} + 7
7 != |x| = 7
z\overline{w} != zw
\overline{PQ} = 7 != \overline{RS} = 7
x_{max} = 7 != x_{min} = 7
a_{n+1} != a_{n-1}
# values of functions
10 == C(5,2) = 10
7 == \max(3,7) = 7
7 == f(5) = 7
7 == g(-1) = 7
7 == f(f(5)) = 7
7 == f(x+1) = 7
7 == h(0)=7
7 == P(1) = 7
7 == p(2) = 7
7 == Q(0)=7
7 == F(1,2) = 7
7 == A(4)=7
7 == f^{-1}(5) = 7
7 == g^{-1}(5)=7
7 == f'(2) = 7
7 == f''(0) = 7
7 == P(A \cap B) = 7
7 == P(\text{red}) = 7
7 == E(X) = 7
7 == \text{lcm}(1, 7) = 7
7 == \gcd(14, 21) = 7
7 == \det(A) = 7
\frac{3}{5} == \sin A = \frac{3}{5}
\frac{3}{5} == \cos \theta = 3/5
7 == \log_2 128 = 7
7 == f(5) = 3 + 4 = 7
7 == 3 + 4 = 7
x^2+1 == f(x) = x^2+1
x^2+1 == P(x) = 1 + x^2
7 != f(5) = 8
7 != f(5)
7 != n(n+1) = 7
7 != x(2) = 7
7 != f(5) + 1 = 7
7 != f(7) = 5
7 != f(5) = 3 + 5 = 7
7 != 2x = 7
7 != P(2)+Q(3) = 7
7 != x^2 = 7
7 != 3 + 5 = 7
f(5) = 7 != g(5) = 7
f(5) = 7 != f(4) = 7
# units: sec and others that are functions
25 == 25\text{ sec}
25 == 25 sec
25 == 25\mathrm{~sec}
25 == 25\text{sec}
25 == 25\text{ m/sec}
25 == 25\text{ ft}/\text{sec}
25 == 25\text{ ft/sec}^2
25 == 25 \text{ ft per sec}
25 == 25 \text{ sec}.
25 == 25\text{ secs}
25 == x = 25\text{ sec}
25 == 25\text{ min}
25 == 25 min
25 == 25 km/h
25 == 25\text{ km}/\text{h}
25 == 25\text{ kg} \cdot \text{m}
25 == 25\text{ m}^3
25 == 25 ft^2
25 == 25\text{ sq. ft.}
25 == 25\text{ cubic feet}
25 == 25 of the apples
25 == 25 students in the class
25\sec x != 25 x
\sec x == \operatorname{sec} x
\sec x == \mathrm{sec}\,x
25 != 25\text{ sec } x
25 != 25\text{ ft }6
25 != 25\text{ ft }x
256 != 25\text{ ft }6\text{ in}
# words after a percent sign
35 == 35\%\text{ decrease}
35 == 35\%\text{ of the total}
35 == 35\% of the voters
35 == 35\%\ \text{profit}
35 == 35 \% \text{ chance}
35 == 35\text{ percent}
35 == 35 percent of the class
35 != 35\%\text{ of }80
35 != 35\%\text{ of one half}
# ordinals
21 == 21^{\text{st}}
21 == 21st
22 == 22^{nd}
22 == 22\text{nd}
23 == 23^\text{rd}
24 == 24^{\mathrm{th}}
24 == 24\text{th}
24 == 24^{\text{th}}\text{ term}
24 == 24th term
24 == n = 24\text{th}
24 != 24\text{ths}
24 != 25th
# hours
6:30 \text{ a.m.} == 6:30 AM
6:30 \text{ a.m.} == 6:30 am
6:30 \text{ a.m.} == 6:30 A.M.
6:30 \text{ a.m.} == 6:30\text{ AM}
6:30 \text{ a.m.} == 6:30~\text{a.m.}
6\!:\!30 \text{ a.m.} == 6:30am
6:30 \text{ a.m.} != 6:30 PM
6:30 \text{ a.m.} != 6:31 AM
6 == 6\text{ a.m.}
6 == 6\text{ p.m.}
6 == 6 PM
6 == 6:00 PM
6 == 6:00\text{ a.m.}
6\text{ a.m.} == 6:00 AM
6\text{ a.m.} == 6
6\text{ a.m.} != 6\text{ p.m.}
6 != 6:30 AM
# words
\text{March 4} == March 4
\text{Red, Green, Blue} == Red, Green, Blue
\text{Red, Green, Blue} == \text{Blue}, \text{Red}, \text{Green}
\text{Tom, Ann} == Tom, Ann
\text{no solution} == No solution
\text{infinitely many} == infinitely many
\text{Red, Green, Blue} != Red, Green
\text{Red, Green} != Red, Blue
\text{Tom} != Ann
\text{two lines} != \text{two circles}
# quotes
17 == '17'
17 == "17"
17 == ``17''
17 == ‘17’
x^2 == "x^2"
f' != f
# unspaced lists with numbers of three digits
45^\circ, 135^\circ == 45,135
30, 150, 270 == 30,150,270
\{100, 200\} == 100,200
45,135 == 45135
45135 == 45,135
45135 != 45, 135
1, 0 != 1,000
45, 135 != 45136
# bases
52_7 == 52_{7}
52_7 == 52_{\text{seven}}
52_7 == 52_{seven}
52_7 == 52_\text{seven}
52_7 == {52}_7
52_7 == {52}_{7}
52_7 == (52)_7
52_7 == (52)_{\text{seven}}
52_7 == \left(52\right)_{7}
52_7 == 52 \text{ (base 7)}
52_7 == 52\text{ base }7
52_7 == 52 base 7
52_7 == 52\text{ base seven}
52_7 == 52\text{ in base seven}
52_7 == 52₇
37 == 37_{10}
37 == 37_{\text{ten}}
37 == 37_{ten}
52_7 != 52
52_7 != 37
52_7 != 52_{\text{eight}}
52_7 != 52_{10}
52_7 != 52 base 8
52 != 52_{\text{seven}}
# matrices
\begin{pmatrix} 1 & 0 \\ 0 & 2 \end{pmatrix} == \begin{pmatrix} 1 & 0 \\[2mm] 0 & 2 \end{pmatrix}
\begin{pmatrix} 1 & 0 \\ 0 & 2 \end{pmatrix} == \begin{pmatrix} 1 & 0 \\ [0.5em] 0 & 2 \end{pmatrix}
\begin{pmatrix} 1 & 0 \\ 0 & 2 \end{pmatrix} == \begin{bmatrix}1&0\\0&2\\\end{bmatrix}
\begin{pmatrix} 1 & 0 \\ 0 & 2 \end{pmatrix} == \left(\begin{smallmatrix} 1 & 0 \\ 0 & 2 \end{smallmatrix}\right)
\begin{pmatrix} 1 & 0 \\ 0 & 2 \end{pmatrix} == \begin{psmallmatrix} 1 & 0 \\ 0 & 2 \end{psmallmatrix}
\begin{pmatrix} 1 & 0 \\ 0 & 2 \end{pmatrix} == \left[\begin{array}{rr} 1 & 0 \\ 0 & 2 \end{array}\right]
\begin{pmatrix} 1 & 0 \\ 0 & 2 \end{pmatrix} == \left[ \begin{array}{c|c} 1 & 0 \\ 0 & 2 \end{array} \right]
\begin{pmatrix} 1 & 0 \\ 0 & 2 \end{pmatrix} == \frac{1}{3}\begin{pmatrix} 3 & 0 \\ 0 & 6 \end{pmatrix}
\begin{pmatrix} 1 & 0 \\ 0 & 2 \end{pmatrix} == -\begin{pmatrix} -1 & 0 \\ 0 & -2 \end{pmatrix}
\begin{pmatrix} 1 & 0 \\ 0 & 2 \end{pmatrix} == \begin{pmatrix} 3 & 0 \\ 0 & 6 \end{pmatrix}/3
\begin{pmatrix} 1 & 0 \\ 0 & 2 \end{pmatrix} == 2 \cdot \begin{pmatrix} 0.5 & 0 \\ 0 & 1 \end{pmatrix}
\begin{pmatrix} 1 & 0 \\ 0 & 2 \end{pmatrix} != \frac{1}{2}\begin{pmatrix} 3 & 0 \\ 0 & 6 \end{pmatrix}
\begin{pmatrix} 1 & 0 \\ 0 & 2 \end{pmatrix} != \begin{vmatrix} 1 & 0 \\ 0 & 2 \end{vmatrix}
2 != \begin{vmatrix} 1 & 0 \\ 0 & 3 \end{vmatrix}
3 != 3\begin{pmatrix} 1 & 0 \\ 0 & 1 \end{pmatrix}
# fonts and sizes
23 == \mathsf{23}
23 == \mathtt{23}
23 == \mathbf{23}
23 == \textcolor{red}{23}
23 == {\color{red} 23}
23 == \color{red}23
23 == \displaystyle 23
23 == \Large{23}
23 == {\large 23}
23 == \Big(23\Big)
23 == \bigl(23\bigr)
23 == \ 23\ 
23 == \hspace{1cm}23
23 == \emph{23}
23 == \quad 23
23 != \mathbf{24}
23 != \underline{32}
23 != \overline{23}
# Unicode
-23 == −23
-23 == –23
-23 == ‐23
-23 == －２３
23 == ２３
23 == 𝟐𝟑
x^2 == x²
x^{12} == x¹²
10^{-3} == 10⁻³
\frac12 == ½
\frac72 == 3½
2\sqrt{12} == 2√12
\sqrt{12} != √1 \cdot 2
\log_2 x == log₂ x
2\theta == 2θ
x \le 4 == x ≤ 4
90^\circ == 90º
6 == 2⋅3
x¹² != x^{2}
23 != 2３3
# the real line
(-\infty,\infty) == \mathbb{R}
(-\infty,\infty) == \mathbb R
(-\infty,\infty) == all real numbers
(-\infty,\infty) == \text{all reals}
(-\infty,\infty) == \text{All real numbers}
(-\infty,\infty) == \text{the set of all real numbers}
(-\infty,\infty) == x \in \mathbb{R}
(-\infty,\infty) == x \in \R
(-\infty,\infty) == \text{all real values of }x
(-\infty,\infty) != \mathbb{Q}
(-\infty,\infty) != R
(-\infty,0) != \text{all real numbers}
# golds that are chains or in a box
0.25 = 25\% == 0.25
0.25 = 25\% == 25
0.25 = 25\% == 25\% = 0.25
0.25 = 25\% != 0.26
x = \frac13 \approx 0.33 == \frac13
2\sqrt{3} \approx 3.46 == \sqrt{12}
\boxed{8} == 8
\boxed{8} == x = 8
\fbox{8} == 8
\boxed{8} != 9
\boxed{} != 8
0.25 != 0.25 = 25\%
# more of each
5 == f_1(2) = 5
5 == \phi(12) = 5
5 == \varphi(12)=5
5 == (f \circ g)(2) = 5
5 == C(5,1) = 5
\frac13 == P(X=2) = \frac13
\frac13 == P(A|B) = \frac13
\frac13 == P(A \mid B) = \frac{1}{3}
5 == \hat\theta = 5
5 == \mathbf{v}_1 = 5
5 == \mathcal{A} = 5
5 == \dot{x}=5
5 == S_{ABC} = 5
5 == A_{\triangle ABC} = 5
5 == [\triangle ABC]=5
5 == [AB]=5
7:45 \text{ p.m.} == 7{:}45 PM
7:45 \text{ p.m.} == 7:45\,\mathrm{pm}
7:45 \text{ p.m.} == 7:45 \text{P.M.}
7:45 \text{ p.m.} == 07:45 PM
7:45 \text{ p.m.} == 7:45p.m.
4\!:\!51\!:\!06 \text{ p.m.} == 4:51:06 PM
9 == 9 o'clock
9 == 9\text{ o'clock}
9 == 9 a.m
43_5 == 43_{\text{base }5}
43_5 == (43)_{\text{base five}}
43_5 == $43_5$
18 == 18\\
18 == \colorbox{yellow}{18}
18 == {\bf 18}
18 == \pmb{18}
18 == \textup{18}
18 == \footnotesize 18
18 == \,18\,
18 == 18。
18, 19 == 18、19
18, 19 == 18，19
18\% == 18％
30^\circ == 30∘
30^\circ == 30^∘
30^\circ == 30℃
x\le 5 == x ⩽ 5
(-\infty,\infty) == \Bbb R
(-\infty,\infty) == the real numbers
(-\infty,\infty) == \text{the set of real numbers}
(-\infty,\infty) == \text{all real }x
(-\infty,\infty) == \text{every real number}
(-\infty,\infty) == \text{All Reals}
3 == 3\text{ real numbers}
3 == 3\text{ real solutions}
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} == \begin{pmatrix}1&2\cr3&4\end{pmatrix}
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} == \begin{pmatrix*}[r]1&2\\3&4\end{pmatrix*}
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} == \begin{pmatrix} 1 & 2 \\*[-1ex] 3 & 4 \end{pmatrix}
18 == 18 men
18 == 18 cups
18 == 18 in total
18 == 18 days
18 == 18\text{ in}
18 == 18 inches
18 == 18 per day
18 == 18 feet per second
18 == 18 m/s
18 == 18\text{ m/s}
18 == 18\text{ m/s}^2
18 == 18\,\text{m}\,\text{s}^{-1}
18 == 18\text{ kWh}
20 == 20\% off
20 == 20 percent increase
20 == 20\% (increase)
20 == 20\%\ increase
20 == 20\%~\text{(increase)}
\text{A and B} == A and B
\text{H, E} == H,E
\text{A, D, F} == A,D,F
\mbox{four} == four
\text{CBAD} == CBAD
LQSX == \text{LQSX}
\text{A5}_{11} == A5_{11}
\text{(E)}, == E
\text{ellipse} == Ellipse
\text{two lines} == Two lines
\text{Softball, Kickball, Picnic} == softball, kickball, picnic
\text{Softball, Kickball, Picnic} == Softball, Kickball, and Picnic
\text{October 30} == October 30th
\text{October 30} == 30 October
\frac{1}{7}\triangle ABC == \frac17 \triangle ABC
320000 \mbox{ acres} == 320,000 acres
14 \text{ right triangles} == 14
16\text{ daps} == 16 daps
7 \text{ distinct integers} == 7 integers
\$\dfrac23 \approx \$0.67 == 0.67
0.56 = 56\% == 0.56 = 56\%
x = 5 == \boxed{x = 5}
$\boxed{5}$ == 5
5 == "5"
5 == “5”
5 == ``5"
12 != 12\text{ dozen}
3 != 3\text{ dozens of eggs}
3 != 3 \times 10^6 \text{ people}
3 != 3\text{M}
3 != 3\text{ one-hundredths}
3 != 3\text{ one hundredths}
3 != 3 hundredths
3 != 3\text{-fourths}
3 != 3\text{ parts in four}
3 != 3\text{ over four}
3 != three fourths
3 != 3\text{ to the fourth power}
3 != 3\text{ and one half}
3 != 3 and a half
3 != 3\text{ double}
3 != 3\text{ to the power of }2
3 != 3\text{rds}
3 != 3\text{ thous}
3 != 3 grand
3 != 3 bn
3 != 3 mn
3 != 3K
3 != 3k
3 != 3 per thousand
3 != 3\text{ permille}
3 != -3\text{ negative}
3 != 3i
3 != 3\text{ zeros}
3 != 3\text{ digits repeating}
3.5 != 3.5\text{ repeating}
0.3 != 0.\overline{3}
3 != 3\text{ plus or minus }1
3 != 3\text{ factorial ways}
3 != 3\text{ nonillion}
3 != 3\text{ fold}
"""
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
    (r"\boxed{\begin{pmatrix}{1}\\\frac{1}{2}\\{2}\end{pmatrix}}", r"\begin{pmatrix}{1}\\\frac{1}{2}\\{2}\end{pmatrix}"),
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
    ("The answer is 9.\n\n#### Step 2: check", "9"), ("so 4 + 5 = 9\n#### 9", "9"), ("#### -9", "-9"),
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


def table(text):
    return [tuple(line.split(" | ")) for line in text.strip().splitlines()]


@pytest.mark.parametrize("truth, text", [(True, EQUAL), (False, OTHER)])
def test_tables_of_pairs(truth, text):
    assert [pair for pair in table(text) if grade.decide(*pair)[0] != truth] == []


def classes():
    for part in re.split(r"^# ", CLASSES, flags=re.MULTILINE)[1:]:
        name, *lines = part.strip("\n").split("\n")
        yield pytest.param(lines, id=name)


@pytest.mark.parametrize("lines", classes())
def test_classes_of_answers(lines):
    wrong = []
    for line in lines:
        gold, sign, prediction = re.split(" (==|!=) ", line)
        if grade.equal(gold, prediction) != (sign == "=="):
            wrong.append(line)
    assert wrong == []


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
    """Of any two names: signs and parities differ somewhere, and both are above 0 often enough for \\ln and \\binom."""
    for a, b in itertools.combinations([*string.ascii_lowercase, *"ANPX", r"\alpha", r"\theta", "x_1", "x_2"], 2):
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
    for _ in range(200):
        roots = [chance.randint(-9, 9) for _ in range(chance.randint(1, 4))]
        coefficients = [1]
        for root in roots:
            coefficients = [a - root * b for a, b in zip([*coefficients, 0], [0, *coefficients])]
        terms = [f"{c:+}x^{{{len(roots) - k}}}" for k, c in enumerate(coefficients)]
        expanded = "".join(chance.sample(terms, len(terms)))
        factored = "".join(f"(x{-root:+})" for root in roots)
        assert grade.equal(expanded, factored) and grade.equal(factored, expanded), (expanded, factored)
        assert not grade.equal(expanded, factored + "+1") and not grade.equal(expanded, "-" + factored)
        assert not grade.equal(expanded, expanded.replace("x", "y"))


def test_equality_is_symmetric_but_for_inequalities_and_lists():
    golds = [gold for gold, _ in table(EQUAL) if not re.search(r"[<>]|\\l?e|boxed|\\frac\{31", gold)]
    for a in golds:
        for b in golds:
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
# Pairs of problems whose golds differ as strings and are the same answer: 5 and x=5, degrees, one fraction
# twice, one root twice, a list in another order, a dollar sign, a unit, a thousand. Each was looked at.
SAME_ANSWER = {
    (13, 23), (22, 23), (23, 47), (23, 59), (23, 211), (23, 302), (23, 344), (7, 229), (229, 372), (109, 133),
    (133, 260), (109, 324), (260, 324), (156, 192), (177, 192), (192, 233), (128, 281), (281, 287),
    (128, 488),
    (281, 488), (287, 488), (155, 362), (194, 362), (362, 494), (409, 418), (25, 456), (263, 467), (327, 467),
    (445, 467), (467, 489), (198, 349)}


def test_math500_against_itself():
    problems = load("math500.jsonl")
    assert len(problems) == 500
    for problem in problems:
        gold = problem["answer"]
        assert grade.equal(gold, gold) and grade.equal(gold, rf"\boxed{{{gold}}}"), gold
        assert grade.parses(gold), gold
        assert grade.equal(gold, grade.extract(problem["solution"])), gold  # 500 of 500: no exception


def test_math500_gold_against_every_other_gold():
    golds = [problem["answer"] for problem in load("math500.jsonl")]
    found = {(i, j) for j in range(len(golds)) for i in range(j) if golds[i] != golds[j]
             and (grade.equal(golds[i], golds[j]) or grade.equal(golds[j], golds[i]))}
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
DISAGREE = {"fraction rounded to 16 places", "final period", "tuple as a set", "pi in plain text",
"percent sign added",
            "list as a tuple", "base dropped", "another base", "root rounded", "no spaces"}


def test_disagreements_with_math_verify_are_of_known_classes():
    pytest.importorskip("math_verify")
    load("math500.jsonl"), load("math_train.jsonl")
    pairs = bench_grade.make_pairs()[:100]
    seen = {how for gold, prediction, how, _ in pairs
            if grade.equal(gold, prediction) != bench_grade.math_verify(gold, prediction)}
    assert seen and seen <= DISAGREE


# ---- hostile input -----------------------------------------------------------------------------------------
def test_fuzzed_pairs():
    """Nothing raises, nothing takes long, and a text is equal to itself. bench/grade.py --fuzz tries 100,000."""
    golds = [gold for gold, _ in table(EQUAL)] + [line for line in CLASSES.splitlines() if " " in line]
    for gold, prediction in bench_grade.fuzz(3000, golds):
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
    "1e999999999", "10^{10^{10}}", r"3^{4900}\cdot 3^{4900}", "f(3^{4900}3^{4900})", "P(" * 300, "X(1," * 200 + ")" * 200,
    "1=" * 499 + "1", "x=" * 300 + "2", r"\begin{pmatrix}2" * 24 + r"\end{pmatrix}" * 24, "½" * 900, "x_{" * 300,
    r"\text{a" + " a" * 400 + "}", "the answer is " + "5, " * 10 ** 5, "#### " + "(" * 10 ** 5, "answer" + "*" * 10 ** 6,
    r"\boxed a" + "{" * 10 ** 5, r"\boxed5" * 10 ** 5, "3 " + "of " * 300 + "apples", "|P(" * 160])
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
