"""Generation settings of checkpoints without ``generation_config.json``."""

from __future__ import annotations

from edgelm_tools.generation_settings import generation_settings


def test_settings_of_a_file_are_all_there_is() -> None:
    assert generation_settings({"num_beams": 2}, {"num_beams": 4, "eos_token_id": 1}, {"pad_token_id": 0}) == {
        "num_beams": 2
    }


def test_the_configuration_comes_before_the_defaults_of_its_class() -> None:
    config = {"eos_token_id": [1, 7], "num_beams": 4, "d_model": 12, "forced_bos_token_id": None}
    defaults = {"eos_token_id": 1, "pad_token_id": 0, "forced_bos_token_id": 5, "vocab_size": 9}
    assert generation_settings({}, config, defaults) == {"eos_token_id": [1, 7], "num_beams": 4, "pad_token_id": 0}


def test_a_negative_token_is_none() -> None:
    assert generation_settings({}, {"pad_token_id": -1, "bos_token_id": 0, "length_penalty": -2}, {}) == {
        "bos_token_id": 0,
        "length_penalty": -2,
    }
