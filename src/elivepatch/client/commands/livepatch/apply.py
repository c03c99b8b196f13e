# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch apply`: from source patches to a livepatch in force on this host, carrying everything live along."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from elivepatch.client.host.findings import require
from elivepatch.client.host.identity import read_identity
from elivepatch.client.livepatch.install import Delivery, InstallReport, install, require_asked_for, tell_install
from elivepatch.client.livepatch.live_state import require_settled
from elivepatch.client.livepatch.session import Session, changing
from elivepatch.client.options import SETTINGS_FILE, add_changing
from elivepatch.client.server.api import ServerClient
from elivepatch.client.server.base_patches import add_base_patches, base_patches_of
from elivepatch.client.server.connection import add_connection, add_limit, settings_of
from elivepatch.client.server.follow import JobFollower
from elivepatch.client.server.patch_files import read_series
from elivepatch.client.server.timeout import time_limit
from elivepatch.commandline import Subparsers
from elivepatch.model.build import BuildRequest
from elivepatch.model.errors import BuildStopped, ExitStatus, HostError
from elivepatch.model.kernel import KernelIdentity
from elivepatch.model.progress import Event
from elivepatch.model.series import PatchSeries, SourcePatch
from elivepatch.model.trial import Expectation
from elivepatch.output import Output
from elivepatch.trust.envelope import require_enrolled, verify_envelope


def register(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "apply", help="build source patches for this host and load them", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("patches", metavar="PATCH", nargs="+", type=Path, help="source patches, in order")
    parser.add_argument("--dry-run", action="store_true", help="do everything but load it, and tell the same")
    parser.add_argument(
        "--stack", action="store_true", help="put it beside what is live instead of carrying everything in one"
    )
    parser.add_argument(
        "--expect",
        metavar="'COMMAND =~ REGEX'",
        action="append",
        default=[],
        help="what a command prints in the server's trial while the livepatch is enabled, and only then",
    )
    parser.add_argument("--no-trial", action="store_true", help="do not boot the kernel to try the livepatch first")
    add_base_patches(parser)
    add_limit(parser)
    add_connection(parser)
    add_changing(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Check, build, verify, look closely, load, watch, record."""
    given = read_series(arguments.patches)
    expectations = tuple(Expectation.parse(text) for text in arguments.expect)
    with changing(arguments, output, doing="apply") as session:
        require(session.tools.obstacles)
        require_settled(session.live_state)
        kernel = read_identity(session.machine.host)
        account = InstallReport(kernel=kernel, dry_run=arguments.dry_run, findings=list(session.findings))
        series = _series(session, given.patches, stack=arguments.stack)
        if series is None:
            account.already_live = True
        else:
            # Refused before the build, not after it, where nothing could be believed anyway.
            require_enrolled(session.tools.pinned)
            request = BuildRequest(
                release=kernel.release,
                series=series,
                expectations=expectations,
                trial=not arguments.no_trial,
                replace=not arguments.stack,
                base_patches=base_patches_of(arguments, kernel.release),
            )
            delivery = _build(session, arguments, account, request)
            said = verify_envelope(delivery.envelope, session.tools.pinned)
            require_asked_for(said, series=[patch.digest for patch in series.patches], replace=not arguments.stack)
            names = ", ".join(file.name for file in arguments.patches)
            install(session, delivery, account, reason=f"apply {names}"[:200])
    output.document(account.document())
    tell_install(account, output)
    return ExitStatus.OK


def _series(session: Session, given: Sequence[SourcePatch], *, stack: bool) -> PatchSeries | None:
    """Return what is to be built: everything live and what is new, each once; None where nothing is new."""
    live = list(dict.fromkeys(patch for entry in session.live_state.live for patch in entry.series))
    texts = {patch.digest: patch for patch in given}
    new = [patch for digest, patch in texts.items() if digest not in {one.digest for one in live}]
    if not new:
        return None
    carried = [] if stack else [texts.get(one.digest) or session.store.source(one) for one in live]
    return PatchSeries((*carried, *new))


def _build(session: Session, arguments: argparse.Namespace, account: InstallReport, request: BuildRequest) -> Delivery:
    """Have the server build, wait, fetch module and signature; raises BuildStopped with the server's own problem."""
    host, progress = session.machine.host, session.tools.progress
    settings = settings_of(arguments, environ=os.environ, file=host.path(SETTINGS_FILE))
    follower = JobFollower(progress)
    limit = time_limit(settings.limit_s, unchanged="; nothing was changed on this host")
    with ServerClient(settings) as server, limit as waiting:
        _require_same_build(server.kernels(), account.kernel)
        account.job = waiting.job = job = server.submit(request)
        progress(Event(stage="job", message=f"{job} at {server.url}"))
        try:
            report = follower.follow(server, job)
        except KeyboardInterrupt as interruption:
            left = f"Job {job} goes on at the server; the same command takes it up again."
            raise KeyboardInterrupt(left) from interruption
        if report.problem is not None:
            raise BuildStopped(report.problem)
        module = follower.retry(lambda: server.download(job, "module", report.module_sha256))
        envelope = follower.retry(lambda: server.envelope(job))
    return Delivery(module=module, envelope=envelope, sources=request.series.patches)


def _require_same_build(offered: Sequence[KernelIdentity], ours: KernelIdentity) -> None:
    """Raise HostError where the server knows this release, but only another build of it.

    A release that it does not know at all is its own matter: it may be able to prepare it.
    """
    same = [kernel for kernel in offered if kernel.release == ours.release]
    if same and all(kernel.build_id != ours.build_id for kernel in same):
        raise HostError(
            "other-build",
            f"The server builds for another build of {ours.release}: its build-id is {same[0].build_id}, "
            f"this host runs {ours.build_id}.",
            advice="Add this very kernel on the server (`elivepatch-server kernel add`), or boot the packaged one.",
        )
