# SPDX-License-Identifier: GPL-2.0-or-later
"""In any order of commands, and after any interruption, the record agrees with the kernel."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

from host_commands import Ran, enrol, run, run_json, save
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from simulated_host import NEVER, SimulatedHost, Task, make_livepatch

FUNCTIONS = ("meminfo_proc_show", "cmdline_proc_show", "loadavg_proc_show")
INTERRUPTS = st.sampled_from([None, None, None, "raise", "signal"])


def interrupt_at(number: int, how: str, *, after: bool) -> Callable[[str], None]:
    """Return a hook that interrupts at the act of that number, by an exception or by the real signal."""
    seen = 0

    def hook(_act: str) -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            if how == "raise":
                raise KeyboardInterrupt
            os.kill(os.getpid(), signal.SIGINT)

    return hook


class LifeCycle(RuleBasedStateMachine):
    """A host on which people do things; the model is only a counter for names."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.root = Path(self.directory.name)
        self.host = SimulatedHost(self.root / "host")
        self.host.tasks.append(Task(500, "worker"))
        self.host.boot()
        enrol(self.host)
        self.count = 0
        self.before: list[str] = []
        self.disabled: set[str] = set()

    def teardown(self) -> None:
        self.directory.cleanup()

    def act(self, how: str | None, number: int, *argv: str | Path) -> Ran:
        self.before = list(self.host.live)
        if how is not None:
            after = number % 2 == 0
            hook = interrupt_at(number // 2 + 1, how, after=after)
            if after:
                self.host.after = hook
            else:
                self.host.before = hook
        try:
            ran = run(self.host, *argv, "--deadline", "10")
        finally:
            self.host.before = self.host.after = lambda _act: None
        assert "Traceback" not in ran.err
        assert ran.status in {0, 6, 130}, ran
        assert ran.status != 130 or how is not None
        if argv[0] == "disable":
            self.disabled.add(str(argv[1]))
        if how is None and self.host.moving is None:
            assert set(self.host.modules) - set(self.host.live) <= self.disabled
        elif how is not None:
            self.disabled |= set(self.host.modules)  # an exception in the middle of unloading may leave one
        return ran

    @rule(
        functions=st.sets(st.sampled_from(FUNCTIONS), min_size=1).map(sorted),
        stack=st.booleans(),
        how=INTERRUPTS,
        number=st.integers(0, 12),
    )
    def load(self, functions: list[str], stack: bool, how: str | None, number: int) -> None:
        self.count += 1
        live = self.host.store.record().set.series if not stack else ()
        series = [*(patch.digest for patch in live), f"{self.count:064x}"]
        made = make_livepatch(f"elp_{self.count}", functions=functions, replace=not stack, series=series)
        ran = self.act(how, number, "load", save(made, self.root / "files"))
        whole = [*self.before, f"elp_{self.count}"] if stack else [f"elp_{self.count}"]
        assert self.host.live in ([*self.before], whole)
        if ran.status == 0:
            assert self.host.live == whole

    @rule(
        verb=st.sampled_from(["enable", "disable", "unload"]),
        data=st.data(),
        how=INTERRUPTS,
        number=st.integers(0, 12),
    )
    @precondition(lambda self: self.count)
    def one(self, verb: str, data: st.DataObject, how: str | None, number: int) -> None:
        name = f"elp_{data.draw(st.integers(1, self.count))}"
        ran = self.act(how, number, verb, name)
        without = [one for one in self.before if one != name]
        allowed = [self.before, without] if verb != "enable" else [self.before, [*self.before, name], [name]]
        assert self.host.live in allowed
        if ran.status == 0:
            assert (name in self.host.live) == (verb == "enable")

    @rule(how=INTERRUPTS, number=st.integers(0, 12))
    def rollback(self, how: str | None, number: int) -> None:
        record = self.host.store.record()
        wanted = list(record.previous.names) if record.previous else None
        ran = self.act(how, number, "rollback")
        if ran.status == 0:
            assert self.host.live == wanted

    @rule(function=st.sampled_from(FUNCTIONS), seconds=st.sampled_from([2.0, 30.0, NEVER]))
    def stand(self, function: str, seconds: float) -> None:
        self.host.tasks[-1].function = function
        self.host.tasks[-1].leaves_at = self.host.time + seconds

    @rule()
    def leave(self) -> None:
        self.host.tasks[-1].leaves_at = 0.0
        self.host.pass_time(2)

    @rule(clean=st.booleans(), down=st.sampled_from([30.0, 3600.0]))
    def reboot(self, clean: bool, down: float) -> None:
        if clean:
            assert run(self.host, "boot", "--mark-clean").status == 0
        wanted = list(self.host.store.record().set.names)
        self.host.tasks[-1].leaves_at = 0.0
        self.host.boot(seconds_down=down)
        self.disabled.clear()
        ran = run(self.host, "boot")
        if clean or down > 600:
            assert ran.status == 0, ran
        if ran.status == 0:
            assert self.host.live == wanted
        else:
            assert "boot-skipped" in ran.err
            assert self.host.live == []
            assert run(self.host, "boot", "--clear-guard").status == 0
            assert self.host.live == wanted

    @invariant()
    def the_record_tells_what_is_live(self) -> None:
        record = self.host.store.record()
        if self.host.moving is None:
            assert list(record.set.names) == self.host.live
            assert record.boot_id.endswith(f"{self.host.boots:012d}") or not record.set.names

    @rule()
    def status_tells_what_is_live(self) -> None:
        ran = run_json(self.host, "status")
        assert ran.status in {0, 6}
        assert {row["name"] for row in ran.document["livepatches"] if row["state"] == "live"} == set(self.host.live)


LifeCycle.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
test_life_cycle = LifeCycle.TestCase
