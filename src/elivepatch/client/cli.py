# SPDX-License-Identifier: GPL-2.0-or-later
"""The `elivepatch` command."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from elivepatch.client.host.signals import Signals

_OWN_OPTIONS = {"-h", "--help", "-v", "--version"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status (docs/exit-status.md).

    A command line that begins with an option that is not ours is one of the client of 2019. Without `argv` this
    process is the command and ends with it.
    """
    with Signals(process_ends=argv is None) as signals:
        argv = sys.argv[1:] if argv is None else argv
        if argv and argv[0].startswith("-") and argv[0] not in _OWN_OPTIONS:
            from elivepatch.client.commands import legacy

            return legacy.run(argv, lambda new: _run(new, signals.begin), release=os.uname().release)
        return _run(argv, signals.begin)


def _run(argv: Sequence[str], begin: Callable[[], None]) -> int:
    # Not before the signals are handled: these imports are most of the start.
    from elivepatch import commandline
    from elivepatch.client import commands

    return commandline.run("elivepatch", "Change a running Linux kernel without a reboot.", commands, argv, begin=begin)
