"""How likely a model is to go on after its first trial, level by level, and how often it does so under top-p.

    python recipes/goes_on.py runs/words/asv-sft runs/words/ibpo-50 --data runs/words/validation.jsonl

Top-p sampling keeps the likeliest tokens, down to the one that brings their sum to top_p. Where a model stops with a
probability of top_p or more, it never goes on when sampled; no vote on such a problem is accepted any more, and the
model learns from single trials alone. An upper bound on votes does not prevent that.

experiments/probe.py asks more of the hidden state there, of the built-in world, whose [TRIAL] is one token.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import data  # noqa: E402
import llama  # noqa: E402
import sample  # noqa: E402
import voting  # noqa: E402
from plumbing.checkpoints import open_checkpoint, usual_dtype  # noqa: E402


def branch(tokenizer) -> tuple[list[int], int]:
    """What another trial and a single trial's end have in common after [/TRIAL], and the next token of the former."""
    close, on, end = (tokenizer.encode(text, add_special_tokens=False)
                      for text in (voting.CLOSE, voting.CLOSE + voting.OPEN, voting.CLOSE + voting.EASY))
    common = next(i for i, (one, other) in enumerate(zip(on, end)) if one != other)
    if on[: len(close)] != close or common < len(close):
        raise data.DataError("this tokenizer joins the end of a trial with what follows it")
    return on[len(close) : common], on[common]


def under_top_p(p: torch.Tensor, token: int, top_p: float) -> float:
    """The probability of a token, of p[V], after the cut of sample.sample_token.

        >>> under_top_p(torch.tensor([0.75, 0.25]), 1, 0.7), under_top_p(torch.tensor([0.75, 0.25]), 1, 0.9)
        (0.0, 0.25)
    """
    if top_p == 1:
        return p[token].item()
    likely, order = p.sort(descending=True)  # [V] each
    likely = likely * (likely.cumsum(0) - likely < top_p)
    return (likely[order == token].sum() / likely.sum()).item()


@torch.inference_mode()
def goes_on(model: llama.Llama, tokenizer, problems: list[data.Problem], top_p: float, max_new_tokens: int,
            seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Level, and probability of another trial before and after the cut, [n] each; without trials that do not end."""
    rows = sample.ask(model, tokenizer, [problem.question for problem in problems], "asv", 1, top_p=top_p, seed=seed,
                      max_new_tokens=max_new_tokens)
    common, token = branch(tokenizer)
    device, found = model.lm_head.weight.device, []
    for problem, (response,) in zip(problems, rows, strict=True):
        lengths = range(1, len(response.ids) + 1)
        first = next((t for t in lengths if voting.CLOSE in tokenizer.decode(response.ids[:t])), None)
        if first is not None:
            ids = torch.tensor([[*response.prompt, *response.ids[:first], *common]])  # [1, T]
            last = torch.arange(ids.shape[1])[None] == ids.shape[1] - 1  # bool[1, T]
            p = model(ids.to(device), where=last.to(device))[0].float().softmax(-1)  # [V]
            found.append((problem.level, p[token].item(), under_top_p(p, token, top_p)))
    if not found:
        raise data.DataError(f"no first trial ended within {max_new_tokens} tokens")
    return tuple(np.array(found).T)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", type=Path, help="models that decide for themselves: ASV-SFT, IBPO")
    parser.add_argument("--data", default=data.BUILTIN, help="builtin (its validation split) or a .jsonl file")
    parser.add_argument("--problems", type=int, default=200, help="how many of them (default 200)")
    parser.add_argument("--top-p", type=float, default=0.9, help="default 0.9")
    parser.add_argument("--max-new-tokens", type=int, default=300, help="default 300, enough for a first trial")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="default cpu")
    args = parser.parse_args()
    if args.problems < 1 or args.max_new_tokens < 1 or not 0 < args.top_p <= 1:
        parser.error("--problems and --max-new-tokens must be at least 1, and --top-p above 0 and at most 1")
    try:
        problems = data.load(args.data, "validation", args.problems, args.seed)
        print(f"goes on after the first trial, % (with top-p {args.top_p:g})")
        for directory in args.checkpoints:
            dtype = sample.DTYPES[usual_dtype(directory, "auto", args.device)]
            model, tokenizer, notes = open_checkpoint(directory, dtype, args.device)
            if notes.get("condition") != "asv":
                raise data.DataError(f"{directory} does not decide for itself; give an ASV-SFT or IBPO checkpoint")
            level, before, after = goes_on(model, tokenizer, problems, args.top_p, args.max_new_tokens, args.seed)
            cells = [f"level {each:.0f}: {100 * before[level == each].mean():4.1f} "
                     f"({100 * after[level == each].mean():4.1f})" for each in np.unique(level)]
            print(f"{directory.name:12} {100 * before.mean():4.1f} ({100 * after.mean():4.1f})   " + "   ".join(cells))
    except (OSError, ValueError) as error:  # DataError, CheckpointError and PromptError are some
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
