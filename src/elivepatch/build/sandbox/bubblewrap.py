# SPDX-License-Identifier: GPL-2.0-or-later
"""Sandbox for untrusted work: bubblewrap, an unprivileged user, no network, a system call filter.

A patch is code that runs at build time, so every program that compiles, compares or links a patch runs in here. There
is no fallback: without a sandbox there is no build. bubblewrap comes from a toolchain root and is started by that
root's own loader, because bubblewrap before 0.12 lets a planted symbolic link create paths on the host
(CVE-2026-87766), and Debian 12 has 0.8.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import IO

import pyseccomp

from elivepatch.build.sandbox.cgroup import Group, own_group
from elivepatch.files.room import RoomWatch
from elivepatch.model.errors import EnvironmentFault
from elivepatch.process import Cancellation, Completed, run

BUILD_UID = 65432
"""Owner of base trees and of all files of a build; a number from systemd's range of dynamic users, so no account."""

MOUNT_POINTS = ("src", "in", "out", "tools")
"""Directories at the top of every toolchain root: bubblewrap never has to create a mount point."""

_MINIMUM_BWRAP = (0, 12)
_FILE_LIMIT_BYTES = 2 << 30
_MEMORY_LIMIT_BYTES = 6 << 30
# More than any build of a kernel needs. Others use the disk too, so a limit near to what a build writes would fail it.
_DISK_BYTES, _DISK_FILES = 64 << 30, 2_000_000
_CPU_LIMIT_S = 7200  # of one program; all of them have the time limit of their step
_OUTPUT_BYTES = 64 << 20
_PROCESS_LIMIT = 512
# A user namespace counts its own processes (since Linux 5.14), so a limit that is set in the sandbox is that of one
# sandbox; outside, it would be that of all builds of the machine. The control group bounds those of one server's job on
# every kernel. The shells of Debian call this limit -p or -u.
_LIMITED = f'ulimit -p {_PROCESS_LIMIT} 2>/dev/null || ulimit -u {_PROCESS_LIMIT} || exit; exec "$@"'
_DISK_FULL = os.strerror(errno.ENOSPC).encode()
_ROOM_BYTES = 16 << 20
_TRANSCRIPT_BYTES = 256 * 1024

# System calls that compilers never need and kernel exploits often use: keys, tracing, namespaces, mounts, modules, new
# interfaces. They fail with EPERM rather than a signal, so that a program that only tries one continues.
_DENIED_CALLS = (
    "acct", "add_key", "bpf", "clock_settime", "delete_module", "finit_module", "fsconfig", "fsmount", "fsopen",
    "fspick", "init_module", "io_uring_enter", "io_uring_register", "io_uring_setup", "kexec_file_load", "kexec_load",
    "keyctl", "mount", "mount_setattr", "move_mount", "name_to_handle_at", "open_by_handle_at", "open_tree",
    "perf_event_open", "personality", "pivot_root", "process_vm_readv", "process_vm_writev", "ptrace", "quotactl",
    "reboot", "request_key", "setns", "swapoff", "swapon", "syslog", "umount2", "unshare", "userfaultfd", "vhangup",
)  # fmt: skip


@dataclass(slots=True)
class _Watch:
    """Watch over the disks that a program writes to; `end` ends it if they lose too much, or if the caller says so."""

    disks: Sequence[RoomWatch]
    on_tick: Callable[[float], None] | None
    cancellation: Cancellation | None
    end: Cancellation
    used_up: bool = False

    @classmethod
    def over(
        cls,
        places: Sequence[Path | None],
        on_tick: Callable[[float], None] | None,
        cancellation: Cancellation | None,
    ) -> _Watch:
        disks = [RoomWatch.begin(place) for place in places if place is not None]
        return cls(disks, on_tick, cancellation, Cancellation.new())

    def look(self, seconds: float) -> None:
        if self.on_tick is not None:
            self.on_tick(seconds)
        self.used_up |= any(disk.used_up(limit_bytes=_DISK_BYTES, limit_files=_DISK_FILES) for disk in self.disks)
        if self.used_up or (self.cancellation is not None and self.cancellation.event.is_set()):
            self.end.event.set()

    def require_room(self) -> None:
        """Raise OSError if the program used up the room of a disk."""
        if self.used_up:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """A toolchain root in which programs run.

    `root` is mounted read-only at `/`. `helper` is the root whose bubblewrap is used. The output of each program is
    appended to the file `transcript` unless that is None.
    """

    root: Path
    helper: Path
    transcript: Path | None = None

    def run(
        self,
        argv: Sequence[str],
        *,
        layers: Sequence[Path] = (),
        upper: Path | None = None,
        writable: Path | None = None,
        inputs: Path | None = None,
        output: Path | None = None,
        tools: Path | None = None,
        env: Mapping[str, str] | None = None,
        printed_to: IO[bytes] | None = None,
        timeout_s: float = 600.0,
        on_tick: Callable[[float], None] | None = None,
        cancellation: Cancellation | None = None,
    ) -> Completed:
        """Run one program in the sandbox and return how it ended; the last four arguments are for `process.run`.

        /src shows the directories `layers`, the last one uppermost, under a layer of its own that takes all changes:
        in memory, or in the empty directory `upper` on disk for builds of whole kernels. `writable` is mounted at /src
        instead of layers; changes to it stay. `inputs` and `tools` are mounted read-only at /in and /tools. `output`
        is mounted at /out, and its content stays. `output` and `writable` must belong to `BUILD_UID`.

        Raises EnvironmentFault if the sandbox cannot be made, or if all programs of this process's sandboxes together
        used up their memory; OSError if the program found the disk full, or used up most of its room.
        """
        group = own_group()
        if group is not None:
            group.make()
        ended = group.ended() if group is not None else 0
        mounts = self._mounts(layers, upper, writable=writable, inputs=inputs, output=output, tools=tools)
        limited = ["sh", "-c", _LIMITED, "sh", *argv]
        command = [*unprivileged(), *_bwrap(self.helper), *_NAMESPACES, *mounts, *_environment(env)]
        watch = _Watch.over((output, writable, upper), on_tick, cancellation)
        entering = group.entering() if group is not None else []
        with filters() as descriptor:
            done = run(
                [*entering, *command, "--seccomp", str(descriptor), "--", *limited],
                timeout_s=timeout_s, pass_fds=(descriptor,), printed_to=printed_to, on_tick=watch.look,
                cancellation=watch.end, output_limit_bytes=_OUTPUT_BYTES,
            )  # fmt: skip
        # Neither a descriptor nor a control group means anything in the shell of a person who repeats the command.
        done = replace(done, argv=(*command, "--", *limited))
        _append_transcript(self.transcript, argv, done)
        watch.require_room()
        if not done.ok:
            _raise_if_ours(done, group, ended, places=(output, writable, upper))
        return done

    def _mounts(
        self,
        layers: Sequence[Path],
        upper: Path | None,
        *,
        writable: Path | None,
        inputs: Path | None,
        output: Path | None,
        tools: Path | None,
    ) -> list[str]:
        """Return bubblewrap's options for everything that programs see."""
        options = ["--hostname", "build", "--ro-bind", str(self.root), "/", "--proc", "/proc", "--dev", "/dev"]
        options += ["--size", str(1 << 30), "--tmpfs", "/tmp"]  # noqa: S108 - the sandbox's own
        if writable is not None:
            options += ["--bind", str(writable), "/src"]
        for layer in layers:
            options += ["--overlay-src", str(layer)]
        if upper is not None:
            options += ["--overlay", *_upper(upper), "/src"]
        elif layers:
            options += ["--tmp-overlay", "/src"]
        for option, path, place in (
            ("--ro-bind", inputs, "/in"),
            ("--ro-bind", tools, "/tools"),
            ("--bind", output, "/out"),
        ):
            if path is not None:
                options += [option, str(path), place]
        return options


def _environment(env: Mapping[str, str] | None) -> list[str]:
    options = []
    for name, value in (_FIXED_ENVIRONMENT | dict(env or {})).items():
        options += ["--setenv", name, value]
    return [*options, "--chdir", "/src"]


def _raise_if_ours(done: Completed, group: Group | None, ended: int, *, places: Sequence[Path | None]) -> None:
    """Raise OSError or EnvironmentFault if a program failed for want of disk, memory or a sandbox.

    `ended` is how many programs of the group the kernel had ended before.
    """
    if done.status == 0:
        return
    if _DISK_FULL in done.output + done.log and _without_room(*places):
        # The compiler printed it, but it says nothing about the patch.
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if group is not None and group.ended() > ended:
        raise EnvironmentFault(
            "memory-used-up",
            f"The build needed more than the {group.limit >> 20} MiB that all its programs may have together.",
            advice="Build on a machine with more memory, or with fewer compilers at once (the setting `jobs`).",
        )
    if done.log.startswith((b"bwrap: ", b"setpriv: ", b"prlimit: ", b"cgroup: ")):
        raise EnvironmentFault(
            "sandbox",
            f"The sandbox cannot be made: {done.log.decode(errors='replace').splitlines()[0]}.",
            advice="User namespaces and overlayfs must be allowed, and the cache directory open to all users.",
        )


def writable_directory(path: Path) -> Path:
    """Make a directory that programs in a sandbox may write to, and return it."""
    path.mkdir()
    os.chown(path, BUILD_UID, BUILD_UID)
    return path


def private_to_builds(path: Path) -> Path:
    """Let programs in a sandbox read a directory of this user, and no other user of the machine; return it.

    A patch that is built may describe a hole that is not public yet.
    """
    if os.geteuid() == 0:
        os.chown(path, 0, BUILD_UID)
        path.chmod(0o750)
    return path


def _upper(directory: Path) -> list[str]:
    places = [directory / "changed", directory / "work"]
    return [str(writable_directory(place)) for place in places]


def _without_room(*places: Path | None) -> bool:
    # A patch can make a compiler print this message (#error), and a layer in memory can be full while the disk is not.
    used = [place for place in (*places, Path(tempfile.gettempdir())) if place is not None]
    return any(shutil.disk_usage(place).free < _ROOM_BYTES for place in used)


def _append_transcript(transcript: Path | None, argv: Sequence[str], done: Completed) -> None:
    if transcript is None:
        return
    head = f"$ {' '.join(argv)[:2000]}\n"
    tail = f"[status {done.status}, {done.seconds:.2f} s]\n"
    if not done.ok:
        # Complete, so that an operator can paste it into a shell: only the system call filter is missing from it.
        tail += f"to repeat it by hand, as root:\n{shlex.join(done.argv)}\n"
    # A program that succeeded printed its product to standard output, not a report.
    printed = done.log if done.ok else done.output + done.log
    # One write per program: appends of several threads do not mix.
    with transcript.open("ab", buffering=0) as file:
        file.write(head.encode() + printed[:_TRANSCRIPT_BYTES] + tail.encode() + b"\n")


_NAMESPACES = (
    "--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session", "--clearenv",
    "--cap-drop", "ALL",
)  # fmt: skip
_FIXED_ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "HOME": "/tmp",  # noqa: S108 - the sandbox's own
    "SOURCE_DATE_EPOCH": "1",
    "KBUILD_BUILD_TIMESTAMP": "1970-01-01",
    "KBUILD_BUILD_USER": "elivepatch",
    "KBUILD_BUILD_HOST": "elivepatch",
}


def unprivileged() -> list[str]:
    """Return the start of a command that runs as an ordinary user, with limits of memory and files."""
    # bubblewrap run by root would map the user inside to root of the host, so root becomes an ordinary user first.
    limits = ["prlimit", f"--fsize={_FILE_LIMIT_BYTES}", f"--as={_MEMORY_LIMIT_BYTES}", f"--cpu={_CPU_LIMIT_S}"]
    limits += ["--core=0", "--"]
    if os.geteuid() != 0:
        return limits
    user = ["setpriv", f"--reuid={BUILD_UID}", f"--regid={BUILD_UID}", "--clear-groups", "--no-new-privs", "--"]
    return [*limits, *user]


def around_own_program(helper: Path, filter_descriptor: int, devices: Sequence[Path] = ()) -> list[str]:
    """Return the start of a command that runs a program of this machine as confined as one of a build.

    It sees the machine's programs and libraries and of /dev only `devices` and the harmless ones; no other file, no
    process and no network of the machine. Descriptors are inherited. The command runs as the user of its caller.
    """
    command = [*_bwrap(helper), *_NAMESPACES, "--proc", "/proc", "--dev", "/dev", "--dir", "/tmp"]  # noqa: S108
    for place in (Path("/", name) for name in ("usr", "bin", "sbin", "lib", "lib64")):
        if place.is_symlink():
            command += ["--symlink", str(place.readlink()), str(place)]
        elif place.is_dir():
            command += ["--ro-bind", str(place), str(place)]
    for file in ("/etc/ld.so.cache", "/etc/alternatives"):
        command += ["--ro-bind-try", file, file]
    for device in devices:
        command += ["--dev-bind", str(device), str(device)]
    return [*command, "--setenv", "PATH", _FIXED_ENVIRONMENT["PATH"], "--seccomp", str(filter_descriptor), "--"]


def loader(root: Path) -> list[str]:
    """Return the start of a command that runs one of `root`'s programs on the host through `root`'s own loader."""
    return [str(root / "lib64/ld-linux-x86-64.so.2"), "--library-path", str(root / "usr/lib/x86_64-linux-gnu")]


@cache
def _bwrap(helper: Path) -> tuple[str, ...]:
    command = [*loader(helper), str(helper / "usr/bin/bwrap")]
    version = re.search(r"(\d+)\.(\d+)", run([*command, "--version"]).text)
    if version is None or tuple(map(int, version.groups())) < _MINIMUM_BWRAP:
        raise EnvironmentFault(
            "sandbox",
            "The toolchain for the sandbox has no bubblewrap of at least version 0.12.",
            advice="Look if it has changed (elivepatch-server toolchain verify debian-13), remove it and add it again.",
        )
    return tuple(command)


@contextmanager
def filters() -> Iterator[int]:
    """Yield a descriptor of the system call filter, for bubblewrap's option --seccomp."""
    with tempfile.TemporaryFile() as file:
        file.write(filter_program())
        file.seek(0)
        yield file.fileno()


@cache
def filter_program() -> bytes:
    """Return the system call filter of every program in a sandbox, as the kernel takes it."""
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    for name in _DENIED_CALLS:
        rules.add_rule(pyseccomp.ERRNO(errno.EPERM), name)
    # A network namespace holds back neither AF_VSOCK, to the hypervisor of this machine, nor other families of sockets.
    for name in ("socket", "socketpair"):
        other = pyseccomp.Arg(0, pyseccomp.NE, socket.AF_UNIX)
        rules.add_rule(pyseccomp.ERRNO(errno.EAFNOSUPPORT), name, other)
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()
