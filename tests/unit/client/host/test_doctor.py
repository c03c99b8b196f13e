# SPDX-License-Identifier: GPL-2.0-or-later
"""Problems that would keep a livepatch from loading are found before it is tried, with advice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from host_commands import enrol, run, run_json, save
from simulated_host import NEVER, RELEASE, SimulatedHost, Task, make_livepatch

from elivepatch.client.host.doctor import examine, ipmodify_functions
from elivepatch.client.host.findings import Finding, Level


@pytest.fixture
def host(tmp_path: Path) -> SimulatedHost:
    found = SimulatedHost(tmp_path)
    enrol(found)
    return found


def found(host: SimulatedHost) -> dict[str, Finding]:
    return {finding.code: finding for finding in examine(host.machine.host)}


def test_a_debian_host_has_nothing_to_complain_of(host: SimulatedHost) -> None:
    assert {finding.level for finding in examine(host.machine.host)} == {Level.OK}
    ran = run(host, "doctor")
    assert ran.status == 0
    assert ran.out.endswith("Livepatches can be loaded.\n")


def _lose_livepatching(host: SimulatedHost) -> None:
    (host.root / "sys/kernel/livepatch").rmdir()
    host.put(f"boot/config-{RELEASE}", "# CONFIG_LIVEPATCH is not set\nCONFIG_DYNAMIC_FTRACE_WITH_REGS=y\n")


FTRACE = "CONFIG_LIVEPATCH=y\nCONFIG_DYNAMIC_FTRACE_WITH_REGS=y\n"
STOPS: list[tuple[str, Callable[[SimulatedHost], None]]] = [
    ("not-root", lambda host: host.put("proc/self/status", "CapEff:\t0000000000000000\n")),
    ("build-id-unknown", lambda host: host.put("sys/kernel/notes", b"")),
    ("no-livepatching", _lose_livepatching),
    ("kernel-old", lambda host: host.put("proc/sys/kernel/osrelease", "4.19.0-27-amd64\n")),
    ("ftrace-off", lambda host: host.put("proc/sys/kernel/ftrace_enabled", "0\n")),
    ("ftrace-missing", lambda host: host.put(f"boot/config-{RELEASE}", "CONFIG_LIVEPATCH=y\n")),
    ("modules-disabled", lambda host: host.put("proc/sys/kernel/modules_disabled", "1\n")),
    ("signature-needed", lambda host: host.put("sys/module/module/parameters/sig_enforce", "Y\n")),
    ("signature-needed", lambda host: host.put("sys/kernel/security/lockdown", "none [integrity] confidentiality\n")),
    ("signature-needed", lambda host: host.put(f"boot/config-{RELEASE}", f"{FTRACE}CONFIG_MODULE_SIG_FORCE=y\n")),
]


@pytest.mark.parametrize(("code", "change"), STOPS, ids=[f"{code}-{number}" for number, (code, _) in enumerate(STOPS)])
def test_a_finding_that_stops_livepatches_stops_commands_too(
    host: SimulatedHost, code: str, change: Callable[[SimulatedHost], None]
) -> None:
    change(host)
    finding = found(host)[code]
    assert finding.level is Level.STOP
    assert finding.advice
    assert run(host, "doctor").status == 6
    made = make_livepatch("elp_a")
    ran = run_json(host, "load", save(made, host.root / "files"))
    assert (ran.status, ran.code) == (6, code)
    assert host.loads == 0


@pytest.mark.parametrize(("code", "change"), STOPS[-5:], ids=[f"{code}-{n}" for n, (code, _) in enumerate(STOPS[-5:])])
def test_what_only_keeps_livepatches_from_being_loaded_does_not_keep_one_from_being_taken_out(
    host: SimulatedHost, code: str, change: Callable[[SimulatedHost], None]
) -> None:
    for number, name in enumerate(("elp_a", "elp_b"), start=1):
        made = make_livepatch(name, series=[f"{one:064x}" for one in range(number)])
        assert run(host, "load", save(made, host.root / "files")).status == 0
    change(host)
    back = run_json(host, "rollback")
    assert (back.status, back.code, host.live) == (6, code, ["elp_b"])
    assert run(host, "unload", "elp_b").status == 0
    assert host.live == []
    assert run(host, "status").status == 0


NOTES: list[tuple[str, Callable[[SimulatedHost], None]]] = [
    ("config-unknown", lambda host: (host.root / f"boot/config-{RELEASE}").unlink()),
    ("config-malformed", lambda host: host.put(f"boot/config-{RELEASE}", "CONFIG_X=$(reboot)\n")),
    (
        "stacks-unreliable",
        lambda host: host.put(f"boot/config-{RELEASE}", "CONFIG_LIVEPATCH=y\nCONFIG_DYNAMIC_FTRACE_WITH_ARGS=y\n"),
    ),
    ("kernel-oopsed", lambda host: host.put("proc/sys/kernel/tainted", "128\n")),
    ("kernel-tainted", lambda host: host.put("proc/sys/kernel/tainted", "512\n")),
    ("tracers", lambda host: host.put("sys/kernel/tracing/enabled_functions", "vfs_read (1) R I     \ttramp: x\n")),
]


@pytest.mark.parametrize(("code", "change"), NOTES, ids=[f"{code}-{number}" for number, (code, _) in enumerate(NOTES)])
def test_a_note_is_printed_and_stops_nothing(
    host: SimulatedHost, code: str, change: Callable[[SimulatedHost], None]
) -> None:
    change(host)
    assert found(host)[code].level is Level.NOTE
    assert run(host, "doctor").status == 0


def test_a_livepatch_of_another_program_is_reported(host: SimulatedHost) -> None:
    with save(make_livepatch("kpatch_x"), host.root / "files").open("rb") as file:
        host.load(file.fileno())
    assert "kpatch_x" in run(host, "doctor").out


def test_a_transition_under_way_is_reported(host: SimulatedHost) -> None:
    host.tasks.append(Task(9, "reader", function="meminfo_proc_show", leaves_at=NEVER))
    with save(make_livepatch("elp_a"), host.root / "files").open("rb") as file:
        host.load(file.fileno())
    assert found(host)["transition-running"].level is Level.STOP


def test_user_patches_of_gentoo_are_named_because_the_servers_base_needs_them(tmp_path: Path) -> None:
    host = SimulatedHost(tmp_path, release="6.6.30-gentoo")
    host.put("etc/portage/patches/sys-kernel/gentoo-sources/1.patch", "x")
    ran = run_json(host, "doctor")
    assert [patch["name"] for patch in ran.document["base_patches"]] == ["1.patch"]


def test_functions_that_a_tracer_redirects_are_read_from_ftraces_own_list(host: SimulatedHost) -> None:
    lines = [
        "vfs_read (2) R I     \ttramp: 0xffffffffc0 (klp_ftrace_handler+0x0/0x1d0)",
        "ext4_read [ext4] (1)   I   ",
        "do_exit (1) R   \ttramp: x",
        "__ftrace_invalid_address___64 (1)",
        "direct (1)     D",
        "\tdirect-->bpf_trampoline",
    ]
    host.put("sys/kernel/tracing/enabled_functions", "\n".join(lines) + "\n")
    assert set(ipmodify_functions(host.machine.host) or {}) == {"vfs_read", "ext4_read"}


def test_without_tracefs_nothing_is_claimed(host: SimulatedHost) -> None:
    assert ipmodify_functions(host.machine.host) is None
