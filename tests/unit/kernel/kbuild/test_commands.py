# SPDX-License-Identifier: GPL-2.0-or-later
"""Records of kbuild: the source of an object, the objects of a module, the modules of a kernel."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.kernel.kbuild.commands import is_object, modules_in_order, objects_of_module, source_of
from elivepatch.model.errors import EnvironmentFault

COMMAND = """\
savedcmd_{0} := gcc -Wp,-MMD,{0}.d -c -o {0} {1} ; ./tools/objtool/objtool --orc {0}

source_{0} := {1}

deps_{0} := \\
    $(wildcard include/config/FOO) \\
  include/linux/kernel.h \\

{0}: $(deps_{0})

$(deps_{0}):
"""


def test_the_source_of_an_object_is_the_one_that_its_record_names() -> None:
    assert source_of(COMMAND.format("fs/ext4/dir.o", "fs/ext4/dir.c"), "fs/ext4/dir.o") == "fs/ext4/dir.c"
    outside = COMMAND.format("fs/ext4/dir.o", "/home/ann/linux/fs/ext4/dir.c")
    assert source_of(outside, "fs/ext4/dir.o") == "/home/ann/linux/fs/ext4/dir.c"


def test_a_path_with_dots_is_that_of_the_same_object() -> None:
    text = COMMAND.format("drivers/gpu/amdgpu/../display/dc.o", "drivers/gpu/amdgpu/../display/dc.c")
    assert source_of(text, "drivers/gpu/display/dc.o") == "drivers/gpu/amdgpu/../display/dc.c"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "savedcmd_fs/a.o := ld -r -o fs/a.o fs/b.o\n",
        COMMAND.format("fs/b.o", "fs/b.c"),
        COMMAND.format("fs/a.o", "fs/a.c") * 2,
        "source_fs/a.o := fs/a.c fs/b.c\n",
    ],
)
def test_a_record_without_the_one_source_of_its_object_is_refused(text: str) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        source_of(text, "fs/a.o")
    assert caught.value.problem.code == "kbuild-files"
    assert "fs/a.o" in caught.value.problem.message


def test_a_module_has_the_objects_that_its_list_names() -> None:
    assert objects_of_module("fs/fat/cache.o\nfs/fat/dir.o\n", "fs/fat/fat") == ("fs/fat/cache.o", "fs/fat/dir.o")


def test_modules_are_listed_as_objects_and_before_6_3_as_modules() -> None:
    assert modules_in_order("fs/fat/fat.o\nsound/snd-hda.o\n") == ("fs/fat/fat", "sound/snd-hda")
    assert modules_in_order("fs/fat/fat.ko\n") == ("fs/fat/fat",)
    assert modules_in_order("") == ()


@pytest.mark.parametrize("text", ["", "fs/a.c\n", "/etc/a.o\n", "fs/a.o fs/b.o\n", "fs/a.o\n\nfs/b.o\n", "fs/\0.o\n"])
def test_a_list_with_anything_but_objects_is_refused(text: str) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        objects_of_module(text, "fs/fat/fat")
    assert caught.value.problem.code == "kbuild-files"


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused_and_nothing_else(text: str) -> None:
    with suppress(EnvironmentFault):
        assert source_of(text, "fs/a.o")
    for read in (modules_in_order, lambda one: objects_of_module(one, "fs/fat/fat")):
        with suppress(EnvironmentFault):
            assert all("\n" not in name and not name.startswith("/") for name in read(text))


@given(st.lists(st.from_regex(r"[a-z]{1,8}(/[a-z0-9_.-]{1,20}){0,4}\.o", fullmatch=True), min_size=1, max_size=20))
def test_any_list_of_objects_comes_back(names: list[str]) -> None:
    assert objects_of_module("".join(f"{name}\n" for name in names), "fs/fat/fat") == tuple(names)
    assert all(is_object(name) for name in names)
