# SPDX-License-Identifier: GPL-2.0-or-later
"""Fault of a build directory that does not show what became of each source."""

from __future__ import annotations

from elivepatch.model.errors import EnvironmentFault

_ADVICE = (
    "Give the directory as the build of exactly this kernel left it, not cleaned and not built again; or build the "
    "kernel with debug information (CONFIG_DEBUG_INFO_DWARF5)."
)


def kbuild_fault(message: str, *, excerpt: str = "") -> EnvironmentFault:
    """Return the fault with the code `kbuild-files`."""
    return EnvironmentFault("kbuild-files", message, advice=_ADVICE, excerpt=excerpt)
