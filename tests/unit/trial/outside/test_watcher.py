# SPDX-License-Identifier: GPL-2.0-or-later
"""A watcher looks at a guest that waits; the report has a look that fails, which is no verdict on the livepatch."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import paper_kernel as paper
import pytest
from paper_kernel import PaperGuest, paper_guest

from elivepatch.model.errors import Kind
from elivepatch.trial.outside.channel import Channel
from elivepatch.trial.outside.look import Function
from elivepatch.trial.outside.qmp import Qmp
from elivepatch.trial.outside.watcher import Subject, Watcher

PHASES = ("before", "during", "after")
SUBJECT = Subject(livepatch="fix", functions=[Function("vmlinux", "victim", 0)], phases=PHASES)
PAGED = "CR0=80050033 CR2=00000000"
NAMES = ["begin", "look.before", "started.1", "look.during", "look.after", "done"]


@dataclass
class Monitor:
    """A monitor in QEMU's place; `silent_at` is the command that it does not answer, `commands` are all it got."""

    connection: socket.socket
    silent_at: str = ""
    commands: list[str] = field(default_factory=list)
    registers: str = 2 * f"{PAGED} CR3={0x80000:08x} CR4=00000000\n"

    def serve(self) -> None:
        self.connection.sendall(b'{"QMP": {}}\r\n')
        with self.connection.makefile("rb") as lines:
            for line in lines:
                request = json.loads(line)
                self.commands.append(request["execute"])
                if request["execute"] == self.silent_at:
                    continue
                said = self.registers if request["execute"] == "human-monitor-command" else {}
                answer = json.dumps({"return": said, "id": request["id"]}).encode()
                self.connection.sendall(b'{"event": "STOP"}\r\n' + answer + b"\r\n")


@dataclass
class Bench:
    ram: PaperGuest
    watcher: Watcher
    monitor: Monitor
    results: Path

    def look(self, phase: str, *, then: str = "") -> bool:
        self.results.write_text(f"000000 begin \n000000 look.{phase} \n{then}")
        return self.watcher.look("000000", phase)


@contextmanager
def bench(tmp_path: Path, vmlinux: Path | None) -> Iterator[Bench]:
    ours, theirs = socket.socketpair()
    unused, ours_too = socket.socketpair()
    monitor = Monitor(theirs)
    server = threading.Thread(target=monitor.serve, daemon=True)
    server.start()
    results = tmp_path / "results"
    watcher = Watcher(vmlinux, results, {"000000": SUBJECT})
    with paper_guest() as ram:
        watcher.attach(Channel(qmp=Qmp(ours, 0.5), memory=ram.descriptor, size_bytes=paper.RAM_BYTES, _theirs=unused))
        yield Bench(ram, watcher, monitor, results)
    ours.close()
    ours_too.close()
    server.join(5)
    theirs.close()


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path, paper.vmlinux(tmp_path / "vmlinux")) as made:
        yield made


def test_a_whole_trial_is_seen_and_the_guest_goes_on_after_each_look(one: Bench) -> None:
    assert one.look("before")
    one.ram.load()
    assert one.look("during")
    one.ram.revert()
    assert one.look("after")
    report = one.watcher.report("000000")
    assert (report.seen, report.why_not, report.phases) == (True, "", PHASES)
    (function,) = report.functions
    assert (function.name, function.redirected, function.leads_to_new, function.restored) == (
        "victim",
        True,
        True,
        True,
    )
    assert report.self_patched == {"ftrace": 1}
    assert report.compared_bytes == 2 * paper.PAGE
    assert one.watcher.tampering("000000") is None
    assert one.watcher.evasion("000000", NAMES, slow=False) is None
    look = ["stop", "human-monitor-command", "chardev-send-break", "cont"]
    assert one.monitor.commands == ["qmp_capabilities", *look * 3]


Tamper = Callable[[PaperGuest], None]


@pytest.mark.parametrize(
    ("live", "reverted", "words"),
    [
        (lambda ram: ram.put(paper.OTHER + 7, b"\xcc"), lambda _ram: None, "other+0x7 in the kernel's code"),
        (lambda ram: ram.put(paper.VICTIM, paper.NOP5), lambda _ram: None, "victim: its entry is no call"),
        (lambda _ram: None, lambda ram: ram.hook(paper.TRAMPOLINE), "its entry is not as before the load"),
        (lambda _ram: None, lambda ram: ram.ring(paper.PATCHES, paper.PATCH + 8), "still lists the livepatch"),
    ],
)
def test_what_contradicts_the_guest_is_a_fault_of_the_livepatch(
    one: Bench, live: Tamper, reverted: Tamper, words: str
) -> None:
    one.look("before")
    one.ram.load()
    live(one.ram)
    one.look("during")
    one.ram.revert()
    reverted(one.ram)
    assert one.look("after"), "the guest goes on"
    problem = one.watcher.tampering("000000")
    assert problem is not None
    assert (problem.code, problem.kind) == ("trial-memory", Kind.FAILURE)
    assert words in problem.excerpt


def test_a_place_that_the_kernel_is_about_to_patch_is_looked_at_again(
    one: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    one.look("before")
    one.ram.load()
    one.ram.put(paper.OTHER, b"\xcc")  # the first byte of a patch of the kernel's own
    monkeypatch.setattr("time.sleep", lambda _s: one.ram.put(paper.OTHER, paper.NOP5))
    assert one.look("during")
    assert one.watcher.tampering("000000") is None
    assert one.monitor.commands.count("stop") == 3


def test_a_monitor_that_does_not_answer_is_told_and_is_no_fault(one: Bench) -> None:
    one.look("before")
    one.monitor.silent_at = "stop"
    assert one.look("during"), "the guest was not stopped, so it goes on by itself"
    report = one.watcher.report("000000")
    assert not report.seen
    assert report.why_not == "QEMU's monitor does not answer within 0 s"
    assert one.watcher.tampering("000000") is None
    assert one.watcher.evasion("000000", NAMES, slow=False) is None


def test_a_guest_that_cannot_go_on_ends_the_boot_inconclusive(one: Bench) -> None:
    one.monitor.silent_at = "cont"
    assert not one.look("before")
    assert one.watcher.fault is not None
    assert (one.watcher.fault.code, one.watcher.fault.kind) == ("trial-monitor", Kind.ERROR)


def test_a_livepatch_that_tampers_after_its_last_look_is_seen_in_the_next_case(one: Bench) -> None:
    one.watcher.subjects = {"000000": SUBJECT, "000001": SUBJECT}
    one.look("before")
    one.ram.load()
    one.look("during")
    one.ram.revert()
    one.look("after")
    one.ram.put(paper.OTHER, b"\xcc")
    one.results.write_text("000001 look.before \n")
    assert one.watcher.look("000001", "before")
    problem = one.watcher.tampering("000000")
    assert problem is not None
    assert "other+0x0 in the kernel's code differs from before the load (after the end of its trial)" in problem.excerpt
    assert one.watcher.tampering("000001") is None


@pytest.mark.parametrize(
    ("registers", "why"),
    [
        ("unknown command", "no registers"),
        (f"{PAGED} CR3=00080000 CR4=00000000\n{PAGED} CR3=00001000 CR4=00000000", "no kernel is mapped"),
        (f"{PAGED} CR3=ffff00000000 CR4=00000000", "no kernel is mapped"),
    ],
)
def test_registers_that_lead_nowhere_are_told(one: Bench, registers: str, why: str) -> None:
    one.monitor.registers = registers
    assert one.look("before")
    assert why in one.watcher.report("000000").why_not


def test_a_guest_without_the_kernels_file_is_not_seen(tmp_path: Path) -> None:
    for vmlinux, why in ((None, "is not here"), (tmp_path / "missing", "cannot be read")):
        with bench(tmp_path, vmlinux) as made:
            assert made.look("before")
            assert why in made.watcher.report("000000").why_not
            assert not made.watcher.report("000000").seen


def test_a_guest_that_does_not_wait_evades_us(one: Bench) -> None:
    one.look("before")
    one.ram.load()
    assert one.look("during", then="000000 disable.1 MAo=\n")
    problem = one.watcher.evasion("000000", NAMES, slow=False)
    assert problem is not None
    assert (problem.code, problem.kind) == ("trial-records", Kind.FAILURE)
    assert one.watcher.evasion("000000", NAMES, slow=True) is None


def test_a_guest_that_never_got_our_answer_does_not_evade(one: Bench) -> None:
    one.look("before")
    early = ["begin", "look.before", "unanswered", "started.1", "done"]
    late = ["begin", "look.before", "started.1", "unanswered", "done"]
    assert one.watcher.evasion("000000", early, slow=False) is None
    assert one.watcher.evasion("000000", late, slow=False) is not None, "its kernel was on trial by then"
