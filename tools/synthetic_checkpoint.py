"""Writes a LLaMA checkpoint of random weights, tensor by tensor: what is measured with it depends on sizes alone.

    python -m edgelm_tools.synthetic_checkpoint FOLDER
    edgelm export FOLDER --output BUNDLE --no-report

The default sizes are those of Qwen 2 0.5B: 494 million weights, most of them in layers, the rest in a large vocabulary.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from edgelm.errors import EdgeLMError

_DEVIATION = 0.02
_HEADER_SIZE_BYTES = 8
_BYTES = 256
# As long as tokens get; merges of long ones would make them ever longer.
_LONGEST_TOKEN = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticSizes:
    """The sizes of a model with a tied output head."""

    layers: int = 24
    hidden: int = 896
    intermediate: int = 4864
    heads: int = 14
    kv_heads: int = 2
    vocab_size: int = 151_936
    context_length: int = 16_384

    def config(self) -> dict[str, Any]:
        """Its ``config.json``."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "num_hidden_layers": self.layers,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.context_length,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e6,
            "tie_word_embeddings": True,
            "eos_token_id": 0,
        }

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Tensor → its shape."""
        hidden, inner = self.hidden, self.intermediate
        keys = hidden // self.heads * self.kv_heads
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocab_size, hidden),
            "model.norm.weight": (hidden,),
        }
        for layer in (f"model.layers.{number}" for number in range(self.layers)):
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


def write_synthetic_checkpoint(folder: Path, sizes: SyntheticSizes, *, seed: int = 0) -> None:
    """Writes ``config.json``, ``tokenizer.json`` and ``model.safetensors`` in float16.

    Raises:
        FileExistsError: the folder is there already.
    """
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    (folder / "config.json").write_text(json.dumps(sizes.config()))
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer(sizes.vocab_size, random), ensure_ascii=False))
    _write_tensors(folder / "model.safetensors", sizes.shapes(), random)


def _write_tensors(path: Path, shapes: dict[str, tuple[int, ...]], random: np.random.Generator) -> None:
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _HEADER_SIZE_BYTES)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(_HEADER_SIZE_BYTES, "little") + text)
        for shape in shapes.values():
            norm = len(shape) == 1
            values = np.ones(shape, np.float32) if norm else random.standard_normal(shape, np.float32) * _DEVIATION
            file.write(values.astype("<f2").tobytes())


def _tokenizer(vocab_size: int, random: np.random.Generator) -> dict[str, Any]:
    """A byte-level BPE of as many tokens, each made of two earlier ones, as a trained one has them."""
    tokens = _byte_letters()
    known, merges = set(tokens), []
    while len(tokens) < vocab_size:
        for places in random.integers(0, len(tokens), (len(tokens), 2)).tolist():
            first, second = (tokens[place] for place in places)
            made = first + second
            if len(tokens) < vocab_size and len(made) <= _LONGEST_TOKEN and made not in known:
                known.add(made)
                tokens.append(made)
                merges.append([first, second])
    return {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": {token: place for place, token in enumerate(tokens)}, "merges": merges},
    }


def _byte_letters() -> list[str]:
    """The letter that stands for each byte in a byte-level vocabulary: its own where it can be seen."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(_BYTES) if byte not in seen]
    return [chr(byte if byte in seen else _BYTES + hidden.index(byte)) for byte in range(_BYTES)]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--layers", default=SyntheticSizes().layers, show_default=True)
@click.option("--hidden", default=SyntheticSizes().hidden, show_default=True)
@click.option("--intermediate", default=SyntheticSizes().intermediate, show_default=True)
@click.option("--heads", default=SyntheticSizes().heads, show_default=True)
@click.option("--kv-heads", default=SyntheticSizes().kv_heads, show_default=True)
@click.option("--vocab-size", default=SyntheticSizes().vocab_size, show_default=True)
@click.option("--context-length", default=SyntheticSizes().context_length, show_default=True)
def main(folder: Path, **sizes: int) -> None:
    """Write a checkpoint of random weights to FOLDER."""
    try:
        write_synthetic_checkpoint(folder, SyntheticSizes(**sizes))
    except (EdgeLMError, OSError) as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
