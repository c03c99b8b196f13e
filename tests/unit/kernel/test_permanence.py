# SPDX-License-Identifier: GPL-2.0-or-later
"""A module without a function for its end is one that the kernel never unloads."""

from __future__ import annotations

from pathlib import Path

import pytest
from elf_maker import GLOBAL, Made

from elivepatch.kernel.elf import ElfFile
from elivepatch.kernel.permanence import make_stay, stays_loaded
from elivepatch.model.errors import EnvironmentFault


def module(path: Path) -> Path:
    made = Made().section(".gnu.linkonce.this_module", bytes(64)).section(".text", bytes(16), code=True)
    for number, name in enumerate(("init_module", "cleanup_module")):
        made.relocation(".gnu.linkonce.this_module", 8 * number, made.symbol(name, ".text", bind=GLOBAL), kind=1)
    made.relocation(".text", 4, 2, kind=4)
    return made.write(path)


def test_a_module_stays_once_its_structure_names_no_end_and_nothing_else_changes(tmp_path: Path) -> None:
    path = module(tmp_path / "a.ko")
    before, old = path.read_bytes(), ElfFile(path)
    assert not stays_loaded(old)
    entries = {one.name: list(old.entries(one)) for one in old.sections if one.name.startswith(".rela")}
    make_stay(path)
    assert stays_loaded(ElfFile(path))
    assert len(path.read_bytes()) == len(before)
    now = ElfFile(path)
    assert list(now.entries(now.by_name[".rela.text"])) == entries[".rela.text"]
    first, last = now.entries(now.by_name[".rela.gnu.linkonce.this_module"])
    assert first == entries[".rela.gnu.linkonce.this_module"][0]
    assert (last.kind, last.symbol) == (0, 0)
    make_stay(path)
    assert stays_loaded(ElfFile(path))


def test_what_is_no_module_is_refused(tmp_path: Path) -> None:
    path = Made().section(".text", bytes(4), code=True).write(tmp_path / "a.o")
    assert not stays_loaded(ElfFile(path))
    with pytest.raises(EnvironmentFault):
        make_stay(path)
