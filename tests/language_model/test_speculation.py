"""Answers with guesses: the same tokens, in fewer runs, from caches that stay right."""

from __future__ import annotations

import json

import pytest
from support.bundles import TinyDecoder, tokenizer_json, write_decoder_bundle

from edgelm.errors import ClosedError, ConfigError, MemoryLimitError, UnsupportedModelError

PROMPTS = ("abcabcab", "a", "hello. hello. hel", "the cat and the cat and", "x?y?x?y?")
SETTINGS = (
    {},
    {"repetition_penalty": 1.3},
    {"no_repeat_ngram_size": 3},
    {"do_sample": True, "seed": 5, "temperature": 0.8, "eos_token_id": 2, "min_new_tokens": 20},
    {"stop_strings": ("ab", "q.")},
    {"logprobs": True, "top_logprobs": 2},
)


def said(result):
    return result.text, result.token_ids, result.finish_reason


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", ["tiny", "endless"])
def test_prompt_lookup_gives_the_plain_tokens(load, name, settings):
    plain, guessing = load(name), load(name)
    settings = {"max_new_tokens": 40, "eos_token_id": (), **settings}
    for prompt in PROMPTS[: 1 if name == "endless" else 3]:
        if name == "endless":
            prompt = "abcdefghij"
        with_guesses = guessing.generate(prompt, prompt_lookup_num_tokens=8, **settings)
        alone = plain.generate(prompt, **settings)
        assert said(with_guesses) == said(alone)
        assert (with_guesses.logprobs is None) == (alone.logprobs is None)
        # What the pool keeps of an answer is what was answered.
        again = [
            lm.generate([*lm.tokenizer.encode(prompt), *alone.token_ids[:3]][:40], **settings)
            for lm in (plain, guessing)
        ]
        assert said(again[0]) == said(again[1])
        assert again[0].usage == again[1].usage


def test_guesses_are_counted_where_there_are_any(load):
    lm = load("endless")
    result = lm.generate("abc", max_new_tokens=60, prompt_lookup_num_tokens=16, eos_token_id=())
    timings = result.as_dict()["timings"]
    assert timings["draft_n"] == result.timings.draft_n
    assert timings["draft_n_accepted"] == result.timings.draft_n_accepted > 20
    assert timings["draft_n_accepted"] <= timings["draft_n"] < 60
    assert "draft_n" not in lm.generate("abc", max_new_tokens=5).as_dict()["timings"]


def test_streamed_texts_and_abandoned_streams_are_as_without(load):
    lm, plain = load("endless"), load("endless")
    settings = {"max_new_tokens": 60, "eos_token_id": (), "prompt_lookup_num_tokens": 16}
    whole = [chunk.text for chunk in lm.stream("abc", **settings)]
    assert len(whole) > 50
    with lm.stream("abcd", **settings) as stream:
        for _ in range(40):
            next(stream)
    follow_up = "abcd" + stream.text[:20]
    assert lm.generate(follow_up, max_new_tokens=5).text == plain.generate(follow_up, max_new_tokens=5).text


def test_beams_sources_and_other_contradictions_are_refused(load):
    lm = load("tiny")
    with pytest.raises(ConfigError, match="prompt_lookup_num_tokens is for answers made token by token, not for 3"):
        lm.generate("a", prompt_lookup_num_tokens=4, num_beams=3)
    with pytest.raises(ConfigError, match="prompt_lookup_num_tokens must be at least 0, not -1"):
        lm.generate("a", prompt_lookup_num_tokens=-1)
    assert lm.generate("a", prompt_lookup_num_tokens=0, num_beams=2, max_new_tokens=3).text is not None


def test_batches_do_without_guesses(load):
    lm = load("tiny")
    settings = {"max_new_tokens": 20, "eos_token_id": ()}
    guessed = lm.generate_batch(PROMPTS, prompt_lookup_num_tokens=8, **settings)
    assert [said(each) for each in guessed] == [said(each) for each in lm.generate_batch(PROMPTS, **settings)]


@pytest.mark.parametrize("settings", SETTINGS[:3])
def test_a_draft_gives_the_plain_greedy_tokens(load, folders, tmp_path, settings):
    small = write_decoder_bundle(tmp_path / "small", TinyDecoder(layers=1, seed=3, context_length=40))
    settings = {"max_new_tokens": 50, "eos_token_id": (), **settings}
    plain, guessing = load("tiny"), load("tiny", draft=small)
    for prompt in PROMPTS:
        assert said(guessing.generate(prompt, **settings)) == said(plain.generate(prompt, **settings))


def test_a_draft_that_is_loaded_stays_open_and_its_cache_is_kept(load):
    draft = load("endless")
    lm = load("endless", draft=draft)
    lm._draft._cost = 0.1  # one of the same size would not pay
    settings = {"max_new_tokens": 20, "eos_token_id": ()}
    result = lm.generate("abc", **settings)
    assert result.timings.draft_n_accepted > 5
    assert result.text == draft.generate("abc", **settings).text
    again = lm.generate("abc" + result.text[:10], **settings)
    assert again.usage.cached_tokens > 10
    assert draft.generate("abc", max_new_tokens=3).usage.cached_tokens > 0
    lm.close()
    assert draft.generate("abc", max_new_tokens=2).text == "de"


def test_a_draft_opened_for_a_model_is_closed_with_it(load, folders):
    lm = load("endless", draft=folders["endless"])
    opened = lm._opened
    assert lm.generate("abc", max_new_tokens=3).text == "def"
    lm.close()
    with pytest.raises(ClosedError):
        opened.generate("a")


def test_a_draft_with_another_vocabulary_is_refused(load, tmp_path):
    document = json.loads(tokenizer_json())
    vocabulary = document["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    other = write_decoder_bundle(tmp_path / "other", files={"tokenizer.json": json.dumps(document).encode()})
    with pytest.raises(UnsupportedModelError, match=r"another vocabulary than tiny, .* 'b' as token 4, not 'a'"):
        load("tiny", draft=other)
    with pytest.raises(UnsupportedModelError, match=r"another vocabulary than tiny, .* 259 tokens, not 32"):
        load("tiny", draft=load("letters"))
    same = dict(reversed(vocabulary.items()))
    same["a"], same["b"] = same["b"], same["a"]
    document["model"]["vocab"] = same
    rewritten = write_decoder_bundle(tmp_path / "same", files={"tokenizer.json": json.dumps(document).encode()})
    assert load("tiny", draft=rewritten).generate("a", max_new_tokens=3).usage.completion_tokens == 3


def test_a_draft_counts_against_the_memory_limit(load, folders):
    alone, guessing = load("tiny"), load("tiny", draft=folders["tiny"])
    needs = [lm.memory_budget(60).total for lm in (alone, guessing)]
    assert needs[1] > needs[0]
    limit = sum(needs) // 2
    with pytest.raises(MemoryLimitError, match="draft model"):
        load("tiny", draft=folders["tiny"], max_memory=limit)
    load("tiny", max_memory=limit).generate("a", max_new_tokens=3)


def test_a_draft_goes_with_one_plain_answer_at_a_time(load, folders):
    lm = load("tiny", draft=folders["tiny"])
    with pytest.raises(ConfigError, match="a draft model is for answers made token by token, not for num_beams=2"):
        lm.generate("a", num_beams=2)
    with pytest.raises(ConfigError, match="prompt_lookup_num_tokens and a draft model both guess"):
        lm.generate("a", prompt_lookup_num_tokens=4)
    assert len(lm.generate_batch(["a", "b"], max_new_tokens=3)) == 2
    assert lm.generate("a", max_new_tokens=3).usage.completion_tokens == 3
