"""Code that has run is given back, only where it is as in its file, and runs again when it is called."""

from __future__ import annotations

import json
import struct
import subprocess
import sys

import pytest

from edgelm.runtime.resident_code import code_mappings, is_unchanged

MAPS = """\
7f0000000000-7f0000001000 r-xp 00000000 08:01 11                         /usr/lib/libc.so.6
7f0000002000-7f0000003000 r--p 00001000 08:01 11                         /usr/lib/libc.so.6
7f0000004000-7f0000005000 r-xp 00000000 08:01 12                         /path/replaced.so (deleted)
7f0000006000-7f0000007000 r-xp 00000000 08:01 13                         /usr/bin/python3.11
7f0000008000-7f0000009000 r-xp 00000000 00:00 0
7f000000a000-7f000000c000 r-xp 00000000 08:01 14                         /a b/nxruntime.cpython-311-x86_64-linux-gnu.so
7f000000d000-7f000000e000 rw-p 00000000 08:01 14                         /a b/nxruntime.cpython-311-x86_64-linux-gnu.so
7f000000e000-7f000000f000 rwxp 00000000 08:01 14                         /a b/nxruntime.cpython-311-x86_64-linux-gnu.so
"""


def test_only_code_of_libraries_is_found():
    assert code_mappings(MAPS) == [(0x7F0000000000, 0x7F0000001000), (0x7F000000A000, 0x7F000000C000)]
    assert code_mappings("") == []


ABSENT, OF_FILE, OWN, SWAPPED = 0, (1 << 63) + (1 << 61) + 77, (1 << 63) + 77, (1 << 62) + 77


@pytest.mark.parametrize(
    ("pages", "unchanged"),
    [
        ([], True),
        ([ABSENT, OF_FILE, OF_FILE], True),
        ([OF_FILE, OWN], False),
        ([SWAPPED, ABSENT], False),
        ([OF_FILE, SWAPPED + (1 << 61)], False),
    ],
)
def test_a_page_that_is_not_its_files_is_a_change(pages, unchanged):
    assert is_unchanged(struct.pack(f"={len(pages)}Q", *pages)) is unchanged


CHANGED = """
import ctypes
import onnxruntime
from edgelm.runtime.resident_code import give_back_code

give_back_code()
place = ctypes.cast(ctypes.CDLL("libm.so.6").cbrt, ctypes.c_void_p).value
before = ctypes.string_at(place, 1)
try:
    with open("/proc/self/mem", "r+b", buffering=0) as memory:  # as debuggers set a breakpoint
        memory.seek(place)
        memory.write(bytes([before[0] ^ 255]))
except OSError:
    print("not allowed")
else:
    give_back_code()
    print(ctypes.string_at(place, 1)[0] ^ before[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a call of Linux")
def test_what_somebody_changed_in_code_stays():
    done = subprocess.run([sys.executable, "-c", CHANGED], capture_output=True, text=True, check=True)
    if done.stdout == "not allowed\n":
        pytest.skip("this system lets no process write to its code")
    assert done.stdout == "255\n"


COUNT = """
import json, re
import numpy as np
import onnxruntime
from edgelm.runtime.resident_code import give_back_code

def files():
    return int(re.search(r"RssFile:\\s+(\\d+)", open("/proc/self/status").read())[1])

before = files()
give_back_code()
after = files()
print(json.dumps([before, after, float((np.ones((9, 9)) @ np.ones((9, 9))).sum()), onnxruntime.get_device()]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a call of Linux")
def test_megabytes_of_code_go_and_it_still_runs():
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    before, after, product, device = json.loads(done.stdout)
    assert after < before - 5000
    assert (product, device) == (729.0, "CPU")
