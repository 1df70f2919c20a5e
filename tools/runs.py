"""Runs of a graph for the tools, which are given arrays and want arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgelm.runtime.session import Session, Switch, Tensor


def run(session: Session, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
    """Runs the graph once, into ``outputs``; ``inputs`` may hold more than the graph takes."""
    binding = session.binding()
    for name in session.inputs:
        binding.input(name, inputs[name])
    for name, tensor in outputs.items():
        binding.output(name, tensor)
    session.run(binding, Switch())


def run_encoder(session: Session, ids: Sequence[int]) -> dict[str, NDArray[np.float32]]:
    """All outputs of an encoder for one text, without the dimension of the batch."""
    row = np.array([ids], np.int64)
    given = {"input_ids": row, "attention_mask": np.ones_like(row), "token_type_ids": np.zeros_like(row)}
    sizes = {"batch": 1, "sequence": len(ids)}
    outputs = {}
    for name, info in session.outputs.items():
        shape = [sizes[size] if isinstance(size, str) else size for size in info.shape]
        outputs[name] = Tensor(np.empty(shape, np.float32))
    run(session, {name: Tensor(array) for name, array in given.items()}, outputs)
    return {name: tensor.array[0] for name, tensor in outputs.items()}
