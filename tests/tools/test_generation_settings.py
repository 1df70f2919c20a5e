"""Generation settings of checkpoints with and without ``generation_config.json``."""

from __future__ import annotations

from typing import Any

import pytest

from edgelm.errors import ModelError
from edgelm_tools.generation_settings import check_tokens, generation_settings


def test_settings_of_a_file_are_all_there_is() -> None:
    assert generation_settings({"num_beams": 2}, {"num_beams": 4, "eos_token_id": 1}, {"pad_token_id": 0}) == {
        "num_beams": 2
    }


def test_the_configuration_comes_before_the_defaults_of_its_class() -> None:
    config = {"eos_token_id": [1, 7], "num_beams": 4, "d_model": 12, "forced_bos_token_id": None}
    defaults = {"eos_token_id": 1, "pad_token_id": 0, "forced_bos_token_id": 5, "vocab_size": 9}
    assert generation_settings({}, config, defaults) == {"eos_token_id": [1, 7], "num_beams": 4, "pad_token_id": 0}


def test_a_negative_token_is_none() -> None:
    settings = {"pad_token_id": -1, "bos_token_id": 0, "length_penalty": -2}
    for given, config in ((settings, {}), ({}, settings)):
        assert generation_settings(given, config, {}) == {"bos_token_id": 0, "length_penalty": -2}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("eos_token_id", "2"),
        ("eos_token_id", 9),
        ("eos_token_id", [1, 9]),
        ("eos_token_id", 1.0),
        ("eos_token_id", True),
        ("eos_token_id", [[1]]),
        ("pad_token_id", -1),
        ("bos_token_id", [1]),
        ("decoder_start_token_id", 9),
    ],
)
def test_a_token_that_the_model_does_not_have_is_named(name: str, value: Any) -> None:
    with pytest.raises(ModelError, match=f"^{name} must be of the model's tokens, from 0 to 8, not"):
        check_tokens({name: value}, 9)


def test_tokens_of_the_model_pass() -> None:
    check_tokens({"eos_token_id": [8, 0], "bos_token_id": 8, "pad_token_id": None, "max_length": 20}, 9)
