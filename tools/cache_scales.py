"""The scales of an int8 KV cache: what keys and values come to be over a calibration text, channel by channel.

The exported graph itself is run, so that what is measured is what the cache will hold. The text is prose, and for half
of it conversations, where the model has a template for them.

Keys lie there as rotary positions have turned them, pair by pair of channels: what one of the pair has at one position,
the other has at another. So a channel gets the most that its pair, turned, has in it anywhere within the context
window. For most pairs, which turn fast, that is the pair's length; for the slowest ones it is less, and their steps are
finer. (SmolLM2's scales of single channels, measured over 1,024 positions, cut off what keys are at 2,000: KL 0.022
instead of 0.008. Those for half of its window cut off what they are at 6,000: 0.010 instead of 0.001, in fp32.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgelm.bundle.manifest import KVGeometry
from edgelm.bundle.onnx_reader import read_model
from edgelm.bundle.progress import NoProgress, Progress, transfer
from edgelm.errors import NumericError
from edgelm.runtime.decoder import Decoder
from edgelm.runtime.int8_cache import Scales
from edgelm.runtime.rotary import rotary_angles
from edgelm_tools.architectures.base import ModelFacts
from edgelm_tools.calibration import calibration_texts
from edgelm_tools.checkpoint.base import TextAssets
from edgelm_tools.evaluate import open_decoder

KV_SCALES_NAME = "kv_scales.f32"
_LONGEST = 1024
_LARGEST = 127
_QUARTER = np.float32(np.pi / 2)
# A channel that was never used gets no less than this share of its head's mean, or 1 where the whole head is empty.
_LEAST_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class Turning:
    """How far the keys of a decoder are turned.

    Attributes:
        angles: see ``rotary_angles``.
        positions: of the context window.
    """

    angles: Mapping[str, NDArray[np.float32]]
    positions: int

    def sizes(self, name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """How large each value is, or would be at another position.

        Args:
            name: the input's.
            values: (kv_heads, tokens, head_size), of the tokens at the first positions.

        Returns:
            (kv_heads, tokens, head_size).
        """
        sizes: NDArray[np.float32] = np.abs(values)
        angles = self.angles.get(name)
        if angles is None:
            return sizes
        first, second = values[..., : len(angles)], values[..., len(angles) : 2 * len(angles)]
        lengths = np.hypot(first, second)
        start = np.arctan2(second, first) - np.arange(values.shape[1], dtype=np.float32)[:, None] * angles
        end = start + (self.positions - 1) * angles
        sizes[..., : len(angles)] = lengths * _largest_cosine(start, end)
        sizes[..., len(angles) : 2 * len(angles)] = lengths * _largest_cosine(start - _QUARTER, end - _QUARTER)
        return sizes


def write_cache_scales(folder: Path, facts: ModelFacts, assets: TextAssets, progress: Progress | None = None) -> Scales:
    """Measures the decoder in ``folder``, writes its scales beside it, and returns them.

    Raises:
        ValueError: the model is no decoder.
        ModelError: the tokenizer is broken. NumericError: see ``measured_scales``.
    """
    if facts.kv is None:
        raise ValueError(f"{facts.architecture} has no KV cache")
    shown = progress or NoProgress()
    texts = calibration_texts(assets, facts, _LONGEST)
    graph = folder / "decoder.onnx"
    angles = rotary_angles(read_model(graph.read_bytes(), what=graph.name).graph, folder)
    turning = Turning(angles, facts.context_length)
    with transfer(shown, "Calibrating the KV cache", texts.size), open_decoder(graph, texts.shape[1]) as decoder:
        scales = measured_scales(decoder, facts.kv, turning, texts, shown)
    (folder / KV_SCALES_NAME).write_bytes(scales.astype("<f4").tobytes())
    return scales


def measured_scales(
    decoder: Decoder,
    kv: KVGeometry,
    turning: Turning,
    texts: Iterable[Sequence[int] | NDArray[np.int64]],
    progress: Progress,
) -> Scales:
    """The largest values of each channel, in parts of 127.

    Args:
        decoder: what to run; it is rewound for each text.
        kv: what its cache is like.
        turning: of its keys.
        texts: token ids, (T,) each.
        progress: told of the tokens.

    Raises:
        NumericError: keys or values are not finite numbers.
    """
    largest = np.zeros((kv.layers, 2, kv.kv_heads, kv.head_size), np.float32)
    for ids in texts:
        decoder.rewind(0)
        decoder.prefill(ids)
        for name, array in decoder.cache.arrays():
            layer, part = name.split(".")[1:]
            if not np.isfinite(array).all():
                raise NumericError("the model's keys and values are not finite numbers")
            found = largest[int(layer), int(part == "value")]
            np.maximum(found, turning.sizes(name, array[0]).max(axis=1), out=found)
        progress.advance(len(ids))
    least = _LEAST_SHARE * largest.mean(axis=-1, keepdims=True)
    scales: Scales = (np.maximum(largest, np.where(least > 0, least, 1)) / _LARGEST).astype(np.float32)
    return scales


def _largest_cosine(start: NDArray[np.float32], end: NDArray[np.float32]) -> NDArray[np.float32]:
    """The largest absolute cosine of the angles from ``start`` to ``end``."""
    passes_one = np.floor(end / np.pi) > np.floor(start / np.pi)
    largest: NDArray[np.float32] = np.where(passes_one, 1, np.maximum(np.abs(np.cos(start)), np.abs(np.cos(end))))
    return largest
