"""Downloads a model of the Hugging Face hub into the hub's own cache, through ``huggingface_hub``.

``HF_HOME``, ``HF_HUB_CACHE``, ``HF_ENDPOINT``, ``HF_TOKEN`` and ``HF_HUB_OFFLINE`` are that library's and mean here
what they mean there. Only weights in safetensors, configuration and tokenizer files are taken: no pickles, no code.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from edgelm.bundle.fetched import Fetched
from edgelm.bundle.files import is_storage_error, make_folder, refuse_lack_of_room, storage_error, tree_size
from edgelm.bundle.hub_content import ListedFile, bytes_to_come, check_cached, check_content
from edgelm.bundle.names import path_fault
from edgelm.bundle.progress import Progress, transfer, watching
from edgelm.bundle.sources import HubSource
from edgelm.bundle.strict_json import load_json
from edgelm.errors import (
    DownloadError,
    EdgeLMError,
    IntegrityError,
    MissingDependencyError,
    ModelNotFoundError,
    UnsupportedModelError,
    how_to_install,
)

_WEIGHTS = "*.safetensors"
_ALLOW = (
    _WEIGHTS,
    "*.json",
    "*.jinja",
    "*.txt",
    "*.spm",
    "tokenizer.model",
    "spiece.model",
    "spm.model",
    "sentencepiece.model",
    "sentencepiece.bpe.model",
)
# Sub-folders hold other formats and the original weights again, but for sentence-transformers' (1_Pooling, 2_Dense);
# "consolidated" files repeat the weights under their authors' own names.
_IGNORE = ("[!0-9]*/*", "[0-9][!_]*/*", "consolidated*", "adapter_*")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_MOST_INDEX_BYTES = 64 << 20
_COMMIT = re.compile(r"[0-9a-f]{40}")


def fetch_hub(source: HubSource, *, offline: bool, progress: Progress) -> Fetched:
    """The repository's snapshot at a commit, from the hub's cache or downloaded; for the errors see ``fetch``."""
    hub = _import_hub()
    if offline or hub.constants.HF_HUB_OFFLINE:
        return _cached(hub, source, "downloading is switched off (offline)", progress)
    try:
        commit, files = _listed(hub, source)
    except _UnreachableError as error:
        return _cached(hub, source, str(error), progress)
    cache = Path(hub.constants.HF_HUB_CACHE)
    repository = cache / f"models--{source.repo.replace('/', '--')}"
    with _hub_errors(hub, source):
        make_folder(cache)
        refuse_lack_of_room(cache, bytes_to_come(repository, commit, files), f"downloading {source.repo}")
    with (
        _hub_errors(hub, source),
        _quiet_bars(hub),
        transfer(progress, f"downloading {source.repo}", _total(files)),
        watching(lambda: tree_size(repository / "blobs"), progress),
    ):
        snapshot = _snapshot(hub, source, local_files_only=False)
    fetched = _pinned(source, snapshot)
    if fetched.revision != commit:  # a branch has moved on since it was asked what it has
        files = _listed(hub, HubSource(source.repo, fetched.revision))[1]
    check_content(snapshot, files, source.uri, progress)
    return fetched


def download_size(source: HubSource) -> int | None:
    """Bytes that the whole download has, as the hub says; None where it does not tell every file's size.

    Raises:
        DownloadError: the hub cannot be reached or refuses.
        MissingDependencyError: huggingface_hub is not installed.
        ModelNotFoundError: no such repository or revision.
        UnsupportedModelError: no safetensors weights.
    """
    return _total(_listed(_import_hub(), source)[1])


class _UnreachableError(DownloadError):
    """The hub gave no answer, so what its cache holds may do."""


def _import_hub() -> ModuleType:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError as error:
        raise MissingDependencyError(
            f"downloading from the hub needs huggingface_hub; {how_to_install('tools')}"
        ) from error
    module: ModuleType = huggingface_hub
    return module


def _listed(hub: ModuleType, source: HubSource) -> tuple[str, dict[str, ListedFile]]:
    """The commit, and of the files that will be downloaded what the hub says of them."""
    with _hub_errors(hub, source):
        info = hub.HfApi().model_info(source.repo, revision=source.revision, files_metadata=True)
    if not _COMMIT.fullmatch(info.sha or ""):
        raise DownloadError(
            f"{source.uri}: what answered names no commit, so it is not a hub: {hub.constants.ENDPOINT}"
        )
    files = {
        file.rfilename: ListedFile(file.size, None if file.lfs is None else file.lfs.sha256, file.blob_id)
        for file in info.siblings or ()
    }
    wanted = {name: files[name] for name in files if _is_wanted(name)}
    for name in wanted:
        fault = path_fault(name)
        if fault is not None:
            raise DownloadError(f"{source.uri} lists the file {name!r:.200}, whose name {fault}")
    if not any(_matches(name, (_WEIGHTS,)) for name in wanted):
        raise UnsupportedModelError(_no_weights(source, files))
    return info.sha, wanted


def _total(files: Mapping[str, ListedFile]) -> int | None:
    known = [file.size for file in files.values() if file.size is not None]
    return sum(known) if len(known) == len(files) else None


def _no_weights(source: HubSource, names: Iterable[str]) -> str:
    if any(_matches(name, _PICKLES) for name in names):
        return (
            f"{source.uri} has its weights only as pickles, which can run code; EdgeLM takes safetensors "
            "(the hub offers a converted copy of many as a pull request: look there, and give @refs/pr/NUMBER)"
        )
    return f"{source.uri} has no weights in safetensors"


def _is_wanted(name: str) -> bool:
    return _matches(name, _ALLOW) and not _matches(name, _IGNORE)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def _snapshot(hub: ModuleType, source: HubSource, *, local_files_only: bool) -> Path:
    folder = hub.snapshot_download(
        source.repo,
        revision=source.revision,
        allow_patterns=list(_ALLOW),
        ignore_patterns=list(_IGNORE),
        local_files_only=local_files_only,
    )
    return Path(folder)


def _cached(hub: ModuleType, source: HubSource, why: str, progress: Progress) -> Fetched:
    """The snapshot in the hub's cache; ``why`` says why nothing can be downloaded."""
    try:
        with _hub_errors(hub, source):
            snapshot = _snapshot(hub, source, local_files_only=True)
    except _UnreachableError as error:
        raise DownloadError(f"{source.uri} is not in the hub's cache, and {why}") from error
    if not _is_whole(snapshot):
        raise DownloadError(f"{source.uri} is only partly in the hub's cache, and {why}")
    present = (path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file())
    check_cached(snapshot, filter(_is_wanted, present), source.uri, progress)
    return _pinned(source, snapshot)


def _is_whole(snapshot: Path) -> bool:
    """Whether the configuration and all weights are there: older hub libraries return partial snapshots."""
    shards = {path.name for path in snapshot.glob(_WEIGHTS)}
    for index in snapshot.glob("*.safetensors.index.json"):
        try:
            document = load_json(index.read_bytes(), what=index.name, limit=_MOST_INDEX_BYTES)
            needed = set(document["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False
        if not needed <= shards:
            return False
    return bool(shards) and (snapshot / "config.json").is_file()


def _pinned(source: HubSource, snapshot: Path) -> Fetched:
    """The hub's cache names the folder of a snapshot by its commit."""
    commit = snapshot.name
    asked = source.revision or ""
    if not _COMMIT.fullmatch(commit) or (_COMMIT.fullmatch(asked) and commit != asked):
        raise IntegrityError(f"{source.uri} came as the revision {commit!r:.80}, which is not what was asked for")
    return Fetched(path=snapshot, uri=f"hf:{source.repo}", revision=commit)


@contextmanager
def _quiet_bars(hub: ModuleType) -> Iterator[None]:
    """The bars are the command line's to draw; a user who forces the hub's own (variable set to 0) keeps them."""
    forced = hub.constants.HF_HUB_DISABLE_PROGRESS_BARS is False
    if forced or hub.utils.are_progress_bars_disabled():
        yield
        return
    hub.utils.disable_progress_bars()
    try:
        yield
    finally:
        hub.utils.enable_progress_bars()


@contextmanager
def _hub_errors(hub: ModuleType, source: HubSource) -> Iterator[None]:
    # The transport's base class is that of requests, httpx or httpx2, after the version of huggingface_hub. An answer
    # that is not the hub's (a login page, another API) ends as ValueError, KeyError or TypeError in that library, a
    # failure of its Rust transport as RuntimeError.
    transport = hub.errors.HfHubHTTPError.__bases__[0]
    try:
        yield
    except EdgeLMError:
        raise
    except (transport, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise _translated(hub, source, error) from error


def _translated(hub: ModuleType, source: HubSource, error: Exception) -> EdgeLMError:
    errors = hub.errors
    if isinstance(error, errors.GatedRepoError):
        page = f"{hub.constants.ENDPOINT}/{source.repo}"
        return DownloadError(f"{source.uri} is gated: accept its licence at {page}, then set HF_TOKEN to your token")
    if isinstance(error, errors.LocalEntryNotFoundError):  # in some versions an HfHubHTTPError without an answer
        return _UnreachableError(f"the hub cannot be reached: {_first_line(error)}")
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelNotFoundError(f"hf:{source.repo} has no revision {source.revision!r}")
    if isinstance(error, errors.HfHubHTTPError):
        return _refused(source, error)
    if isinstance(error, errors.HFValidationError):
        return ModelNotFoundError(f"{source.uri} is not a name that the hub can have: {_first_line(error)}")
    if isinstance(error, OSError) and is_storage_error(error):
        return storage_error(error, Path(hub.constants.HF_HUB_CACHE))
    if isinstance(error, (ValueError, KeyError, TypeError)) and not isinstance(error, OSError):
        return _UnreachableError(f"what answers at {hub.constants.ENDPOINT} is no hub: {_first_line(error)}")
    return _UnreachableError(f"the connection to the hub failed: {_first_line(error)}")


def _refused(source: HubSource, error: Any) -> EdgeLMError:
    status = getattr(error.response, "status_code", None)
    if status in (401, 403):
        return DownloadError(
            f"the hub gives no access to {source.uri}: check the name; if it is private or gated, "
            "accept its licence on its page and set HF_TOKEN to your token"
        )
    if status == 404:
        return ModelNotFoundError(f"the hub has no model {source.repo}")
    if isinstance(status, int) and status >= 500:
        return _UnreachableError(f"the hub answered {status} for {source.uri}")
    return DownloadError(f"the hub refused {source.uri}: {_first_line(error)}")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{lines[0]:.300}" if lines else type(error).__name__
