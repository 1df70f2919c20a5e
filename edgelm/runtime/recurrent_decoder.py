"""Runs the recurrent decoder of an encoder-decoder for several rows at a time: a state a row in place of a cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import ContextLengthError
from edgelm.runtime.row_slots import plan_selection
from edgelm.runtime.session import Session, Switch, Tensor
from edgelm.runtime.source_rows import SourceRows

Ids = Sequence[int] | NDArray[np.int64]
Logits = NDArray[np.float32]

_STATE = "state."
_NEXT = "next_state."


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
        self._states = {name: info for name, info in session.inputs.items() if name.startswith(_STATE)}
        self._slots = np.zeros(0, np.int64)
        self._runs: list[_Run] = []  # two, which write each other's state in turn; empty: to be made anew
        self._switches = (encoding or Switch(), Switch())
        self.length = 0

    def reserve(self, rows: int, tokens: int) -> None:
        """Nothing: a state does not grow."""

    def prefill(self, prompts: Sequence[Ids]) -> Logits:
        """Begins a row for each prompt, all of one length; returns the logits after the last token of each, (B, V).

        Raises:
            ContextLengthError: a prompt does not fit into the context window.
            ValueError: the prompts differ in length.
        """
        if len({len(prompt) for prompt in prompts}) != 1:
            raise ValueError("the prompts of a recurrent decoder must have one length")
        tokens = np.array([np.asarray(prompt, np.int64) for prompt in prompts])
        self._source = self._encode()
        self._slots = np.arange(len(tokens))
        self.length = 0
        self._runs = self._new_runs(self._zeros(len(tokens)))
        for column in tokens.T:
            logits = self.step(column)
        return logits

    def step(self, tokens: NDArray[np.int64]) -> Logits:
        """Appends one token to each row, (B,); returns the logits, (B, V).

        Raises:
            ContextLengthError: the context window is full.
        """
        if self.length + 1 > self.context_length:
            raise ContextLengthError(
                f"{self.length + 1} tokens do not fit into a context window of {self.context_length}"
            )
        run = self._runs[0]
        run.inputs["input_ids"].array[self._slots, 0] = tokens
        if "position_ids" in run.inputs:
            run.inputs["position_ids"].array[:] = self.length
        self._session.run(run.binding, self._switches[-1])
        self._runs.reverse()
        self.length += 1
        logits: Logits = run.logits.array[self._slots]
        return logits

    def select(self, rows: NDArray[np.int64]) -> None:
        """Row r becomes what row ``rows[r]`` was."""
        if self._source is None or (len(rows) == len(self._slots) and np.array_equal(rows, np.arange(len(rows)))):
            return
        plan = plan_selection(self._slots, rows, self._source.sources)
        moved = self._source.reserve(len(rows)) or len(rows) != len(self._slots)
        states = {name: tensor.array for name, tensor in self._runs[0].states.items()}
        if moved:
            larger = self._zeros(max(len(rows), len(self._slots)))
            for name, array in larger.items():
                array[: len(self._slots)] = states[name]
            states = larger
        for source, target in plan.copies:
            self._source.copy(source, target)
            for array in states.values():
                array[target] = array[source]
        if moved:
            self._runs = self._new_runs({name: array[: len(rows)] for name, array in states.items()})
        self._slots = plan.slots

    def cancel(self) -> None:
        """Ends the run in progress, from another thread; this decoder cannot be used again."""
        for switch in self._switches:
            switch.turn_off()

    def _zeros(self, rows: int) -> dict[str, NDArray[np.float32]]:
        return {name: np.zeros((rows, int(info.shape[1])), np.float32) for name, info in self._states.items()}

    def _new_runs(self, states: dict[str, NDArray[np.float32]]) -> list[_Run]:
        now = {name: Tensor(array) for name, array in states.items()}
        later = {name: Tensor(np.empty_like(array)) for name, array in states.items()}
        if self._source is None:
            raise ValueError("no source has been read")
        return [
            _Run(self._session, self.vocab_size, before, after, self._source)
            for before, after in ((now, later), (later, now))
        ]


class _Run:
    """The binding of a step that reads one state and writes another."""

    def __init__(
        self,
        session: Session,
        vocab_size: int,
        states: dict[str, Tensor],
        following: dict[str, Tensor],
        source: SourceRows,
    ) -> None:
        rows = len(next(iter(states.values())).array)
        self.states = states
        self.binding = session.binding()
        names = [name for name in ("input_ids", "position_ids") if name in session.inputs]
        self.inputs = {name: Tensor(np.zeros((rows, 1), np.int64)) for name in names}
        self.logits = Tensor(np.empty((rows, vocab_size), np.float32))
        for name, tensor in (self.inputs | states).items():
            self.binding.input(name, tensor)
        for name, tensor in following.items():
            self.binding.output(name.replace(_STATE, _NEXT, 1), tensor)
        self.binding.output("logits", self.logits)
        self._kept = [*following.values(), *source.bind(self.binding, 0, rows)]
