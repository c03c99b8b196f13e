# SPDX-License-Identifier: GPL-2.0-or-later
"""The control group of builds, on directories that look like the kernel's."""

from __future__ import annotations

import os
import subprocess  # noqa: TID251 - programs that are still there while the test goes on
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE  # noqa: TID251

import pytest

from elivepatch.build.sandbox import cgroup
from elivepatch.build.sandbox.cgroup import PROCESSES, Group, delegate_memory, own_group, sweep
from elivepatch.process import run

NOBODY = 2**22 + 1
"""No process has this number (proc_sys_kernel(5): pid_max)."""


def test_a_group_goes_after_its_process_and_no_other_one_does(tmp_path: Path) -> None:
    living, left, other = (tmp_path / f"elivepatch-{name}" for name in (os.getpid(), NOBODY, "notes"))
    for directory in (living, left, other):
        directory.mkdir()
    sweep(tmp_path)
    assert set(tmp_path.iterdir()) == {living, other}


@pytest.mark.parametrize(
    ("version", "files"),
    [
        (1, {"memory.limit_in_bytes": "4096", "memory.memsw.limit_in_bytes": "4096"}),
        (2, {"memory.max": "4096", "memory.swap.max": "0"}),
    ],
)
def test_memory_and_swap_are_bounded_together(tmp_path: Path, version: int, files: dict[str, str]) -> None:
    group = Group(directory=tmp_path, version=version, limit=4096)
    for name in files:
        (tmp_path / name).write_text("max")
    group.make()
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == files


@pytest.mark.parametrize("version", [1, 2])
def test_processes_are_bounded_in_the_group_that_counts_them(tmp_path: Path, version: int) -> None:
    """In version 1 of the interface that is another directory than the one that bounds memory."""
    memory, counted = tmp_path / "memory/elivepatch-1", tmp_path / "pids/elivepatch-1"
    for directory in (memory.parent, counted.parent):
        directory.mkdir()
    group = Group(directory=memory, version=version, limit=4096, counted=counted if version == 1 else memory)
    group.make()
    assert group.counted is not None
    assert (group.counted / "pids.max").read_text() == str(PROCESSES)
    entered = run([*group.entering(), "echo", "--", "in"])
    assert entered.text == "-- in\n"
    places = [memory, counted] if version == 1 else [memory]
    assert [(place / "cgroup.procs").read_text() for place in places] == ["0\n"] * len(places)


def test_a_program_does_not_run_outside_of_its_group(tmp_path: Path) -> None:
    group = Group(directory=tmp_path, version=2, limit=4096, counted=tmp_path / "gone")
    done = run([*group.entering(), "echo", "out"])
    assert (done.status, done.text) == (125, "")
    assert done.log.startswith(b"cgroup: ")


@pytest.mark.skipif(own_group() is None, reason="no control group can be made here")
def test_a_program_that_starts_too_many_others_is_alone_in_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of a user's processes would count those of every server on the machine."""
    own = own_group()
    assert own is not None
    if own.counted is None:
        pytest.skip("processes are not counted here")
    monkeypatch.setattr(cgroup, "PROCESSES", 20)
    small = replace(
        own,
        directory=own.directory.with_name(f"{own.directory.name}-small"),
        counted=own.counted.with_name(f"{own.counted.name}-small"),
    )
    small.make()
    try:
        many = "for n in $(seq 40); do sleep 1 & done; wait"
        assert b"ork" in run([*small.entering(), "sh", "-c", many]).log, "cannot fork"
        assert run(["sh", "-c", many]).log == b""
    finally:
        small.remove()


def test_what_the_kernel_ended_is_counted(tmp_path: Path) -> None:
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 9\noom 3\noom_kill 2\noom_group_kill 0\n")
    assert Group(directory=tmp_path, version=2, limit=1).ended() == 2
    (tmp_path / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 5\n")
    assert Group(directory=tmp_path, version=1, limit=1).ended() == 5


def of_version_2(parent: Path, *, controllers: str, processes: list[int], available: str = "cpu memory") -> None:
    (parent / "cgroup.controllers").write_text(available)
    (parent / "cgroup.subtree_control").write_text(controllers)
    (parent / "cgroup.procs").write_text("".join(f"{number}\n" for number in processes))


def test_a_process_that_is_alone_in_its_group_moves_down_to_make_room(tmp_path: Path) -> None:
    of_version_2(tmp_path, controllers="", processes=[os.getpid()])
    delegate_memory(tmp_path)
    assert (tmp_path / "server" / "cgroup.procs").read_text() == str(os.getpid())
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+memory"


def test_processes_are_counted_if_the_group_above_lets_that_be_done(tmp_path: Path) -> None:
    of_version_2(tmp_path, controllers="", processes=[os.getpid()], available="cpu memory pids")
    delegate_memory(tmp_path)
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+memory +pids"


def test_the_group_of_others_is_left_as_it_is(tmp_path: Path) -> None:
    of_version_2(tmp_path, controllers="cpu", processes=[1, os.getpid()])
    with pytest.raises(OSError, match="busy"):
        delegate_memory(tmp_path)
    of_version_2(tmp_path, controllers="cpu memory", processes=[1])
    delegate_memory(tmp_path)
    assert (tmp_path / "cgroup.subtree_control").read_text() == "cpu memory"
    assert not (tmp_path / "server").exists()


def test_nobody_moves_where_memory_cannot_be_bounded(tmp_path: Path) -> None:
    of_version_2(tmp_path, controllers="", processes=[os.getpid()], available="hugetlb")
    with pytest.raises(OSError, match="busy"):
        delegate_memory(tmp_path)
    assert not (tmp_path / "server").exists()


@pytest.mark.skipif(own_group() is None, reason="no control group can be made here")
def test_what_runs_in_the_group_is_in_it_from_its_first_moment() -> None:
    group = own_group()
    assert group is not None
    group.make()
    try:
        said = run([*group.entering(), "cat", "/proc/self/cgroup"])
        assert group.directory.name in said.text
    finally:
        group.remove()


@pytest.fixture
def left_behind() -> Iterator[Group]:
    """A group of a process that is no more, made where those of this process are."""
    own = own_group()
    if own is None:
        pytest.skip("no control group can be made here")
    group = replace(own, directory=own.directory.with_name(f"elivepatch-{NOBODY}"), counted=None)
    group.make()
    yield group
    group.remove()


@contextmanager
def inside(group: Group, command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command that is in the group from here on."""
    with subprocess.Popen([*group.entering(), "sh", "-c", f"echo in; exec {command}"], stdout=PIPE) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"in\n"
        yield program


def test_a_group_whose_programs_still_end_is_in_nobodys_way(left_behind: Group) -> None:
    """A server that starts after another was killed would have no group itself."""
    with inside(left_behind, "sleep 60") as program:
        sweep(left_behind.directory.parent)
        assert left_behind.directory.exists()
        program.kill()


def test_a_group_is_removed_when_its_last_program_has_ended(left_behind: Group) -> None:
    with inside(left_behind, "sleep 0.3"):
        left_behind.remove()
    assert not left_behind.directory.exists()


def test_a_group_that_another_server_has_swept_meanwhile_is_no_fault(tmp_path: Path) -> None:
    Group(directory=tmp_path / "swept", version=1, limit=1).remove()


def test_a_group_that_is_gone_is_told_and_nothing_is_run(tmp_path: Path) -> None:
    said = run([*Group(directory=tmp_path / "gone", version=1, limit=1).entering(), "echo", "outside"])
    assert (said.status, said.output) == (125, b"")
    assert said.log.startswith(b"cgroup: ")
