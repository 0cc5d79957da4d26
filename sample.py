"""Generation: how the policy produces its responses (the sampling step of Algorithm 1).

Read `generate_simply` first: one prompt at a time, the text read again for every token. `generate` gives the same
responses fast, with a key/value cache and continuous batching. A fixed number of sequences runs at once, each in its
own row of the cache and at its own position. A sequence that ends gives its row to the next waiting prompt, so short
responses do not wait for long votes. A prompt that is sampled m times is read once.

Every response has its own stream of random numbers, made from (seed, its index) alone: in fp32 the same seed gives the
same responses however many sequences run at once.

    python sample.py checkpoints/ibpo "Compute 11 * 27 * 34 * 6 * 28 modulo 61."
    python sample.py checkpoints/base "Compute 11 * 27 * 34 * 6 * 28 modulo 61." --condition scot --samples 4
"""

import argparse
import math
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import data
import llama
import voting
from plumbing import distributed
from plumbing.checkpoints import (  # noqa: F401  (also for those who import sample)
    DTYPES,
    has_bf16,
    notes_of,
    open_checkpoint,
    resolve_dtype,
    stop_ids_in,
    usual_dtype,
    usual_length,
)

if TYPE_CHECKING:  # importing it takes seconds
    from transformers import PreTrainedTokenizerBase as Tokenizer

PREFILL_TOKENS = 4096  # of prompts that are read in one pass: their activations and keys are held beside the cache
LEAST_TEMPERATURE = 1e-6  # beside 0; logits divided by much less are no longer finite


@dataclass(frozen=True)
class Completion:
    """What the model wrote after a prompt."""

    ids: list[int]  # with the stop id
    logprob: float  # sum over ids of log pi(id | before) at the sampling temperature (greedy: at 1), before top-p
    finished: bool  # ended by a stop id; False: cut off at max_new_tokens, or where the model's context ends


@dataclass(frozen=True)
class Response(Completion):
    """A completion that answers a question, with its text."""

    text: str  # ids without the stop id, decoded; for parsing only: what is scored or learned is always the ids
    prompt: list[int]  # the ids it answers


# ---------------------------------------------------------------------------------------------------------------------
# One token, and the plainest way to a response


def noise_stream(seed: int, index: int) -> Iterator[float]:
    """Uniform random numbers in [0, 1), one for each token of response `index`."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + index) % 2**63)
    while True:
        yield from torch.rand(64, generator=generator).tolist()


def sample_token(logits: Tensor, noise: Tensor, temperature: float, top_p: float,
                 candidates: int = 256) -> tuple[Tensor, Tensor]:
    """Next ids and their log-probabilities, [N] each, from logits [N, V] and uniform noise [N] in [0, 1).

    Inverse-CDF sampling: the first token whose cumulative probability exceeds the noise. With top-p, only the likeliest
    tokens are left, down to the one that brings their sum to top_p; the log-probability is that before the cut.
    Most often these are among the first `candidates`, so that the vocabulary need not be sorted.
    """
    V = logits.shape[-1]
    logp = torch.log_softmax(logits.float() / (temperature or 1.0), dim=-1)  # [N, V], fp32
    if temperature == 0:
        ids = logp.argmax(-1)  # [N]
    elif top_p < 1:
        candidates = min(candidates, V)
        p, order = logp.topk(candidates)  # [N, candidates] each, the likeliest first
        p = p.exp()
        cdf = p.cumsum(-1)  # [N, candidates]
        kept = (cdf - p < top_p).sum(-1, keepdim=True).clamp(min=1)  # [N, 1] tokens kept; not 0 even if p is NaN
        mass = cdf.gather(-1, kept - 1)  # [N, 1]
        rank = torch.searchsorted(cdf, noise[:, None] * mass, right=True)  # [N, 1]
        ids = order.gather(-1, rank.minimum(kept - 1))[:, 0]  # [N]
        too_few = cdf[:, -1] < top_p  # [N] rows whose nucleus is larger
        if candidates < V and too_few.any():
            ids[too_few], _ = sample_token(logits[too_few], noise[too_few], temperature, top_p, candidates=V)
    else:
        cdf = logp.exp().cumsum(-1)  # [N, V]
        rank = torch.searchsorted(cdf, noise[:, None] * cdf[:, -1:], right=True)  # [N, 1]
        ids = rank[:, 0].clamp(max=V - 1)  # [N]
    return ids, logp.gather(-1, ids[:, None])[:, 0]


@torch.no_grad()
def generate_simply(model: llama.Llama, prompts: list[list[int]], max_new_tokens: int, temperature: float = 1.0,
                    top_p: float = 1.0, stop_ids: tuple[int, ...] = (), seed: int = 0) -> list[Completion]:
    """What `generate` computes, without cache and batches: for reading, and for the tests."""
    device = model.lm_head.weight.device
    completions = []
    for index, prompt in enumerate(prompts):
        ids, logprob, noise = [], 0.0, noise_stream(seed, index)
        room = min(max_new_tokens, model.config.context - len(prompt))
        while len(ids) < room and not (ids and ids[-1] in stop_ids):
            logits = model(torch.tensor([[*prompt, *ids]], device=device))[:, -1]  # [1, V]
            token, logp = sample_token(logits, torch.tensor([next(noise)], device=device), temperature, top_p)
            ids.append(token.item())
            logprob += logp.item()
        completions.append(Completion(ids, logprob, ids[-1] in stop_ids))
    return completions


# ---------------------------------------------------------------------------------------------------------------------
# The same with a cache and continuous batching


class LogitsError(ValueError):
    """The model's logits are not finite: damaged weights, or an update that made them overflow. One line."""


class LengthError(ValueError):
    """A prompt does not fit into the model's context, or a response into the memory for keys and values. One line."""


def slots_for(config: llama.Config, length: int, dtype: torch.dtype, slots: int, cache_gib: float) -> int:
    """How many sequences of `length` tokens, prompt included, may run at once: at most `slots`, and what fits.

    The cache holds a key and a value [K, D] per layer and token. LLaMA-3.1-8B in bf16: 128 KiB per token, 0.5 GiB per
    row of 4,096. Every row is made for the longest response there can be. LengthError: none fits.
    """
    row = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * length * dtype.itemsize  # bytes
    fit = int(cache_gib * 2**30 // row)
    if fit < 1:
        raise LengthError(f"a response of {length:,} tokens needs {row / 2**30:.2g} GiB for its keys and values, and "
                          f"cache_gib is {cache_gib:g}; raise it, or lower max_new_tokens")
    return min(slots, fit)


@dataclass
class Sequence:
    """A prompt and what has been sampled after it so far."""

    index: int  # of the prompt
    prompt: tuple[int, ...]
    noise: Iterator[float]  # a random number for each token to come
    ids: list[int] = field(default_factory=list)
    logprob: float = 0.0
    ended: bool = False

    @property
    def position(self) -> int:
        """Where the newest token stands. 0 after the end: until the row is dropped, it costs no more than one token."""
        return 0 if self.ended else len(self.prompt) + len(self.ids) - 1


class Engine:
    """Continuous batching: prompts that wait, sequences that run, and the cache of keys and values that these share.

    Row i of the cache belongs to running[i]. The cache lacks the newest token of each sequence: `decode` adds it.
    """

    def __init__(self, model: llama.Llama, prompts: list[list[int]], max_new_tokens: int, temperature: float,
                 top_p: float, stop_ids: tuple[int, ...], seed: int, slots: int, length: int,
                 indices: list[int] | None = None):
        """slots: rows of the cache. length: tokens of each row. indices: as in `generate`."""
        weight = model.lm_head.weight
        self.model = model
        self.device = weight.device
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.top_p = top_p
        self.stop_ids = frozenset(stop_ids)
        self.seed = seed
        self.indices = range(len(prompts)) if indices is None else indices
        self.slots = slots
        self.cache = llama.Cache(model.config, slots, length, weight.dtype, weight.device)
        self.waiting = deque(enumerate(prompts))  # (index, prompt)
        self.running: list[Sequence] = []
        self.prefilled: dict[tuple, tuple[Tensor, Tensor, Tensor]] = {}  # prompt -> its keys, values, next logits
        self.completions: list[Completion] = [None] * len(prompts)

    def live_rows(self) -> list[int]:
        """Rows whose sequences have not ended."""
        return [row for row, sequence in enumerate(self.running) if not sequence.ended]

    def has_room(self) -> bool:
        """Whether an eighth of the rows is free: moving rows and reading prompts is cheaper in batches."""
        rows = self.slots if self.waiting else len(self.running)
        return len(self.live_rows()) <= rows * 7 / 8

    def compact(self) -> None:
        """Drop the sequences that have ended. The others move up, the longest first: like lengths attend together."""
        live = self.live_rows()
        positions = torch.tensor([self.running[row].position for row in live])  # [n]
        rows = [live[i] for i in positions.argsort(descending=True)]
        used = self.running[rows[0]].position if rows else 0  # tokens of the longest in the cache
        index = torch.tensor(rows, dtype=torch.long, device=self.device)
        for half in (*self.cache.k, *self.cache.v):  # [slots, K, length, D], keys or values of one layer
            half[: len(rows), :, :used] = half[index, :, :used]
        self.running = [self.running[row] for row in rows]

    def admit(self) -> int:
        """Start a waiting prompt in every free row, with its first token. How many of them ended with that?"""
        count = min(self.slots - len(self.running), len(self.waiting))
        if not count:
            return 0
        new = []
        for _ in range(count):
            index, prompt = self.waiting.popleft()
            new.append(Sequence(index, tuple(prompt), noise_stream(self.seed, self.indices[index])))
        self.prefill([sequence.prompt for sequence in new])
        row = len(self.running)
        for prompt, samples in groupby(new, key=lambda sequence: sequence.prompt):
            end = row + len(list(samples))
            k, v, _ = self.prefilled[prompt]  # [layers, 1, K, T, D] each
            self.cache.k[:, row:end, :, : len(prompt)] = k
            self.cache.v[:, row:end, :, : len(prompt)] = v
            row = end
        logits = torch.stack([self.prefilled[sequence.prompt][2] for sequence in new])  # [count, V]
        last = new[-1].prompt  # more samples of it may be waiting
        self.prefilled = {last: self.prefilled[last]}
        self.running += new
        return self.advance(new, logits)

    def prefill(self, prompts: list[tuple[int, ...]]) -> None:
        """Read these prompts, each once, about PREFILL_TOKENS tokens in a pass."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.prefilled]
        at_once = max(1, PREFILL_TOKENS // max(map(len, prompts)))
        for i in range(0, len(new), at_once):
            batch = new[i : i + at_once]
            longest = max(map(len, batch))
            ids = torch.tensor([prompt + (0,) * (longest - len(prompt)) for prompt in batch], device=self.device)
            lengths = torch.tensor([len(prompt) for prompt in batch], device=self.device)  # [P]
            last = torch.arange(longest, device=self.device) == lengths[:, None] - 1  # bool[P, T] the last tokens
            cache = llama.Cache(self.model.config, len(batch), longest, self.cache.k.dtype, self.device)
            logits = self.model(ids, cache=cache, where=last)  # [P, V]
            for row, prompt in enumerate(batch):
                k, v = cache.k[:, [row], :, : len(prompt)], cache.v[:, [row], :, : len(prompt)]  # [layers, 1, K, T, D]
                self.prefilled[prompt] = k, v, logits[row]

    def decode(self) -> int:
        """One forward pass over all rows, and one more token for each sequence. How many of them ended with that?"""
        newest = torch.tensor([[sequence.ids[-1]] for sequence in self.running], device=self.device)  # [n, 1]
        positions = torch.tensor([[sequence.position] for sequence in self.running], device=self.device)  # [n, 1]
        logits = self.model(newest, positions, self.cache)[:, 0]  # [n, V]
        live = self.live_rows()
        return self.advance([self.running[row] for row in live], logits[live])

    def advance(self, sequences: list[Sequence], logits: Tensor) -> int:
        """Sample a token for each of these N sequences from logits [N, V]. How many of them ended with that?"""
        noise = torch.tensor([next(sequence.noise) for sequence in sequences], device=self.device)  # [N]
        tokens, logps = sample_token(logits, noise, self.temperature, self.top_p)  # [N] each
        for sequence, token, logp in zip(sequences, tokens.tolist(), logps.tolist(), strict=True):
            if not math.isfinite(logp):
                raise LogitsError(f"the model's logits are not finite at token {len(sequence.ids) + 1} of response "
                                  f"{sequence.index}; its weights are damaged or too large")
            sequence.ids.append(token)
            sequence.logprob += logp
            finished = token in self.stop_ids
            full = len(sequence.ids) == self.max_new_tokens or sequence.position == self.model.config.context - 1
            if finished or full:
                self.completions[sequence.index] = Completion(sequence.ids, sequence.logprob, finished)
                sequence.ended = True
        return sum(sequence.ended for sequence in sequences)


@torch.no_grad()
def generate(model: llama.Llama, prompts: list[list[int]], max_new_tokens: int, temperature: float = 1.0,
             top_p: float = 1.0, stop_ids: tuple[int, ...] = (), seed: int = 0, slots: int = 512,
             cache_gib: float = 8.0, progress: Callable[[int], None] | None = None,
             indices: list[int] | None = None) -> list[Completion]:
    """One completion per prompt, in the order of the prompts; repeat a prompt to sample it several times.

    prompts: lists of token ids, none empty. temperature 0: greedy. slots: how many run at once, at most; fewer if their
    keys and values need more than cache_gib GiB. progress: called with the number of completions since the last call.
    indices: of the responses, for their random numbers (None: 0, 1, ...); a part of a list is answered as the whole is.
    A completion that reaches the end of the model's context is cut off there. Raises ValueError for arguments out of
    range, LengthError for a prompt that fills the context, or if the cache holds no response, LogitsError for logits
    that are not finite.
    """
    if not (temperature == 0 or temperature >= LEAST_TEMPERATURE) or not 0 < top_p <= 1:
        raise ValueError(f"need temperature 0 (greedy) or at least {LEAST_TEMPERATURE:g}, and 0 < top_p <= 1; got "
                         f"{temperature} and {top_p}")
    if max_new_tokens < 1 or slots < 1:
        raise ValueError(f"need max_new_tokens >= 1 and slots >= 1; got {max_new_tokens} and {slots}")
    if not all(prompts):
        raise ValueError("a prompt is empty: there is nothing to continue")
    if not prompts:
        return []
    longest, context = max(map(len, prompts)), model.config.context
    if longest >= context:
        raise LengthError(f"a prompt of {longest:,} tokens leaves no room for a response: the model's context "
                          f"(max_position_embeddings) is {context:,}")
    length = min(longest + max_new_tokens, context)
    slots = min(slots_for(model.config, length, model.lm_head.weight.dtype, slots, cache_gib), len(prompts))
    engine = Engine(model, prompts, max_new_tokens, temperature, top_p, stop_ids, seed, slots, length, indices)
    while engine.waiting or engine.running:
        if engine.has_room():
            engine.compact()
            ended = engine.admit()
        else:
            ended = engine.decode()
        if progress is not None and ended:
            progress(ended)
    return engine.completions


# ---------------------------------------------------------------------------------------------------------------------
# Questions to a checkpoint


def ask(model: llama.Llama, tokenizer: "Tokenizer", questions: list[str], condition: str, samples: int,
        **options) -> list[list[Response]]:
    """`samples` responses to each question, under a condition of voting.PROMPTS. options: those of `generate`.

    Each process (plumbing/distributed.py) answers a part of the questions; all get all responses.
    """
    prompts = [voting.encode_prompt(tokenizer, question, condition) for question in questions]

    def answer(chosen: list[int]) -> list[list[Response]]:
        indices = [i * samples + j for i in chosen for j in range(samples)]
        repeated = [prompts[i] for i in chosen for _ in range(samples)]
        if "progress" in options:
            options["progress"] = distributed.as_of_all(options["progress"], len(repeated), samples * len(prompts))
        completions = generate(model, repeated, stop_ids=stop_ids_in(model, tokenizer), indices=indices, **options)
        responses = []
        for prompt, written in zip(repeated, completions, strict=True):
            text = tokenizer.decode(written.ids[:-1] if written.finished else written.ids)
            responses.append(Response(written.ids, written.logprob, written.finished, text, prompt))
        return [responses[i : i + samples] for i in range(0, len(responses), samples)]

    return distributed.spread(answer, [len(prompt) for prompt in prompts])  # longer questions, longer answers


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Ask a checkpoint one problem and see how it spends its budget. After each response comes what it "
                    "is: regular (one trial), extended (a vote), short, or malformed and why; its trials, its tokens, "
                    "and the answer it states.",
        allow_abbrev=False,
        epilog='example: python sample.py checkpoints/ibpo "Compute 11 * 27 * 34 * 6 * 28 modulo 61." --samples 3')
    parser.add_argument("directory", help="a checkpoint directory, e.g. checkpoints/ibpo")
    parser.add_argument("problem", help="the problem, in quotes")
    parser.add_argument("--condition", choices=list(voting.PROMPTS),
                        help="scot: one chain of thought; sv: always vote; asv: the model decides; modes: it "
                             "decides among three groups (default: what the checkpoint was trained for, else scot)")
    parser.add_argument("--samples", type=int, default=1, help="how many responses (default 1)")
    parser.add_argument("--temperature", type=float, default=1.0, help="0 is greedy (default 1)")
    parser.add_argument("--top-p", type=float, default=0.9,
                        help="sample from the likeliest tokens that make up this sum; 1: from all (default 0.9)")
    parser.add_argument("--max-new-tokens", type=int,
                        help="cut a response off here (default: as in the checkpoint's training, else 300)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same responses (default 0)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where to compute (default cpu)")
    args = parser.parse_args()
    if not args.problem.strip():
        parser.error("the problem is empty")
    if args.samples < 1:
        parser.error("--samples must be at least 1")
    try:
        dtype = DTYPES[usual_dtype(args.directory, "auto", args.device)]
        model, tokenizer, notes = open_checkpoint(args.directory, dtype, args.device)
        condition = args.condition or notes.get("condition", "scot")
        limit = usual_length([args.directory]) if args.max_new_tokens is None else args.max_new_tokens
        (responses,) = ask(model, tokenizer, [args.problem], condition, args.samples,
                           max_new_tokens=limit, temperature=args.temperature, top_p=args.top_p,
                           seed=args.seed)
    except voting.PromptError as error:  # a built-in model knows only the words of its world
        sys.exit(f"error: {error}; the built-in models read {data.WHAT_TO_ASK}")
    except ValueError as error:  # CheckpointError is one
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\nstopped")
    factors = data.factors_of(args.problem)  # None: no problem of the built-in world, the right answer is not known
    gold = "" if factors is None else str(math.prod(factors) % data.MODULUS)
    for response in responses:
        parsed, right = voting.judge(gold, response.text, response.finished, condition)
        print(response.text)
        why = f" ({parsed.reason})" if parsed.reason else ""
        verdict = f", {'right' if right else f'wrong: it is {gold}'}" if gold else ""
        print(f"-> {parsed.group}{why}, trials {parsed.trials}, tokens {len(response.ids)}, answer {parsed.final}"
              f"{verdict}\n")
    if factors is not None:
        level = data.level_of(factors)
        print(f"a problem of level {level} of 5" if level else
              f"note: the model has not learned such problems; it knows {data.WHAT_TO_ASK}")


if __name__ == "__main__":
    main()
