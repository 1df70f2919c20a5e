"""A checkpoint with a LoRA adapter (PEFT's folder layout) merged into it, tensor by tensor as they are read.

W' = W + scale · B·A (Hu et al. 2021, arXiv 2106.09685), scale = alpha / rank, or alpha / √rank with ``use_rslora``.
With ``use_dora`` each output of the sum is brought to a learned magnitude (Liu et al. 2024, arXiv 2402.09353).
Tensors that were trained as a whole (``modules_to_save``) replace the checkpoint's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.checks import is_finite
from edgelm.errors import ModelError, UnsupportedModelError
from edgelm_tools.checkpoint.base import BlockQuantized, Checkpoint, TextAssets
from edgelm_tools.checkpoint.safetensors_checkpoint import SafetensorsFile
from edgelm_tools.checkpoint.strict_json import read_json_object

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_PART = re.compile(
    r"(?P<module>.+)\.lora_(?:(?P<matrix>A|B)\.weight|embedding_(?P<table>A|B)|(?P<magnitude>magnitude_vector)(\.weight)?)"
)
# What PEFT's configuration may ask for beyond this, and the values with which it asks for nothing.
_UNSUPPORTED = ("lora_bias", "use_qalora", "layer_replication", "trainable_token_indices", "alora_invocation_tokens")
# These starting points changed the checkpoint's own weights before training, which are not the ones at hand.
_CHANGED_STARTS = ("pissa", "olora", "corda", "loftq", "lora_ga")

Floats = NDArray[np.float32]


@dataclass(slots=True)
class _Update:
    """What is known of one module's change.

    ``module``: its path in the model that was trained; ``parts`` of the file by their roles A, B and magnitude.
    """

    module: str
    parts: dict[str, str] = field(default_factory=dict)
    of_table: bool = False


class AdaptedCheckpoint:
    """A view of a checkpoint with the adapter's changes; implements ``Checkpoint``.

    Args:
        checkpoint: what the adapter was trained on; closed with this.
        folder: has ``adapter_config.json`` and ``adapter_model.safetensors``.

    Raises:
        ModelError: a file is missing or broken, or the adapter is not one of this checkpoint; names the module.
        UnsupportedModelError: it is no LoRA adapter, or uses what is not merged here.
    """

    def __init__(self, checkpoint: Checkpoint, folder: Path) -> None:
        self.config: dict[str, Any] = checkpoint.config
        self._base = checkpoint
        self._settings = _read_settings(folder)
        if not (folder / WEIGHTS_NAME).is_file():
            raise ModelError(f"{folder}: no {WEIGHTS_NAME} (an adapter as pickle, .bin, is refused)")
        self._file = SafetensorsFile(folder / WEIGHTS_NAME)
        self._updates: dict[str, _Update] = {}
        self._replaced: dict[str, str] = {}
        self._sort_out()
        self._check_updates()

    def names(self) -> Iterable[str]:
        """Names of the checkpoint's tensors."""
        return self._base.names()

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        return self._file.shape(self._replaced[name]) if name in self._replaced else self._base.shape(name)

    def tensor(self, name: str) -> Floats:
        """The tensor with the adapter's change."""
        stored = self._replaced.get(name)
        weight = self._base.tensor(name) if stored is None else self._file.tensor(stored)
        update = self._updates.get(name)
        return weight if update is None else self._changed(weight, name, update)

    def row_parts(self, name: str, most_values: int) -> Iterator[Floats]:
        """The rows of ``tensor``, some at a time where the adapter leaves them as they are."""
        if name in self._updates or name in self._replaced:
            yield self.tensor(name)
        else:
            yield from self._base.row_parts(name, most_values)

    def quantized(self, name: str) -> BlockQuantized | None:
        """The checkpoint's own integers, where the adapter leaves them as they are."""
        return None if name in self._updates or name in self._replaced else self._base.quantized(name)

    def text_assets(self) -> TextAssets:
        """Those of the checkpoint."""
        return self._base.text_assets()

    def close(self) -> None:
        """Unmaps the files of both."""
        self._file.close()
        self._base.close()

    def _sort_out(self) -> None:
        names = list(self._base.names())
        for stored in self._file.names():
            if not stored.startswith(_PREFIX):
                raise ModelError(f"{self._file.path}: tensor {stored!r:.120} does not begin with {_PREFIX}")
            path = stored.removeprefix(_PREFIX)
            part = _PART.fullmatch(path)
            if part is None:
                self._replaced[_find(path.replace(".base_layer.", "."), names, self._file.path)] = stored
                continue
            target = _find(f"{part['module']}.weight", names, self._file.path)
            update = self._updates.setdefault(target, _Update(part["module"]))
            update.parts[part["matrix"] or part["table"] or "magnitude"] = stored
            update.of_table |= part["table"] is not None

    def _check_updates(self) -> None:
        for name, update in self._updates.items():
            missing = [role for role in ("A", "B") if role not in update.parts]
            if missing:
                raise ModelError(f"{self._file.path}: the change of {name!r:.120} has no matrix {missing[0]}")
            if ("magnitude" in update.parts) != bool(self._settings.get("use_dora")):
                raise ModelError(f"{self._file.path}: magnitudes and use_dora do not agree for {name!r:.120}")
            if update.of_table and "magnitude" in update.parts:
                raise UnsupportedModelError(f"{self._file.path}: DoRA of the embedding {name!r:.120} is not merged")
            a, b = (self._file.shape(update.parts[role]) for role in ("A", "B"))
            shape = self.shape(name)
            fits = len(a) == len(b) == 2 and a[0] == b[1] > 0 and (b[0], a[1]) in (shape, shape[::-1])
            if not fits:
                raise ModelError(
                    f"{self._file.path}: matrices of shapes {a} and {b} cannot change {name!r:.120}, which is {shape}"
                )

            lengths = self._file.shape(update.parts["magnitude"]) if "magnitude" in update.parts else b[:1]
            if math.prod(lengths) != b[0]:
                raise ModelError(f"{self._file.path}: magnitudes of shape {lengths} cannot change {name!r:.120}")

    def _is_transposed(self, change: Floats, weight: Floats, update: _Update) -> bool:
        """Whether B·A is the transpose of the stored weight: that of a table is, and that of a Conv1D.

        In a model that also has linear layers the setting says what holds of only one kind; the shape tells, if it can.
        """
        if change.shape != change.shape[::-1]:
            return change.shape != weight.shape
        return update.of_table or bool(self._settings.get("fan_in_fan_out"))

    def _changed(self, weight: Floats, name: str, update: _Update) -> Floats:
        a, b = (self._file.tensor(update.parts[role]) for role in ("A", "B"))
        change = b @ a
        change *= np.float32(self._scale(update.module, rank=len(a)))
        transposed = self._is_transposed(change, weight, update)
        weight += change.T if transposed else change
        if "magnitude" not in update.parts:
            return weight
        lengths = np.linalg.norm(weight, axis=0 if transposed else 1, keepdims=True)
        magnitude = self._file.tensor(update.parts["magnitude"]).reshape(lengths.shape)
        scaled: Floats = weight * (magnitude / lengths)
        return scaled

    def _scale(self, module: str, *, rank: int) -> float:
        patterns: Mapping[str, Any] = self._settings.get("alpha_pattern") or {}
        own = [value for key, value in patterns.items() if module == key or module.endswith(f".{key}")]
        alpha = own[0] if own else self._settings["lora_alpha"]
        return float(alpha) / (math.sqrt(rank) if self._settings.get("use_rslora") else rank)


def _read_settings(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_NAME
    settings = read_json_object(path)
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise UnsupportedModelError(f"{path}: peft_type is {kind!r:.40}; only LORA adapters are merged")
    used = [name for name in _UNSUPPORTED if settings.get(name)]
    if used:
        raise UnsupportedModelError(f"{path}: {used[0]} is not merged")
    start = settings.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGED_STARTS):
        raise UnsupportedModelError(f"{path}: init_lora_weights {start!r:.40} changed the checkpoint before training")
    patterns = settings.get("alpha_pattern") or {}
    numbers = {"lora_alpha": settings.get("lora_alpha"), **(patterns if isinstance(patterns, dict) else {"": None})}
    for name, value in numbers.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and is_finite(value)
        if not is_number or value <= 0:
            raise ModelError(f"{path}: {name or 'alpha_pattern'} must be a number above 0, not {value!r:.40}")
        if not re.fullmatch(r"[\w.]*", name):
            raise UnsupportedModelError(f"{path}: the pattern {name!r:.80} in alpha_pattern is not a module's name")
    return settings


def _find(path: str, names: list[str], file: Path) -> str:
    """The checkpoint's tensor that a path in the trained model stands for.

    The model that was trained may have had a head around the checkpoint's, or the checkpoint one around the model.
    """
    found = [name for name in names if name == path] or [
        name for name in names if name.endswith(f".{path}") or path.endswith(f".{name}")
    ]
    if len(found) != 1:
        what = "there is no such tensor" if not found else f"it may be any of {', '.join(found[:3])}"
        raise ModelError(f"{file}: changes {path!r:.120}, but in the checkpoint {what}")
    return found[0]
