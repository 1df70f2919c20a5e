"""What ``generation_config.json`` of a bundle says, where the checkpoint has no such file.

transformers then takes the settings from ``config.json`` (and, what that leaves out, from the defaults of the model
type's class), as all checkpoints had them before the file existed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FIELDS = (
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "decoder_start_token_id",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beams",
    "num_return_sequences",
    "pad_token_id",
    "repetition_penalty",
    "suppress_tokens",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
)


def generation_settings(
    given: Mapping[str, Any], config: Mapping[str, Any], class_defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings of a checkpoint, by transformers' names.

    Args:
        given: its ``generation_config.json``; empty where it has none.
        config: its ``config.json``.
        class_defaults: of transformers' configuration class, for fields that ``config`` leaves out.
    """
    if given:
        return dict(given)
    values = {**class_defaults, **config}
    return {name: values[name] for name in FIELDS if _is_set(name, values.get(name))}


def _is_set(name: str, value: Any) -> bool:
    # Old configurations have −1 where there is no such token.
    return value is not None and not (name.endswith("_token_id") and isinstance(value, int) and value < 0)
