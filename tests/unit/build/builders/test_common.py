# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages of the programs of a build: patch, make, gcc and modpost."""

from __future__ import annotations

from pathlib import Path

import pytest

from elivepatch.build.base.kbuild import linker_of, make_arguments, section_flags, without_sections
from elivepatch.build.objects.apply import check_file_names
from elivepatch.build.objects.compile import require_compiled, saved_command
from elivepatch.build.objects.link import Linker
from elivepatch.model.errors import BuildStopped, EnvironmentFault, Problem
from elivepatch.patch.parse import TouchedFile, kind_of
from elivepatch.process import Completed


def done(output: str = "", log: str = "", status: int = 0, *, timed_out: bool = False) -> Completed:
    return Completed(
        argv=("make",), status=status, output=output.encode(), log=log.encode(), seconds=0.1, timed_out=timed_out
    )


def touched(path: str, *, removed: bool = False) -> TouchedFile:
    return TouchedFile(path=path, kind=kind_of(path), added=False, removed=removed)


def test_patch_and_we_read_the_same_names() -> None:
    said = "patching file fs/a.c\npatching file 'Documentation/b c.txt'\npatching file fs/a.c\nHunk #1 succeeded\n"
    check_file_names(said, [touched("fs/a.c"), touched("Documentation/b c.txt")])


def test_the_old_name_of_a_renamed_file_need_not_be_named() -> None:
    said = "patching file Documentation/b.txt (renamed from Documentation/a.txt)\n"
    check_file_names(said, [touched("Documentation/a.txt", removed=True), touched("Documentation/b.txt")])


@pytest.mark.parametrize("said", ["", "patching file fs/a.c\npatching file fs/b.c\n", "patching file fs/other.c\n"])
def test_a_file_that_only_one_of_us_saw_is_refused(said: str) -> None:
    with pytest.raises(BuildStopped) as caught:
        check_file_names(said, [touched("fs/a.c")])
    assert caught.value.problem.code == "patch-malformed"


@pytest.mark.parametrize("name", ["cmd_fs/a.o", "savedcmd_fs/a.o"])
def test_the_saved_command_is_what_the_shell_ran(name: str) -> None:
    text = f"{name} := gcc -D'A=\"x\"' -DP=$(pound) -DD=$$ -o a.o a.c ; objtool a.o\n\nsource_fs/a.o := fs/a.c\n"
    assert saved_command(text) == "gcc -D'A=\"x\"' -DP=# -DD=$ -o a.o a.c ; objtool a.o"


def test_a_missing_saved_command_is_told() -> None:
    with pytest.raises(EnvironmentFault) as caught:
        saved_command("nothing here\n")
    assert caught.value.problem.code == "saved-command"


@pytest.mark.parametrize(
    "headers", [(), ("arch/x86/include/asm/runtime-const.h", "include/asm-generic/runtime-const.h")]
)
def test_a_plain_compile_is_the_same_command_without_section_flags(tmp_path: Path, headers: tuple[str, ...]) -> None:
    for name in headers:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    command = f"gcc -O2 -g {section_flags(tmp_path)} -c -o a.o a.c"
    assert ("-include /src/include/asm-generic" in command) is (len(headers) == 2)
    assert without_sections(command) == "gcc -O2 -g -I/tools/patch -gz=none -c -o a.o a.c"


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ("CONFIG_DEBUG_INFO=y\nCONFIG_CC_IS_GCC=y\n", ""),
        ("# CONFIG_DEBUG_INFO is not set\n", " -g"),
        ("CONFIG_DEBUG_INFO_NONE=y\n", " -g"),
        ("CONFIG_DEBUG_INFO=y\nCONFIG_DEBUG_INFO_SPLIT=y\n", " -gno-split-dwarf"),
        (
            "CONFIG_CC_IS_GCC=y\nCONFIG_DEBUG_INFO=y\nCONFIG_DEBUG_INFO_REDUCED=y\n",
            " -femit-struct-debug-detailed=any",
        ),
        ("CONFIG_CC_IS_CLANG=y\nCONFIG_DEBUG_INFO=y\nCONFIG_DEBUG_INFO_REDUCED=y\n", ""),
    ],
)
def test_objects_have_all_types_in_their_debug_information_also_if_the_kernel_has_not(
    tmp_path: Path, options: str, flags: str
) -> None:
    """The layouts of live structures are compared by them."""
    (tmp_path / ".config").write_text(options)
    assert section_flags(tmp_path) == f"-I/tools/patch -ffunction-sections -fdata-sections -gz=none{flags}"


def test_the_flags_of_a_base_from_before_are_removed_too() -> None:
    flags = "-I/tools/patch -ffunction-sections -fdata-sections -gz=none -include asm-generic/runtime-const.h"
    assert without_sections(f"gcc -O2 {flags} -c -o a.o a.c") == "gcc -O2 -I/tools/patch -gz=none -c -o a.o a.c"


def excerpt_of(log: str, status: int) -> str:
    with pytest.raises(BuildStopped) as caught:
        require_compiled(done(log=log, status=status), "a.c", "a.c does not compile.")
    assert caught.value.problem.code == "compile-error"
    return caught.value.problem.excerpt


def test_the_excerpt_of_a_compile_error_is_the_errors() -> None:
    log = "a.c: In function 'f':\na.c:3:5: error: unknown type name 'x'\nmake: *** [a.o] stop\n"
    assert excerpt_of(log, 1) == "a.c:3:5: error: unknown type name 'x'"
    many = "\n".join(f"a.c:{n}: error: wrong" for n in range(100))
    assert len(excerpt_of(many, 1).splitlines()) == 12


def test_a_compiler_that_fails_without_an_error_shows_its_last_words() -> None:
    assert excerpt_of("killed\n", 137) == "killed"


def test_make_is_told_the_kernels_compiler() -> None:
    assert make_arguments("x86_64-linux-gnu-gcc-14", 2) == [
        "make", "-j2", "CC=x86_64-linux-gnu-gcc-14", "HOSTCC=gcc-14",
    ]  # fmt: skip


def judged(answer: Completed, *, release: str = "6.1.0-50-cloud-amd64") -> Problem:
    with pytest.raises(BuildStopped) as caught:
        Linker.require_linked(answer, release=release)
    return caught.value.problem


@pytest.mark.parametrize("level", ["ERROR", "WARNING"])
def test_an_undefined_symbol_is_named(level: str) -> None:
    problem = judged(done(log=f'{level}: modpost: "no_such_fn" [/out/patch/lp.ko] undefined!\n', status=2))
    assert problem.code == "undefined-symbol"
    assert "no_such_fn" in problem.message


def test_a_namespace_that_is_not_imported_is_named_with_the_way_out() -> None:
    text = "ERROR: modpost: module lp uses symbol dma_buf_get from namespace DMA_BUF, but does not import it.\n"
    problem = judged(done(log=text, status=2))
    assert problem.code == "undefined-symbol"
    assert "dma_buf_get of the namespace DMA_BUF" in problem.message
    assert "MODULE_IMPORT_NS(DMA_BUF);" in problem.excerpt
    assert 'MODULE_IMPORT_NS("DMA_BUF");' in judged(done(log=text, status=2), release="6.13.2").excerpt


def test_any_other_failure_of_the_link_is_our_matter() -> None:
    problem = judged(done(log="ld: out of memory\n", status=2))
    assert (problem.code, problem.kind.value) == ("link-failed", "error")
    assert "out of memory" in problem.excerpt


def test_a_link_that_takes_too_long_is_told() -> None:
    assert judged(done(status=-9, timed_out=True)).code == "out-of-time"


def test_a_link_without_complaint_is_fine() -> None:
    Linker.require_linked(done(output="  LD [M]  /out/patch/lp.ko\n"), release="6.1")


@pytest.mark.parametrize(
    ("cc", "llvm", "linker"), [("clang-19", "LLVM=-19", "ld.lld-19"), ("clang", "LLVM=1", "ld.lld")]
)
def test_a_kernel_of_clang_is_built_with_llvm_alone(cc: str, llvm: str, linker: str) -> None:
    """With CC= alone, the configuration would name another linker and another assembler."""
    assert make_arguments(cc, 2) == ["make", "-j2", llvm]
    assert linker_of(cc) == linker


def test_a_kernel_of_gcc_is_linked_by_the_linker_of_its_root() -> None:
    assert linker_of("x86_64-linux-gnu-gcc-14") == "ld"
