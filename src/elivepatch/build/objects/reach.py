# SPDX-License-Identifier: GPL-2.0-or-later
"""Reach of a series: the objects of a kernel that it changes, and the changes that no livepatch can carry."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from elivepatch.build.objects.header_users import NameUsers
from elivepatch.build.sandbox.output import source_text
from elivepatch.kernel.compile_units import Unit, Units
from elivepatch.model.build import Note
from elivepatch.model.codes import problem
from elivepatch.model.errors import BuildStopped, Problem
from elivepatch.patch.additions import Additions
from elivepatch.patch.parse import NOT_OF_THE_KERNEL, FileKind, TouchedFile, kind_of

# Code that never runs in the kernel proper, or runs before it can be patched, except sources that are part of vmlinux
# by its debug information (arch/x86/entry/vdso/vma.c). kpatch-build's kpatch-cc skips the same directories, silently.
_OUTSIDE = (
    "arch/x86/boot/",
    "arch/x86/entry/vdso/",
    "arch/x86/purgatory/",
    "arch/x86/realmode/",
    "drivers/firmware/efi/libstub/",
)

# Directories of headers in the order in which compilers search them (LINUXINCLUDE in the kernel's Makefile).
_SEARCHED = (
    "arch/x86/include", "arch/x86/include/generated", "include", "arch/x86/include/uapi",
    "arch/x86/include/generated/uapi", "include/uapi", "include/generated/uapi",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reach:
    """The objects to compile, and notes about what was left out.

    `added` are new sources that become objects of their own. `indirect` are sources of `units` that only include a
    changed file: they are compared only if the compiler reads another text.
    """

    units: tuple[Unit, ...]
    notes: tuple[Note, ...]
    added: tuple[str, ...] = ()
    indirect: frozenset[str] = frozenset()


_NO_ADDITIONS = Additions()

HeaderUsers = Callable[[str], frozenset[str]]
"""Returns the files that may include a header, at any depth."""

NameSearch = Callable[[str, Collection[str]], NameUsers | None]
"""Returns which of some sources name what the series changes in a header, None if names cannot decide that."""

OBJECTS_LIMIT = 64
"""Limit of objects that one header may reach: each is compiled twice, and each is one more risk."""


def reach(
    touched: Sequence[TouchedFile],
    units: Units,
    tree: Path,
    header_users: HeaderUsers,
    additions: Additions = _NO_ADDITIONS,
    name_users: NameSearch = lambda _header, _sources: None,
) -> Reach:
    """Return the objects that `touched` files are built into.

    `name_users` is only called for a header that more than OBJECTS_LIMIT objects include.

    Raises BuildStopped with the verdict if nothing can be patched, or if something would silently be missing.
    """
    _refuse_build_files(touched, additions)
    touched = [file for file in touched if file.path not in additions.makefiles]
    found: dict[str, Unit] = {}
    unbuilt: list[str] = []
    notes: list[Note] = []
    for file in touched:
        if _reaches_nothing(file, tree, additions):
            continue
        users = _Users(units, tree, header_users, name_users)
        reached, beyond = ([], []) if file.kind in NOT_OF_THE_KERNEL else _reached(file, units, tree, users)
        notes += users.notes
        found.update({unit.source: unit for unit in reached})
        if beyond and reached:
            message = f"{file.path} is also part of {_listed(beyond)}, which no livepatch can replace."
            notes.append(Note(code="left-out", message=message))
        elif not reached and not users.notes:
            unbuilt.append(file.path)
    if not found:
        raise BuildStopped(_nothing_reached(unbuilt, tree, named=bool(notes)))
    _refuse_several_parents(found.values())
    notes += [
        Note(code="not-built", message=f"{path} is not built in this configuration and was left out.")
        for path in unbuilt
    ]
    direct = {file.path for file in touched if file.kind is FileKind.SOURCE}
    return Reach(
        units=tuple(found[name] for name in sorted(found)),
        notes=tuple(notes),
        added=tuple(sorted(additions.objects)),
        indirect=frozenset(found) - direct,
    )


def _refuse_several_parents(units: Iterable[Unit]) -> None:
    for unit in units:
        if len(unit.parents) > 1:
            raise BuildStopped(
                problem("several-parents", f"{unit.source} is part of several modules: {_listed(unit.parents)}.")
            )


def _nothing_reached(unbuilt: Sequence[str], tree: Path, *, named: bool) -> Problem:
    """Return why a series reaches no object; `named` says that a header's names were searched for and found unused."""
    ours = [path for path in unbuilt if kind_of(path) not in NOT_OF_THE_KERNEL]
    if missing := [path for path in ours if not (tree / path).exists()]:
        sentence = f"This kernel's source has no file {missing[0]}."
        return problem("does-not-apply", sentence, excerpt="\n".join(missing))
    if unbuilt:
        return problem("not-built", f"This kernel builds none of: {_listed(unbuilt)}.")
    if named:
        return problem("no-change", "No object of this kernel uses what the series changes.")
    return problem("no-change", "The series changes only documentation, or headers that it adds and nothing includes.")


def _refuse_build_files(touched: Sequence[TouchedFile], additions: Additions) -> None:
    paths = [file.path for file in touched if file.kind is FileKind.BUILD and file.path not in additions.makefiles]
    if paths:
        raise BuildStopped(
            problem("patch-build-files", f"The series edits files that take part in the build: {_listed(paths)}.")
        )


def _reaches_nothing(file: TouchedFile, tree: Path, additions: Additions) -> bool:
    """Return if no object can differ because of a file alone; raises as `_refuse_shadow` does."""
    if file.kind is FileKind.HEADER and file.added:
        # The series also changes the files that include it.
        _refuse_shadow(file.path, tree)
        return True
    return file.kind is FileKind.DOCUMENT or _is_let_in(file, additions)


def _refuse_shadow(header: str, tree: Path) -> None:
    """Raise BuildStopped if a new header takes the place of another one for files that the series does not change."""
    for number, root in enumerate(_SEARCHED):
        name = header.removeprefix(f"{root}/")
        for other in (f"{later}/{name}" for later in _SEARCHED[number + 1 :] if name != header):
            if (tree / other).is_file():
                raise BuildStopped(_shadow(header, other))
    last = re.escape(posixpath.basename(header))
    includes = re.compile(rf"""(?m)^\s*#\s*include\s*["<](?:\./)?{last}[">]""")
    place = posixpath.dirname(header)
    beside = sorted(path.name for path in (tree / place).glob("*.[chS]")) if (tree / place).is_dir() else []
    for name in beside:
        if includes.search(source_text(tree, f"{place}/{name}") or ""):
            raise BuildStopped(_shadow(header, f"the file that {place}/{name} includes by this name"))


def _shadow(header: str, other: str) -> Problem:
    return problem("new-file", f"The series adds {header}, which takes the place of {other} for all who include it.")


def _is_let_in(file: TouchedFile, additions: Additions) -> bool:
    """Return if a source is new and other changes of the series bring it in."""
    included = posixpath.basename(file.path) in additions.included
    return file.kind is FileKind.SOURCE and file.added and (included or file.path in additions.objects)


def _reached(file: TouchedFile, units: Units, tree: Path, users: _Users) -> tuple[Sequence[Unit], Sequence[str]]:
    """Return the objects that may contain code of a file, and the files with its code that no livepatch can replace."""
    reached, beyond = units.reached_by(file.path), _beyond(units.closure(file.path), units)
    made = file.kind is FileKind.SOURCE and not reached and not beyond and (tree / file.path).exists()
    if file.kind is FileKind.HEADER or made:
        # A source that is part of no object may be that of a program which generates files for objects.
        reached, beyond = users.of(file.path)
    if beyond and not reached:
        where = "" if file.path in beyond else f" (part of {_listed(beyond)})"
        raise BuildStopped(
            problem("unpatchable-code", f"The series changes code outside the running kernel: {file.path}{where}.")
        )
    if file.kind is FileKind.SOURCE and (file.added or file.removed):
        how = "removes" if file.removed else "adds"
        raise BuildStopped(problem("new-file", f"The series {how} the source file {file.path}."))
    if file.kind is FileKind.ASSEMBLY and (reached or _may_be_built(file.path, units, tree)):
        raise BuildStopped(problem("assembly", f"The series changes assembly: {file.path}."))
    # Rust is the one other language whose sources debug information names.
    made_from = file.kind is FileKind.OTHER and not file.path.endswith(".rs") and (tree / file.path).exists()
    if file.kind is FileKind.OTHER and (reached or made_from):
        raise BuildStopped(
            problem("patch-build-files", f"The series edits {file.path}, which is not C: its effect is not known.")
        )
    return reached, beyond


class _Users:
    """Finds the objects that a header is part of; `notes` say how, unless that is by inclusion alone."""

    def __init__(self, units: Units, tree: Path, header_users: HeaderUsers, name_users: NameSearch) -> None:
        self._units = units
        self._tree = tree
        self._header_users = header_users
        self._name_users = name_users
        self.notes: list[Note] = []

    def of(self, path: str) -> tuple[tuple[Unit, ...], list[str]]:
        """Return the objects, and the files that include the header but that no livepatch can replace."""
        includers = {path, *self._header_users(path)}
        users, patchable = self._units_of(includers)
        if len(patchable) > OBJECTS_LIMIT and (by_name := self._name_users(path, self._sources(includers))) is not None:
            includers = set(by_name.sources)
            users, all_of_them = self._units_of(includers)
            self.notes.append(_named(path, len(patchable), by_name, all_of_them))
            patchable = all_of_them
        if len(patchable) > OBJECTS_LIMIT:
            sentence = f"The series changes {path}, which up to {len(patchable)} objects of this kernel include."
            raise BuildStopped(problem("header", sentence, excerpt=_listed([unit.source for unit in patchable])))
        # Assembly would keep the old constants of a header whose C users have new ones.
        assembly = sorted(name for name in includers if name.endswith(".S") and _runs(name, self._units, self._tree))
        if assembly:
            sentence = f"The series changes {path}, which the assembly {_listed(assembly)} includes."
            raise BuildStopped(problem("assembly", sentence))
        beyond = {name for includer in includers for name in _beyond(self._units.closure(includer), self._units)}
        return patchable, sorted(beyond | {name for name in users if not name.endswith(".c")})

    def _sources(self, includers: Iterable[str]) -> frozenset[str]:
        """Return the sources that are built and see the header, replaceable or not.

        These are more than the sources among the includers: a source that another one includes also sees the headers
        that this one includes.
        """
        units = self._units

        def is_built(one: str) -> bool:
            if one.endswith(".S"):
                return _runs(one, units, self._tree)
            return bool(units.reached_by(one) or _beyond(units.closure(one), units))

        seeing = set(includers)
        seeing |= {one for one in units.includers if not seeing.isdisjoint(units.closure(one))}
        return frozenset(one for one in seeing if not one.endswith(".h") and is_built(one))

    def _units_of(self, includers: Iterable[str]) -> tuple[dict[str, Unit], tuple[Unit, ...]]:
        users = {unit.source: unit for includer in includers for unit in self._units.reached_by(includer)}
        return users, tuple(unit for name, unit in sorted(users.items()) if name.endswith(".c"))


def _named(path: str, including: int, by_name: NameUsers, users: Sequence[Unit]) -> Note:
    names, sources = sorted(by_name.names), [unit.source for unit in users]
    message = (
        f"{path} is part of {including} objects. All that changes in it is {_listed(names)}, which these use: "
        f"{_listed(sources) or 'none'}."
    )
    return Note(code="by-name", message=message)


def _beyond(names: Iterable[str], units: Units) -> list[str]:
    """Return those of `names` that are built, but not into the kernel proper."""
    return sorted(name for name in names if name.startswith(_OUTSIDE) and name not in units.by_source)


def _runs(assembly: str, units: Units, tree: Path) -> bool:
    """Return if assembly is, or may be, part of the kernel proper."""
    if assembly.startswith(_OUTSIDE) or kind_of(assembly) is FileKind.FOREIGN or assembly.endswith(".lds.S"):
        return False
    return assembly in units.by_source or _may_be_built(assembly, units, tree)


def _may_be_built(assembly: str, units: Units, tree: Path) -> bool:
    # Debug information names assembly only if the assembler wrote any; entry_64.S is part of every x86 kernel.
    return "arch/x86/entry/entry_64.S" not in units.by_source and (tree / assembly).exists()


def _listed(paths: Sequence[str]) -> str:
    shown = ", ".join(paths[:4])
    return f"{shown} and {len(paths) - 4} more" if len(paths) > 4 else shown
