# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading what the guest said: lines of SCOPE KEY BASE64, written by init.sh.

The other end is a kernel with foreign code in it, so anything may stand here: what is not a whole, well-formed record
is counted and dropped, what is missing is None.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

from elivepatch.kernel.elf import build_id_of_notes

GUEST = "-"
_LINE = re.compile(rb"([0-9]{3,6}|-) ([a-z]+(?:-[a-z]+)?(?:\.[A-Za-z0-9_]{1,60})?) ([A-Za-z0-9+/]*={0,2})\r?")
_CLOCK = re.compile(rb"[0-9]{1,9}\.[0-9]{1,3}")
_STATUS = re.compile(rb"[0-9]{1,3}")

OBSERVATION_LIMIT_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Step:
    """How a step of the scenario ended: its exit status and its words."""

    status: int
    words: str

    @property
    def ok(self) -> bool:
        """Whether the step succeeded."""
        return self.status == 0


@dataclass(frozen=True, slots=True)
class Records:
    """Everything the guest said, the first record of each name. `malformed` counts the lines that say nothing."""

    values: dict[tuple[str, str], bytes]
    malformed: int

    def has(self, scope: str, key: str) -> bool:
        """Whether this record came."""
        return (scope, key) in self.values

    def text(self, scope: str, key: str) -> str:
        """Return a record as text, empty where it did not come."""
        return self.values.get((scope, key), b"").decode(errors="replace")

    def step(self, scope: str, key: str) -> Step | None:
        """Return a record that begins with an exit status, None where it did not come or is none."""
        status, _newline, words = self.values.get((scope, key), b"").partition(b"\n")
        if not _STATUS.fullmatch(status):
            return None
        return Step(int(status), words[:OBSERVATION_LIMIT_BYTES].decode(errors="replace"))

    def clock_s(self, scope: str, key: str) -> float | None:
        """Return a record that holds the guest's uptime in seconds, None where it did not come or is none."""
        value = self.values.get((scope, key), b"")
        return float(value) if _CLOCK.fullmatch(value) else None

    @property
    def build_id(self) -> str:
        """The build-id in the guest's /sys/kernel/notes, empty where there is none."""
        return build_id_of_notes(self.values.get((GUEST, "notes"), b""))

    @property
    def release(self) -> str:
        """The guest's `uname -r`."""
        return self.text(GUEST, "release").strip()


def parse(raw: bytes) -> Records:
    """Read the whole of what came over the second serial port. A last line without its end was cut off: dropped."""
    values: dict[tuple[str, str], bytes] = {}
    malformed = 0
    lines = raw.split(b"\n")
    for line in lines[:-1]:
        found = _LINE.fullmatch(line)
        try:
            content = base64.b64decode(found[3], validate=True) if found else None
        except binascii.Error:
            content = None
        if found is None or content is None:
            malformed += 1
            continue
        values.setdefault((found[1].decode(), found[2].decode()), content)
    return Records(values, malformed + bool(lines[-1]))


def heading(line: bytes) -> tuple[str, str] | None:
    """Return scope and key of one line, None where it is no record; for watching while the guest still runs."""
    found = _LINE.fullmatch(line)
    return (found[1].decode(), found[2].decode()) if found else None
