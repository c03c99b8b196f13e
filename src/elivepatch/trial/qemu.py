# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU without privileges, without network, without a file of this machine, on an accelerator that works.

A livepatch on trial runs in the guest's kernel, so the guest counts as hostile. QEMU gets open descriptors and no file
names (copies of kernel and initramfs in memory, two log files), a user of its own that owns nothing, an empty network,
no way to start programs, and a limit on the bytes that it writes. It runs in the sandbox of builds, which shows it this
machine's programs and libraries and nothing else.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from elivepatch.build.sandbox.bubblewrap import around_own_program, filters
from elivepatch.build.sandbox.cgroup import own_group
from elivepatch.model.errors import EnvironmentFault
from elivepatch.process import Cancellation, Completed, run
from elivepatch.trial import image
from elivepatch.trial.case import GuestKernel
from elivepatch.trial.guest_protocol import GUEST, parse
from elivepatch.trial.outside.channel import Channel, open_channel

TRIAL_UID = 65433
"""User id of QEMU: in systemd's range of dynamic users, so it is no account, and it is not the user of builds."""

_KVM = Path("/dev/kvm")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PROBE_S = 10.0
_LOG_LIMIT_BYTES = 64 << 20
_MEMORY_MIB = 512
_PROCESSORS = 2
# The first port gets all messages down to level info. An oops reboots the guest, and -no-reboot then ends QEMU.
_COMMAND_LINE = "console=ttyS0 loglevel=7 printk.time=1 printk.devkmsg=on log_buf_len=1M panic=-1 oops=panic"


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """Programs that make a guest: the emulator by name or path, busybox by path.

    `helper` is the toolchain root whose bubblewrap confines the emulator as it confines builds. Without one, as in
    tests of guests alone, the emulator sees the files of this machine that every user sees.
    """

    qemu: str = "qemu-system-x86_64"
    busybox: Path = Path("/bin/busybox")
    helper: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """Input of one boot, and the files for the output of its two serial ports; `devices` are options of QEMU.

    `parameters` are words of the kernel's command line beside those of every trial. With `socket`, a descriptor, the
    console goes there and comes from there: its reader writes the file.
    """

    image: Path
    initramfs: bytes
    console: Path
    results: Path
    devices: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    socket: int | None = None


def boot(
    guest: Guest,
    *,
    programs: Programs,
    accelerator: str,
    timeout_s: float,
    on_tick: Callable[[float], None] | None = None,
    cancellation: Cancellation | None = None,
    attach: Callable[[Channel], None] | None = None,
) -> Completed:
    """Run a guest to its end; both output files exist afterwards. Raises EnvironmentFault if QEMU cannot start.

    `attach` gets the channel by which the guest can be looked at from outside, before the guest starts.
    """
    with ExitStack() as stack:
        kernel = stack.enter_context(_in_memory("kernel", _read(guest.image)))
        initramfs = stack.enter_context(_in_memory("initramfs", guest.initramfs))
        console = stack.enter_context(guest.console.open("wb")).fileno()
        results = stack.enter_context(guest.results.open("wb")).fileno()
        memory = _MEMORY_MIB + 2 * (len(guest.initramfs) >> 20)  # the archive and the files unpacked from it
        outside = stack.enter_context(open_channel(memory << 20))
        if attach is not None:
            attach(outside)
        around: list[str] = []
        descriptors = [kernel, initramfs, console, results, *outside.descriptors]
        if programs.helper is not None:
            descriptors.append(stack.enter_context(filters()))
            devices = [_KVM] if accelerator == "kvm" else []
            around = around_own_program(programs.helper, descriptors[-1], devices)
        group = own_group()
        entering = [] if group is None else group.entering()
        if group is not None:
            group.make()
        argv = [
            *entering, *confined(accelerator), *around, programs.qemu, *accelerator_options(accelerator),
            "-machine", "q35,memory-backend=ram", *outside.options, "-m", f"{memory}M", "-smp", str(_PROCESSORS),
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
            "-add-fd", f"fd={console},set=1", "-chardev",
            "file,id=console,path=/dev/fdset/1" if guest.socket is None else f"socket,id=console,fd={guest.socket}",
            "-add-fd", f"fd={results},set=2", "-chardev", "file,id=results,path=/dev/fdset/2",
            "-serial", "chardev:console", "-serial", "chardev:results", *guest.devices,
            "-kernel", f"/proc/self/fd/{kernel}", "-initrd", f"/proc/self/fd/{initramfs}",
            "-append", " ".join([_COMMAND_LINE, *guest.parameters]),
        ]  # fmt: skip
        descriptors += [] if guest.socket is None else [guest.socket]
        return run(argv, timeout_s=timeout_s, pass_fds=descriptors, on_tick=on_tick, cancellation=cancellation)


def choose_accelerator(kernel: GuestKernel, *, programs: Programs, cache_dir: Path) -> str:
    """Return `kvm` if this kernel has booted with it since this machine's own boot, otherwise `tcg`.

    The first call for a kernel boots it (at most ten seconds) and keeps the result in `cache_dir`. That /dev/kvm opens
    does not mean that a guest runs: on nested or filtered hardware it may stop in the middle of its boot. One failure
    counts for every kernel until this machine boots again.
    """
    if not _KVM.exists():
        return "tcg"
    boot_id = _BOOT_ID.read_text().strip()
    answers = cache_dir / "accelerator" / boot_id
    answers.mkdir(parents=True, exist_ok=True)
    broken, works = answers / "kvm-broken", answers / f"kvm-{kernel.build_id}"
    if not broken.exists() and not works.exists():
        (works if _probe(kernel, programs) else broken).touch()
    return "tcg" if broken.exists() else "kvm"


def _probe(kernel: GuestKernel, programs: Programs) -> bool:
    """Return True if the kernel completes a boot without cases on KVM."""
    with tempfile.TemporaryDirectory() as directory:
        guest = Guest(
            image=kernel.image,
            initramfs=image.base(programs.busybox),
            console=Path(directory, "console"),
            results=Path(directory, "results"),
        )
        boot(guest, programs=programs, accelerator="kvm", timeout_s=_PROBE_S)
        return parse(guest.results.read_bytes()).has(GUEST, "end")


def accelerator_options(name: str) -> list[str]:
    """Return QEMU's options for `kvm` or `tcg` and its processor."""
    # `max` has every feature that TCG can emulate, so alternatives in modules are patched as on current processors.
    # cx16 is switched off: QEMU 7.2 computes the flags after a cmpxchg16b without lock prefix from stale state. Now and
    # then the next interrupt returns with a trap or alignment flag set, and the guest dies. The kernel can do without.
    # The processors take turns in one thread. With a thread each, QEMU 7.2 may continue with code that another
    # processor has just rewritten; a transition rewrites code, and the kernel then dies of an int3 that is long gone.
    emulated = ["-accel", "tcg,thread=single", "-cpu", "max,cx16=off"]
    return ["-accel", "kvm", "-cpu", "host"] if name == "kvm" else emulated


def confined(accelerator: str) -> list[str]:
    """Return the start of a command line that limits QEMU: size of files, no core dumps, end with its parent."""
    limits = ["prlimit", f"--fsize={_LOG_LIMIT_BYTES}", "--core=0", "--"]
    # The guest ends with the process that watches it, even if that one is killed. A change of user would undo this, so
    # setpriv does both (prctl(2), PR_SET_PDEATHSIG).
    last = ["--no-new-privs", "--pdeathsig", "KILL", "--"]
    if os.geteuid() != 0:
        return [*limits, "setpriv", *last]
    groups = [f"--groups={_KVM.stat().st_gid}"] if accelerator == "kvm" and _open_to_group(_KVM) else ["--clear-groups"]
    user = [f"--reuid={TRIAL_UID}", f"--regid={TRIAL_UID}", *groups, "--inh-caps=-all", "--bounding-set=-all"]
    return [*limits, "unshare", "--net", "--ipc", "--", "setpriv", *user, *last]


def _open_to_group(path: Path) -> bool:
    found = path.stat()
    return bool(found.st_mode & stat.S_IWGRP) and found.st_gid != 0


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EnvironmentFault(
            "kernel-image",
            f"{path} cannot be read: {error.strerror}.",
            advice="Fetch the kernel's image package again.",
        ) from error


@contextmanager
def _in_memory(name: str, content: bytes) -> Iterator[int]:
    """Yield a descriptor of an anonymous file: unlike a path, QEMU's user can open it, with no right to a directory."""
    descriptor = os.memfd_create(name)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(content)
        yield descriptor
    finally:
        os.close(descriptor)
