"""Disentangled attention (DeBERTa, arXiv 2006.03654): what a token is and how far it is from another score apart.

To a query's score for a key come two more: what the query says to the distance of the key (c2p, content to position),
and what the key says to it (p2c). Distances are rows of one table; far ones share rows (arXiv 2111.09543).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import UnsupportedModelError
from edgelm_tools.architectures.config_fields import ConfigFields

TERMS = ("c2p", "p2c")
MOST_POSITIONS = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Disentangled:
    """How distances enter the scores.

    Attributes:
        terms: which of ``TERMS`` are added.
        half: rows of the table for each direction; row ``half`` is a token's own.
        buckets: up to half of so many distances each way have a row of their own; 0: all have.
        longest: the distance from which all share the last of the other rows.
        shared: positions are projected by the layers' own queries and keys, not by projections of their own.
        normed: the table is normed first.
    """

    terms: tuple[str, ...]
    half: int
    buckets: int
    longest: int
    shared: bool
    normed: bool

    def rows(self, context: int) -> NDArray[np.int64]:
        """The table's row for each place of a query minus its key's, −context … context: (2 · context + 1,)."""
        distances = np.arange(-context, context + 1)
        steps = self._bucketed(distances) if self.buckets else distances
        return np.clip(steps + self.half, 0, 2 * self.half - 1)

    def _bucketed(self, distances: NDArray[np.int64]) -> NDArray[np.int64]:
        """Distances up to the middle as they are, then ever wider runs of them: rounds as the reference does."""
        middle = self.buckets // 2
        far = np.maximum(np.abs(distances), middle)
        grown = np.log(far / middle) / np.log((self.longest - 1) / middle) * (middle - 1)
        steps = np.ceil(grown.astype(np.float32)).astype(np.int64) + middle
        return np.where(far == middle, distances, steps * np.sign(distances))


def position_terms(config: Mapping[str, Any], fields: ConfigFields) -> tuple[str, ...]:
    """Those of ``TERMS`` that the configuration's ``pos_att_type`` names: a list, or a text with bars between.

    Raises:
        UnsupportedModelError: it names another one.
        ModelError: it is no list of names.
    """
    given = config.get("pos_att_type")
    names = given.lower().split("|") if isinstance(given, str) else [] if given is None else given
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise fields.fault("pos_att_type", f"must be a list of names, not {given!r:.80}")
    found = {name.strip() for name in names}
    for name in sorted(found - set(TERMS)):
        raise UnsupportedModelError(
            f"{fields.what}: pos_att_type {name!r:.80} is not known; known are {', '.join(TERMS)}"
        )
    return tuple(term for term in TERMS if term in found)


def disentangled(fields: ConfigFields, terms: tuple[str, ...], positions: int) -> Disentangled | None:
    """Reads a configuration; None: distances have no part in attention. ``positions``: of the model.

    Raises:
        UnsupportedModelError, ModelError: as ``encoder_spec``.
    """
    if not fields.flag("relative_attention") or not terms:
        return None
    longest = fields.integer("max_relative_positions", least=-1, most=MOST_POSITIONS)
    longest = longest if longest > 0 else positions
    buckets = max(0, fields.integer("position_buckets", least=-1, most=MOST_POSITIONS))
    if buckets and not 1 <= buckets // 2 < longest - 1:
        raise fields.fault("position_buckets", f"must be from 2 to {2 * longest - 3}, not {buckets}")
    return Disentangled(
        terms=terms,
        half=buckets or longest,
        buckets=buckets,
        longest=longest,
        shared=fields.flag("share_att_key"),
        normed=fields.choice("norm_rel_ebd", ("none", "layer_norm")) == "layer_norm",
    )
