# SPDX-License-Identifier: GPL-2.0-or-later
"""A small kernel that its own makefiles built and packed on this machine, with this machine's compiler.

Its packages stay in the cache, as the bases of the tests do.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from elivepatch.model.kernel import Release, parse_release
from elivepatch.process import run
from elivepatch.service.jobs.local_backend import LocalBackend

FRAGMENT = Path(__file__).parents[2] / "bench/small.config"
SERIES = "6.12"
SUFFIX = "-packed"
CHANGED = ("fs/proc/meminfo.c", "drivers/block/loop.c")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedKernel:
    """A kernel in packages: below `directory` in deb/ and in rpm/, each as one build. `source` is that of both.

    Files of the source that tests change are in source/.
    """

    release: Release
    source: str
    directory: Path


def packed_kernel(backend: LocalBackend, cache_dir: Path) -> PackedKernel:
    """Return the kernel; build and pack it if that was not done before."""
    package = backend.archive.versions(f"linux-source-{SERIES}")[0]
    release = parse_release(f"{re.split(r'[-~]', package.version)[0]}{SUFFIX}")
    made = PackedKernel(
        release=release, source=f"{package.name}={package.version}", directory=cache_dir / "packed" / release
    )
    if made.directory.is_dir():
        return made
    scratch = made.directory.with_name(f".{release}.new")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    (path,) = backend.archive.download([package])
    run(["dpkg-deb", "-x", path, scratch / "source"]).check("Unpacking the source package")
    (packed,) = (scratch / "source").glob("usr/src/*.tar.xz")
    tree = scratch / "build/linux"
    tree.mkdir(parents=True)
    run(["tar", "-x", "-f", packed, "--strip-components=1", "-C", tree]).check("Unpacking the source")
    _build(tree)
    _collect(tree, release, scratch / "packages")
    for name in CHANGED:
        kept = scratch / "packages/source" / name
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(tree / name, kept)
    (scratch / "packages").rename(made.directory)
    shutil.rmtree(scratch)
    return made


def _build(tree: Path) -> None:
    (tree / "small.config").write_text(f'{FRAGMENT.read_text()}CONFIG_LOCALVERSION="{SUFFIX}"\n')
    jobs = f"-j{os.cpu_count() or 1}"
    steps: Sequence[Sequence[str]] = (
        ["KCONFIG_ALLCONFIG=small.config", "allnoconfig"], [jobs, "bindeb-pkg"], [jobs, "binrpm-pkg"]
    )  # fmt: skip
    for words in steps:
        run(["make", *words], cwd=tree, timeout_s=7200).check(f"make {words[-1]}")


def _collect(tree: Path, release: Release, into: Path) -> None:
    for kind, files in (("deb", tree.parent.glob("*.deb")), ("rpm", tree.glob("rpmbuild/RPMS/*/*.rpm"))):
        (into / kind).mkdir(parents=True)
        for file in files:
            shutil.copyfile(file, into / kind / file.name)
    # Before 6.15 no RPM of the kernel's own has it. The RPMs are of the last build in the tree.
    shutil.copyfile(tree / "vmlinux", into / "rpm" / f"vmlinux-{release}")
