# SPDX-License-Identifier: GPL-2.0-or-later
"""References of changed code are checked before it is linked: symbols, namespaces, keys, sealed entries."""

from __future__ import annotations

import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from elf_maker import FUNC, GLOBAL, LOCAL, OBJECT, Made

from elivepatch.build.checks.lifetime import Reference
from elivepatch.build.checks.prototypes import signature
from elivepatch.build.checks.references import DiffObject, Pointer, check_references
from elivepatch.kernel.exports import Export
from elivepatch.model.errors import BuildStopped, Problem
from elivepatch.patch.c_source import read_definitions

PC32, PLT32, ABSOLUTE_64, SIGNED_32 = 2, 4, 1, 11


def diff_object(path: Path, *undefined: tuple[str, int], modinfo: bytes = b"", defined: tuple[str, ...] = ()) -> Path:
    made = Made().section(".text.run", b"\x90" * 64, code=True).section(".modinfo", modinfo)
    made.symbol("run", ".text.run", size=64, kind=FUNC, bind=GLOBAL)
    for name in defined:
        made.symbol(name, ".text.run", size=1, kind=FUNC, bind=GLOBAL)
    for name, bind in undefined:
        made.symbol(name, kind=0, bind=bind)
    return made.write(path)


def base(*exports: Export, ibt: bool = False, linked: Any = None, release: str = "6.1.0-1") -> Any:
    return SimpleNamespace(
        exports={one.name: one for one in exports},
        ibt=ibt,
        release=release,
        parent=lambda _name: linked,
        module_files={},
    )


def export(name: str, namespace: str = "") -> Export:
    return Export(name=name, crc=1, owner="vmlinux", namespace=namespace)


def stopped(paths: list[Path], kernel: Any) -> Problem:
    with pytest.raises(BuildStopped) as caught:
        check_references(paths, kernel)
    return caught.value.problem


def test_what_the_kernel_exports_and_what_the_series_brings_along_is_found(tmp_path: Path) -> None:
    paths = [
        diff_object(tmp_path / "a.o", ("printk", GLOBAL), ("helper", GLOBAL), ("__this_module", GLOBAL)),
        diff_object(tmp_path / "b.o", defined=("helper",)),
    ]
    check_references(paths, base(export("printk")))


def test_a_symbol_that_nobody_has_is_named(tmp_path: Path) -> None:
    problem = stopped([diff_object(tmp_path / "a.o", ("nobody", GLOBAL), ("none", GLOBAL))], base())
    assert problem.code == "undefined-symbol"
    assert "nobody" in problem.message
    assert problem.excerpt == "nobody\nnone"


@pytest.mark.parametrize(("release", "written"), [("6.1.0-50", "(CRYPTO)"), ("6.13.1", '("CRYPTO")')])
def test_a_namespace_that_is_not_imported_is_told_as_this_kernel_writes_it(
    tmp_path: Path, release: str, written: str
) -> None:
    path = diff_object(tmp_path / "a.o", ("cipher", GLOBAL))
    problem = stopped([path], base(export("cipher", "CRYPTO"), release=release))
    assert problem.code == "undefined-symbol"
    assert "CRYPTO" in problem.message
    assert f"MODULE_IMPORT_NS{written};" in problem.excerpt


def test_a_namespace_that_is_imported_is_open(tmp_path: Path) -> None:
    path = diff_object(tmp_path / "a.o", ("cipher", GLOBAL), modinfo=b"import_ns=CRYPTO\0")
    check_references([path], base(export("cipher", "CRYPTO")))


def test_a_local_symbol_that_was_left_behind_is_a_static_key(tmp_path: Path) -> None:
    problem = stopped([diff_object(tmp_path / "a.o", ("own_key", LOCAL))], base())
    assert problem.code == "jump-label"
    assert "own_key" in problem.message


def with_pointers(path: Path, *, kind: int) -> Path:
    """An object whose code refers to `plain` by itself and to the second `twice` of a module by a livepatch symbol."""
    made = Made().section(".text.run", b"\x90" * 64, code=True).section(".kpatch.strings", b"twice\0box\0")
    made.section(".kpatch.symbols", struct.pack("<QQBB6xQQ", 0, 2, 0, 2, 0, 0))
    made.section(".kpatch.relocations", struct.pack("<QIiqQQ", 0, kind, 0, 0, 0, 0))
    text, strings, symbols = (
        made.symbol("", name, kind=3) for name in (".text.run", ".kpatch.strings", ".kpatch.symbols")
    )
    plain = made.symbol("plain", kind=0, bind=GLOBAL)
    made.relocation(".text.run", 8, plain, kind=kind)
    made.relocation(".kpatch.symbols", 24, strings, kind=ABSOLUTE_64, addend=0)
    made.relocation(".kpatch.symbols", 32, strings, kind=ABSOLUTE_64, addend=6)
    made.relocation(".kpatch.relocations", 0, text, kind=ABSOLUTE_64, addend=16)
    made.relocation(".kpatch.relocations", 24, strings, kind=ABSOLUTE_64, addend=6)
    made.relocation(".kpatch.relocations", 32, symbols, kind=ABSOLUTE_64, addend=0)
    return made.write(path)


@pytest.mark.parametrize("kind", [ABSOLUTE_64, SIGNED_32, PC32])
def test_pointers_are_found_whoever_fills_them_in(tmp_path: Path, kind: int) -> None:
    found = list(DiffObject(with_pointers(tmp_path / "a.o", kind=kind)).pointers())
    assert found == [
        Pointer(object="vmlinux", name="plain", position=0),
        Pointer(object="box", name="twice", position=2),
    ]


def test_references_that_livepatch_resolves_are_found_with_their_holder_and_their_part(tmp_path: Path) -> None:
    found = list(DiffObject(with_pointers(tmp_path / "a.o", kind=PLT32)).references())
    assert found == [
        Reference(holder=".text.run", part="box", object="box", name="twice", position=2, distance=4),
    ]


def test_an_export_of_a_module_is_no_symbol_of_the_kernel(tmp_path: Path) -> None:
    path = diff_object(tmp_path / "a.o", ("ask", GLOBAL))
    exported = Export(name="ask", crc=1, owner="net/box", namespace="")
    assert stopped([path], base(exported)).code == "module-symbol"
    check_references([path, diff_object(tmp_path / "b.o", defined=("ask",))], base(exported))


def test_a_direct_call_is_no_pointer(tmp_path: Path) -> None:
    assert list(DiffObject(with_pointers(tmp_path / "a.o", kind=PLT32)).pointers()) == []


def test_a_pointer_to_a_sealed_entry_is_refused_where_entries_are_sealed(tmp_path: Path) -> None:
    path = with_pointers(tmp_path / "a.o", kind=ABSOLUTE_64)
    symbols = {
        "plain": [SimpleNamespace(kind=FUNC, value=16, section=1)],
        "twice": [SimpleNamespace(kind=FUNC, value=value, section=1) for value in (32, 48)],
    }
    linked = SimpleNamespace(named=symbols, sealed=lambda _section: {48})
    assert "twice" in stopped([path], base(export("plain"), ibt=True, linked=linked)).message
    check_references([path], base(export("plain"), ibt=False, linked=linked))
    others = SimpleNamespace(named=symbols | {"twice": [SimpleNamespace(kind=OBJECT, value=48, section=1)] * 2},
                             sealed=lambda _section: {32, 48})  # fmt: skip
    check_references([path], base(export("plain"), ibt=True, linked=others))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("int f(int a)", "int f(int b)", True),
        ("int f(struct box *a)", "int\nf(struct box * b)", True),
        ("static inline int f(void)", "static int f(void)", True),
        ("int f(int (*done)(int))", "int f(int (*ready)(int))", True),
        ("int f(u8 a[], u32 n)", "int f(u8 b[], u32 m)", True),
        ("int f(int a)", "long f(int a)", False),
        ("int f(int a)", "int f(long a)", False),
        ("int f(int a)", "int f(int a, int b)", False),
        ("int f(struct box *a)", "int f(const struct box *a)", False),
        ("int f(struct box *a)", "int f(struct box a)", False),
        ("int f(unsigned int a)", "int f(unsigned long a)", False),
        ("unsigned f(unsigned flags)", "unsigned int f(unsigned int flags)", True),
        ("long int f(long unsigned int x)", "long f(unsigned long x)", True),
        ("int f(unsigned x)", "int f(unsigned long x)", False),
        ("int f(unsigned char x)", "int f(unsigned x)", False),
    ],
)
def test_a_type_is_the_same_whatever_the_parameters_are_called(one: str, other: str, same: bool) -> None:
    first, second = (signature(read_definitions(f"{text}\n{{\n}}\n")[0]) for text in (one, other))
    assert (first == second) is same
