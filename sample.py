"""Generation with a key/value cache and continuous batching: how the policy produces its responses (Algorithm 1).

A fixed number of slots, each with its own place in the cache and its own position. A finished response gives its slot
to the next waiting prompt, so short answers do not wait for long votes. A prompt that is sampled m times is read once.

Every response has its own random numbers, made from (seed, its index) alone: the same seed gives the same responses
whatever the number of slots.

    python sample.py checkpoints/ibpo "Compute 40 * 7 * 33 * 12 modulo 61."
    python sample.py checkpoints/base "Compute 40 * 7 * 33 * 12 modulo 61." --condition scot --samples 4
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import llama
import voting


@dataclass
class Response:
    ids: list[int]  # what was generated, with the stop id
    logprob: float  # sum over ids of log pi(id | before) at the sampling temperature (greedy: at 1), before top-p
    finished: bool  # ended by a stop id; False: cut off at max_new_tokens
    text: str = None  # ids without the stop id, decoded; for parsing only: what is scored or learned is always the ids


def choose(logits: Tensor, noise: Tensor, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """Next ids and their log-probabilities, [N] each, from logits [N, V] and uniform noise [N] in [0, 1).

    Inverse-CDF sampling: the first token whose cumulative probability exceeds the noise. With top-p, only the likeliest
    tokens are left, down to the one that brings their sum to top_p; the log-probability is that before the cut.
    """
    logp = torch.log_softmax(logits.float() / (temperature or 1.0), dim=-1)  # [N, V], fp32
    if temperature == 0:
        ids = logp.argmax(-1)  # [N]
    elif top_p < 1:
        p, order = logp.exp().sort(dim=-1, descending=True)  # [N, V]
        cdf = p.cumsum(-1)  # [N, V]
        kept = (cdf - p < top_p).sum(-1, keepdim=True)  # [N, 1] tokens kept, at least the likeliest
        mass = cdf.gather(-1, kept - 1)  # [N, 1]
        rank = torch.searchsorted(cdf, noise[:, None] * mass, right=True)  # [N, 1]
        ids = order.gather(-1, rank.minimum(kept - 1))[:, 0]  # [N]
    else:
        cdf = logp.exp().cumsum(-1)  # [N, V]
        rank = torch.searchsorted(cdf, noise[:, None] * cdf[:, -1:], right=True)  # [N, 1]
        ids = rank[:, 0].clamp(max=logits.shape[-1] - 1)  # [N]
    return ids, logp.gather(-1, ids[:, None])[:, 0]


class Slots:
    """The running responses: row i of each field and of the cache belongs to the same response."""

    def __init__(self, model: llama.Llama, rows: int, length: int, max_new_tokens: int):
        weight = model.model.embed_tokens.weight
        self.cache = llama.Cache(model.config, rows, length, weight.dtype, weight.device)
        self.owner = torch.full((rows,), -1)  # [rows] index of the response, -1: free
        self.last = torch.zeros(rows, dtype=torch.long)  # [rows] the newest token, not yet in the cache
        self.position = torch.zeros(rows, dtype=torch.long)  # [rows] where that token stands
        self.made = torch.zeros(rows, dtype=torch.long)  # [rows] tokens generated so far
        self.noise = torch.zeros(rows, max_new_tokens)  # [rows, max_new_tokens]

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these."""
        self.cache.k, self.cache.v = self.cache.k[:, rows], self.cache.v[:, rows]
        for field in ("owner", "last", "position", "made", "noise"):
            setattr(self, field, getattr(self, field)[rows])


@torch.no_grad()
def generate(model: llama.Llama, prompts: list[list[int]], max_new_tokens: int, temperature: float = 1.0,
             top_p: float = 1.0, stop_ids=(), seed: int = 0, slots: int = 256, progress=None) -> list[Response]:
    """One response per prompt, in the order of the prompts; repeat a prompt to sample it several times.

    prompts: lists of token ids, none empty. temperature 0: greedy. slots: how many run at once. progress: called with
    the number of responses finished since the last call. Raises ValueError for arguments out of range.
    """
    if not temperature >= 0 or not 0 < top_p <= 1 or max_new_tokens < 1 or slots < 1:
        raise ValueError(f"need temperature >= 0, 0 < top_p <= 1, max_new_tokens >= 1, slots >= 1; got "
                         f"{temperature}, {top_p}, {max_new_tokens}, {slots}")
    if not all(prompts):
        raise ValueError("a prompt is empty: there is nothing to continue")
    if not prompts:
        return []
    device = model.model.embed_tokens.weight.device
    stop = torch.tensor(sorted(set(stop_ids)), dtype=torch.long)
    ids = [[] for _ in prompts]
    logprob = torch.zeros(len(prompts), dtype=torch.float64)
    finished = torch.zeros(len(prompts), dtype=torch.bool)
    waiting = list(range(len(prompts)))[::-1]  # the next one is at the end

    def prefill(rows: Tensor) -> Tensor:
        """Give free rows to waiting prompts; return the logits that follow each prompt [len(rows), V]."""
        owners = [waiting.pop() for _ in rows]
        texts = list(dict.fromkeys(tuple(prompts[i]) for i in owners))  # each different prompt is read once
        length = max(map(len, texts))
        padded = torch.tensor([text + (0,) * (length - len(text)) for text in texts], device=device)  # [P, T]
        lengths = torch.tensor([len(text) for text in texts], device=device)  # [P]
        short = llama.Cache(model.config, len(texts), length, run.cache.k.dtype, device)
        at = torch.arange(length, device=device) == lengths[:, None] - 1  # [P, T] the last token of each prompt
        logits = model(padded, cache=short, at=at)  # [P, V]
        index = {text: i for i, text in enumerate(texts)}
        source = torch.tensor([index[tuple(prompts[i])] for i in owners], device=device)  # [len(rows)]
        run.cache.k[:, rows.to(device), :, :length] = short.k[:, source]
        run.cache.v[:, rows.to(device), :, :length] = short.v[:, source]
        run.owner[rows] = torch.tensor(owners)
        run.position[rows] = lengths[source].cpu() - 1
        run.made[rows] = 0
        for row, i in zip(rows.tolist(), owners):
            run.noise[row] = torch.rand(max_new_tokens, generator=torch.Generator().manual_seed(seed * 1_000_003 + i))
        return logits[source]

    def advance(rows: Tensor, logits: Tensor) -> None:
        """Append one token to each of these rows; free those that are done."""
        noise = run.noise[rows, run.made[rows]].to(device)  # [len(rows)]
        token, logp = (x.cpu() for x in choose(logits, noise, temperature, top_p))
        run.last[rows], run.position[rows], run.made[rows] = token, run.position[rows] + 1, run.made[rows] + 1
        owner = run.owner[rows]
        logprob[owner] += logp.double()
        for i, t in zip(owner.tolist(), token.tolist()):
            ids[i].append(t)
        stopped = torch.isin(token, stop)
        finished[owner[stopped]] = True
        done = stopped | (run.made[rows] == max_new_tokens)
        run.owner[rows[done]] = -1
        if progress is not None and done.any():
            progress(int(done.sum()))

    run = Slots(model, min(slots, len(prompts)), max(map(len, prompts)) + max_new_tokens, max_new_tokens)
    while True:
        free = (run.owner < 0).nonzero()[:, 0]
        # Refill when an eighth of the rows is free, not for each one: reading prompts in batches is cheaper.
        if waiting and len(free) >= len(run.owner) / 8:
            rows = free[: len(waiting)]
            advance(rows, prefill(rows))
            continue
        if not waiting and len(free) >= len(run.owner) / 8:
            run.keep((run.owner >= 0).nonzero()[:, 0])
        rows = (run.owner >= 0).nonzero()[:, 0]
        if not len(rows):
            break
        run.position[run.owner < 0] = 0  # free rows run along, at no length
        logits = model(run.last[:, None].to(device), run.position[:, None].to(device), run.cache)[:, 0]  # [rows, V]
        advance(rows, logits[rows.to(device)])
    return [Response(i, p, f) for i, p, f in zip(ids, logprob.tolist(), finished.tolist())]


def stop_ids_of(directory, tokenizer) -> tuple[int, ...]:
    """Every id that ends a response: of the tokenizer, config.json and generation_config.json (Llama 3.1 has three)."""
    found = {tokenizer.eos_token_id}
    for name in ("config.json", "generation_config.json"):
        path = Path(directory) / name
        if path.exists():
            eos = json.loads(path.read_text()).get("eos_token_id")
            found.update(eos if isinstance(eos, list) else [eos])
    return tuple(sorted(found - {None}))


def ask(model: llama.Llama, tokenizer, questions: list[str], condition: str, samples: int,
        **options) -> list[list[Response]]:
    """`samples` responses to each question under a prompt of voting.PROMPTS, with their texts. options: of generate."""
    prompts = [voting.encode_prompt(tokenizer, question, condition) for question in questions]
    responses = generate(model, [prompt for prompt in prompts for _ in range(samples)], **options)
    for response in responses:
        response.text = tokenizer.decode(response.ids[:-1] if response.finished else response.ids)
    return [responses[i : i + samples] for i in range(0, len(responses), samples)]


def open_checkpoint(directory, dtype: torch.dtype = None, device=None):
    """Model, tokenizer and notes of a checkpoint directory, as train.py writes it or as Hugging Face does.

    The notes (ibpo.json, if there is one) tell the stage and the prompt condition the model was trained for.
    Raises llama.CheckpointError, in one line, if the directory cannot be used.
    """
    from transformers import AutoTokenizer

    model = llama.load(directory, dtype, device).eval()
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise llama.CheckpointError(f"{directory}: the tokenizer cannot be read ({reason})") from None
    if tokenizer.chat_template is None:
        raise llama.CheckpointError(f"{directory}: the tokenizer has no chat template; use an instruct model")
    notes = Path(directory) / "ibpo.json"
    return model, tokenizer, json.loads(notes.read_text()) if notes.exists() else {}


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Ask a checkpoint one problem and see how it spends its budget.",
        epilog='example: python sample.py checkpoints/ibpo "Compute 40 * 7 * 33 * 12 modulo 61." --samples 3')
    parser.add_argument("directory", help="a checkpoint directory, e.g. checkpoints/ibpo")
    parser.add_argument("problem", help="the problem, in quotes")
    parser.add_argument("--condition", choices=list(voting.PROMPTS),
                        help="scot: one chain of thought; sv: always vote; asv: the model decides "
                             "(default: what the checkpoint was trained for, else scot)")
    parser.add_argument("--samples", type=int, default=1, help="how many responses (default 1)")
    parser.add_argument("--temperature", type=float, default=1.0, help="0 is greedy (default 1)")
    parser.add_argument("--top-p", type=float, default=0.9,
                        help="sample from the likeliest tokens that make up this sum; 1: from all (default 0.9)")
    parser.add_argument("--max-new-tokens", type=int, default=512, help="cut a response off here (default 512)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same responses (default 0)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where to compute (default cpu)")
    args = parser.parse_args()
    try:
        model, tokenizer, notes = open_checkpoint(args.directory, device=args.device)
        condition = args.condition or notes.get("condition", "scot")
        (responses,) = ask(model, tokenizer, [args.problem], condition, args.samples,
                           max_new_tokens=args.max_new_tokens, temperature=args.temperature, top_p=args.top_p,
                           stop_ids=stop_ids_of(args.directory, tokenizer), seed=args.seed)
    except ValueError as error:  # CheckpointError is one
        sys.exit(f"error: {error}")
    for response in responses:
        parsed, _ = voting.judge("", response.text, response.finished)
        print(response.text)
        why = f" ({parsed.reason})" if parsed.reason else ""
        print(f"-> {parsed.group}{why}, trials {parsed.trials}, tokens {len(response.ids)}, answer {parsed.final}\n")


if __name__ == "__main__":
    main()
