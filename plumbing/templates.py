"""Does a chat template come to an end? A trial run of a template of unknown origin, within bounds.

A chat template is a program that comes with the tokenizer. transformers runs it in a sandbox without files and imports,
but nothing there stops an endless loop, `9**(9**9)`, or gigabytes of text, and such a computation cannot be interrupted
from within its own process. So the first run is in another process, whose processor time and memory the operating
system limits. Where it cannot limit them (Windows; for memory, also macOS), the parent ends it after WAIT.

    python plumbing/templates.py < request.json        # run by `complaint` below
"""

import json
import signal
import subprocess
import sys
from functools import lru_cache

SECONDS = 10  # of processor time; a template of Llama 3.1 takes a hundredth of one, the start of the process one
WAIT = 300.0  # seconds; much longer, since other programs may keep the processor busy
MEMORY = 2**30  # bytes, beside what the imports take
CHARACTERS = 100_000  # of one prompt


def complaint(template: str, conversations: list[list[dict[str, str]]], variables: dict) -> str:
    """Why this template must not be run, in a few words; "" if it may be.

    variables: what the template sees beside the messages, such as the special tokens. A template that only refuses a
    conversation (`raise_exception`) or fails is no danger: that is for the caller to report.
    """
    return _complaint(json.dumps([template, conversations, variables, SECONDS], default=str))


@lru_cache(maxsize=64)  # models trained from one base share its template
def _complaint(request: str) -> str:
    try:
        run = subprocess.run([sys.executable, "-P", __file__], input=request, capture_output=True, text=True,
                             timeout=WAIT)
    except subprocess.TimeoutExpired:
        return f"it is still running after {WAIT:g} seconds"
    if run.returncode < 0 and run.returncode == -getattr(signal, "SIGXCPU", 0):
        return f"it is still running after {SECONDS} seconds of processor time"
    if run.returncode:
        reason = run.stderr.strip().splitlines()[-1:] or [f"exit status {run.returncode}"]
        return f"its trial run failed: {reason[0]}"
    return run.stdout.strip()


def limit(seconds: int, more: int) -> None:
    """Limit this process to so many seconds of processor time, and to `more` bytes beside those that it has."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
        with open("/proc/self/statm") as file:  # only Linux says how many bytes these are
            most = int(file.read().split()[0]) * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    except (ImportError, OSError, ValueError):
        pass


def main() -> None:
    template, conversations, variables, seconds = json.load(sys.stdin)
    from transformers.utils.chat_template_utils import render_jinja_template

    limit(seconds, MEMORY)
    for conversation in conversations:
        try:
            (text,), _ = render_jinja_template([conversation], chat_template=template, add_generation_prompt=True,
                                               **variables)
        except MemoryError:
            print(f"it needs more than {MEMORY / 2**30:g} GiB of memory")
            return
        except Exception:  # a template can raise anything, and will do so again in the caller
            continue
        if len(text) > CHARACTERS:
            print(f"it writes {len(text):,} characters for one prompt")
            return


if __name__ == "__main__":
    main()
