# SPDX-License-Identifier: GPL-2.0-or-later
"""Answer of this host to the question whether it can load a module again that was unloaded under a livepatch."""

from __future__ import annotations

from collections.abc import Sequence

from elivepatch.client.host.findings import Finding, fine, note
from elivepatch.client.host.machine import Host

_CODE = "module-reload"


def loads_again(host: Host) -> bool | None:
    """Return whether this kernel can load a module again under a livepatch of it; None if kallsyms cannot be read."""
    from elivepatch.kernel.reload import CLEARING_FUNCTION

    wanted = f" {CLEARING_FUNCTION}\n".encode()
    line = b""
    try:
        with host.path("proc/kallsyms").open("rb") as symbols:
            for line in symbols:
                if line.endswith(wanted):
                    return True
    except OSError:
        return None
    return False if line else None


def when_loaded(host: Host) -> str:
    """Return what becomes of an object of a live livepatch that is not loaded, when it is loaded."""
    done = "the kernel patches it when it is loaded"
    if loads_again(host) is False:
        return f"{done}, but refuses to load it if it was loaded and unloaded before under the same livepatch"
    return done


def reload_finding(host: Host, modules: Sequence[str] = ()) -> Finding:
    """Return what becomes of a module that is unloaded under a livepatch of it.

    `modules` are those that a livepatch changes; without any, the finding is about the kernel.
    """
    able = loads_again(host)
    which = ", ".join(modules) or "a module that a livepatch changes"
    if able is None:
        return fine(_CODE, f"it is not known if {which} can be loaded again under a livepatch: no /proc/kallsyms")
    if able:
        return fine(_CODE, f"{which} can be unloaded and loaded again under a livepatch")
    return note(
        _CODE,
        f"This kernel cannot load {which} a second time under the same livepatch: once unloaded, it stays away.",
        "Do not unload such a module or its device's driver while a livepatch changes it. If it is gone: `elivepatch "
        "disable NAME`, `modprobe MODULE`, `elivepatch enable NAME`; or reboot. Linux 6.3 and later can load it again.",
    )
