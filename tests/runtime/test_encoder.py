"""One forward pass over rows of different lengths."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.encoder_bundle import GRAPH_NAME, LABELS, VOCABULARY, TinyEncoder, write_encoder_bundle

from edgelm.errors import ClosedError, ModelError
from edgelm.runtime.encoder import Encoder
from edgelm.runtime.session import Session

RANDOM = np.random.default_rng(1)
ROWS = [RANDOM.integers(5, len(VOCABULARY), n).tolist() for n in (9, 1, 4)]
TYPES = [[0] * 5 + [1] * 4, [0], [1] * 4]
OUTPUTS = {
    "feature-extraction": {"last_hidden_state": (3, 9, 24)},
    "text-classification": {"logits": (3, len(LABELS))},
    "token-classification": {"logits": (3, 9, len(LABELS))},
    "fill-mask": {"logits": (3, 9, len(VOCABULARY))},
    "question-answering": {"start_logits": (3, 9), "end_logits": (3, 9)},
}


def session(folder: Path, sizes: TinyEncoder) -> Session:
    return Session(write_encoder_bundle(folder, sizes) / GRAPH_NAME, threads=1)


@pytest.fixture(scope="module", params=OUTPUTS)
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encoder]:
    opened = session(tmp_path_factory.mktemp("encoder"), TinyEncoder(task=request.param))
    made = Encoder(opened, list(OUTPUTS[request.param]))
    yield made
    opened.close()


def test_a_padded_batch_equals_single_rows(encoder: Encoder) -> None:
    batch = encoder.run(ROWS, TYPES)
    assert {name: array.shape for name, array in batch.items()} in OUTPUTS.values()
    for index, (row, types) in enumerate(zip(ROWS, TYPES, strict=True)):
        for name, alone in encoder.run([row], [types]).items():
            together = batch[name][index, : len(row)] if encoder.is_per_token(name) else batch[name][index]
            np.testing.assert_allclose(together, alone[0], rtol=1e-4, atol=1e-5)


def test_types_matter_and_are_0_unless_given(encoder: Encoder) -> None:
    zeros = [[0] * len(row) for row in ROWS]
    name = next(iter(encoder.run(ROWS)))
    np.testing.assert_array_equal(encoder.run(ROWS)[name][0], encoder.run(ROWS, zeros)[name][0])
    assert not np.allclose(encoder.run(ROWS)[name][0], encoder.run(ROWS, TYPES)[name][0])


def test_memory_is_given_back_without_a_difference(encoder: Encoder) -> None:
    kept, shrunk = encoder.run(ROWS, TYPES), encoder.run(ROWS, TYPES, shrink=True)
    for name, array in kept.items():
        np.testing.assert_array_equal(array[0], shrunk[name][0])


def test_a_graph_without_types_is_fed_none(tmp_path: Path) -> None:
    opened = session(tmp_path, TinyEncoder(token_types=False))
    encoder = Encoder(opened, ["last_hidden_state"])
    assert not encoder.takes_types
    assert encoder.run(ROWS, TYPES)["last_hidden_state"].shape == (3, 9, 24)
    opened.close()


def test_a_size_that_the_graph_leaves_open_is_found_out(tmp_path: Path) -> None:
    def leave_open(model: onnx.ModelProto) -> None:
        for dim in model.graph.output[0].type.tensor_type.shape.dim:
            dim.dim_param = "any"

    folder = write_encoder_bundle(tmp_path, TinyEncoder(), edit=leave_open)
    opened = Session(folder / GRAPH_NAME, threads=1)
    encoder = Encoder(opened, ["last_hidden_state"])
    assert encoder.width("last_hidden_state") == 24
    assert encoder.output_bytes() == 96
    assert encoder.run(ROWS)["last_hidden_state"].shape == (3, 9, 24)
    opened.close()


def test_an_output_that_is_not_there_is_named(tmp_path: Path) -> None:
    opened = session(tmp_path, TinyEncoder())
    with pytest.raises(ModelError, match="the graph has no output logits"):
        Encoder(opened, ["logits"])
    opened.close()


def test_after_close_it_says_so(tmp_path: Path) -> None:
    opened = session(tmp_path, TinyEncoder())
    encoder = Encoder(opened, ["last_hidden_state"])
    opened.close()
    encoder.cancel()
    with pytest.raises(ClosedError):
        encoder.run(ROWS)
