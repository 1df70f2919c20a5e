"""The half of a language model that keeps what was computed beyond one process: its KV caches, in files."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelm.errors import ConfigError
from edgelm.generation.history import check_length, check_prompt
from edgelm.loaded_model import LoadedModel
from edgelm.runtime.sequences import SequencePool


class CachedModel(LoadedModel):
    """A model whose KV caches can be saved and loaded; for arguments and attributes see ``LoadedModel``."""

    def save_cache(
        self,
        path: str | os.PathLike[str],
        prompt: str | Sequence[int] | NDArray[np.int64] | Sequence[Mapping[str, Any]] | None = None,
        *,
        compute: bool = True,
    ) -> int:
        """Writes the KV cache of a prompt or a conversation to a file, computing it first where it is not kept.

        The file serves the same conversion of the same model only, with a KV cache of the same type. It holds what was
        said, as token ids.

        Args:
            path: replaced if it exists; a new file is its owner's alone to read.
            prompt: as for ``generate``, or messages; None: what was computed last, with the answer.
            compute: False: write as much of the prompt's beginning as is kept, and compute nothing.

        Returns:
            How many tokens it holds.

        Raises:
            CacheFileError: there is nothing to save, or more than a file may hold.
            UnsupportedModelError: the model is no decoder, or its graphs are another tool's.
            StorageError: the disk is full, read-only or failing.
            PromptError, MemoryLimitError: of the prompt.
        """
        from edgelm.runtime.saved_caches import save_cache, save_kept  # most processes save nothing

        pool = self._pool
        ids = None
        if prompt is not None:
            ids = check_prompt(self._ids_of(prompt), self.bundle.manifest.vocab_size)
            if not compute:
                return save_kept(pool, Path(path), self.bundle.manifest, ids)
            check_length(ids.size, self.context_length)
        return save_cache(pool, Path(path), self.bundle.manifest, ids)

    def load_cache(self, path: str | os.PathLike[str]) -> int:
        """Keeps the KV cache that ``save_cache`` wrote, for prompts that begin as it does; returns how many tokens.

        Raises:
            CacheFileError: the file cannot be read, is broken, or was saved of another model, or another type of cache.
            UnsupportedModelError: see ``save_cache``.
            MemoryLimitError: it does not fit into ``max_memory``.
            ConfigError: ``prefix_caches`` is 0, so nothing is kept.
        """
        from edgelm.runtime.saved_caches import load_cache

        pool = self._pool
        if not self.runtime.prefix_caches:
            raise ConfigError("prefix_caches is 0: a KV cache that is loaded would not be kept")
        return load_cache(pool, Path(path), self.bundle.manifest, self.context_length, self.runtime.kv_cache)

    @property
    @abstractmethod
    def _pool(self) -> SequencePool:
        """What keeps the caches; raises ClosedError once the model is closed."""

    @abstractmethod
    def _ids_of(
        self, prompt: str | Sequence[int] | NDArray[np.int64] | Sequence[Mapping[str, Any]]
    ) -> Sequence[int] | NDArray[np.int64]:
        """Token ids of a prompt, or of a conversation."""
