# SPDX-License-Identifier: GPL-2.0-or-later
"""After a forced transition: what it took out stays loaded until a reboot, and every command says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from host_commands import Ran, enrol, run, run_json, save
from simulated_host import NEVER, SimulatedHost, Task, make_livepatch


def load(host: SimulatedHost, name: str, *options: str, series: int = 1, replace: bool = True) -> Ran:
    made = make_livepatch(name, series=[f"{one:064x}" for one in range(series)], replace=replace)
    return run_json(host, "load", save(made, host.root / "files"), *options)


@pytest.fixture
def host(tmp_path: Path) -> SimulatedHost:
    """A host on which elp_b was forced in, so that elp_a, which it replaces, is held for ever."""
    found = SimulatedHost(tmp_path / "host")
    enrol(found)
    load(found, "elp_a")
    found.tasks.append(Task(900, "reader", function="meminfo_proc_show", leaves_at=NEVER))
    forced = load(found, "elp_b", "--deadline", "6", "--force", series=2)
    assert (forced.status, forced.document["left_loaded"]) == (0, ["elp_a"])
    found.tasks.pop()
    return found


def states(host: SimulatedHost, command: str) -> dict[str, str]:
    ran = run_json(host, command)
    return {row["name"]: row["state"] for row in ran.document["livepatches"]}


def test_a_module_that_was_forced_out_is_reported_to_stay_until_a_reboot(host: SimulatedHost) -> None:
    assert states(host, "list") == states(host, "status") == {"elp_b": "live", "elp_a": "pinned"}


def test_going_back_to_it_is_refused_with_both_ways_out_and_changes_nothing(host: SimulatedHost) -> None:
    ran = run_json(host, "rollback")
    assert (ran.status, ran.code) == (6, "module-pinned")
    assert "Reboot" in ran.document["problem"]["advice"]
    assert "`elivepatch unload elp_b`" in ran.document["problem"]["advice"]
    assert host.live == ["elp_b"]
    assert run(host, "status").status == 0


def test_everything_can_be_taken_out_still(host: SimulatedHost) -> None:
    assert run(host, "unload", "elp_b").status == 0
    assert (host.live, host.modules) == ([], ["elp_a"])
    again = run_json(host, "enable", "elp_a")
    assert (again.status, again.code) == (6, "module-pinned")
    assert "elivepatch unload" not in again.document["problem"]["advice"]


def test_a_forced_unload_prints_one_document(tmp_path: Path) -> None:
    host = SimulatedHost(tmp_path / "host")
    enrol(host)
    load(host, "elp_a")
    host.tasks.append(Task(900, "kthread", new_code="elp_a", leaves_at=NEVER))
    ran = run_json(host, "unload", "elp_a", "--deadline", "6", "--force")
    assert (ran.status, ran.document["left_loaded"], host.live) == (6, ["elp_a"], [])
    assert "[still-loaded]" in ran.err


def test_its_very_module_is_refused_before_it_is_tried(host: SimulatedHost) -> None:
    run(host, "unload", "elp_b")
    loads = host.loads
    ran = load(host, "elp_a")
    assert (ran.status, ran.code, host.loads) == (6, "module-pinned", loads)
    assert load(host, "elp_c", series=3).status == 0


def test_after_a_reboot_the_forced_set_is_loaded_and_going_back_works(host: SimulatedHost) -> None:
    run(host, "boot", "--mark-clean")
    host.boot()
    assert run(host, "boot").status == 0
    assert host.live == ["elp_b"]
    assert run(host, "rollback").status == 0
    assert host.live == ["elp_a"]


def test_a_livepatch_beside_others_that_was_forced_out_is_not_loaded_again(tmp_path: Path) -> None:
    host = SimulatedHost(tmp_path / "host")
    enrol(host)
    load(host, "elp_a")
    load(host, "elp_s", series=2, replace=False)
    host.tasks.append(Task(900, "reader", function="meminfo_proc_show", leaves_at=NEVER))
    host.tasks[-1].new_code = "elp_s"
    assert run(host, "unload", "elp_s", "--deadline", "6", "--force").status == 6
    host.tasks.pop()
    load(host, "elp_c", series=2)
    assert host.modules == ["elp_s", "elp_c"]
    loads = host.loads
    assert run(host, "rollback").status == 0
    assert run_json(host, "rollback").code == "module-pinned"
    assert (host.live, host.loads) == (["elp_a"], loads + 1)
