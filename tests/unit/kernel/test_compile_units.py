# SPDX-License-Identifier: GPL-2.0-or-later
"""Objects and their sources, from the compile units in the debug info."""

from __future__ import annotations

from pathlib import Path

import pytest

from elivepatch.kernel.compile_units import Unit, Units, make_units, module_name, read_compile_units
from elivepatch.model.errors import EnvironmentFault

VMLINUX = ["fs/proc/meminfo.c", "kernel/sched/build_policy.c", "arch/x86/entry/entry_64.S",
           "/usr/src/generated/outside.c", "<artificial>", "<stdin>.c", "GNU C11"]  # fmt: skip
MODULES = {
    "kvm": ["arch/x86/kvm/../../../virt/kvm/eventfd.c", "arch/x86/kvm/kvm.mod.c"],
    "snd_hda_intel": ["lib/shared.c"],
    "snd": ["lib/shared.c"],
}


def units() -> Units:
    compiled = read_compile_units(VMLINUX, parent="vmlinux")
    for name, sources in MODULES.items():
        for source, (raw, parents) in read_compile_units(sources, parent=name).items():
            compiled.setdefault(source, (raw, set()))[1].update(parents)
    lines = [
        'kernel/sched/build_policy.c:#include "rt.c"',
        'kernel/sched/rt.c:  # include "../time/deep.c"',
        'arch/x86/entry/vdso/vclock_gettime.c:#include "../../../../lib/vdso/gettimeofday.c"',
        "fs/proc/meminfo.c:#include <lib/angle.c>",
        'fs/proc/meminfo.c:#include "not_there.c"',
        "not an include line",
    ]
    exists = {"kernel/sched/rt.c", "kernel/time/deep.c", "lib/vdso/gettimeofday.c", "lib/angle.c"}
    return make_units(compiled, lines, exists)


def test_units_of_vmlinux_and_of_modules_have_their_parents() -> None:
    found = units().by_source
    assert found["fs/proc/meminfo.c"] == Unit("fs/proc/meminfo.c", "fs/proc/meminfo.o", ("vmlinux",))
    assert found["arch/x86/entry/entry_64.S"].target == "arch/x86/entry/entry_64.o"


def test_a_path_with_dots_is_found_by_its_real_name_and_made_by_the_one_make_knows() -> None:
    found = units().by_source["virt/kvm/eventfd.c"]
    assert (found.target, found.parents) == ("arch/x86/kvm/../../../virt/kvm/eventfd.o", ("kvm",))


def test_a_source_in_two_modules_has_both_as_the_kernel_calls_them() -> None:
    assert units().by_source["lib/shared.c"].parents == ("snd", "snd_hda_intel")


@pytest.mark.parametrize(
    ("file_name", "name"),
    [("snd-hda-intel.ko", "snd_hda_intel"), ("8021q.ko", "8021q"), ("a-b.ko.debug", "a_b"), ("a.b.ko.xz", "a.b")],
)
def test_a_module_has_the_name_that_the_kernel_gives_it(file_name: str, name: str) -> None:
    assert module_name(file_name) == name


def test_what_kbuild_adds_and_what_lies_outside_are_no_units() -> None:
    assert not any(name.endswith(".mod.c") or name.startswith(("/", "<", "GNU")) for name in units().by_source)


def test_an_included_source_reaches_the_objects_that_include_it_at_any_depth() -> None:
    for source in ("kernel/sched/rt.c", "kernel/time/deep.c", "kernel/sched/build_policy.c"):
        assert [unit.source for unit in units().reached_by(source)] == ["kernel/sched/build_policy.c"]
    assert [unit.source for unit in units().reached_by("lib/angle.c")] == ["fs/proc/meminfo.c"]


def test_includers_that_are_not_built_are_still_known() -> None:
    found = units()
    assert found.reached_by("lib/vdso/gettimeofday.c") == ()
    assert "arch/x86/entry/vdso/vclock_gettime.c" in found.closure("lib/vdso/gettimeofday.c")


def test_sources_that_include_each_other_come_to_an_end() -> None:
    exists = {"a.c", "b.c"}
    found = make_units({"a.c": ("a.c", {"vmlinux"})}, ['a.c:#include "b.c"', 'b.c:#include "a.c"'], exists)
    assert [unit.source for unit in found.reached_by("b.c")] == ["a.c"]


def test_a_kernel_that_was_built_outside_its_source_has_the_same_units() -> None:
    names = (
        "/home/ann/linux/init/main.c",
        "/home/ann/linux/arch/x86/kvm/../../../virt/kvm/eventfd.c",
        "kernel/bounds.c",
        "/usr/src/elsewhere/init.c",
    )
    found = make_units(read_compile_units(names, parent="vmlinux"), [], set()).by_source
    assert sorted(found) == ["init/main.c", "kernel/bounds.c", "virt/kvm/eventfd.c"]
    assert found["init/main.c"].target == "init/main.o"
    assert found["virt/kvm/eventfd.c"].target == "arch/x86/kvm/../../../virt/kvm/eventfd.o"


def test_a_kernel_that_was_built_in_a_directory_of_its_source_has_the_same_units() -> None:
    """`make O=build` in the source: the compiler sees names that begin with ../"""
    names = ("../init/main.c", "../arch/x86/kvm/../../../virt/kvm/eventfd.c", "kernel/config_data.c")
    found = make_units(read_compile_units(names, parent="vmlinux"), [], set()).by_source
    assert sorted(found) == ["init/main.c", "kernel/config_data.c", "virt/kvm/eventfd.c"]
    assert found["init/main.c"].target == "init/main.o"
    assert found["virt/kvm/eventfd.c"].target == "arch/x86/kvm/../../../virt/kvm/eventfd.o"


def test_a_kernel_whose_source_lies_beside_its_build_has_the_same_units() -> None:
    """Debian's real-time kernels: the build of a package takes the first directories of each name away."""
    top = "debian/build/source_rt"
    names = (f"{top}/init/main.c", f"{top}/arch/x86/kvm/../../../virt/kvm/eventfd.c", "kernel/config_data.c",
             f"/build/reproducible-path/linux-6.1.176/{top}/arch/x86/kernel/head_64.S")  # fmt: skip
    found = make_units(read_compile_units(names, parent="vmlinux"), [], set()).by_source
    assert sorted(found) == ["init/main.c", "kernel/config_data.c", "virt/kvm/eventfd.c"]
    assert found["virt/kvm/eventfd.c"].target == "arch/x86/kvm/../../../virt/kvm/eventfd.o"


@pytest.mark.parametrize(
    ("listing", "sources"),
    [
        ({"init/main.c": "vmlinux", "drivers/x/init/main.c": "vmlinux"}, ["drivers/x/init/main.c", "init/main.c"]),
        ({"drivers/x/init/main.c": "x", "kernel/fork.c": "vmlinux"}, ["drivers/x/init/main.c", "kernel/fork.c"]),
    ],
)
def test_another_source_of_the_name_of_the_first_shows_no_directory(
    listing: dict[str, str], sources: list[str]
) -> None:
    compiled = {name: (name, {parent}) for name, parent in listing.items()}
    assert sorted(make_units(compiled, [], set()).by_source) == sources


def test_saved_units_come_back(tmp_path: Path) -> None:
    units().save(tmp_path / "units.json")
    assert Units.load(tmp_path / "units.json") == units()


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"units": {"a": []}, "includers": {}}', '{"units": 3}', "\xff"])
def test_a_damaged_list_of_units_is_reported_as_such(tmp_path: Path, content: str) -> None:
    (tmp_path / "units.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(EnvironmentFault) as caught:
        Units.load(tmp_path / "units.json")
    assert caught.value.problem.code == "base-damaged"
