# SPDX-License-Identifier: GPL-2.0-or-later
"""Places where distributions put the files of a kernel in their packages.

Every place has the release in its name, so a file is never taken for that of another kernel. docs/kernels.md says which
of them were seen in real packages.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

_PACKED = r"(?:\.(?:xz|gz|zst|bz2))?"
_MODULE = r"(?:[A-Za-z0-9_+.,@~=:-]+/)*[A-Za-z0-9_+.,@~=:-]+\.ko"
_PACKED_MODULE = rf"{_MODULE}(?:\.(?:xz|gz|zst))?"
_OF_A_KERNEL = re.compile(r"(?:^|/)lib/modules/([0-9]+\.[0-9]+[A-Za-z0-9.+~_-]*)/(?:kernel/|modules\.order$|vmlinuz$)")


class Role(Enum):
    """Use of a file of a kernel; the value names it in a refusal, with the packages that usually have it."""

    IMAGE = "vmlinuz, its image for booting (linux-image, kernel-core, kernel-default, linux)"
    CONFIG = "its configuration (linux-image, linux-modules, kernel-core, kernel-devel, linux-headers)"
    EXPORTS = "Module.symvers (linux-headers, kernel-devel)"
    KERNEL = "vmlinux with debug information (-dbg, -dbgsym, -debuginfo)"
    MODULE = "its modules"
    TABLE = "modules.order, the list of its modules (linux-image, linux-modules, kernel-core, kernel)"
    DEBUG = "debug files of its modules"


class Place(NamedTuple):
    """Role of a file of a kernel. Of two files of a role the lower `rank` counts.

    `name` is that of a module, a list or a debug file below its directory, of another file without its directories.
    """

    role: Role
    rank: int
    name: str


_PLACES: tuple[tuple[Role, str], ...] = (
    (Role.IMAGE, r"boot/vmlinuz-{release}"),
    (Role.IMAGE, r"lib/modules/{release}/vmlinuz"),
    (Role.CONFIG, r"boot/config-{release}"),
    (Role.CONFIG, r"lib/modules/{release}/(?:build/\.)?config"),
    (Role.CONFIG, r"usr/src/(?:linux-headers-|kernels/){release}/\.config"),
    (Role.EXPORTS, r"usr/src/(?:linux-headers-|kernels/){release}/Module\.symvers"),
    (Role.EXPORTS, r"lib/modules/{release}/build/Module\.symvers"),
    (Role.EXPORTS, r"(?:boot/symvers-{release}|lib/modules/{release}/symvers)" + _PACKED),
    (Role.KERNEL, r"usr/lib/debug/lib/modules/{release}/vmlinux(?:\.debug)?"),
    (Role.KERNEL, r"(?:usr/lib/debug/(?:boot/)?)?vmlinux-{release}(?:\.debug)?"),
    (Role.KERNEL, r"(?:boot/vmlinux-{release}|lib/modules/{release}/(?:build/)?vmlinux)" + _PACKED),
    (Role.DEBUG, rf"usr/lib/debug/lib/modules/{{release}}/({_MODULE}\.debug|{_PACKED_MODULE})"),
    (Role.DEBUG, rf"lib/modules/{{release}}/({_MODULE}\.debug)"),
    (Role.TABLE, r"lib/modules/{release}/(modules\.[a-z.]+)"),
    (Role.MODULE, rf"lib/modules/{{release}}/({_PACKED_MODULE})"),
)


def plain_name(name: str) -> str:
    """Return the name of a file in a package as `place_of` takes it: relative, without the `usr/` of a merged /usr."""
    relative = posixpath.normpath(f"/{name.strip()}").lstrip("/")
    return re.sub(r"(^|/)usr/lib/modules/", r"\1lib/modules/", relative)


def place_of(plain: str, release: str) -> Place | None:
    """Return the place of a file of the kernel `release`, None for a file that no base needs."""
    if release not in plain:
        return None
    for rank, (role, form) in enumerate(_forms(release)):
        if found := form.fullmatch(plain):
            return Place(role, rank, found[1] if found.groups() else posixpath.basename(plain))
    return None


def releases_in(names: Iterable[str]) -> set[str]:
    """Return the releases of the kernels that files with these plain names belong to."""
    return {found[1] for name in names if (found := _OF_A_KERNEL.search(name))}


@lru_cache(maxsize=8)
def _forms(release: str) -> tuple[tuple[Role, re.Pattern[str]], ...]:
    return tuple((role, re.compile(form.replace("{release}", re.escape(release)))) for role, form in _PLACES)
