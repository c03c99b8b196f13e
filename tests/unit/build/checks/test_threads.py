# SPDX-License-Identifier: GPL-2.0-or-later
"""A kernel thread's main function is found in the linked code of a kernel and of a module."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elivepatch.build.checks.threads import thread_mains
from elivepatch.kernel.elf import ElfFile
from elivepatch.kernel.symbols import LinkedSymbols
from elivepatch.model.errors import EnvironmentFault
from elivepatch.process import run

SOURCE = """
typedef int (*main_fn)(void *);
struct task;
%(creator)s
extern const char name_format[];
struct work { void (*fn)(struct work *); };

__attribute__((noinline)) static int loops(void *data)
{
    while (!kthread_should_stop())
        schedule_timeout(100);
    return 0;
}

__attribute__((noinline)) static int once(void *data) { return other(data); }
__attribute__((noinline)) static int only_called(void *data) { return other(data) + 1; }
__attribute__((noinline)) static int registered(void *data) { schedule(); return other(data) + 2; }
__attribute__((noinline)) static int argument(void *data) { schedule(); return other(data) + 3; }
int global_main(void *data) { for (;;) schedule(); }

int begin(void *data, int node)
{
    kthread_create_on_node(loops, data, node, name_format, node);
    kernel_thread(once, data, 5);
    register_callback(registered);
    kthread_create_on_node(other, argument, node, name_format);
    return only_called(data);
}

struct task *elsewhere(void) { return kthread_create_on_node(global_main, 0, -1, name_format); }
"""
DECLARED = """
struct task *kthread_create_on_node(main_fn fn, void *data, int node, const char *format, ...);
int kernel_thread(main_fn fn, void *data, unsigned long flags);
int kthread_should_stop(void);
long schedule_timeout(long timeout);
void schedule(void);
int other(void *data);
void register_callback(main_fn fn);
"""
DEFINED = (
    DECLARED
    + """
#define N __attribute__((noinline, noipa))
N struct task *kthread_create_on_node(main_fn fn, void *data, int node, const char *format, ...) { return data; }
N int kernel_thread(main_fn fn, void *data, unsigned long flags) { return flags; }
N int kthread_should_stop(void) { return 0; }
N long schedule_timeout(long timeout) { return timeout; }
N void schedule(void) { }
N int other(void *data) { return data != 0; }
N void register_callback(main_fn fn) { }
const char name_format[] = "thread/%d";
"""
)
FLAGS = ["-O2", "-mcmodel=kernel", "-fno-pic", "-fno-pie", "-ffreestanding", "-fno-asynchronous-unwind-tables",
         "-fno-stack-protector", "-fcf-protection=none", "-w", "-fno-ipa-ra", "-fno-ipa-icf"]  # fmt: skip


def compiled(top: Path, kind: str) -> LinkedSymbols:
    source, output = top / "threads.c", top / "threads.o"
    source.write_text(SOURCE % {"creator": DECLARED if kind == "module" else DEFINED})
    run(["gcc", *FLAGS, "-c", source, "-o", output]).check("Compiling")
    if kind == "module":
        return LinkedSymbols(ElfFile(output), is_vmlinux=False)
    linked = top / "vmlinux"
    run(["ld", "-Ttext=0xffffffff81000000", "-e", "begin", output, "-o", linked]).check("Linking")
    return LinkedSymbols(ElfFile(linked), is_vmlinux=True)


@pytest.mark.parametrize("kind", ["module", "kernel"])
def test_the_main_functions_are_those_passed_to_the_creation_of_a_thread(tmp_path: Path, kind: str) -> None:
    linked = compiled(tmp_path, kind)
    names = ["loops", "once", "only_called", "registered", "argument", "global_main", "begin", "elsewhere"]
    found = thread_mains(linked, [linked.named[name][0] for name in names])
    assert {main.symbol.name: main.waits for main in found} == {"loops": True, "once": False, "global_main": True}


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return compiled(tmp_path_factory.mktemp("shipped"), "module").elf.path.read_bytes()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 255)), min_size=1, max_size=20))
def test_a_damaged_module_is_read_within_its_bounds(
    shipped: bytes, tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    content = bytearray(shipped)
    for place, value in changes:
        content[place % len(content)] = value
    file = tmp_path_factory.getbasetemp() / "damaged.o"
    file.write_bytes(content)
    with contextlib.suppress(EnvironmentFault):
        linked = LinkedSymbols(ElfFile(file), is_vmlinux=False)
        assert len(list(thread_mains(linked, linked.elf.symbols))) <= len(linked.elf.symbols)
