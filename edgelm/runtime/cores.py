"""How many threads are at work at a time in this process: what its affinity and its control group's quota allow."""

from __future__ import annotations

import math
import os
from functools import cache
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")


def available_cores() -> int:
    """Threads that pay here: with more than cores, or than the quota gives time to, they wait for each other."""
    return cores_within(runnable_cores(), cpu_quota())


def cores_within(cores: int, quota: float | None) -> int:
    """As many of ``cores`` as a quota gives time to, the last of them in part; at least 1."""
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def runnable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def cpu_quota() -> float | None:
    """Cores' worth of time that this process's control group has, of either version; None: no limit."""
    return quota_of(system_text(_GROUPS / "cpu.max")) or _quota_of_version_1()


def quota_of(cpu_max: str) -> float | None:
    """Cores' worth of time by a control group's ``cpu.max``: quota and period, in microseconds; None: no limit."""
    quota, period = (*cpu_max.split(), "", "")[:2]
    if not (quota.isdecimal() and period.isdecimal() and int(period)):
        return None
    return int(quota) / int(period)


def system_text(path: Path) -> str:
    """The text of one of the system's files; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _quota_of_version_1() -> float | None:
    folder = _GROUPS / "cpu"
    quota, period = (system_text(folder / name).strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
    return quota_of(f"{quota} {period}")
