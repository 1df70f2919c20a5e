"""What converting a checkpoint is going to make of it, told by its headers: no tensor is read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgelm.bundle.manifest import Manifest
from edgelm.bundle.model_shape import ModelShape, expected_manifest
from edgelm.bundle.tokenizer_kind import kind_of_file
from edgelm_tools.architectures.base import Architecture
from edgelm_tools.architectures.registry import understand
from edgelm_tools.checkpoint import open_checkpoint
from edgelm_tools.quantize.schemes import Rowwise, scheme_named


def expected_bundle(source: Path, *, scheme: str) -> Manifest:
    """The manifest of the bundle that a checkpoint will be, right about what memory depends on.

    Args:
        source: a folder with safetensors, or a GGUF file.
        scheme: one of ``SCHEMES``.

    Raises:
        ConfigError: there is no such scheme.
        ModelError: the checkpoint is broken; UnsupportedModelError: of a kind that is not built natively.
    """
    scheme_named(scheme)
    checkpoint = open_checkpoint(source)
    try:
        model = understand(checkpoint)
        return expected_manifest(
            shape_of(model, source),
            name=source.resolve().name,
            tasks=model.facts.tasks,
            parameters=model.parameters(),
            context_length=model.facts.context_length,
            scheme=scheme,
        )
    finally:
        checkpoint.close()


def shape_of(model: Architecture, source: Path) -> ModelShape:
    """The sizes of a model that was understood; ``source``: where its tokenizer may lie."""
    facts = model.facts
    rowwise = model.prepared(Rowwise(), None, source)
    return ModelShape(
        architecture=facts.architecture,
        family=facts.family,
        vocab_size=facts.vocab_size,
        footprint=replace(facts.footprint, tokenizer=_tokenizer(source)),
        layers={role: model.layers(role) for role in facts.graphs},
        table_columns=facts.hidden_size,
        kv=facts.kv,
        state=facts.state,
        source_length=facts.source_length,
        rotary_values=facts.rotary_values,
        rotates=isinstance(rowwise, Rowwise),
    )


def _tokenizer(source: Path) -> str | None:
    """The kind of tokenizer, where a file tells without being converted."""
    file = source / "tokenizer.json"
    return kind_of_file(file) if file.is_file() else None
