"""Generation with a key/value cache and continuous batching: how the policy produces its responses (Algorithm 1).

A fixed number of slots, no more than the memory for the cache holds, each with its own place in it and its own
position. A finished response gives its slot to the next waiting prompt, so short answers do not wait for long votes. A
prompt that is sampled m times is read once.

Every response has its own random numbers, made from (seed, its index) alone: in fp32 the same seed gives the same
responses whatever the number of slots.

    python sample.py checkpoints/ibpo "Compute 11 * 27 * 34 * 6 * 28 modulo 61."
    python sample.py checkpoints/base "Compute 11 * 27 * 34 * 6 * 28 modulo 61." --condition scot --samples 4
"""

import argparse
import sys
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

import llama
import voting

READ = 4096  # tokens of prompts that are read at once: their activations and keys are in memory beside the cache
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass
class Response:
    ids: list[int]  # what was generated, with the stop id
    logprob: float  # sum over ids of log pi(id | before) at the sampling temperature (greedy: at 1), before top-p
    finished: bool  # ended by a stop id; False: cut off at max_new_tokens, or where the model's context ends
    text: str = None  # ids without the stop id, decoded; for parsing only: what is scored or learned is always the ids
    prompt: list[int] = None  # the ids it answers; this and the text come from `ask`


def choose(logits: Tensor, noise: Tensor, temperature: float, top_p: float,
           candidates: int = 256) -> tuple[Tensor, Tensor]:
    """Next ids and their log-probabilities, [N] each, from logits [N, V] and uniform noise [N] in [0, 1).

    Inverse-CDF sampling: the first token whose cumulative probability exceeds the noise. With top-p, only the likeliest
    tokens are left, down to the one that brings their sum to top_p; the log-probability is that before the cut.
    """
    logp = torch.log_softmax(logits.float() / (temperature or 1.0), dim=-1)  # [N, V], fp32
    if temperature == 0:
        ids = logp.argmax(-1)  # [N]
    elif top_p < 1:
        few = min(candidates, logits.shape[-1])
        p, order = logp.topk(few)  # [N, few], the likeliest first
        p = p.exp()
        cdf = p.cumsum(-1)  # [N, few]
        kept = (cdf - p < top_p).sum(-1, keepdim=True)  # [N, 1] tokens kept, at least the likeliest
        mass = cdf.gather(-1, kept - 1)  # [N, 1]
        rank = torch.searchsorted(cdf, noise[:, None] * mass, right=True)  # [N, 1]
        ids = order.gather(-1, rank.minimum(kept - 1))[:, 0]  # [N]
        wide = cdf[:, -1] < top_p  # [N] not among these few
        if few < logits.shape[-1] and wide.any():
            ids[wide] = choose(logits[wide], noise[wide], temperature, top_p, candidates=logits.shape[-1])[0]
    else:
        cdf = logp.exp().cumsum(-1)  # [N, V]
        rank = torch.searchsorted(cdf, noise[:, None] * cdf[:, -1:], right=True)  # [N, 1]
        ids = rank[:, 0].clamp(max=logits.shape[-1] - 1)  # [N]
    return ids, logp.gather(-1, ids[:, None])[:, 0]


def has_bf16() -> bool:
    """Whether this CPU has instructions for bf16 products."""
    has = torch.cpu.get_capabilities()  # lists what there is; these two on x86 only
    return bool(has.get("amx_bf16") or has.get("avx512_bf16"))


def resolve_dtype(wanted: str, otherwise: str, config: llama.Config, device: str) -> str:
    """fp32 or bf16, to sample in. auto: bf16 where that is much faster, else `otherwise`.

    That is on a CPU with bf16 matrix products, for a model so wide that these are most of the work. At width 96 bf16
    gains 6 %, and loses that a run repeats itself whatever the number of slots: near-ties fall another way.
    """
    if wanted != "auto":
        return wanted
    return "bf16" if device == "cpu" and config.hidden_size >= 512 and has_bf16() else otherwise


class LengthError(ValueError):
    """A prompt does not fit into the model's context, or a response into the memory for keys and values. One line."""


def slots_for(config: llama.Config, length: int, dtype: torch.dtype, slots: int, cache_gib: float) -> int:
    """How many responses of `length` tokens, prompt included, may run at once: at most `slots`, and what fits.

    The cache holds a key and a value [K, D] per layer and token. LLaMA-3.1-8B in bf16: 128 KiB per token, 0.5 GiB per
    row of 4,096. Every row is made for the longest response there can be. LengthError: none fits.
    """
    row = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * length * dtype.itemsize  # bytes
    fit = int(cache_gib * 2**30 // row)
    if fit < 1:
        raise LengthError(f"a response of {length:,} tokens needs {row / 2**30:.2g} GiB for its keys and values, and "
                          f"cache_gib is {cache_gib:g}; raise it, or lower max_new_tokens")
    return min(slots, fit)


class Slots:
    """The running responses, the longest first: row i of each field and of the cache belongs to the same response."""

    FIELDS = "owner", "position", "made", "ids", "logprob", "noise"

    def __init__(self, model: llama.Llama, rows: int, length: int, max_new_tokens: int):
        weight = model.model.embed_tokens.weight
        self.cache = llama.Cache(model.config, rows, length, weight.dtype, weight.device)
        self.owner = torch.zeros(0, dtype=torch.long)  # [n] index of the response, -1: it has ended
        self.position = torch.zeros(0, dtype=torch.long)  # [n] where the newest token stands; it is not in the cache
        self.made = torch.zeros(0, dtype=torch.long)  # [n] tokens generated so far
        self.ids = torch.zeros(0, max_new_tokens, dtype=torch.long)  # [n, max_new_tokens], these tokens
        self.logprob = torch.zeros(0, dtype=torch.float64)  # [n], the sum of their log-probabilities
        self.noise = torch.zeros(0, max_new_tokens)  # [n, max_new_tokens], a random number for each token to come

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these, which move up."""
        used = int(self.position[rows].max()) if len(rows) else 0
        for half in (*self.cache.k, *self.cache.v):  # [slots, K, length, D], keys or values of one layer
            half[: len(rows), :, :used] = half[rows.to(half.device), :, :used]
        for name in self.FIELDS:
            setattr(self, name, getattr(self, name)[rows])

    def add(self, **new) -> Tensor:
        """Append rows with these values, 0 in the other fields; returns their numbers."""
        n, count = len(self.owner), len(new["owner"])
        for name in self.FIELDS:
            old = getattr(self, name)
            setattr(self, name, torch.cat((old, new.get(name, old.new_zeros(count, *old.shape[1:])))))
        return torch.arange(n, n + count)


@torch.no_grad()
def generate(model: llama.Llama, prompts: list[list[int]], max_new_tokens: int, temperature: float = 1.0,
             top_p: float = 1.0, stop_ids=(), seed: int = 0, slots: int = 512, cache_gib: float = 8.0,
             progress=None) -> list[Response]:
    """One response per prompt, in the order of the prompts; repeat a prompt to sample it several times.

    prompts: lists of token ids, none empty. temperature 0: greedy. slots: how many run at once, at most; fewer if their
    keys and values need more than cache_gib GiB. progress: called with the number of responses finished since the last
    call. A response that reaches the end of the model's context is cut off there. Raises ValueError for arguments out
    of range, LengthError for a prompt that fills the context, or if the cache holds no response.
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
    context, longest = model.config.context, max(map(len, prompts))
    if longest >= context:
        raise LengthError(f"a prompt of {longest:,} tokens leaves no room for a response: the model's context "
                          f"(max_position_embeddings) is {context:,}")
    length = min(longest + max_new_tokens, context)
    slots = min(slots_for(model.config, length, model.model.embed_tokens.weight.dtype, slots, cache_gib), len(prompts))
    run = Slots(model, slots, length, max_new_tokens)
    waiting = list(range(len(prompts)))[::-1]  # the next one is at the end
    known = {}  # prompts that have been read: keys, values, and the logits that follow
    responses = [None] * len(prompts)

    def read(texts: list[tuple]) -> None:
        """Prefill: fill `known` with these prompts, all at once."""
        length = max(map(len, texts))
        padded = torch.tensor([text + (0,) * (length - len(text)) for text in texts], device=device)  # [P, T]
        lengths = torch.tensor([len(text) for text in texts], device=device)  # [P]
        cache = llama.Cache(model.config, len(texts), length, run.cache.k.dtype, device)
        at = torch.arange(length, device=device) == lengths[:, None] - 1  # [P, T] the last token of each prompt
        logits = model(padded, cache=cache, at=at)  # [P, V]
        for i, text in enumerate(texts):
            known[text] = cache.k[:, [i], :, : len(text)], cache.v[:, [i], :, : len(text)], logits[i]

    def admit(count: int) -> tuple[Tensor, Tensor]:
        """Start `count` waiting responses; return their rows [count] and the logits after the prompts [count, V]."""
        owners = [waiting.pop() for _ in range(count)]
        texts = [tuple(prompts[i]) for i in owners]
        new = [text for text in dict.fromkeys(texts) if text not in known]
        few = max(1, READ // max(map(len, texts)))
        for i in range(0, len(new), few):
            read(new[i : i + few])
        noise = [torch.rand(max_new_tokens, generator=torch.Generator().manual_seed((seed * 1_000_003 + i) % 2**63))
                 for i in owners]
        rows = run.add(owner=torch.tensor(owners), position=torch.tensor([len(text) for text in texts]) - 1,
                       noise=torch.stack(noise))
        first = int(rows[0])
        for text, same in groupby(texts):  # the samples of a prompt, side by side
            last = first + len(list(same))
            k, v, _ = known[text]  # [layers, 1, K, T, D]
            run.cache.k[:, first:last, :, : len(text)] = k
            run.cache.v[:, first:last, :, : len(text)] = v
            first = last
        logits = torch.stack([known[text][2] for text in texts])
        for text in set(known) - {texts[-1]}:  # of the last one there may be more samples to come
            del known[text]
        return rows, logits

    def advance(rows: Tensor, logits: Tensor) -> None:
        """Append one token to each of these rows; those that end give their response."""
        noise = run.noise[rows, run.made[rows]].to(device)  # [len(rows)]
        token, logp = (x.cpu() for x in choose(logits, noise, temperature, top_p))
        run.ids[rows, run.made[rows]] = token
        run.logprob[rows] += logp.double()
        run.position[rows] += 1
        run.made[rows] += 1
        stopped = torch.isin(token, stop)
        done = stopped | (run.made[rows] == max_new_tokens) | (run.position[rows] == context - 1)
        for row, finished in zip(rows[done].tolist(), stopped[done].tolist()):
            ids = run.ids[row, : run.made[row]].tolist()
            responses[run.owner[row]] = Response(ids, run.logprob[row].item(), finished)
        run.owner[rows[done]] = -1
        run.position[rows[done]] = 0  # until the next `keep` they run along, at no length
        if progress is not None and done.any():
            progress(int(done.sum()))

    while True:
        live = (run.owner >= 0).nonzero()[:, 0]
        if not waiting and not len(live):
            return responses
        size = slots if waiting else len(run.owner)
        # When an eighth of the rows is free, not for each one: moving rows and reading prompts is cheaper in batches.
        if len(live) <= size * 7 / 8:
            run.keep(live[run.position[live].argsort(descending=True)])  # rows of like length attend together
            if waiting:
                advance(*admit(min(slots - len(live), len(waiting))))
            continue
        last = run.ids.gather(1, (run.made - 1).clamp(min=0)[:, None])  # [n, 1]
        logits = model(last.to(device), run.position[:, None].to(device), run.cache)[:, 0]  # [n, V]
        advance(live, logits[live.to(device)])


def stop_ids_of(directory, tokenizer) -> tuple[int, ...]:
    """Every id that ends a response: of the tokenizer, config.json and generation_config.json (Llama 3.1 has three)."""
    found = {tokenizer.eos_token_id}
    for name in ("config.json", "generation_config.json"):
        path = Path(directory) / name
        if path.exists():
            eos = llama.read_json(path).get("eos_token_id")
            found.update(eos if isinstance(eos, list) else [eos])
    return tuple(sorted(found - {None}))


def stop_ids_in(model: llama.Llama, tokenizer) -> tuple[int, ...]:
    """Every id that ends a response, of an open model: `open_checkpoint` puts all of them in its config."""
    eos = model.config.eos_token_id
    found = {tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos])}
    return tuple(sorted(found - {None}))


def ask(model: llama.Llama, tokenizer, questions: list[str], condition: str, samples: int,
        **options) -> list[list[Response]]:
    """`samples` responses, with text and prompt, to each question under a prompt of PROMPTS. options: of generate."""
    prompts = []
    for question in questions:
        prompts += [voting.encode_prompt(tokenizer, question, condition)] * samples
    responses = generate(model, prompts, **options)
    for response, prompt in zip(responses, prompts):
        response.prompt = prompt
        response.text = tokenizer.decode(response.ids[:-1] if response.finished else response.ids)
    return [responses[i : i + samples] for i in range(0, len(responses), samples)]


def notes_of(directory) -> dict:
    """ibpo.json: the stage, and the prompt condition a model was trained for. {} for a checkpoint of other origin."""
    path = Path(directory) / "ibpo.json"
    return llama.read_json(path) if path.exists() else {}


def usual_length(directories: list) -> int:
    """max_new_tokens for these checkpoints: the largest that one of them was trained with, 300 if none says."""
    return max([notes_of(directory).get("settings", {}).get("max_new_tokens", 300) for directory in directories])


def usual_dtype(directory, wanted: str, device: str) -> str:
    """fp32 or bf16, for a checkpoint that only answers. auto: resolve_dtype, else fp32, on a GPU bf16."""
    return resolve_dtype(wanted, "fp32" if device == "cpu" else "bf16", llama.read_config(directory), device)


def open_checkpoint(directory, dtype: torch.dtype = None, device=None):
    """Model, tokenizer and notes of a checkpoint directory, as train.py writes it or as Hugging Face does.

    Raises llama.CheckpointError, in one line, if the directory cannot be used.
    """
    from transformers import AutoTokenizer

    if device == "cuda" and not torch.cuda.is_available():
        raise llama.CheckpointError("--device cuda: torch sees no CUDA device")
    model = llama.load(directory, dtype, device).eval()
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # the tokenizers library raises nothing more special
        reason = str(error).strip().splitlines()[0]
        raise llama.CheckpointError(f"{directory}: the tokenizer cannot be read ({reason})") from None
    if tokenizer.chat_template is None:
        raise llama.CheckpointError(f"{directory}: the tokenizer has no chat template; use an instruct model")
    ids = stop_ids_of(directory, tokenizer)
    if len(ids) > 1:  # some may be in generation_config.json alone, which `save` does not write
        model.config.eos_token_id = list(ids)
    return model, tokenizer, notes_of(directory)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Ask a checkpoint one problem and see how it spends its budget. After each response comes what it "
                    "is: regular (one trial), extended (a vote), short, or malformed and why; its trials, its tokens, "
                    "and the answer it states.",
        epilog='example: python sample.py checkpoints/ibpo "Compute 11 * 27 * 34 * 6 * 28 modulo 61." --samples 3')
    parser.add_argument("directory", help="a checkpoint directory, e.g. checkpoints/ibpo")
    parser.add_argument("problem", help="the problem, in quotes")
    parser.add_argument("--condition", choices=list(voting.PROMPTS),
                        help="scot: one chain of thought; sv: always vote; asv: the model decides; modes: it "
                             "decides among three modes (default: what the checkpoint was trained for, else scot)")
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
                           stop_ids=stop_ids_of(args.directory, tokenizer), seed=args.seed)
    except ValueError as error:  # CheckpointError is one
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\nstopped")
    for response in responses:
        parsed, _ = voting.judge("", response.text, response.finished, condition)
        print(response.text)
        why = f" ({parsed.reason})" if parsed.reason else ""
        print(f"-> {parsed.group}{why}, trials {parsed.trials}, tokens {len(response.ids)}, answer {parsed.final}\n")


if __name__ == "__main__":
    main()
