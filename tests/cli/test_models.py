"""``edgelm list``, ``show`` and ``rm``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from click.testing import Result
from support.bundles import write_decoder_bundle
from support.command_line import edgelm

from edgelm.bundle.catalog import load_catalog
from edgelm.cli.units import age_text, size_text, table

Invoke = Callable[..., Result]


def test_list(invoke: Invoke, home: Path) -> None:
    (home / "models" / "broken").mkdir()
    (home / "models" / "broken" / "edgelm.json").write_text("{")
    result = invoke("list")
    assert result.exit_code == 0
    header, broken, tiny = result.stdout.splitlines()
    assert header.split() == ["NAME", "SIZE", "SCHEME", "ARCHITECTURE", "MODIFIED"]
    assert tiny.split()[0] == "tiny"
    assert "fp32" in tiny
    assert "just now" in tiny
    assert broken.split()[:4] == ["broken", "1", "B", "broken"]
    assert result.stderr.startswith("edgelm: warning: broken is broken: edgelm.json: not valid JSON")


def test_list_json(invoke: Invoke, home: Path) -> None:
    (entry,) = json.loads(invoke("list", "--json").stdout)
    assert (entry["name"], entry["installed"], entry["scheme"]) == ("tiny", True, "fp32")
    assert entry["size"] == sum(file.stat().st_size for file in (home / "models" / "tiny").iterdir())
    names = [entry["name"] for entry in json.loads(invoke("list", "--json", "--all").stdout)]
    assert names == ["tiny", *load_catalog().entries]


def test_list_all_and_nothing(invoke: Invoke) -> None:
    available = invoke("list", "--available").stdout
    assert "smollm2 " in available
    assert "llama3.2 (to accept)" in available
    invoke("rm", "tiny")
    result = invoke("list")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no model is installed" in result.stderr


def test_show(invoke: Invoke, home: Path) -> None:
    folder = home / "models" / "tiny"
    write_decoder_bundle(folder, quality={"kl": 0.004, "perplexity": 24.4, "reference_perplexity": 24.3, "x": 1.0})
    text = invoke("show", "tiny").stdout
    for words in ("llama (decoder)", "64 tokens", "fp32", "Apache-2.0", "test:tiny", str(folder), "decoder.onnx.data"):
        assert words in text, words
    assert "KL divergence from fp32 (nats)  0.004\n" in text
    assert "perplexity of fp32              24.3\n" in text
    assert invoke("show", str(folder)).stdout == text


def test_show_json_with_memory(invoke: Invoke) -> None:
    values = json.loads(invoke("show", "tiny", "--json", "--memory").stdout)
    assert values["architecture"] == "llama"
    (need,) = values["memory"]
    assert need["tokens"] == 64
    assert need["total"] == sum(size for part, size in need.items() if part not in ("tokens", "kv_type", "total"))
    table = invoke("show", "tiny", "--memory").stdout
    assert "TOKENS" in table
    assert size_text(need["total"]) in table


def test_show_what_is_not_installed(invoke: Invoke) -> None:
    result = invoke("show", "smollm2")
    assert result.exit_code == 0
    assert "Apache-2.0" in result.stdout
    assert "edgelm pull smollm2" in result.stderr
    assert "None" not in result.stdout
    assert "about 93 MB" in result.stdout
    assert json.loads(invoke("show", "smollm2", "--json").stdout)["download_size"] == 93_000_000
    for command in (["smollm3"], ["./nowhere"], ["hf:org/other"]):
        refused = invoke("show", *command)
        assert (refused.exit_code, refused.stdout) == (2, "")


def test_rm_frees_the_prepacked_copy_as_well(invoke: Invoke, home: Path) -> None:
    assert invoke("run", "tiny", "hello").exit_code == 0
    assert len([path for path in (home / "prepacked").iterdir() if path.is_dir()]) == 1
    copy = sum(file.stat().st_size for file in home.glob("prepacked/*/*"))
    size = copy + sum(file.stat().st_size for file in home.glob("models/tiny/*"))
    result = invoke("rm", "tiny")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"deleted tiny, {size_text(size)} freed, of which {size_text(copy)} in its prepacked copy\n"
    assert not (home / "models" / "tiny").exists()
    assert not [path for path in (home / "prepacked").iterdir() if path.is_dir()]


def test_rm_goes_on_after_an_error(invoke: Invoke, home: Path) -> None:
    (home / "models" / "broken").mkdir()
    (home / "models" / "broken" / "edgelm.json").write_text("{")
    result = invoke("rm", "nope", "neither", "tiny", "broken")
    assert result.exit_code == 2
    assert "no model 'nope' is installed" in result.stderr
    assert "no model 'neither' is installed" in result.stderr
    assert not any((home / "models" / name).exists() for name in ("tiny", "broken"))


def test_rm_clears_the_cache(invoke: Invoke, home: Path) -> None:
    assert invoke("run", "tiny", "hello").exit_code == 0
    old = home / "prepacked" / "of-an-old-version" / "graph.onnx"
    old.parent.mkdir()
    old.write_bytes(bytes(3_000_000))
    result = invoke("rm", "--cache")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith("cleared the cache, 3.0")
    assert sorted(path.name for path in home.iterdir() if any(path.iterdir())) == ["models"]
    assert invoke("run", "tiny", "hello").exit_code == 0
    assert "name the models to delete, or give --cache" in invoke("rm").stderr


def test_rm_takes_no_path(invoke: Invoke, home: Path) -> None:
    result = invoke("rm", str(home / "models" / "tiny"))
    assert result.exit_code == 2
    assert (home / "models" / "tiny").exists()


def test_a_model_without_a_manifest(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for command, *arguments in (("show",), ("run", "hello"), ("bench",)):
        result = invoke(command, str(tmp_path / "empty"), *arguments)
        assert result.exit_code == 2
        assert "edgelm.json is missing" in result.stderr


def test_python_dash_m(home: Path) -> None:
    assert b"tiny" in edgelm("list").stdout


def test_units() -> None:
    assert [size_text(n) for n in (0, 999, 1000, 93_000_000, 999_600_000, 1.5e9, 2e15)] == [
        "0 B",
        "999 B",
        "1 kB",
        "93 MB",
        "1 GB",
        "1.5 GB",
        "2e+03 TB",
    ]
    assert age_text(float(1 << 40)) == "just now"
    assert age_text(0).endswith(" days ago")
    assert table(("A", "B"), [("long", "x"), ("s", "")]) == "A     B\nlong  x\ns"
