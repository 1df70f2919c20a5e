"""What the GPT family has beyond the laws of ``test_parity``, against transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.gpt_checkpoints import gpt_variant
from support.native_graphs import write_native
from support.tiny_checkpoints import VOCABULARY, reference_logits, reference_model, write_checkpoint

from edgelm.runtime.batch_decoder import BatchDecoder
from edgelm.runtime.decoder import Decoder
from edgelm.runtime.session import Session, Switch, Tensor
from edgelm_tools.architectures.alibi import slopes
from edgelm_tools.checkpoint import open_checkpoint
from edgelm_tools.quantize.schemes import Float32

pytestmark = pytest.mark.reference

TOLERANCE = 1e-4
CAPACITY = 64


def session_of(folder: Path) -> Session:
    checkpoint = open_checkpoint(folder)
    write_native(folder / "decoder.onnx", checkpoint, Float32())
    checkpoint.close()
    return Session(folder / "decoder.onnx", threads=1, spinning=False)


def error(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    return float(np.abs(ours - theirs).max() / theirs.std())


@pytest.mark.parametrize("heads", [*range(1, 18), 32, 33, 48, 63, 71, 112])
def test_slopes_are_those_of_transformers(heads: int) -> None:
    import torch
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    expected = build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)[:, 0, 1].numpy()
    np.testing.assert_allclose(slopes(heads), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["bloom", "bloom.five_heads", "gpt2", "opt"])
def test_padded_rows_of_a_batch_are_as_in_transformers(name: str, tmp_path: Path) -> None:
    """A prefill of rows of three lengths, padded with other tokens, and steps that each go on at their own place."""
    model = reference_model(gpt_variant(name))
    session = session_of(write_checkpoint(tmp_path, model))
    lengths, steps = [9, 23, 14], 5
    ids = np.random.default_rng(4).integers(0, VOCABULARY, (3, max(lengths) + steps))
    batch = _Batch(session, rows=3)
    prefill = batch.run(ids[:, : max(lengths)], np.zeros(3, np.int64), np.array(lengths))
    longest = [prefill]
    for step in range(steps):
        places = np.array(lengths) + step
        longest.append(batch.run(ids[np.arange(3), places][:, None], places, places + 1))
    for row, length in enumerate(lengths):
        expected = _padded_reference(model, ids[row, : length + steps])[length - 1 :]
        ours = np.stack([logits[row] for logits in longest])
        assert error(ours, expected) < TOLERANCE


@pytest.mark.parametrize("name", ["bloom.five_heads", "gpt2", "opt.post"])
def test_the_batch_decoder_gives_each_row_what_it_gives_alone(name: str, tmp_path: Path) -> None:
    session = session_of(write_checkpoint(tmp_path, reference_model(gpt_variant(name))))
    random = np.random.default_rng(6)
    rows = [random.integers(0, VOCABULARY, length) for length in (7, 40, 19)]
    batch = BatchDecoder(session, context_length=CAPACITY, prefill_chunk=24)
    logits = batch.prefill(rows).copy()
    for order in ([0, 1, 2], [2, 0], [1, 1, 0]):
        batch.select(np.array(order))
        logits, rows = logits[order], [rows[place] for place in order]
        for row, ids in enumerate(rows):
            alone = Decoder(session, context_length=CAPACITY, prefill_chunk=CAPACITY).prefill(ids)
            assert error(logits[row], alone) < TOLERANCE, (order, row)
        tokens = random.integers(0, VOCABULARY, len(rows))
        rows = [np.append(ids, token) for ids, token in zip(rows, tokens, strict=True)]
        logits = batch.step(tokens).copy()


class _Batch:
    """Rows of different lengths over one cache, as a batch decoder runs them."""

    def __init__(self, session: Session, *, rows: int) -> None:
        self._session = session
        shapes = {n: i.shape for n, i in session.inputs.items() if n.startswith("past_key_values.")}
        self._cache = {
            name: Tensor(np.zeros((rows, int(shape[1]), CAPACITY, int(shape[3])), np.float32))
            for name, shape in shapes.items()
        }

    def run(self, ids: NDArray[np.int64], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        """New tokens (rows, S), the place of each row's first, and each row's length after them: its last logits."""
        rows, count = ids.shape
        inputs: dict[str, NDArray[Any]] = {
            "input_ids": np.ascontiguousarray(ids),
            "position_ids": starts[:, None] + np.arange(count),
            "seqlens_k": (lengths - 1).astype(np.int32),
            "total_sequence_length": np.array(lengths.max(), np.int32),
            "logit_index": np.arange(rows) * count + lengths - starts - 1,
        }
        binding = self._session.binding()
        for name, array in inputs.items():
            if name in self._session.inputs:
                binding.input(name, Tensor(array))
        for name, tensor in self._cache.items():
            binding.input(name, tensor)
            binding.output(name.replace("past_key_values", "present"), tensor)
        logits = Tensor(np.zeros((rows, VOCABULARY), np.float32))
        binding.output("logits", logits)
        self._session.run(binding, Switch())
        return logits.array


def _padded_reference(model: Any, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """transformers' logits of a row that is padded on the left, as it pads batches: (T, V)."""
    import torch

    padding = 6
    padded = torch.from_numpy(np.concatenate([np.full(padding, 7), ids]))[None]
    mask = torch.ones_like(padded)
    mask[:, :padding] = 0
    places = (mask.cumsum(1) - 1).clamp(min=0)
    given = {} if model.config.model_type == "bloom" else {"position_ids": places}
    with torch.no_grad():
        logits: NDArray[np.float32] = model(padded, attention_mask=mask, use_cache=False, **given).logits[0].numpy()
    return logits[padding:]


def test_an_opt_may_have_norms_without_weights(tmp_path: Path) -> None:
    """transformers cannot make such a model, but loads one: norms whose weights are 1 and biases 0 are the same."""
    import torch
    from safetensors.numpy import load_file, save_file

    model = reference_model(gpt_variant("opt"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layer_norm" in name:
                parameter.fill_(float(name.endswith("weight")))
    folder = write_checkpoint(tmp_path, model)
    tensors = load_file(folder / "model.safetensors")
    save_file({name: t for name, t in tensors.items() if "layer_norm" not in name}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text()) | {"layer_norm_elementwise_affine": False}
    (folder / "config.json").write_text(json.dumps(config))
    ids = np.random.default_rng(5).integers(0, VOCABULARY, 40)
    decoder = Decoder(session_of(folder), context_length=40, prefill_chunk=16)
    assert error(np.concatenate(list(decoder.all_logits(ids))), reference_logits(model, ids)) < TOLERANCE


def test_the_bias_of_a_prefill_is_that_of_its_chunk_alone(tmp_path: Path) -> None:
    """Its memory is chunk · heads · context: nothing in the graph is as large as context · context."""
    model = reference_model(gpt_variant("bloom"))
    session_of(write_checkpoint(tmp_path, model))
    import onnx

    graph = onnx.load(tmp_path / "decoder.onnx", load_external_data=False).graph
    (made,) = [node for node in graph.node if node.name == "alibi.bias"]
    users = [node.op_type for node in graph.node if made.output[0] in node.input]
    assert users == ["GroupQueryAttention"] * 3
    assert max(int(np.prod(t.dims)) for t in graph.initializer if t.name.startswith("alibi")) == 6
