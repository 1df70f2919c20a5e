"""Pipelines of language models, under transformers' names, with its answers; settings are ``GenerationConfig``'s."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgelm.checks import check_int
from edgelm.config import GenerationConfig
from edgelm.errors import ConfigError, PromptError
from edgelm.language_model import LanguageModel
from edgelm.results import GenerationResult
from edgelm.tasks.pipeline_inputs import check_text, one_or_many, refuse_unknown, texts_of
from edgelm.tasks.task_settings import suggested

Call = Callable[..., Any]
_SETTINGS = ("generation_config", *GenerationConfig.field_names())
_NEVER_CUT = "a prompt that is longer than the context window is refused, never cut"
_IN_PARTS = "a text of any length is taken in parts, and nothing is cut off"


def text_generation(lm: LanguageModel, task: str) -> Call:
    """Text → [{"generated_text": text and answer}]; a chat → [{"generated_text": the chat with the answer}].

    There are as many as ``num_return_sequences``. ``return_full_text=False``: the answer alone. ``batch_size``: prompts
    that are computed at a time.
    """

    def call(inputs: Any, *, return_full_text: bool = True, batch_size: int | None = None, **settings: Any) -> Any:
        settings = _without_truncation(settings, task, _NEVER_CUT)

        def run(prompts: list[Any]) -> list[Any]:
            encoded = [_encoded(lm, prompt) for prompt in prompts]
            made = zip(prompts, _answers(lm, encoded, settings, batch_size), strict=True)
            continued = [_continued(lm, prompt, answers, return_full_text) for prompt, answers in made]
            return [[{"generated_text": text} for text in of_one] for of_one in continued]

        return run([inputs])[0] if _is_chat(inputs) else one_or_many(inputs, run)

    return call


def text2text_generation(lm: LanguageModel, task: str) -> Call:
    """Text → [{"generated_text": answer}], or as many as ``num_return_sequences``; a list → a dict, or list, for each.

    What the model's authors suggest for the task holds, such as a text to put before each input.
    """
    own = suggested(lm.bundle, task)

    def call(inputs: Any, *, batch_size: int | None = None, **settings: Any) -> list[Any]:
        settings = _without_truncation(settings, task, _NEVER_CUT)
        prompts = [own.prefix + text for text in texts_of(inputs)]
        answers = _answers(lm, prompts, own.under(settings), batch_size)
        found = [[{"generated_text": answer.text} for answer in of_one] for of_one in answers]
        if isinstance(inputs, str):
            return found[0]
        return [of_one[0] for of_one in found] if all(len(of_one) == 1 for of_one in found) else found

    return call


def summarization(lm: LanguageModel, task: str) -> Call:
    """Text → [{"summary_text": summary}]; a list → a dict for each. Texts may be of any length."""
    from edgelm.tasks.summarization import Summarizer

    Summarizer(lm)  # refuses a model of another kind now, not when it is called

    def call(inputs: Any, **settings: Any) -> list[dict[str, str]]:
        texts = texts_of(inputs)
        settings = _without_truncation(settings, task, _IN_PARTS)
        refuse_unknown(settings, _SETTINGS, task)
        summarizer = Summarizer(lm, **settings)
        return [{"summary_text": summarizer.summarize(text).text} for text in texts]

    return call


def translation(lm: LanguageModel, task: str) -> Call:
    """Text → [{"translation_text": translation}]; a list → a dict for each. Texts may be of any length.

    The languages are in the task's name (``translation_en_to_pt``), or in ``src_lang`` and ``tgt_lang``.
    """
    from edgelm.tasks.translation import Translator, check_translates

    check_translates(lm)
    named = re.fullmatch(r"translation_(\w+?)_to_(\w+)", task)
    default = named.group(1, 2) if named else (None, None)

    def call(
        inputs: Any, *, src_lang: str | None = default[0], tgt_lang: str | None = default[1], **settings: Any
    ) -> list[dict[str, str]]:
        texts = texts_of(inputs)
        settings = _without_truncation(settings, task, _IN_PARTS)
        refuse_unknown(settings, ("src_lang", "tgt_lang", "batch_size", *_SETTINGS), task)
        translator = Translator(lm, source=src_lang, target=tgt_lang, **settings)
        return [{"translation_text": made.text} for made in translator.translate_batch(texts)]

    return call


def _without_truncation(settings: Mapping[str, Any], task: str, why: str) -> dict[str, Any]:
    if settings.get("truncation"):
        raise ConfigError(f"{task} has no truncation: {why}")
    return {name: value for name, value in settings.items() if name != "truncation"}


def _answers(
    lm: LanguageModel, prompts: Sequence[Any], settings: Mapping[str, Any], batch_size: int | None
) -> list[list[GenerationResult]]:
    """The answers to each prompt: one by one, each from where it parts from an earlier one, or in batches."""
    if batch_size is not None:
        check_int("batch_size", batch_size, 1)
    own = getattr(settings.get("generation_config"), "num_return_sequences", 1)
    each = settings.get("num_return_sequences", own)
    if each == 1 and batch_size in (None, 1):
        return [[lm.generate(prompt, **settings)] for prompt in prompts]
    size = batch_size or 1
    answers: list[GenerationResult] = []
    for start in range(0, len(prompts), size):
        answers += lm.generate_batch(prompts[start : start + size], **settings)
    each = len(answers) // len(prompts)
    return [answers[start : start + each] for start in range(0, len(answers), each)]


def _encoded(lm: LanguageModel, prompt: Any) -> Any:
    if not _is_chat(prompt):
        return check_text(prompt)
    if prompt[-1].get("role") == "assistant":
        raise PromptError("the chat ends with the assistant: there is nothing to answer")
    return lm.encode_chat(prompt)


def _continued(lm: LanguageModel, prompt: Any, made: Sequence[GenerationResult], full: bool) -> list[Any]:
    if _is_chat(prompt):
        return [[*prompt, {"role": "assistant", "content": one.text}] if full else one.text for one in made]
    answers = [_with_its_space(lm, prompt, one.token_ids, one.text) for one in made]
    return [prompt + answer if full else answer for answer in answers]


def _with_its_space(lm: LanguageModel, prompt: str, ids: Sequence[int], answer: str) -> str:
    """The answer as it stands behind the prompt: some tokenizers take a first word's space away, if it is alone."""
    before = lm.tokenizer.encode(prompt)
    whole = lm.tokenizer.decode([*before, *ids])
    return f" {answer}" if whole[len(lm.tokenizer.decode(before)) :].startswith(f" {answer}") else answer


def _is_chat(inputs: Any) -> bool:
    return (
        isinstance(inputs, Sequence)
        and not isinstance(inputs, str)
        and len(inputs) > 0
        and all(isinstance(message, Mapping) for message in inputs)
    )
