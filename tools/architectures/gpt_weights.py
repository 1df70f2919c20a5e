"""The weights of a GPT-family checkpoint as the graph wants them: fused, padded, and rotated if asked for.

Padding: see ``head_layout.py``. Rotation: see ``quantize/rotation.py``. LayerNorm allows it once the mean is taken out
of everything that is added to the residual stream: without a mean it is an RMS norm, whose weight and bias move into
the matrices behind it (SliceGPT, arXiv 2401.15024).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from edgelm_tools.architectures.decoder_layers import Floats, Linear, NormWeights
from edgelm_tools.architectures.decoder_weights import STREAM_SEED, DecoderWeights
from edgelm_tools.architectures.gpt_spec import GptSpec
from edgelm_tools.architectures.gpt_tensors import NAMES, PROJECT_IN, PROJECT_OUT, Names, check_tensors, root_of
from edgelm_tools.matrix import Matrix, read_tensor
from edgelm_tools.quantize.rotation import rotation_matrix

Sublayer = Literal["attention", "mlp"]
Arrange = Callable[[Floats], Floats]


@dataclass(frozen=True)
class GptWeights(DecoderWeights):
    """Reads the checkpoint's tensors, one at a time, as matrices and vectors of the graph.

    Raises:
        ModelError: a tensor is missing, or of another shape than the configuration says; names it.
        UnsupportedModelError: the checkpoint has a tensor that such a model does not; names it.
    """

    spec: GptSpec

    def __post_init__(self) -> None:
        check_tensors(self.checkpoint, self.spec, self._names, self._root)

    def embedding(self) -> Matrix:
        """(vocabulary, embedding size); normed already where the model norms it and the stream is rotated."""
        table = Matrix.of(self.checkpoint, self._outside(self._names.embedding))
        return table.mapped(self._entering) if self.rotated else table

    def embedding_norm(self) -> NormWeights | None:
        """The norm of the embeddings, where it is left to the graph."""
        return None if self.rotated or not self.spec.embedding_norm else self._norm(self._names.embedding_norm)

    def positions(self) -> Matrix:
        """(context length, hidden): what is added to the embeddings."""
        name, first = self._outside(self._names.positions), self._names.position_offset
        shape = (self.spec.context_length, self.spec.hidden_size)
        return Matrix.of(self.checkpoint, name, lambda rows: self._into_basis(rows[first:]), shape=shape)

    def project_in(self) -> Matrix:
        """(hidden, embedding size)."""
        return Matrix.of(self.checkpoint, self._outside(PROJECT_IN))

    def project_out(self) -> Matrix:
        """(embedding size, hidden)."""
        return Matrix.of(self.checkpoint, self._outside(PROJECT_OUT))

    def head(self) -> Linear:
        """(vocabulary, embedding size); a bias only where the final norm is folded in."""
        names, tied = self._names, self.spec.tied_embeddings
        table = Matrix.of(self.checkpoint, self._outside(names.embedding) if tied else f"{names.head}.weight")
        if not self.rotated:
            return table, None
        _, shift = self._norm(names.final_norm)
        bias = np.concatenate([rows @ shift for rows in table.float_parts()])
        return table.mapped(lambda rows: self._fold(rows, names.final_norm)), bias

    def qkv(self, i: int) -> Linear:
        """Queries, keys and values in one: (3 · heads · padded head size, hidden)."""
        parts = [self._heads(i, kind) for kind in range(3)]
        biases = [bias for _, bias in parts if bias is not None]
        return Matrix.stacked([matrix for matrix, _ in parts]), np.concatenate(biases) if biases else None

    def output(self, i: int) -> Linear:
        """The projection behind attention: (hidden, heads · padded head size)."""

        def arranged(columns: Floats) -> Floats:
            if self.rotated:
                columns = self._rotated_heads(columns, self.spec.heads)
            return self.layout.widen(columns, self.spec.heads)

        columns = self.spec.heads * self.layout.padded_size
        return self._writer(i, self._names.output, arranged, columns, biased=self.spec.attention_bias)

    def up(self, i: int) -> Linear:
        """(feed-forward size, hidden)."""
        size = self.spec.intermediate_size
        return self._reader(i, self._names.up, "mlp", _as_they_are, size, biased=self.spec.mlp_bias)

    def down(self, i: int) -> Linear:
        """(hidden, feed-forward size)."""
        size = self.spec.intermediate_size
        return self._writer(i, self._names.down, _as_they_are, size, biased=self.spec.mlp_bias)

    def norm_before(self, sublayer: Sublayer, i: int) -> NormWeights | None:
        """The norm that a sublayer's input has passed, if any: (hidden,) each."""
        if self.spec.residual != "post":
            return self._norm_in_graph(self._norm_name(i, sublayer))
        if sublayer == "mlp":
            return self._norm(self._norm_name(i, "attention"))
        return self._norm(self._norm_name(i - 1, "mlp")) if i else None

    def final_norm(self) -> NormWeights | None:
        """The norm before the output head, if any: (hidden,) each."""
        if self.spec.residual == "post":
            return self._norm(self._norm_name(self.spec.layers - 1, "mlp"))
        return self._norm_in_graph(self._names.final_norm) if self.spec.final_norm else None

    @cached_property
    def _names(self) -> Names:
        return NAMES[self.spec.model_type]

    @cached_property
    def _root(self) -> str:
        return root_of(self.checkpoint, self._names)

    @cached_property
    def _basis(self) -> Floats:
        """Takes the mean out of a row of the stream, and rotates it: (hidden, hidden)."""
        size = self.spec.hidden_size
        return ((np.eye(size) - 1 / size) @ rotation_matrix(size, STREAM_SEED)).astype(np.float32)

    def _heads(self, i: int, kind: int) -> Linear:
        """Queries, keys or values alone: 0, 1 or 2."""
        spec, names = self.spec, self._names
        shared = len(names.qkv) == 1

        def arranged(rows: Floats) -> Floats:
            if shared:
                order = (spec.heads, 3, spec.head_size) if names.interleaved else (3, spec.heads, spec.head_size)
                by_kind = rows.reshape(*order, -1)
                rows = (by_kind[:, kind] if names.interleaved else by_kind[kind]).reshape(spec.hidden_size, -1)
            if kind < 2:
                return self.layout.widen_rotary(rows, spec.heads)
            return self.layout.widen(self._rotated_heads(rows, spec.heads) if self.rotated else rows, spec.heads)

        name = names.qkv[0 if shared else kind]
        size = spec.heads * self.layout.padded_size
        return self._reader(i, name, "attention", arranged, size, biased=spec.attention_bias)

    def _reader(self, i: int, part: str, place: Sublayer, arranged: Arrange, rows: int, *, biased: bool) -> Linear:
        """A linear layer that reads the stream behind a norm; ``arranged`` puts its rows (outputs, …) in order."""
        name, norm = self._in_layer(i, part), self._norm_name(i, place)
        bias = read_tensor(self.checkpoint, f"{name}.bias") if biased else None

        def transform(weight: Floats) -> Floats:
            weight = arranged(self._upright(weight))
            return self._fold(weight, norm) if self.rotated else np.ascontiguousarray(weight)

        if self.rotated:
            shift = self._upright(read_tensor(self.checkpoint, f"{name}.weight")) @ self._norm(norm)[1]
            bias = shift if bias is None else bias + shift
        matrix = Matrix.of(self.checkpoint, f"{name}.weight", transform, shape=(rows, self.spec.hidden_size))
        return matrix, None if bias is None else arranged(bias[:, None])[:, 0]

    def _writer(self, i: int, part: str, arranged: Arrange, columns: int, *, biased: bool) -> Linear:
        """A linear layer that adds to the stream; ``arranged`` puts its columns (inputs, …) in order."""
        name = self._in_layer(i, part)

        def transform(weight: Floats) -> Floats:
            written = self._into_basis(self._upright(weight).T)
            return np.ascontiguousarray(arranged(written).T)

        bias = self._into_basis(read_tensor(self.checkpoint, f"{name}.bias")) if biased else None
        return Matrix.of(self.checkpoint, f"{name}.weight", transform, shape=(self.spec.hidden_size, columns)), bias

    def _upright(self, weight: Floats) -> Floats:
        return weight.T if self._names.transposed else weight

    def _into_basis(self, rows: Floats) -> Floats:
        """Rows of the stream (…, hidden), in the basis in which the graph has it."""
        return rows @ self._basis if self.rotated else rows

    def _entering(self, rows: Floats) -> Floats:
        """Rows of the embedding as they enter the stream."""
        if self.spec.embedding_norm:
            weight, bias = self._norm(self._names.embedding_norm)
            centred = rows - rows.mean(axis=1, keepdims=True)
            spread: Floats = np.square(centred).mean(axis=1, keepdims=True) + np.float32(self.spec.norm_epsilon)
            rows = np.asarray(centred / np.sqrt(spread) * weight + bias, np.float32)
        return self._into_basis(rows)

    def _fold(self, weight: Floats, norm: str) -> Floats:
        """A matrix that reads the normed stream, as it reads the rotated one."""
        scaled: Floats = weight * self._norm(norm)[0]
        return scaled @ self._basis

    def _norm_in_graph(self, name: str) -> NormWeights:
        return (np.ones(self.spec.hidden_size, np.float32), None) if self.rotated else self._norm(name)

    def _norm(self, name: str) -> tuple[Floats, Floats]:
        size = self.spec.hidden_size
        if not self.spec.norm_weights:
            return np.ones(size, np.float32), np.zeros(size, np.float32)
        weight, bias = (read_tensor(self.checkpoint, f"{self._root}{name}.{kind}") for kind in ("weight", "bias"))
        return weight, bias

    def _norm_name(self, i: int, sublayer: Sublayer) -> str:
        return f"{self._names.layer}.{i}.{self._names.norms[sublayer]}"

    def _in_layer(self, i: int, part: str) -> str:
        return f"{self._root}{self._names.layer}.{i}.{part}"

    def _outside(self, name: str) -> str:
        """The weight of a part that no layer has."""
        return f"{self._root}{name}.weight"


def _as_they_are(rows: Floats) -> Floats:
    return rows
