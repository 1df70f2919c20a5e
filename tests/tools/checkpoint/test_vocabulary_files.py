"""Tokenizers made of the older files of a vocabulary, against those that transformers makes of the same files."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgelm.errors import ModelError, UnsupportedModelError
from edgelm_tools.checkpoint.folder_text import read_text_assets

LETTERS = "abcdefghijklmnopqrstuvwxyzé"
WORDS = [*LETTERS, *(f"##{letter}" for letter in LETTERS), "the", "##ing", "un", "##able", "中", "!", ",", "'"]
BRACKETS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ANGLES = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
TEXTS = st.text(st.sampled_from(LETTERS + "ABCÉ 中国!,'\t\n🙂ﬁ#"), max_size=30)


def write_wordpiece(folder: Path, model_type: str, **config: Any) -> Path:
    special = ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"] if model_type == "mpnet" else BRACKETS
    (folder / "vocab.txt").write_text("\n".join([*special, *WORDS]) + "\n", encoding="utf-8")
    return write_configs(folder, model_type, config)


def write_byte_level(folder: Path, model_type: str, special: list[str], **config: Any) -> Path:
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("i", "n"), ("in", "g"), ("Ġ", "a")]
    tokens = [*special, *alphabet, *("".join(merge) for merge in merges)]
    (folder / "vocab.json").write_text(json.dumps({token: place for place, token in enumerate(tokens)}))
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    return write_configs(folder, model_type, config)


def write_configs(folder: Path, model_type: str, config: dict[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


OPT = {"add_bos_token": True, "bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
CASES: dict[str, Any] = {
    "bert": lambda folder: write_wordpiece(folder, "bert"),
    "bert.cased": lambda folder: write_wordpiece(folder, "bert", do_lower_case=False),
    "bert.accents": lambda folder: write_wordpiece(folder, "bert", strip_accents=False, tokenize_chinese_chars=False),
    "distilbert": lambda folder: write_wordpiece(folder, "distilbert"),
    "electra": lambda folder: write_wordpiece(folder, "electra"),
    "mpnet": lambda folder: write_wordpiece(folder, "mpnet"),
    "gpt2": lambda folder: write_byte_level(folder, "gpt2", ["<|endoftext|>"]),
    "gpt2.spaced": lambda folder: write_byte_level(folder, "gpt2", ["<|endoftext|>"], add_prefix_space=True),
    "opt": lambda folder: write_byte_level(folder, "opt", ANGLES, **OPT),
    "roberta": lambda folder: write_byte_level(folder, "roberta", ANGLES),
    "bart": lambda folder: write_byte_level(folder, "bart", ANGLES),
    # As CodeT5.
    "t5.roberta": lambda folder: write_byte_level(folder, "t5", ANGLES, tokenizer_class="RobertaTokenizer"),
}


@pytest.fixture(params=CASES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    made: Path = CASES[request.param](tmp_path)
    return made


@pytest.mark.reference
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXTS, min_size=20, max_size=20))
def test_texts_are_encoded_as_in_transformers(folder: Path, texts: list[str]) -> None:
    reference, ours = both(folder)
    for text in [*texts, "the running unable <mask> [MASK] </s>"]:
        assert ours.encode(text).ids == reference(text)["input_ids"], text
    pair = ours.encode("the", "ring")
    assert (pair.ids, ours.decode(pair.ids)) == (
        reference("the", "ring")["input_ids"],
        reference.decode(pair.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False),
    )


_LOADED: dict[Path, tuple[Any, tokenizers.Tokenizer]] = {}


def both(folder: Path) -> tuple[Any, tokenizers.Tokenizer]:
    if folder not in _LOADED:
        transformers = pytest.importorskip("transformers")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reference = transformers.AutoTokenizer.from_pretrained(folder, use_fast=True)
        _LOADED[folder] = reference, tokenizers.Tokenizer.from_buffer(read_text_assets(folder).tokenizer)
    return _LOADED[folder]


@pytest.mark.reference
def test_roles_that_no_file_names_are_the_models_usual_ones(folder: Path) -> None:
    roles = read_text_assets(folder).special_tokens
    reference, _ = both(folder)
    assert "unk_token" in roles
    assert roles == {role: getattr(reference, role) for role in roles}


def test_added_tokens_have_the_ids_that_the_files_say(tmp_path: Path) -> None:
    folder = write_byte_level(tmp_path, "gpt2", ["<|endoftext|>"])
    (folder / "added_tokens.json").write_text(json.dumps({"<b>": 264, "<a>": 263}))
    tokenizer = tokenizers.Tokenizer.from_buffer(read_text_assets(folder).tokenizer)
    assert tokenizer.encode("the<b><a>").ids[-2:] == [264, 263]
    (folder / "added_tokens.json").write_text(json.dumps({"<b>": 300}))
    with pytest.raises(ModelError, match="'<b>' cannot have the id 300"):
        read_text_assets(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("merges.txt", "t h e\n", "line 1 is no merge of two tokens: 't h e'"),
        ("merges.txt", "t h\nzz q\n", "line 2 is no merge of two tokens"),
        ("merges.txt", b"\xff", "not UTF-8 at byte 0"),
        ("vocab.json", '{"a": "b"}', "must map tokens to their ids"),
        ("vocab.json", '{"a": true}', "must map tokens to their ids"),
        ("vocab.json", '{"a": 10000000}', "must map tokens to their ids, from 0 to 9999999"),
        ("vocab.json", '{"a": 0}', "is no merge of two tokens"),
        ("tokenizer_config.json", '{"add_prefix_space": 1}', "add_prefix_space must be true or false, not 1"),
        ("tokenizer_config.json", '{"added_tokens_decoder": []}', None),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"5": 1}}', "must map ids to tokens"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"5": {"special": true}}}', "must map ids to tokens"),
    ],
)
def test_broken_files_are_named(name: str, content: str | bytes, message: str | None, tmp_path: Path) -> None:
    folder = write_byte_level(tmp_path, "roberta", ANGLES)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    if message is None:
        assert read_text_assets(folder).tokenizer
        return
    with pytest.raises(ModelError, match=message):
        read_text_assets(folder)


def test_a_special_token_must_be_in_the_vocabulary(tmp_path: Path) -> None:
    folder = write_wordpiece(tmp_path, "bert", cls_token="[BEGIN]")
    with pytest.raises(ModelError, match=r"'\[BEGIN\]' is not in the vocabulary"):
        read_text_assets(folder)


@pytest.mark.parametrize("token", ["a b", "a:1", "$A"])
def test_a_special_token_that_a_template_would_misread_is_refused(token: str, tmp_path: Path) -> None:
    folder = write_wordpiece(tmp_path, "bert", cls_token=token)
    with (folder / "vocab.txt").open("a", encoding="utf-8") as file:
        file.write(f"{token}\n")
    with pytest.raises(UnsupportedModelError, match="cannot be put around texts"):
        read_text_assets(folder)


@pytest.mark.parametrize("document", ["config.json", "tokenizer_config.json"])
def test_a_tokenizer_of_another_class_is_refused(document: str, tmp_path: Path) -> None:
    """Japanese BERT's has a ``vocab.txt``, too, but finds words by a dictionary."""
    folder = write_wordpiece(tmp_path, "bert")
    (folder / document).write_text(json.dumps({"model_type": "bert", "tokenizer_class": "BertJapaneseTokenizer"}))
    with pytest.raises(UnsupportedModelError, match="a tokenizer of the class 'BertJapaneseTokenizer'"):
        read_text_assets(folder)


def test_a_tokenizer_that_keeps_punctuation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="do_basic_tokenize"):
        read_text_assets(write_wordpiece(tmp_path, "bert", do_basic_tokenize=False))


def test_vocabularies_of_other_kinds_are_refused(tmp_path: Path) -> None:
    folder = write_configs(tmp_path, "bert", {})
    with pytest.raises(UnsupportedModelError, match=r"no tokenizer.json, .*a fast one is needed"):
        read_text_assets(folder)
