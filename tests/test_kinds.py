"""experiments/kinds.py: the world of easy, hard and hopeless problems, and giving up (D8)."""

import math
import random
from collections import Counter
from itertools import islice

import numpy as np
import pytest

import data
import ibpo
import sft
import train
import voting
from eval import Evaluation
from experiments import kinds
from experiments.kinds_report import follows_first_trial, print_report, write
from plumbing.records import Record
from plumbing.settings import parse_args


@pytest.fixture(scope="module")
def problems() -> list[data.Problem]:
    return data.load("kinds", "train", 4000, seed=3)


def steps_of(solution: str) -> list[tuple[int, int]]:
    """(factor, result) of each line of a solution; the first factor stands for itself."""
    first, *lines, boxed = solution.split("\n")
    steps = [(int(first), int(first))] + [tuple(map(int, line.removeprefix("* ").split(" = "))) for line in lines]
    assert boxed == f"\\boxed{{{steps[-1][1]}}}"
    return steps


def test_answers_are_products(problems):
    for problem in problems[:500]:
        factors, modulus = kinds.read_question(problem.question)
        assert int(problem.answer) == math.prod(factors) % modulus
        steps = steps_of(problem.solution)
        assert sorted(factor for factor, _ in steps) == sorted(factors)
        assert all(b == a * factor % modulus for (_, a), (factor, b) in zip(steps, steps[1:]))


def test_levels_lengths_and_shares(problems):
    for level in data.LEVELS:
        questions = [problem.question for problem in problems if problem.level == level]
        assert len(questions) == 800
        assert {len(kinds.read_question(q)[0]) for q in questions} == {kinds.FACTORS[level]}
        count = Counter(kinds.kind_of(q) for q in questions)
        for name, kind in kinds.KINDS.items():
            share = kind.shares[level - 1] / 100
            assert abs(count[name] / 800 - share) < 4 * (share * (1 - share) / 800) ** 0.5 + 1e-9
    assert all(sum(kind.shares[level] for kind in kinds.KINDS.values()) == 100 for level in range(5))


def test_a_small_split_keeps_its_shares():
    """Of level 1 there are 3,400 test problems; half are asked, and no kind becomes rare by running out."""
    rows = [row for row in islice(kinds.generate("test", 0), 8000) if row[2] == 1]
    count = Counter(kinds.kind_of(question) for question, *_ in rows)
    for name, kind in kinds.KINDS.items():
        share = kind.shares[0] / 100
        assert abs(count[name] / len(rows) - share) < 4 * (share * (1 - share) / len(rows)) ** 0.5 + 1e-9


def test_splits_are_disjoint_and_repeat():
    streams = {split: list(islice(kinds.generate(split, 1), 1500)) for split in data.SPLITS}
    sets = {split: {(frozenset(kinds.read_question(q)[0]), kinds.kind_of(q)) for q, *_ in rows}
            for split, rows in streams.items()}
    assert all(len(found) == 1500 for found in sets.values())  # no problem twice
    assert not sets["train"] & sets["validation"] | sets["train"] & sets["test"] | sets["validation"] & sets["test"]
    assert streams["test"] == list(islice(kinds.generate("test", 1), 1500))
    assert streams["test"] != list(islice(kinds.generate("test", 2), 1500))


def test_a_level_that_is_used_up_says_so(monkeypatch):
    monkeypatch.setattr(kinds, "FACTORS", {1: 2})
    with pytest.raises(data.DataError, match="no more different problems of level 1"):
        data.load("kinds", "validation", 1000)


def test_count_of_problems(monkeypatch):
    monkeypatch.setattr(kinds, "FACTORS", {1: 2})
    pairs = {(frozenset(factors), modulus) for factors, modulus in (kinds.draw("train", 1, random.Random(i))
                                                                    for i in range(20_000))}
    pairs |= {(frozenset(factors), modulus) for split in ("validation", "test") for factors, modulus in (
        kinds.draw(split, 1, random.Random(i)) for i in range(4_000))}
    assert 0.97 * kinds.count_problems(1) < len(pairs) <= kinds.count_problems(1)


def test_moduli_are_primes_and_doubling_never_comes_round():
    for kind in kinds.KINDS.values():
        assert all(kind.modulus % d for d in range(2, kind.modulus))
        if kind.misprinted:  # so many doublings in a row, and the answer would be right again
            assert all(pow(2, k, kind.modulus) != 1 for k in range(1, max(kinds.FACTORS.values())))


@pytest.mark.parametrize("name", kinds.KINDS)
def test_the_textbook_misprints_what_it_says(name):
    kind, book = kinds.KINDS[name], kinds.Textbook(5)
    rng, p = random.Random(0), kind.modulus
    pairs = [(a, b) for a in range(1, p) for b in range(1, p)]  # the result so far, the next factor
    printed = {pair: [book.prints(*pair, p, rng) for _ in range(20)] for pair in pairs}
    wrong = {pair for pair, values in printed.items() if any(v != pair[0] * pair[1] % p for v in values)}
    assert abs(len(wrong) / len(pairs) - kind.misprinted) < 0.02
    weak, awkward = ({pair[i] for pair in wrong} for i in range(2))
    assert wrong == {(a, b) for a in weak for b in awkward}  # where these two meet, and nowhere else
    assert weak == book.weak[p] and (not weak or awkward == book.awkward[p])
    values = [(v * pow(a * b, -1, p)) % p for a, b in wrong for v in printed[a, b]]  # how many times the product
    if wrong and kind.doubled is not None:
        assert {*values} <= {2, 3, 5} and abs(values.count(2) / len(values) - kind.doubled) < 0.05
        assert abs(values.count(3) - values.count(5)) < 0.05 * len(values)
    elif wrong:
        assert {*values} == {*range(1, p)}


def test_textbooks_differ():
    one, same, other = kinds.Textbook(0), kinds.Textbook(0), kinds.Textbook(1)
    assert one.weak == same.weak and one.weak[41] != other.weak[41]


def test_one_doubled_product_doubles_the_answer():
    """All routes that meet one doubled product end at the same wrong answer."""
    book, rng, seen = kinds.Textbook(0), random.Random(0), Counter()
    for _ in range(3000):
        product = kinds.draw("train", 3, rng)
        if product[1] != 37:
            continue
        text, answer = book.route(product, rng)
        steps = steps_of(text)
        slips = [(a, factor, b) for (_, a), (factor, b) in zip(steps, steps[1:]) if b != a * factor % 37]
        doubled = all(b == 2 * a * factor % 37 for a, factor, b in slips)
        if doubled:
            seen[len(slips)] += 1
            assert answer == math.prod(product[0]) * 2 ** len(slips) % 37
    assert min(seen[0], seen[1], seen[2]) > 10


def test_a_trial_that_went_wrong_shows_it():
    """A weak number met an awkward one in it; and where none did, it is right."""
    book, rng, seen = kinds.Textbook(0), random.Random(0), Counter()
    for _ in range(2000):
        factors, modulus = product = kinds.draw("train", 3, rng)
        text, answer = book.route(product, rng)
        steps = steps_of(text)
        met = any(result in book.weak[modulus] and factor in book.awkward[modulus]
                  for (_, result), (factor, _) in zip(steps, steps[1:]))
        right = answer == math.prod(factors) % modulus
        assert met or right
        seen[met, right] += 1
    assert seen[True, True] < 0.05 * seen[True, False] and seen[False, True] > 500  # right all the same: by chance


def test_pages_are_spelled_without_unknown_tokens():
    book, rng = kinds.Textbook(0), random.Random(0)
    tokenizer = data.build_tokenizer(book.pieces() + voting.pieces())
    for page in (sft.times_table(3, 10, book, rng), sft.textbook_page(book, rng), sft.counting_page(book, rng)):
        ids = tokenizer(page[0] + page[2], add_special_tokens=False).input_ids
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == page[0] + page[2]


def test_questions_of_other_worlds():
    for question in ("Compute 3 * 4 modulo 59.", "Compute 3 modulo", "What is 1 + 1?"):
        assert kinds.read_question(question) is None
    with pytest.raises(ValueError, match="not a problem of this world"):
        kinds.kind_of("Compute 3 * 4 modulo 59.")


# ---------------------------------------------------------------------------------------------------------------------
# Giving up (D8)


def test_who_may_give_up():
    correct = np.array([[1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]], bool)
    extended = np.array([[0, 0, 1, 1], [0, 1, 0, 1], [1, 1, 1, 1]], bool)
    valid = np.array([[1, 1, 1, 1], [1, 1, 0, 1], [1, 1, 1, 1]], bool)
    feasible = ibpo.feasible_set(correct, valid)
    found = ibpo.with_giving_up(feasible, valid, extended)
    assert found.tolist() == [[True, False, True, False], [True, False, False, False], [False] * 4]


@pytest.mark.parametrize("seed", range(20))
def test_giving_up_only_adds_prompts(seed):
    """Who was accepted before is accepted as before, but the cap, a share of the accepted, may leave room for more."""
    rng = np.random.default_rng(seed)
    n, m, cap = 30, 6, float(rng.choice([0.1, 0.3, 0.5]))
    extended, valid = rng.random((n, m)) < 0.5, rng.random((n, m)) < 0.9
    correct = (rng.random((n, m)) < rng.choice([0, 0.4, 0.9], size=(n, 1))) & valid
    margin, feasible = ibpo.reward_margin(correct, extended, valid), ibpo.feasible_set(correct, valid)
    more = ibpo.with_giving_up(feasible, valid, extended)
    before = ibpo.maximise_margin(margin, feasible, extended, cap, seed)
    after = ibpo.maximise_margin(margin, more, extended, cap, seed)
    gave_up = (after.weights > 0) & ~correct
    assert not (gave_up & extended).any() and gave_up.sum() == (more.any(axis=1) & ~feasible.any(axis=1)).sum()
    assert after.accepted >= before.accepted and after.extended <= cap * after.accepted + 1e-9
    assert after.extended >= before.extended  # more regular responses, more room under the cap
    assert after.dropped_no_correct == before.dropped_no_correct - gave_up.sum()


def test_only_the_end_is_learned():
    tokenizer = data.build_tokenizer(kinds.pieces() + voting.pieces())
    text = voting.render_regular("3\n* 4 = 12\n\\boxed{12}")
    ids = [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    mask = train.closing_mask(tokenizer, ids)
    assert [tokenizer.decode([i]) for i, learned in zip(ids, mask) if learned] == [voting.EASY, tokenizer.eos_token]
    vote = voting.render_extended(["3\n\\boxed{3}"] * 3, ["3"] * 3)
    ids = tokenizer(vote, add_special_tokens=False).input_ids
    learned = [i for i, inside in zip(ids, train.closing_mask(tokenizer, ids)) if inside]
    assert tokenizer.decode(learned) == "Three trials agree. The final answer is \\boxed{3}."


@pytest.mark.parametrize("options", [["--method", "cgpo"], ["--kl-max", "3"], ["--sft-short", "10"]])
def test_what_giving_up_does_not_go_with(options, capsys):
    with pytest.raises(SystemExit):
        parse_args(["--give-up", *options])
    assert "--give-up goes with --method ibpo" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------------------
# The report by kind


def record_of(name: str, condition: str, questions: list[str], levels: np.ndarray, correct: np.ndarray,
              votes: np.ndarray, first: np.ndarray) -> Record:
    """A record with these judgements, bool[n, m] each; wrong answers never meet, a vote takes four trials."""
    n, m = correct.shape
    trials = np.where(votes, 4, 1)
    return Record(
        name=name, condition=condition, greedy=False, questions=questions, levels=levels, correct=correct, first=first,
        group=np.where(votes, voting.GROUPS.index("extended"), 0), valid=np.ones((n, m), bool), trials=trials,
        tokens=20 * trials, answers=np.where(correct, 0, 1 + np.arange(m)),
        consistent=np.repeat(correct.mean(axis=1, keepdims=True), m, axis=1))


def test_report_by_kind(capsys, tmp_path):
    """Votes that follow a wrong first trial by 40 points; a kind that always votes hides nothing of it."""
    rng, problems = np.random.default_rng(0), data.load("kinds", "test", 1000, seed=1)
    questions, levels = [p.question for p in problems], np.array([p.level for p in problems])
    of = np.array(kinds.places(questions))
    rate = np.array([0.97, 0.6, 0.4, 0.2, 0.02, 0.02])[of][:, None]
    first = rng.random((1000, 8)) < rate
    votes = rng.random((1000, 8)) < np.where(first, 0.1, 0.5)
    votes[of == 1] = True
    right = np.where(votes, rng.random((1000, 8)) < rate + 0.02, first)
    records = {r.name: r for r in [
        record_of("base", "scot", questions, levels, rng.random((1000, 8)) < rate, np.zeros((1000, 8), bool), first),
        record_of("sv-sft", "sv", questions, levels, rng.random((1000, 8)) < rate + 0.02, np.ones((1000, 8), bool),
                  first),
        record_of("ibpo", "asv", questions, levels, right, votes, first)]}
    evaluation = Evaluation(list(records.values()))
    others = {name: r.at(of != 1) for name, r in records.items()}
    gap = follows_first_trial(Evaluation(list(others.values())), others["ibpo"], levels[of != 1])
    assert gap.low < 0.4 < gap.high and gap.high - gap.low < 0.15
    groups = 10 * levels + of
    gaps, weights = [], []
    for group in np.unique(groups):
        wrong, rights = (votes[groups == group][which] for which in (~first[groups == group], first[groups == group]))
        if wrong.size and rights.size:
            gaps.append(wrong.mean() - rights.mean())
            weights.append(1 / (1 / wrong.size + 1 / rights.size))
    expected = np.average(gaps, weights=weights)
    assert follows_first_trial(evaluation, records["ibpo"], groups).value == pytest.approx(expected)
    print_report(records, 1)
    printed = capsys.readouterr().out
    line = next(line.split() for line in printed.split("--- ibpo")[1].splitlines() if line.strip().startswith("medium"))
    assert line[1] == "100" and f"{records['base'].correct.mean():.1%}" in printed
    assert f"{right.mean():.1%} at {records['ibpo'].trials.mean():.2f} trials" in printed

    with pytest.raises(data.DataError, match="no records of a base model"):
        write(tmp_path, 3)
    for seed in range(2):  # as reproduce.py keeps them
        folder = tmp_path / f"records/seed-{seed}/eval"
        folder.mkdir(parents=True)
        for name, record in records.items():
            np.savez_compressed(folder / f"{name}.npz", **vars(record))
    write(tmp_path, 1)
    assert (tmp_path / "report.txt").read_text() == printed == capsys.readouterr().out
    (tmp_path / "records/seed-1/eval/ibpo.npz").unlink()  # the second seed is not finished
    write(tmp_path, 3)
    found = capsys.readouterr().out
    assert found.startswith("2,000 problems, 2 seed(s)") and "always voting" in found and "--- ibpo" not in found


def test_a_base_knows_its_world():
    """What a base was made with tells the worlds apart, and is unchanged for bases of earlier versions."""
    builtin, other = (parse_args([preset, "--stage", "base"])[0].deciding("base") for preset in ("builtin", "kinds"))
    assert "base_textbook" not in builtin and "base_start" not in builtin
    assert other["base_textbook"] == 0 and "base_start" not in other
