from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.small_bundle import write_small_bundle

from edgelm.bundle.catalog import load_catalog
from edgelm.bundle.publish import publishing
from edgelm.bundle.store import Store, store_name
from edgelm.errors import ConfigError, EdgeLMError, LockedError, ModelNotFoundError

CATALOG = load_catalog(Path("there is none"))


@pytest.fixture
def store(home: Path) -> Store:
    return Store()


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("smollm2", "smollm2"),
        ("smollm2-135m", "smollm2"),
        ("smollm2-int4", "smollm2-int4"),
        ("my.own_Model", "my.own_Model"),
        ("hf:Qwen/Qwen3-0.6B", "Qwen--Qwen3-0.6B"),
        ("hf:Qwen/Qwen3-0.6B@main", "Qwen--Qwen3-0.6B"),
    ],
)
def test_store_name(model: str, name: str) -> None:
    assert store_name(model, CATALOG) == name


@pytest.mark.parametrize(
    "model",
    ["", ".", "..", "../x", "a/b", "a\\b", "/etc", ".hidden", "a b", "a\x00", "é", "x" * 101, "con", "a.", "a\n"],
)
def test_what_cannot_be_a_name_is_refused(model: str) -> None:
    with pytest.raises(ModelNotFoundError):
        store_name(model, CATALOG)


@pytest.mark.parametrize("model", ["hf:", "hf:noorg", "hf:a/b/c", "hf:../b", "hf:a/..", "hf:a--b/c", "hf:a/b@../x"])
def test_what_is_no_repository_is_refused(model: str) -> None:
    with pytest.raises(ConfigError, match="hf:ORG/NAME"):
        store_name(model, CATALOG)


@given(st.text(max_size=120) | st.from_regex(r"hf:[a-zA-Z0-9./@_-]{0,120}", fullmatch=True))
def test_a_store_name_never_leaves_the_store(model: str) -> None:
    try:
        name = store_name(model, CATALOG)
    except EdgeLMError:
        return
    root = Path("/store")
    assert Path(os.path.normpath(root / name)).parent == root
    assert not name.startswith(".")


def test_an_absent_store_is_empty_and_stays_absent(store: Store, home: Path) -> None:
    assert store.installed() == []
    assert not home.exists()


def test_installed_lists_by_name_with_size_and_manifest(store: Store) -> None:
    write_small_bundle(store.root / "b", name="b", graph=b"12345")
    write_small_bundle(store.root / "a", name="a")
    (store.root / ".hidden").mkdir()
    (store.root / "file").write_text("no folder")
    entries = store.installed()
    assert [entry.name for entry in entries] == ["a", "b"]
    second = entries[1]
    assert second.error is None
    assert second.manifest is not None
    assert second.manifest.name == "b"
    assert second.path == store.root / "b"
    assert second.size == 5 + (second.path / "edgelm.json").stat().st_size
    assert second.modified == second.path.stat().st_mtime


def test_broken_bundles_are_listed_with_what_is_wrong(store: Store) -> None:
    (store.root / "empty").mkdir(parents=True)
    (write_small_bundle(store.root / "cut") / "decoder.onnx").write_bytes(b"no")
    (write_small_bundle(store.root / "garbled") / "edgelm.json").write_bytes(b'{"format_version": 1' + b"[" * 100_000)
    (write_small_bundle(store.root / "lost") / "decoder.onnx").unlink()
    write_small_bundle(store.root / "sound")
    errors = {entry.name: entry.error for entry in store.installed()}
    assert sorted(errors) == ["cut", "empty", "garbled", "lost", "sound"]
    assert errors.pop("sound") is None
    for error, expected in [
        ("empty", "edgelm.json is missing"),
        ("lost", "decoder.onnx is missing"),
        ("cut", "2 bytes"),
    ]:
        assert expected in (errors[error] or "")
    assert all(error and "\n" not in error for error in errors.values())


@pytest.mark.parametrize("seconds", [-(2.0**31), 0.0, 2.0**33])
def test_a_clock_that_was_wrong_does_not_matter(store: Store, seconds: float) -> None:
    folder = write_small_bundle(store.root / "tiny")
    os.utime(folder / "edgelm.json", (seconds, seconds))
    os.utime(folder, (seconds, seconds))
    assert [entry.modified for entry in store.installed()] == [seconds]
    with publishing(folder, force=True) as fresh:
        write_small_bundle(fresh, graph=b"new")
        os.utime(fresh, (seconds, seconds))
    assert store.resolve("tiny") == folder
    assert store.remove("tiny") > 0


def test_resolve_finds_installed_names_aliases_and_repositories(store: Store) -> None:
    write_small_bundle(store.root / "smollm2")
    write_small_bundle(store.root / "org--name")
    assert store.resolve("smollm2") == store.root / "smollm2"
    assert store.resolve("smollm2-135m") == store.root / "smollm2"
    assert store.resolve("hf:org/name@v1") == store.root / "org--name"
    assert store.resolve("org--name") == store.root / "org--name"


def test_resolve_takes_folders(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "söme føldér 🦙"
    folder.mkdir()
    assert store.resolve(str(folder)) == folder
    monkeypatch.chdir(tmp_path)
    assert store.resolve("söme føldér 🦙") == Path("söme føldér 🦙")
    assert store.resolve(".") == Path()


def test_a_folder_here_goes_first_only_if_it_is_a_bundle(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_small_bundle(store.root / "tiny")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    assert store.resolve("tiny") == store.root / "tiny"
    write_small_bundle(tmp_path / "tiny")
    assert store.resolve("tiny") == Path("tiny")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            "smollm2",
            r"'smollm2' is not installed; get it with: edgelm pull smollm2 \(in Python edgelm.pull\('smollm2'\)\)$",
        ),
        ("smollm2-135m", r"edgelm pull smollm2-135m \("),
        ("hf:org/name", r"edgelm pull hf:org/name \("),
        ("smolm2", r"no model 'smolm2'; did you mean smollm2"),
        ("mine-own", r"did you mean my-own"),
        ("zzzzzz", r"no folder, not installed and not in the catalog"),
    ],
)
def test_what_is_not_there_is_named_with_what_to_do(store: Store, model: str, message: str) -> None:
    write_small_bundle(store.root / "my-own")
    with pytest.raises(ModelNotFoundError, match=message):
        store.resolve(model)


@pytest.mark.parametrize("model", ["", "../no/such", "x" * 5000, "a\x00b", "smollm2/.."])
def test_odd_models_are_refused(store: Store, model: str) -> None:
    with pytest.raises(ModelNotFoundError):
        store.resolve(model)


def test_remove_frees_and_spares_the_rest(store: Store) -> None:
    folder = write_small_bundle(store.root / "tiny", graph=bytes(1000))
    write_small_bundle(store.root / "other")
    size = store.installed()[1].size
    assert store.remove("tiny") == size
    assert size > 1000
    assert not folder.exists()
    assert os.listdir(store.root) == ["other"]  # noqa: PTH208


def test_remove_follows_aliases_and_repositories(store: Store) -> None:
    write_small_bundle(store.root / "smollm2")
    write_small_bundle(store.root / "org--name")
    store.remove("smollm2-135m")
    store.remove("hf:org/name")
    assert store.installed() == []


@pytest.mark.parametrize("model", ["tiny", "../outside", ".", "..", "", "/tmp"])
def test_remove_refuses_what_is_not_in_the_store(store: Store, model: str) -> None:
    store.root.mkdir(parents=True)
    outside = write_small_bundle(store.root.parent / "outside")
    with pytest.raises(ModelNotFoundError):
        store.remove(model)
    with pytest.raises(ModelNotFoundError):
        store.remove(str(outside))
    assert (outside / "decoder.onnx").exists()


def test_remove_of_a_link_spares_what_it_points_to(store: Store, tmp_path: Path) -> None:
    real = write_small_bundle(tmp_path / "real")
    store.root.mkdir(parents=True)
    (store.root / "link").symlink_to(real)
    assert store.remove("link") == 0
    assert store.installed() == []
    assert (real / "decoder.onnx").exists()


def test_remove_of_what_is_being_written_is_refused(store: Store) -> None:
    folder = write_small_bundle(store.root / "tiny")
    with publishing(folder, force=True) as fresh:
        write_small_bundle(fresh)
        with pytest.raises(LockedError):
            store.remove("tiny")


@pytest.mark.parametrize("use", ["list", "resolve", "remove"])
def test_a_swap_that_was_interrupted_is_healed_on_use(store: Store, use: str) -> None:
    folder = write_small_bundle(store.root / "tiny")
    folder.rename(store.root / ".tiny.edgelm-old")
    (store.root / ".tiny.edgelm-new-0123abcd").mkdir()
    if use == "list":
        assert [entry.name for entry in store.installed()] == ["tiny"]
        assert os.listdir(store.root) == ["tiny"]  # noqa: PTH208
    elif use == "resolve":
        assert store.resolve("tiny") == folder
    else:
        store.remove("tiny")
        assert os.listdir(store.root) == []  # noqa: PTH208


def test_a_store_that_cannot_be_written_is_still_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write anywhere, so the refusal is made where every change begins: at opening the lock's file."""
    folder = write_small_bundle(store.root / "tiny")
    (store.root / ".gone.edgelm-old").mkdir()

    opened = os.open

    def read_only(path: str | Path, flags: int, *rest: int) -> int:
        if flags & os.O_CREAT:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, flags, *rest)

    monkeypatch.setattr(os, "open", read_only)
    assert [entry.name for entry in store.installed()] == ["tiny"]
    assert store.resolve("tiny") == folder
    with pytest.raises(ModelNotFoundError):
        store.resolve("gone")
