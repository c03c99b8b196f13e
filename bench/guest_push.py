# SPDX-License-Identifier: GPL-2.0-or-later
"""A host in a VM that runs a kernel of its own: it hands over its compiler, pushes its kernel, and is patched live.

The compiler and the files of the kernel's build are on the guest's disk and nowhere else. Its source is declared on the
server, so that the guest does not send 1.5 GB.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from guest_host import HOST_ADDRESS, PACKAGES, Boot, GuestHost, client_files, make_disk, make_root
from real_server import Server

from elivepatch.process import run
from elivepatch.service.jobs.local_backend import LocalBackend
from elivepatch.trial.case import GuestKernel

OPTIONS = (
    "CONFIG_PCI=y", "CONFIG_VIRTIO_MENU=y", "CONFIG_VIRTIO_PCI=y", "CONFIG_VIRTIO_BLK=y", "CONFIG_NET=y",
    "CONFIG_INET=y", "CONFIG_UNIX=y", "CONFIG_PACKET=y", "CONFIG_NETDEVICES=y", "CONFIG_NET_CORE=y",
    "CONFIG_VIRTIO_NET=y", "CONFIG_EXT4_FS=y", "CONFIG_SIGNALFD=y", "CONFIG_TIMERFD=y", "CONFIG_INOTIFY_USER=y",
    "CONFIG_FHANDLE=y", "CONFIG_CGROUPS=y", "CONFIG_MAGIC_SYSRQ=y", "CONFIG_ADVISE_SYSCALLS=y", "CONFIG_MEMBARRIER=y",
    "CONFIG_ACPI=y", "CONFIG_RTC_CLASS=y", "CONFIG_TMPFS_POSIX_ACL=y", "CONFIG_SYSVIPC=y", "CONFIG_AIO=y",
)  # fmt: skip
"""Options that a kernel needs to be that of the guest, beside the options of small.config."""

_COMPILER = "root/compiler.tar.gz"
_CAPTURE = f"""
step capture elivepatch toolchain capture -o /{_COMPILER} --json
sync
openrc-shutdown -p now
"""
_PUSH = """
network
step push elivepatch kernel push --no-source --json
step enroll elivepatch enroll "$URL" --fingerprint "$FINGERPRINT" --json
step apply elivepatch apply /root/fix.patch --json
step meminfo cat /proc/meminfo
step rollback elivepatch rollback --json
step after cat /proc/meminfo
openrc-shutdown -p now
"""
_DISK_MIB = 3072
_BOOT_S = 1500.0


def install(backend: LocalBackend, packages: tuple[str, ...], place: Path) -> Path:
    """Make the root of the guest's disk with the compiler of `packages`, and return it: it also builds the kernel."""
    return make_root(place, backend.archive, (*PACKAGES, *packages))


def run_guest(
    backend: LocalBackend, server: Server, kernel: GuestKernel, root: Path, patch: Path, *, name: str, place: Path
) -> tuple[Boot, Boot]:
    """Capture the compiler in one boot, add it to the server's toolchains as `name`, push and patch in another.

    `root` has all files of the host; `patch` is the source patch that the guest applies.
    """
    disk = place / "disk.ext4"
    make_disk(root, disk, _DISK_MIB)
    host = GuestHost(kernel, disk, place=writable(place / "guest"), logs=place / "logs")
    disk.unlink()
    first = host.boot("capture", _CAPTURE, client_files(place / "client"), init="openrc", timeout_s=_BOOT_S)
    if first["capture"].status != 0:
        sys.exit(f"the guest did not capture its compiler:\n{first['capture'].out}{first['capture'].err}")
    archive = place / "compiler.tar.gz"
    image = place / "guest/disk.ext4"
    run(["debugfs", "-R", f"dump /{_COMPILER} {archive}", image]).check("Reading the guest's disk")
    backend.toolchains.add_root(name, archive, None)
    fingerprint = server.get("/v1/key").json()["fingerprint"]
    variables = (
        f"export URL=http://{HOST_ADDRESS}:{server.port} FINGERPRINT={fingerprint} ELIVEPATCH_TOKEN={server.token}\n"
        f"export ELIVEPATCH_URL=http://{HOST_ADDRESS}:{server.port}\n"
    )
    files = {"root/fix.patch": patch.read_bytes()}
    second = host.boot("push", variables + _PUSH, files, init="openrc", timeout_s=_BOOT_S)
    host.scrap()
    return first, second


def writable(path: Path) -> Path:
    """Make a directory and return it."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    return path
