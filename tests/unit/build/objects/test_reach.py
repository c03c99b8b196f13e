# SPDX-License-Identifier: GPL-2.0-or-later
"""Objects that a series reaches; changes that would silently be missing are refused, or noted."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pytest

from elivepatch.build.objects.header_users import NameUsers
from elivepatch.build.objects.reach import OBJECTS_LIMIT, Reach, reach
from elivepatch.kernel.compile_units import Unit, Units
from elivepatch.model.errors import BuildStopped, Kind, Problem
from elivepatch.patch.parse import TouchedFile, kind_of

ENTRY = "arch/x86/entry/entry_64.S"


def unit(source: str, *parents: str) -> Unit:
    return Unit(source, source.rpartition(".")[0] + ".o", parents or ("vmlinux",))


def units(*more: Unit) -> Units:
    built = [
        unit("fs/pipe.c"),
        unit("net/8021q/vlan.c", "8021q"),
        unit("kernel/sched/build_policy.c"),
        unit("arch/x86/entry/vdso/vma.c"),
        unit("arch/x86/mm/init_64.c"),
        *more,
    ]
    includers = {
        "kernel/sched/rt.c": ("kernel/sched/build_policy.c",),
        "lib/vdso/gettimeofday.c": ("arch/x86/entry/vdso/vclock_gettime.c",),
        "arch/x86/mm/ident_map.c": ("arch/x86/boot/compressed/ident_map_64.c", "arch/x86/mm/init_64.c"),
    }
    return Units({one.source: one for one in built}, includers)


def touched(path: str, *, added: bool = False, removed: bool = False) -> TouchedFile:
    return TouchedFile(path=path, kind=kind_of(path), added=added, removed=removed)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for path in (
        "fs/pipe.c", "fs/Kconfig", "net/8021q/vlan.c", "net/8021q/vlan.h", "kernel/sched/rt.c", "drivers/gpu/i915.c",
        "arch/arm64/kernel/process.c", "arch/arm64/include/asm/page.h", "arch/x86/boot/main.c", "arch/x86/boot/boot.h",
        "arch/x86/entry/vdso/vma.c", "arch/x86/mm/ident_map.c", "lib/vdso/gettimeofday.c", ENTRY, "crypto/x509.asn1",
        "include/linux/mm.h", "fs/internal.h", "arch/x86/boot/header.S",
        "drivers/gpu/i915.h", "rust/kernel/lib.rs", "arch/arm/boot/dts/a.dts",
    ):  # fmt: skip
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    return tmp_path


USERS = {
    "net/8021q/vlan.h": frozenset({"net/8021q/vlan.c", "drivers/gpu/i915.c"}),
    "include/linux/mm.h": frozenset({"fs/pipe.c", ENTRY}),
    "fs/internal.h": frozenset({"fs/pipe.c", "arch/x86/boot/compressed/misc.c", "arch/x86/boot/header.S"}),
    "arch/x86/boot/boot.h": frozenset({"arch/x86/boot/main.c"}),
}


def reached(tree: Path, *files: TouchedFile, built: Units | None = None) -> Reach:
    return reach(files, built or units(), tree, lambda header: USERS.get(header, frozenset()))


def sources(found: Reach) -> list[str]:
    return [one.source for one in found.units]


def refusal(tree: Path, *files: TouchedFile, built: Units | None = None) -> Problem:
    with pytest.raises(BuildStopped) as caught:
        reached(tree, *files, built=built)
    return caught.value.problem


def test_sources_of_vmlinux_and_of_modules_are_reached_in_a_fixed_order(tree: Path) -> None:
    found = reached(tree, touched("net/8021q/vlan.c"), touched("fs/pipe.c"))
    assert sources(found) == ["fs/pipe.c", "net/8021q/vlan.c"]
    assert found.notes == ()


def test_a_source_that_another_includes_reaches_that_ones_object(tree: Path) -> None:
    assert sources(reached(tree, touched("kernel/sched/rt.c"))) == ["kernel/sched/build_policy.c"]


def test_documentation_is_passed_over(tree: Path) -> None:
    assert sources(reached(tree, touched("Documentation/a.rst"), touched("fs/pipe.c"))) == ["fs/pipe.c"]
    assert refusal(tree, touched("MAINTAINERS")).code == "no-change"


@pytest.mark.parametrize(
    "path", ["drivers/gpu/i915.c", "drivers/gpu/i915.h", "arch/arm64/kernel/process.c", "arch/arm64/include/asm/page.h",
             "arch/arm/boot/dts/a.dts", "arch/arm64/new_in_7.c", "rust/kernel/lib.rs",
             "tools/testing/selftests/new_in_7.c", "tools/testing/selftests/Makefile"],
)  # fmt: skip
def test_what_this_kernel_does_not_build_does_not_affect_it(tree: Path, path: str) -> None:
    problem = refusal(tree, touched(path))
    assert (problem.code, problem.kind) == ("not-built", Kind.VERDICT)
    assert path in problem.message


def test_what_is_not_built_beside_what_is_gets_a_note(tree: Path) -> None:
    found = reached(tree, touched("drivers/gpu/i915.c"), touched("fs/pipe.c"))
    assert sources(found) == ["fs/pipe.c"]
    assert [(note.code, "drivers/gpu/i915.c" in note.message) for note in found.notes] == [("not-built", True)]


def test_a_file_that_this_source_does_not_have_does_not_apply(tree: Path) -> None:
    problem = refusal(tree, touched("fs/new_in_7.c"))
    assert problem.code == "does-not-apply"
    assert "fs/new_in_7.c" in problem.message


def test_files_of_the_build_are_refused(tree: Path) -> None:
    problem = refusal(tree, touched("fs/Kconfig"), touched("scripts/mod/modpost.c"), touched("fs/pipe.c"))
    assert problem.code == "patch-build-files"
    assert "fs/Kconfig, scripts/mod/modpost.c" in problem.message


def test_files_that_code_is_made_from_are_refused(tree: Path) -> None:
    assert refusal(tree, touched("crypto/x509.asn1")).code == "patch-build-files"


def test_rust_that_is_built_is_refused(tree: Path) -> None:
    assert (
        refusal(tree, touched("rust/kernel/lib.rs"), built=units(unit("rust/kernel/lib.rs"))).code
        == "patch-build-files"
    )


@pytest.mark.parametrize("path", ["arch/x86/boot/main.c", "lib/vdso/gettimeofday.c", "arch/x86/boot/boot.h"])
def test_code_outside_the_running_kernel_is_refused(tree: Path, path: str) -> None:
    problem = refusal(tree, touched(path))
    assert problem.code == "unpatchable-code"
    assert path in problem.message


def test_code_of_the_vdso_directory_that_is_part_of_vmlinux_is_reached(tree: Path) -> None:
    assert sources(reached(tree, touched("arch/x86/entry/vdso/vma.c"))) == ["arch/x86/entry/vdso/vma.c"]


def test_code_that_is_also_part_of_the_boot_loader_is_noted(tree: Path) -> None:
    found = reached(tree, touched("arch/x86/mm/ident_map.c"))
    assert sources(found) == ["arch/x86/mm/init_64.c"]
    assert [note.code for note in found.notes] == ["left-out"]
    assert "arch/x86/boot/compressed/ident_map_64.c" in found.notes[0].message


@pytest.mark.parametrize("built", [units(), units(unit(ENTRY))], ids=["not named", "named"])
def test_assembly_is_refused_whether_debug_information_names_it_or_not(tree: Path, built: Units) -> None:
    problem = refusal(tree, touched(ENTRY), built=built)
    assert problem.code == "assembly"
    assert ENTRY in problem.message


def test_assembly_that_is_known_not_to_be_built_does_not_matter(tree: Path) -> None:
    (tree / "arch/x86/crypto").mkdir()
    (tree / "arch/x86/crypto/aes.S").touch()
    assert refusal(tree, touched("arch/x86/crypto/aes.S"), built=units(unit(ENTRY))).code == "not-built"


@pytest.mark.parametrize(("added", "removed", "how"), [(True, False, "adds"), (False, True, "removes")])
def test_whole_sources_cannot_come_or_go(tree: Path, added: bool, removed: bool, how: str) -> None:
    problem = refusal(tree, touched("fs/pipe.c", added=added, removed=removed))
    assert problem.code == "new-file"
    assert f"{how} the source file fs/pipe.c" in problem.message


def test_a_header_reaches_the_objects_that_include_it(tree: Path) -> None:
    assert sources(reached(tree, touched("net/8021q/vlan.h"))) == ["net/8021q/vlan.c"]


def test_what_includes_a_header_and_cannot_be_replaced_is_noted(tree: Path) -> None:
    found = reached(tree, touched("fs/internal.h"), built=units(unit(ENTRY)))
    assert sources(found) == ["fs/pipe.c"]
    (note,) = found.notes
    assert note.code == "left-out"
    assert "arch/x86/boot/compressed/misc.c" in note.message


@pytest.mark.parametrize("built", [units(), units(unit(ENTRY))], ids=["not named", "named"])
def test_a_header_whose_constants_assembly_uses_too_is_refused(tree: Path, built: Units) -> None:
    problem = refusal(tree, touched("include/linux/mm.h"), built=built)
    assert problem.code == "assembly"
    assert "include/linux/mm.h" in problem.message
    assert ENTRY in problem.message


def test_a_new_header_is_part_of_what_includes_it(tree: Path) -> None:
    found = reached(tree, touched("fs/new.h", added=True), touched("fs/pipe.c"))
    assert (sources(found), found.notes) == (["fs/pipe.c"], ())


def test_a_header_that_too_many_objects_include_is_refused_with_their_number(tree: Path) -> None:
    many = [unit(f"drivers/many/{n}.c") for n in range(OBJECTS_LIMIT + 1)]
    with pytest.raises(BuildStopped) as caught:
        reach(
            [touched("include/linux/mm.h")], units(*many), tree, lambda _header: frozenset(one.source for one in many)
        )
    assert caught.value.problem.code == "header"
    assert str(OBJECTS_LIMIT + 1) in caught.value.problem.message


MANY = [unit(f"drivers/many/{n}.c") for n in range(OBJECTS_LIMIT + 1)]


def reached_by_name(tree: Path, *using: str) -> Reach:
    def name_users(header: str, of: Collection[str]) -> NameUsers:
        assert header == "include/linux/mm.h"
        assert set(using) <= set(of)
        return NameUsers(frozenset({"changed"}), frozenset(using))

    users = frozenset({*(one.source for one in MANY), "drivers/gpu/i915.c", "fs/internal.h"})
    header = [touched("include/linux/mm.h")]
    return reach(header, units(*MANY), tree, lambda _header: users, name_users=name_users)


def test_of_too_many_objects_those_count_that_name_what_changes(tree: Path) -> None:
    found = reached_by_name(tree, "drivers/many/3.c", "drivers/many/9.c")
    assert sources(found) == ["drivers/many/3.c", "drivers/many/9.c"]
    assert found.indirect == set(sources(found))
    (note,) = found.notes
    assert note.code == "by-name"
    assert "changed, which these use: drivers/many/3.c, drivers/many/9.c" in note.message


def test_a_source_that_another_includes_is_asked_for_names_too(tree: Path) -> None:
    """kernel/sched/rt.c includes nothing itself; build_policy.c does, and then rt.c."""
    users = frozenset({*(one.source for one in MANY), "kernel/sched/build_policy.c"})
    asked: list[str] = []

    def name_users(_header: str, of: Collection[str]) -> NameUsers:
        asked.extend(of)
        return NameUsers(frozenset({"changed"}), frozenset({"kernel/sched/rt.c"}))

    found = reach([touched("include/linux/mm.h")], units(*MANY), tree, lambda _header: users, name_users=name_users)
    assert "kernel/sched/rt.c" in asked
    assert sources(found) == ["kernel/sched/build_policy.c"]


def test_a_header_of_which_nobody_uses_what_changes_changes_nothing(tree: Path) -> None:
    with pytest.raises(BuildStopped) as caught:
        reached_by_name(tree)
    assert caught.value.problem.code == "no-change"


def test_too_many_that_name_what_changes_are_too_many(tree: Path) -> None:
    with pytest.raises(BuildStopped) as caught:
        reached_by_name(tree, *(one.source for one in MANY))
    assert caught.value.problem.code == "header"


def test_an_object_of_several_modules_is_refused_with_their_names(tree: Path) -> None:
    (tree / "lib").mkdir(exist_ok=True)
    (tree / "lib/shared.c").touch()
    problem = refusal(tree, touched("lib/shared.c"), built=units(unit("lib/shared.c", "one", "two")))
    assert problem.code == "several-parents"
    assert "one, two" in problem.message


NEW = "include/linux/sockios.h"


@pytest.mark.parametrize(
    "other",
    ["include/uapi/linux/sockios.h", "arch/x86/include/uapi/linux/sockios.h", "include/generated/uapi/linux/sockios.h"],
)
def test_a_new_header_that_takes_the_place_of_another_is_refused(tree: Path, other: str) -> None:
    """Every file that includes <linux/sockios.h> would see other text, and the series changes none of them."""
    (tree / other).parent.mkdir(parents=True, exist_ok=True)
    (tree / other).touch()
    found = refusal(tree, touched(NEW, added=True), touched("fs/pipe.c"))
    assert found.code == "new-file"
    assert NEW in found.message
    assert other in found.message


def test_a_new_header_behind_another_in_the_search_takes_no_place(tree: Path) -> None:
    (tree / NEW).touch()
    assert sources(reached(tree, touched("include/uapi/linux/sockios.h", added=True), touched("fs/pipe.c")))


@pytest.mark.parametrize("line", ['#include "trace.h"', "# include <trace.h>", '\t#include "./trace.h"'])
def test_a_new_header_that_a_source_beside_it_has_always_included_is_refused(tree: Path, line: str) -> None:
    (tree / "fs/pipe.c").write_text(f"int a;\n{line}\n")
    found = refusal(tree, touched("fs/trace.h", added=True), touched("net/8021q/vlan.c"))
    assert (found.code, "fs/pipe.c" in found.message) == ("new-file", True)


def test_a_new_header_with_a_name_of_its_own_is_one_more_header(tree: Path) -> None:
    (tree / "fs/pipe.c").write_text('#include "internal.h"\n')
    for header in ("include/linux/new.h", "fs/new.h"):
        assert sources(reached(tree, touched(header, added=True), touched("fs/pipe.c"))) == ["fs/pipe.c"]
        assert "nothing includes" in refusal(tree, touched(header, added=True)).message
