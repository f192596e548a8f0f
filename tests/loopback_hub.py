"""A Hub on the loopback: the routes that the real client calls, downloads and uploads, and faults.

Repositories are in memory: a commit is a name -> bytes map. Weights and tables are "large files":
redirected to another path with `X-Linked-Etag`, as the Hub does; others are git blobs. It counts
every request (`requests`) and can be told to misbehave (`cut`, `spoil`, `slow`, `status`).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
import urllib.parse
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_loopback"
LARGE = (".safetensors", ".parquet", ".png")
PREFIXES = {"": "model", "datasets/": "dataset", "spaces/": "space"}


@dataclass
class Repository:
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False

    def at(self, revision: str) -> str | None:
        commit = self.branches.get(revision, revision)
        return commit if commit in self.commits else None


class Hub:
    """The server's state; `address` is what HF_ENDPOINT is set to."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}  # large files by SHA-256
        self.requests: list[str] = []
        self.ranges: list[str] = []  # Range headers of downloads
        self.cut: int | None = None  # break the connection after so many bytes of a large file
        self.cuts = 0  # how often still
        self.whole = False  # begin anew, whatever part of a file is asked for
        self.spoil = False  # send other bytes than those asked for
        self.slow = 0.0  # seconds before each answer
        self.mute: threading.Event | None = None  # no large file is answered for until it is set
        self.pace = 0.0  # seconds between two pieces of a large file
        self.status: int | None = None  # answer everything with this
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(self))
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def commit(
        self,
        repo: str,
        files: dict[str, bytes],
        kind: str = "model",
        branch: str = "main",
        deleted: Collection[str] = (),
    ) -> str:
        """Add a commit with `files` over those of the branch, without the deleted ones; its 40 hex
        digits."""
        repository = self.repositories.setdefault((kind, repo), Repository())
        parent = repository.branches.get(branch)
        before = repository.commits.get(parent or "", {})
        content = {name: before[name] for name in before if name not in deleted} | files
        identity = json.dumps([repo, parent, {k: sha256(v) for k, v in content.items()}])
        name = hashlib.sha1(identity.encode()).hexdigest()
        repository.commits[name] = content
        repository.branches[branch] = name
        self.objects |= {sha256(data): data for data in content.values()}
        return name

    def files(self, repo: str, kind: str = "model") -> dict[str, bytes]:
        """What a repository's main branch holds."""
        repository = self.repositories[(kind, repo)]
        return repository.commits[repository.branches["main"]]


@contextmanager
def running() -> Iterator[Hub]:
    """A Hub that serves until the block ends."""
    hub = Hub()
    thread = threading.Thread(target=hub.server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.server.shutdown()
        hub.server.server_close()
        thread.join(10)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def is_large(name: str) -> bool:
    return name.endswith(LARGE)


def handler_of(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None: ...

        def do_GET(self) -> None:
            self._serve()

        do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

        # ---------------------------------------------------------------------------- routes
        def _serve(self) -> None:
            url = urllib.parse.urlsplit(self.path)
            path = urllib.parse.unquote(url.path)
            hub.requests.append(f"{self.command} {path}")
            length = int(self.headers.get("Content-Length") or 0)
            self.body = self._chunks() if self._chunked() else self.rfile.read(length)
            time.sleep(hub.slow)
            if hub.status:
                return self._json({"error": "a fault"}, hub.status)
            routes = (
                (r"/(datasets/|spaces/|)([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self._resolve),
                (r"/large/([0-9a-f]{64})", self._large),
                (r"/api/whoami-v2", self._whoami),
                (r"/api/validate-yaml", lambda: self._json({"errors": [], "warnings": []})),
                (r"/api/repos/create", self._create),
                (r"/api/(model|dataset|space)s/([^/]+/[^/]+)", self._info),
                (r"/api/(model|dataset|space)s/([^/]+/[^/]+)/revision/([^/]+)", self._info),
                (r"/api/(model|dataset|space)s/([^/]+/[^/]+)/branch/([^/]+)", self._branch),
                (r"/api/(model|dataset|space)s/([^/]+/[^/]+)/preupload/([^/]+)", self._preupload),
                (r"/api/(model|dataset|space)s/([^/]+/[^/]+)/commit/([^/]+)", self._commit),
                (r"/api/(model|dataset|space)s/([^/]+/[^/]+)/tree/([^/]+)/?(.*)", self._tree),
                (r"/(datasets/|spaces/|)([^/]+/[^/]+)\.git/info/lfs/objects/batch", self._batch),
            )
            for pattern, route in routes:
                if match := re.fullmatch(pattern, path):
                    return route(*match.groups())
            return self._json({"error": "no such route"}, 404)

        def _resolve(self, prefix: str, repo: str, revision: str, name: str) -> None:
            found = self._find(PREFIXES[prefix], repo, revision)
            if found is None:
                return None
            commit, files = found
            headers = {"X-Repo-Commit": commit}
            if name not in files:
                return self._refuse(404, "EntryNotFound", headers)
            data = files[name]
            if not is_large(name):
                return self._bytes(data, headers | {"ETag": f'"{git_blob(data)}"'})
            headers |= {
                "X-Linked-Etag": f'"{sha256(data)}"', "X-Linked-Size": str(len(data)),
                "Location": f"http://localhost:{hub.server.server_port}/large/{sha256(data)}",
            }  # fmt: skip
            return self._bytes(b"", headers, 302)

        def _large(self, digest: str) -> None:
            if hub.mute and self.command == "GET":
                hub.mute.wait(30)
            self._bytes(hub.objects.get(digest, b""), {"ETag": f'"{digest}"'}, large=True)

        def _whoami(self) -> None:
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self._json({"error": "Invalid credentials in Authorization header"}, 401)
            return self._json({"name": "tester", "type": "user", "orgs": [], "auth": {}})

        def _create(self) -> None:
            wish = json.loads(self.body)
            repo = f"{wish.get('organization') or 'tester'}/{wish['name']}"
            key = (wish.get("type") or "model", repo)
            status = 409 if key in hub.repositories else 200
            repository = hub.repositories.setdefault(key, Repository())
            if status == 200:
                repository.private = wish.get("private") or wish.get("visibility") == "private"
                hub.commit(repo, {".gitattributes": b"*.safetensors filter=lfs\n"}, key[0])
            address = f"{hub.address}/{'' if key[0] == 'model' else key[0] + 's/'}{repo}"
            return self._json({"url": address, "name": repo, "id": repo}, status)

        def _info(self, kind: str, repo: str, revision: str = "main") -> None:
            found = self._find(kind, repo, revision)
            if found is None:
                return None
            commit, files = found
            siblings = []
            for name, data in files.items():
                each = {"rfilename": name, "size": len(data), "blobId": git_blob(data)}
                if is_large(name):
                    each["lfs"] = {"sha256": sha256(data), "size": len(data), "pointerSize": 130}
                siblings.append(each)
            return self._json({
                "id": repo, "modelId": repo, "sha": commit, "siblings": siblings, "tags": [],
                "private": False, "gated": False, "disabled": False, "downloads": 0, "likes": 0,
            })  # fmt: skip

        def _tree(self, kind: str, repo: str, revision: str, _: str = "") -> None:
            found = self._find(kind, repo, revision)
            if found is None:
                return None
            rows = []
            for name, data in found[1].items():
                row = {"type": "file", "path": name, "size": len(data), "oid": git_blob(data)}
                if is_large(name):
                    row["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 130}
                rows.append(row)
            return self._json(rows)

        def _branch(self, kind: str, repo: str, branch: str) -> None:
            repository = hub.repositories[(kind, repo)]
            repository.branches.setdefault(branch, repository.branches["main"])
            return self._json({})

        def _preupload(self, kind: str, repo: str, _: str) -> None:
            wish = json.loads(self.body)["files"]
            self._json({"files": [
                {"path": each["path"], "uploadMode": "lfs" if is_large(each["path"]) else "regular",
                 "shouldIgnore": False}
                for each in wish
            ]})  # fmt: skip

        def _batch(self, *_: str) -> None:
            objects = json.loads(self.body)["objects"]
            self._json({"transfer": "basic", "objects": [
                each | {"actions": {"upload": {"href": f"{hub.address}/large/{each['oid']}"}}}
                for each in objects
            ]})  # fmt: skip

        def _commit(self, kind: str, repo: str, branch: str) -> None:
            files, deleted = {}, []
            for line in self.body.splitlines():
                item = json.loads(line)
                value = item["value"]
                if item["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif item["key"] == "lfsFile":
                    files[value["path"]] = hub.objects[value["oid"]]
                elif item["key"] == "deletedFile":
                    deleted.append(value["path"])
            commit = hub.commit(repo, files, kind, branch, deleted)
            self._json({
                "commitUrl": f"{hub.address}/{repo}/commit/{commit}", "commitOid": commit,
                "success": True,
            })  # fmt: skip

        # --------------------------------------------------------------------------- answers
        def _find(self, kind: str, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
            repository = hub.repositories.get((kind, repo))
            known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            if repository is None or (repository.private and not known):
                self._refuse(404 if known else 401, "RepoNotFound")
            elif repository.gated and not known:
                self._refuse(401, "GatedRepo")
            elif (commit := repository.at(revision)) is None:
                self._refuse(404, "RevisionNotFound")
            else:
                return commit, repository.commits[commit]
            return None

        def _refuse(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
            message = {"X-Error-Code": code, "X-Error-Message": f"loopback: {code}"}
            self._bytes(b"", message | (headers or {}), status)

        def _json(self, value: object, status: int = 200) -> None:
            self._bytes(json.dumps(value).encode(), {"Content-Type": "application/json"}, status)

        def _bytes(
            self, data: bytes, headers: dict[str, str], status: int = 200, large: bool = False
        ) -> None:
            if self.command == "PUT":  # the upload of a large file
                hub.objects[sha256(self.body)] = self.body
                data = b""
            first = 0
            if (wish := self.headers.get("Range")) and status == 200:
                hub.ranges.append(wish)
                if not hub.whole:
                    first, status = int(re.fullmatch(r"bytes=(\d+)-", wish)[1]), 206
            if hub.spoil and large:
                data = bytes(len(data))
            body = data[first:]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            if large and hub.cuts and hub.cut is not None:
                hub.cuts -= 1
                self.wfile.write(body[: hub.cut])
                self.wfile.flush()
                self.connection.close()
                self.close_connection = True
                return
            for start in range(0, len(body), 1 << 16):
                self.wfile.write(body[start : start + (1 << 16)])
                if large and hub.pace:
                    self.wfile.flush()
                    time.sleep(hub.pace)

        def _chunked(self) -> bool:
            return "chunked" in self.headers.get("Transfer-Encoding", "")

        def _chunks(self) -> bytes:
            body = b""
            while size := int(self.rfile.readline().strip() or b"0", 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

    return Handler


def main() -> None:
    """Serve an empty Hub until interrupted: `python -m tests.loopback_hub`."""
    with running() as hub:
        print(f"HF_ENDPOINT={hub.address} HF_TOKEN={TOKEN} HF_HUB_DISABLE_XET=1", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
