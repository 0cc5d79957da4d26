"""Does a chat template come to an end? A trial run of a template of unknown origin, within bounds.

A chat template is a program that comes with the tokenizer. transformers runs it in a sandbox without files and imports,
but nothing there stops an endless loop, `9**9**9`, or gigabytes of text, and such a computation cannot be interrupted
from within its own process. So the first run is in another process: the parent ends it after SECONDS, and Linux limits
its memory.

    python plumbing/templates.py < request.json        # run by `complaint` below
"""

import json
import subprocess
import sys
from functools import lru_cache

SECONDS = 20.0  # a template of Llama 3.1 takes a hundredth of one, the start of the process one
MEMORY = 2**30  # bytes, beside what the imports take
CHARACTERS = 100_000  # of one prompt


def complaint(template: str, conversations: list[list[dict[str, str]]], variables: dict) -> str:
    """Why this template must not be run, in a few words; "" if it may be.

    variables: what the template sees beside the messages, such as the special tokens. A template that only refuses a
    conversation (`raise_exception`) or fails is no danger: that is for the caller to report.
    """
    return _complaint(json.dumps([template, conversations, variables], default=str))


@lru_cache(maxsize=64)  # models trained from one base share its template
def _complaint(request: str) -> str:
    try:
        run = subprocess.run([sys.executable, "-P", __file__], input=request, capture_output=True, text=True,
                             timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return f"it is still running after {SECONDS:g} seconds"
    if run.returncode:
        reason = run.stderr.strip().splitlines()[-1:] or [f"exit status {run.returncode}"]
        return f"its trial run failed: {reason[0]}"
    return run.stdout.strip()


def limit_memory(more: int) -> None:
    """Let this process take at most `more` bytes beside those it has. Only Linux says how many these are."""
    try:
        import resource

        with open("/proc/self/statm") as file:
            limit = int(file.read().split()[0]) * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    except (ImportError, OSError, ValueError):
        pass


def main() -> None:
    template, conversations, variables = json.load(sys.stdin)
    from transformers.utils.chat_template_utils import render_jinja_template

    limit_memory(MEMORY)
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
