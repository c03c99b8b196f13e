# SPDX-License-Identifier: GPL-2.0-or-later
"""Record of what a build directory holds: of each object its parent, its source, and a mark of its local symbols.

It is read from the files that kbuild leaves: vmlinux.a (since Linux 6.1) lists the objects of vmlinux, modules.order
and the `.mod` files those of the modules, and the `.cmd` file beside each object names its source. The marks tie the
record to a kernel: the symbol table of vmlinux, and of each module, shows the same local symbols for the same file
name. A record is small text, so that a host can send it in place of its objects: PARENT SOURCE MARK [FUNCTION...] on
each line.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from elivepatch.files.bounded import Unusable, read_regular
from elivepatch.kernel.elf import BIND_LOCAL, TYPE_FUNC, ElfFile
from elivepatch.kernel.kbuild.archive import thin_members
from elivepatch.kernel.kbuild.commands import is_object, modules_in_order, objects_of_module, source_of
from elivepatch.kernel.kbuild.faults import kbuild_fault
from elivepatch.kernel.symbols import stable_names
from elivepatch.model.kernel import VMLINUX

RECORD = "record"
"""Name of the record among the files that a host sends."""

RECORD_LIMIT_BYTES = 16 << 20

_FILE_LIMIT_BYTES = 64 << 20
_OBJECTS_LIMIT = 200_000
_FUNCTIONS = 8
_NO_MARK = "-"
_OBJECTS, _MODULES = "vmlinux.a", "modules.order"
# Linked into vmlinux last, so that its time is that of the build, and therefore not in the list.
_LATE = "init/version-timestamp.o"
_FIRST = "init/main.o"
_LINE = re.compile(r"(\w{1,200}) ([\w./+,@=-]{1,4000}) ([0-9a-f]{32}|-)((?: [\w.$]{1,512}){0,8})", re.ASCII)


class BuiltObject(NamedTuple):
    """One object of a kernel. `mark` stands for its local symbols; it is empty if the source is not C.

    `functions` are some that the object defines for all; they are given if it has no local symbols.
    """

    parent: str
    source: str
    mark: str
    functions: tuple[str, ...] = ()


def mark_of(names: Iterable[tuple[str, int]]) -> str:
    """Return the mark of local symbols, given by name and type (`stable_names`)."""
    text = "".join(f"{kind} {name}\n" for name, kind in sorted(names))
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:32]


def is_build_directory(directory: Path) -> bool:
    """Return if a directory has kbuild's list of the objects of vmlinux."""
    return (directory / _OBJECTS).is_file()


def read_build(directory: Path) -> tuple[BuiltObject, ...]:
    """Return the objects of the kernel that was built in a directory.

    Raises EnvironmentFault with the code `kbuild-files` if its files do not name the source of each object.
    """
    if not is_build_directory(directory):
        raise kbuild_fault(
            f"{directory} has no vmlinux.a, which the build of Linux 6.1 and later leaves: it alone lists the kernel's "
            "objects."
        )
    top = _text(directory, _command_of(_FIRST))
    prefix = source_of(top, _FIRST).removesuffix("init/main.c")
    return tuple(_built(directory, parent, target, prefix) for parent, target in _bounded(_targets(directory)))


def _targets(directory: Path) -> Iterator[tuple[str, str]]:
    """Yield parent and path of each object."""
    for name in thin_members(_content(directory, _OBJECTS)):
        yield VMLINUX, name
    if (directory / _LATE).is_file():
        yield VMLINUX, _LATE
    if not (directory / _MODULES).is_file():
        return
    for module in modules_in_order(_text(directory, _MODULES)):
        parent = posixpath.basename(module).replace("-", "_")
        for name in objects_of_module(_text(directory, f"{module}.mod"), module):
            yield parent, name


def _bounded(targets: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    for count, (parent, target) in enumerate(targets):
        if count >= _OBJECTS_LIMIT:
            raise kbuild_fault(f"The build directory lists more than {_OBJECTS_LIMIT} objects.")
        yield parent, target


def _built(directory: Path, parent: str, target: str, prefix: str) -> BuiltObject:
    if not is_object(target):
        raise kbuild_fault(f"The build directory lists {target[:200]!r}, which is no object.")
    source = source_of(_text(directory, _command_of(target)), target).removeprefix(prefix)
    if posixpath.normpath(re.sub(r"\.(c|S|rs)$", ".o", source)) != posixpath.normpath(target):
        raise kbuild_fault(f"The object {target[:200]} has another name than its source {source[:200]}.")
    if not source.endswith(".c"):
        return BuiltObject(parent, source, "")
    place = _inside(directory, target)
    if place.is_symlink() or not place.is_file():
        raise kbuild_fault(f"The build directory lacks the object {target[:200]}.")
    elf = ElfFile(place)
    names = stable_names(elf.symbols)
    functions: tuple[str, ...] = ()
    if not names:
        found = (one.name for one in elf.symbols if one.kind == TYPE_FUNC and one.bind != BIND_LOCAL and one.defined)
        functions = tuple(sorted(found)[:_FUNCTIONS])
    return BuiltObject(parent, source, mark_of(names), functions)


def _command_of(target: str) -> str:
    place, name = posixpath.split(target)
    return f"{place}/.{name}.cmd"


def _inside(directory: Path, name: str) -> Path:
    """Return the place of a file of the build directory. Raises as `read_build` does if it leads out of it."""
    plain = posixpath.normpath(name)
    if plain.startswith(("/", "..")):
        raise kbuild_fault(f"The build directory names {name[:200]}, which lies outside of it.")
    return directory / plain


def _text(directory: Path, name: str) -> str:
    return _content(directory, name).decode(errors="replace")


def _content(directory: Path, name: str) -> bytes:
    found = read_regular(_inside(directory, name), _FILE_LIMIT_BYTES)
    if isinstance(found, Unusable):
        raise kbuild_fault(f"The file {name[:200]} of the build directory cannot be used. {found.why}")
    return found[0]


def format_record(objects: Iterable[BuiltObject]) -> bytes:
    """Return a record as text."""
    lines = (" ".join((one.parent, one.source, one.mark or _NO_MARK, *one.functions)) for one in objects)
    return "".join(f"{line}\n" for line in lines).encode()


def parse_record(content: bytes) -> tuple[BuiltObject, ...]:
    """Return the objects of a record. Raises EnvironmentFault with the code `kbuild-files` if it is malformed."""
    if len(content) > RECORD_LIMIT_BYTES:
        raise kbuild_fault(f"The record of the kernel's objects is larger than {RECORD_LIMIT_BYTES >> 20} MiB.")
    found = []
    for number, line in enumerate(content.decode(errors="replace").removesuffix("\n").split("\n"), 1):
        parts = _LINE.fullmatch(line)
        if parts is None:
            raise kbuild_fault(f"Line {number} of the record of the kernel's objects is malformed: {line[:80]!r}.")
        mark = "" if parts[3] == _NO_MARK else parts[3]
        found.append(BuiltObject(parts[1], parts[2], mark, tuple(parts[4].split())))
    return tuple(found)
