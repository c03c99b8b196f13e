# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory of the running kernel keeps its meaning: places, sizes, numbers, and what stands in the same place."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from edits import Edit, after, before, patch_of

from elivepatch.build.base.store import Base
from elivepatch.kernel.elf import ElfFile
from elivepatch.model.build import BuildOutcome
from elivepatch.model.trial import Expectation
from elivepatch.service.jobs.trials.guest_kernel import guest_kernel
from elivepatch.settings import ServerSettings
from elivepatch.trial.run import run_trial

pytestmark = pytest.mark.kernel

LOOP, TIMER = "drivers/block/loop.c", "fs/timerfd.c"
STATES = "	Lo_rundown,\n	Lo_deleting,\n};"
COMMAND = "	bool use_aio; /* use AIO interface to handle I/O */\n"
USE = "	case LOOP_CHANGE_FD:\n		return loop_change_fd(lo, bdev, arg);\n"


class Case(NamedTuple):
    """Edits of one source, a structure that gets another name everywhere in it, and words of the refusal."""

    edits: tuple[Edit, ...]
    renamed: tuple[str, str]
    words: str
    always: bool = False


REFUSED = {
    "a state before others": Case(
        (after(LOOP, "	Lo_unbound,\n", "	Lo_claimed,\n"),), ("", ""),
        "changes the number of Lo_bound (an enumeration without a name) from 1 to 2, and 2 more", always=True,
    ),
    "a structure that grows under a new name": Case(
        (after(LOOP, COMMAND, "	u64 started;\n"),), ("loop_cmd", "loop_command"),
        "struct loop_cmd, which becomes struct loop_command, from", always=True,
    ),
    "a structure of a variable that grows under a new name": Case(
        (after(LOOP, "	bool			sysfs_inited;\n", "	u64			started[4];\n"),),
        ("loop_device", "loop_dev"), "struct loop_device, which becomes struct loop_dev, from",
    ),
    "a structure that grows": Case((after(LOOP, COMMAND, "	u64 started;\n"),), ("", ""), "struct loop_cmd from"),
    "members of the same type that change places": Case(
        (Edit(LOOP, "	loff_t		lo_offset;\n	loff_t		lo_sizelimit;\n",
              "	loff_t		lo_sizelimit;\n	loff_t		lo_offset;\n"),), ("", ""),
        "struct loop_device (same size, other members): lo_offset is at byte",
    ),
    "a union that grows": Case(
        (after(TIMER, "		struct alarm alarm;\n", "		u64 more[40];\n"),), ("", ""), "struct timerfd_ctx from",
    ),
}  # fmt: skip
"""Structures and states of which every running kernel has objects."""


def series(tree: Path, case: Case) -> str:
    edits = [*case.edits]
    path = edits[0].path
    text = new = (tree / path).read_text(encoding="latin-1")
    for edit in edits:
        assert new.count(edit.old) == 1, edit.old
        new = new.replace(edit.old, edit.new)
    if case.renamed[0]:
        new = re.sub(rf"\bstruct {case.renamed[0]}\b", f"struct {case.renamed[1]}", new)
    return patch_of(tree, Edit(path, text, new))


def check(base: Base, build: Any, case: Case) -> BuildOutcome:
    outcome: BuildOutcome = build(base, series(base.tree, case), check_only=True)
    return outcome


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if case.always else pytest.mark.extended) for name, case in REFUSED.items()],
)
def test_what_live_memory_cannot_follow_is_refused(base: Base, build: Any, name: str) -> None:
    case = REFUSED[name]
    problem = check(base, build, case).problem
    assert problem is not None
    assert problem.code == "data-layout"
    assert case.words in problem.message


def test_names_signs_and_states_behind_all_others_are_accepted_with_notes(base: Base, build: Any) -> None:
    edits = (
        Edit(LOOP, STATES, "	Lo_rundown,\n	Lo_deleting,\n	Lo_failed,\n};"),
        Edit(LOOP, "	int		lo_flags;\n", "	unsigned int	lo_flags;\n"),
        after(LOOP, USE, "	case 0x4cff:\n		return Lo_failed;\n"),
    )
    outcome = check(base, build, Case(edits, ("loop_worker", "loop_thread"), ""))
    assert outcome.problem is None, outcome.problem
    told = {note.message.partition(".")[0] for note in outcome.notes if note.code == "type-meaning"}
    assert told == {
        "struct loop_device: lo_flags has the type `unsigned int` instead of `int`",
        "struct loop_worker: is now called struct loop_thread",
    }


def test_a_tracepoint_of_the_kernel_itself_stays_alive(base: Base, build: Any) -> None:
    line = "	if (right && left == right && !new_fl2)\n"
    outcome = build(base, patch_of(base.tree, before("fs/locks.c", line, "	cond_resched();\n")))
    assert [one.name for one in outcome.functions] == ["posix_lock_inode"], outcome.problem
    assert [one.code for one in outcome.notes] == []
    assert outcome.module is not None
    assert ".klp.rela.vmlinux.__jump_table" in ElfFile(outcome.module).by_name


def test_a_modules_own_tracepoint_is_dead_in_a_changed_function(base: Base, build: Any) -> None:
    path = "fs/xfs/xfs_ioctl.c"
    edit = after(path, "	trace_xfs_ioctl_setattr(ip);\n", "	cond_resched();\n")
    outcome = build(base, patch_of(base.tree, edit), check_only=True)
    assert outcome.problem is None, outcome.problem
    (note,) = (one for one in outcome.notes if one.code == "tracepoint")
    assert f"The tracepoint xfs_ioctl_setattr is dead in xfs_fileattr_set of {path}" in note.message


@pytest.mark.extended
@pytest.mark.parametrize(
    ("path", "text", "function"),
    [
        ("fs/aio.c", 'pr_debug("freeing %p', "free_ioctx"),  # of the kernel itself
        ("drivers/block/nbd.c", '"queue cleared', "nbd_clear_que"),  # of a module
    ],
)
def test_debug_messages_of_a_changed_function_are_off(
    base: Base, build: Any, path: str, text: str, function: str
) -> None:
    outcome = build(base, patch_of(base.tree, Edit(path, text, text.replace('"', '"now '))), check_only=True)
    assert outcome.problem is None
    assert [note.code for note in outcome.notes] == ["debug-messages"]
    assert f"{function} of {path}" in outcome.notes[0].message


@pytest.mark.extended
def test_the_livepatch_has_switches_of_debug_messages_under_its_own_name(
    base: Base, build: Any, tmp_path: Path, settings: ServerSettings
) -> None:
    edit = Edit("fs/aio.c", 'pr_debug("freeing %p', 'pr_debug("freeing all of %p')
    outcome = build(base, patch_of(base.tree, edit), name="livepatch_aio")
    live = "grep -q 1 /sys/kernel/livepatch/livepatch_aio/enabled"  # the module is still loaded when it is disabled
    assert outcome.module is not None
    report = run_trial(
        kernel=guest_kernel(base),
        livepatch=outcome.module,
        livepatch_name="livepatch_aio",
        parents=[],
        expectations=[
            Expectation(
                command=f"{live} && grep livepatch_aio.free_ioctx /proc/dynamic_debug/control",
                pattern=r"\]free_ioctx =_ ",
            )
        ],
        work_dir=tmp_path / "work",
        cache_dir=settings.cache_dir,
    )
    assert report.problems == (), report.problems


@pytest.mark.extended
def test_a_modules_own_static_key_is_refused(base: Base, build: Any) -> None:
    anchor = "	info.trace = false;\n	if (static_branch"
    edit = Edit(
        "net/netfilter/nf_tables_core.c",
        anchor,
        anchor.replace("	if", "	if (!basechain)\n		return 0;\n	if"),
    )
    outcome = build(base, patch_of(base.tree, edit), check_only=True)
    assert outcome.problem is not None
    assert outcome.problem.code == "jump-label"
    assert "nft_do_chain tests the static key nft_trace_enabled" in outcome.problem.message


@pytest.mark.extended
def test_a_macro_with_another_number_is_told(base: Base, build: Any) -> None:
    edit = Edit("fs/fuse/fuse_i.h", "#define FUSE_NAME_MAX 1024", "#define FUSE_NAME_MAX 1025")
    outcome = build(base, patch_of(base.tree, edit), check_only=True)
    assert outcome.problem is None, outcome.problem
    (note,) = (one for one in outcome.notes if one.code == "constant")
    assert "FUSE_NAME_MAX from 1024 to 1025" in note.message
