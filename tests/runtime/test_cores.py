"""How many threads are used: what affinity and control groups allow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgelm.runtime import cores
from edgelm.runtime.cores import available_cores, cores_within, cpu_quota, quota_of


@pytest.fixture
def grouped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, str]], None]]:
    """A machine of 64 cores with these files of control groups."""

    def give(files: dict[str, str]) -> None:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
        cpu_quota.cache_clear()

    monkeypatch.setattr(cores, "_GROUPS", tmp_path)
    monkeypatch.setattr(cores, "runnable_cores", lambda: 64)
    yield give
    cpu_quota.cache_clear()


@pytest.mark.parametrize(
    ("text", "quota"),
    [
        ("max 100000\n", None),
        ("150000 100000\n", 1.5),
        ("200000 100000", 2.0),
        ("", None),
        ("-1 100000", None),
        ("100000 0", None),
        ("100000", None),
    ],
)
def test_quotas_of_control_groups(text: str, quota: float | None) -> None:
    assert quota_of(text) == quota


@given(st.text())
def test_no_text_of_the_system_leads_astray(text: str) -> None:
    quota_of(text)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 64),
        ({"cpu.max": "max 100000\n"}, 64),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "250000 100000\n"}, 3),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
    ],
)
def test_a_quota_caps_the_threads(
    grouped: Callable[[dict[str, str]], None], files: dict[str, str], expected: int
) -> None:
    grouped(files)
    assert available_cores() == expected


def test_the_quota_is_read_once(grouped: Callable[[dict[str, str]], None], monkeypatch: pytest.MonkeyPatch) -> None:
    grouped({"cpu.max": "200000 100000"})
    assert available_cores() == 2
    monkeypatch.setattr(cores, "system_text", lambda path: pytest.fail("read again"))
    assert available_cores() == 2


def test_no_quota_adds_cores() -> None:
    assert cores_within(4, 8.0) == 4
    assert cores_within(4, 0.1) == 1
