"""Runs twins: one pass over tokens that are all known, with the attention weights of every layer.

A decoder is given prompt and answer at once: the rows of the answer's tokens are what its steps computed. Knows nothing
about text.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgelm.bundle.bundle import Bundle
from edgelm.bundle.graph_check import MAX_GRAPH_BYTES
from edgelm.bundle.regular_file import read_file
from edgelm.config import KVCacheType
from edgelm.inspection.twin import AttentionKind, make_twin
from edgelm.runtime.embedding import EmbeddingTable
from edgelm.runtime.int8_cache import cache_scales, int8_cache_graph
from edgelm.runtime.kv_cache import KVCache
from edgelm.runtime.prepack import graph_to_load
from edgelm.runtime.session import Session, Switch, Tensor

Weights = NDArray[np.float32]
"""(layers, batch, heads, queries, keys): of the layers wanted, in their order."""
Arrays = dict[str, NDArray[Any]]
Ids = NDArray[np.int64]

SOURCE_MASK = "encoder_attention_mask"
_CROSS, _STATE, _NEXT = "cross_key_values.", "state.", "next_state."


class InspectedGraph:
    """A loaded twin; a context manager.

    Args:
        bundle: one of EdgeLM's own.
        role: which of its graphs.
        threads: threads that one operator may use.
        prepack: read the copy of the weights in this machine's layout, which normal runs share.
        layers: whose attention to give; None: that of all.
        kv_cache: the type of a decoder's cache, whose keys are attended to as it holds them.

    Attributes:
        layers: all layers of each kind.
        embedding: turns ids into vectors, for a graph that takes those.

    Raises:
        ModelError: the runtime refuses it.
        MemoryLimitError: there is not enough memory.
    """

    def __init__(
        self,
        bundle: Bundle,
        role: str,
        *,
        threads: int,
        prepack: bool = True,
        layers: Collection[int] | None = None,
        kv_cache: KVCacheType = "f32",
    ) -> None:
        path, optimize = graph_to_load(bundle, role, prepack=prepack)
        graph = read_file(path.parent, path.name, limit=MAX_GRAPH_BYTES)
        if kv_cache == "int8":
            graph = int8_cache_graph(graph, cache_scales(bundle), what=path.name)
        twin = make_twin(graph, what=path.name, layers=layers)
        self.layers = twin.layers
        self._outputs = twin.outputs
        self.session = Session(path, threads=threads, optimize=optimize, planning=False, graph=twin.data)
        self.embedding = _embedding(bundle) if role == "decoder" else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.session.close()
        if self.embedding is not None:
            self.embedding.close()

    def wanted(self, kind: AttentionKind) -> tuple[int, ...]:
        """The layers whose attention is given."""
        return tuple(sorted(self._outputs.get(kind, {})))

    def heads(self, kind: AttentionKind) -> int:
        """Heads of each of them."""
        return max((output.heads for output in self._outputs.get(kind, {}).values()), default=0)

    def run(
        self,
        inputs: Arrays,
        lengths: Mapping[AttentionKind, tuple[int, int]],
        kept: Arrays | None = None,
        cache: KVCache | None = None,
    ) -> dict[AttentionKind, Weights]:
        """One run.

        Args:
            inputs: all of the graph's but those of the cache, (B, …) each.
            lengths: of each kind that is wanted, queries and keys.
            kept: further outputs, written to these arrays.
            cache: a decoder's.

        Returns:
            The weights of the layers that the graph was made for.

        Raises:
            MemoryLimitError: there is not enough memory. ModelError: an operator failed.
        """
        batch = len(inputs["input_ids" if "input_ids" in inputs else "inputs_embeds"])
        weights: dict[AttentionKind, Weights] = {}
        arrays = dict(kept or {})
        for kind, (queries, keys) in lengths.items():
            wanted = self.wanted(kind)
            weights[kind] = np.empty((len(wanted), batch, self.heads(kind), queries, keys), np.float32)
            arrays |= {self._outputs[kind][layer].name: weights[kind][i] for i, layer in enumerate(wanted)}
        binding = self.session.binding()
        for name, array in inputs.items():
            binding.input(name, Tensor(np.ascontiguousarray(array)))
        for name, array in arrays.items():
            binding.output(name, Tensor(array))
        if cache is not None:
            cache.bind(binding)
        self.session.run(binding, Switch(shrink=True))
        return weights


def encode(graph: InspectedGraph, ids: Ids, mask: Ids, types: Ids | None = None) -> tuple[Weights, Arrays]:
    """One pass of an encoder.

    Args:
        graph: its twin.
        ids: (B, S), rows padded on the right.
        mask: (B, S), 1 = token.
        types: token types, as ``ids``; None: all 0.

    Returns:
        The weights (layers, B, heads, S, S), and what the encoder of an encoder-decoder hands to its decoder.
    """
    session, (batch, length) = graph.session, ids.shape
    inputs: Arrays = {"input_ids": ids, "attention_mask": mask}
    if "token_type_ids" in session.inputs:
        inputs["token_type_ids"] = np.zeros_like(ids) if types is None else types
    handed: Arrays = {
        name: np.empty((batch, int(info.shape[1]), length, int(info.shape[3])), np.float32)
        for name, info in session.outputs.items()
        if name.startswith(_CROSS)
    }
    weights = graph.run(inputs, {"self": (length, length)}, handed)["self"]
    return weights, {**handed, SOURCE_MASK: mask.astype(np.int32)} if handed else {}


def decode(graph: InspectedGraph, ids: Ids, source: Arrays | None = None) -> dict[AttentionKind, Weights]:
    """One pass of a decoder over a whole sequence; a recurrent one takes its steps one by one.

    Args:
        graph: its twin.
        ids: (S,).
        source: what ``encode`` handed over, of one row with L tokens; None: the model has no encoder.

    Returns:
        Weights of ``self`` (layers, 1, heads, S, S), unless it is recurrent, and with a source of ``cross``
        (layers, 1, heads, S, L).
    """
    session, length = graph.session, len(ids)
    if source is not None and any(name.startswith(_STATE) for name in session.inputs):
        return {"cross": _decode_recurrent(graph, ids, source)}
    inputs: Arrays = {
        "seqlens_k": np.array([length - 1], np.int32),
        "total_sequence_length": np.array(length, np.int32),
        "logit_index": np.array([length - 1], np.int64),
        **(source or {}),
    }
    if graph.embedding is None:
        inputs["input_ids"] = ids[None]
    else:
        vectors = np.empty((1, length, graph.embedding.columns), np.float32)
        graph.embedding.lookup(ids, vectors[0])
        inputs["inputs_embeds"] = vectors
    if "position_ids" in session.inputs:
        inputs["position_ids"] = np.arange(length)[None]
    lengths: dict[AttentionKind, tuple[int, int]] = {"self": (length, length)}
    if source is not None:
        lengths["cross"] = length, source[SOURCE_MASK].shape[1]
    cache = KVCache(session.inputs, length)
    cache.reserve(length)
    return graph.run(inputs, lengths, cache=cache)


def _decode_recurrent(graph: InspectedGraph, ids: Ids, source: Arrays) -> Weights:
    states = {
        name: np.zeros((1, int(info.shape[1])), np.float32)
        for name, info in graph.session.inputs.items()
        if name.startswith(_STATE)
    }
    steps = []
    for place, token in enumerate(ids):
        inputs: Arrays = {"input_ids": np.array([[token]]), "position_ids": np.array([[place]]), **states, **source}
        following: Arrays = {name.replace(_STATE, _NEXT, 1): np.empty_like(state) for name, state in states.items()}
        steps.append(graph.run(inputs, {"cross": (1, source[SOURCE_MASK].shape[1])}, following)["cross"])
        states = {name.replace(_NEXT, _STATE, 1): state for name, state in following.items()}
    return np.concatenate(steps, axis=3)


def _embedding(bundle: Bundle) -> EmbeddingTable | None:
    table = bundle.manifest.embedding
    if table is None:
        return None
    return EmbeddingTable(bundle.path(table.file), rows=table.rows, columns=table.columns, block_size=table.block_size)
