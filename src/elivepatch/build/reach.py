# SPDX-License-Identifier: GPL-2.0-or-later
"""Which objects of a kernel a series reaches, and what of it no livepatch can carry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from elivepatch.kernel.units import Unit, Units
from elivepatch.model.build import Note
from elivepatch.model.codes import problem
from elivepatch.model.errors import BuildStopped
from elivepatch.patch.parse import FileKind, TouchedFile

# Code that never runs in the kernel proper, or runs before it can be patched; kpatch-build's kpatch-cc leaves out the
# same places, but silently.
_OUTSIDE = (
    "arch/x86/boot/",
    "arch/x86/entry/vdso/",
    "arch/x86/purgatory/",
    "arch/x86/realmode/",
    "drivers/firmware/efi/libstub/",
)


@dataclass(frozen=True, slots=True)
class Reach:
    """The objects to compile, and what was left out with the reason."""

    units: tuple[Unit, ...]
    notes: tuple[Note, ...]


HeaderUsers = Callable[[str], frozenset[str]]
"""Returns the files that may include a header, at any depth."""

OBJECTS_LIMIT = 64
"""How many objects one header may reach: each is compiled twice, and each is one more thing that can go wrong."""


def reach(touched: Sequence[TouchedFile], units: Units, tree: Path, header_users: HeaderUsers) -> Reach:
    """Return the objects that `touched` files are built into.

    Raises BuildStopped with the verdict where nothing can be patched, or where something would silently be missing.
    """
    _refuse(touched, FileKind.BUILD, "patch-build-files", "The series edits files that take part in the build: {}.")
    outside = [file.path for file in touched if file.path.startswith(_OUTSIDE)]
    if outside:
        raise BuildStopped(
            problem("unpatchable-code", f"The series changes code outside the running kernel: {_listed(outside)}.")
        )
    found: dict[str, Unit] = {}
    unbuilt: list[str] = []
    notes: list[Note] = []
    for file in touched:
        if file.kind is FileKind.DOCUMENT:
            continue
        reached = units.reached_by(file.path)
        if file.kind is FileKind.HEADER:
            users, left_out = _users(file.path, units, header_users)
            found.update({unit.source: unit for unit in users})
            notes += left_out
            if not users:
                unbuilt.append(file.path)
        elif file.kind is FileKind.ASSEMBLY and reached:
            raise BuildStopped(problem("assembly", f"The series changes assembly: {file.path}."))
        elif file.kind is FileKind.SOURCE and (file.added or file.removed) and not _foreign(file.path):
            how = "removes" if file.removed else "adds"
            raise BuildStopped(problem("new-file", f"The series {how} the source file {file.path}."))
        elif file.kind is FileKind.SOURCE and reached:
            found.update({unit.source: unit for unit in reached})
        else:
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
    return Reach(tuple(found[name] for name in sorted(found)), tuple(notes))


def _refuse(touched: Sequence[TouchedFile], kind: FileKind, code: str, sentence: str) -> None:
    paths = [file.path for file in touched if file.kind is kind]
    if paths:
        raise BuildStopped(problem(code, sentence.format(_listed(paths))))


def _users(path: str, units: Units, header_users: HeaderUsers) -> tuple[list[Unit], list[Note]]:
    """Return the objects that may contain code of a header, and what of them no livepatch can carry."""
    if _foreign(path):
        return [], []
    users: dict[str, Unit] = {}
    for includer in header_users(path):
        users.update({unit.source: unit for unit in units.reached_by(includer)})
    unpatchable = sorted(name for name in users if name.startswith(_OUTSIDE) or not name.endswith(".c"))
    patchable = [unit for name, unit in sorted(users.items()) if name not in unpatchable]
    if len(patchable) > OBJECTS_LIMIT:
        sentence = f"The series changes {path}, which up to {len(patchable)} objects of this kernel include."
        raise BuildStopped(problem("header", sentence, excerpt=_listed([unit.source for unit in patchable])))
    message = f"{path} is also included by {_listed(unpatchable)}, which no livepatch can replace."
    return patchable, [Note(code="left-out", message=message)] if unpatchable else []


def _foreign(path: str) -> bool:
    """Whether a file belongs to another architecture."""
    return path.startswith("arch/") and not path.startswith("arch/x86/")


def _listed(paths: Sequence[str]) -> str:
    shown = ", ".join(paths[:4])
    return f"{shown} and {len(paths) - 4} more" if len(paths) > 4 else shown
