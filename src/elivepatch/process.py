# SPDX-License-Identifier: GPL-2.0-or-later
"""The one door to other programs: `run` waits for a program's end, `PipedProcess` runs beside this one.

A program gets an argument list, an environment made from nothing and an explicit working directory. Its output goes to
a file and not to a pipe, so that no output, however large, blocks it or fills our memory. The time limit counts on the
monotonic clock. The whole process group is ended when the program ends or its time is over.
"""

from __future__ import annotations

import ctypes
import errno
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
_LOG_HALF_BYTES = 2 << 20
_CHUNK_BYTES = 256 << 10
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """Result of a program that has ended.

    `status` is its exit status, or minus the signal that ended it. `output` is stdout and `log` is stderr, both bytes;
    both are empty if the caller gave a file for them. `truncated` is True if stdout had more than is kept. Of a long
    `log`, the first and the last 2 MiB are kept.
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
        """True if the program ended with status 0 and in time, and all of its output is here."""
        return self.status == 0 and not self.timed_out and not self.truncated

    @property
    def text(self) -> str:
        """Standard output, decoded."""
        return self.output.decode(errors="replace")

    def tail(self, lines: int = 20) -> str:
        """Return the last `lines` lines of the output, stderr last."""
        both = (self.output[-_TAIL_BYTES:] + self.log[-_TAIL_BYTES:]).decode(errors="replace")
        return "\n".join(both.rstrip().splitlines()[-lines:])

    def check(self, doing: str) -> Completed:
        """Return self; raises EnvironmentFault if the program failed. `doing` completes the sentence `... failed`."""
        if self.ok:
            return self
        how = f"ended with status {self.status}"
        if self.timed_out or self.truncated:
            how = "exceeded its time limit" if self.timed_out else "printed more than is kept of its output"
        raise EnvironmentFault(
            "program-failed",
            f"{doing} failed: {Path(self.argv[0]).name} {how}.",
            advice=f"Run it by hand to see more: {shlex.join(self.argv)}",
            excerpt=self.tail(),
        )


@dataclass(frozen=True, slots=True)
class Cancellation:
    """Switch with which another thread ends the programs of a job; all steps of the job share it."""

    event: threading.Event

    @classmethod
    def new(cls) -> Cancellation:
        """Return a new one, not cancelled."""
        return cls(threading.Event())


class PipedProcess:
    """A program that runs beside this process and exchanges lines with it through its standard input and output.

    It shares our standard error. It leads a process group of its own, as programs of `run` do. Only one thread may use
    an object of this class at a time.
    """

    def __init__(self, argv: Sequence[str | os.PathLike[str]], *, cwd: Path | str, env: Mapping[str, str]) -> None:
        """Start the program with exactly the environment `env`; raises EnvironmentFault if it cannot be started."""
        arguments = tuple(os.fspath(argument) for argument in argv)
        given, self._input = os.pipe()
        self._output, printed = os.pipe()
        try:
            self._process = subprocess.Popen(
                arguments, cwd=cwd, env=dict(env), stdin=given, stdout=printed, start_new_session=True
            )
        except OSError as error:
            os.close(self._input)
            os.close(self._output)
            raise _not_started(arguments[0], error) from error
        finally:
            os.close(given)
            os.close(printed)
        os.set_blocking(self._input, False)
        self._closed = False
        self._received = bytearray()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status, or minus the signal that ended the program; None while it runs."""
        return self._process.poll()

    def send(self, data: bytes, *, timeout_s: float) -> None:
        """Write all of `data`; raises OSError if the program has closed its input or does not read in time."""
        deadline = time.monotonic() + timeout_s
        left = memoryview(data)
        while left:
            if not _ready(self._input, select.POLLOUT, deadline):
                raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
            left = left[os.write(self._input, left) :]

    def receive(self, *, timeout_s: float, limit_bytes: int) -> bytes | None:
        """Return the next line with its end, None if there is none within `timeout_s`, b"" if the output has ended.

        Raises ValueError for a line longer than `limit_bytes`.
        """
        deadline = time.monotonic() + timeout_s
        looked = 0
        while (end := self._received.find(b"\n", looked)) < 0:
            looked = len(self._received)
            if looked > limit_bytes:
                message = f"a line of more than {limit_bytes} bytes"
                raise ValueError(message)
            if not _ready(self._output, select.POLLIN, deadline):
                return None
            chunk = os.read(self._output, _CHUNK_BYTES)
            if not chunk:
                return b""
            self._received += chunk
        line = bytes(self._received[: end + 1])
        del self._received[: end + 1]
        return line

    def resident_bytes(self) -> int:
        """Return the memory that the program itself has (VmRSS); 0 after its end."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except (OSError, IndexError):
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")

    def end(self, *, grace_s: float = 0.0) -> int:
        """Close its input, wait `grace_s` for its end, then kill its process group; return how it ended (`status`)."""
        if not self._closed:
            self._closed = True
            os.close(self._input)
            os.close(self._output)
        try:
            return self._process.wait(timeout=grace_s)
        except subprocess.TimeoutExpired:
            _end_group(self._process, grace_s=_GRACE_S, numbers=(signal.SIGKILL,))
            return self._process.wait()


def _ready(descriptor: int, events: int, deadline: float) -> bool:
    # Not select(): a server has descriptors above 1024.
    poller = select.poll()
    poller.register(descriptor, events)
    return bool(poller.poll(max(0.0, deadline - time.monotonic()) * 1000))


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends, `parent` being that thread's process.

    Only for a process of our own that is started by a thread which lives as long as its process (prctl(2),
    PR_SET_PDEATHSIG). Ends this process at once if the parent has ended already.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _end_group(
    process: subprocess.Popen[bytes],
    *,
    grace_s: float,
    numbers: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGKILL),
) -> None:
    """End the whole process group by the signals in turn. Descendants end too, even after the leader."""
    for number in numbers:
        try:
            os.killpg(process.pid, number)
        except (ProcessLookupError, PermissionError):
            return
        deadline = time.monotonic() + grace_s
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)


def _wait(
    process: subprocess.Popen[bytes],
    deadline: float,
    on_tick: Callable[[float], None] | None,
    cancellation: Cancellation | None,
) -> bool:
    """Wait for the program; return False if the deadline passed or the job was cancelled first.

    It waits on a pidfd: Popen.wait with a time limit looks only every 50 ms, which adds up over the ten programs of a
    build.
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
    """Yield the file that the program reads as standard input."""
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


def _beginning(file: IO[bytes], limit_bytes: int) -> bytes:
    file.seek(0)
    return file.read(limit_bytes)


def _both_ends(file: IO[bytes]) -> bytes:
    """Return a log: the first errors name the cause, the last lines how it ended."""
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    if size <= 2 * _LOG_HALF_BYTES:
        return file.read(2 * _LOG_HALF_BYTES)
    first = file.read(_LOG_HALF_BYTES)
    file.seek(size - _LOG_HALF_BYTES)
    left_out = f"\n[{size - 2 * _LOG_HALF_BYTES} bytes are left out here]\n".encode()
    return b"".join((first, left_out, file.read(_LOG_HALF_BYTES)))


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    cwd: Path | str = "/",
    env: Mapping[str, str] | None = None,
    stdin: bytes | Path | None = None,
    timeout_s: float = 600.0,
    pass_fds: Sequence[int] = (),
    log_to: IO[bytes] | None = None,
    printed_to: IO[bytes] | None = None,
    on_tick: Callable[[float], None] | None = None,
    cancellation: Cancellation | None = None,
    output_limit_bytes: int = _OUTPUT_LIMIT_BYTES,
) -> Completed:
    """Run one program to its end and return its result; a failed program is a result, not an exception.

    `env` is added to a minimal environment (PATH, LANG). With `log_to`, both outputs go to that open file and
    `Completed.output` stays empty; with `printed_to`, stdout goes to that one, which may be a pipe. At most
    `output_limit_bytes` of stdout are kept. `on_tick` is called about ten times a second with the seconds passed.
    Raises EnvironmentFault if the program does not exist or cannot be started.
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
                stdin=source, stdout=printed_to or log_to or output, stderr=log_to or errors,
                start_new_session=True,
                pass_fds=pass_fds,
            )  # fmt: skip
        except OSError as error:
            raise _not_started(arguments[0], error) from error
        try:
            in_time = _wait(process, started + timeout_s, on_tick, cancellation)
        finally:
            _end_group(process, grace_s=_GRACE_S)
            process.wait()
        return Completed(
            argv=arguments,
            status=process.returncode,
            output=_beginning(output, output_limit_bytes),
            log=_both_ends(errors),
            truncated=os.fstat(output.fileno()).st_size > output_limit_bytes,
            seconds=time.monotonic() - started,
            timed_out=not in_time,
        )
