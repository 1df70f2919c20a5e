"""A decoder's laws: however a sequence is cut, cached, grown or rewound, its logits are those of the whole."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.bundles import GRAPH_NAME, TinyDecoder, write_decoder_bundle

from edgelm.errors import CancelledError, ClosedError, ContextLengthError, ModelError
from edgelm.runtime.decoder import Decoder
from edgelm.runtime.row_cache import GROWTH
from edgelm.runtime.session import Session

IDS = np.random.default_rng(7).integers(0, 32, 600)
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def whole(new_decoder):
    """The logits at every position of IDS, from one run: (600, V)."""
    return np.concatenate(list(new_decoder(prefill_chunk=600).all_logits(IDS)))


def same(logits, expected):
    np.testing.assert_allclose(logits, expected, atol=TOLERANCE)


def test_prefill_gives_the_last_tokens_logits(new_decoder, whole):
    decoder = new_decoder()
    logits = decoder.prefill(IDS[:40].tolist())
    assert (logits.shape, logits.dtype) == ((32,), np.float32)
    assert decoder.vocab_size == 32
    assert decoder.length == 40
    same(logits, whole[39])


def test_step_by_step_is_the_same_as_prefill(new_decoder, whole):
    decoder = new_decoder()
    for position, token in enumerate(IDS[:50]):
        same(decoder.step(int(token)), whole[position])
    assert decoder.length == 50


@pytest.mark.parametrize("chunk", [1, 2, 7, 39, 40, 41, 512])
def test_prefill_in_chunks_is_the_same(new_decoder, whole, chunk):
    decoder = new_decoder(prefill_chunk=chunk)
    same(decoder.prefill(IDS[:40]), whole[39])
    same(decoder.step(int(IDS[40])), whole[40])


@pytest.mark.parametrize("chunk", [1, 3, 40, 512])
def test_all_logits_has_every_position(new_decoder, whole, chunk):
    decoder = new_decoder(prefill_chunk=chunk)
    parts = list(decoder.all_logits(IDS[:40]))
    assert [len(part) for part in parts[:-1]] == [chunk] * (len(parts) - 1)
    same(np.concatenate(parts), whole[:40])
    same(next(iter(decoder.all_logits(IDS[40:41])))[0], whole[40])


def test_the_chunks_of_all_logits_are_the_callers_own(new_decoder):
    parts = list(new_decoder(prefill_chunk=10).all_logits(IDS[:20]))
    copy = parts[0].copy()
    parts[1][:] = 0
    np.testing.assert_array_equal(parts[0], copy)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("prefill"), st.integers(1, 40)),
            st.tuples(st.just("step"), st.just(1)),
            st.tuples(st.just("rewind"), st.integers(0, 40)),
            st.tuples(st.just("reserve"), st.integers(0, 600)),
        ),
        max_size=12,
    ),
    st.integers(1, 30),
)
def test_any_history_of_a_decoder_leaves_the_logits_of_its_tokens(new_decoder, whole, actions, chunk):
    decoder = new_decoder(prefill_chunk=chunk)
    for action, size in actions:
        length = decoder.length
        if action == "prefill":
            same(decoder.prefill(IDS[length : length + size]), whole[length + size - 1])
        elif action == "step":
            same(decoder.step(int(IDS[length])), whole[length])
        elif action == "rewind":
            decoder.rewind(max(0, length - size))
        else:
            decoder.reserve(size)
    length = decoder.length
    same(decoder.step(int(IDS[length])), whole[length])


def test_after_a_rewind_another_continuation_is_as_from_scratch(new_decoder):
    decoder = new_decoder()
    decoder.prefill(IDS[:30])
    decoder.rewind(10)
    assert decoder.length == 10
    other = [5, 6, 7, 8]
    same(decoder.prefill(other), new_decoder().prefill([*IDS[:10], *other]))


@pytest.mark.parametrize("length", [-1, 31, 10**9])
def test_rewinding_forward_is_refused(new_decoder, length):
    decoder = new_decoder()
    decoder.prefill(IDS[:30])
    with pytest.raises(ValueError, match=f"cannot rewind a cache of 30 tokens to {length}"):
        decoder.rewind(length)
    assert decoder.length == 30


def test_growing_past_one_allocation_keeps_what_was_there(new_decoder, whole):
    decoder = new_decoder()
    decoder.prefill(IDS[: GROWTH - 1])
    assert decoder.cache.capacity == GROWTH
    same(decoder.step(int(IDS[GROWTH - 1])), whole[GROWTH - 1])
    same(decoder.step(int(IDS[GROWTH])), whole[GROWTH])
    assert decoder.cache.capacity == 2 * GROWTH
    same(decoder.prefill(IDS[GROWTH + 1 : 600]), whole[599])
    assert decoder.cache.capacity == 600, "never more than the context"


def test_a_reservation_is_exact_and_nothing_moves_until_it_is_full(new_decoder, whole):
    decoder = new_decoder()
    decoder.reserve(45)
    assert decoder.cache.capacity == 45
    addresses = {name: array.ctypes.data for name, array in decoder.cache.arrays()}
    decoder.prefill(IDS[:40])
    for position in range(40, 45):
        same(decoder.step(int(IDS[position])), whole[position])
    assert {name: array.ctypes.data for name, array in decoder.cache.arrays()} == addresses
    same(decoder.step(int(IDS[45])), whole[45])
    assert decoder.cache.capacity == GROWTH


def test_a_reservation_never_shrinks_and_never_exceeds_the_context(new_decoder):
    decoder = new_decoder(context_length=100)
    decoder.reserve(10**9)
    assert decoder.cache.capacity == 100
    decoder.reserve(5)
    assert decoder.cache.capacity == 100


def test_the_context_is_a_limit_that_is_checked_before_anything_runs(new_decoder, whole):
    decoder = new_decoder(context_length=20, prefill_chunk=8)
    with pytest.raises(ContextLengthError, match="21 tokens do not fit into a context window of 20"):
        decoder.prefill(IDS[:21])
    assert decoder.length == 0
    decoder.prefill(IDS[:19])
    same(decoder.step(int(IDS[19])), whole[19])
    with pytest.raises(ContextLengthError, match="21 tokens do not fit"):
        decoder.step(3)
    with pytest.raises(ContextLengthError, match="25 tokens do not fit"):
        list(decoder.all_logits([1] * 5))
    decoder.rewind(19)
    same(decoder.step(int(IDS[19])), whole[19])


def test_learned_positions_go_on_where_the_cache_ends(tmp_path):
    sizes = TinyDecoder(context_length=60, learned_positions=True)
    session = Session(write_decoder_bundle(tmp_path / "b", sizes) / GRAPH_NAME, threads=1)
    whole = next(Decoder(session, context_length=60, prefill_chunk=60).all_logits(IDS[:60]))
    decoder = Decoder(session, context_length=60, prefill_chunk=7)
    same(decoder.prefill(IDS[:30]), whole[29])
    same(decoder.step(int(IDS[30])), whole[30])
    same(np.concatenate(list(decoder.all_logits(IDS[31:60]))), whole[31:])
    decoder.rewind(10)
    same(decoder.step(int(IDS[10])), whole[10])
    same(decoder.prefill(IDS[11:13]), whole[12])
    # Attention over a repeated token gives that token's value: only positions tell the rows apart.
    decoder.rewind(0)
    first, second = next(decoder.all_logits([5, 5]))
    assert np.abs(first - second).max() > 0.1
    session.close()


def test_nothing_to_compute_is_refused(new_decoder):
    with pytest.raises(ValueError, match="there is no token to compute"):
        new_decoder().prefill([])
    with pytest.raises(ValueError, match="there is no token to compute"):
        list(new_decoder().all_logits(np.array([], np.int64)))


def test_a_steps_logits_are_a_view_that_the_next_overwrites_and_the_caller_may_change(new_decoder, whole):
    decoder = new_decoder()
    decoder.prefill(IDS[:10])[:] = np.nan
    first = decoder.step(int(IDS[10]))
    same(first, whole[10])
    first[:] = np.nan
    second = decoder.step(int(IDS[11]))
    assert np.shares_memory(first, second)
    same(second, whole[11])
    same(decoder.prefill(IDS[12:20]), whole[19])


def test_decoders_of_one_session_are_independent(new_decoder, whole):
    one, other = new_decoder(), new_decoder()
    one.prefill(IDS[:10])
    other.prefill(IDS[20:40])
    same(one.step(int(IDS[10])), whole[10])
    assert (one.length, other.length) == (11, 20)


def test_the_cache_says_what_it_takes(new_decoder):
    cache = new_decoder().cache
    assert (cache.capacity, cache.nbytes) == (0, 0)
    cache.reserve(100)
    assert cache.nbytes == 2 * 2 * 1 * 100 * 16 * 4  # layers, key and value, heads, tokens, size, float32
    assert sorted(name for name, _ in cache.arrays()) == [
        f"past_key_values.{layer}.{part}" for layer in (0, 1) for part in ("key", "value")
    ]


def test_the_cache_shows_its_valid_part(new_decoder):
    decoder, fresh = new_decoder(), new_decoder()
    decoder.prefill(IDS[:30])
    decoder.rewind(12)
    fresh.prefill(IDS[:12])
    for (name, array), (_, expected) in zip(decoder.cache.arrays(), fresh.cache.arrays(), strict=True):
        assert array.shape == (1, 1, 12, 16), name
        assert np.abs(array).max() > 0
        same(array, expected)


def test_a_token_that_the_graph_refuses_is_a_typed_error_and_not_counted(new_decoder, whole, capfd):
    decoder = new_decoder()
    decoder.prefill(IDS[:10])
    with pytest.raises(ModelError, match=r"the graph failed: .*out of data bounds"):
        decoder.prefill([3, 32])
    assert decoder.length == 10
    same(decoder.step(int(IDS[10])), whole[10])
    assert capfd.readouterr() == ("", "")


@pytest.fixture(scope="module")
def slow_session(tmp_path_factory):
    """A graph whose prefill of 6,000 tokens takes seconds."""
    sizes = TinyDecoder(layers=4, hidden=128, heads=8, kv_heads=8, head_size=32, ffn=512, context_length=8192)
    session = Session(write_decoder_bundle(tmp_path_factory.mktemp("slow") / "b", sizes) / GRAPH_NAME, threads=2)
    yield session
    session.close()


@pytest.mark.parametrize("chunk", [8192, 64])
def test_another_thread_can_end_a_long_run(slow_session, chunk):
    decoder = Decoder(slow_session, context_length=8192, prefill_chunk=chunk)
    cancelled = []

    def cancel():
        time.sleep(0.1)
        cancelled.append(time.perf_counter())
        decoder.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(CancelledError, match="the run was cancelled"):
        decoder.prefill(np.arange(6000) % 32)
    late = time.perf_counter() - cancelled[0]
    thread.join()
    assert late < 1.5
    assert decoder.length < 6000
    with pytest.raises(CancelledError):
        decoder.step(3)


def test_cancelling_one_decoder_leaves_the_others(slow_session):
    ended, other = (Decoder(slow_session, context_length=64, prefill_chunk=64) for _ in range(2))
    before = other.prefill([3, 4]).copy()
    ended.cancel()
    with pytest.raises(CancelledError):
        ended.prefill([3])
    other.rewind(0)
    np.testing.assert_allclose(other.prefill([3, 4]), before, atol=TOLERANCE)


def test_closing_the_session_ends_its_decoders(folder):
    session = Session(folder / GRAPH_NAME, threads=1)
    decoder = Decoder(session, context_length=64, prefill_chunk=64)
    decoder.prefill([3, 4])
    session.close()
    with pytest.raises(ClosedError, match="the model is closed"):
        decoder.step(3)
    with pytest.raises(ClosedError, match="the model is closed"):
        Decoder(session, context_length=64, prefill_chunk=64)
    decoder.reserve(60)  # the binding still holds what it needs


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.data())
@settings(max_examples=20)
def test_verifying_gives_every_tokens_logits_and_wrong_ones_are_forgotten(new_decoder, whole, counts, data):
    decoder = new_decoder()
    decoder.prefill(IDS[:20])
    length = 20
    for count in counts:
        same(decoder.verify(IDS[length : length + count]), whole[length : length + count])
        length += data.draw(st.integers(0, count))
        decoder.rewind(length)
        same(decoder.step(int(IDS[length])), whole[length])
        length += 1
    assert decoder.length == length


def test_runs_that_verify_are_bound_once_and_share_their_logits(new_decoder):
    decoder = new_decoder()
    decoder.reserve(100)
    decoder.prefill(IDS[:20])
    longest = decoder.verify(IDS[:6])
    made = [decoder.verify(IDS[:count]) for count in (6, 4, 2, 4, 6)]
    assert all(logits.base is longest.base for logits in made)
    assert made[0] is made[4]
    assert np.shares_memory(decoder.step(1), longest)


def test_verifying_more_than_fits_is_refused(new_decoder):
    decoder = new_decoder(context_length=24)
    decoder.prefill(IDS[:20])
    with pytest.raises(ContextLengthError, match="25 tokens do not fit into a context window of 24"):
        decoder.verify(IDS[:5])
    assert decoder.length == 20
    assert decoder.verify(IDS[:4]).shape == (4, 32)
