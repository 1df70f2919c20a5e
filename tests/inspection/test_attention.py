"""``attention_maps`` on tiny models: shapes, tokens, answers, and what is refused; values are in the parity tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from support.attention_bundles import ENCODER_HEADS, HEADS, LAYERS, name_attention
from support.bergamot_reference import BergamotReference
from support.bundles import EOS, WEIGHTS_NAME, write_decoder_bundle
from support.foreign_graphs import CONFIG, decoder, write_folder
from support.marian_files import write_bergamot

import edgelm
from edgelm import attention_maps
from edgelm.bundle.manifest import Source
from edgelm.errors import (
    ConfigError,
    ContextLengthError,
    MemoryLimitError,
    NumericError,
    PromptError,
    UnsupportedModelError,
)
from edgelm.inspection import attention
from edgelm_tools.checkpoint.bergamot_checkpoint import BergamotCheckpoint
from edgelm_tools.export import export


def test_a_decoder(lm: edgelm.LanguageModel) -> None:
    found = attention_maps(lm, "ab c")
    (one,) = found.maps
    assert (one.kind, one.layers, one.heads) == ("decoder", (0, 1, 2), (0, 1, 2, 3))
    assert one.weights.shape == (LAYERS, HEADS, 4, 4)
    assert one.queries == one.keys == ("a", "b", " ", "c")
    assert np.abs(one.weights.sum(axis=-1) - 1).max() < 1e-6
    assert (one.weights[..., ~np.tri(4, dtype=bool)] == 0).all()
    assert (found.model, found.prompt_tokens, found.answer) == ("tiny", 4, "")


def test_an_answer_is_looked_at_too(lm: edgelm.LanguageModel) -> None:
    answer = lm.generate("ab c", max_new_tokens=5)
    found = attention_maps(lm, "ab c", max_new_tokens=5)
    count = 4 + len(answer.token_ids)
    assert found.answer == answer.text
    assert found.maps[0].weights.shape == (LAYERS, HEADS, count, count)
    alone = attention_maps(lm, "ab c").maps[0].weights
    assert np.abs(found.maps[0].weights[:, :, :4, :4] - alone).max() < 1e-6


def test_settings_of_a_generation_hold(lm: edgelm.LanguageModel) -> None:
    settings = {"max_new_tokens": 4, "do_sample": True, "temperature": 2.0, "seed": 3}
    assert attention_maps(lm, "ab", **settings).answer == lm.generate("ab", **settings).text
    with pytest.raises(ConfigError, match="nonsense"):
        attention_maps(lm, "ab", max_new_tokens=1, nonsense=1)


def test_ids_are_taken_as_they_are(lm: edgelm.LanguageModel) -> None:
    ids = lm.tokenizer.encode("ab c")
    assert np.array_equal(attention_maps(lm, ids).maps[0].weights, attention_maps(lm, "ab c").maps[0].weights)
    assert attention_maps(lm, [EOS, 4]).maps[0].keys == ("</s>", "a")


def test_layers_and_heads_are_chosen(lm: edgelm.LanguageModel) -> None:
    whole = attention_maps(lm, "ab c").maps[0]
    (some,) = attention_maps(lm, "ab c", layers={2, 0}, heads=[3]).maps
    assert (some.layers, some.heads) == ((0, 2), (3,))
    assert np.array_equal(some.weights, whole.weights[[0, 2]][:, [3]])


def test_an_encoder(encoder: edgelm.EncoderModel) -> None:
    (one,) = attention_maps(encoder, ("she sells", "shells")).maps
    (encoding,) = encoder.encode([("she sells", "shells")])
    assert one.kind == "encoder"
    assert one.queries == one.keys == ("[CLS]", "she", "sells", "[SEP]", "shells", "[SEP]")
    assert one.weights.shape == (1, ENCODER_HEADS, len(encoding), len(encoding))
    assert np.abs(one.weights.sum(axis=-1) - 1).max() < 1e-6
    swapped = attention_maps(encoder, ("she", "sells shells")).maps[0]
    assert not np.array_equal(swapped.weights, one.weights)


class _Recording(BergamotReference):
    """Keeps the weights of each attention, in the order of the layers."""

    def attention(
        self, query: NDArray[np.float32], keys: NDArray[np.float32], values: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        q, k = (x.reshape(len(x), self.heads, -1).transpose(1, 0, 2) for x in (query, keys))
        scores = np.exp(q @ k.transpose(0, 2, 1) / np.sqrt(self.width // self.heads))
        self.__dict__.setdefault("seen", []).append(scores / scores.sum(axis=-1, keepdims=True))
        return super().attention(query, keys, values)


def test_a_recurrent_decoder_looks_at_its_source(tmp_path: Path) -> None:
    checkpoint = write_bergamot(tmp_path / "checkpoint", width=24, heads=3, inner=40, encoder=2, decoder=2)
    export(checkpoint, tmp_path / "b", name="tiny", origin=Source("test"), scheme="fp32", report=False)
    source = [2, 5, 3, 7, 0]
    with edgelm.load(tmp_path / "b", prepack=False, threads=1) as lm:
        found = attention_maps(lm, source, max_new_tokens=6)
        tokens = list(lm.generate(source, max_new_tokens=6).token_ids)
        alone = attention_maps(lm, source)
    reference = _Recording(BergamotCheckpoint(tmp_path / "checkpoint"))
    reference.logits(reference.encode(source), tokens)
    seen = reference.__dict__["seen"]
    assert [one.kind for one in found.maps] == ["encoder", "cross"]
    assert [one.kind for one in alone.maps] == ["encoder"]
    assert np.abs(found.of("encoder").weights - np.stack(seen[:2])).max() < 1e-4
    assert np.abs(found.of("cross").weights - np.stack(seen[2:])).max() < 1e-4


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"layers": [0, 3]}, "there is no layer 3; layers are from 0 to 2"),
        ({"layers": []}, "no layer was chosen"),
        ({"layers": [-1]}, "there is no layer -1"),
        ({"heads": [4]}, "there is no head 4; heads are from 0 to 3"),
    ],
)
def test_layers_and_heads_that_are_not_there(
    lm: edgelm.LanguageModel, chosen: dict[str, list[int]], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        attention_maps(lm, "ab", **chosen)


def test_texts_that_cannot_be_looked_at(lm: edgelm.LanguageModel, encoder: edgelm.EncoderModel) -> None:
    with pytest.raises(PromptError):
        attention_maps(lm, "")
    with pytest.raises(PromptError):
        attention_maps(lm, [10**6])
    with pytest.raises(ContextLengthError, match="the text has 65 tokens, but tiny takes 64"):
        attention_maps(lm, "a" * 65)
    with pytest.raises(ContextLengthError):
        attention_maps(encoder, "she " * 64)
    with pytest.raises(ConfigError, match="is an encoder, which generates nothing"):
        attention_maps(encoder, "she", max_new_tokens=3)


@pytest.mark.parametrize("new", [-1, 1.5, True, "3"])
def test_numbers_of_tokens_that_are_none(lm: edgelm.LanguageModel, new: Any) -> None:
    with pytest.raises(ConfigError, match="max_new_tokens must be"):
        attention_maps(lm, "ab", max_new_tokens=new)


def test_an_answer_ends_where_the_context_ends(lm: edgelm.LanguageModel) -> None:
    (one,) = attention_maps(lm, "a" * 60, max_new_tokens=100, layers=[0]).maps
    assert 60 < len(one.queries) <= 64


def test_weights_that_are_no_numbers(tmp_path: Path) -> None:
    def spoil(model: onnx.ModelProto) -> None:
        name_attention(model)
        weights = tmp_path / "decoder" / WEIGHTS_NAME
        weights.write_bytes(np.full(weights.stat().st_size // 4, np.nan, np.float32).tobytes())

    folder = write_decoder_bundle(tmp_path / "decoder", edit=spoil)
    with edgelm.load(folder, prepack=False) as lm, pytest.raises(NumericError, match="tiny gave attention weights"):
        attention_maps(lm, "ab")


def test_maps_that_do_not_fit_are_refused_with_their_sum(
    lm: edgelm.LanguageModel, decoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    itemised = r"attention maps [0.]+ MB \(decoder 3 layers x 4 heads x 12 x 12 tokens x 4 bytes\)"
    monkeypatch.setattr(attention, "MOST_BYTES", 3 * 4 * 12 * 12 * 4 - 1)
    with pytest.raises(MemoryLimitError, match=itemised):
        attention_maps(lm, "a" * 12)
    with pytest.raises(MemoryLimitError, match=itemised):
        attention_maps(lm, "a" * 4, max_new_tokens=8)
    attention_maps(lm, "a" * 12, layers=[1])
    # What just loads the model has no room for another graph.
    need = lm.memory_budget(64).total
    message = r"decoder 3 layers x 4 heads x 64 x 64 tokens x 4 bytes\), the model and its inspected graphs \d"
    with (
        edgelm.load(decoder_folder, prepack=False, threads=1, max_memory=need) as limited,
        pytest.raises(MemoryLimitError, match=message),
    ):
        attention_maps(limited, "a" * 64)


def test_graphs_of_others_are_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", {"config.json": CONFIG, "model.onnx": decoder()})
    with edgelm.load(folder, preload_text=False) as lm, pytest.raises(UnsupportedModelError, match="edgelm export"):
        attention_maps(lm, [1, 2])


def test_a_graph_without_attention_that_is_known_is_refused(tmp_path: Path) -> None:
    with (
        edgelm.load(write_decoder_bundle(tmp_path / "tiny"), prepack=False) as lm,
        pytest.raises(UnsupportedModelError, match="no attention that can be looked at"),
    ):
        attention_maps(lm, "ab")


def test_a_normal_run_is_as_it_was(lm: edgelm.LanguageModel) -> None:
    before = lm.generate("ab c", max_new_tokens=8).token_ids
    attention_maps(lm, "ab c", max_new_tokens=3)
    assert lm.generate("ab c", max_new_tokens=8).token_ids == before
