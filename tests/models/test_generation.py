"""What a user of the Python interface relies on, with the real model.

Where two answers must be the same to the last token, fp32 gives them: with int8 weights, a prompt that is prefilled
whole and one whose beginning comes from the cache are rounded differently, and a near tie may fall the other way.
"""

from __future__ import annotations

import edgelm

STORY = "Write three sentences about a lighthouse by the sea."
QUESTION = [{"role": "user", "content": "What is the capital of Japan?"}]
FOLLOW_UP = "And which river flows through it?"


def story(lm: edgelm.LanguageModel, **settings) -> edgelm.GenerationResult:
    return lm.chat([{"role": "user", "content": STORY}], **{"max_new_tokens": 60} | settings)


def test_streamed_chunks_are_the_whole_text(int8: edgelm.LanguageModel) -> None:
    messages = [{"role": "user", "content": "Say hello in Chinese, Greek and with an emoji."}]
    with int8.stream_chat(messages, max_new_tokens=60) as stream:
        chunks = list(stream)
    assert "".join(chunk.text for chunk in chunks) == stream.result.text
    assert len(chunks) > 5
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].finish_reason == stream.result.finish_reason


def test_a_stop_string_cuts_exactly_before_it(fp32: edgelm.LanguageModel) -> None:
    whole = story(fp32).text
    for start in (len(whole) // 3, len(whole) // 2):
        stop = whole[start : start + 9]  # begins and ends in the middle of tokens
        result = story(fp32, stop_strings=stop)
        assert result.text == whole[: whole.index(stop)]
        assert result.finish_reason == "stop"


def test_greedy_answers_repeat_streamed_or_not(fp32: edgelm.LanguageModel) -> None:
    first = story(fp32)
    with fp32.stream_chat([{"role": "user", "content": STORY}], max_new_tokens=60) as stream:
        assert "".join(chunk.text for chunk in stream) == first.text
    assert stream.result.token_ids == first.token_ids


def test_the_same_seed_gives_the_same_answer(fp32: edgelm.LanguageModel) -> None:
    answers = [story(fp32, do_sample=True, temperature=1.0, top_p=0.95, seed=seed).token_ids for seed in (7, 7, 8)]
    assert answers[0] == answers[1]
    assert answers[0] != answers[2]


def test_the_second_turn_computes_only_what_is_new(fp32: edgelm.LanguageModel) -> None:
    first = fp32.chat(QUESTION, max_new_tokens=40)
    turns = [*QUESTION, {"role": "assistant", "content": first.text}, {"role": "user", "content": FOLLOW_UP}]
    warm = fp32.chat(turns, max_new_tokens=40)
    assert warm.usage.cached_tokens >= first.usage.prompt_tokens
    with edgelm.load(fp32.bundle.folder) as fresh:
        cold = fresh.chat(turns, max_new_tokens=40)
    assert cold.usage.cached_tokens == 0
    assert cold.usage.prompt_tokens == warm.usage.prompt_tokens
    assert warm.token_ids == cold.token_ids


def test_int8_takes_turns_from_the_cache_too(int8: edgelm.LanguageModel) -> None:
    first = int8.chat(QUESTION, max_new_tokens=40)
    turns = [*QUESTION, {"role": "assistant", "content": first.text}, {"role": "user", "content": FOLLOW_UP}]
    assert int8.chat(turns, max_new_tokens=40).usage.cached_tokens >= first.usage.prompt_tokens
