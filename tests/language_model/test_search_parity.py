"""Whole answers against transformers': converted checkpoints, greedy and with beams, one by one and in batches."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from support.gpt_checkpoints import GPT_VARIANTS
from support.tiny_checkpoints import VOCABULARY, reference_model, variant, write_checkpoint
from support.tiny_seq2seq import EOS, PAD, START, seq2seq_model, seq2seq_variant

import edgelm
from edgelm.bundle.manifest import Source

pytestmark = pytest.mark.reference

# Many, so that random weights end answers.
ENDS = [EOS, *range(100, 130)]
LANGUAGE = 41

# What the checkpoints' own generation_config.json say, by name.
OWN = {
    "bart": {"forced_bos_token_id": 0, "forced_eos_token_id": EOS, "num_beams": 4, "early_stopping": True}
    | {"length_penalty": 2.0, "max_length": 14, "min_length": 6, "no_repeat_ngram_size": 3},
    "bart.scaled_untied": {"forced_eos_token_id": EOS, "decoder_start_token_id": EOS, "max_length": 12},
    "marian": {"bad_words_ids": [[PAD]], "num_beams": 4, "max_length": 16, "decoder_start_token_id": PAD}
    | {"forced_eos_token_id": EOS},
    "mbart": {"forced_bos_token_id": LANGUAGE, "forced_eos_token_id": EOS, "num_beams": 5, "max_length": 12}
    | {"early_stopping": True},
    "m2m_100": {"forced_bos_token_id": LANGUAGE, "num_beams": 5, "max_length": 15, "early_stopping": True}
    | {"decoder_start_token_id": EOS},
    "pegasus": {"length_penalty": 0.8, "num_beams": 8, "max_length": 13, "forced_eos_token_id": EOS},
    "t5": {"decoder_start_token_id": PAD, "max_length": 18},
    "t5.gated_untied": {"max_new_tokens": 12, "repetition_penalty": 1.3},
    "umt5": {"max_new_tokens": 12, "suppress_tokens": [7, 8], "begin_suppress_tokens": [9, EOS]},
}
# Rotary, looked-up and no positions.
DECODERS = {v.name: v for v in (variant("llama"), *GPT_VARIANTS) if v.name in ("llama", "gpt2", "bloom")}
# What a caller asks for, on top of that.
CALLS = (
    {},
    {"num_beams": 1, "max_new_tokens": 10},
    {"num_beams": 4, "max_new_tokens": 11},
    {"num_beams": 3, "early_stopping": "never", "length_penalty": 1.5, "max_new_tokens": 9},
    {"num_beams": 2, "early_stopping": True, "no_repeat_ngram_size": 2, "min_new_tokens": 5, "max_new_tokens": 9},
)
LENGTHS = (7, 1, 19, 12)


def sources(vocabulary=VOCABULARY):
    random = np.random.default_rng(11)
    return [random.integers(5, vocabulary, length).tolist() for length in LENGTHS]


@pytest.fixture(scope="module")
def open_model(tmp_path_factory):
    """name → (the converted model, transformers' model)."""
    opened = {}

    def open_one(name):
        if name not in opened:
            opened[name] = _opened(name, tmp_path_factory.mktemp("parity"))
        return opened[name]

    yield open_one
    for lm, _ in opened.values():
        lm.close()


def _opened(name, folder: Path):
    from edgelm_tools.export import export

    if name in OWN:
        model = seq2seq_model(seq2seq_variant(name))
        for key, value in {"decoder_start_token_id": START, **OWN[name]}.items():
            setattr(model.generation_config, key, value)
    else:
        model = reference_model(DECODERS[name])
    model.generation_config.eos_token_id = ENDS
    write_checkpoint(folder / "checkpoint", model)
    export(folder / "checkpoint", folder / "b", name="m", origin=Source("test:m"), scheme="fp32", report=False)
    return edgelm.load(folder / "b", threads=1, prepack=False), model


def theirs(model, source, **settings):
    """The answers' tokens, without what pads them."""
    import torch

    ids = torch.tensor([source])
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = model.generate(ids, attention_mask=torch.ones_like(ids), **{"do_sample": False, **settings})
    start = 1 if model.config.is_encoder_decoder else len(source)
    return [_without_padding(row[start:].tolist()) for row in out]


def _without_padding(tokens):
    ended = next((place for place, token in enumerate(tokens) if token in ENDS), len(tokens) - 1)
    return tuple(tokens[: ended + 1])


@pytest.mark.parametrize("call", CALLS, ids=str)
@pytest.mark.parametrize("name", [*OWN, *DECODERS])
def test_answers_are_those_of_transformers(open_model, name, call):
    lm, model = open_model(name)
    if name in DECODERS:
        call = {"max_new_tokens": 8, **call}
    expected = [theirs(model, source, **call)[0] for source in sources()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert [lm.generate(source, **call).token_ids for source in sources()] == expected
        assert [answer.token_ids for answer in lm.generate_batch(sources(), **call)] == expected


@pytest.mark.parametrize("name", ["bart", "marian", "t5", "llama"])
def test_several_answers_to_each(open_model, name):
    lm, model = open_model(name)
    call = {"num_beams": 4, "num_return_sequences": 3, "max_new_tokens": 9, "length_penalty": 0.5}
    expected = [answer for source in sources() for answer in theirs(model, source, **call)]
    assert [answer.token_ids for answer in lm.generate_batch(sources(), **call)] == expected


@pytest.mark.parametrize("name", ["mbart", "t5", "gpt2"])
def test_a_stream_is_the_answer(open_model, name):
    lm, model = open_model(name)
    for beams in (1, 3):
        call = {"num_beams": beams, "max_new_tokens": 9}
        stream = lm.stream(sources()[2], **call)
        assert stream.drain().token_ids == theirs(model, sources()[2], **call)[0]


def test_what_the_source_says_is_not_said_again(open_model):
    lm, model = open_model("bart")
    call = {"encoder_no_repeat_ngram_size": 1, "max_new_tokens": 9, "forced_bos_token_id": None}
    source = list(range(5, 80))
    (expected,) = theirs(model, source, **call)
    assert lm.generate(source, **call).token_ids == expected
