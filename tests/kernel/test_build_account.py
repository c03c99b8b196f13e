# SPDX-License-Identifier: GPL-2.0-or-later
"""Changes that the tools do not see become part of the livepatch, or are refused: on real kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from compiled import SIZES, compiled, needs_gcc
from edits import Edit, after, before, patch_of

from elivepatch.build.account.account import take_account
from elivepatch.build.account.original import write_original
from elivepatch.build.account.settlement import Carried, settle
from elivepatch.build.base.store import Base
from elivepatch.build.objects.diff import DiffTool
from elivepatch.kernel.elf import ElfFile
from elivepatch.model.build import BuildOutcome
from elivepatch.service.jobs.local_backend import LocalBackend

pytestmark = pytest.mark.kernel

SWITCH = Edit("kernel/reboot.c", "		val = BOOT_ACPI_STR;\n", '		val = "acpi-livepatched";\n')
UNLIKELY = Edit("kernel/acct.c", 'pr_info("Process accounting paused\\n");', 'pr_info("Accounting has paused\\n");')
WARNING = Edit("kernel/reboot.c", "	WARN_ON(err);\n", "	WARN_ON_ONCE(err);\n")
STATIC_KEY = Edit("net/ipv4/tcp.c", "	if (!static_branch_unlikely(&tcp_tx_delay_enabled)) {",
                  "	if (!static_branch_unlikely(&memalloc_socks_key)) {")  # fmt: skip
FEATURE = Edit("arch/x86/kernel/ldt.c", "		if (static_cpu_has(X86_FEATURE_PTI)) {",
               "		if (static_cpu_has(X86_FEATURE_UMIP)) {")  # fmt: skip
NEW_TEXT = before("fs/aio.c", '	pr_debug("attempting mmap of %lu bytes\\n", ctx->mmap_size);\n',
                  '	pr_debug("a new text %lu\\n", ctx->mmap_size);\n')  # fmt: skip
VERSION = "fs/proc/version.c"
extended = pytest.mark.extended


def replaced(outcome: BuildOutcome) -> set[str]:
    assert outcome.problem is None, f"{outcome.problem.code}: {outcome.problem.message}\n{outcome.problem.excerpt}"
    return {function.name for function in outcome.functions}


def test_a_table_of_a_switch_an_unlikely_part_and_the_flags_of_a_warning_are_carried(base: Base, build: Any) -> None:
    """The text of these functions is the same, byte for byte, with and without the series."""
    outcome = build(base, patch_of(base.tree, SWITCH, UNLIKELY, WARNING))
    # gcc 14 inlines the last one into another as well.
    assert replaced(outcome) - {"devm_unregister_sys_off_handler"} == {
        "type_show", "check_free_space", "unregister_sys_off_handler",
    }  # fmt: skip
    module = Path(outcome.module).read_bytes()
    assert b"acpi-livepatched\0" in module
    assert b"Accounting has paused" in module
    symbols = {symbol.name.partition(".")[0] for symbol in ElfFile(outcome.module).symbols if symbol.defined}
    assert {"CSWTCH", "check_free_space", "type_show"} <= symbols
    assert {one.rule for one in outcome.explained} <= {"strings", "number-in-name", "line-number"}


@extended
@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
@pytest.mark.parametrize(
    ("edit", "functions"),
    [
        pytest.param(STATIC_KEY, {"do_tcp_setsockopt"}, id="another static key"),
        pytest.param(FEATURE, {"load_mm_ldt"}, id="another feature of the processor"),
    ],
)
def test_what_the_kernel_writes_into_its_code_is_carried(
    request: pytest.FixtureRequest, build: Any, kernel: str, edit: Edit, functions: set[str]
) -> None:
    base = request.getfixturevalue(f"base_{kernel.replace('.', '_')}")
    assert replaced(build(base, patch_of(base.tree, edit), check_only=True)) >= functions


@extended
def test_a_constant_with_a_new_number_alone_replaces_nothing(base_6_1: Base, base_6_12: Base, build: Any) -> None:
    """io_submit_one uses a constant whose number follows those of the strings."""
    for base in (base_6_1, base_6_12):
        assert replaced(build(base, patch_of(base.tree, NEW_TEXT), check_only=True)) == {"ioctx_alloc"}


@extended
def test_an_object_does_not_differ_from_itself(base: Base) -> None:
    compared = 0
    for path in sorted((base.directory / "originals").glob("*/sectioned.o")):
        account = take_account(path, path, base.struct_sizes)
        assert account.empty, path
        assert (account.removed, account.renamed, account.lines) == ([], [], []), path
        compared += 1
    assert compared


PART = """
extern int slow(int), quick(int);
static int __attribute__((noipa)) body(int x) __asm__("foo.part.0");
static int body(int x) { return slow(x) * 3; }
int foo(int x) { return x ? body(x) : quick(x); }
int bar(int x) { return x > 2 ? body(x) + quick(x) : 1; }
int other(int x) { return quick(x); }
"""
JUMPS = """
extern int a(int), b(int), c(int), d(int), e(int);
int choose(int x)
{
	switch (x) {
	case 0: return a(x); case 1: return b(x) + 1; case 2: return c(x) * 2; case 3: return d(x) - 3; case 4: return e(x);
	}
	return 0;
}
int other(int x) { return a(x); }
"""
TABLE = """
static const short values[] = { 3, 1, 4, 1, 5 };
extern int quick(int);
int first(int x) { return values[x] + 1; }
int second(int x) { return values[x] + quick(x); }
int other(int x) { return quick(x); }
"""
UNSEEN = {
    "a part that the compiler cut out": (PART, [("* 3", "* 5")], {"foo", "bar"}),
    "a jump table": (JUMPS, [("case 3: return d(x) - 3; case 4", "case 4: return d(x) - 3; case 3")], {"choose"}),
    "a constant table of two functions, one of which changes": (
        TABLE, [("4, 1, 5", "4, 1, 6"), ("+ 1", "+ 2")], {"first", "second"},
    ),
}  # fmt: skip


@needs_gcc
@pytest.mark.parametrize("kind", UNSEEN)
def test_the_tool_replaces_what_the_account_finds(backend: LocalBackend, reachable_path: Path, kind: str) -> None:
    """create-diff-object alone finds no function, or not all, in these objects."""
    text, edits, expected = UNSEEN[kind]
    changed = text
    for old, new in edits:
        assert changed.count(old) == 1
        changed = changed.replace(old, new)
    flags = ("-pg", "-mfentry", "-fjump-tables")
    one = compiled(reachable_path / "before.o", text, *flags)
    other = compiled(reachable_path / "after.o", changed, *flags)
    account = take_account(one, other, SIZES)
    kinds, binds = ("NOTYPE", "OBJECT", "FUNC", "SECTION", "FILE"), ("LOCAL", "GLOBAL")
    table = "".join(
        f"{one.number}: {one.value:016x} {one.size} {kinds[one.kind]} {binds[one.bind]} DEFAULT "
        f"{one.section if one.defined else 'ABS' if one.section else 'UND'} {one.name}\n"
        for one in account.before.elf.symbols[1:]
    )
    symvers = reachable_path / "Module.symvers"
    symvers.write_text("")
    sandbox = backend.toolchains.sandbox(backend.toolchains.helper())
    difference = DiffTool(sandbox=sandbox, struct_sizes=SIZES).compare(
        original=write_original(account, reachable_path / "original.o"), patched=other, source="a.c",
        parent="vmlinux", table=table.encode(), symvers=symvers,
        name="livepatch_test", work_dir=reachable_path,
    )  # fmt: skip
    assert difference is not None
    assert set(difference.changed) == expected
    carried = Carried(ElfFile(difference.output), frozenset(difference.changed))
    assert {one.rule for one in settle(account, source="a.c", carried=carried)} <= {"strings", "number-in-name"}


REFUSED = {
    "an initialiser that is no longer called": (
        [Edit(VERSION, "fs_initcall(proc_version_init);", "")], "init-", ".initcall5.init",
    ),
    "a parameter of a source that has none": (
        [after("fs/drop_caches.c", "int sysctl_drop_caches;\n",
               "#include <linux/moduleparam.h>\nmodule_param(sysctl_drop_caches, int, 0644);\n")],
        "module-parameter", "adds the module parameter sysctl_drop_caches",
    ),
    "the limits of a rate": (
        [after("drivers/tty/tty_io.c", '#include "tty.h"\n',
               "#undef DEFAULT_RATELIMIT_BURST\n#define DEFAULT_RATELIMIT_BURST 11\n")],
        "data-change", "the initial value of _rs in tty_",
    ),
    "a static variable that grows": (
        [Edit("fs/drop_caches.c", "		static int stfu;\n", "		static long stfu;\n")],
        "static-local", "the size of the static variable stfu in drop_caches_sysctl_handler: 4 to 8 bytes",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("base", "kind"),
    [
        ("6.12", "an initialiser that is no longer called"),
        *[pytest.param("6.1", kind, marks=extended) for kind in REFUSED],
        *[pytest.param("6.12", kind, marks=extended) for kind in list(REFUSED)[1:]],
    ],
    indirect=["base"],
)
def test_what_cannot_be_carried_is_refused_by_name(base: Base, build: Any, kind: str) -> None:
    edits, code, words = REFUSED[kind]
    problem = build(base, patch_of(base.tree, *edits), check_only=True).problem
    assert problem is not None, "this must not pass"
    assert problem.code.startswith(code)
    assert words in problem.message
