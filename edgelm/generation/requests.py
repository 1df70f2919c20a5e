"""What a batch is asked to continue, and the checks that come before any of it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgelm.config import GenerationConfig
from edgelm.generation.batch import Ids as AnyIds
from edgelm.generation.default_processors import default_processors
from edgelm.generation.history import check_length, check_prompt
from edgelm.generation.logits_processors import Ids, LogitsProcessor, compose


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Request:
    """A prompt, (T,) token ids, at least one, and ``source``, what an encoder read; None: the prompt itself."""

    prompt: AnyIds
    source: AnyIds | None = None


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


def check_requests(
    requests: Sequence[Request],
    config: GenerationConfig,
    *,
    vocab_size: int,
    context_length: int,
    processors: Sequence[LogitsProcessor] = (),
) -> list[Task]:
    """What is to be done, request by request, by a decoder with logits and a context window of these sizes.

    Raises:
        ConfigError: a prompt has ``max_length``, or a token that is to be forced is none of the vocabulary.
        PromptError: a prompt is empty, or holds something that is no token.
        ContextLengthError: a prompt leaves no room for an answer.
    """
    tasks = []
    for request in requests:
        check_length(len(request.prompt), context_length)
        prompt = check_prompt(request.prompt, vocab_size)
        limit = prompt.size + min(config.new_tokens(prompt.size), context_length - prompt.size)
        built_in = default_processors(
            config,
            prompt_length=prompt.size,
            limit=limit,
            source=prompt if request.source is None else check_prompt(request.source, vocab_size),
            vocab_size=vocab_size,
        )
        tasks.append(Task(prompt=prompt, limit=limit, process=compose([*built_in, *processors])))
    return tasks
