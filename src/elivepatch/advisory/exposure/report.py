# SPDX-License-Identifier: GPL-2.0-or-later
"""Report records and assessments: JSON-ready mappings with stable keys, the order to read them in, and the sums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from elivepatch.advisory.exposure.affected import Assessment, State
from elivepatch.advisory.exposure.priority import Ranking
from elivepatch.advisory.exposure.version import KernelVersion
from elivepatch.advisory.records.record import Record, id_order

_DRIVERS = ("drivers/", "sound/")
_SEVERITIES = ("critical", "high", "medium", "low", "none", "unrated")


def record_dict(record: Record) -> dict[str, Any]:
    """Return the list's data on one CVE, for every kernel; `score` is CVSS 3.1's, 0 to 10, or None."""
    document: dict[str, Any] = {
        "id": record.id,
        "title": record.title,
        "files": list(record.files),
        "severity": record.severity,
        "score": None if record.score is None else record.score / 10,
        "vector": record.vector,
    }
    if record.overridden:
        document["overridden"] = record.overridden
    if record.contradictory:
        document["contradictions"] = list(record.contradictory)
    if record.older:
        document["older"] = True
    return document


def ranges(record: Record) -> list[dict[str, Any]]:
    """Return every introduction with its fixes, as the list has them; empty texts for values that it lacks."""
    return [
        {
            "introduced": str(group.version),
            "introduced_commit": group.commit,
            "fixes": [{"fixed": str(fix.version), "fixed_commit": fix.commit} for fix in group.fixes],
        }
        for group in record.introductions
    ]


def assessment_dict(assessment: Assessment, ranking: Ranking) -> dict[str, Any]:
    """Return one CVE's state on one kernel, with its evidence, and its ranking if known."""
    document = record_dict(assessment.record) | {
        "state": str(assessment.state),
        "fixed_in": list(assessment.fixed_in),
        "evidence": [evidence.as_dict() for evidence in assessment.evidence],
    }
    if assessment.record.id in ranking.exploited:
        document["exploited_since"] = ranking.exploited[assessment.record.id]
    if assessment.record.id in ranking.probability:
        document["exploit_probability"] = ranking.probability[assessment.record.id]
    return document


def ranked(assessments: Iterable[Assessment], ranking: Ranking) -> list[Assessment]:
    """Return the assessments in the order to read them in: exploited first, then by probability, score and age.

    Without any ranking they stay in their order.
    """
    if not ranking.exploited and not ranking.probability:
        return list(assessments)

    def key(assessment: Assessment) -> tuple[bool, float, int, tuple[int, int]]:
        name = assessment.record.id
        probability = ranking.probability.get(name, 0.0)
        return name not in ranking.exploited, -probability, -(assessment.record.score or 0), id_order(name)

    return sorted(assessments, key=key)


def last_known(assessments: Iterable[Assessment], kernel: KernelVersion) -> str:
    """Return the newest version of the kernel's branch that the records name, empty if they name none.

    Every fix the list has for this branch is in that version; a kernel newer than it is newer than the list.
    """
    levels = {
        version.level
        for assessment in assessments
        for group in assessment.record.introductions
        for version in (group.version, *(fix.version for fix in group.fixes))
        if version.branch == kernel.branch and version.rc is None
    }
    return str(KernelVersion(branch=kernel.branch, level=max(levels))) if levels else ""


def summary(assessments: Sequence[Assessment], kernel: KernelVersion, ranking: Ranking) -> dict[str, Any]:
    """Return the sums over all records: per state, and for affected ones the place of their fix and their code."""
    states = Counter(assessment.state for assessment in assessments)
    affected = [assessment for assessment in assessments if assessment.state is State.AFFECTED]
    severities = Counter(assessment.record.severity for assessment in affected)
    fixes = Counter(_where_fixed(assessment, kernel) for assessment in affected)
    return {
        "kernel": str(kernel),
        "records": len(assessments),
        "states": {str(state): states[state] for state in State},
        "affected": {
            "severity": {severity: severities[severity] for severity in _SEVERITIES},
            "fix": {where: fixes[where] for where in ("branch", "mainline", "none")},
            "drivers_only": sum(_drivers_only(assessment.record) for assessment in affected),
            "exploited": sum(assessment.record.id in ranking.exploited for assessment in affected),
        },
        "last_known_in_branch": last_known(assessments, kernel),
    }


def _where_fixed(assessment: Assessment, kernel: KernelVersion) -> str:
    """Return `branch` if every open introduction has a fix in the kernel's branch, `none` if one has none."""
    branch = KernelVersion(branch=kernel.branch)
    fixes = [evidence.fixed for evidence in assessment.evidence]
    if not all(fixes):
        return "none"
    return "branch" if all(f"{fixed}.".startswith(f"{branch}.") for fixed in fixes) else "mainline"


def _drivers_only(record: Record) -> bool:
    return bool(record.files) and all(file.startswith(_DRIVERS) for file in record.files)
