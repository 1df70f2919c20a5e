"""``edgelm.json``: what a bundle is, what is in it, and the rules it must keep.

The manifest is read before anything native sees a byte of the bundle. It knows nothing about ONNX.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from typing import Any

from edgelm.bundle.fields import Fields, shown
from edgelm.bundle.manifest_parts import (
    ATTENTION_KINDS,
    KV_DTYPE_BYTES,
    POOLING_MODES,
    PROBLEM_TYPES,
    TOKENIZER_KINDS,
    EmbeddingFile,
    FileEntry,
    Footprint,
    Head,
    KVGeometry,
    Pooling,
    RecurrentState,
    Source,
)
from edgelm.bundle.names import name_fault, name_key
from edgelm.bundle.strict_json import load_json
from edgelm.errors import ManifestError

__all__ = [
    "BUNDLE_LAYOUTS",
    "FAMILY_ROLES",
    "MANIFEST_NAME",
    "MAX_MANIFEST_BYTES",
    "NATIVE_LAYOUT",
    "QUANTIZATION_SCHEMES",
    "EmbeddingFile",
    "FileEntry",
    "Footprint",
    "Head",
    "KVGeometry",
    "Manifest",
    "Pooling",
    "RecurrentState",
    "Source",
    "parse_manifest",
]

FORMAT_VERSION = 1
# Who made the graphs, which tells what inputs and outputs they have. In a bundle of ours, they are ours or optimum's;
# folders made by others are of further layouts, which only ``bundle/layouts`` knows.
NATIVE_LAYOUT = "edgelm"
BUNDLE_LAYOUTS = (NATIVE_LAYOUT, "optimum")
MANIFEST_NAME = "edgelm.json"
MAX_MANIFEST_BYTES = 1 << 20

# Graph roles that a bundle of each family must have; it may have others beside them.
FAMILY_ROLES = {"decoder": ("decoder",), "encoder": ("encoder",), "encoder-decoder": ("encoder", "decoder")}
QUANTIZATION_SCHEMES = ("int8", "int8-block", "int4", "dynamic-int8", "fp32")

MAX_CONTEXT = 10**8
MAX_VOCAB = 10**7
MAX_LAYERS = 1024
MAX_HEADS = 1024
MAX_HEAD_SIZE = 4096
MAX_HIDDEN = 1 << 20
MAX_FILE_BYTES = 1 << 45
MAX_TASKS = 64
MAX_EOS_TOKENS = 256
MAX_LABELS = 1 << 16

_ROLE = re.compile(r"[a-z][a-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A parsed and validated ``edgelm.json``.

    Attributes:
        name: short name of the model.
        architecture: the checkpoint's ``model_type`` (``llama``, ``qwen3``, …).
        family: ``decoder``, ``encoder`` or ``encoder-decoder``.
        tasks: what it is for (``text-generation``, ``chat``, …).
        graphs: role (``decoder``, ``encoder``) → file name of the ONNX graph.
        context_length: tokens that prompt and answer may have together; of an encoder, those of its input; of an
            encoder-decoder, those of the answer.
        vocab_size: width of a decoder's logits; of an encoder, tokens that its embedding has.
        kv: geometry of the KV cache; None for encoders, and for decoders with a ``state``.
        state: what a recurrent decoder carries instead.
        embedding: the table that token ids are looked up in; None where the graph does that itself.
        bos_token_id: put before a raw prompt, if any.
        eos_token_id: tokens that end an answer.
        pad_token_id: what fills shorter rows of a batch; None where it may be any token.
        decoder_start_token_id: the decoder's first input, in an encoder-decoder.
        source_length: tokens that the encoder of an encoder-decoder takes; None: any number.
        head: what an encoder's logits mean, if it has a classification head.
        pooling: how an encoder's hidden states become a text's vector, if the model says so.
        quantization: ``scheme`` (``int8``, ``int4``, ``dynamic-int8``, ``fp32``), and the scheme's own settings.
        files: every file of the bundle but the manifest itself.
        source: origin and licence.
        tool_versions: package → version that made the bundle.
        quality: summary of the measured report (``kl``, ``perplexity``, …); empty when not measured.
        layout: who made the graphs: ``edgelm``, ``optimum``, or another tool (see ``bundle/layouts``).
        renamed: usual name of an input or output → what the graphs call it, where that differs.
        footprint: sizes that memory depends on; None in older bundles.
    """

    name: str
    architecture: str
    family: str
    tasks: tuple[str, ...]
    graphs: dict[str, str]
    context_length: int
    vocab_size: int
    kv: KVGeometry | None
    bos_token_id: int | None
    eos_token_id: tuple[int, ...]
    quantization: dict[str, Any]
    files: dict[str, FileEntry]
    source: Source
    embedding: EmbeddingFile | None = None
    state: RecurrentState | None = None
    pad_token_id: int | None = None
    decoder_start_token_id: int | None = None
    source_length: int | None = None
    head: Head | None = None
    pooling: Pooling | None = None
    tool_versions: dict[str, str] = field(default_factory=dict)
    quality: dict[str, float] = field(default_factory=dict)
    layout: str = NATIVE_LAYOUT
    renamed: dict[str, str] = field(default_factory=dict)
    footprint: Footprint | None = None
    format_version: int = FORMAT_VERSION

    def to_json(self) -> bytes:
        """The manifest as it is written: UTF-8, keys in order; ``parse_manifest`` reads the same manifest back.

        Raises:
            ManifestError: a value cannot be written as JSON, such as a NaN in ``quality``.
        """
        try:
            text = json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
            return f"{text}\n".encode()
        except (TypeError, ValueError) as error:
            raise ManifestError(f"{MANIFEST_NAME}: cannot be written: {error}") from error


def parse_manifest(data: bytes) -> Manifest:
    """Reads ``edgelm.json`` and checks every rule that needs no other file.

    Fields that this version does not know are ignored; another ``format_version`` is refused.

    Raises:
        ManifestError: not strict JSON, or a field breaks its rule; names the field, its value and what is allowed.
    """
    fields = Fields(load_json(data, what=MANIFEST_NAME, limit=MAX_MANIFEST_BYTES), document=MANIFEST_NAME)
    version = fields.value("format_version")
    if version != FORMAT_VERSION or isinstance(version, (bool, float)):
        raise fields.fault("format_version", f"is {shown(version)}; this EdgeLM reads version {FORMAT_VERSION}")
    family = fields.choice("family", FAMILY_ROLES)
    vocab_size = fields.integer("vocab_size", 1, MAX_VOCAB)
    files = _files(fields.object("files"))

    def token(name: str) -> int | None:
        return fields.integer(name, 0, vocab_size - 1) if fields.has(name) else None

    if family == "encoder-decoder" and token("decoder_start_token_id") is None:
        raise fields.fault("decoder_start_token_id", f"is missing; family {family} needs it")
    return Manifest(
        name=fields.text("name"),
        architecture=fields.text("architecture"),
        family=family,
        tasks=fields.texts("tasks", most=MAX_TASKS),
        graphs=_graphs(fields.object("graphs"), family, files),
        context_length=fields.integer("context_length", 1, MAX_CONTEXT),
        vocab_size=vocab_size,
        kv=_kv(fields, family, files),
        bos_token_id=token("bos_token_id"),
        eos_token_id=fields.integers("eos_token_id", 0, vocab_size - 1, most=MAX_EOS_TOKENS),
        quantization=_quantization(fields),
        files=files,
        source=_source(fields.object("source")),
        embedding=_embedding(fields, files, vocab_size),
        state=_state(fields),
        pad_token_id=token("pad_token_id"),
        decoder_start_token_id=token("decoder_start_token_id"),
        source_length=fields.integer("source_length", 1, MAX_CONTEXT) if fields.has("source_length") else None,
        head=_head(fields),
        pooling=_pooling(fields),
        tool_versions=_texts_by_name(fields, "tool_versions"),
        quality=_quality(fields),
        layout=fields.choice("layout", BUNDLE_LAYOUTS) if fields.has("layout") else NATIVE_LAYOUT,
        renamed=_texts_by_name(fields, "renamed"),
        footprint=_footprint(fields),
    )


def _files(fields: Fields) -> dict[str, FileEntry]:
    files: dict[str, FileEntry] = {}
    names: dict[str, str] = {name_key(MANIFEST_NAME): MANIFEST_NAME}
    for name in fields:
        fault = name_fault(name)
        if fault:
            raise fields.fault(name, f"is not a safe file name: it {fault}")
        if name == MANIFEST_NAME:
            raise fields.fault(name, "is the manifest itself")
        other = names.setdefault(name_key(name), name)
        if other != name:
            raise fields.fault(name, f"is the same file as {other} on some systems")
        entry = fields.object(name)
        files[name] = FileEntry(size=entry.integer("size", 0, MAX_FILE_BYTES), sha256=entry.digest("sha256"))
    return files


def _graphs(fields: Fields, family: str, files: dict[str, FileEntry]) -> dict[str, str]:
    graphs: dict[str, str] = {}
    for role in fields:
        if not _ROLE.fullmatch(role):
            raise fields.fault(role, "is not a role: 1 to 64 of a-z, 0-9, - and _, a letter first")
        graphs[role] = fields.text(role)
        if graphs[role] not in files:
            raise fields.fault(role, f"names {shown(graphs[role])}, which is not in files")
    for role in FAMILY_ROLES[family]:
        if role not in graphs:
            raise fields.fault(role, f"is missing; family {family} needs it")
    return graphs


def _kv(fields: Fields, family: str, files: dict[str, FileEntry]) -> KVGeometry | None:
    if family == "encoder":
        if fields.has("kv"):
            raise fields.fault("kv", "must be null: family encoder has no cache")
        return None
    if not fields.has("kv") and fields.has("state"):
        return None
    kv = fields.object("kv")
    geometry = KVGeometry(
        layers=kv.integer("layers", 1, MAX_LAYERS),
        kv_heads=kv.integer("kv_heads", 1, MAX_HEADS),
        head_size=kv.integer("head_size", 1, MAX_HEAD_SIZE),
        dtype=kv.choice("dtype", KV_DTYPE_BYTES),
        scales=kv.text("scales") if kv.has("scales") else None,
    )
    if geometry.scales is not None:
        entry = files.get(geometry.scales)
        if entry is None:
            raise kv.fault("scales", f"names {shown(geometry.scales)}, which is not in files")
        if entry.size != geometry.scales_bytes():
            raise kv.fault("scales", f"has {entry.size} bytes, but this geometry needs {geometry.scales_bytes()}")
    return geometry


def _embedding(fields: Fields, files: dict[str, FileEntry], vocab_size: int) -> EmbeddingFile | None:
    if not fields.has("embedding"):
        return None
    embedding = fields.object("embedding")
    file = embedding.text("file")
    if file not in files:
        raise embedding.fault("file", f"names {shown(file)}, which is not in files")
    return EmbeddingFile(
        file=file,
        rows=embedding.integer("rows", vocab_size, MAX_VOCAB),
        columns=embedding.integer("columns", 1, MAX_HIDDEN),
        block_size=embedding.integer("block_size", 1, MAX_HIDDEN) if embedding.has("block_size") else None,
    )


def _state(fields: Fields) -> RecurrentState | None:
    if not fields.has("state"):
        return None
    state = fields.object("state")
    return RecurrentState(state.integer("layers", 1, MAX_LAYERS), state.integer("size", 1, MAX_HIDDEN))


def _head(fields: Fields) -> Head | None:
    if not fields.has("head"):
        return None
    head = fields.object("head")
    return Head(head.texts("labels", most=MAX_LABELS), head.choice("problem_type", PROBLEM_TYPES))


def _pooling(fields: Fields) -> Pooling | None:
    if not fields.has("pooling"):
        return None
    pooling = fields.object("pooling")
    return Pooling(pooling.choice("mode", POOLING_MODES), pooling.flag("normalize"))


def _footprint(fields: Fields) -> Footprint | None:
    if not fields.has("footprint"):
        return None
    footprint = fields.object("footprint")
    return Footprint(
        hidden_size=footprint.integer("hidden_size", 1, MAX_HIDDEN),
        intermediate_size=footprint.integer("intermediate_size", 1, MAX_HIDDEN),
        heads=footprint.integer("heads", 1, MAX_HEADS),
        head_size=footprint.integer("head_size", 1, MAX_HEAD_SIZE),
        attention=footprint.choice("attention", ATTENTION_KINDS),
        gated=footprint.flag("gated"),
        tied=footprint.flag("tied"),
        tokenizer=footprint.choice("tokenizer", TOKENIZER_KINDS) if footprint.has("tokenizer") else None,
    )


def _quantization(fields: Fields) -> dict[str, Any]:
    quantization = fields.object("quantization")
    quantization.choice("scheme", QUANTIZATION_SCHEMES)
    return {name: quantization.value(name) for name in quantization}


def _source(fields: Fields) -> Source:
    return Source(
        uri=fields.text("uri"),
        license=fields.text("license"),
        revision=fields.text("revision") if fields.has("revision") else None,
        sha256=fields.digest("sha256") if fields.has("sha256") else None,
        adapter=fields.text("adapter") if fields.has("adapter") else None,
    )


def _texts_by_name(fields: Fields, name: str) -> dict[str, str]:
    if not fields.has(name):
        return {}
    inner = fields.object(name)
    return {key: inner.text(key) for key in inner}


def _quality(fields: Fields) -> dict[str, float]:
    if not fields.has("quality"):
        return {}
    quality = fields.object("quality")
    return {key: quality.number(key) for key in quality}
