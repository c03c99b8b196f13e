# SPDX-License-Identifier: GPL-2.0-or-later
"""Faults that the host's own kernel does not notice, and the debugging kernel of the same source does.

The debugging kernel of these tests has a smaller configuration than the real one, which takes half an hour to build.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from edits import Edit, after, before, patch_of, series_of

from elivepatch.build.base.store import Base
from elivepatch.build.builders.common import BuildContext
from elivepatch.model.build import BuildOutcome, BuildRequest, PatchedFunction
from elivepatch.model.trial import DebugTrial, TrialOutcome
from elivepatch.service.jobs.local_backend import LocalBackend
from elivepatch.service.jobs.trials import debug_kernel
from elivepatch.service.jobs.trials.debug_trial import try_on_debug_kernel
from elivepatch.service.jobs.trials.guest_kernel import guest_kernel
from elivepatch.settings import ServerSettings
from elivepatch.trial.run import run_trial
from small_kernels import FRAGMENT

pytestmark = [pytest.mark.kernel, pytest.mark.extended]

MEMINFO = "fs/proc/meminfo.c"
SHOW = PatchedFunction(object="vmlinux", name="meminfo_proc_show", sympos=0, source=MEMINFO)
STATEMENT = "\tsi_meminfo(&i);\n"
HARMLESS = Edit(MEMINFO, '"Cached:         "', '"CACHED:         "')
FREED = after(MEMINFO, STATEMENT, "\t{\n\t\tchar *gone = kmalloc(64, GFP_KERNEL);\n\n\t\tkfree(gone);\n"
              "\t\tif (gone && READ_ONCE(*gone) == 42)\n\t\t\tseq_putc(m, ' ');\n\t}\n")  # fmt: skip
SLAB = Edit(MEMINFO, "#include <linux/fs.h>\n", "#include <linux/fs.h>\n#include <linux/slab.h>\n")
LOCKS = before(MEMINFO, "static int meminfo_proc_show(", "static DEFINE_MUTEX(left);\nstatic DEFINE_MUTEX(right);\n\n")
ORDERS = after(MEMINFO, STATEMENT, "\tmutex_lock(&left);\n\tmutex_lock(&right);\n\tmutex_unlock(&right);\n"
               "\tmutex_unlock(&left);\n\tmutex_lock(&right);\n\tmutex_lock(&left);\n\tmutex_unlock(&left);\n"
               "\tmutex_unlock(&right);\n")  # fmt: skip

Try = Callable[..., DebugTrial]
Build = Callable[..., BuildOutcome]


@pytest.fixture(scope="module")
def kernel(backend: LocalBackend, base_6_12: Base) -> Iterator[Base]:
    small = FRAGMENT.read_text() + (Path(__file__).parent / "data/debug_kernel.config").read_text()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(debug_kernel, "_wanted", lambda: small)
        yield backend.make_debug_kernel(base_6_12)
        assert backend.debug_kernel(base_6_12) is not None


@pytest.fixture
def tried(backend: LocalBackend, base_6_12: Base, kernel: Base, reachable_path: Path, settings: ServerSettings) -> Try:
    def on_debug_kernel(*edits: Edit) -> DebugTrial:
        return try_on_debug_kernel(
            BuildRequest(release=base_6_12.release, series=series_of(patch_of(base_6_12.tree, *edits))),
            [SHOW],
            BuildContext(base=kernel, toolchains=backend.toolchains, jobs=2),
            name="livepatch_debug",
            build_dir=reachable_path,
            work_dir=reachable_path / "guest",
            cache_dir=settings.cache_dir,
            workload_s=20.0,
        )

    return on_debug_kernel


def test_no_host_is_offered_a_debugging_kernel(backend: LocalBackend, base_6_12: Base, kernel: Base) -> None:
    assert kernel.release.startswith("6.12.")
    assert "-debug-" in kernel.release
    assert kernel.release not in {one.release for one in backend.kernels()}
    assert backend.make_debug_kernel(base_6_12) == kernel


def test_a_series_without_a_fault_passes_and_ran(tried: Try) -> None:
    found = tried(HARMLESS)
    assert (found.outcome, found.problem, found.missing, found.why_not) == (TrialOutcome.PASSED, None, (), "")
    (called,) = found.functions
    assert called.function == "meminfo_proc_show"
    assert called.calls


@pytest.mark.parametrize(
    ("edits", "report"),
    [((SLAB, FREED), "KASAN: slab-use-after-free"), ((LOCKS, ORDERS), "possible circular locking dependency")],
    ids=["freed memory", "order of locks"],
)
def test_a_fault_that_the_stock_kernel_does_not_notice_is_reported(
    tried: Try,
    build: Build,
    base_6_12: Base,
    tmp_path: Path,
    settings: ServerSettings,
    edits: tuple[Edit, ...],
    report: str,
) -> None:
    outcome = build(base_6_12, patch_of(base_6_12.tree, *edits))
    assert outcome.module is not None, outcome.problem
    stock = run_trial(
        kernel=guest_kernel(base_6_12),
        livepatch=outcome.module,
        livepatch_name="livepatch_test",
        parents=[],
        expectations=[],
        work_dir=tmp_path,
        cache_dir=settings.cache_dir,
        functions=outcome.functions,
        workload_s=6.0,
    )
    assert (stock.outcome, stock.executed) == (TrialOutcome.PASSED, 1)
    found = tried(*edits)
    assert found.outcome is TrialOutcome.FAILED
    assert found.problem is not None
    assert found.problem.code == "trial-debug"
    assert report in found.problem.message + found.problem.excerpt


def test_a_file_that_the_debugging_kernel_does_not_build_is_not_called_tried(tried: Try) -> None:
    found = tried(Edit("net/8021q/vlanproc.c", '"VLAN Dev name	 | VLAN ID\\n"', '"VLAN device	 | VLAN id\\n"'))
    assert (found.outcome, found.problem) == (None, None)
    assert "builds none of the files" in found.why_not
