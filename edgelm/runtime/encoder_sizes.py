"""What a run of an encoder takes memory for, as its checkpoint's configuration tells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgelm.bundle.bundle import Bundle
from edgelm.runtime.memory import EncoderSizes

CONFIG_NAME = "config.json"
# What different architectures call it.
_HIDDEN_FIELDS = ("hidden_size", "d_model", "dim", "n_embd")
_HEADS_FIELDS = ("num_attention_heads", "encoder_attention_heads", "n_heads", "n_head", "num_heads")
_USUAL_HEAD_SIZE = 32
_MOST = 1 << 20


def encoder_sizes(bundle: Bundle, *, output_bytes: int) -> EncoderSizes:
    """The sizes in ``config.json``; where it does not tell, rather too large ones.

    ``output_bytes``: of all outputs, for each token.

    Raises:
        ModelError: ``config.json`` is not strict JSON.
    """
    config: Any = bundle.read_json(CONFIG_NAME) if bundle.has(CONFIG_NAME) else {}
    hidden, heads = _number(config, _HIDDEN_FIELDS), _number(config, _HEADS_FIELDS)
    if hidden is None:  # no embedding is wider than all weights together make it, of one byte each
        hidden = max(1, bundle.graphs["encoder"].weight_bytes // bundle.manifest.vocab_size)
    return EncoderSizes(hidden, heads or max(1, hidden // _USUAL_HEAD_SIZE), output_bytes)


def _number(config: Any, names: Sequence[str]) -> int | None:
    values = [config.get(name) for name in names] if isinstance(config, dict) else []
    return next((value for value in values if isinstance(value, int) and 0 < value < _MOST), None)
