# SPDX-License-Identifier: GPL-2.0-or-later
"""An address in the livepatch that its code hands out is found by its use, and one that it only uses itself is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from elivepatch.build.escapes.flow import Escape, find_escapes
from elivepatch.build.escapes.image import Image, Outside
from elivepatch.build.escapes.state import Spot, State, TooLarge
from elivepatch.kernel.disassembly import read_listing
from elivepatch.kernel.elf import ElfFile
from elivepatch.kernel.prototypes import Prototype
from elivepatch.process import run

BEGINNING = """
struct object { long count; const char *name; void (*work)(void *); struct object *next; };
extern struct object *kernels;
extern struct object known;
extern void _printk(const char *format, ...);
extern void seq_printf(void *file, const char *format, ...);
extern int strcmp(const char *one, const char *other);
extern char *strchr(const char *text, int character);
extern void *memcpy(void *to, const void *from, unsigned long size);
extern void mutex_lock(void *lock);
extern void keep(void *what, ...);
extern void kthread_create_on_node(int (*run)(void *), void *data, int node, const char *name, ...);
#define NEW static __attribute__((noinline, used))
NEW void handler(void *unused) { _printk("due"); }
static struct object mine;
"""

HANDED_OUT = {
    "a function in an object of the kernel": (
        "void run(struct object *o) { o->work = handler; }", "stores handler in memory of the kernel"),
    "a function in a variable of the kernel": (
        "void run(void) { known.work = handler; }", "stores handler in memory of the kernel"),
    "a literal": (
        'void run(struct object *o) { o->name = "mine"; }', 'stores the string "mine" in memory of the kernel'),
    "one of two literals": (
        'void run(struct object *o) { o->name = o->count > 3 ? "many" : "few"; }',
        'stores the string "few" in memory of the kernel'),
    "a variable": ("void run(struct object *o) { o->next = &mine; }", "stores mine in memory of the kernel"),
    "a part of a variable": (
        "void run(long **o) { *o = &mine.count + 2; }", "stores mine in memory of the kernel"),
    "a function that is an argument": ("void run(struct object *o) { keep(o, handler); }", "passes handler to keep"),
    "a variable that is an argument": ("void run(void) { keep(&mine); }", "passes mine to keep"),
    "a function of a kernel thread": (
        'NEW int loop(void *d) { return 0; }\nvoid run(void) { kthread_create_on_node(loop, 0, 0, "name"); }',
        "passes loop to kthread_create_on_node"),
    "an argument of a function that is called by its address": (
        'void run(struct object *o) { o->work("text"); }', 'passes the string "text" to a function by its address'),
    "the last call, which is a jump": ("void run(struct object *o) { keep(handler); }", "passes handler to keep"),
    "an argument on the stack": (
        "void run(long a) { keep(0, a, a, a, a, a, handler, a); }", "passes handler to keep"),
    "a structure on the stack": (
        "void run(void) { struct object o = { .work = handler }; keep(&o); }", "passes handler to keep"),
    "what a function of the livepatch returns": (
        ('NEW const char *word(long n) { return n > 3 ? "many" : "few"; }\n'
         "void run(struct object *o) { o->name = word(o->count); }"),
        'stores the string "few" in memory of the kernel'),
    "what a function of the livepatch gets": (
        "NEW void set(struct object *o, void *w) { o->work = w; }\nvoid run(struct object *o) { set(o, handler); }",
        "stores handler in memory of the kernel"),
    "a result for the kernel": ('const char *run(void) { return "text"; }', 'returns the string "text" to the kernel'),
    "a pointer out of a table of the livepatch": (
        ('static const char *volatile words[] = { "one", "two" };\n'
         "void run(struct object *o) { o->name = words[o->count]; }"),
        'stores the string "one" in memory of the kernel'),
    "a pointer that was put into a variable of the livepatch": (
        "static void *volatile put;\nvoid run(struct object *o) { put = handler; keep(put); }",
        "passes handler to keep"),
    "a copy of a variable with pointers": (
        ('static struct object first = { .name = "name", .work = handler };\n'
         "void run(struct object *o) { first.count++; memcpy(o, &first, o->count); }"),
        "passes handler to memcpy"),
    "a place in a literal": (
        "void run(struct object *o, int c) { o->name = strchr(\"a=b\", c); }",
        'stores the string "a=b" in memory of the kernel'),
    "an address through a loop": (
        "void run(struct object *o) { struct object *p = &mine; for (; o; o = o->next) { o->next = p; p = o; } }",
        "stores mine in memory of the kernel"),
    "an exchange": (
        "void run(struct object *o) { __atomic_exchange_n(&o->work, handler, 0); }",
        "stores handler in memory of the kernel"),
    "an exchange after a comparison": (
        "void run(struct object *o) { __sync_bool_compare_and_swap(&o->work, (void *)0, handler); }",
        "stores handler in memory of the kernel"),
    "a structure that is copied from the stack": (
        ("struct large { long a[40]; };\n"
         "void run(struct large *l) { struct large s = {}; s.a[33] = (long)handler; *l = s; }"),
        "stores handler in memory of the kernel"),
    "a variable with the address of a function": (
        "static struct object timer = { .work = handler };\nvoid run(void) { keep(&timer); }", "passes timer to keep"),
}  # fmt: skip
KEPT = {
    "texts of messages": 'void run(void *f) { _printk("a %s", "b"); seq_printf(f, "%s %d", __func__, 3); }',
    "a text that is compared": 'int run(const char *t) { return strcmp(t, "word"); }',
    "the code itself": "extern void wait(void);\nvoid run(long n) { here: wait(); if (n--) goto here; }",
    "a count": "static long count;\nlong run(void) { return ++count; }",
    "a lock": "static long lock[4];\nvoid run(void) { mutex_lock(lock); }",
    "a table": "static const long table[] = { 3, 5, 8 };\nlong run(long n) { return table[n & 1] + table[2]; }",
    "what the livepatch calls": "void run(struct object *o) { handler(o); }",
    "what the livepatch calls by its address": (
        "static void (*volatile call)(void *) = handler;\nvoid run(struct object *o) { call(o); }"),
    "a comparison with an address": "int run(struct object *o) { return o->work == handler; }",
    "a text that a function of the livepatch chooses": (
        'NEW const char *word(long n) { return n > 3 ? "many" : "few"; }\nvoid run(long n) { _printk(word(n)); }'),
    "a name of a thread": (
        "extern int known_loop(void *);\nvoid run(void) { kthread_create_on_node(known_loop, 0, 0, \"name\"); }"),
    "a pointer in a variable of the livepatch": "static void *volatile put;\nvoid run(void) { put = handler; }",
    "a structure on the stack that nobody else sees": (
        "void run(void) { volatile struct object o = { .work = handler }; o.work(0); }"),
    "a switch": (
        "long run(long n) { switch (n) { case 1: return 7; case 2: return 3; case 3: return 90; case 4: return 11;"
        " case 5: return 8; case 6: return 100; } return 0; }"),
}  # fmt: skip
KNOWN = {"take": Prototype(1, returns_pointer=False), "nothing": Prototype(1, returns_pointer=False)}
FLAGS = (
    "-O2", "-c", "-fno-pic", "-mcmodel=kernel", "-mno-red-zone", "-ffunction-sections", "-fdata-sections",
    "-fno-stack-protector", "-fno-builtin", "-fno-asynchronous-unwind-tables", "-w", "-mno-sse",
)  # fmt: skip


def image(directory: Path, code: str, *flags: str) -> Image:
    """Compile code as the kernel is, and disassemble it as the check does."""
    source, made = directory / "a.c", directory / "a.o"
    source.write_text(BEGINNING + code)
    run(["gcc", *FLAGS, *flags, "-o", made, source]).check("Compiling")
    listing = run(["objdump", "-dlw", "--no-show-raw-insn", made]).check("Disassembling").text
    return Image(ElfFile(made), tuple(read_listing(listing)), {})


def escapes(directory: Path, code: str, *flags: str) -> tuple[Escape, ...]:
    def prototype(outside: Outside) -> Prototype | None:
        return KNOWN.get(outside.name)

    return find_escapes(image(directory, code, *flags), prototype, "vmlinux")


@pytest.mark.parametrize("flags", [(), ("-O1", "-fno-omit-frame-pointer", "-fcf-protection=branch"), ("-g", "-Os")])
@pytest.mark.parametrize("kind", HANDED_OUT)
def test_an_address_that_is_handed_out_is_found(tmp_path: Path, kind: str, flags: tuple[str, ...]) -> None:
    code, said = HANDED_OUT[kind]
    found = escapes(tmp_path, code, *flags)
    assert said in [one.how for one in found]


@pytest.mark.parametrize("flags", [(), ("-O1", "-fno-omit-frame-pointer"), ("-Os",)])
@pytest.mark.parametrize("kind", KEPT)
def test_an_address_that_the_livepatch_only_uses_is_none(tmp_path: Path, kind: str, flags: tuple[str, ...]) -> None:
    assert escapes(tmp_path, KEPT[kind], *flags) == ()


def test_the_line_is_that_of_the_c_file(tmp_path: Path) -> None:
    (found,) = escapes(tmp_path, "\nvoid run(struct object *o)\n{\n	o->count++;\n	o->work = handler;\n}\n", "-g")
    line = (BEGINNING + "\nvoid run(struct object *o)\n{\n	o->count++;\n	o->work").count("\n") + 1
    assert found.line.endswith(f"a.c:{line}")
    assert (found.function, found.what.what) == ("run", "function")


def test_a_function_that_nobody_calls_and_nobody_gets_counts_for_nothing(tmp_path: Path) -> None:
    assert escapes(tmp_path, "NEW void unused(void) { keep(handler); }\nvoid run(void) { }") == ()


def test_a_function_that_is_handed_out_is_followed_too(tmp_path: Path) -> None:
    code = "NEW void again(void *o) { keep(&mine); }\nvoid run(struct object *o) { o->work = again; }"
    assert [one.how for one in escapes(tmp_path, code)] == [
        "passes mine to keep", "stores again in memory of the kernel",
    ]  # fmt: skip


CALLBACKS = """
#define IN(section_name) __attribute__((section(".kpatch.callbacks." section_name), used))
#define CALLBACK(when, name) static void *pointer_##name IN(when) = name
NEW void arm(void *o) { known.work = handler; }
NEW void disarm(void *o) { known.work = 0; }
void run(void) { }
CALLBACK("post_patch", arm);
"""


def test_a_callback_that_hands_out_is_found_unless_another_takes_back_when_it_is_disabled(tmp_path: Path) -> None:
    assert [one.how for one in escapes(tmp_path, CALLBACKS)] == ["stores handler in memory of the kernel"]
    assert escapes(tmp_path, f'{CALLBACKS}CALLBACK("pre_unpatch", disarm);') == ()


def test_only_as_many_arguments_count_as_a_function_has_and_only_pointers_are_results(tmp_path: Path) -> None:
    code = "extern void take();\nvoid run(struct object *o) { take(o, handler); }"
    assert escapes(tmp_path, code) == ()
    assert escapes(tmp_path, code.replace("take(o, handler)", "take(handler)"))
    assert escapes(tmp_path, 'const char *nothing(void) { return "text"; }') == ()


def test_code_that_is_not_found_counts_as_handing_out(tmp_path: Path) -> None:
    made = image(tmp_path, "void run(void) { }")
    odd = replace(made, instructions=tuple(one._replace(section="odd") for one in made.instructions))
    (found,) = find_escapes(odd, lambda _: None, "vmlinux")
    assert found.how == "is too large to be followed, and may hand out addresses"


BRANCH = """
static inline __attribute__((always_inline)) int enabled(void)
{
	asm goto("1: .byte 0x0f, 0x1f, 0x44, 0, 0\\n.pushsection __jump_table, \\"aw\\"\\n.long 1b - ., %l[yes] - .\\n"
		".quad 0\\n.popsection" : : : : yes);
	return 0;
yes:
	return 1;
}
void run(struct object *o) { if (enabled()) o->work = handler; }
"""


def test_code_behind_a_static_key_is_followed(tmp_path: Path) -> None:
    assert [one.how for one in escapes(tmp_path, BRANCH)] == ["stores handler in memory of the kernel"]


FAULT = """
void run(struct object *o)
{
	const char *text = "fault";
	asm volatile goto("1: mov (%0), %%eax\\n.pushsection __ex_table, \\"a\\"\\n"
		".long 1b - ., %l[failed] - ., 0\\n.popsection" : : "r" (o) : "eax" : failed);
	return;
failed:
	o->name = text;
}
"""


def test_code_behind_an_exception_is_followed(tmp_path: Path) -> None:
    assert [one.how for one in escapes(tmp_path, FAULT)] == ['stores the string "fault" in memory of the kernel']


def test_a_pointer_that_a_loop_moves_through_the_stack_ends_the_search() -> None:
    """Each turn would add a place: the search in tcp_in_window() took minutes before it was given up."""
    known = State(("text", 0), registers={"rax": frozenset(Spot(8 * turn) for turn in range(64))})
    more = State(("text", 0), registers={"rax": frozenset((Spot(8 * 64),))})
    with pytest.raises(TooLarge):
        known.add(more)
