# SPDX-License-Identifier: GPL-2.0-or-later
"""Debugging kernels: the source of a base once more, small and with KASAN, lockdep and their kin (docs/thorough.md).

One is a custom base in a directory of its own, so that no host is offered it. Its release holds a digest of all that it
was made from; another source or another configuration makes another kernel.
"""

from __future__ import annotations

import difflib
import re
import tempfile
from importlib.resources import files
from pathlib import Path

from elivepatch.build.archive.apt import Archive
from elivepatch.build.base.common import BaseContext
from elivepatch.build.base.custom import CustomKernel, CustomMaker
from elivepatch.build.base.kbuild import make_arguments
from elivepatch.build.base.store import Base, Bases
from elivepatch.build.sandbox.bubblewrap import writable_directory
from elivepatch.build.sandbox.output import source_text, take_file
from elivepatch.files.digest import sha256_json
from elivepatch.kernel.config import KernelConfig, parse_config
from elivepatch.model.errors import EnvironmentFault
from elivepatch.model.kernel import Release, parse_release

PARAMETERS = ("kasan_multi_shot",)
"""Parameters of the command line with which a debugging kernel boots: KASAN reports more than its first fault."""

_RECIPE = 1
_CONFIG_LIMIT_BYTES = 1 << 20
_KASAN_FLAGS = "scripts/Makefile.kasan"
_WATCHING = ("KASAN", "PROVE_LOCKING", "LIVEPATCH")
# The script runs in the sandbox, with the base's tree below a layer in memory.
_CONFIGURE = """
set -e
cp /in/wanted .wanted
"$@" KCONFIG_ALLCONFIG=.wanted allnoconfig
cp .config /out/config
"""


def debug_release(base: Base) -> Release:
    """Return the release of the debugging kernel of a base, whether it is made or not."""
    facts = [_RECIPE, _wanted(), base.packages, base.toolchain_digest]
    return parse_release(f"{_numbers(base)}-debug-{sha256_json(facts)[:12]}")


def find_debug_kernel(bases: Bases, base: Base) -> Base | None:
    """Return the debugging kernel of `base` among `bases`, None if there is none."""
    return bases.find(debug_release(base))


def make_debug_kernel(archive: Archive, context: BaseContext, base: Base) -> Base:
    """Return the debugging kernel of `base`, built now unless it is among `context.bases`; that takes half an hour.

    Raises EnvironmentFault or UsageError as a custom base does.
    """
    if (found := find_debug_kernel(context.bases, base)) is not None:
        return found
    release = debug_release(base)
    with tempfile.TemporaryDirectory(prefix="debug-kernel-", dir=context.bases.directory.parent) as directory:
        place = Path(directory)
        place.chmod(0o755)
        context.report(f"{release}: configuring the debugging kernel")
        config = _configured(context, base, release, place)
        kernel = CustomKernel(release=release, source=str(base.tree), config=config, base_patches=_patches(base, place))
        return CustomMaker(archive, context).add(kernel)


def _wanted() -> str:
    return files("elivepatch.build.data").joinpath("debug_kernel.config").read_text(encoding="utf-8")


def _numbers(base: Base) -> str:
    """Return the version of a base's source without what a distribution or a release candidate adds to it."""
    return re.split(r"[-~+]", base.version)[0]


def _configured(context: BaseContext, base: Base, release: Release, place: Path) -> Path:
    """Return a file with the whole configuration of the debugging kernel."""
    inputs = place / "in"
    inputs.mkdir()
    suffix = release.removeprefix(_numbers(base))
    (inputs / "wanted").write_text(f'{_wanted()}CONFIG_LOCALVERSION="{suffix}"\n')
    output = writable_directory(place / "out")
    sandbox = context.toolchains.sandbox(context.toolchains.of(base))
    command = ["sh", "-c", _CONFIGURE, "sh", *make_arguments(base.cc, 1)]
    done = sandbox.run(command, layers=[base.tree], inputs=inputs, output=output)
    done.check("Configuring the debugging kernel")
    config = take_file(output, "config", place / "config", limit_bytes=_CONFIG_LIMIT_BYTES)
    _require_watching(parse_config(config.read_bytes()), base)
    return config


def _require_watching(config: KernelConfig, base: Base) -> None:
    for name in _WATCHING:
        if not config.enabled(name):
            raise EnvironmentFault(
                "debug-kernel",
                f"The source of {base.release} makes no debugging kernel: it refuses CONFIG_{name}.",
                advice="Trials of this kernel run without --thorough.",
            )


def _patches(base: Base, place: Path) -> tuple[Path, ...]:
    """Return the patch without which each object would hold a table of its variables for KASAN.

    That table differs with every new variable or string, and it is no part of any function: no livepatch could carry
    it. KASAN still watches the heap and vmalloc, not the gaps between global variables.
    """
    before = source_text(base.tree, _KASAN_FLAGS) or ""
    after = before.replace("asan-globals=1", "asan-globals=0")
    lines = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), f"a/{_KASAN_FLAGS}", f"b/{_KASAN_FLAGS}"
    )
    patch = place / "kasan-globals.patch"
    patch.write_text("".join(lines))
    return (patch,) if before != after else ()
