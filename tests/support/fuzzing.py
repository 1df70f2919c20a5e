"""What fuzzers share: bytes and JSON documents that were sound once, and the law that all of them hold code to.

``EDGELM_FUZZ_EXAMPLES`` sets how many examples each fuzzer tries, in the place of the few that fit into a test run.
"""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from edgelm.errors import EdgeLMError

EXAMPLES = int(os.environ.get("EDGELM_FUZZ_EXAMPLES", "0"))
# Far above what any example takes, and far below what somebody would call a hang.
SECONDS = 30.0

_INTERESTING = (0, 1, 2, 127, 128, 255, 256, 65_535, 1 << 31, (1 << 31) - 1, 1 << 32, 1 << 62, (1 << 63) - 1, 1 << 63)
_WORDS = [struct.pack(kind, value % (1 << bits)) for kind, bits in (("<I", 32), ("<Q", 64)) for value in _INTERESTING]
_WORDS += [b"\xff" * size for size in (1, 4, 8, 10)] + [b"\x80" * 10, b'"', b"{", b"[", b"\0", b"\n", b"NaN", b"-1"]
_CHUNK = st.one_of(st.sampled_from(_WORDS), st.binary(max_size=9))
_EDIT = st.tuples(st.sampled_from("owdrct"), st.integers(0, 1 << 30), st.integers(0, 64), _CHUNK)

_NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([-1, 0, 1, 1 << 31, 1 << 63, 10**60, 1e308, 0.5]))
_TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["", "../x", "/etc/passwd", "a\\..\\b", "a\0b", "\ud800", "x" * 5000, "CON", "{{ x }}", "<s>"]),
)
JSON_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), _NUMBERS, _TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_TEXTS, inner, max_size=3)),
    max_leaves=6,
)


def fuzzed(examples: int) -> Callable[[Any], Any]:
    """Settings of a fuzzer that tries so many examples in a usual test run."""
    checks = list(HealthCheck)
    return settings(max_examples=EXAMPLES or examples, database=None, deadline=None, suppress_health_check=checks)


@contextmanager
def lawful(*kinds: type[EdgeLMError]) -> Iterator[None]:
    """What runs inside ends well, or with one of these errors (by default any of EdgeLM's) in one line; and soon."""
    allowed = kinds or (EdgeLMError,)
    started = time.perf_counter()
    try:
        yield
    except allowed as error:
        message = str(error)
        assert message
        assert "\n" not in message
        assert len(message) < 4000
    assert time.perf_counter() - started < SECONDS


@st.composite
def mutated(draw: st.DrawFn, *seeds: bytes, most: int = 6) -> bytes:
    """One of the seeds after a few edits: overwritten, words set, cut out, repeated, truncated, spliced."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for kind, place, length, chunk in draw(st.lists(_EDIT, min_size=1, max_size=most)):
        at = place % (len(data) + 1)
        if kind == "o":
            data[at : at + len(chunk)] = chunk
        elif kind == "w":
            data[at:at] = chunk
        elif kind == "d":
            del data[at : at + length]
        elif kind == "r":
            data[at:at] = data[at : at + length] * 2
        elif kind == "c":
            other = draw(st.sampled_from(seeds))
            data[at:] = other[place % (len(other) + 1) :]
        else:
            del data[at:]
    return bytes(data)


@st.composite
def mutated_json(draw: st.DrawFn, *seeds: Any, most: int = 3) -> Any:
    """One of the documents with a few of its values replaced, left out or copied elsewhere."""
    document = json.loads(json.dumps(draw(st.sampled_from(seeds))))
    for _ in range(draw(st.integers(1, most))):
        places = list(_places(document))
        if not places:
            return document
        parent, key = places[draw(st.integers(0, len(places) - 1))]
        action = draw(st.sampled_from(("replace", "delete", "copy")))
        if action == "delete":
            del parent[key]
        elif action == "copy":
            other, name = places[draw(st.integers(0, len(places) - 1))]
            parent[key] = json.loads(json.dumps(other[name]))
        else:
            parent[key] = draw(JSON_VALUES)
    return document


def as_bytes(document: Any) -> bytes:
    """JSON as a careless writer would have it: NaN, infinities and halves of surrogate pairs stay."""
    return json.dumps(document).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (list or object, index or key) of a document."""
    keys: Any = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])
