"""Sequences longer than the context window: the first tokens stay, the oldest of the others go, a block at a time.

The first tokens collect much of the attention whatever they say, so without them a model loses its footing
(StreamingLLM, arxiv.org/abs/2309.17453). Positions are those within the cache, so none is beyond what the model was
trained for: what moves up is turned back by as many positions (see ``rotary``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgelm.bundle.bundle import Bundle
from edgelm.config import KVCacheType
from edgelm.errors import ConfigError, UnsupportedModelError
from edgelm.runtime.kv_cache import KVCache
from edgelm.runtime.rotary import KeyTurn
from edgelm.runtime.sequence_decoder import Ids, SequenceDecoder

TurnBack = Callable[[str, NDArray[Any]], None]


@dataclass(frozen=True, slots=True)
class SlidingWindow:
    """When what is dropped. It depends on the tokens' number alone, so a sequence comes out the same however it is fed.

    Attributes:
        size: tokens that the cache holds at most.
        sinks: of these, the first ones, which stay.
    """

    size: int
    sinks: ClassVar[int] = 4

    @property
    def block(self) -> int:
        """Tokens that are dropped at a time: a quarter, so that it is rare."""
        return max(1, (self.size - self.sinks) // 4)

    @property
    def is_wide_enough(self) -> bool:
        """Whether there is anything beside the sinks to slide over."""
        return self.size >= 2 * self.sinks

    def dropped_at(self, tokens: int) -> int:
        """How many of a sequence's first tokens are dropped when so many were computed."""
        return self.block * -(-max(0, tokens - self.size) // self.block)


class SlidingDecoder:
    """A decoder that goes on where its window is full.

    Args:
        decoder: of one sequence.
        cache: its cache.
        window: what stays.
        turn_back: undoes ``window.block`` positions in a tensor of the cache.
        limit: tokens of the whole sequence.
    """

    # A refused guess is rewound, and what was dropped for it is gone.
    verifies = False

    def __init__(
        self, decoder: SequenceDecoder, cache: KVCache, window: SlidingWindow, turn_back: TurnBack, *, limit: int
    ) -> None:
        self.vocab_size = decoder.vocab_size
        self.context_length = limit
        self._decoder = decoder
        self._cache = cache
        self._window = window
        self._turn_back = turn_back

    @property
    def length(self) -> int:
        """Tokens of the sequence so far, those that were dropped included."""
        return self._cache.length + self._cache.dropped

    def prefill(self, ids: Sequence[int] | Ids) -> NDArray[np.float32]:
        """Appends tokens, more than the window holds if need be; returns the last one's logits, (V,) float32."""
        tokens = np.asarray(ids, np.int64)
        while True:
            room = self._make_room()
            logits = self._decoder.prefill(tokens[:room])
            tokens = tokens[room:]
            if not len(tokens):
                return logits

    def step(self, token: int) -> NDArray[np.float32]:
        """Appends one token; returns its logits, (V,) float32."""
        self._make_room()
        return self._decoder.step(token)

    def _make_room(self) -> int:
        if self._cache.length == self._window.size:
            self._cache.drop(self._window.sinks, self._window.block, self._turn_back)
        return self._window.size - self._cache.length


class PastWindow:
    """Lets sequences of a model go on past its context window.

    Args:
        bundle: of a decoder.
        context_length: tokens that its cache holds.
        kv_cache: the type of its cache.

    Raises:
        ConfigError: the window is too narrow to slide.
        UnsupportedModelError: the model's keys cannot be moved; says why.
        ModelError: the window is longer than the model's tables of positions.
    """

    def __init__(self, bundle: Bundle, context_length: int, kv_cache: KVCacheType = "f32") -> None:
        self.window = SlidingWindow(context_length)
        if not self.window.is_wide_enough:
            raise ConfigError(
                f"overflow 'sink' needs a context window of {2 * SlidingWindow.sinks} tokens, not {context_length}"
            )
        self._name = bundle.manifest.name
        self._turn_back = KeyTurn(bundle, self.window.block, kv_cache)

    def over(self, decoder: SequenceDecoder, *, limit: int) -> SlidingDecoder:
        """The decoder, for a sequence of up to ``limit`` tokens."""
        if not isinstance(decoder.cache, KVCache):
            raise UnsupportedModelError(f"{self._name}: only EdgeLM's own decoders can go on past their context window")
        return SlidingDecoder(decoder, decoder.cache, self.window, self._turn_back, limit=limit)
