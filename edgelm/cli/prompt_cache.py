"""``--prompt-cache``: what was computed of a prompt is kept in a file, as in llama.cpp, for the next process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgelm.cli import console
from edgelm.cli.options import option
from edgelm.errors import BundleExistsError, CacheFileError, MemoryLimitError

if TYPE_CHECKING:
    from edgelm.language_model import LanguageModel


def prompt_cache_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--prompt-cache``; the function gets a path, or None."""
    return option(
        "Prompt",
        "--prompt-cache",
        metavar="FILE",
        callback=lambda context, parameter, value: None if value is None else Path(value).expanduser(),
        help="Keep what was computed of the prompt in a file, and begin with it. Made if it is not there.",
    )(function)


@contextmanager
def kept_in(file: Path | None, lm: LanguageModel, *, verbose: bool) -> Iterator[None]:
    """Loads the file, if there is one, and writes what was computed last when the block ends, also early.

    Raises:
        CacheFileError: the file is broken, or another model's.
        StorageError: it cannot be written.
        Others: see ``LanguageModel.load_cache``.
    """
    if file is None:
        yield
        return
    if file.exists():
        tokens = lm.load_cache(file)
        if verbose:
            console.say(f"{file}: {tokens} tokens of a prompt that was computed before")
    try:
        yield
    finally:
        _write(lm, file, verbose=verbose)


def _write(lm: LanguageModel, file: Path, *, verbose: bool) -> None:
    try:
        tokens = lm.save_cache(file)
    except CacheFileError as error:  # as after beams: what there is stays
        console.say(f"{file}: not written; {error}")
    else:
        if verbose:
            console.say(f"{file}: {tokens} tokens written")


def save_beside(lm: LanguageModel, conversation: Path) -> None:
    """Writes what was computed last beside the file of a conversation.

    Raises:
        BundleExistsError: there is a file of that name that is none of these.
        CacheFileError: nothing was computed yet.
        StorageError: it cannot be written.
    """
    from edgelm.runtime.cache_file import is_saved_cache

    file = _beside(conversation)
    if file.exists() and not is_saved_cache(file):
        raise BundleExistsError(f"{file} exists and is no saved KV cache; choose another name")
    console.say(f"{lm.save_cache(file)} computed tokens saved to {file}")


def load_beside(lm: LanguageModel, conversation: Path) -> None:
    """Loads what lies beside the file of a conversation, if anything; what is of no use is told, and computed anew."""
    file = _beside(conversation)
    if not file.exists():
        return
    try:
        console.say(f"{lm.load_cache(file)} computed tokens loaded from {file}")
    except (CacheFileError, MemoryLimitError) as error:
        console.say(f"the conversation is computed anew: {error}")


def _beside(conversation: Path) -> Path:
    return conversation.with_name(f"{conversation.name}.kv")
