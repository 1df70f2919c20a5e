"""Tensors that are read some rows at a time are those that are read whole, in every format."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from hypothesis import given, settings
from hypothesis import strategies as st
from support.checkpoints import llama_metadata, llama_tensors, safetensors_bytes, write_folder, write_gguf

from edgelm.errors import ModelError
from edgelm_tools.checkpoint import open_checkpoint
from edgelm_tools.checkpoint.base import Checkpoint

TENSORS = {
    "a": np.arange(60, dtype=np.float32).reshape(12, 5),
    "b": np.linspace(-1, 1, 14, dtype=np.float16).reshape(7, 2),
    "c": np.arange(16256, 16256 + 24, dtype=np.uint16).reshape(8, 3),  # bfloat16 from 1 on
    "d": np.arange(3, dtype=np.float64),
    "e": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "none": np.empty((0, 4), np.float32),
}


@pytest.fixture(scope="module")
def safetensors(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("safetensors")
    write_folder(folder, {"config.json": {"model_type": "llama"}, "model.safetensors": safetensors_bytes(TENSORS)})
    return open_checkpoint(folder)


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    types = {"token_embd.weight": Kind.Q4_1, "blk.0.ffn_up.weight": Kind.Q8_0, "blk.0.attn_output.weight": Kind.F16}
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    return open_checkpoint(write_gguf(path, llama_metadata(), llama_tensors(), types=types))


def check(checkpoint: Checkpoint, most_values: int) -> None:
    for name in checkpoint.names():
        whole = checkpoint.tensor(name)
        parts = list(checkpoint.row_parts(name, most_values))
        if whole.size:
            np.testing.assert_array_equal(np.concatenate(parts), whole)
            assert all(part.dtype == np.float32 and part[:1].shape[1:] == whole.shape[1:] for part in parts)
        else:
            assert sum(part.size for part in parts) == 0


@given(most_values=st.integers(1, 100))
@settings(deadline=None)
def test_safetensors(safetensors: Checkpoint, most_values: int) -> None:
    check(safetensors, most_values)
    parts = list(safetensors.row_parts("a", most_values))
    assert max(part.size for part in parts) <= max(most_values, 5)


@given(most_values=st.integers(1, 5000))
@settings(deadline=None, max_examples=20)
def test_gguf(gguf: Checkpoint, most_values: int) -> None:
    check(gguf, most_values)
    parts = list(gguf.row_parts("model.layers.0.mlp.gate_proj.weight", most_values))
    assert max(part.size for part in parts) <= max(most_values, 64)


def test_permuted_rows_come_in_one_part(gguf: Checkpoint) -> None:
    assert len(list(gguf.row_parts("model.layers.0.self_attn.q_proj.weight", 64))) == 1


@pytest.mark.parametrize("kind", ["safetensors", "gguf"])
def test_an_unknown_name_is_named(kind: str, request: pytest.FixtureRequest) -> None:
    checkpoint: Checkpoint = request.getfixturevalue(kind)
    with pytest.raises(ModelError, match="no tensor named 'nothing'"):
        list(checkpoint.row_parts("nothing", 10))
