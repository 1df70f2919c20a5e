"""A checkpoint whose tensors lie in memory, and a tiny LLaMA in it, in NumPy alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import ModelError
from edgelm_tools.checkpoint.base import BlockQuantized, TextAssets

LLAMA_CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 50,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}


class MemoryCheckpoint:
    """Implements ``Checkpoint``; a tensor may be given as blocks of integers."""

    def __init__(self, tensors: Mapping[str, NDArray[Any] | BlockQuantized], config: Mapping[str, Any] = LLAMA_CONFIG):
        self.config = dict(config)
        self.tensors = dict(tensors)
        self.read: list[str] = []

    def names(self) -> Iterable[str]:
        return self.tensors.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        tensor = self._find(name)
        return tensor.values.shape if isinstance(tensor, BlockQuantized) else tensor.shape

    def tensor(self, name: str) -> NDArray[np.float32]:
        self.read.append(name)
        tensor = self._find(name)
        if not isinstance(tensor, BlockQuantized):
            return tensor.astype(np.float32)
        scales = np.repeat(tensor.scales, tensor.block_size, axis=1)
        return (tensor.values * scales).astype(np.float32)

    def row_parts(self, name: str, most_values: int) -> Iterator[NDArray[np.float32]]:
        tensor = self.tensor(name)
        step = max(1, most_values * len(tensor) // tensor.size)
        for start in range(0, len(tensor), step):
            yield tensor[start : start + step]

    def quantized(self, name: str) -> BlockQuantized | None:
        tensor = self._find(name)
        return tensor if isinstance(tensor, BlockQuantized) else None

    def text_assets(self) -> TextAssets:
        return TextAssets(b"{}")

    def close(self) -> None:
        self.tensors.clear()

    def _find(self, name: str) -> NDArray[Any] | BlockQuantized:
        if name not in self.tensors:
            raise ModelError(f"no tensor named {name!r}")
        return self.tensors[name]


def llama_tensors(seed: int = 0) -> dict[str, NDArray[Any]]:
    """All tensors of a model of ``LLAMA_CONFIG``, with an output head of its own."""
    random = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (50, 24),
        "model.norm.weight": (24,),
        "lm_head.weight": (50, 24),
    }
    for i in range(2):
        shapes |= {
            f"model.layers.{i}.input_layernorm.weight": (24,),
            f"model.layers.{i}.self_attn.q_proj.weight": (24, 24),
            f"model.layers.{i}.self_attn.k_proj.weight": (12, 24),
            f"model.layers.{i}.self_attn.v_proj.weight": (12, 24),
            f"model.layers.{i}.self_attn.o_proj.weight": (24, 24),
            f"model.layers.{i}.post_attention_layernorm.weight": (24,),
            f"model.layers.{i}.mlp.gate_proj.weight": (40, 24),
            f"model.layers.{i}.mlp.up_proj.weight": (40, 24),
            f"model.layers.{i}.mlp.down_proj.weight": (24, 40),
        }
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
