"""What this machine computes with: cores, instruction sets, and how fast its memory is read."""

from __future__ import annotations

import os
import platform
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgelm.runtime.cores import available_cores, cores_within, cpu_quota, runnable_cores, system_text

_CPU_INFO = Path("/proc/cpuinfo")
# The kernel's names → those of the manuals, of what ONNX Runtime computes with.
_FLAGS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx_vnni": "AVX-VNNI",
    "avx512_vnni": "AVX-512 VNNI",
    "amx_int8": "AMX",
    "asimd": "NEON",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "sve": "SVE",
}
_X86 = ("x86_64", "amd64")
_ARM = ("arm64", "aarch64")
# One multiply of four pairs of bytes, or a whole tile, in one instruction.
_INT8_PRODUCTS = {"AVX-VNNI", "AVX-512 VNNI", "AMX", "dotprod", "i8mm"}
_MAX_NAME = 200
# Far larger than the caches, together, of machines that models run on.
_BUFFER_BYTES = 64 << 20
_LEAST_BUFFER_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Processor:
    """The processor as this process may use it.

    Attributes:
        name: the maker's; empty where the system does not tell.
        architecture: such as ``x86_64``.
        logical_cores: all of the machine's; None: not known.
        physical_cores: without those that share a core; None: not known.
        usable_cores: those that this process may run on.
        quota: cores' worth of time that its control group has; None: no limit.
        instruction_sets: those that matter here, by the manuals' names.
    """

    name: str
    architecture: str
    logical_cores: int | None
    physical_cores: int | None
    usable_cores: int
    quota: float | None
    instruction_sets: tuple[str, ...]

    @property
    def threads(self) -> int:
        """As many as models use unless told otherwise."""
        return cores_within(self.usable_cores, self.quota)

    @property
    def consequence(self) -> str:
        """What the instruction sets mean for models in int8."""
        found = set(self.instruction_sets)
        if found & _INT8_PRODUCTS:
            return "int8 products take one instruction: prompts are read at full speed"
        if "AVX2" in found or "NEON" in found:
            return "no int8 dot products: prompts are read more slowly, answers hardly are; results stay exact"
        if self.architecture.lower() in (*_X86, *_ARM) and found:
            return "no AVX2: int8 models are slow here"
        return "instruction sets are not known on this system"


def processor() -> Processor:
    """Reads what the system tells."""
    text = system_text(_CPU_INFO)
    return Processor(
        name=_field(text, "model name") or platform.processor(),
        architecture=platform.machine(),
        logical_cores=os.cpu_count(),
        physical_cores=physical_cores(text),
        usable_cores=runnable_cores(),
        quota=cpu_quota(),
        instruction_sets=instruction_sets(text),
    )


def instruction_sets(cpu_info: str) -> tuple[str, ...]:
    """Those of ``/proc/cpuinfo`` that matter; where there is none, what every such processor has."""
    flags = (_field(cpu_info, "flags") or _field(cpu_info, "Features")).split()
    if not flags and platform.machine().lower() in _ARM:
        return ("NEON",)
    return tuple(name for flag, name in _FLAGS.items() if flag in flags)


def physical_cores(cpu_info: str) -> int | None:
    """Different pairs of package and core in ``/proc/cpuinfo``; None where it does not tell."""
    package, found = "0", set()
    for line in cpu_info.splitlines():
        name, _, value = (part.strip() for part in line.partition(":"))
        if name == "physical id":
            package = value
        elif name == "core id":
            found.add((package, value))
    return len(found) or None


def memory_bandwidth(seconds: float = 1.0, *, threads: int | None = None, room: int | None = None) -> float:
    """Bytes a second that all cores together read from memory, as decoding does with the weights.

    Each thread finds the largest byte of a buffer of its own, again and again: NumPy does that with the widest loads
    and little arithmetic, so that memory is what it waits for.

    Args:
        seconds: how long to measure.
        threads: None: as many as models use.
        room: bytes that all buffers together may take; None: as many as it takes to be larger than the caches.
    """
    count = threads or available_cores()
    buffer_bytes = _BUFFER_BYTES if room is None else max(_LEAST_BUFFER_BYTES, min(_BUFFER_BYTES, room // count))
    buffers = [np.ones(buffer_bytes, np.uint8) for _ in range(count)]
    read = [0] * len(buffers)
    start = time.perf_counter()

    def work(place: int) -> None:
        while True:  # once at least, also on a machine so busy that the time is over before a thread begins
            buffers[place].max()
            read[place] += buffer_bytes
            if time.perf_counter() - start >= seconds:
                return

    workers = [threading.Thread(target=work, args=(place,), daemon=True) for place in range(len(buffers))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(read) / (time.perf_counter() - start)


def _field(text: str, name: str) -> str:
    """The first value of that name in ``/proc/cpuinfo``, cleared of what cannot be printed."""
    found = next((line.partition(":")[2] for line in text.splitlines() if line.partition(":")[0].strip() == name), "")
    limit = _MAX_NAME if name == "model name" else None
    return "".join(filter(str.isprintable, found)).strip()[:limit]
