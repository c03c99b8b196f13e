# SPDX-License-Identifier: GPL-2.0-or-later
"""Trials on a stock kernel, with sample livepatches that do right or wrong in one way each."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from elivepatch.build.base.store import Base
from elivepatch.model.errors import EnvironmentFault, Kind
from elivepatch.model.predicate import Predicate
from elivepatch.model.trial import Expectation, OverEarlier, SeenFunction, TrialReport
from elivepatch.process import Cancellation, run
from elivepatch.service.jobs.trials.guest_kernel import guest_kernel
from elivepatch.settings import ServerSettings
from elivepatch.trial.case import EarlierLivepatch, GuestKernel, TrialCase
from elivepatch.trial.run import run_trial, run_trials

pytestmark = pytest.mark.kernel

MEMINFO = Path(__file__).parents[2] / "demo/patches/vmlinux-meminfo.patch"
CMDLINE = Expectation(command="/proc/cmdline", pattern="^patched by a sample$")
VLAN = Expectation(command="/proc/net/vlan/config", pattern="^patched by a sample$")
Try = Callable[..., TrialReport]


@pytest.fixture(scope="session")
def samples(kernel_headers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample livepatches, built for the stock kernel; their sources are in tests/kernel/samples."""
    place = tmp_path_factory.mktemp("samples")
    shutil.copytree(Path(__file__).with_name("samples"), place, dirs_exist_ok=True)
    # The headers' own Makefile names the common one by the place where the package is installed.
    common = kernel_headers.with_name(kernel_headers.name.replace("-cloud-amd64", "-common"))
    command: list[str | Path] = [
        "make",
        "-C",
        kernel_headers,
        "-f",
        common / "Makefile",
        f"M={place}",
        "-j2",
        "modules",
    ]
    run(command).check("Building the samples")
    return place


@pytest.fixture
def attempt(stock_kernel: GuestKernel, samples: Path, tmp_path: Path, settings: Any) -> Try:
    """Try one sample."""

    def attempted(
        name: str,
        *expectations: Expectation,
        parents: Sequence[str] = (),
        kernel: GuestKernel | None = None,
        **more: Any,
    ) -> TrialReport:
        return run_trial(
            kernel=kernel or stock_kernel,
            livepatch=samples / f"sample_{name}.ko",
            livepatch_name=f"sample_{name}",
            parents=parents,
            expectations=expectations,
            work_dir=tmp_path / "work",
            cache_dir=settings.cache_dir,
            **more,
        )

    return attempted


def codes(report: TrialReport) -> list[str]:
    return [problem.code for problem in report.problems]


def told(report: TrialReport) -> str:
    return "\n".join(f"{problem.message}\n{problem.excerpt}" for problem in report.problems)


def test_a_livepatch_that_does_right_passes(attempt: Try, stock_kernel: GuestKernel, tmp_path: Path) -> None:
    report = attempt("good", CMDLINE)
    assert report.problems == ()
    assert (report.release, report.build_id) == (stock_kernel.release, stock_kernel.build_id)
    assert (report.reverted, report.reloaded, report.clean_log) == (True, True, True)
    assert report.transition_s is not None
    assert 0 < report.transition_s < 20
    (seen,) = report.observations
    assert "console=ttyS0" in seen.before
    assert seen.during == "patched by a sample\n"
    assert seen.after == seen.before
    console = (tmp_path / "work/console.log").read_text(errors="replace")
    assert console.count("livepatch: 'sample_good': patching complete") == 2
    assert console.count("livepatch: 'sample_good': unpatching complete") == 2
    outside = report.outside
    assert outside is not None
    assert (outside.seen, outside.why_not) == (True, "")
    assert outside.phases == ("before", "during", "after", "again", "end")
    assert outside.functions == (
        SeenFunction(object="vmlinux", name="cmdline_proc_show", redirected=True, leads_to_new=True, restored=True),
    )
    assert outside.self_patched["ftrace"] == 1
    assert outside.compared_bytes > 20_000_000


QUOTES = """printf '%s\\n' "it's $(echo "\\$(nested)") `echo back`" 'a
b' "\\\\t" é; cat /proc/cmdline; exit 3"""

# Sample, what is expected of it, modules. Those that leave the kernel whole share its boot, so they are first.
CASES: dict[str, tuple[str, Expectation | None, Sequence[str]]] = {
    "quotes": ("good", Expectation(command=QUOTES, pattern="patched"), ()),
    "no such device": ("absent", None, ("xen-gntdev",)),
    "never matches": ("good", Expectation(command="uname -s", pattern="patched"), ()),
    "late": ("late", VLAN, ("8021q",)),
    "oopses": ("oopses", CMDLINE, ()),
}
# The same for the lane `extended`.
FURTHER_CASES: dict[str, tuple[str, Expectation | None, Sequence[str]]] = {
    "modules first": ("parent", Expectation(command="/proc/net/sctp/snmp", pattern="^patched"), ("sctp", "vmlinux")),
    "replaces": ("replaces", CMDLINE, ()),
    "modules that come and go": ("vlan", VLAN, ("8021q",)),
    "stateless": ("stateless", CMDLINE, ()),
    "beside": ("good", CMDLINE, ()),
    "no such function": ("unknown", None, ()),
    "no livepatch": ("plain", None, ()),
    "always matches": ("good", Expectation(command="uname -s", pattern="Linux"), ()),
    "hard to match": ("good", Expectation(command=f"echo {'a' * 37}b", pattern="(a+)+$"), ()),
    "lingers": ("lingers", Expectation(command="/proc/sample_lingers", pattern="patched"), ()),
    "warns": ("warns", CMDLINE, ()),
    "once": ("once", CMDLINE, ()),
    "sticky": ("sticky", CMDLINE, ()),
    "stuck": ("stuck", None, ()),
}


# The cases that find `sample_earlier` live.
OVER_EARLIER = frozenset({"replaces", "stateless", "beside"})


@pytest.fixture(scope="module")
def further_reports(request: pytest.FixtureRequest) -> dict[str, TrialReport]:
    """Return the report of each case of the lane `extended`."""
    return reports_of(request, FURTHER_CASES)


@pytest.fixture(scope="module")
def reports(request: pytest.FixtureRequest) -> dict[str, TrialReport]:
    """Return the report of each case."""
    return reports_of(request, CASES)


def reports_of(
    request: pytest.FixtureRequest, cases: Mapping[str, tuple[str, Expectation | None, Sequence[str]]]
) -> dict[str, TrialReport]:
    stock_kernel, samples, settings, tmp_path_factory = (
        request.getfixturevalue(name) for name in ("stock_kernel", "samples", "settings", "tmp_path_factory")
    )
    earlier = EarlierLivepatch(livepatch=samples / "sample_earlier.ko", name="sample_earlier")
    made = run_trials(
        kernel=stock_kernel,
        cases=[
            TrialCase(
                livepatch=samples / f"sample_{name}.ko",
                name=f"sample_{name}",
                parents=parents,
                expectations=(expectation,) if expectation else (),
                earlier=earlier if case in OVER_EARLIER else None,
            )
            for case, (name, expectation, parents) in cases.items()
        ],
        work_dir=tmp_path_factory.mktemp("trials"),
        cache_dir=settings.cache_dir,
    )
    return dict(zip(cases, made, strict=True))


def test_each_case_of_a_boot_begins_with_all_processors(reports: dict[str, TrialReport]) -> None:
    counted = {case: report.busy_rounds for case, report in reports.items() if report.busy_rounds}
    assert len(counted) > 1
    assert all(len(rounds) == 2 and min(rounds) > 0 for rounds in counted.values()), counted


def test_a_commands_quotes_newlines_and_dollars_reach_the_guest_as_they_are(reports: dict[str, TrialReport]) -> None:
    report = reports["quotes"]
    assert report.problems == ()
    assert report.observations[0].during == "it's $(nested) back\na\nb\n\\t\né\npatched by a sample\n"


def test_a_command_is_bounded_in_time_and_output(attempt: Try) -> None:
    endless = Expectation(command="cat /proc/cmdline; sleep 1000 & yes | tee /tmp/x", pattern="patched")
    started = time.monotonic()
    report = attempt("good", endless)
    assert time.monotonic() - started < 60
    assert report.problems == ()
    assert len(report.observations[0].during) == 64 * 1024


@pytest.mark.extended
def test_the_modules_that_a_livepatch_patches_are_loaded_first(further_reports: dict[str, TrialReport]) -> None:
    report = further_reports["modules first"]
    assert report.problems == ()
    assert "SctpCurrEstab" in report.observations[0].before
    assert report.unloaded_parents == ()


@pytest.mark.extended
def test_a_livepatch_replaces_the_earlier_one_that_is_live_while_both_processors_are_busy(
    further_reports: dict[str, TrialReport],
) -> None:
    report = further_reports["replaces"]
    assert report.problems == ()
    assert report.over_earlier == OverEarlier(name="sample_earlier", result="replaced")
    assert len(report.busy_rounds) == 2
    assert all(rounds > 0 for rounds in report.busy_rounds)


@pytest.mark.extended
def test_a_changed_module_comes_late_goes_and_comes_back(further_reports: dict[str, TrialReport]) -> None:
    report = further_reports["modules that come and go"]
    assert report.problems == ()
    assert [(one.module, one.change, one.result) for one in report.module_changes] == [
        ("8021q", change, "seen") for change in ("loaded-late", "unloaded", "reloaded")
    ]


def test_a_module_that_does_not_load_here_is_no_fault_of_the_patch(reports: dict[str, TrialReport]) -> None:
    report = reports["no such device"]
    assert report.problems == ()
    assert report.unloaded_parents == ("xen_gntdev",)


WRONG = [
    ("warns", ["trial-kernel-log"], "sample_warns"),
    ("oopses", ["trial-kernel-log"], "cmdline_show"),
    ("stuck", ["trial-transition"], "kthreadd"),
    ("no such function", ["trial-load"], "symbol 'no_such_function_of_any_kernel' not found"),
    ("no livepatch", ["trial-load"], "no livepatch of its name"),
    ("sticky", ["trial-unload"], "cannot be unloaded"),
    ("once", ["trial-kernel-log", "trial-reload"], "sample_once"),
    ("lingers", ["trial-not-reverted"], "still matches"),
    ("never matches", ["trial-expectation"], "Linux"),
    ("always matches", ["trial-expectation"], "without the livepatch"),
    ("hard to match", ["trial-expectation"], "longer than"),
    ("late", ["trial-late", "trial-reload"], "8021q cannot be loaded while the livepatch is live"),
    ("stateless", ["trial-over"], "refuses to load the livepatch while sample_earlier is live"),
    ("beside", ["trial-over"], "does not replace sample_earlier"),
]


@pytest.mark.parametrize(
    ("case", "expected", "words"),
    [pytest.param(*one, marks=[pytest.mark.extended] if one[0] in FURTHER_CASES else []) for one in WRONG],
)
def test_each_way_to_do_wrong_is_seen(
    request: pytest.FixtureRequest, case: str, expected: list[str], words: str
) -> None:
    found: dict[str, TrialReport] = request.getfixturevalue("further_reports" if case in FURTHER_CASES else "reports")
    report = found[case]
    assert codes(report) == expected
    assert words in told(report)
    assert not report.passed
    assert all(problem.kind is Kind.FAILURE for problem in report.problems)


@pytest.mark.parametrize(
    ("case", "expected", "words"),
    [
        ("forges", "trial-kernel-log", "this sample kills the kernel"),
        pytest.param("halts", "trial-records", "disable.1 0 times", marks=pytest.mark.extended),
        pytest.param("silences", "trial-records", "disable.1 0 times", marks=pytest.mark.extended),
        pytest.param(
            "pokes",
            "trial-memory",
            "version_proc_show+0x10 in the kernel's code differs",
            marks=pytest.mark.extended,
        ),
    ],
)
def test_a_livepatch_that_reports_its_own_success_does_not_pass(
    attempt: Try, case: str, expected: str, words: str
) -> None:
    report = attempt(case, CMDLINE)
    assert codes(report) == [expected]
    assert words in told(report)
    assert not report.passed
    assert not report.reverted


@pytest.mark.extended
def test_a_livepatch_that_takes_its_own_call_away_is_seen_although_the_kernel_calls_it_enabled(attempt: Try) -> None:
    report = attempt("unhooks")
    assert "trial-memory" in codes(report)
    assert "cmdline_proc_show: its entry is no call" in told(report)
    assert report.outside is not None
    assert not report.outside.functions[0].redirected


# A predicate, because it has a time limit of its own: a command has five seconds, and on a busy machine each of the two
# rewrites takes longer.
REWRITES = """# elivepatch: seconds=30
mount -t debugfs none /sys/kernel/debug 2>/dev/null
(while :; do cat /proc/stat; usleep 20000; done >/dev/null) & busy=$!
for mode in none voluntary; do echo $mode >/sys/kernel/debug/sched/preempt; done
kill $busy; cat /sys/kernel/debug/sched/preempt
grep -q VMALLOCCHUNK /proc/meminfo
"""


@pytest.mark.extended
def test_a_kernel_may_rewrite_code_that_another_processor_runs(
    build: Any, base_6_12: Base, tmp_path: Path, settings: ServerSettings
) -> None:
    """As each transition does since 6.4; QEMU 7.2 with a thread per processor kept bytes that were gone."""
    module = build(base_6_12, MEMINFO.read_text(), name="livepatch_rewrites").module
    assert module is not None
    report = run_trial(
        kernel=guest_kernel(base_6_12),
        livepatch=module,
        livepatch_name="livepatch_rewrites",
        parents=(),
        expectations=[Expectation.of(Predicate(name="rewrites.sh", source=REWRITES))],
        work_dir=tmp_path / "work",
        cache_dir=settings.cache_dir,
    )
    assert report.problems == (), told(report)
    assert "none (voluntary) full" in report.observations[0].during


def test_a_command_that_kills_the_unpatched_kernel_is_told_as_that(attempt: Try) -> None:
    report = attempt("good", Expectation(command="echo c >/proc/sysrq-trigger", pattern="x"))
    assert codes(report) == ["trial-unpatched"]
    assert "before the livepatch was loaded" in told(report)


def test_a_guest_that_hangs_is_stopped(attempt: Try) -> None:
    started = time.monotonic()
    report = attempt("hangs", CMDLINE, timeout_s=15)
    assert time.monotonic() - started < 25
    assert codes(report)[0] == "trial-timeout"


def test_a_stock_kernel_with_another_build_id_is_not_the_one(attempt: Try, stock_kernel: GuestKernel) -> None:
    report = attempt("good", kernel=replace(stock_kernel, build_id="ab" * 20))
    assert codes(report) == ["trial-wrong-kernel"]
    assert stock_kernel.build_id in told(report)


def test_a_cancelled_trial_ends_at_once(attempt: Try) -> None:
    cancellation = Cancellation.new()
    threading.Timer(2, cancellation.event.set).start()
    started = time.monotonic()
    with pytest.raises(EnvironmentFault, match="cancelled"):
        attempt("good", cancellation=cancellation)
    assert time.monotonic() - started < 4


@pytest.mark.extended
def test_many_share_a_boot_until_one_damages_it(
    stock_kernel: GuestKernel, samples: Path, tmp_path: Path, settings: Any
) -> None:
    names = ["good", "parent", "oopses", "good", "warns", "parent", "good"]
    parents = {"parent": ["sctp"]}
    expectations = {"parent": (), "warns": ()}
    reports = run_trials(
        kernel=stock_kernel,
        cases=[
            TrialCase(
                livepatch=samples / f"sample_{name}.ko",
                name=f"sample_{name}",
                parents=parents.get(name, ()),
                expectations=expectations.get(name, (CMDLINE,)),
            )
            for name in names
        ],
        work_dir=tmp_path / "work",
        cache_dir=settings.cache_dir,
    )
    assert [report.passed for report in reports] == [name not in {"oopses", "warns"} for name in names]
    assert len(list((tmp_path / "work").glob("console*.log"))) == 3
