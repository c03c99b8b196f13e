# SPDX-License-Identifier: GPL-2.0-or-later
"""Steps shared by stock and custom bases."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from elivepatch.build.base.debug_info import DebugInfo, measured_sizes, read_debug_info, read_debug_package
from elivepatch.build.base.kbuild import make_arguments, section_flags
from elivepatch.build.base.store import Base, Bases
from elivepatch.build.base.toolchain import HELPER, Toolchains
from elivepatch.build.base.tree import TreeMaker, units_of
from elivepatch.build.kept.compressed import plain_zstd
from elivepatch.build.kept.tables import compiled_structures
from elivepatch.build.roots.description import Toolchain
from elivepatch.build.sandbox.bubblewrap import Sandbox, writable_directory
from elivepatch.build.sandbox.output import files_below, take, take_file
from elivepatch.files.atomic import publish_tree
from elivepatch.files.digest import sha256
from elivepatch.files.equal import own_bytes, share_equal_files
from elivepatch.files.lock import made_once
from elivepatch.kernel.compile_units import Units
from elivepatch.kernel.config import KernelConfig, require_separate_objects
from elivepatch.kernel.elf import ElfFile
from elivepatch.kernel.kbuild.record import BuiltObject
from elivepatch.model.errors import EnvironmentFault, UsageError
from elivepatch.model.kernel import VMLINUX, BuildId, Release
from elivepatch.model.progress import Event, Progress, silent
from elivepatch.process import Cancellation

_MODULE_LIMIT_BYTES = 1 << 30
_NEEDED = ("LIVEPATCH", "MODULES", "KALLSYMS_ALL")
_ZSTD = ".ko.zst"
_DECOMPRESS = r"""
set -e
cd /in
find . -type d -exec sh -c 'for one; do mkdir -p "/out/$one"; done' sh {} +
unpack() {
    find . -type f -name "*.ko.$1" -print0 | xargs -0 -r -P2 -n20 sh -c \
        'program=$0 suffix=$1; shift
        for one; do "$program" -dc -- "$one" >"/out/${one%$suffix}" || exit 255; done' "$2" ".$1"
}
unpack xz xz
unpack gz gzip
"""


@dataclass(slots=True)
class BaseContext:
    """Directories, toolchains and limits with which bases are made.

    `prove` compares a sample of a finished base with its kernel and returns the counts (build/sample/fidelity.py).
    """

    toolchains: Toolchains
    bases: Bases
    jobs: int
    prove: Callable[[Base, Toolchains], Mapping[str, int]]
    progress: Progress = silent

    def report(self, message: str, fraction: float | None = None) -> None:
        """Report progress."""
        self.progress(Event(stage="base", message=message, fraction=fraction))

    def publish(self, release: Release, make: Callable[[Path], Base]) -> Base:
        """Return the existing base, or the one that `make` makes in an empty directory of its own.

        No unfinished base ever has the release's name, and two processes never make the same base.
        """
        lock = self.bases.directory / f".{release}.lock"
        with made_once(lock, progress=self.progress, waiting_for=f"the base of {release}"):
            if (found := self.present(release)) is not None:
                return found
            # Remains of a killed process, and a base made by an older recipe or with an older toolchain.
            for left in self.bases.directory.glob(f".{release}.new-*"):
                shutil.rmtree(left, ignore_errors=True)
            if (self.bases.directory / release).is_dir():
                self.bases.remove(release)
            scratch = Path(tempfile.mkdtemp(prefix=f".{release}.new-", dir=self.bases.directory))
            try:
                scratch.chmod(0o755)
                base = self._place(make(scratch), scratch)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        self.report(f"{release}: ready in {base.seconds:.0f} s", 1.0)
        return base

    def _place(self, made: Base, scratch: Path) -> Base:
        """Give a finished base its name; what its source has in common with those of other bases is kept once."""
        # Of two bases that are finished at once, the second finds the first.
        with made_once(self.bases.directory / ".sharing.lock"):
            others = [other.tree for other in self.bases.nearest(made)]
            share_equal_files(scratch / "tree", others)
            base = replace(made, size_bytes=own_bytes(scratch))
            base.save(scratch)
            # A base is 1.6 GB in 98,000 files; all of them are on the disk before its name is.
            publish_tree(scratch, base.directory)
        return base

    def helper_sandbox(self) -> Sandbox:
        """Return the sandbox with pahole, readelf and decompressors; its toolchain is made if it is missing."""
        return self.toolchains.sandbox(self.toolchains.add(HELPER, self.progress))

    def present(self, release: Release) -> Base | None:
        """Return the base of a release, None if there is none, or if the toolchain that made it is gone."""
        found = self.bases.find(release)
        return found if found is not None and self.toolchains.restore(found, self.progress) else None

    def begin(self, release: Release, content: bytes, config: KernelConfig, scratch: Path) -> BaseDraft:
        """Return a new draft with the toolchain that the configuration names.

        Raises as `toolchain` and `require_separate_objects` do.
        """
        require_separate_objects(config)
        return BaseDraft(
            context=self,
            release=release,
            scratch=scratch,
            content=content,
            config=config,
            toolchain=self.toolchain(config),
        )

    def toolchain(self, config: KernelConfig) -> Toolchain:
        """Return the toolchain with the compiler that a configuration names; it is made if a suite has that compiler.

        Raises EnvironmentFault with the code `toolchain-match` if there is none.
        """
        # With a usable rustc beside it, a configuration differs even if the kernel has no Rust.
        rust = config.enabled("RUST") or config.enabled("RUST_IS_AVAILABLE")
        return self.toolchains.for_kernel(config.get("CC_VERSION_TEXT"), rust=rust, progress=self.progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseDraft:
    """A base under construction in the directory `scratch`. `content` is the kernel's configuration as shipped."""

    context: BaseContext
    release: Release
    scratch: Path
    content: bytes
    config: KernelConfig
    toolchain: Toolchain

    def tree_maker(self) -> TreeMaker:
        """Return what prepares the source tree."""
        toolchains = self.context.toolchains
        return TreeMaker(
            tree=self.scratch / "tree",
            release=self.release,
            config=self.config,
            cc=self.toolchain.compiler,
            jobs=self.context.jobs,
            sandbox=toolchains.sandbox(self.toolchain),
            patch_headers=toolchains.patch_headers(),
        )

    def read_debug_info(
        self,
        inputs: Path,
        vmlinux: str,
        record: Sequence[BuiltObject] | None = None,
        cancellation: Cancellation | None = None,
    ) -> DebugInfo:
        """Read the kernel `vmlinux` and the modules below `inputs`, as `debug_info.read_debug_info` does."""
        self.context.report(f"{self.release}: reading debug information")
        helper = self.context.helper_sandbox()
        return read_debug_info(
            helper, inputs=inputs, vmlinux=vmlinux, into=self.scratch, record=record, cancellation=cancellation
        )

    def measured_sizes(self) -> dict[str, int]:
        """Return the sizes of structures, measured in the prepared tree: the kernel has no debug information."""
        toolchains = self.context.toolchains
        make = make_arguments(self.toolchain.compiler, 1)
        place = Path(tempfile.mkdtemp(prefix="sizes-", dir=self.scratch))
        place.chmod(0o755)
        try:
            structures = compiled_structures(self.scratch / "tree", toolchains.sandbox(self.toolchain), make, place)
            return measured_sizes(structures, self.context.helper_sandbox(), self.scratch / VMLINUX)
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def read_debug_package(self, package: Path, cancellation: Cancellation) -> DebugInfo:
        """Read a debug package, as `debug_info.read_debug_package` does."""
        self.context.report(f"{self.release}: reading debug information")
        helper = self.context.helper_sandbox()
        return read_debug_package(
            helper, package=package, release=self.release, into=self.scratch, cancellation=cancellation
        )

    def finish(
        self,
        *,
        kind: str,
        version: str,
        facts: DebugInfo,
        listed: list[str],
        packages: Mapping[str, str],
        started: float,
    ) -> Base:
        """Write base.json and return the base, yet without its size; `listed` is what `TreeMaker.prepare` returned.

        Raises EnvironmentFault if the kernel has no build-id, or if a sample of its functions is not what the source
        makes (`prove`).
        """
        build_id = ElfFile(self.scratch / VMLINUX).build_id
        if not build_id:
            raise EnvironmentFault(
                "build-id-missing",
                "The kernel has no build-id, so no livepatch could be bound to it.",
                advice="Its linker must be called with --build-id, as the kernel's own makefile does.",
            )
        units = units_of(facts.compiled, listed)
        _require_units(units)
        units.save(self.scratch / "units.json")
        (self.scratch / "originals").mkdir()
        base = Base(
            directory=self.context.bases.directory / self.release,
            release=self.release,
            kind=kind,
            build_id=BuildId(build_id),
            version=version,
            config_digest=sha256(self.content),
            toolchain=self.toolchain.name,
            toolchain_digest=self.toolchain.digest,
            cc=self.toolchain.compiler,
            compiler=self.toolchain.version,
            ibt=self.config.enabled("X86_KERNEL_IBT"),
            modversions=self.config.enabled("MODVERSIONS"),
            section_flags=section_flags(self.scratch / "tree"),
            struct_sizes=facts.struct_sizes,
            packages=packages,
            size_bytes=0,
            seconds=0.0,
        )
        self.context.report(f"{self.release}: comparing a sample of its functions with the kernel")
        fidelity = self.context.prove(replace(base, directory=self.scratch), self.context.toolchains)
        base = replace(base, fidelity=fidelity, seconds=round(time.monotonic() - started, 1))
        base.save(self.scratch)
        return base


def _require_units(units: Units) -> None:
    """Raise EnvironmentFault if vmlinux lacks the unit that each has: then its sources would count as not built."""
    first = units.by_source.get("init/main.c")
    if first is None or VMLINUX not in first.parents:
        raise EnvironmentFault(
            "debug-info",
            "Neither debug information nor the record of the build names init/main.c of the given source.",
            advice="Give the source that the kernel was built from, and its vmlinux as the build left it.",
        )


def require_livepatch(config: KernelConfig) -> None:
    """Raise UsageError if no livepatch can be loaded into a kernel of this configuration."""
    if not config.enabled("X86_64"):
        raise other_architecture("The configuration is not for x86_64.")
    for name in _NEEDED:
        if not config.enabled(name):
            raise UsageError(
                "config-livepatch",
                f"The kernel has no CONFIG_{name}, so no livepatch can be loaded into it.",
                advice="Build and boot the kernel with CONFIG_LIVEPATCH and the options that it needs.",
            )


def other_architecture(sentence: str) -> EnvironmentFault:
    """Return the fault for a kernel of another architecture than x86_64; `sentence` names the kernel."""
    return EnvironmentFault(
        "arch-unsupported",
        sentence,
        advice="Livepatches are built for x86_64 only; docs/adr/0010 says what arm64 lacks.",
    )


def decompress_modules(directory: Path, helper: Sandbox) -> None:
    """Decompress all modules below a directory, in place; the programs that read them run in the sandbox.

    No toolchain has zstd: the machine's own program reads what zstd compressed, as an ordinary user.

    Raises EnvironmentFault if a module is damaged, or if it lies beside a file of its name that is not compressed.
    """
    names = files_below(directory)
    for name in (one for one in names if one.endswith(_ZSTD)):
        plain = name.removesuffix(".zst")
        _require_missing(directory, plain, name)
        (directory / plain).write_bytes(plain_zstd(take(directory, name, limit_bytes=_MODULE_LIMIT_BYTES)))
        (directory / name).unlink()
    packed = [name for name in names if name.endswith((".ko.xz", ".ko.gz"))]
    if not packed:
        return
    output = writable_directory(Path(tempfile.mkdtemp(prefix=".plain-", dir=directory.parent)) / "modules")
    output.parent.chmod(0o755)
    try:
        done = helper.run(["sh", "-c", _DECOMPRESS], inputs=directory, output=output, timeout_s=1800)
        done.check("Decompressing modules")
        for name in packed:
            plain = name.rpartition(".")[0]
            _require_missing(directory, plain, name)
            take_file(output, plain, directory / plain, limit_bytes=_MODULE_LIMIT_BYTES)
            (directory / name).unlink()
    finally:
        shutil.rmtree(output.parent, ignore_errors=True)


def _require_missing(directory: Path, plain: str, packed: str) -> None:
    if os.path.lexists(directory / plain):
        raise EnvironmentFault(
            "sandbox-output", f"The kernel has both {plain} and {packed}.", advice="Look at what was built."
        )
