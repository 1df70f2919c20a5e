"""The parts of a manifest: what a model's graphs need, and what their outputs mean."""

from __future__ import annotations

from dataclasses import dataclass

KV_DTYPE_BYTES = {"float32": 4, "float16": 2, "int8": 1}
POOLING_MODES = ("mean", "cls", "last", "max")
# As in transformers' configurations: how many of the labels hold at a time, or one number in place of labels.
PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")

# How many values attention holds of each pair of tokens and head at a time: those of a few tokens, all scores, all
# scores and a bias beside them, or all scores and a bias for each row that is made of products with all distances.
ATTENTION_KINDS = ("blocks", "scores", "biased scores", "disentangled scores")
TOKENIZER_KINDS = ("BPE", "Unigram", "WordPiece", "WordLevel")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """Size in bytes and SHA-256 (hex) of one file of the bundle."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class KVGeometry:
    """The key/value cache that the decoder graph works on: per layer two (B, kv_heads, T, head_size) tensors.

    ``scales``: the file by which it can be kept in int8 instead, see ``runtime/int8_cache.py``; None in older bundles.
    """

    layers: int
    kv_heads: int
    head_size: int
    dtype: str = "float32"
    scales: str | None = None

    def bytes_per_token(self, dtype: str | None = None) -> int:
        """Bytes that one token takes in the whole cache; ``dtype``: of a cache that is kept otherwise."""
        return 2 * self.layers * self.kv_heads * self.head_size * KV_DTYPE_BYTES[dtype or self.dtype]

    def scales_bytes(self) -> int:
        """Size of the file of scales: one float32 for each channel of keys and values."""
        return 4 * 2 * self.layers * self.kv_heads * self.head_size


@dataclass(frozen=True, slots=True)
class EmbeddingFile:
    """A table of int8 rows beside the graph, for a decoder that takes vectors; see ``runtime/embedding.py``.

    ``block_size``: how many neighbouring columns share a scale; None: all of a row.
    """

    file: str
    rows: int
    columns: int
    block_size: int | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Where the weights came from, as pinned when they were fetched; ``adapter``: what was merged into them."""

    uri: str
    license: str = "unknown"
    revision: str | None = None
    sha256: str | None = None
    adapter: str | None = None


@dataclass(frozen=True, slots=True)
class RecurrentState:
    """What a recurrent decoder carries from step to step in place of a cache: ``layers`` tensors (B, size) float32."""

    layers: int
    size: int


@dataclass(frozen=True, slots=True)
class Head:
    """What the logits of an encoder's head mean.

    ``labels``: the classes, in the order of the logits; ``problem_type``: one of ``PROBLEM_TYPES``.
    """

    labels: tuple[str, ...]
    problem_type: str = "single_label_classification"


@dataclass(frozen=True, slots=True)
class Pooling:
    """How one vector is made of a text's hidden states: one of ``POOLING_MODES``, and then to unit length or not."""

    mode: str
    normalize: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What a model takes memory for, as far as nothing else in a manifest tells; see ``runtime/footprint.py``.

    Attributes:
        hidden_size: width of the residual stream.
        intermediate_size: width of the feed-forward layers; of an encoder-decoder, the larger of both halves', here
            and below.
        gated: whether those multiply two projections.
        heads, head_size: of the queries.
        attention: one of ``ATTENTION_KINDS``.
        tied: whether a table of embeddings inside the graph is the output head's matrix, too.
        tokenizer: one of ``TOKENIZER_KINDS``; None: not known.
    """

    hidden_size: int
    intermediate_size: int
    heads: int
    head_size: int
    attention: str
    gated: bool = False
    tied: bool = False
    tokenizer: str | None = None
