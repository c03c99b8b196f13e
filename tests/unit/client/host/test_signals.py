# SPDX-License-Identifier: GPL-2.0-or-later
"""An interruption is an ending like every other: a code, a sentence, a status. And nothing waits for ever."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from host_commands import Ran, enrol, run, run_json, save
from simulated_host import SimulatedHost, Task, make_livepatch

from elivepatch import process
from elivepatch.client.host.signals import Signals
from elivepatch.client.server.timeout import time_limit
from elivepatch.model.errors import EnvironmentFault

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture
def host(tmp_path: Path) -> SimulatedHost:
    found = SimulatedHost(tmp_path)
    enrol(found)
    return found


def load(host: SimulatedHost, *options: str) -> Ran:
    return run_json(host, "load", save(make_livepatch("elp_a"), host.root / "files"), *options)


def send(number: signal.Signals, *, at: str) -> Callable[[str], None]:
    """Return a hook that sends this process a signal at the first act of that name."""
    sent = False

    def hook(act: str) -> None:
        nonlocal sent
        if act == at and not sent:
            sent = True
            os.kill(os.getpid(), number)

    return hook


@contextmanager
def ignoring(number: signal.Signals) -> Iterator[None]:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("at", ["load", "sleep"])
def test_with_json_an_interruption_prints_the_one_document_of_a_problem(
    host: SimulatedHost, number: signal.Signals, at: str
) -> None:
    host.tasks.append(Task(9, "reader", function="meminfo_proc_show", leaves_at=host.time + 20))
    host.before = send(number, at=at)
    ran = load(host)
    assert (ran.status, ran.code, host.live) == (130, "interrupted", [])
    assert "the kernel is unchanged" in ran.document["problem"]["excerpt"]


def test_an_interruption_that_comes_too_late_says_that_all_was_done(host: SimulatedHost) -> None:
    host.after = send(signal.SIGTERM, at="load")
    ran = load(host)
    assert (ran.status, host.live) == (130, ["elp_a"])
    assert "was completed" in ran.document["problem"]["excerpt"]


@pytest.mark.parametrize("number", SIGNALS)
def test_before_the_kernel_is_touched_every_signal_ends_a_command_in_words(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def interrupted(*_given: object, **_more: object) -> None:
        os.kill(os.getpid(), number)

    monkeypatch.setattr("elivepatch.client.livepatch.install.preflight", interrupted)
    ran = run(host, "load", save(make_livepatch("elp_a"), host.root / "files"))
    assert ran.status == 130
    assert "error: The command was interrupted. [interrupted]" in ran.err
    assert "elivepatch status" in ran.err
    assert host.loads == 0


def test_what_nohup_has_a_command_ignore_is_ignored(host: SimulatedHost) -> None:
    host.before = send(signal.SIGHUP, at="load")
    with ignoring(signal.SIGHUP):
        assert load(host).status == 0
    assert host.live == ["elp_a"]


def test_a_command_leaves_the_handlers_of_signals_as_they_were(host: SimulatedHost) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    load(host)
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.parametrize("number", SIGNALS)
def test_an_interruption_of_the_start_waits_until_it_can_be_reported(number: signal.Signals) -> None:
    with Signals(process_ends=False) as signals:
        os.kill(os.getpid(), number)
        with pytest.raises(KeyboardInterrupt):
            signals.begin()


def test_a_process_that_has_printed_everything_ends_with_its_own_status() -> None:
    code = (
        "import os, signal, sys\n"
        "from elivepatch.client.cli import main\n"
        "sys.argv = ['elivepatch', '--nothing', '--json']\n"
        "status = main()\n"
        "for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):\n"
        "    os.kill(os.getpid(), number)\n"
        "sys.exit(status)\n"
    )
    ended = process.run([sys.executable, "-c", code])
    assert ended.status == 2, ended.tail()


def test_an_error_in_the_command_line_has_the_requested_form(host: SimulatedHost) -> None:
    assert run_json(host, "apply").code == "usage"


class TestTimeLimit:
    def test_what_takes_too_long_ends_and_says_what_is_left_at_the_server(self) -> None:
        def wait() -> None:
            with time_limit(0.05, unchanged="; nothing happened") as waiting:
                waiting.job = "00000000000000ab"
                time.sleep(5)

        with pytest.raises(EnvironmentFault) as caught:
            wait()
        problem = caught.value.problem
        assert problem.code == "limit-reached"
        assert problem.message == "The server was not done within 0.05 s; nothing happened."
        assert "`elivepatch cancel 00000000000000ab`" in problem.advice

    def test_without_a_job_nothing_is_reported_as_left(self) -> None:
        with pytest.raises(EnvironmentFault) as caught, time_limit(0.05):
            time.sleep(5)
        assert caught.value.problem.advice.startswith("The server has no job of this command")

    def test_what_is_done_in_time_is_left_alone(self) -> None:
        before = signal.getsignal(signal.SIGALRM)
        with time_limit(30):
            pass
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
        assert signal.getsignal(signal.SIGALRM) is before

    def test_of_two_limits_the_earlier_one_counts(self) -> None:
        with pytest.raises(EnvironmentFault, match=r"within 0\.05 s"), time_limit(0.05), time_limit(30):
            time.sleep(5)
        with pytest.raises(EnvironmentFault, match=r"within 0\.05 s"), time_limit(30), time_limit(0.05):
            time.sleep(5)

    def test_after_an_inner_limit_the_outer_one_goes_on(self) -> None:
        def wait() -> None:
            with time_limit(0.2):
                with time_limit(0.1):
                    pass
                time.sleep(5)

        with pytest.raises(EnvironmentFault, match=r"within 0\.2 s"):
            wait()
