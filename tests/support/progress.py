"""A Progress that remembers what it was told."""

from __future__ import annotations


class RecordedProgress:
    """``transfers``: one ``[label, total, sum of advances]`` for each; ``open``: started and not finished."""

    def __init__(self) -> None:
        self.transfers: list[tuple[str, int | None, int]] = []
        self.open = 0

    def start(self, label: str, total_bytes: int | None) -> None:
        self.transfers.append((label, total_bytes, 0))
        self.open += 1

    def advance(self, n: int) -> None:
        assert n > 0
        assert self.open == 1
        label, total, done = self.transfers[-1]
        self.transfers[-1] = (label, total, done + n)

    def finish(self) -> None:
        self.open -= 1
