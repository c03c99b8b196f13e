# SPDX-License-Identifier: GPL-2.0-or-later
"""Summary of the exposure of one kernel: each CVE as JSON, and the funnel from its version to the open CVEs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from elivepatch.advisory.exposure.affected import State
from elivepatch.advisory.exposure.exposure import Certainty, Exposure, ExposureSubject
from elivepatch.advisory.exposure.priority import Ranking
from elivepatch.advisory.exposure.report import assessment_dict
from elivepatch.advisory.exposure.verdicts import FixOutcome


def exposure_dict(exposed: Exposure, subject: ExposureSubject, ranking: Ranking) -> dict[str, Any]:
    """Return one CVE on one kernel: the assessment by version, and the later stages that are known here.

    `built` needs the kernel's sources, `loaded` this host's modules, `closed` this host's record; `open` is there where
    `built` is.
    """
    document = assessment_dict(exposed.assessment, ranking)
    if subject.sources is not None:
        document["built"] = exposed.built.as_dict() | {"parents": list(exposed.parents)}
    if subject.modules is not None:
        document["loaded"] = exposed.loaded.as_dict()
    if subject.closings is not None:
        closed = exposed.closed
        document["closed"] = None if closed is None else {"by": closed.livepatch, "functions": list(closed.functions)}
    if subject.sources is not None:
        document["open"] = exposed.open
        document["fix"] = fix_dict(exposed)
    return document


def fix_dict(exposed: Exposure) -> dict[str, Any]:
    """Return the verdict on a CVE's fix for this kernel."""
    verdict = exposed.verdict
    if verdict is None:
        return {"outcome": str(FixOutcome.UNTRIED)}
    document: dict[str, Any] = {"outcome": str(exposed.outcome), "functions": list(verdict.functions)}
    if verdict.problem is not None:
        document |= {"code": verdict.problem.code, "reason": verdict.problem.message, "advice": verdict.problem.advice}
    return document


def funnel(exposed: Sequence[Exposure], subject: ExposureSubject) -> dict[str, Any]:
    """Return how many CVEs are left at each stage, from the version to the open ones.

    `affected` and `unknown` are those by version, changelog and source; `built` counts these by certainty, `loaded`
    those that concern the kernel; `closed` and `open` add up to the latter; `fixes` counts their fixes by outcome.
    """
    states = Counter(one.assessment.state for one in exposed)
    exposing = [one for one in exposed if one.assessment.state in {State.AFFECTED, State.UNKNOWN}]
    concerned = [one for one in exposing if one.concerned]
    built = Counter(one.built.certainty for one in exposing)
    loaded = Counter(one.loaded.certainty for one in concerned)
    fixes = Counter(one.outcome for one in concerned)
    document: dict[str, Any] = {"affected": states[State.AFFECTED], "unknown": states[State.UNKNOWN]}
    if subject.sources is not None:
        document["built"] = {str(one): built[one] for one in Certainty}
    if subject.modules is not None:
        document["loaded"] = {str(one): loaded[one] for one in Certainty}
    if subject.closings is not None:
        document["closed"] = sum(one.closed is not None for one in concerned)
    if subject.sources is not None:
        document["open"] = sum(one.open for one in concerned)
        document["fixes"] = {str(one): fixes[one] for one in FixOutcome}
    return document
