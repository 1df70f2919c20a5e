"""``tokenizer.json`` for checkpoints that only have a SentencePiece model: T5, Marian, mBART, XLM-R, Pegasus, ….

Each of these numbers the pieces in a way of its own, and puts its own tokens around a text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from edgelm.bundle.strict_json import load_json
from edgelm.bundle.vocabulary.added_tokens import AddedToken, listed_tokens, with_added_tokens
from edgelm.bundle.vocabulary.sentencepiece import (
    CONTROL,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
    Frame,
    Piece,
    SentencePieceModel,
    check_pieces,
    tokenizer_json,
)
from edgelm.bundle.vocabulary.special_roles import ANGLES, BRACKETS
from edgelm.errors import ModelError, UnsupportedModelError

MAX_FILE_BYTES = 64 * 2**20
_MOST_TOKENS = 10_000
# Names under which checkpoints have their model.
_FILE_NAMES = ("spiece.model", "sentencepiece.bpe.model", "sentencepiece.model", "spm.model", "source.spm")
_MASK = Piece("<mask>", 0.0, CONTROL, strips=True)
_ROBERTA_FRAME = Frame(prefix=("<s>",), between=("</s>", "</s>"), suffix=("</s>",))
# Below any sum of scores of a word: such a piece is never found in a text that others can spell.
_NEVER_FOUND = -1000.0
_T5 = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
_MBART_LANGUAGES = (
    "ar_AR", "cs_CZ", "de_DE", "en_XX", "es_XX", "et_EE", "fi_FI", "fr_XX", "gu_IN", "hi_IN", "it_IT", "ja_XX",
    "kk_KZ", "ko_KR", "lt_LT", "lv_LV", "my_MM", "ne_NP", "nl_XX", "ro_RO", "ru_RU", "si_LK", "tr_TR", "vi_VN",
    "zh_CN",
)  # fmt: skip
_MBART50_LANGUAGES = (
    "af_ZA", "az_AZ", "bn_IN", "fa_IR", "he_IL", "hr_HR", "id_ID", "ka_GE", "km_KH", "mk_MK", "ml_IN", "mn_MN",
    "mr_IN", "pl_PL", "ps_AF", "pt_XX", "sv_SE", "sw_KE", "ta_IN", "te_IN", "th_TH", "tl_XX", "uk_UA", "ur_PK",
    "xh_ZA", "gl_ES", "sl_SI",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbered:
    """A model whose pieces have the checkpoint's ids, what goes around a text, and the special tokens by role."""

    model: SentencePieceModel
    roles: Mapping[str, str]
    frame: Frame


ReadFile = Callable[[str], bytes | None]
"""Gives the content of a file of the checkpoint's folder; None where there is none of that name."""


def read_sentencepiece(
    read: ReadFile, kind: str, settings: Mapping[str, Any], *, what: str
) -> tuple[bytes, Mapping[str, str]] | None:
    """A ``tokenizer.json`` and the special tokens by role, made of a folder's SentencePiece model.

    Args:
        read: the folder.
        kind: of the tokenizer, see ``tokenizer_class``.
        settings: of ``tokenizer_config.json``.
        what: names the folder in errors.

    Returns:
        None where there is no such model, or where it is not known how this kind numbers its pieces.

    Raises:
        ModelError: a file breaks its format. UnsupportedModelError: the model is no unigram model.
    """
    found = ((name, data) for name in _FILE_NAMES if (data := read(name)) is not None)
    name, data = next(found, ("", b"")) if kind in NUMBERINGS else ("", b"")
    if not name:
        return None
    model = SentencePieceModel.parse(data, what=f"{what}/{name}")
    folder = _Folder(read, settings, what)
    numbered = NUMBERINGS[kind](model, folder)
    whole = _with(numbered.model, with_added_tokens(numbered.model.pieces, folder.added_tokens(), what))
    check_pieces(whole.pieces, f"{what}/{name} as a {kind} numbers it")
    return tokenizer_json(whole, numbered.frame), numbered.roles


@dataclass(frozen=True, slots=True)
class _Folder:
    read: ReadFile
    settings: Mapping[str, Any]
    what: str

    def whole_number(self, name: str, default: int, least: int) -> int:
        value = self.settings.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _MOST_TOKENS:
            raise ModelError(
                f"{self.what}: {name} must be a whole number from {least} to {_MOST_TOKENS}, not {value!r:.40}"
            )
        return value

    def language(self, default: str) -> str:
        """The source's, which the tokenizer puts before or behind a text until it is told another."""
        return str(self.settings.get("src_lang") or default)

    def document(self, name: str) -> Mapping[str, Any]:
        """A JSON object in a file; empty where there is none of that name."""
        data, what = self.read(name), f"{self.what}/{name}"
        value = {} if data is None else load_json(data, what=what, limit=MAX_FILE_BYTES)
        if not isinstance(value, dict):
            raise ModelError(f"{what}: must be a JSON object, not {type(value).__name__}")
        return value

    def added_tokens(self) -> list[AddedToken]:
        return listed_tokens(self.document("added_tokens.json"), self.settings, what=self.what)


def _t5(model: SentencePieceModel, folder: _Folder) -> Numbered:
    count = folder.whole_number("extra_ids", 100, 0)
    extra = [Piece(f"<extra_id_{index}>", 0.0, CONTROL) for index in reversed(range(count))]
    frame = Frame(between=("</s>",), suffix=("</s>",))
    return Numbered(model=_with(model, [*model.pieces, *extra]), roles=_T5, frame=frame)


def _marian(model: SentencePieceModel, folder: _Folder) -> Numbered:
    """Two models, one of each language, share the ids of ``vocab.json``; the source's cuts the text."""
    what = f"{folder.what}/vocab.json"
    if folder.settings.get("separate_vocabs"):
        raise UnsupportedModelError(f"{what}: source and target have vocabularies of their own")
    ids = folder.document("vocab.json")
    tokens = sorted(ids, key=lambda token: ids[token] if isinstance(ids[token], int) else -1)
    if [ids[token] for token in tokens] != list(range(len(tokens))):
        raise ModelError(f"{what}: must number its tokens from 0 without gaps")
    own = {piece.text: piece.score for piece in model.pieces if piece.kind in (NORMAL, USER_DEFINED)}
    kinds = {"<unk>": UNKNOWN, "</s>": CONTROL, "<pad>": CONTROL, "<s>": CONTROL}

    def kind(token: str) -> int:
        return USER_DEFINED if token.startswith(">>") and token.endswith("<<") else kinds.get(token, NORMAL)

    pieces = [Piece(token, own.get(token, _NEVER_FOUND), kind(token)) for token in tokens]
    return Numbered(model=_with(model, pieces), roles=_T5, frame=Frame(suffix=("</s>",)))


def _fairseq(model: SentencePieceModel, more: Iterable[str]) -> SentencePieceModel:
    """Ids as in fairseq's dictionaries: four special tokens, the pieces behind their own first three, then ``more``."""
    first = [Piece("<s>", 0.0, CONTROL), Piece("<pad>", 0.0, CONTROL), Piece("</s>", 0.0, CONTROL)]
    last = [Piece(token, 0.0, CONTROL) for token in more]
    return _with(model, [*first, Piece("<unk>", 0.0, UNKNOWN), *model.pieces[3:], *last, _MASK])


def _xlm_roberta(model: SentencePieceModel, folder: _Folder) -> Numbered:
    return Numbered(model=_fairseq(model, ()), roles=ANGLES, frame=_ROBERTA_FRAME)


def _camembert(model: SentencePieceModel, folder: _Folder) -> Numbered:
    """Its own special tokens stand before the pieces, which repeat some of them; those are the ones in use."""
    first = [Piece(token, 0.0, CONTROL) for token in ("<s>NOTUSED", "<pad>", "</s>NOTUSED")]
    unknown = [Piece("<unk>", 0.0, UNKNOWN), Piece("<unk>NOTUSED", 0.0, CONTROL)]
    pieces = [*first, *unknown, *model.pieces[1:], _MASK]
    return Numbered(model=_with(model, pieces), roles=ANGLES, frame=_ROBERTA_FRAME)


def _mbart(model: SentencePieceModel, folder: _Folder) -> Numbered:
    frame = Frame(suffix=("</s>", folder.language("en_XX")))
    return Numbered(model=_fairseq(model, _MBART_LANGUAGES), roles=ANGLES, frame=frame)


def _mbart50(model: SentencePieceModel, folder: _Folder) -> Numbered:
    languages = (*_MBART_LANGUAGES, *_MBART50_LANGUAGES)
    frame = Frame(prefix=(folder.language("en_XX"),), suffix=("</s>",))
    return Numbered(model=_fairseq(model, languages), roles=ANGLES, frame=frame)


def _pegasus(model: SentencePieceModel, folder: _Folder) -> Numbered:
    """Behind two tokens of its own come the masks of pretraining and unused ones, then the pieces."""
    offset = folder.whole_number("offset", 103, 4)
    masks = ["<mask_1>", "<mask_2>", *(f"<unk_{index}>" for index in range(2, offset))]
    first = [Piece(token, 0.0, CONTROL) for token in ("<pad>", "</s>", *masks)]
    return Numbered(model=_with(model, [*first, *model.pieces[2:]]), roles=_T5, frame=Frame(suffix=("</s>",)))


def _deberta(model: SentencePieceModel, folder: _Folder) -> Numbered:
    for name in ("do_lower_case", "split_by_punct"):
        if folder.settings.get(name):
            raise UnsupportedModelError(f"{folder.what}: a tokenizer with {name} is not read from SentencePiece files")
    pieces = [*model.pieces, Piece("[MASK]", 0.0, CONTROL)]
    frame = Frame(prefix=("[CLS]",), between=("[SEP]",), suffix=("[SEP]",), second=1)
    return Numbered(model=_with(model, pieces), roles=BRACKETS, frame=frame)


def _with(model: SentencePieceModel, pieces: Iterable[Piece]) -> SentencePieceModel:
    return replace(model, pieces=tuple(pieces))


Numbering = Callable[[SentencePieceModel, _Folder], Numbered]
# By the class of the tokenizer.
NUMBERINGS: dict[str, Numbering] = {
    "CamembertTokenizer": _camembert,
    "DebertaV2Tokenizer": _deberta,
    "MBart50Tokenizer": _mbart50,
    "MBartTokenizer": _mbart,
    "MarianTokenizer": _marian,
    "PegasusTokenizer": _pegasus,
    "T5Tokenizer": _t5,
    "XLMRobertaTokenizer": _xlm_roberta,
}
