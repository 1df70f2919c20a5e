"""Runs the recurrent decoder of an encoder-decoder for several rows at a time: a state a row in place of a cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from edgelm.runtime.row_slots import plan_selection
from edgelm.runtime.session import Binding, Session, Switch, Tensor
from edgelm.runtime.source_rows import SourceRows
from edgelm.runtime.token_rows import Ids, Logits, check_room

_STATE = "state."
_NEXT = "next_state."
_States = dict[str, NDArray[np.float32]]


class RecurrentDecoder:
    """Rows on one session; implements ``generation.batch.BatchDecoder``.

    Args:
        session: a graph with the contract of a recurrent decoder (see ``bundle.cross_decoder_contract``).
        context_length: tokens that a row may have.
        encode: computes what the decoder's cross-attention reads; called once, when the rows begin.
        encoding: ends that.
    """

    def __init__(
        self,
        session: Session,
        *,
        context_length: int,
        encode: Callable[[], SourceRows],
        encoding: Switch | None = None,
    ) -> None:
        self.context_length = context_length
        self.vocab_size = int(session.outputs["logits"].shape[1])
        self._session = session
        self._encode = encode
        self._source: SourceRows | None = None
        self._slots = np.zeros(0, np.int64)
        # A run reads the first and writes the second, the next one the reverse; there may be room for more rows.
        self._states = [_states(session, 0), _states(session, 0)]
        self._bindings: list[Binding] = []
        self._bind(0)
        self._switches = (encoding or Switch(), Switch())
        self.length = 0

    def reserve(self, rows: int, tokens: int) -> None:
        """Nothing: a state does not grow."""

    def prefill(self, prompts: Sequence[Ids]) -> Logits:
        """Begins a row for each prompt, all of one length; returns the logits after the last token of each, (B, V).

        Raises:
            ContextLengthError: a prompt does not fit into the context window.
            ValueError: the prompts differ in length, or are empty.
        """
        lengths = {len(prompt) for prompt in prompts}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError("the prompts of a recurrent decoder must have one length above 0")
        tokens = np.array([np.asarray(prompt, np.int64) for prompt in prompts])
        check_room(tokens.shape[1], self.context_length)
        self._source = self._encode()
        self._slots = np.arange(len(tokens))
        self.length = 0
        self._states = [_states(self._session, len(tokens)) for _ in self._states]
        self._bind(len(tokens))
        for column in tokens.T:
            logits = self.step(column)
        return logits

    def step(self, tokens: NDArray[np.int64]) -> Logits:
        """Appends one token to each row, (B,); returns the logits, (B, V).

        Raises:
            ContextLengthError: the context window is full.
        """
        check_room(self.length + 1, self.context_length)
        self._ids[self._slots, 0] = tokens
        self._positions[:] = self.length
        self._session.run(self._bindings[0], self._switches[-1])
        self._bindings.reverse()
        self._states.reverse()
        self.length += 1
        logits: Logits = self._logits[self._slots]
        return logits

    def select(self, rows: NDArray[np.int64]) -> None:
        """Row r becomes what row ``rows[r]`` was."""
        before = len(self._slots)
        if self._source is None or (len(rows) == before and np.array_equal(rows, np.arange(before))):
            return
        plan = plan_selection(self._slots, rows, self._source.sources)
        if len(rows) != before:
            self._bindings = []  # they hold what may move
        self._source.reserve(len(rows))
        for states in self._states:
            states.update({name: _with_room(array, len(rows)) for name, array in states.items()})
        for source, target in plan.copies:
            self._source.copy(source, target)
            for array in self._states[0].values():
                array[target] = array[source]
        self._slots = plan.slots
        if len(rows) != before:
            self._bind(len(rows))

    def cancel(self) -> None:
        """Ends the run in progress, from another thread; this decoder cannot be used again."""
        for switch in self._switches:
            switch.turn_off()

    def _bind(self, rows: int) -> None:
        """Makes the bindings of both turns anew, for so many rows."""
        self._ids = np.zeros((rows, 1), np.int64)
        self._positions = np.zeros((rows, 1), np.int64)
        self._logits = np.empty((rows, self.vocab_size), np.float32)
        now, later = self._states
        self._bindings = [self._binding(now, later, rows), self._binding(later, now, rows)]

    def _binding(self, read: _States, written: _States, rows: int) -> Binding:
        binding = self._session.binding()
        for name, array in {"input_ids": self._ids, "position_ids": self._positions}.items():
            if name in self._session.inputs:
                binding.input(name, Tensor(array))
        for name in read:
            binding.input(name, Tensor(read[name][:rows]))
            binding.output(_NEXT + name.removeprefix(_STATE), Tensor(written[name][:rows]))
        binding.output("logits", Tensor(self._logits))
        if self._source is not None:
            self._source.bind(binding, 0, rows)
        return binding


def _states(session: Session, rows: int) -> _States:
    return {
        name: np.zeros((rows, int(info.shape[1])), np.float32)
        for name, info in session.inputs.items()
        if name.startswith(_STATE)
    }


def _with_room(array: NDArray[np.float32], rows: int) -> NDArray[np.float32]:
    missing = max(0, rows - len(array))
    return np.pad(array, ((0, missing), (0, 0))) if missing else array
