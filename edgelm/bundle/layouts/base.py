"""What every layout offers: does it recognise a folder, and which of its files make the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from edgelm.bundle.layouts.listing import Listing
from edgelm.bundle.manifest import Pooling


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A folder as a layout reads it, before any graph is looked at.

    Attributes:
        family: as in a manifest.
        folder: where the graphs lie: ``""`` for the folder itself, or the name of a sub-folder.
        graphs: role → plain file name there.
        variant, variants: the one that was chosen, and all that there are, best first.
        config: the fields of a Hugging Face ``config.json``, whatever the layout's own file is.
        generation: the fields of a ``generation_config.json``.
        renamed: usual name of an input or output → the graphs' own.
        pooling: how hidden states become a text's vector.
        max_length: tokens that the model is given at most.
    """

    family: str
    graphs: dict[str, str]
    variant: str
    variants: tuple[str, ...]
    config: Mapping[str, Any]
    folder: str = ""
    generation: Mapping[str, Any] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    pooling: Pooling | None = None
    max_length: int | None = None


class Layout(Protocol):
    """A way in which another tool lays out a folder."""

    name: str

    def recognises(self, listing: Listing) -> bool:
        """Whether the folder is of this layout, by the names of its files alone."""
        ...

    def read(self, listing: Listing, variant: str | None) -> Found:
        """Chooses the graphs and reads the model's settings.

        Raises:
            ConfigError: there is no such variant.
            ModelError: a file breaks a rule; UnsupportedModelError: a kind of model that is not run.
        """
        ...
