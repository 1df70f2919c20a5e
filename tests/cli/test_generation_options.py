"""The flags of generation: each reaches ``GenerationConfig``, and what it does not take is a usage error."""

from __future__ import annotations

import json
import math
from typing import Any

import click
import pytest
from click.testing import CliRunner

from edgelm.cli.generation_options import generation_options, implies_sampling
from edgelm.cli.typed_settings import setting_name, setting_value
from edgelm.config import GenerationConfig
from edgelm.errors import ConfigError


def given(*arguments: str) -> Any:
    """What a command gets, or the error's text."""
    got: dict[str, Any] = {}

    @click.command
    @generation_options
    def command(generation: dict[str, Any]) -> None:
        got.update(generation)

    result = CliRunner().invoke(command, arguments)
    return got if result.exit_code == 0 else " ".join(result.stderr.split())


def test_nothing_given_is_nothing_set():
    assert given() == {}


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        (["--typical-p", "0.9"], {"typical_p": 0.9, "do_sample": True}),
        (["--typical-p", "1"], {"typical_p": 1.0}),
        (
            ["--presence-penalty", "0.5", "--frequency-penalty", "-1"],
            {"presence_penalty": 0.5, "frequency_penalty": -1},
        ),
        (["--guidance-scale", "2", "--negative-prompt", "No"], {"guidance_scale": 2.0, "negative_prompt": "No"}),
        (["--max-time", "2"], {"max_time": 2.0}),
        (["--top-logprobs", "3"], {"top_logprobs": 3}),
        (["--prompt-lookup"], {"prompt_lookup_num_tokens": 16}),
        (["--set", "prompt_lookup_num_tokens=4"], {"prompt_lookup_num_tokens": 4}),
        (["-l", "15=-inf", "-l", " a=b=2.5"], {"logit_bias": {"15": -math.inf, " a=b": 2.5}}),
        (["--set", "eta_cutoff=0.0003"], {"eta_cutoff": 0.0003, "do_sample": True}),
        (["--set", "top-n-sigma=1", "--greedy"], {"top_n_sigma": 1.0, "do_sample": False}),
        (["--set", "bad_words_ids=[[1, 2]]"], {"bad_words_ids": [[1, 2]]}),
        (["--set", "early_stopping=never"], {"early_stopping": "never"}),
        (["--set", "exponential_decay_length_penalty=[5, 1.1]"], {"exponential_decay_length_penalty": [5, 1.1]}),
        (["--set", "stop=a,b"], {"stop_strings": ("a,b",)}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_flags_become_settings(arguments, settings):
    assert given(*arguments) == settings
    if not {"logit_bias", "negative_prompt"} & settings.keys():
        GenerationConfig(**settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-l", "15"], "'15' is not of the form TOKEN=BIAS, such as 15043=-100"),
        (["-l", "=3"], "'=3' is not of the form TOKEN=BIAS"),
        (["-l", "a=b"], "the bias of 'a' is no number: 'b'"),
        (["--set", "temperature=1", "--temperature", "2"], "temperature is given twice, as --set temperature"),
        (["--set", "seed=1", "--set", "seed=2"], "seed is given twice"),
        (["--set", "num_return_sequences=2"], "one answer is printed; for several: edgelm compare --seeds 2"),
        (["--set", "seed"], "'seed' is not of the form NAME=VALUE"),
        (["--set", "sead=1"], "'sead' is no setting; did you mean seed?"),
        (["--set", "eta_cutoff=x"], "eta_cutoff must be a number, not 'x'"),
        (["--set", "bad_words_ids=[1"], "bad_words_ids must be written as JSON"),
        (["--typical-p", "0"], "typical_p must be above 0 and at most 1"),
        (["--max-time", "-1"], "max_time must be above 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_no_value_is_a_usage_error(arguments, message):
    assert message in given(*arguments)


@pytest.mark.parametrize("name", GenerationConfig.field_names())
def test_every_setting_can_be_typed(name):
    value = getattr(GenerationConfig(), name)
    if value is None:
        value = [3, 1.5] if name == "exponential_decay_length_penalty" else 3
    typed = setting_value(setting_name(name), value if isinstance(value, str) else json.dumps(value))
    if name != "stop_strings":
        assert getattr(GenerationConfig(**{"max_new_tokens": 9} | {name: typed}), name) == getattr(
            GenerationConfig(**{"max_new_tokens": 9} | {name: value}), name
        )


@pytest.mark.parametrize("name", ["temp", "max-tokens", "repeat-penalty", "top-k"])
def test_names_of_flags_are_understood(name):
    assert setting_name(name) in GenerationConfig.field_names()


def test_an_unknown_name_tells_the_near_ones_or_lists_them_all():
    with pytest.raises(ConfigError, match=r"'top-kk' is no setting; did you mean top_k"):
        setting_name("top-kk")
    with pytest.raises(ConfigError, match="'qqq' is no setting; known are: max_new_tokens"):
        setting_name("qqq")


@pytest.mark.parametrize("name", ["min_p", "epsilon_cutoff", "eta_cutoff", "top_n_sigma"])
def test_cuts_imply_sampling_unless_they_are_off(name):
    assert implies_sampling({name: 0.1})
    assert not implies_sampling({name: 0.0})
