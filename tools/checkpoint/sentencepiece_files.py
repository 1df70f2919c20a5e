"""``tokenizer.json`` for checkpoints that only have a SentencePiece model: T5, Marian, mBART, XLM-R, Pegasus, ….

Each of these numbers the pieces in a way of its own, and puts its own tokens around a text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgelm.errors import ModelError, UnsupportedModelError
from edgelm_tools.checkpoint.sentencepiece import CONTROL, NORMAL, UNKNOWN, USER_DEFINED, Piece, SentencePieceModel
from edgelm_tools.checkpoint.special_roles import ANGLES, BRACKETS
from edgelm_tools.checkpoint.strict_json import read_json_object, read_small_file

MAX_MODEL_BYTES = 64 * 2**20
# Names under which checkpoints have their model.
_FILE_NAMES = ("spiece.model", "sentencepiece.bpe.model", "sentencepiece.model", "spm.model", "source.spm")
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
    prefix: tuple[str, ...] = ()
    suffix: tuple[str, ...] = ()


def sentencepiece_file(folder: Path) -> Path | None:
    """The folder's SentencePiece model, if it has one under a usual name."""
    return next((folder / name for name in _FILE_NAMES if (folder / name).is_file()), None)


def numbered_pieces(path: Path, model_type: str, settings: Mapping[str, Any]) -> Numbered:
    """Gives the pieces the ids that a checkpoint of that type has for them.

    Args:
        path: the model file; what belongs to it lies beside it.
        model_type: one of ``NUMBERINGS``.
        settings: of ``tokenizer_config.json``.

    Raises:
        ModelError: a file breaks its format. UnsupportedModelError: the model is no unigram model.
    """
    model = SentencePieceModel.parse(read_small_file(path, MAX_MODEL_BYTES), what=str(path))
    return NUMBERINGS[model_type](model, path.parent, settings)


def _t5(model: SentencePieceModel, folder: Path, settings: Mapping[str, Any]) -> Numbered:
    count = settings.get("extra_ids", 100)
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= 10_000:
        raise ModelError(f"{folder}: extra_ids must be a whole number from 0 to 10000, not {count!r:.40}")
    extra = [Piece(f"<extra_id_{index}>", 0.0, CONTROL) for index in reversed(range(count))]
    return Numbered(model=_with(model, [*model.pieces, *extra]), roles=_T5, suffix=("</s>",))


def _marian(model: SentencePieceModel, folder: Path, settings: Mapping[str, Any]) -> Numbered:
    """Two models, one of each language, share the ids of ``vocab.json``; the source's cuts the text."""
    path = folder / "vocab.json"
    if settings.get("separate_vocabs"):
        raise ModelError(f"{path}: source and target have vocabularies of their own, which is not supported")
    ids = read_json_object(path)
    tokens = sorted(ids, key=lambda token: ids[token] if isinstance(ids[token], int) else -1)
    if [ids[token] for token in tokens] != list(range(len(tokens))):
        raise ModelError(f"{path}: must number its tokens from 0 without gaps")
    own = {piece.text: piece.score for piece in model.pieces if piece.kind in (NORMAL, USER_DEFINED)}
    kinds = {"<unk>": UNKNOWN, "</s>": CONTROL, "<pad>": CONTROL, "<s>": CONTROL}

    def kind(token: str) -> int:
        return USER_DEFINED if token.startswith(">>") and token.endswith("<<") else kinds.get(token, NORMAL)

    pieces = [Piece(token, own.get(token, _NEVER_FOUND), kind(token)) for token in tokens]
    return Numbered(model=_with(model, pieces), roles=_T5, suffix=("</s>",))


def _fairseq(model: SentencePieceModel, more: Iterable[str]) -> SentencePieceModel:
    """Ids as in fairseq's dictionaries: four special tokens, the pieces behind their own first three, then ``more``."""
    first = [Piece("<s>", 0.0, CONTROL), Piece("<pad>", 0.0, CONTROL), Piece("</s>", 0.0, CONTROL)]
    last = [Piece(token, 0.0, CONTROL) for token in (*more, "<mask>")]
    return _with(model, [*first, Piece("<unk>", 0.0, UNKNOWN), *model.pieces[3:], *last])


def _xlm_roberta(model: SentencePieceModel, folder: Path, settings: Mapping[str, Any]) -> Numbered:
    return Numbered(model=_fairseq(model, ()), roles=ANGLES, prefix=("<s>",), suffix=("</s>",))


def _mbart(model: SentencePieceModel, folder: Path, settings: Mapping[str, Any]) -> Numbered:
    before = str(settings.get("tokenizer_class", "")).startswith("MBart50")
    languages = [*_MBART_LANGUAGES, *(_MBART50_LANGUAGES if before else ())]
    source = str(settings.get("src_lang") or "en_XX")
    return Numbered(
        model=_fairseq(model, languages),
        roles=ANGLES,
        prefix=(source,) if before else (),
        suffix=("</s>",) if before else ("</s>", source),
    )


def _pegasus(model: SentencePieceModel, folder: Path, settings: Mapping[str, Any]) -> Numbered:
    """Behind two tokens of its own come the masks of pretraining and unused ones, then the pieces."""
    offset = settings.get("offset", 103)
    if isinstance(offset, bool) or not isinstance(offset, int) or not 4 <= offset <= 10_000:
        raise ModelError(f"{folder}: offset must be a whole number from 4 to 10000, not {offset!r:.40}")
    masks = ["<mask_1>", "<mask_2>", *(f"<unk_{index}>" for index in range(2, offset))]
    first = [Piece(token, 0.0, CONTROL) for token in ("<pad>", "</s>", *masks)]
    return Numbered(model=_with(model, [*first, *model.pieces[2:]]), roles=_T5, suffix=("</s>",))


def _deberta(model: SentencePieceModel, folder: Path, settings: Mapping[str, Any]) -> Numbered:
    for name in ("do_lower_case", "split_by_punct"):
        if settings.get(name):
            raise UnsupportedModelError(f"{folder}: a tokenizer with {name} is not read from its SentencePiece model")
    pieces = [*model.pieces, Piece("[MASK]", 0.0, CONTROL)]
    return Numbered(model=_with(model, pieces), roles=BRACKETS, prefix=("[CLS]",), suffix=("[SEP]",))


def _with(model: SentencePieceModel, pieces: Iterable[Piece]) -> SentencePieceModel:
    return replace(model, pieces=tuple(pieces))


Numbering = Callable[[SentencePieceModel, Path, Mapping[str, Any]], Numbered]
NUMBERINGS: dict[str, Numbering] = {
    "t5": _t5,
    "mt5": _t5,
    "marian": _marian,
    "mbart": _mbart,
    "xlm-roberta": _xlm_roberta,
    "pegasus": _pegasus,
    "deberta-v2": _deberta,
}
