# SPDX-License-Identifier: GPL-2.0-or-later
"""How the exposure of one kernel is told: each CVE as JSON, and the funnel from its version to what stays open."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from elivepatch.advisory.exposure.affected import State
from elivepatch.advisory.exposure.exposure import Certainty, Exposure, ExposureSubject
from elivepatch.advisory.exposure.ranking import Ranking
from elivepatch.advisory.exposure.report import assessment_dict
from elivepatch.advisory.exposure.verdicts import FixOutcome


def exposure_dict(exposed: Exposure, subject: ExposureSubject, ranking: Ranking) -> dict[str, Any]:
    """Return one CVE on one kernel: the answer by version, and of the later stages those that can be told here.

    `built` needs the kernel's sources, `loaded` this host's modules, `closed` this host's record; `open` is there where
    `built` is.
    """
    told = assessment_dict(exposed.assessment, ranking)
    if subject.sources is not None:
        told["built"] = exposed.built.as_dict() | {"parents": list(exposed.parents)}
    if subject.modules is not None:
        told["loaded"] = exposed.loaded.as_dict()
    if subject.closings is not None:
        closed = exposed.closed
        told["closed"] = None if closed is None else {"by": closed.livepatch, "functions": list(closed.functions)}
    if subject.sources is not None:
        told["open"] = exposed.open
        told["fix"] = fix_dict(exposed)
    return told


def fix_dict(exposed: Exposure) -> dict[str, Any]:
    """Return what is known about a CVE's fix on this kernel."""
    verdict = exposed.verdict
    if verdict is None:
        return {"outcome": str(FixOutcome.UNTRIED)}
    told: dict[str, Any] = {"outcome": str(verdict.outcome), "functions": list(verdict.functions)}
    if verdict.problem is not None:
        told |= {"code": verdict.problem.code, "reason": verdict.problem.message, "advice": verdict.problem.advice}
    return told


def funnel(exposed: Sequence[Exposure], subject: ExposureSubject) -> dict[str, Any]:
    """Return how many CVEs are left at each stage, from the version to what is open.

    `version` are those the version alone is affected by; `affected` and `unknown` what is left of these when changelog
    and source have spoken; `built` and `loaded` count those concerned by certainty; `closed` and `open` add up to
    the concerned ones; `fixes` says what is known about the fixes of all concerned.
    """
    states = Counter(one.assessment.state for one in exposed)
    exposing = [one for one in exposed if one.assessment.state in {State.AFFECTED, State.UNKNOWN}]
    concerned = [one for one in exposing if one.concerned]
    built = Counter(one.built.certainty for one in exposing)
    loaded = Counter(one.loaded.certainty for one in concerned)
    fixes = Counter(one.verdict.outcome if one.verdict is not None else FixOutcome.UNTRIED for one in concerned)
    told: dict[str, Any] = {"affected": states[State.AFFECTED], "unknown": states[State.UNKNOWN]}
    if subject.sources is not None:
        told["built"] = {str(one): built[one] for one in Certainty}
    if subject.modules is not None:
        told["loaded"] = {str(one): loaded[one] for one in Certainty}
    if subject.closings is not None:
        told["closed"] = sum(one.closed is not None for one in concerned)
    if subject.sources is not None:
        told["open"] = sum(one.open for one in concerned)
        told["fixes"] = {str(one): fixes[one] for one in FixOutcome}
    return told
