"""Guidance against transformers' processor, step by step, over a decoder whose logits follow from all its tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelm.generation.guidance import Guidance

VOCABULARY = 11
prompts = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=5)


class HashedDecoder:
    """Logits from all tokens so far; the same for the same tokens."""

    def __init__(self):
        self.ids = []

    def prefill(self, ids):
        self.ids += [int(token) for token in ids]
        return logits_behind(self.ids)

    def step(self, token):
        return self.prefill([token])


def logits_behind(ids):
    seed = [len(ids), *ids]
    return np.random.default_rng(seed).normal(0, 3, VOCABULARY).astype(np.float32)


@given(prompts, st.none() | prompts, st.lists(st.integers(0, VOCABULARY - 1), max_size=5))
@settings(deadline=None)
def test_a_scale_of_one_gives_the_model_s_own_distribution(prompt, negative, answer):
    guide = Guidance(HashedDecoder(), 1.0, None if negative is None else np.array(negative))
    for count in range(len(answer) + 1):
        ids = np.array([*prompt, *answer[:count]])
        logits = logits_behind(ids)
        expected = logits - logits.max()
        expected -= np.log(np.exp(expected).sum())
        np.testing.assert_allclose(guide(ids, logits), expected, atol=1e-5)


def test_what_the_model_rules_out_stays_so():
    guide = Guidance(HashedDecoder(), 3.0)
    logits = logits_behind([1])
    logits[[2, 5]] = -np.inf
    assert np.flatnonzero(np.isneginf(guide(np.array([1]), logits))).tolist() == [2, 5]


@pytest.mark.reference
@given(prompts, st.none() | prompts, st.lists(st.integers(0, VOCABULARY - 1), max_size=5), st.floats(0.0, 9.0))
@settings(max_examples=200, deadline=None)
def test_guidance_is_that_of_transformers(prompt, negative, answer, scale):
    import torch
    from transformers.generation.logits_process import UnbatchedClassifierFreeGuidanceLogitsProcessor

    class Model:
        """As transformers calls it: new ids in, and the cache, here all ids so far."""

        def __call__(self, input_ids, attention_mask, use_cache, past_key_values):
            ids = [*(past_key_values or []), *input_ids[0].tolist()]
            return Output(logits=torch.tensor(logits_behind(ids))[None, None], past_key_values=ids)

    class Output(dict):
        __getattr__ = dict.__getitem__

    reference = UnbatchedClassifierFreeGuidanceLogitsProcessor(
        scale, Model(), unconditional_ids=None if negative is None else torch.tensor([negative])
    )
    guide = Guidance(HashedDecoder(), scale, None if negative is None else np.array(negative))
    for count in range(len(answer) + 1):
        ids = np.array([*prompt, *answer[:count]])
        expected = reference(torch.tensor(ids)[None], torch.tensor(logits_behind(ids))[None])[0].numpy()
        np.testing.assert_allclose(guide(ids, logits_behind(ids)), expected, atol=1e-4, rtol=1e-5)
