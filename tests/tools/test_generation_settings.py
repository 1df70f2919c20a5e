"""Generation settings of checkpoints with and without ``generation_config.json``."""

from __future__ import annotations

import re
from typing import Any

import pytest

from edgelm.errors import ModelError
from edgelm_tools.generation_settings import check_tokens, generation_settings, usable_settings


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
    ("given", "kept", "told"),
    [
        ({"top_p": 0.0}, {}, ["left out of generation_config.json: top_p must be above 0 and at most 1, not 0.0"]),
        ({"top_k": -1, "do_sample": True}, {"do_sample": True}, ["top_k must be at least 0, not -1"]),
        ({"typical_p": 2, "min_p": -1, "do_sample": False}, {"do_sample": False}, ["min_p", "typical_p"]),
        ({"top_p": 0, "do_sample": True}, {}, [r"\(and do_sample with it\): top_p must be above 0"]),
        ({"temperature": 0.0, "top_p": 0.9, "top_k": 5}, {"temperature": 0.0, "top_p": 0.9, "top_k": 5}, []),
        # What transformers does not take either is refused as the bundle is opened.
        ({"top_p": "0", "top_k": -1.5, "num_beams": -1}, {"top_p": "0", "top_k": -1.5, "num_beams": -1}, []),
    ],
)
def test_numbers_of_sampling_that_are_out_of_range_are_left_out_and_told(
    given: dict[str, Any], kept: dict[str, Any], told: list[str]
) -> None:
    lines: list[str] = []
    assert usable_settings(given, lines.append) == kept
    assert len(lines) == len(told)
    for line, words in zip(lines, told, strict=True):
        assert re.search(words, line)


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
