"""A checkpoint of the GPT family must have exactly the tensors that its configuration describes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.gpt_tensors import GPT_CONFIGS, gpt_config, gpt_tensors
from support.memory_checkpoint import MemoryCheckpoint

from edgelm.errors import ModelError, UnsupportedModelError
from edgelm_tools.architectures.gpt_spec import gpt_spec
from edgelm_tools.architectures.gpt_weights import GptWeights
from edgelm_tools.matrix import Matrix

EACH_TENSOR = [(model_type, name) for model_type in GPT_CONFIGS for name in gpt_tensors(model_type)]
HEADS = {"gpt2": "lm_head", "gpt_neox": "embed_out", "opt": "lm_head", "bloom": "lm_head"}


def weights(model_type: str, tensors: dict[str, Any], *, rotated: bool = False, **settings: Any) -> GptWeights:
    config = gpt_config(model_type, **{"tie_word_embeddings": True, **settings})
    return GptWeights(MemoryCheckpoint(tensors, config), gpt_spec(config), rotated)


def whole(matrix: Matrix) -> NDArray[np.float32]:
    return np.concatenate(list(matrix.float_parts()))


@pytest.mark.parametrize(("model_type", "name"), EACH_TENSOR)
def test_a_missing_tensor_is_named(model_type: str, name: str) -> None:
    tensors = gpt_tensors(model_type)
    del tensors[name]
    with pytest.raises(ModelError, match=r"the checkpoint has no tensor '.*'") as caught:
        weights(model_type, tensors)
    # Without its embedding, a decoder may stand anywhere.
    assert name in str(caught.value) or "embed" in name or "wte" in name


@pytest.mark.parametrize(("model_type", "name"), EACH_TENSOR)
def test_a_tensor_of_another_shape_is_named_with_both(model_type: str, name: str) -> None:
    tensors = gpt_tensors(model_type)
    shape = tensors[name].shape
    tensors[name] = np.zeros((*shape[:-1], shape[-1] + 1), np.float32)
    with pytest.raises(ModelError, match=f"tensor '{name}' has shape .*; by config.json it is") as caught:
        weights(model_type, tensors)
    assert str(shape) in str(caught.value)


@pytest.mark.parametrize(
    ("model_type", "name"),
    [
        ("gpt2", "transformer.h.2.ln_1.weight"),
        ("gpt2", "transformer.h.0.crossattention.c_attn.weight"),
        ("gpt2", "transformer.h.0.mlp.bias"),
        ("gpt2", "score.weight"),
        ("gpt_neox", "gpt_neox.embed_positions.weight"),
        ("gpt_neox", "lm_head.weight"),
        ("opt", "model.decoder.layer_norm.weight"),
        ("bloom", "transformer.wpe.weight"),
    ],
)
def test_a_tensor_that_would_be_left_out_is_refused(model_type: str, name: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"tensor '{name}' is not one that this {model_type} has"):
        weights(model_type, {**gpt_tensors(model_type), name: np.zeros(24, np.float32)})


@pytest.mark.parametrize(
    ("model_type", "names"),
    [
        ("gpt2", ["transformer.h.0.attn.bias", "transformer.h.1.attn.masked_bias"]),
        ("gpt_neox", [f"gpt_neox.layers.0.attention.{n}" for n in ("bias", "masked_bias", "rotary_emb.inv_freq")]),
    ],
)
def test_tensors_that_are_computed_from_the_configuration_are_left_alone(model_type: str, names: list[str]) -> None:
    weights(model_type, gpt_tensors(model_type) | {name: np.zeros((1, 1, 64, 64), np.float32) for name in names})


@pytest.mark.parametrize(
    ("model_type", "root", "other"),
    [
        ("gpt2", "transformer.", ""),
        ("gpt_neox", "gpt_neox.", ""),
        ("opt", "model.decoder.", "decoder."),
        ("bloom", "transformer.", ""),
    ],
)
def test_a_decoder_is_found_also_where_it_stands_alone(model_type: str, root: str, other: str) -> None:
    tensors = gpt_tensors(model_type)
    usual = weights(model_type, tensors)
    alone = weights(model_type, {name.replace(root, other, 1): value for name, value in tensors.items()})
    np.testing.assert_array_equal(whole(alone.qkv(1)[0]), whole(usual.qkv(1)[0]))
    np.testing.assert_array_equal(whole(alone.embedding()), whole(usual.embedding()))
    assert alone.parameters() == usual.parameters() == sum(value.size for value in tensors.values())


@pytest.mark.parametrize("model_type", GPT_CONFIGS)
def test_a_head_of_its_own_is_used_unless_the_configuration_ties_it(model_type: str) -> None:
    tensors = gpt_tensors(model_type)
    width = gpt_spec(gpt_config(model_type)).embedding_size
    head = np.ones((50, width), np.float32)
    with pytest.raises(ModelError, match=f"no tensor '{HEADS[model_type]}.weight'"):
        weights(model_type, tensors, tie_word_embeddings=False)
    tensors[f"{HEADS[model_type]}.weight"] = head
    own = weights(model_type, tensors, tie_word_embeddings=False)
    tied = weights(model_type, tensors, tie_word_embeddings=True)
    assert not own.head_is_embedding
    np.testing.assert_array_equal(whole(own.head()[0]), head)
    assert tied.head_is_embedding
    np.testing.assert_array_equal(whole(tied.head()[0]), whole(tied.embedding()))


@pytest.mark.parametrize("model_type", GPT_CONFIGS)
def test_fused_projections_are_taken_apart_and_widened(model_type: str) -> None:
    """Each row of the fused weight says which kind, head and place it belongs to."""
    tensors = gpt_tensors(model_type)
    kinds, heads, places = np.meshgrid(range(3), range(2), range(12), indexing="ij")
    marks = 1000 * (kinds + 1) + 100 * heads + places
    if model_type == "opt":
        for kind, name in enumerate("qkv"):
            tensors[f"model.decoder.layers.1.self_attn.{name}_proj.bias"] = marks[kind].ravel().astype(np.float32)
    else:
        name = next(n for n in tensors if ".1." in n and n.endswith(("c_attn.bias", "query_key_value.bias")))
        order = marks if model_type == "gpt2" else marks.transpose(1, 0, 2)
        tensors[name] = order.ravel().astype(np.float32)
    made = weights(model_type, tensors)
    bias = made.qkv(1)[1]
    assert bias is not None
    by_head = bias.reshape(3, 2, made.layout.padded_size)
    assert made.layout.padded_size == (32 if model_type == "gpt_neox" else 16)
    for kind in range(3):
        for head in range(2):
            assert by_head[kind, head][by_head[kind, head] != 0].tolist() == marks[kind, head].tolist()


def test_positions_begin_behind_the_rows_that_opt_keeps_for_padding() -> None:
    tensors = gpt_tensors("opt")
    positions = whole(weights("opt", tensors).positions())
    np.testing.assert_array_equal(positions, tensors["model.decoder.embed_positions.weight"][2:])


@pytest.mark.parametrize("model_type", ["gpt2", "gpt_neox", "bloom"])
def test_nothing_of_a_rotated_stream_has_a_mean(model_type: str) -> None:
    """What is written, turned back, sums to zero over the hidden values; the parts that are not rotated do not."""
    made = weights(model_type, gpt_tensors(model_type), rotated=True)
    written = [whole(made.embedding()), whole(made.output(0)[0]).T, whole(made.down(1)[0]).T, made.output(1)[1]]
    if model_type == "gpt2":
        written.append(whole(made.positions()))
    plain = np.ones(24, np.float32)
    for rows in written:
        assert rows is not None
        np.testing.assert_allclose(rows @ (made._basis.T @ plain), 0, atol=1e-4)
        np.testing.assert_allclose(np.square(rows).sum(-1), np.square(rows @ made._basis.T).sum(-1), rtol=1e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["h.1.mlp.c_fc.weight", "h.1.ln_1.bias", "h.1.attn.c_attn.bias"])
def test_weights_that_are_no_numbers_are_named(name: str, value: float) -> None:
    tensors = gpt_tensors("gpt2")
    tensors[f"transformer.{name}"].flat[3] = value
    made = weights("gpt2", tensors)
    with pytest.raises(ModelError, match=f"tensor 'transformer.{name}' has values that are infinite or no numbers"):
        whole(made.up(1)[0]), made.norm_before("attention", 1), made.qkv(1)
