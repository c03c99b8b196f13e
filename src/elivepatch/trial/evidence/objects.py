# SPDX-License-Identifier: GPL-2.0-or-later
"""Objects of a livepatch in the guest: those that were live there, and those that were loaded a second time.

The kernel says of each object whether it is patched (/sys/kernel/livepatch/NAME/OBJECT/patched, since Linux 6.1). An
object that is not loaded is not patched, and a livepatch is enabled all the same: nothing of it was tried then.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from elivepatch.model.kernel import VMLINUX
from elivepatch.model.trial import ModuleReload, NotLive
from elivepatch.trial.case import TrialCase, module_name
from elivepatch.trial.guest_protocol import Records, Step

_LINE = re.compile(r"([A-Za-z0-9_]{1,55}) ([01-]) ([01])")
_BUSYBOX_PREFIX = re.compile(r"^(?:insmod: can't insert|rmmod: can't unload module) '[^']*': ")
_NO_HARDWARE = ("No such device", "Operation not supported", "not supported")  # ENODEV, ENXIO and EOPNOTSUPP


def not_live(scope: str, case: TrialCase, records: Records, missing: Sequence[str]) -> tuple[NotLive, ...]:
    """Return the objects of the livepatch that were not live while it was enabled, each with the reason.

    `missing` are the modules that the kernel's package lacks. Empty if the guest did not come so far.
    """
    if not records.has(scope, "objects.1"):
        return ()
    seen = patched_objects(scope, "objects.1", records)
    wanted = {module_name(parent) for parent in case.parents} - {VMLINUX}
    names = [name for name in sorted(wanted | set(seen)) if not seen.get(name, False)]
    return tuple(NotLive(object=name, why=_why(scope, name, records, missing)) for name in names)


def reloads_of(scope: str, case: TrialCase, records: Records) -> tuple[ModuleReload, ...]:
    """Return how each changed module was loaded again while the livepatch was live.

    `result` is as ModuleReload says, or `unpatched` for a module that came back without its change.
    """
    if not records.has(scope, "objects.2"):
        return ()
    after = patched_objects(scope, "objects.2", records)
    found = []
    for module in sorted({module_name(parent) for parent in case.parents}):
        removed, added = records.step(scope, f"removed.{module}"), records.step(scope, f"added.{module}")
        if removed is not None and not removed.ok:
            found.append(ModuleReload(module=module, result="not-tried", words=words_of(removed)))
        elif added is not None:
            found.append(_added(module, added, patched=after.get(module), records=records, scope=scope))
    return tuple(found)


def came_back(scope: str, case: TrialCase, records: Records) -> bool:
    """Return whether each module that was unloaded has a record of its second load."""
    names = [module_name(parent) for parent in case.parents]
    removed = [name for name in names if (step := records.step(scope, f"removed.{name}")) is not None and step.ok]
    return all(records.step(scope, f"added.{name}") is not None for name in removed)


def refused_by_livepatch(module: str, log: str) -> bool:
    """Return whether the livepatch core has refused a module that it could not patch; its message names the module."""
    return f"refusing to load module '{module}'" in log


def patched_objects(scope: str, key: str, records: Records) -> Mapping[str, bool]:
    """Return for each object of the record `key` whether it was patched."""
    return _objects(records.step(scope, key))


def words_of(step: Step) -> str:
    """Return the output of a program in the guest, without file names that have no meaning outside it."""
    reason = _BUSYBOX_PREFIX.sub("", " ".join(step.words.split()))
    return reason[:300].rstrip(".") or f"status {step.status}"


def _added(module: str, added: Step, *, patched: bool | None, records: Records, scope: str) -> ModuleReload:
    if added.ok:
        return ModuleReload(module=module, result="reloaded" if patched else "unpatched")
    if not refused_by_livepatch(module, records.text(scope, "log.reload")):
        return ModuleReload(module=module, result="not-tried", words=words_of(added))
    able = not records.has(scope, "no-reload")
    return ModuleReload(module=module, result="unpatched" if able else "refused", words=words_of(added))


def _objects(step: Step | None) -> Mapping[str, bool]:
    """Return for each object whether it is patched; kernels before 6.1 say only whether it is loaded."""
    lines = step.words.splitlines() if step is not None else []
    found = [line for line in map(_LINE.fullmatch, lines) if line is not None]
    return {line[1]: (line[2] if line[2] != "-" else line[3]) == "1" for line in found}


def _why(scope: str, name: str, records: Records, missing: Sequence[str]) -> str:
    if name in missing:
        return "the kernel's package does not have it"
    step = records.step(scope, f"module.{name}")
    if step is None:
        return "it was not loaded in the guest"
    if step.ok:
        return "the kernel did not patch it"
    words = words_of(step)
    if any(reason in words for reason in _NO_HARDWARE):
        return f"the guest lacks the hardware that it needs ({words})"
    return f"the guest's kernel refused to load it ({words})"
