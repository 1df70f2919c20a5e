"""A KV cache of int8 with the real model: what it costs in quality, and what it saves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import edgelm
from edgelm.runtime.decoder import Decoder
from edgelm.runtime.int8_cache import cache_scales, scales_by_input
from edgelm.runtime.int8_cache import quantized as round_to
from edgelm_tools.evaluate import compare
from edgelm_tools.quality import Tally, evaluation_text

TOKENS = 2000
# Measured: 0.008 and 0.7 %. Of that KL, 0.007 is what any change makes of int8 weights, however small.
MOST_KL, MOST_PERPLEXITY = 0.01, 1.01
FAR = (2500, 2628)
# Of weights in fp32. Measured: 0.0025.
MOST_CHAT_KL = 0.006
CHAT = [
    {"role": "system", "content": "You are a gardener. Answer in one or two sentences."},
    {"role": "user", "content": "what eats my lettuce? holes in every leaf, and slime"},
    {
        "role": "assistant",
        "content": "Slugs. Water in the morning, not in the evening, and collect them at night.",
    },
    {"role": "user", "content": "And `aphids = 3 * 10**4` on the beans?"},
    {"role": "assistant", "content": "1. Wash them off with water.\n2. Leave the ladybirds alone: each eats 50 a day."},
    {"role": "user", "content": "Danke schön! Was pflanze ich im Oktober?"},
    {"role": "assistant", "content": "Knoblauch, Steckzwiebeln und Spinat; die Beete danach mit Laub bedecken."},
]


@pytest.fixture(scope="module")
def quantized(home: Path) -> Iterator[edgelm.LanguageModel]:
    with _loaded(home, "smollm2") as lm:
        yield lm


@pytest.fixture(scope="module")
def reference(int8: edgelm.LanguageModel) -> Decoder:
    """What one test has read of the evaluation text, the next need not read again."""
    return _decoder(int8, FAR[1])


@pytest.fixture(scope="module")
def ids(int8: edgelm.LanguageModel) -> list[int]:
    return int8.tokenizer.encode(evaluation_text())


def _loaded(home: Path, name: str) -> edgelm.LanguageModel:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGELM_HOME", str(home))
        return edgelm.load(name, kv_cache="int8")


def _decoder(lm: edgelm.LanguageModel, tokens: int) -> Decoder:
    decoder = lm.new_decoder()
    assert isinstance(decoder, Decoder)
    decoder.reserve(tokens)
    return decoder


def test_it_hardly_changes_what_comes_next(quantized: edgelm.LanguageModel, reference: Decoder, ids: list[int]) -> None:
    candidate = _decoder(quantized, FAR[1])
    quality = compare(candidate, reference, [ids[:TOKENS]])
    print(f"KL {quality.kl:.4f}, perplexity {quality.perplexity:.2f} for {quality.reference_perplexity:.2f}")  # noqa: T201
    assert quality.kl <= MOST_KL
    assert quality.perplexity <= MOST_PERPLEXITY * quality.reference_perplexity
    assert [4 * candidate.cache.nbytes, candidate.length] == [reference.cache.nbytes, TOKENS]


def test_far_positions_are_as_good(quantized: edgelm.LanguageModel, reference: Decoder, ids: list[int]) -> None:
    """Far behind those at which scales were measured: keys are turned otherwise there, and must not be cut off.

    Rounding what the other cache holds takes seconds; reading the whole text again would take a minute.
    """
    start, end = FAR
    candidate = _decoder(quantized, end)
    reference.prefill(ids[reference.length : start])
    scales = scales_by_input(cache_scales(quantized.bundle))
    exact = dict(reference.cache.arrays())
    for name, array in candidate.cache.buffers(start):
        array[:] = round_to(exact[name], scales[name][:, None])
    candidate.cache.restore(start, 0, 0)
    tally = Tally()
    for ours, theirs in zip(candidate.all_logits(ids[start:end]), reference.all_logits(ids[start:end]), strict=True):
        tally.add(ours, theirs, np.asarray(ids[start + 1 : start + 1 + len(ours)], np.int64))
        start += len(ours)
    assert tally.quality().kl <= 2 * MOST_KL


def test_conversations_are_as_good(fp32: edgelm.LanguageModel, home: Path) -> None:
    """Beside weights that are not rounded: those would hide what the cache costs behind several times as much."""
    ids = fp32.encode_chat(CHAT)
    with _loaded(home, "smollm2-fp32") as lm:
        quality = compare(_decoder(lm, len(ids)), _decoder(fp32, len(ids)), [ids])
    print(f"KL {quality.kl:.4f} over {len(ids)} tokens of a conversation")  # noqa: T201
    assert quality.kl <= MOST_CHAT_KL


def test_the_report_has_its_quality(quantized: edgelm.LanguageModel) -> None:
    quality = quantized.bundle.manifest.quality
    assert 0 < quality["int8_cache_kl"] <= MOST_KL
    assert quality["int8_cache_perplexity"] <= MOST_PERPLEXITY * quality["perplexity"]
