# SPDX-License-Identifier: GPL-2.0-or-later
"""Output of the commands for people, and the sources of settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from host_commands import enrol, run, run_json, save
from simulated_host import NEVER, SimulatedHost, Task, make_livepatch


@pytest.fixture
def host(tmp_path: Path) -> SimulatedHost:
    found = SimulatedHost(tmp_path)
    enrol(found)
    return found


def module(host: SimulatedHost, name: str = "elp_a", *, series: int = 1, replace: bool = True) -> Path:
    made = make_livepatch(name, series=[f"{one:064x}" for one in range(series)], replace=replace)
    return save(made, host.root / "files")


def test_a_livepatch_that_cannot_get_in_leaves_a_problem_with_an_excerpt(host: SimulatedHost) -> None:
    host.tasks.append(Task(9, "reader", function="meminfo_proc_show", leaves_at=NEVER))
    ran = run_json(host, "load", module(host), "--deadline", "6")
    assert ran.code == "transition-stalled"
    assert ran.document["problem"]["excerpt"]


def test_config_masks_the_token(host: SimulatedHost, monkeypatch: pytest.MonkeyPatch) -> None:
    host.put("etc/elivepatch/client.toml", 'token = "secret"\ntransition_s = 90\n')
    monkeypatch.setenv("ELIVEPATCH_URL", "http://127.0.0.1:9")
    ran = run_json(host, "config", "show")
    assert "secret" not in ran.out + run(host, "config", "show").out
    rows = {row["name"]: row for row in ran.document["settings"]}
    assert rows["url"]["source"] == "ELIVEPATCH_URL"
    assert rows["transition_s"]["value"] == 90.0
    assert rows["transition_s"]["source"].endswith("client.toml")
    assert rows["lock_wait_s"]["source"] == "default"


def test_status_shows_people_the_live_livepatches_and_their_patches(host: SimulatedHost) -> None:
    run(host, "load", module(host))
    out = run(host, "status").out
    assert "kernel      6.1.0-50-cloud-amd64" in out
    assert "livepatch   elp_a, live, 1 function: 000000000000.patch" in out
    assert "record      set 1, agrees" in out


@pytest.mark.parametrize(("symbols", "refuses"), [("T clear_relocate_add\n", False), ("T other\n", True)])
def test_status_names_objects_that_are_not_loaded_and_what_happens_when_they_come(
    host: SimulatedHost, symbols: str, refuses: bool
) -> None:
    run(host, "load", module(host))
    assert run_json(host, "status").document["when_loaded"] is None
    host.put("proc/kallsyms", f"ffffffff81000000 {symbols}")
    host.put("sys/kernel/livepatch/elp_a/8021q/patched", "0\n")
    for name in ("vlan_seq_show", "vlan_seq_next"):
        (host.root / f"sys/kernel/livepatch/elp_a/8021q/{name},1").mkdir()
    ran = run_json(host, "status")
    assert ran.status == 0
    assert [row["not_loaded"] for row in ran.document["livepatches"]] == [["8021q"]]
    assert ("refuses to load it" in ran.document["when_loaded"]) is refuses
    out = run(host, "status").out
    assert "8021q is not loaded, so not patched (2 functions): the kernel patches it when it is loaded" in out
    assert run_json(host, "list").document["livepatches"][0]["not_loaded"] == ["8021q"]
    host.put("proc/modules", host.machine.host.read("proc/modules") + b"8021q 16384 0 - Live 0x0\n")
    assert run_json(host, "status").document["livepatches"][0]["not_loaded"] == []


def test_list_shows_objects_and_functions_of_one_livepatch(host: SimulatedHost) -> None:
    run(host, "load", module(host))
    out = run(host, "list", "elp_a").out
    assert "object     vmlinux" in out
    assert "replaces   vmlinux:meminfo_proc_show,1" in out
    assert run(host, "list", "elp_x").status == 6


def test_list_shows_what_is_only_kept(host: SimulatedHost) -> None:
    run(host, "load", module(host))
    run(host, "load", module(host, "elp_b", series=2))
    rows = {row["name"]: row["state"] for row in run_json(host, "list").document["livepatches"]}
    assert rows == {"elp_b": "live", "elp_a": "recorded"}


def test_names_from_the_kernel_cannot_command_the_terminal(host: SimulatedHost) -> None:
    host.tasks.append(Task(9, "\x1b[2Jevil", function="meminfo_proc_show", leaves_at=NEVER))
    ran = run(host, "load", module(host), "--deadline", "6")
    assert "\x1b[2J" not in ran.err + ran.out


@pytest.mark.parametrize(
    "command", ["status", "list", "history", "doctor", "load", "enable", "disable", "unload", "rollback", "boot"]
)
def test_every_command_has_help_and_json(host: SimulatedHost, command: str) -> None:
    with pytest.raises(SystemExit) as caught:
        run(host, command, "--help")
    assert caught.value.code == 0


def test_status_needs_neither_network_nor_cryptography() -> None:
    from elivepatch import process

    code = (
        "import sys\n"
        "from elivepatch.client.cli import main\n"
        "main(['status'])\n"
        "print([name for name in ('httpx2', 'cryptography', 'ssl', 'socket') if name in sys.modules])\n"
    )
    import sys

    done = process.run([sys.executable, "-c", code])
    assert done.text.splitlines()[-1] == "[]"
