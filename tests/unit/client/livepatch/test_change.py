# SPDX-License-Identifier: GPL-2.0-or-later
"""Changing what is live, and being cut off at every single act of it."""

from __future__ import annotations

import errno
import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from host_commands import Ran, enrol, run, run_json, save
from simulated_host import NEVER, SimulatedHost, Task, make_livepatch

ACTS = range(1, 14)


@pytest.fixture
def host(tmp_path: Path) -> SimulatedHost:
    found = SimulatedHost(tmp_path / "host")
    enrol(found)
    return found


def load(host: SimulatedHost, name: str, *options: str, series: int = 1, replace: bool = True) -> Ran:
    made = make_livepatch(name, series=[f"{one:064x}" for one in range(series)], replace=replace)
    return run(host, "load", save(made, host.root / "files"), "--json", *options)


def nth(number: int, action: Callable[[], None]) -> Callable[[str], None]:
    seen = 0

    def hook(_act: str) -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            action()

    return hook


def interrupt() -> None:
    raise KeyboardInterrupt


def send_sigint() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def hold(host: SimulatedHost, *, leaves_after: float) -> None:
    """Let a task stand in the function that the test livepatches replace."""
    host.tasks.append(Task(900, "reader", function="meminfo_proc_show", leaves_at=host.time + leaves_after))


def assert_true(host: SimulatedHost) -> None:
    """Assert that no transition is under way and that the record says what is live."""
    assert host.moving is None
    assert list(host.store.record().set.names) == host.live
    assert host.store.next_record() is None


def test_a_second_livepatch_replaces_the_first_and_its_module_is_unloaded(host: SimulatedHost) -> None:
    assert load(host, "elp_a").status == 0
    assert load(host, "elp_b", series=2).status == 0
    assert host.live == host.modules == ["elp_b"]
    assert_true(host)


def test_rollback_goes_back_one_set_at_a_time_until_nothing_is_before(host: SimulatedHost) -> None:
    for count, name in enumerate(("elp_a", "elp_b", "elp_c"), 1):
        load(host, name, series=count)
    seen = []
    while (ran := run_json(host, "rollback")).status == 0:
        seen.append(ran.document["live"])
    assert seen == [["elp_b"], ["elp_a"], []]
    assert ran.code == "nothing-before"
    assert host.modules == []


def test_a_stacked_livepatch_is_put_beside_and_taken_from_beneath(host: SimulatedHost) -> None:
    load(host, "elp_a")
    load(host, "elp_s", replace=False)
    assert host.live == ["elp_a", "elp_s"]
    assert run(host, "unload", "elp_a").status == 0
    assert host.live == host.modules == ["elp_s"]
    assert_true(host)


def test_kernels_before_5_1_only_let_go_of_the_newest(tmp_path: Path) -> None:
    from elivepatch.client.host.sysfs import Rules
    from elivepatch.client.livepatch.change import plan
    from elivepatch.model.errors import HostError
    from elivepatch.model.kernel import Release

    one, two = (make_livepatch(name, replace=False).entry for name in ("elp_a", "elp_b"))
    assert len(plan([one, two], [two], Rules.of(Release("5.1.0")))) == 1
    with pytest.raises(HostError) as caught:
        plan([one, two], [two], Rules.of(Release("4.19.0-27-amd64")))
    assert caught.value.problem.code == "order"
    assert "elp_b" in caught.value.problem.advice


def test_disable_keeps_the_module_and_enable_loads_it_again(host: SimulatedHost) -> None:
    load(host, "elp_a")
    assert run(host, "disable", "elp_a").status == 0
    assert (host.live, host.modules) == ([], ["elp_a"])
    assert run_json(host, "list").document["livepatches"][0]["state"] == "disabled"
    assert run(host, "enable", "elp_a").status == 0
    assert host.live == ["elp_a"]
    assert_true(host)


def test_unload_takes_away_what_was_only_disabled(host: SimulatedHost) -> None:
    load(host, "elp_a")
    run(host, "disable", "elp_a")
    assert run(host, "unload", "elp_a").status == 0
    assert host.modules == []


def test_a_livepatch_of_others_can_be_taken_out_by_name(host: SimulatedHost) -> None:
    made = make_livepatch("kpatch_foo")
    path = save(made, host.root / "files")
    with path.open("rb") as file:
        host.load(file.fileno())
    ran = run_json(host, "unload", "kpatch_foo")
    assert (ran.status, host.live, host.modules) == (0, [], [])
    assert ran.document["transitions"][0]["ending"] == "done"


def test_a_transition_that_takes_too_long_is_reversed_and_says_who_held_it(host: SimulatedHost) -> None:
    load(host, "elp_a")
    hold(host, leaves_after=NEVER)
    ran = load(host, "elp_b", "--deadline", "20", series=2)
    assert (ran.status, ran.code) == (6, "transition-stalled")
    excerpt = ran.document["problem"]["excerpt"]
    assert "reader (pid 900" in excerpt
    assert "in meminfo_proc_show" in excerpt
    assert host.live == host.modules == ["elp_a"]
    assert_true(host)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (Task(900, "reader"), "End or restart the tasks above"),
        (Task(900, "khugepaged", kernel_thread=True, main=True), "never leaves meminfo_proc_show"),
        (Task(900, "kworker/0:2", kernel_thread=True), "try again when its work is done"),
    ],
)
def test_the_advice_fits_the_kind_of_task_that_held_a_transition(host: SimulatedHost, task: Task, words: str) -> None:
    task.function, task.leaves_at = "meminfo_proc_show", NEVER
    host.tasks.append(task)
    host.pass_time(1)
    ran = load(host, "elp_a", "--deadline", "20")
    advice = ran.document["problem"]["advice"]
    assert words in advice
    assert ("or restart the" in advice) is not task.kernel_thread
    dry = load(host, "elp_a", "--dry-run")
    told = next(one for one in dry.document["findings"] if one["code"] == "tasks-inside")
    assert ("Restart them" in told["advice"]) is not task.kernel_thread
    assert task.command in told["message"]


def test_on_a_slow_machine_who_held_a_transition_is_found_too(host: SimulatedHost) -> None:
    host.tasks += [Task(pid, "worker") for pid in range(100, 130)]
    hold(host, leaves_after=NEVER)
    host.look_s = 0.05
    ran = load(host, "elp_a", "--deadline", "20")
    assert ran.code == "transition-stalled"
    assert "1 task held it" in ran.document["problem"]["message"]
    assert "reader (pid 900" in ran.document["problem"]["excerpt"]


def test_tasks_that_switch_back_are_not_reported_as_holders_of_a_transition(host: SimulatedHost) -> None:
    host.tasks += [Task(pid, "worker") for pid in range(100, 160)]
    hold(host, leaves_after=NEVER)
    host.look_s = 0.25
    ran = load(host, "elp_a", "--deadline", "20")
    assert ran.code == "transition-stalled"
    assert "something held it" in ran.document["problem"]["message"]
    assert "checked switched" in ran.err


def test_a_transition_that_takes_its_time_is_waited_for(host: SimulatedHost) -> None:
    hold(host, leaves_after=17)
    ran = load(host, "elp_a")
    assert ran.status == 0
    assert 16 <= ran.document["transitions"][0]["seconds"] <= 20
    assert "waits for" in ran.err or "stalled" in ran.err
    assert_true(host)


def test_force_is_only_used_on_request_and_warns(host: SimulatedHost) -> None:
    hold(host, leaves_after=NEVER)
    ran = load(host, "elp_a", "--deadline", "10", "--force")
    assert ran.status == 0
    assert ran.err.startswith("warning: --force")
    assert ran.document["transitions"][0]["ending"] == "forced"
    assert_true(host)


def test_a_disable_that_takes_too_long_leaves_the_livepatch_in_force(host: SimulatedHost) -> None:
    load(host, "elp_a")
    host.tasks.append(Task(901, "kthread", new_code="elp_a", leaves_at=NEVER, kernel_thread=True))
    ran = run_json(host, "disable", "elp_a", "--deadline", "10")
    assert (ran.status, ran.code) == (6, "transition-stalled")
    assert "kernel thread kthread" in ran.document["problem"]["excerpt"]
    assert host.live == ["elp_a"]
    assert_true(host)


@pytest.mark.parametrize("number", ACTS)
@pytest.mark.parametrize("action", [interrupt, send_sigint])
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interruption_at_any_act_leaves_all_or_nothing_and_a_true_record(
    host: SimulatedHost, number: int, action: Callable[[], None], when: str
) -> None:
    load(host, "elp_a")
    hold(host, leaves_after=1.5)
    setattr(host, when, nth(number, action))
    ran = load(host, "elp_b", series=2)
    host.before = host.after = lambda _act: None
    assert ran.status in {0, 130}
    assert host.live in (["elp_a"], ["elp_b"])
    assert ran.status != 0 or host.live == ["elp_b"]
    assert_true(host)
    host.pass_time(10)
    assert run(host, "status").status == 0


@pytest.mark.parametrize("number", ACTS)
@pytest.mark.parametrize("verb", [("unload", "elp_b"), ("disable", "elp_b"), ("rollback",)])
def test_an_interruption_on_the_way_out_leaves_all_or_nothing(
    host: SimulatedHost, number: int, verb: tuple[str, ...]
) -> None:
    load(host, "elp_a")
    load(host, "elp_b", series=2)
    host.tasks.append(Task(901, "task", function="meminfo_proc_show", new_code="elp_b", leaves_at=host.time + 1.5))
    host.after = nth(number, send_sigint)
    ran = run(host, *verb)
    host.after = lambda _act: None
    assert ran.status in {0, 130}
    assert host.live in (["elp_b"], ["elp_a"] if verb == ("rollback",) else [])
    assert_true(host)


@pytest.mark.parametrize("number", ACTS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_after_a_kill_at_any_act_the_next_command_finds_the_truth(
    host: SimulatedHost, tmp_path: Path, number: int, when: str
) -> None:
    """The command runs in a process of its own that is gone at once; the simulated kernel lives on without it."""
    load(host, "elp_a")
    hold(host, leaves_after=1.5)
    kernel = tmp_path / "kernel"

    def die() -> None:
        host.before = host.after = lambda _act: None
        keep(host, kernel)
        os._exit(9)

    child = os.fork()
    if child == 0:
        setattr(host, when, nth(number, die))
        status = load(host, "elp_b", series=2).status
        keep(host, kernel)
        os._exit(status)
    os.waitpid(child, 0)
    survive(host, kernel)
    before = run_json(host, "status")
    assert before.status in {0, 6}
    host.pass_time(30)
    load(host, "elp_c", series=3)
    assert host.live == ["elp_c"]
    assert_true(host)
    assert len([one for one in host.store.history() if one["action"].startswith("found cut off")]) <= 1


def keep(host: SimulatedHost, file: Path) -> None:
    file.write_bytes(pickle.dumps((host.tasks, host.time, host.livepatches, host.modules, host.moving, host.loads)))


def survive(host: SimulatedHost, file: Path) -> None:
    host.before = host.after = lambda _act: None
    host.tasks, host.time, host.livepatches, host.modules, host.moving, host.loads = pickle.loads(file.read_bytes())  # noqa: S301


def test_status_reports_a_kill_in_mid_transition_until_it_is_settled(host: SimulatedHost) -> None:
    hold(host, leaves_after=NEVER)
    made = make_livepatch("elp_a")
    entry = made.keep(host.store)
    record = host.store.record()
    host.store.prepare(record.followed_by([entry], boot_id=record.boot_id, at="", reason="apply"))
    with host.store.path_of(entry.digest, "ko").open("rb") as file:
        host.load(file.fileno())
    ran = run_json(host, "status")
    assert ran.status == 6
    assert ran.document["transition"]["holders"][0]["function"] == "meminfo_proc_show"
    blocked = load(host, "elp_b", series=2)
    assert (blocked.status, blocked.code) == (6, "transition-running")
    host.tasks[-1].leaves_at = 0
    host.pass_time(3)
    assert run(host, "rollback").status == 0
    assert host.live == []
    assert_true(host)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.EKEYREJECTED, "kernel-signature"),
        (errno.EPERM, "load-forbidden"),
        (errno.EBUSY, "load-busy"),
        (errno.ENOEXEC, "load-incompatible"),
        (errno.EINVAL, "load-incompatible"),
        (errno.ENOMEM, "load-memory"),
        (errno.EIO, "load-failed"),
    ],
)
def test_a_refusal_of_the_kernel_is_explained_and_changes_nothing(host: SimulatedHost, number: int, code: str) -> None:
    load(host, "elp_a")
    host.refuse_load = number
    ran = load(host, "elp_b", series=2)
    assert (ran.status, ran.code) == (6, code)
    assert host.live == host.modules == ["elp_a"]
    assert_true(host)


def test_a_livepatch_that_vanishes_in_mid_transition_is_reported(host: SimulatedHost) -> None:
    hold(host, leaves_after=NEVER)

    def somebody_else() -> None:
        host.tasks[-1].leaves_at = 0
        host.livepatches[0].enabled = False
        host.pass_time(2)

    host.after = nth(4, somebody_else)
    ran = load(host, "elp_a")
    host.after = lambda _act: None
    assert (ran.status, ran.code) == (6, "transition-taken")
    assert host.live == []
    assert_true(host)


def test_a_transition_that_ends_neither_way_is_reported_and_settled_later(host: SimulatedHost) -> None:
    hold(host, leaves_after=NEVER)
    host.tasks.append(Task(902, "switched"))

    def enter() -> None:
        host.tasks[-1].new_code, host.tasks[-1].leaves_at = "elp_a", NEVER

    host.after = nth(1, enter)
    ran = load(host, "elp_a", "--deadline", "5")
    assert (ran.status, ran.code) == (6, "transition-stuck")
    assert run(host, "status").status == 6
    host.tasks[-1].leaves_at = 0
    host.pass_time(3)
    host.pass_time(1)
    assert load(host, "elp_b").status == 6
    host.tasks[-2].leaves_at = 0
    host.pass_time(1)
    assert load(host, "elp_b").status == 0
    assert_true(host)


def test_a_record_that_cannot_be_written_stops_before_the_kernel_is_touched(host: SimulatedHost) -> None:
    load(host, "elp_a")
    directory = host.store.kernel_directory
    moved = directory.with_name("elsewhere")
    directory.rename(moved)
    directory.write_text("a file in the way")
    ran = load(host, "elp_b", series=2)
    assert ran.status == 6
    directory.unlink()
    moved.rename(directory)
    assert host.live == ["elp_a"]
    assert host.loads == 1


def two_sets(host: SimulatedHost) -> None:
    """First a livepatch with another stacked on it, then one that replaced both: going back takes two steps."""
    load(host, "elp_a")
    load(host, "elp_s", replace=False)
    load(host, "elp_b", series=2)
    assert host.live == ["elp_b"]


def test_all_modules_are_verified_before_the_first_step_of_a_change(host: SimulatedHost) -> None:
    two_sets(host)
    kept = host.store.path_of(make_livepatch("elp_s", series=[f"{0:064x}"], replace=False).statement.digest, "ko")
    kept.write_bytes(kept.read_bytes()[:-1] + b"!")
    ran = run_json(host, "rollback")
    assert (ran.status, ran.code) == (5, "module-digest")
    assert (host.live, host.loads) == (["elp_b"], 3)
    assert_true(host)


def test_an_interruption_between_two_steps_ends_there_and_is_recorded(host: SimulatedHost) -> None:
    two_sets(host)
    host.after = lambda act: send_sigint() if act == "load" else None
    assert run(host, "rollback").status == 130
    host.after = lambda _act: None
    assert host.live == ["elp_a"]
    assert_true(host)
    assert run(host, "rollback").status == 0
    assert host.live == ["elp_b"]


def test_going_back_does_not_replace_a_livepatch_with_pointers_into_itself(host: SimulatedHost) -> None:
    host.held.add("elp_b")
    two_sets(host)
    ran = run_json(host, "rollback")
    assert (ran.status, ran.code) == (6, "callbacks-live")
    assert host.live == ["elp_b"]


def test_going_back_does_not_take_a_livepatch_of_others_with_it(host: SimulatedHost) -> None:
    load(host, "elp_a")
    load(host, "elp_b", series=2)
    with save(make_livepatch("kpatch_x", replace=False), host.root / "files").open("rb") as file:
        host.load(file.fileno())
    ran = run_json(host, "rollback")
    assert (ran.status, ran.code) == (6, "foreign-livepatch")
    assert host.live == ["elp_b", "kpatch_x"]


def test_an_interruption_goes_before_force(host: SimulatedHost) -> None:
    hold(host, leaves_after=NEVER)
    host.after = nth(3, send_sigint)
    assert load(host, "elp_a", "--deadline", "10", "--force").status == 130
    assert host.live == host.modules == []
    assert_true(host)
