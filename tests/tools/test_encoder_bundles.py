"""Encoder checkpoints become bundles: calibrated, measured, and with what sentence-transformers says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.checkpoints import safetensors_bytes, write_folder
from support.tokenizers import word_piece

from edgelm.bundle.bundle import open_bundle
from edgelm.bundle.manifest import Manifest, Pooling, Source
from edgelm.errors import ModelError
from edgelm_tools.architectures.encoder_spec import encoder_spec
from edgelm_tools.architectures.encoder_weights import needed_tensors
from edgelm_tools.export import export

CONFIG: dict[str, Any] = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "vocab_size": 211,
    "hidden_size": 36,
    # Enough for the largest inputs to be computed apart.
    "intermediate_size": 200,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 40,
}
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]


def write_checkpoint(folder: Path, config: dict[str, Any], spikes: float = 20, **files: Any) -> Path:
    random = np.random.default_rng(0)
    tensors = {
        name: (random.normal(size=shape) * 0.2 + name.endswith("LayerNorm.weight")).astype(np.float32)
        for name, shape in needed_tensors(encoder_spec(config))
    }
    # Two inputs of the second product of the MLP are far larger than the others.
    tensors["encoder.layer.0.intermediate.dense.weight"][[3, 150]] *= spikes
    tokenizer = word_piece().to_str().encode()
    weights = {"config.json": config, "model.safetensors": safetensors_bytes(tensors), "tokenizer.json": tokenizer}
    return write_folder(folder, weights | files)


def exported(tmp_path: Path, config: dict[str, Any], scheme: str, spikes: float = 20) -> Manifest:
    write_checkpoint(tmp_path / "checkpoint", config, spikes)
    origin = Source("test:tiny", license="none")
    return export(tmp_path / "checkpoint", tmp_path / "bundle", name="tiny", origin=origin, scheme=scheme)


@pytest.mark.parametrize("scheme", ["int8", "dynamic-int8", "int4"])
def test_a_bare_encoder_is_measured_by_cosines(tmp_path: Path, scheme: str) -> None:
    manifest = exported(tmp_path, CONFIG, scheme)
    assert open_bundle(tmp_path / "bundle").manifest == manifest
    assert manifest.tasks == ("feature-extraction",)
    assert manifest.quantization["scheme"] == scheme
    assert {"int8": 0.99, "dynamic-int8": 0.9, "int4": 0.8}[scheme] < manifest.quality["least_cosine"]
    assert manifest.quality["least_cosine"] <= manifest.quality["cosine"] < 1


def test_calibration_makes_int8_better(tmp_path: Path) -> None:
    cosines = []
    for scheme in ("dynamic-int8", "int8"):
        (tmp_path / scheme).mkdir()
        # Spikes so large that the difference stands far above what another processor's rounding moves.
        cosines.append(exported(tmp_path / scheme, CONFIG, scheme, spikes=200).quality["cosine"])
    assert 1 - cosines[1] < (1 - cosines[0]) / 10


@pytest.mark.parametrize("head", ["SequenceClassification", "TokenClassification", "QuestionAnswering", "MaskedLM"])
def test_heads_are_measured_by_their_distributions(tmp_path: Path, head: str) -> None:
    manifest = exported(tmp_path, CONFIG | {"architectures": [f"BertFor{head}"]}, "int8-block")
    assert manifest.quality.keys() == {"kl", "top1"}
    assert manifest.quality["kl"] < 0.1
    # Random weights hardly prefer one place of an answer to another.
    assert manifest.quality["top1"] > 0.8
    assert open_bundle(tmp_path / "bundle").manifest == manifest


def test_a_score_is_measured_by_its_difference(tmp_path: Path) -> None:
    config = CONFIG | {"architectures": ["BertForSequenceClassification"], "num_labels": 1}
    manifest = exported(tmp_path, config, "int8")
    assert manifest.tasks == ("text-ranking", "text-classification")
    assert 0 < manifest.quality["difference"] < 0.2


def test_sentence_settings_reach_the_bundle(tmp_path: Path) -> None:
    settings = {"modules.json": MODULES, "sentence_bert_config.json": {"max_seq_length": 24}}
    folder = write_checkpoint(tmp_path / "checkpoint", CONFIG, **settings)
    write_folder(folder / "1_Pooling", {"config.json": {"pooling_mode_cls_token": True}})
    origin = Source("test:tiny", license="none")
    manifest = export(folder, tmp_path / "bundle", name="tiny", origin=origin, scheme="fp32", report=False)
    assert manifest.pooling == Pooling("cls", normalize=False)
    assert manifest.context_length == 24
    assert manifest.tasks == ("feature-extraction", "sentence-similarity")


def test_an_encoder_that_was_left_by_its_head_is_a_bare_one(tmp_path: Path) -> None:
    """As in all-mpnet-base-v2, whose configuration names MPNetForMaskedLM."""
    config = CONFIG | {"architectures": ["BertForMaskedLM"]}
    settings = {"config.json": config, "modules.json": MODULES, "tokenizer_config.json": {"model_max_length": 17}}
    folder = write_checkpoint(tmp_path / "checkpoint", CONFIG, **settings)
    write_folder(folder / "1_Pooling", {"config.json": {"pooling_mode_mean_tokens": True}})
    manifest = export(folder, tmp_path / "bundle", name="tiny", origin=Source("test:tiny"), scheme="int8")
    assert manifest.tasks == ("feature-extraction", "sentence-similarity")
    assert manifest.context_length == 17


@pytest.mark.parametrize("scheme", ["fp32", "int8"])
def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path, scheme: str) -> None:
    with pytest.raises(ModelError, match="tiny: the tokenizer has ids up to"):
        exported(tmp_path, CONFIG | {"vocab_size": 50}, scheme)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("scheme", ["fp32", "int8"])
def test_a_broken_tokenizer_is_refused(tmp_path: Path, scheme: str) -> None:
    write_checkpoint(tmp_path / "checkpoint", CONFIG, **{"tokenizer.json": b'{"version": "1.0", "model": {}}'})
    with pytest.raises(ModelError, match=r"tokenizer.json: not a usable tokenizer"):
        export(tmp_path / "checkpoint", tmp_path / "bundle", name="tiny", origin=Source("test:tiny"), scheme=scheme)
    assert not (tmp_path / "bundle").exists()
