"""A tiny model, and a Hugging Face hub on the loopback interface that has it: what downloads and uploads need."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
COMMIT = "a" * 40
PARSER = "nemotron_toolcall_parser_no_streaming.py"


def shard(size: int, fill: bytes = b"\1") -> bytes:
    """A safetensors file of one tensor of so many bytes."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + fill * size


def model() -> dict[str, bytes]:
    """The files of a model in two shards, by name."""
    return {
        "config.json": b"{}",
        "tokenizer.json": b"{}",
        "tokenizer_config.json": json.dumps({"chat_template": "{{ enable_thinking }}"}).encode(),
        "model.safetensors.index.json": json.dumps({"weight_map": {"a": SHARDS[0], "b": SHARDS[1]}}).encode(),
        PARSER: b"# a parser\n",
        SHARDS[0]: shard(3000),
        SHARDS[1]: shard(5000, b"\2"),
    }


def write_weights(folder: Path) -> None:
    """The same as a folder on disk."""
    for name, content in model().items():
        if name.startswith(("config", "model")):
            (folder / name).write_bytes(content)


@dataclass
class Hub:
    """What a hub has and does.

    Attributes
    ----------
    files: name -> content, of every model under `models`
    gated: names of models that only `token` may read
    cut: names of files whose connection is closed in the middle
    got: names of files that were asked for, with GET
    owner: whom `token` is of: he alone may write, to what is his
    large: sha256 -> content of what came by LFS
    taken: repository -> name -> content that was committed
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=model)
    models: tuple[str, ...] = ("org/tiny", "org/gated")
    gated: tuple[str, ...] = ("org/gated",)
    token: str = "test-token-not-a-secret"
    cut: set[str] = field(default_factory=set)
    got: list[str] = field(default_factory=list)
    owner: str = "me"
    large: dict[str, bytes] = field(default_factory=dict)
    taken: dict[str, dict[str, bytes]] = field(default_factory=dict)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(False)

    def do_GET(self) -> None:
        self._answer(True)

    def do_PUT(self) -> None:
        content = self._body()
        self.hub.large[hashlib.sha256(content).hexdigest()] = content
        self._send(200, b"", {}, True)

    def do_POST(self) -> None:
        body, path = self._body(), self.path.partition("?")[0].strip("/")
        if not self._known():
            return self._json({"error": "Invalid username or password."}, 401)
        if path == "api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if path == "api/repos/create":
            given = json.loads(body)
            name = f"{given['organization'] or self.hub.owner}/{given['name']}"
        else:
            name = "/".join(path.removeprefix("api/models/").split("/")[:2]).removesuffix(".git")
        if not name.startswith(f"{self.hub.owner}/"):
            return self._json({"error": f"You don't have the rights to write to {name}"}, 403)
        if path == "api/repos/create":
            url = {"url": f"{self.hub.url}/{name}"}
            if name in self.hub.taken:
                return self._json({"error": "You already created this model repo", **url}, 409)
            self.hub.taken.setdefault(name, {})
            return self._json(url)
        if "/preupload/" in path:
            return self._json({"files": [_mode(one["path"]) for one in json.loads(body)["files"]]})
        if path.endswith("/objects/batch"):
            upload = {"upload": {"href": f"{self.hub.url}/large"}}
            return self._json({"objects": [{**one, "actions": upload} for one in json.loads(body)["objects"]]})
        return self._commit(name, [json.loads(line) for line in body.splitlines()])

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        for kind, value in ((line["key"], line["value"]) for line in lines):
            if kind == "file":
                self.hub.taken[name][value["path"]] = base64.b64decode(value["content"])
            elif kind == "lfsFile":
                self.hub.taken[name][value["path"]] = self.hub.large[value["oid"]]
        self._json({"commitUrl": f"{self.hub.url}/{name}/commit/{COMMIT}", "commitOid": COMMIT})

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _json(self, content: dict[str, Any], code: int = 200) -> None:
        words = {"X-Error-Message": content["error"]} if "error" in content else {}
        self._send(code, json.dumps(content).encode(), words, True)

    def _answer(self, with_body: bool) -> None:
        words = self.path.partition("?")[0].strip("/").split("/")
        is_api = words[:2] == ["api", "models"]
        words = words[2:] if is_api else words
        name, rest = "/".join(words[:2]), words[2:]
        if name not in self.hub.models:
            return self._send(404 if self._known() else 401, b"{}", {"X-Error-Code": "RepoNotFound"}, with_body)
        if name in self.hub.gated and not is_api and not self._known():
            return self._send(401, b"{}", {"X-Error-Code": "GatedRepo"}, with_body)
        revision = rest[1] if len(rest) > 1 else "main"
        if revision not in ("main", COMMIT):
            return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, with_body)
        if is_api and "tree" in rest:
            return self._send(200, json.dumps([self._entry(one) for one in self.hub.files]).encode(), {}, with_body)
        if is_api:
            siblings = [{"rfilename": one, "size": len(content)} for one, content in self.hub.files.items()]
            info = {"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}
            return self._send(200, json.dumps(info).encode(), {}, with_body)
        return self._file("/".join(rest[2:]), with_body)

    def _known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def _entry(self, name: str) -> dict[str, Any]:
        content = self.hub.files[name]
        return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def _file(self, name: str, with_body: bool) -> None:
        content = self.hub.files.get(name)
        if content is None:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, with_body)
        if with_body:
            self.hub.got.append(name)
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
        }
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        if with_body and name in self.hub.cut:
            self._head(200, len(content), headers)
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return None
        return self._send(206 if start else 200, content[start:], headers, with_body)

    def _head(self, code: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(length))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()

    def _send(self, code: int, body: bytes, headers: dict[str, str], with_body: bool) -> None:
        self._head(code, len(body), headers)
        if with_body:
            self.wfile.write(body)


def _mode(path: str) -> dict[str, Any]:
    return {"path": path, "uploadMode": "lfs" if path.endswith(".safetensors") else "regular", "shouldIgnore": False}


@contextmanager
def hub() -> Iterator[Hub]:
    """A hub that answers until the end of the block."""
    the_hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": the_hub}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    the_hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield the_hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
