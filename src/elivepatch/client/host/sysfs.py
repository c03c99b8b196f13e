# SPDX-License-Identifier: GPL-2.0-or-later
"""Livepatches of the kernel, read from /sys/kernel/livepatch.

Source: Documentation/ABI/testing/sysfs-kernel-livepatch. `patched` came with Linux 6.1, `replace` with 6.11 and
`stack_order` with 6.14. A livepatch's directory disappears by itself after it was disabled or replaced (since 5.1), so
any read may find it gone.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from elivepatch.client.host.identity import loaded_modules
from elivepatch.client.host.machine import Host
from elivepatch.model.kernel import Release

DIRECTORY = "sys/kernel/livepatch"
_ATTRIBUTES = frozenset({"enabled", "transition", "force", "replace", "stack_order", "patched"})


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveFunction:
    """One replaced function: `object` is `vmlinux` or a module, `sympos` counts from 1."""

    object: str
    name: str
    sympos: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelLivepatch:
    """One directory of /sys/kernel/livepatch.

    `enabled` is the goal of the kernel: during a transition to enabled it is already true. `replace` is None if the
    kernel does not show it. `objects` maps `vmlinux` or a module's name to True if it is patched now, and to None if
    the kernel does not show it: a module that is not loaded is not patched.
    """

    name: str
    enabled: bool
    transition: bool
    replace: bool | None
    objects: dict[str, bool | None]
    functions: tuple[LiveFunction, ...]

    @property
    def settled(self) -> bool:
        """Return whether the livepatch is in force for every task."""
        return self.enabled and not self.transition

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping of the fields."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Rules of this kernel for livepatches. `only_top`: only the newest one may be disabled.

    `replace`: a livepatch may replace all others at once. Both changed with Linux 5.1. Since then a disabled livepatch
    cannot be enabled again; its module must be loaded again, which works on older kernels too.
    """

    only_top: bool
    replace: bool

    @classmethod
    def of(cls, release: Release) -> Rules:
        """Return the rules of a kernel by its release."""
        found = re.match(r"(\d+)\.(\d+)", release)
        modern = found is not None and (int(found[1]), int(found[2])) >= (5, 1)
        return cls(only_top=not modern, replace=modern)


def read_livepatch(host: Host, name: str) -> KernelLivepatch | None:
    """Return one livepatch of the kernel, None if it has none of that name."""
    base = f"{DIRECTORY}/{name}"
    enabled, transition = host.text(f"{base}/enabled"), host.text(f"{base}/transition")
    if enabled is None or transition is None:
        return None
    replace = host.text(f"{base}/replace")
    objects: dict[str, bool | None] = {}
    functions: list[LiveFunction] = []
    for item in _entries(host, base):
        patched = host.text(f"{base}/{item}/patched")
        objects[item] = None if patched is None else patched == "1"
        functions.extend(_functions(host, base, item))
    return KernelLivepatch(
        name=name,
        enabled=enabled == "1",
        transition=transition == "1",
        replace=None if replace is None else replace == "1",
        objects=objects,
        functions=tuple(functions),
    )


def read_livepatches(host: Host) -> tuple[KernelLivepatch, ...]:
    """Return all livepatches of the kernel, the oldest first; empty if the kernel has no livepatching."""
    found = [one for name in _entries(host, DIRECTORY) if (one := read_livepatch(host, name)) is not None]
    loaded = [module.name for module in loaded_modules(host)]

    def age(one: KernelLivepatch) -> tuple[int, int]:
        stack = host.text(f"{DIRECTORY}/{one.name}/stack_order")
        order = int(stack) if stack and stack.isdecimal() else 0
        return order, -loaded.index(one.name) if one.name in loaded else 0

    return tuple(sorted(found, key=age))


def supported(host: Host) -> bool:
    """Return whether the running kernel has livepatching."""
    return host.path(DIRECTORY).is_dir()


def _functions(host: Host, base: str, item: str) -> list[LiveFunction]:
    found = []
    for entry in _entries(host, f"{base}/{item}"):
        name, separator, position = entry.rpartition(",")
        if separator and position.isdecimal():
            found.append(LiveFunction(object=item, name=name, sympos=int(position)))
    return found


def _entries(host: Host, directory: str) -> list[str]:
    try:
        return sorted(item.name for item in host.path(directory).iterdir() if item.name not in _ATTRIBUTES)
    except OSError:
        return []
