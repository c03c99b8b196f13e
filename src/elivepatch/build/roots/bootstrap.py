# SPDX-License-Identifier: GPL-2.0-or-later
"""Roots that are made from the distribution's packages by mmdebstrap."""

from __future__ import annotations

from pathlib import Path

from elivepatch.build.roots.declared import Declaration
from elivepatch.model.progress import Event, Progress
from elivepatch.process import run

_EXCLUDED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
_USUAL_S = 40


def bootstrap(declaration: Declaration, root: Path, sources: str, progress: Progress) -> None:
    """Install the declared packages into the new directory `root`; `sources` are apt sources (one-line format).

    Raises EnvironmentFault if that fails.
    """
    listed = root.parent / "sources.list"
    listed.write_text(sources)
    command = ["mmdebstrap", "--mode=root", "--variant=minbase", "--architectures=amd64",
               "--dpkgopt=force-unsafe-io", *[f"--dpkgopt=path-exclude={path}" for path in _EXCLUDED],
               f"--include={','.join(declaration.packages)}", declaration.suite, str(root),
               str(listed)]  # fmt: skip

    def report(seconds: float) -> None:
        # mmdebstrap reports no progress; the time that it usually takes is close enough.
        progress(
            Event(
                stage="toolchain",
                message=f"{declaration.name}: installing {len(declaration.packages)} packages and what they need",
                fraction=min(seconds / _USUAL_S, 0.9),
            )
        )

    progress(Event(stage="toolchain", message=f"{declaration.name}: making it from {declaration.suite}", fraction=0.0))
    run(command, timeout_s=1800, on_tick=report, env={"SOURCE_DATE_EPOCH": "1"}).check(
        f"Making the toolchain {declaration.name}"
    )
    listed.unlink()
