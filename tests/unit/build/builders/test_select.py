# SPDX-License-Identifier: GPL-2.0-or-later
"""Selection of the builder for a request, and the outcome if two builders disagree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bare_base import bare_base
from elf_maker import Made

from elivepatch.build.archive.apt import Archive
from elivepatch.build.base.store import Base
from elivepatch.build.base.toolchain import Toolchains
from elivepatch.build.builders.common import BuildContext
from elivepatch.build.builders.reference import explain, unsupported_reason
from elivepatch.build.builders.select import build_with_selected, compare_outcomes, second_builder
from elivepatch.model.build import Builder, BuildOutcome, BuildRequest, PatchedFunction
from elivepatch.model.codes import problem
from elivepatch.model.errors import Kind, Problem
from elivepatch.model.series import PatchSeries, SourcePatch
from elivepatch.process import Completed

OBJECTS, KLP, REFERENCE = Builder.OBJECTS, Builder.KLP, Builder.REFERENCE
SERIES = PatchSeries((SourcePatch("fix.patch", b"x"),))
ONE = PatchedFunction(object="vmlinux", name="one_show", sympos=1, source="fs/one.c")
TWO = PatchedFunction(object="loop", name="two_show", sympos=1, source="drivers/two.c")


def asked(base: Base, **changed: Any) -> BuildOutcome:
    context = BuildContext(
        base=base, toolchains=Toolchains(base.directory, Archive(base.directory / "archive")), jobs=1
    )
    request = BuildRequest(release=base.release, series=SERIES, **changed)
    return build_with_selected(request, context, name="livepatch_test", work_dir=base.directory)


@pytest.mark.parametrize(
    ("release", "changed", "words"),
    [
        ("6.12.117-own", {"ibt": True}, "X86_KERNEL_IBT"),
        ("6.19.0-own", {}, "6.19"),
        ("7.2.13-own", {}, "6.19"),
        ("6.1.176-own", {"toolchain": "debian-12"}, "toolchain debian-13"),
    ],
)
def test_kpatch_build_does_not_serve_every_kernel(
    tmp_path: Path, release: str, changed: dict[str, Any], words: str
) -> None:
    reason = unsupported_reason(bare_base(tmp_path, release, **changed))
    assert reason is not None
    assert words in reason


def test_kpatch_build_does_not_serve_a_kernel_without_debug_information(tmp_path: Path) -> None:
    base = bare_base(tmp_path)
    (base.tree / ".config").write_text("CONFIG_LIVEPATCH=y\n# CONFIG_DEBUG_INFO is not set\n")
    reason = unsupported_reason(base)
    assert reason is not None
    assert "CONFIG_DEBUG_INFO" in reason


@pytest.mark.parametrize("release", ["6.1.176-own", "6.12.117-own", "6.18.3"])
def test_kpatch_build_serves_kernels_before_klp_build(tmp_path: Path, release: str) -> None:
    assert unsupported_reason(bare_base(tmp_path, release)) is None


@pytest.mark.parametrize("builder", [KLP, REFERENCE])
def test_a_distributions_kernel_is_never_built_whole(tmp_path: Path, builder: Builder) -> None:
    found = asked(bare_base(tmp_path, kind="stock"), builder=builder).problem
    assert found is not None
    assert (found.code, found.kind) == ("builder-unfit", Kind.FAILURE)
    assert "distribution" in found.message


def test_the_second_opinion_before_klp_build_is_kpatch_builds(tmp_path: Path) -> None:
    assert second_builder(OBJECTS, bare_base(tmp_path)) is REFERENCE


@pytest.mark.parametrize("first", [KLP, REFERENCE])
def test_the_second_opinion_of_whole_kernels_is_that_of_single_objects(tmp_path: Path, first: Builder) -> None:
    assert second_builder(first, bare_base(tmp_path)) is OBJECTS


@pytest.mark.parametrize("changed", [{"kind": "stock"}, {"ibt": True}])
def test_where_there_is_no_second_builder_paranoia_is_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    found = asked(bare_base(tmp_path, **changed), paranoid=True).problem
    assert found is not None
    assert found.code == "builder-unfit"
    assert found.message == "No second builder supports 6.12.117-own."
    assert {builder for builder in ("klp", "reference") if f"The builder {builder}" in found.excerpt} == {
        "klp",
        "reference",
    }


def outcome(path: Path, *functions: PatchedFunction, code: bytes = b"\x90\xc3") -> BuildOutcome:
    made = Made().section(".text.one_show", code, code=True)
    made.symbol("one_show", ".text.one_show", size=2)
    path.write_bytes(made.data())
    return BuildOutcome(module=path, functions=functions, seconds={"check": 1.0})


def test_a_livepatch_that_two_builders_make_is_given_and_told(tmp_path: Path) -> None:
    one, other = (outcome(tmp_path / name, ONE) for name in ("one", "other"))
    given = compare_outcomes(OBJECTS, one, REFERENCE, other, bare_base(tmp_path))
    assert (given.module, given.problem) == (one.module, None)
    assert [note.code for note in given.notes] == ["second-builder"]
    assert given.seconds == {"check": 1.0, "reference.check": 1.0}


def refused(given: BuildOutcome) -> Problem:
    assert given.module is None
    assert given.problem is not None
    assert (given.problem.code, given.problem.kind) == ("builders-differ", Kind.ERROR)
    return given.problem


def test_modules_that_differ_are_thrown_away(tmp_path: Path) -> None:
    one, other = outcome(tmp_path / "one", ONE), outcome(tmp_path / "other", ONE, code=b"\x91\xc3")
    told = refused(compare_outcomes(OBJECTS, one, REFERENCE, other, bare_base(tmp_path))).excerpt
    assert told.startswith("- objects\n+ reference\n")
    assert "content of one_show" in told


def test_modules_of_different_tools_are_compared_by_what_they_replace(tmp_path: Path) -> None:
    one, same = outcome(tmp_path / "one", ONE), outcome(tmp_path / "other", ONE, code=b"\x91\xc3")
    assert compare_outcomes(OBJECTS, one, KLP, same, bare_base(tmp_path)).problem is None
    more = outcome(tmp_path / "other", ONE, TWO)
    assert "+ loop:two_show,1" in refused(compare_outcomes(OBJECTS, one, KLP, more, bare_base(tmp_path))).excerpt


def test_what_only_the_second_builder_refuses_is_a_difference(tmp_path: Path) -> None:
    other = BuildOutcome(problem=problem("data-change", "It changes data."))
    given = compare_outcomes(OBJECTS, outcome(tmp_path / "one", ONE), REFERENCE, other, bare_base(tmp_path))
    assert "[data-change] It changes data." in refused(given).excerpt


def test_what_the_first_builder_refuses_is_its_verdict(tmp_path: Path) -> None:
    first = BuildOutcome(problem=problem("data-change", "It changes data."))
    given = compare_outcomes(OBJECTS, first, REFERENCE, outcome(tmp_path / "other", ONE), bare_base(tmp_path))
    assert given.problem == first.problem


@pytest.mark.parametrize(
    ("said", "log", "code"),
    [
        ("ERROR: no changed objects found. Check /out/kpatch/build.log for more details.", "", "no-change"),
        ("ERROR: no functional changes found.", "", "no-change"),
        ("ERROR: /in/00000.patch file failed to apply. Check it.", "", "does-not-apply"),
        ("ERROR: Undefined symbols: frobnicate . Check it.", "", "undefined-symbol"),
        ("ERROR: fs/a.o: changed section .data.x not selected for inclusion\nERROR: 1 error(s) encountered.", "",
         "data-change"),
        ("ERROR: create-diff-object SIGSEGV", "", "diff-tool-crash"),
        ("ERROR: kpatch build failed.", "fs/a.c:12:3: error: expected ';'\nmake: *** Error 1\n", "compile-error"),
        ("ERROR: kpatch build failed.", "ld: something\n", "reference-failed"),
    ],
)  # fmt: skip
def test_what_kpatch_build_says_becomes_a_code(said: str, log: str, code: str) -> None:
    done = Completed(argv=("kpatch-build",), status=1, output=said.encode(), log=b"", seconds=1.0, timed_out=False)
    assert explain(done, log).code == code


def test_a_kernel_that_takes_too_long_is_told() -> None:
    done = Completed(argv=("kpatch-build",), status=-15, output=b"", log=b"", seconds=1.0, timed_out=True)
    assert explain(done, "").code == "out-of-time"
