"""A model's sizes before it is here, or before it is converted, and the manifest that its bundle is going to have.

The memory budget takes a manifest alone: with an expected one it is known before anything is fetched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from edgelm.bundle.manifest import FAMILY_ROLES, Manifest, Source
from edgelm.bundle.manifest_parts import (
    ATTENTION_KINDS,
    TOKENIZER_KINDS,
    EmbeddingFile,
    FileEntry,
    Footprint,
    KVGeometry,
    RecurrentState,
)
from edgelm.errors import ConfigError

EMBEDDING_NAME = "embedding.int8"
KV_SCALES_NAME = "kv_scales.f32"
# Bytes of a weight in a layer and in a table, scales and padding included, measured on converted models.
_LAYER_BYTES = {
    "rows": 1.015,
    "smoothed": 1.12,
    "carried": 1.06,
    "int8-block": 1.13,
    "int4": 0.63,
    "dynamic-int8": 1.01,
}
_TABLE_BYTES = {"rows": 1.0, "carried": 1.06}
_USUAL_TABLE_BYTES = 1.125
_FLOAT_BYTES = 4
# Columns of a table in a file of its own that share a scale; None: all.
_TABLE_BLOCKS = {"rows": None, "int8-block": 32, "int4": 32}
# Bytes of a graph's file without its weights, for each layer and besides.
_LAYER_NODES = {"encoder": 4_200, "decoder": 4_200, "cross-attending": 6_200, "recurrent": 16_000}
_OTHER_NODES = 3_000
_COUNTS = ("layers", "hidden_size", "intermediate_size", "heads", "vocab_size")
_OPTIONAL_COUNTS = ("decoder_layers", "kv_heads", "head_size", "source_length")
_FLAGS = ("gated", "tied", "rotary", "recurrent")
_TEXTS = ("family", "architecture")
_CHOICES = {"attention": ATTENTION_KINDS, "tokenizer": TOKENIZER_KINDS}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What the memory of a model depends on, as far as it is known without its bundle.

    Attributes:
        architecture, family, vocab_size, kv, state, source_length, footprint: as in ``Manifest``.
        layers: role → layers of its graph.
        table_columns: width of the table of embeddings.
        rotary_values: of cosines and sines, for each position; 0: none are kept.
        rotates: whether a decoder can be rotated, without which ``int8`` is ``int8-block``.
    """

    architecture: str
    family: str
    vocab_size: int
    footprint: Footprint
    layers: Mapping[str, int]
    table_columns: int
    kv: KVGeometry | None = None
    state: RecurrentState | None = None
    source_length: int | None = None
    rotary_values: int = 0
    rotates: bool = True


def expected_manifest(
    shape: ModelShape, *, name: str, tasks: tuple[str, ...], parameters: int, context_length: int, scheme: str
) -> Manifest:
    """The manifest of a bundle that is not there: right about what memory depends on, within some percent.

    Args:
        shape: of the model.
        name: as in ``Manifest``.
        tasks: the same.
        context_length: the same.
        parameters: weights of the checkpoint.
        scheme: one of ``QUANTIZATION_SCHEMES``, as it is asked for.
    """
    layout = _layout(shape, scheme)
    roles = FAMILY_ROLES[shape.family]
    files = {f"{role}.onnx": _file(_graph_size(shape, role)) for role in roles}
    embedding = _embedding(shape, layout)
    weights = _weights_size(shape, layout, parameters, context_length, beside=embedding is not None)
    files[f"{roles[0]}.onnx.data"] = _file(weights)
    if embedding is not None:
        scales = -(-embedding.columns // (embedding.block_size or embedding.columns))
        files[EMBEDDING_NAME] = _file(embedding.rows * (embedding.columns + _FLOAT_BYTES * scales))
    kv = shape.kv
    if kv is not None and shape.family == "decoder":
        kv = replace(kv, scales=KV_SCALES_NAME)
        files[KV_SCALES_NAME] = _file(kv.scales_bytes())
    return Manifest(
        name=name,
        architecture=shape.architecture,
        family=shape.family,
        tasks=tasks,
        graphs={role: f"{role}.onnx" for role in roles},
        context_length=context_length,
        vocab_size=shape.vocab_size,
        kv=kv,
        bos_token_id=None,
        eos_token_id=(),
        quantization={"scheme": "int8-block" if layout == "int8-block" else scheme},
        files=files,
        source=Source("expected"),
        embedding=embedding,
        state=shape.state,
        source_length=shape.source_length,
        footprint=shape.footprint,
    )


def _layout(shape: ModelShape, scheme: str) -> str:
    """How a scheme stores weights depends on the family."""
    if scheme != "int8":
        return scheme
    if shape.family == "encoder":
        return "smoothed"
    if shape.state is not None:
        return "carried"
    return "rows" if shape.family == "decoder" and shape.rotates else "int8-block"


def _embedding(shape: ModelShape, layout: str) -> EmbeddingFile | None:
    """The table of a decoder, where that has a file of its own."""
    if shape.family != "decoder" or layout not in _TABLE_BLOCKS:
        return None
    return EmbeddingFile(
        EMBEDDING_NAME, rows=shape.vocab_size, columns=shape.table_columns, block_size=_TABLE_BLOCKS[layout]
    )


def _weights_size(shape: ModelShape, layout: str, parameters: int, context_length: int, *, beside: bool) -> int:
    """Bytes of all graphs' weights: layers, the tables but for one ``beside``, and cosines and sines."""
    table = shape.vocab_size * shape.table_columns
    tables = table * (2 if shape.family != "encoder" and not shape.footprint.tied else 1)
    layers = max(0, parameters - tables)
    rotary = _FLOAT_BYTES * shape.rotary_values * context_length
    if layout == "fp32":
        return _FLOAT_BYTES * (layers + tables) + rotary
    if beside:
        tables = table
    return int(_LAYER_BYTES[layout] * layers + _TABLE_BYTES.get(layout, _USUAL_TABLE_BYTES) * tables) + rotary


def _graph_size(shape: ModelShape, role: str) -> int:
    kind = role
    if shape.state is not None:
        kind = "recurrent"
    elif shape.family == "encoder-decoder" and role == "decoder":
        kind = "cross-attending"
    return _OTHER_NODES + _LAYER_NODES[kind] * shape.layers[role]


def _file(size: int) -> FileEntry:
    return FileEntry(size, "")


def parse_shape(table: object) -> ModelShape:
    """The ``shape`` of a catalog's entry.

    Raises:
        ConfigError: a field is unknown, missing or not of its type; names it.
    """
    if not isinstance(table, dict):
        raise ConfigError("'shape' must be a table of fields")
    known = (*_TEXTS, *_COUNTS, *_OPTIONAL_COUNTS, *_FLAGS, *_CHOICES)
    for name in table:
        if name not in known:
            raise ConfigError(f"'shape' has an unknown field {name!r:.80}; known are: {', '.join(sorted(known))}")
    count = {name: _count(table, name) for name in _COUNTS}
    more = {name: _count(table, name) for name in _OPTIONAL_COUNTS if name in table}
    flag = {name: _choice(table, name, (False, True)) for name in _FLAGS}
    family = _choice(table, "family", tuple(FAMILY_ROLES))
    head_size = more.get("head_size", count["hidden_size"] // count["heads"])
    decoder_layers = more.get("decoder_layers", count["layers"])
    kept = family != "encoder"
    return ModelShape(
        architecture=str(table.get("architecture", family)),
        family=family,
        vocab_size=count["vocab_size"],
        footprint=Footprint(
            hidden_size=count["hidden_size"],
            intermediate_size=count["intermediate_size"],
            heads=count["heads"],
            head_size=head_size,
            attention=_choice(table, "attention", ATTENTION_KINDS),
            gated=flag["gated"],
            tied=flag["tied"],
            tokenizer=_choice(table, "tokenizer", TOKENIZER_KINDS),
        ),
        layers={"encoder": count["layers"], "decoder": decoder_layers},
        table_columns=count["hidden_size"],
        kv=KVGeometry(decoder_layers, more.get("kv_heads", count["heads"]), head_size)
        if kept and not flag["recurrent"]
        else None,
        state=RecurrentState(decoder_layers, count["hidden_size"]) if kept and flag["recurrent"] else None,
        source_length=more.get("source_length"),
        rotary_values=head_size if flag["rotary"] else 0,
    )


def _count(table: Mapping[str, Any], name: str) -> int:
    value = table.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"'shape' must have {name!r}, a whole number above zero, not {value!r:.80}")
    return value


def _choice(table: Mapping[str, Any], name: str, allowed: tuple[Any, ...]) -> Any:
    """One of the allowed values; the first where the table has none."""
    value = table.get(name, allowed[0])
    if value not in allowed or type(value) is not type(allowed[0]):
        raise ConfigError(f"{name!r} of 'shape' must be one of {', '.join(map(str, allowed))}, not {value!r:.80}")
    return value
