# SPDX-License-Identifier: GPL-2.0-or-later
"""Units of systemd have no more rights than their programs need; systemd's own figure holds that (0 best, 10 worst).

These figures are read from the files. No test here starts a unit.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from elivepatch.process import run

UNITS = Path(__file__).parents[3] / "packaging/systemd"
# Tenths. Builds need other users, mounts and namespaces; a host needs modules, /sys and the stacks of tasks.
EXPOSURE = {"server": 58, "worker": 58, "auto": 48, "boot": 39, "guard": 20}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("name", EXPOSURE)
def test_a_unit_has_no_more_rights_than_it_needs(name: str) -> None:
    file = UNITS / f"elivepatch-{name}.service"
    done = run(["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE[name]}", "--no-pager", file])
    assert done.ok, done.tail(3)


def test_every_unit_has_its_figure() -> None:
    assert {file.stem.removeprefix("elivepatch-") for file in UNITS.glob("*.service")} == EXPOSURE.keys()


@pytest.mark.parametrize("name", ["server", "worker"])
@pytest.mark.parametrize("setting", ["ProtectKernelTunables", "ProtectKernelLogs", "ProtectProc", "ProcSubset"])
def test_no_unit_of_builds_hides_a_part_of_proc(name: str, setting: str) -> None:
    # A user namespace may mount no /proc then, and every sandbox would fail.
    lines = (UNITS / f"elivepatch-{name}.service").read_text().splitlines()
    assert not [line for line in lines if line.startswith(f"{setting}=")]
