"""A call's own ``generation_config``: in the place of the model's defaults, under the settings of the call."""

from __future__ import annotations

import pytest
from support.bundles import EOS

from edgelm import GenerationConfig
from edgelm.errors import ConfigError, PromptError

MESSAGES = [{"role": "user", "content": "abc"}]


def test_every_verb_takes_one(load):
    lm = load("letters")
    config = GenerationConfig(max_new_tokens=3)
    assert lm.generate("abc", config).text == lm.generate("abc", generation_config=config).text == "def"
    assert lm.stream("abc", config).drain().text == "def"
    assert [one.text for one in lm.generate_batch(["abc", "cde"], generation_config=config)] == ["def", "fgh"]
    config = GenerationConfig(max_new_tokens=1)
    assert lm.chat(MESSAGES, generation_config=config).usage.completion_tokens == 1
    assert lm.stream_chat(MESSAGES, generation_config=config).drain().usage.completion_tokens == 1


def test_it_stands_above_the_models_defaults_and_below_the_call(load):
    lm = load("tiny")
    assert lm.generation_config.max_new_tokens == 32
    config = GenerationConfig(max_new_tokens=2, eos_token_id=31)
    assert lm.generate("abc", config).usage.completion_tokens == 2
    assert lm.generate("abc", config, max_new_tokens=1).usage.completion_tokens == 1
    assert lm.generation_config.max_new_tokens == 32
    assert lm.generate("abc", generation_config=None, max_new_tokens=1).usage.completion_tokens == 1


def test_tokens_that_it_does_not_name_are_the_models(load):
    result = load("letters").generate("xyz", GenerationConfig(max_new_tokens=30))
    assert (result.finish_reason, result.token_ids[-1]) == ("stop", EOS)


def test_what_is_none_is_refused(load):
    lm = load("letters")
    for wrong in ({"max_new_tokens": 2}, 5, GenerationConfig):
        with pytest.raises(ConfigError, match="generation_config must be a GenerationConfig, not"):
            lm.generate("abc", generation_config=wrong)


def test_roles_that_no_template_is_made_for_are_refused(load):
    lm = load("letters")
    for role in ("foo", "User", "developer"):
        with pytest.raises(PromptError, match=rf"messages\[1\].role must be one of system, .*, tool, not '{role}'"):
            lm.chat([*MESSAGES, {"role": role, "content": "x"}])
