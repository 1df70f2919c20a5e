"""A KV cache of int8 behind the whole interface: what a caller may do with one of f32 goes with it, too."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from support.attention_bundles import name_attention
from support.bundles import TinyDecoder, write_decoder_bundle
from support.encoder_bundle import write_encoder_bundle
from support.int8_cache import add_cache_scales

import edgelm
from edgelm.config import RuntimeConfig
from edgelm.encoder_model import EncoderModel
from edgelm.errors import CacheFileError, ConfigError, UnsupportedModelError
from edgelm.inspection.attention import attention_maps
from edgelm.loaded_model import find_bundle

SIZES = TinyDecoder(layers=2, heads=4, kv_heads=2, context_length=600, seed=3)
PROMPT = "the quick brown fox jumps over the lazy dog."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("int8")
    return add_cache_scales(write_decoder_bundle(root / "tiny", SIZES, edit=name_attention))


@pytest.fixture
def lm(load, folder):
    return load(folder, kv_cache="int8")


@pytest.fixture
def plain(load, folder):
    return load(folder)


def test_an_answer_is_near_the_one_with_f32(lm, plain):
    """Greedy decoding of random weights parts at the first near tie: the first token's chances tell more."""
    ours, exact = (model.generate(PROMPT, max_new_tokens=1, top_logprobs=5) for model in (lm, plain))
    assert ours.logprobs[0].logprob == pytest.approx(exact.logprobs[0].logprob, abs=0.1)
    assert ours.logprobs[0].logprob != exact.logprobs[0].logprob
    assert lm.generate(PROMPT, max_new_tokens=20).token_ids == lm.generate(PROMPT, max_new_tokens=20).token_ids


def test_a_conversation_goes_on_from_what_is_kept(lm):
    lm.generate(PROMPT, max_new_tokens=4, min_new_tokens=4)
    again = lm.generate(PROMPT + " and", max_new_tokens=4)
    assert again.usage.cached_tokens == len(PROMPT)


def test_batches_beams_guidance_and_guesses(lm, load, folder):
    single = [lm.generate(prompt, max_new_tokens=6).token_ids for prompt in (PROMPT, "a")]
    assert [answer.token_ids for answer in lm.generate_batch([PROMPT, "a"], max_new_tokens=6)] == single
    assert lm.generate(PROMPT, num_beams=3, max_new_tokens=6).token_ids
    assert lm.generate(PROMPT, guidance_scale=1.5, max_new_tokens=6).token_ids
    assert lm.generate(PROMPT, prompt_lookup_num_tokens=4, max_new_tokens=6).token_ids == single[0]
    guessing = load(folder, kv_cache="int8", draft=folder)
    assert guessing._opened.runtime.kv_cache == "int8"
    assert guessing.generate(PROMPT, max_new_tokens=6).token_ids == single[0]


def test_a_draft_without_scales_is_refused_by_name(folder, tmp_path):
    draft = write_decoder_bundle(tmp_path / "draft", SIZES, name="old-draft")
    with pytest.raises(UnsupportedModelError, match="old-draft cannot keep its KV cache in int8"):
        edgelm.load(folder, kv_cache="int8", draft=draft, prepack=False)


def test_a_window_that_slides(load, folder, plain):
    short, exact = (load(folder, kv_cache=kind, context_length=60) for kind in ("int8", "f32"))
    answers = [
        model.generate(PROMPT * 2, max_new_tokens=40, min_new_tokens=40, overflow="sink", top_logprobs=1)
        for model in (short, exact)
    ]
    assert [len(answer.token_ids) for answer in answers] == [40, 40]
    assert answers[0].usage.dropped_tokens == answers[1].usage.dropped_tokens > 0
    assert answers[0].logprobs[0].logprob == pytest.approx(answers[1].logprobs[0].logprob, abs=0.3)


def test_attention_is_that_to_the_rounded_keys(lm, plain):
    ours, exact = (attention_maps(model, PROMPT).maps[0].weights for model in (lm, plain))
    assert ours.shape == exact.shape
    assert 0 < np.abs(ours - exact).mean() < 0.005
    np.testing.assert_allclose(ours.sum(axis=-1), 1, atol=1e-5)


def test_the_stages_of_a_token_are_explained(lm):
    assert len(lm.explain(PROMPT, max_new_tokens=3, min_new_tokens=3).tokens) == 3


def test_a_saved_cache_serves_its_own_type(lm, plain, tmp_path):
    answer = lm.generate(PROMPT, max_new_tokens=5, min_new_tokens=5)
    assert lm.save_cache(tmp_path / "a.kv") == len(PROMPT) + 4
    with pytest.raises(
        CacheFileError, match="holds a KV cache of type int8, but the model is loaded with one of type f"
    ):
        plain.load_cache(tmp_path / "a.kv")
    assert lm.load_cache(tmp_path / "a.kv") == len(PROMPT) + 4
    assert lm.generate(PROMPT, max_new_tokens=5, min_new_tokens=5).token_ids == answer.token_ids


def test_the_budget_has_a_quarter_of_the_cache(lm, plain):
    exact, ours = plain.memory_budget(600), lm.memory_budget(600)
    assert ours.kv_cache * 4 == exact.kv_cache == 600 * 2 * 2 * 2 * 16 * 4
    parts = [{**asdict(budget), "kv_cache": 0, "loading": 0} for budget in (exact, ours)]
    assert parts[0] == parts[1], "nothing else changes"


def test_what_is_not_a_type_is_refused(folder):
    with pytest.raises(ConfigError, match="kv_cache must be one of f32, int8, not 'int4'"):
        edgelm.load(folder, kv_cache="int4")


def test_bundles_without_scales_and_encoders_are_refused(load, folders, tmp_path):
    with pytest.raises(UnsupportedModelError, match="make it anew from the checkpoint"):
        load("tiny", kv_cache="int8")
    encoder: Path = write_encoder_bundle(tmp_path / "encoder")
    with pytest.raises(UnsupportedModelError, match="for decoder-only models, and it is an encoder"):
        EncoderModel(find_bundle(encoder, None, RuntimeConfig()), RuntimeConfig(kv_cache="int8"))
