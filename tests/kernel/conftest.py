# SPDX-License-Identifier: GPL-2.0-or-later
"""Real kernels for the tests that build and boot. The cache keeps the bases and tools that they share."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from edits import series_of
from guest_host import HOST_ADDRESS, GuestHost, client_files, userland
from real_server import Server

from elivepatch.build.archive.apt import Archive
from elivepatch.build.base.store import Base
from elivepatch.build.builders.objects import ObjectsBuilder
from elivepatch.model.build import BuildOutcome
from elivepatch.model.progress import Event
from elivepatch.process import run
from elivepatch.service.jobs.local_backend import LocalBackend
from elivepatch.service.jobs.trials.guest_kernel import guest_kernel
from elivepatch.settings import ServerSettings
from elivepatch.trial.case import GuestKernel

BOOKWORM = "6.1.0-50-cloud-amd64"
"""Debian 12's last kernel in its main archive, which no longer changes; without IBT."""

Build = Callable[..., BuildOutcome]

# Servers that the tests start have no workload, which would take seconds of each trial; test_workload.py asks for it.
os.environ.setdefault("ELIVEPATCH_WORKLOAD_S", "0")


def _tell(event: Event) -> None:
    if event.fraction in {None, 0.0, 1.0}:
        sys.stderr.write(f"[{event.stage}] {event.message}\n")


@pytest.fixture(scope="session")
def settings() -> ServerSettings:
    return ServerSettings(
        cache_dir=Path(os.environ.get("ELIVEPATCH_CACHE_DIR", "/var/cache/elivepatch")), jobs=2, workload_s=0
    )


@pytest.fixture(scope="session")
def backend(settings: ServerSettings) -> LocalBackend:
    return LocalBackend(settings)


@pytest.fixture(scope="session")
def archive(backend: LocalBackend) -> Archive:
    return backend.archive


@pytest.fixture(scope="session")
def base_6_1(backend: LocalBackend) -> Base:
    """Debian 12's stock 6.1.176: gcc 12, no IBT."""
    return backend.base(backend.maker(_tell).add(BOOKWORM).release)


@pytest.fixture(scope="session")
def base_6_12(backend: LocalBackend) -> Base:
    """Debian 13's newest stock 6.12: gcc 14, IBT."""
    return backend.base(backend.maker(_tell).add("debian-13-cloud").release)


@pytest.fixture(params=[pytest.param("6.1", marks=pytest.mark.extended), "6.12"])
def base(request: pytest.FixtureRequest) -> Base:
    """Each of the two; the kernel lane has the one with IBT, for which more has to be right."""
    found: Base = request.getfixturevalue(f"base_{request.param.replace('.', '_')}")
    return found


def _reachable(settings: ServerSettings) -> Iterator[Path]:
    # Not the scratch of jobs: a server that starts sweeps that.
    top = settings.cache_dir / "tests"
    top.mkdir(parents=True, exist_ok=True)
    path = Path(tempfile.mkdtemp(prefix="test-", dir=top))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def reachable_path(settings: ServerSettings) -> Iterator[Path]:
    """An empty directory that the sandbox's user can reach, which pytest's own temporary directories are not."""
    yield from _reachable(settings)


@pytest.fixture(scope="module")
def shared_path(settings: ServerSettings) -> Iterator[Path]:
    """The same, for what the tests of one module share."""
    yield from _reachable(settings)


@pytest.fixture
def build(backend: LocalBackend, reachable_path: Path) -> Build:
    """Build a livepatch from texts of source patches, without service or trial."""
    count = 0

    def built(
        base: Base, *patches: str | bytes, name: str = "livepatch_test", check_only: bool = False
    ) -> BuildOutcome:
        nonlocal count
        count += 1
        work_dir = reachable_path / str(count)
        work_dir.mkdir()
        builder = ObjectsBuilder(base=base, toolchains=backend.toolchains, jobs=2)
        return builder.build(series_of(*patches), name=name, work_dir=work_dir, check_only=check_only)

    return built


@pytest.fixture(scope="module")
def server(settings: ServerSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    served = Server(tmp_path_factory.mktemp("server") / "state", settings.cache_dir)
    served.start()
    yield served
    served.end()


@pytest.fixture(scope="module")
def variables(server: Server) -> str:
    """Start of every script of a host: address, fingerprint and token of the server."""
    fingerprint = server.get("/v1/key").json()["fingerprint"]
    return f"export URL=http://{HOST_ADDRESS}:{server.port} FINGERPRINT={fingerprint} ELIVEPATCH_TOKEN={server.token}\n"


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of an installed client."""
    return client_files(tmp_path_factory.mktemp("client"))


@pytest.fixture(scope="module")
def host_of(
    settings: ServerSettings, archive: Archive, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Base], GuestHost]]:
    """Make a host that runs the kernel of a base."""
    hosts: list[GuestHost] = []

    def made(base: Base) -> GuestHost:
        place, logs = tmp_path_factory.mktemp("host"), settings.cache_dir / "guest-host/logs"
        disk = userland(settings.cache_dir, archive)
        hosts.append(GuestHost(guest_kernel(base), disk, place=place, logs=logs))
        return hosts[-1]

    yield made
    for one in hosts:
        one.scrap()


@pytest.fixture(scope="session")
def stock_kernel(base_6_1: Base) -> GuestKernel:
    return guest_kernel(base_6_1)


@pytest.fixture(scope="session")
def kernel_headers(archive: Archive, base_6_1: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The headers of the stock 6.1 kernel, unpacked: the directory to give to `make -C`."""
    root = tmp_path_factory.mktemp("headers")
    version = base_6_1.version
    common = BOOKWORM.replace("-cloud-amd64", "-common")
    names = (f"linux-headers-{BOOKWORM}", f"linux-headers-{common}", "linux-kbuild-6.1")
    for path in archive.download([archive.find(name, version) for name in names]):
        run(["dpkg-deb", "-x", path, root]).check("Unpacking the headers")
    return root / "usr/src" / f"linux-headers-{BOOKWORM}"
