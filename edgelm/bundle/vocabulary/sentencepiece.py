"""SentencePiece unigram models (``.spm``, ``spiece.model``) as the ``tokenizer.json`` that gives the same ids.

Sources: sentencepiece's ``sentencepiece_model.proto``, ``normalizer.cc`` and ``unigram_model.cc``; the ``tokenizers``
serialization. One difference is left: ``tokenizers`` normalizes grapheme by grapheme, sentencepiece by the longest
rule that fits, so a few sequences of combining marks are composed otherwise.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from edgelm.bundle.protobuf import BYTES, FIXED32, VARINT, WireReader, key
from edgelm.errors import ModelError, UnsupportedModelError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
SPACE = "▁"
_UNIGRAM = 1
_ALGORITHMS = {1: "unigram", 2: "BPE", 3: "word", 4: "char"}

_PIECES, _TRAINER, _NORMALIZER = key(1, BYTES), key(2, BYTES), key(3, BYTES)
_PIECE_TEXT, _PIECE_SCORE, _PIECE_TYPE = key(1, BYTES), key(2, FIXED32), key(3, VARINT)
_MODEL_TYPE, _SUFFIX_SPACE, _BYTE_FALLBACK = key(3, VARINT), key(24, VARINT), key(35, VARINT)
_CHARSMAP, _DUMMY_PREFIX, _EXTRA_SPACES, _ESCAPE = key(2, BYTES), key(3, VARINT), key(4, VARINT), key(5, VARINT)


@dataclass(frozen=True, slots=True)
class Piece:
    """One entry of the vocabulary; ``kind`` is NORMAL, CONTROL, …; ``strips``: in a text it takes the spaces before."""

    text: str
    score: float
    kind: int = NORMAL
    strips: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SentencePieceModel:
    """What a model file says. Models that number their pieces otherwise change ``pieces`` (``dataclasses.replace``).

    Attributes:
        pieces: by id.
        charsmap: the compiled rules that characters are normalized with; empty: none.
        byte_fallback: characters out of the vocabulary become bytes, not the unknown piece.
        dummy_prefix: a text starts with a space.
        single_spaces: spaces around a text, and all but one between words, are removed.
    """

    pieces: tuple[Piece, ...]
    charsmap: bytes = b""
    byte_fallback: bool = False
    dummy_prefix: bool = True
    single_spaces: bool = True

    @classmethod
    def parse(cls, data: bytes, *, what: str) -> Self:
        """Reads the bytes of a model file; ``what`` names it in errors.

        Raises:
            ModelError: no such message, or a vocabulary that contradicts itself.
            UnsupportedModelError: another algorithm than unigram, or a setting that tokenizer.json cannot express.
        """
        reader = WireReader(data, what=what, kind="SentencePiece model")
        pieces: list[Piece] = []
        trainer: dict[int, int] = {}
        normalizer: dict[int, int] = {}
        charsmap = b""
        for field, start, stop in reader.fields(0, len(data)):
            if field == _PIECES:
                pieces.append(_piece(reader, data, start, stop))
            elif field == _TRAINER:
                trainer = {name: value for name, value, _ in reader.fields(start, stop)}
            elif field == _NORMALIZER:
                for name, value, end in reader.fields(start, stop):
                    normalizer[name] = value
                    charsmap = data[value:end] if name == _CHARSMAP else charsmap
        _check_settings(trainer, normalizer, what)
        check_pieces(pieces, what)
        return cls(
            pieces=tuple(pieces),
            charsmap=charsmap,
            byte_fallback=bool(trainer.get(_BYTE_FALLBACK, 0)),
            dummy_prefix=bool(normalizer.get(_DUMMY_PREFIX, 1)),
            single_spaces=bool(normalizer.get(_EXTRA_SPACES, 1)),
        )

    @property
    def unknown_id(self) -> int:
        """Id of the piece for what is not in the vocabulary."""
        return next(index for index, piece in enumerate(self.pieces) if piece.kind == UNKNOWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Pieces that are put around a text, and ``between`` two; ``second``: type of a second text's tokens."""

    prefix: tuple[str, ...] = ()
    between: tuple[str, ...] = ()
    suffix: tuple[str, ...] = ()
    second: int = 0


_NO_FRAME = Frame()


def tokenizer_json(model: SentencePieceModel, frame: Frame = _NO_FRAME) -> bytes:
    """The bytes of a ``tokenizer.json``.

    Raises:
        ModelError: a piece of the frame is none of the model's.
    """
    scheme = "always" if model.dummy_prefix else "never"
    # Pieces that go on behind a space are found only in text that has not been cut at its spaces.
    split = not any(SPACE in piece.text[1:] for piece in model.pieces if piece.kind in (NORMAL, USER_DEFINED))
    metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": split}
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(model),
        "normalizer": _normalizer(model),
        "pre_tokenizer": metaspace,
        "post_processor": _post_processor(model, frame),
        "decoder": _decoder(model, metaspace),
        "model": {
            "type": "Unigram",
            "unk_id": model.unknown_id,
            "vocab": [[piece.text, piece.score] for piece in model.pieces],
            "byte_fallback": model.byte_fallback,
        },
    }
    return json.dumps(document, ensure_ascii=False).encode("utf-8")


def _piece(reader: WireReader, data: bytes, start: int, stop: int) -> Piece:
    text, score, kind = "", 0.0, NORMAL
    for field, value, end in reader.fields(start, stop):
        if field == _PIECE_TEXT:
            text = reader.text(value, end)
        elif field == _PIECE_SCORE:
            (score,) = struct.unpack("<f", data[value:end])
        elif field == _PIECE_TYPE:
            kind = value
    return Piece(text, score, kind)


def _check_settings(trainer: dict[int, int], normalizer: dict[int, int], what: str) -> None:
    algorithm = trainer.get(_MODEL_TYPE, _UNIGRAM)
    if algorithm != _UNIGRAM:
        name = _ALGORITHMS.get(algorithm, str(algorithm))
        raise UnsupportedModelError(f"{what}: a SentencePiece model of the type {name}; unigram is read")
    if trainer.get(_SUFFIX_SPACE, 0):
        raise UnsupportedModelError(f"{what}: spaces belong to the piece before them (treat_whitespace_as_suffix)")
    if not normalizer.get(_ESCAPE, 1):
        raise UnsupportedModelError(f"{what}: spaces stay spaces (escape_whitespaces is off)")


def check_pieces(pieces: Sequence[Piece], what: str) -> None:
    """Whether each piece is there once, and one stands for what is unknown.

    Raises:
        ModelError: it is not so.
    """
    seen: set[str] = set()
    for index, piece in enumerate(pieces):
        if not piece.text or piece.text in seen:
            raise ModelError(f"{what}: piece {index} is {'empty' if not piece.text else f'{piece.text!r:.60} again'}")
        if not NORMAL <= piece.kind <= BYTE or not math.isfinite(piece.score):
            raise ModelError(f"{what}: piece {index} is of type {piece.kind}, with the score {piece.score}")
        seen.add(piece.text)
    unknown = sum(piece.kind == UNKNOWN for piece in pieces)
    if unknown != 1:
        raise ModelError(f"{what}: {unknown} pieces stand for what is unknown, not one")


def _added_tokens(model: SentencePieceModel) -> list[dict[str, Any]]:
    """What is looked for in the text before all else; control pieces as special ones."""
    return [
        {
            "id": index,
            "content": piece.text,
            "single_word": False,
            "lstrip": piece.strips,
            "rstrip": False,
            "normalized": False,
            "special": piece.kind != USER_DEFINED,
        }
        for index, piece in enumerate(model.pieces)
        if piece.kind in (UNKNOWN, CONTROL, USER_DEFINED)
    ]


def _normalizer(model: SentencePieceModel) -> dict[str, Any] | None:
    steps: list[dict[str, Any]] = []
    if model.charsmap:
        rules = base64.b64encode(model.charsmap).decode("ascii")
        steps.append({"type": "Precompiled", "precompiled_charsmap": rules})
    if model.single_spaces:
        # Not the normalizer Strip, which would take every kind of white space.
        steps.append({"type": "Replace", "pattern": {"Regex": r"\A +| +\z"}, "content": ""})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    return {"type": "Sequence", "normalizers": steps} if steps else None


def _decoder(model: SentencePieceModel, metaspace: dict[str, Any]) -> dict[str, Any]:
    if not model.byte_fallback:
        return metaspace
    return {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, metaspace]}


def _post_processor(model: SentencePieceModel, frame: Frame) -> dict[str, Any] | None:
    tokens = (*frame.prefix, *frame.between, *frame.suffix)
    if not tokens:
        return None
    ids = {piece.text: index for index, piece in enumerate(model.pieces)}
    for token in tokens:
        if token not in ids:
            raise ModelError(f"the vocabulary has no piece {token!r:.80}")

    def special(tokens: Sequence[str], type_id: int = 0) -> Iterator[dict[str, Any]]:
        yield from ({"SpecialToken": {"id": token, "type_id": type_id}} for token in tokens)

    first = [*special(frame.prefix), {"Sequence": {"id": "A", "type_id": 0}}]
    second = {"Sequence": {"id": "B", "type_id": frame.second}}
    return {
        "type": "TemplateProcessing",
        "single": [*first, *special(frame.suffix)],
        "pair": [*first, *special(frame.between), second, *special(frame.suffix, frame.second)],
        "special_tokens": {token: {"id": token, "ids": [ids[token]], "tokens": [token]} for token in tokens},
    }
