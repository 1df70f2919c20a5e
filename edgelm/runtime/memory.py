"""The memory budget: one formula, itemised, from the manifest alone; and what the process really uses."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from edgelm.bundle.manifest import Manifest
from edgelm.errors import MemoryLimitError

MB = 1_000_000
# Measured with Python 3.11, ONNX Runtime 1.32 and tokenizers 0.23 on Linux x86-64.
INTERPRETER_AND_LIBRARIES = 72 * MB
# While a tokenizer is read: for each of its tokens. (It then gives a quarter back.)
_TOKENIZER_BYTES_PER_TOKEN = 830
# A loaded graph's nodes and names, for each byte of its file.
_GRAPH_BYTES_PER_BYTE = 50
# A prompt's values that live at one time, for each of its tokens in multiples of the hidden size.
_LIVE_WIDTHS = 16
# Where the manifest does not tell the hidden size: as many query heads share one head of the cache.
_USUAL_HEADS_PER_KV_HEAD = 4
_USUAL_HEAD_SIZE = 32
_FLOAT_BYTES = 4
# Ours, and those of other tools: ``model.onnx.data``, ``model.onnx_data``, ``model.onnx_data_1``.
_WEIGHTS_FILE = re.compile(r"[._]data(_\d+)?$")
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes of resident memory that running a model takes, by part.

    Attributes:
        interpreter: Python and all libraries.
        text: the tokenizer.
        graph: the loaded graph, without weights.
        weights: all of them; what a file of embeddings holds is read row by row and takes none.
        kv_cache: keys and values of all tokens.
        activations: what a run needs for a moment.
        cross: what the decoder of an encoder-decoder knows of its sources.
    """

    interpreter: int
    text: int
    graph: int
    weights: int
    kv_cache: int
    activations: int
    cross: int = 0

    @property
    def total(self) -> int:
        """Bytes in all."""
        once = self.interpreter + self.text + self.graph + self.weights
        return once + self.kv_cache + self.cross + self.activations

    def check(self, limit: int | None) -> None:
        """Refuses a limit that the budget exceeds.

        Raises:
            MemoryLimitError: it does; the message itemises the need.
        """
        if limit is not None and self.total > limit:
            raise MemoryLimitError(
                f"needs {megabytes(self.total)}, the limit is {megabytes(limit)}: "
                f"weights {megabytes(self.weights)}, KV cache {megabytes(self.kv_cache)}, "
                + (f"sources {megabytes(self.cross)}, " if self.cross else "")
                + f"activations {megabytes(self.activations)}, graph {megabytes(self.graph)}, "
                f"tokenizer {megabytes(self.text)}, Python and libraries {megabytes(self.interpreter)}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What generations that run at a time hold; added up, those of several.

    Attributes:
        tokens: for which there is room in all their caches.
        sequences: generations: each may be prefilling.
        rows: sequences that are decoded: those of batches and beams one by one.
        longest: tokens of the longest row.
        cross_tokens: tokens of the sources, once for every row that reads them.
        source_tokens: of these, those that an encoder reads in one run, padding included.
    """

    tokens: int
    sequences: int = 0
    rows: int = 0
    longest: int = 0
    cross_tokens: int = 0
    source_tokens: int = 0

    def __add__(self, other: Needs) -> Needs:
        return Needs(
            tokens=self.tokens + other.tokens,
            sequences=self.sequences + other.sequences,
            rows=self.rows + other.rows,
            longest=self.longest + other.longest,
            cross_tokens=self.cross_tokens + other.cross_tokens,
            source_tokens=self.source_tokens + other.source_tokens,
        )


def budget(manifest: Manifest, *, tokens: int, prefill_chunk: int, sequences: int = 1) -> Budget:
    """What a decoder needs to hold ``tokens`` of prompt and answer, prefilled in chunks of ``prefill_chunk``.

    ``sequences``: how many are prefilled at a time; ``tokens`` is then the sum of theirs. With SmolLM2-135M in int8 and
    the default chunk, the total is 1.01 to 1.13 times the measured peak, for 30 to 8,000 tokens.
    """
    needs = Needs(tokens=tokens, sequences=sequences, rows=sequences, longest=tokens)
    return budget_of(manifest, needs, prefill_chunk=prefill_chunk)


def budget_of(manifest: Manifest, needs: Needs, *, prefill_chunk: int) -> Budget:
    """The same, of any generations."""
    chunk = min(prefill_chunk, needs.tokens)
    hidden, heads = _hidden_size_and_heads(manifest)
    # The rows of a batch share the chunk.
    hidden_values = (needs.sequences * chunk + needs.source_tokens) * _LIVE_WIDTHS * hidden
    attention_values = chunk * heads * needs.longest
    per_token = _cache_bytes(manifest)
    return Budget(
        interpreter=INTERPRETER_AND_LIBRARIES,
        text=_TOKENIZER_BYTES_PER_TOKEN * manifest.vocab_size,
        graph=sum(_graph_bytes(manifest.files[name].size) for name in set(manifest.graphs.values())),
        weights=sum(entry.size for name, entry in manifest.files.items() if _WEIGHTS_FILE.search(name)),
        kv_cache=needs.tokens * per_token if manifest.state is None else 2 * needs.rows * per_token,
        activations=_FLOAT_BYTES * (hidden_values + attention_values + needs.rows * manifest.vocab_size),
        cross=needs.cross_tokens * _cross_bytes(manifest),
    )


# As ``_LIVE_WIDTHS``, for an encoder's int8 layers, whose inputs are kept as floats and as integers; measured with
# all-MiniLM-L6-v2, batches of 256 to 4,096 tokens: the total is 1.04 to 1.5 times the peak.
_ENCODER_LIVE_WIDTHS = 56


@dataclass(frozen=True, slots=True)
class EncoderSizes:
    """What a run of an encoder takes memory for: hidden size, attention heads, bytes of its outputs for each token."""

    hidden: int
    heads: int
    output_bytes: int


def encoder_budget(manifest: Manifest, sizes: EncoderSizes, *, batch_tokens: int, longest: int) -> Budget:
    """What an encoder needs for batches of ``batch_tokens`` in rows of up to ``longest``, padding included."""
    tokens = max(batch_tokens, longest)
    fixed = budget(manifest, tokens=0, prefill_chunk=0, sequences=0)
    values = tokens * (_ENCODER_LIVE_WIDTHS * sizes.hidden + sizes.heads * longest)
    return replace(fixed, activations=_FLOAT_BYTES * values + tokens * sizes.output_bytes)


def _cache_bytes(manifest: Manifest) -> int:
    """Bytes of a token in the cache, or of a row's whole state."""
    if manifest.state is not None:
        return _FLOAT_BYTES * manifest.state.layers * manifest.state.size
    return 0 if manifest.kv is None else manifest.kv.bytes_per_token()


def _cross_bytes(manifest: Manifest) -> int:
    """Bytes of a source's token in cross-attention: keys and values as wide as the decoder's own, or somewhat less."""
    if manifest.state is not None:
        return 2 * _FLOAT_BYTES * manifest.state.layers * manifest.state.size
    kv = manifest.kv
    return 0 if kv is None else 2 * _FLOAT_BYTES * kv.layers * kv.kv_heads * kv.head_size


def _graph_bytes(size: int) -> int:
    """A loaded graph file: what is beyond a megabyte is not nodes but weights."""
    return _GRAPH_BYTES_PER_BYTE * min(size, MB) + max(0, size - MB)


def _hidden_size_and_heads(manifest: Manifest) -> tuple[int, int]:
    kv = manifest.kv
    if manifest.state is not None:
        return manifest.state.size, manifest.state.size // _USUAL_HEAD_SIZE
    if kv is None:
        return 0, 0
    if manifest.family == "encoder-decoder":
        return kv.kv_heads * kv.head_size, kv.kv_heads
    if manifest.embedding is not None:
        return manifest.embedding.columns, max(kv.kv_heads, manifest.embedding.columns // kv.head_size)
    heads = _USUAL_HEADS_PER_KV_HEAD * kv.kv_heads
    return heads * kv.head_size, heads


def peak_memory() -> int:
    """Bytes of resident memory this process has had at most; 0 where the platform does not tell."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())
    except OSError:
        return _peak_from_resource()
    return int(found[1]) * 1024 if found else _peak_from_resource()


def _peak_from_resource() -> int:
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def megabytes(count: int) -> str:
    """``count`` bytes for people: ``143 MB``."""
    return f"{count / MB:.0f} MB" if count >= MB else f"{count / MB:.1f} MB"
