"""Loads the MODEL of a command line, with the machine's options."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgelm.bundle.catalog import load_catalog
from edgelm.cli import console
from edgelm.cli.options import MachineOptions

if TYPE_CHECKING:
    from edgelm.bundle.bundle import Bundle
    from edgelm.encoder_model import EncoderModel
    from edgelm.language_model import LanguageModel


def load_folder(folder: Path, machine: MachineOptions) -> LanguageModel:
    """The loaded model, for the caller to close; for the errors see ``edgelm.load``."""
    import edgelm

    lm = edgelm.load(folder, **_settings(machine))
    _tell_variant(lm.bundle, machine)
    return lm


def load_encoder_folder(folder: Path, machine: MachineOptions) -> EncoderModel:
    """The loaded encoder, for the caller to close; for the errors see ``load_encoder``."""
    from edgelm.encoder_model import load_encoder

    encoder = load_encoder(folder, **_settings(machine))
    _tell_variant(encoder.bundle, machine)
    return encoder


def load_for_labels(folder: Path, machine: MachineOptions) -> EncoderModel | LanguageModel:
    """The loaded model of whichever family it is, for the caller to close."""
    from edgelm.bundle.bundle import open_bundle
    from edgelm.bundle.home import stamps_folder

    family = open_bundle(folder, stamps=stamps_folder(), variant=machine.variant).manifest.family
    return load_encoder_folder(folder, machine) if family == "encoder" else load_folder(folder, machine)


def _settings(machine: MachineOptions) -> dict[str, Any]:
    """What both kinds of models take."""
    return {
        "max_memory": machine.max_memory,
        "threads": machine.threads,
        "context_length": machine.context_length,
        "prepack": machine.prepack,
        "variant": machine.variant,
    }


def _tell_variant(bundle: Bundle, machine: MachineOptions) -> None:
    """Says which of the forms that a folder of another tool has was chosen, unless it was asked for."""
    if len(bundle.variants) > 1 and machine.variant is None:
        others = ", ".join(name for name in bundle.variants if name != bundle.variant)
        console.say(f"{bundle.manifest.name}: running the variant {bundle.variant}; --variant takes {others} too")


def system_prompt(model: str, given: str | None) -> str | None:
    """What a conversation starts with: as given, else as the catalog has it for this model."""
    if given is not None:
        return given or None  # --system "" asks for none
    entry = load_catalog().get(model)
    return None if entry is None else entry.system_prompt
