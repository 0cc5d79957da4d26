"""Word problems of our own, for a real model: people, things, prices, distances; whole numbers; one to five steps.

    python recipes/word_problems.py                          # writes runs/words/{train,validation,test}.jsonl
    python data.py runs/words/train.jsonl                    # what is in it

A story starts with a number, and each step changes it by an addition, a subtraction, a product, a product that is added
or taken away (two steps), or a division without remainder. The level is the number of steps. A worked solution has one
step per line and ends in \\boxed{}. Problems with the same story and numbers are in the same split, whatever the names.

A chat model that learns them (recipes/school.py) is the base model of IBPO. With SmolLM2-135M-Instruct:

    DEVICE=cpu bash recipes/word_problems.sh                                     # all, from the download to the table
    python recipes/word_problems.py --mistakes runs/words/eval/records/*.jsonl   # what the models get wrong, and how
"""

import argparse
import json
import operator
import random
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import data  # noqa: E402
import grade  # noqa: E402
import voting  # noqa: E402

NAMES = ("Ada", "Bo", "Carla", "Dev", "Elif", "Femi", "Gus", "Hana", "Ivo", "Jun", "Kofi", "Lea", "Milo", "Nia", "Omar",
         "Pia", "Quinn", "Rosa", "Sven", "Tala", "Uma", "Vito", "Wen", "Yara", "Zeno")


class Move(NamedTuple):
    """A sentence that changes the number. kind: + or -: {a}; +* or -*: {a} times {b}; * or /: by {a}, at the end."""

    kind: str
    sentence: str
    label: str  # what the solution calls the new number

    @property
    def steps(self) -> int:
        return len(self.kind)


class Story(NamedTuple):
    """What happens in which order is drawn at random; the last move may be one of `ends`, which asks its own question.

    {v}: the first number. {x}, {y}: two names.
    """

    unit: str
    opening: str
    moves: tuple[Move, ...]
    question: str
    ends: tuple[Move, ...]


STORIES = {
    "marbles": Story("marbles", "{x} has a jar with {v} marbles.", (
        Move("+", "{y} gives {x} {a} marbles.", "With the gift"),
        Move("-", "{x} loses {a} marbles in the grass.", "After the loss"),
        Move("+*", "{x} buys {a} packs of {b} marbles each.", "With the packs"),
        Move("-*", "{x} gives {a} marbles to each of {b} friends.", "After giving"),
    ), "How many marbles does {x} have now?", (
        Move("/", "{x} sorts all the marbles into {a} bags, the same number in each. How many marbles are in one bag?",
             "In each bag"),)),
    "market": Story("apples", "A market stall opens with {v} apples.", (
        Move("-", "A cook takes {a} apples.", "After the cook"),
        Move("+", "The farmer brings {a} more apples.", "With the delivery"),
        Move("+*", "A cart brings {a} crates with {b} apples in each.", "With the crates"),
        Move("-*", "Then {a} customers buy {b} apples each.", "After the customers"),
    ), "How many apples are left at the stall?", (
        Move("/", "The apples that are left go into nets of {a}. How many nets does that fill?", "Nets"),
        Move("*", "The rest is sold for {a} cents per apple. How many cents does the rest bring?", "Cents"))),
    "savings": Story("dollars", "{x} has saved {v} dollars.", (
        Move("+", "For a birthday {x} gets {a} dollars.", "With the birthday money"),
        Move("-", "{x} spends {a} dollars on a present for {y}.", "After the present"),
        Move("+*", "{x} walks dogs for {a} hours and gets {b} dollars per hour.", "With the wages"),
        Move("-*", "{x} buys {a} books for {b} dollars each.", "After the books"),
    ), "How many dollars does {x} have in the end?", (
        Move("/", "{x} shares all of it equally among {a} people. How many dollars does each of them get?", "Each"),)),
    "bus": Story("passengers", "A bus leaves the station with {v} passengers.", (
        Move("+", "At a stop {a} people get on.", "After the people get on"),
        Move("-", "At a stop {a} people get off.", "After the people get off"),
        Move("+*", "At the school {a} groups of {b} pupils get on.", "With the pupils"),
        Move("-*", "At the pool {a} families of {b} get off.", "Without the families"),
    ), "How many passengers are on the bus then?", (
        Move("*", "Each passenger then on the bus has paid {a} dollars. How many dollars have these passengers paid?",
             "Dollars"),)),
    "road": Story("kilometres", "{x} drives {v} kilometres before breakfast.", (
        Move("+", "Then {x} drives {a} kilometres along the coast.", "With the coast road"),
        Move("+*", "After that {x} drives for {a} hours at {b} kilometres per hour.", "With these hours"),
        Move("+", "A detour adds {a} kilometres.", "With the detour"),
    ), "How many kilometres does {x} drive in all?", (
        Move("*", "{x} makes this same journey {a} times in a year. How many kilometres is that in the year?",
             "In the year"),
        Move("/", "{y} covers the same distance in {a} days, equally far each day. How many kilometres is that a day?",
             "Per day"))),
    "library": Story("books", "A village library owns {v} books.", (
        Move("+", "A reader donates {a} books.", "With the donation"),
        Move("-", "The library throws out {a} damaged books.", "Without the damaged books"),
        Move("+*", "It orders {a} boxes with {b} books in each.", "With the boxes"),
        Move("-*", "It hands {a} books to each of {b} schools for good.", "After the schools"),
    ), "How many books does the library own now?", (
        Move("/", "All its books stand on {a} shelves, equally many on each. How many books are on a shelf?",
             "On each shelf"),)),
    "bakery": Story("rolls", "A baker has {v} rolls on the counter.", (
        Move("-", "A hotel collects {a} rolls.", "After the hotel"),
        Move("+*", "From the oven come {a} trays of {b} rolls.", "With the trays"),
        Move("-*", "Next, {a} customers buy {b} rolls each.", "After the customers"),
        Move("+", "An apprentice brings {a} rolls from the back.", "With those from the back"),
    ), "How many rolls are on the counter now?", (
        Move("/", "The baker packs all of them into bags of {a}. How many bags are there?", "Bags"),
        Move("*", "Every roll on the counter has {a} seeds on it. How many seeds are that?", "Seeds"))),
    "garden": Story("tulips", "In spring {x} counts {v} tulips in the garden.", (
        Move("+", "Another {a} tulips come up.", "With the new ones"),
        Move("-", "A storm breaks {a} tulips.", "After the storm"),
        Move("+*", "{x} plants {a} rows of {b} tulips.", "With the rows"),
        Move("-*", "{x} picks {a} bunches of {b} tulips.", "Without the bunches"),
    ), "How many tulips stand in the garden now?", (
        Move("/", "{y} sees that they stand in {a} beds, equally many in each. How many tulips are in a bed?",
             "In each bed"),)),
    "tank": Story("litres", "A rain tank holds {v} litres.", (
        Move("+", "In the night {a} litres of rain flow in.", "After the rain"),
        Move("-", "{x} washes the car with {a} litres.", "After the car"),
        Move("+*", "A pump runs for {a} minutes and adds {b} litres per minute.", "With the pump"),
        Move("-*", "{x} takes {a} cans of {b} litres for the flowers.", "After the cans"),
    ), "How many litres are in the tank then?", (
        Move("/", "The water is used up in {a} days, the same amount each day. How many litres is that per day?",
             "Per day"),)),
    "trip": Story("people", "For a class trip {v} people have signed up.", (
        Move("+", "Then {a} parents sign up, too.", "With the parents"),
        Move("-", "Because of a cold {a} people stay at home.", "Without the sick"),
        Move("+*", "The neighbour school sends {a} groups of {b}.", "With the neighbours"),
    ), "How many people go on the trip?", (
        Move("*", "Everyone who goes pays {a} dollars. How many dollars is that in all?", "Dollars"),
        Move("/", "Those who go walk in groups of {a}. How many groups are there?", "Groups"))),
    "reading": Story("pages", "{x} has read {v} pages of a long novel.", (
        Move("+", "On the train {x} reads {a} pages.", "With the train"),
        Move("+*", "For {a} evenings {x} reads {b} pages each evening.", "With the evenings"),
        Move("+", "While waiting for {y}, {x} reads another {a} pages.", "With the waiting"),
    ), "How many pages has {x} read by now?", (
        Move("*", "Every page has {a} lines. How many lines has {x} read by now?", "Lines"),)),
    "eggs": Story("eggs", "On a farm {v} eggs lie in the store.", (
        Move("+*", "During the week {a} hens lay {b} eggs each.", "With the hens"),
        Move("-", "A fox steals {a} eggs.", "After the fox"),
        Move("-*", "The farmer sells {a} boxes of {b} eggs.", "After the sale"),
        Move("+", "A neighbour brings {a} eggs.", "With the neighbour's"),
    ), "How many eggs are in the store now?", (
        Move("/", "They are packed into cartons of {a}. How many cartons are there?", "Cartons"),)),
    "running": Story("metres", "To warm up {x} runs {v} metres.", (
        Move("+*", "Then {x} runs {a} laps of {b} metres.", "With the laps"),
        Move("+", "To cool down {x} jogs {a} metres.", "With the jog"),
        Move("+", "{x} adds a sprint of {a} metres.", "With the sprint"),
    ), "How many metres does {x} run altogether?", (
        Move("*", "{x} does exactly this on {a} days. How many metres is that altogether?", "On all days"),)),
    "cinema": Story("tickets", "By noon a cinema has sold {v} tickets for the evening.", (
        Move("+", "At the door it sells {a} more.", "With the door"),
        Move("-", "Then {a} tickets are given back.", "After the returns"),
        Move("+*", "A company buys {a} rows of {b} seats, a ticket for each seat.", "With the company"),
    ), "How many tickets are sold in the end?", (
        Move("*", "A ticket costs {a} dollars. How many dollars has the cinema taken in the end?", "Dollars"),)),
    "bricks": Story("bricks", "At a building site {v} bricks are piled up.", (
        Move("+*", "A lorry unloads {a} pallets of {b} bricks.", "With the pallets"),
        Move("-*", "The masons lay {a} rows of {b} bricks.", "After the rows"),
        Move("-", "Falling down, {a} bricks break.", "Without the broken ones"),
        Move("+", "{x} finds {a} good bricks behind the shed.", "With those found"),
    ), "How many good bricks are left in the pile?", (
        Move("/", "They are carried off in {a} equal loads. How many bricks are in a load?", "In each load"),)),
}


@dataclass(frozen=True)
class WordProblem:
    """A problem with its worked solution. key: story and numbers, without names."""

    question: str
    answer: int
    steps: int
    solution: str
    key: str

    def row(self) -> dict:
        """A line of a .jsonl file."""
        return {"question": self.question, "answer": str(self.answer), "level": self.steps, "n_steps": self.steps,
                "solution": self.solution}


def plan_of(story: Story, steps: int, rng: random.Random) -> list[Move]:
    """Moves with so many steps in all: different ones, as long as there are enough."""
    end = [rng.choice(story.ends)] if rng.random() < 0.5 else []
    left, moves = steps - len(end), []
    while left:
        short = [m for m in story.moves if m.steps <= left and m not in moves[-1:]]
        moves.append(rng.choice([m for m in short if m not in moves] or short))
        left -= moves[-1].steps
    return moves + end


def numbers_of(kind: str, value: int, rng: random.Random) -> tuple[int, ...] | None:
    """a, or a and b, for a move from `value`; None if there are none."""
    if kind == "/":
        divisors = [a for a in range(2, 13) if value % a == 0 and value > a]
        return (rng.choice(divisors),) if divisors else None
    if kind == "*":
        return (rng.randint(2, 12),)
    if kind in ("+*", "-*"):
        a, b = rng.randint(2, 9), rng.randint(2, 25)
        return (a, b) if kind == "+*" or a * b < value else None
    return (rng.randint(2, 99),) if kind == "+" else (rng.randint(2, value - 1),) if value > 3 else None


OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}


def calculate(a: int, operation: str, b: int) -> int:
    return OPERATIONS[operation](a, b)


def compose(steps: int, rng: random.Random) -> WordProblem | None:
    """A problem of so many steps; None if its numbers do not work out."""
    name = rng.choice(list(STORIES))
    story = STORIES[name]
    x, y = rng.sample(NAMES, 2)
    value = rng.randint(12, 150)
    key, sentences, lines = [name, value], [story.opening.format(v=value, x=x, y=y)], []
    moves = plan_of(story, steps, rng)
    for move in moves:
        numbers = numbers_of(move.kind, value, rng)
        if numbers is None:
            return None
        a, b = (*numbers, 0)[:2]
        key += [move.sentence, *numbers]
        sentences.append(move.sentence.format(a=a, b=b, x=x, y=y))
        operation, operand = move.kind[0], a
        if len(move.kind) == 2:
            operand = a * b
            lines.append(f"{a} times {b}: {a} * {b} = {operand}.")
        result = calculate(value, operation, operand)
        unit = f" {story.unit}" if operation in "+-" else ""
        lines.append(f"{move.label}: {value} {operation} {operand} = {result}{unit}.")
        value = result
    if moves[-1] not in story.ends:
        sentences.append(story.question.format(x=x, y=y))
    return WordProblem(" ".join(sentences), value, len(lines), "\n".join([*lines, f"\\boxed{{{value}}}"]), repr(key))


def generate(split: str, seed: int = 0) -> Iterator[WordProblem]:
    """A stream of different problems of a split, the levels in turn. data.DataError where a level has no more."""
    rng, seen = random.Random(f"words {split} {seed}"), set()
    while True:
        for level in data.LEVELS:
            for _ in range(10_000):
                problem = compose(level, rng)
                if problem is not None and data.split_of_key(problem.key) == split and problem.key not in seen:
                    break
            else:
                raise data.DataError(f"there are no more problems of level {level} for {split}: ask for fewer")
            seen.add(problem.key)
            yield problem


def write(out: Path, sizes: dict[str, int], seed: int) -> None:
    """The files out/SPLIT.jsonl. sizes: problems of each split."""
    out.mkdir(parents=True, exist_ok=True)
    for split, size in sizes.items():
        rows = [json.dumps(problem.row()) + "\n" for problem in islice(generate(split, seed), size)]
        (out / f"{split}.jsonl").write_text("".join(rows))
        print(f"{out}/{split}.jsonl: {len(rows):,} problems")
    print("what to run next is in the docstring: python recipes/word_problems.py --help")


# ---------------------------------------------------------------------------------------------------------------------
# What goes wrong


SUM = r"(?<![\d.,])(?<![-+*/] )(\d+) ([-+*/]) (\d+) = (\d+)(?![.,]?\d)"  # not a part of a longer sum or number


def miscalculates(trial: str) -> bool:
    """Whether a sum in it is wrong.

    >>> miscalculates("With the gift: 7 + 5 = 12 marbles."), miscalculates("In each bag: 12 / 5 = 2.")
    (False, True)
    >>> miscalculates("7 + 0 = 7, and 1,200 + 3 = 1,203"), miscalculates("3 + 4 + 5 = 12")  # only sums of two numbers
    (False, False)
    """
    for a, operation, b, result in re.findall(SUM, trial):
        if operation == "/":  # 12 / 5 = 2 is wrong, too
            a, operation, result = result, "*", a
        if calculate(int(a), operation, int(b)) != int(result):
            return True
    return False


def mistakes(file: Path) -> str:
    """Of the first trials in a record of eval.py, level by level: how many are right, and how many others miscalculate.

    Malformed responses are counted apart. The rest of the wrong ones follow a wrong plan, or stop too early. A last
    line says what second trials are worth. Raises data.DataError where it is no record.
    """
    from plumbing.records import first_trials, read_record

    record = read_record(file)
    wrong_sums = np.array([[miscalculates(trial) for trial in row] for row in first_trials(file)])  # bool[n, m]
    right = record.first & record.valid  # bool[n, m]
    wrong_sums &= record.valid & ~right
    lines = [f"{file.stem}: first trials"]
    for level in np.unique(record.levels):
        good, sums, valid = (100 * x[record.levels == level].mean() for x in (right, wrong_sums, record.valid))
        lines.append(f"level {level}: {good:5.1f} % right, {sums:5.1f} % miscalculated, "
                     f"{max(valid - good - sums, 0):5.1f} % wrong in another way, {100 - valid:5.1f} % malformed")
    return "\n".join(lines + second_trials(file))


def second_trials(file: Path) -> list[str]:
    """Are the second trials of well-formed votes as good as the first, and does a wrong answer come again? A line.

    Of a model of single trials: the same of its samples, each beside the next. No line if there is only one, or if
    none is wrong.
    """
    header, *rows = map(json.loads, file.read_text().splitlines())
    first, second, again, votes = [], [], [], []  # bool: is it right, is a wrong one repeated
    for row in rows:
        judged = [voting.judge(row["answer"], r["text"], r["finished"], header["condition"]) for r in row["responses"]]
        if header["condition"] == "scot":
            answers = [parsed.final for parsed, _ in judged]
            pairs = list(zip(answers, answers[1:]))
        else:
            extended = [(parsed.answers, right) for parsed, right in judged if parsed.group == "extended"]
            pairs = [answers[:2] for answers, _ in extended]
            votes += [right for _, right in extended]
        for one, next_one in pairs:
            if one is not None and next_one is not None:
                first.append(grade.equal(row["answer"], one))
                second.append(grade.equal(row["answer"], next_one))
                again += [] if first[-1] else [grade.equal(one, next_one)]
    if not first or not again:
        return []
    shares = [f"{100 * np.mean(each):.1f} %" for each in (first, second, again)]
    what = f"votes: {100 * np.mean(votes):.1f} % are right" if votes else "each sample and the next as two trials"
    return [f"{what}; first trials: {shares[0]}, second: {shares[1]}; a wrong answer comes again at once: {shares[2]}"]


def parse_args(argv: list[str] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/words", help="directory to write (default runs/words)")
    parser.add_argument("--train", type=int, default=10_000, help="problems to learn from (default 10,000)")
    parser.add_argument("--validation", type=int, default=500, help="problems to choose by (default 500)")
    parser.add_argument("--test", type=int, default=1000, help="problems to report (default 1,000)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same problems (default 0)")
    parser.add_argument("--mistakes", nargs="+", type=Path, metavar="FILE",
                        help="say what went wrong in these records of eval.py instead")
    args = parser.parse_args(argv)
    if min(args.train, args.validation, args.test) < 1:
        sys.exit("error: --train, --validation and --test must be at least 1")
    return args


def main(argv: list[str] = None) -> None:
    args = parse_args(argv)
    try:
        if args.mistakes:
            print(*map(mistakes, args.mistakes), sep="\n\n")
        else:
            write(Path(args.out), {split: getattr(args, split) for split in data.SPLITS}, args.seed)
    except (OSError, ValueError) as error:  # DataError is a ValueError
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
