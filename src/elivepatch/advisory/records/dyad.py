# SPDX-License-Identifier: GPL-2.0-or-later
"""The `.dyad` file of a record: the commits that introduced the bug and those that fix it, branch by branch."""

from __future__ import annotations

from elivepatch.advisory.exposure.version import BEGINNING, KernelVersion, listed_version
from elivepatch.advisory.records.record import COMMIT, FixCommit, Introduction

_LINES_MAX = 2_000
_UNKNOWN = "0"


def parse_dyad(text: str) -> tuple[Introduction, ...] | str:
    """Return the introductions in the order of the file, or one sentence with the reason that they cannot be used.

    The format is that of the kernel's CVE list (its tool `dyad`): comment lines start with `#`, every other line is
    `introducing version:introducing commit:fixing version:fixing commit`. `0:0` on the left is an unknown
    introduction, on the right a branch without a fix. Lines of one introducing commit belong together. A file with one
    bad line is not used at all: without that line the rest could mean the opposite.
    """
    groups: dict[tuple[KernelVersion, str], list[FixCommit]] = {}
    lines = text.splitlines()
    if len(lines) > _LINES_MAX:
        return f"Its ranges have more than {_LINES_MAX} lines."
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = line.strip().split(":")
        if len(fields) != 4:
            return f"Line {number} of its ranges has {len(fields)} fields instead of 4."
        ends = [_end(fields[0], fields[1]), _end(fields[2], fields[3])]
        for end in ends:
            if isinstance(end, str):
                return f"Line {number} of its ranges names {end}."
        introduced, fixed = (end for end in ends if not isinstance(end, str))
        fixes = groups.setdefault(introduced, [])
        if fixed[0] != BEGINNING:
            fixes.append(FixCommit(fixed[0], fixed[1]))
    if not groups:
        return "Its ranges are empty."
    return tuple(Introduction(version, commit, tuple(fixes)) for (version, commit), fixes in groups.items())


def _end(version: str, commit: str) -> tuple[KernelVersion, str] | str:
    """Return one side of a line, or the part of it that is impossible."""
    if version == _UNKNOWN and commit == _UNKNOWN:
        return BEGINNING, ""
    read = listed_version(version)
    if read is None:
        return f"{version[:40]!r}, a version the kernel never had"
    if not COMMIT.fullmatch(commit):
        return f"{commit[:60]!r}, which is not a commit id"
    return read, commit
