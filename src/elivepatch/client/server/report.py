# SPDX-License-Identifier: GPL-2.0-or-later
"""Report of a job, parsed from the server's answer; a malformed report is refused."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from elivepatch.model.build import Explained, Note, PatchedFunction, Proposal, Result, RewriteStep
from elivepatch.model.errors import ExitStatus, Problem
from elivepatch.model.kernel import Digest
from elivepatch.model.trial import (
    CalledFunction,
    DebugTrial,
    ModuleChange,
    NotLive,
    OverEarlier,
    SeenFunction,
    SeenOutside,
    TrialOutcome,
    WorkloadRun,
)

_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_LIVEPATCH_NAME = re.compile(r"[A-Za-z0-9_]{1,55}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A trial as its report has it: the outcome, the accelerator of the VM, what was not live and what ran in it.

    `predicates` are the names of the predicates, each with the word for each phase; `untried` could not be tried.
    """

    outcome: TrialOutcome
    accelerator: str
    not_live: tuple[NotLive, ...] = ()
    module_changes: tuple[ModuleChange, ...] = ()
    over_earlier: OverEarlier | None = None
    outside: SeenOutside | None = None
    replay: str = ""
    functions: tuple[CalledFunction, ...] = ()
    workload: tuple[WorkloadRun, ...] = ()
    workload_seconds: float = 0.0
    workload_left_out: str = ""
    predicates: tuple[tuple[str, dict[str, str]], ...] = ()
    untried: tuple[str, ...] = ()
    debug: DebugTrial | None = None

    @property
    def left_out(self) -> str:
        """The names of what was not tried, for a sentence."""
        return ", ".join((*(one.object for one in self.not_live), *self.untried))


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Report of a done job. `document` is the server's own report; `trial` is None if nothing was tried.

    `proposal` is the changed series that a check proposes for one that it refuses.
    """

    id: str
    result: Result
    release: str
    problem: Problem | None
    functions: tuple[PatchedFunction, ...]
    notes: tuple[Note, ...]
    livepatch_name: str | None
    module_sha256: Digest | None
    trial: Tried | None
    proposal: Proposal | None
    document: dict[str, Any]
    explained: tuple[Explained, ...] = ()

    @property
    def exit_status(self) -> ExitStatus:
        """Exit status of a command that submitted this job."""
        if self.result is Result.SUCCESS:
            return ExitStatus.OK
        return self.problem.kind.exit_status if self.problem is not None else ExitStatus.SERVICE


def read_report(document: dict[str, Any], *, job: str) -> Report:
    """Return the report of `job`; raises KeyError, TypeError or ValueError if `document` is not one.

    The livepatch's name and the module's digest become names of files, so their characters are checked.
    """
    livepatch, trial, problem = document["livepatch"], document["trial"], document["problem"]
    result = Result(document["result"])
    if document["id"] != job or (result is Result.SUCCESS) != (problem is None):
        message = "a report that contradicts itself"
        raise ValueError(message)
    return Report(
        id=job,
        result=result,
        release=_text(document["kernel"]),
        problem=Problem.from_dict(problem) if problem is not None else None,
        functions=tuple(
            PatchedFunction(
                object=_text(function["object"]),
                name=_text(function["name"]),
                sympos=int(function["sympos"]),
                source=_text(function["source"]),
            )
            for function in document["functions"]
        ),
        notes=tuple(Note(code=_text(note["code"]), message=_text(note["message"])) for note in document["notes"]),
        livepatch_name=_matching(_LIVEPATCH_NAME, livepatch["name"]) if livepatch is not None else None,
        module_sha256=Digest(_matching(_DIGEST, document["module_sha256"]))
        if document["module_sha256"] is not None
        else None,
        trial=read_trial(trial) if trial is not None else None,
        proposal=_proposal(document.get("proposal")),
        document=document,
        # Servers before this key was there send none.
        explained=tuple(
            Explained(rule=_text(one["rule"]), source=_text(one["source"]), what=_text(one["what"]))
            for one in document.get("explained", ())
        ),
    )


def read_trial(data: dict[str, Any]) -> Tried:
    """Return the trial of a report; raises KeyError, TypeError or ValueError if `data` is none."""
    over = data.get("over_earlier")
    return Tried(
        outcome=TrialOutcome(data["outcome"]),
        accelerator=_text(data["accelerator"]),
        not_live=tuple(NotLive(object=_text(one["object"]), why=_text(one["why"])) for one in data.get("not_live", ())),
        module_changes=_changes(data),
        outside=_seen_outside(data["outside"]) if data.get("outside") is not None else None,
        over_earlier=OverEarlier(**{name: _text(over[name]) for name in ("name", "result", "words")}) if over else None,
        replay=_text(data.get("replay", "")),
        functions=_called(data.get("functions", ())),
        debug=_debug(data["debug"]) if data.get("debug") is not None else None,
        workload=tuple(
            WorkloadRun(**{name: _text(one[name]) for name in ("name", "before", "during", "after", "words")})
            for one in data.get("workload", ())
        ),
        workload_seconds=float(data.get("workload_seconds", 0.0)),
        workload_left_out=_text(data.get("workload_left_out", "")),
        **_predicates(data),
    )


def _called(functions: Iterable[dict[str, Any]]) -> tuple[CalledFunction, ...]:
    return tuple(
        CalledFunction(
            object=_text(one["object"]),
            function=_text(one["function"]),
            calls=int(one["calls"]) if one["calls"] is not None else None,
        )
        for one in functions
    )


def _debug(data: dict[str, Any]) -> DebugTrial:
    return DebugTrial(
        kernel=_text(data["kernel"]),
        outcome=TrialOutcome(data["outcome"]) if data["outcome"] is not None else None,
        why_not=_text(data["why_not"]),
        functions=_called(data["functions"]),
        missing=tuple(_text(name) for name in data["missing"]),
        seconds=float(data["seconds"]),
    )


def _changes(data: dict[str, Any]) -> tuple[ModuleChange, ...]:
    """Return the changes of modules in a trial; an older server reports only how they were loaded again."""
    if "module_changes" in data:
        names = ("module", "change", "result", "words")
        return tuple(ModuleChange(**{name: _text(one[name]) for name in names}) for one in data["module_changes"])
    older = {"reloaded": "seen", "refused": "refused"}
    return tuple(
        ModuleChange(
            module=_text(one["module"]), change="reloaded", result=older.get(one["result"], "not-tried"),
            words=_text(one["words"]),
        )
        for one in data.get("module_reloads", ())
    )  # fmt: skip


def _predicates(data: dict[str, Any]) -> dict[str, Any]:
    """Return what a report says of its predicates; reports of an older server have none."""
    found = [one for one in data.get("observations", ()) if one.get("seen")]
    return {
        "predicates": tuple(
            (_text(one["command"]), {_text(phase): _text(word) for phase, word in one["seen"].items()}) for one in found
        ),
        "untried": tuple(_text(one["command"]) for one in found if one["tried"] is False),
    }


def _seen_outside(data: dict[str, Any]) -> SeenOutside:
    return SeenOutside(
        seen=data["seen"] is True,
        why_not=_text(data["why_not"]),
        phases=tuple(_text(phase) for phase in data["phases"]),
        functions=tuple(
            SeenFunction(
                object=_text(one["object"]),
                name=_text(one["name"]),
                redirected=one["redirected"] is True,
                leads_to_new=_maybe(one["leads_to_new"]),
                restored=_maybe(one["restored"]),
            )
            for one in data["functions"]
        ),
        compared_bytes=int(data["compared_bytes"]),
        self_patched={_text(kind): int(number) for kind, number in data["self_patched"].items()},
    )


def _maybe(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _proposal(data: dict[str, Any] | None) -> Proposal | None:
    """Return the proposal of a report; reports of an older server have none."""
    if data is None:
        return None
    names = ("code", "path", "what", "why")
    return Proposal(
        patch=_text(data["patch"]),
        steps=tuple(RewriteStep(**{name: _text(step[name]) for name in names}) for step in data["steps"]),
        refusal=_text(data["refusal"]),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(type(value))
    return value


def _matching(shape: re.Pattern[str], value: Any) -> str:
    if not shape.fullmatch(_text(value)):
        raise ValueError(value)
    return _text(value)
