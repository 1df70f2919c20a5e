from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

PARENT = """
import subprocess, sys
from edgelm.bundle.lifeline import lifeline
with lifeline() as stdin:
    print(subprocess.run([sys.executable, "-c", sys.argv[1]], stdin=stdin).returncode, flush=True)
"""
CHILD = """
import os, time
from edgelm.bundle.lifeline import end_with_parent
end_with_parent()
print(os.getpid(), flush=True)
time.sleep({seconds})
"""


def test_a_child_that_ends_by_itself_is_left_alone() -> None:
    command = [sys.executable, "-c", PARENT, CHILD.format(seconds=0.2)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[-1] == "0"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for the child in /proc")
def test_a_child_ends_with_a_parent_that_is_killed() -> None:
    command = [sys.executable, "-c", PARENT, CHILD.format(seconds=60)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = Path("/proc") / parent.stdout.readline().strip()
        assert child.exists()
        parent.kill()
    deadline = time.monotonic() + 10
    while child.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not child.exists()
