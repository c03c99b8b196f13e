# SPDX-License-Identifier: GPL-2.0-or-later
"""Files of one kernel, taken out of the packages of a directory.

A kernel that lacks a file is refused by the name of that file. All files must be of one build: two packages with
different files of one name are refused, and so is an image with another build-id than vmlinux. A module that the
kernel's own list names and no package has would count as not built; a patch of it would then need no livepatch. So
such packages are refused too.
"""

from __future__ import annotations

import posixpath
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from elivepatch.build.kept.debug_files import lacks_code
from elivepatch.build.kept.files import KeptBuild
from elivepatch.build.kept.image import payload_of
from elivepatch.build.packages.layout import Place, Role, place_of, plain_name
from elivepatch.build.packages.reader import Listing, Package, PackageReader, damaged
from elivepatch.build.packages.tools import tool
from elivepatch.build.sandbox.bubblewrap import writable_directory
from elivepatch.build.sandbox.output import files_below, take, take_file
from elivepatch.files.digest import sha256_file
from elivepatch.kernel.elf import ElfFile
from elivepatch.model.errors import ElivepatchError, UsageError
from elivepatch.model.kernel import Release

_FILE_LIMIT_BYTES = 2 << 30
_IMAGE_LIMIT_BYTES = 256 << 20
_LIST_LIMIT_BYTES = 16 << 20
_ORDER = "modules.order"
_COMPRESSED = (".xz", ".gz", ".zst", ".bz2")
_SHOWN = 5
_GZIP = b"\x1f\x8b"
_SIZE_BYTES = 4
_TOGETHER = {Role.MODULE: "modules", Role.TABLE: "modules", Role.DEBUG: "debug"}
_FETCH = "Fetch the packages that have it into the directory, of exactly the same version."


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelFiles:
    """Files of a kernel, and the packages that they came from.

    `origins` are the paths of these packages, and of a vmlinux beside them.
    """

    kept: KeptBuild
    config: Path
    packages: tuple[Package, ...]
    origins: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Taken:
    """A file that was taken out of the package `package`."""

    path: Path
    place: Place
    package: str


@dataclass(slots=True)
class KernelTaker:
    """Takes the files of the kernel `release` to the new directory `into`."""

    reader: PackageReader
    listing: Listing
    release: Release
    into: Path
    _taken: dict[str, _Taken] = field(default_factory=dict)

    def packed_bytes(self) -> int:
        """Return the size of the packages that hold a file of the kernel."""
        return sum(self._size(package) for package in self._holders())

    def take_config(self) -> Path | None:
        """Return the configuration, taken out of the smallest package that has it; None if none has."""
        having = {
            package: {name: one for name, one in places.items() if one[1].role is Role.CONFIG}
            for package, places in self._holders().items()
        }
        smallest = sorted((self._size(package), package.path) for package, places in having.items() if places)
        if not smallest:
            return None
        self.into.mkdir()
        for package, places in having.items():
            if package.path == smallest[0][1]:
                self._unpack(package, places)
        found = self._of(Role.CONFIG)
        return found[0] if found else None

    def take(self) -> KernelFiles | None:
        """Return the files; None if no package has a file of this kernel. Raises UsageError or EnvironmentFault."""
        holders = self._holders()
        if not holders:
            return None
        self.into.mkdir(exist_ok=True)
        for package, places in holders.items():
            self._unpack(package, places)
        for name in self.listing.others:
            place = place_of(posixpath.basename(name), self.release)
            if place is not None and place.role is Role.KERNEL:
                self._add(self.reader.directory, name, posixpath.basename(name), place, package=name)
        self._require_roles()
        self._require_modules()
        return KernelFiles(
            kept=self._kept(),
            config=self._of(Role.CONFIG)[0],
            packages=tuple(holders),
            origins=tuple(sorted({taken.package for taken in self._taken.values()})),
        )

    def _size(self, package: Package) -> int:
        return (self.reader.directory / package.path).stat().st_size

    def _holders(self) -> dict[Package, dict[str, tuple[str, Place]]]:
        """Return the packages with a file of the kernel, each with these files, their plain names and places."""
        found = {package: self._places(package.names) for package in self.listing.packages if not package.is_source}
        return {package: places for package, places in found.items() if places}

    def _places(self, names: Iterable[str]) -> dict[str, tuple[str, Place]]:
        plain = ((name, plain_name(name)) for name in names)
        return {name: (short, place) for name, short in plain if (place := place_of(short, self.release)) is not None}

    def _unpack(self, package: Package, places: Mapping[str, tuple[str, Place]]) -> None:
        raw = self.into / "raw"
        try:
            self.reader.unpack(package.path, [name.lstrip("/").removeprefix("./") for name in places], raw)
            wanted = dict(places.values())
            for name in files_below(raw):
                plain = plain_name(name)
                if plain in wanted:
                    self._add(raw, name, plain, wanted[plain], package=package.path)
        finally:
            shutil.rmtree(raw, ignore_errors=True)

    def _add(self, directory: Path, name: str, plain: str, place: Place, *, package: str) -> None:
        """Take a file over, unless there is the same already; raises UsageError for another file of that name."""
        folder = _TOGETHER.get(place.role)
        number = str(place.rank) if place.role is Role.DEBUG else ""
        target = self.into / folder / number / place.name if folder else self.into / f"{len(self._taken)}" / place.name
        before = self._taken.get(plain)
        if before is not None:
            target = self.into / "again"
        target.parent.mkdir(parents=True, exist_ok=True)
        take_file(directory, name, target, limit_bytes=_FILE_LIMIT_BYTES)
        if before is None:
            self._taken[plain] = _Taken(target, place, package)
            return
        same = sha256_file(target) == sha256_file(before.path)
        target.unlink()
        if not same:
            raise UsageError(
                "packages-several",
                f"{posixpath.basename(before.package)} and {posixpath.basename(package)} have different files {plain}: "
                f"they are of two builds of {self.release}.",
                advice="Leave the packages of one build in the directory: all of the same version.",
            )

    def _of(self, role: Role) -> list[Path]:
        """Return the files of a role, the one that counts most first."""
        found = [taken for taken in self._taken.values() if taken.place.role is role]
        return [taken.path for taken in sorted(found, key=lambda one: one.place.rank)]

    def _require_roles(self) -> None:
        needed = (Role.IMAGE, Role.CONFIG, Role.EXPORTS, Role.KERNEL)
        missing = [role.value for role in needed if not self._of(role)]
        if not (self.into / "modules" / _ORDER).is_file():
            missing.append(Role.TABLE.value)
        if missing:
            raise self.incomplete(f"no package has {'; nor '.join(missing)}")

    def incomplete(self, what: str) -> UsageError:
        """Return the refusal of packages that lack something; `what` completes a sentence."""
        doubt = f" These could not be read: {', '.join(self.listing.unreadable[:_SHOWN])}." * bool(
            self.listing.unreadable
        )
        return UsageError(
            "packages-incomplete", f"The packages of {self.release} are not all there: {what}.{doubt}", advice=_FETCH
        )

    def _require_modules(self) -> None:
        """Drop modules that are not of the kernel's build; raise UsageError if one of the build is missing."""
        directory = self.into / "modules"
        order = take(directory, _ORDER, limit_bytes=_LIST_LIMIT_BYTES).decode(errors="replace").split()
        named = {_module_name(line): line for line in order}
        present = set()
        for path in self._of(Role.MODULE):
            if _module_name(path.name) in named:
                present.add(_module_name(path.name))
            else:
                path.unlink()
        if missing := sorted(named.keys() - present):
            shown = ", ".join(missing[:_SHOWN]) + ", ..." * (len(missing) > _SHOWN)
            raise self.incomplete(f"no package has {len(missing)} of the {len(named)} modules of its list, {shown}")

    def _kept(self) -> KeptBuild:
        (image, *_), (exports, *_) = self._of(Role.IMAGE), self._plain(Role.EXPORTS)
        debug = self.into / "debug"
        debug.mkdir(exist_ok=True)
        inside = self._kernel_in(image)
        vmlinux = self._vmlinux(debug, inside)
        ours, theirs = vmlinux.build_id, inside.build_id
        if not ours or ours != theirs:
            raise UsageError(
                "packages-several",
                f"The image of {self.release} has the build-id {theirs or 'of no kernel'}, vmlinux has "
                f"{ours or 'none'}: they are of two builds.",
                advice="Leave the packages of one build in the directory: all of the same version.",
            )
        return KeptBuild(
            vmlinux=vmlinux.path, vmlinuz=image, symvers=exports, modules=self.into / "modules", debug=debug
        )  # fmt: skip

    def _vmlinux(self, debug: Path, inside: ElfFile) -> ElfFile:
        """Return the kernel that is whole, else a stripped one, with its debug file put into `debug`.

        `inside` is the stripped kernel of the image.
        """
        files = [ElfFile(path) for path in self._plain(Role.KERNEL)]
        informed = [elf for elf in files if elf.has_debug_info]
        if not informed:
            raise self.incomplete(f"no package has {Role.KERNEL.value}")
        whole = [elf for elf in informed if not lacks_code(elf)]
        if whole:
            return whole[0]
        shutil.copyfile(informed[0].path, debug / "vmlinux.debug")
        return next((elf for elf in files if not elf.has_debug_info and not lacks_code(elf)), inside)

    def _kernel_in(self, image: Path) -> ElfFile:
        """Return the stripped kernel that is in an image; raises UsageError if it cannot be read."""
        try:
            payload = payload_of(take(image.parent, image.name, limit_bytes=_IMAGE_LIMIT_BYTES))
            packed = self.into / "inside" / "kernel"
            packed.parent.mkdir()
            # gzip keeps the size of the kernel itself; behind all others the kernel's build puts it.
            packed.write_bytes(payload if payload.startswith(_GZIP) else payload[:-_SIZE_BYTES])
            return ElfFile(self._decompressed(packed, packed.with_name("stripped")))
        except ElivepatchError as error:
            raise UsageError(
                "packages-image",
                f"The kernel in the image of {self.release} cannot be read, so nothing shows that vmlinux is of the "
                "same build.",
                advice="The image must be a bzImage that is compressed by gzip, xz, zstd, lz4, bzip2 or lzma.",
                excerpt=error.problem.message,
            ) from error

    def _plain(self, role: Role) -> list[Path]:
        """Return the files of a role, decompressed."""
        return [
            self._decompressed(path, path.with_suffix("")) if path.suffix in _COMPRESSED else path
            for path in self._of(role)
        ]

    def _decompressed(self, path: Path, into: Path) -> Path:
        output = writable_directory(path.parent / "out")
        command = ["sh", "-c", '"$@" >/out/plain', "sh", *tool("bsdcat"), f"/in/{path.name}"]
        done = self.reader.helper.run(command, inputs=path.parent, output=output, tools=self.reader.tools)
        if not done.ok:
            raise damaged(path.name, done)
        plain = take_file(output, "plain", into, limit_bytes=_FILE_LIMIT_BYTES)
        shutil.rmtree(output)
        return plain


def _module_name(name: str) -> str:
    """Return the name of a module by its file, compressed or not, or by its line in modules.order."""
    return posixpath.basename(name).partition(".ko")[0].removesuffix(".o").replace("-", "_")
