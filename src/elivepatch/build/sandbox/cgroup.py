# SPDX-License-Identifier: GPL-2.0-or-later
"""Control group of this process: it bounds the memory of all programs of a build together, and their number.

rlimits bound each program or all of one user, and a build may start hundreds beside those of another server. Jobs run
one after the other in a process, so one group bounds a job. Both versions of the interface are supported:
Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst and cgroup-v1/pids.rst.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

PROCESSES = 1024
"""Processes and threads of a group; the sandbox has a limit of its own, and two run at once while a base is made."""

_PREFIX = "elivepatch-"
# The rest is for the server and the machine's other work.
_SHARE = 0.75
_PROCESSES, _PROCESS_LIMIT = "cgroup.procs", "pids.max"
_ENDING_S = 5.0
_NOT_ENTERED = "cgroup: the control group of the build cannot be entered"
_ENTER = f"""
while [ "$1" != -- ]; do
    {{ echo 0 >"$1"; }} 2>/dev/null || {{ echo "{_NOT_ENTERED}" >&2; exit 125; }}
    shift
done
shift
exec "$@"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A control group in `directory`; `version` is that of the interface, `limit` the memory in bytes.

    `counted` is the directory in which its processes are counted, None if the machine does not do that.
    """

    directory: Path
    version: int
    limit: int
    counted: Path | None = None

    def entering(self) -> list[str]:
        """Return the prefix of a command that runs in the group.

        The prefix is a program that enters the group itself and then executes the command: nothing that the command
        starts can be outside.
        """
        return ["sh", "-c", _ENTER, "sh", *(str(place / _PROCESSES) for place in self._places), "--"]

    @property
    def _places(self) -> list[Path]:
        return sorted({self.directory, self.counted or self.directory})

    def ended(self) -> int:
        """Return how many programs of the group the kernel has killed because the memory was used up."""
        file = self.directory / ("memory.events" if self.version == 2 else "memory.oom_control")
        found = re.search(r"^oom_kill (\d+)$", file.read_text(), re.MULTILINE)
        return int(found[1]) if found is not None else 0

    def make(self) -> None:
        """Make the group with its limits, or set these again; raises OSError if that fails."""
        for place in self._places:
            place.mkdir(exist_ok=True)
        if self.counted is not None:
            (self.counted / _PROCESS_LIMIT).write_text(str(PROCESSES))
        memory, with_swap, swap = _LIMITS[self.version]
        (self.directory / memory).write_text(str(self.limit))
        # The file exists only if the kernel counts swap.
        if (self.directory / with_swap).exists():
            (self.directory / with_swap).write_text(str(swap if swap is not None else self.limit))

    def remove(self) -> None:
        """Remove the group; `make` makes it again. Raises OSError if a program in it does not end within seconds."""
        # A killed program stays in its group until the kernel has freed its memory.
        deadline = time.monotonic() + _ENDING_S
        while not all(_removed(place) for place in self._places):
            if time.monotonic() > deadline:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(self.directory))
            time.sleep(0.02)


# The file of the limit, the file of the limit that counts swap, and the value of the latter if it is not the limit.
_LIMITS: dict[int, tuple[str, str, int | None]] = {
    1: ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", None),
    2: ("memory.max", "memory.swap.max", 0),
}


@cache
def own_group() -> Group | None:
    """Make and return the group for the builds of this process; None if this process can make none.

    It stays until the process ends; a later process removes it (`sweep`).
    """
    name = f"{_PREFIX}{os.getpid()}"
    for version, parent in _parents("memory"):
        found = Group(directory=parent / name, version=version, limit=_limit_bytes())
        try:
            if version == 2:
                delegate_memory(parent)
            sweep(parent)
            found.make()
        except OSError:
            continue
        counting = [parent] if version == 2 else [place for other, place in _parents("pids") if other == 1]
        return next(filter(None, (_counted(found, place) for place in counting)), found)
    return None


def _counted(group: Group, parent: Path) -> Group | None:
    """Return a group whose processes are counted in a group below `parent` too; None if they cannot be."""
    counted = replace(group, counted=parent / group.directory.name)
    try:
        sweep(parent)
        counted.make()
    except OSError:
        return None
    return counted


def sweep(parent: Path) -> None:
    """Remove the groups of processes that have ended, except those whose programs are still ending."""
    for left in parent.glob(f"{_PREFIX}*"):
        number = left.name.removeprefix(_PREFIX)
        if number.isdecimal() and not Path("/proc", number).exists():
            _removed(left)


def _removed(directory: Path) -> bool:
    """Remove a group and return True; return False if a program is still in it."""
    try:
        directory.rmdir()
    except FileNotFoundError:
        return True  # another server that is starting has removed it
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def _limit_bytes() -> int:
    return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * _SHARE)


def _parents(controller: str) -> Iterator[tuple[int, Path]]:
    """Yield the groups in which ours may be made, best first: the process's own, then those above it."""
    own = {kind: Path(path) for _, kind, path in (line.split(":", 2) for line in _lines("/proc/self/cgroup"))}
    # The fields before the dash are a mount's, those behind it its file system's (proc_pid_mountinfo(5)).
    mounts = [line.split() for line in _lines("/proc/self/mountinfo")]
    for fields in mounts:
        kind, options = fields[fields.index("-") + 1], fields[-1].split(",")
        if kind == "cgroup" and controller in options:
            version, path = 1, next((path for kinds, path in own.items() if controller in kinds.split(",")), Path("/"))
        elif kind == "cgroup2":
            version, path = 2, own.get("", Path("/"))
        else:
            continue
        # A container may see the upper part of its own path cut off.
        here = Path(fields[4], *path.relative_to("/").parts)
        top = Path(fields[4])
        for place in (here, *here.parents):
            if place.is_relative_to(top) and place.is_dir():
                yield version, place


def _lines(file: str) -> list[str]:
    return Path(file).read_text().splitlines()


def delegate_memory(parent: Path) -> None:
    """Enable the controller of memory for groups below `parent`, and that of processes if `parent` has it.

    Raises OSError if memory cannot be controlled.

    A group with processes cannot delegate controllers, so a process that is alone in its group moves into a group
    below. systemd's Delegate= is meant for that. Other groups are left unchanged.
    """
    control = parent / "cgroup.subtree_control"
    if "memory" in control.read_text().split():
        return
    # Moving would be useless if version 1 controls memory, or if the group above does not delegate it.
    available = (parent / "cgroup.controllers").read_text().split()
    if "memory" not in available or _lines(str(parent / _PROCESSES)) != [str(os.getpid())]:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
    below = parent / "server"
    below.mkdir(exist_ok=True)
    (below / _PROCESSES).write_text(str(os.getpid()))
    control.write_text("+memory +pids" if "pids" in available else "+memory")
