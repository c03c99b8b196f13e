# SPDX-License-Identifier: GPL-2.0-or-later
"""The client on a running host whose init is OpenRC and whose kernel has IBT: Debian with a stock 6.12 in a VM.

The host is booted twice; the fixtures are these boots, and the tests read what they left behind.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from guest_host import Boot, GuestHost, config_of

from elivepatch.build.base.store import Base

pytestmark = [pytest.mark.kernel, pytest.mark.extended]

MEMINFO = Path(__file__).parents[2] / "demo/patches/vmlinux-meminfo.patch"
SLEEPS = Path(__file__).with_name("samples") / "loadavg-sleeps.patch"
LOADED, CHANGED = "VmallocChunk", "VMALLOCCHUNK"

FIRST = """
network
step added rc-update add elivepatch-boot boot
step started rc-service elivepatch-boot start
step enroll elivepatch enroll "$URL" --fingerprint "$FINGERPRINT" --json
step doctor elivepatch doctor --json
step apply elivepatch apply /root/vmlinux-meminfo.patch --no-trial --require-trial none --json
step apply.meminfo cat /proc/meminfo
step status elivepatch status --json
step stopped rc-service elivepatch-boot stop
step stopped.guard $bb cat /var/lib/elivepatch/kernels/*/guard.json
rc-service elivepatch-boot start
openrc-shutdown -r now
"""
SECOND = """
step service rc-service elivepatch-boot status
step runlevel rc-status boot
step meminfo cat /proc/meminfo
step status elivepatch status --json
echo Y >/sys/module/module/parameters/sig_enforce
step enforced elivepatch doctor --json
step enforced.apply elivepatch apply /root/loadavg-sleeps.patch --no-trial --require-trial none --json
step enforced.kernel $bb insmod /var/lib/elivepatch/files/*.ko
step rollback elivepatch rollback --json
step rollback.meminfo cat /proc/meminfo
step rollback.modules cat /proc/modules
openrc-shutdown -r now
"""


@pytest.fixture(scope="module")
def host_6_12(base_6_12: Base, host_of: Callable[[Base], GuestHost]) -> GuestHost:
    return host_of(base_6_12)


@pytest.fixture(scope="module")
def first(host_6_12: GuestHost, base_6_12: Base, variables: str, client: dict[str, bytes]) -> Boot:
    files = client | {f"root/{patch.name}": patch.read_bytes() for patch in (MEMINFO, SLEEPS)}
    return host_6_12.boot("1", variables + FIRST, files | config_of(base_6_12), init="openrc")


@pytest.fixture(scope="module")
def second(host_6_12: GuestHost, first: Boot) -> Boot:
    """After a proper reboot."""
    assert "stopped.guard" in first.steps
    return host_6_12.boot("2", SECOND, init="openrc")


def test_a_kernel_with_ibt_is_patched_and_rolled_back(first: Boot, second: Boot) -> None:
    assert first["apply"].status == 0
    assert CHANGED in first["apply.meminfo"].out
    assert (first["status"].status, first["status"].document["attention"]) == (0, [])
    assert second["rollback"].status == 0
    assert LOADED in second["rollback.meminfo"].out
    assert "livepatch_" not in second["rollback.modules"].out


def test_openrc_loads_the_recorded_set_after_a_proper_reboot(first: Boot, second: Boot) -> None:
    assert first["added"].status == 0, first["added"].err
    assert first["started"].status == 0, first["started"].err
    assert "started" in second["service"].out
    assert CHANGED in second["meminfo"].out
    status = second["status"].document
    assert (second["status"].status, status["record"]["this_boot"], status["attention"]) == (0, True, [])
    assert [one["name"] for one in status["livepatches"]] == [first["apply"].document["livepatch"]["name"]]


def test_with_openrc_only_a_shutdown_counts_as_one(first: Boot) -> None:
    assert first["stopped"].status == 0
    assert '"phase": "loaded"' in first["stopped.guard"].out


def test_a_kernel_that_takes_only_signed_modules_is_told_and_lets_go_of_what_is_live(second: Boot) -> None:
    stops = [one["code"] for one in second["enforced"].document["findings"] if one["level"] == "stop"]
    assert (second["enforced"].status, stops) == (6, ["signature-needed"])
    assert second.problem("enforced.apply") == (6, "signature-needed")
    assert second["enforced.kernel"].status != 0
    assert "Loading of unsigned module is rejected" in second.console
    assert second["rollback"].status == 0


def test_no_kernel_warned_or_died(first: Boot, second: Boot) -> None:
    for boot in (first, second):
        assert boot.complaints() == []
