"""Before a run starts: whatever else would end it only after hours."""

import data
import eval as evaluation
import llama
import sample
import voting
from plumbing.checkpoints import notes_of, open_tokenizer
from plumbing.settings import Settings, UserError


def check(settings: Settings, stage: str) -> None:
    """What else would end a run only after hours: raises UserError, DataError, CheckpointError, LengthError or
    PromptError."""
    llama.read_config(settings.model)
    if settings.start is not None:
        llama.read_config(settings.start)
        trained, wanted = notes_of(settings.start).get("condition"), settings.condition("ibpo")
        if trained not in (None, wanted):
            hint = "; --sft-short N makes the difference" if {trained, wanted} == {"asv", "modes"} else ""
            raise UserError(f"{settings.start} was trained for the prompt {trained!r}, and this run is for "
                            f"{wanted!r}{hint}")
    files = {settings.data: "train"}
    if stage in ("all", "ibpo") and settings.valid_every:
        files[settings.valid_data] = "validation"
    if stage == "all":
        files[settings.test_data] = "test"
        start = settings.start or settings.name("asv-sft")
        evaluation.different_names([settings.model, "sv-sft", start, settings.name("ibpo")])
    paths = {path: data.load(path, split) for path, split in files.items() if path != data.BUILTIN}
    if paths:
        tokenizer = open_tokenizer(settings.model)
        for path, problems in paths.items():
            check_lengths(tokenizer, problems, path, llama.read_config(settings.model).context,
                          ["scot", "sv", settings.condition("asv-sft")])


def prompt_tokens(tokenizer, question: str, conditions: list[str]) -> int:
    """Tokens of the longest of a question's prompts.

    That of three groups, which is one token, is left out where the tokenizer gets it only in ASV-SFT.
    """
    lengths = []
    for condition in conditions:
        try:
            lengths.append(len(voting.encode_prompt(tokenizer, question, condition)))
        except voting.PromptError:
            if condition != "modes":
                raise
    return max(lengths)


def check_lengths(tokenizer, problems: list[data.Problem], path: str, context: int, conditions: list[str]) -> None:
    """Raises LengthError, which names the problem, if its prompt under one of these conditions would fill the context
    of the model.
    """
    instructions = prompt_tokens(tokenizer, "", conditions)
    for problem in problems:
        if instructions + len(problem.question.encode()) < context:  # a token is at least a byte
            continue
        tokens = prompt_tokens(tokenizer, problem.question, conditions)
        if tokens >= context:
            raise sample.LengthError(f"{data.place_of(problem, path)}: the prompt has {tokens:,} tokens; the context "
                                     f"of the model (max_position_embeddings) is {context:,}. Take the problem out")
