"""What memory a model will need is known before it is fetched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgelm.bundle.catalog import CatalogEntry, own_catalog, parse_catalog
from edgelm.bundle.manifest import EmbeddingFile, Manifest, parse_manifest
from edgelm.bundle.model_shape import ModelShape, expected_manifest, parse_shape
from edgelm.errors import ConfigError
from edgelm.runtime.memory import budget, encoder_budget

ENTRIES = own_catalog().entries.values()
SMALL = {"layers": 4, "hidden_size": 64, "intermediate_size": 160, "heads": 8, "vocab_size": 1000}


def parameters_of(shape: ModelShape) -> int:
    """Of the matrices that every model of the family has; norms, biases and positions are a percent or two."""
    sizes = shape.footprint
    hidden, queries = sizes.hidden_size, sizes.heads * sizes.head_size
    keys = queries if shape.kv is None else shape.kv.kv_heads * sizes.head_size
    attention = 2 * hidden * queries + 2 * hidden * keys
    layer = attention + (3 if sizes.gated else 2) * hidden * sizes.intermediate_size
    layers = shape.layers["encoder" if shape.family == "encoder" else "decoder"] * layer
    if shape.family == "encoder-decoder":
        layers += shape.layers["encoder"] * layer + shape.layers["decoder"] * attention
    heads = 1 if sizes.tied or shape.family == "encoder" else 2
    return layers + heads * shape.vocab_size * hidden


def expected(shape: ModelShape, **settings: Any) -> Manifest:
    given = {"name": "m", "tasks": ("text-generation",), "parameters": parameters_of(shape), "context_length": 512}
    return expected_manifest(shape, **given | {"scheme": "int8"} | settings)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_the_shapes_of_the_catalog_account_for_all_parameters(entry: CatalogEntry) -> None:
    assert entry.shape is not None
    assert entry.parameters == pytest.approx(parameters_of(entry.shape), rel=0.02)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_an_expected_manifest_is_one_that_can_be_budgeted(entry: CatalogEntry) -> None:
    assert entry.shape is not None
    assert entry.parameters is not None
    manifest = expected(
        entry.shape,
        tasks=entry.tasks,
        parameters=entry.parameters,
        context_length=entry.context_length,
        scheme=entry.quantization,
    )
    assert entry.bundle_size == pytest.approx(sum(file.size for file in manifest.files.values()), rel=0.2)
    if manifest.family == "encoder":
        need = encoder_budget(manifest, batch_tokens=1024, longest=128)
    else:
        need = budget(manifest, tokens=512, prefill_chunk=128)
    beside = 0 if manifest.embedding is None else entry.shape.vocab_size * entry.shape.table_columns
    assert need.weights + beside >= entry.parameters


def test_the_catalog_s_small_model_has_the_sizes_of_its_bundle() -> None:
    """Sizes of the bundle that 0.1 makes of it."""
    entry = own_catalog().get("smollm2")
    assert entry is not None
    assert entry.shape is not None
    manifest = expected(entry.shape, parameters=entry.parameters, context_length=8192)
    assert manifest.files["decoder.onnx.data"].size == pytest.approx(137_961_472, rel=0.01)
    assert manifest.files["decoder.onnx"].size == pytest.approx(127_054, rel=0.05)
    assert manifest.files["embedding.int8"].size == 28_508_160
    assert manifest.kv is not None
    assert manifest.kv.bytes_per_token() == 2 * 30 * 3 * 64 * 4


def test_schemes_differ_as_their_bits_do() -> None:
    shape = parse_shape({**SMALL, "gated": True, "layers": 40})
    weights = {
        scheme: budget(expected(shape, scheme=scheme), tokens=64, prefill_chunk=16).weights
        for scheme in ("int4", "int8", "int8-block", "fp32")
    }
    assert sorted(weights, key=weights.__getitem__) == ["int4", "int8", "int8-block", "fp32"]
    assert weights["fp32"] == 4 * parameters_of(shape)


def test_a_decoder_that_cannot_be_rotated_gets_blocks() -> None:
    shape = parse_shape(SMALL)
    assert expected(shape).embedding is not None
    blocks = expected(replace(shape, rotates=False))
    assert blocks.quantization == {"scheme": "int8-block"}
    assert blocks.embedding == EmbeddingFile("embedding.int8", rows=1000, columns=64, block_size=32)


def test_a_table_of_blocks_lies_beside_a_decoder_and_in_no_other() -> None:
    shape = parse_shape({**SMALL, "hidden_size": 72, "tied": True})
    inside, beside = (expected(shape, scheme=scheme) for scheme in ("dynamic-int8", "int4"))
    assert inside.embedding is None
    assert beside.embedding is not None
    assert beside.files["embedding.int8"].size == 1000 * (72 + 3 * 4)
    untied = replace(shape, footprint=replace(shape.footprint, tied=False))
    tied_size, untied_size = (
        expected(s, scheme="int4", parameters=parameters_of(s)).files["decoder.onnx.data"].size for s in (shape, untied)
    )
    assert tied_size == untied_size, "the head is a matrix of its own in both"
    other = parse_shape({**SMALL, "family": "encoder-decoder", "decoder_layers": 2})
    assert expected(other, scheme="int4").embedding is None


def test_rotary_tables_grow_with_the_context() -> None:
    shape = parse_shape({**SMALL, "rotary": True})
    short, long = (expected(shape, context_length=length).files["decoder.onnx.data"].size for length in (512, 1512))
    assert long - short == 1000 * 8 * 4


def test_a_recurrent_decoder_keeps_a_state() -> None:
    shape = parse_shape({**SMALL, "family": "encoder-decoder", "recurrent": True, "decoder_layers": 2})
    assert shape.kv is None
    assert shape.state is not None
    assert (shape.state.layers, shape.state.size) == (2, 64)


def test_an_expected_manifest_keeps_the_rules_but_for_hashes() -> None:
    manifest = expected(parse_shape({**SMALL, "architecture": "llama"}))
    hashed = {name: replace(entry, sha256="0" * 64) for name, entry in manifest.files.items()}
    manifest = replace(manifest, files=hashed)
    assert parse_manifest(manifest.to_json()) == manifest


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layers": 0}, "'layers', a whole number above zero, not 0"),
        ({"layers": True}, "'layers', a whole number above zero, not True"),
        ({"kv_heads": "2"}, "'kv_heads'"),
        ({"heads": None}, "'heads'"),
        ({"gated": 1}, "'gated' of 'shape' must be one of False, True, not 1"),
        ({"family": "mixer"}, "'family' of 'shape' must be one of decoder, encoder, encoder-decoder, not 'mixer'"),
        ({"attention": "none"}, "'attention'"),
        ({"tokenizer": []}, "'tokenizer'"),
        ({"width": 3}, "unknown field 'width'; known are: architecture, attention"),
    ],
)
def test_a_mistake_in_a_shape_is_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_shape({**SMALL, **change})


def test_a_mistake_in_a_catalog_s_shape_names_the_entry() -> None:
    text = '[m]\nsource = "x"\nlicense = "MIT"\ntasks = ["chat"]\ndescription = "d"\nshape = 3\n'
    with pytest.raises(ConfigError, match=r"\[m\]: 'shape' must be a table"):
        parse_catalog(text.encode(), Path("catalog.toml"))
