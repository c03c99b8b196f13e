# SPDX-License-Identifier: GPL-2.0-or-later
"""Client commands on a simulated host, run as a shell would: arguments in, status and output out."""

from __future__ import annotations

import io
import json
import os
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from cve_list import CveList
from schema_check import require_published
from simulated_host import KEY, Made, SimulatedHost

from elivepatch.client.cli import main
from elivepatch.client.host import machine as machines
from elivepatch.client.proof.files import proof_beside
from elivepatch.trust.pins import Pin, write_pins


@dataclass(frozen=True)
class Ran:
    """Result of a command."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    @property
    def code(self) -> str:
        """Code of the problem; fails the test if there is none."""
        return str(self.document["problem"]["code"])


def run(host: SimulatedHost, *argv: str | Path) -> Ran:
    """Run one command line on `host`."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(machines, "this_machine", return_value=host.machine),
        # Tests simulate power cuts without the disk; waiting for a busy disk takes minutes.
        mock.patch.object(os, "fsync"),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        status = main([str(one) for one in argv])
    return Ran(status, out.getvalue(), err.getvalue())


def run_json(host: SimulatedHost, *argv: str | Path) -> Ran:
    """Run one command line on `host` with --json; the output must be JSON that follows the schema."""
    ran = run(host, *argv, "--json")
    if "--openvex" not in argv or "problem" in ran.document:
        require_published(argv, ran.document)
    return ran


def enrol(host: SimulatedHost, url: str = "http://127.0.0.1:8440", key: str = KEY.public.raw.hex()) -> None:
    """Make `host` trust a server's key; the default is the key that signs test livepatches."""
    pin = Pin(url=url, public_key=key, enrolled_at="2026-11-21T03:00:00+00:00")
    write_pins(host.root / "etc/elivepatch/trusted.json", [pin])


def enrolled_host(top: Path, url: str) -> SimulatedHost:
    """Return a host that uses the server at `url` and trusts the key of test livepatches."""
    made = SimulatedHost(top)
    made.put("etc/elivepatch/client.toml", f'url = "{url}"\ntimeout_s = 2\n')
    enrol(made, url)
    return made


def save(made: Made, directory: Path) -> Path:
    """Write a livepatch and its proof, as a server hands them out; return the module's path."""
    directory.mkdir(parents=True, exist_ok=True)
    module = directory / f"{made.statement.name}.ko"
    module.write_bytes(made.module)
    proof_beside(module).write_bytes(made.proof)
    return module


def with_policy(host: SimulatedHost, cves: CveList) -> SimulatedHost:
    """Give the host the policy of a list, and return the host."""
    host.put("etc/elivepatch/policy.toml", cves.policy.read_text())
    return host
