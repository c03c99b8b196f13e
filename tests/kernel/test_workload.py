# SPDX-License-Identifier: GPL-2.0-or-later
"""A trial runs what was replaced, says what never ran, and blames no patch for what its own workload does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from edits import Edit, patch_of

from elivepatch.build.base.store import Base
from elivepatch.model.build import BuildOutcome
from elivepatch.model.trial import CalledFunction, TrialOutcome, TrialReport
from elivepatch.service.jobs.local_backend import LocalBackend
from elivepatch.service.jobs.trials.guest_kernel import guest_kernel
from elivepatch.settings import ServerSettings
from elivepatch.trial.case import TrialCase
from elivepatch.trial.run import run_trial, run_trials
from elivepatch.trial.workload import choice, guest_files
from elivepatch.trial.workload.choice import Program
from elivepatch.trial.workload.guest_files import Workload, plan
from small_kernels import small_kernel

pytestmark = pytest.mark.kernel

MEMINFO = Edit("fs/proc/meminfo.c", '"VmallocChunk:   "', '"VMALLOCCHUNK:   "')
CRASH = Edit("drivers/tty/sysrq.c", '"sysrq triggered crash\\n"', '"sysrq triggered a crash\\n"')

KMSG = Edit(
    "fs/proc/kmsg.c",
    "static int kmsg_open(struct inode * inode, struct file * file)\n{\n",
    "static int kmsg_open(struct inode * inode, struct file * file)\n{\n\tif (!file)\n\t\treturn -EINVAL;\n",
)

Built = Callable[..., BuildOutcome]


@pytest.fixture
def worked(build: Built, tmp_path: Path, settings: ServerSettings) -> Callable[..., TrialReport]:
    """Build a livepatch of edits and return the report of its trial, with the workload."""

    def report_of(base: Base, *edits: Edit) -> TrialReport:
        built = build(base, patch_of(base.tree, *edits), name="livepatch_worked")
        assert built.module is not None, built.problem
        report = run_trial(
            kernel=guest_kernel(base), livepatch=built.module, livepatch_name="livepatch_worked", parents=(),
            expectations=(), work_dir=tmp_path / "work", cache_dir=settings.cache_dir, functions=built.functions,
            workload_s=8,
        )  # fmt: skip
        assert report.problems == ()
        assert report.workload_left_out == ""
        return report

    return report_of


def test_what_ran_is_counted_and_what_never_ran_is_named(base: Base, worked: Callable[..., TrialReport]) -> None:
    report = worked(base, MEMINFO, CRASH)
    calls = {one.function: one.calls for one in report.functions}
    assert calls.keys() == {"meminfo_proc_show", "sysrq_handle_crash"}
    assert calls["sysrq_handle_crash"] == 0
    assert (calls["meminfo_proc_show"] or 0) > 0
    assert (report.replaced, report.executed) == (2, 1)
    assert [one.name for one in report.workload] == ["tty", "proc"]
    assert all(phase in {"ran", "stopped"} for one in report.workload for phase in (one.before, one.during, one.after))
    assert 0 < report.workload_seconds < 16


@pytest.mark.extended
def test_a_kernel_without_kprobes_counts_by_its_tracer(
    backend: LocalBackend, worked: Callable[..., TrialReport]
) -> None:
    own = small_kernel(backend, "6.12", Path(__file__).with_name("data") / "cmdline-base.patch", suffix="-own")
    report = worked(own, MEMINFO, KMSG)
    calls = {one.function: one.calls for one in report.functions}
    assert calls["kmsg_open"] == 0
    assert (calls["meminfo_proc_show"] or 0) > 0


HANG = "trap '' TERM INT HUP; while :; do sleep 1000; done"
FORKS = "f() { f | f & }; f; sleep 1000"
EATS = "perl -e 'push @x, \"x\" x 1000000 while 1' & head -c 1000000000 /dev/zero >/tmp/full; wait"
FLOODS = "yes; yes >&2"
TROUBLES = "echo 'WARNING: CPU: 0 PID: 1 at a/workload.c:5 f' >/dev/kmsg"
ENDS_ITSELF = "kill -9 1; kill -9 -1; reboot -f"
KILLS = "echo b >/proc/sysrq-trigger; sleep 5"


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Replace the table by one program with this text."""
    place = tmp_path / "programs"
    place.mkdir()
    (place / "common.sh").write_text("")

    def put(text: str) -> None:
        name = f"p{len(list(place.iterdir()))}"
        (place / f"{name}.sh").write_text(text + "\n")
        program = Program(name=name, file=f"{name}.sh", sources=("*",), what="harm", tools=("perl",))
        monkeypatch.setattr(choice, "table", lambda: (program,))

    monkeypatch.setattr(guest_files, "PROGRAMS", place)
    return put


@pytest.fixture
def meminfo(base_6_12: Base, build: Built) -> BuildOutcome:
    built = build(base_6_12, patch_of(base_6_12.tree, MEMINFO), name="livepatch_meminfo")
    assert built.module is not None, built.problem
    return built


def counted(report: TrialReport) -> int | None:
    (one,) = report.functions
    assert one == CalledFunction(object="vmlinux", function="meminfo_proc_show", calls=one.calls)
    return one.calls


@pytest.mark.extended
def test_no_program_makes_the_trial_hang_or_the_patch_fail(
    base_6_12: Base,
    meminfo: BuildOutcome,
    hostile: Callable[[str], None],
    tmp_path: Path,
    settings: ServerSettings,
) -> None:
    def planned(text: str) -> Workload:
        hostile(text)
        return plan(meminfo.functions, 2)

    assert meminfo.module is not None
    case = TrialCase(livepatch=meminfo.module, name="livepatch_meminfo")
    cases = [replace(case, workload=planned(one)) for one in (HANG, FORKS, EATS, FLOODS, ENDS_ITSELF, TROUBLES)]
    reports = run_trials(
        kernel=guest_kernel(base_6_12), cases=cases, work_dir=tmp_path / "work", cache_dir=settings.cache_dir
    )  # fmt: skip
    for report in reports:
        assert report.problems == ()
        assert report.outcome is TrialOutcome.PASSED
        assert report.workload_seconds < 15
        assert counted(report) is not None
    assert [report.workload[0].during for report in reports] == [*["stopped"] * 4, "failed", "not-run"]
    assert "a/workload.c" in reports[5].workload_left_out


@pytest.mark.extended
def test_a_workload_that_ends_the_guest_is_left_out_and_the_trial_goes_on(
    base_6_12: Base,
    meminfo: BuildOutcome,
    hostile: Callable[[str], None],
    tmp_path: Path,
    settings: ServerSettings,
) -> None:
    hostile(KILLS)
    assert meminfo.module is not None
    report = run_trial(
        kernel=guest_kernel(base_6_12), livepatch=meminfo.module, livepatch_name="livepatch_meminfo", parents=(),
        expectations=(), work_dir=tmp_path / "work", cache_dir=settings.cache_dir, functions=meminfo.functions,
        workload_s=4,
    )  # fmt: skip
    assert report.problems == ()
    assert report.outcome is TrialOutcome.PASSED
    assert "did not survive" in report.workload_left_out
    assert report.workload == ()
    assert counted(report) == 0
