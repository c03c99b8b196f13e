# SPDX-License-Identifier: GPL-2.0-or-later
"""Numbers that the preparation of a tree computes from headers and writes into headers that all code includes.

They are include/generated/bounds.h, asm-offsets.h and, on newer kernels, rq-offsets.h: make compiles a source to
assembly and takes the lines that contain `->` (Kbuild and scripts/Makefile.lib of the kernel, `filechk_offsets`). Our
trees are prepared once, before a series is applied, so objects would be compiled with the old numbers.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from elivepatch.build.base.store import Base
from elivepatch.build.objects.compile import require_compiled, saved_command
from elivepatch.build.sandbox.bubblewrap import Sandbox, writable_directory
from elivepatch.build.sandbox.output import take
from elivepatch.model.codes import problem
from elivepatch.model.errors import BuildStopped
from elivepatch.process import Cancellation

SOURCES = ("kernel/bounds.c", "arch/x86/kernel/asm-offsets.c", "kernel/sched/rq-offsets.c")
"""The sources; a tree may lack the last one."""

_LIMIT_BYTES = 16 << 20
_TIMEOUT_S = 300
_LINE = re.compile(rb'(?m)^\s*(?:\.ascii\s+")?->(\w+) \$?(-?\w+)')


def numbers(assembly: bytes) -> dict[str, str]:
    """Return the numbers that the assembly of such a source defines, by name."""
    return {name.decode(): value.decode() for name, value in _LINE.findall(assembly)}


def check_numbers(
    users: Collection[str],
    *,
    base: Base,
    sandbox: Sandbox,
    layer: Path,
    work_dir: Path,
    cancellation: Cancellation | None,
) -> None:
    """Raise BuildStopped if a series changes one of the numbers.

    `users` are the files that include what the series changes, `layer` holds its files. Raises EnvironmentFault if make
    saved no command for the assembly.
    """
    for source in SOURCES:
        assembly = f"{source.removesuffix('.c')}.s"
        if source not in users or not (base.tree / assembly).is_file():
            continue
        kept = base.tree / Path(source).parent / f".{Path(assembly).name}.cmd"
        command = saved_command(kept.read_text(encoding="utf-8", errors="replace"))
        output = writable_directory(work_dir / f"numbers-{Path(source).stem}")
        done = sandbox.run(
            ["sh", "-c", f'{command} && cp -- "$S" /out/assembly'], layers=[base.tree, layer], output=output,
            env={"S": assembly}, timeout_s=_TIMEOUT_S, cancellation=cancellation,
        )  # fmt: skip
        require_compiled(done, source, f"{source} does not compile with the series.")
        old, new = (
            numbers((base.tree / assembly).read_bytes()),
            numbers(take(output, "assembly", limit_bytes=_LIMIT_BYTES)),
        )
        changed = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
        if changed:
            name = changed[0]
            more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
            message = (
                f"The series changes {name}, which make computes in {source}, from {old.get(name, 'nothing')} to "
                f"{new.get(name, 'nothing')}{more}: the running kernel was compiled with the old number."
            )
            raise BuildStopped(problem("data-layout", message))
