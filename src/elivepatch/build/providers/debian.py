# SPDX-License-Identifier: GPL-2.0-or-later
"""The provider `debian`: kernels of Debian's archive, as the server's apt configuration reaches it."""

from __future__ import annotations

from elivepatch.build.base.stock import StockMaker
from elivepatch.build.base.store import Base
from elivepatch.build.providers.provision import NotProvided
from elivepatch.model.errors import EnvironmentFault
from elivepatch.model.kernel_request import KernelRequest


class DebianProvider:
    """Makes bases of stock kernels."""

    name = "debian"

    def __init__(self, maker: StockMaker) -> None:
        self._maker = maker

    def provide(self, asked: KernelRequest) -> Base | NotProvided:
        """Make the base if the archive has a kernel of exactly this release."""
        try:
            return self._maker.add(asked.release)
        except EnvironmentFault as fault:
            if fault.problem.code != "kernel-not-in-archive":
                raise
            return NotProvided(
                why=fault.problem.message,
                advice="A kernel that its operator built is added with its source and configuration (docs/custom.md).",
            )
