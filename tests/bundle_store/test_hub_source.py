"""Every fetch runs in a process of its own: huggingface_hub reads its environment once, when it is imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.hub import TOKEN, Hub, Repo, hub_stand_in

WEIGHTS = os.urandom(1 << 20)
MODEL = {"config.json": b"{}", "tokenizer.json": b'{"version": "1.0"}', "model.safetensors": WEIGHTS}

CLIENT = """
import json, sys
from edgelm.bundle.fetch import fetch
from edgelm.bundle.sources import parse_source
from edgelm.errors import EdgeLMError
from support.progress import RecordedProgress

def outcome(call):
    progress = RecordedProgress()
    try:
        got = fetch(parse_source(call.pop("source")), progress=progress, **call)
    except EdgeLMError as error:
        kinds = [kind.__name__ for kind in type(error).__mro__]
        return {"error": kinds, "message": str(error), "open": progress.open}
    return {"path": str(got.path), "uri": got.uri, "revision": got.revision, "sha256": got.sha256,
            "transfers": progress.transfers, "open": progress.open}

print(json.dumps([outcome(call) for call in json.loads(sys.argv[1])]))
"""


@dataclass
class Client:
    """Runs fetches in a process whose environment knows no hub but the stand-in."""

    hub: Hub
    home: Path

    def all(self, *calls: dict[str, Any], **environment: str) -> list[dict[str, Any]]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        ours = {
            "HF_ENDPOINT": self.hub.url,
            "HF_HOME": str(self.home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "PYTHONWARNINGS": "error",
        }
        done = subprocess.run(
            [sys.executable, "-c", CLIENT, json.dumps(calls)],
            env=kept | ours | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        outcomes: list[dict[str, Any]] = json.loads(done.stdout)
        assert all(outcome["open"] == 0 for outcome in outcomes)
        assert all("\n" not in outcome.get("message", "") for outcome in outcomes)
        return outcomes

    def one(self, source: str, *, offline: bool = False, **environment: str) -> dict[str, Any]:
        return self.all({"source": source, "offline": offline}, **environment)[0]


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with hub_stand_in() as hub:
        yield Client(hub, tmp_path / "with spaces and 🦙")


def test_a_model_is_downloaded_pinned_and_kept(client: Client) -> None:
    extra = {
        "chat_template.jinja": b"chat_template.jinja",
        "merges.txt": b"merges.txt",
        "spiece.model": b"spiece.model",
        "source.spm": b"source.spm",
        "1_Pooling/config.json": b"pooling",
    }
    unwanted = {
        "README.md": b"x",
        "modeling_evil.py": b"x",
        "pytorch_model.bin": b"x",
        "model.gguf": b"x",
        "data.model": b"x",
        "consolidated.safetensors": b"x",
        "onnx/model.safetensors": b"x",
        "original/params.json": b"x",
        "10/config.json": b"x",
    }
    repo = client.hub.repos["org/name"] = Repo({**MODEL, **extra, **unwanted})
    first, again, offline, pinned_offline = client.all(
        {"source": "hf:org/name"},
        {"source": "hf:org/name"},
        {"source": "hf:org/name", "offline": True},
        {"source": f"hf:org/name@{repo.commit}", "offline": True},
    )
    folder = Path(first["path"])
    assert folder.is_relative_to(client.home)
    assert (first["uri"], first["revision"], first["sha256"]) == ("hf:org/name", repo.commit, None)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    present = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert present == sorted([*MODEL, *extra])
    assert client.hub.downloaded() == present
    total = sum(len(data) for data in {**MODEL, **extra}.values())
    assert first["transfers"][0][:2] == ["downloading org/name", total]
    assert first["transfers"][0][2] >= len(WEIGHTS)
    for outcome in (again, offline, pinned_offline):
        assert (outcome["path"], outcome["revision"]) == (first["path"], repo.commit)
    assert sum(request.path.endswith("model.safetensors") for request in client.hub.requests) <= 2  # HEAD and GET


def test_the_hubs_own_variables_hold(client: Client, tmp_path: Path) -> None:
    client.hub.repos["org/name"] = Repo(MODEL)
    assert Path(client.one("hf:org/name", HF_HUB_CACHE=str(tmp_path / "own cache"))["path"]).is_relative_to(
        tmp_path / "own cache"
    )
    outcome = client.one("hf:org/name", HF_HUB_OFFLINE="1")
    assert "DownloadError" in outcome["error"]


def test_a_revision_is_pinned(client: Client) -> None:
    old = client.hub.repos["org/name"] = Repo(MODEL, tags=("main", "v1"))
    by_tag = client.one("hf:org/name@v1")
    assert (by_tag["uri"], by_tag["revision"]) == ("hf:org/name", old.commit)
    new = client.hub.repos["org/name"] = Repo({**MODEL, "config.json": b'{"new": 1}'})
    newest, by_commit, gone = client.all(
        {"source": "hf:org/name"},
        {"source": f"hf:org/name@{new.commit}"},
        {"source": "hf:org/name@v2"},
    )
    assert newest["revision"] == by_commit["revision"] == new.commit != old.commit
    assert gone["error"][0] == "ModelNotFoundError"
    assert "'v2'" in gone["message"]


def test_a_cut_connection_is_resumed(client: Client) -> None:
    large = WEIGHTS * 12  # the library keeps what has come in pieces of 10 MiB
    client.hub.repos["org/name"] = Repo({**MODEL, "model.safetensors": large})
    client.hub.cut["model.safetensors"] = len(large) - 100_000
    outcome = client.one("hf:org/name")
    if "error" in outcome:  # older versions resume at the next call, not within one
        assert "DownloadError" in outcome["error"]
        outcome = client.one("hf:org/name")
    assert (Path(outcome["path"]) / "model.safetensors").read_bytes() == large
    ranges = [request.range for request in client.hub.requests if request.path.endswith("model.safetensors")]
    assert any(asked and asked.startswith("bytes=") and asked != "bytes=0-" for asked in ranges)


def test_what_the_hub_refuses(client: Client) -> None:
    client.hub.repos["org/gated"] = Repo(MODEL, gated=True)
    missing, gated = client.all({"source": "hf:org/missing"}, {"source": "hf:org/gated"})
    assert missing["error"][0] == "ModelNotFoundError"
    assert "org/missing" in missing["message"]
    assert gated["error"][0] == "DownloadError"
    assert f"{client.hub.url}/org/gated" in gated["message"]
    assert "HF_TOKEN" in gated["message"]
    client.hub.anonymous_401 = True
    hidden = client.one("hf:org/missing")
    assert hidden["error"][0] == "DownloadError"
    assert "check the name" in hidden["message"]
    assert "HF_TOKEN" in hidden["message"]


def test_a_token_opens_a_gated_model(client: Client) -> None:
    repo = client.hub.repos["org/gated"] = Repo(MODEL, gated=True)
    assert client.one("hf:org/gated", HF_TOKEN=TOKEN)["revision"] == repo.commit


def test_pickles_are_refused_before_anything_is_downloaded(client: Client) -> None:
    client.hub.repos["org/pickle"] = Repo({"config.json": b"{}", "pytorch_model.bin": b"x"})
    client.hub.repos["org/gguf"] = Repo({"config.json": b"{}", "model.gguf": b"x"})
    client.hub.repos["org/deep"] = Repo({"config.json": b"{}", "onnx/model.safetensors": b"x"})
    pickle, gguf, deep = client.all(*({"source": f"hf:org/{name}"} for name in ("pickle", "gguf", "deep")))
    assert [outcome["error"][0] for outcome in (pickle, gguf, deep)] == ["UnsupportedModelError"] * 3
    assert "pickles" in pickle["message"]
    assert "safetensors" in gguf["message"]
    assert client.hub.downloaded() == []


def test_what_the_disk_cannot_hold_is_not_downloaded(client: Client) -> None:
    client.hub.repos["org/name"] = Repo(MODEL)
    client.hub.claims["model-2.safetensors"] = 10**18
    outcome = client.one("hf:org/name")
    assert outcome["error"][0] == "StorageError"
    assert f"{client.home / 'hub'}: downloading org/name takes 1000000000001 MB, and " in outcome["message"]
    assert client.hub.downloaded() == []


def test_offline_asks_nothing(client: Client) -> None:
    client.hub.repos["org/name"] = Repo(MODEL)
    outcome = client.one("hf:org/name", offline=True)
    assert outcome["error"][0] == "DownloadError"
    assert "not in the hub's cache, and downloading is switched off (offline)" in outcome["message"]
    assert client.hub.requests == []


def test_without_a_network_the_cache_serves(client: Client) -> None:
    repo = client.hub.repos["org/name"] = Repo(MODEL)
    assert client.one("hf:org/name")["revision"] == repo.commit
    closed = "http://127.0.0.1:9"
    calls = {"source": "hf:org/name"}, {"source": "hf:org/other"}
    for kept, other in (client.all(*calls, HF_ENDPOINT=closed), _with_broken_hub(client, *calls)):
        assert kept["revision"] == repo.commit
        assert other["error"][-1] == "object"
        assert "DownloadError" in other["error"]
        assert "org/other is not in the hub's cache, and the " in other["message"]


def _with_broken_hub(client: Client, *calls: dict[str, Any]) -> list[dict[str, Any]]:
    client.hub.broken = True
    return client.all(*calls)


def test_an_index_that_cannot_be_read_is_not_taken_for_the_models(client: Client) -> None:
    """Python's own reader gives up with a RecursionError."""
    client.hub.repos["org/name"] = Repo({**MODEL, "model.safetensors.index.json": b"[" * 200_000})
    client.one("hf:org/name")
    outcome = client.one("hf:org/name", offline=True)
    assert "DownloadError" in outcome["error"]
    assert "is only partly in the hub's cache" in outcome["message"]


def test_a_partial_cache_is_not_taken_for_the_model(client: Client) -> None:
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    files = {
        "config.json": b"{}",
        "model.safetensors.index.json": json.dumps(index).encode(),
        "model-1.safetensors": b"1",
        "model-2.safetensors": b"2",
    }
    client.hub.repos["org/name"] = Repo(files)
    folder = Path(client.one("hf:org/name")["path"])
    (folder / "model-2.safetensors").unlink()
    outcome = client.one("hf:org/name", offline=True)
    assert "DownloadError" in outcome["error"]
    assert "in the hub's cache" in outcome["message"]


def altered(data: bytes) -> bytes:
    """Other bytes, of the same number."""
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize(("name", "kind"), [("model.safetensors", "SHA-256"), ("config.json", "git hash")])
def test_content_that_is_not_what_the_hub_lists_is_refused_and_not_kept(client: Client, name: str, kind: str) -> None:
    client.hub.repos["org/name"] = Repo(MODEL)
    client.hub.changed[name] = altered(MODEL[name])
    outcome = client.one("hf:org/name")
    assert "IntegrityError" in outcome["error"]
    assert f"{name} of hf:org/name has the {kind} " in outcome["message"]
    client.hub.changed.clear()
    outcome = client.one("hf:org/name")
    assert (Path(outcome["path"]) / name).read_bytes() == MODEL[name]


@pytest.mark.parametrize(("name", "kind"), [("model.safetensors", "SHA-256"), ("config.json", "git hash")])
def test_what_rotted_in_the_cache_is_refused_without_a_network_too(client: Client, name: str, kind: str) -> None:
    client.hub.repos["org/name"] = Repo({**MODEL, "README.md": b"x"})
    folder = Path(client.one("hf:org/name")["path"])
    (folder / name).write_bytes(altered(MODEL[name]))
    outcome = client.one("hf:org/name", offline=True)
    assert "IntegrityError" in outcome["error"]
    assert f"{name} of hf:org/name has the {kind} " in outcome["message"]
    outcome = client.one("hf:org/name")
    assert (Path(outcome["path"]) / name).read_bytes() == MODEL[name]


@pytest.mark.parametrize(
    "name", ["1_x/../../../../../../precious.json", "/precious.json", "C:precious.json", "1_x//a.txt"]
)
def test_a_name_that_leads_out_of_the_cache_is_refused(client: Client, tmp_path: Path, name: str) -> None:
    precious = tmp_path / "precious.json"
    precious.write_bytes(b"{}")
    client.hub.repos["org/name"] = Repo(MODEL)
    client.hub.claims[name] = 2
    outcome = client.one("hf:org/name")
    assert outcome["error"][0] == "DownloadError"
    assert f"hf:org/name lists the file {name!r}, whose name " in outcome["message"]
    assert client.hub.downloaded() == []
    assert precious.exists()


def test_a_branch_that_moves_on_meanwhile_is_checked_by_what_it_has_become(client: Client) -> None:
    newer = Repo({**MODEL, "config.json": b'{"newer": 1}'})
    client.hub.repos["org/name"], client.hub.moves["org/name"] = Repo(MODEL), newer
    client.hub.changed["model.safetensors"] = altered(WEIGHTS)
    outcome = client.one("hf:org/name")
    assert "IntegrityError" in outcome["error"]
    assert "model.safetensors of hf:org/name" in outcome["message"]
    client.hub.changed.clear()
    client.hub.repos["org/name"], client.hub.moves["org/name"] = Repo(MODEL), newer
    assert client.one("hf:org/name")["revision"] == newer.commit


def test_a_hash_pins_no_repository(client: Client) -> None:
    (outcome,) = client.all({"source": "hf:org/name", "sha256": "a" * 64})
    assert outcome["error"][0] == "ConfigError"
    assert "@COMMIT" in outcome["message"]
    assert client.hub.requests == []


def test_an_answer_that_is_not_the_hubs_is_a_download_error(client: Client) -> None:
    answers = [b"<html>Welcome, please log in</html>", b"{}", b"[]", b'{"id": "org/name", "siblings": []}', b"\xff"]
    client.hub.foreign = list(answers)
    for outcome in client.all(*({"source": "hf:org/name"} for _ in answers)):
        assert "DownloadError" in outcome["error"]
        assert "hub" in outcome["message"]
    assert client.hub.foreign == []


def test_without_the_library_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "huggingface_hub.py").write_text("raise ImportError('not here')")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from edgelm.bundle.fetch import fetch\n"
        "from edgelm.bundle.sources import HubSource\n"
        "from edgelm.errors import MissingDependencyError\n"
        "try:\n    fetch(HubSource('org/name'))\n"
        "except MissingDependencyError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'edgelm[tools]'" in done.stdout
