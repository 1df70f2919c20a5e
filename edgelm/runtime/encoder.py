"""Runs an encoder graph: rows of token ids in, one forward pass, what the graph's head says out.

Knows nothing about text, pooling or labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import ModelError
from edgelm.runtime.session import Session, Switch, Tensor, give_back_freed_memory
from edgelm.runtime.token_rows import padded

Rows = Sequence[Sequence[int]]
Outputs = dict[str, NDArray[np.float32]]

_MASK, _TYPES = "attention_mask", "token_type_ids"
_SPANS = ("start_logits", "end_logits")
_FLOAT_BYTES = 4
# What a run of fewer leaves behind is not worth the milliseconds that giving it back takes.
_MANY_TOKENS = 512
# "B": rows of the batch; "S": tokens of the longest; else a fixed size.
_Shape = tuple[int | str, ...]


class Encoder:
    """A session with the encoder contract; may be used by many threads.

    Args:
        session: a graph with ``input_ids`` and mostly ``attention_mask`` and ``token_type_ids`` int64 (B, S).
        outputs: the outputs to compute, float32 (B, …) or (B, S, …).
        pad_token_id: what fills shorter rows.

    Attributes:
        takes_types: whether the graph tells the texts of a pair apart.
    """

    def __init__(self, session: Session, outputs: Sequence[str], *, pad_token_id: int = 0) -> None:
        self.takes_types = _TYPES in session.inputs
        self._takes_mask = _MASK in session.inputs
        self._session = session
        self._pad = pad_token_id
        # The memory of a long batch's activations is given back; that of others waits for the next.
        self._switches = {False: Switch(), True: Switch(shrink=True)}
        self._shapes = {name: _shape(session, name) for name in outputs}

    def output_bytes(self) -> int:
        """Bytes of all outputs for each token of a padded batch."""
        per_token = [self.width(name) for name in self._shapes if self.is_per_token(name)]
        return _FLOAT_BYTES * sum(per_token)

    def is_per_token(self, name: str) -> bool:
        """Whether an output has a value, or several, for each token: (B, S, …)."""
        return "S" in self._shapes[name]

    def width(self, name: str) -> int:
        """Size of an output's last axis: hidden size, labels or vocabulary; 1 where it has a value for each token."""
        size = self._shapes[name][-1]
        return size if isinstance(size, int) else 1

    def run(self, rows: Rows, types: Rows | None = None, *, shrink: bool = False) -> Outputs:
        """One forward pass.

        Args:
            rows: token ids, of any lengths above 0.
            types: token types, as ``rows``; None: all 0. Ignored where the graph takes none.
            shrink: give the memory of activations back afterwards.

        Returns:
            Output name → array (B, …) or (B, S, …) float32, S being the longest row; behind a shorter row's end it
            holds anything.

        Raises:
            ClosedError, MemoryLimitError, ModelError: as ``Session.run``.
        """
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        if self._takes_mask or (lengths == lengths[0]).all():
            return self._run(rows, types, shrink=shrink)
        outputs = self._empty(len(rows), int(lengths.max()))
        for length in np.unique(lengths):  # without a mask, padding would count
            places = np.flatnonzero(lengths == length)
            alike, of_types = ([given[int(place)] for place in places] for given in (rows, types or rows))
            made = self._run(alike, None if types is None else of_types, shrink=shrink)
            for name, array in made.items():
                outputs[name][(places, slice(length)) if self.is_per_token(name) else places] = array
        return outputs

    def cancel(self) -> None:
        """Ends the runs in progress, from another thread; this encoder cannot be used again."""
        for switch in self._switches.values():
            switch.turn_off()

    def _run(self, rows: Rows, types: Rows | None, *, shrink: bool) -> Outputs:
        ids, mask = padded(rows, self._pad)
        inputs = {"input_ids": ids}
        if self._takes_mask:
            inputs[_MASK] = mask.astype(np.int64)
        if self.takes_types:
            inputs[_TYPES] = np.zeros_like(ids) if types is None else padded(types, 0)[0]
        outputs = self._empty(*ids.shape)
        binding = self._session.binding()
        for name, array in inputs.items():
            binding.input(name, Tensor(array))
        for name, made in outputs.items():
            binding.output(name, Tensor(made))
        self._session.run(binding, self._switches[shrink])
        if shrink and ids.size >= _MANY_TOKENS:
            give_back_freed_memory()
        return outputs

    def _empty(self, rows: int, tokens: int) -> Outputs:
        sizes = {"B": rows, "S": tokens}
        return {
            name: np.empty([sizes[size] if isinstance(size, str) else size for size in shape], np.float32)
            for name, shape in self._shapes.items()
        }


def _shape(session: Session, name: str) -> _Shape:
    info = session.outputs.get(name)
    if info is None:
        raise ModelError(f"the graph has no output {name}")
    axes = ("B", "S") if len(info.shape) == 3 or name in _SPANS else ("B",)
    sizes = info.shape[len(axes) :]
    if any(isinstance(size, str) for size in sizes):
        sizes = _found_shape(session, name)[len(axes) :]
    return (*axes, *sizes)


def _found_shape(session: Session, name: str) -> tuple[int, ...]:
    """The shape of an output for one token, where the graph does not state it."""
    binding = session.binding()
    for given in session.inputs:  # a token and a type that every model has
        binding.input(given, Tensor(np.full((1, 1), int(given == _MASK), np.int64)))
    binding.new_output(name)
    session.run(binding, Switch(shrink=True))
    return binding.taken()[0].array.shape
