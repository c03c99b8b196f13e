# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest has the files of a workload only if one wants them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from elivepatch.model.build import PatchedFunction
from elivepatch.process import run
from elivepatch.trial.evidence.kernel_log import trouble
from elivepatch.trial.workload import guest_files, tools
from elivepatch.trial.workload.choice import table
from elivepatch.trial.workload.guest_files import Workload, plan

GUEST = Path(__file__).parents[4] / "src/elivepatch/trial/workload/guest.sh"
PROC = PatchedFunction(object="vmlinux", name="meminfo_proc_show", sympos=0, source="fs/proc/meminfo.c")
SOCKET = PatchedFunction(object="vmlinux", name="ip_output", sympos=0, source="net/ipv4/ip_output.c")


def test_a_livepatch_of_unknown_functions_adds_nothing_to_its_guest() -> None:
    assert guest_files.shared([Workload()]) == []
    assert guest_files.of_case("trial/case/000000", Workload(), []) == []


def test_a_budget_of_nothing_counts_and_runs_nothing() -> None:
    planned = plan([PROC], 0.0)
    assert planned.programs == ()
    names = {entry.name for entry in guest_files.shared([planned])}
    assert names == {"trial/workload", "trial/workload/guest.sh", "trial/workload/start.sh"}
    lists = {entry.name: entry.content for entry in guest_files.of_case("c", planned, [])}
    assert lists["c/tasks/programs"] == b""
    assert lists["c/tasks/functions"] == b"000 meminfo_proc_show\n"


def test_a_program_that_lacks_its_tool_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "PROGRAM_PLACES", ())
    planned = plan([PROC, SOCKET], 20.0)
    assert [one.program.name for one in planned.programs] == ["proc"]
    assert planned.left_out == (("inet", "ip"),)


def test_a_case_lists_its_programs_functions_modules_and_budget() -> None:
    lists = {entry.name: entry.content for entry in guest_files.of_case("c", plan([PROC], 7.2), ["loop", "ext2"])}
    assert lists["c/tasks/programs"] == b"proc filesystem.sh proc meminfo\n"
    assert lists["c/tasks/modules"] == b"loop\next2\n"
    assert lists["c/tasks/budget_s"] == b"8\n"


def test_only_a_workload_for_drivers_adds_devices_each_once() -> None:
    disk = PatchedFunction(object="nvme", name="nvme_queue_rq", sympos=0, source="drivers/nvme/host/pci.c")
    assert guest_files.devices([plan([PROC], 20.0)]) == ()
    twice = guest_files.devices([plan([disk], 20.0), plan([disk], 20.0)])
    assert twice == guest_files.devices([plan([disk], 20.0)])
    assert "nvme,serial=elivepatch,drive=disk1" in twice
    assert guest_files.devices([plan([disk], 0.0)]) == ()


def test_the_devices_of_all_programs_fit_into_one_guest() -> None:
    devices = list(dict.fromkeys(device for program in table() for device in program.devices))
    names = re.findall(r",(?:node-name|id)=([a-z0-9]+)", " ".join(devices))
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"(-(device|netdev|blockdev) \S+ ?)+", device) for device in devices)
    # No file of this machine, and no network.
    assert not re.search(r"filename|user|tap|socket|bridge|/", " ".join(devices))


TROUBLE = """BUG: unable to handle page fault
kernel BUG at mm/slub.c:5!
WARNING: CPU: 0 PID: 1 at f
Oops: 0000
Kernel panic - not syncing
general protection fault: 0000 [#1] PREEMPT
PANIC: double fault
UBSAN: shift-out-of-bounds
CFI failure at f
traps: Missing ENDBR: f
rcu: INFO: rcu_preempt detected stalls on CPUs
rcu: INFO: rcu_preempt self-detected stall on CPU
rcu: rcu_preempt kthread starved for 5 jiffies
INFO: task x blocked for more than 20 seconds
INFO: task x blocked in I/O wait for more than 20 seconds
watchdog: BUG: soft lockup
watchdog: Watchdog detected hard LOCKUP on cpu 0
refcount_t: underflow
list_del corruption
 Call Trace:""".splitlines()


@pytest.mark.parametrize("line", TROUBLE)
def test_the_guest_sees_all_trouble_that_the_judge_would_see(line: str) -> None:
    assert trouble(line, complaints=False)
    pattern = re.search(r"^NOISE='(.*)'$", GUEST.read_text(), re.MULTILINE)
    assert pattern is not None
    run(["busybox", "grep", "-qE", pattern[1]], stdin=line.encode()).check("Searching as the guest does")


def assigned(text: str) -> set[str]:
    """Return the variables that a shell script sets."""
    text = re.sub(r"'[^']*'|#.*", "", text)
    names = set(re.findall(r"(?:^|[\s;&|(])([a-z_]+)=", text))
    for words in re.findall(r"\bread -r ([a-z_ ]+)", text) + re.findall(r"\bfor ([a-z_]+) in\b", text):
        names |= set(words.split())
    return names - {"_", "if"}


def test_the_script_of_a_workload_changes_no_variable_of_the_scenario() -> None:
    init, guest = GUEST.parents[1] / "init.sh", GUEST
    local = set(" ".join(re.findall(r"\blocal (.*)", guest.read_text())).replace("=", " ").split())
    # Set again by each use: the clock, the status of the last step, and what taints() sets.
    shared = {"now", "status", "taint"}
    assert assigned(guest.read_text()) - local & assigned(init.read_text()) <= shared


@pytest.mark.parametrize(("uptime", "number"), [("0.90", 90), ("0.08", 8), ("7.09", 709), ("123.00", 12300)])
def test_the_clock_of_a_guest_is_a_number_from_its_first_second_on(tmp_path: Path, uptime: str, number: int) -> None:
    (tmp_path / "uptime").write_text(f"{uptime} 1.00\n")
    found = re.search(r"^centiseconds\(\) \{.*?^\}\n", GUEST.read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None
    script = found[0].replace("/proc/uptime", str(tmp_path / "uptime"))
    done = run(["/bin/busybox", "sh", "-c", f"{script}centiseconds\necho $((now + 0))"])
    assert (done.status, done.text.strip()) == (0, str(number))
