# SPDX-License-Identifier: GPL-2.0-or-later
"""Objects compiled for a build are what the kernel holds, and anything else is refused, by us or by the tools."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from edits import Edit

from elivepatch.build.base.kbuild import without_sections
from elivepatch.build.base.store import Base
from elivepatch.build.checks.fidelity import check_fidelity, locate
from elivepatch.build.objects.compile import Compiler, Original
from elivepatch.build.objects.diff import DiffTool, symbol_table
from elivepatch.build.objects.link import Linker
from elivepatch.build.sandbox.bubblewrap import BUILD_UID
from elivepatch.kernel.elf import BIND_WEAK, ElfFile
from elivepatch.model.errors import BuildStopped, EnvironmentFault, Kind
from elivepatch.service.jobs.local_backend import LocalBackend

pytestmark = pytest.mark.kernel

DROP = "fs/drop_caches.c"
STFU = Edit(DROP, "stfu |= sysctl_drop_caches & 4;", "stfu |= sysctl_drop_caches & 12;")


def compiler(backend: LocalBackend, base: Base) -> Compiler:
    toolchains = backend.toolchains
    return Compiler(
        base=base,
        sandbox=toolchains.sandbox(toolchains.get(base.toolchain)),
        patch_headers=toolchains.helper().root / "usr/share/kpatch",
    )


@pytest.mark.parametrize(
    "source", ["fs/proc/meminfo.c", "fs/eventfd.c", DROP, "net/8021q/vlanproc.c", "virt/kvm/eventfd.c"]
)
def test_every_function_of_a_rebuilt_object_is_what_the_kernel_holds(
    backend: LocalBackend, base: Base, source: str
) -> None:
    unit = base.units.by_source[source]
    made = compiler(backend, base)
    plain = ElfFile(made.plain(unit, made.original(unit)))
    parent = base.parent(unit.parents[0])
    located = locate(plain, parent, source=source, parent=unit.parents[0])
    weak = {symbol.name for symbol in plain.symbols if symbol.bind == BIND_WEAK}
    names = [name for name in located.functions if not name.startswith("__pfx_") and name not in weak]
    assert len(names) >= 2
    check_fidelity(plain, parent, located, names, source=source, parent=unit.parents[0])


def changed_plain(backend: LocalBackend, base: Base, directory: Path, *edits: Edit) -> ElfFile:
    """The object as the shipped kernel would have been, had its source been another."""
    layer = directory / "layer"
    for edit in edits:
        place = layer / edit.path
        place.parent.mkdir(parents=True, exist_ok=True)
        text = (place if place.exists() else base.tree / edit.path).read_text()
        place.write_text(text.replace(edit.old, edit.new))
    for path in (layer, *layer.rglob("*")):
        shutil.chown(path, BUILD_UID, BUILD_UID)
    made, unit = compiler(backend, base), base.units.by_source[edits[0].path]
    real = made.original(unit)
    (directory / "plain").mkdir()
    (directory / "plain/command").write_text(without_sections(real.command))
    return ElfFile(made.patched(unit, Original(directory / "plain"), layer, directory))


def test_an_object_of_another_source_is_refused(backend: LocalBackend, base: Base, reachable_path: Path) -> None:
    plain = changed_plain(backend, base, reachable_path, STFU)
    located = locate(plain, base.vmlinux, source=DROP, parent="vmlinux")
    with pytest.raises(BuildStopped) as caught:
        check_fidelity(plain, base.vmlinux, located, ["drop_caches_sysctl_handler"], source=DROP, parent="vmlinux")
    assert (caught.value.problem.code, caught.value.problem.kind) == ("fidelity", Kind.ERROR)
    assert "drop_caches_sysctl_handler" in caught.value.problem.message
    check_fidelity(plain, base.vmlinux, located, ["drop_pagecache_sb"], source=DROP, parent="vmlinux")


def test_an_object_with_other_static_functions_is_refused(
    backend: LocalBackend, base: Base, reachable_path: Path
) -> None:
    edit = Edit(DROP, "drop_pagecache_sb", "drop_pagecache_all")
    plain = changed_plain(backend, base, reachable_path, edit)
    with pytest.raises(BuildStopped) as caught:
        locate(plain, base.vmlinux, source=DROP, parent="vmlinux")
    assert caught.value.problem.code == "symbols"


def test_one_flipped_byte_of_a_function_is_refused(backend: LocalBackend, base_6_1: Base, tmp_path: Path) -> None:
    unit = base_6_1.units.by_source[DROP]
    made = compiler(backend, base_6_1)
    real = made.plain(unit, made.original(unit))
    symbol = next(one for one in ElfFile(real).symbols if one.name == "drop_caches_sysctl_handler")
    section = ElfFile(real).sections[symbol.section]
    content = bytearray(real.read_bytes())
    # The byte behind the entry call is code, not an address.
    content[section.offset + symbol.value + 5] ^= 1
    (tmp_path / "plain.o").write_bytes(content)
    plain = ElfFile(tmp_path / "plain.o")
    located = locate(plain, base_6_1.vmlinux, source=DROP, parent="vmlinux")
    with pytest.raises(BuildStopped, match="is not the one"):
        check_fidelity(plain, base_6_1.vmlinux, located, [symbol.name], source=DROP, parent="vmlinux")


def compared(backend: LocalBackend, base: Base, directory: Path, sizes: dict[str, int], patched: bytes) -> None:
    """Compare the original of one object with some bytes."""
    made, unit = compiler(backend, base), base.units.by_source["fs/eventfd.c"]
    original = made.original(unit)
    plain = ElfFile(made.plain(unit, original))
    located = locate(plain, base.vmlinux, source=unit.source, parent="vmlinux")
    (directory / "patched.o").write_bytes(patched or original.sectioned.read_bytes())
    toolchains = backend.toolchains
    tool = DiffTool(sandbox=toolchains.sandbox(toolchains.helper()), struct_sizes=sizes)
    tool.compare(
        original=original.sectioned, patched=directory / "patched.o", source=unit.source, parent="vmlinux",
        table=symbol_table(base.vmlinux, located.block), symvers=base.tree / "Module.symvers", name="livepatch_test",
        work_dir=directory,
    )  # fmt: skip


def test_a_diff_tool_that_gives_up_is_our_matter(backend: LocalBackend, base_6_1: Base, reachable_path: Path) -> None:
    with pytest.raises(BuildStopped) as caught:
        compared(backend, base_6_1, reachable_path, {}, b"")
    assert (caught.value.problem.code, caught.value.problem.kind) == ("diff-tool", Kind.ERROR)
    assert "STRUCT_SIZE" in caught.value.problem.excerpt


def test_an_object_that_is_none_is_malformed(backend: LocalBackend, base_6_1: Base, reachable_path: Path) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        compared(backend, base_6_1, reachable_path, dict(base_6_1.struct_sizes), b"no object")
    assert caught.value.problem.code == "elf-malformed"


def test_what_cannot_be_linked_is_our_matter(backend: LocalBackend, base_6_1: Base, reachable_path: Path) -> None:
    toolchains = backend.toolchains
    (reachable_path / "diff.o").write_bytes(b"no object")
    linker = Linker(
        base=base_6_1,
        sandbox=toolchains.sandbox(toolchains.get(base_6_1.toolchain)),
        helper=toolchains.sandbox(toolchains.helper()),
        patch_headers=toolchains.helper().root / "usr/share/kpatch",
        jobs=2,
    )
    with pytest.raises(BuildStopped) as caught:
        linker.link([reachable_path / "diff.o"], name="livepatch_test", work_dir=reachable_path)
    assert (caught.value.problem.code, caught.value.problem.kind) == ("link-failed", Kind.ERROR)
    assert caught.value.problem.excerpt


@pytest.mark.parametrize(
    "phrase",
    [
        "changed section %s not selected for inclusion",
        "changed section %s is part of a section group",
        "new/changed group sections are not supported",
        "data section %s selected for inclusion",
        "section header details differ",
        "symbol info mismatch: %s",
        "symbol changed sections: %s",
        "object size mismatch: %s",
        "function %s doesn't have patchable function entry",
        "reference to static local variable %s in %s was removed",
        "static local %s has been correlated with %s, but patched %s is missing a reference",
        "Found a jump label at %s()+0x%lx, using key %s",
        "unsupported jump label(s)",
        "Found a static call at %s()+0x%lx, using key %s",
        "unsupported klp relocation reference to symbol '%s' in module-specific special section '%s'",
        "found duplicate matches for %s local symbols",
        "couldn't find matching %s local symbols",
        "can't find symbol '%s' in symbol table",
        "can't find local symbol '%s' in symbol table",
        "symbol %s at offset %lu within section %s, expected %lu",
        "%s: changed function: %s",
        "%s: new function: %s",
    ],
)
def test_what_we_understand_is_what_the_diff_tool_says(backend: LocalBackend, phrase: str) -> None:
    tool = backend.toolchains.helper().root / "usr/lib/kpatch/create-diff-object"
    assert phrase.encode() in tool.read_bytes()
