# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages that gcc, make and the kernel's modpost print, found in a log."""

from __future__ import annotations

import re

from elivepatch.build.checks.references import not_imported, undefined
from elivepatch.model.errors import Problem

# scripts/mod/modpost.c: check_exports. With KBUILD_MODPOST_WARN a missing symbol is only a warning.
_UNDEFINED = re.compile(r'(?m)^(?:ERROR|WARNING): modpost: "(\S+)" \[.*undefined!')
_NAMESPACE = re.compile(r"module \S+ uses symbol (\S+) from namespace (\w+)")
_ERROR_LINE = re.compile(r"(?m)^.*(?:[Ee]rror|ERROR|undefined).*$")
_COMPILER_ERROR = re.compile(r"(?m)^(\S+\.[chS]):\d+:\d+: (?:fatal )?error:")
_EXCERPT_LINES = 12


def modpost_problem(log: str, *, release: str) -> Problem | None:
    """Return the problem that modpost reports about a module for the kernel `release`, None if it reports none."""
    if missing := _UNDEFINED.findall(log):
        return undefined(missing)
    if closed := _NAMESPACE.findall(log):
        return not_imported(*closed[0], release=release)
    return None


def file_with_error(log: str) -> str | None:
    """Return the first file for which gcc reports an error, None if it reports none."""
    found = _COMPILER_ERROR.search(log)
    return found[1] if found is not None else None


def error_lines(log: str) -> str:
    """Return the first lines that look like an error, each once; empty if there are none."""
    return "\n".join(list(dict.fromkeys(_ERROR_LINE.findall(log)))[:_EXCERPT_LINES])
