# SPDX-License-Identifier: GPL-2.0-or-later
"""A person's shell in the guest of a trial, opened at a phase; the guest ends with it.

The guest's console is at the other end of a socket, and this process copies bytes between that and the terminal. QEMU
never gets the terminal itself: a program that holds one can type into it (TIOCSTI), and the guest is hostile. For the
same reason only letters and a few movements of the cursor get to the terminal.
"""

from __future__ import annotations

import os
import re
import select
import socket
import termios
import threading
import tty
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from elivepatch.model.errors import EnvironmentFault, Kind, Problem
from elivepatch.model.progress import Event, Progress, silent
from elivepatch.process import Cancellation, Completed
from elivepatch.trial import cpio, image, qemu
from elivepatch.trial.case import GuestKernel, TrialCase
from elivepatch.trial.evidence.judge import GuestEnd, judge
from elivepatch.trial.evidence.kernel_log import tail
from elivepatch.trial.guest_protocol import GUEST, parse
from elivepatch.trial.modules import module_tree
from elivepatch.trial.qemu import Programs

ESCAPE = b"\x1d"
"""Key that ends the session from outside, Ctrl-], for a guest that hangs."""

_MARK = b"elivepatch: shell\r\n"
_GREETING = b"\r\nA shell in the guest: `exit` ends the guest, Ctrl-] too.\r\n"
_SCOPE = "000000"
_KEPT_BYTES = 64 << 20
_CHUNK = 4096
_SESSION_S = 4 * 3600.0
_SAFE = re.compile(rb"[\x20-\x7e\r\n\t\x08]|\x1b\[[0-9;]{0,8}[A-DHJKm]")
_HALF = re.compile(rb"\x1b(?:\[[0-9;]{0,8})?\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShellEnd:
    """End of a session. `opened` is False if the guest did not reach the phase; then `problem` gives the reason."""

    opened: bool
    seconds: float
    problem: Problem | None = None


@dataclass(slots=True)
class TerminalFilter:
    """Filter of a guest's output for a terminal: it drops what could do more than write text and move the cursor."""

    _rest: bytes = b""

    def safe(self, data: bytes) -> bytes:
        """Return the part of the output so far that a terminal may get, and keep half a sequence for the next call."""
        data, self._rest = self._rest + data, b""
        if half := _HALF.search(data):
            data, self._rest = data[: half.start()], half[0]
        return b"".join(_SAFE.findall(data))


def open_shell(
    *,
    kernel: GuestKernel,
    case: TrialCase,
    phase: str,
    terminal: int,
    work_dir: Path,
    cache_dir: Path,
    progress: Progress = silent,
    limit_s: float = 600.0,
    programs: Programs | None = None,
) -> ShellEnd:
    """Boot the case's guest and give its console to `terminal`, a descriptor, at the end of `phase`.

    The shell's end, or Ctrl-], ends the guest. The guest has `limit_s` to reach the phase. The console is also kept in
    `work_dir`/console.log. Raises as `run_trial` does.
    """
    used = programs or Programs()
    work_dir.mkdir(parents=True, exist_ok=True)
    packed = image.pack([(_SCOPE, case)], module_tree(kernel))
    accelerator = qemu.choose_accelerator(kernel, programs=used, cache_dir=cache_dir)
    progress(Event(stage="trial", message=f"booting {kernel.release} ({accelerator}) up to the phase {phase}"))
    stop = Cancellation.new()
    ours, theirs = socket.socketpair()
    with ExitStack() as stack:
        stack.enter_context(ours)
        stack.enter_context(theirs)
        guest = qemu.Guest(
            image=kernel.image,
            initramfs=image.base(used.busybox) + packed.archive + _asked(phase),
            console=work_dir / "console.log",
            results=work_dir / "results.txt",
            socket=theirs.fileno(),
        )
        relay = _Relay(ours, terminal, guest.console, stop)
        stack.callback(relay.end)
        relay.thread.start()

        def tick(passed_s: float) -> None:
            if passed_s > limit_s and not relay.opened.is_set():
                stop.event.set()

        ended = qemu.boot(
            guest, programs=used, accelerator=accelerator, timeout_s=_SESSION_S, on_tick=tick, cancellation=stop
        )
    if relay.opened.is_set():
        return ShellEnd(opened=True, seconds=round(ended.seconds, 2))
    problem = _problem(guest, case, phase, ended, packed.missing[0])
    return ShellEnd(opened=False, seconds=round(ended.seconds, 2), problem=problem)


def _asked(phase: str) -> bytes:
    return cpio.archive([cpio.file("trial/shell", f"{phase}\n".encode())])


def _problem(guest: qemu.Guest, case: TrialCase, phase: str, ended: Completed, missing: Sequence[str]) -> Problem:
    """Return the reason why a guest did not reach a phase; raises EnvironmentFault if it did not boot."""
    records = parse(guest.results.read_bytes())
    console = guest.console.read_bytes().decode(errors="replace")
    if not records.has(GUEST, "ready"):
        raise EnvironmentFault(
            "trial-boot",
            "The kernel did not boot in the VM.",
            advice="See the end of its console below; `elivepatch-server doctor` checks QEMU.",
            excerpt=tail(console, 25) or ended.tail(),
        )
    end = GuestEnd(console=console, status=ended.status, timed_out=ended.timed_out, limit_s=ended.seconds)
    return next(iter(judge(_SCOPE, case, records, end, missing).problems), _not_reached(phase))


def _not_reached(phase: str) -> Problem:
    return Problem(
        code="trial-lost",
        kind=Kind.ERROR,
        message=f"The guest ended before the phase {phase}.",
        advice="Run the trial without --interactive to see the reason.",
    )


@dataclass(slots=True)
class _Relay:
    """Copies the guest's output to a file, and once the shell is open also to the terminal, whose input it sends."""

    guest: socket.socket
    terminal: int
    kept: Path
    stop: Cancellation
    opened: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread = field(init=False)
    _wake: tuple[int, int] = field(default_factory=os.pipe)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run, name="console", daemon=True)

    def end(self) -> None:
        """End the thread, after what the guest has written last."""
        os.write(self._wake[1], b"x")
        self.thread.join(timeout=5)
        for descriptor in self._wake:
            os.close(descriptor)

    def _run(self) -> None:
        before = None
        try:
            first = self._until_open()
            if first is not None:
                with suppress(termios.error):
                    before = termios.tcgetattr(self.terminal)
                    tty.setraw(self.terminal, termios.TCSADRAIN)  # not TCSAFLUSH: a person may have typed ahead
                self.opened.set()
                self._copy(first)
        except OSError:
            self.stop.event.set()  # the terminal is gone
        finally:
            if before is not None:
                with suppress(termios.error):
                    termios.tcsetattr(self.terminal, termios.TCSADRAIN, before)

    def _until_open(self) -> bytes | None:
        """Read up to the mark of the shell; return what came after it, None if the guest ends before."""
        seen = b""
        while data := self._received(terminal=False)[0]:
            self._keep(data)
            seen = (seen + data)[-2 * _CHUNK :]
            if _MARK in seen:
                return seen.partition(_MARK)[2]
        return None

    def _copy(self, first: bytes) -> None:
        output = TerminalFilter()
        _write(self.terminal, _GREETING + output.safe(first))
        while True:
            data, typed = self._received(terminal=True)
            if data is None or typed is None or ESCAPE in typed:
                break
            self._keep(data)
            _write(self.terminal, output.safe(data))
            if typed:
                self.guest.sendall(typed)
        self.stop.event.set()

    def _received(self, *, terminal: bool) -> tuple[bytes | None, bytes | None]:
        """Wait for bytes of the guest and of the terminal; None for one that has ended."""
        watched = [self.guest.fileno(), self._wake[0], *[self.terminal] * terminal]
        poller = select.poll()
        for descriptor in watched:
            poller.register(descriptor, select.POLLIN)
        ready = {descriptor for descriptor, _event in poller.poll()}
        data: bytes | None = b""
        typed: bytes | None = b""
        if self.guest.fileno() in ready:
            data = self.guest.recv(_CHUNK) or None
        elif self._wake[0] in ready:
            data = None
        if terminal and self.terminal in ready:
            typed = os.read(self.terminal, _CHUNK) or None
        return data, typed

    def _keep(self, data: bytes) -> None:
        with self.kept.open("ab") as file:
            if file.tell() < _KEPT_BYTES:
                file.write(data)


def _write(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]
