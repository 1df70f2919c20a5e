"""What distinguishes the members of the GPT family, read from a Hugging Face configuration into one frozen record.

The family: decoders with LayerNorm and an MLP without a gate. What each member makes of its configuration stands in
``gpt_members.py``, what its tensors are called in ``gpt_tensors.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from edgelm_tools.architectures.config_fields import ConfigFields
from edgelm_tools.architectures.decoder_spec import DecoderSpec, member_named, special_tokens
from edgelm_tools.architectures.gpt_members import MEMBERS, common_settings
from edgelm_tools.architectures.rope import Rope


@dataclass(frozen=True, slots=True, kw_only=True)
class GptSpec(DecoderSpec):
    """A decoder of the GPT family.

    Attributes:
        residual: what the sublayers read and add to: ``pre`` (they read the normed stream), ``parallel`` (the same,
            attention and MLP side by side, each with a norm of its own), ``post`` (the stream itself is normed after
            each addition), ``normed`` (the stream is normed before each sublayer, and the norm goes on as the stream).
        embedding_norm: whether the embeddings are normed.
        final_norm: whether the stream is normed before the output head.
        norm_weights: whether norms have weights and biases.
        attention_scales: per layer the factor on the scores.
        positions: vectors looked up by position, rotated queries and keys, or a bias on the scores.
        rope: the rotary embedding of ``rotary`` positions.
    """

    gated: ClassVar[bool] = False
    residual: Literal["pre", "parallel", "post", "normed"] = "pre"
    embedding_norm: bool = False
    final_norm: bool = True
    norm_weights: bool = True
    attention_bias: bool = True
    mlp_bias: bool = True
    attention_scales: tuple[float, ...]
    positions: Literal["learned", "rotary", "alibi"]
    rope: Rope | None = None

    @property
    def projects_embeddings(self) -> bool:
        """Whether token embeddings have another width than the stream; projections then lie between."""
        return self.embedding_size != self.hidden_size

    @property
    def attention(self) -> str:
        """See ``DecoderSpec``."""
        return "biased scores" if self.positions == "alibi" else "blocks"

    @property
    def rotated_pairs(self) -> int:
        """See ``DecoderSpec``."""
        return len(self.rope.frequencies) if self.rope else 0

    @property
    def can_rotate(self) -> bool:
        """What reads the stream must be norms, and be all that reads it."""
        return self.residual in ("pre", "parallel") and self.final_norm and not self.projects_embeddings


def gpt_spec(config: Mapping[str, Any]) -> GptSpec:
    """The record of a checkpoint's configuration.

    Raises:
        UnsupportedModelError: the model type or one of its settings is not of this family, or a setting is missing;
            names it.
        ModelError: a setting is of the wrong type or out of range.
    """
    model_type, member = member_named(config, MEMBERS)
    fields = ConfigFields(config, member.defaults, what="config.json")
    common = common_settings(fields, member)
    tokens = special_tokens(config, member.defaults, common["vocab_size"])
    return GptSpec(model_type=model_type, special_tokens=tokens, **(common | member.settings(fields, common)))
