"""Code that has run is given back, only where it is as in its file, and runs again when it is called."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from edgelm.runtime.resident_code import unchanged_code

SMAPS = """\
7f0000000000-7f0000001000 r-xp 00000000 08:01 11 /usr/lib/libc.so.6
Rss:                 100 kB
Anonymous:             0 kB
7f0000002000-7f0000003000 r--p 00001000 08:01 11 /usr/lib/libc.so.6
Anonymous:             0 kB
7f0000004000-7f0000005000 r-xp 00000000 08:01 12 /path with spaces/patched.so
Anonymous:             4 kB
7f0000006000-7f0000007000 r-xp 00000000 08:01 13 /usr/bin/python3.11
Anonymous:             0 kB
7f0000008000-7f0000009000 r-xp 00000000 00:00 0
Anonymous:             0 kB
7f000000a000-7f000000c000 r-xp 00000000 08:01 14 /path with spaces/onnxruntime.cpython-311-x86_64-linux-gnu.so
Anonymous:             0 kB
7f000000d000-7f000000e000 rw-p 00000000 08:01 14 /path with spaces/onnxruntime.cpython-311-x86_64-linux-gnu.so
"""


def test_only_unchanged_code_of_libraries_is_found():
    assert unchanged_code(SMAPS) == {SMAPS.splitlines()[line] for line in (0, 11)}
    assert unchanged_code("") == frozenset()


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
