# SPDX-License-Identifier: GPL-2.0-or-later
"""Automatic run of `elivepatch auto` from a timer: close what the policy chooses, report to the server, print little.

Runs are serialised by a lock, start after a random delay inside the policy's window, and end by the policy's time
limit. A run that is cut short anywhere is continued by the next one: verdicts are written as they come, and only
the load, whose record survives a crash, changes the kernel.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any

from elivepatch.advisory.exposure.summary import funnel
from elivepatch.advisory.fixes.fixes import Silence
from elivepatch.advisory.plan import Choice
from elivepatch.advisory.policy import Policy, read_policy
from elivepatch.client.cve.cache import CveCache
from elivepatch.client.cve.close import CloseResult, close, print_result
from elivepatch.client.cve.options import AutoOptions
from elivepatch.client.cve.plan import CloseSession, open_plan, print_plan, print_silent
from elivepatch.client.cve.subscriptions import Subscriptions
from elivepatch.client.cve.verdict_client import out_of_time
from elivepatch.client.host.machine import Machine
from elivepatch.client.livepatch.live_state import read_live_state
from elivepatch.client.livepatch.store import Store
from elivepatch.client.server.timeout import alarm
from elivepatch.model.errors import BuildStopped, ElivepatchError
from elivepatch.model.progress import Event
from elivepatch.output import Output

_NAMED = 20
_REPORT_S = 30.0
"""Seconds for the report to the server. They come on top of the policy's limit, so that a run that was ended by the
limit is reported too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadline:
    """The end of a run's time, in seconds from its start. Loading has time limits of its own."""

    limit_s: float
    started: float = field(default_factory=time.monotonic)

    def passed(self) -> bool:
        """Return whether the time is up."""
        return time.monotonic() - self.started >= self.limit_s

    def left(self) -> float:
        """Return the seconds that are left, at least a thousandth: a time limit must be positive."""
        return max(self.limit_s - (time.monotonic() - self.started), 0.001)

    def armed(self) -> AbstractContextManager[None]:
        """Return a block that is ended by BuildStopped when the time is up."""
        return alarm(self.left(), lambda: BuildStopped(out_of_time()))


class _CalmOutput(Output):
    """Prints progress only to a terminal: cron mails everything that a job prints."""

    def progress(self, event: Event) -> None:
        """Print an event if standard error is a terminal."""
        if self.err.isatty():
            Output.progress(self, event)


def run_auto(options: AutoOptions, output: Output) -> None:
    """Do one run; raises the error that ended it."""
    calm = _CalmOutput(as_json=output.as_json, out=output.out, err=output.err)
    try:
        _run_auto(options, calm)
    finally:
        output.follow(calm)


def _run_auto(options: AutoOptions, output: Output) -> None:
    plan = options.close.plan
    policy = read_policy(plan.policy)
    if not options.now:
        _wait(policy, plan.machine, output)
        local = plan.machine.clock.now().astimezone().time()
        if policy.window is not None and not policy.window.contains(local):
            output.document({"outside_window": True})
            output.line("Nothing to do: it is outside the policy's window.")
            return
    with plan.cache.run_lock():
        plan.cache.sweep()
        deadline = Deadline(limit_s=policy.limit_s)
        with deadline.armed():
            silent = _update_overlays(policy, plan.cache)
        _plan_and_close(options, output, deadline, silent)


def _plan_and_close(options: AutoOptions, output: Output, deadline: Deadline, silent: Sequence[Silence]) -> None:
    machine = options.close.plan.machine
    with ExitStack() as stack:
        with deadline.armed():
            plan = open_plan(options.close.plan, output, out_of_time=deadline.passed, automatic=True, silent=silent)
            session = stack.enter_context(plan)
        if options.plan_only:
            print_plan(session, output)
            session.require_complete()
            return
        try:
            result = close(session, options.close, output, around_building=deadline.armed, time_left_s=deadline.left)
        except ElivepatchError as error:
            _report(machine, session, "failed", output, problem=error.problem.code)
            raise
        ended = "closed" if result.made.report is not None else "nothing-to-do" if session.complete else "failed"
        problem = "" if session.complete else "incomplete-answer"
        _report(machine, session, ended, output, newly=len(result.newly), problem=problem)
    _print(result, output)
    session.require_complete()


def _report(
    machine: Machine, session: CloseSession, result: str, output: Output, *, newly: int = 0, problem: str = ""
) -> None:
    """Report the end of the run to the server; a failure to do so is a note and never changes how the run ended."""
    try:
        with alarm(_REPORT_S, lambda: BuildStopped(out_of_time())):
            name = machine.host.text("proc/sys/kernel/hostname") or ""
            session.client.server.report_host(
                re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9._-]", "", name)[:120] or "host",
                _report_document(machine, session, result, newly, problem),
            )
    except ElivepatchError as error:
        output.note(f"note: the server took no report of this run: {error.problem.message} [{error.problem.code}]")


def _report_document(machine: Machine, session: CloseSession, result: str, newly: int, problem: str) -> dict[str, Any]:
    counts, sources = session.plan.counts(), session.kernel.subject.sources
    stages = funnel(session.exposed_now(), session.kernel.subject)
    live = read_live_state(machine, Store.of(machine.host).record()).live
    return {
        "kernel": session.kernel.release,
        "build_id": sources.build_id if sources is not None else "",
        "result": result,
        "problem": problem,
        "livepatches": [entry.name for entry in live],
        "open": stages["open"] - newly if "open" in stages else None,
        "closed": counts[Choice.CLOSED],
        "needs_reboot": counts[Choice.NEEDS_REBOOT],
    }


def _print(result: CloseResult, output: Output) -> None:
    """Print the result; one line if nothing changed: a timer's mail should be short."""
    if output.as_json or result.made.report is not None:
        print_result(result, output)
        return
    plan = result.session.plan
    counts = plan.counts()
    unanswered = counts["unanswered"]
    silence = f"{unanswered} CVEs have no answer" if unanswered else "Not every place has answered"
    done = "Nothing to do" if result.session.complete else silence
    output.line(
        f"{done} on {result.session.kernel.title}: {counts['closed']} closed, {counts['needs-reboot']} need a "
        f"reboot, {counts['fix-incomplete']} have an incomplete fix, {counts['no-fix']} without a fix, "
        f"{counts['left-out']} left out by the policy."
    )
    print_silent(result.session, output)
    for one in plan.unanswered()[:_NAMED]:
        output.note(f"note: {one.cve}: {one.reason}")


def _update_overlays(policy: Policy, cache: CveCache) -> list[Silence]:
    """Fetch new commits of overlays if the policy takes fixes from them; one that fails stays as it was.

    Return those that failed: the run goes on with what they had before, and says so at its end.
    """
    silent: list[Silence] = []
    if not any(place.kind == "overlays" for place in policy.places):
        return silent
    for one in Subscriptions(cache).all():
        try:
            one.repository.update()
        except BuildStopped:
            raise
        except ElivepatchError as error:
            silent.append(Silence(place=f"overlay {one.name}", problem=error.problem))
    return silent


def _wait(policy: Policy, machine: Machine, output: Output) -> None:
    """Wait a random part of the policy's jitter, so that a thousand hosts do not ask at once."""
    if policy.jitter_s:
        seconds = secrets.randbelow(policy.jitter_s + 1)
        output.progress(Event(stage="wait", message=f"{seconds} s, so that not all hosts ask at once"))
        machine.clock.sleep(seconds)
