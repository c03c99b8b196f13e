# SPDX-License-Identifier: GPL-2.0-or-later
"""The exposure of one kernel as an OpenVEX document, for scanners that only know versions.

The format is that of the OpenVEX specification 0.2.0 and its JSON schema (openvex.dev): a statement with the status
`not_affected` carries a justification, one with `affected` an action. Code that this configuration does not build is
`vulnerable_code_not_present`; a CVE that a livepatch closes keeps its vulnerable package, so it is `not_affected`
with `inline_mitigations_already_exist`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from elivepatch.advisory.exposure.affected import State
from elivepatch.advisory.exposure.exposure import Certainty, Exposure, ExposureSubject
from elivepatch.advisory.exposure.sources import vanilla_purl
from elivepatch.advisory.exposure.verdicts import FixOutcome
from elivepatch.files.digest import sha256_json

CONTEXT = "https://openvex.dev/ns/v0.2.0"


def openvex(
    exposed: Sequence[Exposure], subject: ExposureSubject, *, author: str, tool: str, at: datetime
) -> dict[str, Any]:
    """Return the document: one statement per CVE about the kernel's package, or about the vanilla kernel.

    Its id is made of its statements, so that the same statements have the same id. `at` has a time zone.
    """
    product = subject.sources.purl if subject.sources is not None else vanilla_purl(subject.version)
    statements = [_statement(one, product) for one in exposed]
    digest = sha256_json(statements)
    return {
        "@context": CONTEXT,
        "@id": f"urn:elivepatch:vex:{digest}",
        "author": author,
        "timestamp": at.isoformat(timespec="seconds"),
        "version": 1,
        "tooling": tool,
        "statements": statements,
    }


def _statement(exposed: Exposure, product: str) -> dict[str, Any]:
    statement: dict[str, Any] = {"vulnerability": {"name": exposed.record.id}, "products": [{"@id": product}]}
    evidence = "; ".join(one.reason for one in exposed.assessment.evidence[:4])
    state = exposed.assessment.state
    if state is State.FIXED:
        return statement | {"status": "fixed", "status_notes": evidence}
    if state is State.NOT_AFFECTED:
        return statement | _not_affected("vulnerable_code_not_present", evidence)
    if exposed.built.certainty is Certainty.NO:
        return statement | _not_affected("vulnerable_code_not_present", exposed.built.reason)
    if exposed.closed is not None:
        return statement | _not_affected("inline_mitigations_already_exist", f"closed by {exposed.closed.reason}")
    if state is State.UNKNOWN:
        return statement | {"status": "under_investigation", "status_notes": evidence}
    return statement | {"status": "affected", "status_notes": evidence, "action_statement": _action(exposed)}


def _not_affected(justification: str, notes: str) -> dict[str, str]:
    return {"status": "not_affected", "justification": justification, "status_notes": notes}


def _action(exposed: Exposure) -> str:
    verdict = exposed.verdict
    if verdict is not None and verdict.outcome is FixOutcome.CONVERTIBLE:
        return "Close it without a reboot: elivepatch cve close."
    newer = exposed.assessment.newer
    fixes = [newer] if newer else sorted({one.fixed for one in exposed.assessment.evidence if one.fixed})
    if exposed.outcome is FixOutcome.FIX_INCOMPLETE:
        return (
            f"Its fix ({', '.join(fixes) or 'not listed yet'}) does not go into this kernel: prerequisites are missing."
        )
    if exposed.outcome is FixOutcome.NEEDS_REBOOT:
        return f"Boot a kernel that has the fix ({', '.join(fixes) or 'none is listed yet'}): it cannot be a livepatch."
    if fixes:
        return f"Boot a kernel that has the fix ({', '.join(fixes)}), or close it with elivepatch cve close."
    return "No fix is listed yet."
