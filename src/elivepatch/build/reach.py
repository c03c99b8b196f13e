# SPDX-License-Identifier: GPL-2.0-or-later
"""Which objects of a kernel a series reaches, and what of it no livepatch can carry."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from elivepatch.kernel.units import Unit, Units
from elivepatch.model.build import Note
from elivepatch.model.codes import problem
from elivepatch.model.errors import BuildStopped
from elivepatch.patch.additions import Additions
from elivepatch.patch.parse import FileKind, TouchedFile

# Code that never runs in the kernel proper, or runs before it can be patched, except what debug information says is
# part of vmlinux (arch/x86/entry/vdso/vma.c); kpatch-build's kpatch-cc leaves out the same places, but silently.
_OUTSIDE = (
    "arch/x86/boot/",
    "arch/x86/entry/vdso/",
    "arch/x86/purgatory/",
    "arch/x86/realmode/",
    "drivers/firmware/efi/libstub/",
)


@dataclass(frozen=True, slots=True)
class Reach:
    """The objects to compile, those that are compared only if the compiler reads another text, and what was left out.

    `added` are new sources that become objects of their own, `indirect` those of the `units` that only include what
    the series changes.
    """

    units: tuple[Unit, ...]
    notes: tuple[Note, ...]
    added: tuple[str, ...] = ()
    indirect: frozenset[str] = frozenset()


_NO_ADDITIONS = Additions()

HeaderUsers = Callable[[str], frozenset[str]]
"""Returns the files that may include a header, at any depth."""

OBJECTS_LIMIT = 64
"""How many objects one header may reach: each is compiled twice, and each is one more thing that can go wrong."""


def reach(
    touched: Sequence[TouchedFile],
    units: Units,
    tree: Path,
    header_users: HeaderUsers,
    additions: Additions = _NO_ADDITIONS,
) -> Reach:
    """Return the objects that `touched` files are built into.

    Raises BuildStopped with the verdict where nothing can be patched, or where something would silently be missing.
    """
    _refuse_build_files(touched, additions)
    touched = [file for file in touched if file.path not in additions.makefiles]
    found: dict[str, Unit] = {}
    unbuilt: list[str] = []
    notes: list[Note] = []
    for file in touched:
        # A new header does nothing by itself: the series also changes the files that include it.
        if file.kind is FileKind.DOCUMENT or (file.kind is FileKind.HEADER and file.added):
            continue
        if _is_let_in(file, additions):
            continue
        reached, beyond = ([], []) if _foreign(file.path) else _reached(file, units, tree, header_users)
        found.update({unit.source: unit for unit in reached})
        if beyond and reached:
            message = f"{file.path} is also part of {_listed(beyond)}, which no livepatch can replace."
            notes.append(Note(code="left-out", message=message))
        elif not reached:
            unbuilt.append(file.path)
    missing = [path for path in unbuilt if not (tree / path).exists()]
    if missing and not found:
        raise BuildStopped(
            problem("does-not-apply", f"This kernel's source has no file {missing[0]}.", excerpt="\n".join(missing))
        )
    if not found:
        if unbuilt:
            raise BuildStopped(problem("not-built", f"This kernel builds none of: {_listed(unbuilt)}."))
        raise BuildStopped(problem("no-change", "The series changes documentation only."))
    for unit in found.values():
        if len(unit.parents) > 1:
            raise BuildStopped(
                problem("several-parents", f"{unit.source} is part of several modules: {_listed(unit.parents)}.")
            )
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


def _refuse_build_files(touched: Sequence[TouchedFile], additions: Additions) -> None:
    paths = [file.path for file in touched if file.kind is FileKind.BUILD and file.path not in additions.makefiles]
    if paths:
        raise BuildStopped(
            problem("patch-build-files", f"The series edits files that take part in the build: {_listed(paths)}.")
        )


def _is_let_in(file: TouchedFile, additions: Additions) -> bool:
    """Whether a source is new and gets in through what else the series changes."""
    included = posixpath.basename(file.path) in additions.included
    return file.kind is FileKind.SOURCE and file.added and (included or file.path in additions.objects)


def _reached(
    file: TouchedFile, units: Units, tree: Path, header_users: HeaderUsers
) -> tuple[Sequence[Unit], Sequence[str]]:
    """Return the objects that may contain code of a file, and the files it is part of that no livepatch can replace."""
    reached, beyond = units.reached_by(file.path), _beyond(units.closure(file.path), units)
    if file.kind is FileKind.HEADER:
        reached, beyond = _users(file.path, units, tree, header_users)
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
            problem("patch-build-files", f"The series edits {file.path}, which is not C: what comes of it is unknown.")
        )
    return reached, beyond


def _users(path: str, units: Units, tree: Path, header_users: HeaderUsers) -> tuple[tuple[Unit, ...], list[str]]:
    includers = {path, *header_users(path)}
    users = {unit.source: unit for includer in includers for unit in units.reached_by(includer)}
    patchable = tuple(unit for name, unit in sorted(users.items()) if name.endswith(".c"))
    if len(patchable) > OBJECTS_LIMIT:
        sentence = f"The series changes {path}, which up to {len(patchable)} objects of this kernel include."
        raise BuildStopped(problem("header", sentence, excerpt=_listed([unit.source for unit in patchable])))
    # Assembly would go on with the old constants of a header whose C users got new ones.
    assembly = sorted(name for name in includers if name.endswith(".S") and _runs(name, units, tree))
    if assembly:
        sentence = f"The series changes {path}, which the assembly {_listed(assembly)} includes."
        raise BuildStopped(problem("assembly", sentence))
    beyond = {name for includer in includers for name in _beyond(units.closure(includer), units)}
    return patchable, sorted(beyond | {name for name in users if not name.endswith(".c")})


def _beyond(names: Iterable[str], units: Units) -> list[str]:
    """Return those of `names` that are built, but not into the kernel proper."""
    return sorted(name for name in names if name.startswith(_OUTSIDE) and name not in units.by_source)


def _runs(assembly: str, units: Units, tree: Path) -> bool:
    """Whether assembly is, or may be, part of the kernel proper."""
    if assembly.startswith(_OUTSIDE) or _foreign(assembly) or assembly.endswith(".lds.S"):
        return False
    return assembly in units.by_source or _may_be_built(assembly, units, tree)


def _may_be_built(assembly: str, units: Units, tree: Path) -> bool:
    # Debug information names assembly sources only where the assembler was told to write any; entry_64.S always is one.
    return "arch/x86/entry/entry_64.S" not in units.by_source and (tree / assembly).exists()


def _foreign(path: str) -> bool:
    """Whether a file belongs to another architecture."""
    return path.startswith("arch/") and not path.startswith("arch/x86/")


def _listed(paths: Sequence[str]) -> str:
    shown = ", ".join(paths[:4])
    return f"{shown} and {len(paths) - 4} more" if len(paths) > 4 else shown
