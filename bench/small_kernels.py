# SPDX-License-Identifier: GPL-2.0-or-later
"""Small kernels with our own configuration, built from a distribution's source, for tests and benchmarks."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

from elivepatch.build.base.custom import CustomKernel
from elivepatch.build.base.kernel_source import fetch_source
from elivepatch.build.base.store import Base
from elivepatch.build.base.tree import unpack_source
from elivepatch.build.sandbox.bubblewrap import BUILD_UID
from elivepatch.model.kernel import parse_release
from elivepatch.model.progress import Progress, silent
from elivepatch.service.jobs.local_backend import LocalBackend

FRAGMENT = Path(__file__).with_name("small.config")
"""Options of every small kernel; all others are off."""

TOOLCHAIN = "debian-13"


def small_kernel(
    backend: LocalBackend, series: str, *base_patches: Path, suffix: str = "-small", progress: Progress = silent
) -> Base:
    """Return the small custom base of a kernel series such as `6.12`; build it if it is missing.

    `base_patches` are in its source; `suffix` is the local version that distinguishes kernels of the same source.
    """
    package = backend.archive.versions(f"linux-source-{series}")[0]
    version = re.split(r"[-~]", package.version)[0]
    release = parse_release(f"{version}{suffix}")
    if (found := backend.bases.find(release)) is not None:
        return backend.base(found.release)
    source = f"{package.name}={package.version}"
    with tempfile.TemporaryDirectory(prefix="small-", dir=backend.bases.directory.parent) as directory:
        Path(directory).chmod(0o755)
        config = _configured(backend, source, suffix, Path(directory), progress)
        kernel = CustomKernel(release=release, source=source, config=config, base_patches=base_patches)
        return backend.base(backend.custom_maker(progress).add(kernel).release)


def _configured(backend: LocalBackend, source: str, suffix: str, directory: Path, progress: Progress) -> Path:
    toolchain = backend.toolchains.add(TOOLCHAIN, progress)
    sandbox = backend.toolchains.sandbox(toolchain)
    fetched = directory / "fetched"
    fetched.mkdir()
    tree = directory / "tree"
    unpack_source(fetch_source(source, backend.archive, fetched, progress).archive, tree, sandbox)
    wanted = tree / "small.config"
    wanted.write_text(f'{FRAGMENT.read_text()}CONFIG_LOCALVERSION="{suffix}"\n')
    os.chown(wanted, BUILD_UID, BUILD_UID)
    make = ["make", f"CC={toolchain.compiler}", f"HOSTCC={toolchain.compiler}", "KCONFIG_ALLCONFIG=small.config"]
    sandbox.run([*make, "allnoconfig"], writable=tree).check("Configuring a small kernel")
    config = directory / "config"
    shutil.copyfile(tree / ".config", config)
    shutil.rmtree(tree)
    return config
