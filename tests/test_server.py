"""plumbing/server.py against a real server process with a checkpoint behind it, also one that fails, and one that dies.

    pytest tests/test_server.py
"""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

import data
import eval as evaluation
from plumbing import server

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "checkpoints/ibpo"
OPTIONS = dict(source="builtin", problems=6, samples={"scot": 2, "asv": 1, "sv": 1, "modes": 1}, seed=3, split="test",
               show=0, max_new_tokens=120, temperature=1.0, top_p=0.9)


@contextmanager
def running(port: int = 0):
    """Its address, and the process."""
    process = subprocess.Popen([sys.executable, ROOT / "tests/serve.py", MODEL, str(port)], text=True,
                               stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}", process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def address():
    with running() as (url, _):
        yield url


@pytest.fixture(scope="module")
def healthy(address, tmp_path_factory) -> list[dict]:
    """What the server answers if nothing goes wrong: the rows of a record."""
    folder = tmp_path_factory.mktemp("healthy")
    ask(address, folder)
    return read(folder, "small-asv")[1]


def read(folder: Path, name: str) -> tuple[dict, list[dict]]:
    header, *rows = map(json.loads, (folder / "records" / f"{name}.jsonl").read_text().splitlines())
    return header, rows


def ask(url: str, out: Path, models=("small=asv",), in_flight: int = 8, **changes) -> list[str]:
    return server.respond(url, list(models), out=out, in_flight=in_flight, **{**OPTIONS, **changes})


@pytest.mark.slow
def test_greedy_answers_are_those_of_the_same_model_here(address, tmp_path):
    """Text, tokens and ends, through the server's chat template and back: a local record but for its header."""
    assert ask(address, tmp_path / "there", temperature=0.0, problems=10, max_new_tokens=60) == ["small-asv"]
    evaluation.respond([MODEL], out=tmp_path / "here", dtype="fp32", called="small-asv",
                       **{**OPTIONS, "temperature": 0.0, "problems": 10, "max_new_tokens": 60})
    (there_header, there), (here_header, here) = (read(tmp_path / place, "small-asv") for place in ("there", "here"))
    assert there == here and there_header.keys() == here_header.keys()
    assert len({response["finished"] for row in here for response in row["responses"]}) == 2  # some are cut off


@pytest.mark.slow
def test_the_table_is_that_of_local_models(address, tmp_path, capsys, monkeypatch):
    evaluation.main(["--server", address + "/v1", "--model", "small", "small=asv", "--problems", "6", "--samples", "2",
                     "--max-new-tokens", "120", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert re.search(r"^small +\d", printed, re.M) and re.search(r"^small-asv +\d", printed, re.M)
    monkeypatch.setattr(server, "post", lambda *_: pytest.fail("it asks again"))
    evaluation.main(["--server", address, "--model", "small", "small=asv", "--problems", "6", "--samples", "2",
                     "--max-new-tokens", "120", "--out", str(tmp_path)])
    assert "small-asv.jsonl has been made before" in capsys.readouterr().out
    evaluation.main(["--redraw", str(tmp_path)])


@pytest.mark.parametrize("fault", ["status", "busy", "garbage", "hang-up", "cut-off"])
@pytest.mark.slow
def test_what_fails_is_asked_again(fault, address, healthy, tmp_path, monkeypatch):
    monkeypatch.setattr(server, "FIRST_PAUSE", 0.01)
    ask(address, tmp_path, [f"{fault}=asv"])
    assert read(tmp_path, f"{fault}-asv")[1] == healthy


@pytest.mark.slow
def test_a_server_that_dies_and_comes_back(address, tmp_path, monkeypatch, capsys):
    """Nine answers are kept; the same command asks for the others, and the answers are those of a healthy server."""
    monkeypatch.setattr(server, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(server, "TRIES", 3)
    ask(address, tmp_path, problems=12)
    with running() as (url, process):
        with pytest.raises(server.ServerError, match="failed 3 times") as error:
            ask(url, tmp_path, ["die=asv"], problems=12, in_flight=4)
        assert "\n" not in str(error.value) and process.wait() == 1
    kept = (tmp_path / "records/die-asv.part").read_text().splitlines()[1:]
    assert len(kept) == 9
    capsys.readouterr()
    with running(port=int(url.rsplit(":", 1)[1])) as (_, process):
        ask(url, tmp_path, ["die=asv"], problems=12, in_flight=4)
        process.kill()
        assert process.stdout.read().count("answered 200") == 3
    assert "die-asv.part has 9 answers already" in capsys.readouterr().out
    assert read(tmp_path, "die-asv")[1] == read(tmp_path, "small-asv")[1]
    assert not (tmp_path / "records/die-asv.part").exists()


@pytest.mark.slow
def test_a_client_that_is_stopped(address, tmp_path):
    """Ctrl-C ends it at once, with what has come; the next run asks for the rest."""
    command = [sys.executable, ROOT / "eval.py", "--server", address, "--model", "small=asv", "--problems", "400",
               "--in-flight", "4", "--max-new-tokens", "300", "--out", tmp_path]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    so_far = tmp_path / "records/small-asv.part"
    while not so_far.exists() or so_far.read_text().count("\n") < 6:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command continues" in said and "Traceback" not in said
    header = json.loads(so_far.read_text().splitlines()[0])
    with so_far.open("a") as file:
        file.write('{"problem": 399, "sam')  # as after a power cut
    found = server.answers_so_far(so_far, header)
    assert len(found) >= 5 and (399, 0) not in found
    assert server.answers_so_far(so_far, {**header, "seed": 9}) == {}


@pytest.mark.slow
def test_a_server_that_does_not_sample_is_named(address, tmp_path, capsys):
    ask(address, tmp_path, ["greedy"])
    assert "does not sample" in capsys.readouterr().out


@pytest.mark.parametrize("arguments, says", [
    ("--server localhost:8000 --model small", "http://localhost:8000"), ("--server http://x", "--model NAME"),
    ("--model small", "--server URL"),
    ("--server http://x --model small=vote", "scot, sv, asv"), ("--server http://x --model a/m b/m", "one at a time"),
    ("checkpoints/base --server http://x --model small", "belong together"),
    ("--server ADDRESS --model other", "no such model")])
@pytest.mark.slow
def test_what_cannot_be_asked_is_one_line(arguments, says, address, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(server, "make_record", server.make_record if "ADDRESS" in arguments else lambda *_: None)
    with pytest.raises(SystemExit) as stop:
        evaluation.main([*arguments.replace("ADDRESS", address).split(), "--problems", "2", "--out", str(tmp_path)])
    assert says in str(stop.value.code) and "\n" not in str(stop.value.code)


@pytest.mark.parametrize("reply", [{}, {"choices": []}, {"choices": [{"message": {}}]}, [],
                                   {"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]}])
def test_replies_that_lack_something(reply):
    with pytest.raises(server.ServerError) as error:
        server.response_of(reply)
    assert "\n" not in str(error.value)


NEEDS = [name for name in ("fastapi", "uvicorn", "openai", "accelerate") if importlib.util.find_spec(name) is None]


@pytest.mark.skipif(bool(NEEDS), reason=f"transformers serve needs {', '.join(NEEDS)}")
@pytest.mark.slow
def test_transformers_serve(tmp_path):
    """Another server, not ours: its greedy answers are those of the same model here."""
    port = 18765
    code = "from transformers.cli.transformers import main; main()"
    process = subprocess.Popen([sys.executable, "-c", code, "serve", str(MODEL), "--port", str(port), "--device",
                                "cpu", "--dtype", "float32"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        ask(f"http://localhost:{port}", tmp_path / "there", [str(MODEL) + "=asv"], temperature=0.0, problems=4)
    finally:
        process.kill()
        process.wait()
    _, there = read(tmp_path / "there", "ibpo-asv")
    evaluation.respond([MODEL], out=tmp_path / "here", dtype="fp32", called="ibpo-asv",
                       **{**OPTIONS, "problems": 4, "temperature": 0.0})
    _, here = read(tmp_path / "here", "ibpo-asv")
    assert [row["responses"][0]["text"] for row in there] == [row["responses"][0]["text"] for row in here]


def test_kept_answers_belong_to_their_questions(tmp_path, monkeypatch):
    """After a change of the file with the problems, all of them are asked again."""
    header = {"condition": "scot", "samples": 1, "temperature": 1.0, "top_p": 1.0, "max_new_tokens": 5, "seed": 0}
    problems, served, asked = data.load("builtin", "test", 4), [], []

    def two(url: str, body: dict) -> dict:
        served.append(body)
        if len(served) > 2:
            raise server.ServerError("it is gone")
        return {"text": "1", "tokens": 1, "finished": True}

    monkeypatch.setattr(server, "ask", two)
    with pytest.raises(server.ServerError):
        server.make_record("", "m", header, tmp_path / "m.jsonl", problems, in_flight=1)
    kept = (tmp_path / "m.part").read_text()
    monkeypatch.setattr(server, "ask", lambda url, body: asked.append(body) or {
        "text": "1", "tokens": 1, "finished": True})
    server.make_record("", "m", header, tmp_path / "m.jsonl", problems, in_flight=1)
    assert len(asked) == 2
    (tmp_path / "m.part").write_text(kept)
    server.make_record("", "m", header, tmp_path / "m.jsonl", problems[::-1], in_flight=1)
    assert len(asked) == 2 + 4


@pytest.mark.parametrize("url", ["http://localhost:80O0", "http://local host:8000"])
def test_a_mistyped_address_is_one_line_at_once(url):
    with pytest.raises(server.ServerError, match="is no address") as error:
        server.ask(url, {})
    assert "\n" not in str(error.value)
