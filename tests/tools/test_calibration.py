"""What calibration knows of a decoder's inputs, and that it leaves nothing behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.memory_checkpoint import LLAMA_CONFIG, MemoryCheckpoint, llama_tensors
from support.tokenizers import byte_level

from edgelm.errors import ModelError
from edgelm.text.chat_template import ChatTemplate
from edgelm.text.tokenizer import Tokenizer
from edgelm_tools.architectures.llama_model import LlamaModel
from edgelm_tools.architectures.llama_spec import llama_spec
from edgelm_tools.architectures.llama_weights import LlamaWeights
from edgelm_tools.calibration import LayerwiseCalibration, calibration_sequences, calibration_texts
from edgelm_tools.checkpoint.base import BlockQuantized, TextAssets
from edgelm_tools.quantize.gptq import error_factor
from edgelm_tools.quantize.schemes import Blockwise, Rowwise, Scheme, calibrates, scheme_named

IDS = np.random.default_rng(3).integers(0, 50, (4, 16))


def calibration(folder: Path, **changed: NDArray[np.float32]) -> LayerwiseCalibration:
    tensors = {**llama_tensors(), **{name.replace("__", "."): value for name, value in changed.items()}}
    model = LlamaModel(MemoryCheckpoint(tensors))
    return LayerwiseCalibration(model._layered(Rowwise()), IDS, hadamard_size=8, folder=folder)


def test_the_first_layer_s_inputs_are_the_normed_rotated_embeddings(tmp_path: Path) -> None:
    weights = LlamaWeights(MemoryCheckpoint(llama_tensors()), llama_spec(LLAMA_CONFIG), rotated=True)
    rows = np.concatenate(list(weights.embedding().float_parts()))[IDS.ravel()]
    normed = rows / np.sqrt(np.square(rows).mean(axis=1, keepdims=True) + np.float32(1e-6))
    known = calibration(tmp_path)
    np.testing.assert_allclose(known.factor("layer0.qkv"), error_factor(normed.T @ normed), rtol=1e-3, atol=1e-4)


def test_layers_that_read_the_same_share_what_is_known(tmp_path: Path) -> None:
    known = calibration(tmp_path)
    assert known.factor("layer1.gate") is known.factor("layer1.up")
    assert known.factor("layer1.down").shape == (40, 40)
    # The head comes in pieces, which need not be worked out one by one.
    assert known.factor("head.0") is known.factor("head.3")
    assert known.factor("head.0").shape == (24, 24)
    assert not list(tmp_path.iterdir())


def prepared_int4(tensors: Mapping[str, NDArray[Any] | BlockQuantized], folder: Path) -> Scheme:
    return LlamaModel(MemoryCheckpoint(tensors)).prepared(scheme_named("int4"), None, folder)


def test_int4_is_rotated_and_its_inputs_are_not_spread(tmp_path: Path) -> None:
    scheme = prepared_int4(llama_tensors(), tmp_path)
    assert calibrates(scheme)
    assert isinstance(scheme, Blockwise)
    assert scheme.settings() == {"bits": 4, "block_size": 32, "rotation": "hadamard"}
    model = LlamaModel(MemoryCheckpoint(llama_tensors()))
    plain, spread = (
        LayerwiseCalibration(model._layered(scheme), IDS, hadamard_size=size, folder=tmp_path)
        for size in (scheme.hadamard_size, 8)
    )
    np.testing.assert_array_equal(plain.factor("layer0.gate"), spread.factor("layer0.gate"))
    assert not np.allclose(plain.factor("layer0.down"), spread.factor("layer0.down"))


@pytest.mark.parametrize("bits", [4, 8])
def test_int4_blocks_of_a_checkpoint_are_left_alone(bits: int, tmp_path: Path) -> None:
    tensors: dict[str, NDArray[Any] | BlockQuantized] = {**llama_tensors()}
    name = "model.layers.0.mlp.down_proj.weight"
    rows, columns = tensors[name].shape  # type: ignore[union-attr]
    blocks = np.zeros((rows, columns), np.int8), np.ones((rows, columns // 8), np.float32)
    tensors[name] = BlockQuantized(*blocks, block_size=8, bits=bits)
    scheme = prepared_int4(tensors, tmp_path)
    assert scheme.wants_rotation == calibrates(scheme) == (bits == 8)


def test_a_layer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    known = calibration(tmp_path, model__layers__1__mlp__up_proj__weight=np.full((40, 24), np.nan, np.float32))
    known.factor("layer0.qkv")
    with pytest.raises(ModelError, match="no numbers"):
        known.factor("layer1.qkv")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("length", "conversations"), [(40, 27), (256, 8)])
def test_sequences_are_prose_and_conversations(length: int, conversations: int) -> None:
    tokenizer = Tokenizer(byte_level())
    prose = calibration_sequences(tokenizer, None, length)
    assert prose.shape == (4096 // length, length)
    template = ChatTemplate("{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}")
    mixed = calibration_sequences(tokenizer, template, length)
    assert mixed.shape == prose.shape
    starts = tokenizer.encode_markup("<|im_start|>")[0]
    chats = [bool((row == starts).any()) for row in mixed]
    # A paragraph makes one short conversation at most.
    assert sum(chats) == min(len(mixed) // 2, conversations)
    assert chats == sorted(chats, reverse=True)


@pytest.mark.parametrize(("vocab_size", "conversations"), [(401, False), (402, True)])
def test_conversations_with_a_marker_that_the_model_does_not_know_are_left_out(
    vocab_size: int, conversations: bool
) -> None:
    tokenizer = byte_level()
    tokenizer.add_special_tokens(["<|turn|>"])
    template = "{% for m in messages %}{{ m.content }}<|turn|>{% endfor %}"
    facts = replace(LlamaModel(MemoryCheckpoint(llama_tensors())).facts, vocab_size=vocab_size)
    ids = calibration_texts(TextAssets(tokenizer.to_str().encode(), template), facts, 256)
    assert tokenizer.token_to_id("<|turn|>") == 401
    assert (ids == 401).any() == conversations
