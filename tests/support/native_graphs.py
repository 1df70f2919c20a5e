"""Graphs that the exporter builds, without a bundle around them."""

from __future__ import annotations

from pathlib import Path

from edgelm_tools.architectures.registry import understand
from edgelm_tools.checkpoint import Checkpoint
from edgelm_tools.export import write_graph
from edgelm_tools.quantize.schemes import Scheme


def write_native(path: Path, checkpoint: Checkpoint, scheme: Scheme, *, role: str = "decoder") -> Scheme:
    """Writes a checkpoint's graph in a scheme, not calibrated, or in what stands in for it; returns what was used."""
    model = understand(checkpoint)
    used = model.prepared(scheme, None, path.parent)
    write_graph(path, model, role, used)
    return used
