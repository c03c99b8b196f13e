# SPDX-License-Identifier: GPL-2.0-or-later
"""The control group of builds under version 2 of the interface: Debian with systemd in a VM.

A server that systemd has handed its group (Delegate=) makes one below; one that was started by hand makes it beside.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from guest_host import Boot, GuestHost

from elivepatch.build.base.store import Base

pytestmark = [pytest.mark.kernel, pytest.mark.extended]

PROBE = b"""
import dataclasses, json, pathlib, sys
from elivepatch.build.sandbox.cgroup import own_group
from elivepatch.process import run

own = pathlib.Path("/proc/self/cgroup").read_text().strip().removeprefix("0::/")
found = own_group()
group = dataclasses.replace(found, limit=48 << 20)
group.make()
statuses = []
for size in ("8M", "100M"):
    hold = f"head -c {size} /dev/zero | tail -c {size} | sleep 0.1"
    statuses.append((run([*group.entering(), "sh", "-c", hold]).status, group.ended() > 0))
place = str(group.directory.relative_to("/sys/fs/cgroup"))
seen = {"own": own, "place": place, "version": group.version, "limit": found.limit, "seen": statuses}
pathlib.Path(sys.argv[1]).write_text(json.dumps(seen))
group.remove()
"""
UNIT = b"""
[Service]
Type=oneshot
ExecStart=/usr/bin/python3 /root/probe.py /root/delegated.json
Delegate=memory
"""
SCRIPT = """
step byhand python3 /root/probe.py /root/byhand.json
step byhand.seen cat /root/byhand.json
step delegated systemctl start probe.service
step delegated.seen cat /root/delegated.json
systemctl reboot --force --force
"""


@pytest.fixture(scope="module")
def boot(client: dict[str, bytes], host_of: Callable[[Base], GuestHost], base_6_12: Base) -> Boot:
    files = {"root/probe.py": PROBE, "etc/systemd/system/probe.service": UNIT}
    return host_of(base_6_12).boot("memory", SCRIPT, client | files)


def seen(boot: Boot, how: str) -> dict[str, Any]:
    assert boot[how].status == 0, boot[how].err + boot.console[-2000:]
    document: dict[str, Any] = boot[f"{how}.seen"].document
    return document


@pytest.mark.parametrize("how", ["byhand", "delegated"])
def test_a_build_gets_no_more_memory_than_its_group_has(boot: Boot, how: str) -> None:
    found = seen(boot, how)
    assert found["version"] == 2
    assert found["limit"] > 300 << 20
    assert found["seen"] == [[0, False], [0, True]], "the pipe's last program ends well, the one before is ended"


def test_a_group_that_systemd_handed_over_is_used(boot: Boot) -> None:
    found = seen(boot, "delegated")
    assert Path(found["place"]).parent == Path(found["own"]) == Path("system.slice/probe.service")


def test_the_group_of_a_person_s_session_is_left_as_it_is(boot: Boot) -> None:
    found = seen(boot, "byhand")
    assert Path(found["place"]).parent in Path(found["own"]).parents
