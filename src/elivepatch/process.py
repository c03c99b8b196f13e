# SPDX-License-Identifier: GPL-2.0-or-later
"""The one door to other programs.

Argument lists only, an environment made from nothing, an explicit working directory, output into a file rather than a
pipe (so that no output, however large, can block or fill memory), a time limit on the monotonic clock, and the whole
process group ended when the program ends or the limit runs out.
"""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess  # noqa: TID251 - this is the door
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from elivepatch.model.errors import EnvironmentFault

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_GRACE_S = 2.0
_TICK_S = 0.1
_TAIL_BYTES = 64 * 1024
_OUTPUT_LIMIT_BYTES = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """How a program ended.

    `status` is its exit status, or minus the signal that ended it. `output` is stdout and `log` stderr; where both
    went to one place, `log` is empty. `truncated` says that a program printed more than is kept.
    """

    argv: tuple[str, ...]
    status: int
    output: bytes
    log: bytes
    seconds: float
    timed_out: bool
    truncated: bool = False

    @property
    def ok(self) -> bool:
        """Whether the program ended with status 0 in time, and all it printed is here."""
        return self.status == 0 and not self.timed_out and not self.truncated

    @property
    def text(self) -> str:
        """Standard output, decoded."""
        return self.output.decode(errors="replace")

    def tail(self, lines: int = 20) -> str:
        """Return the last `lines` lines of what the program printed, error output last."""
        both = (self.output[-_TAIL_BYTES:] + self.log[-_TAIL_BYTES:]).decode(errors="replace")
        return "\n".join(both.rstrip().splitlines()[-lines:])

    def check(self, doing: str) -> Completed:
        """Return self, or raise EnvironmentFault where the program failed; `doing` completes `... failed`."""
        if self.ok:
            return self
        how = f"ended with status {self.status}"
        if self.timed_out or self.truncated:
            how = "ran out of time" if self.timed_out else f"printed more than {_OUTPUT_LIMIT_BYTES >> 20} MiB"
        raise EnvironmentFault(
            "program-failed",
            f"{doing} failed: {Path(self.argv[0]).name} {how}.",
            advice=f"Run it by hand to see more: {shlex.join(self.argv)}",
            excerpt=self.tail(),
        )


@dataclass(frozen=True, slots=True)
class Cancellation:
    """Lets another thread end the programs that a job runs; shared by everything the job does."""

    event: threading.Event

    @classmethod
    def new(cls) -> Cancellation:
        """Return one that is not cancelled."""
        return cls(threading.Event())


def _end_group(process: subprocess.Popen[bytes], *, grace_s: float) -> None:
    """End the whole process group: politely, then not. Descendants go too, even after the leader's own end."""
    for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, grace_s)):
        try:
            os.killpg(process.pid, number)
        except (ProcessLookupError, PermissionError):
            return
        deadline = time.monotonic() + wait_s
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)


def _wait(
    process: subprocess.Popen[bytes],
    deadline: float,
    on_tick: Callable[[float], None] | None,
    cancellation: Cancellation | None,
) -> bool:
    """Wait for the program; False where the deadline passed or it was cancelled first.

    A descriptor of the process is waited for, since Popen.wait with a time limit looks only every 50 ms, which adds up
    over the ten programs of a build.
    """
    started = time.monotonic()
    descriptor = os.pidfd_open(process.pid)
    try:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        while not poller.poll(max(0.0, min(_TICK_S, deadline - time.monotonic())) * 1000):
            if on_tick is not None:
                on_tick(time.monotonic() - started)
            if time.monotonic() >= deadline or (cancellation is not None and cancellation.event.is_set()):
                return False
        return True
    finally:
        os.close(descriptor)


def _not_started(program: str, error: OSError) -> EnvironmentFault:
    return EnvironmentFault(
        "program-missing",
        f"{program} cannot be started: {error.strerror}.",
        advice="Install the package that contains it; `elivepatch-server doctor` lists what is needed.",
    )


@contextmanager
def _input(given: bytes | Path | None) -> Iterator[IO[bytes] | int]:
    """Yield the file that a program reads as standard input."""
    if given is None:
        yield subprocess.DEVNULL
    elif isinstance(given, Path):
        with given.open("rb") as file:
            yield file
    else:
        with tempfile.TemporaryFile() as file:
            file.write(given)
            file.seek(0)
            yield file


def _content(file: IO[bytes]) -> bytes:
    """Return what a program printed, and one byte more than is kept where there is more."""
    file.seek(0)
    return file.read(_OUTPUT_LIMIT_BYTES + 1)


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    cwd: Path | str = "/",
    env: Mapping[str, str] | None = None,
    stdin: bytes | Path | None = None,
    timeout_s: float = 600.0,
    pass_fds: Sequence[int] = (),
    log_to: IO[bytes] | None = None,
    on_tick: Callable[[float], None] | None = None,
    cancellation: Cancellation | None = None,
) -> Completed:
    """Run one program to its end and return how it ended; never raises for a failed program.

    `env` is added to a minimal environment (PATH, LANG). With `log_to`, both outputs go to that open file and
    `Completed.output` stays empty. `on_tick` is called about ten times a second with the seconds passed. Raises
    EnvironmentFault where the program does not exist or cannot be started.
    """
    arguments = tuple(os.fspath(argument) for argument in argv)
    environment = {"PATH": SEARCH_PATH, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", **(env or {})}
    started = time.monotonic()
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors, _input(stdin) as source:
        try:
            process = subprocess.Popen(
                arguments,
                cwd=cwd,
                env=environment,
                stdin=source,
                stdout=log_to if log_to is not None else output,
                stderr=log_to if log_to is not None else errors,
                start_new_session=True,
                pass_fds=pass_fds,
            )
        except OSError as error:
            raise _not_started(arguments[0], error) from error
        try:
            in_time = _wait(process, started + timeout_s, on_tick, cancellation)
        finally:
            _end_group(process, grace_s=_GRACE_S)
            process.wait()
        printed, said = (_content(file) for file in (output, errors))
        return Completed(
            argv=arguments,
            status=process.returncode,
            output=printed[:_OUTPUT_LIMIT_BYTES],
            log=said[:_OUTPUT_LIMIT_BYTES],
            truncated=max(len(printed), len(said)) > _OUTPUT_LIMIT_BYTES,
            seconds=time.monotonic() - started,
            timed_out=not in_time,
        )
