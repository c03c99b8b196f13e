# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernels that a worker announces, and the check of the others by `doctor`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from assembled import assembled
from fake_backend import KERNEL, FakeBackend

from elivepatch.model.errors import EnvironmentFault
from elivepatch.model.kernel import Digest, KernelIdentity, Release
from elivepatch.service import doctor as checkup
from elivepatch.settings import ServerSettings

OTHER = replace(KERNEL, release=Release("6.12.1-amd64"))


class HalfEquipped(FakeBackend):
    """A backend that has two kernels and the toolchain of one."""

    def kernels(self) -> list[KernelIdentity]:
        return [OTHER, KERNEL]

    def facts(self, release: str) -> Digest:
        if release == OTHER.release:
            raise EnvironmentFault("toolchain-missing", "The toolchain is not there.", advice="Make it.")
        return super().facts(release)


def test_a_kernel_whose_toolchain_is_gone_does_not_keep_the_server_from_the_others(tmp_path: Path) -> None:
    with assembled(tmp_path, kind=HalfEquipped) as server:
        refused = server.ask("sleep 0", kernel=OTHER.release)
        assert (refused.status_code, refused.json()["code"]) == (503, "toolchain-missing")
        assert server.done("sleep 0")["result"] == "success"
        (member,) = server.services.resources.fleet.members()
        assert [offer.kernel.release for offer in member.offers] == [KERNEL.release]


def test_a_kernel_whose_toolchain_is_gone_is_told_by_the_check_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkup, "LocalBackend", lambda _: HalfEquipped(tmp_path / "runs.txt"))
    found = checkup._kernels(ServerSettings())
    assert (found.well, found.seen, found.advice) == (
        False,
        "6.12.1-amd64: The toolchain is not there.",
        "Make it.",
    )


class Counting(FakeBackend):
    """A backend that writes down how often it computes sources."""

    def encoded_sources(self, release: str) -> bytes:
        self._note("sources")
        return super().encoded_sources(release)


def test_a_restart_does_not_compute_again_the_sources_that_were_announced(tmp_path: Path) -> None:
    for _ in range(3):
        with assembled(tmp_path, kind=Counting) as server:
            assert server.backend.runs("sources") == 1
    for blob in (tmp_path / "store").rglob("*"):
        if blob.is_file():
            blob.unlink()
    with assembled(tmp_path, kind=Counting) as server:
        assert server.backend.runs("sources") == 2, "they were lost"
