# SPDX-License-Identifier: GPL-2.0-or-later
"""Two functions with the same bytes are not the same if they refer to something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from elivepatch.build.checks.fidelity import Located, Match, compare_functions, locate
from elivepatch.kernel.elf import ElfFile
from elivepatch.kernel.symbols import Block, LinkedSymbols
from elivepatch.process import run

SOURCE = """
extern int first(int), second(int);
extern int say(const char *text), take(int (*function)(int));
static int counts[4];
static int limits[4] = {1, 2, 3, 4};
int shared[4] = {1};
static __attribute__((noinline)) int one(int value) { counts[1] = value; return first(value) + limits[value]; }
static __attribute__((noinline)) int two(int value) { counts[2] = value; return second(value) + limits[value]; }
int run(int value) { say("hello"); shared[1] = one(value); return first(value); }
int other(int value) { say("world"); return two(value) + second(7); }
int pick(int value)
{
    switch (value) {
    case 0: return first(1);
    case 1: return second(7);
    case 2: return say("two");
    case 3: return first(9) + second(4);
    case 4: return say("four");
    case 5: return take(one);
    }
    return 0;
}
"""
BESIDE = """
static int filler[3] = {5};
int first(int value) { return filler[value]; }
int second(int value) { return value + 1; }
int take(int (*function)(int)) { return function(1); }
int say(const char *text) { return text[0] == "hello"[1]; }
"""
FLAGS = ["-O2", "-mcmodel=kernel", "-fno-pic", "-fno-asynchronous-unwind-tables", "-fno-stack-protector",
         "-fno-ipa-icf", "-fno-ipa-ra", "-fno-toplevel-reorder"]  # fmt: skip
CHANGES = {
    "another function of another object": ("run", "return first(value); }", "return second(value); }"),
    "another function of the same object": ("pick", "take(one)", "take(two)"),
    "another string": ("run", '"hello"', '"help!"'),
    "the end of another string": ("other", '"world"', '"orld"'),
    "another element of a static array": ("one", "counts[1]", "counts[3]"),
    "another static array": ("two", "second(value) + limits[value]", "second(value) + counts[value]"),
    "another element of a global array": ("run", "shared[1]", "shared[2]"),
}


def compiled(place: Path, name: str, source: str) -> Path:
    (place / f"{name}.c").write_text(source)
    run(["gcc", *FLAGS, "-c", str(place / f"{name}.c"), "-o", str(place / f"{name}.o")]).check("Compiling")
    return place / f"{name}.o"


def parent(tmp_path: Path, source: str, *, module: bool) -> LinkedSymbols:
    """The parent that holds an object of `source`, and another one in front of it."""
    place = tmp_path / "shipped"
    place.mkdir()
    objects = [str(compiled(place, name, text)) for name, text in (("beside", BESIDE), ("demo", source))]
    how = ["-r"] if module else ["-e", "run", "-Ttext=0xffffffff81000000"]
    run(["ld", *how, "-o", str(place / "parent"), *objects]).check("Linking")
    return LinkedSymbols(ElfFile(place / "parent"), is_vmlinux=not module)


def matches(tmp_path: Path, shipped: str, *, module: bool) -> dict[str, Match]:
    plain = ElfFile(compiled(tmp_path, "demo", SOURCE))
    linked = parent(tmp_path, shipped, module=module)
    located = locate(plain, linked, source="drivers/demo.c", parent="parent")
    return {symbol.name: match for symbol, match in compare_functions(plain, linked, located)}


@pytest.mark.parametrize("module", [False, True])
def test_a_function_that_refers_to_the_same_is_the_same(tmp_path: Path, module: bool) -> None:
    assert set(matches(tmp_path, SOURCE, module=module).items()) == {
        (name, Match.SAME) for name in ("one", "two", "run", "other", "pick", "pick.cold")
    }


@pytest.mark.parametrize("module", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_a_function_that_refers_to_something_else_is_another(tmp_path: Path, change: str, module: bool) -> None:
    function, old, new = CHANGES[change]
    assert SOURCE.count(old) == 1
    found = matches(tmp_path, SOURCE.replace(old, new), module=module)
    assert [name for name, match in found.items() if match is not Match.SAME] == [function]
    assert found[function] is Match.REFERS


PART = """
    .weak known
    .globl run, body
    .type run, @function
    .type body, @function
    .type known, @function
known: ret
    .size known, .-known
body: nop
.Linside: ret
    .size body, .-body
    .section .text.unlikely,"ax"
run: jmp .Linside
    .size run, .-run
"""


def assembled(place: Path, text: str) -> Path:
    place.mkdir()
    (place / "demo.s").write_text(text)
    run(["as", "--64", "-o", str(place / "demo.o"), str(place / "demo.s")]).check("Assembling")
    return place / "demo.o"


def test_a_weak_function_that_another_object_replaces_does_not_say_where_the_object_lies(tmp_path: Path) -> None:
    demo = assembled(tmp_path / "plain", PART)
    beside = compiled(tmp_path, "beside", BESIDE + "int known(int value) { return first(value); }")
    how = ["-e", "run", "-Ttext=0xffffffff81000000", "-o", str(tmp_path / "parent")]
    run(["ld", *how, str(beside), str(demo)]).check("Linking")
    plain, linked = ElfFile(demo), LinkedSymbols(ElfFile(tmp_path / "parent"), is_vmlinux=True)
    names = {name: linked.named[name][0] for name in ("known", "body", "run")}
    located = Located(Block(-1, "", ()), names)
    found = {symbol.name: match for symbol, match in compare_functions(plain, linked, located)}
    assert found == {"known": Match.WEAK, "body": Match.SAME, "run": Match.SAME}


BEHIND_A_STRING = """
    .globl run
    .type run, @function
run:
    movq $.LC0, %rdi
    movq $.LC0+10, %rsi
    ret
    .size run, .-run
    .section .rodata.str1.1,"aMS",@progbits,1
.LC1: .string "another one"
.LC0: .string "{text}"
.LC2: .string "one more"
"""


@pytest.mark.parametrize(("shipped", "match"), [("window", Match.SAME), ("widows", Match.REFERS)])
def test_code_may_refer_to_an_address_behind_the_end_of_a_string(tmp_path: Path, shipped: str, match: Match) -> None:
    """string_nocheck() of lib/vsprintf.c does: the bound of a loop over at most ten characters."""

    demo = assembled(tmp_path / "plain", BEHIND_A_STRING.replace("{text}", "window"))
    beside = compiled(tmp_path, "beside", BESIDE + 'const char *longer(void) { return "the long window"; }')
    parent = tmp_path / "parent"
    how = ["-e", "run", "-Ttext=0xffffffff81000000", "-o", str(parent)]
    other = assembled(tmp_path / "shipped", BEHIND_A_STRING.replace("{text}", shipped))
    run(["ld", *how, str(beside), str(other)]).check("Linking")
    plain, linked = ElfFile(demo), LinkedSymbols(ElfFile(parent), is_vmlinux=True)
    located = Located(Block(-1, "", ()), {"run": linked.named["run"][0]})
    found = dict(compare_functions(plain, linked, located))
    assert list(found.values()) == [match]
