"""What all faces share: an open bundle, the context window, the text side, and that they are closed at the end."""

from __future__ import annotations

import contextlib
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from edgelm.bundle.bundle import Bundle, open_bundle
from edgelm.bundle.home import stamps_folder
from edgelm.bundle.store import Store
from edgelm.config import RuntimeConfig
from edgelm.errors import ConfigError, EdgeLMError, ModelError
from edgelm.runtime.fitting import Beside, nothing_beside
from edgelm.runtime.kv_cache_types import check_kv_cache
from edgelm.runtime.memory import Budget
from edgelm.runtime.process_memory import ProcessMemory

if TYPE_CHECKING:
    from edgelm.text.tokenizer import Tokenizer

SPECIAL_TOKENS_NAME = "special_tokens.json"


def find_bundle(model: str | os.PathLike[str], variant: str | None, runtime: RuntimeConfig) -> Bundle:
    """Opens an installed model, or a folder, to run it with the settings; ``variant``: see ``load``.

    Raises:
        ConfigError: ``model`` is neither a name nor a path.
        ModelNotFoundError: it is not installed; says how to get it.
        ModelError: the bundle is refused.
        MemoryLimitError: it will not fit into memory, and would have to be hashed before that is told.
    """
    if not isinstance(model, (str, os.PathLike)):
        raise ConfigError(f"model must be a name or a folder, not {type(model).__name__}")
    folder = Path(model) if isinstance(model, os.PathLike) else Store().resolve(model)
    return open_bundle(
        folder,
        stamps=stamps_folder(),
        variant=variant,
        before_hashing=lambda manifest: ProcessMemory(runtime).fit(manifest),
    )


class LoadedModel(ABC):
    """The shared half of ``LanguageModel`` and ``EncoderModel``; a context manager.

    Args:
        bundle: an open bundle.

    Attributes:
        bundle: that.
        name: the model's.
        tasks: what it is for.
        fitting: how it is run, and what was changed to fit into memory.
        runtime: its settings.
        context_length: tokens that it takes: the model's own limit, what was asked for, or what memory holds.

    Raises:
        ConfigError: ``runtime.context_length`` is above the model's.
        MemoryLimitError: it does not fit into ``runtime.max_memory``, or into what the machine has left.
        UnsupportedModelError: the model cannot keep its KV cache as ``runtime.kv_cache``.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._tokenizer_fault: str | None = None
        self.name = bundle.manifest.name
        self.tasks = bundle.manifest.tasks

    def __repr__(self) -> str:
        manifest = self.bundle.manifest
        scheme = manifest.quantization["scheme"]
        return (
            f"<{type(self).__name__} {self.name}: {manifest.architecture}, {scheme}, {self.context_length} tokens of "
            f"context, for {', '.join(self.tasks)}>"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def check_memory(self, need: Budget) -> None:
        """Refuses what does not fit into ``max_memory``, or into what the machine has left.

        Raises:
            MemoryLimitError: it does not.
        """
        self._memory.check(need)

    def _fit_memory(self, runtime: RuntimeConfig | None, beside: Beside = nothing_beside) -> None:
        """Settles how the model is run, before anything of it is loaded; see ``RuntimeConfig`` for None.

        Raises:
            ConfigError, MemoryLimitError, UnsupportedModelError: as the class says.
        """
        asked = runtime or RuntimeConfig()
        check_kv_cache(self.bundle.manifest, asked.kv_cache)
        self._memory = ProcessMemory(asked, beside=beside(0))
        self.fitting = self._memory.fit(self.bundle.manifest, beside)
        self.runtime = self.fitting.runtime
        self.context_length = self.fitting.context_length
        self._memory.enter(self.fitting.need)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Text to ids and back; read when first needed.

        Raises:
            ModelError: it is broken, or has tokens that the model does not know.
        """
        from edgelm.runtime.session import give_back_freed_memory
        from edgelm.text_side import read_tokenizer

        if self._tokenizer_fault is not None:
            raise ModelError(self._tokenizer_fault)
        tokenizer = read_tokenizer(self.bundle)
        give_back_freed_memory()
        return tokenizer

    @cached_property
    def special_tokens(self) -> dict[str, str]:
        """The texts of the special tokens by transformers' names (``mask_token``), as far as the bundle has them.

        Raises:
            ModelError: their file cannot be read.
        """
        found = self.bundle.read_json(SPECIAL_TOKENS_NAME) if self.bundle.has(SPECIAL_TOKENS_NAME) else None
        return {role: text for role, text in found.items() if isinstance(text, str)} if isinstance(found, dict) else {}

    def special_token(self, role: str) -> str | None:
        """The text of a special token by transformers' name; None where the model has none."""
        return self.special_tokens.get(role)

    def special_token_id(self, role: str) -> int | None:
        """Its id."""
        token = self.special_token(role)
        return None if token is None else self.tokenizer.token_to_id(token)

    @abstractmethod
    def close(self) -> None:
        """Gives memory back; what is in progress ends with ClosedError. May be called twice."""

    @contextlib.contextmanager
    def _reading_text(self) -> Iterator[None]:
        """Reads the text side, if it is to be, while a graph is loaded, which needs no Python and leaves a core free.

        What fails there fails again, and is told. Under a limit it is read before: what reading takes for a moment
        would come on top of what loading takes.
        """
        if self.runtime.preload_text and self._memory.limited:
            self._read_text()
        if not self.runtime.preload_text or self._memory.limited:
            yield
            return
        thread = threading.Thread(target=self._try_read_text, name="edgelm-text", daemon=True)
        thread.start()
        try:
            yield
        finally:
            thread.join()
        _ = self.tokenizer

    def _try_read_text(self) -> None:
        with contextlib.suppress(EdgeLMError, MemoryError):
            self._read_text()

    def _read_text(self) -> None:
        """What is read ahead."""
        _ = self.tokenizer
