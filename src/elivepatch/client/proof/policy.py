# SPDX-License-Identifier: GPL-2.0-or-later
"""Policy of a host: what a proof must contain before its livepatch is loaded (client.toml, docs/proof.md)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from elivepatch.client.host.findings import Finding, fine, note, stop
from elivepatch.settings import ClientSettings
from elivepatch.trust.statement import Statement

CLOCK_ERROR = timedelta(hours=1)
"""Difference of two clocks that is no reason to doubt a proof."""


def proof_findings(statement: Statement, settings: ClientSettings, now: datetime) -> tuple[Finding, ...]:
    """Compare a verified proof with what the settings of this host ask for."""
    return (
        _trial(statement, settings.require_trial),
        *_builders(statement, settings.require_builders),
        *_age(statement, settings.proof_days, now),
    )


def _trial(statement: Statement, required: str) -> Finding:
    trial = statement.trial
    missing = ", ".join(trial.not_live)
    words = {
        "passed": "its trial passed",
        "partly": f"{missing} was not live in its trial" if missing else "a predicate could not be tried in its trial",
        "none": "it was not tried",
    }
    said = words[trial.outcome]
    accepted = {"none": set(words), "partly": {"passed", "partly"}, "passed": {"passed"}}[required]
    if trial.outcome not in accepted:
        return stop(
            "trial-required",
            f"This host loads a livepatch only if its trial {'passed' if required == 'passed' else 'partly passed'}, "
            f"but {said}.",
            "Try it on a machine that has the hardware, then load it there with --require-trial partly; or change the "
            "setting require_trial of this host."
            if trial.outcome == "partly"
            else "Have the server build it with a trial; --require-trial none loads it although it was not tried.",
        )
    if trial.outcome == "partly":
        return note(
            "trial-partly",
            f"The trial could not try all of it: {said}.",
            "Try the livepatch on one machine with that hardware before the others get it.",
        )
    if trial.outcome == "none":
        return note(
            "trial-none", "The livepatch was never loaded before: it was not tried.", "Load it on one machine first."
        )
    return fine("trial", said)


def _builders(statement: Statement, required: str) -> Iterator[Finding]:
    wanted = {word.strip() for word in required.split(",")} - {""}
    lacking = sorted(wanted - set(statement.tools))
    if lacking:
        yield stop(
            "builder-required",
            f"This host loads a livepatch only if {' and '.join(sorted(wanted))} made it; {lacking[0]} did not.",
            "Have the server build it so (`elivepatch build --builder`, `--paranoid`), or change the setting "
            "require_builders of this host.",
        )


def _age(statement: Statement, days: int, now: datetime) -> Iterator[Finding]:
    finished = f"{statement.finished:%Y-%m-%d %H:%M} UTC"
    if statement.finished > now + CLOCK_ERROR:
        yield stop(
            "proof-future",
            f"The proof is from the future: the livepatch was finished at {finished}.",
            "Set this host's clock. If it is right, the server's is wrong: have the livepatch built again.",
        )
    elif days and now - statement.finished > timedelta(days=days):
        yield stop(
            "proof-old",
            f"The livepatch was finished at {finished}, and this host loads none that is older than {days} days.",
            "Have the server build it again, or change the setting proof_days of this host.",
        )
