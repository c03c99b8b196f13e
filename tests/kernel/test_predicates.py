# SPDX-License-Identifier: GPL-2.0-or-later
"""Predicates in a trial: the hole is open, closed while the livepatch is live, and open again after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from edits import series_of

from elivepatch.build.base.store import Base
from elivepatch.build.builders.common import BuildContext
from elivepatch.build.builders.select import build_with_selected
from elivepatch.model.build import BuildOutcome, BuildRequest
from elivepatch.model.errors import Kind
from elivepatch.model.predicate import Predicate
from elivepatch.model.trial import Expectation, TrialOutcome, TrialReport
from elivepatch.service.jobs.local_backend import LocalBackend, guest_kernel
from elivepatch.settings import ServerSettings
from elivepatch.trial.case import TrialCase
from elivepatch.trial.predicates.program import PredicateFault
from elivepatch.trial.run import run_trials
from elivepatch.trial.workload.guest_files import NO_WORKLOAD

pytestmark = pytest.mark.kernel

PREDICATES = Path(__file__).with_name("predicates")
SHARED = Path(__file__).parents[3] / "shared/data"
FIXES = SHARED / "cve-fixes-6.1.176"
RED_GREEN_RED = {"before": "open", "during": "closed", "after": "open"}
UDP = ("CVE-2026-53366", "CVE-2026-53362")


def predicate_of(path: Path) -> Expectation:
    return Expectation.of(Predicate.of(path.name, path.read_bytes()))


@dataclass(frozen=True)
class Workshop:
    """Builds fixes for the stock kernel and tries them in one boot."""

    backend: LocalBackend
    base: Base
    settings: ServerSettings
    place: Path

    def build(self, name: str, patch: bytes) -> BuildOutcome:
        """Return the livepatch of a fix; one that a rule rewrites is built as proposed."""
        outcome = self._built(name, patch, rewrite=True)
        if outcome.proposal is not None and outcome.proposal.patch:
            outcome = self._built(f"{name}_rewritten", outcome.proposal.patch.encode(), rewrite=False)
        return outcome

    def _built(self, name: str, patch: bytes, *, rewrite: bool) -> BuildOutcome:
        work_dir = self.place / name
        work_dir.mkdir()
        request = BuildRequest(release=self.base.release, series=series_of(patch), check_only=rewrite, rewrite=rewrite)
        context = BuildContext(base=self.base, toolchains=self.backend.toolchains, jobs=2)
        outcome = build_with_selected(request, context, name=f"livepatch_{name}", work_dir=work_dir)
        if rewrite and outcome.problem is None:
            return self._built(f"{name}_whole", patch, rewrite=False)
        return outcome

    def case(self, outcome: BuildOutcome, *expectations: Expectation) -> TrialCase:
        """Return the case of a livepatch and its predicates, compiled as a server does."""
        assert outcome.module is not None, outcome.problem
        parents = sorted({function.object for function in outcome.functions} - {"vmlinux"})
        programs = self.backend.predicates(self.base, expectations)
        return TrialCase.of(
            outcome.module, outcome.module.stem, parents, expectations, NO_WORKLOAD, predicates=programs
        )

    def reports(self, cases: Sequence[TrialCase], place: str) -> tuple[TrialReport, ...]:
        return run_trials(
            kernel=guest_kernel(self.base), cases=cases, work_dir=self.place / place, cache_dir=self.settings.cache_dir
        )


@pytest.fixture(scope="module")
def workshop(backend: LocalBackend, base_6_1: Base, settings: ServerSettings, shared_path: Path) -> Workshop:
    return Workshop(backend, base_6_1, settings, shared_path)


def told(report: TrialReport) -> str:
    return "\n".join(f"{one.code}: {one.message}\n{one.excerpt}" for one in report.problems)


# Real holes of this kernel.


@pytest.fixture(scope="module")
def cve_reports(workshop: Workshop) -> Mapping[str, TrialReport]:
    """Return the report of each CVE; one boot tries them all."""
    patches = {
        "CVE-2026-53366": FIXES / "CVE-2026-53366.patch",
        "CVE-2026-53362": PREDICATES / "CVE-2026-53362.patch",
        "CVE-2026-72347": FIXES / "CVE-2026-72347.patch",
    }
    cases = [
        workshop.case(
            workshop.build(cve.replace("-", "_").lower(), patch.read_bytes()),
            predicate_of(PREDICATES / f"{cve}.expect.c"),
        )
        for cve, patch in patches.items()
    ]
    return dict(zip(patches, workshop.reports(cases, "cves"), strict=True))


@pytest.mark.extended
@pytest.mark.skipif(not FIXES.is_dir(), reason="the collection of real fixes is not there")
@pytest.mark.parametrize("cve", ["CVE-2026-53366", "CVE-2026-53362", "CVE-2026-72347"])
def test_the_hole_of_a_cve_is_open_then_closed_then_open(cve_reports: Mapping[str, TrialReport], cve: str) -> None:
    report = cve_reports[cve]
    assert report.outcome is TrialOutcome.PASSED, told(report)
    (seen,) = report.observations
    assert {phase: seen.seen[phase] for phase in RED_GREEN_RED} == RED_GREEN_RED
    assert seen.met


# Predicates that do wrong. Each is tried with a livepatch that does right, which must not be blamed.

MEMINFO = Path(__file__).parents[2] / "demo/patches/vmlinux-meminfo.patch"
GREEN = "grep -q VMALLOCCHUNK /proc/meminfo"


def shell(name: str, source: str, limits: str = "seconds=2") -> Expectation:
    return Expectation.of(Predicate(name=f"{name}.sh", source=f"# elivepatch: {limits}\n{source}\n").checked())


HOSTILE_IN_C = """// elivepatch: seconds=2 processes=16 memory=32
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <unistd.h>

int main(void)
{
	int tries;

	kill(1, SIGKILL);
	reboot(RB_AUTOBOOT);
	kill(-1, SIGKILL);
	for (tries = 0; tries < 100; tries++)
		free(calloc(1, 1 << 20));
	for (;;)
		fork();
}
"""
LATE, ANSWERS = "stopped at its time limit", "says nothing about the hole on the unpatched kernel"
# The predicate, the code and the words of the report; those that do no lasting harm come first, in one boot.
HOSTILE: dict[str, tuple[Expectation, str, str]] = {
    "a predicate that hangs": (shell("hangs", "sleep 1000 & while :; do :; done"), "trial-predicate-broken", LATE),
    "a predicate that forks without end and kills all": (
        Expectation.of(Predicate(name="forks.c", source=HOSTILE_IN_C)), "trial-predicate-broken", LATE,
    ),
    "a predicate that takes all memory": (
        shell("eats", "cat /dev/zero | tail", "seconds=20 memory=16"), "trial-predicate-broken", ANSWERS,
    ),
    "a predicate that passes before": (shell("passes", "exit 0"), "trial-predicate", "it proves nothing"),
    "a predicate that never passes": (shell("fails", "exit 1"), "trial-predicate", "finds the hole open while"),
    "a predicate that writes without end": (shell("writes", "yes; exit 1"), "trial-predicate-broken", LATE),
    "a predicate that writes to the ports": (
        shell("forges", f"echo x >/dev/ttyS1; echo c >/proc/sysrq-trigger; rm -rf /observed/*; {GREEN}"), "", "",
    ),
    "a predicate that cannot be tried": (shell("lacks", "echo no lamp; exit 77"), "", ""),
    "a predicate that changes its mind": (
        shell("moody", f"{GREEN} && exit 0; exit 77"), "trial-predicate-broken", "it cannot be tried there",
    ),
    "a predicate that kills the guest": (
        shell("kills", "umount /proc/sysrq-trigger; echo c >/proc/sysrq-trigger"), "trial-unpatched", "sysrq",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def hostile_reports(workshop: Workshop) -> Mapping[str, TrialReport]:
    """Return the report of each hostile predicate; they share boots."""
    outcome = workshop.build("meminfo", MEMINFO.read_bytes())
    cases = [workshop.case(outcome, expectation) for expectation, _code, _words in HOSTILE.values()]
    return dict(zip(HOSTILE, workshop.reports(cases, "hostile"), strict=True))


@pytest.mark.extended
@pytest.mark.parametrize("name", HOSTILE)
def test_a_predicate_that_does_wrong_is_bounded_and_blames_nobody_else(
    hostile_reports: Mapping[str, TrialReport], name: str
) -> None:
    report = hostile_reports[name]
    _expectation, code, words = HOSTILE[name]
    assert [one.code for one in report.problems] == ([code] if code else []), told(report)
    assert words in told(report)
    if code in {"trial-predicate-broken", "trial-unpatched"}:
        assert report.outcome is TrialOutcome.INCONCLUSIVE
        assert all(one.kind is Kind.ERROR for one in report.problems)


@pytest.mark.extended
def test_a_predicate_that_cannot_be_tried_makes_the_trial_partly(hostile_reports: Mapping[str, TrialReport]) -> None:
    report = hostile_reports["a predicate that cannot be tried"]
    assert report.outcome is TrialOutcome.PARTLY
    (seen,) = report.observations
    assert (seen.tried, seen.met, seen.before) == (False, False, "no lamp\n")
    assert set(seen.seen.values()) == {"not tried"}
    assert hostile_reports["a predicate that writes to the ports"].outcome is TrialOutcome.PASSED


@pytest.mark.extended
@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("int main(void) { return lamp; }\n", "lamp.expect.c:1:"),
        ('#include "/in/predicate.c"\n#include "/in/predicate.c"\nint main(void) { return 1; }\n', "#include nested"),
        ('#include "/dev/zero"\nint main(void) { return 1; }\n', ""),
        ("char lamp[1ull << 40] = { 1 };\nint main(void) { return lamp[0]; }\n", ""),
        ("void lamp(void);\nint main(void) { lamp(); }\n", "undefined reference"),
    ],
)
def test_a_predicate_that_does_not_compile_is_a_result(workshop: Workshop, source: str, words: str) -> None:
    expectation = Expectation.of(Predicate(name="lamp.expect.c", source=source))
    with pytest.raises(PredicateFault) as caught:
        workshop.backend.predicates(workshop.base, [expectation])
    assert (caught.value.problem.code, caught.value.problem.kind) == ("predicate-compile", Kind.FAILURE)
    assert words in caught.value.problem.excerpt
    assert len(caught.value.problem.excerpt) < 20_000


@pytest.mark.extended
def test_equal_predicates_give_equal_programs(workshop: Workshop) -> None:
    expectation = predicate_of(MEMINFO.with_suffix(".expect.c"))
    assert workshop.backend.predicates(workshop.base, [expectation]) == workshop.backend.predicates(
        workshop.base, [expectation]
    )
