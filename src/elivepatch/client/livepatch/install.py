# SPDX-License-Identifier: GPL-2.0-or-later
"""Installation of a livepatch: verify, preflight, load, watch, record. `apply` and `load` share it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from elivepatch.client.host.findings import Finding, require
from elivepatch.client.host.identity import read_identity
from elivepatch.client.host.modules import check_kernel, open_verified
from elivepatch.client.livepatch.change import Changed, carry_out
from elivepatch.client.livepatch.preflight import lasting, preflight
from elivepatch.client.livepatch.session import Session
from elivepatch.client.livepatch.state import RecordedPatch, SetEntry
from elivepatch.model.errors import HostError, TrustError
from elivepatch.model.kernel import Digest, KernelIdentity
from elivepatch.model.progress import Event
from elivepatch.model.series import SourcePatch
from elivepatch.trust.envelope import verify_envelope, verify_livepatch
from elivepatch.trust.statement import Statement


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A module with its proof, and the texts of its source patches as far as they are known here.

    `job` is the server's name for the job that built it, None for a delivery from files.
    """

    module: bytes
    proof: bytes
    sources: Sequence[SourcePatch] = ()
    job: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallReport:
    """Result of an installation.

    `series` are the source patches in the livepatch and `new` the digests of those that were not live before.
    `changed` is None if nothing was loaded: a dry run, or `already_live`.
    """

    kernel: KernelIdentity
    dry_run: bool
    findings: tuple[Finding, ...]
    series: tuple[RecordedPatch, ...] = ()
    new: frozenset[Digest] = frozenset()
    statement: Statement | None = None
    changed: Changed | None = None
    already_live: bool = False
    job: str | None = None

    def document(self) -> dict[str, Any]:
        """Return the report for machines (schemas/apply.json)."""
        return {
            "kernel": self.kernel.as_dict(),
            "dry_run": self.dry_run,
            "job": self.job,
            "series": [
                {"name": patch.name, "digest": patch.digest, "new": patch.digest in self.new} for patch in self.series
            ],
            "livepatch": self.statement.as_dict() if self.statement is not None else None,
            "findings": [finding.as_dict() for finding in self.findings],
            "already_live": self.already_live,
            "loaded": self.changed is not None,
            "set": self.changed.live_state.record.current if self.changed is not None else None,
            "transitions": [one.as_dict() for one in self.changed.transitions] if self.changed is not None else [],
            "left_loaded": list(self.changed.left) if self.changed is not None else [],
        }


def install(session: Session, delivery: Delivery, *, dry_run: bool, reason: str) -> InstallReport:
    """Verify a delivery, check it before loading and, unless this is a dry run, make it live.

    `reason` goes into record and history. Raises TrustError or HostError if it must not or cannot be loaded.
    """
    tools, live = session.tools, session.live_state.live
    tools.progress(Event(stage="verify", message=f"{len(delivery.module)} bytes"))
    statement = verify_livepatch(delivery.proof, delivery.module, tools.pinned)
    check_kernel(session.machine.host, statement)
    entry = _entry(session, statement, delivery.sources)
    report = InstallReport(
        kernel=read_identity(session.machine.host),
        dry_run=dry_run,
        findings=session.findings,
        series=entry.series,
        new=frozenset(statement.series) - {patch.digest for one in live for patch in one.series},
        statement=statement,
        already_live=any(one.digest == entry.digest for one in live),
        job=delivery.job,
    )
    if report.already_live:
        return report
    _require_cumulative(session, statement)
    _require_not_older(session, statement)
    report = replace(report, findings=(*report.findings, *_kept_and_checked(session, delivery, statement)))
    if dry_run:
        session.store.prune(session.live_state.record)
        return report
    coming = session.live_state.record.followed_by(
        (*(() if statement.replace else live), entry),
        boot_id=session.live_state.boot_id,
        at=session.machine.stamp(),
        reason=reason,
    )
    return replace(report, changed=carry_out(tools, session.live_state, coming, action=reason))


def _kept_and_checked(session: Session, delivery: Delivery, statement: Statement) -> tuple[Finding, ...]:
    """Keep a delivery's files and return the findings of the preflight; raises HostError if one stops."""
    path = session.store.keep(delivery.module, "ko")
    session.store.keep(delivery.proof, "proof", key=statement.digest)
    for patch in delivery.sources:
        session.store.keep(patch.content, "patch")
    session.tools.progress(Event(stage="preflight", message=statement.name))
    with open_verified(session.machine.host, path, delivery.proof, session.tools.pinned) as module:
        findings = (
            *preflight(session.machine, session.live_state, module, session.settings),
            lasting(path, statement),
        )
    require(findings)
    return findings


def _entry(session: Session, statement: Statement, sources: Sequence[SourcePatch]) -> SetEntry:
    names = {patch.digest: patch.name for patch in session.live_state.record.set.series}
    names |= {patch.digest: patch.name for patch in sources}
    return SetEntry(
        name=statement.name,
        digest=statement.digest,
        build_key=statement.build_key,
        replace=statement.replace,
        series=tuple(RecordedPatch(name=names.get(one, f"{one[:12]}.patch"), digest=one) for one in statement.series),
    )


def _require_cumulative(session: Session, statement: Statement) -> None:
    """Raise HostError if a livepatch replaces what is live without carrying all of it: a fix would be lost."""
    if not statement.replace:
        return
    lost = [
        patch for entry in session.live_state.live for patch in entry.series if patch.digest not in statement.series
    ]
    if lost:
        raise HostError(
            "not-cumulative",
            f"{statement.name} replaces what is live but does not carry {lost[0].name}.",
            advice="Build one that carries everything with `elivepatch apply`, or unload what is live first.",
        )


def _require_not_older(session: Session, statement: Statement) -> None:
    """Raise HostError if a newer livepatch of the same series is or was live: somebody may hand out an old mistake."""
    for entry in (entry for one in session.live_state.record.sets for entry in one.entries):
        if entry.digest == statement.digest or tuple(patch.digest for patch in entry.series) != statement.series:
            continue
        try:
            known = verify_envelope(session.store.kept(entry.digest, "proof"), session.tools.pinned)
        except (HostError, TrustError):
            continue  # its server is no longer trusted, or its file is lost: there is nothing to compare with
        # A copy has a name of its own, so that it can be loaded beside one that stays in memory; it is no newer build.
        same = all(known.parameters[one] == statement.parameters[one] for one in ("replace", "copy"))
        if same and statement.finished < known.finished:
            raise HostError(
                "livepatch-older",
                f"{statement.name} was built from the same patches as {entry.name}, and before it: "
                f"{statement.finished:%Y-%m-%d %H:%M:%S}, not {known.finished:%Y-%m-%d %H:%M:%S} UTC.",
                advice="`elivepatch rollback` returns to what was live before. To load another build of these patches, "
                "have the server's operator build them again (`elivepatch build --fresh`).",
            )


def require_requested(statement: Statement, *, series: Sequence[Digest], replace: bool) -> None:
    """Raise TrustError if a server signed something else than was requested."""
    if statement.series != tuple(series):
        raise TrustError(
            "other-series",
            f"{statement.name} was built from other source patches than this host sent.",
            advice="Do not load it. Ask the operator of the server.",
        )
    if statement.replace != replace:
        raise TrustError(
            "other-mode",
            f"{statement.name} {'replaces' if statement.replace else 'does not replace'} what is live, "
            "but the request says otherwise.",
            advice="This server cannot build what was requested; leave --stack out.",
        )
