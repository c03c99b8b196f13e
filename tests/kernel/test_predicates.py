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
from elivepatch.service.jobs.local_backend import LocalBackend
from elivepatch.service.jobs.trials.guest_kernel import guest_kernel
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
        "CVE-2026-74578": FIXES / "CVE-2026-74578.patch",
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
@pytest.mark.parametrize("cve", ["CVE-2026-53366", "CVE-2026-53362", "CVE-2026-72347", "CVE-2026-74578"])
def test_the_hole_of_a_cve_is_open_then_closed_then_open(cve_reports: Mapping[str, TrialReport], cve: str) -> None:
    report = cve_reports[cve]
    assert report.outcome is TrialOutcome.PASSED, told(report)
    (seen,) = report.observations
    assert {phase: seen.seen[phase] for phase in RED_GREEN_RED} == RED_GREEN_RED
    assert seen.met


# Predicates that do wrong. Each is tried with a livepatch that does right, which must not be blamed.

MEMINFO = Path(__file__).parents[2] / "demo/patches/vmlinux-meminfo.patch"
GREEN = "grep -q VMALLOCCHUNK /proc/meminfo"
BROKEN = "trial-predicate-broken"


def shell(name: str, source: str, limits: str = "seconds=2") -> Expectation:
    return Expectation.of(Predicate(name=f"{name}.sh", source=f"# elivepatch: {limits}\n{source}\n").checked())


HOSTILE_IN_C = """// elivepatch: seconds=2 processes=16 memory=32
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

int main(void)
{
	int tries;

	kill(1, SIGKILL);
	kill(-1, SIGKILL);
	for (tries = 0; tries < 100; tries++)
		free(calloc(1, 1 << 20));
	for (;;)
		fork();
}
"""
# The predicates of each trial, with the code and words of the problem that each one gives. Those of the last trial end
# its guest.
HOSTILE: dict[str, dict[str, tuple[Expectation, str, str]]] = {
    "no answer": {
        "hangs": (shell("hangs", "sleep 1000 & while :; do :; done", "seconds=1"), BROKEN, "stopped at its time limit"),
        "forks without end and kills all": (
            Expectation.of(Predicate(name="forks.c", source=HOSTILE_IN_C)), BROKEN, "stopped at its time limit",
        ),
        "restarts the machine": (shell("restarts", "reboot -f; kill -9 1; sleep 9", "seconds=1"), BROKEN, "ended it"),
        "takes all memory": (shell("eats", "cat /dev/zero | tail", "seconds=2 memory=16"), BROKEN, "says nothing"),
        "changes its mind": (shell("moody", f"{GREEN} && exit 0; exit 77"), BROKEN, "it cannot be tried there"),
    },
    "no proof": {
        "passes before": (shell("passes", "exit 0"), "trial-predicate", "it proves nothing"),
        "never passes": (shell("fails", "exit 1"), "trial-predicate", "finds the hole open while"),
        "writes without end": (shell("writes", "yes; exit 1"), "trial-predicate", "finds the hole open while"),
    },
    "harmless": {
        "writes to the ports": (
            shell("forges", f"echo x >/dev/ttyS1; echo c >/proc/sysrq-trigger; rm -rf /observed/*; {GREEN}"), "", "",
        ),
        "cannot be tried": (shell("lacks", "echo no lamp; exit 77"), "", ""),
    },
    "deadly": {
        "kills the guest": (
            shell("kills", "umount /proc/sysrq-trigger; echo c >/proc/sysrq-trigger"), "trial-unpatched", "sysrq",
        ),
    },
}  # fmt: skip
OUTCOMES = {"no answer": "inconclusive", "no proof": "failed", "harmless": "partly", "deadly": "inconclusive"}


@pytest.fixture(scope="module")
def hostile_reports(workshop: Workshop) -> Mapping[str, TrialReport]:
    """Return the report of each trial with hostile predicates; they share boots."""
    outcome = workshop.build("meminfo", MEMINFO.read_bytes())
    cases = [workshop.case(outcome, *(one for one, _code, _words in group.values())) for group in HOSTILE.values()]
    return dict(zip(HOSTILE, workshop.reports(cases, "hostile"), strict=True))


@pytest.mark.extended
@pytest.mark.parametrize("group", HOSTILE)
def test_predicates_that_do_wrong_are_bounded_and_blame_nobody_else(
    hostile_reports: Mapping[str, TrialReport], group: str
) -> None:
    report = hostile_reports[group]
    expected = [(code, words) for _one, code, words in HOSTILE[group].values() if code]
    assert [one.code for one in report.problems] == [code for code, _words in expected], told(report)
    for problem, (code, words) in zip(report.problems, expected, strict=True):
        assert words in problem.message
        assert problem.kind is (Kind.FAILURE if code == "trial-predicate" else Kind.ERROR)
    assert report.outcome == OUTCOMES[group]


@pytest.mark.extended
def test_a_predicate_that_cannot_be_tried_is_told_and_not_passed(hostile_reports: Mapping[str, TrialReport]) -> None:
    forges, lacks = hostile_reports["harmless"].observations
    assert (forges.tried, forges.met) == (True, True)
    assert (lacks.tried, lacks.met, lacks.before) == (False, False, "no lamp\n")
    assert set(lacks.seen.values()) == {"not tried"}


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
    assert (caught.value.problem.code, caught.value.problem.kind) == ("trial-predicate-compile", Kind.FAILURE)
    assert words in caught.value.problem.excerpt
    assert len(caught.value.problem.excerpt) < 20_000


@pytest.mark.extended
def test_equal_predicates_give_equal_programs(workshop: Workshop) -> None:
    expectation = predicate_of(MEMINFO.with_suffix(".expect.c"))
    assert workshop.backend.predicates(workshop.base, [expectation]) == workshop.backend.predicates(
        workshop.base, [expectation]
    )
