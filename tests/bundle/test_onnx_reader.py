"""The walker against onnx's own parser: it says the same of sound files, and agrees or refuses on broken ones."""

import tracemalloc
from collections.abc import Iterable
from typing import TypeVar

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from support.bundles import TinyDecoder, decoder_model

from edgelm.bundle import protobuf
from edgelm.bundle.onnx_model import (
    DATA_TYPES,
    ExternalData,
    OnnxAttribute,
    OnnxGraph,
    OnnxModel,
    OnnxNode,
    OnnxTensor,
    ValueInfo,
)
from edgelm.bundle.onnx_reader import MAX_RANK, MAX_SUBGRAPH_DEPTH, read_model
from edgelm.errors import ModelError

T = TypeVar("T")


def external_tensor(name: str, **entries: object) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[2, 3], data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def branch(name: str) -> onnx.GraphProto:
    constant = helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.ones(2, np.float32), "one"))
    return helper.make_graph([constant], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2])])


def rich_model() -> onnx.ModelProto:
    """One of everything that the reader looks at."""
    sparse = onnx.SparseTensorProto(dims=[4])
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "sparse"))
    nodes = [
        helper.make_node("If", ["condition"], ["y"], "choice", then_branch=branch("a"), else_branch=branch("b")),
        helper.make_node("MatMulNBits", ["x", "", "w"], ["z"], domain="com.microsoft", bits=8, K=2, N=3),
        helper.make_node("Constant", [], ["c"], value_floats=[1.0, 2.0]),
        helper.make_node("Constant", [], ["s"], sparse_value=sparse),
    ]
    weights = [
        numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(2, 3), "raw"),
        helper.make_tensor("typed", TensorProto.INT64, [3], [1, 2**40, -1]),
        helper.make_tensor("floats", TensorProto.FLOAT, [2], [1.0, 2.0]),
        helper.make_tensor("empty", TensorProto.FLOAT, [0], []),
        external_tensor("outside", location="weights.data", offset=64, length=24),
        external_tensor("plain", location="weights.data"),
    ]
    inputs = [
        helper.make_tensor_value_info("condition", TensorProto.BOOL, []),
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 2, None]),
        helper.make_tensor_value_info("shapeless", TensorProto.INT8, None),
        helper.make_tensor_sequence_value_info("several", TensorProto.FLOAT, ["B"]),
        onnx.ValueInfoProto(name="untyped"),
    ]
    outputs = [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["B", 3])]
    graph = helper.make_graph(nodes, "rich", inputs, outputs, weights, "a note", sparse_initializer=[sparse])
    function = helper.make_function("local", "Twice", ["x"], ["y"], [helper.make_node("Add", ["x", "x"], ["y"])], [])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=10)
    model.metadata_props.add(key="author", value="Zoë")
    return model


def tensor_of(tensor: TensorProto) -> OnnxTensor:
    external = None
    if tensor.data_location == TensorProto.EXTERNAL:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        length = int(entries["length"]) if "length" in entries else None
        external = ExternalData(entries["location"], int(entries.get("offset", 0)), length)
    raw_bytes = len(tensor.raw_data) if tensor.HasField("raw_data") else None
    return OnnxTensor(tensor.name, tensor.data_type, tuple(tensor.dims), external, raw_bytes, 0)


def value_of(value: onnx.ValueInfoProto) -> ValueInfo:
    if value.type.WhichOneof("value") != "tensor_type":
        return ValueInfo(value.name, 0, None)
    tensor = value.type.tensor_type
    dims = None
    if tensor.HasField("shape"):
        kinds = [(dim, dim.WhichOneof("value")) for dim in tensor.shape.dim]
        dims = tuple(getattr(dim, kind) if kind else None for dim, kind in kinds)
    return ValueInfo(value.name, tensor.elem_type, dims)


def attribute_of(attribute: onnx.AttributeProto) -> OnnxAttribute:
    tensors = [*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors]
    graphs = [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
    sparse = attribute.HasField("sparse_tensor") + len(attribute.sparse_tensors)
    return OnnxAttribute(attribute.name, in_order(map(tensor_of, tensors)), in_order(map(graph_of, graphs)), sparse)


def in_order(parts: Iterable[T]) -> tuple[T, ...]:
    """A damaged attribute may hold lists and single things at once; the two parsers give them in different order."""
    return tuple(sorted(parts, key=repr))


def node_of(node: onnx.NodeProto) -> OnnxNode:
    attributes = tuple(map(attribute_of, node.attribute))
    return OnnxNode(node.domain, node.op_type, node.name, tuple(node.input), tuple(node.output), attributes)


def graph_of(graph: onnx.GraphProto) -> OnnxGraph:
    return OnnxGraph(
        graph.name,
        tuple(map(node_of, graph.node)),
        tuple(map(tensor_of, graph.initializer)),
        tuple(map(value_of, graph.input)),
        tuple(map(value_of, graph.output)),
        len(graph.sparse_initializer),
    )


def model_of(model: onnx.ModelProto) -> OnnxModel:
    """What the reader should say of a model, told by onnx's parser; sizes of typed data aside."""
    return OnnxModel(
        model.ir_version,
        tuple((opset.domain, opset.version) for opset in model.opset_import),
        graph_of(model.graph),
        tuple((function.domain, function.name) for function in model.functions),
        tuple((entry.key, entry.value) for entry in model.metadata_props),
    )


def without_typed_sizes(graph: OnnxGraph) -> OnnxGraph:
    def clear(tensors: tuple[OnnxTensor, ...]) -> tuple[OnnxTensor, ...]:
        return tuple(tensor._replace(typed_bytes=0) for tensor in tensors)

    def clear_attribute(attribute: OnnxAttribute) -> OnnxAttribute:
        subgraphs = in_order(map(without_typed_sizes, attribute.subgraphs))
        return attribute._replace(tensors=in_order(clear(attribute.tensors)), subgraphs=subgraphs)

    nodes = tuple(node._replace(attributes=tuple(map(clear_attribute, node.attributes))) for node in graph.nodes)
    return graph._replace(nodes=nodes, initializers=clear(graph.initializers))


def read(data: protobuf.Buffer) -> OnnxModel:
    model = read_model(data, what="x.onnx")
    return model._replace(graph=without_typed_sizes(model.graph))


MODELS = {"rich": rich_model(), "decoder": decoder_model(), "three layers": decoder_model(TinyDecoder(layers=3))}
WRITTEN = {name: model.SerializeToString() for name, model in MODELS.items()}


@pytest.mark.parametrize("name", MODELS)
def test_a_sound_model_reads_as_with_onnx(name: str) -> None:
    assert read(WRITTEN[name]) == model_of(MODELS[name])
    assert read(memoryview(WRITTEN[name])) == model_of(MODELS[name])


def test_all_element_types_are_those_of_onnx() -> None:
    for number, (name, bits) in DATA_TYPES.items():
        if number == TensorProto.STRING:
            continue
        dtype = helper.tensor_dtype_to_np_dtype(number)
        assert dtype.name.replace("_", "").startswith(name)
        packed = {"uint4": 4, "int4": 4, "float4e2m1": 4, "uint2": 2, "int2": 2}
        assert bits == packed.get(name, dtype.itemsize * 8)


def test_sizes_of_typed_data() -> None:
    sizes = {tensor.name: tensor.typed_bytes for tensor in read_model(WRITTEN["rich"], what="x").graph.initializers}
    assert sizes == {"raw": 0, "typed": 1 + 6 + 10, "floats": 8, "empty": 0, "outside": 0, "plain": 0}


def test_dims_may_be_packed_or_not() -> None:
    unpacked = b"\x08\x02\x08\x03\x10\x01"
    packed = b"\x0a\x02\x02\x03\x10\x01"
    for tensor in (unpacked, packed):
        graph = b"\x2a" + bytes([len(tensor)]) + tensor
        initializer = read(b"\x3a" + bytes([len(graph)]) + graph).graph.initializers[0]
        assert (initializer.dims, initializer.dtype) == ((2, 3), 1)


EDITS = st.lists(
    st.tuples(st.sampled_from(["set", "drop", "insert", "copy"]), st.integers(0, 1 << 20), st.binary(max_size=4)),
    min_size=1,
    max_size=3,
)


def edited(data: bytes, edits: list[tuple[str, int, bytes]]) -> bytes:
    for kind, place, value in edits:
        at = place % len(data)
        if kind == "set":
            data = data[:at] + value + data[at + len(value) :]
        elif kind == "drop":
            data = data[:at] + data[at + 1 + len(value) :]
        elif kind == "insert":
            data = data[:at] + value + data[at:]
        else:
            data = data[:at] + data[at // 2 : at] + data[at:]
        data = data or b"\0"
    return data


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(["rich", "decoder"]), EDITS)
def test_a_damaged_model_is_refused_or_read_as_onnx_reads_it(name: str, edits: list[tuple[str, int, bytes]]) -> None:
    data = edited(WRITTEN[name], edits)
    try:
        ours = read(data)
    except ModelError:
        return
    try:
        theirs = model_of(onnx.ModelProto.FromString(data))
    except (DecodeError, UnicodeDecodeError):
        return  # broken in a part that the walker skips: the runtime will not take it
    assert ours == theirs


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        read(data)
    except ModelError:
        return
    onnx.ModelProto.FromString(data)


@pytest.mark.parametrize("name", ["rich", "decoder"])
def test_a_model_cut_anywhere_is_never_taken_for_more_than_it_is(name: str) -> None:
    data = WRITTEN[name]
    for end in range(0, len(data), 7):
        try:
            ours = read(data[:end])
        except ModelError:
            continue
        assert ours == model_of(onnx.ModelProto.FromString(data[:end]))


def field(number: int, body: bytes) -> bytes:
    """A field of bytes."""

    def varint(value: int) -> bytes:
        out = b""
        while value > 127:
            out += bytes([value & 127 | 128])
            value >>= 7
        return out + bytes([value])

    return varint(number << 3 | 2) + varint(len(body)) + body


REFUSED = [
    (b"", "no graph"),
    (b"PK\x03\x04", "field number 0"),
    (field(7, b"") * 2, "a second graph"),
    (b"\x02\x00", "field number 0"),
    (b"\x3b\x3c", "wire type 3"),
    (b"\x3a\xff\xff\xff\xff\x07", "runs past the end"),
    (b"\x3a" + b"\xff" * 11, "longer than 10 bytes"),
    (b"\x3a", "cut short"),
    (b"\x08", "cut short"),
    (b"\xba\x80\x80\x80\x10\x00", "field number"),
    (field(7, field(2, b"\xff\xfe")), "not UTF-8"),
    (field(7, field(2, b"x" * 70_000)), "a string of 70000 bytes"),
    (field(7, field(5, b"\x08\x01" * (MAX_RANK + 1))), "a tensor of 33 dimensions"),
    (field(7, field(5, b"\x70\x02")), "data location 2"),
    (field(7, field(5, b"\x70\x81\x80\x80\x80\x10")), "a type numbered 4294967297"),
    (field(7, field(5, b"\x70\x01")), "no location"),
    (field(7, field(5, b"\x70\x01" + field(13, field(1, b"location")) * 2)), "a key that occurs twice"),
    (field(7, field(5, b"\x70\x01" + field(13, field(1, b"prepacked_0")))), "the unknown key 'prepacked_0'"),
    (field(7, field(1, field(5, field(5, b"") * 2))), "a second tensor in one attribute"),
    (field(7, field(11, field(2, b"") * 2)), "a second type of one value"),
    (field(7, field(11, field(2, field(1, b"") * 2))), "a second type of one value"),
    (field(7, field(11, field(2, field(1, b"") + field(4, b"")))), "a second type of one value"),
    (field(7, field(11, field(2, field(1, field(2, b"") * 2)))), "a second shape of one value"),
]


@pytest.mark.parametrize(("data", "reason"), REFUSED)
def test_what_is_malformed_or_read_differently_by_parsers_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ModelError, match=reason) as caught:
        read_model(data, what="x.onnx")
    assert str(caught.value).startswith("x.onnx: not a valid ONNX file: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["", "0x10", "1e3", " 1", "+1", "--1", "9" * 20, "١"])
def test_an_offset_must_be_a_decimal_number(value: str) -> None:
    model = MODELS["decoder"].__deepcopy__()
    model.graph.initializer.append(external_tensor("t", location="w", offset=value))
    with pytest.raises(ModelError, match=r"offset .* in the external data of tensor 't'"):
        read_model(model.SerializeToString(), what="x.onnx")


def test_graphs_in_graphs_are_read_to_a_depth() -> None:
    def nested(depth: int) -> bytes:
        graph = b""
        for _ in range(depth):
            graph = field(1, field(5, field(6, graph)))
        return field(7, graph)

    model = read_model(nested(MAX_SUBGRAPH_DEPTH), what="x.onnx")
    for _ in range(MAX_SUBGRAPH_DEPTH):
        model = model._replace(graph=model.graph.nodes[0].attributes[0].subgraphs[0])
    with pytest.raises(ModelError, match="graphs nested deeper than 8"):
        read_model(nested(MAX_SUBGRAPH_DEPTH + 1), what="x.onnx")
    with pytest.raises(ModelError, match="graphs nested deeper than 8"):
        read_model(nested(2000), what="x.onnx")


def test_weights_inside_the_file_are_not_copied() -> None:
    weights = np.zeros(4_000_000, np.float32)
    graph = helper.make_graph([], "g", [], [], [numpy_helper.from_array(weights, "w")])
    data = helper.make_model(graph).SerializeToString()
    tracemalloc.start()
    try:
        tensor = read_model(data, what="x.onnx").graph.initializers[0]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert tensor.raw_bytes == weights.nbytes
    assert peak < 100_000


def test_a_file_of_endless_tiny_nodes_is_refused_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protobuf, "MAX_FIELDS", 10_000)
    data = field(7, b"\x0a\x00" * 1_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match="more than the 10000 fields allowed"):
            read_model(data, what="x.onnx")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10_000 * 250


def test_long_strings_count_towards_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protobuf, "MAX_FIELDS", 1000)
    with pytest.raises(ModelError, match="more than the 1000 fields allowed"):
        read_model(field(7, field(1, field(1, b"x" * 60_000) * 10)), what="x.onnx")
