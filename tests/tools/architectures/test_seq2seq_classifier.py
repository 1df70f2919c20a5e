"""Encoder-decoders that classify: the graph gives transformers' logits, and the pipelines on it its labels."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.memory_checkpoint import MemoryCheckpoint
from support.native_encoder import NativeEncoder, native_encoder
from support.native_graphs import write_native
from support.task_models import TEXTS, Kind, reference_pipeline, roberta_tokenizer, write_task_checkpoint
from support.tiny_encoders import (
    Arrays,
    Encoder,
    padded,
    reference_outputs,
    run_encoder,
)

from edgelm.bundle.manifest import Source
from edgelm.encoder_model import load_encoder
from edgelm.errors import ModelError, UnsupportedModelError
from edgelm.runtime.session import Session
from edgelm.tasks.pipelines import pipeline
from edgelm_tools.architectures.registry import understand
from edgelm_tools.architectures.seq2seq_classifier_model import Seq2SeqClassifierModel
from edgelm_tools.architectures.t5_model import CONTEXT_LENGTH as T5_CONTEXT
from edgelm_tools.export import SCHEMES, export
from edgelm_tools.quantize.schemes import scheme_named

pytestmark = pytest.mark.reference

TOLERANCE = 1e-4
HEAD = "ForSequenceClassification"
PAD, EOS, START, VOCABULARY, CONTEXT = 1, 2, 3, 421, 60
# Other widths and counts in the decoder; the start token is not the end token, as it is in published models.
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 60,
    "hidden_size": 60,
    "encoder_layers": 2,
    "num_hidden_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "num_attention_heads": 4,
    "decoder_attention_heads": 5,
    "encoder_ffn_dim": 70,
    "decoder_ffn_dim": 90,
    "max_position_embeddings": CONTEXT,
    "init_std": 0.15,
    "bos_token_id": 0,
    "pad_token_id": PAD,
    "eos_token_id": EOS,
    "decoder_start_token_id": START,
    "forced_eos_token_id": None,
}
LABELS = {"contradiction": 0, "neutral": 1, "entailment": 2}
NLI = {"id2label": {index: label for label, index in LABELS.items()}, "label2id": LABELS}
# Under both names that transformers has for a size: those of encoders' tests are given, too.
T5: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    **dict.fromkeys(("d_model", "hidden_size"), 44),
    **dict.fromkeys(("num_layers", "num_hidden_layers"), 2),
    **dict.fromkeys(("num_heads", "num_attention_heads"), 3),
    "num_decoder_layers": 3,
    "d_kv": 12,
    "d_ff": 70,
    "relative_attention_num_buckets": 12,
    "relative_attention_max_distance": 20,
    "layer_norm_epsilon": 3e-3,
    "initializer_factor": 1.3,
    "pad_token_id": PAD,
    "eos_token_id": EOS,
    "decoder_start_token_id": START,
}
VARIANTS = (
    Encoder("bart", HEAD, SIZES | NLI),
    Encoder(
        "bart.scaled_untied", HEAD, SIZES | {"scale_embedding": True, "tie_word_embeddings": False, "num_labels": 5}
    ),
    Encoder("bart.one_layer", HEAD, SIZES | {"decoder_layers": 1, "activation_function": "relu", "num_labels": 1}),
    Encoder("mbart", HEAD, SIZES | {"num_labels": 4}),
    Encoder("t5", HEAD, T5),
    Encoder("t5.gated_untied", HEAD, T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    Encoder("t5.one_layer", HEAD, T5 | {"num_decoder_layers": 1, "num_labels": 1}),
    Encoder("mt5", HEAD, T5 | {"num_labels": 5}),
    Encoder("umt5", HEAD, T5 | {"relative_attention_num_buckets": 7}),
)
BY_DEFAULT = {"bart": 3}


@pytest.fixture(scope="module", params=VARIANTS, ids=str)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeEncoder]:
    with native_encoder(request.param, tmp_path_factory.mktemp("case")) as made:
        yield made


def run(case: NativeEncoder, *rows: NDArray[np.int64]) -> Arrays:
    return run_encoder(case.session, inputs_of(rows))


def inputs_of(rows: tuple[NDArray[np.int64], ...]) -> Arrays:
    ids, mask = padded(rows, fill=PAD)
    return {"input_ids": ids, "attention_mask": mask}


def pair(length: int, seed: int = 0) -> NDArray[np.int64]:
    """Two texts as the tokenizer joins them: ``<s> … </s></s> … </s>``."""
    words = np.random.default_rng(seed).integers(5, VOCABULARY, length - 4)
    cut = len(words) // 3
    return np.array([0, *words[:cut], EOS, EOS, *words[cut:], EOS])


def error(ours: Arrays, theirs: Arrays) -> float:
    assert ours.keys() == theirs.keys() == {"logits"}
    assert ours["logits"].shape == theirs["logits"].shape
    return float(np.abs(ours["logits"] - theirs["logits"]).max())


@pytest.mark.parametrize("length", [4, 7, CONTEXT])
def test_logits_are_those_of_transformers(case: NativeEncoder, length: int) -> None:
    row = pair(length, length)
    assert error(run(case, row), reference_outputs(case.model, inputs_of((row,)))) < TOLERANCE


def test_a_padded_batch_is_that_of_transformers_and_its_rows_are_single_texts(case: NativeEncoder) -> None:
    rows = pair(9, 1), pair(CONTEXT, 2), pair(4, 3), pair(31, 4)
    together = run(case, *rows)
    assert error(together, reference_outputs(case.model, inputs_of(rows))) < TOLERANCE
    for i, row in enumerate(rows):
        assert error(run(case, row), {"logits": together["logits"][i : i + 1]}) < TOLERANCE


def test_the_last_end_token_counts(case: NativeEncoder) -> None:
    """Of several in a row, and not one that stands in the padding, where ids may be anything."""
    row = np.array([0, 9, EOS, 7, EOS, EOS, EOS])
    expected = run(case, row)["logits"]
    assert error({"logits": expected}, reference_outputs(case.model, inputs_of((row,)))) < TOLERANCE
    assert np.abs(run(case, row[:-1])["logits"] - expected).max() > 100 * TOLERANCE
    inputs = {"input_ids": np.array([[*row, EOS, EOS]]), "attention_mask": np.array([[1] * len(row) + [0, 0]])}
    assert error(run_encoder(case.session, inputs), {"logits": expected}) < TOLERANCE


def test_tokens_behind_the_last_end_do_not_end_the_text(case: NativeEncoder) -> None:
    """As the language of mBART's texts, which is the first token of its decoder, too."""
    rows = np.array([0, 9, EOS, 7, EOS, 11]), np.array([0, EOS, 17, 30, 8, 25, EOS, 40, 12])
    together = run(case, *rows)
    assert error(together, reference_outputs(case.model, inputs_of(rows))) < TOLERANCE
    assert error(run(case, rows[0]), {"logits": together["logits"][:1]}) < TOLERANCE


def test_without_an_end_token_the_last_token_counts(case: NativeEncoder) -> None:
    """transformers refuses such a text; what is said of it must not depend on the padding."""
    row = np.array([0, 9, 17, 30])
    alone = run(case, row)["logits"]
    assert np.abs(alone - run(case, row[:-1])["logits"]).max() > 100 * TOLERANCE
    among = run(case, row, pair(20))["logits"][:1]
    assert error({"logits": among}, {"logits": alone}) < TOLERANCE


def test_facts(case: NativeEncoder) -> None:
    model = understand(case.checkpoint)
    assert isinstance(model, Seq2SeqClassifierModel)
    facts = model.facts
    assert (facts.family, facts.architecture) == ("encoder", case.checkpoint.config["model_type"])
    assert facts.tasks == ("text-classification",)
    assert facts.context_length == (T5_CONTEXT if "t5" in facts.architecture else CONTEXT)
    assert facts.head is not None
    assert facts.head.labels == tuple(case.model.config.id2label.values())
    assert model.parameters() == sum(p.numel() for p in case.model.parameters())
    assert set(case.session.inputs) == {"input_ids", "attention_mask"}


def test_labels_are_as_many_as_usual_unless_said_otherwise(case: NativeEncoder) -> None:
    config = {name: value for name, value in case.checkpoint.config.items() if name not in ("id2label", "num_labels")}
    tensors = {name: case.checkpoint.tensor(name) for name in case.checkpoint.names()}
    usual = BY_DEFAULT.get(config["model_type"], 2)
    if len(tensors["classification_head.out_proj.bias"]) == usual:
        facts = understand(MemoryCheckpoint(tensors, config)).facts
        assert facts.head is not None
        assert facts.head.labels == tuple(f"LABEL_{i}" for i in range(usual))
    else:
        with pytest.raises(ModelError, match="out_proj"):
            understand(MemoryCheckpoint(tensors, config))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda t, c: t.pop("classification_head.dense.bias"), ModelError, "classification_head.dense.bias"),
        (lambda t, c: t.update({"other.weight": np.zeros(3)}), UnsupportedModelError, "other.weight"),
        (lambda t, c: c.update(eos_token_id=VOCABULARY), ModelError, "eos_token_id"),
        (lambda t, c: c.update(problem_type="ranking"), UnsupportedModelError, "problem_type"),
        (lambda t, c: c.update(model_type="pegasus"), UnsupportedModelError, "pegasus"),
    ],
)
def test_unsound_checkpoints_are_refused(
    case: NativeEncoder, change: Any, error: type[ModelError], message: str
) -> None:
    tensors = {name: case.checkpoint.tensor(name) for name in case.checkpoint.names()}
    config = dict(case.checkpoint.config)
    change(tensors, config)
    with pytest.raises(error, match=message):
        understand(MemoryCheckpoint(tensors, config))


@pytest.mark.parametrize("name", sorted(set(SCHEMES) - {"fp32"}))
def test_quantized_logits_stay_near(case: NativeEncoder, name: str, tmp_path: Path) -> None:
    used = write_native(tmp_path / "encoder.onnx", case.checkpoint, scheme_named(name), role="encoder")
    assert used.name == ("int8-block" if name == "int8" else name)
    session = Session(tmp_path / "encoder.onnx", threads=1, spinning=False)
    rows = tuple(pair(length, length) for length in (8, 20, 41))
    expected = run(case, *rows)["logits"]
    difference = np.abs(run_encoder(session, inputs_of(rows))["logits"] - expected).max()
    session.close()
    # Of models whose weights are noise, in standard deviations of their logits over texts and labels. T5's scores are
    # not divided by the size of its heads, so that rounding moves more of its attention.
    most = {"int8-block": 0.1, "dynamic-int8": 0.3, "int4": 2.0}[used.name]
    most *= 4 if "t5" in case.checkpoint.config["model_type"] else 1
    assert 0 < difference < most * max(1, expected.std())


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint with a tokenizer, and its bundle."""
    root = tmp_path_factory.mktemp("pipelines")
    roles = {"cls_token": "<s>", "sep_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    kind = Kind("bart", roberta_tokenizer, roles, SIZES | NLI)
    checkpoint = write_task_checkpoint(root / "checkpoint", kind, HEAD)
    export(checkpoint, root / "bundle", name="tiny", origin=Source("test:tiny"), scheme="fp32", report=True)
    return checkpoint, root / "bundle"


def test_the_report_says_what_quantization_cost(folders: tuple[Path, Path]) -> None:
    assert json.loads((folders[1] / "report.json").read_text())["top1"] == 1


@pytest.mark.parametrize("settings", [{}, {"multi_label": True}, {"hypothesis_template": "It is on {}."}], ids=str)
def test_any_labels_are_given_as_by_transformers(folders: tuple[Path, Path], settings: dict[str, Any]) -> None:
    theirs = reference_pipeline("zero-shot-classification", folders[0])
    texts = [text for text in TEXTS if text.strip()]
    with load_encoder(folders[1], prepack=False, threads=1) as model, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = pipeline("zero-shot-classification", model)
        for inputs in (texts, [" ".join(texts) * 3]):
            found, expected = (call(inputs, ["dogs", "foxes", "sea"], **settings) for call in (ours, theirs))
            for one, other in zip(found, expected, strict=True):
                assert one["labels"] == other["labels"]
                np.testing.assert_allclose(one["scores"], other["scores"], atol=1e-3)
