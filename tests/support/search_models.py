"""Tiny checkpoints of every kind that searches, converted, beside transformers' models of them."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from support.gpt_checkpoints import GPT_VARIANTS
from support.tiny_checkpoints import VOCABULARY, reference_model, variant, write_checkpoint
from support.tiny_seq2seq import EOS, PAD, START, seq2seq_model, seq2seq_variant

import edgelm
from edgelm.bundle.manifest import Source

# Many, so that random weights end answers.
ENDS = [EOS, *range(100, 130)]
_LANGUAGE = 41

# What the encoder-decoders' own generation_config.json say, by name.
OWN: dict[str, dict[str, Any]] = {
    "bart": {"forced_bos_token_id": 0, "forced_eos_token_id": EOS, "num_beams": 4, "early_stopping": True}
    | {"length_penalty": 2.0, "max_length": 14, "min_length": 6, "no_repeat_ngram_size": 3},
    "bart.scaled_untied": {"forced_eos_token_id": EOS, "decoder_start_token_id": EOS, "max_length": 12},
    "marian": {"bad_words_ids": [[PAD]], "num_beams": 4, "max_length": 16, "decoder_start_token_id": PAD}
    | {"forced_eos_token_id": EOS},
    "mbart": {"forced_bos_token_id": _LANGUAGE, "forced_eos_token_id": EOS, "num_beams": 5, "max_length": 12}
    | {"early_stopping": True},
    "m2m_100": {"forced_bos_token_id": _LANGUAGE, "num_beams": 5, "max_length": 15, "early_stopping": True}
    | {"decoder_start_token_id": EOS},
    "pegasus": {"length_penalty": 0.8, "num_beams": 8, "max_length": 13, "forced_eos_token_id": EOS},
    "t5": {"decoder_start_token_id": PAD, "max_length": 18},
    "t5.gated_untied": {"max_new_tokens": 12, "repetition_penalty": 1.3},
    "umt5": {"max_new_tokens": 12, "suppress_tokens": [7, 8], "begin_suppress_tokens": [9, EOS]},
}
# Rotary, looked-up and no positions.
DECODERS = {v.name: v for v in (variant("llama"), *GPT_VARIANTS) if v.name in ("llama", "gpt2", "bloom")}
_LENGTHS = (7, 1, 19, 12)


def sources() -> list[list[int]]:
    """Sources or prompts of several lengths."""
    random = np.random.default_rng(11)
    return [random.integers(5, VOCABULARY, length).tolist() for length in _LENGTHS]


def open_both(name: str, folder: Path) -> tuple[edgelm.LanguageModel, Any]:
    """The converted model and transformers' of ``OWN`` or ``DECODERS``."""
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


def answers(model: Any, source: list[int], *, ends: Collection[int] = ENDS, **settings: Any) -> list[tuple[int, ...]]:
    """The tokens of transformers' answers to one source, without what pads them."""
    rows = _generate(model, source, settings).sequences
    return _tokens(model, source, rows, ends)


def answers_and_scores(
    model: Any, source: list[int], *, ends: Collection[int] = ENDS, **settings: Any
) -> tuple[list[tuple[int, ...]], list[float]]:
    """The same of beams, with their scores."""
    found = _generate(model, source, settings)
    return _tokens(model, source, found.sequences, ends), found.sequences_scores.tolist()


def _generate(model: Any, source: list[int], settings: dict[str, Any]) -> Any:
    import torch

    ids = torch.tensor([source])
    asked = {"do_sample": False, "return_dict_in_generate": True, "output_scores": True, **settings}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.generate(ids, attention_mask=torch.ones_like(ids), **asked)


def _tokens(model: Any, source: list[int], rows: Any, ends: Collection[int]) -> list[tuple[int, ...]]:
    start = 1 if model.config.is_encoder_decoder else len(source)
    return [_without_padding(row[start:].tolist(), ends) for row in rows]


def _without_padding(tokens: list[int], ends: Collection[int]) -> tuple[int, ...]:
    ended = next((place for place, token in enumerate(tokens) if token in ends), len(tokens) - 1)
    return tuple(tokens[: ended + 1])
