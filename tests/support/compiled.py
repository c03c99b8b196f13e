# SPDX-License-Identifier: GPL-2.0-or-later
"""Objects that the host's gcc compiles as the kernel's are compiled for create-diff-object."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from elivepatch.build.account.account import Account, take_account
from elivepatch.process import run

SIZES = {"BUG_STRUCT_SIZE": 12, "EX_STRUCT_SIZE": 12, "JUMP_STRUCT_SIZE": 16, "ALT_STRUCT_SIZE": 14,
         "STATIC_CALL_STRUCT_SIZE": 8}  # fmt: skip
"""Sizes of the entries of the kernel's tables, as 6.12 has them."""

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
_FLAGS = ("-O2", "-ffunction-sections", "-fdata-sections", "-mcmodel=kernel", "-fno-pic", "-fno-jump-tables",
          "-ftree-switch-conversion", "-fno-asynchronous-unwind-tables", "-fcf-protection=none", "-w")  # fmt: skip


def compiled(place: Path, text: str, *flags: str) -> Path:
    """Write C source beside `place`, compile it to `place` and return that."""
    source = place.with_suffix(".c")
    source.write_text(text, encoding="utf-8")
    run(["gcc", *_FLAGS, *flags, "-c", "-o", place, source]).check("Compiling a test's source")
    return place


def accounted(place: Path, before: str, after: str, *flags: str) -> Account:
    """Return the account of the objects that two texts of one source make."""
    one, other = (compiled(place / f"{name}.o", text, *flags) for name, text in (("before", before), ("after", after)))
    return take_account(one, other, SIZES)
