"""Folders that the real tools make run with the tokens of transformers, or of ONNX Runtime on the same graphs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.native_graphs import write_native
from support.optimum_folders import DECODERS, SEQ2SEQ, as_genai, as_transformers_js, checkpoint, export
from support.tiny_checkpoints import VOCABULARY, write_checkpoint

from edgelm.bundle.bundle import open_bundle
from edgelm.config import GenerationConfig, RuntimeConfig
from edgelm.generation.batch_loop import generate_batch_ids
from edgelm.generation.beam_search import beam_search
from edgelm.generation.loop import generate_ids
from edgelm.generation.requests import Request
from edgelm.generation.speculative import generate_guessed_ids
from edgelm.generation.speculative_lookup import NGramGuesser
from edgelm.runtime.foreign.engine import ForeignEngine
from edgelm_tools.checkpoint import open_checkpoint
from edgelm_tools.quantize.schemes import Float32

pytestmark = pytest.mark.reference

TOLERANCE = 1e-4
NEW_TOKENS = 16
LENGTHS = (5, 1, 9, 2)

Made = Callable[[str], tuple[Path, Any]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The folder that optimum makes of a checkpoint, and transformers' model."""
    known: dict[str, tuple[Path, Any]] = {}

    def made(name: str) -> tuple[Path, Any]:
        if name not in known:
            model = checkpoint(name)
            task = "text2text-generation-with-past" if name in SEQ2SEQ else "text-generation-with-past"
            known[name] = (export(tmp_path_factory.mktemp(name) / "optimum", model, task), model)
        return known[name]

    return made


def engine(folder: Path, *, chunk: int = 4, variant: str | None = None) -> ForeignEngine:
    bundle = open_bundle(folder, variant=variant)
    return ForeignEngine(bundle, RuntimeConfig(threads=1, prefill_chunk=chunk), bundle.manifest.context_length)


def prompts(seed: int = 0) -> list[NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(5, VOCABULARY - 30, size) for size in LENGTHS]


def reference(model: Any, ids: NDArray[np.int64], **settings: Any) -> list[int]:
    """transformers' answer: of a decoder without the prompt, of an encoder-decoder with its start token."""
    import torch

    given = torch.from_numpy(np.asarray(ids, np.int64))[None]
    with torch.no_grad():
        answer = model.generate(
            given, attention_mask=torch.ones_like(given), max_new_tokens=NEW_TOKENS, do_sample=False, **settings
        )
    return list(answer[0].tolist())


def greedy(made_engine: ForeignEngine, ids: NDArray[np.int64], ends: tuple[int, ...]) -> list[int]:
    config = GenerationConfig(max_new_tokens=NEW_TOKENS, eos_token_id=ends)
    return [step.token for step in generate_ids(made_engine.new_decoder(), ids, config)]


def guessed(made_engine: ForeignEngine, ids: NDArray[np.int64], ends: tuple[int, ...]) -> list[int]:
    config = GenerationConfig(max_new_tokens=NEW_TOKENS, eos_token_id=ends)
    decoder = made_engine.new_decoder()
    assert decoder.verifies
    return [step.token for step in generate_guessed_ids(decoder, ids, config, NGramGuesser())]


@pytest.mark.parametrize("name", DECODERS)
def test_logits_of_a_decoder_are_those_of_transformers(made: Made, name: str) -> None:
    import torch

    folder, model = made(name)
    ids = np.random.default_rng(1).integers(3, VOCABULARY, 40)
    with torch.no_grad():
        expected = model(torch.from_numpy(ids)[None]).logits[0].numpy()
    for chunk in (64, 7, 1):
        got = np.concatenate(list(engine(folder, chunk=chunk).new_decoder().all_logits(ids)))
        assert np.abs(got - expected).max() < TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_gives_the_tokens_of_transformers_alone_and_in_a_batch(made: Made, name: str) -> None:
    folder, model = made(name)
    ends = tuple(np.atleast_1d(model.config.eos_token_id).tolist())
    expected = [reference(model, ids)[len(ids) :] for ids in prompts()]
    loaded = engine(folder)
    assert [greedy(loaded, ids, ends) for ids in prompts()] == expected
    assert [guessed(loaded, ids, ends) for ids in prompts()] == expected
    answers: list[list[int]] = [[] for _ in expected]
    config = GenerationConfig(max_new_tokens=NEW_TOKENS, eos_token_id=ends)
    for row, step in generate_batch_ids(loaded.new_batch(), [Request(prompt=ids) for ids in prompts()], config):
        answers[row].append(step.token)
    assert answers == expected


def _without_merged(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*merged*")))


@pytest.mark.parametrize("pair", [False, True], ids=["merged", "pair"])
@pytest.mark.parametrize("name", SEQ2SEQ)
def test_an_encoder_decoder_gives_the_tokens_of_transformers_greedy_and_with_beams(
    made: Made, tmp_path: Path, name: str, pair: bool
) -> None:
    folder, model = made(name)
    folder = _without_merged(folder, tmp_path / "pair") if pair else folder
    loaded, manifest = engine(folder), open_bundle(folder).manifest
    assert ("decoder_with_past" in manifest.graphs) == pair
    start = manifest.decoder_start_token_id
    assert start == model.config.decoder_start_token_id
    requests = [Request(prompt=[start], source=ids) for ids in prompts()]
    greedy_config = GenerationConfig(max_new_tokens=NEW_TOKENS, eos_token_id=manifest.eos_token_id)
    answers: list[list[int]] = [[] for _ in requests]
    for row, step in generate_batch_ids(loaded.new_batch(prompts()), requests, greedy_config):
        answers[row].append(step.token)
    assert answers == [reference(model, ids)[1:] for ids in prompts()]
    found = beam_search(loaded.new_batch(prompts()), requests, greedy_config.updated(num_beams=4))
    expected = [reference(model, ids, num_beams=4)[1:] for ids in prompts()]
    assert [list(best[0].tokens) for best in found] == expected


@pytest.fixture(scope="module")
def quantized(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    known: dict[str, Path] = {}

    def quantized(name: str) -> Path:
        if name not in known:
            known[name] = as_transformers_js(made(name)[0], tmp_path_factory.mktemp(name) / "js")
        return known[name]

    return quantized


@pytest.mark.parametrize("name", ["gpt2", "bart"])
def test_a_transformers_js_folder_gives_the_tokens_of_its_own_graphs(
    made: Made, quantized: Callable[[str], Path], name: str
) -> None:
    """The quantized graph against optimum's loop over the same file; the other variant against transformers."""
    folder = quantized(name)
    bundle = open_bundle(folder)
    assert bundle.manifest.layout == "transformers.js"
    assert (bundle.variant, bundle.variants) == ("quantized", ("quantized", "fp32"))
    model = made(name)[1]
    for variant, judge in (("quantized", _optimum_model(folder, name)), ("fp32", model)):
        loaded = engine(folder, variant=variant, chunk=64)  # the scale of a whole tensor depends on the chunk
        for ids in prompts(3):
            if name == "gpt2":
                assert greedy(loaded, ids, (2,)) == reference(judge, ids)[len(ids) :]
                continue
            start = bundle.manifest.decoder_start_token_id
            batch = loaded.new_batch([ids])
            config = GenerationConfig(max_new_tokens=NEW_TOKENS, eos_token_id=bundle.manifest.eos_token_id)
            steps = generate_batch_ids(batch, [Request(prompt=[start], source=ids)], config)
            assert [step.token for _, step in steps] == reference(judge, ids)[1:]


def _optimum_model(folder: Path, name: str) -> Any:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from optimum.onnxruntime import ORTModelForCausalLM, ORTModelForSeq2SeqLM

        if name == "gpt2":
            return ORTModelForCausalLM.from_pretrained(folder, subfolder="onnx", file_name="model_quantized.onnx")
        return ORTModelForSeq2SeqLM.from_pretrained(
            folder,
            subfolder="onnx",
            encoder_file_name="encoder_model_quantized.onnx",
            decoder_file_name="decoder_model_merged_quantized.onnx",
        )


def test_a_genai_folder_gives_the_tokens_of_transformers_in_shared_buffers(made: Made, tmp_path: Path) -> None:
    model = made("llama")[1]
    source = open_checkpoint(write_checkpoint(tmp_path / "checkpoint", model))
    (tmp_path / "native").mkdir()
    native = tmp_path / "native" / "decoder.onnx"
    write_native(native, source, Float32())
    config = model.config.to_dict()
    folder = as_genai(native, tmp_path / "genai", config=config, kv_heads=2, head_size=16)
    loaded = engine(folder)
    assert loaded._graph.shared
    assert open_bundle(folder).manifest.layout == "onnxruntime-genai"
    expected = [reference(model, ids)[len(ids) :] for ids in prompts(5)]
    assert [greedy(loaded, ids, (2,)) for ids in prompts(5)] == expected
    answers: list[list[int]] = [[] for _ in expected]
    config = GenerationConfig(max_new_tokens=NEW_TOKENS, eos_token_id=(2,))
    for row, step in generate_batch_ids(loaded.new_batch(), [Request(prompt=ids) for ids in prompts(5)], config):
        answers[row].append(step.token)
    assert answers == expected
