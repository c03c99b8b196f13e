# SPDX-License-Identifier: GPL-2.0-or-later
"""Records are believed only if nothing contradicts them: each forgery here would have passed by its records alone."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest
from trial_records import CASE, SCOPE

from elivepatch.model.build import PatchedFunction
from elivepatch.model.errors import Kind
from elivepatch.trial.evidence.integrity import Session, check_integrity
from elivepatch.trial.guest_protocol import parse
from elivepatch.trial.workload.choice import Chosen, Program
from elivepatch.trial.workload.guest_files import Workload

# Name, content, the second of this machine's clock at which the record arrives.
HONEST: list[tuple[str, bytes, float]] = [
    ("begin", b"", 7.0), ("module.dummy", b"0\n", 7.1), ("before.000", b"0\nas ever\n", 7.2), ("log.before", b"", 7.2),
    ("started.1", b"6.10", 7.3), ("load.1", b"0\n", 7.6), ("settled.1", b"0\n", 8.6), ("finished.1", b"7.40", 8.6),
    ("objects.1", b"0\n", 8.6), ("during.000", b"0\npatched\n", 8.7), ("disable.1", b"0\n", 8.8),
    ("gone.1", b"0\n", 9.8), ("log.during", b"", 9.8), ("after.000", b"0\nas ever\n", 9.9), ("log.after", b"", 9.9),
    ("unload.1", b"0\n", 10.0), ("started.2", b"8.90", 10.0), ("load.2", b"0\n", 10.2), ("settled.2", b"0\n", 11.2),
    ("finished.2", b"10.10", 11.2), ("again.000", b"0\npatched\n", 11.3), ("log.again", b"", 11.3),
    ("removed.dummy", b"0\n", 11.4), ("added.dummy", b"0\n", 11.5), ("objects.2", b"0\n", 11.5),
    ("log.reload", b"", 11.5), ("disable.2", b"0\n", 11.6), ("gone.2", b"0\n", 12.6), ("unload.2", b"0\n", 12.7),
    ("log.rest", b"", 12.7), ("done", b"", 12.8),
]  # fmt: skip
STAGES = (
    "parents", "before", "load.1", "during", "disable.1", "after", "unload", "load.2", "again", "reload", "disable.2",
)  # fmt: skip
END = "[   12.0] reboot: Restarting system\n[   12.0] reboot: machine restart\n"
PANIC = "[    8.1] Kernel panic - not syncing: this livepatch kills the kernel\n"
OOPS = "[    8.1] BUG: kernel NULL pointer dereference, address: 8\n[    8.1] Call Trace:\n"


def raw(records: list[tuple[str, bytes, float]], *, ends: bool = True) -> bytes:
    lines = [b"%s %s %s" % (SCOPE.encode(), name.encode(), base64.b64encode(content)) for name, content, _ in records]
    return b"\n".join([*lines, *[b"- end "] * ends, b""])


def console(*stages: str, end: str = END, **added: str) -> str:
    """Return a console with these stages; `added` texts come after the stage of their name (`load_1`)."""
    lines = [f"[    8.0] elivepatch: case {SCOPE} {one}\n{added.get(one.replace('.', '_'), '')}" for one in stages]
    return "".join(lines) + end


def session(text: str = "", **more: Any) -> Session:
    arrivals = {name: at for name, _, at in HONEST}
    return replace(Session(console=text or console(*STAGES), arrivals=arrivals), **more)


def verdict(content: bytes, seen: Session) -> tuple[str, str] | None:
    found = check_integrity(SCOPE, CASE, parse(content), seen)
    if found is None:
        return None
    assert found.kind is Kind.FAILURE
    return found.code, found.message


def test_an_honest_trial_is_believed() -> None:
    assert verdict(raw(HONEST), session()) is None


LATE = [(name, b"", 11.2) for name in ("log.second", "late.dummy", "objects.late", "log.late")]
OVER = [(name, b"", 12.7) for name in (
    "started.0", "load.0", "settled.0", "finished.0", "started.3", "load.3", "settled.3", "finished.3", "live.3",
    "over.000", "log.over", "disable.3", "gone.3", "unload.3", "unload.0",
)]  # fmt: skip


def test_a_trial_with_modules_that_come_late_and_an_earlier_livepatch_is_believed() -> None:
    places = {name: place for place, (name, *_) in enumerate(HONEST)}
    again, rest = places["again.000"], places["log.rest"]
    longer = [*HONEST[:again], *LATE, *HONEST[again:rest], *OVER, *HONEST[rest:]]
    stages = [*STAGES[:-3], "late", *STAGES[-3:], "earlier", "load.0", "load.3", "over", "disable.3"]
    assert verdict(raw(longer), session(console(*stages))) is None
    found = verdict(raw(longer), session(console(*STAGES)))
    assert found is not None
    assert "0 times" in found[1], "a console without these stages"
    found = verdict(raw([*HONEST[:again], *OVER, *HONEST[again:]]), session(console(*stages)))
    assert found is not None
    assert "after records of later steps" in found[1]


def changed(name: str, content: bytes) -> list[tuple[str, bytes, float]]:
    return [(one, content if one == name else was, at) for one, was, at in HONEST]


def moved(name: str, place: int) -> list[tuple[str, bytes, float]]:
    found = next(one for one in HONEST if one[0] == name)
    rest = [one for one in HONEST if one[0] != name]
    return [*rest[:place], found, *rest[place:]]


BURST = {name: min(at, 7.7) for name, _, at in HONEST}
# A forgery: records, evidence from outside, the code, words of the message.
FORGERIES = {
    "it writes all records and panics": (raw(HONEST), session(console(*STAGES[:4], during=PANIC, end="")),
                                         "trial-kernel-log", "Kernel panic"),
    "it replays the records of the first turn": (raw([*HONEST[:15], HONEST[9], *HONEST[15:]]), session(),
                                                 "trial-records", "during.000 was reported more than once"),
    "it writes records before the guest does": (raw(moved("unload.2", 12)), session(), "trial-records",
                                                "came after records of later steps"),
    "it writes all records in one go": (raw(HONEST), session(arrivals=BURST), "trial-records", "took 0"),
    "it silences the console": (raw(HONEST), session(console(*STAGES[:3])), "trial-records", "0 times"),
    "it prints the stages itself": (raw(HONEST), session(console(*STAGES[:3], *STAGES[2:])), "trial-records",
                                    "load.1 2 times"),
    "it stops the clock": (raw(changed("started.2", b"7.40")), session(arrivals=dict.fromkeys(
        [name for name, *_ in HONEST[HONEST.index(("started.2", b"8.90", 10.0)):]], 60.0) | {
        name: at for name, _, at in HONEST[:16]} | {"done": 90.0}), "trial-records", "the guest's clock went 0.0 s"),
    "it turns the clock back": (raw(changed("started.2", b"3.00")), session(), "trial-records", "clock went -4.4 s"),
    "it ends the guest early": (raw(HONEST, ends=False), session(), "trial-records", "did not report its end"),
    "it reports the end and halts the guest": (raw(HONEST), session(console(*STAGES, end="")), "trial-records",
                                               "did not restart in an orderly way"),
    "it makes QEMU fail": (raw(HONEST), session(status=1), "trial-records", "status 1"),
    "it clears the log after an oops": (raw(HONEST), session(console(*STAGES, load_1=OOPS)), "trial-kernel-log",
                                        "NULL pointer"),
    "it waits until its records are complete": (raw(HONEST), session(console(*STAGES, end=PANIC + END)),
                                                "trial-kernel-log", "Kernel panic"),
    "it writes half a record": (raw(HONEST).replace(b"- end", b"x\n- end"), session(), "trial-records",
                                "1 of the lines"),
    "it writes a record that no trial has": (raw([*HONEST, ("gone.4", b"0\n", 12.8)]), session(), "trial-records",
                                             "gone.4 is no record"),
}  # fmt: skip


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forgery_is_not_believed(forgery: str) -> None:
    content, seen, code, words = FORGERIES[forgery]
    found = verdict(content, seen)
    assert found is not None
    assert found[0] == code
    assert words in found[1]


def test_trouble_of_the_unpatched_kernel_is_no_contradiction() -> None:
    text = console(*STAGES, before=OOPS, after=OOPS)
    shows = changed("log.before", b"<1>" + OOPS.encode())
    assert verdict(raw(shows), session(text)) is None
    assert verdict(raw(HONEST), session(console(*STAGES, after=OOPS))) is not None
    assert verdict(raw(shows), session(console(*STAGES, before=OOPS, during=OOPS))) is not None


def test_a_case_that_another_one_follows_needs_no_end_of_the_guest() -> None:
    assert verdict(raw(HONEST, ends=False), session(console(*STAGES, end=""), last=False)) is None


def test_a_slow_machine_excuses_times_only() -> None:
    assert verdict(raw(HONEST), session(arrivals=BURST, slow=True)) is None
    assert verdict(raw(HONEST, ends=False), session(arrivals=BURST, slow=True)) is not None


def test_a_livepatch_that_stays_in_memory_has_steps_of_its_own() -> None:
    case = replace(CASE, stays=True)
    named = {name: (name, content, at) for name, content, at in HONEST}
    order = (
        *list(named)[:10], "log.again", "removed.dummy", "added.dummy", "objects.2", "log.reload",
        "disable.1", "gone.1", "log.during", "after.000", "log.after", "log.armed", "log.rest", "done",
    )  # fmt: skip
    records = [named.get(name, (name, b"", 12.0)) for name in order]
    seen = session(console("parents", "before", "load.1", "during", "reload", "disable.1", "after", "armed"))
    assert check_integrity(SCOPE, case, parse(raw(records)), seen) is None
    assert check_integrity(SCOPE, CASE, parse(raw(records)), seen) is not None


WORKED = {
    "before.000": [("log.workload", b"", 7.1), ("worked.before", b"120 well\nx 0 \n", 7.1)],
    "disable.1": [("worked.during", b"250 well\nx 0 \n", 8.7), ("counts", b"kprobe\n f000 1 0\n", 8.7)],
    "log.after": [("worked.after", b"30 well\nx 0 \n", 9.9)],
}
WORKED_STAGES = (
    "parents", "work.before", "before", "load.1", "during", "work.during", "disable.1", "after", "work.after", "unload",
    "load.2", "again", "reload", "disable.2",
)  # fmt: skip


def worked(*without: str, stages: tuple[str, ...] = WORKED_STAGES) -> str:
    """Return why a trial with a workload is not believed, empty if it is; `without` are records that are missing."""
    program = Chosen(program=Program(name="x", file="x.sh", sources=("*",), what="x"), arguments=())
    function = PatchedFunction(object="vmlinux", name="f", sympos=0, source="fs/x.c")
    case = replace(CASE, workload=Workload(functions=(function,), programs=(program,), budget_s=4))
    records = [one for was in HONEST for one in (*WORKED.get(was[0], []), was) if one[0] not in without]
    found = check_integrity(SCOPE, case, parse(raw(records)), session(console(*stages)))
    return found.message if found is not None else ""


def test_a_workload_has_its_place_among_the_records_and_the_stages() -> None:
    assert worked() == ""
    assert "work.during 0 times" in worked(stages=tuple(one for one in WORKED_STAGES if one != "work.during"))
    assert "work.after 2 times" in worked(stages=(*WORKED_STAGES, "work.after"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(WORKED, "log.before", WORKED["log.after"])
        patch.setitem(WORKED, "log.after", [])
        assert "worked.after" in worked() or "later steps" in worked()
