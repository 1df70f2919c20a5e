"""What is asked to be continued, and the checks that come before any of it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from edgelm.config import GenerationConfig
from edgelm.generation.batch import Ids as AnyIds
from edgelm.generation.default_processors import default_processors
from edgelm.generation.history import check_length, check_prompt
from edgelm.generation.logits_processors import Ids, LogitsProcessor, compose
from edgelm.generation.observer import Observer


class Sizes(Protocol):
    """What requests are checked against; every decoder says it."""

    @property
    def vocab_size(self) -> int:
        """Width of the logits."""
        ...

    @property
    def context_length(self) -> int:
        """Tokens that prompt and answer may have together."""
        ...


class ModelSizes(NamedTuple):
    """The sizes where no decoder is at hand."""

    vocab_size: int
    context_length: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Request:
    """A prompt, (T,) token ids, at least one, and ``source``, what an encoder read; None: the prompt itself."""

    prompt: AnyIds
    source: AnyIds | None = None


def given(request: Request) -> AnyIds:
    """What was asked: the source where there is one."""
    return request.prompt if request.source is None else request.source


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Task:
    """A checked request.

    Attributes:
        prompt: (T,) int64.
        limit: tokens that prompt and answer may have together.
        process: the built-in processors, then the caller's.
    """

    prompt: Ids
    limit: int
    process: LogitsProcessor


def check_request(
    request: Request,
    config: GenerationConfig,
    sizes: Sizes,
    *,
    processors: Sequence[LogitsProcessor] = (),
    observer: Observer | None = None,
) -> Task:
    """What is to be done for a request, by a decoder of these sizes; ``observer`` is told what ``process`` does.

    Raises:
        ConfigError: the prompt has ``max_length``, or a token that is to be forced is none of the vocabulary.
        PromptError: the prompt or the source is no list of tokens, or an empty one.
        ContextLengthError: the prompt leaves no room for an answer.
    """
    prompt = check_prompt(request.prompt, sizes.vocab_size)
    check_length(prompt.size, sizes.context_length)
    limit = min(prompt.size + config.new_tokens(prompt.size), sizes.context_length)
    built_in = default_processors(
        config,
        prompt_length=prompt.size,
        limit=limit,
        source=prompt if request.source is None else check_prompt(request.source, sizes.vocab_size),
        vocab_size=sizes.vocab_size,
    )
    return Task(prompt=prompt, limit=limit, process=compose([*built_in, *processors], observer))


def check_requests(
    requests: Sequence[Request],
    config: GenerationConfig,
    sizes: Sizes,
    *,
    processors: Sequence[LogitsProcessor] = (),
) -> list[Task]:
    """As ``check_request``, request by request."""
    return [check_request(request, config, sizes, processors=processors) for request in requests]
