"""What is asked to be continued, and the checks that come before any of it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from edgelm.config import GenerationConfig
from edgelm.generation.batch import Ids as AnyIds
from edgelm.generation.constraint import ConstraintProcessor
from edgelm.generation.default_processors import default_processors
from edgelm.generation.history import check_length, check_prompt
from edgelm.generation.logits_processors import Ids, LogitsProcessor, compose
from edgelm.generation.observer import Observer
from edgelm.generation.stopping import StoppingCriterion


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
        stopping_criteria: what ends the answer beside end tokens and the caller's criteria.
    """

    prompt: Ids
    limit: int
    process: LogitsProcessor
    stopping_criteria: tuple[StoppingCriterion, ...] = ()


def check_request(
    request: Request,
    config: GenerationConfig,
    sizes: Sizes,
    *,
    processors: Sequence[LogitsProcessor] = (),
    guidance: LogitsProcessor | None = None,
    observer: Observer | None = None,
) -> Task:
    """What is to be done for a request, by a decoder of these sizes.

    ``guidance`` comes before all ``processors``; ``observer`` is told what they do.

    Raises:
        ConfigError: the prompt has ``max_length``, a token that is to be forced is none of the vocabulary, or beams
            that are held to a form have no end token.
        PromptError: the prompt or the source is no list of tokens, or an empty one.
        ContextLengthError: the prompt leaves no room for an answer.
    """
    prompt = check_prompt(request.prompt, sizes.vocab_size)
    check_length(prompt.size, sizes.context_length)
    limit = min(prompt.size + config.new_tokens(prompt.size), sizes.context_length)
    own = [
        each.for_request(prompt.size, config, sizes.vocab_size) if isinstance(each, ConstraintProcessor) else each
        for each in processors
    ]
    criteria = tuple(each.is_complete for each in own if isinstance(each, ConstraintProcessor))
    if criteria:  # an answer that is not complete at its limit is cut there
        config = replace(config, forced_eos_token_id=())
    built_in = default_processors(
        config,
        prompt_length=prompt.size,
        limit=limit,
        source=prompt if request.source is None else check_prompt(request.source, sizes.vocab_size),
        vocab_size=sizes.vocab_size,
    )
    first = () if guidance is None else (guidance,)
    process = compose([*first, *built_in, *own], observer)
    return Task(prompt=prompt, limit=limit, process=process, stopping_criteria=criteria)


def check_requests(
    requests: Sequence[Request],
    config: GenerationConfig,
    sizes: Sizes,
    *,
    processors: Sequence[LogitsProcessor] = (),
) -> list[Task]:
    """As ``check_request``, request by request."""
    return [check_request(request, config, sizes, processors=processors) for request in requests]
