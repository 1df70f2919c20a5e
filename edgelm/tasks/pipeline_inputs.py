"""What pipelines take: one input or a list of them, texts or pairs as transformers writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from edgelm.errors import ConfigError, PromptError
from edgelm.text.encoding import TextOrPair

T = TypeVar("T")

# What sentence-similarity takes, as the hub's inference API does.
SENTENCES = '{"source_sentence": "…", "sentences": ["…", …]}'
_EMPTY = "there is no input: the list is empty"


def one_or_many(inputs: Any, run: Callable[[list[Any]], list[T]]) -> T | list[T]:
    """Runs a list of inputs, or a single one, whose answer then stands alone.

    Raises:
        PromptError: there is nothing in the list.
    """
    if isinstance(inputs, Sequence) and not isinstance(inputs, str | bytes):
        if not inputs:
            raise PromptError(_EMPTY)
        return run(list(inputs))
    return run([inputs])[0]


def texts_of(inputs: Any) -> list[str]:
    """The texts of an input: one alone, or a list of them.

    Raises:
        PromptError: one is no text, or there are none.
    """
    if isinstance(inputs, str):
        return [inputs]
    if not isinstance(inputs, Sequence) or isinstance(inputs, bytes):
        raise PromptError(f"the input must be a text or a list of texts, not {type(inputs).__name__}")
    if not inputs:
        raise PromptError(_EMPTY)
    return [check_text(text) for text in inputs]


def check_text(given: Any) -> str:
    """The input, if it is a text.

    Raises:
        PromptError: it is none.
    """
    if not isinstance(given, str):
        raise PromptError(f"an input must be a text, not {type(given).__name__}")
    return given


def text_or_pair(given: Any) -> TextOrPair:
    """A text, or a pair as ``{"text": …, "text_pair": …}``.

    Raises:
        PromptError: it is neither.
    """
    if not isinstance(given, Mapping):
        return given  # type: ignore[no-any-return]  # what is no string is refused with its place in the list
    unknown = sorted(set(given) - {"text", "text_pair"})
    if unknown or "text" not in given:
        raise PromptError('a pair must be {"text": "…", "text_pair": "…"}, not ' + f"{given!r:.80}")
    pair = given.get("text_pair")
    return given["text"] if pair is None else (given["text"], pair)


def refuse_unknown(settings: Mapping[str, Any], known: Sequence[str], task: str) -> None:
    """Refuses settings that a task does not have.

    Raises:
        ConfigError: there is one; names those that are known.
    """
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise ConfigError(f"{task} has no setting {unknown[0]!r}; known are: {', '.join(known)}")
