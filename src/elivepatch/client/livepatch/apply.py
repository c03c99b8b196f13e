# SPDX-License-Identifier: GPL-2.0-or-later
"""Application of source patches to this host: have a server build them with everything live, then install the result.

A build takes up to an hour, so the host's lock is not held while the server works: an emergency `rollback` must not
wait for a build. The lock is taken twice, to read what is live and to install, and nothing is installed if another
command changed what is live in between.

A module that hands out addresses stays in memory after it is taken out, and the kernel loads no second module of its
name. The server then makes a copy under another name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from elivepatch.client.host import machine as machines
from elivepatch.client.host.findings import Finding, require
from elivepatch.client.host.identity import read_identity
from elivepatch.client.host.modules import is_pinned
from elivepatch.client.livepatch.install import Delivery, InstallReport, install, require_requested
from elivepatch.client.livepatch.live_state import require_settled
from elivepatch.client.livepatch.session import Session, changing
from elivepatch.client.livepatch.state import SetEntry
from elivepatch.client.options import ChangeOptions
from elivepatch.client.server.api import ServerClient
from elivepatch.client.server.follow import JobFollower
from elivepatch.client.server.kernels import described_kernel, require_same_build, with_kernel
from elivepatch.client.server.timeout import time_limit
from elivepatch.model.build import COPIES_LIMIT, BuildRequest
from elivepatch.model.errors import BuildStopped, HostError
from elivepatch.model.kernel import KernelIdentity
from elivepatch.model.progress import Event, Progress
from elivepatch.model.series import BasePatch, PatchSeries, SourcePatch
from elivepatch.model.trial import Expectation
from elivepatch.settings import ClientSettings
from elivepatch.trust.envelope import require_enrolled, verify_envelope

_DOING = "apply"
_REASON_CHARACTERS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyOptions:
    """Options of an application.

    With `dry_run` everything is done except loading. With `stack` the livepatch is put beside what is live; otherwise
    it replaces everything live and carries it. Without `trial` the server does not boot the kernel to try it; with
    `thorough` it tries it on a debugging kernel too. `base_patches` are the patches that this kernel was built with.
    """

    change: ChangeOptions
    base_patches: tuple[BasePatch, ...] = ()
    dry_run: bool = False
    stack: bool = False
    trial: bool = True
    thorough: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Starting:
    """State of the host before the build. `series` is None if every given patch is live already."""

    kernel: KernelIdentity
    findings: tuple[Finding, ...]
    live: tuple[SetEntry, ...]
    series: PatchSeries | None


def apply(
    patches: Sequence[SourcePatch],
    expectations: Sequence[Expectation],
    options: ApplyOptions,
    *,
    reason: str,
    progress: Progress,
) -> InstallReport:
    """Have the server build `patches` with everything live, and install the livepatch on this host.

    `reason` goes into record and history. Raises BuildStopped with the server's problem, UsageError, EnvironmentFault,
    TrustError or HostError; what is live is unchanged then, or the error says otherwise. An error with the code
    `live-changed` says that another command changed what is live during the build.
    """
    starting = _start(patches, options, progress)
    if starting.series is None:
        return InstallReport(
            kernel=starting.kernel, dry_run=options.dry_run, findings=starting.findings, already_live=True
        )
    request = BuildRequest(
        release=starting.kernel.release,
        series=starting.series,
        expectations=tuple(expectations),
        trial=options.trial,
        thorough=options.thorough,
        replace=not options.stack,
        base_patches=options.base_patches,
    )
    while True:
        delivery = _build(starting, options.change.settings, request, progress)
        with changing(options.change, progress, doing=_DOING) as session:
            require(session.tools.obstacles)
            _require_unchanged(session, starting)
            require_settled(session.live_state)
            statement = verify_envelope(delivery.proof, session.tools.pinned)
            digests = [one.digest for one in starting.series.patches]
            require_requested(statement, series=digests, replace=request.replace)
            # After the last copy, the check before the load says what is wrong.
            if request.copy == COPIES_LIMIT or not is_pinned(session.machine.host, statement.name):
                return install(session, delivery, dry_run=options.dry_run, reason=reason[:_REASON_CHARACTERS])
        progress(Event(stage="job", message=f"{statement.name} stays in memory; the server makes a copy of it"))
        request = replace(request, copy=request.copy + 1)


def _start(patches: Sequence[SourcePatch], options: ApplyOptions, progress: Progress) -> _Starting:
    """Return the state of the host before the build; raises HostError or TrustError if nothing could be loaded."""
    with changing(options.change, progress, doing=_DOING) as session:
        require(session.tools.obstacles)
        if not options.trial and session.settings.require_trial != "none":
            raise HostError(
                "trial-required",
                "This host loads a livepatch only after a trial, and --no-trial leaves it out.",
                advice="Leave out --no-trial, or add --require-trial none.",
            )
        require_settled(session.live_state)
        series = _series(session, patches, stack=options.stack)
        if series is not None:
            # Refuse before the build: without a pinned key no result could be verified.
            require_enrolled(session.tools.pinned)
        return _Starting(
            kernel=read_identity(session.machine.host),
            findings=session.findings,
            live=session.live_state.live,
            series=series,
        )


def _series(session: Session, given: Sequence[SourcePatch], *, stack: bool) -> PatchSeries | None:
    """Return the series to build: everything live, then what is new, each once; None if nothing is new."""
    live = list(dict.fromkeys(patch for entry in session.live_state.live for patch in entry.series))
    texts = {patch.digest: patch for patch in given}
    new = [patch for digest, patch in texts.items() if digest not in {one.digest for one in live}]
    if not new:
        return None
    carried = [] if stack else [texts.get(one.digest) or session.store.source(one) for one in live]
    return PatchSeries((*carried, *new))


def _build(starting: _Starting, settings: ClientSettings, request: BuildRequest, progress: Progress) -> Delivery:
    """Have the server build, wait, and fetch module and proof; raises BuildStopped with the server's problem."""
    follower = JobFollower(progress)
    limit = time_limit(settings.limit_s, unchanged="; nothing was changed on this host")
    with ServerClient(settings) as server, limit as waiting:
        require_same_build(server.kernels(), starting.kernel.release, starting.kernel.build_id)
        waiting.job = job = with_kernel(
            server,
            lambda: server.submit(request),
            lambda: described_kernel(machines.this_machine().host, request.release, request.base_patches),
            progress,
        )
        progress(Event(stage="job", message=f"{job} at {server.url}"))
        try:
            report = follower.follow(server, job)
        except KeyboardInterrupt as interruption:
            left = f"Job {job} goes on at the server; the same command takes it up again."
            raise KeyboardInterrupt(left) from interruption
        if report.problem is not None:
            raise BuildStopped(report.problem)
        module = follower.retry(lambda: server.download(job, "module", report.module_sha256))
        proof = follower.retry(lambda: server.proof(job))
    return Delivery(module=module, proof=proof, sources=request.series.patches, job=job)


def _require_unchanged(session: Session, starting: _Starting) -> None:
    """Raise HostError if what is live is no longer what the series was made from.

    Not built again by itself: the usual reason is somebody who took a livepatch out in a hurry.
    """
    live = session.live_state.live
    if live != starting.live:
        before, now = (", ".join(one.name for one in entries) or "nothing" for entries in (starting.live, live))
        raise HostError(
            "live-changed",
            f"Another command changed what is live on this host during the build: {before} was live, now {now} is.",
            advice="See `elivepatch history`. If the patches are still wanted, run the same command again.",
        )
