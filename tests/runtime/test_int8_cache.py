"""An int8 KV cache: the graph is told so and nothing else changes, and what it rounds is keys and values alone."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bundles import GRAPH_NAME, TinyDecoder, decoder_model, seal, write_decoder_bundle
from support.int8_cache import add_cache_scales, reference_logits

from edgelm.bundle.bundle import open_bundle
from edgelm.bundle.onnx_reader import read_model
from edgelm.config import RuntimeConfig
from edgelm.errors import CacheFileError, EdgeLMError, IntegrityError, ModelError, UnsupportedModelError
from edgelm.runtime.batch_decoder import BatchDecoder
from edgelm.runtime.cache_file import open_cache, write_cache
from edgelm.runtime.decoder import Decoder
from edgelm.runtime.engine import open_engine
from edgelm.runtime.int8_cache import (
    cache_scales,
    check_kv_cache,
    int8_cache_graph,
    load_int8_cache_graph,
    quantized,
    scales_by_input,
)
from edgelm.runtime.saved_caches import load_cache, save_cache
from edgelm.runtime.sequences import SequencePool
from edgelm.runtime.session import Session
from edgelm.runtime.sliding import PastWindow, SlidingWindow
from edgelm_tools.cache_scales import KV_SCALES_NAME

SIZES = TinyDecoder(layers=2, heads=4, kv_heads=2, context_length=600)
IDS = np.random.default_rng(0).integers(3, 30, 70)
# Two ways of computing round differently where a value lies between two steps of 8 bits.
ATOL = 0.05


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return add_cache_scales(write_decoder_bundle(tmp_path_factory.mktemp("int8") / "tiny", SIZES))


@pytest.fixture(scope="module")
def bundle(folder):
    return open_bundle(folder)


@pytest.fixture(scope="module")
def scales(bundle):
    return cache_scales(bundle)


@pytest.fixture(scope="module")
def session(folder, scales):
    session = Session(folder / GRAPH_NAME, threads=2, graph=load_int8_cache_graph(folder / GRAPH_NAME, scales))
    yield session
    session.close()


@pytest.fixture(scope="module")
def new_decoder(session):
    def make(*, context_length=SIZES.context_length, prefill_chunk=512):
        return Decoder(session, context_length=context_length, prefill_chunk=prefill_chunk)

    return make


def all_logits(decoder, ids):
    return np.concatenate([part.copy() for part in decoder.all_logits(ids)])


# The graph


def test_all_but_the_cache_stays(folder, scales):
    graph = (folder / GRAPH_NAME).read_bytes()
    before = read_model(graph, what="graph")
    after = read_model(int8_cache_graph(graph, scales, what="graph"), what="changed")
    assert before._replace(graph=None) == after._replace(graph=None)
    for ours, theirs in ((before.graph.inputs, after.graph.inputs), (before.graph.outputs, after.graph.outputs)):
        assert [value.name for value in ours] == [value.name for value in theirs]
        for old, new in zip(ours, theirs, strict=True):
            cached = old.name.startswith(("past_key_values.", "present."))
            assert new == (old._replace(dtype=3) if cached else old)
    changed = [(a, b) for a, b in zip(before.graph.nodes, after.graph.nodes, strict=True) if a != b]
    assert [a.op_type for a, _ in changed] == ["GroupQueryAttention"] * SIZES.layers
    for layer, (a, b) in enumerate(changed):
        assert b.outputs == a.outputs
        assert [name for name in b.inputs if name] == [
            *(name for name in a.inputs if name),
            f"past_key_values.{layer}.key.scale",
            f"past_key_values.{layer}.value.scale",
        ]
    added = after.graph.initializers[len(before.graph.initializers) :]
    assert after.graph.initializers[: len(before.graph.initializers)] == before.graph.initializers
    assert {tensor.dims for tensor in added} == {(1, 2, 1, 16)}
    assert len(added) == 2 * SIZES.layers


def test_a_graph_made_for_int8_is_made_so_again(folder, scales):
    """An optimized copy spells all attributes out; none may stand there twice."""
    once = int8_cache_graph((folder / GRAPH_NAME).read_bytes(), scales, what="graph")
    nodes = read_model(int8_cache_graph(once, scales, what="graph"), what="graph").graph.nodes
    for node in nodes:
        names = [attribute.name for attribute in node.attributes]
        assert len(names) == len(set(names))


def test_a_layer_that_no_attention_keeps_is_refused(scales):
    graph = decoder_model(TinyDecoder(layers=1, heads=4, kv_heads=2)).SerializeToString()
    with pytest.raises(ModelError, match=r"no attention that EdgeLM knows keeps past_key_values\.1\.key"):
        int8_cache_graph(graph, scales, what="graph")
    with pytest.raises(ModelError, match="keeps its keys and values elsewhere"):
        int8_cache_graph(decoder_model(replace(SIZES, layers=3)).SerializeToString(), scales, what="graph")


SMALL = decoder_model(TinyDecoder()).SerializeToString()
SMALL_SCALES = np.ones((1, 2, 1, 16), np.float32)


@given(st.integers(0, len(SMALL) - 1), st.integers(0, 255))
def test_a_changed_byte_ends_in_a_graph_or_a_typed_error(place, value):
    with contextlib.suppress(EdgeLMError):
        int8_cache_graph(SMALL[:place] + bytes([value]) + SMALL[place + 1 :], SMALL_SCALES, what="graph")


@given(st.integers(0, len(SMALL) - 1))
def test_a_cut_graph_is_refused(end):
    with contextlib.suppress(EdgeLMError):
        int8_cache_graph(SMALL[:end], SMALL_SCALES, what="graph")
        raise AssertionError("a part of a graph passed for one")


# What it computes


def test_the_logits_are_those_of_rounded_keys_and_values(new_decoder, scales):
    got = all_logits(new_decoder(), IDS)
    exact, rounded = reference_logits(SIZES, IDS), reference_logits(SIZES, IDS, scales)
    np.testing.assert_allclose(got, rounded, rtol=0, atol=ATOL)
    assert np.abs(got - rounded).mean() < np.abs(got - exact).mean() / 10, "it is rounding that makes the difference"
    assert np.abs(got - exact).max() < 0.1 * np.abs(exact).max(), "and 8 bits make a small one"


def test_the_cache_holds_what_f32_holds_in_parts_of_127(folder, new_decoder, scales):
    with contextlib.closing(Session(folder / GRAPH_NAME, threads=1)) as session:
        plain = Decoder(session, context_length=600, prefill_chunk=512)
        plain.prefill(IDS)
        exact = dict(plain.cache.arrays())
    decoder = new_decoder()
    decoder.prefill(IDS)
    assert decoder.cache.kind == "int8"
    assert 4 * decoder.cache.nbytes == plain.cache.nbytes
    for name, array in decoder.cache.arrays():
        assert array.dtype == np.int8
        if name.startswith("past_key_values.0."):  # what comes in later layers was rounded before
            expected = quantized(exact[name], scales_by_input(scales)[name][:, None])
            assert np.abs(array.astype(int) - expected).max() <= 1
            assert (array == expected).mean() > 0.999


@pytest.mark.parametrize("cuts", [(1,), (30,), (69,), (7, 8, 40), tuple(range(1, 70))])
def test_all_ways_to_feed_a_sequence_give_the_same(new_decoder, cuts):
    expected = new_decoder().prefill(IDS).copy()
    decoder = new_decoder()
    for part in np.split(IDS, cuts):
        logits = decoder.step(int(part[0])) if len(part) == 1 else decoder.prefill(part)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=ATOL)


def test_guesses_are_checked_together_and_rewound(new_decoder):
    decoder, stepped = new_decoder(), new_decoder()
    decoder.prefill(IDS[:40])
    stepped.prefill(IDS[:40])
    wrong = decoder.verify([4, 5, 6, 7])
    assert wrong.shape == (4, SIZES.vocab_size)
    decoder.rewind(40)
    checked = decoder.verify(IDS[40:44]).copy()
    for logits, token in zip(checked, IDS[40:44], strict=True):
        np.testing.assert_allclose(logits, stepped.step(int(token)), rtol=0, atol=ATOL)


def test_a_batch_gives_what_its_rows_give_alone(session, new_decoder):
    rows = [IDS[:3].tolist(), IDS[3:40].tolist(), IDS[40:57].tolist()]
    batch = BatchDecoder(session, context_length=600, prefill_chunk=48)
    logits = [batch.prefill(rows).copy()]
    for tokens in ([4, 5, 6], [7, 8, 9]):
        logits.append(batch.step(np.array(tokens)).copy())
        rows = [[*row, token] for row, token in zip(rows, tokens, strict=True)]
    batch.select(np.array([2, 0, 0]))
    logits.append(batch.step(np.array([10, 11, 12])).copy())
    for place, row in enumerate([[*rows[2], 10], [*rows[0], 11], [*rows[0], 12]]):
        np.testing.assert_allclose(logits[-1][place], new_decoder().prefill(row), rtol=0, atol=ATOL)
    for place, row in enumerate(rows):
        for back, got in enumerate(reversed(logits[:-1])):
            np.testing.assert_allclose(got[place], new_decoder().prefill(row[: len(row) - back]), rtol=0, atol=ATOL)


def test_a_prefix_is_taken_over(new_decoder):
    with contextlib.closing(SequencePool(new_decoder)) as pool:
        lent = pool.borrow(IDS, 100)
        lent.decoder.prefill(IDS)
        pool.give_back(lent, IDS)
        longer = np.concatenate([IDS[:50], [4, 9, 5]])
        again = pool.borrow(longer, 100)
        assert again.cached == 50
        np.testing.assert_allclose(again.decoder.prefill(longer[50:]), new_decoder().prefill(longer), rtol=0, atol=ATOL)


def test_the_copy_in_this_machines_layout_takes_it_too(bundle, tmp_path, monkeypatch, new_decoder):
    monkeypatch.setenv("EDGELM_HOME", str(tmp_path))
    with contextlib.closing(open_engine(bundle, RuntimeConfig(threads=1, kv_cache="int8"), 600)) as engine:
        decoder = engine.new_decoder()
        np.testing.assert_allclose(decoder.prefill(IDS), new_decoder().prefill(IDS), rtol=0, atol=ATOL)
    assert list(tmp_path.rglob("graph.onnx"))


@pytest.mark.parametrize("count", [39, 41, 100, 400])
def test_keys_that_move_up_are_turned_and_rounded_anew(bundle, folder, new_decoder, count):
    """Beside the same window over an f32 cache: rounding once more for each time they move costs little."""
    ids = np.random.default_rng(2).integers(3, 30, count)
    sliding = PastWindow(bundle, 40, "int8").over(new_decoder(context_length=40), limit=1000)
    logits = sliding.prefill(ids).copy()
    with contextlib.closing(Session(folder / GRAPH_NAME, threads=1)) as session:
        plain = Decoder(session, context_length=40, prefill_chunk=512)
        exact = PastWindow(bundle, 40).over(plain, limit=1000).prefill(ids)
    assert (sliding.length, sliding._cache.dropped) == (count, SlidingWindow(40).dropped_at(count))
    assert np.abs(logits - exact).max() < 0.1 * np.abs(exact).max()


# Saved caches


def test_a_saved_cache_goes_on_in_one_of_its_type(tmp_path, bundle, new_decoder):
    path, manifest = tmp_path / "a.kv", bundle.manifest
    pool = SequencePool(new_decoder)
    assert save_cache(pool, path, manifest, IDS) == len(IDS)
    other = SequencePool(new_decoder)
    assert load_cache(other, path, manifest, 600, "int8") == len(IDS)
    lent, held = other.borrow_kept(None)
    stayed = new_decoder()
    stayed.prefill(IDS)
    assert np.array_equal(held, IDS)
    assert np.array_equal(lent.decoder.step(5), stayed.step(5))


def test_a_cache_of_one_type_is_refused_by_the_other(tmp_path, folder, bundle, new_decoder):
    decoder, manifest, window = new_decoder(), bundle.manifest, SlidingWindow(600)
    decoder.prefill(IDS)
    write_cache(tmp_path / "int8", manifest, decoder.cache, IDS)
    with contextlib.closing(Session(folder / GRAPH_NAME, threads=1)) as session:
        plain = Decoder(session, context_length=600, prefill_chunk=512)
        plain.prefill(IDS)
        write_cache(tmp_path / "f32", manifest, plain.cache, IDS)
    for held, loaded in (("int8", "f32"), ("f32", "int8")):
        words = f"holds a KV cache of type {held}, but the model is loaded with one of type {loaded}"
        with pytest.raises(CacheFileError, match=words), open_cache(tmp_path / held, manifest, window, loaded):
            raise AssertionError("it was taken")
    sizes = [(tmp_path / name).stat().st_size for name in ("int8", "f32")]
    assert 3.5 < sizes[1] / sizes[0] < 4


# What is refused


def broken(tmp_path: Path, data: bytes) -> Path:
    """A bundle whose manifest agrees with the file of scales, whatever that holds."""
    folder = add_cache_scales(write_decoder_bundle(tmp_path / "broken", SIZES))
    (folder / KV_SCALES_NAME).write_bytes(data)
    return seal(folder)


@pytest.mark.parametrize("value", [0.0, -0.5, np.nan, np.inf, -np.inf])
def test_a_scale_that_is_none_is_named(tmp_path, scales, value):
    changed = scales.copy()
    changed[1, 0, 1, 7] = value
    bundle = open_bundle(broken(tmp_path, changed.tobytes()))
    with pytest.raises(ModelError, match=rf"{KV_SCALES_NAME}: scale \(1, 0, 1, 7\) is {value}, not a finite number"):
        cache_scales(bundle)


@pytest.mark.parametrize("size", [0, 1, 508, 516, 1024])
def test_a_file_of_another_size_is_refused_when_the_bundle_is_opened(tmp_path, size):
    with pytest.raises(ModelError, match=f"scales has {size} bytes, but this geometry needs 512"):
        open_bundle(broken(tmp_path, b"\1" * size))


def test_scales_that_were_altered_later_are_refused(tmp_path, scales):
    folder = broken(tmp_path, scales.tobytes())
    (folder / KV_SCALES_NAME).write_bytes(scales.tobytes()[:-1] + b"\0")
    with pytest.raises(IntegrityError, match=KV_SCALES_NAME):
        open_bundle(folder)
    (folder / KV_SCALES_NAME).unlink()
    with pytest.raises(IntegrityError, match=KV_SCALES_NAME):
        open_bundle(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layout": "optimum"}, "another tool's"),
        ({"family": "encoder-decoder"}, "for decoder-only models, and it is an encoder-decoder"),
        ({"family": "encoder", "kv": None}, "for decoder-only models, and it is an encoder"),
    ],
)
def test_what_can_have_none_is_refused_by_name(bundle, changes, words):
    manifest = replace(bundle.manifest, **changes)
    check_kv_cache(manifest, "f32")
    with pytest.raises(UnsupportedModelError, match=f"tiny cannot keep its KV cache in int8: .*{words}"):
        check_kv_cache(manifest, "int8")


def test_an_older_bundle_is_told_to_be_made_anew(tmp_path):
    bundle = open_bundle(write_decoder_bundle(tmp_path / "old", SIZES))
    with pytest.raises(UnsupportedModelError, match=r"holds no scales .* \(edgelm pull, export or quantize with --fo"):
        open_engine(bundle, RuntimeConfig(kv_cache="int8"), 64)
