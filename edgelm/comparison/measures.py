"""Measures of a text alone: how varied it is, and how much it repeats."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

REPETITION_SIZE = 4


def distinct(tokens: Sequence[Hashable], n: int) -> float | None:
    """The share of n-grams that are different ones, from 0 to 1; None where there is no n-gram.

    Source: distinct-n, Li et al. 2016, https://arxiv.org/abs/1510.03055.
    """
    grams = [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def repetition(tokens: Sequence[Hashable]) -> float | None:
    """The share of 4-grams that the text had before: 0 says nothing twice; None where there is no 4-gram.

    Source: seq-rep-4, Welleck et al. 2020, https://arxiv.org/abs/1908.04319.
    """
    share = distinct(tokens, REPETITION_SIZE)
    return None if share is None else 1 - share
