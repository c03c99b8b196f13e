# SPDX-License-Identifier: GPL-2.0-or-later
"""Locks between processes: one holder at a time, its name for the others, free again once it is gone."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from deadline import wait_until

from elivepatch.files.lock import Locked, exclusive_lock, made_once
from elivepatch.model.progress import Event
from elivepatch.process import Cancellation, Completed, run

HOLD = """
import sys, time
from pathlib import Path
from elivepatch.files.lock import exclusive_lock
with exclusive_lock(Path(sys.argv[1]), holder=sys.argv[2]):
    Path(sys.argv[3]).touch()
    time.sleep(60)
"""


@contextmanager
def another_process(lock: Path, held: Path, *, holder: str = "") -> Iterator[Cancellation]:
    """Let a process of its own hold the lock; yield what kills it."""
    cancellation, done = Cancellation.new(), list[Completed]()

    def hold() -> None:
        done.append(run([sys.executable, "-c", HOLD, lock, holder, held], cancellation=cancellation))

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        wait_until(lambda: held.exists() or done)
        assert not done, done[0].tail()
        yield cancellation
    finally:
        cancellation.event.set()
        thread.join()


def take(path: Path) -> str:
    """Return `taken`, or what the holder says of itself."""
    try:
        with exclusive_lock(path):
            return "taken"
    except Locked as locked:
        return locked.holder


@pytest.mark.parametrize("holder", ["elivepatch apply, process 12", ""])
def test_a_second_process_learns_who_holds_the_lock(tmp_path: Path, holder: str) -> None:
    lock = tmp_path / "lock"
    with another_process(lock, tmp_path / "held", holder=holder):
        assert take(lock) == holder


def test_a_lock_ends_with_the_process_that_holds_it(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with another_process(lock, tmp_path / "held", holder="one that is killed") as kill:
        assert take(lock) == "one that is killed"
        kill.event.set()
        with exclusive_lock(lock, wait_s=30):
            pass


def test_a_lock_is_free_again_after_its_block(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with exclusive_lock(lock, holder="the first"):
        assert take(lock) == "the first"
    assert take(lock) == "taken"


def test_a_lock_is_free_again_after_an_error_in_its_block(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with pytest.raises(ZeroDivisionError), exclusive_lock(lock):
        raise ZeroDivisionError
    assert take(lock) == "taken"


def test_the_text_of_an_earlier_holder_is_not_taken_for_that_of_a_later_one(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with exclusive_lock(lock, holder="an earlier one"):
        pass
    with exclusive_lock(lock):
        assert take(lock) == ""


def test_a_long_text_of_a_holder_is_cut(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with exclusive_lock(lock, holder="x" * 1000):
        assert take(lock) == "x" * 200


def test_who_waits_gives_up_at_the_deadline_and_not_before(tmp_path: Path) -> None:
    lock, now, slept = tmp_path / "lock", [100.0], list[float]()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    with exclusive_lock(lock, holder="one that stays"):
        with (
            pytest.raises(Locked, match="one that stays"),
            exclusive_lock(lock, wait_s=1.0, monotonic=lambda: now[0], sleep=sleep),
        ):
            pass
        assert sum(slept) == pytest.approx(1.0)
    assert take(lock) == "taken"


def test_a_lock_that_comes_free_while_one_waits_is_taken(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    first = ExitStack()
    first.enter_context(exclusive_lock(lock))
    with exclusive_lock(lock, wait_s=10, sleep=lambda _seconds: first.close()):
        assert take(lock) == ""


def test_a_directory_can_be_locked_and_keeps_no_text(tmp_path: Path) -> None:
    with another_process(tmp_path, tmp_path / "held", holder="nobody reads this"):
        assert take(tmp_path) == ""
    assert take(tmp_path) == "taken"
    assert [path.name for path in tmp_path.iterdir()] == ["held"]


def test_a_symbolic_link_in_the_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("content")
    (tmp_path / "lock").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic link"), exclusive_lock(tmp_path / "lock", holder="one that destroys"):
        pass
    assert victim.read_text() == "content"


def test_a_lock_file_is_its_owners_alone_unless_another_mode_is_asked_for(tmp_path: Path) -> None:
    with exclusive_lock(tmp_path / "own"), exclusive_lock(tmp_path / "shared", mode=0o644):
        modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("own", "shared")]
    assert modes == [0o600, 0o644]


def test_of_two_that_make_the_same_thing_the_second_waits_and_reports_it(tmp_path: Path) -> None:
    lock, thing, events = tmp_path / "caches" / "lock", tmp_path / "thing", list[Event]()
    seen = list[bool]()

    def second() -> None:
        with made_once(lock, progress=events.append, waiting_for="the toolchain"):
            seen.append(thing.exists())

    with made_once(lock):
        thread = threading.Thread(target=second)
        thread.start()
        wait_until(lambda: events)
        thing.touch()
    thread.join()
    assert seen == [True]
    assert [event.message for event in events] == ["another process is busy with the toolchain; waiting for it"]
