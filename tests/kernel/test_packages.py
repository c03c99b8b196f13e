# SPDX-License-Identifier: GPL-2.0-or-later
"""Packages of kernels, read in the real sandbox, become bases that livepatches are built on and tried."""

from __future__ import annotations

import stat
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from kernel_packages import debug_files, headers_files, image_files, make_deb, make_pacman, make_rpm
from pushing_host import BUILD_ID, RELEASE

from elivepatch.build.packages.kernel import KernelTaker
from elivepatch.build.packages.reader import PackageReader
from elivepatch.build.packages.source import find_source
from elivepatch.build.packages.tools import make_tools
from elivepatch.build.sandbox.bubblewrap import BUILD_UID
from elivepatch.kernel.elf import ElfFile
from elivepatch.model.errors import UsageError
from elivepatch.model.kernel import Release
from elivepatch.service.jobs.local_backend import LocalBackend

pytestmark = pytest.mark.kernel

IMAGE = f"boot/vmlinuz-{RELEASE}"


@pytest.fixture
def reader(backend: LocalBackend, reachable_path: Path) -> PackageReader:
    store, tools = reachable_path / "store", reachable_path / "tools"
    store.mkdir()
    make_tools(tools)
    return PackageReader(directory=store, helper=backend.base_context().helper_sandbox(), tools=tools)


def fill(store: Path, kind: str) -> None:
    groups: dict[str, Mapping[str, bytes]] = {
        "linux-image": image_files(), "linux-headers": headers_files(), "linux-dbg": debug_files()
    }  # fmt: skip
    for name, files in groups.items():
        match kind:
            case "deb":
                make_deb(store, name, files)
            case "deb of Ubuntu":
                make_deb(store, name, files, way="zstd", listed=False)
            case "rpm":
                make_rpm(store, name, files, ghosts=[f"boot/System.map-{RELEASE}"])
            case _:
                make_pacman(store, name, files)


@pytest.mark.parametrize("kind", ["deb", "deb of Ubuntu", "rpm", "pacman"])
def test_the_files_of_a_kernel_come_out_of_each_kind_of_package_in_the_sandbox(
    reader: PackageReader, reachable_path: Path, kind: str
) -> None:
    fill(reader.directory, kind)
    files = KernelTaker(reader, reader.listing(), Release(RELEASE), reachable_path / "kernel").take()
    assert files is not None
    assert ElfFile(files.kept.vmlinux).build_id == BUILD_ID
    assert len(files.packages) == 3


def test_a_source_rpm_is_prepared_in_the_sandbox(reader: PackageReader, reachable_path: Path) -> None:
    """Its %prep is a program of a stranger's: it sees no file of this machine and reaches no network."""
    tree = reachable_path / "linux"
    (tree / "kernel").mkdir(parents=True)
    (tree / "kernel/fork.c").write_text("int fork;\n")
    with tarfile.open(reachable_path / "linux.tar.gz", "w:gz") as packed:
        packed.add(tree, "linux")
    secret = reachable_path / "secret"
    secret.write_text("a secret")
    prepare = f"%setup -q -n linux\nif [ -e {secret} ]; then cp {secret} stolen; fi\nid -u >user\n"
    sources = {"linux.tar.gz": (reachable_path / "linux.tar.gz").read_bytes()}
    make_rpm(reader.directory, "kernel", image_files(), sources=sources, prepare=prepare)
    listing = reader.listing()
    kernels = [package for package in listing.packages if not package.is_source]
    source = find_source(reader, listing, kernels, reachable_path / "source")
    assert source is not None
    with tarfile.open(source.named) as made:
        names = {member.name for member in made.getmembers() if member.isfile()}
        user = made.extractfile("linux/user")
        assert user is not None
        assert user.read().strip() != b"0"
    assert names == {"linux/kernel/fork.c", "linux/user"}


def test_devices_links_and_special_bits_of_an_rpm_do_no_harm(reader: PackageReader, reachable_path: Path) -> None:
    special = f"%dev(c,1,3) %attr(0666,root,root) /boot/config-{RELEASE}\n%attr(4755,root,root) /{IMAGE}"
    path, source = make_rpm(reader.directory, "kernel", {}, special=special, made={IMAGE: b"MZ"})
    source.unlink()
    (package,) = reader.listing().packages
    assert [name.lstrip("/") for name in package.names] == [IMAGE], "a device is no file of a kernel"
    reader.unpack(path.name, [IMAGE], reachable_path / "image")
    unpacked = (reachable_path / "image" / IMAGE).stat()
    assert unpacked.st_uid == BUILD_UID
    assert not unpacked.st_mode & stat.S_ISUID
    with pytest.raises(UsageError) as caught:
        reader.unpack(path.name, [f"boot/config-{RELEASE}"], reachable_path / "device")
    assert caught.value.problem.code == "packages-damaged"
    assert not [one for one in reachable_path.rglob("*") if stat.S_ISCHR(one.lstat().st_mode)]
