"""Every error that EdgeLM raises on purpose. Each is also the built-in a caller would expect.

EdgeLMError                          exit code 1
├── ConfigError (ValueError)                   2  a setting out of range or unknown
├── ModelError (ValueError)                    2  a bundle or checkpoint is refused
│   ├── ModelNotFoundError (LookupError)          no such model; names the near ones
│   ├── ManifestError                             edgelm.json breaks a rule
│   ├── IntegrityError                            a file's size or hash is not the manifest's
│   └── UnsupportedModelError                     sound, but not something EdgeLM can run or convert
├── PromptError (ValueError)                   2  a prompt cannot be taken: bad ids, bad encoding
│   └── ContextLengthError                        longer than the context window
├── TemplateError (ValueError)                 2  a chat template is missing, fails or misbehaves
├── CacheFileError (ValueError)                2  a saved KV cache is broken, or another model's
├── MissingDependencyError (ImportError)       2  an extra is not installed; carries the pip command
├── BundleExistsError (FileExistsError)        2  the target exists and was not to be replaced
├── LockedError (BlockingIOError)              1  another process is writing the same target
├── MemoryLimitError (MemoryError)             3  does not fit; says need and limit in bytes
├── StorageError (OSError)                     4  disk full, read-only, or a write that failed
├── DownloadError (ConnectionError)            1  a source cannot be reached or does not answer
├── NumericError (ArithmeticError)             1  the graph returned NaN or infinity
├── ClosedError (RuntimeError)                 1  used after close()
└── CancelledError (RuntimeError)            130  the run was cancelled
"""

from __future__ import annotations

from pathlib import Path


class EdgeLMError(Exception):
    """Base of all of them; ``exit_code`` is what the command line ends with."""

    exit_code = 1


class ConfigError(EdgeLMError, ValueError):
    """A setting is out of range, unknown or contradicts another."""

    exit_code = 2


class ModelError(EdgeLMError, ValueError):
    """A bundle or a checkpoint is refused."""

    exit_code = 2


class ModelNotFoundError(ModelError, LookupError):
    """No model of that name is in the store or the catalog."""


class ManifestError(ModelError):
    """``edgelm.json`` is not readable or breaks a rule."""


class IntegrityError(ModelError):
    """A file is not the one its manifest or catalog entry names."""


class UnsupportedModelError(ModelError):
    """The model is sound but of a kind that EdgeLM does not run or convert."""


class PromptError(EdgeLMError, ValueError):
    """The prompt cannot be taken as it is.

    ``place``: of several texts, the number of the one at fault, counted from 0; the message calls it ``text N``.
    """

    exit_code = 2

    def __init__(self, *message: object, place: int | None = None) -> None:
        super().__init__(*message)
        self.place = place


class ContextLengthError(PromptError):
    """The prompt is longer than the context window."""


class TemplateError(EdgeLMError, ValueError):
    """A chat template is missing, fails, or tries what it must not."""

    exit_code = 2


class CacheFileError(EdgeLMError, ValueError):
    """A saved KV cache cannot be read, is broken, or is another model's; or there is none to save."""

    exit_code = 2


class MissingDependencyError(EdgeLMError, ImportError):
    """An optional dependency is not installed; the message carries the pip command."""

    exit_code = 2


class BundleExistsError(EdgeLMError, FileExistsError):
    """The target exists, and replacing it was not asked for."""

    exit_code = 2


class LockedError(EdgeLMError, BlockingIOError):
    """Another process is writing the same target.

    ``target``: what it is writing; None where nobody said.
    """

    def __init__(self, *message: object, target: Path | None = None) -> None:
        super().__init__(*message)
        self.target = target


class MemoryLimitError(EdgeLMError, MemoryError):
    """The model does not fit into the memory it was given."""

    exit_code = 3


class StorageError(EdgeLMError, OSError):
    """The disk is full or read-only, or a write failed."""

    exit_code = 4


class DownloadError(EdgeLMError, ConnectionError):
    """A source cannot be reached, or what it sent is not what was asked for."""


class NumericError(EdgeLMError, ArithmeticError):
    """The graph returned NaN or infinity where numbers were due."""


class ClosedError(EdgeLMError, RuntimeError):
    """The model was used after ``close()``."""


class CancelledError(EdgeLMError, RuntimeError):
    """The run was cancelled before it ended."""

    exit_code = 130


def how_to_install(extra: str) -> str:
    """How one of EdgeLM's extras is installed, from a package index or from a clone."""
    commands = f"pip install 'edgelm[{extra}]', or in a clone: pip install '.[{extra}]'"
    return f"install EdgeLM with its extra {extra!r}: {commands}"
