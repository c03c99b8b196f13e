# SPDX-License-Identifier: GPL-2.0-or-later
"""The source of a replaced function decides what runs, and the table can be read and is complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.model.build import PatchedFunction
from elivepatch.process import run
from elivepatch.trial.workload.choice import Program, choose, table

PROGRAMS = Path(__file__).parents[4] / "src/elivepatch/trial/workload/programs"


def function(source: str, name: str = "f") -> PatchedFunction:
    return PatchedFunction(object="vmlinux", name=name, sympos=0, source=source)


def names(*sources: str) -> list[str]:
    return [one.program.name for one in choose([function(source) for source in sources])]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("fs/ext4/inode.c", ["files"]),
        ("fs/xfs/xfs_inode.c", ["xfs"]),
        ("fs/crypto/keysetup_v1.c", ["fscrypt"]),
        ("fs/proc/meminfo.c", ["proc"]),
        ("net/ipv4/ip_output.c", ["inet"]),
        ("net/netfilter/nf_tables_api.c", ["nftables"]),
        ("net/netfilter/xt_cluster.c", ["xtables"]),
        ("net/sched/sch_codel.c", ["qdisc"]),
        ("mm/hugetlb.c", ["hugetlb"]),
        ("mm/mmap.c", ["kernel", "stress-memory"]),
        ("kernel/fork.c", ["kernel", "stress-kernel"]),
        ("crypto/algif_skcipher.c", ["crypto"]),
        ("drivers/tty/tty_io.c", ["tty"]),
        ("security/keys/keyctl.c", ["kernel"]),
        ("sound/core/timer.c", ["sound"]),
        ("certs/blacklist.c", ["any"]),
    ],
)
def test_the_most_specific_pattern_decides(source: str, expected: list[str]) -> None:
    assert names(source) == expected


def test_one_program_serves_several_sources_and_gets_their_names() -> None:
    (chosen,) = choose(
        [function("net/sched/sch_codel.c"), function("net/sched/act_ct.c"), function("net/sched/act_ct.c", "g")]
    )
    assert chosen.arguments == ("act_ct", "sch_codel")


def test_fixed_words_come_before_the_names_of_the_sources() -> None:
    (chosen,) = choose([function("fs/fat/inode.c")])
    assert chosen.arguments == ("vfat", "inode")


@given(st.lists(st.text(min_size=1, max_size=80), max_size=5))
def test_no_source_becomes_more_than_one_word_of_a_line(sources: list[str]) -> None:
    for chosen in choose([function(source) for source in sources]):
        assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", word) for word in chosen.arguments)


def test_a_table_without_an_entry_for_everything_may_choose_nothing() -> None:
    only = Program(name="one", file="one.sh", sources=("fs/*",), what="files")
    assert choose([function("net/core/dev.c")], [only]) == ()


def test_each_entry_of_the_table_names_a_program_that_is_there() -> None:
    listed = table()
    assert len({one.name for one in listed}) == len(listed)
    for one in listed:
        assert (PROGRAMS / one.file).is_file(), one.file
        assert re.fullmatch(r"[a-z0-9-]{1,40}", one.name)
        assert one.sources
        assert one.what
        assert all(re.fullmatch(r"[a-z0-9_A-Z]+", module) for module in one.modules), one.modules
    assert {one.file for one in listed} | {"common.sh", "sockets.pl", "files.pl"} == {
        path.name for path in PROGRAMS.iterdir()
    }


@pytest.mark.parametrize("path", sorted(PROGRAMS.iterdir()), ids=lambda path: path.name)
def test_each_program_can_be_parsed(path: Path) -> None:
    command: list[str | Path] = ["perl", "-c", path] if path.suffix == ".pl" else ["busybox", "sh", "-n", path]
    run(command).check("Parsing a program")
