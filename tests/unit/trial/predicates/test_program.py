# SPDX-License-Identifier: GPL-2.0-or-later
"""Predicates reach the guest as they are, each with the limits that its file names."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from elivepatch.model.predicate import LATE, Predicate
from elivepatch.model.trial import Expectation
from elivepatch.process import run
from elivepatch.trial.case import TrialCase
from elivepatch.trial.image import pack
from elivepatch.trial.modules import ModuleTree
from elivepatch.trial.predicates.program import compiled, modules_of, of_case

LAMP = Predicate(
    name="lamp.expect.sh", source="# elivepatch: seconds=7 memory=8 output=2 processes=3 modules=lamp-oil\nexit 1\n"
)
WICK = Predicate(name="wick.expect.c", source="int main(void) { return 1; }\n")
BOTH = (Expectation.of(LAMP), Expectation(command="/proc/lamp", pattern="light"), Expectation.of(WICK))


def no_compiler() -> object:
    raise AssertionError


def test_each_expectation_keeps_its_number_and_a_predicate_has_its_limits() -> None:
    found = {one.name: one for one in of_case("c", BOTH, {WICK.digest: b"\x7fELF"})}
    assert found["c/expect/000"].content == LAMP.source.encode()
    assert found["c/limits/000"].content == b"7 8 2 3 sh\n"
    assert found["c/expect/001"].content == b"cat /proc/lamp\n"
    assert found["c/expect/002"].content == b"\x7fELF"
    assert found["c/limits/002"].content == b"5 64 4 32 c\n"
    assert "c/limits/001" not in found
    assert found["c/expect/002"].mode & 0o111


def test_a_predicate_in_shell_needs_no_compiler(tmp_path: Path) -> None:
    assert compiled(BOTH[:2], no_compiler, scratch=tmp_path) == {}  # type: ignore[arg-type]


def test_the_modules_of_predicates_are_loaded_and_are_no_part_of_the_livepatch(tmp_path: Path) -> None:
    assert modules_of([*BOTH, *BOTH]) == ["lamp_oil"]
    livepatch = tmp_path / "x.ko"
    livepatch.write_bytes(b"x")
    case = TrialCase(livepatch=livepatch, name="x", parents=("gone",), expectations=BOTH[:2])
    tree = ModuleTree({"lamp_oil": livepatch}, frozenset())
    result = pack(
        [("000000", TrialCase(livepatch=livepatch, name="x", expectations=BOTH[:2]))], ModuleTree({}, frozenset())
    )
    assert result.missing == ((),), "a predicate says by itself that it cannot be tried"
    assert pack([("000000", case)], ModuleTree({}, frozenset())).missing == (("gone",),)
    assert tree.files


def test_only_a_guest_with_predicates_gets_the_script_that_runs_them(tmp_path: Path) -> None:
    livepatch = tmp_path / "x.ko"
    livepatch.write_bytes(b"x")

    def archive(*expectations: Expectation) -> bytes:
        case = TrialCase(livepatch=livepatch, name="x", expectations=expectations)
        return pack([("000000", case)], ModuleTree({}, frozenset())).archive

    assert b"trial/predicates" not in archive(BOTH[1])
    assert b"trial/predicates/guest.sh" in archive(BOTH[0])


def test_the_guests_script_is_a_shell_script_and_knows_the_status_of_a_late_one() -> None:
    script = files("elivepatch.trial.predicates").joinpath("guest.sh").read_text()
    assert run(["sh", "-n"], stdin=script.encode()).ok
    assert re.search(rf"^LATE={LATE} ", script, re.MULTILINE)


def test_the_example_of_the_documentation_is_the_file_beside_the_patch() -> None:
    top = Path(__file__).parents[4]
    example = (top / "demo/patches/vmlinux-meminfo.expect.c").read_text()
    assert f"```c\n{example}```\n" in (top / "docs/predicates.md").read_text()
    assert Predicate.of("vmlinux-meminfo.expect.c", example.encode()).limits.memory == 16
