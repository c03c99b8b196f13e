# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables of a kernel whose entries the tools measure: the structures of the entries, and the tables in vmlinux.

A kernel without debug information has no record of their sizes. A small file is then compiled as the kernel's own were,
with debug information, and each size must fit its table in vmlinux.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from elivepatch.build.sandbox.bubblewrap import Sandbox, writable_directory
from elivepatch.build.sandbox.output import take_file
from elivepatch.kernel.symbols import LinkedSymbols
from elivepatch.model.errors import EnvironmentFault

# Pointers: a configuration without a feature only declares its structure, or not even that.
STRUCTURES = """
#include <linux/bug.h>
#include <linux/jump_label.h>
#include <linux/module.h>
#include <linux/static_call.h>
#include <linux/uaccess.h>
#include <asm/alternative.h>
#include <asm/orc_types.h>
struct alt_instr *alternative;
struct bug_entry *bug;
struct exception_table_entry *exception;
struct jump_entry *jump;
struct orc_entry *orc;
struct paravirt_patch_site *paravirt;
struct static_call_site *static_call;
"""
"""Source of a file that uses the structures, for `COMPILE_STRUCTURES`."""

COMPILE_STRUCTURES = """
set -e
mkdir /out/sizes
cd /out/sizes
cp /in/sizes.c .
echo 'obj-m := sizes.o' >Makefile
"$@" -C /src M="$PWD" KCFLAGS='-g -gz=none' sizes.o
"""
"""Shell script that compiles /in/sizes.c to /out/sizes/sizes.o in a prepared tree at /src; its arguments are make's."""

_BOUNDS = {
    "ALT_STRUCT_SIZE": ("__alt_instructions", "__alt_instructions_end"),
    "BUG_STRUCT_SIZE": ("__start___bug_table", "__stop___bug_table"),
    "EX_STRUCT_SIZE": ("__start___ex_table", "__stop___ex_table"),
    "JUMP_STRUCT_SIZE": ("__start___jump_table", "__stop___jump_table"),
    "ORC_STRUCT_SIZE": ("__start_orc_unwind", "__stop_orc_unwind"),
    "STATIC_CALL_STRUCT_SIZE": ("__start_static_call_sites", "__stop_static_call_sites"),
    "PARA_STRUCT_SIZE": ("__parainstructions", "__parainstructions_end"),
}
# An entry of this table begins at a multiple of eight bytes, and nothing fills up the last one.
_LAST_IS_SHORTER = {"PARA_STRUCT_SIZE": 8}
_OBJECT_LIMIT_BYTES = 256 << 20


def compiled_structures(tree: Path, sandbox: Sandbox, make: Sequence[str], into: Path) -> Path:
    """Return a new object below `into` whose debug information has the structures. `make` begins the command."""
    place = Path(tempfile.mkdtemp(prefix="structures-", dir=into))
    place.chmod(0o755)
    inputs, output = place / "in", writable_directory(place / "out")
    inputs.mkdir()
    (inputs / "sizes.c").write_text(STRUCTURES)
    command = ["sh", "-c", COMPILE_STRUCTURES, "sh", *make]
    sandbox.run(command, layers=[tree], inputs=inputs, output=output).check("Measuring the kernel's tables")
    return take_file(output, "sizes/sizes.o", place / "sizes.o", limit_bytes=_OBJECT_LIMIT_BYTES)


def require_tables(sizes: Mapping[str, int], vmlinux: LinkedSymbols) -> None:
    """Raise EnvironmentFault with the code `struct-sizes` if a size does not fit the table in vmlinux."""
    wrong = [f"{name} is {size}, its table has {length} bytes" for name, size, length in _misfits(sizes, vmlinux)]
    if wrong:
        raise EnvironmentFault(
            "struct-sizes",
            f"The kernel's tables do not have entries of the size that its source gives them: {wrong[0]}.",
            advice="Give the source, the configuration and the compiler that this very kernel was built with.",
            excerpt="\n".join(wrong),
        )


def _misfits(sizes: Mapping[str, int], vmlinux: LinkedSymbols) -> Iterator[tuple[str, int, int]]:
    for name, bounds in _BOUNDS.items():
        start, stop = (vmlinux.named.get(one) for one in bounds)
        length = stop[0].value - start[0].value if start and stop else 0
        size = sizes[name]
        lacking = -length % size if size else length
        if lacking and lacking >= _LAST_IS_SHORTER.get(name, 1):
            yield name, size, length
