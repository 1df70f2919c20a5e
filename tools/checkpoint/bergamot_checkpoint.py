"""Bergamot (Firefox Translations) models: a folder with one Marian ``.bin`` file and its SentencePiece vocabulary.

Matrices are given as linear layers have them elsewhere, (outputs, inputs), and the file's int8 values unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.bundle.vocabulary.sentencepiece import Frame, SentencePieceModel, tokenizer_json
from edgelm.errors import ModelError, UnsupportedModelError
from edgelm_tools.checkpoint.base import BlockQuantized, TextAssets
from edgelm_tools.checkpoint.mapped_file import MappedFile
from edgelm_tools.checkpoint.marian_file import BYTES, INT8, MAGIC, MarianTensor, read_table, settings
from edgelm_tools.checkpoint.strict_json import read_small_file

MODEL_TYPE = "bergamot"
CONFIG_NAME = "special:model.yml"
EMBEDDING_NAME = "Wemb"
_PAIR = re.compile(r"\.([a-z]{2})([a-z]{2})\.")
# Multipliers beyond would make weights that float32 cannot hold, or nothing but zeros.
_LEAST = 1e-30
MAX_VOCABULARY_BYTES = 64 << 20
# Marian's own names and ids of these two; every vocabulary begins with them.
END_OF_SENTENCE, UNKNOWN = "</s>", "<unk>"


def marian_files(folder: Path) -> list[Path]:
    """The files of a folder that are Marian models; lexical shortlists, also ``.bin``, begin otherwise.

    Raises:
        ModelError: a file cannot be read.
    """
    return [path for path in sorted(folder.glob("*.bin")) if path.is_file() and _begins_as_marian(path)]


def _begins_as_marian(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error


class BergamotCheckpoint:
    """An open folder; implements ``Checkpoint``. ``config`` has the single values of the model's own configuration.

    Raises:
        ModelError: there is not one model and one vocabulary, or a file breaks its format; names it.
        UnsupportedModelError: source and target have vocabularies of their own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        files = marian_files(folder)
        if len(files) != 1:
            names = ", ".join(path.name for path in files[:8])
            raise ModelError(f"{folder}: {len(files)} Marian models ({names}), not one")
        self._vocabulary = _only_vocabulary(folder)
        self._file = MappedFile(files[0])
        self._tensors = read_table(self._file)
        self.config: dict[str, Any] = {"model_type": MODEL_TYPE, **self._settings(), **_languages(files[0])}

    def names(self) -> Iterable[str]:
        """Names of all tensors, as the file has them."""
        return [name for name, tensor in self._tensors.items() if tensor.kind != BYTES]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor: (outputs, inputs) of a matrix, (n,) of a bias.

        Raises:
            ModelError: there is no such tensor.
        """
        shape = self._find(name).shape
        if len(shape) != 2 or name == EMBEDDING_NAME:
            return shape
        return (shape[1],) if shape[0] == 1 else (shape[1], shape[0])

    def tensor(self, name: str) -> NDArray[np.float32]:
        """The tensor as a new float32 array, of the shape that ``shape`` says.

        Raises:
            ModelError: there is no such tensor, or its multiplier is no divisor.
        """
        tensor = self._find(name)
        if tensor.kind == INT8:
            steps, multiplier = self._steps(name, tensor)
            return steps.astype(np.float32) / multiplier
        stored = self._file.array("<f4", tensor.start, tensor.count).reshape(tensor.shape)
        transposed = stored if name == EMBEDDING_NAME or stored.ndim != 2 else stored.T
        return np.array(transposed, np.float32, order="C").reshape(self.shape(name))

    def row_parts(self, name: str, most_values: int) -> Iterator[NDArray[np.float32]]:
        """The tensor in one part: such models are small.

        Raises:
            ModelError: see ``tensor``.
        """
        yield self.tensor(name)

    def quantized(self, name: str) -> BlockQuantized | None:
        """A matrix's own integers, with one scale for all of it; None where it is float32.

        Raises:
            ModelError: there is no such tensor, or its multiplier is no divisor.
        """
        tensor = self._find(name)
        if tensor.kind != INT8 or len(self.shape(name)) != 2:
            return None
        steps, multiplier = self._steps(name, tensor)
        rows, columns = steps.shape
        return BlockQuantized(steps, np.full((rows, 1), 1 / multiplier, np.float32), block_size=columns, bits=8)

    def text_assets(self) -> TextAssets:
        """The vocabulary as ``tokenizer.json``, which ends a text with ``</s>``.

        Raises:
            ModelError: the vocabulary breaks its format, or is not one of Marian's.
        """
        data = read_small_file(self._vocabulary, MAX_VOCABULARY_BYTES)
        model = SentencePieceModel.parse(data, what=str(self._vocabulary))
        pieces = [piece.text for piece in model.pieces[:2]]
        if pieces != [END_OF_SENTENCE, UNKNOWN]:
            raise ModelError(f"{self._vocabulary}: begins with {pieces!r:.80}, not with </s> and <unk>")
        return TextAssets(
            tokenizer=tokenizer_json(model, Frame(suffix=(END_OF_SENTENCE,))),
            generation_config={"eos_token_id": 0, "pad_token_id": 0, "decoder_start_token_id": 0},
            special_tokens={"eos_token": END_OF_SENTENCE, "unk_token": UNKNOWN, "pad_token": END_OF_SENTENCE},
        )

    def close(self) -> None:
        """Unmaps the file."""
        self._file.close()

    def _steps(self, name: str, tensor: MarianTensor) -> tuple[NDArray[np.int8], np.float32]:
        multiplier: np.float32 = self._file.array("<f4", tensor.start + tensor.count, 1)[0]
        if not _LEAST <= multiplier <= 1 / _LEAST:  # nor is a NaN
            raise ModelError(f"{self._file.path}: tensor {name!r:.120} has the multiplier {multiplier}")
        # The file has matrices as (outputs, inputs), whatever their dimensions say, but for the embeddings.
        steps: NDArray[np.int8] = self._file.array(np.int8, tensor.start, tensor.count).reshape(self.shape(name))
        return steps, multiplier

    def _settings(self) -> dict[str, Any]:
        entry = self._tensors.get(CONFIG_NAME)
        if entry is None or entry.kind != BYTES:
            raise ModelError(f"{self._file.path}: no {CONFIG_NAME}, which holds the configuration")
        data = self._file.bytes(entry.start, entry.count).rstrip(b"\0")
        try:
            return dict(settings(data.decode("utf-8")))
        except UnicodeDecodeError as error:
            raise ModelError(f"{self._file.path}: {CONFIG_NAME} is not UTF-8 at byte {error.start}") from None

    def _find(self, name: str) -> MarianTensor:
        if name not in self._tensors or self._tensors[name].kind == BYTES:
            raise ModelError(f"{self._file.path}: no tensor named {name!r:.120}")
        return self._tensors[name]


def _languages(path: Path) -> dict[str, str]:
    """Source and target as the file's name has them: ``model.enpt.intgemm.alphas.bin``."""
    named = _PAIR.search(path.name)
    return {} if named is None else {"source_language": named[1], "target_language": named[2]}


def _only_vocabulary(folder: Path) -> Path:
    found = sorted(path for path in folder.glob("*.spm") if path.is_file())
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:8])
        raise UnsupportedModelError(f"{folder}: {len(found)} vocabularies ({names}); read are models with a shared one")
    if not found:
        raise ModelError(f"{folder}: no vocabulary (*.spm) beside the Marian model")
    return found[0]
