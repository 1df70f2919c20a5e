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
from edgelm_tools.architectures.config_fields import ConfigFields

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
    """``original_length``: the length before the context was extended, where the model itself gives it."""

    base: float
    dim: int
    context_length: int
    original_length: int | None
    scaling: ConfigFields


def make_rope(fields: ConfigFields, *, head_size: int, base: float, scaling: Mapping[str, Any]) -> Rope:
    """The rotary embedding that a Hugging Face configuration describes.

    Args:
        fields: the configuration; read are ``partial_rotary_factor``, ``max_position_embeddings`` and
            ``original_max_position_embeddings``.
        head_size: of the model.
        base: ``rope_theta``, where ``scaling`` has none.
        scaling: ``rope_scaling`` or, in newer files, ``rope_parameters``; empty for none.

    Raises:
        UnsupportedModelError: a scaling of unknown type, or one that lacks a setting; names it.
        ModelError: a setting is of the wrong type or out of range.
    """
    inner = ConfigFields(scaling, {"rope_type": "default"}, what=f"{fields.what}: rope_parameters or rope_scaling")
    kinds = {str(scaling[name]) for name in ("type", "rope_type") if scaling.get(name) is not None}
    if len(kinds) > 1:
        raise UnsupportedModelError(f"{inner.what}: type and rope_type differ: {', '.join(sorted(kinds))}")
    kind = inner.choice("type" if inner.has("type") else "rope_type", _KINDS)
    base = inner.real("rope_theta", base, above=1)
    share = inner.real("partial_rotary_factor", fields.real("partial_rotary_factor", 1.0))
    if not math.isfinite(head_size * share):
        raise fields.fault("partial_rotary_factor", f"must be at most 1, not {share:g}")
    dim = int(head_size * share)
    if share > 1 or dim < 2 or dim % 2:
        raise UnsupportedModelError(
            f"{fields.what}: partial_rotary_factor {share:g} rotates {dim} of a head's {head_size} values; "
            f"an even number of them is needed"
        )
    original = "original_max_position_embeddings"
    original_length = fields.integer(original) if fields.has(original) else None
    context_length = fields.integer("max_position_embeddings")
    return _KINDS[kind](_Settings(base, dim, context_length, original_length, inner))


def rope_settings(fields: ConfigFields, parameters: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    """What a configuration says of its rotary embedding: older files in ``rope_scaling``, newer in ``rope_parameters``.

    ``parameters``: stands for the latter where there are several.
    """
    return {**(fields.object("rope_parameters") if parameters is None else parameters), **fields.object("rope_scaling")}


def _plain(base: float, dim: int) -> Frequencies:
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    frequencies: Frequencies = (1.0 / np.power(np.float32(base), exponents)).astype(np.float32)
    return frequencies


def _rope(frequencies: Frequencies, factor: float = 1.0, context_length: int | None = None) -> Rope:
    return Rope(tuple(frequencies.tolist()), factor, context_length)


def _default(s: _Settings) -> Rope:
    return _rope(_plain(s.base, s.dim))


def _linear(s: _Settings) -> Rope:
    return _rope(_plain(s.base, s.dim) / np.float32(s.scaling.real("factor")))


def _dynamic(s: _Settings) -> Rope:
    # The base grows with the text only beyond the trained length, and would change keys that are cached already:
    # within that length the frequencies are the plain ones, so that is where the model is used.
    return _rope(_plain(s.base, s.dim), context_length=s.context_length)


def _llama3(s: _Settings) -> Rope:
    plain = _plain(s.base, s.dim)
    factor, low, high = (s.scaling.real(name) for name in ("factor", "low_freq_factor", "high_freq_factor"))
    if high <= low:
        raise s.scaling.fault("high_freq_factor", f"must be above low_freq_factor ({low:g}), not {high:g}")
    wavelengths = 2 * np.pi / plain
    original = s.scaling.integer("original_max_position_embeddings")
    smooth = np.clip((original / wavelengths - low) / (high - low), 0, 1)
    return _rope((smooth * plain + (1 - smooth) * plain / factor).astype(np.float32))


def _yarn(s: _Settings) -> Rope:
    factor = s.scaling.real("factor")
    original = s.scaling.real("original_max_position_embeddings", float(s.context_length))
    plain = _plain(s.base, s.dim)

    def dimension(name: str, default: float) -> float:
        rotations = s.scaling.real(name, default)
        radian = original / (rotations * 2 * math.pi)
        if not 0 < radian < math.inf:
            raise s.scaling.fault(name, f"{rotations:g} is out of range for an original length of {original:g}")
        return s.dim * math.log(radian) / (2 * math.log(s.base))

    low, high = dimension("beta_fast", 32.0), dimension("beta_slow", 1.0)
    if s.scaling.flag("truncate", default=True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, s.dim - 1)
    width = high - low if high != low else 0.001
    ramp = np.clip((np.arange(s.dim // 2, dtype=np.float32) - low) / width, 0, 1)
    mixed = plain / factor * ramp + plain * (1 - ramp)
    return _rope(mixed.astype(np.float32), _yarn_attention_factor(s.scaling, factor))


def _yarn_attention_factor(scaling: ConfigFields, factor: float) -> float:
    def mscale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if scaling.has("attention_factor"):
        return scaling.real("attention_factor")
    if scaling.has("mscale") and scaling.has("mscale_all_dim"):
        return mscale(scaling.real("mscale")) / mscale(scaling.real("mscale_all_dim"))
    return mscale(1.0)


def _longrope(s: _Settings) -> Rope:
    # Two sets of frequencies, chosen by the length of the text: the short set is right up to the original length,
    # and keys cached under it would be wrong under the other.
    original = s.original_length or s.context_length
    inner = "original_max_position_embeddings"
    if s.scaling.has(inner) and s.scaling.integer(inner) != original:
        # Versions of transformers differ in which of the two lengths they take.
        raise UnsupportedModelError(f"{s.scaling.what}: {inner} is not {original}, as the configuration itself has it")
    factor = s.context_length / original if s.original_length else s.scaling.real("factor", 0.0)
    if s.scaling.has("attention_factor"):
        attention = s.scaling.real("attention_factor")
    elif not factor:
        raise UnsupportedModelError(f"{s.scaling.what} of type 'longrope' lacks 'factor', which is needed")
    elif factor > 1 and original == 1:
        raise s.scaling.fault(inner, "of 1 is no length that a context could have been extended from")
    else:
        attention = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    short = np.asarray(s.scaling.reals("short_factor", s.dim // 2), np.float32)
    return _rope((_plain(s.base, s.dim) / short).astype(np.float32), attention, original)


_KINDS: dict[str, Callable[[_Settings], Rope]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}
