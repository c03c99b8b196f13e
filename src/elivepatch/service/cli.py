# SPDX-License-Identifier: GPL-2.0-or-later
"""The `elivepatch-server` command."""

from __future__ import annotations

import os
from collections.abc import Sequence

from elivepatch import commandline
from elivepatch.service import commands

# The sandbox's user reads what is made below the cache: packages, toolchains, bases, a job's inputs. What is private,
# the state directory first of all, is made so by its own mode.
_UMASK = 0o022


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status (docs/exit-status.md)."""
    os.umask(_UMASK)
    return commandline.run("elivepatch-server", "Build livepatches and try them in a VM.", commands, argv)
