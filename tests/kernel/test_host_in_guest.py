# SPDX-License-Identifier: GPL-2.0-or-later
"""The client on a running host: Debian with systemd in a VM, stock kernels, a real server that builds for them.

The host runs 6.1 and is booted three times: everything an operator does, then a proper reboot and a transition that
stalls, then a crash. The fixtures are these boots; the tests read what they left behind.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from guest_host import Boot, GuestHost, config_of, kernel_module
from real_server import Server

from elivepatch.build.base.store import Base
from elivepatch.client.proof.files import proof_beside
from elivepatch.service.jobs.trials.guest_kernel import guest_kernel

pytestmark = [pytest.mark.kernel, pytest.mark.extended]

DEMO = Path(__file__).parents[2] / "demo/patches"
MEMINFO, VLAN = DEMO / "vmlinux-meminfo.patch", DEMO / "module-8021q.patch"
SLEEPS = Path(__file__).with_name("samples") / "loadavg-sleeps.patch"
LOADED, CHANGED = "VmallocChunk", "VMALLOCCHUNK"
VLAN_LOADED, VLAN_CHANGED = "VLAN Dev name", "VLAN device"

FIRST = """
network
step units systemctl enable --now elivepatch-boot elivepatch-guard
for module in /root/modules/*.ko; do $bb insmod "$module"; done
step enroll elivepatch enroll "$URL" --fingerprint "$FINGERPRINT" --json
step packages ls /usr/local/lib/python3.11/dist-packages
step doctor elivepatch doctor --json
step unpatched.meminfo cat /proc/meminfo
step dry elivepatch apply /root/vmlinux-meminfo.patch --no-trial --require-trial none --dry-run --json
step dry.modules cat /proc/modules
step dry.meminfo cat /proc/meminfo
step apply elivepatch apply /root/vmlinux-meminfo.patch --no-trial --require-trial none --json
step apply.meminfo cat /proc/meminfo
step apply.vlan cat /proc/net/vlan/config
step second elivepatch apply /root/module-8021q.patch --no-trial --require-trial none --json
step second.meminfo cat /proc/meminfo
step second.vlan cat /proc/net/vlan/config
step second.live ls /sys/kernel/livepatch
step second.modules cat /proc/modules
step status elivepatch status --json
step list elivepatch list --json
ko=$(ls /var/lib/elivepatch/files/*.ko | head -n 1)
cp "$ko" /root/unsigned.ko
cp "$ko" /root/whole.ko
cp "${ko%.ko}.proof" /root/whole.ko.intoto.jsonl
step verify elivepatch verify /root/whole.ko --json
cp "$ko" /root/tampered.ko
cp "${ko%.ko}.proof" /root/tampered.ko.intoto.jsonl
printf x | dd of=/root/tampered.ko bs=1 seek=4096 conv=notrunc 2>/dev/null
step load.other elivepatch load /root/other.ko --json
step load.unsigned elivepatch load /root/unsigned.ko --json
step load.tampered elivepatch load /root/tampered.ko --json
step refused.live ls /sys/kernel/livepatch
step rollback elivepatch rollback --json
step rollback.meminfo cat /proc/meminfo
step rollback.vlan cat /proc/net/vlan/config
step rollback.live ls /sys/kernel/livepatch
systemctl reboot
"""
SECOND = """
step unit systemctl show elivepatch-boot -p ActiveState -p Result
step meminfo cat /proc/meminfo
step status elivepatch status --json
network
for module in /root/modules/*.ko; do $bb insmod "$module"; done
step sleepy elivepatch apply /root/loadavg-sleeps.patch --no-trial --require-trial none --json
ln -s /usr/bin/cat /root/sleeper
background reader /root/sleeper /proc/loadavg
background stalled elivepatch apply /root/module-8021q.patch --no-trial --require-trial none --deadline 12 --json
until [ -e /run/stalled.done ] || grep -q 1 /sys/kernel/livepatch/*/transition; do $bb usleep 100000; done
step stalled.status elivepatch status
wait_for stalled
step after.live ls /sys/kernel/livepatch
step after.modules cat /proc/modules
step after.vlan cat /proc/net/vlan/config
step after.status elivepatch status --json
crash
"""
THIRD = """
step unit systemctl show elivepatch-boot -p ActiveState -p Result
step meminfo cat /proc/meminfo
step status elivepatch status
step cleared elivepatch boot --clear-guard --json
step cleared.meminfo cat /proc/meminfo
name=$(ls /sys/kernel/livepatch)
step disabled elivepatch disable "$name" --json
step disabled.meminfo cat /proc/meminfo
step disabled.modules cat /proc/modules
step unloaded elivepatch unload "$name" --json
step unloaded.modules cat /proc/modules
systemctl reboot
"""


@pytest.fixture(scope="module")
def installed(client: dict[str, bytes]) -> dict[str, bytes]:
    """The files that a host gets before its first boot: the client, and the source patches of its operator."""
    return client | {f"root/{patch.name}": patch.read_bytes() for patch in (MEMINFO, VLAN, SLEEPS)}


@pytest.fixture(scope="module")
def host_6_1(base_6_1: Base, host_of: Callable[[Base], GuestHost]) -> GuestHost:
    return host_of(base_6_1)


@pytest.fixture(scope="module")
def first(
    host_6_1: GuestHost,
    server: Server,
    variables: str,
    installed: dict[str, bytes],
    base_6_1: Base,
    base_6_12: Base,
    tmp_path_factory: pytest.TempPathFactory,
) -> Boot:
    """An operator's day, and a livepatch for another kernel in its hands."""
    other = tmp_path_factory.mktemp("other") / "other.ko"
    status, _, told = server.run("build", MEMINFO, "--kernel", base_6_12.release, "-o", other, "--no-trial")
    assert status == 0, told
    foreign = {
        "root/other.ko": other.read_bytes(),
        "root/other.ko.intoto.jsonl": proof_beside(other).read_bytes(),
    }
    files = installed | foreign | config_of(base_6_1) | kernel_module(guest_kernel(base_6_1), "8021q")
    return host_6_1.boot("1", variables + FIRST, files)


@pytest.fixture(scope="module")
def second(host_6_1: GuestHost, variables: str, first: Boot) -> Boot:
    """After a proper reboot."""
    assert "rollback.live" in first.steps
    return host_6_1.boot("2", variables + SECOND)


@pytest.fixture(scope="module")
def third(host_6_1: GuestHost, second: Boot) -> Boot:
    """After a crash."""
    assert "after.status" in second.steps
    return host_6_1.boot("3", THIRD)


def names(rows: list[dict[str, Any]]) -> list[str]:
    return [row["name"] for row in rows]


def test_the_units_are_enabled(first: Boot) -> None:
    assert first["units"].status == 0, first["units"].err


def test_a_host_is_enrolled_with_the_fingerprint_that_the_server_tells(first: Boot, variables: str) -> None:
    assert first["enroll"].status == 0
    assert f"FINGERPRINT={first['enroll'].document['fingerprint']} " in variables


def test_the_plain_install_pulls_in_at_most_twelve_packages_and_nothing_of_the_server(first: Boot) -> None:
    packages = {name.partition("-")[0] for name in first["packages"].out.split() if name.endswith(".dist-info")}
    assert "elivepatch" in packages
    assert len(packages) <= 12, packages
    assert not {"dbos", "fastapi", "sqlalchemy", "uvicorn"} & packages


def test_doctor_finds_nothing_in_the_way_on_a_stock_kernel(first: Boot, base_6_1: Base) -> None:
    assert first["doctor"].status == 0
    assert first["doctor"].document["kernel"]["build_id"] == base_6_1.build_id
    levels = {finding["code"]: finding["level"] for finding in first["doctor"].document["findings"]}
    assert "stop" not in levels.values()
    assert levels["config"] == "ok"
    assert first["doctor"].document["kernel"]["config_source"] == f"/boot/config-{base_6_1.release}"


def test_a_dry_run_tells_what_would_load_and_changes_nothing(first: Boot) -> None:
    report = first["dry"].document
    assert (first["dry"].status, report["dry_run"], report["loaded"]) == (0, True, False)
    assert names(report["livepatch"]["functions"]) == ["meminfo_proc_show"]
    assert "livepatch_" not in first["dry.modules"].out
    assert LOADED in first["dry.meminfo"].out


def test_apply_changes_the_running_kernel(first: Boot) -> None:
    assert LOADED in first["unpatched.meminfo"].out
    report = first["apply"].document
    assert (first["apply"].status, report["loaded"], report["set"]) == (0, True, 1)
    assert CHANGED in first["apply.meminfo"].out


def test_what_is_kept_is_verified_without_the_server_and_was_never_tried(first: Boot) -> None:
    told = first["verify"].document
    assert (first["verify"].status, told["problem"]["code"]) == (6, "trial-required")
    assert told["livepatch"] in [first[step].document["livepatch"] for step in ("apply", "second")]
    assert "trial" in {one["code"] for one in told["not_proved"]}


def test_apply_after_a_dry_run_takes_up_the_same_build(first: Boot) -> None:
    dry, real = first["dry"].document, first["apply"].document
    assert (dry["job"], dry["livepatch"]) == (real["job"], real["livepatch"])


def test_a_second_apply_carries_the_first_along_in_one_livepatch(first: Boot) -> None:
    report = first["second"].document
    assert [(one["name"], one["new"]) for one in report["series"]] == [(MEMINFO.name, False), (VLAN.name, True)]
    assert CHANGED in first["second.meminfo"].out
    assert VLAN_LOADED in first["apply.vlan"].out
    assert VLAN_CHANGED in first["second.vlan"].out


def test_the_livepatch_before_is_replaced_and_its_module_unloaded(first: Boot) -> None:
    old, new = (first[step].document["livepatch"]["name"] for step in ("apply", "second"))
    assert first["second.live"].out.split() == [new]
    assert new in first["second.modules"].out
    assert old not in first["second.modules"].out


def test_status_and_list_say_what_is_live(first: Boot) -> None:
    new = first["second"].document["livepatch"]["name"]
    status = first["status"].document
    assert (first["status"].status, status["attention"], status["record"]["agrees"]) == (0, [], True)
    (row,) = status["livepatches"]
    assert (row["name"], row["objects"]) == (new, {"8021q": True, "vmlinux": True})
    assert (first["list"].document["livepatches"][0]["name"]) == new


def test_a_livepatch_for_another_kernel_is_refused(first: Boot) -> None:
    assert first.problem("load.other") == (6, "other-kernel")


def test_an_unsigned_and_a_tampered_module_are_refused(first: Boot) -> None:
    assert first.problem("load.unsigned") == (5, "unsigned")
    assert first.problem("load.tampered") == (5, "module-digest")


def test_what_was_refused_left_the_kernel_as_it_was(first: Boot) -> None:
    assert first["refused.live"].out == first["second.live"].out


def test_rollback_brings_back_the_set_before(first: Boot) -> None:
    assert first["rollback"].status == 0
    assert CHANGED in first["rollback.meminfo"].out
    assert VLAN_LOADED in first["rollback.vlan"].out
    assert first["rollback.live"].out.split() == [first["apply"].document["livepatch"]["name"]]


def test_after_a_proper_reboot_systemd_loads_the_recorded_set(first: Boot, second: Boot) -> None:
    assert set(second["unit"].out.split()) == {"ActiveState=active", "Result=success"}
    assert CHANGED in second["meminfo"].out
    status = second["status"].document
    assert (second["status"].status, status["record"]["this_boot"], status["attention"]) == (0, True, [])
    assert names(status["livepatches"]) == first["rollback.live"].out.split()


def test_a_stall_names_task_and_function_while_it_lasts(second: Boot) -> None:
    assert second["sleepy"].status == 0
    assert "waits for task sleeper (pid" in second["stalled"].err
    assert second["stalled.status"].status == 6
    assert "in loadavg_proc_show" in second["stalled.status"].out


def test_a_stalled_transition_is_reversed_at_the_deadline_and_says_who_held_it(second: Boot) -> None:
    assert second.problem("stalled") == (6, "transition-stalled")
    told = second["stalled"].document["problem"]
    assert "1 task held it" in told["message"]
    assert "task sleeper (pid" in told["excerpt"]
    assert "in loadavg_proc_show" in told["excerpt"]
    assert "not done after 12 s, reversing it" in second["stalled"].err


def test_after_a_reversal_the_livepatch_before_is_still_whole(second: Boot) -> None:
    old = second["sleepy"].document["livepatch"]["name"]
    assert second["after.live"].out.split() == [old]
    assert second["after.modules"].out.count("livepatch_") == 1
    assert VLAN_LOADED in second["after.vlan"].out
    assert second["after.status"].status == 0
    assert names(second["after.status"].document["livepatches"]) == [old]


def test_a_set_that_was_followed_by_a_crash_is_skipped_and_status_says_so(second: Boot, third: Boot) -> None:
    assert "ActiveState=failed" in third["unit"].out
    assert LOADED in third["meminfo"].out
    assert third["status"].status == 6
    skipped = second["after.live"].out.strip()
    assert f"{skipped} was not loaded at boot: the machine went down without a shutdown" in third["status"].out


def test_a_skipped_set_is_loaded_where_somebody_asks_for_it(third: Boot) -> None:
    assert (third["cleared"].status, third["cleared"].document["did"]) == (0, "loaded")
    assert CHANGED in third["cleared.meminfo"].out


def test_disable_takes_a_livepatch_out_of_force_and_leaves_its_module(third: Boot) -> None:
    assert third["disabled"].status == 0
    assert LOADED in third["disabled.meminfo"].out
    assert "livepatch_" in third["disabled.modules"].out


def test_unload_takes_its_module_away(third: Boot) -> None:
    assert third["unloaded"].status == 0
    assert "livepatch_" not in third["unloaded.modules"].out


@pytest.mark.parametrize("boot", ["first", "second", "third"])
def test_no_kernel_warned_or_died(boot: str, request: pytest.FixtureRequest) -> None:
    finished: Boot = request.getfixturevalue(boot)
    assert finished.complaints() == []
