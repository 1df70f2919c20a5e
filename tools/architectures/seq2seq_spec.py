"""What distinguishes one encoder-decoder from another, as one frozen record that the graph builders read.

The families make it of their configurations: ``t5_model.py`` and ``bart_model.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from edgelm_tools.architectures.decoder_layers import Activation

Role = Literal["encoder", "decoder"]
ROLES: tuple[Role, Role] = ("encoder", "decoder")


class AttentionNames(NamedTuple):
    """Tensors of an attention sublayer, without ``.weight`` and ``.bias``; ``norm`` is the sublayer's."""

    query: str
    key: str
    value: str
    output: str
    norm: str


class FeedForwardNames(NamedTuple):
    """Tensors of a feed-forward sublayer: those that read the stream (gate first, if there is one), and the last."""

    inner: tuple[str, ...]
    outer: str
    norm: str


class LayerNames(NamedTuple):
    """Tensors of one layer. ``cross_attention``: of decoders."""

    self_attention: AttentionNames
    cross_attention: AttentionNames | None
    feed_forward: FeedForwardNames

    @property
    def cross(self) -> AttentionNames:
        """``cross_attention`` of a decoder's layer.

        Raises:
            ValueError: the layer is an encoder's.
        """
        if self.cross_attention is None:
            raise ValueError("a layer of an encoder reads no source")
        return self.cross_attention


class StackNames(NamedTuple):
    """Tensors of the encoder or the decoder around its layers; None: the model has no such part."""

    embedding_norm: str | None = None
    final_norm: str | None = None
    positions: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """The encoder or the decoder.

    Attributes:
        scale: factor of the attention scores.
        layer: number of a layer → its tensors.
    """

    layers: int
    heads: int
    head_size: int
    intermediate_size: int
    scale: float
    names: StackNames
    layer: Callable[[int], LayerNames]


@dataclass(frozen=True, slots=True, kw_only=True)
class RelativeBias:
    """T5's bias of attention scores, by the distance of two tokens.

    Attributes:
        every_layer: whether each layer has its own; else all share that of the first.
        tensor: role and layer → its tensor (buckets, heads).
    """

    buckets: int
    max_distance: int
    every_layer: bool
    tensor: Callable[[Role, int], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Positions:
    """Vectors that are added to the embeddings, by position.

    Attributes:
        kind: ``learned``: the checkpoint has them; ``split``: sines, then cosines, of dimension pairs (Marian);
            ``tensor2tensor``: the same with its own frequencies (M2M100).
        first: row of the table that position 0 has.
        count: positions that there are.
    """

    kind: Literal["learned", "split", "tensor2tensor"]
    first: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Seq2SeqSpec:
    """An encoder-decoder.

    Attributes:
        residual: norms stand before each sublayer (``pre``), or after its sum with the stream (``post``).
        biased: whether the linear layers have biases.
        gated: whether the feed-forward layers multiply two projections.
        head_scale: factor of what the output head reads.
        embeddings: names that the table of tokens may have; the first that is there is taken.
        head: the output head's tensor, if it is not tied.
        logits_bias: tensor (1, vocabulary) that is added to the logits, if the checkpoint has it.
        others: further tensors of the model, and their shapes.
        unused: tensors that checkpoints may have and nothing reads.
        class_defaults: as in ``ModelFacts``.
    """

    model_type: str
    tasks: tuple[str, ...]
    hidden_size: int
    vocab_size: int
    encoder: Stack
    decoder: Stack
    context_length: int
    source_length: int | None
    decoder_start_token_id: int
    norm: Literal["rms", "layer"]
    norm_epsilon: float
    residual: Literal["pre", "post"]
    biased: bool
    activation: Activation
    gated: bool = False
    embedding_scale: float = 1.0
    head_scale: float = 1.0
    tied: bool
    positions: Positions | None = None
    relative_bias: RelativeBias | None = None
    embeddings: tuple[str, ...]
    head: str = "lm_head"
    logits_bias: str | None = None
    others: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    class_defaults: Mapping[str, Any]

    def stack(self, role: str) -> Stack:
        """The encoder or the decoder."""
        return self.encoder if role == "encoder" else self.decoder
