"""The processors against those of transformers. torch is imported by each test: without it they fail, not skip."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.logit_vectors import generated_logits
from support.processors import built_in

from edgelm.config import GenerationConfig
from edgelm.generation.cutoffs import EpsilonCutoff, EtaCutoff, TypicalP
from edgelm.generation.default_processors import default_warpers
from edgelm.generation.logits_processors import (
    NO_IDS,
    MinNewTokens,
    MinP,
    RepetitionPenalty,
    Temperature,
    TopK,
    TopP,
)
from edgelm.generation.penalties import ExponentialDecay, SequenceBias, SourcePenalty

pytestmark = pytest.mark.reference

thousand_cases = settings(max_examples=1000, deadline=None)
few_cases = settings(max_examples=20, deadline=None)
logits_of_a_model = generated_logits(most=5000)
logits_of_a_large_model = generated_logits(least=49_000, most=51_000)
# Where entropies are numbers that float32 holds well.
moderate_logits = generated_logits(most=5000, kinds=("normal", "flat", "peaked", "tied", "equal", "zipf"))
few_kept = st.integers(1, 5)
probabilities = st.floats(0.01, 0.999) | st.sampled_from([0.1, 0.5, 0.9, 0.95])


def with_history(logits):
    ids = st.lists(st.integers(0, 49), min_size=1, max_size=60)
    return st.tuples(logits, ids.map(lambda values: np.array(values, np.int64)))


def theirs(name, ids, logits, *args):
    import torch
    from transformers.generation import logits_process

    processor = getattr(logits_process, name)(*args)
    return processor(torch.tensor(ids)[None], torch.tensor(logits)[None])[0].numpy()


def assert_same_but_at_the_edge(ours, reference, is_at_the_edge):
    """The same values are kept, whichever of equals; what differs lies within rounding of the edge."""
    assert np.isfinite(ours).any()
    ours, reference = np.sort(ours[np.isfinite(ours)]), np.sort(reference[np.isfinite(reference)])
    shared = min(ours.size, reference.size)
    np.testing.assert_array_equal(ours[ours.size - shared :], reference[reference.size - shared :])
    longer = max(ours, reference, key=len)
    for value in longer[: longer.size - shared]:
        assert is_at_the_edge(value)


def check_repetition_penalty(case, penalty):
    logits, ids = case
    reference = theirs("RepetitionPenaltyLogitsProcessor", ids, logits, penalty)
    np.testing.assert_array_equal(RepetitionPenalty(penalty)(ids, logits), reference)


def check_min_new_tokens(case, prompt_length, least, ends):
    logits, ids = case
    prompt_length = min(prompt_length, len(ids))
    reference = theirs("MinNewTokensLengthLogitsProcessor", ids, logits, prompt_length, least, ends)
    np.testing.assert_array_equal(MinNewTokens(prompt_length, least, tuple(ends))(ids, logits), reference)


def check_temperature(logits, temperature):
    reference = theirs("TemperatureLogitsWarper", NO_IDS, logits, temperature)
    np.testing.assert_array_equal(Temperature(temperature)(NO_IDS, logits), reference)


def check_top_k(logits, top_k):
    reference = theirs("TopKLogitsWarper", NO_IDS, logits, top_k)
    np.testing.assert_array_equal(TopK(top_k)(NO_IDS, logits), reference)


def check_top_p(logits, top_p):
    weights = np.exp(np.sort(logits.astype(np.float64)) - float(logits.max()))
    mass_up_to = np.cumsum(weights) / weights.sum()

    def is_at_the_edge(value):
        tied = np.flatnonzero(np.sort(logits) == value)
        return np.isclose(mass_up_to[tied], 1 - top_p, rtol=2e-6, atol=0).any()

    reference = theirs("TopPLogitsWarper", NO_IDS, logits, top_p)
    assert_same_but_at_the_edge(TopP(top_p)(NO_IDS, logits), reference, is_at_the_edge)


def check_min_p(logits, min_p):
    def is_at_the_edge(value):
        return np.isclose(np.exp(float(value) - float(logits.max())), min_p, rtol=2e-6, atol=0)

    reference = theirs("MinPLogitsWarper", NO_IDS, logits, min_p)
    assert_same_but_at_the_edge(MinP(min_p)(NO_IDS, logits), reference, is_at_the_edge)


def check_source_penalty(case, penalty):
    import torch

    logits, ids = case
    reference = theirs("EncoderRepetitionPenaltyLogitsProcessor", ids, logits, penalty, torch.tensor(ids)[None])
    np.testing.assert_array_equal(SourcePenalty(penalty, ids)(ids, logits), reference)


def check_sequence_bias(case, biases):
    logits, ids = case
    reference = theirs("SequenceBiasLogitsProcessor", ids, logits, dict(biases))
    np.testing.assert_array_equal(SequenceBias(tuple(dict(biases).items()))(ids, logits), reference)


def check_decay(case, start, factor, prompt_length, ends):
    logits, ids = case
    reference = theirs("ExponentialDecayLengthPenalty", ids, logits, (start, factor), ends, prompt_length)
    ours = ExponentialDecay(prompt_length + start, factor, tuple(ends))(ids, logits)
    possible = np.isfinite(logits)  # there, an end that may not come becomes NaN
    np.testing.assert_array_equal(ours[possible], np.minimum(reference, np.finfo(np.float32).max)[possible])
    np.testing.assert_array_equal(ours[~possible], logits[~possible])


def check_typical(logits, typical_p):
    exact = logits.astype(np.float64)
    log_p = exact - exact.max() - np.log(np.exp(exact - exact.max()).sum())
    p = np.exp(log_p)
    shift = np.abs(-log_p + np.sum(np.where(p > 0, p * np.where(p > 0, log_p, 0), 0)))
    order = np.argsort(shift, kind="stable")
    mass_up_to = np.cumsum(p[order])
    ours = np.isfinite(TypicalP(typical_p)(NO_IDS, logits))
    reference = np.isfinite(theirs("TypicalLogitsWarper", NO_IDS, logits, typical_p))
    for token in np.flatnonzero(ours != reference):
        near = np.abs(shift[order] - shift[token]) <= 1e-4 * max(1.0, shift[token])
        reached = mass_up_to[near]
        # The mass is reached among tokens that are as typical as this one, but for rounding.
        assert reached[0] - p[order][near][0] - 1e-5 <= typical_p <= reached[-1] + 1e-5
    np.testing.assert_array_equal(TypicalP(typical_p)(NO_IDS, logits)[ours], logits[ours])


def check_cutoff(warper, name, logits, value):
    exact = logits.astype(np.float64)
    p = np.exp(exact - exact.max())
    p /= p.sum()
    entropy = -np.sum(np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0))
    edge = value if warper is EpsilonCutoff else min(value, np.sqrt(value) * np.exp(-entropy))

    def is_at_the_edge(logit):
        return np.isclose(p[logits == logit][0], edge, rtol=1e-5, atol=0)

    assert_same_but_at_the_edge(warper(value)(NO_IDS, logits), theirs(name, NO_IDS, logits, value), is_at_the_edge)


@given(with_history(logits_of_a_model), st.floats(0.5, 3.0))
@thousand_cases
def test_repetition_penalty(case, penalty):
    check_repetition_penalty(case, penalty)


@given(
    with_history(logits_of_a_model),
    st.integers(0, 60),
    st.integers(0, 60),
    st.lists(st.integers(0, 49), min_size=1, max_size=4),
)
@thousand_cases
def test_min_new_tokens(case, prompt_length, least, ends):
    check_min_new_tokens(case, prompt_length, least, ends)


@given(generated_logits(most=5000, kinds=("normal", "flat", "peaked", "tied", "zipf")), st.floats(0.05, 5.0))
@thousand_cases
def test_temperature(logits, temperature):
    check_temperature(logits, temperature)


@given(logits_of_a_model, st.integers(1, 6000))
@thousand_cases
def test_top_k(logits, top_k):
    check_top_k(logits, top_k)


@given(logits_of_a_model, probabilities)
@thousand_cases
def test_top_p(logits, top_p):
    check_top_p(logits, top_p)


@given(logits_of_a_model, probabilities)
@thousand_cases
def test_min_p(logits, min_p):
    check_min_p(logits, min_p)


@given(with_history(logits_of_a_model), st.floats(0.5, 3.0))
@thousand_cases
def test_source_penalty(case, penalty):
    check_source_penalty(case, penalty)


@given(
    with_history(generated_logits(most=5000, masked=False)),
    st.lists(
        st.tuples(st.lists(st.integers(0, 9), min_size=1, max_size=3).map(tuple), st.floats(-9, 9)),
        min_size=1,
        max_size=9,
        unique_by=lambda pair: pair[0],
    ),
)
@thousand_cases
def test_sequence_bias(case, biases):
    logits, ids = case
    check_sequence_bias((logits, ids % 10), biases)


@given(
    with_history(logits_of_a_model),
    st.integers(0, 30),
    st.floats(0.5, 3.0),
    st.integers(0, 30),
    st.lists(st.integers(0, 49), min_size=1, max_size=4),
)
@thousand_cases
def test_exponential_decay(case, start, factor, prompt_length, ends):
    check_decay(case, start, factor, prompt_length, ends)


@given(moderate_logits, probabilities)
@thousand_cases
def test_typical_p(logits, typical_p):
    check_typical(logits, typical_p)


@given(logits_of_a_model, st.floats(1e-5, 0.9) | st.sampled_from([3e-4, 6e-4, 2e-3]))
@thousand_cases
def test_epsilon_cutoff(logits, epsilon):
    check_cutoff(EpsilonCutoff, "EpsilonLogitsWarper", logits, epsilon)


@given(moderate_logits, st.floats(1e-5, 0.9) | st.sampled_from([3e-4, 6e-4, 2e-3]))
@thousand_cases
def test_eta_cutoff(logits, epsilon):
    check_cutoff(EtaCutoff, "EtaLogitsWarper", logits, epsilon)


@given(with_history(logits_of_a_large_model), st.integers(1, 100), st.floats(0.5, 0.99))
@few_cases
def test_all_with_a_large_vocabulary(case, top_k, probability):
    logits, _ = case
    check_repetition_penalty(case, 1.0 + probability)
    check_min_new_tokens(case, 2, top_k, [0, 7])
    check_top_k(logits, top_k)
    check_top_p(logits, probability)
    check_min_p(logits, probability)
    check_source_penalty(case, 1.0 + probability)
    check_typical(logits, probability)
    check_cutoff(EpsilonCutoff, "EpsilonLogitsWarper", logits, probability / 1000)


# Ours → theirs.
NAMES = {
    "SequenceBias": "SequenceBiasLogitsProcessor",
    "SourcePenalty": "EncoderRepetitionPenaltyLogitsProcessor",
    "ExponentialDecay": "ExponentialDecayLengthPenalty",
    "TypicalP": "TypicalLogitsWarper",
    "EpsilonCutoff": "EpsilonLogitsWarper",
    "EtaCutoff": "EtaLogitsWarper",
    "RepetitionPenalty": "RepetitionPenaltyLogitsProcessor",
    "NoRepeatNGram": "NoRepeatNGramLogitsProcessor",
    "NoRepeatSourceNGram": "EncoderNoRepeatNGramLogitsProcessor",
    "NoBadWords": "NoBadWordsLogitsProcessor",
    "MinLength": "MinLengthLogitsProcessor",
    "MinNewTokens": "MinNewTokensLengthLogitsProcessor",
    "ForceTokens(tokens=(5,), length=1)": "ForcedBOSTokenLogitsProcessor",
    "ForceTokens(tokens=(3,), length=19)": "ForcedEOSTokenLogitsProcessor",
    "SuppressTokens": "SuppressTokensLogitsProcessor",
    "SuppressTokensAtBegin": "SuppressTokensAtBeginLogitsProcessor",
    "Own": "Own",
    "Temperature": "TemperatureLogitsWarper",
    "TopK": "TopKLogitsWarper",
    "TopP": "TopPLogitsWarper",
    "MinP": "MinPLogitsWarper",
}


@pytest.mark.parametrize("least", [{"min_length": 5}, {"min_new_tokens": 5}], ids=str)
def test_the_order_of_all_processors(least):
    import torch
    import transformers

    values = {
        "do_sample": True,
        "temperature": 0.7,
        "top_k": 20,
        "top_p": 0.9,
        "min_p": 0.1,
        "typical_p": 0.9,
        "epsilon_cutoff": 0.01,
        "eta_cutoff": 0.01,
        "sequence_bias": [[[7, 8], 1.5]],
        "encoder_repetition_penalty": 1.1,
        "repetition_penalty": 1.2,
        "exponential_decay_length_penalty": [4, 1.1],
        "no_repeat_ngram_size": 3,
        "encoder_no_repeat_ngram_size": 4,
        "bad_words_ids": [[7], [3], [8, 9]],
        "forced_bos_token_id": 5,
        "forced_eos_token_id": 3,
        "suppress_tokens": [11],
        "begin_suppress_tokens": [12],
        "eos_token_id": 3,
        "max_length": 20,
        **least,
    }
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=50))
    reference_config = transformers.GenerationConfig(**values)
    model._prepare_special_tokens(reference_config, device=torch.device("cpu"))

    class Own(transformers.LogitsProcessor):
        pass

    prepared = model._get_logits_processor(
        reference_config,
        input_ids_seq_length=2,
        encoder_input_ids=torch.tensor([[1, 2]]),
        device="cpu",
        logits_processor=transformers.LogitsProcessorList([Own()]),
    )
    own = type("Own", (), {})()
    config = GenerationConfig.from_file_values(values)
    ours = [*built_in(config), own, *default_warpers(config)]
    ours_by_name = [NAMES.get(type(processor).__name__) or NAMES[str(processor)] for processor in ours]
    assert ours_by_name == [type(processor).__name__ for processor in prepared]
