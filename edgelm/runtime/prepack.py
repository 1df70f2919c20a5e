"""A copy of a graph with its weights in the layout that this processor computes with, kept in the cache.

The runtime maps such weights straight from the file: it starts faster, and memory is shared between processes and can
be taken back by the system. The layout belongs to one version of the runtime and one kind of processor, so a copy is
made once a machine, in a process of its own whose memory is given back.
"""

from __future__ import annotations

import binascii
import platform
import sys
from pathlib import Path

from edgelm.bundle.bundle import Bundle
from edgelm.bundle.home import prepacked_folder
from edgelm.bundle.publish import publishing
from edgelm.errors import BundleExistsError, EdgeLMError, LockedError, StorageError
from edgelm.runtime.session import RUNTIME_VERSION, Session

GRAPH_NAME = "graph.onnx"
_CPU_INFO = Path("/proc/cpuinfo")


def prepacked_path(bundle: Bundle, role: str) -> Path:
    """Where the copy of a bundle's graph is, or would be: its hash, the runtime and the processor name it."""
    file_name = bundle.manifest.graphs[role]
    graph = bundle.graphs[role]
    hashes = [bundle.manifest.files[name].sha256[:16] for name in (file_name, *sorted(graph.external_files))]
    processor = f"{binascii.crc32(_processor().encode()):08x}"
    return prepacked_folder() / "-".join([*hashes, RUNTIME_VERSION, processor]) / GRAPH_NAME


def prepack(bundle: Bundle, role: str) -> Path:
    """Makes the copy if it is not there yet and returns its path.

    Raises:
        StorageError: the cache cannot be written.
        LockedError: another process is making it right now.
        EdgeLMError: the child process failed; carries its last line.
    """
    path = prepacked_path(bundle, role)
    if path.exists():
        return path
    try:
        with publishing(path.parent, marker=GRAPH_NAME) as folder:
            import subprocess  # only the first start on a machine needs it

            source = bundle.path(bundle.manifest.graphs[role])
            command = [sys.executable, "-m", "edgelm.runtime.prepack", str(source), str(folder / GRAPH_NAME)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                raise EdgeLMError(f"the prepacked copy of {source.name} could not be made: {last[:200]}")
    except BundleExistsError:  # another process was quicker
        return path
    return path


def try_prepack(bundle: Bundle, role: str) -> Path | None:
    """Like ``prepack``, but None where no copy can be kept: a model runs without one, only slower to start."""
    try:
        return prepack(bundle, role)
    except (StorageError, LockedError):
        return None


def _processor() -> str:
    """What tells kinds of processors apart: machine and instruction sets."""
    try:
        lines = _CPU_INFO.read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()} {features}"


if __name__ == "__main__":
    Session(Path(sys.argv[1]), threads=1, optimized_to=Path(sys.argv[2])).close()
