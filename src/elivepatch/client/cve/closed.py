# SPDX-License-Identifier: GPL-2.0-or-later
"""Answer of `elivepatch cve closed`: if one CVE is closed on the running kernel, and by which evidence."""

from __future__ import annotations

from typing import Any

from elivepatch.advisory.exposure.affected import State
from elivepatch.advisory.exposure.exposure import Certainty, Exposure, ExposureSubject, expose
from elivepatch.client.cve.inputs import age_of, print_age, records_of
from elivepatch.client.cve.kernel_under_test import kernel_under_test
from elivepatch.client.cve.options import KernelOptions
from elivepatch.client.cve.show import find_record
from elivepatch.model.errors import EnvironmentFault, ExitStatus
from elivepatch.output import Output


def is_closed(options: KernelOptions, name: str, output: Output) -> ExitStatus:
    """Print if a CVE is closed on this host's kernel; return OK if it is and FAILED if it is open.

    A CVE that never was in this kernel counts as closed. Raises EnvironmentFault if it is not known, UsageError for a
    CVE that the records do not have: what nobody looked at is never closed.
    """
    records = records_of(options.records, options.cache, output)
    record = find_record(records, name)
    kernel = kernel_under_test(options, output)
    print_age(records, options.machine, output)
    about = {"id": name, "kernel": str(kernel.subject.version), "release": kernel.release}
    about |= age_of(records, options.machine)
    if record is None:
        reason = "the list has withdrawn it, which says nothing about the code: it may be another CVE's by now"
        output.document(about | {"closed": None, "by": "rejected", "reason": reason, "evidence": []})
        raise _undecided(name, reason)
    (exposed,) = expose([record], kernel.subject)
    closed, by, reason = _judged(exposed, kernel.subject)
    evidence = [one.as_dict() for one in exposed.assessment.evidence]
    document: dict[str, Any] = about | {"closed": closed, "by": by, "reason": reason, "evidence": evidence}
    output.document(document)
    if closed is None:
        raise _undecided(name, reason)
    output.line(f"{name} is {'closed' if closed else 'open'} on {kernel.title}: {reason}.")
    return ExitStatus.OK if closed else ExitStatus.FAILED


def _judged(exposed: Exposure, subject: ExposureSubject) -> tuple[bool | None, str, str]:
    """Return if the CVE is closed (None: not known), the kind of evidence, and the evidence for people."""
    state = exposed.assessment.state
    reason = "; ".join(one.reason for one in exposed.assessment.evidence)
    if exposed.closed is not None and exposed.concerned:
        return True, "livepatch", f"a livepatch that is in force closes it, {exposed.closed.reason}"
    if state is State.FIXED:
        return True, "release", reason
    if state is State.NOT_AFFECTED:
        return True, "not-affected", reason
    if exposed.built.certainty is Certainty.NO:
        return True, "not-built", exposed.built.reason
    if state is State.UNKNOWN:
        return None, "unknown", reason
    if subject.sources is not None and subject.closings is None:
        return None, "unknown", "it is not known which livepatches are in force, and the kernel itself has the bug"
    return False, "open", reason


def _undecided(name: str, reason: str) -> EnvironmentFault:
    return EnvironmentFault(
        "cve-undecided",
        f"It is not known if {name} is closed here: {reason.rstrip('.')}.",
        advice="Treat it as open; `elivepatch cve show` prints all that is known, an overrides file can decide it.",
    )
