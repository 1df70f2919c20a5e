"""What may stand in a gap of a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.bundle.bundle import Bundle
from edgelm.checks import warn_caller
from edgelm.encoder_model import EncoderModel
from edgelm.errors import ConfigError, ContextLengthError, PromptError, UnsupportedModelError
from edgelm.tasks.classification import check_top_k
from edgelm.tasks.probabilities import softmax
from edgelm.text.encoding import TextEncoder
from edgelm.text.token_text import reading_token, without_stray_spaces

TASK = "fill-mask"
# Where a model does not say which of its tokens it is.
USUAL_MASKS = ("[MASK]", "<mask>")
SETTINGS_NAME = "tokenizer_config.json"


@dataclass(frozen=True, slots=True)
class Filling:
    """A token that may stand in a gap.

    Attributes:
        score: its probability.
        token: its id.
        token_str: its text.
        sequence: the whole text with it.
    """

    score: float
    token: int
    token_str: str
    sequence: str

    def as_dict(self) -> dict[str, Any]:
        """The filling under transformers' names."""
        return {"score": self.score, "token": self.token, "token_str": self.token_str, "sequence": self.sequence}


@dataclass(frozen=True, slots=True)
class FilledText:
    """Fillings for each gap of a text, in order, best first; the gaps are filled independently of each other."""

    gaps: tuple[tuple[Filling, ...], ...]

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values: ``gaps``, a list of fillings for each."""
        return {"gaps": [[filling.as_dict() for filling in gap] for gap in self.gaps]}


class MaskFiller:
    """Fills gaps with a masked language model; may be used by many threads.

    Args:
        model: stays its caller's, who closes it.

    Attributes:
        mask_token: what marks a gap in a text (``[MASK]``).

    Raises:
        UnsupportedModelError: the model is for something else (says what), or its tokenizer has no mask token.
    """

    def __init__(self, model: EncoderModel) -> None:
        model.require_task(TASK)
        self.mask_token = _mask_token(model)
        self._model = model
        self._tokenizer = model.tokenizer
        self._encoder = TextEncoder(reading_token(model.tokenizer, self.mask_token))
        self._mask_id = model.tokenizer.token_to_id(self.mask_token)
        self._pad_id = model.special_token_id("pad_token")
        self._cleans_up = _cleans_up(model.bundle)

    def fill(
        self, texts: Sequence[str], *, top_k: int | None = 5, targets: str | Sequence[str] | None = None
    ) -> list[FilledText]:
        """The likeliest fillings for every gap of each text.

        Args:
            texts: each with at least one ``mask_token``; other special tokens in them stay text.
            top_k: most fillings of a gap; None: all.
            targets: only these tokens are compared. One that the vocabulary does not have stands for the first token
                that it is encoded to, with a warning.

        Raises:
            ConfigError: ``top_k`` is below 1, or there is no usable target.
            PromptError: a text has no gap, is no string or has lone surrogates.
            ContextLengthError: a text is longer than the model takes.
        """
        check_top_k(top_k)
        chosen = None if targets is None else self._target_ids([targets] if isinstance(targets, str) else targets)
        encodings = self._encoder.encode_batch(texts, offsets=False)
        for number, encoding in enumerate(encodings):
            if self._mask_id not in encoding.ids:
                raise PromptError(f"text {number} has no gap: mark one with {self.mask_token}")
            if len(encoding) > self._model.context_length:
                raise ContextLengthError(
                    f"text {number} has {len(encoding)} tokens; {self._model.name} takes {self._model.context_length}"
                )
        filled: list[FilledText] = []
        for encoding, output in zip(encodings, self._model.run(encodings), strict=True):
            places = [place for place, token_id in enumerate(encoding.ids) if token_id == self._mask_id]
            found = best_tokens(output["logits"][places], top_k, chosen)
            gaps = [
                tuple(self._filling(encoding.ids, place, *candidate, only=len(places) == 1) for candidate in candidates)
                for place, candidates in zip(places, found, strict=True)
            ]
            filled.append(FilledText(tuple(gaps)))
        return filled

    def _filling(self, ids: list[int], place: int, token_id: int, score: float, *, only: bool) -> Filling:
        whole = [*ids[:place], token_id, *ids[place + 1 :]]
        # With several gaps, the masks of the others would go with the special tokens.
        sequence = self._decode([i for i in whole if i != self._pad_id], skip_special_tokens=only)
        return Filling(score, token_id, self._decode([token_id], skip_special_tokens=False), sequence)

    def _decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        # A model may have more rows than its tokenizer has tokens; those beyond have no text.
        known = [token_id for token_id in ids if token_id < self._tokenizer.vocab_size]
        text = self._tokenizer.decode(known, skip_special_tokens=skip_special_tokens)
        return without_stray_spaces(text) if self._cleans_up else text

    def _target_ids(self, targets: Sequence[str]) -> NDArray[np.int64]:
        ids: list[int] = []
        for target in targets:
            token_id = self._tokenizer.token_to_id(target)
            if token_id is None:
                encoded = self._tokenizer.encode(target, add_special_tokens=False)[:1]
                used = f"{self._tokenizer.id_to_token(encoded[0])!r} is compared in its place" if encoded else "ignored"
                warn_caller(f"the vocabulary has no token {target!r:.80}: {used}")
                ids += encoded
            else:
                ids.append(token_id)
        if not ids:
            raise ConfigError("targets must name at least one token")
        return np.array(sorted(set(ids)))


def _mask_token(model: EncoderModel) -> str:
    named = model.special_token("mask_token")
    if named is not None:
        return named
    for mask in USUAL_MASKS:
        if mask in model.tokenizer.special_tokens:
            return mask
    raise UnsupportedModelError(f"{model.name}: its tokenizer has no mask token")


def _cleans_up(bundle: Bundle) -> bool:
    settings = bundle.read_json(SETTINGS_NAME) if bundle.has(SETTINGS_NAME) else {}
    return isinstance(settings, dict) and settings.get("clean_up_tokenization_spaces") is True


def best_tokens(
    logits: NDArray[np.float32], top_k: int | None, targets: NDArray[np.int64] | None = None
) -> list[list[tuple[int, float]]]:
    """For each row the ``top_k`` likeliest tokens, best first, with their probabilities among all tokens.

    Args:
        logits: (rows, vocabulary) float32.
        top_k: how many, fewer where there are no more; None: all.
        targets: only these ids are compared.
    """
    probabilities = softmax(logits)
    ids = np.arange(logits.shape[1]) if targets is None else targets
    order = np.argsort(-probabilities[:, ids], axis=-1, kind="stable")[:, :top_k]
    return [[(int(ids[i]), float(row[ids[i]])) for i in best] for row, best in zip(probabilities, order, strict=True)]
