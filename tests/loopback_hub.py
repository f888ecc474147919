"""A stand-in for the model hub on 127.0.0.1: the part of its protocol that downloads and commits use, over a folder.

    with loopback_hub.start(tiny.hub(tmp_path)) as hub:
        subprocess.run([...], env=os.environ | hub.environment(tmp_path / "home"))
        assert hub.fetched("google/flan-t5-base") >= {"config.json", "model.safetensors"}

Layout of the folder: `models/<owner>/<name>/…` and `datasets/<owner>/<name>/…`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

_API = re.compile(r"/api/(models|datasets)/([^/]+(?:/[^/]+)?)(?:/(revision|tree|paths-info|preupload|commit)/(.+))?")
_FILE = re.compile(r"(/datasets)?/(?P<name>[^/]+(?:/[^/]+)?)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_OBJECT = re.compile(r"/objects/(?P<kind>[^/]+)/(?P<name>[^/]+/[^/]+)/(?P<file>.+)")
_LARGE = (".safetensors", ".bin", ".parquet")
"""What the real hub keeps as LFS objects, behind a redirect to another address."""


@dataclass
class Hub:
    """A running stand-in; its fields may be changed while it runs."""

    root: Path
    url: str = ""
    store: str = ""
    """Address of the large files, another host as it were: clients do not follow to it for metadata."""
    latency: float = 0.0
    """Seconds before each answer."""
    refuse: dict[str, int] = field(default_factory=dict)
    """Repository -> status: 403 is a gated one, 401 a private one, 5xx a hub in trouble."""
    listing: dict[str, list[str]] = field(default_factory=dict)
    """Repository -> names that its listing claims besides its files."""
    tokens: dict[str, str] = field(default_factory=dict)
    """Token -> who logs in with it, and may write to `<who>/…`."""
    expired: set[str] = field(default_factory=set)
    """Tokens that the hub no longer takes, for whatever they are sent."""
    private: set[str] = field(default_factory=set)
    """Repositories that were made private; anybody can read them here."""
    commits: dict[str, list[list[str]]] = field(default_factory=dict)
    """Repository -> the files of each commit."""
    requests: list[str] = field(default_factory=list)
    """`METHOD path`, in order."""

    def environment(self, home: Path) -> dict[str, str]:
        """Return the environment in which the libraries use this hub and the fresh cache `home`."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
        }

    def fetched(self, repository: str) -> set[str]:
        """Return the files of a repository that were downloaded."""
        paths = [request[4:] for request in self.requests if request.startswith("GET ")]
        found = [match for path in paths for match in (_FILE.fullmatch(path), _OBJECT.fullmatch(path)) if match]
        return {match["file"] for match in found if match["name"] == repository}


@dataclass
class _Repository:
    folder: Path
    claims: list[str]

    @cached_property
    def files(self) -> dict[str, bytes]:
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in paths}

    @cached_property
    def commit(self) -> str:
        digest = hashlib.sha1()  # as git's, no secret
        for name, content in self.files.items():
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
        return digest.hexdigest()

    def entry(self, name: str) -> dict[str, object]:
        content = self.files.get(name, b"")
        entry: dict[str, object] = {"type": "file", "path": name, "size": len(content), "oid": _blob(content)}
        if name.endswith(_LARGE):
            entry["lfs"] = {
                "oid": hashlib.sha256(content).hexdigest(),
                "size": len(content),
                "pointerSize": 134,
            }
        return entry

    def names(self) -> list[str]:
        return [*self.files, *self.claims]


def _blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def log_message(self, *arguments: object) -> None:
        pass

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        address = urlsplit(self.path)
        path = unquote(address.path)
        self.hub.requests.append(f"{self.command} {path}")
        time.sleep(self.hub.latency)
        if (self.headers.get("Authorization") or "").removeprefix("Bearer ") in self.hub.expired:
            self._send(401, b"", {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif match := _FILE.fullmatch(path):
            self._file("datasets" if match[1] else "models", match["name"], match["revision"], match["file"])
        elif path in ("/api/whoami-v2", "/api/repos/create", "/api/validate-yaml"):
            self._account(path.rpartition("/")[2], body)
        elif match := _API.fullmatch(path):
            self._api(match[1], match[2], match[3], match[4] or "main", body)
        elif match := _OBJECT.fullmatch(path):
            repository = self._repository(match["kind"], match["name"], "main")
            if repository is not None:
                self._content(repository.files[match["file"]], {})
        elif path in ("", "/"):
            self._send(200, b"loopback hub")
        else:
            self._send(404, b"", {"X-Error-Message": f"no such address: {path}"})

    def _repository(self, kind: str, name: str, revision: str) -> _Repository | None:
        """Return what is asked for, or answer with the hub's own error and return None."""
        status = self.hub.refuse.get(name)
        folder = self.hub.root / kind / name
        repository = _Repository(folder, self.hub.listing.get(name, []))
        if status is not None:
            code = {403: "GatedRepo", 401: "RepoNotFound"}.get(status)
            self._send(status, b"", {"X-Error-Code": code} if code else {})
        elif not folder.is_dir():
            self._send(401, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif revision not in ("main", repository.commit):
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
        else:
            return repository
        return None

    def _user(self) -> str | None:
        return self.hub.tokens.get((self.headers.get("Authorization") or "").removeprefix("Bearer "))

    def _account(self, call: str, body: bytes) -> None:
        user = self._user()
        if call == "validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif user is None:
            self._send(401, b'{"error": "Invalid credentials"}', {"X-Error-Message": "Invalid credentials"})
        elif call == "whoami-v2":
            self._json({"type": "user", "name": user, "orgs": []})
        else:
            self._create(user, json.loads(body))

    def _create(self, user: str, wanted: dict[str, str]) -> None:
        name = f"{wanted['organization'] or user}/{wanted['name']}"
        folder = self.hub.root / "models" / name
        if not name.startswith(f"{user}/"):
            self._send(
                403, b"", {"X-Error-Message": "You don't have the rights to create a model under this namespace"}
            )
        elif folder.is_dir():
            self._send(409, json.dumps({"url": f"{self.hub.url}/{name}"}).encode(), {"X-Error-Message": "It exists"})
        else:
            folder.mkdir(parents=True)
            if wanted.get("visibility") == "private":
                self.hub.private.add(name)
            self._json({"url": f"{self.hub.url}/{name}"})

    def _write(self, name: str, call: str, body: bytes) -> None:
        """Take a commit, or say before it how its files shall come: all of them inside of it, none as LFS objects."""
        if not name.startswith(f"{self._user()}/"):
            self._send(403, b"", {"X-Error-Message": "Forbidden: you must use a write token"})
        elif call == "preupload":
            paths = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False, "oid": None} for path in paths]
            self._json({"files": modes})
        else:
            files = [line["value"] for line in map(json.loads, body.splitlines()) if line["key"] == "file"]
            for file in files:
                path = self.hub.root / "models" / name / file["path"]
                path.write_bytes(base64.b64decode(file["content"]))
            self.hub.commits.setdefault(name, []).append(sorted(file["path"] for file in files))
            self._json({"commitUrl": f"{self.hub.url}/{name}/commit/main", "commitOid": "0" * 40, "success": True})

    def _api(self, kind: str, name: str, call: str | None, rest: str, body: bytes) -> None:
        revision, _, below = rest.partition("/")
        repository = self._repository(kind, name, revision)
        if repository is None:
            return
        if call in ("preupload", "commit"):
            self._write(name, call, body)
        elif call == "tree":
            recursive = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() == "true"
            below = f"{below}/" if below else ""
            names = [file for file in repository.names() if file.startswith(below)]
            entries = [repository.entry(file) for file in names if recursive or "/" not in file[len(below) :]]
            self._json(entries)
        elif call == "paths-info":
            try:
                wanted = json.loads(body)["paths"]
            except ValueError:
                wanted = parse_qs(body.decode()).get("paths", [])
            self._json([repository.entry(file) for file in wanted if file in repository.files])
        else:
            siblings = [{"rfilename": file} for file in repository.names()]
            self._json(
                {
                    "id": name,
                    "sha": repository.commit,
                    "private": False,
                    "gated": False,
                    "disabled": False,
                    "tags": [],
                }
                | {"siblings": siblings, "downloads": 0, "likes": 0}
            )

    def _file(self, kind: str, name: str, revision: str, file: str) -> None:
        repository = self._repository(kind, name, revision)
        if repository is None:
            return
        headers = {"X-Repo-Commit": repository.commit}
        content = repository.files.get(file)
        if content is None:
            self._send(404, b"", headers | {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
        elif file.endswith(_LARGE):
            digest = hashlib.sha256(content).hexdigest()
            headers |= {"X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{digest}"'}
            self._send(302, b"", headers | {"Location": f"{self.hub.store}/objects/{kind}/{name}/{file}"})
        else:
            self._content(content, headers | {"ETag": f'"{_blob(content)}"'})

    def _content(self, content: bytes, headers: dict[str, str]) -> None:
        headers = headers | {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked is None:
            self._send(200, content, headers)
            return
        first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        if first > last:
            self._send(416, b"", headers | {"Content-Range": f"bytes */{len(content)}"})
            return
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        self._send(206, content[first : last + 1], headers)

    def _json(self, content: object) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def start(root: Path, **settings: object) -> Iterator[Hub]:
    """Serve `root` for the length of the block; yields the `Hub`, whose `url` is the endpoint."""
    hub = Hub(root, **settings)
    handler = type("Handler", (_Handler,), {"hub": hub})
    with _server(handler) as hub.url, _server(handler) as hub.store:
        yield hub


@contextmanager
def hanging_up() -> Iterator[Hub]:
    """Serve nobody: each connection is closed at once, and noted in `requests`."""
    hub = Hub(Path())

    class Handler(BaseHTTPRequestHandler):
        def handle(self) -> None:
            hub.requests.append("")

    with _server(Handler) as hub.url:
        yield hub


@contextmanager
def _server(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
