# SPDX-License-Identifier: GPL-2.0-or-later
"""The emulator of trials is confined as a build is: a guest that takes it over finds nothing of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from elivepatch.build.base.store import Base
from elivepatch.build.sandbox.bubblewrap import around_own_program, filters
from elivepatch.process import Completed, run
from elivepatch.service.jobs.local_backend import LocalBackend
from elivepatch.service.jobs.trials.guest_kernel import guest_kernel
from elivepatch.trial import image
from elivepatch.trial.guest_protocol import GUEST, parse
from elivepatch.trial.qemu import TRIAL_UID, Guest, Programs, boot, confined

pytestmark = pytest.mark.kernel


@pytest.fixture
def helper(backend: LocalBackend) -> Path:
    return backend.toolchains.helper().root


def inside(helper: Path, script: str) -> Completed:
    with filters() as descriptor:
        return run(
            [*confined("tcg"), *around_own_program(helper, descriptor), "sh", "-c", script], pass_fds=[descriptor]
        )


def test_it_sees_programs_and_libraries_and_nothing_else(helper: Path) -> None:
    seen = inside(helper, "ls / /etc; id -u; ls /proc | grep -c '^[0-9]'").text.split()
    assert {"/home", "/root", "/var", "/srv", "home", "root", "var", "srv", "passwd"}.isdisjoint(seen)
    assert str(TRIAL_UID) in seen
    assert int(seen[-1]) < 8


@pytest.mark.parametrize(
    "script", ["touch /usr/x", "unshare --user true", "mount -t tmpfs none /tmp", "cat /proc/1/root/etc/shadow"]
)
def test_it_changes_nothing_and_gets_no_rights(helper: Path, script: str) -> None:
    assert not inside(helper, script).ok


def test_a_guest_boots_in_it(helper: Path, base_6_1: Base, tmp_path: Path) -> None:
    guest = Guest(
        image=guest_kernel(base_6_1).image,
        initramfs=image.base(Path("/bin/busybox")),
        console=tmp_path / "console",
        results=tmp_path / "results",
    )
    ended = boot(guest, programs=Programs(helper=helper), accelerator="tcg", timeout_s=120)
    assert ended.status == 0, ended.tail()
    assert parse(guest.results.read_bytes()).has(GUEST, "end")
