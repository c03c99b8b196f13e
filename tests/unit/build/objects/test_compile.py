# SPDX-License-Identifier: GPL-2.0-or-later
"""The cache of unpatched objects: durable when it is published, and made again when a power cut has damaged it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
from bare_base import bare_base

from elivepatch.build.objects.compile import Compiler, Original, generated_files
from elivepatch.build.sandbox.bubblewrap import Sandbox
from elivepatch.kernel.compile_units import Unit
from elivepatch.model.errors import BuildStopped, EnvironmentFault
from elivepatch.process import Completed, run

UNIT = Unit("fs/a.c", "fs/a.o", ("vmlinux",))
OBJECT = b"\x7fELF" + bytes(range(256)) * 64
COMMAND = "savedcmd_fs/a.o := gcc -c -o fs/a.o fs/a.c\n"


@dataclass(slots=True)
class FakeSandbox:
    """A sandbox in which each compilation succeeds; `commands` are the programs that ran, `tops` their top layers.

    make writes the files `made` beside the object. `failing` are the starts of programs that fail.
    """

    commands: list[str] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    tops: list[Path] = field(default_factory=list)
    command: str = COMMAND
    made: tuple[str, ...] = ("fs/a.o", "fs/.a.o.cmd", "fs/.a.o.d", ".missing-syscalls.d")
    failing: tuple[str, ...] = ()

    def run(
        self, argv: Sequence[str], *, layers: Sequence[Path], output: Path, upper: Path | None = None, **_: Any
    ) -> Completed:
        """Leave what the script would leave in `output` and `upper`."""
        self.scripts.append(argv[2])
        script = argv[2].removeprefix("set -e; ")
        self.commands.append(script)
        self.tops.append(layers[-1])
        if script.startswith(self.failing):
            return Completed(
                argv=tuple(argv), status=2, output=b"", log=b"a.c:1: error: no", seconds=0.1, timed_out=False
            )
        for made in self.made if upper else ():
            place = (upper or output) / "changed" / made
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(b"made")
        for name, content in (("sectioned.o", OBJECT), ("saved", self.command.encode()), ("object.o", OBJECT)):
            if f"/out/{name}" in script:
                (output / name).write_bytes(content)
        if ">/out/text" in script:
            (output / "text").write_bytes(b"int main(void);")
        return Completed(argv=tuple(argv), status=0, output=b"", log=b"", seconds=0.1, timed_out=False)


@dataclass(slots=True)
class Fixture:
    """A compiler over a fake sandbox."""

    sandbox: FakeSandbox
    compiler: Compiler


@pytest.fixture
def bench(tmp_path: Path) -> Fixture:
    (tmp_path / "originals").mkdir()
    sandbox = FakeSandbox()
    compiler = Compiler(base=bare_base(tmp_path), sandbox=cast("Sandbox", sandbox), patch_headers=tmp_path)
    return Fixture(sandbox, compiler)


MAKE = '"$@" '
"""Start of the scripts that run make."""


def test_an_object_of_the_tree_alone_is_compiled_by_the_saved_command(bench: Fixture, tmp_path: Path) -> None:
    original = bench.compiler.original(UNIT)
    assert original.generated == ()
    bench.compiler.plain(UNIT, original)
    bench.compiler.patched(UNIT, original, tmp_path / "layer", tmp_path)
    assert [command.startswith(MAKE) for command in bench.sandbox.commands] == [True, False, False]


def test_make_runs_before_each_compilation_of_an_object_that_it_makes_other_files_for(
    bench: Fixture, tmp_path: Path
) -> None:
    bench.sandbox.made += ("fs/flask.h", "lib/gen_table", "lib/.gen_table.cmd")
    original = bench.compiler.original(UNIT)
    assert original.generated == ("fs/flask.h", "lib/gen_table")
    bench.compiler.plain(UNIT, original)
    bench.compiler.patched(UNIT, original, tmp_path / "layer", tmp_path)
    assert bench.compiler.reads_the_same(UNIT, original, tmp_path / "layer")
    assert all(command.startswith(MAKE) for command in bench.sandbox.commands)
    # An old generated file can hide nothing: make sees the patched sources.
    assert bench.sandbox.tops[2] == bench.sandbox.tops[-1] == tmp_path / "layer"


@pytest.mark.parametrize("made", [(), ("fs/flask.h",)])
@pytest.mark.parametrize(("command", "ok"), [("false ; true", False), ("true ; false", False), ("true ; true", True)])
def test_each_part_of_a_saved_command_must_succeed(
    bench: Fixture, tmp_path: Path, made: tuple[str, ...], command: str, ok: bool
) -> None:
    """In 5.10 it is the compiler, objtool and the linker: without objtool's part, the object has no unwind entries."""
    bench.sandbox.made += made
    bench.sandbox.command = f"savedcmd_fs/a.o := {command}\n"
    bench.compiler.plain(UNIT, bench.compiler.original(UNIT))
    script = bench.sandbox.scripts[-1].replace('cp -- "$T" /out/object.o', "true")
    assert run(["sh", "-c", script, "sh", "true"]).ok is ok


def test_where_the_saved_command_fails_make_decides(bench: Fixture, tmp_path: Path) -> None:
    original = bench.compiler.original(UNIT)
    bench.sandbox.failing = ("gcc",)
    patched = bench.compiler.patched(UNIT, original, tmp_path / "layer", tmp_path)
    assert patched.read_bytes() == OBJECT
    assert bench.sandbox.commands[-1].startswith(MAKE)


def test_what_make_cannot_compile_either_is_the_fault_of_the_series(bench: Fixture, tmp_path: Path) -> None:
    original = bench.compiler.original(UNIT)
    bench.sandbox.failing = ("gcc", MAKE)
    with pytest.raises(BuildStopped) as stopped:
        bench.compiler.patched(UNIT, original, tmp_path / "layer", tmp_path)
    assert stopped.value.problem.code == "compile-error"
    assert stopped.value.problem.message == "fs/a.c does not compile with the series."


def test_what_does_not_compile_without_the_series_is_not_told_as_its_fault(bench: Fixture) -> None:
    bench.sandbox.failing = (MAKE,)
    with pytest.raises(EnvironmentFault, match="Compiling the unpatched"):
        bench.compiler.original(UNIT)


def test_of_what_make_writes_its_own_records_and_the_object_are_no_generated_files() -> None:
    made = ["arch/x86/kernel/cpu/capflags.c", "virt/kvm/.eventfd.o.cmd", "virt/kvm/eventfd.o", "virt/kvm/eventfd.o.d"]
    assert generated_files(made, "arch/x86/kvm/../../../virt/kvm/eventfd.o") == ("arch/x86/kernel/cpu/capflags.c",)


DAMAGE = [b"", OBJECT[:100], OBJECT[:4096] + bytes(len(OBJECT) - 4096)]


def test_an_object_is_compiled_once(bench: Fixture) -> None:
    for _ in range(2):
        original = bench.compiler.original(UNIT)
        plain = bench.compiler.plain(UNIT, original)
        assert original.sectioned.read_bytes() == plain.read_bytes() == OBJECT
    assert len(bench.sandbox.commands) == 2


@pytest.mark.parametrize("left", DAMAGE)
def test_a_plain_object_that_a_power_cut_damaged_is_made_again(bench: Fixture, left: bytes) -> None:
    original = bench.compiler.original(UNIT)
    bench.compiler.plain(UNIT, original).write_bytes(left)
    assert bench.compiler.plain(UNIT, original).read_bytes() == OBJECT


@pytest.mark.parametrize("left", DAMAGE)
def test_an_original_that_a_power_cut_damaged_is_made_again(bench: Fixture, left: bytes) -> None:
    bench.compiler.original(UNIT).sectioned.write_bytes(left)
    assert bench.compiler.original(UNIT).sectioned.read_bytes() == OBJECT


def test_a_saved_command_that_a_power_cut_damaged_is_made_again(bench: Fixture) -> None:
    (bench.compiler.original(UNIT).directory / "command").write_bytes(b"")
    assert bench.compiler.original(UNIT).command == "gcc -c -o fs/a.o fs/a.c"


@pytest.mark.parametrize("left", [b"", b"\0" * 64, b"abc"])
def test_a_digest_of_a_text_that_a_power_cut_damaged_is_made_again(bench: Fixture, left: bytes) -> None:
    original = bench.compiler.original(UNIT)
    assert bench.compiler.reads_the_same(UNIT, original, bench.compiler.base.tree)
    (original.directory / "text").write_bytes(left)
    assert bench.compiler.reads_the_same(UNIT, original, bench.compiler.base.tree)


def test_no_tenant_finds_an_object_that_another_had_compiled(bench: Fixture) -> None:
    ours, theirs = (replace(bench.compiler, tenant=name) for name in ("web", "mail"))
    first = ours.original(UNIT)
    ours.plain(UNIT, first)
    assert ours.original(UNIT) == first
    before = len(bench.sandbox.commands)
    second = theirs.original(UNIT)
    theirs.plain(UNIT, second)
    assert len(bench.sandbox.commands) == 2 * before
    assert {first.directory, first.plain_directory}.isdisjoint({second.directory, second.plain_directory})


def test_what_an_earlier_version_left_in_the_cache_is_not_used(bench: Fixture) -> None:
    # It has no seal: nobody can say whether a power cut has damaged it.
    original = Original.of(bench.compiler.base, UNIT.target)
    original.directory.mkdir()
    original.sectioned.write_bytes(b"")
    assert bench.compiler.original(UNIT).sectioned.read_bytes() == OBJECT


def test_everything_in_the_cache_has_reached_the_disk(bench: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[int] = set()
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    original = bench.compiler.original(UNIT)
    bench.compiler.plain(UNIT, original)
    assert bench.compiler.reads_the_same(UNIT, original, bench.compiler.base.tree)
    places = [path for path in (bench.compiler.base.directory / "originals").rglob("*") if path.suffix != ".lock"]
    assert {path.name for path in places} >= {"sectioned.o", "command", "plain.o", "text"}
    assert {path.stat().st_ino for path in places} <= synced
