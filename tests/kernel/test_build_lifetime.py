# SPDX-License-Identifier: GPL-2.0-or-later
"""New code that refers to what will not be there is refused by the check, and what outlives it keeps it in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from edits import Edit, before, patch_of, series_of

from elivepatch.build.base.store import Base
from elivepatch.build.builders.common import BuildContext
from elivepatch.build.builders.select import build_with_selected
from elivepatch.kernel.elf import ElfFile
from elivepatch.kernel.permanence import stays_loaded
from elivepatch.model.build import BuildRequest
from elivepatch.model.trial import Expectation
from elivepatch.service.jobs.local_backend import LocalBackend
from elivepatch.service.jobs.trials.guest_kernel import guest_kernel
from elivepatch.settings import ServerSettings
from elivepatch.trial.run import run_trial

pytestmark = pytest.mark.kernel

VERSION, SHOW, END = "fs/proc/version.c", "static int version_proc_show", "	return 0;\n}\n\nstatic int __init"
VLAN, VLAN_TOP = "net/8021q/vlanproc.c", "static const char *const vlan_name_type_str"
VLAN_HEAD = '		seq_puts(seq, "VLAN Dev name'


def in_version(declared: str, used: str) -> list[Edit]:
    """Use something that is declared in the function that shows the kernel's version."""
    return [before(VERSION, SHOW, declared), before(VERSION, END, f"	{used}\n")]


def in_vlan(declared: str, used: str) -> list[Edit]:
    """Use something that is declared in a function of the module 8021q."""
    return [before(VLAN, VLAN_TOP, declared), before(VLAN, VLAN_HEAD, f"		if (!jiffies)\n			{used}\n")]


REFUSED: dict[str, tuple[list[Edit], str, str]] = {
    "start-up data of the kernel": (
        in_version("extern char boot_command_line[];\n", "seq_puts(m, boot_command_line);"),
        "freed-memory", "version_proc_show uses boot_command_line of .init.data",
    ),
    "start-up code of the kernel": (
        in_version("static int proc_version_init(void);\n", "if (!jiffies)\n		proc_version_init();"),
        "freed-memory", "version_proc_show uses proc_version_init of .init.text",
    ),
    "new start-up code": (
        in_version("static noinline void __init once(struct seq_file *m)\n{\n	seq_puts(m, \"x\");\n}\n\n",
                   "once(m);"),
        "freed-memory", "version_proc_show uses once of .init.text, which is freed after the livepatch is loaded",
    ),
    "new start-up data": (
        in_version('static const char words[] __initconst = "hello";\n\n', "seq_puts(m, words);"),
        "freed-memory", "version_proc_show uses words of .init.rodata",
    ),
    "start-up code of a module": (
        in_vlan("extern int vlan_proc_init(struct net *net);\nextern int vlan_gvrp_init(void);\n", "init_module();"),
        "freed-memory", "vlan_seq_show uses init_module of .init.text",
    ),
    "a module's symbol in the kernel's own code": (
        in_version("extern int garp_request_join(void *a, void *b, const void *c, u8 d, u8 e);\n",
                   "if (!jiffies)\n		garp_request_join(NULL, NULL, NULL, 0, 0);"),
        "module-symbol", "version_proc_show is the kernel's own code and uses garp_request_join of the module garp",
    ),
    "a symbol of a module that this module does not need": (
        in_vlan("extern void nf_ct_delete(void *ct);\n", "nf_ct_delete(NULL);"),
        "module-symbol", "nf_ct_delete of the module nf_conntrack, which 8021q does not depend on",
    ),
}  # fmt: skip
IN_SHORT = ("start-up data of the kernel", "new start-up code", "a module's symbol in the kernel's own code")


@pytest.mark.parametrize(
    "kind", [pytest.param(name, marks=() if name in IN_SHORT else pytest.mark.extended) for name in REFUSED]
)
def test_a_reference_to_what_is_freed_or_may_be_absent_is_refused_by_the_check(
    base: Base, build: Any, kind: str
) -> None:
    edits, code, message = REFUSED[kind]
    found = build(base, patch_of(base.tree, *edits), check_only=True)
    assert found.problem is not None
    assert (found.problem.code, message in found.problem.message) == (code, True), found.problem.message
    assert "Lines concerned:" in found.problem.excerpt


@pytest.mark.extended
def test_a_module_may_use_a_module_that_it_depends_on(base: Base, build: Any) -> None:
    edits = in_vlan("extern int garp_request_join(void *a, void *b, const void *c, u8 d, u8 e);\n",
                    "garp_request_join(NULL, NULL, NULL, 0, 0);")  # fmt: skip
    assert build(base, patch_of(base.tree, *edits)).problem is None


@pytest.mark.extended
def test_the_kernel_may_look_a_modules_symbol_up_while_it_runs(base: Base, build: Any) -> None:
    declared = "#include <linux/module.h>\nextern int garp_init_applicant(void *dev, void *app);\n\n"
    used = "if (symbol_get(garp_init_applicant))\n		symbol_put(garp_init_applicant);"
    assert build(base, patch_of(base.tree, *in_version(declared, used))).problem is None


DUE = 'static void due(struct work_struct *unused)\n{\n	pr_info("elivepatch: the work was done\\n");\n}\n\n'
WORK = in_version(f"#include <linux/workqueue.h>\n{DUE}static DECLARE_DELAYED_WORK(later, due);\n\n",
                  'schedule_delayed_work(&later, 4 * HZ);\n	seq_puts(m, "armed\\n");')  # fmt: skip
HANDED_OUT: dict[str, tuple[list[Edit], str]] = {
    "a work item": (WORK, "version_proc_show passes later to queue_delayed_work_on (fs/proc/version.c:"),
    "a timer": (
        in_version("static void due(struct timer_list *unused)\n{\n}\nstatic DEFINE_TIMER(later, due);\n\n",
                   "mod_timer(&later, jiffies + 40 * HZ);"),
        "passes later to mod_timer",
    ),
    "a notifier": (
        in_version("#include <linux/reboot.h>\nstatic int heard(struct notifier_block *a, unsigned long b, void *c)\n"
                   "{\n	return 0;\n}\nstatic struct notifier_block listener = { .notifier_call = heard };\n\n",
                   "register_reboot_notifier(&listener);"),
        "passes listener to register_reboot_notifier",
    ),
    "an RCU callback": (
        in_version("#include <linux/slab.h>\nstatic void freed(struct rcu_head *head)\n{\n	kfree(head);\n}\n\n",
                   "struct rcu_head *head = kmalloc(sizeof(*head), GFP_KERNEL);\n\n	if (head)\n"
                   "		call_rcu(head, freed);"),
        "passes freed to call_rcu",
    ),
    "a kernel thread": (
        in_version("#include <linux/kthread.h>\nstatic int loop(void *unused)\n{\n	return 0;\n}\n\n",
                   'kthread_run(loop, NULL, "loop");'),
        "passes loop to kthread_create_on_node",
    ),
    "a literal": (
        in_version("", 'm->private = "handed out";'), 'stores the string "handed out" in memory of the kernel',
    ),
    "a static variable": (
        in_version("static int reads;\n\n", "reads++;\n	m->private = &reads;"), "stores reads in memory of the kernel",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "kind", [pytest.param(name, marks=() if name == "a literal" else pytest.mark.extended) for name in HANDED_OUT]
)
def test_what_new_code_hands_out_is_noted_by_the_check_with_the_line(base: Base, build: Any, kind: str) -> None:
    edits, said = HANDED_OUT[kind]
    found = build(base, patch_of(base.tree, *edits), check_only=True)
    assert found.problem is None
    (note,) = (note.message for note in found.notes if note.code == "outlives")
    assert said in note
    assert "fs/proc/version.c:" in note
    assert note.endswith("stays in memory after it is taken out, until a reboot.")


@pytest.mark.extended
def test_what_new_code_prints_locks_and_counts_keeps_nothing_in_memory(base: Base, build: Any) -> None:
    edits = in_version(
        'static int reads;\nstatic DEFINE_MUTEX(reads_lock);\nstatic const char *word(int n)\n{\n'
        '	return n > 3 ? "many" : "few";\n}\n\n',
        'mutex_lock(&reads_lock);\n	reads++;\n	seq_printf(m, "%s: %d %s\\n", __func__, reads, word(reads));\n'
        '	pr_info_ratelimited("read\\n");\n	WARN_ONCE(reads > 9999, "odd %d\\n", reads);\n'
        '	pr_debug("%s\\n", word(reads));\n	mutex_unlock(&reads_lock);',
    )  # fmt: skip
    found = build(base, patch_of(base.tree, *edits), check_only=True)
    assert (found.problem, [note.code for note in found.notes if note.code == "outlives"]) == (None, [])


def test_a_livepatch_that_hands_out_stays_loaded_and_its_trial_waits_for_what_it_armed(
    base: Base, backend: LocalBackend, settings: ServerSettings, reachable_path: Path, tmp_path: Path
) -> None:
    request = BuildRequest(release=base.release, series=series_of(patch_of(base.tree, *WORK)))
    context = BuildContext(base=base, toolchains=backend.toolchains, jobs=2)
    built = build_with_selected(request, context, name="livepatch_test", work_dir=reachable_path)
    assert built.module is not None, built.problem
    assert stays_loaded(ElfFile(built.module))
    report = run_trial(
        kernel=guest_kernel(base),
        livepatch=built.module,
        livepatch_name="livepatch_test",
        parents=[],
        expectations=[Expectation(command="/proc/version", pattern="^armed$")],
        work_dir=tmp_path,
        cache_dir=settings.cache_dir,
    )
    console = (tmp_path / "console.log").read_text(errors="replace")
    assert (report.problems, report.reverted, report.reloaded) == ((), True, False), console[-3000:]
    assert console.index("unpatching complete") < console.index("elivepatch: the work was done")


@pytest.mark.extended
def test_a_livepatch_that_hands_nothing_out_can_be_unloaded(
    base_6_1: Base, backend: LocalBackend, reachable_path: Path
) -> None:
    series = series_of(patch_of(base_6_1.tree, *in_version("", "cond_resched();")))
    request = BuildRequest(release=base_6_1.release, series=series)
    context = BuildContext(base=base_6_1, toolchains=backend.toolchains, jobs=2)
    built = build_with_selected(request, context, name="livepatch_test", work_dir=reachable_path)
    assert built.module is not None
    assert not stays_loaded(ElfFile(built.module))
