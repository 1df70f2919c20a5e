"""Integer products with weights of full range: exact on every processor, row by row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from edgelm_tools.checkpoint.base import BlockQuantized
from edgelm_tools.graph import GraphBuilder
from edgelm_tools.matrix import Matrix
from edgelm_tools.quantize.schemes import CarriedInt8

RNG = np.random.default_rng(0)


def carried(
    rows: int, columns: int, *, extreme: bool = False, one_scale: bool = True
) -> tuple[Matrix, NDArray[np.float32]]:
    """A matrix with integers of its own, and its values."""
    steps = RNG.choice([-127, 127], (rows, columns)) if extreme else RNG.integers(-128, 128, (rows, columns))
    scales = (
        np.full((rows, 1), 0.01, np.float32) if one_scale else RNG.uniform(0.01, 0.02, (rows, 1)).astype(np.float32)
    )
    part = BlockQuantized(steps.astype(np.int8), scales, block_size=columns, bits=8)
    return Matrix(rows, columns, lambda: iter([part])), steps.astype(np.float32) * scales


def product(matrix: Matrix, x: NDArray[np.float32], folder: Path) -> NDArray[np.float32]:
    with GraphBuilder(folder / "g.onnx", name="g") as g:
        given = g.input("x", np.float32, ("rows", matrix.columns))
        made = CarriedInt8().linear(g, given, "w", matrix)
        g.node("Identity", [made], name="y", outputs=[g.output("y", np.float32, ("rows", matrix.rows))])
        g.save()
    (y,) = ort.InferenceSession(str(folder / "g.onnx")).run(None, {"x": x})
    return np.asarray(y, np.float32)


@pytest.mark.parametrize("one_scale", [True, False])
@pytest.mark.parametrize(("rows", "columns"), [(96, 64), (33, 50), (1, 7)])
@pytest.mark.parametrize("count", [1, 5, 64])
def test_products(rows: int, columns: int, count: int, one_scale: bool, tmp_path: Path) -> None:
    matrix, weight = carried(rows, columns, one_scale=one_scale)
    x = RNG.normal(0, RNG.uniform(0.01, 100, (count, 1)), (count, columns)).astype(np.float32)
    expected = x @ weight.T
    error = np.abs(product(matrix, x, tmp_path) - expected)
    assert np.all(error < 1e-3 * np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(weight, axis=1))


def test_the_largest_sums_do_not_overflow(tmp_path: Path) -> None:
    matrix, weight = carried(64, 256, extreme=True)
    x = np.sign(weight[:8]).astype(np.float32)  # each row meets weights that are all of its own sign
    x = np.concatenate([x, -x])
    np.testing.assert_allclose(product(matrix, x, tmp_path), x @ weight.T, rtol=1e-5, atol=1e-3)


def test_a_row_of_zeros_stays_one_and_rows_do_not_depend_on_each_other(tmp_path: Path) -> None:
    matrix, _ = carried(40, 32)
    x = RNG.normal(size=(6, 32)).astype(np.float32) * np.float32([[1], [0], [1e-9], [1e6], [3], [0.1]])
    together = product(matrix, x, tmp_path)
    assert np.all(together[1] == 0)
    for row in range(len(x)):
        np.testing.assert_array_equal(product(matrix, x[row : row + 1], tmp_path)[0], together[row])


def test_floats_are_rounded_to_nearest(tmp_path: Path) -> None:
    weight = RNG.normal(size=(20, 30)).astype(np.float32)
    matrix = Matrix(20, 30, lambda: iter([weight[:7], weight[7:]]))
    x = RNG.normal(size=(3, 30)).astype(np.float32)
    steps = np.abs(weight).max(axis=1) / 127
    assert np.all(np.abs(product(matrix, x, tmp_path) - x @ weight.T) < np.abs(x).sum(axis=1)[:, None] * steps * 0.52)
