"""Builds an ONNX graph node by node, with its weights streamed to one external data file.

A thin layer over ``onnx.helper``: it names values, keeps constants apart from weights, and never holds more than the
chunk of a weight that is being written. It knows nothing about model families; ``architectures/`` does.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import onnx
from numpy.typing import ArrayLike, DTypeLike, NDArray
from onnx import TensorProto, helper, numpy_helper

MICROSOFT = "com.microsoft"
OPSET = 21
IR_VERSION = 10
# Weights start on a page, so that the runtime can map each one straight from the file.
ALIGNMENT = 4096
SMALL = 1024
# Weights of such names are those of all graphs of a model.
SHARED = "shared."

Shape = Sequence[int | str]
SharedWeights = dict[str, TensorProto]


class WeightFile:
    """The external data file of a graph: weights are appended, each on a page boundary, equal ones once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("wb")
        self._places: dict[bytes, int] = {}

    def append(self, chunks: Iterable[NDArray[Any]]) -> tuple[int, int]:
        """Writes the chunks one after the other; returns the offset and length in bytes of the whole."""
        end = self._file.tell()
        offset = end + -end % ALIGNMENT
        self._file.write(b"\0" * (offset - end))
        digest = hashlib.sha256()
        for chunk in chunks:
            data = np.ascontiguousarray(chunk).reshape(-1).view(np.uint8).data
            digest.update(data)
            self._file.write(data)
        length = self._file.tell() - offset
        place = self._places.setdefault(digest.digest(), offset)
        if place != offset:
            self._file.seek(end)
            self._file.truncate()
        return place, length

    def close(self) -> None:
        """Makes sure that the bytes have reached the disk."""
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())


class GraphBuilder:
    """Collects nodes, inputs, outputs and weights of one graph, and saves them as ``path`` and ``path.data``.

    Args:
        path: the graph.
        name: its name.
        shared: weights that begin with ``SHARED`` and where they are: graphs that are given the same dictionary, and
            lie in one folder, store them once.
    """

    def __init__(self, path: Path, *, name: str, shared: SharedWeights | None = None) -> None:
        self.path = path
        self.name = name
        self._shared = {} if shared is None else shared
        self._weights = WeightFile(path.with_name(path.name + ".data"))
        self._nodes: list[onnx.NodeProto] = []
        self._made: set[str] = set()
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._initializers: dict[str, TensorProto] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._weights.close()

    def input(self, name: str, dtype: DTypeLike, shape: Shape) -> str:
        """Declares a graph input; strings in ``shape`` are free dimensions."""
        self._inputs.append(helper.make_tensor_value_info(name, _tensor_type(dtype), shape))
        return name

    def output(self, name: str, dtype: DTypeLike, shape: Shape) -> str:
        """Declares a graph output."""
        self._outputs.append(helper.make_tensor_value_info(name, _tensor_type(dtype), shape))
        return name

    def node(
        self,
        op: str,
        inputs: Sequence[str],
        *,
        name: str,
        outputs: Sequence[str] | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Adds a node and returns its first output; ``outputs`` names them where there is more than one."""
        names = list(outputs) if outputs is not None else [f"{name}.out"]
        given = {key: value for key, value in attributes.items() if value is not None}
        self._nodes.append(helper.make_node(op, list(inputs), names, name=name, domain=domain, **given))
        self._made.update(names)
        return names[0]

    def takes(self, name: str) -> bool:
        """Whether an input of that name was declared."""
        return any(value.name == name for value in self._inputs)

    def has(self, name: str) -> bool:
        """Whether a constant or weight of that name exists."""
        return name in self._initializers

    def makes(self, name: str) -> bool:
        """Whether a node that was added gives a value of that name."""
        return name in self._made

    def constant(self, name: str, value: ArrayLike, dtype: DTypeLike) -> str:
        """A value that belongs to the graph itself; the same name twice is the same constant."""
        if name not in self._initializers:
            array = np.asarray(value, dtype)
            if array.nbytes > SMALL:
                return self.weight(name, array.dtype, array.shape, [array])
            self._initializers[name] = numpy_helper.from_array(array, name)
        return name

    def weight(self, name: str, dtype: DTypeLike, shape: Sequence[int], chunks: Iterable[NDArray[Any]]) -> str:
        """Streams a weight to the data file; the chunks together are the C-ordered tensor.

        They are not read where another graph has stored this weight.
        """
        if name in self._shared:
            self._initializers[name] = self._shared[name]
            return name
        offset, length = self._weights.append(chunks)
        expected = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if length != expected:
            raise ValueError(f"{name}: {length} bytes were written for shape {tuple(shape)}, not {expected}")
        self._initializers[name] = self._external(name, dtype, shape, self._weights.path.name, offset, length)
        if name.startswith(SHARED):
            self._shared[name] = self._initializers[name]
        return name

    def view(self, name: str, of: str, shape: Sequence[int]) -> str:
        """The bytes of weight ``of`` once more under another name and shape; stored once."""
        tensor = self._initializers[of]
        place = {entry.key: entry.value for entry in tensor.external_data}
        offset, length = int(place["offset"]), int(place["length"])
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        self._initializers[name] = self._external(name, dtype, shape, place["location"], offset, length)
        return name

    def save(self) -> None:
        """Checks that every value is made once, before it is used, and writes the graph.

        Raises:
            ValueError: one is not; names it.
        """
        self._check_values()
        graph = helper.make_graph(
            self._nodes, self.name, self._inputs, self._outputs, list(self._initializers.values())
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=opsets, producer_name="edgelm")
        model.ir_version = IR_VERSION
        self.path.write_bytes(model.SerializeToString())

    def _check_values(self) -> None:
        made = {"", *self._initializers, *(value.name for value in self._inputs)}
        for node in self._nodes:
            missing = [name for name in node.input if name not in made]
            if missing:
                raise ValueError(f"{node.name}: nothing makes its input {missing[0]!r}")
            twice = [name for name in node.output if name and name in made]
            if twice:
                raise ValueError(f"{node.name}: its output {twice[0]!r} is there already")
            made.update(node.output)
        missing = [value.name for value in self._outputs if value.name not in made]
        if missing:
            raise ValueError(f"nothing makes the graph's output {missing[0]!r}")

    @staticmethod
    def _external(
        name: str, dtype: DTypeLike, shape: Sequence[int], location: str, offset: int, length: int
    ) -> TensorProto:
        tensor = TensorProto(name=name, data_type=_tensor_type(dtype), dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        place = {"location": location, "offset": str(offset), "length": str(length)}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=value)
        return tensor


def _tensor_type(dtype: DTypeLike) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
