"""What the system tells of the processor, and how fast memory is read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgelm.runtime import machine
from edgelm.runtime.machine import (
    instruction_sets,
    memory_bandwidth,
    physical_cores,
    processor,
)

X86 = """processor\t: 0
model name\t: A Processor
physical id\t: 0
core id\t\t: 0
flags\t\t: fpu sse2 avx avx2 avx512f avx512_vnni avx_vnni amx_int8

processor\t: 1
physical id\t: 0
core id\t\t: 0
flags\t\t: fpu

processor\t: 2
physical id\t: 1
core id\t\t: 0
flags\t\t: fpu
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n"


def test_instruction_sets_have_the_manuals_names() -> None:
    assert instruction_sets(X86) == ("AVX2", "AVX-512", "AVX-VNNI", "AVX-512 VNNI", "AMX")
    assert instruction_sets(ARM) == ("NEON", "dotprod", "i8mm")
    assert instruction_sets("flags\t: avx2x noavx2\n") == ()


def test_cores_that_share_a_package_and_a_core_are_one() -> None:
    assert physical_cores(X86) == 2
    assert physical_cores(ARM) is None


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (("AVX2", "AVX-512 VNNI"), "int8 products take one instruction"),
        (("NEON", "dotprod"), "int8 products take one instruction"),
        (("AVX2",), "no int8 dot products"),
        (("NEON",), "no int8 dot products"),
        ((), "not known"),
    ],
)
def test_what_follows_from_the_instruction_sets(sets: tuple[str, ...], words: str) -> None:
    assert words in replace(processor(), instruction_sets=sets).consequence


def test_this_processor_can_be_used() -> None:
    found = processor()
    assert found.usable_cores >= 1
    assert found.logical_cores is None or found.logical_cores >= found.usable_cores
    assert found.name.isprintable()
    assert replace(found, usable_cores=8, quota=1.5).threads == 2


def test_bandwidth_is_that_of_a_machine() -> None:
    """Slower than a disk or faster than registers would be a mistake in the measure."""
    measured = memory_bandwidth(0.05, threads=1, room=1 << 20)
    assert 1e7 < measured < 1e13


def test_bandwidth_is_measured_even_in_no_time() -> None:
    assert memory_bandwidth(0.0, room=1 << 16) > 0


@pytest.mark.parametrize("room", [None, 10**12, 32 << 20, 100, -5])
def test_bandwidth_takes_no_more_room_than_it_has(monkeypatch: pytest.MonkeyPatch, room: int | None) -> None:
    taken: list[int] = []
    monkeypatch.setattr(machine.np, "ones", lambda size, dtype: taken.append(size) or np.zeros(8, dtype))
    memory_bandwidth(0.0, threads=16, room=room)
    assert len(taken) == 16
    most = 1 << 30 if room is None else min(max(room, 1 << 20), 1 << 30)
    assert sum(taken) == most


@given(st.text())
def test_no_text_of_the_system_leads_astray(text: str) -> None:
    instruction_sets(text)
    physical_cores(text)
