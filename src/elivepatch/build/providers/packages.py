# SPDX-License-Identifier: GPL-2.0-or-later
"""The provider `packages`: kernels whose packages are in a directory of the server's operator.

The packages are .deb, .rpm or pacman's. They come from outside: only programs in the sandbox read them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from elivepatch.build.base.common import require_livepatch
from elivepatch.build.base.custom import CustomKernel, CustomMaker
from elivepatch.build.base.store import Base
from elivepatch.build.packages.kernel import KernelFiles, KernelTaker
from elivepatch.build.packages.layout import plain_name, releases_in
from elivepatch.build.packages.reader import Listing, PackageReader
from elivepatch.build.packages.source import FoundSource, find_source
from elivepatch.build.packages.tools import make_tools
from elivepatch.build.providers.provision import NotProvided, require_same_build
from elivepatch.build.providers.source import Declared, declared_for
from elivepatch.files.digest import sha256_file
from elivepatch.files.room import require_room
from elivepatch.kernel.config import parse_config
from elivepatch.model.errors import UsageError
from elivepatch.model.kernel_request import KernelRequest

_SHOWN = 5
_UNPACKED_TIMES = 8  # a debug package of 1.0 GB holds 6.8 GB
_BASE_BYTES = 3 << 30


class PackagesProvider:
    """Makes the base of a kernel from the packages in `directory`, None if the operator names no directory."""

    name = "packages"

    def __init__(
        self, maker: CustomMaker, declared: Sequence[Declared], directory: Path | None, work_dir: Path
    ) -> None:
        self._maker = maker
        self._declared = declared
        self._directory = directory
        self._work_dir = work_dir

    def provide(self, asked: KernelRequest) -> Base | NotProvided:
        """Make the base if the directory has packages of exactly this release."""
        if self._directory is None:
            return NotProvided(
                why="This server has no directory of packages.",
                advice="Its operator names one in the setting `packages` (docs/kernels.md).",
            )
        context = self._maker.context
        context.report(f"{asked.release}: looking through the packages", 0.0)
        reader = self._reader(self._directory)
        listing = reader.listing()
        files = self._taken(reader, listing, asked)
        if files is None:
            return _nothing_of(asked.release, listing)
        require_same_build(files.kept.vmlinux, asked, whose="The vmlinux of the packages")
        declared = declared_for(self._declared, asked.release)
        context.report(f"{asked.release}: looking for its source")
        if declared is not None:
            source = FoundSource(named=declared.source_of(asked.release), package="")
        else:
            source = self._source(reader, listing, files, asked)
        used = [*files.origins, *([source.package] if source.package else [])]
        return self._maker.add(
            CustomKernel(
                release=asked.release,
                source=source.named,
                config=files.config,
                base_patches=declared.base_patches if declared is not None else (),
                kept=files.kept,
                build_id=asked.build_id or None,
                built_in=source.built_in,
                packages={path: sha256_file(reader.directory / path) for path in used},
            )
        )

    def _reader(self, directory: Path) -> PackageReader:
        tools = self._work_dir / "tools"
        make_tools(tools)
        return PackageReader(
            directory=directory.resolve(), helper=self._maker.context.helper_sandbox(), tools=tools
        )  # fmt: skip

    def _taken(self, reader: PackageReader, listing: Listing, asked: KernelRequest) -> KernelFiles | None:
        taker = KernelTaker(reader, listing, asked.release, self._work_dir / "kernel")
        packed = taker.packed_bytes()
        if packed:
            require_room(self._work_dir, packed * _UNPACKED_TIMES + _BASE_BYTES, f"The base of {asked.release}")
            self._require_servable(taker.take_config())
            self._maker.context.report(f"{asked.release}: unpacking its packages")
        return taker.take()

    def _require_servable(self, config: Path | None) -> None:
        """Raise as making the base would, before a gigabyte of debug information is unpacked."""
        if config is not None:
            parsed = parse_config(config.read_bytes())
            require_livepatch(parsed)
            self._maker.context.toolchain(parsed)

    def _source(self, reader: PackageReader, listing: Listing, files: KernelFiles, asked: KernelRequest) -> FoundSource:
        found = find_source(reader, listing, files.packages, self._work_dir / "source")
        if found is None:
            raise UsageError(
                "packages-incomplete",
                f"The packages of {asked.release} are not all there: no package has its source.",
                advice="Fetch its source package into the directory (linux-source of the same version, a .dsc, or the "
                "source RPM that its packages name); or declare the source in the file of the setting `sources`.",
            )
        return found


def _nothing_of(release: str, listing: Listing) -> NotProvided:
    names = [plain_name(name) for package in listing.packages for name in package.names]
    known = sorted(releases_in(names))
    have = f"they are of {', '.join(known[:_SHOWN])}{', ...' * (len(known) > _SHOWN)}" if known else "they are of none"
    unreadable = f" {len(listing.unreadable)} of them cannot be read, such as {listing.unreadable[0]}." if (
        listing.unreadable
    ) else ""  # fmt: skip
    return NotProvided(
        why=f"No package of the server's directory has a file of {release}: {have}.{unreadable}",
        advice="The server's operator puts the kernel's packages into that directory (docs/kernels.md).",
    )
