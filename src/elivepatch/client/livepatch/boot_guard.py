# SPDX-License-Identifier: GPL-2.0-or-later
"""Boot guard: a set that may have crashed the machine is not loaded again automatically.

guard.json holds the modules that were loaded last, when, in which boot, and how far that got. A boot that finds the
note of an earlier boot judges it:

- `loading`: the machine went down while the set was being loaded. The set is skipped.
- `loaded`: it went down later without a proper shutdown. The set is skipped if the new boot began within the window
  after the load: a set that ran for longer is not suspected, and a loop of crashes always stays within the window.
- `clean`: it was shut down properly. The set is loaded.
- `skipped`: it was skipped already; that stays so until a person clears it.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from datetime import UTC, datetime

from elivepatch.client.host.identity import read_boot_id
from elivepatch.client.host.machine import Host, Machine
from elivepatch.client.livepatch.state import SetEntry
from elivepatch.client.livepatch.store import Store
from elivepatch.model.errors import HostError


class Phase(enum.StrEnum):
    """Progress of the last load."""

    LOADING = "loading"
    LOADED = "loaded"
    CLEAN = "clean"
    SKIPPED = "skipped"


def note_phase(machine: Machine, store: Store, entries: Sequence[SetEntry], phase: Phase, *, why: str = "") -> None:
    """Note how far the load of `entries` got; raises HostError if that cannot be written."""
    store.write_guard(
        {
            "modules": [entry.digest for entry in entries],
            "phase": str(phase),
            "boot_id": read_boot_id(machine.host),
            "at": machine.stamp(),
            "why": why,
        }
    )


def note_shutdown(store: Store) -> None:
    """Note that the machine is being shut down properly, if something was loaded."""
    guard = store.guard()
    if guard is not None and guard.get("phase") == Phase.LOADED and guard.get("boot_id") == read_boot_id(store.host):
        store.write_guard(guard | {"phase": str(Phase.CLEAN)})


def why_skipped(store: Store) -> str:
    """Return why the set of this kernel is skipped at boot, empty if it is not."""
    guard = store.guard() or {}
    return str(guard.get("why", "")) if guard.get("phase") == Phase.SKIPPED else ""


def judge(host: Host, store: Store, entries: Sequence[SetEntry], *, window_s: float) -> str:
    """Return why `entries` must not be loaded automatically in this boot, empty if they may.

    Only a note about exactly these modules counts: a machine that a new set crashed comes back with the old set.
    """
    guard = store.guard()
    if guard is None or guard.get("modules") != [entry.digest for entry in entries]:
        return ""
    if guard.get("phase") == Phase.SKIPPED:
        return str(guard.get("why", "")) or "it was skipped before"
    if guard.get("boot_id") == read_boot_id(host) or guard.get("phase") == Phase.CLEAN:
        return ""
    if guard.get("phase") == Phase.LOADING:
        return f"the machine went down while it was being loaded ({guard.get('at')})"
    passed = _booted_at(host) - _moment(guard.get("at"))
    if passed < window_s:
        # A clock that ran backwards ends here too: an unknown time is no reason to load.
        return (
            f"the machine went down without a shutdown after it was loaded ({guard.get('at')}) "
            f"and was back within {window_s:.0f} s"
        )
    return ""


def _booted_at(host: Host) -> float:
    found = re.search(r"^btime (\d+)$", host.text("proc/stat") or "", re.MULTILINE)
    if found is None:
        raise HostError(
            "boot-time-unknown",
            "/proc/stat does not say when this machine was started.",
            advice="Run this on the host itself, with /proc mounted.",
        )
    return float(found[1])


def _moment(text: object) -> float:
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return float("inf")
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
