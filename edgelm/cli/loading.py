"""Loads the MODEL of a command line, with the machine's options."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgelm.bundle.bundle import manifest_of
from edgelm.bundle.catalog import CatalogEntry, load_catalog, own_catalog
from edgelm.bundle.store import Store
from edgelm.cli import console
from edgelm.cli.installed import ensure_installed
from edgelm.cli.options import MachineOptions
from edgelm.errors import ConfigError

if TYPE_CHECKING:
    from edgelm.bundle.bundle import Bundle
    from edgelm.encoder_model import EncoderModel
    from edgelm.language_model import LanguageModel
    from edgelm.loaded_model import LoadedModel


def load_folder(folder: Path, machine: MachineOptions, draft: str | None = None) -> LanguageModel:
    """The loaded model, for the caller to close, with a draft model if one is named; see ``edgelm.load`` for errors."""
    import edgelm

    drafting = None if draft is None else ensure_installed(draft, offline=machine.offline)
    lm = edgelm.load(folder, draft=drafting, **load_settings(folder, machine))
    _tell_variant(lm.bundle, machine)
    tell_steps(lm)
    return lm


def load_encoder_folder(folder: Path, machine: MachineOptions) -> EncoderModel:
    """The loaded encoder, for the caller to close; for the errors see ``load_encoder``."""
    from edgelm.encoder_model import load_encoder

    settings = load_settings(folder, machine)
    if settings.pop("kv_cache") is not None:
        raise click.UsageError(
            f"--kv-cache is for models that write text; {folder.name} is an encoder, without a cache"
        )
    encoder = load_encoder(folder, **settings)
    _tell_variant(encoder.bundle, machine)
    tell_steps(encoder)
    return encoder


def load_for_labels(folder: Path, machine: MachineOptions) -> EncoderModel | LanguageModel:
    """The loaded model of whichever family it is, for the caller to close."""
    family = manifest_of(folder, variant=machine.variant).family
    return load_encoder_folder(folder, machine) if family == "encoder" else load_folder(folder, machine)


def load_settings(folder: Path, machine: MachineOptions) -> dict[str, Any]:
    """The settings of ``load``; a context window that the catalog has for the model limits it.

    Says where more threads are asked for than there are cores, which wait for each other.
    """
    from edgelm.runtime.cores import available_cores

    cores = available_cores()
    if machine.threads is not None and machine.threads > cores:
        console.warning(f"{machine.threads} threads on {cores} core{'s' * (cores != 1)}: more than cores slow it down")
    return {
        "max_memory": machine.max_memory,
        "memory_check": machine.memory_check,
        "threads": machine.threads,
        "context_length": machine.context_length,
        "context_limit": _catalog_limit(folder, machine),
        "kv_cache": machine.kv_cache,
        "prepack": machine.prepack,
        "variant": machine.variant,
    }


def _catalog_limit(folder: Path, machine: MachineOptions) -> int | None:
    """The context window that the catalog has for an installed model, if the model's own is longer."""
    entry = installed_entry(folder)
    if entry is None or entry.context_length is None:
        return None
    return (
        entry.context_length
        if entry.context_length < manifest_of(folder, variant=machine.variant).context_length
        else None
    )


def _tell_variant(bundle: Bundle, machine: MachineOptions) -> None:
    """Says which of the forms that a folder of another tool has was chosen, unless it was asked for."""
    if len(bundle.variants) > 1 and machine.variant is None:
        others = ", ".join(name for name in bundle.variants if name != bundle.variant)
        console.say(f"{bundle.manifest.name}: running the variant {bundle.variant}; --variant takes {others} too")


def tell_steps(model: LoadedModel) -> None:
    """Says what was changed so that the model fits into memory."""
    if model.fitting.steps:
        console.say(f"{model.name}: to fit into memory: {', '.join(map(str, model.fitting.steps))}")


def memory_fields(model: LoadedModel) -> dict[str, Any]:
    """For ``--json``: the limit, what the model was said to take within it, and the settings that were changed."""
    fitting = model.fitting
    return {
        "limit_bytes": model.runtime.max_memory,
        "estimated_bytes": fitting.need.total,
        "changed": fitting.changed,
    }


def system_prompt(folder: Path, given: str | None) -> str | None:
    """What a conversation starts with: as given, else as the catalog has it for this model."""
    if given is not None:
        return given or None  # --system "" asks for none
    entry = installed_entry(folder)
    return None if entry is None else entry.system_prompt


def installed_entry(folder: Path) -> CatalogEntry | None:
    """The catalog's entry of an installed model.

    A mistake in the user's catalog is told, and keeps no model that is there already from running.
    """
    if folder.parent != Store().root:
        return None
    try:
        catalog = load_catalog()
    except ConfigError as error:
        _tell_once(f"{error}; until that is mended, nothing of that file holds")
        catalog = own_catalog()
    return catalog.get(folder.name)


@functools.cache
def _tell_once(fault: str) -> None:
    console.warning(fault)
