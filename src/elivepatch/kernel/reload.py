# SPDX-License-Identifier: GPL-2.0-or-later
"""Modules that a kernel refuses to load a second time while a livepatch of them is live.

A livepatch's relocations for a module are applied when both are there. When the module goes, the kernel should take
them back (clear_relocate_add, Linux 6.3, stable 6.12). A kernel without that function finds them applied when the
module comes back, and refuses to load it (apply_relocate_add in arch/x86/kernel/module.c).
"""

from __future__ import annotations

import re

from elivepatch.kernel.elf import SHT_RELA, ElfFile
from elivepatch.model.kernel import VMLINUX

CLEARING_FUNCTION = "clear_relocate_add"
"""Function of a kernel that can load a livepatched module again."""

_RELOCATIONS = re.compile(r"\.klp\.rela\.([A-Za-z0-9_]{1,55})\.")


def relocated_modules(livepatch: ElfFile) -> tuple[str, ...]:
    """Return the modules for which a livepatch has relocations of its own; only these are refused."""
    found = {
        match[1]
        for section in livepatch.sections
        if section.kind == SHT_RELA and section.size and (match := _RELOCATIONS.match(section.name))
    }
    return tuple(sorted(found - {VMLINUX}))
