"""The stages before IBPO: the built-in base model, SV-SFT and ASV-SFT (paper Sec. 4, App. B).

    python train.py --stage base                 # rebuild the built-in base model from nothing
    python train.py --stage asv-sft              # its own solutions in the voting templates

Departures from the paper: a single trial is one of the model's own solutions. A golden one would teach it arithmetic as
well, not only when to vote (see `sft_examples`). D_ASV1 and D_ASV2 are both drawn evenly from all levels.
D_ASV1 holds votes on problems with at least --sft-distinct different answers (the paper: 4 to 8, of 32 samples). That
tells the model about difficulty before IBPO does; with --sft-distinct 1 it learns both formats, not when to use them.
With --sft-short there is a third kind of example, short votes, made in the same way.
"""

import json
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import data
import grade
import llama
import sample
import voting
from learn import Example, add_supervised_gradient, encode
from plumbing import distributed
from plumbing.files import atomic_write, derive_seed, digest, fingerprint, shuffled
from plumbing.settings import Settings, UserError
from plumbing.stage import Stage, for_sampling, is_finished, only_process, open_start, scheduled

# ---------------------------------------------------------------------------------------------------------------------
# base: the built-in language model reads its textbook


def times_table(step: int, steps: int, book: data.Textbook, rng: random.Random) -> tuple[str, str, str]:
    """A page of chapter one: a product of two numbers, small ones first.

    Read in this order the table is learned within minutes. Presented all at once, in longer solutions, it takes hours:
    modulo p, a known number times an unknown one may be any number, so that one operand alone predicts nothing.
    """
    entry = book.table_entry(step / steps, rng)
    return data.question_of(entry), "scot", book.route(entry, rng)[0]


def textbook_page(book: data.Textbook, rng: random.Random) -> tuple[str, str, str]:
    """A page of chapter two: one solution, or several routes to one problem and a closing remark.

    Some pages repeat the times tables of the five primes that have one.
    """
    if rng.random() < book.repeats:
        return times_table(1, 1, book, rng)
    problem = data.draw("train", rng.choice(data.LEVELS), rng)
    if rng.random() < book.single:
        return data.question_of(problem), "scot", book.route(problem, rng)[0]
    solutions, answers = [], []
    while voting.trials_needed(answers) is None:
        solution, answer = book.route(problem, rng)
        solutions.append(solution)
        answers.append(str(answer))
    return data.question_of(problem), "sv", voting.render_extended(solutions, answers)


def counting_page(book: data.Textbook, rng: random.Random) -> tuple[str, str, str]:
    """A page of chapter three: trials that disagree, at every level; the reader learns when to stop and what to state.

    The textbook's own routes never disagree about an easy problem, and a reader of chapter two learns to stop after
    three trials there without comparing them. Here a trial goes wrong with the same chance at each level, sometimes to
    an answer that was there before. Its wrong steps are not learned, only the counting (see `count_only`), so most of
    the working is left out: more pages in the same time, and answers at all distances.
    """
    problem = data.draw("train", rng.choice(data.LEVELS), rng)
    chance, popular = rng.uniform(0.5, 1), rng.sample(range(1, problem[1]), 2)
    solutions, answers = [], []
    while voting.trials_needed(answers) is None:
        solution, answer = book.route(problem, rng)
        first, *steps, _ = solution.split("\n")
        steps = steps[rng.randrange(len(steps)) :]
        if rng.random() < chance:  # another result of the last step
            answer = rng.choice(popular) if rng.random() < 0.3 else rng.randrange(1, problem[1])
            steps[-1] = f"{steps[-1].partition(' = ')[0]} = {answer}"
        solutions.append("\n".join([first, *steps, f"\\boxed{{{answer}}}"]))
        answers.append(str(answer))
    return data.question_of(problem), "sv", voting.render_extended(solutions, answers)


COUNTING = r"\nSeen [^\n]*|(?<=\[/TRIAL\]\n)[^\n]*"  # tallies, and what follows each [/TRIAL]


def count_only(tokenizer, question: str, condition: str, vote: str) -> Example:
    """An example that learns only the counting."""
    example = encode(tokenizer, question, condition, vote, learned=COUNTING)
    if vote.count(voting.CLOSE) == voting.MAX_TRIALS:
        example.weight = 10.0  # mostly without consensus: what to state then is hardest, and one token in two hundred
    return example


def new_model(settings: Settings, tokenizer) -> llama.Llama:
    """The built-in language model before training: LLaMA with 0.42 M parameters."""
    config = llama.Config(
        vocab_size=len(tokenizer), hidden_size=96, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model = llama.initialise(llama.Llama(config), settings.seed)
    return model.to(settings.device, sample.DTYPES[settings.dtype])


def textbook_batch(step: int, settings: Settings, tokenizer, book: data.Textbook) -> list[Example]:
    """The pages of a step: the times table, then solutions and votes, then exercises in counting, too."""
    rng = random.Random(f"base {settings.seed} {step}")
    if step < settings.base_chapter_2:  # short pages: twice as many
        return [encode(tokenizer, *times_table(step, settings.base_chapter_2, book, rng))
                for _ in range(2 * settings.base_batch)]
    pages = []
    for _ in range(settings.base_batch):
        if step >= settings.base_chapter_3 and rng.random() < book.counting:
            pages.append(count_only(tokenizer, *counting_page(book, rng)))
        else:
            pages.append(encode(tokenizer, *textbook_page(book, rng)))
    return pages


def train_base(settings: Settings) -> Path:
    """The base model of the built-in world, from nothing; returns its checkpoint directory."""
    directory, book = settings.directory("base"), data.Textbook(settings.base_textbook)
    if is_finished(settings, "base"):
        return directory
    tokenizer = data.build_tokenizer(data.world_pieces() + voting.pieces())
    model = new_model(settings, tokenizer)
    milestones = [0, 10 * settings.warmup, settings.base_chapter_3, settings.base_steps + 1]
    with Stage(settings, "base", model, tokenizer, settings.base_steps) as stage:
        for step in stage:
            record = add_supervised_gradient(model, textbook_batch(step, settings, tokenizer, book), settings)
            learning_rate = settings.base_lr * float(np.interp(step + 1, milestones, [0, 0.97, 0.4, 0]))
            stage.update(learning_rate, record, f"nll/token {record['nll_per_token']:.3f}")
    return directory


# ---------------------------------------------------------------------------------------------------------------------
# SV-SFT and ASV-SFT: the base model's own solutions in the voting templates (paper Sec. 4)


PROBLEMS_AT_ONCE = 250  # sampled, then saved


def sampled_solutions(settings: Settings) -> list[dict]:
    """sft_problems training problems, each with sft_samples solutions by the base model.

    Kept in out/samples.jsonl, whose first line tells what they were made with. Where problems have changed since, the
    samples of the others are kept. If another run is sampling them, wait for it.
    """
    path = Path(settings.out) / "samples.jsonl"
    problems = data.load(settings.data, "train", settings.sft_problems, derive_seed(settings.seed, "sft"))
    header = {**settings.deciding("samples"), "fingerprint": fingerprint(settings.model)}
    with only_process(path.parent, wait=True):
        known = known_rows(path, header, problems)
        if all(key_of(asdict(problem)) in known for problem in problems):
            return [known[key_of(asdict(problem))] for problem in problems]
        model, tokenizer = open_start(settings, settings.model)
        model = for_sampling(model, settings)
        rows = []
        with tqdm(total=len(problems) * settings.sft_samples, desc="sampling the base", unit="response",
                  dynamic_ncols=True) as bar:
            for first in range(0, len(problems), PROBLEMS_AT_ONCE):
                chunk = problems[first : first + PROBLEMS_AT_ONCE]
                missing = [problem for problem in chunk if key_of(asdict(problem)) not in known]
                bar.update((len(chunk) - len(missing)) * settings.sft_samples)
                responses = []
                if missing:
                    responses = sample.ask(
                        model, tokenizer, [problem.question for problem in missing], "scot", settings.sft_samples,
                        top_p=settings.top_p, seed=derive_seed(settings.seed, "samples", first), progress=bar.update,
                        **settings.sampling)
                for problem, row in zip(missing, responses):
                    texts = [response.text for response in row if response.finished]
                    known[key_of(asdict(problem))] = {**asdict(problem), "samples": texts}
                rows += [known[key_of(asdict(problem))] for problem in chunk]
                if missing and distributed.rank == 0:
                    later = [known[key] for key in known.keys() - {key_of(row) for row in rows}]
                    with atomic_write(path) as temporary:
                        lines = [json.dumps(row) + "\n" for row in [header, *rows, *later]]
                        temporary.write_text("".join(lines))
    return rows


def key_of(row: dict) -> tuple:
    """What makes a problem the same."""
    return row["question"], row["answer"], row["level"], row["solution"]


def known_rows(path: Path, header: dict, problems: list[data.Problem]) -> dict[tuple, dict]:
    """The rows of samples.jsonl that were made with these settings for these problems, by key_of.

    Raises UserError if the file was made with other settings, or is damaged.
    """
    if not path.exists():
        return {}
    try:
        before, *rows = map(json.loads, path.read_text().splitlines())
        keys = [key_of(row) for row in rows]
        if not all(isinstance(text, str) for row in rows for text in row["samples"]):
            raise ValueError("a sample is no text")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}); delete it") from None
    if {"fingerprint": header["fingerprint"], **before} != header:  # files of earlier versions have no fingerprint
        raise UserError(f"{path} was made with other settings; choose another --out, or delete it")
    wanted = [key_of(asdict(problem)) for problem in problems]
    if keys == wanted[: len(keys)] and len(keys) < len(wanted):  # interrupted: whole chunks only, each has its seed
        keys = keys[: len(keys) // PROBLEMS_AT_ONCE * PROBLEMS_AT_ONCE]
    there = set(wanted)
    known = {key: row for key, row in zip(keys, rows) if key in there}
    if keys != wanted[: len(keys)]:
        print(f"note: problems have changed since {path} was made; {len(known)} of {len(wanted)} are still there")
    return known


def balanced_sample(by_level: dict[int, list], count: int, what: str) -> list:
    """`count` items, as many from each level, the last few apart; what a small level lacks, the others make up for."""
    levels = [level for level in sorted(by_level) if by_level[level]]
    if not levels:
        raise UserError(f"no {what} could be made of the base model's samples: no problem has enough that are finished "
                        "and right (or, for votes, different enough: --sft-distinct)")
    sizes = [len(by_level[level]) for level in levels]
    share = next((s for s in range(max(sizes)) if sum(min(size, s) for size in sizes) >= count), max(sizes))
    chosen = [item for level in levels for item in by_level[level][:share]][:count]
    if len(chosen) < count or min(sizes) < share:
        print(f"note: {len(chosen)} {what} of {count}, at most {share} from each level: "
              + ", ".join(f"level {level} has {size}" for level, size in zip(levels, sizes)))
    return chosen


def different_answers(solutions: list[str]) -> int:
    """How many different answers these solutions have."""
    return len(voting.number_answers([grade.extract(solution) for solution in solutions])[1])


def sft_examples(settings: Settings, stage: str, tokenizer, rows: list[dict]) -> list[Example]:
    """Training examples from the rows of sampled_solutions.

    In the paper's names: D_SV are votes under the prompt "sv", D_ASV1 the same under "asv", D_ASV2 single trials in the
    format of "asv". SV-SFT learns D_SV and single solutions under the base's prompt; ASV-SFT learns sft_votes examples
    of D_ASV1 and sft_alpha * sft_regular of D_ASV2.

    A single trial is one of the model's own right samples, so that it does not forget the easy problems, of which it
    sees hardly any votes (with votes on hard problems alone, it forgot them within 500 steps). Where no sample is
    right, the golden solution of the built-in world is shown, masked out of the loss: only the format of one trial is
    learned. Learning the solution itself would correct the textbook's misprints, and voting would no longer pay. A
    problem file brings no solutions; its unsolved problems are left out.
    """
    rng, condition = random.Random(f"{stage} {settings.seed}"), settings.condition(stage)
    votes, shorts, regular = defaultdict(list), defaultdict(list), defaultdict(list)
    for row in rows:
        vote = voting.build_vote(row["samples"], row["answer"], rng)  # Algorithm 3
        if vote is not None and (stage == "sv-sft" or different_answers(row["samples"]) >= settings.sft_distinct):
            votes[row["level"]].append((row["question"], vote))
        if condition == "modes":
            vote = voting.build_vote(row["samples"], row["answer"], rng, voting.SHORT)
            if vote is not None:
                shorts[row["level"]].append((row["question"], vote))
        right = [text for text in row["samples"] if voting.judge(row["answer"], voting.render_regular(text))[1]]
        if right:  # one of the model's own
            regular[row["level"]].append((row["question"], rng.choice(right), ""))
        elif row["solution"] is not None:  # golden: read, not learned
            regular[row["level"]].append((row["question"], row["solution"], row["solution"]))
    examples = []
    for question, text in balanced_sample(votes, settings.sft_votes, "voting examples"):
        examples.append(encode(tokenizer, question, condition, text))
    if condition == "modes":
        for question, text in balanced_sample(shorts, settings.sft_short, "short votes"):
            examples.append(encode(tokenizer, question, condition, text))
    alpha = settings.sft_alpha if stage == "asv-sft" else 1
    for question, text, given in balanced_sample(regular, round(alpha * settings.sft_regular), "one-trial examples"):
        if stage == "sv-sft":
            examples.append(encode(tokenizer, question, "scot", text, given))
        else:
            examples.append(encode(tokenizer, question, condition, voting.render_regular(text), given))
    return examples


@torch.no_grad()
def resize_embeddings(model: llama.Llama, rows: int) -> None:
    """Append `rows` tokens to the vocabulary. Embedding and output row of a new one: the mean of the old ones.

    Its logit is then the mean of the old logits, far below those of likely tokens.
    """
    for layer in (model.model.embed_tokens, model.lm_head):
        mean = layer.weight.float().mean(dim=0).to(layer.weight.dtype)  # [C]
        layer.weight = torch.nn.Parameter(torch.cat((layer.weight, mean.expand(rows, -1))))  # [V + rows, C]
    if model.config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    model.config.vocab_size = model.model.embed_tokens.num_embeddings = model.lm_head.out_features = (
        model.config.vocab_size + rows)


def add_missing_tokens(model: llama.Llama, tokenizer, pieces: list[str]) -> int:
    """Make each piece of text that the tokenizer cannot spell a token of its own; returns how many there are.

    The tokenizer of a real LLaMA can spell everything. The built-in one has words for two groups only.
    """
    unknown = [piece for piece in pieces
               if tokenizer.unk_token_id in tokenizer(piece, add_special_tokens=False).input_ids]
    if unknown:
        tokenizer.add_tokens(unknown)
        resize_embeddings(model, max(len(tokenizer) - model.config.vocab_size, 0))
    return len(unknown)


def train_sft(settings: Settings, stage_name: str, make_examples: Callable = sft_examples) -> Path:
    """The stage sv-sft or asv-sft, or one with other examples; returns its checkpoint directory."""
    directory = settings.directory(stage_name)
    sources = {"model": fingerprint(settings.model)}
    if is_finished(settings, stage_name, sources):
        return directory
    rows = sampled_solutions(settings)  # first, by a model of its own: a small card has no room for two
    sources["samples"] = digest([row["samples"] for row in rows])
    model, tokenizer = open_start(settings, settings.model)
    if add_missing_tokens(model, tokenizer, voting.pieces(settings.condition(stage_name))) and settings.lora_rank:
        raise UserError(f"{stage_name} needs new tokens, which --lora-rank, with its frozen embedding, could not learn")
    examples = make_examples(settings, stage_name, tokenizer, rows)
    order = derive_seed(settings.seed, stage_name)
    with Stage(settings, stage_name, model, tokenizer, settings.sft_steps, sources) as stage:
        for step in stage:
            batch = [examples[i] for i in shuffled(len(examples), step, settings.sft_batch, order)]
            record = add_supervised_gradient(model, batch, settings)
            learning_rate = scheduled(settings, settings.sft_lr, step, settings.sft_steps)
            stage.update(learning_rate, record, f"nll/token {record['nll_per_token']:.3f}")
    return directory


if __name__ == "__main__":
    print(__doc__)
