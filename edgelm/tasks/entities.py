"""From label probabilities of tokens to entities in the text: arrays and offsets in, entities out.

The rules are those of transformers' token-classification pipeline (version 4.57), so that its users find the same
entities. Knows neither tokenizers nor graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import ConfigError

Aggregation = Literal["none", "simple", "first", "average", "max"]
AGGREGATIONS: tuple[Aggregation, ...] = get_args(Aggregation)
IGNORED_LABELS = ("O",)

# Tokens as they stand in the vocabulary → the text that they spell together.
Join = Callable[[list[str]], str]


@dataclass(frozen=True, slots=True, eq=False)
class ScoredToken:
    """A token of the text with what the model thinks of it.

    Attributes:
        word: the token as it stands in the vocabulary (``##ing``, ``Ġthe``); of an unknown one, its text.
        start: its first character in the text.
        end: the character behind its last.
        index: its place in the encoded text, special tokens counted.
        continues_word: whether it belongs to the word of the token before it.
        scores: (labels,) float32, probabilities.
    """

    word: str
    start: int
    end: int
    index: int
    continues_word: bool
    scores: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Entity:
    """A labelled stretch of the text: ``text[start:end]``.

    Attributes:
        label: of a single token, as the model has it (``B-PER``); of a group, without ``B-`` or ``I-``.
        score: probability; of a group, the mean over its parts.
        word: what the tokens spell, which may be a normalized form of the text.
        start: first character.
        end: the character behind the last.
        index: place of the token; None for a group.
    """

    label: str
    score: float
    word: str
    start: int
    end: int
    index: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """The entity under transformers' names: ``entity`` and ``index`` for a token, ``entity_group`` for a group."""
        place = {"word": self.word, "start": self.start, "end": self.end}
        if self.index is None:
            return {"entity_group": self.label, "score": self.score, **place}
        return {"entity": self.label, "score": self.score, "index": self.index, **place}


def continues_word(text: str, token: str, start: int, end: int, *, marks_continuation: bool) -> bool:
    """Whether the token at ``text[start:end]`` belongs to the word of the token before it.

    ``marks_continuation``: the vocabulary marks such tokens (``##``), so one that is longer or shorter than its text
    is one of them. Other vocabularies cannot tell: there, a word is what stands between spaces.
    """
    if marks_continuation:
        return len(token) != end - start
    return start > 0 and " " not in text[start - 1 : start + 1]


def find_entities(
    tokens: Sequence[ScoredToken],
    labels: Sequence[str],
    *,
    aggregation: Aggregation = "none",
    ignore_labels: Collection[str] = IGNORED_LABELS,
    join: Join,
) -> list[Entity]:
    """The entities among the tokens of a text, in order.

    Args:
        tokens: without special ones, in order.
        labels: the model's, in the order of the scores.
        aggregation: ``none`` labels each token for itself; ``simple`` joins neighbours of one label, where ``B-``
            starts a new entity. With the others all tokens of a word get one label: that of its ``first`` token, the
            likeliest by the ``average`` of their scores, or that of the token with the ``max`` score.
        ignore_labels: leaves these out, as they stand in the result.
        join: spells tokens as text.

    Raises:
        ConfigError: there is no such aggregation.
    """
    check_aggregation(aggregation)
    if aggregation in ("none", "simple"):
        parts = [_entity(token.scores, labels, token.word, token, token) for token in tokens]
    else:
        parts = [_word(word, labels, aggregation, join) for word in _words(tokens)]
    found = parts if aggregation == "none" else _groups(parts, join)
    return [entity for entity in found if entity.label not in ignore_labels]


def check_aggregation(aggregation: str) -> None:
    """Refuses a name that is not one of ``AGGREGATIONS``.

    Raises:
        ConfigError: it is not; names them.
    """
    if aggregation not in AGGREGATIONS:
        raise ConfigError(f"aggregation is {aggregation!r:.80}; it may be {', '.join(AGGREGATIONS)}")


def without_overlaps(entities: Sequence[Entity]) -> list[Entity]:
    """Of entities that overlap, the longest, and of equally long ones the likeliest: for those of several windows."""
    kept: list[Entity] = []
    for entity in sorted(entities, key=lambda entity: entity.start):
        if not kept or not kept[-1].start <= entity.start < kept[-1].end:
            kept.append(entity)
        elif _rank(entity) > _rank(kept[-1]):
            kept[-1] = entity
    return kept


def join_windows(windows: Sequence[tuple[int, NDArray[np.float32]]]) -> NDArray[np.float32]:
    """Scores of all tokens from those of overlapping windows: each token's are of where it has most context.

    Args:
        windows: of each its first token and its scores (tokens, labels); together they cover all tokens.

    Returns:
        (all tokens, labels) float32.
    """
    length = max(first + len(scores) for first, scores in windows)
    joined = np.zeros((length, windows[0][1].shape[1]), np.float32)
    most = np.full(length, -1)
    for first, scores in windows:
        place = np.arange(len(scores))
        # A window that begins or ends with the text hides nothing there.
        left = place if first else np.full(len(scores), length)
        right = place[::-1] if first + len(scores) < length else np.full(len(scores), length)
        context = np.minimum(left, right)
        covered = slice(first, first + len(scores))
        better = context > most[covered]
        joined[covered][better] = scores[better]
        most[covered][better] = context[better]
    return joined


def _rank(entity: Entity) -> tuple[int, float]:
    return entity.end - entity.start, entity.score


def _entity(
    scores: NDArray[np.float32], labels: Sequence[str], word: str, first: ScoredToken, last: ScoredToken
) -> Entity:
    best = int(scores.argmax())
    return Entity(labels[best], float(scores[best]), word, first.start, last.end, first.index)


def _words(tokens: Sequence[ScoredToken]) -> list[list[ScoredToken]]:
    words: list[list[ScoredToken]] = []
    for token in tokens:
        if words and token.continues_word:
            words[-1].append(token)
        else:
            words.append([token])
    return words


def _word(tokens: list[ScoredToken], labels: Sequence[str], aggregation: Aggregation, join: Join) -> Entity:
    if aggregation == "first":
        scores = tokens[0].scores
    elif aggregation == "max":
        scores = max(tokens, key=lambda token: float(token.scores.max())).scores
    else:
        scores = np.mean([token.scores for token in tokens], axis=0)
    return _entity(scores, labels, join([token.word for token in tokens]), tokens[0], tokens[-1])


def _groups(parts: Sequence[Entity], join: Join) -> list[Entity]:
    groups: list[list[Entity]] = []
    for part in parts:
        if groups and not part.label.startswith("B-") and _tag(part.label) == _tag(groups[-1][-1].label):
            groups[-1].append(part)
        else:
            groups.append([part])
    return [_group(group, join) for group in groups]


def _group(parts: list[Entity], join: Join) -> Entity:
    # transformers compares labels without B- or I-, but names the group by what follows the first hyphen.
    label = parts[0].label.split("-", 1)[-1]
    score = float(np.mean([part.score for part in parts]))
    return Entity(label, score, join([part.word for part in parts]), parts[0].start, parts[-1].end)


def _tag(label: str) -> str:
    return label[2:] if label.startswith(("B-", "I-")) else label
