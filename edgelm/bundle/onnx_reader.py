"""Reads the parts of an ONNX file without a runtime and without its weights: only their places are read.

A message that occurs twice where the format has one is refused, because parsers differ in how they merge such
twins, and what was checked must be what is run. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

import re

from edgelm.bundle.onnx_model import (
    ExternalData,
    OnnxAttribute,
    OnnxGraph,
    OnnxModel,
    OnnxNode,
    OnnxTensor,
    ValueInfo,
)
from edgelm.bundle.protobuf import BYTES, FIXED32, FIXED64, VARINT, Buffer, WireReader, key, signed

MAX_SUBGRAPH_DEPTH = 8
MAX_RANK = 32

_MODEL_IR_VERSION = key(1, VARINT)
_MODEL_GRAPH, _MODEL_OPSET, _MODEL_METADATA, _MODEL_FUNCTION = (key(n, BYTES) for n in (7, 8, 14, 25))
_OPSET_DOMAIN, _OPSET_VERSION = key(1, BYTES), key(2, VARINT)
_ENTRY_KEY, _ENTRY_VALUE = key(1, BYTES), key(2, BYTES)
_FUNCTION_NAME, _FUNCTION_DOMAIN = key(1, BYTES), key(10, BYTES)
_GRAPH_NODE, _GRAPH_NAME, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_SPARSE = (
    key(n, BYTES) for n in (1, 2, 5, 11, 12, 15)
)
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OP_TYPE, _NODE_ATTRIBUTE, _NODE_DOMAIN = (
    key(n, BYTES) for n in (1, 2, 3, 4, 5, 7)
)
_ATTRIBUTE_NAME, _ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS = (key(n, BYTES) for n in (1, 5, 10))
_ATTRIBUTE_GRAPHS = frozenset((key(6, BYTES), key(11, BYTES)))
_ATTRIBUTE_SPARSE = frozenset((key(22, BYTES), key(23, BYTES)))
_TENSOR_DIM, _TENSOR_DTYPE, _TENSOR_LOCATION = (key(n, VARINT) for n in (1, 2, 14))
_TENSOR_PACKED_DIMS, _TENSOR_NAME, _TENSOR_RAW, _TENSOR_EXTERNAL = (key(n, BYTES) for n in (1, 8, 9, 13))
# float_data, int32_data, string_data, int64_data, double_data and uint64_data: packed, and number by number.
_TENSOR_TYPED = frozenset((*(key(n, BYTES) for n in (4, 5, 6, 7, 10, 11)), key(4, FIXED32), key(10, FIXED64)))
_TENSOR_TYPED_NUMBER = frozenset(key(n, VARINT) for n in (5, 7, 11))
_VALUE_NAME, _VALUE_TYPE = key(1, BYTES), key(2, BYTES)
_TYPE_TENSOR = key(1, BYTES)
_TYPE_OTHERS = frozenset(key(n, BYTES) for n in (4, 5, 7, 8, 9))
_TENSOR_TYPE_DTYPE, _TENSOR_TYPE_SHAPE = key(1, VARINT), key(2, BYTES)
_SHAPE_DIM = key(1, BYTES)
_DIM_VALUE, _DIM_NAME = key(1, VARINT), key(2, BYTES)

_LOCATION_EXTERNAL = 1
_EXTERNAL_KEYS = frozenset(("location", "offset", "length", "checksum"))
_INTEGER = re.compile(r"-?[0-9]{1,19}")


def read_model(data: Buffer, *, what: str) -> OnnxModel:
    """Walks a serialized ``ModelProto``.

    Time is linear in the file, memory bounded by ``protobuf.MAX_FIELDS``; tensor data is skipped, never copied.

    Raises:
        ModelError: the bytes are no ONNX model, or over a bound; names ``what`` and the byte.
    """
    return _ModelReader(data, what=what).model(0, len(data))


class _ModelReader(WireReader):
    """One method a message of onnx.proto; each takes the span of its message."""

    def model(self, start: int, end: int) -> OnnxModel:
        ir_version = 0
        opsets: list[tuple[str, int]] = []
        functions: list[tuple[str, str]] = []
        metadata: list[tuple[str, str]] = []
        graph: OnnxGraph | None = None
        for field, a, b in self.fields(start, end):
            if field == _MODEL_IR_VERSION:
                ir_version = signed(a)
            elif field == _MODEL_GRAPH:
                if graph is not None:
                    raise self.fault("a second graph", a)
                graph = self._graph(a, b, depth=0)
            elif field == _MODEL_OPSET:
                opsets.append(self._opset(a, b))
            elif field == _MODEL_METADATA:
                metadata.append(self._entry(a, b))
            elif field == _MODEL_FUNCTION:
                functions.append(self._function(a, b))
        if graph is None:
            raise self.fault("no graph", end)
        return OnnxModel(ir_version, tuple(opsets), graph, tuple(functions), tuple(metadata))

    def _opset(self, start: int, end: int) -> tuple[str, int]:
        domain, version = "", 0
        for field, a, b in self.fields(start, end):
            if field == _OPSET_DOMAIN:
                domain = self.text(a, b)
            elif field == _OPSET_VERSION:
                version = signed(a)
        return domain, version

    def _entry(self, start: int, end: int) -> tuple[str, str]:
        name, value = "", ""
        for field, a, b in self.fields(start, end):
            if field == _ENTRY_KEY:
                name = self.text(a, b)
            elif field == _ENTRY_VALUE:
                value = self.text(a, b)
        return name, value

    def _function(self, start: int, end: int) -> tuple[str, str]:
        domain, name = "", ""
        for field, a, b in self.fields(start, end):
            if field == _FUNCTION_DOMAIN:
                domain = self.text(a, b)
            elif field == _FUNCTION_NAME:
                name = self.text(a, b)
        return domain, name

    def _graph(self, start: int, end: int, *, depth: int) -> OnnxGraph:
        if depth > MAX_SUBGRAPH_DEPTH:
            raise self.fault(f"graphs nested deeper than {MAX_SUBGRAPH_DEPTH}", start)
        name, sparse = "", 0
        nodes: list[OnnxNode] = []
        initializers: list[OnnxTensor] = []
        inputs: list[ValueInfo] = []
        outputs: list[ValueInfo] = []
        for field, a, b in self.fields(start, end):
            if field == _GRAPH_NODE:
                nodes.append(self._node(a, b, depth))
            elif field == _GRAPH_INITIALIZER:
                initializers.append(self._tensor(a, b))
            elif field == _GRAPH_INPUT:
                inputs.append(self._value_info(a, b))
            elif field == _GRAPH_OUTPUT:
                outputs.append(self._value_info(a, b))
            elif field == _GRAPH_NAME:
                name = self.text(a, b)
            elif field == _GRAPH_SPARSE:
                sparse += 1
        return OnnxGraph(name, tuple(nodes), tuple(initializers), tuple(inputs), tuple(outputs), sparse)

    def _node(self, start: int, end: int, depth: int) -> OnnxNode:
        domain = op_type = name = ""
        inputs: list[str] = []
        outputs: list[str] = []
        attributes: list[OnnxAttribute] = []
        for field, a, b in self.fields(start, end):
            if field == _NODE_INPUT:
                inputs.append(self.text(a, b))
            elif field == _NODE_OUTPUT:
                outputs.append(self.text(a, b))
            elif field == _NODE_ATTRIBUTE:
                attributes.append(self._attribute(a, b, depth))
            elif field == _NODE_OP_TYPE:
                op_type = self.text(a, b)
            elif field == _NODE_DOMAIN:
                domain = self.text(a, b)
            elif field == _NODE_NAME:
                name = self.text(a, b)
        return OnnxNode(domain, op_type, name, tuple(inputs), tuple(outputs), tuple(attributes))

    def _attribute(self, start: int, end: int, depth: int) -> OnnxAttribute:
        name, sparse, has_tensor = "", 0, False
        tensors: list[OnnxTensor] = []
        subgraphs: list[OnnxGraph] = []
        for field, a, b in self.fields(start, end):
            if field == _ATTRIBUTE_NAME:
                name = self.text(a, b)
            elif field == _ATTRIBUTE_TENSOR:
                if has_tensor:
                    raise self.fault("a second tensor in one attribute", a)
                has_tensor = True
                tensors.append(self._tensor(a, b))
            elif field == _ATTRIBUTE_TENSORS:
                tensors.append(self._tensor(a, b))
            elif field in _ATTRIBUTE_GRAPHS:
                subgraphs.append(self._graph(a, b, depth=depth + 1))
            elif field in _ATTRIBUTE_SPARSE:
                sparse += 1
        return OnnxAttribute(name, tuple(tensors), tuple(subgraphs), sparse)

    def _tensor(self, start: int, end: int) -> OnnxTensor:
        name, dtype, location, typed_bytes = "", 0, 0, 0
        raw_bytes: int | None = None
        dims: list[int] = []
        entries: list[tuple[str, str]] = []
        for field, a, b in self.fields(start, end):
            if field == _TENSOR_DIM:
                dims.append(signed(a))
            elif field == _TENSOR_PACKED_DIMS:
                dims.extend(signed(value) for value in self.varints(a, b))
            elif field == _TENSOR_DTYPE:
                dtype = self._int32(a, start)
            elif field == _TENSOR_NAME:
                name = self.text(a, b)
            elif field == _TENSOR_EXTERNAL:
                entries.append(self._entry(a, b))
            elif field == _TENSOR_LOCATION:
                location = self._int32(a, start)
            elif field == _TENSOR_RAW:
                raw_bytes = b - a
            elif field in _TENSOR_TYPED:
                typed_bytes += b - a
            elif field in _TENSOR_TYPED_NUMBER:
                typed_bytes += 1
        if len(dims) > MAX_RANK:
            raise self.fault(f"a tensor of {len(dims)} dimensions, more than the {MAX_RANK} allowed", start)
        if location > _LOCATION_EXTERNAL:
            raise self.fault(f"data location {location} of tensor {name[:80]!a}", start)
        external = self._external(entries, name, start) if location == _LOCATION_EXTERNAL else None
        return OnnxTensor(name, dtype, tuple(dims), external, raw_bytes, typed_bytes)

    def _external(self, entries: list[tuple[str, str]], tensor: str, position: int) -> ExternalData:
        values = dict(entries)
        unknown = sorted(values.keys() - _EXTERNAL_KEYS)
        where = f"in the external data of tensor {tensor[:80]!a}"
        if len(values) < len(entries) or unknown:
            what = f"the unknown key {unknown[0][:80]!a}" if unknown else "a key that occurs twice"
            raise self.fault(f"{what} {where}", position)
        if "location" not in values:
            raise self.fault(f"no location {where}", position)
        numbers: dict[str, int] = {}
        for name in ("offset", "length"):
            if name in values:
                if not _INTEGER.fullmatch(values[name]):
                    raise self.fault(f"{name} {values[name][:40]!a} {where}", position)
                numbers[name] = int(values[name])
        return ExternalData(values["location"], numbers.get("offset", 0), numbers.get("length"))

    def _int32(self, value: int, position: int) -> int:
        """A type or an enum: none is negative, and parsers differ in what they make of more than 31 bits."""
        if value >> 31:
            raise self.fault(f"a type numbered {value}", position)
        return value

    def _value_info(self, start: int, end: int) -> ValueInfo:
        name = ""
        dtype = 0
        dims: tuple[int | str | None, ...] | None = None
        seen = False
        for field, a, b in self.fields(start, end):
            if field == _VALUE_NAME:
                name = self.text(a, b)
            elif field == _VALUE_TYPE:
                if seen:
                    raise self.fault("a second type of one value", a)
                seen = True
                dtype, dims = self._type(a, b)
        return ValueInfo(name, dtype, dims)

    def _type(self, start: int, end: int) -> tuple[int, tuple[int | str | None, ...] | None]:
        span: tuple[int, int] | None = None
        seen = False
        for field, a, b in self.fields(start, end):
            if field == _TYPE_TENSOR or field in _TYPE_OTHERS:
                if seen:
                    raise self.fault("a second type of one value", a)
                seen = True
                span = (a, b) if field == _TYPE_TENSOR else None
        return self._tensor_type(*span) if span else (0, None)

    def _tensor_type(self, start: int, end: int) -> tuple[int, tuple[int | str | None, ...] | None]:
        dtype = 0
        dims: tuple[int | str | None, ...] | None = None
        for field, a, b in self.fields(start, end):
            if field == _TENSOR_TYPE_DTYPE:
                dtype = self._int32(a, start)
            elif field == _TENSOR_TYPE_SHAPE:
                if dims is not None:
                    raise self.fault("a second shape of one value", a)
                dims = self._shape(a, b)
        return dtype, dims

    def _shape(self, start: int, end: int) -> tuple[int | str | None, ...]:
        dims = tuple(self._dim(a, b) for field, a, b in self.fields(start, end) if field == _SHAPE_DIM)
        if len(dims) > MAX_RANK:
            raise self.fault(f"a shape of {len(dims)} dimensions, more than the {MAX_RANK} allowed", start)
        return dims

    def _dim(self, start: int, end: int) -> int | str | None:
        dim: int | str | None = None
        for field, a, b in self.fields(start, end):
            if field == _DIM_VALUE:
                dim = signed(a)
            elif field == _DIM_NAME:
                dim = self.text(a, b)
        return dim
