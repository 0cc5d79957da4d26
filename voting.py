"""Sequential voting: prompts, response templates, Algorithm 3, and `parse` (paper Sec. 4, App. B and G).

A *trial* is one [TRIAL] ... [/TRIAL] block that ends in a boxed answer; a *response* is all a model writes.
    regular  (G0)   one trial, then a line that says it stopped because the problem is easy (or a plain solution)
    extended (G+)   trials one after another until an answer has occurred three times, eight at most, then the
                    consensus stated as the final answer; without one, the plurality (the first seen on ties)
    malformed       everything else: it belongs to no group, is never accepted, and counts as wrong
The rule is strict because the budget counts extended responses, not trials: a response that may go on voting after
its consensus buys trials for free.

    python voting.py                             # the three prompts, and one response of each kind, parsed
"""

import random
from dataclasses import dataclass

import grade

MAX_TRIALS = 8
CONSENSUS = 3

# ---------------------------------------------------------------------------------------------------------------------
# Prompts. Each is a system message. The built-in tokenizer knows each of these texts as a single token; to a real
# LLaMA they are instructions to be read.

_SCOT = (
    "Solve the maths problem. If two steps or fewer are enough, answer with a concise solution. Otherwise write "
    'numbered paragraphs, each headed "## Step k:" with a short title. '
    "End with the final answer in \\boxed{}.")
_SV = (
    " Work in separate trials. Write each one as a block that opens with [TRIAL] and closes with [/TRIAL], "
    "holding a full solution, its answer in \\boxed{}, and how often that answer has come up so far. Make the "
    "trials as different as you can and do not let the solution in one refer to another. As soon as the same "
    "answer has come up three times, stop and state it as the final answer. If eight trials bring no such "
    "consensus, stop, say so, and state the answer that came up most often.")
_ASV = (
    " First judge how hard the problem is. If it is easy, write a single trial between [TRIAL] and [/TRIAL] and say "
    "that one trial is enough. If it is of medium difficulty or hard, proceed as follows.")
PROMPTS = {
    "scot": _SCOT,  # one chain of thought: the base model's format
    "sv": _SCOT + _SV,  # always vote
    "asv": _SCOT + _ASV + _SV,  # decide for yourself
}


def messages(question: str, condition: str) -> list[dict]:
    """The conversation that asks `question` under a condition of PROMPTS."""
    return [{"role": "system", "content": PROMPTS[condition]}, {"role": "user", "content": question}]


class PromptError(ValueError):
    """A question that the model's tokenizer cannot spell; the message is one line."""


def encode_prompt(tokenizer, question: str, condition: str) -> list[int]:
    """Prompt ids through the tokenizer's own chat template (which writes its own BOS: none is added here)."""
    text = tokenizer.apply_chat_template(messages(question, condition), tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
        raise PromptError(f"this model's tokenizer has no tokens for all of {question!r}")
    return ids


# ---------------------------------------------------------------------------------------------------------------------
# Templates

OPEN, CLOSE = "[TRIAL]\n", "\n[/TRIAL]\n"
TALLY = {0: "", 1: "\nSeen once.", 2: "\nSeen twice.", 3: "\nSeen three times."}  # of the trial's own answer
EASY = "One trial is enough: the problem is easy."
AGREED = "Three trials agree. The final answer is \\boxed{"
DISAGREED = "No three trials agree. The most frequent answer is \\boxed{"
END = "}."


def pieces() -> list[str]:
    """The fixed pieces of text of this file, for a tokenizer that gives each its own token."""
    return [*PROMPTS.values(), OPEN, CLOSE, EASY, AGREED, DISAGREED, END, *filter(None, TALLY.values())]


def render_regular(solution: str) -> str:
    """One solution as a regular ASV response."""
    return OPEN + solution + TALLY[1] + CLOSE + EASY


def render_extended(solutions: list[str], answers: list[str]) -> str:
    """Trials and their verdict as an extended response. The caller has applied the stop rule."""
    final, count = plurality(answers)
    trials = [OPEN + solution + TALLY[times_seen(answers[: i + 1])] + CLOSE for i, solution in enumerate(solutions)]
    return "".join(trials) + (AGREED if count >= CONSENSUS else DISAGREED) + final + END


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
    """How often the last answer has come up, CONSENSUS at most; 0 if it is None."""
    if answers[-1] is None:
        return 0
    return min(sum(a is not None and grade.equal(a, answers[-1]) for a in answers), CONSENSUS)


def trials_needed(answers: list[str | None]) -> int | None:
    """How many trials a vote takes that meets these answers in this order; None if they end before the rule does."""
    for t in range(CONSENSUS, min(len(answers), MAX_TRIALS) + 1):
        if plurality(answers[:t])[1] == CONSENSUS:
            return t
    return MAX_TRIALS if len(answers) >= MAX_TRIALS else None


def build_vote(solutions: list[str], gold: str, rng: random.Random) -> str | None:
    """Algorithm 3: an extended response made of a problem's sampled solutions; None if its final answer is wrong.

    The solutions are shuffled and appended as trials until one answer has come up three times. Departure from the
    paper: without consensus after eight, the final answer is the plurality, which a model can follow without knowing
    the truth (the paper takes a correct one if there is any).
    """
    solutions = rng.sample(solutions, len(solutions))
    answers = [grade.extract(solution) for solution in solutions]
    needed = trials_needed(answers)
    if needed is None or plurality(answers[:needed])[0] is None:
        return None
    vote = render_extended(solutions[:needed], answers[:needed])
    return vote if judge(gold, vote)[1] else None  # also None: a solution with a [TRIAL] in it breaks the vote


# ---------------------------------------------------------------------------------------------------------------------
# Parsing


@dataclass(frozen=True)
class Parsed:
    group: str  # "regular", "extended" or "malformed"
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
    needed = trials_needed(answers)
    if needed is None:
        return malformed("stopped before consensus")
    if len(answers) > needed:
        return malformed("went on after consensus" if needed < MAX_TRIALS else "more than eight trials")
    if stated is None:
        return malformed("states no final answer")
    if not grade.equal(expected, stated):
        return malformed("states another answer than its trials")
    return Parsed("extended", len(answers), answers, expected)


def judge(gold: str, text: str, finished: bool = True) -> tuple[Parsed, bool]:
    """The parsed response and r_match: whether its final answer is right. One that was cut off is malformed."""
    parsed = parse(text)
    if not finished:
        parsed = Parsed("malformed", parsed.trials, parsed.answers, None, "cut off")
    return parsed, parsed.final is not None and grade.equal(gold, parsed.final)


def main() -> None:
    for name, prompt in PROMPTS.items():
        print(f"--- {name}\n{prompt}\n")
    solution = "7\n* 12 = 23\n\\boxed{%d}"
    examples = {
        "one trial": render_regular(solution % 23),
        "a vote": render_extended([solution % a for a in (23, 5, 23, 23)], ["23", "5", "23", "23"]),
        "a vote that stopped too early": render_extended([solution % 23] * 2, ["23", "23"]),
    }
    for name, text in examples.items():
        print(f"--- {name}\n{text}\n=> {parse(text)}\n")


if __name__ == "__main__":
    main()
