# SPDX-License-Identifier: GPL-2.0-or-later
"""Findings about a host: the common form of the results of `doctor` and of the preflight."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from elivepatch.model.errors import HostError


class Level(enum.StrEnum):
    """Severity of a finding."""

    OK = "ok"
    NOTE = "note"  # worth knowing; nothing is stopped by it
    STOP = "stop"  # no livepatch can be loaded until this is changed


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Result of one check. `code` is stable; `advice` is the next step, empty if all is well."""

    code: str
    level: Level
    message: str
    advice: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return a JSON-ready mapping of the fields."""
        return {key: str(value) for key, value in asdict(self).items()}


def fine(code: str, message: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(code=code, level=Level.OK, message=message)


def note(code: str, message: str, advice: str) -> Finding:
    """Return a finding that is worth knowing."""
    return Finding(code=code, level=Level.NOTE, message=message, advice=advice)


def stop(code: str, message: str, advice: str) -> Finding:
    """Return a finding that blocks every livepatch."""
    return Finding(code=code, level=Level.STOP, message=message, advice=advice)


LOADING_ONLY = frozenset({"modules-disabled", "signature-needed", "kernel-old", "ftrace-off", "ftrace-missing"})
"""Codes of findings that block loading a livepatch, but not unloading one."""


def require(findings: Iterable[Finding]) -> None:
    """Raise HostError for the first finding that stops; the others that do are in its excerpt."""
    stops = [finding for finding in findings if finding.level is Level.STOP]
    if stops:
        others = "\n".join(f"{one.message} [{one.code}]\n    {one.advice}" for one in stops[1:])
        raise HostError(stops[0].code, stops[0].message, advice=stops[0].advice, excerpt=others)
