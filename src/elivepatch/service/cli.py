# SPDX-License-Identifier: GPL-2.0-or-later
"""The `elivepatch-server` command."""

from __future__ import annotations

import os
from collections.abc import Sequence

from elivepatch import commandline
from elivepatch.service import commands

# The sandbox's user reads the files below the cache: packages, toolchains, bases, a job's inputs. Private files and
# directories, such as the state directory, are created with a mode of their own.
_UMASK = 0o022


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status (docs/exit-status.md)."""
    os.umask(_UMASK)
    return commandline.run("elivepatch-server", "Build livepatches and try them in a VM.", commands, argv)
