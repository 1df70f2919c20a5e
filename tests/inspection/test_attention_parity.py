"""Attention maps are what transformers gives with ``output_attentions=True``: every family, every kind of attention."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.gpt_checkpoints import gpt_variant
from support.tiny_checkpoints import VOCABULARY, reference_model, variant, write_checkpoint
from support.tiny_encoders import Encoder, encoder_variant, reference_encoder, write_encoder
from support.tiny_seq2seq import EOS, PAD, START, seq2seq_model, seq2seq_variant

import edgelm
from edgelm.bundle.bundle import open_bundle
from edgelm.bundle.manifest import Source
from edgelm.encoder_model import load_encoder
from edgelm.inspection.attention import attention_maps
from edgelm.inspection.maps import AttentionMap
from edgelm.inspection.passes import InspectedGraph, decode, encode
from edgelm_tools.export import export

pytestmark = pytest.mark.reference

TOLERANCE = 1e-4
LLAMAS = (
    "llama",
    "llama.one_kv_head",
    "llama.wide_heads",
    "mistral.window",
    "qwen3",
    "phi3.partial",
    "gemma2",
    "granite",
    "olmo2",
    "smollm3",
    "stablelm",
)
GPTS = ("gpt2", "gpt2.scales", "gpt_neox", "opt", "bloom", "bloom.five_heads")
ENCODERS = (
    *("bert", "bert.sequence", "roberta", "distilbert", "electra", "albert.groups", "mpnet", "mpnet.masked"),
    *("deberta-v2", "deberta-v2.convolution"),
)
SEQ2SEQ = ("t5", "t5.silu", "umt5", "bart", "bart.padded_heads", "mbart", "marian.odd", "pegasus", "m2m_100")

Weights = NDArray[np.float32]


def converted(folder: Path, scheme: str = "fp32") -> Path:
    target = folder / scheme
    origin = Source("test:tiny", license="none")
    export(folder / "checkpoint", target, name="tiny", origin=origin, scheme=scheme, report=False)
    return target


def ids_of(length: int, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(10, VOCABULARY, length)


def stacked(attentions: Any) -> Weights:
    """(layers, B, heads, queries, keys)."""
    return np.stack([layer.detach().numpy() for layer in attentions])


def reference(model: Any, **inputs: NDArray[np.int64]) -> Any:
    import torch

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = {name: torch.from_numpy(array) for name, array in inputs.items()}
        return model(**given, output_attentions=True)


def assert_same(ours: AttentionMap, theirs: Weights) -> None:
    """``theirs``: of a batch of one."""
    assert ours.weights.shape == theirs[:, 0].shape
    assert np.abs(ours.weights - theirs[:, 0]).max() < TOLERANCE
    assert np.abs(ours.weights.sum(axis=-1) - 1).max() < 1e-5
    assert ours.layers == tuple(range(len(theirs)))
    assert ours.heads == tuple(range(theirs.shape[2]))


@contextmanager
def decoder(name: str, folder: Path, scheme: str = "fp32") -> Iterator[tuple[edgelm.LanguageModel, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = reference_model(gpt_variant(name) if name in GPTS else variant(name))
        write_checkpoint(folder / "checkpoint", model)
    with edgelm.load(converted(folder, scheme), prepack=False, threads=1) as lm:
        yield lm, model


@pytest.mark.parametrize("name", [*LLAMAS, *GPTS])
def test_decoders(name: str, tmp_path: Path) -> None:
    with decoder(name, tmp_path) as (lm, model):
        ids = ids_of(23)
        found = attention_maps(lm, ids.tolist())
    ours = found.of("decoder")
    assert_same(ours, stacked(reference(model, input_ids=ids[None]).attentions))
    assert np.all(ours.weights[..., ~np.tri(23, dtype=bool)] == 0)
    assert (found.prompt_tokens, found.answer, len(ours.queries)) == (23, "", 23)


@pytest.mark.parametrize("name", ["llama", "bloom"])
def test_tokens_of_an_answer_look_at_what_came_before(name: str, tmp_path: Path) -> None:
    with decoder(name, tmp_path) as (lm, model):
        prompt = ids_of(9)
        answer = lm.generate(prompt.tolist(), max_new_tokens=6).token_ids
        found = attention_maps(lm, prompt.tolist(), max_new_tokens=6)
    whole = np.concatenate((prompt, np.array(answer)))
    assert_same(found.of("decoder"), stacked(reference(model, input_ids=whole[None]).attentions))
    assert found.prompt_tokens == 9


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders(name: str, tmp_path: Path) -> None:
    model = reference_encoder(encoder_variant(name))
    write_encoder(tmp_path / "checkpoint", model)
    with load_encoder(converted(tmp_path), prepack=False, threads=1) as encoder:
        pair = ("the cat sat", "on the mat, ten times")
        (encoding,) = encoder.encode([pair])
        ours = attention_maps(encoder, pair).of("encoder")
    inputs = {"input_ids": np.array([encoding.ids])}
    if any(value.name == "token_type_ids" for value in encoder.bundle.graphs["encoder"].inputs):
        inputs["token_type_ids"] = np.array([encoding.type_ids])
    assert_same(ours, stacked(reference(model, **inputs).attentions))
    assert len(ours.queries) == len(encoding)


def test_of_a_classifier_with_a_decoder_the_encoder_is_shown(tmp_path: Path) -> None:
    sizes = {"encoder_attention_heads": 4, "encoder_layers": 2, "decoder_layers": 1, "decoder_attention_heads": 2}
    tokens = {"pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": None}
    model = reference_encoder(Encoder("bart", "ForSequenceClassification", sizes | tokens | {"d_model": 36}))
    write_encoder(tmp_path / "checkpoint", model)
    with load_encoder(converted(tmp_path), prepack=False, threads=1) as encoder:
        (encoding,) = encoder.encode(["the cat sat"])
        found = attention_maps(encoder, "the cat sat")
    ids = np.append(encoding.ids, 2)[None]
    assert [one.kind for one in found.maps] == ["encoder"]
    mask = np.append(np.ones(len(encoding), np.int64), 0)[None]
    theirs = stacked(reference(model, input_ids=ids, attention_mask=mask).encoder_attentions)
    assert_same(found.of("encoder"), theirs[..., :-1, :-1])


@pytest.mark.parametrize("name", ["bert", "mpnet"])
def test_padding_is_not_looked_at(name: str, tmp_path: Path) -> None:
    model = reference_encoder(encoder_variant(name))
    write_encoder(tmp_path / "checkpoint", model)
    ids, mask = np.full((2, 12), model.config.pad_token_id), np.zeros((2, 12), np.int64)
    for row, length in enumerate((12, 5)):
        ids[row, :length], mask[row, :length] = ids_of(length, row) % 150 + 10, 1
    with InspectedGraph(open_bundle(converted(tmp_path)), "encoder", threads=1, prepack=False) as graph:
        ours, handed = encode(graph, ids, mask)
    theirs = stacked(reference(model, input_ids=ids, attention_mask=mask).attentions)
    seen = mask.astype(bool)
    assert np.abs(ours - theirs).swapaxes(2, 3)[:, seen].max() < TOLERANCE
    assert np.all(ours[:, 1, :, :, 5:] == 0)
    assert handed == {}


@pytest.mark.parametrize("name", SEQ2SEQ)
def test_encoder_decoders(name: str, tmp_path: Path) -> None:
    model = seq2seq_model(seq2seq_variant(name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_checkpoint(tmp_path / "checkpoint", model)
    source = np.append(ids_of(13), EOS)
    with edgelm.load(converted(tmp_path), prepack=False, threads=1) as lm:
        answer = lm.generate(source.tolist(), max_new_tokens=7).token_ids
        found = attention_maps(lm, source.tolist(), max_new_tokens=7)
        alone = attention_maps(lm, source.tolist())
    target = np.array([START, *answer])
    theirs = reference(model, input_ids=source[None], decoder_input_ids=target[None])
    assert_same(found.of("encoder"), stacked(theirs.encoder_attentions))
    assert_same(found.of("decoder"), stacked(theirs.decoder_attentions))
    assert_same(found.of("cross"), stacked(theirs.cross_attentions))
    assert np.all(found.of("decoder").weights[..., ~np.tri(len(target), dtype=bool)] == 0)
    assert found.of("cross").keys == found.of("encoder").keys
    assert found.of("cross").queries == found.of("decoder").queries
    assert [one.kind for one in alone.maps] == ["encoder"]
    assert np.array_equal(alone.of("encoder").weights, found.of("encoder").weights)


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_padding_of_a_source_is_not_looked_at(name: str, tmp_path: Path) -> None:
    model = seq2seq_model(seq2seq_variant(name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_checkpoint(tmp_path / "checkpoint", model)
    bundle = open_bundle(converted(tmp_path))
    source, target = ids_of(11), ids_of(4, 1)
    source[7:], mask = PAD, (np.arange(11) < 7).astype(np.int64)
    with (
        InspectedGraph(bundle, "encoder", threads=1, prepack=False) as encoder,
        InspectedGraph(bundle, "decoder", threads=1, prepack=False) as graph,
    ):
        own, handed = encode(encoder, source[None], mask[None])
        cross = decode(graph, target, handed)["cross"]
    theirs = reference(model, input_ids=source[None], attention_mask=mask[None], decoder_input_ids=target[None])
    assert np.abs(cross - stacked(theirs.cross_attentions)).max() < TOLERANCE
    assert np.abs(own - stacked(theirs.encoder_attentions))[:, :, :, :7].max() < TOLERANCE
    assert np.all(cross[..., 7:] == 0)
    assert np.all(own[..., 7:] == 0)
