# SPDX-License-Identifier: GPL-2.0-or-later
"""Stock bases: made from a distribution's own packages, without building a kernel.

The debug package has the symbols, the headers package the export table, the source package the source; the image has
the configuration, the modules and what a trial boots. Only the tree is prepared (`make modules_prepare`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

from elivepatch.build.archive import Archive, Package
from elivepatch.build.base import VMLINUX, Base, Bases
from elivepatch.build.locking import locked
from elivepatch.build.sandbox import BUILD_UID, Sandbox
from elivepatch.build.toolchain import HELPER, Toolchain, Toolchains, declarations
from elivepatch.build.tree import SECTION_FLAGS, SOURCE_TOPS, make_arguments
from elivepatch.kernel.config import KernelConfig, differences, parse_config
from elivepatch.kernel.elf import ElfFile
from elivepatch.kernel.units import Units, make_units, read_compile_units
from elivepatch.model.errors import EnvironmentFault
from elivepatch.model.kernel import BuildId, Digest, Release, parse_release
from elivepatch.model.progress import Event, Progress, silent
from elivepatch.process import run

_CC = re.compile(r"(?P<command>(?:x86_64-linux-gnu-)?gcc(?P<suffix>-[0-9]+)) (?P<version>\(.+)")
_STRUCTS = {
    "alt_instr": "ALT_STRUCT_SIZE",
    "bug_entry": "BUG_STRUCT_SIZE",
    "exception_table_entry": "EX_STRUCT_SIZE",
    "jump_entry": "JUMP_STRUCT_SIZE",
    "orc_entry": "ORC_STRUCT_SIZE",
    "static_call_site": "STATIC_CALL_STRUCT_SIZE",
    "paravirt_patch_site": "PARA_STRUCT_SIZE",
}
_MAY_BE_ABSENT = {"PARA_STRUCT_SIZE"}
_STRIP = "objcopy --strip-debug --keep-file-symbols"


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


@cache
def aliases() -> dict[str, dict[str, str]]:
    """Return the names that stand for the newest stock kernel of a distribution release."""
    return tomllib.loads((files("elivepatch.build") / "data/stock.toml").read_text(encoding="utf-8"))


def resolve(name: str, archive: Archive) -> Release:
    """Return the release that `name` means: an alias such as `debian-13`, or a release itself."""
    entry = aliases().get(name)
    if entry is None:
        return parse_release(name)
    for package in archive.versions(entry["package"]):
        found = re.search(rf"linux-image-({entry['release']})(?=[ ,(]|$)", package.depends)
        if found and ("~bpo" in package.version) == ("backports" in entry):
            return parse_release(found[1])
    raise EnvironmentFault(
        "kernel-not-in-archive",
        f"No configured archive has a stock kernel of {name}.",
        advice="The mirror must carry that distribution release.",
    )


def find_packages(release: Release, archive: Archive) -> Packages:
    """Return the packages of exactly the version that `release` is. Raises EnvironmentFault where one is missing."""
    images = archive.versions(f"linux-image-{release}")
    if not images:
        raise EnvironmentFault(
            "kernel-not-in-archive",
            f"No configured archive knows a kernel {release}.",
            advice=f"Check it against `uname -r`; names such as {', '.join(aliases())} mean the newest stock kernel.",
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
    toolchains: Toolchains
    bases: Bases
    jobs: int
    progress: Progress = silent

    def add(self, name: str) -> Base:
        """Return the base for `name`, making it first where it is not there.

        Raises UsageError or EnvironmentFault; nothing half-made is ever seen under the release's name.
        """
        release = resolve(name, self.archive)
        lock = self.bases.directory / f".{release}.lock"
        with locked(lock, progress=self.progress, waiting_for=f"the base of {release}"):
            if (found := self.bases.find(release)) is not None:
                return found
            # What a killed process left half-made, and a base made by an older recipe.
            for left in (*self.bases.directory.glob(f".{release}.new-*"), self.bases.directory / release):
                shutil.rmtree(left, ignore_errors=True)
            packages = find_packages(release, self.archive)
            paths = self.archive.download(packages.all(), self.progress)
            scratch = Path(tempfile.mkdtemp(prefix=f".{release}.new-", dir=self.bases.directory))
            try:
                scratch.chmod(0o755)
                base = self._make(packages, dict(zip(packages.all(), paths, strict=True)), scratch)
                scratch.rename(base.directory)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        self._tell(f"{release}: ready in {base.seconds:.0f} s", 1.0)
        return base

    def _tell(self, message: str, fraction: float | None = None) -> None:
        self.progress(Event(stage="base", message=message, fraction=fraction))

    def _make(self, packages: Packages, paths: dict[Package, Path], scratch: Path) -> Base:
        started = time.monotonic()
        release = packages.release
        self._tell(f"{release}: unpacking", 0.0)
        unpacked = scratch / "unpacked"
        for package in packages.all():
            if package not in (packages.debug, packages.source):
                _unpack(paths[package], unpacked)
        config_bytes = _one_of(unpacked, f"boot/config-{release}", f"usr/lib/modules/{release}/config").read_bytes()
        config = parse_config(config_bytes)
        cc, toolchain = self._toolchain(config)
        with ThreadPoolExecutor(max_workers=2) as pool:
            facts = pool.submit(self._debug_part, paths[packages.debug], packages, scratch)
            tree = pool.submit(
                self._tree_part, paths[packages.source], config_bytes, config, cc, toolchain, scratch, release
            )
            included = tree.result()
            compiled, sizes = facts.result()
        elf = ElfFile(scratch / VMLINUX)
        _check_compiler(elf, toolchain, release)
        self._units(compiled, included).save(scratch / "units.json")
        symvers = _one_of(unpacked, f"usr/src/linux-headers-{release}/Module.symvers")
        shutil.copyfile(symvers, scratch / "tree/Module.symvers")
        _one_of(unpacked, f"boot/vmlinuz-{release}", f"usr/lib/modules/{release}/vmlinuz").rename(scratch / "vmlinuz")
        _one_of(unpacked, f"lib/modules/{release}", f"usr/lib/modules/{release}").rename(scratch / "modules")
        shutil.rmtree(unpacked)
        compressed = ["find", str(scratch / "modules"), "-name", "*.ko.xz", "-print0"]
        run(["xargs", "-0", "-r", "-P2", "-n50", "xz", "-d"], stdin=run(compressed).output).check("Unpacking modules")
        (scratch / "originals").mkdir()
        for public in ("vmlinuz", VMLINUX):
            (scratch / public).chmod(0o644)
        base = Base(
            directory=self.bases.directory / release,
            release=release,
            kind="stock",
            build_id=BuildId(elf.build_id),
            version=packages.image[0].version,
            config_digest=Digest(sha256(config_bytes).hexdigest()),
            toolchain=toolchain.name,
            toolchain_digest=toolchain.digest,
            cc=cc,
            compiler=toolchain.version,
            ibt=config.enabled("X86_KERNEL_IBT"),
            modversions=config.enabled("MODVERSIONS"),
            struct_sizes=sizes,
            packages={f"{package.name}_{package.version}": package.sha256 for package in packages.all()},
            size_bytes=_size_of(scratch),
            seconds=round(time.monotonic() - started, 1),
        )
        (scratch / "base.json").write_text(json.dumps(base.as_dict(), indent=2))
        return base

    def _toolchain(self, config: KernelConfig) -> tuple[str, Toolchain]:
        text = config.get("CC_VERSION_TEXT")
        found = _CC.fullmatch(text)
        if found is None:
            raise EnvironmentFault(
                "toolchain-match",
                f"The kernel was built by a compiler that is not supported: {text[:120]}.",
                advice="Only gcc is supported for stock kernels.",
            )
        # The helper is needed for every kernel; a toolchain that could be the right one is made where it is missing.
        compiler, rust = found["command"].removeprefix("x86_64-linux-gnu-"), config.enabled("RUST")
        for declaration in declarations().values():
            fits = declaration.compiler == compiler and declaration.rust == rust
            if fits or declaration.name == HELPER:
                self.toolchains.add(declaration.name, self.progress)
        return found["command"], self.toolchains.for_compiler(found["version"], rust=rust)

    def _debug_part(
        self, path: Path, packages: Packages, scratch: Path
    ) -> tuple[dict[str, tuple[str, set[str]]], dict[str, int]]:
        """Take from the debug package what stays: the kernel without debug information, compile units, struct sizes."""
        debug = scratch / "debug"
        _unpack(path, debug)
        sandbox = self.toolchains.sandbox(self.toolchains.helper())
        vmlinux = f"usr/lib/debug/boot/vmlinux-{packages.release}"
        if not (debug / vmlinux).exists():
            vmlinux = f"usr/lib/debug/usr/lib/modules/{packages.release}/vmlinux"
        stripped = scratch / "stripped"
        stripped.mkdir()
        os.chown(stripped, BUILD_UID, BUILD_UID)
        self._tell(f"{packages.release}: reading debug information")
        listing = "readelf -wi --dwarf-depth=1 {} 2>/dev/null | grep -E '^File: |DW_AT_name'"
        script = (
            f"{_STRIP} /in/{vmlinux} /out/vmlinux && pahole -F btf -s /out/vmlinux >/out/sizes && "
            f"{listing.format(f'/in/{vmlinux}')} >/out/vmlinux.units && cd /in && "
            f"find . -name '*.ko' | sort | xargs {listing.format('')} >/out/modules.units && mkdir /out/symbols && "
            f"""find . -name '*.ko' -print0 | xargs -0 -P2 -n1 sh -c '{_STRIP} "$1" "/out/symbols/${{1##*/}}"' sh"""
        )
        sandbox.run(["sh", "-c", script], inputs=debug, output=stripped).check("Reading the kernel's debug information")
        compiled = read_compile_units((stripped / "vmlinux.units").read_text().splitlines(), parent=VMLINUX)
        for source, (raw, parents) in read_compile_units((stripped / "modules.units").read_text().splitlines()).items():
            compiled.setdefault(source, (raw, set()))[1].update(parents)
        sizes = _struct_sizes((stripped / "sizes").read_text())
        (stripped / "vmlinux").rename(scratch / VMLINUX)
        os.chown(scratch / VMLINUX, 0, 0)
        (stripped / "symbols").rename(scratch / "symbols")
        shutil.rmtree(debug)
        shutil.rmtree(stripped)
        return compiled, sizes

    def _tree_part(
        self,
        path: Path,
        config_bytes: bytes,
        config: KernelConfig,
        cc: str,
        toolchain: Toolchain,
        scratch: Path,
        release: Release,
    ) -> list[str]:
        """Unpack and prepare the source tree; return its lines that include a .c file, and all .c files."""
        source, tree = scratch / "source", scratch / "tree"
        _unpack(path, source)
        (archive,) = source.glob("usr/src/linux-source-*.tar.xz")
        tree.mkdir()
        os.chown(tree, BUILD_UID, BUILD_UID)
        sandbox = self.toolchains.sandbox(toolchain)
        command = ["tar", "-x", "-f", f"/in/usr/src/{archive.name}", "--strip-components=1", "-C", "/src"]
        sandbox.run(command, inputs=source, writable=tree).check("Unpacking the kernel source")
        shutil.rmtree(source)
        self._tell(f"{release}: preparing the source tree")
        _write(tree / ".config", config_bytes)
        # The distribution's makefile reads this file; it gives vermagic the release with its local version.
        _write(tree / ".kernelvariables", f"override KERNELRELEASE = {release}\n".encode())
        if config.enabled("X86_KERNEL_IBT"):
            _objtool_per_object(tree)
        _replace(tree / "scripts/Makefile.modfinal", r"CONFIG_DEBUG_INFO_BTF_MODULES", "CONFIG_NO_BTF_IN_LIVEPATCHES")
        self._make_in(sandbox, tree, ["scripts/config", "-d", "MODULE_SIG_ALL", "--set-str", "MODULE_SIG_KEY", ""])
        make = make_arguments(cc, self.jobs)
        self._make_in(sandbox, tree, [*make, "olddefconfig"])
        _config_gate(config, parse_config((tree / ".config").read_bytes()), release)
        self._make_in(
            sandbox, tree, [*make, f"KCFLAGS={SECTION_FLAGS}", "modules_prepare"], tools=self._patch_headers()
        )
        grep = f"grep -rE --include='*.c' '^[[:space:]]*#[[:space:]]*include.*[.]c[\">]' {SOURCE_TOPS} 2>/dev/null; "
        listed = sandbox.run(["sh", "-c", grep + f"echo; find {SOURCE_TOPS} -name '*.c' 2>/dev/null"], layers=[tree])
        return listed.text.splitlines()

    def _patch_headers(self) -> Path:
        return self.toolchains.helper().root / "usr/share/kpatch"

    @staticmethod
    def _make_in(sandbox: Sandbox, tree: Path, command: list[str], tools: Path | None = None) -> None:
        done = sandbox.run(command, writable=tree, tools=tools, timeout_s=1800)
        done.check(f"Preparing the source tree ({command[-1]})")

    @staticmethod
    def _units(compiled: dict[str, tuple[str, set[str]]], listed: list[str]) -> Units:
        split = listed.index("") if "" in listed else len(listed)
        return make_units(compiled, listed[:split], set(listed[split + 1 :]))


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
        advice="This distribution release lays its kernel packages out in a way that is not known yet.",
    )


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    os.chown(path, BUILD_UID, BUILD_UID)


def _replace(path: Path, pattern: str, replacement: str) -> int:
    text, count = re.subn(pattern, replacement, path.read_text(encoding="utf-8"))
    path.write_text(text, encoding="utf-8")
    return count


def _objtool_per_object(tree: Path) -> None:
    """Make objtool run on each object instead of once over the linked kernel, so that single objects are complete.

    Kernels with IBT delay objtool to find functions whose ENDBR can be sealed; that needs the whole kernel, and the
    sealing has been done by the shipped one (checks/module.py looks at its list instead).
    """
    makefile = tree / "scripts/Makefile.lib"
    sealing = _replace(makefile, r"(?m)^objtool-args-\$\(CONFIG_X86_KERNEL_IBT\)", r"# \g<0>")
    delaying = _replace(makefile, r"(?m)^delay-objtool := .*", "delay-objtool := $(CONFIG_LTO_CLANG)")
    if not sealing or not delaying:
        raise EnvironmentFault(
            "kernel-unsupported",
            "This kernel's build system delays objtool in a way that is not known yet.",
            advice="Report the kernel version; it needs a change in elivepatch.",
        )


def _config_gate(shipped: KernelConfig, prepared: KernelConfig, release: str) -> None:
    differing = differences(shipped, prepared)
    if differing:
        raise EnvironmentFault(
            "config-gate",
            f"The prepared configuration of {release} is not the shipped one: {len(differing)} options differ.",
            advice="The toolchain lacks a program that the configuration depends on (pahole, rustc, a plugin).",
            excerpt="\n".join(
                f"CONFIG_{name}: {old} became {new}" for name, (old, new) in list(differing.items())[:20]
            ),
        )


def _check_compiler(elf: ElfFile, toolchain: Toolchain, release: str) -> None:
    # A rustc also leaves its name there; its version is part of the configuration, which the gate compares.
    comments = {part.decode(errors="replace") for part in elf.named(".comment").split(b"\0") if part.startswith(b"GCC")}
    if comments != {toolchain.comment}:
        raise EnvironmentFault(
            "toolchain-match",
            f"The kernel {release} was built by {', '.join(sorted(comments)) or 'an unknown compiler'}, "
            f"but its configuration names {toolchain.comment}.",
            advice="The debug package does not belong to this image; remove the downloaded packages and try again.",
        )


def _struct_sizes(listing: str) -> dict[str, int]:
    sizes = dict.fromkeys(_MAY_BE_ABSENT, 0)
    for line in listing.splitlines():
        name, size, *_ = (*line.split("\t"), "", "")
        if name in _STRUCTS:
            sizes[_STRUCTS[name]] = int(size)
    missing = sorted(set(_STRUCTS.values()) - set(sizes))
    if missing:
        raise EnvironmentFault(
            "struct-sizes",
            f"The kernel's type information lacks the structure behind {missing[0]}.",
            advice="The kernel must be built with CONFIG_DEBUG_INFO_BTF.",
        )
    return sizes


def _size_of(directory: Path) -> int:
    return sum(path.lstat().st_size for path in directory.rglob("*") if not path.is_dir())
