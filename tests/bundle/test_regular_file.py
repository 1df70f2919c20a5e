import tracemalloc
from pathlib import Path

import pytest

from edgelm.bundle.regular_file import read_file
from edgelm.errors import ModelError


@pytest.mark.parametrize(("size", "allowed"), [(0, True), (999, True), (1000, True), (1001, False), (5000, False)])
def test_a_file_is_read_up_to_its_limit(tmp_path: Path, size: int, allowed: bool) -> None:
    (tmp_path / "file").write_bytes(b"x" * size)
    if allowed:
        assert read_file(tmp_path, "file", limit=1000) == b"x" * size
        return
    with pytest.raises(ModelError, match=r"^file in .* has more than the 1000 bytes allowed$"):
        read_file(tmp_path, "file", limit=1000)


def test_a_small_file_takes_no_room_for_the_largest_that_is_allowed(tmp_path: Path) -> None:
    """Under a limit of addresses, room for 256 MiB is not to be had."""
    (tmp_path / "file").write_bytes(b"x" * 1000)
    tracemalloc.start()
    try:
        read_file(tmp_path, "file", limit=256 << 20)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
