# SPDX-License-Identifier: GPL-2.0-or-later
"""The `elivepatch` command."""

from __future__ import annotations

from collections.abc import Sequence

from elivepatch import commandline
from elivepatch.client import commands
from elivepatch.commandline import Command

__all__ = ["Command", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status (docs/exit-status.md)."""
    return commandline.run("elivepatch", "Change a running Linux kernel without a reboot.", commands, argv)
