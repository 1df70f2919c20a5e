"""Who leads an answer away from a negative prompt: a second KV cache of the same model, on loan for that answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgelm.config import GenerationConfig
from edgelm.errors import ConfigError, ContextLengthError
from edgelm.generation.batch import Ids
from edgelm.generation.guidance import Guidance
from edgelm.generation.history import check_prompt
from edgelm.generation.requests import ModelSizes, Request
from edgelm.runtime.sequences import SequencePool


@dataclass(frozen=True, slots=True, eq=False)
class Guiding:
    """The guidance of one answer.

    Attributes:
        guidance: its logits processor.
        end: to be called once when the answer ends, with the prompt's tokens and its own, or None if it failed.
        cancel: ends the run in progress, from another thread; the answer has then failed.
    """

    guidance: Guidance
    end: Callable[[Ids | None], None]
    cancel: Callable[[], None]


def start_guiding(
    request: Request,
    config: GenerationConfig,
    sizes: ModelSizes,
    tokens: int,
    pool: SequencePool,
    negative: Sequence[int] | None,
) -> Guiding | None:
    """Begins the guidance that a configuration asks for; None: it asks for none.

    Args:
        request: what is answered.
        config: how.
        sizes: of the model.
        tokens: of prompt and answer together.
        pool: the model's decoders.
        negative: (T,) the negative prompt; None: the prompt's last token.

    Raises:
        ConfigError: the model answers a source; or there is a negative prompt and no scale.
        PromptError: the negative prompt is none; ContextLengthError: it leaves no room for the answer.
        MemoryLimitError: there is no room for its cache.
    """
    if config.guidance_scale == 1.0:
        if negative is not None:
            raise ConfigError("a negative_prompt has no weight at guidance_scale 1; give another scale, such as 1.5")
        return None
    if request.source is not None:
        raise ConfigError("guidance_scale is for decoder-only models, not for one that answers a source")
    away = check_prompt(request.prompt[-1:] if negative is None else negative, sizes.vocab_size)
    most = away.size + tokens - len(request.prompt)
    if most > sizes.context_length:
        raise ContextLengthError(
            f"the negative prompt has {away.size} tokens: with the answer's {most - away.size} they do not fit into "
            f"the context window of {sizes.context_length}; a shorter one does, or fewer tokens (max_new_tokens, -n)"
        )
    loan = pool.borrow(away, most)
    loan.decoder.reserve(most)

    def end(ids: Ids | None) -> None:
        pool.end(loan, None if ids is None else np.concatenate((away, ids[len(request.prompt) :])))

    return Guiding(Guidance(loan.decoder, config.guidance_scale, away[loan.cached :]), end, loan.decoder.cancel)
