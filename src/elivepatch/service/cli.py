# SPDX-License-Identifier: GPL-2.0-or-later
"""The `elivepatch-server` command."""

from __future__ import annotations

from collections.abc import Sequence

from elivepatch import commandline
from elivepatch.service import commands


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status (docs/exit-status.md)."""
    return commandline.run("elivepatch-server", "Build livepatches and try them in a VM.", commands, argv)
