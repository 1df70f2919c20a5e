"""Encoder checkpoints that are not what they say are refused by name; odd but sound ones are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.memory_checkpoint import MemoryCheckpoint
from support.tiny_encoders import run_encoder

from edgelm.bundle.manifest import Head
from edgelm.errors import ModelError, UnsupportedModelError
from edgelm.runtime.session import Session
from edgelm_tools.architectures.encoder_model import EncoderModel
from edgelm_tools.architectures.encoder_spec import encoder_spec
from edgelm_tools.architectures.encoder_weights import needed_tensors
from edgelm_tools.export import write_graph
from edgelm_tools.quantize.schemes import SCHEMES, Float32, scheme_named

CONFIG: dict[str, Any] = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "vocab_size": 30,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 16,
}
ALBERT = CONFIG | {"model_type": "albert", "architectures": ["AlbertModel"], "embedding_size": 12}
Tensors = dict[str, NDArray[Any]]


def tensors(config: dict[str, Any] = CONFIG) -> Tensors:
    """Everything that a model of the configuration has."""
    random = np.random.default_rng(0)
    shapes = needed_tensors(encoder_spec(config))
    return {name: (random.normal(size=shape) * 0.3).astype(np.float32) for name, shape in shapes}


def opened(changes: Tensors | None = None, config: dict[str, Any] = CONFIG) -> EncoderModel:
    return EncoderModel(MemoryCheckpoint(tensors(config) | (changes or {}), config))


def hidden(folder: Path, model: EncoderModel, scheme: str = "fp32") -> NDArray[np.float32]:
    write_graph(folder / "encoder.onnx", model, "encoder", model.prepared(scheme_named(scheme), None, folder))
    session = Session(folder / "encoder.onnx", threads=1, spinning=False)
    ids = np.arange(14, dtype=np.int64).reshape(2, 7)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": ids % 2}
    result: NDArray[np.float32] = run_encoder(session, inputs)["last_hidden_state"]
    session.close()
    return result


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
@pytest.mark.parametrize("config", [CONFIG, ALBERT], ids=["bert", "albert"])
def test_every_scheme_is_near_fp32(tmp_path: Path, config: dict[str, Any], scheme: str) -> None:
    exact, rounded = hidden(tmp_path, opened(config=config)), hidden(tmp_path, opened(config=config), scheme)
    cosine = (exact * rounded).sum(-1) / np.linalg.norm(exact, axis=-1) / np.linalg.norm(rounded, axis=-1)
    assert cosine.min() > {"fp32": 0.999999, "int4": 0.9}.get(scheme, 0.99)


@pytest.mark.parametrize("scheme", ["fp32", "int8"])
def test_albert_stores_shared_layers_once(tmp_path: Path, scheme: str) -> None:
    sizes = []
    for layers in (1, 6):
        model = opened(config=ALBERT | {"num_hidden_layers": layers})
        write_graph(tmp_path / "a.onnx", model, "encoder", model.prepared(scheme_named(scheme), None, tmp_path))
        sizes.append((tmp_path / "a.onnx.data").stat().st_size)
    assert sizes[0] == sizes[1]


def test_names_of_old_checkpoints_are_read(tmp_path: Path) -> None:
    kinds = {"weight": "gamma", "bias": "beta"}
    old = {}
    for name, value in tensors().items():
        stem, _, kind = name.rpartition(".")
        old["bert." + (f"{stem}.{kinds[kind]}" if stem.endswith("LayerNorm") else name)] = value
    old["bert.embeddings.position_ids"] = np.arange(16, dtype=np.float32)[None]
    old["cls.seq_relationship.weight"] = np.zeros((2, 24), np.float32)
    model = EncoderModel(MemoryCheckpoint(old, CONFIG))
    assert np.array_equal(hidden(tmp_path, model), hidden(tmp_path, opened()))


def test_a_missing_tensor_is_named() -> None:
    left = tensors()
    del left["encoder.layer.1.output.dense.bias"]
    with pytest.raises(ModelError, match=r"no tensor 'encoder\.layer\.1\.output\.dense\.bias'"):
        EncoderModel(MemoryCheckpoint(left, CONFIG))


def test_a_tensor_of_another_shape_is_named() -> None:
    with pytest.raises(ModelError, match=r"word_embeddings.*\(31, 24\)"):
        opened({"embeddings.word_embeddings.weight": np.zeros((31, 24), np.float32)})


def test_an_unknown_tensor_is_named() -> None:
    with pytest.raises(UnsupportedModelError, match=r"layer\.0\.adapter\.weight"):
        opened({"encoder.layer.0.adapter.weight": np.zeros((2, 2), np.float32)})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_act": "mish"}, "hidden_act 'mish'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'"),
        ({"is_decoder": True}, "is_decoder"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"architectures": ["BertForMultipleChoice"]}, "BertForMultipleChoice"),
        ({"architectures": ["BertLMHeadModel"], "is_decoder": True}, "is_decoder"),
        ({"architectures": ["RobertaForCausalLM"]}, "RobertaForCausalLM"),
        ({"architectures": ["BertForSequenceClassification"], "problem_type": "ranking"}, "problem_type 'ranking'"),
        ({"model_type": "mpnet", "relative_attention_num_buckets": 16}, "relative_attention_num_buckets"),
    ],
)
def test_what_is_not_built_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedModelError, match=named):
        encoder_spec(CONFIG | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_attention_heads": 5},
        {"hidden_size": 0},
        {"architectures": "BertModel"},
        {"architectures": ["BertForTokenClassification"], "id2label": {"1": "a"}},
        {"architectures": ["BertForTokenClassification"], "id2label": {"0": 3}},
        {"model_type": "roberta", "pad_token_id": 40},
    ],
)
def test_unsound_settings_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ModelError):
        encoder_spec(CONFIG | changes)


@pytest.mark.parametrize(
    ("settings", "head"),
    [
        ({}, Head(("LABEL_0", "LABEL_1"))),
        ({"num_labels": 3}, Head(("LABEL_0", "LABEL_1", "LABEL_2"))),
        ({"id2label": {"1": "no", "0": "yes"}}, Head(("yes", "no"))),
        ({"num_labels": 1}, Head(("LABEL_0",), "multi_label_classification")),
        ({"num_labels": 1, "problem_type": "regression"}, Head(("LABEL_0",), "regression")),
        ({"problem_type": "multi_label_classification"}, Head(("LABEL_0", "LABEL_1"), "multi_label_classification")),
    ],
)
def test_labels_follow_the_rules_of_transformers(settings: dict[str, Any], head: Head) -> None:
    assert encoder_spec(CONFIG | {"architectures": ["BertForSequenceClassification"]} | settings).head == head


@pytest.mark.parametrize(
    ("name", "tasks"),
    [
        ("BertModel", ("feature-extraction",)),
        ("BertForMaskedLM", ("fill-mask",)),
        ("BertForPreTraining", ("fill-mask",)),
        ("BertForTokenClassification", ("token-classification",)),
        ("BertForQuestionAnswering", ("question-answering",)),
        ("BertForSequenceClassification", ("text-classification",)),
    ],
)
def test_the_class_decides_the_task(name: str, tasks: tuple[str, ...]) -> None:
    assert opened(config=CONFIG | {"architectures": [name]}).facts.tasks == tasks


def test_one_label_ranks() -> None:
    config = CONFIG | {"architectures": ["BertForSequenceClassification"], "num_labels": 1}
    assert opened(config=config).facts.tasks == ("text-ranking", "text-classification")


def test_fp32_is_not_prepared() -> None:
    assert opened().prepared(Float32(), None, Path()) == Float32()
