"""A decoder computed layer by layer gives the logits of its whole fp32 graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.gpt_tensors import gpt_config, gpt_tensors
from support.memory_checkpoint import LLAMA_CONFIG, MemoryCheckpoint, llama_tensors
from support.progress import RecordedProgress

from edgelm_tools.architectures.decoder_model import DecoderModel
from edgelm_tools.architectures.registry import understand
from edgelm_tools.evaluate import open_decoder
from edgelm_tools.export import write_graph
from edgelm_tools.layered_reference import layered_reference
from edgelm_tools.quantize.schemes import Float32

MODELS = ["llama", "llama.tied", "gpt2", "gpt_neox", "opt", "bloom"]


def model_of(name: str) -> DecoderModel[Any]:
    if name.startswith("llama"):
        tensors = llama_tensors()
        if name == "llama.tied":
            del tensors["lm_head.weight"]
        tied = {"tie_word_embeddings": name == "llama.tied"}
        checkpoint = MemoryCheckpoint(tensors, {**LLAMA_CONFIG, **tied})
    else:
        checkpoint = MemoryCheckpoint(gpt_tensors(name), gpt_config(name, tie_word_embeddings=True))
    model = understand(checkpoint)
    assert isinstance(model, DecoderModel)
    return model


@pytest.mark.parametrize("chunk", [3, 64])
@pytest.mark.parametrize("name", MODELS)
def test_the_logits_are_those_of_the_whole_graph(tmp_path: Path, name: str, chunk: int) -> None:
    model = model_of(name)
    random = np.random.default_rng(1)
    texts = [random.integers(0, model.facts.vocab_size, count).tolist() for count in (17, 5)]
    write_graph(tmp_path / "decoder.onnx", model, "decoder", Float32())
    pieces = model.pieces()
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    shown = RecordedProgress()
    with (
        open_decoder(tmp_path / "decoder.onnx", 32) as whole,
        layered_reference(pieces, texts, folder=temporary, chunk=chunk, progress=shown) as layered,
    ):
        for ids in texts:
            whole.rewind(0)
            expected = np.concatenate([part.copy() for part in whole.all_logits(ids)])
            found = list(layered.all_logits(ids))
            assert [len(part) for part in found] == [len(ids[i : i + chunk]) for i in range(0, len(ids), chunk)]
            np.testing.assert_allclose(np.concatenate(found), expected, rtol=1e-4, atol=1e-4)
        with pytest.raises(KeyError):
            next(layered.all_logits([1, 2, 3]))
    assert not list(temporary.iterdir())
    assert shown.transfers == [("Computing the fp32 reference", pieces.layers, pieces.layers)]
