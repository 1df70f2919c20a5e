"""Tokenizers made of a checkpoint's SentencePiece model, against transformers' own, which run sentencepiece itself."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from edgelm.bundle.layouts.listing import list_folder
from edgelm.bundle.layouts.text_files import text_documents
from edgelm.errors import ModelError, UnsupportedModelError
from edgelm_tools.checkpoint.folder_text import read_text_assets

pytestmark = pytest.mark.reference
spm = pytest.importorskip("sentencepiece")

LINES = [
    "The children were playing happily in the garden.",
    "A reunião foi transferida para quinta-feira porque o gerente está viajando.",
    "Numbers such as 12, 345 and 6.789 are numbers; so is 0.",
    "She said: what a day! And he said nothing at all.",
    "Unbelievable undoing, redoing and rethinking of the thinking things.",
] * 4
TEXTS = [
    "The children are thinking of numbers.",
    "  two  spaces  ",
    "gerente: 12,3 !?",
    "ﬁne ½ ｗｉｄｅ",
    "naïve café – “quoted” …",
    "a",
    "",
]
T5_IDS = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
FAIRSEQ_IDS = {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1}
DEBERTA_IDS = {
    "pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3,
    "pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]",
}  # fmt: skip


@cache
def model(**settings: Any) -> bytes:
    out = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=out, vocab_size=160, hard_vocab_limit=False,
        minloglevel=2, num_threads=1, **settings,
    )  # fmt: skip
    return out.getvalue()


def write(folder: Path, model_type: str, name: str, data: bytes, **config: Any) -> Path:
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / name).write_bytes(data)
    return folder


def write_marian(folder: Path) -> Path:
    source, target = model(**T5_IDS), model(**T5_IDS, character_coverage=0.98)
    pieces: dict[str, int] = {"</s>": 0, "<unk>": 1}
    for data in (source, target):
        processor = spm.SentencePieceProcessor(model_proto=data)
        for index in range(processor.get_piece_size()):
            if not processor.is_control(index) and not processor.is_unknown(index):
                pieces.setdefault(processor.id_to_piece(index), len(pieces))
    pieces[">>por<<"] = len(pieces)
    pieces["<pad>"] = len(pieces)
    (folder / "vocab.json").write_text(json.dumps(pieces))
    (folder / "target.spm").write_bytes(target)
    return write(folder, "marian", "source.spm", source)


CASES: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "t5": ("T5Tokenizer", lambda f: write(f, "t5", "spiece.model", model(**T5_IDS), extra_ids=7)),
    "mt5": ("T5Tokenizer", lambda f: write(f, "mt5", "spiece.model", model(**T5_IDS), extra_ids=0)),
    "xlmr": ("XLMRobertaTokenizer",
             lambda f: write(f, "xlm-roberta", "sentencepiece.bpe.model", model(**FAIRSEQ_IDS))),
    "mbart": ("MBartTokenizer", lambda f: write(f, "mbart", "sentencepiece.bpe.model", model(**FAIRSEQ_IDS))),
    "mbart.ro": (
        "MBartTokenizer",
        lambda f: write(f, "mbart", "sentencepiece.bpe.model", model(**FAIRSEQ_IDS), src_lang="ro_RO"),
    ),
    "mbart50": (
        "MBart50Tokenizer",
        lambda f: write(
            f, "mbart", "sentencepiece.bpe.model", model(**FAIRSEQ_IDS), tokenizer_class="MBart50Tokenizer",
            src_lang="pt_XX",
        ),
    ),
    "pegasus": ("PegasusTokenizer", lambda f: write(f, "pegasus", "spiece.model", model(**T5_IDS))),
    "deberta": ("DebertaV2Tokenizer", lambda f: write(f, "deberta-v2", "spm.model", model(**DEBERTA_IDS))),
    "marian": ("MarianTokenizer", write_marian),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_texts_are_encoded_as_in_transformers(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    kind, make = CASES[name]
    folder = make(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = getattr(transformers, kind).from_pretrained(folder)
    ours = tokenizers.Tokenizer.from_buffer(read_text_assets(folder).tokenizer)
    for text in [*LINES[:5], *TEXTS]:
        expected = reference(text)["input_ids"]
        assert ours.encode(text).ids == expected, text
        assert ours.decode(expected) == reference.decode(expected, skip_special_tokens=True), text
    assert ours.get_vocab_size() == len(reference)


@pytest.mark.parametrize("name", CASES)
def test_folders_with_graphs_get_the_same_tokenizer(name: str, tmp_path: Path) -> None:
    folder = CASES[name][1](tmp_path)
    documents, assets = text_documents(list_folder(folder)), read_text_assets(folder)
    assert documents["tokenizer.json"] == assets.tokenizer
    assert json.loads(documents["special_tokens.json"]) == assets.special_tokens


def test_a_language_code_before_a_marian_text_is_one_token(tmp_path: Path) -> None:
    ours = tokenizers.Tokenizer.from_buffer(read_text_assets(write_marian(tmp_path)).tokenizer)
    plain, coded = ours.encode("the garden").ids, ours.encode(">>por<< the garden").ids
    assert coded == [ours.token_to_id(">>por<<"), *plain]


def test_broken_files_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path, "t5", "spiece.model", model(**T5_IDS), extra_ids=-1)
    with pytest.raises(ModelError, match="extra_ids must be a whole number from 0 to 10000, not -1"):
        read_text_assets(folder)
    write(folder, "t5", "spiece.model", b"garbage")
    with pytest.raises(ModelError, match="not a valid SentencePiece model"):
        read_text_assets(folder)
    write(folder, "pegasus", "spiece.model", model(**T5_IDS), offset=True)
    with pytest.raises(ModelError, match="offset must be a whole number"):
        read_text_assets(folder)
    write(folder, "deberta-v2", "spm.model", model(**DEBERTA_IDS), split_by_punct=True)
    (folder / "spiece.model").unlink()
    with pytest.raises(UnsupportedModelError, match="a tokenizer with split_by_punct"):
        read_text_assets(folder)


def test_marian_vocabularies_without_gaps_only(tmp_path: Path) -> None:
    folder = write_marian(tmp_path)
    (folder / "vocab.json").write_text(json.dumps({"</s>": 0, "<unk>": 2}))
    with pytest.raises(ModelError, match="must number its tokens from 0 without gaps"):
        read_text_assets(folder)


def test_every_piece_is_there_once_whatever_is_added(tmp_path: Path) -> None:
    """Otherwise a piece would have two ids, or an unknown character none."""
    folder = write(tmp_path, "t5", "spiece.model", model(**T5_IDS, user_defined_symbols="<extra_id_7>"))
    with pytest.raises(ModelError, match=r"as a t5 numbers it: piece [0-9]+ is '<extra_id_7>' again"):
        read_text_assets(folder)
    marian = tmp_path / "marian"
    marian.mkdir()
    write_marian(marian)
    (marian / "vocab.json").write_text(json.dumps({"</s>": 0, "a": 1}))
    with pytest.raises(ModelError, match="0 pieces stand for what is unknown"):
        read_text_assets(marian)
