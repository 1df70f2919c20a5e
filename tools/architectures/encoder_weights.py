"""The tensors of an encoder checkpoint under the names that its bare model has, and the matrices made of them.

A tensor that the graph would not read is an error, unless it belongs to a head that this model is not used with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import ModelError, UnsupportedModelError
from edgelm_tools.architectures.encoder_spec import EncoderSpec
from edgelm_tools.checkpoint.base import Checkpoint
from edgelm_tools.matrix import Matrix, read_tensor

WORDS = "embeddings.word_embeddings"
POSITIONS = "embeddings.position_embeddings"
TYPES = "embeddings.token_type_embeddings"
EMBEDDING_NORM = "embeddings.LayerNorm"
RELATIVE = "encoder.relative_attention_bias"
DISTANCES, DISTANCE_NORM = "encoder.rel_embeddings", "encoder.LayerNorm"
CONVOLUTION, CONVOLUTION_NORM = "encoder.conv.conv", "encoder.conv.LayerNorm"
TOKEN_CLASSIFIER, SPANS = "classifier", "qa_outputs"
# MPNet's relative positions: transformers has it in code.
_MOST_DISTANCE = 128

# Heads that checkpoints carry beside the one they are used with, and buffers of old versions.
_LEFT_OUT = (
    "classifier.",
    "cls.",
    "discriminator_predictions.",
    "generator_lm_head.",
    "generator_predictions.",
    "lm_head.",
    "lm_predictions.",
    "mask_predictions.",
    "pooler.",
    "pre_classifier.",
    "predictions.",
    "qa_outputs.",
    "sop_classifier.",
    "vocab_layer_norm.",
    "vocab_projector.",
    "vocab_transform.",
)
_BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")
_OLD_NAMES = {"gamma": "weight", "beta": "bias"}

Shape = tuple[int, ...]
Vector = NDArray[np.float32]


class EncoderWeights:
    """What the graph builder reads.

    Raises:
        ModelError: a tensor is missing or of another shape; names it.
        UnsupportedModelError: a tensor has no place in such a model; names it.
    """

    def __init__(self, checkpoint: Checkpoint, spec: EncoderSpec) -> None:
        self.spec = spec
        self._checkpoint = checkpoint
        self._stored = {_own_name(name, spec.member.prefix): name for name in checkpoint.names()}
        other = f"{spec.member.masked.decoder}.bias"
        if spec.task == "masked" and other in self._stored:
            # The same tensor under another name.
            self._stored[spec.member.masked.bias] = self._stored[other]
        self._check()

    def parameters(self) -> int:
        """How many values the model has; shared ones count once."""
        return sum(math.prod(shape) for _, shape in needed_tensors(self.spec))

    def matrix(self, *names: str) -> Matrix:
        """The weight of a linear layer, or of several with the same input, one below the other."""
        parts = [Matrix.of(self._checkpoint, self._stored[f"{name}.weight"]) for name in names]
        return parts[0] if len(parts) == 1 else Matrix.stacked(parts)

    def rows(self, name: str, rows: NDArray[np.int64]) -> Matrix:
        """Some of the outputs of a linear layer."""
        stored = self._stored[f"{name}.weight"]
        shape = len(rows), self._checkpoint.shape(stored)[1]
        return Matrix.of(self._checkpoint, stored, lambda weight: weight[rows], shape=shape)

    def columns(self, name: str, columns: NDArray[np.int64]) -> Matrix:
        """A linear layer that sees some of its inputs only."""
        stored = self._stored[f"{name}.weight"]
        shape = self._checkpoint.shape(stored)[0], len(columns)
        return Matrix.of(self._checkpoint, stored, lambda weight: weight[:, columns], shape=shape)

    def bias(self, *names: str) -> Vector:
        """The biases of the same."""
        return np.concatenate([self._read(f"{name}.bias") for name in names])

    def norm(self, name: str) -> tuple[Vector, Vector]:
        """Weight and bias of a layer norm."""
        return self._read(f"{name}.weight"), self._read(f"{name}.bias")

    def vocabulary_bias(self) -> Vector:
        """Of the head that predicts tokens."""
        return self._read(self.spec.member.masked.bias)

    def positions(self) -> Vector:
        """The rows that tokens can have: (context, width)."""
        return self._read(f"{POSITIONS}.weight")[self.spec.first_position :]

    def types(self) -> Vector:
        """(token types, width)."""
        return self._read(f"{TYPES}.weight")

    def relative_bias(self) -> Vector:
        """What a key's distance adds to its score: (1, heads, 2 · context − 1), the middle being the token itself."""
        distances = np.arange(1 - self.spec.context_length, self.spec.context_length)
        return self._read(f"{RELATIVE}.weight")[_buckets(distances)].T[None]

    def distances(self, path: str, term: str) -> Matrix:
        """What a layer's queries (c2p) or keys (p2c) meet for each row of the table of distances, scaled as scores."""
        settings, names = self.spec.disentangled, self.spec.member.layer
        if settings is None:
            raise ValueError("the model's scores know no distances")
        shared, own = {"c2p": (names.key, names.position_key), "p2c": (names.query, names.position_query)}[term]
        projection = f"{path}.{shared if settings.shared else own}"

        def read() -> Iterator[Vector]:
            table = self._read(f"{DISTANCES}.weight")
            if settings.normed:
                table = _normed(table, *self.norm(DISTANCE_NORM), self.spec.norm_epsilon)
            weight = self._read(f"{projection}.weight") * np.float32(self.spec.score_scale)
            yield table @ weight.T + self.bias(projection) * np.float32(self.spec.score_scale)

        return Matrix(2 * settings.half, self.spec.hidden_size, read)

    def convolution(self) -> Matrix:
        """The convolution as a linear layer over a token and its neighbours, from left to right."""
        stored, hidden = self._stored[f"{CONVOLUTION}.weight"], self.spec.hidden_size
        columns = math.prod(self._checkpoint.shape(stored)[1:])

        def flat(weight: Vector) -> Vector:
            return weight.transpose(0, 2, 1).reshape(hidden, columns)

        return Matrix.of(self._checkpoint, stored, flat, shape=(hidden, columns))

    def _read(self, name: str) -> Vector:
        return read_tensor(self._checkpoint, self._stored[name])

    def _check(self) -> None:
        needed = dict(needed_tensors(self.spec))
        for name, shape in needed.items():
            if name not in self._stored:
                raise ModelError(f"the checkpoint has no tensor {name!r}")
            found = self._checkpoint.shape(self._stored[name])
            if found != shape:
                raise ModelError(f"tensor {self._stored[name]!r} has shape {found}; by config.json it is {shape}")
        for name in sorted(self._stored.keys() - needed.keys()):
            if not name.startswith((*_LEFT_OUT, *self.spec.member.spare)) and name not in _BUFFERS:
                raise UnsupportedModelError(
                    f"tensor {self._stored[name]!r:.120} is not one that this {self.spec.model_type} has"
                )


def needed_tensors(spec: EncoderSpec) -> Iterator[tuple[str, Shape]]:
    """Name and shape of each tensor of the model, by the names of the bare model; shared ones once."""
    width = spec.embedding_size
    yield f"{WORDS}.weight", (spec.vocab_size, width)
    if spec.position_table:
        yield f"{POSITIONS}.weight", (spec.positions, width)
    if spec.token_types:
        yield f"{TYPES}.weight", (spec.token_types, width)
    yield from _norm(EMBEDDING_NORM, width)
    if spec.projects:
        yield from _linear(spec.projects, spec.hidden_size, width)
    if spec.relative_buckets:
        yield f"{RELATIVE}.weight", (spec.relative_buckets, spec.heads)
    if spec.disentangled:
        yield f"{DISTANCES}.weight", (2 * spec.disentangled.half, spec.hidden_size)
        if spec.disentangled.normed:
            yield from _norm(DISTANCE_NORM, spec.hidden_size)
    if spec.convolution:
        yield f"{CONVOLUTION}.weight", (spec.hidden_size, spec.hidden_size, spec.convolution.size)
        yield f"{CONVOLUTION}.bias", (spec.hidden_size,)
        yield from _norm(CONVOLUTION_NORM, spec.hidden_size)
    for path in dict.fromkeys(spec.layer_paths):
        yield from _layer(spec, path)
    yield from _head(spec)


def _layer(spec: EncoderSpec, path: str) -> Iterator[tuple[str, Shape]]:
    names, hidden, inner = spec.member.layer, spec.hidden_size, spec.intermediate_size
    for name in (names.query, names.key, names.value, names.output, *_position_layers(spec)):
        yield from _linear(f"{path}.{name}", hidden, hidden)
    yield from _linear(f"{path}.{names.up}", inner, hidden)
    yield from _linear(f"{path}.{names.down}", hidden, inner)
    for name in (names.attention_norm, names.norm):
        yield from _norm(f"{path}.{name}", hidden)


def _position_layers(spec: EncoderSpec) -> list[str]:
    """The projections of positions in a layer that are its own."""
    if spec.disentangled is None or spec.disentangled.shared:
        return []
    names = {"c2p": spec.member.layer.position_key, "p2c": spec.member.layer.position_query}
    return [names[term] for term in spec.disentangled.terms]


def _head(spec: EncoderSpec) -> Iterator[tuple[str, Shape]]:
    hidden, labels = spec.hidden_size, len(spec.head.labels) if spec.head else 0
    if spec.task == "sequence":
        yield from _linear(spec.member.sequence.dense, hidden, hidden)
        yield from _linear(spec.member.sequence.classifier, labels, hidden)
    elif spec.task == "token":
        yield from _linear(TOKEN_CLASSIFIER, labels, hidden)
    elif spec.task == "question":
        yield from _linear(SPANS, 2, hidden)
    elif spec.task == "masked":
        names = spec.member.masked
        yield from _linear(names.dense, spec.embedding_size, hidden)
        yield from _norm(names.norm, spec.embedding_size)
        if not spec.tied:
            yield f"{names.decoder}.weight", (spec.vocab_size, spec.embedding_size)
        yield names.bias, (spec.vocab_size,)


def _own_name(stored: str, prefix: str) -> str:
    """What a tensor is called in the bare model, by the newer of two conventions for norms."""
    name, _, kind = stored.removeprefix(f"{prefix}.").rpartition(".")
    return f"{name}.{_OLD_NAMES.get(kind, kind)}" if name.endswith("LayerNorm") else f"{name}.{kind}"


def _linear(name: str, rows: int, columns: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (rows, columns)
    yield f"{name}.bias", (rows,)


def _norm(name: str, size: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (size,)
    yield f"{name}.bias", (size,)


def _normed(rows: Vector, weight: Vector, bias: Vector, epsilon: float) -> Vector:
    centred = rows - rows.mean(axis=1, keepdims=True)
    variance = np.square(centred).mean(axis=1, keepdims=True)
    normed: Vector = centred / np.sqrt(variance + np.float32(epsilon)) * weight + bias
    return normed


def _buckets(distances: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of MPNet's table for distances from a token to its keys: 8 near ones each way, 8 that grow with distance."""
    half, near = 16, 8
    far = np.abs(distances)
    with np.errstate(divide="ignore"):
        logs = np.log(far.astype(np.float32) / near) / np.float32(math.log(_MOST_DISTANCE / near)) * (half - near)
    large = np.minimum(near + np.where(far < near, 0, logs).astype(np.int64), half - 1)
    rows: NDArray[np.int64] = np.where(far < near, far, large) + half * (distances > 0)
    return rows
