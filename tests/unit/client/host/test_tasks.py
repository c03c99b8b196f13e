# SPDX-License-Identifier: GPL-2.0-or-later
"""Tasks that hold a transition, read from /proc as kernels write it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simulated_host import NEVER, SimulatedHost, Task

from elivepatch.client.host.tasks import count, look_at, standing_in

STACK = """\
[<0>] schedule_hrtimeout_range_clock+0x1b2/0x1e0
[<0>] ep_poll+0x3a1/0x3e0
[<0>] do_epoll_wait.constprop.0+0x9d/0xb0
[<0>] nfsd_dispatch+0x10/0x20 [nfsd]
[<0>] entry_SYSCALL_64_after_hwframe+0x6e/0xd8
"""


@pytest.fixture
def host(tmp_path: Path) -> SimulatedHost:
    found = SimulatedHost(tmp_path)
    found.tasks = [Task(1, "systemd"), Task(5, "other")]
    found.boot()
    return found


def put(host: SimulatedHost, *, stat: str = "1 (systemd) S 0 1 1 0 -1 4194560 0", stack: str = STACK) -> None:
    host.put("proc/1/task/1/stat", stat)
    host.put("proc/1/task/1/stack", stack)


def test_the_patched_function_on_the_stack_is_named(host: SimulatedHost) -> None:
    put(host)
    holder = look_at(host.machine.host, 1, 1, {"ep_poll", "vfs_read"})
    assert holder is not None
    assert (holder.function, holder.state, holder.kernel_thread) == ("ep_poll", "sleeping", False)
    assert holder.stack[:2] == ("schedule_hrtimeout_range_clock", "ep_poll")
    assert "in ep_poll" in str(holder)


def test_compiler_clones_and_functions_of_modules_are_distinguished(host: SimulatedHost) -> None:
    put(host)
    machine = host.machine.host
    clone, module = (look_at(machine, 1, 1, {name}) for name in ("do_epoll_wait.constprop.0", "nfsd_dispatch"))
    assert clone is not None
    assert clone.function == "do_epoll_wait.constprop.0"
    assert module is not None
    assert "nfsd_dispatch [nfsd]" in module.stack


def test_on_its_way_out_a_livepatch_waits_for_its_own_code_only(host: SimulatedHost) -> None:
    put(host, stack="[<0>] ep_poll+0x1/0x2\n[<0>] new_ep_poll+0x3a1/0x3e0 [elp_a]\n")
    holder = look_at(host.machine.host, 1, 1, {"ep_poll"}, inside="elp_a")
    assert holder is not None
    assert holder.function == "new_ep_poll"


def test_a_command_may_hold_brackets_spaces_and_control_characters(host: SimulatedHost) -> None:
    put(host, stat="1 (a) b (\x1b[31m) D 0 1 1 0 -1 2097216 0")
    holder = look_at(host.machine.host, 1, 1, set())
    assert holder is not None
    assert holder.command == "a) b (?[31m"
    assert (holder.state, holder.kernel_thread) == ("uninterruptible", True)


def test_a_stack_that_the_kernel_does_not_show_is_reported_as_such(host: SimulatedHost) -> None:
    put(host, stack="")
    assert "stack not shown" in str(look_at(host.machine.host, 1, 1, {"ep_poll"}))


def test_a_task_that_has_gone_is_no_holder(host: SimulatedHost) -> None:
    assert look_at(host.machine.host, 4711, 4711, set()) is None


@pytest.mark.parametrize("target", [True, False])
def test_tasks_that_have_not_switched_are_counted(host: SimulatedHost, target: bool) -> None:
    host.put("proc/1/task/1/patch_state", "1\n")
    host.put("proc/5/task/5/patch_state", "0\n")
    census = count(host.machine.host, host, target=target, within_s=1)
    assert (census.tasks, census.complete) == (2, True)
    assert census.waiting == (((5, 5),) if target else ((1, 1),))


def test_outside_of_a_transition_no_task_is_waited_for(host: SimulatedHost) -> None:
    assert count(host.machine.host, host, target=True, within_s=1).waiting == ()


def test_counting_stops_when_its_time_is_over(host: SimulatedHost) -> None:
    census = count(host.machine.host, host, target=True, within_s=-1)
    assert (census.tasks, census.complete) == (0, False)
    assert standing_in(host.machine.host, host, {"ep_poll"}, within_s=-1) == ()


def test_who_stands_in_a_function_before_the_load_is_found(host: SimulatedHost) -> None:
    host.tasks[1].function, host.tasks[1].leaves_at = "vfs_read", NEVER
    host.pass_time(1)
    (holder,) = standing_in(host.machine.host, host, {"vfs_read"}, within_s=1)
    assert holder.pid == 5


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(stat=st.binary(max_size=120), stack=st.binary(max_size=200), state=st.binary(max_size=8))
def test_any_content_of_proc_is_read_without_a_crash(
    host: SimulatedHost, stat: bytes, stack: bytes, state: bytes
) -> None:
    host.put("proc/1/task/1/stat", stat)
    host.put("proc/1/task/1/stack", stack)
    host.put("proc/1/task/1/patch_state", state)
    holder = look_at(host.machine.host, 1, 1, {"ep_poll"})
    assert holder is None or str(holder)
    count(host.machine.host, host, target=True, within_s=1)
