# SPDX-License-Identifier: GPL-2.0-or-later
"""The identity of a kernel: what a livepatch is bound to."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import NewType

from elivepatch.model.errors import UsageError

Release = NewType("Release", str)
"""`uname -r`, for example `6.1.0-50-cloud-amd64`."""

BuildId = NewType("BuildId", str)
"""The GNU build-id of vmlinux, lower-case hexadecimal."""

Digest = NewType("Digest", str)
"""A SHA-256, 64 lower-case hexadecimal digits."""

VMLINUX = "vmlinux"
"""The object that is the kernel itself; every other object of a livepatch is a module."""

_RELEASE = re.compile(r"[0-9]+\.[0-9]+[A-Za-z0-9.+~_-]{0,80}")


def parse_release(text: str) -> Release:
    """Return `text` as a kernel release; raises UsageError if it is not one.

    The release becomes part of package and file names. So it may hold the characters of Debian's package names, and `_`
    and `~` for local versions, but never a slash.
    """
    if not _RELEASE.fullmatch(text) or ".." in text:
        raise UsageError(
            "kernel-release",
            f"{text[:80]!r} is not a kernel release.",
            advice="Give what `uname -r` prints on the host, for example 6.1.0-50-cloud-amd64.",
        )
    return Release(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelIdentity:
    """The facts that distinguish one built kernel from every other."""

    release: Release
    build_id: BuildId
    arch: str
    config_digest: Digest
    compiler: str

    def as_dict(self) -> dict[str, str]:
        """Return a JSON-ready mapping of the fields."""
        return asdict(self)
