# SPDX-License-Identifier: GPL-2.0-or-later
"""Environment of kpatch-build: its tools in the directories that it searches, and a kernel with debug information.

Two things are missing. Debian's kpatch-build calls create-diff-object with --klp-arch for every kernel. The option is
right only before 5.8, and crashes the tool on functions with alternatives. And kpatch-build reads the sizes of a
kernel's tables from the debug information of vmlinux, which a base does not keep. The script is not changed: its
directory holds a create-diff-object that drops the option, and the base's vmlinux gets the debug information of one
small file.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from elivepatch.build.base.kbuild import make_arguments
from elivepatch.build.base.store import Base
from elivepatch.build.kept.tables import COMPILE_STRUCTURES, STRUCTURES
from elivepatch.build.roots.description import Toolchain
from elivepatch.build.sandbox.bubblewrap import Sandbox, writable_directory
from elivepatch.build.sandbox.output import take_file
from elivepatch.model.kernel import VMLINUX

TOOLS_PATH = "/tools/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""PATH of a sandbox with the directory of `kpatch_tools` at /tools."""

_KERNEL_LIMIT_BYTES = 2 << 30
# kpatch-build passes the option first.
_DIFF_TOOL = '#!/bin/sh\n[ "$1" != --klp-arch ] || shift\nexec /usr/lib/kpatch/create-diff-object "$@"\n'
_UNCHANGED = ("create-klp-module", "create-kpatch-module", "kpatch-cc")

_SCRIPT = f"""{COMPILE_STRUCTURES}ld -e 0 -o linked sizes.o
set --
for name in .debug_info .debug_abbrev .debug_str .debug_line .debug_line_str; do
    objcopy --dump-section "$name=part$name" linked /dev/null 2>/dev/null || continue
    set -- "$@" --add-section "$name=part$name"
done
objcopy "$@" /in/vmlinux /out/vmlinux
"""


def kpatch_tools(base: Base, helper: Toolchain, into: Path) -> Path:
    """Make the directory `into` for a sandbox's /tools: the unmodified kpatch-build in bin/, and the programs it calls.

    kpatch-build finds its tools beside itself. It calls the compiler `gcc`, which may not be the name of the base's.
    """
    libraries = into / "lib/kpatch"
    for directory in (into / "bin", libraries, into / "share"):
        directory.mkdir(parents=True)
    shutil.copyfile(helper.root / "usr/bin/kpatch-build", into / "bin/kpatch-build")
    (into / "bin/gcc").write_text(f'#!/bin/sh\nexec {base.cc} "$@"\n')
    (libraries / "create-diff-object").write_text(_DIFF_TOOL)
    for program in (into / "bin/kpatch-build", into / "bin/gcc", libraries / "create-diff-object"):
        program.chmod(0o755)
    for name in _UNCHANGED:
        (libraries / name).symlink_to(f"/usr/lib/kpatch/{name}")
    (into / "share/kpatch").symlink_to("/usr/share/kpatch")
    return into


def debuggable_kernel(base: Base, sandbox: Sandbox, *, into: Path, work_dir: Path) -> None:
    """Write to `into` the base's vmlinux with the debug information of the structures that kpatch-build measures.

    The symbols stay the shipped kernel's; the structures are compiled from the base's tree.
    """
    inputs, output = work_dir / "sizes-in", work_dir / "sizes-out"
    inputs.mkdir()
    writable_directory(output)
    (inputs / "sizes.c").write_text(STRUCTURES)
    shutil.copyfile(base.directory / VMLINUX, inputs / VMLINUX)
    make = make_arguments(base.cc, 1)
    sandbox.run(["sh", "-c", _SCRIPT, "sh", *make], layers=[base.tree], inputs=inputs, output=output).check(
        "Measuring the kernel's tables"
    )
    take_file(output, VMLINUX, into, limit_bytes=_KERNEL_LIMIT_BYTES)
    shutil.rmtree(output)
