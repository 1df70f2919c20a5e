"""Checkpoint → bundle: read → build and quantize → verify → publish atomically."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tokenizers

from edgelm import __version__
from edgelm.bundle.manifest import MANIFEST_NAME, EmbeddingFile, FileEntry, KVGeometry, Manifest, Source
from edgelm.bundle.progress import NoProgress, Progress
from edgelm.bundle.publish import publishing
from edgelm.errors import ConfigError, ModelError
from edgelm.text.chat_template import ChatTemplate
from edgelm.text.tokenizer import Tokenizer
from edgelm_tools.architectures.llama import build_decoder
from edgelm_tools.architectures.llama_spec import DecoderSpec, decoder_spec
from edgelm_tools.architectures.llama_weights import LlamaWeights, can_rotate, padded_head_size
from edgelm_tools.calibration import LayerwiseCalibration, calibration_sequences
from edgelm_tools.checkpoint import Checkpoint, TextAssets, open_checkpoint
from edgelm_tools.evaluate import Quality, measure_quality
from edgelm_tools.graph import GraphBuilder
from edgelm_tools.quantize.schemes import EMBEDDING_NAME, Blockwise, DynamicInt8, Float32, Rowwise, Scheme

GRAPH_NAME = "decoder.onnx"
# Above this the fp32 graph that the report compares with would not fit beside the model.
MOST_BYTES_FOR_REPORT = 3 << 30

_SCHEMES: dict[str, Scheme] = {
    "int8": Rowwise(),
    "int8-block": Blockwise("int8-block", bits=8, block_size=32),
    "int4": Blockwise("int4", bits=4, block_size=32),
    "dynamic-int8": DynamicInt8(),
    "fp32": Float32(),
}
SCHEMES = tuple(_SCHEMES)


def export(
    source: Path,
    target: Path,
    *,
    name: str,
    origin: Source,
    scheme: str = "int8",
    report: bool = True,
    force: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Converts a checkpoint into a bundle, tensor by tensor, and returns its manifest.

    Args:
        source: a folder with safetensors, or a GGUF file.
        target: folder of the bundle; it appears when all is done.
        name: short name of the model.
        origin: where the checkpoint came from.
        scheme: one of ``SCHEMES``.
        report: measure perplexity and KL divergence against fp32 (for models whose fp32 weights take up to 3 GiB).
        force: replace an existing bundle.
        progress: told of each stage.

    Raises:
        ModelError: the checkpoint is broken; UnsupportedModelError: of a kind that is not built natively.
        BundleExistsError: ``target`` exists. LockedError: another process is making it.
        StorageError: the disk is full or not writable.
    """
    chosen = _scheme(scheme)
    shown = progress or NoProgress()
    checkpoint = open_checkpoint(source)
    try:
        spec = decoder_spec(checkpoint.config)
        assets = checkpoint.text_assets()
        with publishing(target, force=force) as folder:
            used = write_graph(folder / GRAPH_NAME, checkpoint, spec, chosen, assets=assets, progress=shown)
            _write_text_assets(folder, checkpoint, assets)
            quality = _report(folder, checkpoint, spec, used, shown) if report else None
            manifest = _manifest(folder, name, origin, spec, used, assets, quality)
            (folder / MANIFEST_NAME).write_bytes(manifest.to_json())
    finally:
        checkpoint.close()
    return manifest


def write_graph(
    path: Path,
    checkpoint: Checkpoint,
    spec: DecoderSpec,
    scheme: Scheme,
    *,
    assets: TextAssets | None = None,
    progress: Progress | None = None,
) -> Scheme:
    """Writes the decoder graph and its weights; returns the scheme that was used.

    A scheme that wants its input rotated gives way to blocks where the architecture does not allow that; it is
    calibrated if the text ``assets`` are given.
    """
    if scheme.wants_rotation and not can_rotate(spec):
        scheme = _SCHEMES["int8-block"]
    weights = LlamaWeights(checkpoint, spec, rotated=scheme.wants_rotation)
    if isinstance(scheme, Rowwise) and assets is not None:
        scheme = replace(scheme, calibration=_calibration(path.parent, weights, scheme, assets))
    shown = progress or NoProgress()
    shown.start(f"Converting to {scheme.name}", spec.layers)
    with GraphBuilder(path, name="decoder") as graph:
        build_decoder(graph, spec, weights, scheme, done=lambda: shown.advance(1))
        graph.save()
    shown.finish()
    return scheme


def _calibration(folder: Path, weights: LlamaWeights, scheme: Rowwise, assets: TextAssets) -> LayerwiseCalibration:
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_buffer(assets.tokenizer))
    if tokenizer.vocab_size > weights.spec.vocab_size:
        raise ModelError(
            f"the tokenizer has ids up to {tokenizer.vocab_size - 1}, the embedding {weights.spec.vocab_size} rows"
        )
    template = None
    if assets.chat_template:
        template = ChatTemplate(assets.chat_template, special_tokens=assets.special_tokens)
    ids = calibration_sequences(tokenizer, template, weights.spec.context_length)
    return LayerwiseCalibration(weights, ids, hadamard_size=scheme.hadamard_size, folder=folder)


def _scheme(name: str) -> Scheme:
    if name not in _SCHEMES:
        raise ConfigError(f"unknown quantization scheme {name!r}; known are: {', '.join(SCHEMES)}")
    return _SCHEMES[name]


def _write_text_assets(folder: Path, checkpoint: Checkpoint, assets: TextAssets) -> None:
    (folder / "tokenizer.json").write_bytes(assets.tokenizer)
    if assets.chat_template:
        (folder / "chat_template.jinja").write_text(assets.chat_template, encoding="utf-8")
    _write_json(folder / "generation_config.json", assets.generation_config)
    _write_json(folder / "special_tokens.json", assets.special_tokens)
    _write_json(folder / "config.json", checkpoint.config)


def _report(
    folder: Path, checkpoint: Checkpoint, spec: DecoderSpec, scheme: Scheme, progress: Progress
) -> Quality | None:
    """Measures the graph against an fp32 one, which is made for it and deleted again."""
    weights = LlamaWeights(checkpoint, spec)
    if 4 * weights.parameters() > MOST_BYTES_FOR_REPORT:
        return None
    reference = folder / "reference"
    reference.mkdir()
    try:
        write_graph(reference / GRAPH_NAME, checkpoint, spec, Float32())
        quality = measure_quality(
            folder / GRAPH_NAME, reference / GRAPH_NAME, folder / "tokenizer.json", spec.context_length, progress
        )
    finally:
        for path in reference.iterdir():
            path.unlink()
        reference.rmdir()
    details = {"scheme": scheme.name, "text": "evaluation.txt", "tokens": quality.tokens, **quality.as_dict()}
    _write_json(folder / "report.json", details)
    return quality


def _manifest(
    folder: Path,
    name: str,
    origin: Source,
    spec: DecoderSpec,
    scheme: Scheme,
    assets: TextAssets,
    quality: Quality | None,
) -> Manifest:
    generation = assets.generation_config
    eos = generation.get("eos_token_id")
    return Manifest(
        name=name,
        architecture=spec.model_type,
        family="decoder",
        tasks=("text-generation", "chat") if assets.chat_template else ("text-generation",),
        graphs={"decoder": GRAPH_NAME},
        context_length=spec.context_length,
        vocab_size=spec.vocab_size,
        kv=KVGeometry(spec.layers, spec.kv_heads, padded_head_size(spec)),
        bos_token_id=generation.get("bos_token_id"),
        eos_token_id=tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,),
        quantization={"scheme": scheme.name, **scheme.settings()},
        files={path.name: _file_entry(path) for path in sorted(folder.iterdir())},
        source=origin,
        embedding=_embedding(folder, spec),
        tool_versions={"edgelm": __version__, "onnx": version("onnx"), "numpy": version("numpy")},
        quality=quality.as_dict() if quality else {},
    )


def _embedding(folder: Path, spec: DecoderSpec) -> EmbeddingFile | None:
    if not (folder / EMBEDDING_NAME).exists():
        return None
    return EmbeddingFile(EMBEDDING_NAME, rows=spec.vocab_size, columns=spec.hidden_size)


def _file_entry(path: Path) -> FileEntry:
    with path.open("rb") as file:
        return FileEntry(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
