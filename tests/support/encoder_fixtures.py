"""Opens tiny encoders for tests of tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.encoder_bundle import TinyEncoder, write_encoder_bundle

from edgelm.encoder_model import EncoderModel, load_encoder


def open_encoder(folder: Path, task: str = "feature-extraction", **changes: Any) -> EncoderModel:
    """A loaded tiny encoder, for the caller to close; ``changes`` are those of ``TinyEncoder``."""
    return load_encoder(write_encoder_bundle(folder, TinyEncoder(task=task, **changes)), prepack=False, threads=1)
