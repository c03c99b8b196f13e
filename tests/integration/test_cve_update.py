# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch cve update`: a client stores the sources of its kernel and the CVE index of a real server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fake_backend import KERNEL, SOURCES, UNPROVIDED
from host_commands import Ran, enrol, run_json
from running_server import RunningServer
from simulated_host import SimulatedHost

from elivepatch.advisory.exposure.sources import KernelSources
from elivepatch.advisory.records.index import read_index
from elivepatch.client.cve.cache import DIRECTORY, CveCache
from elivepatch.service import cli

pytestmark = pytest.mark.integration

LIST = Path(__file__).parents[1] / "unit/data/cve-list"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with RunningServer(tmp_path_factory.mktemp("server") / "state") as found:
        yield found


@pytest.fixture
def host(tmp_path: Path) -> SimulatedHost:
    return SimulatedHost(tmp_path / "host", build_id=KERNEL.build_id)


def update(host: SimulatedHost, server: RunningServer, *options: str | Path) -> Ran:
    return run_json(host, "cve", "update", "--url", server.url, "--token-file", server.token_file, *options)


def test_the_hosts_own_kernel_is_kept_and_fetched_again_only_when_it_changed(
    host: SimulatedHost, server: RunningServer
) -> None:
    ran = update(host, server)
    assert ran.status == 0
    assert ran.document["changed"] is True
    assert (ran.document["vanilla"], ran.document["built"]) == ("6.1.176", 2)
    kept = CveCache(host.root / DIRECTORY)
    assert kept.sources(KERNEL.release) == SOURCES
    assert update(host, server).document["changed"] is False
    kept.keep_sources(KERNEL.release, replace(SOURCES, sources={}).encode())
    assert update(host, server).document["changed"] is True
    assert kept.sources(KERNEL.release) == SOURCES


def test_the_records_are_kept_and_answer_without_the_server(host: SimulatedHost, server: RunningServer) -> None:
    assert update(host, server).document["records"] is None
    assert cli.main(["cve", "index", "--records", str(LIST), "--state", str(server.state)]) == 0
    enrol_at(host, server)
    assert update(host, server).document["records"] == {"count": 8, "changed": True}
    again = update(host, server)
    assert again.document["records"] == {"count": 8, "changed": False}
    assert again.err == ""
    assert len(read_index(CveCache(host.root / DIRECTORY).records).listed) == 8
    answered = run_json(host, "cve", "list", "--kernel", "6.12.40", "--state", "affected")
    assert len(answered.document) == 3


def test_answers_of_a_server_that_is_not_trusted_are_not_kept(host: SimulatedHost, server: RunningServer) -> None:
    enrol_at(host, server, key="00" * 31 + "01")
    ran = update(host, server)
    assert (ran.status, ran.code) == (5, "document-signature")
    assert not (host.root / DIRECTORY).exists()


def enrol_at(host: SimulatedHost, server: RunningServer, *, key: str = "") -> None:
    enrol(host, server.url, key or server.request("GET", "/v1/key").json()["public_key"])


def test_another_build_of_the_kernel_is_refused_and_nothing_kept(tmp_path: Path, server: RunningServer) -> None:
    host = SimulatedHost(tmp_path / "host")
    ran = update(host, server)
    assert (ran.status, ran.code) == (6, "other-build")
    assert CveCache(host.root / DIRECTORY).sources(KERNEL.release) is None


def test_another_hosts_kernel_is_fetched_by_its_release_or_saved(tmp_path: Path, server: RunningServer) -> None:
    host = SimulatedHost(tmp_path / "host", release="5.10.3-other")
    file = tmp_path / "sources.json"
    assert update(host, server, "--kernel", KERNEL.release, "-o", file).status == 0
    assert KernelSources.decode(file.read_bytes()) == SOURCES
    assert not (host.root / DIRECTORY).exists()
    assert update(host, server, "--kernel", KERNEL.release).status == 0
    assert CveCache(host.root / DIRECTORY).sources(KERNEL.release) == SOURCES


def test_a_kernel_that_the_server_lacks_is_made_first(host: SimulatedHost, server: RunningServer) -> None:
    ran = update(host, server, "--kernel", "5.10.3-elsewhere")
    assert (ran.status, ran.document["release"]) == (0, "5.10.3-elsewhere")
    assert server.backend.runs("base 5.10.3-elsewhere") == 1


def test_a_kernel_that_the_server_cannot_make_is_an_error_in_its_words(
    host: SimulatedHost, server: RunningServer
) -> None:
    assert cli.main(["cve", "index", "--records", str(LIST), "--state", str(server.state)]) == 0
    ran = update(host, server, "--kernel", f"5.10.3{UNPROVIDED}")
    assert ran.code == "kernel-not-provided"
    # The records are of use for it all the same.
    assert run_json(host, "cve", "list", "--kernel", "5.10.3").status == 0


def test_a_server_that_is_away_leaves_what_is_kept(host: SimulatedHost, server: RunningServer) -> None:
    update(host, server)
    ran = run_json(host, "cve", "update", "--url", "http://127.0.0.1:9")
    assert (ran.status, ran.code) == (4, "server-unreachable")
    assert CveCache(host.root / DIRECTORY).sources(KERNEL.release) == SOURCES
