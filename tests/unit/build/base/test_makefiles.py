# SPDX-License-Identifier: GPL-2.0-or-later
"""Inputs of generated files, as the Makefiles of a kernel name them."""

from __future__ import annotations

from elivepatch.build.base.makefiles import read_generators

SELINUX = [
    "scripts/selinux/genheaders/Makefile:hostprogs-always-y += genheaders",
    "security/selinux/Makefile:$(obj)/flask.h: scripts/selinux/genheaders/genheaders FORCE",
]
GENERATED = ("security/selinux/flask.h", "lib/crc32table.h", "security/apparmor/capability_names.h")
HEADERS = frozenset({"include/uapi/linux/capability.h", "fs/capability.h", "arch/x86/include/asm/cpufeatures.h"})


def test_what_a_program_of_another_directory_makes_is_made_from_its_source() -> None:
    made = read_generators(SELINUX, HEADERS).made(GENERATED)
    assert made == {"scripts/selinux/genheaders/genheaders.c": ("security/selinux/flask.h",)}


def test_a_program_of_several_objects_has_several_sources() -> None:
    lines = [
        "lib/Makefile:hostprogs := gen_table \\",
        "lib/Makefile:	other",
        "lib/Makefile:gen_table-objs := a.o b.o",
    ]
    made = read_generators(lines, HEADERS).made(GENERATED)
    assert made == dict.fromkeys(("lib/a.c", "lib/b.c", "lib/other.c"), ("lib/crc32table.h",))


def test_a_directory_of_a_programs_name_is_not_the_program() -> None:
    lines = ["scripts/dtc/Makefile:hostprogs := dtc", "lib/Makefile:CFLAGS_fdt.o = -I$(srctree)/scripts/dtc/libfdt"]
    assert read_generators(lines, HEADERS).made(GENERATED) == {}


def test_a_header_that_a_makefile_names_is_an_input() -> None:
    lines = ["security/apparmor/Makefile:$(obj)/capability_names.h : $(srctree)/include/uapi/linux/capability.h \\"]
    made = read_generators(lines, HEADERS).made(GENERATED)
    assert made == {"include/uapi/linux/capability.h": ("security/apparmor/capability_names.h",)}


def test_a_header_is_an_input_by_a_path_from_the_makefiles_directory_too() -> None:
    lines = ["arch/x86/kernel/cpu/Makefile:cpufeature = $(src)/../../include/asm/cpufeatures.h"]
    made = read_generators(lines, HEADERS).made(["arch/x86/kernel/cpu/capflags.c"])
    assert made == {"arch/x86/include/asm/cpufeatures.h": ("arch/x86/kernel/cpu/capflags.c",)}


def test_a_comment_names_nothing() -> None:
    assert read_generators(["lib/Makefile:# hostprogs := a", "lib/Makefile:  # capability.h"], HEADERS).headers == {}
