"""Checkpoint → bundle: read → build and quantize → verify → publish atomically."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgelm import __version__
from edgelm.bundle.bundle import generation_config_of
from edgelm.bundle.home import stamps_folder
from edgelm.bundle.manifest import MANIFEST_NAME, FileEntry, KVGeometry, Manifest, Source, parse_manifest
from edgelm.bundle.opened import remember
from edgelm.bundle.progress import NoProgress, Progress
from edgelm.bundle.publish import publishing
from edgelm.bundle.tokenizer_kind import tokenizer_kind
from edgelm.runtime.int8_cache import Scales
from edgelm.runtime.memory import megabytes
from edgelm.text_side import fitting_tokenizer
from edgelm_tools.architectures.base import Architecture, Done, ModelFacts
from edgelm_tools.architectures.decoder_model import DecoderModel
from edgelm_tools.architectures.registry import understand
from edgelm_tools.cache_scales import KV_SCALES_NAME, write_cache_scales
from edgelm_tools.calibration import unknown_markers
from edgelm_tools.checkpoint import Checkpoint, TextAssets, open_checkpoint
from edgelm_tools.checkpoint.adapter import AdaptedCheckpoint
from edgelm_tools.conversion_memory import ConversionPlan, plan_conversion
from edgelm_tools.evaluate import MEASURES, Measured, measure_decoder, measure_int8_cache
from edgelm_tools.generation_settings import check_tokens, generation_settings, usable_settings
from edgelm_tools.graph import GraphBuilder, SharedWeights
from edgelm_tools.quantize.schemes import SCHEMES, Blockwise, Float32, Rowwise, Scheme, scheme_named
from edgelm_tools.quantize.tables import written_embedding
from edgelm_tools.tokenizer_form import quick_to_read

__all__ = ["SCHEMES", "export", "graph_name", "write_graph", "write_graphs", "write_text_assets"]


def export(
    source: Path,
    target: Path,
    *,
    name: str,
    origin: Source,
    scheme: str = "int8",
    adapter: Path | None = None,
    report: bool = True,
    force: bool = False,
    progress: Progress | None = None,
    max_memory: int | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Manifest:
    """Converts a checkpoint into a bundle, tensor by tensor, and returns its manifest.

    Args:
        source: a folder with safetensors, or a GGUF file.
        target: folder of the bundle; it appears when all is done.
        name: short name of the model.
        origin: where the checkpoint came from.
        scheme: one of ``SCHEMES``.
        adapter: a folder with a LoRA adapter (PEFT's layout) to merge into the weights.
        report: measure what quantization cost, against fp32 (decoders of any size; others up to 3 GiB of fp32 weights).
        force: replace an existing bundle.
        progress: told of each stage.
        max_memory: bytes of resident memory that the process may have; what does not fit beside quantizing is left out.
        tell: told of what was left out, in words.

    Raises:
        MemoryLimitError: not even quantizing fits into ``max_memory``.
        ConfigError: there is no such scheme.
        ModelError: the checkpoint is broken; UnsupportedModelError: of a kind that is not built natively.
        BundleExistsError: ``target`` exists. LockedError: another process is making it.
        StorageError: the disk is full or not writable.
    """
    chosen, shown = scheme_named(scheme), progress or NoProgress()
    checkpoint = open_checkpoint(source)
    try:
        if adapter is not None:
            checkpoint = AdaptedCheckpoint(checkpoint, adapter)
        model = understand(checkpoint)
        assets = _checked_assets(checkpoint, model.facts, name, tell)
        plan = plan_conversion(model, chosen.name, source, report=report, limit=max_memory)
        for words in plan.left_out:
            tell(f"to stay within {megabytes(max_memory or 0)}: {words}")
        if isinstance(chosen, (Rowwise, Blockwise)):
            chosen = replace(chosen, calibration_tokens=plan.calibration_tokens)
        with publishing(target, force=force) as folder:
            used = model.prepared(chosen, assets, folder)
            write_graphs(folder, model, used, shown)
            write_text_assets(folder, checkpoint.config, assets)
            scales = write_cache_scales(folder, model.facts, assets, shown) if plan.cache_scales else None
            quality = _report(folder, model, used, plan, scales, shown) if plan.report else {}
            manifest = replace(_manifest(folder, name, origin, model.facts, used, assets), quality=quality)
            checked = _write_manifest(folder, manifest)
    finally:
        checkpoint.close()
    remember(target, checked, stamps=stamps_folder())
    return manifest


def write_graphs(folder: Path, model: Architecture, scheme: Scheme, progress: Progress | None = None) -> None:
    """Writes ``ROLE.onnx`` with its weights for every graph of the model."""
    shown = progress or NoProgress()
    shown.start(f"Converting to {scheme.name}", sum(model.layers(role) for role in model.facts.graphs))
    shared: SharedWeights = {}
    for role in model.facts.graphs:
        write_graph(folder / graph_name(role), model, role, scheme, lambda: shown.advance(1), shared)
    shown.finish()


def write_graph(
    path: Path,
    model: Architecture,
    role: str,
    scheme: Scheme,
    done: Done = lambda: None,
    shared: SharedWeights | None = None,
) -> None:
    """Writes one graph of the model, with its weights beside it; ``shared``: as in ``GraphBuilder``."""
    with GraphBuilder(path, name=role, shared=shared) as graph:
        model.build(role, graph, scheme, done)
        graph.save()


def graph_name(role: str) -> str:
    """The file of the graph of that role."""
    return f"{role}.onnx"


def _checked_assets(checkpoint: Checkpoint, facts: ModelFacts, name: str, tell: Callable[[str], None]) -> TextAssets:
    """The text side; what would make a bundle that does not open is found before the work, not behind it."""
    assets = _with_generation_settings(checkpoint.text_assets(), checkpoint.config, facts)
    tokenizer = fitting_tokenizer(assets.tokenizer, facts.vocab_size, what="tokenizer.json", model=name)
    if facts.family == "decoder" and (unknown := unknown_markers(tokenizer, assets, facts.vocab_size)):
        tell(
            f"the chat template writes {', '.join(map(repr, unknown))[:80]}, which the model has no embedding of: "
            f"it takes no conversations, and is calibrated without"
        )
    check_tokens(assets.generation_config, facts.vocab_size)
    if facts.family == "encoder":
        return assets
    settings = usable_settings(assets.generation_config, tell)
    generation_config_of(settings)
    return replace(assets, generation_config=settings)


def _with_generation_settings(assets: TextAssets, config: dict[str, Any], facts: ModelFacts) -> TextAssets:
    if facts.family == "encoder":
        return assets
    settings = generation_settings(assets.generation_config, config, facts.class_defaults)
    return replace(assets, generation_config=settings)


def write_text_assets(folder: Path, config: Mapping[str, Any], assets: TextAssets) -> None:
    """Writes all files of a bundle that are neither graphs nor weights, nor the manifest or the report."""
    (folder / "tokenizer.json").write_bytes(quick_to_read(assets.tokenizer))
    if assets.chat_template:
        (folder / "chat_template.jinja").write_text(assets.chat_template, encoding="utf-8")
    _write_json(folder / "generation_config.json", assets.generation_config)
    _write_json(folder / "special_tokens.json", assets.special_tokens)
    if assets.cleans_up_spaces:
        _write_json(folder / "tokenizer_config.json", {"clean_up_tokenization_spaces": True})
    _write_json(folder / "config.json", config)


def _report(
    folder: Path,
    model: Architecture,
    scheme: Scheme,
    plan: ConversionPlan,
    scales: Scales | None,
    progress: Progress,
) -> dict[str, float]:
    """Measures the bundle against the model in fp32, and its int8 KV cache."""
    if isinstance(model, DecoderModel):
        quality: Measured = measure_decoder(folder, model.pieces(), model.facts, progress)
    else:
        quality = _measured_beside_fp32(folder, model, progress)
    figures = quality.as_dict()
    if scales is not None and plan.cache_figures:
        cache = measure_int8_cache(folder, model.facts, scales, progress).as_dict()
        figures |= {f"int8_cache_{name}": cache[name] for name in ("kl", "perplexity", "top1")}
    details = {"scheme": scheme.name, "text": "evaluation.txt", "tokens": quality.tokens, **figures}
    _write_json(folder / "report.json", details)
    return figures


def _measured_beside_fp32(folder: Path, model: Architecture, progress: Progress) -> Measured:
    """Measures the bundle against an fp32 one, which is made for it and deleted again."""
    reference = folder / "reference"
    reference.mkdir()
    try:
        write_graphs(reference, model, Float32())
        return MEASURES[model.facts.family](folder, reference, model.facts, progress)
    finally:
        for path in reference.iterdir():
            path.unlink()
        reference.rmdir()


def _manifest(
    folder: Path, name: str, origin: Source, facts: ModelFacts, scheme: Scheme, assets: TextAssets
) -> Manifest:
    generation = assets.generation_config
    eos = generation.get("eos_token_id")
    chats = ("chat",) if assets.chat_template and "text-generation" in facts.tasks else ()
    compares = ("sentence-similarity",) if assets.pooling and "feature-extraction" in facts.tasks else ()
    return Manifest(
        name=name,
        architecture=facts.architecture,
        family=facts.family,
        tasks=(*facts.tasks, *chats, *compares),
        graphs={role: graph_name(role) for role in facts.graphs},
        context_length=min(facts.context_length, assets.max_length or facts.context_length),
        vocab_size=facts.vocab_size,
        kv=_geometry(folder, facts),
        bos_token_id=generation.get("bos_token_id"),
        eos_token_id=tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,),
        quantization={"scheme": scheme.name, **scheme.settings()},
        files={path.name: _file_entry(path) for path in sorted(folder.iterdir())},
        source=origin,
        embedding=written_embedding(folder, rows=facts.vocab_size, columns=facts.hidden_size),
        state=facts.state,
        pad_token_id=generation.get("pad_token_id"),
        decoder_start_token_id=_decoder_start(facts, generation),
        source_length=facts.source_length,
        head=facts.head,
        pooling=assets.pooling,
        footprint=replace(facts.footprint, tokenizer=tokenizer_kind(assets.tokenizer)),
        tool_versions={"edgelm": __version__, "onnx": version("onnx"), "numpy": version("numpy")},
    )


def _write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Writes it, and returns it as a reader will find it."""
    document = manifest.to_json()
    checked = parse_manifest(document)
    (folder / MANIFEST_NAME).write_bytes(document)
    return checked


def _decoder_start(facts: ModelFacts, generation: dict[str, Any]) -> int | None:
    if facts.family != "encoder-decoder":
        return None
    start = generation.get("decoder_start_token_id")
    return facts.decoder_start_token_id if start is None else start


def _geometry(folder: Path, facts: ModelFacts) -> KVGeometry | None:
    if facts.kv is None or not (folder / KV_SCALES_NAME).exists():
        return facts.kv
    return replace(facts.kv, scales=KV_SCALES_NAME)


def _file_entry(path: Path) -> FileEntry:
    with path.open("rb") as file:
        return FileEntry(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
