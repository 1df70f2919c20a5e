"""Whole answers against transformers': converted checkpoints, greedy and with beams, one by one and in batches."""

from __future__ import annotations

import warnings

import pytest
from support.search_models import DECODERS, OWN, answers, open_both, sources

pytestmark = pytest.mark.reference

# What a caller asks for, on top of that.
CALLS = (
    {},
    {"num_beams": 1, "max_new_tokens": 10},
    {"num_beams": 4, "max_new_tokens": 11},
    {"num_beams": 3, "early_stopping": "never", "length_penalty": 1.5, "max_new_tokens": 9},
    {"num_beams": 2, "early_stopping": True, "no_repeat_ngram_size": 2, "min_new_tokens": 5, "max_new_tokens": 9},
)


@pytest.fixture(scope="module")
def open_model(tmp_path_factory):
    """name → (the converted model, transformers' model)."""
    opened = {}

    def open_one(name):
        if name not in opened:
            opened[name] = open_both(name, tmp_path_factory.mktemp("parity"))
        return opened[name]

    yield open_one
    for lm, _ in opened.values():
        lm.close()


@pytest.mark.parametrize("call", CALLS, ids=str)
@pytest.mark.parametrize("name", [*OWN, *DECODERS])
def test_answers_are_those_of_transformers(open_model, name, call):
    lm, model = open_model(name)
    if name in DECODERS:
        call = {"max_new_tokens": 8, **call}
    expected = [answers(model, source, **call)[0] for source in sources()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert [lm.generate(source, **call).token_ids for source in sources()] == expected
        assert [answer.token_ids for answer in lm.generate_batch(sources(), **call)] == expected


@pytest.mark.parametrize("name", ["bart", "marian", "t5", "llama"])
def test_several_answers_to_each(open_model, name):
    lm, model = open_model(name)
    call = {"num_beams": 4, "num_return_sequences": 3, "max_new_tokens": 9, "length_penalty": 0.5}
    expected = [tokens for source in sources() for tokens in answers(model, source, **call)]
    assert [answer.token_ids for answer in lm.generate_batch(sources(), **call)] == expected


@pytest.mark.parametrize("name", ["mbart", "t5", "gpt2"])
def test_a_stream_is_the_answer(open_model, name):
    lm, model = open_model(name)
    for beams in (1, 3):
        call = {"num_beams": beams, "max_new_tokens": 9}
        stream = lm.stream(sources()[2], **call)
        assert stream.drain().token_ids == answers(model, sources()[2], **call)[0]


def test_what_the_source_says_is_not_said_again(open_model):
    lm, model = open_model("bart")
    call = {"encoder_no_repeat_ngram_size": 1, "max_new_tokens": 9, "forced_bos_token_id": None}
    source = list(range(5, 80))
    (expected,) = answers(model, source, **call)
    assert lm.generate(source, **call).token_ids == expected
