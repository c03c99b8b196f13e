# SPDX-License-Identifier: GPL-2.0-or-later
"""Time that `elivepatch status` takes, from the start of its process to its end."""

from __future__ import annotations

import sys
from pathlib import Path

from host_commands import enrol, run, save
from simulated_host import SimulatedHost, make_livepatch

from elivepatch import process

LIMIT_S = 0.3
# The command as it is installed, but on a host below another root directory.
PROGRAM = """
import sys
from pathlib import Path
from elivepatch.client.host import machine
host = machine.Host(Path(sys.argv.pop(1)))
machine.this_machine = lambda: machine.Machine(host, None, machine.RealClock())
from elivepatch.client.cli import main
sys.exit(main())
"""


def test_status_of_a_host_with_livepatches_takes_less_than_300_ms(tmp_path: Path) -> None:
    host = SimulatedHost(tmp_path / "host")
    enrol(host)
    for number in range(5):
        made = make_livepatch(f"elp_{number}", series=[f"{number:064x}"], replace=number == 0)
        assert run(host, "load", save(made, host.root / "files"), "--json").status == 0
    command: list[str | Path] = [sys.executable, "-c", PROGRAM, host.root, "status"]
    runs = [process.run(command) for _ in range(5)]
    assert {ran.status for ran in runs} == {0}, runs[0].tail()
    assert "elp_4" in runs[0].text
    assert min(ran.seconds for ran in runs) < LIMIT_S
