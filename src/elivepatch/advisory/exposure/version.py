# SPDX-License-Identifier: GPL-2.0-or-later
"""Vanilla kernel versions: parsing them, and deciding if one contains a change that another one brought."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

from elivepatch.model.errors import UsageError

_VERSION = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,4}){1,3})(?:-rc([1-9][0-9]?))?")
_DISTRIBUTION_ABI = re.compile(r"[0-9]+\.[0-9]+\.0-[0-9]+(?:\.bpo\.[0-9]+)?-[a-z][a-z0-9-]*")
_BUILD = re.compile(r"([0-9]+\.[0-9]+(?:\.[0-9]+)*)(?:[-+~_](?!rc)|\.[a-z])[ -~]*")

_LAST_MINOR = {3: 19, 4: 20, 5: 19, 6: 19}
"""The last release of each finished series: a version beyond it never existed."""

_OLDEST = (2, 6, 12)  # the start of the kernel's git history, and so of the list
_LAST_26 = 39
_LONGEST = 30  # more characters than any version has
_KEPT = 16_384  # versions that are made once: the list names some 5,000, each of them many times
_RELEASED = 1_000  # sorts a release after all its candidates


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelVersion:
    """One vanilla version.

    `branch` is the mainline release it stands on: (6, 1) of 6.1.176, (2, 6, 32) of 2.6.32.9. `level` is the stable
    update, 0 for the mainline release itself. `rc` is N of -rcN, None for a release. `order` is a key that sorts by
    branch, then update, candidates before their release; it and the text are made once: an answer needs them
    a hundred thousand times.
    """

    branch: tuple[int, ...]
    level: int = 0
    rc: int | None = None
    order: tuple[tuple[int, ...], int, int] = field(init=False, repr=False, compare=False)
    _text: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        text = ".".join(str(part) for part in self.branch) + (f".{self.level}" if self.level else "")
        object.__setattr__(self, "_text", text if self.rc is None else f"{text}-rc{self.rc}")
        object.__setattr__(self, "order", (self.branch, self.level, _RELEASED if self.rc is None else self.rc))

    def __str__(self) -> str:
        return self._text

    @property
    def mainline(self) -> bool:
        """True for a mainline release or candidate, which each later branch starts from."""
        return self.level == 0


BEGINNING = KernelVersion(branch=())
"""Stands for an introduction that is not known: older than every version and contained in all of them."""


def listed_version(text: str) -> KernelVersion | None:
    """Return a version as the CVE list writes them (6.1, 6.1.176, 2.6.32.9, 6.13-rc2), None if none can be read.

    None too for versions that cannot exist: before 2.6.12, or beyond the last release of a finished series.
    """
    return _listed(text) if len(text) <= _LONGEST else None


@lru_cache(maxsize=_KEPT)
def _listed(text: str) -> KernelVersion | None:
    found = _VERSION.fullmatch(text)
    if found is None:
        return None
    parts = tuple(int(part) for part in found[1].split("."))
    width = 3 if parts[:2] == (2, 6) else 2
    if not width <= len(parts) <= width + 1:
        return None
    branch, level = parts[:width], parts[width] if len(parts) > width else 0
    if branch < _OLDEST or (2, 6, _LAST_26) < branch < (3,):
        return None
    if branch[1] > _LAST_MINOR.get(branch[0], branch[1]):
        return None
    return KernelVersion(branch=branch, level=level, rc=int(found[2]) if found[2] else None)


@lru_cache(maxsize=_KEPT)
def next_release(version: KernelVersion) -> KernelVersion:
    """Return the mainline release after that of a version: 5.11 of 5.10.43, 7.0 of 6.19.1."""
    if version.branch[:2] == (2, 6):
        branch = (3, 0) if version.branch[2] >= _LAST_26 else (2, 6, version.branch[2] + 1)
    elif not version.branch:
        branch = _OLDEST
    else:
        series, minor = version.branch
        branch = (series + 1, 0) if minor == _LAST_MINOR.get(series) else (series, minor + 1)
    return KernelVersion(branch=branch)


def parse_kernel_version(text: str) -> KernelVersion:
    """Return the vanilla version that a person gave.

    Raises UsageError if it is none; the advice names what to give instead. A distribution's release or package version
    is refused: `6.1.0-50-cloud-amd64` does not contain the base version at all, and `6.1.176-1` hides the patches that
    the distribution added, so that the answer would look more certain than it is.
    """
    version = listed_version(text)
    if version is not None:
        return version
    if _DISTRIBUTION_ABI.fullmatch(text):
        raise UsageError(
            "cve-kernel-distribution",
            f"{text[:80]!r} is a distribution's release: the vanilla version it is built from cannot be read from it.",
            advice="Run `uname -v` there: if it prints Debian 6.1.176-1, give --kernel 6.1.176 (Ubuntu has it in "
            "/proc/version_signature). Fixes that the distribution added itself are not seen by the answer.",
        )
    build = _BUILD.fullmatch(text)
    base = listed_version(build[1]) if build else None
    if base is not None:
        raise UsageError(
            "cve-kernel-distribution",
            f"{text[:80]!r} names a build, not a vanilla version: the CVE list does not know the patches added to it.",
            advice=f"Give the vanilla version that it is built from; if that is {base}, give --kernel {base}. "
            "Fixes that were added to the build are not seen by the answer.",
        )
    raise UsageError(
        "cve-kernel-version",
        f"{text[:80]!r} is not a vanilla kernel version that the CVE list can know.",
        advice="Give a vanilla version from 2.6.12 on, for example --kernel 6.1.176 or --kernel 7.1-rc3.",
    )


def reached(change: KernelVersion, kernel: KernelVersion) -> bool | None:
    """Return whether `kernel` contains a change that came with `change`; None if the versions do not decide it.

    A mainline release is in every later branch, a stable update only in the later updates of its own branch
    (Documentation/process/2.Process.rst). The list names the release, not the candidate, with which a change came,
    so a candidate of that very release may or may not have it.
    """
    if change.branch != kernel.branch:
        return change.mainline and change.branch < kernel.branch
    if change.level != kernel.level:
        return change.level < kernel.level
    if kernel.rc is None:
        return True
    return None if change.rc is None else change.rc <= kernel.rc
