"""What distinguishes the members of the LLaMA family, read from a Hugging Face configuration into one frozen record.

The graph builder sees only this record; what each member makes of its configuration stands in ``llama_members.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from edgelm_tools.architectures.config_fields import ConfigFields
from edgelm_tools.architectures.decoder_spec import DecoderSpec, member_named, special_tokens
from edgelm_tools.architectures.llama_members import MEMBERS, common_settings, plain_rope
from edgelm_tools.architectures.rope import Rope


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaSpec(DecoderSpec):
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

    gated: ClassVar[bool] = True
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

    @property
    def attention(self) -> str:
        """See ``DecoderSpec``."""
        return "scores" if self.attention_softcap else "blocks"

    @property
    def rotated_pairs(self) -> int:
        """All layers share the layout of heads, also those without positions."""
        return max((len(rope.frequencies) for rope in self.ropes if rope), default=0)

    @property
    def can_rotate(self) -> bool:
        """Only RMS norms that stand before the sublayers allow it."""
        return self.norm == "rms" and self.residual in ("pre", "parallel")


def llama_spec(config: Mapping[str, Any]) -> LlamaSpec:
    """The record of a checkpoint's configuration; of a Gemma 3 with vision, that of its text part.

    Raises:
        UnsupportedModelError: the model type or one of its settings is not of this family, or a setting is missing;
            names it.
        ModelError: a setting is of the wrong type or out of range.
    """
    if config.get("model_type") == "gemma3":
        config = {**ConfigFields(config, what="config.json").object("text_config"), "model_type": "gemma3_text"}
    model_type, member = member_named(config, MEMBERS)
    fields = ConfigFields(config, member.defaults, what="config.json")
    settings = common_settings(fields, member) | member.settings(fields)
    if "ropes" not in settings:
        settings["ropes"] = (plain_rope(fields),) * settings["layers"]
    limits = [rope.context_length for rope in settings["ropes"] if rope and rope.context_length]
    settings["context_length"] = min([settings["context_length"], *limits])
    tokens = special_tokens(config, member.defaults, settings["vocab_size"])
    return LlamaSpec(model_type=model_type, special_tokens=tokens, **settings)
