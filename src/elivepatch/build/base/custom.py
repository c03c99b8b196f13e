# SPDX-License-Identifier: GPL-2.0-or-later
"""Custom bases: for kernels that an operator built from source, with a configuration and patches of their own.

If the operator kept the build, nothing is built: its vmlinux, modules and export table are read. Otherwise the kernel
is built once, in the sandbox, and its files are read in the same way. The build-id shows if a host runs that kernel. A
kernel that is built here hardly ever has the host's build-id (the time of the build is part of the kernel), so the
operator must accept its use for such a host as unproved.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from elivepatch.build.archive.apt import Archive
from elivepatch.build.base.common import BaseContext, BaseDraft, decompress_modules, require_livepatch
from elivepatch.build.base.debug_info import DebugInfo, check_compiler, strip_modules
from elivepatch.build.base.kbuild import make_arguments
from elivepatch.build.base.kernel_source import DIFF, KernelSource, fetch_source
from elivepatch.build.base.provenance import keep_changelog
from elivepatch.build.base.store import BASE_PATCH, Base
from elivepatch.build.base.tree import TreeMaker, makefile_version, unpack_source
from elivepatch.build.kept.code import add_code
from elivepatch.build.kept.debug_files import put_in_place
from elivepatch.build.kept.files import IMAGE, KeptBuild, copy_kept, make_module_tree, record_of
from elivepatch.build.kept.record import require_recordable
from elivepatch.build.sandbox.bubblewrap import BUILD_UID
from elivepatch.build.sandbox.output import source_text, take_file
from elivepatch.files.digest import sha256
from elivepatch.kernel.config import KernelConfig, parse_config
from elivepatch.kernel.elf import ElfFile
from elivepatch.model.errors import EnvironmentFault, UsageError
from elivepatch.model.kernel import VMLINUX, BuildId, Release

_BUILD_TIMEOUT_S = 6 * 3600.0
_FILE_LIMIT_BYTES = 2 << 30
_HEARTBEAT_S = 10.0
_ASIDE = "aside"
_PLAIN = ("CONFIG_MODULE_COMPRESS_XZ=", "CONFIG_MODULE_COMPRESS_GZIP=", "CONFIG_MODULE_COMPRESS_ZSTD=")
_BUILD = """
set -e
"$@" vmlinux bzImage modules
cp vmlinux arch/x86/boot/bzImage Module.symvers /out
"$@" INSTALL_MOD_PATH=/out modules_install
"$@" clean
"""
_QUILT = """
set -e
tar -x -f "/in/$1" -C /src
grep -v '^#' debian/patches/series | while read -r name rest; do
    [ -z "$name" ] || patch --batch --forward -s -p1 --no-backup-if-mismatch -i "debian/patches/$name"
done
"""

_ONE_DIFF = """
set -e
gzip -t "/in/$1"
gzip -dc "/in/$1" | patch --batch --forward -s -p1 --no-backup-if-mismatch
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomKernel:
    """A kernel as its operator describes it. `source` is for `fetch_source`; `build_id` is the host's.

    With `built_in`, the source is a tree in which a kernel was built. `packages` are those that its files came from,
    by name, with their SHA-256.
    """

    release: Release
    source: str
    config: Path
    base_patches: tuple[Path, ...] = ()
    kept: KeptBuild | None = None
    build_id: BuildId | None = None
    accept_unproved: bool = False
    built_in: bool = False
    packages: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class CustomMaker:
    """Makes custom bases."""

    archive: Archive
    context: BaseContext

    def add(self, kernel: CustomKernel) -> Base:
        """Return the base of a kernel; make it if it is missing.

        Raises UsageError or EnvironmentFault; `unproved` if the host's build-id differs from the base's and the
        operator did not accept that. The base is kept, so that nothing is built twice.
        """
        content = _read(kernel.config)
        config = parse_config(content)
        require_livepatch(config)
        made: list[Base] = []

        def make(scratch: Path) -> Base:
            made.append(self._make(kernel, content, config, scratch))
            return made[0]

        base = self.context.publish(kernel.release, make)
        if not made:
            self._check_same(kernel, base, content)
        return self._bind(base, kernel)

    def _check_same(self, kernel: CustomKernel, base: Base, content: bytes) -> None:
        patches = {path.name: _digest(path) for path in kernel.base_patches}
        kept = kernel.kept is None or ElfFile(kernel.kept.vmlinux).build_id == base.build_id
        same = base.config_digest == sha256(content) and base.base_patches == patches
        if base.kind != "custom" or not same or not kept:
            raise UsageError(
                "kernel-present",
                f"Another base of {kernel.release} exists already.",
                advice=f"Remove it first (elivepatch-server kernel remove {kernel.release}), or build the kernel with "
                "a CONFIG_LOCALVERSION of its own.",
            )

    def _bind(self, base: Base, kernel: CustomKernel) -> Base:
        """Return the base bound to the build-id of the host."""
        wanted = kernel.build_id
        if wanted is None or wanted == base.identity.build_id:
            return base
        if wanted != base.build_id and not kernel.accept_unproved:
            raise EnvironmentFault(
                "unproved",
                f"The kernel made from this source has the build-id {base.build_id}, the host's has {wanted}: no "
                "proof shows that they are the same.",
                advice="Give the files kept of the host kernel's build (--vmlinux ...), or --accept-unproved; the base "
                "is kept.",
            )
        bound = replace(base, claimed_build_id=None if wanted == base.build_id else wanted)
        bound.save(base.directory)
        return bound

    def _make(self, kernel: CustomKernel, content: bytes, config: KernelConfig, scratch: Path) -> Base:
        started = time.monotonic()
        release, place = kernel.release, self.context
        draft = place.begin(release, content, config, scratch)
        facts, kept = None, kernel.kept
        if kept is not None:
            # First, because these files are the most likely to be wrong, and quick to check.
            facts = _read_built(draft, lambda built: copy_kept(kept, built, release), kept)
        place.report(f"{release}: reading the source", 0.0)
        fetched = scratch / "fetched"
        fetched.mkdir()
        source = fetch_source(kernel.source, self.archive, fetched, place.progress)
        if source.package is not None:
            keep_changelog(source.package, scratch)
        maker = draft.tree_maker()
        patches = self._source(source, kernel, maker, fetched)
        shutil.rmtree(fetched)
        place.report(f"{release}: configuring the source tree")
        maker.freeze_release()
        maker.configure(content)
        if facts is None:
            facts = _read_built(draft, lambda built: self._build(maker, config, built))
        built = scratch / "built"
        check_compiler(ElfFile(scratch / VMLINUX), draft.toolchain, release)
        place.report(f"{release}: preparing the source tree")
        listed = maker.prepare()
        if not facts.struct_sizes:
            facts = replace(facts, struct_sizes=draft.measured_sizes())
        symvers = scratch / "tree/Module.symvers"
        # The preparation of a tree may leave one of its own.
        symvers.unlink(missing_ok=True)
        take_file(built, "Module.symvers", symvers, limit_bytes=_FILE_LIMIT_BYTES)
        # A build of the whole kernel in the tree, as klp and reference do it, writes it again.
        os.chown(symvers, BUILD_UID, BUILD_UID)
        take_file(built, IMAGE, scratch / "vmlinuz", limit_bytes=_FILE_LIMIT_BYTES)
        stripped = scratch / "stripped"
        strip_modules(place.helper_sandbox(), inputs=built, into=stripped)
        make_module_tree(built, release, stripped, scratch / _ASIDE / "modules", scratch / "modules")
        shutil.rmtree(stripped)
        shutil.rmtree(built)
        shutil.rmtree(scratch / _ASIDE)
        (scratch / "config").write_bytes(content)
        return draft.finish(
            kind="custom",
            version=makefile_version(source_text(draft.tree_maker().tree, "Makefile") or ""),
            facts=facts,
            listed=listed,
            packages={**kernel.packages, **source.inputs, **patches},
            started=started,
        )

    def _source(self, source: KernelSource, kernel: CustomKernel, maker: TreeMaker, scratch: Path) -> dict[str, str]:
        """Unpack the source and apply the base patches; return these by name with their digests."""
        unpack_source(source.archive, maker.tree, maker.sandbox)
        if source.packaging is not None:
            script = _ONE_DIFF if source.packaging.name.endswith(DIFF) else _QUILT
            command = ["sh", "-c", script, "sh", source.packaging.name]
            done = maker.sandbox.run(command, inputs=scratch, writable=maker.tree)
            done.check("Applying the distribution's patches")
        if source.built_in or kernel.built_in:
            maker.make(["make", "mrproper"], "Cleaning the source tree")
        patches: dict[str, str] = {}
        for path in kernel.base_patches:
            inputs = scratch / f"patch-{len(patches)}"
            inputs.mkdir()
            (inputs / "base.patch").write_bytes(_read(path))
            command = ["patch", "--batch", "--forward", "-p1", "--fuzz=0", "--no-backup-if-mismatch", "--reject-file=-"]
            done = maker.sandbox.run([*command, "-i", "/in/base.patch"], inputs=inputs, writable=maker.tree)
            if not done.ok:
                raise UsageError(
                    "base-patch",
                    f"The base patch {path.name} does not apply to the source.",
                    advice="Give the patches that the running kernel has, in order, and the source without them.",
                    excerpt=done.tail(),
                )
            patches[f"{BASE_PATCH}{path.name}"] = _digest(path)
        return patches

    def _build(self, maker: TreeMaker, config: KernelConfig, built: Path) -> None:
        os.chown(built, BUILD_UID, BUILD_UID)
        make = [*make_arguments(maker.cc, maker.jobs), *_PLAIN]
        if not config.enabled("DEBUG_INFO"):
            # Debug information changes no code, and it is the only record of which source went where.
            make.append("KCFLAGS=-g")
        self.context.report(f"{maker.release}: building the kernel, once; this takes minutes to hours")
        done = maker.sandbox.run(
            ["sh", "-c", _BUILD, "sh", *make],
            writable=maker.tree,
            output=built,
            timeout_s=_BUILD_TIMEOUT_S,
            on_tick=self._counting(maker),
        )
        if not done.ok:
            raise EnvironmentFault(
                "kernel-build",
                f"The kernel {maker.release} cannot be built from this source and configuration.",
                advice="Build it by hand with the same compiler to see why, or give the files kept of its build.",
                excerpt=done.tail(30),
            )

    def _counting(self, maker: TreeMaker) -> Callable[[float], None]:
        """Return a function that reports the number of objects every `_HEARTBEAT_S` seconds."""
        reported = 0.0

        def report(seconds: float) -> None:
            nonlocal reported
            if seconds - reported >= _HEARTBEAT_S:
                reported = seconds
                objects = sum(name.endswith(".o") for _, _, names in os.walk(maker.tree) for name in names)
                self.context.report(
                    f"{maker.release}: building the kernel: {objects} objects in {seconds / 60:.1f} min"
                )

        return report


def _read_built(draft: BaseDraft, make: Callable[[Path], None], kept: KeptBuild | None = None) -> DebugInfo:
    """Read the kernel that `make` puts into a directory of its own, built/; `kept` are the files that it came from."""
    built, helper = draft.scratch / "built", draft.context.helper_sandbox()
    built.mkdir()
    make(built)
    decompress_modules(built, helper)
    parted = put_in_place(built, draft.scratch / _ASIDE, draft.release, helper)
    record = None
    if kept is not None and not ElfFile(built / VMLINUX).has_debug_info:
        draft.context.report(f"{draft.release}: reading the record of the build")
        record = record_of(kept)
    if record is not None:
        require_recordable(draft.config)
    facts = draft.read_debug_info(built, VMLINUX, record)
    if parted.code is not None:
        add_code(draft.scratch / VMLINUX, parted.code)
    return facts


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            "file-missing", f"{path} cannot be read: {error.strerror}.", advice="Give an existing file."
        ) from error


def _digest(path: Path) -> str:
    return sha256(_read(path))
