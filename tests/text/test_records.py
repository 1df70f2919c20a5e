"""Records of examples and inputs, from the three kinds of files."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgelm.errors import PromptError
from edgelm.text import records as module
from edgelm.text.records import read_records

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
TABLES = st.lists(st.fixed_dictionaries({"text": TEXTS, "output": TEXTS}), min_size=1, max_size=5)


@given(TABLES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_every_kind_of_file_gives_the_same_records(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "a.jsonl").write_bytes(lines.encode())
    for name, separator in (("a.csv", ","), ("a.tsv", "\t")):
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, ["text", "output"], delimiter=separator, quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
        (tmp_path / name).write_bytes(table.getvalue().encode())
    for name in ("a.jsonl", "a.csv", "a.tsv"):
        assert [dict(record.fields) for record in read_records(tmp_path / name)] == rows


def test_a_record_knows_its_line(tmp_path: Path) -> None:
    file = tmp_path / "a.CSV"
    file.write_bytes(b'\xef\xbb\xbftext, output\r\n"two\nlines",x\r\n\r\ny,z\r\n')
    assert [record.where for record in read_records(file)] == ["a.CSV, line 3", "a.CSV, line 5"]
    assert read_records(file)[0].fields == {"text": "two\nlines", "output": "x"}
    (tmp_path / "a.jsonl").write_text('\n{"text": 1}\n')
    assert read_records(str(tmp_path / "a.jsonl"))[0].where == "a.jsonl, line 2"


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.txt", b"", "files ending in .jsonl, .csv, .tsv"),
        ("none.csv", None, "No such file"),
        ("a.jsonl", b"\xff", "invalid byte 0xFF at offset 0"),
        ("a.jsonl", b"{}\n[1]", "line 2: must be an object"),
        ("a.jsonl", b"{", "line 1: not JSON"),
        ("a.jsonl", b'{"a": NaN}', "line 1: not JSON: NaN is no JSON"),
        ("a.jsonl", b"[" * 100_000, "line 1: not JSON"),
        ("a.csv", b"a,b\n1,2,3\n", "line 2: has 3 cells, but the first line names 2"),
        ("a.csv", b"a,a\n", "line 1: must name every column once"),
        ("a.csv", b"a,\n", "line 1: must name every column once"),
        ("a.csv", b'a,b\n"1"x,2\n', "line 2: "),
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path: Path, name: str, data: bytes | None, words: str) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(PromptError) as refused:
        read_records(tmp_path / name)
    assert str(tmp_path / name) in str(refused.value)
    assert words in str(refused.value)


def test_a_large_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    (tmp_path / "a.csv").write_text("a,b\n1,2\n3,4\n")
    with pytest.raises(PromptError, match="more than the 10 bytes"):
        read_records(tmp_path / "a.csv")
