# SPDX-License-Identifier: GPL-2.0-or-later
"""A livepatch that has handed out addresses in itself: it can be taken out, its module stays, and commands say so."""

from __future__ import annotations

from pathlib import Path

import pytest
from elf_maker import GLOBAL, Made
from host_commands import Ran, enrol, run, run_json, save
from simulated_host import SimulatedHost, make_livepatch

from elivepatch.client.livepatch.preflight import lasting


def load(host: SimulatedHost, name: str, *, stays: bool = False, series: int = 1, replace: bool = True) -> Ran:
    made = make_livepatch(name, series=[f"{one:064x}" for one in range(series)], replace=replace, stays=stays)
    return run_json(host, "load", save(made, host.root / "files"))


@pytest.fixture
def host(tmp_path: Path) -> SimulatedHost:
    """A host whose livepatch elp_b, which replaced elp_a, will stay in memory."""
    found = SimulatedHost(tmp_path / "host")
    enrol(found)
    load(found, "elp_a")
    assert load(found, "elp_b", stays=True, series=2).status == 0
    return found


def rows(host: SimulatedHost, command: str = "list") -> dict[str, tuple[str, bool]]:
    ran = run_json(host, command)
    return {row["name"]: (row["state"], row["stays_in_memory"]) for row in ran.document["livepatches"]}


def test_list_and_status_say_that_it_stays_while_it_is_live(host: SimulatedHost) -> None:
    assert rows(host)["elp_b"] == rows(host, "status")["elp_b"] == ("live", True)
    assert rows(host)["elp_a"] == ("recorded", False)
    assert "live (stays)" in run(host, "list").out
    assert "in memory until a reboot, also after it is taken out" in run(host, "list", "elp_b").out


def test_rollback_takes_it_out_and_its_module_stays(host: SimulatedHost) -> None:
    ran = run(host, "rollback")
    assert ran.status == 0
    assert "elp_b is out of force, and its module stays in memory until a reboot" in ran.out
    assert (host.live, sorted(host.modules)) == (["elp_a"], ["elp_a", "elp_b"])
    assert rows(host)["elp_b"] == ("pinned", True)


def test_unload_takes_it_out_and_says_in_plain_words_that_its_module_stays(host: SimulatedHost) -> None:
    time = host.time
    ran = run(host, "unload", "elp_b")
    assert (ran.status, host.live) == (0, [])
    assert "elp_b is out of force, and its module stays in memory until a reboot" in ran.out
    assert host.time - time < 2
    assert run(host, "unload", "elp_b").status == 0


def test_the_next_cumulative_livepatch_replaces_it(host: SimulatedHost) -> None:
    ran = load(host, "elp_c", series=3)
    assert (ran.status, ran.document["left_loaded"], host.live) == (0, ["elp_b"], ["elp_c"])


def test_it_is_not_loaded_a_second_time_in_one_boot(host: SimulatedHost) -> None:
    run(host, "rollback")
    ran = run_json(host, "load", save(make_livepatch("elp_b", series=["0" * 64, "1".rjust(64, "0")], stays=True),
                                      host.root / "files"))  # fmt: skip
    assert (ran.status, ran.code) == (6, "module-pinned")
    assert "its module stays in memory" in ran.document["problem"]["message"]
    run(host, "boot", "--mark-clean")
    host.boot()
    assert run(host, "boot").status == 0


def module(path: Path, *, ends: bool) -> Path:
    made = Made().section(".gnu.linkonce.this_module", bytes(64)).section(".init.text", bytes(8), code=True)
    for name in ("init_module", "cleanup_module")[: 1 + ends]:
        made.relocation(".gnu.linkonce.this_module", 8, made.symbol(name, ".init.text", bind=GLOBAL), kind=1)
    return made.write(path)


def test_a_module_that_will_stay_is_told_before_it_is_loaded(tmp_path: Path) -> None:
    statement = make_livepatch("elp_b").statement
    found = lasting(module(tmp_path / "stays.ko", ends=False), statement)
    assert found.code == "stays-in-memory"
    assert "elp_b hands out addresses in itself" in found.message
    assert lasting(module(tmp_path / "ends.ko", ends=True), statement).code == "lasting"
