"""Graphs written with their weights beside them, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from edgelm_tools.graph import ALIGNMENT, SMALL, GraphBuilder, SharedWeights


def outputs(path: Path, **inputs: NDArray[Any]) -> list[NDArray[Any]]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    results: list[NDArray[Any]] = session.run(None, inputs)
    return results


def test_a_graph_computes_with_weights_streamed_to_its_data_file(tmp_path: Path) -> None:
    weight = np.arange(6000, dtype=np.float32).reshape(60, 100)
    with GraphBuilder(tmp_path / "g.onnx", name="test") as g:
        x = g.input("x", np.float32, ("n", 60))
        g.weight("w", np.float32, weight.shape, (weight[start : start + 7] for start in range(0, 60, 7)))
        product = g.node("MatMul", [x, "w"], name="product")
        shift = g.constant("shift", np.linspace(0, 1, 100), np.float32)
        g.node("Add", [product, shift], name="sum", outputs=[g.output("y", np.float32, ("n", 100))])
        g.save()
    x_values = np.random.default_rng(0).normal(size=(3, 60)).astype(np.float32)
    (y,) = outputs(tmp_path / "g.onnx", x=x_values)
    np.testing.assert_allclose(y, x_values @ weight + np.linspace(0, 1, 100), rtol=1e-5, atol=1e-2)
    assert (tmp_path / "g.onnx.data").read_bytes()[: weight.nbytes] == weight.tobytes()


def test_weights_begin_on_pages_and_small_constants_stay_in_the_graph(tmp_path: Path) -> None:
    with GraphBuilder(tmp_path / "g.onnx", name="test") as g:
        g.weight("a", np.int8, (3,), [np.ones(3, np.int8)])
        g.weight("b", np.uint8, (5,), [np.ones(5, np.uint8)])
        g.constant("small", np.zeros(SMALL // 4), np.float32)
        g.constant("large", np.zeros(SMALL // 4 + 1), np.float32)
        g.save()
    tensors = {t.name: t for t in onnx.load(tmp_path / "g.onnx", load_external_data=False).graph.initializer}
    places = {name: {e.key: e.value for e in tensors[name].external_data} for name in tensors}
    assert places["small"] == {}
    assert [places[name]["offset"] for name in ("a", "b", "large")] == ["0", str(ALIGNMENT), str(2 * ALIGNMENT)]
    assert places["b"] == {"location": "g.onnx.data", "offset": str(ALIGNMENT), "length": "5"}


def test_a_view_is_the_same_bytes_under_another_shape(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32)
    with GraphBuilder(tmp_path / "g.onnx", name="test") as g:
        g.weight("w", np.float32, (12,), [values])
        g.view("again", "w", (3, 4))
        g.node("Identity", ["again"], name="copy", outputs=[g.output("y", np.float32, (3, 4))])
        g.save()
    (y,) = outputs(tmp_path / "g.onnx")
    np.testing.assert_array_equal(y, values.reshape(3, 4))
    assert (tmp_path / "g.onnx.data").stat().st_size == values.nbytes


def test_a_constant_of_the_same_name_is_the_same(tmp_path: Path) -> None:
    with GraphBuilder(tmp_path / "g.onnx", name="test") as g:
        assert not g.has("one")
        assert g.constant("one", 1, np.int64) == g.constant("one", 1, np.int64) == "one"
        assert g.has("one")
        g.save()
    assert len(onnx.load(tmp_path / "g.onnx").graph.initializer) == 1


def test_attributes_that_are_none_are_left_out(tmp_path: Path) -> None:
    with GraphBuilder(tmp_path / "g.onnx", name="test") as g:
        x = g.input("x", np.float32, ("n",))
        g.node("Softmax", [x], name="s", outputs=[g.output("y", np.float32, ("n",))], axis=None)
        g.save()
    assert not onnx.load(tmp_path / "g.onnx").graph.node[0].attribute


def test_weights_of_the_wrong_length_are_refused(tmp_path: Path) -> None:
    with (
        GraphBuilder(tmp_path / "g.onnx", name="test") as g,
        pytest.raises(ValueError, match=r"w: 8 bytes were written for shape \(3,\), not 12"),
    ):
        g.weight("w", np.float32, (3,), [np.zeros(2, np.float32)])


def test_an_input_that_nothing_makes_is_refused(tmp_path: Path) -> None:
    with GraphBuilder(tmp_path / "g.onnx", name="test") as g:
        g.node("Neg", ["later"], name="early", outputs=[g.output("y", np.float32, ())])
        g.node("Neg", [g.input("x", np.float32, ())], name="late", outputs=["later"])
        with pytest.raises(ValueError, match="early: nothing makes its input 'later'"):
            g.save()


def test_a_value_made_twice_is_refused(tmp_path: Path) -> None:
    with GraphBuilder(tmp_path / "g.onnx", name="test") as g:
        x = g.input("x", np.float32, ())
        g.node("Neg", [x], name="first", outputs=["y"])
        g.node("Abs", [x], name="second", outputs=["y"])
        with pytest.raises(ValueError, match="second: its output 'y' is there already"):
            g.save()


def test_an_output_that_nothing_makes_is_refused(tmp_path: Path) -> None:
    with GraphBuilder(tmp_path / "g.onnx", name="test") as g:
        g.output("y", np.float32, ())
        with pytest.raises(ValueError, match="nothing makes the graph's output 'y'"):
            g.save()


def test_graphs_of_one_model_store_what_they_share_once(tmp_path: Path) -> None:
    values = np.arange(2000, dtype=np.float32)
    shared: SharedWeights = {}
    for name, chunks in (("first", [values]), ("second", None)):
        with GraphBuilder(tmp_path / f"{name}.onnx", name=name, shared=shared) as g:
            # The second time there is nothing to read.
            g.weight("shared.table", np.float32, values.shape, chunks or iter(()))
            g.view("folded", "shared.table", (40, 50))
            g.weight("own", np.float32, (1,), [np.full(1, len(name), np.float32)])
            g.node("Add", ["folded", "own"], name="sum", outputs=[g.output("y", np.float32, (40, 50))])
            g.save()
    for name in ("first", "second"):
        (y,) = outputs(tmp_path / f"{name}.onnx")
        np.testing.assert_array_equal(y, values.reshape(40, 50) + len(name))
    assert (tmp_path / "second.onnx.data").stat().st_size == 4


def test_graphs_apart_share_nothing(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with GraphBuilder(tmp_path / f"{name}.onnx", name=name) as g:
            g.weight("shared.table", np.float32, (2,), [np.ones(2, np.float32)])
            g.node("Identity", ["shared.table"], name="copy", outputs=[g.output("y", np.float32, (2,))])
            g.save()
    assert (tmp_path / "second.onnx.data").stat().st_size == 8


def test_equal_weights_are_stored_once(tmp_path: Path) -> None:
    values = np.arange(3000, dtype=np.float32)
    with GraphBuilder(tmp_path / "g.onnx", name="g") as g:
        g.weight("first", np.float32, (3000,), [values])
        g.weight("other", np.float32, (3000,), [values + 1])
        g.weight("again", np.float32, (50, 60), [values[:100], values[100:]])
        g.weight("last", np.float32, (1,), [values[7:8]])
        total = g.node("Gather", ["again", "last"], name="unused")
        assert total
    data = (tmp_path / "g.onnx.data").read_bytes()
    pages = -(-values.nbytes // ALIGNMENT) * ALIGNMENT
    assert len(data) == 2 * pages + 4
    assert data[: values.nbytes] == values.tobytes()
