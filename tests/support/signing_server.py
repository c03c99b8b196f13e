# SPDX-License-Identifier: GPL-2.0-or-later
"""A server on loopback with version 1 of the API that hands out signed livepatches without building them.

`mood` selects a misbehaviour: `well`, `garbage`, `silent`, `dies` (in the middle of the module), `verdict`,
`working` (a job is never done), `drops` (an answer that never ends), `unsigned`, `stranger` (signs with another key),
`swapped` (another module than signed) or `other-series`.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from simulated_host import BUILD_ID, KEY, RELEASE, Made, make_livepatch

from elivepatch.model.series import SourcePatch
from elivepatch.trust.keys import ServerKey

STRANGER = ServerKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))
VERDICT = {
    "code": "data-layout",
    "kind": "verdict",
    "message": "The series changes the layout of struct task_struct.",
    "advice": "Use a shadow variable.",
    "excerpt": "",
}


@dataclass
class SigningServer:
    """State of the server; `requests` are the bodies of the submitted builds. Equal ones get the same name.

    Its livepatches stay in memory after they were taken out if `stays`.
    """

    mood: str = "well"
    build_id: str = BUILD_ID
    key: ServerKey = KEY
    stacks: bool = True
    stays: bool = False
    requests: list[dict[str, Any]] = field(default_factory=list)
    jobs: dict[str, Made] = field(default_factory=dict)
    released: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Listen on loopback until the end of the block."""
        handler = type("Handler", (self.handler(),), {"known": self})
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
            http.daemon_threads = True
            thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            self.url = f"http://127.0.0.1:{http.server_port}"
            try:
                yield self
            finally:
                self.released.set()
                http.shutdown()
                thread.join()

    @staticmethod
    def handler() -> type[BaseHTTPRequestHandler]:
        """Return the class that handles requests; its `known` is this server."""
        return SigningHandler

    def build(self, body: dict[str, Any]) -> str:
        self.requests.append(body)
        patches = [SourcePatch(one["name"], base64.b64decode(one["content"])) for one in body["patches"]]
        series = [patch.digest for patch in patches]
        if self.mood == "other-series":
            series = series[:-1]
        name = f"elp_{self.requests.index(body) + 1}"
        functions = [f"function_{number}" for number in range(len(patches))]
        key = STRANGER if self.mood == "stranger" else self.key
        job = f"{len(self.requests):016x}"
        replace = body["replace"] or not self.stacks
        self.jobs[job] = make_livepatch(
            name, functions=functions, series=series, key=key, replace=replace, stays=self.stays
        )
        return job


class SigningHandler(BaseHTTPRequestHandler):
    known: SigningServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes: each answer would wait 40 ms for the other side

    def do_GET(self) -> None:
        known, parts = self.known, self.path.strip("/").split("/")
        if self._misbehaves():
            return
        if parts == ["v1", "key"] and known.mood != "unsigned":
            self._json(known.key.public.as_dict())
        elif parts == ["v1", "kernels"]:
            kernel = {"release": RELEASE, "build_id": known.build_id, "arch": "x86_64"}
            self._json({"kernels": [kernel | {"config_digest": "0" * 64, "compiler": "gcc-12"}]})
        elif len(parts) == 3 and parts[1] == "builds":
            self._json({"id": parts[2], "status": "running" if known.mood == "working" else "done"})
        elif parts[3:] == ["events"]:
            event = json.dumps({"stage": "compile", "message": "fs/proc/meminfo.c", "fraction": 0.5})
            self._send(f"id: 1\nevent: progress\ndata: {event}\n\n".encode(), "text/event-stream")
        elif parts[3:] == ["report"]:
            self._report(parts[2])
        elif parts[3:] == ["module"]:
            self._module(known.jobs[parts[2]])
        elif parts[3:] == ["proof"] and known.mood != "unsigned":
            self._send(known.jobs[parts[2]].proof, "application/jsonl")
        else:
            problem = {"code": "file-unknown", "kind": "usage", "message": "There is no such file.", "advice": "-"}
            self._send(json.dumps(problem).encode(), "application/problem+json", status=404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self._misbehaves():
            self._json({"id": self.known.build(json.loads(body)), "status": "queued"})

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - name of the base class
        """Log nothing."""

    def _misbehaves(self) -> bool:
        if self.known.mood == "garbage":
            self._send(b"<html>Welcome to nginx!</html>", "text/html")
            return True
        if self.known.mood == "drops":
            self.send_response(200)
            self.end_headers()
            while not self.known.released.wait(0.05):
                self.wfile.write(b" ")
            return True
        if self.known.mood == "silent":
            self.known.released.wait(30)
            return True
        return False

    def _report(self, job: str) -> None:
        made = self.known.jobs[job]
        refused = self.known.mood == "verdict"
        self._json(
            {
                "id": job,
                "kernel": RELEASE,
                "functions": [],
                "notes": [],
                "trial": None,
                "result": "failure" if refused else "success",
                "problem": VERDICT if refused else None,
                "livepatch": None if refused else {"name": made.statement.name},
                "module_sha256": None if refused else made.statement.digest,
            }
        )

    def _module(self, made: Made) -> None:
        content = made.module
        if self.known.mood == "dies":
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:100])
            self.close_connection = True
            return
        if self.known.mood == "swapped":
            content = make_livepatch("elp_evil").module
        self._send(content, "application/octet-stream")

    def _json(self, value: Any) -> None:
        self._send(json.dumps(value).encode(), "application/json")

    def _send(
        self, content: bytes, kind: str, *, status: int = 200, headers: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
