# SPDX-License-Identifier: GPL-2.0-or-later
"""How make is called in a prepared tree."""

from __future__ import annotations

SECTION_FLAGS = "-I/tools/patch -ffunction-sections -fdata-sections -gz=none"
"""What kpatch compiles with: a section per function and per datum, and its helper macros within reach of patches."""


def make_arguments(cc: str, jobs: int) -> list[str]:
    """Return the start of a make command for a tree whose kernel was built by `cc`."""
    host = cc.removeprefix("x86_64-linux-gnu-")
    return ["make", f"-j{jobs}", f"CC={cc}", f"HOSTCC={host}"]
