# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs of this machine that read packages, for the sandbox: no toolchain root has them.

Each comes with its loader and libraries, in a directory that the sandbox shows at /tools.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from elivepatch.build.sandbox.libraries import LIBRARIES, PROGRAM_PLACES, find_file, loaded_by
from elivepatch.model.errors import EnvironmentFault

_PROGRAMS = {
    "bsdtar": "libarchive-tools",
    "bsdcat": "libarchive-tools",
    "rpm": "rpm",
    "rpmkeys": "rpm",
    "rpmbuild": "rpm",
    "rpmuncompress": "rpm",
}
_RPM_FILES = Path("/usr/lib/rpm")
_LOADER = "lib64/ld-linux-x86-64.so.2"

ENVIRONMENT = {"RPM_CONFIGDIR": "/tools/rpm"}
"""Variables that the programs need."""


def make_tools(into: Path) -> None:
    """Copy the programs to the new directory `into`; raises EnvironmentFault if this machine lacks one of them."""
    files: dict[str, Path] = {}
    for name, package in _PROGRAMS.items():
        program = find_file(name, (*PROGRAM_PLACES, _RPM_FILES))
        loaded = loaded_by(program) if program is not None else None
        if program is None or loaded is None:
            raise EnvironmentFault(
                "packages-tools",
                f"This machine lacks {name}, which reads packages of kernels.",
                advice=f"Install it: apt-get install {package}",
            )
        files |= loaded | {f"bin/{name}": program}
    for name, path in files.items():
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, into / name)
        (into / name).chmod(0o755)
    if _RPM_FILES.is_dir():
        shutil.copytree(_RPM_FILES, into / "rpm")
    into.chmod(0o755)


def tool(name: str) -> list[str]:
    """Return the start of a command that runs one of the programs in the sandbox."""
    return [f"/tools/{_LOADER}", "--library-path", f"/tools/{LIBRARIES}", f"/tools/bin/{name}"]
