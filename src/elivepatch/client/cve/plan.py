# SPDX-License-Identifier: GPL-2.0-or-later
"""Plan of `elivepatch cve plan|close` and `auto`: a decision about every CVE that concerns a kernel.

It needs the policy, the kernel's sources, the CVE records, the fixes and the server's verdicts on them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from elivepatch.advisory.exposure.exposure import Exposure, expose
from elivepatch.advisory.exposure.priority import Ranking
from elivepatch.advisory.exposure.sources import KernelSources
from elivepatch.advisory.exposure.summary import funnel
from elivepatch.advisory.fixes.fixes import DirectoryFixes, FixSource, Silence, find_fixes, wanted_of
from elivepatch.advisory.fixes.git_repository import FetchedGitFixes, GitFixes
from elivepatch.advisory.fixes.http import HttpFixes
from elivepatch.advisory.overlay.repository import OverlayFixes
from elivepatch.advisory.plan import (
    Choice,
    ClosePlan,
    reopen,
    select,
    with_fixes,
    with_verdicts,
    within_limit,
    within_request,
)
from elivepatch.advisory.policy import Place, Policy, read_policy
from elivepatch.advisory.records.record import Records
from elivepatch.client.cve.cache import CveCache
from elivepatch.client.cve.inputs import (
    advisory_server,
    age_of,
    completed,
    current_records,
    fetch_records,
    fetch_sources,
    print_age,
    print_findings,
    ranking_of,
    records_of,
)
from elivepatch.client.cve.kernel_under_test import KernelUnderTest, known_kernel
from elivepatch.client.cve.options import PlanOptions, RankingOptions
from elivepatch.client.cve.show import print_funnel
from elivepatch.client.cve.subscriptions import Subscriptions
from elivepatch.client.cve.verdict_client import VerdictClient
from elivepatch.client.host.identity import read_release
from elivepatch.client.host.machine import Machine
from elivepatch.client.livepatch.live_state import read_live_state
from elivepatch.client.livepatch.state import SetEntry
from elivepatch.client.livepatch.store import Store
from elivepatch.client.server.api import ServerClient
from elivepatch.client.server.kernels import described_kernel
from elivepatch.model.errors import EnvironmentFault
from elivepatch.model.kernel import Digest
from elivepatch.output import Output


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseSession:
    """A plan with everything it was made from, while the server can be asked more.

    `exposed` is every CVE on the kernel as it was before; `live` are this host's livepatches that are in force, and
    `live_functions` the functions they replace, as `object:function`. `silent` are the places of records and fixes that
    did not answer, or not with their newest state; `machine` is the host that asks.
    """

    kernel: KernelUnderTest
    policy: Policy
    plan: ClosePlan
    exposed: list[Exposure]
    client: VerdictClient
    live: tuple[SetEntry, ...]
    live_functions: frozenset[str]
    silent: list[Silence]
    records: Records
    machine: Machine

    @property
    def complete(self) -> bool:
        """True if every place, every record and the server has answered for every CVE."""
        return not self.silent and not self.plan.unanswered()

    def require_complete(self) -> None:
        """Raise EnvironmentFault if a place or the server did not answer: what looks done may not be."""
        unanswered = len(self.plan.unanswered())
        if self.complete:
            return
        told = [f"{one.place} did not answer" for one in self.silent[:3]]
        told += [f"{unanswered} CVEs have no answer"] if unanswered else []
        raise EnvironmentFault(
            "incomplete-answer",
            f"The answer is not complete: {', '.join(told)}.",
            advice="All that could be done is done. "
            + " ".join(dict.fromkeys(one.problem.advice for one in self.silent[:3]))
            + ("" if self.silent else "`cve plan --json` has the reason for each CVE; run the command again."),
        )

    def document(self) -> dict[str, Any]:
        """Return the plan for machines."""
        after = self.exposed_now()
        return {
            "release": self.kernel.release,
            "kernel": str(self.kernel.subject.version),
            "funnel": funnel(after, self.kernel.subject),
            "counts": self.plan.counts(),
            "complete": self.complete,
            "silent": [one.as_dict() for one in self.silent],
            **age_of(self.records, self.machine),
            "decisions": [one.as_dict() for choice in Choice for one in self.plan.having(choice)],
        }

    def exposed_now(self) -> list[Exposure]:
        """Return every CVE on the kernel with the verdicts that the server gave meanwhile."""
        verdicts = self.client.verdicts.by_cve
        subject = replace(self.kernel.subject, verdicts=verdicts)
        fresh = expose((one.record for one in self.exposed if one.record.id in verdicts), subject)
        by_id = {one.record.id: one for one in fresh}
        return [by_id.get(one.record.id, one) for one in self.exposed]


@contextmanager
def open_plan(
    options: PlanOptions,
    output: Output,
    *,
    out_of_time: Callable[[], bool] = lambda: False,
    automatic: bool = False,
    silent: Sequence[Silence] = (),
) -> Iterator[CloseSession]:
    """Make a plan and keep the server connected for more; `automatic` requests wait behind those of people.

    `silent` are the places that are known not to have answered. Raises UsageError for a policy that cannot be used,
    HostError if the host's record cannot be read, BuildStopped if time is up or the server is at fault.
    """
    policy, cache = read_policy(options.policy), options.cache
    release = options.release or read_release(options.machine.host)
    with advisory_server(options.machine, options.settings, output) as server:
        sources = _sources(server, options, release, output)
        records = _records(options, policy, server, output)
        kernel = known_kernel(options.machine, cache, sources, output)
        ranking = ranking_of(RankingOptions(kev=policy.kev, epss=policy.epss))
        print_age(records, options.machine, output)
        exposed = expose(records.effective(), kernel.subject)
        client = VerdictClient(
            server=server,
            release=release,
            base_patches=options.base_patches,
            builder=sources.builder,
            cache=cache,
            verdicts=cache.verdicts(release),
            progress=output.progress,
            out_of_time=out_of_time,
            automatic=automatic,
            require_trial=options.settings.require_trial,
            thorough=policy.thorough,
        )
        live, functions = _live(kernel)
        session = CloseSession(
            kernel=kernel,
            policy=policy,
            plan=select(exposed, policy, ranking),
            exposed=exposed,
            client=client,
            live=live,
            live_functions=functions,
            silent=list(silent),
            records=records,
            machine=options.machine,
        )
        _decide(session, fix_places(policy, cache), ranking, output)
        yield session


def _sources(server: ServerClient, options: PlanOptions, release: str, output: Output) -> KernelSources:
    describe = partial(described_kernel, options.machine.host, release, options.base_patches)
    machine = options.machine if options.release is None else None
    return fetch_sources(server, options.cache, release, machine, describe=describe, progress=output.progress)


def fix_places(policy: Policy, cache: CveCache) -> list[FixSource]:
    """Return the places that the policy names, in its order; raises UsageError for one that cannot be used."""
    commits = [_place(place, cache) for place in policy.places if place.kind in {"git", "http"}]
    ready = iter(commits)
    places: list[FixSource] = []
    for place in policy.places:
        if place.kind == "overlays":
            accepted = [one.accepted for one in Subscriptions(cache).all()]
            places.append(OverlayFixes(accepted, commits))
        elif place.kind == "directory":
            places.append(DirectoryFixes(Path(place.where)))
        else:
            places.append(next(ready))
    return places


def print_plan(session: CloseSession, output: Output) -> None:
    """Print a plan: CVEs that are chosen or need a reboot, each with its reason, then the sums."""
    if output.as_json:
        output.document(session.document())
        return
    plan = session.plan
    rows = [
        (one.cve, one.choice, one.exposed.record.severity, one.reason[:100])
        for choice in (
            Choice.CHOSEN,
            Choice.NEEDS_REBOOT,
            Choice.FIX_INCOMPLETE,
            Choice.UNANSWERED,
            Choice.CLOSED,
        )
        for one in plan.having(choice)
    ]
    if rows:
        output.table(("CVE", "", "SEVERITY", "BECAUSE"), rows)
        output.line()
    output.line(session.kernel.title)
    print_funnel(funnel(session.exposed_now(), session.kernel.subject), output)
    output.line("by the policy:")
    for choice, count in plan.counts().items():
        output.line(f"  {choice:<30} {count:>6}")
    print_silent(session, output)


def print_silent(session: CloseSession, output: Output) -> None:
    """Name the places that did not answer, on standard error."""
    for one in session.silent:
        output.note(f"error: {one.place} did not answer: {one.problem.message} [{one.problem.code}]")


def _decide(session: CloseSession, places: Sequence[FixSource], ranking: Ranking, output: Output) -> None:
    plan, client, policy, version = session.plan, session.client, session.policy, session.kernel.subject.version
    now = datetime.now(tz=UTC)
    # Fixes of closed CVEs are looked up too, so that a fix that was applied by hand counts for what it closes.
    looked_up = [one for one in plan.decisions.values() if one.choice in {Choice.CHOSEN, Choice.CLOSED}]
    found = find_fixes(places, [wanted_of(one.exposed.assessment, version) for one in looked_up])
    print_findings(found.findings, output)
    session.silent.extend(found.silent)
    client.note_fixes(found.fixes.values())
    live = {patch.digest for entry in session.live for patch in entry.series}
    for one in plan.having(Choice.CLOSED):
        verdict = client.verdicts.by_cve.get(one.cve)
        if one.cve in found.fixes and verdict is not None and not verdict.closed_by <= live:
            reopen(plan, one.cve, policy, ranking)
    with_fixes(plan, found, policy, now)
    _close_live(session, live)
    for cve, problem in client.ask_about(plan).items():
        plan.decide(cve, Choice.UNANSWERED, f"{problem.message} [{problem.code}]")
    for one, fix in plan.chosen():
        plan.decide(one.cve, one.choice, one.reason, fix=client.left_of(fix))
    _close_live(session, live)
    with_verdicts(plan, client.verdicts.by_cve, live, now)
    within_limit(plan, policy, ranking, session.live_functions)
    within_request(plan, policy, ranking, _live_sizes(session))


def _close_live(session: CloseSession, live: Collection[Digest]) -> None:
    """Take out of the chosen CVEs those whose fix is live, as far as the kernel's source does not have it."""
    for one, fix in session.plan.chosen():
        if all(patch.digest in live for patch in session.client.left_of(fix).patches):
            session.plan.decide(one.cve, Choice.CLOSED, "all source patches of its fix are live")


def _live(kernel: KernelUnderTest) -> tuple[tuple[SetEntry, ...], frozenset[str]]:
    """Return this host's livepatches that are in force and their functions; none for a kernel of another host."""
    if kernel.machine is None:
        return (), frozenset()
    state = read_live_state(kernel.machine, Store.of(kernel.machine.host).record())
    names = {entry.name for entry in state.live}
    functions = (function for one in state.kernel if one.name in names for function in one.functions)
    return state.live, frozenset(f"{function.object}:{function.name}" for function in functions)


def _live_sizes(session: CloseSession) -> dict[Digest, int]:
    """Return the size in bytes of each live source patch; 0 for one whose text is gone, which closing reports."""
    machine = session.kernel.machine
    if machine is None:
        return {}
    store = Store.of(machine.host)
    digests = {patch.digest for entry in session.live for patch in entry.series}
    paths = {digest: store.path_of(digest, "patch") for digest in digests}
    return {digest: path.stat().st_size if path.is_file() else 0 for digest, path in paths.items()}


def _records(options: PlanOptions, policy: Policy, server: ServerClient, output: Output) -> Records:
    """Return the records that count: from the command line, else the policy, else the server, else the cache.

    Records from the policy's source or from the server go into the cache, for later questions.
    """
    given = replace(
        options.records,
        older=options.records.older or policy.older,
        overrides=options.records.overrides or policy.overrides,
    )
    if given.source is not None:
        records = None
    elif policy.records is not None:
        records = current_records(policy.records, options.cache, output)
    else:
        records = fetch_records(server, options.cache)
    if records is None:
        if given.source is None:
            output.note("note: the server keeps no CVE records: those in the cache of this host are used.")
        return records_of(given, options.cache, output)
    return completed(records, given, output)


def _place(place: Place, cache: CveCache) -> FixSource:
    """Return a place that is asked for commits."""
    if place.kind == "http":
        return HttpFixes(place.where)
    if place.where.startswith("/"):
        return GitFixes(Path(place.where))
    return FetchedGitFixes(place.where, cache.repository(place.where))
