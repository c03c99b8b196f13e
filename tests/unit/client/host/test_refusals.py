# SPDX-License-Identifier: GPL-2.0-or-later
"""A refused load is explained: by the livepatch's own callback if the log says so, else by the kernel's number."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from host_commands import Ran, enrol, run_json, save
from simulated_host import SimulatedHost, make_livepatch

SAYS = (
    "4,900,12345,-;livepatch: pre-patch callback failed for object 'vmlinux'\n"
    "4,901,12346,-;livepatch: failed to enable patch 'elp_a'\n"
)
NUMBERS = (errno.ENODEV, errno.ENOENT, errno.EBUSY, errno.EINVAL, errno.EPERM, errno.ENOMEM)


@pytest.fixture
def host(tmp_path: Path) -> SimulatedHost:
    found = SimulatedHost(tmp_path / "host")
    enrol(found)
    return found


def refused(host: SimulatedHost, number: int, says: str = "") -> Ran:
    host.refuse_load, host.kernel_says = number, says
    return run_json(host, "load", save(make_livepatch("elp_a"), host.root / "files"))


@pytest.mark.parametrize("number", NUMBERS)
def test_a_refusal_of_the_livepatchs_own_callback_is_told_as_that(host: SimulatedHost, number: int) -> None:
    ran = refused(host, number, SAYS)
    assert (ran.status, ran.code) == (6, "callback-refused")
    problem = ran.document["problem"]
    assert "its own pre-patch callback for vmlinux refused" in problem["message"]
    assert "failed to enable patch" in problem["excerpt"]
    assert host.live == []


def test_an_older_message_in_the_log_explains_nothing(host: SimulatedHost) -> None:
    host.put("dev/kmsg", SAYS)
    assert refused(host, errno.EINVAL).code == "load-incompatible"


def test_no_such_device_means_no_livepatching_only_on_a_kernel_without_it(host: SimulatedHost) -> None:
    ran = refused(host, errno.ENODEV)
    assert ran.code == "load-failed"
    assert "livepatching" not in ran.document["problem"]["message"]


@pytest.mark.parametrize("log", ["missing", "directory"])
def test_a_log_that_cannot_be_read_changes_nothing(host: SimulatedHost, log: str) -> None:
    (host.root / "dev/kmsg").unlink()
    if log == "directory":
        (host.root / "dev/kmsg").mkdir()
    host.refuse_load = errno.ENOMEM
    host.kernel_says = ""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SimulatedHost, "_load", _no_memory)
        ran = run_json(host, "load", save(make_livepatch("elp_a"), host.root / "files"))
    assert ran.code == "load-memory"


def _no_memory(_host: SimulatedHost, _content: bytes) -> None:
    raise OSError(errno.ENOMEM, "Cannot allocate memory")
