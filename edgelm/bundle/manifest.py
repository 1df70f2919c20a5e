"""``edgelm.json``: what a bundle is, what is in it, and the rules it must keep.

The manifest is read before anything native sees a byte of the bundle. It knows nothing about ONNX.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

FORMAT_VERSION = 1
MANIFEST_NAME = "edgelm.json"


@dataclass(frozen=True, slots=True)
class FileEntry:
    """Size in bytes and SHA-256 (hex) of one file of the bundle."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class KVGeometry:
    """The key/value cache that the decoder graph works on: per layer two (B, kv_heads, T, head_size) tensors."""

    layers: int
    kv_heads: int
    head_size: int
    dtype: str = "float32"

    def bytes_per_token(self) -> int:
        """Bytes that one token takes in the whole cache."""
        width = {"float32": 4, "int8": 1}[self.dtype]
        return 2 * self.layers * self.kv_heads * self.head_size * width


@dataclass(frozen=True, slots=True)
class Source:
    """Where the weights came from, as pinned when they were fetched."""

    uri: str
    license: str = "unknown"
    revision: str | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A parsed and validated ``edgelm.json``.

    Attributes:
        name: short name of the model.
        architecture: the checkpoint's ``model_type`` (``llama``, ``qwen3``, …).
        family: ``decoder``, ``encoder`` or ``encoder-decoder``.
        tasks: what it is for (``text-generation``, ``chat``, …).
        graphs: role (``decoder``, ``encoder``) → file name of the ONNX graph.
        context_length: tokens that prompt and answer may have together.
        vocab_size: width of the logits.
        kv: geometry of the KV cache; None for encoders.
        bos_token_id: put before a raw prompt, if any.
        eos_token_id: tokens that end an answer.
        quantization: ``scheme`` (``int8``, ``int4``, ``dynamic-int8``, ``fp32``), and the scheme's own settings.
        files: every file of the bundle but the manifest itself.
        source: origin and licence.
        tool_versions: package → version that made the bundle.
        quality: summary of the measured report (``kl``, ``perplexity``, …); empty when not measured.
    """

    name: str
    architecture: str
    family: str
    tasks: tuple[str, ...]
    graphs: dict[str, str]
    context_length: int
    vocab_size: int
    kv: KVGeometry | None
    bos_token_id: int | None
    eos_token_id: tuple[int, ...]
    quantization: dict[str, Any]
    files: dict[str, FileEntry]
    source: Source
    tool_versions: dict[str, str] = field(default_factory=dict)
    quality: dict[str, float] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION
