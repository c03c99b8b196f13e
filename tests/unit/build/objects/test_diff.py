# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages of create-diff-object become a code, a sentence that names file and function, and the relevant lines."""

from __future__ import annotations

from pathlib import Path

import pytest
from elf_maker import FUNC, GLOBAL, OBJECT, Made
from hypothesis import given
from hypothesis import strategies as st

from elivepatch.build.objects.contents import ChangedPointer, Contents, changed_symbols, compare_contents
from elivepatch.build.objects.diff import classify, overrides, symbol_table
from elivepatch.kernel.elf import TYPE_FUNC, ElfFile
from elivepatch.kernel.symbols import LinkedSymbols
from elivepatch.model.codes import CODES
from elivepatch.model.errors import Kind, Problem
from elivepatch.process import Completed

SOURCE = "net/core/demo.c"
TOOL = "create-diff-object: ERROR: in/original.o: find_local_syms: 9:"
ENDING = "\nERROR: in/original.o: 1 unsupported section change(s)\ncreate-diff-object: unreconcilable difference\n"


def said(text: str, status: int = 2, *, timed_out: bool = False) -> Completed:
    return Completed(
        argv=("create-diff-object",), status=status, output=b"", log=text.encode(), seconds=0.1, timed_out=timed_out
    )


def problem_of(text: str, status: int = 2, changed: dict[str, list[str]] | None = None) -> Problem:
    contents = Contents(changed=changed or {})
    return classify(said(text + ENDING, status), SOURCE, contents)


# Text, code, words of the message. The texts are what 0.9.11 prints for patches like those of tests/kernel.
SPOKEN = [
    ("ERROR: changed section .init.text not selected for inclusion", "init-code", "start-up"),
    ("ERROR: changed section .rela.exit.text not selected for inclusion", "init-code", ".exit.text"),
    ("ERROR: changed section .sched.text not selected for inclusion", "shared-section", "the section .sched.text with"),
    ("ERROR: changed section .rela.noinstr.text not selected for inclusion", "no-function-entry", ".noinstr.text in"),
    ("ERROR: changed section .data.limit not selected for inclusion", "data-change", ".data.limit"),
    ("ERROR: changed section .rela.rodata.demo_ops not selected for inclusion", "data-change", ".rodata.demo_ops"),
    ("ERROR: changed section .bss.table not selected for inclusion", "data-change", ".bss.table"),
    ("ERROR: changed section __dmi_table not selected for inclusion", "data-change", "__dmi_table"),
    ("ERROR: changed section ___ksymtab+demo not selected for inclusion", "export", "exported"),
    ("ERROR: changed section __ksymtab_strings not selected for inclusion", "export", "exported"),
    ("ERROR: changed section .rela.export_symbol not selected for inclusion", "export", "exported"),
    ("ERROR: data section .data..read_mostly selected for inclusion", "new-data", ".data..read_mostly"),
    ("ERROR: in/original.o: object size mismatch: demo_table", "data-layout", "demo_table"),
    ("ERROR: in/original.o: object size mismatch: __UNIQUE_ID_description698", "data-change", "description"),
    ("ERROR: in/original.o: symbol changed sections: demo_limit", "section-change", "demo_limit"),
    ("ERROR: in/original.o: symbol info mismatch: demo_show", "section-change", "demo_show"),
    ("ERROR: in/original.o: symbol info mismatch: __pfx_demo_show", "section-change", "kind of demo_show"),
    ("ERROR: .data section header details differ from .data", "section-change", "attributes"),
    ("ERROR: in/original.o: changed section .text.a is part of a section group", "section-change", "section group"),
    ("ERROR: in/original.o: new/changed group sections are not supported", "section-change", "section group"),
    ("ERROR: function demo_run doesn't have patchable function entry", "no-function-entry", "demo_run"),
    ("ERROR: function demo_run has no fentry/mcount call, unable to patch", "no-function-entry", "demo_run"),
    ("ERROR: changed section .rela__tracepoints_ptrs not selected for inclusion", "lost-change",
     "net/core/demo.c adds, removes or changes a trace event"),
    ("ERROR: changed section __param not selected for inclusion", "lost-change", "changes a module parameter"),
    ("ERROR: in/original.o: object size mismatch: print_fmt_demo_run", "lost-change",
     "net/core/demo.c changes the text of the trace event demo_run"),
    ("ERROR: in/original.o: reference to static local variable once.3 in demo_run.cold was removed", "static-local",
     "demo_run in net/core/demo.c no longer uses its static variable once."),
    ("ERROR: static local once.3 has been correlated with once.5, but patched demo_run is missing a reference to it.",
     "static-local", "static variable once."),
    ("ERROR: Found a jump label at demo_run()+0x55, using key demo_key, which is defined in a module.", "jump-label",
     "demo_run tests the static key demo_key"),
    ("ERROR: Found 2 unsupported jump label(s) in the patched code.", "jump-label", "static key"),
    ("ERROR: Found a static call at demo_run()+0x11f, using key __SCK__demo, which is defined in a module.",
     "static-call", "demo_run"),
    (f"{TOOL} unsupported klp relocation reference to symbol 'other_fn' in module-specific special section '.a'",
     "special-section", "other_fn"),
    (f"{TOOL} found duplicate matches for demo.c local symbols in vmlinux symbol table", "duplicate-symbol", SOURCE),
    (f"{TOOL} duplicate local symbol found for demo", "duplicate-symbol", SOURCE),
    (f"{TOOL} couldn't find matching demo.c local symbols in vmlinux symbol table", "symbols", SOURCE),
    (f"{TOOL} can't find symbol 'demo' in symbol table", "symbols", SOURCE),
    (f"{TOOL} symbol demo at offset 16 within section .text.demo, expected 0", "symbols", SOURCE),
]  # fmt: skip


@pytest.mark.parametrize(("text", "code", "words"), SPOKEN)
def test_what_the_tool_says_is_understood(text: str, code: str, words: str) -> None:
    problem = problem_of(text)
    assert problem.code == code
    assert words in problem.message
    assert (problem.kind, problem.advice) == (CODES[code].kind, CODES[code].advice)
    assert text.partition(": ")[2].replace("in/original.o", SOURCE) in problem.excerpt


@pytest.mark.parametrize(("text", "code", "words"), SPOKEN)
def test_a_sentence_is_one_sentence(text: str, code: str, words: str) -> None:
    message = problem_of(text).message
    assert message.endswith(".")
    assert "{" not in message
    assert "original.o" not in message


def test_the_changed_symbols_of_a_section_are_named() -> None:
    problem = problem_of(
        "ERROR: changed section .init.text not selected for inclusion", changed={".init.text": ["a_init", "b"]}
    )
    assert problem.message.endswith(": a_init, b.")


@pytest.mark.parametrize(
    ("statics", "message"),
    [
        ({}, "run in net/core/demo.c no longer uses its static variable once."),
        ({"once": ([4], [])}, "run in net/core/demo.c no longer uses its static variable once."),
        ({"once": ([4], [8])}, "net/core/demo.c changes the size of the static variable once in run: 4 to 8 bytes."),
        ({"once": ([4], [4])},
         "run in net/core/demo.c uses its static variable once in another way; its type may have changed."),
    ],
)  # fmt: skip
def test_a_static_variable_is_called_gone_only_if_it_is(
    statics: dict[str, tuple[list[int], list[int]]], message: str
) -> None:
    text = "ERROR: in/original.o: reference to static local variable once.3 in run.cold was removed"
    assert classify(said(text), SOURCE, Contents(statics=statics)).message == message


def test_a_cause_is_told_before_its_consequences() -> None:
    text = (
        "ERROR: Found a jump label at run()+0x1, using key k, which is defined in a module.\n"
        "ERROR: changed section .rela.rodata.ops not selected for inclusion"
    )
    assert problem_of(text).code == "jump-label"


def test_the_excerpt_holds_errors_and_not_the_list_of_functions() -> None:
    text = "in/original.o: changed function: run\nERROR: data section .data..read_mostly selected for inclusion"
    excerpt = problem_of(text).excerpt
    assert "changed function" not in excerpt
    assert f"ERROR: {SOURCE}: 1 unsupported section change(s)" in excerpt


def test_an_excerpt_is_bounded() -> None:
    text = "\n".join(f"ERROR: changed section .data.v{n} not selected for inclusion" for n in range(1000))
    assert len(problem_of(text).excerpt.splitlines()) <= 12


@pytest.mark.parametrize(("status", "text"), [(-11, ""), (139, ""), (2, "SIGSEGV caught")])
def test_a_crash_of_the_tool_is_our_matter(status: int, text: str) -> None:
    problem = classify(said(text, status), SOURCE)
    assert (problem.code, problem.kind) == ("diff-tool-crash", Kind.ERROR)
    assert SOURCE in problem.message


def test_words_that_nobody_knows_are_our_matter_and_kept() -> None:
    problem = classify(said("create-diff-object: ERROR: demo.o: kpatch_new: 12: unhandled rela type 10\n", 1), SOURCE)
    assert (problem.code, problem.kind) == ("diff-tool", Kind.ERROR)
    assert "unhandled rela type 10" in problem.excerpt
    assert "status 1" in problem.message


def test_a_tool_that_runs_too_long_is_told_as_such() -> None:
    assert classify(said("", -9, timed_out=True), SOURCE).code == "out-of-time"


@given(st.text(max_size=300), st.integers(-20, 255))
def test_any_words_become_a_problem_of_the_catalogue(text: str, status: int) -> None:
    problem = classify(said(text, status), SOURCE)
    assert problem.code in CODES
    assert problem.message.endswith(".")


def built(limit: bytes = b"\1", call: str = "alpha", greeting: bytes = b"hello\0", *, more: bool = False) -> Made:
    """An object with a function and a table that calls `call`, a greeting in a string section, and a limit."""
    made = Made().section(".init.text", b"\x90" * 32, code=True).section(".data.limit", limit)
    made.section(".rodata.str1.1", b"first\0" + greeting).section(".rodata.ops", bytes(8))
    made.section(".text.alpha", b"\xc3", code=True).section(".text.beta", b"\xc3", code=True)
    strings = made.symbol("", ".rodata.str1.1", kind=3)
    calls = {name: made.symbol("", f".text.{name}", kind=3) for name in ("alpha", "beta")}
    for name in calls:
        made.symbol(name, f".text.{name}", size=1, kind=FUNC)
    made.symbol("start", ".init.text", value=0, size=16, kind=FUNC)
    made.symbol("stop", ".init.text", value=16, size=16 if not more else 8, kind=FUNC)
    made.symbol("limit", ".data.limit", size=1, kind=OBJECT)
    made.symbol("ops", ".rodata.ops", size=8, kind=OBJECT)
    if more:
        made.symbol("extra", ".init.text", value=24, size=8, kind=FUNC)
        made.symbol("__pfx_extra", ".init.text", value=24, size=8, kind=FUNC)
    made.relocation(".init.text", 4, strings, kind=11, addend=6)
    made.relocation(".rodata.ops", 0, calls[call], kind=1)
    return made


@pytest.mark.parametrize(
    ("patched", "wanted"),
    [
        (built(), {}),
        (built(limit=b"\2"), {".data.limit": ["limit"]}),
        (built(call="beta"), {".rodata.ops": ["ops"]}),
        (built(greeting=b"bye\0"), {".init.text": ["start"]}),
        (built(more=True), {".init.text": ["extra", "stop"]}),
    ],
    ids=["nothing", "value", "pointer", "string", "size and addition"],
)
def test_what_differs_between_two_objects_is_found(tmp_path: Path, patched: Made, wanted: dict[str, list[str]]) -> None:
    files = [ElfFile(made.write(tmp_path / name)) for made, name in ((built(), "a.o"), (patched, "b.o"))]
    assert changed_symbols(*files) == wanted


def test_a_pointer_that_changes_in_a_table_is_named_with_both_targets(tmp_path: Path) -> None:
    files = [ElfFile(made.write(tmp_path / name)) for made, name in ((built(), "a.o"), (built(call="beta"), "b.o"))]
    assert compare_contents(files[0], files[0]).pointers == ()
    assert compare_contents(*files).pointers == (ChangedPointer(table="ops", offset=0, old="alpha", new="beta"),)


def test_a_table_whose_pointers_change_is_told_apart_from_a_value() -> None:
    text = "ERROR: changed section .rela.rodata.ops not selected for inclusion"
    pointers = (ChangedPointer(table="ops", offset=8, old="", new="peek"),)
    problem = classify(said(text), SOURCE, Contents(pointers=pointers))
    assert problem.code == "ops-table"
    assert "ops points at peek instead of nothing" in problem.message
    assert classify(said(text), SOURCE).code == "data-change"


@pytest.mark.parametrize(
    ("exported", "unexported", "code"), [(("a",), (), "new-export"), ((), ("b",), "export"), (("a",), ("b",), "export")]
)
def test_a_new_export_is_told_apart_from_a_lost_one(
    exported: tuple[str, ...], unexported: tuple[str, ...], code: str
) -> None:
    text = "ERROR: changed section __ksymtab_strings not selected for inclusion"
    assert classify(said(text), SOURCE, Contents(exported=exported, unexported=unexported)).code == code


def test_what_a_source_tells_the_tool_to_ignore_is_found(tmp_path: Path) -> None:
    made = built().section(".kpatch.ignore.sections", bytes(8)).section(".kpatch.ignore.functions", bytes(8))
    made.section(".kpatch.force", bytes(16)).section(".rodata.str1.8", b".init.text\0")
    text = made.symbol("", ".text.alpha", kind=3)
    named = made.symbol("everybody", ".text.beta", size=1, bind=GLOBAL)
    name = made.symbol("", ".rodata.str1.8", kind=3)
    made.relocation(".kpatch.ignore.sections", 0, name, kind=1).relocation(".kpatch.ignore.functions", 0, text, kind=1)
    made.relocation(".kpatch.force", 0, named, kind=1).relocation(".kpatch.force", 8, text, kind=1)
    assert overrides(ElfFile(made.write(tmp_path / "a.o"))) == (
        "KPATCH_FORCE_UNSAFE(alpha)",
        "KPATCH_FORCE_UNSAFE(everybody)",
        "KPATCH_IGNORE_FUNCTION(alpha)",
        "KPATCH_IGNORE_SECTION(.init.text)",
    )
    assert overrides(ElfFile(built().write(tmp_path / "b.o"))) == ()


def linked(tmp_path: Path) -> LinkedSymbols:
    made = Made(kind=2).section(".text", bytes(256), code=True, address=0x1000)
    made.symbol("__pfx_run", ".text", value=0x1000, size=16)
    made.file("same.c")
    made.symbol("__ksymtab_a", ".text", kind=0)
    made.file("same.c")
    made.file("demo.c")
    made.symbol("run", ".text", value=0x1010, size=16)
    made.file("other.c")
    made.symbol("run", ".text", value=0x1040, size=16)
    made.symbol("__pfx_run", ".text", value=0x1030, size=16)
    made.symbol("all", ".text", value=0x1080, size=16, bind=GLOBAL)
    return LinkedSymbols(ElfFile(made.write(tmp_path / "vmlinux")), is_vmlinux=True)


def names(table: bytes) -> list[str]:
    return [line.rsplit(" ", 1)[1] for line in table.decode().splitlines()]


def test_the_table_has_the_columns_of_readelf(tmp_path: Path) -> None:
    lines = symbol_table(linked(tmp_path), None).decode().splitlines()
    assert "5: 0000000000000000 0 FILE LOCAL DEFAULT ABS demo.c" in lines
    assert "6: 0000000000001010 16 FUNC LOCAL DEFAULT 1 run" in lines
    assert "10: 0000000000001080 16 FUNC GLOBAL DEFAULT 1 all" in lines


def test_padding_symbols_stand_behind_their_objects_file_and_nowhere_else(tmp_path: Path) -> None:
    table = linked(tmp_path)
    (block,) = table.block_of("demo.c", frozenset({("run", TYPE_FUNC)}))
    assert names(symbol_table(table, block)) == [
        "", "same.c", "__ksymtab_a", "same.c", "demo.c", "__pfx_run", "__pfx_run", "run", "other.c", "run", "all",
    ]  # fmt: skip


def test_objects_of_one_name_without_symbols_are_made_one(tmp_path: Path) -> None:
    table = linked(tmp_path)
    first, second = table.block_of("same.c", frozenset())
    for block in (first, second):
        assert names(symbol_table(table, block)).count("same.c") == 1


def test_a_part_of_a_block_ends_before_the_symbols_of_assembly_and_has_what_linking_dropped(tmp_path: Path) -> None:
    made = Made(kind=2).section(".text", bytes(256), code=True, address=0x1000).section(".comment", b"Linker: LLD 19\0")
    made.file("init.c")
    made.symbol("setup", ".text", value=0x1010, size=16)
    made.symbol("verify_cpu", ".text", value=0x1040, size=16)
    made.file("next.c")
    table = LinkedSymbols(ElfFile(made.write(tmp_path / "vmlinux")), is_vmlinux=True)
    (block,) = table.block_of("init.c", frozenset({("setup", TYPE_FUNC)}))
    assert names(symbol_table(table, block, ["setup.__UNIQUE_ID_x1"])) == [
        "", "init.c", "setup.__UNIQUE_ID_x1", "setup", "following.S", "verify_cpu", "next.c",
    ]  # fmt: skip
    (empty,) = table.block_of("init.c", frozenset())
    assert names(symbol_table(table, empty)) == ["", "init.c", "following.S", "setup", "verify_cpu", "next.c"]
