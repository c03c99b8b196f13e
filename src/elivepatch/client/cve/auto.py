# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch auto`: what a timer runs. Learns what is new, closes what the policy chooses, and says so in few words.

One at a time, after a random wait, inside the policy's window, and never longer than its limit. Whatever cuts a run
short, the next one goes on from what is kept: verdicts are written as they come, and the kernel is changed by `apply`
alone, whose record survives a cut.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from elivepatch.advisory.exposure.summary import funnel
from elivepatch.advisory.plan import Choice
from elivepatch.advisory.policy import Policy
from elivepatch.client.cve.cache import CveCache
from elivepatch.client.cve.close import CloseResult, close, tell_closed
from elivepatch.client.cve.kernel_under_test import kept
from elivepatch.client.cve.plan import CloseSession, planned, policy_of, tell_plan
from elivepatch.client.cve.subscriptions import Subscriptions
from elivepatch.client.cve.verdict_client import out_of_time
from elivepatch.client.host import machine as machines
from elivepatch.client.host.machine import Machine
from elivepatch.client.livepatch.live_state import read_live_state
from elivepatch.client.livepatch.store import Store
from elivepatch.client.server.timeout import alarm
from elivepatch.model.errors import BuildStopped, ElivepatchError, ExitStatus, HostError
from elivepatch.model.progress import Event
from elivepatch.output import Output


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadline:
    """When a run must be over. `armed` while it is planning and building: loading has time limits of its own."""

    limit_s: float
    started: float = field(default_factory=time.monotonic)

    def passed(self) -> bool:
        """Tell whether the time is up."""
        return time.monotonic() - self.started >= self.limit_s

    def armed(self) -> AbstractContextManager[None]:
        """Return what raises BuildStopped, wherever its block is, when the time is up."""
        left = self.limit_s - (time.monotonic() - self.started)
        return alarm(max(left, 0.001), lambda: BuildStopped(out_of_time()))


class _Calm(Output):
    """Shows progress to people only: cron mails whatever is printed."""

    def progress(self, event: Event) -> None:
        """Show an event where somebody may be looking."""
        if self.err.isatty():
            Output.progress(self, event)


def run(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Do one run; the status is that of what went wrong, 0 where nothing did."""
    output = _Calm(as_json=output.as_json, out=output.out, err=output.err)
    machine = machines.this_machine()
    policy = policy_of(arguments, machine)
    keep = kept(arguments)
    if not arguments.now:
        _wait(policy, machine, output)
        if policy.window is not None and not policy.window.contains(machine.clock.now().astimezone().time()):
            output.document({"outside_window": True})
            output.line("Nothing to do: it is not the time of the policy's window.")
            return ExitStatus.OK
    with _alone(keep):
        deadline = Deadline(limit_s=policy.limit_s)
        with deadline.armed():
            _update_overlays(policy, keep, output)
        return _plan_and_close(arguments, output, deadline)


def _plan_and_close(arguments: argparse.Namespace, output: Output, deadline: Deadline) -> ExitStatus:
    with ExitStack() as stack:
        with deadline.armed():
            made = stack.enter_context(planned(arguments, output, out_of_time=deadline.passed, automatic=True))
        if arguments.plan_only:
            tell_plan(made, output)
            return ExitStatus.OK
        try:
            closed = close(made, arguments, output, around_building=deadline.armed)
        except ElivepatchError as error:
            _report(made, "failed", output, problem=error.problem.code)
            raise
        _report(made, "nothing-to-do" if closed.made.report is None else "closed", output, newly=len(closed.newly))
    _tell(made, closed, output)
    return ExitStatus.OK


def _report(made: CloseSession, result: str, output: Output, *, newly: int = 0, problem: str = "") -> None:
    """Tell the server how the run ended; the run is what it is where that fails."""
    machine, counts = machines.this_machine(), made.plan.counts()
    sources = made.question.subject.sources
    stages = funnel(made.exposed_now(), made.question.subject)
    live = read_live_state(machine, Store.of(machine.host).record()).live
    document = {
        "kernel": made.question.release,
        "build_id": sources.build_id if sources is not None else "",
        "result": result,
        "problem": problem,
        "livepatches": [entry.name for entry in live],
        "open": stages["open"] - newly if "open" in stages else None,
        "closed": counts[Choice.CLOSED],
        "needs_reboot": counts[Choice.NEEDS_REBOOT],
    }
    name = machine.host.text("proc/sys/kernel/hostname") or ""
    try:
        made.judge.server.report_host(re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9._-]", "", name)[:120] or "host", document)
    except ElivepatchError as error:
        output.note(f"note: the server took no report of this run: {error.problem.message} [{error.problem.code}]")


def _tell(made: CloseSession, closed: CloseResult, output: Output) -> None:
    """Tell in one line where nothing changed: a timer's mail should be short."""
    if output.as_json or closed.made.report is not None:
        tell_closed(closed, output)
        return
    counts = made.plan.counts()
    output.line(
        f"Nothing to do on {made.question.title}: {counts['closed']} closed, {counts['needs-reboot']} need a reboot, "
        f"{counts['no-fix']} without a fix, {counts['left-out']} left out by the policy."
    )
    for one in made.plan.unanswered():
        output.note(f"note: {one.cve}: {one.reason}")


def _update_overlays(policy: Policy, keep: CveCache, output: Output) -> None:
    """Fetch what is new where the policy takes fixes from overlays; one that fails is told and used as it was."""
    if not any(place.kind == "overlays" for place in policy.places):
        return
    for one in Subscriptions(keep).all():
        try:
            one.repository.update()
        except BuildStopped:
            raise
        except ElivepatchError as error:
            output.note(f"note: overlay {one.name}: {error.problem.message} [{error.problem.code}]")


def _wait(policy: Policy, machine: Machine, output: Output) -> None:
    """Wait a random part of the policy's jitter, so that a thousand hosts do not ask at once."""
    if policy.jitter_s:
        seconds = secrets.randbelow(policy.jitter_s + 1)
        output.progress(Event(stage="wait", message=f"{seconds} s, so that not all hosts ask at once"))
        machine.clock.sleep(seconds)


@contextmanager
def _alone(keep: CveCache) -> Iterator[None]:
    """Be the only run on this host; raises HostError at once where there is another one."""
    keep.make(keep.directory)
    path = keep.directory / "auto.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _busy(path) from None
        keep.sweep()
        yield
    finally:
        os.close(descriptor)


def _busy(path: Path) -> HostError:
    return HostError(
        "auto-running",
        f"Another run of `elivepatch auto` holds {path}.",
        advice="Wait until it is done; it ends by itself after the policy's limit_minutes.",
    )
