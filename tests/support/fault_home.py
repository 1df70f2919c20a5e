"""A home for the tests of faults: its folder has a name that is hard to write, and a checkpoint beside it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from support.checkpoints import llama_metadata, llama_tensors, write_gguf

NAME = "home with spaces and 🦙 émojis"


def write_checkpoint(folder: Path, seed: int = 0) -> Path:
    """A GGUF file of a tiny LLaMA model with random weights."""
    return write_gguf(folder / f"checkpoint {seed}.gguf", llama_metadata(), llama_tensors(seed))


def add_to_catalog(home: Path, name: str, source: str, **fields: str) -> None:
    """Makes a name of the user's own catalog stand for a source."""
    home.mkdir(parents=True, exist_ok=True)
    values = {"source": source, "license": "MIT", "description": "x"} | fields
    lines = [f'{field} = "{value}"' for field, value in values.items()]
    with (home / "catalog.toml").open("a", encoding="utf-8") as file:
        file.write("\n".join([f"[{name}]", 'tasks = ["chat"]', *lines, ""]))


def leftovers(folder: Path) -> list[str]:
    """What writers have left half-done anywhere in a folder, and their locks."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(".*.edgelm-*"))


def ends_with_one_line(stderr: bytes | str, *words: str) -> bool:
    """Whether the last thing said is an error in one line that has the words, and no traceback is anywhere."""
    text = stderr.decode() if isinstance(stderr, bytes) else stderr
    lines = text.splitlines()
    errors = [line for line in lines if line.startswith("edgelm: error: ")]
    said = bool(lines) and errors == [lines[-1]] and all(word in lines[-1] for word in words)
    return said and "Traceback" not in text


class SmallDisk:
    """A file system in memory at ``path``, whose size can be changed; a context manager.

    Raises:
        OSError: this process may mount none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self._call("mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(path))

    def __enter__(self) -> SmallDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self._call("umount", "-l", str(self.path))

    def resize(self, pages: int) -> None:
        """Gives it room for so many pages of 4 KiB in all."""
        self._call("mount", "-o", f"remount,size={pages << 12}", str(self.path))

    def used_pages(self) -> int:
        """Pages that are taken."""
        done = subprocess.run(["df", "-k", "--output=used", self.path], capture_output=True, text=True, check=True)
        return int(done.stdout.split()[-1]) // 4

    @staticmethod
    def _call(*command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(done.stderr.strip())
