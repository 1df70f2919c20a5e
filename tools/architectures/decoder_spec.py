"""What every decoder-only family says of a model in one frozen record, and how its configuration is read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from edgelm.bundle.manifest import MAX_HEAD_SIZE
from edgelm.errors import UnsupportedModelError
from edgelm_tools.architectures.config_fields import ConfigFields
from edgelm_tools.architectures.decoder_layers import Activation

Settings = dict[str, Any]
MemberT = TypeVar("MemberT")


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderSpec(ABC):
    """A decoder, as far as all families have it.

    Attributes:
        embedding_size: width of the token embeddings.
        special_tokens: see the function of that name.
        gated: whether MLPs multiply two projections.
    """

    model_type: str
    hidden_size: int
    embedding_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    vocab_size: int
    context_length: int
    norm_epsilon: float
    activation: Activation
    tied_embeddings: bool
    special_tokens: Mapping[str, Any]
    gated: ClassVar[bool]

    @property
    @abstractmethod
    def attention(self) -> str:
        """What attention holds at a time: one of ``ATTENTION_KINDS`` of the manifest."""

    @property
    @abstractmethod
    def rotated_pairs(self) -> int:
        """How many pairs of values of a head rotary positions rotate at most."""

    @property
    @abstractmethod
    def can_rotate(self) -> bool:
        """Whether the residual stream may be rotated (``quantize/rotation.py``)."""


def member_named(config: Mapping[str, Any], members: Mapping[str, MemberT]) -> tuple[str, MemberT]:
    """The model type of a configuration, and its member of a family.

    Raises:
        UnsupportedModelError: it is not of this family; names it.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in members:
        raise UnsupportedModelError(
            f"model type {model_type!r:.80} is not built natively; of this family are: {', '.join(members)}"
        )
    return model_type, members[model_type]


def divided_head_size(c: ConfigFields, name: str, hidden: int, heads: int) -> int:
    """The size of heads that share the hidden values among them; ``name``: the field of ``hidden``.

    Raises:
        ModelError: they cannot.
    """
    if hidden % heads or hidden // heads > MAX_HEAD_SIZE:
        raise c.fault(name, f"of {hidden} makes no {heads} heads of 1 to {MAX_HEAD_SIZE} values each")
    return hidden // heads


def special_tokens(config: Mapping[str, Any], defaults: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    """The fields about special tokens of a configuration; ``defaults``: of its class.

    Those are the tokens of its published models, which a model with a smaller vocabulary does not have.
    """
    usual = {name: value for name, value in defaults.items() if name.endswith("_token_id") and value < vocab_size}
    given = {name: value for name, value in config.items() if name.endswith("_token_id")}
    return {name: value for name, value in {**usual, **given}.items() if value is not None}
