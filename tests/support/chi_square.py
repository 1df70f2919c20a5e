"""Pearson's chi-square test of counts against exact probabilities."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def chi_square_limit(freedom: int, z: float = 3.0902) -> float:
    """The 99.9 % point of the chi-square distribution, by Wilson and Hilferty's approximation."""
    spread = 2.0 / (9.0 * freedom)
    return freedom * (1.0 - spread + z * math.sqrt(spread)) ** 3


def chi_square(counts: NDArray[np.int64], probabilities: NDArray[np.float64]) -> tuple[float, int]:
    """Pearson's statistic and its degrees of freedom; cells expected under 5 times are joined."""
    rare = probabilities * counts.sum() < 5
    observed = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(probabilities[~rare], probabilities[rare].sum()) * counts.sum()
    used = expected > 0
    statistic = ((observed[used] - expected[used]) ** 2 / expected[used]).sum()
    return float(statistic), int(used.sum()) - 1
