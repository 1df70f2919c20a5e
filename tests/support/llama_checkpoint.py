"""A LLaMA checkpoint of any size as a folder with safetensors, written tensor by tensor, in NumPy alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from support.tokenizers import byte_level


@dataclass(frozen=True)
class LlamaSizes:
    """Fields of the configuration."""

    layers: int = 2
    hidden: int = 64
    intermediate: int = 160
    heads: int = 4
    kv_heads: int = 2
    vocab_size: int = 600
    context_length: int = 128
    tied: bool = True

    @property
    def config(self) -> dict[str, Any]:
        return {
            "model_type": "llama",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "max_position_embeddings": self.context_length,
            "tie_word_embeddings": self.tied,
        }

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Tensor → its shape."""
        hidden, inner = self.hidden, self.intermediate
        keys = hidden // self.heads * self.kv_heads
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocab_size, hidden),
            "model.norm.weight": (hidden,),
        }
        if not self.tied:
            shapes["lm_head.weight"] = (self.vocab_size, hidden)
        for i in range(self.layers):
            layer = f"model.layers.{i}"
            shapes |= {
                f"{layer}.input_layernorm.weight": (hidden,),
                f"{layer}.post_attention_layernorm.weight": (hidden,),
                f"{layer}.self_attn.q_proj.weight": (hidden, hidden),
                f"{layer}.self_attn.k_proj.weight": (keys, hidden),
                f"{layer}.self_attn.v_proj.weight": (keys, hidden),
                f"{layer}.self_attn.o_proj.weight": (hidden, hidden),
                f"{layer}.mlp.gate_proj.weight": (inner, hidden),
                f"{layer}.mlp.up_proj.weight": (inner, hidden),
                f"{layer}.mlp.down_proj.weight": (hidden, inner),
            }
        return shapes


def write_llama_checkpoint(folder: Path, sizes: LlamaSizes | None = None, *, seed: int = 0) -> Path:
    """Writes the folder and returns it; weights are random, of 16 bits (bfloat16)."""
    sizes = sizes or LlamaSizes()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(sizes.config))
    (folder / "tokenizer.json").write_bytes(byte_level().to_str().encode())
    random = np.random.default_rng(seed)
    header: dict[str, Any] = {}
    end = 0
    for name, shape in sizes.shapes.items():
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in sizes.shapes.items():
            scale = 1.0 if name == "model.embed_tokens.weight" else shape[-1] ** -0.5
            values = random.standard_normal(shape, np.float32) * np.float32(scale)
            if len(shape) == 1:  # norms are near one
                values = 1 + values / 10
            file.write((values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes())
    return folder
