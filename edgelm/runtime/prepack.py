"""A copy of a graph with its weights in the layout that this processor computes with, kept in the cache.

The runtime maps such weights straight from the file: it starts faster, and memory is shared between processes and can
be taken back by the system. The layout belongs to one version of the runtime and one kind of processor, so a copy is
made once a machine, in a process of its own whose memory is given back.

Beside a copy lies a record of its files: one that was cut or changed would be garbage, or end the process, once it is
mapped. The small graph is summed at every start; of the weights, size and time must be those of the record.
"""

from __future__ import annotations

import binascii
import json
import platform
from pathlib import Path

from edgelm.bundle.bundle import Bundle
from edgelm.bundle.home import prepacked_folder
from edgelm.bundle.publish import heal, publishing
from edgelm.bundle.regular_file import read_file
from edgelm.bundle.strict_json import load_json
from edgelm.errors import BundleExistsError, EdgeLMError, ModelError, StorageError, UnsupportedModelError
from edgelm.runtime.child import NoChildError, limit_own_memory, run_child, seconds_for
from edgelm.runtime.session import RUNTIME_VERSION, Session

GRAPH_NAME = "graph.onnx"
RECORD_NAME = "copy.json"
_MAX_RECORD_BYTES = 1 << 16
_CPU_INFO = Path("/proc/cpuinfo")


def prepacked_path(bundle: Bundle, role: str) -> Path:
    """Where the copy of a bundle's graph is, or would be: its hash, the runtime and the processor name it.

    Raises:
        UnsupportedModelError: the folder is of another tool, which lists no hashes.
    """
    file_name = bundle.manifest.graphs[role]
    if not bundle.manifest.files[file_name].sha256:
        raise UnsupportedModelError(f"{bundle.folder} lists no hashes, by which a copy of its graphs would be known")
    hashes = [bundle.manifest.files[name].sha256[:16] for name in _files(bundle, role)]
    processor = f"{binascii.crc32(_processor().encode()):08x}"
    return prepacked_folder() / "-".join([*hashes, RUNTIME_VERSION, processor]) / GRAPH_NAME


def prepack(bundle: Bundle, role: str, *, max_memory: int | None = None) -> Path:
    """Makes the copy if there is no whole one yet, and returns its path.

    Args:
        bundle: of our own graphs.
        role: of its graphs.
        max_memory: bytes that the child process may allocate beside the mapped weights; None: what the machine has.

    Raises:
        UnsupportedModelError: see ``prepacked_path``.
        StorageError: the cache cannot be written.
        LockedError: another process is making it right now.
        EdgeLMError: the child process failed, or took longer than weights of that size ever do; carries its last line.
    """
    path = prepacked_path(bundle, role)
    if _is_whole(path.parent):
        heal(path.parent)  # of what a killed process has left beside it
        return path
    try:
        with publishing(path.parent, force=True, marker=GRAPH_NAME) as folder:
            if _is_whole(path.parent):
                raise BundleExistsError("another process was quicker")
            weights = sum(bundle.manifest.files[name].size for name in _files(bundle, role))
            _make(bundle.path(bundle.manifest.graphs[role]), folder / GRAPH_NAME, weights, max_memory)
            (folder / RECORD_NAME).write_text(json.dumps(_record(folder)))
    except BundleExistsError as error:
        if not _is_whole(path.parent):
            raise StorageError(str(error)) from error
    return path


def try_prepack(bundle: Bundle, role: str, *, max_memory: int | None = None) -> Path | None:
    """Like ``prepack``, but None where no copy can be had: a model runs without one, only slower to start."""
    try:
        return prepack(bundle, role, max_memory=max_memory)
    except EdgeLMError:
        return None


def graph_to_load(bundle: Bundle, role: str, *, prepack: bool) -> tuple[Path, bool]:
    """The graph to load: the copy where one can be had and ``prepack`` asks for it; and whether to optimize it yet."""
    copy = try_prepack(bundle, role) if prepack else None
    return (bundle.path(bundle.manifest.graphs[role]), True) if copy is None else (copy, False)


def write_copy(source: str, target: str, limits: str) -> None:
    """Writes the copy of the graph ``source``: what the child process does; ``limits``: see ``_make``."""
    limit_own_memory(**json.loads(limits))
    Session(Path(source), threads=1, optimized_to=Path(target)).close()


def _make(source: Path, target: Path, weights: int, max_memory: int | None) -> None:
    """Has a child process write the copy; operators on constants alone are computed there, however large."""
    what = f"the prepacked copy of {source.name} could not be made"
    limits = json.dumps({"most": max_memory, "mapped": weights})
    command = ("edgelm.runtime.prepack", "write_copy", str(source), str(target), limits)
    try:
        ended = run_child(*command, seconds=seconds_for(weights))
    except (NoChildError, OSError) as error:
        raise EdgeLMError(f"{what}: {error}") from error
    if ended.code != 0:
        raise EdgeLMError(f"{what}: {(ended.last_line or f'its process {ended}')[:200]}")


def _files(bundle: Bundle, role: str) -> list[str]:
    """The files of a graph: its own, and those that hold its weights."""
    return [bundle.manifest.graphs[role], *sorted(bundle.graphs[role].external_files)]


def _record(folder: Path) -> dict[str, list[int]]:
    """What is known of each file of a copy: the graph's size and checksum, the others' size and time."""
    record = {}
    for path in folder.iterdir():
        if path.name == GRAPH_NAME:
            graph = path.read_bytes()
            record[path.name] = [len(graph), binascii.crc32(graph)]
        elif path.name != RECORD_NAME:
            status = path.stat()
            record[path.name] = [status.st_size, status.st_mtime_ns]
    return record


def _is_whole(folder: Path) -> bool:
    try:
        data = read_file(folder, RECORD_NAME, limit=_MAX_RECORD_BYTES)
        return bool(load_json(data, what=RECORD_NAME, limit=_MAX_RECORD_BYTES) == _record(folder))
    except (ModelError, OSError):
        return False


def _processor() -> str:
    """What tells kinds of processors apart: machine and instruction sets."""
    try:
        lines = _CPU_INFO.read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()} {features}"
