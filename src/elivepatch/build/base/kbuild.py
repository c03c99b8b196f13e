# SPDX-License-Identifier: GPL-2.0-or-later
"""Arguments and compiler flags for kbuild, the kernel's build system."""

from __future__ import annotations

import re
from pathlib import Path

from elivepatch.build.sandbox.output import take

SECTION_FLAGS = "-I/tools/patch -ffunction-sections -fdata-sections -gz=none"
"""Flags that kpatch compiles with: a section for each function and datum, and its helper macros for patches."""

_CONFIG_LIMIT_BYTES = 4 << 20
_RUNTIME_CONSTANTS = ("arch/x86/include/asm/runtime-const.h", "include/asm-generic/runtime-const.h")
# Its include guard has the name of the other header's, which is therefore not read after it. A Makefile that asks if
# the compiler has an option (`cc-option`) passes these flags without any directory of headers, so the path is whole.
_PLAIN_CONSTANTS = " -include /src/include/asm-generic/runtime-const.h"
_ONLY_SECTIONED = re.compile(r" -f(?:function|data)-sections(?= )| -include \S*asm-generic/runtime-const\.h(?= )")


def section_flags(tree: Path) -> str:
    """Return the compiler flags for objects that are to be compared.

    From 6.11 on, x86 writes some constants into its code at boot (asm/runtime-const.h: the end of user memory, tables
    of fs/dcache.c), from lists in sections that no module may have. Code of a livepatch reads the variables instead,
    as the kernel itself does in modules and on other architectures (asm-generic/runtime-const.h).

    The layouts of structures are compared by the debug information of the objects. A kernel without it, or with only a
    part of it in its objects, gets it by these flags; debug information changes no code.
    """
    constants = _PLAIN_CONSTANTS * all((tree / name).is_file() for name in _RUNTIME_CONSTANTS)
    return SECTION_FLAGS + constants + _missing_information(tree)


def has_debug_info(tree: Path) -> bool:
    """Return if the kernel that a tree is configured for has debug information."""
    return _enabled(tree, "DEBUG_INFO")


def _missing_information(tree: Path) -> str:
    if not (tree / ".config").is_file():
        return ""
    if not has_debug_info(tree):
        return " -g"
    flags = " -gno-split-dwarf" if _enabled(tree, "DEBUG_INFO_SPLIT") else ""
    if _enabled(tree, "DEBUG_INFO_REDUCED") and _enabled(tree, "CC_IS_GCC"):
        # The kernel leaves out the structures that headers define; only gcc has the option.
        flags += " -femit-struct-debug-detailed=any"
    return flags


def _enabled(tree: Path, name: str) -> bool:
    content = take(tree, ".config", limit_bytes=_CONFIG_LIMIT_BYTES)
    return f"\nCONFIG_{name}=y\n".encode() in b"\n" + content


def without_sections(command: str) -> str:
    """Return a compile command without the flags of `section_flags`: it makes the object as it was shipped."""
    return _ONLY_SECTIONED.sub("", command)


SOURCE_TOPS = "arch/x86 block certs crypto drivers fs init io_uring ipc kernel lib mm net security sound virt"
"""The directories of a tree that an x86 kernel is built from, besides include/; some kernels lack some."""


_CLANG = "clang"


def linker_of(cc: str) -> str:
    """Return the linker that belongs to the compiler `cc`: objects of clang are linked as kbuild links them."""
    return f"ld.lld{cc.removeprefix(_CLANG)}" if cc.startswith(_CLANG) else "ld"


def make_arguments(cc: str, jobs: int) -> list[str]:
    """Return the start of a make command for a tree whose kernel was built by `cc`.

    A kernel of clang is built with LLVM's linker and tools too: without them its configuration would be another. LLVM=
    takes the suffix of their names (Documentation/kbuild/llvm.rst).
    """
    if cc.startswith(_CLANG):
        return ["make", f"-j{jobs}", f"LLVM={cc.removeprefix(_CLANG) or 1}"]
    host = cc.removeprefix("x86_64-linux-gnu-")
    return ["make", f"-j{jobs}", f"CC={cc}", f"HOSTCC={host}"]
