"""Fuzzers of what checkpoints are read from: headers and tables of weights, files of vocabularies."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import tokenizers as build
from support.checkpoints import llama_metadata, llama_tensors, safetensors_bytes, write_gguf
from support.fuzzing import as_bytes, fuzzed, lawful, mutated, mutated_json
from support.marian_files import sentencepiece_file, write_bergamot

from edgelm.errors import EdgeLMError
from edgelm_tools.checkpoint.base import Checkpoint
from edgelm_tools.checkpoint.bergamot_checkpoint import BergamotCheckpoint
from edgelm_tools.checkpoint.folder_text import read_text_assets
from edgelm_tools.checkpoint.gguf_checkpoint import GGUFCheckpoint
from edgelm_tools.checkpoint.safetensors_checkpoint import SafetensorsCheckpoint

_SAFETENSORS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b.weight": np.array([1.5, -2.25], np.float16),
    "c.weight": np.array([[0.1]], np.float64),
}
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def read_all(checkpoint: Checkpoint) -> None:
    """Everything that a conversion reads."""
    try:
        for name in checkpoint.names():
            shape = checkpoint.shape(name)
            assert checkpoint.tensor(name).shape == shape
            parts = list(checkpoint.row_parts(name, 64)) if shape else []
            assert sum(len(part) for part in parts) == (shape[0] if shape else 0)
            checkpoint.quantized(name)
        checkpoint.text_assets()
    finally:
        checkpoint.close()


@pytest.fixture
def place(tmp_path: Path) -> Callable[[], Path]:
    """Gives an empty folder, the same one each time."""

    def empty() -> Path:
        folder = tmp_path / "checkpoint"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    return empty


@pytest.fixture(scope="module")
def gguf_files(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("gguf")
    tensors = llama_tensors()
    plain = write_gguf(folder / "a.gguf", llama_metadata(), tensors)
    few = write_gguf(folder / "b.gguf", llama_metadata(), dict(list(tensors.items())[:1]))
    return [plain.read_bytes(), few.read_bytes()]


@fuzzed(60)
@given(st.data())
def test_gguf_headers(place: Callable[[], Path], gguf_files: list[bytes], data: st.DataObject) -> None:
    path = place() / "model.gguf"
    header = 2000  # the rest is weights, mostly
    sound = data.draw(st.sampled_from(gguf_files))
    near = data.draw(st.booleans())
    forged = data.draw(mutated(sound[:header])) + sound[header:] if near else data.draw(mutated(sound))
    path.write_bytes(forged)
    with lawful():
        read_all(GGUFCheckpoint(path))


@fuzzed(80)
@given(st.data())
def test_safetensors_headers(place: Callable[[], Path], data: st.DataObject) -> None:
    sound = safetensors_bytes(_SAFETENSORS)
    length = int.from_bytes(sound[:8], "little")
    header = json.loads(sound[8 : 8 + length])
    folder = place()
    (folder / "config.json").write_bytes(data.draw(mutated_json({"model_type": "llama"}).map(as_bytes)))
    forged = data.draw(st.one_of(mutated(sound), mutated_json(header).map(as_bytes)))
    if forged.startswith(b"{"):
        forged = len(forged).to_bytes(8, "little") + forged + sound[8 + length :]
    (folder / "model.safetensors").write_bytes(forged)
    if data.draw(st.booleans()):
        index = {"metadata": {}, "weight_map": dict.fromkeys(_SAFETENSORS, "model.safetensors")}
        (folder / "model.safetensors.index.json").write_bytes(data.draw(mutated_json(index).map(as_bytes)))
    with lawful():
        read_all(SafetensorsCheckpoint(folder))


@fuzzed(60)
@given(st.data())
def test_marian_binaries(place: Callable[[], Path], data: st.DataObject) -> None:
    folder = write_bergamot(place() / "m", width=8, heads=1, inner=8, encoder=1, decoder=1)
    model, vocabulary = next(folder.glob("model*")), next(folder.glob("vocab*"))
    sound = model.read_bytes()
    header = 3000
    near = data.draw(st.booleans())
    model.write_bytes(data.draw(mutated(sound[:header])) + sound[header:] if near else data.draw(mutated(sound)))
    if data.draw(st.booleans()):
        vocabulary.write_bytes(data.draw(mutated(vocabulary.read_bytes())))
    with lawful():
        read_all(BergamotCheckpoint(folder))


def _wordpiece() -> dict[str, Any]:
    return {"vocab.txt": "\n".join([*_SPECIAL, *"abcdef", "##g", "é", "中"]) + "\n", "config.json": _config("bert")}


def _byte_level() -> dict[str, Any]:
    state = json.loads(build.byte_level().to_str())["model"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in state["merges"]]
    return {
        "vocab.json": json.dumps(state["vocab"]),
        "merges.txt": "\n".join(["#version: 0.2", *merges, ""]),
        "config.json": _config("gpt2"),
        "added_tokens.json": json.dumps({"<new>": len(state["vocab"])}),
    }


def _sentencepiece(kind: str) -> dict[str, Any]:
    pieces = [("<pad>", 0.0, 3), ("</s>", 0.0, 3), ("<unk>", 0.0, 2), ("▁a", -1.0, 1), ("b", -2.0, 1), ("▁", -3.0, 1)]
    tokens = {"extra_ids": 3, "eos_token": "</s>", "added_tokens_decoder": {"5": {"content": "<x>", "special": True}}}
    return {
        "spiece.model": sentencepiece_file(pieces),
        "sentencepiece.bpe.model": sentencepiece_file(pieces),
        "config.json": _config(kind),
        "tokenizer_config.json": json.dumps(tokens),
        "special_tokens_map.json": json.dumps({"pad_token": "<pad>", "additional_special_tokens": ["<y>"]}),
    }


def _config(kind: str) -> str:
    return json.dumps({"model_type": kind})


_FOLDERS: list[dict[str, Any]] = [
    _wordpiece(),
    _byte_level(),
    *(_sentencepiece(kind) for kind in ("t5", "xlm-roberta", "mbart", "pegasus", "deberta-v2", "camembert", "m2m_100")),
]


@fuzzed(80)
@given(st.data())
def test_tokenizer_conversion(place: Callable[[], Path], data: st.DataObject) -> None:
    """Vocabularies, merges and SentencePiece models; what is made of them is a tokenizer, or it is refused."""
    from edgelm.text.tokenizer import Tokenizer

    files = data.draw(st.sampled_from(_FOLDERS))
    chosen = data.draw(st.sampled_from(sorted(files)))
    folder = place()
    for name, content in files.items():
        sound = content if isinstance(content, bytes) else content.encode()
        if name == chosen:
            by_value = name.endswith(".json") and data.draw(st.booleans())
            sound = data.draw(mutated_json(json.loads(sound)).map(as_bytes) if by_value else mutated(sound))
        (folder / name).write_bytes(sound)
    with lawful(EdgeLMError):
        made = read_text_assets(folder)
        Tokenizer.from_bytes(made.tokenizer, what="made").encode("a bé 中 <x>")
