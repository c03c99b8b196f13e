# SPDX-License-Identifier: GPL-2.0-or-later
"""Proposals of a rewrite can be built, change what the series means to change, and nothing that it must not."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import pytest
from edits import Edit, after, before, patch_of, series_of
from refusals import CASES, VERSION

from elivepatch.build.base.store import Base
from elivepatch.build.builders.common import BuildContext
from elivepatch.build.builders.select import build_with_selected
from elivepatch.model.build import BuildOutcome, BuildRequest
from elivepatch.service.jobs.local_backend import LocalBackend
from elivepatch.settings import ServerSettings
from elivepatch.trial.case import GuestKernel
from elivepatch.trial.run import run_trial

pytestmark = pytest.mark.kernel

Check = Callable[[list[Edit]], BuildOutcome]
FREE = "static void eventfd_free_ctx(struct eventfd_ctx *ctx)\n{\n"
SHOWN = Edit(
    VERSION, "	seq_printf(m, linux_proc_banner,", '	seq_puts(m, "# ");\n	seq_printf(m, linux_proc_banner,'
)
MORE = "void eventfd_more(void);\nvoid eventfd_more(void)\n{\n	cond_resched();\n}\n"


class Case(NamedTuple):
    """A series, the code that stops it, and what its proposal has and has not."""

    code: str
    edits: list[Edit]
    has: tuple[str, ...]
    lacks: tuple[str, ...] = ()


CASES_THAT_CAN = {
    "a new variable among old": Case("new-data", CASES["new data among old"].edits, ("+static int heads;",),
                                     ("+static int heads __read_mostly",)),
    "an attribute more": Case(
        "section-change",
        [*CASES["another section for old data"].edits,
         Edit("fs/pipe.c", "	__pipe_lock(pipe);\n\n	if (!pipe->readers)",
              "	__pipe_lock(pipe);\n	cond_resched();\n\n	if (!pipe->readers)")],
        ("cond_resched",), ("__read_mostly",),
    ),
    "an export more": Case(
        "new-export",
        [before("fs/eventfd.c", FREE, f"{MORE}EXPORT_SYMBOL_GPL(eventfd_more);\n\n"),
         Edit("fs/eventfd.c", FREE, f"{FREE}	eventfd_more();\n")],
        ("+void eventfd_more(void)",), ("+EXPORT_SYMBOL",),
    ),
    "an export less": Case(
        "export",
        [*CASES["an export less"].edits, Edit("fs/eventfd.c", FREE, f"{FREE}	cond_resched();\n")],
        ("cond_resched",), ("-EXPORT_SYMBOL",),
    ),
    "start-up code that is not needed": Case(
        "init-code", [*CASES["an __init function"].edits, SHOWN], ("seq_puts",), ("0444",),
    ),
    "a static variable without use": Case(
        "static-local",
        [Edit("kernel/audit.c", "	static atomic_t serial = ATOMIC_INIT(0);\n\n	return atomic_inc_return(&serial);",
              "	return get_random_u32();")],
        ("+	char serial_kept __maybe_unused = (", "*(const volatile char *)&serial;"),
    ),
    "an inline function with a life of its own": Case(
        "outlined-inline",
        [after("kernel/fork.c", "	VM_BUG_ON(atomic_read(&mm->mm_users));\n", "\n	cond_resched();\n")],
        ("+static inline void __mmput_livepatch(struct mm_struct *mm)", "+		__mmput_livepatch(mm);"),
    ),
    "a system call whose work is a function of its own": Case(
        "outlined-inline", CASES["a system call whose work is a function of its own"].edits,
        ("+KPATCH_SYSCALL_DEFINE1(newuname, struct new_utsname __user *, name)", '+#include "kpatch-syscall.h"'),
    ),
    "a static key of the series": Case(
        "jump-label", CASES["a static key of the series itself"].edits, ("static_key_enabled(&version_key)",),
    ),
    "a static key of a module": Case(
        "jump-label",
        [Edit("net/netfilter/nf_tables_core.c", "	info.trace = false;\n	if (static_branch",
              "	info.trace = false;\n	if (!basechain)\n		return NF_DROP;\n	if (static_branch")],
        ("static_key_enabled(&nft_trace_enabled)",),
    ),
    "a static call of a module": Case(
        "static-call", CASES["a static call of a module"].edits, ("KPATCH_STATIC_CALL(kvm_x86_pmu",),
    ),
    "a table that gains a pointer": Case(
        "ops-table", CASES["a table of operations that gains a pointer"].edits,
        ("elivepatch_write_constant((const void *)&signalfd_fops.flush, (const void *)elivepatch_signalfd_flush)",),
        ("+	.flush",),
    ),
}  # fmt: skip

QUEUE = [
    before("fs/quota/dquot.c", "static void quota_release_workfn(struct work_struct *work);\n",
           "static struct workqueue_struct *quota_unbound_wq;\n"),
    Edit("fs/quota/dquot.c", "	queue_delayed_work(system_unbound_wq, &quota_release_work, 1);",
         "	queue_delayed_work(quota_unbound_wq, &quota_release_work, 1);"),
    after("fs/quota/dquot.c", "	register_sysctl_table(sys_table);\n",
          '	quota_unbound_wq = alloc_workqueue("quota", WQ_UNBOUND | WQ_MEM_RECLAIM, 0);\n'),
]  # fmt: skip

CASES_THAT_CANNOT = {
    "a queue that start-up code makes and new code uses": ("init-code", QUEUE, "quota_unbound_wq"),
    "start-up code only": ("init-only", CASES["an __init function"].edits, "no effect on a running kernel"),
    "an export less and nothing else": ("export", CASES["an export less"].edits, "would leave nothing of the series"),
    "a structure that grows": ("data-layout", CASES["a structure that grows"].edits, "No rule"),
    "a global function without entry": (
        "no-function-entry", CASES["a directory that is built without function entries"].edits,
        "called from other files",
    ),
    "an inline function that other files call": (
        "outlined-inline", CASES["an inline function that the compiler made a function of"].edits,
        "called from other files",
    ),
    "a static variable that unlikely code used": (
        "static-local", CASES["a static variable that nobody uses any more"].edits, "placed elsewhere",
    ),
    "a static key that a header tests": ("jump-label", CASES["a static key of a module"].edits, "header"),
}  # fmt: skip


# Kernel modules with many objects, and what another case of the kernel lane shows as well.
SLOW = {
    "an export less", "a static key of a module", "a static call of a module", "a table that gains a pointer",
    "a static key that a header tests", "an inline function that other files call",
    "an attribute more", "an export more", "a static variable without use", "a new variable among old",
}  # fmt: skip


def names_of(cases: Iterable[str]) -> list[object]:
    return [pytest.param(name, marks=[pytest.mark.extended] if name in SLOW else []) for name in cases]


@pytest.fixture
def check(backend: LocalBackend, base_6_1: Base, reachable_path: Path) -> Check:
    def checked(edits: list[Edit]) -> BuildOutcome:
        request = BuildRequest(
            release=base_6_1.release, series=series_of(patch_of(base_6_1.tree, *edits)), check_only=True, rewrite=True
        )
        context = BuildContext(base=base_6_1, toolchains=backend.toolchains, jobs=2)
        return build_with_selected(request, context, name="livepatch_test", work_dir=reachable_path)

    return checked


@pytest.mark.parametrize("name", names_of(CASES_THAT_CAN))
def test_a_proposal_takes_the_reason_away_and_can_be_built(
    base_6_1: Base, check: Check, build: Callable[..., BuildOutcome], name: str
) -> None:
    case = CASES_THAT_CAN[name]
    outcome = check(case.edits)
    assert outcome.problem is not None
    assert outcome.problem.code == case.code
    assert outcome.proposal is not None
    assert outcome.proposal.patch, outcome.proposal.refusal
    assert {step.code for step in outcome.proposal.steps} >= {case.code}
    for text in case.has:
        assert text in outcome.proposal.patch
    for text in case.lacks:
        assert text not in outcome.proposal.patch
    built = build(base_6_1, outcome.proposal.patch, name="livepatch_proposal")
    assert built.problem is None, built.problem
    assert built.module is not None
    assert ("callbacks" in {note.code for note in built.notes}) is (case.code == "ops-table")


@pytest.mark.extended
def test_pointers_that_callbacks_write_are_written_back_and_the_livepatch_let_go(
    base_6_1: Base, check: Check, build: Callable[..., BuildOutcome], stock_kernel: GuestKernel,
    settings: ServerSettings, reachable_path: Path,
) -> None:  # fmt: skip
    proposal = check(CASES_THAT_CAN["a table that gains a pointer"].edits).proposal
    assert proposal is not None
    built = build(base_6_1, proposal.patch, name="livepatch_table")
    assert built.module is not None
    report = run_trial(
        kernel=stock_kernel,
        livepatch=built.module,
        livepatch_name="livepatch_table",
        parents=[],
        expectations=(),
        work_dir=reachable_path / "trial",
        cache_dir=settings.cache_dir,
    )
    assert report.passed, report.problems
    assert report.reloaded


@pytest.mark.parametrize("name", names_of(CASES_THAT_CANNOT))
def test_what_cannot_be_known_to_be_safe_is_not_proposed(check: Check, name: str) -> None:
    code, edits, reason = CASES_THAT_CANNOT[name]
    outcome = check(edits)
    assert outcome.problem is not None
    assert outcome.problem.code == code
    assert outcome.proposal is not None
    assert outcome.proposal.patch == ""
    assert re.search(re.escape(reason), outcome.proposal.refusal), outcome.proposal.refusal


def test_a_series_with_a_new_file_is_not_proposed_without_it(
    backend: LocalBackend, base_6_1: Base, reachable_path: Path
) -> None:
    header = "--- /dev/null\n+++ b/fs/proc/more.h\n@@ -0,0 +1 @@\n+#define MORE 1\n"
    text = patch_of(base_6_1.tree, *CASES["an export less"].edits)
    request = BuildRequest(release=base_6_1.release, series=series_of(header + text), check_only=True, rewrite=True)
    context = BuildContext(base=base_6_1, toolchains=backend.toolchains, jobs=2)
    proposal = build_with_selected(request, context, name="livepatch_test", work_dir=reachable_path).proposal
    assert proposal is not None
    assert proposal.patch == ""
    assert "fs/proc/more.h" in proposal.refusal


def test_a_series_that_can_be_a_livepatch_gets_no_proposal(check: Check) -> None:
    outcome = check([SHOWN])
    assert outcome.problem is None
    assert outcome.proposal is None
