# SPDX-License-Identifier: GPL-2.0-or-later
"""Monitor of a running guest: reports its progress, and stops a guest that hangs or takes too long over one case.

The limits are those of a quiet machine, and grow with the time that the guest took to boot here. A guest that still
makes progress beyond its limit is not stopped at once: it is slow, and that says nothing about the livepatch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from elivepatch.model.progress import Event, Progress
from elivepatch.process import Cancellation
from elivepatch.trial.evidence.kernel_log import sign_of_life
from elivepatch.trial.guest_protocol import GUEST, heading
from elivepatch.trial.outside.watcher import RECORD

BOOT_S = 10.0
"""Seconds that an emulated guest takes to boot on a quiet machine, with a reserve."""

SYMBOL_S = 0.25
"""Seconds for each symbol of a livepatch: before 6.2, klp_find_object_symbol walks all of kallsyms for each."""

_PATIENCE = 4.0  # a guest that makes progress gets this many times its limit
_QUIET_S = 30.0  # a guest without a sign of progress for so long, on a quiet machine, hangs
_GAP_S = 12.0  # a sign of life comes every two seconds; after such a gap the machine was not there for the guest
_LOADING = frozenset(
    f"started.{turn}" for turn in range(4)
)  # the last record before the kernel resolves a livepatch's symbols

_STAGE_MESSAGES = {
    "ready": "the kernel is up",
    "begin": "observing the unpatched kernel",
    "log.before": "loading the livepatch",
    "load.1": "waiting for the transition",
    "settled.1": "observing the patched kernel",
    "disable.1": "disabling the livepatch",
    "log.during": "observing the kernel without the livepatch",
    "log.after": "unloading the livepatch, or waiting for what it has armed",
    "unload.1": "loading the livepatch again",
    "log.again": "loading its modules again",
    "log.reload": "disabling it again",
    "started.0": "loading an earlier livepatch",
    "started.3": "loading the livepatch over it",
}


@dataclass(slots=True)
class _Tail:
    """The lines that a growing file has got since the last look."""

    path: Path
    _offset: int = 0
    _rest: bytes = b""

    def new(self) -> list[bytes]:
        with self.path.open("rb") as file:
            file.seek(self._offset)
            read = file.read()
        self._offset += len(read)
        *lines, self._rest = (self._rest + read).split(b"\n")
        return lines


@dataclass(slots=True)
class GuestMonitor:
    """Monitor of one guest. `timeout_s` is the limit of a case, with the boot before the first one, on a quiet machine.

    `symbols` is the number of symbols that each case's livepatch has, by scope; `workload_s` is the time of a workload
    beyond `timeout_s`, and `allowance_s` that of predicates, by scope. `arrivals` are the seconds after which each
    record arrived first. `look` is called with scope and phase when the guest waits to be looked at; it returns
    False if the guest cannot go on.
    """

    results: Path
    console: Path
    timeout_s: float
    cancellation: Cancellation | None
    progress: Progress
    total: int
    symbols: Mapping[str, int] = field(default_factory=dict)
    workload_s: float = 0.0
    allowance_s: Mapping[str, float] = field(default_factory=dict)
    look: Callable[[str, str], bool] | None = None
    stop: Cancellation = field(default_factory=Cancellation.new)
    boot_s: float | None = None
    arrivals: dict[tuple[str, str], float] = field(default_factory=dict)
    _progress_at: float = 0.0
    _case_since: float = 0.0
    _scope: str = ""
    _last: str = ""
    _alive_at: float | None = None
    _alive: tuple[float, float] | None = None
    _gaps: dict[str, float] = field(default_factory=dict)
    _times: dict[str, tuple[float, float]] = field(default_factory=dict)
    _tails: dict[Path, _Tail] = field(default_factory=dict)

    def tick(self, passed_s: float) -> None:
        """Read the new records and signs of life; called about ten times a second."""
        for line in self._new(self.results):
            found = heading(line)
            if found is not None:
                self._record(*found, passed_s)
        for line in self._new(self.console):
            if self.boot_s is None:
                self._progress_at = passed_s  # a kernel that prints still boots
            if seen := sign_of_life(line.decode(errors="replace")):
                self._sign(seen, passed_s)
        cancelled = self.cancellation is not None and self.cancellation.event.is_set()
        if cancelled or self._too_long(passed_s):
            self.stop.event.set()

    def seconds(self, scope: str) -> float:
        """Return the seconds that a case took; those of the first case include the boot."""
        started, ended = self._times.get(scope, (0.0, 0.0))
        return round(ended - started, 2)

    def limit_s(self, scope: str) -> float:
        """Return the time limit of a case on this machine."""
        more_s = 2 * SYMBOL_S * self.symbols.get(scope, 0) + self.allowance_s.get(scope, 0.0)
        return (self.timeout_s + self.workload_s + more_s) * self.factor

    @property
    def factor(self) -> float:
        """Return how many times slower than a quiet machine this one booted the guest, at least 1."""
        return max(1.0, (self.boot_s or 0.0) / BOOT_S)

    def starved(self, scope: str) -> bool:
        """Return whether the machine was too busy to run the guest at a normal pace, at the boot or in this case."""
        return self.factor >= 3 or self._gaps.get(scope, 0.0) > _GAP_S

    def makes_progress(self, passed_s: float) -> bool:
        """Return whether the guest has shown progress lately."""
        return passed_s - self._progress_at <= min(_QUIET_S, self.timeout_s / 4) * self.factor

    def _too_long(self, passed_s: float) -> bool:
        limit = self.limit_s(self._scope)
        taken = passed_s - self._case_since
        return taken > limit and (not self.makes_progress(passed_s) or taken > _PATIENCE * limit)

    def _record(self, scope: str, key: str, passed_s: float) -> None:
        self._progress_at, self._last = passed_s, key
        self.arrivals.setdefault((scope, key), passed_s)
        if scope == GUEST and key == "ready":
            self.boot_s = passed_s
        if key == "begin" and scope != GUEST:
            self._case_since, self._scope = passed_s if self._times else 0.0, scope
            self._times[scope] = (self._case_since, passed_s)
        elif scope in self._times:
            self._times[scope] = (self._times[scope][0], passed_s)
        if self.look is not None and key.startswith(RECORD) and not self.look(scope, key.removeprefix(RECORD)):
            self.stop.event.set()
        if key in _STAGE_MESSAGES:
            self.progress(self._event(scope, _STAGE_MESSAGES[key]))

    def _sign(self, seen: tuple[float, float], passed_s: float) -> None:
        """Note a sign of life: a guest that computes while it loads a livepatch resolves the livepatch's symbols."""
        if self._alive is not None and self._alive_at is not None:
            uptime_s, busy_s = (now - before for now, before in zip(seen, self._alive, strict=True))
            if self._last in _LOADING and uptime_s > 0 and busy_s >= uptime_s / 2:
                self._progress_at = passed_s
            self._gaps[self._scope] = max(self._gaps.get(self._scope, 0.0), passed_s - self._alive_at)
        self._alive, self._alive_at = seen, passed_s

    def _new(self, path: Path) -> Iterator[bytes]:
        yield from self._tails.setdefault(path, _Tail(path)).new()

    def _event(self, scope: str, message: str) -> Event:
        if scope == GUEST or self.total == 1:
            return Event(stage="trial", message=message)
        number = int(scope)
        return Event(stage="trial", message=f"{number + 1} of {self.total}: {message}", fraction=number / self.total)
