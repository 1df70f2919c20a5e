"""``--record FILE`` of ``edgelm run``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from edgelm.cli.help_page import OWN
from edgelm.cli.options import option
from edgelm.cli.output_file import OUTPUT_FILE
from edgelm.errors import BundleExistsError, ConfigError, ManifestError, PromptError

if TYPE_CHECKING:
    from edgelm.language_model import LanguageModel
    from edgelm.replay.record import Recorder

Asker: TypeAlias = "LanguageModel | Recorder"
"""What answers are asked of: a model, or what records one."""


def record_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--record``, a file that the function gets as ``record``; None where it is not given."""
    told = "Write all that the answer depends on to a file, for edgelm replay."
    return option(OWN, "--record", metavar="FILE", type=OUTPUT_FILE, help=told)(function)


def check_recordable(file: Path | None, others: Mapping[str, object]) -> None:
    """Refuses, before anything is loaded, what an answer cannot be recorded with or into.

    Args:
        file: where it shall be written; None: nowhere.
        others: options by name, None where they are not given, that a replay does not hold.

    Raises:
        click.UsageError: one of these is given.
        BundleExistsError: there is another file of that name, which is no replay.
    """
    if file is None:
        return
    from edgelm.replay.file import Replay

    for name, value in others.items():
        if value is not None:
            raise click.UsageError(f"--record goes without {name}: a replay holds one model, no functions, no caches")
    # Into an empty file, a pipe or a device it is simply written; to read a pipe would wait for its writer.
    if file.is_dir() or (file.is_file() and file.stat().st_size):
        try:
            Replay.load(file)
        except (PromptError, ManifestError, ConfigError):
            raise BundleExistsError(f"{file} exists and is no replay; choose another name") from None


def answers_of(lm: LanguageModel, file: Path | None) -> Asker:
    """The model, or what records it.

    Raises:
        ConfigError: it is a folder of another tool.
    """
    if file is None:
        return lm
    from edgelm.replay.record import Recorder

    return Recorder(lm)


def save_recording(asker: Asker, file: Path | None) -> None:
    """Writes the answer, which has ended.

    Raises:
        StorageError: the disk is full or not writable.
    """
    if file is None:
        return
    from edgelm.replay.record import Recorder

    if isinstance(asker, Recorder):
        asker.replay().save(file)
