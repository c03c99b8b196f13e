# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels that klp-build supports, and the meaning of its messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.build.archive.apt import Archive
from elivepatch.build.base.store import Base
from elivepatch.build.base.toolchain import Toolchains
from elivepatch.build.builders.klp import KlpBuilder
from elivepatch.build.builders.klp_messages import not_compiled, not_made, switched_off
from elivepatch.build.builders.klp_tree import unsupported_reason
from elivepatch.model.codes import CODES
from elivepatch.model.kernel import BuildId, Digest, Release
from elivepatch.model.series import PatchSeries
from elivepatch.process import Completed

RELEASE = "7.2.13-own"
SERVED = "CONFIG_LIVEPATCH=y\nCONFIG_KLP_BUILD=y\n"
SCRIPT, SYMIDS = "scripts/livepatch/klp-build", "tools/objtool/klp-symid.c"


def base(directory: Path, config: str = SERVED, files: tuple[str, ...] = (SCRIPT, SYMIDS)) -> Base:
    """A base that has nothing but what decides."""
    for name in files:
        (directory / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / "tree" / name).touch()
    (directory / "tree").mkdir(exist_ok=True)
    (directory / "tree/.config").write_text(config)
    facts: dict[str, Any] = {"kind": "custom", "version": "7.2.13", "toolchain": "debian-13", "cc": "gcc-14"}
    return Base(
        directory=directory, release=Release(RELEASE), build_id=BuildId("ab" * 20), config_digest=Digest("c" * 64),
        toolchain_digest=Digest("d" * 64), compiler="gcc", ibt=False, modversions=True, struct_sizes={}, packages={},
        size_bytes=0, seconds=0.0, **facts,
    )  # fmt: skip


def test_a_kernel_with_klp_build_is_served(tmp_path: Path) -> None:
    assert unsupported_reason(base(tmp_path)) is None


@pytest.mark.parametrize(
    ("config", "files", "words"),
    [
        (SERVED, (), "has no klp-build"),
        ("CONFIG_LIVEPATCH=y\n", (SCRIPT, SYMIDS), "CONFIG_KLP_BUILD"),
        (SERVED, (SCRIPT,), SYMIDS),
        (f"{SERVED}CONFIG_GCC_PLUGIN_RANDSTRUCT=y\n", (SCRIPT, SYMIDS), "refuses CONFIG_GCC_PLUGIN_RANDSTRUCT"),
    ],
)
def test_a_kernel_that_klp_build_cannot_serve_is_told_why(
    tmp_path: Path, config: str, files: tuple[str, ...], words: str
) -> None:
    reason = unsupported_reason(base(tmp_path, config, files))
    assert reason is not None
    assert words in reason


def test_the_builder_refuses_such_a_kernel_by_name(tmp_path: Path) -> None:
    none = Toolchains(tmp_path / "toolchains", Archive(tmp_path / "packages"))
    builder = KlpBuilder(base=base(tmp_path, files=(SCRIPT,)), toolchains=none, jobs=1)
    problem = builder.build(PatchSeries(()), name="livepatch_test", work_dir=tmp_path).problem
    assert problem is not None
    assert problem.code == "builder-unfit"
    assert RELEASE in problem.message


def said(text: str, status: int = 1, *, timed_out: bool = False) -> Completed:
    return Completed(
        argv=("bash",), status=status, output=b"", log=text.encode(), seconds=1.0, timed_out=timed_out
    )  # fmt: skip


OBJTOOL = "vmlinux.o: error: objtool:"
SPOKEN = [
    (f"{OBJTOOL} changed data: demo_ops", "data-change", "demo_ops"),
    (f"{OBJTOOL} demo_run+0x1f: unsupported static branch key demo_key.  Use static_key_enabled() instead",
     "jump-label", "demo_key"),
    (f"{OBJTOOL} demo_run()+0x1f: unsupported static call key __SCK__demo.  Use KLP_STATIC_CALL() instead",
     "static-call", "static call"),
    (f"{OBJTOOL} FILE symbol mismatch: new.c != old.c", "new-file", "new.c"),
    ("error: klp-build: no changes detected", "no-change", "the same"),
    ('ERROR: modpost: "demo_missing" [/src/klp-tmp/5-kmod/livepatch.ko] undefined!', "undefined-symbol",
     "demo_missing"),
    ("ERROR: modpost: module livepatch uses symbol dma_buf_put from namespace DMA_BUF, but does not import it.",
     "undefined-symbol", "DMA_BUF"),
    ("error: klp-build: line 77: 'objcopy'", "diff-tool", "klp-build failed"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "code", "words"), SPOKEN)
def test_why_no_module_was_made_is_understood(text: str, code: str, words: str) -> None:
    problem = not_made(said(text), release=RELEASE)
    assert problem.code == code
    assert words in problem.message + problem.excerpt


def test_what_stays_silent_in_the_new_code_is_noted_once() -> None:
    text = f"warning: objtool: demo_run: disabling unsupported tracepoint demo_hit\n{OBJTOOL} other.\n"
    (note,) = switched_off(said(text * 2, 0))
    assert note.code == "left-out"
    assert "tracepoint demo_hit of demo_run" in note.message
    assert switched_off(said("nothing of the kind", 0)) == ()


def test_a_source_that_does_not_compile_is_named() -> None:
    problem = not_compiled(said("fs/proc/version.c:12:2: error: 'gone' undeclared (first use in this function)\n"))
    assert (problem.code, problem.message) == ("compile-error", "fs/proc/version.c does not compile with the series.")
    assert "'gone' undeclared" in problem.excerpt


def test_a_build_that_runs_too_long_is_told_as_such() -> None:
    late = said("", -9, timed_out=True)
    assert not_compiled(late).code == not_made(late, release=RELEASE).code == "out-of-time"


@given(st.text(max_size=300), st.integers(-20, 255))
def test_any_words_become_a_problem_of_the_catalogue(text: str, status: int) -> None:
    for problem in (not_compiled(said(text, status)), not_made(said(text, status), release=RELEASE)):
        assert problem.code in CODES
        assert problem.message.endswith(".")
