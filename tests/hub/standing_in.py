"""A server that speaks the hub's endpoints over files in memory, for its own client: model and data set information,
trees, branches, downloads by revision, gated and private repositories, tokens, and commits with large files."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN, OTHER_TOKEN = "hf_mine", "hf_other"
"""Of the user `me`, and of somebody who may read and write nothing of theirs."""
LARGE = (".safetensors", ".npy", ".parquet", ".gguf", ".bin")
"""What the hub keeps as large files."""

Files = dict[str, bytes]


def files_of(folder: Path) -> Files:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@dataclass
class Repository:
    """Commits by their hash, each all of its files; branches and tags are names of commits."""

    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    is_private: bool = False
    is_gated: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)
    """What else the hub says of it: how many weights it has, its config.json."""

    def commit(self, files: Mapping[str, bytes], branch: str = "main", message: str = "") -> str:
        sha = hashlib.sha1(f"{len(self.commits)} {branch} {sorted(files)}".encode()).hexdigest()
        self.commits[sha], self.branches[branch] = dict(files), sha
        self.messages.append(message)
        return sha

    def find(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.branches.get(revision)

    @property
    def files(self) -> Files:
        return self.commits[self.branches["main"]]


class Hub:
    """What the server holds, and what it was asked: `requests`, as "METHOD path"."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        """Large files that were uploaded, by their SHA-256."""
        self.requests: list[str] = []
        self.url = ""

    def add(self, name: str, files: Mapping[str, bytes], *, kind: str = "models", **how: Any) -> Repository:
        repository = self.repositories.setdefault(f"{kind}/{name}", Repository(**how))
        repository.commit(files)
        return repository

    def model(self, name: str) -> Repository:
        return self.repositories[f"models/{name}"]


class Refused(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status, self.code, self.message = status, code, message


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def answer(self) -> None:
        parts = urlsplit(self.path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.asked = parse_qs(parts.query)
        self.hub.requests.append(f"{self.command} {unquote(parts.path)}")
        try:
            self.route(parts.path)
        except Refused as refused:
            headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.message}
            self.send(refused.status, {"error": refused.message}, {k: v for k, v in headers.items() if v})

    def send(self, status: int, content: Any = None, headers: Mapping[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if "Content-Length" not in (headers or {}):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    @property
    def user(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in ("", TOKEN, OTHER_TOKEN):
            raise Refused(401, message="Invalid credentials in Authorization header")
        return {TOKEN: "me", OTHER_TOKEN: "other"}.get(token)

    def route(self, path: str) -> None:
        rules = {
            r"/": lambda: self.send(200, {}),
            r"/api/whoami-v2": self.whoami,
            r"/api/validate-yaml": self.validate,
            r"/api/repos/create": self.create,
            r"/api/(models|datasets)/([^/]+/[^/]+)": lambda kind, name: self.info(kind, name, "main"),
            r"/api/(models|datasets)/([^/]+/[^/]+)/revision/([^/]+)": self.info,
            r"/api/(models|datasets)/([^/]+/[^/]+)/refs": self.refs,
            r"/api/(models|datasets)/([^/]+/[^/]+)/tree/([^/]+)(?:/(.*))?": self.tree,
            r"/api/(models|datasets)/([^/]+/[^/]+)/paths-info/([^/]+)": self.paths_info,
            r"/api/(models|datasets)/([^/]+/[^/]+)/branch/([^/]+)": self.branch,
            r"/api/(models|datasets)/([^/]+/[^/]+)/preupload/([^/]+)": self.preupload,
            r"/api/(models|datasets)/([^/]+/[^/]+)/commit/([^/]+)": self.commit,
            r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch": self.large_files,
            r"/large/([0-9a-f]{64})": self.upload,
            r"/(datasets)/([^/]+/[^/]+)/resolve/([^/]+)/(.+)": self.resolve,
            r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)": lambda *on: self.resolve("models", *on),
        }
        for pattern, rule in rules.items():
            if found := re.fullmatch(pattern, path):
                rule(*(None if part is None else unquote(part) for part in found.groups()))
                return
        raise Refused(404, message=f"no such endpoint: {self.command} {path}")

    def open(self, kind: str, name: str, revision: str | None = None, *, to_write: bool = False) -> Repository:
        """A repository that this user may see, or write to."""
        user, found = self.user, self.hub.repositories.get(f"{kind}/{name}")
        is_own = user == name.partition("/")[0]
        if found is None or (found.is_private and not is_own):
            raise Refused(404 if user else 401, "RepoNotFound", "Repository not found")
        if to_write and not is_own:
            raise Refused(403 if user else 401, message="You don't have the rights to write to this repository")
        if revision is not None and found.find(revision) is None:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    def whoami(self) -> None:
        if self.user is None:
            raise Refused(401, message="Invalid username or password.")
        self.send(200, {"type": "user", "name": self.user, "orgs": []})

    def validate(self) -> None:
        card = yaml.safe_load(json.loads(self.body)["content"].split("---\n")[1])
        wrong = [] if isinstance(card.get("license", "mit"), str) else ['"license" must be a string']
        self.send(400 if wrong else 200, {"errors": [{"message": text} for text in wrong], "warnings": []})

    def create(self) -> None:
        asked = json.loads(self.body)
        owner, kind = asked.get("organization") or self.user, f"{asked.get('type') or 'model'}s"
        if self.user is None:
            raise Refused(401, message="Invalid username or password.")
        if owner != self.user:
            raise Refused(403, message=f'You don\'t have the rights to create a model under the namespace "{owner}"')
        name = f"{owner}/{asked['name']}"
        if f"{kind}/{name}" in self.hub.repositories:
            raise Refused(409, message="You already created this model repo")
        self.hub.add(name, {".gitattributes": b"*.safetensors filter=lfs\n"}, kind=kind)
        self.hub.repositories[f"{kind}/{name}"].is_private = asked.get("visibility") == "private"
        self.send(200, {"url": f"{self.hub.url}/{name}"})

    def info(self, kind: str, name: str, revision: str) -> None:
        found = self.open(kind, name, revision)
        sha = found.find(revision)
        assert sha is not None
        files = found.commits[sha]
        siblings = [
            {"rfilename": path, **(about(path, content) if "blobs" in self.asked else {})}
            for path, content in files.items()
        ]
        about_it = {"id": name, "sha": sha, "private": found.is_private, "siblings": siblings, "tags": []}
        card = re.match(r"---\n(.*?)\n---\n", files.get("README.md", b"").decode(), re.DOTALL)
        data = yaml.safe_load(card[1]) if card else {}
        self.send(200, {**about_it, **found.about, "gated": "auto" if found.is_gated else False, "cardData": data})

    def refs(self, kind: str, name: str) -> None:
        found = self.open(kind, name)
        branches = [
            {"name": branch, "ref": f"refs/heads/{branch}", "targetCommit": sha}
            for branch, sha in found.branches.items()
        ]
        self.send(200, {"branches": branches, "tags": [], "converts": []})

    def tree(self, kind: str, name: str, revision: str, inside: str | None = None) -> None:
        found = self.open(kind, name, revision)
        sha = found.find(revision)
        assert sha is not None
        start = f"{inside.strip('/')}/" if inside else ""
        files = {path: content for path, content in found.commits[sha].items() if path.startswith(start)}
        if start and not files:
            raise Refused(404, "EntryNotFound", f"{inside} does not exist on {revision}")
        is_deep = self.asked.get("recursive", ["false"])[0].lower() in ("true", "1")
        entries: dict[str, Any] = {}
        for path, content in files.items():
            folders = path.removeprefix(start).split("/")[:-1]
            for depth in range(1, len(folders) + 1):
                folder = start + "/".join(folders[:depth])
                if is_deep or depth == 1:
                    entries[folder] = {"type": "directory", "oid": "0" * 40, "size": 0, "path": folder}
            if is_deep or not folders:
                entries[path] = entry(path, content)
        self.send(200, list(entries.values()))

    def paths_info(self, kind: str, name: str, revision: str) -> None:
        found = self.open(kind, name, revision)
        sha = found.find(revision)
        assert sha is not None
        asked = (
            parse_qs(self.body.decode()).get("paths", []) if self.body[:1] != b"{" else json.loads(self.body)["paths"]
        )
        files = found.commits[sha]
        known = [entry(path, files[path]) for path in asked if path in files]
        folders = [path for path in asked if any(file.startswith(f"{path}/") for file in files)]
        known += [{"type": "directory", "oid": "0" * 40, "size": 0, "path": path} for path in folders]
        self.send(200, known)

    def resolve(self, kind: str, name: str, revision: str, path: str) -> None:
        found = self.open(kind, name, revision)
        if found.is_gated and self.user != name.partition("/")[0]:
            status = 403 if self.user else 401
            raise Refused(status, "GatedRepo", f"Access to model {name} is restricted")
        sha = found.find(revision)
        assert sha is not None
        content = found.commits[sha].get(path)
        if content is None:
            raise Refused(404, "EntryNotFound", "Entry not found")
        status, sent = 200, content
        headers = {"X-Repo-Commit": sha, "ETag": f'"{etag(path, content)}"', "Accept-Ranges": "bytes"}
        if wanted := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
            start = int(wanted[1]) if wanted[1] else len(content) - int(wanted[2])
            stop = int(wanted[2]) + 1 if wanted[1] and wanted[2] else len(content)
            status, sent = 206, content[start:stop]
            headers["Content-Range"] = f"bytes {start}-{start + len(sent) - 1}/{len(content)}"
        self.send(status, sent, headers)

    def branch(self, kind: str, name: str, branch: str) -> None:
        found = self.open(kind, name, to_write=True)
        if branch in found.branches:
            raise Refused(409, message="Reference already exists")
        start = found.find(json.loads(self.body or b"{}").get("startingPoint") or "main")
        assert start is not None
        found.branches[branch] = start
        self.send(200, {})

    def preupload(self, kind: str, name: str, revision: str) -> None:
        found = self.open(kind, name, revision, to_write=True)
        sha = found.find(revision)
        assert sha is not None
        now = found.commits[sha]
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if is_large(file["path"]) else "regular",
                "shouldIgnore": False,
                **({"oid": etag(file["path"], now[file["path"]])} if file["path"] in now else {}),
            }
            for file in json.loads(self.body)["files"]
        ]
        self.send(200, {"files": files})

    def large_files(self, name: str) -> None:
        self.open("models", name, to_write=True)
        objects = []
        for each in json.loads(self.body)["objects"]:
            where = {"upload": {"href": f"{self.hub.url}/large/{each['oid']}"}}
            is_new = each["oid"] not in self.hub.objects
            objects.append({**each, "authenticated": True, **({"actions": where} if is_new else {})})
        self.send(200, {"transfer": "basic", "objects": objects})

    def upload(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refused(400, message="these are other bytes")
        self.hub.objects[oid] = self.body
        self.send(200, {})

    def commit(self, kind: str, name: str, revision: str) -> None:
        found = self.open(kind, name, revision, to_write=True)
        before = found.find(revision)
        assert before is not None
        header, *changes = [json.loads(line) for line in self.body.splitlines()]
        parent = header["value"].get("parentCommit", before)
        if parent != before:
            raise Refused(412, message="A commit has happened since. Please refresh and try again.")
        files = dict(found.commits[before])
        for change in changes:
            value, path = change["value"], change["value"]["path"]
            match change["key"]:
                case "file":
                    files[path] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[path] = self.hub.objects[value["oid"]]
                case "deletedFile":
                    del files[path]
        sha = found.commit(files, revision, header["value"]["summary"])
        self.send(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{sha}", "commitOid": sha})


def is_large(path: str) -> bool:
    return path.endswith(LARGE)


def etag(path: str, content: bytes) -> str:
    """The SHA-256 of a large file, and what git calls any other."""
    if is_large(path):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0%s" % (len(content), content)).hexdigest()


def about(path: str, content: bytes) -> dict[str, Any]:
    large = {"sha256": etag(path, content), "size": len(content), "pointerSize": 130}
    return {"size": len(content), "blobId": etag(path, content)[:40], **({"lfs": large} if is_large(path) else {})}


def entry(path: str, content: bytes) -> dict[str, Any]:
    large = {"oid": etag(path, content), "size": len(content), "pointerSize": 130}
    found = {"type": "file", "path": path, "size": len(content), "oid": etag(path, content)[:40]}
    return {**found, **({"lfs": large} if is_large(path) else {})}


@contextmanager
def served(hub: Hub) -> Iterator[Hub]:
    """The hub at `hub.url` of this machine, until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
