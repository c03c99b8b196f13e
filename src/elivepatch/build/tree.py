# SPDX-License-Identifier: GPL-2.0-or-later
"""How make is called in a prepared tree."""

from __future__ import annotations

SECTION_FLAGS = "-I/tools/patch -ffunction-sections -fdata-sections -gz=none"
"""What kpatch compiles with: a section per function and per datum, and its helper macros within reach of patches."""

SOURCE_TOPS = "arch/x86 block certs crypto drivers fs init io_uring ipc kernel lib mm net security sound virt"
"""The directories of a tree that an x86 kernel is built from, besides include/; some kernels lack some."""


def make_arguments(cc: str, jobs: int) -> list[str]:
    """Return the start of a make command for a tree whose kernel was built by `cc`."""
    host = cc.removeprefix("x86_64-linux-gnu-")
    return ["make", f"-j{jobs}", f"CC={cc}", f"HOSTCC={host}"]
