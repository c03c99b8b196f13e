# SPDX-License-Identifier: GPL-2.0-or-later
"""The judge of mutants finds each difference of two objects by itself, and none in equal ones."""

from __future__ import annotations

import subprocess  # noqa: TID251 - the compiler makes the objects
from collections.abc import Callable
from pathlib import Path

import pytest

from carried import Changes, changes, lost
from object_contents import Contents

SOURCE = """
struct ops { int limit; int (*get)(int); };
extern int printk(const char *text, ...) __attribute__((cold));
extern int elsewhere(int), other(int);
static int speed = 40;
static const int levels[] = { 10, 20, 30, 70 };
static const char *const names[] = { "off", "slow", "fast", "turbo" };
static int get(int a) { return a + speed++; }
struct ops ops = { .limit = 7, .get = get };
int cold(int a)
{
	if (a == 123456) {
		printk("unlikely %d", a);
		return -a;
	}
	return elsewhere(a) + other(a) * 3;
}
const char *name(int a)
{
	switch (a) {
	case 0: return "none";
	case 1: return "one";
	case 2: return "two";
	case 3: return "three";
	case 4: return "four";
	}
	return names[a & 3];
}
int level(int a) { return levels[a & 3]; }
static __attribute__((noinline)) int part(int a) __asm__("work.part.0");
static int part(int a) { return elsewhere(a) * 5; }
int first(int a) { return a ? part(a) : 0; }
int second(int a) { return a > 9 ? part(a + 1) : 1; }
int once(int a)
{
	static unsigned char __already_done;
	if (a && !__already_done) {
		__already_done = 1;
		asm volatile("1: ud2\\n.pushsection __bug_table,\\"aw\\"\\n"
		".long 1b - .\\n.long 0\\n.word 9\\n.word 1\\n.popsection");
	}
	return speed;
}
"""
SIZES = {"BUG_STRUCT_SIZE": 12}
Compared = Callable[..., Changes]


@pytest.fixture
def changed(tmp_path: Path) -> Compared:
    """Compile the source and a changed one; return the judge's differences."""

    def differences(*replaced: tuple[str, str]) -> Changes:
        return changes(*compiled(tmp_path, *replaced), SIZES)

    return differences


def compiled(directory: Path, *replaced: tuple[str, str]) -> tuple[Path, Path]:
    text = SOURCE
    for old, new in replaced:
        assert text.count(old) == 1
        text = text.replace(old, new)
    paths = directory / "original.o", directory / "patched.o"
    for path, source in zip(paths, (SOURCE, text), strict=True):
        source_file = directory / "object.c"
        source_file.write_text(source)
        options = ["-O2", "-c", "-w", "-fno-pic", "-fno-jump-tables", "-ffunction-sections", "-fdata-sections"]
        subprocess.run(["gcc", *options, "-fno-asynchronous-unwind-tables", "-o", path, source_file], check=True)
    return paths


def test_equal_objects_have_no_difference(changed: Compared) -> None:
    assert not changed(("extern int elsewhere", "/* a comment */ extern int elsewhere"))


@pytest.mark.parametrize(
    ("old", "new", "functions"),
    [
        ("a + speed++", "a + 1 + speed++", {"get"}),
        ("return elsewhere(a) +", "return other(a) +", {"cold"}),
        ('"unlikely %d"', '"unlikely: %d"', {"cold.cold"}),
        ('"three"', '"trhee"', {"name"}),
        ('"turbo"', '"turbu"', {"name"}),
        ("30, 70", "30, 71", {"level"}),
        (".word 9", ".word 8", {"once"}),
    ],
)
def test_what_code_leads_to_is_a_difference_of_the_function(
    changed: Compared, old: str, new: str, functions: set[str]
) -> None:
    found = changed((old, new))
    assert functions <= set(found.functions)
    assert set(found.functions) <= functions | {name.partition(".")[0] for name in functions}


@pytest.mark.parametrize(("old", "new", "name"), [("speed = 40", "speed = 41", "speed"), ("= 7", "= 8", "ops")])
def test_another_value_of_a_variable_is_a_difference_of_the_variable(
    changed: Compared, old: str, new: str, name: str
) -> None:
    found = changed((old, new))
    assert (found.functions, found.variables) == ((), (name,))


def test_the_place_of_a_constant_behind_a_reference_does_not_matter(changed: Compared) -> None:
    """`cmpb $0, x(%rip)` counts from its end, five bytes behind: the object before x must not be taken for it."""
    found = changed(("int once(int a)\n{\n", "int once(int a)\n{\n	static char __print_once; __print_once |= a;\n"))
    assert set(found.functions) == {"once"}


def test_a_function_that_the_livepatch_lacks_is_lost_and_one_that_is_the_patched_ones_is_not(tmp_path: Path) -> None:
    original, patched = compiled(tmp_path, ('"three"', '"trhee"'))
    reasons = lost(original, patched, original, SIZES)
    assert len(reasons) == 1
    assert "name is in the livepatch and replaces nothing" in reasons[0]
    module = livepatch(patched, tmp_path, "name")
    assert Contents(module).replacing == {"name"}
    assert lost(original, patched, module, SIZES) == []
    other = livepatch(original, tmp_path, "name")
    assert "name is not the patched one" in lost(original, patched, other, SIZES)[0]


def test_a_part_of_functions_is_carried_if_all_that_call_it_are_replaced(tmp_path: Path) -> None:
    original, patched = compiled(tmp_path, ("elsewhere(a) * 5", "elsewhere(a) * 6"))
    assert lost(original, patched, livepatch(patched, tmp_path, "first", "second"), SIZES) == []
    reasons = lost(original, patched, livepatch(patched, tmp_path, "first"), SIZES)
    assert reasons == ["work.part.0 is in the livepatch and replaces nothing"]


def livepatch(replacement: Path, directory: Path, *functions: str) -> Path:
    """Link an object with kpatch's table of replaced functions."""
    table, module = directory / "table.s", directory / f"{replacement.stem}.ko"
    table.write_text("".join(['.section .kpatch.funcs,"a"\n', *(f".quad {one}\n" for one in functions)]))
    subprocess.run(["as", "-o", directory / "table.o", table], check=True)
    subprocess.run(["ld", "-r", "-o", module, replacement, directory / "table.o"], check=True)
    return module
