"""A loaded model that generates: it makes decoders, for one sequence or for several. The one place that knows families.

The engine of folders made by others is ``foreign.engine``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

from edgelm.bundle.bundle import Bundle
from edgelm.bundle.manifest import NATIVE_LAYOUT
from edgelm.config import RuntimeConfig
from edgelm.errors import UnsupportedModelError
from edgelm.runtime.batch_decoder import BatchDecoder
from edgelm.runtime.cores import available_cores
from edgelm.runtime.decoder import Decoder
from edgelm.runtime.embedding import EmbeddingTable
from edgelm.runtime.int8_cache import cache_scales, check_kv_cache, load_int8_cache_graph
from edgelm.runtime.prepack import graph_to_load
from edgelm.runtime.recurrent_decoder import RecurrentDecoder
from edgelm.runtime.sequences import SequenceDecoder
from edgelm.runtime.session import Session, Switch
from edgelm.runtime.single_row import Rows
from edgelm.runtime.source_rows import check_cross_shapes, encode_sources
from edgelm.runtime.token_rows import Ids


class Engine(Protocol):
    """What generating needs of a model, whoever made its graphs."""

    def new_decoder(self) -> SequenceDecoder:
        """One sequence of a decoder-only model, with an empty cache."""
        ...

    def new_batch(self, sources: Sequence[Ids] | None = None) -> Rows:
        """Rows of a decoder; of an encoder-decoder, ``sources`` are those of the prompts to come."""
        ...

    def check_open(self) -> None:
        """Raises ClosedError where a run would."""
        ...

    def close(self) -> None:
        """Gives graphs and weights back; may be called twice."""
        ...


def open_engine(bundle: Bundle, runtime: RuntimeConfig, context_length: int) -> Engine:
    """Loads a bundle's graphs.

    Args:
        bundle: of a decoder or an encoder-decoder.
        runtime: how to run them.
        context_length: tokens that a row may have.

    Raises:
        ModelError: the runtime refuses a graph.
        MemoryLimitError: there is not enough memory.
        UnsupportedModelError: its KV cache cannot be kept as ``runtime.kv_cache``.
    """
    check_kv_cache(bundle.manifest, runtime.kv_cache)
    if bundle.manifest.layout == NATIVE_LAYOUT:
        return NativeEngine(bundle, runtime, context_length)
    from edgelm.runtime.foreign.engine import ForeignEngine  # most models do without

    return ForeignEngine(bundle, runtime, context_length)


class NativeEngine:
    """The engine of our own graphs; see ``open_engine``."""

    def __init__(self, bundle: Bundle, runtime: RuntimeConfig, context_length: int) -> None:
        manifest = bundle.manifest
        self._name = manifest.name
        self._context_length = context_length
        self._prefill_chunk = runtime.prefill_chunk
        self._recurrent = manifest.kv is None
        self._pad = manifest.pad_token_id or 0
        threads = runtime.threads or available_cores()
        roles = ("encoder", "decoder") if manifest.family == "encoder-decoder" else ("decoder",)
        scales = cache_scales(bundle) if runtime.kv_cache == "int8" else None
        sessions = {}
        for role in roles:
            graph, optimize = graph_to_load(bundle, role, prepack=runtime.prepack)
            # A recurrent decoder's steps are so short that threads which spin between them cost more than they save.
            sessions[role] = Session(
                graph,
                threads=threads,
                optimize=optimize,
                spinning=not self._recurrent,
                planning=role == "decoder",
                graph=None if scales is None else load_int8_cache_graph(graph, scales),
            )
        self._decoder = sessions["decoder"]
        self._encoder = sessions.get("encoder")
        if self._encoder is not None:
            check_cross_shapes(self._encoder, self._decoder)
        self._embedding = _embedding(bundle)

    def new_decoder(self) -> Decoder:
        """One sequence of a decoder-only model, with an empty cache.

        Raises:
            ClosedError: the model is closed.
            UnsupportedModelError: it is an encoder-decoder.
        """
        if self._encoder is not None:
            raise UnsupportedModelError(f"{self._name} reads a source: it has no decoder of its own")
        return Decoder(
            self._decoder,
            context_length=self._context_length,
            prefill_chunk=self._prefill_chunk,
            embedding=self._embedding,
        )

    def new_batch(self, sources: Sequence[Ids] | None = None) -> BatchDecoder | RecurrentDecoder:
        """Rows of a decoder; of an encoder-decoder, ``sources`` are those of the prompts to come.

        The sources are encoded when the rows begin, once.
        """
        switch = Switch(shrink=True)
        encode = None
        if self._encoder is not None:
            encode = partial(encode_sources, self._encoder, sources or (), switch, pad_token_id=self._pad)
        if self._recurrent and encode is not None:
            return RecurrentDecoder(self._decoder, context_length=self._context_length, encode=encode, encoding=switch)
        return BatchDecoder(
            self._decoder,
            context_length=self._context_length,
            prefill_chunk=self._prefill_chunk,
            embedding=self._embedding,
            encode=encode,
            encoding=switch,
        )

    def check_open(self) -> None:
        """Raises ClosedError where a run would."""
        self._decoder.check_open()

    def close(self) -> None:
        """Gives graphs and weights back; may be called twice."""
        self._decoder.close()
        if self._encoder is not None:
            self._encoder.close()
        if self._embedding is not None:
            self._embedding.close()


def _embedding(bundle: Bundle) -> EmbeddingTable | None:
    described = bundle.manifest.embedding
    if described is None:
        return None
    return EmbeddingTable(
        bundle.path(described.file), rows=described.rows, columns=described.columns, block_size=described.block_size
    )
