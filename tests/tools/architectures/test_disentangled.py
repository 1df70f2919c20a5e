"""How DeBERTa's configurations are read, and which row of the table of distances each distance has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.memory_checkpoint import MemoryCheckpoint
from support.tiny_encoders import run_encoder

from edgelm.errors import ModelError, UnsupportedModelError
from edgelm.runtime.session import Session
from edgelm_tools.architectures.disentangled import Disentangled
from edgelm_tools.architectures.encoder_model import EncoderModel
from edgelm_tools.architectures.encoder_spec import EncoderSpec, encoder_spec
from edgelm_tools.architectures.encoder_weights import needed_tensors
from edgelm_tools.export import write_graph
from edgelm_tools.quantize.schemes import SCHEMES, scheme_named

V3: dict[str, Any] = {
    "model_type": "deberta-v2",
    "vocab_size": 30,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 50,
    "relative_attention": True,
    "position_biased_input": False,
    "pos_att_type": "p2c|c2p",
    "position_buckets": 8,
    "max_relative_positions": -1,
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
}
# As in xlarge.
V2 = V3 | {"conv_kernel_size": 3, "conv_act": "gelu", "attention_head_size": 8, "pooler_hidden_size": 24}
MASKED = {"architectures": ["DebertaV2ForMaskedLM"]}
Tensors = dict[str, NDArray[Any]]


def tensors(spec: EncoderSpec) -> Tensors:
    random = np.random.default_rng(0)
    return {name: (random.normal(size=shape) * 0.3).astype(np.float32) for name, shape in needed_tensors(spec)}


def opened(config: dict[str, Any], more: Tensors | None = None) -> EncoderModel:
    return EncoderModel(MemoryCheckpoint(tensors(encoder_spec(config)) | (more or {}), config))


def outputs(folder: Path, model: EncoderModel, scheme: str = "fp32", tokens: int = 40) -> Tensors:
    write_graph(folder / "encoder.onnx", model, "encoder", model.prepared(scheme_named(scheme), None, folder))
    session = Session(folder / "encoder.onnx", threads=1, spinning=False)
    ids = np.random.default_rng(1).integers(0, 30, (2, tokens))
    made: Tensors = run_encoder(session, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    session.close()
    return made


def settings(buckets: int, longest: int) -> Disentangled:
    return Disentangled(
        terms=("c2p",), half=buckets or longest, buckets=buckets, longest=longest, shared=True, normed=False
    )


@pytest.fixture(scope="module")
def bucketed() -> Any:
    """transformers' own function."""
    pytest.importorskip("torch")
    return pytest.importorskip("transformers.models.deberta_v2.modeling_deberta_v2").make_log_bucket_position


@pytest.mark.reference
@hypothesis.settings(deadline=None)  # the first calls compile it
@given(buckets=st.integers(2, 520), longest=st.integers(3, 2000), context=st.integers(0, 1200))
def test_far_distances_share_rows_as_in_transformers(bucketed: Any, buckets: int, longest: int, context: int) -> None:
    import torch

    longest += buckets // 2
    expected = bucketed(torch.arange(-context, context + 1), buckets, longest).to(torch.long)
    expected = torch.clamp(expected + buckets, 0, 2 * buckets - 1)
    assert settings(buckets, longest).rows(context).tolist() == expected.tolist()


@given(st.integers(0, 300), st.integers(3, 600), st.integers(0, 600))
def test_rows_never_fall_with_the_distance_and_are_in_the_table(buckets: int, longest: int, context: int) -> None:
    longest, buckets = longest + buckets // 2, buckets if buckets > 1 else 0
    rows = settings(buckets, longest).rows(context)
    half = buckets or longest
    assert rows.shape == (2 * context + 1,)
    assert rows[context] == half
    assert (np.diff(rows) >= 0).all()
    assert 0 <= rows[0] <= rows[-1] < 2 * half


def test_without_buckets_distances_beyond_the_longest_share_its_row() -> None:
    assert settings(0, 3).rows(5).tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 5, 5, 5]


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
@pytest.mark.parametrize("config", [V3, V2], ids=["v3", "v2"])
def test_every_scheme_is_near_fp32(tmp_path: Path, config: dict[str, Any], scheme: str) -> None:
    exact = outputs(tmp_path, opened(config))["last_hidden_state"]
    rounded = outputs(tmp_path, opened(config), scheme)["last_hidden_state"]
    cosine = (exact * rounded).sum(-1) / np.linalg.norm(exact, axis=-1) / np.linalg.norm(rounded, axis=-1)
    assert cosine.min() > {"fp32": 0.999999, "int4": 0.9}.get(scheme, 0.98)


@pytest.mark.parametrize("scheme", ["fp32", "int8"])
def test_tables_of_distances_are_stored_as_embeddings_are(tmp_path: Path, scheme: str) -> None:
    sizes = []
    for buckets in (8, 40):
        outputs(tmp_path, opened(V3 | {"position_buckets": buckets}), scheme)
        sizes.append((tmp_path / "encoder.onnx.data").stat().st_size)
    values = 2 * 2 * 2 * 32 * 24  # of two layers, two terms each, both ways
    assert sizes[1] - sizes[0] == pytest.approx({"fp32": 4, "int8": 1.5}[scheme] * values, abs=4 * 4096)


@pytest.mark.parametrize("tokens", [1, 2, 50])
def test_texts_of_any_length_are_read(tmp_path: Path, tokens: int) -> None:
    made = outputs(tmp_path, opened(V2), tokens=tokens)["last_hidden_state"]
    assert made.shape == (2, tokens, 24)
    assert np.isfinite(made).all()


def test_tensors_of_what_is_switched_off_are_left_out(tmp_path: Path) -> None:
    """As in the checkpoints of v3, with the head they were trained with, and vectors of positions."""
    spare = {
        "deberta.embeddings.position_embeddings.weight": np.ones((50, 24), np.float32),
        "lm_predictions.lm_head.dense.weight": np.ones((24, 24), np.float32),
        "mask_predictions.classifier.bias": np.ones(1, np.float32),
    }
    plain, more = outputs(tmp_path, opened(V3)), outputs(tmp_path, opened(V3, spare))
    assert np.array_equal(plain["last_hidden_state"], more["last_hidden_state"])
    absolute = V3 | {"relative_attention": False, "position_biased_input": True}
    unused = {"encoder.rel_embeddings.weight": np.ones((16, 24), np.float32)}
    assert opened(absolute, unused).facts.footprint.attention == "scores"


def test_the_newer_head_shares_the_table_of_words_whatever_the_configuration_says(tmp_path: Path) -> None:
    newer = V3 | MASKED | {"legacy": False}
    tied, untied = (opened(newer | {"tie_word_embeddings": tied}) for tied in (True, False))
    assert np.array_equal(outputs(tmp_path, tied)["logits"], outputs(tmp_path, untied)["logits"])
    assert "lm_predictions.lm_head.dense.weight" in dict(needed_tensors(untied.spec))
    assert "cls.predictions.transform.dense.weight" in dict(needed_tensors(encoder_spec(V3 | MASKED)))


def test_memory_is_reckoned_for_the_terms() -> None:
    assert opened(V3).facts.footprint.attention == "disentangled scores"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"pos_att_type": ["p2p"]}, "pos_att_type 'p2p' is not known; known are c2p, p2c"),
        ({"norm_rel_ebd": "rms"}, "norm_rel_ebd 'rms'"),
        ({"embedding_size": 12}, "embedding_size must be 24"),
        ({"pooler_hidden_size": 12}, "pooler_hidden_size must be 24"),
        ({"attention_head_size": 12}, "attention_head_size must be 8"),
        ({"pooler_hidden_act": "mish"}, "pooler_hidden_act 'mish'"),
        ({"conv_kernel_size": 3, "conv_act": "mish"}, "conv_act 'mish'"),
        ({"conv_kernel_size": 3, "conv_groups": 2}, "conv_groups must be 1"),
        ({"conv_kernel_size": 3, "num_hidden_layers": 1}, "model of one layer"),
    ],
)
def test_what_is_not_built_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedModelError, match=named):
        encoder_spec(V3 | changes)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"pos_att_type": 3}, "pos_att_type must be a list of names, not 3"),
        ({"pos_att_type": ["c2p", 3]}, "pos_att_type must be a list of names"),
        ({"position_buckets": 98}, "position_buckets must be from 2 to 97, not 98"),
        ({"position_buckets": 1}, "position_buckets must be from 2 to 97, not 1"),
        ({"position_buckets": 1 << 21}, "position_buckets must be a whole number"),
        ({"max_relative_positions": 1 << 21}, "max_relative_positions must be a whole number"),
        ({"max_position_embeddings": 1 << 21}, "max_position_embeddings must be a whole number"),
        ({"relative_attention": 1}, "relative_attention must be true or false"),
        ({"conv_kernel_size": 4}, "conv_kernel_size must be odd, not 4"),
        ({"conv_kernel_size": 65}, "conv_kernel_size must be a whole number from 1 to 63"),
    ],
)
def test_unsound_settings_are_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelError, match=named):
        encoder_spec(V3 | changes)


def test_a_table_of_another_size_is_named() -> None:
    with pytest.raises(
        ModelError, match=r"rel_embeddings.weight' has shape \(18, 24\); by config.json it is \(16, 24\)"
    ):
        opened(V3, {"encoder.rel_embeddings.weight": np.zeros((18, 24), np.float32)})
