"""The scales of an int8 KV cache: the largest value of each channel over a text, measured when a bundle is made."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bundles import GRAPH_NAME, TinyDecoder, write_decoder_bundle
from support.checkpoints import safetensors_bytes, write_folder
from support.gpt_tensors import GPT_CONFIGS, gpt_config, gpt_tensors
from support.memory_checkpoint import LLAMA_CONFIG, MemoryCheckpoint, llama_tensors
from support.native_graphs import write_native
from support.tokenizers import byte_level

import edgelm
from edgelm.bundle.bundle import open_bundle
from edgelm.bundle.manifest import Source
from edgelm.bundle.onnx_reader import read_model
from edgelm.bundle.progress import NoProgress
from edgelm.errors import NumericError
from edgelm.runtime.decoder import Decoder
from edgelm.runtime.int8_cache import Scales, cache_scales, load_int8_cache_graph
from edgelm.runtime.rotary import rotary_angles
from edgelm.runtime.session import Session
from edgelm_tools.architectures.registry import understand
from edgelm_tools.cache_scales import KV_SCALES_NAME, Turning, measured_scales
from edgelm_tools.export import SCHEMES, export
from edgelm_tools.quantize.schemes import Float32

VOCABULARY = 421
SIZES = TinyDecoder(layers=2, heads=4, kv_heads=2)
TEXTS = np.random.default_rng(5).integers(3, 30, (3, 20))


def checkpoint(folder: Path) -> Path:
    tensors = llama_tensors()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = np.resize(tensors[name], (VOCABULARY, 24))
    files: dict[str, Any] = {
        "config.json": LLAMA_CONFIG | {"vocab_size": VOCABULARY},
        "model.safetensors": safetensors_bytes(tensors),
        "tokenizer.json": byte_level().to_str().encode(),
    }
    return write_folder(folder, files)


def exported(tmp_path: Path, scheme: str, *, report: bool = False) -> Path:
    source, target = checkpoint(tmp_path / "checkpoint"), tmp_path / "bundle"
    export(source, target, name="tiny", origin=Source("test:tiny"), scheme=scheme, report=report)
    return target


def measured(folder: Path, texts: Any = TEXTS, positions: int = 64) -> tuple[Scales, dict[str, Any]]:
    """The scales, and the keys and values of the last text."""
    manifest = open_bundle(folder).manifest
    assert manifest.kv is not None
    angles = rotary_angles(read_model((folder / GRAPH_NAME).read_bytes(), what=GRAPH_NAME).graph, folder)
    with closing(Session(folder / GRAPH_NAME, threads=1)) as session:
        decoder = Decoder(session, context_length=64, prefill_chunk=16)
        scales = measured_scales(decoder, manifest.kv, Turning(angles, positions), texts, NoProgress())
        return scales, {name: array.copy() for name, array in decoder.cache.arrays()}


def test_a_channel_gets_the_most_that_its_pair_has_in_it_at_any_position() -> None:
    """Fast pairs their length, slow ones less, a pair that is not turned what its channels are."""
    rng = np.random.default_rng(3)
    angles = np.array([1, 0.1, 0.03, 0.01, 0.001, 0], np.float32)
    keys = rng.normal(size=(2, 9, 14)).astype(np.float32)  # the last two channels are in no pair
    sizes = Turning({"keys": angles}, 64).sizes("keys", keys.copy())
    unturned = (keys[..., :6] + 1j * keys[..., 6:12]) * np.exp(-1j * np.arange(9)[:, None] * angles)
    places = np.arange(0, 63.001, 0.05)[:, None, None, None]
    turned = unturned * np.exp(1j * places * angles)
    for found, parts in ((sizes[..., :6], turned.real), (sizes[..., 6:12], turned.imag)):
        np.testing.assert_allclose(found, np.abs(parts).max(axis=0), rtol=2e-3, atol=1e-5)
    np.testing.assert_array_equal(sizes[..., 12:], np.abs(keys[..., 12:]))
    np.testing.assert_allclose(sizes[..., 0], np.hypot(keys[..., 0], keys[..., 6]), rtol=1e-6)
    np.testing.assert_allclose(sizes[..., 5], np.abs(keys[..., 5]), rtol=1e-6)


def test_scales_are_the_largest_sizes(tmp_path: Path) -> None:
    folder = write_decoder_bundle(tmp_path / "b", SIZES)
    scales, held = measured(folder, TEXTS[:1])
    keys, values = held["past_key_values.1.key"][0], held["past_key_values.1.value"][0]
    lengths = np.hypot(keys[..., 0], keys[..., 8]).max(axis=1) / 127
    np.testing.assert_allclose(scales[1, 0, :, [0, 8]], [lengths, lengths], rtol=1e-6)
    slow = np.abs(keys[..., [7, 15]]).max(axis=1) / 127
    np.testing.assert_allclose(scales[1, 0][:, [7, 15]], slow, rtol=0.1)
    np.testing.assert_allclose(scales[1, 1], np.abs(values).max(axis=1) / 127, rtol=1e-6)


def test_more_texts_never_make_a_scale_smaller(tmp_path: Path) -> None:
    folder = write_decoder_bundle(tmp_path / "b", SIZES)
    single = [measured(folder, text[None])[0] for text in TEXTS]
    np.testing.assert_array_equal(measured(folder)[0], np.max(single, axis=0))


def test_the_same_tokens_further_on_are_not_cut_off(tmp_path: Path) -> None:
    """In the first layer a key depends on nothing but its token and its place."""
    folder = write_decoder_bundle(tmp_path / "b", SIZES)
    scales, _ = measured(folder, [TEXTS[0]])
    _, held = measured(folder, [[*TEXTS[0][::-1], *TEXTS[0]]])
    assert (np.abs(held["past_key_values.0.key"][0]) <= 127 * scales[0, 0][:, None] * (1 + 1e-5)).all()


def test_channels_that_are_never_used_get_a_scale_all_the_same(tmp_path: Path) -> None:
    class Silent:
        """A decoder with one head of nothing, and one with a channel of nothing."""

        def __init__(self) -> None:
            self.cache = self

        def rewind(self, length: int) -> None:
            assert length == 0

        def prefill(self, ids: Any) -> None:
            assert len(ids) == 20

        def arrays(self) -> Any:
            values = np.ones((1, 2, 20, 16), np.float32)
            values[:, 0] = 0
            values[:, 1, :, 3] = 0
            return [(f"past_key_values.0.{part}", values.copy()) for part in ("key", "value")]

    kv = understand(MemoryCheckpoint(llama_tensors())).facts.kv
    assert kv is not None
    kv = type(kv)(1, 2, 16)
    scales = measured_scales(Silent(), kv, Turning({}, 64), TEXTS, NoProgress())  # type: ignore[arg-type]
    assert (scales[:, :, 0] == np.float32(1 / 127)).all()
    assert scales[0, 0, 1, 3] == pytest.approx(0.01 * 15 / 16 / 127)
    assert scales[0, 0, 1, 4] == pytest.approx(1 / 127)


def test_keys_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    def break_weights(model: Any) -> None:
        path = tmp_path / "b" / "decoder.onnx.data"
        data = np.fromfile(path, np.float32)
        broken = next(tensor for tensor in model.graph.initializer if tensor.name == "layer1_qkv")
        place = {entry.key: int(entry.value) for entry in broken.external_data if entry.key != "location"}
        data[place["offset"] // 4 :][: place["length"] // 4] = np.inf
        data.tofile(path)

    folder = write_decoder_bundle(tmp_path / "b", SIZES, edit=break_weights)
    with pytest.raises(NumericError, match="keys and values are not finite"):
        measured(folder)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_has_scales(scheme: str, tmp_path: Path) -> None:
    bundle = open_bundle(exported(tmp_path, scheme))
    kv = bundle.manifest.kv
    assert kv is not None
    assert kv.scales == KV_SCALES_NAME
    assert cache_scales(bundle).shape == (kv.layers, 2, kv.kv_heads, kv.head_size)
    with edgelm.load(bundle.folder, kv_cache="int8", prepack=False, threads=1) as lm:
        assert len(lm.generate("hello", max_new_tokens=3, min_new_tokens=3).token_ids) == 3


def test_the_report_says_what_it_costs(tmp_path: Path) -> None:
    folder = exported(tmp_path, "fp32", report=True)
    report, quality = json.loads((folder / "report.json").read_text()), open_bundle(folder).manifest.quality
    for name in ("int8_cache_kl", "int8_cache_perplexity", "int8_cache_top1"):
        assert report[name] == quality[name]
    assert 0 < quality["int8_cache_kl"] < 0.1, "weights are random, and so more sensitive than a model's"
    assert quality["int8_cache_perplexity"] == pytest.approx(quality["perplexity"], rel=0.05)
    assert quality["int8_cache_perplexity"] != quality["perplexity"]


@pytest.mark.parametrize("model_type", GPT_CONFIGS)
def test_other_families_take_it(model_type: str, tmp_path: Path) -> None:
    """Learned positions, ALiBi, partial rotary embeddings, widened heads."""
    path = tmp_path / "decoder.onnx"
    source = MemoryCheckpoint(gpt_tensors(model_type), gpt_config(model_type, tie_word_embeddings=True))
    write_native(path, source, Float32())
    kv = understand(source).facts.kv
    assert kv is not None
    angles = rotary_angles(read_model(path.read_bytes(), what=path.name).graph, tmp_path)
    assert bool(angles) == (model_type == "gpt_neox")
    ids = np.random.default_rng(1).integers(0, 50, 50)
    found = []
    scales: Scales | None = None
    for graph in (None, "int8"):
        made = None if graph is None or scales is None else load_int8_cache_graph(path, scales)
        with closing(Session(path, threads=1, graph=made)) as session:
            decoder = Decoder(session, context_length=64, prefill_chunk=16)
            if scales is None:
                scales = measured_scales(decoder, kv, Turning(angles, 64), [ids[:25], ids[25:]], NoProgress())
            decoder.rewind(0)
            found.append(np.concatenate([part.copy() for part in decoder.all_logits(ids)]))
    exact, ours = found
    assert 0 < np.abs(ours - exact).mean() < 0.02 * np.abs(exact).mean()
