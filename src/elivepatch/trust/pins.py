# SPDX-License-Identifier: GPL-2.0-or-later
"""Keys of the servers that a host trusts: /etc/elivepatch/trusted.json, written when the host is enrolled."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from elivepatch.files.atomic import write_atomic
from elivepatch.model.errors import HostError, TrustError

_MAX_FILE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """A server's public key (64 hexadecimal digits), its URL, and the time of enrolment (UTC, ISO 8601)."""

    url: str
    public_key: str
    enrolled_at: str


def read_pins(path: Path) -> tuple[Pin, ...]:
    """Return the pinned keys, none if the file is missing.

    Raises TrustError if the file is malformed, or if other users than its owner can write to it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise TrustError(
            "trusted-unreadable",
            f"{path} cannot be read: {error.strerror}.",
            advice="Run the command as root; the file is a regular file, not a link.",
        ) from error
    with os.fdopen(descriptor, "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode) or mode & 0o022:
            raise TrustError(
                "trusted-exposed",
                f"{path} can be written by others than its owner.",
                advice=f"Check whose key is in it, then `chmod go-w {path}`, or remove it and enrol again.",
            )
        content = file.read(_MAX_FILE_BYTES + 1)
    try:
        read = json.loads(content.decode("utf-8"))
        pins = tuple(Pin(**item) for item in read["servers"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _malformed(path) from error
    if not all(isinstance(value, str) for pin in pins for value in asdict(pin).values()):
        raise _malformed(path)
    return pins


def write_pins(path: Path, pins: Sequence[Pin]) -> None:
    """Replace the file by one with `pins`, atomically; raises HostError if it cannot be written."""
    content = json.dumps({"servers": [asdict(pin) for pin in pins]}, indent=2).encode() + b"\n"
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_atomic(path, content)
    except OSError as error:
        raise HostError(
            "trusted-unwritable",
            f"{path} cannot be written: {error.strerror}.",
            advice="Run the command as root, on a file system that is not read-only.",
        ) from error


def _malformed(path: Path) -> TrustError:
    return TrustError(
        "trusted-malformed",
        f"{path} is not a list of trusted servers.",
        advice="Remove it and run `elivepatch enroll URL` again.",
    )
