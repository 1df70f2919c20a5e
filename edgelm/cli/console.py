"""Standard streams: answers to stdout, everything else to stderr, both in UTF-8 whatever the locale says."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

_RED, _YELLOW, _RESET = "\x1b[31m", "\x1b[33m", "\x1b[0m"
_LINE_BREAKS = re.compile(r"\s*[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+\s*")
# What could move the cursor, change colours or ring: a model's text may hold it, a terminal must not get it.
_CONTROLS = {code: "\ufffd" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"}


def prepare_streams() -> None:
    """Makes both streams UTF-8; what UTF-8 cannot say (half a surrogate pair) is replaced, never an error."""
    for stream, errors in ((sys.stdout, "replace"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors=errors)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person looks at the stream, or types into it; a closed stream is none."""
    return stream is not None and not stream.closed and stream.isatty()


def has_colour(stream: TextIO | None) -> bool:
    """See no-color.org: any value of ``NO_COLOR`` but the empty one switches colour off."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def answer(text: str) -> None:
    """Writes a piece of an answer to stdout at once.

    Raises:
        OSError: nobody reads any more (BrokenPipeError), or the disk behind it is full.
    """
    answer_drawn(text.translate(_CONTROLS) if is_terminal(sys.stdout) else text)


def answer_drawn(text: str) -> None:
    """Writes to stdout as it is, control characters too: for what sets colours; for the errors see ``answer``."""
    if sys.stdout is None:  # closed by whoever started this process
        return
    sys.stdout.write(text)
    sys.stdout.flush()


def answer_json(fields: Mapping[str, Any]) -> None:
    """Writes one JSON object and a line break to stdout; for the errors see ``answer``."""
    answer(json.dumps(fields, ensure_ascii=False) + "\n")


def say(text: str) -> None:
    """Writes a line to stderr; that nobody reads it there is no reason to stop."""
    _to_stderr(f"{text.translate(_CONTROLS)}\n")


def draw(text: str) -> None:
    """Writes to stderr as it is, control characters too: for what moves the cursor on a terminal."""
    _to_stderr(text)


def error(text: str) -> None:
    """One line: ``edgelm: error: …``."""
    _labelled("error", _RED, text)


def warning(text: str) -> None:
    """One line: ``edgelm: warning: …``."""
    _labelled("warning", _YELLOW, text)


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Shows what the ``warnings`` module reports as lines of ours, without file names and source."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        warning(str(message))

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def silence_stdout() -> None:
    """Sends what is still to be written nowhere: whoever read it has gone."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def one_line(text: str) -> str:
    """The text with every run of line breaks made a space."""
    return _LINE_BREAKS.sub(" ", text.strip())


def _labelled(label: str, colour: str, text: str) -> None:
    shown = f"{label}:"
    if has_colour(sys.stderr):
        shown = f"{colour}{shown}{_RESET}"
    _to_stderr(f"edgelm: {shown} {one_line(text).translate(_CONTROLS)}\n")


def _to_stderr(text: str) -> None:
    if sys.stderr is None:  # closed by whoever started this process; print would take stdout in its place
        return
    with contextlib.suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()
