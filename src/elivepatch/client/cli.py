# SPDX-License-Identifier: GPL-2.0-or-later
"""The `elivepatch` command."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from elivepatch import commandline
from elivepatch.client import commands
from elivepatch.client.host.interruption import like_ctrl_c
from elivepatch.commandline import Command

__all__ = ["Command", "main"]

_OWN_OPTIONS = {"-h", "--help", "-v", "--version"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status (docs/exit-status.md).

    A command line that begins with another option than our own is that of the client of 2019.
    """
    argv = sys.argv[1:] if argv is None else argv
    with like_ctrl_c():
        return _told(argv)


def _told(argv: Sequence[str]) -> int:
    if argv and argv[0].startswith("-") and argv[0] not in _OWN_OPTIONS:
        from elivepatch.client import legacy

        return legacy.run(argv, _run, release=os.uname().release)
    return _run(argv)


def _run(argv: Sequence[str]) -> int:
    return commandline.run("elivepatch", "Change a running Linux kernel without a reboot.", commands, argv)
