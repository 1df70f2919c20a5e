"""What distinguishes the members of the GPT family, read from a Hugging Face configuration into one frozen record.

The family: decoders with LayerNorm and an MLP without a gate. What each member makes of its configuration stands in
``gpt_members.py``, what its tensors are called in ``gpt_tensors.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edgelm.errors import UnsupportedModelError
from edgelm_tools.architectures.config_fields import ConfigFields
from edgelm_tools.architectures.decoder_layers import Activation
from edgelm_tools.architectures.gpt_members import MEMBERS, common_settings
from edgelm_tools.architectures.rope import Rope


@dataclass(frozen=True, slots=True, kw_only=True)
class GptSpec:
    """A decoder of the GPT family.

    Attributes:
        embedding_size: width of the token embeddings; where it is not the hidden size, projections lie between.
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

    model_type: str
    hidden_size: int
    embedding_size: int
    intermediate_size: int
    layers: int
    heads: int
    head_size: int
    vocab_size: int
    context_length: int
    norm_epsilon: float
    activation: Activation
    tied_embeddings: bool
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
        """Whether token embeddings have another width than the stream."""
        return self.embedding_size != self.hidden_size


def gpt_spec(config: Mapping[str, Any]) -> GptSpec:
    """The record of a checkpoint's configuration.

    Raises:
        UnsupportedModelError: the model type or one of its settings is not of this family, or a setting is missing;
            names it.
        ModelError: a setting is of the wrong type or out of range.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in MEMBERS:
        raise UnsupportedModelError(
            f"model type {model_type!r:.80} is not built natively; of this family are: {', '.join(MEMBERS)}"
        )
    member = MEMBERS[model_type]
    fields = ConfigFields(config, member.defaults, what="config.json")
    common = common_settings(fields, member)
    return GptSpec(model_type=model_type, **(common | member.settings(fields, common)))
