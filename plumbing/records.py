"""Records: a model's raw responses to a set of problems on disk, and, judged, in arrays.

A record is a .jsonl file: a header with the settings, then a line per problem with its responses as they were written.
Everything that eval.py prints or draws is computed from records, so a better parser or grader can judge them again.

    python eval.py --redraw runs/builtin/eval    # table and plots again, from the saved records
    python eval.py --redraw runs/builtin/eval --keep DIR    # the same in DIR, with the records as arrays
"""

import json
import zipfile
import zlib
from dataclasses import dataclass, replace
from operator import index
from pathlib import Path

import numpy as np
from tqdm import tqdm

import data
import ibpo
import sample
import voting
from methods import METHODS
from plumbing import distributed
from plumbing.files import atomic_write


def make_record(path: Path, problems: list, header: dict, samples: int, model, tokenizer, **options) -> None:
    """Answer the problems and write the record: a header line, then a line per problem with its raw responses."""
    with tqdm(total=len(problems) * samples, desc=path.stem, unit="response", dynamic_ncols=True) as bar:
        rows = sample.ask(model, tokenizer, [problem.question for problem in problems], header["condition"], samples,
                          progress=bar.update, **options)
    cut = sum(not r.finished for row in rows for r in row) / (len(problems) * samples)
    if cut > 0.05:
        print(f"note: {cut:.0%} of the responses of {path.stem} were cut off (max_new_tokens), and count as wrong")
    distributed.on_main(lambda: write_record(path, problems, header, [
        [{"text": r.text, "tokens": len(r.ids), "finished": r.finished} for r in row] for row in rows]))


def require_distinct(names: list[str]) -> None:
    """Raises data.DataError if two of the models would have the same record: base-greedy is one of base, too."""
    taken = [*names, *(f"{name}-greedy" for name in names)]
    for name in names:
        if taken.count(name) > 1:
            raise data.DataError(f"two models are called {name}, and would have one record; rename one, or evaluate "
                                 "one at a time")


def write_record(path: Path, problems: list, header: dict, rows: list[list[dict]]) -> None:
    """The file. rows: of each problem, {"text", "tokens", "finished"} per response."""
    lines = [json.dumps(header)]
    for problem, responses in zip(problems, rows, strict=True):
        lines.append(json.dumps({"question": problem.question, "answer": problem.answer, "level": problem.level,
                                 "responses": responses}))
    with atomic_write(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def is_record_of(path: Path, header: dict, problems: list) -> bool:
    """Whether there is such a record: made with these settings and weights, of these questions, answers and levels.

    Where the checkpoint lies does not matter: a run may be copied or moved.
    """
    if not path.exists():
        return False
    keys = "question", "answer", "level"
    try:
        before, *rows = map(json.loads, path.read_text().splitlines())
        asked = [[row[key] for key in keys] for row in rows]
        before["model"] = header["model"]
        before.pop("slots", None)  # of earlier versions
    except (ValueError, KeyError, TypeError, AttributeError):  # half a file, or none
        return False
    return before == header and asked == [[getattr(problem, key) for key in keys] for problem in problems]


@dataclass
class Record(voting.Judged):
    """A model's judged responses to n problems, m each."""

    name: str
    condition: str
    greedy: bool
    questions: list[str]
    levels: np.ndarray  # int[n]
    answers: np.ndarray  # int[n, m], the same number for the same answer to a problem, -1 for none
    consistent: np.ndarray  # float[n, m], column k-1: how often a plurality of k of the m samples is right

    def shares(self) -> dict[str, float]:
        """The share of each group, and of malformed responses."""
        return {name: float(self.in_group(name).mean()) for name in (*voting.GROUPS, "malformed")}

    def at(self, problems: np.ndarray) -> "Record":
        """The record of some of the problems. problems: bool[n]."""
        arrays = {key: value[problems] for key, value in vars(self).items() if isinstance(value, np.ndarray)}
        return replace(self, questions=[self.questions[i] for i in np.flatnonzero(problems)], **arrays)


def joined(parts: list[Record]) -> Record:
    """A model's records with several seeds as one: the problems of one seed after those of the other.

    Raises data.DataError unless all seeds have as many problems of each level.
    """
    if len({tuple(np.bincount(part.levels)) for part in parts}) > 1:
        raise data.DataError(f"{parts[0].name}: not as many problems of each level with every seed")
    arrays = {key: np.concatenate([getattr(part, key) for part in parts])  # [seeds * n, ...]
              for key, value in vars(parts[0]).items() if isinstance(value, np.ndarray)}
    return replace(parts[0], questions=[q for part in parts for q in part.questions], **arrays)


def self_consistency(answers: np.ndarray, right: np.ndarray) -> np.ndarray:
    """float[n, m]: in column k-1 the share of windows of k consecutive samples whose plurality is right.

    There are m windows to a problem, round and round. answers: int[n, m], the same number for the same answer, -1 for
    none. right: bool[n, m], of each answer.
    """
    n, m = answers.shape
    given, problem = answers >= 0, np.arange(n)  # bool[n, m], int[n]
    windows = np.zeros((n, m), int)  # that are right
    for start in range(m):
        window = np.roll(np.arange(m), -start)  # int[m]
        same = (answers[:, window, None] == answers[:, None, window]) & given[:, window, None]  # bool[n, m, m]
        for k in range(1, m + 1):
            votes = same[:, :k, :k].sum(axis=2)  # int[n, k]: of each sample's answer
            first = votes.argmax(axis=1)  # int[n]: the first of the largest, as voting.plurality
            windows[:, k - 1] += right[problem, window[first]]
    return windows / m


def read_record(path: Path) -> Record:
    """Parse and grade a record's raw responses. Raises data.DataError, in one line, if it is not a record."""
    try:
        header, *rows = [json.loads(line) for line in path.read_text().splitlines()]
        if not rows or not all(row["responses"] for row in rows):
            raise ValueError("no responses")
        if len({len(row["responses"]) for row in rows}) > 1:
            raise ValueError("not as many responses to each problem")
        if header.get("problems", len(rows)) != len(rows):
            raise ValueError(f"{len(rows)} of {header['problems']} problems")
        if header["condition"] not in voting.PROMPTS:
            raise ValueError(f"condition {header['condition']!r}")
        golds = [row["answer"] for row in rows]
        responses = [[(r["text"], r["finished"], index(r["tokens"])) for r in row["responses"]] for row in rows]
        judged, finals = voting.judge_rows(golds, responses, header["condition"])
        answers = np.array([voting.number_answers(row)[0] for row in finals])  # int[n, m]
        return Record(
            **vars(judged), name=path.stem, condition=header["condition"], greedy=header["temperature"] == 0,
            questions=[row["question"] for row in rows], levels=np.array([index(row["level"]) for row in rows]),
            answers=answers, consistent=self_consistency(answers, judged.correct))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise data.DataError(f"{path}: not a record of responses ({type(error).__name__}: {error})") from None


def first_trials(path: Path) -> list[list[str]]:
    """The texts of the first trials in a record, [n][m]; of a model of single trials, the whole responses."""
    rows = [json.loads(line)["responses"] for line in path.read_text().splitlines()[1:]]
    return [[response["text"].removeprefix(voting.OPEN).partition(voting.CLOSE)[0] for response in row] for row in rows]


def keep_record(raw: Path, kept: Path) -> None:
    """Write a record's arrays, judged, without its texts: a compressed .npz file."""
    with atomic_write(kept) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **vars(read_record(raw)))


def keep_all(evaluation: Path, folder: Path) -> Path:
    """All records of an evaluation as arrays, in folder/records; returns the folder."""
    records = sorted((evaluation / "records").glob("*.jsonl"))
    if not records:
        raise data.DataError(f"{evaluation}/records: holds no responses to keep")
    for raw in records:
        keep_record(raw, folder / "records" / f"{raw.stem}.npz")
    return folder


def read_kept(path: Path) -> Record:
    """What keep_record wrote. Raises data.DataError, in one line, if it is something else."""
    try:
        with np.load(path) as file:
            fields = {name: file[name].item() if file[name].ndim == 0 else file[name] for name in file.files}
        return Record(**{**fields, "questions": fields["questions"].tolist()})
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise data.DataError(f"{path}: not a kept record ({type(error).__name__}); delete it") from None


def print_examples(path: Path, count: int) -> None:
    """The first responses of a record, to the first `count` problems."""
    header, *rows = [json.loads(line) for line in path.read_text().splitlines()[: count + 1]]
    for row in rows:
        response = row["responses"][0]
        parsed, right = voting.judge(row["answer"], response["text"], response["finished"], header["condition"])
        print(f"--- {path.stem}, level {row['level']}: {row['question']}\n{response['text']}\n"
              f"=> {parsed.group} {parsed.reason}, {'right' if right else 'wrong'} (gold {row['answer']})\n")


# ---------------------------------------------------------------------------------------------------------------------
# What log.jsonl says of the responses of an IBPO step


def by_level(levels: np.ndarray, values: np.ndarray) -> dict[int, float]:
    """Mean of values[n, ...] over the prompts of each level, NaN left out."""
    chosen = {level: values[levels == level] for level in sorted(set(levels.tolist()))}
    return {level: float(np.nanmean(v)) for level, v in chosen.items() if not np.isnan(v).all()}


def margins_of(rollout: voting.Judged) -> np.ndarray:
    """Eq. (6) between votes and regular responses, short votes left out: float[n]. rollout: train.Rollout."""
    votes = rollout.in_group("extended")  # bool[n, m]
    return ibpo.reward_margin(rollout.correct, votes, votes | rollout.in_group("regular"))


def describe(rollout: voting.Judged, selection: ibpo.Selection) -> dict:
    """A step's responses in numbers. rollout: train.Rollout."""
    levels, votes = rollout.levels, rollout.extended  # int[n], bool[n, m]
    accepted = selection.weights > 0  # bool[n, m]
    record = {
        "accuracy": float(rollout.correct.mean()), "accuracy_by_level": by_level(levels, rollout.correct),
        "vote_share": float(votes.mean()), "vote_share_by_level": by_level(levels, votes),
        "accepted": selection.accepted, "accepted_vote_share": selection.extended / max(selection.accepted, 1),
        "accepted_tokens": float(rollout.tokens[accepted].sum() / max(selection.accepted, 1)),
        "accepted_vote_share_by_level": by_level(levels, np.where(accepted, votes, np.nan)),
        "margin_by_level": by_level(levels, margins_of(rollout)),
        "trials": float(rollout.trials.mean()),
        "trials_per_vote": float(rollout.trials[votes].mean()) if votes.any() else None,
        "tokens": float(rollout.tokens.mean()), "malformed": float(1 - rollout.valid.mean()),
        "rule_kept": rollout.rule_kept,
        "dropped_no_correct": selection.dropped_no_correct, "dropped_over_cap": selection.dropped_over_cap}
    short = rollout.in_group("short")  # bool[n, m]
    if short.any():
        record |= {"short_share": float(short.mean()), "short_share_by_level": by_level(levels, short),
                   "accepted_short_share": float((accepted & short).sum() / max(selection.accepted, 1))}
    return record


def notes_on(record: dict, rollout: voting.Judged, settings) -> str:
    """What a user should know of a step: why nothing was accepted, that most responses are malformed, that none is a
    vote any more, or that most margins say nothing. "" if none of these.
    """
    if not record["accepted"]:
        n = len(rollout.correct)
        return (f"note: nothing was accepted in a step: {record['malformed']:.0%} of the responses were malformed, "
                f"{record['dropped_no_correct']} of {n} prompts had no correct one, and for "
                f"{record['dropped_over_cap']} the cap had no room")
    if record["malformed"] > 0.5:
        return (f"note: {record['malformed']:.0%} of the responses are malformed: the start has not learned to write "
                "trials and votes; see some with sample.py, and give ASV-SFT more --sft-steps or a higher --sft-lr")
    if METHODS[settings.method].fewest_samples > 2 and not (record["vote_share"] or record.get("short_share")):
        return ("note: no response is a vote, so no vote can be accepted, and the policy will hardly vote again; give "
                "ASV-SFT more --sft-votes if it was so from the first step, else start again with a lower --lr")
    silent = float((margins_of(rollout) == 0).mean())
    if METHODS[settings.method].fewest_samples > 2 and settings.samples < 8 and silent > 0.5:
        return (f"note: with --samples {settings.samples} the margin, Eq. (6), is 0 on {silent:.0%} of the prompts: "
                "there it cannot tell who should vote; more samples can")
    return ""
