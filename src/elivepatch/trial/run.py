# SPDX-License-Identifier: GPL-2.0-or-later
"""Trials in order: one boot for as many livepatches as the guest survives, another boot for the rest."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from elivepatch.model.build import PatchedFunction
from elivepatch.model.errors import EnvironmentFault, Kind, Problem
from elivepatch.model.kernel import Digest
from elivepatch.model.progress import Event, Progress, silent
from elivepatch.model.trial import Expectation, TrialOutcome, TrialReport, predicate_seconds
from elivepatch.process import Cancellation, Completed
from elivepatch.trial import image, qemu
from elivepatch.trial.case import EarlierLivepatch, GuestKernel, TrialCase
from elivepatch.trial.evidence.integrity import Session, check_integrity
from elivepatch.trial.evidence.judge import GuestEnd, judge
from elivepatch.trial.evidence.kernel_log import headline, tail, trouble
from elivepatch.trial.guest_protocol import GUEST, Records, parse
from elivepatch.trial.modules import module_tree
from elivepatch.trial.monitor import GuestMonitor
from elivepatch.trial.outside.watcher import Watcher, watch
from elivepatch.trial.qemu import Programs
from elivepatch.trial.workload import guest_records
from elivepatch.trial.workload.guest_files import devices, plan

_LASTING = frozenset({"trial-wrong-kernel", "trial-predicate-broken"})
"""Codes of errors that a second trial would meet again."""

_LONGEST_S = 3600.0
_PHASES = 5  # in which a predicate runs
_LIVEPATCH_SYMBOL = b".klp.sym."
_OVER = "trial-over"


def run_trial(
    *,
    kernel: GuestKernel,
    livepatch: Path,
    livepatch_name: str,
    parents: Sequence[str],
    expectations: Sequence[Expectation],
    work_dir: Path,
    cache_dir: Path,
    progress: Progress = silent,
    timeout_s: float = 120,
    cancellation: Cancellation | None = None,
    programs: Programs | None = None,
    functions: Sequence[PatchedFunction] = (),
    workload_s: float = 0.0,
    earlier: EarlierLivepatch | None = None,
    predicates: Mapping[Digest, bytes] | None = None,
) -> TrialReport:
    """Try one livepatch on the kernel that it was built for and return the report.

    It is also loaded over `earlier`, if there is one. The calls of `functions`, those that it replaces, are counted,
    and a workload that is chosen for them runs for `workload_s` in all. `predicates` are the programs of predicates in
    C, as predicates/program.py makes them. An inconclusive trial is tried again, once and with twice the time; if the
    guest did not survive the workload alone, without it. `timeout_s` is the limit on a quiet machine, without workload
    and predicates. If the livepatch kills its guest, the report says so. The console's log is `work_dir`/console.log;
    `seconds` of the report is the time of this call. Raises UsageError for a name that is not a module name, and
    EnvironmentFault if the trial cannot run (QEMU, busybox or the kernel's files are missing, or it was cancelled).
    """
    started = time.monotonic()
    work = plan(functions, workload_s)
    case = TrialCase.of(livepatch, livepatch_name, parents, expectations, work, earlier, predicates)

    def attempt(case: TrialCase, limit_s: float) -> TrialReport:
        (report,) = run_trials(
            kernel=kernel, cases=[case], work_dir=work_dir, cache_dir=cache_dir, progress=progress, timeout_s=limit_s,
            cancellation=cancellation, programs=programs,
        )  # fmt: skip
        return report

    report = attempt(case, timeout_s)
    if report.outcome is TrialOutcome.INCONCLUSIVE and report.problems[0].code not in _LASTING:
        progress(Event(stage="trial", message=f"once more: {report.problems[0].message}"))
        lost = report.problems[0].code == guest_records.LOST
        case = replace(case, workload=plan(functions, 0.0)) if lost else case
        report = attempt(case, 2 * timeout_s)
        if lost:
            report = replace(report, workload_left_out=guest_records.LOST_WHY)
    return replace(report, seconds=round(time.monotonic() - started, 2))


def run_trials(
    *,
    kernel: GuestKernel,
    cases: Sequence[TrialCase],
    work_dir: Path,
    cache_dir: Path,
    progress: Progress = silent,
    timeout_s: float = 120,
    cancellation: Cancellation | None = None,
    programs: Programs | None = None,
) -> tuple[TrialReport, ...]:
    """Try several livepatches one after the other and return a report for each, in order.

    They share a guest as long as it stays whole: after the kernel has warned, died or kept a livepatch, the next one
    gets a new boot. `timeout_s` is the limit for each livepatch, with the boot before it, on a quiet machine; it grows
    as monitor.py says. The consoles' logs are
    console.log, console-2.log ... in `work_dir`; `seconds` of a report is that livepatch's own part. Raises the same
    exceptions as `run_trial`.
    """
    used = programs or Programs()
    work_dir.mkdir(parents=True, exist_ok=True)
    boots = _Boots(kernel, work_dir, used, progress, timeout_s, cancellation, len(cases))
    boots.accelerator = qemu.choose_accelerator(kernel, programs=used, cache_dir=cache_dir)
    reports: list[TrialReport] = []
    while len(reports) < len(cases):
        reports += boots.next(cases[len(reports) :], done=len(reports))
    return tuple(reports)


@dataclass(slots=True)
class _Boots:
    """The parts that are the same for all boots of one call, and the number of boots."""

    kernel: GuestKernel
    work_dir: Path
    programs: Programs
    progress: Progress
    timeout_s: float
    cancellation: Cancellation | None
    total: int
    accelerator: str = "tcg"
    count: int = 0

    def next(self, cases: Sequence[TrialCase], *, done: int) -> list[TrialReport]:
        """Boot once and return the reports of at least the first of `cases`."""
        self.count += 1
        number = "" if self.count == 1 else f"-{self.count}"
        scoped = [(f"{done + index:06}", case) for index, case in enumerate(cases)]
        packed = image.pack(scoped, module_tree(self.kernel))
        guest = qemu.Guest(
            image=self.kernel.image,
            initramfs=image.base(self.programs.busybox) + packed.archive,
            console=self.work_dir / f"console{number}.log",
            results=self.work_dir / f"results{number}.txt",
            devices=devices(case.workload for case in cases),
            parameters=self.kernel.parameters,
        )
        watcher = watch(self.kernel.vmlinux, guest.results, scoped)
        self.progress(Event(stage="trial", message=f"booting {self.kernel.release} ({self.accelerator})"))
        monitor = GuestMonitor(
            results=guest.results, console=guest.console, timeout_s=self.timeout_s, cancellation=self.cancellation,
            progress=self.progress, total=self.total, symbols={scope: _symbols(case) for scope, case in scoped},
            workload_s=max(case.workload.budget_s for case in cases),
            allowance_s={scope: _PHASES * predicate_seconds(case.expectations) for scope, case in scoped},
            look=watcher.look,
        )  # fmt: skip
        # The monitor ends the guest; its own limit is for a monitor that does not.
        ended = qemu.boot(
            guest, programs=self.programs, accelerator=self.accelerator, on_tick=monitor.tick,
            timeout_s=_LONGEST_S * len(cases), cancellation=monitor.stop, attach=watcher.attach,
        )  # fmt: skip
        monitor.tick(ended.seconds)
        if self.cancellation is not None and self.cancellation.event.is_set():
            raise EnvironmentFault(
                "cancelled", "The trial was cancelled.", advice="Request it again if you still want it."
            )
        records = parse(guest.results.read_bytes())
        console = guest.console.read_bytes().decode(errors="replace")
        fault = self._fault(records, console, ended) or watcher.fault
        if fault is not None:
            return [self._report(records, fault) for _case in cases]
        reports: list[TrialReport] = []
        for (scope, case), missing in zip(scoped, packed.missing, strict=True):
            if reports and (not records.has(scope, "begin") or _tampered(reports[-1])):
                break
            guest_end = self._guest_end(scope, console, ended, monitor)
            reports.append(self._judged(scope, case, records, guest_end, missing, monitor, watcher))
        return reports

    def _guest_end(self, scope: str, console: str, ended: Completed, monitor: GuestMonitor) -> GuestEnd:
        return GuestEnd(
            console=console[max(0, console.find(f"elivepatch: case {scope} ")) :],
            status=ended.status,
            timed_out=ended.timed_out,
            limit_s=monitor.limit_s(scope),
            slow=monitor.starved(scope) or (ended.timed_out and monitor.makes_progress(ended.seconds)),
        )

    def _judged(
        self,
        scope: str,
        case: TrialCase,
        records: Records,
        guest_end: GuestEnd,
        missing: Sequence[str],
        monitor: GuestMonitor,
        watcher: Watcher,
    ) -> TrialReport:
        verdict = judge(scope, case, records, guest_end, missing)
        problems = verdict.problems
        if not problems:
            session = self._session(scope, records, guest_end, monitor)
            names = [name for where, name in records.values if where == scope]
            contradiction = check_integrity(scope, case, records, session)
            problems = tuple(filter(None, [contradiction or watcher.evasion(scope, names, slow=guest_end.slow)]))
        tampering = watcher.tampering(scope)
        # An earlier livepatch that was not replaced is still live at the end, and the memory shows that.
        if tampering is not None and not any(problem.code == _OVER for problem in problems):
            problems = (*problems, tampering)
        return TrialReport(
            release=records.release,
            build_id=records.build_id,
            accelerator=self.accelerator,
            observations=tuple(each.observation for each in verdict.observed),
            transition_s=verdict.transition_s,
            reverted=verdict.reverted and len(problems) == len(verdict.problems),
            reloaded=verdict.reloaded and len(problems) == len(verdict.problems),
            clean_log=verdict.clean_log and len(problems) == len(verdict.problems),
            seconds=monitor.seconds(scope),
            problems=problems,
            unloaded_parents=verdict.unloaded_parents,
            not_live=verdict.not_live,
            module_reloads=verdict.module_reloads,
            functions=guest_records.calls(scope, case.workload, records),
            workload=guest_records.runs(scope, case.workload, records),
            workload_seconds=guest_records.seconds(scope, records),
            workload_left_out=guest_records.left_out(scope, records),
            module_changes=verdict.module_changes,
            busy_rounds=verdict.busy_rounds,
            over_earlier=verdict.over_earlier,
            outside=watcher.report(scope),
            trouble_before=headline(
                trouble(records.text(GUEST, "log.boot")) or trouble(records.text(scope, "log.before"))
            ),
        )

    def _session(self, scope: str, records: Records, guest_end: GuestEnd, monitor: GuestMonitor) -> Session:
        later = int(scope) + 1
        # The guest's word counts only if there is another case.
        last = later >= self.total or not records.has(f"{later:06}", "begin")
        console = guest_end.console.replace("\r\n", "\n")
        return Session(
            console=console if last else console.partition(f"elivepatch: case {later:06} ")[0],
            status=guest_end.status,
            last=last,
            slow=guest_end.slow,
            arrivals={name: at for (where, name), at in monitor.arrivals.items() if where == scope},
        )

    def _report(self, records: Records, problem: Problem) -> TrialReport:
        return TrialReport(
            release=records.release, build_id=records.build_id, accelerator=self.accelerator, observations=(),
            transition_s=None, reverted=False, reloaded=False, clean_log=False, seconds=0.0, problems=(problem,),
        )  # fmt: skip

    def _fault(self, records: Records, console: str, ended: Completed) -> Problem | None:
        """Return the problem before the first livepatch's turn, if any: not the patch's fault, so its kind is ERROR.

        Raises EnvironmentFault if QEMU itself refused.
        """
        if ended.status > 0 and not records.values and not ended.timed_out:
            raise EnvironmentFault(
                "trial-qemu",
                f"QEMU cannot run a guest: {Path(self.programs.qemu).name} ended with status {ended.status}.",
                advice="Install qemu-system-x86 and util-linux; QEMU's own message is below.",
                excerpt=ended.tail(),
            )
        if not records.has(GUEST, "ready"):
            return Problem(
                code="trial-boot",
                kind=Kind.ERROR,
                message=f"The kernel {self.kernel.release} did not boot in the VM"
                + (f" within {self.timeout_s:.0f} s." if ended.timed_out else "."),
                advice="A trial needs a kernel with initramfs, 8250 serial console, proc and sysfs built in; "
                "see the console log of the trial.",
                excerpt=tail(console, 25) or ended.tail(),
            )
        if (records.build_id, records.release) != (self.kernel.build_id, self.kernel.release):
            return Problem(
                code="trial-wrong-kernel",
                kind=Kind.ERROR,
                message=f"The image booted as {records.release or 'a kernel without a release'} with build-id "
                f"{records.build_id or 'unknown'}, not as {self.kernel.release} with {self.kernel.build_id}.",
                advice="Fetch the image package of exactly the kernel that the livepatch is built for.",
            )
        return None


def _tampered(report: TrialReport) -> bool:
    """Return whether the livepatch left a kernel that no other one can be tried on."""
    return any(problem.code == "trial-memory" for problem in report.problems)


def _symbols(case: TrialCase) -> int:
    """Return half of the symbols that the kernel has to find: it loads the livepatch twice, and over an earlier one."""
    own = case.livepatch.read_bytes().count(_LIVEPATCH_SYMBOL)
    if case.earlier is None:
        return own
    return own + (own + case.earlier.livepatch.read_bytes().count(_LIVEPATCH_SYMBOL) + 1) // 2
