# SPDX-License-Identifier: GPL-2.0-or-later
"""The catalogue of kernels: read once, and again after a change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fake_backend import KERNEL, FakeBackend

from elivepatch.files.atomic import write_atomic
from elivepatch.model.build import BuildRequest
from elivepatch.model.kernel import Digest, KernelIdentity, Release
from elivepatch.model.series import PatchSeries, SourcePatch
from elivepatch.service.jobs.catalogue import LocalCatalogue
from elivepatch.service.jobs.local_backend import LocalBackend
from elivepatch.settings import ServerSettings

OTHER = replace(KERNEL, release=Release("6.12.1-amd64"))
REQUEST = BuildRequest(release=KERNEL.release, series=PatchSeries((SourcePatch("fix.patch", b"+x"),)))


class Counted(FakeBackend):
    """A backend that counts how often it is read."""

    def __init__(self, journal: Path) -> None:
        super().__init__(journal)
        self.reads = 0
        self.added: list[KernelIdentity] = []

    def revision(self) -> str:
        return str(len(self.added))

    def kernels(self) -> list[KernelIdentity]:
        self.reads += 1
        return [KERNEL, *self.added]

    def base_patches(self, release: str) -> dict[str, Digest]:
        self.reads += 1
        return super().base_patches(release)

    def facts(self, release: str) -> Digest:
        self.reads += 1
        return super().facts(release)


def test_many_requests_read_the_bases_once(tmp_path: Path) -> None:
    backend = Counted(tmp_path / "runs.txt")
    catalogue = LocalCatalogue(backend)
    routes = {catalogue.route(REQUEST) for _ in range(20)}
    assert len(routes) == 1
    assert backend.reads == 6  # the kernels; patches; the digest, for which the fake reads patches and kernels by facts


def test_a_kernel_that_is_added_is_offered_at_once(tmp_path: Path) -> None:
    backend = Counted(tmp_path / "runs.txt")
    catalogue = LocalCatalogue(backend)
    assert catalogue.kernels() == [KERNEL]
    backend.added.append(OTHER)
    assert catalogue.kernels() == [KERNEL, OTHER]


def test_the_revision_of_a_machine_changes_with_its_bases_and_toolchains(tmp_path: Path) -> None:
    backend = LocalBackend(ServerSettings(cache_dir=tmp_path))
    seen = [backend.revision()]
    for place in ("bases/6.1.0/base.json", "toolchains/helper/toolchain.json", "bases/6.1.0/base.json"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(tmp_path / place, b"{}")
        seen.append(backend.revision())
        assert backend.revision() == seen[-1]
    assert len(set(seen)) == 4
