"""Settings: every bound and its message, sizes as people write them, what a model's own file may say."""

from __future__ import annotations

import dataclasses
import re

import pytest

from edgelm.config import GenerationConfig, RuntimeConfig
from edgelm.config_values import MAX_STOP_LENGTH, MAX_STOP_STRINGS
from edgelm.errors import ConfigError

INTEGERS = {
    **dict.fromkeys(("max_new_tokens", "max_length", "num_beams", "num_beam_groups", "num_return_sequences"), 1),
    **dict.fromkeys(("min_new_tokens", "min_length", "top_k", "seed"), 0),
    **dict.fromkeys(("no_repeat_ngram_size", "encoder_no_repeat_ngram_size"), 0),
    **dict.fromkeys(("forced_bos_token_id", "pad_token_id", "decoder_start_token_id", "prompt_lookup_num_tokens"), 0),
}
TOKEN_LISTS = ("eos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens")
NUMBERS = {
    "temperature": "at least 0 and at most 1e+30",
    "top_p": "above 0 and at most 1",
    "min_p": "at least 0 and at most 1",
    "typical_p": "above 0 and at most 1",
    "epsilon_cutoff": "at least 0 and below 1",
    "eta_cutoff": "at least 0 and below 1",
    "top_n_sigma": "at least 0 and at most 1e+30",
    "repetition_penalty": "above 0 and at most 1e+30",
    "encoder_repetition_penalty": "above 0 and at most 1e+30",
    "presence_penalty": "at least -1e+30 and at most 1e+30",
    "frequency_penalty": "at least -1e+30 and at most 1e+30",
    "diversity_penalty": "at least 0 and at most 1e+30",
    "length_penalty": "at least -1e+30 and at most 1e+30",
    "guidance_scale": "at least 0 and at most 1e+30",
    "max_time": "above 0",
}


def refused(message, make, **settings):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        make(**settings)


def test_the_defaults_are_greedy_with_everything_off():
    config = GenerationConfig()
    assert dataclasses.asdict(config) == {
        **dict.fromkeys(("max_new_tokens", "max_length", "max_time", "exponential_decay_length_penalty"), None),
        **dict.fromkeys(("forced_bos_token_id", "pad_token_id", "decoder_start_token_id", "seed"), None),
        "prompt_lookup_num_tokens": None,
        "overflow": "refuse",
        **dict.fromkeys(("min_new_tokens", "min_length", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"), 0),
        **dict.fromkeys(("top_k", "min_p", "epsilon_cutoff", "eta_cutoff", "top_n_sigma", "top_logprobs"), 0),
        **dict.fromkeys(("presence_penalty", "frequency_penalty", "diversity_penalty"), 0),
        **dict.fromkeys(("num_beams", "num_beam_groups", "num_return_sequences", "length_penalty"), 1),
        **dict.fromkeys(("temperature", "top_p", "typical_p", "guidance_scale"), 1),
        **dict.fromkeys(("repetition_penalty", "encoder_repetition_penalty"), 1),
        **dict.fromkeys(("do_sample", "early_stopping", "logprobs"), False),
        **dict.fromkeys(("sequence_bias", "logit_bias", "bad_words_ids", "stop_strings", *TOKEN_LISTS), ()),
    }
    assert config.new_tokens(7) == 512
    assert GenerationConfig.field_names() == tuple(dataclasses.asdict(config))


def test_settings_are_frozen_and_given_by_name():
    with pytest.raises(dataclasses.FrozenInstanceError):
        GenerationConfig().temperature = 0.5
    with pytest.raises(TypeError):
        GenerationConfig(50)
    with pytest.raises(TypeError):
        RuntimeConfig(2)


@pytest.mark.parametrize(("name", "least"), INTEGERS.items())
def test_integers_have_a_least_value(name, least):
    assert getattr(GenerationConfig(**{name: least}), name) == least
    refused(f"{name} must be at least {least}, not {least - 1}", GenerationConfig, **{name: least - 1})


@pytest.mark.parametrize("value", [-3, 0.0, 2])
def test_a_length_penalty_may_be_any_number(value):
    assert GenerationConfig(length_penalty=value).length_penalty == value


@pytest.mark.parametrize("value", [True, False, "never"])
def test_early_stopping_has_three_forms(value):
    assert GenerationConfig(early_stopping=value).early_stopping == value


@pytest.mark.parametrize("value", [None, 1, "always", "True"])
def test_early_stopping_has_no_other_form(value):
    refused(f"early_stopping must be true, false or 'never', not {value!r}", GenerationConfig, early_stopping=value)


# Lengths


def test_the_whole_length_counts_the_prompt_and_new_tokens_do_not():
    assert GenerationConfig(max_length=20).new_tokens(15) == 5
    assert GenerationConfig(max_new_tokens=20).new_tokens(15) == 20
    assert GenerationConfig(max_new_tokens=3, max_length=20).new_tokens(15) == 3
    message = "max_length (20) leaves no room for an answer: the prompt has 20 tokens"
    refused(message, GenerationConfig(max_length=20).new_tokens, prompt_length=20)


def test_a_new_limit_takes_the_place_of_the_other_kinds():
    config = GenerationConfig(max_new_tokens=20, min_new_tokens=5)
    assert config.updated(max_length=9) == GenerationConfig(max_length=9, min_new_tokens=5)
    assert config.updated(max_length=9, max_new_tokens=5).new_tokens(4) == 5
    assert GenerationConfig(max_length=142, min_length=56).updated(max_new_tokens=9, min_new_tokens=0) == (
        GenerationConfig(max_new_tokens=9)
    )


def test_beams_and_sampling_that_a_model_has_by_itself_hold_on():
    sampling, searching = GenerationConfig(do_sample=True), GenerationConfig(num_beams=4)
    assert sampling.updated(num_beams=3) == GenerationConfig(num_beams=3, do_sample=True)
    assert searching.updated(do_sample=True) == GenerationConfig(num_beams=4, do_sample=True)
    assert sampling.updated(num_beams=1).do_sample
    assert searching.updated(do_sample=False).num_beams == 4


def test_one_beam_or_one_group_has_no_groups_to_keep_apart():
    grouped = GenerationConfig(num_beams=4, num_beam_groups=2, diversity_penalty=0.5)
    assert grouped.updated(num_beams=1) == GenerationConfig()
    assert grouped.updated(num_beam_groups=1) == GenerationConfig(num_beams=4)
    assert grouped.updated(num_beams=2).num_beam_groups == 2
    message = "num_beam_groups (2) takes the likeliest tokens: it goes without do_sample"
    refused(message, grouped.updated, do_sample=True)


def test_contradictions_are_named():
    refused("min_length (56) is above max_length (20)", GenerationConfig, min_length=56, max_length=20)
    for beams, sampling in ((1, False), (2, False), (2, True)):
        message = f"num_return_sequences (3) is above num_beams ({beams}); "
        message += "only do_sample without beams gives more answers than beams"
        refused(message, GenerationConfig, num_return_sequences=3, num_beams=beams, do_sample=sampling)
    assert GenerationConfig(num_return_sequences=3, num_beams=3)
    assert GenerationConfig(num_return_sequences=3, num_beams=3, do_sample=True)
    assert GenerationConfig(num_return_sequences=3, do_sample=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_beam_groups": 2}, "num_beam_groups (2) must divide num_beams (1) into equal groups"),
        ({"num_beams": 6, "num_beam_groups": 4}, "num_beam_groups (4) must divide num_beams (6) into equal groups"),
        (
            {"num_beams": 4, "diversity_penalty": 0.5},
            "diversity_penalty (0.5) is between groups of beams, but num_beam_groups is 1",
        ),
        (
            {"num_beams": 4, "num_beam_groups": 2},
            "num_beam_groups (2) needs a diversity_penalty above 0: without one, all groups find the same",
        ),
        (
            {"num_beams": 4, "num_beam_groups": 4, "diversity_penalty": 1, "do_sample": True},
            "num_beam_groups (4) takes the likeliest tokens: it goes without do_sample",
        ),
    ],
)
def test_contradictions_of_groups_are_named(settings, message):
    refused(message, GenerationConfig, **settings)


def test_top_logprobs_ask_for_logprobs():
    assert GenerationConfig(top_logprobs=3).logprobs
    refused("top_logprobs must be from 0 to 20, not 21", GenerationConfig, top_logprobs=21)


@pytest.mark.parametrize("settings", [{"max_time": 1.0}, {"logprobs": True}, {"top_logprobs": 2}], ids=str)
def test_beams_have_no_tokens_on_the_way(settings):
    name = "max_time" if "max_time" in settings else "logprobs"
    message = f"{name} is for answers made token by token, not for 4 beams"
    refused(message, GenerationConfig, num_beams=4, **settings)


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("value", [1.0, "1", True, [1], float("nan")])
def test_integers_are_nothing_else(name, value):
    refused(f"{name} must be an integer, not {value!r}", GenerationConfig, **{name: value})


@pytest.mark.parametrize("name", ["min_new_tokens", "min_length", "top_k", "num_beams", "no_repeat_ngram_size"])
def test_none_is_no_integer(name):
    refused(f"{name} must be an integer, not None", GenerationConfig, **{name: None})


def test_a_temperature_of_0_is_greedy_wherever_it_is_given():
    greedy = GenerationConfig(max_new_tokens=3)
    for zero in (0, 0.0):
        assert GenerationConfig(temperature=zero, max_new_tokens=3) == greedy
        assert GenerationConfig(temperature=zero, do_sample=True, max_new_tokens=3) == greedy
        assert GenerationConfig(temperature=0.7, do_sample=True, max_new_tokens=3).updated(temperature=zero) == greedy
        from_file = {"temperature": zero, "do_sample": True, "max_new_tokens": 3}
        assert GenerationConfig.from_file_values(from_file) == greedy
    assert greedy.updated(temperature=0).updated(do_sample=True).temperature == 1.0
    with pytest.raises(ConfigError, match="temperature must be a finite number, not False"):
        GenerationConfig(temperature=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("top_p", 1.0000001),
        ("min_p", -0.01),
        ("min_p", 1.01),
        ("repetition_penalty", 0),
        ("repetition_penalty", -3),
        *((name, 1e39) for name in NUMBERS if NUMBERS[name].endswith("1e+30")),
        *((name, -1e39) for name in ("presence_penalty", "frequency_penalty", "length_penalty")),
    ],
)
def test_numbers_out_of_bounds_are_refused_with_their_bounds(name, value):
    refused(f"{name} must be {NUMBERS[name]}, not {value}", GenerationConfig, **{name: value})


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), "0.5", None, True, 10**400])
def test_numbers_are_finite_numbers(name, value):
    if (name, value) == ("max_time", None):
        return  # no limit
    refused(f"{name} must be a finite number, not {value!r:.80}", GenerationConfig, **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", 1e-6), ("temperature", 100), ("top_p", 1), ("top_p", 1e-9), ("min_p", 0), ("min_p", 1)],
)
def test_numbers_at_their_bounds_are_taken(name, value):
    assert getattr(GenerationConfig(**{name: value}), name) == value


@pytest.mark.parametrize("value", [1, 0, "true", None])
def test_do_sample_is_a_truth_value(value):
    refused(f"do_sample must be true or false, not {value!r}", GenerationConfig, do_sample=value)


def test_an_answer_must_be_able_to_be_as_long_as_its_minimum():
    assert GenerationConfig(min_new_tokens=5, max_new_tokens=5).min_new_tokens == 5
    refused("min_new_tokens (6) is above max_new_tokens (5)", GenerationConfig, min_new_tokens=6, max_new_tokens=5)


def test_one_value_stands_for_a_tuple_of_one():
    config = GenerationConfig(eos_token_id=2, stop_strings="END")
    assert (config.eos_token_id, config.stop_strings) == ((2,), ("END",))
    config = GenerationConfig(eos_token_id=[2, 3], stop_strings=["a", "b"])
    assert (config.eos_token_id, config.stop_strings) == ((2, 3), ("a", "b"))
    hash(config)


@pytest.mark.parametrize("name", [*TOKEN_LISTS, "stop_strings", "bad_words_ids"])
@pytest.mark.parametrize("value", [None, 1.5, {1: 2}])
def test_lists_are_lists(name, value):
    refused(f"{name} must be a value or a list of values, not {value!r}", GenerationConfig, **{name: value})


@pytest.mark.parametrize("name", TOKEN_LISTS)
def test_lists_of_tokens_hold_tokens(name):
    refused(f"{name} must be at least 0, not -1", GenerationConfig, **{name: [2, -1]})
    refused(f"{name} must be an integer, not '</s>'", GenerationConfig, **{name: "</s>"})


def test_stop_strings_have_one_to_a_thousand_characters():
    assert GenerationConfig(stop_strings="x" * MAX_STOP_LENGTH)
    for stop in ["", "x" * (MAX_STOP_LENGTH + 1), 7]:
        with pytest.raises(ConfigError, match=r"^a stop string must have 1 to 1024 characters, not ") as caught:
            GenerationConfig(stop_strings=[stop])
        assert len(str(caught.value)) < 200


def test_there_are_at_most_64_stop_strings():
    assert GenerationConfig(stop_strings=["x"] * MAX_STOP_STRINGS)
    refused("stop_strings takes at most 64 strings, not 10000", GenerationConfig, stop_strings=["x"] * 10_000)


def test_updated_changes_what_is_named_and_checks_it():
    config = GenerationConfig(temperature=0.5, seed=1)
    assert config.updated(seed=2) == GenerationConfig(temperature=0.5, seed=2)
    assert config.updated() == config
    assert config.seed == 1
    refused("top_k must be at least 0, not -1", config.updated, top_k=-1)


def test_updated_names_the_unknown_setting_and_the_near_or_known_ones():
    refused(
        "unknown generation setting 'temprature'; did you mean temperature?", GenerationConfig().updated, temprature=1
    )
    known = ", ".join(GenerationConfig.field_names())
    refused(f"unknown generation setting 'qqq'; known are: {known}", GenerationConfig().updated, qqq=1)


def test_a_models_file_may_say_much_that_is_not_for_us():
    values = {
        "_from_model_config": True,
        "transformers_version": "4.57",
        "pad_token_id": -1,
        "bos_token_id": 1,
        "eos_token_id": [2, 32000],
        "temperature": 0.6,
        "top_p": 0.9,
        "do_sample": True,
        "top_k": None,
        "max_new_tokens": 64,
    }
    assert GenerationConfig.from_file_values(values) == GenerationConfig(
        eos_token_id=(2, 32000), temperature=0.6, top_p=0.9, do_sample=True, max_new_tokens=64
    )
    assert GenerationConfig.from_file_values({}) == GenerationConfig()


def test_what_a_models_file_says_is_checked():
    refused("top_p must be above 0 and at most 1, not 7", GenerationConfig.from_file_values, values={"top_p": 7})


def test_a_file_that_asks_for_beams_and_sampling_gets_both() -> None:
    config = GenerationConfig.from_file_values({"do_sample": True, "num_beams": 4, "temperature": 0.7})
    assert (config.do_sample, config.num_beams) == (True, 4)
    assert GenerationConfig.from_file_values({"do_sample": True, "num_beams": 1}).do_sample


def test_in_a_file_groups_without_beams_and_a_penalty_without_groups_do_nothing() -> None:
    groups = {"num_beam_groups": 2, "diversity_penalty": 0.5}
    assert GenerationConfig.from_file_values(groups) == GenerationConfig()
    assert GenerationConfig.from_file_values({"num_beams": 4, "diversity_penalty": 0.5}) == GenerationConfig(
        num_beams=4
    )
    assert GenerationConfig.from_file_values({"num_beams": 4, **groups}) == GenerationConfig(num_beams=4, **groups)


def test_a_temperature_of_zero_in_a_file_means_greedy() -> None:
    config = GenerationConfig.from_file_values({"do_sample": True, "temperature": 0.0, "top_p": 0.9})
    assert config == GenerationConfig(top_p=0.9)
    assert GenerationConfig.from_file_values({"temperature": 0, "num_beams": 2}) == GenerationConfig(num_beams=2)
