# SPDX-License-Identifier: GPL-2.0-or-later
"""Every kind of change that can be a livepatch, as a real patch against the real source of real kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from edits import Edit, after, before, patch_of, series_of

from elivepatch.build.base.store import Base
from elivepatch.build.builders.objects import ObjectsBuilder
from elivepatch.kernel.elf import TYPE_FILE, ElfFile
from elivepatch.model.build import BuildOutcome

pytestmark = pytest.mark.kernel

MEMINFO = Edit("fs/proc/meminfo.c", '"VmallocChunk:   "', '"VMALLOCCHUNK:   "')
MEMFREE = Edit("fs/proc/meminfo.c", '"MemFree:        "', '"MEMFREE:        "')
VLAN = Edit("net/8021q/vlanproc.c", '"VLAN Dev name	 | VLAN ID\\n"', '"VLAN device	 | VLAN id\\n"')
VERSION, SHOW, END = "fs/proc/version.c", "static int version_proc_show", "	return 0;\n}\n\nstatic int __init"
POLL = "	poll_wait(file, &ctx->wqh, wait);\n"
VMLINUX_MEMINFO = {("vmlinux", "meminfo_proc_show", "fs/proc/meminfo.c")}
VMLINUX_VERSION = {("vmlinux", "version_proc_show", VERSION)}
VMLINUX_POLL = {("vmlinux", "eventfd_poll", "fs/eventfd.c")}

Functions = set[tuple[str, str, str]]

KINDS: dict[str, tuple[list[Edit], Functions]] = {
    "a function of vmlinux": ([MEMINFO], VMLINUX_MEMINFO),
    "a function of a module": ([VLAN], {("8021q", "vlan_seq_show", "net/8021q/vlanproc.c")}),
    "functions of vmlinux and of a module": (
        [MEMINFO, VLAN],
        VMLINUX_MEMINFO | {("8021q", "vlan_seq_show", "net/8021q/vlanproc.c")},
    ),
    "functions of one name in two files of vmlinux": (
        [after("crypto/proc.c", "	down_read(&crypto_alg_sem);\n", "	cond_resched();\n"),
         after("fs/proc/consoles.c", "	loff_t off = 0;\n\n", "	cond_resched();\n")],
        {("vmlinux", "c_start", "crypto/proc.c"), ("vmlinux", "c_start", "fs/proc/consoles.c")},
    ),
    "a global function that keeps its static variable": (
        [Edit("fs/drop_caches.c", "stfu |= sysctl_drop_caches & 4;", "stfu |= sysctl_drop_caches & 12;")],
        {("vmlinux", "drop_caches_sysctl_handler", "fs/drop_caches.c")},
    ),
    "code that another source includes": (
        [Edit("kernel/sched/rt.c", "		return sched_rr_timeslice;\n	else\n		return 0;",
              "		return sched_rr_timeslice;\n	else\n		return 1;")],
        {("vmlinux", "get_rr_interval_rt", "kernel/sched/build_policy.c")},
    ),
    "a source that make knows by a path with dots": (
        [Edit("virt/kvm/eventfd.c", "	if (events & EPOLLIN)\n		schedule_work",
              "	if (events & (EPOLLIN | EPOLLPRI))\n		schedule_work")],
        {("kvm", "kvm_irqfd", "virt/kvm/eventfd.c")},
    ),
    "a source whose name another source without static symbols has too": (
        [after("net/ipv4/protocol.c",
               "int inet_add_protocol(const struct net_protocol *prot, unsigned char protocol)\n{\n",
               "	cond_resched();\n")],
        {("vmlinux", "inet_add_protocol", "net/ipv4/protocol.c")},
    ),
    "code of the vdso's directory that is part of vmlinux": (
        [after("arch/x86/entry/vdso/vma.c",
               "static int map_vdso(const struct vdso_image *image, unsigned long addr)\n{\n",
               "	cond_resched();\n")],
        {("vmlinux", "map_vdso", "arch/x86/entry/vdso/vma.c")},
    ),
    "lines added above functions that know their line number": (
        [before("fs/eventfd.c", "#include <linux/file.h>\n", "/*\n * three\n * lines\n * more */\n"),
         after("fs/eventfd.c", POLL, "	cond_resched();\n")],
        VMLINUX_POLL,
    ),
    "a new static function": (
        [before(VERSION, SHOW, 'static noinline void extra(struct seq_file *m)\n{\n	seq_puts(m, "patched\\n");\n}\n\n'),
         before(VERSION, END, "	extra(m);\n")],
        VMLINUX_VERSION,
    ),
    "new static data, a lock and a per-cpu counter": (
        [before(VERSION, SHOW, "static int reads;\nstatic DEFINE_MUTEX(reads_lock);\n"
                               "static DEFINE_PER_CPU(int, here);\n"),
         before(VERSION, END, '	mutex_lock(&reads_lock);\n	seq_printf(m, "%d\\n", ++reads);\n'
                              "	mutex_unlock(&reads_lock);\n	this_cpu_inc(here);\n")],
        VMLINUX_VERSION,
    ),
    "a new warning that is given once": (
        [after("fs/eventfd.c", POLL, '	WARN_ON_ONCE(!ctx);\n	pr_warn_once("polled\\n");\n')], VMLINUX_POLL,
    ),
    "a system call": (
        [Edit("fs/eventfd.c", "	return do_eventfd(count, 0);", "	cond_resched();\n	return do_eventfd(count, 0);")],
        {("vmlinux", "__x64_sys_eventfd", "fs/eventfd.c"), ("vmlinux", "__ia32_sys_eventfd", "fs/eventfd.c")},
    ),
}  # fmt: skip


def replaced(outcome: BuildOutcome) -> Functions:
    assert outcome.problem is None, f"{outcome.problem.code}: {outcome.problem.message}\n{outcome.problem.excerpt}"
    return {(function.object, function.name, function.source) for function in outcome.functions}


# On the kernel with IBT, those where padding, sealing or the other compiler could make a difference.
WITH_IBT = (
    "functions of vmlinux and of a module",
    "a global function that keeps its static variable",
    "a source whose name another source without static symbols has too",
    "lines added above functions that know their line number",
    "new static data, a lock and a per-cpu counter",
    "a system call",
)


# The kernel lane has each kind once, preferably on the kernel with IBT.
ONCE = [("6.12" if kind in WITH_IBT else "6.1", kind) for kind in KINDS]
AGAIN = [pytest.param("6.1", kind, marks=pytest.mark.extended) for kind in WITH_IBT]


@pytest.mark.parametrize(("base", "kind"), [*ONCE, *AGAIN], indirect=["base"])
def test_this_can_be_changed_and_nothing_else_is(base: Base, build: Any, kind: str) -> None:
    edits, functions = KINDS[kind]
    outcome = build(base, patch_of(base.tree, *edits))
    assert replaced(outcome) == functions
    assert outcome.module is not None
    module = ElfFile(outcome.module)
    assert module.modinfo["livepatch"] == ["Y"]
    assert module.modinfo["name"] == ["livepatch_test"]
    assert module.modinfo["vermagic"][0].split()[0] == base.release
    assert {"read", "apply", "compile", "escapes", "link", "check"} == outcome.seconds.keys()


def test_two_patches_on_one_file_are_one_change(base_6_1: Base, build: Any) -> None:
    both = [patch_of(base_6_1.tree, edit) for edit in (MEMINFO, MEMFREE)]
    together = build(base_6_1, patch_of(base_6_1.tree, MEMINFO, MEMFREE))
    one_by_one = build(base_6_1, *both)
    assert replaced(one_by_one) == replaced(together) == VMLINUX_MEMINFO
    assert one_by_one.module.read_bytes() == together.module.read_bytes()


def test_a_patch_that_builds_on_the_one_before_applies(base_6_1: Base, build: Any) -> None:
    first = patch_of(base_6_1.tree, MEMINFO)
    second = first.replace('-	show_val_kb(m, "VmallocChunk: ', '-	show_val_kb(m, "VMALLOCCHUNK: ')
    second = second.replace('+	show_val_kb(m, "VMALLOCCHUNK: ', '+	show_val_kb(m, "vmallocchunk: ')
    assert first != second
    assert replaced(build(base_6_1, first, second)) == VMLINUX_MEMINFO


def test_line_ends_of_mail_do_not_matter(base_6_1: Base, build: Any) -> None:
    text = patch_of(base_6_1.tree, MEMINFO)
    plain, mailed = build(base_6_1, text), build(base_6_1, text.replace("\n", "\r\n"))
    assert replaced(mailed) == VMLINUX_MEMINFO
    assert mailed.module.read_bytes() == plain.module.read_bytes()


def test_two_runs_give_the_same_bytes(base: Base, build: Any) -> None:
    text = patch_of(base.tree, MEMINFO, VLAN)
    one, other = build(base, text), build(base, text)
    assert replaced(one) == replaced(other)
    assert one.module != other.module
    assert one.module.read_bytes() == other.module.read_bytes()


def test_two_names_give_two_modules(base_6_1: Base, build: Any) -> None:
    text = patch_of(base_6_1.tree, MEMINFO)
    one, other = build(base_6_1, text, name="livepatch_a"), build(base_6_1, text, name="livepatch_b")
    assert ElfFile(other.module).modinfo["name"] == ["livepatch_b"]
    assert one.module.read_bytes() != other.module.read_bytes()


def test_a_check_tells_the_functions_and_makes_no_module(base: Base, build: Any) -> None:
    text = patch_of(base.tree, MEMINFO, VLAN)
    checked, built = build(base, text, check_only=True), build(base, text)
    assert (checked.module, checked.livepatch) == (None, None)
    assert set(checked.functions) == set(built.functions)


def test_one_of_several_functions_of_a_name_is_the_one_of_the_patched_file(base: Base, build: Any) -> None:
    """crypto/proc.c and two others have a c_start; the kernel counts them by address."""
    outcome = build(
        base, patch_of(base.tree, after("crypto/proc.c", "	down_read(&crypto_alg_sem);\n", "	cond_resched();\n"))
    )
    assert replaced(outcome) == {("vmlinux", "c_start", "crypto/proc.c")}
    symbols = base.vmlinux.elf.symbols
    addresses = sorted(symbol.value for symbol in symbols if symbol.name == "c_start" and symbol.defined)
    files = [symbol.number for symbol in symbols if symbol.kind == TYPE_FILE and symbol.name == "proc.c"]
    ours = {
        symbol.value for symbol in symbols for start in files
        if symbol.name == "c_start" and start < symbol.number < start + 60
    }  # fmt: skip
    position = outcome.functions[0].sympos
    assert len(addresses) >= 3
    assert addresses[position - 1] in ours


def test_a_change_of_a_header_reaches_vmlinux_and_modules(base: Base, build: Any) -> None:
    lines = before("net/8021q/vlan.h", "static inline netdev_features_t vlan_tnl_features(", "/* one\n * two */\n")
    inline = after("net/8021q/vlan.h", "	/* paired with smp_wmb() in vlan_group_prealloc_vid() */\n", "	mb();\n")
    outcome = build(base, patch_of(base.tree, lines, inline))
    assert {object_name for object_name, _name, _source in replaced(outcome)} == {"vmlinux", "8021q"}
    assert ("vmlinux", "vlan_do_receive", "net/8021q/vlan_core.c") in replaced(outcome)


def test_an_object_that_reads_nothing_of_what_changed_in_a_header_is_left_alone(base_6_1: Base, build: Any) -> None:
    """Many sources include that header, one uses the macro."""
    macro = Edit("net/8021q/vlan.h", "for ((i) = 0; i < VLAN_PROTO", "for ((i) = 1; i < VLAN_PROTO")
    outcome = build(base_6_1, patch_of(base_6_1.tree, macro))
    assert {source for _object, _name, source in replaced(outcome)} == {"net/8021q/vlan.c"}
    compared = list(outcome.module.parent.glob("object-*"))
    assert len(compared) <= 2, "the others were compiled for nothing"
    assert len(list((base_6_1.directory / "originals").glob("*/text"))) >= 5


def test_of_a_header_that_thousands_include_those_that_name_what_changes_are_rebuilt(
    base_6_1: Base, build: Any
) -> None:
    """file_start_write_trylock() is inlined in kernel/acct.c alone."""
    inline = before("include/linux/fs.h", "	return sb_start_write_trylock(file_inode(file)->i_sb);", "	mb();\n")
    outcome = build(base_6_1, patch_of(base_6_1.tree, inline))
    assert {source for _object, _name, source in replaced(outcome)} == {"kernel/acct.c"}
    (told,) = [note.message for note in outcome.notes if note.code == "by-name"]
    assert "file_start_write_trylock, which these use: kernel/acct.c." in told


def test_of_a_header_that_thousands_include_a_declaration_reaches_them_all(base_6_1: Base, build: Any) -> None:
    declaration = before(
        "include/linux/fs.h", "static inline bool fsuidgid_has_mapping(", "extern int nobody_defines_this;\n"
    )
    problem = build(base_6_1, patch_of(base_6_1.tree, declaration)).problem
    assert problem is not None
    assert problem.code == "header"


def new_file(path: str, *lines: str) -> str:
    text = "".join(f"+{line}\n" for line in lines)
    return f"--- /dev/null\n+++ b/{path}\n@@ -0,0 +1,{len(lines)} @@\n{text}"


EXTRA = ["#include <linux/seq_file.h>", "void proc_extra(struct seq_file *m);", "void proc_extra(struct seq_file *m)",
         "{", '	seq_puts(m, "extra\\n");', "}"]  # fmt: skip
CALL = [before(VERSION, SHOW, "void proc_extra(struct seq_file *m);\n\n"), before(VERSION, END, "	proc_extra(m);\n")]


def test_a_new_source_that_a_makefile_lists_becomes_part_of_the_livepatch(base: Base, build: Any) -> None:
    listed = before("fs/proc/Makefile", "proc-y	+= version.o\n", "proc-y	+= extra.o\n")
    outcome = build(base, new_file("fs/proc/extra.c", *EXTRA) + patch_of(base.tree, listed, *CALL))
    assert replaced(outcome) == VMLINUX_VERSION
    assert [note.code for note in outcome.notes] == ["new-object"]
    assert "proc_extra" in {symbol.name for symbol in ElfFile(outcome.module).symbols if symbol.defined}


def test_a_new_source_that_another_one_includes_becomes_part_of_that(base_6_1: Base, build: Any) -> None:
    include = before(VERSION, SHOW, '#include "extra.c"\n\n')
    outcome = build(base_6_1, new_file("fs/proc/extra.c", *EXTRA) + patch_of(base_6_1.tree, include, CALL[1]))
    assert replaced(outcome) == VMLINUX_VERSION


def test_a_new_source_with_code_that_runs_at_boot_is_refused(base_6_1: Base, build: Any) -> None:
    lines = [*EXTRA, "#include <linux/init.h>", "static int __init extra_init(void) { return 0; }",
             "fs_initcall(extra_init);"]  # fmt: skip
    listed = before("fs/proc/Makefile", "proc-y	+= version.o\n", "proc-y	+= extra.o\n")
    outcome = build(base_6_1, new_file("fs/proc/extra.c", *lines) + patch_of(base_6_1.tree, listed, *CALL))
    assert outcome.problem.code == "init-code"


@pytest.mark.parametrize(
    ("edit", "function"),
    [
        (before("fs/select.c", "	if (!user_write_access_begin(ufds,", "	cond_resched();\n"), "do_sys_poll"),
        (after("fs/dcache.c", "	struct hlist_bl_head *b = d_hash(hash);\n", "	mb();\n"), "__d_lookup"),
    ],
)
def test_code_that_uses_what_the_kernel_writes_into_itself_at_boot(
    base_6_12: Base, build: Any, edit: Edit, function: str
) -> None:
    outcome = build(base_6_12, patch_of(base_6_12.tree, edit))
    assert function in {name for _object, name, _source in replaced(outcome)}
    assert not [section.name for section in ElfFile(outcome.module).sections if "runtime_" in section.name]


def test_what_is_not_built_here_is_left_out_with_a_note(base_6_1: Base, build: Any) -> None:
    foreign = before("arch/arm64/kernel/process.c", "#include <linux/compat.h>\n", "/* a line */\n")
    outcome = build(base_6_1, patch_of(base_6_1.tree, MEMINFO, foreign))
    assert replaced(outcome) == VMLINUX_MEMINFO
    assert [(note.code, "arch/arm64/kernel/process.c" in note.message) for note in outcome.notes] == [
        ("not-kernel", True)
    ]


MACROS = before(VERSION, SHOW, '#include "kpatch-macros.h"\n')


def test_a_series_that_overrides_a_rule_is_built_with_a_note(base_6_1: Base, build: Any) -> None:
    text = patch_of(
        base_6_1.tree, MACROS, before(VERSION, SHOW, 'KPATCH_IGNORE_SECTION(".init.text");\n'),
        Edit(VERSION, 'proc_create_single("version", 0,', 'proc_create_single("version", 0444,'),
        before(VERSION, END, '	seq_puts(m, "patched\\n");\n'),
    )  # fmt: skip
    outcome = build(base_6_1, text)
    assert replaced(outcome) == VMLINUX_VERSION
    (note,) = outcome.notes
    assert note.code == "override"
    assert "KPATCH_IGNORE_SECTION(.init.text)" in note.message
    assert VERSION in note.message


def test_a_series_that_leaves_its_own_change_out_is_told(base_6_1: Base, build: Any) -> None:
    ignoring = before(VERSION, "fs_initcall(", "KPATCH_IGNORE_FUNCTION(version_proc_show);\n")
    change = before(VERSION, END, '	seq_puts(m, "patched\\n");\n')
    problem = build(base_6_1, patch_of(base_6_1.tree, MACROS, ignoring, change)).problem
    assert problem is not None
    assert problem.code == "no-change"
    assert "KPATCH_IGNORE_FUNCTION(version_proc_show)" in problem.message


def test_a_symbol_of_a_namespace_can_be_used_as_the_refusal_says(base_6_1: Base, build: Any) -> None:
    include = before(VERSION, SHOW, "#include <linux/dma-buf.h>\n#include <linux/module.h>\n")
    use = before(VERSION, END, "	dma_buf_put(NULL);\n")
    problem = build(base_6_1, patch_of(base_6_1.tree, include, use)).problem
    assert problem is not None
    assert problem.code == "undefined-symbol"
    assert "dma_buf_put of the namespace DMA_BUF" in problem.message
    advised = problem.excerpt.splitlines()[0]  # and then the lines concerned
    line = advised.removeprefix("Add ").removesuffix(" to the patched file.")
    outcome = build(base_6_1, patch_of(base_6_1.tree, include, before(VERSION, SHOW, f"{line}\n"), use))
    assert replaced(outcome) == VMLINUX_VERSION
    assert ElfFile(outcome.module).modinfo["import_ns"] == ["DMA_BUF"]


def test_a_series_may_bring_callbacks(base: Base, build: Any) -> None:
    callback = "static int first(struct klp_object *object)\n{\n	return 0;\n}\nKPATCH_PRE_PATCH_CALLBACK(first);\n"
    change = before(VERSION, END, '	seq_puts(m, "patched\\n");\n')
    outcome = build(base, patch_of(base.tree, MACROS, before(VERSION, SHOW, callback), change))
    assert replaced(outcome) == VMLINUX_VERSION
    assert [note.code for note in outcome.notes] == ["callbacks"]


def test_what_the_tools_printed_is_kept(base_6_1: Base, backend: Any, reachable_path: Path) -> None:
    log, events = reachable_path / "log", []
    builder = ObjectsBuilder(
        base=base_6_1,
        toolchains=backend.toolchains,
        jobs=2,
        log=log,
        progress=lambda event: events.append(event.stage),
    )
    series = series_of(patch_of(base_6_1.tree, MEMINFO))
    (reachable_path / "work").mkdir()
    assert builder.build(series, name="livepatch_test", work_dir=reachable_path / "work").problem is None
    said = log.read_text()
    assert "create-diff-object" in said
    assert "create-klp-module" in said
    assert "[status 0," in said
    assert events == ["read", "apply", "compile", "escapes", "link", "check"]
