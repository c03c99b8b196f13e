# SPDX-License-Identifier: GPL-2.0-or-later
"""Trouble in a kernel's log: lines that a livepatch must never cause."""

from __future__ import annotations

import re

_TROUBLE = re.compile(
    r"""
      \bBUG[:\s]                                   # lib/bug.c, mm/slub.c, KASAN, KFENCE, soft lockup, atomic sleep
    | \bkernel\ BUG\ at\b
    | \bWARNING:\s
    | \bOops[:\s]
    | \bKernel\ panic\b
    | :\ [0-9a-f]{4}\ \[\#[0-9]+\]                   # head line of every exception that kills: `what: code [#count]`
    | \bPANIC:\s
    | \bUBSAN:\s
    | \bCFI\ failure\b
    | \bMissing\ ENDBR\b
    | \brcu.*\bdetected\ (?:expedited\ )?stalls?\b
    | \brcu.*\bself-detected\ stall\b
    | \brcu.*\bkthread\ starved\b
    | \btask\ .*\ blocked\ (?:in\ .*\ )?for\ more\ than\b
    | \bwatchdog:.*\b(?:lockup|LOCKUP)\b
    | \brefcount_t:\s
    | \blist_(?:add|del)\ corruption\b
    | \bCall\ Trace:                               # the cause may be anything: the kernel printed a trace for it
    """,
    re.VERBOSE,
)
_LEVEL = re.compile(r"<(\d{1,4})>")
_TIME = re.compile(r"^\[\s*[0-9]+\.[0-9]+\]\s*(?:\[\s*[TC][0-9]+\]\s*)?")
# The module loader begins its lines with the module's name, and a module may be called `livepatch`.
_LIVEPATCH = re.compile(r"\blivepatch:\s(?!loading out-of-tree module)")
_ALIVE = re.compile(r"elivepatch: alive ([0-9]{1,9}\.[0-9]{1,3}) ([0-9]{1,15})\s*$")
_WARNING_LEVEL = 4
_EXCERPT_LINES = 40
_LINE_LIMIT = 400


def trouble(log: str, *, complaints: bool = True) -> str:
    """Return the lines of `log` that show trouble, at most 40 from the first one on; empty for a clean log.

    Trouble is an oops, a BUG, a WARN, a stall, a lockup or a hung task. Unless `complaints` is False, it is also a
    message of the livepatch core at the level of a warning or above; for that, the log needs the levels that
    `dmesg -r` prints (`<4>`), which the excerpt leaves out. The patterns follow kernel/panic.c,
    kernel/rcu/tree_stall.h, kernel/hung_task.c, kernel/watchdog.c and arch/x86.
    """
    lines = _lines(log)
    for number, line in enumerate(lines):
        text = line[:_LINE_LIMIT]
        if _TROUBLE.search(text) or (complaints and _complaint(text)):
            return "\n".join(_plain(each) for each in lines[number : number + _EXCERPT_LINES])
    return ""


def tail(log: str, lines: int = 12) -> str:
    """Return the last lines of a log without their levels."""
    return "\n".join(_plain(line) for line in _lines(log)[-lines:])


def sign_of_life(line: str) -> tuple[float, float] | None:
    """Return the seconds that a guest has been up and that its processors were busy, None if the line is no such sign.

    init.sh writes one every two seconds of the guest's time.
    """
    found = _ALIVE.search(line[:_LINE_LIMIT])
    return (float(found[1]), int(found[2]) / 100) if found else None


def _lines(log: str) -> list[str]:
    """Return the lines of a log without the signs of life, which explain nothing."""
    return [line for line in log.splitlines() if "elivepatch: alive " not in line]


def headline(excerpt: str) -> str:
    """Return the first line of an excerpt without its time, short enough for a sentence."""
    first = excerpt.splitlines()[0] if excerpt else ""
    return _TIME.sub("", first).strip(" .")[:160]


def _complaint(line: str) -> bool:
    level = _LEVEL.match(line)
    return bool(level and int(level[1]) & 7 <= _WARNING_LEVEL and _LIVEPATCH.search(line))


def _plain(line: str) -> str:
    return _LEVEL.sub("", line, count=1)[:_LINE_LIMIT] if line.startswith("<") else line[:_LINE_LIMIT]
