"""A tiny encoder of transformers, its checkpoint, and the fp32 graph that the exporter builds of it, opened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.native_graphs import write_native
from support.tiny_encoders import Encoder, reference_encoder, write_encoder

from edgelm.runtime.session import Session
from edgelm_tools.checkpoint import Checkpoint, open_checkpoint
from edgelm_tools.quantize.schemes import Float32


@dataclass(frozen=True)
class NativeEncoder:
    """transformers' model, and what was made of it."""

    model: Any
    checkpoint: Checkpoint
    session: Session


@contextmanager
def native_encoder(variant: Encoder, folder: Path) -> Iterator[NativeEncoder]:
    """The variant, written to ``folder``."""
    model = reference_encoder(variant)
    checkpoint = open_checkpoint(write_encoder(folder / "checkpoint", model))
    write_native(folder / "encoder.onnx", checkpoint, Float32(), role="encoder")
    session = Session(folder / "encoder.onnx", threads=1, spinning=False)
    try:
        yield NativeEncoder(model, checkpoint, session)
    finally:
        session.close()
        checkpoint.close()
