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


def write(
    folder: Path, model_type: str, name: str, data: bytes, config: dict[str, Any] | None = None, **settings: Any
) -> Path:
    (folder / "config.json").write_text(json.dumps({"model_type": model_type, **(config or {})}))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
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
    # Its tokenizer_config.json is older than the class, config.json is not.
    "mbart50.config": (
        "MBart50Tokenizer",
        lambda f: write(
            f, "mbart", "sentencepiece.bpe.model", model(**FAIRSEQ_IDS), config={"tokenizer_class": "MBart50Tokenizer"}
        ),
    ),
    "umt5": ("T5Tokenizer", lambda f: write(f, "umt5", "spiece.model", model(**T5_IDS), extra_ids=300)),
    "camembert": (
        "CamembertTokenizer", lambda f: write(f, "camembert", "sentencepiece.bpe.model", model(**FAIRSEQ_IDS))
    ),
    # As multilingual-e5-small.
    "bert.xlmr": (
        "XLMRobertaTokenizer",
        lambda f: write(
            f, "bert", "sentencepiece.bpe.model", model(**FAIRSEQ_IDS), tokenizer_class="XLMRobertaTokenizer"
        ),
    ),
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
        pair, wanted = ours.encode(text, "a garden"), reference(text, "a garden", return_token_type_ids=True)
        assert pair.ids == wanted["input_ids"], text
        # The others' models have no types.
        assert name != "deberta" or pair.type_ids == wanted["token_type_ids"], text
    assert ours.get_vocab_size() == len(reference)
    if reference.mask_token and name != "pegasus":
        masked = f"the {reference.mask_token} garden"
        assert ours.encode(masked).ids == reference(masked)["input_ids"]


@pytest.mark.parametrize("name", CASES)
def test_folders_with_graphs_get_the_same_tokenizer(name: str, tmp_path: Path) -> None:
    folder = CASES[name][1](tmp_path)
    documents, assets = text_documents(list_folder(folder)), read_text_assets(folder)
    assert documents["tokenizer.json"] == assets.tokenizer
    assert json.loads(documents["special_tokens.json"]) == assets.special_tokens


@pytest.mark.parametrize("listed", ["added_tokens.json", "tokenizer_config.json"])
def test_added_tokens_have_the_ids_that_the_files_say(listed: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    data = model(**T5_IDS)
    size = spm.SentencePieceProcessor(model_proto=data).get_piece_size()
    folder = write(tmp_path, "t5", "spiece.model", data, extra_ids=3)
    tokens = {"<b>": size + 3, "<sep>": size + 4}
    if listed == "added_tokens.json":
        (folder / listed).write_text(json.dumps(tokens))
    else:
        flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
        described = {i: {"content": token, "special": token == "<sep>", **flags} for token, i in tokens.items()}
        (folder / listed).write_text(json.dumps({"extra_ids": 3, "added_tokens_decoder": described}))
    ours = tokenizers.Tokenizer.from_buffer(read_text_assets(folder).tokenizer)
    assert [ours.token_to_id(token) for token in tokens] == list(tokens.values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = transformers.T5Tokenizer.from_pretrained(folder)
    assert ours.encode("the<b>garden<sep>").ids == reference("the<b>garden<sep>")["input_ids"]
    for wrong in (size + 9, 4, -1, "7"):
        (folder / "added_tokens.json").write_text(json.dumps({"<c>": wrong}))
        with pytest.raises(ModelError, match="the added token '<c>' cannot have the id"):
            read_text_assets(folder)


@pytest.mark.parametrize("kind", ["BarthezTokenizer", "AlbertTokenizer"])
def test_a_model_of_another_class_of_tokenizer_is_refused(kind: str, tmp_path: Path) -> None:
    """Its pieces are numbered otherwise than those of other models of the type."""
    folder = write(tmp_path, "mbart", "sentencepiece.bpe.model", model(**FAIRSEQ_IDS), tokenizer_class=kind)
    with pytest.raises(UnsupportedModelError, match=f"a tokenizer of the class '{kind}'"):
        read_text_assets(folder)


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
    with pytest.raises(ModelError, match=r"as a T5Tokenizer numbers it: piece [0-9]+ is '<extra_id_7>' again"):
        read_text_assets(folder)
    marian = tmp_path / "marian"
    marian.mkdir()
    write_marian(marian)
    (marian / "vocab.json").write_text(json.dumps({"</s>": 0, "a": 1}))
    with pytest.raises(ModelError, match="0 pieces stand for what is unknown"):
        read_text_assets(marian)
