# SPDX-License-Identifier: GPL-2.0-or-later
"""Stock bases: made from a distribution's own packages, without building a kernel.

The debug package has the symbols, the headers package the export table, the source package the source; the image has
the configuration, the modules and what a trial boots. Only the tree is prepared (`make modules_prepare`).
"""

from __future__ import annotations

import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from elivepatch.build.archive.apt import Archive, Package, distributions
from elivepatch.build.archive.featureset import Featureset, featureset_of, fetch_featureset
from elivepatch.build.base.common import (
    BaseContext,
    BaseDraft,
    decompress_modules,
    other_architecture,
    require_livepatch,
)
from elivepatch.build.base.debug_info import DebugInfo, check_compiler
from elivepatch.build.base.provenance import keep_changelog
from elivepatch.build.base.store import Base
from elivepatch.build.base.tree import unpack_source
from elivepatch.files.atomic import move
from elivepatch.files.room import require_room
from elivepatch.kernel.config import parse_config
from elivepatch.kernel.elf import ElfFile
from elivepatch.model.errors import EnvironmentFault
from elivepatch.model.kernel import VMLINUX, Release, parse_release
from elivepatch.process import Cancellation, run

# Suffixes of the releases of a distribution's other architectures.
_OTHER_ARCHITECTURES = ("-arm64", "-arm64-16k", "-armmp", "-armmp-lpae", "-686", "-686-pae", "-powerpc64le", "-s390x",
                        "-riscv64", "-loong64")  # fmt: skip

_BASE_BYTES = 3 << 30  # before its source is shared: 2.3 GB for 6.12-amd64, the largest so far
_KERNEL_BYTES = 1 << 30  # vmlinux with its debug information, the largest file that is unpacked


@dataclass(frozen=True, slots=True, kw_only=True)
class Packages:
    """The packages that make up one stock kernel."""

    release: Release
    image: tuple[Package, ...]
    headers: Package
    debug: Package
    source: Package

    def all(self) -> list[Package]:
        """Return them all."""
        return [*self.image, self.headers, self.source, self.debug]

    def inputs(self, patches: Featureset) -> dict[str, str]:
        """Return everything that the base is made from, by name, with SHA-256; it is part of the base's digest."""
        return {f"{package.name}_{package.version}": package.sha256 for package in self.all()} | dict(patches.inputs)


def resolve(name: str, archive: Archive) -> Release:
    """Return the release for `name`: an alias such as `debian-13-cloud`, or a release itself."""
    entry = distributions().get(name)
    if entry is None:
        return parse_release(name)
    for package in archive.versions(entry["package"]):
        found = re.search(rf"linux-image-({entry['release']})(?=[ ,(]|$)", package.depends)
        if found and ("~bpo" in package.version) == entry.get("backports", False):
            return parse_release(found[1])
    raise EnvironmentFault(
        "kernel-not-in-archive",
        f"No configured archive has a stock kernel of {name}.{archive.unreadable_note()}",
        advice="The mirror must carry that distribution release.",
    )


def find_packages(release: Release, archive: Archive) -> Packages:
    """Return the packages of exactly the kernel `release`. Raises EnvironmentFault if one is missing."""
    if release.endswith(_OTHER_ARCHITECTURES):
        raise other_architecture(f"{release} is a kernel of another architecture.")
    images = archive.versions(f"linux-image-{release}")
    if not images:
        raise EnvironmentFault(
            "kernel-not-in-archive",
            f"No configured archive knows a kernel {release}.{archive.unreadable_note()}",
            advice=f"Check it with `uname -r`; {', '.join(distributions())} each mean the newest stock kernel.",
        )
    image = images[0]
    # From 7.2 on the image is split, and linux-image only depends on the parts.
    parts = re.findall(rf"linux-(?:binary|modules|base)-{re.escape(release)}(?=[ ,(]|$)", image.depends)
    series = image.version.split("-")[0].split("~")[0].split(".")[:2]
    return Packages(
        release=release,
        image=(image, *[archive.find(part, image.version) for part in sorted(set(parts))]),
        headers=archive.find(f"linux-headers-{release}", image.version),
        debug=archive.find(f"linux-image-{release}-dbg", image.version),
        source=archive.find(f"linux-source-{'.'.join(series)}", image.version),
    )


@dataclass(slots=True)
class StockMaker:
    """Makes stock bases."""

    archive: Archive
    context: BaseContext

    def add(self, name: str) -> Base:
        """Return the base for `name`; make it if it is missing.

        Raises UsageError or EnvironmentFault; no unfinished base ever has the release's name.
        """
        # Every question to the archive would do this without a word, for most of a minute on a new server.
        self.archive.refresh(self.context.progress)
        release = resolve(name, self.archive)
        used: list[Packages] = []

        def make(scratch: Path) -> Base:
            used.append(find_packages(release, self.archive))
            return self._make(used[0], scratch)

        base = self.context.publish(release, make)
        for packages in used:
            # The source stays for a week: another flavour of this version needs it, and no other file.
            self.archive.drop([*packages.image, packages.headers, packages.debug])
            self.archive.sweep()
        return base

    def _make(self, packages: Packages, scratch: Path) -> Base:
        started, release = time.monotonic(), packages.release
        require_room(self.context.bases.directory, _room_of(packages), f"The base of {release}")
        unpacked = scratch / "unpacked"
        draft = self._look_at_image(packages, unpacked, scratch)
        paths, patches = self._download_rest(packages, draft, unpacked)
        _unpack(paths[packages.headers], unpacked)
        keep_changelog(paths[packages.headers], scratch)
        source = StockSource(package=paths[packages.source], version=packages.source.version, patches=patches)
        facts, listed = read_packages(draft, paths[packages.debug], source)
        check_compiler(ElfFile(scratch / VMLINUX), draft.toolchain, release)
        symvers = _one_of(unpacked, f"usr/src/linux-headers-{release}/Module.symvers")
        shutil.copyfile(symvers, scratch / "tree/Module.symvers")
        move(_one_of(unpacked, f"boot/vmlinuz-{release}", f"usr/lib/modules/{release}/vmlinuz"), scratch / "vmlinuz")
        (scratch / "vmlinuz").chmod(0o644)
        move(_one_of(unpacked, f"lib/modules/{release}", f"usr/lib/modules/{release}"), scratch / "modules")
        shutil.rmtree(unpacked)
        decompress_modules(scratch / "modules", self.context.helper_sandbox())
        return draft.finish(
            kind="stock",
            version=packages.image[0].version,
            facts=facts,
            listed=listed,
            packages=packages.inputs(patches),
            started=started,
        )

    def _look_at_image(self, packages: Packages, unpacked: Path, scratch: Path) -> BaseDraft:
        """Fetch the image, a tenth of all, and find out if the kernel can be served before the rest is fetched."""
        release = packages.release
        self.context.report(f"{release}: looking at its configuration", 0.0)
        for path in self.archive.download([*packages.image], self.context.progress):
            _unpack(path, unpacked)
        content = _one_of(unpacked, f"boot/config-{release}", f"usr/lib/modules/{release}/config").read_bytes()
        config = parse_config(content)
        require_livepatch(config)
        return self.context.begin(release, content, config, scratch)

    def _download_rest(
        self, packages: Packages, draft: BaseDraft, unpacked: Path
    ) -> tuple[dict[Package, Path], Featureset]:
        """Fetch the other packages, those that archives drop first before the others, and the featureset's patches."""
        rest = [packages.debug, packages.headers, packages.source]
        try:
            patches = self._featureset(packages, draft, unpacked)
            return dict(zip(rest, self.archive.download(rest, self.context.progress), strict=True)), patches
        except EnvironmentFault as fault:
            if fault.problem.code != "package-gone":
                raise
            others = self.archive.kernels_like(packages.release)
            raise EnvironmentFault(
                "package-gone",
                f"No base of {packages.release} can be made any more: {fault.problem.message}",
                advice="Hosts must boot another kernel first, or the server's apt needs a mirror that has the file; of "
                f"this kind the index still lists, with a debug package, {', '.join(others[:5]) or 'none'}.",
            ) from fault

    def _featureset(self, packages: Packages, draft: BaseDraft, unpacked: Path) -> Featureset:
        name = featureset_of(packages.headers)
        if not name:
            return Featureset()
        sandbox, place = draft.tree_maker().sandbox, unpacked / "featureset"
        return fetch_featureset(name, self.archive, packages.source, sandbox, place, self.context.progress)


def _room_of(packages: Packages) -> int:
    """Return the bytes that making a base takes: the packages, the kernel with its debug information, the base."""
    return sum(package.size_bytes for package in packages.all()) + _KERNEL_BYTES + _BASE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class StockSource:
    """Source of a stock kernel's tree: the file of its package, its version, and the patches of the featureset."""

    package: Path
    version: str
    patches: Featureset


def read_packages(draft: BaseDraft, debug: Path, source: StockSource) -> tuple[DebugInfo, list[str]]:
    """Read the debug package while the source package becomes the tree; return both results."""
    cancellation = Cancellation.new()
    with ThreadPoolExecutor(max_workers=1) as pool:
        try:
            pending = pool.submit(draft.read_debug_package, debug, cancellation)
            listed = _tree_part(draft, source)
            return pending.result(), listed
        finally:
            # The pool waits for its thread, even after an error that makes its result useless.
            cancellation.event.set()


def _tree_part(draft: BaseDraft, source: StockSource) -> list[str]:
    unpacked, maker = draft.scratch / "source", draft.tree_maker()
    _unpack(source.package, unpacked)
    (archive,) = unpacked.glob("usr/src/linux-source-*.tar.xz")
    unpack_source(archive, maker.tree, maker.sandbox)
    shutil.rmtree(unpacked)
    source.patches.apply(maker.tree, maker.sandbox)
    draft.context.report(f"{draft.release}: preparing the source tree")
    maker.configure(draft.content, package_version=source.version)
    return maker.prepare()


def _unpack(package: Path, into: Path) -> None:
    into.mkdir(parents=True, exist_ok=True)
    run(["dpkg-deb", "-x", str(package), str(into)]).check("Unpacking a package")


def _one_of(root: Path, *names: str) -> Path:
    for name in names:
        if (root / name).exists():
            return root / name
    raise EnvironmentFault(
        "package-layout",
        f"The kernel's packages hold no {names[0]}.",
        advice="This distribution release has a layout of kernel packages that is not known yet.",
    )
