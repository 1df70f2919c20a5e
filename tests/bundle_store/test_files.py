import errno
import os
from pathlib import Path

import pytest

from edgelm.bundle.files import refuse_lack_of_room, storage_error
from edgelm.errors import StorageError

MORE_ROOM = "; free some (edgelm rm), or set EDGELM_HOME to a folder with more room"
WRITABLE = "; set EDGELM_HOME to a folder that can be written"


@pytest.mark.parametrize(
    ("number", "way"), [(errno.ENOSPC, MORE_ROOM), (errno.EROFS, WRITABLE), (errno.EACCES, WRITABLE)]
)
def test_a_failed_write_of_edgelm_s_own_folder_tells_what_helps(home: Path, number: int, way: str) -> None:
    error = OSError(number, os.strerror(number), str(home / "models" / "x"))
    assert str(storage_error(error, Path("elsewhere"))) == f"{home / 'models' / 'x'}: {os.strerror(number)}{way}"
    elsewhere = OSError(number, os.strerror(number), "out.txt")
    assert str(storage_error(elsewhere, home)) == f"out.txt: {os.strerror(number)}", "its place was the user's choice"
    unnamed = OSError(number, os.strerror(number))
    assert str(storage_error(unnamed, home / "downloads")).endswith(way)


def test_room_is_asked_for_before_it_is_used(tmp_path: Path) -> None:
    refuse_lack_of_room(tmp_path, 1, "one byte")
    with pytest.raises(StorageError, match=r": all of it takes 1000000000000 MB, and \d+ MB are free$") as refused:
        refuse_lack_of_room(tmp_path, 10**18, "all of it")
    assert refused.value.exit_code == 4
