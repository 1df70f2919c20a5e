"""What distinguishes the members of the LLaMA family, read from a Hugging Face configuration into one frozen record.

The graph builder sees only this record; what each member makes of its configuration stands in ``llama_members.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edgelm.errors import UnsupportedModelError
from edgelm_tools.architectures.config_fields import ConfigFields
from edgelm_tools.architectures.llama_members import MEMBERS, common_settings, plain_rope
from edgelm_tools.architectures.rope import Rope


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderSpec:
    """A decoder of the LLaMA family.

    Attributes:
        residual: where the norms stand: ``pre`` (before each sublayer), ``post`` (after it, inside the residual
            branch), ``sandwich`` (both), ``parallel`` (attention and MLP share one norm and are added together).
        norm_offset: added to every norm's weight (Gemma keeps weight − 1).
        qk_norm: RMS norm of queries and keys: of each head, of the whole projection, or none.
        windows: per layer the number of tokens it attends to, the token itself included; None: all.
        ropes: per layer its rotary embedding; None: no positions in that layer.
        biased: names of the projections that may have a bias (``q_proj``, ``down_proj``, …).
    """

    model_type: str
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    vocab_size: int
    context_length: int
    norm_epsilon: float
    activation: Literal["silu", "gelu", "gelu_tanh"]
    tied_embeddings: bool
    ropes: tuple[Rope | None, ...]
    windows: tuple[int | None, ...]
    biased: frozenset[str] = frozenset()
    norm: Literal["rms", "layer"] = "rms"
    norm_offset: float = 0.0
    residual: Literal["pre", "post", "sandwich", "parallel"] = "pre"
    qk_norm: Literal["head", "projection"] | None = None
    attention_scale: float
    attention_softcap: float = 0.0
    logit_softcap: float = 0.0
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0


def decoder_spec(config: Mapping[str, Any]) -> DecoderSpec:
    """The record of a checkpoint's configuration; of a Gemma 3 with vision, that of its text part.

    Raises:
        UnsupportedModelError: the model type or one of its settings is not of this family, or a setting is missing;
            names it.
        ModelError: a setting is of the wrong type or out of range.
    """
    model_type = config.get("model_type")
    if model_type == "gemma3":
        text = ConfigFields(config, what="config.json").object("text_config")
        return decoder_spec({**text, "model_type": "gemma3_text"})
    if not isinstance(model_type, str) or model_type not in MEMBERS:
        raise UnsupportedModelError(
            f"model type {model_type!r:.80} is not built natively; of this family are: {', '.join(MEMBERS)}"
        )
    member = MEMBERS[model_type]
    fields = ConfigFields(config, member.defaults, what="config.json")
    settings = common_settings(fields, member) | member.settings(fields)
    if "ropes" not in settings:
        settings["ropes"] = (plain_rope(fields),) * settings["layers"]
    limits = [rope.context_length for rope in settings["ropes"] if rope and rope.context_length]
    settings["context_length"] = min([settings["context_length"], *limits])
    return DecoderSpec(model_type=model_type, **settings)
