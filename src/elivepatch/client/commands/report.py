# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports of jobs: wait for one at the server and show it to people. This module registers no command."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from itertools import groupby

from elivepatch.client.commands.connection import connection_words
from elivepatch.client.host import machine as machines
from elivepatch.client.options import ServerOptions
from elivepatch.client.server.api import ServerClient
from elivepatch.client.server.follow import JobFollower
from elivepatch.client.server.kernels import described_kernel, with_kernel
from elivepatch.client.server.report import Report, Tried
from elivepatch.model.build import BuildRequest
from elivepatch.model.progress import Event
from elivepatch.model.trial import PHASES, DebugTrial, SeenOutside, TrialOutcome
from elivepatch.output import Output

_SEEN = {"loaded-late": "loaded late", "unloaded": "unloaded", "reloaded": "loaded again"}


def submit_job(api: ServerClient, request: BuildRequest, output: Output, *, fresh: bool = False) -> str:
    """Submit a request and return the job's name; the server makes the base of a kernel that it lacks first."""
    return with_kernel(
        api,
        lambda: api.submit(request, fresh=fresh),
        lambda: described_kernel(machines.this_machine().host, request.release, request.base_patches),
        output.progress,
    )


def follow_job(api: ServerClient, job: str, server: ServerOptions, output: Output) -> Report:
    """Return the job's report when it is done. An interruption ends the wait, not the job, and says so."""
    output.progress(Event(stage="job", message=job))
    try:
        return JobFollower(output.progress).follow(api, job)
    except KeyboardInterrupt as interruption:
        again = ["elivepatch", "build", "--follow", job, *connection_words(server)]
        output.note(f"The job goes on at the server. To follow it again: {shlex.join(again)}")
        output.note(f"To end it: {shlex.join(['elivepatch', 'cancel', *again[3:]])}")
        raise KeyboardInterrupt(f"Job {job} goes on at the server.") from interruption


def show_report(report: Report, output: Output) -> None:
    """Show people how a job ended."""
    if report.problem is not None:
        output.problem(report.problem)
    elif report.document.get("base") is not None:
        output.line(f"the server can build for {report.release}")
    elif report.livepatch_name is not None:
        output.line(f"{report.livepatch_name} for {report.release} is built")
    else:
        output.line(f"OK: these patches can be a livepatch for {report.release}")
    for function in report.functions:
        output.line(f"  replaces {function.object}:{function.name}")
    for note in report.notes:
        output.line(f"  note: {note.message} [{note.code}]")
    if report.trial is not None:
        for line in trial_lines(report.trial, stays=any(note.code == "outlives" for note in report.notes)):
            output.line(f"  {line}")
        if report.trial.replay:
            output.line(f"  to run the trial again on the server: {report.trial.replay}")


def trial_lines(trial: Tried, *, stays: bool = False) -> Iterator[str]:
    """Yield the lines about a trial for people; none about one that failed or was inconclusive, which has a problem.

    A livepatch that `stays` in memory is loaded once.
    """
    then = "kept in memory for what it has armed" if stays else "loaded again"
    done = f"loaded, reverted and {then} on {trial.accelerator}"
    if trial.outcome is TrialOutcome.PASSED:
        yield f"trial passed: {done}"
    elif trial.outcome is TrialOutcome.PARTLY:
        code = f"the code in {', '.join(one.object for one in trial.not_live)}" if trial.not_live else trial.left_out
        yield f"trial partly: {done}, but {code} was not tried"
        for one in trial.not_live:
            yield f"  {one.object} was not live in the guest: {one.why}"
    for name, seen in trial.predicates:
        yield f"  predicate {name}: " + ", ".join(f"{seen[phase]} {phase}" for phase in PHASES if phase in seen)
    if trial.outcome in {TrialOutcome.PASSED, TrialOutcome.PARTLY}:
        yield from workload_lines(trial)
        for line in _seen_lines(trial):
            yield f"  {line}"
        if trial.outside is not None:
            yield f"  {outside_line(trial.outside)}"
    if trial.debug is not None:
        yield from debug_lines(trial.debug)


def debug_lines(debug: DebugTrial) -> Iterator[str]:
    """Yield the lines about the trial on the debugging kernel."""
    if debug.outcome is None:
        yield f"  not tried on a debugging kernel: {debug.why_not}"
        return
    there = f"on the debugging kernel {debug.kernel} (KASAN, lockdep)"
    if debug.outcome is TrialOutcome.PASSED:
        ran = sum(bool(one.calls) for one in debug.functions)
        yield f"  {there}: no new report; {ran} of {len(debug.functions)} replaced functions ran"
    elif debug.outcome is TrialOutcome.FAILED:
        yield f"  {there}: it failed"
    else:
        yield f"  {there}: {debug.outcome}, {debug.why_not}"
    if debug.missing:
        yield f"  not replaced there: {', '.join(debug.missing)}"


def outside_line(outside: SeenOutside) -> str:
    """Return the line about the looks into the guest's memory, which are no word of the guest."""
    if not outside.seen:
        return f"not seen from outside the guest: {outside.why_not}"
    to_core = [one.name for one in outside.functions if one.redirected and one.leads_to_new is None]
    to_new = [one.name for one in outside.functions if one.leads_to_new]
    back = [one.name for one in outside.functions if one.restored]
    patched = ", ".join(f"{number} {kind}" for kind, number in outside.self_patched.items())
    parts = [f"{len(to_new)} of {len(outside.functions)} replaced functions led to the new one"]
    parts += [f"{len(to_core)} led to the livepatch core"] if to_core else []
    parts.append(f"{len(back)} had their entry back after the revert")
    parts.append(f"the other {outside.compared_bytes >> 20} MiB of code and constants stayed the same but for places "
                 f"that are patched in any kernel ({patched or 'none'})")  # fmt: skip
    return "seen from outside the guest: " + ", ".join(parts)


def workload_lines(trial: Tried) -> Iterator[str]:
    """Yield the lines about the workload and the calls of the replaced functions."""
    counted = [one for one in trial.functions if one.calls is not None]
    never = [f"{one.object}:{one.function}" for one in counted if one.calls == 0]
    unknown = [f"{one.object}:{one.function}" for one in trial.functions if one.calls is None]
    if counted:
        ran = len(counted) - len(never)
        yield f"  the guest counted calls of {ran} of the {len(trial.functions)} replaced functions"
    for which, what in ((never, "never ran"), (unknown, "not counted")):
        if which:
            yield f"  {what} in the trial: {', '.join(which)}"
    names = [one.name for one in trial.workload if one.during != "not-run"]
    if names:
        yield f"  workload: {', '.join(names)} ({trial.workload_seconds:.0f} s)"
    for one in trial.workload:
        if one.before == one.during == "not-run" and one.words:
            yield f"  workload {one.name} was left out: {one.words}"
    if trial.workload_left_out:
        yield f"  the workload was left out: {trial.workload_left_out}"


def _seen_lines(trial: Tried) -> Iterator[str]:
    """Yield the lines about the ways in which the livepatch met modules and an earlier livepatch."""
    for module, group in groupby(trial.module_changes, key=lambda one: one.module):
        changes = list(group)
        seen = [_SEEN[one.change] for one in changes if one.result == "seen" and one.change in _SEEN]
        if seen:
            yield f"{module} was {', '.join(seen)} while it was live"
        for one in changes:
            if one.result == "refused":
                yield f"this kernel refused to load {module} again while it was live: {one.words}"
            elif one.result != "seen":
                yield f"{module} was not {_SEEN.get(one.change, one.change)} while it was live: {one.words}"
    over = trial.over_earlier
    if over is not None and over.result == "replaced":
        yield f"it replaced {over.name}, which was live before it"
    elif over is not None:
        yield f"it was not tried over an earlier livepatch: {over.words}"
