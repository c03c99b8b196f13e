# SPDX-License-Identifier: GPL-2.0-or-later
"""Linking of changed objects to a livepatch: kpatch's patch directory, the kernel's module build, relocations."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from elivepatch.build.base.kbuild import linker_of, make_arguments
from elivepatch.build.base.store import Base
from elivepatch.build.objects.messages import modpost_problem
from elivepatch.build.sandbox.bubblewrap import Sandbox, writable_directory
from elivepatch.build.sandbox.output import made_by_series, take_file
from elivepatch.model.codes import problem
from elivepatch.model.errors import BuildStopped
from elivepatch.process import Cancellation, Completed

_MODULE_LIMIT_BYTES = 64 << 20
_LINK = r"""
set -e
mkdir /out/patch
cp -- /tools/patch/* /out/patch
cd /out/patch
"$LINKER" -r -o output.o /in/*.o
: >.output.o.cmd
exec "$@"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Linker:
    """Links livepatches for one base. `helper` is the sandbox of the toolchain with create-klp-module."""

    base: Base
    sandbox: Sandbox
    helper: Sandbox
    patch_headers: Path
    jobs: int
    cancellation: Cancellation | None = None

    def link(self, objects: Sequence[Path], *, name: str, work_dir: Path, atomic_replace: bool = True) -> Path:
        """Return the module made of `objects`; their order determines the bytes.

        Raises BuildStopped with `undefined-symbol` if the kernel lacks a symbol, with `link-failed` otherwise.
        """
        inputs, output = work_dir / "objects", work_dir / "linked"
        inputs.mkdir()
        writable_directory(output)
        for number, path in enumerate(objects):
            shutil.copyfile(path, inputs / f"{number:04}.o")
        flags = "-g0" if atomic_replace else "-g0 -DKLP_REPLACE_ENABLE=false"
        make = [
            *make_arguments(self.base.cc, self.jobs),
            "KPATCH_BUILD=/src",
            f"KPATCH_NAME={name}",
            f"CFLAGS_MODULE={flags}",
        ]
        done = self.sandbox.run(
            ["sh", "-c", _LINK, "sh", *make],
            layers=[self.base.tree],
            inputs=inputs,
            output=output,
            tools=self.patch_headers,
            env={"LINKER": linker_of(self.base.cc)},
            timeout_s=300,
            cancellation=self.cancellation,
        )
        self.require_linked(done, release=self.base.release)
        post = writable_directory(work_dir / "module")
        command = ["/usr/lib/kpatch/create-klp-module", "--no-klp-arch-sections", f"/in/{name}.ko", f"/out/{name}.ko"]
        post_inputs = work_dir / "unprocessed"
        post_inputs.mkdir()
        with made_by_series("The module"):
            take_file(output, f"patch/{name}.ko", post_inputs / f"{name}.ko", limit_bytes=_MODULE_LIMIT_BYTES)
        made = self.helper.run(command, inputs=post_inputs, output=post, cancellation=self.cancellation)
        if not made.ok:
            raise BuildStopped(
                problem("link-failed", "The module's livepatch relocations cannot be made.", excerpt=made.tail())
            )
        with made_by_series("The module"):
            return take_file(post, f"{name}.ko", work_dir / f"{name}.ko", limit_bytes=_MODULE_LIMIT_BYTES)

    @staticmethod
    def require_linked(done: Completed, *, release: str) -> None:
        """Raise BuildStopped if the link of the module for the kernel `release` failed."""
        text = done.text + done.log.decode(errors="replace")
        if (found := modpost_problem(text, release=release)) is not None:
            raise BuildStopped(found)
        if done.timed_out:
            raise BuildStopped(problem("out-of-time", "Linking the module took too long.", excerpt=done.tail()))
        if not done.ok:
            raise BuildStopped(problem("link-failed", "The module cannot be linked.", excerpt=done.tail()))
