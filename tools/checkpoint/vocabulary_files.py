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

from edgelm.bundle.vocabulary.sentencepiece_files import read_sentencepiece
from edgelm.bundle.vocabulary.special_roles import ANGLES, BRACKETS
from edgelm.errors import ModelError, UnsupportedModelError
from edgelm_tools.checkpoint.strict_json import read_json_object, read_small_file

MAX_VOCABULARY_BYTES = 64 * 2**20
_MOST_IDS = 1 << 31
# Of the small language in which templates are written.
_TEMPLATE_SIGNS = re.compile(r"[\s:]|^\$")
_MPNET = {**ANGLES, "unk_token": "[UNK]"}
_GPT2 = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
_OPT = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}

# model_type → the special tokens that its tokenizer has unless its files say otherwise
_WORDPIECE = {"bert": BRACKETS, "distilbert": BRACKETS, "electra": BRACKETS, "mpnet": _MPNET}
_BYTE_LEVEL = {
    "gpt2": _GPT2,
    "gpt_neo": _GPT2,
    "gptj": _GPT2,
    "opt": _OPT,
    "roberta": ANGLES,
    "bart": ANGLES,
}
_WRAPPED = ("roberta", "bart")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A tokenizer made of a folder's files: ``tokenizer`` as it is saved, and its special tokens by role."""

    tokenizer: bytes
    special_tokens: dict[str, str]


def read_vocabulary(
    folder: Path, model_type: str, settings: Mapping[str, Any], special: Mapping[str, str]
) -> Vocabulary:
    """Makes a tokenizer of a folder's older files.

    Args:
        folder: the checkpoint's.
        model_type: as in its ``config.json``.
        settings: its ``tokenizer_config.json``.
        special: role → text of the special tokens that its files name.

    Raises:
        UnsupportedModelError: it has no such files, or this model's are of another kind; says how to get a
            ``tokenizer.json``.
        ModelError: a file is not what it should be.
    """
    if model_type in _WORDPIECE and (folder / "vocab.txt").is_file():
        roles = {**_WORDPIECE[model_type], **special}
        tokenizer = _wordpiece(folder / "vocab.txt", roles, settings, two_separators=model_type == "mpnet")
    elif model_type in _BYTE_LEVEL and (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        roles = {**_BYTE_LEVEL[model_type], **special}
        tokenizer = _byte_level(folder, roles, settings, model_type)
    else:
        return _sentencepiece(folder, model_type, settings, special)
    _add_tokens(tokenizer, folder, roles, settings, lstripped_mask=model_type in _WRAPPED)
    return Vocabulary(tokenizer.to_str().encode(), roles)


def _sentencepiece(
    folder: Path, model_type: str, settings: Mapping[str, Any], special: Mapping[str, str]
) -> Vocabulary:
    def read(name: str) -> bytes | None:
        return read_small_file(folder / name, MAX_VOCABULARY_BYTES) if (folder / name).is_file() else None

    made = read_sentencepiece(read, model_type, settings, what=str(folder))
    if made is None:
        raise UnsupportedModelError(
            f"{folder}: no tokenizer.json; a fast tokenizer is needed "
            f"(in transformers: AutoTokenizer.from_pretrained(model).save_pretrained(folder))"
        )
    data, roles = made
    return Vocabulary(data, {**roles, **special})


def _wordpiece(
    path: Path, roles: Mapping[str, str], settings: Mapping[str, Any], *, two_separators: bool
) -> tokenizers.Tokenizer:
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
    folder: Path, roles: Mapping[str, str], settings: Mapping[str, Any], model_type: str
) -> tokenizers.Tokenizer:
    path = folder / "vocab.json"
    vocabulary = read_json_object(path)
    if not all(type(token_id) is int and 0 <= token_id < _MOST_IDS for token_id in vocabulary.values()):
        raise ModelError(f"{path}: must map tokens to their ids, from 0 to {_MOST_IDS - 1}")
    tokenizer = tokenizers.Tokenizer(_bpe(vocabulary, folder / "merges.txt"))
    spaced = _flag(settings, "add_prefix_space")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=spaced)
    tokenizer.decoder = decoders.ByteLevel()
    if model_type in _WRAPPED:
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
    listed = read_json_object(folder / "added_tokens.json") if (folder / "added_tokens.json").is_file() else {}
    described = settings.get("added_tokens_decoder") or {}
    if not isinstance(described, dict) or not all(_is_token(token) for token in described.values()):
        raise ModelError(f"{folder}: added_tokens_decoder must map ids to tokens")
    for token_id, token in described.items():
        listed[token["content"]] = int(token_id) if str(token_id).isdecimal() else -1
    flags = {token["content"]: token for token in described.values()}
    special = set(roles.values())
    for content, token_id in sorted(listed.items(), key=lambda item: str(item[1]).zfill(12)):
        if tokenizer.token_to_id(content) is None:
            tokenizer.add_tokens([_token(content, flags.get(content, {}))])
        if tokenizer.token_to_id(content) != token_id:
            raise ModelError(f"{folder}: the added token {content!r:.80} cannot have the id {token_id!r:.40}")
        if flags.get(content, {}).get("special"):
            special.add(content)
    stripping = {"lstrip": True} if lstripped_mask else {}
    for content in sorted(special, key=lambda content: str(tokenizer.token_to_id(content)).zfill(12)):
        own = flags.get(content) or (stripping if content == roles.get("mask_token") else {})
        tokenizer.add_special_tokens([_token(content, own)])


def _is_token(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("content"), str)


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
