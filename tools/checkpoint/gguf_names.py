"""llama.cpp's tensor names and row orders, turned back into Hugging Face's.

Sources: the tables of the package ``gguf`` and llama.cpp's converters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import ModelError, UnsupportedModelError

ROPE_TENSORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")

# Their converters reorder the rows of Q and K so that the halves of a rotated pair lie side by side.
PERMUTED_ARCHITECTURES = frozenset({"llama", "granite", "smollm3"})
# Their converters add 1 to every norm weight, because the models multiply by (1 + weight).
SHIFTED_NORM_ARCHITECTURES = frozenset({"gemma", "gemma2", "gemma3"})

_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LLAMA = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_QK_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_POST_NORMS = {"post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}
_GEMMA2 = _LLAMA | _POST_NORMS | {"ffn_norm": "pre_feedforward_layernorm"}
_BLOCK = {
    "llama": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA | _QK_NORMS,
    "gemma": _LLAMA,
    "gemma2": _GEMMA2,
    "gemma3": _GEMMA2 | _QK_NORMS,
    "phi3": _LLAMA | {"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"},
    "granite": _LLAMA,
    "olmo2": _LLAMA | _QK_NORMS | _POST_NORMS,
    "smollm3": _LLAMA,
    "stablelm": _LLAMA,
}
ARCHITECTURES = tuple(_BLOCK)
_BLOCK_NAME = re.compile(r"blk\.(0|[1-9][0-9]{0,4})\.([a-z_]+)\.(weight|bias)")


def hugging_face_names(stored: Iterable[str], architecture: str, layers: int, source: str) -> dict[str, str]:
    """Hugging Face name → stored name, for every tensor but those of ``ROPE_TENSORS``.

    Raises:
        UnsupportedModelError: a tensor has no counterpart; names it.
        ModelError: a tensor belongs to a layer beyond ``layers``.
    """
    names: dict[str, str] = {}
    for name in stored:
        if name in ROPE_TENSORS:
            continue
        module, _, suffix = name.rpartition(".")
        if module in _TOP and suffix in ("weight", "bias"):
            names[f"{_TOP[module]}.{suffix}"] = name
            continue
        match = _BLOCK_NAME.fullmatch(name)
        if match is None or match[2] not in _BLOCK[architecture]:
            raise UnsupportedModelError(f"{source}: tensor {name!r:.120} is not one a {architecture} model has")
        if int(match[1]) >= layers:
            raise ModelError(f"{source}: tensor {name!r:.120} is beyond the last of {layers} layers")
        names[f"model.layers.{match[1]}.{_BLOCK[architecture][match[2]]}.{match[3]}"] = name
    return names


def permuted_heads(stored_name: str, architecture: str, heads: int, kv_heads: int) -> int | None:
    """Into how many heads the rows of a Q or K tensor were permuted; None if they were not."""
    if architecture not in PERMUTED_ARCHITECTURES:
        return None
    if ".attn_q." in stored_name:
        return heads
    return kv_heads if ".attn_k." in stored_name else None


def undo_permutation(rows: NDArray[Any], heads: int) -> NDArray[Any]:
    """Rows (N, …) in Hugging Face's order: per head first all first halves of the pairs, then all second ones.

    N must be a multiple of twice ``heads``.
    """
    pairs = rows.reshape(heads, len(rows) // heads // 2, 2, *rows.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)
