# SPDX-License-Identifier: GPL-2.0-or-later
"""Main functions of kernel threads in the stock kernels, and the notes that a check gives for them."""

from __future__ import annotations

from pathlib import Path

import pytest
from edits import Edit, patch_of, series_of

from elivepatch.build.base.store import Base
from elivepatch.build.builders.common import BuildContext
from elivepatch.build.builders.select import build_with_selected
from elivepatch.build.checks.threads import thread_mains
from elivepatch.model.build import BuildRequest
from elivepatch.service.jobs.local_backend import LocalBackend

WAITING = {
    "vmlinux": ["khugepaged", "kswapd", "kthreadd", "rescuer_thread", "worker_thread", "kauditd_thread", "oom_reaper",
                "kjournald2", "smpboot_thread_fn", "napi_threaded_poll"],
    "xfs": ["xfsaild"],
    "btrfs": ["cleaner_kthread", "transaction_kthread"],
    "md_mod": ["md_thread"],
    "dm_crypt": ["dmcrypt_write"],
    "nfsd": ["nfsd"],
}  # fmt: skip
ENDING = {"vmlinux": ["clocksource_watchdog_kthread"], "btrfs": ["btrfs_uuid_rescan_kthread"]}
OTHERS = {
    "vmlinux": ["vfs_read", "meminfo_proc_show", "run_ksoftirqd", "khugepaged_scan_mm_slot", "async_run_entry_fn",
                "kthread_should_stop", "process_one_work"],
    "xfs": ["xfs_file_fsync", "xfsaild_push_item"],
    "md_mod": ["md_check_recovery"],
}  # fmt: skip

KHUGEPAGED = Edit(
    "mm/khugepaged.c", "\twhile (!kthread_should_stop()) {\n\t\tkhugepaged_do_scan(",
    "\twhile (!kthread_should_stop()) {\n\t\tcond_resched();\n\t\tkhugepaged_do_scan(",
)  # fmt: skip
VLAN = Edit("net/8021q/vlanproc.c", '"VLAN Dev name	 | VLAN ID\\n"', '"VLAN Dev name	 | PATCHED\\n"')


@pytest.mark.parametrize("place", sorted({*WAITING, *ENDING, *OTHERS}))
def test_the_main_functions_of_a_stock_kernels_threads_are_known(base: Base, place: str) -> None:
    linked = base.parent(place)
    names = [*WAITING.get(place, ()), *ENDING.get(place, ()), *OTHERS.get(place, ())]
    symbols = [linked.named[name][0] for name in names if name in linked.named]
    assert len(symbols) >= len(names) / 2, "the names are those of this kernel"
    found = {main.symbol.name: main.waits for main in thread_mains(linked, symbols)}
    here = {symbol.name for symbol in symbols}
    assert found == dict.fromkeys(here & {*WAITING.get(place, ())}, True) | dict.fromkeys(
        here & {*ENDING.get(place, ())}, False
    )


def test_a_check_notes_a_threads_main_function_and_a_module_that_cannot_come_back(
    base: Base, backend: LocalBackend, reachable_path: Path
) -> None:
    request = BuildRequest(
        release=base.release, series=series_of(patch_of(base.tree, KHUGEPAGED, VLAN)), trial=False, check_only=True
    )
    context = BuildContext(base=base, toolchains=backend.toolchains, jobs=2)
    outcome = build_with_selected(request, context, name="livepatch_test", work_dir=reachable_path)
    assert outcome.problem is None
    notes = {note.code: note.message for note in outcome.notes}
    assert "khugepaged of vmlinux is the main function of a kernel thread" in notes["thread-main"]
    assert ("module-reload" in notes) is ("clear_relocate_add" not in base.vmlinux.named)
    assert "8021q" in notes.get("module-reload", "8021q")
