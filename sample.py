"""Generation: how the policy produces its responses (the sampling step of Algorithm 1).

Read `generate_simply` first: one prompt at a time, the text read again for every token. `generate` gives the same
responses fast, with a key/value cache (plumbing/cache.py) and continuous batching: a sequence that ends makes room for
the next waiting prompt, so that short responses do not wait for long votes. How many run at once follows from what they
hold, not from the longest response there can be.

Every response has its own stream of random numbers, made from (seed, its index) alone: in fp32 the same seed gives the
same responses however many sequences run at once.

    python sample.py checkpoints/ibpo "Compute 11 * 27 * 34 * 6 * 28 modulo 43."
    python sample.py checkpoints/base "Compute 11 * 27 * 34 * 6 * 28 modulo 43." --condition scot --samples 4
"""

import argparse
import math
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import data
import llama
import voting
from plumbing import distributed
from plumbing.cache import Cache, Cohort, Sequence, join
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
                 candidates: int = 16) -> tuple[Tensor, Tensor]:
    """Next ids and their log-probabilities, [N] each, from logits [N, V] and uniform noise [N] in [0, 1).

    Inverse-CDF sampling: the first token whose cumulative probability exceeds the noise. With top-p, only the likeliest
    tokens are left, down to the one that brings their sum to top_p; the log-probability is that before the cut.
    Most often these are among a few `candidates`, so that the vocabulary need not be sorted; else more are taken.
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
            ids[too_few], _ = sample_token(logits[too_few], noise[too_few], temperature, top_p, 16 * candidates)
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


def tokens_for(config: llama.Config, length: int, dtype: torch.dtype, cache_gib: float) -> int:
    """How many tokens the memory for keys and values holds.

    A key and a value [K, D] per layer and token: 128 KiB per token for LLaMA-3.1-8B in bf16. LengthError: not even one
    response of `length` tokens, prompt included, fits.
    """
    token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * dtype.itemsize  # bytes
    fit, length = int(cache_gib * 2**30 // token), Cache.whole_blocks(length)
    if fit < length:
        raise LengthError(f"a response of {length:,} tokens needs {length * token / 2**30:.2g} GiB for its keys and "
                          f"values, and cache_gib is {cache_gib:g}; raise it, or lower max_new_tokens")
    return fit


class Engine:
    """Continuous batching: prompts that wait, sequences that run, and the memory for keys and values that these share.

    The memory follows what the responses hold: each cohort grows by a block of tokens when it is full. If the memory
    does not suffice, the youngest sequences are put back, to be sampled again later: with the same random numbers.
    """

    def __init__(self, model: llama.Llama, prompts: list[list[int]], max_new_tokens: int, temperature: float,
                 top_p: float, stop_ids: tuple[int, ...], seed: int, slots: int, memory: int,
                 indices: list[int] | None = None, watch: Callable[[int, list[int]], None] | None = None):
        """slots: sequences that may run at once. memory: tokens that the caches may hold. The rest: see `generate`."""
        self.model = model
        self.device = model.lm_head.weight.device
        self.prompts = prompts
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.top_p = top_p
        self.stop_ids = frozenset(stop_ids)
        self.seed = seed
        self.slots = slots
        self.memory = memory
        self.watch = watch
        self.indices = range(len(prompts)) if indices is None else indices
        self.waiting = deque(range(len(prompts)))
        self.cohorts: list[Cohort] = []
        self.completions: list[Completion] = [None] * len(prompts)

    def running(self) -> list[Sequence]:
        return [sequence for cohort in self.cohorts for sequence in cohort.sequences]

    def held(self) -> int:
        """Tokens that the caches have memory for."""
        return sum(cohort.cache.memory for cohort in self.cohorts)

    def admissible(self) -> int:
        """How many waiting prompts may start. 0 also if these are few: reading prompts is cheaper in batches."""
        running = len(self.running())
        count = min(self.slots - running, len(self.waiting))
        if not count:
            return 0
        longest = max(len(self.prompts[index]) for index in islice(self.waiting, count))
        # Every sequence should be able to grow by a block before one has to be put back
        free = self.memory - self.held() - running * Cache.BLOCK
        count = min(count, free // (Cache.whole_blocks(longest) + Cache.BLOCK))
        if not running:
            return max(count, 1)
        return count if count >= min(running / 7, len(self.waiting)) else 0

    def admit(self, count: int) -> int:
        """Start so many waiting prompts, with the first token of each. How many of them ended with that?"""
        new = [Sequence(index, self.prompts[index], noise_stream(self.seed, self.indices[index]))
               for index in (self.waiting.popleft() for _ in range(count))]
        cache, logits = self.prefill([sequence.prompt for sequence in new])
        self.cohorts.append(Cohort(new, cache))
        ended = self.advance(self.cohorts[-1:], logits)
        self.cohorts = join(self.cohorts, self.memory)
        return ended

    def prefill(self, prompts: list[list[int]]) -> tuple[Cache, Tensor]:
        """A cache of these prompts and the logits [n, V] after them. Equal prompts are read once."""
        row = {text: i for i, text in enumerate(dict.fromkeys(map(tuple, prompts)))}
        texts, rows = list(row), torch.tensor([row[tuple(prompt)] for prompt in prompts], device=self.device)  # [n]
        at_once = max(1, PREFILL_TOKENS // max(map(len, texts)))
        parts, logits = [], []
        for i in range(0, len(texts), at_once):
            batch = texts[i : i + at_once]
            T = max(map(len, batch))
            ids = torch.tensor([(0,) * (T - len(text)) + text for text in batch], device=self.device)  # [P, T]
            start = torch.tensor([T - len(text) for text in batch], device=self.device)  # [P]
            column = torch.arange(T, device=self.device)  # [T]
            cache = Cache(self.model.config, start, T, self.model.lm_head.weight.dtype)
            last = (column == T - 1).expand(len(batch), T)  # bool[P, T]
            logits.append(self.model(ids, (column - start[:, None]).clamp(min=0), [cache], where=last))  # [P, V]
            parts.append((cache, slice(None)))
        return Cache.pack([(Cache.pack(parts), rows)]), torch.cat(logits)[rows]

    def grow(self) -> None:
        """Make room for a token more in each cache: the oldest first, at the cost of the youngest."""
        for cohort in sorted(self.cohorts, key=lambda cohort: -cohort.age):
            while cohort.sequences and cohort.cache.end == cohort.cache.columns:
                columns = cohort.cache.columns + Cache.BLOCK
                missing = self.held() - cohort.cache.memory + len(cohort.sequences) * columns - self.memory
                if missing <= 0:
                    cohort.pack(columns)
                else:
                    self.put_back(missing)

    def put_back(self, tokens: int) -> None:
        """The youngest sequences of the youngest cohort wait again. tokens: how much memory is missing."""
        cohort = min(self.cohorts, key=lambda cohort: cohort.age)
        age = [(len(sequence.ids), -sequence.index) for sequence in cohort.sequences]
        rows = sorted(range(len(age)), key=age.__getitem__)[: -(-tokens // (cohort.cache.columns + Cache.BLOCK))]
        self.waiting.extendleft(cohort.sequences[row].index for row in rows)
        cohort.drop(set(rows))
        if cohort.sequences:
            cohort.pack(cohort.cache.columns)
        else:
            self.cohorts.remove(cohort)

    def decode(self) -> int:
        """One forward pass over all rows, and one more token for each sequence. How many of them ended with that?"""
        self.grow()
        newest = torch.tensor([[sequence.ids[-1]] for sequence in self.running()], device=self.device)  # [n, 1]
        caches = [cohort.cache for cohort in self.cohorts]
        positions = torch.cat([cache.end - cache.start for cache in caches])[:, None]  # [n, 1]
        return self.advance(self.cohorts, self.model(newest, positions, caches)[:, 0])  # logits [n, V]

    def advance(self, cohorts: list[Cohort], logits: Tensor) -> int:
        """Sample a token for each of the N sequences of these cohorts from logits [N, V]. How many ended with that?"""
        sequences = [sequence for cohort in cohorts for sequence in cohort.sequences]
        noise = torch.tensor([next(sequence.noise) for sequence in sequences], device=self.device)  # [N]
        tokens, logps = sample_token(logits, noise, self.temperature, self.top_p)  # [N] each
        for sequence, token, logp in zip(sequences, tokens.tolist(), logps.tolist(), strict=True):
            if not math.isfinite(logp):
                raise LogitsError(f"the model's logits are not finite at token {len(sequence.ids) + 1} of response "
                                  f"{self.indices[sequence.index]}; its weights are damaged or too large")
            sequence.ids.append(token)
            sequence.logprob += logp
            if self.watch is not None:
                self.watch(sequence.index, sequence.ids)
            finished, length = token in self.stop_ids, len(sequence.ids)
            if finished or length == self.max_new_tokens or length == self.model.config.context - len(sequence.prompt):
                self.completions[sequence.index] = Completion(sequence.ids, sequence.logprob, finished)
                sequence.ended = True
        for cohort in cohorts:
            cohort.drop({row for row, sequence in enumerate(cohort.sequences) if sequence.ended})
        self.cohorts = [cohort for cohort in self.cohorts if cohort.sequences]
        return sum(sequence.ended for sequence in sequences)


@torch.inference_mode()
def generate(model: llama.Llama, prompts: list[list[int]], max_new_tokens: int, temperature: float = 1.0,
             top_p: float = 1.0, stop_ids: tuple[int, ...] = (), seed: int = 0, slots: int = 512,
             cache_gib: float = 8.0, progress: Callable[[int], None] | None = None,
             indices: list[int] | None = None,
             watch: Callable[[int, list[int]], None] | None = None) -> list[Completion]:
    """One completion per prompt, in the order of the prompts; repeat a prompt to sample it several times.

    prompts: lists of token ids, none empty. temperature 0: greedy. slots: how many run at once, at most; fewer if their
    keys and values need more than cache_gib GiB. progress: called with the number of completions since the last call.
    indices: of the responses, for their random numbers (None: 0, 1, ...); a part of a list is answered as the whole is.
    watch: called after each token with the place of a prompt in the list and what has been written after it.
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
    memory = tokens_for(model.config, length, model.lm_head.weight.dtype, cache_gib)
    engine = Engine(model, prompts, max_new_tokens, temperature, top_p, stop_ids, seed, slots, memory, indices,
                    watch)
    while engine.waiting or engine.cohorts:
        count = engine.admissible()
        ended = engine.admit(count) if count else engine.decode()
        if progress is not None and ended:
            progress(ended)
    return engine.completions


# ---------------------------------------------------------------------------------------------------------------------
# Questions to a checkpoint


def ask(model: llama.Llama, tokenizer: "Tokenizer", questions: list[str], condition: str, samples: int,
        stop_ids: Iterable[int] = (), **options) -> list[list[Response]]:
    """`samples` responses to each question, under a condition of voting.PROMPTS. options: those of `generate`.

    They end with an id that ends a response, or with one of stop_ids.

    Each process (plumbing/distributed.py) answers a part of the questions; all get all responses.
    """
    prompts = [voting.encode_prompt(tokenizer, question, condition) for question in questions]
    ends = (*stop_ids_in(model, tokenizer), *stop_ids)

    def answer(chosen: list[int]) -> list[list[Response]]:
        indices = [i * samples + j for i in chosen for j in range(samples)]
        repeated = [prompts[i] for i in chosen for _ in range(samples)]
        if "progress" in options:
            options["progress"] = distributed.as_of_all(options["progress"], len(repeated), samples * len(prompts))
        completions = generate(model, repeated, stop_ids=ends, indices=indices, **options)
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
        epilog='example: python sample.py checkpoints/ibpo "Compute 11 * 27 * 34 * 6 * 28 modulo 43." --samples 3')
    parser.add_argument("directory", help="a checkpoint directory, e.g. checkpoints/ibpo")
    parser.add_argument("problem", help="the problem, in quotes")
    parser.add_argument("--condition", choices=list(voting.PROMPTS),
                        help="scot: one chain of thought; sv: always vote; asv: the model decides; modes: it "
                             "decides among three groups; score: two trials, the second counts (default: what the "
                             "checkpoint was trained for, else scot)")
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
        stop_ids, shown = stop_ids_in(model, tokenizer), ""

        def show(index: int, ids: list[int]) -> None:
            """The first response is shown as it is written."""
            nonlocal shown
            text = tokenizer.decode(ids[:-1] if ids[-1] in stop_ids else ids) if index == 0 else ""
            if text.startswith(shown) and not text.endswith("\ufffd"):  # a character of which a part is still to come
                print(text[len(shown):], end="", flush=True)
                shown = text

        (responses,) = ask(model, tokenizer, [args.problem], condition, args.samples,
                           max_new_tokens=limit, temperature=args.temperature, top_p=args.top_p,
                           seed=args.seed, watch=show)
    except voting.PromptError as error:  # a built-in model knows only the words of its world
        sys.exit(f"error: {error}; the built-in models read {data.WHAT_TO_ASK}")
    except ValueError as error:  # CheckpointError is one
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\nstopped")
    product = data.read_question(args.problem)  # None: not of the built-in world, the right answer is not known
    gold = "" if product is None else str(math.prod(product[0]) % product[1])
    for j, response in enumerate(responses):
        parsed, right = voting.judge(gold, response.text, response.finished, condition)
        print(response.text[len(shown):] if j == 0 else response.text)
        why = f" ({parsed.reason})" if parsed.reason else ""
        verdict = f", {'right' if right else f'wrong: it is {gold}'}" if gold else ""
        print(f"-> {parsed.group}{why}, trials {parsed.trials}, tokens {len(response.ids)}, answer {parsed.final}"
              f"{verdict}\n")
    if product is not None:
        level = data.level_of(product)
        print(f"a problem of level {level} of 5; its kind: {data.kind_of(args.problem)}" if level else
              f"note: the model has not learned such problems; it knows {data.WHAT_TO_ASK}")


if __name__ == "__main__":
    main()
