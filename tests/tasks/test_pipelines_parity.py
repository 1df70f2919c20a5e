"""Pipelines over whole texts give what transformers' give for the same checkpoint."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.task_models import DEBERTA, KINDS, TEXTS, Kind, reference_pipeline, write_task_checkpoint
from support.tiny_checkpoints import Variant, reference_model, write_checkpoint
from support.tokenizers import byte_level

from edgelm.bundle.manifest import Source
from edgelm.encoder_model import EncoderModel, load_encoder
from edgelm.tasks.pipelines import pipeline
from edgelm_tools.export import export

pytestmark = pytest.mark.reference

TOLERANCE = 1e-3
LABELS = {"contradiction": 0, "neutral": 1, "Entailment": 2}
CLASSIFIERS = (*KINDS[:2], DEBERTA)
# Every head that decides for itself what is made of its logits.
HEADS: dict[str, dict[str, Any]] = {
    "nli": {"id2label": {index: label for label, index in LABELS.items()}, "label2id": LABELS},
    "multi": {"num_labels": 4, "problem_type": "multi_label_classification"},
    "single": {"num_labels": 1},
    "regression": {"num_labels": 1, "problem_type": "regression"},
}
PAIR = {"text": "The quick brown fox.", "text_pair": "A lazy dog?"}


@pytest.fixture(
    scope="module", params=[(kind, head) for kind in CLASSIFIERS for head in HEADS], ids=lambda p: f"{p[0]}-{p[1]}"
)
def classifier(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """transformers' pipeline and ours."""
    kind, head = request.param
    kind = Kind(kind.name, kind.tokenizer, kind.roles, {**kind.settings, **HEADS[head]})
    with bundle_of(tmp_path_factory.mktemp("parity"), kind, "ForSequenceClassification") as (folder, model):
        yield reference_pipeline("text-classification", folder), pipeline("text-classification", model)


@pytest.fixture(scope="module", params=CLASSIFIERS, ids=str)
def entailment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    kind = request.param
    kind = Kind(kind.name, kind.tokenizer, kind.roles, {**kind.settings, **HEADS["nli"]})
    with bundle_of(tmp_path_factory.mktemp("nli"), kind, "ForSequenceClassification") as (folder, model):
        yield reference_pipeline("zero-shot-classification", folder), pipeline("zero-shot-classification", model)


class bundle_of:  # noqa: N801
    """The checkpoint's folder and its fp32 bundle, loaded."""

    def __init__(self, root: Path, kind: Kind, head: str) -> None:
        self.folder = write_task_checkpoint(root / "checkpoint", kind, head)
        export(self.folder, root / "bundle", name="tiny", origin=Source("test:tiny"), scheme="fp32", report=False)
        self.model = load_encoder(root / "bundle", prepack=False, threads=1)

    def __enter__(self) -> tuple[Path, EncoderModel]:
        return self.folder, self.model

    def __exit__(self, *_: object) -> None:
        self.model.close()


def reference(call: Any, *inputs: Any, **settings: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*inputs, **settings)


def assert_same(found: Any, expected: Any) -> None:
    """Equal but for floats, which are within the tolerance."""
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, float):
        assert isinstance(found, float)
        assert found == pytest.approx(expected, abs=TOLERANCE)
    else:
        assert found == expected


@pytest.mark.parametrize(
    "settings",
    [{}, {"top_k": None}, {"top_k": 2}, {"function_to_apply": "none"}, {"function_to_apply": "sigmoid", "top_k": None}],
    ids=str,
)
def test_text_classification(classifier: Any, settings: dict[str, Any]) -> None:
    theirs, ours = classifier
    for inputs in (TEXTS[0], list(TEXTS), PAIR, [PAIR, PAIR], [TEXTS[1]]):
        assert_same(ours(inputs, **settings), reference(theirs, inputs, **settings))


@pytest.mark.parametrize("settings", [{}, {"multi_label": True}, {"hypothesis_template": "It is on {}."}], ids=str)
def test_zero_shot_classification(entailment: Any, settings: dict[str, Any]) -> None:
    theirs, ours = entailment
    texts = [text for text in TEXTS if text.strip()]
    for inputs, labels in (
        (texts[0], "dogs, foxes,sea"),
        (texts, ["dogs", "foxes", "sea"]),
        (texts[1], ["one"]),
        (" ".join(texts) * 3, ["dogs", "sea"]),
    ):
        assert_same(ours(inputs, labels, **settings), reference(theirs, inputs, labels, **settings))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_feature_extraction(tmp_path: Path, kind: Kind) -> None:
    with bundle_of(tmp_path, kind, "Model") as (folder, model):
        theirs, ours = reference_pipeline("feature-extraction", folder), pipeline("feature-extraction", model)
        texts = [TEXTS[0], TEXTS[2], "x"]
        for found, expected in zip(ours(texts), reference(theirs, texts), strict=True):
            np.testing.assert_allclose(found, expected, atol=TOLERANCE)
        assert np.shape(ours(texts[0])) == np.shape(reference(theirs, texts[0]))


CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_text_generation(tmp_path: Path) -> None:
    sizes = {"vocab_size": byte_level().get_vocab_size()}
    folder = write_checkpoint(tmp_path / "checkpoint", reference_model(Variant("llama", "llama", sizes)))
    tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer | {"chat_template": CHAT_TEMPLATE}))
    export(folder, tmp_path / "bundle", name="tiny", origin=Source("test:tiny"), scheme="fp32", report=False)
    theirs = reference_pipeline("text-generation", folder)
    chat = [{"role": "user", "content": "hello world"}]
    with pipeline("text-generation", tmp_path / "bundle", prepack=False, threads=1) as ours:
        for inputs in ("the dog", ["the dog", "sea shells "], chat, [chat, chat]):
            for settings in ({}, {"return_full_text": False}):
                expected = reference(theirs, inputs, max_new_tokens=8, do_sample=False, **settings)
                assert ours(inputs, max_new_tokens=8, **settings) == expected
