r"""voting.py: templates and parser against each other, against a slow reference, and Algorithm 3 by brute force.

    python -m pytest tests/test_voting.py

The reference below reads a response trial by trial with the rule of paper Sec. 4 spelled out, and counts answers by
numeric value; it shares nothing with voting.py but the extraction of an answer.
"""

import copy
import random
import re
from collections import Counter
from fractions import Fraction
from itertools import product
from pathlib import Path

import pytest
from scipy.stats import chisquare
from transformers import AutoTokenizer

import data
import grade
import voting
from voting import CLOSE, EASY, END, LONG, OPEN, SHORT, parse, render_extended, render_regular

AGREED, DISAGREED = LONG.agreed, LONG.disagreed


def solution(answer) -> str:
    return "7\n* 12 = 23\n" + ("no result" if answer is None else f"\\boxed{{{answer}}}")


def trials(*answers) -> str:
    return "".join(OPEN + solution(answer) + CLOSE for answer in answers)


def vote(*answers, rule=voting.LONG) -> str:
    return render_extended([solution(a) for a in answers], [None if a is None else str(a) for a in answers], rule)


def short(*answers) -> str:
    return vote(*answers, rule=SHORT)


EIGHT = (1, 2, 3, 4, 5, 2, 6, 7)  # no consensus; 2 is the plurality


# ---------------------------------------------------------------------------------------------------------------------
# The reference


def slow_plurality(answers) -> tuple:
    """(value, count): of the largest count the value seen first. Answers are integers or fractions here."""
    values = [Fraction(answer) for answer in answers if answer is not None]
    best = max((values.count(value) for value in values), default=0)
    return next(((value, best) for value in values if values.count(value) == best), (None, 0))


def slow_parse(text: str) -> tuple[str, Fraction | None]:
    """Group and final answer, by a regular expression for the whole response and then the rule, trial by trial."""
    if "[TRIAL]" not in text and "[/TRIAL]" not in text:
        answer = grade.extract(text)
        return ("regular", Fraction(answer)) if answer is not None else ("malformed", None)
    inside = r"((?:(?!\[/?TRIAL\]).)*)"
    whole = re.fullmatch(rf"(?:\s*\[TRIAL\]{inside}\[/TRIAL\])+{inside}", text, re.DOTALL)
    if not whole or not whole[2].strip():
        return "malformed", None
    answers = [grade.extract(body) for body in re.findall(rf"\[TRIAL\]{inside}\[/TRIAL\]", text, re.DOTALL)]
    stated = grade.extract(whole[2])
    value, count = slow_plurality(answers)
    if value is None or stated is not None and Fraction(stated) != value:
        return "malformed", None
    if len(answers) == 1:
        return "regular", value
    says_short = re.match(r"\s*(Two|No two) trials agree\. The (final|most frequent) answer is \\boxed{", whole[2])
    group, consensus, most = ("short", 2, 3) if says_short else ("extended", 3, 8)
    for t in range(2, len(answers)):  # a trial too many?
        if slow_plurality(answers[:t])[1] >= consensus:
            return "malformed", None
    if len(answers) > most or count < consensus and len(answers) < most or stated is None:
        return "malformed", None
    return group, value


# ---------------------------------------------------------------------------------------------------------------------
# Templates -> parse


@pytest.mark.parametrize("answer", ["23", "-4", r"\frac{1}{2}", "x^2 + 1", r"\left( 3, \frac{\pi}{2} \right)", "1,000"])
def test_one_trial_round_trip(answer):
    parsed = parse(render_regular(solution(answer)))
    assert (parsed.group, parsed.trials, parsed.final, parsed.reason) == ("regular", 1, answer, "")
    assert parsed.answers == (answer,)


def test_plain_solution():
    parsed = parse(solution(23))
    assert (parsed.group, parsed.trials, parsed.answers, parsed.final) == ("regular", 1, ("23",), "23")
    assert voting.judge("23", solution(23), condition="scot") == (parsed, True)
    for condition in ("sv", "asv", "modes"):  # a vote without its marks would cost nothing
        unmarked = "\n".join(["5", "5", "6", "5"]) + "\nThree agree: \\boxed{5}"
        parsed, right = voting.judge("5", unmarked, condition=condition)
        assert (parsed.group, right) == ("malformed", False) and "no trial" in parsed.reason


def test_every_vote_round_trip():
    """Every way a vote over three answers (or none) can go, written by the template, parsed by the stop rule."""
    running, seen = [()], Counter()
    for t in range(1, 9):
        longer = [(*answers, new) for answers in running for new in (11, 22, None)]
        ended = [answers for answers in longer if t == 8 or slow_plurality(answers)[1] == 3]
        running = [answers for answers in longer if answers not in set(ended)]
        for answers in ended:
            if any(answers):
                parsed = parse(vote(*answers))
                assert (parsed.group, parsed.trials) == ("extended", t), answers
                assert parsed.answers == tuple(None if a is None else str(a) for a in answers)
                assert Fraction(parsed.final) == slow_plurality(answers)[0]
                seen[t] += 1
        for answers in running:
            assert t == 1 or parse(vote(*answers) if any(answers) else trials(*answers) + EASY).group == "malformed"
    assert sorted(seen) == [3, 4, 5, 6, 7, 8] and seen[3] == 2 and sum(seen.values()) > 500


def test_every_short_vote_round_trip():
    """Written by the template of short votes, a short vote; the same trials with the long vote's closing, malformed."""
    seen = Counter()
    for answers in product((11, 22, 33, None), repeat=3):
        answers = answers[:2] if slow_plurality(answers[:2])[1] == 2 else answers
        if any(answers):
            parsed = parse(short(*answers))
            assert (parsed.group, parsed.trials, parsed.reason) == ("short", len(answers), ""), answers
            assert parsed.answers == tuple(None if a is None else str(a) for a in answers)
            assert Fraction(parsed.final) == slow_plurality(answers)[0]
            assert (SHORT.agreed in short(*answers)) == (slow_plurality(answers)[1] == 2)
            assert parse(vote(*answers)).group == "malformed"
            seen[len(answers)] += 1
            too_early = answers[: len(answers) - 1]
            if len(answers) == 3 and any(too_early):
                assert parse(short(*too_early)).reason == "stopped before consensus"
    assert seen == {2: 12, 3: 51}
    assert parse(short(5, 6, 5)).final == "5" and parse(short(6, 5, 7)).final == "6"


def test_a_short_vote_needs_its_own_closing_line():
    for closing in (AGREED + "5" + END, DISAGREED + "5" + END, EASY, "\\boxed{5}", "The answer is 5.",
                    "Two trials agree: \\boxed{5}.", "So: " + SHORT.agreed + "5" + END, SHORT.agreed.lower() + "5}"):
        assert parse(trials(5, 5) + closing).group == "malformed"
        assert parse(trials(5, 6, 5) + closing).group == "malformed"
    for closing in (SHORT.agreed, SHORT.disagreed):  # which of the two it is, is as free as in a long vote
        assert parse(trials(5, 5) + "\n " + closing + "5" + END).group == "short"
        assert parse(trials(5) + closing + "5" + END).group == "regular"  # it cost one trial
        assert parse(trials(5, 5, 5) + closing + "5" + END).reason == "went on after consensus"


def test_short_votes_count_only_where_there_are_three_modes():
    for condition in ("scot", "sv", "asv", "modes"):
        parsed, right = voting.judge("5", short(5, 5), condition=condition)
        offered = condition == "modes"
        assert (parsed.group, parsed.trials, parsed.answers) == ("short" if offered else "malformed", 2, ("5", "5"))
        assert right == offered and bool(parsed.reason) != offered and (parsed.final == "5") == offered
        for text, group in ((vote(5, 5, 5), "extended"), (render_regular(solution(5)), "regular")):
            assert (voting.judge("5", text, condition=condition)[0].group) == group
    assert voting.judge("5", short(5, 5)) == voting.judge("5", short(5, 5), condition="asv")
    assert voting.judge("5", short(5, 5), finished=False, condition="modes")[0].reason == "cut off"
    assert not voting.judge("6", short(5, 5), condition="modes")[1]


PAIRS = {  # text -> what is wrong with it, the trials begun
    trials(5): ("not two trials", 1),
    trials(5, 5, 5): ("not two trials", 3),
    trials(6, None): ("not two trials, the second with an answer", 2),
    trials(6, 5) + "The answer is \\boxed{5}.": ("not two trials", 2),
    short(5, 5): ("not two trials", 2),
    vote(5, 5, 5): ("not two trials", 3),
    render_regular(solution(5)): ("not two trials", 1),
    solution(5): ("not two trials", 1),
    "": ("not two trials", 1),
    "Well: " + trials(6, 5): ("text between trials", 2),
    trials(6) + "Again. " + trials(5): ("text between trials", 2),
    trials(6) + OPEN + solution(5): ("a trial is not closed", 2),
    OPEN + trials(6, 5): ("a trial is not closed", 3),
    trials(6, 5) + CLOSE: ("a trial is not opened", 2),
}


@pytest.mark.parametrize("text", PAIRS)
def test_what_is_no_pair(text):
    reason, cost = PAIRS[text]
    parsed, right = voting.judge("5", text, condition="score")
    assert (parsed.group, parsed.trials, parsed.final, right) == ("malformed", cost, None, False)
    assert parsed.reason.startswith(reason)


def test_the_second_trial_of_a_pair_counts():
    for first, second in product((5, 6, None, "10/2"), (5, 6, "10/2")):
        parsed, right = voting.judge("5", trials(first, second) + " \n", condition="score")
        assert (parsed.group, parsed.trials, parsed.final, parsed.reason) == ("regular", 2, str(second), "")
        assert parsed.answers == (None if first is None else str(first), str(second)) and right == (second != 6)
        for other in ("scot", "sv", "asv", "modes"):
            assert voting.judge("5", trials(first, second), condition=other)[0].group == "malformed"
    assert voting.judge("5", trials(5, 5), finished=False, condition="score")[0].reason == "cut off"
    rows = [[(trials(*answers), True, 9) for answers in ((5, 5), (5, 6), (6, 5), (None, 6), (5,))]]
    judged, finals = voting.judge_rows(["5"], rows, "score")
    assert judged.first.tolist() == [[True, True, False, False, True]]
    assert judged.correct.tolist() == [[True, False, True, False, False]]
    assert judged.valid.tolist() == [[True, True, True, True, False]] and not judged.extended.any()
    assert judged.trials.tolist() == [[2, 2, 2, 2, 1]] and finals == [["5", "6", "5", "6", None]]


def test_consensus_at_the_eighth_trial():
    parsed = parse(vote(1, 1, 2, 2, 3, 3, 4, 1))
    assert (parsed.group, parsed.final) == ("extended", "1")
    assert AGREED in vote(1, 1, 2, 2, 3, 3, 4, 1) and DISAGREED in vote(*EIGHT)


def test_tally_counts_the_answer_of_its_trial():
    def tallies(text):
        return [re.findall(r"\nSeen (.*)\.$", trial) for trial in text.split(CLOSE)[:-1]]

    assert tallies(render_regular(solution(5))) == [["once"]]
    assert tallies(vote(5, 6, 5, None, 6, 6)) == [["once"], ["once"], ["twice"], [], ["twice"], ["three times"]]
    assert tallies(vote("1/2", "3", "0.5", r"\frac{2}{4}")) == [["once"], ["once"], ["twice"], ["three times"]]


@pytest.mark.parametrize("answers, tallies", [
    (["x=5", "y=5", "5"], [1, 1, 2]), (["9 a.m.", "9 p.m.", "9"], [1, 1, 2]),
    (["x>5", r"(5,\infty)", "x>5"], [1, 2, 3]), ([r"(5,\infty)", "x>5", r"(5,\infty)"], [1, 1, 2])])
def test_tally_and_stop_rule_count_alike(answers, tallies):
    """The grader's equality is neither symmetric nor transitive; still the last tally is what the plurality counts."""
    assert [voting.times_seen(answers[:t]) for t in (1, 2, 3)] == tallies
    assert voting.plurality(answers)[1] == max(tallies)
    answers = answers + ["11", "12", "13", "14", "15"]
    needed = voting.trials_needed(answers)
    text = render_extended([solution(a) for a in answers[:needed]], answers[:needed])
    assert parse(text).group == "extended" and needed == (3 if max(tallies) == 3 else 8)
    assert ("Seen three times" in text) == (max(tallies) == 3)


def test_the_final_answer_is_spelled_as_in_its_trial():
    assert parse(trials("1/2", "1/2", "1/2") + AGREED + "0.5" + END).final == "1/2"


def test_plurality_tie_is_the_first_seen():
    assert parse(vote(4, 9, 9, 4, 1, 2, 3, 5)).final == "4"
    assert parse(vote(1, 9, 9, 4, 4, 2, 3, 5)).final == "9"
    assert parse(vote(1, 2, 3, 4, 5, 6, 7, 8)).final == "1"
    assert parse(vote(None, None, None, 4, 5, 6, 7, 8)).final == "4"  # three trials without an answer do not agree


def test_other_notation_agrees():
    half = ["1/2", "0.5", r"\frac{1}{2}"]
    parsed = parse(vote(*half))
    assert (parsed.group, parsed.trials, parsed.final) == ("extended", 3, "1/2")
    assert parse(trials(*half) + AGREED + "2/4" + END).group == "extended"
    assert parse(trials("0.5", "3", "1/2", "5") + AGREED + "0.5" + END).group == "malformed"


BROKEN = {
    "one trial short": (trials(5, 5) + AGREED + "5" + END, 2, "stopped before consensus"),
    "seven without consensus": (trials(*EIGHT[:7]) + DISAGREED + "2" + END, 7, "stopped before consensus"),
    "one trial long": (trials(5, 5, 5, 5) + AGREED + "5" + END, 4, "went on after consensus"),
    "long, last one differs": (trials(5, 5, 5, 6) + AGREED + "5" + END, 4, "went on after consensus"),
    "long to the eighth": (trials(5, 1, 5, 5, 2, 3, 4, 6) + AGREED + "5" + END, 8, "went on after consensus"),
    "ninth trial": (trials(*EIGHT, 2) + AGREED + "2" + END, 9, "more than eight trials"),
    "ninth, no consensus": (trials(*EIGHT, 8) + DISAGREED + "2" + END, 9, "more than eight trials"),
    "ninth after consensus at eight": (trials(1, 1, 2, 2, 3, 3, 4, 1, 1) + AGREED + "1" + END, 9,
                                       "more than eight trials"),
    "another consensus stated": (trials(5, 5, 6, 5) + AGREED + "6" + END, 4, "states another answer than its trials"),
    "another plurality stated": (trials(*EIGHT) + DISAGREED + "1" + END, 8, "states another answer than its trials"),
    "the later one of a tie": (trials(1, 2, 3, 4, 5, 6, 7, 8) + DISAGREED + "8" + END, 8,
                               "states another answer than its trials"),
    "no answer stated": (trials(5, 5, 5) + "Three trials agree.", 3, "states no final answer"),
    "says it is easy": (trials(5, 5, 5) + EASY, 3, "states no final answer"),
    "stated box not closed": (trials(5, 5, 5) + AGREED + "5", 3, "states no final answer"),
    "no closing": (trials(5, 5, 5), 3, "no closing line"),
    "no closing, one trial": (trials(5), 1, "no closing line"),
    "blank closing": (trials(5) + " \n\n", 1, "no closing line"),
    "text before": ("Let me see.\n" + trials(5) + EASY, 1, "text between trials"),
    "text between": (trials(5) + "Once more.\n" + trials(5, 5) + AGREED + "5" + END, 3, "text between trials"),
    "answer between": (trials(5) + "\\boxed{5}\n" + trials(5) + AGREED + "5" + END, 2, "text between trials"),
    "closing before the last trial": (trials(5, 5) + AGREED + "5" + END + trials(5) + AGREED + "5" + END, 3,
                                      "text between trials"),
    "cut inside the first trial": (OPEN + solution(5), 1, "a trial is not closed"),
    "cut inside the third": (trials(5, 5) + OPEN + "7\n* 12", 3, "a trial is not closed"),
    "nested": (OPEN + trials(5) + solution(5) + CLOSE + EASY, 2, "a trial is not closed"),
    "opened twice": (OPEN + trials(5, 5, 5) + AGREED + "5" + END, 4, "a trial is not closed"),
    "not opened": (solution(5) + CLOSE + EASY, 1, "a trial is not opened"),
    "closed twice": (trials(5) + CLOSE + EASY, 1, "a trial is not opened"),
    "closed twice between": (trials(5) + CLOSE + trials(5, 5) + AGREED + "5" + END, 3, "text between trials"),
    "no answer in one trial": (trials(None) + EASY, 1, "no trial has an answer"),
    "no answer but one stated": (trials(None) + AGREED + "5" + END, 1, "no trial has an answer"),
    "no answer in eight": (trials(*[None] * 8) + DISAGREED + "5" + END, 8, "no trial has an answer"),
    "one trial, another stated": (trials(5) + AGREED + "6" + END, 1, "states another answer than its trial"),
    "short, one trial long": (trials(5, 6, 5, 7) + SHORT.agreed + "5" + END, 4, "more than three trials"),
    "short, went on": (trials(5, 5, 6) + SHORT.agreed + "5" + END, 3, "went on after consensus"),
    "short, four trials": (trials(5, 6, 7, 5) + SHORT.agreed + "5" + END, 4, "more than three trials"),
    "short, two that differ": (trials(5, 6) + SHORT.disagreed + "5" + END, 2, "stopped before consensus"),
    "short, another consensus": (trials(5, 6, 6) + SHORT.agreed + "5" + END, 3,
                                 "states another answer than its trials"),
    "short, another plurality": (trials(5, 6, 8) + SHORT.disagreed + "6" + END, 3,
                                 "states another answer than its trials"),
    "short, states nothing": (trials(5, 5) + SHORT.agreed + END, 2, "states no final answer"),
    "no answer anywhere": ("I do not know.", 1, "no answer"),
    "empty": ("", 1, "no answer"),
    "blank": (" \n", 1, "no answer"),
    "only an opening": ("[TRIAL]", 1, "a trial is not closed"),
    "only a closing": ("[/TRIAL]", 1, "a trial is not opened"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_rule_is_malformed(kind):
    text, cost, reason = BROKEN[kind]
    parsed = parse(text)
    assert (parsed.group, parsed.trials, parsed.final, parsed.reason) == ("malformed", cost, None, reason)
    for gold in "56128":
        assert voting.judge(gold, text) == (parsed, False)  # whatever it says, it is wrong


def test_one_trial_may_restate_its_answer():
    for closing in ("That is all.", EASY, AGREED + "5" + END, "The answer is 5."):
        assert parse(trials(5) + closing).group == "regular"
    assert parse(trials(5) + "The answer is 6.").group == "malformed"


def test_space_between_trials_is_free():
    text = "\n " + (OPEN + solution(5) + CLOSE + "\n\n ") * 3 + AGREED + "5" + END + "\n"
    assert parse(text).group == "extended"


def test_every_truncation_is_malformed():
    """A vote cut anywhere is no vote, and judge() makes it malformed since the sampler says it was cut."""
    text = vote(5, 6, 5, 7, 5)
    for end in range(len(text)):
        assert parse(text[:end]).group != "extended" or end == len(text) - 1  # only the full stop is dispensable
        parsed, right = voting.judge("5", text[:end], finished=False)
        assert (parsed.group, parsed.final, right) == ("malformed", None, False)
    parsed, right = voting.judge("5", text, finished=False)
    assert (parsed.group, parsed.trials, parsed.answers, parsed.reason) == ("malformed", 5, tuple("56575"), "cut off")
    assert not right


def test_judge():
    assert voting.judge("1/2", vote("0.5", "2/4", "1/2"))[1]
    assert not voting.judge("1/3", vote("0.5", "2/4", "1/2"))[1]
    assert voting.judge("23", render_regular(solution(23)))[1]
    assert not voting.judge("22", solution(23), condition="scot")[1]
    # gold comes first: an inequality may be answered by an interval, and not the other way round
    assert voting.judge("x > 5", render_regular(solution(r"(5, \infty)")))[1]
    assert not voting.judge(r"(5, \infty)", render_regular(solution("x > 5")))[1]


def test_broken_responses_keep_the_answers_of_their_trials():
    """The first trial of a malformed response counts as one (records.py), and self-consistency sees none."""
    for text in (trials(5, 6) + OPEN + "7\n* 12", trials(5, 6) + "Once more.\n" + trials(5), trials(5, 6)):
        assert parse(text).group == "malformed" and parse(text).answers[:2] == ("5", "6")


# ---------------------------------------------------------------------------------------------------------------------
# Random responses against the reference


def random_response(rng: random.Random, consensus: int = 3) -> str:
    """Valid or nearly valid: a vote (2: a short one), then up to two random changes to its pieces."""
    count = rng.choice([1, 1, 2, 3, 3, 4, 5, 6, 7, 8, 8, 8, 9, 10] if consensus == 3 else [1, 2, 2, 3, 3, 3, 4])
    agreed, disagreed = (AGREED, DISAGREED) if consensus == 3 else (SHORT.agreed, SHORT.disagreed)
    pool = rng.choice([["3", "6/2", "4"], ["1/2", "0.5", "3", "7", None], [str(i) for i in range(12)], [None, "5"]])
    answers = [rng.choice(pool) for _ in range(count)]
    if rng.random() < 0.6:  # stop where the rule says
        needed = next((t for t in range(2, count + 1) if slow_plurality(answers[:t])[1] == consensus), count)
        answers = answers[:needed]
    stated, most = slow_plurality(answers)
    stated = stated if stated is not None and rng.random() < 0.8 else rng.choice(["5", "0.5", "3"])
    closing = (agreed if most >= consensus else disagreed) + f"{stated}" + END
    closing = EASY if rng.random() < (0.8 if count == 1 else 0.05) else closing
    pieces = [piece for answer in answers for piece in (OPEN, solution(answer), CLOSE)] + [closing]
    for _ in range(rng.choice([0, 0, 0, 1, 2])):
        at = rng.randrange(len(pieces)) if pieces else 0
        change = rng.randrange(4)
        if change == 0:
            del pieces[at : at + 1]
        elif change == 1:
            pieces.insert(at, rng.choice([OPEN, CLOSE, EASY, "\n", " ", "Wait.", solution("3"), AGREED + "3" + END]))
        elif change == 2 and pieces:
            pieces.insert(at, pieces[rng.randrange(len(pieces))])
        else:
            pieces = pieces[:at]
    return "".join(pieces)


@pytest.mark.parametrize("consensus", [3, 2])
@pytest.mark.slow
def test_group_by_slow_reference(consensus):
    rng, seen = random.Random(0), Counter()
    for _ in range(6000):
        text = random_response(rng, consensus)
        parsed = parse(text)
        group, value = slow_parse(text)
        assert parsed.group == group, text
        assert (None if parsed.final is None else Fraction(parsed.final)) == value, text
        assert parsed.trials == max(text.count("[TRIAL]"), 1)
        assert bool(parsed.reason) == (group == "malformed")
        seen[parsed.reason or parsed.group] += 1
    assert len(seen) == (14 if consensus == 3 else 15), f"the random responses are too tame: {seen}"
    assert min(seen.values()) >= (10 if consensus == 3 else 3), seen


def test_another_consensus_is_one_line():
    """The source with CONSENSUS = 2: prompts, closing lines, tallies and the parser follow."""
    source = Path(voting.__file__).read_text()
    two = type(voting)("voting")
    assert source.count("\nCONSENSUS, MAX_TRIALS = 3, 8 ") == 1
    exec(source.replace("\nCONSENSUS, MAX_TRIALS = 3, 8 ", "\nCONSENSUS, MAX_TRIALS = 2, 8 "), two.__dict__)
    text = two.build_vote([solution(1), solution(2), solution(1), *map(solution, "3456")], "1", random.Random(2))
    parsed, right = two.judge("1", text)
    assert (parsed.group, right, parsed.trials >= 3) == ("extended", True, True), text
    assert "Two trials agree" in text and "Seen twice." in text
    assert "come up twice" in two.PROMPTS["sv"] and "three" not in two.PROMPTS["sv"]
    early = two.render_extended([solution(1), solution(2)], ["1", "2"])
    assert two.parse(early).reason == "stopped before consensus" and parse(text).group == "malformed"


def test_parse_never_raises():
    rng = random.Random(1)
    bits = [OPEN, CLOSE, "[TRIAL]", "[/TRIAL]", "[TRIAL", EASY, AGREED, DISAGREED, END, "\\boxed{", "}", "{", "\\boxed",
            "\\boxed{5}", "\\boxed{1/0}", "\\boxed{\\frac{1}{0}}", "\\boxed{10^{10^{10}}}", "\\boxed{\\infty}",
            "\\boxed{x = 5}", "\\boxed{(1, 2]}", "#### 7", "answer is", " answer: ", "0.5", "$", "\n", "\\", "\x00",
            "٣", "é", "and", ",", "\\boxed{" + "(" * 50, "\\boxed{!}", "\\fbox{ }", "\\boxed{-}",
            "99999999999999999999"]
    groups = Counter()
    for _ in range(4000):
        text = "".join(rng.choices(bits, k=rng.randrange(12)))
        if rng.random() < 0.5:
            text = OPEN + text + CLOSE + "".join(rng.choices(bits, k=3))
        parsed = parse(text)
        groups[parsed.group] += 1
        assert (parsed.final is None) == (parsed.group == "malformed") and parsed.trials >= 1
        voting.judge("1/2", text)
    assert groups["regular"] > 100 and groups["malformed"] > 1000


# ---------------------------------------------------------------------------------------------------------------------
# Plurality and Algorithm 3


def test_plurality():
    assert voting.plurality([]) == (None, 0)
    assert voting.plurality([None, None]) == (None, 0)
    assert voting.plurality(["1/2", "3", "0.5"]) == ("1/2", 2)
    assert voting.plurality(["3", "0.5", None, "1/2", "3"]) == ("3", 2)
    rng = random.Random(2)
    for _ in range(500):
        answers = [rng.choice(["1/2", "0.5", "2", "4/2", "7", None]) for _ in range(rng.randrange(12))]
        answer, count = voting.plurality(answers)
        assert (None if answer is None else Fraction(answer), count) == slow_plurality(answers)
        assert answer is None or answer == next(a for a in answers if a and Fraction(a) == Fraction(answer))


def test_trials_needed():
    rng = random.Random(3)
    for _ in range(1000):
        answers = [rng.choice(["1", "2.0", "2", "3", "4", None]) for _ in range(rng.randrange(14))]
        for rule, consensus, most in ((voting.LONG, 3, 8), (SHORT, 2, 3)):
            expected = next((t for t in range(len(answers) + 1) if slow_plurality(answers[:t])[1] == consensus), 99)
            expected = min(expected, most) if min(expected, most) <= len(answers) else None
            assert voting.trials_needed(answers, rule) == expected


def slow_algorithm_3(order: list, gold, consensus: int, most: int) -> str | None:
    """Appended one at a time; `order` is the shuffled list of (solution, answer)."""
    text, count, word = "", Counter(), {2: "two", 3: "three"}[consensus]
    for t, (body, answer) in enumerate(order, 1):
        text += "[TRIAL]\n" + body
        if answer is not None:
            count[answer] += 1
            text += "\nSeen " + ("once.", "twice.", "three times.")[count[answer] - 1]
        text += "\n[/TRIAL]\n"
        done = answer is not None and count[answer] == consensus
        if done or t == most:
            final = answer if done else max(count, key=count.get) if count else None  # a Counter keeps the order seen
            opening = (f"{word.capitalize()} trials agree. The final answer is" if done else
                       f"No {word} trials agree. The most frequent answer is")
            return f"{text}{opening} \\boxed{{{final}}}." if final == gold else None
    return None


@pytest.mark.parametrize("rule, group, consensus, most", [(voting.LONG, "extended", 3, 8), (SHORT, "short", 2, 3)])
def test_build_vote_by_brute_force(rule, group, consensus, most):
    rng, seen = random.Random(4), Counter()
    for i in range(1500):
        size = rng.choice([0, 2, 3, 5, 7, 8, 9, 16, 32])
        pool = rng.choice([[1, 2], [1, 2, 3, None], list(range(1, 10)), [1] + [None] * 5, [None]])
        pairs = [(f"route {k}\n" + solution(a), a) for k, a in enumerate(rng.choice(pool) for _ in range(size))]
        answers = dict(pairs)
        built = voting.build_vote([text for text, _ in pairs], "1", random.Random(i), rule)
        order = random.Random(i).sample([text for text, _ in pairs], size)
        assert built == slow_algorithm_3([(text, answers[text]) for text in order], 1, consensus, most)
        if built is not None:
            parsed, right = voting.judge("1", built, condition="modes")
            assert parsed.group == group and right
        seen["kept" if built else "dropped", "8+" if size >= 8 else "few"] += 1
    assert min(seen.values()) > 40 and len(seen) == 4


def test_build_vote_leaves_its_input_alone():
    solutions = [solution(i) for i in (1, 1, 2, 1)]
    assert voting.build_vote(solutions, "1", random.Random(0)) and solutions == [solution(i) for i in (1, 1, 2, 1)]


def test_build_vote_without_consensus():
    few = [solution(a) for a in (1, 1, 2, 2, 3, 3, 4)]
    assert all(voting.build_vote(few, gold, random.Random(s)) is None for s in range(50) for gold in "1234")
    # the eighth decides nothing: the plurality is stated, and kept only if right
    eight = [solution(a) for a in (1, 1, 2, 3, 4, 5, 6, 7)]
    assert all(DISAGREED + "1" + END in voting.build_vote(eight, "1", random.Random(s)) for s in range(50))
    assert all(voting.build_vote(eight, "2", random.Random(s)) is None for s in range(50))
    # the paper would state a correct answer if there is any; here it is the first seen of a tie
    tie = [solution(a) for a in (1, 1, 2, 2, 3, 4, 5, 6)]
    kept = sum(voting.build_vote(tie, "1", random.Random(s)) is not None for s in range(200))
    assert 60 < kept < 140  # whichever of 1 and 2 comes first


def test_build_vote_shuffles_uniformly():
    solutions = [f"{k}\n" + solution(5) for k in range(5)]
    rng, orders = random.Random(5), Counter()
    for _ in range(6000):
        built = voting.build_vote(solutions, "5", rng)
        orders[tuple(re.findall(r"\[TRIAL\]\n(\d)\n", built))] += 1
    assert len(orders) == 60  # ordered choices of 3 out of 5
    assert chisquare(list(orders.values())).pvalue > 1e-3
    assert voting.build_vote(solutions, "5", random.Random(6)) == voting.build_vote(solutions, "5", random.Random(6))


def test_build_vote_refuses_tags_in_solutions():
    """A base model that has read votes writes one now and then: as a trial it would break the vote."""
    for bad in (vote(5, 5, 5), render_regular(solution(5)), "[/TRIAL]" + solution(5), "[TRIAL]" + solution(5)):
        assert voting.build_vote([bad] * 3, "5", random.Random(0)) is None
        built = [voting.build_vote([bad] + [solution(5)] * 4, "5", random.Random(s)) for s in range(40)]
        assert 0 < sum(text is None for text in built) < 40
        assert all(text is None or parse(text).group == "extended" for text in built)


# ---------------------------------------------------------------------------------------------------------------------
# Prompts


@pytest.fixture(scope="module")
def tokenizer():
    return data.build_tokenizer(data.world_pieces() + voting.pieces("modes") + [voting.PROMPTS["score"]])


def test_base_model_has_the_words_of_two_modes_only():
    """The committed base model must not change: nor must what it was built from."""
    base = AutoTokenizer.from_pretrained(Path(__file__).parent.parent / "checkpoints/base")
    assert base.get_vocab() == data.build_tokenizer(data.world_pieces() + voting.pieces()).get_vocab()
    assert set(voting.pieces()) < set(voting.pieces("modes")) and voting.pieces("scot") == voting.pieces()
    assert voting.pieces("score") == [*voting.pieces(), voting.PROMPTS["score"]]


@pytest.mark.parametrize("condition", voting.PROMPTS)
def test_prompt_goes_through_the_chat_template(tokenizer, condition):
    ids = voting.encode_prompt(tokenizer, "Compute 7 * 12 modulo 61.", condition)
    instruction = tokenizer.convert_tokens_to_ids(voting.PROMPTS[condition])
    assert instruction != tokenizer.unk_token_id  # the whole instruction is one token
    assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1  # one BOS, not two
    assert ids[1] == instruction and len(ids) == 9
    assert tokenizer.decode(ids) == (f"<|begin|>{voting.PROMPTS[condition]}<|problem|>Compute 7 * 12 modulo 61."
                                     "<|answer|>")


def test_conditions_differ(tokenizer):
    prompts = [voting.encode_prompt(tokenizer, "Compute 7 * 12 modulo 61.", c) for c in voting.PROMPTS]
    assert len({tuple(p) for p in prompts}) == len(voting.PROMPTS) and len({tuple(p[2:]) for p in prompts}) == 1


def test_prompt_of_a_real_template():
    """A template that writes a BOS itself, on a tokenizer that would add one: still one; the instruction is read."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<s>", "<unk>", "system:", "user:", "assistant:", "Compute", "7", *voting.PROMPTS["asv"].split()]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(dict.fromkeys(words))}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    real = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", unk_token="<unk>", chat_template=(
        "{{ bos_token }} {% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"))
    assert real("7").input_ids[0] == 0  # left to itself it adds one
    ids = voting.encode_prompt(real, "Compute 7", "asv")
    assert ids.count(0) == 1
    assert real.decode(ids).split() == ["<s>", "system:", *voting.PROMPTS["asv"].split(), "user:", "Compute", "7",
                                        "assistant:"]


def test_a_template_that_writes_the_date_gives_the_same_prompt_every_day(tokenizer):
    """As that of Llama 3.2 does, where no date is given."""
    dated = copy.deepcopy(tokenizer)
    dated.chat_template = ("{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}"
                           "{% endif %}{{ raise_exception(date_string) if date_string != '26 Jul 2024' }}"
                           + tokenizer.chat_template)
    question = "Compute 7 * 12 modulo 61."
    assert voting.encode_prompt(dated, question, "sv") == voting.encode_prompt(tokenizer, question, "sv")


@pytest.mark.parametrize("question", ["Compute 7 * 612 modulo 61.", "Compute 61 * 7 modulo 61.",
                                      "Compute 07 modulo 61.", "How much is 7 * 8?", "compute 7 * 8 modulo 61."])
def test_unknown_text_is_refused_in_one_line(tokenizer, question):
    with pytest.raises(ValueError) as error:
        voting.encode_prompt(tokenizer, question, "scot")
    assert question in str(error.value) and "\n" not in str(error.value)


def test_templates_are_pieces(tokenizer):
    """Each fixed piece is one token, and the texts of all kinds of response survive text -> ids -> text."""
    for piece in voting.pieces("modes"):
        assert len(tokenizer(piece, add_special_tokens=False).input_ids) == 1
    for text in (vote(5, 5, 5), vote(*EIGHT), short(5, 5), short(5, 6, 7), render_regular(solution(5)), solution(5)):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.unk_token_id not in ids and tokenizer.decode(ids) == text


def test_easy_says_no_answer():
    assert grade.extract(EASY) is None
    assert grade.extract(AGREED + "5" + END) == grade.extract(DISAGREED + "5" + END) == "5"
