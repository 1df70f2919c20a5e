"""BartForSequenceClassification: one graph gives transformers' logits, and the pipelines on it transformers' labels."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.memory_checkpoint import MemoryCheckpoint
from support.native_graphs import write_native
from support.task_models import TEXTS, Kind, reference_pipeline, roberta_tokenizer, write_task_checkpoint
from support.tiny_encoders import (
    Arrays,
    Encoder,
    padded,
    reference_encoder,
    reference_outputs,
    run_encoder,
    write_encoder,
)

from edgelm.bundle.manifest import Source
from edgelm.encoder_model import load_encoder
from edgelm.errors import ModelError, UnsupportedModelError
from edgelm.runtime.session import Session
from edgelm.tasks.pipelines import pipeline
from edgelm_tools.architectures.bart_classifier_model import BartClassifierModel
from edgelm_tools.architectures.registry import understand
from edgelm_tools.checkpoint import Checkpoint, open_checkpoint
from edgelm_tools.export import SCHEMES, export
from edgelm_tools.quantize.schemes import Float32, scheme_named

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
VARIANTS = (
    Encoder("bart", HEAD, SIZES | NLI),
    Encoder(
        "bart.scaled_untied", HEAD, SIZES | {"scale_embedding": True, "tie_word_embeddings": False, "num_labels": 5}
    ),
    Encoder("bart.one_layer", HEAD, SIZES | {"decoder_layers": 1, "activation_function": "relu", "num_labels": 1}),
)


@dataclass(frozen=True)
class Case:
    model: Any
    checkpoint: Checkpoint
    session: Session

    def run(self, *rows: NDArray[np.int64]) -> Arrays:
        return run_encoder(self.session, inputs_of(rows))


@pytest.fixture(scope="module", params=VARIANTS, ids=str)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    folder = tmp_path_factory.mktemp("case")
    model = reference_encoder(request.param)
    checkpoint = open_checkpoint(write_encoder(folder / "checkpoint", model))
    write_native(folder / "encoder.onnx", checkpoint, Float32(), role="encoder")
    session = Session(folder / "encoder.onnx", threads=1, spinning=False)
    yield Case(model, checkpoint, session)
    session.close()
    checkpoint.close()


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
def test_logits_are_those_of_transformers(case: Case, length: int) -> None:
    row = pair(length, length)
    assert error(case.run(row), reference_outputs(case.model, inputs_of((row,)))) < TOLERANCE


def test_a_padded_batch_is_that_of_transformers_and_its_rows_are_single_texts(case: Case) -> None:
    rows = pair(9, 1), pair(CONTEXT, 2), pair(4, 3), pair(31, 4)
    together = case.run(*rows)
    assert error(together, reference_outputs(case.model, inputs_of(rows))) < TOLERANCE
    for i, row in enumerate(rows):
        assert error(case.run(row), {"logits": together["logits"][i : i + 1]}) < TOLERANCE


def test_the_last_end_token_counts(case: Case) -> None:
    """Of several in a row, and not one that stands in the padding, where ids may be anything."""
    row = np.array([0, 9, EOS, 7, EOS, EOS, EOS])
    expected = case.run(row)["logits"]
    assert error({"logits": expected}, reference_outputs(case.model, inputs_of((row,)))) < TOLERANCE
    assert np.abs(case.run(row[:-1])["logits"] - expected).max() > 100 * TOLERANCE
    inputs = {"input_ids": np.array([[*row, EOS, EOS]]), "attention_mask": np.array([[1] * len(row) + [0, 0]])}
    assert error(run_encoder(case.session, inputs), {"logits": expected}) < TOLERANCE


def test_without_an_end_token_the_last_token_counts(case: Case) -> None:
    """transformers refuses such a text; what is said of it must not depend on the padding."""
    row = np.array([0, 9, 17, 30])
    alone = case.run(row)["logits"]
    assert np.abs(alone - case.run(row[:-1])["logits"]).max() > 100 * TOLERANCE
    among = case.run(row, pair(20))["logits"][:1]
    assert error({"logits": among}, {"logits": alone}) < TOLERANCE


def test_facts(case: Case) -> None:
    model = understand(case.checkpoint)
    assert isinstance(model, BartClassifierModel)
    facts = model.facts
    assert (facts.family, facts.architecture, facts.tasks) == ("encoder", "bart", ("text-classification",))
    assert facts.context_length == CONTEXT
    assert facts.head is not None
    assert facts.head.labels == tuple(case.model.config.id2label.values())
    assert model.parameters() == sum(p.numel() for p in case.model.parameters())
    assert set(case.session.inputs) == {"input_ids", "attention_mask"}


def test_labels_are_three_unless_said_otherwise(case: Case) -> None:
    config = {name: value for name, value in case.checkpoint.config.items() if name not in ("id2label", "num_labels")}
    tensors = {name: case.checkpoint.tensor(name) for name in case.checkpoint.names()}
    if len(tensors["classification_head.out_proj.bias"]) == 3:
        facts = understand(MemoryCheckpoint(tensors, config)).facts
        assert facts.head is not None
        assert facts.head.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    else:
        with pytest.raises(ModelError, match="out_proj"):
            understand(MemoryCheckpoint(tensors, config))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda t, c: t.pop("classification_head.dense.bias"), ModelError, "classification_head.dense.bias"),
        (lambda t, c: t.update({"other.weight": t["model.shared.weight"]}), UnsupportedModelError, "other.weight"),
        (lambda t, c: c.update(eos_token_id=VOCABULARY), ModelError, "eos_token_id"),
        (lambda t, c: c.update(problem_type="ranking"), UnsupportedModelError, "problem_type"),
        (lambda t, c: c.update(model_type="pegasus"), UnsupportedModelError, "pegasus"),
    ],
)
def test_unsound_checkpoints_are_refused(case: Case, change: Any, error: type[ModelError], message: str) -> None:
    tensors = {name: case.checkpoint.tensor(name) for name in case.checkpoint.names()}
    config = dict(case.checkpoint.config)
    change(tensors, config)
    with pytest.raises(error, match=message):
        understand(MemoryCheckpoint(tensors, config))


@pytest.mark.parametrize("name", sorted(set(SCHEMES) - {"fp32"}))
def test_quantized_logits_stay_near(case: Case, name: str, tmp_path: Path) -> None:
    used = write_native(tmp_path / "encoder.onnx", case.checkpoint, scheme_named(name), role="encoder")
    assert used.name == ("int8-block" if name == "int8" else name)
    session = Session(tmp_path / "encoder.onnx", threads=1, spinning=False)
    rows = tuple(pair(length, length) for length in (8, 20, 41))
    expected = case.run(*rows)["logits"]
    difference = np.abs(run_encoder(session, inputs_of(rows))["logits"] - expected).max()
    session.close()
    # Of models whose weights are noise, in standard deviations of their logits over texts and labels.
    assert 0 < difference < {"int8-block": 0.1, "dynamic-int8": 0.3, "int4": 2.0}[used.name] * max(1, expected.std())


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
