"""A checkpoint must have exactly the tensors that its configuration describes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.memory_checkpoint import LLAMA_CONFIG, MemoryCheckpoint, llama_tensors

from edgelm.errors import ModelError, UnsupportedModelError
from edgelm_tools.architectures.llama_spec import llama_spec
from edgelm_tools.architectures.llama_weights import LlamaWeights
from edgelm_tools.matrix import MOST_VALUES

LAYER = "model.layers.1"


def weights(tensors: dict[str, Any], **settings: Any) -> LlamaWeights:
    config = LLAMA_CONFIG | settings
    return LlamaWeights(MemoryCheckpoint(tensors, config), llama_spec(config))


@pytest.mark.parametrize("name", sorted(llama_tensors().keys() - {"lm_head.weight"}))
def test_a_missing_tensor_is_named(name: str) -> None:
    tensors = llama_tensors()
    del tensors[name]
    with pytest.raises(ModelError, match=f"the checkpoint has no tensor '{name}'"):
        weights(tensors)


@pytest.mark.parametrize("name", llama_tensors())
def test_a_tensor_of_another_shape_is_named_with_both(name: str) -> None:
    tensors = llama_tensors()
    shape = tensors[name].shape
    tensors[name] = np.zeros((*shape[:-1], shape[-1] + 1), np.float32)
    with pytest.raises(ModelError, match=f"tensor '{name}' has shape .*; by config.json it is") as caught:
        weights(tensors)
    assert str(shape) in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        f"{LAYER}.self_attn.q_norm.weight",
        f"{LAYER}.self_attn.q_proj.bias",
        f"{LAYER}.mlp.down_proj.bias",
        f"{LAYER}.input_layernorm.bias",
        "model.layers.2.mlp.up_proj.weight",
        "model.embed_positions.weight",
        "lm_head.bias",
        "score.weight",
    ],
)
def test_a_tensor_that_would_be_left_out_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"tensor '{name}' is not one that this llama has"):
        weights({**llama_tensors(), name: np.zeros(24, np.float32)})


def test_tensors_that_are_computed_from_the_configuration_are_left_alone() -> None:
    weights({**llama_tensors(), f"{LAYER}.self_attn.rotary_emb.inv_freq": np.zeros(6, np.float32)})


def test_biases_are_read_where_the_configuration_has_them() -> None:
    name = f"{LAYER}.self_attn.k_proj.bias"
    made = weights({**llama_tensors(), name: np.arange(12, dtype=np.float32)}, attention_bias=True)
    assert made.qkv_bias(0) is None
    bias = made.qkv_bias(1)
    assert bias is not None
    # Two heads of queries, one of keys, one of values, each 12 widened to 16: 6 and 6 values with zeros between.
    queries, keys, values = np.split(bias, np.cumsum([2, 1]) * made.layout.padded_size)
    assert not queries.any()
    assert not values.any()
    assert keys[keys != 0].tolist() == list(range(1, 12))


def test_only_a_checkpoint_that_says_so_shares_the_embedding() -> None:
    tensors = llama_tensors()
    assert not weights(tensors).head_is_embedding
    del tensors["lm_head.weight"]
    assert weights(tensors, tie_word_embeddings=True).head_is_embedding
    with pytest.raises(ModelError, match=r"the checkpoint has no tensor 'lm_head.weight'"):
        weights(tensors)


def test_a_rotated_table_is_never_held_whole_once_more() -> None:
    rows = 66_000
    sizes = {24: 256, 12: 128, 50: rows}
    tensors = {
        name: np.zeros([sizes.get(size, size) for size in tensor.shape], np.float32)
        for name, tensor in llama_tensors().items()
    }
    config = LLAMA_CONFIG | {"hidden_size": 256, "vocab_size": rows}
    made = LlamaWeights(MemoryCheckpoint(tensors, config), llama_spec(config), rotated=True)
    for matrix in (made.embedding(), made.head()):
        parts = [part.shape for part in matrix.parts()]
        assert sum(part[0] for part in parts) == rows
        assert {part[1] for part in parts} == {256}
        assert max(part[0] for part in parts) * 256 <= MOST_VALUES


@pytest.mark.parametrize(("prefix", "head"), [("language_model.", "language_model.lm_head"), ("model.", "lm_head")])
def test_the_language_model_of_a_checkpoint_with_vision_is_found(prefix: str, head: str) -> None:
    alone = llama_tensors()
    inner = "language_model.model." if prefix == "language_model." else "model.language_model."
    stored = {name.replace("model.", inner, 1).replace("lm_head", head): value for name, value in alone.items()}
    stored[f"{'model.' if prefix == 'model.' else ''}vision_tower.patch.weight"] = np.zeros((2, 2), np.float32)
    stored["multi_modal_projector.mm_input_projection_weight"] = np.zeros((2, 2), np.float32)
    made = weights(stored)
    for name, matrix in (("model.embed_tokens", made.embedding()), ("lm_head", made.head())):
        np.testing.assert_array_equal(np.concatenate(list(matrix.float_parts())), alone[f"{name}.weight"])
    assert made.parameters() == sum(value.size for value in alone.values())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", [f"{LAYER}.mlp.up_proj.weight", f"{LAYER}.input_layernorm.weight"])
def test_weights_that_are_no_numbers_are_named(name: str, value: float) -> None:
    tensors = llama_tensors()
    tensors[name].flat[3] = value
    made = weights(tensors)
    with pytest.raises(ModelError, match=f"tensor '{name}' has values that are infinite or no numbers"):
        list(made.up(1).parts()), made.norm("attention", 1)
