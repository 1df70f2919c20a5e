"""What bounds this process's memory, read from the texts in which the system tells it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgelm.runtime import usable_memory as module
from edgelm.runtime.usable_memory import (
    MemoryBound,
    address_limits_told,
    available_bytes,
    group_free_bytes,
    memory_bounds,
    memory_groups,
    status_bytes,
    usable_memory,
)

MEMINFO = "MemTotal:       24684092 kB\nMemFree:        17269476 kB\nMemAvailable:   22102640 kB\n"
STATUS = "Name:\tpython\nVmSize:\t  900000 kB\nVmRSS:\t   50000 kB\nVmData:\t  300000 kB\n"
V1_MOUNT = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
V2_MOUNT = "41 31 0:38 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n"
OTHER_MOUNT = "33 31 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n24 1 0:5 / /proc rw - proc proc rw\n"


def test_lines_of_the_system_are_kibibytes():
    assert available_bytes(MEMINFO) == 22102640 * 1024
    assert status_bytes(STATUS, "VmRSS") == 50000 * 1024
    assert status_bytes(STATUS, "Vm") is None
    assert available_bytes("MemTotal: 5 kB\n") is None, "kernels before 3.14 do not tell"


@pytest.mark.parametrize(
    ("cgroup", "mountinfo", "expected"),
    [
        ("0::/user/app\n", V2_MOUNT + OTHER_MOUNT, ["cgroup/user/app", "cgroup/user", "cgroup"]),
        ("3:cpu:/x\n4:memory:/a\n0::/\n", V1_MOUNT + OTHER_MOUNT, ["cgroup/memory/a", "cgroup/memory"]),
        ("4:hugetlb,memory:/a:b\n", V1_MOUNT, ["cgroup/memory/a:b", "cgroup/memory"]),
        ("0::/\n", V2_MOUNT, ["cgroup"]),
        ("0::/../else\n", V2_MOUNT, ["cgroup"]),
        ("4:memory:/docker/1234\n", V1_MOUNT.replace(" / ", " /docker/1234 "), ["cgroup/memory"]),
        (
            "4:memory:/docker/1234/in\n",
            V1_MOUNT.replace(" / ", " /docker/1234 "),
            ["cgroup/memory/in", "cgroup/memory"],
        ),
        ("4:memory:/elsewhere\n", V1_MOUNT.replace(" / ", " /docker/1234 "), ["cgroup/memory"]),
        ("0::/a\n", V2_MOUNT.replace("fs/cgroup", r"fs/my\040cgroup"), ["my cgroup/a", "my cgroup"]),
        ("3:cpu:/x\n", V1_MOUNT + V2_MOUNT, []),
        ("0::/a\n", "", []),
        ("", V1_MOUNT, []),
    ],
)
def test_groups_from_the_inside_out(cgroup, mountinfo, expected):
    found = memory_groups(cgroup, mountinfo)
    assert [group.folder for group in found] == [Path("/sys/fs", name) for name in expected]
    assert {group.version for group in found} <= {"cgroup" if "memory" in cgroup else "cgroup2"}


@given(st.text(), st.text())
def test_texts_that_make_no_sense_are_no_groups(cgroup, mountinfo):
    assert memory_groups(cgroup, mountinfo) == []


def test_files_that_nobody_has_mapped_do_not_count_as_used():
    stat = "anon 100\nfile_mapped 30\nfile_dirty 20\ninactive_file 300\nactive_file 50\n"
    assert group_free_bytes(["1000\n"], "900\n", stat) == 400
    assert group_free_bytes(["500\n"], "900\n", stat) == -100
    first = "mapped_file 9\ndirty 9\ninactive_file 9\nactive_file 9\n"
    whole = "total_mapped_file 30\ntotal_dirty 20\ntotal_inactive_file 300\ntotal_active_file 50\n"
    assert group_free_bytes(["1000\n"], "900\n", first + whole, "cgroup") == 400


@pytest.mark.parametrize("stat", ["", "anon 100\n", "inactive_file 5\nfile_mapped 9\n"])
def test_where_no_file_can_be_given_up_all_counts_as_used(stat):
    assert group_free_bytes(["1000\n"], "900\n", stat) == 100


@pytest.mark.parametrize("limits", [["max\n", "max\n"], [""], [], ["9223372036854771712\n"]])
def test_a_group_without_a_limit_bounds_nothing(limits):
    assert group_free_bytes(limits, "900\n", "") is None


def test_the_lower_of_two_limits_holds():
    assert group_free_bytes(["2000\n", "1000\n"], "900\n", "") == 100
    assert group_free_bytes(["max\n", "1000\n"], "900\n", "") == 100
    assert group_free_bytes(["1000\n"], "", "") is None


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine in a folder: 10 MiB available, a group of version 2 below one with 4 MiB left."""
    files = {
        "proc/meminfo": "MemAvailable: 10240 kB\n",
        "proc/self/status": "VmSize:\t 900 kB\nVmRSS:\t 1024 kB\nVmData:\t 300 kB\n",
        "proc/self/cgroup": "0::/outer/inner\n",
        "proc/self/mountinfo": f"41 31 0:38 / {tmp_path}/groups rw - cgroup2 cgroup2 rw\n",
        "groups/outer/memory.max": f"{6 << 20}\n",
        "groups/outer/memory.high": "max\n",
        "groups/outer/memory.current": f"{3 << 20}\n",
        "groups/outer/memory.stat": f"anon 5\ninactive_file {1 << 20}\n",
        "groups/outer/inner/memory.max": "max\n",
        "groups/outer/inner/memory.current": "5\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(module, "_PROC", tmp_path / "proc")
    return tmp_path


def test_the_tightest_bound_holds_and_says_what_it_is(system):
    outer = MemoryBound(f"the room in the control group {system}/groups/outer", 5 << 20)
    assert usable_memory() == outer, "4 MiB are left, and 1 MiB is there already"
    assert memory_bounds()[:2] == [MemoryBound("the memory available on this machine", 11 << 20), outer]


def test_a_group_that_is_full_leaves_what_is_there(system):
    (system / "groups/outer/memory.current").write_text(f"{9 << 20}\n")
    assert [bound.nbytes for bound in memory_bounds()][:2] == [11 << 20, 1 << 20]


def test_where_the_system_tells_little_its_memory_is_a_bound(system):
    (system / "proc/meminfo").unlink()
    (system / "proc/self/cgroup").unlink()
    bound = usable_memory()
    assert bound is None or bound.nbytes > 64 << 20


def test_whatever_this_machine_tells_leaves_room_for_this_process():
    assert all(bound.nbytes > 10_000_000 for bound in memory_bounds())


def test_where_memory_ran_out_limits_of_addresses_are_named(monkeypatch):
    monkeypatch.setattr(module, "address_room", dict)
    assert address_limits_told() == ""
    monkeypatch.setattr(module, "address_room", lambda: {"RLIMIT_AS": 5, "RLIMIT_DATA": 6})
    assert address_limits_told().startswith("; what ulimit sets (RLIMIT_AS and RLIMIT_DATA) counts all addresses")


LIMITED = """
import resource
from edgelm.runtime.usable_memory import usable_memory
resource.setrlimit(getattr(resource, "{name}"), (600_000_000, resource.RLIM_INFINITY))
bound = usable_memory()
print(bound.nbytes, bound.source)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell how much of a limit is used")
@pytest.mark.parametrize("name", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_a_resource_limit_is_a_bound(name):
    done = subprocess.run([sys.executable, "-c", LIMITED.format(name=name)], capture_output=True, text=True, check=True)
    nbytes, source = done.stdout.strip().split(" ", 1)
    assert source == f"the room under the resource limit {name}"
    assert 100_000_000 < int(nbytes) < 620_000_000
