"""The built-in processors of a configuration, for a prompt of a decoder-only model."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgelm.config import GenerationConfig
from edgelm.generation.default_processors import default_processors
from edgelm.generation.logits_processors import LogitsProcessor


def built_in(config: GenerationConfig, *, prompt: Any = (3, 4), vocab_size: int = 50) -> list[LogitsProcessor]:
    return default_processors(
        config,
        prompt_length=len(prompt),
        limit=len(prompt) + config.new_tokens(len(prompt)),
        source=np.asarray(prompt, np.int64),
        vocab_size=vocab_size,
    )
