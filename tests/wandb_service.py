"""A stand-in for W&B's service on 127.0.0.1, for the real client: WANDB_BASE_URL=http://127.0.0.1:PORT.

It keeps runs in memory as the service does: config, summary, tags, history lines at their offsets (filestream), files.
It answers a resume with the last line's step, rewinds a run (or refuses to, as older servers do), and can be down. What
it leaves out: users and teams (every key is right), artifacts, sampling, rate limits, and the service's own refusals
(lengths, characters). So it shows what the client sends, not what W&B takes.
"""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Stored:
    """A run as the service has it."""

    id: str
    fields: dict[str, Any] = field(default_factory=dict)  # displayName, groupName, tags, notes, jobType, host
    config: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None

    @property
    def history(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]

    @property
    def steps(self) -> list[int]:
        return [row["_step"] for row in self.history]


class Service:
    """The stand-in. `rewinds`: whether it can; `down`: it answers 500 to everything."""

    def __init__(self) -> None:
        self.runs: dict[str, Stored] = {}
        self.requests: list[str] = []
        self.rewinds = True
        self.down = False
        self.url = ""

    def answer(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        """GraphQL: the few questions that the client asks on the way of a run."""
        operation = query.split("(")[0].split()[-1]
        self.requests.append(operation)
        if operation == "RunResumeStatus":
            found = self.runs.get(given["name"])
            model = {"id": "p", "name": given["project"], "entity": {"id": "e", "name": "team"}}
            return {"data": {"model": model | {"bucket": _bucket(found) if found else None}}}
        if operation == "UpsertBucket":
            new = given["name"] not in self.runs
            run = self.runs.setdefault(given["name"], Stored(given["name"]))
            run.fields |= {key: value for key, value in given.items() if value is not None and key != "config"}
            if given.get("config"):
                run.config |= {key: item["value"] for key, item in json.loads(given["config"]).items()}
            return {"data": {"upsertBucket": {"bucket": _run(run, given["project"]), "inserted": new}}}
        if operation == "RewindRun":
            if not self.rewinds:
                return {"data": None, "errors": [{"message": 'Cannot query field "rewindRun" on type "Mutation".'}]}
            run = self.runs[given["runName"]]
            run.lines = [line for line in run.lines if json.loads(line)["_step"] <= given["metricValue"]]
            return {"data": {"rewindRun": {"rewoundRun": _run(run, given["project"])}}}
        if operation == "CreateRunFiles":
            files = [{"name": n, "uploadUrl": f"{self.url}/upload/{given['run']}/{n}"} for n in given["files"]]
            return {"data": {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}}
        return {"data": {}}

    def stream(self, run_id: str, body: dict[str, Any]) -> None:
        """Filestream: lines at an offset; what is there already from that offset on is written over."""
        run = self.runs[run_id]
        for name, part in (body.get("files") or {}).items():
            if name == "wandb-history.jsonl":
                run.lines[part["offset"] :] = part["content"]
            elif name == "wandb-summary.json":
                run.summary = json.loads(part["content"][-1])
        if body.get("complete"):
            run.exit_code = body.get("exitcode")


def _run(run: Stored, project: str) -> dict[str, Any]:
    where = {"id": "p", "name": project, "entity": {"id": "e", "name": "team"}}
    config = json.dumps({key: {"value": value} for key, value in run.config.items()})
    named = {"id": run.id, "name": run.id, "displayName": run.fields.get("displayName"), "description": ""}
    return named | {"config": config, "sweepName": "", "project": where, "historyLineCount": len(run.lines)}


def _bucket(run: Stored) -> dict[str, Any]:
    config = json.dumps({key: {"value": value} for key, value in run.config.items()})
    return {
        "id": run.id,
        "name": run.id,
        "summaryMetrics": json.dumps(run.summary),
        "displayName": run.fields.get("displayName"),
        "logLineCount": 0,
        "historyLineCount": len(run.lines),
        "eventsLineCount": 0,
        "historyTail": json.dumps(run.lines[-1:]),
        "eventsTail": "[]",
        "config": config,
        "tags": run.fields.get("tags") or [],
        "notes": run.fields.get("notes"),
        "wandbConfig": json.dumps({"t": 1}),
    }


@contextmanager
def serving() -> Iterator[Service]:
    """The service, in a thread of this process, on a free port."""
    service = Service()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def _body(self) -> bytes:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

        def do_POST(self) -> None:
            body = self._body()
            if service.down:
                self._reply(500, {"error": "down"})
            elif self.path == "/graphql":
                asked = json.loads(body)
                self._reply(200, service.answer(asked["query"].strip(), asked.get("variables") or {}))
            elif self.path.endswith("/file_stream"):
                service.stream(self.path.split("/")[-2], json.loads(body))
                self._reply(200, {})
            else:
                self._reply(200, {})

        def do_PUT(self) -> None:
            _, _, run, *name = self.path.split("/")
            service.runs[run].files["/".join(name)] = self._body()
            self._reply(200, {})

        def do_GET(self) -> None:
            self._reply(200, {})

        def _reply(self, code: int, value: dict[str, Any]) -> None:
            data = json.dumps(value).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that was killed is no fault."""

    server = Server(("127.0.0.1", 0), Handler)
    service.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
