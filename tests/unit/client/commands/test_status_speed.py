# SPDX-License-Identifier: GPL-2.0-or-later
"""Processor time that `elivepatch status` takes: on an idle machine the time from its start to its end.

The time on the clock depends on what else the machine does.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from host_commands import enrol, run, save
from simulated_host import SimulatedHost, make_livepatch

from elivepatch import process

LIMIT_S = 0.3
# The command as it is installed, but on a host below another root directory.
PROGRAM = """
import resource
import sys
from pathlib import Path
from elivepatch.client.host import machine
host = machine.Host(Path(sys.argv.pop(1)))
machine.this_machine = lambda: machine.Machine(host, None, machine.RealClock())
from elivepatch.client.cli import main
sys.exit(main())
"""


def test_status_of_a_host_with_livepatches_takes_less_than_300_ms_of_the_processor(tmp_path: Path) -> None:
    host = SimulatedHost(tmp_path / "host")
    enrol(host)
    for number in range(5):
        made = make_livepatch(f"elp_{number}", series=[f"{number:064x}"], replace=number == 0)
        assert run(host, "load", save(made, host.root / "files"), "--json").status == 0
    command: list[str | Path] = [sys.executable, "-c", PROGRAM, host.root, "status"]
    assert min(processor_s(command) for _ in range(5)) < LIMIT_S


def processor_s(command: list[str | Path]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = process.run(command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ran.status == 0, ran.tail()
    assert "elp_4" in ran.text
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used > 0.02, "the time of the process is counted"
    return used
