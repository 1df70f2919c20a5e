"""``--prompt-cache``: what was computed of a prompt is kept in a file, as in llama.cpp, for the next process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgelm.cli import console
from edgelm.cli.options import option
from edgelm.cli.output_file import OUTPUT_FILE
from edgelm.errors import BundleExistsError, CacheFileError, ConfigError, MemoryLimitError

if TYPE_CHECKING:
    from edgelm.language_model import LanguageModel

_SUFFIX = ".kv"


def prompt_cache_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--prompt-cache``; the function gets a path, or None."""
    return option(
        "Prompt",
        "--prompt-cache",
        metavar="FILE",
        type=OUTPUT_FILE,
        help="Keep what was computed of the prompt in a file, and begin with it. Made if it is not there.",
    )(function)


@contextmanager
def kept_in(
    file: Path | None, lm: LanguageModel, *, verbose: bool, of: Callable[[], list[int]] | None = None
) -> Iterator[None]:
    """Loads the file, if there is one, and writes what was computed last when the block ends, also early.

    ``of``: the tokens, at the end, of which alone something may be written; None: whatever was computed last.

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
        _write(lm, file, None if of is None else of(), verbose=verbose)


def _write(lm: LanguageModel, file: Path, ids: list[int] | None, *, verbose: bool) -> None:
    try:
        tokens = _save(lm, file, ids)
    except CacheFileError as error:  # as after beams: what there is stays
        console.say(f"{file}: not written; {error}")
    else:
        if verbose:
            console.say(f"{file}: {tokens} tokens written")


def _save(lm: LanguageModel, file: Path, ids: list[int] | None) -> int:
    if ids is None:
        return lm.save_cache(file)
    if not ids:
        raise CacheFileError("there is no KV cache to save: the conversation is empty")
    return lm.save_cache(file, ids, compute=False)


def check_beside(conversation: Path) -> None:
    """Refuses names with which conversation and cache would be mistaken for each other, or for another file.

    Raises:
        ConfigError: the conversation's ends as a cache's does.
        BundleExistsError: there is a file of the cache's name that is none.
    """
    from edgelm.runtime.cache_file import is_saved_cache

    file = _beside(conversation)
    if conversation.suffix == _SUFFIX:
        other = conversation.with_suffix(".json")
        raise ConfigError(
            f"the name is that of the conversation, and its cache goes into another file, with {_SUFFIX} behind the "
            f"name: choose one without {_SUFFIX}, such as {other}"
        )
    if file.exists() and not is_saved_cache(file):
        raise BundleExistsError(f"{file} exists and is no saved KV cache; choose another name")


def save_beside(lm: LanguageModel, conversation: Path, ids: list[int]) -> None:
    """Writes what is kept of a conversation's tokens beside its file; where that is nothing, no file is left there.

    Raises:
        UnsupportedModelError: the model's cache cannot be saved.
        StorageError: it cannot be written.
    """
    file = _beside(conversation)
    try:
        console.say(f"{_save(lm, file, ids)} computed tokens saved to {file}")
    except CacheFileError as error:
        replaced = file.exists()
        file.unlink(missing_ok=True)
        console.say(f"{error}; {f'{file} of before is deleted' if replaced else f'{file} is not written'}")


def tell_older(conversation: Path) -> None:
    """Says where a cache lies beside a conversation that was just replaced, as it may hold what is said no more."""
    file = _beside(conversation)
    if file.exists():
        console.say(f"{file} is of before, and stays as it is; /save --cache replaces it")


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
    return conversation.with_name(f"{conversation.name}{_SUFFIX}")
