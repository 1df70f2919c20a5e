"""From start and end logits of tokens to answers in a document: arrays and offsets in, answers out.

The rules are those of transformers' question-answering pipeline (version 4.57), so that its users find the same
answers. Knows neither tokenizers nor graphs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.tasks.probabilities import softmax

# What a token that cannot be part of an answer gets in place of its logit.
_MASKED = np.float32(-10_000)


@dataclass(frozen=True, slots=True)
class Answer:
    """A stretch of the document, ``context[start:end]``; an empty one says that the document has no answer.

    ``score``: probability that the answer starts and ends there, summed over places with the same text, so that it
    may exceed 1 where windows overlap.
    """

    score: float
    start: int
    end: int
    answer: str

    def as_dict(self) -> dict[str, Any]:
        """The answer under transformers' names."""
        return {"score": self.score, "start": self.start, "end": self.end, "answer": self.answer}


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """One run of the model over the question and a part of the document: T tokens, the first for "no answer".

    Attributes:
        start_logits: (T,) float32.
        end_logits: (T,) float32.
        candidates: (T,) bool, True for tokens of the document, and for the first if the model has such a token.
        offsets: (T, 2), first character of each token in its own text, and the one behind its last.
        words: for each token of the document the number of its word; None for other tokens, and where a tokenizer
            has no words.
    """

    start_logits: NDArray[np.float32]
    end_logits: NDArray[np.float32]
    candidates: NDArray[np.bool_]
    offsets: Sequence[tuple[int, int]]
    words: Sequence[int | None]


@dataclass(frozen=True, slots=True)
class TokenSpan:
    """Tokens ``first`` to ``last`` (included) with their probability of being the answer."""

    first: int
    last: int
    score: float


def best_answers(
    windows: Iterable[Window],
    context: str,
    *,
    top_k: int = 1,
    max_answer_len: int = 15,
    no_answer: bool = False,
    align_to_words: bool = True,
) -> list[Answer]:
    """The likeliest answers in a document, best first; fewer than ``top_k`` if there are no more.

    Args:
        windows: all of the document's.
        context: the document.
        top_k: how many.
        max_answer_len: most tokens of an answer.
        no_answer: lets the empty answer compete, with the least score that it has in any window.
        align_to_words: extends answers to whole words.
    """
    # Several spans may become the same words.
    wanted = top_k * 2 + 10 if align_to_words else top_k
    answers: dict[str, Answer] = {}
    least_empty = np.inf
    for window in windows:
        spans, empty = best_spans(window, wanted, max_answer_len)
        least_empty = min(least_empty, empty)
        for span in spans:
            start, end = _characters(window, span, align_to_words)
            text = context[start:end]
            known = answers.setdefault(text.lower(), Answer(0.0, start, end, text))
            answers[text.lower()] = replace(known, score=known.score + span.score)
    found = list(answers.values())
    if no_answer:
        found.append(Answer(float(least_empty), 0, 0, ""))
    return sorted(found, key=lambda answer: answer.score, reverse=True)[:top_k]


def best_spans(window: Window, count: int, max_answer_len: int) -> tuple[list[TokenSpan], float]:
    """The ``count`` likeliest spans of a window, best first, and the score of "no answer".

    Of these, spans that touch tokens which are no candidates are left out (they have probability 0).
    """
    start = _probabilities(window.start_logits, window.candidates)
    end = _probabilities(window.end_logits, window.candidates)
    empty = float(start[0] * end[0])
    start[0] = end[0] = 0
    # Only spans that do not end before they start, nor are longer than allowed.
    scores = np.tril(np.triu(np.outer(start, end)), max_answer_len - 1).ravel()
    firsts, lasts = np.divmod(_largest(scores, count), len(start))
    allowed = window.candidates[firsts] & window.candidates[lasts]
    spans = zip(firsts[allowed].tolist(), lasts[allowed].tolist(), strict=True)
    return [TokenSpan(first, last, float(scores[first * len(start) + last])) for first, last in spans], empty


def _probabilities(logits: NDArray[np.float32], candidates: NDArray[np.bool_]) -> NDArray[np.float32]:
    return softmax(np.where(candidates, logits, _MASKED))


def _largest(scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Indices of the ``count`` largest, in order. Ties fall as they do in transformers, by the same NumPy calls."""
    if count == 1:
        return np.array([np.argmax(scores)])
    if len(scores) <= count:
        return np.argsort(-scores)
    chosen = np.argpartition(-scores, count)[:count]
    return chosen[np.argsort(-scores[chosen])]


def _characters(window: Window, span: TokenSpan, align_to_words: bool) -> tuple[int, int]:
    first_word, last_word = window.words[span.first], window.words[span.last]
    if not align_to_words or first_word is None or last_word is None:
        return window.offsets[span.first][0], window.offsets[span.last][1]
    # Numbers of words rise from token to token, so a word is a run of tokens.
    first, last = span.first, span.last
    while first > 0 and window.words[first - 1] == first_word:
        first -= 1
    while last + 1 < len(window.words) and window.words[last + 1] == last_word:
        last += 1
    return window.offsets[first][0], window.offsets[last][1]
