"""Sequential voting: prompts, response templates, Algorithm 3, and `parse` (paper Sec. 4, App. B and G).

A *trial* is one [TRIAL] ... [/TRIAL] block that ends in a boxed answer; a *response* is all a model writes.
    regular  (G∘)   one trial and a closing line; under the base's prompt, a plain solution without tags
    extended (G₊)   a *vote*: at most eight trials, one after another, until an answer has occurred three times; then
                    this consensus is the final answer, or without one the plurality (the first seen on ties)
    short           the same with two of at most three, and closing lines of its own; only where there are three groups
    pair            two trials and nothing else, the second one counts: only under SCoRe's prompt (experiments/score.py)
    malformed       everything else: it belongs to no group, is never accepted, and counts as wrong
Closing lines must be there, and the answer they state is checked; of their words, only the opening ones of a short vote
mean anything. The stop rule is enforced because the budget counts votes, not
trials: a vote that goes on after its consensus would spend trials that no cap counts.

    python voting.py                             # one response of each kind, parsed; the prompts
"""

import random
import textwrap
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

import grade

GROUPS = ("regular", "short", "extended")  # cheapest first
CONSENSUS, MAX_TRIALS = 3, 8  # equal answers that end a vote; its largest number of trials
SHORT_CONSENSUS, SHORT_MAX_TRIALS = 2, 3  # the same for a short vote
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def times(count: int) -> str:
    """once, twice, three times, ..."""
    return {1: "once", 2: "twice"}.get(count, f"{NUMBERS[count]} times")


# ---------------------------------------------------------------------------------------------------------------------
# Prompts. Each is a system message. The built-in tokenizer knows each of these texts as a single token (those of
# three groups and of pairs once sft.add_missing_tokens has added them); to a real LLaMA they are instructions to be
# read. SCoT is the paper's name for the base's own format: one chain of thought, in headed steps where there are many.

_SCOT = (
    "Solve the maths problem. If two steps or fewer are enough, answer with a concise solution. Otherwise write "
    'numbered paragraphs, each headed "## Step k:" with a short title. '
    "End with the final answer in \\boxed{}.")
_TRIALS = (
    " Work in separate trials. Write each one as a block that opens with [TRIAL] and closes with [/TRIAL], "
    "holding a full solution, its answer in \\boxed{}, and how often that answer has come up so far. Make the "
    "trials as different as you can and do not let the solution in one refer to another.")
_SV = (
    f" As soon as the same answer has come up {times(CONSENSUS)}, stop and state it as the final answer. "
    f"If {NUMBERS[MAX_TRIALS]} trials bring no such consensus, stop, say so, and state the answer that came up most "
    "often.")
_IF_EASY = (
    " First judge how hard the problem is. If it is easy, write a single trial between [TRIAL] and [/TRIAL] and say "
    "that one trial is enough.")
_ASV = " If it is of medium difficulty or hard, proceed as follows."
_MODES = " If it is of medium difficulty, take a short vote, and if it is hard, a long one, as follows."
_IF_SHORT = (
    f" For a short vote, stop as soon as the same answer has come up {times(SHORT_CONSENSUS)}, say that "
    f"{NUMBERS[SHORT_CONSENSUS]} trials agree, and state it as the final answer. If {NUMBERS[SHORT_MAX_TRIALS]} trials "
    f"bring no {NUMBERS[SHORT_CONSENSUS]} that agree, say so, and state the first answer. For a long vote, do not stop "
    "there.")
_PAIR = (
    " Work in two trials. Write each one as a block that opens with [TRIAL] and closes with [/TRIAL], holding a full "
    "solution and its answer in \\boxed{}. In the second trial, look for mistakes in the first. Keep its answer, or "
    "correct it: the answer of the second trial counts.")
PROMPTS = {
    "scot": _SCOT,  # one chain of thought: the base model's format
    "sv": _SCOT + _TRIALS + _SV,  # always vote
    "asv": _SCOT + _IF_EASY + _ASV + _TRIALS + _SV,  # decide for yourself
    "modes": _SCOT + _IF_EASY + _MODES + _TRIALS + _IF_SHORT + _SV,  # decide among three groups
    "score": _SCOT + _PAIR,  # correct yourself: what IBPO is compared with
}

DATE = "26 Jul 2024"  # for chat templates such as that of Llama 3.2, which would write today's: not repeatable


def messages(question: str, condition: str, system_turn: bool = True) -> list[dict]:
    """The conversation that asks `question` under a condition of PROMPTS. system_turn: whether it may have one."""
    if not system_turn:
        return [{"role": "user", "content": f"{PROMPTS[condition]}\n\n{question}"}]
    return [{"role": "system", "content": PROMPTS[condition]}, {"role": "user", "content": question}]


@lru_cache(maxsize=16)
def has_system_turn(tokenizer) -> bool:
    """Whether the tokenizer's chat template writes a system turn; some drop it, others raise an error."""
    try:
        text = tokenizer.apply_chat_template(messages("1 + 1?", "scot"), tokenize=False, add_generation_prompt=True,
                                             date_string=DATE)
    except Exception:  # a template may raise anything
        return False
    return PROMPTS["scot"] in text


class PromptError(ValueError):
    """A question that the model's tokenizer cannot spell; the message is one line."""


def encode_prompt(tokenizer, question: str, condition: str) -> list[int]:
    """Prompt ids through the tokenizer's own chat template (which writes its own BOS: none is added here).

    Where the template has no system turn, the user's turn begins with the instruction. Raises PromptError.
    """
    text = tokenizer.apply_chat_template(
        messages(question, condition, has_system_turn(tokenizer)), tokenize=False, add_generation_prompt=True,
        date_string=DATE)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
        coded = tokenizer(question, add_special_tokens=False, return_offsets_mapping=True)
        unknown = [question[a:b] for id, (a, b) in zip(coded.input_ids, coded.offset_mapping)
                   if id == tokenizer.unk_token_id]
        if unknown:
            raise PromptError(f"this model's tokenizer has no token for {unknown[0]!r} in {question!r}")
        raise PromptError(f"this model's tokenizer has no token for the prompt {condition!r}; it never learned it")
    return ids


# ---------------------------------------------------------------------------------------------------------------------
# Templates

OPEN, CLOSE = "[TRIAL]\n", "\n[/TRIAL]\n"
TALLY = {0: "", **{count: f"\nSeen {times(count)}." for count in range(1, CONSENSUS + 1)}}  # of the trial's own answer
EASY = "One trial is enough: the problem is easy."
END = "}."


class Rule(NamedTuple):
    """When a vote stops and what it says then."""

    consensus: int  # equal answers that end the vote
    max_trials: int  # its largest number of trials

    @property
    def agreed(self) -> str:
        """The closing line with consensus, up to the stated answer."""
        return f"{NUMBERS[self.consensus].capitalize()} trials agree. The final answer is \\boxed{{"

    @property
    def disagreed(self) -> str:
        """The closing line without consensus."""
        return f"No {NUMBERS[self.consensus]} trials agree. The most frequent answer is \\boxed{{"


LONG = Rule(CONSENSUS, MAX_TRIALS)
SHORT = Rule(SHORT_CONSENSUS, SHORT_MAX_TRIALS)


def pieces(condition: str = "asv") -> list[str]:
    """The fixed pieces of text of this file, for a tokenizer that gives each its own token.

    The built-in base model knows those of two groups; condition "modes": and those of a third; "score": of pairs.
    """
    added = {"modes": [PROMPTS["modes"], SHORT.agreed, SHORT.disagreed], "score": [PROMPTS["score"]]}
    prompts = [PROMPTS[name] for name in ("scot", "sv", "asv")]
    tallies = [text for text in TALLY.values() if text]
    return [*prompts, OPEN, CLOSE, EASY, LONG.agreed, LONG.disagreed, END, *tallies, *added.get(condition, [])]


def render_regular(solution: str) -> str:
    """One solution as a regular ASV response."""
    return OPEN + solution + TALLY[1] + CLOSE + EASY


def render_extended(solutions: list[str], answers: list[str], rule: Rule = LONG) -> str:
    """Trials and their verdict as an extended response, or a short vote. The caller has applied the stop rule."""
    final, count = plurality(answers)
    trials = [OPEN + solution + TALLY[times_seen(answers[: i + 1])] + CLOSE for i, solution in enumerate(solutions)]
    closing = rule.agreed if count >= rule.consensus else rule.disagreed
    return "".join(trials) + closing + final + END


# ---------------------------------------------------------------------------------------------------------------------
# The stop rule and Algorithm 3


def plurality(answers: list[str | None]) -> tuple[str | None, int]:
    """The answer that occurs most often, the first seen on ties, and how often. None (no answer) never counts.

    Answers are the same when the grader says so: plurality(["1/2", "3", "0.5"]) is ("1/2", 2).
    """
    numbers, distinct = number_answers(answers)
    if not distinct:
        return None, 0
    most = max(range(len(distinct)), key=numbers.count)  # the first of the most frequent ones
    return distinct[most], numbers.count(most)


def number_answers(answers: list[str | None]) -> tuple[list[int], list[str]]:
    """The same number for the same answer, -1 for none; and the distinct answers, in the order of their numbers."""
    numbers, distinct = [], []
    for answer in answers:
        alike = (i for i, known in enumerate(distinct) if grade.equal(known, answer))
        number = -1 if answer is None else next(alike, len(distinct))
        if number == len(distinct):
            distinct.append(answer)
        numbers.append(number)
    return numbers, distinct


def times_seen(answers: list[str | None]) -> int:
    """How often the last answer has come up, at most CONSENSUS (TALLY counts no further); 0 if it is None."""
    numbers, _ = number_answers(answers)
    return 0 if answers[-1] is None else min(numbers.count(numbers[-1]), CONSENSUS)


def trials_needed(answers: list[str | None], rule: Rule = LONG) -> int | None:
    """The number of trials at which the rule stops; None if there are too few answers to tell."""
    for t in range(rule.consensus, min(len(answers), rule.max_trials) + 1):
        if plurality(answers[:t])[1] == rule.consensus:
            return t
    return rule.max_trials if len(answers) >= rule.max_trials else None


def build_vote(solutions: list[str], gold: str, rng: random.Random, rule: Rule = LONG) -> str | None:
    """Algorithm 3: a right vote made of a problem's sampled solutions; None where they make none.

    The solutions are shuffled and appended as trials until the rule stops: LONG when one answer has come up three
    times, after eight at the latest (SHORT: twice, after three). Departure from the paper: without consensus, the final
    answer is the plurality, which a model can follow without knowing the truth (the paper takes a correct one if there
    is any).
    """
    solutions = rng.sample(solutions, len(solutions))
    answers = [grade.extract(solution) for solution in solutions]
    needed = trials_needed(answers, rule)
    if needed is None or plurality(answers[:needed])[0] is None:  # too few solutions, or none with an answer
        return None
    vote = render_extended(solutions[:needed], answers[:needed], rule)
    _, right = judge(gold, vote, condition="modes")  # parsed as modes, where SHORT is valid, too
    return vote if right else None  # wrong, or broken by a [TRIAL] inside a solution


# ---------------------------------------------------------------------------------------------------------------------
# Parsing


@dataclass(frozen=True)
class Parsed:
    """A response as `parse` reads it."""

    group: str  # one of GROUPS, or "malformed"
    trials: int  # trials begun: what the response cost
    answers: tuple[str | None, ...]  # the answer of each finished trial, None where it has none
    final: str | None  # the answer that counts, as its first trial spells it; None if malformed
    reason: str = ""  # why it is malformed


def parse(text: str) -> Parsed:
    """Split a response into trials, name its group, and check that it keeps the group's stop rule."""
    begun = text.count("[TRIAL]")
    if not begun and "[/TRIAL]" not in text:  # a plain solution: one chain of thought
        final = grade.extract(text)
        if final is None:
            return Parsed("malformed", 1, (None,), None, "no answer")
        return Parsed("regular", 1, (final,), final)

    answers, closing, reason = split_trials(text)
    if not reason:
        group, final, reason = apply_rule(answers, closing)
    if reason:
        return Parsed("malformed", max(begun, 1), answers, None, reason)
    return Parsed(group, len(answers), answers, final)


def split_trials(text: str) -> tuple[tuple[str | None, ...], str, str]:
    """The answers of the finished trials, the closing lines, and why the response cannot be split ("" if it can)."""
    answers, rest = [], text
    while "[TRIAL]" in rest:
        before, _, after = rest.partition("[TRIAL]")
        body, closed, rest = after.partition("[/TRIAL]")
        if before.strip():
            return tuple(answers), "", "text between trials"
        if not closed or "[TRIAL]" in body:
            return tuple(answers), "", "a trial is not closed"
        answers.append(grade.extract(body))
    if "[/TRIAL]" in rest:
        return tuple(answers), "", "a trial is not opened"
    return tuple(answers), rest.strip(), ""


def apply_rule(answers: tuple[str | None, ...], closing: str) -> tuple[str, str | None, str]:
    """The group and the final answer of a response with these trials, and what is wrong with it ("" if nothing is)."""
    if not closing:
        return "", None, "no closing line"
    stated = grade.extract(closing)
    expected, _ = plurality(answers)
    if expected is None:
        return "", None, "no trial has an answer"
    if len(answers) == 1:
        wrong = stated is not None and not grade.equal(expected, stated)
        return "regular", expected, "states another answer than its trial" if wrong else ""

    group, rule = "extended", LONG
    if SHORT_CONSENSUS < CONSENSUS and closing.startswith((SHORT.agreed, SHORT.disagreed)):
        group, rule = "short", SHORT
    needed, reason = trials_needed(answers, rule), ""
    if needed is None:
        reason = "stopped before consensus"
    elif len(answers) > needed == rule.max_trials:
        reason = f"more than {NUMBERS[rule.max_trials]} trials"
    elif len(answers) > needed:
        reason = "went on after consensus"
    elif stated is None:
        reason = "states no final answer"
    elif not grade.equal(expected, stated):
        reason = "states another answer than its trials"
    return group, expected, reason


def parse_pair(text: str) -> Parsed:
    """A response of two trials and nothing else, of which the second counts. It is no vote: its group is regular."""
    answers, closing, reason = split_trials(text)
    if not reason and (len(answers) != 2 or closing or answers[1] is None):
        reason = "not two trials, the second with an answer"
    if reason:
        return Parsed("malformed", max(text.count("[TRIAL]"), 1), answers, None, reason)
    return Parsed("regular", 2, answers, answers[1])


# ---------------------------------------------------------------------------------------------------------------------
# Judging


def judge(gold: str, text: str, finished: bool = True, condition: str = "asv") -> tuple[Parsed, bool]:
    """The parsed response and r_match: whether its final answer is right. One that was cut off is malformed.

    condition: the prompt it answers. With two groups a short vote is malformed, since no cap counts it. Under a prompt
    that asks for trials a response without [TRIAL] is malformed, too: its attempts could not be counted.
    """
    parsed, reason = (parse_pair if condition == "score" else parse)(text), ""
    if not finished:
        reason = "cut off"
    elif parsed.group == "short" and condition != "modes":
        reason = "a short vote, but there are two groups"
    elif parsed.group == "regular" and "[TRIAL]" not in text and condition != "scot":
        reason = "no trial is marked as one"
    if reason:
        parsed = Parsed("malformed", parsed.trials, parsed.answers, None, reason)
    return parsed, parsed.final is not None and grade.equal(gold, parsed.final)


@dataclass
class Judged:
    """n prompts with m judged responses each. Training and evaluation both compute from these arrays."""

    correct: np.ndarray  # bool[n, m], r_match: the final answer is right; malformed responses are wrong
    group: np.ndarray  # int[n, m], the place in GROUPS; 0 where malformed
    valid: np.ndarray  # bool[n, m], False: malformed
    trials: np.ndarray  # int[n, m], trials begun
    tokens: np.ndarray  # int[n, m], stop id included
    first: np.ndarray  # bool[n, m], whether the first trial is right

    @property
    def extended(self) -> np.ndarray:  # bool[n, m], G₊
        return self.group == GROUPS.index("extended")

    @property
    def malformed(self) -> np.ndarray:  # bool[n, m]
        return ~self.valid

    def in_group(self, name: str) -> np.ndarray:
        """Which responses are in a group of GROUPS, or "malformed": bool[n, m]."""
        return ~self.valid if name == "malformed" else self.valid & (self.group == GROUPS.index(name))

    @property
    def rule_kept(self) -> float | None:
        """The share of responses with several trials that keep the whole stop rule; None if there are none."""
        several = self.trials > 1  # bool[n, m]
        return float(self.valid[several].mean()) if several.any() else None


def judge_rows(golds: list[str], rows: list[list[tuple[str, bool, int]]],
               condition: str) -> tuple[Judged, list[list[str | None]]]:
    """Judge m responses to each of n problems; returns the arrays, and the final answers [n][m].

    golds: the right answers. rows: of each problem, (text, finished, tokens) per response.
    """
    verdicts = [[judge(gold, text, finished, condition) for text, finished, _ in row]
                for gold, row in zip(golds, rows)]
    parsed = [[p for p, _ in row] for row in verdicts]
    first = [[bool(p.answers) and p.answers[0] is not None and grade.equal(gold, p.answers[0]) for p in row]
             for gold, row in zip(golds, parsed)]
    judged = Judged(
        correct=np.array([[right for _, right in row] for row in verdicts]),
        group=np.array([[0 if p.group == "malformed" else GROUPS.index(p.group) for p in row] for row in parsed]),
        valid=np.array([[p.group != "malformed" for p in row] for row in parsed]),
        trials=np.array([[p.trials for p in row] for row in parsed]),
        tokens=np.array([[tokens for _, _, tokens in row] for row in rows]),
        first=np.array(first))
    return judged, [[p.final for p in row] for row in parsed]


def main() -> None:
    right = ["3\n* 8 = 24\n* 20 = 7\n\\boxed{7}",  # 3 * 8 * 20 modulo 43
             "20\n* 3 = 17\n* 8 = 7\n\\boxed{7}",
             "8\n* 20 = 31\n* 3 = 7\n\\boxed{7}"]
    wrong = "8\n* 3 = 24\n* 20 = 14\n\\boxed{14}"
    examples = {
        "a vote": render_extended([right[0], wrong, *right[1:]], ["7", "14", "7", "7"]),
        "one trial": render_regular(right[0]),
        "a short vote (malformed without --sft-short)": render_extended(right[:2], ["7", "7"], SHORT),
        "a vote that stopped too early": render_extended(right[:2], ["7", "7"]),
    }
    for name, text in examples.items():
        parsed = parse(text)
        reason = f" ({parsed.reason})" if parsed.reason else ""
        print(f"--- {name}\n{text}\n=> {parsed.group}{reason}, trials {parsed.trials}, answer {parsed.final}\n")
    for name, prompt in PROMPTS.items():
        print(textwrap.fill(f"--- the prompt {name!r}: {prompt}", 100) + "\n")


if __name__ == "__main__":
    main()
