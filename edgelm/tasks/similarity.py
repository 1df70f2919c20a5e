"""How alike texts are in meaning: the cosine of the angle between their vectors, from -1 to 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgelm.encoder_model import EncoderModel
from edgelm.runtime.pooling import to_unit_length
from edgelm.text.encoding import refuse_single


def cosine_matrix(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, M) float32: the cosine of each vector of ``a`` (N, H) with each of ``b`` (M, H)."""
    product: NDArray[np.float32] = to_unit_length(a) @ to_unit_length(b).T
    return product


def cosine_pairs(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N,) float32: the cosine of each vector of ``a`` (N, H) with that of ``b`` (N, H) in the same row."""
    product: NDArray[np.float32] = np.einsum("nh,nh->n", to_unit_length(a), to_unit_length(b))
    return product


def similarity_matrix(
    model: EncoderModel, texts: Sequence[str], others: Sequence[str] | None = None, *, truncation: bool = False
) -> NDArray[np.float32]:
    """(N, M) float32: how alike each text is to each of the others; None: to each of the same texts.

    Raises:
        PromptError: it is a single text and no list.
        Others: as ``EncoderModel.embed``.
    """
    for given in (texts, others or ()):
        refuse_single(given)
    vectors = model.embed(texts, truncation=truncation)
    return cosine_matrix(vectors, vectors if others is None else model.embed(others, truncation=truncation))


def pair_similarities(
    model: EncoderModel, pairs: Sequence[tuple[str, str]], *, truncation: bool = False
) -> NDArray[np.float32]:
    """(N,) float32: how alike the two texts of each pair are. A text that occurs often is computed once.

    Raises:
        As ``EncoderModel.embed``.
    """
    places: dict[str, int] = {}
    for pair in pairs:
        for text in pair:
            places.setdefault(text, len(places))
    vectors = model.embed(list(places), truncation=truncation)
    left, right = (np.array([places[pair[side]] for pair in pairs], np.int64) for side in (0, 1))
    return cosine_pairs(vectors[left], vectors[right])
