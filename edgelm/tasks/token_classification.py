"""Labels for the words of a text: names of people and places, parts of speech."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from edgelm.encoder_model import EncoderModel
from edgelm.errors import ConfigError
from edgelm.tasks.entities import (
    IGNORED_LABELS,
    Aggregation,
    Entity,
    ScoredToken,
    check_aggregation,
    continues_word,
    find_entities,
    join_windows,
    without_overlaps,
)
from edgelm.tasks.probabilities import softmax
from edgelm.text.encoding import Encoding, Truncation
from edgelm.text.token_text import join_tokens, marks_continuation

TASK = "token-classification"


class TokenClassifier:
    """Finds entities with a model that labels tokens; may be used by many threads.

    Args:
        model: stays its caller's, who closes it.

    Raises:
        UnsupportedModelError: the model is for something else; says what.
    """

    def __init__(self, model: EncoderModel) -> None:
        model.require_task(TASK)
        self._model = model
        self._labels = model.labels
        self._tokenizer = model.tokenizer
        self._marks_continuation = marks_continuation(model.tokenizer)
        self._unknown = model.special_token_id("unk_token")

    def classify(
        self,
        texts: Sequence[str],
        *,
        aggregation: Aggregation = "none",
        ignore_labels: Collection[str] = IGNORED_LABELS,
        stride: int | None = None,
    ) -> list[list[Entity]]:
        """The entities of each text, in order.

        A text longer than the model takes is read in overlapping windows; each token gets the label that it has where
        most of its surroundings are seen, and entities are made of all tokens together.

        Args:
            texts: in any language and of any length.
            aggregation: see ``find_entities``.
            ignore_labels: leaves these out.
            stride: makes entities window by window, as transformers does when it is given one: tokens by which
                windows overlap. Of entities that overlap, the longest is kept.

        Raises:
            ConfigError: a setting is out of range.
            PromptError: a text is no string or has lone surrogates.
        """
        check_aggregation(aggregation)
        if stride is not None and aggregation == "none":
            raise ConfigError("stride is for entities, which aggregation 'none' does not make: choose another")
        length = self._model.context_length
        room = length - self._model.text_encoder.added_tokens(pair=False)
        overlap = room // 4 if stride is None else stride
        encodings = self._model.text_encoder.encode_batch(
            texts, truncation=Truncation(max_length=length, stride=overlap)
        )
        windows = [window for encoding in encodings for window in encoding.windows]
        outputs = iter(self._model.run(windows))
        found: list[list[Entity]] = []
        for text, encoding in zip(texts, encodings, strict=True):
            parts = [self._tokens(text, window, next(outputs)["logits"]) for window in encoding.windows]
            if stride is None:
                parts = [_joined(parts, room - overlap)]
            entities = [
                entity
                for tokens in parts
                for entity in find_entities(
                    tokens, self._labels, aggregation=aggregation, ignore_labels=ignore_labels, join=self._join
                )
            ]
            found.append(without_overlaps(entities) if len(parts) > 1 else entities)
        return found

    def _join(self, words: list[str]) -> str:
        return join_tokens(self._tokenizer, words)

    def _tokens(self, text: str, encoding: Encoding, logits: NDArray[np.float32]) -> list[ScoredToken]:
        """The text's own tokens of a window."""
        scores = softmax(logits)
        tokens: list[ScoredToken] = []
        rows = zip(encoding.ids, encoding.offsets, encoding.special_tokens_mask, strict=True)
        for index, (token_id, (start, end), special) in enumerate(rows):
            if special:
                continue
            word = self._tokenizer.id_to_token(token_id) or ""
            continues = continues_word(text, word, start, end, marks_continuation=self._marks_continuation)
            if token_id == self._unknown:
                word, continues = text[start:end], False
            tokens.append(ScoredToken(word, start, end, index, continues, scores[index]))
        return tokens


def _joined(windows: list[list[ScoredToken]], step: int) -> list[ScoredToken]:
    """All tokens of a text, whose windows start ``step`` tokens apart, each with its best scores."""
    if len(windows) == 1:
        return windows[0]
    firsts = [number * step for number in range(len(windows))]
    scores = join_windows(
        [(first, np.array([token.scores for token in window])) for first, window in zip(firsts, windows, strict=True)]
    )
    tokens: list[ScoredToken] = []
    for first, window in zip(firsts, windows, strict=True):
        tokens += window[len(tokens) - first :]
    return [
        ScoredToken(t.word, t.start, t.end, tokens[0].index + place, t.continues_word, scores[place])
        for place, t in enumerate(tokens)
    ]
