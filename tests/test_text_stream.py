"""Tokens to chunks: the chunks together are the text, cut before a stop string, whatever the tokenizer."""

from __future__ import annotations

import json
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import tokenizers as builders

from edgelm.errors import CancelledError, NumericError
from edgelm.generation.loop import Step
from edgelm.generation.stopping import FinishReason
from edgelm.results import Chunk, GenerationResult, Stopwatch, Timings, Usage
from edgelm.text.tokenizer import Tokenizer
from edgelm.text_stream import IncrementalText, TextStream

KINDS = {kind: getattr(builders, kind) for kind in ("byte_level", "byte_fallback", "unigram", "word_level")}
TEXT = "The quick brown fox 你好世界 🌍🎉 naïve 👩‍👩‍👧 end."


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request):
    return Tokenizer(KINDS[request.param]())


class Closing:
    """Remembers how a stream ended."""

    def __init__(self):
        self.calls = []

    def __call__(self, tokens, healthy):
        self.calls.append((tokens, healthy))


def steps(ids, reason=FinishReason.LENGTH, log=None):
    try:
        for token in ids[:-1]:
            yield Step(token)
        yield Step(ids[-1], reason)
    finally:
        if log is not None:
            log.append("steps closed")


def stream(tokenizer, source, *, stops=(), close=None, cancel=lambda: None):
    text = IncrementalText(tokenizer, tuple(stops))
    return TextStream(source, text, prompt_tokens=5, cached_tokens=3, close=close or Closing(), cancel=cancel)


def test_the_chunks_are_the_text_and_the_text_is_the_decoded_tokens(tokenizer):
    ids = tokenizer.encode(TEXT)
    opened = stream(tokenizer, steps(ids))
    chunks = list(opened)
    assert [chunk.finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert all(chunk.text for chunk in chunks[:-1])
    assert "".join(chunk.text for chunk in chunks) == opened.text == opened.result.text == tokenizer.decode(ids)
    assert opened.result.token_ids == tuple(ids)
    assert opened.result.usage == Usage(5, 3, len(ids))


def test_no_chunk_has_half_a_character():
    tokenizer = Tokenizer(builders.byte_level())
    chunks = list(stream(tokenizer, steps(tokenizer.encode(TEXT))))
    assert len(chunks) > 10
    assert not any("\ufffd" in chunk.text for chunk in chunks)
    assert "".join(chunk.text for chunk in chunks) == TEXT


@given(st.sampled_from(sorted(KINDS)), st.data())
@settings(deadline=None, max_examples=60)
def test_any_tokens_stream_to_their_text(kind, data):
    tokenizer = CACHE.setdefault(kind, Tokenizer(KINDS[kind]()))
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), min_size=1, max_size=30))
    assert stream(tokenizer, steps(ids)).drain().text == tokenizer.decode(ids)


@given(st.sampled_from(sorted(KINDS)), st.data())
@settings(deadline=None, max_examples=60)
def test_a_stop_string_cuts_the_text_exactly(kind, data):
    tokenizer = CACHE.setdefault(kind, Tokenizer(KINDS[kind]()))
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), min_size=1, max_size=30))
    whole = tokenizer.decode(ids)
    if not whole:
        return
    start = data.draw(st.integers(0, len(whole) - 1))
    stop = whole[start : data.draw(st.integers(start + 1, len(whole)))]
    opened = stream(tokenizer, steps(ids), stops=[stop])
    chunks = list(opened)
    assert "".join(chunk.text for chunk in chunks) == opened.result.text == whole[: whole.index(stop)]
    assert chunks[-1].finish_reason == opened.result.finish_reason == "stop"


CACHE: dict[str, Tokenizer] = {}


def test_a_stop_string_ends_the_steps():
    tokenizer, log, close = Tokenizer(builders.byte_level()), [], Closing()
    ids = tokenizer.encode("one two three four")
    result = stream(tokenizer, steps(ids, log=log), stops=["o t", " th"], close=close).drain()
    assert result.text == "one tw"
    assert result.finish_reason == "stop"
    assert len(result.token_ids) < len(ids)
    assert log == ["steps closed"]
    assert close.calls == [(result.token_ids, True)]


def test_what_could_have_become_a_stop_string_comes_at_the_end():
    tokenizer = Tokenizer(builders.byte_level())
    opened = stream(tokenizer, steps(tokenizer.encode("one two th")), stops=["three"])
    chunks = list(opened)
    assert opened.text == "one two th"
    assert chunks[-1] == Chunk(chunks[-1].text, "length")
    assert chunks[-1].text.endswith("th")


def test_a_stop_string_in_the_very_last_text_is_a_stop():
    """A tokenizer that decodes whole texts only, as one that strips their end, gives them out at the end."""
    state = json.loads(builders.byte_fallback().to_str())
    state["decoder"]["decoders"].append({"type": "Strip", "content": "!", "start": 0, "stop": 1})
    tokenizer = Tokenizer(type(builders.byte_fallback()).from_str(json.dumps(state)))
    assert not tokenizer.streams
    ids = tokenizer.encode("the lazy dog")
    chunks = list(stream(tokenizer, steps(ids), stops=["zy"]))
    assert chunks == [Chunk("the la", "stop")]


def test_the_reason_is_that_of_the_last_step(tokenizer):
    ids = tokenizer.encode("The quick")
    assert stream(tokenizer, steps(ids, FinishReason.STOP)).drain().finish_reason == "stop"
    assert stream(tokenizer, steps(ids, FinishReason.LENGTH)).drain().finish_reason == "length"


def test_tokens_beyond_the_tokenizer_have_no_text(tokenizer):
    ids = tokenizer.encode("The quick brown")
    padded = [tokenizer.vocab_size + 5, *ids, tokenizer.vocab_size]
    result = stream(tokenizer, steps(padded)).drain()
    assert result.text == tokenizer.decode(ids)
    assert result.token_ids == tuple(padded)


def test_the_result_is_there_at_the_end_only():
    tokenizer = Tokenizer(builders.word_level())
    opened = stream(tokenizer, steps(tokenizer.encode("The quick brown fox")))
    next(opened)
    for use in (lambda: opened.result, lambda: opened.close() or opened.result, opened.drain):
        with pytest.raises(RuntimeError, match="the answer has not been read to its end"):
            use()
    assert next(opened, None) is None


def test_draining_goes_on_from_where_the_reader_is():
    tokenizer = Tokenizer(builders.word_level())
    opened = stream(tokenizer, steps(tokenizer.encode("The quick brown fox")))
    assert next(opened).text == "The"
    assert opened.drain().text == opened.text == "The quick brown fox"
    assert opened.drain().text == "The quick brown fox"


@pytest.mark.parametrize("taken", [0, 1, 3])
@pytest.mark.parametrize("leave", ["close", "with", "drop", "exhaust"])
def test_a_stream_ends_once_however_it_is_left(taken, leave):
    tokenizer, log, close = Tokenizer(builders.word_level()), [], Closing()
    ids = tokenizer.encode("The quick brown fox")
    opened = stream(tokenizer, steps(ids, log=log), close=close)
    for _ in range(taken):
        next(opened)
    if leave == "close":
        opened.close()
        opened.close()
    elif leave == "with":
        with opened:
            pass
    elif leave == "exhaust":
        opened.drain()
        taken = len(ids)
    del opened  # no garbage collection is needed
    assert close.calls == [(tuple(ids[:taken]), True)]
    assert log == (["steps closed"] if taken else [])


def test_another_thread_can_end_an_answer_that_is_being_read():
    tokenizer, close, asked, given = Tokenizer(builders.word_level()), Closing(), threading.Event(), threading.Event()
    ids = tokenizer.encode("The quick brown fox")

    def waiting():
        yield Step(ids[0])
        asked.set()
        given.wait(10)
        yield from steps(ids[1:])

    opened = stream(tokenizer, waiting(), close=close)
    texts = []
    reader = threading.Thread(target=lambda: texts.extend(chunk.text for chunk in opened))
    reader.start()
    asked.wait(10)
    opened.close()
    assert close.calls == []
    given.set()
    reader.join(10)
    assert texts == ["The"]
    assert close.calls == [(tuple(ids[:2]), True)]


@pytest.mark.parametrize("too_late", [False, True])
def test_another_thread_can_end_an_answer_before_its_first_token(too_late):
    """Where that token comes all the same, the decoder's next run would be cancelled: it is not to be trusted."""
    tokenizer, close, asked, cancelled = (
        Tokenizer(builders.word_level()),
        Closing(),
        threading.Event(),
        threading.Event(),
    )
    ids = tokenizer.encode("The quick")

    def reading_the_prompt():
        asked.set()
        assert cancelled.wait(10)
        if not too_late:
            raise CancelledError("the run was cancelled")
        yield Step(ids[0])

    opened = stream(tokenizer, reading_the_prompt(), close=close, cancel=cancelled.set)
    ended = []
    reader = threading.Thread(target=lambda: ended.append(next(opened, "no text")))
    reader.start()
    asked.wait(10)
    opened.close()
    reader.join(10)
    assert ended == ["no text"]
    assert close.calls == [((ids[0],) if too_late else (), False)]


def test_what_was_cancelled_by_others_says_so():
    tokenizer, close = Tokenizer(builders.word_level()), Closing()

    def cancelled():
        raise CancelledError("the run was cancelled")
        yield

    with pytest.raises(CancelledError):
        next(stream(tokenizer, cancelled(), close=close))
    assert close.calls == [((), False)]


@pytest.mark.parametrize("error", [NumericError("NaN"), KeyboardInterrupt()])
def test_an_error_says_that_the_cache_is_not_to_be_trusted(error):
    tokenizer, close = Tokenizer(builders.word_level()), Closing()
    ids = tokenizer.encode("The quick brown fox")

    def failing():
        yield Step(ids[0])
        raise error

    opened = stream(tokenizer, failing(), close=close)
    assert next(opened).text == "The"
    with pytest.raises(type(error)):
        next(opened)
    opened.close()
    assert close.calls == [((ids[0],), False)]
    assert opened.text == "The"


def test_times_are_measured_and_add_up():
    tokenizer = Tokenizer(builders.word_level())
    timings = stream(tokenizer, steps(tokenizer.encode("The quick brown fox"))).drain().timings
    assert 0 <= timings.prefill_s == timings.ttft_s < 1
    assert 0 <= timings.decode_s < 1


def test_prefill_may_end_before_the_first_token():
    watch = Stopwatch()
    watch.prefill_ended()
    time.sleep(0.01)
    watch.token_came()
    timings = watch.timings()
    assert timings.prefill_s < 0.01 < timings.ttft_s
    assert timings.decode_s >= 0.01


def test_an_answer_without_a_token_is_all_prefill():
    timings = Stopwatch().timings()
    assert timings.prefill_s == timings.ttft_s > 0
    assert timings.decode_s == 0


def test_a_result_as_plain_values():
    result = GenerationResult("hi", (4, 5, 2), "stop", Usage(10, 6, 3), Timings(0.5, 0.5, 0.25), 123)
    assert json.loads(json.dumps(result.as_dict())) == {
        "text": "hi",
        "tokens": [4, 5, 2],
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 10, "cached_tokens": 6, "completion_tokens": 3}
        | {"dropped_tokens": 0, "dropped_turns": 0},
        "timings": {"ttft_s": 0.5, "prefill_s": 0.5, "decode_s": 0.25, "prefill_tps": 8.0, "decode_tps": 8.0},
        "memory": {"peak_bytes": 123},
    }


def test_a_speed_without_tokens_or_time_is_none():
    result = GenerationResult("", (2,), "stop", Usage(1, 0, 1), Timings(0.0, 0.0, 0.0), 0).as_dict()
    assert result["timings"]["prefill_tps"] is None
    assert result["timings"]["decode_tps"] is None
