"""A small hub on the loopback address, in memory: what huggingface_hub's client needs to push a model and fetch it."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

USER = "tester"
# As on the Hub, which decides by the name and the size.
LARGE = (".safetensors", ".onnx", ".bin", ".data")


@dataclass(frozen=True)
class Commit:
    """One state of a branch: every file's content."""

    oid: str
    message: str
    files: dict[str, bytes]


@dataclass
class Repository:
    """A repository's branches, each a list of commits; the first one is the Hub's own."""

    private: bool
    branches: dict[str, list[Commit]]

    def commit_at(self, revision: str) -> Commit | None:
        if revision in self.branches:
            return self.branches[revision][-1]
        every = [commit for commits in self.branches.values() for commit in commits]
        return next((commit for commit in every if commit.oid == revision), None)

    def add(self, branch: str, message: str, files: dict[str, bytes]) -> Commit:
        parents = self.branches.setdefault(branch, [])
        digest = hashlib.sha1(f"{branch} {len(parents)} {message}".encode())
        for path in sorted(files):
            digest.update(path.encode() + hashlib.sha1(files[path]).digest())
        parents.append(Commit(digest.hexdigest(), message, files))
        return parents[-1]


@dataclass
class Hub:
    """What the server holds, and where it answers."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    large_files: dict[str, bytes] = field(default_factory=dict)  # what came over LFS, by its SHA-256
    requests: list[tuple[str, str]] = field(default_factory=list)  # method and path

    def commits(self, repo_id: str, branch: str = "main") -> list[Commit]:
        """Those of clients."""
        return self.repositories[repo_id].branches[branch][1:]


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub that answers while the block runs."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


_REPO = r"(?P<repo>[^/]+/[^/]+)"
_ROUTES = [
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/repos/create", "create"),
    ("POST", r"/api/validate-yaml", "validate"),
    ("POST", rf"/api/models/{_REPO}/branch/(?P<revision>[^/]+)", "branch"),
    ("POST", rf"/api/models/{_REPO}/preupload/(?P<revision>[^/]+)", "preupload"),
    ("POST", rf"/api/models/{_REPO}/commit/(?P<revision>[^/]+)", "commit"),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", "lfs_put"),
    ("GET", rf"/api/models/{_REPO}/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?", "tree"),
    ("GET", rf"/api/models/{_REPO}(?:/revision/(?P<revision>[^/]+))?", "info"),
    ("HEAD", rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
    ("GET", rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
]


class _RefusedError(Exception):
    """A status, the code of the error and a message."""


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def _dispatch(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        self.hub.requests.append((self.command, url.path))
        for method, pattern, name in _ROUTES:
            found = re.fullmatch(pattern, url.path)
            if found and method == self.command:
                parts = {key: unquote(value) for key, value in found.groupdict().items() if value is not None}
                try:
                    getattr(self, f"_{name}")(body, **parts)
                except _RefusedError as refused:
                    self._error(*refused.args)
                return
        self._error(HTTPStatus.NOT_FOUND, "NoSuchRoute", f"{self.command} {self.path}")

    do_GET = do_HEAD = do_POST = do_PUT = _dispatch  # noqa: N815 - the base class calls them so

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def _send(self, content: bytes, status: int = HTTPStatus.OK, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, found: Any, status: int = HTTPStatus.OK, **headers: str) -> None:
        self._send(json.dumps(found).encode(), status, {"Content-Type": "application/json", **headers})

    def _error(self, status: int, code: str, message: str) -> None:
        self._json({"error": message}, status, **{"X-Error-Code": code, "X-Error-Message": message})

    def _found(self, repo: str, revision: str) -> Commit:
        if repo not in self.hub.repositories:
            raise _RefusedError(HTTPStatus.NOT_FOUND, "RepoNotFound", "Repository not found")
        commit = self.hub.repositories[repo].commit_at(revision)
        if commit is None:
            raise _RefusedError(HTTPStatus.NOT_FOUND, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def _whoami(self, body: bytes) -> None:
        self._json({"type": "user", "name": USER, "orgs": []})

    def _create(self, body: bytes) -> None:
        asked = json.loads(body)
        repo = f"{asked['organization'] or USER}/{asked['name']}"
        answer = {"url": f"{self.hub.url}/{repo}", "name": repo, "id": repo}
        if repo in self.hub.repositories:
            self._json(answer | {"error": "You already created this model repo"}, HTTPStatus.CONFLICT)
            return
        self.hub.repositories[repo] = Repository(asked.get("visibility") == "private", {})
        self.hub.repositories[repo].add("main", "initial commit", {".gitattributes": b"*.onnx filter=lfs\n"})
        self._json(answer)

    def _validate(self, body: bytes) -> None:
        try:
            _, header, _ = json.loads(body)["content"].split("---\n", 2)
            valid = isinstance(yaml.safe_load(header), dict)
        except (ValueError, yaml.YAMLError):
            valid = False
        errors = [] if valid else [{"message": "README.md has no valid YAML front matter"}]
        self._json({"errors": errors, "warnings": []}, HTTPStatus.OK if valid else HTTPStatus.BAD_REQUEST)

    def _branch(self, body: bytes, repo: str, revision: str) -> None:
        branches = self.hub.repositories[repo].branches
        if revision in branches:
            raise _RefusedError(HTTPStatus.CONFLICT, "BranchExists", f"Reference already exists: {revision}")
        branches[revision] = [branches["main"][-1]]
        self._json({})

    def _preupload(self, body: bytes, repo: str, revision: str) -> None:
        commit = self._found(repo, revision)
        files = []
        for path in (file["path"] for file in json.loads(body)["files"]):
            # By the hash the client knows which files have not changed.
            held = _hash_of(path, commit.files[path]) if path in commit.files else None
            mode = "lfs" if path.endswith(LARGE) else "regular"
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": held})
        self._json({"files": files})

    def _lfs_batch(self, body: bytes, repo: str) -> None:
        objects = json.loads(body)["objects"]
        for one in objects:
            if one["oid"] not in self.hub.large_files:
                one["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}"}}
        self._json({"transfer": "basic", "objects": objects})

    def _lfs_put(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "BadHash", "The content is not what its hash says")
        self.hub.large_files[oid] = body
        self._send(b"")

    def _commit(self, body: bytes, repo: str, revision: str) -> None:
        files, message = dict(self._found(repo, revision).files), ""
        for key, value in ((line["key"], line["value"]) for line in map(json.loads, body.splitlines())):
            if key == "header":
                message = value["summary"]
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.hub.large_files[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        oid = self.hub.repositories[repo].add(revision, message, files).oid
        self._json({"commitUrl": f"{self.hub.url}/{repo}/commit/{oid}", "commitOid": oid, "success": True})

    def _info(self, body: bytes, repo: str, revision: str = "main") -> None:
        commit = self._found(repo, revision)
        siblings = [{"rfilename": path} for path in commit.files]
        private = self.hub.repositories[repo].private
        self._json({"id": repo, "sha": commit.oid, "private": private, "tags": [], "siblings": siblings})

    def _tree(self, body: bytes, repo: str, revision: str, path: str = "") -> None:
        files = self._found(repo, revision).files
        held = {name: content for name, content in files.items() if not path or name.startswith(f"{path}/")}
        if path and not held:
            raise _RefusedError(HTTPStatus.NOT_FOUND, "EntryNotFound", f"{path} does not exist on {revision}")
        entries = []
        for name, content in held.items():
            entry = {"type": "file", "path": name, "size": len(content), "oid": _blob_id(content)}
            if name.endswith(LARGE):
                entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
            entries.append(entry)
        self._json(entries)

    def _resolve(self, body: bytes, repo: str, revision: str, path: str) -> None:
        commit = self._found(repo, revision)
        if path not in commit.files:
            raise _RefusedError(HTTPStatus.NOT_FOUND, "EntryNotFound", f"{path} does not exist on {revision}")
        content = commit.files[path]
        self._send(content, headers={"ETag": f'"{_hash_of(path, content)}"', "X-Repo-Commit": commit.oid})


def _hash_of(path: str, content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if path.endswith(LARGE) else _blob_id(content)


def _blob_id(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
