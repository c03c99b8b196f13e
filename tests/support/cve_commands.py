# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands about the CVEs of a made list, and the parts of their answers that tests look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cve_list import CveList
from host_commands import Ran, run_json
from simulated_host import SimulatedHost


def cve(host: SimulatedHost, cves: CveList, command: str, *options: str | Path) -> Ran:
    """Run `elivepatch cve COMMAND` with the list's policy."""
    return run_json(host, "cve", command, "--policy", cves.policy, *options)


def choices(ran: Ran, *, status: int = 0) -> dict[str, str]:
    """Return the choice about each CVE; fails the test for another exit status."""
    assert ran.status == status, ran.err
    return {one["id"]: one["choice"] for one in ran.document["decisions"]}


def reasons(ran: Ran) -> dict[str, str]:
    """Return the reason of the choice about each CVE."""
    return {one["id"]: one["reason"] for one in ran.document["decisions"]}


def states(host: SimulatedHost, cves: CveList) -> dict[str, Any]:
    """Return the funnel from the kernel's version to its open CVEs."""
    found: dict[str, Any] = run_json(host, "cve", "summary", "--records", cves.records).document["funnel"]
    return found
