"""plumbing/records.py: a record is read as it was written, and made again only where something else was answered.

    pytest tests/test_records.py
"""

import json
import random

import numpy as np
import pytest

import data
import voting
from plumbing import records
from plumbing.files import fingerprint


def write_record(path, rows, condition="asv"):
    header = {"condition": condition, "temperature": 1.0}
    path.write_text("\n".join(json.dumps(row) for row in [header, *rows]) + "\n")


def test_answers_in_other_notation_are_the_same():
    assert voting.number_answers(["1/2", None, "3", "0.5", "3"]) == ([0, -1, 1, 0, 1], ["1/2", "3"])


def test_self_consistency_against_brute_force():
    rng = random.Random(0)
    for _ in range(50):
        finals = [rng.choice(["1", "2", "3", None]) for _ in range(8)]
        numbers, right = voting.number_answers(finals)[0], [answer == "1" for answer in finals]
        (shares,) = records.self_consistency(np.array([numbers]), np.array([right]))
        assert shares[0] == finals.count("1") / 8  # one sample: its own accuracy
        for k in range(1, 9):
            count = 0
            for start in range(8):
                window = [finals[(start + i) % 8] for i in range(k)]
                seen = [answer for answer in window if answer is not None]
                best = max(seen, key=lambda a: (seen.count(a), -seen.index(a))) if seen else None
                count += best == "1"
            assert shares[k - 1] == count / 8


def test_record_is_judged_from_raw_text(tmp_path):
    solution = "7\n\\boxed{%s}"
    vote = voting.render_extended([solution % a for a in "21222"[:5]], list("21222")[:5])  # one trial too many
    good = voting.render_extended([solution % a for a in "2122"], list("2122"))
    one = voting.render_regular(solution % "1")
    cut = {"text": good, "tokens": 30, "finished": False}
    texts = [{"text": text, "tokens": 10, "finished": True} for text in (vote, good, one)]
    path = tmp_path / "m.jsonl"
    write_record(path, [{"question": "q", "answer": "2", "level": 3, "responses": [*texts, cut]}])
    record = records.read_record(path)
    assert record.correct.tolist() == [[False, True, False, False]]
    assert record.extended.tolist() == [[False, True, False, False]]
    assert record.malformed.tolist() == [[True, False, False, True]]
    assert record.trials.tolist() == [[5, 4, 1, 4]]
    assert record.first.tolist() == [[True, True, False, True]]
    assert record.rule_kept == pytest.approx(1 / 3)  # of three votes, one stopped late and one was cut off


def test_a_record_belongs_to_its_weights_wherever_they_are(tmp_path):
    """A copied run is not evaluated again, one that was trained again is."""
    asked = data.load("builtin", "test", 2, 0)
    rows = [{"question": p.question, "answer": p.answer, "level": p.level, "responses": []} for p in asked]
    weights = np.random.default_rng(0).integers(0, 256, 1 << 21, np.uint8)
    for name in ("run", "copy", "longer"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(weights.tobytes())

    def header(name: str) -> dict:
        return {"model": str(tmp_path / name), "split": "test", "seed": 0, "weights": fingerprint(tmp_path / name)}

    path = tmp_path / "m.jsonl"
    path.write_text("\n".join(map(json.dumps, [header("run"), *rows])))
    assert records.is_record_of(path, header("copy"), asked)
    path.write_text("\n".join(map(json.dumps, [{**header("run"), "slots": 512}, *rows])))  # of earlier versions
    assert records.is_record_of(path, header("run"), asked)
    assert not records.is_record_of(path, {**header("copy"), "seed": 1}, asked)
    weights[12345] ^= 1
    (tmp_path / "longer/model.safetensors").write_bytes(weights.tobytes())
    assert not records.is_record_of(path, header("longer"), asked)
    for broken in ("[]", "{}", "3", '{"question": 1}'):
        path.write_text(json.dumps(header("run")) + "\n" + broken)
        assert not records.is_record_of(path, header("run"), asked)


def test_broken_record_is_one_clear_line(tmp_path):
    path = tmp_path / "m.jsonl"
    header = '{"condition": "asv", "temperature": 1.0, "problems": 1}\n'
    row = '{"question": "q", "answer": "2", "level": 1, "responses": [{"text": "2", "tokens": 3, "finished": true}]}\n'
    path.write_text(header + row)
    assert records.read_record(path).questions == ["q"]
    for text in ("", "{}", '{"condition": "asv", "temperature": 1.0}\n{"answer": 3}', "not json",
                 header + row + row, header.replace("asv", "fun") + row,
                 header + row.replace('"level": 1', '"level": "1"'),
                 header + row.replace('"tokens": 3', '"tokens": "3"'),
                 header + row.replace('"2", "tokens', '5, "tokens'),
                 header + '{"question": "q", "answer": "2", "level": 1, "responses": []}', header + "[]", header + "{}",
                 header.replace("1}", "2}") + row + row.replace("}]", '}, {"text": "", "tokens": 3, "finished": 1}]'),
                 header + 10**5 * "["):
        path.write_text(text)
        with pytest.raises(data.DataError) as error:
            records.read_record(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
