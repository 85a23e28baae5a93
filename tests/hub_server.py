"""A Hub on this machine: what ``huggingface_hub`` asks for to read, create and change repositories of models.

It speaks the file interface of the Hugging Face Hub over HTTP on 127.0.0.1: files by revision with their commits and
checksums, large files at another address, private repositories, broken transfers, uploads by preupload, LFS and commit.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_local"
"""The token of the one user, ``me``."""

LARGE = (".safetensors", ".ckpt")
"""Files that the Hub keeps apart from the others."""


@dataclass
class Repository:
    """A repository: files by path at each commit, and commits by the names of branches and tags."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, files: Mapping[str, bytes], branch: str = "main", message: str = "") -> str:
        """Add a commit with all of these files; returns its checksum."""
        content = b"".join(name.encode() + data for name, data in sorted(files.items()))
        checksum = hashlib.sha1(content + str(len(self.commits)).encode()).hexdigest()
        self.commits[checksum] = dict(files)
        self.names[branch] = checksum
        self.messages.append(message)
        return checksum

    def find(self, revision: str) -> str | None:
        """The commit of a branch, a tag or a commit."""
        return self.names.get(revision, revision if revision in self.commits else None)

    @property
    def files(self) -> dict[str, bytes]:
        """The files of the main branch."""
        return self.commits[self.names["main"]] if "main" in self.names else {}


class LocalHub:
    """The server, its repositories, and what was asked of it.

    Attributes
    ----------
    repositories : dict of str to Repository
        By id, ``name/model``.
    asked : list of (str, str)
        Method and path of each request.
    breaks : dict of str to int
        How often the transfer of a file, by its name, breaks in the middle; -1 for always.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, tuple[str, bytes]] = {}
        self.asked: list[tuple[str, str]] = []
        self.breaks: dict[str, int] = {}
        self.sent = 0
        """Bytes of files that were sent."""
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.storage = f"http://localhost:{self.server.server_port}"
        """Where large files are: another host for those who ask, as the Hub has it."""

    def add(self, name: str, files: Mapping[str, bytes], private: bool = False) -> Repository:
        """Add a repository with one commit, or a commit to one that is there."""
        repository = self.repositories.setdefault(name, Repository(private))
        repository.commit(files)
        return repository

    def transfers(self) -> list[str]:
        """The paths of the files whose content was asked for."""
        return [path for method, path in self.asked if method == "GET" and ("/resolve/" in path or "/large/" in path)]

    def variables(self, cache: str) -> dict[str, str]:
        """The environment of a process that is to use this Hub, with a cache of its own."""
        return {
            "HF_ENDPOINT": self.url, "HF_HOME": cache, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost",
        }  # fmt: skip

    @contextlib.contextmanager
    def running(self) -> Iterator[LocalHub]:
        """A context in which it answers."""
        thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.server.shutdown()
            self.server.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._get()

    def do_GET(self) -> None:
        self._get()

    def do_PUT(self) -> None:
        self._note()
        oid = self.path.rpartition("/")[2]
        content = self._body()
        if hashlib.sha256(content).hexdigest() != oid:
            return self._fail(400, message="another checksum")
        self.hub.large[oid] = ("", content)
        self._answer(b"")

    def do_POST(self) -> None:
        path, body = self._note(), self._body()
        if path == "/api/validate-yaml":
            return self._json(_check_card(json.loads(body)["content"]))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._fail(401, message="Invalid username or password.")
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            if not name.startswith("me/"):
                return self._fail(403, message="You don't have the rights to create a model under this namespace")
            if name in self.hub.repositories:
                told = {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"}
                return self._json(told, 409)
            self.hub.repositories[name] = Repository(
                asked.get("visibility") == "private" or asked.get("private", False)
            )
            return self._json({"url": f"{self.hub.url}/{name}", "name": name, "id": name})
        if match := re.fullmatch(r"/(.+/.+)\.git/info/lfs/objects/batch", path):
            objects = [
                {
                    **each, "authenticated": True,
                    "actions": {"upload": {"href": f"{self.hub.url}/large/{each['oid']}", "header": {}}},
                }
                for each in json.loads(body)["objects"]
            ]  # fmt: skip
            return self._json({"transfer": "basic", "objects": objects})
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit|branch)/(.+)", path):
            name, kind, revision = match[1], match[2], unquote(match[3])
            repository = self.hub.repositories.get(name)
            if repository is None or not name.startswith("me/"):
                return self._fail(403 if repository else 404, "" if repository else "RepoNotFound", "no write access")
            if kind == "branch":
                if revision in repository.names:
                    return self._fail(409, message="Reference already exists")
                repository.names[revision] = repository.names["main"]
                return self._json({})
            if kind == "preupload":
                files = [
                    {
                        "path": each["path"], "shouldIgnore": False,
                        "uploadMode": "lfs" if each["path"].endswith(LARGE) else "regular",
                    }
                    for each in json.loads(body)["files"]
                ]  # fmt: skip
                return self._json({"files": files})
            return self._commit(repository, name, revision, [json.loads(line) for line in body.splitlines() if line])
        return self._fail(404, message=f"nothing at {path}")

    def _commit(self, repository: Repository, name: str, branch: str, lines: list[dict[str, Any]]) -> None:
        files = dict(repository.commits.get(repository.names.get(branch, ""), {}))
        message = ""
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]][1]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        checksum = repository.commit(files, branch, message)
        self._json(
            {
                "success": True,
                "commitOid": checksum,
                "commitUrl": f"{self.hub.url}/{name}/commit/{checksum}",
                "hookOutput": "",
            }
        )

    def _get(self) -> None:
        path = self._note()
        if match := re.fullmatch(r"/large/(\w+)", path):
            return self._send(*self.hub.large[match[1]], {})
        if path == "/api/whoami-v2":
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self._fail(401, message="Invalid credentials in Authorization header")
            return self._json({"type": "user", "name": "me", "orgs": [], "auth": {"accessToken": {"role": "write"}}})
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._file(match[1], unquote(match[2]), unquote(match[3]))
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+?)(?:/(revision|tree)/([^/?]+))?", path):
            found = self._find(match[1], unquote(match[3] or "main"))
            if found is None:
                return None
            checksum, files = found
            if match[2] == "tree":
                entries = [
                    {
                        "type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest(),
                        **({"lfs": {"oid": _checksum(data), "size": len(data)}} if name.endswith(LARGE) else {}),
                    }
                    for name, data in files.items()
                ]  # fmt: skip
                return self._json(entries)
            siblings = [{"rfilename": name} for name in files]
            private = self.hub.repositories[match[1]].private
            return self._json({"_id": "1", "id": match[1], "sha": checksum, "private": private, "siblings": siblings})
        return self._fail(404, message=f"nothing at {path}")

    def _find(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit and the files of a revision; fails as the Hub does if they are not to be had."""
        repository = self.hub.repositories.get(name)
        allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repository is None or (repository.private and not allowed):
            # the Hub does not tell whether a private model exists
            self._fail(404 if allowed else 401, "RepoNotFound", "Repository not found")
            return None
        checksum = repository.find(revision)
        if checksum is None and not (revision == "main" and not repository.commits):
            self._fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return checksum or "0" * 40, repository.commits.get(checksum or "", {})

    def _file(self, name: str, revision: str, path: str) -> None:
        found = self._find(name, revision)
        if found is None:
            return
        checksum, files = found
        headers = {"X-Repo-Commit": checksum}
        if path not in files:
            return self._fail(404, "EntryNotFound", "Entry not found", headers)
        content = files[path]
        if not path.endswith(LARGE):
            return self._send(path, content, {**headers, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'})
        oid = _checksum(content)
        self.hub.large[oid] = (path, content)
        headers |= {"X-Linked-ETag": f'"{oid}"', "X-Linked-Size": str(len(content))}
        self._answer(b"", 302, {**headers, "Location": f"{self.hub.storage}/large/{oid}"})

    def _send(self, name: str, content: bytes, headers: Mapping[str, str]) -> None:
        """Send a file or the rest of it that is asked for; a broken transfer ends in the middle."""
        start, status, headers = 0, 200, {**headers, "Accept-Ranges": "bytes"}
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start, status = int(match[1]), 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        left = self.hub.breaks.get(name, 0)
        if self.command == "GET" and left:
            self.hub.breaks[name] = left - 1
        end = start if left < 0 else (start + len(content)) // 2 if left else len(content)
        self.hub.sent += end - start if self.command == "GET" else 0
        self._answer(content[start:], status, headers, kept=end - start)

    # ------------------------------------------------------------------------------------------------- plumbing

    def _note(self) -> str:
        path = urlsplit(self.path).path
        self.hub.asked.append((self.command, path))
        self.query = parse_qs(urlsplit(self.path).query)
        return path

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _json(self, value: Any, status: int = 200) -> None:
        self._answer(json.dumps(value).encode(), status, {"Content-Type": "application/json"})

    def _fail(self, status: int, code: str = "", message: str = "", headers: Mapping[str, str] | None = None) -> None:
        told = {"X-Error-Code": code} if code else {}
        told |= {"X-Error-Message": message, "Content-Type": "application/json", **(headers or {})}
        self._answer(json.dumps({"error": message}).encode(), status, told)

    def _answer(
        self, content: bytes, status: int = 200, headers: Mapping[str, str] | None = None, kept: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:kept])
            self.close_connection |= kept is not None and kept < len(content)


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _check_card(text: str) -> dict[str, list]:
    """What the Hub says of the front matter of a card, as far as this package's cards go."""
    from ruamel.yaml import YAML

    known = {"audio-to-audio", "automatic-speech-recognition", "text-to-speech", "audio-classification"}
    content = YAML(typ="safe", pure=True).load(text.split("---\n")[1])
    errors = []
    if content.get("pipeline_tag") not in {None, *known}:
        errors.append({"message": f"pipeline_tag {content['pipeline_tag']} is not known"})
    for model in content.get("model-index", []):
        for result in model.get("results", []):
            if not {"task", "dataset", "metrics"} <= result.keys():
                errors.append({"message": "a result lacks its task, dataset or metrics"})
    return {"errors": errors, "warnings": []}
