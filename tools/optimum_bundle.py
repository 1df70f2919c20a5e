"""Checkpoint → bundle through optimum, for architectures that are not built natively: export → verify → publish."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm import __version__
from edgelm.bundle.bundle import Bundle, open_bundle
from edgelm.bundle.files import sha256_of
from edgelm.bundle.home import stamps_folder
from edgelm.bundle.manifest import MANIFEST_NAME, FileEntry, Manifest, Source, parse_manifest
from edgelm.bundle.opened import remember
from edgelm.bundle.progress import NoProgress, Progress, transfer
from edgelm.bundle.publish import publishing
from edgelm.config import RuntimeConfig
from edgelm.errors import ConfigError, ModelError
from edgelm.runtime.encoder import Encoder
from edgelm.runtime.foreign.engine import ForeignEngine
from edgelm.runtime.session import Session
from edgelm.text_side import fitting_tokenizer
from edgelm_tools.checkpoint import open_checkpoint
from edgelm_tools.checkpoint.base import TextAssets
from edgelm_tools.export import write_text_assets
from edgelm_tools.optimum_export import (
    OUTPUTS,
    REFERENCE_NAME,
    check_installed,
    export_in_child,
    plain_settings,
    task_of,
)

SCHEME = "fp32"
LAYOUT = "optimum"
# The largest difference of two outputs, in parts of the largest output, that rounding explains.
TOLERANCE = 1e-3
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")


def export_with_optimum(
    source: Path,
    target: Path,
    *,
    name: str,
    origin: Source,
    scheme: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Converts a checkpoint into a bundle with the graphs that optimum makes, and returns its manifest.

    What the bundle gives for a test is compared with what the checkpoint itself gives in torch.

    Args:
        source: a folder with safetensors.
        target: folder of the bundle; it appears when all is done.
        name: short name of the model.
        origin: where the checkpoint came from.
        scheme: ``fp32`` or None.
        force: replace an existing bundle.
        progress: told of each stage.

    Raises:
        ConfigError: another scheme.
        MissingDependencyError: the extra is not installed.
        ModelError: the checkpoint is broken, or its outputs are not the graphs'; UnsupportedModelError: it names code
            of its own, or optimum does not know it.
        BundleExistsError: ``target`` exists. LockedError: another process is making it.
        StorageError: the disk is full or not writable.
    """
    if scheme not in (None, SCHEME):
        raise ConfigError(f"the graphs of optimum are kept in {SCHEME}; --scheme {scheme} is for models built natively")
    check_installed()
    with closing(open_checkpoint(source)) as checkpoint:
        config, assets = checkpoint.config, checkpoint.text_assets()
        settings = plain_settings(config)
    shown = progress or NoProgress()
    with publishing(target, force=force) as folder:
        with _workshop(source, settings, folder) as (plain, made):
            with transfer(shown, "Exporting with optimum", None):
                export_in_child(plain, made, task_of(settings))
            reference = dict(np.load(made / REFERENCE_NAME))
            _copy_graphs(made, folder)
            assets = _with_generation_settings(assets, made)
        write_text_assets(folder, config, assets)
        with transfer(shown, "Comparing with the checkpoint", None):
            bundle = open_bundle(folder)
            fitting_tokenizer(assets.tokenizer, bundle.manifest.vocab_size, what="tokenizer.json", model=name)
            error = _error(bundle, reference)
        if not error < TOLERANCE:
            raise ModelError(f"the exported graphs are wrong: they differ by {error:.2g} from the checkpoint's outputs")
        manifest = _manifest(bundle, name, origin, assets, error)
        document = manifest.to_json()
        checked = parse_manifest(document)
        (folder / MANIFEST_NAME).write_bytes(document)
    remember(target, checked, stamps=stamps_folder())
    return manifest


@contextmanager
def _workshop(source: Path, settings: dict[str, Any], within: Path) -> Iterator[tuple[Path, Path]]:
    """A folder with nothing of the checkpoint but weights and plain settings, and one to write to.

    Both lie where the bundle is made: what a killed process leaves there, its next run removes.
    """
    with tempfile.TemporaryDirectory(prefix="workshop-", dir=within) as root:
        plain = Path(root) / "checkpoint"
        plain.mkdir()
        (plain / "config.json").write_text(json.dumps(settings), encoding="utf-8")
        folder = source if source.is_dir() else source.parent
        for pattern in _WEIGHTS:
            for path in folder.glob(pattern):
                (plain / path.name).symlink_to(path.resolve())
        yield plain, Path(root) / "made"


def _copy_graphs(made: Path, folder: Path) -> None:
    """The graphs that will be run, and their weights: of a decoder, optimum also leaves the parts it was merged of."""
    bundle = open_bundle(made)
    for graph in bundle.graphs.values():
        for name in (graph.file_name, *graph.external_files):
            if not (folder / name).exists():
                shutil.copyfile(made / name, folder / name)


def _with_generation_settings(assets: TextAssets, made: Path) -> TextAssets:
    """Where the checkpoint has none of its own, those that transformers takes from the model's configuration."""
    path = made / "generation_config.json"
    if assets.generation_config or not path.exists():
        return assets
    return replace(assets, generation_config=json.loads(path.read_text(encoding="utf-8")))


def _manifest(bundle: Bundle, name: str, origin: Source, assets: TextAssets, error: float) -> Manifest:
    found = bundle.manifest
    limits = (found.context_length, assets.max_length or found.context_length)
    return replace(
        found,
        name=name,
        tasks=(*found.tasks, "sentence-similarity") if assets.pooling and found.family == "encoder" else found.tasks,
        context_length=min(limits),
        quantization={"scheme": SCHEME},
        files={path.name: FileEntry(path.stat().st_size, sha256_of(path)) for path in sorted(bundle.folder.iterdir())},
        source=origin,
        pooling=assets.pooling,
        tool_versions={
            "edgelm": __version__,
            **{package: version(package) for package in ("optimum-onnx", "torch", "transformers")},
        },
        quality={"max_output_error": error},
        layout=LAYOUT,
    )


def _error(bundle: Bundle, reference: dict[str, NDArray[Any]]) -> float:
    """The largest difference of an output to the reference's, in parts of the largest output."""
    outputs = _outputs(bundle, reference["ids"][0].tolist(), reference["source"][0].tolist())
    errors = [
        float(np.abs(array - reference[name][0]).max() / np.abs(reference[name]).max())
        for name, array in outputs.items()
        if name in reference
    ]
    return max(errors, default=float("inf"))


def _outputs(bundle: Bundle, ids: list[int], source: list[int]) -> dict[str, NDArray[np.float32]]:
    """Output name → that of one row."""
    manifest, runtime = bundle.manifest, RuntimeConfig(prefill_chunk=len(ids), prepack=False)
    if manifest.family == "encoder":
        graph = bundle.path(manifest.graphs["encoder"])
        session = Session(graph, threads=1, renamed=manifest.renamed)
        made = Encoder(session, [name for name in session.outputs if name in OUTPUTS]).run([ids])
        session.close()
        return {name: array[0] for name, array in made.items()}
    engine = ForeignEngine(bundle, runtime, len(ids) + 1)
    try:
        if manifest.family == "decoder":
            return {"logits": np.concatenate(list(engine.new_decoder().all_logits(ids)))}
        batch = engine.new_batch([source])
        rows = [batch.prefill([ids[:1]])[0].copy(), *(batch.step(np.array([token]))[0].copy() for token in ids[1:])]
        return {"logits": np.stack(rows)}
    finally:
        engine.close()
