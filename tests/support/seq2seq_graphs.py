"""The two graphs of an encoder-decoder, driven by hand: no bundle, no generation loop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.runtime.session import Session, Switch, Tensor
from edgelm_tools.architectures.registry import understand
from edgelm_tools.checkpoint import Checkpoint
from edgelm_tools.export import write_graphs
from edgelm_tools.quantize.schemes import Scheme

Ids = NDArray[np.int64]


def write_seq2seq(folder: Path, checkpoint: Checkpoint, scheme: Scheme) -> Scheme:
    """Writes both graphs in a scheme, or in what stands in for it; returns what was used."""
    model = understand(checkpoint)
    used = model.prepared(scheme, None, folder)
    write_graphs(folder, model, used)
    return used


class Seq2SeqGraphs:
    """One batch at a time: ``encode`` the sources, then ``decode`` rows of new tokens, over and over."""

    def __init__(self, folder: Path, *, capacity: int) -> None:
        self.encoder, self.decoder = (
            Session(folder / f"{role}.onnx", threads=1, spinning=False) for role in ("encoder", "decoder")
        )
        self._capacity = capacity
        self._source: dict[str, Tensor] = {}
        self._caches: dict[str, Tensor] = {}
        self.lengths = np.zeros(0, np.int32)

    def encode(self, sources: Sequence[Ids], padding: int = 0) -> None:
        """Begins a batch with sources padded on the right, to ``padding`` more tokens than the longest has."""
        ids, lengths = padded(sources, padding)
        mask = np.arange(ids.shape[1])[None] < lengths[:, None]
        outputs = {
            name: Tensor(np.empty((len(ids), int(info.shape[1]), ids.shape[1], int(info.shape[3])), np.float32))
            for name, info in self.encoder.outputs.items()
        }
        run(self.encoder, {"input_ids": ids, "attention_mask": mask.astype(np.int64)}, outputs)
        self._source = {**outputs, "encoder_attention_mask": Tensor(mask.astype(np.int32))}
        self._caches = {
            name: Tensor(np.zeros((len(ids), int(info.shape[1]), self._capacity, int(info.shape[3])), np.float32))
            for name, info in self.decoder.inputs.items()
            if name.startswith("past_key_values.")
        }
        self.lengths = np.zeros(len(ids), np.int32)

    def decode(self, rows: Sequence[Ids], wanted: Ids | None = None) -> NDArray[np.float32]:
        """Logits of the ``wanted`` new tokens (of the flattened batch), or of each row's last: (R, V)."""
        ids, counts = padded(rows)
        before, self.lengths = self.lengths, self.lengths + counts.astype(np.int32)
        if wanted is None:
            wanted = np.arange(len(ids)) * ids.shape[1] + counts - 1
        inputs: dict[str, Any] = {
            "input_ids": ids,
            "seqlens_k": self.lengths - 1,
            "total_sequence_length": np.array(self.lengths.max(), np.int32),
            "logit_index": wanted,
        }
        if "position_ids" in self.decoder.inputs:
            places = np.arange(ids.shape[1])
            inputs["position_ids"] = before[:, None].astype(np.int64) + np.minimum(places, counts[:, None] - 1)
        logits = Tensor(np.empty((len(wanted), int(self.decoder.outputs["logits"].shape[1])), np.float32))
        presents = {name.replace("past_key_values", "present"): cache for name, cache in self._caches.items()}
        run(self.decoder, inputs, {"logits": logits, **presents}, {**self._source, **self._caches})
        return logits.array

    def all_logits(self, source: Ids, target: Ids) -> NDArray[np.float32]:
        """Logits after each token of one target: (T, V)."""
        self.encode([source])
        return self.decode([target], np.arange(len(target)))

    def greedy(self, sources: Sequence[Ids], start: int, count: int) -> NDArray[np.int64]:
        """The ``count`` likeliest tokens behind the start token, whatever they are: (B, count)."""
        self.encode(sources)
        tokens = [np.full(len(sources), start, np.int64)]
        while len(tokens) <= count:
            tokens.append(self.decode(list(tokens[-1][:, None])).argmax(axis=1))
        return np.stack(tokens[1:], axis=1)


def padded(rows: Sequence[Ids], more: int = 0) -> tuple[Ids, Ids]:
    """(Rows filled up with token 0 on the right, their lengths)."""
    lengths = np.array([len(row) for row in rows])
    ids = np.zeros((len(rows), lengths.max() + more), np.int64)
    for row, tokens in zip(ids, rows, strict=True):
        row[: len(tokens)] = tokens
    return ids, lengths


def run(
    session: Session,
    inputs: dict[str, NDArray[Any]],
    outputs: dict[str, Tensor],
    bound: dict[str, Tensor] | None = None,
) -> None:
    binding = session.binding()
    given = {**{name: Tensor(array) for name, array in inputs.items()}, **(bound or {})}
    for name in session.inputs:
        binding.input(name, given[name])
    for name in session.outputs:
        binding.output(name, outputs[name])
    session.run(binding, Switch())
