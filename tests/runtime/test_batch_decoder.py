"""Laws of batches on real graphs: a row's logits are those of its tokens alone, however rows are begun and chosen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.recurrent_graph import CONTEXT, START, VOCAB_SIZE, RecurrentWeights, write_recurrent_graphs

from edgelm.errors import CancelledError, ClosedError, ContextLengthError, ModelError
from edgelm.runtime.batch_decoder import BatchDecoder
from edgelm.runtime.recurrent_decoder import RecurrentDecoder
from edgelm.runtime.row_cache import GROWTH
from edgelm.runtime.session import Session, Switch
from edgelm.runtime.single_row import SingleRow
from edgelm.runtime.source_rows import check_cross_shapes, encode_sources

TOLERANCE = 1e-4
tokens = st.integers(0, 31)
prompt_lists = st.lists(st.lists(tokens, min_size=1, max_size=30), min_size=1, max_size=4)


@st.composite
def histories(draw, prompts=prompt_lists, steps=5):
    """(Prompts, then tokens or a choice of rows), for as many rows as there are by then."""
    begun = draw(prompts)
    rows, actions = len(begun), []
    for _ in range(draw(st.integers(1, steps))):
        if draw(st.booleans()):
            chosen = draw(st.lists(st.integers(0, rows - 1), min_size=1, max_size=6))
            actions.append(("select", chosen))
            rows = len(chosen)
        actions.append(("step", draw(st.lists(tokens, min_size=rows, max_size=rows))))
    return begun, actions


def check_history(decoder, history, expected, sources=None):
    """``expected(row's tokens, its source)`` → logits."""
    begun, actions = history
    rows = [(list(prompt), number) for number, prompt in enumerate(begun)]
    logits = decoder.prefill(begun)
    for action, values in [("step", None), *actions]:
        if action == "select":
            decoder.select(np.array(values))
            rows = [(list(rows[row][0]), rows[row][1]) for row in values]
            continue
        if values is not None:
            logits = decoder.step(np.array(values))
            for (row, _), token in zip(rows, values, strict=True):
                row.append(token)
        assert (logits.shape, logits.dtype) == ((len(rows), decoder.vocab_size), np.float32)
        for got, (row, source) in zip(logits, rows, strict=True):
            np.testing.assert_allclose(got, expected(row, source), atol=TOLERANCE)


@pytest.fixture(scope="module")
def new_batch(session, sizes):
    def make(*, prefill_chunk=512, context_length=sizes.context_length):
        return BatchDecoder(session, context_length=context_length, prefill_chunk=prefill_chunk)

    return make


@given(histories(), st.sampled_from([4, 32, 512]), st.booleans())
@settings(max_examples=60)
def test_any_history_of_a_batch_leaves_each_row_the_logits_of_its_tokens(
    new_decoder, new_batch, history, chunk, reserved
):
    decoder = new_batch(prefill_chunk=chunk)
    if reserved:
        decoder.reserve(6, 40)
    check_history(decoder, history, lambda row, _: new_decoder().prefill(row))


@pytest.mark.parametrize("chunk", [7, 64, 5000])
def test_prompts_of_very_different_lengths(new_decoder, new_batch, chunk):
    random = np.random.default_rng(0)
    prompts = [random.integers(0, 32, length) for length in (1, 300, 17, 2, 64, 1)]
    logits = new_batch(prefill_chunk=chunk).prefill(prompts)
    for got, prompt in zip(logits, prompts, strict=True):
        np.testing.assert_allclose(got, new_decoder().prefill(prompt), atol=TOLERANCE)


def test_rows_grow_past_one_allocation(new_decoder, new_batch):
    random = np.random.default_rng(1)
    prompts = [random.integers(0, 32, length).tolist() for length in (GROWTH - 2, 3)]
    decoder = new_batch()
    decoder.prefill(prompts)
    assert decoder.cache.capacity == GROWTH - 2
    for _ in range(4):
        step = random.integers(0, 32, 2)
        logits = decoder.step(step)
        for prompt, token in zip(prompts, step, strict=True):
            prompt.append(int(token))
    assert decoder.cache.capacity == 2 * GROWTH
    for got, prompt in zip(logits, prompts, strict=True):
        np.testing.assert_allclose(got, new_decoder().prefill(prompt), atol=TOLERANCE)


def test_a_reservation_is_kept(new_batch):
    decoder = new_batch()
    decoder.reserve(4, 50)
    decoder.prefill([[1, 2]])
    assert (decoder.cache.slots, decoder.cache.capacity) == (4, 50)
    decoder.select(np.zeros(4, np.int64))
    decoder.step(np.arange(4))
    assert (decoder.cache.slots, decoder.cache.capacity) == (4, 50)


def test_choosing_the_rows_there_are_moves_nothing(new_batch):
    decoder = new_batch()
    decoder.prefill([[1], [2], [3]])
    decoder.step(np.array([4, 5, 6]))
    run = decoder._step
    decoder.select(np.arange(3))
    assert decoder._step is run
    copied = []
    decoder.cache.copy = lambda source, target: copied.append((source, target))
    decoder.select(np.array([2, 0, 1]))
    assert copied == []
    assert decoder._step is run


def test_no_row_outgrows_the_context(new_batch):
    decoder = new_batch(context_length=5)
    with pytest.raises(ContextLengthError, match="6 tokens do not fit into a context window of 5"):
        decoder.prefill([[1], [2] * 6])
    decoder.prefill([[1], [2] * 4])
    decoder.step(np.array([3, 3]))
    with pytest.raises(ContextLengthError, match="6 tokens do not fit"):
        decoder.step(np.array([3, 3]))


def test_one_row_is_a_sequence(new_decoder, new_batch):
    row, decoder = SingleRow(new_batch()), new_decoder()
    np.testing.assert_allclose(row.prefill([3, 4, 5]), decoder.prefill([3, 4, 5]), atol=TOLERANCE)
    np.testing.assert_allclose(row.step(6), decoder.step(6), atol=TOLERANCE)
    assert row.length == 4


def test_a_cancelled_batch_runs_no_more(new_batch):
    decoder = new_batch()
    decoder.prefill([[1], [2]])
    decoder.cancel()
    with pytest.raises(CancelledError):
        decoder.step(np.array([1, 2]))


# Decoders with a state in place of a cache


WEIGHTS = RecurrentWeights.random(3)
sources = st.lists(st.lists(tokens, min_size=1, max_size=9), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def recurrent(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recurrent")
    write_recurrent_graphs(folder, WEIGHTS)
    encoder, decoder = (Session(folder / f"{role}.onnx", threads=1) for role in ("encoder", "decoder"))
    check_cross_shapes(encoder, decoder)
    yield encoder, decoder
    encoder.close()
    decoder.close()


def new_recurrent(sessions, given_sources, context_length=CONTEXT):
    encoder, decoder = sessions
    calls = []

    def encode():
        calls.append(len(given_sources))
        return encode_sources(encoder, given_sources, Switch(), pad_token_id=0)

    made = RecurrentDecoder(decoder, context_length=context_length, encode=encode)
    return made, calls


@given(sources.flatmap(lambda s: st.tuples(st.just(s), histories(st.just([[START]] * len(s)), steps=8))))
@settings(max_examples=60)
def test_any_history_of_a_recurrent_batch(recurrent, case):
    given_sources, history = case
    decoder, calls = new_recurrent(recurrent, given_sources)
    check_history(decoder, history, lambda row, source: WEIGHTS.logits(given_sources[source], row))
    assert calls == [len(given_sources)], "the sources are encoded once"


def test_a_recurrent_decoder_takes_longer_beginnings_of_one_length(recurrent):
    decoder, _ = new_recurrent(recurrent, [[5, 6], [7]])
    logits = decoder.prefill([[1, 2, 3], [4, 5, 6]])
    np.testing.assert_allclose(logits[1], WEIGHTS.logits([7], [4, 5, 6]), atol=TOLERANCE)
    with pytest.raises(ValueError, match="must have one length"):
        decoder.prefill([[1], [2, 3]])


def test_a_recurrent_decoder_keeps_to_its_context(recurrent):
    decoder, _ = new_recurrent(recurrent, [[5]], context_length=2)
    decoder.prefill([[1]])
    decoder.step(np.array([2]))
    with pytest.raises(ContextLengthError, match="3 tokens do not fit into a context window of 2"):
        decoder.step(np.array([2]))


def test_a_cancelled_recurrent_decoder_runs_no_more(recurrent):
    decoder, _ = new_recurrent(recurrent, [[5]])
    decoder.prefill([[1]])
    decoder.cancel()
    with pytest.raises(CancelledError):
        decoder.step(np.array([2]))


def test_sources_give_back_what_they_freed_however_short_they_are(recurrent, monkeypatch):
    """What is kept adds up: a translator within 185 MB peaked at 188 MB behind 60 paragraphs, and at 166 MB with it."""
    calls = []
    monkeypatch.setattr("edgelm.runtime.source_rows.give_back_freed_memory", lambda: calls.append(None))
    for _ in range(3):
        encode_sources(recurrent[0], [[1, 2]], Switch(), pad_token_id=0)
    assert len(calls) == 3


def test_a_closed_encoder_says_so(tmp_path):
    write_recurrent_graphs(tmp_path, WEIGHTS)
    session = Session(tmp_path / "encoder.onnx", threads=1)
    session.close()
    with pytest.raises(ClosedError):
        encode_sources(session, [[1, 2]], Switch(), pad_token_id=0)


def test_an_encoder_of_another_model_is_refused(recurrent, session):
    encoder, decoder = recurrent
    check_cross_shapes(encoder, decoder)
    with pytest.raises(ModelError, match=r"the decoder takes cross_key_values\.0\.key .*, the encoder gives nothing"):
        check_cross_shapes(session, decoder)
    assert decoder.outputs["logits"].shape[1] == VOCAB_SIZE
