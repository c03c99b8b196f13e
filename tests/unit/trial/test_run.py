# SPDX-License-Identifier: GPL-2.0-or-later
"""Trials run in order; a program in QEMU's place writes the records that the test wants."""

from __future__ import annotations

import base64
import json
import shutil
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from elivepatch.model.build import PatchedFunction
from elivepatch.model.errors import EnvironmentFault, Kind, UsageError
from elivepatch.model.progress import Event
from elivepatch.model.trial import TrialOutcome, TrialReport
from elivepatch.process import Cancellation
from elivepatch.trial import qemu
from elivepatch.trial.case import GuestKernel, TrialCase
from elivepatch.trial.qemu import Programs, choose_accelerator
from elivepatch.trial.run import run_trial, run_trials

BUILD_ID = "ab" * 20
RELEASE = "6.1.0-50-cloud-amd64"
STATIC_ELF = b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 0, 0, 0, 64, 0, 0, 0, 0, 0)
NOTES = struct.pack("<III", 4, 20, 3) + b"GNU\0" + bytes.fromhex(BUILD_ID)
GUEST = {"release": RELEASE.encode() + b"\n", "notes": NOTES, "ready": b""}
WHOLE = {
    "begin": b"", "log.before": b"", "started.1": b"1.0", "load.1": b"0\n", "settled.1": b"0\n", "finished.1": b"1.5",
    "objects.1": b"0\nvmlinux 1 1\n", "disable.1": b"0\n", "gone.1": b"0\n", "log.during": b"", "log.after": b"",
    "unload.1": b"0\n", "load.2": b"0\n", "settled.2": b"0\n", "log.again": b"", "objects.2": b"0\nvmlinux 1 1\n",
    "log.reload": b"", "disable.2": b"0\n", "gone.2": b"0\n", "unload.2": b"0\n", "log.rest": b"", "done": b"",
}  # fmt: skip

STAGES = ("before", "load.1", "during", "disable.1", "after", "unload", "load.2", "again", "reload", "disable.2")

# The stand-in writes what its plan says for the names of livepatches it finds in its initramfs, in order, until one
# of them ends the guest. It gets its two logs as QEMU does, as descriptors.
STAND_IN = """\
#!/usr/bin/env python3
import json, os, re, sys, time
PLAN = json.loads(r'''{plan}''')
sets = dict(reversed(a.removeprefix("fd=").split(",set=")) for a in sys.argv if a.startswith("fd="))
console, results = int(sets["1"]), int(sets["2"])
if PLAN["refuses"]:
    sys.exit("no such machine")
archive = open(sys.argv[sys.argv.index("-initrd") + 1], "rb").read()
assert open(sys.argv[sys.argv.index("-kernel") + 1], "rb").read() == b"a kernel"
os.write(console, b"[    0.0] Linux version\\n")
os.write(results, PLAN["guest"].encode())
for scope, name in re.findall(rb"trial/case/([0-9]+)/name\\0+([a-z_]+)\\n", archive):
    case = PLAN["cases"][name.decode()]
    os.write(console, b"[    2.0] elivepatch: case " + scope + b" parents\\n" + case["console"].encode())
    for stage in case["stages"]:
        os.write(console, b"[    2.1] elivepatch: case " + scope + b" " + stage.encode() + b"\\r\\n")
    first, loaded, rest = case["results"].replace("SCOPE", scope.decode()).partition(scope.decode() + " load.1 ")
    os.write(results, first.encode())
    # A real kernel takes its time between the first record after the load and the last one.
    load, newline, rest = rest.partition("\\n")
    os.write(results, (loaded + load + newline).encode())
    time.sleep(0.4 if rest else 0)
    os.write(results, rest.encode())
    time.sleep(case["sleeps"])
    if case["ends"] is not None:
        sys.stdout.flush()
        os.kill(os.getpid(), -case["ends"]) if case["ends"] < 0 else sys.exit(case["ends"])
os.write(results, PLAN["end"].encode())
os.write(console, b"[    9.0] reboot: Restarting system\\r\\n")
"""


def records(scope: str, values: dict[str, bytes]) -> str:
    return "".join(f"{scope} {key} {base64.b64encode(value).decode()}\r\n" for key, value in values.items())


def case_plan(
    values: dict[str, bytes], *, console: str = "", ends: int | None = None, sleeps: float = 0, raw: str = ""
) -> dict[str, object]:
    return {
        "results": records("SCOPE", values) + raw, "console": console, "ends": ends, "sleeps": sleeps,
        "stages": STAGES if "done" in values else (),
    }  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """A kernel, a directory that QEMU's user can reach, and the stand-in."""

    top: Path
    tmp_path: Path

    @property
    def kernel(self) -> GuestKernel:
        return GuestKernel(
            release=RELEASE, build_id=BUILD_ID, image=self.tmp_path / "vmlinuz", modules_dir=self.tmp_path / "modules"
        )

    def programs(
        self, cases: dict[str, dict[str, object]], guest: dict[str, bytes] | None = None, *, refuses: bool = False
    ) -> Programs:
        said = records("-", GUEST if guest is None else guest)
        plan = {"guest": said, "cases": cases, "end": records("-", {"end": b""}), "refuses": refuses}
        program = self.top / "qemu"
        program.write_text(STAND_IN.format(plan=json.dumps(plan)))
        program.chmod(0o755)
        return Programs(qemu=str(program), busybox=self.tmp_path / "busybox")

    def case(self, name: str) -> TrialCase:
        livepatch = self.tmp_path / f"{name}.ko"
        livepatch.write_bytes(b"a module")
        return TrialCase(livepatch=livepatch, name=name)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(qemu, "_KVM", tmp_path / "no-kvm")
    (tmp_path / "vmlinuz").write_bytes(b"a kernel")
    (tmp_path / "vmlinuz").chmod(0o600)
    (tmp_path / "busybox").write_bytes(STATIC_ELF)
    (tmp_path / "modules").mkdir()
    top = Path(tempfile.mkdtemp())
    top.chmod(0o755)
    yield Bench(top, tmp_path)
    shutil.rmtree(top)


def try_one(bench: Bench, programs: Programs, **more: Any) -> TrialReport:
    case = bench.case("livepatch_x")
    return run_trial(
        kernel=bench.kernel, livepatch=case.livepatch, livepatch_name=case.name, parents=[], expectations=[],
        work_dir=bench.tmp_path / "work", cache_dir=bench.tmp_path / "cache", programs=programs, **more,
    )  # fmt: skip


def test_a_whole_run_passes_and_leaves_the_console(bench: Bench) -> None:
    events: list[Event] = []
    report = try_one(bench, bench.programs({"livepatch_x": case_plan(WHOLE)}), progress=events.append)
    assert report.problems == ()
    assert report.passed
    assert (report.release, report.build_id, report.accelerator) == (RELEASE, BUILD_ID, "tcg")
    assert (report.transition_s, report.reverted, report.reloaded) == (0.5, True, True)
    assert (bench.tmp_path / "work/console.log").read_text().startswith("[    0.0] Linux version\n")
    assert [event.message for event in events][:2] == [f"booting {RELEASE} (tcg)", "the kernel is up"]
    assert 0 < report.seconds < 10


def test_a_guest_that_reports_success_and_dies_does_not_pass(bench: Bench) -> None:
    for ends in (0, -9):
        report = try_one(bench, bench.programs({"livepatch_x": case_plan(WHOLE, ends=ends)}))
        assert [problem.code for problem in report.problems] == ["trial-records"]
        assert (report.passed, report.reverted, report.reloaded, report.clean_log) == (False,) * 4


def test_a_guest_that_dies_in_the_middle_is_a_failure(bench: Bench) -> None:
    half = {key: WHOLE[key] for key in ("begin", "log.before", "load.1")}
    report = try_one(bench, bench.programs({"livepatch_x": case_plan(half, console="[    3.0] BUG: dead\n", ends=0)}))
    assert [problem.code for problem in report.problems] == ["trial-kernel-log"]
    report = try_one(bench, bench.programs({"livepatch_x": case_plan(half, ends=-9)}))
    assert [problem.code for problem in report.problems] == ["trial-lost"]


@pytest.mark.parametrize(
    "raw", ["\x00\x01\x02", "SCOPE load.1 MA", "SCOPE load.1 !!!\n" * 50, "\n" * 1000, "SCOPE " + "A" * 100_000]
)
def test_garbage_is_an_outcome(bench: Bench, raw: str) -> None:
    report = try_one(bench, bench.programs({"livepatch_x": case_plan({"begin": b"", "done": b""}, raw=raw)}))
    assert [problem.code for problem in report.problems] == ["trial-lost"]
    assert not report.passed


def test_an_inconclusive_trial_is_tried_again_once_and_is_no_verdict(bench: Bench) -> None:
    events: list[Event] = []
    lost = bench.programs({"livepatch_x": case_plan({"begin": b""}, ends=-9)})
    report = try_one(bench, lost, progress=events.append)
    assert (report.outcome, report.passed) == (TrialOutcome.INCONCLUSIVE, False)
    assert [event.message for event in events].count(f"booting {RELEASE} (tcg)") == 2
    events.clear()
    other = bench.programs({"livepatch_x": case_plan(WHOLE)}, guest=GUEST | {"release": b"6.1.0-49\n"})
    assert try_one(bench, other, progress=events.append).outcome is TrialOutcome.INCONCLUSIVE
    assert [event.message for event in events].count(f"booting {RELEASE} (tcg)") == 1, "it would be the same again"


def test_a_fault_of_the_patch_is_not_tried_again(bench: Bench) -> None:
    events: list[Event] = []
    half = {key: WHOLE[key] for key in ("begin", "log.before", "load.1")}
    programs = bench.programs({"livepatch_x": case_plan(half, console="[    3.0] BUG: dead\n", ends=0)})
    assert try_one(bench, programs, progress=events.append).outcome is TrialOutcome.FAILED
    assert [event.message for event in events].count(f"booting {RELEASE} (tcg)") == 1


def test_a_guest_that_hangs_is_stopped_at_the_limit(bench: Bench) -> None:
    programs = bench.programs({"livepatch_x": case_plan({"begin": b"", "log.before": b""}, sleeps=60)})
    started = time.monotonic()
    report = try_one(bench, programs, timeout_s=1)
    assert time.monotonic() - started < 5
    assert [problem.code for problem in report.problems] == ["trial-timeout"]
    assert "1 s" in report.problems[0].message


def test_a_kernel_that_does_not_come_up_is_our_matter(bench: Bench) -> None:
    report = try_one(bench, bench.programs({"livepatch_x": case_plan({}, ends=0)}, guest={}))
    assert [(problem.code, problem.kind) for problem in report.problems] == [("trial-boot", Kind.ERROR)]
    assert "Linux version" in report.problems[0].excerpt


@pytest.mark.parametrize("changed", [{"notes": b""}, {"notes": NOTES[:-1] + b"x"}, {"release": b"6.1.0-49\n"}])
def test_another_kernel_is_reported_and_nothing_else(bench: Bench, changed: dict[str, bytes]) -> None:
    report = try_one(bench, bench.programs({"livepatch_x": case_plan(WHOLE)}, guest=GUEST | changed))
    assert [(problem.code, problem.kind) for problem in report.problems] == [("trial-wrong-kernel", Kind.ERROR)]


def test_an_emulator_that_refuses_or_is_missing_is_a_fault(bench: Bench) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        try_one(bench, bench.programs({}, refuses=True))
    assert caught.value.problem.code == "trial-qemu"
    assert caught.value.problem.excerpt == "no such machine"
    missing = Programs(qemu=str(bench.top / "none"), busybox=bench.tmp_path / "busybox")
    with pytest.raises(EnvironmentFault, match="cannot run a guest"):
        try_one(bench, missing)


def test_a_file_that_is_not_there_is_a_fault(bench: Bench) -> None:
    programs = bench.programs({"livepatch_x": case_plan(WHOLE)})
    (bench.tmp_path / "vmlinuz").unlink()
    with pytest.raises(EnvironmentFault, match="vmlinuz cannot be read"):
        try_one(bench, programs)


def test_cancelling_ends_the_guest_at_once(bench: Bench) -> None:
    programs = bench.programs({"livepatch_x": case_plan({"begin": b""}, sleeps=60)})
    cancellation = Cancellation.new()
    threading.Timer(0.7, cancellation.event.set).start()
    started = time.monotonic()
    with pytest.raises(EnvironmentFault) as caught:
        try_one(bench, programs, cancellation=cancellation)
    assert caught.value.problem.code == "cancelled"
    assert time.monotonic() - started < 2.7


def test_one_that_dies_costs_the_others_a_boot_and_nothing_else(bench: Bench) -> None:
    cases = {
        "good": case_plan(WHOLE),
        "dies": case_plan({"begin": b"", "log.before": b""}, console="[    3.0] kernel BUG at x\n", ends=0),
        "ends_boot": case_plan(WHOLE | {"log.rest": b"<4>[    3.0] WARNING: x\n"}, ends=0),
    }
    order = ["good", "dies", "good", "ends_boot", "good", "dies"]
    reports = run_trials(
        kernel=bench.kernel, cases=[bench.case(name) for name in order], work_dir=bench.tmp_path / "work",
        cache_dir=bench.tmp_path / "cache", programs=bench.programs(cases),
    )  # fmt: skip
    assert [report.passed for report in reports] == [True, False, True, False, True, False]
    assert {problem.code for report in reports for problem in report.problems} == {"trial-kernel-log"}
    consoles = sorted(path.name for path in (bench.tmp_path / "work").glob("console*"))
    assert consoles == ["console-2.log", "console-3.log", "console.log"]


def test_a_guest_that_never_begins_a_case_is_not_booted_for_ever(bench: Bench) -> None:
    reports = run_trials(
        kernel=bench.kernel, cases=[bench.case("silent"), bench.case("silent")], work_dir=bench.tmp_path / "work",
        cache_dir=bench.tmp_path / "cache", programs=bench.programs({"silent": case_plan({})}),
    )  # fmt: skip
    assert [[problem.code for problem in report.problems] for report in reports] == [["trial-lost"], ["trial-lost"]]


def test_no_cases_need_no_boot(bench: Bench) -> None:
    assert run_trials(
        kernel=bench.kernel, cases=[], work_dir=bench.tmp_path / "work", cache_dir=bench.tmp_path / "cache",
        programs=bench.programs({}, refuses=True),
    ) == ()  # fmt: skip


def test_a_build_id_that_is_none_is_refused(bench: Bench) -> None:
    with pytest.raises(UsageError):
        GuestKernel(release=RELEASE, build_id="../x", image=bench.tmp_path, modules_dir=bench.tmp_path)


@pytest.mark.parametrize(("refuses", "answer"), [(False, "kvm"), (True, "tcg")])
def test_kvm_is_used_if_a_guest_ran_with_it_and_the_answer_is_kept(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, refuses: bool, answer: str
) -> None:
    monkeypatch.setattr(qemu, "_KVM", Path("/dev/null"))
    cache = bench.tmp_path / "cache"
    assert choose_accelerator(bench.kernel, programs=bench.programs({}, refuses=refuses), cache_dir=cache) == answer
    other_way = bench.programs({}, refuses=not refuses)
    assert choose_accelerator(bench.kernel, programs=other_way, cache_dir=cache) == answer
    monkeypatch.setattr(qemu, "_BOOT_ID", bench.tmp_path / "boot_id")
    (bench.tmp_path / "boot_id").write_text("another boot of this machine\n")
    asked_anew = choose_accelerator(bench.kernel, programs=other_way, cache_dir=cache)
    assert asked_anew == {"kvm": "tcg", "tcg": "kvm"}[answer]


def test_a_guest_that_dies_under_its_workload_is_tried_again_without_it(bench: Bench) -> None:
    before = {"begin": b""}
    function = PatchedFunction(object="vmlinux", name="f", sympos=0, source="fs/proc/meminfo.c")
    programs = bench.programs({"livepatch_x": case_plan(before, console="[    3.0] BUG: dead\n", ends=-9)})
    events: list[Event] = []
    report = try_one(bench, programs, functions=[function], workload_s=4, progress=events.append)
    assert sum(event.message.startswith("booting") for event in events) == 2
    assert any("did not survive its workload" in event.message for event in events)
    assert report.workload_left_out == "the guest did not survive it without the livepatch"
    assert report.workload == ()
    assert [problem.code for problem in report.problems] != ["trial-workload"]
