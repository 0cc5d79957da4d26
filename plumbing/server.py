"""Ask a model behind a server instead of one in this process: any that speaks the OpenAI protocol, as vLLM, llama.cpp
and `transformers serve` do.

    vllm serve DIR --served-model-name llama                 # or another, in a terminal of its own
    python eval.py --server http://localhost:8000 --model llama --data math500.jsonl --max-new-tokens 4096
    python eval.py --server URL --model base sv-sft=sv ibpo=asv         # each under the prompt it was trained for

The server applies the chat template. Many requests are in flight at once, so that it can batch them. What fails is
asked again, with growing pauses; each answer is written to the disk when it comes. After an interruption, of either
side, the same command asks only for what is missing. Records are those of local models (plumbing/records.py).

    pytest tests/test_server.py
"""

import http.client
import json
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeVar

from tqdm import tqdm

import data
import voting
from plumbing.files import atomic_write, derive_seed, digest
from plumbing.records import is_record_of, print_examples, require_distinct, write_record

Item, Result = TypeVar("Item"), TypeVar("Result")
TRIES = 10  # of a request, with pauses of up to 1, 2, 4, ... 60 seconds: two to four minutes, to start a server again
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds
TIMEOUT = 1800.0  # seconds for one response: it may wait for many others
AGAIN = (408, 409, 425, 429)  # statuses that are worth another try, as are 500 and above


class ServerError(ValueError):
    """The server cannot be used, or has failed for good; one line."""


class _Passing(Exception):
    """A failure that may pass. after: seconds that the server asks to wait."""

    def __init__(self, reason: str, after: float = 0.0):
        super().__init__(reason)
        self.after = after


# ---------------------------------------------------------------------------------------------------------------------
# One request


def post(url: str, body: dict) -> dict:
    """The answer to one request. Raises _Passing if another try may help, else ServerError."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as reply:
            return json.loads(reply.read())
    except urllib.error.HTTPError as error:
        try:
            said = " ".join(error.read(2000).decode(errors="replace").split())[:300]
        except (OSError, http.client.HTTPException):  # the connection broke meanwhile
            said = ""
        reason = f"{error.code} {error.reason}" + (f": {said}" if said else "")
        if error.code in AGAIN or error.code >= 500:
            after = error.headers.get("Retry-After", "")
            raise _Passing(reason, float(after) if after.isdigit() else 0.0) from None
        raise ServerError(f"{url} refuses the request: {reason}") from None
    except http.client.InvalidURL as error:
        raise ServerError(f"{url} is no address: {error}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:  # no connection, a broken one, no JSON
        raise _Passing(f"{type(error).__name__}: {getattr(error, 'reason', error)}") from None


def response_of(reply: dict) -> dict:
    """{"text", "tokens", "finished"} of a reply to v1/chat/completions. ServerError: it lacks something."""
    try:
        choice = reply["choices"][0]
        return {"text": choice["message"]["content"] or "", "tokens": int(reply["usage"]["completion_tokens"]),
                "finished": choice["finish_reason"] == "stop"}
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ServerError(f"the server's reply has no {error}: {json.dumps(reply)[:200]}") from None


def ask(url: str, body: dict) -> dict:
    """{"text", "tokens", "finished"} of one response. What may pass is tried again. Raises ServerError."""
    for attempt in range(TRIES):
        try:
            return response_of(post(url, body))
        except _Passing as error:
            reason, after = error, error.after
        if attempt + 1 < TRIES:
            pause = min(FIRST_PAUSE * 2**attempt, LONGEST_PAUSE)
            time.sleep(max(after, pause * random.uniform(0.5, 1)))  # not all at the same moment
    raise ServerError(f"{url} failed {TRIES} times ({reason}); the answers so far are kept, and the same command asks "
                      "for the others")


# ---------------------------------------------------------------------------------------------------------------------
# Many requests


def in_parallel(work: Callable[[Item], Result], items: list[Item], threads: int) -> Iterator[tuple[Item, Result]]:
    """(item, work(item)) as they are done, so many at once. An exception of `work` is raised here, and ends it.

    The threads are daemons: after Ctrl-C nobody waits for a server that is still writing.
    """
    waiting, done = SimpleQueue(), SimpleQueue()
    for item in items:
        waiting.put(item)

    def run() -> None:
        while True:
            try:
                item = waiting.get_nowait()
            except Empty:
                return
            try:
                done.put((item, work(item), None))
            except Exception as error:
                done.put((item, None, error))

    for _ in range(min(threads, len(items))):
        threading.Thread(target=run, daemon=True).start()
    try:
        for _ in items:
            item, result, error = done.get()
            if error is not None:
                raise error
            yield item, result
    finally:
        while not waiting.empty():  # nothing more is started
            try:
                waiting.get_nowait()
            except Empty:
                break


def answers_so_far(path: Path, header: dict) -> dict[tuple[int, int], dict]:
    """What an earlier run has written to its file, by (problem, sample); nothing if it asked for something else.

    Its last line may be cut in two.
    """
    if not path.exists():
        return {}
    found = {}
    for number, line in enumerate(path.read_text().split("\n")[:-1]):
        try:
            row = json.loads(line)
            if number == 0:
                if row != header:
                    return {}
                continue
            found[row["problem"], row["sample"]] = {key: row[key] for key in ("text", "tokens", "finished")}
        except (ValueError, KeyError, TypeError):
            continue
    return found


def name_and_condition(model: str) -> tuple[str, str]:
    """NAME or NAME=CONDITION."""
    name, _, condition = model.rpartition("=")
    if not name:
        return model, "scot"
    if condition not in voting.PROMPTS:
        raise ServerError(f"--model {model}: the prompt is {condition!r}; one of {', '.join(voting.PROMPTS)}")
    return name, condition


def make_record(url: str, model: str, header: dict, path: Path, problems: list, in_flight: int) -> None:
    """Ask for what is missing of a record, and write it."""
    so_far = path.with_suffix(".part")
    asked = {**header, "questions": digest([problem.question for problem in problems])}  # the file may have changed
    answers = answers_so_far(so_far, asked)
    missing = [(i, j) for i in range(len(problems)) for j in range(header["samples"]) if (i, j) not in answers]
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"problem": i, "sample": j, **answer} for (i, j), answer in answers.items()]
    if answers:
        print(f"note: {so_far} has {len(answers):,} answers already; delete it if the server has another model now")
    with atomic_write(so_far) as temporary:  # without half lines
        temporary.write_text("".join(json.dumps(row) + "\n" for row in [asked, *rows]))

    def request(place: tuple[int, int]) -> dict:
        i, j = place
        return ask(url, {
            "model": model, "messages": voting.messages(problems[i].question, header["condition"]),
            "temperature": header["temperature"], "top_p": header["top_p"], "max_tokens": header["max_new_tokens"],
            "seed": derive_seed(header["seed"], i, j) % 2**31, "stream": False})

    with so_far.open("a") as file, tqdm(total=len(problems) * header["samples"], initial=len(answers), desc=path.stem,
                                        unit="response", dynamic_ncols=True) as bar:
        for (i, j), answer in in_parallel(request, missing, in_flight):
            answers[i, j] = answer
            file.write(json.dumps({"problem": i, "sample": j, **answer}) + "\n")
            file.flush()
            bar.update()
    made = [[answers[i, j] for j in range(header["samples"])] for i in range(len(problems))]
    write_record(path, problems, header, made)
    so_far.unlink()
    if header["samples"] > 1 and all(len({answer["text"] for answer in row}) == 1 for row in made):
        print(f"note: all samples of {path.stem} are the same: the server does not sample, whatever the temperature")


def respond(server: str, models: list[str], source: str, problems: int, samples: dict[str, int], out: Path, seed: int,
            split: str, show: int, in_flight: int, **options) -> list[str]:
    """Write the records of models behind a server to out/records; returns their names. As eval.respond.

    server: its address, with or without /v1. models: NAME or NAME=CONDITION. options: max_new_tokens, temperature,
    top_p.
    """
    url = server.rstrip("/").removesuffix("/v1") + "/v1/chat/completions"
    if not url.startswith(("http://", "https://")):
        raise ServerError(f"--server {server}: expected an address such as http://localhost:8000")
    asked = [name_and_condition(model) for model in models]
    called = [Path(model).name + (f"-{condition}" if condition != "scot" else "") for model, condition in asked]
    require_distinct(called)
    chosen = data.load(source, split, problems, seed)
    names = []
    for (model, condition), own in zip(asked, called):
        kinds = [("", samples[condition], options["temperature"])]
        if condition == "scot":
            kinds.append(("-greedy", 1, 0.0))
        for suffix, m, temperature in kinds:
            names.append(own + suffix)
            header = {"model": model, "condition": condition, "data": source, "split": split, "problems": len(chosen),
                      "samples": m, "seed": seed, "dtype": "server", **options, "temperature": temperature,
                      "weights": None}
            path = out / "records" / f"{own}{suffix}.jsonl"
            if is_record_of(path, header, chosen):
                print(f"note: {path} has been made before; delete it if the server has another model of this name now")
            else:
                make_record(url, model, header, path, chosen, in_flight)
            if show:
                print_examples(path, show)
    return names
