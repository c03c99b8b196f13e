# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that the build of the running kernel left on this host, and its source tree."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from elivepatch.client.host.identity import find_config, read_build_id, read_release
from elivepatch.client.host.machine import Host
from elivepatch.client.push.pieces import Entry
from elivepatch.kernel.elf import ElfFile
from elivepatch.kernel.kbuild.record import RECORD, format_record, is_build_directory, read_build
from elivepatch.model.errors import EnvironmentFault, HostError, UsageError
from elivepatch.model.kernel import VMLINUX, BuildId, Release

_MODULES = ("modules.builtin", "modules.builtin.modinfo", "modules.order")
# A build leaves these in its tree; they are no source.
_BUILT = (".o", ".ko", ".a", ".cmd", ".mod", ".mod.c", ".order", ".symvers")
_COMPRESSED = (".xz", ".gz", ".zst")
_DEBUG = ("usr/lib/debug/lib/modules", "usr/lib/debug/usr/lib/modules")
_DEBUG_FILES = (".ko", ".ko.debug")


@dataclass(frozen=True, slots=True, kw_only=True)
class PushOptions:
    """Places that the user names in place of those where distributions keep the files; `source` False sends none."""

    build: Path | None = None
    vmlinux: Path | None = None
    source: Path | None = None
    without_source: bool = False
    base_patches: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelFiles:
    """The files of the running kernel; `modules` are its modules and their debug files.

    `source` is the top of its source tree, None if the server has the source.
    """

    release: Release
    build_id: BuildId
    named: dict[str, Path]
    modules: dict[str, Path]
    source: Path | None
    record: bytes | None = None

    def entries(self) -> Iterator[Entry]:
        """Yield what goes into the archive of the build's files, in order."""
        if self.record is not None:
            yield Entry(name=RECORD, content=self.record)
        for name, path in sorted((self.named | self.modules).items()):
            # The file is wanted, not the link to it that a distribution may have.
            yield Entry(name=name, content=path.resolve())

    def source_entries(self) -> Iterator[Entry]:
        """Yield what goes into the archive of the source, in order, below one directory; nothing without a source."""
        if self.source is None:
            return
        for below, directories, names in os.walk(self.source):
            directories[:] = sorted(name for name in directories if name != ".git")
            place = Path(below)
            # os.walk counts links to directories among the directories, and does not follow them.
            linked = [name for name in directories if (place / name).is_symlink()]
            for name in sorted((*names, *linked)):
                if not name.endswith(_BUILT) and name not in {VMLINUX, "vmlinux.unstripped", "System.map"}:
                    path = place / name
                    yield Entry(name=f"linux/{path.relative_to(self.source)}", content=path)


def find_kernel_files(host: Host, options: PushOptions) -> KernelFiles:
    """Return the files of the running kernel.

    Raises HostError that names the missing file and the places that were searched, UsageError for a vmlinux of another
    kernel.
    """
    release, build_id = read_release(host), read_build_id(host)
    modules = _first(host, [f"lib/modules/{release}", f"usr/lib/modules/{release}"])
    build = options.build or (modules / "build" if modules is not None else None)
    tree = build.resolve() if build is not None and build.is_dir() else None
    named = {
        VMLINUX: options.vmlinux or _needed(host, VMLINUX, _vmlinux_places(host, release, tree), "--vmlinux"),
        "vmlinuz": _needed(host, "vmlinuz", _image_places(host, release, tree), "--build"),
        "Module.symvers": _needed(host, "Module.symvers", _symvers_places(host, release, tree), "--build"),
    }
    _require_running(named[VMLINUX], build_id)
    named |= _config_of(host, release)
    named |= {f"patches/{number:04}-{path.name}": path for number, path in enumerate(options.base_patches, 1)}
    return KernelFiles(
        release=release,
        build_id=build_id,
        named=named,
        modules=_modules_of(modules, tree) | _debug_files(host, release) if modules is not None else {},
        source=None if options.without_source else _source(options.source, modules, tree),
        record=_record(named[VMLINUX], tree),
    )


def _vmlinux_places(host: Host, release: Release, tree: Path | None) -> list[Path]:
    beside = [tree / VMLINUX] if tree is not None else []
    names = (f"usr/lib/debug/boot/vmlinux-{release}", f"usr/lib/debug/lib/modules/{release}/vmlinux",
             f"usr/lib/debug/usr/lib/modules/{release}/vmlinux", f"boot/vmlinux-{release}")  # fmt: skip
    return beside + [host.path(name) for name in names]


def _image_places(host: Host, release: Release, tree: Path | None) -> list[Path]:
    names = (f"boot/vmlinuz-{release}", f"lib/modules/{release}/vmlinuz", f"boot/kernel-{release}")
    return [host.path(name) for name in names] + ([tree / "arch/x86/boot/bzImage"] if tree is not None else [])


def _symvers_places(host: Host, release: Release, tree: Path | None) -> list[Path]:
    names = (f"usr/src/linux-headers-{release}/Module.symvers", f"usr/src/kernels/{release}/Module.symvers")
    return ([tree / "Module.symvers"] if tree is not None else []) + [host.path(name) for name in names]


def _first(host: Host, names: list[str]) -> Path | None:
    return next((host.path(name) for name in names if host.path(name).is_dir()), None)


def _needed(host: Host, what: str, places: list[Path], option: str) -> Path:
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        shown = ", ".join(f"/{place.relative_to(host.root)}" if place.is_relative_to(host.root) else str(place)
                          for place in places[:4])  # fmt: skip
        raise HostError(
            "kernel-files",
            f"This host has no {what} of the running kernel in the usual places ({shown}).",
            advice=f"Name its place with {option}.",
        )
    return found


def _config_of(host: Host, release: Release) -> dict[str, Path]:
    found = find_config(host, release)
    if found is None:
        raise HostError(
            "kernel-files",
            "This host has no configuration of the running kernel.",
            advice="Load the module `configs` (CONFIG_IKCONFIG_PROC), or copy the .config to /boot/config-RELEASE.",
        )
    # A packed one goes with the request itself.
    return {} if found.source.endswith(".gz") else {"config": host.path(found.source.lstrip("/"))}


def _require_running(vmlinux: Path, build_id: BuildId) -> None:
    try:
        found = ElfFile(vmlinux).build_id
    except (EnvironmentFault, OSError) as error:
        raise UsageError(
            "vmlinux-other", f"{vmlinux} cannot be read as a kernel: {error}.", advice="Give the vmlinux of the build."
        ) from error
    if found != build_id:
        raise UsageError(
            "vmlinux-other",
            f"{vmlinux} is of another kernel: its build-id is {found or 'missing'}, this host runs {build_id}.",
            advice="Give the vmlinux of the running kernel with --vmlinux, or boot the kernel that was built last.",
        )


def _record(vmlinux: Path, tree: Path | None) -> bytes | None:
    """Return the record of the build if the kernel has no debug information, from which the server takes the same."""
    if ElfFile(vmlinux).has_debug_info:
        return None
    if tree is None or not is_build_directory(tree):
        raise HostError(
            "kernel-files",
            f"{vmlinux} has no debug information, and the tree in which it was built is not here with all that the "
            "build left in it: which source became which object is not known.",
            advice="Name that tree with --build (it has vmlinux.a, from Linux 6.1 on), or build the kernel with "
            "CONFIG_DEBUG_INFO_DWARF5 and boot it.",
        )
    return format_record(read_build(tree))


def _modules_of(installed: Path, tree: Path | None) -> dict[str, Path]:
    """Return the modules by their name in the archive; the build's own have the debug information."""
    found = {f"modules/{name}": installed / name for name in _MODULES if (installed / name).is_file()}
    for path in sorted(installed.rglob("*.ko*")):
        name = path.relative_to(installed)
        if name.parts[0] in {"build", "source"} or not path.is_file():
            continue
        plain = next((str(name).removesuffix(end) for end in _COMPRESSED if path.suffix == end), str(name))
        built = tree / plain.removeprefix("kernel/") if tree is not None else None
        if built is not None and built.is_file():
            found[f"modules/{plain}"] = built
        else:
            found[f"modules/{name}"] = path
    return found


def _debug_files(host: Host, release: Release) -> dict[str, Path]:
    """Return the debug files of modules that a distribution ships apart, by their name in the archive."""
    places = [host.path(f"{top}/{release}") for top in _DEBUG]
    return {
        f"debug/{path.relative_to(place)}": path
        for place in places
        for path in sorted(place.rglob("*"))
        if path.name.endswith(_DEBUG_FILES) and path.is_file()
    }


def _source(given: Path | None, modules: Path | None, tree: Path | None) -> Path | None:
    linked = modules / "source" if modules is not None else None
    for place in [given] if given is not None else filter(None, [linked, tree]):
        if (place / "Kconfig").is_file() and (place / "kernel/fork.c").is_file():
            return place.resolve()
    if given is not None:
        raise UsageError(
            "kernel-files",
            f"{given} does not hold the source of a kernel.",
            advice="Give the top directory of the source that the kernel was built from.",
        )
    return None
