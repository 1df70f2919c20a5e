"""Loads the MODEL of a command line, with the machine's options."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgelm.bundle.catalog import load_catalog
from edgelm.cli.options import MachineOptions

if TYPE_CHECKING:
    from edgelm.language_model import LanguageModel


def load_folder(folder: Path, machine: MachineOptions) -> LanguageModel:
    """The loaded model, for the caller to close; for the errors see ``edgelm.load``."""
    import edgelm

    return edgelm.load(
        folder,
        max_memory=machine.max_memory,
        threads=machine.threads,
        context_length=machine.context_length,
        prepack=machine.prepack,
    )


def system_prompt(model: str, given: str | None) -> str | None:
    """What a conversation starts with: as given, else as the catalog has it for this model."""
    if given is not None:
        return given or None  # --system "" asks for none
    entry = load_catalog().get(model)
    return None if entry is None else entry.system_prompt
