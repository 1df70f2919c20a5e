"""Folders of sentence-transformers say how an encoder's outputs are pooled and how long a text may be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import write_folder

from edgelm.bundle.manifest import Pooling
from edgelm.errors import ModelError, UnsupportedModelError
from edgelm_tools.checkpoint.sentence_settings import read_sentence_settings

MODES = {"mean_tokens": "mean", "cls_token": "cls", "max_tokens": "max", "lasttoken": "last"}


def module(kind: str, path: str = "") -> dict[str, Any]:
    return {"idx": 0, "name": "0", "path": path, "type": f"sentence_transformers.models.{kind}"}


def folder_with(folder: Path, modules: Any, pooling: Any = None, longest: Any = 128) -> Path:
    write_folder(folder, {"modules.json": modules, "sentence_bert_config.json": {"max_seq_length": longest}})
    if pooling is not None:
        write_folder(folder / "1_Pooling", {"config.json": pooling})
    return folder


@pytest.mark.parametrize(("name", "mode"), MODES.items())
@pytest.mark.parametrize("normalize", [False, True])
def test_pooling_is_read(tmp_path: Path, name: str, mode: str, normalize: bool) -> None:
    modules = [module("Transformer"), module("Pooling", "1_Pooling"), *([module("Normalize", "2_N")] * normalize)]
    others = {f"pooling_mode_{other}": False for other in MODES}
    settings = {"word_embedding_dimension": 8, **others, f"pooling_mode_{name}": True}
    folder = folder_with(tmp_path / "model", modules, settings)
    assert read_sentence_settings(folder) == (Pooling(mode, normalize), 128)


@pytest.mark.parametrize(("given", "mode"), [("cls", "cls"), ("mean", "mean"), ("lasttoken", "last"), (["max"], "max")])
def test_pooling_is_read_as_newer_releases_write_it(tmp_path: Path, given: Any, mode: str) -> None:
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"},
        {
            "idx": 1,
            "name": "1",
            "path": "1_Pooling",
            "type": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
        },
    ]
    folder = folder_with(tmp_path / "model", modules, {"embedding_dimension": 8, "pooling_mode": given})
    assert read_sentence_settings(folder) == (Pooling(mode, normalize=False), 128)


def test_a_prompt_before_every_text_is_refused(tmp_path: Path) -> None:
    folder = folder_with(
        tmp_path / "model", [module("Transformer"), module("Pooling", "1_Pooling")], {"pooling_mode_cls_token": True}
    )
    prompts = {"query": "query: ", "document": ""}
    for default in (None, "document", "other"):
        settings = {"prompts": prompts, "default_prompt_name": default}
        write_folder(folder, {"config_sentence_transformers.json": settings})
        assert read_sentence_settings(folder)[0] == Pooling("cls", normalize=False)
    write_folder(folder, {"config_sentence_transformers.json": {"prompts": prompts, "default_prompt_name": "query"}})
    with pytest.raises(UnsupportedModelError, match="'query: ' would stand before every text"):
        read_sentence_settings(folder)


def test_a_plain_folder_says_nothing(tmp_path: Path) -> None:
    assert read_sentence_settings(tmp_path) == (None, None)


def test_a_longest_text_may_be_left_open(tmp_path: Path) -> None:
    assert read_sentence_settings(folder_with(tmp_path / "model", [module("Transformer")], longest=None)) == (
        None,
        None,
    )


def test_other_modules_are_refused_by_name(tmp_path: Path) -> None:
    folder = folder_with(
        tmp_path / "model", [module("Transformer"), module("Pooling", "1_Pooling"), module("Dense", "2")]
    )
    with pytest.raises(UnsupportedModelError, match="'Dense'"):
        read_sentence_settings(folder)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
        {"pooling_mode_weightedmean_tokens": True},
        {"pooling_mode": ["cls", "mean"]},
        {"pooling_mode": "weightedmean"},
        {"pooling_mode": 7},
    ],
)
def test_no_and_several_ways_of_pooling_are_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    folder = folder_with(tmp_path / "model", [module("Transformer"), module("Pooling", "1_Pooling")], settings)
    with pytest.raises(UnsupportedModelError, match="one way at a time"):
        read_sentence_settings(folder)


@pytest.mark.parametrize("modules", [{}, [1], [module("Pooling", "../1_Pooling")], [module("Pooling", "missing")]])
def test_broken_modules_are_refused(tmp_path: Path, modules: Any) -> None:
    with pytest.raises(ModelError):
        read_sentence_settings(folder_with(tmp_path / "model", modules))


@pytest.mark.parametrize("longest", [0, -1, "128", True])
def test_a_longest_text_is_a_number(tmp_path: Path, longest: Any) -> None:
    with pytest.raises(ModelError, match="max_seq_length"):
        read_sentence_settings(folder_with(tmp_path / "model", [], longest=longest))
