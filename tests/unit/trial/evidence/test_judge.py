# SPDX-License-Identifier: GPL-2.0-or-later
"""The verdict that follows from a guest's records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trial_records import CASE, PASSED, SCOPE, codes, verdict

from elivepatch.model.errors import Kind
from elivepatch.model.predicate import Predicate
from elivepatch.model.trial import Expectation, ModuleReload, NotLive
from elivepatch.trial.case import TrialCase
from elivepatch.trial.evidence.judge import GuestEnd, judge
from elivepatch.trial.guest_protocol import Records

OOPS = b"<1>[    3.1] BUG: kernel NULL pointer dereference, address: 8\n<4>[    3.1] Call Trace:\n"
KEYS = list(PASSED)


def until(last: str, **changed: bytes) -> dict[str, bytes]:
    """Return the records of a run that ended after the record `last`."""
    kept = KEYS[: KEYS.index(last) + 1]
    return {key: PASSED[key] for key in kept} | {"log.rest": b"", "done": b""} | renamed(changed)


def renamed(changed: dict[str, bytes]) -> dict[str, bytes]:
    return {key.replace("_", "."): value for key, value in changed.items()}


def test_a_run_without_fault_passes() -> None:
    found = verdict(PASSED)
    assert found.problems == ()
    assert (found.reverted, found.reloaded, found.clean_log) == (True, True, True)
    assert found.transition_s == 1.25
    assert [each.met for each in found.observed] == [True]
    assert found.observed[0].observation.during == "patched\n"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (PASSED | {"log.during": OOPS}, ["trial-kernel-log"]),
        (PASSED | {"log.rest": OOPS}, ["trial-kernel-log"]),
        (PASSED | {"log.after": OOPS}, ["trial-kernel-log"]),
        (PASSED | {"log.before": OOPS}, []),
        (PASSED | {"log.before": OOPS, "log.after": OOPS}, []),
        (until("log.before", load_1=b"1\ninsmod: can't insert '/x': invalid module format"), ["trial-load"]),
        (until("load.1", settled_1=b"1\n"), ["trial-load"]),
        (until("load.1", settled_1=b"2\n2 (kthreadd)\n"), ["trial-transition"]),
        (until("during.000", disable_1=b"1\nsh: write error: Device or resource busy"), ["trial-not-reverted"]),
        (until("disable.1", gone_1=b"2\n2 (kthreadd)\n"), ["trial-not-reverted"]),
        (until("log.after", unload_1=b"1\nrmmod: can't unload module 'x': busy"), ["trial-unload"]),
        (until("unload.1", load_2=b"1\ninsmod: no"), ["trial-reload"]),
        (until("load.2", settled_2=b"2\n"), ["trial-reload"]),
        (until("again.000", disable_2=b"1\n"), ["trial-reload"]),
        (until("disable.2", gone_2=b"2\n"), ["trial-reload"]),
        (PASSED | {"unload.2": b"1\nbusy"}, ["trial-unload"]),
        (PASSED | {"before.000": b"0\npatched"}, ["trial-expectation"]),
        (PASSED | {"during.000": b"0\nas ever", "again.000": b"0\nas ever"}, ["trial-expectation"]),
        (PASSED | {"before.000": b"0\npatched", "after.000": b"0\npatched"}, ["trial-expectation"]),
        (PASSED | {"after.000": b"0\npatched"}, ["trial-not-reverted"]),
        (PASSED | {"again.000": b"0\nas ever"}, ["trial-reload"]),
    ],
)
def test_each_fault_has_its_code(values: dict[str, bytes], expected: list[str]) -> None:
    found = verdict(values)
    assert codes(found) == expected
    assert all(problem.kind is Kind.FAILURE for problem in found.problems)
    assert all(problem.message.endswith(".") and problem.advice for problem in found.problems)


def test_a_refused_load_quotes_the_kernel_once() -> None:
    log = b"<3>[    1.0] livepatch: symbol 'f' not found in symbol table\n"
    found = verdict(until("log.before", load_1=b"1\ninsmod: can't insert '/x': Invalid argument", log_rest=log))
    assert codes(found) == ["trial-load"]
    assert found.problems[0].message == "The kernel refuses to load the livepatch: Invalid argument."
    assert "symbol 'f' not found" in found.problems[0].excerpt


def test_the_tasks_in_the_way_of_a_transition_are_shown() -> None:
    found = verdict(until("load.1", settled_1=b"2\n2 (kthreadd)\n[<0>] kthreadd+0x2bc/0x2d0\n"))
    assert found.problems[0].excerpt.splitlines() == ["2 (kthreadd)", "[<0>] kthreadd+0x2bc/0x2d0"]
    assert found.transition_s is None


def dead(last: str) -> dict[str, bytes]:
    return {key: PASSED[key] for key in KEYS[: KEYS.index(last) + 1]}


def test_the_death_of_a_guest_is_explained_by_its_console() -> None:
    found = verdict(dead("settled.1"), console="[    3.1] BUG: kernel NULL pointer dereference, address: 8\n")
    assert codes(found) == ["trial-kernel-log"]
    assert found.problems[0].message == (
        "The kernel failed while the livepatch was enabled: BUG: kernel NULL pointer dereference, address: 8."
    )
    assert not found.clean_log
    assert not found.reverted


def test_a_death_before_the_livepatch_was_loaded_is_the_expectations() -> None:
    found = verdict(dead("module.dummy"), console="[    3.1] kernel BUG at mm/x.c:1!\n")
    assert codes(found) == ["trial-unpatched"]
    assert found.problems[0].kind is Kind.ERROR, "no verdict on the patch"
    assert "before the livepatch was loaded: kernel BUG at mm/x.c:1!" in found.problems[0].message
    assert "a kernel without the livepatch survives" in found.problems[0].advice


def test_a_guest_that_hangs_or_restarts_before_the_livepatch_was_loaded_says_nothing_about_it() -> None:
    hung = verdict(dead("module.dummy"), timed_out=True, status=-9)
    restarted = verdict(dead("module.dummy"))
    for found in (hung, restarted):
        assert codes(found) == ["trial-unpatched"]
        assert found.problems[0].kind is Kind.ERROR
    assert codes(verdict(dead("module.dummy"), timed_out=True, status=-9, slow=True)) == ["trial-slow"]


@pytest.mark.parametrize("last", KEYS[:-1])
def test_a_guest_that_is_lost_is_a_problem_wherever_it_was(last: str) -> None:
    found = verdict(dead(last), status=-9)
    assert codes(found) == ["trial-lost"]
    assert "(QEMU's status -9)" in found.problems[0].message


@pytest.mark.parametrize("last", KEYS[:-1])
def test_a_guest_that_hangs_is_a_problem_wherever_it_was(last: str) -> None:
    unpatched = KEYS.index(last) < KEYS.index("log.before")
    assert codes(verdict(dead(last), timed_out=True)) == ["trial-unpatched" if unpatched else "trial-timeout"]


def test_a_guest_that_never_began_the_case_is_lost() -> None:
    assert codes(verdict({})) == ["trial-lost"]


@pytest.mark.parametrize("key", [key for key in KEYS if key not in {"begin", "done", "module.dummy"}])
def test_nothing_passes_on_records_that_did_not_come(key: str) -> None:
    found = verdict({name: value for name, value in PASSED.items() if name != key})
    assert codes(found) == ([] if key in {"started.1", "finished.1", "removed.dummy"} else ["trial-lost"])


def test_a_parent_that_does_not_load_is_reported_and_excuses_nothing_else() -> None:
    found = verdict(PASSED | {"module.dummy": b"1\nNo such device"})
    assert found.unloaded_parents == ("dummy",)
    assert found.problems == ()
    found = verdict(PASSED | {"module.dummy": b"1\n", "during.000": b"0\nas ever"})
    assert codes(found) == ["trial-expectation"]
    assert "dummy could not be loaded" in found.problems[0].advice


REFUSED = (
    b"<3>[  9.1] x86/modules: Skipping invalid relocation target, existing value is nonzero for type 2\n"
    b"<3>[  9.1] livepatch: failed to initialize patch 'livepatch_x' for module 'dummy' (-8)\n"
    b"<4>[  9.1] livepatch: patch 'livepatch_x' failed for module 'dummy', refusing to load module 'dummy'\n"
)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"module.dummy": b"1\ninsmod: can't insert '/trial/modules/dummy.ko': Operation not supported"},
         "the guest lacks the hardware that it needs (Operation not supported)"),
        ({"module.dummy": b"1\ninsmod: can't insert '/x': No such device"},
         "the guest lacks the hardware that it needs (No such device)"),
        ({"module.dummy": b"1\ninsmod: can't insert '/x': unknown symbol in module"},
         "the guest's kernel refused to load it (unknown symbol in module)"),
        ({"module.dummy": b"0\n"}, "the kernel did not patch it"),
    ],
)  # fmt: skip
def test_an_object_that_was_never_live_is_named_with_its_reason(values: dict[str, bytes], why: str) -> None:
    seen = {key: value for key, value in PASSED.items() if key not in {"removed.dummy", "added.dummy"}}
    found = verdict(seen | {"objects.1": b"0\ndummy 0 0\nvmlinux 1 1\n"} | values)
    assert found.problems == ()
    assert found.not_live == (NotLive(object="dummy", why=why),)


def test_an_object_that_the_case_does_not_name_counts_too() -> None:
    found = verdict(PASSED | {"objects.1": b"0\ndummy 1 1\nkvm_intel 0 0\nvmlinux 1 1\n"})
    assert found.not_live == (NotLive(object="kvm_intel", why="it was not loaded in the guest"),)


def test_a_kernel_that_does_not_show_what_is_patched_shows_at_least_what_is_loaded() -> None:
    assert verdict(PASSED | {"objects.1": b"0\ndummy - 1\n", "objects.2": b"0\ndummy - 1\n"}).not_live == ()
    found = verdict(PASSED | {"objects.1": b"0\ndummy - 0\n"})
    assert [one.object for one in found.not_live] == ["dummy"]


def test_a_module_that_comes_back_patched_is_told() -> None:
    assert verdict(PASSED).module_reloads == (ModuleReload(module="dummy", result="reloaded"),)


def test_a_kernel_that_cannot_load_a_module_again_is_told_and_is_no_fault_of_the_patch() -> None:
    refused = {"added.dummy": b"1\ninsmod: can't insert '/x': invalid module format", "log.reload": REFUSED}
    gone = {"objects.2": b"0\ndummy 0 0\nvmlinux 1 1\n"}
    found = verdict(PASSED | refused | gone | {"no-reload": b""})
    assert found.problems == ()
    assert found.clean_log
    assert found.module_reloads == (
        ModuleReload(module="dummy", result="refused", words="invalid module format"),
    )  # fmt: skip
    found = verdict(PASSED | refused | gone)
    assert codes(found) == ["trial-reload"], "this kernel could have loaded it"


def test_a_module_that_comes_back_without_its_change_is_a_fault() -> None:
    found = verdict(PASSED | {"objects.2": b"0\ndummy 0 1\nvmlinux 1 1\n"})
    assert codes(found) == ["trial-reload"]
    assert "dummy was unloaded and loaded again" in found.problems[0].message


@pytest.mark.parametrize("values", [
    {"removed.dummy": b"1\nrmmod: can't unload module 'dummy': Resource temporarily unavailable"},
    {"added.dummy": b"1\ninsmod: can't insert '/x': Device or resource busy"},
])  # fmt: skip
def test_a_module_that_does_not_go_or_come_by_itself_is_not_the_livepatchs_matter(values: dict[str, bytes]) -> None:
    found = verdict(PASSED | values)
    assert found.problems == ()
    assert [one.result for one in found.module_reloads] == ["not-tried"]


def test_an_oops_of_a_module_that_is_loaded_again_is_a_fault() -> None:
    found = verdict(PASSED | {"log.reload": OOPS})
    assert codes(found) == ["trial-kernel-log"]
    assert "unloaded and loaded again" in found.problems[0].message


STALL = b"<3>[   3.1] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:\n"


@pytest.mark.parametrize(
    ("values", "timed_out"),
    [
        (dead("load.1"), True),
        (until("load.1", settled_1=b"2\n2 (kthreadd)\n"), False),
        (until("disable.1", gone_1=b"2\n2 (kthreadd)\n"), False),
        (until("load.2", settled_2=b"2\n"), False),
        (PASSED | {"log.during": STALL}, False),
        (PASSED | {"during.000": b"137\nhalf", "again.000": b"137\n"}, False),
    ],
)
def test_whatever_takes_too_long_on_a_slow_machine_is_the_machines_fault(
    values: dict[str, bytes], timed_out: bool
) -> None:
    for slow, kind in ((False, Kind.FAILURE), (True, Kind.ERROR)):
        found = verdict(values, timed_out=timed_out, slow=slow)
        assert {problem.kind for problem in found.problems} == {kind}
        assert (codes(found) == ["trial-slow"]) is slow


def test_a_slow_machine_excuses_nothing_that_does_not_depend_on_time() -> None:
    found = verdict(PASSED | {"log.during": OOPS, "after.000": b"0\npatched"}, slow=True)
    assert {problem.kind for problem in found.problems} == {Kind.FAILURE}


def test_a_command_out_of_time_is_reported_with_its_output() -> None:
    found = verdict(PASSED | {"during.000": b"137\nhalf an ans", "again.000": b"137\n"})
    assert codes(found) == ["trial-expectation"]
    assert "stopped at its time limit" in found.problems[0].advice
    assert found.problems[0].excerpt == "half an ans"


def test_an_excerpt_is_bounded_whatever_the_guest_says() -> None:
    found = verdict(until("load.1", settled_1=b"2\n" + b"x" * 5000 + b"\n" * 50_000))
    assert len(found.problems[0].excerpt) < 60 * 401


@given(
    st.dictionaries(
        st.sampled_from([*KEYS, "started.2", "finished.2"]),
        st.one_of(st.binary(max_size=40), st.sampled_from([b"0\n", b"1\nno", b"2\n", OOPS])),
    ),
    st.text(max_size=80),
    st.booleans(),
)
def test_whatever_came_there_is_a_verdict_and_only_a_whole_run_passes(
    values: dict[str, bytes], console: str, timed_out: bool
) -> None:
    case = TrialCase(livepatch=Path("x.ko"), name="livepatch_x", parents=("dummy",))
    records = Records({(SCOPE, key): value for key, value in values.items()}, 0)
    guest_end = GuestEnd(console=console, status=0, timed_out=timed_out, limit_s=120)
    found = judge(SCOPE, case, records, guest_end, ())
    if not found.problems:
        assert "done" in values
        assert {one.object for one in found.not_live} <= {"dummy"}
        assert found.clean_log
        assert found.reverted
        assert found.reloaded


STAYS = replace(CASE, stays=True)
ARMED = {
    key: value
    for key, value in PASSED.items()
    if key == "objects.2" or not (key.endswith(".2") or key.startswith(("unload", "again")))
}
ARMED["log.armed"] = b"<6>[   20.0] the timer has fired\n"


def test_a_livepatch_that_stays_in_memory_is_loaded_once_and_what_it_armed_is_waited_for() -> None:
    found = verdict(ARMED, case=STAYS)
    assert found.problems == ()
    assert (found.reverted, found.reloaded, found.clean_log) == (True, False, True)
    assert codes(verdict(ARMED)) == ["trial-lost"]


def test_trouble_that_comes_after_it_was_disabled_is_its_own() -> None:
    assert codes(verdict(ARMED | {"log.armed": OOPS}, case=STAYS)) == ["trial-kernel-log"]


@pytest.mark.parametrize("lost", ["gone.1", "log.armed", "after.000"])
def test_a_missing_record_of_a_livepatch_that_stays_is_no_success(lost: str) -> None:
    assert verdict({key: value for key, value in ARMED.items() if key != lost}, case=STAYS).problems


LAMP = Expectation.of(Predicate(name="lamp.expect.sh", source="exit 1\n"))
LIT = {f"{phase}.000": f"{status}\n".encode() for phase, status in
       (("before", 1), ("during", 0), ("after", 1), ("again", 0))}  # fmt: skip


def test_a_predicate_that_sees_the_hole_come_and_go_passes() -> None:
    found = verdict(PASSED | LIT, case=replace(CASE, expectations=(LAMP,)))
    assert found.problems == ()
    assert found.reverted


@pytest.mark.parametrize("phase", ["before", "during", "after", "again"])
def test_a_predicate_passes_only_if_every_phase_has_its_answer(phase: str) -> None:
    whole = PASSED | LIT
    lacking = {key: value for key, value in whole.items() if key != f"{phase}.000"}
    assert codes(verdict(lacking, case=replace(CASE, expectations=(LAMP,)))) == ["trial-lost"]


@pytest.mark.parametrize("phase", ["before", "during"])
def test_a_predicate_that_is_late_on_a_busy_machine_is_tried_again(phase: str) -> None:
    late = PASSED | LIT | {f"{phase}.000": b"124\n"}
    case = replace(CASE, expectations=(LAMP,))
    assert codes(verdict(late, case=case, slow=True)) == ["trial-slow"]
    assert codes(verdict(late, case=case)) == ["trial-predicate-broken" if phase == "before" else "trial-predicate"]
