"""The table in a file gives the vectors that a table in the graph would give."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bundles import GRAPH_NAME, TinyDecoder
from support.embedding_bundle import TABLE_NAME, quantized, vectors, write_embedding_bundles

import edgelm
from edgelm.bundle.manifest import EmbeddingFile
from edgelm.errors import ClosedError, ManifestError, ModelError, NumericError
from edgelm.runtime.decoder import Decoder
from edgelm.runtime.embedding import EmbeddingTable, row_dtype
from edgelm.runtime.session import Session

SIZES = TinyDecoder(layers=2, hidden=24)
VECTORS = np.random.default_rng(0).normal(0, 3, (40, 24)).astype(np.float32)


@pytest.fixture
def table(tmp_path):
    path = tmp_path / TABLE_NAME
    path.write_bytes(quantized(VECTORS).tobytes())
    table = EmbeddingTable(path, rows=40, columns=24)
    yield table
    table.close()


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    return write_embedding_bundles(tmp_path_factory.mktemp("embedding"), SIZES)


def test_a_row_is_its_steps_times_its_scale(table, tmp_path):
    rows = np.frombuffer((tmp_path / TABLE_NAME).read_bytes(), row_dtype(24))
    ids = [0, 39, 7, 7, 20]
    out = np.full((5, 24), np.nan, np.float32)
    table.lookup(ids, out)
    np.testing.assert_array_equal(out, rows["steps"][ids].astype(np.float32) * rows["scales"][ids])
    np.testing.assert_allclose(out, VECTORS[ids], atol=np.abs(VECTORS).max() / 200)


def test_a_row_takes_its_columns_and_four_bytes_for_each_scale():
    assert row_dtype(24).itemsize == row_dtype(24, 24).itemsize == row_dtype(24, 99).itemsize == 28
    assert row_dtype(24, 10).itemsize == 24 + 3 * 4


@given(columns=st.integers(1, 70), block_size=st.integers(1, 80), seed=st.integers(0, 9))
def test_blocks_of_any_size_are_read_as_they_were_written(columns, block_size, seed, tmp_path_factory):
    values = np.random.default_rng(seed).normal(0, 3, (5, columns)).astype(np.float32)
    rows = quantized(values, block_size)
    path = tmp_path_factory.getbasetemp() / "blocks.bin"
    path.write_bytes(rows.tobytes())
    table = EmbeddingTable(path, rows=5, columns=columns, block_size=block_size)
    out = np.full((3, columns), np.nan, np.float32)
    table.lookup([4, 0, 4], out)
    table.close()
    np.testing.assert_array_equal(out, vectors(rows, block_size)[[4, 0, 4]])
    np.testing.assert_allclose(out, values[[4, 0, 4]], atol=np.abs(values).max() / 253)


def test_one_scale_of_a_row_that_is_not_finite_is_enough(tmp_path):
    rows = quantized(VECTORS, 8)
    rows["scales"][3, 2] = np.nan
    (tmp_path / TABLE_NAME).write_bytes(rows.tobytes())
    table = EmbeddingTable(tmp_path / TABLE_NAME, rows=40, columns=24, block_size=8)
    with pytest.raises(NumericError, match="token 3 is not of finite numbers"):
        table.lookup([3], np.zeros((1, 24), np.float32))
    table.close()


@pytest.mark.parametrize("token", [-1, 40, 2**40])
def test_a_token_outside_the_table_is_refused(table, token):
    with pytest.raises(ValueError, match=f"token {token} is outside the table of 40 rows"):
        table.lookup([0, token], np.zeros((2, 24), np.float32))


@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf, 1e37])
def test_a_vector_that_is_not_of_finite_numbers_is_refused(tmp_path, scale):
    rows = quantized(VECTORS)
    rows["scales"][7] = scale
    (tmp_path / TABLE_NAME).write_bytes(rows.tobytes())
    table = EmbeddingTable(tmp_path / TABLE_NAME, rows=40, columns=24)
    with pytest.raises(NumericError, match=r"^the embedding of token 7 is not of finite numbers$"):
        table.lookup([6, 7, 8], np.zeros((3, 24), np.float32))
    table.close()


@pytest.mark.parametrize(
    ("rows", "columns", "block_size"), [(39, 24, None), (41, 24, 24), (40, 23, None), (40, 24, 12)]
)
def test_a_file_of_another_size_is_refused(table, tmp_path, rows, columns, block_size):
    with pytest.raises(ModelError, match=f"{TABLE_NAME}: 1120 bytes, but {rows} rows take"):
        EmbeddingTable(tmp_path / TABLE_NAME, rows=rows, columns=columns, block_size=block_size)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"gone\.bin: cannot be read: No such file"):
        EmbeddingTable(tmp_path / "gone.bin", rows=1, columns=1)


def test_a_file_that_is_cut_meanwhile_is_an_error_not_garbage(table, tmp_path):
    with (tmp_path / TABLE_NAME).open("r+b") as file:
        file.truncate(100)
    out = np.zeros((1, 24), np.float32)
    table.lookup([0], out)
    with pytest.raises(ModelError, match="has become shorter"):
        table.lookup([39], out)


def test_a_closed_table_says_so(table):
    table.close()
    table.close()
    with pytest.raises(ClosedError, match="the model is closed"):
        table.lookup([0], np.zeros((1, 24), np.float32))


def test_many_threads_read_their_own_rows(table):
    wrong = []

    def read(seed):
        random, out = np.random.default_rng(seed), np.zeros((8, 24), np.float32)
        for _ in range(200):
            ids = random.integers(0, 40, 8)
            table.lookup(ids, out)
            if np.abs(out - VECTORS[ids]).max() > 0.1:
                wrong.append(ids)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_a_decoder_on_vectors_is_one_on_tokens(bundles, chunk):
    outside, inside = (Session(folder / GRAPH_NAME, threads=1) for folder in bundles)
    table = EmbeddingTable(bundles[0] / TABLE_NAME, rows=SIZES.vocab_size, columns=SIZES.hidden)
    ids = np.random.default_rng(1).integers(0, 32, 20)
    one = Decoder(outside, context_length=64, prefill_chunk=chunk, embedding=table)
    other = Decoder(inside, context_length=64, prefill_chunk=64)
    np.testing.assert_allclose(one.prefill(ids), other.prefill(ids), atol=1e-4)
    for token in ids[:5]:
        np.testing.assert_allclose(one.step(token), other.step(token), atol=1e-4)
    for session in (outside, inside):
        session.close()
    table.close()


@pytest.mark.parametrize(("prepack", "block_size"), [(False, None), (True, None), (True, 10)])
def test_a_model_on_vectors_answers_as_one_on_tokens(tmp_path, monkeypatch, prepack, block_size):
    monkeypatch.setenv("EDGELM_HOME", str(tmp_path))
    answers = []
    for folder in write_embedding_bundles(tmp_path, SIZES, block_size=block_size):
        with edgelm.load(folder, threads=1, prepack=prepack) as lm:
            answers.append(lm.generate("the quick brown", max_new_tokens=20, eos_token_id=[]).token_ids)
    assert answers[0] == answers[1]
    with pytest.raises(ClosedError):
        lm.generate("abc")


def test_a_table_without_a_row_for_every_token_is_refused(tmp_path):
    folder, _ = write_embedding_bundles(tmp_path, SIZES, embedding=EmbeddingFile(TABLE_NAME, rows=31, columns=24))
    with pytest.raises(ManifestError, match=r"embedding\.rows"):
        edgelm.load(folder)


def test_a_table_of_another_size_than_the_manifest_says_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGELM_HOME", str(tmp_path))
    folder, _ = write_embedding_bundles(tmp_path, SIZES, embedding=EmbeddingFile(TABLE_NAME, rows=33, columns=24))
    with pytest.raises(ModelError, match=f"{TABLE_NAME}: 896 bytes, but 33 rows take 924"):
        edgelm.load(folder, prepack=False)
