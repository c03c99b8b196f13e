# SPDX-License-Identifier: GPL-2.0-or-later
"""A shell in the guest of a trial; a program in QEMU's place is the guest, and a pseudo-terminal the person's."""

from __future__ import annotations

import os
import pty
import select
import shutil
import struct
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.model.errors import EnvironmentFault
from elivepatch.trial import qemu
from elivepatch.trial.case import GuestKernel, TrialCase
from elivepatch.trial.qemu import Programs
from elivepatch.trial.shell import ESCAPE, ShellEnd, TerminalFilter, open_shell

BUILD_ID = "ab" * 20
STATIC_ELF = b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 0, 0, 0, 64, 0, 0, 0, 0, 0)
# The stand-in finds the phase in its initramfs, as the guest does.
STAND_IN = """\
#!/usr/bin/env python3
import os, re, socket, sys
sets = dict(reversed(a.removeprefix("fd=").split(",set=")) for a in sys.argv if a.startswith("fd="))
(number,) = [a.rpartition("fd=")[2] for a in sys.argv if a.startswith("socket,id=console")]
console = socket.socket(fileno=int(number))
archive = open(sys.argv[sys.argv.index("-initrd") + 1], "rb").read()
phase = re.search(rb"trial/shell\\0+([a-z]+)\\n", archive)[1]
console.sendall(b"[    0.0] Linux version\\r\\n")
{how}
"""
SHELL = """\
console.sendall(b"elivepatch: shell\\r\\nguest, " + phase + b" # ")
line = b""
while line != b"exit\\r":
    line = b""
    while not line.endswith(b"\\r"):
        line += console.recv(1)
    console.sendall(b"you typed \\033]0;evil\\007" + line + b"\\n")
"""


@dataclass
class Desk:
    """A person's terminal, and a guest."""

    top: Path
    tmp_path: Path
    person: int
    terminal: int
    ends: list[ShellEnd | EnvironmentFault] = field(default_factory=list)

    def sit(self, how: str, phase: str = "during", limit_s: float = 60) -> threading.Thread:
        program = self.top / "qemu"
        program.write_text(STAND_IN.format(how=how))
        program.chmod(0o755)
        (self.tmp_path / "x.ko").write_bytes(b"a module")

        def session() -> None:
            kernel = GuestKernel(
                release="6.1.0", build_id=BUILD_ID, image=self.tmp_path / "vmlinuz",
                modules_dir=self.tmp_path / "modules",
            )  # fmt: skip
            case = TrialCase(livepatch=self.tmp_path / "x.ko", name="livepatch_x")
            try:
                self.ends.append(
                    open_shell(
                        kernel=kernel,
                        case=case,
                        phase=phase,
                        terminal=self.terminal,
                        work_dir=self.tmp_path / "work",
                        cache_dir=self.tmp_path / "cache",
                        limit_s=limit_s,
                        programs=Programs(qemu=str(program), busybox=self.tmp_path / "busybox"),
                    )
                )
            except EnvironmentFault as fault:
                self.ends.append(fault)

        thread = threading.Thread(target=session)
        thread.start()
        return thread

    def read(self, words: bytes) -> bytes:
        seen, until = b"", time.monotonic() + 20
        while words not in seen:
            assert time.monotonic() < until, seen
            if select.select([self.person], [], [], 0.2)[0]:
                seen += os.read(self.person, 4096)
        return seen


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr(qemu, "_KVM", tmp_path / "no-kvm")
    (tmp_path / "vmlinuz").write_bytes(b"a kernel")
    (tmp_path / "busybox").write_bytes(STATIC_ELF)
    (tmp_path / "modules").mkdir()
    top = Path(tempfile.mkdtemp())
    top.chmod(0o755)
    person, terminal = pty.openpty()
    yield Desk(top, tmp_path, person, terminal)
    os.close(person)
    os.close(terminal)
    shutil.rmtree(top)


@pytest.mark.parametrize("phase", ["before", "during", "after"])
def test_what_a_person_types_reaches_the_guest_and_exit_ends_it(desk: Desk, phase: str) -> None:
    before = termios.tcgetattr(desk.terminal)
    thread = desk.sit(SHELL, phase)
    seen = desk.read(f"guest, {phase} # ".encode())
    assert b"Linux version" not in seen, "the boot is not shown"
    os.write(desk.person, b"\x03ls\r")
    assert b"you typed ]0;evil" in desk.read(b"ls\r\n"), "an interrupt goes to the guest, no sequence comes from it"
    os.write(desk.person, b"exit\r")
    thread.join(timeout=20)
    (end,) = desk.ends
    assert isinstance(end, ShellEnd)
    assert (end.opened, end.problem) == (True, None)
    assert termios.tcgetattr(desk.terminal) == before, "the terminal is as it was"
    kept = (desk.tmp_path / "work/console.log").read_bytes()
    assert kept.startswith(b"[    0.0] Linux version\r\n")
    assert b"\033]0;evil\007" in kept


def test_a_key_ends_a_guest_that_hangs(desk: Desk) -> None:
    thread = desk.sit('console.sendall(b"elivepatch: shell\\r\\n# ")\nimport time; time.sleep(60)')
    desk.read(b"# ")
    os.write(desk.person, ESCAPE)
    thread.join(timeout=20)
    assert not thread.is_alive()
    (end,) = desk.ends
    assert isinstance(end, ShellEnd)
    assert end.opened


def test_a_guest_that_does_not_reach_the_phase_says_why(desk: Desk) -> None:
    desk.sit("import time; time.sleep(60)", limit_s=1).join(timeout=20)
    (end,) = desk.ends
    assert isinstance(end, EnvironmentFault)
    assert "did not boot" in str(end)
    assert "Linux version" in end.problem.excerpt


def test_a_livepatch_that_does_not_load_is_reported_in_place_of_the_shell(desk: Desk) -> None:
    refused = "MQppbnNtb2Q6IEludmFsaWQgYXJndW1lbnQ="  # 1, and the words of insmod
    records = f"- ready \\n000000 begin \\n000000 log.before \\n000000 load.1 {refused}\\n000000 done \\n"
    desk.sit(f'os.write(int(sets["2"]), b"{records}")').join(timeout=20)
    (end,) = desk.ends
    assert isinstance(end, ShellEnd)
    assert end.problem is not None
    assert (end.opened, end.problem.code) == (False, "trial-load")


@given(st.lists(st.binary(max_size=12) | st.sampled_from([b"\x1b", b"[", b"2", b"J", b"\x1b[1;31m", b"\x9b"])))
def test_nothing_but_text_and_movements_reaches_the_terminal(pieces: list[bytes]) -> None:
    output = TerminalFilter()
    shown = b"".join(output.safe(piece) for piece in pieces)
    assert shown == TerminalFilter().safe(b"".join(pieces)), "pieces make no difference"
    assert not set(shown) & (set(range(0x20)) - set(b"\r\n\t\x08\x1b") | set(range(0x7F, 0x100)))
    after = shown.split(b"\x1b")[1:]
    assert all(one.startswith(b"[") for one in after)
