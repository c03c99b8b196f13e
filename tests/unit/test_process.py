# SPDX-License-Identifier: GPL-2.0-or-later
"""The one door to other programs: limits hold, nothing is left running, nothing of ours leaks in."""

from __future__ import annotations

import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from deadline import wait_until

from elivepatch import process
from elivepatch.model.errors import EnvironmentFault
from elivepatch.process import Cancellation, Completed, PipedProcess, run


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def test_output_and_errors_are_kept_apart() -> None:
    done = run(["sh", "-c", "echo out; echo err >&2"])
    assert (done.ok, done.status, done.output, done.log, done.text) == (True, 0, b"out\n", b"err\n", "out\n")


def test_a_failed_program_is_an_answer() -> None:
    done = run(["sh", "-c", "echo why >&2; exit 3"])
    assert (done.ok, done.status, done.timed_out) == (False, 3, False)
    with pytest.raises(EnvironmentFault) as caught:
        done.check("Reading")
    assert caught.value.problem.message == "Reading failed: sh ended with status 3."
    assert caught.value.problem.excerpt == "why"


def test_a_program_that_a_signal_ended_has_a_negative_status() -> None:
    assert run(["sh", "-c", "kill -9 $$"]).status == -9


def test_a_missing_program_is_named() -> None:
    with pytest.raises(EnvironmentFault) as caught:
        run(["no-such-program"])
    assert caught.value.problem.code == "program-missing"
    assert "no-such-program" in caught.value.problem.message


def test_a_file_that_is_no_program_is_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    with pytest.raises(EnvironmentFault):
        run([tmp_path / "text"])


def test_arguments_are_no_shell_code() -> None:
    assert run(["printf", "%s", "$(id); `id` && id"]).text == "$(id); `id` && id"


def test_the_environment_is_made_from_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "")
    monkeypatch.setenv("SECRET", "leaked")
    names = {line.partition("=")[0] for line in run(["env"], env={"MINE": "1"}).text.splitlines()}
    assert names == {"PATH", "LANG", "LC_ALL", "MINE"}


def test_programs_do_not_get_our_open_files(tmp_path: Path) -> None:
    with (tmp_path / "secret").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        listed = run(["sh", "-c", "ls /proc/self/fd"]).text.split()
        assert str(file.fileno()) not in listed
        given = run(["sh", "-c", "ls /proc/self/fd"], pass_fds=(file.fileno(),)).text.split()
        assert str(file.fileno()) in given


def test_standard_input_is_what_was_given_or_nothing(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("from a file")
    assert run(["cat"], stdin=b"from bytes").text == "from bytes"
    assert run(["cat"], stdin=tmp_path / "in").text == "from a file"
    assert run(["cat"]).text == ""


def test_the_working_directory_is_the_one_given(tmp_path: Path) -> None:
    assert run(["pwd"], cwd=tmp_path).text.strip() == str(tmp_path)
    assert run(["pwd"]).text.strip() == "/"


def test_a_program_that_runs_too_long_is_ended() -> None:
    started = time.monotonic()
    done = run(["sleep", "60"], timeout_s=0.3)
    assert done.timed_out
    assert not done.ok
    assert time.monotonic() - started < 5
    with pytest.raises(EnvironmentFault, match="exceeded its time limit"):
        done.check("Sleeping")


def test_a_program_that_ignores_the_polite_signal_is_ended_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_GRACE_S", 0.2)
    script = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    done = run([sys.executable, "-c", script], timeout_s=1.0)
    assert (done.timed_out, done.status) == (True, -9)


def test_grandchildren_end_with_the_limit() -> None:
    script = "(sleep 60 & echo $!; sleep 60) & echo $!; wait"
    done = run(["sh", "-c", script], timeout_s=0.5)
    pids = [int(word) for word in done.text.split()]
    assert len(pids) == 2
    wait_until(lambda: not any(alive(pid) for pid in pids))


def test_what_a_program_leaves_behind_ends_with_it() -> None:
    done = run(["sh", "-c", "sleep 60 & echo $!"])
    assert done.ok
    wait_until(lambda: not alive(int(done.text)))


def test_a_background_program_that_keeps_the_output_open_delays_nothing() -> None:
    started = time.monotonic()
    run(["sh", "-c", "sleep 60 & exit 0"])
    assert time.monotonic() - started < 5


def test_megabytes_of_output_arrive_whole() -> None:
    done = run(["sh", "-c", "head -c 20000000 /dev/zero; head -c 4000000 /dev/zero >&2"])
    assert (len(done.output), len(done.log), done.ok) == (20_000_000, 4_000_000, True)


def test_output_without_end_is_cut_and_no_success() -> None:
    done = run(["sh", "-c", "head -c 5000000 /dev/zero"], output_limit_bytes=1 << 20)
    assert (len(done.output), done.status, done.ok) == (1 << 20, 0, False)
    with pytest.raises(EnvironmentFault, match="printed more than is kept"):
        done.check("Printing")


def test_of_a_log_without_end_both_ends_are_kept() -> None:
    done = run(["sh", "-c", "{ echo first error; head -c 50000000 /dev/zero; echo last line; } >&2"])
    assert done.ok
    assert len(done.log) < 5 << 20
    assert done.log.startswith(b"first error\n")
    assert b"bytes are left out here" in done.log
    assert done.tail(1).endswith("last line")


def test_both_outputs_go_into_a_given_file(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        done = run(["sh", "-c", "echo out; echo err >&2"], log_to=log)
    assert (tmp_path / "log").read_text() == "out\nerr\n"
    assert (done.output, done.log) == (b"", b"")


def test_long_work_is_told_of_while_it_runs() -> None:
    ticks: list[float] = []
    run(["sleep", "0.6"], on_tick=ticks.append)
    assert 2 <= len(ticks) <= 10
    assert ticks == sorted(ticks)


def test_an_error_in_what_is_told_ends_the_program() -> None:
    class Stop(Exception):
        pass

    def stop(_seconds: float) -> None:
        raise Stop

    started = time.monotonic()
    with pytest.raises(Stop):
        run(["sleep", "60"], on_tick=stop)
    assert time.monotonic() - started < 5


def test_another_thread_can_end_a_program() -> None:
    cancellation = Cancellation.new()
    timer = threading.Timer(0.3, cancellation.event.set)
    timer.start()
    started = time.monotonic()
    done = run(["sh", "-c", "sleep 60"], cancellation=cancellation)
    timer.join()
    assert not done.ok
    assert time.monotonic() - started < 5


def test_a_job_that_was_cancelled_before_starts_nothing_long() -> None:
    cancellation = Cancellation.new()
    cancellation.event.set()
    started = time.monotonic()
    assert not run(["sleep", "60"], cancellation=cancellation).ok
    assert time.monotonic() - started < 5


def test_the_last_lines_are_those_of_the_error_output() -> None:
    done = Completed(
        argv=("x",), status=1, output=b"a\nb\n", log=b"c\nd\xff\n", seconds=0.0, timed_out=False
    )  # fmt: skip
    assert done.tail(3) == "b\nc\nd\ufffd"


def test_nothing_stays_open(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        run(["true"])
    with pytest.raises(EnvironmentFault):
        run(["no-such-program"])
    assert len(list(Path("/proc/self/fd").iterdir())) == before


ECHO = "import sys\nfor line in sys.stdin: print(line.upper(), end='', flush=True)\nsys.exit(3)"


def piped(code: str) -> PipedProcess:
    return PipedProcess([sys.executable, "-c", code], cwd="/", env={})


def test_a_program_beside_this_one_answers_line_by_line() -> None:
    other = piped(ECHO)
    assert other.status is None
    wait_until(lambda: other.resident_bytes() > 100_000)
    other.send(b"one\ntwo\n", timeout_s=5)
    assert other.receive(timeout_s=10, limit_bytes=100) == b"ONE\n"
    assert other.receive(timeout_s=10, limit_bytes=100) == b"TWO\n"
    assert other.receive(timeout_s=0.05, limit_bytes=100) is None
    assert other.end(grace_s=10) == 3, "it sees the end of its input before it is killed"
    assert other.resident_bytes() == 0


def test_a_line_of_megabytes_arrives_whole_and_one_without_end_is_refused() -> None:
    other = piped(ECHO)
    line = b"x" * 3_000_000 + b"\n"
    other.send(line, timeout_s=10)
    assert other.receive(timeout_s=10, limit_bytes=4_000_000) == line.upper()
    other.send(line, timeout_s=10)
    with pytest.raises(ValueError, match="more than 1000 bytes"):
        other.receive(timeout_s=10, limit_bytes=1000)
    other.end()


def test_the_end_of_a_program_beside_this_one_is_seen() -> None:
    other = piped("import os; os.kill(os.getpid(), 11)")
    assert other.receive(timeout_s=10, limit_bytes=100) == b""
    wait_until(lambda: other.status is not None)
    with pytest.raises(OSError):
        other.send(b"x", timeout_s=5)
    assert other.end(grace_s=10) == -11


def test_a_program_that_does_not_read_is_not_waited_for() -> None:
    other = piped("import time; time.sleep(60)")
    with pytest.raises(TimeoutError):
        other.send(b"x" * 1_000_000, timeout_s=0.2)
    started = time.monotonic()
    assert other.end() == -9
    assert time.monotonic() - started < 2


def test_a_program_beside_this_one_that_is_missing_is_named() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(EnvironmentFault, match="no-such-program"):
        PipedProcess(["no-such-program"], cwd="/", env={})
    assert len(list(Path("/proc/self/fd").iterdir())) == before


CHILD = """
import sys, time
from elivepatch.process import end_with_parent
end_with_parent(int(sys.argv[1]))
print(flush=True)
time.sleep(60)
"""
PARENT = f"""
import os, sys
from elivepatch.process import PipedProcess
child = PipedProcess([sys.executable, "-c", {CHILD!r}, str(os.getpid())], cwd="/", env={{}})
child.receive(timeout_s=20, limit_bytes=10)
print(child.pid, flush=True)
os.kill(os.getpid(), 9)
"""


def test_a_program_of_ours_ends_with_a_parent_that_is_killed() -> None:
    child = int(run([sys.executable, "-c", PARENT]).text)
    wait_until(lambda: not alive(child))


def test_what_a_program_prints_can_go_to_a_pipe_while_it_runs(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe, ThreadPoolExecutor(max_workers=1) as pool:
        with os.fdopen(writing, "wb") as printed:
            pending = pool.submit(
                run, ["sh", "-c", "echo first; echo remark >&2; sleep 60"], printed_to=printed, timeout_s=2
            )
            assert pipe.readline() == b"first\n"
            done = pending.result()
        assert pipe.read() == b""
    assert (done.output, done.log, done.timed_out) == (b"", b"remark\n", True)
