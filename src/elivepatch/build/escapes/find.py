# SPDX-License-Identifier: GPL-2.0-or-later
"""Search of diff objects or a module for what outlives the livepatch, with objdump in the sandbox."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from elivepatch.build.base.store import Base
from elivepatch.build.escapes.flow import Escape, find_escapes
from elivepatch.build.escapes.image import Image, Node, Outside
from elivepatch.build.sandbox.bubblewrap import Sandbox
from elivepatch.kernel.disassembly import read_listing
from elivepatch.kernel.elf import ElfFile
from elivepatch.kernel.prototypes import Prototype, prototypes
from elivepatch.model.kernel import VMLINUX
from elivepatch.process import Cancellation


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCode:
    """A file with new code of the object `parent`: a diff object, or a module; `resolved` as in `Image`."""

    path: Path
    parent: str = VMLINUX
    resolved: Mapping[Node, Outside] = field(default_factory=dict)


def escapes_of(
    codes: Iterable[NewCode], base: Base, *, sandbox: Sandbox, cancellation: Cancellation | None = None
) -> tuple[Escape, ...]:
    """Return the addresses of their own that `codes` hand out on the kernel of `base`."""

    def prototype(outside: Outside) -> Prototype | None:
        if outside.object != VMLINUX and outside.object not in base.module_files:
            return None
        module = None if outside.object == VMLINUX else base.parent(outside.object).elf
        return prototypes(base.vmlinux.elf, module).get(outside.name)

    found: list[Escape] = []
    for code in codes:
        done = sandbox.run(
            ["objdump", "-dlw", "--no-show-raw-insn", f"/in/{code.path.name}"],
            inputs=code.path.parent,
            timeout_s=120,
            cancellation=cancellation,
        ).check(f"Disassembling {code.path.name}")
        image = Image(ElfFile(code.path), tuple(read_listing(done.text)), code.resolved)
        found += find_escapes(image, prototype, code.parent)
    return tuple(found)
