# SPDX-License-Identifier: GPL-2.0-or-later
"""Thin archives: each member by its path, in order, and no crash over a damaged one."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import pytest
from compiled import needs_gcc
from hypothesis import example, given
from hypothesis import strategies as st

from elivepatch.kernel.kbuild.archive import thin_members
from elivepatch.model.errors import EnvironmentFault
from elivepatch.process import run

MAGIC = b"!<thin>\n"


def header(name: bytes, size: int = 100) -> bytes:
    return name.ljust(16) + b"0".ljust(12) + b"0".ljust(6) * 2 + b"644".ljust(8) + str(size).encode().ljust(10) + b"`\n"


def archive(*paths: str) -> bytes:
    """Return an archive with a table of long names, as ar writes it."""
    names = b"".join(f"{path}/\n".encode() for path in paths)
    names += b"\n" * (len(names) % 2)
    members, at = b"", 0
    for path in paths:
        members += header(b"/%d" % at)
        at += len(path) + 2
    return MAGIC + header(b"//", len(names)) + names + members


@needs_gcc
def test_the_members_of_archives_in_an_archive_are_named_from_its_own_directory(tmp_path: Path) -> None:
    script = """
    cd "$1"; mkdir -p fs/fat kernel; echo 'int x;' >x.c
    for one in fs/a fs/fat/b fs/fat/sysctl kernel/c; do gcc -c -o "$one.o" x.c; done
    ar cDPrST fs/fat/built-in.a fs/fat/b.o fs/fat/sysctl.o; ar cDPrST fs/built-in.a fs/a.o fs/fat/built-in.a
    ar cDPrST vmlinux.a fs/built-in.a kernel/c.o; ar mPiT fs/a.o vmlinux.a kernel/c.o
    """
    run(["sh", "-ec", script, "sh", tmp_path]).check("Making archives")
    content = (tmp_path / "vmlinux.a").read_bytes()
    assert thin_members(content) == ("kernel/c.o", "fs/a.o", "fs/fat/b.o", "fs/fat/sysctl.o")
    assert re.search(rb"/[0-9]+ +/0", content), "a path of fifteen characters leaves its end in the header"


def test_a_short_name_may_be_in_the_header_itself() -> None:
    assert thin_members(MAGIC + header(b"a.o/") + header(b"b.o/")) == ("a.o", "b.o")


def test_a_table_of_symbols_is_passed_over() -> None:
    table = header(b"/", 4) + b"\0\0\0\0"
    assert thin_members(MAGIC + table + archive("fs/a.o").removeprefix(MAGIC)) == ("fs/a.o",)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"!<arch>\n",
        MAGIC + b"short",
        MAGIC + header(b"//", 99) + b"a.o/\n",
        MAGIC + header(b"/0"),
        MAGIC + header(b"//", 6) + b"aa.o/\n" + header(b"/9999"),
        MAGIC + header(b"/0:60"),
        MAGIC + header(b"a.o"),
        MAGIC + header(b"a.o/")[:-1] + b"x",
    ],
)
def test_what_is_no_thin_archive_is_refused(content: bytes) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        thin_members(content)
    assert caught.value.problem.code == "kbuild-files"


@given(st.lists(st.from_regex(r"[a-z]{1,8}(/[a-z0-9_-]{1,20}){0,4}\.o", fullmatch=True), min_size=1, max_size=20))
def test_any_paths_come_back_in_order(paths: list[str]) -> None:
    assert thin_members(archive(*paths)) == tuple(paths)


@given(st.binary(max_size=400), st.integers(0, 300), st.binary(max_size=8))
@example(b"", 8, b"//")
def test_a_damaged_archive_is_read_or_refused_and_nothing_else(tail: bytes, at: int, other: bytes) -> None:
    content = bytearray(archive("fs/a.o", "kernel/sched/core.o") + tail)
    content[at : at + len(other)] = other
    with suppress(EnvironmentFault):
        assert all(thin_members(bytes(content)))
