"""The memory that this process may come to use on this machine: what is free, control groups, resource limits.

Linux tells all of it; other systems at most how much memory there is. The parsers are pure functions over the text of
the system's files.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

_PROC = Path("/proc")
# Control groups without a limit say "max", or in version 1 the largest number of pages that there can be.
_NO_LIMIT = 1 << 60
# Of each version: the limits of a group, and what it uses.
_FILES = {
    "cgroup2": (("memory.max", "memory.high"), "memory.current"),
    "cgroup": (("memory.limit_in_bytes",), "memory.usage_in_bytes"),
}
# Lines of memory.stat, of either version: files that are kept in memory, and which of them cannot be given up at once.
_KEPT = (("inactive_file", "active_file"), ("total_inactive_file", "total_active_file"))
_IN_USE = (("file_mapped", "file_dirty"), ("total_mapped_file", "total_dirty"))


class MemoryBound(NamedTuple):
    """Something that bounds this process.

    Attributes:
        source: what, for people: ``the memory available on this machine``.
        nbytes: the resident memory that the process may come to have in all, what it has already included.
    """

    source: str
    nbytes: int


class MemoryGroup(NamedTuple):
    """A control group that counts this process: ``version`` is the kind of file system that it lies in."""

    folder: Path
    version: str


def usable_memory() -> MemoryBound | None:
    """The tightest bound right now; None where the system tells of none."""
    return min(memory_bounds(), key=lambda bound: bound.nbytes, default=None)


def memory_bounds() -> list[MemoryBound]:
    """All that bounds this process right now, as far as the system tells."""
    status = _read(_PROC / "self/status")
    resident = status_bytes(status, "VmRSS") or 0
    bounds = [*_bounds_of_machine(status), *_bounds_of_groups(), *_bounds_of_limits()]
    return [MemoryBound(source, resident + max(0, free)) for source, free in bounds]


def resident_memory() -> int:
    """Bytes of memory that this process has right now; 0 where the system does not tell."""
    return status_bytes(_read(_PROC / "self/status"), "VmRSS") or 0


def address_room() -> dict[str, int]:
    """Bytes of addresses that resource limits leave, by name; only those that are set.

    They count more than memory: what is mapped, or reserved, and never used.
    """
    if sys.platform == "win32":
        return {}
    import resource

    status = _read(_PROC / "self/status")
    room = {}
    for name, counted in (("RLIMIT_AS", "VmSize"), ("RLIMIT_DATA", "VmData")):
        limit, _ = resource.getrlimit(getattr(resource, name))
        used = status_bytes(status, counted)
        if used is not None and limit != resource.RLIM_INFINITY:
            room[name] = limit - used
    return room


def address_limits_told() -> str:
    """What to put behind it where memory ran out: limits of addresses may be why; empty where none is set."""
    names = " and ".join(address_room())
    return f"; what ulimit sets ({names}) counts all addresses, also of memory that is never used" if names else ""


def available_bytes(meminfo: str) -> int | None:
    """Bytes that new processes may take without swapping, by ``/proc/meminfo``."""
    return status_bytes(meminfo, "MemAvailable")


def status_bytes(text: str, name: str) -> int | None:
    """Bytes of the line ``name`` of ``/proc/meminfo`` or ``/proc/PID/status``."""
    found = re.search(rf"^{re.escape(name)}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def memory_groups(cgroup: str, mountinfo: str) -> list[MemoryGroup]:
    """The control groups that count a process's memory, its own first and then those above it.

    Args:
        cgroup: ``/proc/PID/cgroup``: lines ``number:controllers:path``.
        mountinfo: ``/proc/PID/mountinfo``, by which the groups' folders are found.
    """
    groups: list[MemoryGroup] = []
    for line in cgroup.splitlines():
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        if number == "0" and not controllers:
            version = "cgroup2"
        elif "memory" in controllers.split(","):
            version = "cgroup"
        else:
            continue
        for root, mount in _mounts(mountinfo, version):
            groups += [MemoryGroup(folder, version) for folder in _from_inside_out(path, root, mount)]
    return groups


def group_free_bytes(limits: list[str], current: str, stat: str, version: str = "cgroup2") -> int | None:
    """Bytes that a control group has left; None: it has no limit.

    Args:
        limits: what its files of limits say; "max" and nothing are no limit.
        current: bytes that it uses, files included that are kept in memory and given up where it gets short.
        stat: its ``memory.stat``.
        version: see ``MemoryGroup``.
    """
    known = [int(text) for text in limits if text.strip().isdecimal()]
    if not known or min(known) >= _NO_LIMIT or not current.strip().isdecimal():
        return None
    kept, in_use = (sum(_stat(stat, name) for name in lines[version == "cgroup"]) for lines in (_KEPT, _IN_USE))
    return min(known) - (int(current) - max(0, kept - in_use))


def _stat(stat: str, name: str) -> int:
    found = re.search(rf"^{name} (\d+)$", stat, re.MULTILINE)
    return int(found[1]) if found else 0


def _bounds_of_machine(status: str) -> Iterator[tuple[str, int]]:
    free = available_bytes(_read(_PROC / "meminfo"))
    if free is not None:
        yield "the memory available on this machine", free
        return
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return
    yield "the memory of this machine", total - (status_bytes(status, "VmRSS") or 0)


def _bounds_of_groups() -> Iterator[tuple[str, int]]:
    for group in memory_groups(_read(_PROC / "self/cgroup"), _read(_PROC / "self/mountinfo")):
        limits, current = _FILES[group.version]
        texts = [_read(group.folder / name) for name in limits]
        stat = _read(group.folder / "memory.stat")
        free = group_free_bytes(texts, _read(group.folder / current), stat, group.version)
        if free is not None:
            yield f"the room in the control group {group.folder}", free


def _bounds_of_limits() -> Iterator[tuple[str, int]]:
    for name, free in address_room().items():
        yield f"the room under the resource limit {name}", free


def _mounts(mountinfo: str, version: str) -> Iterator[tuple[str, Path]]:
    """(What of the hierarchy is mounted, where) of each mount that counts memory."""
    for line in mountinfo.splitlines():
        fields, _, behind = line.partition(" - ")
        kind, _, options = (*behind.split(" ", 2), "", "", "")[:3]
        parts = fields.split(" ")
        if kind == version and len(parts) > 4 and (version == "cgroup2" or "memory" in options.split(",")):
            yield _unescaped(parts[3]), Path(_unescaped(parts[4]))


def _from_inside_out(path: str, root: str, mount: Path) -> list[Path]:
    """The folders of a group and of those above it, as far as they are mounted."""
    group, top = PurePosixPath(path), PurePosixPath(root)
    # In a container the path may be one outside of what is mounted: its own group is then the mount itself.
    inside = group.relative_to(top) if group.is_relative_to(top) and ".." not in group.parts else PurePosixPath()
    return [mount / folder for folder in (inside, *inside.parents)]


def _unescaped(field: str) -> str:
    """A field of mountinfo, in which spaces and the like are octal."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def _read(path: Path) -> str:
    """The text of one of the system's files; empty where it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
