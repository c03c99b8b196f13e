# SPDX-License-Identifier: GPL-2.0-or-later
"""A new source file becomes part of a livepatch if a source includes it or a makefile's new line lists its object."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.build.objects.compile import parent_of, preprocessing
from elivepatch.model.series import PatchSeries, SourcePatch
from elivepatch.patch.additions import Additions, read_additions
from elivepatch.patch.parse import read_series

NEW = "--- /dev/null\n+++ b/fs/proc/extra.c\n@@ -0,0 +1 @@\n+int extra(void) { return 1; }\n"


def makefile(*lines: str, path: str = "fs/proc/Makefile") -> str:
    added = "".join(f"+{line}\n" for line in lines)
    return f"--- a/{path}\n+++ b/{path}\n@@ -1,2 +1,{2 + len(lines)} @@\n # first\n{added} obj-y += proc.o\n"


def additions(*patches: str) -> Additions:
    series = PatchSeries(tuple(SourcePatch(f"{n}.patch", patch.encode()) for n, patch in enumerate(patches)))
    return read_additions(series, read_series(series))


@pytest.mark.parametrize(
    "line",
    [
        "proc-y += extra.o",
        "proc-y	+= extra.o",
        "obj-y += extra.o",
        "obj-$(CONFIG_PROC_FS) += extra.o",
        "proc-objs := extra.o",
        "proc-$(CONFIG_PROC_SYSCTL)	+= extra.o",
    ],
)
def test_a_line_that_lists_a_new_object_is_let_through(line: str) -> None:
    found = additions(NEW + makefile(line))
    assert found.objects == {"fs/proc/extra.c"}
    assert found.makefiles == {"fs/proc/Makefile"}


@pytest.mark.parametrize(
    "lines",
    [
        ["proc-y += other.o"],
        ["proc-y += ../extra.o"],
        ["proc-y += $(shell id).o"],
        ["proc-y += extra.o; id"],
        ["proc-y += extra.o # $(shell id)"],
        ["CFLAGS_extra.o += -O0"],
        ["ccflags-y += extra.o", "x := $(shell id)"],
        ["$(shell id)-y += extra.o"],
        ["proc-y += extra.o", "include /etc/passwd"],
        ["ccflags-y += extra.o"],
        ["subdir-ccflags-y += extra.o"],
        ["asflags-$(CONFIG_PROC_FS) += extra.o"],
        ["ldflags-y := extra.o"],
        ["hostprogs-y += extra.o"],
        ["extra-y += extra.o"],
        ["-y += extra.o"],
        [""],
    ],
)
def test_a_makefile_with_any_other_line_is_not(lines: list[str]) -> None:
    found = additions(NEW + makefile(*lines))
    assert found.makefiles == frozenset()
    assert found.objects == frozenset()


def test_the_name_of_a_source_is_never_an_option_of_the_compiler() -> None:
    found = additions(NEW.replace("extra.c", "-Bextra.c") + makefile("proc-y += -Bextra.o"))
    assert found.makefiles == frozenset()


def test_a_makefile_that_loses_a_line_is_not() -> None:
    edit = "--- a/fs/proc/Makefile\n+++ b/fs/proc/Makefile\n@@ -1,1 +1,1 @@\n-proc-y += version.o\n+proc-y += extra.o\n"
    assert additions(NEW + edit).makefiles == frozenset()


def test_a_second_patch_of_a_series_can_spoil_what_the_first_said() -> None:
    assert additions(NEW + makefile("proc-y += extra.o"), makefile("x := $(shell id)")).makefiles == frozenset()


def test_a_makefile_of_another_directory_does_not_speak_for_a_source() -> None:
    assert additions(NEW + makefile("proc-y += extra.o", path="fs/Makefile")).makefiles == frozenset()


def test_what_the_series_includes_is_known_by_name() -> None:
    edit = '--- a/fs/proc/version.c\n+++ b/fs/proc/version.c\n@@ -1,1 +1,2 @@\n # a\n+# include "extra.c"\n'
    assert additions(NEW + edit).included == {"extra.c"}


@given(st.text(alphabet=st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=60))
def test_no_line_with_a_makes_function_is_ever_let_through(tail: str) -> None:
    for line in (f"proc-y += extra.o {tail}", f"{tail} proc-y += extra.o", f"proc-{tail} += extra.o"):
        if "$(" in line.replace("$(CONFIG_", "") or "#" in line or ";" in line or "!=" in line:
            assert additions(NEW + makefile(line)).makefiles == frozenset()


SAVED = """gcc-12 -Wp,-MMD,fs/.x.o.d -DMODULE  -DKBUILD_BASENAME='"x"' -DKBUILD_MODNAME='"minix"' -D__KBUILD_MODNAME=m -c -o fs/x.o fs/x.c   ; ./tools/objtool/objtool --orc fs/x.o"""  # noqa: E501


def test_the_parent_of_an_object_is_what_kbuild_tells_the_compiler() -> None:
    assert parent_of(SAVED) == "minix"
    assert parent_of(SAVED.replace(" -DMODULE ", " ")) == "vmlinux"


def test_a_saved_command_is_turned_into_one_that_only_preprocesses() -> None:
    command = preprocessing(SAVED)
    assert command is not None
    assert command.split()[-3:] == ["-E", "-P", "fs/x.c"]
    assert preprocessing("rustc --emit=obj=x.o x.rs") is None
