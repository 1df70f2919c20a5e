"""Attention maps: who looked at whom, layer by layer and head by head."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import ConfigError

MapKind = Literal["encoder", "decoder", "cross"]
# Digits behind the point of the numbers that are printed.
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class AttentionMap:
    """One attention of all layers: of an encoder, of a decoder, or of a decoder over its encoder's source.

    Attributes:
        kind: ``encoder``, ``decoder`` or ``cross``.
        layers: numbers of the layers that are there, from 0.
        heads: numbers of the heads.
        queries: the tokens that look, as text.
        keys: the tokens that are looked at.
        weights: (layers, heads, queries, keys) float32; each row sums to 1.
    """

    kind: MapKind
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    queries: tuple[str, ...]
    keys: tuple[str, ...]
    weights: NDArray[np.float32]

    @property
    def entropy(self) -> NDArray[np.float32]:
        """How widely each head looks: the mean of its rows' entropies in bits, (layers, heads) float32.

        0: every token looks at one token alone; log2 of the number of keys: at all of them alike.
        """
        return np.stack([_row_entropies(layer).mean(axis=-1) for layer in self.weights])

    def chosen(self, heads: Collection[int]) -> AttentionMap:
        """The map of these heads alone.

        Raises:
            ConfigError: there is no such head; says which there are.
        """
        check_numbers("head", heads, self.heads)
        places = [place for place, head in enumerate(self.heads) if head in heads]
        return replace(self, heads=tuple(self.heads[place] for place in places), weights=self.weights[:, places])

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values, as ``--json`` prints it."""
        return {
            "kind": self.kind,
            "layers": list(self.layers),
            "heads": list(self.heads),
            "queries": list(self.queries),
            "keys": list(self.keys),
            "entropy": _plain(self.entropy),
            "weights": _plain(self.weights),
        }


@dataclass(frozen=True, slots=True)
class Attention:
    """What a model attends to in a text.

    Attributes:
        model: its name.
        prompt_tokens: tokens of the text.
        answer: what the model wrote behind it; empty where nothing was asked for.
        maps: of an encoder ``encoder``; of a decoder ``decoder``, whose tokens are the text's and then the answer's;
            of an encoder-decoder ``encoder``, and where there is an answer ``decoder`` and ``cross``, whose queries are
            the start token and the answer's. A recurrent decoder has ``cross`` only.
    """

    model: str
    prompt_tokens: int
    answer: str
    maps: tuple[AttentionMap, ...]

    def of(self, kind: MapKind) -> AttentionMap:
        """The map of that kind.

        Raises:
            ConfigError: there is none.
        """
        for one in self.maps:
            if one.kind == kind:
                return one
        there = ", ".join(one.kind for one in self.maps)
        raise ConfigError(f"{self.model} has no attention of the kind {kind!r:.80} here; there is: {there}")

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values, as ``--json`` prints it."""
        return {
            "model": self.model,
            "prompt_tokens": self.prompt_tokens,
            "answer": self.answer,
            "maps": [one.as_dict() for one in self.maps],
        }


def check_numbers(what: str, wanted: Collection[int], there: Sequence[int]) -> None:
    """Refuses numbers of layers or heads that a model does not have, or none at all.

    Raises:
        ConfigError: names the first, and those there are.
    """
    missing = [number for number in wanted if number not in there]
    if missing or not wanted:
        asked = f"there is no {what} {missing[0]!r:.80}" if missing else f"no {what} was chosen"
        raise ConfigError(f"{asked}; {what}s are from {min(there)} to {max(there)}")


def _row_entropies(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """(…, keys) → (…), in bits."""
    logs = np.log2(weights, out=np.zeros_like(weights), where=weights > 0)
    entropies: NDArray[np.float32] = -np.einsum("...k,...k->...", weights, logs)
    return np.maximum(entropies, 0)


def _plain(values: NDArray[np.float32]) -> Any:
    return np.round(values.astype(np.float64), _DIGITS).tolist()
