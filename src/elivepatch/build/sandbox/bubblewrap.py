# SPDX-License-Identifier: GPL-2.0-or-later
"""Where untrusted work runs: bubblewrap, as an unprivileged user, without network, with a system call filter.

A patch is code that runs at build time, so nothing of a patch is compiled, diffed or linked outside. There is no
fallback: where the sandbox cannot be made, there is no build. bubblewrap comes out of a toolchain root, started
through that root's own loader, because bubblewrap before 0.12 lets a planted symbolic link create paths on the host
(CVE-2026-87766) and Debian 12 has 0.8.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pyseccomp

from elivepatch.build.sandbox.cgroup import own_group
from elivepatch.model.errors import EnvironmentFault
from elivepatch.process import Cancellation, Completed, run

BUILD_UID = 65432
"""Owner of base trees and of everything in a build; in systemd's range of dynamic users, so nobody's account."""

MOUNT_POINTS = ("src", "in", "out", "tools")
"""Directories every toolchain root has at its top, so that no mount point is ever created inside attacker's reach."""

_MINIMUM_BWRAP = (0, 12)
_FILE_LIMIT_BYTES = 2 << 30
_MEMORY_LIMIT_BYTES = 6 << 30
_PROCESS_LIMIT = 512
_DISK_FULL = os.strerror(errno.ENOSPC).encode()
_ROOM_BYTES = 16 << 20
_TRANSCRIPT_BYTES = 256 * 1024

# What a compiler never needs and what kernel exploits like: keys, tracing, namespaces, mounts, modules, new system
# call surfaces. Refused with EPERM rather than a signal, so that a program that merely asks goes on.
_DENIED_CALLS = (
    "acct", "add_key", "bpf", "clock_settime", "delete_module", "finit_module", "fsconfig", "fsmount", "fsopen",
    "fspick", "init_module", "io_uring_enter", "io_uring_register", "io_uring_setup", "kexec_file_load", "kexec_load",
    "keyctl", "mount", "mount_setattr", "move_mount", "name_to_handle_at", "open_by_handle_at", "open_tree",
    "perf_event_open", "personality", "pivot_root", "process_vm_readv", "process_vm_writev", "ptrace", "quotactl",
    "reboot", "request_key", "setns", "swapoff", "swapon", "syslog", "umount2", "unshare", "userfaultfd", "vhangup",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """A toolchain root made ready to run programs in.

    `root` is mounted read-only at `/`. `helper` is the root whose bubblewrap is used. What programs print is added to
    the file `transcript`, where there is one.
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
        timeout_s: float = 600.0,
        on_tick: Callable[[float], None] | None = None,
        cancellation: Cancellation | None = None,
    ) -> Completed:
        """Run one program inside and return how it ended; `on_tick` and `cancellation` are what `process.run` says.

        `layers` are shown on top of each other at /src, the last one uppermost, with a throw-away layer above them
        that is kept in memory, or where a whole kernel is built, in the empty directory `upper` on disk;
        `writable` is shown at /src instead, for real; `inputs` and `tools` are read-only at /in and /tools; `output`
        is the one place whose content stays, at /out. Writable directories must belong to `BUILD_UID`. Raises
        EnvironmentFault where the sandbox itself cannot be made, or where all programs of this process's sandboxes
        together used up their memory, and OSError where the program found the disk full.
        """
        group = own_group()
        ended = 0
        arguments: list[str] = []
        if group is not None:
            group.make()
            ended = group.ended()
            arguments += group.entering()
        arguments += [*_dropped(), *_bwrap(self.helper), *_namespaces(), "--ro-bind", str(self.root), "/"]
        arguments += ["--proc", "/proc", "--dev", "/dev", "--size", str(1 << 30), "--tmpfs", "/tmp"]  # noqa: S108
        if writable is not None:
            arguments += ["--bind", str(writable), "/src"]
        for layer in layers:
            arguments += ["--overlay-src", str(layer)]
        if upper is not None:
            arguments += ["--overlay", *_upper(upper), "/src"]
        elif layers:
            arguments += ["--tmp-overlay", "/src"]
        for path, place in ((inputs, "/in"), (tools, "/tools")):
            if path is not None:
                arguments += ["--ro-bind", str(path), place]
        if output is not None:
            arguments += ["--bind", str(output), "/out"]
        for name, value in (_FIXED_ENVIRONMENT | dict(env or {})).items():
            arguments += ["--setenv", name, value]
        arguments += ["--chdir", "/src"]
        with tempfile.TemporaryFile() as program:
            program.write(_filter_program())
            program.seek(0)
            arguments += ["--seccomp", str(program.fileno()), "--", *argv]
            done = run(
                arguments,
                timeout_s=timeout_s,
                pass_fds=(program.fileno(),),
                on_tick=on_tick,
                cancellation=cancellation,
            )
        if self.transcript is not None:
            _note(self.transcript, argv, done)
        if done.status != 0 and _DISK_FULL in done.output + done.log and _without_room(output, writable, upper):
            # The compiler's words, but no word about the patch.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if done.status != 0 and group is not None and group.ended() > ended:
            raise EnvironmentFault(
                "memory-used-up",
                f"The build needed more than the {group.limit >> 20} MiB that all its programs may have together.",
                advice="Build on a machine with more memory, or with fewer compilers at once (the setting `jobs`).",
            )
        if done.status != 0 and done.log.startswith((b"bwrap: ", b"setpriv: ", b"prlimit: ", b"cgroup: ")):
            raise EnvironmentFault(
                "sandbox",
                f"The sandbox cannot be made: {done.log.decode(errors='replace').splitlines()[0]}.",
                advice="User namespaces and overlayfs must be allowed, and the cache directory open to all users.",
            )
        return done


def writable_directory(path: Path) -> Path:
    """Make a directory that programs inside may write to, and return it."""
    path.mkdir()
    os.chown(path, BUILD_UID, BUILD_UID)
    return path


def _upper(directory: Path) -> list[str]:
    places = [directory / "changed", directory / "work"]
    return [str(writable_directory(place)) for place in places]


def _without_room(*places: Path | None) -> bool:
    # A patch can make a compiler say these words (#error), and the throw-away layers can be full while the disk is not.
    used = [place for place in (*places, Path(tempfile.gettempdir())) if place is not None]
    return any(shutil.disk_usage(place).free < _ROOM_BYTES for place in used)


def _note(transcript: Path, argv: Sequence[str], done: Completed) -> None:
    # One write per program: appends of several threads do not mix.
    head = f"$ {' '.join(argv)[:2000]}\n"
    tail = f"[status {done.status}, {done.seconds:.2f} s]\n\n"
    # What a program that succeeded wrote to standard output is its product, not its report.
    printed = done.log if done.ok else done.output + done.log
    with transcript.open("ab", buffering=0) as file:
        file.write(head.encode() + printed[:_TRANSCRIPT_BYTES] + tail.encode())


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


def _dropped() -> list[str]:
    # bubblewrap run by root would map the inner user to root of the host, so the user is dropped first.
    limits = ["prlimit", f"--fsize={_FILE_LIMIT_BYTES}", f"--as={_MEMORY_LIMIT_BYTES}", f"--nproc={_PROCESS_LIMIT}"]
    limits += ["--core=0", "--"]
    if os.geteuid() != 0:
        return limits
    user = ["setpriv", f"--reuid={BUILD_UID}", f"--regid={BUILD_UID}", "--clear-groups", "--no-new-privs", "--"]
    return [*limits, *user]


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
            "The toolchain that carries the sandbox has no bubblewrap of at least version 0.12.",
            advice="Make it anew: elivepatch-server toolchain remove debian-13, then toolchain add debian-13.",
        )
    return tuple(command)


def _namespaces() -> list[str]:
    return ["--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session", "--clearenv",
            "--cap-drop", "ALL", "--hostname", "build"]  # fmt: skip


@cache
def _filter_program() -> bytes:
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    for name in _DENIED_CALLS:
        rules.add_rule(pyseccomp.ERRNO(errno.EPERM), name)
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()
