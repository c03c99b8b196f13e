# SPDX-License-Identifier: GPL-2.0-or-later
"""Room on a disk: asked for before long work, and watched while a stranger's archive is unpacked."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from elivepatch.model.errors import EnvironmentFault

_LEFT_BYTES = 256 << 20


def require_room(directory: Path, needed_bytes: int, work: str) -> None:
    """Raise EnvironmentFault with the code `disk-room` if the disk of a directory has less than `needed_bytes` free.

    `work` begins the sentence `... needs about 900 MiB of disk`. The directory may be missing; its parents count then.
    """
    place = next(one for one in (directory, *directory.parents) if one.exists())
    free = shutil.disk_usage(place).free
    if free < needed_bytes:
        raise EnvironmentFault(
            "disk-room",
            f"{work} needs about {needed_bytes >> 20} MiB of disk, and {directory} has {free >> 20} MiB free.",
            advice="Make room on that disk, or remove what is not needed any more: elivepatch-server kernel list and "
            "toolchain list show the sizes.",
        )


@dataclass(frozen=True, slots=True)
class RoomWatch:
    """Free room of a disk when work began. `exceeded` is cheap enough to be asked several times a second."""

    directory: Path
    free_bytes: int
    free_files: int

    @classmethod
    def begin(cls, directory: Path) -> RoomWatch:
        """Return a watch over the disk of an existing directory."""
        found = os.statvfs(directory)
        return cls(directory, found.f_bavail * found.f_frsize, found.f_favail)

    def exceeded(self, *, limit_bytes: int, limit_files: int) -> bool:
        """Return whether the disk lost more than the limits since the watch began, or is nearly full.

        Others may write to the disk too, so the limits must be far above what is expected. A file system that counts
        no files (f_favail 0) is watched by its bytes alone.
        """
        found = os.statvfs(self.directory)
        free = found.f_bavail * found.f_frsize
        lost_files = self.free_files - found.f_favail if self.free_files else 0
        return free < _LEFT_BYTES or self.free_bytes - free > limit_bytes or lost_files > limit_files

    def used_up(self, *, limit_bytes: int, limit_files: int) -> bool:
        """Return whether the disk lost three quarters of what was free, or more than the limits, since the watch began.

        Unlike `exceeded`, it lets work begin on a disk that is nearly full.
        """
        found = os.statvfs(self.directory)
        bytes_lost = self.free_bytes - found.f_bavail * found.f_frsize
        files_lost = self.free_files - found.f_favail
        return bytes_lost > min(limit_bytes, self.free_bytes * 3 // 4) or (
            self.free_files > 0 and files_lost > min(limit_files, self.free_files * 3 // 4)
        )
