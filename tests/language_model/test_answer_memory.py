"""Whether answers fit, and that what is advised where they do not is so."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from support.bundles import decoder_manifest

from edgelm.answer_memory import check_answers
from edgelm.bundle.manifest import FileEntry, KVGeometry, Manifest
from edgelm.config import RuntimeConfig
from edgelm.errors import MemoryLimitError
from edgelm.runtime.memory import Needs, budget
from edgelm.runtime.process_memory import ProcessMemory


def answers(tokens: int, **changes: int) -> Needs:
    return Needs(**{"tokens": tokens, "sequences": 1, "rows": 1, "longest": tokens, **changes})


def refusal(manifest: Manifest, limit: int, needs: Needs, **settings: Any) -> str | None:
    """None: they fit."""
    runtime = RuntimeConfig(max_memory=limit, memory_check=False, **settings)
    memory = ProcessMemory(runtime, beside=10**12)  # what this process holds is not to count
    try:
        check_answers(manifest, runtime, memory, None, needs)
    except MemoryLimitError as error:
        return str(error)
    return None


@pytest.fixture
def manifest() -> Manifest:
    """Of a model whose cache takes 1 MB for 100 tokens in f32."""
    files = {name: FileEntry(100_000, "0" * 64) for name in ("decoder.onnx", "decoder.onnx.data")}
    return replace(
        decoder_manifest(), context_length=100_000, files=files, kv=KVGeometry(2, 4, 160, scales="kv_scales.f32")
    )


def test_the_length_that_is_named_fits_and_one_token_more_does_not(manifest: Manifest) -> None:
    limit = budget(manifest, tokens=20_000, prefill_chunk=128).total
    told = refusal(manifest, limit, answers(60_000), kv_cache="f32")
    assert told is not None
    found = re.search(r"; (\d+) tokens of prompt and answer together would fit, not 60000: ask for fewer tokens", told)
    assert found is not None, told
    assert told.endswith("(max_new_tokens, -n), shorten the prompt or raise the limit")
    assert refusal(manifest, limit, answers(int(found[1]))) is None
    assert refusal(manifest, limit, answers(int(found[1]) + 1)) is not None


def test_an_int8_cache_is_named_where_it_would_do(manifest: Manifest) -> None:
    limit = budget(manifest, tokens=20_000, prefill_chunk=128).total
    way = "keep the KV cache in int8 (kv_cache, --kv-cache) or raise the limit"
    assert (refusal(manifest, limit, answers(25_000)) or "").endswith(f"shorten the prompt, {way}")
    assert refusal(manifest, limit, answers(25_000), kv_cache="int8") is None
    assert way not in (refusal(manifest, limit, answers(100_000)) or ""), "nor is int8 enough"


def test_others_are_waited_for_and_rows_take_fewer_tokens(manifest: Manifest) -> None:
    limit = budget(manifest, tokens=20_000, prefill_chunk=128).total
    several = refusal(manifest, limit, answers(60_000, sequences=3, rows=3)) or ""
    assert "; 3 answers are being made at a time: wait for the other 2 to end, ask for fewer tokens" in several
    beams = refusal(manifest, limit, answers(60_000, rows=4)) or ""
    assert beams.endswith("; ask for fewer tokens (max_new_tokens, -n) or raise the limit")


def test_threads_count(manifest: Manifest) -> None:
    limit = budget(manifest, tokens=20_000, prefill_chunk=128, threads=500).total
    assert refusal(manifest, limit, answers(20_000), threads=500) is None
    assert refusal(manifest, limit, answers(20_000), threads=501) is not None
