"""Writes vectors as programs read them: JSON, NumPy's npy, or the two files of the Embedding Projector."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from edgelm.cli import console
from edgelm.cli.output_file import refuse_missing_folder, write_output

FORMATS = ("json", "npy", "tsv")
VECTORS_NAME, METADATA_NAME = "vectors.tsv", "metadata.tsv"


def check_output(form: str, output: Path | None) -> None:
    """Refuses a place that vectors of that format cannot go to, before they are computed.

    Raises:
        click.UsageError: tsv without a folder, npy to a terminal.
        ConfigError: the folder to write into is not there.
    """
    refuse_missing_folder(output)
    if form == "tsv" and output is None:
        raise click.UsageError(f"--format tsv writes {VECTORS_NAME} and {METADATA_NAME}; name their folder with -o")
    if form == "npy" and output is None and console.is_terminal(sys.stdout):
        raise click.UsageError("npy is binary; name a file with -o, or send it to a pipe")


def write_vectors(texts: Sequence[str], vectors: NDArray[np.float32], form: str, output: Path | None) -> None:
    """Writes vectors (N, H) of N texts: to ``output``, a folder for tsv, or to stdout.

    json: one object a line, with ``text`` and ``embedding``. tsv: the vectors, and beside them the texts, as
    https://projector.tensorflow.org loads them.

    Raises:
        StorageError: a file cannot be written.
    """
    if form == "tsv" and output is not None:
        write_output(output / VECTORS_NAME, _table(vectors))
        write_output(output / METADATA_NAME, "".join(f"{_one_cell(text)}\n" for text in texts).encode())
        return
    data = _npy(vectors) if form == "npy" else _lines(texts, vectors)
    if output is not None:
        write_output(output, data)
    elif sys.stdout is not None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def _lines(texts: Sequence[str], vectors: NDArray[np.float32]) -> bytes:
    rows = zip(texts, vectors, strict=True)
    return "".join(
        json.dumps({"text": text, "embedding": _short(vector)}, ensure_ascii=False) + "\n" for text, vector in rows
    ).encode()


def _short(vector: NDArray[np.float32]) -> list[float]:
    """As few digits as a float32 needs to be read back."""
    return [float(str(value)) for value in vector]


def _npy(vectors: NDArray[np.float32]) -> bytes:
    file = io.BytesIO()
    np.save(file, vectors)
    return file.getvalue()


def _table(vectors: NDArray[np.float32]) -> bytes:
    return "".join("\t".join(map(str, vector)) + "\n" for vector in vectors).encode()


def _one_cell(text: str) -> str:
    """Without what ends a cell or a line; an empty cell would shift those below it."""
    return re.sub(r"\s+", " ", text).strip() or "(empty)"
