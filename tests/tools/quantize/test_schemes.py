"""What the graph of each scheme computes: products with the stored weights, off by the rounding of x alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from edgelm.errors import ModelError
from edgelm.runtime.embedding import EmbeddingTable
from edgelm_tools.checkpoint.base import BlockQuantized
from edgelm_tools.graph import GraphBuilder
from edgelm_tools.matrix import Matrix, Part
from edgelm_tools.quantize import blockwise
from edgelm_tools.quantize.gptq import error_factor
from edgelm_tools.quantize.rowwise import round_rows, row_scales
from edgelm_tools.quantize.scheme import token_ids
from edgelm_tools.quantize.schemes import (
    EMBEDDING_NAME,
    Blockwise,
    DynamicInt8,
    Float32,
    Recorder,
    Rowwise,
    Scheme,
)
from edgelm_tools.quantize.tables import open_embedding, written_embedding

Floats = NDArray[np.float32]
INT8, INT4 = Blockwise("int8-block", bits=8, block_size=32), Blockwise("int4", bits=4, block_size=32)
SCHEMES: dict[str, Scheme] = {
    "fp32": Float32(),
    "int8-block": INT8,
    "int4": INT4,
    "int8": Rowwise(),
    "dynamic-int8": DynamicInt8(),
}
# (outputs, inputs): one block and less, several blocks, an odd count of blocks with a rest.
SHAPES = [(7, 24), (40, 64), (33, 150)]


def matrix_of(*parts: Part) -> Matrix:
    rows = [len(part.values) if isinstance(part, BlockQuantized) else len(part) for part in parts]
    first = parts[0].values if isinstance(parts[0], BlockQuantized) else parts[0]
    return Matrix(sum(rows), first.shape[1], lambda: iter(parts))


def random_weight(shape: tuple[int, int], seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_t(5, shape).astype(np.float32)


def random_input(columns: int, rows: int = 5, seed: int = 1) -> Floats:
    return np.random.default_rng(seed).standard_t(4, (1, rows, columns)).astype(np.float32)


def product(folder: Path, scheme: Scheme, matrix: Matrix, x: Floats, **options: Any) -> Floats:
    with GraphBuilder(folder / "linear.onnx", name="linear") as g:
        g.input("x", np.float32, ("batch", "sequence", matrix.columns))
        y = scheme.linear(g, "x", "linear", matrix, **options)
        result(g, y, matrix.rows)
    return run(folder / "linear.onnx", x=x)


def result(g: GraphBuilder, value: str, width: int) -> None:
    shape = ("batch", "sequence", width)
    g.node("Identity", [value], name="result", outputs=[g.output("y", np.float32, shape)])
    g.save()


def run(path: Path, **inputs: NDArray[Any]) -> Floats:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    y: Floats = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(["y"], inputs)[0]
    return y


def stored_values(scheme: Scheme, weight: Floats) -> Floats:
    """The weight as the scheme rounds it."""
    if isinstance(scheme, Blockwise):
        quantize = blockwise.quantize_int8 if scheme.bits == 8 else blockwise.quantize_int4
        return blockwise.dequantize(quantize(weight, scheme.block_size), weight.shape[1])
    if isinstance(scheme, (Rowwise, DynamicInt8)):
        scales = row_scales(weight)
        return round_rows(weight, scales).T * scales[:, None]
    return weight


def rounding_of_inputs(scheme: Scheme, x: Floats) -> Floats:
    """How far each value of x may be off in the scheme's computation."""
    if isinstance(scheme, Blockwise):
        size = scheme.block_size
        runs = [x[..., start : start + size] for start in range(0, x.shape[-1], size)]
        steps = [np.broadcast_to(np.abs(run).max(axis=-1, keepdims=True) / 127, run.shape) for run in runs]
        return np.concatenate(steps, axis=-1) / 2
    if isinstance(scheme, Rowwise):
        magnitude = np.sqrt(np.square(x).mean(axis=-1, keepdims=True))
        return magnitude * rounding_of_inputs(DynamicInt8(), x / magnitude)
    if isinstance(scheme, DynamicInt8):
        # The zero point is rounded, too.
        return np.full_like(x, (max(x.max(), 0) - min(x.min(), 0)) / 255)
    return np.zeros_like(x)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES.keys())
def test_stored_weights_are_the_rounded_ones(scheme: Scheme, shape: tuple[int, int], tmp_path: Path) -> None:
    weight = random_weight(shape)
    # Every scheme rounds a one among zeros exactly.
    columns = product(tmp_path, scheme, matrix_of(weight), np.eye(shape[1], dtype=np.float32)[None])
    np.testing.assert_allclose(columns[0].T, stored_values(scheme, weight), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 9])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES.keys())
def test_products_are_off_by_the_rounding_of_x_alone(
    scheme: Scheme, shape: tuple[int, int], rows: int, tmp_path: Path
) -> None:
    weight, x = random_weight(shape), random_input(shape[1], rows)
    stored = stored_values(scheme, weight)
    error = np.abs(product(tmp_path, scheme, matrix_of(weight), x) - x @ stored.T)
    assert (error <= rounding_of_inputs(scheme, x) @ np.abs(stored).T * 1.01 + 1e-4).all()


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("scheme", [Rowwise(), INT8, INT4, DynamicInt8()], ids=lambda scheme: scheme.name)
def test_sums_of_the_largest_steps_do_not_overflow(scheme: Scheme, rows: int, sign: int, tmp_path: Path) -> None:
    y = product(tmp_path, scheme, matrix_of(np.ones((16, 96), np.float32)), np.full((1, rows, 96), sign, np.float32))
    np.testing.assert_allclose(y, sign * 96, rtol=0.02)


@pytest.mark.parametrize("columns", [80, 128, 384])
def test_rowwise_spreads_rare_large_values_before_it_rounds(columns: int, tmp_path: Path) -> None:
    weight, x = random_weight((16, columns)), random_input(columns, rows=8)
    x[0, :, 3] *= 200
    exact = x @ weight.T
    plain, spread = (
        np.abs(product(tmp_path, Rowwise(), matrix_of(weight), x, rows=rows) - exact).mean()
        for rows in ("uneven", "heavy-tailed")
    )
    assert spread < 0.75 * plain


@pytest.mark.parametrize("rows", ["uneven", "heavy-tailed"])
def test_a_small_row_is_rounded_as_finely_as_the_large_one_beside_it(rows: str, tmp_path: Path) -> None:
    weight, x = random_weight((16, 64)), random_input(64, rows=2)
    x[0, 1] = x[0, 0] * 1e-4
    y = product(tmp_path, Rowwise(), matrix_of(weight), x, rows=rows)
    np.testing.assert_allclose(y[0, 1], y[0, 0] * 1e-4, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES.keys())
def test_rows_and_weights_of_zeros_give_zeros(scheme: Scheme, tmp_path: Path) -> None:
    weight, x = random_weight((12, 64)), random_input(64)
    weight[3] = 0
    weight[4] = 1e-42
    x[0, 2] = 0
    for rows in ("normed", "uneven", "heavy-tailed"):
        y = product(tmp_path, scheme, matrix_of(weight), x, rows=rows)
        assert np.isfinite(y).all()
        assert np.abs(y[0, :, 3:5]).max() < 1e-30
        np.testing.assert_allclose(y[0, 2], 0, atol=1e-5)


def test_a_checkpoint_s_blocks_are_carried_between_parts_of_floats(tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    for scheme, most in ((INT8, 127), (INT4, 7)):
        values = random.integers(-most, most, (6, 96), endpoint=True).astype(np.int8)
        blocks = BlockQuantized(values, random.uniform(0.1, 1, (6, 3)).astype(np.float32), 32, scheme.bits)
        above, below = random_weight((5, 96), 1), random_weight((4, 96), 2)
        x = np.eye(96, dtype=np.float32)[None]
        columns = product(tmp_path, scheme, matrix_of(above, blocks, below), x)[0].T
        exact = values * np.repeat(blocks.scales, 32, axis=1)
        np.testing.assert_allclose(columns[5:11], exact, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(columns[:5], stored_values(scheme, above), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(columns[11:], stored_values(scheme, below), rtol=1e-4, atol=1e-5)


def test_blocks_of_another_kind_are_rounded_anew(tmp_path: Path) -> None:
    values = np.random.default_rng(8).integers(-8, 8, (6, 64)).astype(np.int8)
    blocks = BlockQuantized(values, np.full((6, 2), 0.5, np.float32), 32, 4)
    columns = product(tmp_path, INT8, matrix_of(blocks), np.eye(64, dtype=np.float32)[None])[0].T
    np.testing.assert_allclose(columns, values * 0.5, atol=4 / 254)


@pytest.mark.parametrize("scheme", [Rowwise(), INT8, INT4, DynamicInt8()], ids=lambda scheme: scheme.name)
def test_parts_and_chunks_of_a_matrix_are_one_weight(scheme: Scheme, tmp_path: Path) -> None:
    weight, x = random_weight((30, 64)), random_input(64)
    whole = product(tmp_path, scheme, matrix_of(weight), x)
    parts = product(tmp_path, scheme, matrix_of(weight[:1], weight[1:17], weight[17:]), x)
    np.testing.assert_array_equal(parts, whole)


@pytest.mark.parametrize("scheme", [Rowwise(), INT4], ids=lambda scheme: scheme.name)
def test_a_calibrated_weight_gives_nearer_outputs(scheme: Rowwise | Blockwise, tmp_path: Path) -> None:
    random = np.random.default_rng(9)
    weight = random_weight((24, 64))
    inputs = (random.normal(size=(500, 8)) @ random.normal(size=(8, 64))).astype(np.float32)

    class Known:
        def factor(self, name: str) -> Floats:
            assert name == "linear"
            return error_factor(inputs.T @ inputs)

    x = inputs[None, :50]
    plain, calibrated = (
        np.square(product(tmp_path, replace(scheme, calibration=known), matrix_of(weight), x) - x @ weight.T).sum()
        for known in (None, Known())
    )
    assert calibrated < plain


EMBEDDED: list[Scheme] = [Float32(), INT8, INT4, DynamicInt8()]
IDS = np.array([[3, 0, 10, 3]])


@pytest.mark.parametrize("columns", [24, 64])
@pytest.mark.parametrize("scheme", EMBEDDED, ids=lambda scheme: scheme.name)
def test_tied_table_and_head_in_a_graph_share_their_weights(scheme: Scheme, columns: int, tmp_path: Path) -> None:
    weight = random_weight((11, columns))
    matrix = matrix_of(weight)
    with GraphBuilder(tmp_path / "tied.onnx", name="tied") as g:
        vectors, table = scheme.lookup(g, "embed", matrix, token_ids(g))
        size = (tmp_path / "tied.onnx.data").stat().st_size
        result(g, scheme.head(g, vectors, "head", matrix, table), 11)
    assert (tmp_path / "tied.onnx.data").stat().st_size <= size + 4096
    stored = weight if isinstance(scheme, Float32) else stored_values(INT8, weight)
    looked_up = stored[IDS]
    error = np.abs(run(tmp_path / "tied.onnx", input_ids=IDS) - looked_up @ stored.T)
    bound = 0 if isinstance(scheme, Float32) else rounding_of_inputs(INT8, looked_up) @ np.abs(stored).T
    assert (error <= bound * np.float32(1.01) + 1e-4).all()


def test_rowwise_keeps_its_embedding_in_a_file_and_its_head_in_pieces(tmp_path: Path) -> None:
    weight = random_weight((11, 24))
    weight[4] = 0
    with GraphBuilder(tmp_path / "g.onnx", name="embedding") as g:
        vectors, _ = Rowwise().embedding(g, "embed", matrix_of(weight[:5], weight[5:]))
        result(g, Rowwise().head(g, vectors, "head", matrix_of(weight), None), 11)
    table = EmbeddingTable(tmp_path / EMBEDDING_NAME, rows=11, columns=24)
    rows = np.empty((1, 11, 24), np.float32)
    table.lookup(range(11), rows[0])
    table.close()
    assert (np.abs(rows[0] - weight) <= np.abs(weight).max(axis=1, keepdims=True) / 253).all()
    stored = stored_values(Rowwise(), np.where(weight, weight, 1e-20).astype(np.float32))
    error = np.abs(run(tmp_path / "g.onnx", inputs_embeds=rows) - rows @ stored.T)
    assert (error <= rounding_of_inputs(DynamicInt8(), rows) @ np.abs(stored).T * 1.01 + 1e-4).all()


def embedded(folder: Path, scheme: Scheme, matrix: Matrix, *, beside: bool) -> Floats:
    """Logits (1, rows, rows) of all tokens, whose table lies in the graph or beside it."""
    path = folder / f"{beside}.onnx"
    with GraphBuilder(path, name="embedded") as g:
        look_up = scheme.embedding(g, "embed", matrix) if beside else scheme.lookup(g, "embed", matrix, token_ids(g))
        result(g, scheme.head(g, look_up[0], "head", matrix, look_up[1]), matrix.rows)
    if not beside:
        return run(path, input_ids=np.arange(matrix.rows)[None])
    rows = np.empty((1, matrix.rows, matrix.columns), np.float32)
    table = open_embedding(folder, rows=matrix.rows, columns=matrix.columns)
    table.lookup(range(matrix.rows), rows[0])
    table.close()
    return run(path, inputs_embeds=rows)


@pytest.mark.parametrize("columns", [24, 64, 72])
@pytest.mark.parametrize("scheme", [INT8, INT4], ids=lambda scheme: scheme.name)
def test_a_table_in_blocks_computes_the_same_beside_the_graph(scheme: Scheme, columns: int, tmp_path: Path) -> None:
    matrix = matrix_of(random_weight((13, columns)))
    inside, beside = (embedded(tmp_path, scheme, matrix, beside=place) for place in (False, True))
    # The head's products over all rows and over a quarter of them may be added up in another order.
    np.testing.assert_allclose(inside, beside, rtol=1e-5, atol=1e-5)
    table = written_embedding(tmp_path, rows=13, columns=columns)
    assert table is not None
    assert table.block_size == (None if columns <= 32 else 32)


def test_a_checkpoint_s_table_of_blocks_is_carried_to_file_and_head(tmp_path: Path) -> None:
    random = np.random.default_rng(10)
    values = random.integers(-128, 127, (11, 96), endpoint=True).astype(np.int8)
    values[:, 0] = 64  # no block uses the whole range, so rounding anew would change it
    blocks = BlockQuantized(values // 2, random.uniform(0.1, 1, (11, 3)).astype(np.float32), 32, 8)
    exact = blocks.values * np.repeat(blocks.scales, 32, axis=1)
    with GraphBuilder(tmp_path / "g.onnx", name="carried") as g:
        vectors, table = INT4.embedding(g, "embed", matrix_of(blocks))
        result(g, INT4.head(g, vectors, "head", matrix_of(blocks), table), 11)
    written = open_embedding(tmp_path, rows=11, columns=96)
    rows = np.empty((11, 96), np.float32)
    written.lookup(range(11), rows)
    written.close()
    np.testing.assert_array_equal(rows, exact)
    weights = onnx.load(tmp_path / "g.onnx")
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in weights.graph.initializer}
    pieces = sorted({name.split(".")[1] for name in stored if name.startswith("head.")}, key=int)
    steps = np.concatenate([stored[f"head.{piece}.weight"].reshape(-1, 96) for piece in pieces])
    np.testing.assert_array_equal(steps.astype(np.int16) - 128, blocks.values)
    np.testing.assert_array_equal(np.concatenate([stored[f"head.{piece}.scales"] for piece in pieces]), blocks.scales)
    assert len(pieces) == 11, "the head comes in pieces, of a row at least"


def test_a_folder_without_a_table_has_none(tmp_path: Path) -> None:
    assert written_embedding(tmp_path, rows=3, columns=4) is None
    with pytest.raises(ModelError, match=f"{EMBEDDING_NAME}: cannot be read"):
        open_embedding(tmp_path, rows=3, columns=4)


def test_the_recorder_computes_in_fp32_and_gives_out_what_rowwise_would_round(tmp_path: Path) -> None:
    weight, x = random_weight((6, 64)), random_input(64)
    recorder = Recorder()
    with GraphBuilder(tmp_path / "g.onnx", name="recorder") as g:
        g.input("x", np.float32, ("batch", "sequence", 64))
        plain = recorder.linear(g, "x", "plain", matrix_of(weight))
        recorder.linear(g, "x", "again", matrix_of(weight))
        recorder.linear(g, "x", "tailed", matrix_of(weight), rows="heavy-tailed")
        result(g, plain, 6)
    session = ort.InferenceSession(str(tmp_path / "g.onnx"), providers=["CPUExecutionProvider"])
    assert recorder.recorded["plain"] == recorder.recorded["again"]
    names = ["y", recorder.recorded["plain"], recorder.recorded["tailed"]]
    y, seen, spread = session.run(names, {"x": x})
    np.testing.assert_allclose(y, x @ weight.T, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(seen, x)
    np.testing.assert_allclose(np.square(spread).sum(axis=-1), np.square(x).sum(axis=-1), rtol=1e-4)
    assert np.abs(spread).max() < np.abs(x).max()


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES.keys())
def test_each_scheme_says_what_the_manifest_records(scheme: Scheme) -> None:
    assert scheme.name in SCHEMES
    assert scheme.settings()["bits"] in (4, 8, 32)
