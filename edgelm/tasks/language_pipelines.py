"""Pipelines of language models, under transformers' names, with its answers; settings are ``GenerationConfig``'s."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgelm.config import GenerationConfig
from edgelm.errors import PromptError
from edgelm.language_model import LanguageModel
from edgelm.results import GenerationResult
from edgelm.tasks.pipeline_inputs import check_text, one_or_many, refuse_unknown, texts_of
from edgelm.tasks.task_settings import suggested

Call = Callable[..., Any]


def text_generation(lm: LanguageModel, task: str) -> Call:
    """Text → [{"generated_text": text and answer}]; a chat → [{"generated_text": the chat with the answer}].

    There are as many as ``num_return_sequences``. ``return_full_text=False``: the answer alone.
    """

    def call(inputs: Any, *, return_full_text: bool = True, **settings: Any) -> Any:
        def run(prompts: list[Any]) -> list[Any]:
            made = [_continued(lm, prompt, return_full_text, settings) for prompt in prompts]
            return [[{"generated_text": text} for text in of_one] for of_one in made]

        return run([inputs])[0] if _is_chat(inputs) else one_or_many(inputs, run)

    return call


def text2text_generation(lm: LanguageModel, task: str) -> Call:
    """Text → [{"generated_text": answer}], or as many as ``num_return_sequences``; a list → a dict, or list, for each.

    What the model's authors suggest for the task holds, such as a text to put before each input.
    """
    own = suggested(lm.bundle, task)

    def call(inputs: Any, **settings: Any) -> list[Any]:
        prompts = [own.prefix + text for text in texts_of(inputs)]
        answers = [_answers(lm, prompt, own.under(settings)) for prompt in prompts]
        found = [[{"generated_text": answer.text} for answer in of_one] for of_one in answers]
        if isinstance(inputs, str):
            return found[0]
        return [of_one[0] for of_one in found] if all(len(of_one) == 1 for of_one in found) else found

    return call


def summarization(lm: LanguageModel, task: str) -> Call:
    """Text → [{"summary_text": summary}]; a list → a dict for each. Texts may be of any length."""
    from edgelm.tasks.summarization import Summarizer

    def call(inputs: Any, **settings: Any) -> list[dict[str, str]]:
        texts = texts_of(inputs)
        refuse_unknown(settings, GenerationConfig.field_names(), task)
        summarizer = Summarizer(lm, **settings)
        return [{"summary_text": summarizer.summarize(text).text} for text in texts]

    return call


def translation(lm: LanguageModel, task: str) -> Call:
    """Text → [{"translation_text": translation}]; a list → a dict for each. Texts may be of any length.

    The languages are in the task's name (``translation_en_to_pt``), or in ``src_lang`` and ``tgt_lang``.
    """
    from edgelm.tasks.translation import Translator

    named = re.fullmatch(r"translation_(\w+?)_to_(\w+)", task)
    default = named.group(1, 2) if named else (None, None)

    def call(
        inputs: Any, *, src_lang: str | None = default[0], tgt_lang: str | None = default[1], **settings: Any
    ) -> list[dict[str, str]]:
        texts = texts_of(inputs)
        refuse_unknown(settings, ("src_lang", "tgt_lang", "batch_size", *GenerationConfig.field_names()), task)
        translator = Translator(lm, source=src_lang, target=tgt_lang, **settings)
        return [{"translation_text": made.text} for made in translator.translate_batch(texts)]

    return call


def _answers(lm: LanguageModel, prompt: Any, settings: Mapping[str, Any]) -> list[GenerationResult]:
    """One answer, for which the cache serves that earlier prompts have left, or several."""
    if settings.get("num_return_sequences", 1) == 1:
        return [lm.generate(prompt, **settings)]
    return lm.generate_batch([prompt], **settings)


def _continued(lm: LanguageModel, prompt: Any, full: bool, settings: Mapping[str, Any]) -> list[Any]:
    if _is_chat(prompt):
        if prompt[-1].get("role") == "assistant":
            raise PromptError("the chat ends with the assistant: there is nothing to answer")
        answers = [result.text for result in _answers(lm, lm.encode_chat(prompt), settings)]
        return [[*prompt, {"role": "assistant", "content": answer}] if full else answer for answer in answers]
    text = check_text(prompt)
    answers = [_with_its_space(lm, text, made.token_ids, made.text) for made in _answers(lm, text, settings)]
    return [text + answer if full else answer for answer in answers]


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
