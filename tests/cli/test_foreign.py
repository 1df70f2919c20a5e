"""Folders that other tools made, on the command line and in Python: they run as found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from support.foreign_graphs import BERT, CONFIG, VOCABULARY, decoder, encoder, expected, write_folder
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import edgelm
from edgelm.errors import ConfigError

Invoke = Callable[..., Result]

WORDS = ["<unk>", "a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]


def tokenizer() -> str:
    """A word a token; the ids of the words are their places."""
    made = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.decoder = decoders.Fuse()
    return made.to_str()


def answer(ids: list[int], count: int) -> list[int]:
    """The greedy answer of the toy decoder, which never ends by itself here."""
    given = len(ids)
    while len(ids) < given + count:
        ids = [*ids, int(expected(ids).argmax())]
    return ids[given:]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {
        "config.json": {name: value for name, value in CONFIG.items() if name != "eos_token_id"},
        "tokenizer.json": tokenizer(),
        "onnx/model.onnx": decoder(),
        "onnx/model_fp16.onnx": decoder(half=True),
    }
    assert len(WORDS) == VOCABULARY
    return write_folder(tmp_path / "their model", files)


def test_a_folder_runs_as_found_and_the_variant_is_told(invoke: Invoke, folder: Path) -> None:
    result = invoke("run", str(folder), "c d e", "-n", "6", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["tokens"] == answer([3, 4, 5], 6)
    assert result.stderr == "their model: running the variant fp32; --variant takes fp16 too\n"


def test_a_variant_can_be_asked_for(invoke: Invoke, folder: Path) -> None:
    result = invoke("run", str(folder), "c d e", "-n", "1", "--variant", "fp16")
    assert (result.exit_code, result.stderr) == (0, "")
    result = invoke("run", str(folder), "c d e", "--variant", "q4")
    assert result.exit_code == 2
    assert "there is no variant 'q4'; the folder has fp32, fp16" in result.stderr
    result = invoke("run", "tiny", "c d e", "--variant", "q4")
    assert result.exit_code == 2
    assert "is a bundle, which has no variants" in result.stderr


def test_show_reads_the_folder_too(invoke: Invoke, folder: Path) -> None:
    result = invoke("show", str(folder), "--memory")
    assert result.exit_code == 0, result.stderr
    assert "gpt2 (decoder)" in result.stdout
    assert "onnx/model.onnx" in result.stdout


def test_a_checkpoint_without_graphs_is_still_to_be_exported(invoke: Invoke, tmp_path: Path) -> None:
    checkpoint = write_folder(tmp_path / "checkpoint", {"config.json": CONFIG, "model.safetensors": ""})
    result = invoke("run", str(checkpoint), "x")
    assert result.exit_code == 2
    assert "convert it first: edgelm export" in result.stderr


def test_python_loads_it_and_keeps_its_prompts(home: Path, folder: Path) -> None:
    with edgelm.load(folder, threads=1) as lm:
        first = lm.generate([3, 4, 5], max_new_tokens=5)
        assert list(first.token_ids) == answer([3, 4, 5], 5)
        again = lm.generate([3, 4, 5, *first.token_ids, 6], max_new_tokens=5)
        assert again.usage.cached_tokens == 7
        assert list(again.token_ids) == answer([3, 4, 5, *first.token_ids, 6], 5)
        batch = lm.generate_batch([[3, 4, 5], [7]], max_new_tokens=4)
        assert [list(result.token_ids) for result in batch] == [answer([3, 4, 5], 4), answer([7], 4)]
    with pytest.raises(ConfigError, match="no variant"):
        edgelm.load(folder, variant="int8")
    assert not (home / "cache").exists() or not list((home / "cache").rglob("graph.onnx"))


def test_an_encoder_loads_under_the_names_of_others(home: Path, tmp_path: Path) -> None:
    files = {
        "config.json": BERT,
        "tokenizer.json": tokenizer(),
        "modules.json": [{"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}],
        "1_Pooling/config.json": {"pooling_mode_mean_tokens": True},
        "onnx/model_qint8_avx512_vnni.onnx": encoder(output="token_embeddings"),
    }
    with edgelm.load_encoder(write_folder(tmp_path / "sentences", files), threads=1) as model:
        vectors = model.embed(["c d", "e"])
    assert vectors.tolist() == [[14.0, 15.0, 16.0, 17.0], [20.0, 21.0, 22.0, 23.0]]
