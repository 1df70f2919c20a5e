"""A generating model of another tool's folder, loaded: it makes decoders for one sequence or for several."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from edgelm.bundle.bundle import Bundle
from edgelm.config import RuntimeConfig
from edgelm.errors import UnsupportedModelError
from edgelm.runtime.cores import available_cores
from edgelm.runtime.foreign.batch import ForeignBatch
from edgelm.runtime.foreign.decoder import ForeignDecoder
from edgelm.runtime.foreign.graph import StepGraph
from edgelm.runtime.foreign.source_encoder import SourceEncoder
from edgelm.runtime.session import Session
from edgelm.runtime.token_rows import Ids


class ForeignEngine:
    """The sessions of a folder, and how they are run.

    Args:
        bundle: an open folder of another tool, or a bundle with graphs of one, that has a decoder.
        runtime: how to run them.
        context_length: tokens that a row may have.

    Raises:
        ModelError: the runtime refuses a graph.
        MemoryLimitError: there is not enough memory.
    """

    def __init__(self, bundle: Bundle, runtime: RuntimeConfig, context_length: int) -> None:
        threads = runtime.threads or available_cores()
        self._context_length = context_length
        self._prefill_chunk = runtime.prefill_chunk
        self._graph = StepGraph.open(bundle, threads=threads)
        self._encoder: SourceEncoder | None = None
        manifest = bundle.manifest
        self._name = manifest.name
        if "encoder" in manifest.graphs:
            path = bundle.path(manifest.graphs["encoder"])
            session = Session(path, threads=threads, renamed=manifest.renamed, planning=False)
            self._encoder = SourceEncoder(
                session, pad_token_id=manifest.pad_token_id or 0, masked=self._graph.masks_sources
            )

    def new_decoder(self) -> ForeignDecoder:
        """One sequence of a decoder-only model, with an empty cache.

        Raises:
            UnsupportedModelError: it is an encoder-decoder.
        """
        if self._encoder is not None:
            raise UnsupportedModelError(f"{self._name} reads a source: it has no decoder of its own")
        return ForeignDecoder(self._graph, context_length=self._context_length, prefill_chunk=self._prefill_chunk)

    def new_batch(self, sources: Sequence[Ids] | None = None) -> ForeignBatch:
        """Rows of a decoder-only model; of an encoder-decoder, ``sources`` are those of the prompts to come."""
        encoder = self._encoder
        return ForeignBatch(
            self._graph,
            context_length=self._context_length,
            prefill_chunk=self._prefill_chunk,
            encode=None if encoder is None or sources is None else partial(encoder.encode, sources),
        )

    def check_open(self) -> None:
        """Raises ClosedError where a run would."""
        self._graph.check_open()

    def close(self) -> None:
        """Gives graphs and weights back; may be called twice."""
        self._graph.close()
        if self._encoder is not None:
            self._encoder.close()
