# SPDX-License-Identifier: GPL-2.0-or-later
"""Patches that a kernel was built with: found or named on the host, compared by the server's catalogue."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from unittest import mock

import pytest
from fake_backend import BASE_PATCHES, KERNEL, FakeBackend
from simulated_host import SimulatedHost

from elivepatch.client.commands.connection import add_base_patches, base_patch_options
from elivepatch.client.host import machine as machines
from elivepatch.client.server.base_patches import base_patches_of
from elivepatch.model.build import BuildRequest
from elivepatch.model.errors import HostError
from elivepatch.model.kernel import Digest, Release
from elivepatch.model.series import BasePatch, PatchSeries, SourcePatch
from elivepatch.service.db.database import migrate, open_database, sqlite_url
from elivepatch.service.jobs.catalogue import Catalogue, FleetCatalogue, LocalCatalogue
from elivepatch.service.jobs.fleet import Fleet, Offer
from elivepatch.service.jobs.records import build_key
from elivepatch.service.store import Store

GENTOO = Release("6.6.30-gentoo")
OURS = tuple(BasePatch(name, digest) for name, digest in BASE_PATCHES.items())


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def host(tmp_path: Path) -> SimulatedHost:
    found = SimulatedHost(tmp_path / "host", release=GENTOO)
    found.put("etc/portage/patches/sys-kernel/gentoo-sources/20-b.patch", "b")
    found.put("etc/portage/patches/sys-kernel/gentoo-sources-6.6.30/10-a.diff", "a")
    return found


def named(host: SimulatedHost, *options: str | Path, release: Release = GENTOO) -> list[tuple[str, str]]:
    parser = argparse.ArgumentParser()
    add_base_patches(parser)
    with mock.patch.object(machines, "this_machine", return_value=host.machine):
        given = parser.parse_args([str(option) for option in options])
        found = base_patches_of(base_patch_options(given), release)
    return [(patch.name, patch.digest) for patch in found]


def test_portages_user_patches_are_named_in_the_order_in_which_it_applies_them(host: SimulatedHost) -> None:
    assert named(host) == [("10-a.diff", digest(b"a")), ("20-b.patch", digest(b"b"))]


def test_they_are_those_of_the_running_kernel_and_of_no_other(host: SimulatedHost) -> None:
    assert named(host, release=Release("6.6.31-gentoo")) == []


def test_what_the_user_names_goes_before_what_is_found(host: SimulatedHost, tmp_path: Path) -> None:
    (tmp_path / "mine.patch").write_bytes(b"mine")
    assert named(host, "--base-patch", tmp_path / "mine.patch") == [("mine.patch", digest(b"mine"))]
    assert named(host, "--no-base-patches") == []


def request(*base_patches: BasePatch) -> BuildRequest:
    series = PatchSeries((SourcePatch("fix.patch", b"--- a/x\n+++ b/x\n"),))
    return BuildRequest(release=KERNEL.release, series=series, base_patches=base_patches)


@pytest.fixture(params=["one host", "a fleet", "a fleet with a worker of the version before"])
def catalogue(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Catalogue, bool]:
    """Return a catalogue, and whether it knows the patches of its base."""
    backend = FakeBackend(tmp_path / "journal")
    if request.param == "one host":
        return LocalCatalogue(backend), True
    database = open_database(sqlite_url(tmp_path / "elivepatch.db"))
    migrate(database)
    knows = request.param == "a fleet"
    offer = Offer(
        kernel=KERNEL,
        facts=backend.facts(KERNEL.release),
        sources=Digest("00" * 32),
        base_patches=BASE_PATCHES if knows else None,
    )
    fleet = Fleet(database)
    fleet.announce("one", "first", [offer])
    return FleetCatalogue(fleet, Store.in_directory(tmp_path / "store")), knows


def test_a_base_with_these_patches_is_planned_for_and_the_build_is_the_same(catalogue: tuple[Catalogue, bool]) -> None:
    found, _ = catalogue
    plain = found.route(request())
    assert plain.build_key == build_key(FakeBackend(Path("none")).facts(KERNEL.release), request(*OURS))
    assert found.route(request(*OURS)) == found.route(request(*reversed(OURS))) == plain


def test_a_base_with_other_patches_is_refused(catalogue: tuple[Catalogue, bool]) -> None:
    found, knows = catalogue
    asked = request(BasePatch("theirs.patch", Digest("56" * 32)))
    if not knows:
        assert found.route(asked) == found.route(request())
        return
    with pytest.raises(HostError) as caught:
        found.route(asked)
    problem = caught.value.problem
    assert problem.code == "base-patches"
    assert problem.message.endswith("it lacks theirs.patch and it has our-driver.patch, our-tuning.patch besides.")
