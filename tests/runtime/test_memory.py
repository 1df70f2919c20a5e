"""The budget: a sum of named parts that grows with what it is for, and near what a process really takes."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bundles import GRAPH_NAME, WEIGHTS_NAME, TinyDecoder, decoder_manifest, write_decoder_bundle

from edgelm.bundle.manifest import EmbeddingFile, FileEntry, KVGeometry
from edgelm.errors import MemoryLimitError
from edgelm.runtime.memory import MB, Budget, budget, megabytes, peak_memory


def manifest(*, weights=100 * MB, graph=200_000, vocab_size=50_000, **changes):
    """A model of the size of SmolLM2-135M."""
    sizes = {GRAPH_NAME: graph, WEIGHTS_NAME: weights, "tokenizer.json": 2 * MB, "embedding.int8": 28 * MB}
    files = {name: FileEntry(size=size, sha256="0" * 64) for name, size in sizes.items()}
    changes = {"kv": KVGeometry(30, 3, 64), "embedding": EmbeddingFile("embedding.int8", 50_000, 576), **changes}
    return replace(decoder_manifest(), files=files, vocab_size=vocab_size, **changes)


def need(tokens=1000, prefill_chunk=128, sequences=1, **changes):
    return budget(manifest(**changes), tokens=tokens, prefill_chunk=prefill_chunk, sequences=sequences)


@given(st.integers(1, 10**6), st.integers(1, 2048), st.integers(1, 20))
def test_the_total_is_the_sum_of_its_parts(tokens, chunk, sequences):
    parts = need(tokens, chunk, sequences)
    assert parts.total == sum(dataclasses.astuple(parts))
    assert parts.cross == 0, "a decoder-only model reads no source"
    assert parts.loading >= 0
    always = replace(parts, cross=1, loading=1, draft=1, other=1)
    assert all(isinstance(part, int) and part > 0 for part in dataclasses.astuple(always))


def only_changes(part, before, after):
    same = {part: 0, "loading": 0}
    assert dataclasses.asdict(before) | same == dataclasses.asdict(after) | same
    return getattr(after, part) - getattr(before, part)


def test_weights_are_the_data_files_and_nothing_else():
    assert need().weights == 100 * MB
    assert only_changes("weights", need(), need(weights=300 * MB)) == 200 * MB


def test_the_cache_is_two_tensors_a_layer(new_decoder, sizes):
    assert need().kv_cache == 1000 * 2 * 30 * 3 * 64 * 4
    assert need(kv=KVGeometry(30, 3, 64, "int8")).kv_cache == 1000 * 2 * 30 * 3 * 64
    assert need(1001).kv_cache - need(1000).kv_cache == 46_080
    cache = new_decoder().cache
    cache.reserve(77)
    assert need(77, kv=decoder_manifest(sizes).kv).kv_cache == cache.nbytes


# An older bundle's: 4 widths of the stream, 10 of attention, 4.5 of feed-forward layers four times as wide.
WIDTHS = (4 + 10 + 18) * 576


def test_activations_are_those_of_one_chunk():
    chunk = 128 * (WIDTHS + 9 * 1000) * 4  # and a token's attention to all tokens in nine heads
    assert only_changes("activations", need(prefill_chunk=128), need(prefill_chunk=256)) == chunk
    assert need(prefill_chunk=128).activations == chunk + 4 * 50_000 * 4
    assert need(tokens=100, prefill_chunk=128).activations == need(tokens=100, prefill_chunk=100).activations


def test_several_sequences_share_what_is_summed_over_their_tokens():
    more = only_changes("activations", need(), need(sequences=3))
    assert more == 2 * 4 * (128 * WIDTHS + 4 * 50_000)


def test_without_an_embedding_table_the_width_is_guessed_from_the_cache():
    wider = need(embedding=None).activations / need().activations
    assert 1 < wider < 1.5


def test_a_larger_vocabulary_has_a_larger_tokenizer():
    grown = need(vocab_size=250_000)
    assert grown.text == 5 * need().text
    assert 10 * MB < need().text < 20 * MB


def test_weights_inside_a_graph_are_weights():
    assert need(graph=200_000).graph == 10 * MB
    assert only_changes("weights", need(graph=100 * MB), need(graph=101 * MB)) == MB


def test_a_model_without_a_cache_has_a_budget():
    assert need(kv=None, embedding=None).kv_cache == 0


def test_a_limit_that_is_kept_says_nothing():
    parts = need()
    parts.check(None)
    parts.check(parts.total)


def test_a_limit_that_is_exceeded_names_need_limit_and_parts():
    parts = Budget(72 * MB, 40 * MB, 9 * MB, 138 * MB, 18 * MB, 5 * MB)
    message = (
        "needs 282 MB, the limit is 10 MB: weights 138 MB, KV cache 18 MB, activations 5 MB, graph 9 MB, "
        "tokenizer 40 MB, Python and libraries 72 MB"
    )
    with pytest.raises(MemoryLimitError, match=f"^{re.escape(message)}$"):
        parts.check(10 * MB)
    with pytest.raises(MemoryError):
        parts.check(parts.total - 1)
    with pytest.raises(
        MemoryLimitError, match=r"^needs 283 MB, the cage is 1 MB: .* what else the process holds 1 MB$"
    ):
        replace(parts, other=MB).check(MB, "the cage")


@pytest.mark.parametrize(
    ("count", "text"), [(143_200_000, "143 MB"), (MB, "1 MB"), (999_999, "1.0 MB"), (12_000_000_000, "12000 MB")]
)
def test_megabytes_for_people(count, text):
    assert megabytes(count) == text


def test_what_is_needed_is_rounded_up():
    assert [megabytes(count, up=True) for count in (MB, MB + 1, 300_001)] == ["1 MB", "2 MB", "0.3 MB"]


def test_the_peak_grows_with_what_is_touched_and_never_falls():
    before = peak_memory()
    block = b"x" * (before + 50 * MB)
    touched = peak_memory()
    del block
    assert touched >= before + 40 * MB
    assert peak_memory() >= touched - MB, "the system counts in coarse steps"


@pytest.mark.parametrize("status", ["gone", "without a peak"])
@pytest.mark.skipif(sys.platform == "win32", reason="tells no peak")
def test_where_proc_does_not_tell_the_system_is_asked(monkeypatch, tmp_path, status):
    expected = peak_memory()
    path = tmp_path / "status"
    if status != "gone":
        path.write_text("Name: x")
    monkeypatch.setattr("edgelm.runtime.memory._STATUS", path)
    assert abs(peak_memory() - expected) < 0.2 * expected


PEAK = """
import sys
from pathlib import Path
import edgelm
with edgelm.load(Path(sys.argv[1]), threads=2, prepack=False) as lm:
    prompt = [5] * int(sys.argv[2])
    result = lm.generate(prompt, max_new_tokens=8, eos_token_id=[])
    print(result.peak_memory, lm.memory_budget(len(prompt) + 8).total)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the constants are of Linux")
@pytest.mark.parametrize("tokens", [20, 4000])
def test_the_budget_is_near_what_a_process_takes(tmp_path, monkeypatch, tokens):
    monkeypatch.setenv("EDGELM_HOME", str(tmp_path / "home"))
    sizes = TinyDecoder(layers=4, hidden=256, heads=4, kv_heads=2, head_size=64, ffn=1024, context_length=4096)
    folder = write_decoder_bundle(tmp_path / "b", sizes)
    done = subprocess.run([sys.executable, "-c", PEAK, folder, str(tokens)], capture_output=True, text=True, check=True)
    measured, estimated = map(int, done.stdout.split())
    assert 0.85 < estimated / measured < 1.3  # other versions of Python and the libraries differ by a tenth
