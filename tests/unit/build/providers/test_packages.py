# SPDX-License-Identifier: GPL-2.0-or-later
"""Packages of the operator's directory become a base only if they are of the kernel that the host runs."""

from __future__ import annotations

import tarfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from bare_base import bare_base
from kernel_packages import debug_files, headers_files, image_files, make_deb
from outside import OutsideSandbox
from pushing_host import BUILD_ID, RELEASE

from elivepatch.build.base.custom import CustomKernel, CustomMaker
from elivepatch.build.base.store import Base
from elivepatch.build.packages import reader
from elivepatch.build.providers import packages as module
from elivepatch.build.providers.choice import check_providers
from elivepatch.build.providers.packages import PackagesProvider
from elivepatch.build.providers.provision import NotProvided
from elivepatch.build.providers.source import Declared
from elivepatch.files.digest import sha256_file
from elivepatch.kernel.config import KernelConfig
from elivepatch.model.errors import ElivepatchError, EnvironmentFault, UsageError
from elivepatch.model.kernel import BuildId, Release
from elivepatch.model.kernel_request import KernelRequest

ASKED = KernelRequest(release=Release(RELEASE), build_id=BuildId(BUILD_ID))
DECLARED = Declared(releases="6.12.*-ours", source="/srv/linux#v{version}", base_patches=(Path("/our.patch"),))


class Maker:
    """A maker that keeps what it was asked for."""

    def __init__(self, base: Base) -> None:
        self.base = base
        self.asked: list[CustomKernel] = []
        self.refuses: ElivepatchError | None = None
        self.context = SimpleNamespace(report=lambda *_: None, helper_sandbox=OutsideSandbox, toolchain=self.toolchain)

    def toolchain(self, _config: KernelConfig) -> None:
        if self.refuses is not None:
            raise self.refuses

    def add(self, kernel: CustomKernel) -> Base:
        self.asked.append(kernel)
        return self.base


class Server:
    """A server with a directory of packages, for one request."""

    def __init__(self, top: Path) -> None:
        self.store, self.work = top / "store", top / "work"
        self.store.mkdir()
        self.work.mkdir()
        self.maker = Maker(bare_base(top))

    def fill(self, **versions: str) -> None:
        for name, files in (("image", image_files()), ("headers", headers_files()), ("dbg", debug_files())):
            make_deb(self.store, f"linux-{name}-{RELEASE}", files, version=versions.get(name, "6.12.40-1"))

    def provide(self, asked: KernelRequest = ASKED, *declared: Declared) -> Base | NotProvided:
        return PackagesProvider(cast("CustomMaker", self.maker), declared, self.store, self.work).provide(asked)

    def refusal(self, asked: KernelRequest = ASKED) -> str:
        with pytest.raises(ElivepatchError) as caught:
            self.provide(asked, DECLARED)
        assert self.maker.asked == []
        return caught.value.problem.code


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(reader, "unprivileged", list)
    monkeypatch.setattr(module, "_BASE_BYTES", 0)
    return Server(tmp_path)


def test_the_base_is_made_from_the_packages_and_a_declared_source_without_a_build(server: Server) -> None:
    server.fill()
    assert server.provide(ASKED, DECLARED) is server.maker.base
    (kernel,) = server.maker.asked
    assert (kernel.release, kernel.build_id, kernel.built_in) == (RELEASE, BUILD_ID, False)
    assert (kernel.source, kernel.base_patches) == ("/srv/linux#v6.12.40", (Path("/our.patch"),))
    assert kernel.kept is not None
    assert kernel.packages == {path.name: sha256_file(path) for path in server.store.iterdir()}


def test_the_source_of_the_same_version_needs_no_declaration(server: Server, tmp_path: Path) -> None:
    server.fill()
    (tmp_path / "Makefile").write_text("VERSION = 6\n")
    with tarfile.open(tmp_path / "linux.tar.xz", "w:xz") as packed:
        packed.add(tmp_path / "Makefile", "linux/Makefile")
    tarball = (tmp_path / "linux.tar.xz").read_bytes()
    make_deb(server.store, "linux-source-6.12", {"usr/src/linux-source-6.12.tar.xz": tarball})
    server.provide()
    (kernel,) = server.maker.asked
    assert Path(kernel.source).name == "linux-source-6.12.tar.xz"
    assert "linux-source-6.12_6.12.40-1_amd64.deb" in kernel.packages


def test_without_a_source_nothing_is_made(server: Server) -> None:
    server.fill()
    with pytest.raises(UsageError) as caught:
        server.provide()
    assert caught.value.problem.code == "packages-incomplete"
    assert "no package has its source" in caught.value.problem.message
    assert "linux-source" in caught.value.problem.advice
    assert server.maker.asked == []


def test_packages_of_another_kernel_are_no_answer_and_their_kernels_are_named(server: Server) -> None:
    server.fill()
    answer = server.provide(replace(ASKED, release=Release("6.12.41-ours")), DECLARED)
    assert isinstance(answer, NotProvided)
    assert answer.why == (
        f"No package of the server's directory has a file of 6.12.41-ours: they are of {RELEASE}."
    )  # fmt: skip


def test_an_empty_directory_says_so_and_names_what_cannot_be_read(server: Server) -> None:
    (server.store / "half.rpm").write_bytes(b"half")
    answer = server.provide()
    assert isinstance(answer, NotProvided)
    assert "1 of them cannot be read, such as half.rpm." in answer.why


def test_packages_of_another_build_than_the_host_runs_are_refused(server: Server) -> None:
    server.fill()
    assert server.refusal(replace(ASKED, build_id=BuildId("77" * 20))) == "other-build"


def test_without_room_for_what_they_hold_nothing_is_unpacked(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.fill()
    monkeypatch.setattr(module, "_BASE_BYTES", 1 << 60)
    assert server.refusal() == "disk-room"
    assert not (server.work / "kernel").exists()


def test_a_kernel_whose_compiler_is_unknown_is_refused_before_its_debug_package_is_unpacked(server: Server) -> None:
    server.fill()
    server.maker.refuses = EnvironmentFault("toolchain-match", "No toolchain has it.", advice="Bring it.")
    assert server.refusal() == "toolchain-match"
    assert not list((server.work / "kernel").rglob("vmlinux*"))


def test_a_kernel_without_livepatches_is_refused_by_its_configuration(server: Server) -> None:
    files = image_files() | {f"boot/config-{RELEASE}": b"CONFIG_X86_64=y\n"}
    make_deb(server.store, f"linux-image-{RELEASE}", files)
    assert server.refusal() == "config-livepatch"


def test_a_server_without_a_directory_names_the_setting(server: Server) -> None:
    answer = PackagesProvider(cast("CustomMaker", server.maker), (), None, server.work).provide(ASKED)
    assert isinstance(answer, NotProvided)
    assert "`packages`" in answer.advice


def test_a_server_whose_directory_is_missing_does_not_start(tmp_path: Path) -> None:
    check_providers("packages", "", str(tmp_path))
    with pytest.raises(UsageError, match="There is no directory"):
        check_providers("packages", "", str(tmp_path / "none"))
