"""Encoders give transformers' hidden states and logits: every architecture and head, alone and in padded batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.native_encoder import native_encoder
from support.tiny_encoders import (
    ENCODER_VARIANTS,
    VOCABULARY,
    Arrays,
    Encoder,
    padded,
    reference_outputs,
    run_encoder,
)

from edgelm.runtime.session import Session
from edgelm_tools.architectures.encoder_model import EncoderModel

pytestmark = pytest.mark.reference

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Case:
    variant: Encoder
    model: Any
    built: EncoderModel
    session: Session

    def row(self, length: int, seed: int = 0) -> NDArray[np.int64]:
        # Above every padding id: transformers skips that one when it counts positions.
        return np.random.default_rng(seed).integers(10, VOCABULARY, length)

    def types(self, shape: tuple[int, ...]) -> NDArray[np.int64]:
        return np.random.default_rng(9).integers(0, max(1, self.built.spec.token_types), shape)

    def inputs(self, *rows: NDArray[np.int64]) -> Arrays:
        ids, mask = padded(rows, fill=self.model.config.pad_token_id)
        inputs = {"input_ids": ids, "attention_mask": mask}
        if self.built.spec.token_types > 1:
            inputs["token_type_ids"] = self.types(ids.shape)
        return inputs


@pytest.fixture(scope="module", params=ENCODER_VARIANTS, ids=str)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    with native_encoder(request.param, tmp_path_factory.mktemp("case")) as made:
        yield Case(request.param, made.model, EncoderModel(made.checkpoint), made.session)


def assert_equal(ours: Arrays, theirs: Arrays, mask: NDArray[np.int64]) -> None:
    """What stands at padding means nothing and is not looked at."""
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert ours[name].shape == expected.shape
        by_token = expected.ndim == 3 or name in ("start_logits", "end_logits")
        seen = mask.astype(bool) if by_token else np.ones(len(expected), bool)
        assert np.abs(ours[name] - expected)[seen].max() < TOLERANCE * max(1.0, float(expected[seen].std()))


def test_outputs_are_those_of_transformers(case: Case) -> None:
    """Over the whole context: beyond the distances that MPNet tells apart."""
    inputs = case.inputs(case.row(case.built.spec.context_length))
    assert_equal(run_encoder(case.session, inputs), reference_outputs(case.model, inputs), inputs["attention_mask"])


def test_a_padded_batch_is_that_of_transformers(case: Case) -> None:
    inputs = case.inputs(case.row(17, 1), case.row(1, 2), case.row(40, 3))
    assert_equal(run_encoder(case.session, inputs), reference_outputs(case.model, inputs), inputs["attention_mask"])


def test_rows_of_a_batch_are_those_of_single_texts(case: Case) -> None:
    rows = [case.row(length, length) for length in (3, 29, 12)]
    inputs = case.inputs(*rows)
    together = run_encoder(case.session, inputs)
    for i, row in enumerate(rows):
        single = {name: array[i : i + 1, : len(row)] for name, array in inputs.items()}
        for name, alone in run_encoder(case.session, {k: np.ascontiguousarray(v) for k, v in single.items()}).items():
            among = together[name][i : i + 1]
            among = among[:, : len(row)] if among.shape != alone.shape else among
            assert np.abs(among - alone).max() < TOLERANCE


def test_the_graph_has_the_inputs_of_the_contract(case: Case) -> None:
    typed = case.built.spec.token_types > 1
    assert set(case.session.inputs) == {"input_ids", "attention_mask"} | ({"token_type_ids"} if typed else set())


def test_facts_are_those_of_the_model(case: Case) -> None:
    facts = case.built.facts
    assert facts.family == "encoder"
    assert facts.architecture == case.variant.model_type
    assert facts.context_length == case.built.spec.context_length
    if facts.head:
        assert facts.head.labels == tuple(case.model.config.id2label.values())
    assert case.built.parameters() > 0
