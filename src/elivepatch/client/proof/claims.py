# SPDX-License-Identifier: GPL-2.0-or-later
"""Claims of a proof: what it shows and, with the same care, what it does not show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from elivepatch.client.server.report import Tried, read_trial
from elivepatch.model.provenance import CHECKS
from elivepatch.model.trial import CalledFunction
from elivepatch.trust.statement import Statement

_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One sentence about a livepatch; `code` is stable."""

    code: str
    message: str

    def as_dict(self) -> dict[str, str]:
        """Return a JSON-ready mapping of the fields."""
        return asdict(self)


def tried_of(statement: Statement) -> Tried | None:
    """Return the trial as a report has it, None if there was none."""
    trial = statement.trial_document
    reported = trial["reported"]
    if reported is None:
        return None
    observations = [
        {"command": asked["command"], **seen}
        for asked, seen in zip(statement.parameters["expectations"], reported["expectations"], strict=True)
    ]
    parts: dict[str, Any] = {
        "outcome": trial["outcome"],
        "accelerator": trial["accelerator"],
        "observations": observations,
        "outside": trial["observed"],
        "debug": trial["debug"],
    }
    return read_trial(reported | parts)


def proved(statement: Statement) -> tuple[Claim, ...]:
    """Return what the checks of the build showed."""
    return tuple(
        Claim(code=name, message=f"{entry.shows} ({count} {entry.counts}{'s' * (count != 1)})")
        for name, entry in CHECKS.items()
        if (count := statement.checks.get(name, 0))
    )


def not_proved(statement: Statement) -> tuple[Claim, ...]:
    """Return what was not looked at, or could not be seen."""
    tried = tried_of(statement)
    if tried is None:
        trial: tuple[Claim, ...] = (
            Claim(code="trial", message="trial: none. The request left it out, so the livepatch was never loaded"),
        )
    else:
        trial = (*_not_seen_in(tried, statement), *_not_seen_outside(tried), *_not_seen_on_debug_kernel(tried))
    return (*_not_checked(statement), *trial)


def _not_checked(statement: Statement) -> Iterator[Claim]:
    for note in statement.livepatch["notes"]:
        if note["code"] == "unproved":
            yield Claim(code="kernel", message=note["message"].rstrip("."))
    done = {name for name, count in statement.checks.items() if count}
    if "account" in done:
        done.add("functions")  # which are a part of it
    for name, entry in CHECKS.items():
        if name not in done:
            yield Claim(code=name, message=f"not checked: that {entry.shows}")


def _not_seen_in(tried: Tried, statement: Statement) -> Iterator[Claim]:
    for one in tried.not_live:
        yield Claim(code="not-live", message=f"{one.object} was not live in the trial: {one.why}")
    reported = statement.trial_document["reported"]
    for asked, seen in zip(statement.parameters["expectations"], reported["expectations"], strict=True):
        if not seen["tried"]:
            yield Claim(code="predicate", message=f"the predicate {asked['command']} could not be tried")
    total = len({(one.object, one.name) for one in statement.functions})
    counted = {(one.object, one.function): one.calls for one in tried.functions}
    idle = [one for one in tried.functions if one.calls == 0]
    unknown = [one for one in tried.functions if one.calls is None]
    if idle:
        message = f"{len(idle)} of {total} replaced functions did not run in the trial: {_names(idle)}"
        yield Claim(code="did-not-run", message=message)
    if unknown or len(counted) < total:
        left = total - len(counted) + len(unknown)
        message = f"the calls of {left} of {total} replaced functions were not counted"
        yield Claim(code="not-counted", message=f"{message}: {_names(unknown)}" if unknown else message)
    if not statement.parameters["expectations"]:
        message = "that the hole is closed: the request had no expectation and no predicate"
        yield Claim(code="effect", message=message)
    if not reported["reloaded"]:
        yield Claim(code="second-load", message="it was not loaded a second time in the trial")
    if tried.over_earlier is None or tried.over_earlier.result != "replaced":
        why = f": {tried.over_earlier.words}" if tried.over_earlier is not None and tried.over_earlier.words else ""
        yield Claim(code="over-earlier", message=f"it was not tried over an earlier livepatch{why}")
    if tried.workload_left_out:
        yield Claim(code="workload", message=f"the workload was left out: {tried.workload_left_out}")


def _not_seen_outside(tried: Tried) -> Iterator[Claim]:
    outside = tried.outside
    if outside is None or not outside.seen:
        why = f": {outside.why_not}" if outside is not None else ""
        message = f"the trial was not seen from outside the guest{why}. What is said of it are the guest's own words"
        yield Claim(code="outside", message=message)
        return
    for what, lacking in (
        ("were not seen to lead to the new one", [one for one in outside.functions if not one.leads_to_new]),
        ("were not seen to have their entry back", [one for one in outside.functions if not one.restored]),
    ):
        if lacking:
            names = _listed([f"{one.object}:{one.name}" for one in lacking])
            yield Claim(code="outside", message=f"from outside, {len(lacking)} replaced functions {what}: {names}")


def _not_seen_on_debug_kernel(tried: Tried) -> Iterator[Claim]:
    debug = tried.debug
    if debug is None:
        yield Claim(code="debug", message="it was not tried on a debugging kernel (KASAN, lockdep)")
        return
    if debug.outcome is None:
        yield Claim(code="debug", message=f"it was not tried on a debugging kernel: {debug.why_not}")
        return
    if debug.missing:
        yield Claim(code="debug", message=f"not replaced on the debugging kernel: {_listed(list(debug.missing))}")
    idle = [one for one in debug.functions if not one.calls]
    if idle:
        yield Claim(code="debug", message=f"not seen to run on the debugging kernel: {_names(idle)}")


def _names(functions: list[CalledFunction]) -> str:
    return _listed([f"{one.object}:{one.function}" for one in functions])


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
