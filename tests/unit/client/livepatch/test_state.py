# SPDX-License-Identifier: GPL-2.0-or-later
"""The store: for root alone, written atomically, and validated when it is read."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from host_commands import enrol, run, run_json, save
from hypothesis import given
from hypothesis import strategies as st
from simulated_host import BUILD_ID, RELEASE, SimulatedHost, make_livepatch

from elivepatch.client.livepatch.state import KEPT_SETS, Record
from elivepatch.model.errors import HostError
from elivepatch.model.kernel import BuildId

EMPTY = Record.empty(RELEASE, BUILD_ID, "boot")


@pytest.fixture
def host(tmp_path: Path) -> SimulatedHost:
    found = SimulatedHost(tmp_path)
    enrol(found)
    return found


def load(host: SimulatedHost, name: str = "elp_a", *, series: int = 1) -> None:
    made = make_livepatch(name, series=[f"{one:064x}" for one in range(series)])
    assert run(host, "load", save(made, host.root / "files")).status == 0


def test_everything_kept_is_for_root_alone(host: SimulatedHost) -> None:
    load(host)
    top = host.root / "var/lib/elivepatch"
    for path in (top, *top.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_a_directory_that_others_can_write_is_not_trusted(host: SimulatedHost) -> None:
    load(host)
    (host.root / "var/lib/elivepatch").chmod(0o777)
    assert run_json(host, "rollback").code == "state-exposed"


def test_a_record_is_read_back_as_it_was_written() -> None:
    entries = [make_livepatch("elp_a").entry, make_livepatch("elp_b", replace=False).entry]
    record = EMPTY.followed_by(entries, boot_id="boot", at="2026-11-21T03:00:00+00:00", reason="apply x")
    assert Record.from_dict(json.loads(json.dumps(record.as_dict()))) == record


def test_old_sets_are_forgotten_in_the_end_but_never_the_current_one() -> None:
    record = EMPTY
    for number in range(2 * KEPT_SETS):
        record = record.followed_by([make_livepatch(f"elp_{number}").entry], boot_id="boot", at="", reason="")
        assert record.set.names == (f"elp_{number}",)
    assert len(record.sets) == KEPT_SETS


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)
WRITTEN = EMPTY.followed_by([make_livepatch("elp_a").entry], boot_id="boot", at="", reason="").as_dict()


@given(st.sampled_from(sorted(WRITTEN)), JSON)
def test_any_damage_to_a_record_is_reported_and_never_a_crash(field: str, value: object) -> None:
    try:
        Record.from_dict({**WRITTEN, field: value})
    except HostError:
        return


@given(JSON)
def test_anything_else_in_the_place_of_a_record_is_reported(value: object) -> None:
    with pytest.raises(HostError):
        Record.from_dict(value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"{" * 100_000, b'{"schema": 2}'])
def test_a_damaged_state_file_is_reported_and_status_still_answers(host: SimulatedHost, content: bytes) -> None:
    load(host)
    (host.store.kernel_directory / "state.json").write_bytes(content)
    ran = run_json(host, "rollback")
    assert (ran.status, ran.code) == (6, "state-malformed")
    status = run_json(host, "status")
    assert status.status == 6
    assert status.document["livepatches"][0]["state"] == "live"


def test_a_record_of_a_newer_elivepatch_is_not_called_damaged(host: SimulatedHost) -> None:
    load(host)
    newer_schema(host.store.kernel_directory / "state.json")
    problem = run_json(host, "rollback").document["problem"]
    assert problem["message"].endswith("state.json was written by a newer elivepatch.")
    assert "do not remove" in problem["advice"]


@pytest.mark.parametrize("name", ["next.json", "guard.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"schema": 2}'])
def test_a_damaged_file_beside_it_is_named_and_status_still_shows_what_is_live(
    host: SimulatedHost, name: str, content: bytes
) -> None:
    load(host)
    file = host.store.kernel_directory / name
    file.write_bytes(content)
    ran = run_json(host, "rollback")
    assert ran.status == 0 or (ran.status, ran.code) == (6, "state-malformed")
    status = run_json(host, "status")
    if ran.status:
        assert (status.status, status.document["livepatches"][0]["state"]) == (6, "live")
        assert str(file) in ran.document["problem"]["message"]
        assert any(str(file) in text for text in status.document["attention"])


def test_a_record_copied_from_another_machine_is_reported(host: SimulatedHost) -> None:
    load(host)
    file = host.store.kernel_directory / "state.json"
    file.write_text(file.read_text().replace(BUILD_ID, "ab" * 20))
    assert run_json(host, "rollback").code == "state-malformed"


def test_a_livepatch_that_was_disabled_by_hand_is_reported(host: SimulatedHost) -> None:
    load(host)
    host.write(host.root / "sys/kernel/livepatch/elp_a/enabled", "0")
    host.pass_time(2)
    status = run_json(host, "status")
    assert status.status == 6
    assert status.document["record"]["missing"] == ["elp_a"]
    assert run_json(host, "rollback").code == "record-differs"
    assert run(host, "enable", "elp_a").status == 0
    assert run(host, "status").status == 0


def test_the_holder_of_the_lock_is_named_if_waiting_takes_too_long(host: SimulatedHost) -> None:
    load(host)
    lock = host.root / "var/lib/elivepatch/lock"
    with lock.open("r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        os.pwrite(held.fileno(), b"apply (pid 4711, since 2026-11-21T03:12:01+00:00)".ljust(200), 0)
        began = host.time
        ran = run_json(host, "rollback", "--wait", "7")
        assert 7 <= host.time - began < 9
    assert (ran.status, ran.code) == (6, "busy")
    assert "elivepatch apply (pid 4711, since 2026-11-21T03:12:01" in ran.document["problem"]["message"]
    assert run(host, "rollback").status == 0


def test_a_lock_that_is_let_go_in_time_is_waited_for(host: SimulatedHost) -> None:
    load(host)
    held = (host.root / "var/lib/elivepatch/lock").open("r+b")
    fcntl.flock(held, fcntl.LOCK_EX)
    host.before = lambda act: held.close() if act == "sleep" else None
    assert run(host, "rollback").status == 0


def test_the_history_names_the_change_its_user_and_its_end(host: SimulatedHost) -> None:
    load(host)
    run(host, "rollback")
    events = run_json(host, "history").document["events"]
    assert [event["action"] for event in events] == ["load elp_a.ko", "rollback"]
    assert events[0] | {"at": ""} == {
        "at": "",
        "action": "load elp_a.ko",
        "by": "1000",
        "before": [],
        "after": ["elp_a"],
        "transitions": [{"name": "elp_a", "ending": "done", "seconds": 0.0}],
    }


def test_a_cut_off_line_of_the_history_is_left_out(host: SimulatedHost) -> None:
    load(host)
    file = host.store.kernel_directory / "history.jsonl"
    file.write_bytes(file.read_bytes() + b'[]\n{"at": 5}\n' + b"[" * 100_000 + b'\n{"at": "2026')
    assert len(run_json(host, "history").document["events"]) == 1


def test_the_history_is_bounded(host: SimulatedHost) -> None:
    load(host)
    file = host.store.kernel_directory / "history.jsonl"
    file.write_bytes(file.read_bytes() * 20_000)
    run(host, "rollback")
    assert len(run_json(host, "history").document["events"]) == 1001


def test_files_that_no_record_names_any_more_are_removed(host: SimulatedHost) -> None:
    host.store.keep(b"left over", "ko")
    staged = host.store.kernel_directory / ".state.json.0123abcd"
    staged.parent.mkdir(parents=True)
    staged.write_bytes(b"{")
    load(host)
    assert not staged.exists()
    assert {path.suffix for path in (host.root / "var/lib/elivepatch/files").iterdir()} == {".ko", ".proof"}
    assert len(list((host.root / "var/lib/elivepatch/files").iterdir())) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def other_kernel(host: SimulatedHost, name: str) -> tuple[Path, Path]:
    """Record a livepatch for another kernel; return its state file and the kept module."""
    entry = make_livepatch(name).keep(host.store)
    build_id = BuildId("ab" * 20)
    record = Record.empty(RELEASE, build_id, "earlier").followed_by([entry], boot_id="earlier", at="", reason="load")
    state = host.root / f"var/lib/elivepatch/kernels/{build_id}/state.json"
    state.parent.mkdir(mode=0o700)
    state.write_text(json.dumps(record.as_dict()))
    return state, host.store.path_of(entry.digest, "ko")


def newer_schema(state: Path) -> None:
    state.write_text(json.dumps(json.loads(state.read_text()) | {"schema": 2}))


def cut_short(state: Path) -> None:
    state.write_bytes(state.read_bytes()[:100])


def is_directory(state: Path) -> None:
    state.unlink()
    state.mkdir()


@pytest.mark.parametrize("damage", [newer_schema, cut_short, is_directory])
def test_another_kernels_livepatches_are_kept_while_its_record_cannot_be_read(
    host: SimulatedHost, damage: Callable[[Path], None]
) -> None:
    load(host, "elp_a")
    state, module = other_kernel(host, "elp_other")
    load(host, "elp_b")
    assert module.exists()
    damage(state)
    load(host, "elp_c")
    assert module.exists()
    ran = run(host, "status")
    assert f"ATTENTION   {state}" in ran.out
    assert ran.status == 6
    found = run_json(host, "doctor").document["findings"]
    assert [one["code"] for one in found if str(state) in one["message"]] == ["record-unreadable"]


def test_a_user_without_rights_sees_what_is_live_but_not_the_record() -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o711)
        host = SimulatedHost(Path(directory))
        enrol(host)
        load(host)
        run_json(host, "status")  # imports what the command needs: the checkout may be closed to that user
        os.seteuid(65534)
        try:
            ran = run_json(host, "status")
        finally:
            os.seteuid(0)
    assert ran.status == 0
    assert ran.document["livepatches"][0]["name"] == "elp_a"
    assert ran.document["record"]["readable"] is False
