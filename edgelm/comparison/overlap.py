"""How much of a reference a text says: ROUGE over words, chrF over characters."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

_WORD = re.compile(r"[^\W_]+")
_CHRF_ORDER = 6
_CHRF_BETA = 2
# Longest common subsequences take time with the product of both lengths.
MOST_WORDS = 20_000


@dataclass(frozen=True, slots=True)
class Overlap:
    """Agreement with the reference, from 0 to 1 each: F1 of ROUGE-1, -2 and -L, and chrF2."""

    rouge_1: float
    rouge_2: float
    rouge_l: float
    chrf: float


def overlap(text: str, references: Sequence[str]) -> Overlap | None:
    """The best of each measure over the references; None where there is none."""
    if not references:
        return None

    def best(measure: Callable[[str, str], float]) -> float:
        return max(measure(text, reference) for reference in references)

    return Overlap(
        best(lambda ours, theirs: rouge_n(ours, theirs, 1)),
        best(lambda ours, theirs: rouge_n(ours, theirs, 2)),
        best(rouge_l),
        best(chrf),
    )


def rouge_n(text: str, reference: str, n: int) -> float:
    """F1 of the n-grams of words that both have.

    Words are runs of letters and digits, in lower case, not stemmed. Source: Lin 2004,
    https://aclanthology.org/W04-1013; Google's ``rouge-score`` gives the same for English (of other alphabets it drops
    the letters).
    """
    ours, theirs = (_grams(_words(each), n) for each in (text, reference))
    return _f_measure((ours & theirs).total(), ours.total(), theirs.total())


def rouge_l(text: str, reference: str) -> float:
    """F1 of the longest common subsequence of words; see ``rouge_n``."""
    ours, theirs = (_words(each)[:MOST_WORDS] for each in (text, reference))
    return _f_measure(_longest_common(ours, theirs), len(ours), len(theirs))


def chrf(text: str, reference: str) -> float:
    """chrF2: characters' n-grams of 1 to 6, without white space, recall counting twice as much as precision.

    Precision and recall are averaged over the lengths that both texts have. Source: Popović 2015,
    https://aclanthology.org/W15-3049, as sacreBLEU computes it for one sentence (which prints 0 to 100).
    """
    ours, theirs = ("".join(each.split()) for each in (text, reference))
    precisions, recalls = [], []
    for n in range(1, min(_CHRF_ORDER, len(ours), len(theirs)) + 1):
        found, expected = _grams(ours, n), _grams(theirs, n)
        both = (found & expected).total()
        precisions.append(both / found.total())
        recalls.append(both / expected.total())
    precision, recall = sum(precisions), sum(recalls)
    if not precision + recall:
        return 0.0
    weight = _CHRF_BETA**2
    return (1 + weight) * precision * recall / (weight * precision + recall) / len(precisions)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _grams(tokens: Sequence[Hashable], n: int) -> Counter[tuple[Hashable, ...]]:
    return Counter(tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1))


def _f_measure(both: int, ours: int, theirs: int) -> float:
    return 2 * both / (ours + theirs) if both else 0.0


def _longest_common(ours: Sequence[str], theirs: Sequence[str]) -> int:
    """The length of the longest common subsequence, with one bit a word of ``theirs``.

    Source: Hyyrö 2004, "Bit-parallel LCS-length computation revisited".
    """
    places: dict[str, int] = {}
    for index, word in enumerate(theirs):
        places[word] = places.get(word, 0) | 1 << index
    full = (1 << len(theirs)) - 1
    row = full
    for word in ours:
        matched = row & places.get(word, 0)
        row = (row + matched | row - matched) & full
    return len(theirs) - row.bit_count()
