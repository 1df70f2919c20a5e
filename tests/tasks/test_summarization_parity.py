"""Summaries of an encoder-decoder: the settings that its authors suggest for them, as transformers' pipeline has it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from support.tiny_checkpoints import write_checkpoint
from support.tiny_seq2seq import EOS, START, seq2seq_model, seq2seq_variant

import edgelm
from edgelm.bundle.manifest import Source
from edgelm.tasks.summarization import Summarizer

pytestmark = pytest.mark.reference

SUGGESTED = {"num_beams": 3, "max_length": 12, "min_length": 5, "no_repeat_ngram_size": 2, "prefix": "summarize: "}
TEXT = "The committee met on Monday. It decided nothing. Everybody went home early."


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[edgelm.LanguageModel, Any]]:
    """A converted BART, and transformers' own."""
    from edgelm_tools.export import export

    folder = tmp_path_factory.mktemp("bart")
    model = seq2seq_model(seq2seq_variant("bart"))
    model.generation_config.decoder_start_token_id = START
    model.config.task_specific_params = {"summarization": SUGGESTED}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_checkpoint(folder / "checkpoint", model)
    origin = Source("test:tiny", license="none")
    export(folder / "checkpoint", folder / "bundle", name="tiny", origin=origin, scheme="fp32", report=False)
    with edgelm.load(folder / "bundle", prepack=False) as lm:
        yield lm, model


def reference(model: Any, ids: list[int], **settings: Any) -> list[int]:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = model.generate(torch.tensor([ids]), **settings)
    return [int(token) for token in out[0][1:] if int(token) not in (0,)]


def test_the_authors_settings_hold(models: tuple[edgelm.LanguageModel, Any]) -> None:
    lm, model = models
    summary = Summarizer(lm).summarize(TEXT)
    settings = {name: value for name, value in SUGGESTED.items() if name != "prefix"}
    expected = reference(model, lm.tokenizer.encode(f"summarize: {TEXT}"), **settings)
    assert list(summary.answers[0].token_ids) == expected
    assert EOS not in expected[:-1]


def test_settings_of_the_call_come_first(models: tuple[edgelm.LanguageModel, Any]) -> None:
    lm, model = models
    summary = Summarizer(lm, max_new_tokens=4, num_beams=1).summarize(TEXT)
    expected = reference(
        model, lm.tokenizer.encode(f"summarize: {TEXT}"), max_new_tokens=4, num_beams=1, no_repeat_ngram_size=2
    )
    assert list(summary.answers[0].token_ids) == expected


def test_a_long_text_is_parted_to_what_the_encoder_takes(models: tuple[edgelm.LanguageModel, Any]) -> None:
    lm, _ = models
    summary = Summarizer(lm, max_new_tokens=6).summarize(f"{TEXT} " * 4)
    assert summary.parts > 1
    assert len(summary.answers) > summary.parts
    longest = lm.bundle.manifest.source_length
    assert longest is not None
    assert all(answer.usage.prompt_tokens <= longest for answer in summary.answers)
