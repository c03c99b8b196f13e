# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels of an operator's own: built as operators build them, on a host that then asks a server for livepatches.

The host is a directory with the files that such a host has. Its compiler is that of a toolchain's root.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from edits import Edit, patch_of
from packed_kernel import packed_kernel
from real_server import Server

import guest_push
from elivepatch.build.base.kbuild import make_arguments
from elivepatch.build.base.kernel_source import fetch_source
from elivepatch.build.base.tree import unpack_source
from elivepatch.build.roots.description import Toolchain
from elivepatch.build.sandbox.bubblewrap import BUILD_UID, MOUNT_POINTS, Sandbox, writable_directory
from elivepatch.client.host.identity import read_release
from elivepatch.client.host.machine import Host
from elivepatch.client.push.kernel_files import PushOptions, find_kernel_files
from elivepatch.client.push.push import push_kernel
from elivepatch.client.server.api import ServerClient
from elivepatch.kernel.elf import ElfFile
from elivepatch.model.kernel import Release, parse_release
from elivepatch.model.kernel_request import KernelRequest
from elivepatch.model.progress import Progress
from elivepatch.process import run
from elivepatch.service.jobs.local_backend import LocalBackend
from elivepatch.trial.case import GuestKernel
from small_kernels import FRAGMENT

SERIES = "6.12"
FOREIGN = "foreign-gcc-11"
"""A toolchain that no declaration knows: a root file system with Debian 12's older gcc, brought as a tar archive."""

_FOREIGN_SUITE = "bookworm"
_FOREIGN_PACKAGES = ("gcc-11", "make", "bc", "bison", "flex", "libelf-dev", "libssl-dev", "dwarves", "patch", "kmod",
                     "python3-minimal", "xz-utils", "zstd", "libc6-dev", "binutils", "gawk", "diffutils")  # fmt: skip
_CONFIGURE = """
set -e
mkdir -p "$1"
out=$1
shift
"$@" O="$out" KCONFIG_ALLCONFIG=/src/own.config allnoconfig
"""
_BUILD = """
set -e
out=$1
shift
"$@" O="$out" vmlinux bzImage modules
"$@" O="$out" INSTALL_MOD_PATH=/out INSTALL_MOD_STRIP=$STRIP modules_install
rm -f /out/lib/modules/*/build /out/lib/modules/*/source
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnKernel:
    """A kernel of an operator's own.

    `options` are lines of its configuration beside those of small.config. `output` is the directory that `make O=`
    names, `.` for a build in the source tree. `split` ships modules stripped and compressed, and debug files apart.
    Without `pushed` the host sends its configuration only, and the server builds from the source that it declares. With
    `guest` the host is a VM; its toolchain is then the one that it hands over. With `packed` the server's operator has
    the RPMs that the kernel's own makefile made.
    """

    toolchain: str
    options: tuple[str, ...] = ()
    output: str = "."
    split: bool = False
    pushed: bool = True
    guest: bool = False
    packed: bool = False

    @property
    def provider(self) -> str:
        """The provider of the server that makes the base."""
        return "packages" if self.packed else "host" if self.pushed else "source"


KERNELS = {
    "own-foreign-gcc": OwnKernel(toolchain=FOREIGN),
    "own-separate-output": OwnKernel(toolchain="debian-13", output="/out/build"),
    "own-split": OwnKernel(toolchain="debian-13", options=("CONFIG_MODULE_COMPRESS=y", "CONFIG_MODULE_COMPRESS_ZSTD=y"),
                           split=True),
    "own-no-debug-info": OwnKernel(toolchain="debian-13", options=("CONFIG_DEBUG_INFO_NONE=y",)),
    "own-packed": OwnKernel(toolchain="debian-12", packed=True),
    "own-clang": OwnKernel(toolchain="debian-13-clang", pushed=False),
    "own-guest": OwnKernel(toolchain="captured-gcc-11", options=guest_push.OPTIONS, guest=True),
}  # fmt: skip

MEMINFO = Edit("fs/proc/meminfo.c", '"VmallocChunk:   "', '"VMALLOCCHUNK:   "')


def declare_sources(backend: LocalBackend, place: Path) -> Path:
    """Write the server's file of sources for kernels that are not pushed, and return it."""
    text = "".join(
        f'[[source]]\nreleases = "*{suffix_of(name)}"\nsource = "{_source(backend)}"\naccept_unproved = true\n'
        for name, kernel in KERNELS.items()
        if kernel.guest or kernel.packed or not kernel.pushed
    )
    place.write_text(text)
    return place


def suffix_of(name: str) -> str:
    """Return the local version of a kernel, by which kernels of one source differ."""
    return f"-{name.removeprefix('own-')}"


def release_of(backend: LocalBackend, name: str) -> Release:
    """Return the release that `uname -r` shows on the host of a kernel."""
    version = re.split(r"[-~]", backend.archive.versions(f"linux-source-{SERIES}")[0].version)[0]
    return parse_release(f"{version}{suffix_of(name)}")


def ask_for(
    name: str,
    backend: LocalBackend,
    server: Server,
    client: ServerClient,
    place: Path,
    packages: Path,
    progress: Progress,
) -> str | None:
    """Build a kernel in `place` as its operator does, ask the server for it from its host, and return the job.

    `packages` is the directory of packages of the server.
    """  # fmt: skip
    kernel, release = KERNELS[name], release_of(backend, name)
    if kernel.packed:
        packed = packed_kernel(backend, backend.bases.directory.parent)
        shutil.copytree(packed.directory / "rpm", packages, dirs_exist_ok=True)
        return client.request_kernel(KernelRequest(release=packed.release))
    if kernel.guest:
        root = guest_push.install(backend, _FOREIGN_PACKAGES, place)
        for part in MOUNT_POINTS:
            (root / part).mkdir()
        sandbox, compiler = Sandbox(root=root, helper=backend.toolchains.helper().root), "gcc-11"
    else:
        root = place / "host"
        toolchain = the_toolchain(backend, kernel.toolchain, place, progress)
        sandbox, compiler = backend.toolchains.sandbox(toolchain), toolchain.compiler
    tree = root / "usr/src/linux"
    tree.parent.mkdir(parents=True, exist_ok=True)
    fetched = place / "fetched"
    fetched.mkdir()
    unpack_source(fetch_source(_source(backend), backend.archive, fetched, progress).archive, tree, sandbox)
    shutil.rmtree(fetched)
    wanted = tree / "own.config"
    wanted.write_text("\n".join([FRAGMENT.read_text(), *kernel.options, f'CONFIG_LOCALVERSION="{suffix_of(name)}"\n']))
    os.chown(wanted, BUILD_UID, BUILD_UID)
    make = make_arguments(compiler, os.cpu_count() or 1)
    out = writable_directory(place / "out")
    command = ["sh", "-c", _CONFIGURE, "sh", kernel.output, *make]
    sandbox.run(command, writable=tree, output=out).check("Configuring a kernel")
    built = tree if kernel.output == "." else out / kernel.output.removeprefix("/out/")
    config = (built / ".config").read_bytes()
    if lost := set(kernel.options) - set(config.decode().splitlines()):
        sys.exit(f"{name}: the configuration lacks {', '.join(sorted(lost))}")
    if not kernel.pushed:
        return client.request_kernel(KernelRequest(release=release, config=config))
    done = sandbox.run(
        ["sh", "-c", _BUILD, "sh", kernel.output, *make],
        writable=tree, output=out, timeout_s=3600, env={"STRIP": "1" if kernel.split else ""},
    )  # fmt: skip
    done.check("Building a kernel")
    host = _host(root, release, built, out / f"lib/modules/{release}", tree)
    if kernel.guest:
        return _from_guest(kernel, backend, server, host, place)
    if kernel.split:
        _set_apart(host, release, built)
    files = find_kernel_files(host, PushOptions(source=tree))
    return push_kernel(host, files, client, progress)[0]


def _from_guest(kernel: OwnKernel, backend: LocalBackend, server: Server, host: Host, place: Path) -> str:
    """Boot the host in a VM, and let it do all that its operator does there; return the job that made the base."""
    release = read_release(host)
    tree = host.path("usr/src/linux")
    patch = place / "fix.patch"
    patch.write_text(patch_of(tree, MEMINFO))
    debug = host.path(f"usr/lib/debug/boot/vmlinux-{release}")
    headers = host.path(f"usr/src/linux-headers-{release}")
    for one in (debug.parent, headers):
        one.mkdir(parents=True)
    (tree / "vmlinux").rename(debug)
    (tree / "Module.symvers").rename(headers / "Module.symvers")
    modules = host.path(f"lib/modules/{release}")
    shutil.copytree(modules, place / "modules", ignore=shutil.ignore_patterns("build", "source"))
    image = shutil.copyfile(host.path(f"boot/vmlinuz-{release}"), place / "vmlinuz")
    identity = ElfFile(debug).build_id
    for one in (modules / "build", modules / "source"):
        one.unlink()
    shutil.rmtree(tree)
    for name in ("proc", "sys"):
        shutil.rmtree(host.path(name))
        host.path(name).mkdir()
    booted = GuestKernel(release=release, build_id=identity, image=image, modules_dir=place / "modules")
    _, second = guest_push.run_guest(backend, server, booted, host.root, patch, name=kernel.toolchain, place=place)
    if second["push"].status != 0 or second["apply"].status != 0:
        sys.exit(f"the guest was not patched:\n{second['push'].out}{second['push'].err}{second['apply'].out}")
    if "VMALLOCCHUNK" not in second["meminfo"].out or "VMALLOCCHUNK" in second["after"].out:
        sys.exit(f"the guest does not show the change and its end:\n{json.dumps(second['meminfo'].out)}")
    return str(second["push"].document["job"])


def the_toolchain(backend: LocalBackend, name: str, place: Path, progress: Progress) -> Toolchain:
    """Return a toolchain; the foreign one is brought as an operator brings one, if it is missing."""
    if name != FOREIGN:
        return backend.toolchains.add(name, progress)
    known = {one.name: one for one in backend.toolchains.list()}
    if FOREIGN in known:
        return known[FOREIGN]
    listed, archive = place / "foreign.list", place / "foreign.tar"
    listed.write_text(backend.archive.sources(_FOREIGN_SUITE, f"{_FOREIGN_SUITE}-updates"))
    command: Sequence[str | Path] = [
        "mmdebstrap", "--mode=root", "--variant=minbase", "--architectures=amd64", "--dpkgopt=force-unsafe-io",
        f"--include={','.join(_FOREIGN_PACKAGES)}", _FOREIGN_SUITE, archive, listed,
    ]  # fmt: skip
    run(command, timeout_s=1800).check("Making a foreign root")
    made, _ = backend.toolchains.add_root(FOREIGN, archive, "gcc-11", progress)
    archive.unlink()
    return made


def _host(root: Path, release: Release, built: Path, installed: Path, tree: Path) -> Host:
    """Put the files of a running host around a build: what the kernel says of itself, /boot and /lib/modules."""
    vmlinux = ElfFile(built / "vmlinux")
    notes = vmlinux.content(vmlinux.by_name[".notes"])
    for name, content in (
        ("proc/sys/kernel/osrelease", f"{release}\n".encode()),
        ("sys/kernel/notes", notes),
        (f"boot/config-{release}", (built / ".config").read_bytes()),
        (f"boot/vmlinuz-{release}", (built / "arch/x86/boot/bzImage").read_bytes()),
    ):
        place = root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    modules = root / "lib/modules" / release
    modules.parent.mkdir(parents=True, exist_ok=True)
    installed.rename(modules)
    (modules / "build").symlink_to(built)
    (modules / "source").symlink_to(tree)
    return Host(root)


def _set_apart(host: Host, release: Release, built: Path) -> None:
    """Move debug information to /usr/lib/debug, as distributions ship it, and take the build tree off the host."""
    debug = host.path(f"usr/lib/debug/lib/modules/{release}")
    modules = host.path(f"lib/modules/{release}")
    for module in sorted(built.rglob("*.ko")):
        information = debug / "kernel" / f"{module.relative_to(built)}.debug"
        information.parent.mkdir(parents=True, exist_ok=True)
        run(["objcopy", "--only-keep-debug", module, information]).check("Making a debug file")
        module.unlink()
    headers = host.path(f"usr/src/kernels/{release}")
    headers.mkdir(parents=True)
    shutil.copyfile(built / "Module.symvers", headers / "Module.symvers")
    (built / "vmlinux").rename(debug / "vmlinux")
    (modules / "build").unlink()


def _source(backend: LocalBackend) -> str:
    package = backend.archive.versions(f"linux-source-{SERIES}")[0]
    return f"{package.name}={package.version}"
