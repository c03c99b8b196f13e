# SPDX-License-Identifier: GPL-2.0-or-later
"""Records that kbuild keeps of its work: `.NAME.o.cmd` beside each object, `NAME.mod` of each module, modules.order."""

from __future__ import annotations

import re
from posixpath import normpath

from elivepatch.kernel.kbuild.faults import kbuild_fault

_SOURCE = re.compile(r"(?m)^source_(\S+) := (\S+)$")
_OBJECT = re.compile(r"(?!/)[\w./+,@=-]{1,4000}\.o", re.ASCII)
_MODULE = re.compile(r"(?!/)[\w./+,@=-]{1,4000}\.k?o", re.ASCII)


def source_of(command_file: str, target: str) -> str:
    """Return the source that the object `target` was compiled from, as its `.cmd` file names it.

    Raises EnvironmentFault with the code `kbuild-files` if the file names none or is of another object.
    """
    found = _SOURCE.findall(command_file)
    if len(found) != 1 or normpath(found[0][0]) != normpath(target):
        raise kbuild_fault(f"The record of the object {target[:200]} (.cmd) does not name the one source of it.")
    return str(found[0][1])


def objects_of_module(mod_file: str, module: str) -> tuple[str, ...]:
    """Return the objects of a module, from its `.mod` file. Raises as `source_of` does."""
    return _listed(mod_file, _OBJECT, f"The list of the objects of {module[:200]} (.mod)")


def modules_in_order(order_file: str) -> tuple[str, ...]:
    """Return the modules that modules.order lists, each as its path without the suffix. Raises as `source_of` does."""
    if not order_file.strip():
        return ()
    listed = _listed(order_file, _MODULE, "The list of the kernel's modules (modules.order)")
    return tuple(name.rpartition(".")[0] for name in listed)


def is_object(path: str) -> bool:
    """Return if a path can be that of an object in a build directory."""
    return _OBJECT.fullmatch(path) is not None


def _listed(text: str, wanted: re.Pattern[str], what: str) -> tuple[str, ...]:
    lines = text.splitlines()
    wrong = next((line for line in lines if not wanted.fullmatch(line)), None)
    if wrong is not None or not lines:
        shown = f"has the line {wrong[:80]!r}" if wrong is not None else "is empty"
        raise kbuild_fault(f"{what} {shown}.")
    return tuple(lines)
