# SPDX-License-Identifier: GPL-2.0-or-later
"""Changed modules that came or went while the livepatch was live, and the load on the processors meanwhile.

A module may come after the livepatch (klp_module_coming of kernel/livepatch/core.c patches it), go, and come back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from elivepatch.model.kernel import VMLINUX
from elivepatch.model.trial import ModuleChange, ModuleReload
from elivepatch.trial.case import TrialCase, module_name
from elivepatch.trial.evidence.objects import patched_objects, refused_by_livepatch, words_of
from elivepatch.trial.guest_protocol import Records

_NUMBER = re.compile(r"[0-9]{1,9}")
_OF_RELOADS = {"reloaded": "seen", "refused": "refused", "unpatched": "failed"}
_STAYS = "the livepatch stays in memory, so it is loaded once"
_NEEDS = "the livepatch uses its exported symbols, so it must come first"


def changes_of(
    scope: str, case: TrialCase, records: Records, reloads: Sequence[ModuleReload]
) -> tuple[ModuleChange, ...]:
    """Return each change of each changed module, as far as the guest came."""
    live = patched_objects(scope, "objects.1", records)
    return tuple(
        change
        for module in sorted(set(map(module_name, case.parents)) - {VMLINUX})
        if live.get(module)
        for change in (*_late(scope, module, case, records), *_reloaded(scope, module, records, reloads))
    )


def lost_modules(scope: str, case: TrialCase, records: Records) -> tuple[str, ...]:
    """Return the modules that were unloaded to be loaded late, and that did not come back by themselves."""
    return tuple(
        module
        for module in _taken(scope, case, records)
        if (step := records.step(scope, f"late.{module}")) is not None
        and not step.ok
        and not refused_by_livepatch(module, records.text(scope, "log.late"))
    )


def all_came(scope: str, case: TrialCase, records: Records) -> bool:
    """Return whether each module that was unloaded to be loaded late has a record of that load."""
    taken = _taken(scope, case, records)
    needed = [("objects", "late"), ("log", "late"), ("log", "second"), *[("late", module) for module in taken]]
    return not taken or all(records.has(scope, f"{one}.{two}") for one, two in needed)


def busy_rounds_of(scope: str, records: Records) -> tuple[int, ...]:
    """Return for each processor the calls of the task that was busy on it in the first transition and the way back."""
    steps = [step for key in ("busy.load", "busy.revert") if (step := records.step(scope, key)) is not None]
    counts = [[int(word) for word in step.words.split() if _NUMBER.fullmatch(word)] for step in steps]
    return tuple(map(sum, zip(*counts, strict=False)))


def _late(scope: str, module: str, case: TrialCase, records: Records) -> Iterator[ModuleChange]:
    taken = records.step(scope, f"taken.{module}")
    result, words = "not-tried", ""
    if case.stays or module in case.needs:
        words = _STAYS if case.stays else _NEEDS
    elif taken is None:
        return
    elif not taken.ok:
        words = words_of(taken)
    elif (late := records.step(scope, f"late.{module}")) is None or not records.has(scope, "objects.late"):
        return
    elif late.ok:
        result = "seen" if patched_objects(scope, "objects.late", records).get(module) else "failed"
        words = "" if result == "seen" else "the kernel loaded it and did not patch it"
    else:
        result = "failed" if refused_by_livepatch(module, records.text(scope, "log.late")) else "not-tried"
        words = words_of(late)
    yield ModuleChange(module=module, change="loaded-late", result=result, words=words)


def _reloaded(scope: str, module: str, records: Records, reloads: Sequence[ModuleReload]) -> Iterator[ModuleChange]:
    unloaded = records.ok(scope, f"removed.{module}")
    if unloaded:
        yield ModuleChange(module=module, change="unloaded", result="seen")
    for one in (one for one in reloads if one.module == module):
        result = _OF_RELOADS.get(one.result, "not-tried")
        for change in ("reloaded",) if unloaded else ("unloaded", "reloaded"):
            yield ModuleChange(module=module, change=change, result=result, words=one.words)


def _taken(scope: str, case: TrialCase, records: Records) -> list[str]:
    return [one for one in map(module_name, case.parents) if records.ok(scope, f"taken.{one}")]
