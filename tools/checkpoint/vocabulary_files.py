"""``tokenizer.json`` for checkpoints that only have the older files of a vocabulary.

``vocab.txt`` is WordPiece's (BERT and its kin); ``vocab.json`` and ``merges.txt`` are byte-level BPE's (GPT-2, RoBERTa,
BART); SentencePiece's are read in ``edgelm/bundle/vocabulary``. The result encodes as transformers' tokenizers of these
models do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from edgelm.bundle.manifest import MAX_VOCAB
from edgelm.bundle.vocabulary.added_tokens import listed_tokens
from edgelm.bundle.vocabulary.sentencepiece_files import read_sentencepiece
from edgelm.bundle.vocabulary.special_roles import ANGLES, BRACKETS
from edgelm.bundle.vocabulary.tokenizer_class import tokenizer_class
from edgelm.errors import ModelError, UnsupportedModelError
from edgelm_tools.checkpoint.strict_json import read_json_object, read_small_file

MAX_VOCABULARY_BYTES = 64 * 2**20
# Of the small language in which templates are written.
_TEMPLATE_SIGNS = re.compile(r"[\s:]|^\$")
_MPNET = {**ANGLES, "unk_token": "[UNK]"}
_GPT2 = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
_OPT = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}

# Class of the tokenizer → the special tokens that it has unless its files say otherwise.
_WORDPIECE = {
    "BertTokenizer": BRACKETS,
    "DistilBertTokenizer": BRACKETS,
    "ElectraTokenizer": BRACKETS,
    "MPNetTokenizer": _MPNET,
}
_BYTE_LEVEL = {"GPT2Tokenizer": _GPT2, "RobertaTokenizer": ANGLES, "BartTokenizer": ANGLES}
_WRAPPED = ("RobertaTokenizer", "BartTokenizer")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A tokenizer made of a folder's files: ``tokenizer`` as it is saved, and its special tokens by role."""

    tokenizer: bytes
    special_tokens: dict[str, str]


def read_vocabulary(
    folder: Path, config: Mapping[str, Any], settings: Mapping[str, Any], special: Mapping[str, str]
) -> Vocabulary:
    """Makes a tokenizer of a folder's older files.

    Args:
        folder: the checkpoint's.
        config: its ``config.json``.
        settings: its ``tokenizer_config.json``.
        special: role → text of the special tokens that its files name.

    Raises:
        UnsupportedModelError: it has no such files, or its tokenizer is of another kind; says how to get a
            ``tokenizer.json``.
        ModelError: a file is not what it should be.
    """
    kind = tokenizer_class(config, settings)
    if kind in _WORDPIECE and (folder / "vocab.txt").is_file():
        roles = {**_WORDPIECE[kind], **special}
        tokenizer = _wordpiece(folder / "vocab.txt", roles, settings, two_separators=kind == "MPNetTokenizer")
    elif kind in _BYTE_LEVEL and (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        roles = {**(_OPT if config.get("model_type") == "opt" else _BYTE_LEVEL[kind]), **special}
        tokenizer = _byte_level(folder, roles, settings, wrapped=kind in _WRAPPED)
    else:
        return _sentencepiece(folder, kind, settings, special)
    _add_tokens(tokenizer, folder, roles, settings, lstripped_mask=kind in _WRAPPED)
    return Vocabulary(tokenizer.to_str().encode(), roles)


def _sentencepiece(folder: Path, kind: str, settings: Mapping[str, Any], special: Mapping[str, str]) -> Vocabulary:
    def read(name: str) -> bytes | None:
        return read_small_file(folder / name, MAX_VOCABULARY_BYTES) if (folder / name).is_file() else None

    made = read_sentencepiece(read, kind, settings, what=str(folder))
    if made is None:
        raise UnsupportedModelError(
            f"{folder}: no tokenizer.json, nor files to make one of for a tokenizer of the class {kind!r:.80}; "
            f"a fast one is needed (in transformers: AutoTokenizer.from_pretrained(model).save_pretrained(folder))"
        )
    data, roles = made
    return Vocabulary(data, {**roles, **special})


def _wordpiece(
    path: Path, roles: Mapping[str, str], settings: Mapping[str, Any], *, two_separators: bool
) -> tokenizers.Tokenizer:
    if not _flag(settings, "do_basic_tokenize", default=True):
        raise UnsupportedModelError(f"{path.parent}: a tokenizer that keeps punctuation (do_basic_tokenize)")
    words = _text(path).split("\n")
    vocabulary = {word.rstrip("\r"): place for place, word in enumerate(words[:-1] if words[-1] == "" else words)}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=roles["unk_token"]))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=_flag(settings, "tokenize_chinese_chars", default=True),
        # Undecided means: as the case of letters.
        strip_accents=None if settings.get("strip_accents") is None else _flag(settings, "strip_accents"),
        lowercase=_flag(settings, "do_lower_case", default=True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    cls, sep = roles["cls_token"], roles["sep_token"]
    between = f"{sep}:0 {sep}:0" if two_separators else f"{sep}:0"
    ids = [(token, _id_in_template(token, vocabulary, path)) for token in (cls, sep)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0", pair=f"{cls}:0 $A:0 {between} $B:1 {sep}:1", special_tokens=ids
    )
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return tokenizer


def _byte_level(
    folder: Path, roles: Mapping[str, str], settings: Mapping[str, Any], *, wrapped: bool
) -> tokenizers.Tokenizer:
    path = folder / "vocab.json"
    vocabulary = read_json_object(path)
    # The library writes a vocabulary id by id, up to the largest, and keeps a list of those that are not in use.
    if not all(type(token_id) is int and 0 <= token_id < MAX_VOCAB for token_id in vocabulary.values()):
        raise ModelError(f"{path}: must map tokens to their ids, from 0 to {MAX_VOCAB - 1}")
    tokenizer = tokenizers.Tokenizer(_bpe(vocabulary, folder / "merges.txt"))
    spaced = _flag(settings, "add_prefix_space")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=spaced)
    tokenizer.decoder = decoders.ByteLevel()
    if wrapped:
        sep, cls = ((roles[role], _id_of(roles[role], vocabulary, path)) for role in ("sep_token", "cls_token"))
        tokenizer.post_processor = processors.RobertaProcessing(sep, cls, trim_offsets=True, add_prefix_space=spaced)
    elif _flag(settings, "add_bos_token"):
        bos = roles["bos_token"]
        ids = [(bos, _id_in_template(bos, vocabulary, path))]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos}:0 $A:0", pair=f"{bos}:0 $A:0 $B:1", special_tokens=ids
        )
    else:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def _bpe(vocabulary: dict[str, int], path: Path) -> models.BPE:
    merges = []
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip() or line.startswith("#version"):
            continue
        parts = line.rstrip("\r").split(" ")
        if len(parts) != 2 or not {*parts, "".join(parts)} <= vocabulary.keys():
            raise ModelError(f"{path}: line {number} is no merge of two tokens: {line!r:.80}")
        merges.append((parts[0], parts[1]))
    return models.BPE(vocabulary, merges, continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False)


def _add_tokens(
    tokenizer: tokenizers.Tokenizer,
    folder: Path,
    roles: Mapping[str, str],
    settings: Mapping[str, Any],
    *,
    lstripped_mask: bool,
) -> None:
    """Adds tokens that the files list beyond the vocabulary, each at its own id, and marks the special ones."""
    older = read_json_object(folder / "added_tokens.json") if (folder / "added_tokens.json").is_file() else {}
    tokens = listed_tokens(older, settings, what=str(folder))
    special = set(roles.values())
    for token in tokens:
        if tokenizer.token_to_id(token.content) is None:
            tokenizer.add_tokens([_token(token.content, token.flags)])
        if tokenizer.token_to_id(token.content) != token.token_id:
            raise ModelError(f"{folder}: the added token {token.content!r:.80} cannot have the id {token.token_id}")
        if token.flags.get("special"):
            special.add(token.content)
    flags = {token.content: token.flags for token in tokens}
    stripping = {"lstrip": True} if lstripped_mask else {}
    for content in sorted(special, key=lambda content: str(tokenizer.token_to_id(content)).zfill(12)):
        own = flags.get(content) or (stripping if content == roles.get("mask_token") else {})
        tokenizer.add_special_tokens([_token(content, own)])


def _token(content: str, flags: Mapping[str, Any]) -> AddedToken:
    names = ("single_word", "lstrip", "rstrip", "normalized")
    return AddedToken(content, **{name: bool(flags[name]) for name in names if name in flags})


def _id_of(token: str, vocabulary: Mapping[str, int], path: Path) -> int:
    if token not in vocabulary:
        raise ModelError(f"{path}: the special token {token!r:.80} is not in the vocabulary")
    return vocabulary[token]


def _id_in_template(token: str, vocabulary: Mapping[str, int], path: Path) -> int:
    """As ``_id_of``, of a token that a template names."""
    if _TEMPLATE_SIGNS.search(token):
        raise UnsupportedModelError(f"{path}: the special token {token!r:.80} cannot be put around texts")
    return _id_of(token, vocabulary, path)


def _flag(settings: Mapping[str, Any], name: str, *, default: bool = False) -> bool:
    value = settings.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise ModelError(f"tokenizer_config.json: {name} must be true or false, not {value!r:.40}")
    return value


def _text(path: Path) -> str:
    try:
        return read_small_file(path, MAX_VOCABULARY_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: not UTF-8 at byte {error.start}") from None
