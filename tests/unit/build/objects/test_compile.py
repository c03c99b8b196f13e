# SPDX-License-Identifier: GPL-2.0-or-later
"""The cache of unpatched objects: durable when it is published, and made again when a power cut has damaged it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from bare_base import bare_base

from elivepatch.build.objects.compile import Compiler, Original
from elivepatch.build.sandbox.bubblewrap import Sandbox
from elivepatch.kernel.compile_units import Unit
from elivepatch.process import Completed

UNIT = Unit("fs/a.c", "fs/a.o", ("vmlinux",))
OBJECT = b"\x7fELF" + bytes(range(256)) * 64
COMMAND = "savedcmd_fs/a.o := gcc -c -o fs/a.o fs/a.c\n"


@dataclass(slots=True)
class FakeSandbox:
    """A sandbox in which each compilation succeeds; `commands` are the programs that ran."""

    commands: list[str] = field(default_factory=list)

    def run(self, argv: Sequence[str], *, output: Path, **_: Any) -> Completed:
        """Leave what the script would leave in `output`."""
        script = argv[2]
        self.commands.append(script)
        for name, content in (("sectioned.o", OBJECT), ("saved", COMMAND.encode()), ("object.o", OBJECT)):
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
