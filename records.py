"""Records: a model's raw responses to a set of problems on disk, and, judged, in arrays.

A record is a .jsonl file: a header with the settings, then a line per problem with its responses as they were written.
Everything that eval.py prints or draws is computed from records, so a better parser or grader can judge them again.

    python eval.py --redraw runs/builtin/eval    # table and plots again, from the saved records
"""

import json
from collections import Counter
from dataclasses import dataclass
from operator import index
from pathlib import Path

import numpy as np
from tqdm import tqdm

import data
import grade
import sample
import voting
from settings import whole


def make_record(path: Path, directory, problems: list, header: dict, samples: int, model, tokenizer, **options) -> None:
    """Answer the problems and write the record: a header line, then a line per problem with its raw responses."""
    with tqdm(total=len(problems) * samples, desc=path.stem, unit="response", dynamic_ncols=True) as bar:
        rows = sample.ask(model, tokenizer, [problem.question for problem in problems], header["condition"], samples,
                          stop_ids=sample.stop_ids_of(directory, tokenizer), progress=bar.update, **options)
    cut = sum(not r.finished for row in rows for r in row) / (len(problems) * samples)
    if cut > 0.05:
        print(f"note: {cut:.0%} of the responses of {path.stem} were cut off (max_new_tokens), and count as wrong")
    lines = [json.dumps(header)]
    for problem, row in zip(problems, rows):
        responses = [{"text": r.text, "tokens": len(r.ids), "finished": r.finished} for r in row]
        lines.append(json.dumps({"question": problem.question, "answer": problem.answer, "level": problem.level,
                                 "responses": responses}))
    with whole(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def is_record_of(path: Path, header: dict, problems: list) -> bool:
    """Whether there is such a record: made with these settings, of these questions, answers and levels."""
    if not path.exists():
        return False
    try:
        before, *rows = map(json.loads, path.read_text().splitlines())
    except ValueError:  # half a file, or none
        return False
    keys = "question", "answer", "level"
    return before == header and [[row[key] for key in keys] for row in rows] == [
        [getattr(problem, key) for key in keys] for problem in problems]


@dataclass
class Record:
    """A model's judged responses to n problems, m each."""

    name: str
    condition: str
    greedy: bool
    questions: list[str]
    levels: np.ndarray  # int[n]
    correct: np.ndarray  # bool[n, m], r_match; malformed responses are wrong
    extended: np.ndarray  # bool[n, m], G+
    malformed: np.ndarray  # bool[n, m]
    trials: np.ndarray  # int[n, m]
    tokens: np.ndarray  # int[n, m]
    first: np.ndarray  # bool[n, m], whether the first trial is right
    answers: np.ndarray  # int[n, m], the same number for the same answer to a problem, -1 for none
    consistent: np.ndarray  # float[n, m], column k-1: how often a plurality of k of the m samples is right
    short: np.ndarray = None  # bool[n, m], the third mode; None: there are two

    def __post_init__(self):
        if self.short is None:
            self.short = np.zeros_like(self.extended)

    def shares(self, at=slice(None)) -> dict[str, float]:
        """The share of each mode, and of malformed responses, at these problems."""
        parts = {"regular": ~(self.short | self.extended | self.malformed), "short": self.short,
                 "extended": self.extended, "malformed": self.malformed}  # bool[n, m] each
        return {name: float(part[at].mean()) for name, part in parts.items()}

    @property
    def rule_kept(self) -> float | None:
        """The share of responses with several trials that keep the whole stop rule; None if there are none."""
        attempts = self.trials > 1
        return float((attempts & ~self.malformed).sum() / attempts.sum()) if attempts.any() else None


def numbered(finals: list) -> tuple[list[int], list]:
    """The same number for the same answer, -1 for none; and the different answers, in the order of the numbers."""
    numbers, known = [], []
    for final in finals:
        same = next((i for i, answer in enumerate(known) if grade.equal(answer, final)), len(known)) if final else -1
        if same == len(known):
            known.append(final)
        numbers.append(same)
    return numbers, known


def self_consistency(gold: str, finals: list) -> list[float]:
    """For k = 1..m: the share of the m windows of k consecutive samples (round and round) whose plurality is right."""
    m = len(finals)
    numbers, known = numbered(finals)
    right = [grade.equal(gold, answer) for answer in known]
    shares = []
    for k in range(1, m + 1):
        votes = [Counter(i for i in (numbers * 2)[start : start + k] if i >= 0) for start in range(m)]
        # most_common keeps the order of first appearance on ties, as voting.plurality does
        shares.append(sum(bool(vote) and right[vote.most_common(1)[0][0]] for vote in votes) / m)
    return shares


def read_record(path: Path) -> Record:
    """Parse and grade a record's raw responses. Raises data.DataError, in one line, if it is not a record."""
    try:
        header, *rows = [json.loads(line) for line in path.read_text().splitlines()]
        if not rows or not all(row["responses"] for row in rows):
            raise ValueError("no responses")
        if header.get("problems", len(rows)) != len(rows):
            raise ValueError(f"{len(rows)} of {header['problems']} problems")
        if header["condition"] not in voting.PROMPTS:
            raise ValueError(f"condition {header['condition']!r}")
        columns = {name: [] for name in ("correct", "extended", "malformed", "trials", "tokens", "first", "answers",
                                         "consistent", "short")}
        for row in rows:
            gold = row["answer"]
            judged = [voting.judge(gold, r["text"], r["finished"], header["condition"]) for r in row["responses"]]
            parsed = [p for p, _ in judged]
            columns["correct"].append([right for _, right in judged])
            columns["extended"].append([p.group == "extended" for p in parsed])
            columns["short"].append([p.group == "short" for p in parsed])
            columns["malformed"].append([p.group == "malformed" for p in parsed])
            columns["trials"].append([p.trials for p in parsed])
            columns["tokens"].append([index(r["tokens"]) for r in row["responses"]])
            columns["first"].append([bool(p.answers) and p.answers[0] is not None and grade.equal(gold, p.answers[0])
                                     for p in parsed])
            columns["answers"].append(numbered([p.final for p in parsed])[0])
            columns["consistent"].append(self_consistency(gold, [p.final for p in parsed]))
        return Record(path.stem, header["condition"], header["temperature"] == 0, [row["question"] for row in rows],
                      np.array([index(row["level"]) for row in rows]), **{k: np.array(v) for k, v in columns.items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise data.DataError(f"{path}: not a record of responses ({type(error).__name__}: {error})") from None
