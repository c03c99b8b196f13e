# SPDX-License-Identifier: GPL-2.0-or-later
"""Trial of a job's series on the debugging kernel of its base (docs/thorough.md).

The livepatch of the host's kernel does not fit into another kernel, so the same series is built once more. The trial
there asks for one thing: that KASAN, lockdep and their kin report nothing new.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from elivepatch.build.builders.common import BuildContext
from elivepatch.build.builders.select import build_with_selected
from elivepatch.model.build import Builder, BuildOutcome, BuildRequest, PatchedFunction
from elivepatch.model.errors import Kind, Problem
from elivepatch.model.kernel import VMLINUX
from elivepatch.model.progress import Event
from elivepatch.model.trial import DebugTrial, TrialOutcome, TrialReport
from elivepatch.service.jobs.trials.debug_kernel import PARAMETERS
from elivepatch.service.jobs.trials.guest_kernel import guest_kernel
from elivepatch.trial.qemu import Programs
from elivepatch.trial.run import run_trial

SLOWNESS = 4
"""Times that a debugging kernel may take of the limit of a trial: KASAN and lockdep look at every access and lock."""

_LIMIT_S = 120.0


def no_debug_kernel(release: str) -> DebugTrial:
    """Return the answer of a server that has no debugging kernel for `release`."""
    command = f"elivepatch-server kernel add {release} --debugging"
    return DebugTrial(kernel="", why_not=f"the server has no debugging kernel of {release} (`{command}` makes it)")


def try_on_debug_kernel(
    request: BuildRequest,
    replaced: Sequence[PatchedFunction],
    context: BuildContext,
    *,
    name: str,
    build_dir: Path,
    work_dir: Path,
    cache_dir: Path,
    workload_s: float,
    programs: Programs | None = None,
) -> DebugTrial:
    """Build the series of a request for the debugging kernel `context.base`, and try it there.

    `replaced` are the functions of the host's livepatch. The series is built in `build_dir`, and the guest's files are
    in `work_dir`, as those of `run_trial` are. Raises EnvironmentFault as a builder and a trial do.
    """
    kernel = context.base.release
    context.progress(Event(stage="trial", message=f"building the series for {kernel}"))
    place = build_dir / "build"
    place.mkdir(mode=0o755)
    asked = replace(
        request, release=kernel, base_patches=(), builder=Builder.OBJECTS, paranoid=False, check_only=False,
        rewrite=False,
    )  # fmt: skip
    outcome = build_with_selected(asked, context, name=name, work_dir=place)
    if outcome.module is None:
        return DebugTrial(kernel=kernel, why_not=_why_not_built(outcome))
    report = run_trial(
        kernel=replace(guest_kernel(context.base), vmlinux=None, parameters=PARAMETERS),
        livepatch=outcome.module,
        livepatch_name=name,
        parents=sorted({one.object for one in outcome.functions} - {VMLINUX}),
        expectations=(),
        work_dir=work_dir,
        cache_dir=cache_dir,
        progress=context.progress,
        timeout_s=SLOWNESS * _LIMIT_S,
        cancellation=context.cancellation,
        functions=outcome.functions,
        workload_s=workload_s,
        programs=programs,
    )
    return judged(kernel, replaced, outcome.functions, report)


def judged(
    kernel: str, replaced: Sequence[PatchedFunction], functions: Sequence[PatchedFunction], report: TrialReport
) -> DebugTrial:
    """Return the answer of a trial on the debugging kernel, which replaced `functions` there."""
    there = {(one.source, one.name) for one in functions}
    missing = tuple(f"{one.object}:{one.name}" for one in replaced if (one.source, one.name) not in there)
    found = DebugTrial(
        kernel=kernel, outcome=report.outcome, functions=report.functions, missing=missing, seconds=report.seconds
    )
    if report.outcome is TrialOutcome.FAILED and report.problem is not None:
        return replace(found, problem=_on_kernel(kernel, report.problem))
    if report.trouble_before:
        # lockdep switches itself off with its first report, and a report that is repeated says nothing new.
        why = f"that kernel reported trouble of its own before the livepatch was loaded: {report.trouble_before}"
        return replace(found, outcome=TrialOutcome.INCONCLUSIVE, why_not=why)
    if report.outcome is TrialOutcome.INCONCLUSIVE and report.problem is not None:
        return replace(found, why_not=report.problem.message)
    if report.not_live:
        return replace(found, why_not=f"{report.not_live[0].object} was not live there: {report.not_live[0].why}")
    return found


def _why_not_built(outcome: BuildOutcome) -> str:
    stopped = outcome.problem
    if stopped is None:
        return "the builder made no module for that kernel"
    if stopped.code == "not-built":
        return "that kernel is small and builds none of the files of the series"
    return f"the series cannot be built for that kernel: {stopped.message} [{stopped.code}]"


def _on_kernel(kernel: str, found: Problem) -> Problem:
    return replace(
        found,
        code="trial-debug",
        kind=Kind.FAILURE,
        message=f"The trial on the debugging kernel {kernel} failed: {found.message}",
        advice=f"KASAN and lockdep report faults that a host may not notice at once. {found.advice}",
    )
