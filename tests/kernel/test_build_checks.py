# SPDX-License-Identifier: GPL-2.0-or-later
"""The checks of a finished module can fail: each is shown a real module that is wrong in one thing."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from edits import Edit, after, patch_of, series_of

from elivepatch.build.base.store import Base
from elivepatch.build.builders import objects as builder
from elivepatch.build.checks.module import Expected, check_module
from elivepatch.kernel.elf import BIND_LOCAL, TYPE_FUNC, ElfFile, Symbol
from elivepatch.kernel.symbols import Block
from elivepatch.model.errors import BuildStopped, EnvironmentFault, Kind, Problem
from elivepatch.service.jobs.local_backend import LocalBackend

pytestmark = pytest.mark.kernel

DROP = "fs/drop_caches.c"
STFU = Edit(DROP, "stfu |= sysctl_drop_caches & 4;", "stfu |= sysctl_drop_caches & 12;")
VLAN = Edit("net/8021q/vlanproc.c", '"VLAN Dev name	 | VLAN ID\\n"', '"VLAN device	 | VLAN id\\n"')
C_START = after("crypto/proc.c", "	down_read(&crypto_alg_sem);\n", "	cond_resched();\n")
SAME_NAME = after("fs/proc/consoles.c", "	loff_t off = 0;\n\n", "	cond_resched();\n")
VERSION, SHOW, END = "fs/proc/version.c", "static int version_proc_show", "	return 0;\n}\n\nstatic int __init"


@dataclass
class Made:
    """A module that passed its checks, and what it was checked against."""

    content: bytes
    name: str
    base: Base
    expected: list[Expected]
    blocks: dict[str, list[Block]]
    directory: Path

    def check(self, content: bytes | None = None, **changes: Any) -> None:
        """Check a module of other bytes, or against something else."""
        path = self.directory / "changed.ko"
        path.write_bytes(self.content if content is None else content)
        given: dict[str, Any] = {
            "name": self.name,
            "base": self.base,
            "expected": self.expected,
            "blocks": self.blocks,
        } | changes
        check_module(path, **given)

    def problem(self, content: bytes | None = None, **changes: Any) -> Problem:
        """Return what stops the changed module."""
        with pytest.raises(BuildStopped) as caught:
            self.check(content, **changes)
        return caught.value.problem


@pytest.fixture(scope="module")
def made(backend: LocalBackend, base_6_1: Base, shared_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Functions of vmlinux (two of the several of one name, one with a static variable) and of a module."""
    given: dict[str, Any] = {}
    real = check_module

    def recorded(path: Path, name: str, base: Base, expected: Any, blocks: Any) -> Any:
        given.update(content=path.read_bytes(), name=name, base=base, expected=expected, blocks=blocks)
        return real(path, name, base, expected, blocks)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "check_module", recorded)
        maker = builder.ObjectsBuilder(base=base_6_1, toolchains=backend.toolchains, jobs=2)
        series = series_of(patch_of(base_6_1.tree, STFU, VLAN, C_START, SAME_NAME))
        assert maker.build(series, name="livepatch_test", work_dir=shared_path).problem is None
    return Made(directory=tmp_path_factory.mktemp("checks"), **given)


def swapped(content: bytes, old: bytes, new: bytes) -> bytes:
    """Put other bytes of the same length in one place."""
    assert len(old) == len(new)
    assert content.count(old) >= 1, old
    return content.replace(old, new, 1)


def section_of(made: Made, name: str) -> tuple[int, int]:
    """Return the position of a section in the module's file, and its size."""
    path = made.directory / "made.ko"
    path.write_bytes(made.content)
    section = ElfFile(path).by_name[name]
    return section.offset, section.size


def test_the_module_as_it_was_made_passes(made: Made) -> None:
    made.check()
    assert sorted(one.symbol.name for one in made.expected) == [
        "c_start", "c_start", "drop_caches_sysctl_handler", "vlan_seq_show",
    ]  # fmt: skip


def test_another_kernels_module_is_refused(made: Made) -> None:
    problem = made.problem(swapped(made.content, b"vermagic=6.1.0-50", b"vermagic=6.1.0-51"))
    assert (problem.code, problem.kind) == ("module-check", Kind.ERROR)
    assert "vermagic" in problem.message
    assert "6.1.0-51" in problem.message


def test_a_module_that_is_not_marked_as_livepatch_is_refused(made: Made) -> None:
    assert "not marked" in made.problem(swapped(made.content, b"livepatch=Y", b"livepatch=N")).message


def test_a_module_of_another_name_is_refused(made: Made) -> None:
    assert "livepatch_test" in made.problem(name="livepatch_other").message


def test_another_size_of_struct_module_is_refused(made: Made) -> None:
    _offset, size = section_of(made, ".gnu.linkonce.this_module")
    content = bytearray(made.content)
    headers = struct.unpack_from("<Q", content, 40)[0]
    count = struct.unpack_from("<H", content, 60)[0]
    sizes = [headers + 64 * number + 32 for number in range(count)]
    (place,) = (at for at in sizes if struct.unpack_from("<Q", content, at)[0] == size)
    struct.pack_into("<Q", content, place, size - 8)
    assert "struct module" in made.problem(bytes(content)).message


@pytest.mark.parametrize("position", [0, 1, 9])
def test_a_wrong_symbol_position_is_refused(made: Made, position: int) -> None:
    offset, size = section_of(made, ".kpatch.funcs")
    one, other = sorted(
        made.base.vmlinux.position(each.symbol) for each in made.expected if each.symbol.name == "c_start"
    )
    assert position not in {one, other}
    content = bytearray(made.content)
    places = [at for at in range(offset + 32, offset + size, 56) if content[at] == one]
    struct.pack_into("<Q", content, places[0], position)
    problem = made.problem(bytes(content))
    assert problem.code == "module-check"
    assert f"c_start is at symbol position {one} or {other}, the module says {position}" in problem.message


def test_a_function_that_nobody_asked_for_is_refused(made: Made) -> None:
    fewer = [one for one in made.expected if one.symbol.name != "vlan_seq_show"]
    assert "vlan_seq_show of 8021q, which the series does not change" in made.problem(expected=fewer).message


def test_a_module_that_replaces_nothing_is_refused(made: Made) -> None:
    content = made.content.replace(b".kpatch.funcs\0", b".kpatch.fancs\0")
    assert "replaces no function" in made.problem(content).message


def expecting(made: Made, symbol: Symbol) -> list[Expected]:
    """Return the expected functions, with another symbol in place of the global function."""
    name = "drop_caches_sysctl_handler"
    other = symbol._replace(name=name)
    return [replace(one, symbol=other) if one.symbol.name == name else one for one in made.expected]


def test_a_function_that_cannot_be_traced_is_refused(made: Made) -> None:
    (symbol,) = made.base.vmlinux.named["ktime_get_mono_fast_ns"]
    problem = made.problem(expected=expecting(made, symbol))
    assert (problem.code, problem.kind) == ("no-function-entry", Kind.VERDICT)


def test_a_function_that_was_thrown_away_after_the_start_is_refused(made: Made) -> None:
    (symbol,) = made.base.vmlinux.named["proc_version_init"]
    assert made.problem(expected=expecting(made, symbol)).code == "init-code"


def test_a_symbol_that_the_kernel_does_not_have_is_refused(made: Made) -> None:
    content = swapped(made.content, b".klp.sym.vmlinux.drop_slab,0", b".klp.sym.vmlinux.drop_slap,0")
    assert "vmlinux has no symbol drop_slap" in made.problem(content).message


def test_a_symbol_at_a_position_that_is_not_there_is_refused(made: Made) -> None:
    content = swapped(made.content, b".klp.sym.vmlinux.stfu.0,1", b".klp.sym.vmlinux.stfu.0,7")
    assert "no symbol stfu.0 at position 7" in made.problem(content).message


def test_a_static_symbol_of_another_file_is_refused(made: Made) -> None:
    named = made.base.vmlinux.named
    other = next(name for name, same in sorted(named.items())
                 if len(name) == len("drop_pagecache_sb") and len(same) == 1 and same[0].bind == BIND_LOCAL
                 and name != "drop_pagecache_sb" and same[0].kind == TYPE_FUNC)  # fmt: skip
    content = made.content.replace(b".klp.sym.vmlinux.drop_pagecache_sb,", b".klp.sym.vmlinux." + other.encode() + b",")
    problem = made.problem(content)
    assert problem.code == "module-check"
    assert f"refers to {other} of vmlinux, which is another file's" in problem.message


@pytest.fixture
def copied_base(base_6_1: Base, tmp_path: Path) -> Callable[[Callable[[str], str]], Base]:
    """A base whose export table was changed by a function; all else is the real one's."""

    def copied(change: Callable[[str], str]) -> Base:
        (tmp_path / "base/tree").mkdir(parents=True)
        for name in ("vmlinux", "modules", "symbols"):
            (tmp_path / "base" / name).symlink_to(base_6_1.directory / name)
        table = (base_6_1.tree / "Module.symvers").read_text()
        (tmp_path / "base/tree/Module.symvers").write_text(change(table))
        return replace(base_6_1, directory=tmp_path / "base")

    return copied


def line_of(table: str, name: str) -> str:
    return next(line for line in table.splitlines(keepends=True) if line.split("\t")[1] == name)


def test_another_checksum_of_a_symbol_is_refused(made: Made, copied_base: Any) -> None:
    def change(table: str) -> str:
        line = line_of(table, "proc_dointvec_minmax")
        return table.replace(line, f"0x{int(line[2:10], 16) ^ 1:08x}{line[10:]}")

    problem = made.problem(base=copied_base(change))
    assert problem.code == "module-check"
    assert "another checksum for proc_dointvec_minmax" in problem.message


def test_a_symbol_that_is_not_exported_is_refused(made: Made, copied_base: Any) -> None:
    other = copied_base(lambda table: table.replace(line_of(table, "proc_dointvec_minmax"), ""))
    assert "needs proc_dointvec_minmax, which the kernel does not export" in made.problem(base=other).message


def test_a_namespace_that_is_not_imported_is_refused(made: Made, copied_base: Any) -> None:
    def change(table: str) -> str:
        line = line_of(table, "proc_dointvec_minmax")
        return table.replace(line, line.rstrip("\n") + "SECRET\n")

    assert "namespace SECRET of proc_dointvec_minmax" in made.problem(base=copied_base(change)).message


def test_a_module_truncated_anywhere_is_refused(made: Made) -> None:
    for length in range(0, len(made.content), len(made.content) // 40):
        with pytest.raises((EnvironmentFault, BuildStopped)) as caught:
            made.check(made.content[:length])
        assert caught.value.problem.code in {"elf-malformed", "module-check"}


def test_a_module_with_damaged_bytes_passes_or_is_refused_cleanly(made: Made) -> None:
    dice = random.Random(6)  # noqa: S311 - a fixed sequence
    codes = set()
    for _ in range(150):
        content = bytearray(made.content)
        for _ in range(dice.randint(1, 40)):
            content[dice.randrange(len(content))] = dice.randrange(256)
        try:
            made.check(bytes(content))
        except (EnvironmentFault, BuildStopped) as stopped:
            codes.add(stopped.problem.code)
    assert {"elf-malformed", "module-check"} <= codes
