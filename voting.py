"""Sequential voting: prompts, response templates, Algorithm 3, and `parse` (paper Sec. 4, App. B and G).

A *trial* is one [TRIAL] ... [/TRIAL] block that ends in a boxed answer; a *response* is all a model writes.
    regular  (G0)   one trial and a closing line (taught: one trial is enough); under the base's prompt a plain solution
    extended (G+)   trials one after another until an answer has occurred three times, eight at most, then the
                    consensus stated as the final answer; without one, the plurality (the first seen on ties)
    short           the same with two of at most three, and closing lines of its own; only where there are three modes
    malformed       everything else: it belongs to no group, is never accepted, and counts as wrong
Closing lines may say what they like, if the answer they state is the one that the rule asks for.
The rule is strict because the budget counts extended responses, not trials: a response that may go on voting after
its consensus buys trials for free.

    python voting.py                             # the prompts, and one response of each kind, parsed
"""

import random
from dataclasses import dataclass
from typing import NamedTuple

import grade

MAX_TRIALS = 8
CONSENSUS = 3
MODES = ("regular", "short", "extended")  # the groups, cheapest first

# ---------------------------------------------------------------------------------------------------------------------
# Prompts. Each is a system message. The built-in tokenizer knows each of these texts as a single token (that of three
# modes once sft.teach_to_spell has added it); to a real LLaMA they are instructions to be read. SCoT is the paper's
# name for the base's own format: one chain of thought, in headed steps where there are many.

_SCOT = (
    "Solve the maths problem. If two steps or fewer are enough, answer with a concise solution. Otherwise write "
    'numbered paragraphs, each headed "## Step k:" with a short title. '
    "End with the final answer in \\boxed{}.")
_TRIALS = (
    " Work in separate trials. Write each one as a block that opens with [TRIAL] and closes with [/TRIAL], "
    "holding a full solution, its answer in \\boxed{}, and how often that answer has come up so far. Make the "
    "trials as different as you can and do not let the solution in one refer to another.")
_SV = (
    " As soon as the same answer has come up three times, stop and state it as the final answer. If eight trials "
    "bring no such consensus, stop, say so, and state the answer that came up most often.")
_EASY = (
    " First judge how hard the problem is. If it is easy, write a single trial between [TRIAL] and [/TRIAL] and say "
    "that one trial is enough.")
_ASV = " If it is of medium difficulty or hard, proceed as follows."
_MODES = " If it is of medium difficulty, take a short vote, and if it is hard, a long one, as follows."
_SHORT = (
    " For a short vote, stop as soon as the same answer has come up twice, say that two trials agree, and state it as "
    "the final answer. If three trials bring no two that agree, say so, and state the first answer. For a long vote, "
    "do not stop there.")
PROMPTS = {
    "scot": _SCOT,  # one chain of thought: the base model's format
    "sv": _SCOT + _TRIALS + _SV,  # always vote
    "asv": _SCOT + _EASY + _ASV + _TRIALS + _SV,  # decide for yourself
    "modes": _SCOT + _EASY + _MODES + _TRIALS + _SHORT + _SV,  # decide among three modes
}


def messages(question: str, condition: str) -> list[dict]:
    """The conversation that asks `question` under a condition of PROMPTS."""
    return [{"role": "system", "content": PROMPTS[condition]}, {"role": "user", "content": question}]


class PromptError(ValueError):
    """A question that the model's tokenizer cannot spell; the message is one line."""


def encode_prompt(tokenizer, question: str, condition: str) -> list[int]:
    """Prompt ids through the tokenizer's own chat template (which writes its own BOS: none is added here)."""
    text = tokenizer.apply_chat_template(messages(question, condition), tokenize=False, add_generation_prompt=True,
                                         date_string="26 Jul 2024")  # Llama 3.2 would write today's: not repeatable
    ids = tokenizer(text, add_special_tokens=False).input_ids
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
        known = tokenizer.unk_token_id not in tokenizer(PROMPTS[condition], add_special_tokens=False).input_ids
        raise PromptError(f"this model's tokenizer has no tokens for all of {question!r}" if known else
                          f"this model's tokenizer has no tokens for the prompt {condition!r}; it never learned it")
    return ids


# ---------------------------------------------------------------------------------------------------------------------
# Templates

OPEN, CLOSE = "[TRIAL]\n", "\n[/TRIAL]\n"
TALLY = {0: "", 1: "\nSeen once.", 2: "\nSeen twice.", 3: "\nSeen three times."}  # of the trial's own answer
EASY = "One trial is enough: the problem is easy."
AGREED = "Three trials agree. The final answer is \\boxed{"
DISAGREED = "No three trials agree. The most frequent answer is \\boxed{"
END = "}."


class Rule(NamedTuple):
    """When a vote stops and what it says then: a regular response is, in these terms, one of at most one."""

    consensus: int  # as soon as one answer has come up so often
    max_trials: int  # and after this many trials at the latest
    agreed: str  # what it says then, up to the stated answer
    disagreed: str  # and without consensus


LONG = Rule(CONSENSUS, MAX_TRIALS, AGREED, DISAGREED)
SHORT = Rule(2, 3, "Two trials agree. The final answer is \\boxed{",
             "No two trials agree. The most frequent answer is \\boxed{")


def pieces(condition: str = "asv") -> list[str]:
    """The fixed pieces of text of this file, for a tokenizer that gives each its own token.

    The built-in base model knows those of two modes; condition "modes": and those of a third.
    """
    more = [PROMPTS["modes"], SHORT.agreed, SHORT.disagreed] if condition == "modes" else []
    return [*(PROMPTS[name] for name in ("scot", "sv", "asv")), OPEN, CLOSE, EASY, AGREED, DISAGREED, END,
            *filter(None, TALLY.values()), *more]


def render_regular(solution: str) -> str:
    """One solution as a regular ASV response."""
    return OPEN + solution + TALLY[1] + CLOSE + EASY


def render_extended(solutions: list[str], answers: list[str], rule: Rule = LONG) -> str:
    """Trials and their verdict as an extended response, or a short vote. The caller has applied the stop rule."""
    final, count = plurality(answers)
    trials = [OPEN + solution + TALLY[times_seen(answers[: i + 1])] + CLOSE for i, solution in enumerate(solutions)]
    return "".join(trials) + (rule.agreed if count >= rule.consensus else rule.disagreed) + final + END


# ---------------------------------------------------------------------------------------------------------------------
# The stop rule and Algorithm 3


def plurality(answers: list[str | None]) -> tuple[str | None, int]:
    """The answer that occurs most often, the first seen on ties, and how often. None (no answer) never counts.

    Answers are the same when the grader says so: plurality(["1/2", "3", "0.5"]) is ("1/2", 2).
    """
    best, most = None, 0
    distinct, counts = [], []
    for answer in answers:
        if answer is None:
            continue
        for i, known in enumerate(distinct):
            if grade.equal(known, answer):
                counts[i] += 1
                break
        else:
            distinct.append(answer)
            counts.append(1)
    for answer, count in zip(distinct, counts):
        if count > most:
            best, most = answer, count
    return best, most


def times_seen(answers: list[str | None]) -> int:
    """How often the last answer has come up, CONSENSUS at most, as far as TALLY counts; 0 if it is None."""
    if answers[-1] is None:
        return 0
    return min(sum(a is not None and grade.equal(a, answers[-1]) for a in answers), CONSENSUS)


def trials_needed(answers: list[str | None], rule: Rule = LONG) -> int | None:
    """How many trials a vote takes that meets these answers in this order; None if they end before the rule does."""
    for t in range(rule.consensus, min(len(answers), rule.max_trials) + 1):
        if plurality(answers[:t])[1] == rule.consensus:
            return t
    return rule.max_trials if len(answers) >= rule.max_trials else None


def build_vote(solutions: list[str], gold: str, rng: random.Random, rule: Rule = LONG) -> str | None:
    """Algorithm 3: a vote made of a problem's sampled solutions; None if its final answer is wrong.

    The solutions are shuffled and appended as trials until the rule stops: LONG when one answer has come up three
    times, after eight at the latest (SHORT: twice, three). Departure from the paper: without consensus, the final
    answer is the plurality, which a model can follow without knowing the truth (the paper takes a correct one if there
    is any).
    """
    solutions = rng.sample(solutions, len(solutions))
    answers = [grade.extract(solution) for solution in solutions]
    needed = trials_needed(answers, rule)
    if needed is None or plurality(answers[:needed])[0] is None:
        return None
    vote = render_extended(solutions[:needed], answers[:needed], rule)
    _, right = judge(gold, vote, condition="modes")
    return vote if right else None  # also None: a solution with a [TRIAL] in it breaks the vote


# ---------------------------------------------------------------------------------------------------------------------
# Parsing


@dataclass(frozen=True)
class Parsed:
    group: str  # one of MODES, or "malformed"
    trials: int  # trials begun: what the response cost
    answers: tuple  # the answer of each finished trial, None where it has none
    final: str | None  # the stated answer; None if malformed
    reason: str = ""  # why it is malformed


def parse(text: str) -> Parsed:
    """Split a response into trials and decide its group by the stop rule."""
    begun = text.count("[TRIAL]")
    if not begun and "[/TRIAL]" not in text:  # a plain solution: one chain of thought
        final = grade.extract(text)
        if final is None:
            return Parsed("malformed", 1, (None,), None, "no answer")
        return Parsed("regular", 1, (final,), final)

    answers, rest = [], text
    while True:
        before, opened, after = rest.partition("[TRIAL]")
        if not opened:
            break
        body, closed, rest = after.partition("[/TRIAL]")
        if before.strip() or not closed or "[TRIAL]" in body:
            reason = "text between trials" if before.strip() else "a trial is not closed"
            return Parsed("malformed", begun, tuple(answers), None, reason)
        answers.append(grade.extract(body))
    answers, closing = tuple(answers), rest.strip()

    def malformed(reason: str) -> Parsed:
        return Parsed("malformed", max(begun, 1), answers, None, reason)

    if "[/TRIAL]" in closing:
        return malformed("a trial is not opened")
    if not closing:
        return malformed("no closing line")
    stated = grade.extract(closing)
    expected, _ = plurality(answers)
    if expected is None:
        return malformed("no trial has an answer")
    if len(answers) == 1:
        if stated is not None and not grade.equal(expected, stated):
            return malformed("states another answer than its trial")
        return Parsed("regular", 1, answers, expected)
    short = closing.startswith((SHORT.agreed, SHORT.disagreed))
    rule = SHORT if short else LONG
    needed = trials_needed(answers, rule)
    if needed is None:
        return malformed("stopped before consensus")
    if len(answers) > needed:
        most = "more than three trials" if short else "more than eight trials"
        return malformed("went on after consensus" if needed < rule.max_trials else most)
    if stated is None:
        return malformed("states no final answer")
    if not grade.equal(expected, stated):
        return malformed("states another answer than its trials")
    return Parsed("short" if short else "extended", len(answers), answers, expected)


def judge(gold: str, text: str, finished: bool = True, condition: str = "asv") -> tuple[Parsed, bool]:
    """The parsed response and r_match: whether its final answer is right. One that was cut off is malformed.

    condition: the prompt it answers. Where that offers two modes, a short vote is malformed: no cap would count it.
    Where it asks for trials, so is a plain solution: what it tries inside would be for free.
    """
    parsed, reason = parse(text), ""
    if not finished:
        reason = "cut off"
    elif parsed.group == "short" and condition != "modes":
        reason = "a short vote, but there are two modes"
    elif parsed.group == "regular" and "[TRIAL]" not in text and condition != "scot":
        reason = "no trial is marked as one"
    if reason:
        parsed = Parsed("malformed", parsed.trials, parsed.answers, None, reason)
    return parsed, parsed.final is not None and grade.equal(gold, parsed.final)


def main() -> None:
    for name, prompt in PROMPTS.items():
        print(f"--- {name}\n{prompt}\n")
    solution = "7\n* 12 = 23\n\\boxed{%d}"
    examples = {
        "one trial": render_regular(solution % 23),
        "a vote": render_extended([solution % a for a in (23, 5, 23, 23)], ["23", "5", "23", "23"]),
        "a vote that stopped too early": render_extended([solution % 23] * 2, ["23", "23"]),
        "a short vote": render_extended([solution % 23] * 2, ["23", "23"], SHORT),
    }
    for name, text in examples.items():
        print(f"--- {name}\n{text}\n=> {parse(text)}\n")


if __name__ == "__main__":
    main()
