"""Writes Marian's binary files and SentencePiece vocabularies: small Bergamot models with random weights."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgelm_tools.checkpoint.marian_file import BYTES, FLOAT32, INT8

ALIGNMENT = 256
WORDS = ["▁the", "▁cat", "▁sat", "▁on", "▁a", "▁mat", "▁", *".,abcdefghijklmnopqrstuvwxyz", "▁he", "ll", "▁o"]
CONFIG = {
    "type": "transformer",
    "dec-cell": "ssru",
    "transformer-decoder-autoreg": "rnn",
    "transformer-preprocess": '""',
    "transformer-postprocess": "dan",
    "transformer-postprocess-emb": "d",
    "transformer-postprocess-top": '""',
    "transformer-ffn-activation": "relu",
    "transformer-ffn-depth": 2,
    "transformer-no-projection": "false",
    "transformer-train-position-embeddings": "false",
    "tied-embeddings-all": "true",
    "dec-cell-base-depth": 2,
    "dec-cell-high-depth": 1,
}


def marian_file(tensors: Mapping[str, tuple[int, Sequence[int], bytes]]) -> bytes:
    """The bytes of a file with tensors by name: type, shape, data; data is padded as Marian does it."""
    padded = {name: data + bytes(-len(data) % ALIGNMENT) for name, (_, _, data) in tensors.items()}
    head = struct.pack("<QQ", 1, len(tensors))
    for name, (kind, shape, _) in tensors.items():
        head += struct.pack("<4Q", len(name) + 1, kind, len(shape), len(padded[name]))
    head += b"".join(name.encode() + b"\0" for name in tensors)
    head += b"".join(struct.pack(f"<{len(shape)}i", *shape) for _, shape, _ in tensors.values())
    gap = -(len(head) + 8) % ALIGNMENT
    return head + struct.pack("<Q", gap) + bytes(gap) + b"".join(padded.values())


def int8_matrix(
    rng: np.random.Generator, inputs: int, outputs: int, *, stored: tuple[int, int] | None = None
) -> tuple[int, tuple[int, int], bytes]:
    """A matrix of full-range integers with a multiplier; stored as (outputs, inputs), as Marian does it."""
    steps = rng.integers(-127, 128, (outputs, inputs)).astype(np.int8)
    multiplier = np.float32(rng.uniform(0.9, 1.5) * 70 * np.sqrt(inputs))
    return INT8, stored or (inputs, outputs), steps.tobytes() + multiplier.tobytes()


def vector(values: NDArray[np.float32]) -> tuple[int, tuple[int, int], bytes]:
    """A bias or the like: one row."""
    return FLOAT32, (1, values.size), values.astype(np.float32).tobytes()


def tiny_tensors(
    *, width: int = 24, heads: int = 3, inner: int = 40, encoder: int = 2, decoder: int = 2, seed: int = 0
) -> dict[str, tuple[int, Sequence[int], bytes]]:
    """All tensors of a model with random weights, norms and biases, and its configuration."""
    rng = np.random.default_rng(seed)
    tokens = len(WORDS) + 2
    tensors: dict[str, tuple[int, Sequence[int], bytes]] = {
        "Wemb": int8_matrix(rng, width, tokens, stored=(tokens, width)),
        "decoder_ff_logit_out_b": vector(rng.normal(0, 0.3, tokens).astype(np.float32)),
    }

    def bias(name: str, size: int, around: float = 0.0) -> None:
        tensors[name] = vector(rng.normal(around, 0.3, size).astype(np.float32))

    def norm(name: str) -> None:
        bias(f"{name}_ln_scale", width, 1.0)
        bias(f"{name}_ln_bias", width)

    for side, layers, attention in (("encoder", encoder, "self"), ("decoder", decoder, "context")):
        for layer in range(1, layers + 1):
            prefix = f"{side}_l{layer}"
            for kind in "qkvo":
                tensors[f"{prefix}_{attention}_W{kind}"] = int8_matrix(rng, width, width)
                bias(f"{prefix}_{attention}_b{kind}", width)
            norm(f"{prefix}_{attention}_Wo")
            tensors[f"{prefix}_ffn_W1"] = int8_matrix(rng, width, inner)
            tensors[f"{prefix}_ffn_W2"] = int8_matrix(rng, inner, width)
            bias(f"{prefix}_ffn_b1", inner)
            bias(f"{prefix}_ffn_b2", width)
            norm(f"{prefix}_ffn_ffn")
            if side == "decoder":
                tensors[f"{prefix}_rnn_W"] = int8_matrix(rng, width, width)
                tensors[f"{prefix}_rnn_Wf"] = int8_matrix(rng, width, width)
                bias(f"{prefix}_rnn_bf", width)
                norm(f"{prefix}_rnn_ffn")
    sizes = {"dim-emb": width, "transformer-heads": heads, "transformer-dim-ffn": inner}
    config = {**CONFIG, **sizes, "enc-depth": encoder, "dec-depth": decoder}
    text = "".join(f"{name}: {value}\n" for name, value in config.items()) + "input-types:\n  - words\n"
    tensors["special:model.yml"] = (BYTES, (len(text) + 1,), text.encode() + b"\0")
    return tensors


def write_bergamot(folder: Path, pair: str = "enpt", **sizes: int) -> Path:
    """A folder as Firefox's downloads are, with a shortlist that is to be left alone."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"model.{pair}.intgemm.alphas.bin").write_bytes(marian_file(tiny_tensors(**sizes)))
    (folder / f"vocab.{pair}.spm").write_bytes(sentencepiece_file())
    (folder / f"lex.50.50.{pair}.s2t.bin").write_bytes(b"\xf1\x1a" * 40)
    return folder


def sentencepiece_file(
    pieces: Sequence[tuple[str, float, int]] | None = None, *, trainer: bytes = b"", normalizer: bytes = b""
) -> bytes:
    """The bytes of a unigram model: pieces as (text, score, type); others' fields as they are encoded."""
    if pieces is None:
        plain = [(word, -2.0 - 0.1 * index, 1) for index, word in enumerate(WORDS)]
        pieces = [("</s>", 0.0, 3), ("<unk>", 0.0, 2), *plain]
    messages = []
    for text, score, kind in pieces:
        data = text.encode()
        messages.append(field(1, field(1, data) + b"\x15" + struct.pack("<f", score) + b"\x18" + varint(kind)))
    return b"".join(messages) + field(2, trainer) + field(3, normalizer)


def field(number: int, data: bytes) -> bytes:
    """A field of bytes in protocol buffers' wire format."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    """A number in protocol buffers' wire format."""
    encoded = b""
    while value > 127:
        encoded += bytes([value & 127 | 128])
        value >>= 7
    return encoded + bytes([value])
