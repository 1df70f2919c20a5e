"""What real models attend to, in int8: near to fp32's, and what people know of such models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import edgelm

# Measured on four texts: 0.016, 0.982 and 0.09 at worst.
MOST_MOVED, LEAST_SAME, MOST_BITS = 0.03, 0.97, 0.2
TEXTS = ("The cat sat on the mat, because it was tired.", "def add(a, b):\n    return a + b\n\nprint(add(1, 2))")


def moved(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """The share of a row's weight that lies elsewhere, on average (total variation)."""
    return float(np.abs(ours - theirs).sum(axis=-1).mean() / 2)


@pytest.mark.parametrize("text", TEXTS)
def test_int8_looks_where_fp32_looks(int8: edgelm.LanguageModel, fp32: edgelm.LanguageModel, text: str) -> None:
    ours, theirs = (edgelm.attention_maps(lm, text).of("decoder") for lm in (int8, fp32))
    assert ours.weights.shape[:2] == (30, 9)
    assert np.abs(ours.weights.sum(axis=-1) - 1).max() < 1e-5
    assert moved(ours.weights, theirs.weights) < MOST_MOVED
    assert (ours.weights.argmax(axis=-1) == theirs.weights.argmax(axis=-1)).mean() > LEAST_SAME
    assert np.abs(ours.entropy - theirs.entropy).max() < MOST_BITS


def test_what_comes_later_changes_no_row_before(fp32: edgelm.LanguageModel) -> None:
    """Half of an answer has the rows that it has in the whole."""
    whole = edgelm.attention_maps(fp32, TEXTS[0], max_new_tokens=8).of("decoder")
    half = edgelm.attention_maps(fp32, TEXTS[0], max_new_tokens=4).of("decoder")
    count = len(half.queries)
    assert half.queries == whole.queries[:count]
    assert np.abs(half.weights - whole.weights[:, :, :count, :count]).max() < 1e-4


def test_a_translator_looks_at_the_words_that_it_translates(home: Path) -> None:
    with edgelm.load("en-pt") as lm:
        found = edgelm.attention_maps(
            lm, "The meeting was moved to Thursday because the manager is travelling.", max_new_tokens=40
        )
    assert found.answer == "A reunião foi transferida para quinta-feira porque o gerente está viajando."
    cross = found.of("cross")
    last = cross.weights[-1].mean(axis=0)
    for word, source in ((" reunião", " meeting"), (" porque", " because"), (" gerente", " manager")):
        # The row of the token before is what was looked at to choose it.
        row = last[cross.queries.index(word) - 1]
        assert cross.keys[int(row.argmax())] == source


def test_the_command_writes_a_page_and_a_picture(command: Callable[..., Any], tmp_path: Path) -> None:
    page, picture = tmp_path / "page.html", tmp_path / "picture.png"
    done = command("attention", "smollm2", TEXTS[0], "-n", "4", "--html", str(page), "--png", str(picture))
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 32
    assert '" cat"' in page.read_text(encoding="utf-8")
    assert picture.read_bytes()[1:4] == b"PNG"
