# SPDX-License-Identifier: GPL-2.0-or-later
"""`elivepatch verify`: check a livepatch and its proof, without a network, and say what is proved and what is not."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from elivepatch.client.commands.options import add_json, add_module_files
from elivepatch.client.commands.report import trial_lines
from elivepatch.client.host import machine as machines
from elivepatch.client.host.findings import Finding, Level, require
from elivepatch.client.options import SETTINGS_FILE, TRUSTED_FILE
from elivepatch.client.proof.claims import Claim, not_proved, proved, tried_of
from elivepatch.client.proof.files import read_files
from elivepatch.client.proof.policy import proof_findings
from elivepatch.commandline import Subparsers
from elivepatch.model.errors import ElivepatchError, ExitStatus, Problem
from elivepatch.output import Output
from elivepatch.settings import ClientSettings, load
from elivepatch.trust.envelope import verify_livepatch
from elivepatch.trust.keys import PublicKey
from elivepatch.trust.pins import Pin, read_pins
from elivepatch.trust.statement import Statement


def register(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "verify", help="check a livepatch and its proof", description=__doc__, allow_abbrev=False
    )
    add_module_files(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, output: Output) -> ExitStatus:
    """Verify the files and print what the proof says; the status is that of a load, as far as the proof decides it."""
    files = read_files(arguments.module, arguments.proof)
    machine = machines.this_machine()
    settings = load(ClientSettings(), file=machine.host.path(SETTINGS_FILE), flags={}, environ=os.environ)
    pins = {PublicKey.from_hex(pin.public_key): pin for pin in read_pins(machine.host.path(TRUSTED_FILE))}
    statement = verify_livepatch(files.proof, files.module, list(pins))
    signer = next((key, pin) for key, pin in pins.items() if key.fingerprint == statement.builder)
    findings = proof_findings(statement, settings, machine.clock.now())
    refusal = _refusal(findings)
    output.document(_document(statement, signer[1], findings, refusal))
    _show(arguments.module.name, statement, signer, output)
    for finding in findings:
        if finding.level is Level.NOTE:
            output.line(f"note: {finding.message} [{finding.code}]")
    if refusal is not None:
        if not output.as_json:
            output.problem(refusal)
        return refusal.kind.exit_status
    output.line("This host's policy accepts the proof.")
    return ExitStatus.OK


def _refusal(findings: Iterable[Finding]) -> Problem | None:
    try:
        require(findings)
    except ElivepatchError as error:
        return error.problem
    return None


def _document(statement: Statement, pin: Pin, findings: Iterable[Finding], refusal: Problem | None) -> dict[str, Any]:
    """Return the result for machines (schemas/verify.json)."""
    return {
        "livepatch": statement.as_dict(),
        "signed_by": {"url": pin.url, "fingerprint": statement.builder},
        "built": {
            "job": statement.job,
            "started": statement.started.isoformat(),
            "finished": statement.finished.isoformat(),
            "tools": statement.tools,
        },
        "materials": [{"kind": one.kind, "name": one.name, "sha256": one.digest} for one in statement.materials],
        "proved": [one.as_dict() for one in proved(statement)],
        "trial": statement.trial_document,
        "not_proved": [one.as_dict() for one in not_proved(statement)],
        "policy": [finding.as_dict() for finding in findings],
        "problem": refusal.as_dict() if refusal is not None else None,
    }


def _show(file: str, statement: Statement, signer: tuple[PublicKey, Pin], output: Output) -> None:
    key, pin = signer
    tools = ", ".join(f"{name} {version}" for name, version in statement.tools.items())
    output.line(f"{file} is {statement.name}, exactly as the server made it.")
    output.line(f"  signed by {pin.url}, key {key.shown}")
    output.line(f"  for {statement.release}, build-id {statement.build_id}, {statement.arch}")
    output.line(f"  built {_shown(statement.started)} to {_shown(statement.finished)} UTC in job {statement.job}")
    output.line(f"  by {tools}")
    for function in statement.functions:
        output.line(f"  replaces {function.object}:{function.name} ({function.source})")
    output.line("Made from")
    for one in statement.materials:
        output.line(f"  {one.kind} {one.name}: {one.digest}")
    _show_claims("Proved by the checks of the build", proved(statement), output)
    tried = tried_of(statement)
    if tried is not None:
        output.line("Tried in a VM")
        stays = any(note["code"] == "outlives" for note in statement.livepatch["notes"])
        for line in trial_lines(tried, stays=stays):
            output.line(f"  {line}")
    for note in statement.livepatch["notes"]:
        output.line(f"note: {note['message']} [{note['code']}]")
    _show_claims("Not proved", not_proved(statement), output)


def _show_claims(title: str, claims: Iterable[Claim], output: Output) -> None:
    output.line(title)
    for one in claims:
        output.line(f"  {one.message} [{one.code}]")


def _shown(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"
