"""Runs any number of encoded texts through an encoder, in batches of like lengths that fit into the memory limit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgelm.bundle.bundle import Bundle
from edgelm.bundle.encoder_contract import encoder_outputs
from edgelm.checks import check_int
from edgelm.config import RuntimeConfig
from edgelm.errors import ModelError, NumericError
from edgelm.runtime.batches import pack
from edgelm.runtime.cores import available_cores
from edgelm.runtime.encoder import Encoder, Outputs
from edgelm.runtime.memory import Budget, encoder_budget
from edgelm.runtime.pooling import pool, to_unit_length
from edgelm.runtime.prepack import graph_to_load
from edgelm.runtime.process_memory import ProcessMemory
from edgelm.runtime.run_ledger import Call, RunLedger
from edgelm.runtime.session import Session, give_back_freed_memory

if TYPE_CHECKING:
    from edgelm.text.encoding import Encoding

HIDDEN = "last_hidden_state"
# Results that wait for those before them.
_WAITING_BYTES = 64 << 20


class BatchedEncoder:
    """A loaded encoder at work; may be used by many threads, whose batches stay within the memory limit together.

    What does not fit beside the batches of others waits for them.

    Args:
        bundle: of an encoder.
        runtime: how to run it.
        memory: what it may take.

    Raises:
        ModelError: the graph is refused.
        MemoryLimitError: there is not enough memory.
    """

    def __init__(self, bundle: Bundle, runtime: RuntimeConfig, memory: ProcessMemory) -> None:
        manifest = bundle.manifest
        graph, optimize = graph_to_load(bundle, "encoder", prepack=runtime.prepack)
        self._manifest = manifest
        self._memory = memory
        self._threads = runtime.threads
        self._ledger = RunLedger()
        self._session = Session(
            graph,
            threads=runtime.threads or available_cores(),
            optimize=optimize,
            renamed=manifest.renamed,
            planning=False,
        )
        outputs = encoder_outputs(manifest)
        self._encoder = Encoder(self._session, outputs, pad_token_id=manifest.pad_token_id or 0)
        if "logits" in outputs and manifest.head is not None:
            width, labels = self._encoder.width("logits"), len(manifest.head.labels)
            if width != labels:  # a graph may leave it open, and another tool's settings be of another model
                raise ModelError(f"{manifest.name}: the graph gives {width} logits, but {labels} labels are known")

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states, which a model with a head does not give."""
        return self._encoder.width(HIDDEN)

    def outputs(self, encodings: Sequence[Encoding], batch_tokens: int) -> Iterator[Outputs]:
        """The outputs of each text, in the order given; what is wrong with the request is said at once.

        Args:
            encodings: of one token or more each.
            batch_tokens: most tokens of a batch, padding included; fewer where the memory limit asks for it.

        Raises:
            ConfigError: ``batch_tokens`` is no number above 0.
            MemoryLimitError: the longest text does not fit.
            NumericError, ClosedError: while iterating.
        """
        check_int("batch_tokens", batch_tokens, 1)
        waiting = min(_WAITING_BYTES, sum(map(len, encodings)) * self._encoder.output_bytes())
        longest = max(map(len, encodings), default=0)
        together = min(batch_tokens, max(longest, self._most_waiting_tokens()))  # no more than may wait together
        return self._outputs(encodings, self._affordable(together, longest, waiting=waiting), waiting)

    def embed(
        self,
        encodings: Sequence[Encoding],
        vectors: NDArray[np.float32],
        *,
        mode: str,
        unit: bool,
        batch_tokens: int,
        held: int,
    ) -> None:
        """Makes a vector of each text out of its hidden states.

        Args:
            encodings: N, of one token or more each.
            vectors: (N, H) float32, where to write them.
            mode: as in ``pool``.
            unit: whether to give them unit length.
            batch_tokens: as in ``outputs``.
            held: bytes of the results that the caller makes, these and others.

        Raises:
            ConfigError, MemoryLimitError, NumericError, ClosedError: as ``outputs``.
        """
        check_int("batch_tokens", batch_tokens, 1)
        lengths = [len(encoding) for encoding in encodings]
        most = self._affordable(batch_tokens, max(lengths), waiting=held)
        batches = pack(lengths, most)
        call = self._call(lengths, most, held)
        with self._ledger.call(call):
            for number, batch in enumerate(batches, start=1):
                some = [encodings[i] for i in batch]
                with self._ledger.run(call):
                    vectors[batch] = self._pooled(some, mode, unit, last=number == len(batches))

    def check_open(self) -> None:
        """Raises ClosedError once the model is closed."""
        self._session.check_open()

    def close(self) -> None:
        """Gives memory back; runs in progress end with ClosedError. May be called twice."""
        self._session.close()
        self._encoder.cancel()

    def _outputs(self, encodings: Sequence[Encoding], batch_tokens: int, waiting: int) -> Iterator[Outputs]:
        for part in self._parts(encodings):
            yield from self._outputs_of(part, batch_tokens, waiting)  # counted no more: who reads them may never go on

    def _outputs_of(self, part: Sequence[Encoding], batch_tokens: int, waiting: int) -> list[Outputs]:
        self.check_open()  # in a forked process, those that one would wait for are not there
        lengths = [len(encoding) for encoding in part]
        batches = pack(lengths, batch_tokens)
        done: list[Outputs] = [{} for _ in part]
        call = self._call(lengths, batch_tokens, waiting)
        with self._ledger.call(call):
            for number, batch in enumerate(batches, start=1):
                with self._ledger.run(call):
                    outputs = self._run([part[i] for i in batch], last=number == len(batches))
                    for name, array in outputs.items():
                        per_token = self._encoder.is_per_token(name)
                        for row, index in zip(array, batch, strict=True):
                            done[index][name] = self._finite(row[: lengths[index]] if per_token else row)
        return done

    def _pooled(self, encodings: Sequence[Encoding], mode: str, unit: bool, *, last: bool) -> NDArray[np.float32]:
        lengths = np.array([len(encoding) for encoding in encodings], np.int64)
        vectors = self._finite(pool(self._run(encodings, last=last)[HIDDEN], lengths, mode))
        return to_unit_length(vectors) if unit else vectors

    def _call(self, lengths: Sequence[int], batch_tokens: int, held: int) -> Call:
        """What the ledger is to know of a call, whose largest batch need not be as large as it may."""
        longest = max(lengths)
        largest = min(batch_tokens, len(lengths) * longest)
        return Call(held, self._need(largest, longest, waiting=0).activations)

    def _parts(self, encodings: Sequence[Encoding]) -> Iterator[Sequence[Encoding]]:
        """Cuts many texts into parts whose outputs may wait in memory until all of a part are there."""
        most = self._most_waiting_tokens()
        start = tokens = 0
        for index, encoding in enumerate(encodings):
            tokens += len(encoding)
            if tokens > most and index > start:
                yield encodings[start:index]
                start, tokens = index, len(encoding)
        if start < len(encodings):
            yield encodings[start:]

    def _most_waiting_tokens(self) -> int:
        return max(1, _WAITING_BYTES // max(1, self._encoder.output_bytes(), _WAITING_BYTES >> 20))

    def _run(self, encodings: Sequence[Encoding], *, last: bool) -> Outputs:
        # What batches of other lengths leave behind is of little use for the next, and would add up.
        shrink = last or self._memory.limited
        types = [encoding.type_ids for encoding in encodings] if self._encoder.takes_types else None
        outputs = self._encoder.run([encoding.ids for encoding in encodings], types, shrink=shrink)
        if self._memory.limited:  # glibc would keep what the arena gives back: 30 MB and more after some batches
            give_back_freed_memory()
        return outputs

    def _finite(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        if not np.isfinite(values).all():
            raise NumericError(f"{self._manifest.name} gave values that are not finite numbers")
        return values

    def _affordable(self, batch_tokens: int, longest: int, *, waiting: int = 0) -> int:
        """The largest batch up to ``batch_tokens`` that fits into the memory limit."""
        limit = self._memory.limit()
        needed = self._need(batch_tokens, longest, waiting)
        while batch_tokens > longest and not limit.holds(needed):
            batch_tokens //= 2
            needed = self._need(batch_tokens, longest, waiting)
        limit.check(needed)
        without_runs = needed.total - needed.activations - needed.loading
        self._ledger.room = None if limit.nbytes is None else limit.nbytes - limit.held - without_runs
        return batch_tokens

    def _need(self, batch_tokens: int, longest: int, waiting: int) -> Budget:
        return encoder_budget(
            self._manifest, batch_tokens=batch_tokens, longest=longest, waiting=waiting, threads=self._threads
        )
