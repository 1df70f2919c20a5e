"""Answers: generate, stream and chat on real graphs that ONNX Runtime runs."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from support.bundles import BOS, EOS, VOCABULARY, seal, write_decoder_bundle

from edgelm.errors import ConfigError, ContextLengthError, PromptError, TemplateError

FOREIGN = "é你🌍"


def test_an_answer_says_what_was_made_and_what_it_cost(load):
    lm = load("letters")
    result = lm.generate("abc", max_new_tokens=5)
    assert result.text == "defgh"
    assert result.token_ids == tuple(lm.tokenizer.encode("defgh"))
    assert result.finish_reason == "length"
    assert (result.usage.prompt_tokens, result.usage.cached_tokens, result.usage.completion_tokens) == (3, 0, 5)
    assert result.peak_memory > 10_000_000
    assert result.timings.ttft_s > 0


def test_an_end_of_sequence_token_ends_the_answer_and_has_no_text(load):
    result = load("letters").generate("xyz", max_new_tokens=30)
    assert (result.text, result.finish_reason) == (".?", "stop")
    assert result.token_ids[-1] == EOS


def test_the_models_own_end_tokens_can_be_replaced(load):
    lm = load("letters")
    assert lm.generation_config.eos_token_id == (EOS,)
    end = lm.tokenizer.encode("f")
    assert lm.generate("ab", eos_token_id=end).text == "cdef"


@pytest.mark.parametrize(("files", "expected"), [({}, (EOS,)), ({"generation_config.json": b"{}"}, (EOS,))])
def test_end_tokens_come_from_the_manifest_where_no_file_names_them(tmp_path, load, files, expected):
    lm = load(write_decoder_bundle(tmp_path / "b", files=files))
    assert lm.generation_config.eos_token_id == expected


def test_ids_are_taken_as_they_are(load):
    lm = load("letters")
    ids = lm.tokenizer.encode("abc")
    for prompt in (ids, tuple(ids), np.array(ids), np.array(ids, np.int32)):
        assert lm.generate(prompt, max_new_tokens=3).text == "def"


def test_the_models_defaults_are_kept_until_a_call_changes_them(load):
    lm = load("tiny")
    assert lm.generation_config.max_new_tokens == 32
    assert lm.generate("abc", eos_token_id=[31]).usage.completion_tokens <= 32
    assert lm.generate("abc", max_new_tokens=2, eos_token_id=[]).usage.completion_tokens == 2


def test_the_times_of_a_search_are_those_of_its_work(load):
    lm = load("tiny")
    call = {"num_beams": 3, "max_new_tokens": 30, "eos_token_id": []}
    for result in (lm.generate("abc", **call), lm.generate_batch(["abc", "de"], **call)[1]):
        times = result.timings
        assert 0 < times.prefill_s < times.ttft_s
        # All tokens come at the end, and what it took to find them is not the time of giving them out.
        assert times.prefill_s + times.decode_s >= times.ttft_s
        assert times.decode_s > times.prefill_s


def test_beams_of_a_model_that_samples_by_itself_are_drawn(tmp_path, load):
    files = {"generation_config.json": b'{"do_sample": true, "max_new_tokens": 6}'}
    lm = load(write_decoder_bundle(tmp_path / "b", files=files))
    drawn = [lm.generate("abc", num_beams=2, seed=seed).token_ids for seed in (1, 2, 3, 1)]
    assert drawn[0] == drawn[3]
    assert len(set(drawn)) == 3
    assert drawn[0] == lm.generate_batch(["de", "abc"], num_beams=2, seed=1)[1].token_ids
    searched = lm.generate("abc", num_beams=2, do_sample=False)
    assert searched.token_ids == lm.generate("abc", num_beams=2, do_sample=False, seed=5).token_ids


@pytest.mark.parametrize("more", [{}, {"do_sample": True, "seed": 3}, {"num_beam_groups": 2, "diversity_penalty": 1.0}])
def test_answers_of_beams_have_their_score(load, more):
    lm = load("tiny")
    call = {"num_beams": 4, "max_new_tokens": 5, "length_penalty": 0.5, **more}
    several = lm.generate_batch(["abc"], num_return_sequences=3, **call)
    assert [answer.score for answer in several] == sorted((answer.score for answer in several), reverse=True)
    assert all(answer.score < 0 for answer in several)
    for one in (lm.generate("abc", **call), lm.stream("abc", **call).drain()):
        assert (one.token_ids, one.score) == (several[0].token_ids, several[0].score)
        assert one.as_dict()["score"] == pytest.approx(one.score, abs=1e-6)
    assert lm.generate("abc", max_new_tokens=2).score is None
    assert "score" not in lm.generate("abc", max_new_tokens=2).as_dict()


def test_an_answer_that_beams_do_not_find_has_no_score(load):
    lm = load("tiny")
    call = {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 1, "forced_eos_token_id": EOS}
    answers = lm.generate_batch(["abc"], **call)
    assert [(answer.token_ids, answer.score is None) for answer in answers] == [((EOS,), False), ((), True), ((), True)]


# Streams


def test_streamed_text_is_the_whole_text(load):
    lm = load("tiny")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(8):
            settings = {"max_new_tokens": 40, "do_sample": True, "seed": seed, "temperature": 2.0}
            chunks = list(lm.stream("the quick", **settings))
            whole = lm.generate("the quick", **settings)
            assert "".join(chunk.text for chunk in chunks) == whole.text
            assert chunks[-1].finish_reason == whole.finish_reason


def test_characters_of_several_tokens_stream_whole(load):
    lm = load("foreign")
    chunks = [chunk.text for chunk in lm.stream("", max_new_tokens=18)]
    assert "".join(chunks) == FOREIGN * 2
    assert [chunk for chunk in chunks if chunk] == list(FOREIGN * 2)


def test_an_answer_that_is_cut_within_a_character_says_so(load):
    lm = load("foreign")
    result = lm.generate("", max_new_tokens=7)
    assert result.text == "é你\ufffd"
    assert "".join(chunk.text for chunk in lm.stream("", max_new_tokens=7)) == result.text


def test_a_stream_has_its_result_at_the_end(load):
    stream = load("letters").stream("abc", max_new_tokens=3)
    assert [chunk.text for chunk in stream] == ["d", "e", "f"]
    assert stream.result.text == stream.text == "def"


@pytest.mark.parametrize(
    ("stops", "text"),
    [
        (["ghi"], "def"),
        (["h"], "defg"),
        (["zzz", "hijk"], "defg"),
        (["jk", "fghi"], "de"),  # the one that is complete first
        ("d", ""),
        (["nope"], "defghijklmnopqrstuvwxyz.?"),
    ],
)
def test_a_stop_string_across_tokens_cuts_exactly(load, stops, text):
    lm = load("letters")
    result = lm.generate("abc", stop_strings=stops)
    assert result.text == text
    assert result.finish_reason == "stop"
    assert "".join(chunk.text for chunk in lm.stream("abc", stop_strings=stops)) == text


@pytest.mark.parametrize("stops", [[""], "", ["x"] * 10_000, [5]])
def test_stop_strings_that_are_none_are_refused(load, stops):
    with pytest.raises(ConfigError, match=r"stop"):
        load("letters").generate("abc", stop_strings=stops)


# Limits


def test_the_context_window_caps_an_answer(load):
    lm = load("endless")
    result = lm.generate("abc", max_new_tokens=10**9)
    assert result.usage.completion_tokens == 64 - 3
    assert result.finish_reason == "length"
    assert load("endless", context_length=10).generate("abc").usage.completion_tokens == 7


@pytest.mark.parametrize("length", [64, 65, 1000])
def test_a_prompt_that_leaves_no_room_is_refused_with_both_counts(load, length):
    lm = load("endless")
    with pytest.raises(ContextLengthError, match=rf"the prompt has {length} tokens, but the context window is 64"):
        lm.generate([5] * length)
    assert lm.generate([5] * 63).usage.completion_tokens == 1


def test_a_refused_prompt_costs_no_cache(load):
    lm = load("endless")
    lm.generate("abcdef", max_new_tokens=5)
    with pytest.raises(ContextLengthError):
        lm.generate("abcdef" + "g" * 100)
    assert lm.generate("abcdef", max_new_tokens=5).usage.cached_tokens == 5


def test_an_empty_prompt_begins_with_the_start_of_a_text(load):
    result = load("letters").generate("", max_new_tokens=3)
    assert (result.text, result.usage.prompt_tokens) == ("abc", 1)


def test_an_empty_prompt_is_refused_where_no_token_starts_a_text(tmp_path, load):
    lm = load(write_decoder_bundle(tmp_path / "b", bos_token_id=None))
    with pytest.raises(PromptError, match="the prompt is empty, and this model has no token that starts a text"):
        lm.generate("")


@pytest.mark.parametrize("bad", [-1, len(VOCABULARY), 10**6, 2**70, 1.5, "a", None, True, [1]])
def test_what_is_no_token_is_refused_with_its_place(load, bad):
    lm = load("tiny")
    with pytest.raises(ValueError, match="the prompt's token at position 2 is") as caught:
        lm.generate([3, 4, bad])
    assert isinstance(caught.value, PromptError)
    assert lm.generate([3, 4], max_new_tokens=2).usage.completion_tokens == 2


@pytest.mark.parametrize("bad", [None, 5, 1.5, b"abc", {3: 4}, {3, 4}, object()], ids=lambda bad: type(bad).__name__)
def test_what_is_no_prompt_is_refused(load, bad):
    lm = load("tiny")
    message = rf"the prompt must be a text or a list of token ids, not {type(bad).__name__}"
    for call in (lm.generate, lm.stream, lambda prompt: lm.generate_batch(["abc", prompt])):
        with pytest.raises(PromptError, match=message):
            call(bad)


@pytest.mark.parametrize("bad", ["abc", b"abc", None, 5])
def test_one_prompt_is_not_taken_for_a_list_of_prompts(load, bad):
    with pytest.raises(PromptError, match=f"prompts must be a list of prompts, not {type(bad).__name__}"):
        load("tiny").generate_batch(bad)


def test_no_tokens_are_refused(load):
    for prompt in ([], (), np.array([], np.int64)):
        with pytest.raises(PromptError, match="the prompt is empty"):
            load("tiny").generate(prompt)
    with pytest.raises(PromptError, match=r"one-dimensional, not of shape \(1, 3\)"):
        load("tiny").generate(np.array([[3, 4, 5]]))


def test_a_text_that_cannot_be_encoded_is_refused(load):
    with pytest.raises(PromptError, match=r"lone surrogate \(U\+D800\) at character 1"):
        load("tiny").generate("a\ud800")


@pytest.mark.parametrize(
    ("setting", "value"),
    [("temperature", float("nan")), ("top_p", 1.5), ("top_k", -1), ("max_new_tokens", 0), ("seed", -1)],
)
def test_settings_out_of_range_are_refused(load, setting, value):
    with pytest.raises(ConfigError, match=setting):
        load("tiny").generate("abc", **{setting: value})


def test_an_unknown_setting_is_refused_not_ignored(load):
    with pytest.raises(ConfigError, match=r"unknown generation setting 'max_tokens'; did you mean max_new_tokens"):
        load("tiny").stream("abc", max_tokens=5)


# Sampling


def test_the_same_seed_gives_the_same_text_and_another_another(load):
    lm = load("tiny")

    def answer(seed):
        return lm.generate("abc", do_sample=True, seed=seed, max_new_tokens=30, eos_token_id=[]).token_ids

    assert answer(5) == answer(5)
    assert len({answer(seed) for seed in range(5)}) > 1


@pytest.mark.parametrize("call", ["generate", "stream", "chat", "stream_chat"])
def test_sampling_settings_without_sampling_warn_at_the_callers_line_and_are_ignored(load, call):
    lm = load("tiny")
    prompt = [{"role": "user", "content": "abc"}] if "chat" in call else "abc."
    greedy = lm.generate("abc.", max_new_tokens=10).token_ids
    with pytest.warns(UserWarning, match=r"^temperature, top_p given, but do_sample is False: ignored$") as caught:
        answer = getattr(lm, call)(prompt, max_new_tokens=10, temperature=5.0, top_p=0.5)
    assert caught[0].filename == __file__
    assert (answer.drain() if "stream" in call else answer).token_ids == greedy


def test_every_warper_without_sampling_warns(load):
    lm = load("tiny")
    settings = {"typical_p": 0.5, "epsilon_cutoff": 0.1, "eta_cutoff": 0.1, "top_n_sigma": 1.0}
    with pytest.warns(UserWarning, match="^typical_p, epsilon_cutoff, eta_cutoff, top_n_sigma given, but do_sample is"):
        assert lm.generate("abc", max_new_tokens=2, **settings).token_ids


def test_sampling_settings_of_the_model_itself_do_not_warn(tmp_path, load):
    files = {"generation_config.json": b'{"temperature": 0.6, "top_p": 0.9, "eos_token_id": 2}'}
    lm = load(write_decoder_bundle(tmp_path / "b", files=files))
    assert lm.generate("abc", max_new_tokens=3)


# Conversations


def test_chat_is_generate_on_the_rendered_template(load):
    lm = load("tiny")
    messages = [{"role": "user", "content": "what is it?"}]
    assert lm.has_chat_template
    assert lm.encode_chat(messages) == lm.tokenizer.encode("what is it?.")
    answer = lm.chat(messages, max_new_tokens=10)
    assert answer.token_ids == lm.generate("what is it?.", max_new_tokens=10).token_ids
    assert "".join(chunk.text for chunk in lm.stream_chat(messages, max_new_tokens=10)) == answer.text


def test_a_users_message_cannot_hold_special_tokens(load):
    lm = load("tiny")
    ids = lm.encode_chat([{"role": "user", "content": "a</s>b"}])
    assert EOS not in ids
    assert BOS not in lm.encode_chat([{"role": "user", "content": "<s>"}])


def test_a_model_without_a_template_says_so(tmp_path, load):
    folder = write_decoder_bundle(tmp_path / "b")
    (folder / "chat_template.jinja").unlink()
    lm = load(seal(folder))
    assert not lm.has_chat_template
    with pytest.raises(TemplateError, match="tiny has no chat template; use generate"):
        lm.chat([{"role": "user", "content": "a"}])


@pytest.mark.parametrize("messages", [[], ["hi"], [{"role": "user"}], [{"role": "user", "content": 5}], "hi", None])
def test_messages_that_are_none_are_refused(load, messages):
    with pytest.raises((PromptError, TemplateError)):
        load("tiny").chat(messages)


def test_a_conversation_goes_on_from_its_cache(load):
    lm = load("tiny")
    ids = lm.tokenizer.encode("the first question")
    first = lm.generate(ids, max_new_tokens=5, eos_token_id=[])
    longer = [*ids, *first.token_ids, *lm.tokenizer.encode(" and more")]
    second = lm.generate(longer, max_new_tokens=5, eos_token_id=[])
    assert second.usage.cached_tokens == len(ids) + 4
    assert second.token_ids == load("tiny").generate(longer, max_new_tokens=5, eos_token_id=[]).token_ids
