# SPDX-License-Identifier: GPL-2.0-or-later
"""Agreement of a guest's records with its console, with each other and with the clock of this machine.

The kernel that reports is the kernel on trial: a livepatch can write records of its own to the serial port and then end
the guest. So a case passes only if nothing contradicts its records. This makes forging hard, not impossible; the
statement says that the guest reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from elivepatch.model.errors import Kind, Problem
from elivepatch.trial.case import TrialCase
from elivepatch.trial.evidence.kernel_log import headline, tail, trouble
from elivepatch.trial.guest_protocol import GUEST, Records
from elivepatch.trial.workload import guest_records

# Each word is a record, or a family of records (`during.000`, `module.8021q`). init.sh writes them in this order.
_BEGIN = (
    "begin module log.workload worked.before before log.before look.before started.1 load.1 settled.1 finished.1"
    " busy.load objects.1 during worked.during counts look.during"
)
_AGAIN = "log.again removed added no-reload objects.2 log.reload"
_LATE = "log.second late objects.late log.late"
_OVER = (
    "started.0 load.0 settled.0 finished.0 started.3 load.3 settled.3 finished.3 live.3 over look.over log.over"
    " disable.3 gone.3 unload.3 unload.0"
)
_REVERT = "disable.1 gone.1 busy.revert log.during after worked.after log.after look.after"
_ORDER = (
    f"{_BEGIN} {_REVERT} unload.1 taken started.2 load.2 settled.2 finished.2 {_LATE} again look.again {_AGAIN}"
    f" disable.2 gone.2 unload.2 {_OVER} look.end log.rest done"
).split()
_ORDER_OF_ONE_THAT_STAYS = f"{_BEGIN} {_AGAIN} {_REVERT} log.armed look.end log.rest done".split()
# In any order among themselves: one module after the other.
_ONE_STEP = frozenset({"removed", "added", "no-reload"})
_FAMILIES = frozenset({"module", "before", "during", "after", "again", "removed", "added", "taken", "late", "over"})

_UNANSWERED = "unanswered"  # in any place: from then on nobody looks from outside (outside/watcher.py judges that)

_STAGES = ("before", "load.1", "during", "disable.1", "after", "unload", "load.2", "again", "reload", "disable.2")
_STAGES_OF_ONE_THAT_STAYS = ("before", "load.1", "during", "reload", "disable.1", "after", "armed")
# Stages that not every trial has, each with the record that shows that this one had it.
_FURTHER_STAGES = {
    "late": "objects.late", "earlier": "started.0", "load.0": "started.0", "load.3": "started.3", "over": "live.3",
    "disable.3": "disable.3",
}  # fmt: skip
_RESTART = "reboot: Restarting system"  # kernel_restart() in kernel/reboot.c, at the level that is always shown

_CLOCKS = ("started.1", "finished.1", "started.2", "finished.2")
_TOLERANCE_S = 3.0
# A guest on a busy machine may get a part of the time, but its clock goes on.
_SLOWEST = 0.25
# Two loads and two transitions of a real kernel take a second and more; records that are written in one go, nothing.
_LEAST_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Evidence on one case that was collected outside its guest.

    `console` begins with the case and ends with the guest, or where the next case begins (then not `last`). `arrivals`
    are the seconds of this machine's clock at which the case's records arrived, by name; `slow` as in GuestEnd.
    """

    console: str
    status: int = 0
    last: bool = True
    slow: bool = False
    arrivals: Mapping[str, float] = field(default_factory=dict)


def check_integrity(scope: str, case: TrialCase, records: Records, session: Session) -> Problem | None:
    """Return the problem of a complete case whose records cannot be believed, None if nothing contradicts them."""
    shown = _shown_trouble(scope, case, records, session.console)
    if shown:
        return Problem(
            code="trial-kernel-log",
            kind=Kind.FAILURE,
            message=f"The console shows trouble that the guest's records leave out: {headline(shown)}.",
            advice="Read the trace and the console log of the trial; do not use this patch.",
            excerpt=shown,
        )
    found = next(_contradictions(scope, case, records, session), None)
    if found is None:
        return None
    return Problem(
        code="trial-records",
        kind=Kind.FAILURE,
        message=f"The records of the trial cannot be believed: {found}.",
        advice="Read the console log of the trial. The patched code writes to the guest's serial ports, stops its log "
        "or its clock, or damages it.",
        excerpt=tail(session.console),
    )


def _shown_trouble(scope: str, case: TrialCase, records: Records, console: str) -> str:
    """Return trouble on the console since the livepatch was loaded.

    A command may show the fault of the unpatched kernel; if it did so before, it may again after the revert.
    """
    _before, found, loaded = console.partition(_marker(scope, "load.1"))
    text = loaded if found else console
    if trouble(records.text(scope, "log.before")):
        start, _, rest = text.partition(_marker(scope, "after"))
        _after, found, rest = rest.partition(_marker(scope, "armed" if case.stays else "unload"))
        text = start + (found + rest if found else "")
    return trouble(text)


def _contradictions(scope: str, case: TrialCase, records: Records, session: Session) -> Iterator[str]:
    yield from _of_names(scope, case, records)
    stages = _STAGES_OF_ONE_THAT_STAYS if case.stays else _STAGES
    worked = guest_records.stages(scope, case.workload, records)
    expected = dict.fromkeys((*stages, *worked), 1) | {
        stage: int(records.has(scope, name)) for stage, name in _FURTHER_STAGES.items()
    }
    for stage, times in expected.items():
        if (count := session.console.count(_marker(scope, stage))) != times:
            yield f"the console shows the stage {stage} {count} times"
    if session.last:
        if not records.has(GUEST, "end"):
            yield "the guest did not report its end"
        if session.status != 0:
            yield f"QEMU ended with status {session.status}"
        if _RESTART not in session.console.rpartition(_marker(scope, stages[-1]))[2]:
            yield "the guest did not restart in an orderly way"
    if not session.slow:
        yield from _of_time(scope, records, session.arrivals)


def _of_names(scope: str, case: TrialCase, records: Records) -> Iterator[str]:
    if records.malformed:
        yield f"{records.malformed} of the lines are not records"
    for where, name in records.repeated:
        if where in {scope, GUEST}:
            yield f"{name} was reported more than once"
    order = _ORDER_OF_ONE_THAT_STAYS if case.stays else _ORDER
    places = {name: place for place, name in enumerate(order)}
    places |= {name: min(places[one] for one in _ONE_STEP) for name in _ONE_STEP}
    latest = 0
    for name in (name for where, name in records.values if where == scope and name != _UNANSWERED):
        family = name.partition(".")[0]
        place = places.get(family if family in _FAMILIES else name)
        if place is None:
            yield f"{name} is no record of this trial"
        elif place < latest:
            yield f"{name} came after records of later steps"
        latest = max(latest, place or 0)


def _of_time(scope: str, records: Records, arrivals: Mapping[str, float]) -> Iterator[str]:
    first, done = (arrivals.get(name) for name in ("load.1", "done"))
    if first is not None and done is not None and done - first < _LEAST_S:
        yield f"all steps took {max(done - first, 0.0):.1f} s, which no kernel can do"
    seen = [
        (name, here, there)
        for name in _CLOCKS
        if (here := arrivals.get(name)) is not None and (there := records.clock_s(scope, name)) is not None
    ]
    for (name, here, there), (later, here_later, there_later) in pairwise(seen):
        guest_s, host_s = there_later - there, here_later - here
        if not host_s * _SLOWEST - _TOLERANCE_S <= guest_s <= host_s + _TOLERANCE_S or guest_s < 0:
            yield f"from {name} to {later} the guest's clock went {guest_s:.1f} s and this machine's {host_s:.1f} s"


def _marker(scope: str, stage: str) -> str:
    return f"elivepatch: case {scope} {stage}\n"
