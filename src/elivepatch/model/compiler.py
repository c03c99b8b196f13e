# SPDX-License-Identifier: GPL-2.0-or-later
"""Names that a compiler gives itself: in the first line of `--version`, and in the objects that it makes.

A kernel's configuration keeps the first (CONFIG_CC_VERSION_TEXT, made by scripts/cc-version.sh and init/Kconfig), its
vmlinux the second (section .comment). They differ: a gcc without a vendor's text prints `(GCC)` and writes `(GNU)`
(gcc/toplev.c), so each is compared with its own source only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_LIMIT = 400
_COMMAND = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,80}")
_GCC = re.compile(
    rf"(?P<command>{_COMMAND.pattern}) (?P<version>\([^\x00-\x1f]+?\) (?P<number>[0-9]+(?:\.[0-9]+)+)[^\x00-\x1f]*)"
)
_CLANG = re.compile(r"(?P<version>[^\x00-\x1f]*clang version (?P<number>[0-9]+(?:\.[0-9]+)+)[^\x00-\x1f]*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class CompilerText:
    """The first line of a compiler's `--version`.

    `family` is `gcc` or `clang`. `version` is the line without the command's name, which gcc prints and clang does
    not: the same compiler has several names. `number` is the version in digits, `12.2.0`. `command` is empty for clang.
    """

    family: str
    command: str
    version: str
    number: str


def parse_compiler(text: str) -> CompilerText | None:
    """Return what a line says about the compiler that printed it, None if it is from neither gcc nor clang."""
    if len(text) > _LIMIT:
        return None
    if found := _CLANG.fullmatch(text):
        return CompilerText(family="clang", command="", version=found["version"], number=found["number"])
    if found := _GCC.fullmatch(text):
        return CompilerText(family="gcc", command=found["command"], version=found["version"], number=found["number"])
    return None


def is_command(name: str) -> bool:
    """Return whether a text can be the name of a program: no path, no option, nothing that a shell reads."""
    return _COMMAND.fullmatch(name) is not None
