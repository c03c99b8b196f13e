# SPDX-License-Identifier: GPL-2.0-or-later
"""Inventory: every livepatch that the kernel has or the record knows, in one list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from elivepatch.client.host.identity import LoadedModule
from elivepatch.client.host.sysfs import KernelLivepatch
from elivepatch.client.livepatch.live_state import LiveState
from elivepatch.client.livepatch.state import SetEntry


def counted(number: int, noun: str) -> str:
    """Return `1 function`, `2 functions`, `2 patches`."""
    ending = "" if number == 1 else "es" if noun.endswith("ch") else "s"
    return f"{number} {noun}{ending}"


def described(live_state: LiveState, modules: Sequence[LoadedModule]) -> list[dict[str, Any]]:
    """Return a row for each livepatch: the kernel's first, in the order of loading, then those that are only recorded.

    `state` is `live`, `moving-in`, `moving-out`, `disabled` (its module is still loaded), `pinned` (it is
    out of force and its module stays until a reboot: a forced transition removed it, or it handed out addresses) or
    `recorded`. `not_loaded` are its objects that are not loaded and therefore not patched. `stays_in_memory` says of a
    loaded one that it cannot be unloaded before a reboot.
    """
    known = live_state.record.known
    loaded = {module.name: "pinned" if module.uses or module.permanent else "disabled" for module in modules}
    staying = {module.name for module in modules if module.permanent}
    rows = []
    for one in live_state.kernel:
        moving = "moving-in" if one.enabled else "moving-out"
        out = "pinned" if one.name in staying else "disabled"
        state = moving if one.transition else "live" if one.enabled else out
        entry = known.pop(one.name, None)
        functions = [asdict(function) for function in one.functions]
        shown = {"objects": dict(one.objects), "functions": functions, "not_loaded": _not_loaded(one, modules)}
        rows.append(_row(one.name, state, entry) | shown)
    rows += [_row(name, loaded.get(name, "recorded"), entry) for name, entry in sorted(known.items())]
    for row in rows:
        row["stays_in_memory"] = row["state"] == "pinned" or row["name"] in staying
    return rows


def _not_loaded(one: KernelLivepatch, modules: Sequence[LoadedModule]) -> list[str]:
    loaded = {"vmlinux", *(module.name for module in modules)}
    return sorted(name for name, patched in one.objects.items() if not patched and name not in loaded)


def _row(name: str, state: str, entry: SetEntry | None) -> dict[str, Any]:
    return {
        "name": name,
        "state": state,
        "recorded": entry is not None,
        "replace": entry.replace if entry is not None else None,
        "digest": entry.digest if entry is not None else None,
        "build_key": entry.build_key if entry is not None else None,
        "series": [asdict(patch) for patch in entry.series] if entry is not None else [],
        "objects": {},
        "functions": [],
        "not_loaded": [],
    }
