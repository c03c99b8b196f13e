# SPDX-License-Identifier: GPL-2.0-or-later
"""A server on loopback that decides by words in the source patches and hands out signed livepatches.

The server understands these lines of a patch: `function NAME` (what it replaces), `refused`, `applied`, `unchanged`,
`needs NAME` (does not compile unless the patch of that name goes before), `clashes NAME` (does not apply after it),
`same-as NAME` (the source already has it after that patch),
`crashes-with NAME` (fails its trial together with it), `confuses` (an error of the server's own), `thread-main` (it
changes the main function of a kernel thread), `no-hardware` (its trial passes partly), `silent` (its predicate gives no
answer).
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler
from typing import Any

from fake_backend import SOURCES
from signing_server import STRANGER, SigningHandler, SigningServer
from simulated_host import BUILD_ID, RELEASE, make_livepatch

from elivepatch.advisory.exposure.sources import KernelSources, etag
from elivepatch.model.codes import problem
from elivepatch.model.errors import Kind, Problem
from elivepatch.model.series import SourcePatch
from elivepatch.trust.document import HEADER, sign_document
from elivepatch.trust.document import RECORDS as RECORDS_TYPE
from elivepatch.trust.document import SOURCES as SOURCES_TYPE

MINE = replace(
    SOURCES,
    build_id=BUILD_ID,
    sources={f"drivers/lamp/part{number}.c": ("vmlinux",) for number in range(20)} | {"drivers/lamp/off.c": ()},
)


@dataclass
class CveServer(SigningServer):
    """A signing server that also serves CVE records and kernel sources.

    `asked` lists the builds: (check, build or trial, names of the patches). `fetched` lists the documents served and
    if the client had them already. `records` is the index that the server hands out, `reports` the (path, report)
    pairs that hosts sent. In the mood `impostor` the server signs documents with another key; in the mood `other-base`
    it refuses requests that name a base patch.
    """

    sources: KernelSources = MINE
    records: bytes | None = None
    asked: list[tuple[str, list[str]]] = field(default_factory=list)
    fetched: list[tuple[str, bool]] = field(default_factory=list)
    reports: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    problems: dict[str, Problem | None] = field(default_factory=dict)
    bodies: dict[str, dict[str, Any]] = field(default_factory=dict)

    @staticmethod
    def handler() -> type[BaseHTTPRequestHandler]:
        return _CveHandler

    def build(self, body: dict[str, Any]) -> str:
        self.requests.append(body)
        patches = [SourcePatch(one["name"], base64.b64decode(one["content"])) for one in body["patches"]]
        form = "check" if body["check_only"] else "trial" if body["trial"] else "build"
        self.asked.append((form, [patch.name for patch in patches]))
        job = f"{len(self.requests):016x}"
        self.bodies[job] = body
        self.problems[job] = self._judge(patches, form)
        name = f"elp_{len(self.requests)}"
        key = STRANGER if self.mood == "stranger" else self.key
        series, missing = [patch.digest for patch in patches], ("lamp",) if "no-hardware" in _lines(body) else ()
        self.jobs[job] = make_livepatch(
            name, functions=self._functions(patches), series=series, key=key,
            trial=lambda facts: facts.trial(not_live=missing) if body["trial"] else None,
        )  # fmt: skip
        return job

    def count(self, form: str) -> int:
        """Number of requests of this form."""
        return sum(one == form for one, _ in self.asked)

    @staticmethod
    def _functions(patches: list[SourcePatch]) -> list[str]:
        words = [line for patch in patches for line in patch.content.decode().splitlines()]
        return [line.split()[1] for line in words if line.startswith("function ")]

    @staticmethod
    def _judge(patches: list[SourcePatch], form: str) -> Problem | None:
        before: list[str] = []
        for patch in patches:
            for line in patch.content.decode().splitlines():
                word, _, rest = line.partition(" ")
                together = any(rest in name for name in before)
                if word == "refused":
                    return problem("data-layout", f"{patch.name} grows a structure.")
                if word == "applied":
                    return problem("already-applied", f"{patch.name} is already in this kernel's source.")
                if word == "unchanged":
                    return problem("no-change", f"{patch.name}: the compiled code is the same.")
                if word == "needs" and not together:
                    return problem("compile-error", f"{patch.name} does not compile.")
                if word == "same-as" and together:
                    return problem("patch-repeated", f"The patches before {patch.name} make its change already.")
                if word == "clashes" and together:
                    return problem("does-not-apply", f"{patch.name} does not apply.")
                if word == "crashes-with" and together and form == "trial":
                    return Problem(code="trial-oops", kind=Kind.FAILURE, message="The kernel oopsed.", advice="-")
                if word == "silent" and form == "trial":
                    return Problem(code="trial-predicate-broken", kind=Kind.ERROR, message="No answer.", advice="-")
                if word == "confuses":
                    return problem("diff-tool-crash", "The diff tool crashed.")
            before.append(patch.name)
        return None


def _lines(body: dict[str, Any]) -> list[str]:
    return [line for one in body["patches"] for line in base64.b64decode(one["content"]).decode().splitlines()]


class _CveHandler(SigningHandler):
    known: CveServer

    def do_GET(self) -> None:  # noqa: N802 - the base class names it so
        if self.path == f"/v1/kernels/{RELEASE}/sources":
            self._signed(SOURCES_TYPE, self.known.sources.encode())
        elif self.path == "/v1/cve/records" and self.known.records is not None:
            self._signed(RECORDS_TYPE, self.known.records)
        elif self.path == "/v1/cve/records":
            found = {"code": "records-unknown", "kind": "usage", "message": "There are none.", "advice": "-"}
            self._send(json.dumps(found).encode(), "application/problem+json", status=404)
        else:
            super().do_GET()

    def do_POST(self) -> None:  # noqa: N802 - the base class names it so
        if self.known.mood != "other-base":
            super().do_POST()
        elif "base_patches" in json.loads(self.rfile.read(int(self.headers["Content-Length"]))):
            found = {"code": "base-patches", "kind": "host", "message": "It lacks one.", "advice": "-"}
            self._send(json.dumps(found).encode(), "application/problem+json", status=409)

    def do_PUT(self) -> None:  # noqa: N802 - the base class names it so
        told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.known.reports.append((self.path, told))
        self._json(told)

    @staticmethod
    def _notes(body: dict[str, Any]) -> list[dict[str, str]]:
        return [{"code": "thread-main", "message": "lampd never ends."}] if "thread-main" in _lines(body) else []

    @staticmethod
    def _trial(body: dict[str, Any]) -> dict[str, Any]:
        missing = [{"object": "lamp", "why": "there is none"}] if "no-hardware" in _lines(body) else []
        outcome = "partly" if missing else "passed"
        return {"accelerator": "tcg", "passed": not missing, "outcome": outcome, "not_live": missing}

    def _signed(self, kind: str, content: bytes) -> None:
        key = STRANGER if self.known.mood == "impostor" else self.known.key
        headers = {HEADER: sign_document(key, kind, content)}
        self.known.fetched.append((self.path, same := self.headers.get("If-None-Match") == etag(content)))
        self._send(b"" if same else content, "application/json", status=304 if same else 200, headers=headers)

    def _report(self, job: str) -> None:
        made, found, body = self.known.jobs[job], self.known.problems[job], self.known.bodies[job]
        functions = [
            {"object": "vmlinux", "name": one.name, "sympos": 0, "source": one.source}
            for one in made.statement.functions
        ]
        built = found is None and not body["check_only"]
        self._json(
            {
                "id": job,
                "kernel": RELEASE,
                "functions": functions if found is None else [],
                "notes": self._notes(body),
                "trial": self._trial(body) if built and body["trial"] else None,
                "result": "success" if found is None else "error" if found.kind is Kind.ERROR else "failure",
                "problem": None if found is None else found.as_dict(),
                "livepatch": {"name": made.statement.name} if built else None,
                "module_sha256": made.statement.digest if built else None,
            }
        )
