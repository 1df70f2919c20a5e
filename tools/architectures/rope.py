"""Rotary position embeddings: the frequencies of each scaling that checkpoints use, as tables of cosines and sines.

Formulas: RoFormer (arXiv 2104.09864), YaRN (2309.00071), LongRoPE (2402.13753); Llama 3's smoothing as published.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import UnsupportedModelError

Frequencies = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Rope:
    """One kind of rotary embedding: frequencies (dim / 2,) in radians a token, and the factor on cosine and sine.

    ``context_length`` is how many tokens these frequencies hold for; None: no limit of its own.
    """

    frequencies: tuple[float, ...]
    factor: float = 1.0
    context_length: int | None = None

    def tables(self, length: int, *, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Cosines and sines for positions 0 … length − 1: two (length, width) float32, zeros behind the dim / 2."""
        angles = np.arange(length, dtype=np.float32)[:, None] * np.asarray(self.frequencies, np.float32)[None, :]
        factor = np.float32(self.factor)
        extra = ((0, 0), (0, width - angles.shape[1]))
        return np.pad(np.cos(angles) * factor, extra), np.pad(np.sin(angles) * factor, extra)


@dataclass(frozen=True, slots=True)
class _Settings:
    base: float
    dim: int
    context_length: int
    scaling: Mapping[str, Any]


def make_rope(config: Mapping[str, Any], *, head_size: int, base: float, scaling: Mapping[str, Any] | None) -> Rope:
    """The rotary embedding that a Hugging Face configuration describes.

    Raises:
        UnsupportedModelError: a scaling of unknown type; names the known ones.
    """
    scaling = scaling or {}
    share = config.get("partial_rotary_factor") or scaling.get("partial_rotary_factor") or 1.0
    settings = _Settings(base, int(head_size * share), int(config["max_position_embeddings"]), scaling)
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind not in _KINDS:
        raise UnsupportedModelError(f"rope_scaling of type {kind!r} is not known; known are: {', '.join(_KINDS)}")
    if kind == "longrope":
        settings = _Settings(base, settings.dim, settings.context_length, _with_original_length(config, scaling))
    return _KINDS[kind](settings)


def _plain(base: float, dim: int) -> Frequencies:
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    frequencies: Frequencies = (1.0 / np.power(np.float32(base), exponents)).astype(np.float32)
    return frequencies


def _rope(frequencies: Frequencies, factor: float = 1.0, context_length: int | None = None) -> Rope:
    return Rope(tuple(frequencies.tolist()), factor, context_length)


def _default(s: _Settings) -> Rope:
    return _rope(_plain(s.base, s.dim))


def _linear(s: _Settings) -> Rope:
    return _rope(_plain(s.base, s.dim) / np.float32(s.scaling["factor"]))


def _dynamic(s: _Settings) -> Rope:
    # The base grows with the text only beyond the trained length, and would change keys that are cached already:
    # within that length the frequencies are the plain ones, so that is where the model is used.
    return _rope(_plain(s.base, s.dim), context_length=s.context_length)


def _llama3(s: _Settings) -> Rope:
    plain = _plain(s.base, s.dim)
    factor, low, high = (float(s.scaling[k]) for k in ("factor", "low_freq_factor", "high_freq_factor"))
    wavelengths = 2 * np.pi / plain
    original = float(s.scaling["original_max_position_embeddings"])
    smooth = np.clip((original / wavelengths - low) / (high - low), 0, 1)
    return _rope((smooth * plain + (1 - smooth) * plain / factor).astype(np.float32))


def _yarn(s: _Settings) -> Rope:
    factor = float(s.scaling["factor"])
    original = s.scaling.get("original_max_position_embeddings") or s.context_length
    plain = _plain(s.base, s.dim)

    def dimension(rotations: float) -> float:
        return s.dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(s.base))

    low, high = dimension(s.scaling.get("beta_fast") or 32), dimension(s.scaling.get("beta_slow") or 1)
    if s.scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, s.dim - 1)
    ramp = np.clip((np.arange(s.dim // 2, dtype=np.float32) - low) / max(high - low, 0.001), 0, 1)
    mixed = plain / factor * ramp + plain * (1 - ramp)
    return _rope(mixed.astype(np.float32), _yarn_attention_factor(s.scaling, factor))


def _yarn_attention_factor(scaling: Mapping[str, Any], factor: float) -> float:
    def mscale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if scaling.get("attention_factor") is not None:
        return float(scaling["attention_factor"])
    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        return mscale(scaling["mscale"]) / mscale(scaling["mscale_all_dim"])
    return mscale(1.0)


def _with_original_length(config: Mapping[str, Any], scaling: Mapping[str, Any]) -> dict[str, Any]:
    original = config.get("original_max_position_embeddings") or scaling.get("original_max_position_embeddings")
    return {**scaling, "original_max_position_embeddings": original or config["max_position_embeddings"]}


def _longrope(s: _Settings) -> Rope:
    # Two sets of frequencies, chosen by the length of the text: the short set is right up to the original length,
    # and keys cached under it would be wrong under the other.
    original = int(s.scaling["original_max_position_embeddings"])
    factor = s.context_length / original
    attention = s.scaling.get("attention_factor")
    if attention is None:
        attention = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    frequencies = _plain(s.base, s.dim) / np.asarray(s.scaling["short_factor"], np.float32)
    return _rope(frequencies.astype(np.float32), float(attention), original)


_KINDS: dict[str, Callable[[_Settings], Rope]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}
