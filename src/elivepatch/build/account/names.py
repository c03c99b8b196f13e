# SPDX-License-Identifier: GPL-2.0-or-later
"""Names that the compiler, objtool and the kernel's macros give to sections and symbols, and their meaning.

Sources: kpatch's create-diff-object.c (is_special_static, kpatch_mangled_strcmp), the kernel's
include/asm-generic/vmlinux.lds.h, tools/objtool/check.c, include/linux/init.h.
"""

from __future__ import annotations

import re
from functools import lru_cache

_NUMBER = re.compile(r"\.\d+(?=\.|$)")
# __UNIQUE_ID of include/linux/compiler.h, __ID of include/linux/btf_ids.h: both append __COUNTER__.
_UNIQUE = re.compile(r"(__UNIQUE_ID_[A-Za-z_]+?|__BTF_ID__\w+__)\d+(?=\.|$)")

CONSTANTS = ("CSWTCH", "__func__", "__FUNCTION__", "_entry")
"""Static data that is never written and that create-diff-object never compares."""
_STATES = ("_rs", "__key", "__warned", "__already_done")
_ONCE = frozenset((".data.once", ".data..once", ".data.unlikely"))
DESCRIPTORS = frozenset(("__dyndbg", "__verbose"))
"""Sections of the descriptors of dynamic debug, which create-diff-object never compares."""

TABLES = {
    "__bug_table": "BUG_STRUCT_SIZE",
    "__ex_table": "EX_STRUCT_SIZE",
    "__jump_table": "JUMP_STRUCT_SIZE",
    ".altinstructions": "ALT_STRUCT_SIZE",
    ".parainstructions": "PARA_STRUCT_SIZE",
    ".static_call_sites": "STATIC_CALL_STRUCT_SIZE",
}
"""Tables with an entry for a place in the code, by the name of the variable with the size of an entry."""

OUT_OF_LINE = frozenset((".altinstr_replacement", ".altinstr_aux", ".fixup"))
"""Code that other code or a table refers to, part by part."""

# objtool and the compiler make these from the code.
_DERIVED = re.compile(
    r"\.orc_|\.retpoline_sites|\.return_sites|\.call_sites|\.ibt_endbr_seal|\.cfi_sites|\.smp_locks|__mcount_loc"
    r"|__patchable_function_entries|\.static_call\.text|\.eh_frame"
)
_NOT_IN_THE_KERNEL = re.compile(
    r"\.discard|\.comment|\.note|\.modinfo|\.kpatch\.|\.printk_index|\.gnu\.|__tracepoint_check"
)
_AT_START_OR_END = re.compile(
    r"\.(?:init|exit|meminit|memexit|cpuinit|devinit|x86_cpu_dev|iommu_table|head\.text|security_initcall|exitcall)\b"
    r"|\.(?:con_)?initcall|\.exitcall|\.lsm_info|\.early_lsm|__?earlycon_table|___?kcrctab|\.apicdrivers"
)


@lru_cache(maxsize=1 << 16)
def plain(name: str) -> str:
    """Return the name without the numbers that the compiler appends to names that it needs twice."""
    if ".str1." in name or ".cst" in name:
        return name
    return _UNIQUE.sub(r"\1", _NUMBER.sub("", name))


def is_constant(name: str, section: str) -> bool:
    """Return if the symbol `name` in `section` is the compiler's or a macro's constant: equal if its content is."""
    return (name.partition(".")[0] in CONSTANTS and "." in name) or section in DESCRIPTORS


def is_state(name: str, section: str) -> bool:
    """Return if the symbol `name` is a macro's static variable that create-diff-object never compares."""
    return (name.partition(".")[0] in _STATES and "." in name) or section in _ONCE


def parent_of(name: str) -> str:
    """Return the function that a `.cold` or `.part` function was cut out of, empty for any other name."""
    for suffix in (".cold", ".part."):
        parent, found, _ = name.partition(suffix)
        if found:
            return parent
    return ""


def is_cold(name: str) -> bool:
    """Return if a function is the unlikely part of another one, into which it jumps back."""
    return name.endswith(".cold") or ".cold." in name


def is_derived(section: str) -> bool:
    """Return if objtool or the compiler makes a section from the code alone."""
    return _DERIVED.match(section) is not None


def is_left_out(section: str) -> bool:
    """Return if a section does not become part of the running kernel, or only of what it says of itself."""
    return _NOT_IN_THE_KERNEL.match(section) is not None


def runs_once(section: str) -> bool:
    """Return if a section is used only when the kernel or a module starts or ends."""
    return _AT_START_OR_END.match(section) is not None
