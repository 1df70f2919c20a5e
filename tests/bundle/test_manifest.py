import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bundles import decoder_manifest

from edgelm.bundle.manifest import (
    BUNDLE_LAYOUTS,
    FAMILY_ROLES,
    MAX_MANIFEST_BYTES,
    QUANTIZATION_SCHEMES,
    EmbeddingFile,
    FileEntry,
    Footprint,
    Head,
    KVGeometry,
    Manifest,
    Pooling,
    RecurrentState,
    Source,
    parse_manifest,
)
from edgelm.bundle.manifest_parts import ATTENTION_KINDS, POOLING_MODES, PROBLEM_TYPES, TOKENIZER_KINDS
from edgelm.errors import ManifestError

HASH = "0123456789abcdef" * 4
WORDS = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=12)
FILE_NAMES = st.from_regex(r"f[a-z0-9]{0,8}\.[a-z]{1,5}", fullmatch=True)
ENTRIES = st.builds(FileEntry, st.integers(0, 1 << 45), st.text("0123456789abcdef", min_size=64, max_size=64))
GEOMETRIES = st.builds(
    KVGeometry, st.integers(1, 1024), st.integers(1, 1024), st.integers(1, 4096), st.sampled_from(["float32", "int8"])
)
FOOTPRINTS = st.builds(
    Footprint,
    hidden_size=st.integers(1, 1 << 20),
    intermediate_size=st.integers(1, 1 << 20),
    heads=st.integers(1, 1024),
    head_size=st.integers(1, 4096),
    attention=st.sampled_from(ATTENTION_KINDS),
    gated=st.booleans(),
    tied=st.booleans(),
    tokenizer=st.none() | st.sampled_from(TOKENIZER_KINDS),
)
SETTINGS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    family = draw(st.sampled_from(sorted(FAMILY_ROLES)))
    vocab_size = draw(st.integers(1, 10**7))
    files = draw(st.dictionaries(FILE_NAMES, ENTRIES, min_size=1, max_size=5))
    tokens = st.integers(0, vocab_size - 1)
    roles = [*FAMILY_ROLES[family], *draw(st.lists(st.sampled_from(["inspect", "head-2"]), unique=True))]
    return Manifest(
        name=draw(WORDS),
        architecture=draw(WORDS),
        family=family,
        tasks=tuple(draw(st.lists(WORDS, max_size=3))),
        graphs={role: draw(st.sampled_from(sorted(files))) for role in roles},
        context_length=draw(st.integers(1, 10**8)),
        vocab_size=vocab_size,
        kv=None if family == "encoder" else draw(GEOMETRIES),
        state=draw(st.none() | st.builds(RecurrentState, st.integers(1, 1024), st.integers(1, 1 << 20))),
        pad_token_id=draw(st.none() | tokens),
        decoder_start_token_id=draw(tokens if family == "encoder-decoder" else st.none() | tokens),
        source_length=draw(st.none() | st.integers(1, 10**8)),
        head=draw(st.none() | st.builds(Head, st.lists(WORDS, max_size=3).map(tuple), st.sampled_from(PROBLEM_TYPES))),
        pooling=draw(st.none() | st.builds(Pooling, st.sampled_from(POOLING_MODES), st.booleans())),
        bos_token_id=draw(st.none() | tokens),
        eos_token_id=tuple(draw(st.lists(tokens, max_size=3))),
        quantization=draw(st.dictionaries(WORDS, SETTINGS | st.lists(SETTINGS), max_size=3))
        | {"scheme": draw(st.sampled_from(QUANTIZATION_SCHEMES))},
        files=files,
        embedding=draw(
            st.none()
            | st.builds(
                EmbeddingFile,
                file=st.sampled_from(sorted(files)),
                rows=st.integers(vocab_size, 10**7),
                columns=st.integers(1, 1 << 20),
                block_size=st.none() | st.integers(1, 1 << 20),
            )
        ),
        source=Source(
            draw(WORDS),
            draw(WORDS),
            draw(st.none() | WORDS),
            draw(st.sampled_from([None, HASH])),
            draw(st.none() | WORDS),
        ),
        tool_versions=draw(st.dictionaries(WORDS, WORDS, max_size=3)),
        quality=draw(st.dictionaries(WORDS, st.floats(-1e200, 1e200), max_size=3)),
        layout=draw(st.sampled_from(BUNDLE_LAYOUTS)),
        renamed=draw(st.dictionaries(WORDS, WORDS, max_size=2)),
        footprint=draw(st.none() | FOOTPRINTS),
    )


@given(manifests())
def test_a_manifest_is_read_back_as_it_was_written(manifest: Manifest) -> None:
    assert parse_manifest(manifest.to_json()) == manifest


def valid() -> dict[str, Any]:
    manifest = replace(
        decoder_manifest(), files={name: FileEntry(1, HASH) for name in ("decoder.onnx", "tokenizer.json")}
    )
    document: dict[str, Any] = json.loads(manifest.to_json())
    return document


def refusal(document: Any) -> str:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(json.dumps(document).encode())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def put(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *parents, last = path.split("/")
    inner = document
    for name in parents:
        inner = inner[name]
    inner[last] = value
    return document


FOOTPRINT = {
    "hidden_size": 8,
    "intermediate_size": 32,
    "heads": 2,
    "head_size": 4,
    "attention": "blocks",
    "gated": False,
    "tied": True,
}
REFUSED: list[tuple[str, Any, str]] = [
    ("name", "", 'name must be a printable string of 1 to 1000 characters, not ""'),
    ("name", "a\x1b[2Jb", "name must be a printable string"),
    ("name", "a\nb", "name must be a printable string"),
    ("architecture", 3, "architecture must be a printable string of 1 to 1000 characters, not 3"),
    ("family", "rnn", 'family must be one of decoder, encoder, encoder-decoder, not "rnn"'),
    ("family", ["decoder"], "family must be one of"),
    ("tasks", "chat", "tasks must be a list of at most 64 printable strings"),
    ("tasks", ["chat", 1], "tasks[1] must be a printable string"),
    ("graphs", {}, "graphs.decoder is missing; family decoder needs it"),
    ("graphs", {"decoder": "other.onnx"}, 'graphs.decoder names "other.onnx", which is not in files'),
    ("graphs", {"decoder": "../decoder.onnx"}, "which is not in files"),
    ("graphs", {"Decoder!": "decoder.onnx"}, "is not a role"),
    ("context_length", 0, "context_length must be an integer from 1 to 100000000, not 0"),
    ("context_length", 10**9, "context_length must be an integer from 1 to 100000000"),
    ("context_length", 10**900, "not an integer of more than 60 digits"),
    ("context_length", 64.0, "context_length must be an integer from 1 to 100000000, not 64.0"),
    ("context_length", True, "context_length must be an integer from 1 to 100000000, not true"),
    ("vocab_size", 10**8, "vocab_size must be an integer from 1 to 10000000"),
    (
        "embedding",
        {"file": "table", "rows": 10**6, "columns": 8},
        'embedding.file names "table", which is not in files',
    ),
    (
        "embedding",
        {"file": "tokenizer.json", "rows": 10**6, "columns": 0},
        "embedding.columns must be an integer from 1 to 1048576, not 0",
    ),
    *(
        (
            "embedding",
            {"file": "tokenizer.json", "rows": 10**6, "columns": 8, "block_size": size},
            f"embedding.block_size must be an integer from 1 to 1048576, not {json.dumps(size)}",
        )
        for size in (0, -32, 1 << 21, 32.0, True, "32")
    ),
    ("kv", None, "kv must be an object, not null"),
    ("state", {"layers": 0, "size": 8}, "state.layers must be an integer from 1 to 1024, not 0"),
    ("pad_token_id", 32, "pad_token_id must be an integer from 0 to 31, not 32"),
    ("decoder_start_token_id", -1, "decoder_start_token_id must be an integer from 0 to 31, not -1"),
    ("source_length", 0, "source_length must be an integer from 1 to 100000000, not 0"),
    ("head", {"labels": "good", "problem_type": "regression"}, "head.labels must be a list of at most 65536"),
    ("head", {"labels": [], "problem_type": "ranking"}, "head.problem_type must be one of single_label_classification"),
    ("pooling", {"mode": "sum", "normalize": True}, 'pooling.mode must be one of mean, cls, last, max, not "sum"'),
    ("pooling", {"mode": "mean", "normalize": 1}, "pooling.normalize must be true or false, not 1"),
    ("footprint", {}, "footprint.hidden_size is missing"),
    ("footprint", FOOTPRINT | {"heads": 0}, "footprint.heads must be an integer from 1 to 1024, not 0"),
    (
        "footprint",
        FOOTPRINT | {"attention": "all"},
        "footprint.attention must be one of blocks, scores, biased scores, disentangled scores",
    ),
    ("footprint", FOOTPRINT | {"tied": 1}, "footprint.tied must be true or false, not 1"),
    ("footprint", FOOTPRINT | {"tokenizer": "BBPE"}, "footprint.tokenizer must be one of BPE, Unigram"),
    ("kv/layers", "x", 'kv.layers must be an integer from 1 to 1024, not "x"'),
    ("kv/layers", 1025, "kv.layers must be an integer from 1 to 1024, not 1025"),
    ("kv/kv_heads", -1, "kv.kv_heads must be an integer from 1 to 1024, not -1"),
    ("kv/head_size", 5000, "kv.head_size must be an integer from 1 to 4096, not 5000"),
    ("kv/dtype", "float64", 'kv.dtype must be one of float32, float16, int8, not "float64"'),
    ("bos_token_id", 32, "bos_token_id must be an integer from 0 to 31, not 32"),
    ("eos_token_id", [2, -1], "eos_token_id[1] must be an integer from 0 to 31, not -1"),
    ("eos_token_id", 2, "eos_token_id must be a list of at most 256 integers, not 2"),
    ("quantization", {}, "quantization.scheme is missing"),
    (
        "quantization/scheme",
        "int3",
        'quantization.scheme must be one of int8, int8-block, int4, dynamic-int8, fp32, not "int3"',
    ),
    ("files", [], "files must be an object, not []"),
    ("files/decoder.onnx", 1, "files.decoder.onnx must be an object, not 1"),
    ("files/decoder.onnx/size", -1, "files.decoder.onnx.size must be an integer from 0"),
    ("files/decoder.onnx/sha256", HASH.upper(), "files.decoder.onnx.sha256 must be 64 lowercase hexadecimal digits"),
    ("files/decoder.onnx/sha256", HASH[:-1], "files.decoder.onnx.sha256 must be 64"),
    ("files/decoder.onnx/sha256", HASH + "\n", "files.decoder.onnx.sha256 must be 64"),
    ("source", "hf:x", 'source must be an object, not "hf:x"'),
    ("source/uri", None, "source.uri must be a printable string"),
    ("source/sha256", "x", "source.sha256 must be 64"),
    ("tool_versions", {"onnx": 1}, "tool_versions.onnx must be a printable string"),
    ("quality", {"kl": "low"}, 'quality.kl must be a finite number, not "low"'),
    ("quality", {"kl": 10**400}, "quality.kl must be a finite number"),
    ("layout", "transformers.js", 'layout must be one of edgelm, optimum, not "transformers.js"'),
    ("renamed", {"logits": 1}, "renamed.logits must be a printable string"),
]


@pytest.mark.parametrize(("path", "value", "message"), REFUSED)
def test_a_field_that_breaks_its_rule_is_named(path: str, value: Any, message: str) -> None:
    text = refusal(put(valid(), path, value))
    assert text.startswith("edgelm.json: ")
    assert message in text


OPTIONAL = {"tool_versions", "quality", "bos_token_id", "embedding", "state", "pad_token_id", "head", "pooling"}
OPTIONAL |= {"decoder_start_token_id", "source_length", "layout", "renamed", "footprint"}


@pytest.mark.parametrize("name", sorted(set(valid()) - OPTIONAL))
def test_a_missing_field_is_named(name: str) -> None:
    document = valid()
    del document[name]
    assert refusal(document) == f"edgelm.json: {name} is missing"


def test_fields_that_may_be_missing() -> None:
    document = valid()
    for name in OPTIONAL:
        del document[name]
    manifest = parse_manifest(json.dumps(document).encode())
    assert (manifest.tool_versions, manifest.quality, manifest.bos_token_id, manifest.embedding) == ({}, {}, None, None)


@pytest.mark.parametrize(
    ("version", "shown"), [(2, "2"), (0, "0"), ("1", '"1"'), (True, "true"), (1.0, "1.0"), (None, "null")]
)
def test_an_unknown_version_is_refused_with_both(version: Any, shown: str) -> None:
    text = refusal(put(valid(), "format_version", version))
    assert text == f"edgelm.json: format_version is {shown}; this EdgeLM reads version 1"


def test_the_version_is_judged_before_the_rest() -> None:
    assert "this EdgeLM reads version 1" in refusal({"format_version": 7, "what": "a later one has other fields"})


def test_fields_of_later_tools_are_ignored() -> None:
    document = valid() | {"colour": "blue"}
    document["source"]["mirror"] = [1]
    assert parse_manifest(json.dumps(document).encode()) == parse_manifest(json.dumps(valid()).encode())


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a\\..\\b", "a/b", "C:x", "a\0b", "..", ".ssh", "con", "x.", "a\x7fb", "\ud83d"]
)
def test_a_file_name_that_leads_outside_is_refused(name: str) -> None:
    text = refusal(put(valid(), "files", valid()["files"] | {name: {"size": 1, "sha256": HASH}}))
    assert "is not a safe file name" in text or "half a surrogate pair" in text
    assert "\0" not in text


def test_two_names_for_one_file_are_refused() -> None:
    entry = {"size": 1, "sha256": HASH}
    text = refusal(put(valid(), "files", valid()["files"] | {"Tokenizer.JSON": entry}))
    assert text == "edgelm.json: files.Tokenizer.JSON is the same file as tokenizer.json on some systems"
    assert "is the manifest itself" in refusal(put(valid(), "files", valid()["files"] | {"edgelm.json": entry}))
    assert "same file as edgelm.json" in refusal(put(valid(), "files", valid()["files"] | {"EdgeLM.json": entry}))


def test_an_encoder_has_no_cache_and_a_recurrent_decoder_needs_none() -> None:
    encoder = valid() | {"family": "encoder", "graphs": {"encoder": "decoder.onnx"}}
    assert "kv must be null" in refusal(encoder)
    assert parse_manifest(json.dumps(encoder | {"kv": None}).encode()).kv is None
    pair = {"encoder": "decoder.onnx", "decoder": "decoder.onnx"}
    translator = valid() | {"family": "encoder-decoder", "graphs": pair, "kv": None, "decoder_start_token_id": 0}
    assert "kv must be an object" in refusal(translator)
    translator["state"] = {"layers": 2, "size": 8}
    assert parse_manifest(json.dumps(translator).encode()).state == RecurrentState(2, 8)
    del translator["decoder_start_token_id"]
    assert "decoder_start_token_id is missing; family encoder-decoder needs it" in refusal(translator)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"weights", "not valid JSON"),
        (b"[]", "the document must be an object, not []"),
        (b"[" * 200_000, "nested deeper"),
        (b'{"format_version": 1, "format_version": 1}', "key 'format_version' occurs twice"),
        (b'{"format_version": NaN}', "NaN is not a JSON number"),
        (b" " * (MAX_MANIFEST_BYTES + 1), "more than the 1048576 allowed"),
    ],
)
def test_what_is_no_manifest_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(data)
    assert reason in str(caught.value)


VALUES = st.recursive(SETTINGS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3))


@given(st.sampled_from(sorted(valid())), VALUES)
def test_any_value_in_any_field_is_read_or_refused(name: str, value: Any) -> None:
    try:
        manifest = parse_manifest(json.dumps(valid() | {name: value}).encode())
    except ManifestError:
        return
    assert parse_manifest(manifest.to_json()) == manifest


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: replace(manifest, quality={"kl": math.nan}),
        lambda manifest: replace(manifest, quantization={"scheme": "int8", "made": object()}),
        lambda manifest: replace(manifest, name="\ud800"),
    ],
)
def test_what_json_cannot_hold_is_not_written(change: Callable[[Manifest], Manifest]) -> None:
    with pytest.raises(ManifestError, match="cannot be written"):
        change(decoder_manifest()).to_json()


def test_equal_manifests_are_written_alike() -> None:
    one = replace(decoder_manifest(), tool_versions={"a": "1", "b": "2"})
    other = replace(decoder_manifest(), tool_versions={"b": "2", "a": "1"})
    assert one.to_json() == other.to_json()
    assert one.to_json().endswith(b"}\n")


def with_scales(size: int, name: Any = "scales.f32") -> dict[str, Any]:
    document = valid()
    document["files"]["scales.f32"] = {"size": size, "sha256": HASH}
    document["kv"]["scales"] = name
    return document


def test_scales_of_the_cache_are_a_file_of_just_their_size() -> None:
    kv = decoder_manifest().kv
    assert kv is not None
    size = 4 * 2 * kv.layers * kv.kv_heads * kv.head_size
    read = parse_manifest(json.dumps(with_scales(size)).encode())
    assert read.kv == replace(kv, scales="scales.f32")
    assert parse_manifest(read.to_json()) == read
    for wrong in (0, size - 1, size + 4):
        assert f"kv.scales has {wrong} bytes, but this geometry needs {size}" in refusal(with_scales(wrong))
    assert 'kv.scales names "other", which is not in files' in refusal(with_scales(size, "other"))
    assert "kv.scales" in refusal(with_scales(size, 7))


def test_bytes_of_a_token_in_the_cache() -> None:
    assert KVGeometry(30, 3, 64).bytes_per_token() == 2 * 30 * 3 * 64 * 4
    assert KVGeometry(30, 3, 64, "int8").bytes_per_token() == 2 * 30 * 3 * 64
    assert KVGeometry(30, 3, 64).bytes_per_token("int8") == 2 * 30 * 3 * 64
