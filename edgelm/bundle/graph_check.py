"""Whether a graph may be handed to the runtime: known operators, weights in their place, the inputs it must have.

Everything is decided on the bytes of the file, before ONNX Runtime sees one of them.
"""

from __future__ import annotations

import math
import mmap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from edgelm.bundle.cross_decoder_contract import check_cross_decoder
from edgelm.bundle.decoder_contract import check_decoder
from edgelm.bundle.encoder_contract import check_cross_encoder, check_encoder
from edgelm.bundle.foreign_contract import check_foreign
from edgelm.bundle.foreign_operators import BRANCHES, FOREIGN_OPERATORS
from edgelm.bundle.integrity import check_size
from edgelm.bundle.manifest import NATIVE_LAYOUT, FileEntry, Manifest
from edgelm.bundle.onnx_model import OnnxGraph, OnnxModel, OnnxNode, OnnxTensor, ValueInfo
from edgelm.bundle.onnx_reader import read_model
from edgelm.bundle.operators import ALLOWED_OPERATORS, operator_name
from edgelm.bundle.regular_file import open_file
from edgelm.bundle.weight_files import check_weight_files
from edgelm.bundle.weights_check import check_weights
from edgelm.errors import ModelError

# A serialized protocol buffer ends here; larger weights lie outside the graph.
MAX_GRAPH_BYTES = (1 << 31) - 1
# What a file in ONNX Runtime's own format has at its fifth byte; in ONNX it could only be a producer's name.
_ORT_MARK = b"ORTM"
# Matrices are padded to blocks, and rotated by some of this size, whatever a model's own sizes are.
_PADDING = 128


class GraphInfo(NamedTuple):
    """What a checked graph is.

    Attributes:
        file_name: the graph's file in the bundle.
        inputs: what a run must be given; initializers are not among them.
        outputs: what a run gives.
        node_count: number of operator calls.
        external_files: files of the bundle that hold its weights.
        weight_bytes: bytes of all weights; those that share a place count once.
        operators: operator → number of its calls, those in branches included.
        width: what some matrix of weights has in rows and in columns at least; packed numbers count as one.
    """

    file_name: str
    inputs: tuple[ValueInfo, ...]
    outputs: tuple[ValueInfo, ...]
    node_count: int
    external_files: tuple[str, ...]
    weight_bytes: int
    operators: dict[str, int]
    width: int


class GraphRules(NamedTuple):
    """What a graph may consist of: the names by domain of plain operators, and of those that hold graphs."""

    operators: Mapping[str, frozenset[str]]
    branches: Mapping[str, frozenset[str]]


NATIVE_RULES = GraphRules(ALLOWED_OPERATORS, {})
FOREIGN_RULES = GraphRules(FOREIGN_OPERATORS, BRANCHES)


def check_graph(folder: Path, file_name: str, manifest: Manifest) -> GraphInfo:
    """Reads a graph file of a bundle and checks all that can be told without running it.

    Raises:
        ModelError: not ONNX, an operator that is not allowed, weights out of place or of another model's size than
            the manifest's, or inputs or outputs not as they must be; names the node, tensor, input or output.
        IntegrityError: a file is missing, no regular file, or of another size than the manifest's.
    """
    native = manifest.layout == NATIVE_LAYOUT
    info = inspect_graph(folder, file_name, manifest.files, NATIVE_RULES if native else FOREIGN_RULES)
    check_weight_files(info.external_files, graph_file=file_name, manifest=manifest)
    if not native:
        roles = [role for role, name in manifest.graphs.items() if name == file_name]
        check_foreign(info.inputs, info.outputs, graph_file=file_name, roles=roles, manifest=manifest)
    else:
        _check_contract(info.inputs, info.outputs, file_name, manifest)
        _check_width(info, manifest)
    return info


def inspect_graph(folder: Path, file_name: str, files: Mapping[str, FileEntry], rules: GraphRules) -> GraphInfo:
    """Reads a graph file and checks what needs no knowledge of the model: operators and weights.

    Args:
        folder: where the graph and its weights lie.
        file_name: the graph's file.
        files: the files there that it may use, itself included; hashes are not looked at.
        rules: what it may consist of.

    Raises:
        ModelError, IntegrityError: see ``check_graph``.
    """
    entry = files.get(file_name)
    if entry is None:
        raise ModelError(f"{file_name[:80]!a} is not in the manifest's files")
    check_size(folder, file_name, entry)
    model = _read(folder, file_name, entry.size)
    if model.functions:
        name = operator_name(*model.functions[0])
        raise ModelError(f"{file_name}: defines the function {name}; graphs with functions of their own are not run")
    graph = model.graph
    calls: Counter[str] = Counter()
    graphs = list(_check_nodes(graph, file_name, rules, calls))
    tensors = [tensor for part in graphs for tensor in _tensors(part)]
    weights = check_weights(tensors, graph_file=file_name, folder=folder, files=files)
    initialized = {tensor.name for tensor in graph.initializers}
    inputs = tuple(value for value in graph.inputs if value.name not in initialized)
    _check_names(inputs, "input", file_name)
    _check_names(graph.outputs, "output", file_name)
    return GraphInfo(
        file_name=file_name,
        inputs=inputs,
        outputs=graph.outputs,
        node_count=calls.total(),
        external_files=weights.files,
        weight_bytes=weights.nbytes,
        operators=dict(calls),
        width=max((_width(tensor) for tensor in tensors), default=0),
    )


def _check_contract(
    inputs: tuple[ValueInfo, ...], outputs: tuple[ValueInfo, ...], file_name: str, manifest: Manifest
) -> None:
    if manifest.family == "decoder":
        check_decoder(inputs, outputs, graph_file=file_name, manifest=manifest)
    elif manifest.family == "encoder":
        check_encoder(inputs, outputs, graph_file=file_name, manifest=manifest)
    elif file_name == manifest.graphs["encoder"]:
        check_cross_encoder(inputs, outputs, graph_file=file_name, manifest=manifest)
    elif file_name == manifest.graphs["decoder"]:
        check_cross_decoder(inputs, outputs, graph_file=file_name, manifest=manifest)


def _read(folder: Path, file_name: str, size: int) -> OnnxModel:
    if not 0 < size <= MAX_GRAPH_BYTES:
        raise ModelError(f"{file_name}: not a valid ONNX file: {size} bytes")
    # Mapped, so that weights inside the file are skipped without being read.
    with open_file(folder, file_name) as file:
        try:
            data = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # ValueError: it has shrunk since its size was checked
            raise ModelError(f"{file_name} in {folder} cannot be read: {error}") from error
    with data:
        if data[4:8] == _ORT_MARK:
            raise ModelError(f"{file_name}: in ONNX Runtime's own format (ORT), which cannot be checked; ONNX is read")
        return read_model(data, what=file_name)


def _check_nodes(graph: OnnxGraph, file_name: str, rules: GraphRules, calls: Counter[str]) -> Iterator[OnnxGraph]:
    """Checks a graph's nodes, and those of its branches; yields it and them, and counts the operators' calls."""
    if graph.sparse_initializers:
        raise ModelError(f"{file_name}: has sparse tensors, which EdgeLM does not read")
    yield graph
    for index, node in enumerate(graph.nodes):
        calls[operator_name(node.domain, node.op_type)] += 1
        branches = node.op_type in rules.branches.get(node.domain, ())
        if not branches and node.op_type not in rules.operators.get(node.domain, ()):
            raise ModelError(f"{_node_place(node, index, file_name)} is not an operator that EdgeLM runs")
        for attribute in node.attributes:
            if attribute.sparse_tensors or (attribute.subgraphs and not branches):
                what = "a graph of its own" if attribute.subgraphs else "a sparse tensor"
                place = _node_place(node, index, file_name)
                raise ModelError(f"{place} holds {what} in attribute {attribute.name[:80]!a}")
            for subgraph in attribute.subgraphs:
                yield from _check_nodes(subgraph, file_name, rules, calls)


def _node_place(node: OnnxNode, index: int, file_name: str) -> str:
    return f"{file_name}: node {index} {node.name[:80]!a}: {operator_name(node.domain, node.op_type)}"


def _tensors(graph: OnnxGraph) -> Iterator[OnnxTensor]:
    held = (attribute.tensors for node in graph.nodes for attribute in node.attributes)
    return chain(graph.initializers, chain.from_iterable(held))


def _width(tensor: OnnxTensor) -> int:
    """The shorter side of a matrix; blocks of (N, blocks, bytes) are one of N rows."""
    return min(tensor.dims[0], math.prod(tensor.dims[1:])) if len(tensor.dims) > 1 else 0


def _check_width(info: GraphInfo, manifest: Manifest) -> None:
    """Both sides of a matrix are widths of values, so that the footprint must tell of one that is as wide."""
    sizes = manifest.footprint
    if sizes is None:
        return
    widest = max(sizes.hidden_size, sizes.intermediate_size, sizes.heads * sizes.head_size)
    if info.width > widest + _PADDING:
        raise ModelError(
            f"{info.file_name}: has weights with {info.width} rows and columns or more, but by the manifest's "
            f"footprint no layer is wider than {widest}"
        )


def _check_names(values: Iterable[ValueInfo], kind: str, file_name: str) -> None:
    seen: set[str] = set()
    for value in values:
        if value.name in seen:
            raise ModelError(f"{file_name}: {kind} {value.name[:80]!a} occurs twice")
        seen.add(value.name)
