"""A stand-in for the Hugging Face hub on the loopback address, as far as downloads use it.

It serves ``/api/models/REPO[/revision/REV]``, ``/api/models/REPO/tree/REV`` and ``/REPO/resolve/REV/FILE`` (HEAD and
GET, with ranges), and answers as the hub does where a repository or revision is missing, or is gated.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_a_token_of_the_test"

_API = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(?:/(?P<kind>revision|tree)/(?P<revision>[^/]+))?")
_FILE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)")


@dataclass
class Repo:
    """A repository; ``commit`` follows from the files. ``gated``: files only for the bearer of ``TOKEN``."""

    files: Mapping[str, bytes]
    gated: bool = False
    tags: tuple[str, ...] = ("main",)

    @property
    def commit(self) -> str:
        digest = hashlib.sha1()
        for name in sorted(self.files):
            digest.update(name.encode() + b"\0" + self.files[name])
        return digest.hexdigest()


@dataclass(frozen=True)
class Request:
    """What a client asked for; ``range`` is the header's text."""

    method: str
    path: str
    range: str | None


@dataclass
class Hub:
    """``url``: for HF_ENDPOINT; ``cut``: file name → bytes after which its next GET is cut off; ``broken``: answer
    500 to everything; ``changed``: file name → what is served in the place of the content that is listed; ``foreign``:
    answers that are not the hub's, one for each next request, as a hotel's network has;
    ``anonymous_401``: a missing repository is answered as the hub answers those without a token; ``moves``: name of a
    repository → what it becomes as soon as it was listed; ``claims``: file name → size of what every repository lists
    beside what it has.
    """

    repos: dict[str, Repo] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    broken: bool = False
    changed: dict[str, bytes] = field(default_factory=dict)
    foreign: list[bytes] = field(default_factory=list)
    anonymous_401: bool = False
    moves: dict[str, Repo] = field(default_factory=dict)
    claims: dict[str, int] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    url: str = ""

    def downloaded(self) -> list[str]:
        """Names of all files whose content was asked for, sorted."""
        found = (_FILE.fullmatch(request.path) for request in self.requests if request.method == "GET")
        return sorted({match["name"] for match in found if match})


@contextmanager
def hub_stand_in() -> Iterator[Hub]:
    """Serves a hub on a free port until the block ends."""
    hub = Hub()

    class Handler(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    served: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.served.requests.append(Request(self.command, path, self.headers.get("Range")))
        match = _API.fullmatch(path) or _FILE.fullmatch(path)
        if self.served.broken:
            return self._error(500, "", "out of order")
        if self.served.foreign:
            return self._body(200, self.served.foreign.pop(0), {"Content-Type": "text/html"})
        repo = self.served.repos.get(match["repo"]) if match else None
        if repo is None or match is None:
            return self._error(401 if self.served.anonymous_401 else 404, "RepoNotFound", "Repository not found")
        revision = match["revision"] or "main"
        if revision not in (*repo.tags, repo.commit):
            return self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if path.startswith("/api/"):
            self.served.repos[match["repo"]] = self.served.moves.pop(match["repo"], repo)
            info = _info(match["repo"], repo, self.served.claims)
            return self._json(_tree(repo) if match["kind"] == "tree" else info)
        if repo.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._error(401, "GatedRepo", f"Access to model {match['repo']} is restricted.")
        return self._file(repo, match["name"])

    def _file(self, repo: Repo, name: str) -> None:
        data = self.served.changed.get(name, repo.files.get(name))
        if data is None:
            return self._error(404, "EntryNotFound", "Entry not found")
        first = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - first))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{_etag(name, repo.files.get(name, data))}"')
        self.send_header("X-Repo-Commit", repo.commit)
        self.end_headers()
        if self.command == "HEAD":
            return None
        cut = self.served.cut.pop(name, None)
        self.wfile.write(data[first:cut])
        if cut is not None:
            self.close_connection = True
        return None

    def _json(self, value: object) -> None:
        self._body(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str, message: str) -> None:
        self._body(status, json.dumps({"error": message}).encode(), {"X-Error-Code": code, "X-Error-Message": message})

    def _body(self, status: int, data: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _info(name: str, repo: Repo, claims: Mapping[str, int]) -> dict[str, object]:
    files = [_sibling(file, data) for file, data in repo.files.items()]
    files += [{"rfilename": file, "size": size, "blobId": "0" * 40} for file, size in claims.items()]
    return {"id": name, "modelId": name, "sha": repo.commit, "siblings": files, "private": False, "tags": []}


def _sibling(name: str, data: bytes) -> dict[str, object]:
    """As the hub lists a file: weights lie in its store of large files."""
    facts: dict[str, object] = {"rfilename": name, "size": len(data)}
    facts["blobId"] = _git_hash(data)
    if name.endswith(".safetensors"):
        facts["lfs"] = {"sha256": _etag(name, data), "size": len(data), "pointerSize": 134}
    return facts


def _etag(name: str, data: bytes) -> str:
    return hashlib.sha256(data).hexdigest() if name.endswith(".safetensors") else _git_hash(data)


def _git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _tree(repo: Repo) -> list[dict[str, object]]:
    return [
        {"type": "file", "path": file, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
        for file, data in repo.files.items()
    ]
