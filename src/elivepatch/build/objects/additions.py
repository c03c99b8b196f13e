# SPDX-License-Identifier: GPL-2.0-or-later
"""Objects that a series adds: there is no original to compare with, so all of each becomes part of the livepatch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from elivepatch.build.base.store import Base
from elivepatch.build.objects.compile import Compiler
from elivepatch.kernel.elf import ElfFile
from elivepatch.model.build import Note
from elivepatch.model.codes import problem
from elivepatch.model.errors import BuildStopped
from elivepatch.model.kernel import VMLINUX

# Sections of code that the kernel runs once at boot, or when a module is inserted or removed: never a livepatch's.
_RUN_ONCE = (".init.", ".exit.", ".initcall", ".exitcall", "___initcall")


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedObject:
    """A compiled new source. `parent` is `vmlinux` or the module that the object would have become part of."""

    source: str
    path: Path
    parent: str

    @property
    def note(self) -> Note:
        """Note for the reader of the report."""
        return Note(code="new-object", message=f"{self.source} is new: all of it becomes part of the livepatch.")


def compile_added(
    sources: Sequence[str], *, compiler: Compiler, base: Base, layer: Path, work_dir: Path
) -> list[AddedObject]:
    """Compile the new `sources` of a patched `layer`, each in a directory of its own below `work_dir`.

    Raises BuildStopped with `compile-error`; with `init-code` if the object has code that would have to run at boot;
    with `new-file` if the object would be a module of its own.
    """
    made = []
    for number, source in enumerate(sources):
        directory = work_dir / f"added-{number}"
        directory.mkdir()
        path, parent = compiler.added(source, layer, directory)
        if parent != VMLINUX and parent not in base.module_files:
            raise BuildStopped(problem("new-file", f"{source} makes a module of its own, {parent}."))
        names = {section.name for section in ElfFile(path).sections}
        once = sorted(name for name in names if name.removeprefix(".rela").startswith(_RUN_ONCE))
        if once:
            raise BuildStopped(
                problem("init-code", f"The new {source} has code that runs at boot.", excerpt="\n".join(once))
            )
        made.append(AddedObject(source=source, path=path, parent=parent))
    return made
