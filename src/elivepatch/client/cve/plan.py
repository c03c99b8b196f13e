# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch cve plan`: what is to become of every CVE that concerns a kernel, by the policy, fixes and verdicts."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from elivepatch.advisory.exposure.exposure import Exposure, expose
from elivepatch.advisory.exposure.ranking import Ranking
from elivepatch.advisory.exposure.summary import funnel
from elivepatch.advisory.fixes.fixes import DirectoryFixes, FixSource, find_fixes, wanted_of
from elivepatch.advisory.fixes.git_repository import FetchedGitFixes, GitFixes
from elivepatch.advisory.fixes.http import HttpFixes
from elivepatch.advisory.overlay.repository import OverlayFixes
from elivepatch.advisory.plan import Choice, ClosePlan, select, with_fixes, with_verdicts, within_limit
from elivepatch.advisory.policy import Place, Policy, read_policy
from elivepatch.advisory.records.record import Record
from elivepatch.client.cve.cache import CveCache
from elivepatch.client.cve.inputs import add_records, completed, effective_records, ranking_of, tell_findings
from elivepatch.client.cve.kernel_under_test import KernelUnderTest, add_keep, kept, question
from elivepatch.client.cve.show import tell_funnel
from elivepatch.client.cve.subscriptions import Subscriptions
from elivepatch.client.cve.update import advisory_server, asking_in_time, current_records, fetch_records, fetch_sources
from elivepatch.client.cve.verdict_client import VerdictClient, note_fixes
from elivepatch.client.host import machine as machines
from elivepatch.client.host.identity import read_release
from elivepatch.client.host.machine import Machine
from elivepatch.client.livepatch.live_state import read_live_state
from elivepatch.client.livepatch.state import SetEntry
from elivepatch.client.livepatch.store import Store
from elivepatch.client.options import add_json
from elivepatch.client.server.advisories import AdvisoryServer
from elivepatch.client.server.base_patches import add_base_patches, base_patches_of
from elivepatch.client.server.connection import add_connection
from elivepatch.model.errors import ExitStatus
from elivepatch.model.kernel import parse_release
from elivepatch.output import Output

POLICY_FILE = "etc/elivepatch/policy.toml"


@dataclass(slots=True, kw_only=True)
class CloseSession:
    """A plan with everything it was made from. `exposed` is every CVE on the kernel as it was before."""

    question: KernelUnderTest
    policy: Policy
    plan: ClosePlan
    exposed: list[Exposure]
    judge: VerdictClient
    live: tuple[SetEntry, ...]

    def document(self) -> dict[str, Any]:
        """Return the plan for machines."""
        after = self.exposed_now()
        return {
            "release": self.question.release,
            "kernel": str(self.question.subject.version),
            "funnel": funnel(after, self.question.subject),
            "counts": self.plan.counts(),
            "decisions": [one.as_dict() for choice in Choice for one in self.plan.having(choice)],
        }

    def exposed_now(self) -> list[Exposure]:
        """Return every CVE on the kernel with what the server said meanwhile."""
        verdicts = self.judge.verdicts.by_cve
        subject = replace(self.question.subject, verdicts=verdicts)
        fresh = expose((one.record for one in self.exposed if one.record.id in verdicts), subject)
        by_id = {one.record.id: one for one in fresh}
        return [by_id.get(one.record.id, one) for one in self.exposed]


def add_planning(parser: argparse.ArgumentParser, *, other_kernels: bool = True) -> None:
    """Add the options of every command that plans, for kernels of other hosts too where that is of use."""
    parser.add_argument(
        "--policy", metavar="FILE", type=Path, help=f"what is to be closed and where fixes may come from "
        f"(default: /{POLICY_FILE}; docs/closing.md)",
    )  # fmt: skip
    if other_kernels:
        parser.add_argument("--kernel", metavar="RELEASE", help="`uname -r` of another host (default: of this one)")
    add_json(parser)
    add_records(parser)
    add_keep(parser)
    add_base_patches(parser)
    add_connection(parser)


def plan_cves(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Print what would be closed, asking the server what it has not been asked before; nothing is built or loaded."""
    with asking_in_time(arguments), planned(arguments, output) as made:
        tell_plan(made, output)
    return ExitStatus.OK


@contextmanager
def planned(
    arguments: argparse.Namespace,
    output: Output,
    *,
    out_of_time: Callable[[], bool] = lambda: False,
    automatic: bool = False,
) -> Iterator[CloseSession]:
    """Make a plan and give it while the server can be asked more; `automatic` ones wait behind what people wait for.

    Raises UsageError for a policy that cannot be used, HostError where the host's record cannot be read, BuildStopped
    where time is up or the server is at fault.
    """
    machine = machines.this_machine()
    policy, keep = policy_of(arguments, machine), kept(arguments)
    arguments.sources, arguments.kev, arguments.epss = None, policy.kev, policy.epss
    release = parse_release(arguments.kernel) if arguments.kernel else read_release(machine.host)
    with advisory_server(arguments, machine, output) as server:
        sources = fetch_sources(server, keep, release, machine if arguments.kernel is None else None)
        records = _records(arguments, policy, server, keep, output)
        asked = question(arguments, output)
        ranking = ranking_of(arguments)
        exposed = expose(records, asked.subject)
        verdicts = keep.verdicts(release)
        judge = VerdictClient(
            server=server,
            release=release,
            base_patches=base_patches_of(arguments, release),
            builder=sources.builder,
            kept=keep,
            verdicts=verdicts,
            progress=output.progress,
            out_of_time=out_of_time,
            automatic=automatic,
        )
        made = CloseSession(
            question=asked,
            policy=policy,
            plan=select(exposed, policy, ranking),
            exposed=exposed,
            judge=judge,
            live=_live(asked),
        )
        _decide(made, fix_places(policy, keep), ranking, output)
        yield made


def policy_of(arguments: argparse.Namespace, machine: Machine) -> Policy:
    """Return the policy that was given, else the host's own; raises UsageError where it cannot be used."""
    return read_policy(arguments.policy or machine.host.path(POLICY_FILE))


def fix_places(policy: Policy, keep: CveCache) -> list[FixSource]:
    """Return the places that the policy names, in its order; raises UsageError for one that cannot be used."""
    commits = [_place(place, keep) for place in policy.places if place.kind in {"git", "http"}]
    ready = iter(commits)
    places: list[FixSource] = []
    for place in policy.places:
        if place.kind == "overlays":
            accepted = [one.accepted for one in Subscriptions(keep).all()]
            places.append(OverlayFixes(accepted, commits))
        elif place.kind == "directory":
            places.append(DirectoryFixes(Path(place.where)))
        else:
            places.append(next(ready))
    return places


def tell_plan(made: CloseSession, output: Output) -> None:
    """Print a plan: what is chosen and what needs a reboot, each with its reason, then the sums."""
    if output.as_json:
        output.document(made.document())
        return
    plan = made.plan
    rows = [
        (one.cve, one.choice, one.exposed.record.severity, one.reason[:100])
        for choice in (Choice.CHOSEN, Choice.NEEDS_REBOOT, Choice.UNANSWERED, Choice.CLOSED)
        for one in plan.having(choice)
    ]
    if rows:
        output.table(("CVE", "", "SEVERITY", "BECAUSE"), rows)
        output.line()
    output.line(made.question.title)
    tell_funnel(funnel(made.exposed_now(), made.question.subject), output)
    output.line("by the policy:")
    for choice, count in plan.counts().items():
        output.line(f"  {choice:<30} {count:>6}")


def _decide(made: CloseSession, places: list[FixSource], ranking: Ranking, output: Output) -> None:
    plan, judge, version = made.plan, made.judge, made.question.subject.version
    # Fixes of what is closed are looked up too: so that what was applied by hand is known for what it closes.
    looked_up = [one for one in plan.decisions.values() if one.choice in {Choice.CHOSEN, Choice.CLOSED}]
    found = find_fixes(places, [wanted_of(one.exposed.assessment, version) for one in looked_up])
    tell_findings(found.findings, output)
    with_fixes(plan, found, made.policy, datetime.now(tz=UTC))
    if note_fixes(judge.verdicts, found.fixes.values(), judge.builder):
        judge.kept.keep_verdicts(judge.verdicts)
    live = {patch.digest for entry in made.live for patch in entry.series}
    for one, fix in plan.chosen():
        if set(fix.digests) <= live:
            plan.decide(one.cve, Choice.CLOSED, "all source patches of its fix are live")
    for cve, problem in judge.judge(plan).items():
        plan.decide(cve, Choice.UNANSWERED, f"{problem.message} [{problem.code}]")
    with_verdicts(plan, judge.verdicts.by_cve, live)
    within_limit(plan, made.policy, ranking, _live_functions(made))


def _live_functions(made: CloseSession) -> set[str]:
    machine = made.question.machine
    if machine is None:
        return set()
    names = {entry.name for entry in made.live}
    live_state = read_live_state(machine, Store.of(machine.host).record())
    return {
        f"{function.object}:{function.name}"
        for one in live_state.kernel
        if one.name in names
        for function in one.functions
    }


def _live(asked: KernelUnderTest) -> tuple[SetEntry, ...]:
    return (
        read_live_state(asked.machine, Store.of(asked.machine.host).record()).live if asked.machine is not None else ()
    )


def _records(
    arguments: argparse.Namespace, policy: Policy, server: AdvisoryServer, keep: CveCache, output: Output
) -> list[Record]:
    """Return the records that count: what the command line names, else the policy, else the server, else what is kept.

    What comes from the policy's source or from the server is kept, so that questions are answered from it later.
    """
    arguments.overrides = arguments.overrides or policy.overrides
    arguments.older = arguments.older or policy.older
    if arguments.records is not None:
        records = None
    elif policy.records is not None:
        records = current_records(policy.records, keep, output)
    else:
        records = fetch_records(server, keep)
    if records is None:
        return effective_records(arguments, output)
    return completed(records, arguments, output).effective()


def _place(place: Place, keep: CveCache) -> FixSource:
    """Return a place that is asked for commits."""
    if place.kind == "http":
        return HttpFixes(place.where)
    if place.where.startswith("/"):
        return GitFixes(Path(place.where))
    return FetchedGitFixes(place.where, keep.repository(place.where))
