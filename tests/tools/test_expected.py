"""What a conversion will make is told without reading the checkpoint's large files."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

from support.memory_checkpoint import LLAMA_CONFIG, MemoryCheckpoint, llama_tensors

from edgelm_tools.architectures.registry import understand
from edgelm_tools.expected import shape_of


def test_of_a_tokenizer_only_the_beginning_is_read(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(b'{"model": {"type": "Unigram"}}' + b" " * (16 << 20))
    model = understand(MemoryCheckpoint(llama_tensors(), LLAMA_CONFIG))
    assert shape_of(model, tmp_path).footprint.tokenizer == "Unigram"
    tracemalloc.start()  # not before all is imported that is needed
    try:
        shape_of(model, tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20
