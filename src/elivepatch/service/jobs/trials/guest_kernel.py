# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel of a base as a trial boots it."""

from __future__ import annotations

from elivepatch.build.base.store import Base
from elivepatch.model.kernel import VMLINUX
from elivepatch.trial.case import GuestKernel


def guest_kernel(base: Base) -> GuestKernel:
    """Return what a trial boots for a base."""
    return GuestKernel(
        release=base.release,
        build_id=base.build_id,
        image=base.directory / "vmlinuz",
        modules_dir=base.directory / "modules",
        vmlinux=base.directory / VMLINUX,
    )
