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
from edgelm.errors import ConfigError, EdgeLMError
from edgelm.runtime.int8_cache import check_kv_cache

if TYPE_CHECKING:
    from edgelm.text.tokenizer import Tokenizer

SPECIAL_TOKENS_NAME = "special_tokens.json"
# A model must at least be able to hold a short text, or a short prompt and answer.
LEAST_TOKENS = 256


def find_bundle(model: str | os.PathLike[str], variant: str | None) -> Bundle:
    """Opens an installed model, or a folder; ``variant``: see ``load``.

    Raises:
        ConfigError: ``model`` is neither a name nor a path.
        ModelNotFoundError: it is not installed; says how to get it.
        ModelError: the bundle is refused.
    """
    if not isinstance(model, (str, os.PathLike)):
        raise ConfigError(f"model must be a name or a folder, not {type(model).__name__}")
    folder = Path(model) if isinstance(model, os.PathLike) else Store().resolve(model)
    return open_bundle(folder, stamps=stamps_folder(), variant=variant)


class LoadedModel(ABC):
    """The shared half of ``LanguageModel`` and ``EncoderModel``; a context manager.

    Args:
        bundle: an open bundle.
        runtime: how to run it; None: the defaults.

    Attributes:
        bundle, runtime: those.
        name: the model's.
        tasks: what it is for.
        context_length: tokens that it takes: the model's own limit, or ``runtime.context_length``.

    Raises:
        ConfigError: ``runtime.context_length`` is above the model's.
        UnsupportedModelError: the model cannot keep its KV cache as ``runtime.kv_cache``.
    """

    def __init__(self, bundle: Bundle, runtime: RuntimeConfig | None) -> None:
        self.bundle = bundle
        self.runtime = runtime or RuntimeConfig()
        self.name = bundle.manifest.name
        self.tasks = bundle.manifest.tasks
        most = bundle.manifest.context_length
        check_kv_cache(bundle.manifest, self.runtime.kv_cache)
        self.context_length = self.runtime.context_length or most
        if self.context_length > most:
            raise ConfigError(f"context_length must be at most {most} for {self.name}, not {self.context_length}")

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

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Text to ids and back; read when first needed.

        Raises:
            ModelError: it is broken, or has tokens that the model does not know.
        """
        from edgelm.text_side import read_tokenizer

        return read_tokenizer(self.bundle)

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

        What fails there fails again, and is told.
        """
        if not self.runtime.preload_text:
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
        with contextlib.suppress(EdgeLMError):
            self._read_text()

    def _read_text(self) -> None:
        """What is read ahead."""
        _ = self.tokenizer
