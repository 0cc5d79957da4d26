r"""sample.py: cached, batched generation against uncached decoding of one sequence, and against exact distributions.

    python -m pytest tests/test_sample.py

Small random models in fp32 with weights large enough that no next token is nearly certain or nearly tied.
"""

import contextlib
import io
import json
import os
import random
import subprocess
from collections import Counter
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import chisquare
from tokenizers import Tokenizer, decoders, models
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

import data
import llama
import sample
import voting
from plumbing import checkpoints
from plumbing.cache import Cache
from plumbing.settings import PRESETS, Settings
from sample import generate

ROOT = Path(__file__).resolve().parent.parent
V = 12


def build(vocab_size=V, seed=0, std=0.4, **changes) -> llama.Llama:
    model = llama.Llama(llama.Config(**{**dict(
        vocab_size=vocab_size, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256), **changes}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.normal_(0, std, generator=generator)
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return build()


def random_prompts(count, longest, seed=0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(V) for _ in range(rng.randint(1, longest))] for _ in range(count)]


PROMPTS = random_prompts(20, 17)


@torch.no_grad()
def logits_after(model, ids) -> torch.Tensor:  # [V], double
    return model(torch.tensor([ids]))[0, -1].double()


@torch.no_grad()
def score(model, prompt, response, temperature=1.0) -> float:
    """log pi(response | prompt) by one full forward pass."""
    logits = model(torch.tensor([prompt + response]))[0, len(prompt) - 1 : -1].double()  # [T, V]
    return torch.log_softmax(logits / temperature, -1).gather(-1, torch.tensor(response)[:, None]).sum().item()


def greedy(model, prompt, max_new_tokens, stop_ids=()) -> tuple[list[int], bool]:
    """One token at a time, without a cache."""
    ids = []
    while len(ids) < max_new_tokens:
        ids.append(logits_after(model, prompt + ids).argmax().item())
        if ids[-1] in stop_ids:
            return ids, True
    return ids, False


# ---------------------------------------------------------------------------------------------------------------------
# Greedy decoding


@pytest.mark.parametrize("kind", [{}, {"tie_word_embeddings": True}, {"num_key_value_heads": 1, "head_dim": 12}])
@pytest.mark.parametrize("slots", [1, 3, 64])
def test_greedy_equals_uncached(kind, slots):
    """Token by token, for prompts of 1 to 17 tokens, whatever slots they pass through."""
    model = build(seed=6, std=0.3, **kind)
    stop_ids = [2, 5]
    expected = [greedy(model, prompt, 24, stop_ids) for prompt in PROMPTS]
    lengths = {len(ids) for ids, _ in expected}
    assert len(lengths) >= 4 and {True, False} == {ended for _, ended in expected}  # rows end at different times
    found = generate(model, PROMPTS, 24, temperature=0, stop_ids=stop_ids, slots=slots)
    assert [(r.ids, r.finished) for r in found] == expected
    for prompt, response in zip(PROMPTS, found, strict=True):  # greedy: log-probabilities at temperature 1
        assert response.logprob == pytest.approx(score(model, prompt, response.ids), abs=1e-4)


@pytest.mark.parametrize("temperature, top_p", [(0, 1.0), (1.0, 1.0), (0.7, 0.9)])
def test_engine_writes_what_the_simple_sampler_writes(model, temperature, top_p):
    """The same tokens from the same noise, also at the end of a short context; log-probabilities but for rounding."""
    for either in model, build(max_position_embeddings=24):
        options = dict(temperature=temperature, top_p=top_p, stop_ids=(5,), seed=7)
        expected = sample.generate_simply(either, PROMPTS, 80, **options)
        assert len({len(r.ids) for r in expected}) > 8 and {r.finished for r in expected} == {True, False}
        assert max(len(r.ids) for r in expected) > (64 if either is model else 8)  # beyond one draw of noise
        for slots in 4, 64:
            found = generate(either, PROMPTS, 80, slots=slots, **options)
            assert [(r.ids, r.finished) for r in found] == [(r.ids, r.finished) for r in expected]
            assert [r.logprob for r in found] == pytest.approx([r.logprob for r in expected], abs=1e-4)


def test_greedy_varies(model):
    """The test above means something: the responses are neither constant nor the same for all prompts."""
    responses = [greedy(model, prompt, 24)[0] for prompt in PROMPTS]
    assert len({tuple(r) for r in responses}) >= 10 and all(len(set(r)) > 1 for r in responses)


def test_tiny_top_p_is_greedy(model):
    expected = [r.ids for r in generate(model, PROMPTS, 12, temperature=0)]
    for temperature in (0.3, 1.0, 3.0):
        assert [r.ids for r in generate(model, PROMPTS, 12, temperature, top_p=1e-6)] == expected
    assert [r.ids for r in generate(model, PROMPTS, 12, temperature=1e-4)] == expected  # so is a tiny temperature


# ---------------------------------------------------------------------------------------------------------------------
# Slots, stop ids, order


@pytest.mark.parametrize("temperature, top_p", [(1.0, 1.0), (0.7, 1.0), (1.5, 0.8)])
@pytest.mark.slow
def test_same_seed_same_ids_whatever_the_slots(model, temperature, top_p):
    prompts = [prompt for prompt in PROMPTS for _ in range(3)]
    options = dict(temperature=temperature, top_p=top_p, stop_ids=(3, 8))
    runs = [generate(model, prompts, 20, seed=11, slots=slots, **options) for slots in (1, 7, 256)]
    for run in runs[1:]:
        assert [(r.ids, r.finished) for r in run] == [(r.ids, r.finished) for r in runs[0]]
        assert [r.logprob for r in run] == pytest.approx([r.logprob for r in runs[0]], abs=1e-4)
    assert len({len(r.ids) for r in runs[0]}) > 8
    other = generate(model, prompts, 20, seed=12, **options)
    assert sum(a.ids == b.ids for a, b in zip(other, runs[0], strict=True)) < len(prompts) / 2


def test_response_depends_on_its_index_and_prompt_only(model):
    """Neighbours do not matter: a longer list begins with the same responses."""
    whole = generate(model, PROMPTS, 15, stop_ids=[3], seed=5, slots=4)
    assert generate(model, PROMPTS[:7], 15, stop_ids=[3], seed=5, slots=4) == [
        sample.Completion(r.ids, pytest.approx(r.logprob, abs=1e-4), r.finished) for r in whole[:7]]
    changed = generate(model, [[1, 2, 3]] + PROMPTS[1:], 15, stop_ids=[3], seed=5, slots=4)
    assert [r.ids for r in changed[1:]] == [r.ids for r in whole[1:]]


@pytest.fixture
def passes(model):
    """The shapes [B, T] of all forward passes, as they come."""
    shapes = []
    handle = model.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    yield shapes
    handle.remove()


@pytest.mark.parametrize("at_once", [1, 40])
def test_prompts_are_read_in_parts_that_fit(model, at_once, monkeypatch):
    whole = generate(model, PROMPTS * 2, 12, seed=5)
    monkeypatch.setattr(sample, "PREFILL_TOKENS", at_once)
    read = []
    handle = model.register_forward_pre_hook(lambda model, given, named: read.append(given[0].shape), with_kwargs=True)
    parts = generate(model, PROMPTS * 2, 12, seed=5)
    handle.remove()
    assert [response.ids for response in parts] == [response.ids for response in whole]
    assert all(rows == 1 or rows * length <= at_once for rows, length in read if length > 1)


def test_a_prompt_is_read_once_for_all_its_samples(model, passes):
    """If they start together."""
    texts = list(dict.fromkeys(tuple(p) for p in PROMPTS if len(p) > 1))  # reading these is a pass with T > 1
    generate(model, [list(text) for text in texts for _ in range(5)], 6, stop_ids=[3], slots=128)
    assert sum(rows for rows, width in passes if width > 1) == len(texts) > 10


@pytest.mark.parametrize("slots", [16, 64])
@pytest.mark.slow
def test_little_is_computed_in_vain(model, passes, slots):
    """Lengths differ ten-fold, and yet nine of ten computed tokens are kept."""
    responses = generate(model, [[1, 2]] * 12 * slots, 40, stop_ids=[3], seed=1, slots=slots)
    lengths = [len(r.ids) for r in responses]
    assert max(lengths) >= 10 * min(lengths)
    kept, computed = sum(lengths) - len(lengths), sum(rows for rows, width in passes if width == 1)
    assert 0.9 < kept / computed <= 1


EIGHT_B = llama.Config(vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
                       num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=131072)  # LLaMA-3.1-8B


def test_memory_follows_from_the_limit():
    """Never more than the limit, and not one token less than fits."""
    small = build(max_position_embeddings=4400).config
    for config, dtype, gib in (small, torch.float32, 0.01), (EIGHT_B, torch.bfloat16, 24.0):
        tokens = sample.tokens_for(config, 4400, dtype, gib)
        with torch.device("meta"):
            one = Cache(config, torch.zeros(1, device="cpu"), 32, dtype)  # a block
        token = sum(half.nbytes for half in (*one.k, *one.v)) / one.memory
        assert tokens * token <= gib * 2**30 < (tokens + 1) * token
    large = Settings(**PRESETS["80gb"])
    assert sample.tokens_for(EIGHT_B, 300 + large.max_new_tokens, torch.bfloat16, large.cache_gib) == 24 * 2**13
    with pytest.raises(sample.LengthError, match="cache_gib") as error:
        sample.tokens_for(EIGHT_B, 4400, torch.bfloat16, 0.5)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("rows, temperature, top_p, stop_ids", [
    (1, 0, 1.0, ()), (1, 1.0, 1.0, (5,)), (2, 1.0, 1.0, (5,)), (3, 0.9, 0.9, ())])
@pytest.mark.slow
def test_a_small_memory_changes_no_response(model, rows, temperature, top_p, stop_ids, monkeypatch):
    """Memory for so many of the longest responses. What has to be put back is sampled again, with the same tokens."""
    options = dict(max_new_tokens=100, temperature=temperature, top_p=top_p, stop_ids=stop_ids, seed=7)
    prompts = PROMPTS[:8]
    expected = sample.generate_simply(model, prompts, **options)
    token = 2 * 2 * 2 * 8 * 4 / 2**30  # GiB: layers, k and v, K, D, fp32
    length = Cache.whole_blocks(max(map(len, prompts)) + 100)
    held, again, grow, put_back = [], [], sample.Engine.grow, sample.Engine.put_back
    monkeypatch.setattr(sample.Engine, "grow", lambda engine: (grow(engine), held.append(engine.held())))
    monkeypatch.setattr(sample.Engine, "put_back", lambda engine, tokens: (again.append(1), put_back(engine, tokens)))
    found = generate(model, prompts, cache_gib=(rows * length + 0.5) * token, **options)
    assert [(r.ids, r.finished) for r in found] == [(r.ids, r.finished) for r in expected]
    assert [r.logprob for r in found] == pytest.approx([r.logprob for r in expected], abs=1e-4)
    assert max(held) <= rows * length and (again or stop_ids)
    with pytest.raises(sample.LengthError, match="cache_gib"):
        generate(model, prompts, cache_gib=0.9 * length * token, **options)


@pytest.mark.slow
def test_more_run_at_once_than_if_each_had_memory_for_the_longest(model, passes):
    prompts = [[1, 2]] * 400
    lengths = [len(r.ids) for r in generate(model, prompts, 200, stop_ids=[3], seed=1)]
    token = 2 * 2 * 2 * 8 * 4 / 2**30  # GiB
    passes.clear()
    generate(model, prompts, 200, stop_ids=[3], seed=1, cache_gib=10 * 224 * token)
    at_once = [rows for rows, width in passes if width == 1]
    assert sum(lengths) / len(lengths) < 40 and sum(at_once[:100]) / 100 > 20  # not 10


def test_a_response_ends_with_the_context(model):
    """It is the beginning of the response that a longer context allows."""
    small, stretched = build(max_position_embeddings=8), {"rope_type": "linear", "factor": 2.0}
    assert small.config.context == 8 and build(max_position_embeddings=4, rope_scaling=stretched).config.context == 8
    options = dict(stop_ids=[3], seed=5, slots=3)
    prompts = [[1, 2], [4] * 7, [5, 6, 7, 8, 9]] * 4
    found, free = (generate(either, prompts, 20, **options) for either in (small, model))  # of the same weights
    for prompt, mine, whole in zip(prompts, found, free, strict=True):
        room = 8 - len(prompt)
        assert mine.ids == whole.ids[:room] and mine.finished == (whole.finished and len(whole.ids) <= room)
    assert {response.finished for response in found} == {True, False}
    with pytest.raises(sample.LengthError, match="8 tokens leaves no room") as error:
        generate(small, [[1] * 8], 1)
    assert "\n" not in str(error.value)


def test_any_seed(model):
    """Dates and the like are longer than what a generator takes."""
    texts = {seed: [r.ids for r in generate(model, PROMPTS, 10, seed=seed)] for seed in (7, 20251125123000, -1)}
    assert texts[7] != texts[20251125123000] != texts[-1]


def test_global_random_state_is_neither_used_nor_touched(model):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = generate(model, PROMPTS, 10, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert [r.ids for r in generate(model, PROMPTS, 10, seed=5)] == [r.ids for r in first]


@pytest.mark.parametrize("stop_ids", [[4], (4, 7, 9), {0}, []])
@pytest.mark.slow
def test_stop_ids(model, stop_ids):
    responses = generate(model, PROMPTS * 3, 9, stop_ids=stop_ids, seed=1, slots=5)
    for response in responses:
        assert 1 <= len(response.ids) <= 9
        assert not set(response.ids[:-1]) & set(stop_ids)  # nothing after a stop id
        assert response.finished == (response.ids[-1] in stop_ids)  # which is part of the response
        assert response.finished or len(response.ids) == 9
    ends = Counter(r.ids[-1] for r in responses if r.finished)
    assert set(ends) == set(stop_ids)  # each of them ends some
    if ends:  # also as the last token allowed
        last = len(next(r.ids for r in responses if r.finished and len(r.ids) > 1))
        cut = generate(model, PROMPTS * 3, last, stop_ids=stop_ids, seed=1, slots=5)
        assert any(r.finished and len(r.ids) == last for r in cut)
        assert [r.ids for r in cut] == [r.ids[:last] for r in responses]
    free = generate(model, PROMPTS * 3, 9, seed=1, slots=5)
    for a, b in zip(responses, free, strict=True):  # stopping changes nothing before it
        assert b.ids[: len(a.ids)] == a.ids and len(b.ids) == 9


def test_stop_id_in_the_prompt_stops_nothing(model):
    (response,) = generate(model, [[4, 4, 4]], 6, stop_ids=[4], seed=3)
    assert len(response.ids) == 6 or response.ids[-1] == 4


@pytest.mark.parametrize("limit", [1, 2, 30])
def test_max_new_tokens(model, limit):
    responses = generate(model, PROMPTS, limit, slots=3)
    assert all(len(r.ids) == limit and not r.finished for r in responses)


def test_progress_counts_every_response(model):
    told = []
    generate(model, PROMPTS, 12, stop_ids=[2, 3, 4], slots=6, progress=told.append)
    assert sum(told) == len(PROMPTS) and min(told) > 0 and len(told) > 3


def test_arguments_are_left_alone(model):
    prompts = [list(p) for p in PROMPTS]
    generate(model, prompts, 3)
    assert prompts == PROMPTS
    assert generate(model, [tuple(p) for p in PROMPTS], 3) == generate(model, PROMPTS, 3)


def test_no_prompts(model):
    assert generate(model, [], 5) == []


@pytest.mark.parametrize("wrong", [dict(temperature=-0.1), dict(top_p=0), dict(top_p=1.01), dict(top_p=-1),
                                   dict(max_new_tokens=0), dict(slots=0), dict(prompts=[[1], []]), dict(prompts=[[]]),
                                   dict(temperature=float("nan")), dict(top_p=float("nan")), dict(temperature=1e-38),
                                   dict(temperature=1e-7), dict(temperature=1e-300)])
def test_wrong_arguments(model, wrong):
    with pytest.raises(ValueError) as error:
        generate(**{**dict(model=model, prompts=[[1]], max_new_tokens=3), **wrong})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("temperature, top_p", [(0, 1.0), (1.0, 1.0), (1.0, 0.9), (1.0, 1e-30)])
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_logits_that_are_not_finite(broken, temperature, top_p):
    """One line that says where, instead of the last id for ever, id 0, or an index out of range."""
    model = build(seed=3)
    prompts, reached = [[1, 2], [3]], []

    def damage(model, args, logits):
        reached.append(logits.shape)
        if len(reached) == 3:  # two tokens have been written; now the second response of the batch meets a broken logit
            logits[1, :, 4] = broken
        return logits

    model.register_forward_hook(damage)
    with pytest.raises(sample.LogitsError, match="not finite at token 3 of response 1;") as error:
        generate(model, prompts, 9, temperature, top_p)
    assert "\n" not in str(error.value) and len(reached) == 3
    reached.clear()
    with pytest.raises(sample.LogitsError, match="of response 12;"):  # a process that has a part of the prompts
        generate(model, prompts, 9, temperature, top_p, indices=[5, 12])


def test_watch_sees_every_token(model):
    seen = {}

    def watch(index, ids):
        assert len(ids) == 1 or ids[:-1] == seen[index]
        seen[index] = list(ids)

    responses = generate(model, PROMPTS, 12, stop_ids=[2, 3], slots=6, watch=watch)
    assert [seen[index] for index in range(len(PROMPTS))] == [r.ids for r in responses]


def test_masked_logits_are_no_error():
    """A token may be forbidden: its logit is -inf and its probability 0."""
    model = build(seed=3)
    model.register_forward_hook(lambda model, args, logits: logits.index_fill(-1, torch.tensor([4, 5]), -torch.inf))
    for temperature, top_p in (0, 1.0), (1.0, 1.0), (1.0, 0.9):
        ids = {id for r in generate(model, PROMPTS, 20, temperature, top_p) for id in r.ids}
        assert len(ids) > 5 and not ids & {4, 5}


@pytest.mark.parametrize("temperature, top_p", [(1e-6, 1.0), (1e-6, 0.5), (1.0, 1e-45), (1.0, 1e-300)])
def test_least_temperature_and_least_top_p_are_greedy(temperature, top_p):
    model = build(seed=3, std=0.8)  # large logits
    expected = [r.ids for r in generate(model, PROMPTS, 12, temperature=0)]
    assert [r.ids for r in generate(model, PROMPTS, 12, temperature, top_p)] == expected


def test_a_huge_limit_costs_nothing(model):
    """Nothing is allocated for tokens that are not written, and the noise does not depend on the limit."""
    options = dict(stop_ids=(3, 8, 5), seed=2)
    expected = generate(model, PROMPTS, 100, **options)
    assert all(r.finished for r in expected)
    assert generate(model, PROMPTS, 10**9, **options) == expected


# ---------------------------------------------------------------------------------------------------------------------
# Distributions


def nucleus(p: torch.Tensor, top_p: float) -> torch.Tensor:
    """The likeliest tokens, one after another until their sum reaches top_p, and nothing else. p: [V]"""
    kept, total = torch.zeros_like(p), 0.0
    for i in p.argsort(descending=True).tolist():
        if total >= top_p:
            break
        kept[i] = p[i]
        total += p[i].item()
    return kept / kept.sum()


def next_token(model, ids, temperature, top_p) -> torch.Tensor:  # [V]
    return nucleus(torch.softmax(logits_after(model, ids) / temperature, -1), top_p)


def chi_square(counts: Counter, expected: dict, draws: int) -> float:
    """p-value; cells expected less than five times are put together."""
    assert set(counts) <= {key for key, p in expected.items() if p > 0}, "drew what has no probability"
    large = [key for key, p in expected.items() if p * draws >= 5]
    observed, wanted = [counts[key] for key in large], [expected[key] * draws for key in large]
    rest = draws - sum(observed), draws - sum(wanted)
    if rest[1] > 1:
        observed, wanted = [*observed, rest[0]], [*wanted, rest[1]]
    scale = sum(observed) / sum(wanted)
    return chisquare(observed, [w * scale for w in wanted]).pvalue


@pytest.mark.parametrize("temperature, top_p", [(1.0, 1.0), (0.6, 1.0), (2.0, 1.0), (1.0, 0.9), (0.8, 0.7), (1.7, 0.6)])
@pytest.mark.slow
def test_two_tokens_follow_the_analytic_distribution(temperature, top_p):
    """Joint distribution of two tokens: right for each, and the second does not depend on the first one's noise."""
    model, draws = build(vocab_size=6, seed=1, std=0.15), 6000
    responses = generate(model, [[1, 3, 2]] * draws, 2, temperature, top_p, seed=17, slots=draws)
    first = next_token(model, [1, 3, 2], temperature, top_p)
    second = [next_token(model, [1, 3, 2, a], temperature, top_p) for a in range(6)]
    expected = {(a, b): (first[a] * second[a][b]).item() for a, b in product(range(6), repeat=2)}
    assert sum(p * draws >= 5 for p in expected.values()) >= 4
    assert chi_square(Counter(tuple(r.ids) for r in responses), expected, draws) > 1e-3


@pytest.mark.parametrize("seeds", ["neighbouring responses", "neighbouring seeds"])
def test_responses_are_independent(seeds):
    model, draws, prompt = build(vocab_size=6, seed=1, std=0.25), 6000, [[1, 3, 2]]
    if seeds == "neighbouring responses":
        tokens = [r.ids[0] for r in generate(model, prompt * 2 * draws, 1, seed=4, slots=4096)]
        pairs = Counter(zip(tokens[::2], tokens[1::2], strict=True))
    else:
        runs = [[r.ids[0] for r in generate(model, prompt * draws, 1, seed=seed, slots=4096)] for seed in (4, 5)]
        pairs = Counter(zip(*runs, strict=True))
        shifted = zip(runs[0][1:], runs[1][:-1], strict=True)
        assert sum(a == b for a, b in shifted) < 0.8 * draws  # nor are they the same, one further
    p = next_token(model, prompt[0], 1.0, 1.0).tolist()
    assert chi_square(pairs, {(a, b): p[a] * p[b] for a, b in product(range(6), repeat=2)}, draws) > 1e-3


def test_sample_token_is_the_inverse_of_the_distribution_function():
    """Exactly: evenly spaced noise picks each token in proportion to its probability."""
    p = torch.tensor([0.125, 0.0, 0.5, 0.25, 0.125])
    noise = (torch.arange(800) + 0.5) / 800
    logits = p.log()

    def count(top_p, temperature=1.0):
        ids, logp = sample.sample_token(logits.expand(800, -1), noise, temperature, top_p)
        assert torch.allclose(logp, torch.log_softmax(logits / temperature, -1)[ids])  # before the cut
        return ids.bincount(minlength=5).tolist()
    assert count(1.0) == [100, 0, 400, 200, 100]
    assert count(0.75) in ([0, 0, 533, 267, 0], [0, 0, 534, 266, 0])
    assert count(0.76) in ([114, 0, 457, 229, 0], [0, 0, 457, 229, 114], [114, 0, 458, 228, 0], [0, 0, 458, 228, 114])
    assert count(0.5) == [0, 0, 800, 0, 0] == count(0.1)
    squares = (p * p / (p * p).sum() * 800).tolist()
    assert count(1.0, temperature=0.5) == pytest.approx(squares, abs=1)


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999])
def test_top_p_by_a_few_candidates_is_exact(top_p):
    """Peaked rows, whose nucleus is among the candidates, and flat ones, whose whole vocabulary has to be sorted."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(600, 50, generator=generator) * torch.linspace(0.1, 12, 600)[:, None]  # [600, 50]
    noise = torch.rand(600, generator=generator)
    few, whole = (sample.sample_token(logits, noise, 1.0, top_p, candidates=candidates) for candidates in (2, 50))
    assert torch.equal(few[0], whole[0]) and torch.equal(few[1], whole[1])
    for most in 2, 32:  # of the candidates, and of sixteen times as many
        wide = logits.softmax(-1).topk(most).values.sum(-1) < top_p
        assert (10 if most == 2 or top_p > 0.9 else 0) <= wide.sum() < 590


@pytest.mark.parametrize("top_p", [1.0, 0.999999, 0.9])
def test_impossible_tokens_are_never_drawn(top_p):
    logits = torch.full((4, 100), -torch.inf)
    logits[:, 40:43] = torch.tensor([0.0, -1.0, 0.5])
    noise = torch.tensor([0.0, 1e-9, 0.5, 1 - 2**-24])
    ids, logp = sample.sample_token(logits, noise, 1.0, top_p)
    assert set(ids.tolist()) <= {40, 41, 42} and logp.isfinite().all()


# ---------------------------------------------------------------------------------------------------------------------
# Log-probabilities


@pytest.mark.parametrize("temperature, top_p", [(1.0, 1.0), (0.5, 1.0), (1.6, 1.0), (1.2, 0.7)])
def test_logprob_equals_a_full_forward_pass(model, temperature, top_p):
    """At the sampling temperature, of all ids with the stop id, and before top-p."""
    prompts = [prompt for prompt in PROMPTS for _ in range(2)]
    responses = generate(model, prompts, 20, temperature, top_p, stop_ids=[3], seed=2, slots=6)
    assert any(r.finished for r in responses)
    for prompt, response in zip(prompts, responses, strict=True):
        assert response.logprob == pytest.approx(score(model, prompt, response.ids, temperature), abs=1e-4)


def test_training_mode_and_gradients_are_left_alone(model):
    model.train()
    responses = generate(model, PROMPTS[:3], 5)
    assert model.training and all(w.grad is None and w.requires_grad for w in model.parameters())
    model.eval()
    assert [r.ids for r in generate(model, PROMPTS[:3], 5)] == [r.ids for r in responses]


# ---------------------------------------------------------------------------------------------------------------------
# bf16


@pytest.mark.parametrize("has, width, device, expected", [
    ({"amx_bf16": True, "avx512_bf16": False}, 512, "cpu", "bf16"), ({"avx512_bf16": True}, 4096, "cpu", "bf16"),
    ({"avx512_bf16": True}, 480, "cpu", "fp32"), ({"amx_bf16": True}, 4096, "cuda", "fp32"),
    ({"amx_bf16": False, "avx512_bf16": False, "avx512_f": True}, 4096, "cpu", "fp32"),
    ({"architecture": "aarch64", "neon": True, "bf16": True}, 4096, "cpu", "fp32"), ({}, 4096, "cpu", "fp32")])
def test_auto_dtype(has, width, device, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    config = llama.Config(V, hidden_size=width, intermediate_size=8, num_hidden_layers=1, num_attention_heads=4)
    assert sample.resolve_dtype("auto", "fp32", config, device) == expected
    assert sample.resolve_dtype("auto", "bf16", config, device) == "bf16"  # trained in bf16: sampled in bf16
    assert sample.resolve_dtype("fp32", "bf16", config, device) == "fp32"
    assert sample.resolve_dtype("bf16", "fp32", config, device) == "bf16"


@pytest.mark.slow
def test_bf16_answers_as_well_as_fp32():
    """`python bench/speed.py --pass-at-1 2000` measures it; here only that nothing is broken: easy problems."""
    problems = [p for p in data.load("builtin", "test", 250, seed=0) if data.kind_of(p.question) == "easy"][:64]
    right = []
    for dtype in sample.DTYPES.values():
        model, tokenizer, _ = sample.open_checkpoint(ROOT / "checkpoints/ibpo", dtype)
        rows = sample.ask(model, tokenizer, [p.question for p in problems], "asv", 1, max_new_tokens=300, top_p=0.9)
        right.append([voting.judge(p.answer, r.text, r.finished)[1] for p, (r,) in zip(problems, rows, strict=True)])
    assert len(problems) == 64 and min(map(sum, right)) > 0.85 * 64


# ---------------------------------------------------------------------------------------------------------------------
# Checkpoints and texts


def test_stop_ids_of(tmp_path):
    tokenizer = SimpleNamespace(eos_token_id=128009)
    assert checkpoints.stop_ids_of(tmp_path, tokenizer) == (128009,)
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": [128001, 128008, 128009]}))
    assert checkpoints.stop_ids_of(tmp_path, tokenizer) == (128001, 128008, 128009)
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 0}))  # 0 is an id like any other
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 0]}))
    assert checkpoints.stop_ids_of(tmp_path, tokenizer) == (0, 7, 128009)
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(llama.CheckpointError, match="generation_config.json"):
        checkpoints.stop_ids_of(tmp_path, tokenizer)
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": None}))
    (tmp_path / "generation_config.json").write_text("{}")
    assert checkpoints.stop_ids_of(tmp_path, SimpleNamespace(eos_token_id=None)) == ()


def test_ask(tmp_path):
    """Questions in, `samples` responses to each out, in order, with texts without the stop id."""
    tokenizer = data.build_tokenizer(data.world_pieces() + voting.pieces())
    stop_ids = [tokenizer.eos_token_id, 9]
    model = build(vocab_size=len(tokenizer), std=0.3, eos_token_id=stop_ids)
    questions = ["Compute 7 * 12 modulo 61.", "Compute 3 * 4 * 5 * 60 modulo 61."]
    options = dict(max_new_tokens=30, seed=3)
    rows = sample.ask(model, tokenizer, questions, "asv", 40, **options)
    assert [len(row) for row in rows] == [40, 40]
    prompts = [voting.encode_prompt(tokenizer, question, "asv") for question in questions for _ in range(40)]
    expected = generate(model, prompts, stop_ids=stop_ids, **options)
    assert [r.ids for row in rows for r in row] == [r.ids for r in expected]
    for response in rows[0] + rows[1]:
        shown = response.ids[:-1] if response.finished else response.ids
        assert response.text == "".join(tokenizer.convert_ids_to_tokens(shown))
    assert {r.finished for row in rows for r in row} == {True, False}

    llama.save(model, tmp_path, tokenizer)
    again, its_tokenizer, notes = sample.open_checkpoint(tmp_path)
    assert sample.ask(again, its_tokenizer, questions, "asv", 40, **options) == rows and notes == {}
    (tmp_path / "ibpo.json").write_text('{"condition": "asv"}')
    assert sample.open_checkpoint(tmp_path)[2] == {"condition": "asv"}


def test_stop_ids_survive_saving(tmp_path):
    """Those of generation_config.json, too, which is not written again; config.json has them all then."""
    tokenizer = data.build_tokenizer(data.world_pieces())
    llama.save(build(vocab_size=len(tokenizer), eos_token_id=1), tmp_path / "a", tokenizer)
    (tmp_path / "a" / "generation_config.json").write_text('{"eos_token_id": [1, 5]}')
    assert checkpoints.stop_ids_of(tmp_path / "a", tokenizer) == (1, 5)
    model, tokenizer, _ = sample.open_checkpoint(tmp_path / "a")
    llama.save(model, tmp_path / "b", tokenizer)
    assert checkpoints.stop_ids_of(tmp_path / "b", tokenizer) == (1, 5)


def test_notes_that_cannot_be_read(tmp_path):
    tokenizer = data.build_tokenizer(data.world_pieces())
    llama.save(build(vocab_size=len(tokenizer)), tmp_path, tokenizer)
    (tmp_path / "ibpo.json").write_text('{"condition": ')
    with pytest.raises(llama.CheckpointError, match="ibpo.json") as error:
        sample.open_checkpoint(tmp_path)
    assert "\n" not in str(error.value)


def test_checkpoint_without_a_chat_template(tmp_path):
    tokenizer = data.build_tokenizer(data.world_pieces())
    tokenizer.chat_template = None
    llama.save(build(vocab_size=len(tokenizer)), tmp_path, tokenizer)
    with pytest.raises(llama.CheckpointError, match="no chat template"):
        sample.open_checkpoint(tmp_path)
    for file in tmp_path.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(llama.CheckpointError) as error:
        sample.open_checkpoint(tmp_path)
    assert "\n" not in str(error.value)


@pytest.fixture
def directory(tmp_path) -> Path:
    """A usable checkpoint directory."""
    tokenizer = data.build_tokenizer(data.world_pieces() + voting.pieces())
    llama.save(build(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id), tmp_path, tokenizer)
    return tmp_path


def edit(path: Path, **changes) -> None:
    """Change fields of a JSON file; None removes one."""
    content = {**(json.loads(path.read_text()) if path.exists() else {}), **changes}
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def refusal(directory: Path) -> str:
    with pytest.raises(llama.CheckpointError) as error:
        sample.open_checkpoint(directory)
    assert "\n" not in str(error.value) and str(directory) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("notes, named", [
    ({"condition": "vote"}, "condition is 'vote'"), ({"condition": ["asv"]}, "condition is"),
    ({"condition": None}, "condition is None"), ({"settings": [1]}, "settings is"), ({"settings": "{}"}, "settings is"),
    ({"settings": {"max_new_tokens": "300"}}, "max_new_tokens is '300'"), ([], "ibpo.json"), (7, "ibpo.json"),
    ({"settings": {"max_new_tokens": -1}}, "max_new_tokens"), ({"settings": {"max_new_tokens": 3.5}}, "max_new_tokens"),
    ({"settings": {"max_new_tokens": True}}, "max_new_tokens"), ("[" * 100_000, "ibpo.json")])
def test_notes_of_the_wrong_type(directory, notes, named):
    (directory / "ibpo.json").write_text(notes if isinstance(notes, str) else json.dumps(notes))
    assert named in refusal(directory)
    with pytest.raises(llama.CheckpointError):
        sample.usual_length([directory])


@pytest.mark.parametrize("eos", ["</s>", [1, "</s>"], {"id": 1}, 1.0, True])
def test_stop_ids_of_the_wrong_type(directory, eos):
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))
    assert "eos_token_id" in refusal(directory)


def test_tokenizer_without_eos(directory):
    """The id in config.json is taken; without one no response would ever end, which is said at once."""
    edit(directory / "tokenizer_config.json", eos_token=None)
    model, tokenizer, _ = sample.open_checkpoint(directory)
    assert tokenizer.eos_token_id == model.config.eos_token_id == checkpoints.stop_ids_of(directory, tokenizer)[0]
    edit(directory / "config.json", eos_token_id=None)
    assert "EOS" in refusal(directory)


def test_tokenizer_of_another_model(directory):
    llama.save(build(vocab_size=9), directory)
    edit(directory / "config.json", eos_token_id=1)
    assert "the model knows 9 tokens" in refusal(directory)


def test_no_code_of_a_checkpoint_is_run(directory, monkeypatch):
    """Nor is anyone asked whether it may be run."""
    (directory / "evil.py").write_text(f"""
from pathlib import Path
from transformers import PreTrainedTokenizerFast, PretrainedConfig
Path({str(directory / 'it ran')!r}).touch()
class Evil(PreTrainedTokenizerFast): pass
class EvilConfig(PretrainedConfig): pass
""")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))
    expected = voting.encode_prompt(sample.open_checkpoint(directory)[1], checkpoints.PROBE, "asv")
    edit(directory / "config.json", auto_map={"AutoConfig": "evil.EvilConfig", "AutoTokenizer": ["evil.Evil"] * 2})
    for name in "PreTrainedTokenizerFast", "Evil":
        edit(directory / "tokenizer_config.json", tokenizer_class=name, auto_map={"AutoTokenizer": ["evil.Evil"] * 2})
        try:
            tokenizer = sample.open_checkpoint(directory)[1]
            assert voting.encode_prompt(tokenizer, checkpoints.PROBE, "asv") == expected
        except llama.CheckpointError as error:
            assert "\n" not in str(error)
        assert not (directory / "it ran").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "tokenizer_config.json", "config.json",
                                  "ibpo.json", "generation_config.json", "chat_template.jinja"])
def test_a_pipe_in_place_of_a_file(directory, name):
    (directory / name).unlink(missing_ok=True)
    os.mkfifo(directory / name)
    assert name in refusal(directory)


LOOP = "{% for _ in range(99999) %}"
END = "{% endfor %}"
TEMPLATES = {  # a chat template, and what the line says
    "{{ messages[0].content": "the chat template fails (unexpected end",
    "{{ nobody.content }}": "the chat template fails ('nobody' is undefined",
    "{{ raise_exception('not\nhere') }}": "the chat template fails (not)",
    "{{ 1 // 0 }}": "the chat template fails",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "the chat template fails",
    "{{ 'x' * 10**10 }}": "GiB of memory",
    "{{ 'x' * 10**6 }}": "it writes 1,000,000 characters",
    LOOP + "{{ 'x' * (10**6 + loop.index) }}" + END: "GiB of memory",
    3 * LOOP + 3 * END: "still running after 2 seconds of processor time",
    "{{ 9**(9**9) }}": "still running after 2 seconds of processor time",
    "Compute 3 * 4 modulo 61.": "drops the instruction: the prompts for scot and sv are the same",
    "": "drops the instruction",
}
HARMLESS = [*TEMPLATES][:4] + [*TEMPLATES][-2:]  # they end soon, and need no process of their own
NO_SYSTEM_TURN = {  # a template, and what the line says if voting.encode_prompt needs a system turn
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ messages[0].content }}": "the chat template fails (System role not supported)",
    "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}":
        "drops the instruction: the prompts for scot and sv are the same",
}


def trial_run_here(command: list[str], input: str, **_) -> subprocess.CompletedProcess:
    """In place of subprocess.run: in this process, which has imported transformers."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr("sys.stdin", io.StringIO(input))
        checkpoints.templates.main()
    return subprocess.CompletedProcess(command, 0, printed.getvalue(), "")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux limits the memory of the trial run")
@pytest.mark.parametrize("template", TEMPLATES)
def test_chat_templates_that_are_refused(directory, template, monkeypatch):
    if template in HARMLESS:
        monkeypatch.setattr(checkpoints.templates, "limit", lambda *_: None)
        monkeypatch.setattr(checkpoints.templates.subprocess, "run", trial_run_here)
    if "still running" in TEMPLATES[template]:
        monkeypatch.setattr(checkpoints.templates, "SECONDS", 2)
    (directory / "chat_template.jinja").write_text(template)
    assert TEMPLATES[template] in refusal(directory)


@pytest.mark.slow
@pytest.mark.parametrize("template", NO_SYSTEM_TURN)
def test_templates_without_a_system_turn(tmp_path, template):
    """No condition is lost in silence: a model that opens gets the instruction, or it does not open."""
    letters = Tokenizer(models.BPE({letter: id for id, letter in enumerate(ByteLevel.alphabet())}, merges=[]))
    letters.pre_tokenizer, letters.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters, eos_token="</s>", chat_template=template)
    llama.save(build(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id), tmp_path, tokenizer)
    try:
        tokenizer = sample.open_checkpoint(tmp_path)[1]
    except llama.CheckpointError as error:
        assert NO_SYSTEM_TURN[template] in str(error) and "\n" not in str(error)
    else:
        for condition in voting.PROMPTS:
            text = tokenizer.decode(voting.encode_prompt(tokenizer, "What is 1 + 1?", condition))
            assert voting.PROMPTS[condition] in text and "What is 1 + 1?" in text


def test_command_line(tmp_path, capsys, monkeypatch):
    tokenizer = data.build_tokenizer(data.world_pieces() + voting.pieces())
    llama.save(build(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id), tmp_path, tokenizer)

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["sample.py", *map(str, arguments)])
        sample.main()
        return capsys.readouterr().out

    question = "Compute 7 * 12 modulo 61."
    shown = run(tmp_path, question, "--samples", 3, "--max-new-tokens", 2)
    assert shown.count("-> malformed (cut off), trials 1, tokens 2, answer None") == 3
    model, tokenizer, _ = sample.open_checkpoint(tmp_path)
    (expected,) = sample.ask(model, tokenizer, [question], "scot", 3, max_new_tokens=30, top_p=0.9)
    prints = []
    monkeypatch.setattr("builtins.print", lambda *texts, end="\n", **_: prints.append("".join(texts) + end))
    run(tmp_path, question, "--samples", 3, "--max-new-tokens", 30)
    monkeypatch.undo()
    told = "".join(prints)
    at = -1
    for response in expected:  # each text once, in order, before its verdict
        assert told.count(response.text + "\n->") == 1 and told.index(response.text + "\n->") > at
        at = told.index(response.text + "\n->")
    assert "".join(prints[: len(expected[0].ids) - 1]) in expected[0].text  # the first one piece by piece
    unknown = "Compute 7 * 612 modulo 61."
    for wrong in ([tmp_path / "none", question], [tmp_path, unknown], [tmp_path, question, "--top-p", 0]):
        with pytest.raises(SystemExit) as stop:
            run(*wrong)
        assert str(stop.value).startswith("error: ") and "\n" not in str(stop.value)
        assert (data.WHAT_TO_ASK in str(stop.value)) == (unknown in wrong)


NOT_LEARNED = f"note: the model has not learned such problems; it knows {data.WHAT_TO_ASK}"


@pytest.mark.parametrize("question, gold, last", [
    ("Compute 2 * 5 * 7 modulo 43.", "27", "a problem of level 1 of 5; its kind: medium"),
    ("Compute 2 * 3 * 4 * 5 * 6 * 7 * 8 modulo 61.", "60", "a problem of level 5 of 5; its kind: hopeless"),
    ("Compute 2 * 5 modulo 7.", None, None),  # not like a problem of the built-in world
    ("What is 1 + 1?", None, None),  # nor is this, which other models can answer
    ("Compute 70 * 3 * 5 modulo 43.", "18", NOT_LEARNED),  # a factor out of range
    ("Compute 5 * 3 * 5 modulo 43.", "32", NOT_LEARNED),  # twice the same
    ("Compute 2 * 5 * 7 modulo 37.", "33", NOT_LEARNED),  # there are no short ones of this kind
    ("Compute 2 * 5 modulo 43.", "10", NOT_LEARNED)])
def test_what_is_said_of_answers(question, gold, last, directory, capsys, monkeypatch):
    """Right or wrong, and what the problem is; nothing of problems that sample.py knows no answer to."""
    texts = [f"7\n\\boxed{{{answer}}}" for answer in (gold, "11")]
    monkeypatch.setattr(sample, "ask", lambda *_, **__: [[
        sample.Response([1, 2, 3], 0.0, True, text, []) for text in texts]])
    monkeypatch.setattr("sys.argv", ["sample.py", str(directory), question, "--samples", "2"])
    sample.main()
    told = capsys.readouterr().out.splitlines()
    verdicts = [line.partition("tokens 3, ")[2] for line in told if line.startswith("-> regular")]
    if gold is None:
        assert verdicts == ["answer None", "answer 11"] and told[-1] == ""
    else:
        assert verdicts == [f"answer {gold}, right", f"answer 11, wrong: it is {gold}"] and told[-1] == last
    assert told[:2] == texts[0].splitlines()
