# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that a host sent: they are hostile, and become a base only if they are of the kernel that it runs."""

from __future__ import annotations

import gzip
import io
import tarfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from bare_base import bare_base
from pushing_host import BUILD_ID, RELEASE, vmlinux_of

from elivepatch.build.base.custom import CustomKernel, CustomMaker
from elivepatch.build.base.store import Base
from elivepatch.build.providers import host as module
from elivepatch.build.providers.host import HostProvider
from elivepatch.build.providers.provision import NotProvided
from elivepatch.build.providers.source import Declared
from elivepatch.model.errors import ElivepatchError
from elivepatch.model.kernel import BuildId, Digest, Release
from elivepatch.model.kernel_request import KernelRequest
from elivepatch.process import run

PIECE = (Digest("12" * 32),)
ASKED = KernelRequest(release=Release(RELEASE), build_id=BuildId(BUILD_ID), files=PIECE, source=PIECE)
FILES = {"vmlinux": vmlinux_of(BUILD_ID), "vmlinuz": b"MZ", "Module.symvers": b"0x1", "config": b"CONFIG_X86_64=y\n",
         "modules/kernel/fat.ko": b"module", "patches/0001-our.patch": b"diff"}  # fmt: skip


class Tar:
    """The helper's sandbox, with tar alone and without walls; what the walls hold is tests/kernel/test_sandbox.py."""

    def run(self, command: list[str], *, inputs: Path, output: Path, timeout_s: float) -> Any:
        words = [str(inputs / word.removeprefix("/in/")) if word.startswith("/in/") else word for word in command]
        return run([str(output) if word == "/out" else word for word in words], timeout_s=timeout_s)


class Maker:
    """A maker that keeps what it was asked for, and reads the files while they are there."""

    def __init__(self, base: Base) -> None:
        self.base = base
        self.asked: list[tuple[CustomKernel, bytes, bytes]] = []
        self.context = SimpleNamespace(report=lambda *_: None, helper_sandbox=Tar)

    def add(self, kernel: CustomKernel) -> Base:
        assert kernel.kept is not None
        self.asked.append((kernel, kernel.kept.vmlinux.read_bytes(), kernel.config.read_bytes()))
        return self.base


def archive(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return gzip.compress(packed.getvalue())


class Pushed:
    """A server's directories for one request."""

    def __init__(self, top: Path) -> None:
        self.pushed, self.work = top / "pushed", top / "work"
        self.pushed.mkdir()
        self.work.mkdir()
        self.maker = Maker(bare_base(top))
        self.put(files=archive(FILES), source=archive({"linux/Makefile": b"VERSION = 6\n"}))

    def put(self, **archives: bytes) -> None:
        for name, content in archives.items():
            (self.pushed / f"{name}.tar.gz").write_bytes(content)

    def provide(self, asked: KernelRequest = ASKED, *declared: Declared) -> Base | NotProvided:
        provider = HostProvider(cast("CustomMaker", self.maker), declared, self.pushed, self.work)
        return provider.provide(asked)

    def refusal(self, asked: KernelRequest = ASKED) -> str:
        with pytest.raises(ElivepatchError) as caught:
            self.provide(asked)
        assert self.maker.asked == []
        return caught.value.problem.code


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pushed:
    monkeypatch.setattr(module, "writable_directory", _plain_directory)
    return Pushed(tmp_path)


def _plain_directory(path: Path) -> Path:
    path.mkdir()
    return path


def test_the_base_is_made_from_the_files_without_a_build(server: Pushed) -> None:
    assert server.provide() is server.maker.base
    ((kernel, vmlinux, config),) = server.maker.asked
    assert (vmlinux, config) == (FILES["vmlinux"], FILES["config"])
    assert (kernel.release, kernel.build_id, kernel.built_in) == (RELEASE, BUILD_ID, True)
    assert Path(kernel.source).name == "source.tar"
    assert [path.name for path in kernel.base_patches] == ["0001-our.patch"]
    assert kernel.kept is not None
    assert kernel.kept.modules is not None
    assert kernel.kept.debug is None


def test_the_record_of_a_build_without_debug_information_is_taken(server: Pushed) -> None:
    server.put(files=archive(FILES | {"record": b"vmlinux init/main.c -\n"}))
    server.provide()
    kept = server.maker.asked[0][0].kept
    assert kept is not None
    assert kept.record is not None
    assert kept.record.name == "record"


def test_debug_files_that_the_host_has_apart_are_taken(server: Pushed) -> None:
    server.put(files=archive(FILES | {"debug/kernel/fat.ko.debug": b"debug information"}))
    server.provide()
    kept = server.maker.asked[0][0].kept
    assert kept is not None
    assert kept.debug is not None
    assert (kept.debug / "kernel/fat.ko.debug").read_bytes() == b"debug information"


def test_a_host_that_has_sent_nothing_is_told_how(server: Pushed) -> None:
    answer = server.provide(replace(ASKED, files=()))
    assert isinstance(answer, NotProvided)
    assert "elivepatch kernel push" in answer.advice


def test_without_a_sent_source_a_declared_one_is_used_and_without_both_nothing_is_made(server: Pushed) -> None:
    asked = replace(ASKED, source=())
    answer = server.provide(asked)
    assert isinstance(answer, NotProvided)
    assert "--source" in answer.advice
    server.provide(asked, Declared(releases="6.12.*", source="/srv/linux#v{version}"))
    ((kernel, _, _),) = server.maker.asked
    assert (kernel.source, kernel.built_in) == ("/srv/linux#v6.12.40", False)


def test_a_packed_configuration_comes_with_the_request(server: Pushed) -> None:
    server.put(files=archive({name: content for name, content in FILES.items() if name != "config"}))
    server.provide(replace(ASKED, config=b"CONFIG_X86_64=y\nCONFIG_IKCONFIG=y\n"))
    assert server.maker.asked[0][2].endswith(b"CONFIG_IKCONFIG=y\n")


def test_the_vmlinux_of_another_kernel_is_refused(server: Pushed) -> None:
    server.put(files=archive(FILES | {"vmlinux": vmlinux_of("77" * 20)}))
    assert server.refusal() == "other-build"


def test_a_push_that_was_cut_is_refused(server: Pushed) -> None:
    whole = archive(FILES)
    server.put(files=whole[: len(whole) // 2])
    assert server.refusal() == "pushed-damaged"


def test_what_is_no_archive_is_refused(server: Pushed) -> None:
    server.put(files=b"no gzip")
    assert server.refusal() == "pushed-damaged"


def test_an_archive_that_lacks_a_file_is_refused_by_its_name(server: Pushed) -> None:
    server.put(files=archive({"vmlinux": FILES["vmlinux"]}))
    assert server.refusal() == "pushed-incomplete"


def test_a_bomb_is_refused_at_the_limit_and_leaves_no_more_than_that(
    server: Pushed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FILES_LIMIT_BYTES", 4 << 20)
    server.put(files=gzip.compress(b"\0" * (64 << 20)))
    assert server.refusal() == "pushed-large"
    assert sum(path.stat().st_size for path in server.work.iterdir() if path.is_file()) <= 4 << 20


def test_links_and_devices_of_the_archive_are_not_taken(server: Pushed, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(vmlinux_of(BUILD_ID))
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in FILES.items():
            header = tarfile.TarInfo(name)
            if name == "vmlinux":
                header.type, header.linkname = tarfile.SYMTYPE, str(tmp_path / "secret")
                tar.addfile(header)
            else:
                header.size = len(content)
                tar.addfile(header, io.BytesIO(content))
    server.put(files=gzip.compress(packed.getvalue()))
    assert server.refusal() == "pushed-incomplete"
