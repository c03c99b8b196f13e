# SPDX-License-Identifier: GPL-2.0-or-later
"""Data that zstd has compressed: decompressed by the machine's program, which no toolchain root has."""

from __future__ import annotations

from elivepatch.build.sandbox.bubblewrap import unprivileged
from elivepatch.process import run

_MEMORY = "--memory=256MB"
_TIMEOUT_S = 120


def plain_zstd(data: bytes) -> bytes:
    """Return decompressed data; the program runs as an ordinary user with limits, and sees no file of the data's owner.

    Raises EnvironmentFault if the data are damaged.
    """
    done = run([*unprivileged(), "zstd", "-dcq", _MEMORY], stdin=data, cwd="/", timeout_s=_TIMEOUT_S)
    return done.check("Decompressing with zstd").output
