"""What this processor can compute with, as far as other tools name quantized files after it."""

from __future__ import annotations

import platform
from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")
_ARM = ("arm64", "aarch64")
_X86 = ("x86_64", "amd64")
# The kernel's names → those in file names. Both forms of VNNI multiply without an intermediate that saturates.
_FLAGS = {"avx2": "avx2", "avx512f": "avx512", "avx512_vnni": "avx512_vnni", "avx_vnni": "avx_vnni"}


def instruction_sets() -> frozenset[str]:
    """Those of ``arm64``, ``avx2``, ``avx512``, ``avx512_vnni`` and ``avx_vnni`` that this processor has.

    Where the system does not tell, an x86 processor is taken to have AVX2, as nearly all in use have.
    """
    machine = platform.machine().lower()
    if machine in _ARM:
        return frozenset({"arm64"})
    if machine not in _X86:
        return frozenset()
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset({"avx2"})
    flags = next((line for line in lines if line.startswith("flags")), "").partition(":")[2].split()
    return frozenset(name for flag, name in _FLAGS.items() if flag in flags)
