import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgelm.bundle.strict_json import MAX_DEPTH, load_json
from edgelm.errors import ManifestError

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def load(data: bytes) -> object:
    return load_json(data, what="edgelm.json", limit=1 << 20)


@given(JSON_VALUES)
def test_what_is_written_is_read_back(value: object) -> None:
    assert load(json.dumps(value).encode()) == value


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        value = load(data)
    except ManifestError:
        return
    json.dumps(value, allow_nan=False, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"{} {}", "Extra data"),
        (b'{"a": 1,}', "not valid JSON"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b"[Infinity]", "Infinity is not a JSON number"),
        (b"[-Infinity]", "-Infinity is not a JSON number"),
        (b"[1e999]", "number 1e999 is out of range"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "key 'c' occurs twice"),
        (b'{"a": 1, "\\u0061": 2}', "key 'a' occurs twice"),
        (b'["\xff"]', "not UTF-8 at byte 2"),
        (b'["\\ud800"]', "half a surrogate pair"),
        (b'{"\\udfff": 1}', "half a surrogate pair"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b"9" * 5000, "not valid JSON"),
    ],
)
def test_what_is_no_strict_json_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ManifestError, match=r"^edgelm\.json: ") as caught:
        load(data)
    assert reason in str(caught.value)


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
def test_nesting_of_200_000_levels_is_refused(opening: bytes) -> None:
    with pytest.raises(ManifestError, match="nested deeper than the 64 levels allowed"):
        load_json(opening * 200_000, what="edgelm.json", limit=1 << 22)


def test_nesting_is_allowed_up_to_the_limit() -> None:
    load(b"[" * MAX_DEPTH + b"1" + b"]" * MAX_DEPTH)
    with pytest.raises(ManifestError, match="nested deeper"):
        load(b"[" * (MAX_DEPTH + 1) + b"1" + b"]" * (MAX_DEPTH + 1))


def test_too_large_a_document_is_refused_with_both_sizes() -> None:
    assert load_json(b"[1]", what="x.json", limit=3) == [1]
    with pytest.raises(ManifestError, match=r"^x\.json: 4 bytes, more than the 3 allowed$"):
        load_json(b"[12]", what="x.json", limit=3)


def test_values_are_counted_where_a_number_is_given() -> None:
    data = b'{"a": [1, 2], "b": {}}'
    assert load_json(data, what="x.json", limit=99, values=5) == {"a": [1, 2], "b": {}}
    with pytest.raises(ManifestError, match=r"^x\.json: more than the 4 values allowed$"):
        load_json(data, what="x.json", limit=99, values=4)


def test_pairs_of_surrogates_are_text() -> None:
    assert load(b'["\\ud83d\\ude00"]') == ["😀"]


def test_finite_numbers_keep_their_value() -> None:
    assert load(b"[1e308, -0.0, 12345678901234567890]") == [1e308, 0.0, 12345678901234567890]
    assert math.copysign(1.0, load(b"-0.0")) == -1.0  # type: ignore[arg-type]
