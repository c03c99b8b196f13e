# SPDX-License-Identifier: GPL-2.0-or-later
"""Results of a change, as the commands that change this host print them. This module registers no command."""

from __future__ import annotations

from typing import Any

from elivepatch.client.livepatch.change import Changed
from elivepatch.client.livepatch.install import InstallReport
from elivepatch.client.livepatch.inventory import counted
from elivepatch.output import Output
from elivepatch.trust.statement import Statement

STAYS = "{} is out of force, and its module stays in memory until a reboot"


def change_document(action: str, changed: Changed) -> dict[str, Any]:
    """Return the result of a command, for machines (schemas/change.json)."""
    record = changed.live_state.record
    return {
        "action": action,
        "live": [entry.name for entry in changed.live_state.live],
        "set": record.current,
        "series": [{"name": patch.name, "digest": patch.digest} for patch in record.set.series],
        "transitions": [transition.as_dict() for transition in changed.transitions],
        "left_loaded": list(changed.left),
    }


def print_change(action: str, changed: Changed, output: Output) -> None:
    """Print what a command did and what is live now."""
    output.document(change_document(action, changed))
    show_change(changed, output)


def show_change(changed: Changed, output: Output) -> None:
    """Show people what is live now."""
    for transition in changed.transitions:
        way = "in force" if transition.enabling else "out of force"
        output.line(f"{transition.name} is {way} after {transition.seconds:.1f} s")
    for name in changed.left:
        output.line(STAYS.format(name))
    live = ", ".join(entry.name for entry in changed.live_state.live) or "nothing"
    output.line(f"live now: {live}")


def print_install(report: InstallReport, output: Output) -> None:
    """Print how the installation of a livepatch ended."""
    output.document(report.document())
    for finding in report.findings:
        if finding.advice:
            output.line(f"note: {finding.message} [{finding.code}]")
    statement = report.statement
    if report.already_live or statement is None:
        subject = statement.name if statement is not None else "every one of these source patches"
        output.line(f"Nothing to do: {subject} is live already.")
    elif report.changed is None:
        output.line(f"{statement.name} would load: {_contents(report, statement)}.")
    else:
        seconds = sum(transition.seconds for transition in report.changed.transitions)
        output.line(f"{statement.name} is live: {_contents(report, statement)}, in force after {seconds:.1f} s.")
        for name in report.changed.left:
            output.line(f"note: {STAYS.format(name)}")


def _contents(report: InstallReport, statement: Statement) -> str:
    new = sum(patch.digest in report.new for patch in report.series)
    patches = counted(len(report.series), "source patch")
    return f"{counted(len(statement.functions), 'function')} of {statement.release}, {patches} ({new} new)"
