# SPDX-License-Identifier: GPL-2.0-or-later
"""Each change that cannot be a livepatch is refused with its own code, for real patches against the real source."""

from __future__ import annotations

from typing import Any

import pytest
from edits import Edit, after, before, patch_of
from refusals import CASES, VERSION

from elivepatch.build.base.store import Base
from elivepatch.build.objects import compile as compiling
from elivepatch.model.codes import CODES
from elivepatch.model.errors import Problem

pytestmark = pytest.mark.kernel


def problem_of(outcome: Any) -> Problem:
    assert outcome.module is None, [function.name for function in outcome.functions]
    assert isinstance(outcome.problem, Problem)
    return outcome.problem


# The kernel lane has each case once, on the first of its kernels.
ONCE = [(case.on[0], name) for name, case in CASES.items()]
AGAIN = [pytest.param(on, name, marks=pytest.mark.extended) for name, case in CASES.items() for on in case.on[1:]]


@pytest.mark.parametrize(("base", "name"), [*ONCE, *AGAIN], indirect=["base"])
def test_this_is_told_with_its_code(base: Base, build: Any, name: str) -> None:
    case = CASES[name]
    problem = problem_of(build(base, patch_of(base.tree, *case.edits)))
    assert problem.code == case.code, problem
    assert problem.kind is CODES[case.code].kind
    assert problem.advice == CODES[case.code].advice
    for words in case.message:
        assert words in problem.message
    assert problem.message.endswith(".")
    assert case.excerpt in problem.excerpt
    assert "original.o" not in problem.message + problem.excerpt


def reversed_patch(text: str) -> str:
    swapped = {"+": "-", "-": "+"}
    return "".join(
        line if line.startswith(("---", "+++", "@@")) else swapped.get(line[0], line[0]) + line[1:]
        for line in text.splitlines(keepends=True)
    )


def test_a_change_that_is_in_the_source_is_told(base: Base, build: Any) -> None:
    text = patch_of(
        base.tree, Edit("fs/proc/meminfo.c", "#include <linux/hugetlb.h>\n", "#include <linux/hugetlb2.h>\n")
    )
    problem = problem_of(build(base, reversed_patch(text)))
    assert problem.code == "already-applied"
    assert "0.patch" in problem.message


def test_a_change_that_does_not_fit_names_the_patch_and_shows_the_hunk(base: Base, build: Any) -> None:
    good = patch_of(base.tree, Edit("fs/proc/meminfo.c", '"MemFree:        "', '"MEMFREE:        "'))
    bad = patch_of(base.tree, Edit(VERSION, "utsname()->version)", "utsname()->domainname)"))
    problem = problem_of(build(base, good, bad.replace(" 		utsname()->release", " 		utsname()->releases")))
    assert problem.code == "does-not-apply"
    assert "1.patch" in problem.message
    assert "Hunk #1 FAILED" in problem.excerpt
    assert VERSION in problem.excerpt


def test_a_patch_is_never_applied_where_only_its_surroundings_are_alike(base_6_1: Base, build: Any) -> None:
    text = patch_of(base_6_1.tree, Edit("fs/proc/meminfo.c", '"MemFree:        "', '"MEMFREE:        "'))
    lines = text.splitlines(keepends=True)
    lines[3] = " 	something_else();\n"
    assert problem_of(build(base_6_1, "".join(lines))).code == "does-not-apply"


def test_a_file_of_another_version_does_not_apply(base_6_1: Base, build: Any) -> None:
    text = patch_of(base_6_1.tree, Edit("fs/proc/meminfo.c", '"MemFree:        "', '"MEMFREE:        "'))
    problem = problem_of(build(base_6_1, text.replace("fs/proc/meminfo.c", "fs/proc/nowhere.c")))
    assert problem.code == "does-not-apply"
    assert "fs/proc/nowhere.c" in problem.message


EVENTS, LOCKS = "include/trace/events/filelock.h", "fs/locks.c"
TRACED = "	trace_posix_lock_inode(inode, request, error);\n"
TEXT = Edit(EVENTS, 'TP_printk("dev=0x%x:0x%x ino=0x%lx wcount', 'TP_printk("device=0x%x:0x%x ino=0x%lx wcount')
ASSIGNMENT = after(EVENTS, "		__entry->wcount = atomic_read(&inode->i_writecount);\n", "		barrier();\n")
NEW_EVENT = before(
    EVENTS,
    "DEFINE_EVENT(filelock_lease, generic_delete_lease,",
    "TRACE_EVENT(brand_new, TP_PROTO(int a), TP_ARGS(a), TP_STRUCT__entry(__field(int, a)),\n"
    '	TP_fast_assign(__entry->a = a;), TP_printk("%d", __entry->a));\n\n',
)
PARAMETER = before(LOCKS, "static int posix_lock_inode(", "static int limit = 5;\nmodule_param(limit, int, 0644);\n\n")
LIMITED = after(LOCKS, TRACED, "	if (error > limit)\n		cond_resched();\n")


@pytest.mark.parametrize(
    ("edits", "code", "words", "followed"),
    [
        ([TEXT], "trace-event", "changes the text of the trace event generic_add_lease",
         [after(LOCKS, TRACED, '	trace_printk("device %d\\n", error);\n')]),
        pytest.param([ASSIGNMENT], "trace-event", "is a function of the trace event generic_add_lease", [],
                     marks=pytest.mark.extended),
        pytest.param([NEW_EVENT, after(LOCKS, TRACED, "	trace_brand_new(error);\n")], "trace-event",
                     "adds the trace event brand_new", [], marks=pytest.mark.extended),
        pytest.param([PARAMETER, LIMITED], "module-parameter", "adds the module parameter limit",
                     [before(LOCKS, "static int posix_lock_inode(", "static int limit = 5;\n\n"), LIMITED],
                     marks=pytest.mark.extended),
    ],
)  # fmt: skip
def test_what_is_registered_at_start_is_named_and_the_advice_leads_to_a_livepatch(
    base: Base, build: Any, edits: list[Edit], code: str, words: str, followed: list[Edit]
) -> None:
    problem = problem_of(build(base, patch_of(base.tree, *edits)))
    assert problem.code == code
    assert words in problem.message
    if followed:
        outcome = build(base, patch_of(base.tree, *followed))
        assert [function.name for function in outcome.functions] == ["posix_lock_inode"], outcome.problem
        assert outcome.module is not None


# A hunk with the heading of git; three functions of the file have its lines.
OFFSETS = (
    "--- a/fs/proc/page.c\n+++ b/fs/proc/page.c\n"
    "@@ -{line},7 +{line},7 @@ static ssize_t kpagecount_read(struct file *file, char __user *buf,\n"
    " \n 	*ppos += (char __user *)out - buf;\n 	if (!ret)\n"
    "-		ret = (char __user *)out - buf;\n+		ret = (char __user *)out - buf + 0 * count;\n"
    " 	return ret;\n }}\n \n"
)


def test_a_hunk_that_patch_would_put_into_another_function_is_refused(base: Base, build: Any) -> None:
    lines = (base.tree / "fs/proc/page.c").read_text().splitlines()
    first, second, _third = (n for n, line in enumerate(lines, 1) if line.startswith("	*ppos += (char"))
    assert problem_of(build(base, OFFSETS.format(line=first - 1))).code == "no-change"
    problem = problem_of(build(base, OFFSETS.format(line=second - 4)))
    assert problem.code == "hunk-place"
    assert f"would land at fs/proc/page.c:{second - 1} in kpageflags_read" in problem.message
    assert f"it also fits at fs/proc/page.c:{first - 1} in kpagecount_read" in problem.message


@pytest.mark.parametrize(
    ("text", "how"),
    [
        ("--- /dev/null\n+++ b/fs/new.c\n@@ -0,0 +1 @@\n+int a;\n", "adds the source file fs/new.c"),
        ("diff --git a/fs/pipe.c b/fs/tube.c\nrename from fs/pipe.c\nrename to fs/tube.c\n", "fs/pipe.c"),
    ],
)
def test_a_source_that_comes_or_goes_is_told(base_6_1: Base, build: Any, text: str, how: str) -> None:
    problem = problem_of(build(base_6_1, text))
    assert problem.code == "new-file"
    assert how in problem.message


def test_a_name_that_patch_reads_in_another_way_is_refused(base_6_1: Base, build: Any) -> None:
    good = Edit("fs/proc/meminfo.c", '"MemFree:        "', '"MEMFREE:        "')
    text = patch_of(base_6_1.tree, Edit(VERSION, "utsname()->version)", "utsname()->domainname)"))
    hidden = text.replace(VERSION, f"{VERSION} x.c")
    problem = problem_of(build(base_6_1, patch_of(base_6_1.tree, good), hidden))
    assert problem.code == "patch-malformed"
    assert VERSION in problem.message


def test_a_compile_that_never_ends_is_ended(base_6_1: Base, build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    text = patch_of(base_6_1.tree, Edit("kernel/sched/rt.c", "		return 0;\n}", "		return 1;\n}"))
    build(base_6_1, text, check_only=True)
    monkeypatch.setattr(compiling, "_COMPILE_TIMEOUT_S", 0.2)
    problem = problem_of(build(base_6_1, text))
    assert problem.code == "out-of-time"
    assert "kernel/sched/build_policy.c" in problem.message


def test_a_check_tells_the_same_as_a_build(base_6_1: Base, build: Any) -> None:
    told_late = ("a function that another file would have to define", "a static key of the series itself",
                 "a namespace that nobody imports", "a directory that is built without function entries")  # fmt: skip
    for name in ("a structure that grows", "a comment", "an __init function", *told_late):
        text = patch_of(base_6_1.tree, *CASES[name].edits)
        assert problem_of(build(base_6_1, text, check_only=True)) == problem_of(build(base_6_1, text))
