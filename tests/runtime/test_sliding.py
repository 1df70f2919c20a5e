"""Past the context window: what is dropped depends on the tokens' number alone, and keys are those of their places."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bundles import TinyDecoder, write_decoder_bundle

from edgelm.bundle.bundle import open_bundle
from edgelm.errors import ConfigError, ModelError, UnsupportedModelError
from edgelm.runtime.decoder import Decoder
from edgelm.runtime.rotary import KeyTurn
from edgelm.runtime.sliding import PastWindow, SlidingWindow

WINDOW = 40
SINKS = SlidingWindow.sinks
BLOCK = SlidingWindow(WINDOW).block


@pytest.fixture(scope="module")
def bundle(folder):
    return open_bundle(folder)


@pytest.fixture
def new_sliding(bundle, new_decoder):
    def make():
        return PastWindow(bundle, WINDOW).over(new_decoder(context_length=WINDOW), limit=1000)

    return make


def tokens(count, seed=0):
    return np.random.default_rng(seed).integers(3, 30, count)


def keys(sliding):
    return {name: array.copy() for name, array in sliding._cache.arrays()}


@given(st.integers(8, 300), st.integers(0, 2000))
def test_so_much_is_dropped_that_the_next_token_has_room(size, count):
    window = SlidingWindow(size)
    held = count - window.dropped_at(count)
    assert held <= size
    assert held == count or held > size - window.block
    assert window.sinks + window.block < size or size < 10


def test_the_first_tokens_and_the_newest_stay_in_the_places_they_have(new_sliding, new_decoder):
    """In the first layer a key depends on nothing but its token and its place."""
    ids = tokens(100)
    sliding = new_sliding()
    sliding.prefill(ids)
    dropped = SlidingWindow(WINDOW).dropped_at(100)
    seen = np.concatenate([ids[:SINKS], ids[SINKS + dropped :]])
    fresh = new_decoder()
    fresh.prefill(seen)
    assert (sliding.length, sliding._cache.dropped, sliding._cache.length) == (100, dropped, len(seen))
    for name, array in fresh.cache.arrays():
        if name.startswith("past_key_values.0."):
            np.testing.assert_allclose(keys(sliding)[name], array, atol=1e-5)


def test_within_the_window_nothing_changes(new_sliding, new_decoder):
    ids = tokens(WINDOW)
    assert np.array_equal(new_sliding().prefill(ids), new_decoder().prefill(ids))


@pytest.mark.parametrize("cuts", [(), (1,), (39,), (40,), (41, 42), (30, 60, 90), tuple(range(1, 100))])
def test_a_sequence_comes_out_the_same_however_it_is_fed(new_sliding, cuts):
    ids = tokens(100)
    expected = new_sliding().prefill(ids)
    sliding = new_sliding()
    for part in np.split(ids, cuts):
        logits = sliding.step(int(part[0])) if len(part) == 1 else sliding.prefill(part)
    np.testing.assert_allclose(logits, expected, atol=1e-3)


def test_turning_back_is_undone_by_no_rounding_that_counts(bundle):
    """Turned back one position at a time or by many at once: the same keys."""
    layer = "past_key_values.1.key"
    once = np.random.default_rng(0).normal(size=(1, 1, 7, 16)).astype(np.float32)
    often = once.copy()
    KeyTurn(bundle, 6)(layer, once)
    for _ in range(6):
        KeyTurn(bundle, 1)(layer, often)
    np.testing.assert_allclose(once, often, atol=1e-5)
    values = often.copy()
    KeyTurn(bundle, 6)("past_key_values.1.value", values)
    assert np.array_equal(values, often), "values have no positions"


def test_a_scale_in_the_tables_is_not_applied_again(tmp_path):
    """YaRN and longrope multiply cosines and sines by a factor, which keys have already."""

    def scale(model):
        for tensor in model.graph.initializer:
            if tensor.name.startswith("rope_"):
                place = {entry.key: entry.value for entry in tensor.external_data}
                path = tmp_path / "b" / place["location"]
                data = np.fromfile(path, np.uint8)
                start, length = int(place["offset"]), int(place["length"])
                table = data[start : start + length].view(np.float32)
                table *= 1.25
                data.tofile(path)

    sizes = TinyDecoder(layers=1, context_length=64)
    scaled = open_bundle(write_decoder_bundle(tmp_path / "b", sizes, edit=scale))
    plain = open_bundle(write_decoder_bundle(tmp_path / "p", sizes))
    one = np.random.default_rng(0).normal(size=(1, 1, 5, 16)).astype(np.float32)
    other = one.copy()
    KeyTurn(scaled, 9)("past_key_values.0.key", one)
    KeyTurn(plain, 9)("past_key_values.0.key", other)
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_learned_positions_are_refused(tmp_path):
    folder = write_decoder_bundle(tmp_path / "b", TinyDecoder(learned_positions=True))
    with pytest.raises(UnsupportedModelError, match="learned its positions one by one"):
        PastWindow(open_bundle(folder), 64)


def test_other_tools_graphs_are_refused(bundle):
    other = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, layout="optimum"))
    with pytest.raises(UnsupportedModelError, match="only EdgeLM's own decoders"):
        PastWindow(other, 64)


def test_a_window_too_narrow_to_slide_is_refused(bundle):
    with pytest.raises(ConfigError, match="a context window of 8 tokens, not 7"):
        PastWindow(bundle, 7)


def test_a_window_longer_than_the_tables_of_positions_is_refused(bundle):
    with pytest.raises(ModelError, match=r"tiny: '\w+' ends at position 599, before 999: the window is longer"):
        PastWindow(bundle, 4000)


@pytest.mark.parametrize("context", [8, 9, 11])
def test_the_narrowest_windows_slide(bundle, session, context):
    decoder = Decoder(session, context_length=context, prefill_chunk=4)
    sliding = PastWindow(bundle, context).over(decoder, limit=100)
    logits = sliding.prefill(tokens(60))
    assert sliding.length == 60
    assert np.isfinite(logits).all()
