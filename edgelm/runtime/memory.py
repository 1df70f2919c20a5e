"""The memory budget: one formula, itemised, from the manifest alone; and what the process really uses."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from edgelm.bundle.manifest import Manifest
from edgelm.errors import MemoryLimitError

MB = 1_000_000
# Measured with Python 3.11 and ONNX Runtime 1.32 on Linux x86-64.
INTERPRETER_AND_LIBRARIES = 75 * MB
GRAPH_AND_TOKENIZER = 45 * MB
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes of resident memory that running a model takes, by part."""

    interpreter: int
    weights: int
    kv_cache: int
    activations: int

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.interpreter + self.weights + self.kv_cache + self.activations

    def check(self, limit: int | None) -> None:
        """Refuses a limit that the budget exceeds.

        Raises:
            MemoryLimitError: it does; the message itemises the need.
        """
        if limit is not None and self.total > limit:
            raise MemoryLimitError(
                f"needs {megabytes(self.total)}, the limit is {megabytes(limit)}: "
                f"weights {megabytes(self.weights)}, KV cache {megabytes(self.kv_cache)}, "
                f"activations {megabytes(self.activations)}, interpreter and libraries {megabytes(self.interpreter)}"
            )


def budget(manifest: Manifest, *, tokens: int, prefill_chunk: int) -> Budget:
    """What a decoder needs to hold ``tokens`` of prompt and answer, prefilled in chunks of ``prefill_chunk``.

    Activations: of the widest moment, a chunk's values before and after the widest layer, all float32; the width is
    bounded by eight times the hidden size, which the KV geometry gives a lower bound of.
    """
    weights = sum(entry.size for name, entry in manifest.files.items() if name.endswith(".data"))
    kv = manifest.kv
    per_token = kv.bytes_per_token() if kv else 0
    width = 0 if kv is None else 16 * kv.kv_heads * kv.head_size
    chunk = min(prefill_chunk, tokens)
    return Budget(
        interpreter=INTERPRETER_AND_LIBRARIES + GRAPH_AND_TOKENIZER,
        weights=weights,
        kv_cache=tokens * per_token,
        activations=4 * (chunk * width + manifest.vocab_size),
    )


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
