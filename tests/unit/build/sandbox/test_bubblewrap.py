# SPDX-License-Identifier: GPL-2.0-or-later
"""Sandbox command lines: everything that a program may see, and a log from which a failure can be repeated."""

from __future__ import annotations

import errno
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from elivepatch.build.sandbox import bubblewrap
from elivepatch.build.sandbox.bubblewrap import BUILD_UID, Sandbox, private_to_builds
from elivepatch.model.errors import EnvironmentFault
from elivepatch.process import Cancellation, Completed, run

SCRIPT = "echo 'it''s long' && " + "true; " * 1000 + "exit 1"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Collect the command lines that a sandbox would start; each fails with status 1."""
    seen: list[tuple[str, ...]] = []

    def run_fake(argv: Sequence[str], **_: Any) -> Completed:
        seen.append(tuple(argv))
        return Completed(argv=tuple(argv), status=1, output=b"", log=b"gcc: no", seconds=0.5, timed_out=False)

    monkeypatch.setattr(bubblewrap, "own_group", lambda: None)
    monkeypatch.setattr(bubblewrap, "run", run_fake)
    monkeypatch.setattr(bubblewrap, "_bwrap", lambda helper: ("ld.so", str(helper / "usr/bin/bwrap")))
    return seen


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(root=tmp_path / "root", helper=tmp_path / "helper", transcript=tmp_path / "log")


def test_the_log_of_a_failed_program_holds_the_complete_command(
    tmp_path: Path, sandbox: Sandbox, started: list[tuple[str, ...]]
) -> None:
    sandbox.run(["sh", "-c", SCRIPT], layers=[tmp_path / "tree"], inputs=tmp_path / "a b", env={"T": "fs/a.o"})
    line = next(line for line in (tmp_path / "log").read_text().splitlines() if "bwrap" in line)
    command = shlex.split(line)
    assert command[-3:] == ["sh", "-c", SCRIPT]
    for part in (["--overlay-src", str(tmp_path / "tree")], ["--ro-bind", str(tmp_path / "a b"), "/in"]):
        assert " ".join(part) in " ".join(command)
    # The filter is read from a descriptor, which no other shell has.
    assert "--seccomp" in started[0]
    assert "--seccomp" not in command
    assert [word for word in started[0] if word in command or word.isdecimal() or word == "--seccomp"] == [*started[0]]


def test_the_advice_of_a_failed_program_is_the_same_command(
    tmp_path: Path, sandbox: Sandbox, started: list[tuple[str, ...]]
) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        sandbox.run(["sh", "-c", SCRIPT], writable=tmp_path).check("Building")
    assert started
    assert shlex.join(["sh", "-c", SCRIPT]) in caught.value.problem.advice
    assert "--seccomp" not in caught.value.problem.advice


def test_a_program_that_succeeds_leaves_a_short_line(
    tmp_path: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, started: list[tuple[str, ...]]
) -> None:
    def run_fake(argv: Sequence[str], **_: Any) -> Completed:
        started.append(tuple(argv))
        return Completed(argv=tuple(argv), status=0, output=b"object", log=b"warning", seconds=0.5, timed_out=False)

    monkeypatch.setattr(bubblewrap, "run", run_fake)
    sandbox.run(["gcc", "-c", "a.c"], output=tmp_path)
    assert (tmp_path / "log").read_text() == "$ gcc -c a.c\nwarning[status 0, 0.50 s]\n\n"


@pytest.mark.parametrize(
    ("family", "allowed"), [("AF_UNIX", True), ("AF_INET", False), ("AF_NETLINK", False), ("AF_VSOCK", False)]
)
def test_the_filter_lets_sockets_of_this_machine_through_alone(family: str, allowed: bool) -> None:
    program = """if True:
        import ctypes, socket, sys
        raw = sys.stdin.buffer.read()
        filters = ctypes.create_string_buffer(raw)
        class Program(ctypes.Structure):
            _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
        given = Program(len(raw) // 8, ctypes.addressof(filters))
        assert libc.prctl(22, 2, ctypes.byref(given), 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
        for make in (socket.socket, socket.socketpair):
            try:
                make(getattr(socket, sys.argv[1]), socket.SOCK_DGRAM)
                print("made")
            except OSError as error:
                print(error.errno)
    """
    done = run([sys.executable, "-I", "-c", program, family], stdin=bubblewrap.filter_program())
    assert done.ok, done.tail()
    assert done.text.split() == (["made"] * 2 if allowed else [str(errno.EAFNOSUPPORT)] * 2)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_only_the_user_of_builds_reads_what_is_built(tmp_path: Path) -> None:
    place = tmp_path / "job"
    (place / "series").mkdir(parents=True)
    patch = private_to_builds(place) / "series/00000.patch"
    patch.write_text("a hole that is not public yet")
    for parent in tmp_path.parents:
        if parent.stat().st_uid == 0 and parent.name.startswith(("pytest", "popen-")):
            parent.chmod(0o755)
    tmp_path.chmod(0o755)

    def readable(user: int) -> bool:
        who = [f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        return run(["setpriv", *who, "cat", patch]).ok

    assert readable(BUILD_UID)
    assert not any(readable(user) for user in (65534, 65433, 1000))


@pytest.mark.parametrize(("left", "used_up"), [((900, 90), False), ((200, 90), True), ((900, 20), True)])
def test_a_program_that_uses_up_the_disk_is_ended(
    tmp_path: Path,
    sandbox: Sandbox,
    started: list[tuple[str, ...]],
    monkeypatch: pytest.MonkeyPatch,
    left: tuple[int, int],
    used_up: bool,
) -> None:
    free = iter([(1000, 100), *[left] * 9])

    def statvfs(_path: Path) -> SimpleNamespace:
        blocks, files = next(free)
        return SimpleNamespace(f_bavail=blocks, f_frsize=1 << 20, f_favail=files)

    def run_fake(argv: Sequence[str], *, on_tick: Any, cancellation: Any, **_: Any) -> Completed:
        started.append(tuple(argv))
        on_tick(0.1)
        assert cancellation.event.is_set() is used_up
        return Completed(argv=tuple(argv), status=-9, output=b"", log=b"", seconds=0.5, timed_out=True)

    monkeypatch.setattr(bubblewrap, "run", run_fake)
    monkeypatch.setattr(os, "statvfs", statvfs)
    if used_up:
        with pytest.raises(OSError, match="No space left"):
            sandbox.run(["sh"], output=tmp_path)
    else:
        assert not sandbox.run(["sh"], output=tmp_path).ok


def test_a_cancelled_program_is_ended_beside_the_watch(
    tmp_path: Path, sandbox: Sandbox, started: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Cancellation.new()
    asked.event.set()

    def run_fake(argv: Sequence[str], *, on_tick: Any, cancellation: Any, **_: Any) -> Completed:
        started.append(tuple(argv))
        on_tick(0.1)
        assert cancellation.event.is_set()
        return Completed(argv=tuple(argv), status=-15, output=b"", log=b"", seconds=0.5, timed_out=True)

    monkeypatch.setattr(bubblewrap, "run", run_fake)
    assert sandbox.run(["sh"], output=tmp_path, cancellation=asked).timed_out


def test_every_program_has_limits_of_its_own() -> None:
    command = " ".join(bubblewrap.unprivileged())
    for limit in ("--fsize=", "--as=", "--cpu=", "--core=0"):
        assert limit in command
