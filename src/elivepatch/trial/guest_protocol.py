# SPDX-License-Identifier: GPL-2.0-or-later
"""Parser of the guest's records: lines of SCOPE KEY BASE64 that init.sh writes.

The guest runs a kernel with a stranger's code in it, so any bytes may arrive. A line that is not a whole, well-formed
record is counted and dropped; a missing record is None.
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
    """Result of one step of the scenario: its exit status and its output."""

    status: int
    words: str

    @property
    def ok(self) -> bool:
        """True if the step succeeded."""
        return self.status == 0


@dataclass(frozen=True, slots=True)
class Records:
    """All records of the guest, the first one of each name, in the order of their arrival.

    `malformed` counts the lines that are not records, `repeated` has the names that came again.
    """

    values: dict[tuple[str, str], bytes]
    malformed: int
    repeated: tuple[tuple[str, str], ...] = ()

    def has(self, scope: str, key: str) -> bool:
        """Return True if this record arrived."""
        return (scope, key) in self.values

    def text(self, scope: str, key: str) -> str:
        """Return a record as text, empty if it is missing."""
        return self.values.get((scope, key), b"").decode(errors="replace")

    def step(self, scope: str, key: str) -> Step | None:
        """Return a record that begins with an exit status, None if it is missing or begins otherwise."""
        status, _newline, words = self.values.get((scope, key), b"").partition(b"\n")
        if not _STATUS.fullmatch(status):
            return None
        return Step(int(status), words[:OBSERVATION_LIMIT_BYTES].decode(errors="replace"))

    def ok(self, scope: str, key: str) -> bool:
        """Return True if the record of a step arrived and the step succeeded."""
        step = self.step(scope, key)
        return step is not None and step.ok

    def failed(self, scope: str, key: str) -> Step | None:
        """Return a step whose record arrived and that failed, None otherwise."""
        step = self.step(scope, key)
        return None if step is None or step.ok else step

    def clock_s(self, scope: str, key: str) -> float | None:
        """Return a record with the guest's uptime in seconds, None if it is missing or not a number."""
        value = self.values.get((scope, key), b"")
        return float(value) if _CLOCK.fullmatch(value) else None

    @property
    def build_id(self) -> str:
        """The build-id in the guest's /sys/kernel/notes, empty if it has none."""
        return build_id_of_notes(self.values.get((GUEST, "notes"), b""))

    @property
    def release(self) -> str:
        """The guest's `uname -r`."""
        return self.text(GUEST, "release").strip()


def parse(raw: bytes) -> Records:
    """Parse all bytes from the second serial port. A last line without an end was cut off and is dropped."""
    values: dict[tuple[str, str], bytes] = {}
    malformed, repeated = 0, dict[tuple[str, str], None]()
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
        name = (found[1].decode(), found[2].decode())
        if name in values:
            repeated[name] = None
        else:
            values[name] = content
    return Records(values, malformed + bool(lines[-1]), tuple(repeated))


def heading(line: bytes) -> tuple[str, str] | None:
    """Return scope and key of one line, None if it is not a record; for progress while the guest still runs."""
    found = _LINE.fullmatch(line)
    return (found[1].decode(), found[2].decode()) if found else None
