"""The processors about n-grams and single tokens against those of transformers, on histories that repeat."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.processors import built_in

from edgelm.config import GenerationConfig
from edgelm.errors import ConfigError
from edgelm.generation.logits_processors import compose
from edgelm.generation.ngram_processors import NoRepeatNGram, NoRepeatSourceNGram
from edgelm.generation.token_processors import (
    ForceTokens,
    MinLength,
    NoBadWords,
    SuppressTokens,
    SuppressTokensAtBegin,
)

pytestmark = pytest.mark.reference

VOCABULARY = 9  # small, so that n-grams repeat
many_cases = settings(max_examples=300, deadline=None)
tokens = st.integers(0, VOCABULARY - 1)
few_tokens = st.lists(tokens, min_size=1, max_size=4)
histories = st.lists(tokens, min_size=1, max_size=24).map(lambda ids: np.array(ids, np.int64))
logits_vectors = st.integers(0, 10**6).map(
    lambda seed: np.random.default_rng(seed).normal(0, 3, VOCABULARY).astype(np.float32)
)


def check(ours, name, ids, logits, *arguments):
    import torch
    from transformers.generation import logits_process

    processor = getattr(logits_process, name)(*arguments)
    given = logits.copy()
    expected = processor(torch.tensor(ids)[None], torch.tensor(logits)[None])[0].numpy()
    np.testing.assert_array_equal(ours(ids, logits), expected)
    np.testing.assert_array_equal(logits, given)


@given(histories, logits_vectors, st.integers(1, 6))
@many_cases
def test_no_ngram_twice(ids, logits, size):
    check(NoRepeatNGram(size), "NoRepeatNGramLogitsProcessor", ids, logits, size)


@given(histories, histories, logits_vectors, st.integers(1, 6))
@many_cases
def test_no_ngram_of_the_source(source, ids, logits, size):
    import torch

    name = "EncoderNoRepeatNGramLogitsProcessor"
    check(NoRepeatSourceNGram(size, source), name, ids, logits, size, torch.tensor(source)[None])


@given(histories, logits_vectors, st.lists(few_tokens, min_size=1, max_size=6))
@many_cases
def test_bad_words(ids, logits, words):
    check(NoBadWords(tuple(map(tuple, words))), "NoBadWordsLogitsProcessor", ids, logits, words)


@given(histories, logits_vectors, st.integers(1, 26), few_tokens)
@many_cases
def test_a_least_length(ids, logits, least, ends):
    check(MinLength(least, tuple(ends)), "MinLengthLogitsProcessor", ids, logits, least, ends)


@given(histories, logits_vectors, st.integers(1, 26), few_tokens)
@many_cases
def test_forced_tokens(ids, logits, limit, ends):
    check(ForceTokens((ends[0],), 1), "ForcedBOSTokenLogitsProcessor", ids, logits, ends[0])
    check(ForceTokens(tuple(ends), limit - 1), "ForcedEOSTokenLogitsProcessor", ids, logits, limit, ends)


@given(histories, logits_vectors, st.integers(1, 24), few_tokens)
@many_cases
def test_suppressed_tokens(ids, logits, begin, suppressed):
    check(SuppressTokens(tuple(suppressed)), "SuppressTokensLogitsProcessor", ids, logits, suppressed)
    ours = SuppressTokensAtBegin(tuple(suppressed), begin)
    check(ours, "SuppressTokensAtBeginLogitsProcessor", ids, logits, suppressed, begin)


def test_an_end_token_is_no_bad_word():
    (processor,) = built_in(GenerationConfig(bad_words_ids=[[3], [4, 3]], eos_token_id=(3, 5)), vocab_size=9)
    logits = np.zeros(9, np.float32)
    assert np.isfinite(processor(np.array([4, 2]), logits)).all()
    assert np.flatnonzero(processor(np.array([2, 4]), logits)).tolist() == [3]


def test_tokens_that_are_not_in_the_vocabulary_are_left_out():
    config = GenerationConfig(bad_words_ids=[[3, 90]], suppress_tokens=[90], begin_suppress_tokens=[1, 90])
    assert built_in(config, vocab_size=9) == [SuppressTokensAtBegin((1,), 2)]


@pytest.mark.parametrize("name", ["forced_bos_token_id", "forced_eos_token_id"])
def test_a_forced_token_must_be_in_the_vocabulary(name):
    with pytest.raises(ConfigError, match=rf"^{name} is 9, but token ids are from 0 to 8$"):
        built_in(GenerationConfig(**{name: 9}), vocab_size=9)


@given(
    st.lists(tokens, min_size=1, max_size=4),
    st.lists(tokens, max_size=6),
    logits_vectors,
    st.fixed_dictionaries(
        {"eos_token_id": st.lists(tokens, min_size=1, max_size=2, unique=True)},
        optional={
            "sequence_bias": st.lists(
                st.tuples(st.lists(st.integers(1, VOCABULARY - 1), min_size=1, max_size=3), st.floats(-5, 5)).map(list),
                min_size=1,
                max_size=4,
            ),
            "encoder_repetition_penalty": st.sampled_from([0.7, 1.3]),
            "exponential_decay_length_penalty": st.tuples(st.integers(0, 4), st.sampled_from([0.8, 1.5])),
            "repetition_penalty": st.sampled_from([0.7, 1.3]),
            "no_repeat_ngram_size": st.integers(1, 3),
            "encoder_no_repeat_ngram_size": st.integers(1, 3),
            "bad_words_ids": st.lists(few_tokens, min_size=1, max_size=3),
            "min_length": st.integers(1, 9),
            "min_new_tokens": st.integers(1, 6),
            "forced_bos_token_id": tokens,
            "forced_eos_token_id": tokens,
            "suppress_tokens": few_tokens,
            "begin_suppress_tokens": few_tokens,
            "max_length": st.integers(10, 12),
        },
    ),
)
@settings(max_examples=200, deadline=None)
def test_any_configuration_is_processed_as_by_transformers(reference_model, prompt, answer, logits, values):
    import torch
    import transformers

    if all(word in [[end] for end in values["eos_token_id"]] for word in values.get("bad_words_ids", [])):
        values.pop("bad_words_ids", None)  # transformers fails where no word is left
    config = GenerationConfig.from_file_values(values)
    theirs = transformers.GenerationConfig(**values)
    # As its generate() prepares them.
    theirs.max_length = len(prompt) + config.new_tokens(len(prompt))
    if config.min_new_tokens:
        theirs.min_length = len(prompt) + config.min_new_tokens
    reference_model._prepare_special_tokens(theirs, device=torch.device("cpu"))
    source = torch.tensor(prompt)[None]
    processors = reference_model._get_logits_processor(
        theirs, input_ids_seq_length=len(prompt), encoder_input_ids=source, device="cpu"
    )
    ids = [*prompt, *answer]
    expected = processors(torch.tensor(ids)[None], torch.tensor(logits)[None])[0].numpy()
    expected[np.isnan(expected)] = -np.inf  # an end that may not come, and was to be made likelier
    ours = compose(built_in(config, prompt=prompt, vocab_size=VOCABULARY))
    np.testing.assert_array_equal(ours(np.array(ids, np.int64), logits), expected)


@pytest.fixture(scope="module")
def reference_model():
    import transformers

    logging.getLogger("transformers").setLevel(logging.ERROR)
    config = transformers.GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=VOCABULARY)
    return transformers.GPT2LMHeadModel(config)
