"""Settings of a runtime, and sizes as people write them."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgelm.config import RuntimeConfig
from edgelm.errors import ConfigError
from edgelm.sizes import parse_size


def refused(message, make, **settings):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        make(**settings)


def test_the_runtime_defaults():
    config = RuntimeConfig()
    assert (config.threads, config.context_length, config.max_memory, config.prepack) == (None, None, None, True)
    assert config.prefill_chunk > 1


@pytest.mark.parametrize("name", ["context_length", "prefill_chunk", "max_memory"])
def test_runtime_settings_are_at_least_one(name):
    assert getattr(RuntimeConfig(**{name: 1}), name) == 1
    refused(f"{name} must be at least 1, not 0", RuntimeConfig, **{name: 0})
    refused(f"{name} must be an integer, not 1.5", RuntimeConfig, **{name: 1.5})


@pytest.mark.parametrize("value", [0, -1, 1025])
def test_threads_have_both_bounds(value):
    refused(f"threads must be from 1 to 1024, not {value}", RuntimeConfig, threads=value)


@pytest.mark.parametrize("name", ["prepack", "preload_text"])
def test_switches_are_truth_values(name):
    assert getattr(RuntimeConfig(), name) is True
    refused(f"{name} must be true or false, not 'no'", RuntimeConfig, **{name: "no"})


def test_a_kv_cache_is_of_a_known_type():
    assert RuntimeConfig().kv_cache == "f32"
    assert RuntimeConfig(kv_cache="int8").kv_cache == "int8"
    refused("kv_cache must be one of f32, int8, not 'int4'", RuntimeConfig, kv_cache="int4")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("400MB", 400_000_000),
        ("400 mb", 400_000_000),
        (" 400M ", 400_000_000),
        ("1.5GiB", 1_610_612_736),
        ("1kb", 1000),
        ("1KiB", 1024),
        ("2T", 2 * 10**12),
        ("0.5tib", 2**39),
        ("268435456", 268_435_456),
        ("17B", 17),
        ("1e3MB", 10**9),
        (268_435_456, 268_435_456),
        (1, 1),
        (2**63 + 1, 2**63 + 1),
    ],
)
def test_sizes_as_people_write_them(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "MB", "B", "x", "4X", "4MBB", "4 M B", "4PB", "--4", "4iB", "400,5MB"),
        *("0", "0MB", "0.4", "-1", "-400MB", "nan", "nanMB", "inf", "infGB", "1e400", "1e308TB", "9" * 400),
        *(0, -1, 10**400, True, False, None),
    ],
)
def test_what_is_no_size(text):
    refused(f"{text!r:.80} is not a size; write for example 400MB, 1.5GiB or a number of bytes", parse_size, text=text)


@given(st.integers(1, 2**60))
def test_a_number_of_bytes_is_itself(size):
    assert parse_size(size) == parse_size(str(size)) == parse_size(f" {size} B") == size


@given(st.text(alphabet="0123456789.-+e_ kMGTiB", max_size=8))
def test_any_text_is_a_size_or_refused(text):
    with suppress(ConfigError):
        assert parse_size(text) >= 1


def test_settings_as_they_are_given():
    assert RuntimeConfig.given(threads=None, max_memory=None, prefill_chunk=None) == RuntimeConfig()
    assert RuntimeConfig.given(threads=2, max_memory="1MB") == RuntimeConfig(threads=2, max_memory=10**6)
    refused("threads must be from 1 to 1024, not 0", RuntimeConfig.given, threads=0)


def test_a_limit_without_its_unit_or_with_a_wrong_one_is_refused():
    for limit in (400, "400", " 400 ", "400B", "400 b"):
        with pytest.raises(ConfigError, match="is 400 bytes; did you mean 400MB"):
            RuntimeConfig.given(max_memory=limit)
    refused("'400kB' is 400000 bytes; did you mean 400MB?", RuntimeConfig.given, max_memory="400kB")
    refused("'0.5M' is 500000 bytes; write for example 400MB", RuntimeConfig.given, max_memory="0.5M")
    assert RuntimeConfig.given(max_memory="400000kB").max_memory == 400_000_000
    assert RuntimeConfig.given(max_memory=400_000_000).max_memory == 400_000_000
