# SPDX-License-Identifier: GPL-2.0-or-later
"""The files of a host that runs a kernel of its own, as far as a push reads them."""

from __future__ import annotations

import struct
from pathlib import Path

from elf_maker import Made

from elivepatch.build.base.custom import CustomMaker
from elivepatch.build.base.store import Base
from elivepatch.build.providers.host import HostProvider
from elivepatch.client.host.machine import Host
from elivepatch.client.push.kernel_files import KernelFiles
from elivepatch.client.push.pieces import pieces
from elivepatch.model.kernel import Digest
from elivepatch.model.kernel_request import KernelRequest

RELEASE = "6.12.40-ours"
BUILD_ID = "5f" * 20


def notes(build_id: str) -> bytes:
    """Return a note section with the build-id."""
    name = bytes.fromhex(build_id)
    return struct.pack("<III", 4, len(name), 3) + b"GNU\0" + name


def vmlinux_of(build_id: str, *, debug: bool = True) -> bytes:
    """Return a file that names itself as the kernel of this build-id, with debug information or without."""
    made = Made().section(".note.gnu.build-id", notes(build_id), kind="NOTE")
    return (made.section(".debug_info", b"information") if debug else made).data()


def describe_kernel(root: Path, release: str, build_id: str) -> Host:
    """Write what the running kernel says of itself below `root`, and return that host."""
    for name, content in (
        ("proc/sys/kernel/osrelease", f"{release}\n".encode()),
        ("proc/version", f"Linux version {release} (us@home) (gcc (Gentoo 13.3.1) 13.3.1, GNU ld) #1 SMP\n".encode()),
        ("sys/kernel/notes", notes(build_id)),
        ("etc/os-release", b'ID=gentoo\nVERSION_ID="2.17"\n'),
    ):
        put(root, name, content)
    return Host(root)


def pushing_host(root: Path) -> Host:
    """Return a host with all files that a build in /usr/src/linux leaves, small ones."""
    host = describe_kernel(root, RELEASE, BUILD_ID)
    put(root, f"boot/vmlinuz-{RELEASE}", b"MZ image")
    put(root, f"boot/config-{RELEASE}", b"CONFIG_X86_64=y\n")
    put(root, f"lib/modules/{RELEASE}/modules.order", b"kernel/fs/fat/fat.ko\n")
    put(root, f"lib/modules/{RELEASE}/kernel/fs/fat/fat.ko.xz", b"packed and stripped")
    put(root, f"lib/modules/{RELEASE}/updates/own.ko", b"of another source")
    tree = root / "usr/src/linux"
    for name, content in (
        ("vmlinux", vmlinux_of(BUILD_ID)), ("Module.symvers", b"0x1\tprintk\tvmlinux\tEXPORT\t\n"),
        ("fs/fat/fat.ko", b"plain, with debug information"), ("fs/fat/fat.o", b"object"), ("fs/fat/fat.c", b"int fat;"),
        ("kernel/fork.c", b"int fork;"), ("Kconfig", b"config"), ("Makefile", b"VERSION = 6"), (".git/HEAD", b"ref"),
    ):  # fmt: skip
        put(tree, name, content)
    (root / f"lib/modules/{RELEASE}/build").symlink_to(tree)
    return host


def put(root: Path, name: str, content: bytes) -> None:
    """Write a file and the directories above it."""
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(content)


def base_of_pushed(files: KernelFiles, maker: CustomMaker, place: Path) -> Base:
    """Return the base that a server makes of what a host sends it; the two have their files below `place`."""
    pushed, work = place / "pushed", place / "work"
    for directory in (pushed, work):
        directory.mkdir()
    for name, entries in (("files", files.entries()), ("source", files.source_entries())):
        with (pushed / f"{name}.tar.gz").open("wb") as archive:
            archive.writelines(pieces(entries))
    one = (Digest("0" * 64),)
    asked = KernelRequest(release=files.release, build_id=files.build_id, files=one, source=one)
    made = HostProvider(maker, (), pushed, work).provide(asked)
    assert isinstance(made, Base), made
    return made
