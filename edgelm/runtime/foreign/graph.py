"""A decoder in the graphs of another tool: which inputs a run is fed, and which outputs it gives.

One graph may take any past, or there are two, for a first run and for those that follow; a merged graph has both in
branches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.bundle.bundle import Bundle
from edgelm.bundle.foreign_contract import PRESENT
from edgelm.bundle.manifest import Manifest
from edgelm.errors import ModelError
from edgelm.runtime.foreign.caches import Cache, GrowingCache, SharedCache
from edgelm.runtime.session import Session, Switch, Tensor

_SOURCE_MASK = "encoder_attention_mask"
_ATTENTION = "com.microsoft.GroupQueryAttention"
# Models that place tokens by the attention mask, so that padding on the left moves none.
_PLACED_BY_MASK = ("bloom", "opt")


@dataclass(frozen=True, slots=True)
class Source:
    """What an encoder has made of B sources: hidden states (B, L, H), and the mask (B, L), 1 for a token."""

    hidden: NDArray[Any]
    mask: NDArray[np.int64]

    def of(self, rows: NDArray[np.int64]) -> Source:
        """The sources of these rows."""
        return Source(self.hidden[rows], self.mask[rows])


class StepGraph:
    """The sessions of a decoder.

    Args:
        manifest: of the model.
        first: runs the first tokens, and where there is no other all that follow.
        later: runs single tokens behind a past.
        shared: whether past and present may be one buffer.

    Attributes:
        vocab_size: width of the logits.
        appends_many: whether several tokens may follow a past in one run.
        shared: whether past and present are one buffer.
        pads: whether rows of several lengths may run together.
        masks_sources: whether sources of several lengths may, in an encoder-decoder.
    """

    def __init__(self, manifest: Manifest, first: Session, later: Session | None, *, shared: bool) -> None:
        if manifest.kv is None:
            raise ModelError(f"{manifest.name}: a decoder without a cache")
        self.vocab_size = manifest.vocab_size
        self.shared = shared
        self.appends_many = later is None and "use_cache_branch" not in first.inputs
        placed = "position_ids" in first.inputs or manifest.architecture in _PLACED_BY_MASK
        self.pads = "attention_mask" in first.inputs and (shared or placed)
        self._first, self._later = first, later or first
        self.masks_sources = all(_SOURCE_MASK in session.inputs for session in (self._first, self._later))
        self._heads, self._head_size = manifest.kv.kv_heads, manifest.kv.head_size

    @classmethod
    def open(cls, bundle: Bundle, *, threads: int) -> StepGraph:
        """Loads the decoder of a checked folder.

        Raises:
            ModelError: the runtime refuses a graph.
            MemoryLimitError: there is not enough memory.
        """
        manifest = bundle.manifest
        sessions = {
            # Each step has another shape, and a plan for each would be kept for ever.
            role: Session(bundle.path(manifest.graphs[role]), threads=threads, renamed=manifest.renamed, planning=False)
            for role in ("decoder", "decoder_with_past")
            if role in manifest.graphs
        }
        layers = manifest.kv.layers if manifest.kv else 0
        shared = bundle.graphs["decoder"].operators.get(_ATTENTION, 0) == layers
        return cls(manifest, sessions["decoder"], sessions.get("decoder_with_past"), shared=shared)

    def new_cache(self, rows: int) -> Cache:
        """A cache of that many empty rows."""
        kind = SharedCache if self.shared else GrowingCache
        return kind(rows, self._heads, self._head_size)

    def run(
        self,
        tokens: NDArray[np.int64],
        cache: Cache,
        switch: Switch,
        *,
        source: Source | None = None,
        whole: bool = False,
    ) -> NDArray[np.float32]:
        """Appends tokens to each row.

        Args:
            tokens: (B, S).
            cache: of B rows.
            switch: may end the run.
            source: of B rows, in an encoder-decoder.
            whole: return the logits of all tokens, not those of the last alone.

        Returns:
            (B, S, V) or (B, V) float32, which may be changed.

        Raises:
            CancelledError, ClosedError, MemoryLimitError, ModelError: as ``Session.run``.
        """
        session = self._first if cache.is_empty else self._later
        binding = session.binding()
        for name, array in self._inputs(tokens, cache, source, whole=whole).items():
            if name in session.inputs:
                info = session.inputs[name]
                binding.input(name, Tensor(np.ascontiguousarray(array, info.dtype).reshape(_shape(array, info.shape))))
        binding.new_output("logits")
        presents = [] if self.shared else [name for name in session.outputs if name.startswith(PRESENT)]
        cache.bind(binding, session.inputs, presents, tokens.shape[1])
        session.run(binding, switch)
        logits, *made = binding.taken() if presents else binding.taken()[:1]
        self._check(logits.array, tokens.shape, whole=whole)
        cache.advance(tokens.shape[1], dict(zip(presents, made, strict=True)))
        return np.ascontiguousarray(logits.array if whole else logits.array[:, -1], np.float32)

    def close(self) -> None:
        """Gives graphs and weights back; may be called twice."""
        self._first.close()
        self._later.close()

    def check_open(self) -> None:
        """Raises ClosedError where ``run`` would."""
        self._first.check_open()

    def _check(self, logits: NDArray[Any], tokens: tuple[int, ...], *, whole: bool) -> None:
        """Of folders where the graph leaves sizes open, the first run tells whether they are those of the settings."""
        rows, count = tokens
        if logits.shape not in {(rows, count, self.vocab_size), (rows, count if whole else 1, self.vocab_size)}:
            raise ModelError(
                f"the graph gave logits of shape {logits.shape} for {rows} rows of {count} tokens; "
                f"the vocabulary has {self.vocab_size}"
            )

    def _inputs(
        self, tokens: NDArray[np.int64], cache: Cache, source: Source | None, *, whole: bool
    ) -> Mapping[str, NDArray[Any]]:
        count = tokens.shape[1]
        mask = cache.mask(count)
        fed: dict[str, NDArray[Any]] = {
            "input_ids": tokens,
            "attention_mask": mask,
            "position_ids": cache.lengths[:, None] + np.arange(count),
            "cache_position": np.arange(mask.shape[1] - count, mask.shape[1]),
            "use_cache_branch": np.array([not cache.is_empty]),
            "num_logits_to_keep": np.array(0 if whole else 1),
        }
        if source is not None:
            fed |= {"encoder_hidden_states": source.hidden, _SOURCE_MASK: source.mask}
        return fed


def _shape(array: NDArray[Any], declared: tuple[int | str, ...]) -> tuple[int, ...]:
    """A number may be declared as a row of one."""
    return (1,) if array.ndim == 0 and len(declared) == 1 else array.shape
