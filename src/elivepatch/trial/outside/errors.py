# SPDX-License-Identifier: GPL-2.0-or-later
"""The one exception of this folder: the guest could not be looked at. It says nothing about the livepatch."""

from __future__ import annotations

from elivepatch.model.errors import EnvironmentFault


class NotSeen(EnvironmentFault):
    """The guest's memory could not be read or understood; `reason` completes `not seen from outside, because ...`."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            "trial-not-seen",
            f"The guest's memory was not seen from outside, because {reason}.",
            advice="The trial's other evidence stands. Try again; the versions of QEMU and of the kernel may not fit.",
        )
        self.reason = reason
