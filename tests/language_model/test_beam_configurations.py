"""All answers of beams and their scores against transformers', in as many configurations as there are settings."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from support.beam_draws import our_draws
from support.search_models import ENDS, answers_and_scores, open_both, sources
from support.tiny_checkpoints import VOCABULARY
from support.tiny_seq2seq import EOS

pytestmark = pytest.mark.reference

NEVER = VOCABULARY - 1
SOURCES = sources()[2:]

STOPPING = tuple(
    {"num_beams": 4, "num_return_sequences": 3, "early_stopping": stopping, "length_penalty": penalty}
    for stopping in (True, False, "never")
    for penalty in (-1.0, 0.0, 0.7, 2.0)
)
WIDTHS = (
    {"num_beams": 2, "num_return_sequences": 2},
    {"num_beams": 3},
    {"num_beams": 9, "num_return_sequences": 9},
    {"num_beams": 4, "max_new_tokens": 3},
    {"num_beams": 2, "num_return_sequences": 2, "max_new_tokens": 20},
)
PROCESSORS = (
    {"min_new_tokens": 6},
    {"min_length": 9, "max_length": 30},
    {"max_length": 25},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2, "repetition_penalty": 0.7},
    {"repetition_penalty": 1.5, "encoder_repetition_penalty": 1.3},
    {"encoder_no_repeat_ngram_size": 1},
    {"forced_bos_token_id": 17},
    {"forced_eos_token_id": 118},
    {"forced_bos_token_id": 17, "forced_eos_token_id": 118, "eos_token_id": 118},
    {"bad_words_ids": [[7], [8, 9], [100]]},
    {"suppress_tokens": [EOS, 100, 101], "begin_suppress_tokens": [11, 12]},
    # With a minimum, theirs makes NaN of the end tokens that it rules out.
    {"exponential_decay_length_penalty": (2, 1.4), "min_length": 0},
    {"eos_token_id": 104},
    {"eos_token_id": [104, 12, 60], "length_penalty": 0.4, "early_stopping": True},
    {"eos_token_id": [104, 12, 60], "min_new_tokens": 3, "no_repeat_ngram_size": 2, "early_stopping": "never"},
)
SEARCHES = (*STOPPING, *WIDTHS, *({"num_beams": 3, "num_return_sequences": 2} | call for call in PROCESSORS))
DRAWS = (
    {"num_beams": 3, "num_return_sequences": 3},
    {"num_beams": 4, "temperature": 0.7, "top_k": 40},
    {"num_beams": 2, "num_return_sequences": 2, "top_p": 0.6, "temperature": 1.5, "early_stopping": True},
    {"num_beams": 3, "top_k": 10, "min_p": 0.02, "length_penalty": -0.5, "no_repeat_ngram_size": 2},
    {"num_beams": 3, "typical_p": 0.7, "early_stopping": "never", "min_new_tokens": 4},
    {"num_beams": 2, "epsilon_cutoff": 1e-3, "eta_cutoff": 2e-3, "repetition_penalty": 1.3},
)


@pytest.fixture(scope="module", params=["bart", "llama"])
def both(request, tmp_path_factory):
    """The converted model, transformers' model."""
    lm, model = open_both(request.param, tmp_path_factory.mktemp("beams"))
    yield lm, model
    lm.close()


def with_length(model, call):
    """Decoders have no maximum of their own, and 512 tokens would take long."""
    limits = {"max_new_tokens", "max_length"} & call.keys()
    return call if limits or model.config.is_encoder_decoder else {"max_new_tokens": 8, **call}


def check(model, found, sources, **call):
    """Whether these are the answers to all of these sources, and their scores."""
    each = call.get("num_return_sequences", 1)
    ends = call.get("eos_token_id", ENDS)
    for place, source in enumerate(sources):
        ours = found[place * each : (place + 1) * each]
        tokens, scores = answers_and_scores(model, source, ends=np.atleast_1d(ends).tolist(), **call)
        assert [answer.token_ids for answer in ours] == tokens
        np.testing.assert_allclose([answer.score for answer in ours], scores, rtol=1e-3, atol=1e-4)


def test_there_are_enough():
    assert len(SEARCHES) >= 30


@pytest.mark.parametrize("call", SEARCHES, ids=str)
def test_searches(both, call):
    lm, model = both
    call = with_length(model, call)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = lm.generate_batch(SOURCES, **call)
        one = lm.generate(SOURCES[1], **{**call, "num_return_sequences": 1})
    check(model, found, SOURCES, **call)
    first = found[len(found) // 2]
    assert (one.token_ids, one.score) == (first.token_ids, pytest.approx(first.score, rel=1e-4))


@pytest.mark.parametrize("call", DRAWS, ids=str)
def test_draws(both, call):
    lm, model = both
    call = {"do_sample": True, "top_k": 0, **with_length(model, call)}
    for source in SOURCES:
        found = lm.generate_batch([source], seed=5, **call)
        with our_draws(5, vocab_size=VOCABULARY, never=NEVER):
            check(model, found, [source], **call)
