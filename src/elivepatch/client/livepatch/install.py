# SPDX-License-Identifier: GPL-2.0-or-later
"""Bringing a livepatch in: verified, looked at closely, loaded, watched, recorded. What apply and load share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from elivepatch.client.host.findings import Finding, require
from elivepatch.client.host.loading import check_kernel, open_verified
from elivepatch.client.livepatch.change import Changed, carry_out
from elivepatch.client.livepatch.inventory import counted
from elivepatch.client.livepatch.preflight import preflight
from elivepatch.client.livepatch.session import Session
from elivepatch.client.livepatch.state import RecordedPatch, SetEntry
from elivepatch.model.errors import HostError, TrustError
from elivepatch.model.kernel import Digest, KernelIdentity
from elivepatch.model.progress import Event
from elivepatch.model.series import SourcePatch
from elivepatch.output import Output
from elivepatch.trust.envelope import verify_livepatch
from elivepatch.trust.statement import Statement


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A module with its signature, and the texts of the source patches in it as far as they are known here."""

    module: bytes
    envelope: bytes
    sources: Sequence[SourcePatch] = ()


@dataclass(slots=True, kw_only=True)
class InstallReport:
    """What apply and load tell when they are done, or were cut short; filled as they go on."""

    kernel: KernelIdentity
    dry_run: bool
    findings: list[Finding] = field(default_factory=list)
    series: Sequence[RecordedPatch] = ()
    new: frozenset[Digest] = frozenset()
    statement: Statement | None = None
    changed: Changed | None = None
    already_live: bool = False
    job: str | None = None

    def document(self) -> dict[str, Any]:
        """Return the account for machines (schemas/apply.json)."""
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


def install(session: Session, delivery: Delivery, account: InstallReport, *, reason: str) -> None:
    """Verify a delivery, look at it closely and, unless this is a dry run, make it live; `account` tells how it went.

    Raises TrustError or HostError where it must not or cannot be loaded.
    """
    session.tools.progress(Event(stage="verify", message=f"{len(delivery.module)} bytes"))
    statement = verify_livepatch(delivery.envelope, delivery.module, session.tools.pinned)
    check_kernel(session.machine.host, statement)
    entry = _entry(session, statement, delivery.sources)
    account.statement, account.series = statement, entry.series
    account.new = frozenset(statement.series) - {
        patch.digest for one in session.live_state.live for patch in one.series
    }
    if any(one.digest == entry.digest for one in session.live_state.live):
        account.already_live = True
        return
    _require_cumulative(session, statement)
    path = session.store.keep(delivery.module, "ko")
    session.store.keep(delivery.envelope, "sig", key=statement.digest)
    for patch in delivery.sources:
        session.store.keep(patch.content, "patch")
    session.tools.progress(Event(stage="preflight", message=statement.name))
    with open_verified(session.machine.host, path, delivery.envelope, session.tools.pinned):
        findings = preflight(session.machine, session.live_state, statement)
    account.findings.extend(findings)
    require(findings)
    if account.dry_run:
        session.store.prune(session.live_state.record)
        return
    live = () if statement.replace else session.live_state.live
    coming = session.live_state.record.followed_by(
        (*live, entry), boot_id=session.live_state.boot_id, at=session.machine.stamp(), reason=reason
    )
    account.changed = carry_out(session.tools, session.live_state, coming, action=reason)


def tell_install(account: InstallReport, output: Output) -> None:
    """Tell people how it went."""
    for finding in account.findings:
        if finding.advice:
            output.line(f"note: {finding.message} [{finding.code}]")
    said = account.statement
    if account.already_live or said is None:
        output.line(f"Nothing to do: {said.name if said else 'every one of these source patches'} is live already.")
    elif account.changed is None:
        output.line(f"{said.name} would load: {_contents(account, said)}.")
    else:
        seconds = sum(transition.seconds for transition in account.changed.transitions)
        output.line(f"{said.name} is live: {_contents(account, said)}, in force after {seconds:.1f} s.")
        for name in account.changed.left:
            output.line(f"note: {name} is out of force but its module stays loaded, harmless, until a reboot")


def _contents(account: InstallReport, said: Statement) -> str:
    new = sum(patch.digest in account.new for patch in account.series)
    patches = counted(len(account.series), "source patch")
    return f"{counted(len(said.functions), 'function')} of {said.release}, {patches} ({new} new)"


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
    """Raise HostError where a livepatch replaces what is live without carrying all of it: a fix would be lost."""
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


def require_asked_for(statement: Statement, *, series: Sequence[Digest], replace: bool) -> None:
    """Raise TrustError where a server signed something else than it was asked for."""
    if statement.series != tuple(series):
        raise TrustError(
            "other-series",
            f"{statement.name} was built from other source patches than those that were sent.",
            advice="Ask whoever runs the server; do not load it.",
        )
    if statement.replace != replace:
        raise TrustError(
            "other-mode",
            f"{statement.name} {'replaces' if statement.replace else 'does not replace'} what is live, unlike asked.",
            advice="This server cannot build what was asked for; leave --stack away.",
        )
