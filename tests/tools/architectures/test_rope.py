"""Rotary embeddings: the frequencies are transformers', and what cannot be computed is refused by name."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from edgelm.errors import ModelError, UnsupportedModelError
from edgelm_tools.architectures.config_fields import ConfigFields
from edgelm_tools.architectures.rope import Rope, make_rope

FACTORS = {"short_factor": [1.0 + 0.1 * i for i in range(32)], "long_factor": [2.0 + i for i in range(32)]}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 256}
SCALINGS: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 2.5},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "llama3": {"rope_type": "llama3", **LLAMA3},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
    "yarn without an original length": {"rope_type": "yarn", "factor": 8.0},
    "yarn below one": {"rope_type": "yarn", "factor": 0.5},
    "yarn with its scales": {"rope_type": "yarn", "factor": 16.0, "mscale": 0.8, "mscale_all_dim": 1.1},
    "yarn with betas": {"rope_type": "yarn", "factor": 2.0, "beta_fast": 20, "beta_slow": 4, "attention_factor": 0.9},
    "yarn not truncated": {"rope_type": "yarn", "factor": 2.0, "truncate": False},
    "yarn of one step": {"rope_type": "yarn", "factor": 2.0, "beta_fast": 1e4, "beta_slow": 0.9e4},
    "longrope": {"rope_type": "longrope", "factor": 4.0, **FACTORS},
    "longrope with its own factor": {"rope_type": "longrope", "attention_factor": 1.3, "factor": 4.0, **FACTORS},
}
BASE: dict[str, Any] = {"max_position_embeddings": 2048, "head_dim": 64}


def rope(scaling: dict[str, Any], *, head_size: int = 64, base: float = 10_000.0, **config: Any) -> Rope:
    return make_rope(ConfigFields(BASE | config, what="config.json"), head_size=head_size, base=base, scaling=scaling)


@pytest.mark.reference
@pytest.mark.parametrize("base", [10_000.0, 1e6])
@pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS.keys())
def test_frequencies_are_those_of_transformers(scaling: dict[str, Any], base: float) -> None:
    compare_with_transformers(rope(scaling, base=base), scaling, rope_theta=base)


@pytest.mark.reference
@pytest.mark.parametrize("original", [64, 2048, 4096])
def test_longrope_of_a_model_that_says_its_original_length(original: int) -> None:
    scaling = {"rope_type": "longrope", **FACTORS}
    made = rope(scaling, original_max_position_embeddings=original)
    compare_with_transformers(made, scaling, original_max_position_embeddings=original)
    assert made.context_length == original


@pytest.mark.reference
def test_only_a_part_of_each_head_is_rotated() -> None:
    made = rope({}, head_size=80, partial_rotary_factor=0.25)
    compare_with_transformers(made, {"rope_type": "default"}, head_dim=80, partial_rotary_factor=0.25)
    assert len(made.frequencies) == 10


def compare_with_transformers(made: Rope, scaling: dict[str, Any], **config: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import LlamaConfig
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    theirs = LlamaConfig(**BASE)
    for name, value in {"rope_scaling": scaling, **config}.items():
        setattr(theirs, name, value)
    frequencies, factor = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](theirs, "cpu")
    # Powers of two libraries differ in the last bit.
    np.testing.assert_allclose(made.frequencies, frequencies.numpy(), rtol=3e-7)
    assert made.factor == pytest.approx(factor, rel=1e-9)


def test_tables_hold_scaled_cosines_and_sines_and_then_zeros() -> None:
    cosines, sines = Rope((1.0, 0.25), factor=1.5).tables(100, width=8)
    assert cosines.shape == sines.shape == (100, 8)
    assert cosines.dtype == sines.dtype == np.float32
    angles = np.arange(100)[:, None] * np.array([1.0, 0.25])
    np.testing.assert_allclose(cosines[:, :2], 1.5 * np.cos(angles), atol=1e-5)
    np.testing.assert_allclose(sines[:, :2], 1.5 * np.sin(angles), atol=1e-5)
    assert not cosines[:, 2:].any()
    assert not sines[:, 2:].any()


def test_context_is_bounded_where_keys_in_the_cache_would_change() -> None:
    assert rope(SCALINGS["dynamic"]).context_length == 2048
    assert rope(SCALINGS["longrope"]).context_length == 2048
    assert rope(SCALINGS["yarn"]).context_length is None


def without(name: str, scaling: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in scaling.items() if key != name}


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"rope_type": "mrope"}, "rope_type 'mrope' is not known; known are default, linear, dynamic"),
        ({"type": "su"}, "type 'su' is not known"),
        ({"rope_type": "linear", "type": "dynamic", "factor": 2.0}, "type and rope_type differ: dynamic, linear"),
        ({"rope_type": "linear"}, "rope_scaling lacks 'factor'"),
        ({"rope_type": "yarn"}, "rope_scaling lacks 'factor'"),
        *[(without(name, SCALINGS["llama3"]), f"rope_scaling lacks '{name}'") for name in LLAMA3],
        (without("short_factor", SCALINGS["longrope"]), "rope_scaling lacks 'short_factor'"),
        (without("factor", SCALINGS["longrope"]), "lacks 'factor'"),
        ({**SCALINGS["longrope"], "original_max_position_embeddings": 64}, "original_max_position_embeddings is not"),
    ],
)
def test_scaling_that_is_not_known_or_incomplete_is_refused(scaling: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        rope(scaling)


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"rope_type": "linear", "factor": "4"}, "factor must be a number above 0, not '4'"),
        ({"rope_type": "linear", "factor": 0}, "factor must be a number above 0, not 0"),
        ({"rope_type": "linear", "factor": float("nan")}, "factor must be a number"),
        ({"rope_type": "linear", "factor": True}, "factor must be a number"),
        ({"rope_type": "linear", "factor": 10**400}, "factor must be a number above 0, not 1000"),
        ({"partial_rotary_factor": 1e308}, r"partial_rotary_factor must be at most 1, not 1e\+308"),
        ({"rope_type": "llama3", **LLAMA3, "high_freq_factor": 1.0}, "high_freq_factor must be above low_freq_factor"),
        ({"rope_type": "yarn", "factor": 2.0, "truncate": "no"}, "truncate must be true or false"),
        (
            {"rope_type": "yarn", "factor": 2.0, "beta_fast": 1e308},
            r"beta_fast 1e\+308 is out of range for an original",
        ),
        ({"rope_type": "yarn", "factor": 2.0, "beta_slow": 1e-310}, "beta_slow 1e-310 is out of range for an original"),
        ({**SCALINGS["longrope"], "short_factor": [1.0] * 31}, "short_factor must be a list of 32"),
        ({**SCALINGS["longrope"], "short_factor": [0.0] * 32}, "short_factor: 0 must be a number above 0"),
    ],
)
def test_settings_of_the_wrong_type_or_range_are_refused(scaling: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        rope(scaling)


def test_a_context_cannot_be_extended_from_one_token() -> None:
    with pytest.raises(ModelError, match="original_max_position_embeddings of 1 is no length"):
        rope({"rope_type": "longrope", **FACTORS}, original_max_position_embeddings=1)


@pytest.mark.parametrize("share", [0.01, 1.5, 5 / 64])
def test_a_share_of_the_head_must_be_an_even_number_of_values(share: float) -> None:
    with pytest.raises(UnsupportedModelError, match="an even number of them is needed"):
        rope({}, partial_rotary_factor=share)


def test_newer_files_keep_the_share_with_the_scaling() -> None:
    assert len(rope({"rope_type": "default", "partial_rotary_factor": 0.5}).frequencies) == 16
