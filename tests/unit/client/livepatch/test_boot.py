# SPDX-License-Identifier: GPL-2.0-or-later
"""After a boot: what was recorded for this very kernel comes back, unless the machine may have died of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from host_commands import enrol, run, run_json, save
from simulated_host import NEVER, SimulatedHost, Task, make_livepatch


@pytest.fixture
def host(tmp_path: Path) -> SimulatedHost:
    found = SimulatedHost(tmp_path)
    enrol(found)
    made = make_livepatch("elp_a")
    assert run(found, "load", save(made, found.root / "files")).status == 0
    return found


def test_after_a_proper_shutdown_the_set_is_loaded(host: SimulatedHost) -> None:
    assert run(host, "boot", "--mark-clean").status == 0
    host.boot(seconds_down=5)
    assert run(host, "status").status == 6
    ran = run_json(host, "boot")
    assert (ran.status, ran.document["did"]) == (0, "loaded")
    assert host.live == ["elp_a"]
    assert run(host, "status").status == 0


def test_a_second_boot_command_in_one_boot_changes_nothing(host: SimulatedHost) -> None:
    assert run(host, "boot").status == 0
    assert host.loads == 1


def test_a_crash_soon_after_the_load_makes_the_set_skipped_and_status_says_so(host: SimulatedHost) -> None:
    host.boot(seconds_down=120)
    ran = run_json(host, "boot")
    assert (ran.status, ran.code) == (6, "boot-skipped")
    assert host.live == []
    status = run_json(host, "status")
    assert status.status == 6
    assert "without a shutdown" in status.document["record"]["guard"]
    assert "was not loaded at boot" in status.document["attention"][0]
    assert run_json(host, "history").document["events"][-1]["action"].startswith("boot: skipped")


def test_a_skipped_set_stays_skipped_until_a_person_clears_it(host: SimulatedHost) -> None:
    host.boot(seconds_down=120)
    run(host, "boot")
    run(host, "boot", "--mark-clean")
    host.boot(seconds_down=90_000)
    assert run_json(host, "boot").code == "boot-skipped"
    assert run(host, "boot", "--clear-guard").status == 0
    assert host.live == ["elp_a"]
    assert run(host, "status").status == 0


def test_a_crash_long_after_the_load_is_not_held_against_the_set(host: SimulatedHost) -> None:
    host.pass_time(3600)
    host.boot(seconds_down=30)
    assert run(host, "boot").status == 0
    assert host.live == ["elp_a"]


def test_how_long_is_a_setting(host: SimulatedHost) -> None:
    host.put("etc/elivepatch/client.toml", "boot_guard_s = 7200\n")
    host.pass_time(3600)
    host.boot(seconds_down=30)
    assert run_json(host, "boot").code == "boot-skipped"


def test_a_clock_that_ran_backwards_is_no_reason_to_load(host: SimulatedHost) -> None:
    host.time -= 10_000
    host.boot()
    assert run_json(host, "boot").code == "boot-skipped"


def test_a_machine_that_dies_of_the_set_while_it_boots_comes_up_without_it_the_next_time(host: SimulatedHost) -> None:
    run(host, "boot", "--mark-clean")
    host.boot(seconds_down=30)

    def die(_act: str) -> None:
        os._exit(9)

    if os.fork() == 0:
        host.after = die
        run(host, "boot")
        os._exit(0)
    os.wait()
    host.boot(seconds_down=100_000)
    ran = run_json(host, "boot")
    assert (ran.status, ran.code) == (6, "boot-skipped")
    assert "while it was being loaded" in ran.document["problem"]["message"]


def test_a_machine_that_dies_of_a_new_set_comes_back_with_the_old_one(host: SimulatedHost) -> None:
    module = save(make_livepatch("elp_b", series=["a" * 64, "b" * 64]), host.root / "files")

    def die(_act: str) -> None:
        os._exit(9)

    if os.fork() == 0:
        host.after = die
        run(host, "load", module)
        os._exit(0)
    os.wait()
    host.boot(seconds_down=30)
    assert run(host, "boot").status == 0
    assert host.live == ["elp_a"]


def test_the_kernels_command_line_can_keep_everything_out(host: SimulatedHost) -> None:
    run(host, "boot", "--mark-clean")
    host.boot()
    host.put("proc/cmdline", "root=/dev/vda1 ro elivepatch.off quiet\n")
    assert run_json(host, "boot").document == {"did": "switched-off", "change": None}
    assert host.live == []


def test_another_kernel_loads_nothing_and_names_the_kernel_of_the_record(host: SimulatedHost) -> None:
    run(host, "boot", "--mark-clean")
    host.release, host.build_id = "6.1.0-51-cloud-amd64", "fe" * 20
    host.boot()
    ran = run(host, "boot")
    assert ran.status == 0
    assert "the record of 6.1.0-50-cloud-amd64 does not fit" in ran.out
    assert host.loads == 1
    assert "there is one for 6.1.0-50-cloud-amd64" in run(host, "status").out


def test_the_same_release_rebuilt_is_another_kernel(host: SimulatedHost) -> None:
    run(host, "boot", "--mark-clean")
    host.build_id = "fe" * 20
    host.boot()
    assert run_json(host, "boot").document["did"] == "nothing"
    assert host.live == []


def test_back_on_the_first_kernel_its_own_record_is_there(host: SimulatedHost) -> None:
    run(host, "boot", "--mark-clean")
    first = host.build_id
    host.build_id = "fe" * 20
    host.boot()
    run(host, "boot")
    host.build_id = first
    host.boot()
    assert run(host, "boot").status == 0
    assert host.live == ["elp_a"]


def test_a_stall_at_boot_leaves_the_kernel_as_it_was_and_the_set_recorded(host: SimulatedHost) -> None:
    run(host, "boot", "--mark-clean")
    host.tasks.append(Task(44, "early", function="meminfo_proc_show", leaves_at=NEVER))
    host.boot()
    ran = run_json(host, "boot", "--deadline", "5")
    assert (ran.status, ran.code) == (6, "transition-stalled")
    assert host.live == host.modules == []
    host.tasks[-1].leaves_at = 0
    host.pass_time(1)
    assert run(host, "boot").status == 0
    assert host.live == ["elp_a"]


def test_before_the_set_is_loaded_apply_does_not_silently_leave_it_out(host: SimulatedHost) -> None:
    run(host, "boot", "--mark-clean")
    host.boot()
    module = save(make_livepatch("elp_b", series=["b" * 64]), host.root / "files")
    assert run_json(host, "load", module).code == "not-loaded-yet"
    assert run(host, "unload", "elp_a").status == 0
    assert run(host, "load", module).status == 0
    assert host.live == ["elp_b"]


def test_a_module_that_was_changed_on_the_disk_is_not_loaded_at_boot(host: SimulatedHost) -> None:
    run(host, "boot", "--mark-clean")
    host.boot()
    kept = host.store.path_of(make_livepatch("elp_a").statement.digest, "ko")
    kept.write_bytes(b"\x7fELF")
    ran = run_json(host, "boot")
    assert (ran.status, ran.code) == (5, "module-digest")
    assert host.live == []


def test_a_machine_that_goes_down_in_the_middle_of_an_unload_comes_back_with_the_livepatch(host: SimulatedHost) -> None:
    run(host, "boot", "--mark-clean")
    if os.fork() == 0:
        host.before = lambda _act: os._exit(9)
        run(host, "unload", "elp_a")
        os._exit(0)
    os.wait()
    assert host.store.next_record() is not None
    host.boot(seconds_down=30)
    assert run(host, "boot").status == 0
    assert host.live == ["elp_a"]
    assert host.store.next_record() is None
