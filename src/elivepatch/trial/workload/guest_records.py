# SPDX-License-Identifier: GPL-2.0-or-later
"""Records of a workload: what its programs did in each phase, and the calls of each replaced function.

guest.sh writes them. They are the guest's word: the kernel on trial counts its own calls.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from elivepatch.model.errors import Kind, Problem
from elivepatch.model.trial import CalledFunction, WorkloadRun
from elivepatch.trial.evidence.kernel_log import headline, tail, trouble
from elivepatch.trial.guest_protocol import Records
from elivepatch.trial.workload.guest_files import Workload

PHASES = ("before", "during", "after")
LOST = "trial-workload"
"""Code of the problem that a guest was lost under its workload before the livepatch was loaded."""

LOST_WHY = "the guest did not survive it without the livepatch"
"""Reason why the workload is left out of the trial after that."""

_HEAD = re.compile(r"([0-9]{1,8}) (well|badly)")
_RUN = re.compile(r"([a-z0-9-]{1,40}) (-|[0-9]{1,3})(?: (.*))?")
_KPROBE = re.compile(r"\s*(?:elivepatch:)?f([0-9]{3})\s+([0-9]{1,20})\s+([0-9]{1,20})\s*")
_TRACED = re.compile(r"([A-Za-z0-9_.$]{1,512}) ([0-9]{1,20})")
_FILTERED = re.compile(r"traced ([A-Za-z0-9_.$]{1,512})")
_LOST_EVENTS = re.compile(r"(?:overrun|dropped events):\s*([0-9]{1,20})\s*")
_OUT_OF_TIME = 137  # 128 + SIGKILL
_CALLS_LIMIT = 2**63 - 1


def calls(scope: str, workload: Workload, records: Records) -> tuple[CalledFunction, ...]:
    """Return each replaced function with the calls of its replacement; None if the guest could not count them."""
    functions = workload.functions
    method, _newline, text = records.text(scope, "counts").partition("\n")
    counted = {"kprobe": _of_kprobes, "tracer": _of_tracer}.get(method)
    found = counted([function.name for function in functions], text) if counted is not None else {}
    names = Counter(function.name for function in functions)
    return tuple(
        # Two replacements of one name cannot be distinguished by it.
        CalledFunction(
            object=function.object,
            function=function.name,
            calls=min(found[number], _CALLS_LIMIT) if number in found and names[function.name] == 1 else None,
        )
        for number, function in enumerate(functions)
    )


def runs(scope: str, workload: Workload, records: Records) -> tuple[WorkloadRun, ...]:
    """Return what became of each program: `ran`, `failed`, `stopped` at its limit or `not-run`, phase by phase."""
    seen = {phase: dict(_programs(records.text(scope, f"worked.{phase}"))) for phase in PHASES}
    found = []
    for one in workload.programs:
        name = one.program.name
        before, during, after = (_result(seen[phase].get(name, ("-", ""))[0]) for phase in PHASES)
        words = next((seen[phase][name][1] for phase in PHASES if seen[phase].get(name, ("", ""))[1]), "")
        found.append(WorkloadRun(name=name, before=before, during=during, after=after, words=words[:300]))
    found += [
        WorkloadRun(name=name, before="not-run", during="not-run", after="not-run", words=f"this server has no {tool}")
        for name, tool in workload.left_out
    ]
    return tuple(found)


def seconds(scope: str, records: Records) -> float:
    """Return the time that the workload took in the guest, in all phases."""
    heads = (_HEAD.match(records.text(scope, f"worked.{phase}")) for phase in PHASES)
    return round(sum(int(head[1]) for head in heads if head is not None) / 100, 2)


def left_out(scope: str, records: Records) -> str:
    """Return the reason why the workload did not run beside the livepatch, empty if it did or if there is none."""
    head = _HEAD.match(records.text(scope, "worked.before"))
    if head is None or head[2] == "well":
        return ""
    seen = headline(trouble(records.text(scope, "log.workload")))
    return f"the unpatched kernel shows trouble under it ({seen})" if seen else "the unpatched kernel may have suffered"


def complete(scope: str, workload: Workload, records: Records) -> bool:
    """Return whether each record of the workload arrived."""
    if not workload.functions:
        return True
    phases = () if not workload.programs else PHASES[:1] if left_out(scope, records) else PHASES
    return records.has(scope, "counts") and all(_HEAD.match(records.text(scope, f"worked.{one}")) for one in phases)


def stages(scope: str, workload: Workload, records: Records) -> tuple[str, ...]:
    """Return the stages that the console shows for the workload."""
    if not workload.programs:
        return ()
    return tuple(f"work.{phase}" for phase in (PHASES[:1] if left_out(scope, records) else PHASES))


def lost_before(scope: str, workload: Workload, records: Records, console: str) -> Problem | None:
    """Return the problem of a guest that ended or hung under its workload before there was a livepatch.

    That is no fault of the patch, so its kind is ERROR.
    """
    if not workload.programs or records.has(scope, "worked.before") or not records.has(scope, "begin"):
        return None
    return Problem(
        code=LOST,
        kind=Kind.ERROR,
        message="The guest did not survive its workload, before the livepatch was loaded.",
        advice="The trial is tried again without a workload; the console log shows what happened.",
        excerpt=trouble(console) or tail(console),
    )


def _programs(text: str) -> Iterator[tuple[str, tuple[str, str]]]:
    for line in text.splitlines()[1:]:
        found = _RUN.fullmatch(line)
        if found is not None:
            yield found[1], (found[2], " ".join((found[3] or "").split()))


def _result(status: str) -> str:
    if status == "-":
        return "not-run"
    number = int(status)
    return {0: "ran", _OUT_OF_TIME: "stopped"}.get(number, "failed")


def _of_kprobes(_names: Sequence[str], text: str) -> dict[int, int]:
    """Read kprobe_profile: a probe's name, its hits, and the hits that were missed because it ran within another."""
    lines = (found for line in text.splitlines() if (found := _KPROBE.fullmatch(line)) is not None)
    return {int(line[1]): int(line[2]) + int(line[3]) for line in lines}


def _of_tracer(names: Sequence[str], text: str) -> dict[int, int]:
    """Read the calls that the function tracer saw.

    If its buffer was too small, or a function was not in its filter, no call seen says nothing.
    """
    found: dict[str, int] = {}
    traced = set()
    lost = 0
    for line in text.splitlines():
        if (of_buffer := _LOST_EVENTS.fullmatch(line)) is not None:
            lost += int(of_buffer[1])
        elif (filtered := _FILTERED.fullmatch(line)) is not None:
            traced.add(filtered[1])
        elif (of_function := _TRACED.fullmatch(line)) is not None:
            found[of_function[1]] = int(of_function[2])
    return {
        number: found.get(name, 0)
        for number, name in enumerate(names)
        if name in found or (name in traced and not lost)
    }
