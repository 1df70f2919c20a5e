"""Pipelines of language models, under transformers' names, with its answers; settings are ``GenerationConfig``'s."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgelm.errors import PromptError
from edgelm.language_model import LanguageModel
from edgelm.tasks.pipeline_inputs import one_or_many

Call = Callable[..., Any]


def text_generation(lm: LanguageModel, task: str) -> Call:
    """Text → [{"generated_text": text and answer}]; a chat → [{"generated_text": the chat with the answer}].

    ``return_full_text=False``: the answer alone.
    """

    def call(inputs: Any, *, return_full_text: bool = True, **settings: Any) -> Any:
        def run(prompts: list[Any]) -> list[Any]:
            return [[{"generated_text": _continued(lm, prompt, return_full_text, settings)}] for prompt in prompts]

        return run([inputs])[0] if _is_chat(inputs) else one_or_many(inputs, run)

    return call


def text2text_generation(lm: LanguageModel, task: str) -> Call:
    """Text → [{"generated_text": answer}]; a list → a dict for each."""
    return _answering("generated_text", lambda text, settings: lm.generate(text, **settings).text)


def summarization(lm: LanguageModel, task: str) -> Call:
    """Text → [{"summary_text": summary}]; a list → a dict for each. Texts may be of any length."""
    from edgelm.tasks.summarization import Summarizer

    return _answering("summary_text", lambda text, settings: Summarizer(lm, **settings).summarize(text).text)


def translation(lm: LanguageModel, task: str) -> Call:
    """Text → [{"translation_text": translation}]; a list → a dict for each. Texts may be of any length.

    The languages are in the task's name (``translation_en_to_pt``), or in ``src_lang`` and ``tgt_lang``.
    """
    from edgelm.tasks.translation import Translator, check_texts

    named = re.fullmatch(r"translation_(\w+?)_to_(\w+)", task)
    default = named.group(1, 2) if named else (None, None)

    def call(
        inputs: Any, *, src_lang: str | None = default[0], tgt_lang: str | None = default[1], **settings: Any
    ) -> list[dict[str, str]]:
        texts = check_texts([inputs] if isinstance(inputs, str) else inputs)
        translator = Translator(lm, source=src_lang, target=tgt_lang, **settings)
        return [{"translation_text": made.text} for made in translator.translate_batch(texts)]

    return call


def _answering(key: str, answer: Callable[[str, Mapping[str, Any]], str]) -> Call:
    def call(inputs: Any, **settings: Any) -> list[dict[str, str]]:
        texts = [inputs] if isinstance(inputs, str) else list(inputs)
        if not texts:
            raise PromptError("there is no input: the list is empty")
        return [{key: answer(_text(text), settings)} for text in texts]

    return call


def _continued(lm: LanguageModel, prompt: Any, full: bool, settings: Mapping[str, Any]) -> Any:
    if _is_chat(prompt):
        if prompt[-1].get("role") == "assistant":
            raise PromptError("the chat ends with the assistant: there is nothing to answer")
        answer = lm.chat(prompt, **settings).text
        return [*prompt, {"role": "assistant", "content": answer}] if full else answer
    result = lm.generate(_text(prompt), **settings)
    answer = _with_its_space(lm, prompt, result.token_ids, result.text)
    return prompt + answer if full else answer


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


def _text(given: Any) -> str:
    if not isinstance(given, str):
        raise PromptError(f"an input must be a text, not {type(given).__name__}")
    return given
