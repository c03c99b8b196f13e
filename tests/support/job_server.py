# SPDX-License-Identifier: GPL-2.0-or-later
"""A server with one job, as httpx asks it: it answers what a test gives it and keeps what it was asked."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2

JOB = "0123456789abcdef"
KERNEL = "6.1.0-50-cloud-amd64"
PROBLEM = {
    "code": "data-changed",
    "kind": "verdict",
    "message": "It changes data.",
    "advice": "Do not.",
    "excerpt": "+x",
}
SUCCESS: dict[str, Any] = {
    "id": JOB,
    "status": "done",
    "result": "success",
    "kernel": KERNEL,
    "build_id": "ab" * 20,
    "functions": [{"object": "vmlinux", "name": "meminfo_proc_show", "sympos": 0, "source": "fs/proc/meminfo.c"}],
    "problem": None,
    "notes": [{"code": "inlined", "message": "g is inlined."}],
    "livepatch": {"name": "livepatch_meminfo"},
    "module_sha256": hashlib.sha256(b"MODULE").hexdigest(),
    "seconds": {"build": 1.5},
    "trial": {"passed": True, "outcome": "passed", "accelerator": "tcg"},
}
FAILED = SUCCESS | {
    "result": "failure", "problem": PROBLEM, "livepatch": None, "module_sha256": None, "trial": None, "functions": [],
    "notes": [],
}  # fmt: skip


FILES = {"log": b"LOG", "console": b"CONSOLE", "module": b"MODULE", "proof": b"PROOF"}


@dataclass
class Server:
    """A server with one job that is done."""

    report: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=lambda: dict(FILES))
    asked: list[httpx2.Request] = field(default_factory=list)

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request)
        what = request.url.path.rpartition("/")[2]
        if request.method == "POST":
            return httpx2.Response(202, json={"id": JOB})
        if what == "report":
            return httpx2.Response(200, json=self.report)
        if what == "kernels":
            identity = {"build_id": "ab" * 20, "arch": "x86_64", "config_digest": "cd" * 32, "compiler": "gcc 12.2.0"}
            return httpx2.Response(200, json={"kernels": [identity | {"release": KERNEL}]})
        if what in FILES:
            if what not in self.files:
                told = {"code": "file-unknown", "kind": "usage", "message": "None.", "advice": "None."}
                return httpx2.Response(404, json=told, headers={"Content-Type": "application/problem+json"})
            content = self.files[what]
            digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
            return httpx2.Response(200, content=content, headers={"Repr-Digest": f"sha-256=:{digest}:"})
        return httpx2.Response(200, json={"status": "done"})

    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(next(request for request in self.asked if request.method == "POST").content)
        return body


Run = Callable[..., int]


BUILD = ("build", "fix.patch", "--kernel", KERNEL)
