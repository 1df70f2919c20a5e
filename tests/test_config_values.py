"""The forms in which settings may be given: mappings, pairs, lists of lists; what is none of them is named."""

from __future__ import annotations

import re

import pytest

from edgelm.config import GenerationConfig
from edgelm.errors import ConfigError


def refused(message, make, **settings):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        make(**settings)


def test_biases_are_mappings_or_pairs():
    expected = (((5,), -1.0), ((1, 2), 3.0))
    for form in ({(5,): -1, (1, 2): 3.0}, [[[5], 7.0], [[1, 2], 3.0], [[5], -1.0]]):
        config = GenerationConfig(sequence_bias=form)
        assert config.sequence_bias == expected
        assert config.updated(seed=1).sequence_bias == expected
    assert GenerationConfig(logit_bias={7: 1, "8": float("-inf")}).logit_bias == ((7, 1.0), (8, float("-inf")))
    hash(GenerationConfig(logit_bias={7: 1}, sequence_bias={(5,): 1}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"logit_bias": 5}, "logit_bias must be a mapping, or a list of pairs, not 5"),
        ({"logit_bias": [1, 2]}, "logit_bias must be a mapping, or a list of pairs, not [1, 2]"),
        ({"logit_bias": {"Paris": 1}}, "logit_bias must be an integer, not 'Paris'"),
        ({"logit_bias": {-1: 1}}, "logit_bias must be at least 0, not -1"),
        ({"logit_bias": {"2147483648": 1}}, "logit_bias must be a token id, not 2147483648"),
        ({"logit_bias": {"9" * 5000: 1}}, f"logit_bias must be an integer, not '{'9' * 79}"),
        ({"logit_bias": {1: float("inf")}}, "logit_bias must be a finite number, not inf"),
        ({"logit_bias": {1: 1e7}}, "logit_bias must be at least -1e+06 and at most 1e+06, not 10000000.0"),
        ({"sequence_bias": {5: 1.0}}, "sequence_bias must be lists of token ids, not 5"),
        ({"sequence_bias": {(): 1.0}}, "sequence_bias must be lists of token ids, not ()"),
        ({"sequence_bias": [[[1], "a"]]}, "sequence_bias must be a finite number, not 'a'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_bias_is_refused(settings, message):
    refused(message, GenerationConfig, **settings)


def test_a_decay_has_a_start_and_a_factor():
    assert GenerationConfig(exponential_decay_length_penalty=[15, 1.6]).exponential_decay_length_penalty == (15, 1.6)
    for value, message in (
        (1.5, "exponential_decay_length_penalty must be (start, factor), not 1.5"),
        ((1, 2, 3), "exponential_decay_length_penalty must be (start, factor), not (1, 2, 3)"),
        ((-1, 2), "the start of exponential_decay_length_penalty must be at least 0, not -1"),
        ((1, 0), "the factor of exponential_decay_length_penalty must be above 0, not 0"),
    ):
        refused(message, GenerationConfig, exponential_decay_length_penalty=value)


def test_bad_words_are_lists_of_tokens():
    assert GenerationConfig(bad_words_ids=[[58100], (1, 2)]).bad_words_ids == ((58100,), (1, 2))
    hash(GenerationConfig(bad_words_ids=[[58100]]))
    refused("bad_words_ids must be an integer, not 'a'", GenerationConfig, bad_words_ids=[[1, "a"]])
    refused("bad_words_ids must be at least 0, not -1", GenerationConfig, bad_words_ids=[[-1]])
    for word in (7, [], "ab"):
        refused(f"bad_words_ids must be lists of token ids, not {word!r}", GenerationConfig, bad_words_ids=[word])


@pytest.mark.parametrize("name", ["eos_token_id", "suppress_tokens", "pad_token_id", "forced_bos_token_id"])
def test_no_token_id_is_larger_than_arrays_of_them_hold(name):
    GenerationConfig(**{name: 2**31 - 1})
    refused(f"{name} must be a token id, not {2**31}", GenerationConfig, **{name: 2**31})
    refused(f"{name} must be a token id, not a number of thousands of digits", GenerationConfig, **{name: 10**5000})


def test_numbers_that_python_does_not_write_out_are_refused_as_others_are():
    for name, rule in (("seed", "at least 0"), ("top_logprobs", "from 0 to 20"), ("top_k", "at least 0")):
        message = f"{name} must be {rule}, not a number of thousands of digits"
        refused(message, GenerationConfig, **{name: -(10**5000)})
    message = "temperature must be a finite number, not a number of thousands of digits"
    refused(message, GenerationConfig, temperature=10**5000)
