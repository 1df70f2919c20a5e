"""What is asked of a loaded model: requests as its family takes them, and how much room they need."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgelm.bundle.manifest import Manifest
from edgelm.config import GenerationConfig
from edgelm.errors import ConfigError, ContextLengthError
from edgelm.generation.history import check_prompt
from edgelm.generation.hooks import Hooks
from edgelm.generation.requests import Request
from edgelm.runtime.memory import Needs


def make_request(manifest: Manifest, ids: Sequence[int] | NDArray[np.int64], config: GenerationConfig) -> Request:
    """A prompt; or of an encoder-decoder a source, and the token that begins its answer.

    Raises:
        PromptError: ``ids`` are no list of tokens; ContextLengthError: the encoder takes fewer.
        ConfigError: ``decoder_start_token_id`` is no token.
    """
    checked = check_prompt(ids, manifest.vocab_size)
    if manifest.family != "encoder-decoder":
        return Request(prompt=checked)
    if manifest.source_length is not None and checked.size > manifest.source_length:
        raise ContextLengthError(
            f"the source has {checked.size} tokens, but the encoder takes {manifest.source_length}"
        )
    start = config.decoder_start_token_id
    if start is None:
        start = manifest.decoder_start_token_id
    if start is None or start >= manifest.vocab_size:
        raise ConfigError(f"decoder_start_token_id must be from 0 to {manifest.vocab_size - 1}, not {start}")
    return Request(prompt=np.array([start], np.int64), source=checked)


def row_tokens(request: Request, config: GenerationConfig, context_length: int) -> int:
    """Tokens that a row may come to have."""
    length = len(request.prompt)
    return min(length + config.new_tokens(length), context_length)


def rows_each(config: GenerationConfig) -> int:
    """Rows that a request takes."""
    return config.num_beams if config.num_beams > 1 else config.num_return_sequences


def needs_of(requests: list[Request], config: GenerationConfig, context_length: int) -> Needs:
    """What rows for all of them, run together, come to hold."""
    each = rows_each(config)
    rows = [row_tokens(request, config, context_length) for request in requests]
    longest = max((len(request.source) for request in requests if request.source is not None), default=0)
    padded = sum(request.source is not None for request in requests) * longest
    return Needs(
        tokens=each * sum(rows),
        sequences=1,
        rows=each * len(rows),
        longest=max(rows),
        cross_tokens=each * padded,
        source_tokens=padded,
        longest_source=longest,
    )


def check_hooks(hooks: Hooks, config: GenerationConfig) -> None:
    """Refuses functions that beams have no use for."""
    if hooks.stopping_criteria and config.num_beams > 1:
        raise ConfigError(
            f"stopping_criteria are for answers made token by token, not for num_beams={config.num_beams}"
        )
    if hooks.observer is not None and config.num_beams > 1:
        raise ConfigError(f"explained are answers made token by token, not those of num_beams={config.num_beams}")
