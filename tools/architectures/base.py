"""What every architecture offers to the exporter: a checkpoint that it has understood, and graphs made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from edgelm.bundle.manifest import Footprint, Head, KVGeometry, RecurrentState
from edgelm_tools.checkpoint.base import TextAssets
from edgelm_tools.graph import GraphBuilder
from edgelm_tools.quantize.scheme import Scheme

Done = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What the manifest says of a model; the fields are those of ``Manifest``.

    Attributes:
        graphs: roles of the graphs, in the order in which they are built.
        hidden_size: width of the embedding table, if that is kept in a file of its own.
        footprint: without the tokenizer.
        rotary_values: cosines and sines of a position, if the graph has tables of them.
        decoder_start_token_id: by the configuration; a ``generation_config.json`` may say otherwise.
        class_defaults: of transformers' configuration class, for fields that ``config.json`` may leave out; those
            about generation are read.
    """

    architecture: str
    family: str
    tasks: tuple[str, ...]
    graphs: tuple[str, ...]
    context_length: int
    vocab_size: int
    hidden_size: int
    footprint: Footprint
    kv: KVGeometry | None = None
    state: RecurrentState | None = None
    decoder_start_token_id: int | None = None
    source_length: int | None = None
    rotary_values: int = 0
    head: Head | None = None
    class_defaults: Mapping[str, Any] = field(default_factory=dict)


class Architecture(Protocol):
    """One checkpoint, understood: opened by the class that ``registry`` names for its model type."""

    @property
    def facts(self) -> ModelFacts:
        """What the bundle will be."""
        ...

    def parameters(self) -> int:
        """How many values the checkpoint has."""
        ...

    def layers(self, role: str) -> int:
        """How often ``build`` calls ``done`` for the graph of that role."""
        ...

    def prepared(self, scheme: Scheme, assets: TextAssets | None, folder: Path) -> Scheme:
        """The scheme that is used where ``scheme`` was asked for: calibrated, or another one if it does not fit.

        Args:
            scheme: as the user named it.
            assets: text to calibrate on can be encoded with them; None: no calibration.
            folder: for temporary files.
        """
        ...

    def build(self, role: str, g: GraphBuilder, scheme: Scheme, done: Done) -> None:
        """Adds a whole graph; weights are read and written layer by layer, and ``done`` called after each."""
        ...
