# SPDX-License-Identifier: GPL-2.0-or-later
"""A directory as kbuild leaves it: a kernel of a few sources, compiled and linked by the host's own tools."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pushing_host import put

from elivepatch.process import run

VMLINUX_SOURCES = {
    "init/main.c": "static int __attribute__((used)) begin(void) { return 1; } int start(void) { return begin(); }",
    "fs/core.c": "static int __attribute__((used)) open_it(void) { return 2; } int fs_open(void) { return open_it(); }",
    "drivers/core.c": "static int __attribute__((used)) probe(void) { return 3; } int probed(void) { return probe(); }",
    "lib/plain.c": "int plain(void) { return 4; }",
    "lib/even/plain.c": "int even_plainer(void) { return 5; }",
    "arch/x86/entry/entry_64.S": ".globl entry\nentry: ret\nleave: ret\n",
}
MODULE_SOURCES = {
    "fs/fat-fs/dir.c": "static int __attribute__((used)) read_dir(void) { return 6; } int fat_dir(void) { return 6; }",
    "fs/fat-fs/file.c": "static int held; int fat_file(void) { return held++; }",
}
MODULE = "fs/fat-fs/fat-fs"


def built_tree(directory: Path, *, sources: Mapping[str, str] = VMLINUX_SOURCES) -> Path:
    """Build the kernel in a directory and return that."""
    put(directory, f"{MODULE}.mod.c", b"int init_module_data = 1;\n")
    put(directory, "scripts/module-common.c", b"int of_all_modules;\n")
    commands = [f"gcc -c -o {MODULE}.mod.o {MODULE}.mod.c", "gcc -c -o .module-common.o scripts/module-common.c"]
    for name, text in {**sources, **MODULE_SOURCES}.items():
        put(directory, name, f"{text}\n".encode())
        commands.append(_command(name))
        _keep_command(directory, name)
    objects = [_object(name) for name in sources]
    parts = [_object(name) for name in MODULE_SOURCES]
    put(directory, f"{MODULE}.mod", "".join(f"{one}\n" for one in parts).encode())
    put(directory, "modules.order", f"{MODULE}.o\n".encode())
    below = [one for one in objects if one.startswith("fs/")]
    commands += [
        f"ar cDPrST fs/built-in.a {' '.join(below)}",
        f"ar cDPrST vmlinux.a fs/built-in.a {' '.join(one for one in objects if one not in below)}",
        "ld -r --build-id=sha1 -o vmlinux --whole-archive vmlinux.a",
        f"ld -r --build-id=sha1 -o {MODULE}.ko {' '.join(parts)} {MODULE}.mod.o .module-common.o",
    ]
    run(["sh", "-ec", "\n".join(commands)], cwd=directory).check("Building a test's kernel")
    return directory


def _keep_command(directory: Path, name: str) -> None:
    """Write what kbuild keeps of the compilation of a source."""
    target = _object(name)
    place, _, base = target.rpartition("/")
    text = (
        f"savedcmd_{target} := {_command(name)}\n\nsource_{target} := {name}\n\ndeps_{target} := \\\n"
        f"  include/config/X \\\n\n{target}: $(deps_{target})\n\n$(deps_{target}):\n"
    )
    put(directory, f"{place}/.{base}.cmd", text.encode())


def _command(name: str) -> str:
    return f"gcc -O0 -c -o {_object(name)} {name}"


def _object(name: str) -> str:
    return f"{name.rpartition('.')[0]}.o"
