# SPDX-License-Identifier: GPL-2.0-or-later
"""A client host in a virtual machine: Debian 12 and the client, on a disk that survives reboots.

The userland is made once and kept in the cache; the client is built from this checkout and installed at the first
boot. A boot, by systemd or by OpenRC, runs one shell script. The output of its steps comes over the second serial
port, the kernel's console over the first.
"""

from __future__ import annotations

import base64
import compileall
import hashlib
import inspect
import json
import os
import py_compile
import shutil
import stat
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from elivepatch.build.archive.apt import Archive
from elivepatch.build.base.store import Base
from elivepatch.files.lock import made_once
from elivepatch.process import run
from elivepatch.trial import cpio
from elivepatch.trial.case import GuestKernel
from elivepatch.trial.modules import content, module_tree
from elivepatch.trial.qemu import accelerator_options

CHECKOUT = Path(__file__).parents[2]
REQUIREMENTS = CHECKOUT / "requirements/client.txt"
HOST_ADDRESS = "10.0.2.2"
"""The loopback interface of the machine that runs QEMU, as its user networking shows it to a guest."""

_SUITES = ("bookworm", "bookworm-updates", "bookworm-security")
PACKAGES = ("python3", "systemd", "openrc", "busybox-static")
_LEFT_OUT = ("/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*", "/usr/share/zoneinfo/*")
_SITE = "usr/local/lib/python3.11/dist-packages"
_DISK_MIB = 512
_DRIVERS = ("virtio_pci", "virtio_blk", "virtio_net", "ext4")
# Units that a machine without devices, accounts and a clock server does not need; emulated processors are slow.
_MASKED = (
    "systemd-update-utmp.service", "systemd-tmpfiles-setup.service", "systemd-tmpfiles-setup-dev.service",
    "systemd-journal-flush.service", "systemd-machine-id-commit.service", "systemd-random-seed.service",
    "systemd-binfmt.service", "modprobe@.service", "dev-hugepages.mount", "dev-mqueue.mount",
    "systemd-sysusers.service", "systemd-sysctl.service", "systemd-modules-load.service",
    "systemd-ask-password-console.path", "systemd-ask-password-wall.path", "proc-sys-fs-binfmt_misc.automount",
    "systemd-journald-audit.socket",
)  # fmt: skip
_COMMAND_LINE = (
    "console=ttyS0 loglevel=7 printk.time=1 log_buf_len=1M panic=-1 oops=panic systemd.unit=scenario.service "
    "systemd.show_status=0"
)
_UNIT = """\
[Unit]
Description=What this boot is for
[Service]
Type=oneshot
ExecStart=/bin/busybox sh /scenario
StandardInput=null
StandardOutput=tty
TTYPath=/dev/ttyS0
TimeoutStartSec=infinity
"""
# OpenRC distributions have this script; Debian's OpenRC package does not.
_LOCALMOUNT = """\
#!/sbin/openrc-run
start() { :; }
"""
# In the background: a service that shuts down while it starts would wait for itself. An operator comes when the machine
# is up; until then OpenRC may be in the middle of what an operator's command needs.
_SERVICE = """\
#!/sbin/openrc-run
up() {
    while [ -e /run/openrc/rc.starting ]; do /bin/busybox usleep 100000; done
}
start() { { up; exec /bin/busybox sh /scenario; } </dev/null >/dev/ttyS0 2>&1 & }
"""
_ELIVEPATCH = """\
#!/usr/bin/python3
import sys
from elivepatch.client.cli import main
sys.exit(main())
"""
_INIT = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in $(cat /modules/order); do insmod "/modules/$module.ko"; done
while [ ! -b /dev/vda ]; do usleep 20000; done
mount -t ext4 /dev/vda /disk
cp -a /payload/. /disk/
ln -sf ../../init.d/scenario /disk/etc/runlevels/default/scenario
for place in proc sys dev; do mount --move /$place /disk/$place; done
exec switch_root /disk $(cat /program)
"""
_PROGRAMS = {"systemd": "/usr/lib/systemd/systemd", "openrc": "/sbin/openrc-init"}
# A step's record is one line: KEY STATUS BEGAN ENDED STDOUT STDERR, times in seconds since the boot, texts in Base64.
_PRELUDE = r"""
exec 3>/dev/ttyS1
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb
bb=/bin/busybox
uptime() { read -r now _ </proc/uptime; }
finished() { # KEY STATUS BEGAN FILES
    uptime
    echo "$1 $2 $3 $now =$($bb base64 -w 0 "$4.out") =$($bb base64 -w 0 "$4.err")" >&3
}
step() { # KEY COMMAND...
    key=$1
    shift
    echo "scenario: $key: $*" >/dev/kmsg
    uptime
    began=$now
    "$@" >"/run/$key.out" 2>"/run/$key.err" </dev/null
    finished "$key" $? "$began" "/run/$key"
    : >"/run/$key.done"
}
background() { # KEY COMMAND...
    (step "$@") &
}
wait_for() { # KEY of a step in the background
    while [ ! -e "/run/$1.done" ]; do $bb usleep 100000; done
}
crash() {
    sync
    # Setting a terminal waits until what was written to it is out.
    $bb stty -F /dev/ttyS1 -echo
    echo b >/proc/sysrq-trigger
}
network() {
    $bb ip link set eth0 up
    $bb ip address add 10.0.2.15/24 dev eth0
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Result of one command of a script, with its start and end in seconds since the guest's boot."""

    status: int
    began_s: float
    ended_s: float
    out: str
    err: str

    @property
    def document(self) -> Any:
        """JSON document that the command printed: an object or a list."""
        return json.loads(self.out)


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """One boot of a guest: its steps by name, the kernel's console and the duration. A missing step fails the test."""

    steps: Mapping[str, Step]
    console: str
    seconds: float

    def __getitem__(self, key: str) -> Step:
        if key not in self.steps:
            message = f"the guest never finished {key!r}; its console ends with:\n{self.console[-3000:]}"
            raise AssertionError(message)
        return self.steps[key]

    def problem(self, key: str) -> tuple[int, str]:
        """Return the exit status of a failed step and the code of its problem."""
        return self[key].status, str(self[key].document["problem"]["code"])

    def complaints(self) -> list[str]:
        """Return the console lines in which the kernel warns or crashes."""
        words = ("WARNING:", "BUG:", "Oops", "Kernel panic", "Call Trace")
        return [line for line in self.console.splitlines() if any(word in line for word in words)]


class GuestHost:
    """One machine: a kernel, and a disk below `place` that survives reboots; its consoles go to `logs`."""

    def __init__(self, kernel: GuestKernel, userland: Path, *, place: Path, logs: Path) -> None:
        self._kernel = kernel
        self._place = place
        self._logs = logs
        self._disk = place / "disk.ext4"
        logs.mkdir(parents=True, exist_ok=True)
        run(["cp", "--sparse=always", userland, self._disk]).check("Copying the userland")

    def boot(
        self,
        name: str,
        script: str,
        files: Mapping[str, bytes] | None = None,
        *,
        init: Literal["systemd", "openrc"] = "systemd",
        timeout_s: float = 400,
    ) -> Boot:
        """Write `files` to the disk, boot, run `script` (which powers the machine off) and return the boot."""
        payload = {
            "scenario": (_PRELUDE + script).encode(),
            **_started_by(init),
            **(files or {}),
        }
        initramfs = self._place / f"{name}.cpio"
        console = self._logs / f"{self._kernel.release}-{name}.console.log"
        results = self._place / f"{name}.results"
        initramfs.write_bytes(cpio.archive(self._initramfs(payload, _PROGRAMS[init])))
        done = run(
            [
                "qemu-system-x86_64", *accelerator_options("tcg"), "-machine", "q35", "-smp", "2",
                "-m", "768M", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                "-serial", f"file:{console}", "-serial", f"file:{results}",
                "-drive", f"file={self._disk},format=raw,if=none,id=disk,cache=unsafe",
                "-device", "virtio-blk-pci,drive=disk",
                "-netdev", "user,id=net,ipv6=off", "-device", "virtio-net-pci,netdev=net,romfile=",
                "-kernel", self._kernel.image, "-initrd", initramfs, "-append", _COMMAND_LINE,
            ],
            timeout_s=timeout_s,
        )  # fmt: skip
        initramfs.unlink()
        text = console.read_text(errors="replace") if console.exists() else ""
        return Boot(
            steps=dict(_steps(results.read_text())) if results.exists() else {},
            console=text + done.tail(),
            seconds=done.seconds,
        )

    def scrap(self) -> None:
        """Remove the disk; it is too large to keep with a test's other files."""
        self._disk.unlink()

    def _initramfs(self, payload: Mapping[str, bytes], program: str) -> Iterator[cpio.CpioEntry]:
        for name in ("bin", "proc", "sys", "dev", "disk", "modules", "payload"):
            yield cpio.directory(name)
        yield cpio.device("dev/console", 5, 1)
        yield cpio.file("bin/busybox", Path("/bin/busybox").read_bytes(), executable=True)
        yield cpio.file("init", _INIT.encode(), executable=True)
        yield cpio.file("program", program.encode())
        plan = module_tree(self._kernel).plan(_DRIVERS)
        for name, path in plan.modules:
            yield cpio.file(f"modules/{name}.ko", content(path))
        yield cpio.file("modules/order", "\n".join(name for name, _ in plan.modules).encode())
        yield from _tree("payload", payload)


def config_of(base: Base) -> dict[str, bytes]:
    """Return a kernel's configuration where a distribution puts it; the tree's differs in keys and salt only."""
    return {f"boot/config-{base.release}": (base.tree / ".config").read_bytes()}


def kernel_module(kernel: GuestKernel, name: str) -> dict[str, bytes]:
    """Return the files of one of a kernel's modules and of those it needs, below root/modules, numbered in order."""
    plan = module_tree(kernel).plan([name])
    return {f"root/modules/{n:02}-{one}.ko": content(path) for n, (one, path) in enumerate(plan.modules)}


def client_files(place: Path) -> dict[str, bytes]:
    """Return the client of this checkout as `pip install` lays it out, compiled, and its units."""
    wheels, site = place / "wheels", place / _SITE
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    # The wheel's metadata has the version; the sources are those of the checkout, uncommitted changes included.
    run([*pip, "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", wheels, CHECKOUT]).check("Making the wheel")
    with zipfile.ZipFile(next(wheels.glob("elivepatch-*.whl"))) as wheel:
        wheel.extractall(site)
    # Not by modification time: the archive changes the times.
    compileall.compile_dir(
        site, quiet=1, stripdir=str(place), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )
    files = {str(path.relative_to(place)): path.read_bytes() for path in site.rglob("*") if path.is_file()}
    files["usr/bin/elivepatch"] = _ELIVEPATCH.encode()
    for unit in (CHECKOUT / "packaging/systemd").iterdir():
        files[f"etc/systemd/system/{unit.name}"] = unit.read_bytes()
    return files


def _started_by(init: str) -> dict[str, bytes]:
    """Return the files that make an init run the script; `systemctl enable` fails if a script has the unit's name."""
    if init == "systemd":
        return {"etc/systemd/system/scenario.service": _UNIT.encode()}
    return {
        "etc/init.d/scenario": _SERVICE.encode(),
        "etc/init.d/localmount": _LOCALMOUNT.encode(),
        "etc/init.d/elivepatch-boot": (CHECKOUT / "packaging/openrc/elivepatch-boot").read_bytes(),
    }


def userland(cache_dir: Path, archive: Archive) -> Path:
    """Return the disk image with Debian and the client's dependencies; make it if it is missing or out of date."""
    how = [inspect.getsource(function) for function in (make_root, make_disk, _install_dependencies)]
    recipe = [_SUITES, PACKAGES, _LEFT_OUT, _MASKED, _DISK_MIB, REQUIREMENTS.read_text(), how]
    digest = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16]
    top = cache_dir / "guest-host"
    image = top / f"{digest}.ext4"
    with made_once(top / "lock"):
        if not image.exists():
            for old in top.glob("*.ext4"):
                old.unlink()
            place = top / "new"
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            make_disk(make_root(place, archive, PACKAGES), place / "image", _DISK_MIB)
            (place / "image").rename(image)
            shutil.rmtree(place)
    return image


def make_root(place: Path, archive: Archive, packages: Sequence[str]) -> Path:
    """Make Debian with these packages and the client's dependencies in the directory `place`; return its root."""
    sources, root = place / "sources.list", place / "root"
    sources.write_text(archive.sources(*_SUITES))
    run(
        ["mmdebstrap", "--mode=root", "--variant=minbase", "--architectures=amd64", "--dpkgopt=force-unsafe-io",
         *[f"--dpkgopt=path-exclude={path}" for path in _LEFT_OUT], f"--include={','.join(packages)}",
         _SUITES[0], root, sources],
        timeout_s=900,
    ).check("Making the userland")  # fmt: skip
    _install_dependencies(root / _SITE)
    for unit in _MASKED:
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")
    (root / "etc/machine-id").write_text(f"{'1' * 32}\n")
    (root / "etc/fstab").write_text("")
    shutil.rmtree(root / "var/cache/apt", ignore_errors=True)
    shutil.rmtree(root / "var/lib/apt", ignore_errors=True)
    return root


def make_disk(root: Path, image: Path, size_mib: int) -> None:
    """Make the image of a disk with the files of a root."""
    run(["truncate", "-s", f"{size_mib}M", image]).check("Making the disk")
    run(["mkfs.ext4", "-q", "-d", root, "-m", "0", image], timeout_s=300).check("Making the file system")


def _install_dependencies(target: Path) -> None:
    run(
        [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--require-hashes",
         "--only-binary", ":all:", "--target", target, "-r", REQUIREMENTS],
        timeout_s=300, env={name: os.environ[name] for name in os.environ if name.startswith("PIP_")},
    ).check("Installing the client's dependencies")  # fmt: skip


def _tree(top: str, files: Mapping[str, bytes]) -> Iterator[cpio.CpioEntry]:
    made: set[str] = set()
    for name, data in files.items():
        for parent in reversed(Path(name).parents[:-1]):
            if str(parent) not in made:
                made.add(str(parent))
                yield cpio.CpioEntry(f"{top}/{parent}", stat.S_IFDIR | 0o755)
        yield cpio.file(f"{top}/{name}", data, executable=name.startswith(("usr/bin/", "etc/init.d/")))


def _steps(results: str) -> Iterator[tuple[str, Step]]:
    for line in results.splitlines():
        fields = line.split(" ")
        if len(fields) == 6:
            key, status, began, ended, out, err = fields
            yield (
                key,
                Step(status=int(status), began_s=float(began), ended_s=float(ended), out=_text(out), err=_text(err)),
            )


def _text(field: str) -> str:
    return base64.b64decode(field[1:]).decode(errors="replace")
