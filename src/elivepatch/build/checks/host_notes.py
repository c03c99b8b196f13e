# SPDX-License-Identifier: GPL-2.0-or-later
"""Notes about a livepatch on the hosts that will run it: threads that hold it up, modules that cannot come back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from elivepatch.build.base.store import Base
from elivepatch.build.checks.threads import thread_mains
from elivepatch.kernel.elf import ElfFile, Symbol
from elivepatch.kernel.reload import CLEARING_FUNCTION, relocated_modules
from elivepatch.model.build import BuildOutcome, Note, PatchedFunction
from elivepatch.model.kernel import VMLINUX


def host_notes(outcome: BuildOutcome, base: Base) -> Iterator[Note]:
    """Yield the notes about a built livepatch, or about one that a check found possible; none about a refusal."""
    if outcome.problem is None:
        yield from _threads(outcome, base)
        yield from _reload(outcome, base)


def _threads(outcome: BuildOutcome, base: Base) -> Iterator[Note]:
    functions: dict[str, list[Symbol]] = defaultdict(list)
    for one in outcome.functions:
        functions[one.object].append(_symbol(one, base))
    for place, symbols in functions.items():
        for main in thread_mains(base.parent(place), symbols):
            if main.waits:
                yield Note(
                    code="thread-main",
                    message=f"{main.symbol.name} of {place} is the main function of a kernel thread and waits in "
                    "itself: while such a thread exists, the livepatch's transition cannot end and is reversed. Change "
                    "a function that it calls instead, or reboot into a fixed kernel.",
                )
            else:
                yield Note(
                    code="thread-function",
                    message=f"{main.symbol.name} of {place} is the main function of a kernel thread: the livepatch's "
                    "transition waits until no such thread runs.",
                )


def _reload(outcome: BuildOutcome, base: Base) -> Iterator[Note]:
    if CLEARING_FUNCTION in base.vmlinux.named:
        return
    changed = {one.object for one in outcome.functions} - {VMLINUX}
    # A check has no module yet: nearly every livepatch of a module has relocations for it.
    modules = changed if outcome.module is None else changed & set(relocated_modules(ElfFile(outcome.module)))
    if modules:
        names = ", ".join(sorted(modules))
        yield Note(
            code="module-reload",
            message=f"The kernel {base.release} cannot load {names} a second time under the same livepatch: do not "
            "unload it while the livepatch is live. If it is gone, disable the livepatch, load the module, and enable "
            "the livepatch again; or reboot.",
        )


def _symbol(function: PatchedFunction, base: Base) -> Symbol:
    return base.parent(function.object).named[function.name][max(function.sympos - 1, 0)]
